//! `pools[].prompts`: how the workers of a pool make prompts.

use std::path::{Path, PathBuf};

use prompt::template::RESERVED_KWARGS;
use prompt::{Frontend, Rules};

use super::reader::{At, Mistakes};

/// How the workers of a pool make prompts, as far as the model directory does not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptsConfig {
    /// [`Rules::harmony`] apart.
    pub rules: Rules,
    /// Whether the model is gpt-oss; `None`: as the model directory looks.
    pub harmony: Option<bool>,
    /// The chat template in place of the model's own.
    pub chat_template: Option<PathBuf>,
    /// Whether workers run with options for images, so that it is not known what those become.
    pub mm_options: bool,
}

impl PromptsConfig {
    /// As a frontend does without any option.
    pub fn of(frontend: Frontend) -> Self {
        let rules = Rules {
            exclude_tools_when_tool_choice_none: frontend == Frontend::Dynamo,
            frontend,
            ..Rules::default()
        };
        Self {
            rules,
            ..Self::default()
        }
    }
}

/// The frontend of that name: `vllm` or `dynamo`.
pub fn frontend(name: &str) -> Option<Frontend> {
    match name {
        "vllm" => Some(Frontend::Vllm),
        "dynamo" => Some(Frontend::Dynamo),
        _ => None,
    }
}

/// `default`: the frontend if none is named.
pub(super) fn read_prompts(at: &At<'_>, directory: &Path, default: Frontend, mistakes: &mut Mistakes) -> PromptsConfig {
    let [
        frontend_at,
        harmony,
        chat_template,
        kwargs,
        exclude,
        mm_options,
        reasoning_parser,
        trust,
    ] = at.fields(
        mistakes,
        [
            "frontend",
            "harmony",
            "chat_template",
            "default_chat_template_kwargs",
            "exclude_tools_when_tool_choice_none",
            "mm_options",
            "reasoning_parser",
            "trust_request_chat_template",
        ],
    );
    let frontend = frontend_at.text(mistakes).map_or(default, |name| {
        frontend(name).unwrap_or_else(|| {
            let why = "must be vllm or dynamo: whose prompts the workers make, as others' are not known";
            mistakes.add(&frontend_at, format!("{name:?}"), why);
            default
        })
    });
    let mut config = PromptsConfig::of(frontend);
    if harmony.is_set() {
        config.harmony = Some(harmony.flag(mistakes, false));
    }
    if config.harmony == Some(true) && frontend == Frontend::Dynamo {
        mistakes.add(
            &harmony,
            "true",
            "Dynamo's frontend renders the chat template of gpt-oss, too",
        );
    }
    config.chat_template = chat_template.text(mistakes).map(|path| directory.join(path));
    if let Some(path) = config.chat_template.as_ref().filter(|path| !path.is_file()) {
        mistakes.add(&chat_template, path.display(), "no such file; must be a Jinja template");
    }
    let default = config.rules.exclude_tools_when_tool_choice_none;
    config.rules.exclude_tools_when_tool_choice_none = exclude.flag(mistakes, default);
    config.rules.default_chat_template_kwargs = kwargs.object(mistakes);
    config.mm_options = mm_options.flag(mistakes, false);
    if config.mm_options && frontend == Frontend::Dynamo {
        mistakes.add(
            &mm_options,
            "true",
            "changes what counts of prompts only with vLLM's frontend",
        );
    }
    if frontend == Frontend::Vllm {
        for name in config.rules.default_chat_template_kwargs.keys() {
            if RESERVED_KWARGS.contains(&name.as_str()) {
                let why = "is not for settings: vLLM refuses every chat with it";
                mistakes.add(&kwargs, format!("{name:?}"), why);
            }
        }
    }
    config.rules.reasoning_parser = reasoning_parser.text(mistakes).map(str::to_owned);
    if let (Some(parser), Frontend::Vllm) = (&config.rules.reasoning_parser, frontend) {
        let why = "changes prompts only with Dynamo's frontend (`frontend: dynamo`)";
        mistakes.add(&reasoning_parser, format!("{parser:?}"), why);
    }
    config.rules.trust_request_chat_template = trust.flag(mistakes, false);
    if config.rules.trust_request_chat_template && frontend == Frontend::Dynamo {
        mistakes.add(&trust, "true", "Dynamo's frontend refuses requests with a template");
    }
    config
}
