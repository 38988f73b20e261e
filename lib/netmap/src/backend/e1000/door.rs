//! What wakes who sleeps for a device: its interrupts by uio_pci_generic or VFIO, or a clock.
//!
//! Invariant: the line is masked unless somebody is about to sleep. The kernel masks it (COMMAND bit 10) when an interrupt
//! comes, `ask` unmasks it, so a program that is busy is never interrupted.
//!
//! Follows the kernel's `Documentation/driver-api/uio-howto.rst` and `include/uapi/linux/vfio.h`.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::sys::timer::TimerSetTimeFlags;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags};

use super::command::{Command, NO_INTX};

/// Longest sleep where nothing tells of packets: a ring of 1024 fills in that time at two million packets a second.
const NAP: Duration = Duration::from_micros(500);

/// A door.
#[derive(Debug)]
pub enum Door {
    /// Interrupts.
    Uio {
        /// /dev/uioN, which does not block.
        events: File,
        /// Where the line is masked.
        command: Command,
        /// What that is while the line is open, once it was: reading it costs exits.
        open: Option<u16>,
        /// The line is open.
        asked: bool,
    },
    /// Interrupts by VFIO, masked when one has come.
    Vfio {
        /// What tells of them, and unmasks them.
        line: Line,
        /// They are not masked.
        asked: bool,
    },
    /// None: the time.
    Clock(TimerFd),
}

/// The two ends of an interrupt of VFIO.
#[derive(Debug)]
pub struct Line {
    /// Counts what comes.
    pub events: EventFd,
    /// Unmasks when it is written to, which takes no ioctl: threads in a sandbox have none.
    pub unmask: EventFd,
}

/// An eventfd that does not block.
///
/// # Errors
/// As eventfd(2).
pub fn eventfd() -> nix::Result<EventFd> {
    EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
}

impl Line {
    /// Ends that nothing is at.
    ///
    /// # Errors
    /// As eventfd(2).
    pub fn new() -> io::Result<Self> {
        Ok(Self { events: eventfd()?, unmask: eventfd()? })
    }
}

impl Door {
    /// By interrupts; the line is masked now.
    ///
    /// # Errors
    /// As pread(2) and pwrite(2).
    pub fn uio(events: File, command: Command) -> io::Result<Self> {
        command.change(NO_INTX, 0)?;
        Ok(Self::Uio { events, command, open: None, asked: false })
    }

    /// By interrupts of VFIO, which are masked.
    pub fn vfio(line: Line) -> Self {
        Self::Vfio { line, asked: false }
    }

    /// By a clock.
    ///
    /// # Errors
    /// As timerfd_create(2).
    pub fn clock() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        Ok(Self::Clock(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?))
    }

    /// Whether it tells of interrupts.
    pub fn tells(&self) -> bool {
        matches!(self, Self::Uio { .. } | Self::Vfio { .. })
    }

    /// Becomes readable when there may be something.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Uio { events, .. } => events.as_fd(),
            Self::Vfio { line, .. } => line.events.as_fd(),
            Self::Clock(timer) => timer.as_fd(),
        }
    }

    /// Whether it has been asked, and has not rung.
    pub fn is_asked(&self) -> bool {
        matches!(self, Self::Uio { asked: true, .. } | Self::Vfio { asked: true, .. })
    }

    /// Before a sleep. What fails here costs a late wake-up: no sleep lasts longer than `WaitSet::LONGEST_SLEEP`.
    pub fn ask(&mut self) {
        match self {
            Self::Uio { asked: true, .. } | Self::Vfio { asked: true, .. } => {}
            Self::Vfio { line, asked } => *asked = line.unmask.write(1).is_ok(),
            Self::Uio { command, open, asked, .. } => {
                let known = open.or_else(|| command.read().ok().map(|word| word & !NO_INTX));
                *asked = known.is_some_and(|word| command.write(word).is_ok());
                *open = known;
            }
            Self::Clock(timer) => {
                let nap = Expiration::OneShot(TimeSpec::from(NAP));
                let _ = timer.set(nap, TimerSetTimeFlags::empty());
            }
        }
    }

    /// Whether an interrupt has come since it was asked, which is forgotten by this.
    pub fn rang(&mut self) -> bool {
        let (asked, rang) = match self {
            Self::Uio { events, asked, .. } => {
                let mut count = [0; 4];
                let rang = *asked && events.read(&mut count).is_ok_and(|n| n > 0);
                (asked, rang)
            }
            Self::Vfio { line, asked } => {
                let rang = *asked && line.events.read().is_ok();
                (asked, rang)
            }
            Self::Clock(_) => return false,
        };
        *asked &= !rang;
        rang
    }
}
