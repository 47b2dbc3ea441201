//! Prompts to send: ordinary prose, the same for the same seed.

use serde_json::{Value, json};
use testbed::MODEL;
use xxhash_rust::xxh3::xxh3_64;

const WORDS: [&str; 32] = [
    "the", "harbour", "was", "quiet", "before", "dawn", "and", "every", "boat", "carried", "lanterns", "of", "green",
    "glass", "while", "old", "women", "counted", "fish", "by", "number", "seven", "then", "rain", "came", "across",
    "hills", "with", "naïve", "thunder", "日本", "again",
];

/// `count` words. Different seeds differ from the first word on.
pub fn words(seed: u64, count: usize) -> String {
    let mut text = format!("{seed}");
    for place in 0..count as u64 {
        let random = xxh3_64(&[seed.to_le_bytes(), place.to_le_bytes()].concat());
        let word = usize::try_from(random % WORDS.len() as u64).unwrap_or(0);
        text.push(' ');
        text.push_str(WORDS[word]);
    }
    text
}

/// A message of a chat.
pub fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// A chat request that is answered with a few tokens.
pub fn chat(messages: &[Value]) -> Value {
    json!({"model": MODEL, "messages": messages, "max_tokens": 4})
}

/// A chat request of a system prompt and a question.
pub fn question(system: &str, question: &str) -> Value {
    chat(&[message("system", system), message("user", question)])
}

/// A completion request that is answered with a few tokens.
pub fn completion(prompt: impl Into<Value>) -> Value {
    json!({"model": MODEL, "prompt": prompt.into(), "max_tokens": 4})
}

/// Makes a request stream, with usage at its end.
pub fn streaming(mut request: Value) -> Value {
    request["stream"] = true.into();
    request["stream_options"] = json!({"include_usage": true});
    request
}

/// Makes a request stream for as long as a test may need, until somebody hangs up.
pub fn endless(request: Value) -> Value {
    let mut request = streaming(request);
    request["max_tokens"] = 20_000.into();
    request["ignore_eos"] = true.into();
    request
}
