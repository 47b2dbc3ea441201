//! Chats: every field that bears on their prompts.

use prompt::Shape;
use serde_json::{Value, json};

use super::{CODE, EMOJI, PROSE, Probe, SCRIPTS, SPECIAL, SYSTEM, WHITESPACE, assistant, call, probe, user, weather};

pub(super) fn chats() -> Vec<Probe> {
    let system = json!({"role": "system", "content": SYSTEM});
    vec![
        chat("chat", json!({"messages": [user(PROSE)]})),
        chat("chat_system", json!({"messages": [system, user(SCRIPTS)]})),
        chat(
            "chat_turns",
            json!({"messages": [user(" Hi \n"), assistant("\nHello!  "), user(EMOJI), assistant("<b>ok</b>"), user(CODE)]}),
        ),
        chat("chat_special_tokens", json!({"messages": [user(SPECIAL)]})),
        chat("chat_whitespace", json!({"messages": [system, user(WHITESPACE)]})),
        chat(
            "chat_parts",
            json!({"messages": [{"role": "user", "content": [
                {"type": "text", "text": "First part."}, {"type": "text", "text": " Second part. "}]}]}),
        ),
        chat(
            "chat_developer",
            json!({"messages": [{"role": "developer", "content": SYSTEM}, user("Привет")]}),
        ),
        chat(
            "chat_names",
            json!({"messages": [{"role": "user", "name": "Ann", "content": "Hi."}, {"role": "user", "name": "山田", "content": "やあ"}]}),
        ),
        chat(
            "chat_no_thinking",
            json!({"messages": [user("Think not.")], "chat_template_kwargs": {"enable_thinking": false}}),
        ),
        asked_otherwise(
            "chat_reasoning_effort",
            json!({"messages": [user("Think hard.")], "reasoning_effort": "high"}),
            json!({"messages": [user("Think hard.")], "chat_template_kwargs": {"reasoning_effort": "high", "enable_thinking": true}}),
        ),
        chat(
            "chat_not_generated",
            json!({"messages": [user("Hi."), assistant("Hello.")], "add_generation_prompt": false}),
        ),
        chat(
            "chat_continued",
            json!({"messages": [user("Count."), assistant("One, two")],
                   "add_generation_prompt": false, "continue_final_message": true}),
        ),
        chat(
            "chat_tools",
            json!({"messages": [system, user("Weather in Zürich?")], "tools": [weather()]}),
        ),
        // Whether the tools are in the prompt is a setting of the worker that `/tokenize` does not look at.
        probe(
            "chat_tool_choice_none",
            Shape::Chat,
            json!({"messages": [user("Weather in Zürich?")], "tools": [weather()], "tool_choice": "none"}),
            None,
        ),
        chat(
            "chat_tool_calls",
            json!({"tools": [weather()], "messages": tool_calls()}),
        ),
        chat("chat_reasoning", json!({"tools": [weather()], "messages": reasoning()})),
        documents(),
    ]
}

fn tool_calls() -> Value {
    json!([
        user("Weather in Zürich and 北京?"),
        {"role": "assistant", "content": "", "tool_calls": [
            call("call00001", "{\"city\": \"Zürich\", \"days\": 2, \"exact\": true}"),
            call("call00002", "{\"city\":\"北京\",\"factor\":1.50}")]},
        {"role": "tool", "tool_call_id": "call00001", "content": "{\"temperature\": 3.5}"},
        {"role": "tool", "tool_call_id": "call00002", "content": "sunny"},
        user("Thanks <3")])
}

/// Reasoning in an earlier turn, which many templates leave out, and in the last one, which they do not.
fn reasoning() -> Value {
    json!([
        user("Is 7 prime?"),
        {"role": "assistant", "reasoning_content": "\n7 has no divisors. ", "content": "Yes."},
        user("Weather in 北京?"),
        {"role": "assistant", "reasoning_content": "I must look.", "content": "Let me see.",
         "tool_calls": [call("call00001", "{\"city\": \"北京\"}")]},
        {"role": "tool", "tool_call_id": "call00001", "content": "sunny"}])
}

fn documents() -> Probe {
    let documents = json!([{"title": "Zürich", "text": "A city.\n"}, {"title": "北京", "text": "Another \"one\"."}]);
    let messages = json!([user("Which cities?")]);
    asked_otherwise(
        "chat_documents",
        json!({"messages": messages, "documents": documents}),
        json!({"messages": messages, "chat_template_kwargs": {"documents": documents}}),
    )
}

/// `/tokenize` knows the fields of this one.
fn chat(name: &'static str, body: Value) -> Probe {
    let tokenize = body.clone();
    asked_otherwise(name, body, tokenize)
}

fn asked_otherwise(name: &'static str, body: Value, tokenize: Value) -> Probe {
    probe(name, Shape::Chat, body, Some(tokenize))
}
