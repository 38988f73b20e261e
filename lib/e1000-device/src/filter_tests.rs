//! Filters against registers as a driver sets them.

use proptest::prelude::*;

use super::*;

const OWN: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
const OTHER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];
const GROUP: [u8; 6] = [0x01, 0x00, 0x5E, 0x01, 0x02, 0x03];
const BROADCAST: [u8; 6] = [0xFF; 6];

fn set_address(r: &Registers, index: u32, mac: [u8; 6], bits: u32) {
    r.store(regs::RAL + 8 * index, u32::from_le_bytes([mac[0], mac[1], mac[2], mac[3]]));
    r.store(regs::RAH + 8 * index, u32::from_le_bytes([mac[4], mac[5], 0, 0]) | bits);
}

fn registers(rctl: Rctl) -> Registers {
    let r = Registers::new();
    set_address(&r, 0, OWN, Rah::AV.bits());
    r.store(regs::RCTL, rctl.bits());
    r
}

fn header(destination: [u8; 6], tag: Option<u16>) -> [u8; HEADER_BYTES] {
    let mut h = [0; HEADER_BYTES];
    h[..6].copy_from_slice(&destination);
    h[6..12].copy_from_slice(&[0x02, 0, 0, 0, 0, 0x99]);
    match tag {
        Some(tag) => {
            h[12..14].copy_from_slice(&[0x81, 0x00]);
            h[14..16].copy_from_slice(&tag.to_be_bytes());
            h[16..18].copy_from_slice(&[0x08, 0x00]);
        }
        None => h[12..14].copy_from_slice(&[0x08, 0x00]),
    }
    h
}

fn passes(r: &Registers, destination: [u8; 6]) -> bool {
    accepts(r, &header(destination, None))
}

#[test]
fn only_the_own_address_passes_without_further_bits() {
    let r = registers(Rctl::EN);
    assert!(passes(&r, OWN));
    assert!(!passes(&r, OTHER));
    assert!(!passes(&r, GROUP));
    assert!(!passes(&r, BROADCAST));
}

#[test]
fn invalid_address_matches_nothing() {
    let r = registers(Rctl::EN);
    set_address(&r, 0, OWN, 0);
    assert!(!passes(&r, OWN));
}

#[test]
fn promiscuous_bits_open_their_kind_of_address() {
    let r = registers(Rctl::UPE);
    assert!(passes(&r, OTHER) && !passes(&r, GROUP) && !passes(&r, BROADCAST));
    let r = registers(Rctl::MPE);
    assert!(!passes(&r, OTHER) && passes(&r, GROUP) && passes(&r, BROADCAST));
    let r = registers(Rctl::BAM);
    assert!(!passes(&r, OTHER) && !passes(&r, GROUP) && passes(&r, BROADCAST));
}

#[test]
fn all_sixteen_addresses_count_and_select_source_or_destination() {
    for index in 0..16 {
        let r = registers(Rctl::EN);
        set_address(&r, index, OTHER, Rah::AV.bits());
        assert!(passes(&r, OTHER), "{index}");
        set_address(&r, index, [0x02, 0, 0, 0, 0, 0x99], Rah::AV.bits() | 1 << 16);
        assert!(passes(&r, [2, 2, 2, 2, 2, 2]), "{index} by source");
        set_address(&r, index, OTHER, Rah::AV.bits() | 2 << 16);
        assert!(!passes(&r, OTHER), "{index} by a reserved value");
    }
}

/// The hash as drivers compute it, for each value of MO.
#[test]
fn multicast_table_is_indexed_as_drivers_do_for_every_offset() {
    let (a4, a5) = (u32::from(GROUP[4]), u32::from(GROUP[5]));
    let hashes = [a4 >> 4 | a5 << 4, a4 >> 3 | a5 << 5, a4 >> 2 | a5 << 6, a4 | a5 << 8];
    for (mo, hash) in (0..).zip(hashes) {
        let r = registers(Rctl::from_bits_retain(mo << 12));
        let hash = hash & 0xFFF;
        assert!(!passes(&r, GROUP));
        r.store(regs::MTA + 4 * (hash >> 5), 1 << (hash & 31));
        assert!(passes(&r, GROUP), "MO {mo}");
        assert!(!passes(&r, [0x01, 0, 0x5E, 0x01, 0x02, 0x04]), "MO {mo}, another address");
    }
}

#[test]
fn vlan_filter_passes_untagged_and_listed_tags_only() {
    let r = registers(Rctl::EN | Rctl::VFE);
    let tagged = |tag| accepts(&r, &header(OWN, Some(tag)));
    assert!(passes(&r, OWN));
    assert!(!tagged(100));
    r.store(regs::VFTA + 4 * (100 >> 5), 1 << (100 & 31));
    assert!(tagged(100) && tagged(0xE000 | 100) && !tagged(101));
    assert!(!accepts(&r, &header(OTHER, Some(100))), "a tag does not make up for the address");
    r.store(regs::RCTL, (Rctl::VFE | Rctl::CFIEN).bits());
    assert!(tagged(100) && !tagged(0x1000 | 100));
    r.store(regs::RCTL, (Rctl::VFE | Rctl::CFIEN | Rctl::CFI).bits());
    assert!(!tagged(100) && tagged(0x1000 | 100));
}

#[test]
fn tags_are_found_by_vet_and_go_into_frames_with_vme_only() {
    let r = registers(Rctl::EN);
    let h = header(OWN, Some(0x2064));
    assert_eq!(insert(&r, 7), None);
    r.store(regs::CTRL, Ctrl::VME.bits());
    assert_eq!(tag(&r, &h), Some(0x2064));
    assert_eq!(tag(&r, &header(OWN, None)), None);
    assert_eq!(insert(&r, 0x2064), Some([0x81, 0x00, 0x20, 0x64]));
    r.store(regs::VET, 0x88A8);
    assert_eq!(tag(&r, &h), None);
    assert_eq!(insert(&r, 1), Some([0x88, 0xA8, 0, 1]));
}

proptest! {
    #[test]
    fn any_registers_and_header_are_decided(words: [u32; 6], h: [u8; HEADER_BYTES]) {
        let r = Registers::new();
        for (offset, word) in [regs::RCTL, regs::VET, regs::RAL, regs::RAH, regs::MTA, regs::CTRL]
            .into_iter()
            .zip(words)
        {
            r.store(offset, word);
        }
        let both = Rctl::UPE | Rctl::MPE;
        let open = accepts(&r, &h);
        r.store(regs::RCTL, (words[0] | both.bits()) & !Rctl::VFE.bits());
        prop_assert!(accepts(&r, &h), "promiscuous, and it was {open} before");
    }
}
