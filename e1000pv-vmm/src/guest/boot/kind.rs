//! What a file is that was given as a kernel and is none that can be booted: known by the marks at its beginning.
//!
//! Invariant: only words come of this. What is no mark of another kind is left to the loaders.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// As far as marks lie.
const BEGIN: usize = 0x210;

/// What to do with a kernel that is packed.
const UNPACK: &str = "boot the vmlinux in it: scripts/extract-vmlinux of Linux's sources unpacks it, as in \
                      `extract-vmlinux FILE > vmlinux`";

/// Why the file cannot be booted, if it is of a kind that is known and not the right one.
pub fn wrong_kind(file: &File) -> Option<String> {
    let mut begin = [0; BEGIN];
    let mut have = 0;
    while let Ok(n @ 1..) = file.read_at(&mut begin[have..], have as u64) {
        have += n;
    }
    wrong(&begin[..have])
}

fn wrong(begin: &[u8]) -> Option<String> {
    let marked =
        |at: usize, mark: &[u8]| begin.get(at..).is_some_and(|rest| rest.starts_with(mark));
    let packed = [
        (&b"\x1f\x8b"[..], "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x02\x21\x4c\x18", "lz4"),
        (b"BZh", "bzip2"),
    ];
    if marked(0x202, b"HdrS") {
        return None;
    }
    if marked(0, b"MZ") && marked(4, b"zimg") {
        return Some(format!("it is a packed EFI image; {UNPACK}"));
    }
    if marked(0x38, b"ARM\x64") || marked(0x38, b"RSC\x05") {
        return Some("it is a kernel for another processor; this machine is x86-64".to_owned());
    }
    if marked(0, b"MZ") {
        return Some("it is an EFI program, and the machine has no firmware".to_owned());
    }
    if marked(0, b"070701") {
        return Some("it is an initial RAM disk, for --initrd".to_owned());
    }
    if let Some((_, by)) = packed.iter().find(|(mark, _)| marked(0, mark)) {
        return Some(format!(
            "it is packed by {by}: unpack it first; if it is an initial RAM disk, it is for --initrd"
        ));
    }
    if !marked(0, b"\x7fELF") {
        return None;
    }
    match (begin.get(4), begin.get(18..20)) {
        (Some(1), _) => Some("it is a 32-bit ELF image; 64-bit ones are booted".to_owned()),
        (_, Some(machine)) if machine != [62, 0] => {
            Some("it is an ELF image for another processor; this machine is x86-64".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(marks: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; BEGIN];
        for (at, mark) in marks {
            bytes[*at..at + mark.len()].copy_from_slice(mark);
        }
        bytes
    }

    #[test]
    fn kinds_are_told_by_name_and_with_what_to_do() {
        for (begin, parts) in [
            (at(&[(0, b"MZ\0\0zimg")]), ["EFI", "extract-vmlinux"]),
            (at(&[(0, b"MZ")]), ["EFI program", "no firmware"]),
            (at(&[(0, b"MZ"), (0x38, b"ARM\x64")]), ["another processor", "x86-64"]),
            (b"070701".to_vec(), ["RAM disk", "--initrd"]),
            (b"\x1f\x8b\x08".to_vec(), ["gzip", "unpack"]),
            (b"\x28\xb5\x2f\xfd".to_vec(), ["zstd", "--initrd"]),
            (b"\x7fELF\x01\x01".to_vec(), ["32-bit", "64-bit"]),
            (at(&[(0, b"\x7fELF\x02"), (18, &[183])]), ["another processor", "x86-64"]),
        ] {
            let text = wrong(&begin).unwrap_or_else(|| panic!("{parts:?}"));
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
    }

    #[test]
    fn what_may_be_booted_and_what_is_unknown_is_left_to_the_loader() {
        for begin in [
            at(&[(0, b"\x7fELF\x02"), (18, &[62])]),
            at(&[(0, b"MZ"), (0x202, b"HdrS")]),
            at(&[(0x202, b"HdrS")]),
            vec![],
            b"\x7fELF".to_vec(),
            at(&[]),
        ] {
            assert_eq!(wrong(&begin), None);
        }
    }
}
