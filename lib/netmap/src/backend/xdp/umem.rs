//! The memory that an AF_XDP port's buffers are in, as the kernel numbers it, and who has which buffer.
//!
//! ```text
//!   a chunk      | 256 bytes of the kernel's | a cell: 2112 bytes, where a frame is put |
//!                ^ what the fill ring is given: the cell's address less 256, which may lie in the cell before
//! ```
//!
//! In copy mode the kernel writes nothing to the first 256 bytes of a chunk, so that chunks may overlap, and a region
//! of cells is as good as any other memory. Two ports may use one region, and so exchange buffers.
//!
//! Invariant: a cell has one owner at a time, its program or one ring of one socket. The mark is set here before the
//! kernel is told of a cell and cleared after the kernel has given it back; what the program's slots say is
//! checked against it. All sockets of a process that use a region share its marks.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::error::{Error, Invalid, Result};
use crate::options::{Memory, MemoryRef, Options};
use crate::shm::mem::{Cell, RESERVED, Region, STRIDE};
use crate::shm::private;
use crate::vale::lifecycle::lodging::{self, Lodging};

/// What the kernel keeps for itself at the start of a chunk (`XDP_PACKET_HEADROOM`).
pub const HEADROOM: u64 = 256;
/// Bytes of a chunk.
pub const CHUNK: u32 = STRIDE as u32 + HEADROOM as u32;
/// A received packet's address has the headroom in its upper 16 bits.
const BASE_BITS: u32 = 48;
/// The mark of a cell that nobody but its program has.
const FREE: u32 = 0;

static KNOWN: Mutex<Vec<Weak<Umem>>> = Mutex::new(Vec::new());

fn known() -> MutexGuard<'static, Vec<Weak<Umem>>> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.retain(|umem| umem.strong_count() > 0);
    known
}

/// What a ring has a cell for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// For a packet to come.
    Fill,
    /// To send the packet of that TX slot.
    Send(u16),
}

/// One of the queues that use a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User(u16);

/// The mark of a cell that a ring of `user` has: the user in the upper half, the purpose in the lower, which is not 0.
fn mark(user: User, purpose: Purpose) -> u32 {
    let purpose = match purpose {
        Purpose::Fill => u16::MAX,
        Purpose::Send(slot) => slot + 1,
    };
    u32::from(user.0) << 16 | u32::from(purpose)
}

/// What a mark says.
fn purpose(mark: u32) -> Purpose {
    match mark as u16 {
        u16::MAX => Purpose::Fill,
        slot => Purpose::Send(slot.wrapping_sub(1)),
    }
}

/// A region of cells that sockets use.
#[derive(Debug)]
pub struct Umem {
    region: Arc<Region>,
    /// Of each cell, who has it.
    marks: Box<[AtomicU32]>,
    /// Who uses it. A number is given again, but to nobody else while its user has it.
    users: Mutex<BTreeSet<u16>>,
    /// Where it was found, if it belongs to a port of a switch.
    lodging: Option<Lodging>,
}

impl Umem {
    /// The memory that a port is to have: that of another port, if the options say so, or its own, with room for two that need so
    /// many cells.
    pub fn choose(port: &str, options: &Options, cells: u32) -> Result<Arc<Self>> {
        let not_shareable = || Error::invalid(port, Invalid::NotShareable);
        let lodging = match &options.memory {
            Memory::Private => return Ok(Self::of(private::make(cells)?, None)),
            Memory::With(MemoryRef(name)) => match private::named(name) {
                Some(found) => return Ok(Self::of(found, None)),
                None => lodging::named(name)?,
            },
            Memory::Id(id) | Memory::Existing(id) => lodging::numbered(port, *id)?,
        };
        let lodging = lodging.ok_or_else(not_shareable)?;
        Ok(Self::of(lodging.region().clone(), Some(lodging)))
    }

    fn of(region: Arc<Region>, lodging: Option<Lodging>) -> Arc<Self> {
        let mut known = known();
        let same = |umem: &Arc<Self>| umem.region.id() == region.id();
        if let Some(found) = known.iter().filter_map(Weak::upgrade).find(same) {
            return found;
        }
        let marks = (0..region.cells()).map(|_| AtomicU32::new(FREE)).collect();
        let umem = Arc::new(Self { region, marks, users: Mutex::default(), lodging });
        known.push(Arc::downgrade(&umem));
        umem
    }

    /// The cells.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// For another port to be made in it.
    pub fn memory(&self) -> MemoryRef {
        MemoryRef(match &self.lodging {
            Some(lodging) => lodging.name().to_owned(),
            None => private::name(&self.region),
        })
    }

    /// Changes which cells are used, alone.
    pub fn allocate<T>(&self, work: impl FnOnce(&Region) -> Result<T>) -> Result<T> {
        match &self.lodging {
            Some(lodging) => lodging.locked(|| work(&self.region)),
            None => private::locked(|| work(&self.region)),
        }
    }

    /// Gives cells back that a port had, but those that somebody else names.
    pub fn give_back(&self, mut cells: Vec<Cell>) {
        // Those of memory that is no switch's end with it.
        if let Some(lodging) = &self.lodging {
            cells.retain(|&cell| self.is_free(cell));
            lodging.give_back(None, cells.into_iter().collect());
        }
    }

    /// A queue that is going to use the region.
    ///
    /// # Panics
    /// There are as many as numbers, each with a socket: more than a process can have.
    pub fn enter(&self) -> User {
        let mut users = self.users();
        let free = (0..=u16::MAX).find(|number| !users.contains(number));
        let number = free.expect("fewer sockets than numbers");
        users.insert(number);
        User(number)
    }

    fn users(&self) -> MutexGuard<'_, BTreeSet<u16>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the use by a queue whose socket is closed; returns the cells that its rings had.
    pub fn leave(&self, user: User) -> Vec<Cell> {
        let mut left = Vec::new();
        for (cell, word) in (0..).map(Cell).zip(&self.marks) {
            let mark = word.load(Ordering::Relaxed);
            if mark != FREE && mark >> 16 == u32::from(user.0) {
                word.store(FREE, Ordering::Release);
                left.push(cell);
            }
        }
        self.users().remove(&user.0); // it has no mark any more
        left
    }

    /// Marks a cell as one that the kernel is about to have. False: there is no such cell, or somebody has it.
    #[inline]
    pub fn give(&self, cell: Cell, user: User, purpose: Purpose) -> bool {
        cell.0 >= RESERVED
            && self.marks.get(cell.at()).is_some_and(|word| {
                let mark = mark(user, purpose);
                // Who had it last has written to it before: pairs with the store in `take_back`.
                word.compare_exchange(FREE, mark, Ordering::Acquire, Ordering::Relaxed).is_ok()
            })
    }

    /// The cell at that address, which the kernel has given back, and what for it had it.
    #[inline]
    pub fn take_back(&self, address: u64) -> Option<(Cell, Purpose)> {
        let cell = cell_at(address)?;
        let word = self.marks.get(cell.at())?;
        let mark = word.load(Ordering::Relaxed);
        word.store(FREE, Ordering::Release); // pairs with the exchange in `give`
        (mark != FREE).then_some((cell, purpose(mark)))
    }

    /// Whether nobody but its program has a cell.
    fn is_free(&self, cell: Cell) -> bool {
        let word = self.marks.get(cell.at());
        word.is_some_and(|word| word.load(Ordering::Relaxed) == FREE)
    }
}

/// Address of a cell's data.
#[inline]
pub fn address(cell: Cell) -> u64 {
    Region::offset(cell) as u64
}

/// What the fill ring is given of a cell.
#[inline]
pub fn fill_address(cell: Cell) -> u64 {
    address(cell) - HEADROOM
}

/// Address of a received packet's data.
#[inline]
pub fn received_address(address: u64) -> u64 {
    let base = address & ((1 << BASE_BITS) - 1);
    base.wrapping_add(address >> BASE_BITS)
}

/// The cell whose data are at that address.
#[inline]
fn cell_at(address: u64) -> Option<Cell> {
    let offset = address.checked_sub(Region::offset(Cell(0)) as u64)?;
    let cell = offset / STRIDE as u64;
    (offset % STRIDE as u64 == 0).then(|| u32::try_from(cell).ok().map(Cell)).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::shm::mem::MAX_CELLS;

    proptest! {
        #[test]
        fn addresses_of_a_cell_lead_back_to_it_and_no_others_do(cell in RESERVED..MAX_CELLS, off in 1..STRIDE as u64) {
            let cell = Cell(cell);
            prop_assert_eq!(cell_at(address(cell)), Some(cell));
            // As the kernel reports a packet whose chunk was given by `fill_address`.
            let reported = fill_address(cell) | HEADROOM << BASE_BITS;
            prop_assert_eq!(cell_at(received_address(reported)), Some(cell));
            prop_assert_eq!(cell_at(address(cell) + off), None);
            // Odd addresses come back less by one.
            prop_assert_eq!(address(cell) % 2, 0);
        }

        #[test]
        fn any_address_is_survived(address: u64) {
            let umem = Umem::of(Region::anonymous(16).unwrap().into(), None);
            prop_assert_eq!(umem.take_back(received_address(address)), None);
        }
    }

    #[test]
    fn cell_has_one_owner() {
        let umem = Umem::of(Region::anonymous(16).unwrap().into(), None);
        let (one, other) = (umem.enter(), umem.enter());
        for nobody in [0, 1, 16, u32::MAX] {
            assert!(!umem.give(Cell(nobody), one, Purpose::Fill), "{nobody}");
        }
        let (a, b) = (Cell(5), Cell(6));
        assert!(umem.is_free(a) && umem.give(a, one, Purpose::Send(0)) && !umem.is_free(a));
        assert!(!umem.give(a, one, Purpose::Fill) && !umem.give(a, other, Purpose::Send(0)));
        assert_eq!(umem.take_back(address(a)), Some((a, Purpose::Send(0))));
        assert_eq!(umem.take_back(address(a)), None);
        assert!(umem.give(a, other, Purpose::Send(4095)) && umem.give(b, one, Purpose::Fill));
        assert_eq!((umem.leave(one), umem.leave(other)), (vec![b], vec![a]));
        assert!(umem.is_free(a) && umem.is_free(b));
    }

    #[test]
    fn port_keeps_its_cells_however_many_others_come_and_go() {
        let umem = Umem::of(Region::anonymous(16).unwrap().into(), None);
        let (stays, cell) = (umem.enter(), Cell(5));
        assert!(umem.give(cell, stays, Purpose::Fill));
        for _ in 0..=u16::MAX {
            let other = umem.enter();
            assert_ne!(other, stays);
            assert_eq!(umem.leave(other), []);
        }
        assert!(!umem.is_free(cell));
        assert_eq!(umem.leave(stays), [cell]);
    }

    #[test]
    fn region_has_one_set_of_marks_in_a_process() {
        let umem = Umem::of(private::make(7).unwrap(), None);
        let options = Options { memory: Memory::With(umem.memory()), ..Options::default() };
        let same = Umem::choose("xdp:x", &options, 0).unwrap();
        assert!(Arc::ptr_eq(&umem, &same));
        let other = Umem::choose("xdp:x", &Options::default(), 16).unwrap();
        assert!(!Arc::ptr_eq(&umem, &other));
    }
}
