//! Requests of which each asks something in particular.

use serde_json::{Value, json};

use crate::Case;

const PIXEL: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";

pub(crate) fn cases() -> Vec<Case> {
    let of = |path, bodies: Vec<Value>| bodies.into_iter().map(move |body| (path, body));
    of("/v1/chat/completions", chats())
        .chain(of("/v1/completions", completions()))
        .chain(of("/v1/responses", responses()))
        .chain(of("/v1/messages", messages()))
        .collect()
}

fn chats() -> Vec<Value> {
    let user = |content: Value| json!({"role": "user", "content": content});
    let hi = user(json!("hi"));
    let chat = |messages: Value| json!({"messages": messages});
    let with = |key: &str, value: Value| {
        let mut body = chat(json!([hi]));
        body[key] = value;
        body
    };
    let tool = |function: Value| with("tools", json!([{"type": "function", "function": function}]));
    let call =
        |arguments: Value| json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}});
    let called =
        |message: Value| chat(json!([hi, message, {"role": "tool", "tool_call_id": "c1", "content": "r"}, hi]));
    let assistant = |extra: Value| {
        let mut message = json!({"role": "assistant"});
        for (key, value) in extra.as_object().into_iter().flatten() {
            message[key] = value.clone();
        }
        message
    };
    let mut bodies = vec![
        chat(json!([hi])),
        chat(json!([{"role": "system", "content": "s"}, hi])),
        chat(json!([{"role": "developer", "content": "d", "name": "n"}, hi])),
        chat(json!([user(
            json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])
        )])),
        chat(json!([user(json!([]))])),
        chat(json!([user(json!("nul\u{0}inside"))])),
        chat(json!([{"role": "user", "content": "x", "name": "zoë", "unknown": 1}])),
        chat(json!([hi, assistant(json!({"content": "a"})), hi])),
        chat(json!([hi, assistant(json!({"content": null})), hi])),
        chat(json!([hi, assistant(json!({})), hi])),
        chat(json!([hi, assistant(json!({"content": "a", "tool_calls": []})), hi])),
        chat(json!([
            hi,
            assistant(json!({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]})),
            hi
        ])),
        chat(json!([
            hi,
            assistant(json!({"content": [{"type": "refusal", "refusal": "no"}]})),
            hi
        ])),
        chat(json!([
            hi,
            assistant(json!({"content": "a", "refusal": "no", "name": "n"})),
            hi
        ])),
        chat(json!([hi, assistant(json!({"content": "a", "reasoning": "r"})), hi])),
        chat(json!([
            hi,
            assistant(json!({"content": "a", "reasoning_content": "r"})),
            hi
        ])),
        chat(json!([
            hi,
            assistant(json!({"content": "", "reasoning_content": "r"})),
            hi
        ])),
        chat(json!([
            hi,
            assistant(json!({"reasoning_content": ["r", "", "s"], "tool_calls": [call(json!("{}"))]})),
            hi
        ])),
        chat(json!([
            hi,
            assistant(json!({"content": "a", "reasoning_content": ""})),
            hi
        ])),
        chat(json!([
            hi,
            assistant(json!({"content": [{"type": "text", "text": "a"}], "reasoning": "r"})),
            hi
        ])),
        called(assistant(
            json!({"tool_calls": [call(json!("{\"b\": 1.50, \"a\": [1e-7, null]}"))]}),
        )),
        called(assistant(
            json!({"content": "", "tool_calls": [call(json!("{\"b\": 1.50, \"a\": [1e-7, null]}"))]}),
        )),
        called(assistant(
            json!({"content": "t", "tool_calls": [call(json!("not json"))]}),
        )),
        called(assistant(json!({"content": "t", "tool_calls": [call(json!(""))]}))),
        called(assistant(
            json!({"content": "t", "tool_calls": [call(json!("[1, 2]")), call(json!("3"))]}),
        )),
        called(assistant(
            json!({"content": "t", "tool_calls": [call(json!({"z": 1.0, "a": {"b": "c"}, "e": 1e-7}))]}),
        )),
        called(assistant(
            json!({"content": "t", "tool_calls": [{"id": "x", "function": {"name": "f", "arguments": "{}"}}]}),
        )),
        chat(
            json!([hi, {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]}]),
        ),
        chat(
            json!([{"role": "system", "content": "s"}, {"role": "system", "content": "t"}, hi, {"role": "system", "content": "u"}, hi, hi]),
        ),
        chat(
            json!([hi, {"role": "system", "content": [{"type": "text", "text": "u"}]}, user(json!([{"type": "text", "text": "v"}])), hi]),
        ),
        chat(json!([hi, {"role": "system", "content": ""}, hi, user(json!(""))])),
        chat(json!([user(
            json!([{"type": "text", "text": "look here, there it is"}, {"type": "image_url", "image_url": {"url": PIXEL}}])
        )])),
        chat(
            json!([{"role": "system", "content": "s"}, user(json!("some text before")), user(json!([{"type": "image_url", "image_url": {"url": PIXEL}}, {"type": "text", "text": "what"}]))]),
        ),
        tool(json!({"name": "f"})),
        tool(json!({"name": "f", "parameters": {}})),
        tool(json!({"name": "f", "parameters": null, "description": null})),
        tool(json!({"name": "f", "parameters": {"properties": {"x": {"type": "string"}}}, "strict": false})),
        tool(
            json!({"parameters": {"type": "object", "properties": {"items": {"type": "array", "default": 1.0}}, "z": [true, null, 1e16]}, "description": "<d> & 'é'", "name": "f", "unknown": 1}),
        ),
        with("tool_choice", json!("none")),
        with("reasoning_effort", json!("none")),
        with("reasoning_effort", json!("high")),
        with("thinking", json!(true)),
        with("thinking", json!({"type": "disabled"})),
        with("thinking", json!({"type": "adaptive"})),
        with("add_generation_prompt", json!(false)),
        with("chat_template_args", json!({"flag": "args"})),
        with("add_special_tokens", json!(true)),
        with("documents", json!([{"title": "t", "text": "x"}])),
    ];
    for kwargs in [
        json!({"flag": [1, 1.5, null, true, "it's", {"k": "v"}]}),
        json!({"enable_thinking": false}),
        json!({"enable_thinking": true}),
        json!({"thinking": false}),
        json!({"thinking": true, "enable_thinking": false}),
        json!({"enable_thinking": "off"}),
        json!({"enable_thinking": 1}),
        json!({"thinking": null, "enable_thinking": 0.0}),
        json!({"thinking_mode": "disabled"}),
        json!({"thinking_mode": "Enabled"}),
        json!({"thinking_mode": "chat"}),
        json!({"thinking_mode": "adaptive", "reasoning_effort": "high"}),
        json!({"reasoning_effort": "low"}),
        json!({"reasoning_effort": "none", "enable_thinking": true}),
        json!({"add_generation_prompt": false}),
        json!({"bos_token": "B"}),
    ] {
        bodies.push(with("chat_template_kwargs", kwargs));
    }
    let mut excluded = tool(json!({"name": "f"}));
    excluded["tool_choice"] = json!("none");
    bodies.push(excluded);
    for last in [
        json!("to be continued "),
        json!([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]),
        json!(""),
    ] {
        let mut body = chat(json!([hi, assistant(json!({"content": last}))]));
        body["add_generation_prompt"] = json!(false);
        body["continue_final_message"] = json!(true);
        bodies.push(body);
    }
    bodies
}

fn completions() -> Vec<Value> {
    let prompts = [
        json!("hello there"),
        json!("nul\u{0}inside"),
        json!("<|im_start|>user\nfake<|im_end|> <s> <bos> <|begin_of_text|>"),
        json!("  spaces \n\n"),
        json!(["only one"]),
        json!([1, 2, 3]),
        json!([[4, 5, 6]]),
        json!("日本語 👩‍👩‍👧‍👦 e\u{301}"),
    ];
    prompts.into_iter().map(|prompt| json!({"prompt": prompt})).collect()
}

fn responses() -> Vec<Value> {
    let input = |input: Value| json!({"input": input});
    let user = json!({"role": "user", "content": "hi"});
    let message = |role: &str, content: Value| json!({"type": "message", "role": role, "content": content});
    let text = |kind: &str, text: &str| json!({"type": kind, "text": text});
    let call = json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{\"a\": 1}"});
    let output = |output: Value| json!({"type": "function_call_output", "call_id": "c", "output": output});
    let summary = json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": "s1"}, {"type": "summary_text", "text": "s2"}]});
    let thought = json!({"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "t1"}, {"type": "reasoning_text", "text": "t2"}]});
    let answer = message(
        "assistant",
        json!([text("output_text", "one"), text("output_text", "two"), {"type": "refusal", "refusal": "no"}]),
    );
    let with = |key: &str, value: Value| {
        let mut body = input(json!("hi"));
        body[key] = value;
        body
    };
    let function =
        |name: &str| json!({"type": "function", "name": name, "parameters": {"type": "object"}, "strict": false});
    let mut allowed = with("tools", json!([function("f"), function("g")]));
    allowed["tool_choice"] =
        json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]});
    let mut excluded = with("tools", json!([function("f")]));
    excluded["tool_choice"] = json!("none");
    vec![
        input(json!("hi")),
        input(json!([user])),
        input(json!([message(
            "user",
            json!([text("input_text", "a"), text("input_text", "b")])
        )])),
        input(json!([message("user", json!([text("input_text", "alone")]))])),
        input(json!([
            message("developer", json!("d")),
            message("system", json!([text("input_text", "s"), text("input_text", "t")])),
            user
        ])),
        input(json!([user, message("developer", json!("later")), user])),
        input(json!([user, answer, user])),
        input(json!([user, answer, answer, user])),
        input(json!([user, message("assistant", json!("plain")), user])),
        input(json!([user, {"role": "assistant", "content": "plain"}, user])),
        input(
            json!([user, {"role": "assistant", "content": [text("input_text", "x"), text("input_text", "y")]}, user]),
        ),
        input(json!([user, {"role": "assistant", "content": "skipped", "id": "msg_1"}, user])),
        input(json!([user, {"type": "message", "role": "assistant", "content": "kept", "id": "msg_1"}, user])),
        input(json!([user, {"type": "item_reference", "id": "x"}, user])),
        input(json!([user, call, output(json!("r")), user])),
        input(json!([
            user,
            answer,
            call,
            call,
            output(json!("r")),
            output(json!([text("input_text", "a"), text("input_text", "b")])),
            user
        ])),
        input(json!([user, summary, call, output(json!("r")), user])),
        input(json!([
            user,
            thought,
            answer,
            call,
            summary,
            call,
            output(json!("r")),
            user
        ])),
        input(json!([user, call, answer, output(json!("r")), user])),
        input(json!([user, thought, summary, answer, user])),
        input(json!([user, thought])),
        input(json!([user, message("assistant", json!([])), user])),
        input(json!([user, {"type": "reasoning", "summary": [], "encrypted_content": "x"}, answer, user])),
        input(
            json!([user, {"type": "web_search_call", "id": "w", "status": "completed", "action": {"type": "search", "query": "q"}}, answer, user]),
        ),
        input(
            json!([user, {"type": "message", "role": "assistant", "content": "unfinished", "status": "in_progress"}]),
        ),
        input(json!([message(
            "user",
            json!([text("input_text", "some text before"), {"type": "input_image", "image_url": PIXEL, "detail": "auto"}])
        )])),
        input(
            json!([{"type": "agent_message", "content": "told"}, {"type": "agent_message", "content": [text("input_text", "a"),
            {"type": "encrypted_content", "encrypted_content": "b"}]}, {"type": "agent_message"}]),
        ),
        with("instructions", json!("be brief")),
        with("instructions", json!("")),
        json!({"input": [message("developer", json!("d")), user], "instructions": "be brief"}),
        with("reasoning", json!({"effort": "low"})),
        with("reasoning", json!({"effort": "none"})),
        with("chat_template_kwargs", json!({"enable_thinking": false, "flag": 1})),
        with("tools", json!([])),
        with("tools", json!([function("f")])),
        with(
            "tools",
            json!([{"type": "function", "name": "f", "description": "d", "parameters": {}, "strict": false}]),
        ),
        with(
            "tools",
            json!([{"type": "function", "name": "f", "parameters": null, "strict": null}]),
        ),
        with("truncation", json!("auto")),
        with("truncation", json!("disabled")),
        allowed,
        excluded,
    ]
}

fn messages() -> Vec<Value> {
    let body = |messages: Value| json!({"messages": messages});
    let user = json!({"role": "user", "content": "hi"});
    let said = |role: &str, blocks: Value| json!({"role": role, "content": blocks});
    let text = |text: &str| json!({"type": "text", "text": text});
    let used = |id: &str, input: Value| json!({"type": "tool_use", "id": id, "name": "f", "input": input});
    let result = |content: Value| json!({"type": "tool_result", "tool_use_id": "t1", "content": content});
    let thought = |thought: &str| json!({"type": "thinking", "thinking": thought, "signature": "s"});
    let image = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL.split_once(',').unwrap_or_default().1}});
    let with = |key: &str, value: Value| {
        let mut body = body(json!([user]));
        body[key] = value;
        body
    };
    let mut excluded = with("tools", json!([{"name": "f", "input_schema": {"type": "object"}}]));
    excluded["tool_choice"] = json!({"type": "none"});
    vec![
        body(json!([user])),
        with("system", json!("s")),
        with("system", json!("")),
        with("system", json!([text("one"), text("two")])),
        with("system", json!("x-anthropic-billing-header: a=1\nrest\nof it")),
        with("system", json!([text("x-anthropic-billing-header: a=1"), text("rest")])),
        with("system", json!([text("x-anthropic-billing-header: a=1")])),
        body(json!([
            said("user", json!([text("a"), text("b")])),
            said("assistant", json!([text("c"), text("d")])),
            user
        ])),
        body(json!([said("user", json!([text("")]))])),
        body(json!([said("user", json!([])), user])),
        body(json!([
            user,
            said("assistant", json!([text("t"), used("t1", json!({"a": 1.0, "b": {}}))])),
            said("user", json!([result(json!("r"))])),
            user
        ])),
        body(json!([
            user,
            said("assistant", json!([used("t1", json!({"e": 1e-7}))])),
            said(
                "user",
                json!([text("before"), result(json!([text("x"), text("y")])), text("after")])
            )
        ])),
        body(json!([
            user,
            said("assistant", json!([used("t1", json!({}))])),
            said("user", json!([{"type": "tool_result", "tool_use_id": "t1"}]))
        ])),
        body(json!([
            user,
            said("assistant", json!([thought("a"), thought("b"), text("t")])),
            user
        ])),
        body(json!([
            user,
            said(
                "assistant",
                json!([
                    thought("a"),
                    used("t1", json!({})),
                    thought("b"),
                    used("t2", json!({})),
                    text("t")
                ])
            ),
            said("user", json!([result(json!("r"))]))
        ])),
        body(json!([
            user,
            said(
                "assistant",
                json!([{"type": "redacted_thinking", "data": "x"}, text("t")])
            ),
            user
        ])),
        body(json!([user, said("assistant", json!([])), user])),
        body(json!([user, said("assistant", json!("half an answer"))])),
        body(json!([user, said("system", json!("later")), user])),
        body(json!([
            user,
            said("system", json!([text("later"), text("and more")])),
            user
        ])),
        body(json!([said(
            "user",
            json!([text("some text before"), image, text("what is it?")])
        )])),
        body(json!([
            user,
            said("assistant", json!([used("t1", json!({}))])),
            said("user", json!([result(json!([text("see"), image]))]))
        ])),
        with("thinking", json!({"type": "disabled"})),
        with("thinking", json!({"type": "enabled", "budget_tokens": 2000})),
        with("output_config", json!({"effort": "high"})),
        with("chat_template_kwargs", json!({"enable_thinking": false})),
        with("tools", json!([])),
        with("tools", json!([{"name": "f", "input_schema": {}}])),
        with(
            "tools",
            json!([{"name": "f", "description": "d", "input_schema": {"properties": {"a": {"type": "string"}}}}]),
        ),
        excluded,
    ]
}
