//! What comes for the guest's serial port: typed, or by a pipe, file or socket.
//!
//! Invariants: nothing is lost. A pipe or file is read as far as the guest takes it, and no further; its end ends
//! nothing. From a terminal all is read at once, so that the keys which are this program's work although the guest does
//! not listen; [`MAX_SYMBOLS`] are kept for such a guest, then the terminal has to wait, too.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Stdin};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;

use crate::host::keys::{Key, Keys};
use crate::host::terminal::Terminal;
use crate::host::wire::Wire;
use crate::machine::com1::{Com1, Symbol};

/// As much is kept of what is typed to a guest that does not read.
const MAX_SYMBOLS: usize = 1 << 20;

/// Where it comes from.
#[derive(Debug)]
enum Source {
    /// Nowhere, or it has come to its end.
    None,
    /// A pipe or a file: all of it is the guest's.
    Bytes(Stdin),
    /// A terminal.
    Typed(Terminal, Keys),
    /// A socket, and who is connected to it.
    Wire(Arc<Wire>, Option<Arc<UnixStream>>),
}

/// What was asked of this program by keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nothing.
    Nothing,
    /// To say what the keys mean.
    Help,
    /// To end the machine.
    Quit,
}

/// Input on its way.
#[derive(Debug)]
pub struct Input {
    source: Source,
    waiting: VecDeque<Symbol>,
}

impl Input {
    /// Nothing ever comes.
    pub fn none() -> Input {
        Input { source: Source::None, waiting: VecDeque::new() }
    }

    /// What comes by stdin; from a terminal only if that is `wanted`.
    pub fn stdin(wanted: bool) -> Input {
        let source = match (io::stdin().is_terminal(), wanted) {
            (false, _) => Source::Bytes(io::stdin()),
            (true, true) => Source::Typed(Terminal::take(), Keys::default()),
            (true, false) => Source::None,
        };
        Input { source, waiting: VecDeque::new() }
    }

    /// What peers of a socket send.
    pub fn wire(wire: Arc<Wire>) -> Input {
        let peer = wire.peer();
        Input { source: Source::Wire(wire, peer), waiting: VecDeque::new() }
    }

    /// The terminal on which somebody types, if that is where it comes from.
    pub fn terminal(&mut self) -> Option<&mut Terminal> {
        match &mut self.source {
            Source::Typed(terminal, _) => Some(terminal),
            _ => None,
        }
    }

    /// Whether somebody types now.
    pub fn is_typed(&self) -> bool {
        matches!(&self.source, Source::Typed(terminal, _) if terminal.is_raw())
    }

    /// When to look again although nothing came.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        match &self.source {
            Source::Wire(wire, None) => wire.resumes(now),
            Source::Typed(terminal, _) => terminal.next_look(),
            _ => None,
        }
    }

    /// What to poll for more, if more can be taken.
    pub fn fd(&self, com1: &Com1, now: Instant) -> Option<BorrowedFd<'_>> {
        match &self.source {
            Source::None => None,
            Source::Bytes(stdin) => {
                (self.waiting.is_empty() && com1.room() > 0).then(|| stdin.as_fd())
            }
            Source::Wire(_, Some(peer)) => {
                (self.waiting.is_empty() && com1.room() > 0).then(|| peer.as_fd())
            }
            Source::Wire(wire, None) => wire.listener(now),
            Source::Typed(terminal, _) => {
                (terminal.is_raw() && self.waiting.len() < MAX_SYMBOLS).then(|| terminal.fd())
            }
        }
    }

    /// Reads what has come and gives the guest what it takes.
    pub fn read(&mut self, com1: &Com1) -> Asked {
        let mut buffer = [0; 4096];
        let most = if self.is_typed() { buffer.len() } else { com1.room().min(buffer.len()) };
        let read = match &self.source {
            Source::None => return Asked::Nothing,
            Source::Bytes(stdin) => nix::unistd::read(stdin.as_fd(), &mut buffer[..most]),
            Source::Typed(terminal, _) => nix::unistd::read(terminal.fd(), &mut buffer[..most]),
            Source::Wire(_, Some(peer)) => nix::unistd::read(peer.as_fd(), &mut buffer[..most]),
            Source::Wire(wire, None) => {
                let peer = wire.accept();
                self.source = Source::Wire(Arc::clone(wire), peer);
                return Asked::Nothing;
            }
        };
        let asked = match read {
            Ok(n @ 1..) => self.sort(&buffer[..n]),
            Err(Errno::EINTR | Errno::EAGAIN) => Asked::Nothing,
            Ok(0) if most == 0 => Asked::Nothing, // the guest has just closed its port
            _ => {
                self.end();
                Asked::Nothing
            }
        };
        self.give(com1);
        asked
    }

    /// Nothing more comes from there.
    fn end(&mut self) {
        self.source = match std::mem::replace(&mut self.source, Source::None) {
            Source::Wire(wire, peer) => {
                peer.iter().for_each(|peer| wire.left(peer));
                Source::Wire(wire, None)
            }
            _ => Source::None,
        };
    }

    /// Gives the guest what it takes.
    pub fn give(&mut self, com1: &Com1) {
        if !self.waiting.is_empty() {
            com1.give(&mut self.waiting);
        }
    }

    /// Keeps what is the guest's.
    fn sort(&mut self, came: &[u8]) -> Asked {
        let Source::Typed(_, keys) = &mut self.source else {
            self.waiting.extend(came.iter().map(|byte| Symbol::Byte(*byte)));
            return Asked::Nothing;
        };
        let mut asked = Asked::Nothing;
        for key in came.iter().filter_map(|byte| keys.next(*byte)) {
            match key {
                Key::Byte(byte) => self.waiting.push_back(Symbol::Byte(byte)),
                Key::Break => self.waiting.push_back(Symbol::Break),
                Key::Help if asked == Asked::Nothing => asked = Asked::Help,
                Key::Help => {}
                Key::Quit => asked = Asked::Quit,
            }
        }
        asked
    }
}
