//! Prompts as Dynamo's frontend 1.6.1 makes them. Its own frontend is the reference (`wasm-tests/tests/interop_prompts`);
//! here stands what it does, case by case.

use prompt::{Body, ChatTemplate, Frontend, Media, ModelText, Prompt, Rules, Shape};
use serde_json::{Value, json};

/// Shows the messages, but for keys that are not there.
const MESSAGES: &str = "{{ messages | tojson }}";
/// The same, by a template that knows reasoning and writes a list of it, too.
const REASONING: &str = "{{ messages | tojson }}{# reasoning_content #}";

fn compile(source: &str) -> ChatTemplate {
    compile_for(source, None)
}

fn compile_for(source: &str, reasoning_parser: Option<&str>) -> ChatTemplate {
    let text = ModelText {
        chat_template: Some(source.to_owned()),
        special_tokens: [("bos_token".to_owned(), "<s>".to_owned())].into(),
        rules: Rules {
            frontend: Frontend::Dynamo,
            exclude_tools_when_tool_choice_none: true,
            reasoning_parser: reasoning_parser.map(str::to_owned),
            ..Rules::default()
        },
        ..ModelText::default()
    };
    ChatTemplate::compile(&text).unwrap()
}

fn prompt(source: &str, shape: Shape, body: &Value) -> Result<(String, Option<Media>), &'static str> {
    prompt_of(&compile(source), shape, body)
}

fn prompt_of(template: &ChatTemplate, shape: Shape, body: &Value) -> Result<(String, Option<Media>), &'static str> {
    let body = body.to_string();
    let read = Body::read(shape, body.as_bytes()).unwrap();
    match read.prompt(Some(template)).map_err(|error| error.reason())? {
        Prompt::Text {
            text,
            add_special_tokens: false,
            media,
        } => Ok((text.into_owned(), media)),
        other => panic!("{other:?}"),
    }
}

fn text(source: &str, shape: Shape, body: &Value) -> String {
    prompt(source, shape, body).unwrap().0
}

/// What the template gets as messages.
fn messages(source: &str, shape: Shape, body: &Value) -> Value {
    serde_json::from_str(&text(source, shape, body)).unwrap()
}

fn user(content: impl Into<Value>) -> Value {
    json!({"role": "user", "content": content.into()})
}

fn part(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

#[test]
fn messages_keep_what_is_known_and_get_nothing_more() {
    let call = json!({"function": {"arguments": "{\"b\": 1.50}", "name": "f"}, "id": "c", "index": 0});
    let body = json!({"messages": [
        {"role": "user", "content": [part("a"), part("b")], "name": "n", "unknown": 1},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "r", "name": "dropped"},
        {"role": "assistant", "content": null, "tool_calls": [], "refusal": "no"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ]});
    let called = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": {"b": 1.5}}});
    let expected = json!([
        {"role": "user", "content": "a\nb", "name": "n"},
        {"role": "assistant", "tool_calls": [called]},
        {"role": "tool", "content": "r", "tool_call_id": "c"},
        {"role": "assistant", "refusal": "no", "tool_calls": []},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ]);
    assert_eq!(messages(MESSAGES, Shape::Chat, &body), expected);
}

#[test]
fn arguments_of_calls_are_a_text_for_templates_that_write_one() {
    let source = "{% for m in messages %}{% for call in m.tool_calls or [] %}{% if call.function.arguments is string %}\
                  {{ call.function.arguments }}{% else %}{{ call.function.arguments | tojson }}{% endif %}{% endfor %}{% endfor %}";
    let refusing = source.replace("{{ call.function.arguments }}", "{{ raise_exception('no text') }}");
    for (arguments, as_text, as_object) in [
        (json!("{\"a\":1e-7}"), "{\"a\":1e-7}", "{\"a\": 1e-07}"),
        (
            json!({"a": 1.0, "b": {}}),
            "{\"a\":1.0,\"b\":{}}",
            "{\"a\": 1.0, \"b\": {}}",
        ),
    ] {
        let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}});
        let body = json!({"messages": [{"role": "assistant", "content": "", "tool_calls": [call]}]});
        assert_eq!(text(source, Shape::Chat, &body), as_text);
        assert_eq!(text(&refusing, Shape::Chat, &body), as_object);
    }
}

#[test]
fn tools_get_what_their_schema_lacks() {
    let tools = |function: Value| {
        let body = json!({"messages": [], "tools": [{"type": "function", "function": function}]});
        text("{{ tools | tojson }}", Shape::Chat, &body)
    };
    for (function, expected) in [
        (json!({"name": "f"}), r#"{"name": "f", "description": ""}"#),
        (
            json!({"parameters": {}, "name": "f", "strict": true, "unknown": 1}),
            r#"{"name": "f", "parameters": {"type": "object", "properties": {}}, "strict": true, "description": ""}"#,
        ),
        (
            json!({"name": "f", "description": "d", "parameters": {"properties": {"x": {}}}}),
            r#"{"name": "f", "description": "d", "parameters": {"properties": {"x": {}}, "type": "object"}}"#,
        ),
    ] {
        let expected = format!("[{{\"type\": \"function\", \"function\": {expected}}}]");
        assert_eq!(tools(function), expected);
    }
}

#[test]
fn reasoning_stands_before_the_content_for_templates_that_do_not_know_it() {
    let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let segments = json!(["one", "", "two"]);
    let body = json!({"messages": [
        {"role": "assistant", "content": "a", "reasoning": "r"},
        {"role": "assistant", "content": [part("a")], "reasoning_content": "r"},
        {"role": "assistant", "reasoning_content": segments, "tool_calls": [call]},
        {"role": "assistant", "content": "a", "reasoning_content": ""},
    ]});
    let shown = |reasoning: &str| {
        let source = format!("{{% for m in messages %}}[{{{{ m.content }}}}|{reasoning}]{{% endfor %}}");
        text(&source, Shape::Chat, &body)
    };
    assert_eq!(
        shown("{{ m['reasoning' ~ '_content'] }}"),
        "[<think>r</think>a|][<think>r</think>a|][<think>one</think><think>two</think>|][a|]"
    );
    assert_eq!(shown("{{ m.reasoning_content }}"), "[a|r][a|r][|one\ntwo][a|]");
    let lists = "{% for s in m.reasoning_content %}({{ s }}){% endfor %}";
    let either = format!(
        "{{% if m.reasoning_content is string %}}{{{{ m.reasoning_content }}}}{{% else %}}{lists}{{% endif %}}"
    );
    assert_eq!(shown(&either), "[a|r][a|r][|(one)()(two)][a|]");
}

#[test]
fn every_way_to_ask_for_reasoning_is_said_in_all_others() {
    let source = "{{ thinking }} {{ enable_thinking }} {{ thinking_mode }} {{ reasoning_effort }}";
    for (asked, expected) in [
        (json!({}), "   "),
        (json!({"reasoning_effort": "low"}), "True True enabled low"),
        (json!({"reasoning_effort": "none"}), "False False disabled none"),
        (json!({"thinking": {"type": "disabled"}}), "False False disabled "),
        (
            json!({"thinking": {"type": "adaptive"}, "reasoning_effort": "low"}),
            "  adaptive low",
        ),
        (
            json!({"chat_template_kwargs": {"enable_thinking": false}, "reasoning_effort": "low"}),
            "False False disabled low",
        ),
        (
            json!({"chat_template_args": {"reasoning_effort": "high"}}),
            "True True enabled high",
        ),
        (
            json!({"chat_template_kwargs": {"thinking": true, "enable_thinking": false}}),
            "True True enabled ",
        ),
        (
            json!({"chat_template_kwargs": {"enable_thinking": "off"}}),
            "False False  ",
        ),
        (json!({"chat_template_kwargs": {"thinking_mode": "chat"}}), "  chat "),
    ] {
        let mut body = asked.clone();
        body["messages"] = json!([]);
        assert_eq!(text(source, Shape::Chat, &body), expected, "{asked}");
    }
}

#[test]
fn arguments_do_not_take_the_place_of_what_the_frontend_sets() {
    let kwargs = json!({"messages": 1, "tools": 2, "bos_token": 3, "add_generation_prompt": 4, "flag": 5});
    let body = json!({"messages": [], "chat_template_kwargs": kwargs, "add_generation_prompt": false});
    let source = "{{ messages }} {{ tools }} {{ bos_token }} {{ eos_token }} {{ add_generation_prompt }} {{ flag }}";
    assert_eq!(text(source, Shape::Chat, &body), "[] None <s> None False 5");
}

#[test]
fn responses() {
    let message = |role: &str, content: Value| json!({"type": "message", "role": role, "content": content});
    let output = |text: &str| json!({"type": "output_text", "text": text});
    let call = json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"});
    let thought = |text: &str| json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]});
    let input = |text: &str| json!({"type": "input_text", "text": text});
    let body = json!({"instructions": "i", "input": [
        message("developer", json!([input("d"), input("e")])),
        user("hi"),
        message("assistant", json!([output("one"), output("two")])),
        message("assistant", json!("three")),
        {"role": "assistant", "content": "skipped", "id": "m"},
        user(json!([input("alone")])),
        thought("t"), call, thought("u"), call,
        {"type": "function_call_output", "call_id": "c", "output": [input("a"), input("b")]},
        message("system", json!("late")),
        thought("v"),
    ]});
    let called = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": {}}});
    let expected = json!([
        {"role": "system", "content": "i\n\nde"},
        user("hi"),
        {"role": "assistant", "content": "onetwothree"},
        user("alone"),
        {"role": "assistant", "reasoning_content": ["t", "u", ""], "tool_calls": [called, called]},
        {"role": "tool", "content": "ab", "tool_call_id": "c"},
        {"role": "system", "content": "late"},
        {"role": "assistant", "content": "", "reasoning_content": "v"},
    ]);
    assert_eq!(messages(REASONING, Shape::Responses, &body), expected);
}

#[test]
fn anthropic_messages() {
    let blocks = |role: &str, blocks: Value| json!({"role": role, "content": blocks});
    let used = json!({"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1.0}});
    let thought = |text: &str| json!({"type": "thinking", "thinking": text, "signature": "s"});
    let result = json!({"type": "tool_result", "tool_use_id": "c", "content": [part("a"), part("b")]});
    let body = json!({
        "system": [part("x-anthropic-billing-header: v=1"), part("one"), part("two")],
        "messages": [
            blocks("user", json!([part("a"), part("b")])),
            blocks("assistant", json!([thought("t"), thought("u"), part("c"), used, thought("v"), part("d")])),
            blocks("user", json!([part("before"), result, part("after")])),
            blocks("assistant", json!([{"type": "redacted_thinking", "data": "x"}])),
            blocks("system", json!([part("late"), part("er")])),
        ],
    });
    let called = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1.0}}});
    let expected = json!([
        {"role": "system", "content": "one\ntwo"},
        user("ab"),
        {"role": "assistant", "content": "cd", "reasoning_content": ["t\nu", "v"], "tool_calls": [called]},
        user("before"),
        {"role": "tool", "content": "ab", "tool_call_id": "c"},
        user("after"),
        {"role": "assistant"},
        {"role": "system", "content": "late\ner"},
    ]);
    assert_eq!(messages(REASONING, Shape::Messages, &body), expected);
    let source = "{{ enable_thinking }} {{ thinking_mode }} {{ reasoning_effort }}";
    for (thinking, expected) in [("enabled", "True  "), ("disabled", "  ")] {
        let body = json!({"messages": [], "thinking": {"type": thinking}, "output_config": {"effort": "high"}});
        assert_eq!(text(source, Shape::Messages, &body), expected);
    }
}

#[test]
fn workers_with_a_parser_of_reasoning_think_unless_they_are_told_not_to() {
    let source = "{{ thinking }} {{ enable_thinking }} {{ truncate_history_thinking }}";
    let chat = json!({"messages": []});
    let told = |kind: &str| json!({"messages": [], "thinking": {"type": kind}});
    for (parser, shape, body, expected) in [
        ("qwen3", Shape::Messages, &chat, "True True False"),
        ("qwen3", Shape::Messages, &told("enabled"), "True True False"),
        ("qwen3", Shape::Messages, &told("disabled"), "  "),
        ("qwen3", Shape::Chat, &chat, "  "),
        ("kimi_k25", Shape::Chat, &chat, "True True "),
        ("kimi_k25", Shape::Chat, &told("disabled"), "False False "),
        ("kimi_k25", Shape::Messages, &told("disabled"), "True True "),
    ] {
        let rendered = prompt_of(&compile_for(source, Some(parser)), shape, body);
        assert_eq!(rendered, Ok((expected.to_owned(), None)), "{parser} {shape:?} {body}");
    }
}

#[test]
fn messages_are_made_to_fit_what_the_template_takes() {
    let strict = "{% set last = namespace(role='') %}{% for m in messages %}{% if m.role == 'system' and not loop.first %}\
                  {{ raise_exception('system') }}{% endif %}{% if m.role == 'user' and last.role == 'user' %}{{ raise_exception('user') }}\
                  {% endif %}{% set last.role = m.role %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    let loose = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    let of_parts = "{% for m in messages %}<{{ m.role }}>{% if m.content is not string %}{% for p in m.content %}({{ p.text }})\
                    {% endfor %}{% endif %}{% endfor %}";
    let system = |content: &str| json!({"role": "system", "content": content});
    let body =
        json!({"messages": [system("a"), system("b"), user("c"), system("d"), user(json!([part("e"), part("f")]))]});
    for (source, expected) in [
        (strict, "<system>a\n\nb<user>c\n\nd\ne\nf"),
        (loose, "<system>a<system>b<user>c<system>d<user>e\nf"),
        (of_parts, "<system>(a)<system>(b)<user>(c)<system>(d)<user>(e)(f)"),
    ] {
        assert_eq!(text(source, Shape::Chat, &body).replace("d\n\ne", "d\ne"), expected);
    }
}

#[test]
fn a_template_that_writes_the_date_is_known_before_the_time_is_told() {
    let source = "{{ strftime_now('%Y') }}{% for m in messages %}{% if m.role == 'system' and not loop.first %}\
                  {{ raise_exception('system') }}{% endif %}<{{ m.role }}>{% endfor %}";
    let body = json!({"messages": [user("a"), {"role": "system", "content": "b"}]});
    assert_eq!(prompt(source, Shape::Chat, &body), Err("template_error"));
    let template = compile(source);
    template.set_now(1_795_426_800);
    let rendered = prompt_of(&template, Shape::Chat, &body);
    assert_eq!(rendered, Ok(("2026<user><user>".to_owned(), None)));
}

#[test]
fn the_last_message_is_continued() {
    let source = "{% for m in messages %}<{{ m.content | trim }}>{% endfor %}{{ '!' if add_generation_prompt }}";
    let body = |last: Value| {
        json!({"messages": [user("hi"), {"role": "assistant", "content": last}], "continue_final_message": true,
            "add_generation_prompt": false})
    };
    for (last, expected) in [
        (json!("so "), Ok("<hi><so")),
        (json!([part("one"), part("two")]), Ok("<hi><one\ntwo")),
        (json!(""), Err("template_refused")),
    ] {
        let made = prompt(source, Shape::Chat, &body(last));
        assert_eq!(made.as_ref().map(|(text, _)| &**text).map_err(|why| *why), expected);
    }
}

#[test]
fn nul_is_left_out() {
    let body = json!({"messages": [user("a\u{0}b")]});
    assert_eq!(text("{{ messages[0].content }}", Shape::Chat, &body), "ab");
    let body = json!({"prompt": "a\u{0}b"});
    assert_eq!(text("", Shape::Completions, &body), "ab");
}

#[test]
fn what_stands_before_an_image_is_known() {
    let source = "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{{ p.text or '|' ~ p.type ~ '|' }}{% endfor %}{% endfor %}";
    let image = json!({"type": "image_url", "image_url": {"url": "x"}});
    let of = |parts: Value| json!({"messages": [user(parts)]});
    let (shown, media) = prompt(source, Shape::Chat, &of(json!([part("look"), image, part("what")]))).unwrap();
    assert_eq!(shown, "<user>look|image|what");
    assert_eq!(
        media,
        Some(Media {
            count: 1,
            before: "<user>look".len(),
            images: Vec::new(),
        })
    );
    let left_out = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}";
    assert_eq!(
        prompt(left_out, Shape::Chat, &of(json!([part("look"), image]))),
        Err("multimodal")
    );
}

#[test]
fn values_are_printed_as_in_minijinja_2() {
    let value = json!([1, 1.0, 1e16, null, true, "it's \u{1}\n", {"k": []}]);
    let body = json!({"messages": [], "chat_template_kwargs": {"v": value, "f": 1e16}});
    for (source, expected) in [
        ("{{ v }}", r#"[1, 1.0, 1e16, None, True, "it's \u{1}\n", {"k": []}]"#),
        (
            "{{ v | string | length }} {{ none | length }} {{ nope | tojson }}",
            "53 0 null",
        ),
        (
            "{{ f }} {{ f | tojson }} {{ [f] | tojson(sort_keys=true) }}",
            "1e+16 1e+16 [1e+16]",
        ),
        ("{{ [1] | tojson(indent=1) }}", "[\n 1\n]"),
        (
            "{{ 'x' is sequence }} {{ v is sequence }} {{ true is number }}",
            "False True False",
        ),
        (
            "{{ '{\"a\": [1]}' | fromjson }} {{ '<\\'>' | e }}",
            "{\"a\": [1]} &lt;&#x27;&gt;",
        ),
    ] {
        assert_eq!(text(source, Shape::Chat, &body), expected, "{source}");
    }
}

#[test]
fn what_dynamo_refuses_or_is_not_known_gives_no_prompt() {
    let reason = |shape, body: Value| prompt(MESSAGES, shape, &body).map(drop);
    for (body, expected) in [
        (json!({"messages": [], "documents": []}), "unsupported_field"),
        (json!({"messages": [], "chat_template": "x"}), "unsupported_field"),
        (json!({"messages": [{"role": "user"}]}), "bad_field"),
        (json!({"messages": [{"role": "critic", "content": "x"}]}), "bad_field"),
        (json!({"messages": [user(json!([{"type": "file"}]))]}), "multimodal"),
        (
            json!({"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}]}),
            "unsupported_field",
        ),
    ] {
        assert_eq!(reason(Shape::Chat, body.clone()), Err(expected), "{body}");
    }
    for (body, expected) in [
        (json!({"input": "x", "previous_response_id": "r"}), "unsupported_field"),
        (
            json!({"input": "x", "tools": [{"type": "namespace", "name": "n", "tools": []}]}),
            "unsupported_field",
        ),
        (json!({"input": "x", "tools": [{"type": "web_search"}]}), "bad_field"),
    ] {
        assert_eq!(reason(Shape::Responses, body.clone()), Err(expected), "{body}");
    }
    assert_eq!(
        reason(Shape::Embeddings, json!({"messages": [user("x")]})),
        Err("unsupported_field")
    );
    assert_eq!(
        reason(Shape::Messages, json!({"messages": [], "tools": [{"name": "f"}]})),
        Err("bad_field")
    );
}
