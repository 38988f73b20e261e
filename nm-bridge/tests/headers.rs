//! Virtio-net headers of a bridge's ports: borrowed and given back, changed by others, followed, and left out of captures.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use netmap::Port;
use nix::sys::signal::Signal;

#[path = "support/fresh.rs"]
mod fresh;
#[path = "../../lib/offload/tests/packet/mod.rs"]
mod packet;
mod support;
use fresh::{frame, frames, port, receive, receive_within, send, tests, with_backpressure};
use offload::Header;
use support::{Bridge, nm_bridge, until};

tests! {
    bridge_however_it_ends_leaves_no_headers_on_a_port_that_stays
    headers_of_a_bridges_ports_are_nobody_elses_to_choose
    capture_follows_the_headers_of_the_port_that_it_sees
    what_came_before_headers_changed_is_discarded_and_counted
    headers_of_a_monitor_that_the_other_port_cannot_have_are_refused
    headers_that_a_peer_wrote_are_taken_back
    capture_of_frames_with_headers_holds_complete_ones
}

mod bodies {
    use super::*;

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
}
