//! The registers of the 82540EM as one table: offset, name, width, access, writable bits and value
//! after reset (8254x manual, chapter 13).
//!
//! Invariant: an offset belongs to at most one row, all rows are whole 32-bit words, and what is
//! in no row does not exist: it reads 0 and ignores writes. CSBAL and CSBAH are not Intel's; a
//! device that offers no CSB treats them as absent.

/// How a register reacts to reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Written bits stay, within the writable ones.
    ReadWrite,
    /// Writes change nothing.
    ReadOnly,
    /// Reads as 0: the write is the whole effect (ICS, IMC).
    WriteOnly,
    /// Reading clears; writes change nothing (statistics, section 13.7).
    ReadClear,
    /// Reading clears, and writing ones clears these bits (ICR, section 13.4.17).
    ReadClearWriteOneClear,
}

/// One row: a register, or an array of `count` registers `stride` bytes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// Offset of the (first) register in BAR0, in bytes.
    pub offset: u32,
    /// The manual's name.
    pub name: &'static str,
    /// The manual's section.
    pub section: &'static str,
    /// Number of bits.
    pub width: u32,
    /// Elements; 1 for a single register.
    pub count: u32,
    /// Distance of the elements in bytes.
    pub stride: u32,
    /// What reads and writes do.
    pub access: Access,
    /// The bits that a write can change.
    pub writable: u32,
    /// The value after reset.
    pub reset: u32,
}

/// A row and the element of it that an offset names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The row.
    pub register: &'static Register,
    /// Which element of an array; 0 for a single register.
    pub index: u32,
}

macro_rules! access {
    (rw) => {
        Access::ReadWrite
    };
    (ro) => {
        Access::ReadOnly
    };
    (wo) => {
        Access::WriteOnly
    };
    (rc) => {
        Access::ReadClear
    };
    (rc_w1c) => {
        Access::ReadClearWriteOneClear
    };
}

macro_rules! registers {
    ($($section:literal $name:ident $([$count:literal; $stride:literal])? = $offset:literal,
        $access:ident $writable:literal, $reset:literal, $text:literal;)*) => {
        $(
            #[doc = concat!($text, " (section ", $section, ").")]
            pub const $name: u32 = $offset;
        )*

        /// All registers, in the order of the manual's sections.
        pub const TABLE: &[Register] = &[$(
            Register {
                offset: $offset,
                name: stringify!($name),
                section: $section,
                width: 32,
                count: { let _one = 1; $( let _one = $count; )? _one },
                stride: { let _word = 4; $( let _word = $stride; )? _word },
                access: access!($access),
                writable: $writable,
                reset: $reset,
            },
        )*];
    };
}

registers! {
    "13.4.1" CTRL = 0x0000, rw 0xFFFF_FFFF, 0x0014_0240, "Device Control";
    "13.4.2" STATUS = 0x0008, ro 0, 0x0000_0383, "Device Status";
    "13.4.3" EECD = 0x0010, rw 0x0000_007F, 0x0000_0110, "EEPROM/Flash Control and Data";
    "13.4.4" EERD = 0x0014, rw 0x0000_FF01, 0, "EEPROM Read";
    "13.4.5" FLA = 0x001C, rw 0xFFFF_FFFF, 0, "Flash Access";
    "13.4.6" CTRL_EXT = 0x0018, rw 0xFFFF_FFFF, 0, "Extended Device Control";
    "13.4.7" MDIC = 0x0020, rw 0x3FFF_FFFF, 0, "MDI Control";
    "13.4.8" FCAL = 0x0028, rw 0xFFFF_FFFF, 0, "Flow Control Address Low";
    "13.4.9" FCAH = 0x002C, rw 0x0000_FFFF, 0, "Flow Control Address High";
    "13.4.10" FCT = 0x0030, rw 0x0000_FFFF, 0, "Flow Control Type";
    "13.4.11" VET = 0x0038, rw 0x0000_FFFF, 0x8100, "VLAN Ether Type";
    "13.4.12" FCTTV = 0x0170, rw 0x0000_FFFF, 0, "Flow Control Transmit Timer Value";
    "13.4.13" TXCW = 0x0178, rw 0xC000_FFFF, 0, "Transmit Configuration Word";
    "13.4.14" RXCW = 0x0180, ro 0, 0, "Receive Configuration Word";
    "13.4.15" LEDCTL = 0x0E00, rw 0xFFFF_FFFF, 0x0706_8302, "LED Control";
    "13.4.16" PBA = 0x1000, rw 0x0000_007F, 0x0010_0030, "Packet Buffer Allocation";
    "13.4.17" ICR = 0x00C0, rc_w1c 0x8001_FFFF, 0, "Interrupt Cause Read";
    "13.4.18" ITR = 0x00C4, rw 0x0000_FFFF, 0, "Interrupt Throttling";
    "13.4.19" ICS = 0x00C8, wo 0x0001_FFFF, 0, "Interrupt Cause Set";
    "13.4.20" IMS = 0x00D0, rw 0x0001_FFFF, 0, "Interrupt Mask Set/Read";
    "13.4.21" IMC = 0x00D8, wo 0x0001_FFFF, 0, "Interrupt Mask Clear";
    "13.4.22" RCTL = 0x0100, rw 0x06DF_FFFE, 0, "Receive Control";
    "13.4.23" FCRTL = 0x2160, rw 0x8000_FFF8, 0, "Flow Control Receive Threshold Low";
    "13.4.24" FCRTH = 0x2168, rw 0x8000_FFF8, 0, "Flow Control Receive Threshold High";
    "13.4.25" RDBAL = 0x2800, rw 0xFFFF_FFF0, 0, "Receive Descriptor Base Address Low";
    "13.4.26" RDBAH = 0x2804, rw 0xFFFF_FFFF, 0, "Receive Descriptor Base Address High";
    "13.4.27" RDLEN = 0x2808, rw 0x000F_FF80, 0, "Receive Descriptor Length";
    "13.4.28" RDH = 0x2810, rw 0x0000_FFFF, 0, "Receive Descriptor Head";
    "13.4.29" RDT = 0x2818, rw 0x0000_FFFF, 0, "Receive Descriptor Tail";
    "13.4.30" RDTR = 0x2820, rw 0x0000_FFFF, 0, "Receive Interrupt Delay Timer";
    "13.4.31" RADV = 0x282C, rw 0x0000_FFFF, 0, "Receive Interrupt Absolute Delay Timer";
    "13.4.32" RSRPD = 0x2C00, rw 0x0000_0FFF, 0, "Receive Small Packet Detect Interrupt";
    "13.4.33" TCTL = 0x0400, rw 0x07FF_FFFA, 0, "Transmit Control";
    "13.4.34" TIPG = 0x0410, rw 0x3FFF_FFFF, 0, "Transmit Inter-Packet Gap";
    "13.4.35" AIFS = 0x0458, rw 0x0000_FFFF, 0, "Adaptive IFS Throttle";
    "13.4.36" TDBAL = 0x3800, rw 0xFFFF_FFF0, 0, "Transmit Descriptor Base Address Low";
    "13.4.37" TDBAH = 0x3804, rw 0xFFFF_FFFF, 0, "Transmit Descriptor Base Address High";
    "13.4.38" TDLEN = 0x3808, rw 0x000F_FF80, 0, "Transmit Descriptor Length";
    "13.4.39" TDH = 0x3810, rw 0x0000_FFFF, 0, "Transmit Descriptor Head";
    "13.4.40" TDT = 0x3818, rw 0x0000_FFFF, 0, "Transmit Descriptor Tail";
    "13.4.41" TIDV = 0x3820, rw 0x0000_FFFF, 0, "Transmit Interrupt Delay Value";
    "13.4.42" TXDMAC = 0x3000, rw 0x0000_0001, 0, "TX DMA Control";
    "13.4.43" TXDCTL = 0x3828, rw 0xFFFF_FFFF, 0, "Transmit Descriptor Control";
    "13.4.44" TADV = 0x382C, rw 0x0000_FFFF, 0, "Transmit Absolute Interrupt Delay Value";
    "13.4.45" TSPMT = 0x3830, rw 0xFFFF_FFFF, 0x0100_0400, "TCP Segmentation Pad and Minimum Threshold";
    "13.4.46" RXDCTL = 0x2828, rw 0xFFFF_FFFF, 0x0101_0000, "Receive Descriptor Control";
    "13.4.47" RXCSUM = 0x5000, rw 0x0000_07FF, 0, "Receive Checksum Control";
    "13.5.1" MTA[128; 4] = 0x5200, rw 0xFFFF_FFFF, 0, "Multicast Table Array";
    "13.5.2" RAL[16; 8] = 0x5400, rw 0xFFFF_FFFF, 0, "Receive Address Low";
    "13.5.3" RAH[16; 8] = 0x5404, rw 0x8003_FFFF, 0, "Receive Address High";
    "13.5.4" VFTA[128; 4] = 0x5600, rw 0xFFFF_FFFF, 0, "VLAN Filter Table Array";
    "13.6.1" WUC = 0x5800, rw 0x0000_000F, 0, "Wakeup Control";
    "13.6.2" WUFC = 0x5808, rw 0x000F_80FF, 0, "Wakeup Filter Control";
    "13.6.3" WUS = 0x5810, ro 0, 0, "Wakeup Status";
    "13.6.4" IPAV = 0x5838, rw 0x0001_000F, 0, "IP Address Valid";
    "13.6.5" IP4AT[4; 8] = 0x5840, rw 0xFFFF_FFFF, 0, "IPv4 Address Table";
    "13.6.6" IP6AT[4; 4] = 0x5880, rw 0xFFFF_FFFF, 0, "IPv6 Address Table";
    "13.6" MANC = 0x5820, rw 0xFFFF_FFFF, 0, "Management Control";
    "13.6.7" WUPL = 0x5900, ro 0, 0, "Wakeup Packet Length";
    "13.6.8" WUPM[32; 4] = 0x5A00, ro 0, 0, "Wakeup Packet Memory";
    "13.6.9" FFLT[4; 8] = 0x5F00, rw 0x0000_07FF, 0, "Flexible Filter Length Table";
    "13.6.10" FFMT[128; 8] = 0x9000, rw 0x0000_000F, 0, "Flexible Filter Mask Table";
    "13.6.11" FFVT[128; 8] = 0x9800, rw 0xFFFF_FFFF, 0, "Flexible Filter Value Table";
    "13.7.1" CRCERRS = 0x4000, rc 0, 0, "CRC Error Count";
    "13.7.2" ALGNERRC = 0x4004, rc 0, 0, "Alignment Error Count";
    "13.7.3" SYMERRS = 0x4008, rc 0, 0, "Symbol Error Count";
    "13.7.4" RXERRC = 0x400C, rc 0, 0, "RX Error Count";
    "13.7.5" MPC = 0x4010, rc 0, 0, "Missed Packets Count";
    "13.7.6" SCC = 0x4014, rc 0, 0, "Single Collision Count";
    "13.7.7" ECOL = 0x4018, rc 0, 0, "Excessive Collisions Count";
    "13.7.8" MCC = 0x401C, rc 0, 0, "Multiple Collision Count";
    "13.7.9" LATECOL = 0x4020, rc 0, 0, "Late Collisions Count";
    "13.7.10" COLC = 0x4028, rc 0, 0, "Collision Count";
    "13.7.11" DC = 0x4030, rc 0, 0, "Defer Count";
    "13.7.12" TNCRS = 0x4034, rc 0, 0, "Transmit with No CRS";
    "13.7.13" SEC = 0x4038, rc 0, 0, "Sequence Error Count";
    "13.7.14" CEXTERR = 0x403C, rc 0, 0, "Carrier Extension Error Count";
    "13.7.15" RLEC = 0x4040, rc 0, 0, "Receive Length Error Count";
    "13.7.16" XONRXC = 0x4048, rc 0, 0, "XON Received Count";
    "13.7.17" XONTXC = 0x404C, rc 0, 0, "XON Transmitted Count";
    "13.7.18" XOFFRXC = 0x4050, rc 0, 0, "XOFF Received Count";
    "13.7.19" XOFFTXC = 0x4054, rc 0, 0, "XOFF Transmitted Count";
    "13.7.20" FCRUC = 0x4058, rc 0, 0, "FC Received Unsupported Count";
    "13.7.21" PRC64 = 0x405C, rc 0, 0, "Packets Received (64 bytes) Count";
    "13.7.22" PRC127 = 0x4060, rc 0, 0, "Packets Received (65-127 bytes) Count";
    "13.7.23" PRC255 = 0x4064, rc 0, 0, "Packets Received (128-255 bytes) Count";
    "13.7.24" PRC511 = 0x4068, rc 0, 0, "Packets Received (256-511 bytes) Count";
    "13.7.25" PRC1023 = 0x406C, rc 0, 0, "Packets Received (512-1023 bytes) Count";
    "13.7.26" PRC1522 = 0x4070, rc 0, 0, "Packets Received (1024 bytes to maximum) Count";
    "13.7.27" GPRC = 0x4074, rc 0, 0, "Good Packets Received Count";
    "13.7.28" BPRC = 0x4078, rc 0, 0, "Broadcast Packets Received Count";
    "13.7.29" MPRC = 0x407C, rc 0, 0, "Multicast Packets Received Count";
    "13.7.30" GPTC = 0x4080, rc 0, 0, "Good Packets Transmitted Count";
    "13.7.31" GORCL = 0x4088, rc 0, 0, "Good Octets Received Count Low";
    "13.7.31" GORCH = 0x408C, rc 0, 0, "Good Octets Received Count High";
    "13.7.32" GOTCL = 0x4090, rc 0, 0, "Good Octets Transmitted Count Low";
    "13.7.32" GOTCH = 0x4094, rc 0, 0, "Good Octets Transmitted Count High";
    "13.7.33" RNBC = 0x40A0, rc 0, 0, "Receive No Buffers Count";
    "13.7.34" RUC = 0x40A4, rc 0, 0, "Receive Undersize Count";
    "13.7.35" RFC = 0x40A8, rc 0, 0, "Receive Fragment Count";
    "13.7.36" ROC = 0x40AC, rc 0, 0, "Receive Oversize Count";
    "13.7.37" RJC = 0x40B0, rc 0, 0, "Receive Jabber Count";
    "13.7.38" MGTPRC = 0x40B4, rc 0, 0, "Management Packets Received Count";
    "13.7.39" MGTPDC = 0x40B8, rc 0, 0, "Management Packets Dropped Count";
    "13.7.40" MGTPTC = 0x40BC, rc 0, 0, "Management Packets Transmitted Count";
    "13.7.41" TORL = 0x40C0, rc 0, 0, "Total Octets Received Low";
    "13.7.41" TORH = 0x40C4, rc 0, 0, "Total Octets Received High";
    "13.7.42" TOTL = 0x40C8, rc 0, 0, "Total Octets Transmitted Low";
    "13.7.42" TOTH = 0x40CC, rc 0, 0, "Total Octets Transmitted High";
    "13.7.43" TPR = 0x40D0, rc 0, 0, "Total Packets Received";
    "13.7.44" TPT = 0x40D4, rc 0, 0, "Total Packets Transmitted";
    "13.7.45" PTC64 = 0x40D8, rc 0, 0, "Packets Transmitted (64 bytes) Count";
    "13.7.46" PTC127 = 0x40DC, rc 0, 0, "Packets Transmitted (65-127 bytes) Count";
    "13.7.47" PTC255 = 0x40E0, rc 0, 0, "Packets Transmitted (128-255 bytes) Count";
    "13.7.48" PTC511 = 0x40E4, rc 0, 0, "Packets Transmitted (256-511 bytes) Count";
    "13.7.49" PTC1023 = 0x40E8, rc 0, 0, "Packets Transmitted (512-1023 bytes) Count";
    "13.7.50" PTC1522 = 0x40EC, rc 0, 0, "Packets Transmitted (1024 bytes or more) Count";
    "13.7.51" MPTC = 0x40F0, rc 0, 0, "Multicast Packets Transmitted Count";
    "13.7.52" BPTC = 0x40F4, rc 0, 0, "Broadcast Packets Transmitted Count";
    "13.7.53" TSCTC = 0x40F8, rc 0, 0, "TCP Segmentation Context Transmitted Count";
    "13.7.54" TSCTFC = 0x40FC, rc 0, 0, "TCP Segmentation Context Transmit Fail Count";
    "13.8.1" RDFH = 0x2410, rw 0x0000_1FFF, 0, "Receive Data FIFO Head";
    "13.8.2" RDFT = 0x2418, rw 0x0000_1FFF, 0, "Receive Data FIFO Tail";
    "13.8.3" RDFHS = 0x2420, rw 0x0000_1FFF, 0, "Receive Data FIFO Head Saved";
    "13.8.4" RDFTS = 0x2428, rw 0x0000_1FFF, 0, "Receive Data FIFO Tail Saved";
    "13.8.5" RDFPC = 0x2430, rw 0x0000_1FFF, 0, "Receive Data FIFO Packet Count";
    "13.8.6" TDFH = 0x3410, rw 0x0000_07FF, 0, "Transmit Data FIFO Head";
    "13.8.7" TDFT = 0x3418, rw 0x0000_07FF, 0, "Transmit Data FIFO Tail";
    "13.8.8" TDFHS = 0x3420, rw 0x0000_1FFF, 0, "Transmit Data FIFO Head Saved";
    "13.8.9" TDFTS = 0x3428, rw 0x0000_1FFF, 0, "Transmit Data FIFO Tail Saved";
    "13.8.10" TDFPC = 0x3430, rw 0x0000_1FFF, 0, "Transmit Data FIFO Packet Count";
    "CSB" CSBAL = 0x2830, rw 0xFFFF_FFFF, 0, "Address of the CSB, low half; the write maps or unmaps";
    "CSB" CSBAH = 0x2834, rw 0xFFFF_FFFF, 0, "Address of the CSB, high half; written before CSBAL";
}

/// Receive address pairs (section 13.5.2).
pub const RA_COUNT: u32 = 16;
/// Words of the multicast table (section 13.5.1).
pub const MTA_COUNT: u32 = 128;
/// Words of the VLAN filter table (section 13.5.4).
pub const VFTA_COUNT: u32 = 128;
/// The first and, exclusively, the last offset of the statistics (section 13.7).
pub const STATISTICS: core::ops::Range<u32> = CRCERRS..TSCTFC + 4;

/// I/O window in BAR1: the offset to access (section 13.2.2).
pub const IOADDR: u32 = 0x00;
/// I/O window in BAR1: the data at that offset.
pub const IODATA: u32 = 0x04;

/// No register lies at or above this offset.
pub const END: u32 = 0xA000;

/// Row number + 1 of each word, or 0 where there is no register. With a byte per word, a lookup is one load.
const MAP: [u8; END as usize / 4] = {
    let mut map = [0; END as usize / 4];
    let mut row = 0;
    assert!(TABLE.len() < 255);
    while row < TABLE.len() {
        let r = &TABLE[row];
        let mut i = 0;
        while i < r.count {
            let offset = r.offset + i * r.stride;
            assert!(
                offset.is_multiple_of(4) && map[offset as usize / 4] == 0,
                "two rows in one place"
            );
            map[offset as usize / 4] = row as u8 + 1;
            i += 1;
        }
        row += 1;
    }
    map
};

/// The register that contains the byte at `offset`, whatever its alignment.
#[inline]
#[must_use]
pub fn lookup(offset: u32) -> Option<Entry> {
    let row = *MAP.get(offset as usize / 4)?;
    let register = TABLE.get(usize::from(row).checked_sub(1)?)?;
    Some(Entry { register, index: (offset - register.offset) / register.stride })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_found_at_its_offset_and_nothing_between() {
        let mut words = 0;
        for r in TABLE {
            for index in 0..r.count {
                let offset = r.offset + index * r.stride;
                for byte in 0..4 {
                    assert_eq!(lookup(offset + byte), Some(Entry { register: r, index }));
                }
                words += 1;
            }
        }
        let found = (0..0x2_0000).step_by(4).filter(|&o| lookup(o).is_some()).count();
        assert_eq!(found, words);
        assert_eq!(lookup(0x0004), None);
        assert_eq!(lookup(u32::MAX), None);
    }

    #[test]
    fn names_are_unique_and_reset_values_fit_what_a_read_shows() {
        for (i, r) in TABLE.iter().enumerate() {
            assert!(TABLE[..i].iter().all(|other| other.name != r.name), "{}", r.name);
            if r.access == Access::WriteOnly {
                assert_eq!(r.reset, 0, "{} can't be read", r.name);
            }
            if matches!(r.access, Access::ReadOnly | Access::ReadClear) {
                assert_eq!(r.writable, 0, "{} can't be written", r.name);
            }
        }
    }

    /// The offsets that are compiled into drivers that use the CSB.
    #[test]
    fn paravirtual_registers_are_where_their_drivers_write() {
        assert_eq!((CSBAL, CSBAH, TDT, RDT), (0x2830, 0x2834, 0x3818, 0x2818));
    }
}
