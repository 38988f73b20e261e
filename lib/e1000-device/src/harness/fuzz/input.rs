//! What the harness takes from its byte string: numbers, and descriptors of every kind.
//!
//! Invariant: every field of every descriptor can have every value. Addresses and lengths lean towards those that
//! a device does something with; all other fields are the string's bytes as they are. (A field with a fixed
//! value is a fault that is never found: headers of 54 bytes in all contexts hid what shorter ones do.)

use e1000pv::desc::{ContextTx, DESC_BYTES, DataTx, LegacyTx, RxDesc, TxCmd};

use super::RAM_BYTES;

/// The input, taken from its front; past its end everything is 0.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(self.0.len().min(n));
        self.0 = rest;
        head
    }

    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let head = self.take(N);
        std::array::from_fn(|i| head.get(i).copied().unwrap_or(0))
    }

    pub fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.bytes())
    }

    pub fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    pub fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    /// An address that is mostly memory, often at its end, and sometimes anything.
    pub fn address(&mut self) -> u64 {
        match self.byte() {
            0xFF => u64::from_le_bytes(self.bytes()),
            0xFC..=0xFE => RAM_BYTES - u64::from(self.half() % 4096),
            high => (u64::from(high) << 8 | u64::from(self.byte())) << 2 | u64::from(high & 3),
        }
    }

    /// A length: of a header, of a frame, of what is too long for one, or anything.
    pub fn length(&mut self) -> u32 {
        match self.byte() {
            small @ 0..0x60 => u32::from(small),
            0x60..0xA0 => u32::from(self.byte()),
            0xA0..0xE0 => u32::from(self.half() % 2200),
            0xE0..0xF8 => u32::from(self.half()),
            _ => self.word(),
        }
    }

    /// A descriptor for transmission.
    pub fn tx_descriptor(&mut self) -> [u8; DESC_BYTES] {
        let kind = self.byte();
        if kind.is_multiple_of(8) {
            return self.bytes();
        }
        let all = self.bytes();
        match kind % 8 {
            1 | 2 => {
                let d = LegacyTx::from_bytes(all);
                let cmd = d.cmd.difference(TxCmd::DEXT);
                let (buffer_addr, length) = (self.address(), self.length() as u16);
                LegacyTx { buffer_addr, length, cmd, ..d }.to_bytes()
            }
            3..6 => {
                let d = DataTx::from_bytes(all);
                let dcmd = d.dcmd | TxCmd::DEXT;
                let (buffer_addr, dtalen) = (self.address(), self.length());
                DataTx { buffer_addr, dtalen, dcmd, ..d }.to_bytes()
            }
            _ => {
                let d = ContextTx::from_bytes(all);
                let tucmd = d.tucmd | TxCmd::DEXT;
                let (hdrlen, mss) = (self.length() as u8, self.length() as u16);
                ContextTx { tucmd, hdrlen, mss, ..d }.to_bytes()
            }
        }
    }

    /// A descriptor for reception.
    pub fn rx_descriptor(&mut self) -> [u8; DESC_BYTES] {
        let d = RxDesc::from_bytes(self.bytes());
        RxDesc { buffer_addr: self.address(), ..d }.to_bytes()
    }
}
