//! The texts: decided by a seed, or found in the repository.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use serde_json::json;
use testbed::workspace_root;

use crate::prose;

/// Kind of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Sentences with names and figures.
    English,
    /// This repository's own Rust.
    Code,
    /// Sentences of common words.
    Chinese,
    /// Records as an API gives them.
    Json,
    /// What costs tokenizers most: words without an end, runs of spaces, marks to reorder, all of Unicode.
    Hostile,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [Self::English, Self::Code, Self::Chinese, Self::Json, Self::Hostile];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::English => "english",
            Self::Code => "code",
            Self::Chinese => "chinese",
            Self::Json => "json",
            Self::Hostile => "hostile",
        }
    }

    /// A text of about so many bytes.
    pub(crate) fn text(self, seed: u64, bytes: usize) -> Result<String> {
        let mut random = Rng::with_seed(seed);
        let mut text = String::with_capacity(bytes + 4096);
        match self {
            Self::Code => text = code(bytes)?,
            _ => {
                for part in 0.. {
                    if text.len() >= bytes {
                        break;
                    }
                    match self {
                        Self::English => text.push_str(&prose::passage(&mut random, 200)),
                        Self::Chinese => chinese(&mut random, &mut text),
                        Self::Json => text.push_str(&record(&mut random)),
                        Self::Hostile | Self::Code => hostile(&mut random, &mut text, part % 8, bytes / 8),
                    }
                    text.push('\n');
                }
            }
        }
        text.truncate(text.floor_char_boundary(bytes));
        Ok(text)
    }
}

fn code(bytes: usize) -> Result<String> {
    let mut files = Vec::new();
    for member in ["crates", "control-plane", "filter"] {
        rust_files(&workspace_root().join(member), &mut files)?;
    }
    files.sort();
    let mut text = String::new();
    for file in files {
        text.push_str(&fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?);
        if text.len() >= bytes {
            break;
        }
    }
    ensure!(
        text.len() >= bytes,
        "the repository has less than {bytes} bytes of Rust"
    );
    Ok(text)
}

fn rust_files(directory: &Path, files: &mut Vec<std::path::PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

const CHINESE_WORDS: &[&str] = &[
    "我们",
    "可以",
    "一个",
    "没有",
    "他们",
    "自己",
    "问题",
    "时间",
    "现在",
    "中国",
    "社会",
    "发展",
    "工作",
    "经济",
    "技术",
    "国家",
    "学生",
    "老师",
    "城市",
    "人民",
    "公司",
    "市场",
    "研究",
    "科学",
    "数据",
    "模型",
    "语言",
    "系统",
    "网络",
    "计算",
    "世界",
    "历史",
    "文化",
    "生活",
    "音乐",
    "电影",
    "故事",
    "朋友",
    "家庭",
    "孩子",
    "健康",
    "医院",
    "教育",
    "环境",
    "能源",
    "交通",
    "飞机",
    "火车",
    "天气",
    "春天",
    "的",
    "是",
    "在",
    "了",
    "不",
    "和",
    "有",
    "大",
    "这",
    "也",
    "就",
    "都",
    "很",
    "从",
    "到",
    "把",
    "被",
    "对",
    "向",
    "更",
    "提高",
    "认为",
    "需要",
    "开始",
    "成为",
    "进行",
    "通过",
    "影响",
    "解决",
    "管理",
    "重要",
    "新的",
    "不同",
    "主要",
    "许多",
    "因为",
    "所以",
    "但是",
    "如果",
    "虽然",
    "人工智能",
    "互联网",
    "大学",
    "北京",
    "上海",
    "政府",
    "法律",
    "安全",
    "质量",
    "服务",
];

fn chinese(random: &mut Rng, text: &mut String) {
    for _ in 0..40 {
        for _ in 0..random.usize(4..14) {
            text.push_str(CHINESE_WORDS[random.usize(..CHINESE_WORDS.len())]);
            if random.u8(..12) == 0 {
                // A rarer character, as names have.
                text.extend(char::from_u32(random.u32(0x4e00..0x9fa5)));
            }
        }
        text.push_str(["，", "。", "。", "；", "？"][random.usize(..5)]);
    }
}

fn record(random: &mut Rng) -> String {
    let tags: Vec<_> = (0..random.usize(1..5)).map(|_| prose::name(random)).collect();
    json!({
        "id": format!("{:016x}", random.u64(..)),
        "created": random.u32(1_500_000_000..1_900_000_000),
        "name": prose::name(random),
        "score": f64::from(random.u32(..100_000)) / 1000.0,
        "active": random.bool(),
        "parent": null,
        "tags": tags,
        "location": {"lat": f64::from(random.i32(-90_000..90_000)) / 1000.0, "zip": random.u32(10_000..99_999)},
        "note": prose::sentence(random),
    })
    .to_string()
}

/// One of eight parts, of so many bytes.
fn hostile(random: &mut Rng, text: &mut String, part: u32, bytes: usize) {
    let end = text.len() + bytes;
    while text.len() < end {
        match part {
            // One word each.
            0 => text.push(random.lowercase()),
            1 => text.push('a'),
            2 => text.push_str("ab"),
            3 => text.extend(char::from_u32(random.u32(0x4e00..0x9fa5))),
            4 => text.push(' '),
            // Combining marks, which canonical ordering sorts.
            5 => text.extend(char::from_u32(random.u32(0x300..0x36f))),
            6 => text.push(char::from(random.u8(b'!'..b'0'))),
            // All of Unicode.
            _ => text.extend(char::from_u32(random.u32(..0x11_0000))),
        }
    }
}
