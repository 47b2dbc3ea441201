//! ZeroMQ connections, as far as a subscriber needs them: ZMTP 3.0 over TCP without security (ZeroMQ's RFC 23), one
//! value for each connection, whichever side opened it.
//!
//! Why not a library: what publishers send is untrusted, and of the pure Rust ones `zeromq` 0.7 reserves whatever length a
//! frame announces (a length of 2^62 ends the process) and hangs up on heartbeats, while `rzmq` 0.5 hangs up on a long
//! message, which then comes again with every replay; none tells which connection a message came by, so that behind a
//! bound socket a publisher's restart cannot be told from another publisher. The other ends in our tests are that
//! library's sockets, and libzmq's in the interop tests.

pub mod frames;

use std::io;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::codec::Framed;

use frames::{Codec, Frame, socket_type};
pub use frames::{MAX_FRAME_BYTES, Part};

/// Most frames of one message; ours have up to four.
const MAX_PARTS: usize = 16;
/// How long a silent connection may be dead: a probe after so long, then some more.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// Which end of a pattern we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role<'a> {
    /// Hears of a publisher's messages those whose first frame begins with one of these.
    Sub(&'a [&'a str]),
    /// Asks a ROUTER.
    Dealer,
}

impl Role<'_> {
    /// Hears all of a publisher's messages.
    pub const HEAR_ALL: Role<'static> = Role::Sub(&[""]);

    fn name(self) -> &'static str {
        match self {
            Self::Sub(_) => "SUB",
            Self::Dealer => "DEALER",
        }
    }

    fn takes(self, peer: &[u8]) -> bool {
        match self {
            Self::Sub(_) => matches!(peer, b"PUB" | b"XPUB"),
            Self::Dealer => matches!(peer, b"ROUTER"),
        }
    }
}

/// Why a connection cannot be used, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum ZmtpError {
    /// The network says so.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer hung up.
    #[error("the peer hung up")]
    Closed,
    /// The peer speaks something else.
    #[error("the peer does not speak ZMTP 3 as it should: {0}")]
    Protocol(&'static str),
    /// The peer is no publisher, or no ROUTER.
    #[error("the peer is a {peer:?} socket, which a {ours} socket cannot talk to: is this the right port?")]
    Peer {
        /// Its type.
        peer: String,
        /// Ours.
        ours: &'static str,
    },
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Connection {
    framed: Framed<TcpStream, Codec>,
    parts: Vec<Part>,
    kept: u64,
}

impl Connection {
    /// Connects to `tcp://host:port`. Takes as long as the network does: callers put a limit.
    ///
    /// # Errors
    /// When nobody is there, or somebody else.
    pub async fn connect(endpoint: &str, role: Role<'_>) -> Result<Self, ZmtpError> {
        let address = endpoint.strip_prefix("tcp://").unwrap_or(endpoint);
        Self::open(TcpStream::connect(address).await?, role).await
    }

    /// Shakes hands over a connection that either side opened, and subscribes.
    ///
    /// # Errors
    /// When the peer hangs up or is not what `role` needs.
    pub async fn open(mut stream: TcpStream, role: Role<'_>) -> Result<Self, ZmtpError> {
        stream.set_nodelay(true)?;
        // The end of a machine or of a network path sends nothing.
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE / KEEPALIVE_PROBES)
            .with_retries(KEEPALIVE_PROBES);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        greet(&mut stream).await?;
        let mut connection = Self {
            framed: Framed::new(stream, Codec::default()),
            parts: Vec::new(),
            kept: 0,
        };
        connection.framed.send(Frame::Command(ready(role))).await?;
        let peer = connection.peer_type().await?;
        if !role.takes(&peer) {
            return Err(ZmtpError::Peer {
                peer: String::from_utf8_lossy(&peer).into_owned(),
                ours: role.name(),
            });
        }
        if let Role::Sub(prefixes) = role {
            for prefix in prefixes {
                connection.send(&[[&[1], prefix.as_bytes()].concat().into()]).await?;
            }
        }
        Ok(connection)
    }

    /// Sends one message.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send(&mut self, parts: &[Bytes]) -> Result<(), ZmtpError> {
        for (index, part) in parts.iter().enumerate() {
            let more = index + 1 < parts.len();
            let part = Part::Bytes(part.clone());
            self.framed.feed(Frame::Part(part, more)).await?;
        }
        self.framed.flush().await
    }

    /// The next message. Nothing is lost when this is dropped before it is through.
    ///
    /// # Errors
    /// When the connection is gone, or the peer does not keep to the protocol or to our limits.
    pub async fn recv(&mut self) -> Result<Vec<Part>, ZmtpError> {
        loop {
            match self.next().await? {
                Frame::Part(part, more) => {
                    self.keep(part);
                    if self.parts.len() > MAX_PARTS {
                        return Err(ZmtpError::Protocol("a message has too many frames"));
                    }
                    if !more {
                        self.kept = 0;
                        return Ok(std::mem::take(&mut self.parts));
                    }
                }
                Frame::Command(command) => self.answer(&command).await?,
            }
        }
    }

    /// The frames of a message together have no more than one may have.
    fn keep(&mut self, part: Part) {
        let part = match part {
            Part::Bytes(bytes) if self.kept + bytes.len() as u64 > MAX_FRAME_BYTES => Part::TooLong(bytes.len() as u64),
            part => part,
        };
        if let Part::Bytes(bytes) = &part {
            self.kept += bytes.len() as u64;
        }
        self.parts.push(part);
    }

    /// Heartbeats are answered; what else there may be is none of ours.
    async fn answer(&mut self, command: &Bytes) -> Result<(), ZmtpError> {
        // PING, two bytes of time to live, then what to send back.
        if let Some(context) = command.strip_prefix(b"\x04PING").and_then(|rest| rest.get(2..)) {
            let pong = [b"\x04PONG", context].concat();
            self.framed.send(Frame::Command(pong.into())).await?;
        }
        Ok(())
    }

    /// The socket type in the peer's READY.
    async fn peer_type(&mut self) -> Result<Bytes, ZmtpError> {
        match self.next().await? {
            Frame::Command(command) => socket_type(&command),
            Frame::Part(..) => Err(ZmtpError::Protocol("a message before READY")),
        }
    }

    async fn next(&mut self) -> Result<Frame, ZmtpError> {
        self.framed.next().await.unwrap_or(Err(ZmtpError::Closed))
    }
}

/// Exchanges greetings: signature, version, security mechanism.
async fn greet(stream: &mut TcpStream) -> Result<(), ZmtpError> {
    let mut ours = [0; 64];
    ours[0] = 0xff;
    ours[9] = 0x7f;
    ours[10] = 3;
    ours[12..16].copy_from_slice(b"NULL");
    stream.write_all(&ours).await?;
    let mut theirs = [0; 64];
    stream.read_exact(&mut theirs).await?;
    if theirs[0] != 0xff || theirs[9] & 1 == 0 || theirs[10] < 3 {
        return Err(ZmtpError::Protocol("no ZMTP 3 greeting"));
    }
    if theirs[12..32] != ours[12..32] {
        return Err(ZmtpError::Protocol("it asks for a security mechanism other than NULL"));
    }
    Ok(())
}

fn ready(role: Role<'_>) -> Bytes {
    let mut command = BytesMut::new();
    command.put_slice(b"\x05READY\x0bSocket-Type");
    command.put_u32(u32::try_from(role.name().len()).unwrap_or_default());
    command.put_slice(role.name().as_bytes());
    if role == Role::Dealer {
        command.put_slice(b"\x08Identity\0\0\0\0");
    }
    command.freeze()
}
