//! BERT's normalizer, step by step as `tokenizers` 0.23 has it (`normalizers/bert.rs`). The library's treats characters by
//! newer tables.

use std::borrow::Cow;

use tk_encode::normalizers::BertNormalizer;
use tk_encode::normalizers::unicode::NFD;
use tk_encode::pipeline::PipelineNormalizer;
use unicode_categories::UnicodeCategories;
use work::Work;

use super::normalize::to_unicode_form;
use crate::EncodeError;

/// `text` cleaned, with spaces around Chinese characters, without accents, and in lower case, as far as `bert` says so.
pub(super) fn normalize(bert: BertNormalizer, text: &str, work: &Work) -> Result<String, EncodeError> {
    let strips_accents = bert.strip_accents.unwrap_or(bert.lowercase);
    let cleaned = cleaned(bert, text);
    let decomposed = match strips_accents {
        true => to_unicode_form(&PipelineNormalizer::NFD(NFD), &cleaned, work)?,
        false => Cow::Borrowed(cleaned.as_str()),
    };
    let mut normalized = String::with_capacity(decomposed.len());
    for character in decomposed.chars() {
        match character {
            'A'..='Z' if bert.lowercase => normalized.push(character.to_ascii_lowercase()),
            '\0'..='\x7f' => normalized.push(character),
            _ if is_plain(character) => normalized.push(character),
            _ if strips_accents && character.is_mark_nonspacing() => {}
            _ if bert.lowercase => normalized.extend(character.to_lowercase()),
            _ => normalized.push(character),
        }
    }
    Ok(normalized)
}

fn cleaned(bert: BertNormalizer, text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            ' '..='~' => cleaned.push(character),
            _ if bert.handle_chinese_chars && is_chinese(character) => cleaned.extend([' ', character, ' ']),
            _ if is_plain(character) || !bert.clean_text => cleaned.push(character),
            '\t' | '\n' | '\r' => cleaned.push(' '),
            '\u{fffd}' => {}
            _ if character.is_other() => {}
            _ if character.is_whitespace() => cleaned.push(' '),
            _ => cleaned.push(character),
        }
    }
    cleaned
}

/// Whether it is one of those beyond ASCII that most texts are made of and nothing is changed about here.
fn is_plain(character: char) -> bool {
    matches!(
        character,
        // Letters of Hangul, kana, Chinese characters, syllables of Hangul.
        '\u{1100}'..='\u{11ff}'
            | '\u{3041}'..='\u{3096}'
            | '\u{30a1}'..='\u{30fa}'
            | '\u{3400}'..='\u{4dbf}'
            | '\u{4e00}'..='\u{9fff}'
            | '\u{ac00}'..='\u{d7a3}'
    )
}

/// Whether it stands in one of the blocks of Chinese characters that BERT knows (`_is_chinese_char` of its `tokenization.py`).
fn is_chinese(character: char) -> bool {
    matches!(
        character,
        '\u{3400}'..='\u{4dbf}'
            | '\u{4e00}'..='\u{9fff}'
            | '\u{f900}'..='\u{faff}'
            | '\u{20000}'..='\u{2a6df}'
            | '\u{2a700}'..='\u{2b73f}'
            | '\u{2b740}'..='\u{2b81f}'
            | '\u{2b920}'..='\u{2ceaf}'
            | '\u{2f800}'..='\u{2fa1f}'
    )
}
