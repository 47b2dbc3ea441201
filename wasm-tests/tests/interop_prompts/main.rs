//! Prompts as Dynamo's frontend makes them: the token ids that its workers get, against those that our own crates make of
//! the same request. Real models' templates, and some that show what they are given or refuse what others take.

mod generated;
mod handmade;
mod templates;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use control_plane::config::PromptsConfig;
use control_plane::model::{Manner, Model, PromptTokens, Unread};
use prompt::{Body, Frontend, Shape};
use serde_json::Value;
use testbed::{Client, workspace_root};
use wasm_tests::dynamo::{self, Dynamo, RecordedModel};

const MODELS: [&str; 4] = ["qwen3", "llama3_1", "deepseek_v3", "gemma3"];

/// A request: the path, and the body but for the model's name.
type Case = (&'static str, Value);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Dynamo: scripts/setup interop"]
async fn our_prompts_are_those_of_dynamos_frontend() -> Result<()> {
    let dir = workspace_root().join(format!("target/testbed/prompts-{}", std::process::id()));
    let dynamo = Dynamo::new(&dir)?;
    let models = models(&dir)?;
    let record = dir.join("record.jsonl");
    fs::write(&record, "")?;
    let worker = dynamo.recording_worker(&record, &models)?;
    let frontend = dynamo.frontend("frontend", "round-robin")?;
    let names: Vec<_> = models.iter().map(|model| model.name).collect();
    frontend.serves_all(&names).await?;

    let client = Client::new();
    let cases: Vec<Case> = handmade::cases().into_iter().chain(generated::cases(100)).collect();
    let mut counts: BTreeMap<&str, Counts> = BTreeMap::new();
    let mut differences = Vec::new();
    for model in &models {
        let (name, ours) = (model.name, Ours::load(model)?);
        for (path, body) in &cases {
            let mut body = body.clone();
            body["model"] = name.into();
            body["max_tokens"] = 1.into();
            let answer = client.post_json(&frontend.url(path), &body).await?;
            ensure!(answer.status != 503, "{name} is not served: {}", answer.text());
            let count = counts.entry(path).or_default();
            if answer.status != 200 {
                count.refused += 1;
            } else if let Some(difference) = ours.difference(path, &body, &last_prompt(&record)?) {
                differences.push(format!("{name} {path} {body}\n{difference}"));
            } else {
                count.equal += 1;
            }
        }
    }
    println!("{counts:?}");
    let examples = &differences[..differences.len().min(10)];
    ensure!(
        differences.is_empty(),
        "{} differ:\n\n{}",
        differences.len(),
        examples.join("\n\n")
    );
    for (path, Counts { equal, refused }) in counts {
        ensure!(
            equal > 2 * refused,
            "{path}: {equal} compared, {refused} refused by Dynamo"
        );
    }
    // Copies of the models; without a failure nobody looks at them.
    drop((worker, frontend));
    fs::remove_dir_all(&dir)?;
    Ok(())
}

#[derive(Debug, Default)]
struct Counts {
    equal: usize,
    /// By Dynamo, so that there is no prompt.
    refused: usize,
}

fn models(dir: &Path) -> Result<Vec<RecordedModel>> {
    let recorded = |name, source: &str, parser| -> Result<RecordedModel> {
        let source = workspace_root().join("target/models").join(source);
        let dir = dir.join("models").join(name);
        dynamo::write_model(&source, &dir).context("run scripts/setup interop")?;
        Ok(RecordedModel { name, dir, parser })
    };
    let real = MODELS.iter().map(|name| recorded(*name, name, None));
    let made = templates::ALL.iter().map(|(name, template, parser)| {
        let model = recorded(name, "qwen3", *parser)?;
        fs::write(model.dir.join("chat_template.jinja"), template)?;
        Ok(model)
    });
    real.chain(made).collect()
}

/// The ids that the worker got last.
fn last_prompt(record: &Path) -> Result<Vec<u32>> {
    let prompts = fs::read_to_string(record)?;
    fs::write(record, "")?;
    let last = prompts.lines().last().context("no prompt reached the worker")?;
    Ok(serde_json::from_str(last)?)
}

/// Whether the prompt is known, and none of it stands before an image for certain.
fn is_settled_nowhere(error: &anyhow::Error) -> bool {
    let unread = error.downcast_ref::<Unread>();
    unread.is_some_and(|unread| unread.reason == "multimodal" && unread.text.is_some())
}

/// What our own crates make of requests.
struct Ours(Model);

impl Ours {
    fn load(RecordedModel { name, dir, parser }: &RecordedModel) -> Result<Self> {
        let mut prompts = PromptsConfig::of(Frontend::Dynamo);
        prompts.rules.reasoning_parser = parser.map(str::to_owned);
        let model = Model::load(dir, &prompts);
        if let Some(why) = model.inexact_because() {
            anyhow::bail!("{name}: {why}");
        }
        let ours = Self(model);
        ours.0.template.set_now(SystemTime::now());
        Ok(ours)
    }

    fn prompt(&self, path: &str, body: &Value) -> Result<PromptTokens> {
        let shape = Shape::of_path(path).context("a path without a prompt")?;
        let body = body.to_string();
        let body = Body::read(shape, body.as_bytes())?;
        Ok(self.0.read(&body, Manner::default(), &body.work())?)
    }

    /// How our prompt differs from theirs, or before an image what they begin with.
    fn difference(&self, path: &str, body: &Value, theirs: &[u32]) -> Option<String> {
        match self.prompt(path, body) {
            Ok(ours) if ours.ids == theirs || (!ours.is_whole && theirs.starts_with(&ours.ids)) => None,
            Ok(PromptTokens { ids, text, .. }) => {
                let equal = ids
                    .iter()
                    .zip(theirs)
                    .take_while(|(ours, theirs)| ours == theirs)
                    .count();
                Some(format!(
                    "from token {equal} on:\nours   {ids:?}\ntheirs {theirs:?}\nours   {text:?}"
                ))
            }
            Err(error) if is_settled_nowhere(&error) => None,
            Err(error) => Some(format!("none of ours: {error:#}")),
        }
    }
}
