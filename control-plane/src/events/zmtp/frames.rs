//! ZMTP's frames (ZeroMQ's RFC 23): pure.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use super::ZmtpError;

/// Longest message that is kept, in bytes. Longer frames are read to their end and given as [`Part::TooLong`]. A step of
/// an engine that stores 64k tokens makes some 400 kB.
pub const MAX_FRAME_BYTES: u64 = 16 << 20;
/// A frame that announces more than this is no frame: the connection is given up.
const MAX_ANNOUNCED_BYTES: u64 = 1 << 31;
/// Longest command; real ones have some 50 bytes.
const MAX_COMMAND_BYTES: u64 = 4096;

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// One frame of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its bytes.
    Bytes(Bytes),
    /// It had so many bytes, and they were not kept.
    TooLong(u64),
}

/// What follows one another on a connection after the greetings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Part of a message, and whether more of it follow.
    Part(Part, bool),
    /// Something between the two ends themselves.
    Command(Bytes),
}

/// Frames and bytes. Memory grows with what comes, not with what is announced.
#[derive(Debug, Default)]
pub struct Codec {
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
    type Item = Frame;
    type Error = ZmtpError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, ZmtpError> {
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
            return Ok(Some(Frame::Part(Part::TooLong(header.length), more)));
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
            Frame::Command(body)
        } else {
            Frame::Part(Part::Bytes(body), more)
        }))
    }
}

impl Encoder<Frame> for Codec {
    type Error = ZmtpError;

    fn encode(&mut self, frame: Frame, dst: &mut BytesMut) -> Result<(), ZmtpError> {
        let (bytes, flags) = match frame {
            Frame::Part(Part::Bytes(bytes), more) => (bytes, if more { MORE } else { 0 }),
            Frame::Part(Part::TooLong(_), _) => {
                return Err(ZmtpError::Protocol("of this frame nothing is left to send"));
            }
            Frame::Command(bytes) => (bytes, COMMAND),
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

/// The socket type that a READY names.
///
/// # Errors
/// When the command is none.
pub fn socket_type(command: &Bytes) -> Result<Bytes, ZmtpError> {
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

/// Bytes with their length before them.
fn take(bytes: &mut Bytes, length: impl Fn(&mut Bytes) -> Option<u32>) -> Result<Bytes, ZmtpError> {
    let length = length(bytes).map(|length| length as usize);
    match length.filter(|length| *length <= bytes.len()) {
        Some(length) => Ok(bytes.split_to(length)),
        None => Err(ZmtpError::Protocol("a property is cut off")),
    }
}
