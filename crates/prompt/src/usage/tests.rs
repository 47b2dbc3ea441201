use proptest::prelude::*;

use super::*;

fn read_in_pieces<'a>(content_type: &str, pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<Usage> {
    let mut reader = UsageReader::new(content_type);
    for piece in pieces {
        reader.feed(piece);
    }
    reader.finish()
}

const USAGE: Usage = Usage {
    prompt_tokens: 220,
    completion_tokens: 7,
    cached_tokens: Some(192),
};

const JSON: &str = r#"{"id":"x","usage":{"prompt_tokens":220,"total_tokens":227,"completion_tokens":7,
    "prompt_tokens_details":{"cached_tokens":192}},"choices":[{"message":{"content":"né 🙂 \"usage\""}}]}"#;

fn event_stream(line_end: &str) -> String {
    [
        r#"data: {"choices":[{"delta":{"content":"né 🙂 \"usage\":{}"}}],"usage":null}"#,
        "",
        ": ping",
        r#"data: {"choices":[{"delta":{"content":"b"}}],"usage":{"prompt_tokens":220,"completion_tokens":1}}"#,
        "",
        r#"data:{"choices":[],"usage":{"prompt_tokens":220,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":192}}}"#,
        "",
        "data: [DONE]",
        "",
        "",
    ]
    .join(line_end)
}

proptest! {
    #[test]
    fn cuts_do_not_matter(cuts in prop::collection::vec(0usize..2000, 0..20), kind in 0usize..4) {
        let (content_type, body) = match kind {
            0 => ("application/json", JSON.to_owned()),
            1 => ("text/event-stream; charset=utf-8", event_stream("\n")),
            2 => ("text/event-stream", event_stream("\r\n")),
            _ => ("Text/Event-Stream", event_stream("\r")),
        };
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % (body.len() + 1)).chain([0, body.len()]).collect();
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| &body.as_bytes()[pair[0]..pair[1]]);
        prop_assert_eq!(read_in_pieces(content_type, pieces), Some(USAGE));
    }

    #[test]
    fn any_bytes_are_survived(body in prop::collection::vec(any::<u8>(), 0..500), stream: bool) {
        let content_type = if stream { "text/event-stream" } else { "application/json" };
        prop_assert_eq!(read_in_pieces(content_type, body.chunks(7)), None);
    }
}

#[test]
fn byte_by_byte() {
    let body = event_stream("\r\n");
    assert_eq!(
        read_in_pieces("text/event-stream", body.as_bytes().chunks(1)),
        Some(USAGE)
    );
}

#[test]
fn what_is_absent_is_none() {
    for (content_type, body, expected) in [
        ("application/json", "", None),
        ("application/json", "{}", None),
        ("application/json", r#"{"usage":null}"#, None),
        ("application/json", r#"{"usage":{"prompt_tokens":-1}}"#, None),
        ("text/plain", JSON, None),
        ("", JSON, None),
        ("text/event-stream", "data: [DONE]\n\n", None),
        (
            "application/json",
            r#"{"usage":{"prompt_tokens":5,"prompt_tokens_details":null}}"#,
            Some(Usage {
                prompt_tokens: 5,
                completion_tokens: 0,
                cached_tokens: None,
            }),
        ),
        (
            "text/event-stream",
            "data: {\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}",
            Some(Usage {
                prompt_tokens: 5,
                completion_tokens: 2,
                cached_tokens: None,
            }),
        ),
    ] {
        assert_eq!(
            read_in_pieces(content_type, [body.as_bytes()]),
            expected,
            "{content_type}: {body}"
        );
    }
}

#[test]
fn long_lines_are_skipped_and_the_next_is_read() {
    let long = format!(
        "data: {{\"usage\":{{\"prompt_tokens\":1}},\"x\":\"{}\"}}\n",
        "y".repeat(300_000)
    );
    for size in [1000, 400_000] {
        let body = format!("{long}{}", event_stream("\n"));
        assert_eq!(
            read_in_pieces("text/event-stream", body.as_bytes().chunks(size)),
            Some(USAGE)
        );
        assert_eq!(read_in_pieces("text/event-stream", long.as_bytes().chunks(size)), None);
    }
}

#[test]
fn a_json_body_beyond_the_limit_is_given_up_and_freed() {
    let mut reader = UsageReader::new("application/json");
    for _ in 0..20 {
        reader.feed(&[b' '; 100_000]);
    }
    assert!(matches!(reader.body, ResponseBody::Ignored));
    assert_eq!(reader.finish(), None);
}

#[test]
fn other_shapes_have_other_names() {
    let anthropic =
        r#"{"input_tokens":28,"output_tokens":7,"cache_read_input_tokens":192,"cache_creation_input_tokens":0}"#;
    let responses =
        r#"{"input_tokens":220,"input_tokens_details":{"cached_tokens":192},"output_tokens":7,"total_tokens":227}"#;
    let read = |content_type, body: String| read_in_pieces(content_type, [body.as_bytes()]);
    for usage in [anthropic, responses] {
        let whole = format!(r#"{{"id":"x","content":[],"usage":{usage}}}"#);
        assert_eq!(read("application/json", whole), Some(USAGE), "{usage}");
    }
    let start = r#"{"type":"message_start","message":{"id":"m","usage":{"input_tokens":220,"output_tokens":0}}}"#;
    let started = Usage {
        completion_tokens: 0,
        cached_tokens: None,
        ..USAGE
    };
    let stream = format!("event: message_start\ndata: {start}\n\n");
    assert_eq!(read("text/event-stream", stream.clone()), Some(started));
    let delta = format!(r#"{{"type":"message_delta","delta":{{"stop_reason":"end_turn"}},"usage":{anthropic}}}"#);
    let stream = format!("{stream}event: message_delta\ndata: {delta}\n\n");
    assert_eq!(read("text/event-stream", stream), Some(USAGE));

    let created = r#"{"type":"response.created","response":{"id":"r","usage":null}}"#;
    let completed = format!(r#"{{"type":"response.completed","response":{{"id":"r","usage":{responses}}}}}"#);
    let stream = format!("data: {created}\n\nevent: response.completed\ndata: {completed}\n\n");
    assert_eq!(read("text/event-stream", stream), Some(USAGE));
    let embeddings = r#"{"data":[],"usage":{"prompt_tokens":220,"total_tokens":220}}"#;
    assert_eq!(read("application/json", embeddings.to_owned()), Some(started));
}
