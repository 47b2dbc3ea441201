//! Conversations of other shapes against vLLM's own conversion of them to chat messages.
//!
//! `data/vllm_0.32_conversions.jsonl` was made by vLLM 0.32.0's request models and converters
//! (`entrypoints/anthropic/serving.py`, `entrypoints/openai/responses/utils.py`) from bodies drawn at random: in each line
//! the shape, the body, and the chat request that vLLM makes of it; of Anthropic's also whether system messages had to
//! come first.

use prompt::{Body, ChatTemplate, ModelText, Prompt, PromptError, Shape};
use serde_json::{Value, json};

/// Everything that a template sees, in an order of its own.
const DUMP: &str = "{{ tools | default(none) | tojson(sort_keys=true) }}|{{ messages | tojson(sort_keys=true) }}|{{ add_generation_prompt }}|\
     {{ reasoning_effort }}|{{ enable_thinking }}|{{ flag }}";
const SYSTEM_FIRST: &str = "{% for m in messages %}{% if not loop.first and m.role == 'system' %}\
     {{ raise_exception('system first') }}{% endif %}{% endfor %}";

fn compile(source: &str) -> ChatTemplate {
    let text = ModelText {
        chat_template: Some(source.to_owned()),
        ..ModelText::default()
    };
    ChatTemplate::compile(&text).unwrap()
}

fn render(template: &ChatTemplate, shape: Shape, body: &str) -> Result<(String, bool), PromptError> {
    match Body::read(shape, body.as_bytes()).unwrap().prompt(Some(template))? {
        Prompt::Text {
            text,
            add_special_tokens,
            media: None,
        } => Ok((text.into_owned(), add_special_tokens)),
        other => panic!("{body}: {other:?}"),
    }
}

#[test]
fn conversations_are_vllms() {
    let (anywhere, first) = (compile(DUMP), compile(&format!("{SYSTEM_FIRST}{DUMP}")));
    let (mut compared, mut refused) = (0, 0);
    for line in include_str!("data/vllm_0.32_conversions.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let template = if case["system_first"] == true {
            &first
        } else {
            &anywhere
        };
        let shape = match case["shape"].as_str() {
            Some("messages") => Shape::Messages,
            Some("responses") => Shape::Responses,
            other => panic!("{other:?}"),
        };
        let mut chat = case["chat"].clone();
        let no_tools = chat["tools"] == json!([]);
        if no_tools {
            chat["tools"] = Value::Null;
        }
        let expected = render(template, Shape::Chat, &chat.to_string()).map(|(text, _)| match no_tools {
            true => text.replacen("null|", "[]|", 1),
            false => text,
        });
        let ours = render(template, shape, &case["body"].to_string());
        match (ours, expected) {
            (Ok((ours, add_special_tokens)), Ok(expected)) => {
                assert_eq!(ours, expected, "{line}");
                assert_eq!(add_special_tokens, shape == Shape::Responses);
                compared += 1;
            }
            // Exact or not at all.
            (Err(PromptError::UnsupportedField(_)), Ok(_)) => refused += 1,
            (ours, expected) => {
                assert_eq!(
                    ours.map(drop).map_err(|error| error.reason()),
                    expected.map(drop).map_err(|error| error.reason()),
                    "{line}"
                );
                refused += 1;
            }
        }
    }
    println!("{compared} compared, {refused} refused");
    assert!(compared > 9 * refused, "{compared} compared, {refused} refused");
}

#[test]
fn calls_keep_their_order_in_responses() {
    let template = compile("{{ messages[0].tool_calls | tojson }}");
    let body = r#"{"input":[{"type":"function_call","call_id":"c","name":"f","arguments":"{\"b\":1,\"a\":2}"}]}"#;
    assert_eq!(
        render(&template, Shape::Responses, body),
        Ok((
            r#"[{"id": "c", "function": {"name": "f", "arguments": {"b": 1, "a": 2}}, "type": "function"}]"#.to_owned(),
            true
        ))
    );
    let body = r#"{"messages":[{"role":"assistant","content":[{"type":"tool_use","id":"c","name":"f","input":{"b":1,"a":2}}]}]}"#;
    assert_eq!(
        render(&template, Shape::Messages, body),
        Ok((
            r#"[{"id": "c", "function": {"arguments": {"b": 1, "a": 2}, "name": "f"}, "type": "function"}]"#.to_owned(),
            false
        ))
    );
}

#[test]
fn what_cannot_be_exact_is_refused() {
    let template = compile(DUMP);
    let reason = |shape, body: Value| match Body::read(shape, body.to_string().as_bytes()) {
        Ok(read) => read.prompt(Some(&template)).map(drop).map_err(|error| error.reason()),
        Err(error) => Err(error.reason()),
    };
    let user = |blocks: Value| json!({"messages": [{"role": "user", "content": blocks}]});
    for (body, expected) in [
        (user(json!([{"type": "document"}])), "multimodal"),
        (
            user(json!([{"type": "tool_use", "name": "f", "input": {}}])),
            "unsupported_field",
        ),
        (user(json!([{"text": "x"}])), "bad_field"),
        (user(json!(7)), "bad_field"),
        (json!({"messages": [{"role": "tool", "content": "x"}]}), "bad_field"),
        (json!({"messages": [], "tools": [{"name": "f"}]}), "bad_field"),
        (
            json!({"messages": [{"role": "system", "content": [{"type": "tool_addition"}]}]}),
            "unsupported_field",
        ),
        (json!({"messages": "x"}), "bad_field"),
        (json!({"input": "x"}), "no_prompt"),
    ] {
        assert_eq!(reason(Shape::Messages, body.clone()), Err(expected), "{body}");
    }
    for (body, expected) in [
        (
            json!({"input": "x", "previous_response_id": "resp_1"}),
            "unsupported_field",
        ),
        (json!({"input": "x", "truncation": "auto"}), "unsupported_field"),
        (json!({"input": "x", "truncation": null}), "unsupported_field"),
        (json!({"input": "x", "prompt": {"id": "p"}}), "unsupported_field"),
        (
            json!({"input": "x", "tools": [{"type": "custom", "name": "f"}]}),
            "unsupported_field",
        ),
        (
            json!({"input": [{"type": "custom_tool_call", "call_id": "c"}]}),
            "unsupported_field",
        ),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}),
            "multimodal",
        ),
        (json!({"input": [{"type": "item_reference", "id": "x"}]}), "bad_field"),
        (
            json!({"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]}),
            "bad_field",
        ),
        (json!({"input": [{"role": "assistant", "content": []}]}), "bad_field"),
        (json!({"input": [1, 2]}), "bad_field"),
        (json!({"input": 7}), "bad_field"),
        (json!({"messages": []}), "no_prompt"),
    ] {
        assert_eq!(reason(Shape::Responses, body.clone()), Err(expected), "{body}");
    }
}

#[test]
fn embeddings() {
    let template = compile("{% for m in messages %}[{{ m.content }}]{% endfor %}{{ '>' if add_generation_prompt }}");
    let prompt = |body: Value| {
        let text = body.to_string();
        let read = Body::read(Shape::Embeddings, text.as_bytes()).unwrap();
        let shown = match read.prompt(Some(&template)) {
            Ok(Prompt::Text {
                text,
                add_special_tokens,
                media: None,
            }) => format!("{text} {add_special_tokens}"),
            Ok(other) => format!("{other:?}"),
            Err(error) => error.reason().to_owned(),
        };
        (shown, read.is_batch())
    };
    let conversation = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    for (body, expected, is_batch) in [
        (json!({"input": "x"}), "x true", false),
        (
            json!({"input": ["x", "y"], "add_special_tokens": false}),
            "x false",
            true,
        ),
        (json!({"input": [1, 2]}), "Tokens([1, 2])", false),
        (json!({"input": [[1, 2], [3]]}), "Tokens([1, 2])", true),
        (json!({"messages": conversation}), "[a][b] false", false),
        (json!({"input": conversation}), "[a][b] false", false),
        (
            json!({"messages": conversation, "add_generation_prompt": true}),
            "[a][b]> false",
            false,
        ),
        (json!({"messages": [conversation]}), "unsupported_field", false),
        (json!({"input": []}), "bad_field", false),
    ] {
        assert_eq!(prompt(body.clone()), (expected.to_owned(), is_batch), "{body}");
    }
}

#[test]
fn how_a_template_is_asked_not_to_think() {
    let body = r#"{"messages":[],"thinking":{"type":"disabled"},"output_config":{"effort":"high"}}"#;
    for (source, effort) in [
        ("{{ reasoning_effort }}", "none"),
        // Takes what it does not know for the highest.
        (
            "{{ reasoning_effort if reasoning_effort in ['low', 'high'] else 'max' }}",
            "low",
        ),
        (
            "{{ raise_exception('no') if reasoning_effort == 'none' else reasoning_effort }}",
            "low",
        ),
    ] {
        let rendered = render(&compile(source), Shape::Messages, body);
        assert_eq!(rendered, Ok((effort.to_owned(), false)), "{source}");
    }
}
