//! COM1: a 16550, with a console at the other end of its line, and what is typed there.
//!
//! Invariants: input is taken only as the guest reads it, so nothing is lost however much comes: who brings it waits for
//! [`Com1::room_fd`]. The main thread never waits for a vCPU that prints. A break is one received zero with LSR's
//! BI, alone in the FIFO.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::machine::serial::Console;

/// Registers (TL16C550 data sheet): data, or the divisor's low byte; line control; modem control; line status; scratch.
const DATA: u8 = 0;
const INTERRUPT_ENABLE: u8 = 1;
const INTERRUPT_ID: u8 = 2;
const LINE_CONTROL: u8 = 3;
const MODEM_CONTROL: u8 = 4;
const LINE_STATUS: u8 = 5;
const SCRATCH: u8 = 7;
/// LCR: offset 0 and 1 are the divisor.
const DIVISOR_LATCH: u8 = 1 << 7;
/// MCR: what is sent comes back, and nothing else comes.
const LOOP: u8 = 1 << 4;
/// MCR: OUT2, by which PCs pass interrupts on.
const OUT2: u8 = 1 << 3;
/// LSR: there is data.
const DATA_READY: u8 = 1 << 0;
/// LSR: what comes next is a break.
const BREAK: u8 = 1 << 4;
/// What empties LCR, IER, MCR and SCR, as after power-on; 9600 baud, 8N1.
const RESET: [(u8, u8); 7] = [
    (LINE_CONTROL, DIVISOR_LATCH | 3),
    (DATA, 12),
    (INTERRUPT_ENABLE, 0),
    (LINE_CONTROL, 3),
    (INTERRUPT_ENABLE, 0),
    (MODEM_CONTROL, OUT2),
    (SCRATCH, 0),
];
/// The 16550's FIFO, as the model has it.
const FIFO_BYTES: usize = 64;

/// What comes for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symbol {
    /// A byte.
    Byte(u8),
    /// A break.
    Break,
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

struct Uart {
    serial: Serial<Edge, NoEvents, Console>,
    line_control: u8,
    modem_control: u8,
    /// What is in the FIFO is a break.
    breaks: bool,
}

impl Uart {
    /// How many bytes may come now: none until the guest has read all. Linux's interrupt handler reads as long as there is
    /// something, thousands of bytes, and the thread that takes them further, which has room for so many, does not run
    /// meanwhile on a machine of one processor. A FIFO that is filled while it is read, as no line does, would
    /// never be empty.
    fn room(&self) -> usize {
        let is_empty = self.serial.fifo_capacity() == FIFO_BYTES;
        let is_closed = self.breaks || self.modem_control & LOOP != 0;
        if is_closed || !is_empty { 0 } else { FIFO_BYTES }
    }

    fn read(&mut self, offset: u8) -> u8 {
        let value = self.serial.read(offset);
        match offset {
            LINE_STATUS if self.breaks => value | BREAK,
            DATA if self.line_control & DIVISOR_LATCH == 0 => {
                self.breaks = false;
                value
            }
            _ => value,
        }
    }

    fn write(&mut self, offset: u8, value: u8) {
        match offset {
            LINE_CONTROL => self.line_control = value,
            MODEM_CONTROL => self.modem_control = value,
            _ => {}
        }
        // It fails if the interrupt cannot be raised, which takes 2^64 pending ones; the console
        // reports its own errors.
        let _ = self.serial.write(offset, value);
    }

    /// Takes the next of what comes, if it still has room.
    fn take(&mut self, next: Symbol) -> bool {
        let (byte, breaks) = match next {
            Symbol::Byte(byte) => (byte, false),
            Symbol::Break => (0, true),
        };
        if self.breaks || breaks && self.serial.fifo_capacity() < FIFO_BYTES {
            return false;
        }
        let taken = matches!(self.serial.enqueue_raw_bytes(&[byte]), Ok(1));
        self.breaks = taken && breaks;
        taken
    }
}

/// The port.
pub struct Com1 {
    uart: Mutex<Uart>,
    /// Somebody has something for the guest.
    wanted: AtomicBool,
    room: OwnedFd,
    has_room: EventFd,
    stop: Arc<AtomicBool>,
}

impl fmt::Debug for Com1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Com1").field(self.lock().serial.writer()).finish()
    }
}

impl Com1 {
    /// A 16550 with `console` at its other end. `room`, an eventfd, is what `room_fd` polls.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn new(edge: Edge, room: EventFd, console: Console) -> io::Result<Com1> {
        let stop = console.stop_flag();
        let serial = Serial::new(edge, console);
        let uart = Uart { serial, line_control: 0, modem_control: OUT2, breaks: false };
        let has_room = room.try_clone()?;
        let (uart, room) = (Mutex::new(uart), crate::host::event::owned(room));
        Ok(Com1 { uart, wanted: AtomicBool::new(false), room, has_room, stop })
    }

    fn lock(&self) -> MutexGuard<'_, Uart> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An access of the guest, after which there may be room for what waits.
    fn access<R>(&self, access: impl FnOnce(&mut Uart) -> R) -> R {
        let mut uart = self.lock();
        let result = access(&mut uart);
        let room = uart.room();
        drop(uart);
        // Pairs with the one in `room`: who found the port locked had said before that he wants it.
        fence(Ordering::SeqCst);
        if room > 0 && self.wanted.load(Ordering::Relaxed) {
            self.wanted.store(false, Ordering::Relaxed);
            let _ = self.has_room.write(1); // it fails only if 2^64 are pending, and then it is readable
        }
        result
    }

    /// The guest reads a register.
    pub fn read(&self, offset: u8) -> u8 {
        self.access(|uart| uart.read(offset))
    }

    /// The guest writes a register.
    pub fn write(&self, offset: u8, value: u8) {
        self.access(|uart| uart.write(offset, value));
    }

    /// Readable when there is room again after `room` said that there is none, or `give` left something; reading it
    /// empties it.
    pub fn room_fd(&self) -> BorrowedFd<'_> {
        self.room.as_fd()
    }

    /// The port, unless a vCPU has it, which may be waiting for a reader of its output.
    fn try_lock(&self) -> Option<MutexGuard<'_, Uart>> {
        self.wanted.store(true, Ordering::Relaxed);
        // Pairs with the one in `access`.
        fence(Ordering::SeqCst);
        match self.uart.try_lock() {
            Ok(uart) => Some(uart),
            Err(TryLockError::Poisoned(uart)) => Some(uart.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// How many bytes may come now.
    pub fn room(&self) -> usize {
        let room = self.try_lock().map_or(0, |uart| uart.room());
        if room > 0 {
            self.wanted.store(false, Ordering::Relaxed);
        }
        room
    }

    /// Something has come: takes what there is room for.
    pub fn give(&self, waiting: &mut VecDeque<Symbol>) {
        let Some(mut uart) = self.try_lock().filter(|uart| uart.room() > 0) else { return };
        while let Some(next) = waiting.front() {
            if !uart.take(*next) {
                return;
            }
            waiting.pop_front();
        }
        self.wanted.store(false, Ordering::Relaxed);
    }

    /// From now on no reader of the output is waited for.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// As after power-on. What the guest had not read is lost.
    pub fn reset(&self) {
        self.access(|uart| {
            uart.write(LINE_CONTROL, 0);
            uart.write(MODEM_CONTROL, 0);
            while uart.read(LINE_STATUS) & DATA_READY != 0 {
                uart.read(DATA);
            }
            RESET.into_iter().for_each(|(register, value)| uart.write(register, value));
            uart.read(INTERRUPT_ID); // none is pending any more
        });
    }

    /// Prints what is left of an unfinished line.
    pub fn finish(&self) {
        self.lock().serial.writer_mut().finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::event::event;
    use crate::machine::serial::Sink;

    fn com1() -> (Com1, EventFd) {
        let edge = event().expect("an eventfd");
        let copy = edge.try_clone().expect("a copy");
        let console = Console::new(Sink::Null, Box::new(|| {}));
        let com1 = Com1::new(Edge::new(edge), event().expect("an eventfd"), console);
        (com1.expect("a copy"), copy)
    }

    fn bytes(text: &[u8]) -> VecDeque<Symbol> {
        text.iter().map(|byte| Symbol::Byte(*byte)).collect()
    }

    /// Whether there is room again.
    fn told(com1: &Com1) -> bool {
        nix::unistd::read(com1.room_fd(), &mut [0; 8]).is_ok()
    }

    #[test]
    fn input_is_taken_as_the_guest_reads_it() {
        let (com1, edge) = com1();
        com1.write(INTERRUPT_ENABLE, 1); // received data
        let mut waiting = bytes(b"abc");
        com1.give(&mut waiting);
        assert_eq!((waiting.len(), edge.read().expect("an interrupt")), (0, 1));
        assert_eq!([com1.read(0), com1.read(0), com1.read(0)], *b"abc");
        assert!(!told(&com1), "nobody waits");
        let mut waiting = bytes(&[b'x'; 1000]);
        com1.give(&mut waiting);
        assert_eq!((waiting.len(), com1.room()), (1000 - FIFO_BYTES, 0));
        for read in 1..=FIFO_BYTES {
            assert!(!told(&com1), "{read}");
            com1.read(0);
        }
        assert!(told(&com1) && !told(&com1), "once");
        let room = com1.room();
        com1.give(&mut waiting);
        assert_eq!((room, waiting.len()), (FIFO_BYTES, 1000 - 2 * FIFO_BYTES));
    }

    /// However fast somebody brings more.
    #[test]
    fn guest_that_reads_what_there_is_comes_to_an_end() {
        let (com1, _) = com1();
        let mut waiting = bytes(&[b'x'; 1000]);
        com1.give(&mut waiting);
        for read in 1..FIFO_BYTES {
            com1.read(DATA);
            com1.give(&mut waiting);
            assert_eq!((waiting.len(), com1.room()), (1000 - FIFO_BYTES, 0), "{read}");
        }
        assert_eq!((com1.read(LINE_STATUS) & DATA_READY, com1.read(DATA)), (DATA_READY, b'x'));
        assert_eq!(com1.read(LINE_STATUS) & DATA_READY, 0);
        assert!(told(&com1));
        com1.give(&mut waiting);
        assert_eq!(com1.read(LINE_STATUS) & DATA_READY, DATA_READY);
    }

    #[test]
    fn nothing_comes_in_while_the_port_loops_back() {
        let (com1, _) = com1();
        com1.write(MODEM_CONTROL, LOOP);
        let mut waiting = bytes(b"typed");
        com1.give(&mut waiting);
        com1.write(DATA, b'~');
        assert_eq!((com1.read(LINE_STATUS) & DATA_READY, com1.read(DATA)), (1, b'~'));
        assert_eq!(com1.read(LINE_STATUS) & DATA_READY, 0);
        assert!(!told(&com1));
        com1.write(MODEM_CONTROL, OUT2);
        assert!(told(&com1), "it is open again");
        com1.give(&mut waiting);
        assert_eq!(com1.read(DATA), b't');
    }

    #[test]
    fn break_comes_alone_and_in_its_turn() {
        let (com1, _) = com1();
        let mut waiting: VecDeque<_> =
            [Symbol::Byte(b'a'), Symbol::Break, Symbol::Byte(b'h')].into();
        com1.give(&mut waiting);
        assert_eq!(com1.read(LINE_STATUS) & (BREAK | DATA_READY), DATA_READY);
        assert_eq!((com1.read(DATA), waiting.len()), (b'a', 2));
        com1.give(&mut waiting);
        // The divisor is no data.
        com1.write(LINE_CONTROL, DIVISOR_LATCH);
        com1.read(DATA);
        com1.write(LINE_CONTROL, 3);
        assert_eq!(com1.read(LINE_STATUS) & (BREAK | DATA_READY), BREAK | DATA_READY);
        assert_eq!((com1.read(DATA), waiting.len()), (0, 1));
        assert!(told(&com1));
        com1.give(&mut waiting);
        assert_eq!(com1.read(LINE_STATUS) & (BREAK | DATA_READY), DATA_READY);
        assert_eq!(com1.read(DATA), b'h');
    }

    #[test]
    fn who_brings_input_does_not_wait_for_who_prints() {
        let (com1, _) = com1();
        let printing = com1.lock();
        let mut waiting = bytes(b"x");
        com1.give(&mut waiting);
        assert_eq!((com1.room(), waiting.len()), (0, 1));
        drop(printing);
        com1.write(DATA, b'y');
        assert!(told(&com1));
        com1.give(&mut waiting);
        assert_eq!(com1.read(DATA), b'x');
    }

    #[test]
    fn reset_forgets_what_the_guest_has_set_and_not_read() {
        let (com1, edge) = com1();
        com1.write(SCRATCH, 7);
        com1.give(&mut bytes(b"abc"));
        com1.write(MODEM_CONTROL, LOOP);
        com1.write(LINE_CONTROL, DIVISOR_LATCH);
        com1.write(INTERRUPT_ENABLE, 7);
        com1.reset();
        let _ = edge.read();
        let registers = [INTERRUPT_ENABLE, LINE_CONTROL, MODEM_CONTROL, SCRATCH];
        assert_eq!(registers.map(|register| com1.read(register)), [0, 3, OUT2, 0]);
        assert_eq!(com1.read(LINE_STATUS) & DATA_READY, 0);
        assert_eq!(com1.read(INTERRUPT_ID) & 1, 1, "no interrupt");
        com1.give(&mut bytes(b"d"));
        assert!(edge.read().is_err(), "not enabled");
        assert_eq!(com1.read(DATA), b'd');
    }
}
