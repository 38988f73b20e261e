//! Interrupt logic against a clock and a line of the tests' own.

use std::cell::{Cell, RefCell};

use super::*;
use crate::harness::Counted;

struct Bench {
    irq: Irq,
    registers: Registers,
    counters: Arc<Counted>,
    now_ns: Cell<u64>,
    wants: Cell<Wants>,
    line: RefCell<Vec<bool>>,
}

impl Bench {
    fn new(moderation: bool) -> Self {
        let counters = Arc::new(Counted::default());
        let bench = Self {
            irq: Irq::new(moderation, Arc::clone(&counters) as Arc<dyn Counters>),
            registers: Registers::new(),
            counters,
            now_ns: Cell::new(1_000_000),
            wants: Cell::new(Wants::ALL),
            line: RefCell::default(),
        };
        bench.irq.unmask(Icr::all(), bench.context());
        bench
    }

    fn context(
        &self,
    ) -> Context<'_, impl FnOnce() -> Wants, impl FnOnce(bool), impl FnOnce() -> u64> {
        Context {
            registers: &self.registers,
            wants: || self.wants.get(),
            set_intx: |level| self.line.borrow_mut().push(level),
            now_ns: || self.now_ns.get(),
        }
    }

    fn raise(&self, causes: Icr) -> Change {
        self.irq.raise(causes, false, self.context())
    }

    fn read_icr(&self) -> Icr {
        self.irq.read_icr(|level| self.line.borrow_mut().push(level))
    }

    /// Level changes since the last call.
    fn line(&self) -> Vec<bool> {
        self.line.take()
    }

    fn advance(&self, ns: u64) -> Change {
        self.now_ns.set(self.now_ns.get() + ns);
        self.irq.evaluate(self.context())
    }
}

#[test]
fn line_follows_unmasked_causes_and_icr_reads_clear() {
    let b = Bench::new(false);
    assert_eq!(b.raise(Icr::RXT0), Change::Line(true));
    assert_eq!(b.raise(Icr::TXDW), Change::None);
    assert_eq!(b.read_icr(), Icr::RXT0 | Icr::TXDW | Icr::INT_ASSERTED);
    assert_eq!(b.read_icr(), Icr::empty());
    assert_eq!(b.line(), [true, false]);
    assert_eq!(b.counters.value(Count::Interrupts), 1);
}

#[test]
fn masked_causes_wait_in_icr_until_they_are_unmasked() {
    let b = Bench::new(false);
    let line = |level| b.line.borrow_mut().push(level);
    b.irq.mask(Icr::all(), line);
    assert_eq!(b.raise(Icr::LSC), Change::None);
    assert_eq!(b.irq.unmask(Icr::LSC, b.context()), Change::Line(true));
    b.irq.mask(Icr::LSC, line);
    assert_eq!(b.irq.peek(), Icr::LSC);
    assert_eq!(b.line(), [true, false]);
    assert_eq!(b.read_icr(), Icr::LSC, "nothing was asserted");
}

#[test]
fn writing_ones_clears_these_causes_only() {
    let b = Bench::new(false);
    b.raise(Icr::RXT0 | Icr::LSC);
    b.irq.clear(Icr::RXT0, |level| b.line.borrow_mut().push(level));
    assert_eq!((b.irq.peek(), b.line()), (Icr::LSC, vec![true]));
    b.irq.clear(Icr::LSC, |level| b.line.borrow_mut().push(level));
    assert_eq!(b.line(), [false]);
}

#[test]
fn itr_keeps_a_distance_and_a_lone_interrupt_is_not_late() {
    let b = Bench::new(true);
    b.registers.store(regs::ITR, 100); // 25.6 us
    assert_eq!(b.raise(Icr::RXT0), Change::Line(true));
    b.read_icr();
    b.line();
    assert_eq!(b.advance(5_000), Change::None);
    assert_eq!(b.raise(Icr::RXT0), Change::Postponed);
    assert_eq!(b.raise(Icr::RXT0), Change::None, "told once");
    assert_eq!(b.irq.deadline(), Some(1_025_600));
    assert_eq!(b.advance(20_599), Change::None);
    assert_eq!(b.advance(1), Change::Line(true));
    assert_eq!((b.irq.deadline(), b.line()), (None, vec![true]));
    assert_eq!(b.counters.value(Count::IrqPostponed), 1);
}

#[test]
fn paced_interrupts_keep_their_distance_whatever_the_guest_asks_for() {
    for moderation in [false, true] {
        let mut b = Bench::new(moderation);
        b.irq = b.irq.paced(200_000);
        b.irq.unmask(Icr::all(), b.context());
        b.registers.store(regs::ITR, 0);
        assert_eq!(b.raise(Icr::RXT0), Change::Line(true));
        b.read_icr();
        assert_eq!(b.raise(Icr::RXT0), Change::Postponed);
        b.irq.flush();
        assert_eq!(b.advance(199_999), Change::None);
        assert_eq!(b.advance(1), Change::Line(true));
        b.read_icr();
        // A guest that asks for more has more, where it is heard: 1 ms in units of 256 ns.
        b.registers.store(regs::ITR, 3906);
        b.advance(200_000);
        assert_eq!(b.raise(Icr::RXT0), Change::Line(true));
        b.read_icr();
        assert_eq!(b.raise(Icr::RXT0), Change::Postponed);
        let sooner = if moderation { Change::None } else { Change::Line(true) };
        assert_eq!(b.advance(500_000), sooner);
    }
}

#[test]
fn postponed_interrupt_that_was_polled_away_is_not_raised() {
    let b = Bench::new(true);
    b.registers.store(regs::ITR, 100);
    b.raise(Icr::RXT0);
    b.read_icr();
    b.raise(Icr::RXT0);
    b.read_icr();
    assert_eq!(b.irq.deadline(), None);
    assert_eq!(b.advance(1_000_000), Change::None);
    assert_eq!(b.line(), [true, false]);
}

#[test]
fn moderation_off_ignores_all_timers() {
    let b = Bench::new(false);
    b.registers.store(regs::ITR, 0xFFFF);
    for _ in 0..3 {
        assert_eq!(b.raise(Icr::RXT0), Change::Line(true));
        b.read_icr();
    }
    assert_eq!(b.counters.value(Count::Interrupts), 3);
}

#[test]
fn distance_is_the_shortest_timer_that_applies() {
    let registers = Registers::new();
    let distance = |pending, ide| distance_ns(&registers, pending, ide);
    assert_eq!(distance(Icr::TXDW | Icr::RXT0, true), 0);
    registers.store(regs::TIDV, 8);
    assert_eq!(distance(Icr::TXDW, true), 8 * 1024, "TIDV stands in for TADV");
    registers.store(regs::TADV, 32);
    assert_eq!(distance(Icr::TXDW, true), 32 * 1024);
    assert_eq!(distance(Icr::TXDW, false), 0, "without IDE no delay");
    assert_eq!(distance(Icr::RXT0, true), 0);
    registers.store(regs::RADV, 16);
    assert_eq!(distance(Icr::RXT0, false), 0, "RADV counts with RDTR only");
    registers.store(regs::RDTR, 4);
    assert_eq!(distance(Icr::RXT0, false), 16 * 1024);
    registers.store(regs::ITR, 50);
    assert_eq!(distance(Icr::RXT0 | Icr::TXDW, true), 50 * 256);
}

#[test]
fn flush_ends_the_distance() {
    let b = Bench::new(true);
    b.registers.store(regs::ITR, 1000);
    b.raise(Icr::TXDW);
    b.read_icr();
    assert_eq!(b.raise(Icr::TXDW), Change::Postponed);
    b.irq.flush();
    assert_eq!(b.advance(0), Change::Line(true));
}

#[test]
fn csb_suppresses_data_that_nobody_waits_for_and_nothing_else() {
    let b = Bench::new(false);
    b.wants.set(Wants { tx: false, rx: true });
    assert_eq!(b.raise(Icr::TXDW | Icr::TXQE), Change::None);
    assert_eq!(b.counters.value(Count::IrqSuppressed), 1);
    assert_eq!(b.raise(Icr::RXT0), Change::Line(true));
    assert_eq!(b.read_icr() & !Icr::INT_ASSERTED, Icr::TXDW | Icr::TXQE | Icr::RXT0);
    b.wants.set(Wants { tx: false, rx: false });
    assert_eq!(b.raise(Icr::RXT0 | Icr::RXDMT0), Change::None);
    assert_eq!(b.raise(Icr::LSC), Change::Line(true));
    b.read_icr();
    b.wants.set(Wants { tx: true, rx: false });
    assert_eq!(b.raise(Icr::TXDW), Change::Line(true));
}

#[test]
fn suppressed_cause_is_found_when_the_guest_wants_it_again() {
    let b = Bench::new(false);
    b.wants.set(Wants { tx: false, rx: false });
    b.raise(Icr::RXT0);
    b.wants.set(Wants::ALL);
    assert_eq!(b.advance(0), Change::Line(true));
}

#[test]
fn reset_forgets_everything_and_lowers_the_line() {
    let b = Bench::new(true);
    b.registers.store(regs::ITR, 1000);
    b.raise(Icr::RXT0);
    b.irq.reset(|level| b.line.borrow_mut().push(level));
    assert_eq!(b.line(), [true, false]);
    assert_eq!((b.irq.peek(), b.irq.ims(), b.irq.deadline()), (Icr::empty(), Icr::empty(), None));
    b.irq.unmask(Icr::all(), b.context());
    assert_eq!(b.raise(Icr::RXT0), Change::Line(true), "no distance is left");
}

#[test]
fn disabled_line_is_down_and_its_level_can_be_asked_for() {
    let b = Bench::new(false);
    let line = |level| b.line.borrow_mut().push(level);
    b.raise(Icr::LSC);
    assert_eq!(b.irq.disable(true, line), Change::Line(false));
    assert_eq!(b.irq.disable(true, line), Change::None);
    assert_eq!((b.line(), b.irq.is_asserted()), (vec![true, false], true));
    // Read, and raised again: the board hears nothing of either.
    b.read_icr();
    assert!(!b.irq.is_asserted());
    assert_eq!(b.raise(Icr::TXDW), Change::None);
    assert_eq!((b.line(), b.irq.is_asserted()), (vec![], true));
    assert_eq!(b.counters.value(Count::Interrupts), 1);
    assert_eq!(b.irq.disable(false, line), Change::Line(true));
    b.read_icr();
    assert_eq!(b.line(), [true, false]);
    assert_eq!(b.irq.disable(true, line), Change::None);
    b.irq.disable(false, line);
    assert_eq!(b.line(), [], "nothing pends");
}
