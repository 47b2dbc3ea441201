//! Configuration files: what they come to, and what is said about wrong ones.

use std::path::Path;

use control_plane::config::{
    Config, ConfigError, DynamoBackend, EtcdConfig, EtcdLogin, NatsConfig, NatsLogin, PromptsConfig, Secret, TlsConfig,
};
use prompt::Frontend;

/// A directory that passes for a model's.
fn model_dir() -> String {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("config-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("tokenizer.json"), "{}").unwrap();
    directory.display().to_string()
}

fn mistakes(yaml: &str) -> Vec<String> {
    match Config::parse(yaml, Path::new("/")) {
        Err(ConfigError::Mistakes(mistakes)) => mistakes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_example_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let yaml = std::fs::read_to_string(root.join("manifests/control-plane.yaml")).unwrap();
    let yaml = yaml.replace("../target/models/qwen3", &model_dir());
    let config = Config::parse(&yaml, root).unwrap();
    assert_eq!(config.pools[0].workers.len(), 4);
}

#[test]
fn every_key_is_documented() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(root.join("docs/configuration.md")).unwrap();
    // The reader lists the known keys of a map when it meets an unknown one.
    let yaml = "x: 1\nlisten: {x: 1}\ngateway: {x: 1}\nevents: {x: 1}\nsync: {x: 1}\nstate: {x: 1}\n\
                pools: [{x: 1, index: {x: 1}, routing: {x: 1}, parity: {x: 1}, workers: [{x: 1}]}, \
                {discovery: {dynamo: {x: 1, nats: {x: 1, tls: {x: 1}}}}}]";
    let lists = mistakes(yaml)
        .into_iter()
        .filter_map(|line| Some(line.split_once("known here: ")?.1.to_owned()));
    let keys: Vec<String> = lists
        .flat_map(|list| list.split(", ").map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert!(keys.len() > 25, "{keys:?}");
    let missing: Vec<_> = keys.iter().filter(|key| !text.contains(&format!("{key}`"))).collect();
    assert!(
        missing.is_empty(),
        "docs/configuration.md says nothing about {missing:?}"
    );
}

#[test]
fn ranks_have_sockets_of_their_own() {
    let yaml = format!(
        "pools: [{{name: p, models: [m], model_dir: '{}', block_size: 16, workers: [\
         {{endpoint: '[::1]:80', kv_events: 'tcp://host:5557', replay: ['tcp://a:1', 'tcp://b:2'], data_parallel_size: 2}}]}}]",
        model_dir()
    );
    let config = Config::parse(&yaml, Path::new("/")).unwrap();
    let worker = &config.pools[0].workers[0];
    assert_eq!(worker.kv_events, ["tcp://host:5557", "tcp://host:5558"]);
    assert_eq!(worker.replay, ["tcp://a:1", "tcp://b:2"]);
    assert_eq!(worker.endpoint.to_string(), "[::1]:80");
}

#[test]
fn workers_that_connect_to_us_are_known_by_topics() {
    let of = |events: &str, workers: &str| {
        format!(
            "events: {{{events}}}\npools: [{{name: p, models: [m], model_dir: '{}', block_size: 16, workers: [{workers}]}}]",
            model_dir()
        )
    };
    let workers = "{endpoint: '10.0.0.1:80', data_parallel_size: 2}, {endpoint: '10.0.0.1:81', kv_topic: pod, kv_shared: true}, \
                   {endpoint: '10.0.0.2:80', kv_events: 'tcp://a:1', kv_shared: true, data_parallel_size: 2}";
    let config = Config::parse(&of("listen: 'tcp://*:5557'", workers), Path::new("/")).unwrap();
    assert_eq!(config.events.listen, Some("0.0.0.0:5557".parse().unwrap()));
    let topics: Vec<_> = config.pools[0]
        .workers
        .iter()
        .map(|worker| worker.kv_topics.join(" "))
        .collect();
    assert_eq!(topics, ["10.0.0.1 10.0.0.1:80", "pod", ""]);
    assert_eq!(config.pools[0].workers[2].kv_events, ["tcp://a:1"]);

    let wrong = [
        (
            "listen: 0.0.0.0:5557",
            "{endpoint: '10.0.0.1:80'}",
            "must be tcp://ip:port",
        ),
        (
            "",
            "{endpoint: '10.0.0.1:80', kv_topic: pod}",
            "where events.listen is set",
        ),
        (
            "listen: 'tcp://*:1'",
            "{endpoint: '10.0.0.1:80'}, {endpoint: '10.0.0.1:81'}",
            "give each a kv_topic",
        ),
        (
            "listen: 'tcp://*:1'",
            "{endpoint: '10.0.0.1:80', kv_topic: a, kv_events: 'tcp://a:1'}",
            "who connects",
        ),
    ];
    for (events, workers, expected) in wrong {
        let lines = mistakes(&of(events, workers));
        assert!(lines.len() == 1 && lines[0].contains(expected), "{lines:?}");
    }
}

#[test]
fn all_mistakes_are_said_at_once_with_place_value_and_cause() {
    let yaml = "listen: {sync: localhost:1, admn: 127.0.0.1:2}
gateway: {max_staleness: 60}
pools:
  - name: a
    models: [m, m]
    model_dir: /nowhere
    block_size: 0
    inject_tokens: yes please
    routing: {overlap_credit: .nan, temperature: -1, overlap_credit_decay: .inf, prefill_load_scale: much}
    parity: {mode: sure, interval: 1ms}
    workers:
      - {endpoint: 10.0.0.1, kv_events: 'tcp://*:5557'}
      - {endpoint: 10.0.0.2:80, kv_events: [tcp://h:1], data_parallel_size: 2, replay: 5}
      - {endpoint: 10.0.0.2:80, replay: 'tcp://h:2'}
  - name: a
    models: []
    loras: [m]
    workers: 7
";
    let found = mistakes(yaml);
    let expected = [
        "listen.admn (line 1): \"127.0.0.1:2\": unknown key; known here: sync, admin",
        "listen.sync (line 1): \"localhost:1\": must be ip:port",
        "gateway.max_staleness (line 2): 60: must be a time span with a unit",
        "pools[0].block_size (line 7): 0: must be a whole number from 1 to 4096",
        "pools[0].models[1] (line 5): \"m\": a model name must lead to one pool",
        "pools[0].model_dir (line 6): /nowhere/tokenizer.json: no such file",
        "pools[0].inject_tokens (line 8): \"yes please\": must be true or false",
        "pools[0].routing.overlap_credit (line 9): NaN: must be a finite number",
        "pools[0].routing.overlap_credit_decay (line 9): inf: must be a finite number",
        "pools[0].routing.prefill_load_scale (line 9): \"much\": must be a finite number",
        "pools[0].routing.temperature (line 9): -1: must be a finite number",
        "pools[0].parity.mode (line 10): \"sure\": must be enforce, warn or off",
        "pools[0].parity.interval (line 10): 1ms: must lie between 100ms and 86400000ms",
        "pools[0].workers[0].endpoint (line 12): \"10.0.0.1\": must be ip:port",
        "pools[0].workers[0].kv_events (line 12): \"tcp://*:5557\": must be tcp://host:port",
        "pools[0].workers[1].replay (line 13): 5: must be a text",
        "pools[0].workers[2].endpoint (line 14): \"10.0.0.2:80\": another worker has this endpoint (first at pools[0].workers[1].endpoint)",
        "pools[0].workers[2].replay (line 14): set: there is nothing to replay",
        "pools[1].name (line 15): \"a\": the name of another pool (first at pools[0].name)",
        "pools[1].block_size (line 15): absent: required",
        "pools[1].models (line 16): empty: at least one model name",
        "pools[1].loras[0] (line 17): \"m\": a model name must lead to one pool",
        "pools[1].model_dir (line 15): absent: required",
        "pools[1].workers (line 18): 7: must be a list",
    ];
    for line in expected {
        assert!(
            found.iter().any(|mistake| mistake.starts_with(line)),
            "missing: {line}\nfound:\n{}",
            found.join("\n")
        );
    }
}

#[test]
fn prompts_that_no_worker_would_make_are_refused() {
    let said = |prompts: &str| {
        let yaml = format!(
            "pools: [{{name: p, models: [m], model_dir: '{}', block_size: 16, prompts: {{{prompts}}}, \
             workers: [{{endpoint: '10.0.0.1:80'}}]}}]",
            model_dir()
        );
        match Config::parse(&yaml, Path::new("/")) {
            Err(ConfigError::Mistakes(mistakes)) => mistakes,
            Ok(_) => Vec::new(),
            Err(other) => panic!("{other}"),
        }
    };
    let place = "pools[0].prompts";
    assert_eq!(
        said("frontend: sglang"),
        [format!(
            "{place}.frontend (line 1): \"sglang\": must be vllm or dynamo: whose prompts the workers make, as others' are not known"
        )]
    );
    let kwargs = "default_chat_template_kwargs: {messages: 1, tools: 2, tokenize: true, bos_token: x, thinking: true}";
    let reserved = ["messages", "tools", "tokenize"].map(|name| {
        format!("{place}.default_chat_template_kwargs (line 1): \"{name}\": is not for settings: vLLM refuses every chat with it")
    });
    assert_eq!(said(kwargs), reserved);
    // Dynamo's frontend does not look at them.
    assert_eq!(said(&format!("frontend: dynamo, {kwargs}")), [""; 0]);
    assert_eq!(
        said("reasoning_parser: qwen3"),
        [format!(
            "{place}.reasoning_parser (line 1): \"qwen3\": changes prompts only with Dynamo's frontend (`frontend: dynamo`)"
        )]
    );
}

#[test]
fn an_empty_file_and_no_yaml() {
    assert_eq!(mistakes("{}"), ["pools (line 1): absent: required"]);
    assert!(matches!(
        Config::parse("a: [", Path::new("/")),
        Err(ConfigError::Syntax(_))
    ));
    assert!(matches!(
        Config::parse("listen: {}\nlisten: {}", Path::new("/")),
        Err(ConfigError::Syntax(_))
    ));
}

/// A pool whose workers Dynamo tells of, with more keys for that.
fn dynamo(more: &str) -> String {
    format!(
        "pools: [{{name: p, models: [m], model_dir: '{}', block_size: 16, discovery: {{dynamo: {{\
         backend: file, path: d, namespace: dynamo, {more}}}}}}}]",
        model_dir()
    )
}

#[test]
fn the_frontend_is_that_of_the_workers_unless_it_is_named() {
    let directory = model_dir();
    let directory = Path::new(&directory);
    let prompts = |yaml: &str| Config::parse(yaml, directory).unwrap().pools[0].prompts.clone();
    let listed = format!(
        "pools: [{{name: p, models: [m], model_dir: '{}', block_size: 16, workers: [{{endpoint: '127.0.0.1:1'}}]}}]",
        model_dir()
    );
    let named = dynamo("").replace("discovery:", "prompts: {frontend: vllm}, discovery:");
    for (yaml, expected) in [
        (listed, Frontend::Vllm),
        (dynamo(""), Frontend::Dynamo),
        (named, Frontend::Vllm),
    ] {
        assert_eq!(prompts(&yaml), PromptsConfig::of(expected), "{yaml}");
    }
    for (setting, expected) in [
        ("trust_request_chat_template: true", "refuses requests with a template"),
        ("frontend: vllm, reasoning_parser: qwen3", "only with Dynamo's frontend"),
        ("mm_options: true", "only with vLLM's frontend"),
    ] {
        let refused = dynamo("").replace("discovery:", &format!("prompts: {{{setting}}}, discovery:"));
        let mistakes = Config::parse(&refused, directory).unwrap_err().to_string();
        assert!(mistakes.contains(expected), "{mistakes}");
    }
}

#[test]
fn a_login_to_nats_is_read_and_never_shown() {
    let directory = model_dir();
    let directory = Path::new(&directory);
    std::fs::write(directory.join("secret"), "hunter2\n").unwrap();
    let parse = |nats: &str| {
        let yaml = dynamo(&format!("nats: {nats}"));
        let config = Config::parse(&yaml, directory).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
        config.pools[0].dynamo.clone().unwrap().nats.unwrap()
    };
    let nats = |servers: &[&str], login| NatsConfig {
        servers: servers.iter().map(|server| (*server).to_owned()).collect(),
        login,
        require_tls: false,
        tls: TlsConfig::default(),
    };
    let one = ["nats://a:4222"];
    assert_eq!(parse("{servers: 'nats://a:4222'}"), nats(&one, NatsLogin::Anonymous));
    let password = |login: &str| {
        parse(&format!(
            "{{servers: ['nats://a:4222', 'tls://b:1'], user: u, {login}}}"
        ))
    };
    let by_password = NatsLogin::Password {
        user: "u".into(),
        password: Secret::from("hunter2"),
    };
    assert_eq!(
        password("password: hunter2"),
        nats(&["nats://a:4222", "tls://b:1"], by_password.clone())
    );
    assert_eq!(
        password("password_file: secret"),
        nats(&["nats://a:4222", "tls://b:1"], by_password)
    );
    let token = NatsLogin::Token(Secret::from("hunter2"));
    assert_eq!(
        parse("{servers: 'nats://a:4222', token_file: secret}"),
        nats(&one, token)
    );
    let tls = NatsConfig {
        require_tls: true,
        tls: TlsConfig {
            ca: Some(directory.join("secret")),
            client_cert: Some((directory.join("secret"), directory.join("secret"))),
        },
        ..nats(&one, NatsLogin::Nkey(Secret::from("SUhunter2")))
    };
    let given =
        "{servers: 'nats://a:4222', nkey: SUhunter2, tls: {require: true, ca: secret, cert: secret, key: secret}}";
    assert_eq!(parse(given), tls);

    let brokers = Config::parse(&dynamo("brokers: ['tcp://a:1', 'tcp://b:2']"), directory).unwrap();
    assert_eq!(
        brokers.pools[0].dynamo.clone().unwrap().brokers,
        ["tcp://a:1", "tcp://b:2"]
    );
    for (setting, expected) in [("", true), ("load_events: true", true), ("load_events: false", false)] {
        let config = Config::parse(&dynamo(setting), directory).unwrap();
        assert_eq!(config.pools[0].dynamo.clone().unwrap().load_events, expected);
    }
}

#[test]
fn what_is_wrong_with_a_login_to_nats_is_said_without_showing_it() {
    let yaml = dynamo(
        "brokers: 'tcp://*:1', nats: {servers: ['nats://u:hunter2@a', 'http://a', 'nats://'], password: 1234567, \
         token: hunter2, token_file: hunter2, nkey: hunter2, credentials_file: missing, tls: {cert: missing}}",
    );
    let told = mistakes(&yaml);
    let shown = told.join("\n");
    assert!(
        !shown.contains("hunter2:") && !shown.contains("u:hunter2") && !shown.contains("1234567"),
        "{shown}"
    );
    let at = |key: &str| format!("pools[0].discovery.dynamo.{key} (line 1): ");
    let expected = [
        (at("nats.password"), "(hidden): must be a text; quote it"),
        (at("nats.token_file"), "set: the secret itself is set too"),
        (at("nats.nkey"), "(hidden): must be a user's seed, which begins with SU"),
        (at("nats.credentials_file"), "/missing: No such file"),
        (at("nats.nkey"), "set: there is another login already"),
        (
            at("nats.servers[0]"),
            "(hidden): must be nats://host:port or tls://host:port; name and password",
        ),
        (
            at("nats.servers[1]"),
            "\"http://a\": must be nats://host:port or tls://host:port",
        ),
        (
            at("nats.servers[2]"),
            "\"nats://\": must be nats://host:port or tls://host:port",
        ),
        (at("nats.tls.key"), "absent: required"),
        (at("nats.tls.cert"), "/missing: No such file"),
        (at("brokers"), "\"tcp://*:1\": must be tcp://host:port"),
    ];
    assert_eq!(told.len(), expected.len(), "{shown}");
    for (told, (place, why)) in told.iter().zip(&expected) {
        assert!(
            told.strip_prefix(place.as_str())
                .is_some_and(|rest| rest.starts_with(why)),
            "{told}: {place}{why}"
        );
    }
}

#[test]
fn etcd_is_reached_as_is_said_and_passwords_are_not_shown() {
    let parse = |dynamo: &str| {
        let discovery = format!("discovery: {{dynamo: {{{dynamo}}}}}");
        let yaml = format!(
            "pools: [{{name: p, models: [m], model_dir: '{}', block_size: 16, {discovery}}}]",
            model_dir()
        );
        Config::parse(&yaml, Path::new("/"))
    };
    let etcd = "backend: etcd, namespace: dynamo, etcd: {endpoints: ['http://a:2379', 'https://[::1]:2379/'], \
                user: me, password: of mine}";
    let config = parse(etcd).unwrap();
    let expected = EtcdConfig {
        endpoints: vec!["http://a:2379".to_owned(), "https://[::1]:2379/".to_owned()],
        login: Some(EtcdLogin {
            user: "me".to_owned(),
            password: Secret::from("of mine"),
        }),
        tls: TlsConfig::default(),
    };
    let dynamo = config.pools[0].dynamo.as_ref().unwrap();
    assert_eq!(dynamo.backend, DynamoBackend::Etcd(expected));
    assert!(!format!("{config:?}").contains("of mine"));

    let wrong = [
        ("backend: etcd, namespace: dynamo", "etcd (line 1): absent: required"),
        ("backend: consul, path: p, namespace: dynamo", "must be file or etcd"),
        (
            "backend: file, namespace: dynamo, path: p, etcd: {endpoints: 'http://a:1'}",
            "only with backend: etcd",
        ),
        (
            "backend: etcd, namespace: dynamo, path: p, etcd: {endpoints: 'http://a:1'}",
            "only with backend: file",
        ),
        (
            "backend: etcd, namespace: dynamo, etcd: {user: u, password: p}",
            "endpoints (line 1): absent",
        ),
        (
            "backend: etcd, namespace: dynamo, etcd: {endpoints: []}",
            "at least one endpoint",
        ),
        (
            "backend: etcd, namespace: dynamo, etcd: {endpoints: 'a:2379'}",
            "must be http://host:port",
        ),
        (
            "backend: etcd, namespace: dynamo, etcd: {endpoints: 'http://a/b:1'}",
            "must be http://host:port",
        ),
        (
            "backend: etcd, namespace: dynamo, etcd: {endpoints: 'http://a'}",
            "must be http://host:port",
        ),
        (
            "backend: etcd, namespace: dynamo, etcd: {endpoints: 'http://u:hush@a:1'}",
            "keys of their own (user, password)",
        ),
        (
            "backend: etcd, namespace: dynamo, etcd: {endpoints: 'http://a:1', user: u}",
            "password (line 1): absent",
        ),
        (
            "backend: etcd, namespace: dynamo, etcd: {endpoints: 'http://a:1', password: hush}",
            "user (line 1): absent",
        ),
        (
            "backend: etcd, namespace: dynamo, etcd: {endpoints: 'http://a:1', user: u, password: [hush]}",
            "must be a text",
        ),
        (
            "backend: etcd, namespace: dynamo, etcd: {endpoints: 'http://a:1', user: u, password_file: /no/such}",
            "No such file",
        ),
        (
            "backend: etcd, namespace: dynamo, etcd: {endpoints: 'http://a:1', tls: {ca: /dev/null}}",
            "no endpoint begins with https",
        ),
        (
            "backend: etcd, namespace: dynamo, etcd: {endpoints: 'https://a:1', tls: {ca: /no/such}}",
            "/no/such: No such file",
        ),
        (
            "backend: etcd, namespace: dynamo, etcd: {endpoints: 'https://a:1', tls: {cert: /dev/null}}",
            "key (line 1): absent",
        ),
        (
            "backend: etcd, namespace: dynamo, etcd: {x: 1, endpoints: 'http://a:1'}",
            "known here: endpoints, user, password",
        ),
    ];
    for (dynamo, expected) in wrong {
        let Err(ConfigError::Mistakes(mistakes)) = parse(dynamo) else {
            panic!("{dynamo} is taken");
        };
        assert!(
            mistakes.len() == 1 && mistakes[0].contains(expected) && !mistakes[0].contains("hush"),
            "{dynamo}: {mistakes:?}"
        );
    }
}
