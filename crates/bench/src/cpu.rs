//! CPU time of another process.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// CPU time that all threads of a process have had, in nanoseconds' resolution: the first field of each
/// `/proc/<pid>/task/<tid>/schedstat` (`Documentation/scheduler/sched-stats.rst` of the Linux kernel). `/proc/<pid>/stat`
/// says the same in steps of 10 ms, too coarse for short runs. Threads that ended are not counted; Envoy's do not end.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    let tasks = Path::new("/proc").join(pid.to_string()).join("task");
    let mut nanoseconds = 0;
    for task in fs::read_dir(&tasks).with_context(|| format!("read {}", tasks.display()))? {
        let path = task?.path().join("schedstat");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let ran = text
            .split_whitespace()
            .next()
            .and_then(|field| field.parse::<u64>().ok());
        nanoseconds += ran.with_context(|| format!("{}: {text:?}", path.display()))?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    fn grows_by_what_this_process_works() {
        let pid = std::process::id();
        let before = cpu_time(pid).unwrap();
        let mut sum = 0u64;
        // The kernel may account at scheduler ticks only.
        while cpu_time(pid).unwrap() - before < Duration::from_millis(5) {
            sum = (0..100_000).fold(sum, |sum, n| black_box(sum ^ n));
        }
        assert!(cpu_time(pid).unwrap() > before);
        assert!(cpu_time(u32::MAX).is_err());
    }
}
