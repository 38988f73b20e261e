//! Counters of a running machine: in shared memory, one writer each, readable by any process of the
//! same user without disturbing the one that counts.
//!
//! ```text
//!   0        header: magic, layout version, NICs, process, name; where commands go, and the last answer
//!   128      of vCPU 0                              32 words
//!            of vCPU 1 ...
//!            of NIC 0: counted by the vCPU threads 32 words, by the I/O thread 32 words
//!            of NIC 1 ...
//! ```
//!
//! Invariants: adding is a load and a store, so a field has one writer at a time (the thread that its
//! group names, or the holder of the lock that its doc names), but for those of a NIC that all vCPUs
//! write; but for these, no two threads write one cache line.
//!
//! The memory is a memfd sealed against every change of size and against new writers, so nobody can
//! truncate it while it is in use (which would raise SIGBUS) or write false numbers. `machines` makes it known by name.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use e1000_device::counters::THREAD_WORDS;
use e1000_device::{Count, Counters, counts};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

/// "e1000pv\0" read as a number: marks the file.
const MAGIC: u64 = u64::from_le_bytes(*b"e1000pv\0");
/// Counts up with every change of the tables below.
const LAYOUT: u64 = 2;
/// Longest name of a machine, and the space for it in the header.
pub const NAME_MAX: usize = 64;

/// Words of the header: magic, layout, NICs, process, length of the name, the name, commands, answer, and vCPUs.
const HEADER_WORDS: usize = 16;
/// The word that tells at which descriptor commands are taken, and one more; 0 for none (`commands`).
const COMMANDS_WORD: usize = 13;
/// The number of the last command, and above it what came of it.
const ANSWER_WORD: usize = 14;
/// The word that tells how many vCPUs there are.
const VCPUS_WORD: usize = 15;
/// Words of one vCPU.
const VCPU_WORDS: usize = 32;
/// Words of one NIC.
const NIC_WORDS: usize = 2 * THREAD_WORDS;
/// vCPUs that a machine can have.
pub const VCPUS_MAX: usize = 64;
/// NICs that a machine can have.
pub const NICS_MAX: usize = 16;

counts! {
    /// What is counted of a machine, for each vCPU by its thread.
    Vm {
        /// Returns of the vCPU to this program for any reason.
        Exits = 0, "exits";
        /// Exits for device memory: each read or write of a register that no ioeventfd takes.
        MmioExits = 1, "mmio_exits";
        /// Exits for I/O ports.
        PioExits = 2, "pio_exits";
        /// Times the guest halted, where the kernel tells (it doesn't with its own interrupt
        /// controller), or waited for its interrupt otherwise.
        Halts = 3, "halts";
        /// Returns because of a signal: stopping, being asked whether it has halted (once a second, when it has not
        /// returned for any other reason), or a debugger.
        SignalExits = 4, "signal_exits";
        /// Accesses to addresses and ports where nothing answers.
        Unclaimed = 5, "unclaimed";
    }
}

/// The counters of one machine. Clones are handles to the same memory.
#[derive(Clone)]
pub struct VmCounters {
    memory: Arc<MmapRegion>,
    file: Arc<File>,
    vcpus: usize,
    nics: usize,
}

/// The counters of one vCPU. Clones are handles to the same memory.
#[derive(Clone)]
pub struct VcpuCounters {
    memory: Arc<MmapRegion>,
    base: usize,
}

/// The counters of one NIC. Clones are handles to the same memory.
#[derive(Clone)]
pub struct NicCounters {
    memory: Arc<MmapRegion>,
    base: usize,
}

impl fmt::Debug for VmCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmCounters").field("nics", &self.nics).finish_non_exhaustive()
    }
}

impl fmt::Debug for VcpuCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = Vm::ALL.iter().map(|&which| (which.name(), self.value(which)));
        f.debug_map().entries(counts.filter(|(_, value)| *value != 0)).finish()
    }
}

impl fmt::Debug for NicCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = Count::ALL.iter().map(|&which| (which.name(), self.value(which)));
        f.debug_map().entries(counts.filter(|(_, value)| *value != 0)).finish()
    }
}

fn bytes(vcpus: usize, nics: usize) -> usize {
    (HEADER_WORDS + vcpus * VCPU_WORDS + nics * NIC_WORDS) * size_of::<u64>()
}

fn word(memory: &MmapRegion, index: usize) -> &AtomicU64 {
    memory
        .get_atomic_ref(index * size_of::<u64>())
        .expect("aligned, and the indices are constants of this file below the memory's length")
}

/// One writer: no read-modify-write is needed, and a reader sees the old number or the new.
fn add(word: &AtomicU64, n: u64) {
    word.store(word.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl VmCounters {
    /// Counters of a machine with this many vCPUs and NICs, all zero; nobody else can find them before
    /// [`crate::stats::machines::publish`].
    ///
    /// # Panics
    /// Without a vCPU, with more than [`VCPUS_MAX`] of them or [`NICS_MAX`] NICs, or with a name longer than [`NAME_MAX`]: the command line refuses
    /// both.
    pub fn new(name: &str, vcpus: usize, nics: usize) -> anyhow::Result<VmCounters> {
        assert!((1..=VCPUS_MAX).contains(&vcpus), "{vcpus} vCPUs");
        assert!(nics <= NICS_MAX && name.len() <= NAME_MAX, "checked by whoever read the options");
        let len = bytes(vcpus, nics);
        let make = || -> anyhow::Result<VmCounters> {
            let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
            let file = File::from(memfd_create(c"e1000pv-counters", flags)?);
            let mut header = [0; HEADER_WORDS * size_of::<u64>()];
            let words =
                [MAGIC, LAYOUT, nics as u64, u64::from(std::process::id()), name.len() as u64];
            for (place, value) in header.chunks_exact_mut(size_of::<u64>()).zip(words) {
                place.copy_from_slice(&value.to_le_bytes());
            }
            header[5 * 8..5 * 8 + name.len()].copy_from_slice(name.as_bytes());
            header[VCPUS_WORD * 8..][..8].copy_from_slice(&(vcpus as u64).to_le_bytes());
            // Written, not just sized: every page is there, so no later store can run out of memory.
            file.write_all_at(&vec![0; len], 0)?;
            file.write_all_at(&header, 0)?;
            let memory = MmapRegion::from_file(FileOffset::new(file.try_clone()?, 0), len)?;
            let seals = SealFlag::F_SEAL_SHRINK
                | SealFlag::F_SEAL_GROW
                | SealFlag::F_SEAL_FUTURE_WRITE
                | SealFlag::F_SEAL_SEAL;
            fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
            Ok(VmCounters { memory: Arc::new(memory), file: Arc::new(file), vcpus, nics })
        };
        make().context("making the counters")
    }

    /// A counter's value now: the sum over all vCPUs.
    pub fn value(&self, which: Vm) -> u64 {
        (0..self.vcpus).fold(0, |sum: u64, index| sum.wrapping_add(self.vcpu(index).value(which)))
    }

    /// The counters of vCPU `index`.
    ///
    /// # Panics
    /// If there is no such vCPU.
    pub fn vcpu(&self, index: usize) -> VcpuCounters {
        assert!(index < self.vcpus, "vCPU {index} of {}", self.vcpus);
        let base = HEADER_WORDS + index * VCPU_WORDS;
        VcpuCounters { memory: Arc::clone(&self.memory), base }
    }

    /// How many NICs there are.
    pub fn nics(&self) -> usize {
        self.nics
    }

    /// The counters of NIC `index`.
    ///
    /// # Panics
    /// If there is no such NIC.
    pub fn nic(&self, index: usize) -> NicCounters {
        assert!(index < self.nics, "NIC {index} of {}", self.nics);
        let base = HEADER_WORDS + self.vcpus * VCPU_WORDS + index * NIC_WORDS;
        NicCounters { memory: Arc::clone(&self.memory), base }
    }

    /// Everything as it is now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            vm: Vm::ALL.iter().map(|&which| self.value(which)).collect(),
            nics: (0..self.nics)
                .map(|i| Count::ALL.iter().map(|&which| self.nic(i).value(which)).collect())
                .collect(),
        }
    }

    /// Others may send commands to this descriptor.
    pub(crate) fn take_commands_at(&self, fd: i32) {
        word(&self.memory, COMMANDS_WORD)
            .store(u64::from(fd.unsigned_abs()) + 1, Ordering::Relaxed);
    }

    /// What came of a command.
    pub(crate) fn answer(&self, number: u32, code: u32) {
        let answer = u64::from(number) | u64::from(code) << 32;
        // Release: whoever reads it finds done what was asked for.
        word(&self.memory, ANSWER_WORD).store(answer, Ordering::Release);
    }

    /// The last command's number, and what came of it.
    #[cfg(test)]
    pub(crate) fn last_answer(&self) -> (u32, u32) {
        parts(word(&self.memory, ANSWER_WORD).load(Ordering::Relaxed))
    }

    /// The file behind them.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

impl VcpuCounters {
    /// Adds to a counter. Only the vCPU's thread does.
    pub fn bump(&self, which: Vm, n: u64) {
        add(word(&self.memory, self.base + which as usize), n);
    }

    /// A counter's value now.
    pub fn value(&self, which: Vm) -> u64 {
        word(&self.memory, self.base + which as usize).load(Ordering::Relaxed)
    }
}

impl NicCounters {
    /// Counters that belong to no machine, for tests and for devices without one.
    pub fn detached() -> NicCounters {
        VmCounters::new("", 1, 1).expect("a page of memory").nic(0)
    }

    /// A counter's value now.
    pub fn value(&self, which: Count) -> u64 {
        word(&self.memory, self.base + which as usize).load(Ordering::Relaxed)
    }
}

impl Counters for NicCounters {
    /// Only the counter's writer does, see [`Count`].
    fn bump(&self, which: Count, n: u64) {
        let word = word(&self.memory, self.base + which as usize);
        // Those in front are of accesses to registers, by whichever vCPU: each is an exit, besides which
        // an atomic addition is nothing.
        if (which as usize) < Count::Interrupts as usize {
            word.fetch_add(n, Ordering::Relaxed);
        } else {
            add(word, n);
        }
    }
}

/// Values at one moment, in the order of [`Vm::ALL`] and [`Count::ALL`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    vm: Vec<u64>,
    nics: Vec<Vec<u64>>,
}

impl Snapshot {
    /// A counter of the machine.
    pub fn vm(&self, which: Vm) -> u64 {
        self.vm[which_index(Vm::ALL, which)]
    }

    /// A counter of a NIC; 0 if there is no such NIC.
    pub fn nic(&self, nic: usize, which: Count) -> u64 {
        self.nics.get(nic).map_or(0, |values| values[which_index(Count::ALL, which)])
    }

    /// A counter's sum over all NICs. Another's counters may hold anything: it stops at the largest number.
    pub fn sum(&self, which: Count) -> u64 {
        (0..self.nics.len()).fold(0, |sum: u64, nic| sum.saturating_add(self.nic(nic, which)))
    }

    /// What was counted since `earlier`, a snapshot of the same machine.
    pub fn since(&self, earlier: &Snapshot) -> Snapshot {
        let less = |now: &[u64], then: &[u64]| -> Vec<u64> {
            now.iter().zip(then).map(|(now, then)| now.wrapping_sub(*then)).collect()
        };
        let nics = self.nics.iter().zip(&earlier.nics);
        Snapshot {
            vm: less(&self.vm, &earlier.vm),
            nics: nics.map(|(now, then)| less(now, then)).collect(),
        }
    }

    /// How many NICs there are.
    pub fn nics(&self) -> usize {
        self.nics.len()
    }
}

fn which_index<T: PartialEq>(all: &[T], which: T) -> usize {
    all.iter().position(|one| *one == which).expect("ALL is complete")
}

struct Named<'a>(&'a [u64], &'a dyn Fn(usize) -> &'static str);

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (i, value) in self.0.iter().enumerate() {
            map.serialize_entry(self.1(i), value)?;
        }
        map.end()
    }
}

impl Serialize for Snapshot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (i, value) in self.vm.iter().enumerate() {
            map.serialize_entry(Vm::ALL[i].name(), value)?;
        }
        let nics: Vec<Named<'_>> =
            self.nics.iter().map(|values| Named(values, &|i| Count::ALL[i].name())).collect();
        map.serialize_entry("nics", &nics)?;
        map.end()
    }
}

/// Another machine's counters, read by its name.
#[derive(Debug)]
pub struct Reading {
    file: File,
    /// The machine's process.
    pub process: u32,
    vcpus: usize,
    nics: usize,
}

impl Reading {
    /// The counters in `file`, if they are those of a machine of that name.
    pub(crate) fn of(file: File, name: &str) -> Option<Reading> {
        let mut header = [0; HEADER_WORDS * size_of::<u64>()];
        file.metadata().ok()?.is_file().then_some(())?;
        file.read_exact_at(&mut header, 0).ok()?;
        let words = words(&header);
        let nics = usize::try_from(words[2]).ok().filter(|n| *n <= NICS_MAX)?;
        let vcpus = usize::try_from(words[VCPUS_WORD]).ok();
        let vcpus = vcpus.filter(|n| (1..=VCPUS_MAX).contains(n))?;
        let named = header[5 * 8..].get(..usize::try_from(words[4]).ok()?)?;
        let ours = words[0] == MAGIC && words[1] == LAYOUT && named == name.as_bytes();
        let process = u32::try_from(words[3]).ok().filter(|_| ours)?;
        Some(Reading { file, process, vcpus, nics })
    }

    /// A descriptor of its file.
    pub(crate) fn file(&self) -> anyhow::Result<File> {
        self.file.try_clone().context("counters")
    }

    fn header_word(&self, index: usize) -> anyhow::Result<u64> {
        let mut bytes = [0; size_of::<u64>()];
        self.file.read_exact_at(&mut bytes, (index * size_of::<u64>()) as u64)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The descriptor of its process at which it takes commands, if it does.
    pub(crate) fn command_fd(&self) -> anyhow::Result<Option<i32>> {
        let word = self.header_word(COMMANDS_WORD)?;
        Ok(word.checked_sub(1).and_then(|fd| i32::try_from(fd).ok()))
    }

    /// The last command's number, and what came of it.
    pub(crate) fn last_answer(&self) -> anyhow::Result<(u32, u32)> {
        Ok(parts(self.header_word(ANSWER_WORD)?))
    }

    /// Whether its process still has these counters open.
    pub(crate) fn is_alive(&self) -> bool {
        let ours = self.file.metadata().map(|file| (file.dev(), file.ino()));
        let fds = std::fs::read_dir(format!("/proc/{}/fd", self.process));
        let theirs = |entry: std::fs::DirEntry| {
            std::fs::metadata(entry.path()).ok().map(|file| (file.dev(), file.ino()))
        };
        fds.is_ok_and(|fds| fds.flatten().any(|entry| theirs(entry) == ours.as_ref().ok().copied()))
    }

    /// Reads all of them. A batch may be counted half, a number is never torn.
    pub fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let mut all = vec![0; bytes(self.vcpus, self.nics)];
        self.file.read_exact_at(&mut all, 0).context("reading counters")?;
        let all = words(&all);
        let (vcpus, nics) = all[HEADER_WORDS..].split_at(self.vcpus * VCPU_WORDS);
        // Another's counters may hold anything.
        let sum = |which: Vm| {
            let of_each = vcpus.chunks_exact(VCPU_WORDS).map(|vcpu| vcpu[which as usize]);
            of_each.fold(0, u64::saturating_add)
        };
        Ok(Snapshot {
            vm: Vm::ALL.iter().map(|&which| sum(which)).collect(),
            nics: nics
                .chunks_exact(NIC_WORDS)
                .map(|nic| Count::ALL.iter().map(|&which| nic[which as usize]).collect())
                .collect(),
        })
    }
}

/// Number and code of an answer.
fn parts(answer: u64) -> (u32, u32) {
    (answer as u32, (answer >> 32) as u32)
}

fn words(bytes: &[u8]) -> Vec<u64> {
    let word = |chunk: &[u8]| u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
    bytes.chunks_exact(size_of::<u64>()).map(word).collect()
}

const _: () = {
    assert!(
        HEADER_WORDS * 8 == 128
            && 5 * 8 + NAME_MAX <= COMMANDS_WORD * 8
            && VCPUS_WORD < HEADER_WORDS
    );
    // Each group on cache lines of its own: 64 bytes are 8 words.
    assert!(HEADER_WORDS.is_multiple_of(8) && VCPU_WORDS.is_multiple_of(8));
    assert!(THREAD_WORDS.is_multiple_of(8));
    assert!((Vm::Unclaimed as usize) < VCPU_WORDS);
};

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn counters_every_one_has_a_place_of_its_own() {
        let counters = VmCounters::new("places", 2, 2).expect("memory");
        for (i, &which) in Vm::ALL.iter().enumerate() {
            counters.vcpu(0).bump(which, 1);
            counters.vcpu(1).bump(which, i as u64);
        }
        for nic in 0..2 {
            for (i, &which) in Count::ALL.iter().enumerate() {
                counters.nic(nic).bump(which, 100 * (nic as u64 + 1) + i as u64);
            }
        }
        let now = counters.snapshot();
        for (i, &which) in Vm::ALL.iter().enumerate() {
            assert_eq!(now.vm(which), i as u64 + 1, "{which:?}");
        }
        for nic in 0..2 {
            for (i, &which) in Count::ALL.iter().enumerate() {
                assert_eq!(now.nic(nic, which), 100 * (nic as u64 + 1) + i as u64, "{which:?}");
            }
        }
        assert_eq!(now.sum(Count::TdtWrites), 300);
    }

    #[test]
    fn memory_cannot_be_truncated_or_written_by_others() {
        let counters = VmCounters::new("sealed", 1, 1).expect("memory");
        let path = format!("/proc/self/fd/{}", counters.file.as_raw_fd());
        let other = File::options().write(true).open(path).expect("our own descriptor");
        assert!(other.set_len(0).is_err());
        assert!(other.write_all_at(&[1], 0).is_err());
        counters.vcpu(0).bump(Vm::Exits, 1);
        assert_eq!(counters.value(Vm::Exits), 1);
    }

    #[test]
    fn snapshot_json_has_all_names() {
        let counters = VmCounters::new("json", 1, 1).expect("memory");
        counters.nic(0).bump(Count::Kicks, 7);
        let json = serde_json::to_value(counters.snapshot()).expect("serialises");
        assert_eq!(json["exits"], 0);
        assert_eq!(json["nics"][0]["kicks"], 7);
        for which in Count::ALL {
            assert!(json["nics"][0][which.name()].is_u64(), "{}", which.name());
        }
    }
}
