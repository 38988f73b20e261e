//! Tests of the writer: files, pipes whose reader stands still, FIFOs without a reader.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;

use super::*;
use crate::{Options, Reader};

fn read(path: &Path) -> Vec<(Duration, u32, Vec<u8>)> {
    let mut reader = Reader::open(path, Options::default()).unwrap();
    let mut packets = Vec::new();
    while let Some(packet) = reader.next().unwrap() {
        packets.push((packet.ts, packet.orig_len, packet.data.to_vec()));
    }
    packets
}

#[test]
fn file_written_then_opened_gives_packets_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pcap");
    let mut writer = Writer::create(&path, 4).unwrap();
    assert_eq!(read(&path), [], "a capture from the start");
    writer.write(Duration::new(7, 9), 6, b"abcdef").unwrap();
    writer.write(Duration::new(8, 0), 0, b"xyz").unwrap();
    writer.flush().unwrap();
    let expected =
        [(Duration::new(7, 9), 6, b"abcd".to_vec()), (Duration::new(8, 0), 3, b"xyz".to_vec())];
    assert_eq!(read(&path), expected);
    writer.write(Duration::new(9, 0), 1, b"!").unwrap();
    drop(writer);
    assert_eq!(read(&path).len(), 3);
    assert_eq!(Reader::open(&path, Options::default()).unwrap().snaplen(), 4);
}

#[test]
fn times_of_a_batch_can_be_told_apart() {
    let times: Vec<Duration> = Times::now().take(3).collect();
    assert_eq!(times[2] - times[0], Duration::from_nanos(2));
}

/// A writer to a pipe.
fn piped() -> (Writer, File) {
    let (read, write) = std::io::pipe().unwrap();
    let writer = Writer::create(format!("/proc/self/fd/{}", write.as_raw_fd()), 0).unwrap();
    (writer, File::from(std::os::fd::OwnedFd::from(read)))
}

#[test]
fn reader_that_stands_still_holds_up_nobody_who_was_stopped() {
    let (writer, mut reader) = piped();
    let stop = Arc::new(AtomicBool::new(false));
    let mut writer = writer.stopped_by(Arc::clone(&stop));
    let mut packets = 0u64;
    while writer.has_room() {
        writer.write(Duration::ZERO, 1000, &[1; 1000]).unwrap();
        writer.flush().unwrap();
        packets += 1;
    }
    stop.store(true, Ordering::Relaxed);
    writer.write(Duration::ZERO, 1000, &[1; 1000]).unwrap();
    // And what was kept is not lost once it reads on.
    let counted = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes.len() as u64
    });
    writer.finish().unwrap();
    drop(writer);
    assert_eq!(counted.join().unwrap(), 24 + (packets + 1) * 1016);
}

#[test]
fn reader_that_never_reads_on_is_an_error_at_the_end() {
    let (mut writer, _reader) = piped();
    while writer.has_room() {
        writer.write(Duration::ZERO, 1000, &[1; 1000]).unwrap();
        writer.flush().unwrap();
    }
    let error = writer.finish().unwrap_err().to_string();
    assert!(error.contains("takes nothing"), "{error}");
}

#[test]
fn reader_that_left_is_a_broken_pipe() {
    let (mut writer, reader) = piped();
    drop(reader);
    writer.write(Duration::ZERO, 1, &[1]).unwrap();
    let Err(Error::Io { source, .. }) = writer.finish() else {
        panic!("nobody is there to read");
    };
    assert_eq!(source.kind(), std::io::ErrorKind::BrokenPipe);
}

#[test]
fn fifo_without_a_reader_is_open_and_gets_it_all_once_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut writer = Writer::create(&path, 0).unwrap();
    writer.write(Duration::ZERO, 3, b"abc").unwrap();
    writer.flush().unwrap();
    let reading = {
        let path = path.clone();
        std::thread::spawn(move || read(&path))
    };
    writer.finish().unwrap();
    drop(writer);
    assert_eq!(reading.join().unwrap(), [(Duration::ZERO, 3, b"abc".to_vec())]);
}
