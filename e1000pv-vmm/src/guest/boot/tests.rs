//! Loading: kernels, disks and headers as they should be, and as they should not.

use std::io::Write;

use linux_loader::loader::bootparam::{boot_params, setup_header};
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use proptest::prelude::*;
use vm_memory::{ByteValued, GuestMemoryBackend};

use super::elf::PVH_DISK_END;
use super::*;

const BYTES: u64 = 32 << 20;
/// ELF: a segment that is loaded.
const PT_LOAD: u32 = 1;

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), BYTES as usize)]).expect("memory")
}

/// With four megabytes above the hole.
fn much_memory() -> GuestMemoryMmap {
    let ranges = [(GuestAddress(0), BYTES as usize), (GuestAddress(layout::HOLE.end), 4 << 20)];
    GuestMemoryMmap::from_ranges(&ranges).expect("memory")
}

fn file(bytes: &[u8]) -> (tempfile::NamedTempFile, Image) {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(bytes).expect("room");
    let image = Image::File(file.path().to_path_buf());
    (file, image)
}

fn try_load(bytes: &[u8], line: &str) -> anyhow::Result<(Entry, GuestMemoryMmap)> {
    let (_file, image) = file(bytes);
    let memory = much_memory();
    let entry = load(&memory, &image, None, line, b"tables")?;
    Ok((entry, memory))
}

fn error(bytes: &[u8]) -> String {
    format!("{:#}", try_load(bytes, "").expect_err("no kernel"))
}

/// An image with one segment from 1 MiB on, of so many bytes, and no note.
fn elf_of(bytes: u64) -> Vec<u8> {
    let mut image = vec![0u8; 120];
    image[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    image[18] = 62;
    image[24..32].copy_from_slice(&layout::KERNEL_MIN.to_le_bytes());
    image[32..40].copy_from_slice(&64u64.to_le_bytes());
    image[52] = 64;
    image[54] = 56;
    image[56] = 1;
    image[64..68].copy_from_slice(&PT_LOAD.to_le_bytes());
    image[64 + 24..64 + 32].copy_from_slice(&layout::KERNEL_MIN.to_le_bytes());
    image[64 + 40..64 + 48].copy_from_slice(&bytes.to_le_bytes());
    image
}

/// A sound header: Debian's, but for the sizes, of a kernel of 4 KiB that unpacks to 1 MiB at 16 MiB.
fn header() -> setup_header {
    setup_header {
        setup_sects: 1,
        syssize: 4096 / 16,
        boot_flag: 0xaa55,
        jump: 0x66eb,
        header: u32::from_le_bytes(*b"HdrS"),
        version: 0x20f,
        loadflags: 1,
        code32_start: 1 << 20,
        initrd_addr_max: 0x7fff_ffff,
        kernel_alignment: 2 << 20,
        relocatable_kernel: 1,
        xloadflags: 0x7f,
        cmdline_size: 2047,
        pref_address: 16 << 20,
        init_size: 1 << 20,
        ..Default::default()
    }
}

/// A bzImage with this header and a kernel of ones.
fn bzimage(header: setup_header) -> Vec<u8> {
    let mut image = vec![0; 1024];
    image[0x1f1..][..size_of::<setup_header>()].copy_from_slice(header.as_slice());
    image.resize(1024 + 4096, 1);
    image
}

fn zero_page(memory: &GuestMemoryMmap) -> boot_params {
    memory.read_obj(GuestAddress(layout::ZERO_PAGE)).expect("inside")
}

fn string(memory: &GuestMemoryMmap, at: u64) -> String {
    let bytes = (at..).map(|at| memory.read_obj::<u8>(GuestAddress(at)).expect("inside"));
    bytes.take_while(|byte| *byte != 0).map(char::from).collect()
}

#[test]
fn pvh_tables_say_what_the_machine_has() {
    let memory = much_memory();
    write_common(&memory, "tx count=1", b"tables", Entry::Pvh(0)).expect("room");
    start_info::write(&memory, None).expect("room");
    let info: hvm_start_info =
        memory.read_obj(GuestAddress(layout::START_INFO)).expect("start_info");
    assert_eq!((info.magic, info.version, info.nr_modules), (0x336e_c578, 1, 0));
    assert_eq!(string(&memory, info.cmdline_paddr), "tx count=1");
    assert_eq!(string(&memory, info.rsdp_paddr), "tables");
    let entries: Vec<hvm_memmap_table_entry> = (0..u64::from(info.memmap_entries))
        .map(|i| memory.read_obj(GuestAddress(info.memmap_paddr + 24 * i)).expect("entry"))
        .collect();
    let same = entries.iter().zip(map::map(&memory)).all(|(theirs, ours)| {
        (theirs.addr, theirs.size, theirs.type_ == 1)
            == (ours.range.start, ours.range.end - ours.range.start, ours.is_ram)
    });
    assert!(same && entries.len() == 5, "{entries:?}");
}

proptest! {
    #[test]
    fn map_is_ordered_covers_memory_and_calls_nothing_else_ram(low in 1usize..64, high in 0usize..64) {
        let high = high << 20;
        let mut ranges = vec![(GuestAddress(0), low << 21)];
        if high > 0 {
            ranges.push((GuestAddress(layout::HOLE.end), high));
        }
        let memory = GuestMemoryMmap::<()>::from_ranges(&ranges).expect("memory");
        let map = map::map(&memory);
        prop_assert!(map.windows(2).all(|two| two[0].range.end <= two[1].range.start));
        let is_memory = |at: u64| memory.address_in_range(GuestAddress(at));
        for map::Entry { range, is_ram } in &map {
            prop_assert!(!range.is_empty());
            prop_assert!(!is_ram || is_memory(range.start) && is_memory(range.end - 1));
            prop_assert!(!is_ram || range.end <= layout::HOLE.start || range.start >= layout::HOLE.end);
        }
        let ram: u64 = map.iter().filter(|e| e.is_ram).map(|e| e.range.end - e.range.start).sum();
        let firmware = layout::LEGACY_HOLE.end - layout::LEGACY_HOLE.start;
        prop_assert_eq!(ram + firmware, ((low << 21) + high) as u64);
        for reserved in [layout::ACPI_TABLES, layout::ECAM] {
            let within = |e: &map::Entry| !e.is_ram && e.range.start <= reserved.start && reserved.end <= e.range.end;
            prop_assert!(map.iter().any(within));
        }
    }
}

#[test]
fn disk_is_at_the_end_and_must_fit() {
    let memory = memory();
    let (disk, _) = file(b"an initial RAM disk");
    let disk = Initrd(disk.path().to_path_buf());
    let loaded = |end, disk_end| Loaded { entry: Entry::Pvh(0), end, disk_end, command_line: 0 };
    let placed = place::load(&memory, &loaded(2 << 20, PVH_DISK_END), &disk).expect("room");
    assert_eq!((placed.at, placed.bytes), (BYTES - 4096, 19));
    assert_eq!(string(&memory, placed.at), "an initial RAM disk");
    start_info::write(&memory, Some(placed)).expect("room");
    let module: hvm_modlist_entry =
        memory.read_obj(GuestAddress(layout::MODULE_LIST)).expect("a module");
    assert_eq!((module.paddr, module.size), (BYTES - 4096, 19));
    assert!(place::load(&memory, &loaded(BYTES - 100, PVH_DISK_END), &disk).is_err());
    // Where the kernel can reach for it.
    let placed = place::load(&memory, &loaded(2 << 20, 5 << 20), &disk).expect("room");
    assert_eq!(placed.at, (5 << 20) - 4096);
    let why = place::load(&memory, &loaded(4 << 20, 4 << 20), &disk).expect_err("no room");
    assert!(format!("{why:#}").contains("up to where the kernel can reach"), "{why:#}");
}

#[test]
fn disk_that_fits_and_cannot_be_unpacked_is_told_with_what_it_takes() {
    let disk = |bytes| place::Placed { at: 20 << 20, bytes };
    assert_eq!(place::scarce(&memory(), 16 << 20, disk(8 << 20)), None);
    let text = place::scarce(&memory(), 16 << 20, disk(9 << 20)).expect("two megabytes short");
    assert!(text.contains("has 32 MiB") && text.contains("--mem 34M"), "{text}");
    assert_eq!(
        place::scarce(&much_memory(), 16 << 20, disk(10 << 20)),
        None,
        "above the hole, too"
    );
}

#[test]
fn memory_that_is_asked_for_is_enough_to_unpack_the_disk() {
    let (end, bytes) = (15 << 20, (18 << 20) + 1);
    let why = place::fits(&memory(), end, bytes).expect_err("it does not fit").to_string();
    assert!(why.contains("memory up to 34 MiB") && why.contains("--mem 52M"), "{why}");
    let enough = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 52 << 20)]).expect("memory");
    place::fits(&enough, end, bytes).expect("room");
    assert_eq!(place::scarce(&enough, end, place::Placed { at: end, bytes }), None);
}

#[test]
fn disk_of_a_hundred_megabytes_is_loaded_whole() {
    const DISK: u64 = 100 << 20;
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 160 << 20)]).expect("memory");
    let disk = tempfile::NamedTempFile::new().expect("a file");
    disk.as_file().set_len(DISK + 5).expect("a sparse file");
    std::os::unix::fs::FileExt::write_all_at(disk.as_file(), b"end.", DISK + 1).expect("room");
    let (_file, image) = file(&bzimage(header()));
    let disk = Initrd(disk.path().to_path_buf());
    load(&memory, &image, Some(&disk), "", &[]).expect("room");
    let params = zero_page(&memory);
    let (at, bytes) = (u64::from(params.hdr.ramdisk_image), u64::from(params.hdr.ramdisk_size));
    assert_eq!((at % 4096, bytes), (0, DISK + 5));
    assert!(at + bytes <= 160 << 20 && at >= 17 << 20);
    assert_eq!(string(&memory, at + DISK + 1), "end.");
}

#[test]
fn disk_that_has_no_size_is_refused() {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 160 << 20)]).expect("memory");
    let (_file, image) = file(&bzimage(header()));
    let error =
        load(&memory, &image, Some(&Initrd("/dev/null".into())), "", &[]).expect_err("refused");
    assert!(format!("{error:#}").contains("/dev/null is no file"), "{error:#}");
}

/// A FIFO without a writer would be waited for.
#[test]
fn kernel_that_is_no_file_is_refused_before_it_is_opened() {
    let dir = tempfile::tempdir().expect("a directory");
    let fifo = dir.path().join("kernel");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("room");
    for path in [fifo.as_path(), dir.path(), std::path::Path::new("/dev/null")] {
        let image = Image::File(path.to_path_buf());
        let error = load(&memory(), &image, None, "", &[]).expect_err("refused");
        assert!(format!("{error:#}").contains("it is no file"), "{error:#}");
    }
}

#[test]
fn what_is_no_kernel_is_refused_in_words() {
    assert!(error(b"").contains("neither an ELF image"));
    assert!(error(&[0x90; 4096]).contains("neither an ELF image"));
    // ELF header of a program without program headers.
    let mut header = elf_of(0);
    header[56] = 0;
    assert!(error(&header).contains("no PVH entry"), "{}", error(&header));
}

#[test]
fn kernel_and_disk_that_do_not_fit_tell_what_they_need() {
    let text = error(&elf_of(36 << 20));
    assert!(text.contains("it needs memory up to 37 MiB") && text.contains("--mem 38M"), "{text}");
    let text = error(&elf_of(3 << 30));
    assert!(text.contains("no guest has more"), "{text}");
    let mut large = header();
    large.init_size = 62 << 20;
    for (kernel, fits) in [
        (elf_of(30 << 20), "no PVH entry"),
        (bzimage(header()), ""),
        (bzimage(large), "it needs memory up to 78 MiB, and the guest has 32: give it --mem 78M"),
    ] {
        let (_file, image) = file(&kernel);
        let load = |disk: Option<&Initrd>| load(&memory(), &image, disk, "", &[]);
        match load(None) {
            Ok(_) => assert_eq!(fits, ""),
            Err(e) => assert!(format!("{e:#}").contains(fits) && !fits.is_empty(), "{e:#}"),
        }
        let disk = tempfile::NamedTempFile::new().expect("a file");
        disk.as_file().set_len(16 << 20).expect("a sparse file");
        let disk = Initrd(disk.path().to_path_buf());
        let text = format!("{:#}", load(Some(&disk)).expect_err("too much"));
        assert!(text.contains("it and the initial RAM disk need memory up to"), "{text}");
        assert!(text.contains("--mem"), "{text}");
    }
    // Numbers that wrap must not cause a panic.
    assert!(!error(&elf_of(u64::MAX)).is_empty());
}

#[test]
fn command_lines_of_the_kernels_own_limit_are_taken_and_longer_ones_refused() {
    let long = "x".repeat(2047);
    let (_, memory) = try_load(&bzimage(header()), &long).expect("as long as it may be");
    assert_eq!(string(&memory, layout::COMMAND_LINE), long);
    let why = format!("{:#}", try_load(&bzimage(header()), &(long + "x")).expect_err("too long"));
    assert!(why.contains("2048 bytes") && why.contains("takes 2047"), "{why}");
    let mut short = header();
    short.cmdline_size = 255;
    assert!(try_load(&bzimage(short), &"x".repeat(256)).is_err());
    // A header that promises more than there is room for.
    short.cmdline_size = u32::MAX;
    assert!(try_load(&bzimage(short), &"x".repeat(layout::COMMAND_LINE_MAX_BYTES)).is_err());
    assert!(try_load(&bzimage(header()), "a\0b").is_err());
}

#[test]
fn bzimage_is_loaded_where_it_prefers_and_told_what_the_machine_has() {
    let mut image = bzimage(header());
    image.extend_from_slice(b"a signature");
    let (entry, memory) = try_load(&image, "quiet").expect("a kernel");
    assert_eq!(entry, Entry::Linux((16 << 20) + 0x200));
    let mut code = [0; 4096];
    memory.read_slice(&mut code, GuestAddress(16 << 20)).expect("inside");
    assert_eq!(code, [1; 4096]);
    let params = zero_page(&memory);
    let (magic, loader, rsdp) =
        (params.hdr.header, params.hdr.type_of_loader, params.acpi_rsdp_addr);
    assert_eq!(
        (magic, loader, rsdp),
        (u32::from_le_bytes(*b"HdrS"), 0xff, layout::ACPI_TABLES.start)
    );
    assert_eq!(string(&memory, params.hdr.cmd_line_ptr.into()), "quiet");
    assert_eq!((params.sentinel, params.e820_entries), (0, 5));
    for (theirs, ours) in params.e820_table.iter().zip(map::map(&memory)) {
        let (addr, size, kind) = (theirs.addr, theirs.size, theirs.r#type);
        let len = ours.range.end - ours.range.start;
        assert_eq!((addr, size, kind == 1), (ours.range.start, len, ours.is_ram));
    }
}

#[test]
fn what_is_behind_a_short_header_is_not_taken_for_it() {
    let mut short = header();
    short.jump = 0x62eb;
    short.handover_offset = u32::MAX;
    let (_, memory) = try_load(&bzimage(short), "").expect("a kernel");
    let (handover, init) =
        (zero_page(&memory).hdr.handover_offset, zero_page(&memory).hdr.init_size);
    assert_eq!((handover, init), (0, 1 << 20));
}

#[test]
fn each_field_of_a_header_that_is_wrong_has_its_error() {
    type Change = fn(&mut setup_header);
    let wrong: [(Change, &str); 10] = [
        (|h| h.version = 0x20b, "2.11, and 2.12 is needed"),
        (|h| h.loadflags = 0, "zImage"),
        (|h| h.xloadflags = 0x7e, "32-bit kernel"),
        (|h| h.jump = 0x20eb, "its header is damaged: it has"),
        (|h| h.kernel_alignment = 0, "0x0 as alignment"),
        (|h| h.kernel_alignment = 3 << 20, "0x300000 as alignment"),
        (|h| h.pref_address += 4096, "0x1001000 as preferred address"),
        (|h| h.pref_address = 0, "below 1 MiB"),
        (|h| h.syssize = 1 << 20, "cut off: it has 5120 bytes of 16778240"),
        (|h| h.setup_sects = 9, "cut off"),
    ];
    for (change, words) in wrong {
        let mut header = header();
        change(&mut header);
        let text = error(&bzimage(header));
        assert!(text.contains(words), "{words}: {text}");
    }
    let whole = bzimage(header());
    assert!(error(&whole[..0x220]).contains("cut off in its header"));
    assert!(error(&whole[..1024]).contains("cut off"), "{}", error(&whole[..1024]));
}

fn hostile_header() -> impl Strategy<Value = setup_header> {
    let bytes = proptest::collection::vec(any::<u8>(), size_of::<setup_header>());
    // Mostly sound, so that all checks are reached.
    let spoiled = proptest::collection::vec((0..size_of::<setup_header>(), any::<u8>()), 0..8);
    let extreme =
        prop_oneof![Just(0u64), Just(1 << 20), Just(31 << 20), Just(u64::MAX), any::<u64>()];
    (bytes, spoiled, extreme, any::<u32>(), 0..3u8).prop_map(|(bytes, spoiled, at, size, kind)| {
        let mut header = header();
        match kind {
            0 => header.as_mut_slice().copy_from_slice(&bytes),
            1 => spoiled.iter().for_each(|(i, byte)| header.as_mut_slice()[*i] = *byte),
            _ => (header.pref_address, header.init_size, header.kernel_alignment) = (at, size, 1),
        }
        header.header = u32::from_le_bytes(*b"HdrS");
        header
    })
}

proptest! {
    /// Memory that is not there cannot be written; what is below a kernel must not be, either.
    #[test]
    fn no_header_panics_or_loads_below_a_megabyte(header in hostile_header(), cut in 0..6000usize, above in any::<bool>()) {
        let mut image = bzimage(header);
        image.truncate(cut.max(0x270));
        let (_file, image) = file(&image);
        let memory = if above { much_memory() } else { memory() };
        match load(&memory, &image, None, "quiet", b"tables") {
            Ok(Entry::Linux(entry)) => {
                prop_assert!((layout::KERNEL_MIN..BYTES).contains(&entry));
                prop_assert_eq!(string(&memory, layout::ACPI_TABLES.start), "tables");
            }
            Ok(entry) => prop_assert!(false, "{:?}", entry),
            Err(why) => prop_assert_ne!(format!("{why:#}"), ""),
        }
    }

    #[test]
    fn no_elf_header_panics(spoiled in proptest::collection::vec((0..120usize, any::<u8>()), 0..12), cut in 0..121usize) {
        let mut image = elf_of(1 << 20);
        spoiled.iter().for_each(|(i, byte)| image[*i] = *byte);
        image.truncate(cut);
        let (_file, image) = file(&image);
        let _ = load(&memory(), &image, None, "", &[]);
    }
}
