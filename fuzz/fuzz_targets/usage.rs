//! Token counts out of responses, however these are cut into chunks. The first byte says how, and of which type they are.

#![no_main]

use libfuzzer_sys::fuzz_target;
use prompt::{Usage, UsageReader};

fuzz_target!(|data: &[u8]| {
    let Some((&choice, body)) = data.split_first() else {
        return;
    };
    let content_type = ["application/json", "text/event-stream"][usize::from(choice % 2)];
    let chunk = usize::from(choice / 2).max(1);
    assert_eq!(read(content_type, body.chunks(chunk)), read(content_type, [body]));
});

fn read<'a>(content_type: &str, chunks: impl IntoIterator<Item = &'a [u8]>) -> Option<Usage> {
    let mut reader = UsageReader::new(content_type);
    chunks.into_iter().for_each(|chunk| reader.feed(chunk));
    reader.finish()
}
