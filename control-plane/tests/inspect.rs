//! `warmpath inspect` against hashes that Dynamo 1.6.1 computed, and on request bodies.

use std::path::{Path, PathBuf};

use clap::Parser;
use control_plane::inspect::{Arguments, Report, run};
use prompt::Frontend;
use router_core::hash::{BlockHasher, HashSeed, media_hash, sequence_hashes};
use serde_json::Value;

/// The arguments of a command line.
#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    arguments: Arguments,
}

/// The report, or the whole error.
fn inspect(arguments: &[&str], file: &Path) -> Result<Report, String> {
    let file = file.to_str().unwrap();
    let line = CommandLine::try_parse_from(["inspect", file].iter().chain(arguments));
    let line = line.map_err(|error| error.to_string())?;
    run(&line.arguments).map_err(|error| format!("{error:#}").replace(file, "FILE"))
}

/// Of a request for which nothing else is said.
fn report() -> Report {
    Report {
        rung: "exact",
        reason: "ok",
        explanation: None,
        pool: None,
        block_size: 16,
        eagle: false,
        lora: None,
        cache_namespace: None,
        is_batch: false,
        prompt: None,
        is_whole: true,
        token_ids: Vec::new(),
        local_block_hashes: Vec::new(),
        sequence_hashes: Vec::new(),
    }
}

const VECTORS: &str = include_str!("../../crates/router-core/tests/data/dynamo_hash_vectors.json");

fn input(name: &str, content: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.json", std::process::id()));
    std::fs::write(&file, content).unwrap();
    file
}

#[test]
fn hashes_equal_dynamos() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let text_only = |case: &&Value| case["block_mm_infos"].is_null() && case["is_eagle"] != true;
    let cases: Vec<_> = vectors["cases"].as_array().unwrap().iter().filter(text_only).collect();
    assert!(cases.len() > 10);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let block_size = case["kv_block_size"].to_string();
        let mut arguments = vec!["--tokens", "--block-size", &block_size];
        let [lora, cache_namespace] = ["lora_name", "cache_namespace"].map(|key| case[key].as_str());
        arguments.extend(lora.iter().flat_map(|lora| ["--lora", *lora]));
        arguments.extend(cache_namespace.iter().flat_map(|name| ["--cache-namespace", *name]));
        let list = |key: &str| serde_json::from_value(case[key].clone()).unwrap();
        let expected = Report {
            block_size: block_size.parse().unwrap(),
            lora: lora.map(str::to_owned),
            cache_namespace: cache_namespace.map(str::to_owned),
            token_ids: serde_json::from_value(case["tokens"].clone()).unwrap(),
            local_block_hashes: list("local_block_hashes"),
            sequence_hashes: list("sequence_hashes"),
            ..report()
        };
        let file = input(name, &case["tokens"].to_string());
        assert_eq!(inspect(&arguments, &file), Ok(expected), "{name}");
    }
}

/// Prompt and ids that come of a body, or the error.
fn inspected(name: &str, path: Option<&str>, body: &str) -> Result<(Option<String>, Vec<u32>), String> {
    inspected_of("qwen3", Frontend::Vllm, name, path, body)
}

fn inspected_of(
    model: &str,
    frontend: Frontend,
    name: &str,
    path: Option<&str>,
    body: &str,
) -> Result<(Option<String>, Vec<u32>), String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let model = workspace.join("target/models").join(model);
    assert!(
        model.join("tokenizer.json").exists(),
        "{} has no model: run scripts/setup test",
        model.display()
    );
    let frontend = match frontend {
        Frontend::Vllm => "vllm",
        Frontend::Dynamo => "dynamo",
    };
    let mut arguments = vec![
        "--model",
        model.to_str().unwrap(),
        "--block-size",
        "4",
        "--frontend",
        frontend,
    ];
    arguments.extend(path.iter().flat_map(|path| ["--path", *path]));
    let report = inspect(&arguments, &input(name, body))?;
    assert_eq!(report.sequence_hashes.len(), report.token_ids.len() / 4);
    assert_eq!(report.is_whole, !body.contains("image_url"));
    Ok((report.prompt, report.token_ids))
}

#[test]
fn a_body_says_by_itself_whether_it_is_chat_or_text() {
    let chat = r#"{"messages":[{"role":"user","content":"hi"}]}"#;
    let rendered = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n".to_owned();
    // As Qwen3's own tokenizer has it: <|im_start|> is 151644, <|im_end|> 151645.
    let ids = vec![151_644, 872, 198, 6023, 151_645, 198, 151_644, 77_091, 198];
    assert_eq!(inspected("chat", None, chat), Ok((Some(rendered), ids)));

    let text = r#"{"prompt":"hi"}"#;
    let expected = Ok((Some("hi".to_owned()), vec![6023]));
    assert_eq!(inspected("text", None, text), expected);
    assert_eq!(inspected("text-by-path", Some("/v1/completions"), text), expected);
    assert_eq!(
        inspected("ids", None, r#"{"prompt":[1,2,3,4,5]}"#),
        Ok((None, vec![1, 2, 3, 4, 5]))
    );
}

#[test]
fn a_prompt_with_an_image_ends_before_it() {
    let body = r#"{"messages":[{"role":"system","content":"hi"},
        {"role":"user","content":[{"type":"text","text":"hi"},{"type":"image_url","image_url":{"url":"x"}}]}]}"#;
    // Qwen3's template takes texts, so the image may stand at the start of the message, and take part in its first token.
    let expected = "<|im_start|>system\nhi<|im_end|>\n".to_owned();
    let ids = vec![151_644, 8948, 198, 6023, 151_645, 198];
    assert_eq!(inspected("image", None, body), Ok((Some(expected), ids)));
}

/// The same as the filter finds: its tests hash the same way.
#[test]
fn an_image_that_is_known_has_its_tokens_and_its_place_in_the_hashes() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let qwen3 = workspace.join("target/models/qwen3");
    let model = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("vision-model-{}", std::process::id()));
    std::fs::create_dir_all(&model).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(qwen3.join(file), model.join(file)).expect("no model: run scripts/setup test");
    }
    let processor = r#"{"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 14, "merge_size": 2,
        "min_pixels": 1, "max_pixels": 1000000}"#;
    let template = "{% for m in messages %}{% for p in m.content %}{{ p.text if p.type == 'text' else '<|image_pad|>' }}\
        {% endfor %}{% endfor %}";
    std::fs::write(
        model.join("config.json"),
        r#"{"model_type": "qwen2_vl", "image_token_id": 151655}"#,
    )
    .unwrap();
    std::fs::write(model.join("preprocessor_config.json"), processor).unwrap();
    std::fs::write(model.join("chat_template.jinja"), template).unwrap();
    // A PNG of 84 x 28 pixels.
    let body = r#"{"messages":[{"role":"user","content":[{"type":"text","text":"hi"},{"type":"image_url","uuid":"cat",
        "image_url":{"url":"data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAFQAAAAc"}},{"type":"text","text":"hi"}]}]}"#;
    let ids = [6023, 151_655, 151_655, 151_655, 6023];
    let mut hasher = BlockHasher::new(HashSeed::PLAIN);
    let locals = [&ids[..2], &ids[2..4]].map(|block| hasher.local(block, &[media_hash("cat")]));
    let expected = Report {
        block_size: 2,
        prompt: Some("hi<|image_pad|>hi".to_owned()),
        token_ids: ids.to_vec(),
        local_block_hashes: locals.map(|hash| hash.0.to_string()).to_vec(),
        sequence_hashes: sequence_hashes(locals).iter().map(|hash| hash.0.to_string()).collect(),
        ..report()
    };
    let arguments = ["--model", model.to_str().unwrap(), "--block-size", "2"];
    assert_eq!(inspect(&arguments, &input("known-image", body)), Ok(expected));
    std::fs::remove_dir_all(&model).unwrap();
}

#[test]
fn every_path_has_its_prompt() {
    let chat = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n";
    let asked = format!("{chat}<|im_start|>assistant\n");
    for (name, path, body, prompt) in [
        (
            "a",
            "/v1/chat/completions",
            r#"{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi"}]}"#,
            &*asked,
        ),
        ("b", "/v1/completions", r#"{"prompt":"Hi"}"#, "Hi"),
        (
            "c",
            "/v1/responses",
            r#"{"instructions":"Be brief.","input":"Hi"}"#,
            &asked,
        ),
        (
            "d",
            "/v1/messages?beta=true",
            r#"{"max_tokens":9,"system":"Be brief.","messages":[{"role":"user","content":[{"type":"text","text":"Hi"}]}]}"#,
            &asked,
        ),
        ("e", "/v1/embeddings", r#"{"input":["Hi","Ho"]}"#, "Hi"),
        (
            "f",
            "/v1/embeddings",
            r#"{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi"}]}"#,
            chat,
        ),
    ] {
        let (seen, _) = inspected(name, Some(path), body).unwrap();
        assert_eq!(seen.as_deref(), Some(prompt), "{path}");
    }
}

#[test]
fn gpt_oss_is_found_out_and_rendered_as_its_frontend_does() {
    let body = r#"{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"<|end|>"}]}"#;
    let path = Some("/v1/chat/completions");
    let (prompt, ids) = inspected_of("gptoss", Frontend::Vllm, "oss", path, body).unwrap();
    let (_, after_date) = prompt.as_deref().unwrap().split_once("\n\nReasoning: medium").unwrap();
    assert_eq!(
        after_date,
        "\n\n# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>\
         <|start|>developer<|message|># Instructions\n\nBe brief.<|end|><|start|>user<|message|><|end|><|end|>\
         <|start|>assistant"
    );
    // The user's own `<|end|>` is text: four tokens instead of 200007.
    let user = [200_006, 1428, 200_008, 27, 91, 419, 91, 29, 200_007, 200_006, 173_781];
    assert_eq!(ids[ids.len() - user.len()..], user);
    // Dynamo's frontend would render a template, which this directory has not.
    let model = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join("target/models/gptoss");
    let arguments = ["--model", model.to_str().unwrap(), "--frontend", "dynamo"];
    let expected = Report {
        rung: "load",
        reason: "no_template",
        explanation: Some("the model has no chat template".to_owned()),
        is_whole: false,
        ..report()
    };
    assert_eq!(inspect(&arguments, &input("oss-dynamo", body)), Ok(expected));
}
