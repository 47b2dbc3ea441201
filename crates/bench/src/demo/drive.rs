//! Runs the workload against one Envoy.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testbed::Client;
use tokio::task::JoinSet;

use super::chat::{Reply, chat};
use super::progress::Progress;
use super::workload::{Conversation, Workload};

/// How far apart users come.
const ARRIVALS: Duration = Duration::from_millis(150);

/// A request and its reply.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    /// Place in the order of sending.
    pub(crate) sent: usize,
    /// The conversation up to and with the question.
    pub(crate) messages: Vec<Value>,
    pub(crate) reply: Reply,
}

/// Lets every user talk until no conversation is left. The first failed request ends it all.
pub(crate) async fn drive(
    workload: &Workload,
    url: &str,
    client: &Client,
    progress: &Progress,
) -> Result<Vec<Exchange>> {
    let room = Arc::new(Room {
        waiting: Mutex::new(workload.conversations.iter().cloned().collect()),
        sent: AtomicUsize::new(0),
        url: url.to_owned(),
        client: client.clone(),
        progress: progress.clone(),
    });
    let mut users = JoinSet::new();
    for number in 0..workload.users {
        let room = Arc::clone(&room);
        users.spawn(async move {
            tokio::time::sleep(ARRIVALS * u32::try_from(number)?).await;
            room.user().await
        });
    }
    let mut exchanges = Vec::with_capacity(workload.requests());
    while let Some(of_user) = users.join_next().await {
        exchanges.append(&mut of_user.context("user")??);
    }
    Ok(exchanges)
}

/// What the users share.
struct Room {
    waiting: Mutex<VecDeque<Conversation>>,
    sent: AtomicUsize,
    url: String,
    client: Client,
    progress: Progress,
}

impl Room {
    /// Takes up one conversation after the other.
    async fn user(&self) -> Result<Vec<Exchange>> {
        let mut exchanges = Vec::new();
        while let Some(conversation) = self.next_conversation() {
            self.converse(conversation, &mut exchanges).await?;
        }
        Ok(exchanges)
    }

    fn next_conversation(&self) -> Option<Conversation> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    async fn converse(&self, conversation: Conversation, exchanges: &mut Vec<Exchange>) -> Result<()> {
        let mut messages = vec![json!({"role": "system", "content": conversation.system_prompt})];
        for turn in &conversation.turns {
            tokio::time::sleep(turn.think).await;
            messages.push(json!({"role": "user", "content": turn.question}));
            let sent = self.sent.fetch_add(1, Ordering::Relaxed);
            let reply = chat(&self.client, &self.url, &messages, turn).await?;
            self.progress.add(&reply.usage);
            exchanges.push(Exchange {
                sent,
                messages: messages.clone(),
                reply: reply.clone(),
            });
            messages.push(json!({"role": "assistant", "content": reply.content}));
        }
        Ok(())
    }
}
