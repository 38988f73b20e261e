//! Descriptors: 16 bytes each, little endian (8254x manual, sections 3.2.3 for receive and 3.3.3 to
//! 3.3.7 for transmit).
//!
//! A descriptor is copied out of a ring once, decoded, and written back as bytes; nothing here
//! refers to memory. Reserved bits are kept, as in `bits`.

use bitflags::bitflags;

/// Bytes of every descriptor.
pub const DESC_BYTES: usize = 16;

bitflags! {
    /// The command byte of legacy and data descriptors (CMD, DCMD), and of context descriptors
    /// (TUCMD), whose low three bits have other names.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct TxCmd: u8 {
        /// End of packet.
        const EOP = 1 << 0;
        /// Insert the Ethernet CRC.
        const IFCS = 1 << 1;
        /// Legacy: insert the checksum that CSO and CSS describe.
        const IC = 1 << 2;
        /// Data and context: TCP segmentation.
        const TSE = 1 << 2;
        /// Report status: write back DD.
        const RS = 1 << 3;
        /// Report packet sent: as RS, once the packet has left.
        const RPS = 1 << 4;
        /// Extended descriptor: data or context.
        const DEXT = 1 << 5;
        /// Insert a VLAN tag.
        const VLE = 1 << 6;
        /// Delay the interrupt by TIDV.
        const IDE = 1 << 7;
        /// Context (TUCMD): TCP; UDP when clear.
        const TCP = 1 << 0;
        /// Context (TUCMD): IPv4; IPv6 when clear.
        const IP = 1 << 1;
        const _ = !0;
    }

    /// POPTS of a data descriptor: which checksums to insert.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Popts: u8 {
        /// Insert the IP checksum.
        const IXSM = 1 << 0;
        /// Insert the TCP or UDP checksum.
        const TXSM = 1 << 1;
        const _ = !0;
    }

    /// Status of a transmit descriptor.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct TxStatus: u8 {
        /// Descriptor done.
        const DD = 1 << 0;
        /// Excess collisions.
        const EC = 1 << 1;
        /// Late collision.
        const LC = 1 << 2;
        /// Transmit underrun.
        const TU = 1 << 3;
        const _ = !0;
    }

    /// Status of a receive descriptor (section 3.2.3.1).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct RxStatus: u8 {
        /// Descriptor done.
        const DD = 1 << 0;
        /// End of packet.
        const EOP = 1 << 1;
        /// Ignore the checksum indications.
        const IXSM = 1 << 2;
        /// The packet carried a VLAN tag.
        const VP = 1 << 3;
        /// TCP or UDP checksum calculated.
        const TCPCS = 1 << 5;
        /// IP checksum calculated.
        const IPCS = 1 << 6;
        /// Passed the inexact filter: software must compare the address.
        const PIF = 1 << 7;
        const _ = !0;
    }

    /// Errors of a receive descriptor (section 3.2.3.2).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct RxErrors: u8 {
        /// CRC error or alignment error.
        const CE = 1 << 0;
        /// Symbol error.
        const SE = 1 << 1;
        /// Sequence error.
        const SEQ = 1 << 2;
        /// Carrier extension error.
        const CXE = 1 << 4;
        /// TCP or UDP checksum error.
        const TCPE = 1 << 5;
        /// IP checksum error.
        const IPE = 1 << 6;
        /// Receive data error.
        const RXE = 1 << 7;
        const _ = !0;
    }
}

/// DTYP of a context descriptor.
pub const DTYP_CONTEXT: u8 = 0;
/// DTYP of a data descriptor.
pub const DTYP_DATA: u8 = 1;
/// Offset of the status byte in every transmit and receive descriptor.
pub const STATUS_OFFSET: usize = 12;
/// Offset of the command byte in every transmit descriptor.
pub const CMD_OFFSET: usize = 11;

/// Legacy transmit descriptor (section 3.3.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LegacyTx {
    /// Address of the data.
    pub buffer_addr: u64,
    /// Bytes at that address.
    pub length: u16,
    /// Where to put the checksum.
    pub cso: u8,
    /// Command.
    pub cmd: TxCmd,
    /// Status; the device writes DD.
    pub status: TxStatus,
    /// Where the checksum starts.
    pub css: u8,
    /// VLAN tag to insert.
    pub special: u16,
}

impl LegacyTx {
    /// Decodes any 16 bytes.
    #[inline]
    #[must_use]
    pub const fn from_bytes(b: [u8; DESC_BYTES]) -> Self {
        Self {
            buffer_addr: addr(&b),
            length: u16::from_le_bytes([b[8], b[9]]),
            cso: b[10],
            cmd: TxCmd::from_bits_retain(b[11]),
            status: TxStatus::from_bits_retain(b[12]),
            css: b[13],
            special: u16::from_le_bytes([b[14], b[15]]),
        }
    }

    /// As it lies in memory.
    #[inline]
    #[must_use]
    pub const fn to_bytes(self) -> [u8; DESC_BYTES] {
        let high = self.length as u64
            | (self.cso as u64) << 16
            | (self.cmd.bits() as u64) << 24
            | (self.status.bits() as u64) << 32
            | (self.css as u64) << 40
            | (self.special as u64) << 48;
        join(self.buffer_addr, high)
    }
}

/// TCP/IP data descriptor (section 3.3.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataTx {
    /// Address of the data.
    pub buffer_addr: u64,
    /// Bytes at that address, 20 bits.
    pub dtalen: u32,
    /// Command; DEXT is set.
    pub dcmd: TxCmd,
    /// Status; the device writes DD.
    pub status: TxStatus,
    /// Checksums to insert; read in the first descriptor of a packet.
    pub popts: Popts,
    /// VLAN tag to insert.
    pub special: u16,
}

impl DataTx {
    /// Decodes any 16 bytes; DTYP is not looked at.
    #[inline]
    #[must_use]
    pub const fn from_bytes(b: [u8; DESC_BYTES]) -> Self {
        Self {
            buffer_addr: addr(&b),
            dtalen: u32::from_le_bytes([b[8], b[9], b[10], 0]) & 0xF_FFFF,
            dcmd: TxCmd::from_bits_retain(b[11]),
            status: TxStatus::from_bits_retain(b[12]),
            popts: Popts::from_bits_retain(b[13]),
            special: u16::from_le_bytes([b[14], b[15]]),
        }
    }

    /// As it lies in memory; DTYP says data.
    #[inline]
    #[must_use]
    pub const fn to_bytes(self) -> [u8; DESC_BYTES] {
        let high = (self.dtalen & 0xF_FFFF) as u64
            | (DTYP_DATA as u64) << 20
            | (self.dcmd.bits() as u64) << 24
            | (self.status.bits() as u64) << 32
            | (self.popts.bits() as u64) << 40
            | (self.special as u64) << 48;
        join(self.buffer_addr, high)
    }
}

/// TCP/IP context descriptor (section 3.3.6). Its settings hold until the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContextTx {
    /// Where the IP checksum starts.
    pub ipcss: u8,
    /// Where to put it.
    pub ipcso: u8,
    /// Its last byte, inclusive; 0 means the end of the packet.
    pub ipcse: u16,
    /// Where the TCP or UDP checksum starts.
    pub tucss: u8,
    /// Where to put it.
    pub tucso: u8,
    /// Its last byte, inclusive; 0 means the end of the packet.
    pub tucse: u16,
    /// Bytes of payload, without headers, of the packet to segment; 20 bits.
    pub paylen: u32,
    /// Command; DEXT is set.
    pub tucmd: TxCmd,
    /// Status; the device writes DD.
    pub status: TxStatus,
    /// Bytes of headers in front of every segment.
    pub hdrlen: u8,
    /// Bytes of payload in each segment.
    pub mss: u16,
}

impl ContextTx {
    /// Decodes any 16 bytes; DTYP is not looked at.
    #[must_use]
    pub const fn from_bytes(b: [u8; DESC_BYTES]) -> Self {
        Self {
            ipcss: b[0],
            ipcso: b[1],
            ipcse: u16::from_le_bytes([b[2], b[3]]),
            tucss: b[4],
            tucso: b[5],
            tucse: u16::from_le_bytes([b[6], b[7]]),
            paylen: u32::from_le_bytes([b[8], b[9], b[10], 0]) & 0xF_FFFF,
            tucmd: TxCmd::from_bits_retain(b[11]),
            status: TxStatus::from_bits_retain(b[12]),
            hdrlen: b[13],
            mss: u16::from_le_bytes([b[14], b[15]]),
        }
    }

    /// As it lies in memory; DTYP says context.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; DESC_BYTES] {
        let low = self.ipcss as u64
            | (self.ipcso as u64) << 8
            | (self.ipcse as u64) << 16
            | (self.tucss as u64) << 32
            | (self.tucso as u64) << 40
            | (self.tucse as u64) << 48;
        let high = (self.paylen & 0xF_FFFF) as u64
            | (DTYP_CONTEXT as u64) << 20
            | (self.tucmd.bits() as u64) << 24
            | (self.status.bits() as u64) << 32
            | (self.hdrlen as u64) << 40
            | (self.mss as u64) << 48;
        join(low, high)
    }
}

/// A transmit descriptor by its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxDesc {
    /// DEXT is clear.
    Legacy(LegacyTx),
    /// DEXT is set, DTYP is 1.
    Data(DataTx),
    /// DEXT is set, DTYP is 0.
    Context(ContextTx),
    /// DEXT is set, and DTYP is one that the manual reserves.
    Reserved(u8),
}

impl TxDesc {
    /// Decodes any 16 bytes.
    #[inline]
    #[must_use]
    pub const fn from_bytes(b: [u8; DESC_BYTES]) -> Self {
        if b[CMD_OFFSET] & TxCmd::DEXT.bits() == 0 {
            return Self::Legacy(LegacyTx::from_bytes(b));
        }
        match b[10] >> 4 {
            DTYP_CONTEXT => Self::Context(ContextTx::from_bytes(b)),
            DTYP_DATA => Self::Data(DataTx::from_bytes(b)),
            reserved => Self::Reserved(reserved),
        }
    }
}

/// Receive descriptor (section 3.2.3). The driver writes the address; the device writes the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxDesc {
    /// Address of the buffer.
    pub buffer_addr: u64,
    /// Bytes received into it.
    pub length: u16,
    /// Packet checksum from RXCSUM.PCSS on.
    pub checksum: u16,
    /// Status.
    pub status: RxStatus,
    /// Errors, valid with EOP.
    pub errors: RxErrors,
    /// The VLAN tag that was taken out.
    pub special: u16,
}

impl RxDesc {
    /// Decodes any 16 bytes.
    #[inline]
    #[must_use]
    pub const fn from_bytes(b: [u8; DESC_BYTES]) -> Self {
        Self {
            buffer_addr: addr(&b),
            length: u16::from_le_bytes([b[8], b[9]]),
            checksum: u16::from_le_bytes([b[10], b[11]]),
            status: RxStatus::from_bits_retain(b[12]),
            errors: RxErrors::from_bits_retain(b[13]),
            special: u16::from_le_bytes([b[14], b[15]]),
        }
    }

    /// As it lies in memory.
    #[inline]
    #[must_use]
    pub const fn to_bytes(self) -> [u8; DESC_BYTES] {
        join(self.buffer_addr, self.write_back())
    }

    /// The second half alone: all that the device writes, in one 64-bit store.
    #[inline]
    #[must_use]
    pub const fn write_back(self) -> u64 {
        self.length as u64
            | (self.checksum as u64) << 16
            | (self.status.bits() as u64) << 32
            | (self.errors.bits() as u64) << 40
            | (self.special as u64) << 48
    }
}

#[inline]
const fn addr(b: &[u8; DESC_BYTES]) -> u64 {
    u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
}

#[inline]
const fn join(low: u64, high: u64) -> [u8; DESC_BYTES] {
    ((high as u128) << 64 | low as u128).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn legacy_and_receive_descriptors_survive_any_bytes(b: [u8; 16]) {
            prop_assert_eq!(LegacyTx::from_bytes(b).to_bytes(), b);
            prop_assert_eq!(RxDesc::from_bytes(b).to_bytes(), b);
        }

        #[test]
        fn extended_descriptors_survive_but_for_their_type(b: [u8; 16]) {
            let with = |dtyp: u8| {
                let mut b = b;
                b[10] = b[10] & 0x0F | dtyp << 4;
                b
            };
            prop_assert_eq!(DataTx::from_bytes(b).to_bytes(), with(DTYP_DATA));
            prop_assert_eq!(ContextTx::from_bytes(b).to_bytes(), with(DTYP_CONTEXT));
        }

        #[test]
        fn kind_follows_dext_and_dtyp(b: [u8; 16]) {
            let kind = TxDesc::from_bytes(b);
            match (b[11] >> 5 & 1, b[10] >> 4) {
                (0, _) => prop_assert_eq!(kind, TxDesc::Legacy(LegacyTx::from_bytes(b))),
                (_, 0) => prop_assert_eq!(kind, TxDesc::Context(ContextTx::from_bytes(b))),
                (_, 1) => prop_assert_eq!(kind, TxDesc::Data(DataTx::from_bytes(b))),
                (_, t) => prop_assert_eq!(kind, TxDesc::Reserved(t)),
            }
        }
    }

    /// Byte positions, written down from the manual's figures and not from the code above.
    #[test]
    fn fields_lie_where_the_manual_puts_them() {
        let legacy = LegacyTx {
            buffer_addr: 0x0807_0605_0403_0201,
            length: 0x0A09,
            cso: 0x0B,
            cmd: TxCmd::EOP | TxCmd::RS,
            status: TxStatus::DD,
            css: 0x0E,
            special: 0x100F,
        };
        assert_eq!(legacy.to_bytes(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0x09, 1, 14, 15, 16]);
        let context = ContextTx {
            ipcss: 14,
            ipcso: 24,
            ipcse: 33,
            tucss: 34,
            tucso: 50,
            tucse: 0,
            paylen: 0xF_1234,
            tucmd: TxCmd::TCP | TxCmd::IP | TxCmd::TSE | TxCmd::DEXT,
            status: TxStatus::empty(),
            hdrlen: 54,
            mss: 1460,
        };
        assert_eq!(
            context.to_bytes(),
            [14, 24, 33, 0, 34, 50, 0, 0, 0x34, 0x12, 0x0F, 0x27, 0, 54, 0xB4, 0x05]
        );
        let data = DataTx { dtalen: 0xF_1234, dcmd: TxCmd::DEXT, ..DataTx::default() };
        assert_eq!(data.to_bytes()[8..12], [0x34, 0x12, 0x1F, 0x20]);
    }
}
