//! Request bodies that are made to cost much, of any length.
//!
//! Each aims at one thing that reading a prompt consists of: JSON, conversions, the template, normalizing, cutting into
//! words, merging, images, truncation.

/// A request.
#[derive(Clone, Debug)]
pub struct Hostile {
    /// What it aims at.
    pub name: &'static str,
    /// Where it goes.
    pub path: &'static str,
    /// Its body.
    pub body: String,
}

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

/// One of each kind, with bodies of about so many bytes.
pub fn requests(bytes: usize) -> Vec<Hostile> {
    let texts = texts(bytes).into_iter().map(|(name, text)| Hostile {
        name,
        path: CHAT,
        body: format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}]}}"#),
    });
    let all = texts.chain(structures(bytes)).chain(of_harmony(bytes));
    all.chain(images(bytes)).chain(truncated(bytes)).collect()
}

/// Texts, as they stand in JSON.
fn texts(bytes: usize) -> Vec<(&'static str, String)> {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let range = |first: u32, last: u32| (first..=last).filter_map(char::from_u32).collect::<Vec<_>>();
    let run = |unit: &str| repeated(unit, bytes);
    let mut all = vec![
        ("base64", random(bytes, &ALPHABET.chars().collect::<Vec<_>>())),
        ("letters", random(bytes, &range(0x61, 0x7a))),
        (
            "capitals and letters",
            random(bytes, &[range(0x41, 0x5a), range(0x61, 0x7a)].concat()),
        ),
        ("digits", random(bytes, &range(0x30, 0x39))),
        (
            "punctuation",
            random(bytes, &[range(0x23, 0x2f), range(0x3a, 0x40)].concat()),
        ),
        ("white space", random(bytes, &[' ', '\u{a0}', '\u{2003}', '\u{3000}'])),
        ("Chinese", random(bytes, &range(0x4e00, 0x9fff))),
        ("Hangul", random(bytes, &range(0xac00, 0xd7a3))),
        (
            "Hangul letters",
            random(bytes, &[range(0x1100, 0x1112), range(0x1161, 0x1175)].concat()),
        ),
        ("accents", random(bytes, &range(0x300, 0x36f))),
        (
            "letters with accents",
            random(bytes, &[range(0x61, 0x7a), range(0x300, 0x345)].concat()),
        ),
        (
            "emoji",
            random(bytes, &[range(0x1f300, 0x1f9ff), range(0x200d, 0x200d)].concat()),
        ),
        (
            "all of Unicode",
            random(
                bytes,
                &[range(0x23, 0x5b), range(0x80, 0xffff), range(0x10000, 0x1ffff)].concat(),
            ),
        ),
    ];
    let runs = [
        ("run of letters", "a"),
        ("run of digits", "0"),
        ("run of spaces", " "),
        ("run of hyphens", "-"),
        ("run of escaped line feeds", "\\n"),
        ("run of CRLF", "\\r\\n"),
        ("run of tabs and spaces", "\\t "),
        ("run of less-than signs", "<"),
        ("run of contractions", "'s"),
        ("run of starts of special tokens", "<|im_end"),
        ("run of special tokens", "<|im_end|>"),
        ("run of escaped characters", "\\u4e2d"),
        ("run of words", "hello world, "),
        ("run of composed letters", "\u{1e69}"),
    ];
    all.extend(runs.map(|(name, unit)| (name, run(unit))));
    all
}

/// Bodies of many small values.
fn structures(bytes: usize) -> Vec<Hostile> {
    let many = |unit: &str| repeated(unit, bytes);
    let keys: String = (0..bytes / 12).map(|n| format!("\"k{n}\":{n},")).collect();
    let chat = |name, body| Hostile { name, path: CHAT, body };
    let message = r#"{"role":"user","content":"x"}"#;
    let function = |parameters: String| {
        format!(
            r#"{{"messages":[{message}],"tools":[{{"type":"function","function":{{"name":"f","parameters":{parameters}}}}}]}}"#
        )
    };
    let tool = r#"{"type":"function","function":{"name":"f","description":"","parameters":{}}}"#;
    let call = r#"{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f","arguments":{}}}]},"#;
    vec![
        chat(
            "empty turns",
            format!(
                r#"{{"messages":[{}{message}]}}"#,
                many(r#"{"role":"user","content":""},{"role":"assistant","content":""},"#)
            ),
        ),
        chat(
            "tool calls",
            format!(r#"{{"messages":[{message},{}{message}]}}"#, many(call)),
        ),
        chat(
            "empty parts",
            format!(
                r#"{{"messages":[{{"role":"user","content":[{}{{"type":"text","text":"x"}}]}}]}}"#,
                many(r#"{"type":"text","text":""},"#)
            ),
        ),
        chat(
            "tools",
            format!(
                r#"{{"messages":[{message}],"tools":[{}{tool}]}}"#,
                many(&format!("{tool},"))
            ),
        ),
        chat("arrays in a tool", function(format!(r#"{{"a":[{}0]}}"#, many("[],")))),
        chat("numbers in a tool", function(format!(r#"{{"a":[{}0.5]}}"#, many("1,")))),
        chat(
            "fractions in a tool",
            function(format!(r#"{{"a":[{}0.5]}}"#, many("1.2345678901234567e-300,"))),
        ),
        chat("keys in a tool", function(format!("{{{keys}\"a\":0}}"))),
        chat(
            "keys of a message",
            format!(r#"{{"messages":[{{"role":"user","content":"x",{keys}"a":0}}]}}"#),
        ),
        chat(
            "template variables",
            format!(r#"{{"messages":[{message}],"chat_template_kwargs":{{{keys}"a":0}}}}"#),
        ),
        chat(
            "arrays in arguments",
            format!(
                r#"{{"messages":[{message},{{"role":"assistant","content":"","tool_calls":[{{"function":{{"name":"f","arguments":"[{}0]"}}}}]}},{message}]}}"#,
                many("[],")
            ),
        ),
        chat(
            "documents",
            format!(r#"{{"messages":[{message}],"documents":[{}{{}}]}}"#, many("{},")),
        ),
        chat(
            "an unknown field",
            format!(r#"{{"messages":[{message}],"zzz":[{}0]}}"#, many("[],")),
        ),
        Hostile {
            name: "items of a response",
            path: RESPONSES,
            body: format!(r#"{{"input":[{}{message}]}}"#, many(r#"{"role":"user","content":""},"#)),
        },
        Hostile {
            name: "blocks of a message",
            path: MESSAGES,
            body: format!(
                r#"{{"max_tokens":1,"messages":[{{"role":"user","content":[{}{{"type":"text","text":"x"}}]}}]}}"#,
                many(r#"{"type":"text","text":""},"#)
            ),
        },
        Hostile {
            name: "tool results",
            path: MESSAGES,
            body: format!(
                r#"{{"max_tokens":1,"messages":[{{"role":"user","content":[{}{{"type":"text","text":"x"}}]}}]}}"#,
                many(r#"{"type":"tool_result","tool_use_id":"a"},"#)
            ),
        },
        Hostile {
            name: "token ids",
            path: COMPLETIONS,
            body: format!(r#"{{"prompt":[{}1]}}"#, many("1,")),
        },
        Hostile {
            name: "a batch of texts",
            path: COMPLETIONS,
            body: format!(r#"{{"prompt":[{}"x"]}}"#, many("\"\",")),
        },
    ]
}

/// What gpt-oss's format does by code of its own. For other models these are bodies like others.
fn of_harmony(bytes: usize) -> Vec<Hostile> {
    const LEVELS: usize = 50;
    let properties: String = (0..bytes / 12).map(|n| format!("\"k{n}\":{n},")).collect();
    let (variants, ends) = (r#"{"nullable":true,"oneOf":["#.repeat(LEVELS), "]}".repeat(LEVELS));
    let value = repeated("nul", bytes);
    let of_tool = |name, parameters| Hostile {
        name,
        path: RESPONSES,
        body: format!(
            r#"{{"input":"x","tools":[{{"type":"function","name":"f","description":"","parameters":{parameters}}}]}}"#
        ),
    };
    vec![
        of_tool(
            "properties of a tool",
            format!(r#"{{"type":"object","properties":{{{properties}"a":0}}}}"#),
        ),
        of_tool(
            "variants in a tool that may be null",
            format!(r#"{variants}{{"type":"string","enum":["{value}"]}}{ends}"#),
        ),
        Hostile {
            name: "outputs of a call",
            path: RESPONSES,
            body: format!(
                r#"{{"input":[{{"type":"function_call","call_id":"a","name":"f","arguments":"{{}}"}},{}{{"role":"user","content":"x"}}]}}"#,
                repeated(r#"{"type":"function_call_output","call_id":"a","output":""},"#, bytes)
            ),
        },
    ]
}

/// Images in `data:` URLs, of which only the start is there.
fn images(bytes: usize) -> Vec<Hostile> {
    const SMALL: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAABwAAAAc";
    const LARGE: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAMsgAADLI";
    // A JPEG file of many segments without content, before the one that has the size.
    let photo = format!(
        "data:image/jpeg;base64,/9j/4QAC/+EAAv/h{}AAL/wAARCABAAEADAQAAAAAA",
        repeated("AAL/4QAC/+EAAv/h", bytes.min(200_000))
    );
    let known = |url: &str| format!(r#"{{"type":"image_url","image_url":{{"url":"{url}"}},"uuid":"a"}},"#);
    let unknown = format!(r#"{{"type":"image_url","image_url":{{"url":"{SMALL}"}}}},{{"type":"text","text":"x"}},"#);
    let chat = |name, turns: &str, parts: &str| Hostile {
        name,
        path: CHAT,
        body: format!(r#"{{"messages":[{turns}{{"role":"user","content":[{parts}{{"type":"text","text":"x"}}]}}]}}"#),
    };
    let turns = r#"{"role":"user","content":""},{"role":"assistant","content":""},"#;
    vec![
        chat("small images", "", &repeated(&known(SMALL), bytes)),
        chat("large images", "", &repeated(&known(LARGE), bytes)),
        chat(
            "photos",
            "",
            &repeated(&known(&photo), bytes.max(photo.len().saturating_add(100))),
        ),
        chat("images that are not known", "", &repeated(&unknown, bytes)),
        chat("empty turns before an image", &repeated(turns, bytes), &unknown),
        chat(
            "empty turns before an image that is known",
            &repeated(turns, bytes),
            &known(SMALL),
        ),
    ]
}

/// Texts of which an engine keeps some tokens.
fn truncated(bytes: usize) -> Vec<Hostile> {
    let digits = random(bytes, &('0'..='9').collect::<Vec<_>>());
    let words = repeated("hello world, ", bytes);
    let most = r#""truncate_prompt_tokens":4000000000"#;
    vec![
        Hostile {
            name: "truncated digits",
            path: COMPLETIONS,
            body: format!(r#"{{{most},"prompt":"{digits}"}}"#),
        },
        Hostile {
            name: "truncated words",
            path: COMPLETIONS,
            body: format!(r#"{{{most},"prompt":"{words}"}}"#),
        },
        Hostile {
            name: "a truncated chat",
            path: CHAT,
            body: format!(r#"{{{most},"messages":[{{"role":"user","content":"{words}"}}]}}"#),
        },
    ]
}

/// About so many bytes of the same.
fn repeated(unit: &str, bytes: usize) -> String {
    unit.repeat(bytes.checked_div(unit.len()).unwrap_or_default())
}

/// About so many bytes of these characters; always the same.
fn random(bytes: usize, characters: &[char]) -> String {
    let mut state = 7_u64;
    let mut text = String::with_capacity(bytes.saturating_add(4));
    while text.len() < bytes {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let at = (z ^ (z >> 27)).checked_rem(characters.len() as u64).unwrap_or_default();
        text.push(characters.get(at as usize).copied().unwrap_or('x'));
    }
    text
}
