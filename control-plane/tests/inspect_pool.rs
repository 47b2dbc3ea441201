//! `warmpath inspect` as a pool of a configuration reads requests, and what becomes of requests that are not read.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use common::model_dir;
use control_plane::inspect::{Arguments, Report, run};
use router_core::hash::{BlockLayout, HashSeed, local_hashes, sequence_hashes};
use serde_json::{Value, json};

/// The arguments of a command line.
#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    arguments: Arguments,
}

/// A directory with a configuration and a model for which every byte is a token.
struct Directory(PathBuf);

const POOLS: &str = "pools:
  - name: own
    models: [base]
    loras: [tuned, other]
    model_dir: .
    block_size: 4
    eagle: true
    inject_tokens: true
    prompts: {chat_template: own.jinja, default_chat_template_kwargs: {mark: '!'}}
    workers: [{endpoint: '10.0.0.1:80', kv_events: 'tcp://10.0.0.1:5557'}]
  - name: dynamo
    models: [thinking]
    model_dir: .
    block_size: 8
    prompts: {frontend: dynamo, reasoning_parser: qwen3}
    workers: [{endpoint: '10.0.0.2:80', kv_events: 'tcp://10.0.0.2:5557'}]
  - name: silent
    models: [silent]
    model_dir: .
    block_size: 8
    workers: [{endpoint: '10.0.0.3:80'}]
";

impl Directory {
    fn new(name: &str) -> Self {
        let directory = model_dir(name);
        let own = "{% for m in messages %}{{ mark }}{{ m.content }}{% endfor %}";
        let of_model =
            json!({"chat_template": "{% for m in messages %}{{ m.content }}{{ enable_thinking }}{% endfor %}"});
        fs::write(directory.join("own.jinja"), own).unwrap();
        fs::write(directory.join("tokenizer_config.json"), of_model.to_string()).unwrap();
        fs::write(directory.join("pools.yaml"), POOLS).unwrap();
        Self(directory)
    }

    fn path(&self, file: &str) -> String {
        self.0.join(file).display().to_string()
    }

    /// The report, or the whole error.
    fn inspect(&self, arguments: &[&str], body: &str) -> Result<Report, String> {
        let file = self.path("body.json");
        fs::write(&file, body).unwrap();
        let line = CommandLine::try_parse_from(["inspect", &file].iter().chain(arguments));
        let line = line.map_err(|error| error.to_string())?;
        let directory = format!("{}/", self.0.display());
        run(&line.arguments).map_err(|error| format!("{error:#}").replace(&directory, ""))
    }

    fn in_pool(&self, pool: &str, arguments: &[&str], body: &Value) -> Result<Report, String> {
        let config = self.path("pools.yaml");
        let pool = ["--config", &config, "--pool", pool];
        self.inspect(&[&pool, arguments].concat(), &body.to_string())
    }

    fn of_model(&self, arguments: &[&str], body: &str) -> Result<Report, String> {
        let model = self.0.to_str().unwrap();
        self.inspect(&[&["--model", model], arguments].concat(), body)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Of a request that is not read by a pool with blocks of so many tokens.
fn unread(pool: Option<&str>, block_size: u32, footing: [&'static str; 2], explanation: &str) -> Report {
    let [rung, reason] = footing;
    Report {
        rung,
        reason,
        explanation: Some(explanation.to_owned()),
        pool: pool.map(str::to_owned),
        block_size,
        eagle: pool == Some("own"),
        lora: None,
        cache_namespace: None,
        is_batch: false,
        prompt: None,
        is_whole: false,
        token_ids: Vec::new(),
        local_block_hashes: Vec::new(),
        sequence_hashes: Vec::new(),
    }
}

/// The same of one that is read, with the ids and hashes of this prompt.
fn read(report: Report, prompt: &str) -> Report {
    let first = |byte: u8| u32::from(byte - b'!');
    let ids: Vec<u32> = prompt.bytes().map(first).collect();
    let mut layout = BlockLayout::plain(report.block_size).unwrap();
    layout.eagle = report.eagle;
    let seed = HashSeed::new(report.lora.as_deref(), report.cache_namespace.as_deref());
    let locals = local_hashes(&ids, layout, seed);
    Report {
        rung: "exact",
        reason: "ok",
        explanation: None,
        prompt: Some(prompt.to_owned()),
        is_whole: true,
        local_block_hashes: locals.iter().map(|hash| hash.0.to_string()).collect(),
        sequence_hashes: sequence_hashes(locals).iter().map(|hash| hash.0.to_string()).collect(),
        token_ids: ids,
        ..report
    }
}

fn nothing(pool: &str, block_size: u32) -> Report {
    unread(Some(pool), block_size, ["", ""], "")
}

fn chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "abcdefghij"}], "cache_salt": "salt"})
}

#[test]
fn a_pools_settings_decide() {
    let directory = Directory::new("inspect-pool");
    let salted = |report: Report| Report {
        cache_namespace: Some("salt".to_owned()),
        ..report
    };
    let tuned = Report {
        lora: Some("tuned".to_owned()),
        ..nothing("own", 4)
    };
    let base = directory.in_pool("own", &[], &chat("base"));
    assert_eq!(base, Ok(read(salted(nothing("own", 4)), "!abcdefghij")));
    assert_eq!(base.unwrap().sequence_hashes.len(), 2);
    let of_adapter = directory.in_pool("own", &[], &chat("tuned"));
    assert_eq!(of_adapter, Ok(read(salted(tuned.clone()), "!abcdefghij")));
    // Dynamo's frontend, with a parser of reasoning, thinks in messages, which have no salt there.
    let messages = directory.in_pool("dynamo", &["--path", "/v1/messages"], &chat("thinking"));
    assert_eq!(messages, Ok(read(nothing("dynamo", 8), "abcdefghijTrue")));

    let ids = directory.in_pool("own", &["--tokens", "--lora", "tuned"], &json!([0, 64, 65, 66, 67]));
    let expected = Report {
        prompt: None,
        ..read(tuned, "!abcd")
    };
    assert_eq!(ids, Ok(expected));
    // Truncation is the worker's own where it takes token ids.
    let truncated = json!({"model": "base", "prompt": "abcdefgh", "truncate_prompt_tokens": 4});
    let because = "`truncate_prompt_tokens` changes the prompt in a way that is not supported";
    let expected = Report {
        prompt: Some("abcdefgh".to_owned()),
        ..unread(Some("own"), 4, ["load", "unsupported_field"], because)
    };
    assert_eq!(directory.in_pool("own", &[], &truncated), Ok(expected));
    let silent = json!({"model": "silent", "prompt": ["abcdefgh", "other"]});
    let expected = Report {
        rung: "load",
        reason: "no_kv_events",
        explanation: Some("no worker of the pool has kv_events".to_owned()),
        is_batch: true,
        ..read(nothing("silent", 8), "abcdefgh")
    };
    assert_eq!(directory.in_pool("silent", &[], &silent), Ok(expected));
}

#[test]
fn a_request_that_is_for_no_pool_is_passed_on() {
    let directory = Directory::new("inspect-passed");
    let passed = |reason, because| unread(Some("own"), 4, ["pass", reason], because);
    let several = "no model is known of it, and there are several pools";
    for (body, expected) in [
        (
            chat("foreign"),
            passed("unknown_model", "no pool serves the model \"foreign\""),
        ),
        (json!({"prompt": "x"}), passed("no_model", several)),
        (
            json!({"model": "base", "messages": "x"}),
            passed("bad_field", &format!("`messages` is a string; {several}")),
        ),
    ] {
        assert_eq!(directory.in_pool("own", &[], &body), Ok(expected), "{body}");
    }
    // What is too large is looked through for its model.
    let large = |body: &Value| directory.in_pool("own", &["--max-prompt-bytes", "9"], body);
    let why = |bytes: usize| format!("the body has {bytes} bytes, more than the 9 of max_prompt_bytes");
    for (body, footing, why) in [
        (json!({"model": "tuned"}), ["load", "prompt_too_large"], why(17)),
        (
            json!({"model": "foreign"}),
            ["pass", "unknown_model"],
            why(19) + "; no pool serves the model \"foreign\"",
        ),
        (
            json!({"prompt": "x"}),
            ["pass", "prompt_too_large"],
            format!("{}; {several}", why(14)),
        ),
    ] {
        assert_eq!(large(&body), Ok(unread(Some("own"), 4, footing, &why)), "{body}");
    }
}

#[test]
fn wrong_arguments_are_named() {
    let directory = Directory::new("inspect-arguments");
    let error = |pool, arguments: &[&str]| directory.in_pool(pool, arguments, &chat("thinking")).unwrap_err();
    assert_eq!(
        error("nobody", &[]),
        "--pool nobody: pools.yaml has no pool of that name; it has own, dynamo, silent"
    );
    assert_eq!(
        error("own", &["--lora", "third"]),
        "--lora third: not among the `loras` of pool own: [\"tuned\", \"other\"]"
    );
    assert_eq!(
        error("own", &[]),
        "body.json: --pool own: the request's model is \"thinking\", which pool dynamo serves"
    );
    for [flag, value] in [
        ["--model", "."],
        ["--block-size", "16"],
        ["--frontend", "vllm"],
        ["--chat-template", "x"],
    ] {
        let error = error("own", &[flag, value]);
        assert!(
            error.contains("'--config <CONFIG>' cannot be used with") && error.contains(flag),
            "{error}"
        );
    }
    let error = |arguments: &[&str]| directory.inspect(arguments, "{}").unwrap_err();
    let alone = error(&["--pool", "own"]);
    assert!(alone.contains("--config <CONFIG>"), "{alone}");
    let broken = directory.path("broken.yaml");
    fs::write(&broken, "pools: []").unwrap();
    assert_eq!(
        error(&["--config", &broken, "--pool", "own"]),
        "--config broken.yaml: 1 mistake(s):\n  pools (line 1): empty: at least one pool is needed"
    );
    assert_eq!(
        error(&[]),
        "--model DIR, or --config FILE and --pool NAME, is needed, except with --tokens"
    );
    let error = |arguments: &[&str], body| directory.of_model(arguments, body).unwrap_err();
    assert_eq!(
        error(&[], "{}"),
        "body.json: the body has neither `messages` nor `prompt`; --path says what it is for"
    );
    assert_eq!(
        error(&["--path", "/v1/models"], "{}"),
        "body.json: --path /v1/models: no prompt is known to go there"
    );
    assert_eq!(
        error(&["--block-size", "0"], "{}"),
        "--block-size 0: must be at least 1"
    );
}

#[test]
fn what_a_filter_would_not_read_is_reported_as_it_counts_it() {
    let directory = Directory::new("inspect-limits");
    let load = |reason, because: &str| unread(None, 16, ["load", reason], because);
    let with_prompt = |report, prompt: &str| Report {
        prompt: Some(prompt.to_owned()),
        ..report
    };
    let too_much = "the request takes more work than one of its length may";
    let text = r#"{"prompt":"abcdefgh"}"#;
    let truncated = r#"{"prompt":"abcdefgh","truncate_prompt_tokens":4}"#;
    // Enough to read the body and to look its text up, and not to tokenize it.
    let little: &[&str] = &["--work-ms", "0", "--work-ms-per-mb", "20"];
    for (arguments, body, expected) in [
        (
            &["--max-prompt-bytes", "20"][..],
            text,
            load(
                "prompt_too_large",
                "the body has 21 bytes, more than the 20 of max_prompt_bytes",
            ),
        ),
        (
            &[],
            "{",
            load(
                "not_json",
                "the body is not JSON: line 1, column 1: EOF while parsing an object",
            ),
        ),
        (
            &["--path", "/v1/chat/completions"],
            text,
            load("no_prompt", "the body has no `messages`"),
        ),
        (
            &["--work-ms", "0", "--work-ms-per-mb", "0"],
            text,
            load("template_limit", "rendering exceeded its limit: work"),
        ),
        (little, text, with_prompt(load("tokenizer_limit", too_much), "abcdefgh")),
        (
            little,
            truncated,
            with_prompt(load("tokenizer_limit", too_much), "abcdefgh"),
        ),
    ] {
        assert_eq!(
            directory.of_model(arguments, body),
            Ok(expected),
            "{arguments:?} {body}"
        );
    }
    // A template that takes time by the square of what it is given.
    let hostile = directory.path("hostile.jinja");
    fs::write(
        &hostile,
        "{% for a in messages %}{% for b in messages %}{% endfor %}{% endfor %}",
    )
    .unwrap();
    let messages: Vec<_> = (0..10_000).map(|_| json!({"role": "user", "content": ""})).collect();
    let report = directory.of_model(
        &["--chat-template", &hostile],
        &json!({"messages": messages}).to_string(),
    );
    let expected = load("template_limit", "rendering exceeded its limit: work");
    assert_eq!(report, Ok(expected));
    // What is truncated is read, and shown as it was before.
    let whole = unread(None, 16, ["", ""], "");
    let expected = Report {
        prompt: Some("abcdefgh".to_owned()),
        ..read(whole, "efgh")
    };
    assert_eq!(directory.of_model(&[], truncated), Ok(expected));
}

#[test]
fn a_model_that_cannot_be_used_says_why() {
    let directory = Directory::new("inspect-model");
    fs::remove_file(Path::new(&directory.path("tokenizer.json"))).unwrap();
    let report = directory.of_model(&[], r#"{"prompt":"abc"}"#).unwrap();
    let because = format!(
        "{}: No such file or directory (os error 2)",
        directory.path("tokenizer.json")
    );
    assert_eq!(report, unread(None, 16, ["load", "no_tokenizer"], &because));
}
