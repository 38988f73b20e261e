//! The process behind an attached interface: an `nm-bridge` between the interface and its port.
//!
//! Invariant: `start` returns success only once the bridge itself has said that it is ready, which
//! it does with both of its ports open; otherwise no bridge of it is left, and the error is the
//! bridge's own. `stop` ends only what [`running`] knows to be a bridge of that port, and returns
//! when the process is gone, and with it all that it held.
//!
//! The bridge is in a process group of its own (a Ctrl-C meant for a later command does not reach
//! it). Its messages until it is ready go to an anonymous file, which leaves nothing behind. A bridge that fails
//! later reports that to the system's log.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use netmap::name::PipeName;
use netmap::{Capabilities, NameError, PortName, RingSel, control};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nm_cli::signal::Signals;

use crate::cli::{BridgeOptions, Target};

mod running;
use running::Running;
pub use running::{Was, find};

/// The kind of port that a NIC is.
const NIC: &str = "xdp";
/// The program's name.
const PROGRAM: &str = "nm-bridge";
/// Most bytes of a failed bridge's messages that are passed on.
const WORDS: u64 = 4096;

/// The name of the interface behind an attached port: that of the port, which is short and plain
/// enough for an interface by the grammar of port names. The ends of pipes are none that interfaces are joined to.
pub fn interface(name: &Target) -> Result<&str, String> {
    let switch = &name.switch;
    match name.port.as_deref() {
        None => Err(format!("{name} is a switch; name the interface too, as in {switch}:tap0")),
        Some(port) if PipeName::of(port).is_some() => Err(format!(
            "{name} is the end of a pipe, no port of {switch}; name an interface, as in {switch}:tap0"
        )),
        Some(port) => Ok(port),
    }
}

/// The name of the other port of its bridge: a NIC if it is there and no tap, else a tap; in a network namespace perhaps.
pub fn far_end(iface: &str, netns: Option<&str>) -> Result<String, String> {
    // A name that no interface can have is refused below, and a namespace that is not there by the bridge.
    let is_nic = matches!(control::is_tap(iface, netns), Ok(Some(false)));
    let kind = if is_nic { NIC } else { "tap" };
    let netns = netns.map(|name| format!("@netns:{name}")).unwrap_or_default();
    // As a whole: what an interface's name may not hold would be read as something else. No ring is chosen: a dash and a number
    // at the end of a NIC's name are part of it.
    let all = if is_nic { "*" } else { "" };
    let name = format!("{kind}:{iface}{all}{netns}");
    let parsed: PortName = name.parse().map_err(|why: NameError| why.to_string())?;
    if parsed.interface() != Some(iface) {
        return Err(format!("{iface} cannot be the name of an interface"));
    }
    Ok(parsed.to_string())
}

/// The port of the stack that goes on using a NIC, beside that of the NIC.
pub fn host_of(name: &Target) -> Target {
    let port = name.port.as_ref().map(|port| format!("{port}_host"));
    Target { port, ..name.clone() }
}

/// The NIC's host rings, if that other port is a NIC.
pub fn host_rings(far: &str) -> Option<String> {
    let nic = far.parse().ok().filter(|nic: &PortName| nic.can(Capabilities::HOST_RINGS))?;
    Some(PortName { rings: RingSel::Host, ..nic }.to_string())
}

/// Whether a port is that.
fn is_host_rings(far: &str) -> bool {
    far.parse().is_ok_and(|far: PortName| far.is_host_rings())
}

/// The default route that goes through the NIC that that other port takes from the host.
pub fn takes_default_route(far: &str) -> anyhow::Result<Option<control::DefaultRoute>> {
    control::takes_default_route(&far.parse()?).context("looking for the default route")
}

/// A bridge to be started: its port, the other one, and how it is to run.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Port of the switch.
    pub name: &'a Target,
    /// What it is joined to.
    pub far: &'a str,
    /// How.
    pub options: &'a BridgeOptions,
}

/// What ties a bridge to another one, so that either ends when the other does: it reads one pipe, to see whether
/// somebody holds the other end, and holds an end of another pipe.
#[derive(Debug)]
struct Tie(PipeReader, PipeWriter);

impl Tie {
    fn pair() -> std::io::Result<[Self; 2]> {
        let ((one, of_one), (other, of_other)) = (std::io::pipe()?, std::io::pipe()?);
        Ok([Self(one, of_other), Self(other, of_one)])
    }
}

/// Starts the bridge of a port and, beside that of a NIC, the one of its host, and waits until they are ready. Returns the
/// first one's process. Of two, neither is left if the other does not come up or ends.
pub fn start(
    signals: &Signals,
    plan: &Plan<'_>,
    host: Option<&Plan<'_>>,
    timeout: Duration,
) -> anyhow::Result<u32> {
    let Some(host) = host else { return start_one(signals, plan, None, timeout) };
    let [tie, hosts] = Tie::pair().context("creating a pipe")?;
    let pid = start_one(signals, plan, Some(tie), timeout)?;
    if let Err(why) = start_one(signals, host, Some(hosts), timeout) {
        stop(signals, plan.name, timeout)?;
        return Err(why);
    }
    Ok(pid)
}

fn start_one(
    signals: &Signals,
    plan: &Plan<'_>,
    tie: Option<Tie>,
    timeout: Duration,
) -> anyhow::Result<u32> {
    let name = plan.name;
    let mut starting = Starting::new(plan, tie)?;
    let waited = starting.wait(signals, timeout);
    if matches!(waited, Ok(Waited::Ready)) {
        return Ok(starting.child.id());
    }
    starting.end()?;
    match waited? {
        Waited::Interrupted => bail!("Interrupted: {name} is not attached"),
        Waited::TimeOut => bail!(
            "The bridge for {name} was not ready within {}; is the machine very busy? \
             Try again with a longer --timeout",
            humantime::format_duration(timeout)
        ),
        Waited::Ready | Waited::Ended => bail!("attaching {name}: {}", starting.said()),
    }
}

/// What bridges did that were ended.
#[derive(Debug)]
pub struct Ended {
    /// Of the port.
    pub port: Option<Was>,
    /// Of the stack that went on using the port's NIC.
    pub host: Option<Was>,
}

/// Ends the bridges of a port, and those of its NIC's host, if there are any, and waits until they are gone.
pub fn stop(signals: &Signals, name: &Target, timeout: Duration) -> anyhow::Result<Ended> {
    let port = find(name)?;
    let mut host = find(&host_of(name))?;
    // An interface may have that name.
    host.retain(|bridge| is_host_rings(&bridge.was().far));
    // All of them are asked before any of them is missed by another, and before an error about one is reported.
    let all = || port.iter().chain(&host);
    let asked: Vec<_> = all().map(Running::terminate).collect();
    asked.into_iter().collect::<anyhow::Result<()>>()?;
    let deadline = Instant::now() + timeout;
    for bridge in all() {
        if !wait(bridge.fd(), signals, deadline)? {
            bail!(
                "The bridge of {name} (process {}) has not ended within {}; end it with kill -KILL \
                 if it hangs",
                bridge.pid(),
                humantime::format_duration(timeout)
            );
        }
    }
    let was = |bridges: Vec<Running>| bridges.last().map(|bridge| bridge.was().clone());
    Ok(Ended { port: was(port), host: was(host) })
}

/// Waits until `fd` is readable: false if the time is over or a signal asked to stop.
fn wait(fd: BorrowedFd<'_>, signals: &Signals, deadline: Instant) -> anyhow::Result<bool> {
    while !signals.stopped() {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up: rounding down would spin through the last millisecond.
        let ms = left.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32;
        let mut fds =
            [PollFd::new(fd, PollFlags::POLLIN), PollFd::new(signals.fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)) {
            Ok(_) if fds[0].any().unwrap_or(false) => return Ok(true),
            Ok(0) if Instant::now() >= deadline => return Ok(false),
            Ok(_) | Err(nix::errno::Errno::EINTR) => signals.drain(),
            Err(error) => return Err(error).context("waiting for the bridge"),
        }
    }
    Ok(false)
}

/// The outcome of a wait for a new bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    Ready,
    Ended,
    Interrupted,
    TimeOut,
}

/// A bridge that has not said yet that it is ready.
struct Starting {
    child: Child,
    /// Where it says so. At its end if it ended.
    ready: PipeReader,
    /// Its stderr.
    words: File,
}

impl Starting {
    fn new(plan: &Plan<'_>, tie: Option<Tie>) -> anyhow::Result<Starting> {
        let Plan { name, far, options } = plan;
        let program = find_program()?;
        // The bridge's working directory differs, so a relative root would mean another directory there.
        let root = std::path::absolute(control::root()).context("finding the root's path")?;
        let words: File = memfd_create("nm-bridge's words", MFdFlags::MFD_CLOEXEC)
            .context("making room for the bridge's words")?
            .into();
        let (ready, writer) = std::io::pipe().context("creating a pipe")?;
        // The only descriptors besides the standard ones that the bridge is to inherit. No other thread of this
        // process starts a program meanwhile.
        let mut inherited = vec![writer.as_fd()];
        inherited.extend(tie.iter().flat_map(|Tie(seen, held)| [seen.as_fd(), held.as_fd()]));
        for fd in inherited {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).context("creating a pipe")?;
        }
        let mut command = Command::new(&program);
        command.args(running::arguments(name, far)).arg("--attached").arg(&root);
        command.arg("--ready-fd").arg(writer.as_raw_fd().to_string());
        if let Some(Tie(seen, _)) = &tie {
            command.arg("--with").arg(seen.as_raw_fd().to_string());
        }
        if options.busy_poll {
            command.arg("--busy-poll");
        }
        if options.no_offload {
            command.arg("--no-offload");
        }
        if let Some(cpu) = options.cpu {
            command.arg("--cpu").arg(cpu.to_string());
        }
        if std::env::var_os("NETMAP_ROOT").is_some_and(|root| !root.is_empty()) {
            command.env("NETMAP_ROOT", root);
        }
        // Otherwise the bridge would keep the current directory's file system busy while it runs.
        command.current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(words.try_clone().context("making room for the bridge's words")?);
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        Ok(Starting { child, ready, words })
    }

    fn wait(&mut self, signals: &Signals, timeout: Duration) -> anyhow::Result<Waited> {
        if !wait(self.ready.as_fd(), signals, Instant::now() + timeout)? {
            return Ok(if signals.stopped() { Waited::Interrupted } else { Waited::TimeOut });
        }
        // It is a single write of a few bytes, so it arrives as a whole or not at all.
        let count = self.ready.read(&mut [0; 16]).context("reading from the bridge")?;
        Ok(if count > 0 { Waited::Ready } else { Waited::Ended })
    }

    /// Ends a bridge that did not come up.
    fn end(&mut self) -> anyhow::Result<()> {
        // The bridge may be about to exit already, in which case the error does not matter.
        let _ = self.child.kill();
        self.child.wait().context("waiting for the bridge")?;
        Ok(())
    }

    /// The bridge's own message, without its name in front.
    fn said(&mut self) -> String {
        let mut said = Vec::new();
        let read =
            self.words.rewind().and_then(|()| (&self.words).take(WORDS).read_to_end(&mut said));
        let said = String::from_utf8_lossy(&said);
        let said = said.trim();
        if read.is_err() || said.is_empty() {
            return "its bridge ended at once and said nothing".to_owned();
        }
        said.strip_prefix(&format!("{PROGRAM}: error: ")).unwrap_or(said).to_owned()
    }
}

/// Beside this executable, as `cargo build` and packages put it; otherwise in PATH.
fn find_program() -> anyhow::Result<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(PROGRAM)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|dir| dir.join(PROGRAM));
    beside.into_iter().chain(in_path).find(|file: &PathBuf| file.is_file()).ok_or_else(|| {
        anyhow!("{PROGRAM}, which attach runs, is neither beside vale-ctl nor in PATH: install it")
    })
}
