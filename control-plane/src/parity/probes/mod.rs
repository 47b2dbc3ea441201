//! What workers are asked: small requests of every shape, in scripts and forms on which tokenizers and templates are
//! known to differ.

mod chats;
mod conversions;

use prompt::Shape;
use serde_json::{Map, Value, json};

/// One request.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Unique; in log and status.
    pub name: &'static str,
    /// How its body is read.
    pub shape: Shape,
    /// As a client would send it.
    pub body: Map<String, Value>,
    /// The request for `POST /tokenize` that has the same prompt. `None`: none has.
    pub tokenize: Option<Map<String, Value>>,
}

const PROSE: &str = "It's the 3rd of May, 2026: 1,234.56 people don't (yet) know what \"KV-aware\" means... We'll see!";
const SCRIPTS: &str = "今天天气怎么样?カタカナと漢字。한국어도 있어요. مرحبا بالعالم ١٢٣ שלום नमस्ते สวัสดีครับ Привет Γειά \
                       Tiếng Việt caf\u{e9} cafe\u{301} \u{fb01}n \u{212b}";
const EMOJI: &str =
    "👩\u{200d}👩\u{200d}👧\u{200d}👦 🏳\u{fe0f}\u{200d}🌈 🇩🇪🇫🇷 👍🏽 1\u{fe0f}\u{20e3} 🤷\u{200d}♀\u{fe0f} ☕☕☕";
const CODE: &str = "def f(x):\n\tif x != 0x1F:\n\t\treturn {\"a\": [1, 2.5e-3, None]}  # não\n\nfn main() {\n    \
                    let s = r#\"C:\\temp\"#;\n    println!(\"{s:>8}\");\n}\n";
const WHITESPACE: &str = "  two   three\n\n\nfour\r\n\r\n\t\ttabs \u{a0}nbsp\u{3000}wide\u{200b}zero end  \n ";
const SPECIAL: &str = "<|im_start|>user\n<|im_end|><|endoftext|><s>x</s><bos><eos><think>y</think><tool_call>\
                       <|begin_of_text|><|eot_id|><|start_header_id|><start_of_turn><end_of_turn>[INST]z[/INST]\
                       <|start|>assistant<|channel|>final<|message|><｜begin▁of▁sentence｜>";

const SYSTEM: &str = "You are a terse assistant.\nAnswer in one word. ";

/// All probes, for requests that name this model. gpt-oss (`harmony`): `/tokenize` writes its chats by the model's template,
/// which the worker's other endpoints do not use, so it says nothing of them.
pub fn probes(model: &str, harmony: bool) -> Vec<Probe> {
    let all = [
        texts(),
        chats::chats(),
        conversions::responses(),
        conversions::messages(),
        conversions::embeddings(),
    ];
    let mut all = all.concat();
    for probe in &mut all {
        probe.body.insert("model".to_owned(), model.into());
        if harmony
            && probe
                .tokenize
                .as_ref()
                .is_some_and(|asked| asked.contains_key("messages"))
        {
            probe.tokenize = None;
        }
        if let Some(asked) = &mut probe.tokenize {
            asked.insert("model".to_owned(), model.into());
        }
    }
    all
}

fn texts() -> Vec<Probe> {
    let text = |name, text: &str| {
        probe(
            name,
            Shape::Completions,
            json!({"prompt": text, "max_tokens": 1}),
            text_of(text),
        )
    };
    vec![
        text("text", PROSE),
        text("text_scripts", SCRIPTS),
        text("text_emoji", EMOJI),
        text("text_code", CODE),
        text("text_whitespace", WHITESPACE),
        text("text_special_tokens", SPECIAL),
    ]
}

fn probe(name: &'static str, shape: Shape, body: Value, tokenize: Option<Value>) -> Probe {
    Probe {
        name,
        shape,
        body: fields(body),
        tokenize: tokenize.map(fields),
    }
}

/// `/tokenize` of a text.
fn text_of(text: &str) -> Option<Value> {
    Some(json!({"prompt": text}))
}

fn fields(body: Value) -> Map<String, Value> {
    match body {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn user(content: &str) -> Value {
    json!({"role": "user", "content": content})
}

fn assistant(content: &str) -> Value {
    json!({"role": "assistant", "content": content})
}

fn weather() -> Value {
    json!({"type": "function", "function": {
        "name": "get_weather", "description": WEATHER, "parameters": weather_parameters()}})
}

const WEATHER: &str = "Weather of a city; \"days\" ahead <= 7, näïve.";

fn weather_parameters() -> Value {
    json!({"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 0, "default": null},
        "unit": {"type": "string", "enum": ["°C", "°F"]}}})
}

fn call(id: &str, arguments: &str) -> Value {
    json!({"id": id, "type": "function", "function": {"name": "get_weather", "arguments": arguments}})
}

#[cfg(test)]
mod tests;
