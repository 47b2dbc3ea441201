//! What decides a prompt and its hashes besides the request: as a pool's configuration says, or as arguments do.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use router_core::hash::BlockLayout;

use super::Arguments;
use crate::config::{Config, PoolConfig, PromptsConfig};

/// What decides a prompt and its hashes besides the request.
pub(super) struct Setup {
    /// The pool and the others beside it, where the configuration is known.
    pub(super) pool: Option<(PoolConfig, Vec<PoolConfig>)>,
    /// Empty where the input is token ids.
    pub(super) model_dir: PathBuf,
    pub(super) prompts: PromptsConfig,
    pub(super) layout: BlockLayout,
    pub(super) inject_tokens: bool,
}

/// What a pool makes of the `model` of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// The base model.
    Base,
    /// The LoRA adapter of that name.
    Lora(String),
    /// No pool is found, for a reason that filters count; and that in words.
    Nowhere(&'static str, String),
}

impl Setup {
    pub(super) fn of(arguments: &Arguments) -> anyhow::Result<Self> {
        match (&arguments.config, &arguments.pool) {
            (Some(config), Some(pool)) => Self::of_pool(config, pool, arguments.lora.as_deref()),
            (None, None) => Self::of_arguments(arguments),
            _ => bail!("--config and --pool go together: the file, and which of its pools"),
        }
    }

    fn of_pool(file: &Path, name: &str, lora: Option<&str>) -> anyhow::Result<Self> {
        let config = Config::load(file).with_context(|| format!("--config {}", file.display()))?;
        let (found, others): (Vec<_>, Vec<_>) = config.pools.into_iter().partition(|pool| pool.name == name);
        let Some(pool) = found.into_iter().next() else {
            let names: Vec<_> = others.iter().map(|pool| &*pool.name).collect();
            let (file, names) = (file.display(), names.join(", "));
            bail!("--pool {name}: {file} has no pool of that name; it has {names}");
        };
        if let Some(lora) = lora.filter(|lora| !pool.loras.iter().any(|known| known == lora)) {
            bail!("--lora {lora}: not among the `loras` of pool {name}: {:?}", pool.loras);
        }
        let mut layout = layout(pool.block_size)?;
        layout.eagle = pool.eagle;
        Ok(Self {
            model_dir: pool.model_dir.clone(),
            prompts: pool.prompts.clone(),
            layout,
            inject_tokens: pool.inject_tokens,
            pool: Some((pool, others)),
        })
    }

    fn of_arguments(arguments: &Arguments) -> anyhow::Result<Self> {
        if arguments.model.is_none() && !arguments.tokens {
            bail!("--model DIR, or --config FILE and --pool NAME, is needed, except with --tokens");
        }
        Ok(Self {
            pool: None,
            model_dir: arguments.model.clone().unwrap_or_default(),
            prompts: PromptsConfig {
                chat_template: arguments.chat_template.clone(),
                ..PromptsConfig::of(arguments.frontend)
            },
            layout: layout(arguments.block_size)?,
            inject_tokens: false,
        })
    }

    /// Looks for the `model` of a request as filters do, which have no pool for one that names none if there are several: for
    /// `reason`. Without a configuration any is the base model.
    ///
    /// # Errors
    /// If it is that of another pool.
    pub(super) fn find(&self, model: Option<&str>, reason: &'static str) -> anyhow::Result<Named> {
        let Some((pool, others)) = &self.pool else {
            return Ok(Named::Base);
        };
        let Some(model) = model else {
            return Ok(match others.is_empty() {
                true => Named::Base,
                false => Named::Nowhere(
                    reason,
                    "no model is known of it, and there are several pools".to_owned(),
                ),
            });
        };
        let is_named = |names: &[String]| names.iter().any(|name| name == model);
        if is_named(&pool.models) {
            return Ok(Named::Base);
        }
        if is_named(&pool.loras) {
            return Ok(Named::Lora(model.to_owned()));
        }
        let serves = |pool: &&PoolConfig| is_named(&pool.models) || is_named(&pool.loras);
        match others.iter().find(serves) {
            Some(other) => bail!(
                "--pool {}: the request's model is {model:?}, which pool {} serves",
                pool.name,
                other.name
            ),
            None => Ok(Named::Nowhere(
                "unknown_model",
                format!("no pool serves the model {model:?}"),
            )),
        }
    }

    /// Whether no worker of the pool tells of its cache, as far as the configuration says.
    pub(super) fn has_no_events(&self) -> bool {
        self.pool.as_ref().is_some_and(|(pool, _)| {
            let mut workers = pool.workers.iter();
            let is_silent = workers.all(|worker| worker.kv_events.is_empty() && worker.kv_topics.is_empty());
            is_silent && pool.dynamo.is_none()
        })
    }
}

fn layout(block_size: u32) -> anyhow::Result<BlockLayout> {
    BlockLayout::plain(block_size).context("--block-size 0: must be at least 1")
}
