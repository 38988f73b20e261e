//! Bringing a device up, in the order of the 8254x manual, chapter 14: reset, address, receive filters,
//! rings, timers, CSB, interrupts. Every access here is MMIO and an exit, and none is time-critical.
//!
//! The same sequence also runs after a reset in operation: the device forgets its rings, and the driver's are
//! empty again before the device learns their addresses.

use e1000pv::bits::{Ctrl, Eerd, Icr, Rah, Rctl, Status, Tctl};
use e1000pv::regs;

use crate::config::{Config, Discipline, Interrupts};
use crate::dma::BUFFER_BYTES;
use crate::error::Error;
use crate::mmio::Counted;
use crate::platform::{Cpu, Mmio};

/// Time for a reset to end and for the EEPROM to answer.
const TIMEOUT_NS: u64 = 10_000_000;
/// The device must be left alone for this long after a reset (8254x manual 13.4.1, RST).
const RESET_NS: u64 = 1_000;
/// Collision threshold and distance that the manual recommends for full duplex (13.4.33).
const TCTL_CT_COLD: u32 = 0x0F << 4 | 0x40 << 12;
/// IPGT 10, IPGR1 8, IPGR2 6: copper (13.4.34).
const TIPG_COPPER: u32 = 10 | 8 << 10 | 6 << 20;

/// Where the device finds a ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingAddress {
    pub(crate) bus: u64,
    pub(crate) descriptors: u32,
}

/// Waits until a register's bits are as wanted.
fn poll<M: Mmio, C: Cpu>(
    mmio: &Counted<M>,
    cpu: &C,
    offset: u32,
    wanted: impl Fn(u32) -> bool,
) -> Option<u32> {
    let end = cpu.now_ns() + TIMEOUT_NS;
    loop {
        let value = mmio.read(offset);
        if wanted(value) {
            return Some(value);
        }
        if cpu.now_ns() >= end {
            return None;
        }
        core::hint::spin_loop();
    }
}

/// Asks the device to reset itself: no interrupts, no DMA once it has.
fn request_reset<M: Mmio>(mmio: &Counted<M>) {
    mmio.write(regs::IMC, u32::MAX);
    mmio.write(regs::RCTL, 0);
    mmio.write(regs::TCTL, 0);
    let ctrl = mmio.read(regs::CTRL);
    mmio.write(regs::CTRL, ctrl | Ctrl::RST.bits());
}

/// Takes the device's hands off memory, where nothing can be waited for: a platform without a clock at hand, or a device
/// that is gone.
pub(crate) fn quiesce_counted<M: Mmio>(mmio: &Counted<M>) {
    /// Reads until the reset has ended: one of some microseconds, by accesses of a tenth of one at least.
    const LOOKS: u32 = 1000;
    request_reset(mmio);
    let resetting = |value: u32| value & Ctrl::RST.bits() != 0 && value != u32::MAX;
    let _ = (0..LOOKS).find(|_| !resetting(mmio.read(regs::CTRL)));
}

/// Takes a device's hands off memory that somebody else has given it, before it gets another [`crate::Nic`]'s.
pub fn quiesce(mmio: &impl Mmio) {
    quiesce_counted(&Counted::new(mmio));
}

/// Resets the device (14.3): no interrupts, no DMA afterwards.
pub(crate) fn reset<M: Mmio, C: Cpu>(mmio: &Counted<M>, cpu: &C) -> Result<(), Error> {
    request_reset(mmio);
    let quiet = cpu.now_ns() + RESET_NS;
    while cpu.now_ns() < quiet {
        core::hint::spin_loop();
    }
    poll(mmio, cpu, regs::CTRL, |ctrl| ctrl & Ctrl::RST.bits() == 0).ok_or(Error::Reset)?;
    mmio.write(regs::IMC, u32::MAX);
    // Reading takes the causes away.
    mmio.read(regs::ICR);
    Ok(())
}

/// The station address: from the EEPROM's first three words (5.6.1), or what firmware left in RAL/RAH.
pub(crate) fn station_address<M: Mmio, C: Cpu>(
    mmio: &Counted<M>,
    cpu: &C,
) -> Result<[u8; 6], Error> {
    let valid = |mac: [u8; 6]| (mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac);
    from_eeprom(mmio, cpu)
        .and_then(valid)
        .or_else(|| {
            let (low, high) = (mmio.read(regs::RAL), mmio.read(regs::RAH));
            let ([a, b, c, d], [e, f, ..]) = (low.to_le_bytes(), high.to_le_bytes());
            (high & Rah::AV.bits() != 0).then_some([a, b, c, d, e, f]).and_then(valid)
        })
        .ok_or(Error::NoAddress)
}

fn from_eeprom<M: Mmio, C: Cpu>(mmio: &Counted<M>, cpu: &C) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    for (word, bytes) in mac.chunks_exact_mut(2).enumerate() {
        mmio.write(regs::EERD, (word as u32) << 8 | Eerd::START.bits());
        let read = poll(mmio, cpu, regs::EERD, |eerd| eerd & Eerd::DONE.bits() != 0)?;
        bytes.copy_from_slice(&((read >> 16) as u16).to_le_bytes());
    }
    Some(mac)
}

/// Programs a device that was just reset. It receives and sends when this returns.
pub(crate) fn program<M: Mmio>(
    mmio: &Counted<M>,
    config: &Config,
    mac: [u8; 6],
    tx: RingAddress,
    rx: RingAddress,
    csb: Option<u64>,
) {
    general(mmio, mac);
    receive(mmio, config, rx);
    transmit(mmio, config, tx);
    mmio.write(regs::ITR, config.itr.into());
    if let Some(bus) = csb {
        // The low half maps, so it comes last.
        mmio.write(regs::CSBAH, (bus >> 32) as u32);
        mmio.write(regs::CSBAL, bus as u32);
    }
    if config.interrupts != Interrupts::Never {
        mmio.write(regs::IMS, causes(config).bits());
    }
}

/// The causes that may interrupt.
pub(crate) fn causes(config: &Config) -> Icr {
    let causes = Icr::TXDW | Icr::RXT0 | Icr::RXO | Icr::LSC;
    // A host whose transmit queue drains without a descriptor that has RS reports only this.
    if config.effective() == Discipline::Csb { causes | Icr::TXQE } else { causes }
}

fn general<M: Mmio>(mmio: &Counted<M>, mac: [u8; 6]) {
    let mut ctrl = Ctrl::from_bits_retain(mmio.read(regs::CTRL));
    ctrl.insert(Ctrl::SLU | Ctrl::ASDE | Ctrl::FD);
    ctrl.remove(
        Ctrl::LRST
            | Ctrl::PHY_RST
            | Ctrl::VME
            | Ctrl::FRCSPD
            | Ctrl::FRCDPX
            | Ctrl::RFCE
            | Ctrl::TFCE,
    );
    mmio.write(regs::CTRL, ctrl.bits());
    // No flow control (14.4).
    for register in [regs::FCAL, regs::FCAH, regs::FCT, regs::FCTTV] {
        mmio.write(register, 0);
    }
    let [a, b, c, d, e, f] = mac;
    mmio.write(regs::RAL, u32::from_le_bytes([a, b, c, d]));
    mmio.write(regs::RAH, u32::from_le_bytes([e, f, 0, 0]) | Rah::AV.bits());
    for word in 0..regs::MTA_COUNT {
        mmio.write(regs::MTA + 4 * word, 0);
    }
}

fn receive<M: Mmio>(mmio: &Counted<M>, config: &Config, ring: RingAddress) {
    mmio.write(regs::RDTR, config.rdtr.into());
    mmio.write(regs::RADV, config.radv.into());
    mmio.write(regs::RXCSUM, 0);
    mmio.write(regs::RDBAL, ring.bus as u32);
    mmio.write(regs::RDBAH, (ring.bus >> 32) as u32);
    mmio.write(regs::RDLEN, ring.descriptors * 16);
    mmio.write(regs::RDH, 0);
    mmio.write(regs::RDT, 0);
    let mut rctl =
        Rctl::EN | Rctl::BAM | Rctl::SECRC | Rctl::with_buffer_bytes(BUFFER_BYTES as u32);
    if config.promiscuous {
        rctl |= Rctl::UPE | Rctl::MPE;
    }
    mmio.write(regs::RCTL, rctl.bits());
    // All but one; after RCTL.EN, as 14.4 asks for.
    mmio.write(regs::RDT, ring.descriptors - 1);
}

fn transmit<M: Mmio>(mmio: &Counted<M>, config: &Config, ring: RingAddress) {
    mmio.write(regs::TDBAL, ring.bus as u32);
    mmio.write(regs::TDBAH, (ring.bus >> 32) as u32);
    mmio.write(regs::TDLEN, ring.descriptors * 16);
    mmio.write(regs::TDH, 0);
    mmio.write(regs::TDT, 0);
    mmio.write(regs::TIDV, config.tidv.into());
    mmio.write(regs::TADV, config.tadv.into());
    mmio.write(regs::TIPG, TIPG_COPPER);
    mmio.write(regs::TCTL, (Tctl::EN | Tctl::PSP).bits() | TCTL_CT_COLD);
}

/// Whether the link is up; `None`: nothing answers, since a bus without a device reads as ones.
pub(crate) fn link<M: Mmio>(mmio: &Counted<M>) -> Option<bool> {
    let status = mmio.read(regs::STATUS);
    (status != u32::MAX).then_some(status & Status::LU.bits() != 0)
}
