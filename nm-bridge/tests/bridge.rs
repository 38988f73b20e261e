//! nm-bridge as its users meet it: real processes, real switches, the library's own ports as ends.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use netmap::Port;
use nix::sys::signal::Signal;
use nm_capture::{Options, Reader, Writer};

#[path = "support/fresh.rs"]
mod fresh;
mod support;
use fresh::{frame, port, receive, receive_within, send, tests, with_backpressure};
use support::{Bridge, TIMEOUT, nm_bridge, until};

tests! {
    two_switches_are_joined_both_ways_by_swapping
    copy_moves_the_same_packets
    named_memory_is_not_shared
    many_packets_keep_their_order_and_none_is_lost
    backpressure_passes_through_a_sleeping_bridge_without_loss
    dead_destination_of_a_stuck_bridge_is_cleared_away
    stuck_bridge_outlives_what_peers_do_to_the_root
    long_packets_pass_even_a_burst_of_one
    killed_bridge_leaves_names_and_neighbours_usable
    idle_bridge_sleeps_in_both_modes
    sleeping_bridge_wakes_for_a_single_packet
    count_and_duration_end_the_run
    usr1_reports_and_term_reports_and_ends_well
    capture_replayed_comes_out_as_capture
    loopback_sends_packets_back
    loopback_of_a_port_that_is_on_no_switch_sends_packets_back
    peer_that_comes_and_goes_does_not_fill_the_log
    taken_port_is_a_failure_that_names_it
}

mod bodies {
    use super::*;

    fn both_ways(args: &[&str], zero_copy: bool) {
        let (mut left, mut right) = (port("valeA:left"), port("valeB:right"));
        let bridge = Bridge::start(nm_bridge(args));
        assert_eq!(bridge.start["zero_copy"], zero_copy);
        for number in 0..50 {
            send(&mut left, &frame(number, 60 + number as usize * 20));
            assert_eq!(receive(&mut right), frame(number, 60 + number as usize * 20));
            send(&mut right, &frame(1000 + number, 64));
            assert_eq!(receive(&mut left), frame(1000 + number, 64));
        }
        let (status, end) = bridge.stop();
        assert!(status.success(), "{status}");
        for (key, value) in [
            ("a_to_b_packets", 50),
            ("a_to_b_bytes", (0..50).map(|n| 60 + n * 20).sum()),
            ("b_to_a_packets", 50),
            ("b_to_a_bytes", 50 * 64),
            ("a_to_b_drops", 0),
            ("b_to_a_drops", 0),
        ] {
            assert_eq!(end[key], value, "{key} in {end}");
        }
    }

    pub fn two_switches_are_joined_both_ways_by_swapping() {
        both_ways(&["-i", "valeA:x", "-i", "valeB:y"], true);
    }

    pub fn copy_moves_the_same_packets() {
        both_ways(&["-c", "valeA:x", "valeB:y", "64"], false);
    }

    pub fn named_memory_is_not_shared() {
        both_ways(&["valeA:x@7", "valeB:y"], false);
    }

    pub fn many_packets_keep_their_order_and_none_is_lost() {
        const PACKETS: u32 = 20_000;
        let (mut left, mut right) = (port("valeA:left"), port("valeB:right"));
        let bridge = Bridge::start(nm_bridge(&["valeA:x", "valeB:y", "-b", "100"]));
        // A window: VALE drops what a receiver has no room for, and this is no test of that.
        let (mut sent, mut seen) = (0, 0);
        while seen < PACKETS {
            while sent < PACKETS && sent - seen < 200 {
                assert!(left.tx(0).push(&frame(sent, 60)), "rings have room for a window");
                sent += 1;
            }
            left.txsync().expect("txsync");
            assert_eq!(receive(&mut right), frame(seen, 60));
            seen += 1;
        }
        let (_, end) = bridge.stop();
        assert_eq!(end["a_to_b_packets"], PACKETS);
    }

    /// Sends until the path is full and the sender stuck; returns how many were queued or sent.
    fn fill(port: &mut Port) -> u32 {
        let (mut sent, mut last_change) = (0, Instant::now());
        while last_change.elapsed() < Duration::from_millis(300) {
            let before = sent;
            while port.tx(0).push(&frame(sent, 60)) {
                sent += 1;
            }
            port.txsync().expect("txsync");
            if sent > before {
                last_change = Instant::now();
            }
        }
        sent
    }

    pub fn backpressure_passes_through_a_sleeping_bridge_without_loss() {
        for args in [["valeA:x", "valeB:y", "1024"], ["-c", "valeA:x", "valeB:y"]] {
            let (mut left, mut right) = (port("valeA:left"), port("valeB:right"));
            with_backpressure("valeA");
            with_backpressure("valeB");
            let bridge = Bridge::start(nm_bridge(&args));
            let sent = fill(&mut left);
            assert!(sent > 2000, "only {sent} packets fill four rings");
            let before = bridge.cpu_ticks();
            // Nothing can be waited for when nothing is to happen.
            std::thread::sleep(Duration::from_millis(500));
            let ticks = bridge.cpu_ticks() - before;
            assert!(ticks < 15, "stuck for half a second, {ticks} ticks of 10 ms on the CPU");
            for number in 0..sent {
                left.txsync().expect("txsync");
                assert_eq!(receive(&mut right), frame(number, 60));
            }
            let (_, end) = bridge.stop();
            assert_eq!(end["a_to_b_packets"], sent);
        }
    }

    pub fn dead_destination_of_a_stuck_bridge_is_cleared_away() {
        let (mut left, mut right) = (port("valeA:left"), port("valeB:right"));
        with_backpressure("valeA");
        with_backpressure("valeB");
        let bridge = Bridge::start(nm_bridge(&["valeA:x", "valeB:y"]));
        // Takes nothing, and fills; then it dies without a word.
        let stopped = Bridge::start(nm_bridge(&["valeB:z", "valeC:z"]));
        stopped.signal(Signal::SIGSTOP);
        let mut sent = 0;
        let mut last_change = Instant::now();
        while last_change.elapsed() < Duration::from_millis(300) {
            while receive_within(&mut right, Duration::ZERO).is_some() {}
            while left.tx(0).push(&frame(sent, 60)) {
                sent += 1;
                last_change = Instant::now();
            }
            left.txsync().expect("txsync");
        }
        assert!(sent > 2000, "only {sent} packets fill four rings");
        drop(stopped);
        let last = frame(u32::MAX, 60);
        until("room to send", || {
            left.txsync().expect("txsync");
            while receive_within(&mut right, Duration::ZERO).is_some() {}
            left.tx(0).push(&last).then_some(())
        });
        until("the last packet", || {
            left.txsync().expect("txsync");
            std::iter::from_fn(|| receive_within(&mut right, Duration::ZERO))
                .find(|packet| *packet == last)
        });
        assert!(bridge.stop().0.success());
    }

    pub fn stuck_bridge_outlives_what_peers_do_to_the_root() {
        let (mut left, _right) = (port("valeA:left"), port("valeB:right"));
        with_backpressure("valeA");
        with_backpressure("valeB");
        let mut bridge = Bridge::start(nm_bridge(&["valeA:x", "valeB:y", "-w", "0"]));
        assert!(fill(&mut left) > 2000, "the path is not full");
        let mut answers = || {
            // Long enough for it to look for the dead, several times; there is no event to wait for.
            std::thread::sleep(Duration::from_millis(300));
            bridge.signal(Signal::SIGUSR1);
            assert_eq!(bridge.record()["type"], "totals");
        };
        let root = netmap::control::root();
        let (lock, away) = (root.join(".lock"), root.join("away"));
        std::fs::rename(&lock, &away).expect("a peer may");
        nix::unistd::mkfifo(&lock, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        answers();
        std::fs::rename(&away, &lock).expect("back in its place");
        let file = std::fs::File::open(&lock).expect("the lock");
        file.lock().expect("held");
        answers();
        drop(file);
        std::fs::remove_dir_all(root.join("valeB")).expect("a peer may");
        answers();
        assert!(bridge.stop().0.success());
    }

    pub fn long_packets_pass_even_a_burst_of_one() {
        for args in [["valeA:x", "valeB:y", "1"], ["-c", "valeA:x", "valeB:y"]] {
            let (mut left, mut right) = (port("valeA:left"), port("valeB:right"));
            let bridge = Bridge::start(nm_bridge(&args));
            for (number, len) in [(1, 60), (2, 9000), (3, 65_000), (4, 60)] {
                send(&mut left, &frame(number, len));
                assert!(receive(&mut right) == frame(number, len), "packet of {len} bytes");
            }
            assert!(bridge.stop().0.success());
        }
    }

    pub fn killed_bridge_leaves_names_and_neighbours_usable() {
        let (mut left, mut right) = (port("valeA:left"), port("valeB:right"));
        let mut neighbour = port("valeA:neighbour");
        for round in 0..5 {
            let bridge = Bridge::start(nm_bridge(&["valeA:x", "valeB:y"]));
            for number in 0..20 {
                send(&mut left, &frame(number, 60));
                assert_eq!(receive(&mut right), frame(number, 60), "round {round}");
                assert_eq!(receive(&mut neighbour), frame(number, 60), "round {round}");
            }
            // In the middle of something: what was under way may be lost, nothing else.
            for number in 0..100 {
                assert!(left.tx(0).push(&frame(500 + number, 60)));
            }
            left.txsync().expect("txsync");
            bridge.signal(Signal::SIGKILL);
            while receive_within(&mut right, Duration::ZERO).is_some() {}
            for number in 0..100 {
                assert_eq!(receive(&mut neighbour), frame(500 + number, 60), "round {round}");
            }
            drop(bridge);
            while receive_within(&mut right, Duration::ZERO).is_some() {}
        }
    }

    fn idle(mode: &str) {
        let bridge = Bridge::start(nm_bridge(&["valeA:x", "valeB:y", "--wait-mode", mode]));
        // Nothing can be waited for when nothing is to happen.
        std::thread::sleep(Duration::from_secs(1));
        let cpu = bridge.cpu_ticks();
        let (_, end) = bridge.stop();
        assert!(end["sleeps"].as_u64().expect("a number") < 50, "{mode}: {end}");
        assert!(cpu < 30, "{mode}: {cpu} ticks of 10 ms on the CPU in a second");
    }

    pub fn idle_bridge_sleeps_in_both_modes() {
        idle("adaptive");
        idle("block");
    }

    pub fn sleeping_bridge_wakes_for_a_single_packet() {
        for mode in ["block", "adaptive", "busy"] {
            let (mut left, mut right) = (port("valeA:left"), port("valeB:right"));
            let bridge = Bridge::start(nm_bridge(&["valeA:x", "valeB:y", "--wait-mode", mode]));
            let mut slow = 0;
            for number in 0..300 {
                // Steps of the order of the adaptive wait's spin: packets arrive before, at and
                // after the moment of falling asleep.
                std::thread::sleep(Duration::from_micros(u64::from(number % 10) * 20));
                let begin = Instant::now();
                send(&mut left, &frame(number, 60));
                assert_eq!(receive(&mut right), frame(number, 60), "{mode}");
                slow += u32::from(begin.elapsed() > Duration::from_millis(300));
            }
            // Every 500 ms a sleeper looks by itself: a lost wake-up shows as a delay only. A busy
            // machine may delay a few packets as well.
            assert!(slow < 5, "{mode}: {slow} of 300 packets came only after 300 ms");
            assert!(bridge.stop().0.success());
        }
    }

    pub fn count_and_duration_end_the_run() {
        let (mut left, mut right) = (port("valeA:left"), port("valeB:right"));
        let bridge = Bridge::start(nm_bridge(&["valeA:x", "valeB:y", "--count", "3"]));
        for number in 0..3 {
            send(&mut left, &frame(number, 60));
            receive(&mut right);
        }
        let (status, end) = bridge.wait();
        assert!(status.success());
        assert_eq!(end["a_to_b_packets"], 3);

        // Exactly so many, also when more come in one batch.
        for mode in ["--burst=1024", "--copy"] {
            let bridge = Bridge::start(nm_bridge(&["valeA:x", "valeB:y", "--count", "7", mode]));
            for number in 0..50 {
                assert!(left.tx(0).push(&frame(number, 60)));
            }
            left.txsync().expect("txsync");
            let (status, end) = bridge.wait();
            assert!(status.success());
            assert_eq!(end["a_to_b_packets"], 7, "{mode}");
        }

        let bridge = Bridge::start(nm_bridge(&["valeA:x", "valeB:y", "--duration", "300ms"]));
        let (status, end) = bridge.wait();
        assert!(status.success());
        let seconds = end["seconds"].as_f64().expect("a number");
        assert!((0.3..5.0).contains(&seconds), "{end}");
    }

    pub fn usr1_reports_and_term_reports_and_ends_well() {
        let (mut left, mut right) = (port("valeA:left"), port("valeB:right"));
        let mut bridge = Bridge::start(nm_bridge(&["valeA:x", "valeB:y"]));
        send(&mut left, &frame(1, 60));
        receive(&mut right);
        bridge.signal(Signal::SIGUSR1);
        let totals = bridge.record();
        assert_eq!((&totals["type"], &totals["a_to_b_packets"]), (&"totals".into(), &1.into()));
        bridge.signal(Signal::SIGINT);
        let (status, end) = bridge.wait();
        assert_eq!(status.code(), Some(0));
        assert_eq!((&end["type"], &end["schema"]), (&"end".into(), &1.into()));
        assert_eq!((&end["a"], &end["b"]), (&"valeA:x".into(), &"valeB:y".into()));
    }

    pub fn capture_replayed_comes_out_as_capture() {
        let dir = tempfile::tempdir().expect("a directory");
        let (input, output) = (dir.path().join("in.pcap"), dir.path().join("out.pcap"));
        let mut writer = Writer::create(&input, 0).expect("create");
        for number in 0..20 {
            writer.write(Duration::from_secs(1), 0, &frame(number, 100)).expect("write");
        }
        drop(writer);
        let mut right = port("valeB:right");
        let pcap = format!("pcap:{}", input.display());
        let out = output.to_str().expect("text");
        let args = [&pcap, "valeB:y", "--count", "20", "--pcap-out", out, "--snaplen", "50"];
        let (status, end) = Bridge::start(nm_bridge(&args)).wait();
        assert!(status.success());
        assert_eq!(end["a_to_b_packets"], 20);
        let mut reader = Reader::open(&output, Options::default()).expect("a capture");
        for number in 0..20 {
            assert_eq!(receive(&mut right), frame(number, 100));
            let packet = reader.next().expect("readable").expect("as many as were moved");
            assert_eq!((packet.orig_len, packet.data), (100, &frame(number, 100)[..50]));
        }
        assert!(reader.next().expect("readable").is_none());
    }

    pub fn loopback_sends_packets_back() {
        let mut left = port("valeA:left");
        let bridge = Bridge::start(nm_bridge(&["-L", "valeA:x"]));
        for number in 0..10 {
            send(&mut left, &frame(number, 60));
            assert_eq!(receive(&mut left), frame(number, 60));
        }
        assert!(bridge.stop().0.success());
    }

    pub fn loopback_of_a_port_that_is_on_no_switch_sends_packets_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let bridge = Bridge::start(nm_bridge(&["-L", &format!("stream:{}", path.display())]));
        let mut peer = UnixStream::connect(&path).expect("it listens");
        peer.set_read_timeout(Some(TIMEOUT)).expect("a time");
        for number in 0..10 {
            let sent = [&60_u32.to_be_bytes()[..], &frame(number, 60)].concat();
            peer.write_all(&sent).expect("written");
            let mut came = [0; 64];
            peer.read_exact(&mut came).expect("sent back");
            assert_eq!(came[..], sent);
        }
        assert!(bridge.stop().0.success());
    }

    pub fn peer_that_comes_and_goes_does_not_fill_the_log() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, log) = (dir.path().join("s"), dir.path().join("log"));
        let mut command = nm_bridge(&["valeA:x", &format!("stream:{}", path.display())]);
        command.stderr(std::fs::File::create(&log).expect("created"));
        let begin = Instant::now();
        let bridge = Bridge::start(command);
        let read = || std::fs::read_to_string(&log).expect("read");
        for _ in 0..300 {
            let mut peer = UnixStream::connect(&path).expect("it listens");
            peer.write_all(&u32::MAX.to_be_bytes()).expect("written");
            // Cut off: what was written is what cannot be.
            let _ = peer.read(&mut [0; 1]);
        }
        let _peer = UnixStream::connect(&path).expect("it listens");
        until("the last change to be told", || read().ends_with("the link is up\n").then_some(()));
        // One line in half a second, and those at the begin and the end.
        let most = 3 + begin.elapsed().as_millis() as usize / 500;
        let lines = read().lines().count();
        assert!(lines <= most, "{lines} in {:?}", begin.elapsed());
        assert!(bridge.stop().0.success());
    }

    pub fn taken_port_is_a_failure_that_names_it() {
        let _mine = port("valeA:x/x");
        let (code, stdout, stderr) = outcome(&["valeA:x", "valeB:y"]);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        assert!(stderr.contains("opening port valeA:x"), "{stderr}");
    }
}

/// Runs a bridge that is to end by itself: exit code, stdout, stderr.
fn outcome(args: &[&str]) -> (Option<i32>, String, String) {
    let output = assert_cmd::Command::from_std(nm_bridge(args)).timeout(TIMEOUT).output();
    let output = output.expect("nm-bridge runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn wrong_usage_exits_with_2_and_says_why() {
    for (args, why) in [
        (&[][..], "which ports?"),
        (&["valeA:x"], "no host rings"),
        (&["valeA:x", "valeB:y", "0"], "invalid burst"),
        (&["valeA:x", "valeB:y", "-b", "many"], "invalid burst"),
        (&["valeA:x", "valeB:"], "the port is missing"),
        (&["valeA:x", "valeB:y{"], "id is missing"),
        (&["-i", "a", "-i", "b", "-i", "c"], "two ports"),
        (&["valeA:x", "valeB:y", "--no-such-flag"], "--no-such-flag"),
        (&["valeA:x", "valeB:y", "--duration", "0"], "longer than 0"),
        (&["valeA:x", "valeB:y", "--snaplen", "5"], "--pcap-out"),
        (&["valeA:x", "valeB:y", "--busy-poll", "--wait-mode", "block"], "cannot be used with"),
    ] {
        let (code, stdout, stderr) = outcome(args);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{args:?}: {stderr}");
        assert!(stderr.contains(why), "{args:?}: {stderr}");
    }
}

#[test]
fn help_and_version_are_data() {
    for (flag, part) in [("--help", "Exit status"), ("-h", "Usage:"), ("--version", "nm-bridge")] {
        let (code, stdout, stderr) = outcome(&[flag]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{flag}");
        assert!(stdout.contains(part), "{flag}: {stdout}");
    }
}
