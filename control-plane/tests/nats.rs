//! KV events of Dynamo's workers over a real NATS server: logins, TLS, restarts of the server, and messages that are too
//! many. `scripts/setup interop` installs the server; `scripts/test interop` runs these tests.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use control_plane::admin::metrics::Metrics;
use control_plane::config::{NatsConfig, NatsLogin, TlsConfig};
use control_plane::dynamo::follower::Signal;
use control_plane::dynamo::nats::{BACKLOG, Nats, options};
use control_plane::dynamo::wire::RouterEvent;
use control_plane::events::Event;
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// After this a test that waits for something has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const SUBJECT: &str = "namespace.dynamo.component.backend.endpoint.generate.kv-events";

/// A NATS server with a directory and a port of its own.
struct Server {
    directory: PathBuf,
    port: u16,
    _process: Child,
}

impl Server {
    /// With these lines in its configuration.
    async fn start(name: &str, lines: &str) -> Self {
        let directory = directory(name);
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        fs::write(
            directory.join("nats.conf"),
            format!("listen: 127.0.0.1:{port}\n{lines}\n"),
        )
        .unwrap();
        let _process = launch(&directory, port).await;
        Self {
            directory,
            port,
            _process,
        }
    }

    /// Kills it and starts it again at the same port.
    async fn restart(&mut self) {
        self._process.kill().await.unwrap();
        self._process = launch(&self.directory, self.port).await;
    }

    fn config(&self, login: NatsLogin) -> NatsConfig {
        NatsConfig {
            servers: vec![format!("nats://127.0.0.1:{}", self.port)],
            login,
            require_tls: false,
            tls: TlsConfig::default(),
        }
    }
}

fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("nats-{name}-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    directory
}

async fn launch(directory: &Path, port: u16) -> Child {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let program = root.join("target/tools/venv-dynamo/bin/nats-server");
    assert!(program.exists(), "no {}: run scripts/setup interop", program.display());
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(directory.join("log"))
        .unwrap();
    let process = Command::new(program)
        .arg("--config")
        .arg(directory.join("nats.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    eventually("the server", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
    })
    .await;
    process
}

async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let waiting = async {
        while !condition().await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("no {what}"));
}

/// What becomes of an attempt to connect.
async fn connect(config: &NatsConfig) -> Result<async_nats::Client, String> {
    let connecting = options(config).unwrap().connect(config.servers[0].as_str());
    connecting.await.map_err(|error| error.to_string())
}

#[tokio::test]
#[ignore = "needs a NATS server: scripts/setup interop"]
async fn every_login_is_taken_and_a_wrong_one_is_not() {
    let users = "authorization { users: [{user: warmpath, password: right}] }";
    let user = |password: &str| NatsLogin::Password {
        user: "warmpath".into(),
        password: password.into(),
    };
    let token = "authorization { token: right }";
    let [key, other_key] = [KeyPair::new_user(), KeyPair::new_user()];
    let nkeys = format!("authorization {{ users: [{{nkey: {}}}] }}", key.public_key());
    let nkey = |key: &KeyPair| NatsLogin::Nkey(seed(key).as_str().into());
    let [operator, account, stranger] = [KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account()];
    let limits = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1, "leaf": -1});
    let accounts = format!(
        "operator: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {} }}",
        jwt(&operator, &operator.public_key(), json!({"type": "operator"})),
        account.public_key(),
        jwt(
            &operator,
            &account.public_key(),
            json!({"type": "account", "limits": limits})
        ),
    );
    let credentials = |account: &KeyPair| {
        let claims = json!({"type": "user", "subs": -1, "data": -1, "payload": -1});
        let jwt = jwt(account, &key.public_key(), claims);
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            seed(&key)
        );
        NatsLogin::Credentials(text.as_str().into())
    };
    for (name, lines, right, wrong) in [
        ("password", users, user("right"), user("wrong")),
        (
            "token",
            token,
            NatsLogin::Token("right".into()),
            NatsLogin::Token("wrong".into()),
        ),
        ("nkey", &nkeys, nkey(&key), nkey(&other_key)),
        ("credentials", &accounts, credentials(&account), credentials(&stranger)),
    ] {
        let server = Server::start(name, lines).await;
        let client = connect(&server.config(right))
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        // The server answers, so it has let us in.
        client.flush().await.unwrap();
        for login in [wrong, NatsLogin::Anonymous] {
            let refused = connect(&server.config(login)).await.unwrap_err();
            assert!(refused.contains("authorization violation"), "{name}: {refused}");
        }
    }
}

fn seed(key: &KeyPair) -> String {
    key.seed().unwrap()
}

/// A JWT of NATS, version 2.
fn jwt(issuer: &KeyPair, subject: &str, mut claims: Value) -> String {
    claims["version"] = 2.into();
    let claims = json!({"jti": "x", "iat": 1, "iss": issuer.public_key(), "sub": subject, "name": "x", "nats": claims});
    let encode = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!(
        "{}.{}",
        encode(json!({"typ": "JWT", "alg": "ed25519-nkey"})),
        encode(claims)
    );
    let signature = BASE64_URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

#[tokio::test]
#[ignore = "needs a NATS server: scripts/setup interop"]
async fn tls_is_used_as_configured_and_both_sides_certificates_count() {
    let files = directory("certificates");
    let [ours, others] = ["ours", "others"].map(|name| authority(&files, name));
    certificate(&files, "server", &ours);
    certificate(&files, "client", &ours);
    certificate(&files, "stranger", &others);
    let path = |name: &str| files.join(name).display().to_string();
    let lines = format!(
        "tls {{ cert_file: '{}', key_file: '{}', ca_file: '{}', verify: true }}",
        path("server.pem"),
        path("server.key"),
        path("ours.pem")
    );
    let server = Server::start("tls", &lines).await;
    let config = |ca: &str, client: Option<&str>| NatsConfig {
        tls: TlsConfig {
            ca: Some(files.join(ca)),
            client_cert: client.map(|name| (files.join(format!("{name}.pem")), files.join(format!("{name}.key")))),
        },
        ..server.config(NatsLogin::Anonymous)
    };
    connect(&config("ours.pem", Some("client")))
        .await
        .unwrap()
        .flush()
        .await
        .unwrap();
    let refused = connect(&config("others.pem", Some("client"))).await.unwrap_err();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    for client in [None, Some("stranger")] {
        assert!(connect(&config("ours.pem", client)).await.is_err(), "{client:?}");
    }

    // A server without TLS is not talked to where TLS must be used.
    let plain = Server::start("plain", "").await;
    let mut config = plain.config(NatsLogin::Anonymous);
    connect(&config).await.unwrap().flush().await.unwrap();
    config.require_tls = true;
    assert!(connect(&config).await.is_err());
    config.require_tls = false;
    config.servers = vec![format!("tls://127.0.0.1:{}", plain.port)];
    assert!(connect(&config).await.is_err());
}

/// A certificate authority, whose certificate is in `<name>.pem`.
fn authority(files: &Path, name: &str) -> Issuer<'static, rcgen::KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    fs::write(files.join(format!("{name}.pem")), certificate.pem()).unwrap();
    Issuer::new(params, key)
}

/// A certificate for 127.0.0.1 in `<name>.pem`, and its key in `<name>.key`.
fn certificate(files: &Path, name: &str, issuer: &Issuer<'_, rcgen::KeyPair>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    fs::write(files.join(format!("{name}.pem")), certificate.pem()).unwrap();
    fs::write(files.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

#[tokio::test]
#[ignore = "needs a NATS server: scripts/setup interop"]
async fn publishers_share_a_connection_that_comes_back_when_the_server_does() {
    let mut server = Server::start("restart", "").await;
    let config = server.config(NatsLogin::Anonymous);
    let metrics = Metrics::new();
    let nats = Nats::start(config.clone(), 16, None, metrics.pool("p"));
    let mut followed = Vec::new();
    for publisher in [1, 2] {
        let (sender, signals) = mpsc::channel(64);
        nats.follow(SUBJECT.to_owned(), publisher, sender).await;
        followed.push(signals);
    }
    for life in 0..3 {
        for signals in &mut followed {
            assert_eq!(next(signals).await, Signal::Connected);
        }
        let client = connect(&config).await.unwrap();
        subscribed(&client, &mut followed, life * 100).await;
        for (publisher, event_id) in [(1, 10), (3, 30), (2, 20), (1, 11)] {
            publish(&client, publisher, life * 100 + event_id).await;
        }
        client.publish(SUBJECT, "no envelope".into()).await.unwrap();
        client.flush().await.unwrap();
        assert_eq!(next(&mut followed[0]).await, event(life * 100 + 10));
        assert_eq!(next(&mut followed[0]).await, event(life * 100 + 11));
        assert_eq!(next(&mut followed[1]).await, event(life * 100 + 20));
        server.restart().await;
        for signals in &mut followed {
            assert_eq!(next(signals).await, Signal::Lost);
        }
    }
    let counted = metrics.encode().unwrap();
    for reason in ["unreadable_message", "nats_lost"] {
        let line = format!("warmpath_dynamo_problems_total{{pool=\"p\",reason=\"{reason}\"}} 3");
        assert!(counted.contains(&line), "{line}: {counted}");
    }
}

#[tokio::test]
#[ignore = "needs a NATS server: scripts/setup interop"]
async fn messages_that_find_no_room_are_a_doubt() {
    let server = Server::start("slow", "").await;
    let config = server.config(NatsLogin::Anonymous);
    let metrics = Metrics::new();
    let nats = Nats::start(config.clone(), 16, None, metrics.pool("p"));
    // Nobody takes the signals at first.
    let (sender, mut signals) = mpsc::channel(1);
    nats.follow(SUBJECT.to_owned(), 1, sender).await;
    let client = connect(&config).await.unwrap();
    let (mut number, dropped) = (0, "reason=\"nats_dropped\"");
    while !metrics.encode().unwrap().contains(dropped) {
        assert!(number < 100 * BACKLOG as u64, "nothing was ever dropped");
        for _ in 0..1000 {
            publish(&client, 1, number).await;
            number += 1;
        }
        client.flush().await.unwrap();
    }
    while next(&mut signals).await != Signal::Missed {}
}

/// Waits until our subscription has reached the server: from then on nothing is missed.
async fn subscribed(client: &async_nats::Client, followed: &mut [mpsc::Receiver<Signal>], first: u64) {
    for (publisher, signals) in (1..).zip(followed) {
        let mut number = first;
        let came = loop {
            publish(client, publisher, number).await;
            client.flush().await.unwrap();
            match timeout(Duration::from_millis(50), signals.recv()).await {
                Ok(came) => break came,
                Err(_) => number += 1,
            }
            assert!(number < first + 10, "no message comes");
        };
        assert_eq!(came, Some(event(number)));
    }
}

async fn next(signals: &mut mpsc::Receiver<Signal>) -> Signal {
    let next = timeout(PATIENCE, signals.recv()).await;
    next.expect("a signal").expect("somebody to give it")
}

/// An event of that number, in a message of that number.
async fn publish(client: &async_nats::Client, publisher: u64, number: u64) {
    let payload = json!([{"worker_id": 7, "event": {"event_id": number, "data": "cleared", "dp_rank": 0}}]);
    let fields: [(&str, rmpv::Value); 5] = [
        ("publisher_id", publisher.into()),
        ("sequence", number.into()),
        ("published_at", 0.into()),
        ("topic", "kv-events".into()),
        (
            "payload",
            rmpv::Value::Binary(rmp_serde::to_vec_named(&payload).unwrap()),
        ),
    ];
    let fields = fields.into_iter().map(|(name, value)| (name.into(), value)).collect();
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, &rmpv::Value::Map(fields)).unwrap();
    client.publish(SUBJECT, bytes.into()).await.unwrap();
}

fn event(event_id: u64) -> Signal {
    Signal::Events(vec![RouterEvent {
        worker_id: 7,
        dp_rank: 0,
        event_id,
        event: Ok(Event::Cleared),
    }])
}
