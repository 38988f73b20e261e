//! Regions by number: what their files are called, how one is found, how large a new one is.
//!
//! Every region has a number, netmap's memory id. Numbers below `FIRST_OWN` are the users' (`@N`): the file
//! is called by it. A port's own region gets one from `FIRST_OWN` on that no other region of the root has; its file
//! is `p`, the number as 4 hexadecimal digits, and 11 random ones. So what a half made or removed port
//! says of its region never means another one that got the number later.
//!
//! Invariant: of the regions that are there, no two have a number (the root's lock is held where one is
//! made).

use std::collections::HashSet;

use crate::error::{Error, Invalid, Result};
use crate::name::valid_name;
use crate::options::{Memory, Options};
use crate::random::random;
use crate::shm::dir::Dir;
use crate::shm::lock::RootLock;
use crate::shm::mem::{MAX_BYTES, MAX_CELLS, cells_within};

/// First number of ports' own regions.
const FIRST_OWN: u16 = 1 << 15;
/// Least size of a port's own region. A program that locks its memory pays for all of it, so it is small; still it
/// has room for a few pipes, or seven ports of the default size.
const OWN_BYTES: u64 = 32 << 20;
/// Least size of a region that users gave a number, and so mean to share: room for 60 ports of the default
/// size. It is not the largest, as every process that maps one of its ports maps all of it.
const SHARED_BYTES: u64 = 256 << 20;
/// Most files of the directory that are looked at.
const MOST_FILES: usize = 1 << 16;

/// The memory of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Name of the region's file.
    pub name: String,
    /// Least size if it is to be made.
    least_bytes: u64,
}

/// The number of the region with that file name; 0: it is none that the library gives.
pub fn id(name: &str) -> u16 {
    match name.strip_prefix('p') {
        Some(own) => own.get(..4).and_then(|id| u16::from_str_radix(id, 16).ok()),
        None => name.parse().ok(),
    }
    .unwrap_or(0)
}

/// The memory that a new port is to have.
pub fn choose(_lock: &RootLock, memory: &Dir, port: &str, options: &Options) -> Result<Chosen> {
    let own = |name| Chosen { name, least_bytes: OWN_BYTES };
    match options.memory {
        Memory::Private => unused(memory).map(own),
        Memory::Id(n) if n < FIRST_OWN => {
            Ok(Chosen { name: n.to_string(), least_bytes: SHARED_BYTES })
        }
        Memory::Id(n) | Memory::Existing(n) => match find(memory, n)? {
            Some(name) => Ok(own(name)),
            None => Err(Error::invalid(port, Invalid::NoMemory { id: n })),
        },
        // Its number may be another region's by now.
        Memory::With(ref there)
            if id(&there.0) >= FIRST_OWN && memory.stat_at(&there.0).is_err() =>
        {
            Err(Error::invalid(port, Invalid::NoMemory { id: id(&there.0) }))
        }
        Memory::With(ref there) if valid_name(&there.0) => Ok(own(there.0.clone())),
        Memory::With(_) => Err(Error::invalid(port, Invalid::NotShareable)),
    }
}

impl Chosen {
    /// Cells of a region whose first port needs so many.
    pub fn cells(&self, port: &str, options: &Options, needed: u32) -> Result<u32> {
        let cells = match options.memory_bytes {
            None => cells_within(self.least_bytes).max(needed.saturating_mul(2)).min(MAX_CELLS),
            Some(asked) if asked <= MAX_BYTES => cells_within(asked),
            Some(asked) => {
                let fault = Invalid::MemoryTooLarge { asked, most: MAX_BYTES };
                return Err(Error::invalid(port, fault));
            }
        };
        Ok(cells)
    }
}

/// File name of the region of that number, if there is one.
pub fn find(memory: &Dir, n: u16) -> Result<Option<String>> {
    Ok(regions(memory)?.into_iter().find(|name| id(name) == n))
}

/// A file name with a number that no region has.
fn unused(memory: &Dir) -> Result<String> {
    let used: HashSet<u16> = regions(memory)?.iter().map(|name| id(name)).collect();
    let first = random() as u16;
    let mut ids = (0..FIRST_OWN).map(|i| first.wrapping_add(i) | FIRST_OWN);
    let Some(id) = ids.find(|id| !used.contains(id)) else {
        return Err(Error::Limit {
            name: memory.path().display().to_string(),
            what: "there are too many memory regions",
            limit: FIRST_OWN.into(),
        });
    };
    Ok(format!("p{id:04x}{:011x}", random() >> 20))
}

/// Names of files that may be regions.
fn regions(memory: &Dir) -> Result<Vec<String>> {
    let names = memory.names(MOST_FILES).map_err(Error::io("list", memory.path()))?;
    let names = names.into_iter().filter_map(|name| name.into_string().ok());
    Ok(names.filter(|name| valid_name(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> (tempfile::TempDir, Dir, RootLock) {
        let temp = tempfile::tempdir_in("/dev/shm").unwrap();
        let dir = Dir::open(temp.path(), false).unwrap();
        let lock = RootLock::acquire(&dir).unwrap();
        (temp, dir, lock)
    }

    fn of(memory: Memory) -> Options {
        Options { memory, ..Options::default() }
    }

    #[test]
    fn number_is_in_the_name_of_every_region() {
        assert_eq!([id("7"), id("32767"), id("p9cbb0123456789a")], [7, 32767, 0x9cbb]);
        assert_eq!([id("p"), id("p9cb"), id("x"), id("70000"), id("")], [0; 5]);
    }

    #[test]
    fn own_regions_get_numbers_that_nobody_has_until_there_are_none_left() {
        let (_temp, dir, lock) = dir();
        let mut seen = HashSet::new();
        for _ in 0..200 {
            let name = choose(&lock, &dir, "x", &of(Memory::Private)).unwrap().name;
            assert!(valid_name(&name) && id(&name) >= FIRST_OWN, "{name}");
            assert!(seen.insert(id(&name)), "{name}");
            dir.create(&name).unwrap();
        }
        for n in (FIRST_OWN..=u16::MAX).filter(|n| !seen.contains(n) && *n != 40000) {
            dir.create(&format!("p{n:04x}00000000000")).unwrap();
        }
        let last = choose(&lock, &dir, "x", &of(Memory::Private)).unwrap().name;
        assert_eq!(id(&last), 40000);
        dir.create(&last).unwrap();
        let e = choose(&lock, &dir, "x", &of(Memory::Private)).unwrap_err();
        assert!(matches!(e, Error::Limit { .. }), "{e}");
    }

    #[test]
    fn numbers_name_regions_that_are_there_and_make_only_those_of_users() {
        let (_temp, dir, lock) = dir();
        let name = |memory| choose(&lock, &dir, "x", &of(memory)).map(|chosen| chosen.name);
        assert_eq!(name(Memory::Id(7)).unwrap(), "7");
        for memory in [Memory::Existing(7), Memory::Existing(50000), Memory::Id(50000)] {
            let e = name(memory).unwrap_err();
            assert_eq!(e.errno(), crate::error::Errno::EINVAL, "{e}");
        }
        dir.create("7").unwrap();
        let own = name(Memory::Private).unwrap();
        dir.create(&own).unwrap();
        assert_eq!(name(Memory::Existing(7)).unwrap(), "7");
        assert_eq!(name(Memory::Existing(id(&own))).unwrap(), own);
        assert_eq!(name(Memory::Id(id(&own))).unwrap(), own);
    }

    #[test]
    fn size_follows_what_is_needed_unless_it_is_asked_for() {
        let (_temp, dir, lock) = dir();
        let cells =
            |o: &Options, needed| choose(&lock, &dir, "x", o).unwrap().cells("x", o, needed);
        let (own, shared) = (of(Memory::Private), of(Memory::Id(3)));
        assert_eq!(cells(&own, 2000).unwrap(), cells_within(OWN_BYTES));
        assert_eq!(cells(&shared, 2000).unwrap(), cells_within(SHARED_BYTES));
        assert_eq!(cells(&own, 100_000).unwrap(), 200_000);
        assert_eq!(cells(&own, 200_000).unwrap(), MAX_CELLS);
        let asked = |bytes| Options { memory_bytes: Some(bytes), ..own.clone() };
        assert_eq!(cells(&asked(1 << 20), 2000).unwrap(), cells_within(1 << 20));
        assert_eq!(cells(&asked(MAX_BYTES), 2000).unwrap(), MAX_CELLS);
        let e = cells(&asked(MAX_BYTES + 1), 9).unwrap_err().to_string();
        assert!(e.contains("528 MiB"), "{e}");
    }
}
