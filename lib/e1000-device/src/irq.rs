//! Interrupts: causes, mask, the level of INTx, moderation, and the filter of the CSB (8254x manual,
//! sections 13.4.17 to 13.4.21 and 13.4.18 for ITR).
//!
//! ```text
//!   cause -> ICR --& IMS--> pending? --CSB filter--> wanted? --moderation--> due? -> line up
//!   ICR read, IMC, write-1-clear ---> nothing pending any more ------------------> line down
//! ```
//! PCI's interrupt disable (COMMAND, bit 10) is a switch in the line behind all this: the level is as it would be, and
//! can be asked for (PCI's STATUS, bit 3), but the board sees a line that is down.
//!
//! Invariants: the line is up only while ICR & IMS is not 0; a pending cause that somebody wants
//! raises the line at once or at the deadline that [`Irq::deadline`] tells; level changes reach the
//! board in the order in which they happened, because they are made under the lock.
//!
//! Moderation keeps a distance between rising edges instead of delaying each of them, so a lone
//! packet is never late. A cause within the distance is postponed to its end, once for all. The
//! distance is the shortest of what applies: ITR; TADV (else TIDV) if a descriptor had IDE and
//! transmission is a cause; RADV (else RDTR) if RDTR is not 0 and reception is.
//!
//! Causes without a name (reserved ones) are causes like others: self-tests of drivers raise each bit.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use e1000pv::bits::Icr;
use e1000pv::{itr, regs};

use super::registers::Registers;
use crate::counters::{Count, Counters};
use crate::state::{self, BadState};

/// What the guest's CSB says about interrupts for data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wants {
    /// Sent descriptors.
    pub tx: bool,
    /// Received packets.
    pub rx: bool,
}

impl Wants {
    /// A guest without CSB wants every interrupt that it did not mask.
    pub const ALL: Self = Self { tx: true, rx: true };

    /// Whether `pending` is worth an interrupt.
    fn include(self, pending: Icr) -> bool {
        !Icr::DATA.contains(pending)
            || self.tx && pending.intersects(Icr::TX)
            || self.rx && pending.intersects(Icr::RXT0.union(Icr::RXDMT0))
    }
}

/// What a change of causes or mask led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The line is as it was.
    None,
    /// The line changed to this level.
    Line(bool),
    /// The line will go up at the deadline, of which the thread that waits for it must be told.
    Postponed,
}

#[derive(Debug)]
struct State {
    icr: Icr,
    ims: Icr,
    /// What the board was told last, unless the line is disabled.
    level: bool,
    /// The board is to see a line that is down.
    disabled: bool,
    /// A descriptor with IDE was written back since the last interrupt.
    ide: bool,
    /// No rising edge before this moment.
    not_before_ns: u64,
    /// A cause waits for `not_before_ns`.
    postponed: bool,
}

/// The interrupt logic of one device.
pub struct Irq {
    state: Mutex<State>,
    moderation: bool,
    pace_ns: u64,
    counters: Arc<dyn Counters>,
}

impl fmt::Debug for Irq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Irq").field("state", &self.state).finish_non_exhaustive()
    }
}

/// What the logic needs of the device for one decision.
#[derive(Debug)]
pub struct Context<'a, W, S, C> {
    /// ITR and the four delays.
    pub registers: &'a Registers,
    /// Asks the CSB, if the guest has one; called at most once.
    pub wants: W,
    /// Sets the line.
    pub set_intx: S,
    /// The monotonic clock; called only where interrupts are kept apart.
    pub now_ns: C,
}

impl Irq {
    /// No cause, everything masked, the line down.
    #[must_use]
    pub fn new(moderation: bool, counters: Arc<dyn Counters>) -> Self {
        let state = State {
            icr: Icr::empty(),
            ims: Icr::empty(),
            level: false,
            disabled: false,
            ide: false,
            not_before_ns: 0,
            postponed: false,
        };
        Self { state: Mutex::new(state), moderation, pace_ns: 0, counters }
    }

    /// With at least so much time between interrupts, whatever the guest asks for.
    #[must_use]
    pub fn paced(self, pace_ns: u64) -> Self {
        Self { pace_ns, ..self }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below panics between two writes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets causes, as data does or a write to ICS. `ide`: a descriptor among them had IDE set.
    pub fn raise<W, S, C>(&self, causes: Icr, ide: bool, context: Context<'_, W, S, C>) -> Change
    where
        W: FnOnce() -> Wants,
        S: FnOnce(bool),
        C: FnOnce() -> u64,
    {
        let mut state = self.lock();
        state.icr |= causes.difference(Icr::INT_ASSERTED);
        state.ide |= ide;
        self.update(&mut state, context)
    }

    /// Reads ICR, and thereby clears it.
    pub fn read_icr(&self, set_intx: impl FnOnce(bool)) -> Icr {
        let mut state = self.lock();
        let mut icr = std::mem::replace(&mut state.icr, Icr::empty());
        if icr.intersects(state.ims) {
            icr |= Icr::INT_ASSERTED;
        }
        drop_line(&mut state, set_intx);
        icr
    }

    /// Clears causes, as a write to ICR does.
    pub fn clear(&self, causes: Icr, set_intx: impl FnOnce(bool)) {
        let mut state = self.lock();
        state.icr.remove(causes);
        drop_line(&mut state, set_intx);
    }

    /// Clears bits of the mask (IMC).
    pub fn mask(&self, causes: Icr, set_intx: impl FnOnce(bool)) {
        let mut state = self.lock();
        state.ims.remove(causes);
        drop_line(&mut state, set_intx);
    }

    /// Sets bits of the mask (IMS).
    pub fn unmask<W, S, C>(&self, causes: Icr, context: Context<'_, W, S, C>) -> Change
    where
        W: FnOnce() -> Wants,
        S: FnOnce(bool),
        C: FnOnce() -> u64,
    {
        let mut state = self.lock();
        state.ims |= causes;
        self.update(&mut state, context)
    }

    /// Reads IMS, without effect.
    #[must_use]
    pub fn ims(&self) -> Icr {
        self.lock().ims
    }

    /// Disables the line, or enables it again with the level that it has.
    pub fn disable(&self, disabled: bool, set_intx: impl FnOnce(bool)) -> Change {
        let mut state = self.lock();
        if std::mem::replace(&mut state.disabled, disabled) == disabled || !state.level {
            return Change::None;
        }
        set_intx(!disabled);
        Change::Line(!disabled)
    }

    /// Whether an interrupt is asserted, or would be if the line were not disabled.
    #[must_use]
    pub fn is_asserted(&self) -> bool {
        self.lock().level
    }

    /// ICR as it is, for those who may not clear it.
    #[cfg(any(test, feature = "harness"))]
    #[must_use]
    pub fn peek(&self) -> Icr {
        self.lock().icr
    }

    /// Looks again: the deadline may be over, or the CSB's flags may have changed.
    pub fn evaluate<W, S, C>(&self, context: Context<'_, W, S, C>) -> Change
    where
        W: FnOnce() -> Wants,
        S: FnOnce(bool),
        C: FnOnce() -> u64,
    {
        let mut state = self.lock();
        self.update(&mut state, context)
    }

    /// Forgets the distance to the last interrupt (FPD in RDTR or TIDV), unless it is the host that keeps it.
    pub fn flush(&self) {
        if self.pace_ns == 0 {
            self.lock().not_before_ns = 0;
        }
    }

    /// When a postponed interrupt is due.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        let state = self.lock();
        state.postponed.then_some(state.not_before_ns)
    }

    /// As after power-on.
    pub fn reset(&self, set_intx: impl FnOnce(bool)) {
        let mut state = self.lock();
        state.icr = Icr::empty();
        state.ims = Icr::empty();
        state.ide = false;
        state.not_before_ns = 0;
        drop_line(&mut state, set_intx);
    }

    /// Causes, mask and line, and how far moderation is.
    pub fn save(&self, now_ns: u64) -> state::Interrupts {
        let state = self.lock();
        state::Interrupts {
            icr: state.icr.bits(),
            ims: state.ims.bits(),
            level: state.level,
            disabled: state.disabled,
            ide: state.ide,
            distance_ns: state.not_before_ns.saturating_sub(now_ns),
            postponed: state.postponed,
        }
    }

    /// As it was at `save`; the line is driven again.
    pub fn restore(
        &self,
        from: &state::Interrupts,
        now_ns: u64,
        set_intx: impl FnOnce(bool),
    ) -> Result<(), BadState> {
        let mut state = self.lock();
        state.icr = Icr::from_bits_retain(from.icr);
        state.ims = Icr::from_bits_retain(from.ims);
        let pending = state.icr.intersects(state.ims);
        if (from.level || from.postponed) && !pending || from.level && from.postponed {
            return Err(BadState("an interrupt without a cause"));
        }
        (state.ide, state.postponed) = (from.ide, from.postponed);
        state.not_before_ns = now_ns.saturating_add(from.distance_ns);
        (state.level, state.disabled) = (from.level, from.disabled);
        if from.level && !from.disabled {
            set_intx(true);
        }
        Ok(())
    }

    fn update<W, S, C>(&self, state: &mut State, context: Context<'_, W, S, C>) -> Change
    where
        W: FnOnce() -> Wants,
        S: FnOnce(bool),
        C: FnOnce() -> u64,
    {
        let pending = state.icr & state.ims;
        if pending.is_empty() || state.level {
            return if drop_line(state, context.set_intx) {
                Change::Line(false)
            } else {
                Change::None
            };
        }
        if !(context.wants)().include(pending) {
            // The causes stay set, so the next event or the guest's next read of ICR finds them.
            self.counters.bump(Count::IrqSuppressed, 1);
            state.postponed = false;
            return Change::None;
        }
        if self.moderation || self.pace_ns > 0 {
            let now = (context.now_ns)();
            if now < state.not_before_ns {
                if state.postponed {
                    return Change::None;
                }
                state.postponed = true;
                self.counters.bump(Count::IrqPostponed, 1);
                return Change::Postponed;
            }
            let asked_ns = match self.moderation {
                true => distance_ns(context.registers, pending, state.ide),
                false => 0,
            };
            state.not_before_ns = now + asked_ns.max(self.pace_ns);
        }
        state.postponed = false;
        state.ide = false;
        state.level = true;
        if state.disabled {
            return Change::None;
        }
        self.counters.bump(Count::Interrupts, 1);
        (context.set_intx)(true);
        Change::Line(true)
    }
}

/// Takes the line down if nothing is pending; true if it was up.
fn drop_line(state: &mut State, set_intx: impl FnOnce(bool)) -> bool {
    if state.icr.intersects(state.ims) {
        return false;
    }
    state.postponed = false;
    if state.level {
        state.level = false;
        if !state.disabled {
            set_intx(false);
        }
        return !state.disabled;
    }
    false
}

/// The distance from an interrupt for `pending` to the next one.
fn distance_ns(registers: &Registers, pending: Icr, ide: bool) -> u64 {
    let delay = |absolute, relative| {
        // Where no absolute limit is set, the relative timer alone bounds the wait.
        match itr::delay_ns(registers.load(absolute)) {
            0 => itr::delay_ns(registers.load(relative)),
            ns => ns,
        }
    };
    let mut shortest = u64::MAX;
    let mut consider = |ns: u64| {
        if ns != 0 {
            shortest = shortest.min(ns);
        }
    };
    consider(itr::itr_ns(registers.load(regs::ITR)));
    if ide && pending.intersects(Icr::TX) {
        consider(delay(regs::TADV, regs::TIDV));
    }
    if pending.contains(Icr::RXT0) && registers.load(regs::RDTR) & 0xFFFF != 0 {
        consider(delay(regs::RADV, regs::RDTR));
    }
    if shortest == u64::MAX { 0 } else { shortest }
}

#[cfg(test)]
#[path = "irq_tests.rs"]
mod tests;
