//! What a directory says of a model that takes images: its template, and for the Qwen-VL family how images become tokens.
//!
//! Formats: `Qwen2VLImageProcessor` of `transformers` 5, which reads its settings from `image_processor` in
//! `processor_config.json`, or else from `preprocessor_config.json`.

use std::path::Path;

use prompt::ImageProcessor;
use serde_json::{Map, Value};
use tokenizer::Tokenizer;

use super::read;
use super::template::CONFIG;

/// `model_type` of models for which vLLM 0.32 repeats [`PLACEHOLDER`] in its place (`Qwen2VLProcessingInfo` and what is made
/// of it in `vllm/model_executor/models`).
const MODELS: [&str; 6] = [
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "qwen3_5",
    "qwen3_5_moe",
];
const PROCESSORS: [&str; 2] = ["Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast"];
const PLACEHOLDER: &str = "<|image_pad|>";

const PROCESSOR: &str = "processor_config.json";
const PREPROCESSOR: &str = "preprocessor_config.json";
const TEMPLATE: &str = "chat_template.json";

/// Pixels that a side of a token may have; models have some 30.
const MOST_SIDE: u64 = 1 << 10;

/// The template of a model with an image processor, if that has one of its own: vLLM 0.32 takes it for requests without
/// tools, and the tokenizer's for others (`resolve_chat_template` in `vllm/renderers/hf.py`).
pub(super) fn processor_template(directory: &Path) -> Result<Option<String>, String> {
    if ![PROCESSOR, PREPROCESSOR]
        .iter()
        .any(|file| directory.join(file).is_file())
    {
        return Ok(None);
    }
    match object(directory, TEMPLATE)?.map(|mut file| file.remove("chat_template")) {
        None => Ok(None),
        Some(Some(Value::String(source))) => Ok(Some(source)),
        Some(_) => Err(format!("{TEMPLATE}: `chat_template` is no text")),
    }
}

/// How images become tokens. `None`: it is none of the models that are known.
pub(super) fn processor(
    directory: &Path,
    model_type: Option<&str>,
    tokenizer: Option<&Tokenizer>,
) -> Result<Option<ImageProcessor>, String> {
    let (Some(tokenizer), true) = (tokenizer, model_type.is_some_and(|model| MODELS.contains(&model))) else {
        return Ok(None);
    };
    let Some((file, settings)) = settings(directory)? else {
        return Ok(None);
    };
    let kind = settings.get("image_processor_type").and_then(Value::as_str);
    let resizes = settings
        .get("do_resize")
        .is_none_or(|resizes| *resizes == Value::Bool(true));
    if !kind.is_some_and(|kind| PROCESSORS.contains(&kind)) || !resizes {
        tracing::info!(directory = %directory.display(), file, kind, resizes, "images of this kind are not counted");
        return Ok(None);
    }
    let mut mistakes = Vec::new();
    let empty = Map::new();
    let size = settings.get("size").and_then(Value::as_object).unwrap_or(&empty);
    let mut number = |name: &str, found: Option<&Value>, most: u64| {
        let number = found
            .and_then(Value::as_u64)
            .filter(|number| (1..=most).contains(number));
        let number = number.and_then(|number| u32::try_from(number).ok());
        number.unwrap_or_else(|| {
            let found = found.unwrap_or(&Value::Null);
            mistakes.push(format!("`{name}` is {found}, must be a number from 1 to {most}"));
            1
        })
    };
    let set = |name: &str| settings.get(name).filter(|value| !value.is_null());
    let limit = |pixels, edge: &str| set(pixels).or_else(|| size.get(edge));
    let most = u64::from(u32::MAX);
    let processor = ImageProcessor {
        placeholder: PLACEHOLDER.to_owned(),
        placeholder_id: placeholder_id(directory, tokenizer)?,
        patch_size: number("patch_size", set("patch_size"), MOST_SIDE),
        merge_size: number("merge_size", set("merge_size"), MOST_SIDE),
        min_pixels: number(
            "min_pixels or size.shortest_edge",
            limit("min_pixels", "shortest_edge"),
            most,
        ),
        max_pixels: number(
            "max_pixels or size.longest_edge",
            limit("max_pixels", "longest_edge"),
            most,
        ),
    };
    let ImageProcessor {
        min_pixels, max_pixels, ..
    } = processor;
    if mistakes.is_empty() && min_pixels > max_pixels {
        mistakes.push(format!(
            "at least {min_pixels} and at most {max_pixels} pixels exclude each other"
        ));
    }
    match mistakes.is_empty() {
        true => Ok(Some(processor)),
        false => Err(format!("{file}: {}", mistakes.join("; "))),
    }
}

/// The file that settings are from, and those.
type Settings = (&'static str, Map<String, Value>);

/// The image processor's.
fn settings(directory: &Path) -> Result<Option<Settings>, String> {
    let nested = object(directory, PROCESSOR)?.and_then(|mut processor| match processor.remove("image_processor") {
        Some(Value::Object(settings)) => Some((PROCESSOR, settings)),
        _ => None,
    });
    match nested {
        Some(nested) => Ok(Some(nested)),
        None => Ok(object(directory, PREPROCESSOR)?.map(|settings| (PREPROCESSOR, settings))),
    }
}

fn object(directory: &Path, file: &str) -> Result<Option<Map<String, Value>>, String> {
    let path = directory.join(file);
    if !path.is_file() {
        return Ok(None);
    }
    let object = serde_json::from_slice(&read(&path)?);
    object.map(Some).map_err(|error| format!("{file}: {error}"))
}

/// The id that the tokenizer has for it, and the model's configuration, if that says so.
fn placeholder_id(directory: &Path, tokenizer: &Tokenizer) -> Result<u32, String> {
    let mut ids = Vec::new();
    let encoded = tokenizer.encode_into(PLACEHOLDER, false, &mut ids);
    encoded.map_err(|error| format!("tokenizer.json: {error}"))?;
    let of_model = object(directory, CONFIG)?.unwrap_or_default();
    let of_model = of_model.get("image_token_id").unwrap_or(&Value::Null);
    match *ids.as_slice() {
        [id] if of_model.is_null() || *of_model == id => Ok(id),
        _ => Err(format!(
            "{CONFIG}: `image_token_id` is {of_model}, but the tokenizer has {ids:?} for {PLACEHOLDER}"
        )),
    }
}
