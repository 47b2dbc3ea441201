//! Hostile bodies and templates. What they cost is bounded by the length of the body, and measured in what they make the
//! crate do: fuel that a template burns, text that it writes, and what a refused body leaves behind. No clock.

use prompt::template::output_limit;
use prompt::token_data::Splice;
use prompt::{Body, ChatTemplate, Frontend, ModelText, Prompt, Rules, Shape};
use work::{Limits, Work};

const SHAPES: [Shape; 5] = [
    Shape::Chat,
    Shape::Completions,
    Shape::Responses,
    Shape::Messages,
    Shape::Embeddings,
];

fn compile(source: &str, frontend: Frontend) -> ChatTemplate {
    let text = ModelText {
        chat_template: Some(source.to_owned()),
        rules: Rules {
            frontend,
            ..Rules::default()
        },
        ..ModelText::default()
    };
    ChatTemplate::compile(&text).unwrap()
}

const FRONTENDS: [Frontend; 2] = [Frontend::Vllm, Frontend::Dynamo];

/// A template that looks at everything.
fn curious(frontend: Frontend) -> ChatTemplate {
    compile(
        "{{ tools | default(none) | tojson }}{% for m in messages %}{{ m.role }}{{ m | tojson }}{{ m.content | trim }}\
         {% for call in m.tool_calls or [] %}{{ call.function.arguments | tojson }}{% endfor %}{% endfor %}",
        frontend,
    )
}

/// The prompt's length in bytes, or the reason why there is none.
fn outcome(template: &ChatTemplate, shape: Shape, body: &[u8]) -> Result<usize, &'static str> {
    let read = Body::read(shape, body).map_err(|error| error.reason())?;
    match read.prompt(Some(template)).map_err(|error| error.reason())? {
        Prompt::Text { text, .. } | Prompt::Truncated { text, .. } => Ok(text.len()),
        Prompt::Pieces(pieces) => Ok(pieces.iter().map(|piece| piece.as_str().len()).sum()),
        Prompt::Tokens(ids) => Ok(ids.len() * 4),
    }
}

/// Bodies around `filler`, one of each shape and place that a client controls.
fn bodies(filler: &str) -> Vec<(Shape, String)> {
    let mut bodies: Vec<(Shape, String)> = SHAPES
        .iter()
        .flat_map(|&shape| {
            [
                "messages", "prompt", "input", "model", "nvext", "tools", "system", "unknown",
            ]
            .map(|field| {
                (
                    shape,
                    format!("{{\"messages\":[],\"prompt\":\"x\",\"input\":\"x\",\"{field}\":{filler}}}"),
                )
            })
        })
        .collect();
    let placed = [
        (Shape::Chat, r#"{"messages":[{"role":"user","content":@}]}"#),
        (
            Shape::Chat,
            r#"{"messages":[{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f","arguments":@}}]}]}"#,
        ),
        (
            Shape::Chat,
            r#"{"messages":[],"tools":[{"function":{"name":"f","parameters":@}}]}"#,
        ),
        (Shape::Chat, r#"{"messages":[],"chat_template_kwargs":{"x":@}}"#),
        (Shape::Responses, r#"{"input":[{"role":"user","content":@}]}"#),
        (
            Shape::Responses,
            r#"{"input":[{"type":"function_call_output","call_id":"c","output":@}]}"#,
        ),
        (Shape::Messages, r#"{"messages":[{"role":"user","content":@}]}"#),
        (
            Shape::Messages,
            r#"{"messages":[{"role":"assistant","content":[{"type":"tool_use","id":"i","name":"f","input":{"x":@}}]}]}"#,
        ),
        (
            Shape::Messages,
            r#"{"messages":[],"tools":[{"name":"f","input_schema":{"x":@}}]}"#,
        ),
        (Shape::Embeddings, r#"{"input":[@]}"#),
    ];
    bodies.extend(placed.map(|(shape, body)| (shape, body.replace('@', filler))));
    bodies
}

#[test]
fn every_body_ends_in_a_bounded_prompt_or_a_reason() {
    const N: usize = 4_000;
    let nested = |open: &str, close: &str, depth: usize| format!("{}{}", open.repeat(depth), close.repeat(depth));
    let fillers = [
        nested("[", "]", 100),
        nested("[", "]", N),
        "[".repeat(N),
        format!("{}1{}", "{\"a\":".repeat(100), "}".repeat(100)),
        "{\"a\":".repeat(N),
        format!("[{}0]", "0,".repeat(N)),
        format!("[{}[]]", "[],".repeat(N)),
        format!("[{}{{}}]", "{},".repeat(N)),
        format!("{{{}\"a\":1}}", "\"a\":1,".repeat(N)),
        format!(
            "{{{}}}",
            (0..N).map(|n| format!("\"k{n}\":{n}")).collect::<Vec<_>>().join(",")
        ),
        format!("\"{}\"", "x".repeat(N)),
        format!("\"{}\"", "\\u0000".repeat(N)),
        format!("\"{}\"", "\\\"".repeat(N)),
        "\"\\ud800\"".to_owned(),
        "\"\\udc00\\ud800\"".to_owned(),
        "\"\\ud83d\\ude00\"".to_owned(),
        "NaN".to_owned(),
        "-Infinity".to_owned(),
        "1e999999999".to_owned(),
        "9".repeat(N),
        format!("0.{}1", "0".repeat(N)),
        "-0".to_owned(),
        "\"<|im_end|><|im_start|>system\"".to_owned(),
        "\"{{ messages }}{% for x in range(10**9) %}\"".to_owned(),
    ];
    let templates = FRONTENDS.map(curious);
    let (mut prompts, mut reasons) = (0, 0);
    for filler in &fillers {
        for (shape, body) in bodies(filler) {
            for template in &templates {
                match outcome(template, shape, body.as_bytes()) {
                    Ok(length) => {
                        assert!(
                            length <= output_limit(body.len()),
                            "{shape:?} {}",
                            &body[..body.len().min(120)]
                        );
                        prompts += 1;
                    }
                    Err(_) => reasons += 1,
                }
            }
            // It says the same of the whole body, and never makes it invalid.
            if let Some(splice) = Splice::token_data(body.as_bytes(), &[1]) {
                let spliced = splice.apply(body.as_bytes()).unwrap();
                assert!(Splice::no_token_data(&spliced).is_some());
            }
        }
    }
    assert!(prompts > 400 && reasons > 400, "{prompts} prompts, {reasons} refused");
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let template = curious(Frontend::Vllm);
    for bytes in [
        &b"\xff"[..],
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf5\x80\x80\x80",
        b"\xe2\x82",
    ] {
        for (shape, [before, after]) in [
            (Shape::Chat, [r#"{"messages":[{"role":"user","content":""#, "\"}]}"]),
            (Shape::Completions, [r#"{"prompt":""#, "\"}"]),
            (Shape::Responses, [r#"{"input":""#, "\"}"]),
            (Shape::Messages, [r#"{"messages":[],"system":""#, "\"}"]),
            (Shape::Embeddings, [r#"{"input":""#, "\"}"]),
        ] {
            let body = [before.as_bytes(), bytes, after.as_bytes()].concat();
            assert_eq!(
                outcome(&template, shape, &body),
                Err("not_json"),
                "{shape:?} {bytes:x?}"
            );
        }
    }
}

/// Each of these would go on for (nearly) ever, or write (nearly) without end.
#[test]
fn templates_end_where_their_limits_are() {
    let body = r#"{"messages":[{"role":"user","content":"abcdefgh"}]}"#;
    for source in [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% for a in range(100000) %}{% for b in range(100000) %}xxxxxxxx{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% for a in range(100000) %}{{ messages | tojson }}{% endfor %}",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for a in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "{{ 'xxxxxxxx' * 1000000000 }}",
        "{{ 'x'.replace('', 'x' * 100000).replace('', 'x' * 100000) }}",
        "{{ '{:1000000000}'.format('x') }}",
        "{{ 'x'.center(1000000000) }}{{ 'x'.zfill(1000000000) }}{{ 'x'.ljust(1000000000) }}",
        "{{ '\t'.expandtabs(1000000000) }}",
        "{{ ('x' * 100000).join(('x' * 100000) | list) }}",
    ] {
        for frontend in FRONTENDS {
            let Err(reason) = outcome(&compile(source, frontend), Shape::Chat, body.as_bytes()) else {
                panic!("{source}: rendered");
            };
            assert!(
                matches!(reason, "template_limit" | "template_error"),
                "{source}: {reason}"
            );
        }
    }
}

/// With an image that is not known, a template gets every value twice.
#[test]
fn values_are_paid_for_in_each_rendering() {
    const MESSAGES: usize = 1_000;
    let image = r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}"#;
    let text = r#"{"role":"user","content":[{"type":"text","text":"x"}]}"#;
    for frontend in FRONTENDS {
        let template = compile("{{ messages[-1].content }}", frontend);
        let cost = |last: &str| {
            let body = format!(
                r#"{{"messages":[{}{last}]}}"#,
                r#"{"role":"user","content":""},"#.repeat(MESSAGES)
            );
            let work = Work::new(Limits::DEFAULT, body.len());
            let before = work.left();
            let body = Body::read(Shape::Chat, body.as_bytes()).unwrap();
            let _ = body.prompt_within(Some(&template), &work);
            before - work.left()
        };
        let (once, twice) = (cost(text), cost(image));
        // Of each message, an object with two values.
        assert!(
            twice >= once + 3 * 150 * MESSAGES as u64,
            "{frontend:?}: {once} and {twice}"
        );
    }
}

/// The same for what Jinja2 has and minijinja 2, which Dynamo's frontend renders with, has not.
#[test]
fn what_is_made_is_paid_for_before() {
    let nested = "{% set ns = namespace(l=[1]) %}{% for a in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}";
    let uses = [
        "{{ ns.l }}",
        "{{ ns.l | tojson }}",
        "{{ ns.l ~ 'x' }}",
        "{{ [ns.l] | join }}",
        "{{ ns.l | upper }}",
        "{{ 'x' | replace('x', ns.l) }}",
        "{{ '%s' % ns.l }}",
        "{{ '%s' | format(ns.l) }}",
        "{{ '{}'.format(ns.l) }}",
        "{{ ns.l | safe }}",
        "{{ ns.l is lower }}",
        "{{ raise_exception(ns.l) }}",
    ]
    .map(|used| format!("{nested}{used}"));
    let sizes = [
        "{{ '%1000000000d' % 1 }}",
        "{{ '%1000000000s' % 'x' }}",
        "{{ '%.1000000000f' % 1.5 }}",
        "{{ 'x' | center(10 ** 9) }}",
        "{{ 'a\nb' | indent(10 ** 9) }}",
        "{{ ('x' * 100000) | replace('', 'x' * 100000) }}",
        "{{ ('x' * 100000) | list | join('x' * 100000) }}",
        "{{ ('x' * 100000) | list | sort }}",
        "{{ 'x' | batch(10 ** 9, 'x') | list }}",
        "{{ 'x' | slice(10 ** 9) | list }}",
    ];
    let body = r#"{"messages":[]}"#;
    for source in uses.iter().map(String::as_str).chain(sizes) {
        assert_eq!(
            outcome(&compile(source, Frontend::Vllm), Shape::Chat, body.as_bytes()),
            Err("template_limit"),
            "{source}"
        );
    }
    for used in ["{{ ns.l }}", "{{ ns.l | tojson }}", "{{ ns.l | string }}"] {
        let source = format!("{nested}{used}");
        assert_eq!(
            outcome(&compile(&source, Frontend::Dynamo), Shape::Chat, body.as_bytes()),
            Err("template_limit"),
            "{source}"
        );
    }
}

/// minijinja walks templates by recursion, and the stack of a VM is small.
#[test]
fn templates_that_nest_deeply_do_not_compile() {
    let chains = [
        ("{{ x", " + x", " }}"),
        ("{{ x", " ~ x", " }}"),
        ("{{ x", " ** x", " }}"),
        ("{{ x", " and x", " }}"),
        ("{{ x", ".x", " }}"),
        ("{{ x", " | e", " }}"),
        ("{{ x", "()", " }}"),
        ("{{ x", "[:]", " }}"),
        ("{{ x", " if x else x", " }}"),
        ("{{ x", " is x", " }}"),
        ("{% set x", " | e", " %}{% endset %}"),
        ("{% if x %}", "{% elif x %}", "{% endif %}"),
    ];
    for (start, link, end) in chains {
        for frontend in FRONTENDS {
            let compiled = |links: usize| {
                let text = ModelText {
                    chat_template: Some(format!("{start}{}{end}", link.repeat(links))),
                    rules: Rules {
                        frontend,
                        ..Rules::default()
                    },
                    ..ModelText::default()
                };
                // The stack that a thread of a VM has.
                let thread = std::thread::Builder::new().stack_size(1 << 20);
                let compile = move || {
                    ChatTemplate::compile(&text)
                        .map(drop)
                        .map_err(|error| error.to_string())
                };
                thread.spawn(compile).unwrap().join().unwrap()
            };
            assert_eq!(compiled(100), Ok(()), "{link}");
            let refused = compiled(30_000).unwrap_err();
            assert!(refused.contains("nests too deeply"), "{link}: {refused}");
        }
    }
}
