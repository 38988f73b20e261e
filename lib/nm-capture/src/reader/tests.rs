//! Tests of the reader: both formats in both byte orders, cut and hostile files, streams
//! that trickle, other link types, and arbitrary bytes.

use std::io::{self, Cursor, ErrorKind, Write};

use proptest::prelude::*;

use super::*;
use crate::pcap::{MAGIC_MICROS, MAGIC_MODIFIED, MAGIC_NANOS};
use crate::writer::{append_record, file_header};
use crate::{MAX_FRAME, MAX_SNAPLEN};

mod packed;

/// Words of a file in its byte order.
fn words(words: &[u32], big: bool) -> Vec<u8> {
    words.iter().flat_map(|w| if big { w.to_be_bytes() } else { w.to_le_bytes() }).collect()
}

fn halves(halves: &[u16], big: bool) -> Vec<u8> {
    halves.iter().flat_map(|h| if big { h.to_be_bytes() } else { h.to_le_bytes() }).collect()
}

/// A classic file header, snaplen 65535.
fn header(magic: u32, minor: u16, link: u32, big: bool) -> Vec<u8> {
    let mut bytes = words(&[magic], big);
    bytes.extend(halves(&[2, minor], big));
    bytes.extend(words(&[0, 0, 65535, link], big));
    bytes
}

/// A pcapng block.
fn block(kind: u32, body: &[u8], big: bool) -> Vec<u8> {
    let total = body.len().next_multiple_of(4) as u32 + 12;
    let mut bytes = words(&[kind, total], big);
    bytes.extend(body);
    bytes.resize(total as usize - 4, 0);
    bytes.extend(words(&[total], big));
    bytes
}

fn section(big: bool) -> Vec<u8> {
    let mut body = words(&[0x1a2b_3c4d], big);
    body.extend(halves(&[1, 0], big));
    body.extend([0xff; 8]);
    block(pcapng::SECTION, &body, big)
}

/// Options, their end included.
fn options(given: &[(u16, &[u8])], big: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (code, value) in given {
        bytes.extend(halves(&[*code, value.len() as u16], big));
        bytes.extend(*value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes.extend([0; 4]);
    bytes
}

fn interface(link: u16, given: &[(u16, &[u8])], big: bool) -> Vec<u8> {
    let mut body = halves(&[link, 0], big);
    body.extend(words(&[0], big));
    body.extend(options(given, big));
    block(1, &body, big)
}

/// An enhanced packet block.
fn enhanced(
    number: u32,
    ticks: u64,
    wire: u32,
    data: &[u8],
    given: &[(u16, &[u8])],
    big: bool,
) -> Vec<u8> {
    let len = data.len() as u32;
    let mut body = words(&[number, (ticks >> 32) as u32, ticks as u32, len, wire], big);
    body.extend(data);
    body.resize(body.len().next_multiple_of(4), 0);
    body.extend(options(given, big));
    block(6, &body, big)
}

/// Time, length on the wire, data.
type Seen = (Duration, u32, Vec<u8>);

/// Everything that a reader gives, what it noted, and how it ended.
fn read_with(
    input: impl Read + Send + 'static,
    options: Options,
) -> (Vec<Seen>, Notes, Result<()>) {
    let mut packets = Vec::new();
    let mut reader = match Reader::new(input, options) {
        Ok(reader) => reader,
        Err(error) => return (packets, Notes::default(), Err(error)),
    };
    loop {
        match reader.next() {
            Ok(Some(packet)) => packets.push((packet.ts, packet.orig_len, packet.data.to_vec())),
            Ok(None) => return (packets, *reader.notes(), Ok(())),
            Err(error) => {
                assert!(reader.next().unwrap().is_none(), "an error is not repeated");
                return (packets, *reader.notes(), Err(error));
            }
        }
    }
}

fn read_all(bytes: &[u8]) -> (Vec<Seen>, Result<()>) {
    let (packets, _, end) = read_with(Cursor::new(bytes.to_vec()), Options::default());
    (packets, end)
}

fn error_of(bytes: &[u8]) -> String {
    read_all(bytes).1.unwrap_err().to_string()
}

/// A file of our own with these packets, a second apart.
fn file(packets: &[&[u8]]) -> Vec<u8> {
    let mut file = file_header(MAX_SNAPLEN).to_vec();
    for (n, data) in (1..).zip(packets) {
        append_record(&mut file, MAX_SNAPLEN, Duration::from_secs(n), data.len() as u32, data);
    }
    file
}

#[test]
fn classic_magics_and_byte_orders_give_the_same_packet() {
    for big in [false, true] {
        for (magic, fraction) in [(MAGIC_MICROS, 5), (MAGIC_NANOS, 5000), (MAGIC_MODIFIED, 5)] {
            let mut file = header(magic, 4, 1, big);
            file.extend(words(&[3, fraction, 4, 1514], big));
            if magic == MAGIC_MODIFIED {
                file.extend([9; 8]);
            }
            file.extend(b"abcd");
            let (packets, end) = read_all(&file);
            let expected = (Duration::new(3, 5000), 1514, b"abcd".to_vec());
            assert_eq!(packets, [expected], "magic {magic:x}, big-endian {big}");
            end.unwrap();
        }
    }
}

#[test]
fn lengths_of_old_versions_are_exchanged() {
    for (minor, lengths) in [(2, [1514, 4]), (3, [1514, 4]), (3, [4, 1514]), (4, [4, 1514])] {
        let mut file = header(MAGIC_MICROS, minor, 1, false);
        file.extend(words(&[3, 0, lengths[0], lengths[1]], false));
        file.extend(b"abcd");
        assert_eq!(
            read_all(&file).0,
            [(Duration::from_secs(3), 1514, b"abcd".to_vec())],
            "2.{minor}"
        );
    }
}

#[test]
fn file_cut_anywhere_gives_whole_packets_then_an_error() {
    let classic = file(&[&[1; 10], &[2; 20]]);
    let mut ng = section(true);
    ng.extend(interface(1, &[], true));
    let head = ng.len();
    ng.extend(enhanced(0, 1, 10, &[1; 10], &[], true));
    let one = ng.len();
    ng.extend(block(0xbad, &[0; 30], true));
    let other = ng.len();
    ng.extend(enhanced(0, 2, 20, &[2; 20], &[], true));
    let bounds = [vec![24, 50, 86], vec![28, head, one, other, ng.len()]];
    let packet_ends = [[50, 86], [one, ng.len()]];
    for (file, (bounds, packet_ends)) in [classic, ng].iter().zip(bounds.iter().zip(packet_ends)) {
        for cut in 0..=file.len() {
            let (packets, end) = read_all(&file[..cut]);
            assert_eq!(
                packets.len(),
                packet_ends.iter().filter(|end| cut >= **end).count(),
                "{cut}"
            );
            match bounds.contains(&cut) {
                true => end.unwrap(),
                false => {
                    let text = end.unwrap_err().to_string();
                    assert!(text.contains("cut off") || text.contains("it ends after"), "{text}");
                }
            }
        }
    }
}

#[test]
fn hostile_lengths_are_refused_before_they_are_allocated() {
    for len in [MAX_SNAPLEN + 1, u32::MAX] {
        let mut file = header(MAGIC_MICROS, 4, 1, false);
        file.extend(words(&[0, 0, len, len], false));
        let text = error_of(&file);
        assert!(text.contains("byte 24") && text.contains("corrupt"), "{text}");
    }
    for (total, part) in [(0, "length of 0"), (29, "length of 29"), (u32::MAX - 3, "never written")]
    {
        let mut file = section(false);
        file.extend(words(&[1, total, 1, 0, 0, 0], false));
        let text = error_of(&file);
        assert!(text.contains("byte 28") && text.contains(part), "{text}");
    }
    // A block that claims 16 MiB and has 8 bytes costs what it has.
    let mut file = section(false);
    file.extend(words(&[6, 16 << 20], false));
    let mut reader = Reader::new(Cursor::new(file), Options::default()).unwrap();
    assert_eq!(reader.advance().unwrap(), Next::Other);
    let text = reader.advance().unwrap_err().to_string();
    assert!(text.contains("has 8 of its 16777216 bytes"), "{text}");
    // A packet that claims more than its block holds.
    let mut file = section(false);
    file.extend(interface(1, &[], false));
    file.extend(block(6, &words(&[0, 0, 0, 100, 100, 7], false), false));
    let text = error_of(&file);
    assert!(text.contains("claims 100 bytes in a block of 36"), "{text}");
}

#[test]
fn cut_file_and_corrupt_file_are_different_kinds() {
    use crate::{Corruption, Damage, Part};
    let damage = |file: &[u8]| match read_all(file).1 {
        Err(crate::Error::Damaged { damage, .. }) => damage,
        other => panic!("{other:?}"),
    };
    let mut file = header(MAGIC_MICROS, 4, 1, false);
    file.extend(words(&[0, 0, 60, 60, 7], false));
    assert_eq!(damage(&file), Damage::Cut { part: Part::Record, at: 24, got: 4, of: 60 });
    let mut file = header(MAGIC_MICROS, 4, 1, false);
    file.extend(words(&[0, 0, u32::MAX, 60], false));
    let what = Corruption::TooLong { claimed: u32::MAX, most: MAX_SNAPLEN };
    assert_eq!(damage(&file), Damage::Corrupt { part: Part::Record, at: 24, what });
    assert_eq!(damage(b""), Damage::Empty);
}

#[test]
fn blocks_that_contradict_themselves_are_refused() {
    let mut file = section(false);
    file.extend(interface(1, &[], false));
    let good = file.clone();
    *file.last_mut().unwrap() ^= 1;
    assert!(error_of(&file).contains("in front and of"), "{}", error_of(&file));
    let mut file = good.clone();
    file.extend(enhanced(1, 0, 1, &[1], &[], false));
    assert!(error_of(&file).contains("of interface 1, but the section has described 1"));
    let mut file = section(false);
    file[8] = 0;
    assert!(error_of(&file).contains("byte order"));
    let mut file = section(false);
    file[12] = 2;
    assert!(error_of(&file).contains("pcapng version 2"));
    let mut file = section(false);
    file.extend(interface(1, &[(9, &[40])], false));
    assert!(error_of(&file).contains("10^-40"), "{}", error_of(&file));
    // An interface of a section is not known in the next.
    let mut file = good;
    file.extend(section(false));
    file.extend(enhanced(0, 0, 1, &[1], &[], false));
    assert!(error_of(&file).contains("described 0"));
}

#[test]
fn interfaces_cannot_use_up_memory() {
    let mut file = section(false);
    let one = interface(1, &[], false);
    for _ in 0..=65_536 {
        file.extend(&one);
    }
    assert!(error_of(&file).contains("more than 65536 interfaces"));
}

#[test]
fn pcapng_sections_interfaces_and_times() {
    let mut file = Vec::new();
    for big in [false, true] {
        file.extend(section(big));
        file.extend(block(0x0bad_f00d, b"passed over", big));
        file.extend(interface(1, &[], big)); // microseconds
        let offset = if big { 100u64.to_be_bytes() } else { 100u64.to_le_bytes() };
        file.extend(interface(1, &[(2, b"eth1"), (9, &[9]), (14, &offset)], big));
        file.extend(interface(1, &[(9, &[0x8a])], big)); // 1/1024 s
        file.extend(enhanced(0, 2_000_003, 9, b"abc", &[], big));
        file.extend(enhanced(1, 2_000_000_007, 3, b"def", &[(1, b"a comment")], big));
        file.extend(enhanced(2, 3 * 1024 + 512, 3, b"ghi", &[], big));
        let mut simple = words(&[3], big);
        simple.extend(b"jkl");
        file.extend(block(3, &simple, big));
        let mut old = halves(&[0, 7], big);
        old.extend(words(&[0, 5_000_000, 3, 3], big));
        old.extend(b"mno");
        file.extend(block(2, &old, big));
    }
    let (packets, end) = read_all(&file);
    end.unwrap();
    let seen =
        |seconds, nanos, wire, data: &[u8]| (Duration::new(seconds, nanos), wire, data.to_vec());
    let expected = [
        seen(2, 3000, 9, b"abc"),
        seen(102, 7, 3, b"def"),
        seen(3, 500_000_000, 3, b"ghi"),
        seen(3, 500_000_000, 3, b"jkl"), // knows no time: that of the packet before
        seen(5, 0, 3, b"mno"),
    ];
    assert_eq!(packets[..5], expected);
    assert_eq!(packets[5..], expected);
}

#[test]
fn simple_packets_are_cut_at_the_capture_length() {
    let mut file = section(false);
    let mut body = halves(&[1, 0], false);
    body.extend(words(&[5], false));
    file.extend(block(1, &body, false));
    let mut simple = words(&[1514], false);
    simple.extend(b"abcde\0\0\0");
    file.extend(block(3, &simple, false));
    assert_eq!(read_all(&file).0, [(Duration::ZERO, 1514, b"abcde".to_vec())]);
}

#[test]
fn frame_check_sequences_are_cut_off_and_counted() {
    let mut classic = header(MAGIC_MICROS, 4, 0x2400_0001, false);
    for (len, wire) in [(64, 64), (62, 64), (60, 64), (20, 64)] {
        classic.extend(words(&[0, 0, len, wire], false));
        classic.extend(vec![7; len as usize]);
    }
    let mut ng = section(false);
    ng.extend(interface(1, &[(13, &[4])], false));
    ng.extend(interface(1, &[(13, &[32])], false)); // in bits, as in 2004
    ng.extend(interface(1, &[], false));
    ng.extend(enhanced(0, 0, 64, &[7; 64], &[], false));
    ng.extend(enhanced(1, 0, 64, &[7; 62], &[], false));
    ng.extend(enhanced(2, 0, 64, &[7; 60], &[(2, &[0x80, 0, 0, 0])], false));
    ng.extend(enhanced(0, 0, 64, &[7; 20], &[], false));
    for (file, with) in [(classic, 2), (ng, 2)] {
        let (packets, notes, end) = read_with(Cursor::new(file), Options::default());
        end.unwrap();
        let lens: Vec<(usize, u32)> = packets.iter().map(|p| (p.2.len(), p.1)).collect();
        assert_eq!(lens, [(60, 60), (60, 60), (60, 60), (20, 60)]);
        assert_eq!((notes.fcs, notes.cut), (with, 1));
    }
}

#[test]
fn records_that_are_no_frames_are_left_out_on_request() {
    let file = file(&[&[], &[1; 70_000], &[2; 60], &[3; MAX_FRAME]]);
    let (packets, notes, end) = read_with(Cursor::new(file.clone()), Options::frames(None));
    end.unwrap();
    assert_eq!(packets.len(), 2);
    assert_eq!((notes.empty, notes.oversized, notes.left_out()), (1, 1, 2));
    assert_eq!(read_all(&file).0.len(), 4, "whoever wants records gets all");
}

#[test]
fn fractions_beyond_a_second_are_counted_and_do_not_overflow() {
    let mut file = header(MAGIC_MICROS, 4, 1, false);
    file.extend(words(&[u32::MAX, u32::MAX, 1, 1], false));
    file.push(1);
    let (packets, notes, end) = read_with(Cursor::new(file), Options::default());
    end.unwrap();
    assert_eq!(packets[0].0.as_secs(), u64::from(u32::MAX) + 4294);
    assert_eq!(notes.fractions, 1);
    let mut ng = section(false);
    ng.extend(interface(1, &[(9, &[0]), (14, &i64::MAX.to_le_bytes())], false));
    ng.extend(enhanced(0, u64::MAX, 1, &[1], &[], false));
    ng.extend(interface(1, &[(9, &[0]), (14, &i64::MIN.to_le_bytes())], false));
    ng.extend(enhanced(1, 1, 1, &[1], &[], false));
    let (packets, end) = read_all(&ng);
    end.unwrap();
    assert_eq!(packets[1].0, Duration::ZERO, "before the epoch");
}

#[test]
fn other_files_are_named_with_the_way_out() {
    let sll = header(MAGIC_MICROS, 4, 113, false);
    let wifi = header(MAGIC_MICROS, 4, 127, false);
    let mut old = header(MAGIC_MICROS, 4, 1, false);
    old[4] = 1;
    let mut ng = section(false);
    ng.extend(interface(276, &[], false));
    assert!(read_all(&ng).1.is_ok(), "an interface without packets is no problem");
    ng.extend(enhanced(0, 0, 1, &[1], &[], false));
    let cases: [(&[u8], &[&str]); 9] = [
        (&sll, &["Linux cooked", "tcpdump -i any", "113", "--link-to-ethernet"]),
        (&ng, &["Linux cooked", "276", "--link-to-ethernet"]),
        (&wifi, &["Wi-Fi", "127", "cannot"]),
        (&old, &["version 1"]),
        (b"BZh91AY&SY", &["bzip2 -dc"]),
        (b"snoop\0\0\0", &["editcap"]),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", &["no pcap or pcapng file", "0x47455420"]),
        (b"", &["empty"]),
        (b"ab", &["it ends after 2 bytes"]),
    ];
    for (file, parts) in cases {
        let text = error_of(file);
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
    let error = Reader::open("/nonexistent/trace.pcap", Options::default()).unwrap_err();
    assert_eq!(error.to_string(), "Cannot open /nonexistent/trace.pcap");
}

/// Gives one byte a read, an interruption before each, and nothing for a while before some.
#[derive(Debug)]
struct Trickle {
    bytes: Vec<u8>,
    at: usize,
    turn: u32,
}

impl Read for Trickle {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.turn += 1;
        match self.turn % 3 {
            1 => return Err(ErrorKind::Interrupted.into()),
            2 => return Err(ErrorKind::WouldBlock.into()),
            _ => {}
        }
        let n = into.len().min(1).min(self.bytes.len() - self.at);
        into[..n].copy_from_slice(&self.bytes[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[test]
fn streams_that_trickle_lose_nothing() {
    let mut ng = section(false);
    ng.extend(interface(1, &[], false));
    ng.extend(block(0xbad, &[0; 30], false));
    ng.extend(enhanced(0, 1, 10, &[1; 10], &[], false));
    for bytes in [file(&[b"abc", b"defg"]), ng] {
        let whole = read_all(&bytes).0;
        let (packets, _, end) = read_with(Trickle { bytes, at: 0, turn: 0 }, Options::default());
        end.unwrap();
        assert_eq!(packets, whole);
    }
}

#[test]
fn a_packet_of_a_live_stream_is_there_when_its_last_byte_is() {
    let bytes = file(&[b"abc", b"defg"]);
    let (read, mut write) = io::pipe().unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&read));
    let mut reader = Reader::open(&path, Options::default()).unwrap();
    assert_eq!(reader.advance().unwrap(), Next::Pending, "not even a header");
    write.write_all(&bytes[..43]).unwrap();
    assert_eq!(reader.advance().unwrap(), Next::Packet);
    assert_eq!(reader.packet().data, b"abc");
    assert_eq!(reader.advance().unwrap(), Next::Pending);
    write.write_all(&bytes[43..]).unwrap();
    assert_eq!(reader.advance().unwrap(), Next::Packet);
    drop(write);
    assert!(reader.fd().is_some());
    assert_eq!(reader.advance().unwrap(), Next::End);
    assert!(reader.ended() && reader.fd().is_none());
}

#[test]
fn a_fifo_is_open_before_it_has_a_writer_and_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut reader = Reader::open(&path, Options::default()).unwrap();
    assert_eq!(reader.advance().unwrap(), Next::Pending);
    std::fs::write(&path, file(&[b"abc"])).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().data, b"abc");
    assert!(reader.next().unwrap().is_none());
}

mod links;

proptest! {
    #[test]
    fn written_then_read_is_the_same(
        packets in prop::collection::vec(
            (any::<u32>(), 0..1_000_000_000u32, any::<u16>(),
             prop::collection::vec(any::<u8>(), 0..200)), 0..20)
    ) {
        let mut file = file_header(MAX_SNAPLEN).to_vec();
        for (seconds, nanos, more, data) in &packets {
            let orig_len = data.len() as u32 + u32::from(*more);
            append_record(
                &mut file, MAX_SNAPLEN, Duration::new((*seconds).into(), *nanos), orig_len, data,
            );
        }
        let (read, end) = read_all(&file);
        prop_assert!(end.is_ok());
        let expected: Vec<_> = packets
            .into_iter()
            .map(|(seconds, nanos, more, data)| {
                (Duration::new(seconds.into(), nanos), data.len() as u32 + u32::from(more), data)
            })
            .collect();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn any_bytes_behind_any_header_end_without_panic(
        big in any::<bool>(), kind in 0..5,
        bytes in prop::collection::vec(any::<u8>(), 0..400)
    ) {
        let mut file = match kind {
            0 => header(MAGIC_NANOS, 4, 1, big),
            1 => header(MAGIC_MODIFIED, 4, 0x2400_0001, big),
            2 => [section(big), interface(1, &[(13, &[4])], big)].concat(),
            3 => header(MAGIC_MICROS, 4, 113, big),
            _ => Vec::new(),
        };
        file.extend(&bytes);
        crate::fuzz::capture(&file);
    }

    #[test]
    fn any_block_in_a_section_ends_without_panic(
        big in any::<bool>(),
        blocks in prop::collection::vec(
            (prop::sample::select(vec![1u32, 2, 3, 6, 0x0a0d_0d0a, 5]),
             prop::collection::vec(any::<u8>(), 0..80)), 0..6)
    ) {
        let mut file = [section(big), interface(1, &[], big)].concat();
        for (kind, body) in blocks {
            file.extend(block(kind, &body, big));
        }
        crate::fuzz::capture(&file);
    }
}
