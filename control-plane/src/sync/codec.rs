//! The stream's messages on the wire. Answers are encoded once and shared by all subscribers, so the codec takes bytes.

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use proto::v1::{FromFilter, ToFilter, to_filter};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// An encoded [`ToFilter`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded(Bytes);

impl Encoded {
    /// Encodes a message.
    pub fn new(message: to_filter::Message) -> Self {
        Self(ToFilter { message: Some(message) }.encode_to_vec().into())
    }

    /// Its size in bytes.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// The bytes, as protobuf.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

/// Sends [`Encoded`], receives [`FromFilter`].
#[derive(Clone, Copy, Debug, Default)]
pub struct SyncCodec;

impl Codec for SyncCodec {
    type Encode = Encoded;
    type Decode = FromFilter;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for SyncCodec {
    type Item = Encoded;
    type Error = Status;

    fn encode(&mut self, item: Encoded, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item.0);
        Ok(())
    }
}

impl Decoder for SyncCodec {
    type Item = FromFilter;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<FromFilter>, Status> {
        let message = buffer.copy_to_bytes(buffer.remaining());
        FromFilter::decode(message)
            .map(Some)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }
}
