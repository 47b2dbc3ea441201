//! A model that takes images.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::json;

use crate::artefacts::{model_dir, workspace_root};

/// As those of Qwen-VL do it: a placeholder where the image was.
const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}\
    {% else %}{% for p in m.content %}{% if p.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>\
    {% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Directory of a model of the Qwen-VL family, by Qwen3's tokenizer.
///
/// # Errors
/// When that is not there.
pub fn vision_model() -> Result<PathBuf> {
    let (from, to) = (model_dir()?, workspace_root().join("target/testbed/models/qwen_vl"));
    fs::create_dir_all(&to)?;
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(from.join(file), to.join(file)).context(file)?;
    }
    let processor = json!({"image_processor_type": "Qwen2VLImageProcessorFast", "patch_size": 14, "merge_size": 2,
        "min_pixels": 3_136, "max_pixels": 12_845_056});
    fs::write(to.join("chat_template.jinja"), TEMPLATE)?;
    fs::write(to.join("preprocessor_config.json"), processor.to_string())?;
    fs::write(
        to.join("config.json"),
        r#"{"model_type": "qwen2_5_vl", "image_token_id": 151655}"#,
    )?;
    Ok(to)
}
