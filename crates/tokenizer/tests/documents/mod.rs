//! Varied documents: texts of the repository, and texts from a seed over all of Unicode.

use std::path::Path;

/// SplitMix64: the same documents on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// First and last code point of ranges of like characters, to be mixed; [`every_character`] leaves none out.
const RANGES: &[(u32, u32)] = &[
    (0x00, 0x1f),
    (0x20, 0x7e),
    (0x7f, 0xa0),
    (0xa1, 0x24f),
    (0x250, 0x36f),
    (0x370, 0x3ff),
    (0x400, 0x52f),
    (0x530, 0x5ff),
    (0x600, 0x6ff),
    (0x700, 0x8ff),
    (0x900, 0x97f),
    (0x980, 0xdff),
    (0xe00, 0xeff),
    (0xf00, 0xfff),
    (0x1000, 0x109f),
    (0x10a0, 0x11ff),
    (0x1200, 0x139f),
    (0x13a0, 0x17ff),
    (0x1800, 0x1cff),
    (0x1d00, 0x1eff),
    (0x1f00, 0x1fff),
    (0x2000, 0x206f),
    (0x2070, 0x20ff),
    (0x2100, 0x23ff),
    (0x2400, 0x27bf),
    (0x2800, 0x2dff),
    (0x2e00, 0x303f),
    (0x3040, 0x30ff),
    (0x3100, 0x33ff),
    (0x3400, 0x4dbf),
    (0x4e00, 0x9fff),
    (0xa000, 0xabff),
    (0xac00, 0xd7a3),
    (0xe000, 0xf8ff),
    (0xf900, 0xfaff),
    (0xfb00, 0xfdff),
    (0xfe00, 0xfe0f),
    (0xfe10, 0xffff),
    (0x10000, 0x103ff),
    (0x10400, 0x10fff),
    (0x11000, 0x12fff),
    (0x13000, 0x16fff),
    (0x17000, 0x1afff),
    (0x1b000, 0x1cfff),
    (0x1d000, 0x1efff),
    (0x1f000, 0x1faff),
    (0x20000, 0x323af),
    (0xe0000, 0xe01ef),
    (0x10_0000, 0x10_ffff),
];

const PIECES: &[&str] = &[
    "The quick brown fox jumps over the lazy dog. ",
    "don't we'll THEY'RE I'M it's",
    "  ",
    "\n",
    "\r\n",
    "\n\n\n",
    "\t\t",
    " \u{a0}\u{3000}\u{2003}",
    "fn main() {\n    let x = a[i] + 0xFFu8;\n}\n",
    "SELECT * FROM t WHERE id='1';--",
    "{\"key\": [1, 2.5e-10, null, true], \"名\": \"\\u00e9\"}",
    "1234567890",
    "3.14159",
    "１２３",
    "٣٤٥",
    "½²Ⅷ",
    "中文文本没有空格，只有标点。",
    "日本語とカタカナ、漢字。",
    "한국어 문장입니다.",
    "مرحبا بالعالم، كيف الحال؟",
    "שלום עולם",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "Привет, мир!",
    "Γειά σου Κόσμε",
    "ẹ̀kọ́ Yorùbá",
    "e\u{301}\u{327}o\u{308}",
    "ﬁ ﬀ Ａｂｃ",
    "👩‍👩‍👧‍👦",
    "🏳️‍🌈🇩🇪",
    "👍🏽",
    "\u{200d}\u{200c}\u{200b}",
    "<|im_start|>user\n",
    "<|im_end|>",
    "<|endoftext|>",
    "<|im_end",
    "<think>\n\n</think>\n\n",
    "<tool_call>",
    "</tool_call>",
    "<|im_start|><|im_start|>",
    "<|begin_of_text|>",
    "<bos>",
    "http://example.com/a?b=c&d=%20#e",
    "user@example.com",
    "/usr/lib/x86_64-linux-gnu",
    "C:\\Windows\\",
    "a_b-c.d,e;f:g!h?",
    "!!!???...",
    "====----****",
    "\u{0}\u{1}\u{7f}\u{80}\u{feff}\u{fffd}\u{ffff}",
    "aaaaaaaaaaaaaaaa",
    "ABCdefGHI",
    "ÀÉÎõü",
    "ǅ ǈ",
];

/// Some 12,000 documents that are always the same, then generated ones up to `count`. `tokens` are added tokens of the model.
pub(crate) fn all(count: usize, tokens: &[String]) -> Vec<String> {
    let mut documents = fixed();
    let mut random = Random(42);
    while documents.len() < count {
        documents.push(generated(&mut random, tokens));
    }
    documents
}

/// Pieces, whole and cut added tokens, runs of one character and characters of all kinds, glued together.
fn generated(random: &mut Random, tokens: &[String]) -> String {
    let mut document = String::new();
    for _ in 0..1 + random.below(24) {
        match random.below(12) {
            0..=3 => document.push_str(PIECES[random.below(PIECES.len())]),
            4 if !tokens.is_empty() => document.push_str(&tokens[random.below(tokens.len())]),
            5 if !tokens.is_empty() => {
                let token = &tokens[random.below(tokens.len())];
                document.extend(token.chars().take(random.below(token.chars().count() + 1)));
            }
            6 => {
                let unit = [
                    " ",
                    "\n",
                    "\t",
                    "\r\n",
                    "a",
                    "A",
                    "0",
                    "-",
                    "\u{a0}",
                    "你",
                    "é",
                    "e\u{301}",
                    "\u{1f44d}",
                ];
                document.push_str(&unit[random.below(unit.len())].repeat(1 + random.below(60)));
            }
            // Marks that combine with what happens to stand before them, an added token's end included.
            7 => document.extend((0..1 + random.below(4)).map(|_| character(random, (0x300, 0x36f)))),
            8 => {
                let range = RANGES[random.below(RANGES.len())];
                document.extend((0..1 + random.below(40)).map(|_| character(random, range)));
            }
            9 => document.extend((0..1 + random.below(90)).map(|_| character(random, (0x61, 0x7a)))),
            _ => document.extend((0..1 + random.below(30)).map(|_| mixed(random))),
        }
    }
    document
}

fn fixed() -> Vec<String> {
    let mut documents: Vec<String> = PIECES.iter().map(|piece| (*piece).to_owned()).collect();
    documents.push(String::new());
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."), &mut documents);
    let mut random = Random(23);
    for _ in 0..200 {
        let count = 1 + random.below(60);
        documents.push((0..count).map(|_| PIECES[random.below(PIECES.len())]).collect());
    }
    for range in RANGES {
        for length in [1, 8, 120] {
            documents.push((0..length).map(|_| character(&mut random, *range)).collect());
        }
    }
    for _ in 0..150 {
        let length = random.below(300);
        documents.push((0..length).map(|_| mixed(&mut random)).collect());
    }
    let characters: Vec<char> = every_character().collect();
    for characters in characters.chunks(64) {
        documents.push(characters.iter().collect());
        documents.push(characters.iter().copied().map(sweep).collect());
    }
    for (unit, count) in [
        (" ", 4000),
        ("\n", 3000),
        ("\t ", 999),
        ("a", 5000),
        ("你", 2000),
        ("0", 1001),
        ("👍", 700),
        ("\u{301}", 500),
    ] {
        documents.push(unit.repeat(count));
        documents.push(format!("x{}y", unit.repeat(count)));
    }
    documents
}

/// A character beside letters, digits, punctuation, spaces and itself.
fn sweep(character: char) -> String {
    let c = character;
    format!("x{c}y ,{c}1{c}\n{c}{c} Ab{c}Cd{c}e {c}'s")
}

/// All of Unicode where characters are assigned (planes 0 to 3 and 14: all scripts, symbols, private use,
/// noncharacters, and what a later Unicode may assign), and some of the empty planes and those of private use.
fn every_character() -> impl Iterator<Item = char> {
    let assigned = (0..0x4_0000).chain(0xe_0000..0xf_0000);
    let others = (0x4_0000..0xe_0000).chain(0xf_0000..=0x10_ffff).step_by(487);
    assigned.chain(others).filter_map(char::from_u32)
}

fn character(random: &mut Random, (first, last): (u32, u32)) -> char {
    let offset = random.below((last - first + 1) as usize) as u32;
    char::from_u32(first + offset).unwrap_or('\u{fffd}')
}

/// A character of a random range; often a space, a letter or a digit beside it.
fn mixed(random: &mut Random) -> char {
    match random.below(6) {
        0 => ' ',
        1 => character(random, (0x20, 0x7e)),
        2 => character(random, (0x61, 0x7a)),
        _ => {
            let range = RANGES[random.below(RANGES.len())];
            character(random, range)
        }
    }
}

/// The texts of this repository: sources, manifests, prose.
fn files(dir: &Path, documents: &mut Vec<String>) {
    let mut entries: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" {
                files(&path, documents);
            }
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            documents.push(text);
        }
    }
}
