//! The process behind an attached interface: an `nm-bridge` between the interface and its port.
//!
//! Invariant: `start` returns success only when the port is there and the bridge runs; otherwise
//! no bridge of it is left and the error is the bridge's own. `stop` ends only an `nm-bridge`, never
//! another program that happens to hold the port. The bridge is in a process group of its own (a
//! Ctrl-C meant for a later command does not reach it) and writes to a log beside the switches,
//! which is removed by `stop` and stays when the bridge ends by itself.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use netmap::control::{self, PortInfo, User};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cli::{BridgeOptions, Target};
use crate::notify::Notify;
use crate::select;

/// The program, by the name under which the kernel knows it too.
const PROGRAM: &str = "nm-bridge";

/// The name of the interface behind an attached port: that of the port, which is short and plain
/// enough for an interface by the grammar of port names.
pub fn interface(name: &Target) -> Result<&str, String> {
    name.port
        .as_deref()
        .ok_or_else(|| format!("{name} is a switch; name the interface too, as in {name}:tap0"))
}

/// Starts the bridge and waits until its port is there.
pub fn start(
    notify: &mut Notify,
    name: &Target,
    options: &BridgeOptions,
    timeout: Duration,
) -> anyhow::Result<u32> {
    let iface = interface(name).map_err(|why| anyhow!(why))?;
    let program = find()?;
    let log = log_path(name);
    let mut child = spawn(notify, &program, &log, name, iface, options)?;
    let pid = child.id();
    let there = notify.until(timeout, || {
        if child.try_wait().context("waiting for the bridge")?.is_some() {
            bail!(failure(&log, name));
        }
        let port = select::port(name)?;
        Ok(port.filter(|port| port.users.iter().any(|user| user.pid == pid)))
    });
    match there {
        Ok(Some(_)) => return Ok(pid),
        Err(error) => {
            end(&mut child)?;
            remove_log(&log)?;
            return Err(error);
        }
        Ok(None) => {}
    }
    end(&mut child)?;
    remove_log(&log)?;
    if notify.signals().stopped() {
        bail!("Interrupted: {name} is not attached");
    }
    bail!(
        "The bridge for {name} was not ready within {}; is the machine very busy? \
         Try again with a longer --timeout",
        humantime::format_duration(timeout)
    )
}

/// Ends the bridge and waits until its port is gone (or, if it is persistent, unused).
pub fn stop(
    notify: &Notify,
    name: &Target,
    port: &PortInfo,
    timeout: Duration,
) -> anyhow::Result<()> {
    let bridges = bridges(name, port)?;
    for user in &bridges {
        terminate(user.pid)?;
    }
    let gone = notify.until(timeout, || {
        let users = select::port(name)?.map_or(Vec::new(), |port| port.users);
        let left = users.iter().any(|user| bridges.iter().any(|old| old.pid == user.pid));
        Ok((!left).then_some(()))
    })?;
    if gone.is_none() {
        let pids: Vec<String> = bridges.iter().map(|user| user.pid.to_string()).collect();
        bail!(
            "The bridge of {name} (process {}) has not ended within {}; end it with kill -KILL \
             if it hangs",
            pids.join(", "),
            humantime::format_duration(timeout)
        );
    }
    remove_log(&log_path(name))
}

/// The bridges among a port's users; an error if there is another user, or none.
pub fn bridges<'a>(name: &Target, port: &'a PortInfo) -> anyhow::Result<Vec<&'a User>> {
    if let Some(user) = port.users.iter().find(|user| user.command != PROGRAM) {
        bail!(
            "{name} is held by {} (process {}), not by a bridge: end that process instead",
            user.command,
            user.pid
        );
    }
    if port.users.is_empty() {
        bail!("{name} is not attached: nobody has it open");
    }
    if !log_path(name).exists() {
        bail!(
            "{name} is held by a bridge (process {}) that `vale-ctl attach` did not start: end that \
             process instead",
            port.users[0].pid
        );
    }
    Ok(port.users.iter().collect())
}

/// Beside this executable, as `cargo build` and packages put it; otherwise in PATH.
fn find() -> anyhow::Result<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(PROGRAM)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|dir| dir.join(PROGRAM));
    beside.into_iter().chain(in_path).find(|file| file.is_file()).ok_or_else(|| {
        anyhow!("{PROGRAM}, which attach runs, is neither beside vale-ctl nor in PATH: install it")
    })
}

fn spawn(
    notify: &mut Notify,
    program: &Path,
    log: &Path,
    name: &Target,
    iface: &str,
    options: &BridgeOptions,
) -> anyhow::Result<Child> {
    notify.wake_on(&[signal_hook::consts::SIGCHLD])?;
    let file = create_log(log)?;
    let mut command = Command::new(program);
    command.arg("-i").arg(name.to_string()).arg("-i").arg(format!("tap:{iface}"));
    if options.busy_poll {
        command.arg("--busy-poll");
    }
    if let Some(cpu) = options.cpu {
        command.arg("--cpu").arg(cpu.to_string());
    }
    // Keeps no directory busy for as long as it runs.
    command.current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    command.process_group(0);
    if std::env::var_os("NETMAP_ROOT").is_some_and(|root| !root.is_empty()) {
        // The directory changes, hence a relative root would mean another one.
        let root = std::path::absolute(control::root()).context("finding the root's path")?;
        command.env("NETMAP_ROOT", root);
    }
    command.spawn().with_context(|| format!("starting {}", program.display()))
}

/// Beside the switches, under a name that cannot be a switch's.
fn log_path(name: &Target) -> PathBuf {
    control::root().join(format!("{PROGRAM}.{name}.log"))
}

/// A fresh file: `create_new` neither follows a link nor writes into somebody else's file that
/// waits under the name in a shared root.
fn create_log(log: &Path) -> anyhow::Result<File> {
    let context = || format!("creating {}", log.display());
    if let Some(root) = log.parent() {
        let mut dir = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut dir, 0o700);
        dir.recursive(true).create(root).with_context(context)?;
    }
    remove_log(log)?;
    File::options().write(true).create_new(true).mode(0o600).open(log).with_context(context)
}

fn remove_log(log: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(log) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", log.display()))
        }
        _ => Ok(()),
    }
}

/// What the bridge itself said, without its name in front.
fn failure(log: &Path, name: &Target) -> String {
    let said = std::fs::read_to_string(log).unwrap_or_default();
    let said = said.trim();
    if said.is_empty() {
        return format!("The bridge for {name} ended at once and said nothing");
    }
    let prefix = format!("{PROGRAM}: error: ");
    format!("attaching {name}: {}", said.strip_prefix(&prefix).unwrap_or(said))
}

/// Ends a bridge that did not come up.
fn end(child: &mut Child) -> anyhow::Result<()> {
    if child.try_wait().context("waiting for the bridge")?.is_none() {
        child.kill().context("ending the bridge")?;
        child.wait().context("waiting for the bridge")?;
    }
    Ok(())
}

fn terminate(pid: u32) -> anyhow::Result<()> {
    let raw = i32::try_from(pid).ok().filter(|&pid| pid > 0);
    let raw = raw.ok_or_else(|| anyhow!("{pid} is not the id of a process"))?;
    match kill(Pid::from_raw(raw), Signal::SIGTERM) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()), // gone by itself is as good
        Err(error) => Err(error).with_context(|| format!("ending the bridge (process {pid})")),
    }
}
