use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::config::PromptsConfig;
use crate::model::Model;
use crate::parity::compare::our_ids;

fn names(all: &[Probe]) -> Vec<&'static str> {
    all.iter().map(|probe| probe.name).collect()
}

#[test]
fn every_shape_has_probes_with_names_of_their_own() {
    let all = probes("m", false);
    let shapes: BTreeSet<_> = all.iter().map(|probe| probe.shape).collect();
    assert_eq!(shapes, BTreeSet::from(Shape::ALL));
    let distinct: BTreeSet<_> = names(&all).into_iter().collect();
    assert_eq!(distinct.len(), all.len());
    for Probe {
        name, body, tokenize, ..
    } in &all
    {
        assert_eq!(body["model"], "m", "{name}");
        assert!(tokenize.iter().all(|asked| asked["model"] == "m"), "{name}");
    }
}

#[test]
fn of_gpt_oss_only_texts_can_be_tokenized() {
    let all = probes("m", true);
    let tokenized: Vec<_> = all.iter().filter(|probe| probe.tokenize.is_some()).collect();
    let expected: Vec<_> = all
        .iter()
        .filter(|probe| probe.body.contains_key("prompt") || probe.name == "embeddings")
        .collect();
    let names = |probes: &[&Probe]| probes.iter().map(|probe| probe.name).collect::<Vec<_>>();
    assert_eq!(names(&tokenized), names(&expected));
}

/// What `/tokenize` is asked has the prompt of the request: with a template that writes all that it is given, and with
/// a real one.
#[test]
fn what_is_tokenized_is_what_is_requested() {
    for model in [model_of("requested", EVERYTHING), qwen3()] {
        for probe in probes("m", false) {
            let Some(tokenize) = &probe.tokenize else { continue };
            let shape = match tokenize.contains_key("prompt") {
                true => Shape::Completions,
                false => Shape::Chat,
            };
            let asked = Probe {
                shape,
                body: tokenize.clone(),
                ..probe.clone()
            };
            let [requested, asked] = [&probe, &asked].map(|probe| our_ids(&model, probe));
            assert!(requested.is_ok(), "{}: {requested:?}", probe.name);
            assert_eq!(requested, asked, "{}", probe.name);
        }
    }
}

/// A worker whose template treats one thing otherwise than ours is found out by a probe that is about that thing.
#[test]
fn each_variable_of_a_template_has_a_probe() {
    let ours = model_of("ours", EVERYTHING);
    for (wrong, right, first) in [
        ("user", "{{ m.role }}", "chat_system"),
        (
            "{% if m.role != 'system' %}{{ m.content }}{% endif %}",
            "{{ m.content }}",
            "chat_system",
        ),
        (
            "{% if m.role != 'assistant' %}{{ m.content }}{% endif %}",
            "{{ m.content }}",
            "chat_turns",
        ),
        ("{{ m.content | trim }}", "{{ m.content }}", "chat_system"),
        (
            "{% if m.role != 'developer' %}{{ m.content }}{% endif %}",
            "{{ m.content }}",
            "chat_developer",
        ),
        ("", "{{ m.name }}", "chat_names"),
        ("", "{{ enable_thinking }}", "chat_no_thinking"),
        ("", "{{ reasoning_effort }}", "chat_reasoning_effort"),
        ("True", "{{ add_generation_prompt }}", "chat_not_generated"),
        ("", "{{ tools | tojson if tools }}", "chat_tools"),
        ("", "{{ m.tool_calls | tojson if m.tool_calls }}", "chat_tool_calls"),
        ("", "{{ m.tool_call_id }}", "chat_tool_calls"),
        (
            "{% if m.role != 'tool' %}{{ m.content }}{% endif %}",
            "{{ m.content }}",
            "chat_tool_calls",
        ),
        ("", "{{ m.reasoning_content }}", "chat_reasoning"),
        ("", "{{ documents | tojson if documents }}", "chat_documents"),
    ] {
        assert!(EVERYTHING.contains(right), "{right}");
        let theirs = model_of("theirs", &EVERYTHING.replace(right, wrong));
        let differing = probes("m", false)
            .into_iter()
            .find(|probe| our_ids(&ours, probe) != our_ids(&theirs, probe));
        assert_eq!(differing.map(|probe| probe.name), Some(first), "{right} as {wrong}");
    }
}

const EVERYTHING: &str = "{{ tools | tojson if tools }}{{ documents | tojson if documents }}{{ enable_thinking }}{{ reasoning_effort }}\
    {% for m in messages %}<{{ m.role }}>{{ m.name }}{{ m.reasoning_content }}{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}\
    {{ m.tool_call_id }}{% endfor %}{{ add_generation_prompt }}";

/// Every byte is a token, and a special token comes before texts.
fn model_of(name: &str, template: &str) -> Model {
    let directory = std::env::temp_dir().join(format!("warmpath-probes-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let bytes = (0..256).filter(printable).chain(256..324).filter_map(char::from_u32);
    let vocab: Map<String, Value> = bytes.zip(0..).map(|(byte, id)| (byte.to_string(), json!(id))).collect();
    let bos = json!({"id": 256, "content": "<bos>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true});
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [bos], "normalizer": null, "decoder": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [256], "tokens": ["<bos>"]}}},
        "model": {"type": "BPE", "vocab": vocab, "merges": []}});
    std::fs::write(directory.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let config = json!({"chat_template": template, "bos_token": "<bos>"});
    std::fs::write(directory.join("tokenizer_config.json"), config.to_string()).unwrap();
    let model = Model::load(&directory, &PromptsConfig::default());
    assert_eq!(model.inexact_because(), None);
    std::fs::remove_dir_all(&directory).unwrap();
    model
}

fn qwen3() -> Model {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/models/qwen3");
    let model = Model::load(&directory, &PromptsConfig::default());
    assert_eq!(model.inexact_because(), None, "run scripts/setup");
    model
}
