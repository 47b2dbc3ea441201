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
    ChatTemplate::compile(&model(source, frontend)).unwrap()
}

fn model(source: &str, frontend: Frontend) -> ModelText {
    ModelText {
        chat_template: Some(source.to_owned()),
        rules: Rules {
            frontend,
            ..Rules::default()
        },
        ..ModelText::default()
    }
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
    // Half a million numbers, of which five thousand are made.
    let long = "{% set l = [range(5000) | list] * 100 %}";
    let uses = [
        "{{ l }}",
        "{{ l | tojson }}",
        "{{ l ~ 'x' }}",
        "{{ [l] | join }}",
        "{{ l | upper }}",
        "{{ 'x' | replace('x', l) }}",
        "{{ '%s' % l }}",
        "{{ '%s' | format(l) }}",
        "{{ '{}'.format(l) }}",
        "{{ l | safe }}",
        "{{ l is lower }}",
        "{{ raise_exception(l) }}",
    ]
    .map(|used| format!("{long}{used}"));
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
    let of_both = [
        "{{ ('{0}' * 100000).format('a' * 100000) }}",
        "{{ ('{a}' * 100000).format(a=[range(10000) | list]) }}",
        "{{ ('%(a)s' * 100000) | format(a='b' * 100000) }}",
        "{{ ('%(a)s' * 100000) | format(a=[range(10000) | list]) }}",
    ];
    for used in ["{{ l }}", "{{ l | tojson }}", "{{ l | string }}"]
        .into_iter()
        .chain(of_both)
    {
        for frontend in FRONTENDS {
            let source = format!("{long}{used}");
            assert_ne!(
                outcome(&compile(long, frontend), Shape::Chat, body.as_bytes()),
                Err("template_limit")
            );
            assert_eq!(
                outcome(&compile(&source, frontend), Shape::Chat, body.as_bytes()),
                Err("template_limit"),
                "{frontend:?}: {source}"
            );
        }
    }
}

/// Two values that hold another twice, each of them the one before, and so on: what compares them looks at all.
#[test]
fn nothing_holds_more_than_it_is_paid_for() {
    // How `x` becomes a part of itself.
    let steps = [
        "{% set x = [x, x] %}",
        "{% set x = (x, x) %}",
        "{% set x = x, x %}",
        "{% set x = {'k': x, 'l': x} %}",
        "{% set x = dict(k=x, l=x) %}",
        "{% set x = [x] * 2 %}",
        "{% set x = [x] + [x] %}",
        "{% set x = x + x %}",
        "{% set x = x + (x + x)[1:] %}",
        "{% set x = -1 + 1 or x + x %}",
        "{% set x = x * 2 %}",
        "{% set x = [x, x] | sum(start=[]) %}",
        "{% set x = (x + x) | batch(9) | list %}",
        "{% set x = (x + x) | slice(1) | list %}",
        "{% set x = (x + x) | groupby('k', default=1) | list %}",
        "{% set n.k = n.k + n.k if n.k else x %}{% set x = n.k %}",
        "{% set n.k = x, x %}{% set x = n.k %}",
        "{% macro of(x) %}{{ x == [x, x] }}{% endmacro %}{{ of((x, x)) }}{% set x = [x, x] %}",
    ];
    let uses = [
        "{{ a == b }}",
        "{{ a in [b] }}",
        "{{ a < b }}",
        "{{ [a, b] | sort }}",
        "{{ [b].index(a) }}",
        "{{ a is eq b }}",
    ];
    let built = |name: &str, step: &str, times: usize| {
        format!(
            "{{% set n = namespace() %}}{{% set x = [1] %}}{}{{% set {name} = x %}}",
            step.repeat(times)
        )
    };
    for frontend in FRONTENDS {
        for (step, used) in steps.iter().flat_map(|step| uses.map(|used| (step, used))) {
            let source = |times: usize| format!("{}{}{used}", built("a", step, times), built("b", step, times));
            let outcome =
                |times: usize| outcome(&compile(&source(times), frontend), Shape::Chat, br#"{"messages":[]}"#);
            assert_eq!(outcome(60), Err("template_limit"), "{frontend:?}: {step} {used}");
            assert_ne!(outcome(2), Err("template_limit"), "{frontend:?}: {step} {used}");
        }
        // Where a name is given otherwise, and where there is none.
        for source in [
            "{% macro f(x, n) %}{{ x == [] }}{{ f(x + x, n + 1) if n < 60 }}{% endmacro %}{{ f([1], 0) }}",
            "{% macro f(x, n) %}{{ 2 in x }}{% if n < 60 %}{% call f(x=x + x, n=n + 1) %}{% endcall %}{% endif %}{% endmacro %}\
             {{ f([1], 0) }}",
            "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] | sum(start=[]) %}{% endfor %}{{ n.x == [] }}",
            "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = {'a': n.x + n.x}['a'] %}{% endfor %}{{ 2 in n.x }}",
            "{% set m = namespace() %}{% set n = namespace() %}{% set n.k = m %}",
            "{% set m = namespace() %}{% set n = namespace(k=m) %}",
            "{% set n = namespace() %}{% set n.k = [n] %}{{ n == [n] }}",
            "{% set n = namespace() %}{% set x = {'n': n} %}{% set n.k = x %}{{ x == {'n': n} }}",
            "{% set n = namespace() %}{% set n.k = [n] | zip | list %}{{ n.k == [n] | zip | list }}",
            "{% set n = namespace() %}{% set n.k = [u] | map('default', n) | list %}",
            "{% set n = namespace() %}{% set n.k = [1] | map(attribute='k', default=n) | list %}",
            "{% set n = namespace() %}{% set n.k = [1] | batch(2, n) | list %}",
            "{% set n = namespace() %}{% set n.k = [1] | groupby('k', default=n) | list %}",
            "{% set n = namespace() %}{% set n.k = joiner(n) %}",
            "{% set n = namespace(l=[1]) %}{% for i in range(300) %}{% set n.l = [n.l] %}{% endfor %}{{ n.l == [n.l] }}",
        ] {
            let outcome = outcome(&compile(source, frontend), Shape::Chat, br#"{"messages":[]}"#);
            assert!(
                matches!(outcome, Err("template_limit" | "template_error")),
                "{frontend:?}: {source}: {outcome:?}"
            );
        }
    }
}

/// What is done to a list or a dict a thousand times over is done at once, and not one in the other.
#[test]
fn nothing_waits_to_be_done() {
    for step in [
        "n.x[0:]",
        "n.x[::-1]",
        "n.x * 1",
        "n.x + []",
        "[] + n.x",
        "n.x | reverse",
        "n.x | list",
    ] {
        for frontend in FRONTENDS {
            let source = format!(
                "{{% set n = namespace(x=[1, 2]) %}}{{% for i in range(1000) %}}{{% set n.x = {step} %}}{{% endfor %}}\
                 {{{{ n.x | length }}}}{{{{ n.x == [3] }}}}"
            );
            let length = outcome(&compile(&source, frontend), Shape::Chat, br#"{"messages":[]}"#);
            assert_eq!(length, Ok("2False".len()), "{frontend:?}: {step}");
        }
    }
    for step in [
        "[u] | map('default', n.x) | list",
        "[1] | map(attribute='k', default=n.x) | list",
        "[1] | groupby('k', default=n.x) | list",
        "[1] | batch(2, n.x) | list",
        "n.x | map('batch', 1) | list",
        "{'a': n.x}",
        "dict(a=n.x)",
        "n.x, 1",
    ] {
        for frontend in FRONTENDS {
            let source = format!(
                "{{% set n = namespace(x=[1, 2]) %}}{{% for i in range(3000) %}}{{% set n.x = {step} %}}{{% endfor %}}"
            );
            let outcome = outcome(&compile(&source, frontend), Shape::Chat, br#"{"messages":[]}"#);
            assert!(
                matches!(outcome, Err("template_limit" | "template_error")),
                "{frontend:?}: {step}: {outcome:?}"
            );
        }
    }
    for step in ["n.x | zip", "n.x | chain({'b': 2})", "n.x | chain([3])"] {
        for value in ["[1]", "{'a': 1}"] {
            let source = format!(
                "{{% set n = namespace(x={value}) %}}{{% for i in range(3000) %}}{{% set n.x = {step} %}}{{% endfor %}}\
                 {{{{ n.x == [3] }}}}{{{{ n.x.c }}}}"
            );
            let outcome = outcome(&compile(&source, Frontend::Dynamo), Shape::Chat, br#"{"messages":[]}"#);
            assert!(
                matches!(outcome, Ok(_) | Err("template_limit" | "template_error")),
                "{step} of {value}: {outcome:?}"
            );
        }
    }
}

/// Whatever looks at all of a text or a list.
#[test]
fn what_looks_at_much_is_paid_for() {
    const BYTES: usize = 100_000;
    const ITEMS: usize = 20_000;
    const TIMES: u64 = 20;
    // `t` and `u` are equal texts; `l` and `m` are equal lists in lists.
    let of_text = [
        "t is lower",
        "t is upper",
        "t == u",
        "t != u",
        "u < t",
        "t <= u",
        "t in [u]",
        "[t] == [u]",
        "[u].index(t)",
        "[u].count(t)",
        "t[-1]",
        "t[90000]",
        "t[i]",
        "t[-1:]",
        "t[5:6]",
        "t[::-90000]",
        "{}[t]",
        "{}.get(t)",
        "t is eq u",
        "t is ne(u)",
        "t is in [u]",
        "t is in({})",
        "t in {}",
        "[t] | select('==', u) | list",
        "[t, u] | unique | list",
        "[t, u] | max",
        "[t, u] | min",
        "[t, u] | sort",
        "[1, 1] | selectattr(t) | list",
        "[{}, {}] | map(attribute=t, default=1) | list",
        "t == u == t",
        "1 if t == u else 2",
        "not t == u",
        "(t if t else t) == (u if u else u)",
        "t not in [u]",
        "[i in [t], t in [u]]",
    ];
    let of_list = [
        "l == m",
        "l < m",
        "l in [m]",
        "[m].index(l)",
        "l is eq m",
        "[l, m] | sort",
        "[l] == [m]",
        "(l, 1) == (m, 1)",
        "l[0] == m[0]",
        "l[0][19999:]",
        "(l[0] + m[0]) | length",
        "(l[0] * 2) | length",
        "l[0] in [m[0]]",
        "(m[0], 1) in {}",
        "{'a': l} == {'a': m}",
        "[[l]] == [[m]]",
        "l is in [m]",
        "-1 in l[0]",
        "[l, m] | max",
    ];
    let cost = |source: &str, frontend: Frontend, body: &str| {
        let work = Work::new(Limits::DEFAULT, 20_000_000);
        let before = work.left();
        let body = Body::read(Shape::Chat, body.as_bytes()).unwrap();
        let outcome = body
            .prompt_within(Some(&compile(source, frontend)), &work)
            .map_err(|error| error.reason());
        (before - work.left(), outcome.err())
    };
    for frontend in FRONTENDS {
        for (used, is_text) in of_text
            .map(|used| (used, true))
            .into_iter()
            .chain(of_list.map(|used| (used, false)))
        {
            let source = |is_large: bool, times: u64| {
                let (bytes, items) = if is_large { (BYTES, ITEMS) } else { (8, 8) };
                format!(
                    "{{% set t = 'é' * {bytes} %}}{{% set u = 'é' * {bytes} %}}{{% set l = [range({items}) | list] %}}\
                     {{% set m = [range({items}) | list] %}}{{% for i in range({times}) %}}{{% set x = {used} %}}{{% endfor %}}",
                )
            };
            let body = r#"{"messages":[]}"#;
            let each = |is_large| {
                let ((once, _), (often, error)) = (
                    cost(&source(is_large, 1), frontend, body),
                    cost(&source(is_large, 1 + TIMES), frontend, body),
                );
                (often.saturating_sub(once) / TIMES, error)
            };
            let ((small, _), (large, error)) = (each(false), each(true));
            // What a unit of fuel pays for.
            let least = if is_text {
                BYTES as u64 / 64 * 32
            } else {
                ITEMS as u64 / 2 * 32
            };
            assert_eq!(
                error.filter(|error| *error != "template_limit"),
                None,
                "{frontend:?}: {used}"
            );
            assert!(
                large >= small + least,
                "{frontend:?}: {used}: {small} and {large}, not {least} more: {error:?}"
            );
        }
    }
}

/// The functions that ask for fuel have names, which a template could give to others. Long ones take long to look up.
#[test]
fn templates_with_names_that_bounds_need_do_not_compile() {
    let long = format!("{{{{ messages.{} }}}}", "x".repeat(257));
    for source in [
        &long,
        "{% set __paid = __kept %}",
        "{% macro __whole(x) %}{% endmacro %}",
        "{% for __sliced in [1] %}{% endfor %}",
        "{% with __indexed = 1 %}{% endwith %}",
        "{{ __searched([1]) }}",
    ] {
        for frontend in FRONTENDS {
            let refused = ChatTemplate::compile(&model(source, frontend))
                .map(drop)
                .unwrap_err()
                .to_string();
            let why = ["names with `__`", "more than 256 letters"];
            assert!(why.iter().any(|why| refused.contains(why)), "{source}: {refused}");
        }
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
                let text = model(&format!("{start}{}{end}", link.repeat(links)), frontend);
                // The stack that a thread of a VM has.
                let thread = std::thread::Builder::new().stack_size(1 << 20);
                let compile = move || {
                    ChatTemplate::compile(&text)
                        .map(drop)
                        .map_err(|error| error.to_string())
                };
                thread.spawn(compile).unwrap().join().unwrap()
            };
            // A slice is two calls around what is sliced.
            let links = if link == "[:]" { 50 } else { 100 };
            assert_eq!(compiled(links), Ok(()), "{link}");
            let refused = compiled(30_000).unwrap_err();
            assert!(refused.contains("nests too deeply"), "{link}: {refused}");
        }
    }
}
