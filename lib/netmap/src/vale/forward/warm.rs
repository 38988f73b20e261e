//! Warm buffers: packets go to the buffers that the receiver gave back since the ring was last held.
//!
//! ```text
//!      tail                                          freed
//!        | ready |  cold                 |  warm       |
//!        +-------+-----------------------+-------------+
//!   next packets                           given back last
//! ```
//!
//! A ring goes round, so by itself it writes to the buffer that was given back first, and 1024 buffers of
//! 2112 bytes on each side walk through all of a second-level cache. So before packets are written, the slots at
//! the front of the ring's free part exchange buffers with the warm ones. Some slots at once: the loops that write
//! packets know nothing of it, and the lines of the slots can be fetched in time. In the order in which they were
//! given back: from the last one on it was slower by a fifth between cores that share no cache.
//!
//! Invariant: exchanges are between slots of the free part, which belong to the holder of the ring. What was
//! warm is remembered in shared memory between holders, as a hint: any value costs speed at most.

use crate::abi::SlotValue;
use crate::copy;
use crate::sync::core_atomic::Ordering;
use crate::vale::forward::inner::{AHEAD, Stretch};
use crate::vale::state::repair::{Exchange, Numbered};

/// Slots that get warm buffers at once.
const CHUNK: u32 = 32;
/// Slots of a cache line.
const PER_LINE: u32 = 4;
/// Shortest packets, on average, that may be worth it. With 60 bytes the exchange costs more than it brings.
pub const LONG: usize = 256;

/// Whether warm buffers may be worth their exchange: the packets are long, and what two rings of so many slots
/// touch does not fit the cache.
#[inline]
pub fn is_worth_it(average_len: usize, slots: u32, cache: usize) -> bool {
    average_len >= LONG && slots as usize * average_len.next_multiple_of(64) > cache
}

/// What is known of the buffers in a held ring's free part. Numbers of slots.
#[derive(Debug)]
pub struct Warm<'a> {
    exchange: &'a Exchange,
    /// First slot that was not free when the ring was held.
    freed: u32,
    /// At the front: have got a buffer.
    ready: u32,
    /// At the end: hold what was given back last.
    warm: u32,
}

impl<'a> Warm<'a> {
    /// For the holder of a ring of `n` slots, of which `space` from `tail` on and one more are free.
    pub fn new(exchange: &'a Exchange, n: u32, tail: u32, space: u32) -> Self {
        let free = space + 1;
        let freed = (tail + free) % n;
        let hint = Hint::unpack(exchange.hint.load(Ordering::Relaxed));
        let forward = |from: u32, to: u32| (to + n - from % n) % n;
        // What has been given back since counts alone: what is left of earlier times is colder.
        let news = forward(hint.freed, freed);
        let warm = if news > 0 { news } else { hint.warm };
        let ready = forward(tail, hint.ready % n);
        let ready = if ready > CHUNK { 0 } else { ready.min(free) };
        Self { exchange, freed, ready, warm: warm.min(free) }
    }

    /// Gives warm buffers to the first slots of the ring from `tail`, of which `space` and one are free; `want` packets
    /// are likely to come. Returns how many slots are as warm as they get.
    #[inline(never)]
    pub fn prepare(
        &mut self,
        Stretch { slots, buffers }: Stretch<'_>,
        tail: u32,
        space: u32,
        want: u32,
    ) -> u32 {
        let n = slots.len() as u32;
        let at = |k: u32| (if k >= n { k - n } else { k }) as usize;
        let (front, back) = (|k: u32| at(tail + k), |k: u32| at(self.freed + n - k));
        let want = want.min(CHUNK).min(space);
        while self.ready < want {
            // Once all that is left is warm, the ring is as warm as it gets.
            if self.warm == 0 || self.ready + self.warm > space {
                return space;
            }
            let (a, b) = (front(self.ready), back(self.warm));
            let numbered = |i: usize| Numbered::new(i as u32, &slots[i].word);
            self.exchange.swap(numbered(a), numbered(b));
            if self.ready < AHEAD as u32 {
                let first = SlotValue::unpack(slots[a].word.load(Ordering::Relaxed));
                copy::prefetch_write(buffers.anywhere(first.buf_idx));
            }
            if self.ready.is_multiple_of(PER_LINE) && self.warm > CHUNK {
                // For the next time.
                for later in [front(self.ready + CHUNK), back(self.warm - CHUNK)] {
                    copy::prefetch_write((&raw const slots[later]).cast_mut().cast());
                }
            }
            self.ready += 1;
            self.warm -= 1;
        }
        self.ready.max(1)
    }

    /// Whether there are fewer slots ready than are fetched ahead of a packet that is written.
    #[inline]
    pub fn runs_out(&self) -> bool {
        self.ready <= AHEAD as u32
    }

    /// The first `n` slots have been written.
    #[inline]
    pub fn used(&mut self, n: u32) {
        self.ready = self.ready.saturating_sub(n);
    }

    /// Before what was written is published: up to `tail`, from where on `space` slots and one are left.
    pub fn finish(self, n: u32, tail: u32, space: u32) {
        self.exchange.done();
        // What was written may have reached the warm ones.
        let warm = self.warm.min(space + 1);
        let hint = Hint { freed: self.freed, warm, ready: (tail + self.ready) % n };
        self.exchange.hint.store(hint.pack(), Ordering::Relaxed);
    }
}

/// What one holder leaves to the next: `Warm`, with the end of what is ready as a number of a slot. Each in
/// 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hint {
    freed: u32,
    warm: u32,
    ready: u32,
}

impl Hint {
    fn pack(self) -> u64 {
        let fields = [self.freed, self.warm, self.ready];
        fields.iter().rev().fold(0, |word, &field| word << 16 | u64::from(field as u16))
    }

    fn unpack(word: u64) -> Self {
        let field = |i: u32| u32::from((word >> (16 * i)) as u16);
        Self { freed: field(0), warm: field(1), ready: field(2) }
    }
}
