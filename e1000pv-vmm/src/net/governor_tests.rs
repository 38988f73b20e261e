//! The governor against a simple guest: a driver that goes before everything else, a socket's queue, and a
//! program that reads it in what time is left.

use super::*;

/// Descriptors of its receive ring, and datagrams that its socket queues.
const RING: u64 = 256;
const SOCKET: u64 = 167;

/// Slots of the port's ring.
const PORT: u64 = 1024;

/// The guest lives in steps of this length.
const STEP_NS: u64 = 100_000;

struct Guest {
    /// Costs of a packet: to the driver and the network stack, and to the program.
    driver_ns: u64,
    read_ns: u64,
    /// A program that computes whenever nothing else runs.
    computes: bool,
    /// The reader has every other turn of it.
    shares: bool,
    /// Steps in which the host lets it run no more, which looks like work.
    stolen: u32,
    ring: u64,
    socket: u64,
    /// Time that is left of this step; less than zero if a packet took some of the next.
    left_ns: i64,
    read: u64,
    busy_ns: u64,
}

impl Guest {
    fn new(driver_ns: u64, read_ns: u64) -> Guest {
        Guest {
            driver_ns,
            read_ns,
            computes: false,
            shares: false,
            stolen: 0,
            ring: 0,
            socket: 0,
            left_ns: 0,
            read: 0,
            busy_ns: 0,
        }
    }

    /// Packets a second that it reads at best.
    fn capacity(&self) -> u64 {
        SECOND_NS / (self.driver_ns + self.read_ns)
    }

    fn step(&mut self) {
        if self.stolen > 0 {
            self.stolen -= 1;
            self.busy_ns += STEP_NS;
            return;
        }
        self.left_ns += STEP_NS as i64;
        while self.left_ns > 0 && self.ring > 0 {
            self.ring -= 1;
            self.socket = (self.socket + 1).min(SOCKET);
            self.left_ns -= self.driver_ns as i64;
        }
        let read_ns = if self.shares { 2 * self.read_ns } else { self.read_ns };
        while self.left_ns > 0 && self.socket > 0 {
            self.socket -= 1;
            self.read += 1;
            self.left_ns -= read_ns as i64;
        }
        if self.computes {
            self.left_ns = self.left_ns.min(0);
        }
        self.busy_ns += STEP_NS - self.left_ns.max(0) as u64;
        self.left_ns = self.left_ns.min(0);
    }
}

/// A guest, its NIC, and the port's ring, which drops what it has no room for.
struct Machine {
    guest: Guest,
    governor: Option<Governor>,
    now_ns: u64,
    /// Packets in the port's ring, and the time that makes the next.
    port: u64,
    owed_ns: u64,
    judged_ns: u64,
    judged_busy_ns: u64,
}

impl Machine {
    fn new(guest: Guest, governed: bool) -> Machine {
        let governor = governed.then(Governor::default);
        let now_ns = 77 * SECOND_NS;
        let (port, owed_ns, judged_busy_ns) = (0, 0, 0);
        Machine { guest, governor, now_ns, port, owed_ns, judged_ns: now_ns, judged_busy_ns }
    }

    /// `offered` packets a second for that long; how many a second were read.
    fn run(&mut self, offered: u64, seconds: u64) -> u64 {
        let before = self.guest.read;
        for _ in 0..seconds * SECOND_NS / STEP_NS {
            self.now_ns += STEP_NS;
            self.owed_ns += offered * STEP_NS;
            self.port = (self.port + self.owed_ns / SECOND_NS).min(PORT);
            self.owed_ns %= SECOND_NS;
            let most = self.govern();
            let taken = self.port.min(RING - self.guest.ring).min(most);
            self.port -= taken;
            self.guest.ring += taken;
            if let Some(governor) = &mut self.governor {
                governor.take(taken);
            }
            self.guest.step();
        }
        (self.guest.read - before) / seconds
    }

    /// How many packets may be taken now.
    fn govern(&mut self) -> u64 {
        let Some(governor) = &mut self.governor else { return u64::MAX };
        if governor.is_due(self.now_ns) {
            let passed_ns = self.now_ns - self.judged_ns;
            let busy_ns = self.guest.busy_ns - self.judged_busy_ns;
            let busy = (busy_ns * 1000).checked_div(passed_ns).map(|busy| busy as u32);
            (self.judged_ns, self.judged_busy_ns) = (self.now_ns, self.guest.busy_ns);
            governor.judge(self.now_ns, busy);
        }
        let most = governor.packets(self.now_ns);
        if most.is_some_and(|most| most < self.port) {
            governor.hold_back();
        }
        most.unwrap_or(u64::MAX)
    }

    fn is_free(&self) -> bool {
        self.governor.as_ref().is_none_or(|governor| matches!(governor.state, State::Free { .. }))
    }
}

/// Costs from those of a guest of a guest in an emulator to those of hardware, and from a reader that costs a
/// quarter of the driver to one that costs sixteen times as much.
const COSTS: [(u64, u64); 7] = [
    (400_000, 100_000),
    (400_000, 1_600_000),
    (20_000, 20_000),
    (4_000, 1_000),
    (2_000, 2_000),
    (500, 8_000),
    (800, 700),
];

#[test]
fn a_guest_in_livelock_reads_again() {
    for (driver_ns, read_ns) in COSTS {
        let capacity = Guest::new(driver_ns, read_ns).capacity();
        let flood = 4 * capacity;
        let mut alone = Machine::new(Guest::new(driver_ns, read_ns), false);
        let mut governed = Machine::new(Guest::new(driver_ns, read_ns), true);
        let collapsed = alone.run(flood, 10);
        if 4 * driver_ns >= driver_ns + read_ns {
            assert!(
                collapsed * 10 <= capacity,
                "{driver_ns}, {read_ns}: {collapsed} of {capacity}"
            );
        }
        governed.run(flood, 5); // finds the rate
        let read = governed.run(flood, 20);
        assert!(read * 10 >= capacity * 8, "{driver_ns}, {read_ns}: {read} of {capacity}");
        assert!(read <= capacity, "{driver_ns}, {read_ns}: {read} of {capacity}");
    }
}

#[test]
fn a_guest_that_keeps_up_is_never_limited() {
    for (driver_ns, read_ns) in COSTS {
        let mut machine = Machine::new(Guest::new(driver_ns, read_ns), true);
        let capacity = machine.guest.capacity();
        for percent in [1, 10, 25, 50, 75, 90] {
            let offered = capacity * percent / 100;
            let read = machine.run(offered, 5);
            assert!(machine.is_free(), "{driver_ns}, {read_ns}: limited at {percent} %");
            assert!(read + 2 >= offered, "{driver_ns}, {read_ns}: {read} of {offered}");
        }
    }
}

#[test]
fn a_limit_is_lifted_when_the_load_is_gone_and_found_again() {
    for (driver_ns, read_ns) in COSTS {
        let mut machine = Machine::new(Guest::new(driver_ns, read_ns), true);
        let capacity = machine.guest.capacity();
        for _ in 0..3 {
            machine.run(8 * capacity, 10);
            assert!(!machine.is_free(), "{driver_ns}, {read_ns}: not limited");
            machine.run(capacity / 2, 10);
            assert!(machine.is_free(), "{driver_ns}, {read_ns}: still limited");
            let read = machine.run(capacity / 2, 2);
            assert!(read + 2 >= capacity / 2, "{driver_ns}, {read_ns}: {read} of {capacity} / 2");
        }
    }
}

/// A guest that computes all the time, and one that polls, look like one in livelock; but fewer packets give
/// them no time.
#[test]
fn a_guest_that_is_always_busy_is_left_alone() {
    for shares in [false, true] {
        let mut guest = Guest::new(2_000, 2_000);
        (guest.computes, guest.shares) = (true, shares);
        let mut machine = Machine::new(guest, true);
        machine.run(50_000, 60);
        // The later, the more rarely it is tried.
        let read = machine.run(50_000, 120);
        assert!(read >= 47_500, "{read} of 50000");
    }
}

#[test]
fn a_guest_whose_costs_change_is_followed() {
    let mut machine = Machine::new(Guest::new(2_000, 2_000), true);
    machine.run(1_000_000, 5);
    for driver_ns in [6_000, 2_000, 1_000] {
        machine.guest.driver_ns = driver_ns;
        machine.run(1_000_000, 3);
        let (read, capacity) = (machine.run(1_000_000, 10), machine.guest.capacity());
        assert!(read * 10 >= capacity * 8, "{driver_ns}: {read} of {capacity}");
    }
}

#[test]
fn a_host_that_takes_the_processor_away_for_a_while_is_no_load() {
    for (driver_ns, read_ns) in COSTS {
        let mut machine = Machine::new(Guest::new(driver_ns, read_ns), true);
        let capacity = machine.guest.capacity();
        machine.run(4 * capacity, 6);
        let mut read = 0;
        for _ in 0..10 {
            machine.guest.stolen = 1_000; // for a tenth of a second
            read += 3 * machine.run(4 * capacity, 3);
        }
        // What is left of its time.
        let possible = 10 * capacity * 29 / 10;
        assert!(read * 10 >= possible * 8, "{driver_ns}, {read_ns}: {read} of {possible}");
    }
}

#[test]
fn without_clocks_nothing_is_limited() {
    let mut governor = Governor::default();
    for second in 1..100 {
        governor.take(1_000_000);
        governor.judge(second * SECOND_NS, None);
        assert_eq!(governor.packets(second * SECOND_NS), None);
    }
}
