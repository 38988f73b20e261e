//! The guest's serial port from the user's side: pipes, files, and a terminal, with real processes at both ends.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

mod support;
use support::{Asm, kvm, root, vmm};

/// Far beyond anything that works.
const TIMEOUT: &str = "30s";
const TIMEOUT_S: Duration = Duration::from_secs(30);

macro_rules! need_kvm {
    ($name:literal) => {
        if !kvm($name) {
            return;
        }
    };
}

/// A guest that sends back what comes, up to a `q`.
fn echo() -> tempfile::NamedTempFile {
    Asm::new().print("ready\n").echo().exit(0).kernel()
}

fn machine(root: &Path, kernel: &tempfile::NamedTempFile, more: &[&str]) -> Command {
    let path = kernel.path().to_str().expect("text");
    let args = ["--kernel", path, "--netdev", "null:", "--timeout", TIMEOUT, "-q"];
    vmm(root, &[&args, more].concat())
}

/// Text of so many bytes and a line's end, none of which is the last of the guest's letters.
fn text(bytes: u32) -> Vec<u8> {
    (0..bytes).map(|i| b'A' + (i % 26) as u8).chain(*b"\nq").collect()
}

#[test]
fn what_comes_by_a_pipe_arrives_whole_and_its_end_ends_nothing() {
    need_kvm!("what_comes_by_a_pipe_arrives_whole_and_its_end_ends_nothing");
    let (root, kernel) = (root(), Asm::new().echo().print("end\n").exit(0).kernel());
    let mut command = machine(root.path(), &kernel, &[]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    let text = text(3000);
    child.stdin.take().expect("piped").write_all(&text).expect("it reads");
    let mut seen = Vec::new();
    child.stdout.take().expect("piped").read_to_end(&mut seen).expect("bytes");
    assert_eq!(child.wait().expect("our child").code(), Some(0));
    let expected = [&text[..], b"end\n"].concat();
    assert!(seen == expected, "{} of {} bytes", seen.len(), expected.len());
}

#[test]
fn file_is_read_no_further_than_the_guest_takes_it() {
    need_kvm!("file_is_read_no_further_than_the_guest_takes_it");
    for records in [&[][..], &["--json"]] {
        let (root, kernel) = (root(), echo());
        let mut file = tempfile::tempfile().expect("a file");
        let own = text(100);
        file.write_all(&own).and_then(|()| file.write_all(&[b'r'; 10_000])).expect("room");
        file.rewind().expect("a file");
        let mut command = machine(root.path(), &kernel, records);
        let got = command.stdin(file.try_clone().expect("a descriptor")).output().expect("starts");
        assert_eq!(got.status.code(), Some(0), "{records:?}");
        let printed = if records.is_empty() { got.stdout } else { got.stderr };
        assert!(printed == [b"ready\n", &own[..]].concat(), "{records:?}");
        let read = file.stream_position().expect("a file");
        // What lies in the port when the guest has read its last byte.
        assert!((own.len() as u64..=own.len() as u64 + 64).contains(&read), "{records:?}: {read}");
    }
}

#[test]
fn machine_whose_output_nobody_reads_ends_by_a_signal() {
    need_kvm!("machine_whose_output_nobody_reads_ends_by_a_signal");
    // The jump back is over the 5 + 4 + 5 + 5 + 8 bytes of `print("abc")`.
    let (root, kernel) = (root(), Asm::new().print("ab\n").jump_back(27).kernel());
    let mut command = machine(root.path(), &kernel, &[]);
    let mut child = command.stdout(Stdio::piped()).stdin(Stdio::piped()).spawn().expect("starts");
    let stdout = child.stdout.take().expect("piped");
    // Until the pipe is full, and the guest held up: what is in there does not grow any more.
    let held = || {
        let mut bytes = 0;
        // SAFETY: an open descriptor, and room for the answer.
        assert_eq!(unsafe { libc::ioctl(stdout.as_raw_fd(), libc::FIONREAD, &raw mut bytes) }, 0);
        bytes
    };
    let end = Instant::now() + TIMEOUT_S;
    while held() < 60_000 {
        assert!(Instant::now() < end, "it does not print");
        std::thread::yield_now();
    }
    child.stdin.as_mut().expect("piped").write_all(b"typed").expect("a pipe has room");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).expect("our child");
    assert_eq!(child.wait().expect("our child").code(), Some(0));
}

/// A terminal, and a machine on it. Killed when dropped.
struct Session {
    keys: File,
    theirs: OwnedFd,
    screen: BufReader<File>,
    child: Child,
    before: Mode,
}

type Mode = (u32, u32, u32, u32, [u8; 32]);

/// Both ends of a terminal.
fn terminal() -> (File, OwnedFd) {
    let (mut ours, mut theirs) = (0, 0);
    let none = std::ptr::null_mut();
    // SAFETY: two places for descriptors, and nothing else asked for.
    let made = unsafe { libc::openpty(&mut ours, &mut theirs, none, none.cast(), none.cast()) };
    assert_eq!(made, 0);
    for fd in [ours, theirs] {
        // SAFETY: an open descriptor. What runs in other tests does not inherit it.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    // SAFETY: just opened, and nobody else's.
    let ours = unsafe { File::from_raw_fd(ours) };
    // SAFETY: as above.
    (ours, unsafe { OwnedFd::from_raw_fd(theirs) })
}

fn mode(of: &OwnedFd) -> Mode {
    // SAFETY: plain numbers.
    let mut mode: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: an open descriptor, and room for what is written.
    assert_eq!(unsafe { libc::tcgetattr(of.as_raw_fd(), &mut mode) }, 0);
    (mode.c_iflag, mode.c_oflag, mode.c_cflag, mode.c_lflag, mode.c_cc)
}

impl Session {
    /// Runs a command, all of whose descriptors are the terminal unless they are set already.
    fn of(mut command: Command, stdout: Option<Stdio>) -> Session {
        let (ours, theirs) = terminal();
        let before = mode(&theirs);
        let copy = || Stdio::from(theirs.try_clone().expect("a descriptor"));
        command.stdin(copy()).stdout(stdout.unwrap_or_else(copy)).stderr(copy());
        // A group of its own, which its parent could continue: the kernel stops no other.
        let child = command.process_group(0).spawn().expect("starts");
        let keys = ours.try_clone().expect("a descriptor");
        Session { keys, theirs, screen: BufReader::new(ours), child, before }
    }

    fn start(root: &Path, kernel: &tempfile::NamedTempFile, more: &[&str]) -> Session {
        Session::of(machine(root, kernel, more), None)
    }

    /// Reads until this has been printed.
    fn until(&mut self, what: &[u8]) -> Vec<u8> {
        let mut seen = Vec::new();
        while !seen.ends_with(what) {
            let mut byte = [0];
            self.screen.read_exact(&mut byte).unwrap_or_else(|why| {
                panic!("{why} after {:?}", String::from_utf8_lossy(&seen));
            });
            seen.push(byte[0]);
        }
        seen
    }

    fn types(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).expect("typed");
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("our child");
    }

    fn is_as_before(&self) -> bool {
        mode(&self.theirs) == self.before
    }

    fn ends(&mut self) -> ExitStatus {
        self.child.wait().expect("our child")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn keys_are_the_guests_and_one_ends_the_machine() {
    need_kvm!("keys_are_the_guests_and_one_ends_the_machine");
    let (root, kernel) = (root(), echo());
    let mut session = Session::start(root.path(), &kernel, &["-serial", "mon:stdio"]);
    session.until(b"ready\r\n");
    assert!(!session.is_as_before());
    session.types(b"a\x03\x1a\x1c\x11\x13\r\x01\x01b");
    session.until(b"a\x03\x1a\x1c\x11\x13\r\x01b");
    session.types(b"\x01h");
    session.until(b"Ctrl-a x");
    session.types(b"\x01x");
    assert_eq!(session.ends().code(), Some(0), "as by a signal");
    assert!(session.is_as_before());
}

#[test]
fn paste_of_any_length_arrives_whole() {
    need_kvm!("paste_of_any_length_arrives_whole");
    let (root, kernel) = (root(), echo());
    let mut session = Session::start(root.path(), &kernel, &[]);
    session.until(b"ready\r\n");
    let text: Vec<u8> = text(5000).into_iter().filter(|byte| *byte != b'\n').collect();
    let mut keys = session.keys.try_clone().expect("a descriptor");
    let pasted = text.clone();
    let paste = std::thread::spawn(move || keys.write_all(&pasted));
    let seen = session.until(b"q");
    assert!(seen == text, "{} of {} bytes", seen.len(), text.len());
    paste.join().expect("no panic").expect("a terminal that is read");
    assert_eq!(session.ends().code(), Some(0));
}

#[test]
fn break_arrives_as_one() {
    need_kvm!("break_arrives_as_one");
    let (root, kernel) = (root(), Asm::new().print("ready\n").wait_break().exit(0).kernel());
    let mut session = Session::start(root.path(), &kernel, &[]);
    session.until(b"ready\r\n");
    session.types(b"a\x01bc");
    assert_eq!(session.ends().code(), Some(0));
}

#[test]
fn terminal_is_listened_to_also_when_output_goes_into_a_pipe() {
    need_kvm!("terminal_is_listened_to_also_when_output_goes_into_a_pipe");
    let (root, kernel) = (root(), echo());
    let mut session = Session::of(machine(root.path(), &kernel, &[]), Some(Stdio::piped()));
    let mut out = BufReader::new(session.child.stdout.take().expect("piped"));
    let mut line = String::new();
    out.read_line(&mut line).expect("text");
    assert_eq!(line, "ready\n");
    session.types(b"hi\nq");
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("text");
    assert_eq!((rest.as_str(), session.ends().code()), ("hi\nq", Some(0)));
}

/// Lets one thread of a process do what `abort` does.
fn crash_thread(pid: u32, name: &str) {
    let named = |task: &std::path::PathBuf| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    let mut tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("our child");
    let task = tasks.find_map(|task| task.ok().map(|task| task.path()).filter(named));
    let task = task.expect("it has such a thread");
    let tid: libc::c_long =
        task.file_name().and_then(|tid| tid.to_str()?.parse().ok()).expect("a number");
    let (pid, signal) = (libc::c_long::from(pid), libc::c_long::from(libc::SIGABRT));
    // SAFETY: three numbers.
    assert_eq!(unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) }, 0);
}

#[test]
fn terminal_is_as_it_was_after_every_ending() {
    need_kvm!("terminal_is_as_it_was_after_every_ending");
    for signal in [
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGABRT,
        Signal::SIGQUIT,
        Signal::SIGSEGV,
        Signal::SIGUSR2,
        Signal::SIGVTALRM,
        Signal::SIGXCPU,
    ] {
        let (root, kernel) = (root(), echo());
        let mut session = Session::start(root.path(), &kernel, &[]);
        session.until(b"ready\r\n");
        assert!(!session.is_as_before(), "{signal}");
        session.signal(signal);
        let ended = session.ends();
        let asked = [Signal::SIGTERM, Signal::SIGHUP].contains(&signal);
        assert_eq!(ended.code(), asked.then_some(0), "{signal}: {ended}");
        // Any thread may get one that a fault could have raised, and another thread's filter ends it.
        let by = (!asked).then_some(signal as i32);
        assert!(ended.signal() == by || signal == Signal::SIGSEGV, "{signal}: {ended}");
        assert!(session.is_as_before(), "{signal}");
    }
    let (root, kernel) = (root(), echo());
    let mut session = Session::start(root.path(), &kernel, &[]);
    session.until(b"ready\r\n");
    crash_thread(session.child.id(), "vcpu0");
    assert_eq!(session.ends().signal(), Some(libc::SIGABRT));
    assert!(session.is_as_before(), "a crash within the sandbox");
    let mut session = Session::start(root.path(), &kernel, &["--timeout", "1ms"]);
    assert_eq!(session.ends().code(), Some(3));
    assert!(session.is_as_before(), "a timeout");
    let mut session = Session::start(root.path(), &kernel, &["--netdev", "tap:t0@netns:none"]);
    assert_eq!(session.ends().code(), Some(1));
    assert!(session.is_as_before(), "an error");
}

/// The time between two requests is what the tools define, so it is slept.
#[test]
fn terminal_is_as_it_was_after_a_third_request() {
    need_kvm!("terminal_is_as_it_was_after_a_third_request");
    let (root, kernel) = (root(), echo());
    // Who opens a port waits for this lock, and hears of no request meanwhile. It is there once the root is.
    let made = machine(root.path(), &kernel, &["--timeout", "1ms"]).output().expect("starts");
    assert_eq!(made.status.code(), Some(3));
    let lock = File::open(root.path().join(".lock")).expect("a root");
    lock.lock().expect("nobody has it");
    let mut session = Session::start(root.path(), &kernel, &["--netdev", "valeA:x"]);
    let end = Instant::now() + TIMEOUT_S;
    while session.is_as_before() {
        assert!(Instant::now() < end, "the terminal is not raw");
        std::thread::yield_now();
    }
    for _ in 0..3 {
        assert_eq!(session.child.try_wait().expect("our child"), None, "it waits");
        session.signal(Signal::SIGTERM);
        std::thread::sleep(nm_cli::signal::APART + Duration::from_millis(100));
    }
    assert_eq!(session.ends().code(), Some(128 + libc::SIGTERM));
    assert!(session.is_as_before());
}

#[test]
fn hangup_ends_with_a_report() {
    need_kvm!("hangup_ends_with_a_report");
    let (root, kernel) = (root(), echo());
    let path = kernel.path().to_str().expect("text");
    let machine = support::running::Running::start(vmm(root.path(), &["--kernel", path]));
    machine.signal(Signal::SIGHUP);
    let (status, rest) = machine.end();
    assert_eq!(status.code(), Some(0));
    assert!(rest.contains("\"end\":\"stopped\""), "{rest}");
}

#[test]
fn terminal_is_as_it_was_while_the_machine_is_stopped() {
    need_kvm!("terminal_is_as_it_was_while_the_machine_is_stopped");
    let (root, kernel) = (root(), echo());
    let mut session = Session::start(root.path(), &kernel, &[]);
    session.until(b"ready\r\n");
    for _ in 0..2 {
        session.signal(Signal::SIGTSTP);
        let pid = Pid::from_raw(session.child.id().cast_signed());
        let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("our child");
        assert_eq!(stopped, WaitStatus::Stopped(pid, Signal::SIGTSTP));
        assert!(session.is_as_before());
        session.signal(Signal::SIGCONT);
        let end = Instant::now() + TIMEOUT_S;
        while session.is_as_before() {
            assert!(Instant::now() < end, "the terminal is not raw again");
            std::thread::yield_now();
        }
        session.types(b"x\x03");
        session.until(b"x\x03");
    }
    session.types(b"q");
    assert_eq!(session.ends().code(), Some(0));
}

/// bash says nothing to a job that runs and becomes its foreground.
#[test]
fn machine_that_comes_to_the_foreground_takes_the_terminal() {
    const NAME: &str = "machine_that_comes_to_the_foreground_takes_the_terminal";
    need_kvm!("machine_that_comes_to_the_foreground_takes_the_terminal");
    if Command::new("bash").arg("--version").output().is_err() {
        return support::skip(NAME, "bash was not found");
    }
    let (root, kernel) = (root(), echo());
    let mut shell = Command::new("setsid");
    let script = "set -m; \"$@\" & read -r line; fg >/dev/null; echo gone.";
    shell.args(["--wait", "--ctty", "bash", "-c", script, "bash"]);
    let machine = machine(root.path(), &kernel, &[]);
    shell.arg(machine.get_program()).args(machine.get_args()).env("NETMAP_ROOT", root.path());
    let mut session = Session::of(shell, None);
    session.until(b"ready\r\n");
    assert!(session.is_as_before());
    session.types(b"\n");
    let end = Instant::now() + TIMEOUT_S;
    while session.is_as_before() {
        assert!(Instant::now() < end, "the terminal is not raw");
        std::thread::yield_now();
    }
    session.types(b"\x03q");
    session.until(b"\x03q");
    session.until(b"gone.");
    assert!(session.is_as_before());
}

#[test]
fn machine_in_the_background_leaves_the_terminal_alone() {
    need_kvm!("machine_in_the_background_leaves_the_terminal_alone");
    let (root, kernel) = (root(), echo());
    let mut shell = Command::new("setsid");
    // A shell with jobs, on a terminal of its own: what it starts by & is in the background.
    shell.args([
        "--wait",
        "--ctty",
        "sh",
        "-c",
        "set -m; \"$@\" & echo \"pid $!.\"; wait; echo gone.",
        "sh",
    ]);
    let machine = machine(root.path(), &kernel, &[]);
    shell.arg(machine.get_program()).args(machine.get_args()).env("NETMAP_ROOT", root.path());
    let mut session = Session::of(shell, None);
    let said = String::from_utf8(session.until(b"pid "))
        .and_then(|_| String::from_utf8(session.until(b".")));
    let pid: i32 = said.expect("text").trim_end_matches('.').parse().expect("a number");
    session.until(b"ready\r\n");
    assert!(session.is_as_before());
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("the machine");
    session.until(b"gone.");
    assert!(session.is_as_before());
}

#[test]
fn who_connects_to_the_socket_has_the_serial_port_and_then_the_next() {
    need_kvm!("who_connects_to_the_socket_has_the_serial_port_and_then_the_next");
    let (root, kernel) = (root(), echo());
    let elsewhere = tempfile::tempdir().expect("a directory");
    let socket = elsewhere.path().join("serial");
    let to = format!("unix:{},server", socket.display());
    let mut child = machine(root.path(), &kernel, &["--serial", &to]).spawn().expect("starts");
    let end = Instant::now() + TIMEOUT_S;
    let mut first = loop {
        match UnixStream::connect(&socket) {
            Ok(peer) => break peer,
            Err(why) => assert!(Instant::now() < end, "{why}"),
        }
        std::thread::yield_now();
    };
    let mut line = [0; 6];
    first.read_exact(&mut line).expect("it waited for us before it began");
    assert_eq!(&line, b"ready\n");
    first.write_all(b"one").and_then(|()| first.read_exact(&mut line[..3])).expect("an echo");
    drop(first);
    let mut second = UnixStream::connect(&socket).expect("it listens");
    second.write_all(b"two\x01xq").expect("it reads"); // no keys but the guest's
    let mut seen = Vec::new();
    second.read_to_end(&mut seen).expect("bytes");
    assert_eq!(seen, b"two\x01xq");
    assert_eq!(child.wait().expect("our child").code(), Some(0));
    assert!(!socket.exists());
}

/// A machine that waits for the first connection, and what it has said then.
fn waiting(
    root: &Path,
    kernel: &tempfile::NamedTempFile,
    dir: &Path,
    time: &str,
) -> (Child, String) {
    let to = format!("unix:{},server", dir.join("serial").display());
    let path = kernel.path().to_str().expect("text");
    let args = ["--name", "waits", "--kernel", path, "--timeout", time, "--serial", &to];
    let mut child = vmm(root, &args).stderr(Stdio::piped()).spawn().expect("starts");
    let mut line = String::new();
    let mut said = BufReader::new(child.stderr.as_mut().expect("piped"));
    said.read_line(&mut line).expect("text");
    (child, line)
}

#[test]
fn machine_that_waits_for_a_connection_heeds_time_and_commands() {
    need_kvm!("machine_that_waits_for_a_connection_heeds_time_and_commands");
    let (root, kernel) = (root(), echo());
    let elsewhere = tempfile::tempdir().expect("a directory");
    let (mut child, said) = waiting(root.path(), &kernel, elsewhere.path(), "100ms");
    assert!(said.contains("waits for a connection"), "{said}");
    assert_eq!(child.wait().expect("our child").code(), Some(3));
    let (mut child, _) = waiting(root.path(), &kernel, elsewhere.path(), TIMEOUT);
    let ctl = |command: &[&str]| {
        support::output(vmm(root.path(), &[&["--ctl", "waits"], command].concat()))
    };
    for command in [&["link", "down"][..], &["powerdown"], &["reset"]] {
        let answer = ctl(command);
        assert_eq!(answer.status.code(), Some(3), "{command:?}");
        assert!(support::stderr(&answer).contains("has not begun"), "{command:?}");
    }
    assert_eq!(ctl(&["quit"]).status.code(), Some(0));
    assert_eq!(child.wait().expect("our child").code(), Some(0));
    assert!(!elsewhere.path().join("serial").exists());
}

#[test]
fn fifo_is_written_if_somebody_reads_and_else_refused() {
    need_kvm!("fifo_is_written_if_somebody_reads_and_else_refused");
    let (root, kernel) = (root(), Asm::new().print("ready\n").exit(0).kernel());
    let elsewhere = tempfile::tempdir().expect("a directory");
    let fifo = elsewhere.path().join("out");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a directory");
    let to = format!("file:{}", fifo.display());
    let refused = machine(root.path(), &kernel, &["--serial", &to]).output().expect("starts");
    assert_eq!(refused.status.code(), Some(1));
    let why = support::stderr(&refused);
    assert!(why.contains("start its reader first"), "{why}");
    let mut reader = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&fifo)
        .expect("it waits for no writer");
    let status = machine(root.path(), &kernel, &["--serial", &to]).status().expect("starts");
    let mut seen = String::new();
    reader.read_to_string(&mut seen).expect("its writer has gone");
    assert_eq!((status.code(), seen.as_str()), (Some(0), "ready\n"));
}

/// What a process's first thread has spent on a CPU.
fn cpu_time(process: u32) -> Duration {
    let schedstat = format!("/proc/{process}/task/{process}/schedstat");
    let text = std::fs::read_to_string(schedstat).expect("a running process");
    let ns = text.split(' ').next().expect("a number").parse().expect("a number");
    Duration::from_nanos(ns)
}

/// The descriptors that a process has.
fn descriptors(process: u32) -> Vec<u64> {
    let names = std::fs::read_dir(format!("/proc/{process}/fd")).expect("a running process");
    let names = names.map(|fd| fd.expect("a name").file_name().into_string().expect("text"));
    names.map(|name| name.parse().expect("a number")).collect()
}

/// How many of them are sockets.
fn sockets(process: u32) -> usize {
    let is_socket = |fd: &u64| {
        let what = std::fs::read_link(format!("/proc/{process}/fd/{fd}"));
        what.is_ok_and(|what| what.to_string_lossy().starts_with("socket:"))
    };
    descriptors(process).iter().filter(|fd| is_socket(fd)).count()
}

/// A process has descriptors below `limit` only, from now on.
fn limit_descriptors(process: u32, limit: u64) {
    let (pid, limit) = (process.to_string(), format!("--nofile={limit}:"));
    let set = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(set.expect("prlimit, of util-linux").success());
}

/// Connects to a machine's socket while that can have no more descriptors, and looks whether it sleeps all the same.
fn connect_in_vain(process: u32, socket: &Path) -> UnixStream {
    let taken = descriptors(process);
    limit_descriptors(process, (0..).find(|fd| !taken.contains(fd)).expect("a number"));
    let peer = UnixStream::connect(socket).expect("it listens");
    let begin = cpu_time(process);
    std::thread::sleep(Duration::from_millis(500)); // nothing is to happen
    let spent = cpu_time(process) - begin;
    assert!(spent < Duration::from_millis(100), "{spent:?}");
    assert_eq!(descriptors(process).len(), taken.len());
    limit_descriptors(process, 1024);
    peer
}

/// A process that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn who_cannot_be_taken_for_want_of_a_descriptor_waits_and_keeps_nobody_awake() {
    need_kvm!("who_cannot_be_taken_for_want_of_a_descriptor_waits_and_keeps_nobody_awake");
    let (root, kernel) = (root(), echo());
    let elsewhere = tempfile::tempdir().expect("a directory");
    let socket = elsewhere.path().join("serial");
    let to = format!("unix:{},server", socket.display());
    let child = machine(root.path(), &kernel, &["--serial", &to]).spawn().expect("starts");
    let mut child = Killed(child); // it would wait for ever for somebody to connect
    let process = child.0.id();
    let end = Instant::now() + TIMEOUT_S;
    let until = |condition: &dyn Fn() -> bool| {
        while !condition() {
            assert!(Instant::now() < end, "too late");
            std::thread::yield_now();
        }
    };
    // Before the guest begins.
    let status = format!("/proc/{process}/status");
    let sleeps = || std::fs::read_to_string(&status).expect("it runs").contains("State:\tS");
    until(&|| socket.exists() && sleeps());
    let mut first = connect_in_vain(process, &socket);
    let mut line = [0; 7];
    first.write_all(b"1").and_then(|()| first.read_exact(&mut line)).expect("we are taken now");
    assert_eq!(&line, b"ready\n1");
    // While it runs.
    // Others than sockets may still be opened by threads that have just begun.
    let taken = sockets(process);
    drop(first);
    until(&|| sockets(process) < taken);
    let mut second = connect_in_vain(process, &socket);
    second.write_all(b"2q").and_then(|()| second.read_exact(&mut line[..2])).expect("and again");
    assert_eq!(&line[..2], b"2q");
    assert_eq!(child.0.wait().expect("our child").code(), Some(0));
}

#[test]
fn serial_port_connects_to_a_socket_of_another() {
    need_kvm!("serial_port_connects_to_a_socket_of_another");
    let (root, kernel) = (root(), echo());
    let elsewhere = tempfile::tempdir().expect("a directory");
    let socket = elsewhere.path().join("serial");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let to = format!("unix:{}", socket.display());
    let mut child = machine(root.path(), &kernel, &["-serial", &to]).spawn().expect("starts");
    let (mut peer, _) = listener.accept().expect("it connects");
    peer.write_all(b"hiq").expect("it reads");
    let mut seen = Vec::new();
    peer.read_to_end(&mut seen).expect("bytes");
    assert_eq!(seen, b"ready\nhiq");
    assert_eq!(child.wait().expect("our child").code(), Some(0));
}
