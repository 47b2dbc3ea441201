mod hostile;
mod prompts;

use super::*;
use reading::BYTES_PER_TOKEN;
use router_core::cost::CostWeights;
use router_core::fleet::{ArtefactId, Fleet, ModelName};
use router_core::hash::BlockLayout;
use router_core::levels::Levels;
use router_core::replica::{Position, Update};

const NOW: Millis = Millis(1_000);

fn pool(name: &str) -> Pool {
    let model = |name: String, lora: Option<&str>| ModelName {
        name,
        lora: lora.map(str::to_owned),
    };
    Pool {
        name: name.to_owned(),
        epoch: 1,
        models: vec![
            model(format!("{name}-model"), None),
            model(format!("{name}-lora"), Some("adapter")),
        ],
        layout: BlockLayout::plain(16).expect("positive"),
        levels: Levels::default(),
        tokenizer: Some(ArtefactId([1; 16])),
        template: None,
        kv_events: true,
        stride: std::num::NonZeroU32::MIN,
        weights: CostWeights::default(),
        temperature: 0.0,
        inject_tokens: false,
        candidates: Vec::new(),
    }
}

/// A router that is in step with the control plane.
fn router(pools: Vec<Pool>) -> Router {
    let mut router = Router::new(60_000);
    router.link_up();
    let names: Vec<String> = pools.iter().map(|pool| pool.name.clone()).collect();
    router.set_fleet(Fleet { pools });
    for name in names {
        let position = Position { epoch: 1, version: 0 };
        let begin = Update::Begin { position, blocks: 0 };
        router.apply(&name, begin).expect("begins");
        router.apply(&name, Update::End { checksum: 0 }).expect("ends");
    }
    router
}

/// Pool and reason, or the reason for no pool.
fn outcome(router: &Router, seen: Seen<'_>) -> Result<(String, &'static str, u64), &'static str> {
    let knowledge = Knowledge {
        router,
        artefacts: &Artefacts::default(),
        max_prompt_bytes: 200,
        limits: Limits::DEFAULT,
    };
    let (pool, reading) = knowledge.read(&mut Memory::new(0, [0; 2]), Shape::Chat, seen, NOW)?;
    let reason = reading.known.map(|_| ()).expect_err("there is no tokenizer");
    Ok((pool.name.clone(), reason, reading.input_tokens))
}

fn check(router: &Router, body: &str, expected: Result<(&str, &'static str), &'static str>) {
    let tokens = body.len() as u64 / BYTES_PER_TOKEN;
    let expected = expected.map(|(pool, reason)| (pool.to_owned(), reason, tokens));
    assert_eq!(
        outcome(
            router,
            Seen::Body {
                bytes: body.as_bytes(),
                tenant: None
            }
        ),
        expected,
        "{body}"
    );
}

#[test]
fn with_one_pool_only_a_foreign_model_has_none() {
    let router = router(vec![pool("p")]);
    let long = format!(r#"{{"model":"p-lora","messages":[],"x":"{}"}}"#, "x".repeat(200));
    let long_foreign = format!(r#"{{"model":"q","messages":[],"x":"{}"}}"#, "x".repeat(200));
    let cases = [
        (r#"{"model":"p-model","messages":[]}"#, Ok("not_loaded")),
        (r#"{"model":"p-lora","messages":[]}"#, Ok("not_loaded")),
        (r#"{"messages":[]}"#, Ok("not_loaded")),
        (r#"{"model":"q","messages":[]}"#, Err("unknown_model")),
        (r#"{"model":"p-model"}"#, Ok("no_prompt")),
        (r#"{"model":"p-model","messages":7}"#, Ok("bad_field")),
        ("{", Ok("not_json")),
        ("[]", Ok("not_an_object")),
        (&long, Ok("prompt_too_large")),
        (&long_foreign, Err("unknown_model")),
    ];
    for (body, expected) in cases {
        check(&router, body, expected.map(|reason| ("p", reason)));
    }
    let unread = |reason, bytes| outcome(&router, Seen::Nothing { reason, bytes });
    assert_eq!(unread("empty_body", 0), Ok(("p".to_owned(), "empty_body", 0)));
    assert_eq!(
        unread("body_too_large", 4_000),
        Ok(("p".to_owned(), "body_too_large", 1_000))
    );
}

#[test]
fn with_two_pools_the_model_must_be_told() {
    let router = router(vec![pool("p"), pool("q")]);
    let long = format!(r#"{{"model":"q-model","messages":[],"x":"{}"}}"#, "x".repeat(200));
    let cases = [
        (r#"{"model":"q-model","messages":[]}"#, Ok(("q", "not_loaded"))),
        (r#"{"messages":[]}"#, Err("no_model")),
        ("{", Err("not_json")),
        (r#"{"model":"p-model"}"#, Err("no_prompt")),
        (&long, Ok(("q", "prompt_too_large"))),
    ];
    for (body, expected) in cases {
        check(&router, body, expected);
    }
    let unread = outcome(
        &router,
        Seen::Nothing {
            reason: "body_too_large",
            bytes: 9,
        },
    );
    assert_eq!(unread, Err("body_too_large"));
}

#[test]
fn prompts_that_would_not_be_looked_up_are_not_read() {
    let body = r#"{"model":"p-model","messages":[]}"#;
    check(&Router::new(0), body, Err("no_fleet"));
    let without_events = Pool {
        kv_events: false,
        ..pool("p")
    };
    check(&router(vec![without_events]), body, Ok(("p", "no_kv_events")));
    let without_tokenizer = Pool {
        tokenizer: None,
        ..pool("p")
    };
    check(&router(vec![without_tokenizer]), body, Ok(("p", "no_tokenizer")));
    let mut lost = router(vec![pool("p")]);
    lost.set_max_staleness(0);
    lost.link_down(Millis(0));
    check(&lost, body, Ok(("p", "view_too_old")));
}
