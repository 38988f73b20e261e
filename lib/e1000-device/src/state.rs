//! A device's state as plain data: saved, restored, compared.
//!
//! It contains all that a guest could observe of the device: its registers, and what decides about its packets,
//! including a packet of which only some descriptors have been read. It does not contain guest memory,
//! [`Config`](crate::Config) and counters, which the caller provides when it restores a device; nor packets
//! that are queued in a port, which have to be sent before the state can be saved.
//!
//! Times are distances from the moment of saving, so a state may wake up under another clock.
//! Invariant: a state that no device can be in is refused, so a file that somebody else wrote makes an
//! error at worst.

#[cfg(feature = "serde")]
use serde::{Deserialize, Serialize};

/// The state cannot be saved yet, because the port is full and so many slots are still queued: wait for space and
/// try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{slots} slots are queued in a port that is full; the state can be saved when it has taken them"
)]
pub struct Unsent {
    /// How many.
    pub slots: usize,
}

/// Why a state is refused: no device can be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no device can be in this state: {0}")]
pub struct BadState(pub(crate) &'static str);

/// A device between two rounds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
pub struct State {
    /// The registers, in the order of `e1000pv::regs::TABLE`, arrays element by element.
    pub registers: Vec<u32>,
    /// The statistics, one for each word of `e1000pv::regs::STATISTICS`.
    pub statistics: Vec<u64>,
    /// IOADDR.
    pub io_address: u32,
    /// Interrupt logic.
    pub interrupts: Interrupts,
    /// The EEPROM's pins.
    pub eeprom: Eeprom,
    /// The PHY.
    pub phy: Phy,
    /// PCI's COMMAND allows the device to read and write memory.
    pub bus_master: bool,
    /// The CSB that is mapped.
    pub csb: Option<MappedCsb>,
    /// A wild index was found in the CSB.
    pub broken: bool,
    /// Transmission.
    pub tx: Tx,
    /// Reception.
    pub rx: Rx,
    /// Causes that are not raised yet.
    pub deferred: Deferred,
    /// Frames in the loopback.
    pub loopback: Vec<Slot>,
}

/// A slot of a port: a frame, or a part of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
pub struct Slot {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The frame goes on in the next slot.
    pub more: bool,
}

/// The interrupt logic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
pub struct Interrupts {
    /// ICR.
    pub icr: u32,
    /// IMS.
    pub ims: u32,
    /// INTx is up, or would be if it were not disabled.
    pub level: bool,
    /// PCI's COMMAND disables it.
    pub disabled: bool,
    /// A descriptor with IDE was written back since the last interrupt.
    pub ide: bool,
    /// How long there is to be no rising edge.
    pub distance_ns: u64,
    /// A cause waits for that.
    pub postponed: bool,
}

/// The EEPROM, whose contents are those of the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
pub struct Eeprom {
    /// The pins.
    pub pins: u32,
    /// How far a command is.
    pub phase: Phase,
}

/// What the EEPROM expects next on DI, or shows on DO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
pub enum Phase {
    /// A start bit.
    #[default]
    Start,
    /// Bits of opcode and address.
    Command {
        /// How many came.
        bits: u32,
        /// Which.
        shifted: u32,
    },
    /// Reading.
    Read {
        /// From this word ...
        word: u32,
        /// ... so many bits are still to come.
        left: u32,
    },
    /// A command that it does not do; until CS goes down.
    Ignored,
}

/// The PHY.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
pub struct Phy {
    /// Its registers.
    pub registers: Vec<u16>,
    /// The cable is plugged in.
    pub plugged: bool,
    /// The operator has taken the link down.
    pub held_down: bool,
    /// The link was lost since PSTATUS was read last.
    pub lost: bool,
}

/// A mapped CSB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
pub struct MappedCsb {
    /// Where it is.
    pub gpa: u64,
    /// Empty rounds that the guest asked for when it mapped it.
    pub txcycles_lim: u32,
}

/// A descriptor ring; base, length and head are registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
pub struct Queue {
    /// The guest's tail, as it was last seen.
    pub tail: u32,
    /// A tail outside of the ring that was counted.
    pub bad_tail: Option<u32>,
    /// Because of it, transmission goes once round the ring, up to here.
    pub lap: Option<u32>,
    /// That there is no ring was counted.
    pub refused: bool,
}

/// Transmission.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
pub struct Tx {
    /// The ring.
    pub queue: Queue,
    /// The packet whose descriptors are being read, or whose frames are being sent.
    pub packet: Packet,
    /// Interrupt causes of descriptors that are done.
    pub causes: u32,
    /// One of these had IDE.
    pub delayed: bool,
    /// The vCPU thread has left transmission to the I/O thread, until that asks for kicks ...
    pub left: bool,
    /// ... and for its next round at any rate.
    pub unfinished: bool,
}

/// A packet that is being sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
pub struct Packet {
    /// What its descriptors held so far.
    pub bytes: Vec<u8>,
    /// At least one of its descriptors was read.
    pub begun: bool,
    /// Something is wrong with it.
    pub bad: bool,
    /// POPTS of its first descriptor.
    pub popts: u8,
    /// TSE of its first descriptor.
    pub segmented: bool,
    /// What its data descriptors say of a tag: the command, and the tag.
    pub tag: (u8, u16),
    /// The last context descriptor with TSE ...
    pub segmentation: [u8; 16],
    /// ... and the last one without.
    pub checksums: [u8; 16],
    /// Its last descriptor was read: what is left to send.
    pub sending: Option<Sending>,
}

/// How far the sending of a packet is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
pub struct Sending {
    /// The next frame, without its tag.
    pub frame: Vec<u8>,
    /// The tag.
    pub tag: Option<[u8; 4]>,
    /// It is sent in segments, of which this frame is the last that was made.
    pub segments: Option<Segments>,
}

/// How far segmentation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
pub struct Segments {
    /// Bytes of payload that segments have.
    pub done: u64,
    /// Segments that were made.
    pub count: u16,
}

/// Reception.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
pub struct Rx {
    /// The ring.
    pub queue: Queue,
    /// Descriptors that the packet at hand needs, if it waits for them.
    pub waits_for: u32,
    /// Interrupt causes.
    pub causes: u32,
}

/// Causes that are not raised yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
pub struct Deferred {
    /// Which.
    pub causes: u32,
    /// A descriptor asked for a delay.
    pub delayed: bool,
    /// How long a guest that waits has been kept waiting.
    pub waited_ns: Option<u64>,
}
