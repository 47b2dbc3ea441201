use std::sync::atomic::{AtomicUsize, Ordering};

use prompt::ImageProcessor;
use serde_json::{Map, Value, json};

use super::*;

/// The artefact that filters get of a tokenizer file.
fn artefact(tokenizer: &Value) -> Result<Artefact, String> {
    let directory = std::env::temp_dir().join(format!("warmpath-layouts-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let loaded = load_tokenizer(&directory).map(|(_, artefact)| artefact);
    fs::remove_dir_all(&directory).unwrap();
    loaded
}

/// Makes another layout.
type Change = fn(&mut Value);

/// Files that say the same in the layouts of other years give the same artefact, byte by byte.
#[test]
fn layouts_of_tokenizer_json_do_not_matter() {
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let bytes = (0..256).filter(printable).chain(256..324).filter_map(char::from_u32);
    let tokens = bytes.map(String::from).chain(["ab", "Ġab"].map(str::to_owned));
    let vocab: Map<String, Value> = tokens.zip(0..).map(|(token, id)| (token, json!(id))).collect();
    let newest = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "decoder": null, "post_processor": null,
        "added_tokens": [{"id": 258, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocab, "merges": [["a", "b"], ["Ġ", "ab"]]}});
    let expected = artefact(&newest).unwrap();
    let changed = |change: Change| {
        let mut older = newest.clone();
        change(&mut older);
        artefact(&older)
    };
    let layouts: [(&str, Change); 4] = [
        ("merges as texts", |json| {
            json["model"]["merges"] = json!(["a b", "Ġ ab"])
        }),
        ("no type of the model", |json| {
            drop(json["model"].as_object_mut().unwrap().remove("type"))
        }),
        ("before use_regex", |json| {
            json["pre_tokenizer"].as_object_mut().unwrap().remove("use_regex");
        }),
        ("before byte_fallback and ignore_merges", |json| {
            for field in ["byte_fallback", "ignore_merges", "fuse_unk", "dropout"] {
                json["model"].as_object_mut().unwrap().remove(field);
            }
        }),
    ];
    for (layout, change) in layouts {
        assert_eq!(changed(change), Ok(expected.clone()), "{layout}");
    }
    // Not so if it says something else.
    let merged_otherwise = changed(|json| json["model"]["merges"] = json!(["a b"]));
    assert!(merged_otherwise.is_ok_and(|artefact| artefact != expected));
}

/// What a directory with these files says of images; `None`: there is no such file.
fn images_of(
    config: Value,
    preprocessor: Option<Value>,
    processor: Option<Value>,
) -> Result<Option<ImageProcessor>, String> {
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let bytes = (0..256).filter(printable).chain(256..324).filter_map(char::from_u32);
    let vocab: Map<String, Value> = bytes.zip(0..).map(|(byte, id)| (byte.to_string(), json!(id))).collect();
    let tokenizer = json!({"version": "2.0",
        "added_tokens": [{"id": 256, "content": "<|image_pad|>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "model": {"type": "BPE", "byte_level": true, "vocab": vocab, "merges": []}});
    let built = tokenizer::build(tokenizer.to_string().as_bytes()).unwrap();
    let tokenizer = Tokenizer::load(built).unwrap();
    static DIRECTORIES: AtomicUsize = AtomicUsize::new(0);
    let number = DIRECTORIES.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("warmpath-images-{}-{number}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let files = [
        (template::CONFIG, Some(&config)),
        ("preprocessor_config.json", preprocessor.as_ref()),
        ("processor_config.json", processor.as_ref()),
    ];
    for (file, content) in files {
        if let Some(content) = content {
            fs::write(directory.join(file), content.to_string()).unwrap();
        }
    }
    let found = images::processor(&directory, config["model_type"].as_str(), Some(&tokenizer));
    fs::remove_dir_all(&directory).unwrap();
    found
}

fn qwen_vl() -> Value {
    json!({"model_type": "qwen2_5_vl", "image_token_id": 256})
}

fn preprocessor() -> Value {
    json!({"image_processor_type": "Qwen2VLImageProcessorFast", "patch_size": 16, "merge_size": 2,
           "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216}})
}

fn expected(min_pixels: u32, max_pixels: u32) -> ImageProcessor {
    ImageProcessor {
        placeholder: "<|image_pad|>".to_owned(),
        placeholder_id: 256,
        patch_size: 16,
        merge_size: 2,
        min_pixels,
        max_pixels,
    }
}

#[test]
fn images_of_qwen_vl_are_known() {
    let found = images_of(qwen_vl(), Some(preprocessor()), None);
    assert_eq!(found, Ok(Some(expected(65_536, 16_777_216))));
    // The older names, which win.
    let mut older = preprocessor();
    older["min_pixels"] = json!(3_136);
    older["max_pixels"] = Value::Null;
    let found = images_of(
        qwen_vl(),
        Some(older),
        Some(json!({"processor_class": "Qwen2_5_VLProcessor"})),
    );
    assert_eq!(found, Ok(Some(expected(3_136, 16_777_216))));
    // The newer file, which wins.
    let mut newer = preprocessor();
    newer["size"]["shortest_edge"] = json!(1);
    let found = images_of(qwen_vl(), Some(preprocessor()), Some(json!({"image_processor": newer})));
    assert_eq!(found, Ok(Some(expected(1, 16_777_216))));
}

#[test]
fn images_of_other_models_are_not() {
    let with = |field: &str, value: Value| {
        let mut preprocessor = preprocessor();
        preprocessor[field] = value;
        Some(preprocessor)
    };
    for (config, preprocessor) in [
        (
            json!({"model_type": "gemma3", "image_token_id": 256}),
            Some(preprocessor()),
        ),
        (json!({}), Some(preprocessor())),
        (qwen_vl(), None),
        (qwen_vl(), with("image_processor_type", json!("Gemma3ImageProcessor"))),
        (qwen_vl(), with("image_processor_type", Value::Null)),
        (qwen_vl(), with("do_resize", json!(false))),
    ] {
        assert_eq!(images_of(config.clone(), preprocessor, None), Ok(None), "{config}");
    }
}

#[test]
fn mistakes_about_images_are_told_together() {
    let nonsense = json!({"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 0, "merge_size": "2",
                          "max_pixels": 5_000_000_000_u64});
    let expected = "preprocessor_config.json: `patch_size` is 0, must be a number from 1 to 1024; \
        `merge_size` is \"2\", must be a number from 1 to 1024; \
        `min_pixels or size.shortest_edge` is null, must be a number from 1 to 4294967295; \
        `max_pixels or size.longest_edge` is 5000000000, must be a number from 1 to 4294967295";
    assert_eq!(images_of(qwen_vl(), Some(nonsense), None), Err(expected.to_owned()));
    let mut crossed = preprocessor();
    crossed["size"]["longest_edge"] = json!(65_535);
    let expected = "preprocessor_config.json: at least 65536 and at most 65535 pixels exclude each other";
    assert_eq!(images_of(qwen_vl(), Some(crossed), None), Err(expected.to_owned()));
    let other = json!({"model_type": "qwen2_vl", "image_token_id": 7});
    let expected = "config.json: `image_token_id` is 7, but the tokenizer has [256] for <|image_pad|>";
    assert_eq!(images_of(other, Some(preprocessor()), None), Err(expected.to_owned()));
    let unsaid = json!({"model_type": "qwen2_vl"});
    assert!(images_of(unsaid, Some(preprocessor()), None).is_ok_and(|found| found.is_some()));
}
