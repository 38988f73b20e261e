//! Headers: what a packet becomes for a port whose virtio-net headers have another length.
//!
//! ```text
//!  none to some   a header of zeros in front: nothing was left out
//!  some to some   copied, cut or filled up with a zero (the number of buffers)
//!  some to none   completed: checksums, and as many packets as it stands for
//! ```
//!
//! Invariants. A packet is copied to private memory once a batch, when the first such port asks, and
//! everything is decided on that copy: what its slots hold may change meanwhile. All packets that one
//! stands for are put or none is. Memory is taken once, when the first packet needs it.

use offload::{Header, Segments, complete};

use crate::abi::NETMAP_MAX_FRAGS;
use crate::copy::{self, Isa};
use crate::shm::mem::STRIDE;
use crate::vale::forward::batch::{BATCH, Batch};
use crate::vale::forward::gather::fits;
use crate::vale::forward::inner::rx_flags;
use crate::vale::forward::job::Form;
use crate::vale::forward::writer::Writer;

/// Bytes of a packet in each slot but the last: netmap's usual size of a buffer, which leaves room for offsets.
const CHUNK: usize = 2048;
/// Room in front of each copy: for the header in its longest form, and right before the frame for the one to be sent.
const HEADROOM: usize = 32;
/// Packets of a batch at most.
const MOST: usize = BATCH + NETMAP_MAX_FRAGS;
/// Bytes of a packet at most.
const LONGEST: usize = NETMAP_MAX_FRAGS * STRIDE;

/// What a packet in another form needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// So many slots.
    Slots(u32),
    /// Longer chains than there may be.
    TooLong,
    /// It cannot be completed.
    Fault,
}

/// What was put.
#[derive(Clone, Copy, Debug, Default)]
pub struct Put {
    /// Packets of the sender, whatever they became.
    pub packets: usize,
    /// Packets that no ring of this size could ever hold.
    pub misfits: u64,
    /// Packets that could not be completed.
    pub faults: u64,
}

/// Where a copy is.
#[derive(Clone, Copy, Debug)]
struct Copied {
    /// Where the frame begins; 0: there is no copy yet.
    frame: usize,
    len: usize,
}

const NONE: Copied = Copied { frame: 0, len: 0 };

/// The packets of a batch for ports with other headers.
#[derive(Debug, Default)]
pub struct Headers {
    room: Option<Room>,
}

#[derive(Debug)]
struct Room {
    /// By number of the packet.
    copies: Vec<Copied>,
    /// The copies, one behind the other, each behind its headroom.
    bytes: Vec<u8>,
    used: usize,
    /// One of the packets that one stands for.
    segment: Vec<u8>,
}

/// Slots for that many bytes.
fn slots(len: usize) -> usize {
    len.div_ceil(CHUNK).max(1)
}

impl Headers {
    /// Begins a batch: forgets the last one's copies.
    pub fn begin(&mut self) {
        if let Some(room) = &mut self.room {
            room.copies.clear();
            room.used = 0;
        }
    }

    /// The room, with a copy of a packet of the batch in it.
    fn with<I: Isa>(&mut self, batch: &Batch, packet: u16, from: u8) -> (&mut Room, Copied) {
        let room = self.room.get_or_insert_with(|| Room {
            copies: Vec::with_capacity(MOST),
            bytes: vec![0; MOST * (HEADROOM + STRIDE)],
            used: 0,
            segment: vec![0; LONGEST],
        });
        // The capacity is there, so this never allocates.
        room.copies.resize(batch.fragments.len(), NONE);
        let mut copied = room.copies[usize::from(packet)];
        if copied.frame == 0 {
            copied = room.copy::<I>(batch, packet, from.into());
            room.copies[usize::from(packet)] = copied;
        }
        (room, copied)
    }

    /// What a packet needs at a destination.
    pub fn need<I: Isa>(&mut self, batch: &Batch, packet: u16, form: Form) -> Need {
        let (room, copied) = self.with::<I>(batch, packet, form.from);
        let (longest, all) = if form.to == 0 {
            let Some(segments) = room.segments(copied) else { return Need::Fault };
            let (longest, last) = (segments.longest(), segments.len_of(segments.count() - 1));
            (longest, (segments.count() - 1) * slots(longest) + slots(last))
        } else {
            let len = usize::from(form.to) + copied.len;
            (len, slots(len))
        };
        if slots(longest) > NETMAP_MAX_FRAGS { Need::TooLong } else { Need::Slots(all as u32) }
    }

    /// Puts packets, or drops them, in order: once one does not fit, none of the later ones goes. What no ring of this
    /// size could ever hold, and what cannot be completed, is dropped alone; `lost` is told of these.
    pub fn put<I: Isa, const FLAGS: u16>(
        &mut self,
        out: &mut Writer<'_>,
        batch: &Batch,
        packets: impl Iterator<Item = u16>,
        form: Form,
        mut lost: impl FnMut(u16),
    ) -> Put {
        let most = out.num_slots() - 1;
        let mut put = Put::default();
        for packet in packets {
            match self.need::<I>(batch, packet, form) {
                Need::Fault => put.faults += 1,
                Need::Slots(n) if n <= most => {
                    if out.dropped != 0 || n > out.space {
                        out.dropped += 1;
                        continue;
                    }
                    let (room, copied) = self.with::<I>(batch, packet, form.from);
                    if has_room_at_offsets(out, n, room.longest(copied, form)) {
                        room.put::<I, FLAGS>(out, copied, form);
                        put.packets += 1;
                        continue;
                    }
                    put.misfits += 1;
                }
                Need::TooLong | Need::Slots(_) => put.misfits += 1,
            }
            lost(packet);
        }
        put
    }
}

impl Room {
    /// Copies a packet, whose first `from` bytes are its header.
    fn copy<I: Isa>(&mut self, batch: &Batch, packet: u16, from: usize) -> Copied {
        let start = self.used;
        let frame = start + HEADROOM;
        let first = usize::from(packet);
        let fragments = &batch.fragments[first..];
        let mut end = frame - from;
        for fragment in &fragments[..usize::from(fragments[0].frags)] {
            let to = &mut self.bytes[end..end + usize::from(fragment.len)];
            // SAFETY: `gather` checked the fragment: so many bytes at `data` are readable; `to` is that long, and
            // private; the caller's CPU has the instructions.
            unsafe { copy::exact::<I>(to.as_mut_ptr(), fragment.data, to.len()) };
            end += usize::from(fragment.len);
        }
        // The header to the front, in its longest form, as what is before the frame is written anew for each destination.
        self.bytes[start..start + Header::LONG].fill(0);
        self.bytes.copy_within(frame - from..frame, start);
        self.used = end.max(frame);
        Copied { frame, len: end.saturating_sub(frame) }
    }

    fn frame(&self, copied: Copied) -> &[u8] {
        &self.bytes[copied.frame..copied.frame + copied.len]
    }

    fn header(&self, copied: Copied) -> Header {
        Header::read(&self.bytes[copied.frame - HEADROOM..]).expect("there is so much headroom")
    }

    /// What a copy stands for, if it can be completed.
    fn segments(&self, copied: Copied) -> Option<Segments<'_>> {
        complete(&self.header(copied), self.frame(copied)).ok()
    }

    /// Length of the longest packet that a copy becomes.
    fn longest(&self, copied: Copied, form: Form) -> usize {
        match form.to {
            0 => self.segments(copied).map_or(0, |segments| segments.longest()),
            to => usize::from(to) + copied.len,
        }
    }

    /// Puts what a copy becomes; there is space.
    fn put<I: Isa, const FLAGS: u16>(&mut self, out: &mut Writer<'_>, copied: Copied, form: Form) {
        if form.to != 0 {
            let (start, to) = (copied.frame - HEADROOM, usize::from(form.to));
            self.bytes.copy_within(start..start + to, copied.frame - to);
            let packet = &self.bytes[copied.frame - to..copied.frame + copied.len];
            return put_chain::<I, FLAGS>(out, packet);
        }
        if self.header(copied).is_plain() {
            return put_chain::<I, FLAGS>(out, self.frame(copied));
        }
        let frame = &self.bytes[copied.frame..copied.frame + copied.len];
        let Ok(mut segments) = complete(&self.header(copied), frame) else { return };
        while let Some(len) = segments.next_into(&mut self.segment) {
            put_chain::<I, FLAGS>(out, &self.segment[..len]);
        }
    }
}

/// Whether the next `n` slots of a ring with offsets leave room for their part of packets that long.
fn has_room_at_offsets(out: &Writer<'_>, n: u32, longest: usize) -> bool {
    let len = longest.min(CHUNK) as u16;
    out.offset_mask == 0 || (0..n as usize).all(|i| fits(out.offset(i), len))
}

/// Puts a packet into as many slots as it takes.
fn put_chain<I: Isa, const FLAGS: u16>(out: &mut Writer<'_>, packet: &[u8]) {
    let frags = slots(packet.len());
    out.warm_up();
    for (i, chunk) in packet.chunks(CHUNK).enumerate() {
        let flags = FLAGS | rx_flags(frags as u8, i + 1 < frags);
        let len = chunk.len() as u16;
        if out.offset_mask != 0 {
            // The program may have changed it since it was looked at: that is its own loss.
            let offset = Some(out.offset(0)).filter(|&offset| fits(offset, len)).unwrap_or(0);
            // SAFETY: the chunk is private memory; it fits there.
            unsafe { out.put_at(chunk.as_ptr(), len, offset, flags) };
        } else {
            // SAFETY: the chunk is private memory, not longer than a buffer; the caller's CPU has the instructions.
            unsafe { out.put::<I>(chunk.as_ptr(), len, true, flags) };
        }
    }
    out.used(frags as u32);
    out.packet();
}
