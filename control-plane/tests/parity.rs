//! Workers that make our tokens, others, or none: on real sockets, up to what filters are told.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use common::*;
use control_plane::app::App;
use control_plane::parity::probes::{Probe, probes};
use prompt::Shape;
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
    /// As [`Manner::Right`], but for the probe of this name, in whose text the first "é" is another letter, or which has
    /// one token more if there is none.
    Wrong(&'static str),
    /// The right tokens of texts, and 422 for chats: as SGLang, whose endpoint knows no others.
    TextsOnly,
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
    /// One that does not render requests for others.
    async fn start(manner: Manner) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), manner).await
    }

    async fn start_at(endpoint: SocketAddr, manner: Manner) -> Self {
        Self::serve(endpoint, manner, false).await
    }

    /// One that does.
    async fn start_rendering(manner: Manner) -> Self {
        Self::serve("127.0.0.1:0".parse().unwrap(), manner, true).await
    }

    async fn serve(endpoint: SocketAddr, manner: Manner, renders: bool) -> Self {
        let listener = TcpListener::bind(endpoint).await.unwrap();
        let endpoint = listener.local_addr().unwrap();
        let (manner, current) = watch::channel(manner);
        let asked = Arc::new(AtomicUsize::new(0));
        let all = probes(POOL, false);
        let count = asked.clone();
        let answer = move |uri: Uri, Json(request): Json<Value>| {
            count.fetch_add(1, Ordering::Relaxed);
            let response = match *current.borrow() {
                Manner::Missing => StatusCode::NOT_FOUND.into_response(),
                Manner::Failing => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                _ if uri.path() != "/tokenize" && !renders => StatusCode::FORBIDDEN.into_response(),
                Manner::TextsOnly if request.get("prompt").is_none() => {
                    (StatusCode::UNPROCESSABLE_ENTITY, "prompt: Field required").into_response()
                }
                manner => answer(uri.path(), &request, manner, &all),
            };
            async { response }
        };
        let router = Router::new().fallback(post(answer));
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

fn answer(path: &str, request: &Value, manner: Manner, all: &[Probe]) -> Response {
    let mut asked = request.as_object().unwrap().clone();
    asked.remove("return_token_strs");
    let is_this = |probe: &&Probe| match path.strip_suffix("/render") {
        Some(path) => probe.shape.path() == path && probe.body == asked,
        None => probe.tokenize.as_ref() == Some(&asked),
    };
    let probe = all.iter().find(is_this).unwrap_or_else(|| panic!("{path}: {request}"));
    let mut tokens: Vec<_> = text_of(probe).bytes().map(token_of).collect();
    if manner == Manner::Wrong(probe.name) {
        match text_of(probe).find('é') {
            // One of the two bytes of "é" becomes another token.
            Some(place) => tokens[place + 1] = token_of("è".as_bytes()[1]),
            None => tokens.push(0),
        }
    }
    let answer = match (path, probe.shape) {
        ("/tokenize", _) => {
            json!({"count": tokens.len(), "max_model_len": 1000, "tokens": tokens, "token_strs": null})
        }
        (_, Shape::Completions) => json!([{"request_id": "cmpl-1", "token_ids": tokens, "features": null}]),
        _ => json!({"request_id": "chatcmpl-1", "token_ids": tokens, "features": null}),
    };
    Json(answer).into_response()
}

/// The template writes all contents, one after the other.
fn text_of(probe: &Probe) -> String {
    let request = probe.tokenize.as_ref().unwrap_or(&probe.body);
    if let Some(prompt) = request.get("prompt") {
        return prompt.as_str().unwrap().to_owned();
    }
    let content = |message: &Value| match &message["content"] {
        Value::Array(parts) if message.get("role").is_some() => {
            let texts: Vec<_> = parts.iter().map(|part| part["text"].as_str().unwrap()).collect();
            texts.join("\n")
        }
        Value::String(content) => content.clone(),
        // Of a response, a tool's result; calls and reasoning have no content.
        _ => message["output"].as_str().unwrap_or_default().to_owned(),
    };
    let messages = request.get("messages").or_else(|| request.get("input"));
    messages.unwrap().as_array().unwrap().iter().map(content).collect()
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

/// A probe with an "é", and its text.
const SCRIPTS: &str = "text_scripts";

fn scripts() -> String {
    let all = probes(POOL, false);
    text_of(all.iter().find(|probe| probe.name == SCRIPTS).unwrap())
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

/// Waits for what the metric of differences shows.
async fn shown_difference_until(app: &App, done: impl Fn(&[&str]) -> bool) {
    let waiting = async {
        loop {
            let (_, metrics) = get(app, "/metrics").await;
            let shown = metrics.lines();
            let shown = shown.filter(|line| line.starts_with("warmpath_parity_difference_position{"));
            if done(&shown.collect::<Vec<_>>()) {
                return;
            }
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.expect("the metric does not become as wanted");
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
    let all = probes(POOL, false);
    let (tokenized, others): (Vec<_>, Vec<_>) = all.iter().partition(|probe| probe.tokenize.is_some());
    let left_out = others.iter().map(|probe| {
        let because = format!("POST {}/render: status 403: ", probe.shape.path());
        json!({"probe": probe.name, "because": because})
    });
    let expected = json!({"mode": "enforce", "state": "equal", "workers": [
        {"endpoint": endpoint, "state": "equal", "compared": tokenized.len(), "rendered": 0,
         "left_out": left_out.collect::<Vec<_>>()}]});
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
    let (engine, worker) = (Engine::start().await, Tokenizing::start(Manner::Wrong(SCRIPTS)).await);
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
        "ours": {"token": ours, "text": "©", "around": around(&text)},
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
    worker.manner.send_replace(Manner::Wrong(SCRIPTS));
    filter.until("routing by load", is_by_load).await;
    filter.seen.clear();
    worker.manner.send_replace(Manner::Right);
    filter.until("exact routing", is_exact).await;
    assert_eq!(filter.seen, ["artefact", "fleet"]);
}

/// A worker that makes other tokens of one kind of request only is found out in every shape, and told in the status, by
/// the metric and to the filters.
#[tokio::test(flavor = "multi_thread")]
async fn a_difference_in_any_request_is_named() {
    let all = probes(POOL, false);
    let (engine, worker) = (Engine::start().await, Tokenizing::start_rendering(Manner::Right).await);
    let directory = model_dir("parity-named");
    let app = App::start(config_of(&directory, &[worker.worker(&engine)], EAGER, ""))
        .await
        .unwrap();
    let mut filter = Filter::connect(&app).await;
    filter.until("exact routing", is_exact).await;
    let pool = parity_until(&app, "equal").await;
    let rendered = all.iter().filter(|probe| probe.shape != Shape::Embeddings).count();
    assert_eq!(
        pool["parity"]["workers"],
        json!([{"endpoint": worker.endpoint.to_string(), "state": "equal", "compared": all.len(),
                "rendered": rendered, "left_out": []}])
    );
    for probe in &all {
        worker.manner.send_replace(Manner::Wrong(probe.name));
        let status = get_until(&app, "/v1/status", |status| {
            status["pools"][0]["parity"]["workers"][0]["difference"]["probe"] == probe.name
        })
        .await;
        let text = text_of(probe);
        let position = text.find('é').map_or(text.len(), |place| place + 1);
        let difference = &status["pools"][0]["parity"]["workers"][0]["difference"];
        assert_eq!(difference["position"], position, "{difference}");
        let labels = format!(
            "pool=\"tiny\",worker=\"{}\",probe=\"{}\",ours=",
            worker.endpoint, probe.name
        );
        shown_difference_until(&app, |shown| {
            shown.len() == 1 && shown[0].contains(&labels) && shown[0].ends_with(&format!("}} {position}"))
        })
        .await;
    }
    filter.until("routing by load", is_by_load).await;
    worker.manner.send_replace(Manner::Right);
    parity_until(&app, "equal").await;
    shown_difference_until(&app, |shown| shown.is_empty()).await;
    filter.until("exact routing", is_exact).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_tokenizes_texts_only_shows_that_its_tokenizer_is_ours() {
    let (engine, worker) = (Engine::start().await, Tokenizing::start(Manner::TextsOnly).await);
    let directory = model_dir("parity-texts");
    let app = App::start(config_of(&directory, &[worker.worker(&engine)], LAZY, ""))
        .await
        .unwrap();
    let pool = parity_until(&app, "equal").await;
    let shown = &pool["parity"]["workers"][0];
    let all = probes(POOL, false);
    let is_text = |probe: &&Probe| {
        let asked = probe.tokenize.as_ref();
        asked.is_some_and(|asked| asked.contains_key("prompt"))
    };
    let texts = all.iter().filter(is_text).count();
    assert!(texts > 5, "{texts} texts");
    assert_eq!((&shown["compared"], &shown["rendered"]), (&texts.into(), &0.into()));
    assert_eq!(shown["left_out"].as_array().unwrap().len(), all.len() - texts);
    let refused = json!({"probe": "chat", "because": "POST /tokenize: status 422: prompt: Field required"});
    assert!(shown["left_out"].as_array().unwrap().contains(&refused), "{shown}");
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
    worker.manner.send_replace(Manner::Wrong(SCRIPTS));
    filter.until("routing by load", is_by_load).await;
    // It has been found out; that it answers no more does not absolve it.
    worker.manner.send_replace(Manner::Failing);
    let failing = |status: &Value| status["pools"][0]["parity"]["workers"][0]["trouble"].is_string();
    let status = get_until(&app, "/v1/status", failing).await;
    assert_eq!(status["pools"][0]["parity"]["state"], "unequal");
}

/// As of an embedding model, whose texts are routed exactly.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_a_chat_template_is_compared_by_its_texts() {
    let (engine, worker) = (Engine::start().await, Tokenizing::start(Manner::Wrong(SCRIPTS)).await);
    let directory = model_dir("parity-texts");
    std::fs::remove_file(directory.join("tokenizer_config.json")).unwrap();
    let app = App::start(config_of(&directory, &[worker.worker(&engine)], EAGER, ""))
        .await
        .unwrap();
    let mut filter = Filter::connect(&app).await;
    filter.until("routing by load", is_by_load).await;
    let pool = parity_until(&app, "unequal").await;
    let because = pool["inexact_because"].as_str().unwrap();
    let expected = format!(
        "the model has no chat template; parity: worker {}: probe text_scripts",
        worker.endpoint
    );
    assert!(because.starts_with(&expected), "{because}");

    worker.manner.send_replace(Manner::Right);
    filter.until("exact routing of texts", is_exact).await;
    let pool = parity_until(&app, "equal").await;
    let expected = (json!(false), json!("the model has no chat template"));
    assert_eq!((pool["exact"].clone(), pool["inexact_because"].clone()), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_workers_makes_other_tokens() {
    let engines = [Engine::start().await, Engine::start().await];
    let right = Tokenizing::start(Manner::Right).await;
    let wrong = Tokenizing::start(Manner::Wrong(SCRIPTS)).await;
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
    worker.manner.send_replace(Manner::Wrong(SCRIPTS));
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
    let (engine, worker) = (Engine::start().await, Tokenizing::start(Manner::Wrong(SCRIPTS)).await);
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
