//! Child processes that never outlive the measurement.
//!
//! Invariant: every child is killed and reaped by the handle that started it, however the handle is
//! dropped: at the end, on an error, on Ctrl-C (waiting ends with an error then, and the handles drop). A
//! runner that is itself killed takes its children along by PR_SET_PDEATHSIG.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nm_cli::signal::Signals;

/// Longest delay until a wait for a child notices a Ctrl-C.
const LOOK: Duration = Duration::from_millis(100);
/// Lines of a failed child's stderr that are worth repeating.
const LAST_LINES: usize = 6;

static SIGNALS: OnceLock<Signals> = OnceLock::new();

/// Installs the signal handlers; once, before threads start.
pub fn handle_signals() -> Result<()> {
    SIGNALS.set(Signals::install()?).map_err(|_| anyhow!("signal handlers are installed already"))
}

/// Fails once a signal has asked to stop.
pub fn go_on() -> Result<()> {
    if SIGNALS.get().is_some_and(Signals::stopped) {
        bail!("interrupted");
    }
    Ok(())
}

/// Lets time pass, unless a signal arrives.
pub fn pass(time: Duration) -> Result<()> {
    match SIGNALS.get() {
        Some(signals) => {
            let end = Instant::now() + time;
            while let Some(rest) = end.checked_duration_since(Instant::now()) {
                signals.wait(rest);
                go_on()?;
            }
        }
        None => std::thread::sleep(time),
    }
    Ok(())
}

/// Polls until there is something, up to `limit`. For states that cause no event:
/// a port or a ring in another process's shared memory.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > end {
            bail!("{what}: not within {} s", limit.as_secs_f64());
        }
        pass(Duration::from_millis(2))?;
    }
}

/// A running child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    lines: Receiver<String>,
    errors: Option<JoinHandle<String>>,
    ended: bool,
}

/// The exit status and the output of a child.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// Its stdout that nobody had read.
    pub lines: Vec<String>,
    /// Its stderr.
    pub errors: String,
}

impl Ended {
    /// Itself if `fine`, else an error with the child's last words.
    pub fn expect(self, name: &str, fine: impl Fn(ExitStatus) -> bool) -> Result<Ended> {
        if fine(self.status) {
            return Ok(self);
        }
        let said: Vec<&str> =
            self.errors.lines().chain(self.lines.iter().map(String::as_str)).collect();
        let last = said[said.len().saturating_sub(LAST_LINES)..].join("\n  ");
        bail!("{name} ended with {}\n  {last}", self.status);
    }
}

impl Process {
    /// Starts `command`, on the given CPUs only if there are any, with stdout and stderr piped.
    #[allow(unsafe_code, reason = "a child dies with its parent, which is said after the fork")]
    pub fn start(name: &str, mut command: Command, cpus: &[usize]) -> Result<Process> {
        go_on()?;
        let set = (!cpus.is_empty()).then(|| cpu_set(cpus)).transpose()?;
        let parent = Pid::this();
        // SAFETY: between fork and exec the closure makes system calls only: it allocates nothing and
        // takes no lock.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                if Pid::parent() != parent {
                    // The parent died in between, so the signal will never come.
                    return Err(std::io::ErrorKind::BrokenPipe.into());
                }
                if let Some(set) = &set {
                    sched_setaffinity(Pid::from_raw(0), set)?;
                }
                Ok(())
            })
        };
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {name} ({})", command.get_program().display()))?;
        let (sender, lines) = channel();
        let out = BufReader::new(child.stdout.take().context("stdout was piped")?);
        std::thread::spawn(move || {
            for line in out.split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                    return;
                }
            }
        });
        let mut err = child.stderr.take().context("stderr was piped")?;
        let errors = std::thread::spawn(move || {
            let mut all = Vec::new();
            // What was read before an error is all there is to show.
            let _ = err.read_to_end(&mut all);
            String::from_utf8_lossy(&all).into_owned()
        });
        Ok(Process { name: name.into(), child, lines, errors: Some(errors), ended: false })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it said on stderr, once it has ended.
    pub fn last_words(&mut self) -> String {
        let words =
            self.errors.take().map(JoinHandle::join).and_then(Result::ok).unwrap_or_default();
        words.trim().to_owned()
    }

    /// True until it has ended.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // Not reaped yet, so the id is its own.
        let pid = Pid::from_raw(i32::try_from(self.child.id()).context("a process id")?);
        kill(pid, signal).with_context(|| format!("signalling {}", self.name))
    }

    /// The next line of stdout; `None` when there will be none.
    fn next_line(&self, end: Instant) -> Result<Option<String>> {
        loop {
            go_on()?;
            match self.lines.recv_timeout(LOOK) {
                Ok(line) => return Ok(Some(line)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if Instant::now() > end => {
                    bail!("{} did not end in time", self.name);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Waits for its end.
    pub fn finish(mut self, limit: Duration) -> Result<Ended> {
        let end = Instant::now() + limit;
        let mut lines = Vec::new();
        let outcome = loop {
            match self.next_line(end) {
                Ok(Some(line)) => lines.push(line),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if outcome.is_err() {
            // A child that hangs says the most about why.
            let _ = self.child.kill();
        }
        let status = self.child.wait().with_context(|| format!("waiting for {}", self.name))?;
        self.ended = true;
        let errors = self.last_words();
        match outcome {
            Ok(()) => Ok(Ended { status, lines, errors }),
            Err(error) if errors.is_empty() => Err(error),
            Err(error) => Err(error.context(errors)),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended {
            // Gone already is as good.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn cpu_set(cpus: &[usize]) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu).with_context(|| format!("CPU {cpu}"))?;
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start("sh", command, &[]).expect("sh starts")
    }

    #[test]
    fn process_that_ends_hands_over_what_it_said() {
        let ended = shell("echo one; echo two; echo three >&2; exit 3")
            .finish(Duration::from_secs(30))
            .expect("it ends");
        assert_eq!(ended.lines, ["one", "two"]);
        assert_eq!(ended.status.code(), Some(3));
        let error = ended.expect("sh", |status| status.success()).expect_err("3 is a failure");
        assert!(error.to_string().contains("three"), "{error}");
    }

    #[test]
    fn process_dropped_is_dead_and_reaped() {
        let process = shell("echo ready; exec sleep 1000");
        let pid = Pid::from_raw(process.id().cast_signed());
        drop(process);
        assert_eq!(kill(pid, None), Err(nix::errno::Errno::ESRCH));
    }

    #[test]
    fn process_that_hangs_is_an_error_and_dead() {
        let process = shell("echo because >&2; exec sleep 1000");
        let pid = Pid::from_raw(process.id().cast_signed());
        let error = process.finish(Duration::from_millis(50)).expect_err("it hangs");
        assert!(format!("{error:#}").contains("in time"), "{error:#}");
        assert_eq!(kill(pid, None), Err(nix::errno::Errno::ESRCH));
    }

    #[test]
    fn process_starts_on_the_cpus_it_is_told() {
        let mut command = Command::new("sh");
        command.args(["-c", "grep Cpus_allowed_list /proc/self/status"]);
        let ended =
            Process::start("sh", command, &[0]).and_then(|p| p.finish(Duration::from_secs(30)));
        assert_eq!(ended.expect("it ends").lines[0].split_whitespace().last(), Some("0"));
    }
}
