//! Texts that no log, status or mistake may show.

use std::fmt;
use std::path::Path;

use super::reader::{At, Mistakes};

/// Longest file of a secret, in bytes.
const MAX_BYTES: u64 = 64 << 10;

/// A password, token or key.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// The text at `at`, or the content of the file that `file` names; `None` if both are absent or one is wrong.
pub(super) fn read_secret(at: &At<'_>, file: &At<'_>, directory: &Path, mistakes: &mut Mistakes) -> Option<Secret> {
    if at.is_set() && file.is_set() {
        mistakes.add(file, "set", "the secret itself is set too: keep one of them");
    }
    at.hidden_text(mistakes)
        .map(Secret::from)
        .or_else(|| read_secret_file(file, directory, mistakes))
}

/// The content of the file that `at` names, without blanks around it.
pub(super) fn read_secret_file(at: &At<'_>, directory: &Path, mistakes: &mut Mistakes) -> Option<Secret> {
    let path = directory.join(at.text(mistakes)?);
    let read = match std::fs::metadata(&path) {
        Ok(file) if file.len() > MAX_BYTES => Err(format!("more than {MAX_BYTES} bytes: is this the right file?")),
        Ok(_) => std::fs::read_to_string(&path).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let read = read.and_then(|text| match text.trim() {
        "" => Err("the file is empty".to_owned()),
        text => Ok(Secret::from(text)),
    });
    read.map_err(|why| mistakes.add(at, path.display(), why)).ok()
}
