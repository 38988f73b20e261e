//! Network namespaces, removed when they are dropped with all that is in them.

use std::fs::File;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

/// Addresses of the two ends.
pub const ADDRESS: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

/// A network namespace.
#[derive(Debug)]
pub struct Namespace(pub String);

impl Namespace {
    /// A new one, for this role.
    pub fn new(role: &str) -> Result<Namespace> {
        let name = format!("nmbench{role}{}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Namespace(name);
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// `ip` in there.
    pub fn ip(&self, line: &str) -> Result<()> {
        run(Command::new("ip").args(["-n", &self.0]).args(line.split_whitespace())).map(drop)
    }

    /// Gives an interface an address, and sets it up.
    pub fn address(&self, which: usize, device: &str) -> Result<()> {
        self.ip(&format!("addr add {}/24 dev {device}", ADDRESS[which]))?;
        self.ip(&format!("link set {device} up"))
    }

    /// A program in there.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).args(line.split_whitespace());
        command
    }

    /// What a program in there prints.
    pub fn output(&self, line: &str) -> Result<String> {
        run(&mut self.command(line))
    }

    /// Runs `body` in there on a thread, where sockets that it makes stay.
    pub fn inside<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = File::open(format!("/run/netns/{}", self.0))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&namespace, CloneFlags::CLONE_NEWNET)?;
                body()
            });
            thread.join().expect("the thread does not panic")
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
