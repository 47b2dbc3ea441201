//! Files in which what is known of publishers outlives the process: one for each publisher, so that a spoilt one costs
//! that publisher only.
//!
//! A file is the magic line, msgpack, and the xxh3-64 of both, little-endian. It is written under another name, synced and
//! renamed, so there is a whole one or none. Nothing in it is trusted: it is checked here, by the index that takes the
//! blocks, and against the publisher before anything of it counts ([`crate::events::cursor`]).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::events::cursor::Standing;
use crate::index::SavedBlocks;

/// Changes with the format.
const MAGIC: &[u8] = b"warmpath publisher state 1\n";
const CHECKSUM_BYTES: usize = 8;
/// Largest file that is read or written, in bytes: some 30 million blocks.
const MAX_FILE_BYTES: u64 = 1 << 30;
/// Files that were not written for so long are of publishers that are gone, or have moved on too far.
const OLDEST: Duration = Duration::from_secs(24 * 3600);

/// Whose state it is, and what it depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The pool's name.
    pub pool: String,
    /// The publisher's address or topic.
    pub publisher: String,
    /// The ranks that it tells of.
    pub dp_ranks: Vec<u32>,
    /// Tokens per block.
    pub block_size: u32,
    /// Whether blocks are bigrams.
    pub eagle: bool,
}

/// What is known of a publisher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Whose it is.
    pub subject: Subject,
    /// The last message that the blocks come from.
    pub standing: Standing,
    /// Of each rank, in the order of the subject's.
    pub blocks: Vec<SavedBlocks>,
}

impl Saved {
    /// Reads the content of a file.
    ///
    /// # Errors
    /// When it is none of ours, or not whole.
    pub fn from_bytes(file: &[u8]) -> Result<Self, Unusable> {
        let rest = file.strip_prefix(MAGIC).ok_or(Unusable::Foreign)?;
        let (content, checksum) = rest.split_last_chunk::<CHECKSUM_BYTES>().ok_or(Unusable::Corrupt)?;
        let checked = file.len() - CHECKSUM_BYTES;
        if xxh3_64(&file[..checked]) != u64::from_le_bytes(*checksum) {
            return Err(Unusable::Corrupt);
        }
        Ok(rmp_serde::from_slice(content)?)
    }

    /// The content of a file.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut bytes = MAGIC.to_vec();
        rmp_serde::encode::write(&mut bytes, self).map_err(io::Error::other)?;
        bytes.extend(xxh3_64(&bytes).to_le_bytes());
        Ok(bytes)
    }
}

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// Over [`MAX_FILE_BYTES`].
    #[error("{0} bytes are more than the limit of {MAX_FILE_BYTES}")]
    TooLong(u64),
    /// Written by another version, or not by Warmpath.
    #[error("not a state file of this version")]
    Foreign,
    /// Cut short or changed.
    #[error("its checksum is wrong")]
    Corrupt,
    /// The checksum is right and the content is not.
    #[error("makes no sense: {0}")]
    Malformed(#[from] rmp_serde::decode::Error),
    /// The publisher has other ranks or another block layout now.
    #[error("it is of another configuration of the publisher")]
    OtherSubject,
}

/// The directory of the files.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// Creates the directory if it is missing, and deletes files in it that are too old to be of use.
    ///
    /// # Errors
    /// When it cannot be created or written to.
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let probe = directory.join(format!("{}.probe", std::process::id()));
        File::create(&probe)?;
        fs::remove_file(probe)?;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let is_ours = entry
                .path()
                .extension()
                .is_some_and(|kind| kind == "state" || kind == "new");
            let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
            if is_ours && age > OLDEST {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// What was saved of `subject`; `None` if nothing was.
    ///
    /// # Errors
    /// When the file is of no use.
    pub fn load(&self, subject: &Subject) -> Result<Option<Saved>, Unusable> {
        let file = match File::open(self.path(subject)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let length = file.metadata()?.len();
        if length > MAX_FILE_BYTES {
            return Err(Unusable::TooLong(length));
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
        let saved = Saved::from_bytes(&bytes)?;
        if saved.subject != *subject || saved.blocks.len() != subject.dp_ranks.len() {
            return Err(Unusable::OtherSubject);
        }
        Ok(Some(saved))
    }

    /// Replaces what was saved of the subject.
    ///
    /// # Errors
    /// When it cannot be written, or is too long; then what was there stays.
    pub fn save(&self, saved: &Saved) -> io::Result<()> {
        let bytes = saved.to_bytes()?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(io::Error::other(Unusable::TooLong(bytes.len() as u64)));
        }
        let path = self.path(&saved.subject);
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(new, path)
    }

    /// Named by a hash, as names of pools and publishers may be anything.
    fn path(&self, subject: &Subject) -> PathBuf {
        let Subject { pool, publisher, .. } = subject;
        let name = xxh3_128(format!("{}:{pool}{publisher}", pool.len()).as_bytes());
        self.directory.join(format!("{name:032x}.state"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved() -> Saved {
        Saved {
            subject: Subject {
                pool: "qwen".to_owned(),
                publisher: "tcp://10.0.0.1:5557".to_owned(),
                dp_ranks: vec![0],
                block_size: 16,
                eagle: false,
            },
            standing: Standing {
                sequence: 7,
                fingerprint: u64::MAX,
                first: None,
                whole: true,
            },
            blocks: vec![SavedBlocks::default()],
        }
    }

    fn store(name: &str) -> Store {
        let directory = std::env::temp_dir().join(format!("warmpath-state-{}-{name}", std::process::id()));
        Store::open(&directory).unwrap()
    }

    #[test]
    fn what_is_saved_comes_back() {
        let store = store("back");
        assert!(store.load(&saved().subject).unwrap().is_none());
        let old = Saved {
            standing: Standing {
                sequence: 3,
                ..saved().standing
            },
            ..saved()
        };
        store.save(&old).unwrap();
        store.save(&saved()).unwrap();
        assert_eq!(store.load(&saved().subject).unwrap(), Some(saved()));
        fs::remove_dir_all(store.directory).unwrap();
    }

    #[test]
    fn every_spoilt_byte_and_every_cut_is_found_out() {
        let store = store("spoilt");
        store.save(&saved()).unwrap();
        let path = store.path(&saved().subject);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut spoilt = good.clone();
            spoilt[at] ^= 1 << (at % 8);
            for bad in [&spoilt[..], &good[..at]] {
                fs::write(&path, bad).unwrap();
                let refused = store.load(&saved().subject);
                assert!(
                    matches!(refused, Err(Unusable::Foreign | Unusable::Corrupt)),
                    "{at}: {refused:?}"
                );
            }
        }
        fs::write(&path, good).unwrap();
        let other = Subject {
            block_size: 32,
            ..saved().subject
        };
        assert!(matches!(store.load(&other), Err(Unusable::OtherSubject)));
        fs::remove_dir_all(store.directory).unwrap();
    }
}
