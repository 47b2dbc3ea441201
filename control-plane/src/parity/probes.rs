//! What workers are asked: one small request for each shape of prompt, in scripts and forms on which tokenizers and
//! templates are known to differ.

use prompt::Shape;
use serde_json::{Map, Value, json};

/// One request.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Unique; in log and status.
    pub name: &'static str,
    /// How its body is read.
    pub shape: Shape,
    /// Body of the completion request that it stands for. `/tokenize` knows the same fields.
    pub body: Map<String, Value>,
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

/// All probes, for requests that name this model.
pub fn probes(model: &str) -> Vec<Probe> {
    let text = |name, text: &str| Probe {
        name,
        shape: Shape::Completions,
        body: fields(json!({"model": model, "prompt": text})),
    };
    let chat = |name, mut body: Value| {
        body["model"] = model.into();
        Probe {
            name,
            shape: Shape::Chat,
            body: fields(body),
        }
    };
    let user = |content: &str| json!({"role": "user", "content": content});
    let system = json!({"role": "system", "content": "You are a terse assistant.\nAnswer in one word. "});
    let assistant = |content: &str| json!({"role": "assistant", "content": content});
    vec![
        text("text", PROSE),
        text("text_scripts", SCRIPTS),
        text("text_emoji", EMOJI),
        text("text_code", CODE),
        text("text_whitespace", WHITESPACE),
        text("text_special_tokens", SPECIAL),
        chat("chat", json!({"messages": [user(PROSE)]})),
        chat("chat_system", json!({"messages": [system, user(SCRIPTS)]})),
        chat(
            "chat_turns",
            json!({"messages": [user(" Hi \n"), assistant("\nHello!  "), user(EMOJI), assistant("<b>ok</b>"), user(CODE)]}),
        ),
        chat("chat_special_tokens", json!({"messages": [user(SPECIAL)]})),
        chat("chat_whitespace", json!({"messages": [system, user(WHITESPACE)]})),
        chat(
            "chat_parts",
            json!({"messages": [{"role": "user", "content": [
                {"type": "text", "text": "First part."}, {"type": "text", "text": " Second part. "}]}]}),
        ),
        chat(
            "chat_no_thinking",
            json!({"messages": [user("Think not.")], "chat_template_kwargs": {"enable_thinking": false}}),
        ),
        chat(
            "chat_continued",
            json!({"messages": [user("Count."), assistant("One, two")],
                   "add_generation_prompt": false, "continue_final_message": true}),
        ),
        chat(
            "chat_tools",
            json!({"messages": [system, user("Weather in Zürich?")], "tools": [weather()]}),
        ),
        chat(
            "chat_tool_calls",
            json!({"tools": [weather()], "messages": [
                user("Weather in Zürich and 北京?"),
                {"role": "assistant", "content": "", "tool_calls": [
                    call("call00001", "{\"city\": \"Zürich\", \"days\": 2, \"exact\": true}"),
                    call("call00002", "{\"city\":\"北京\",\"factor\":1.50}")]},
                {"role": "tool", "tool_call_id": "call00001", "content": "{\"temperature\": 3.5}"},
                {"role": "tool", "tool_call_id": "call00002", "content": "sunny"},
                user("Thanks <3")]}),
        ),
    ]
}

fn weather() -> Value {
    json!({"type": "function", "function": {
        "name": "get_weather",
        "description": "Weather of a city; \"days\" ahead <= 7, näïve.",
        "parameters": {"type": "object", "required": ["city"], "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "minimum": 0, "default": null},
            "unit": {"type": "string", "enum": ["°C", "°F"]}}}}})
}

fn call(id: &str, arguments: &str) -> Value {
    json!({"id": id, "type": "function", "function": {"name": "get_weather", "arguments": arguments}})
}

fn fields(body: Value) -> Map<String, Value> {
    match body {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
