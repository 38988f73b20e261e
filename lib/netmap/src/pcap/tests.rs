//! Tests of the pcap reader and writer: both magics and byte orders, cut and hostile files, round
//! trip, and arbitrary bytes.

use proptest::prelude::*;

use super::*;

/// A file header of the given magic and byte order, snaplen 65535, Ethernet.
fn file_header(magic: u32, big: bool) -> Vec<u8> {
    let mut bytes = words(&[magic], big);
    let version = [VERSION.0, VERSION.1];
    bytes.extend(version.map(|v| if big { v.to_be_bytes() } else { v.to_le_bytes() }).concat());
    bytes.extend(words(&[0, 0, 65535, 1], big));
    bytes
}

fn words(words: &[u32], big: bool) -> Vec<u8> {
    words.iter().flat_map(|w| if big { w.to_be_bytes() } else { w.to_le_bytes() }).collect()
}

/// Time, length on the wire, data.
type Record = (Duration, u32, Vec<u8>);

/// Everything that a reader gives, and how it ended.
fn read_all(bytes: &[u8]) -> (Vec<Record>, Result<()>) {
    let mut packets = Vec::new();
    let mut reader = match Reader::new(bytes) {
        Ok(reader) => reader,
        Err(error) => return (packets, Err(error)),
    };
    loop {
        match reader.next() {
            Ok(Some(packet)) => packets.push((packet.ts, packet.orig_len, packet.data.to_vec())),
            Ok(None) => return (packets, Ok(())),
            Err(error) => {
                assert!(reader.next().unwrap().is_none(), "an error is not repeated");
                return (packets, Err(error));
            }
        }
    }
}

#[test]
fn reader_both_magics_and_orders_give_same_packet() {
    for big in [false, true] {
        for (magic, fraction) in [(MAGIC_MICROS, 5), (MAGIC_NANOS, 5000)] {
            let mut file = file_header(magic, big);
            file.extend(words(&[3, fraction, 4, 1514], big));
            file.extend(b"abcd");
            let (packets, end) = read_all(&file);
            let expected = (Duration::new(3, 5000), 1514, b"abcd".to_vec());
            assert_eq!(packets, [expected], "magic {magic:x}, big-endian {big}");
            end.unwrap();
        }
    }
}

#[test]
fn reader_file_cut_anywhere_gives_whole_packets_then_an_error() {
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file, 0).unwrap();
    writer.write(Duration::from_secs(1), 10, &[1; 10]).unwrap();
    writer.write(Duration::from_secs(2), 20, &[2; 20]).unwrap();
    drop(writer);
    let whole = [24, 24 + 26, 24 + 26 + 36];
    assert_eq!(file.len(), whole[2]);
    for cut in 0..=file.len() {
        let (packets, end) = read_all(&file[..cut]);
        assert_eq!(packets.len(), whole[1..].iter().filter(|end| cut >= **end).count());
        match whole.contains(&cut) {
            true => end.unwrap(),
            false => {
                let text = end.unwrap_err().to_string();
                assert!(text.contains("cut off") || text.contains("it ends after"), "{text}");
            }
        }
    }
}

#[test]
fn reader_hostile_length_is_refused_before_it_is_allocated() {
    for len in [MAX_SNAPLEN + 1, u32::MAX] {
        let mut file = file_header(MAGIC_MICROS, false);
        file.extend(words(&[0, 0, len, len], false));
        let mut reader = Reader::new(&file[..]).unwrap();
        let text = reader.next().unwrap_err().to_string();
        assert!(text.contains("byte 24") && text.contains("corrupt"), "{text}");
        assert_eq!(reader.data.capacity(), 0);
    }
}

#[test]
fn reader_largest_times_do_not_overflow() {
    let mut file = file_header(MAGIC_MICROS, false);
    file.extend(words(&[u32::MAX, u32::MAX, 0, 0], false));
    let (packets, end) = read_all(&file);
    end.unwrap();
    assert_eq!(packets[0].0.as_secs(), u64::from(u32::MAX) + 4294);
}

#[test]
fn reader_other_formats_are_named() {
    let mut wifi = file_header(MAGIC_MICROS, false);
    wifi[20] = 105;
    let mut old = file_header(MAGIC_MICROS, false);
    old[4] = 1;
    let pcapng = [0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0];
    let cases = [
        (&wifi[..], "link type 105"),
        (&old, "version 1"),
        (&pcapng, "pcapng"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", "no pcap file"),
        (b"", "it ends after 0 bytes"),
    ];
    for (file, part) in cases {
        let text = Reader::new(file).unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn reader_missing_file_is_named() {
    let error = Reader::open("/nonexistent/trace.pcap").unwrap_err();
    assert_eq!(error.to_string(), "Cannot open /nonexistent/trace.pcap");
}

#[test]
fn writer_cuts_to_snaplen_and_keeps_wire_length() {
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file, 4).unwrap();
    writer.write(Duration::new(7, 9), 6, b"abcdef").unwrap();
    writer.write(Duration::new(8, 0), 0, b"xyz").unwrap();
    writer.flush().unwrap();
    drop(writer);
    let (packets, end) = read_all(&file);
    end.unwrap();
    assert_eq!(packets[0], (Duration::new(7, 9), 6, b"abcd".to_vec()));
    assert_eq!(packets[1], (Duration::new(8, 0), 3, b"xyz".to_vec()));
}

#[test]
fn file_written_then_opened_gives_packets_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pcap");
    let mut writer = Writer::create(&path, 0).unwrap();
    writer.write(Duration::from_millis(1), 60, &[7; 60]).unwrap();
    drop(writer);
    let mut reader = Reader::open(&path).unwrap();
    assert_eq!(reader.snaplen(), MAX_SNAPLEN);
    assert_eq!(reader.next().unwrap().unwrap().data, [7; 60]);
    assert!(reader.next().unwrap().is_none());
}

/// Gives one byte a read, and an interruption before each.
struct Trickle<'a>(&'a [u8], bool);

impl Read for Trickle<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(ErrorKind::Interrupted.into());
        }
        let n = into.len().min(1).min(self.0.len());
        into[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}

#[test]
fn reader_from_a_pipe_that_trickles_loses_nothing() {
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file, 0).unwrap();
    writer.write(Duration::ZERO, 3, b"abc").unwrap();
    drop(writer);
    let mut reader = Reader::new(Trickle(&file, false)).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().data, b"abc");
    assert!(reader.next().unwrap().is_none());
}

proptest! {
    #[test]
    fn written_then_read_is_the_same(
        packets in prop::collection::vec(
            (any::<u32>(), 0..1_000_000_000u32, any::<u16>(),
             prop::collection::vec(any::<u8>(), 0..200)), 0..20)
    ) {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, 0).unwrap();
        for (seconds, nanos, more, data) in &packets {
            let orig_len = data.len() as u32 + u32::from(*more);
            writer.write(Duration::new((*seconds).into(), *nanos), orig_len, data).unwrap();
        }
        drop(writer);
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
        big in any::<bool>(), nanos in any::<bool>(),
        bytes in prop::collection::vec(any::<u8>(), 0..400)
    ) {
        let magic = if nanos { MAGIC_NANOS } else { MAGIC_MICROS };
        let mut file = file_header(magic, big);
        file.extend(&bytes);
        let (packets, _) = read_all(&file);
        let total: usize = packets.iter().map(|(_, _, data)| data.len() + 16).sum();
        prop_assert!(total <= bytes.len());
        let _ = read_all(&bytes);
    }
}
