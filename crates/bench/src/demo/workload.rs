//! What the demo asks: users who talk with a handful of assistants, several conversations at a time.

use std::time::Duration;

use fastrand::Rng;

use crate::prose::{name, passage, sentence};

/// Words of each assistant's system prompt: 300 to 900 tokens.
const SYSTEM_PROMPT_WORDS: [usize; 5] = [220, 330, 430, 540, 660];

/// Everything that will be asked, decided by the seed; only the answers are missing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Workload {
    /// In the order in which users take them up.
    pub(crate) conversations: Vec<Conversation>,
    /// How many talk at the same time.
    pub(crate) users: usize,
}

/// One user's conversation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Conversation {
    /// One of few.
    pub(crate) system_prompt: String,
    pub(crate) turns: Vec<Turn>,
}

/// One question.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Turn {
    pub(crate) question: String,
    /// Most tokens of the answer.
    pub(crate) max_tokens: u32,
    /// Answered as a stream?
    pub(crate) stream: bool,
    /// How long the user thinks first.
    pub(crate) think: Duration,
}

impl Workload {
    /// `conversations` of 6 to 10 turns.
    pub(crate) fn new(seed: u64, conversations: usize, users: usize) -> Self {
        let mut random = Rng::with_seed(seed);
        let system_prompts = SYSTEM_PROMPT_WORDS.map(|words| system_prompt(&mut random, words));
        let conversations = (0..conversations)
            .map(|_| Conversation {
                system_prompt: random.choice(&system_prompts).cloned().unwrap_or_default(),
                turns: (0..random.usize(6..=10)).map(|_| turn(&mut random)).collect(),
            })
            .collect();
        Self { conversations, users }
    }

    pub(crate) fn requests(&self) -> usize {
        self.conversations
            .iter()
            .map(|conversation| conversation.turns.len())
            .sum()
    }
}

fn system_prompt(random: &mut Rng, words: usize) -> String {
    let house = name(random);
    let subject = passage(random, 20);
    let rules = passage(random, words);
    format!("You are the assistant of {house}. {subject}\n\nWhat you must know and always respect:\n\n{rules}")
}

fn turn(random: &mut Rng) -> Turn {
    let words = random.usize(30..120);
    let context = passage(random, words);
    Turn {
        question: format!("{context}\n\nWhat follows from this? {}", sentence(random)),
        max_tokens: random.u32(32..=80),
        // Two of three, as a chat page does; the rest are programs.
        stream: random.u8(..3) > 0,
        think: Duration::from_millis(random.u64(100..600)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn is_decided_by_its_seed_and_shares_system_prompts() {
        let workload = Workload::new(7, 48, 14);
        assert_eq!(workload, Workload::new(7, 48, 14));
        assert_ne!(workload, Workload::new(8, 48, 14));
        let system_prompts: BTreeSet<_> = workload.conversations.iter().map(|c| &c.system_prompt).collect();
        assert_eq!(system_prompts.len(), SYSTEM_PROMPT_WORDS.len());
        let streamed = workload
            .conversations
            .iter()
            .flat_map(|c| &c.turns)
            .filter(|turn| turn.stream)
            .count();
        assert!(0 < streamed && streamed < workload.requests());
    }
}
