//! Responses, Anthropic messages and embeddings, each with the chat or text that vLLM makes of it (the files that
//! `docs/prompts.md` names). Where only `/tokenize` can be asked, the chat shows that our conversion is the one written
//! down here, and how the worker writes that chat; that the worker converts like this, only its own rendering shows.

use prompt::Shape;
use serde_json::{Value, json};

use super::{
    EMOJI, PROSE, Probe, SCRIPTS, SYSTEM, WEATHER, WHITESPACE, assistant, call, probe, text_of, user, weather,
    weather_parameters,
};

pub(super) fn responses() -> Vec<Probe> {
    // Special tokens are added to what the template wrote.
    let chat = |mut chat: Value| {
        chat["add_special_tokens"] = true.into();
        Some(chat)
    };
    let system = json!({"role": "system", "content": SYSTEM});
    vec![
        probe(
            "responses",
            Shape::Responses,
            json!({"instructions": SYSTEM, "input": SCRIPTS}),
            chat(json!({"messages": [system, user(SCRIPTS)]})),
        ),
        probe(
            "responses_turns",
            Shape::Responses,
            json!({"input": [
                {"role": "user", "content": [{"type": "input_text", "text": " Hi \n"}]},
                {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
                 "content": [{"type": "output_text", "text": "Hello!", "annotations": []}]},
                {"role": "user", "content": WHITESPACE}]}),
            chat(json!({"messages": [user(" Hi \n"), assistant("Hello!"), user(WHITESPACE)]})),
        ),
        // Of a call, templates see the keys in another order than in a chat.
        probe(
            "responses_tools",
            Shape::Responses,
            json!({
                "tools": [{"type": "function", "name": "get_weather", "description": WEATHER, "parameters": weather_parameters()}],
                "input": [
                    {"role": "user", "content": "Weather in Zürich?"},
                    {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "I must look."}]},
                    {"type": "function_call", "call_id": "call00001", "name": "get_weather", "arguments": "{\"city\": \"Zürich\"}"},
                    {"type": "function_call_output", "call_id": "call00001", "output": "sunny ☀"}]}),
            None,
        ),
    ]
}

pub(super) fn messages() -> Vec<Probe> {
    let system = json!({"role": "system", "content": SYSTEM});
    vec![
        probe(
            "messages",
            Shape::Messages,
            json!({"max_tokens": 1, "system": SYSTEM, "messages": [user(SCRIPTS)]}),
            Some(json!({"messages": [system, user(SCRIPTS)]})),
        ),
        probe(
            "messages_turns",
            Shape::Messages,
            json!({
                "max_tokens": 1,
                "system": [{"type": "text", "text": "You are a terse assistant.\n"}, {"type": "text", "text": "Answer in one word. "}],
                "messages": [user(" Hi \n"), assistant("Hello!"), {"role": "user", "content": [
                    {"type": "text", "text": PROSE}, {"type": "text", "text": EMOJI}]}]}),
            Some(
                json!({"messages": [system, user(" Hi \n"), assistant("Hello!"), {"role": "user", "content": [
                {"type": "text", "text": PROSE}, {"type": "text", "text": EMOJI}]}]}),
            ),
        ),
        probe(
            "messages_tools",
            Shape::Messages,
            json!({
                "max_tokens": 1,
                "tools": [{"name": "get_weather", "description": WEATHER, "input_schema": weather_parameters()}],
                "messages": [
                    user("Weather in Zürich?"),
                    {"role": "assistant", "content": [
                        {"type": "thinking", "thinking": "I must look.", "signature": ""},
                        {"type": "text", "text": "Let me see."},
                        {"type": "tool_use", "id": "call00001", "name": "get_weather", "input": {"city": "Zürich", "days": 2}}]},
                    {"role": "user", "content": [
                        {"type": "tool_result", "tool_use_id": "call00001", "content": [{"type": "text", "text": "sunny ☀"}]},
                        {"type": "text", "text": "Thanks <3"}]}]}),
            Some(json!({"tools": [weather()], "messages": [
                user("Weather in Zürich?"),
                {"role": "assistant", "reasoning": "I must look.", "content": "Let me see.",
                 "tool_calls": [call("call00001", "{\"city\": \"Zürich\", \"days\": 2}")]},
                {"role": "tool", "tool_call_id": "call00001", "content": "sunny ☀"},
                user("Thanks <3")]})),
        ),
    ]
}

/// vLLM has no way to show what it makes of these.
pub(super) fn embeddings() -> Vec<Probe> {
    let query = "query: Wie heißt die Hauptstadt von 中国?";
    vec![
        probe("embeddings", Shape::Embeddings, json!({"input": query}), text_of(query)),
        probe(
            "embeddings_chat",
            Shape::Embeddings,
            json!({"messages": [user(PROSE)]}),
            Some(json!({"messages": [user(PROSE)], "add_generation_prompt": false})),
        ),
    ]
}
