//! Commands to a running machine: `--ctl NAME link down`.
//!
//! ```text
//!   --ctl  --record-->  a pipe of the machine's process, opened by /proc/PID/fd/N  --> its main thread
//!          <--answer--  a word in the header of its counters
//! ```
//!
//! Who may open a process's descriptors may do with it what a debugger may: so the kernel's check of that is all that
//! is needed, there is no file or socket that others could find or that outlives the machine, and the machine's
//! sandbox stays as it is. Records are shorter than what a pipe takes at once, and one command is under way at a time
//! (a lock on the counters' file), so an answer is its sender's.
//!
//! Invariant: a record is believed only if it is one; whatever else is in the pipe is read and dropped.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::stats::counters::{Reading, VmCounters};

/// Marks a record.
const MAGIC: u32 = u32::from_le_bytes(*b"ctl\x01");
/// Bytes of a record: mark, number, what, NIC.
const RECORD: usize = 16;
/// Stands for all NICs.
const ALL: u32 = u32::MAX;
/// How long a machine may take. Its main thread does nothing long.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What a machine can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The link of a NIC, or of all, is taken down or let up again.
    Link {
        /// Which NIC; `None` for all.
        nic: Option<u32>,
        /// Up.
        up: bool,
    },
    /// The power button is pressed.
    Powerdown,
    /// The machine is reset.
    Reset,
    /// The machine ends.
    Quit,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Answer {
    /// It is done.
    Done = 1,
    /// There is no such NIC.
    NoNic = 2,
    /// This machine does not know the command.
    Unknown = 3,
    /// The guest does not listen to its power button.
    Deaf = 4,
    /// The guest has no machine that could be reset.
    NoMachine = 5,
    /// The machine has not begun: it waits for a connection to its serial port.
    NotBegun = 6,
}

impl Answer {
    fn of(code: u32) -> Option<Answer> {
        const ALL: [Answer; 6] = [
            Answer::Done,
            Answer::NoNic,
            Answer::Unknown,
            Answer::Deaf,
            Answer::NoMachine,
            Answer::NotBegun,
        ];
        ALL.into_iter().find(|answer| *answer as u32 == code)
    }
}

impl Command {
    fn record(self, number: u32) -> [u8; RECORD] {
        let (what, nic) = match self {
            Command::Link { nic, up } => (u32::from(up), nic.unwrap_or(ALL)),
            Command::Powerdown => (2, ALL),
            Command::Reset => (3, ALL),
            Command::Quit => (4, ALL),
        };
        let words = [MAGIC, number, what, nic];
        let mut record = [0; RECORD];
        for (place, word) in record.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        record
    }

    /// The number of a record, and its command if it is known. `None`: no record.
    fn read(record: &[u8]) -> Option<(u32, Option<Command>)> {
        let record: [u8; RECORD] = record.try_into().ok()?;
        let word = |at: usize| {
            u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]])
        };
        if word(0) != MAGIC {
            return None;
        }
        let nic = Some(word(12)).filter(|nic| *nic != ALL);
        let command = match word(8) {
            what @ (0 | 1) => Some(Command::Link { nic, up: what == 1 }),
            2 => Some(Command::Powerdown),
            3 => Some(Command::Reset),
            4 => Some(Command::Quit),
            _ => None,
        };
        Some((word(4), command))
    }
}

/// The machine's end.
#[derive(Debug)]
pub struct Inbox {
    pipe: PipeReader,
    /// What others open; kept, so that the pipe never ends.
    _writer: PipeWriter,
    counters: VmCounters,
}

impl Inbox {
    /// An empty one, which the counters tell of.
    pub fn new(counters: &VmCounters) -> io::Result<Inbox> {
        let (pipe, writer) = io::pipe()?;
        // This end alone: who opens the other has a description of his own.
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        counters.take_commands_at(writer.as_raw_fd());
        Ok(Inbox { pipe, _writer: writer, counters: counters.clone() })
    }

    /// What to poll.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Reads what has come, if anything: commands by their numbers, `None` for one that is not known.
    pub fn read(&mut self) -> Vec<(u32, Option<Command>)> {
        let mut bytes = [0; 64 * RECORD];
        let n = self.pipe.read(&mut bytes).unwrap_or(0);
        bytes[..n].chunks(RECORD).filter_map(Command::read).collect()
    }

    /// Answers a command.
    pub fn answer(&self, number: u32, answer: Answer) {
        self.counters.answer(number, answer as u32);
    }
}

/// Sends a command to the machine and waits for its answer.
///
/// # Errors
/// It takes none, or does not answer.
pub fn send(machine: &Reading, command: Command) -> anyhow::Result<Answer> {
    // Held until the end: one command at a time.
    let lock = nix::fcntl::Flock::lock(machine.file()?, nix::fcntl::FlockArg::LockExclusive);
    let _lock = lock.map_err(|(_, why)| why).context("waiting for other commands to it")?;
    let Some(fd) = machine.command_fd()? else {
        bail!("the machine takes no commands: it is of an earlier version");
    };
    let mut pipe = open(machine, fd).context("reaching the machine")?;
    let number = machine.last_answer()?.0.wrapping_add(1);
    pipe.write_all(&command.record(number)).context("sending the command")?;
    let end = Instant::now() + TIMEOUT;
    while Instant::now() < end {
        let (answered, code) = machine.last_answer()?;
        if answered == number {
            return Answer::of(code).context("the machine's answer is none");
        }
        if !machine.is_alive() {
            bail!("the machine has ended");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    bail!("the machine has not answered for {} s", TIMEOUT.as_secs())
}

/// The pipe in the machine's process. The directory is held open and asked again for the counters, so that it is that
/// process's and of no later one with its number.
fn open(machine: &Reading, fd: i32) -> anyhow::Result<File> {
    let fds = File::open(format!("/proc/{}/fd", machine.process))?;
    let at = format!("/proc/self/fd/{}/{fd}", fds.as_raw_fd());
    let is = std::fs::read_link(&at)?;
    if !is.to_string_lossy().starts_with("pipe:") || !machine.is_alive() {
        bail!("{} is not its pipe", is.display());
    }
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    Ok(File::options().write(true).custom_flags(flags).open(at)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written_and_others_are_none() {
        for command in [
            Command::Link { nic: None, up: true },
            Command::Link { nic: Some(0), up: false },
            Command::Link { nic: Some(7), up: true },
            Command::Powerdown,
            Command::Reset,
            Command::Quit,
        ] {
            assert_eq!(Command::read(&command.record(9)), Some((9, Some(command))));
        }
        let mut record = Command::Link { nic: None, up: true }.record(3);
        record[8] = 5;
        assert_eq!(Command::read(&record), Some((3, None)), "unknown");
        record[0] ^= 1;
        assert_eq!(Command::read(&record), None);
        assert_eq!(Command::read(&record[..15]), None);
    }

    #[test]
    fn nonsense_in_the_pipe_is_dropped() {
        let counters = VmCounters::new("inbox", 1, 1).expect("memory");
        let mut inbox = Inbox::new(&counters).expect("a pipe");
        let mut writer = inbox._writer.try_clone().expect("a descriptor");
        writer.write_all(&[7; 3 * RECORD]).expect("room");
        writer.write_all(&Command::Link { nic: None, up: false }.record(5)).expect("room");
        assert_eq!(inbox.read(), [(5, Some(Command::Link { nic: None, up: false }))]);
        inbox.answer(5, Answer::NoNic);
        assert_eq!(counters.last_answer(), (5, Answer::NoNic as u32));
    }
}
