//! TLS towards services that we ask.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::reader::{At, Mistakes};

/// The files that TLS needs, in PEM. They are read for every connection, as certificates are renewed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Who signs the servers' certificates; `None`: whom the system trusts.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key.
    pub client_cert: Option<(PathBuf, PathBuf)>,
}

pub(super) fn read_tls(at: &At<'_>, directory: &Path, mistakes: &mut Mistakes) -> TlsConfig {
    let [ca, cert, key] = at.fields(mistakes, ["ca", "cert", "key"]);
    read_tls_files([&ca, &cert, &key], directory, mistakes)
}

/// For those who have more to say under `tls`.
pub(super) fn read_tls_files([ca, cert, key]: [&At<'_>; 3], directory: &Path, mistakes: &mut Mistakes) -> TlsConfig {
    for (given, missing) in [(cert, key), (key, cert)] {
        if given.is_set() {
            missing.require(mistakes);
        }
    }
    let client_cert = read_file(cert, directory, mistakes).zip(read_file(key, directory, mistakes));
    TlsConfig {
        ca: read_file(ca, directory, mistakes),
        client_cert,
    }
}

/// A file that is there.
fn read_file(at: &At<'_>, directory: &Path, mistakes: &mut Mistakes) -> Option<PathBuf> {
    let path = directory.join(at.text(mistakes)?);
    if let Err(error) = File::open(&path) {
        mistakes.add(at, path.display(), error);
    }
    Some(path)
}
