//! Workers that make our tokens, others, or none: on real sockets, up to what filters are told.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use common::*;
use control_plane::app::App;
use control_plane::parity::probes::probes;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Workers are asked all the time.
const EAGER: &str = "{interval: 100ms, grace: 10m}";
/// Workers are asked once, and again only for a reason.
const LAZY: &str = "{interval: 1h, grace: 10m}";

/// What a worker answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// The right tokens.
    Right,
    /// As [`Manner::Right`], but one id of the prompt with this text has another id.
    Wrong(&'static str),
    /// 404, as from an engine that has no such endpoint.
    Missing,
    /// 500.
    Failing,
}

/// The HTTP side of an engine whose tokenizer is the one in [`model_dir`], written anew: every byte is a token.
struct Tokenizing {
    endpoint: SocketAddr,
    manner: watch::Sender<Manner>,
    asked: Arc<AtomicUsize>,
}

impl Tokenizing {
    async fn start(manner: Manner) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), manner).await
    }

    async fn start_at(endpoint: SocketAddr, manner: Manner) -> Self {
        let listener = TcpListener::bind(endpoint).await.unwrap();
        let endpoint = listener.local_addr().unwrap();
        let (manner, current) = watch::channel(manner);
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let answer = move |Json(request): Json<Value>| {
            count.fetch_add(1, Ordering::Relaxed);
            let manner = *current.borrow();
            async move { answer(&request, manner) }
        };
        let router = Router::new().route("/tokenize", post(answer));
        tokio::spawn(axum::serve(listener, router).into_future());
        Self {
            endpoint,
            manner,
            asked,
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// As in the configuration, with the event sockets of `engine`.
    fn worker(&self, engine: &Engine) -> String {
        worker_at(self.endpoint, engine)
    }
}

fn worker_at(endpoint: SocketAddr, Engine { events, replay, .. }: &Engine) -> String {
    format!("{{endpoint: {endpoint}, kv_events: '{events}', replay: '{replay}'}}")
}

fn answer(request: &Value, manner: Manner) -> Response {
    let mut text = text_of(request);
    match manner {
        Manner::Missing => return StatusCode::NOT_FOUND.into_response(),
        Manner::Failing => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        // "é" has two bytes; one of them becomes another token.
        Manner::Wrong(wrong) if text == wrong => text = text.replacen('é', "è", 1),
        Manner::Wrong(_) | Manner::Right => {}
    }
    let tokens: Vec<_> = text.bytes().map(token_of).collect();
    Json(json!({"count": tokens.len(), "max_model_len": 1000, "tokens": tokens, "token_strs": null})).into_response()
}

/// The template writes all contents, one after the other.
fn text_of(request: &Value) -> String {
    if let Some(prompt) = request["prompt"].as_str() {
        return prompt.to_owned();
    }
    let content = |message: &Value| match &message["content"] {
        Value::Array(parts) => {
            let texts: Vec<_> = parts.iter().map(|part| part["text"].as_str().unwrap()).collect();
            texts.join("\n")
        }
        content => content.as_str().unwrap().to_owned(),
    };
    request["messages"].as_array().unwrap().iter().map(content).collect()
}

/// Printable bytes come first in the vocabulary, then the others.
fn token_of(byte: u8) -> usize {
    let is_printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let alike = (0..byte)
        .filter(|&other| is_printable(other) == is_printable(byte))
        .count();
    let printable = (0..=u8::MAX).filter(|&byte| is_printable(byte)).count();
    if is_printable(byte) { alike } else { printable + alike }
}

/// The text of a probe, which has an "é".
fn scripts() -> &'static str {
    let all = probes("tiny");
    let probe = all.iter().find(|probe| probe.name == "text_scripts").unwrap();
    let text = probe.body["prompt"].as_str().unwrap();
    assert!(text.contains('é'));
    text.to_owned().leak()
}

fn is_exact(filter: &Filter) -> bool {
    let pool = filter.fleet.pools.first();
    pool.is_some_and(|pool| pool.tokenizer.is_some() && pool.template.is_some())
}

fn is_by_load(filter: &Filter) -> bool {
    let pool = filter.fleet.pools.first();
    pool.is_some_and(|pool| pool.tokenizer.is_none() && pool.template.is_none())
}

async fn parity_until(app: &App, state: &str) -> Value {
    let status = get_until(app, "/v1/status", |status| {
        status["pools"][0]["parity"]["state"] == state
    })
    .await;
    status["pools"][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_makes_our_tokens() {
    let (engine, worker) = (Engine::start().await, Tokenizing::start(Manner::Right).await);
    let directory = model_dir("parity-equal");
    let app = App::start(config_of(&directory, &[worker.worker(&engine)], LAZY, ""))
        .await
        .unwrap();
    let mut filter = Filter::connect(&app).await;
    filter.until("a view", |filter| filter.seen.contains(&"snapshot")).await;
    assert_eq!(
        filter.seen[..4],
        ["settings", "artefact", "fleet", "snapshot"],
        "the first fleet is exact"
    );
    assert!(is_exact(&filter));
    let pool = parity_until(&app, "equal").await;
    let endpoint = worker.endpoint.to_string();
    let compared = probes("tiny").len();
    let expected = json!({"mode": "enforce", "state": "equal", "workers": [
        {"endpoint": endpoint, "state": "equal", "compared": compared, "left_out": []}]});
    assert_eq!((&pool["parity"], &pool["exact"]), (&expected, &json!(true)));
    let (_, metrics) = get(&app, "/metrics").await;
    for expected in [
        "warmpath_pool_exact{pool=\"tiny\"} 1",
        "warmpath_parity{pool=\"tiny\",state=\"equal\"} 1",
        "warmpath_parity{pool=\"tiny\",state=\"pending\"} 0",
        "warmpath_parity_checks_total{pool=\"tiny\",state=\"equal\"}",
    ] {
        assert!(metrics.contains(expected), "{expected} in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_makes_other_tokens_until_it_does_not() {
    let text = scripts();
    let (engine, worker) = (Engine::start().await, Tokenizing::start(Manner::Wrong(text)).await);
    engine.publish([store(&prompt(1, 3), 10)]).await;
    let directory = model_dir("parity-unequal");
    let app = App::start(config_of(&directory, &[worker.worker(&engine)], EAGER, ""))
        .await
        .unwrap();
    let mut filter = Filter::connect(&app).await;
    filter
        .until("a view", |filter| filter.depth(&prompt(1, 3), 0) == 3)
        .await;
    assert!(is_by_load(&filter) && filter.artefacts.is_empty());

    let pool = parity_until(&app, "unequal").await;
    let place = text.find('é').unwrap() + 1;
    let (ours, theirs) = (token_of("é".as_bytes()[1]), token_of("è".as_bytes()[1]));
    let around = |text: &str| {
        let shown = &text.as_bytes()[place - 8..place + 9];
        String::from_utf8_lossy(shown).into_owned()
    };
    let difference = json!({
        "probe": "text_scripts",
        "position": place,
        "ours": {"token": ours, "text": "©", "around": around(text)},
        "worker": {"token": theirs, "text": "¨", "around": around(&text.replacen('é', "è", 1))},
    });
    assert_eq!(
        pool["parity"]["workers"],
        json!([{"endpoint": worker.endpoint.to_string(), "state": "unequal", "difference": difference}])
    );
    assert_eq!(pool["exact"], false);
    let because = pool["inexact_because"].as_str().unwrap();
    let expected = format!(
        "parity: worker {}: probe text_scripts, token {place}: ours is {ours} \"©\" in ",
        worker.endpoint
    );
    assert!(because.starts_with(&expected), "{because}");
    let ready = get_until(&app, "/readyz", |ready| ready["ready"] == true).await;
    assert_eq!(ready["inexact_pools"][0]["inexact_because"], because);

    filter.seen.clear();
    worker.manner.send_replace(Manner::Right);
    filter.until("exact routing", is_exact).await;
    assert_eq!(filter.seen, ["artefact", "fleet"]);
    assert_eq!(filter.depth(&prompt(1, 3), 0), 3, "the view stays");

    // A filter that held the artefacts once has dropped them, and needs them again.
    worker.manner.send_replace(Manner::Wrong(text));
    filter.until("routing by load", is_by_load).await;
    filter.seen.clear();
    worker.manner.send_replace(Manner::Right);
    filter.until("exact routing", is_exact).await;
    assert_eq!(filter.seen, ["artefact", "fleet"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_be_asked_is_routed_exactly() {
    let (engine, worker) = (Engine::start().await, Tokenizing::start(Manner::Missing).await);
    let directory = model_dir("parity-missing");
    let app = App::start(config_of(&directory, &[worker.worker(&engine)], LAZY, ""))
        .await
        .unwrap();
    let mut filter = Filter::connect(&app).await;
    filter.until("exact routing", is_exact).await;
    let pool = parity_until(&app, "unverified").await;
    let because = pool["parity"]["workers"][0]["because"].as_str().unwrap();
    assert!(because.starts_with("POST /tokenize: status 404"), "{because}");
    assert_eq!(pool["exact"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_comes_late() {
    let engine = Engine::start().await;
    let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = reserved.local_addr().unwrap();
    drop(reserved);
    let directory = model_dir("parity-late");
    let app = App::start(config_of(&directory, &[worker_at(endpoint, &engine)], LAZY, ""))
        .await
        .unwrap();
    let mut filter = Filter::connect(&app).await;
    filter.until("a view", |filter| filter.seen.contains(&"snapshot")).await;
    assert!(is_by_load(&filter));
    let trouble = |status: &Value| status["pools"][0]["parity"]["workers"][0]["trouble"].is_string();
    let status = get_until(&app, "/v1/status", trouble).await;
    assert_eq!(
        status["pools"][0]["inexact_because"],
        "parity: no worker has answered yet"
    );

    let worker = Tokenizing::start_at(endpoint, Manner::Failing).await;
    let failing = |status: &Value| {
        let trouble = &status["pools"][0]["parity"]["workers"][0]["trouble"];
        trouble.as_str().is_some_and(|trouble| trouble.contains("status 500"))
    };
    get_until(&app, "/v1/status", failing).await;
    worker.manner.send_replace(Manner::Right);
    filter.until("exact routing", is_exact).await;
    parity_until(&app, "equal").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grace_ends() {
    let (engine, worker) = (Engine::start().await, Tokenizing::start(Manner::Failing).await);
    let directory = model_dir("parity-grace");
    let impatient = "{interval: 100ms, grace: 100ms}";
    let app = App::start(config_of(&directory, &[worker.worker(&engine)], impatient, ""))
        .await
        .unwrap();
    let mut filter = Filter::connect(&app).await;
    filter.until("exact routing", is_exact).await;
    parity_until(&app, "unverified").await;
    worker.manner.send_replace(Manner::Wrong(scripts()));
    filter.until("routing by load", is_by_load).await;
    // It has been found out; that it answers no more does not absolve it.
    worker.manner.send_replace(Manner::Failing);
    let failing = |status: &Value| status["pools"][0]["parity"]["workers"][0]["trouble"].is_string();
    let status = get_until(&app, "/v1/status", failing).await;
    assert_eq!(status["pools"][0]["parity"]["state"], "unequal");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_workers_makes_other_tokens() {
    let engines = [Engine::start().await, Engine::start().await];
    let right = Tokenizing::start(Manner::Right).await;
    let wrong = Tokenizing::start(Manner::Wrong(scripts())).await;
    let workers = [right.worker(&engines[0]), wrong.worker(&engines[1])];
    let directory = model_dir("parity-two");
    let app = App::start(config_of(&directory, &workers, EAGER, "")).await.unwrap();
    let mut filter = Filter::connect(&app).await;
    filter.until("routing by load", is_by_load).await;
    let pool = parity_until(&app, "unequal").await;
    let because = pool["inexact_because"].as_str().unwrap();
    assert!(because.contains(&wrong.endpoint.to_string()), "{because}");

    // The same, where nothing shall follow from it.
    let warn = config_of(&directory, &workers, "{mode: warn}", "");
    let app = App::start(warn).await.unwrap();
    let pool = parity_until(&app, "unequal").await;
    assert_eq!((&pool["exact"], &pool["inexact_because"]), (&json!(true), &Value::Null));
    let mut filter = Filter::connect(&app).await;
    filter.until("exact routing", is_exact).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_connects_again_is_asked_again() {
    let (engine, worker) = (Engine::start().await, Tokenizing::start(Manner::Right).await);
    let directory = model_dir("parity-again");
    let app = App::start(config_of(&directory, &[worker.worker(&engine)], LAZY, ""))
        .await
        .unwrap();
    let mut filter = Filter::connect(&app).await;
    filter.until("exact routing", is_exact).await;
    get_until(&app, "/readyz", |ready| ready["ready"] == true).await;

    let (events, replay) = engine.kill().await;
    get_until(&app, "/v1/status", |status| {
        status["pools"][0]["ranks"][0]["connected"] == false
    })
    .await;
    worker.manner.send_replace(Manner::Wrong(scripts()));
    let engine = Engine::start_at(&events, &replay).await;
    filter.until("routing by load", is_by_load).await;

    let (events, replay) = engine.kill().await;
    get_until(&app, "/v1/status", |status| {
        status["pools"][0]["ranks"][0]["connected"] == false
    })
    .await;
    worker.manner.send_replace(Manner::Right);
    let _engine = Engine::start_at(&events, &replay).await;
    filter.until("exact routing", is_exact).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_where_that_is_off() {
    let (engine, worker) = (Engine::start().await, Tokenizing::start(Manner::Wrong(scripts())).await);
    let directory = model_dir("parity-off");
    let app = App::start(config_of(&directory, &[worker.worker(&engine)], "{mode: off}", ""))
        .await
        .unwrap();
    let mut filter = Filter::connect(&app).await;
    filter.until("a view", |filter| filter.seen.contains(&"snapshot")).await;
    assert!(is_exact(&filter));
    let pool = parity_until(&app, "off").await;
    assert_eq!(pool["parity"], json!({"mode": "off", "state": "off", "workers": []}));
    assert_eq!(worker.asked(), 0);
}
