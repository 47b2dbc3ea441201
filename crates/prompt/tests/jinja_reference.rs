//! Prompts against Python: whole strings, zero differences.
//!
//! `WARMPATH_TEMPLATE_DIRS` may name more model directories, separated by `:`, to compare in the same run.

mod support;

use std::path::{Path, PathBuf};

use prompt::template::ContentFormat;
use prompt::{Body, ChatTemplate, ModelText, Prompt, Shape};
use serde_json::{Value, json};
use support::conversations::{Random, body};

const REQUESTS: usize = 400;

/// Those that `scripts/setup test` fetches, but for gpt-oss, whose package has no template.
const MODELS: &[&str] = &["qwen3", "deepseek_v3", "llama3_1", "gemma3"];

fn model_text(dir: &Path) -> ModelText {
    let config = std::fs::read(dir.join("tokenizer_config.json")).unwrap();
    let jinja = std::fs::read_to_string(dir.join("chat_template.jinja")).ok();
    ModelText::from_files(&config, jinja.as_deref()).unwrap()
}

fn render(template: &ChatTemplate, body: &str) -> Result<String, String> {
    let body = Body::read(Shape::Chat, body.as_bytes()).map_err(|error| error.to_string())?;
    match body.prompt(Some(template)).map_err(|error| error.to_string())? {
        Prompt::Text {
            text,
            add_special_tokens: false,
            media: None,
        } => Ok(text.into_owned()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn rendered_prompts_equal_pythons() {
    let mut dirs: Vec<_> = MODELS.iter().map(|name| support::model(name)).collect();
    dirs.extend(
        std::env::var("WARMPATH_TEMPLATE_DIRS")
            .iter()
            .flat_map(|dirs| dirs.split(':'))
            .map(PathBuf::from),
    );
    let mut models = Vec::new();
    let mut cases = Vec::new();
    for (index, dir) in dirs.iter().enumerate() {
        let text = model_text(dir);
        let template = ChatTemplate::compile(&text).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        template.set_now(support::NOW);
        let format = if template.content_format() == ContentFormat::Parts {
            "parts"
        } else {
            "text"
        };
        println!("{}: content as {format}", dir.display());
        let tool_use = text.tool_use_template.clone();
        for (index, source) in [(2 * index, text.chat_template), (2 * index + 1, tool_use)] {
            let format = if index % 2 == 0 { format } else { "text" };
            models.push(json!({"source": source, "format": format, "special_tokens": text.special_tokens}));
        }
        let mut random = Random(index as u64);
        for _ in 0..REQUESTS {
            let body = body(&mut random);
            let with_tools = body.get("tools").is_some() && text.tool_use_template.is_some();
            let ours = render(&template, &body.to_string());
            cases.push((
                dir,
                ours,
                json!({"template": 2 * index + usize::from(with_tools), "body": body.to_string()}),
            ));
        }
    }
    let sent: Vec<&Value> = cases.iter().map(|(_, _, case)| case).collect();
    let expected = support::python(&json!({"templates": models, "now": support::NOW, "cases": sent}));
    assert_eq!(expected.len(), cases.len());
    let mut differences = 0;
    for dir in &dirs {
        let (mut rendered, mut refused) = (0, 0);
        for ((_, ours, case), theirs) in cases.iter().zip(&expected).filter(|((of, ..), _)| *of == dir) {
            match (ours, theirs["text"].as_str()) {
                (Ok(ours), Some(theirs)) if ours == theirs => rendered += 1,
                (Err(_), None) => refused += 1,
                _ => {
                    differences += 1;
                    if differences < 10 {
                        println!(
                            "{}\nbody: {}\n{}\n",
                            dir.display(),
                            case["body"],
                            difference(ours, theirs)
                        );
                    }
                }
            }
        }
        println!("{}: {rendered} equal, {refused} refused by both", dir.display());
        assert!(
            rendered + refused == 0 || rendered > 0,
            "nothing was rendered for {}",
            dir.display()
        );
    }
    assert_eq!(differences, 0);
    let own = cases
        .iter()
        .filter(|(dir, ours, _)| *dir == &dirs[0] && ours.is_ok())
        .count();
    assert!(
        own * 10 >= REQUESTS * 9,
        "most requests must render with the main template: {own} of {REQUESTS}"
    );
}

/// Both sides from a little before where they part.
fn difference(ours: &Result<String, String>, theirs: &Value) -> String {
    let (Ok(ours), Some(theirs)) = (ours, theirs["text"].as_str()) else {
        return format!("ours:   {ours:?}\ntheirs: {theirs}");
    };
    let same = ours.chars().zip(theirs.chars()).take_while(|(a, b)| a == b).count();
    let part = |text: &str| text.chars().skip(same.saturating_sub(60)).take(160).collect::<String>();
    format!("ours:   {:?}\ntheirs: {:?}", part(ours), part(theirs))
}
