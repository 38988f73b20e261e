//! nm-bridge as its users meet it: real processes, real switches, the library's own ports as ends.
//!
//! Each test runs in a process and a root directory of its own: the root is an environment variable,
//! and a test that changed it under its neighbours' feet would be worse than none.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use netmap::{Interest, Port, Wait};
use nix::sys::signal::Signal;
use nm_capture::{Options, Reader, Writer};

#[path = "../../lib/offload/tests/packet/mod.rs"]
mod packet;
mod support;
use offload::Header;
use support::{Bridge, TIMEOUT, nm_bridge, until};

/// Set in the process that runs the body.
const INSIDE: &str = "NM_BRIDGE_TEST_INSIDE";

/// Runs `body` in a fresh process with a fresh root.
fn in_fresh_root(name: &str, body: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let root = tempfile::tempdir_in("/dev/shm").expect("a directory for the root");
    let status = Command::new(std::env::current_exe().expect("this test"))
        .args([name, "--exact", "--nocapture"])
        .env("NETMAP_ROOT", root.path())
        .env(INSIDE, "1")
        .status()
        .expect("this test runs again");
    assert!(status.success(), "{name}: {status}");
}

/// Declares tests that run each in a fresh root.
macro_rules! tests {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            in_fresh_root(stringify!($name), bodies::$name);
        }
    )*};
}

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
    bridge_however_it_ends_leaves_no_headers_on_a_port_that_stays
    headers_of_a_bridges_ports_are_nobody_elses_to_choose
    capture_follows_the_headers_of_the_port_that_it_sees
    what_came_before_headers_changed_is_discarded_and_counted
    headers_of_a_monitor_that_the_other_port_cannot_have_are_refused
    headers_that_a_peer_wrote_are_taken_back
    idle_bridge_sleeps_in_both_modes
    sleeping_bridge_wakes_for_a_single_packet
    count_and_duration_end_the_run
    usr1_reports_and_term_reports_and_ends_well
    capture_replayed_comes_out_as_capture
    capture_of_frames_with_headers_holds_complete_ones
    loopback_sends_packets_back
    loopback_of_a_port_that_is_on_no_switch_sends_packets_back
    peer_that_comes_and_goes_does_not_fill_the_log
    taken_port_is_a_failure_that_names_it
}

/// A frame to everybody, with its number, of `len` bytes.
fn frame(number: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![0xee; len];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[14..18].copy_from_slice(&number.to_be_bytes());
    frame
}

/// Sends one packet, whatever it takes.
fn send(port: &mut Port, packet: &[u8]) {
    until("room to send", || {
        port.tx(0).push(packet).then_some(()).or_else(|| {
            port.txsync().expect("txsync");
            None
        })
    });
    port.txsync().expect("txsync");
}

/// The next packet, or nothing within `time`.
fn receive_within(port: &mut Port, time: Duration) -> Option<Vec<u8>> {
    let end = Instant::now() + time;
    port.rxsync().expect("rxsync");
    while port.rx(0).available() == 0 {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        port.wait(Interest::RX, Wait::Block, Some(left)).expect("wait");
    }
    let mut ring = port.rx(0);
    let mut packet = Vec::new();
    for i in 0..ring.available() {
        let slot = ring.slot(i);
        let begin = packet.len();
        packet.resize(begin + slot.len(), 0);
        slot.frame().copy_to(&mut packet[begin..]);
        if !slot.more_frag() {
            ring.advance(i + 1);
            return Some(packet);
        }
    }
    panic!("a packet without an end");
}

fn receive(port: &mut Port) -> Vec<u8> {
    receive_within(port, TIMEOUT).expect("a packet")
}

fn port(name: &str) -> Port {
    Port::open(name).unwrap_or_else(|error| panic!("{name}: {error}"))
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

    fn with_backpressure(switch: &str) {
        let switch = netmap::control::Switch::open(switch).expect("it has a port");
        switch.set_backpressure(true).expect("it is ours");
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

    pub fn bridge_however_it_ends_leaves_no_headers_on_a_port_that_stays() {
        let name = "valeA:x".parse().expect("a name");
        netmap::control::create_port(&name, &netmap::Options::default()).expect("made");
        let mut other = port("valeB:y@conf:vnet-hdr=12");
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let bridge = Bridge::start(nm_bridge(&["valeA:x", "valeB:y"]));
            assert_eq!(port("valeA:x").vnet_hdr_len(), 12, "they have agreed");
            bridge.signal(signal);
            drop(bridge);
            assert_eq!(port("valeA:x").vnet_hdr_len(), 0, "{signal}");
            assert_eq!(other.vnet_hdr_len(), 12, "{signal}");
        }
        other.set_vnet_hdr_len(0).expect("set");
    }

    pub fn headers_of_a_bridges_ports_are_nobody_elses_to_choose() {
        let name = |port: &str| port.parse::<netmap::PortName>().expect("a name");
        let ends = ["valeA:x", "valeB:y"];
        for end in ends {
            netmap::control::create_port(&name(end), &netmap::Options::default()).expect("made");
        }
        let (mut left, mut right) = (port("valeA:left"), port("valeB:right"));
        for (other, most) in [(ends[1], 12), ("null:", 10)] {
            let bridge = Bridge::start(nm_bridge(&[ends[0], other]));
            for len in [10, most] {
                let refused = netmap::control::set_vnet_hdr_len(&name(ends[0]), len);
                let e = refused.expect_err("it has it on loan").to_string();
                assert!(e.contains(&format!("process {}", bridge.pid())), "{e}");
            }
            send(&mut left, &frame(1, 80));
            if other == ends[1] {
                assert_eq!(receive(&mut right), frame(1, 80));
            }
            bridge.signal(Signal::SIGKILL);
            drop(bridge);
            netmap::control::set_vnet_hdr_len(&name(ends[0]), 10).expect("nobody has it any more");
            netmap::control::set_vnet_hdr_len(&name(ends[0]), 0).expect("nobody has it any more");
        }
    }

    pub fn capture_follows_the_headers_of_the_port_that_it_sees() {
        let dir = tempfile::tempdir().expect("a directory");
        let output = dir.path().join("out.pcap");
        let capture = format!("pcap:{}", output.display());
        let (mut left, _right) = (port("valeA:left"), port("valeA:right"));
        let bridge = Bridge::start(nm_bridge(&["valeA:left/t", &capture]));
        let packet = |number, header: usize| [vec![0; header], frame(number, 80)].concat();
        for (number, header) in [(0, 0), (1, 12)] {
            // As by a bridge to a tap that begins meanwhile. What is under way at that time may be lost.
            left.borrow_vnet_hdr_len(header).expect("lent");
            let before = file_bytes(&output);
            until("a packet in the capture", || {
                send(&mut left, &packet(number, header.into()));
                std::thread::yield_now();
                (file_bytes(&output) > before.max(24)).then_some(())
            });
        }
        // The last ones of a port that goes have the headers that it had.
        bridge.stop_in_its_sleep();
        send(&mut left, &packet(2, 12));
        drop(left);
        bridge.signal(Signal::SIGCONT);
        assert!(bridge.wait().0.success());
        let mut captured = frames(&output);
        captured.dedup();
        assert_eq!(captured, [0, 1, 2].map(|number| frame(number, 80)));
    }

    pub fn what_came_before_headers_changed_is_discarded_and_counted() {
        for swapped in [false, true] {
            let (mut left, _neighbour) = (port("valeA:left"), port("valeA:neighbour"));
            let few = netmap::Options { rx_slots: Some(64), ..netmap::Options::default() };
            let name = "valeB:right".parse().expect("a name");
            let mut right = Port::open_with(&name, &few).expect("opened");
            with_backpressure("valeB");
            let mut ends = ["valeA:left/t", "valeB:y"];
            if swapped {
                ends.reverse();
            }
            let mut command = nm_bridge(&ends);
            command.stderr(Stdio::piped());
            let mut bridge = Bridge::start(command);
            let mut stderr = bridge.stderr().expect("piped");
            for number in 0..100 {
                send(&mut left, &frame(number, 80));
            }
            // That many fit. The bridge has the others to send.
            until("a full ring", || {
                right.rxsync().expect("rxsync");
                (right.rx(0).available() == 63).then_some(())
            });
            until("the bridge to have taken all", || {
                bridge.signal(Signal::SIGUSR1);
                let totals = bridge.record();
                let packets = |way: &str| totals[format!("{way}_packets")].as_u64();
                (packets("a_to_b").max(packets("b_to_a")) == Some(100)).then_some(())
            });
            bridge.stop_in_its_sleep();
            // In two slots, in one, and one that begins as a header does: nobody else would drop it.
            for packet in [frame(100, 3000), frame(101, 80), vec![0; 80]] {
                send(&mut left, &packet);
            }
            left.borrow_vnet_hdr_len(12).expect("lent");
            bridge.signal(Signal::SIGCONT);
            until("the same headers", || (port("valeB:y").vnet_hdr_len() == 12).then_some(()));
            for number in 0..63 {
                assert_eq!(receive(&mut right), frame(number, 80));
            }
            send(&mut left, &[vec![0; 12], frame(103, 80)].concat());
            assert_eq!(receive(&mut right), frame(103, 80));
            let (_, end) = bridge.stop();
            let drops = ["a_to_b_drops", "b_to_a_drops"].map(|way| end[way].as_u64());
            assert_eq!(drops[usize::from(swapped)], Some(37 + 3), "{end}");
            assert_eq!(drops[usize::from(!swapped)], Some(0), "{end}");
            let mut said = String::new();
            stderr.read_to_string(&mut said).expect("text");
            let news = "frames of valeA:left/t carry virtio-net headers of 12 bytes now";
            assert!(said.contains(news), "{said}");
        }
    }

    pub fn headers_of_a_monitor_that_the_other_port_cannot_have_are_refused() {
        let _left = port("valeA:left@conf:vnet-hdr=12");
        let output =
            nm_bridge(&["valeA:left/t", "null:", "--duration", "1s"]).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        let why = "valeA:left/t has virtio-net headers of 12 bytes, and null: of 0";
        assert!(output.status.code() == Some(1) && said.contains(why), "{output:?}");
    }

    pub fn headers_that_a_peer_wrote_are_taken_back() {
        let name: netmap::PortName = "valeA:x".parse().expect("a name");
        netmap::control::create_port(&name, &netmap::Options::default()).expect("made");
        let (mut left, mut right) = (port("valeA:left"), port("valeB:right"));
        let root = std::env::var_os("NETMAP_ROOT").expect("it is set");
        let switch = std::path::Path::new(&root).join("valeA/switch");
        let read = || std::fs::read(&switch).expect("the file of the switch");
        // Where the length is, and that some port has one.
        let none = read();
        netmap::control::set_vnet_hdr_len(&name, 12).expect("set");
        let some = read();
        netmap::control::set_vnet_hdr_len(&name, 0).expect("set");
        let at = (0..none.len()).find(|&i| (none[i], some[i]) == (0, 12)).expect("a length");
        let mut command = nm_bridge(&["valeA:x", "valeB:y"]);
        command.stderr(Stdio::piped());
        let mut bridge = Bridge::start(command);
        let mut stderr = bridge.stderr().expect("piped");
        let file = std::fs::File::options().write(true).open(&switch).expect("it is ours");
        std::os::unix::fs::FileExt::write_all_at(&file, &[12], at as u64).expect("written");
        until("its own headers", || {
            send(&mut left, &frame(1, 80)); // by whom the bridge is woken
            (port("valeA:x").vnet_hdr_len() == 0).then_some(())
        });
        while receive_within(&mut right, Duration::ZERO).is_some() {}
        send(&mut left, &frame(2, 80));
        until("a frame", || (receive(&mut right) == frame(2, 80)).then_some(()));
        assert!(bridge.stop().0.success());
        let mut said = String::new();
        stderr.read_to_string(&mut said).expect("text");
        assert!(!said.contains("carry"), "nothing has changed: {said}");
    }

    fn file_bytes(path: &std::path::Path) -> u64 {
        std::fs::metadata(path).map_or(0, |file| file.len())
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

    pub fn capture_of_frames_with_headers_holds_complete_ones() {
        let dir = tempfile::tempdir().expect("a directory");
        let output = dir.path().join("out.pcap");
        let out = output.to_str().expect("text");
        let headers = netmap::Options { vnet_hdr_len: Some(12), ..netmap::Options::default() };
        let open = |name: &str| Port::open_with(&name.parse().expect("a name"), &headers);
        let mut left = open("valeA:left").expect("opened");
        let _right = open("valeB:right").expect("opened");
        let ends = ["valeA:x@conf:vnet-hdr=12", "valeB:y@conf:vnet-hdr=12"];
        let bridge =
            Bridge::start(nm_bridge(&[ends[0], ends[1], "--count", "2", "--pcap-out", out]));
        let packet = crate::packet::Packet::default();
        let mut bytes = vec![0; 12];
        packet.header(1000).write(&mut bytes);
        bytes.extend(packet.frame(false));
        for _ in 0..2 {
            send(&mut left, &bytes);
        }
        assert!(bridge.wait().0.success());
        let segments = packet.segments(1000);
        assert_eq!(frames(&output), [segments.clone(), segments.clone()].concat());
        // A monitor's packets have its port's headers; the port's do as well.
        for source in ["valeA:left/t", "valeA:x@conf:vnet-hdr=12"] {
            let output = dir.path().join(&source[6..7]);
            let capture = format!("pcap:{}", output.display());
            let bridge = Bridge::start(nm_bridge(&[source, &capture, "--count", "1"]));
            send(&mut left, &bytes);
            assert!(bridge.wait().0.success());
            assert_eq!(frames(&output), segments, "{source}");
        }
    }

    fn frames(path: &std::path::Path) -> Vec<Vec<u8>> {
        let mut reader = Reader::open(path, Options::default()).expect("a capture");
        let next = || reader.next().expect("readable").map(|packet| packet.data.to_vec());
        std::iter::from_fn(next).collect()
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
