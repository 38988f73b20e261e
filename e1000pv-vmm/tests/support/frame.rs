//! Frames as bytes, made and read by the RFCs alone: what the guest's own code makes and checks is not
//! judged by itself. The mark behind the UDP header is nm-pktgen's: number, run, kind, thread, value.

/// Bytes of Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 42;
/// Mark of a numbered packet.
pub const SEQ: u8 = 0xa5;
/// Mark of a ping.
pub const PING: u8 = 0xa6;
/// Mark of the answer to a ping.
pub const PONG: u8 = 0xa7;

/// What a sound frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// Receiver.
    pub dst: [u8; 6],
    /// Sender.
    pub src: [u8; 6],
    /// [`SEQ`], [`PING`] or [`PONG`].
    pub kind: u8,
    /// Number.
    pub seq: u32,
}

/// The Internet checksum (RFC 1071); 0 if what is summed contains a right one.
fn checksum(bytes: impl IntoIterator<Item = u8>) -> u16 {
    let mut sum = 0u32;
    for (at, byte) in bytes.into_iter().enumerate() {
        sum += if at % 2 == 0 { u32::from(byte) << 8 } else { u32::from(byte) };
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Pseudo-header (RFC 768), UDP header and data.
fn udp_sum(frame: &[u8]) -> u16 {
    let pseudo = frame[26..34].iter().chain(&[0, 17]).chain(&frame[38..40]);
    checksum(pseudo.chain(&frame[34..]).copied())
}

/// A frame of `size` bytes without CRC.
pub fn make(dst: [u8; 6], src: [u8; 6], kind: u8, seq: u32, size: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(size);
    frame.extend([dst, src].concat());
    frame.extend([0x08, 0x00, 0x45, 0x00]);
    frame.extend(((size - 14) as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 9, 10, 1, 0, 9]);
    frame.extend([4, 210, 4, 210]);
    frame.extend(((size - 34) as u16).to_be_bytes());
    frame.extend([0, 0]);
    assert_eq!(frame.len(), HEADERS);
    frame.extend(seq.to_be_bytes());
    frame.extend([0x12, 0x34, kind, 0]);
    frame.extend(u64::from(seq).to_be_bytes());
    frame.extend((frame.len()..size).map(|at| at as u8));
    let header = checksum(frame[14..34].iter().copied());
    frame[24..26].copy_from_slice(&header.to_be_bytes());
    let udp = udp_sum(&frame);
    frame[40..42].copy_from_slice(&udp.to_be_bytes());
    frame
}

/// Reads a frame of `size` bytes; says what is wrong with it.
pub fn read(frame: &[u8], size: usize) -> Result<Read, String> {
    if frame.len() != size || size < HEADERS + 16 {
        return Err(format!("{} bytes, not {size}", frame.len()));
    }
    let half = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    if frame[12..15] != [0x08, 0x00, 0x45] || frame[23] != 17 {
        return Err("no UDP over IPv4".to_owned());
    }
    if (usize::from(half(16)), usize::from(half(38))) != (size - 14, size - 34) {
        return Err(format!("lengths {} and {}", half(16), half(38)));
    }
    if checksum(frame[14..34].iter().copied()) != 0 {
        return Err("wrong header checksum".to_owned());
    }
    // 0 is none.
    if half(40) != 0 && udp_sum(frame) != 0 {
        return Err("wrong UDP checksum".to_owned());
    }
    let seq = u32::from_be_bytes(frame[42..46].try_into().expect("four bytes"));
    let (dst, src) = (&frame[..6], &frame[6..12]);
    Ok(Read {
        dst: dst.try_into().expect("six bytes"),
        src: src.try_into().expect("six bytes"),
        kind: frame[48],
        seq,
    })
}
