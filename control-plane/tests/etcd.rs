//! Dynamo's discovery service in a real etcd: what is read of it, and what becomes of a pool when it fails.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::*;
use control_plane::app::App;
use control_plane::config::{Config, EtcdConfig, EtcdLogin, Secret, TlsConfig};
use control_plane::discovery::backend::Change;
use control_plane::discovery::etcd;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use testbed::{Etcd, EtcdTls, Relay, Wire};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A directory of its own for each test.
fn scratch(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("etcd-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

fn config(endpoint: &str) -> EtcdConfig {
    EtcdConfig {
        endpoints: vec![endpoint.to_owned()],
        login: None,
        tls: TlsConfig::default(),
    }
}

/// A port through which etcd is reached, or not.
async fn relay(etcd: &Etcd) -> (Relay, String) {
    let relay = Relay::start(etcd.api.address()).await.unwrap();
    let endpoint = relay.endpoint().replace("tcp:", "http:");
    (relay, endpoint)
}

/// What is told of an etcd.
struct Told(mpsc::Receiver<Change>);

impl Told {
    fn of(config: EtcdConfig) -> Self {
        let (sender, changes) = mpsc::channel(1);
        tokio::spawn(etcd::run(config, sender));
        Self(changes)
    }

    async fn next(&mut self) -> Change {
        timeout(PATIENCE, self.0.recv())
            .await
            .expect("nothing is told")
            .unwrap()
    }

    /// The next change but those that say once more that etcd is lost.
    async fn next_but_lost(&mut self) -> Change {
        loop {
            match self.next().await {
                Change::Lost(_) => {}
                change => return change,
            }
        }
    }

    async fn lost(&mut self) -> String {
        match self.next().await {
            Change::Lost(why) => why,
            other => panic!("{other:?}"),
        }
    }
}

fn all<const N: usize>(records: [(&str, &str); N]) -> Change {
    Change::All(records.map(|(key, value)| (key.to_owned(), value.into())).into())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd: scripts/setup interop"]
async fn all_records_are_read_and_followed() {
    let etcd = Etcd::start(&scratch("records")).await.unwrap();
    // More than one answer holds, in every bucket; and what is none of ours.
    let buckets = ["v1/instances/", "v1/mdc/", "v1/event_channels/", "v1/event_sources/"];
    let mut expected = BTreeMap::new();
    for number in 0..70 {
        for bucket in buckets {
            let key = format!("{bucket}dynamo/{number}");
            etcd.api.put(&key, &format!("{number}")).await.unwrap();
            expected.insert(key, number.to_string().into_bytes());
        }
    }
    for other in ["v1/instances", "v1/instances0", "v1/loras/a", "v1/mdcx/a", "a", "w"] {
        etcd.api.put(other, "of no use").await.unwrap();
    }
    etcd.api.put("v1/mdc/long", &"x".repeat((1 << 20) + 1)).await.unwrap();
    let mut told = Told::of(config(&format!("http://{}", etcd.api.address())));
    assert_eq!(told.next().await, Change::All(expected));

    let key = "v1/mdc/dynamo/new";
    etcd.api.put(key, "first").await.unwrap();
    assert_eq!(told.next().await, Change::Put(key.into(), "first".into()));
    etcd.api.put("v1/loras/b", "of no use").await.unwrap();
    etcd.api.put(key, "second").await.unwrap();
    assert_eq!(told.next().await, Change::Put(key.into(), "second".into()));
    etcd.api.delete(key).await.unwrap();
    assert_eq!(told.next().await, Change::Delete(key.into()));

    // A record whose owner is dead.
    let lease = etcd.api.call("/v3/lease/grant", &json!({"TTL": 1})).await.unwrap();
    let record = json!({"key": "djEvbWRjL2xlYXNlZA==", "value": "eA==", "lease": lease["ID"]});
    etcd.api.call("/v3/kv/put", &record).await.unwrap();
    assert_eq!(told.next().await, Change::Put("v1/mdc/leased".into(), "x".into()));
    assert_eq!(told.next().await, Change::Delete("v1/mdc/leased".into()));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd: scripts/setup interop"]
async fn an_etcd_that_was_lost_is_read_anew() {
    let mut etcd = Etcd::start(&scratch("lost")).await.unwrap();
    etcd.api.put("v1/mdc/a", "1").await.unwrap();
    let (relay, endpoint) = relay(&etcd).await;
    let mut told = Told::of(config(&endpoint));
    assert_eq!(told.next().await, all([("v1/mdc/a", "1")]));

    etcd.process.kill();
    assert!(told.lost().await.starts_with(&endpoint));
    etcd.restart().await.unwrap();
    assert_eq!(told.next_but_lost().await, all([("v1/mdc/a", "1")]));

    // Cut off while much happens, of which etcd forgets the history.
    relay.set(Wire::Cut);
    told.lost().await;
    etcd.api.put("v1/mdc/b", "1").await.unwrap();
    etcd.api.delete("v1/mdc/a").await.unwrap();
    etcd.api.put("v1/mdc/b", "2").await.unwrap();
    let answer = etcd.api.call("/v3/kv/range", &json!({"key": "AA=="})).await.unwrap();
    let compaction = json!({"revision": answer["header"]["revision"], "physical": true});
    etcd.api.call("/v3/kv/compaction", &compaction).await.unwrap();
    relay.set(Wire::Whole);
    assert_eq!(told.next_but_lost().await, all([("v1/mdc/b", "2")]));

    // Nothing comes any more, and nobody says so.
    relay.set(Wire::Stalled);
    etcd.api.put("v1/mdc/b", "3").await.unwrap();
    told.lost().await;
    relay.set(Wire::Whole);
    assert_eq!(told.next_but_lost().await, all([("v1/mdc/b", "3")]));

    etcd.restart_empty().await.unwrap();
    told.lost().await;
    assert_eq!(told.next_but_lost().await, all([]));
    etcd.api.put("v1/mdc/c", "1").await.unwrap();
    assert_eq!(told.next().await, Change::Put("v1/mdc/c".into(), "1".into()));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd: scripts/setup interop"]
async fn another_member_is_asked_when_one_is_gone() {
    let etcd = Etcd::start(&scratch("members")).await.unwrap();
    etcd.api.put("v1/mdc/a", "1").await.unwrap();
    let (first, first_endpoint) = relay(&etcd).await;
    let (_second, second_endpoint) = relay(&etcd).await;
    let mut told = Told::of(EtcdConfig {
        endpoints: vec![first_endpoint.clone(), second_endpoint],
        ..config("")
    });
    assert_eq!(told.next().await, all([("v1/mdc/a", "1")]));
    first.set(Wire::Cut);
    assert!(told.lost().await.starts_with(&first_endpoint));
    assert_eq!(told.next().await, all([("v1/mdc/a", "1")]));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd: scripts/setup interop"]
async fn users_log_in_with_their_passwords() {
    let etcd = Etcd::start(&scratch("users")).await.unwrap();
    etcd.api.put("v1/mdc/a", "1").await.unwrap();
    // Enabling needs a root. The other one may read what Dynamo writes: "v1/" and up to "v10".
    let root = json!({"name": "root", "password": "of the root"});
    etcd.api.call("/v3/auth/user/add", &root).await.unwrap();
    etcd.api
        .call("/v3/auth/user/grant", &json!({"user": "root", "role": "root"}))
        .await
        .unwrap();
    let reader = json!({"name": "reader", "password": "of the reader"});
    etcd.api.call("/v3/auth/user/add", &reader).await.unwrap();
    etcd.api
        .call("/v3/auth/role/add", &json!({"name": "reads"}))
        .await
        .unwrap();
    let permission = json!({"permType": "READ", "key": "djEv", "range_end": "djEw"});
    let grant = json!({"name": "reads", "perm": permission});
    etcd.api.call("/v3/auth/role/grant", &grant).await.unwrap();
    etcd.api
        .call("/v3/auth/user/grant", &json!({"user": "reader", "role": "reads"}))
        .await
        .unwrap();
    etcd.api.call("/v3/auth/enable", &json!({})).await.unwrap();

    let as_reader = |password: &str| EtcdConfig {
        login: Some(EtcdLogin {
            user: "reader".to_owned(),
            password: Secret::from(password),
        }),
        ..config(&format!("http://{}", etcd.api.address()))
    };
    assert_eq!(
        Told::of(as_reader("of the reader")).next().await,
        all([("v1/mdc/a", "1")])
    );
    let wrong = Told::of(as_reader("wrong secret")).lost().await;
    assert!(
        wrong.contains("log-in failed") && wrong.contains("invalid user ID or password"),
        "{wrong}"
    );
    assert!(!wrong.contains("wrong secret"), "{wrong}");
    let nobody = Told::of(config(&format!("http://{}", etcd.api.address()))).lost().await;
    assert!(
        nobody.contains("reading failed") && nobody.contains("user name is empty"),
        "{nobody}"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd: scripts/setup interop"]
async fn certificates_are_checked_by_both_sides() {
    let directory = scratch("tls");
    let ca = authority();
    let stranger = authority();
    let write = |name: &str, text: String| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let issue = |name: &str, issuer: &CertifiedIssuer<'static, KeyPair>| {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new([name.to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let cert = cert.signed_by(&key, issuer).unwrap();
        (
            write(&format!("{name}.crt"), cert.pem()),
            write(&format!("{name}.key"), key.serialize_pem()),
        )
    };
    let ca_file = write("ca.crt", ca.pem());
    let (cert, key) = issue("etcd", &ca);
    let tls = EtcdTls {
        cert,
        key,
        ca: ca_file.clone(),
    };
    let etcd = Etcd::start_with_tls(&directory, &tls).await.unwrap();
    etcd.api.put("v1/mdc/a", "1").await.unwrap();

    let ours = issue("client", &ca);
    let with = |ca: Option<&PathBuf>, client_cert: Option<&(PathBuf, PathBuf)>| EtcdConfig {
        tls: TlsConfig {
            ca: ca.cloned(),
            client_cert: client_cert.cloned(),
        },
        ..config(&format!("https://{}", etcd.tls_address().unwrap()))
    };
    let let_in = with(Some(&ca_file), Some(&ours));
    assert_eq!(Told::of(let_in).next().await, all([("v1/mdc/a", "1")]));
    let others = issue("other", &stranger);
    let other_ca = write("other-ca.crt", stranger.pem());
    // etcd looks at our certificate after we have connected, and hangs up.
    for (ca, client_cert, expected) in [
        (Some(&ca_file), None, "reading failed"),
        (Some(&ca_file), Some(&others), "reading failed"),
        (None, Some(&ours), "invalid peer certificate"),
        (Some(&other_ca), Some(&ours), "invalid peer certificate"),
    ] {
        let lost = Told::of(with(ca, client_cert)).lost().await;
        assert!(lost.contains(expected), "{ca:?} {client_cert:?}: {lost}");
    }
    let gone = directory.join("gone.crt");
    let lost = Told::of(with(Some(&gone), Some(&ours))).lost().await;
    assert!(lost.contains("gone.crt: No such file"), "{lost}");
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd: scripts/setup interop"]
async fn workers_stay_while_etcd_is_lost_and_nobody_takes_their_place_before_it_was_read() {
    let mut etcd = Etcd::start(&scratch("pool")).await.unwrap();
    for (key, record) in worker_records() {
        etcd.api.put(&key, &record.to_string()).await.unwrap();
    }
    let (relay, endpoint) = relay(&etcd).await;
    relay.set(Wire::Cut);
    let app = App::start(pool_config(&endpoint)).await.unwrap();
    let mut filter = Filter::connect(&app).await;
    filter.until("a sign of life", |filter| filter.heartbeats > 1).await;
    assert_eq!(filter.seen, ["settings"]);
    let lost = discovery(&app).await;
    assert_eq!(
        (&lost["backend"], &lost["connected"], &lost["records"]),
        (&json!("etcd"), &json!(false), &Value::Null)
    );
    let (status, ready) = get(&app, "/readyz").await;
    assert!(
        status == 503 && ready.contains("pool tiny: Dynamo's workers"),
        "{status} {ready}"
    );

    relay.set(Wire::Whole);
    filter.until("the worker", |filter| workers(filter) == 1).await;
    assert_eq!(
        discovery(&app).await,
        json!({"backend": "etcd", "connected": true, "lost_because": null, "records": 2})
    );
    assert!(
        metrics(&app)
            .await
            .contains("warmpath_discovery_connected{pool=\"tiny\"} 1")
    );

    etcd.process.kill();
    let lost = until_discovery(&app, |discovery| discovery["connected"] == false).await;
    assert!(lost["lost_because"].as_str().unwrap().starts_with(&endpoint), "{lost}");
    assert!(
        metrics(&app)
            .await
            .contains("warmpath_discovery_connected{pool=\"tiny\"} 0")
    );
    let heard = filter.heartbeats;
    filter
        .until("signs of life", |filter| filter.heartbeats > heard + 1)
        .await;
    assert_eq!(workers(&filter), 1);

    etcd.restart().await.unwrap();
    until_discovery(&app, |discovery| discovery["connected"] == true).await;
    etcd.restart_empty().await.unwrap();
    filter.until("no worker", |filter| workers(filter) == 0).await;
    until_discovery(&app, |discovery| discovery["records"] == 0).await;
}

/// An instance and its card, as Dynamo writes them.
fn worker_records() -> BTreeMap<String, Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/dynamo_wire_samples.json");
    let samples: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let records = samples["discovery_records_disagg_pair"].as_object().unwrap();
    ["v1/instances", "v1/mdc"]
        .map(|bucket| {
            let key = format!("{bucket}/dynamo/backend/generate/f338e2814c132e55");
            let record = records[&key].clone();
            (key, record)
        })
        .into()
}

fn pool_config(endpoint: &str) -> Config {
    let yaml = format!(
        "listen: {{sync: 127.0.0.1:0, admin: 127.0.0.1:0}}\ngateway: {{silence: 300ms}}\npools:\n  - name: {POOL}\n    \
         models: [tiny]\n    model_dir: {}\n    block_size: 16\n    parity: {{mode: off}}\n    discovery:\n      dynamo:\n        \
         backend: etcd\n        etcd: {{endpoints: '{endpoint}'}}\n        namespace: dynamo\n",
        model_dir("etcd").display()
    );
    Config::parse(&yaml, Path::new("/")).unwrap()
}

fn workers(filter: &Filter) -> usize {
    filter.fleet.pools.iter().map(|pool| pool.candidates.len()).sum()
}

async fn discovery(app: &App) -> Value {
    let (_, status) = get(app, "/v1/status").await;
    let status: Value = serde_json::from_str(&status).unwrap();
    status["pools"][0]["discovery"].clone()
}

async fn until_discovery(app: &App, done: impl Fn(&Value) -> bool) -> Value {
    let waiting = async {
        loop {
            let discovery = discovery(app).await;
            if done(&discovery) {
                return discovery;
            }
        }
    };
    timeout(PATIENCE, waiting)
        .await
        .expect("the discovery service stays as it is")
}

async fn metrics(app: &App) -> String {
    get(app, "/metrics").await.1
}
