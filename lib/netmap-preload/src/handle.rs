//! What is behind a netmap descriptor: nothing yet, or a handle on a port.
//!
//! The descriptor is the handle's bell, and the program's: the port here has given it up (`Port::detach`), so that the
//! handle lives exactly as long as copies of the program's descriptor do.
//!
//! Invariant: several threads may sleep on one handle. It is armed for what all of them wait for, and disarmed, its
//! bell cleared, by the last that wakes: a ring that came meanwhile has woken the others, too.

use std::os::fd::{FromRawFd, OwnedFd};

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use netmap::{Error, Interest, Layout, PerDirection, Port};
use nix::errno::Errno;
use smallvec::SmallVec;

use crate::csb::{Csb, State};
use crate::place::identity;
use crate::table::{Kind, Object, Ref};
use crate::{next, process, stack};

/// A netmap descriptor.
#[derive(Debug, Default)]
pub struct Netmap {
    /// Bound by REGISTER, here or where it came from.
    bound: bool,
    /// `None` also if it was lost in a fork: it is taken over again.
    port: Option<Port>,
    /// What the request said about poll(2).
    pub polling: Polling,
    sleepers: SmallVec<[Sleeper; 4]>,
    armed: Interest,
    /// Descriptors that the library had lost when the port was taken over.
    losses: u32,
    generation: u32,
    /// The mode of CSB_ENABLE.
    pub csb: Option<Csb>,
    /// What is behind the program's descriptors.
    id: Option<(u64, u64)>,
}

/// A thread that sleeps, and in which call (`stack::entry`).
#[derive(Clone, Copy, Debug)]
struct Sleeper {
    thread: u32,
    entry: usize,
}

/// What poll(2) does beside looking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Polling {
    /// `NR_NO_TX_POLL`: it does not send, unless it waits for room.
    pub no_tx: bool,
    /// `NR_DO_RX_POLL`: it receives, whatever it waits for.
    pub rx: bool,
}

/// Where rings end: another value means that something was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tails {
    /// Of all bound RX rings.
    pub rx: u64,
    /// Of all bound TX rings.
    pub tx: u64,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looked {
    /// What is ready of what was asked for.
    pub ready: Interest,
    /// netmap's `POLLERR`.
    pub failed: bool,
}

impl Looked {
    const FAILED: Self = Self { ready: Interest::empty(), failed: true };
}

/// The error number of the library's error.
pub fn errno(error: &netmap::Error) -> Errno {
    error.errno()
}

impl Netmap {
    /// Not bound.
    pub fn unbound(fd: i32) -> Self {
        let generation = process::generation();
        Self { generation, id: identity(fd), ..Self::default() }
    }

    /// Bound to a port that has given up its descriptor.
    pub fn of(fd: i32, port: Port, polling: Polling) -> Self {
        let mut new = Self::unbound(fd);
        new.bind(fd, port, polling);
        new
    }

    /// What came from before execve(2): bound, as far as its name tells, and taken over when it is used.
    pub fn inherited(fd: i32) -> Self {
        Self { bound: true, ..Self::unbound(fd) }
    }

    /// Whether it is bound.
    pub fn is_bound(&self) -> bool {
        self.bound
    }

    /// Binds it to a port that has given up its descriptor.
    pub fn bind(&mut self, fd: i32, mut port: Port, polling: Polling) {
        prepare(&mut port, polling);
        (self.id, self.losses) = (identity(fd), netmap::losses());
        (self.bound, self.port, self.polling) = (true, Some(port), polling);
    }

    /// The port, taken over anew if it was lost. `fd` leads here.
    ///
    /// # Errors
    /// `ENXIO`: not bound; or the port cannot be taken over any more.
    #[inline]
    pub fn port(&mut self, fd: i32) -> Result<&mut Port, Errno> {
        if self.port.is_none() || self.losses != netmap::losses() {
            self.take_over(fd)?;
        }
        self.port.as_mut().ok_or(Errno::ENXIO)
    }

    #[cold]
    fn take_over(&mut self, fd: i32) -> Result<(), Errno> {
        if !self.bound {
            return Err(Errno::ENXIO);
        }
        self.port = None;
        let mut port = adopt(fd).map_err(|e| errno(&e))?;
        prepare(&mut port, self.polling);
        self.port = Some(port);
        self.losses = netmap::losses();
        Ok(())
    }

    /// Uses the port; once more if it turns out that the program has closed what the library needs for it.
    #[inline]
    fn with_port<R>(
        &mut self,
        fd: i32,
        mut f: impl FnMut(&mut Port) -> netmap::Result<R>,
    ) -> Result<R, Errno> {
        let done = f(self.port(fd)?);
        let again = done.is_err() && self.losses != netmap::losses();
        let done = if again { f(self.port(fd)?) } else { done };
        done.map_err(|e| errno(&e))
    }

    /// Where its structures lie.
    ///
    /// # Errors
    /// As `port`.
    pub fn layout(&mut self, fd: i32) -> Result<Layout, Errno> {
        self.port(fd)?.layout().ok_or(Errno::ENXIO)
    }

    /// NIOCTXSYNC.
    ///
    /// # Errors
    /// As `port`; `EBUSY` in CSB mode.
    #[inline]
    pub fn txsync(&mut self, fd: i32) -> Result<(), Errno> {
        self.check_mode()?;
        self.with_port(fd, Port::txsync)
    }

    /// NIOCRXSYNC.
    ///
    /// # Errors
    /// As `txsync`.
    #[inline]
    pub fn rxsync(&mut self, fd: i32) -> Result<(), Errno> {
        self.check_mode()?;
        self.with_port(fd, Port::rxsync)
    }

    #[inline]
    fn check_mode(&self) -> Result<(), Errno> {
        if self.csb.is_some() { Err(Errno::EBUSY) } else { Ok(()) }
    }

    /// What poll(2) does: syncs, and looks what is ready.
    pub fn look(&mut self, fd: i32, what: Interest) -> Looked {
        self.looked(fd, what, Port::look)
    }

    /// As `look`, after asking for the bell. `disarm` follows, whatever comes of it.
    pub fn arm(&mut self, fd: i32, what: Interest) -> Looked {
        let (thread, entry) = (process::thread(), stack::entry());
        // Sleeps that this thread has jumped out of.
        self.sleepers.retain(|other| other.thread != thread || !stack::is_left(other.entry));
        self.sleepers.push(Sleeper { thread, entry });
        self.armed |= what;
        let all = self.armed;
        self.looked(fd, what, |port, what| port.arm(all).map(|ready| ready & what))
    }

    fn looked(
        &mut self,
        fd: i32,
        what: Interest,
        look: impl Fn(&mut Port, Interest) -> netmap::Result<Interest>,
    ) -> Looked {
        let rx = self.polling.rx && !what.contains(Interest::RX);
        if self.csb.is_some() {
            return Looked::FAILED;
        }
        let looked = self.with_port(fd, |port| {
            let before = port.reinits();
            if rx {
                port.rxsync()?;
            }
            let ready = look(port, what)?;
            Ok(Looked { ready, failed: port.reinits() != before })
        });
        looked.unwrap_or(Looked::FAILED)
    }

    /// After a sleep.
    pub fn disarm(&mut self) {
        let thread = process::thread();
        if let Some(i) = self.sleepers.iter().rposition(|other| other.thread == thread) {
            self.sleepers.remove(i);
        }
        if self.sleepers.is_empty() {
            self.armed = Interest::empty();
            if let Some(port) = &mut self.port {
                port.disarm();
            }
        }
    }

    /// Where its rings end.
    pub fn tails(&mut self, fd: i32) -> Tails {
        self.port(fd).map_or_else(
            |_| Tails::default(),
            |port| {
                let PerDirection { tx, rx } = port.tails();
                Tails { tx, rx }
            },
        )
    }

    /// Whether a look may find packets.
    pub fn has_news(&self) -> bool {
        self.port.as_ref().is_none_or(Port::has_news)
    }
}

impl Object for Netmap {
    fn kind(&self) -> Kind {
        Kind::Netmap
    }

    fn is_behind(&self, fd: i32) -> bool {
        identity(fd) == self.id
    }

    /// In a child of fork(2), no other thread sleeps here, and what one had in hand is lost.
    fn look_after_forks(&mut self, abandoned: bool) {
        let generation = process::generation();
        if generation != self.generation {
            (self.generation, self.armed) = (generation, Interest::empty());
            self.sleepers.clear();
            if let Some(csb) = &mut self.csb {
                (csb.state, csb.thread) = (State::Idle, 0); // the loop is its parent's
            }
        }
        if abandoned {
            // Half changed: dropping it could follow anything.
            std::mem::forget(self.port.take());
        }
    }
}

impl Ref {
    /// As `with`, for a netmap descriptor.
    #[inline]
    pub fn netmap<R>(&self, f: impl FnOnce(&mut Netmap) -> R) -> Option<R> {
        self.with(f)
    }
}

/// What a program of netmap expects of each port.
fn prepare(port: &mut Port, polling: Polling) {
    port.set_pushes(!polling.no_tx);
    // Where others can fill in slots, or the port is none of a switch, indirect slots are dropped.
    let _ = port.allow_indirect_anywhere();
}

/// Takes over the handle that a descriptor names, which stays the program's.
///
/// # Errors
/// It names none, or must not be used by this user.
pub fn adopt(fd: i32) -> netmap::Result<Port> {
    // SAFETY: a new descriptor.
    let copy = unsafe { next::fcntl(fd, libc::F_DUPFD_CLOEXEC, std::ptr::null_mut()) };
    if copy < 0 {
        return Err(netmap::Error::Io {
            what: "copy",
            path: "the descriptor".into(),
            source: std::io::Error::last_os_error(),
        });
    }
    // SAFETY: it is ours.
    let copy = unsafe { OwnedFd::from_raw_fd(copy) };
    let mut port = Port::from_fd(copy)?;
    drop(port.detach()?);
    Ok(port)
}

/// How a descriptor looks that netmap may be behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// A bell, by its name.
    Bell,
    /// What stands in before a descriptor is bound.
    Unbound,
    /// A pipe that this process must not look at.
    Closed,
}

/// Whether a descriptor looks like one of netmap's. Changes nothing.
pub fn look_at(fd: i32) -> Option<Look> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: valid for writing.
    if unsafe { libc::fstat(fd, stat.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: fstat has written it.
    if unsafe { stat.assume_init() }.st_mode & libc::S_IFMT != libc::S_IFIFO {
        return None;
    }
    let place = match std::fs::read_link(format!("/proc/self/fd/{fd}")) {
        Ok(place) => place,
        // A process that has changed its user must not look at its own descriptors.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => return Some(Look::Closed),
        Err(_) => return None,
    };
    if place.as_os_str().as_bytes().starts_with(b"pipe:") {
        return is_stand_in(fd).then_some(Look::Unbound);
    }
    let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
    let number = name(&place)?.strip_prefix("bell.")?.parse::<u32>().ok();
    let switch = place.parent().and_then(name)?;
    (number.is_some() && switch.starts_with("vale")).then_some(Look::Bell)
}

/// A pipe for writing without a reader.
fn is_stand_in(fd: i32) -> bool {
    // SAFETY: a question about a descriptor.
    let flags = unsafe { next::fcntl(fd, libc::F_GETFL, std::ptr::null_mut()) };
    let mut look = libc::pollfd { fd, events: 0, revents: 0 };
    // SAFETY: one entry.
    let n = unsafe { next::poll(&raw mut look, 1, 0) };
    flags >= 0
        && flags & libc::O_ACCMODE == libc::O_WRONLY
        && n == 1
        && look.revents == libc::POLLERR
}

/// What stands in for a descriptor that is not bound: the end of a pipe that has lost the other one, which poll(2) finds in
/// error as netmap's is, also where this library is not.
///
/// # Errors
/// As of pipe(2).
pub fn stand_in(flags: i32) -> Result<i32, Errno> {
    let mut ends = [-1; 2];
    let flags = flags & (libc::O_CLOEXEC | libc::O_NONBLOCK);
    // SAFETY: two numbers to be written.
    Errno::result(unsafe { libc::pipe2(ends.as_mut_ptr(), flags) })?;
    let [reader, writer] = ends;
    // The program gets the lower number, as of open(2).
    // SAFETY: both are ours.
    let moved = unsafe { next::dup3(writer, reader, flags & libc::O_CLOEXEC) };
    // SAFETY: `reader` is the other end by now.
    unsafe { next::close(writer) };
    Errno::result(moved)
}

/// What netmap is behind a descriptor that is not known: a port, or none yet; `None`: it is nothing of netmap's.
pub fn recognise(fd: i32) -> Option<Result<Option<Port>, Errno>> {
    match look_at(fd)? {
        Look::Unbound => Some(Ok(None)),
        Look::Closed => Some(Err(Errno::EACCES)),
        Look::Bell => match adopt(fd) {
            Ok(port) => Some(Ok(Some(port))),
            Err(Error::Unavailable { .. }) => None,
            Err(e) => Some(Err(errno(&e))),
        },
    }
}
