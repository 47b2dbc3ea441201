//! Templates that come with requests.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use prompt::template::output_limit;
use prompt::{Body, ChatTemplate, ModelText, Prompt, Rules, Shape};
use serde_json::{Value, json};

fuzz_target!(|source: &str| {
    let mut request = request();
    request["chat_template"] = source.into();
    let requested = render(&TRUSTING, &request);
    // A model that comes with this template has the same prompt, as far as limits, which grow with the body, let it.
    let own = compile(Some(source)).and_then(|template| render(&template, &self::request()));
    if let (Some(requested), Some(own)) = (requested, own) {
        assert_eq!(requested, own);
    }
});

fn render(template: &ChatTemplate, request: &Value) -> Option<String> {
    let body = request.to_string();
    let read = Body::read(Shape::Chat, body.as_bytes()).expect("it is one");
    let Prompt::Text { text, .. } = read.prompt(Some(template)).ok()? else {
        panic!("a template gives a text");
    };
    assert!(text.len() <= output_limit(body.len()));
    Some(text.into_owned())
}

fn request() -> Value {
    json!({
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Wo \u{e9}ine 'Gabel'?"}]},
            {"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{\"what\": [1, 2.5, \"x\"]}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "<there>"},
            {"role": "user", "content": "Thanks"},
        ],
        "tools": [{"type": "function", "function": {"name": "find", "description": "d", "parameters": {"type": "object"}}}],
        "chat_template_kwargs": {"flag": true, "number": 7, "text": "abc", "list": [3, 1, 2], "map": {"b": 1, "a": null}},
    })
}

fn compile(source: Option<&str>) -> Option<ChatTemplate> {
    let text = ModelText {
        chat_template: Some(source.unwrap_or("{{ messages }}").to_owned()),
        rules: Rules {
            trust_request_chat_template: source.is_none(),
            ..Rules::default()
        },
        ..ModelText::default()
    };
    ChatTemplate::compile(&text).ok()
}

static TRUSTING: LazyLock<ChatTemplate> = LazyLock::new(|| compile(None).expect("it compiles"));
