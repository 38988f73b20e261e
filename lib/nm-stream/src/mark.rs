//! The mark at the beginning of the UDP payload, by which txseq and rxseq, ping and pong know their
//! packets. Integers are in network order.
//!
//! ```text
//! 0      4     6      7        8                 16
//! | seq  | run | kind | thread | seq or time     |
//! ```
//! `seq` is the low half of the sequence number, where pkt-gen has it too. `run` differs between runs,
//! so that a restarted sender is a new stream, not a jump back. The last field is the whole sequence
//! number (txseq) or the sender's clock in nanoseconds (ping, sent back unchanged by pong).

/// Who made a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// txseq.
    Seq = 0xa5,
    /// ping.
    Ping = 0xa6,
    /// pong.
    Pong = 0xa7,
}

/// A mark, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Low half of the sequence number.
    pub seq: u32,
    /// Chosen by the sender at random for each run.
    pub run: u16,
    /// Who made the packet.
    pub kind: Kind,
    /// Sending thread.
    pub thread: u8,
    /// Sequence number or time.
    pub value: u64,
}

impl Mark {
    /// Bytes of a mark.
    pub const LEN: usize = 16;

    /// The bytes on the wire.
    pub fn encode(self) -> [u8; Mark::LEN] {
        let mut bytes = [0; Mark::LEN];
        bytes[..4].copy_from_slice(&self.seq.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.run.to_be_bytes());
        bytes[6] = self.kind as u8;
        bytes[7] = self.thread;
        bytes[8..].copy_from_slice(&self.value.to_be_bytes());
        bytes
    }

    /// Reads a mark from its first and second eight bytes as big-endian numbers; `None` if the kind is
    /// unknown.
    ///
    /// Always inlined: a result that goes through memory is written by narrow stores and read back by wide
    /// loads, which defeats store forwarding (docs/design/guest-driver.md).
    #[inline(always)]
    pub fn decode(first: u64, value: u64) -> Option<Mark> {
        let kind = match (first >> 8) as u8 {
            0xa5 => Kind::Seq,
            0xa6 => Kind::Ping,
            0xa7 => Kind::Pong,
            _ => return None,
        };
        let mark = Mark {
            seq: (first >> 32) as u32,
            run: (first >> 16) as u16,
            kind,
            thread: first as u8,
            value,
        };
        // The sequence number is there twice, which a foreign packet hardly ever matches.
        if kind == Kind::Seq && mark.seq != value as u32 { None } else { Some(mark) }
    }

    /// Identifies the sender's stream.
    #[inline]
    pub fn stream(self) -> u32 {
        u32::from(self.run) << 8 | u32::from(self.thread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mark_reads_back_and_strangers_are_refused() {
        let mark =
            Mark { seq: 0x89ab_cdef, run: 7, kind: Kind::Seq, thread: 3, value: 0x1_89ab_cdef };
        let bytes = mark.encode();
        let half =
            |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        assert_eq!(Mark::decode(half(0), half(8)), Some(mark));
        assert_eq!(Mark::decode(half(0), half(8) + 1), None);
        assert_eq!(Mark::decode(0, 0), None);
    }
}
