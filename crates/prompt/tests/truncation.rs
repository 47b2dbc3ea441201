//! `truncate_prompt_tokens`: what is kept is what `tokenizers` 0.23 keeps, or a slice, as vLLM 0.32 says.

mod support;

use std::sync::{LazyLock, Mutex, PoisonError};

use prompt::{Body, ChatTemplate, Frontend, ModelText, Prompt, PromptError, Rules, Shape};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::{TruncationDirection, TruncationParams};

/// A tokenizer in both libraries.
struct Both {
    ours: tokenizer::Tokenizer,
    /// To be told how to truncate.
    theirs: Mutex<tokenizers::Tokenizer>,
}

impl Both {
    fn new(json: &str) -> Self {
        let canonical = tk_convert::canonicalize_str(json).unwrap();
        let artefact = tokenizer::build(canonical.as_bytes()).unwrap();
        Self {
            ours: tokenizer::Tokenizer::load(artefact).unwrap(),
            theirs: Mutex::new(json.parse().unwrap()),
        }
    }
}

/// With flat tables and a token before each text, and as JSON with a token on either side.
static TOKENIZERS: LazyLock<[Both; 2]> = LazyLock::new(|| {
    let gemma = std::fs::read_to_string(support::model("gemma3").join("tokenizer.json")).unwrap();
    let token = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let vocab = ["[UNK]", "[CLS]", "[SEP]", "a", "b", "##a", "##b", "ab", "the", "end"];
    let vocab: serde_json::Map<_, _> = vocab
        .iter()
        .zip(0..)
        .map(|(text, id)| ((*text).to_owned(), json!(id)))
        .collect();
    let bert = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "decoder": null,
        "added_tokens": [token(0, "[UNK]"), token(1, "[CLS]"), token(2, "[SEP]")],
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocab}});
    [Both::new(&gemma), Both::new(&bert.to_string())]
});

/// The ids that we keep of a text.
fn kept(tokenizer: &tokenizer::Tokenizer, shape: Shape, body: &Value) -> Result<Vec<u32>, PromptError> {
    let bytes = body.to_string();
    match Body::read(shape, bytes.as_bytes()).unwrap().prompt(None)? {
        Prompt::Truncated {
            text,
            add_special_tokens,
            truncation,
        } => {
            let mut ids = Vec::new();
            tokenizer.encode_into(&text, add_special_tokens, &mut ids).unwrap();
            let around = if add_special_tokens { tokenizer.around() } else { [0; 2] };
            truncation.apply(&ids, around)
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn tokenizers_keep_the_same(
        text in "[ab .<>_é]{0,12}( (the|end|ab)){0,12}",
        keep in 2..16_usize,
        add_special_tokens in any::<bool>(),
        side in proptest::sample::select(vec![None, Some("left"), Some("right")]),
        model in 0..2_usize,
    ) {
        let Both { ours, theirs } = &TOKENIZERS[model];
        let mut theirs = theirs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut encode = |truncation: Option<TruncationParams>| {
            theirs.with_truncation(truncation).unwrap();
            theirs.encode(text.as_str(), add_special_tokens).unwrap().get_ids().to_vec()
        };
        for (shape, field, of_tokenizer) in [
            (Shape::Completions, "prompt", TruncationDirection::Left),
            (Shape::Embeddings, "input", TruncationDirection::Right),
        ] {
            let body = json!({field: text, "truncate_prompt_tokens": keep, "truncation_side": side,
                "add_special_tokens": add_special_tokens});
            let expected = match side {
                // The tokenizer truncates.
                None => {
                    let direction = of_tokenizer;
                    encode(Some(TruncationParams { max_length: keep, direction, ..TruncationParams::default() }))
                }
                // vLLM takes a slice of all tokens.
                Some(side) => {
                    let all = encode(None);
                    let surplus = all.len().saturating_sub(keep);
                    if side == "left" { all[surplus..].to_vec() } else { all[..all.len() - surplus].to_vec() }
                }
            };
            prop_assert_eq!(kept(ours, shape, &body), Ok(expected), "{}", body);
        }
    }
}

#[test]
fn tokens_are_sliced() {
    for (shape, side, expected) in [
        (Shape::Completions, Value::Null, vec![3, 4]),
        (Shape::Completions, json!("right"), vec![1, 2]),
        (Shape::Embeddings, Value::Null, vec![1, 2]),
        (Shape::Embeddings, json!("left"), vec![3, 4]),
    ] {
        let field = if shape == Shape::Completions { "prompt" } else { "input" };
        let body = json!({field: [1, 2, 3, 4], "truncate_prompt_tokens": 2, "truncation_side": side}).to_string();
        let body = Body::read(shape, body.as_bytes()).unwrap();
        assert_eq!(body.prompt(None), Ok(Prompt::Tokens(expected)), "{shape:?} {side}");
    }
}

#[test]
fn where_it_does_nothing_or_cannot_be_told() {
    let template = |frontend| {
        let rules = Rules {
            frontend,
            ..Rules::default()
        };
        let text = ModelText {
            chat_template: Some("{{ messages[0].content }}".to_owned()),
            rules,
            ..ModelText::default()
        };
        ChatTemplate::compile(&text).unwrap()
    };
    let reading = |shape, body: Value, frontend| {
        let body = body.to_string();
        let body = Body::read(shape, body.as_bytes()).unwrap();
        let prompt = body.prompt(Some(&template(frontend)));
        prompt
            .map(|prompt| matches!(prompt, Prompt::Truncated { .. }))
            .map_err(|error| error.reason())
    };
    let user = json!([{"role": "user", "content": "x"}]);
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]);
    for (shape, body, expected) in [
        (
            Shape::Chat,
            json!({"messages": user, "truncate_prompt_tokens": 5}),
            Ok(true),
        ),
        (
            Shape::Chat,
            json!({"messages": user, "truncate_prompt_tokens": null}),
            Ok(false),
        ),
        // Fields that these do not have.
        (
            Shape::Messages,
            json!({"messages": user, "truncate_prompt_tokens": 5}),
            Ok(false),
        ),
        (
            Shape::Responses,
            json!({"input": "x", "truncate_prompt_tokens": 5}),
            Ok(false),
        ),
        // As long as the model's context.
        (
            Shape::Chat,
            json!({"messages": user, "truncate_prompt_tokens": -1}),
            Err("unsupported_field"),
        ),
        (
            Shape::Chat,
            json!({"messages": image, "truncate_prompt_tokens": 5}),
            Err("unsupported_field"),
        ),
        (
            Shape::Chat,
            json!({"messages": user, "truncate_prompt_tokens": 0}),
            Err("bad_field"),
        ),
        (
            Shape::Chat,
            json!({"messages": user, "truncate_prompt_tokens": -2}),
            Err("bad_field"),
        ),
        (
            Shape::Chat,
            json!({"messages": user, "truncate_prompt_tokens": "x"}),
            Err("bad_field"),
        ),
        (
            Shape::Chat,
            json!({"messages": user, "truncate_prompt_tokens": 5, "truncation_side": "middle"}),
            Err("bad_field"),
        ),
        (
            Shape::Embeddings,
            json!({"input": "x", "padding": "max_length"}),
            Err("unsupported_field"),
        ),
        (
            Shape::Embeddings,
            json!({"input": "x", "padding": "do_not_pad"}),
            Ok(false),
        ),
        (
            Shape::Completions,
            json!({"prompt": "x", "suffix": "y"}),
            Err("unsupported_field"),
        ),
    ] {
        assert_eq!(reading(shape, body.clone(), Frontend::Vllm), expected, "{body}");
    }
    let body = json!({"prompt": "x", "truncate_prompt_tokens": 5});
    assert_eq!(
        reading(Shape::Completions, body, Frontend::Dynamo),
        Err("unsupported_field")
    );
    // Fewer than the tokenizer adds.
    let body = json!({"prompt": "a b", "truncate_prompt_tokens": 1});
    let refused = kept(&TOKENIZERS[1].ours, Shape::Completions, &body).map_err(|error| error.reason());
    assert_eq!(refused, Err("unsupported_field"));
}
