//! The bits and fields inside the registers, one flag word per register, in the order of the 8254x
//! manual, chapter 13.
//!
//! Words come from a guest or a device and may hold anything. `const _ = !0` in each type says so: reserved bits are
//! bits like others, and complement, truncation and difference keep them (without it, `!` and
//! `from_bits_truncate` drop what has no name). Fields of several bits are methods.

use bitflags::bitflags;

bitflags! {
    /// CTRL, Device Control (section 13.4.1).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Ctrl: u32 {
        /// Full duplex.
        const FD = 1 << 0;
        /// Link reset.
        const LRST = 1 << 3;
        /// Auto-speed detection enable.
        const ASDE = 1 << 5;
        /// Set link up.
        const SLU = 1 << 6;
        /// Speed selection: 1000 Mb/s.
        const SPEED_1000 = 1 << 9;
        /// Force speed.
        const FRCSPD = 1 << 11;
        /// Force duplex.
        const FRCDPX = 1 << 12;
        /// Device reset; clears itself.
        const RST = 1 << 26;
        /// Receive flow control enable.
        const RFCE = 1 << 27;
        /// Transmit flow control enable.
        const TFCE = 1 << 28;
        /// VLAN mode enable: tags are taken out of received frames and put into sent ones.
        const VME = 1 << 30;
        /// PHY reset.
        const PHY_RST = 1 << 31;
        const _ = !0;
    }

    /// STATUS, Device Status (section 13.4.2).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Status: u32 {
        /// Full duplex.
        const FD = 1 << 0;
        /// Link up.
        const LU = 1 << 1;
        /// Transmission paused.
        const TXOFF = 1 << 4;
        /// Link speed 1000 Mb/s (bits 7:6 = 10b).
        const SPEED_1000 = 1 << 7;
        /// Auto-speed detection found 1000 Mb/s (bits 9:8 = 11b).
        const ASDV_1000 = 3 << 8;
        const _ = !0;
    }

    /// EECD, EEPROM/Flash Control and Data (section 13.4.3): a Microwire EEPROM's pins.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Eecd: u32 {
        /// Clock input to the EEPROM.
        const SK = 1 << 0;
        /// Chip select.
        const CS = 1 << 1;
        /// Data input to the EEPROM.
        const DI = 1 << 2;
        /// Data output from the EEPROM.
        const DO = 1 << 3;
        /// Flash writes disabled (bits 5:4 = 01b).
        const FWE_DISABLE = 1 << 4;
        /// Software requests the EEPROM.
        const EE_REQ = 1 << 6;
        /// The request is granted.
        const EE_GNT = 1 << 7;
        /// An EEPROM is present.
        const EE_PRES = 1 << 8;
        /// 256 words; 64 when clear.
        const EE_SIZE = 1 << 9;
        const _ = !0;
    }

    /// EERD, EEPROM Read (section 13.4.4).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Eerd: u32 {
        /// Start a read.
        const START = 1 << 0;
        /// The read is done.
        const DONE = 1 << 4;
        const _ = !0;
    }

    /// MDIC, MDI Control (section 13.4.7).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Mdic: u32 {
        /// Opcode: write.
        const OP_WRITE = 1 << 26;
        /// Opcode: read.
        const OP_READ = 1 << 27;
        /// Ready: the operation has ended.
        const R = 1 << 28;
        /// Interrupt (MDAC) at the end of the operation.
        const I = 1 << 29;
        /// The operation failed.
        const E = 1 << 30;
        const _ = !0;
    }

    /// ICR, ICS, IMS and IMC: the interrupt causes (sections 13.4.17 and 13.4.19 to 13.4.21).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Icr: u32 {
        /// Transmit descriptor written back.
        const TXDW = 1 << 0;
        /// Transmit queue empty.
        const TXQE = 1 << 1;
        /// Link status change.
        const LSC = 1 << 2;
        /// Receive sequence error.
        const RXSEQ = 1 << 3;
        /// Receive descriptor minimum threshold reached.
        const RXDMT0 = 1 << 4;
        /// Receiver overrun.
        const RXO = 1 << 6;
        /// Receiver timer interrupt: packets have been received.
        const RXT0 = 1 << 7;
        /// MDI/O access complete.
        const MDAC = 1 << 9;
        /// Receiving /C/ ordered sets.
        const RXCFG = 1 << 10;
        /// PHY interrupt.
        const PHYINT = 1 << 12;
        /// Transmit descriptor low threshold hit.
        const TXD_LOW = 1 << 15;
        /// Small receive packet detected.
        const SRPD = 1 << 16;
        /// The line is asserted; only in ICR.
        const INT_ASSERTED = 1 << 31;
        const _ = !0;
    }

    /// RCTL, Receive Control (section 13.4.22).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Rctl: u32 {
        /// Receiver enable.
        const EN = 1 << 1;
        /// Store bad packets.
        const SBP = 1 << 2;
        /// Unicast promiscuous.
        const UPE = 1 << 3;
        /// Multicast promiscuous.
        const MPE = 1 << 4;
        /// Long packets (over 1522 bytes) enable.
        const LPE = 1 << 5;
        /// Loopback: the PHY's or a SerDes' (bits 7:6).
        const LBM = 3 << 6;
        /// Accept broadcasts.
        const BAM = 1 << 15;
        /// VLAN filter enable.
        const VFE = 1 << 18;
        /// Canonical form indicator enable.
        const CFIEN = 1 << 19;
        /// The value of the canonical form indicator that is accepted.
        const CFI = 1 << 20;
        /// Discard pause frames.
        const DPF = 1 << 22;
        /// Pass MAC control frames.
        const PMCF = 1 << 23;
        /// Buffer size extension: BSIZE times 16.
        const BSEX = 1 << 25;
        /// Strip the Ethernet CRC.
        const SECRC = 1 << 26;
        const _ = !0;
    }

    /// TCTL, Transmit Control (section 13.4.33).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Tctl: u32 {
        /// Transmitter enable.
        const EN = 1 << 1;
        /// Pad short packets.
        const PSP = 1 << 3;
        const _ = !0;
    }

    /// RXCSUM, Receive Checksum Control (section 13.4.47).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Rxcsum: u32 {
        /// IP checksum offload enable.
        const IPOFLD = 1 << 8;
        /// TCP/UDP checksum offload enable.
        const TUOFLD = 1 << 9;
        const _ = !0;
    }

    /// RAH, Receive Address High (section 13.5.3).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Rah: u32 {
        /// Compare with the source address instead (bits 17:16 = 01b).
        const ASEL_SOURCE = 1 << 16;
        /// The address is valid.
        const AV = 1 << 31;
        const _ = !0;
    }
}

/// TIDV and RDTR: write-only, bit 31: expire at once (sections 13.4.30 and 13.4.41).
pub const FPD: u32 = 1 << 31;

/// Speed of a link, in the code of CTRL, STATUS and the PHY's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speed {
    /// 10 Mb/s.
    Mb10 = 0,
    /// 100 Mb/s.
    Mb100 = 1,
    /// 1000 Mb/s; 11b, which is reserved or means the same, too.
    Mb1000 = 2,
}

impl Speed {
    /// Of the two low bits.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::Mb10,
            1 => Self::Mb100,
            _ => Self::Mb1000,
        }
    }
}

impl Icr {
    /// The causes that data alone raises, which the CSB's flags may suppress.
    pub const DATA: Self = Self::TXDW
        .union(Self::TXQE)
        .union(Self::RXDMT0)
        .union(Self::RXT0)
        .union(Self::INT_ASSERTED);
    /// The causes of transmission that make a guest reclaim descriptors.
    pub const TX: Self = Self::TXDW.union(Self::TXQE);
}

impl Ctrl {
    /// SPEED (bits 9:8), which counts with FRCSPD.
    #[must_use]
    pub const fn speed(self) -> Speed {
        Speed::from_bits(self.bits() >> 8)
    }
}

impl Status {
    /// The MAC's speed (bits 7:6), and that of the link as it was detected (ASDV).
    #[must_use]
    pub const fn with_speed(self, mac: Speed, link: Speed) -> Self {
        // 1000 Mb/s has two codes in ASDV, of which the chip shows the second.
        let detected = match link {
            Speed::Mb1000 => Self::ASDV_1000.bits(),
            slower => (slower as u32) << 8,
        };
        let others = self.bits() & !(3 << 6 | 3 << 8);
        Self::from_bits_retain(others | (mac as u32) << 6 | detected)
    }

    /// The MAC's speed.
    #[must_use]
    pub const fn speed(self) -> Speed {
        Speed::from_bits(self.bits() >> 6)
    }
}

impl Eerd {
    /// The word to read.
    #[must_use]
    pub const fn address(self) -> u32 {
        self.bits() >> 8 & 0xFF
    }

    /// The value of a register whose read has ended.
    #[must_use]
    pub const fn done(address: u32, data: u16) -> u32 {
        (data as u32) << 16 | (address & 0xFF) << 8 | Self::DONE.bits()
    }
}

impl Mdic {
    /// The register of the PHY.
    #[must_use]
    pub const fn register(self) -> u32 {
        self.bits() >> 16 & 0x1F
    }

    /// The PHY's address; the internal one is 1.
    #[must_use]
    pub const fn phy(self) -> u32 {
        self.bits() >> 21 & 0x1F
    }

    /// What is written, or was read.
    #[must_use]
    pub const fn data(self) -> u16 {
        self.bits() as u16
    }

    /// A command for the PHY at address 1.
    #[must_use]
    pub const fn command(op: Self, register: u32, data: u16) -> Self {
        Self::from_bits_retain(op.bits() | 1 << 21 | (register & 0x1F) << 16 | data as u32)
    }
}

impl Rctl {
    /// BSIZE and BSEX: bytes of a receive buffer.
    #[must_use]
    pub const fn buffer_bytes(self) -> u32 {
        let shift = self.bits() >> 16 & 3;
        match (self.contains(Self::BSEX), shift) {
            (true, 1) => 16384,
            (true, 2) => 8192,
            (true, 3) => 4096,
            // With BSEX the manual reserves 00b; without, it is 2048.
            (_, shift) => 2048 >> shift,
        }
    }

    /// The bits for receive buffers of `bytes`, one of 256, 512, ... 16384; else those for 2048.
    #[must_use]
    pub const fn with_buffer_bytes(bytes: u32) -> Self {
        Self::from_bits_retain(match bytes {
            16384 => Self::BSEX.bits() | 1 << 16,
            8192 => Self::BSEX.bits() | 2 << 16,
            4096 => Self::BSEX.bits() | 3 << 16,
            1024 => 1 << 16,
            512 => 2 << 16,
            256 => 3 << 16,
            _ => 0,
        })
    }

    /// RDMTS: the free descriptors, as a right shift of their number, at which RXDMT0 is raised.
    #[must_use]
    pub const fn minimum_threshold_shift(self) -> u32 {
        // 11b is reserved; it is treated as 10b.
        let rdmts = self.bits() >> 8 & 3;
        1 + if rdmts > 2 { 2 } else { rdmts }
    }

    /// MO: which 12 bits of an address choose the bit of the multicast table, as the number of
    /// bits to shift the last two bytes of the address (little endian) to the right.
    #[must_use]
    pub const fn multicast_shift(self) -> u32 {
        match self.bits() >> 12 & 3 {
            0 => 4,
            1 => 3,
            2 => 2,
            _ => 0,
        }
    }
}

impl Rxcsum {
    /// PCSS: the byte at which the packet checksum starts.
    #[must_use]
    pub const fn start(self) -> u32 {
        self.bits() & 0xFF
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_bits_survive_complement_truncation_and_difference() {
        let reserved = Icr::from_bits_retain(1 << 5 | 1 << 8 | 1 << 11 | 1 << 13 | 1 << 14);
        let all = Icr::from_bits_retain(0x1_FFFF);
        assert_eq!((!reserved & all).bits(), 0x1_FFFF & !reserved.bits());
        assert_eq!((all & !Icr::TXDW).bits(), 0x1_FFFE);
        assert_eq!(Icr::from_bits_truncate(0x1_FFFF), all);
        assert_eq!((all - Icr::TXDW).bits(), 0x1_FFFE);
        assert_eq!((!crate::desc::TxStatus::DD).bits(), 0xFE);
        assert_eq!((!Rctl::EN).bits(), !2);
    }

    #[test]
    fn receive_buffer_sizes_read_back_as_written() {
        for bytes in [256, 512, 1024, 2048, 4096, 8192, 16384] {
            assert_eq!(Rctl::with_buffer_bytes(bytes).buffer_bytes(), bytes);
        }
        assert_eq!(Rctl::BSEX.buffer_bytes(), 2048, "reserved");
    }

    #[test]
    fn mdic_command_reads_back() {
        let m = Mdic::command(Mdic::OP_WRITE, 17, 0xBEEF);
        assert_eq!((m.phy(), m.register(), m.data()), (1, 17, 0xBEEF));
        assert!(m.contains(Mdic::OP_WRITE) && !m.contains(Mdic::OP_READ));
    }

    #[test]
    fn eerd_result_carries_address_and_data() {
        let e = Eerd::from_bits_retain(Eerd::done(0x3F, 0xBABA));
        assert_eq!((e.address(), e.bits() >> 16), (0x3F, 0xBABA));
        assert!(e.contains(Eerd::DONE));
    }
}
