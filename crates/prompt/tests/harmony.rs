//! gpt-oss's prompts against vLLM's own: text and ids, zero differences.
//!
//! `data/vllm_0.32_harmony.jsonl` was made by vLLM 0.32.0's request models and its rendering for gpt-oss, with
//! `oss-harmony` 0.0.11, from bodies drawn at random: in each line the shape, the body, the prompt (`null`: refused) and
//! the FNV-1a hash of the ids. `WARMPATH_HARMONY_CASES` may name a file of more such lines.

mod support;

use std::fs;

use prompt::{Body, ChatTemplate, ModelText, Piece, Prompt, PromptError, Rules, Shape};
use serde_json::{Value, json};
use tokenizer::Tokenizer;

/// 2026-11-23, the day of the recording.
const NOW: i64 = 1_795_426_800;

fn harmony() -> ChatTemplate {
    let rules = Rules {
        harmony: true,
        ..Rules::default()
    };
    let template = ChatTemplate::compile(&ModelText {
        rules,
        ..ModelText::default()
    });
    let template = template.unwrap();
    template.set_now(NOW);
    template
}

fn tokenizer() -> Tokenizer {
    let canonical = tk_convert::canonicalize_file(support::model("gptoss").join("tokenizer.json")).unwrap();
    Tokenizer::load(tokenizer::build(canonical.as_bytes()).unwrap()).unwrap()
}

fn pieces(template: &ChatTemplate, shape: Shape, body: &Value) -> Result<Vec<Piece>, PromptError> {
    let body = body.to_string();
    match Body::read(shape, body.as_bytes()).unwrap().prompt(Some(template))? {
        Prompt::Pieces(pieces) => Ok(pieces),
        other => panic!("{other:?}"),
    }
}

fn ids(tokenizer: &Tokenizer, pieces: &[Piece]) -> Vec<u32> {
    let mut ids = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Special(token) => tokenizer.encode_into(token, false, &mut ids).unwrap(),
            Piece::Text(text) => tokenizer
                .encode_plain_into(text, &work::Work::unbounded(), &mut ids)
                .unwrap(),
        }
    }
    ids
}

fn fnv(ids: &[u32]) -> u64 {
    let bytes = ids.iter().flat_map(|id| id.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[test]
fn prompts_are_vllms() {
    let (template, tokenizer) = (harmony(), tokenizer());
    let more = std::env::var("WARMPATH_HARMONY_CASES").map(|file| fs::read_to_string(file).unwrap());
    let recorded = more.as_deref().unwrap_or(include_str!("data/vllm_0.32_harmony.jsonl"));
    let (mut compared, mut refused, mut ours_alone) = (0, 0, Vec::new());
    for line in recorded.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let shape = match case["shape"].as_str() {
            Some("chat") => Shape::Chat,
            Some("messages") => Shape::Messages,
            Some("responses") => Shape::Responses,
            other => panic!("{other:?}"),
        };
        match (pieces(&template, shape, &case["body"]), case["prompt"].as_str()) {
            (Ok(pieces), Some(expected)) => {
                let text: String = pieces.iter().map(Piece::as_str).collect();
                assert_eq!(text, expected, "{line}");
                assert_eq!(fnv(&ids(&tokenizer, &pieces)).to_string(), case["ids"], "{line}");
                compared += 1;
            }
            (Err(error), Some(_)) => ours_alone.push(format!("{error}: {line}")),
            // What vLLM refuses has no prompt.
            (_, None) => refused += 1,
        }
    }
    println!("{compared} compared, {refused} refused");
    assert_eq!(ours_alone, Vec::<String>::new());
    assert!(compared > 4 * refused, "{compared} compared, {refused} refused");
}

#[test]
fn what_cannot_be_exact_is_refused() {
    let template = harmony();
    let user = json!([{"role": "user", "content": "x"}]);
    let call = json!([{"role": "assistant", "tool_calls":
        [{"id": "c", "type": "function", "function": {"name": "f<|message|>", "arguments": "{}"}}]}]);
    for (shape, body, expected) in [
        (
            Shape::Chat,
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            "multimodal",
        ),
        (
            Shape::Chat,
            json!({"messages": user, "reasoning_effort": "none"}),
            "bad_field",
        ),
        (Shape::Chat, json!({"messages": call}), "bad_field"),
        (
            Shape::Responses,
            json!({"input": "x", "previous_response_id": "r"}),
            "unsupported_field",
        ),
        (
            Shape::Responses,
            json!({"input": "x", "previous_input_messages": user}),
            "unsupported_field",
        ),
        (
            Shape::Responses,
            json!({"input": "x", "tools": [{"type": "custom", "name": "f"}]}),
            "bad_field",
        ),
    ] {
        let reason = pieces(&template, shape, &body).map_err(|error| error.reason());
        assert_eq!(reason, Err(expected), "{body}");
    }
}

#[test]
fn the_day_must_be_known() {
    let template = ChatTemplate::compile(&ModelText {
        rules: Rules {
            harmony: true,
            ..Rules::default()
        },
        ..ModelText::default()
    });
    let body = json!({"messages": [{"role": "user", "content": "x"}]});
    assert_eq!(
        pieces(&template.unwrap(), Shape::Chat, &body).map_err(|error| error.reason()),
        Err("template_error")
    );
}

#[test]
fn outputs_belong_to_the_last_call_before_them() {
    let call = |name| json!({"type": "function_call", "call_id": "c", "name": name, "arguments": ""});
    let output = json!({"type": "function_call_output", "call_id": "c", "output": ""});
    let authors = |items: &[&Value]| {
        let pieces = pieces(&harmony(), Shape::Responses, &json!({"input": items}));
        let author = |piece: Piece| Some(piece.as_str().strip_prefix("functions.")?.to_owned());
        pieces.map(|pieces| pieces.into_iter().filter_map(author).collect::<Vec<_>>())
    };
    let told = authors(&[&call("f"), &output, &call("g"), &output, &output]).unwrap();
    assert_eq!(told, ["f", "g", "g"]);
    let before_all = authors(&[&output, &call("f")]).map_err(|error| error.reason());
    assert_eq!(before_all, Err("bad_field"));
}

#[test]
fn of_properties_with_one_name_the_first_gives_the_place_and_the_last_the_value() {
    let body = r#"{"messages": [{"role": "user", "content": "x"}], "tools": [{"function": {"name": "f", "parameters":
        {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "boolean"}, "a": {"type": "number"}}}}}]}"#;
    let body = Body::read(Shape::Chat, body.as_bytes()).unwrap();
    let Prompt::Pieces(pieces) = body.prompt(Some(&harmony())).unwrap() else {
        panic!("no pieces")
    };
    let text: String = pieces.iter().map(Piece::as_str).collect();
    assert!(
        text.contains("= (_: {\na?: number,\nb?: boolean,\n}) => any;"),
        "{text}"
    );
}
