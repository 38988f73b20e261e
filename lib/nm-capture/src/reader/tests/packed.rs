//! Packed files: gzip, zstd and xz; in pieces, cut, damaged, and much larger than they look.

use super::*;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstandard(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap(); // as the command does
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn packed_files_are_read_in_one_piece_or_several() {
    let plain = file(&[&[1; 60], &[2; 1514]]);
    let whole = read_all(&plain).0;
    for pack in [gzip, zstandard, xz] {
        let (packets, end) = read_all(&pack(&plain));
        end.unwrap();
        assert_eq!(packets, whole);
        let pieces = [pack(&plain[..50]), pack(&plain[50..])].concat();
        assert_eq!(read_all(&pieces).0, whole, "as `cat a.gz b.gz` makes it");
        let trickle = Trickle { bytes: pack(&plain), at: 0, turn: 0 };
        let (packets, _, end) = read_with(trickle, Options::default());
        end.unwrap();
        assert_eq!(packets, whole, "byte by byte");
    }
}

#[test]
fn packed_files_that_are_cut_give_what_is_there_then_an_error() {
    // Random bytes, so that the cut is in the second packet's.
    let mut rng = 1u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        rng = rng.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (rng >> 24) as u8
    })
    .take(200_000)
    .collect();
    let plain = file(&[&noise[..100_000], &noise[100_000..]]);
    for (pack, name) in [(gzip as fn(&[u8]) -> Vec<u8>, "gzip"), (zstandard, "zstd"), (xz, "xz")] {
        let packed = pack(&plain);
        let (packets, end) = read_all(&packed[..packed.len() * 9 / 10]);
        let text = format!("{:#}", end.unwrap_err());
        assert_eq!(packets.len(), 1, "{name}: {text}");
        assert!(text.contains(name), "{text}");
        let mut damaged = packed.clone();
        let at = packed.len() * 9 / 10;
        damaged[at..at + 64].fill(0x55);
        assert!(read_all(&damaged).1.is_err(), "{name}: a checksum tells");
        let text = error_of(&pack(&plain[..plain.len() - 1]));
        assert!(text.contains(name) && text.contains("cut off"), "{text}");
        let text = error_of(&pack(&pack(&plain)));
        assert!(text.contains("compressed twice"), "{text}");
    }
}

#[test]
fn a_bomb_is_a_stream() {
    // 256 MiB of one packet again and again, in some 300 KiB; memory stays that of one record.
    let packet = [0; 65_000];
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&file_header(MAX_SNAPLEN)).unwrap();
    let mut record = Vec::new();
    append_record(&mut record, MAX_SNAPLEN, Duration::ZERO, 65_000, &packet);
    for _ in 0..4096 {
        encoder.write_all(&record).unwrap();
    }
    let mut reader =
        Reader::new(Cursor::new(encoder.finish().unwrap()), Options::default()).unwrap();
    let mut packets = 0;
    while reader.next().unwrap().is_some() {
        packets += 1;
    }
    assert_eq!(packets, 4096);
}
