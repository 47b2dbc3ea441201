//! Tokens as text, to show them to people: read from `tokenizer.json` when there is a difference to show.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

/// Texts by id.
#[derive(Debug, Default)]
pub struct Vocabulary {
    texts: HashMap<u32, String>,
    /// Texts are written in GPT-2's stand-ins for bytes.
    byte_level: bool,
}

impl Vocabulary {
    /// Reads a model directory's `tokenizer.json`; what cannot be read has no texts.
    pub fn load(directory: &Path) -> Self {
        let json = std::fs::read(directory.join("tokenizer.json")).unwrap_or_default();
        let json: Value = serde_json::from_slice(&json).unwrap_or_default();
        let id = |value: &Value| u32::try_from(value.as_u64()?).ok();
        let mut texts = HashMap::new();
        match &json["model"]["vocab"] {
            Value::Object(vocab) => {
                texts.extend(
                    vocab
                        .iter()
                        .filter_map(|(text, value)| Some((id(value)?, text.clone()))),
                );
            }
            // Unigram: pairs of text and score, by id.
            Value::Array(pieces) => {
                let pieces = (0..).zip(pieces);
                texts.extend(pieces.filter_map(|(id, piece)| Some((id, piece[0].as_str()?.to_owned()))));
            }
            _ => {}
        }
        for added in json["added_tokens"].as_array().into_iter().flatten() {
            if let (Some(id), Some(text)) = (id(&added["id"]), added["content"].as_str()) {
                texts.insert(id, text.to_owned());
            }
        }
        let byte_level = ["pre_tokenizer", "decoder"]
            .iter()
            .any(|part| mentions_byte_level(&json[*part]));
        Self { texts, byte_level }
    }

    /// A token as the vocabulary writes it.
    pub fn text(&self, id: u32) -> Option<&str> {
        self.texts.get(&id).map(String::as_str)
    }

    /// The text that tokens stand for.
    pub fn join<'t>(&self, tokens: impl Iterator<Item = &'t str>) -> String {
        let mut bytes = Vec::new();
        for token in tokens {
            match token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')) {
                Some(hex) if hex.len() == 2 && !self.byte_level => bytes.extend(u8::from_str_radix(hex, 16)),
                _ => token.chars().for_each(|character| self.push(character, &mut bytes)),
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn push(&self, character: char, bytes: &mut Vec<u8>) {
        match byte_of(character) {
            Some(byte) if self.byte_level => bytes.push(byte),
            _ if character == '▁' => bytes.push(b' '),
            _ => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

fn mentions_byte_level(part: &Value) -> bool {
    match part {
        Value::Object(fields) => part["type"] == "ByteLevel" || fields.values().any(mentions_byte_level),
        Value::Array(items) => items.iter().any(mentions_byte_level),
        _ => false,
    }
}

/// The byte that a stand-in stands for (`bytes_to_unicode` of GPT-2): printable characters of Latin-1 for themselves,
/// the other bytes in order from U+0100 on.
fn byte_of(character: char) -> Option<u8> {
    let is_printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u8::try_from(character) {
        Ok(byte) => is_printable(byte).then_some(byte),
        Err(_) => {
            let place = u32::from(character).checked_sub(0x100)?;
            (0..=u8::MAX)
                .filter(|&byte| !is_printable(byte))
                .nth(usize::try_from(place).ok()?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stand_ins_are_bytes_again() {
        let vocabulary = Vocabulary {
            byte_level: true,
            ..Vocabulary::default()
        };
        // From GPT-2's vocabulary: " naïve", newline, and the three bytes of a Chinese character.
        assert_eq!(vocabulary.join(["ĠnaÃ¯ve", "Ċ", "ä¸", "Ń"].into_iter()), " naïve\n中");
        let distinct: std::collections::HashSet<_> =
            (0..0x144).filter_map(char::from_u32).filter_map(byte_of).collect();
        assert_eq!(distinct.len(), 256);
    }

    #[test]
    fn pieces_and_byte_fallback() {
        let vocabulary = Vocabulary::default();
        assert_eq!(
            vocabulary.join(["▁na", "<0xC3>", "<0xAF>", "ve", "<s>"].into_iter()),
            " naïve<s>"
        );
    }
}
