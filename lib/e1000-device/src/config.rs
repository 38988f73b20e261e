//! The configuration of a device: chosen when it is made, and not changeable by the guest.

/// Who transmits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TxMode {
    /// The I/O thread, woken by a doorbell; the vCPU goes on at once.
    #[default]
    Thread,
    /// The vCPU thread, at its write of TDT.
    Inline,
}

/// When a sleeping guest is woken: when enough is ready for it to be worth an interrupt, or when it has waited
/// long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake {
    /// The part of its ring that must be ready, in percent; with 0 the first packet is enough.
    pub percent: u32,
    /// Longest time that a guest waits for a packet that has already arrived.
    pub timer_ns: u64,
}

impl Default for Wake {
    /// The best of what was measured (docs/design/notification.md).
    fn default() -> Self {
        Self { percent: 75, timer_ns: 50_000 }
    }
}

/// The configuration of a device.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address in the EEPROM.
    pub mac: [u8; 6],
    /// Interrupts keep the distance that ITR and the delay registers say; off, each event raises one.
    pub moderation: bool,
    /// Shortest distance of interrupts, whatever the guest asks for; 0 leaves it to the guest.
    pub pace_ns: u64,
    /// Offers the CSB.
    pub csb: bool,
    /// A burst of packets is one txsync; off, each packet is one.
    pub more: bool,
    /// When a guest that sleeps is woken.
    pub wake: Wake,
    /// Who transmits.
    pub tx_mode: TxMode,
    /// Busy time for each descriptor that is read: a slower consumer, for experiments.
    pub tx_delay_ns: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
            moderation: true,
            pace_ns: 0,
            csb: true,
            more: true,
            wake: Wake::default(),
            tx_mode: TxMode::Thread,
            tx_delay_ns: 0,
        }
    }
}
