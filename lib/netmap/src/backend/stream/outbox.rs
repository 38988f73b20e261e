//! Frames on their way into a stream of bytes.
//!
//! Invariant: what is handed to the kernel at once is whole frames, each behind its length, and as much as the
//! kernel puts into one buffer, which a reader gets whole or not at all; or one frame that is longer, and then its
//! rest comes before all else. A reader like passt loses its place when a length arrives in two pieces; QEMU does
//! not mind, and is quickest with many frames at once. So both get the same. See docs/design/host-and-nics.md.

use super::inbox::PREFIX;

/// Bytes handed over at once. A stream socket of the kernel takes up to 48 KiB into one buffer (`SKB_MAX_ALLOC` and 32
/// KiB of fragments), or half of the socket's memory, which is 104 KiB by default.
const AT_ONCE: usize = 32 << 10;

/// What was taken and has not been handed over.
#[derive(Debug)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// Of these, what has been handed over.
    gone: usize,
}

impl Outbox {
    /// Nothing. `most` is the length of the longest frame.
    pub fn new(most: usize) -> Self {
        Self { bytes: Vec::with_capacity(AT_ONCE.max(PREFIX + most)), gone: 0 }
    }

    /// Whether a frame of that length can be put behind those that are there.
    pub fn has_room(&self, length: usize) -> bool {
        let behind = self.bytes.len() + PREFIX + length;
        self.bytes.is_empty() || (self.gone == 0 && behind <= AT_ONCE)
    }

    /// Puts a frame there, for which there is room.
    pub fn add(&mut self, frame: &[u8]) {
        debug_assert!(self.has_room(frame.len()));
        let length = u32::try_from(frame.len()).expect("a frame is shorter than 4 GiB");
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(frame);
    }

    /// What is to be handed over.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.gone..]
    }

    /// So much of that has been.
    pub fn pass(&mut self, n: usize) {
        self.gone += n;
        if self.gone == self.bytes.len() {
            self.clear();
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        (self.gone, _) = (0, self.bytes.clear());
    }

    /// Whether all has been handed over.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_frames_gather_and_nothing_overtakes_a_rest() {
        let mut out = Outbox::new(65600);
        while out.has_room(60) {
            out.add(&[1; 60]);
        }
        assert!(out.rest().len() <= AT_ONCE && out.rest().len() > AT_ONCE - 64);
        assert_eq!(out.rest().len() % 64, 0);
        assert!(!out.has_room(65600));
        out.pass(out.rest().len());
        assert!(out.is_empty() && out.has_room(65600));
        out.add(&[2; 65600]);
        assert!(!out.has_room(14));
        out.pass(40_000);
        assert!(!out.has_room(14) && out.rest().len() == 25_604);
        out.pass(25_604);
        assert!(out.is_empty() && out.has_room(14));
    }
}
