//! The terminal of a user who types to the guest's serial port: raw while the machine runs, and restored
//! afterwards.
//!
//! Signals stay as they are: Ctrl-C ends the machine, in raw mode as well, as all tools here do.

use std::io::{IsTerminal, Stdin};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// stdin, raw if it is a terminal.
#[derive(Debug)]
pub struct Terminal {
    stdin: Stdin,
    saved: Option<Saved>,
}

struct Saved(libc::termios);

impl std::fmt::Debug for Saved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Saved")
    }
}

impl Terminal {
    /// Takes over stdin if both stdin and stdout are terminals, which means that a user is present.
    pub fn take() -> Option<Terminal> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() || !std::io::stdout().is_terminal() {
            return None;
        }
        let mut terminal = Terminal { stdin, saved: None };
        terminal.saved = terminal.mode().map(Saved);
        if let Some(Saved(mut raw)) = terminal.saved.as_ref().map(|saved| Saved(saved.0)) {
            raw.c_lflag &= !(libc::ICANON | libc::ECHO | libc::IEXTEN);
            raw.c_iflag &= !(libc::ICRNL | libc::IXON);
            terminal.set(&raw);
        }
        Some(terminal)
    }

    /// What has been typed; nothing at the end of input.
    pub fn read<'a>(&self, buffer: &'a mut [u8]) -> &'a [u8] {
        let n = nix::unistd::read(self.stdin.as_fd(), buffer).unwrap_or(0);
        &buffer[..n]
    }

    /// What to poll.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stdin.as_fd()
    }

    fn mode(&self) -> Option<libc::termios> {
        let mut mode = std::mem::MaybeUninit::uninit();
        // SAFETY: the descriptor is open, and the structure large enough for what is written.
        let result = unsafe { libc::tcgetattr(self.stdin.as_raw_fd(), mode.as_mut_ptr()) };
        // SAFETY: written whole if the call succeeded.
        (result == 0).then(|| unsafe { mode.assume_init() })
    }

    fn set(&self, mode: &libc::termios) {
        // It fails only if the terminal is gone, in which case there is nothing to restore.
        // SAFETY: the descriptor is open, and the structure is one that tcgetattr filled in.
        let _ = unsafe { libc::tcsetattr(self.stdin.as_raw_fd(), libc::TCSANOW, mode) };
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(Saved(mode)) = &self.saved {
            self.set(mode);
        }
    }
}
