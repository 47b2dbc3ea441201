//! What a pool's rules change in prompts.

use prompt::{Body, ChatTemplate, Frontend, ModelText, Prompt, Rules, Shape};
use serde_json::{Value, json};

const SOURCE: &str = "{{ messages[0].content }}|{{ tools is none }}|{{ style }}|{{ enable_thinking }}";

fn render(rules: &Rules, shape: Shape, body: &Value) -> Result<String, &'static str> {
    let template = ChatTemplate::compile(&ModelText {
        chat_template: Some(SOURCE.to_owned()),
        rules: rules.clone(),
        ..ModelText::default()
    });
    let body = body.to_string();
    let read = Body::read(shape, body.as_bytes()).unwrap();
    match read.prompt(Some(&template.unwrap())).map_err(|error| error.reason())? {
        Prompt::Text { text, .. } => Ok(text.into_owned()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn defaults_of_variables_give_way_to_the_request() {
    let rules = Rules {
        default_chat_template_kwargs: serde_json::from_value(json!({"style": 1.0, "enable_thinking": false})).unwrap(),
        ..Rules::default()
    };
    let mut body = json!({"messages": [{"role": "user", "content": "x"}]});
    assert_eq!(render(&rules, Shape::Chat, &body).unwrap(), "x|True|1.0|False");
    body["reasoning_effort"] = json!("low");
    assert_eq!(render(&rules, Shape::Chat, &body).unwrap(), "x|True|1.0|True");
    body["chat_template_kwargs"] = json!({"style": "own"});
    assert_eq!(render(&rules, Shape::Chat, &body).unwrap(), "x|True|own|True");
}

#[test]
fn tools_that_are_not_to_be_used_are_in_the_prompt_or_not() {
    let chat = json!({"type": "function", "function": {"name": "f"}});
    let flat = json!({"type": "function", "name": "f"});
    let anthropic = json!({"name": "f", "input_schema": {"type": "object"}});
    let messages = json!([{"role": "user", "content": "x"}]);
    for excluded in [false, true] {
        let rules = Rules {
            exclude_tools_when_tool_choice_none: excluded,
            ..Rules::default()
        };
        for (shape, body) in [
            (
                Shape::Chat,
                json!({"messages": messages, "tools": [chat], "tool_choice": "none"}),
            ),
            (
                Shape::Responses,
                json!({"input": "x", "tools": [flat], "tool_choice": "none"}),
            ),
            (
                Shape::Messages,
                json!({"messages": messages, "tools": [anthropic], "tool_choice": {"type": "none"}}),
            ),
        ] {
            let expected = if excluded { "x|True||" } else { "x|False||" };
            assert_eq!(render(&rules, shape, &body).unwrap(), expected, "{shape:?}");
        }
        let auto = json!({"messages": messages, "tools": [chat], "tool_choice": "auto"});
        assert_eq!(render(&rules, Shape::Chat, &auto).unwrap(), "x|False||");
    }
}

#[test]
fn a_request_brings_its_template_where_it_may() {
    let trusting = Rules {
        trust_request_chat_template: true,
        ..Rules::default()
    };
    let body = |source: &str| json!({"messages": [{"role": "user", "content": "x"}], "chat_template": source});
    let own = "{% for m in messages %}<{{ m.content }}>{% endfor %}";
    assert_eq!(render(&trusting, Shape::Chat, &body(own)).unwrap(), "<x>");
    assert_eq!(
        render(&Rules::default(), Shape::Chat, &body(own)),
        Err("unsupported_field")
    );
    assert_eq!(
        render(&trusting, Shape::Chat, &body("{% for %}")),
        Err("template_error")
    );
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}";
    assert_eq!(render(&trusting, Shape::Chat, &body(endless)), Err("template_limit"));
    assert_eq!(
        render(&trusting, Shape::Chat, &body(&"x".repeat(200_000))),
        Err("template_limit")
    );
}

#[test]
fn many_templates_of_requests_are_each_themselves() {
    let template = ChatTemplate::compile(&ModelText {
        chat_template: Some(SOURCE.to_owned()),
        rules: Rules {
            trust_request_chat_template: true,
            ..Rules::default()
        },
        ..ModelText::default()
    });
    let template = template.unwrap();
    for number in (0..20).chain([3, 19, 3]) {
        let body = json!({"messages": [], "chat_template": format!("own {number}")}).to_string();
        let read = Body::read(Shape::Chat, body.as_bytes()).unwrap();
        match read.prompt(Some(&template)).unwrap() {
            Prompt::Text { text, .. } => assert_eq!(text, format!("own {number}")),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn where_images_come_first_nothing_stands_before_them() {
    let image = json!({"type": "image_url", "image_url": {"url": "x"}});
    let body = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    for (images_first, expected) in [(false, None), (true, Some("multimodal"))] {
        let rules = Rules {
            images_first,
            ..Rules::default()
        };
        let with_image = render(&rules, Shape::Chat, &body(json!([image])));
        assert_eq!(with_image.err(), expected);
        assert!(render(&rules, Shape::Chat, &body(json!("x"))).is_ok());
    }
}

/// As `PreTrainedTokenizerBase.get_chat_template` of `transformers`: no default, no prompt, unless there are tools.
#[test]
fn a_template_for_tools_alone_serves_requests_with_tools() {
    let template = ChatTemplate::compile(&ModelText {
        tool_use_template: Some("with tools: {{ messages[0].content }}".to_owned()),
        ..ModelText::default()
    });
    let template = template.unwrap();
    let prompt = |body: Value| {
        let body = body.to_string();
        let read = Body::read(Shape::Chat, body.as_bytes()).unwrap();
        match read.prompt(Some(&template)) {
            Ok(Prompt::Text { text, .. }) => Ok(text.into_owned()),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.reason()),
        }
    };
    let messages = json!([{"role": "user", "content": "x"}]);
    let tool = json!({"type": "function", "function": {"name": "f"}});
    assert_eq!(
        prompt(json!({"messages": messages, "tools": [tool]})),
        Ok("with tools: x".to_owned())
    );
    assert_eq!(prompt(json!({ "messages": messages })), Err("no_template"));
}

/// Texts need no template, but the rules: Dynamo's frontend adds no special tokens to them.
#[test]
fn without_a_template_texts_are_read_by_the_rules() {
    for (frontend, expected) in [(Frontend::Vllm, true), (Frontend::Dynamo, false)] {
        let template = ChatTemplate::compile(&ModelText {
            rules: Rules {
                frontend,
                ..Rules::default()
            },
            ..ModelText::default()
        });
        let template = template.unwrap();
        let read = |shape, body: &'static str| {
            let read = Body::read(shape, body.as_bytes()).unwrap();
            match read.prompt(Some(&template)) {
                Ok(Prompt::Text { add_special_tokens, .. }) => Ok(add_special_tokens),
                Ok(other) => panic!("{other:?}"),
                Err(error) => Err(error.reason()),
            }
        };
        assert_eq!(read(Shape::Completions, r#"{"prompt":"x"}"#), Ok(expected));
        let chat = r#"{"messages":[{"role":"user","content":"x"}]}"#;
        assert_eq!(read(Shape::Chat, chat), Err("no_template"));
    }
}
