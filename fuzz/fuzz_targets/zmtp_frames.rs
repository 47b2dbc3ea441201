//! ZMTP frames, however they are cut into pieces on their way.

#![no_main]

use bytes::BytesMut;
use control_plane::events::zmtp::Part;
use control_plane::events::zmtp::frames::{Codec, Frame, socket_type};
use libfuzzer_sys::fuzz_target;
use tokio_util::codec::{Decoder, Encoder};

fuzz_target!(|data: &[u8]| {
    let Some((&piece, bytes)) = data.split_first() else {
        return;
    };
    let whole = read([bytes]);
    assert_eq!(read(bytes.chunks(usize::from(piece).max(1))), whole);
    let (frames, _) = whole;
    for frame in &frames {
        if let Frame::Command(command) = frame {
            let _ = socket_type(command);
        }
    }
    // What was read is written so that it is read again. Of what is too long nothing is left to write.
    let kept = frames
        .into_iter()
        .filter(|frame| !matches!(frame, Frame::Part(Part::TooLong(_), _)));
    let kept: Vec<_> = kept.collect();
    let mut written = BytesMut::new();
    for frame in &kept {
        Codec::default()
            .encode(frame.clone(), &mut written)
            .expect("it has room");
    }
    assert_eq!(read([&written[..]]), (kept, true));
});

/// The frames that come in these pieces, and whether nothing is wrong with them.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Frame>, bool) {
    let (mut codec, mut buffer, mut frames) = (Codec::default(), BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match codec.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, false),
            }
        }
    }
    (frames, true)
}
