//! Virtio-net headers on loan: a length that a port has as long as the handles live that asked for it.
//!
//! Invariant: as long as one of them lives the port has that length, and all of them have asked for the same: another is
//! refused, whether it is to be lent or chosen for the port itself. When the last of them goes, whatever ended it, the port
//! has the headers that it had before the first, and what was queued in the one form is never read or sent in the other, but
//! discarded.
//!
//! The handle's entry says what it borrowed before the port's entry changes, so a death in between is one after. What another
//! loan has changed is taken back before, so that there is one change that a death may leave, and an entry that tells of it.

use std::time::{Duration, Instant};

use crate::error::{Error, InUse, Result};
use crate::options::BoundRings;
use crate::shm::lock::RootLock;
use crate::vale::lifecycle::shared;
use crate::vale::lifecycle::switch::Switch;
use crate::vale::state::MAX_PORTS;
use crate::vale::state::handles::{ListedHandle, Loan};
use crate::vale::state::ids::{HandleId, ParticipantId, PortIndex, RingNumber};
use crate::vale::state::kring::{Held, OnHeld};
use crate::vale::state::owner::Taken;
use crate::vale::state::portfiles::PortFiles;
use crate::vale::state::switch::HEADER_LENGTHS;

/// How long senders in the middle of a batch are waited for in all: some turns of a processor that ten share. Only one that is stopped, or
/// that lies, takes longer.
const LONGEST_WAIT: Duration = Duration::from_millis(200);

/// Lends a port headers of `len` bytes, one of `HEADER_LENGTHS`, for as long as the handle `id` lives, which binds the rings `bound`.
///
/// # Errors
/// Another handle has another length on loan; the handle is no more; the root's lock cannot be had.
pub fn lend(
    switch: &Switch,
    files: &PortFiles,
    id: HandleId,
    bound: &BoundRings,
    len: u8,
) -> Result<()> {
    let port = files.file.shape.index;
    let lock = switch.root().lock()?;
    if switch.handles().get(id.index).is_none_or(|entry| entry.id != id) {
        return Err(Error::NotFound { name: format!("port of {} any more", switch.name()) });
    }
    refuse_another(switch, port, Some(id), len)?;
    let had = switch.header_of(port);
    let loans = || switch.handles().all().filter(|h| h.port == port && h.loan.is_some());
    // Of the dead, or this handle's own.
    for handle in loans().filter(|h| h.loan.is_some_and(|loan| loan.lent != len)) {
        take_back(switch, &lock, &handle, id);
        switch.handles().lend(&lock, handle.index, None);
    }
    let mut loans = loans().filter_map(|h| h.loan);
    let before = loans.next().map_or(switch.header_of(port), |loan| loan.before);
    switch.handles().lend(&lock, id.index, Some(Loan { before, lent: len }));
    if switch.header_of(port) != len {
        switch.set_header(&lock, port, len);
    }
    if had == len { Ok(()) } else { discard(switch, files, bound) }
}

/// Chooses headers of `len` bytes, one of `HEADER_LENGTHS`, for the port itself. The handle `by`, if one asks, has nothing on loan any more.
/// What is in rings that nobody else has bound is discarded.
///
/// # Errors
/// Another handle has another length on loan.
pub fn choose(
    switch: &Switch,
    lock: &RootLock,
    port: PortIndex,
    by: Option<HandleId>,
    len: u8,
) -> Result<()> {
    refuse_another(switch, port, by, len)?;
    let is_other = switch.header_of(port) != len;
    switch.set_header(lock, port, len);
    if is_other {
        discard_unused(switch, port, by);
    }
    for handle in switch.handles().all().filter(|h| h.port == port) {
        let loan = handle.loan.filter(|_| by != Some(handle.id));
        switch.handles().lend(lock, handle.index, loan.map(|loan| Loan { before: len, ..loan }));
    }
    Ok(())
}

/// Refuses a length while somebody who lives counts on another, `but` one.
fn refuse_another(switch: &Switch, port: PortIndex, but: Option<HandleId>, len: u8) -> Result<()> {
    let others = switch.live_handles_of(port).filter(|h| Some(h.id) != but);
    let mut lent = others.filter_map(|h| Some((h.pid, h.loan?.lent)));
    let Some((pid, lent)) = lent.find(|&(_, lent)| lent != len) else { return Ok(()) };
    let name = match switch.listed(port) {
        Some(listed) => format!("{}:{}", switch.name(), listed.name),
        None => switch.name().to_string(),
    };
    Err(Error::Busy { name, by: InUse::Headers { pid, lent } })
}

/// Before a handle that is no more is freed: ends its loan.
pub fn end(switch: &Switch, lock: &RootLock, handle: &ListedHandle) {
    take_back(switch, lock, handle, handle.id);
}

/// Gives a port the headers that it had before a handle's loan, unless another one has some as well. Rings that only the dead have
/// bound, or `but`, are emptied.
fn take_back(switch: &Switch, lock: &RootLock, handle: &ListedHandle, but: HandleId) {
    // The entry is what some process wrote.
    let Some(loan) = handle.loan.filter(|loan| HEADER_LENGTHS.contains(&loan.before)) else {
        return;
    };
    let mut others = switch.handles().all().filter(|h| h.port == handle.port);
    if handle.port.at() >= MAX_PORTS || others.any(|h| h.id != handle.id && h.loan.is_some()) {
        return;
    }
    if loan.before == loan.lent {
        return;
    }
    switch.set_header(lock, handle.port, loan.before);
    discard_unused(switch, handle.port, Some(but));
}

/// Empties the rings of a port but those that somebody who lives has bound, other than `but`: who has may have read how things are, and has
/// to see to it.
fn discard_unused(switch: &Switch, index: PortIndex, but: Option<HandleId>) {
    let Some(listed) = switch.listed(index) else { return };
    if let Ok((port, _)) = shared::port(switch, &listed.name) {
        let mut all = port.all_rings();
        for user in switch.live_handles_of(index).filter(|user| Some(user.id) != but) {
            all = all.without(&user.bound);
        }
        // Without a place among the processes, the next one finds what this one leaves.
        let _ = discard(switch, &port, &all);
    }
}

/// Empties rings of a port: what is to be sent, and what came.
pub fn discard(switch: &Switch, port: &PortFiles, rings: &BoundRings) -> Result<()> {
    let me = switch.me()?;
    for &i in &rings.tx {
        discard_sent(switch, port, i, me);
    }
    let end = Instant::now() + LONGEST_WAIT;
    for &i in &rings.rx {
        discard_received(switch, port, i, me, end);
    }
    Ok(())
}

fn discard_sent(switch: &Switch, port: &PortFiles, i: RingNumber, me: ParticipantId) {
    let (state, ring) = (port.file.tx_state(i), port.tx_ring(i));
    let Some(ring) = ring else { return };
    let Some(begun) = state.begin(me, |owner| switch.is_dead(owner)) else { return };
    let hwcur = if begun.hwcur < ring.n() { begun.hwcur } else { 0 };
    ring.reinit(hwcur, ring.step(hwcur, ring.n() - 1));
    state.done(hwcur);
    state.set_stall(None);
    for waits in state.end(me).into_iter().flat_map(|waiting| waiting.handles()) {
        switch.ring(waits, None);
    }
}

fn discard_received(
    switch: &Switch,
    port: &PortFiles,
    i: RingNumber,
    me: ParticipantId,
    end: Instant,
) {
    let (kring, ring) = (port.file.kring(i), port.rx_ring(i));
    let Some(ring) = ring else { return };
    // Senders look at the length while they hold the ring, so who has looked before is done when it can be held.
    let held = kring.hold(me, |owner| match switch.is_dead(owner) {
        true => OnHeld::Dead,
        false if Instant::now() < end => OnHeld::Wait,
        false => OnHeld::GiveUp,
    });
    if held == Held::Stolen {
        kring.mend(ring);
    }
    let end = kring.published();
    if end < ring.n() && kring.reader.take(me, |owner| switch.is_dead(owner)) != Taken::No {
        ring.reinit(end, end);
        kring.free(end);
        kring.reader.give(me);
    }
    if held != Held::No {
        kring.release_hold(me);
    }
    for waits in kring.take_waiters().into_iter().flat_map(|waiting| waiting.handles()) {
        switch.ring(waits, None);
    }
}

#[cfg(test)]
mod tests;
