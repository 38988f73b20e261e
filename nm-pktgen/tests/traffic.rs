//! nm-pktgen processes exchanging packets over VALE: counts are exact, contents arrive as sent, faults
//! are told apart. No test depends on how fast the machine is: rings hold all packets of a test, or
//! drops are part of the sum.

#[path = "../../lib/offload/tests/packet/mod.rs"]
mod packet;
mod rig;
#[path = "../../lib/nm-cli/tests/skip/mod.rs"]
mod skipping;

use netmap::{Options, Port, PortName, control};
use offload::Header;
use packet::Packet;
use rig::{Rig, number};
use skipping::skip;

/// Rings that hold every packet of a test, so that nothing is dropped however slow the receiver is.
const ROOMY: &str = "-C 4096";

#[test]
fn tx_to_rx_counts_agree_exactly() {
    let rig = Rig::new();
    let rx = rig.start(&format!("-i valeA:r -f rx -n 3000 {ROOMY}"));
    let sent = rig.end(&format!("-i valeA:t -f tx -n 3000 -l 100 {ROOMY}"));
    let (code, received, errors) = rx.finish();
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(sent["type"], "end");
    assert_eq!(
        (number(&sent, "tx_packets"), number(&sent, "tx_bytes"), number(&sent, "drops")),
        (3000, 300_000, 0)
    );
    assert_eq!((number(&received, "rx_packets"), number(&received, "rx_bytes")), (3000, 300_000));
    for (end, keys) in [
        (&sent, ["tx_pps", "tx_bps_l2", "tx_bps_l1", "seconds"]),
        (&received, ["rx_pps", "rx_bps_l2", "rx_bps_l1", "seconds"]),
    ] {
        for key in keys {
            assert!(end[key].as_f64().is_some_and(|value| value >= 0.0), "{key} in {end}");
        }
    }
    assert_eq!(number(&sent, "schema"), 1);
}

#[test]
fn pipe_carries_both_ways_and_waits_for_a_reader() {
    let rig = Rig::new();
    for (from, to) in [("valeA:x{1", "valeA:x}1"), ("valeA:x}1", "valeA:x{1")] {
        // More than the rings hold, and the sender is there first.
        let tx = rig.start(&format!("-i {from} -f txseq -n 5000 -l 100"));
        let rx = rig.start(&format!("-i {to} -f rxseq -n 5000 --fail-on-loss"));
        let (code, received, errors) = rx.finish();
        assert_eq!(code, Some(0), "{errors}");
        let (code, sent, errors) = tx.finish();
        assert_eq!(code, Some(0), "{errors}");
        let sums = |end, of: &str| (number(end, &format!("{of}_packets")), number(end, "drops"));
        assert_eq!((sums(&sent, "tx"), sums(&received, "rx")), ((5000, 0), (5000, 0)));
    }
    // At the same time, with a ring for each thread.
    let both: Vec<_> = [("{", "tx"), ("}", "rx"), ("}", "tx"), ("{", "rx")]
        .iter()
        .map(|(end, function)| {
            rig.start(&format!("-i valeA:x{end}2 -f {function} -p 2 -n 6000 -C 256,256,2,2"))
        })
        .collect();
    for run in both {
        let (code, _, errors) = run.finish();
        assert_eq!(code, Some(0), "{errors}");
    }
}

#[test]
fn overload_is_counted_and_nothing_vanishes() {
    let rig = Rig::new();
    let mut rx = rig.start("-i valeA:r -f rx");
    let sent = rig.end("-i valeA:t -f tx -n 2M");
    assert_eq!(number(&sent, "tx_packets"), 2_000_000);
    let expected = 2_000_000 - number(&sent, "drops");
    rx.totals_until(|totals| number(totals, "rx_packets") >= expected);
    let received = rx.stop();
    assert_eq!(number(&received, "rx_packets"), expected);
    assert_eq!(number(&received, "drops"), number(&sent, "drops"));
}

#[test]
fn threads_share_a_count_exactly() {
    let rig = Rig::new();
    let rx = rig.start("-i valeA:r -f rx -p 2 -n 3001 -C 4096,4096,2,2");
    // Broadcast all goes to ring 0: the other thread must end all the same.
    let sent = rig.end("-i valeA:t -f txseq -p 3 -n 3001 -C 4096,4096,3,3 -b 7");
    let (code, received, errors) = rx.finish();
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!((number(&sent, "tx_packets"), number(&received, "rx_packets")), (3001, 3001));
}

/// A tap is opened once, whatever the number of threads, and each of its queues is a thread's.
#[test]
fn threads_share_a_tap_with_a_queue_each() {
    let tap = format!("tap:nmq{}", std::process::id());
    let there: PortName = tap.parse().unwrap();
    if let Err(error) = Port::open_with(&there, &Options::default()) {
        return skip("threads_share_a_tap_with_a_queue_each", &format!("no tap here: {error}"));
    }
    let rig = Rig::new();
    let sent = rig.end(&format!("-i {tap} -f tx -p 3 -n 3001 -l 60"));
    assert_eq!((number(&sent, "tx_packets"), number(&sent, "drops")), (3001, 0));
    let received = rig.run(&format!("-i {tap} -f rx -p 2 -t 100ms --json"));
    let errors = String::from_utf8_lossy(&received.stderr);
    assert!(received.status.success() || received.status.code() == Some(3), "{errors}");
    let both = rig.run(&format!("-i {tap} -f ping -p 2 -n 1"));
    assert_eq!(both.status.code(), Some(2), "{}", String::from_utf8_lossy(&both.stderr));
}

#[test]
fn replay_arrives_byte_for_byte() {
    let rig = Rig::new();
    let packets: Vec<Vec<u8>> = (0..300u32)
        .map(|n| {
            let body = (0..48 + (n as usize * 37) % 3000).map(|at| (at as u32 * 7 + n) as u8);
            // Broadcast: an address that was learnt on the sender's own port would be dropped.
            [0xff; 6].into_iter().chain([2; 6]).chain(body).collect()
        })
        .collect();
    rig.write_pcap("in.pcap", &packets);
    let rx = rig.start(&format!("-i valeA:y -f rx -n 300 --pcap-out out.pcap {ROOMY}"));
    let sent = rig.end(&format!("-i valeA:x -f tx --pcap-in in.pcap --pcap-speed max {ROOMY}"));
    let (code, received, errors) = rx.finish();
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!((number(&sent, "tx_packets"), number(&received, "rx_packets")), (300, 300));
    assert!(rig.read_pcap("out.pcap") == packets, "the capture differs from what was replayed");
}

#[test]
fn replay_keeps_the_files_time_at_least() {
    let rig = Rig::new();
    rig.write_pcap("in.pcap", &vec![vec![2; 60]; 101]);
    // 100 gaps of a millisecond, once, or twice at double speed: never faster than that.
    let real = rig.end("-i null: -f tx --pcap-in in.pcap");
    let double = rig.end("-i null: -f tx --pcap-in in.pcap --pcap-speed x2 --pcap-loop 2");
    for (end, packets) in [(&real, 101), (&double, 202)] {
        assert_eq!(number(end, "tx_packets"), packets);
        assert!(end["elapsed_s"].as_f64().expect("a number") >= 0.1, "{end}");
        eprintln!("replay of 0.1 s took {} s", end["seconds"]);
    }
}

#[test]
fn snaplen_cuts_the_capture_only() {
    let rig = Rig::new();
    let rx = rig.start(&format!("-i valeA:y -f rx -n 5 --pcap-out out.pcap --snaplen 64 {ROOMY}"));
    rig.end(&format!("-i valeA:x -f tx -n 5 -l 1514 {ROOMY}"));
    let (_, received, _) = rx.finish();
    assert_eq!(number(&received, "rx_bytes"), 5 * 1514);
    assert!(rig.read_pcap("out.pcap").iter().all(|packet| packet.len() == 64));
}

#[test]
fn fragments_arrive_as_one_packet() {
    let rig = Rig::new();
    let rx = rig.start(&format!("-i valeA:y -f rx -n 20 --pcap-out out.pcap {ROOMY}"));
    rig.end(&format!("-i valeA:x -f tx -n 10 -l 5000 -F 3 -M 1500 {ROOMY} -b 3"));
    rig.end(&format!("-i valeA:x -f tx -n 10 -l 5000 {ROOMY}"));
    let (_, received, _) = rx.finish();
    assert_eq!((number(&received, "rx_packets"), number(&received, "rx_bytes")), (20, 100_000));
    let packets = rig.read_pcap("out.pcap");
    assert!(
        packets.windows(2).all(|pair| pair[0] == pair[1]),
        "cut in different ways, the same packet"
    );
    assert_eq!(packets[0][16..18], 4986u16.to_be_bytes(), "IPv4 total length");
}

#[test]
fn headers_that_are_asked_for_are_the_ports_meanwhile() {
    let rig = Rig::new();
    // Whoever has none gets frames without, and whoever asks for some reads none into his frames.
    for [of_rx, of_tx] in [["", "-H 12"], ["-H 12", ""], ["-H 10", "-H 12"]] {
        let rx =
            rig.start(&format!("-i valeA:r -f rxseq -n 50 {of_rx} --pcap-out out.pcap {ROOMY}"));
        let sent = rig.end(&format!("-i valeA:t -f txseq -n 50 -l 100 {of_tx} {ROOMY}"));
        let (code, received, errors) = rx.finish();
        assert_eq!(code, Some(0), "{errors}");
        assert_eq!((number(&sent, "tx_bytes"), number(&received, "rx_bytes")), (5000, 5000));
        assert_eq!((number(&received, "lost"), number(&received, "foreign")), (0, 0));
        assert!(rig.read_pcap("out.pcap").iter().all(|frame| frame.len() == 100));
    }
    // No capture has a header in it.
    rig.end("-i pcap:vnet.pcap -f txseq -n 3 -l 100 -H 12");
    assert!(rig.read_pcap("vnet.pcap").iter().all(|frame| frame.len() == 100));
    let received = rig.end("-i pcap:vnet.pcap -f rxseq -n 3 -H 12");
    assert_eq!((number(&received, "lost"), number(&received, "foreign")), (0, 0));
}

#[test]
fn headers_of_a_port_are_no_part_of_its_frames() {
    let rig = Rig::new();
    let rx = rig.start(&format!("-i valeA:r@conf:vnet-hdr=12 -f rxseq -n 50 {ROOMY}"));
    let sent = rig.end(&format!("-i valeA:t@conf:vnet-hdr=10 -f txseq -n 50 -l 100 {ROOMY}"));
    let (code, received, errors) = rx.finish();
    assert_eq!(code, Some(0), "{errors}");
    for (end, what) in [(&sent, "tx_bytes"), (&received, "rx_bytes")] {
        assert_eq!(number(end, what), 5000);
    }
    assert_eq!((number(&received, "lost"), number(&received, "foreign")), (0, 0));
}

#[test]
fn headers_of_a_port_in_use_are_nobody_elses_to_choose() {
    for (own, asked) in [(0, ""), (12, ""), (0, "-H 10"), (12, "-H 0")] {
        let rig = Rig::new();
        let rx = rig.start(&format!("-i valeA:r@conf:vnet-hdr={own} {asked} -f rx"));
        let refused = rig.run(&format!("-i valeA:r@conf:vnet-hdr={} -f tx -n 1", 12 - own));
        let message = String::from_utf8_lossy(&refused.stderr);
        assert!(message.contains(&format!("process {}", rx.pid())), "{own} {asked}: {message}");
        rx.stop();
    }
}

#[test]
fn headers_that_a_monitor_sees_may_change() {
    rig::within("headers_that_a_monitor_sees_may_change", |rig| {
        let name: netmap::PortName = "valeA:x".parse().expect("a name");
        netmap::control::create_port(&name, &netmap::Options::default()).expect("made");
        let mut seen = rig.start(&format!("-i valeA:x/r -f rx {ROOMY}"));
        let mut marks = rig.start(&format!("-i valeA:x/r -f rxseq {ROOMY}"));
        for (packets, header) in [(5, 0), (10, 12), (15, 10)] {
            netmap::control::set_vnet_hdr_len(&name, header).expect("set");
            rig.end(&format!("-i valeA:t -f txseq -n 5 -l 100 {ROOMY}"));
            for monitor in [&mut seen, &mut marks] {
                monitor.totals_until(|totals| number(totals, "rx_packets") == packets);
            }
        }
        assert_eq!(number(&seen.stop(), "rx_bytes"), 1500);
        let marks = marks.stop();
        assert_eq!((number(&marks, "rx_bytes"), number(&marks, "foreign")), (1500, 0));
    });
}

#[test]
fn capture_of_a_port_with_headers_holds_complete_frames() {
    let rig = Rig::new();
    let packet = Packet::default();
    let behind = |header: &Header| {
        let mut bytes = vec![0; 12];
        header.write(&mut bytes);
        [bytes, packet.frame(false)].concat()
    };
    let good = packet.header(1000);
    let bad = Header { csum_start: 9999, ..good };
    rig.write_pcap("in.pcap", &[behind(&bad), behind(&good)]);
    let port = |name: &str| format!("-i valeA:{name}@conf:vnet-hdr=12 {ROOMY}");
    let rx = rig.start(&format!("{} -f rx -n 2 --pcap-out out.pcap", port("r")));
    // As they are, headers among them.
    rig.end(&format!("{} -f tx --pcap-in in.pcap --pcap-speed max -H 0", port("t")));
    let (code, _, errors) = rx.finish();
    assert_eq!(code, Some(0), "{errors}");
    assert!(errors.contains("1 packets are not in the capture"), "{errors}");
    assert_eq!(rig.read_pcap("out.pcap"), packet.segments(1000));

    let rx = rig.start(&format!("{} -f rx -n 2 -X", port("r")));
    rig.end(&format!("{} -f tx --pcap-in in.pcap --pcap-speed max -H 0", port("t")));
    let (_, _, shown) = rx.finish();
    assert!(shown.contains("rx, virtio-net header 01 01 00 00 e8 03 22 00 10 00 00 00"), "{shown}");
}

#[test]
fn same_seed_sends_the_same_packets() {
    let rig = Rig::new();
    let make = |name: &str, seed: u32| {
        rig.end(&format!(
            "-i pcap:{name} -f tx -n 200 -l 60-1514 -z -Z --seed {seed} -S 02:00:00:00:00:01"
        ));
        rig.read_pcap(name)
    };
    let (a, b, c) = (make("a.pcap", 5), make("b.pcap", 5), make("c.pcap", 6));
    assert!(a == b && a != c);
    let sizes: std::collections::BTreeSet<usize> = a.iter().map(Vec::len).collect();
    assert!(
        sizes.len() > 50
            && *sizes.first().expect("some") >= 60
            && *sizes.last().expect("some") <= 1514
    );
}

#[test]
fn ranges_are_walked_packet_by_packet() {
    let rig = Rig::new();
    rig.end("-i pcap:a.pcap -f tx -n 6 -s 10.0.0.1:5-10.0.0.2:6 -d 10.9.9.9:7 -D 02:00:00:00:00:00-02:00:00:00:00:ff");
    let seen: Vec<(u8, u8, u8)> =
        rig.read_pcap("a.pcap").iter().map(|p| (p[29], p[35], p[5])).collect();
    assert_eq!(seen, [(1, 5, 0), (1, 6, 1), (2, 5, 2), (2, 6, 3), (1, 5, 4), (1, 6, 5)]);
}

#[test]
fn rxseq_tells_loss_reordering_and_duplicates_apart() {
    let rig = Rig::new();
    rig.end("-i pcap:all.pcap -f txseq -n 100");
    let all = rig.read_pcap("all.pcap");
    let mut faulty: Vec<Vec<u8>> = all[..10].to_vec();
    faulty.extend_from_slice(&all[13..20]); // 10, 11, 12 are missing
    faulty.push(all[11].clone()); // 11 comes late
    faulty.push(all[15].clone()); // 15 comes twice
    faulty.extend_from_slice(&all[20..]);
    faulty.push(vec![0xff; 60]); // a stranger
    rig.write_pcap("faulty.pcap", &faulty);
    let words = format!("-i valeA:r -f rxseq -n {} --fail-on-loss {ROOMY}", faulty.len());
    let rx = rig.start(&words);
    rig.end(&format!("-i valeA:t -f tx --pcap-in faulty.pcap --pcap-speed max {ROOMY}"));
    let (code, end, errors) = rx.finish();
    assert_eq!(code, Some(3), "the condition does not hold: {errors}");
    let count = |key: &str| number(&end, key);
    assert_eq!(
        (count("lost"), count("reordered"), count("duplicated"), count("foreign")),
        (2, 1, 1, 1)
    );
    assert_eq!(count("rx_packets"), faulty.len() as u64);
}

#[test]
fn rxseq_of_a_whole_stream_finds_no_fault() {
    let rig = Rig::new();
    let rx = rig.start(&format!("-i valeA:r -f rxseq -n 4000 --fail-on-loss {ROOMY}"));
    rig.end(&format!("-i valeA:t -f txseq -n 4000 -6 {ROOMY}"));
    let (code, end, _) = rx.finish();
    assert_eq!(code, Some(0));
    let count = |key: &str| number(&end, key);
    assert_eq!(
        (count("rx_packets"), count("lost"), count("reordered"), count("duplicated")),
        (4000, 0, 0, 0)
    );
}

#[test]
fn ping_measures_every_answer() {
    for mode in ["busy", "adaptive", "block"] {
        let rig = Rig::new();
        let pong = rig.start(&format!("-i valeA:pong -f pong --wait-mode {mode}"));
        let end = rig.end(&format!(
            "-i valeA:ping -f ping -n 300 -b 3 --wait-mode {mode} --latency-out rtt.hgrm"
        ));
        let answered = pong.stop();
        let count = |key: &str| number(&end, key);
        // A machine that stops a process for a second loses an answer: that is reported, not hidden.
        assert_eq!(count("tx_packets"), 300);
        assert_eq!(count("rx_packets") + count("lost"), 300);
        assert_eq!(count("rtt_count"), count("rx_packets"));
        assert_eq!((number(&answered, "rx_packets"), number(&answered, "tx_packets")), (300, 300));
        let order: Vec<u64> = ["min", "p50", "p90", "p99", "p999", "max"]
            .iter()
            .map(|key| count(&format!("rtt_{key}_ns")))
            .collect();
        assert!(order[0] > 0 && order.is_sorted(), "{order:?}");
        let text = std::fs::read_to_string(rig.path("rtt.hgrm")).expect("written");
        assert!(text.contains(&format!("Total count    = {:>12}]", count("rtt_count"))), "{text}");
        eprintln!(
            "round trip, {mode}: p50 {} ns, p99 {} ns",
            count("rtt_p50_ns"),
            count("rtt_p99_ns")
        );
    }
}

#[test]
fn ping_without_a_pong_reports_loss() {
    let rig = Rig::new();
    let output = rig.run("-i valeA:ping -f ping -n 1 --fail-on-loss --json");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let end: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((number(&end, "lost"), number(&end, "rtt_count")), (1, 0));
}

#[test]
fn receiver_ends_when_traffic_ended() {
    let rig = Rig::new();
    let rx = rig.start(&format!("-i valeA:r -f rx -W {ROOMY}"));
    rig.end(&format!("-i valeA:t -f tx -n 100 {ROOMY}"));
    let (code, end, _) = rx.finish();
    assert_eq!((code, number(&end, "rx_packets")), (Some(0), 100));
}

#[test]
fn warmup_is_not_counted() {
    let rig = Rig::new();
    let end = rig.end("-i null: -f tx -R 1000 -n 50 --warmup 100ms");
    assert_eq!(number(&end, "tx_packets"), 50);
    // Both ends warm up: the receiver's ends never, so it counts nothing of what it takes.
    let rx = rig.start(&format!("-i valeA:r -f rx --warmup 1h {ROOMY}"));
    rig.end(&format!("-i valeA:t -f tx -n 100 {ROOMY}"));
    let end = rx.stop();
    assert_eq!((number(&end, "rx_packets"), number(&end, "drops")), (0, 0));
}

#[test]
fn rates_are_kept_and_reported() {
    let rig = Rig::new();
    for (rate, pps) in [("1k", 1e3), ("100kpps", 1e5), ("1Mpps", 1e6), ("480Mbps", 1e6)] {
        let end = rig.end(&format!("-i null: -f tx -R {rate} -t 500ms"));
        let measured = end["tx_pps"].as_f64().expect("a number");
        let off = (measured / pps - 1.0) * 100.0;
        eprintln!("rate {rate}: {measured:.1} pps, off by {off:+.3} %");
        // More than the schedule allows is a mistake of ours; less may be a busy machine, which is
        // not judged here (the schedule itself is tested in `rate`).
        let elapsed = end["elapsed_s"].as_f64().expect("a number");
        let sent = number(&end, "tx_packets");
        assert!(sent > 0 && sent as f64 <= pps * elapsed + 512.0, "{end}");
    }
}

#[test]
fn indirect_slots_carry_the_packet_itself() {
    let rig = Rig::new();
    let seen = rig.path("seen.pcap");
    let rx = rig.start(&format!("-i valeA:r -f rx -n 20 --pcap-out {} {ROOMY}", seen.display()));
    let sent = rig.end(&format!("-i valeA:t -f tx -n 20 -I -l 900 {ROOMY}"));
    let (code, received, errors) = rx.finish();
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!((number(&sent, "tx_packets"), number(&sent, "drops")), (20, 0));
    assert_eq!(number(&received, "rx_bytes"), 18_000);
    let direct = rig.path("direct.pcap");
    let rx = rig.start(&format!("-i valeA:r -f rx -n 20 --pcap-out {} {ROOMY}", direct.display()));
    rig.end(&format!("-i valeA:t -f tx -n 20 -l 900 {ROOMY}"));
    assert_eq!(rx.finish().0, Some(0));
    assert_eq!(rig.read_pcap("seen.pcap"), rig.read_pcap("direct.pcap"));
}

#[test]
fn who_receives_on_a_port_in_use_is_told_so_and_who_monitors_it_is_not() {
    let name = "who_receives_on_a_port_in_use_is_told_so_and_who_monitors_it_is_not";
    rig::within(name, |rig| {
        let other = rig.start("-i valeA:t -f rx");
        while control::names().iter().all(|name| name != "valeA:t") {
            std::thread::yield_now();
        }
        let said = |port: &str| {
            let output = rig.run(&format!("-i {port} -f rx --duration 10ms"));
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stderr).expect("text")
        };
        assert!(said("valeA:t").contains("valeA:t is also open"));
        for monitor in ["valeA:t/tr", "valeA:t/r", "valeA:t/zt"] {
            let said = said(monitor);
            assert!(!said.contains("is also open"), "{said}");
        }
        other.stop();
    });
}

#[test]
fn packets_whose_buffers_a_monitor_takes_are_written_again() {
    let name = "packets_whose_buffers_a_monitor_takes_are_written_again";
    rig::within(name, |rig| {
        let options = |n| Options { tx_slots: Some(64), rx_slots: Some(n), ..Options::default() };
        let port = |name: &str| -> PortName { name.parse().expect("a name") };
        control::create_port(&port("valeA:t"), &options(64)).expect("made");
        for words in ["-f tx", "-f txseq"] {
            // Both have room for all, so that each packet's buffer goes to the monitor, which has other contents to give.
            let mut got = Port::open_with(&port("valeA:r"), &options(4096)).expect("opened");
            let mut monitor = Port::open_with(&port("valeA:t/zt"), &options(4096)).expect("opened");
            let mut t = Port::open_with(&port("valeA:t"), &options(64)).expect("opened");
            for _ in 0..5000 {
                assert!(t.tx(0).push(&[0xaa; 300]));
                t.txsync().expect("synced");
                for port in [&mut got, &mut monitor] {
                    port.rxsync().expect("synced");
                    let mut ring = port.rx(0);
                    ring.advance(ring.available());
                }
            }
            for port in [&mut got, &mut monitor] {
                port.rxsync().expect("synced");
            }
            let before = monitor.counters().rx_packets;
            drop(t);
            rig.end(&format!("-i valeA:t {words} -n 1000 -l 300 -b 16 --no-indirect"));
            assert_eq!(monitor.counters().rx_packets - before, 1000);
            got.rxsync().expect("synced");
            let ring = got.rx(0);
            let frames: Vec<Vec<u8>> = ring.batch(4096).map(|s| s.frame().to_vec()).collect();
            assert_eq!(frames.len(), 1000);
            // Payloads are zeros behind their mark.
            let stale = frames.iter().filter(|frame| frame[100..].iter().any(|&byte| byte != 0));
            assert_eq!(stale.count(), 0, "{words}");
            let first = &frames[0];
            let same = frames.iter().filter(|frame| *frame == first).count();
            assert!(words != "-f tx" || same == 1000, "{same} of 1000 are the same");
        }
    });
}
