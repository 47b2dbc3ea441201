//! Every path with a prompt is routed by it; what the workers then say about the path is theirs.

use anyhow::Result;
use serde_json::json;
use testbed::{ControlPlaneOptions, EngineOptions, EnvoyOptions, MODEL, Mode, Testbed};
use wasm_tests::state::Decisions;
use wasm_tests::{gateway, run, synced};

#[tokio::test(flavor = "multi_thread")]
async fn every_path_with_a_prompt_is_routed_by_it() -> Result<()> {
    let bed = Testbed::builder("shapes")
        .engines(2, EngineOptions::default())
        .control_plane(ControlPlaneOptions::default())
        .envoy(EnvoyOptions::new(Mode::Warmpath))
        .start()
        .await?;
    run(bed, async |bed| {
        synced(bed).await?;
        let chat = json!([{"role": "user", "content": "Who?"}]);
        let image =
            json!([{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://x/y"}}]}]);
        for (path, body, decisions) in [
            ("/v1/chat/completions", json!({"messages": chat}), Some("exact.ok")),
            (
                "/v1/completions",
                json!({"prompt": ["Who?", "What?"]}),
                Some("exact.ok"),
            ),
            ("/v1/responses", json!({"input": "Who?"}), Some("exact.ok")),
            (
                "/v1/responses",
                json!({"input": chat, "previous_response_id": "x"}),
                Some("load.unsupported_field"),
            ),
            (
                "/v1/messages",
                json!({"messages": chat, "max_tokens": 2}),
                Some("exact.ok"),
            ),
            (
                "/v1/messages?beta=true",
                json!({"messages": image, "max_tokens": 2}),
                Some("load.multimodal"),
            ),
            ("/v1/embeddings", json!({"input": ["Who?", "What?"]}), Some("exact.ok")),
            ("/v1/messages/count_tokens", json!({"messages": chat}), None),
            ("/tokenize", json!({"messages": chat}), None),
            ("/nowhere", json!({"messages": chat}), None),
        ] {
            let mut body = body;
            body["model"] = MODEL.into();
            let before = Decisions::read(gateway(bed)?).await?;
            let routed = bed.client.post_json(&gateway(bed)?.url(path), &body).await?;
            let direct = bed.client.post_json(&bed.engines[0].url(path), &body).await?;
            assert_eq!(routed.status, direct.status, "{path}");
            let decided = Decisions::read(gateway(bed)?).await?.since(&before);
            let expected = decisions.map_or_else(Decisions::default, |decision| Decisions::of([(decision, 1)]));
            assert_eq!(decided, expected, "{path} {body}");
        }
        let batches = gateway(bed)?.stats().await?;
        assert_eq!(batches.get("wasmcustom.warmpath.batches"), Some(&2));
        Ok(())
    })
    .await;
    Ok(())
}
