//! Tables parsed back as a kernel does, and by iasl where that is installed.

use std::process::{Command, Stdio};

use super::*;

#[path = "../../../../lib/nm-cli/tests/skip/mod.rs"]
mod skipping;

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn address(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The table at an address: as long as it says, with a right checksum.
fn table(image: &[u8], at: u64) -> &[u8] {
    let from = (at - layout::ACPI_TABLES.start) as usize;
    let table = &image[from..][..word(image, from + 4) as usize];
    assert!(from.is_multiple_of(ALIGN) && sum(table) == 0, "{:?}", &table[..4]);
    table
}

/// All tables that the RSDP leads to, the DSDT last.
fn all(image: &[u8]) -> Vec<&[u8]> {
    assert_eq!((&image[..8], image[15]), (&b"RSD PTR "[..], 2));
    assert_eq!((sum(&image[..20]), sum(&image[..36])), (0, 0));
    let xsdt = table(image, address(image, 24));
    assert_eq!(&xsdt[..4], b"XSDT");
    let mut tables: Vec<&[u8]> =
        xsdt[36..].chunks(8).map(|entry| table(image, address(entry, 0))).collect();
    let fadt = tables.iter().find(|table| table.starts_with(b"FACP")).expect("a FADT");
    tables.push(table(image, address(fadt, 140)));
    tables
}

#[test]
fn tables_are_whole_and_say_what_the_layout_has() {
    for vcpus in 1..=layout::VCPUS_MAX {
        let image = tables(vcpus);
        assert!(image.len() as u64 <= layout::ACPI_TABLES.end - layout::ACPI_TABLES.start);
        let all = all(&image);
        let names: Vec<&[u8]> = all.iter().map(|table| &table[..4]).collect();
        assert_eq!(names, [b"FACP", b"APIC", b"MCFG", b"DSDT"]);
        let fadt = all[0];
        assert_eq!((fadt.len(), fadt[8]), (276, 6));
        assert_eq!(word(fadt, 112) & 1 << 20, 0, "not hardware-reduced");
        assert_eq!((word(fadt, 56), word(fadt, 64)), (0x600, 0x604));
        assert_eq!(
            (fadt[46], fadt[88], fadt[89], fadt[91]),
            (9, 4, 2, 0),
            "SCI, lengths, no timer"
        );
        assert_eq!((fadt[109], address(fadt, 120), fadt[128]), (0x25, 0xcf9, 6));
        let madt = all[1];
        assert_eq!((word(madt, 36), word(madt, 40)), (0xfee0_0000, 1));
        let ids: Vec<(u8, u8)> =
            madt[44..].chunks(8).take(vcpus).map(|apic| (apic[0], apic[3])).collect();
        assert_eq!(ids, (0..vcpus as u8).map(|id| (0, id)).collect::<Vec<_>>());
        let ioapic = &madt[44 + 8 * vcpus..];
        assert_eq!((ioapic[0], word(ioapic, 4), word(ioapic, 8)), (1, 0xfec0_0000, 0));
        assert_eq!(madt.len(), 44 + 8 * vcpus + 12 + 6);
        assert_eq!(address(all[2], 44), layout::ECAM.start);
    }
}

/// In AML: a doubleword, two zeros, a byte. The interrupt line in a NIC's configuration is the same, for who reads that.
#[test]
fn routes_of_all_slots_lead_to_the_lines_of_their_nics_and_not_to_acpi() {
    let dsdt = dsdt::dsdt();
    for index in 0..layout::NICS_MAX {
        let (slot, gsi) = (layout::slot(index), layout::irq(index));
        let route = [0x0c, 0xff, 0xff, slot, 0, 0, 0, 0x0a, gsi];
        assert!(dsdt.windows(route.len()).any(|bytes| bytes == route), "{slot} to {gsi}");
        assert!(gsi != layout::SCI && u32::from(gsi) != layout::COM1_IRQ);
        assert_ne!(layout::level_triggered()[usize::from(gsi / 8)] & 1 << (gsi % 8), 0);
    }
}

#[test]
fn iasl_reads_every_table_and_finds_the_devices() {
    const NAME: &str = "iasl_reads_every_table_and_finds_the_devices";
    if Command::new("iasl").arg("-v").stdout(Stdio::null()).status().is_err() {
        skipping::skip(NAME, "iasl is not installed (acpica-tools)");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let image = tables(2);
    let mut text = String::new();
    for table in all(&image) {
        let name = String::from_utf8_lossy(&table[..4]).to_lowercase();
        let path = dir.path().join(format!("{name}.dat"));
        std::fs::write(&path, table).expect("room");
        let read = Command::new("iasl").arg("-d").arg(&path).output().expect("iasl runs");
        let talk = [read.stdout, read.stderr].map(|out| String::from_utf8_lossy(&out).into_owned());
        assert!(read.status.success(), "{name}: {talk:?}");
        let wrong = ["Invalid", "Error", "Warning", "incorrect"];
        assert!(!talk.iter().any(|talk| wrong.iter().any(|w| talk.contains(w))), "{talk:?}");
        text += &std::fs::read_to_string(path.with_extension("dsl")).expect("its text");
    }
    for part in [
        "EisaId (\"PNP0A03\")",
        "EisaId (\"PNP0501\")",
        "\"QEMU0001\"",
        "_S5",
        "_PRT",
        "Hardware Reduced (V5) : 0",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // What it has read, it can make again.
    let dsdt = dir.path().join("dsdt.dsl");
    let made = Command::new("iasl").arg(&dsdt).output().expect("iasl runs");
    let talk = String::from_utf8_lossy(&made.stdout);
    assert!(made.status.success() && talk.contains(" 0 Errors, 0 Warnings"), "{talk}");
}
