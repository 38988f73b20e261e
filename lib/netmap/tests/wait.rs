//! Waiting: what is ready when, what ends a wait, and what does not.

mod common;

use std::io::{PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use common::{frame, open, read, root, slots};
use netmap::control::{Switch, SwitchOptions};
use netmap::{Direction, Error, Interest, Options, Port, Wait, WaitSet, Waited, Watch, WatchFd};
use nix::poll::PollFlags;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

#[path = "../../nm-cli/tests/skip/mod.rs"]
mod skip;

/// Far beyond anything that works: what takes longer has failed.
const FOR_EVER: Duration = Duration::from_secs(20);
const MODES: [Wait; 3] =
    [Wait::Busy, Wait::Adaptive { spin: Duration::from_micros(50) }, Wait::Block];

fn pipe() -> (PipeReader, PipeWriter) {
    std::io::pipe().expect("a pipe")
}

fn send(port: &mut Port, number: u32) {
    assert!(port.tx(0).push(&frame(0xff, 1, number, 60)));
    port.txsync().expect("synced");
}

/// Waits for one port and one descriptor.
fn wait_with(
    port: (&mut Port, Interest),
    fd: &PipeReader,
    how: Wait,
    timeout: Option<Duration>,
) -> (Waited, Interest, PollFlags) {
    let mut ports = [Watch::new(port.0, port.1)];
    let mut fds = [WatchFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let waited = WaitSet::new(&mut ports, &mut fds).wait(how, timeout).expect("waited");
    (waited, ports[0].ready(), fds[0].ready())
}

/// What a port that takes everything at once says, for every interest.
fn takes_all_at_once(mut port: Port) {
    let room = Interest::TX | Interest::SPACE | Interest::SENT;
    for queued in [0, 1, 20] {
        for what in [Interest::TX, Interest::SPACE, Interest::SENT, room] {
            for number in 0..queued {
                assert!(port.tx(0).push(&frame(0xff, 1, number, 60)), "{}", port.name());
            }
            let ready = port.wait(what, Wait::Block, Some(FOR_EVER)).expect("waited");
            assert_eq!(ready, what, "{} with {queued} queued", port.name());
            assert_eq!(port.pending(), 0);
        }
    }
}

#[test]
fn room_is_there_at_once_where_nothing_is_held_back() {
    root();
    takes_all_at_once(Port::open("null:").expect("opened"));
    takes_all_at_once(open("valeR:alone", &slots(64)));
    let _receiver = open("valeS:r", &slots(64));
    takes_all_at_once(open("valeS:t", &slots(64)));
    let dir = tempfile::tempdir().expect("made");
    let options = Options { direction: Direction::TxOnly, ..Options::default() };
    let name = format!("pcap:{}", dir.path().join("out.pcap").display());
    takes_all_at_once(open(&name, &options));
    let tap = format!("tap:nmw{}", std::process::id());
    match Port::open(&tap) {
        Ok(port) => takes_all_at_once(port),
        Err(error @ (Error::NotPermitted { .. } | Error::Unavailable { .. })) => {
            let test = "room_is_there_at_once_where_nothing_is_held_back (tap)";
            skip::skip(test, &error.to_string());
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn packets_on_every_kind_end_a_wait_for_room_that_does_not_come() {
    root();
    let lossless = SwitchOptions { backpressure: true, ..SwitchOptions::default() };
    Switch::create("valeT", &lossless).expect("made");
    let (mut sender, _full) = (open("valeT:t", &slots(64)), open("valeT:r", &slots(64)));
    while sender.tx(0).push(&frame(0xff, 1, 0, 60)) {
        sender.txsync().expect("synced");
    }
    let room = Interest::SPACE | Interest::SENT;
    let none = sender.wait(room, Wait::Block, Some(Duration::from_millis(2))).expect("waited");
    assert!(none.is_empty(), "nobody reads");
    let both = |sender: &mut Port, other: &mut Port| {
        let mut ports = [Watch::new(sender, room), Watch::new(other, Interest::RX)];
        let mut set = WaitSet::new(&mut ports, &mut []);
        assert!(set.wait(Wait::default(), Some(FOR_EVER)).expect("waited").ready);
        assert_eq!((ports[0].ready(), ports[1].ready()), (Interest::empty(), Interest::RX));
    };
    let (mut x, mut y) = (open("valeU:x", &slots(64)), open("valeU:y", &slots(64)));
    send(&mut x, 0);
    both(&mut sender, &mut y);
    let dir = tempfile::tempdir().expect("made");
    let path = dir.path().join("in.pcap");
    capture(&path);
    both(&mut sender, &mut Port::open(&format!("pcap:{}", path.display())).expect("opened"));
    let null = &mut Port::open("null:").expect("opened");
    let mut ports = [Watch::new(&mut sender, room), Watch::new(null, Interest::RX)];
    let timeout = Some(Duration::from_millis(2));
    let waited = WaitSet::new(&mut ports, &mut []).wait(Wait::Block, timeout).expect("waited");
    assert!(!waited.ready, "null: gives nothing");
}

/// Writes a capture of three packets.
fn capture(path: &Path) {
    let options = Options { direction: Direction::TxOnly, ..Options::default() };
    let mut port = open(&format!("pcap:{}", path.display()), &options);
    (0..3).for_each(|number| send(&mut port, number));
}

#[test]
fn space_comes_with_the_first_free_slots_and_sent_with_the_last_packet() {
    root();
    let lossless = SwitchOptions { backpressure: true, ..SwitchOptions::default() };
    Switch::create("valeV", &lossless).expect("made");
    for how in MODES {
        let (mut sender, mut receiver) =
            (open("valeV:t", &slots(128)), open("valeV:r", &slots(64)));
        let mut sent = 0;
        while sender.tx(0).push(&frame(0xff, 1, sent, 60)) {
            sent += 1;
            sender.txsync().expect("synced");
        }
        assert_eq!((sent, sender.pending()), (63 + 127, 127));
        // Two slots are free: TX is ready, but nothing moves.
        assert_eq!(sender.tx(0).withdraw(), 127);
        for number in 63..63 + 125 {
            assert!(sender.tx(0).push(&frame(0xff, 1, number, 60)));
        }
        let what = Interest::TX | Interest::SPACE | Interest::SENT;
        let ready = sender.wait(what, how, Some(FOR_EVER)).expect("waited");
        assert_eq!(ready, Interest::TX);
        let (asked, ask) = std::sync::mpsc::sync_channel::<usize>(0);
        let reader = std::thread::spawn(move || {
            let mut numbers = Vec::new();
            for wanted in ask {
                let all = numbers.len() + wanted;
                while numbers.len() < all {
                    receiver.wait(Interest::RX, Wait::Block, Some(FOR_EVER)).expect("waited");
                    numbers.extend(read(&mut receiver, 0, all - numbers.len()));
                }
            }
            numbers
        });
        asked.send(40).expect("it reads");
        let ready = sender.wait(Interest::SPACE, how, Some(FOR_EVER)).expect("waited");
        assert_eq!(ready, Interest::SPACE);
        assert!(sender.pending() >= 125 - 40, "more was sent than was made room for");
        asked.send(148).expect("it reads");
        let what = Interest::SENT;
        assert_eq!(sender.wait(what, how, Some(FOR_EVER)).expect("waited"), Interest::SENT);
        assert_eq!(sender.pending(), 0);
        drop(asked);
        let numbers = reader.join().expect("read");
        let wanted: Vec<_> = (0..188).map(|number| frame(0xff, 1, number, 60)).collect();
        assert_eq!(numbers, wanted);
    }
}

#[test]
fn timeouts_are_waited_for_and_zero_does_not_sleep() {
    let mut port = open("valeX:x", &slots(64));
    let (from, _to) = pipe();
    for how in MODES {
        for us in [0, 1, 100, 1_000, 30_000, 150_000] {
            let timeout = Duration::from_micros(us);
            let start = Instant::now();
            let (waited, ..) = wait_with((&mut port, Interest::RX), &from, how, Some(timeout));
            assert!(start.elapsed() >= timeout, "{how:?}: shorter than {timeout:?}");
            assert!(!waited.ready);
            let most = match how {
                Wait::Busy => 0,
                _ if us == 0 => 0,
                _ => timeout.as_micros().div_ceil(WaitSet::LONGEST_SLEEP.as_micros()) as u64,
            };
            assert!(waited.sleeps <= most, "{how:?}, {timeout:?}: slept {} times", waited.sleeps);
        }
    }
}

#[test]
fn descriptor_is_seen_beside_a_port_that_is_always_ready() {
    let (mut x, mut y) = (open("valeY:x", &slots(64)), open("valeY:y", &slots(64)));
    send(&mut x, 0);
    let (from, mut to) = pipe();
    for timeout in [Some(Duration::ZERO), None] {
        for how in MODES {
            let seen = wait_with((&mut y, Interest::RX), &from, how, timeout);
            assert_eq!((seen.1, seen.2), (Interest::RX, PollFlags::empty()));
        }
    }
    to.write_all(b"!").expect("written");
    for timeout in [Some(Duration::ZERO), None] {
        for how in MODES {
            let seen = wait_with((&mut y, Interest::RX), &from, how, timeout);
            assert_eq!((seen.1, seen.2), (Interest::RX, PollFlags::POLLIN));
            assert_eq!(seen.0, Waited { ready: true, sleeps: 0 });
        }
    }
}

#[test]
fn descriptor_ends_a_wait_that_spins_for_ever() {
    let mut port = open("valeZ:x", &slots(64));
    let (from, mut to) = pipe();
    std::thread::scope(|scope| {
        let what = (&mut port, Interest::RX);
        let waiter = scope.spawn(|| wait_with(what, &from, Wait::Busy, None));
        to.write_all(b"!").expect("written");
        let seen = waiter.join().expect("it ends");
        assert_eq!((seen.0.sleeps, seen.1, seen.2), (0, Interest::empty(), PollFlags::POLLIN));
    });
}

/// Where the handler of the test below writes to.
static TO: AtomicI32 = AtomicI32::new(-1);

extern "C" fn write_a_byte(_: i32) {
    let byte = [0_u8];
    // SAFETY: write(2) may be called by a handler, and the byte outlives the call.
    unsafe { libc::write(TO.load(Ordering::Relaxed), byte.as_ptr().cast(), 1) };
}

extern "C" fn do_nothing(_: i32) {}

fn handle(signal: Signal, handler: extern "C" fn(i32)) {
    let action = SigAction::new(SigHandler::Handler(handler), SaFlags::empty(), SigSet::empty());
    // SAFETY: both handlers do nothing but what signal-safety(7) allows.
    unsafe { sigaction(signal, &action) }.expect("installed");
}

#[test]
fn signal_ends_a_sleep_and_what_its_handler_wrote_is_seen() {
    let (from, to) = pipe();
    let fd: RawFd = to.as_raw_fd();
    TO.store(fd, Ordering::Relaxed);
    handle(Signal::SIGUSR1, do_nothing);
    handle(Signal::SIGUSR2, write_a_byte);
    for (signal, wanted) in
        [(Signal::SIGUSR1, PollFlags::empty()), (Signal::SIGUSR2, PollFlags::POLLIN)]
    {
        let (told, tell) = std::sync::mpsc::channel();
        let (ended, end) = std::sync::mpsc::channel();
        let (no_more_signals, alive) = std::sync::mpsc::channel::<()>();
        let from = from.try_clone().expect("copied");
        let waiter = std::thread::spawn(move || {
            let mut port = open("valeK:x", &slots(64));
            // SAFETY: it only says which thread this is.
            told.send(unsafe { libc::pthread_self() }).expect("heard");
            let seen = wait_with((&mut port, Interest::RX), &from, Wait::Block, None);
            ended.send(()).expect("heard");
            alive.recv().expect_err("nothing is said");
            seen
        });
        let thread = tell.recv().expect("told");
        // A signal that comes before the sleep ends nothing, so it comes again.
        while end.recv_timeout(Duration::from_millis(5)).is_err() {
            // SAFETY: that thread lives until it is told that there are no more signals.
            assert_eq!(unsafe { libc::pthread_kill(thread, signal as i32) }, 0);
        }
        drop(no_more_signals);
        let seen = waiter.join().expect("it ends");
        assert_eq!((seen.1, seen.2), (Interest::empty(), wanted));
        assert_eq!(seen.0.ready, !wanted.is_empty());
    }
}

#[test]
fn capture_that_has_ended_neither_ends_nor_spins_a_wait() {
    let (mut x, mut y) = (open("valeE:x", &slots(64)), open("valeE:y", &slots(64)));
    let dir = tempfile::tempdir().expect("made");
    let path = dir.path().join("in.pcap");
    capture(&path);
    let mut ended = Port::open(&format!("pcap:{}", path.display())).expect("opened");
    assert_eq!(read(&mut ended, 0, 9).len(), 3);
    assert!(ended.ended());
    let mut wait = |timeout| {
        let mut ports = [Watch::new(&mut ended, Interest::RX), Watch::new(&mut y, Interest::RX)];
        let waited = WaitSet::new(&mut ports, &mut []).wait(Wait::Block, Some(timeout));
        (waited.expect("waited"), ports[0].ready(), ports[1].ready())
    };
    let (waited, ..) = wait(Duration::from_millis(20));
    assert_eq!(waited, Waited { ready: false, sleeps: 1 });
    send(&mut x, 0);
    assert_eq!(wait(FOR_EVER).2, Interest::RX);
}

#[test]
fn capture_that_comes_to_its_end_ends_a_wait() {
    root();
    let dir = tempfile::tempdir().expect("made");
    let (path, fifo) = (dir.path().join("a.pcap"), dir.path().join("fifo"));
    capture(&path);
    let bytes = std::fs::read(&path).expect("written");
    for how in MODES {
        let _ = std::fs::remove_file(&fifo);
        mkfifo(&fifo, Mode::S_IRWXU).expect("made");
        let feed = std::thread::spawn({
            let (fifo, bytes) = (fifo.clone(), bytes.clone());
            move || {
                let mut to = std::fs::File::options().write(true).open(fifo).expect("opened");
                to.write_all(&bytes).expect("written");
                to
            }
        });
        let options = Options { direction: Direction::RxOnly, ..Options::default() };
        let mut port = open(&format!("pcap:{}", fifo.display()), &options);
        let mut seen = 0;
        while seen < 3 {
            assert_eq!(port.wait(Interest::RX, how, Some(FOR_EVER)).unwrap(), Interest::RX);
            seen += read(&mut port, 0, 9).len();
        }
        let writer = feed.join().expect("fed");
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let start = Instant::now();
                let ready = port.wait(Interest::RX, how, Some(FOR_EVER)).expect("waited");
                assert!(start.elapsed() < FOR_EVER, "the end was not noticed");
                (ready, port.ended())
            });
            drop(writer);
            assert_eq!(waiter.join().expect("it ends"), (Interest::empty(), true));
        });
    }
}

#[test]
fn wait_that_spins_sees_the_end_of_a_monitors_port() {
    for (i, how) in MODES.into_iter().enumerate() {
        let mut x = open(&format!("valeWm{i}:x"), &slots(64));
        let mut y = open(&format!("valeWm{i}:y"), &slots(64));
        let mut monitor = open(&format!("valeWm{i}:x/t"), &Options::default());
        // Sent by the wait when it has begun: then x goes.
        assert!(y.tx(0).push(&frame(0xff, 2, 0, 60)));
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while read(&mut x, 0, 1).is_empty() {
                    std::thread::yield_now();
                }
            });
            let start = Instant::now();
            let mut ports =
                [Watch::new(&mut monitor, Interest::RX), Watch::new(&mut y, Interest::empty())];
            let waited =
                WaitSet::new(&mut ports, &mut []).wait(how, Some(FOR_EVER)).expect("waited");
            assert!(!waited.ready && start.elapsed() < FOR_EVER, "{how:?}: it spun on");
        });
        assert!(monitor.ended(), "{how:?}");
    }
}

#[test]
fn wait_for_packets_that_spins_sends_what_is_queued_when_there_is_room() {
    root();
    let lossless = SwitchOptions { backpressure: true, ..SwitchOptions::default() };
    Switch::create("valeWq", &lossless).expect("made");
    for (i, how) in MODES.into_iter().enumerate() {
        let mut ping = open(&format!("valeWq:ping{i}"), &slots(64));
        let mut pong = open(&format!("valeWq:pong{i}"), &slots(64));
        for number in 0..63 {
            assert!(ping.tx(0).push(&frame(0xff, 1, number, 60)));
        }
        ping.txsync().expect("synced");
        assert!(ping.tx(0).push(&frame(0xff, 1, 63, 60)));
        ping.txsync().expect("synced");
        assert_eq!(ping.pending(), 1, "the other ring is full");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // Whoever answers has to have the last packet first.
                let (mut got, start) = (0, Instant::now());
                while got < 64 && start.elapsed() < FOR_EVER {
                    got += read(&mut pong, 0, 99).len();
                    std::thread::yield_now();
                }
                assert!(pong.tx(0).push(&frame(0xff, 2, 0, 60)));
                pong.txsync().expect("synced");
            });
            let ready = ping.wait(Interest::RX, how, Some(FOR_EVER)).expect("waited");
            assert_eq!(ready, Interest::RX, "{how:?}: the last packet was not sent");
        });
    }
}

#[test]
fn ports_are_disarmed_however_a_wait_ends() {
    let (mut x, mut y) = (open("valeL:x", &slots(64)), open("valeL:y", &slots(64)));
    let dir = tempfile::tempdir().expect("made");
    let fifo = dir.path().join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).expect("made");
    let feed = std::thread::spawn({
        let fifo = fifo.clone();
        // The header of an empty capture.
        let (magic, rest) = (0xa1b2_c3d4_u32.to_le_bytes(), [2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let header = [&magic[..], &rest, &65_535_u32.to_le_bytes(), &1_u32.to_le_bytes()].concat();
        move || {
            let mut to = std::fs::File::options().write(true).open(fifo).expect("opened");
            to.write_all(&header).expect("written");
            to
        }
    });
    let options = Options { direction: Direction::RxOnly, ..Options::default() };
    let mut damaged = open(&format!("pcap:{}", fifo.display()), &options);
    let mut writer = feed.join().expect("fed");
    let mut nobody_is_rung = |y: &mut Port, number: u32| {
        send(&mut x, number);
        assert_eq!(x.counters().doorbells_rung, 0, "it was left armed");
        assert_eq!(read(y, 0, 9).len(), 1);
    };
    y.wait(Interest::RX, Wait::Block, Some(Duration::from_millis(2))).expect("waited");
    nobody_is_rung(&mut y, 0);
    let (from, mut to) = pipe();
    to.write_all(b"!").expect("written");
    wait_with((&mut y, Interest::RX), &from, Wait::Block, None);
    nobody_is_rung(&mut y, 1);
    // With an error: the other port's capture is damaged.
    let failed = std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let mut ports =
                [Watch::new(&mut y, Interest::RX), Watch::new(&mut damaged, Interest::RX)];
            WaitSet::new(&mut ports, &mut []).wait(Wait::Block, Some(FOR_EVER))
        });
        writer.write_all(&[0xff; 64]).expect("written");
        waiter.join().expect("it ends")
    });
    assert!(failed.is_err(), "{failed:?}");
    nobody_is_rung(&mut y, 2);
}

#[test]
fn handles_split_off_push_as_the_one_that_they_were() {
    let two = Options { tx_rings: Some(2), ..slots(64) };
    for pushes in [true, false] {
        let mut port = open(&format!("valeWp:x{pushes}"), &two);
        port.set_pushes(pushes);
        let (mut senders, _receivers) = port.split_rings().expect("split");
        for sender in &mut senders {
            assert!(sender.tx(0).push(&frame(0xff, 1, 0, 60)));
            sender.look(Interest::RX).expect("synced");
            assert_eq!(sender.pending() == 0, pushes);
        }
    }
}

/// Who syncs by itself has given the packets away, and may never sync again: they go when there is room, whatever it waits for.
#[test]
fn what_a_sync_left_behind_backpressure_goes_while_its_sender_waits_for_packets() {
    root();
    let options = SwitchOptions { backpressure: true, ..SwitchOptions::default() };
    let switch = Switch::create("valeWo", &options).expect("made");
    for pushes in [true, false] {
        let (mut x, mut y) = (open("valeWo:x", &slots(256)), open("valeWo:y", &slots(64)));
        x.set_pushes(pushes);
        for i in 0..200 {
            assert!(x.tx(0).push(&frame(0xff, 1, i, 60)));
        }
        x.txsync().expect("synced");
        assert_eq!(x.pending(), 137);
        let mut got = read(&mut y, 0, 64).len();
        while got < 200 {
            // A sleep, step by step.
            assert_eq!(x.arm(Interest::RX).expect("armed"), Interest::empty());
            let full = x.pending() > 0;
            let ready = y.wait(Interest::RX, Wait::Block, Some(FOR_EVER)).expect("waits");
            assert_eq!(ready, Interest::RX, "{got} of 200 came");
            got += read(&mut y, 0, 64).len();
            y.rxsync().expect("synced");
            let mut bell = [nix::poll::PollFd::new(x.fd(), x.events(Interest::RX))];
            let rung = nix::poll::poll(&mut bell, 0u8).expect("polled") == 1;
            assert!(rung || !full, "{got} of 200");
            x.disarm();
        }
        assert_eq!((got, x.pending()), (200, 0));
    }
    switch.set_backpressure(false).expect("set");
    switch.delete().expect("deleted");
}
