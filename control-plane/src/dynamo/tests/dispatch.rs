use serde_json::json;
use tokio::sync::mpsc;

use crate::dynamo::dispatch::Dispatcher;
use crate::dynamo::follower::Signal;
use crate::dynamo::wire::RouterEvent;
use crate::events::Event;

/// An envelope with the event of that number, as on the wire.
fn message(publisher: u64, sequence: u64, event_id: u64) -> Vec<u8> {
    let event = json!([{"worker_id": 7, "event": {"event_id": event_id, "data": "cleared", "dp_rank": 0}}]);
    envelope(
        publisher,
        sequence,
        "kv-events",
        &rmp_serde::to_vec_named(&event).unwrap(),
    )
}

fn envelope(publisher: u64, sequence: u64, topic: &str, payload: &[u8]) -> Vec<u8> {
    let fields = [
        ("publisher_id", publisher.into()),
        ("sequence", sequence.into()),
        ("published_at", 0.into()),
        ("topic", topic.into()),
        ("payload", payload.into()),
    ];
    let fields = fields.map(|(name, value): (&str, rmpv::Value)| (name.into(), value));
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, &rmpv::Value::Map(fields.to_vec())).unwrap();
    bytes
}

fn events(event_id: u64) -> Signal {
    Signal::Events(vec![RouterEvent {
        worker_id: 7,
        dp_rank: 0,
        event_id,
        event: Ok(Event::Cleared),
    }])
}

fn all(signals: &mut mpsc::Receiver<Signal>) -> Vec<Signal> {
    std::iter::from_fn(|| signals.try_recv().ok()).collect()
}

#[tokio::test]
async fn each_message_goes_to_its_publishers_follower_and_losses_to_all() {
    let mut dispatcher = Dispatcher::new(16, None);
    let (sender, mut early) = mpsc::channel(16);
    dispatcher.add(1, sender).await;
    assert_eq!(all(&mut early), [], "nothing is connected yet");
    dispatcher.connected("a").await;
    let (sender, mut late) = mpsc::channel(16);
    dispatcher.add(2, sender).await;
    assert_eq!(all(&mut early), [Signal::Connected]);
    assert_eq!(all(&mut late), [Signal::Connected]);

    for (publisher, sequence, event_id) in [(1, 0, 10), (2, 0, 20), (3, 0, 30), (1, 1, 11)] {
        dispatcher
            .message(&message(publisher, sequence, event_id))
            .await
            .unwrap();
    }
    dispatcher.message(&envelope(1, 2, "kv_metrics", &[])).await.unwrap();
    dispatcher.message(&envelope(1, 3, "kv-events", b"?")).await.unwrap();
    assert_eq!(all(&mut early), [events(10), events(11), Signal::Unreadable]);
    assert_eq!(all(&mut late), [events(20)]);

    dispatcher.unreadable(2).await;
    dispatcher.missed().await;
    dispatcher.lost("a").await;
    dispatcher.lost("a").await;
    assert_eq!(all(&mut early), [Signal::Missed, Signal::Lost]);
    assert_eq!(all(&mut late), [Signal::Unreadable, Signal::Missed, Signal::Lost]);
}

#[tokio::test]
async fn what_several_connections_bring_counts_once_and_the_last_one_to_go_is_the_loss() {
    let mut dispatcher = Dispatcher::new(16, None);
    let (sender, mut signals) = mpsc::channel(16);
    dispatcher.add(1, sender).await;
    dispatcher.connected("a").await;
    dispatcher.connected("b").await;
    for sequence in [0, 0, 1, 2, 1, 2] {
        dispatcher.message(&message(1, sequence, sequence)).await.unwrap();
    }
    let expected = [Signal::Connected, Signal::Connected, events(0), events(1), events(2)];
    assert_eq!(all(&mut signals), expected);
    dispatcher.lost("a").await;
    dispatcher.message(&message(1, 3, 3)).await.unwrap();
    dispatcher.lost("b").await;
    assert_eq!(all(&mut signals), [Signal::Missed, events(3), Signal::Lost]);
}

#[tokio::test]
async fn messages_that_are_nobodys_or_broken_cost_themselves_and_followers_that_are_gone_nothing() {
    let mut dispatcher = Dispatcher::new(16, None);
    let (sender, gone) = mpsc::channel(1);
    dispatcher.add(1, sender).await;
    drop(gone);
    dispatcher.connected("a").await;
    dispatcher.message(&message(1, 0, 0)).await.unwrap();
    dispatcher.message(&message(1, 1, 1)).await.unwrap();
    let whole = message(1, 2, 2);
    for length in 0..whole.len() {
        assert!(dispatcher.message(&whole[..length]).await.is_err(), "{length}");
    }
    // It comes back, as after a change of its records.
    let (sender, mut signals) = mpsc::channel(16);
    dispatcher.add(1, sender).await;
    dispatcher.message(&whole).await.unwrap();
    assert_eq!(all(&mut signals), [Signal::Connected, events(2)]);
}
