//! Signals as a real process gets them. Without a test harness, whose own process and threads would
//! get them as well: `main` starts this program again, as the one that is signalled.
//!
//! The child says what it sees, one word a line, and never ends by itself.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nm_cli::signal::{APART, Signals};

const CHILD: &str = "--as-the-child";

fn main() {
    if std::env::args().any(|arg| arg == CHILD) {
        return child();
    }
    signals_that_come_together_are_one_request();
    println!("ok: signals that come together are one request");
    a_later_signal_hurries_and_a_third_ends();
    println!("ok: a later signal hurries, and a third ends");
    a_hangup_is_a_request_unless_it_was_ignored();
    println!("ok: a hangup is a request, unless it was ignored");
}

/// Says "ready", then what the flags are after each wake-up.
fn child() {
    let signals = Signals::install().expect("installed");
    let say = |word: &str| {
        let mut out = std::io::stdout();
        writeln!(out, "{word}").and_then(|()| out.flush()).expect("the parent reads");
    };
    say("ready");
    loop {
        signals.wait(Duration::from_secs(3600));
        say(match (signals.stopped(), signals.hurried()) {
            (false, _) => "nothing",
            (true, false) => "stop",
            (true, true) => "hurry",
        });
    }
}

struct Signalled {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Signalled {
    fn start() -> Signalled {
        let this = std::env::current_exe().expect("this program");
        // The tests themselves may run under nohup.
        let mut command = Command::new("env");
        Signalled::spawn(command.arg("--default-signal=HUP").arg(this).arg(CHILD))
    }

    /// Started by a program that ignores SIGHUP, as nohup does.
    fn start_ignoring_hangups() -> Signalled {
        let this = std::env::current_exe().expect("this program");
        let mut shell = Command::new("sh");
        Signalled::spawn(shell.args(["-c", "trap '' HUP; exec \"$0\" \"$1\""]).arg(this).arg(CHILD))
    }

    fn spawn(command: &mut Command) -> Signalled {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts again");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut signalled = Signalled { child, lines };
        assert_eq!(signalled.word(), "ready");
        signalled
    }

    fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("our child");
    }

    /// What it says next; nothing once it has ended.
    fn word(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("text");
        line.trim_end().to_owned()
    }
}

impl Drop for Signalled {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As `timeout N tool` has it. All are pending when the child goes on, so nothing lies between them.
fn signals_that_come_together_are_one_request() {
    let mut it = Signalled::start();
    for signal in
        [Signal::SIGSTOP, Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGCONT]
    {
        it.send(signal);
    }
    assert_eq!(it.word(), "stop");
    assert!(it.child.try_wait().expect("our child").is_none(), "ended by the second signal");
}

/// The time between two requests is what the tool itself defines, so it is slept here, too.
fn a_later_signal_hurries_and_a_third_ends() {
    let mut it = Signalled::start();
    it.send(Signal::SIGINT);
    assert_eq!(it.word(), "stop");
    let next =
        |since: Instant| std::thread::sleep((APART + APART / 10).saturating_sub(since.elapsed()));
    next(Instant::now());
    it.send(Signal::SIGINT);
    assert_eq!(it.word(), "hurry");
    next(Instant::now());
    it.send(Signal::SIGTERM);
    assert_eq!(it.word(), "", "ended");
    assert_eq!(it.child.wait().expect("our child").code(), Some(128 + Signal::SIGTERM as i32));
}

fn a_hangup_is_a_request_unless_it_was_ignored() {
    let mut it = Signalled::start();
    it.send(Signal::SIGHUP);
    assert_eq!(it.word(), "stop");
    let mut it = Signalled::start_ignoring_hangups();
    it.send(Signal::SIGHUP);
    it.send(Signal::SIGUSR1);
    assert_eq!(it.word(), "nothing");
}
