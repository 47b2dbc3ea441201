use super::*;
use crate::chat::render_input;
use crate::openai::ChatPrompt;
use crate::test_support::MODEL;

fn request(prompt: &[u32], max_tokens: usize) -> Request<'_> {
    Request {
        prompt,
        starts_line: true,
        max_tokens,
        ignore_eos: false,
        seed: 7,
    }
}

fn chat_ids(messages: serde_json::Value) -> Vec<u32> {
    let prompt: ChatPrompt = serde_json::from_value(serde_json::json!({"messages": messages})).expect("prompt");
    let template = MODEL.template.as_ref().expect("template");
    let text = template
        .render(render_input(prompt, None).expect("messages"))
        .expect("renders");
    MODEL.encode(&text, false).expect("encodes")
}

#[test]
fn an_answer_sent_back_as_history_has_the_same_tokens() {
    for turn in 0..40_usize {
        let question = serde_json::json!({"role": "user", "content": format!("Question {turn}?")});
        let prompt = chat_ids(serde_json::json!([question]));
        let answer = answer(&MODEL, request(&prompt, 1 + turn * 20)).expect("answers");
        let text = answer.pieces.concat();
        let history = chat_ids(serde_json::json!([question, {"role": "assistant", "content": text},
            {"role": "user", "content": "Go on."}]));
        let so_far: Vec<u32> = prompt.iter().chain(&answer.ids).copied().collect();
        assert_eq!(history[..so_far.len()], so_far, "{text:?}");
    }
}

#[test]
fn decided_by_prompt_and_seed() {
    let one = answer(&MODEL, request(&[1, 2, 3], 30)).expect("answers");
    assert_eq!(one, answer(&MODEL, request(&[1, 2, 3], 30)).expect("answers"));
    assert_ne!(one, answer(&MODEL, request(&[1, 2, 4], 30)).expect("answers"));
    assert_ne!(
        one,
        answer(
            &MODEL,
            Request {
                seed: 8,
                ..request(&[1, 2, 3], 30)
            }
        )
        .expect("answers")
    );
}

#[test]
fn ends_at_max_tokens_or_by_itself() {
    let short = answer(&MODEL, request(&[1], 5)).expect("answers");
    assert_eq!(
        (short.ids.len(), short.pieces.len(), short.finish_reason),
        (5, 5, FinishReason::Length)
    );
    let long = answer(&MODEL, request(&[1], 100_000)).expect("answers");
    assert_eq!(
        (long.ids.last().copied(), long.finish_reason),
        (MODEL.eos, FinishReason::Stop)
    );
    assert_eq!(long.ids.len(), long.pieces.len());
    assert_eq!(
        long.pieces.last().map(String::as_str),
        Some(""),
        "the end token is no text"
    );
    let forced = answer(
        &MODEL,
        Request {
            ignore_eos: true,
            ..request(&[1], 1000)
        },
    )
    .expect("answers");
    assert_eq!((forced.ids.len(), forced.finish_reason), (1000, FinishReason::Length));
}

#[test]
fn a_character_split_over_tokens_comes_whole() {
    let ids = MODEL.encode("ok 🦀𓀀!", false).expect("encodes");
    let pieces = MODEL.pieces(&ids).expect("decodes");
    assert_eq!(pieces.concat(), "ok 🦀𓀀!");
    assert!(
        pieces.iter().any(String::is_empty),
        "no token ended inside a character: {pieces:?}"
    );
    assert!(!pieces.iter().any(|piece| piece.contains('\u{fffd}')), "{pieces:?}");
}
