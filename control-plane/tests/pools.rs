//! Several pools in one process, and several filters of one pool.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use control_plane::admin::metrics::Metrics;
use control_plane::admin::status::RankStatus;
use control_plane::app::App;
use control_plane::config::Config;
use control_plane::discovery::Rank;
use control_plane::events::{Batch, Content, EngineHash, Event, Stored};
use control_plane::index::Shape;
use control_plane::sync::bound::Bound;
use control_plane::sync::pool::{Input, PoolTask, Start};
use futures::StreamExt;
use router_core::Slot;
use router_core::hash::BlockLayout;

/// Both name their blocks alike and have the same slot.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_pool_caches_is_nothing_to_another() {
    let engines = [Engine::start().await, Engine::start().await];
    let directory = model_dir("pools");
    let pool = |name: &str, port: u16, engine: &Engine| {
        format!(
            "  - {{name: {name}, models: [{name}-model], model_dir: {}, block_size: {BLOCK_SIZE}, parity: {{mode: off}}, workers: \
             [{{endpoint: '10.0.0.1:{port}', kv_events: '{}', replay: '{}'}}]}}\n",
            directory.display(),
            engine.events,
            engine.replay
        )
    };
    let pools = pool("first", 8001, &engines[0]) + &pool("second", 8002, &engines[1]);
    let yaml = format!("listen: {{sync: 127.0.0.1:0, admin: 127.0.0.1:0}}\npools:\n{pools}");
    let app = App::start(Config::parse(&yaml, Path::new("/")).unwrap()).await.unwrap();
    engines[0].publish([store(&prompt(1, 3), 100)]).await;
    engines[1].publish([store(&prompt(7, 2), 100)]).await;
    let mut filter = Filter::connect(&app).await;
    let depths = |filter: &Filter| {
        ["first", "second"].map(|pool| {
            let view = filter.replicas.get(pool)?.view();
            Some([prompt(1, 3), prompt(7, 2)].map(|prompt| view.depths(&hashes_of(&prompt)).of(Slot(0))))
        })
    };
    filter
        .until("both views", |filter| depths(filter) == [Some([3, 0]), Some([0, 2])])
        .await;
    engines[0].publish([remove(&[100, 101, 102])]).await;
    filter
        .until("one of them empty", |filter| {
            depths(filter) == [Some([0, 0]), Some([0, 2])]
        })
        .await;
}

#[tokio::test]
async fn filters_share_what_was_encoded_once() {
    let metrics = Metrics::new();
    let shape = Shape::plain(BlockLayout::plain(BLOCK_SIZE).unwrap());
    let (task, pool) = PoolTask::new("p", 1, shape, Bound::new(1 << 20), Duration::from_millis(1), &metrics);
    tokio::spawn(task.run());
    let rank = Rank {
        slot: Slot(0),
        endpoint: ([10, 0, 0, 1], 8000).into(),
        dp_rank: 0,
        is_named: false,
        instance_id: None,
        events: None,
        topics: None,
        replay: None,
    };
    let status = RankStatus::new(&rank, metrics.rank("p", &rank.worker(), 0));
    pool.send(Input::Join(Slot(0), Arc::new(status))).await;
    let stored = |first: u32| {
        let stored = Stored {
            blocks: vec![EngineHash(first.into())],
            content: Content::text((first..first + BLOCK_SIZE).collect()),
            block_size: BLOCK_SIZE,
            ..Stored::default()
        };
        let batch = Batch {
            events: vec![Event::Stored(stored)],
            ..Batch::default()
        };
        Input::Apply(Slot(0), batch)
    };
    pool.send(stored(1)).await;
    let [one, other] = [pool.subscribe(None).await.unwrap(), pool.subscribe(None).await.unwrap()];
    let snapshot = |start: &Start| start.snapshot.clone().unwrap();
    assert!(Arc::ptr_eq(&snapshot(&one), &snapshot(&other)));
    pool.send(stored(100)).await;
    let [mut one, mut other] = [one.deltas, other.deltas];
    let [one, other] = [one.next().await, other.next().await].map(|delta| delta.unwrap().unwrap());
    assert_eq!(one.bytes().as_ptr(), other.bytes().as_ptr());
}
