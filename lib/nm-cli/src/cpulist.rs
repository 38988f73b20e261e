//! CPU lists in the kernel's notation (`0,2-3`, as in taskset and cpusets) and pinning of threads.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, getpid};

/// CPUs in the order in which threads are to take them; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(Vec<usize>);

/// Why a list was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CpuListError {
    /// It is no list.
    #[error("not a CPU list; write it as 0,2-3")]
    NotAList,
    /// No machine has such a CPU.
    #[error("CPU {cpu} is beyond the largest, {largest}")]
    TooLarge {
        /// Its number.
        cpu: usize,
        /// The largest number there can be.
        largest: usize,
    },
    /// The end of a range is below its beginning.
    #[error("CPU range {low}-{high} ends before it begins")]
    Backwards {
        /// The beginning.
        low: usize,
        /// The end.
        high: usize,
    },
}

/// Why a thread was not pinned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// The process may not use that CPU.
    #[error(
        "CPU {cpu} is not one of those that this process may use, which are {}; see taskset(1)",
        CpuList(allowed().to_vec())
    )]
    NotAllowed {
        /// Its number.
        cpu: usize,
    },
    /// The kernel refuses.
    #[error("pinning a thread to CPU {cpu}: {}", .errno.desc())]
    Refused {
        /// The CPU's number.
        cpu: usize,
        /// Why.
        errno: Errno,
    },
}

impl CpuList {
    /// The CPU of the `index`-th thread; the list starts again after its end.
    pub fn nth(&self, index: usize) -> usize {
        self.0[index % self.0.len()]
    }

    /// CPUs for this many threads. A list is used round-robin. A single CPU is the first of a sequence, as in
    /// pkt-gen, which continues through the first `limit` CPUs or, without a limit, those that this process
    /// may use.
    pub fn for_threads(&self, threads: usize, limit: Option<usize>) -> Vec<usize> {
        let pool = limit.map_or_else(|| allowed().to_vec(), |limit| (0..limit.max(1)).collect());
        self.spread(threads, &pool)
    }

    fn spread(&self, threads: usize, pool: &[usize]) -> Vec<usize> {
        let &[first] = self.as_slice() else {
            return (0..threads).map(|thread| self.nth(thread)).collect();
        };
        let begin = pool.iter().position(|&cpu| cpu == first).unwrap_or(first % pool.len());
        let next = |thread| pool[(begin + thread) % pool.len()];
        (0..threads).map(|thread| if thread == 0 { first } else { next(thread) }).collect()
    }

    /// All CPUs of the list.
    pub fn as_slice(&self) -> &[usize] {
        &self.0
    }
}

impl FromStr for CpuList {
    type Err = CpuListError;

    fn from_str(text: &str) -> Result<CpuList, CpuListError> {
        let number = |part: &str| match part.trim().parse::<usize>() {
            Ok(cpu) if cpu < CpuSet::count() => Ok(cpu),
            Ok(cpu) => Err(CpuListError::TooLarge { cpu, largest: CpuSet::count() - 1 }),
            Err(_) => Err(CpuListError::NotAList),
        };
        let mut cpus = Vec::new();
        for part in text.split(',') {
            match part.split_once('-') {
                None => cpus.push(number(part)?),
                Some((low, high)) => {
                    let (low, high) = (number(low)?, number(high)?);
                    if low > high {
                        return Err(CpuListError::Backwards { low, high });
                    }
                    cpus.extend(low..=high);
                }
            }
        }
        Ok(CpuList(cpus))
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, cpu) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{cpu}")?;
        }
        Ok(())
    }
}

/// The CPUs that this process was allowed to use when it was started, by taskset(1) and cpusets. Never
/// empty.
pub fn allowed() -> &'static [usize] {
    static ALLOWED: OnceLock<Vec<usize>> = OnceLock::new();
    ALLOWED.get_or_init(|| {
        let all = 0..CpuSet::count();
        match sched_getaffinity(getpid()) {
            Ok(set) => all.filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect(),
            // The machine has more CPUs than the set has room for, so any of them may be tried.
            Err(_) => all.collect(),
        }
    })
}

/// Binds the calling thread to one CPU, which must be one of those that the process may use.
///
/// # Errors
/// The process may not use that CPU, or the kernel refuses.
pub fn pin_thread(cpu: usize) -> Result<(), PinError> {
    if !allowed().contains(&cpu) {
        return Err(PinError::NotAllowed { cpu });
    }
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .map_err(|errno| PinError::Refused { cpu, errno })
}

#[cfg(test)]
mod tests {
    use nix::sched::sched_getaffinity;

    use super::*;

    #[test]
    fn list_keeps_order_and_wraps() {
        let list: CpuList = "3,0-1".parse().expect("valid");
        assert_eq!(list.as_slice(), [3, 0, 1]);
        assert_eq!(list.nth(4), 0);
        assert_eq!(list.to_string(), "3,0,1");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "a", "1-", "3-1", "0,,1", "99999999", "-1"] {
            assert!(text.parse::<CpuList>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn threads_stay_within_the_cpus_of_the_process() {
        let list = |text: &str| text.parse::<CpuList>().expect("valid");
        assert_eq!(list("1").spread(3, &[1]), [1, 1, 1]);
        assert_eq!(list("4").spread(4, &[2, 4, 7]), [4, 7, 2, 4]);
        assert_eq!(list("1").spread(3, &[0, 1, 2]), [1, 2, 0]);
        assert_eq!(list("9").spread(3, &[0, 1]), [9, 0, 1], "the first is as the user said");
        assert_eq!(list("3,1").spread(3, &[0]), [3, 1, 3], "a list is taken as it is");
        let other = (0..CpuSet::count()).find(|cpu| !allowed().contains(cpu)).expect("some");
        let why = pin_thread(other).expect_err("not ours").to_string();
        assert!(why.contains(&format!("CPU {other}")) && why.contains("taskset"), "{why}");
    }

    #[test]
    fn pin_thread_moves_the_caller_only() {
        let me = Pid::from_raw(0);
        let before = sched_getaffinity(me).expect("affinity");
        let cpu = (0..CpuSet::count())
            .find(|&c| before.is_set(c).unwrap_or(false))
            .expect("runs somewhere");
        std::thread::spawn(move || {
            pin_thread(cpu).expect("own CPU");
            let now = sched_getaffinity(me).expect("affinity");
            assert_eq!(
                (0..CpuSet::count())
                    .filter(|&c| now.is_set(c).unwrap_or(false))
                    .collect::<Vec<_>>(),
                [cpu]
            );
        })
        .join()
        .expect("thread");
        assert_eq!(sched_getaffinity(me).expect("affinity"), before);
    }
}
