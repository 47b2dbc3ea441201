//! ZeroMQ connections, as far as a subscriber needs them: ZMTP 3.0 over TCP without security (ZeroMQ's RFC 23), one
//! value for each connection, whichever side opened it.
//!
//! Why not a library: what publishers send is untrusted, and of the pure Rust ones `zeromq` 0.7 reserves whatever length a
//! frame announces (a length of 2^62 ends the process) and hangs up on heartbeats, while `rzmq` 0.5 hangs up on a long
//! message, which then comes again with every replay; none tells which connection a message came by, so that behind a
//! bound socket a publisher's restart cannot be told from another publisher. The other ends in our tests are that
//! library's sockets, and libzmq's in the interop tests.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::codec::{Decoder, Encoder, Framed};

/// Longest message that is kept, in bytes. Longer frames are read to their end and given as [`Part::TooLong`]. A step of
/// an engine that stores 64k tokens makes some 400 kB.
pub const MAX_FRAME_BYTES: u64 = 16 << 20;
/// A frame that announces more than this is no frame: the connection is given up.
const MAX_ANNOUNCED_BYTES: u64 = 1 << 31;
/// Most frames of one message; ours have up to four.
const MAX_PARTS: usize = 16;
/// Longest command; real ones have some 50 bytes.
const MAX_COMMAND_BYTES: u64 = 4096;
/// How long a silent connection may be dead: a probe after so long, then some more.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

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

/// One frame of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its bytes.
    Bytes(Bytes),
    /// It had so many bytes, and they were not kept.
    TooLong(u64),
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
        connection.framed.send(Out::Command(ready(role))).await?;
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
            self.framed.feed(Out::Part(part.clone(), more)).await?;
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
                In::Part(part, more) => {
                    self.keep(part);
                    if self.parts.len() > MAX_PARTS {
                        return Err(ZmtpError::Protocol("a message has too many frames"));
                    }
                    if !more {
                        self.kept = 0;
                        return Ok(std::mem::take(&mut self.parts));
                    }
                }
                In::Command(command) => self.answer(&command).await?,
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
            self.framed.send(Out::Command(pong.into())).await?;
        }
        Ok(())
    }

    /// The socket type in the peer's READY.
    async fn peer_type(&mut self) -> Result<Bytes, ZmtpError> {
        let In::Command(command) = self.next().await? else {
            return Err(ZmtpError::Protocol("a message before READY"));
        };
        let Some(mut properties) = command.strip_prefix(b"\x05READY").map(|rest| command.slice_ref(rest)) else {
            return Err(ZmtpError::Protocol("no READY"));
        };
        while properties.has_remaining() {
            let name = take(&mut properties, |bytes| bytes.try_get_u8().ok().map(u32::from))?;
            let value = take(&mut properties, |bytes| bytes.try_get_u32().ok())?;
            if name.eq_ignore_ascii_case(b"Socket-Type") {
                return Ok(value);
            }
        }
        Err(ZmtpError::Protocol("READY without a socket type"))
    }

    async fn next(&mut self) -> Result<In, ZmtpError> {
        self.framed.next().await.unwrap_or(Err(ZmtpError::Closed))
    }
}

/// Bytes with their length before them.
fn take(bytes: &mut Bytes, length: impl Fn(&mut Bytes) -> Option<u32>) -> Result<Bytes, ZmtpError> {
    let length = length(bytes).map(|length| length as usize);
    match length.filter(|length| *length <= bytes.len()) {
        Some(length) => Ok(bytes.split_to(length)),
        None => Err(ZmtpError::Protocol("a property is cut off")),
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

enum In {
    /// And whether more follow.
    Part(Part, bool),
    Command(Bytes),
}

enum Out {
    Part(Bytes, bool),
    Command(Bytes),
}

/// Frames and bytes. Memory grows with what comes, not with what is announced.
#[derive(Debug, Default)]
struct Codec {
    header: Option<Header>,
    /// Bytes of a frame that is too long, still to come.
    skipping: u64,
}

#[derive(Clone, Copy, Debug)]
struct Header {
    flags: u8,
    length: u64,
}

impl Codec {
    fn header(src: &mut BytesMut) -> Result<Option<Header>, ZmtpError> {
        let Some(&flags) = src.first() else { return Ok(None) };
        if flags & !(MORE | LONG | COMMAND) != 0 {
            return Err(ZmtpError::Protocol("unknown flags of a frame"));
        }
        let length_bytes = if flags & LONG != 0 { 8 } else { 1 };
        if src.len() < 1 + length_bytes {
            return Ok(None);
        }
        src.advance(1);
        let length = src.get_uint(length_bytes);
        let limit = if flags & COMMAND != 0 {
            MAX_COMMAND_BYTES
        } else {
            MAX_ANNOUNCED_BYTES
        };
        if length > limit {
            return Err(ZmtpError::Protocol("a frame announces more than any may have"));
        }
        Ok(Some(Header { flags, length }))
    }

    /// Drops what has come of a frame that is too long. True when it is over.
    fn skip(&mut self, src: &mut BytesMut) -> bool {
        let now = usize::try_from(self.skipping).unwrap_or(usize::MAX).min(src.len());
        src.advance(now);
        self.skipping -= now as u64;
        self.skipping == 0
    }
}

impl Decoder for Codec {
    type Item = In;
    type Error = ZmtpError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<In>, ZmtpError> {
        let header = match self.header {
            Some(header) => header,
            None => {
                let Some(header) = Self::header(src)? else {
                    return Ok(None);
                };
                self.header = Some(header);
                if header.length > MAX_FRAME_BYTES {
                    self.skipping = header.length;
                }
                header
            }
        };
        let more = header.flags & MORE != 0;
        if header.length > MAX_FRAME_BYTES {
            if !self.skip(src) {
                return Ok(None);
            }
            self.header = None;
            return Ok(Some(In::Part(Part::TooLong(header.length), more)));
        }
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        if src.len() < length {
            return Ok(None);
        }
        self.header = None;
        // A copy: a slice would keep all that was read with it in memory for as long as it lives.
        let body = Bytes::copy_from_slice(&src[..length]);
        src.advance(length);
        Ok(Some(if header.flags & COMMAND != 0 {
            In::Command(body)
        } else {
            In::Part(Part::Bytes(body), more)
        }))
    }
}

impl Encoder<Out> for Codec {
    type Error = ZmtpError;

    fn encode(&mut self, out: Out, dst: &mut BytesMut) -> Result<(), ZmtpError> {
        let (bytes, flags) = match out {
            Out::Part(bytes, more) => (bytes, if more { MORE } else { 0 }),
            Out::Command(bytes) => (bytes, COMMAND),
        };
        match u8::try_from(bytes.len()) {
            Ok(length) => dst.put_slice(&[flags, length]),
            Err(_) => {
                dst.put_u8(flags | LONG);
                dst.put_u64(bytes.len() as u64);
            }
        }
        dst.put_slice(&bytes);
        Ok(())
    }
}
