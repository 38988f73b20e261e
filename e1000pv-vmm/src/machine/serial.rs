//! What the guest prints by its serial port, on its way to stdout, a file or nowhere.
//!
//! Invariants: it arrives line by line, so lines of several machines on one terminal don't mix (byte by byte where
//! the other side is a person who types). A guest can neither fill the monitor's memory (a line is cut at 64 KiB) nor
//! stop the monitor by its output: a reader that takes its time holds up the guest, and a machine that is to end
//! waits for no reader. The last line that is a JSON object is the guest's result: it is kept, for the record at the end.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;

use crate::host::wire::Wire;

/// Longest line kept together.
const LINE_MAX_BYTES: usize = 64 << 10;
/// A pipe that can take anything can take this much without waiting.
const PIECE_BYTES: usize = 4096;
/// How long a machine that is to end waits for a reader.
const TIMEOUT_MS: u16 = 250;

/// Where lines go.
#[derive(Debug)]
pub enum Sink {
    /// stdout.
    Stdout,
    /// stderr: stdout carries records.
    Stderr,
    /// A file.
    File(File),
    /// Whoever is connected to a socket.
    Wire(Arc<Wire>),
    /// Nowhere.
    Null,
}

impl Sink {
    /// Creates (or empties) a file for the guest's output.
    pub fn create(path: &Path) -> anyhow::Result<Sink> {
        nm_cli::output::create(path).map(Sink::File)
    }

    fn write(&mut self, bytes: &[u8], stop: &AtomicBool) -> io::Result<()> {
        match self {
            Sink::Stdout => write_all(io::stdout().as_fd(), bytes, stop),
            Sink::Stderr => write_all(io::stderr().as_fd(), bytes, stop),
            Sink::File(file) => write_all(file.as_fd(), bytes, stop),
            Sink::Wire(wire) => {
                let Some(peer) = wire.peer() else { return Ok(()) };
                match write_all(peer.as_fd(), bytes, stop) {
                    Err(why) if why.kind() == io::ErrorKind::TimedOut => Err(why),
                    Err(_) => {
                        wire.left(&peer); // the next one may come
                        Ok(())
                    }
                    Ok(()) => Ok(()),
                }
            }
            Sink::Null => Ok(()),
        }
    }
}

/// Writes everything, however long the reader takes, until `stop` says that the machine is to end.
fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8], stop: &AtomicBool) -> io::Result<()> {
    while !bytes.is_empty() {
        let room = poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], PollTimeout::from(TIMEOUT_MS));
        // Relaxed: nothing else is read by it.
        if room == Ok(0) && stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if !matches!(room, Ok(1..)) {
            continue;
        }
        match nix::unistd::write(fd, &bytes[..bytes.len().min(PIECE_BYTES)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(why) => return Err(why.into()),
        }
    }
    Ok(())
}

/// The guest's result: the last line of its output that is a JSON object.
#[derive(Clone, Debug, Default)]
pub struct GuestResult(Arc<Mutex<Option<Value>>>);

impl GuestResult {
    /// The result so far.
    pub fn take(&self) -> Option<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, value: Value) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    }
}

/// Called once if nobody reads the output any more.
pub type Hangup = Box<dyn Fn() + Send>;

/// The other end of the line.
pub struct Console {
    sink: Sink,
    line: Vec<u8>,
    /// Bytes go out as they come.
    raw: bool,
    /// Result lines are kept for the record and not printed.
    keep_results: bool,
    result: GuestResult,
    hangup: Option<Hangup>,
    stop: Arc<AtomicBool>,
    lost: Arc<AtomicBool>,
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("sink", &self.sink).finish_non_exhaustive()
    }
}

impl Console {
    /// A console that prints to `sink`.
    pub fn new(sink: Sink, hangup: Hangup) -> Console {
        let (line, result) = (Vec::new(), GuestResult::default());
        let (hangup, stop, lost) = (Some(hangup), Arc::default(), Arc::default());
        Console { sink, line, raw: false, keep_results: false, result, hangup, stop, lost }
    }

    /// Set to wait for readers no more.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Set when something could not be written to stdout or a file: a full disk, for one.
    pub fn lost_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.lost)
    }

    /// Prints bytes as they come: somebody types on the other side.
    pub fn raw(mut self, raw: bool) -> Console {
        self.raw = raw;
        self
    }

    /// Prints no line that is a result; the record at the end carries it.
    pub fn keep_results(mut self, keep: bool) -> Console {
        self.keep_results = keep;
        self
    }

    /// A handle on the result, which changes while the guest runs.
    pub fn result(&self) -> GuestResult {
        self.result.clone()
    }

    /// Prints what is left of an unfinished line.
    pub fn finish(&mut self) {
        self.end_line();
    }

    /// Accepts output of a guest that has no serial line.
    pub fn print(&mut self, text: &[u8]) {
        text.iter().for_each(|&byte| self.byte(byte));
    }

    fn byte(&mut self, byte: u8) {
        if self.raw {
            self.put(&[byte]);
        }
        self.line.push(byte);
        if byte == b'\n' || self.line.len() == LINE_MAX_BYTES {
            self.end_line();
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let result = parse(&line);
        let hidden = self.raw || result.is_some() && self.keep_results;
        if let Some(value) = result {
            self.result.set(value);
        }
        if !hidden && !line.is_empty() {
            self.put(&line);
        }
        self.line = line;
        self.line.clear();
    }

    fn put(&mut self, bytes: &[u8]) {
        let Err(error) = self.sink.write(bytes, &self.stop) else { return };
        let is_talk = matches!(self.sink, Sink::Stderr);
        // Reported once: the guest goes on printing, and a message per byte would be useless.
        self.sink = Sink::Null;
        if error.kind() == io::ErrorKind::TimedOut {
            nm_cli::say!("e1000pv-vmm: nobody reads the guest's output: the rest of it is lost");
        } else if error.kind() != io::ErrorKind::BrokenPipe {
            nm_cli::say!("e1000pv-vmm: the guest's output is lost from here on: {error}");
            // Relaxed: looked at when the threads have ended.
            self.lost.store(!is_talk, Ordering::Relaxed);
        } else if let Some(hangup) = self.hangup.take() {
            hangup();
        }
    }
}

fn parse(line: &[u8]) -> Option<Value> {
    let text = line.trim_ascii();
    let looks = text.starts_with(b"{") && text.ends_with(b"}");
    looks.then(|| serde_json::from_slice(text).ok()).flatten()
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.print(bytes);
        Ok(bytes.len())
    }

    /// The 16550 flushes after each byte; lines go out when they end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn to_file(configure: impl Fn(Console) -> Console, text: &[u8]) -> (String, Option<Value>) {
        let mut file = tempfile::tempfile().expect("a file");
        let sink = Sink::File(file.try_clone().expect("a copy"));
        let mut console = configure(Console::new(sink, Box::new(|| {})));
        console.print(text);
        console.finish();
        let mut written = String::new();
        io::Seek::rewind(&mut file).expect("a file");
        file.read_to_string(&mut written).expect("text");
        (written, console.result().take())
    }

    #[test]
    fn lines_pass_and_the_last_object_is_the_result() {
        let text = b"hello\n{\"a\":1}\n{broken}\n[1]\n{\"b\":2}\r\ntail";
        let (written, result) = to_file(|console| console, text);
        assert_eq!(written.as_bytes(), text);
        assert_eq!(result, Some(serde_json::json!({"b": 2})));
        let (written, result) = to_file(|console| console.keep_results(true), text);
        assert_eq!(written, "hello\n{broken}\n[1]\ntail");
        assert_eq!(result, Some(serde_json::json!({"b": 2})));
        let (written, _) = to_file(|console| console.raw(true), text);
        assert_eq!(written.as_bytes(), text);
    }

    #[test]
    fn endless_line_is_cut_and_not_kept() {
        let text = vec![b'x'; 3 * LINE_MAX_BYTES + 5];
        let (written, _) = to_file(|console| console, &text);
        assert_eq!(written.len(), text.len());
    }

    #[test]
    fn reader_that_left_is_told_once() {
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        let told = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&told);
        let hangup = Box::new(move || assert!(!flag.swap(true, Ordering::Relaxed), "told twice"));
        let sink = Sink::File(File::from(std::os::fd::OwnedFd::from(writer)));
        let mut console = Console::new(sink, hangup);
        console.print(b"one\ntwo\n");
        assert!(told.load(Ordering::Relaxed));
    }

    #[test]
    fn machine_that_is_to_end_waits_for_no_reader() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let sink = Sink::File(File::from(std::os::fd::OwnedFd::from(writer)));
        let mut console = Console::new(sink, Box::new(|| {}));
        let stop = console.stop_flag();
        let text = vec![b'x'; 1 << 20]; // more than a pipe holds
        let printing = std::thread::spawn(move || console.print(&text));
        reader.read_exact(&mut [0; 1000]).expect("it prints");
        stop.store(true, Ordering::Relaxed);
        printing.join().expect("it has given up");
    }
}
