//! The harness for fuzzing, called by the fuzz target and by the replay of its corpus in the tests. Not
//! part of the library's API.

use std::io::Cursor;
use std::time::Duration;

use crate::reader::{Next, Options, Reader};
use crate::writer::{append_record, file_header};
use crate::{Addresses, MAX_FRAME, MAX_SNAPLEN};

/// More steps than this are not waited for: a compressed input may stand for a million times its size.
const STEPS: usize = 100_000;

/// A capture yields records that lie within the limits, then ends for good, with or without one error;
/// what was read is written and read back unchanged; and a reader for frames hands on what it counts.
pub fn capture(data: &[u8]) {
    let Ok(mut reader) = Reader::new(Cursor::new(data.to_vec()), Options::default()) else {
        return;
    };
    let mut copy = file_header(MAX_SNAPLEN).to_vec();
    let mut packets = Vec::new();
    let mut last = Ok(Next::Other);
    for _ in 0..STEPS {
        last = reader.advance();
        match last {
            Ok(Next::Packet) => {
                let p = reader.packet();
                assert!(
                    p.data.len() <= MAX_SNAPLEN as usize && p.data.len() <= p.orig_len as usize
                );
                append_record(&mut copy, MAX_SNAPLEN, p.ts, p.orig_len, p.data);
                packets.push((p.ts, p.orig_len, p.data.to_vec()));
            }
            Ok(Next::Other) => {}
            Ok(Next::Pending) => panic!("memory never pends"),
            Ok(Next::End) | Err(_) => break,
        }
    }
    if matches!(last, Ok(Next::End) | Err(_)) {
        assert!(matches!(reader.advance(), Ok(Next::End)), "it went on after its end");
    }

    let mut reader = Reader::new(Cursor::new(copy), Options::default()).expect("our own header");
    // The writer ends time in 2106.
    let end = Duration::from_secs(u32::MAX.into());
    for (ts, orig_len, bytes) in &packets {
        let p = reader.next().expect("our own record").expect("as many");
        assert!(p.ts == *ts || *ts >= end, "{ts:?} became {:?}", p.ts);
        assert_eq!((p.orig_len, p.data), (*orig_len, &bytes[..]));
    }
    assert!(matches!(reader.next(), Ok(None)));
    frames(data);
}

fn frames(data: &[u8]) {
    let options = Options::frames(Some(Addresses::default()));
    let Ok(mut reader) = Reader::new(Cursor::new(data.to_vec()), options) else {
        return;
    };
    let mut left_out = 0;
    for _ in 0..STEPS {
        match reader.advance() {
            Ok(Next::Packet) => assert!((1..=MAX_FRAME).contains(&reader.packet().data.len())),
            Ok(Next::Other) => {}
            _ => break,
        }
        assert!(reader.notes().left_out() >= left_out);
        left_out = reader.notes().left_out();
    }
}
