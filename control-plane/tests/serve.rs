//! The whole process but for `main`: engines on real sockets, filters on real streams.

mod common;

use common::*;
use control_plane::app::App;
use rmpv::Value;
use router_core::hash::SequenceHash;
use router_core::levels::Levels;
use serde_json::json;
use zeromq::{Endpoint, RouterSocket, Socket, SocketRecv};

const IMPATIENT: &str = "events: {disconnect_grace: 100ms, probe_interval: 100ms}\n";
/// Nothing is given up or asked in the time of a test.
const PATIENT: &str = "events: {disconnect_grace: 10m, probe_interval: 1h}\n";

/// A control plane that follows these engines, and a filter that follows it.
async fn followed(name: &str, engines: &[&Engine], events: &str) -> (App, Filter) {
    let app = App::start(config(&model_dir(name), engines, events)).await.unwrap();
    let filter = Filter::connect(&app).await;
    (app, filter)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_gets_everything_and_follows() {
    let engine = Engine::start().await;
    engine.publish([store(&prompt(1, 3), 10)]).await;
    let (app, mut filter) = followed("everything", &[&engine], "").await;
    filter
        .until("blocks from before", |filter| filter.depth(&prompt(1, 3), 0) == 3)
        .await;
    assert_eq!(filter.seen[..4], ["settings", "artefact", "fleet", "snapshot"]);
    let settings = filter.settings.unwrap();
    assert_eq!((settings.max_staleness_ms, settings.silence_ms), (60_000, 5_000));
    let pool = &filter.fleet.pools[0];
    let models: Vec<_> = pool
        .models
        .iter()
        .map(|model| (model.name.as_str(), model.lora.as_deref()))
        .collect();
    assert_eq!(models, [("tiny", None), ("tuned", Some("tuned"))]);
    assert!(pool.kv_events);
    let artefact = filter.artefacts[&pool.tokenizer.unwrap()].clone();
    let tokenizer = tokenizer::Tokenizer::load(artefact).unwrap();
    let mut ids = Vec::new();
    tokenizer.encode_into("!\"#", false, &mut ids).unwrap();
    assert_eq!(ids, [0, 1, 2]);
    let text: prompt::ModelText = serde_json::from_slice(&filter.artefacts[&pool.template.unwrap()]).unwrap();
    prompt::ChatTemplate::compile(&text).unwrap();

    engine.publish([store(&prompt(2, 5), 20)]).await;
    filter
        .until("new blocks", |filter| filter.depth(&prompt(2, 5), 0) == 5)
        .await;
    engine.publish([remove(&[21])]).await;
    filter
        .until("what stands below a removed block hidden", |filter| {
            filter.depth(&prompt(2, 5), 0) == 1
        })
        .await;
    assert_eq!(filter.depth(&prompt(1, 3), 0), 3);

    get_until(&app, "/readyz", |ready| {
        *ready == json!({"ready": true, "waiting_for": [], "inexact_pools": [], "troubled_ranks": []})
    })
    .await;
    let (_, blocks) = get(&app, &format!("/v1/blocks?pool={POOL}&endpoint=10.0.0.0:8000")).await;
    let mut told: Vec<serde_json::Value> = blocks.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    told.sort_by_key(|block| block["engine_hash"].to_string());
    let block = |engine: u64, hashes: &[SequenceHash], depth: usize, visible: bool| {
        json!({
            "sequence_hash": hashes[depth - 1].0.to_string(), "engine_hash": engine.to_string(), "tier": "device",
            "parent": (depth > 1).then(|| hashes[depth - 2].0.to_string()), "depth": depth, "visible": visible,
        })
    };
    let (first, second) = (hashes_of(&prompt(1, 3)), hashes_of(&prompt(2, 5)));
    let first = (1..=3).map(|depth| block(9 + depth as u64, &first, depth, true));
    let second = [1, 3, 4, 5].map(|depth| block(19 + depth as u64, &second, depth, depth == 1));
    assert_eq!(told, first.chain(second).collect::<Vec<_>>());
    assert_eq!(
        get(&app, &format!("/v1/blocks?pool={POOL}&endpoint=10.0.0.9:1"))
            .await
            .0,
        404
    );
    let (_, metrics) = get(&app, "/metrics").await;
    assert!(metrics.contains("warmpath_pool_exact{pool=\"tiny\"} 1"), "{metrics}");
    assert_eq!(get(&app, "/healthz").await, (200, "ok\n".to_owned()));
    app.stop().await.unwrap();
    filter.until_the_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_message_is_replayed() {
    let engine = Engine::start().await;
    let (_app, mut filter) = followed("lost", &[&engine], PATIENT).await;
    engine.publish([store(&prompt(1, 3), 10)]).await;
    filter
        .until("the first message", |filter| filter.depth(&prompt(1, 3), 0) == 3)
        .await;
    engine.lose([remove(&[12]), store(&prompt(2, 2), 20)]).await;
    engine.publish([store(&prompt(3, 1), 30)]).await;
    filter
        .until("the last message", |filter| filter.depth(&prompt(3, 1), 0) == 1)
        .await;
    assert_eq!((filter.depth(&prompt(1, 3), 0), filter.depth(&prompt(2, 2), 0)), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_last_message_is_found_by_asking() {
    let engine = Engine::start().await;
    let (_app, mut filter) = followed("last", &[&engine], IMPATIENT).await;
    engine.publish([store(&prompt(1, 3), 10)]).await;
    filter
        .until("the first message", |filter| filter.depth(&prompt(1, 3), 0) == 3)
        .await;
    engine.lose([store(&prompt(2, 2), 20)]).await;
    filter
        .until("the lost message", |filter| filter.depth(&prompt(2, 2), 0) == 2)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_replay_is_tried_again() {
    let engine = Engine::start().await;
    let (_app, mut filter) = followed("retry", &[&engine], PATIENT).await;
    engine.publish([store(&prompt(1, 3), 10)]).await;
    filter
        .until("the old blocks", |filter| filter.depth(&prompt(1, 3), 0) == 3)
        .await;

    // It comes back, but its replay socket hangs up: on the question of the new connection, and on further ones.
    let (events, replay) = engine.kill().await;
    let hangs_up = listen(replay.strip_prefix("tcp://").unwrap()).await;
    let back = tokio::spawn(async move { Engine::start_at(&events, &replay).await });
    for _ in 0..4 {
        let asked = tokio::time::timeout(PATIENCE, hangs_up.accept()).await;
        drop(asked.expect("nobody asks any more").unwrap());
    }
    drop(hangs_up);
    let engine = back.await.unwrap();
    // No live message tells of this one.
    engine.lose([store(&prompt(2, 2), 20)]).await;
    filter
        .until("the new blocks alone", |filter| {
            filter.depth(&prompt(2, 2), 0) == 2 && filter.depth(&prompt(1, 3), 0) == 0
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_hangs_holds_live_messages_up_for_a_while_only() {
    let engines = [Engine::start().await, Engine::start().await];
    // One takes the connection and says nothing, the other takes the question, too.
    let silent = listen("127.0.0.1:0").await;
    let mut mute = RouterSocket::new();
    let Ok(Endpoint::Tcp(_, port)) = mute.bind("tcp://127.0.0.1:0").await else {
        panic!("no port to be had");
    };
    let replays = [silent.local_addr().unwrap().port(), port];
    let workers: Vec<_> = (0..2)
        .map(|number| {
            let (events, replay) = (&engines[number].events, replays[number]);
            format!("{{endpoint: 10.0.0.{number}:8000, kv_events: '{events}', replay: 'tcp://127.0.0.1:{replay}'}}")
        })
        .collect();
    let app = App::start(config_of(&model_dir("hangs"), &workers, "{mode: off}", PATIENT))
        .await
        .unwrap();
    let mut filter = Filter::connect(&app).await;
    let asked = tokio::time::timeout(PATIENCE, mute.recv()).await;
    asked.expect("nobody asks").unwrap();
    for engine in &engines {
        engine.lose([store(&prompt(2, 3), 20)]).await;
        engine.publish([store(&prompt(1, 3), 10)]).await;
    }
    filter
        .until("what was published meanwhile", |filter| {
            [0, 1].map(|slot| filter.depth(&prompt(1, 3), slot)) == [3, 3]
        })
        .await;
    let status = get_until(&app, "/v1/status", |_| true).await;
    // What was lost before is not forgotten.
    let is_degraded = |rank: usize| status["pools"][0]["ranks"][rank]["degraded"].is_string();
    assert_eq!([0, 1].map(is_degraded), [true, true], "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_that_cannot_be_replayed_leaves_no_ghost() {
    let engine = Engine::start().await;
    let (app, mut filter) = followed("gap", &[&engine], PATIENT).await;
    engine.publish([store(&prompt(1, 3), 10)]).await;
    filter
        .until("the first message", |filter| filter.depth(&prompt(1, 3), 0) == 3)
        .await;
    engine.lose([remove(&[10])]).await;
    engine.forget_before(2).await;
    engine.publish([store(&prompt(2, 2), 20)]).await;
    filter
        .until("the last message", |filter| filter.depth(&prompt(2, 2), 0) == 2)
        .await;
    assert_eq!(filter.depth(&prompt(1, 3), 0), 0);
    let degraded = |status: &serde_json::Value| status["pools"][0]["ranks"][0]["degraded"] == "replay_too_short";
    get_until(&app, "/v1/status", degraded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_engine_starts_from_nothing() {
    let engine = Engine::start().await;
    let (_app, mut filter) = followed("restart", &[&engine], PATIENT).await;
    for number in 1..4 {
        engine
            .publish([store(&prompt(number, 3), u64::from(number) * 10)])
            .await;
    }
    filter
        .until("the old blocks", |filter| filter.depth(&prompt(3, 3), 0) == 3)
        .await;

    // Idle after the restart: nothing tells but the replay.
    let (events, replay) = engine.kill().await;
    let engine = Engine::start_at(&events, &replay).await;
    filter
        .until("no old blocks", |filter| {
            (1..4).all(|number| filter.depth(&prompt(number, 3), 0) == 0)
        })
        .await;

    // Further on than the old one was, before anybody listened.
    let (events, replay) = engine.kill().await;
    let engine = Engine::start_at(&events, &replay).await;
    for number in 4..9 {
        engine
            .publish([store(&prompt(number, 3), u64::from(number) * 10)])
            .await;
    }
    filter
        .until("the new blocks", |filter| {
            (4..9).all(|number| filter.depth(&prompt(number, 3), 0) == 3)
        })
        .await;
    let (events, replay) = engine.kill().await;
    let engine = Engine::start_at(&events, &replay).await;
    for number in 1..9 {
        engine.publish([store(&prompt(number + 10, 1), 10)]).await;
    }
    filter
        .until("the newest block", |filter| filter.depth(&prompt(18, 1), 0) == 1)
        .await;
    for number in 1..9 {
        assert_eq!(filter.depth(&prompt(number, 3), 0), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_engine_leaves_the_view_and_the_others_stay() {
    let engines = [Engine::start().await, Engine::start().await];
    let app = App::start(config(&model_dir("dead"), &[&engines[0], &engines[1]], IMPATIENT))
        .await
        .unwrap();
    let mut filter = Filter::connect(&app).await;
    for engine in &engines {
        engine.publish([store(&prompt(1, 3), 10)]).await;
    }
    filter
        .until("both", |filter| {
            [0, 1].map(|slot| filter.depth(&prompt(1, 3), slot)) == [3, 3]
        })
        .await;
    let [first, second] = engines;
    let (events, replay) = first.kill().await;
    filter
        .until("one", |filter| {
            [0, 1].map(|slot| filter.depth(&prompt(1, 3), slot)) == [0, 3]
        })
        .await;
    let first = Engine::start_at(&events, &replay).await;
    first.publish([store(&prompt(2, 1), 10)]).await;
    filter
        .until("it is back", |filter| filter.depth(&prompt(2, 1), 0) == 1)
        .await;
    assert_eq!([0, 1].map(|slot| filter.depth(&prompt(1, 3), slot)), [0, 3]);
    drop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_costs_its_message_and_what_it_may_have_removed() {
    let engine = Engine::start().await;
    let (app, mut filter) = followed("poison", &[&engine], PATIENT).await;
    engine.publish([store(&prompt(1, 3), 10)]).await;
    engine.publish([Value::from("no event")]).await;
    engine.publish([store_sized(&prompt(2, 2), 20, BLOCK_SIZE * 2)]).await;
    engine.publish([store(&prompt(3, 3), 30)]).await;
    filter
        .until("the last message", |filter| filter.depth(&prompt(3, 3), 0) == 3)
        .await;
    assert_eq!([1, 2].map(|first| filter.depth(&prompt(first, 2), 0)), [0, 0]);
    let (_, metrics) = get(&app, "/metrics").await;
    for expected in ["reason=\"undecodable\"} 1", "reason=\"wrong_block_size\"} 1"] {
        assert!(metrics.contains(expected), "{expected} in {metrics}");
    }
    let status = get_until(&app, "/v1/status", |_| true).await;
    let rank = &status["pools"][0]["ranks"][0];
    assert_eq!(
        (&rank["degraded"], &rank["repair"]),
        (&json!("undecodable"), &json!("replay"))
    );
    let ready = get_until(&app, "/readyz", |ready| ready["ready"] == true).await;
    let trouble = ready["troubled_ranks"][0]["trouble"].as_str().unwrap();
    assert!(trouble.starts_with("wrong_block_size"), "{ready}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_control_plane_is_another_epoch() {
    let engine = Engine::start().await;
    engine.publish([store(&prompt(1, 3), 10)]).await;
    let directory = model_dir("epoch");
    let app = App::start(config(&directory, &[&engine], "")).await.unwrap();
    let mut filter = Filter::connect(&app).await;
    filter
        .until("blocks", |filter| filter.depth(&prompt(1, 3), 0) == 3)
        .await;
    let epoch = filter.fleet.pools[0].epoch;
    app.stop().await.unwrap();
    filter.until_the_end().await;

    engine.publish([remove(&[10, 11, 12]), store(&prompt(2, 2), 20)]).await;
    let app = App::start(config(&directory, &[&engine], "")).await.unwrap();
    filter.connect_again(app.sync).await;
    filter
        .until("the new view", |filter| filter.depth(&prompt(2, 2), 0) == 2)
        .await;
    assert_eq!(filter.depth(&prompt(1, 3), 0), 0);
    assert_ne!(filter.fleet.pools[0].epoch, epoch);
    assert_eq!(
        filter.seen[..3],
        ["settings", "fleet", "snapshot"],
        "artefacts are known already"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_goes_on_where_it_was_and_may_ask_anew() {
    let engine = Engine::start().await;
    let app = App::start(config(&model_dir("go-on"), &[&engine], "")).await.unwrap();
    let mut filter = Filter::connect(&app).await;
    engine.publish([store(&prompt(1, 3), 10)]).await;
    filter
        .until("blocks", |filter| filter.depth(&prompt(1, 3), 0) == 3)
        .await;
    let mut other = Filter::connect(&app).await;
    engine.publish([store(&prompt(2, 3), 20)]).await;
    other
        .until("the other has more", |other| other.depth(&prompt(2, 3), 0) == 3)
        .await;
    filter.connect_again(app.sync).await;
    filter.until("more", |filter| filter.depth(&prompt(2, 3), 0) == 3).await;
    assert_eq!(filter.seen[..3], ["settings", "fleet", "delta"]);

    filter.seen.clear();
    filter.ask_for_snapshot().await;
    filter
        .until("a snapshot", |filter| filter.seen.contains(&"snapshot"))
        .await;
    engine.publish([store(&prompt(3, 3), 30)]).await;
    filter
        .until("deltas after it", |filter| filter.depth(&prompt(3, 3), 0) == 3)
        .await;
    assert_eq!(filter.depth(&prompt(1, 3), 0), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_does_not_read_holds_up_nobody() {
    let engine = Engine::start().await;
    let more = "sync: {delta_interval: 1ms}\n";
    let app = App::start(config(&model_dir("lag"), &[&engine], more)).await.unwrap();
    let mut slow = Filter::connect(&app).await;
    slow.until("a start", |slow| slow.seen.contains(&"snapshot")).await;
    let mut quick = Filter::connect(&app).await;
    // Deltas of 1 MB or so in all would still fit into buffers on the way; these do not.
    let rounds = 1400_u32;
    for round in 0..rounds {
        let long = prompt(1, 600);
        engine
            .publish([store(&long, 10), store(&prompt(round + 2, 1), 1_000_000)])
            .await;
        quick
            .until("each round", |quick| quick.depth(&prompt(round + 2, 1), 0) == 1)
            .await;
        engine
            .publish([remove(&(10..610).collect::<Vec<_>>()), remove(&[1_000_000])])
            .await;
    }
    engine.publish([store(&prompt(1, 7), 10)]).await;
    quick
        .until("the end", |quick| quick.depth(&prompt(1, 600), 0) == 7)
        .await;
    slow.seen.clear();
    slow.until("the slow one catches up", |slow| slow.depth(&prompt(1, 600), 0) == 7)
        .await;
    assert!(slow.seen.contains(&"snapshot"));
    assert_eq!(
        slow.replicas[POOL].view().checksum(),
        quick.replicas[POOL].view().checksum()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_without_a_usable_model_still_runs() {
    let engine = Engine::start().await;
    let directory = model_dir("inexact");
    std::fs::write(directory.join("tokenizer.json"), "{}").unwrap();
    let app = App::start(config(&directory, &[&engine], "")).await.unwrap();
    let mut filter = Filter::connect(&app).await;
    filter.until("a view", |filter| filter.seen.contains(&"snapshot")).await;
    assert_eq!(filter.fleet.pools[0].tokenizer, None);
    assert!(filter.fleet.pools[0].template.is_some());
    let (_, metrics) = get(&app, "/metrics").await;
    assert!(metrics.contains("warmpath_pool_exact{pool=\"tiny\"} 0"), "{metrics}");
    let ready = get_until(&app, "/readyz", |ready| ready["ready"] == true).await;
    let because = ready["inexact_pools"][0]["inexact_because"].as_str().unwrap();
    assert!(because.contains("tokenizer.json"), "{because}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_comes_back_warm() {
    let directory = model_dir("warm");
    let state = format!("state: {{dir: '{}'}}\n{PATIENT}", directory.join("state").display());
    let engine = Engine::start().await;
    let (app, mut filter) = followed("warm", &[&engine], &state).await;
    engine.publish([store(&prompt(1, 3), 10)]).await;
    engine.publish([store(&prompt(2, 2), 20)]).await;
    filter.until("both", |filter| filter.depth(&prompt(2, 2), 0) == 2).await;
    app.stop().await.unwrap();
    engine.publish([remove(&[12])]).await;
    // The message that stored the first blocks cannot be had any more.
    engine.forget_before(1).await;
    let (app, mut filter) = followed("warm", &[&engine], &state).await;
    filter
        .until("what was saved, and what was missed", |filter| {
            filter.depth(&prompt(1, 3), 0) == 2 && filter.depth(&prompt(2, 2), 0) == 2
        })
        .await;
    app.stop().await.unwrap();

    let (events, replay) = engine.kill().await;
    let engine = Engine::start_at(&events, &replay).await;
    for base in [30, 40, 50, 60] {
        engine.publish([store(&prompt(3, 1), base)]).await;
    }
    let (app, mut filter) = followed("warm", &[&engine], &state).await;
    filter
        .until("the new engine's", |filter| filter.depth(&prompt(3, 1), 0) == 1)
        .await;
    assert_eq!((filter.depth(&prompt(1, 3), 0), filter.depth(&prompt(2, 2), 0)), (0, 0));
    app.stop().await.unwrap();

    // A spoilt file costs what it had, and nothing else.
    for file in std::fs::read_dir(directory.join("state")).unwrap() {
        std::fs::write(file.unwrap().path(), "spoilt").unwrap();
    }
    let (_app, mut filter) = followed("warm", &[&engine], &state).await;
    filter
        .until("what can be replayed", |filter| filter.depth(&prompt(3, 1), 0) == 1)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_keeps_is_told_apart() {
    let engine = Engine::start().await;
    let mut config = config(&model_dir("tiers"), &[&engine], "");
    config.pools[0].index.tiers = Levels {
        host: true,
        disk: false,
    };
    let app = App::start(config).await.unwrap();
    let mut filter = Filter::connect(&app).await;
    engine.publish([store(&prompt(1, 4), 10)]).await;
    // As vLLM's offloading says it: names only.
    let copied = Value::Map(vec![
        ("type".into(), "BlockStored".into()),
        ("block_hashes".into(), Value::Array(vec![12.into(), 13.into()])),
        ("block_size".into(), BLOCK_SIZE.into()),
        ("token_ids".into(), Value::Array(Vec::new())),
        ("medium".into(), "CPU".into()),
    ]);
    engine.publish([copied, remove(&[12, 13])]).await;
    filter
        .until("two on the device, all with the host", |filter| {
            (filter.depth(&prompt(1, 4), 0), filter.depth(&prompt(1, 4), 1)) == (2, 4)
        })
        .await;
    let pool = &filter.fleet.pools[0];
    assert!(pool.levels.host && !pool.levels.disk);
    let (_, overlap) = post(
        &app,
        "/v1/overlap",
        &json!({"model": "tiny", "token_ids": prompt(1, 4)}),
    )
    .await;
    let one = json!({"endpoint": "10.0.0.0:8000", "dp_rank": 0, "blocks": 4, "device": 2, "host": 2, "disk": 0});
    let overlap: serde_json::Value = serde_json::from_str(&overlap).unwrap();
    assert_eq!(overlap["overlap"], json!([one]));
}
