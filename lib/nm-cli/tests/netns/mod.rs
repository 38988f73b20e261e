//! Network namespaces for tests, removed with all that is in them, also after a failure.

#![allow(dead_code, reason = "each test binary uses its part of this file")]

use std::fs::File;
use std::process::{Command, Output};

use nix::sched::{CloneFlags, setns};

/// A network namespace of this test process.
#[derive(Debug)]
pub struct Namespace(pub String);

impl Namespace {
    /// One that is called after its role in a test. `Err`: why there can be none.
    pub fn new(role: &str) -> Result<Namespace, String> {
        if !nix::unistd::Uid::effective().is_root() {
            return Err("network namespaces need root".into());
        }
        if !std::path::Path::new("/dev/net/tun").exists() {
            return Err("there is no /dev/net/tun".into());
        }
        let name = format!("nm{role}{}", std::process::id());
        let added = Command::new("ip").args(["netns", "add", &name]).output();
        let added = added.map_err(|_| "ip is not installed")?;
        if !added.status.success() {
            let why = String::from_utf8_lossy(&added.stderr);
            return Err(format!("no network namespaces can be made here: {}", why.trim()));
        }
        let namespace = Namespace(name);
        namespace.ip("link set lo up");
        Ok(namespace)
    }

    /// `ip` in there.
    pub fn try_ip(&self, line: &str) -> Output {
        let words = line.split_whitespace();
        Command::new("ip").args(["-n", &self.0]).args(words).output().expect("ip runs")
    }

    /// The same, which must succeed; returns what it says.
    pub fn ip(&self, line: &str) -> String {
        let output = self.try_ip(line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip -n {} {line}: {said}", self.0);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `command` in there, with its environment.
    pub fn exec(&self, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.0]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            if let Some(value) = value {
                inside.env(key, value);
            }
        }
        inside
    }

    /// Runs `body` in there, on a thread. Sockets that it makes stay there.
    pub fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.0)).expect("it is there");
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&namespace, CloneFlags::CLONE_NEWNET).expect("root may");
                body()
            });
            thread.join().expect("no panic")
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}
