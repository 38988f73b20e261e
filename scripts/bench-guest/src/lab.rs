//! Where measurements happen: programs, a root directory for switches that nobody else sees, CPUs, and
//! (for taps) a network namespace.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::netns::Namespace;

/// Where the switches are, in the lab's directory: a directory with other things in it becomes no root.
const SWITCHES: &str = "switches";

/// What all measurements share.
#[derive(Debug)]
pub struct Lab {
    root: TempDir,
    programs: PathBuf,
    pin: bool,
    /// kvm, thread.
    pub accel: &'static str,
    namespace: Option<Namespace>,
}

impl Lab {
    /// Sets it up. `programs` is the directory with the release binaries. Call before threads start.
    #[allow(unsafe_code, reason = "the environment is set while there is one thread")]
    pub fn new(programs: &Path, pin: bool, accel: &'static str) -> Result<Lab> {
        let root = tempfile::Builder::new()
            .prefix("netmap-bench.")
            .tempdir_in("/dev/shm")
            .context("making a root directory in /dev/shm")?;
        // SAFETY: no other thread runs yet, as the caller promises.
        unsafe { std::env::set_var("NETMAP_ROOT", root.path().join(SWITCHES)) };
        let programs =
            programs.canonicalize().with_context(|| format!("{}", programs.display()))?;
        Ok(Lab { root, programs, pin, accel, namespace: None })
    }

    /// A directory for sockets and the like; removed at the end.
    pub fn directory(&self) -> &Path {
        self.root.path()
    }

    /// A command for one of this project's programs.
    pub fn program(&self, name: &str) -> Result<Command> {
        let path = self.programs.join(name);
        if !path.exists() {
            bail!("{} is not there: run this by scripts/bench, which builds it", path.display());
        }
        Ok(Command::new(path))
    }

    /// The CPUs of party number `i`: each party has one, in turn. Empty: the scheduler chooses.
    pub fn cpus(&self, i: usize) -> Vec<usize> {
        if self.pin { vec![i % nm_cli::machine::cpus()] } else { Vec::new() }
    }

    /// The namespace with bridges brA and brB and the taps on them, made when it is first asked for.
    pub fn namespace(&mut self) -> Result<&Namespace> {
        if self.namespace.is_none() {
            let namespace = Namespace::new()?;
            for side in ['A', 'B'] {
                let bridge = format!("br{side}");
                namespace.bridge(&bridge)?;
                for name in ["tx", "rx", "fwd", "gen"] {
                    namespace.tap(&format!("{name}{side}"), &bridge)?;
                }
            }
            self.namespace = Some(namespace);
        }
        self.namespace.as_ref().context("it was just made")
    }

    /// The namespace, if there is one already.
    pub fn made_namespace(&self) -> Option<&Namespace> {
        self.namespace.as_ref()
    }
}
