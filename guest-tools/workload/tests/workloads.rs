//! Every workload on every discipline, against the fake device: what goes over the wire, and what the
//! result line says about it.

#[path = "../../driver/tests/fake/mod.rs"]
mod fake;

use e1000pv_driver::{Config, Cpu, Nic};
use fake::{Bar0, Machine, PARAVIRT};
use guest_workload::{
    Addresses, Plan, RunError, Seen, Summary, Template, judge, run, turn, write_error,
};
use nm_stream::{Kind, Mark};

const DRIVERS: [&str; 5] = [
    "driver=plain",
    "driver=plain kick=batch rs=batch",
    "driver=plain irq=masked",
    "driver=combine",
    "driver=csb",
];

/// A buffer outside of any ring under test.
struct Scratch(Nic<Bar0>);

impl Scratch {
    fn new() -> Scratch {
        let machine = Machine::new(1, &[false], 1 << 20);
        let config = Config { tx_descriptors: 8, rx_descriptors: 8, ..Config::default() };
        let mut dma = machine.clone();
        Scratch(Nic::new(machine.bar(0), &mut dma, &machine, &config).expect("starts"))
    }

    fn judge(&self, frame: &[u8]) -> Seen {
        let slot = self.0.tx_slot(0);
        slot.buffer().write(frame);
        judge(slot.buffer(), frame.len())
    }

    fn packet(&self, kind: Kind, seq: u64, size: usize) -> Vec<u8> {
        let addresses = Addresses {
            src_mac: [2, 0, 0, 0, 0, 9],
            dst_mac: [2, 0, 0, 0, 0, 1],
            src_ip: [10, 0, 0, 9],
            dst_ip: [10, 0, 0, 1],
            src_port: 7,
            dst_port: 8,
        };
        let mark = Mark { seq: 0, run: 77, kind, thread: 0, value: 0 };
        let template = Template::new(&addresses, size, mark);
        let slot = self.0.tx_slot(0);
        template.lay(slot.buffer());
        template.stamp(slot.buffer(), seq as u32, seq);
        let mut frame = vec![0; size];
        slot.buffer().read(&mut frame);
        frame
    }

    /// What an echo at the other end of the wire makes of a frame.
    fn turned(&self, frame: &[u8]) -> Vec<u8> {
        let slot = self.0.tx_slot(0);
        slot.buffer().write(frame);
        let Seen::Marked(mark) = judge(slot.buffer(), frame.len()) else {
            panic!("not one of ours");
        };
        turn(slot.buffer(), Some(mark));
        let mut back = vec![0; frame.len()];
        slot.buffer().read(&mut back);
        back
    }
}

fn plan(line: &str) -> Plan {
    let mut plan = Plan::parse(line).expect(line);
    plan.nic.subsystem_id = PARAVIRT;
    plan
}

fn nics(machine: &Machine, plan: &Plan) -> Vec<Nic<Bar0>> {
    let mut dma = machine.clone();
    let start = |device| Nic::new(machine.bar(device), &mut dma, machine, &plan.nic);
    (0..plan.function.nics()).map(start).collect::<Result<_, _>>().expect("devices start")
}

fn execute(machine: &Machine, line: &str) -> Summary {
    let plan = plan(line);
    run(&plan, &mut nics(machine, &plan), machine).expect(line)
}

fn machine(devices: usize) -> Machine {
    Machine::new(42, &[true, true][..devices], 2 << 20)
}

fn marks(frames: &[Vec<u8>]) -> Vec<Mark> {
    let scratch = Scratch::new();
    let mark = |frame: &Vec<u8>| match scratch.judge(frame) {
        Seen::Marked(mark) => mark,
        other => panic!("{other:?}"),
    };
    frames.iter().map(mark).collect()
}

#[test]
fn tx_sends_the_count_in_order_at_any_size() {
    for driver in DRIVERS {
        for (size, ring) in [(60, 8), (61, 16), (1514, 64)] {
            let machine = machine(1);
            let summary = execute(
                &machine,
                &format!("tx count=500 size={size} ring={ring} dst=02:00:00:00:00:05 {driver}"),
            );
            let sent = machine.take_sent(0);
            assert_eq!((summary.packets, summary.bytes), (500, 500 * size as u64), "{driver}");
            assert!(sent.iter().all(|frame| frame.len() == size && frame[5] == 5));
            assert!(sent.iter().all(|frame| frame[6..12] == [2, 0, 0, 0, 0, 1]), "own address");
            let marks = marks(&sent);
            assert!(marks.iter().enumerate().all(|(at, mark)| mark.value == at as u64));
            assert!(summary.flawless() && summary.duration_ns > 0 && summary.pps() > 0);
            assert_eq!(summary.interrupts, machine.interrupt_count(), "{driver}");
        }
    }
}

#[test]
fn tx_keeps_its_rate_and_ends_with_its_duration() {
    for driver in DRIVERS {
        let machine = machine(1);
        let summary = execute(&machine, &format!("tx rate=10k duration=100ms ring=64 {driver}"));
        assert!((990..=1001).contains(&summary.packets), "{driver}: {}", summary.packets);
        assert!((9_900..=10_100).contains(&summary.pps()), "{driver}: {}", summary.pps());
        assert_eq!(machine.take_sent(0).len() as u64, summary.packets);
    }
}

#[test]
fn tx_stops_when_asked_to() {
    let machine = machine(1);
    machine.0.stop_at.set(Some(50_000_000));
    let summary = execute(&machine, "tx driver=csb ring=64");
    assert!(summary.packets > 0);
    assert_eq!(machine.take_sent(0).len() as u64, summary.packets);
}

#[test]
fn rx_counts_what_is_wrong() {
    let scratch = Scratch::new();
    for driver in DRIVERS {
        let machine = machine(1);
        let mut arp = scratch.packet(Kind::Seq, 0, 60);
        arp[13] = 6;
        let mut torn = scratch.packet(Kind::Seq, 6, 200);
        torn[150] ^= 1;
        for seq in [0, 1, 2, 4, 3, 3, 5, 9] {
            machine.send_in(0, scratch.packet(Kind::Seq, seq, 60 + seq as usize));
        }
        machine.send_in(0, arp);
        machine.send_in(0, torn);
        let summary = execute(&machine, &format!("rx idle=10ms ring=8 {driver}"));
        assert_eq!((summary.packets, summary.bad, summary.foreign), (9, 1, 1), "{driver}");
        assert_eq!((summary.lost, summary.reordered, summary.duplicated), (3, 1, 1), "{driver}");
        assert!(!summary.flawless());
        assert_eq!(summary.bytes, 9 * 60 + 27);
    }
}

#[test]
fn receivers_that_never_got_a_packet_end_when_idle() {
    for (work, nics) in [("rx", 1), ("echo", 1), ("forward", 2)] {
        let machine = machine(nics);
        let summary = execute(&machine, &format!("{work} idle=10ms ring=8 driver=csb"));
        assert_eq!(summary.packets, 0, "{work}");
    }
}

#[test]
fn first_packet_may_be_waited_for_longer_than_the_others() {
    let machine = machine(1);
    let before = Cpu::now_ns(&machine);
    execute(&machine, "rx idle=10ms wait_first=5s ring=8 driver=csb");
    let waited = Cpu::now_ns(&machine) - before;
    assert!((5_000_000_000..10_000_000_000).contains(&waited), "{waited}");
}

#[test]
fn rx_ends_with_its_count_and_does_not_take_more() {
    let scratch = Scratch::new();
    let machine = machine(1);
    (0..100).for_each(|seq| machine.send_in(0, scratch.packet(Kind::Seq, seq, 60)));
    let summary = execute(&machine, "rx count=37 ring=64 driver=csb delay=1000");
    assert_eq!(summary.packets, 37);
    assert!(summary.flawless());
}

#[test]
fn rx_without_packets_ends_with_its_duration_asleep() {
    let machine = machine(1);
    let summary = execute(&machine, "rx duration=5s driver=csb ring=8");
    assert_eq!((summary.packets, summary.duration_ns, summary.pps()), (0, 0, 0));
    assert!(summary.idles <= 21, "{} sleeps in five quiet seconds", summary.idles);
}

#[test]
fn ping_measures_what_the_echo_answers() {
    for driver in DRIVERS {
        let machine = machine(1);
        let scratch = Scratch::new();
        let mut sent = 0u32;
        machine.set_peer(0, move |frame| {
            sent += 1;
            // One in ten is lost.
            (!sent.is_multiple_of(10)).then(|| scratch.turned(&frame))
        });
        let summary = execute(&machine, &format!("ping count=50 interval=1ms ring=8 {driver}"));
        let rtt = summary.rtt.expect("ping measures");
        assert_eq!((summary.packets, summary.lost, rtt.count), (50, 5, 45), "{driver}");
        assert!(rtt.min_ns > 0 && rtt.min_ns <= rtt.p50_ns && rtt.p50_ns <= rtt.p99_ns);
        assert!(rtt.p999_ns <= rtt.max_ns && rtt.max_ns < 1_000_000, "{driver}: {rtt:?}");
    }
}

#[test]
fn echo_answers_pings_and_nothing_else_unless_told() {
    let scratch = Scratch::new();
    for driver in DRIVERS {
        for (all, answered) in [("off", 30), ("on", 60)] {
            let machine = machine(1);
            for seq in 0..30 {
                for kind in [Kind::Ping, Kind::Seq, Kind::Pong] {
                    machine.send_in(0, scratch.packet(kind, seq, 60 + 40 * seq as usize));
                }
            }
            let summary = execute(&machine, &format!("echo idle=10ms ring=16 all={all} {driver}"));
            let marks = marks(&machine.take_sent(0));
            assert_eq!((summary.packets, summary.foreign), (answered, 90 - answered), "{driver}");
            assert_eq!(marks.len() as u64, answered);
            let pongs: Vec<u64> = marks
                .iter()
                .filter(|mark| mark.kind == Kind::Pong)
                .map(|mark| mark.value)
                .collect();
            assert_eq!(pongs, (0..30).collect::<Vec<_>>());
        }
    }
}

#[test]
fn forward_moves_both_ways_unchanged_and_in_order() {
    let scratch = Scratch::new();
    for driver in DRIVERS {
        let machine = machine(2);
        let frames = |base: u64| {
            let scratch = &scratch;
            (0..200).map(move |seq| scratch.packet(Kind::Seq, base + seq, 60 + 7 * seq as usize))
        };
        frames(0).for_each(|frame| machine.send_in(0, frame));
        frames(1000).for_each(|frame| machine.send_in(1, frame));
        let summary = execute(&machine, &format!("forward idle=10ms ring=16 delay=10 {driver}"));
        assert_eq!(summary.packets, 400, "{driver}");
        assert_eq!(machine.take_sent(1), frames(0).collect::<Vec<_>>(), "{driver}");
        assert_eq!(machine.take_sent(0), frames(1000).collect::<Vec<_>>(), "{driver}");
        assert_eq!((machine.incoming(0), machine.incoming(1)), (0, 0));
    }
}

#[test]
fn forward_with_one_device_is_refused() {
    let machine = machine(1);
    let rx = plan("rx");
    let mut one = nics(
        &machine,
        &Plan { nic: Config { tx_descriptors: 8, rx_descriptors: 8, ..rx.nic }, ..rx },
    );
    let error = run(&plan("forward"), &mut one, &machine).expect_err("one device");
    assert!(matches!(error, RunError::Nics { present: 1, .. }));
    assert_eq!(error.to_string(), "forward needs 2 devices, there are 1");
}

#[test]
fn result_is_one_line_of_json_with_all_fields() {
    let machine = machine(1);
    let scratch = Scratch::new();
    machine.set_peer(0, move |frame| Some(scratch.turned(&frame)));
    let summary = execute(&machine, "ping count=3 ring=8 driver=csb");
    let mut line = String::new();
    summary.write_json(&mut line).expect("memory");
    assert!(
        line.starts_with(r#"{"schema":1,"workload":"ping","driver":"csb","ring":8,"packets":3,"#)
    );
    assert!(line.ends_with("}\n") && line.matches('\n').count() == 1);
    for key in [
        "bytes",
        "duration_ns",
        "pps",
        "lost",
        "reordered",
        "duplicated",
        "bad",
        "foreign",
        "kicks",
        "interrupts",
        "idles",
        "mmio_reads",
        "mmio_writes",
        "rtt_p50_ns",
        "rtt_p99_ns",
        "rtt_max_ns",
    ] {
        assert_eq!(line.matches(&format!("\"{key}\":")).count(), 1, "{key}");
    }
}

#[test]
fn error_is_one_line_of_json_whatever_was_typed() {
    let mut line = String::new();
    let error = Plan::parse("tx size=\"\\\u{1}").expect_err("not a size");
    write_error(&mut line, error).expect("memory");
    let expected = r#"{"schema":1,"error":"size=\"\\\u0001: expected a size from 60 to 1514"}"#;
    assert_eq!(line, format!("{expected}\n"));
}
