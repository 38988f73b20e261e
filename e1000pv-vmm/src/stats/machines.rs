//! Running machines, known by name: `ROOT/vm/NAME` says where the counters of machine NAME are.
//!
//! The entry is a symbolic link whose text names a descriptor of the machine's process, as
//! `/proc/PID/fd/N pid:[NUMBER]`, the latter the process's PID namespace. It is read, checked and never
//! followed, because in a root that others may write, a link can lead anywhere. An entry of another form is not
//! a machine; an entry whose process is gone is a leftover, which the next look-up removes.
//!
//! Invariant: nothing is removed but links in `ROOT/vm` of machines that this process can tell dead,
//! which it cannot of those in another PID namespace or of another user.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use netmap::control;
use netmap::dir::Dir;

use crate::stats::counters::{Reading, VmCounters};

/// The directory of names.
const DIRECTORY: &str = "vm";
/// Names that one look goes through.
const MOST: usize = 4096;

/// Keeps a machine's counters known by its name.
#[derive(Debug)]
pub struct Published {
    names: Dir,
    name: String,
    target: PathBuf,
}

impl Drop for Published {
    fn drop(&mut self) {
        // Not another machine's, should ours have been removed by hand.
        if self.names.read_link(&self.name).is_ok_and(|target| target == self.target) {
            let _ = self.names.remove(&self.name);
        }
    }
}

/// Makes the counters known as those of `name`, until the returned value is dropped or the process
/// ends.
///
/// # Errors
/// A living machine has that name, or the root cannot be used.
pub fn publish(counters: &VmCounters, name: &str) -> anyhow::Result<Published> {
    let root = control::root_dir(true).context("opening the root directory")?;
    let root = root.expect("it is made if there is none");
    let names = root
        .make_subdir(DIRECTORY)
        .with_context(|| format!("creating {}", root.join(DIRECTORY).display()))?;
    let fd = counters.file().as_raw_fd();
    let target = format!("/proc/{}/fd/{fd} {}", std::process::id(), namespace().display());
    let target = PathBuf::from(target);
    // Two attempts: the first may find a dead machine's entry and remove it, and another process may be faster.
    for _ in 0..2 {
        match names.make_link(&target, name) {
            Ok(()) => return Ok(Published { names, name: name.into(), target }),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e).with_context(|| format!("naming the machine {name}")),
        }
        match look(&names, name) {
            Found::Machine(found) => {
                anyhow::bail!("a machine named {name} runs already (process {})", found.process)
            }
            Found::Elsewhere => anyhow::bail!(
                "a machine named {name} may run in another container or as another user; take \
                 another name, or remove {} if it is a leftover",
                names.join(name).display()
            ),
            // If somebody else has removed it already, the next attempt succeeds.
            Found::Leftover => drop(names.remove(name)),
            Found::Nothing if names.stat_at(name).is_ok() => anyhow::bail!(
                "{} is in the way and no machine's name; remove it, or take another name",
                names.join(name).display()
            ),
            Found::Nothing => {}
        }
    }
    anyhow::bail!("the name {name} is being taken by another machine");
}

/// Finds the counters of the running machine `name`.
///
/// # Errors
/// There is none, or it cannot be looked at.
pub fn find(name: &str) -> anyhow::Result<Reading> {
    match names()?.map_or(Found::Nothing, |names| look(&names, name)) {
        Found::Machine(reading) => Ok(reading),
        Found::Elsewhere => anyhow::bail!(
            "the machine {name} cannot be looked at: it runs in another container or as another user"
        ),
        Found::Leftover | Found::Nothing => {
            anyhow::bail!("no machine named {name} runs, or it is of another version")
        }
    }
}

/// All machines that can be looked at, by name. Removes the names of those that died.
///
/// # Errors
/// The root cannot be used.
pub fn all() -> anyhow::Result<Vec<(String, Reading)>> {
    let Some(names) = names()? else { return Ok(Vec::new()) };
    let mut machines = Vec::new();
    for name in names.names(MOST).context("listing the machines")? {
        let Ok(name) = name.into_string() else { continue };
        match look(&names, &name) {
            Found::Machine(reading) => machines.push((name, reading)),
            Found::Leftover => drop(names.remove(&name)),
            Found::Elsewhere | Found::Nothing => {}
        }
    }
    machines.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(machines)
}

fn names() -> anyhow::Result<Option<Dir>> {
    let Some(root) = control::root_dir(false).context("opening the root directory")? else {
        return Ok(None);
    };
    match root.subdir(DIRECTORY) {
        Ok(names) => Ok(Some(names)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("opening {}", root.join(DIRECTORY).display())),
    }
}

/// What was found under a name.
enum Found {
    /// A machine that runs.
    Machine(Reading),
    /// Perhaps a machine, which this process is not allowed or not able to see.
    Elsewhere,
    /// A link of a machine that died.
    Leftover,
    /// Nothing, or no entry of a machine.
    Nothing,
}

fn look(names: &Dir, name: &str) -> Found {
    let Some((path, home)) = names.read_link(name).ok().as_deref().and_then(parse) else {
        return Found::Nothing;
    };
    // Another user's processes may be hidden, and then look like dead ones.
    let owner = names.stat_at(name).map(|link| link.st_uid);
    let ours = owner.is_ok_and(|owner| owner == nix::unistd::geteuid().as_raw());
    if home != namespace() || !ours {
        return Found::Elsewhere;
    }
    // The text may be forged: what it names is opened only if it is a file in memory, as counters are,
    // and no device or pipe that notices being opened.
    match std::fs::read_link(&path) {
        Ok(file) if file.to_string_lossy().starts_with("/memfd:e1000pv-counters") => {}
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Found::Elsewhere,
        _ => return Found::Leftover,
    }
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = File::options().read(true).custom_flags(flags).open(path);
    match file.ok().and_then(|file| Reading::of(file, name)) {
        Some(reading) => Found::Machine(reading),
        None => Found::Leftover,
    }
}

/// The descriptor and the PID namespace in a link's text.
fn parse(target: &Path) -> Option<(PathBuf, PathBuf)> {
    let (path, home) = target.to_str()?.split_once(' ')?;
    let numbers = path.strip_prefix("/proc/")?.split_once("/fd/")?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (is_number(numbers.0) && is_number(numbers.1)).then(|| (path.into(), home.into()))
}

/// The PID namespace of this process.
fn namespace() -> PathBuf {
    std::fs::read_link("/proc/self/ns/pid").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> (tempfile::TempDir, Dir) {
        let temp = tempfile::tempdir().expect("a directory");
        let dir = Dir::open(temp.path(), false).expect("it was just made");
        (temp, dir)
    }

    fn link(names: &Dir, pid: u32, fd: i32, home: &Path, name: &str) {
        let target = format!("/proc/{pid}/fd/{fd} {}", home.display());
        names.make_link(Path::new(&target), name).expect("a link");
    }

    #[test]
    fn link_is_read_and_never_followed() {
        let (temp, names) = names();
        std::fs::write(temp.path().join("secret"), "x").expect("a file");
        let me = std::process::id();
        for target in [
            "secret".to_owned(),
            "/etc/passwd".to_owned(),
            format!("/proc/{me}/fd/../../1/root"),
            format!("/proc/{me}/fd/0/../1"),
            format!("/proc/self/fd/0 {}", namespace().display()),
            format!("/proc/{me}/fd/0"),
        ] {
            names.make_link(Path::new(&target), "m").expect("a link");
            assert!(matches!(look(&names, "m"), Found::Nothing), "{target}");
            names.remove("m").expect("it is there");
        }
    }

    #[test]
    fn machine_is_found_by_its_own_name_alone() {
        let (_temp, names) = names();
        let counters = VmCounters::new("one", 1, 1).expect("memory");
        let fd = counters.file().as_raw_fd();
        link(&names, std::process::id(), fd, &namespace(), "one");
        link(&names, std::process::id(), fd, &namespace(), "two");
        assert!(matches!(look(&names, "one"), Found::Machine(_)));
        assert!(matches!(look(&names, "two"), Found::Leftover));
    }

    #[test]
    fn what_is_no_file_in_memory_is_not_opened() {
        let (_temp, names) = names();
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        link(&names, std::process::id(), reader.as_raw_fd(), &namespace(), "m");
        assert!(matches!(look(&names, "m"), Found::Leftover));
    }

    #[test]
    fn machine_in_another_namespace_is_left_alone() {
        let (_temp, names) = names();
        link(&names, u32::MAX, 5, Path::new("pid:[1]"), "far");
        link(&names, u32::MAX, 5, &namespace(), "dead");
        std::fs::write(names.path().join("file"), "a user's").expect("a file");
        assert!(matches!(look(&names, "file"), Found::Nothing));
        assert!(matches!(look(&names, "far"), Found::Elsewhere));
        assert!(matches!(look(&names, "dead"), Found::Leftover));
    }
}
