//! COM1: a 16550 whose line leads to stdout, a file or nowhere.
//!
//! Invariants: what the guest prints arrives line by line, so lines of several machines on one
//! terminal don't mix (byte by byte where the other side is a person who types). A guest can neither
//! fill the monitor's memory (a line is cut at 64 KiB) nor stop the monitor by its output. The last line that is a JSON
//! object is the guest's result: it is kept, for the record at the end.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use serde_json::Value;
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// Longest line kept together.
const LINE_MAX_BYTES: usize = 64 << 10;

/// Where lines go.
#[derive(Debug)]
pub enum Sink {
    /// stdout.
    Stdout,
    /// stderr: stdout carries records.
    Stderr,
    /// A file.
    File(File),
    /// Nowhere.
    Null,
}

impl Sink {
    /// Creates (or empties) a file for the guest's output.
    pub fn create(path: &Path) -> anyhow::Result<Sink> {
        let file = File::create(path);
        Ok(Sink::File(file.with_context(|| format!("creating {}", path.display()))?))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Sink::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()
            }
            Sink::Stderr => io::stderr().write_all(bytes),
            Sink::File(file) => file.write_all(bytes),
            Sink::Null => Ok(()),
        }
    }
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
        Console { sink, line, raw: false, keep_results: false, result, hangup: Some(hangup) }
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
        let Err(error) = self.sink.write(bytes) else { return };
        // Reported once: the guest goes on printing, and a message per byte would be useless.
        self.sink = Sink::Null;
        if error.kind() != io::ErrorKind::BrokenPipe {
            nm_cli::say!("e1000pv-vmm: the guest's output is lost from here on: {error}");
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

/// Interrupt of the 16550, edge-triggered as on the ISA bus.
#[derive(Debug)]
pub struct Edge(EventFd);

impl Edge {
    /// An edge for each write to this irqfd.
    pub fn new(irqfd: EventFd) -> Edge {
        Edge(irqfd)
    }
}

impl Trigger for Edge {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The port.
pub struct Com1(Mutex<Serial<Edge, NoEvents, Console>>);

impl fmt::Debug for Com1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Com1").field(self.lock().writer()).finish()
    }
}

impl Com1 {
    /// A 16550 with `console` at its other end.
    pub fn new(edge: Edge, console: Console) -> Com1 {
        Com1(Mutex::new(Serial::new(edge, console)))
    }

    fn lock(&self) -> MutexGuard<'_, Serial<Edge, NoEvents, Console>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest reads a register.
    pub fn read(&self, offset: u8) -> u8 {
        self.lock().read(offset)
    }

    /// The guest writes a register.
    pub fn write(&self, offset: u8, value: u8) {
        // It fails if the interrupt cannot be raised, which takes 2^64 pending ones; the console
        // reports its own errors.
        let _ = self.lock().write(offset, value);
    }

    /// Somebody typed. What does not fit the FIFO is lost, as on a real line; returns what fitted.
    pub fn input(&self, bytes: &[u8]) -> usize {
        let mut uart = self.lock();
        let room = uart.fifo_capacity().min(bytes.len());
        uart.enqueue_raw_bytes(&bytes[..room]).unwrap_or(0)
    }

    /// Prints what is left of an unfinished line.
    pub fn finish(&self) {
        self.lock().writer_mut().finish();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

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
    fn uart_takes_input_until_its_fifo_is_full() {
        let edge = EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd");
        let copy = edge.try_clone().expect("a copy");
        let com1 = Com1::new(Edge::new(edge), Console::new(Sink::Null, Box::new(|| {})));
        com1.write(1, 1); // IER: received data
        assert_eq!(com1.input(b"abc"), 3);
        assert_eq!(copy.read().expect("an interrupt"), 1);
        assert_eq!([com1.read(0), com1.read(0), com1.read(0)], *b"abc");
        let took = com1.input(&[b'x'; 1000]);
        assert!(0 < took && took < 1000);
        assert_eq!(com1.input(b"y"), 0);
    }
}
