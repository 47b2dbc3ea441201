//! A network that fails on demand: a relay in front of one TCP port.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Bytes that a spoilt piece has overwritten: longer than any value but a text, so that one of them stands where msgpack
/// allows no such byte.
const SPOILT: [u8; 32] = [0xc1; 32];
/// Shorter pieces are handshakes and end marks.
const SHORTEST_SPOILT: usize = 128;

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// They work.
    Whole,
    /// They break, and new ones too.
    Cut,
    /// They stand, and nothing goes through.
    Stalled,
}

/// The relay; dropping it ends it and its connections.
#[derive(Debug)]
pub struct Relay {
    endpoint: String,
    wire: watch::Sender<Wire>,
    to_spoil: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

impl Relay {
    /// In front of `tcp://host:port`.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(target: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("a relay's port")?;
        let endpoint = format!("tcp://{}", listener.local_addr()?);
        let target = target.trim_start_matches("tcp://").to_owned();
        let (wire, watched) = watch::channel(Wire::Whole);
        let to_spoil = Arc::new(AtomicU32::new(0));
        let task = tokio::spawn(accept(listener, target, watched, to_spoil.clone()));
        Ok(Self {
            endpoint,
            wire,
            to_spoil,
            task,
        })
    }

    /// Where to connect instead.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Makes connections so from now on.
    pub fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }

    /// Spoils so many of the next longer pieces that come from the target.
    pub fn spoil(&self, pieces: u32) {
        self.to_spoil.store(pieces, Ordering::Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: String, wire: watch::Receiver<Wire>, to_spoil: Arc<AtomicU32>) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let (target, wire, to_spoil) = (target.clone(), wire.clone(), to_spoil.clone());
        connections.spawn(relay(near, target, wire, to_spoil));
        while connections.try_join_next().is_some() {}
    }
}

/// One connection, until either side ends it or it is cut.
async fn relay(near: TcpStream, target: String, mut wire: watch::Receiver<Wire>, to_spoil: Arc<AtomicU32>) {
    if *wire.borrow() == Wire::Cut {
        return;
    }
    let Ok(far) = TcpStream::connect(&target).await else {
        return;
    };
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let forth = copy(near_read, far_write, wire.clone(), Arc::default());
    let back = copy(far_read, near_write, wire.clone(), to_spoil);
    tokio::select! {
        () = forth => {}
        () = back => {}
        _ = wire.wait_for(|wire| *wire == Wire::Cut) => {}
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut wire: watch::Receiver<Wire>,
    to_spoil: Arc<AtomicU32>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if wire.wait_for(|wire| *wire != Wire::Stalled).await.is_err() {
            return;
        }
        let piece = &mut buffer[..length];
        if length >= SHORTEST_SPOILT {
            let take_one = |left: u32| left.checked_sub(1);
            if to_spoil
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take_one)
                .is_ok()
            {
                piece[length / 2..][..SPOILT.len()].copy_from_slice(&SPOILT);
            }
        }
        if to.write_all(piece).await.is_err() {
            return;
        }
    }
}
