//! What a run shows while it works, on standard error: one line that changes on a terminal, else a line now and then.

use std::io::{IsTerminal, Write, stderr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::chat::Usage;

/// Counts of one run. Clones share them; the display ends with the last one.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    counts: Arc<Counts>,
    _display: Arc<AbortOnDrop>,
}

#[derive(Debug)]
struct Counts {
    label: &'static str,
    total: usize,
    done: AtomicU64,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
}

#[derive(Debug)]
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Progress {
    pub(crate) fn new(label: &'static str, total: usize) -> Self {
        let counts = Arc::new(Counts {
            label,
            total,
            done: AtomicU64::new(0),
            prompt_tokens: AtomicU64::new(0),
            cached_tokens: AtomicU64::new(0),
        });
        let shown = Arc::clone(&counts);
        let display = tokio::spawn(async move {
            let is_terminal = stderr().is_terminal();
            let every = if is_terminal {
                Duration::from_millis(250)
            } else {
                Duration::from_secs(5)
            };
            let mut ticks = tokio::time::interval(every);
            loop {
                ticks.tick().await;
                shown.show(is_terminal);
            }
        });
        Self {
            counts,
            _display: Arc::new(AbortOnDrop(display)),
        }
    }

    pub(crate) fn add(&self, usage: &Usage) {
        self.counts
            .prompt_tokens
            .fetch_add(usage.prompt_tokens, Ordering::Relaxed);
        self.counts
            .cached_tokens
            .fetch_add(usage.cached_tokens, Ordering::Relaxed);
        self.counts.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Shows the final counts.
    pub(crate) fn finish(self) {
        let is_terminal = stderr().is_terminal();
        self.counts.show(is_terminal);
        if is_terminal {
            eprintln!();
        }
    }
}

impl Counts {
    fn show(&self, is_terminal: bool) {
        let [done, prompt, cached] =
            [&self.done, &self.prompt_tokens, &self.cached_tokens].map(|count| count.load(Ordering::Relaxed));
        let hit = if prompt == 0 {
            0.0
        } else {
            100.0 * cached as f64 / prompt as f64
        };
        let line = format!(
            "{:<12} {done:>4} of {} requests, hit rate so far {hit:5.1} %",
            self.label, self.total
        );
        let mut out = stderr().lock();
        // Whoever closed standard error does not want to know.
        let _ = if is_terminal {
            write!(out, "\r{line}").and_then(|()| out.flush())
        } else {
            writeln!(out, "{line}")
        };
    }
}
