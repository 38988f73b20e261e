//! Frames out of a stream of bytes: each behind its length, 4 bytes, big endian.
//!
//! Invariants: whatever the pieces are in which the bytes come, the frames are the same. The buffer never grows:
//! it holds the longest frame, and a length beyond that ends the stream, since nothing tells where the next frame
//! begins. Lengths that no frame has, but that can be stepped over, are stepped over and counted.

use std::ops::Range;

/// Bytes of the length.
pub const PREFIX: usize = 4;
/// Longest frame of any program that speaks this: QEMU's.
pub const LONGEST: usize = 69632;
/// Shortest frame: its header.
pub const SHORTEST: usize = 14;
/// Longest frame that is passed on: 64 KiB of payload and headers.
pub const MOST: usize = 65536 + 64;

/// Room for one frame of any length and much of the next, so that a read takes what is there.
const ROOM: usize = 2 * (PREFIX + LONGEST);

/// What has come and has not been taken.
#[derive(Debug)]
pub struct Inbox {
    bytes: Box<[u8]>,
    filled: Range<usize>,
    /// Bytes of a frame that is left out, still to come.
    skip: usize,
    left_out: u64,
}

/// What there is next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// A frame.
    Frame(&'a [u8]),
    /// Nothing until more bytes come.
    More,
    /// Never anything again: a frame of so many bytes was announced.
    Broken(u32),
}

impl Inbox {
    /// Nothing has come.
    pub fn new() -> Self {
        Self { bytes: vec![0; ROOM].into(), filled: 0..0, skip: 0, left_out: 0 }
    }

    /// Forgets what has come of a stream that has ended. True: in the middle of a frame.
    pub fn restart(&mut self) -> bool {
        let inside = !self.filled.is_empty() || self.skip > 0;
        (self.filled, self.skip) = (0..0, 0);
        inside
    }

    /// Where the next bytes go; never empty once `next` has said `More`.
    pub fn space(&mut self) -> &mut [u8] {
        if self.filled.start > 0 {
            self.bytes.copy_within(self.filled.clone(), 0);
            self.filled = 0..self.filled.len();
        }
        &mut self.bytes[self.filled.end..]
    }

    /// So many bytes have come there.
    pub fn add(&mut self, n: usize) {
        self.filled.end += n;
    }

    /// Takes the next frame.
    pub fn next(&mut self) -> Next<'_> {
        loop {
            let skipped = self.skip.min(self.filled.len());
            self.filled.start += skipped;
            self.skip -= skipped;
            let Some((&length, rest)) = self.bytes[self.filled.clone()].split_first_chunk() else {
                return Next::More;
            };
            let announced = u32::from_be_bytes(length);
            let length = announced as usize;
            if length > LONGEST {
                return Next::Broken(announced);
            }
            if !(SHORTEST..=MOST).contains(&length) {
                self.left_out += 1;
                self.skip = PREFIX + length;
                continue;
            }
            if rest.len() < length {
                return Next::More;
            }
            let begin = self.filled.start + PREFIX;
            self.filled.start = begin + length;
            return Next::Frame(&self.bytes[begin..begin + length]);
        }
    }

    /// Whether a frame is there whole, behind what is to be stepped over.
    pub fn has_frame(&self) -> bool {
        let mut at = self.filled.start + self.skip;
        while let Some((&length, rest)) =
            self.bytes.get(at..self.filled.end).and_then(<[u8]>::split_first_chunk)
        {
            let length = u32::from_be_bytes(length) as usize;
            if (SHORTEST..=MOST).contains(&length) {
                return rest.len() >= length;
            }
            if length > LONGEST {
                return false;
            }
            at += PREFIX + length;
        }
        false
    }

    /// Frames left out for their length.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }
}

/// The frames of a stream, and whether it ends in a length that cannot be.
type Frames = (Vec<Vec<u8>>, bool);

/// For fuzzing: a stream that comes in pieces gives the frames that it has when it is there as a whole. The first
/// byte is the number of lengths of pieces, two bytes each; the rest is the stream.
///
/// # Panics
/// It does not.
pub fn fuzz(data: &[u8]) {
    let Some((&n, rest)) = data.split_first() else { return };
    let (pieces, stream) = rest.split_at(rest.len().min(2 * usize::from(n % 16)));
    let mut pieces: Vec<usize> =
        pieces.chunks_exact(2).map(|two| usize::from(two[0]) << 8 | usize::from(two[1])).collect();
    pieces.push(1 << 16);
    assert_eq!(in_pieces(stream, &pieces), as_a_whole(stream));
}

/// The simplest way to read it.
fn as_a_whole(mut stream: &[u8]) -> Frames {
    let mut frames = Vec::new();
    while stream.len() >= 4 {
        let length = u32::from_be_bytes([stream[0], stream[1], stream[2], stream[3]]) as usize;
        if length > 69632 {
            return (frames, true);
        }
        if stream.len() >= 4 + length && (14..=65600).contains(&length) {
            frames.push(stream[4..4 + length].to_vec());
        }
        stream = &stream[(4 + length).min(stream.len())..];
    }
    (frames, false)
}

/// The same, by an inbox that gets it in pieces of those lengths, again and again.
fn in_pieces(mut stream: &[u8], lengths: &[usize]) -> Frames {
    let (mut inbox, mut frames) = (Inbox::new(), Vec::new());
    for &length in lengths.iter().cycle() {
        let space = inbox.space();
        assert!(!space.is_empty());
        let n = length.min(stream.len()).min(space.len());
        space[..n].copy_from_slice(&stream[..n]);
        inbox.add(n);
        stream = &stream[n..];
        loop {
            match inbox.next() {
                Next::Frame(frame) => frames.push(frame.to_vec()),
                Next::More => break,
                Next::Broken(_) => return (frames, true),
            }
        }
        if stream.is_empty() {
            break;
        }
    }
    (frames, false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let length = prop_oneof![
            8 => 14..200u32,
            2 => 0..14u32,
            1 => 1000..70000u32,
            1 => Just(65600u32),
            1 => Just(65601u32),
            1 => Just(69632u32),
        ];
        let end = prop_oneof![Just(None), any::<u32>().prop_map(Some)];
        (prop::collection::vec((length, any::<u8>()), 0..12), end, 0..9usize).prop_map(
            |(frames, end, cut)| {
                let mut bytes = Vec::new();
                for (length, with) in frames {
                    bytes.extend(length.to_be_bytes());
                    bytes.resize(bytes.len() + length as usize, with);
                }
                bytes.extend(end.into_iter().flat_map(u32::to_be_bytes));
                bytes.truncate(bytes.len().saturating_sub(cut));
                bytes
            },
        )
    }

    proptest! {
        #[test]
        fn frames_are_the_same_in_whatever_pieces_they_come(
            bytes in stream(), lengths in prop::collection::vec(1..4000usize, 1..8)
        ) {
            prop_assert_eq!(in_pieces(&bytes, &lengths), as_a_whole(&bytes));
        }
    }

    #[test]
    fn lengths_that_no_frame_has_are_left_out_and_the_rest_stays() {
        let mut bytes = Vec::new();
        for length in [60_u32, 0, 13, 14, 65600, 65601, 69632, 60] {
            bytes.extend(length.to_be_bytes());
            bytes.resize(bytes.len() + length as usize, 7);
        }
        let mut inbox = Inbox::new();
        let mut lengths = Vec::new();
        for piece in bytes.chunks(50_000) {
            inbox.space()[..piece.len()].copy_from_slice(piece);
            inbox.add(piece.len());
            while let Next::Frame(frame) = inbox.next() {
                lengths.push(frame.len());
            }
        }
        assert_eq!(lengths, [60, 14, 65600, 60]);
        assert_eq!(inbox.left_out(), 4);
        assert!(!inbox.restart());
    }

    #[test]
    fn four_gibibytes_are_refused_at_once() {
        let mut inbox = Inbox::new();
        inbox.space()[..4].copy_from_slice(&u32::MAX.to_be_bytes());
        inbox.add(4);
        assert_eq!(inbox.next(), Next::Broken(u32::MAX));
    }

    #[test]
    fn restart_says_whether_a_frame_was_cut() {
        let mut inbox = Inbox::new();
        inbox.space()[..6].copy_from_slice(&[0, 0, 0, 60, 1, 2]);
        inbox.add(6);
        assert_eq!(inbox.next(), Next::More);
        assert!(inbox.restart());
        assert!(!inbox.restart());
    }
}
