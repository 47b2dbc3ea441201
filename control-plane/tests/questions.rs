//! Questions about overlaps, in every form.

mod common;

use common::*;
use control_plane::app::App;
use serde_json::{Value, json};

fn list(numbers: impl IntoIterator<Item = impl ToString>) -> String {
    let texts: Vec<_> = numbers.into_iter().map(|number| number.to_string()).collect();
    texts.join(",")
}

fn overlap(prompt_blocks: u32, held: u32) -> Value {
    let one = json!({"endpoint": "10.0.0.0:8000", "dp_rank": 0, "blocks": held, "device": held, "host": 0, "disk": 0});
    json!({"pool": POOL, "prompt_blocks": prompt_blocks, "overlap": [one]})
}

#[tokio::test(flavor = "multi_thread")]
async fn overlaps_are_told_for_hashes_and_for_token_ids() {
    let engine = Engine::start().await;
    let app = App::start(config(&model_dir("questions"), &[&engine], ""))
        .await
        .unwrap();
    let held = prompt(1, 3);
    let tokens = list(&held);
    let by_tokens = format!("/v1/overlap?model=tiny&token_ids={tokens}");
    let known = async {
        // A PUB socket sends nothing to a subscription that it has not taken note of yet.
        while get(&app, &by_tokens).await != (200, overlap(3, 3).to_string()) {
            engine.publish([store(&held, 100)]).await;
        }
    };
    tokio::time::timeout(PATIENCE, known).await.expect("the blocks");

    let ask = async |query: String| get(&app, &format!("/v1/overlap?{query}")).await;
    let hashes = list(hashes_of(&prompt(1, 4)).iter().map(|hash| hash.0));
    assert_eq!(
        ask(format!("pool={POOL}&hashes={hashes}")).await,
        (200, overlap(4, 3).to_string())
    );
    assert_eq!(
        ask(format!("model=tiny&hashes={hashes}")).await,
        (200, overlap(4, 3).to_string())
    );
    let (_, body) = post(&app, "/v1/overlap", &json!({"pool": POOL, "token_ids": held})).await;
    assert_eq!(body, overlap(3, 3).to_string());
    // Another namespace and other adapters hash differently.
    for apart in ["pool=tiny&cache_salt=tenant", "pool=tiny&lora=tuned", "model=tuned"] {
        let answer = ask(format!("{apart}&token_ids={tokens}")).await;
        assert_eq!(answer, (200, overlap(3, 0).to_string()), "{apart}");
    }
    for (query, status, why) in [
        (format!("model=no&token_ids={tokens}"), 404, "is served by no pool"),
        (format!("token_ids={tokens}"), 400, "one of pool and model"),
        (
            format!("pool={POOL}&model=tiny&token_ids=1"),
            400,
            "one of pool and model",
        ),
        (format!("pool={POOL}"), 400, "one of hashes and token_ids"),
        (
            format!("pool={POOL}&hashes=1&token_ids=1"),
            400,
            "one of hashes and token_ids",
        ),
        (format!("pool={POOL}&hashes=1&lora=tuned"), 400, "not of hashes"),
        (format!("pool={POOL}&hashes=1,-1"), 400, "-1"),
        (format!("pool={POOL}&token_ids=1,4294967296"), 400, "4294967296"),
    ] {
        let (found, body) = ask(query.clone()).await;
        assert!(found == status && body.contains(why), "{query}: {found} {body}");
    }
}
