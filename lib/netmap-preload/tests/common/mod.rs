//! What the tests share: the library and the project's tools, built as the tests were; C programs, compiled
//! when a test wants one; processes with a root of their own in which the library is preloaded.
//!
//! Invariant: a test touches no switch but those below its own root, and no process that it started outlives it.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

#[path = "../../../nm-cli/tests/build/mod.rs"]
mod build;
#[path = "../../../nm-cli/tests/skip/mod.rs"]
pub mod skipping;
#[allow(unused_imports, reason = "not every test binary skips")]
pub use skipping::skip;

/// Longest that anything may take before it counts as never happening.
pub const TIMEOUT: Duration = Duration::from_secs(120);

/// The crate.
pub fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The directory that cargo builds into.
fn target() -> PathBuf {
    let test = std::env::current_exe().expect("the test binary");
    // DIR/deps/test
    test.parent().and_then(Path::parent).expect("a target directory").to_owned()
}

/// The directory of the library and the tools, which are built first.
pub fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        build::programs(&["netmap-preload", "nm-pktgen", "nm-bridge", "vale-ctl"]);
        let dir = target();
        assert!(dir.join("libnetmap_preload.so").is_file(), "no library in {}", dir.display());
        dir
    })
}

/// The library to preload.
pub fn shim() -> PathBuf {
    built().join("libnetmap_preload.so")
}

/// The C compiler, if there is one.
pub fn has_cc() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        Command::new("cc").arg("--version").output().is_ok_and(|o| o.status.success())
    })
}

/// `tests/c/NAME.c`, compiled with these flags into a file of that name; once a test run.
pub fn compile(name: &str, output: &str, flags: &[&str]) -> PathBuf {
    static COMPILED: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);
    let mut compiled = COMPILED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let compiled = compiled.get_or_insert_default();
    if let Some(path) = compiled.get(output) {
        return path.clone();
    }
    let dir = target().join("netmap-preload-c");
    std::fs::create_dir_all(&dir).expect("a directory");
    let (path, new) = (dir.join(output), dir.join(format!("{output}.{}", std::process::id())));
    let mut cc = Command::new("cc");
    cc.args(flags)
        .args(["-Wall", "-Wextra", "-Werror", "-pthread", "-I"])
        .arg(here().join("include"));
    cc.arg(here().join(format!("tests/c/{name}.c"))).arg("-o").arg(&new);
    let out = cc.output().expect("cc");
    assert!(out.status.success(), "{name}.c: {}", String::from_utf8_lossy(&out.stderr));
    // Others may be running what was there before.
    std::fs::rename(&new, &path).expect("renamed");
    compiled.insert(output.to_owned(), path.clone());
    path
}

/// A client, as `tests/c/client.h` describes them.
pub fn client(name: &str) -> PathBuf {
    // With fortified calls, by which open is __open_2 and poll is __poll_chk where lengths are known.
    compile(name, name, &["-std=gnu11", "-g", "-O2", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"])
}

/// A root of the test's own: private to its user, as indirect data wants it.
pub struct Root {
    root: tempfile::TempDir,
    dir: tempfile::TempDir,
}

impl Root {
    pub fn new() -> Root {
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        let root = tempfile::Builder::new().permissions(private).tempdir_in("/dev/shm");
        Root {
            root: root.expect("a directory in /dev/shm"),
            dir: tempfile::tempdir().expect("a directory"),
        }
    }

    /// The root of the switches.
    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// A directory for other files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A program with this root, and without the library.
    pub fn plain(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("NETMAP_ROOT", self.path())
            .env("CLIENT_DIR", self.dir())
            .env_remove("LD_PRELOAD")
            .stdin(Stdio::null());
        command
    }

    /// A program with this root and the library.
    pub fn preloaded(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.plain(program);
        command.env("LD_PRELOAD", shim());
        command
    }

    /// One of the project's tools.
    pub fn tool(&self, name: &str) -> Command {
        self.plain(built().join(name))
    }

    /// A C client in a case and a generation.
    pub fn client(&self, program: &str, case: &str, generation: &str) -> Command {
        let mut command = self.preloaded(client(program));
        command.args([case, generation]);
        command
    }
}

/// A process that runs until it ends or the test does; its outputs are read as they come.
pub struct Running {
    child: Child,
    name: String,
    out: Option<std::thread::JoinHandle<String>>,
    err: Option<std::thread::JoinHandle<String>>,
    first_line: Arc<Mutex<Option<String>>>,
}

impl Running {
    /// Ends it and all that it has started, which would hold its outputs open.
    fn kill(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.child.wait();
    }

    pub fn start(command: &mut Command) -> Running {
        let name = format!("{command:?}");
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn();
        let mut child = child.expect("a program that starts");
        let (out, mut err) =
            (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let first_line = Arc::new(Mutex::new(None));
        let first = first_line.clone();
        let out = std::thread::spawn(move || {
            let mut text = String::new();
            let mut lines = BufReader::new(out);
            while lines.read_line(&mut text).is_ok_and(|bytes| bytes > 0) {
                first.lock().expect("no panic").get_or_insert_with(|| text.trim_end().to_owned());
            }
            text
        });
        let err = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = err.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Running { child, name, out: Some(out), err: Some(err), first_line }
    }

    /// Waits for its first line.
    pub fn first_line(&mut self) -> String {
        let end = Instant::now() + TIMEOUT;
        loop {
            if let Some(line) = self.first_line.lock().expect("no panic").clone() {
                return line;
            }
            let ended = self.child.try_wait().expect("a child").is_some();
            if ended || Instant::now() > end {
                self.kill();
                let said = self.err.take().map(|err| err.join().expect("text"));
                panic!("{} said nothing: {}", self.name, said.unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(2)); // a line in a thread is no event of ours
        }
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).expect("signalled");
    }

    /// Waits for its end.
    pub fn end(mut self) -> Output {
        use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
        let end = Instant::now() + TIMEOUT;
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let status = loop {
            if waitid(Id::Pid(pid), flags).expect("a child") != WaitStatus::StillAlive {
                // Its children end with it; else they would keep its outputs open. It is still there to be looked at, so
                // that nobody else has its number yet.
                let _ = nix::sys::signal::killpg(pid, nix::sys::signal::Signal::SIGKILL);
                break self.child.wait().expect("a child");
            }
            if Instant::now() > end {
                self.kill();
                let said = self.err.take().map(|err| err.join().expect("text"));
                panic!("{} does not end: {}", self.name, said.unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(2)); // waitpid has no timeout
        };
        Output {
            status,
            stdout: self.out.take().expect("once").join().expect("text").into_bytes(),
            stderr: self.err.take().expect("once").join().expect("text").into_bytes(),
        }
    }

    /// Waits for its end, which must be a success; what it printed.
    pub fn success(self) -> String {
        let name = self.name.clone();
        let out = self.end();
        let (stdout, stderr) =
            (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "{name}: {}\n{stdout}{stderr}", out.status);
        stdout.into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended in the good case.
        self.kill();
    }
}

/// Runs a client in a root of its own; in it, `vary` may change how.
pub fn run_client(program: &str, case: &str, generation: &str, vary: &dyn Fn(&mut Command)) {
    let name = format!("{program}_{case}_{generation}");
    if !has_cc() {
        return skip(&name, "there is no C compiler (cc)");
    }
    let root = Root::new();
    let mut command = root.client(program, case, generation);
    vary(&mut command);
    let out = Running::start(&mut command).success();
    for line in out.lines() {
        if let Some(why) = line.strip_prefix("SKIP: ") {
            skip(&name, why);
        }
    }
    // Whatever it did, nothing is left in its root but what the root itself consists of.
    let list = Running::start(root.tool("vale-ctl").args(["list", "--json"])).success();
    assert!(!list.contains("\"index\""), "{name} left ports behind: {list}");
}
