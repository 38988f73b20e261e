//! Memory as netmap's programs see it: a file of fixed length that they map once, a number, pools.

mod common;
#[path = "../../nm-cli/tests/skip/mod.rs"]
mod skipping;

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use common::{frame, in_own_root, open, read, root, send, slots};
use netmap::error::Errno;
use netmap::{Error, Layout, Memory, Options, Port, guard_mapping, unguard_mapping};
use skipping::skip;

/// A program's own mapping of a port's memory, of which it knows netmap's headers only.
struct Mapping {
    raw: memmap2::MmapRaw,
    layout: Layout,
}

impl Mapping {
    fn of(port: &Port) -> Self {
        let layout = port.layout().expect("a VALE port");
        let file = File::from(port.open_memory().expect("its file"));
        assert_eq!(file.metadata().unwrap().len(), layout.mem_size);
        let len = layout.mem_size as usize;
        let raw = memmap2::MmapOptions::new().len(len).map_raw(&file).expect("mapped");
        Self { raw, layout }
    }

    fn at<T>(&self, offset: u64) -> &T {
        assert!(offset + 256 <= self.layout.mem_size);
        let at = self.raw.as_ptr().wrapping_add(offset as usize).cast::<T>();
        // SAFETY: within the mapping, as asserted; used with atomics only, at their alignment.
        unsafe { &*at }
    }

    fn word(&self, offset: u64) -> u32 {
        self.at::<AtomicU32>(offset).load(Ordering::Relaxed)
    }

    /// `NETMAP_TXRING(nifp, i)`, or that RX ring, whose offsets are behind those of the TX rings.
    fn ring(&self, i: u64) -> u64 {
        let nif = self.layout.if_offset;
        let distance = self.at::<AtomicI64>(nif + 56 + 8 * i).load(Ordering::Relaxed);
        nif.checked_add_signed(distance).expect("within the memory")
    }

    /// `NETMAP_BUF(ring, idx)`
    fn buffer(&self, ring: u64, idx: u32) -> u64 {
        let buf_ofs = self.at::<AtomicI64>(ring).load(Ordering::Relaxed);
        ring.checked_add_signed(buf_ofs).unwrap() + u64::from(idx) * u64::from(self.word(ring + 12))
    }

    /// Puts a frame into the slot at `head` and moves on.
    fn send(&self, ring: u64, frame: &[u8]) {
        let head = self.word(ring + 20);
        let slot = ring + 256 + 16 * u64::from(head);
        for (i, chunk) in frame.chunks(4).enumerate() {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            let to = self.buffer(ring, self.word(slot)) + 4 * i as u64;
            self.at::<AtomicU32>(to).store(u32::from_le_bytes(word), Ordering::Relaxed);
        }
        self.at::<AtomicU32>(slot + 4).store(frame.len() as u32, Ordering::Relaxed);
        let next = (head + 1) % self.word(ring + 8);
        self.at::<AtomicU32>(ring + 24).store(next, Ordering::Relaxed);
        self.at::<AtomicU32>(ring + 20).store(next, Ordering::Relaxed);
    }
}

#[test]
fn program_that_maps_the_file_finds_everything_by_netmaps_headers() {
    let mut x = open("valeM:x", &slots(64));
    let mut y = open("valeM:y", &slots(64));
    let map = Mapping::of(&x);
    let nif = map.layout.if_offset;
    // ni_version, ni_tx_rings, ni_rx_rings
    assert_eq!([map.word(nif + 16), map.word(nif + 24), map.word(nif + 28)], [14, 1, 1]);
    let tx = map.ring(0);
    assert_eq!((tx % 128, map.word(tx + 8), map.word(tx + 12)), (0, 64, 2112));
    map.send(tx, &frame(0xff, 1, 7, 60));
    x.txsync().unwrap();
    assert_eq!(read(&mut y, 0, 9), [frame(0xff, 1, 7, 60)]);
    // A port and buffers that come later lie in what is mapped already.
    let o =
        Options { memory: Memory::Existing(map.layout.mem_id), extra_bufs: 2000, ..slots(1024) };
    let mut z = open("valeM:z", &o);
    let later = Mapping { layout: z.layout().unwrap(), raw: map.raw };
    assert_eq!(later.layout, Layout { if_offset: later.layout.if_offset, ..map.layout });
    later.send(later.ring(0), &frame(0xff, 3, 8, 1500));
    z.txsync().unwrap();
    assert_eq!(read(&mut y, 0, 9), [frame(0xff, 3, 8, 1500)]);
    let extra = z.extra_buffers();
    assert_eq!((extra.len(), later.word(later.layout.if_offset + 32)), (2000, extra[0]));
    let last = later.buffer(later.ring(0), extra[1999]);
    later.at::<AtomicU32>(last + 2108).store(9, Ordering::Relaxed);
}

#[test]
fn pools_are_the_cells_that_buffers_are_numbered_by() {
    let x = open("valeP:x", &slots(64));
    let map = Mapping::of(&x);
    let pools = map.layout.pools();
    assert_eq!((pools.mem_size, pools.mem_id), (map.layout.mem_size, map.layout.mem_id));
    assert_eq!(pools.ifs, pools.bufs);
    let (rings, largest) = (pools.rings, 256 + 4096 * 16);
    assert!(rings.object_bytes >= largest && rings.offset == pools.bufs.offset);
    assert!(
        rings.objects >= 2 && rings.objects * (rings.object_bytes / 2112) <= pools.bufs.objects
    );
    let (bufs, tx) = (pools.bufs, map.ring(0));
    assert_eq!(map.buffer(tx, 0), bufs.offset);
    assert_eq!(map.buffer(tx, 5), bufs.offset + 5 * u64::from(bufs.object_bytes));
    let end = bufs.offset + u64::from(bufs.objects) * u64::from(bufs.object_bytes);
    assert!(end <= pools.mem_size && end + 4096 > pools.mem_size);
}

#[test]
fn memory_has_a_number_that_others_open_it_by() {
    let a = open("valeN:a", &slots(64));
    let b = open("valeN:b", &slots(64));
    let (id, other) = (a.layout().unwrap().mem_id, b.layout().unwrap().mem_id);
    assert!(id >= 32768 && other >= 32768 && id != other);
    let in_a = |memory| Options { memory, ..slots(64) };
    let ports = [
        open("valeN:c", &in_a(Memory::Existing(id))),
        open("valeN2:d", &in_a(Memory::With(a.memory().unwrap()))),
        open(&format!("valeN:e@{id}"), &slots(64)),
        open("valeN:a", &in_a(Memory::Existing(id))),
    ];
    for port in &ports {
        assert!(port.same_memory(&a) && !port.same_memory(&b));
        assert_eq!(port.layout().unwrap().mem_id, id);
    }
    // The memory outlives the port that it was made for.
    drop(a);
    let f = open("valeN:f", &in_a(Memory::Existing(id)));
    assert!(f.same_memory(&ports[0]));
    let shared = open("valeN:g@77", &slots(64));
    assert_eq!(shared.layout().unwrap().mem_id, 77);
    let h = open("valeN:h", &in_a(Memory::Existing(77)));
    assert!(h.same_memory(&shared));
    drop((ports, f));
    for memory in [Memory::Existing(id), Memory::Id(id), Memory::Existing(78)] {
        let name = "valeN:new".parse().unwrap();
        let e = Port::open_with(&name, &in_a(memory.clone())).unwrap_err();
        assert_eq!(e.errno(), Errno::EINVAL, "{memory:?}: {e}");
        assert!(e.to_string().contains("no memory region"), "{e}");
    }
    assert!(Port::open("null:").unwrap().layout().is_none());
    assert!(Port::open("null:").unwrap().open_memory().is_err());
}

#[test]
fn own_regions_have_numbers_of_their_own() {
    let ports: Vec<Port> = (0..40).map(|i| open(&format!("valeI:p{i}"), &slots(64))).collect();
    let ids: HashSet<u16> = ports.iter().map(|port| port.layout().unwrap().mem_id).collect();
    assert_eq!(ids.len(), 40);
}

#[test]
fn region_is_as_long_as_asked_and_takes_memory_as_it_is_given_out() {
    root();
    let bytes = |port: &Port| {
        let meta = File::from(port.open_memory().unwrap()).metadata().unwrap();
        assert_eq!(meta.len(), port.layout().unwrap().mem_size);
        (meta.len() >> 20, (meta.blocks() * 512) >> 10)
    };
    let small = open("valeB:small", &slots(64));
    let (mib, kib) = bytes(&small);
    assert!(mib == 32 && kib < 600, "{mib} MiB, {kib} KiB");
    let shared = open("valeB:shared@5", &slots(64));
    assert_eq!(bytes(&shared).0, 256);
    let asked = open("valeB:asked@conf:mem-mib=3,slots=64", &Options::default());
    assert_eq!(bytes(&asked).0, 3);
    // Twice what the first port needs, extra buffers included.
    let large = open("valeB:large", &Options { extra_bufs: 20_000, ..slots(4096) });
    let needed = ((20_000 + 2 * 4096) * 2112) >> 20;
    assert!(bytes(&large).0 >= 2 * needed && bytes(&large).1 >> 10 < needed + 2);
    assert_eq!(large.extra_buffers().len(), 20_000);
    for (name, text) in [
        ("valeB:none@conf:mem-mib=1", "mem-mib"), // 2048 buffers do not fit
        ("valeB:small@conf:mem-mib=64", "has 32 MiB, not 64"),
        ("valeB:more@5@conf:mem-mib=500", "not 500"),
    ] {
        let e = Port::open(name).unwrap_err().to_string();
        assert!(e.contains(text), "{name}: {e}");
    }
    open("valeB:small@conf:mem-mib=16", &Options::default());
    assert!(!root().join("valeB/port.none").exists());
}

/// Bytes of the file that this process has mapped by huge pages, of all its mappings together.
fn huge_bytes(file: &File) -> u64 {
    let inode = file.metadata().unwrap().ino();
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut ours = false;
    let mut kib = 0;
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["ShmemPmdMapped:", n, "kB"] if ours => kib += n.parse::<u64>().unwrap(),
            [range, _, _, _, number, ..] if range.contains('-') => {
                ours = number == inode.to_string();
            }
            _ => {}
        }
    }
    kib * 1024
}

/// Whether the kernel puts a file in memory into huge pages, where it is asked to.
fn kernel_gathers() -> bool {
    const HUGE: usize = 2 << 20;
    let fd = nix::sys::memfd::memfd_create(c"probe", nix::sys::memfd::MFdFlags::empty()).unwrap();
    let file = File::from(fd);
    file.set_len(HUGE as u64).unwrap();
    let null = std::ptr::null_mut();
    let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: an anonymous mapping at a place that is free.
    let room = unsafe { libc::mmap(null, 2 * HUGE, libc::PROT_NONE, private, -1, 0) };
    assert_ne!(room, libc::MAP_FAILED);
    let place = room.wrapping_byte_add(room.cast::<u8>().align_offset(HUGE));
    let (rw, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_FIXED);
    // SAFETY: it replaces a part of the mapping just made, which nobody else knows.
    let at = unsafe { libc::mmap(place, HUGE, rw, shared, file.as_raw_fd(), 0) };
    assert_eq!(at, place);
    // SAFETY: a byte of the mapping just made, which nobody else knows.
    unsafe { at.cast::<u8>().write(1) };
    // SAFETY: the advice changes no bytes.
    let gathers = unsafe { libc::madvise(at, HUGE, libc::MADV_COLLAPSE) } == 0;
    // SAFETY: both mappings, to which nobody has a pointer.
    unsafe { libc::munmap(room, 2 * HUGE) };
    gathers
}

#[test]
fn memory_lies_in_huge_pages_for_all_who_map_it_as_far_as_it_fills_some() {
    let name = "memory_lies_in_huge_pages_for_all_who_map_it_as_far_as_it_fills_some";
    if !kernel_gathers() {
        return skip(name, "this kernel, or its settings, put no file into huge pages");
    }
    let huge = |port: &Port| huge_bytes(&File::from(port.open_memory().unwrap())) >> 20;
    assert_eq!(huge(&open("valeH:short", &slots(64))), 0);
    let mut long = open("valeH:long@conf:mem-mib=64", &slots(1024));
    assert_eq!(huge(&long), 4); // of 2048 buffers of 2112 bytes
    // What others have, and what the region gives later, joins: half a huge page was there already.
    let more = Options { extra_bufs: 4000, ..slots(1024) };
    let again = Options { memory: Memory::Existing(long.layout().unwrap().mem_id), ..more };
    let mut second = open("valeH:second", &again);
    assert_eq!(huge(&second), 16);
    // Packets go through it as ever.
    send(&mut long, 7);
    assert_eq!(read(&mut second, 0, 10), [frame(9, 1, 7, 60)]);
}

#[test]
fn full_memory_gives_what_buffers_it_has_and_no_rings() {
    let id = open("valeF:a@conf:mem-mib=3,slots=64", &Options::default());
    let memory = || Memory::Existing(id.layout().unwrap().mem_id);
    let greedy = Options { memory: memory(), extra_bufs: 1 << 20, ..slots(64) };
    let b = open("valeF:b", &greedy);
    let extra = b.extra_buffers();
    assert!((1000..1489).contains(&extra.len()), "{}", extra.len());
    assert_eq!(extra.iter().collect::<HashSet<_>>().len(), extra.len());
    let name = "valeF:c".parse().unwrap();
    let full = || Port::open_with(&name, &Options { memory: memory(), ..slots(64) });
    let e = full().unwrap_err();
    assert!(matches!(e, Error::MemoryFull { .. }), "{e}");
    drop(b);
    full().unwrap();
}

#[test]
fn peer_that_truncates_the_file_takes_no_program_down_that_mapped_it() {
    let x = open("valeT:x", &slots(64));
    let map = Mapping::of(&x);
    let (start, len) = (map.raw.as_mut_ptr().cast(), map.layout.mem_size as usize);
    // SAFETY: a mapping of the region's file, unguarded before it is unmapped; read with atomics.
    unsafe { guard_mapping(start, len) };
    let nif = map.layout.if_offset;
    assert_eq!(map.word(nif + 16), 14);
    File::from(x.open_memory().unwrap()).set_len(0).unwrap();
    assert_eq!(map.word(nif + 16), 0);
    map.at::<AtomicU64>(nif).store(1, Ordering::Relaxed);
    let e = Port::open("valeT:x").map(drop).unwrap_err();
    assert_eq!(e.errno(), Errno::EIO, "{e}");
    unguard_mapping(start, len);
}

#[test]
fn program_with_little_address_space_opens_ports() {
    in_own_root("program_with_little_address_space_opens_ports", |_| {
        use nix::sys::resource::{Resource, setrlimit};
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
        let limit = pages * 4096 + (150 << 20);
        setrlimit(Resource::RLIMIT_AS, limit, limit).unwrap();
        let mut x = Port::open("valeS:x").unwrap();
        let mut y = Port::open("valeS:y").unwrap();
        assert!(x.tx(0).push(&frame(0xff, 1, 1, 60)));
        x.txsync().unwrap();
        assert_eq!(read(&mut y, 0, 9).len(), 1);
    });
}

/// Uses up all descriptors but `left`.
fn few_descriptors(left: usize) -> Vec<File> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 128, most).unwrap();
    let mut all: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    all.truncate(all.len().saturating_sub(left));
    all
}

#[test]
fn process_without_descriptors_takes_no_memory_from_the_living() {
    in_own_root("process_without_descriptors_takes_no_memory_from_the_living", |_| {
        let _other = open("valeB:y@7", &slots(64));
        for left in 0..10 {
            let x = open("valeA:x@7", &slots(64));
            let files = few_descriptors(left);
            drop(x);
            drop(files);
            assert!(root().join("mem/7").exists(), "with {left} descriptors left");
        }
        // The same for buffers in lists: what the living have in their rings is theirs.
        let mut y = open("valeB:z@7", &slots(64));
        for left in 0..10 {
            let o = Options { extra_bufs: 3, ..slots(64) };
            let x = open("valeA:x@7", &o);
            let keeper = open("valeA:x@7", &slots(64));
            let extra = x.extra_buffers()[0];
            let mine = y.tx(0).slot(0).swap_buffer(extra);
            let files = few_descriptors(left);
            drop(x);
            drop(files);
            let o = Options { extra_bufs: 100, ..slots(64) };
            let again = open("valeA:w@7", &o).extra_buffers();
            assert!(!again.contains(&extra), "with {left} descriptors left");
            y.tx(0).slot(0).swap_buffer(mine);
            drop(keeper);
        }
    });
}

#[test]
fn port_whose_file_cannot_be_made_takes_no_cells() {
    in_own_root("port_whose_file_cannot_be_made_takes_no_cells", |_| {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        use nix::sys::signal::{SigHandler, Signal, signal};
        let _keeper = open("valeA:y@7@conf:mem-mib=8,slots=64", &Options::default());
        // All cells have memory from then on.
        let free = || {
            let greedy = Options { extra_bufs: 1 << 20, ..slots(64) };
            open("valeA:y@7", &greedy).extra_buffers().len()
        };
        let before = free();
        // SAFETY: the default action would end the process, which makes files that are too long.
        unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn).unwrap() };
        let (_, most) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
        setrlimit(Resource::RLIMIT_FSIZE, 8192, most).unwrap();
        for name in ["valeA:x@7", "valeA:y{1@7"] {
            for _ in 0..5 {
                let e = Port::open_with(&name.parse().unwrap(), &slots(64)).unwrap_err();
                assert_eq!(e.errno(), Errno::EFBIG, "{name}: {e}");
            }
        }
        setrlimit(Resource::RLIMIT_FSIZE, most, most).unwrap();
        assert_eq!(free(), before);
    });
}

#[test]
fn any_number_of_extra_buffers_gets_what_there_is() {
    let asked = Options { extra_bufs: u32::MAX, ..slots(64) };
    for name in ["null:", "valeX:x@conf:mem-mib=16", "valeX:y{1@conf:mem-mib=16"] {
        let got = open(name, &asked).extra_buffers().len();
        assert!(got > 1000, "{name}: {got}");
    }
    // A pipe's base is made with room for those of its first end.
    let asked = Options { extra_bufs: 20_000, ..slots(64) };
    assert_eq!(open("valeX:z{1", &asked).extra_buffers().len(), 20_000);
}

#[test]
fn memory_of_a_port_that_has_gone_is_not_made_again() {
    let memory = open("valeG:x", &slots(64)).memory().unwrap();
    let name = "valeG:y".parse().unwrap();
    let e = Port::open_with(&name, &Options { memory: Memory::With(memory), ..slots(64) });
    let e = e.unwrap_err();
    assert!(e.errno() == Errno::EINVAL && e.to_string().contains("no memory region"), "{e}");
}
