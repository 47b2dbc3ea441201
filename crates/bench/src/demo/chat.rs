//! One chat completion, streamed or not.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use testbed::{Client, MODEL, Request, Streaming};

use super::workload::Turn;

/// What came back.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reply {
    pub(crate) content: String,
    pub(crate) finish: Finish,
    pub(crate) usage: Usage,
    /// From sending to the first content; only streams show it.
    pub(crate) ttft: Option<Duration>,
    /// `host:port` of the engine.
    pub(crate) worker: String,
}

/// Why an answer ends.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Finish {
    Stop,
    Length,
}

/// What the engine counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
}

/// Sends a turn with the conversation so far, and reads the answer.
pub(crate) async fn chat(client: &Client, url: &str, messages: &[Value], turn: &Turn) -> Result<Reply> {
    let mut body = json!({
        "model": MODEL,
        "messages": messages,
        "max_tokens": turn.max_tokens,
        "stream": turn.stream,
    });
    if turn.stream {
        body["stream_options"] = json!({"include_usage": true});
    }
    let response = client.open(Request::json(url, &body)).await?;
    if !response.status.is_success() {
        let answer = response.collect().await?;
        bail!("{url}: {} {}", answer.status, answer.text());
    }
    let worker = response
        .headers
        .get("x-engine-sim-worker")
        .context("no header x-engine-sim-worker")?;
    let worker = worker.to_str()?.to_owned();
    if turn.stream {
        read_stream(response, worker).await
    } else {
        read_whole(response, worker).await
    }
}

async fn read_whole(response: Streaming, worker: String) -> Result<Reply> {
    let body = response.collect().await?.json()?;
    let choice = &body["choices"][0];
    Ok(Reply {
        content: choice["message"]["content"].as_str().context("no content")?.to_owned(),
        finish: finish(&choice["finish_reason"])?,
        usage: usage(&body["usage"])?,
        ttft: None,
        worker,
    })
}

async fn read_stream(mut response: Streaming, worker: String) -> Result<Reply> {
    let mut lines = Lines::default();
    let mut content = String::new();
    let (mut finished, mut used, mut ttft, mut done) = (None, None, None, false);
    while let Some((when, chunk)) = response.chunk().await? {
        lines.push(&chunk);
        while let Some(line) = lines.next() {
            let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else {
                continue;
            };
            if data == b"[DONE]" {
                done = true;
                continue;
            }
            let event: Value = serde_json::from_slice(data).context("event of the stream")?;
            let choice = &event["choices"][0];
            if let Some(text) = choice["delta"]["content"].as_str().filter(|text| !text.is_empty()) {
                ttft.get_or_insert(when);
                content.push_str(text);
            }
            if !choice["finish_reason"].is_null() {
                finished = Some(finish(&choice["finish_reason"])?);
            }
            if event["usage"].is_object() {
                used = Some(usage(&event["usage"])?);
            }
        }
    }
    ensure!(done, "the stream ended without [DONE]");
    Ok(Reply {
        content,
        finish: finished.context("the stream has no finish_reason")?,
        usage: used.context("the stream has no usage")?,
        ttft: Some(ttft.context("the stream has no content")?),
        worker,
    })
}

fn finish(reason: &Value) -> Result<Finish> {
    Finish::deserialize(reason).with_context(|| format!("finish_reason {reason}"))
}

fn usage(usage: &Value) -> Result<Usage> {
    let count = |pointer| {
        usage
            .pointer(pointer)
            .and_then(Value::as_u64)
            .with_context(|| format!("usage {usage}"))
    };
    Ok(Usage {
        prompt_tokens: count("/prompt_tokens")?,
        cached_tokens: count("/prompt_tokens_details/cached_tokens")?,
    })
}

/// Whole lines out of chunks that end anywhere.
#[derive(Default)]
struct Lines {
    buffer: Vec<u8>,
}

impl Lines {
    fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// The next line without its end.
    fn next(&mut self) -> Option<Vec<u8>> {
        let end = self.buffer.iter().position(|byte| *byte == b'\n')?;
        let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
        line.pop();
        line.pop_if(|last| *last == b'\r');
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_do_not_depend_on_where_chunks_end() {
        let text = "data: {\"a\":\"é\"}\r\n\r\ndata: [DONE]\n\nrest".as_bytes();
        for size in 1..=text.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for chunk in text.chunks(size) {
                lines.push(chunk);
                found.extend(std::iter::from_fn(|| lines.next()));
            }
            let expected: [&[u8]; 4] = ["data: {\"a\":\"é\"}".as_bytes(), b"", b"data: [DONE]", b""];
            assert_eq!(found, expected, "chunks of {size}");
        }
    }
}
