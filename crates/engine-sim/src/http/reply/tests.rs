use serde_json::json;

use super::*;
use crate::generate::FinishReason;

fn reply(api: Api, pieces: &[&str]) -> Reply {
    Reply {
        api,
        id: "id-1".to_owned(),
        created: 5,
        model: "m".to_owned(),
        prompt_tokens: 10,
        answer: Answer {
            ids: (0..).take(pieces.len()).collect(),
            pieces: pieces.iter().map(|&piece| piece.to_owned()).collect(),
            finish_reason: FinishReason::Length,
        },
    }
}

fn stream(reply: &Reply, include_usage: bool) -> Vec<String> {
    let count = reply.answer.ids.len();
    (1..=count)
        .map(|generated| Progress {
            id: 1,
            generated,
            cached_tokens: 8,
            finished: generated == count,
        })
        .flat_map(|progress| reply.events(progress, include_usage))
        .map(|event| String::from_utf8(event.to_vec()).expect("text"))
        .collect()
}

fn event(data: Json) -> String {
    format!("data: {data}\n\n")
}

#[test]
fn chat_stream() {
    let chunk = |choices: Json| json!({"id": "id-1", "object": "chat.completion.chunk", "created": 5, "model": "m", "choices": choices});
    let delta = |delta: Json, finish_reason: Option<&str>| {
        event(chunk(
            json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason}]),
        ))
    };
    let mut usage = chunk(json!([]));
    usage["usage"] = json!({"prompt_tokens": 10, "total_tokens": 13, "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 8}});
    assert_eq!(
        stream(&reply(Api::Chat, &["a", "", "é\n"]), true),
        [
            delta(json!({"role": "assistant", "content": ""}), None),
            delta(json!({"content": "a"}), None),
            delta(json!({"content": "é\n"}), Some("length")),
            event(usage),
            "data: [DONE]\n\n".to_owned(),
        ]
    );
}

#[test]
fn text_stream_without_usage() {
    let chunk = |text: &str, finish_reason: Option<&str>| {
        let choice = json!({"index": 0, "text": text, "logprobs": null, "finish_reason": finish_reason});
        event(json!({"id": "id-1", "object": "text_completion", "created": 5, "model": "m", "choices": [choice]}))
    };
    assert_eq!(
        stream(&reply(Api::Text, &["a", ""]), false),
        [
            chunk("a", None),
            chunk("", Some("length")),
            "data: [DONE]\n\n".to_owned()
        ]
    );
}

#[test]
fn whole_chat() {
    assert_eq!(
        reply(Api::Chat, &["a", "b"]).full(8),
        json!({
            "id": "id-1", "object": "chat.completion", "created": 5, "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "ab"}, "logprobs": null,
                "finish_reason": "length"}],
            "usage": {"prompt_tokens": 10, "total_tokens": 12, "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": 8}},
        })
    );
}
