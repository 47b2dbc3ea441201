use serde_json::json;

use super::*;
use crate::test_support::{CAPTURE, MODEL, token_ids};

fn input(request: Json) -> Result<RenderInput, String> {
    let prompt: ChatPrompt = serde_json::from_value(request).map_err(|error| error.to_string())?;
    render_input(prompt, None).map_err(|error| error.to_string())
}

fn flat(message: Json) -> Result<Json, String> {
    let input = input(json!({"messages": [message]}))?;
    Ok(input.messages.into_iter().next().map_or(Json::Null, Json::Object))
}

#[test]
fn content_becomes_one_string() {
    for (content, want) in [
        (json!("as is \n"), "as is \n"),
        (Json::Null, ""),
        (json!([]), ""),
        (
            json!([{"type": "text", "text": "a"}, {"type": "text", "text": ""}, {"type": "input_text", "text": "b"}]),
            "a\nb",
        ),
        (json!(["plain", {"type": "refusal", "refusal": "no"}]), "plain\nno"),
    ] {
        assert_eq!(
            flat(json!({"role": "user", "content": content})),
            Ok(json!({"role": "user", "content": want}))
        );
    }
    assert_eq!(
        flat(json!({"role": "user"})),
        Ok(json!({"role": "user", "content": ""}))
    );
}

#[test]
fn assistant_messages_keep_tool_calls_and_reasoning() {
    let message = json!({
        "role": "assistant", "content": null, "reasoning_content": "hm", "name": "bot", "refusal": "dropped",
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"b\": 1, \"a\": [2]}"}},
            {"function": {"name": "g", "arguments": ""}},
            {"function": {"name": "h", "arguments": {"x": 1}}},
        ],
    });
    let want = json!({
        "role": "assistant", "content": "",
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": [2]}}},
            {"function": {"name": "g", "arguments": {}}},
            {"function": {"name": "h", "arguments": {"x": 1}}},
        ],
        "reasoning": "hm", "reasoning_content": "hm", "name": "bot",
    });
    // As text, because the order of keys matters to templates.
    assert_eq!(flat(message).map(|json| json.to_string()), Ok(want.to_string()));
    let without = flat(json!({"role": "assistant", "content": "x", "tool_calls": []}));
    assert_eq!(without, Ok(json!({"role": "assistant", "content": "x"})));
}

#[test]
fn tools_are_dumped_as_pydantic_does() {
    let tools = json!([
        {"function": {"strict": true, "parameters": {"type": "object"}, "name": "f"}, "type": "function", "extra": 1},
        {"function": {"name": "g", "description": "d"}},
    ]);
    let want = r#"[{"type":"function","function":{"name":"f","description":null,"parameters":{"type":"object"},"strict":true}},{"type":"function","function":{"name":"g","description":"d","parameters":null}}]"#;
    let tools = input(json!({"messages": [], "tools": tools})).map(|input| Json::from(input.tools).to_string());
    assert_eq!(tools.as_deref(), Ok(want));
}

#[test]
fn images_stand_before_the_text_of_their_message() {
    let image = |url: &str| json!({"type": "image_url", "image_url": {"url": url}});
    let content = json!([{"type": "text", "text": "a"}, image("x"), {"type": "text", "text": "b"}, image("y")]);
    let input = input(json!({"messages": [{"role": "user", "content": content}]})).unwrap();
    let placeholder = "<|vision_start|><|image_pad|><|vision_end|>";
    assert_eq!(
        input.messages[0]["content"],
        format!("{placeholder}\n{placeholder}\na\nb")
    );
    let sent = ["x", "y"].map(|url| Sent::of_part(&image(url), None));
    assert_eq!(input.images, sent);
}

#[test]
fn refusals_name_the_message() {
    for (message, want) in [
        (json!({"content": "x"}), "messages[0]: `role` must be a string"),
        (
            json!({"role": "user", "content": 1}),
            "messages[0]: `content` must be a string, a list of parts or null",
        ),
        (
            json!({"role": "user", "content": [{"type": "input_audio"}]}),
            "messages[0]: unsupported content part of type \"input_audio\"",
        ),
        (
            json!({"role": "assistant", "tool_calls": [1]}),
            "messages[0]: a tool call must be an object with a `function` object",
        ),
        (
            json!({"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}),
            "messages[0]: the arguments of a tool call are not JSON: EOF while parsing an object at line 1 column 1",
        ),
    ] {
        assert_eq!(flat(message), Err(want.to_owned()));
    }
}

/// The capture has the token ids but not the messages; its requests are single user messages, so the text between the
/// template's own tokens is the message.
#[test]
fn prompts_have_the_tokens_that_vllm_saw() {
    const HEAD: usize = 3; // <|im_start|> user \n
    const TAIL: usize = 5; // <|im_end|> \n <|im_start|> assistant \n
    for request in CAPTURE.iter() {
        let want = token_ids(&request["token_ids"]);
        let content = MODEL.pieces(&want[HEAD..want.len() - TAIL]).expect("decodes").concat();
        let input = input(json!({"messages": [{"role": "user", "content": content}]})).expect("flattens");
        let text = MODEL
            .template
            .as_ref()
            .expect("template")
            .render(input)
            .expect("renders");
        assert_eq!(MODEL.encode(&text, false).expect("encodes"), want);
    }
}
