//! The governor against a simple guest: an interrupt, a driver that goes before everything else, a socket's queue, and a
//! program that reads it in what time is left.

use super::*;

/// Descriptors of its receive ring, and small datagrams that its socket queues.
const RING: u64 = 256;
const SOCKET: u64 = 212_992 / SMALL;

/// Slots of the port's ring.
const PORT: u64 = 1024;

/// The guest lives in steps of this length.
const STEP_NS: u64 = 10_000;

const SECOND_NS: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug)]
struct Costs {
    /// Of a packet that comes while the driver does not run, beside what follows.
    interrupt_ns: u64,
    /// Of each packet: to the driver and the network stack, and to the program.
    driver_ns: u64,
    read_ns: u64,
}

impl Costs {
    /// Packets a second that are read at best.
    fn capacity(self) -> u64 {
        SECOND_NS / (self.driver_ns + self.read_ns)
    }
}

struct Vcpus {
    costs: Costs,
    /// A program that computes whenever nothing else runs.
    computes: bool,
    /// The reader has every other turn of it.
    shares: bool,
    /// Another vCPU computes all the time, but for a moment each so many steps.
    other: Option<u64>,
    /// Steps in which the host lets it run no more, which looks like work.
    stolen: u32,
    /// Interrupts are raised only in one of so many steps.
    pace: u64,
    steps: u64,
    ring: u64,
    /// The driver takes what is in the ring, and is told of nothing meanwhile.
    polls: bool,
    socket: u64,
    /// Time that is left of this step; less than zero if something took some of the next.
    left_ns: i64,
    read: u64,
    asleep: bool,
    busy_ns: u64,
    sleeps: u64,
    asked_ns: u64,
    busy_before_ns: u64,
}

impl Vcpus {
    fn new(costs: Costs) -> Vcpus {
        Vcpus {
            costs,
            computes: false,
            shares: false,
            other: None,
            stolen: 0,
            pace: 1,
            steps: 0,
            ring: 0,
            polls: false,
            socket: 0,
            left_ns: 0,
            read: 0,
            asleep: true,
            busy_ns: 0,
            sleeps: 0,
            asked_ns: 0,
            busy_before_ns: 0,
        }
    }

    fn step(&mut self) {
        self.steps += 1;
        if self.other.is_some_and(|every| self.steps.is_multiple_of(every)) {
            self.sleeps += 1;
        }
        if self.stolen > 0 {
            self.stolen -= 1;
            self.busy_ns += STEP_NS;
            return;
        }
        let Costs { interrupt_ns, driver_ns, read_ns } = self.costs;
        self.left_ns += STEP_NS as i64;
        if self.ring > 0 && !self.polls && self.steps.is_multiple_of(self.pace) {
            self.left_ns -= interrupt_ns as i64;
            self.polls = true;
        }
        while self.left_ns > 0 && self.ring > 0 && self.polls {
            self.ring -= 1;
            self.socket = (self.socket + 1).min(SOCKET);
            self.left_ns -= driver_ns as i64;
        }
        self.polls &= self.ring > 0;
        let read_ns = if self.shares { 2 * read_ns } else { read_ns };
        while self.left_ns > 0 && self.socket > 0 {
            self.socket -= 1;
            self.read += 1;
            self.left_ns -= read_ns as i64;
        }
        if self.computes {
            self.left_ns = self.left_ns.min(0);
        }
        self.busy_ns += STEP_NS - self.left_ns.max(0) as u64;
        let was = std::mem::replace(&mut self.asleep, self.left_ns > 0);
        self.sleeps += u64::from(self.asleep && !was);
        self.left_ns = self.left_ns.min(0);
    }
}

impl Guest for Vcpus {
    fn busy(&mut self, now_ns: u64) -> Option<u32> {
        let busy_ns = self.busy_ns - self.busy_before_ns;
        let passed_ns = now_ns - std::mem::replace(&mut self.asked_ns, now_ns);
        self.busy_before_ns = self.busy_ns;
        Some((busy_ns * 1000 / passed_ns.max(1)) as u32)
    }

    fn sleeps(&self) -> Option<u64> {
        Some(self.sleeps)
    }
}

/// A guest, its NIC, and the port's ring, which drops what it has no room for.
struct Machine {
    guest: Vcpus,
    governor: Option<Governor>,
    now_ns: u64,
    /// Packets in the port's ring, and the time that makes the next.
    port: u64,
    owed_ns: u64,
    /// The longest time without room, and since when there is none.
    held_ns: u64,
    closed_ns: Option<u64>,
}

impl Machine {
    fn new(guest: Vcpus, governed: bool) -> Machine {
        let governor = governed.then(Governor::default);
        let now_ns = 77 * SECOND_NS;
        let (port, owed_ns, held_ns, closed_ns) = (0, 0, 0, None);
        Machine { guest, governor, now_ns, port, owed_ns, held_ns, closed_ns }
    }

    fn of(costs: Costs) -> Machine {
        Machine::new(Vcpus::new(costs), true)
    }

    /// `offered` packets a second for that long; how many a second were read.
    fn run(&mut self, offered: u64, seconds: u64) -> u64 {
        self.run_bursts(offered, 1, seconds)
    }

    /// The same, `burst` at a time.
    fn run_bursts(&mut self, offered: u64, burst: u64, seconds: u64) -> u64 {
        let before = self.guest.read;
        for _ in 0..seconds * SECOND_NS / STEP_NS {
            self.now_ns += STEP_NS;
            self.owed_ns += offered * STEP_NS;
            if self.owed_ns >= burst * SECOND_NS {
                self.port = (self.port + self.owed_ns / SECOND_NS).min(PORT);
                self.owed_ns %= SECOND_NS;
            }
            self.deliver();
            self.guest.step();
        }
        (self.guest.read - before) / seconds
    }

    fn deliver(&mut self) {
        let Some(governor) = &mut self.governor else {
            let taken = self.port.min(RING - self.guest.ring);
            (self.port, self.guest.ring) = (self.port - taken, self.guest.ring + taken);
            return;
        };
        let room = governor.room(self.now_ns, &mut self.guest);
        let most = room.map_or(u64::MAX, |cost| cost.div_ceil(SMALL));
        let taken = self.port.min(RING - self.guest.ring).min(most);
        if taken > 0 && taken == most {
            governor.close(&self.guest);
        }
        governor.take(taken * SMALL);
        self.port -= taken;
        self.guest.ring += taken;
        let postponed = !self.guest.steps.is_multiple_of(self.guest.pace) && !self.guest.polls;
        let next_ns = self.now_ns + self.guest.pace * STEP_NS;
        let _ = governor.due_ns((postponed && self.guest.ring > 0).then_some(next_ns), &self.guest);
        if most > 0 {
            self.closed_ns = None;
        } else {
            let since_ns = *self.closed_ns.get_or_insert(self.now_ns);
            self.held_ns = self.held_ns.max(self.now_ns - since_ns);
        }
    }

    fn is_free(&self) -> bool {
        self.governor.as_ref().is_none_or(|governor| matches!(governor.state, State::Free { .. }))
    }
}

/// Costs from those of a guest of a guest in an emulator to those of hardware, from a reader that costs a quarter of
/// the driver to one that costs sixteen times as much, and interrupts from nothing to twenty times a packet.
fn costs() -> impl Iterator<Item = Costs> {
    let packets = [
        (400_000, 100_000),
        (200_000, 800_000),
        (50_000, 800_000),
        (100_000, 100_000),
        (20_000, 20_000),
        (4_000, 1_000),
        (2_000, 2_000),
        (500, 8_000),
        (1_000, 1_000),
    ];
    packets.into_iter().flat_map(|(driver_ns, read_ns)| {
        let of = move |times: u64| {
            let interrupt_ns = times * (driver_ns + read_ns);
            Costs { interrupt_ns, driver_ns, read_ns }
        };
        [0, 1, 20].map(of)
    })
}

#[test]
fn a_guest_in_livelock_reads_again_at_any_load() {
    for costs in costs() {
        let capacity = costs.capacity();
        let mut alone = Machine::new(Vcpus::new(costs), false);
        let flood = 4 * SECOND_NS / costs.driver_ns;
        let collapsed = alone.run(flood, 5);
        assert!(collapsed * 20 <= capacity, "{costs:?}: {collapsed} of {capacity} without");
        let mut governed = Machine::of(costs);
        for times in [1, 2, 4, 8] {
            governed.run(times * capacity, 3);
            let read = governed.run(times * capacity, 8);
            assert!(read * 10 >= capacity * 8, "{costs:?}, {times}: {read} of {capacity}");
            assert!(read <= capacity, "{costs:?}, {times}: {read} of {capacity}");
        }
    }
}

#[test]
fn a_guest_that_keeps_up_is_never_limited() {
    for costs in costs() {
        let mut machine = Machine::of(costs);
        let Costs { interrupt_ns, driver_ns, read_ns } = costs;
        let capacity = SECOND_NS / (interrupt_ns + driver_ns + read_ns);
        for percent in [1, 10, 25, 50, 75, 90] {
            let offered = capacity * percent / 100;
            let read = machine.run(offered, 3);
            assert!(machine.is_free(), "{costs:?}: limited at {percent} %");
            assert!(read + 2 >= offered, "{costs:?}: {read} of {offered}");
        }
    }
}

/// Each packet has an interrupt of its own, and they leave no time: the guest keeps up by windows, whose interrupts are fewer.
#[test]
fn a_guest_that_interrupts_keep_busy_still_reads_what_comes() {
    for costs in costs() {
        let mut machine = Machine::of(costs);
        for percent in [10, 20, 40, 60, 80] {
            let offered = costs.capacity() * percent / 100;
            machine.run(offered, 3);
            let read = machine.run(offered, 10);
            assert!(read * 10 >= offered * 8, "{costs:?}, {percent} %: {read} of {offered}");
        }
    }
}

#[test]
fn windows_end_when_the_load_is_gone_and_begin_again() {
    for costs in costs() {
        let mut machine = Machine::of(costs);
        let capacity = costs.capacity();
        let less = SECOND_NS / (costs.interrupt_ns + costs.driver_ns + costs.read_ns) / 2;
        for _ in 0..3 {
            machine.run(8 * capacity, 5);
            assert!(!machine.is_free(), "{costs:?}: not limited");
            machine.run(less, 5);
            assert!(machine.is_free(), "{costs:?}: still limited");
            let read = machine.run(less, 2);
            assert!(read + 2 >= less, "{costs:?}: {read} of {less}");
        }
    }
}

#[test]
fn bursts_are_read_like_a_stream() {
    for costs in costs() {
        let mut machine = Machine::of(costs);
        machine.run_bursts(4 * costs.capacity(), 500, 3);
        let (read, capacity) = (machine.run_bursts(4 * costs.capacity(), 500, 8), costs.capacity());
        assert!(read * 10 >= capacity * 8, "{costs:?}: {read} of {capacity}");
    }
}

const EVEN: Costs = Costs { interrupt_ns: 5_000, driver_ns: 2_000, read_ns: 2_000 };

/// A guest that computes all the time, and one that polls, look like one in livelock; but they do not sleep after a window.
#[test]
fn a_guest_that_is_always_busy_is_left_alone() {
    for shares in [false, true] {
        let mut guest = Vcpus::new(EVEN);
        (guest.computes, guest.shares) = (true, shares);
        let mut machine = Machine::new(guest, true);
        machine.run(50_000, 60);
        assert!(machine.held_ns <= LONGEST_NS * 9 / 8, "{}", machine.held_ns);
        // The later, the more rarely it is tried.
        let read = machine.run(50_000, 120);
        assert!(read >= 47_500, "{read} of 50000");
    }
}

#[test]
fn a_guest_whose_costs_change_is_followed() {
    let mut machine = Machine::of(EVEN);
    machine.run(1_000_000, 5);
    for driver_ns in [60_000, 2_000, 1_000] {
        machine.guest.costs.driver_ns = driver_ns;
        machine.run(1_000_000, 3);
        let (read, capacity) = (machine.run(1_000_000, 10), machine.guest.costs.capacity());
        assert!(read * 10 >= capacity * 8, "{driver_ns}: {read} of {capacity}");
    }
}

#[test]
fn a_host_that_takes_the_processor_away_for_a_while_is_no_load() {
    for costs in costs() {
        let mut machine = Machine::of(costs);
        let capacity = costs.capacity();
        machine.run(4 * capacity, 3);
        let mut read = 0;
        for _ in 0..10 {
            machine.guest.stolen = 10_000; // for a tenth of a second
            read += machine.run(4 * capacity, 1);
        }
        // What is left of its time; interrupts can cost an eighth of that.
        let possible = 9 * capacity;
        assert!(read * 4 >= possible * 3, "{costs:?}: {read} of {possible}");
    }
}

/// Interrupts that are moderated come when the guest may have slept already, of something else.
#[test]
fn an_interrupt_that_is_postponed_is_waited_for() {
    let mut guest = Vcpus::new(EVEN);
    guest.pace = 30;
    let mut machine = Machine::new(guest, true);
    machine.run(1_000_000, 3);
    let (read, capacity) = (machine.run(1_000_000, 10), EVEN.capacity());
    // An interrupt each 300 us is one for a window of 552.
    assert!(read * 10 >= capacity * 5, "{read} of {capacity}");
}

/// Has slept so often.
struct Slept(u64);

impl Guest for Slept {
    fn busy(&mut self, _: u64) -> Option<u32> {
        None
    }

    fn sleeps(&self) -> Option<u64> {
        Some(self.0)
    }
}

/// What the guest sleeps of before its interrupt comes has nothing to do with the window.
#[test]
fn a_sleep_before_a_postponed_interrupt_opens_no_window() {
    let (now_ns, interrupt_ns) = (77 * SECOND_NS, 77 * SECOND_NS + 1_000_000);
    let mut governor = Governor::with_windows(now_ns);
    let mut guest = Slept(5);
    assert_eq!(governor.room(now_ns, &mut guest), Some(WINDOW));
    governor.close(&guest);
    governor.take(WINDOW);
    assert_eq!(governor.room(now_ns, &mut guest), Some(0));
    guest.0 = 6;
    let look_ns = governor.due_ns(Some(interrupt_ns), &guest).expect("a window waits");
    assert!(look_ns > interrupt_ns);
    assert_eq!(governor.room(interrupt_ns, &mut guest), Some(0), "it is not told yet");
    assert_eq!(governor.room(look_ns, &mut guest), Some(0), "it has not slept since");
    let look_ns = governor.due_ns(None, &guest).expect("it waits on");
    guest.0 = 7;
    assert_eq!(governor.room(look_ns, &mut guest), Some(WINDOW));
}

/// Another vCPU, which is busy too, sleeps for a moment now and then: the next window comes early, and what is in hand
/// still fits the socket's queue most of the time.
#[test]
fn a_sleep_of_another_vcpu_opens_a_window_too() {
    for every_ms in [1, 3, 10] {
        let mut guest = Vcpus::new(EVEN);
        guest.other = Some(every_ms * 1_000_000 / STEP_NS);
        let mut machine = Machine::new(guest, true);
        machine.run(1_000_000, 3);
        let (read, capacity) = (machine.run(1_000_000, 10), EVEN.capacity());
        assert!(read * 10 >= capacity * 6, "{every_ms} ms: {read} of {capacity}");
    }
}

#[test]
fn one_large_frame_counts_as_its_buffer_does() {
    assert_eq!([0, 60, 256].map(Governor::cost), [SMALL; 3]);
    assert_eq!([257, 1514, 2048].map(Governor::cost), [LARGE; 3]);
}

struct Unknown;

impl Guest for Unknown {
    fn busy(&mut self, _: u64) -> Option<u32> {
        None
    }

    fn sleeps(&self) -> Option<u64> {
        None
    }
}

#[test]
fn without_clocks_nothing_is_limited() {
    let mut governor = Governor::default();
    for second in 1..100 {
        governor.take(1_000_000 * SMALL);
        assert_eq!(governor.room(second * SECOND_NS, &mut Unknown), None);
    }
}
