//! Views that are thinned out or leave out what is old, and filters that do not keep up.

mod common;

use common::*;
use control_plane::app::App;
use control_plane::config::Config;
use proto::v1;
use router_core::Slot;
use serde_json::{Value, json};
use std::num::NonZeroU32;

/// One engine's pool with this `view`, nothing asked or given up in the time of a test.
fn config_with(name: &str, engine: &Engine, view: &str) -> Config {
    let Engine { events, replay, .. } = engine;
    let worker = format!("{{endpoint: 10.0.0.0:8000, kv_events: '{events}', replay: '{replay}'}}");
    let parity = format!("{{mode: off}}\n    view: {view}");
    let patient = "events: {disconnect_grace: 10m, probe_interval: 1h}\n";
    config_of(&model_dir(name), &[worker], &parity, patient)
}

async fn view_of(app: &App, done: impl Fn(&Value) -> bool) -> Value {
    let status = get_until(app, "/v1/status", |status| done(&status["pools"][0]["view"])).await;
    status["pools"][0]["view"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stride_thins_the_view_out() {
    let engine = Engine::start().await;
    let app = App::start(config_with("stride", &engine, "{stride: 4}")).await.unwrap();
    let mut filter = Filter::connect(&app).await;
    engine
        .publish([store(&prompt(1, 11), 100), store(&prompt(2, 3), 200)])
        .await;
    let stride = NonZeroU32::new(4).unwrap();
    let depth = |filter: &Filter, prompt: &[u32]| {
        let view = filter
            .replicas
            .get(POOL)
            .map(|replica| replica.view().depths_by(&hashes_of(prompt), stride));
        view.map_or(0, |depths| depths.of(Slot(0)))
    };
    filter
        .until("the blocks", |filter| depth(filter, &prompt(1, 11)) == 8)
        .await;
    assert_eq!(filter.fleet.pools[0].stride, stride);
    assert_eq!(
        (filter.replicas[POOL].view().len(), depth(&filter, &prompt(2, 3))),
        (2, 0)
    );
    let hashes: Vec<_> = hashes_of(&prompt(1, 11))
        .iter()
        .map(|hash| hash.0.to_string())
        .collect();
    let (_, overlap) = get(&app, &format!("/v1/overlap?pool={POOL}&hashes={}", hashes.join(","))).await;
    let overlap: Value = serde_json::from_str(&overlap).unwrap();
    assert_eq!(overlap["overlap"][0]["blocks"], 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_beyond_its_bound_loses_what_is_oldest() {
    let engine = Engine::start().await;
    let app = App::start(config_with("bound", &engine, "{max_mib: 1}")).await.unwrap();
    let mut filter = Filter::connect(&app).await;
    let prompts: Vec<_> = (1..=8).map(|number| prompt(number, 10_000)).collect();
    for (base, prompt) in (0..).step_by(100_000).zip(&prompts) {
        engine.publish([store(prompt, base)]).await;
    }
    let depths = |filter: &Filter| prompts.iter().map(|prompt| filter.depth(prompt, 0)).collect::<Vec<_>>();
    // 8 prompts of 10,000 blocks at 20 bytes are 1.6 MB: 5 of them fit, and 4 into the 80 % that are left of a view which
    // outgrew its bound.
    let is_young = |depths: &[u32]| {
        let hidden = depths.iter().take_while(|&&depth| depth == 0).count();
        (3..=4).contains(&hidden) && depths[hidden..].iter().all(|&depth| depth == 10_000)
    };
    filter.until("what is young", |filter| is_young(&depths(filter))).await;
    assert!(filter.replicas[POOL].view().bytes_at_most() <= 1 << 20);
    // Whoever comes now gets the same.
    let mut late = Filter::connect(&app).await;
    let same = depths(&filter);
    late.until("the snapshot", |late| depths(late) == same).await;
    let view = view_of(&app, |view| view["hidden"].as_u64() > Some(0)).await;
    let (_, metrics) = get(&app, "/metrics").await;
    let line = format!("warmpath_view_hidden_blocks{{pool=\"tiny\"}} {}", view["hidden"]);
    assert!(metrics.contains(&line), "{metrics}");
    // Somebody goes on with the oldest one.
    let longer = prompt(1, 10_001);
    engine.publish([store(&longer, 0)]).await;
    filter
        .until("the oldest, as it is young again", |filter| {
            filter.depth(&longer, 0) == 10_001
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_takes_nothing_holds_up_nobody() {
    let engine = Engine::start().await;
    let app = App::start(config_with("stalled", &engine, "{}")).await.unwrap();
    let stalled = Filter::connect(&app).await;
    let mut filter = Filter::connect(&app).await;
    // 16 MB of changes: more than is kept, and than sockets take.
    for round in 0..20_u32 {
        let (first, base) = (prompt(round + 1, 50_000), u64::from(round) * 100_000);
        engine.publish([store(&first, base)]).await;
        filter
            .until("the blocks", |filter| filter.depth(&first, 0) == 50_000)
            .await;
        let hashes: Vec<_> = (base..base + 50_000).collect();
        engine.publish([remove(&hashes)]).await;
    }
    engine.publish([store(&prompt(100, 3), 1)]).await;
    filter
        .until("the last block", |filter| filter.depth(&prompt(100, 3), 0) == 3)
        .await;
    // On a slow machine it has been given up by now. It comes back, and gets what is there, not all that was.
    let mut awake = stalled;
    awake.connect_again(app.sync).await;
    awake
        .until("the last block", |awake| awake.depth(&prompt(100, 3), 0) == 3)
        .await;
    assert_eq!(awake.replicas[POOL].view().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_filters_say_of_their_views_is_shown() {
    let engine = Engine::start().await;
    let app = App::start(config_with("acks", &engine, "{}")).await.unwrap();
    let mut filter = Filter::connect(&app).await;
    engine.publish([store(&prompt(1, 5), 10)]).await;
    filter
        .until("the blocks", |filter| filter.depth(&prompt(1, 5), 0) == 5)
        .await;
    let ack = proto::view::acknowledgement(POOL, &filter.replicas[POOL]).unwrap();
    filter.send(v1::from_filter::Message::Ack(ack)).await;
    let status = get_until(&app, "/v1/status", |status| {
        status["filters"][0]["acked"][POOL]["entries"] == json!(5)
    })
    .await;
    let (acked, view) = (&status["filters"][0]["acked"][POOL], &status["pools"][0]["view"]);
    assert_eq!((&acked["checksum"], &acked["refused"]), (&view["checksum"], &json!(0)));
    assert_eq!(acked["bytes"], view["bytes"]);
}
