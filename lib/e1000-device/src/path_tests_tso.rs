//! Segmentation, and the two contexts of offloads.

use super::*;

/// A TCP packet of so many bytes of payload, with 54 bytes of headers, to be cut up by `mss`.
fn segmented(rig: &mut Rig, payload: usize, mss: u16) -> Vec<u8> {
    let mut all = frame(54 + payload);
    all[12..15].copy_from_slice(&[8, 0, 0x45]);
    all[23] = 6;
    let context = ContextTx {
        ipcss: 14,
        ipcso: 24,
        ipcse: 33,
        tucss: 34,
        tucso: 50,
        tucse: 0,
        paylen: payload as u32,
        tucmd: TxCmd::TCP | TxCmd::IP | TxCmd::TSE | TxCmd::DEXT,
        hdrlen: 54,
        mss,
        ..ContextTx::default()
    };
    rig.push(context.to_bytes());
    let at = rig.place(0, &all);
    let part = all.len() / 2;
    for (offset, len, cmd) in
        [(0, part, TxCmd::empty()), (part, all.len() - part, TxCmd::EOP | TxCmd::RS)]
    {
        let data = DataTx {
            buffer_addr: at + offset as u64,
            dtalen: len as u32,
            dcmd: cmd | TxCmd::DEXT | TxCmd::TSE,
            popts: Popts::IXSM | Popts::TXSM,
            ..DataTx::default()
        };
        rig.push(data.to_bytes());
    }
    all
}

fn payloads(sent: &[Vec<u8>]) -> Vec<u8> {
    sent.iter().flat_map(|segment| segment[54..].to_vec()).collect()
}

#[test]
fn segments_carry_the_whole_payload_in_order() {
    let mut rig = Rig::plain();
    let all = segmented(&mut rig, 4000, 1460);
    let sent = rig.send();
    assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), [1514, 1514, 1134]);
    assert_eq!(payloads(&sent), &all[54..]);
    assert_eq!((rig.read(regs::TSCTC), rig.read(regs::TDH)), (1, 3));
}

#[test]
fn segments_without_a_place_for_their_vlan_tag_are_dropped_and_counted() {
    for hdrlen in 0..14 {
        let mut rig = Rig::plain();
        rig.write(regs::CTRL, Ctrl::VME.bits());
        let tucmd = TxCmd::TCP | TxCmd::IP | TxCmd::TSE | TxCmd::DEXT;
        rig.push(ContextTx { tucmd, hdrlen, mss: 1, ..ContextTx::default() }.to_bytes());
        let buffer_addr = rig.place(0, &frame(60));
        let dcmd = TxCmd::EOP | TxCmd::DEXT | TxCmd::TSE | TxCmd::VLE | TxCmd::RS;
        rig.push(DataTx { buffer_addr, dtalen: 60, dcmd, ..DataTx::default() }.to_bytes());
        assert_eq!(rig.send(), [[0; 0]; 0], "{hdrlen}");
        assert_eq!((rig.counter(Count::TxBad), rig.read(regs::TSCTFC)), (1, 1), "{hdrlen}");
        assert_eq!(rig.read(regs::TDH), 2, "{hdrlen}");
    }
}

#[test]
fn more_segments_than_the_port_has_slots_are_sent_in_turns() {
    let mut rig = Rig::plain();
    let all = segmented(&mut rig, 4000, 20);
    rig.nic.with_port(|port| port.take_next(10));
    rig.nic.with_port(|port| port.take_next(0));
    rig.write(regs::TDT, rig.tail);
    rig.nic.round(0);
    assert!(!rig.is_done(2), "the port has not taken it all");
    let sent = rig.send();
    assert_eq!((sent.len(), rig.read(regs::GPTC)), (200, 200));
    assert_eq!(payloads(&sent), &all[54..]);
    assert!(rig.is_done(2));
}

#[test]
fn impossible_segmentation_is_dropped() {
    let mut rig = Rig::plain();
    segmented(&mut rig, 100, 0);
    assert!(rig.send().is_empty());
    assert_eq!((rig.read(regs::TSCTFC), rig.counter(Count::TxBad)), (1, 1));
}

/// A UDP packet of 100 bytes whose checksum is left to the device, and its place.
fn udp(rig: &mut Rig, at: u64) -> Vec<u8> {
    let mut all = frame(100);
    all[12..15].copy_from_slice(&[8, 0, 0x45]);
    all[23] = 17;
    all[40..42].fill(0);
    all[60..62].fill(0);
    let buffer_addr = rig.place(at, &all);
    let (dcmd, popts) = (LAST | TxCmd::DEXT, Popts::TXSM);
    rig.push(DataTx { buffer_addr, dtalen: 100, dcmd, popts, ..DataTx::default() }.to_bytes());
    all
}

#[test]
fn contexts_with_and_without_segmentation_hold_side_by_side() {
    let mut rig = Rig::plain();
    let tucmd = TxCmd::IP | TxCmd::DEXT;
    let checksums = ContextTx { tucss: 34, tucso: 40, tucmd, ..ContextTx::default() };
    rig.push(checksums.to_bytes());
    let all = segmented(&mut rig, 2000, 1000);
    let first = udp(&mut rig, 0x4000);
    let sent = rig.send();
    assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), [1054, 1054, 100]);
    assert_eq!(payloads(&sent[..2]), &all[54..]);
    assert_eq!((&sent[2][..40], &sent[2][42..]), (&first[..40], &first[42..]));
    assert_eq!(ones(&sent[2][34..]), 0xffff, "at the place of the context without segmentation");
    // A second context of either kind leaves the other as it was.
    rig.push(ContextTx { tucso: 60, ..checksums }.to_bytes());
    let at = rig.place(0, &all);
    let data = DataTx {
        buffer_addr: at,
        dtalen: 2054,
        dcmd: LAST | TxCmd::DEXT | TxCmd::TSE,
        popts: Popts::IXSM | Popts::TXSM,
        ..DataTx::default()
    };
    rig.push(data.to_bytes());
    udp(&mut rig, 0x4000);
    let again = rig.send();
    assert_eq!(again[..2], sent[..2]);
    assert_eq!((ones(&again[2][34..]), &again[2][40..42]), (0xffff, &[0; 2][..]));
    assert_eq!(rig.counter(Count::TxBad), 0);
}

/// The sum of words in ones' complement; of a packet with its checksum, all ones.
fn ones(bytes: &[u8]) -> u32 {
    let sum = bytes.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum::<u32>();
    (sum & 0xffff) + (sum >> 16)
}

#[test]
fn tag_of_a_packet_is_its_first_descriptors_with_segmentation_and_else_its_last_ones() {
    for (tse, inserted) in [(TxCmd::TSE, 1), (TxCmd::empty(), 2)] {
        let mut rig = Rig::plain();
        rig.write(regs::CTRL, Ctrl::VME.bits());
        let tucmd = TxCmd::TSE | TxCmd::DEXT | TxCmd::IP | TxCmd::TCP;
        let (paylen, hdrlen, mss) = (46, 54, 1000);
        let context = ContextTx { tucmd, paylen, hdrlen, mss, ..ContextTx::default() };
        rig.push(context.to_bytes());
        let buffer_addr = rig.place(0, &frame(100));
        let dcmd = TxCmd::DEXT | TxCmd::VLE | tse;
        let half = DataTx { buffer_addr, dtalen: 50, dcmd, special: 1, ..DataTx::default() };
        rig.push(half.to_bytes());
        let last = DataTx { buffer_addr: buffer_addr + 50, dcmd: dcmd | LAST, special: 2, ..half };
        rig.push(last.to_bytes());
        assert_eq!(rig.send()[0][12..16], [0x81, 0, 0, inserted]);
    }
}

#[test]
fn packet_that_ends_elsewhere_than_its_context_says_is_sent_and_counted() {
    let mut rig = Rig::plain();
    let all = segmented(&mut rig, 300, 100);
    // The same data with one byte less.
    let data = DataTx {
        buffer_addr: BUFFERS,
        dtalen: 353,
        dcmd: LAST | TxCmd::DEXT | TxCmd::TSE,
        ..DataTx::default()
    };
    rig.push(data.to_bytes());
    let sent = rig.send();
    assert_eq!(payloads(&sent[..3]), &all[54..]);
    assert_eq!(payloads(&sent[3..]), &all[54..353]);
    assert_eq!((rig.read(regs::TSCTC), rig.read(regs::TSCTFC)), (1, 1));
}
