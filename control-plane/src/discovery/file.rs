//! Dynamo's discovery service in a directory (`DYN_FILE_KV`): `<bucket>/<key, percent-encoded>`, one file for each record,
//! which its owner touches every three seconds (`dynamo-runtime` 1.6.1, `storage/kv/file.rs`).
//!
//! The directory is read again and again rather than watched: that works on every file system, and it is the only way to
//! see a file that nobody touches any more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{fs, io};

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::backend::{BUCKETS, Change, MAX_RECORD_BYTES, MAX_RECORDS};

/// How often it is read.
const INTERVAL: Duration = Duration::from_millis(200);
/// A file that was not touched for longer is left behind by a process that died. Dynamo's own processes delete such files
/// after 10 s, if any is left to do so.
const EXPIRY: Duration = Duration::from_secs(15);
/// Files whose names start so are not complete yet.
const UNFINISHED: &str = ".tmp_";

type All = BTreeMap<String, Vec<u8>>;

/// Tells of all changes in the directory until nobody listens.
pub async fn run(root: PathBuf, changes: mpsc::Sender<Change>) {
    let mut last: Option<All> = None;
    while !changes.is_closed() {
        let directory = root.clone();
        let read = tokio::task::spawn_blocking(move || read_all(&directory, SystemTime::now())).await;
        match read.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            Ok(all) if last.as_ref() != Some(&all) => {
                if changes.send(Change::All(all.clone())).await.is_err() {
                    return;
                }
                last = Some(all);
            }
            Ok(_) => {}
            Err(error) => {
                // Whatever it was, it is said anew when the directory can be read again.
                last = None;
                let lost = Change::Lost(format!("{}: {error}", root.display()));
                if changes.send(lost).await.is_err() {
                    return;
                }
            }
        }
        sleep(INTERVAL).await;
    }
}

fn read_all(root: &Path, now: SystemTime) -> io::Result<All> {
    let mut all = All::new();
    for bucket in BUCKETS {
        let entries = match fs::read_dir(root.join(bucket)) {
            Ok(entries) => entries,
            // Nobody has said anything of that kind yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            if all.len() >= MAX_RECORDS {
                return Err(io::Error::other(format!("more than {MAX_RECORDS} records")));
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(UNFINISHED) {
                continue;
            }
            // A file may be gone by the time it is looked at.
            let Ok(metadata) = entry.metadata() else { continue };
            let age = now.duration_since(metadata.modified()?).unwrap_or_default();
            if age > EXPIRY || !metadata.is_file() || metadata.len() > MAX_RECORD_BYTES as u64 {
                continue;
            }
            if let Ok(bytes) = fs::read(entry.path()) {
                all.insert(format!("{bucket}/{name}"), bytes);
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_while_they_are_fresh() {
        let root = std::env::temp_dir().join(format!("warmpath-discovery-{}", std::process::id()));
        let bucket = root.join(BUCKETS[0]);
        fs::create_dir_all(&bucket).unwrap();
        let now = SystemTime::now();
        let put = |name: &str, age: u64| {
            let path = bucket.join(name);
            fs::write(&path, name).unwrap();
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(now - Duration::from_secs(age)).unwrap();
        };
        put("dynamo%2Fa", 1);
        put("dynamo%2Fb", 14);
        put("dynamo%2Fc", 16);
        put(".tmp_d", 1);
        fs::create_dir(bucket.join("e")).unwrap();
        let read = read_all(&root, now).unwrap();
        fs::remove_dir_all(&root).unwrap();
        let expected = ["dynamo%2Fa", "dynamo%2Fb"];
        let expected = expected.map(|name| (format!("v1/instances/{name}"), name.as_bytes().to_vec()));
        assert_eq!(read, All::from(expected));
        assert_eq!(read_all(&root, now).unwrap(), All::new());
    }
}
