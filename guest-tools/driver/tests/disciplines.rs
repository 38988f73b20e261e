//! The driver against a small fake device: every discipline, tiny rings, any order of notifications,
//! lost interrupts, resets in mid-flight. Whatever happens, packets come out complete, once, in order.

mod fake;

use e1000pv::bits::Ctrl;
use e1000pv::regs;
use e1000pv_driver::{
    Config, Cpu, Discipline, Error, Interest, Interrupts, Kick, Nic, Report, Sleeper,
};
use fake::{Bar0, Faults, Machine, PARAVIRT};
use proptest::prelude::*;

const RAM: usize = 2 << 20;

fn config(discipline: Discipline, n: u32) -> Config {
    Config {
        discipline,
        subsystem_id: PARAVIRT,
        tx_descriptors: n,
        rx_descriptors: n,
        ..Config::default()
    }
}

fn start(machine: &Machine, config: &Config) -> Nic<Bar0> {
    let mut dma = machine.clone();
    Nic::new(machine.bar(0), &mut dma, machine, config).expect("the device starts")
}

/// A frame that knows its number, of a length that depends on it.
fn frame(number: u64) -> Vec<u8> {
    let len = 60 + (number * 37 % 1400) as usize;
    let mut frame = vec![number as u8; len];
    frame[..8].copy_from_slice(&number.to_le_bytes());
    frame
}

/// Sends `count` numbered frames in batches of up to `burst`, as `more` or not at random.
fn send(
    machine: &Machine,
    nic: &mut [Nic<Bar0>; 1],
    sleeper: &mut Sleeper,
    numbers: std::ops::Range<u64>,
    burst: usize,
) {
    let mut next = numbers.start;
    while next < numbers.end {
        sleeper.serve(machine, nic);
        let want = burst.min((numbers.end - next) as usize).min(nic[0].tx_descriptors() - 1);
        let space = nic[0].tx_space(want).min(want);
        if space == 0 {
            let half = nic[0].tx_descriptors() as u32 / 2;
            sleeper.wait(machine, nic, &[Interest { rx: false, tx: half }], None);
            continue;
        }
        for i in 0..space {
            let frame = frame(next + i as u64);
            let slot = nic[0].tx_slot(i);
            slot.buffer().write(&frame);
            slot.send(frame.len());
        }
        nic[0].tx_advance(space);
        nic[0].tx_flush(machine, !next.is_multiple_of(3));
        next += space as u64;
    }
}

fn drain(machine: &Machine, nic: &mut [Nic<Bar0>; 1], sleeper: &mut Sleeper) {
    let all = nic[0].tx_descriptors() as u32 - 1;
    while nic[0].tx_pending() > 0 {
        sleeper.wait(machine, nic, &[Interest { rx: false, tx: all }], None);
    }
}

/// Receives until `count` frames have come.
fn receive(
    machine: &Machine,
    nic: &mut [Nic<Bar0>; 1],
    sleeper: &mut Sleeper,
    count: usize,
    burst: usize,
) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while frames.len() < count {
        sleeper.serve(machine, nic);
        let available = nic[0].rx_available(burst);
        if available == 0 {
            sleeper.wait(machine, nic, &[Interest { rx: true, tx: 0 }], None);
            continue;
        }
        for slot in nic[0].rx_batch(available) {
            assert!(slot.is_good());
            let mut bytes = vec![0; slot.len()];
            slot.buffer().read(&mut bytes);
            frames.push(bytes);
        }
        nic[0].rx_release(available);
        machine.now_ns();
    }
    frames
}

fn disciplines() -> impl Strategy<Value = Discipline> {
    prop_oneof![Just(Discipline::Plain), Just(Discipline::Combine), Just(Discipline::Csb)]
}

fn configs() -> impl Strategy<Value = Config> {
    let ring = prop_oneof![Just(8u32), Just(16), Just(24), Just(64)];
    (disciplines(), ring, any::<[bool; 4]>(), 0u32..20, prop_oneof![Just(0u64), Just(5_000)])
        .prop_map(|(discipline, n, [batch, report, masked, delayed], kick_batch, spin_ns)| Config {
            kick: if batch { Kick::Batch } else { Kick::Packet },
            report: if report { Report::Batch } else { Report::All },
            interrupts: if masked { Interrupts::Masked } else { Interrupts::Always },
            kick_batch,
            kick_delay_ns: if delayed { 20_000 } else { 1_000_000_000 },
            spin_ns,
            ..config(discipline, n)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn all_packets_leave_once_in_order(
        seed: u64, config in configs(), count in 1u64..300, burst in 1usize..40,
        moderation_ns in prop_oneof![Just(0u64), Just(100_000)],
    ) {
        let machine = Machine::new(seed, &[true], RAM);
        machine.0.devices.borrow_mut()[0].moderation_ns = moderation_ns;
        let mut nic = [start(&machine, &config)];
        let mut sleeper = Sleeper::new(&machine, config.spin_ns);
        send(&machine, &mut nic, &mut sleeper, 0..count, burst);
        drain(&machine, &mut nic, &mut sleeper);
        let sent = machine.take_sent(0);
        prop_assert_eq!(sent.len() as u64, count);
        for (number, bytes) in sent.iter().enumerate() {
            prop_assert_eq!(bytes, &frame(number as u64));
        }
        prop_assert_eq!(machine.timeouts(), 0, "a sender slept although its packets were sent");
        prop_assert_eq!(sleeper.lost_interrupts(), 0);
        prop_assert_eq!(nic[0].stats().expired, 0);
    }

    #[test]
    fn all_packets_arrive_once_in_order(
        seed: u64, config in configs(), count in 1u64..300, burst in 1usize..40,
    ) {
        let machine = Machine::new(seed, &[true], RAM);
        let mut nic = [start(&machine, &config)];
        let mut sleeper = Sleeper::new(&machine, config.spin_ns);
        (0..count).for_each(|number| machine.send_in(0, frame(number)));
        let received = receive(&machine, &mut nic, &mut sleeper, count as usize, burst);
        for (number, bytes) in received.iter().enumerate() {
            prop_assert_eq!(bytes, &frame(number as u64));
        }
        prop_assert_eq!(machine.timeouts(), 0, "a receiver slept although packets were there");
    }

    #[test]
    fn lost_interrupts_cost_time_but_no_packet(
        seed: u64, config in configs(), count in 1u64..100, lose in 1u32..4,
    ) {
        let machine = Machine::new(seed, &[true], RAM);
        machine.set_faults(0, Faults { lose_interrupts: lose, ..Faults::default() });
        let mut nic = [start(&machine, &config)];
        let mut sleeper = Sleeper::new(&machine, config.spin_ns);
        (0..count).for_each(|number| machine.send_in(0, frame(number)));
        send(&machine, &mut nic, &mut sleeper, 0..count, 16);
        drain(&machine, &mut nic, &mut sleeper);
        let received = receive(&machine, &mut nic, &mut sleeper, count as usize, 16);
        let all: Vec<Vec<u8>> = (0..count).map(frame).collect();
        prop_assert_eq!(machine.take_sent(0), all.clone());
        prop_assert_eq!(received, all);
    }

    #[test]
    fn reset_in_flight_loses_packets_but_neither_order_nor_the_device(
        seed: u64, config in configs(), parts in proptest::collection::vec(1u64..60, 1..6),
    ) {
        let machine = Machine::new(seed, &[true], RAM);
        let mut nic = [start(&machine, &config)];
        let mut sleeper = Sleeper::new(&machine, config.spin_ns);
        let mut next = 0;
        for &part in &parts {
            send(&machine, &mut nic, &mut sleeper, next..next + part, 16);
            next += part;
            nic[0].reset(&machine).expect("resets");
        }
        send(&machine, &mut nic, &mut sleeper, next..next + 100, 16);
        drain(&machine, &mut nic, &mut sleeper);
        let sent = machine.take_sent(0);
        let numbers: Vec<u64> = sent
            .iter()
            .map(|bytes| u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")))
            .collect();
        prop_assert!(numbers.is_sorted_by(|a, b| a < b));
        for (number, bytes) in numbers.iter().zip(&sent) {
            prop_assert_eq!(bytes, &frame(*number));
        }
        let after: Vec<u64> = (next..next + 100).collect();
        prop_assert!(numbers.ends_with(&after), "all after the last reset");
        // Completions that were on their way count as dropped: nobody knows.
        prop_assert!(nic[0].stats().tx_dropped >= next + 100 - numbers.len() as u64);
        (0..100).for_each(|number| machine.send_in(0, frame(number)));
        prop_assert_eq!(receive(&machine, &mut nic, &mut sleeper, 100, 16).len(), 100);
    }

    #[test]
    fn wild_heads_are_counted_and_ignored(seed: u64, count in 1u64..300) {
        let machine = Machine::new(seed, &[true], RAM);
        machine.set_faults(0, Faults { wild_tdh: true, ..Faults::default() });
        let mut nic = [start(&machine, &config(Discipline::Csb, 16))];
        let mut sleeper = Sleeper::new(&machine, 0);
        send(&machine, &mut nic, &mut sleeper, 0..count, 8);
        drain(&machine, &mut nic, &mut sleeper);
        prop_assert_eq!(machine.take_sent(0), (0..count).map(frame).collect::<Vec<_>>());
    }
}

/// TDT writes after the start.
fn tdt_writes(machine: &Machine) -> Vec<u32> {
    let log = machine.log(0);
    log.iter().filter(|&&(offset, _)| offset == regs::TDT).map(|&(_, value)| value).collect()
}

fn fill(nic: &mut Nic<Bar0>, numbers: std::ops::Range<u64>) {
    let count = (numbers.end - numbers.start) as usize;
    for (slot, number) in nic.tx_batch(count).zip(numbers) {
        slot.buffer().write(&frame(number));
        slot.send(frame(number).len());
    }
    nic.tx_advance(count);
}

#[test]
fn start_follows_the_manual() {
    let machine = Machine::new(1, &[true], RAM);
    let nic = start(&machine, &config(Discipline::Csb, 64));
    assert_eq!(nic.mac(), [2, 0, 0, 0, 0, 1]);
    assert!(nic.link_up());
    let log = machine.log(0);
    let at = |offset| {
        log.iter().rposition(|&(at, _)| at == offset).unwrap_or_else(|| panic!("{offset:#x}"))
    };
    let value = |offset| log[at(offset)].1;
    assert_eq!(log[0], (regs::IMC, u32::MAX), "no interrupt during the reset");
    assert_eq!(value(regs::RAL), 0x0000_0002);
    assert_eq!(value(regs::RAH), 0x8000_0100);
    assert_eq!((value(regs::RDLEN), value(regs::TDLEN)), (1024, 1024));
    assert_eq!((value(regs::RDT), value(regs::TDT)), (63, 0));
    assert_eq!(value(regs::RCTL), 1 << 1 | 1 << 15 | 1 << 26);
    assert_eq!(value(regs::TCTL) & 0xff, 1 << 1 | 1 << 3 | 0xf0);
    assert!((0..128).all(|word| value(regs::MTA + 4 * word) == 0));
    assert!(at(regs::CSBAH) < at(regs::CSBAL), "the low half maps");
    assert!(at(regs::RDT) > at(regs::RCTL));
    assert_eq!(at(regs::IMS), log.len() - 1, "interrupts last");
}

#[test]
fn address_comes_from_the_registers_if_the_eeprom_is_mute() {
    let machine = Machine::new(1, &[false], RAM);
    machine.set_faults(0, Faults { mute_eeprom: true, ..Faults::default() });
    assert_eq!(start(&machine, &config(Discipline::Plain, 8)).mac(), [2, 0, 0, 0, 0, 1]);
    let given = Config { mac: Some([2; 6]), ..config(Discipline::Plain, 8) };
    assert_eq!(start(&machine, &given).mac(), [2; 6]);
}

#[test]
fn device_without_the_subsystem_id_stays_plain() {
    let machine = Machine::new(1, &[true], RAM);
    let nic = start(&machine, &Config { subsystem_id: 0, ..config(Discipline::Csb, 8) });
    assert_eq!(nic.discipline(), Discipline::Plain);
    assert!(machine.log(0).iter().all(|&(offset, _)| offset != regs::CSBAL));
}

#[test]
fn what_cannot_start_says_why() {
    let machine = Machine::new(1, &[false], 64 << 10);
    let try_with = |n| {
        let mut dma = machine.clone();
        Nic::new(machine.bar(0), &mut dma, &machine, &config(Discipline::Plain, n))
            .expect_err("must fail")
    };
    assert_eq!(try_with(12), Error::RingSize { tx: 12, rx: 12 });
    assert_eq!(try_with(4096), Error::NoMemory);
}

/// What a device was told last: nothing that lets it touch memory.
fn is_reset(log: &[(u32, u32)]) -> bool {
    let value = |offset| log.iter().rev().find(|write| write.0 == offset).map(|write| write.1);
    let reset = value(regs::CTRL).is_some_and(|ctrl| ctrl & Ctrl::RST.bits() != 0);
    reset && value(regs::RCTL) == Some(0) && value(regs::TCTL) == Some(0)
}

#[test]
fn closed_device_is_reset_and_gives_all_memory_back() {
    for discipline in [Discipline::Plain, Discipline::Combine, Discipline::Csb] {
        let machine = Machine::new(1, &[true], RAM);
        let nic = start(&machine, &config(discipline, 64));
        assert!(machine.memory_out() > 2 * 64 * 2048 && !is_reset(&machine.log(0)));
        nic.close(&mut machine.clone());
        assert_eq!(machine.memory_out(), 0, "{discipline:?}");
        assert!(is_reset(&machine.log(0)), "{discipline:?}");
    }
}

#[test]
fn dropped_device_is_reset() {
    let machine = Machine::new(1, &[false], RAM);
    let nic = start(&machine, &config(Discipline::Plain, 8));
    machine.log(0);
    drop(nic);
    assert!(is_reset(&machine.log(0)));
}

#[test]
fn device_that_did_not_start_keeps_nothing() {
    let machine = Machine::new(1, &[false], 256 << 10);
    let try_with = |n| {
        let config = config(Discipline::Plain, n);
        Nic::new(machine.bar(0), &mut machine.clone(), &machine, &config).expect_err("must fail")
    };
    assert_eq!(try_with(128), Error::NoMemory);
    assert_eq!(machine.memory_out(), 0);
}

/// Where no interrupt is waited for while awake, descriptors say that packets were sent.
#[test]
fn combining_goes_on_where_interrupts_only_wake() {
    for interrupts in [Interrupts::Wake, Interrupts::Never] {
        let machine = Machine::new(1, &[false], RAM);
        let asked = Config { interrupts, ..config(Discipline::Combine, 64) };
        let mut nic = start(&machine, &asked);
        let allowed = machine.log(0).iter().any(|&(offset, _)| offset == regs::IMS);
        assert_eq!(allowed, interrupts == Interrupts::Wake);
        for number in 0..40 {
            fill(&mut nic, number..number + 1);
            nic.tx_flush(&machine, false);
        }
        for _ in 0..1000 {
            if nic.tx_pending() == 0 {
                break;
            }
            // Time passes; nobody takes an interrupt.
            machine.now_ns();
            nic.tx_flush(&machine, false);
        }
        assert_eq!((nic.tx_pending(), nic.tx_held_back()), (0, false), "{interrupts:?}");
        assert_eq!(nic.stats().expired, 0, "no timer was needed");
    }
}

#[test]
fn plain_kicks_for_packets_or_batches() {
    for (kick, expected) in [(Kick::Packet, vec![1, 2, 3, 4, 5]), (Kick::Batch, vec![3, 5])] {
        let machine = Machine::new(1, &[false], RAM);
        let mut nic = start(&machine, &Config { kick, ..config(Discipline::Plain, 8) });
        machine.log(0);
        fill(&mut nic, 0..3);
        nic.tx_flush(&machine, false);
        fill(&mut nic, 3..5);
        nic.tx_flush(&machine, false);
        nic.tx_flush(&machine, false);
        assert_eq!(tdt_writes(&machine), expected, "{kick:?}");
    }
}

#[test]
fn combining_writes_tdt_once_per_interrupt() {
    let machine = Machine::new(1, &[false], RAM);
    machine.0.frozen.set(true);
    let mut nic = start(&machine, &config(Discipline::Combine, 64));
    machine.log(0);
    for batch in 0..4 {
        fill(&mut nic, batch * 3..batch * 3 + 3);
        nic.tx_flush(&machine, false);
    }
    assert_eq!(tdt_writes(&machine), [3], "the rest waits for the interrupt");
    nic.interrupted(0);
    assert_eq!(tdt_writes(&machine), [], "not this one");
    nic.interrupted(1);
    assert_eq!(tdt_writes(&machine), [12]);
    nic.interrupted(1);
    fill(&mut nic, 12..13);
    nic.tx_flush(&machine, false);
    assert_eq!(tdt_writes(&machine), [13], "nothing was expected any more");
}

#[test]
fn csb_kicks_a_sleeping_host_for_a_batch_or_a_flush_and_only_once() {
    let machine = Machine::new(1, &[true], RAM);
    machine.0.frozen.set(true);
    let wait = Config { kick_batch: 8, kick_delay_ns: 500_000_000, ..config(Discipline::Csb, 64) };
    let mut nic = start(&machine, &wait);
    machine.log(0);
    fill(&mut nic, 0..3);
    nic.tx_flush(&machine, true);
    assert_eq!(tdt_writes(&machine), [], "three packets, more to come");
    fill(&mut nic, 3..8);
    nic.tx_flush(&machine, true);
    assert_eq!(tdt_writes(&machine), [8], "eight packets");
    fill(&mut nic, 8..20);
    nic.tx_flush(&machine, false);
    assert_eq!(tdt_writes(&machine), [], "the host has been kicked and has not run yet");
    let mut nic = start(&machine, &wait);
    machine.log(0);
    fill(&mut nic, 0..1);
    nic.tx_flush(&machine, true);
    nic.tx_flush(&machine, false);
    assert_eq!(tdt_writes(&machine), [1], "a lone packet before going idle");
}

#[test]
fn csb_saturated_sender_needs_few_kicks_and_interrupts() {
    let machine = Machine::new(7, &[true], RAM);
    let mut nic = [start(&machine, &config(Discipline::Csb, 256))];
    let mut sleeper = Sleeper::new(&machine, 0);
    send(&machine, &mut nic, &mut sleeper, 0..20_000, 64);
    drain(&machine, &mut nic, &mut sleeper);
    assert_eq!(machine.take_sent(0).len(), 20_000);
    let kicks = nic[0].stats().tdt_writes;
    assert!(kicks < 400, "{kicks} kicks");
    assert!(machine.interrupt_count() < 400, "{} interrupts", machine.interrupt_count());
}

#[test]
fn masked_interrupts_stay_off_while_there_is_work() {
    let machine = Machine::new(3, &[false], RAM);
    let masked = Config { interrupts: Interrupts::Masked, ..config(Discipline::Plain, 64) };
    let mut nic = [start(&machine, &masked)];
    let mut sleeper = Sleeper::new(&machine, 0);
    (0..50).for_each(|number| machine.send_in(0, frame(number)));
    machine.log(0);
    receive(&machine, &mut nic, &mut sleeper, 50, 8);
    let log = machine.log(0);
    let writes = |offset| log.iter().filter(|&&(at, _)| at == offset).count() as u32;
    assert!(writes(regs::IMC) > 0);
    assert!(machine.interrupt_count() <= 1 + writes(regs::IMS), "one for each unmasking");
}

#[test]
fn buffers_exchanged_between_devices_carry_the_packets() {
    let machine = Machine::new(5, &[true, false], RAM);
    let mut dma = machine.clone();
    let mut first = start(&machine, &config(Discipline::Csb, 16));
    let plain = config(Discipline::Plain, 8);
    let mut second = Nic::new(machine.bar(1), &mut dma, &machine, &plain).expect("starts");
    let mut moved = 0;
    for number in 0..100 {
        machine.send_in(0, frame(number));
    }
    while moved < 100 {
        machine.now_ns();
        let count = first.rx_available(16);
        let count = second.tx_space(count).min(count);
        moved += first.forward(&mut second, count).packets;
        second.tx_flush(&machine, false);
    }
    while second.tx_pending() > 0 {
        machine.now_ns();
    }
    assert_eq!(machine.take_sent(1), (0..100).map(frame).collect::<Vec<_>>());
}
