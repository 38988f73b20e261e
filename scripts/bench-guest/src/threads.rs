//! CPU time of a process's threads, in nanoseconds (`/proc/PID/task/TID/schedstat`: the accounting in
//! `stat` counts in ticks of 10 ms, more than a short run's error may be).

use std::fs;
use std::io::ErrorKind;

use anyhow::{Context, Result};

/// CPU time of a monitor, by what its threads are for; of a process without such threads all is `other_ns`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// Running guests and serving their exits.
    pub vcpu_ns: u64,
    /// Moving packets.
    pub io_ns: u64,
    /// The rest.
    pub other_ns: u64,
}

impl CpuTime {
    /// Of a living process, until now.
    pub fn of(process: u32) -> Result<CpuTime> {
        let mut sum = CpuTime::default();
        let tasks = format!("/proc/{process}/task");
        for task in fs::read_dir(&tasks).with_context(|| format!("reading {tasks}"))? {
            let path = task?.path();
            let read = |file: &str| match fs::read_to_string(path.join(file)) {
                // A thread that ended meanwhile has no time to speak of.
                Err(error)
                    if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(3) =>
                {
                    Ok(String::new())
                }
                other => other.with_context(|| format!("reading {}", path.join(file).display())),
            };
            let (name, stat) = (read("comm")?, read("schedstat")?);
            let time_ns = stat.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0);
            sum.add(name.trim(), time_ns);
        }
        Ok(sum)
    }

    fn add(&mut self, name: &str, time_ns: u64) {
        // Our monitor's names; a guest without KVM is a thread of that name.
        let of = if name.starts_with("vcpu") || name == "guest" {
            &mut self.vcpu_ns
        } else if name.starts_with("nic") {
            &mut self.io_ns
        } else {
            &mut self.other_ns
        };
        *of += time_ns;
    }

    /// All of it.
    pub fn total_ns(self) -> u64 {
        self.vcpu_ns + self.io_ns + self.other_ns
    }

    /// What was used since `before`.
    pub fn since(self, before: CpuTime) -> CpuTime {
        CpuTime {
            vcpu_ns: self.vcpu_ns.saturating_sub(before.vcpu_ns),
            io_ns: self.io_ns.saturating_sub(before.io_ns),
            other_ns: self.other_ns.saturating_sub(before.other_ns),
        }
    }

    /// Both together.
    pub fn plus(self, other: CpuTime) -> CpuTime {
        CpuTime {
            vcpu_ns: self.vcpu_ns + other.vcpu_ns,
            io_ns: self.io_ns + other.io_ns,
            other_ns: self.other_ns + other.other_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_goes_to_the_thread_it_was_used_by() {
        let mut time = CpuTime::default();
        for (name, ns) in [("vcpu0", 5), ("nic0", 3), ("nic1", 4), ("e1000pv-vmm", 2), ("guest", 1)]
        {
            time.add(name, ns);
        }
        assert_eq!(time, CpuTime { vcpu_ns: 6, io_ns: 7, other_ns: 2 });
        assert_eq!(time.since(time).total_ns(), 0);
        assert_eq!(time.plus(time).total_ns(), 30);
    }

    #[test]
    fn cpu_time_of_this_process_grows_with_work() {
        let before = CpuTime::of(std::process::id()).expect("we live");
        let begin = std::time::Instant::now();
        while begin.elapsed().as_millis() < 20 {
            std::hint::black_box(());
        }
        // A thread that runs has its time brought up to date when it is scheduled.
        std::thread::yield_now();
        let used = CpuTime::of(std::process::id()).expect("we live").since(before);
        assert!(used.total_ns() > 1_000_000, "{used:?}");
    }
}
