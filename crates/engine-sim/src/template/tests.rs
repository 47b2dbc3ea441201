use serde_json::json;

use super::*;
use crate::test_support::MODEL;

fn messages(messages: Json) -> Vec<Map<String, Json>> {
    serde_json::from_value(messages).expect("messages")
}

fn input(conversation: Json) -> RenderInput {
    RenderInput {
        messages: messages(conversation),
        add_generation_prompt: true,
        ..RenderInput::default()
    }
}

fn qwen3(input: RenderInput) -> String {
    MODEL
        .template
        .as_ref()
        .expect("template")
        .render(input)
        .expect("renders")
}

fn render(source: &str, input: RenderInput) -> Result<String, String> {
    let special = Map::from_iter([("bos_token".to_owned(), json!("<s>"))]);
    let template = ChatTemplate::new(source.to_owned(), special).map_err(|error| error.to_string())?;
    template.render(input).map_err(|error| error.to_string())
}

/// Expected texts worked out by hand from the template.
#[test]
fn qwen3_conversation_with_tools() {
    let input = RenderInput {
        tools: Some(vec![
            json!({"type": "function", "function": {"name": "größe", "parameters": null}}),
        ]),
        ..input(json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "<think>\nhm\n</think>\n\nCalling.",
             "tool_calls": [{"function": {"name": "größe", "arguments": {"b": 1, "a": ["ü"]}}}]},
            {"role": "tool", "content": "42"},
        ]))
    };
    assert_eq!(
        qwen3(input),
        "<|im_start|>system\nBe brief.\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n\
         You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n\
         {\"type\": \"function\", \"function\": {\"name\": \"größe\", \"parameters\": null}}\n</tools>\n\n\
         For each function call, return a json object with function name and arguments within <tool_call></tool_call> \
         XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n\
         <|im_start|>user\nHi<|im_end|>\n\
         <|im_start|>assistant\n<think>\nhm\n</think>\n\nCalling.\n<tool_call>\n\
         {\"name\": \"größe\", \"arguments\": {\"b\": 1, \"a\": [\"ü\"]}}\n</tool_call><|im_end|>\n\
         <|im_start|>user\n<tool_response>\n42\n</tool_response><|im_end|>\n\
         <|im_start|>assistant\n"
    );
}

#[test]
fn kwargs_reach_the_template_but_do_not_override_the_request() {
    let kwargs = json!({"enable_thinking": false, "messages": [], "add_generation_prompt": false});
    let input = RenderInput {
        kwargs: serde_json::from_value(kwargs).expect("kwargs"),
        images: Vec::new(),
        ..input(json!([{"role": "user", "content": "Hi"}]))
    };
    assert_eq!(
        qwen3(input),
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    );
}

#[test]
fn continues_the_final_message() {
    let open = |content: &str| RenderInput {
        add_generation_prompt: false,
        continue_final_message: true,
        ..input(json!([{"role": "user", "content": "Hi"}, {"role": "user", "content": content}]))
    };
    assert_eq!(
        qwen3(open("And ")),
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>user\nAnd "
    );
    let trimming = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}";
    assert_eq!(render(trimming, open("And ")).as_deref(), Ok("[Hi][And"));
    let both = RenderInput {
        add_generation_prompt: true,
        ..open("And")
    };
    let error = render(trimming, both).expect_err("refused");
    assert!(error.contains("not compatible"), "{error}");
}

#[test]
fn environment_is_that_of_transformers() {
    for (source, want) in [
        (
            "{{ bos_token }}{% if true %}\n  {% set x = 1 %}\nx{{ x }}\n{% endif %}\n",
            "<s>x1\n",
        ),
        ("{{ 'a b'.split(' ')[-1].upper() }}", "B"),
        (
            "{{ {'b': [1, 1.0], 'a': '<é>'} | tojson }}",
            "{\"b\": [1, 1.0], \"a\": \"<é>\"}",
        ),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        (
            "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
            "<&>",
        ),
        ("{{ missing }}{{ messages[0].missing }}", ""),
        ("{{ tools is none }}", "True"),
    ] {
        let input = input(json!([{"role": "user", "content": "<&>"}, {"role": "user", "content": "2"}]));
        assert_eq!(render(source, input).as_deref(), Ok(want), "{source}");
    }
}

#[test]
fn a_template_can_refuse() {
    let error = render("{{ raise_exception('roles must alternate') }}", input(json!([]))).expect_err("refused");
    assert!(error.contains("roles must alternate"), "{error}");
}

#[test]
fn an_endless_template_runs_out_of_fuel() {
    let source = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
    let error = render(source, input(json!([]))).expect_err("refused");
    assert!(error.contains("fuel"), "{error}");
}
