//! One device: rings, discipline, CSB and statistics behind a netmap-like interface. Fill or read a
//! batch of slots, advance or release, flush.
//!
//! Invariant: registers and CSB are touched by `tx_flush`, `rx_release`, `arm`, `disarm`, `interrupted`
//! and `expire` (and `host_tdh` is read by `tx_space`): once a batch each, never for a packet, but for
//! the plain discipline's TDT writes if they are asked for.

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering, fence};

use e1000pv::bits::Icr;
use e1000pv::csb::{self, Csb, Field};
use e1000pv::{itr, regs};

use crate::config::{Config, Discipline, Interrupts, Kick, Report};
use crate::dma::{Dma, Taken, Taking};
use crate::error::Error;
use crate::kick::{Combine, Doorbell, Published};
use crate::mmio::Counted;
use crate::platform::{Cpu, Mmio};
use crate::rx::{RxRing, RxSlot};
use crate::start::{self, RingAddress};
use crate::tx::{ReportAt, TxRing, TxSlot};

/// Plain, combining: buffers given back by one RDT write, if the ring has four times as many.
const RDT_BATCH: u32 = 16;

/// The CSB as this side sees it.
#[derive(Clone, Copy, Debug)]
struct Page(&'static [AtomicU32; 1024]);

impl Page {
    #[inline]
    fn word(&self, field: Field) -> &AtomicU32 {
        &self.0[field.offset() as usize / 4]
    }
}

impl Csb for Page {
    #[inline]
    fn load(&self, field: Field) -> u32 {
        u32::from_le(self.word(field).load(Ordering::Acquire))
    }

    #[inline]
    fn store(&self, field: Field, value: u32) {
        self.word(field).store(value.to_le(), Ordering::Release);
    }

    #[inline]
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

/// What a device's driver counts. Accesses by the platform's interrupt handler are not among them: it
/// reads ICR once for each interrupt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Writes of TDT.
    pub tdt_writes: u64,
    /// Writes of RDT.
    pub rdt_writes: u64,
    /// Registers read.
    pub mmio_reads: u64,
    /// Registers written.
    pub mmio_writes: u64,
    /// Packets that a reset took from the ring.
    pub tx_dropped: u64,
    /// Times that `host_tdh` was out of range.
    pub csb_bad: u64,
    /// Interrupts that said the device had no receive buffer left.
    pub rx_overruns: u64,
    /// Deferred tails that were written because no interrupt came.
    pub expired: u64,
}

/// The result of forwarding a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// Packets moved.
    pub packets: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Packets with errors, dropped.
    pub bad: u32,
}

/// What to be interrupted for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// A received packet.
    pub rx: bool,
    /// So many free transmit slots; 0 is none.
    pub tx: u32,
}

/// A running device. It is reset when it is dropped, and then its memory may be used for other things; [`Nic::close`] gives
/// it back as well.
pub struct Nic<M: Mmio> {
    mmio: Counted<M>,
    config: Config,
    discipline: Discipline,
    mac: [u8; 6],
    link: bool,
    /// Nothing answered when the device was looked at.
    gone: bool,
    taken: Taken,
    tx: TxRing,
    rx: RxRing,
    tx_bus: u64,
    rx_bus: u64,
    csb: Option<(Page, u64)>,
    combine: Combine,
    doorbell: Doorbell,
    /// IMC was written (`Interrupts::Masked`).
    masked: bool,
    rdt_batch: u32,
    stats: Stats,
}

impl<M: Mmio> fmt::Debug for Nic<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nic")
            .field("discipline", &self.discipline)
            .field("mac", &self.mac)
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

impl<M: Mmio> Nic<M> {
    /// Allocates memory and brings the device up. The platform has enabled memory decoding and bus
    /// mastering, and takes the device's interrupts.
    pub fn new(
        mmio: M,
        dma: &mut impl Dma,
        cpu: &impl Cpu,
        config: &Config,
    ) -> Result<Nic<M>, Error> {
        let (n_tx, n_rx) = (config.tx_descriptors, config.rx_descriptors);
        if !config.sizes_valid() {
            return Err(Error::RingSize { tx: n_tx, rx: n_rx });
        }
        let discipline = config.effective();
        let report = match discipline {
            Discipline::Plain => ReportAt::Packets(config.report),
            Discipline::Combine => ReportAt::Packets(Report::All),
            Discipline::Csb => ReportAt::Halves,
        };
        let mut taking = Taking { dma, taken: Taken::new() };
        let found = (|| {
            let tx = taking.descriptors(n_tx as usize)?;
            let rx = taking.descriptors(n_rx as usize)?;
            let csb = match discipline {
                Discipline::Csb => Some(taking.csb_page().map(|(page, bus)| (Page(page), bus))?),
                _ => None,
            };
            let buffers = (taking.buffers(n_tx as usize)?, taking.buffers(n_rx as usize)?);
            Some((tx, rx, csb, buffers))
        })();
        let Taking { dma, mut taken } = taking;
        let Some(((tx_ring, tx_bus), (rx_ring, rx_bus), csb, (tx_buffers, rx_buffers))) = found
        else {
            taken.give_back(dma);
            return Err(Error::NoMemory);
        };
        let batch = if config.kick_batch == 0 { n_tx / 2 } else { config.kick_batch };
        let delayed = config.tidv != 0 || config.tadv != 0;
        let mut nic = Nic {
            mmio: Counted::new(mmio),
            config: config.clone(),
            discipline,
            mac: [0; 6],
            link: false,
            gone: false,
            taken,
            tx: TxRing::new(tx_ring, tx_buffers, report, delayed),
            rx: RxRing::new(rx_ring, rx_buffers),
            tx_bus,
            rx_bus,
            csb,
            combine: Combine::default(),
            // A full ring must kick, whatever was asked for.
            doorbell: Doorbell::new(batch.clamp(1, n_tx - 1), config.kick_delay_ns),
            masked: false,
            rdt_batch: RDT_BATCH.min(n_rx / 4),
            stats: Stats::default(),
        };
        if let Err(error) = nic.reset(cpu) {
            nic.close(dma);
            return Err(error);
        }
        Ok(nic)
    }

    /// Resets the device and gives its memory back to where it came from.
    pub fn close(mut self, dma: &mut impl Dma) {
        let mut taken = core::mem::replace(&mut self.taken, Taken::new());
        drop(self);
        taken.give_back(dma);
    }

    /// Resets the device and brings it up again with empty rings, at any time. Unsent packets are
    /// dropped and counted.
    pub fn reset(&mut self, cpu: &impl Cpu) -> Result<(), Error> {
        start::reset(&self.mmio, cpu)?;
        self.mac = match self.config.mac {
            Some(mac) => mac,
            None => start::station_address(&self.mmio, cpu)?,
        };
        self.stats.tx_dropped += u64::from(self.tx.reset());
        self.rx.reset();
        self.combine = Combine::default();
        self.doorbell.reset();
        self.masked = false;
        if let Some((page, _)) = self.csb {
            csb::guest_init(&page, self.config.txcycles_lim);
            page.store(Field::GuestRdt, self.rx.released());
            page.store(Field::GuestCsbOn, 1);
        }
        // All of it must be in memory before the device learns its address.
        fence(Ordering::SeqCst);
        let tx = RingAddress { bus: self.tx_bus, descriptors: self.tx.n() };
        let rx = RingAddress { bus: self.rx_bus, descriptors: self.rx.n() };
        let csb = self.csb.map(|(_, bus)| bus);
        start::program(&self.mmio, &self.config, self.mac, tx, rx, csb);
        self.refresh_link();
        Ok(())
    }

    /// The discipline in use, which may be less than what was asked for.
    pub fn discipline(&self) -> Discipline {
        self.discipline
    }

    /// The configuration that the device was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The station address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Whether the link was up when the device last said so.
    pub fn link_up(&self) -> bool {
        self.link
    }

    /// Reads the link's state from the device.
    pub fn refresh_link(&mut self) -> bool {
        let link = start::link(&self.mmio);
        (self.link, self.gone) = (link == Some(true), link.is_none());
        self.link
    }

    /// Whether the device did not answer when it was last looked at: it was unplugged, or its memory is switched off.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// Counters since the device was made.
    pub fn stats(&self) -> Stats {
        Stats { mmio_reads: self.mmio.reads(), mmio_writes: self.mmio.writes(), ..self.stats }
    }

    // Transmit.

    /// Free slots. What the device has sent is taken back if fewer than `want` are known to be free.
    #[inline]
    pub fn tx_space(&mut self, want: usize) -> usize {
        if (self.tx.space() as usize) < want {
            self.reclaim();
        }
        self.tx.space() as usize
    }

    /// Packets filled or told, and not known to be sent.
    pub fn tx_pending(&mut self) -> usize {
        self.reclaim();
        self.tx.pending() as usize
    }

    /// Number of transmit descriptors.
    pub fn tx_descriptors(&self) -> usize {
        self.tx.n() as usize
    }

    /// The free slot `i` places on; `i` is below [`Nic::tx_space`].
    #[inline]
    pub fn tx_slot(&self, i: usize) -> TxSlot<'_> {
        self.tx.slot(i as u32)
    }

    /// The next `count` free slots, faster than one by one.
    #[inline]
    pub fn tx_batch(&self, count: usize) -> impl Iterator<Item = TxSlot<'_>> {
        self.tx.batch(count as u32)
    }

    /// The next `count` slots are filled, each by [`TxSlot::send`].
    #[inline]
    pub fn tx_advance(&mut self, count: usize) {
        self.tx.advance(count as u32);
    }

    /// Tells the device of what was advanced over, as the discipline says. `more`: packets will follow
    /// soon, so a kick may be put off.
    #[inline]
    pub fn tx_flush(&mut self, cpu: &impl Cpu, more: bool) {
        match self.csb {
            Some((page, _)) => self.flush_csb(page, cpu, more),
            None if self.tx.published() == self.tx.next() => {}
            None if self.discipline == Discipline::Combine => self.flush_combining(cpu),
            None => self.flush_plain(),
        }
    }

    /// Whether packets wait that the device has not been told of: a later flush has to be called for them.
    #[inline]
    pub fn tx_held_back(&self) -> bool {
        self.tx.published() != self.tx.next() || self.doorbell.waiting()
    }

    fn flush_csb(&mut self, page: Page, cpu: &impl Cpu, more: bool) {
        let asked = if self.tx.published() == self.tx.next() {
            if more && !self.doorbell.waiting() {
                return;
            }
            // Nothing new, but an earlier kick may have been put off.
            csb::tx_kick_wanted(&page)
        } else {
            self.tx.set_published();
            csb::tx_publish(&page, self.tx.next())
        };
        if !asked {
            self.doorbell.reset();
            return;
        }
        self.reclaim();
        // After `reclaim`, the oldest unsent descriptor is `host_tdh`, or the last one that made sense.
        let state =
            Published { asked, tdh: self.tx.clean(), pending: self.tx.pending(), flush: !more };
        if self.doorbell.decide(state, || cpu.now_ns()) {
            self.write_tdt();
        }
    }

    fn flush_combining(&mut self, cpu: &impl Cpu) {
        let silent = self.masked || self.config.interrupts.tell_nothing();
        if silent && self.combine != Combine::Idle {
            // No interrupt will come while they are masked: the descriptors say it as well.
            self.tx.reclaim_done();
            if self.tx.clean() == self.tx.published() {
                self.combine = Combine::Idle;
            }
        }
        if self.combine.flush(|| cpu.now_ns()) {
            self.write_tdt();
        } else {
            let moderation_ns = self.moderation_ns();
            if self.combine.expired(cpu.now_ns(), moderation_ns) {
                self.stats.expired += 1;
                self.write_tdt();
            }
        }
    }

    fn flush_plain(&mut self) {
        if self.config.kick == Kick::Packet {
            let mut at = self.tx.wrap(self.tx.published() + 1);
            while at != self.tx.next() {
                self.write_tdt_at(at);
                at = self.tx.wrap(at + 1);
            }
        }
        self.write_tdt();
    }

    fn write_tdt(&mut self) {
        self.tx.set_published();
        self.write_tdt_at(self.tx.next());
    }

    fn write_tdt_at(&mut self, at: u32) {
        // Descriptors and frames before the tail.
        fence(Ordering::Release);
        self.mmio.write(regs::TDT, at);
        self.stats.tdt_writes += 1;
    }

    fn reclaim(&mut self) {
        let Some((page, _)) = self.csb else {
            return self.reclaim_descriptors();
        };
        if !self.tx.reclaim_to(page.load(Field::HostTdh)) {
            self.stats.csb_bad += 1;
        }
    }

    fn reclaim_descriptors(&mut self) {
        self.tx.reclaim_done();
        // There is no space and the device has nothing left to do, so waiting for an interrupt only costs time.
        if self.combine.deferred() && self.tx.space() == 0 && self.tx.clean() == self.tx.published()
        {
            self.combine = Combine::Expected;
            self.write_tdt();
        }
    }

    /// How long the device may hold back an interrupt by intention.
    fn moderation_ns(&self) -> u64 {
        let delays = u32::from(self.config.tidv.max(self.config.tadv));
        itr::itr_ns(self.config.itr.into()) + itr::delay_ns(delays)
    }

    // Receive.

    /// Received packets, at most `most`.
    #[inline]
    pub fn rx_available(&mut self, most: usize) -> usize {
        self.rx.available(most.min(self.rx.n() as usize) as u32) as usize
    }

    /// Whether there is a received packet `i` places on: a look at memory, for who waits.
    #[inline]
    pub fn rx_has(&self, i: usize) -> bool {
        self.rx.has(i.min(self.rx.n() as usize) as u32)
    }

    /// The received packet `i` places on; `i` is below [`Nic::rx_available`].
    #[inline]
    pub fn rx_slot(&self, i: usize) -> RxSlot<'_> {
        self.rx.slot(i as u32)
    }

    /// The next `count` received packets, faster than one by one.
    #[inline]
    pub fn rx_batch(&self, count: usize) -> impl Iterator<Item = RxSlot<'_>> {
        self.rx.batch(count as u32)
    }

    /// Gives the buffers of the next `count` received packets back to the device.
    #[inline]
    pub fn rx_release(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        self.rx.release(count as u32);
        match self.csb {
            Some((page, _)) => {
                let (from, to) = (self.rx.tail(), self.rx.released());
                self.rx.set_told();
                if csb::rx_release(&page, from, to, self.rx.n()) {
                    self.write_rdt();
                }
            }
            None if self.rx.untold() >= self.rdt_batch => {
                self.rx.set_told();
                self.write_rdt();
            }
            None => {}
        }
    }

    fn write_rdt(&mut self) {
        fence(Ordering::Release);
        self.mmio.write(regs::RDT, self.rx.tail());
        self.stats.rdt_writes += 1;
    }

    // Moving packets without copying.

    /// Makes the received packet `i` places on the transmit packet `j` places on, by exchanging their
    /// buffers. The receive slot is still to be released, the transmit slot to be advanced over.
    #[inline]
    pub fn reflect(&mut self, i: usize, j: usize, len: usize) {
        self.tx.exchange(j as u32, &mut self.rx, i as u32, len);
    }

    /// Moves the next `count` received packets to another device by exchanging buffers, releases them
    /// here and advances there. Both have so many. Neither is flushed.
    pub fn forward(&mut self, to: &mut Nic<M>, count: usize) -> Forwarded {
        let mut moved = Forwarded::default();
        for i in 0..count as u32 {
            let slot = self.rx.slot(i);
            let (len, good) = (slot.len(), slot.is_good());
            if !good || len == 0 {
                moved.bad += 1;
                continue;
            }
            to.tx.exchange(moved.packets, &mut self.rx, i, len);
            moved.packets += 1;
            moved.bytes += len as u64;
        }
        to.tx.advance(moved.packets);
        self.rx_release(count);
        moved
    }

    // Interrupts.

    /// Takes notice of interrupts: `causes` are those of all devices of the platform, which does no
    /// harm here beyond a register access.
    pub fn interrupted(&mut self, causes: u32) {
        let causes = Icr::from_bits_retain(causes);
        if self.config.interrupts == Interrupts::Masked && !self.masked && !causes.is_empty() {
            self.mmio.write(regs::IMC, u32::MAX);
            self.masked = true;
        }
        let sent = causes.intersects(Icr::TX) && self.discipline == Discipline::Combine;
        if sent && self.combine.completed() {
            self.write_tdt();
        }
        if causes.contains(Icr::RXO) {
            self.stats.rx_overruns += 1;
        }
        if causes.contains(Icr::LSC) {
            self.refresh_link();
        }
    }

    /// For a platform without an interrupt handler: reads ICR, which takes the line down, and takes notice.
    pub fn read_causes(&mut self) {
        let causes = self.mmio.read(regs::ICR);
        self.interrupted(causes);
    }

    /// Whether something of `interest` is there already.
    pub fn ready(&mut self, interest: Interest) -> bool {
        (interest.rx && self.rx_available(1) > 0)
            || (interest.tx > 0 && {
                let want = (interest.tx as usize).min(self.tx_descriptors() - 1);
                self.tx_space(want) >= want
            })
    }

    /// Asks for interrupts for `interest` and looks again. True: there is nothing, and the caller may
    /// sleep. In both cases [`Nic::disarm`] must follow.
    #[must_use]
    pub fn arm(&mut self, interest: Interest) -> bool {
        if self.masked {
            self.masked = false;
            self.mmio.write(regs::IMS, start::causes(&self.config).bits());
        }
        let Some((page, _)) = self.csb else {
            return !self.ready(interest);
        };
        let rx = Interest { tx: 0, ..interest };
        let tx = Interest { rx: false, ..interest };
        (!interest.rx || csb::rx_want_interrupt(&page, || !self.ready(rx)))
            && (interest.tx == 0 || csb::tx_want_interrupt(&page, || self.ready(tx)))
    }

    /// Suppresses interrupts for data while this side is awake. Without a CSB there is nothing to do; masking
    /// is done by [`Nic::interrupted`], since it costs an exit.
    pub fn disarm(&mut self) {
        if let Some((page, _)) = self.csb {
            csb::rx_no_interrupt(&page);
            csb::tx_no_interrupt(&page);
        }
    }

    /// Time has passed without an interrupt: writes a deferred tail that has waited for too long.
    pub fn expire(&mut self, now_ns: u64) {
        let moderation_ns = self.moderation_ns();
        if self.discipline == Discipline::Combine && self.combine.expired(now_ns, moderation_ns) {
            self.stats.expired += 1;
            self.write_tdt();
        }
    }
}

impl<M: Mmio> Drop for Nic<M> {
    fn drop(&mut self) {
        start::quiesce_counted(&self.mmio);
    }
}
