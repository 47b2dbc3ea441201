//! Request bodies: what is read, what is refused and why.

use prompt::{Body, BodyError, ChatTemplate, Frontend, ModelText, Prompt, PromptError, Shape};
use proptest::prelude::*;

fn compile(source: &str) -> ChatTemplate {
    let text = ModelText {
        chat_template: Some(source.to_owned()),
        ..ModelText::default()
    };
    ChatTemplate::compile(&text).unwrap()
}

fn simple() -> ChatTemplate {
    compile("{% for m in messages %}[{{ m.role }}|{{ m.content }}]{% endfor %}{{ '>' if add_generation_prompt }}")
}

fn chat(body: &str) -> Result<String, PromptError> {
    match Body::read(Shape::Chat, body.as_bytes())
        .unwrap()
        .prompt(Some(&simple()))?
    {
        Prompt::Text {
            text,
            add_special_tokens: false,
            media: None,
        } => Ok(text.into_owned()),
        other => panic!("{other:?}"),
    }
}

fn completion(body: &str) -> Result<Prompt<'static>, PromptError> {
    let body = Body::read(Shape::Completions, body.as_bytes()).unwrap();
    Ok(match body.prompt(None)? {
        Prompt::Text {
            text,
            add_special_tokens,
            media,
        } => Prompt::Text {
            text: text.into_owned().into(),
            add_special_tokens,
            media,
        },
        Prompt::Tokens(tokens) => Prompt::Tokens(tokens),
        other => panic!("{other:?}"),
    })
}

#[test]
fn paths() {
    for (path, shape) in [
        ("/v1/chat/completions", Some(Shape::Chat)),
        ("/v1/chat/completions?x=/v1/completions", Some(Shape::Chat)),
        ("/v1/completions?", Some(Shape::Completions)),
        ("/v1/completions/", None),
        ("/v1/responses", Some(Shape::Responses)),
        ("/v1/messages?beta=true", Some(Shape::Messages)),
        ("/v1/messages/count_tokens", None),
        ("/v1/embeddings", Some(Shape::Embeddings)),
        ("/tokenize", None),
        ("/v1/models", None),
        ("", None),
    ] {
        assert_eq!(Shape::of_path(path), shape, "{path}");
    }
}

#[test]
fn fields() {
    let body =
        br#"{"model":"a","model":"b\u00e9","stream":true,"max_tokens":5,"max_completion_tokens":7,"messages":[{}],
        "ignored":[{"deep":[1e999999]}]}"#;
    let body = Body::read(Shape::Chat, body).unwrap();
    assert_eq!(
        (body.model(), body.stream(), body.max_tokens(), body.is_batch()),
        (Some("bé"), true, Some(7), false)
    );
    let body = Body::read(Shape::Completions, br#"{"prompt":["a","b"],"max_tokens":-1}"#);
    let body = body.unwrap();
    assert_eq!(
        (body.model(), body.stream(), body.max_tokens(), body.is_batch()),
        (None, false, None, true)
    );
}

#[test]
fn namespaces_of_the_cache_are_told_as_each_frontend_takes_them() {
    use Frontend::{Dynamo, Vllm};
    let both = r#""nvext":{"cache_salt":"n"},"cache_salt":"s""#;
    let own = r#""nvext":{"cache_salt":""},"cache_salt":"s""#;
    for (shape, fields, tenant, expected) in [
        (Shape::Chat, "\"x\":1", None, [None, None]),
        (Shape::Chat, "\"x\":1", Some("t"), [None, Some("t")]),
        (Shape::Chat, both, Some("t"), [Some("s"), Some("t")]),
        (Shape::Chat, both, Some(""), [Some("s"), Some("n")]),
        (Shape::Completions, both, None, [Some("s"), Some("n")]),
        (Shape::Completions, own, None, [Some("s"), Some("s")]),
        (Shape::Chat, own, None, [Some("s"), Some("s")]),
        (
            Shape::Chat,
            r#""nvext":null,"cache_salt":"s""#,
            None,
            [Some("s"), Some("s")],
        ),
        (
            Shape::Chat,
            r#""nvext":{"cache_salt":" n "}"#,
            None,
            [None, Some(" n ")],
        ),
        (Shape::Chat, r#""cache_salt":7"#, None, [None, None]),
        (Shape::Messages, own, None, [Some("s"), None]),
        (Shape::Messages, both, None, [Some("s"), Some("n")]),
        (Shape::Responses, own, None, [Some("s"), None]),
        (Shape::Responses, own, Some("t"), [Some("s"), Some("t")]),
        (Shape::Embeddings, own, None, [Some("s"), Some("s")]),
    ] {
        let prompt = match shape {
            Shape::Completions => r#""prompt":"a""#,
            Shape::Responses | Shape::Embeddings => r#""input":"a""#,
            Shape::Chat | Shape::Messages => r#""messages":[{}]"#,
        };
        let bytes = format!("{{{prompt},{fields}}}");
        let body = Body::read(shape, bytes.as_bytes()).unwrap();
        let found = [Vllm, Dynamo].map(|frontend| body.cache_namespace(frontend, tenant));
        assert_eq!(found, expected, "{bytes} {tenant:?}");
    }
}

#[test]
fn unreadable_bodies() {
    let deep = format!("{{\"messages\":{}", "[".repeat(1 << 20));
    for (body, reason) in [
        ("", "not_json"),
        ("{", "not_json"),
        ("{\"messages\":[]} x", "not_json"),
        ("{\"messages\":[NaN]}", "not_json"),
        ("{\"messages\":[\"\\ud800\"]}", "not_json"),
        ("\u{feff}{\"messages\":[]}", "not_json"),
        (deep.as_str(), "not_json"),
        ("[]", "not_an_object"),
        ("null", "not_an_object"),
        ("\"messages\"", "not_an_object"),
        ("{}", "no_prompt"),
        ("{\"messages\":null}", "no_prompt"),
        ("{\"prompt\":\"x\"}", "no_prompt"),
        ("{\"messages\":\"x\"}", "bad_field"),
        ("{\"messages\":[1,2]}", "bad_field"),
        ("{\"messages\":[{}],\"model\":5}", "bad_field"),
    ] {
        let error = Body::read(Shape::Chat, body.as_bytes()).unwrap_err();
        assert_eq!(error.reason(), reason, "{}: {error}", &body[..body.len().min(40)]);
    }
    assert_eq!(
        Body::read(Shape::Chat, b"{\"messages\":[\"\xff\"]}")
            .unwrap_err()
            .reason(),
        "not_json"
    );
    let position = Body::read(Shape::Chat, b"{\n \"a\": x}").unwrap_err();
    assert_eq!(
        position,
        BodyError::NotJson {
            line: 2,
            column: 7,
            message: "expected value".to_owned()
        }
    );
}

#[test]
fn completion_prompts() {
    let text = |text: &str, add_special_tokens| Prompt::Text {
        text: text.to_owned().into(),
        add_special_tokens,
        media: None,
    };
    for (body, prompt) in [
        (r#"{"prompt":"x\n"}"#, text("x\n", true)),
        (r#"{"prompt":"","add_special_tokens":false}"#, text("", false)),
        (r#"{"prompt":["a","b"]}"#, text("a", true)),
        (r#"{"prompt":[1,2,3]}"#, Prompt::Tokens(vec![1, 2, 3])),
        (r#"{"prompt":[[4,5],[6]]}"#, Prompt::Tokens(vec![4, 5])),
    ] {
        assert_eq!(completion(body), Ok(prompt), "{body}");
    }
    for (body, reason) in [
        (r#"{"prompt":[]}"#, "bad_field"),
        (r#"{"prompt":[[]]}"#, "bad_field"),
        (r#"{"prompt":[4294967296]}"#, "bad_field"),
        (r#"{"prompt":[{}]}"#, "bad_field"),
        (r#"{"prompt":"x","add_special_tokens":"maybe"}"#, "bad_field"),
        (r#"{"prompt":"x","prompt_embeds":"AAAA"}"#, "unsupported_field"),
    ] {
        assert_eq!(completion(body).unwrap_err().reason(), reason, "{body}");
    }
}

#[test]
fn chat_prompts() {
    for (messages, text) in [
        (r#"[{"role":"user","content":"hi"}]"#, "[user|hi]>"),
        (r#"[{"role":"user"},{"role":"user","content":null}]"#, "[user|][user|]>"),
        (
            r#"[{"role":"user","content":["a","",{"type":"text","text":"b"},{"type":"text","text":null}]}]"#,
            "[user|a\nb]>",
        ),
        ("[]", ">"),
    ] {
        assert_eq!(
            chat(&format!(r#"{{"messages":{messages}}}"#)).as_deref(),
            Ok(text),
            "{messages}"
        );
    }
    let one = r#""messages":[{"role":"user","content":"hi "}]"#;
    for (fields, expected) in [
        (r#""add_generation_prompt":false"#, Ok("[user|hi ]")),
        (
            r#""add_generation_prompt":"off","continue_final_message":1"#,
            Ok("[user|hi "),
        ),
        (r#""continue_final_message":true"#, Err("bad_field")),
        (r#""add_generation_prompt":null"#, Err("bad_field")),
        (r#""chat_template":"x""#, Err("unsupported_field")),
        (r#""chat_template":null"#, Ok("[user|hi ]>")),
        (
            r#""chat_template_kwargs":{"chat_template":"x"}"#,
            Err("unsupported_field"),
        ),
        (r#""chat_template_kwargs":[]"#, Err("bad_field")),
        (r#""chat_template_kwargs":{"x":1e30}"#, Err("inexact_number")),
        (r#""tools":[]"#, Err("bad_field")),
        (r#""tools":[{"function":{}}]"#, Err("bad_field")),
    ] {
        let result = chat(&format!("{{{one},{fields}}}"));
        assert_eq!(result.as_deref().map_err(PromptError::reason), expected, "{fields}");
    }
}

#[test]
fn messages_that_give_no_prompt() {
    for (message, reason) in [
        ("5", "bad_field"),
        ("{}", "bad_field"),
        (r#"{"role":"user","content":5}"#, "bad_field"),
        (r#"{"role":"user","content":[1]}"#, "bad_field"),
        (r#"{"role":"user","content":[{"text":"x"}]}"#, "bad_field"),
        (
            r#"{"role":"user","content":[{"type":"image","image":"x"}]}"#,
            "multimodal",
        ),
        (r#"{"role":"user","content":[{"type":"file"}]}"#, "multimodal"),
        (r#"{"role":"assistant","tool_calls":{}}"#, "bad_field"),
        (r#"{"role":"assistant","tool_calls":[{"id":"x"}]}"#, "bad_field"),
        (
            r#"{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"[NaN]"}}]}"#,
            "bad_field",
        ),
        (
            r#"{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"-0"}}]}"#,
            "inexact_number",
        ),
    ] {
        // Keeps the array one of objects.
        let body = format!(r#"{{"messages":[{{"role":"user"}},{message}]}}"#);
        assert_eq!(chat(&body).unwrap_err().reason(), reason, "{message}");
    }
    let body = Body::read(Shape::Chat, br#"{"messages":[{"role":"user"}]}"#).unwrap();
    assert_eq!(body.prompt(None), Err(PromptError::NoTemplate));
}

#[test]
fn templates_that_fail_or_run_away_are_errors() {
    let body = Body::read(Shape::Chat, br#"{"messages":[{"role":"user","content":"x"}]}"#).unwrap();
    for (source, reason) in [
        ("{{ raise_exception('no') }}", "template_refused"),
        ("{{ messages[0].content.nothing() }}", "template_error"),
        ("{{ strftime_now('%Y') }}", "template_error"),
        (
            "{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}",
            "template_limit",
        ),
        (
            "{% for i in range(9999) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxx' }}{% endfor %}",
            "template_limit",
        ),
        (
            "{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
            "template_limit",
        ),
        ("{{ 'x' * 100000000000 }}", "template_limit"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "template_error"),
        (
            "{% set ns = namespace() %}{% set ns.self = ns %}{{ [ns] | tojson }}",
            "template_error",
        ),
    ] {
        assert_eq!(
            body.prompt(Some(&compile(source))).unwrap_err().reason(),
            reason,
            "{source}"
        );
    }
    for source in ["{% if %}", "{{", "{% endif %}", "{% for x in y %}"] {
        let text = ModelText {
            chat_template: Some(source.to_owned()),
            ..ModelText::default()
        };
        assert!(ChatTemplate::compile(&text).is_err(), "{source}");
    }
}

#[test]
fn only_fields_that_are_kept_may_not_nest_deeply() {
    let read = |field: &str, levels: usize| {
        let nested = [&"[".repeat(levels), "1", &"]".repeat(levels)].concat();
        let body = format!(r#"{{"messages":[],"{field}":{nested}}}"#);
        Body::read(Shape::Chat, body.as_bytes())
            .map(drop)
            .map_err(|error| error.reason())
    };
    // The body is one level itself.
    assert_eq!([read("tools", 126), read("tools", 127)], [Ok(()), Err("not_json")]);
    assert_eq!(read("metadata", 100_000), Ok(()));
}

#[test]
fn many_tiny_messages_stay_within_the_work_limit() {
    let messages = vec![r#"{"role":"user","content":""}"#; 20_000].join(",");
    let body = format!("{{\"messages\":[{messages}]}}");
    assert_eq!(chat(&body).map(|text| text.len()), Ok(20_000 * "[user|]".len() + 1));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(body) = Body::read(Shape::Chat, &bytes) {
            let _ = body.prompt(Some(&simple()));
        }
    }

    /// One byte of a body that uses most fields is changed at random.
    #[test]
    fn damaged_bodies_are_survived(at in 0usize..1000, byte: u8) {
        let mut body = br#"{"model":"m","messages":[{"role":"system","content":[{"type":"text","text":"a"}]},{"role":"assistant",
            "content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"a\":[1,2.5]}"}}]},
            {"role":"tool","tool_call_id":"1","content":"r"}],"tools":[{"type":"function","function":{"name":"f"}}],
            "chat_template_kwargs":{"k":[1,{"v":-2}]},"documents":[{"title":"t"}],"stream":true}"#.to_vec();
        let at = at % body.len();
        body[at] = byte;
        if let Ok(body) = Body::read(Shape::Chat, &body) {
            let _ = body.prompt(Some(&compile("{{ messages | tojson }}{{ tools | tojson }}{{ documents }}{{ k }}")));
        }
    }
}

#[test]
fn model_of_a_body_that_is_not_read() {
    let cases = [
        (r#"{"messages":[{"content":"x"}],"model":"m","n":1}"#, Some("m")),
        (r#"{"model":"a\"b"}"#, Some("a\"b")),
        (r#"{"messages":[]}"#, None),
        (r#"{"model":7}"#, None),
        (r#"{"model":"m""#, None),
    ];
    for (body, expected) in cases {
        assert_eq!(Body::model_of(body.as_bytes()).as_deref(), expected, "{body}");
    }
}
