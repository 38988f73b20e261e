//! The device against peers that are plain sockets of the standard library.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::backend::nobody::as_nobody;
use crate::backend::skip::skip;

/// Far beyond anything that works.
const LONG: Duration = Duration::from_secs(20);

fn server() -> (TempDir, PathBuf, Stream) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let device = Stream::open("stream:s", path.to_str().unwrap()).unwrap();
    (dir, path, device)
}

/// A server and its peer.
fn pair() -> (TempDir, UnixStream, Stream) {
    let (dir, path, mut device) = server();
    let peer = UnixStream::connect(path).unwrap();
    peer.set_read_timeout(Some(LONG)).unwrap();
    flush(&mut device);
    assert_eq!(device.link(), Link::Up);
    (dir, peer, device)
}

/// The next frame; `None` if none comes with what is there.
fn receive(device: &mut Stream) -> Option<Vec<u8>> {
    let mut buf = vec![0; 1 << 17];
    // A call may have nothing though there is something, since it reads but once.
    let mut attempt = || {
        device.look().unwrap();
        device.receive(&mut buf).unwrap()
    };
    (0..3).find_map(|_| attempt()).map(|length| buf[..length].to_vec())
}

/// Syncs.
fn flush(device: &mut Stream) {
    device.look().unwrap();
    device.flush().unwrap();
}

/// Sleeps as a wait does until the descriptor has something to tell.
fn wakes(device: &mut Stream, what: Interest, time: Duration) -> bool {
    device.arm(what);
    let mut waits = [PollFd::new(device.fd().unwrap(), device.events(what))];
    poll(&mut waits, u16::try_from(time.as_millis()).unwrap()).unwrap() > 0
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes(), frame].concat()
}

fn read_frame(peer: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    peer.read_exact(&mut length).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    peer.read_exact(&mut frame).unwrap();
    frame
}

#[test]
fn frames_of_all_lengths_go_both_ways() {
    let (_dir, mut peer, mut device) = pair();
    for length in [14, 60, 1514, 9000, 65550, MOST] {
        let frame: Vec<u8> = (0..length).map(|i| (i * 7 + length) as u8).collect();
        assert_eq!(device.send(&frame).unwrap(), Sent::Done);
        flush(&mut device);
        assert_eq!(read_frame(&mut peer), frame, "{length}");
        peer.write_all(&framed(&frame)).unwrap();
        assert_eq!(receive(&mut device), Some(frame), "{length}");
    }
    assert_eq!(receive(&mut device), None);
    assert_eq!(device.left_out(), 0);
}

#[test]
fn what_is_no_frame_is_never_sent() {
    let (_dir, _peer, mut device) = pair();
    for length in [0, 1, 13, MOST + 1] {
        assert_eq!(device.send(&vec![0; length]).unwrap(), Sent::Refused);
    }
    assert!(device.outbox.is_empty());
}

#[test]
fn what_a_peer_that_takes_nothing_leaves_at_the_end_is_told() {
    let (_dir, _peer, mut device) = pair();
    while device.send(&[9; 100]).unwrap() == Sent::Done {}
    device.finish().unwrap();
    let remarks = device.remarks();
    let left = format!(
        "did not take at the end, though it was waited for: {}",
        device.outbox.rest().len()
    );
    assert!(remarks.iter().any(|remark| remark.ends_with(&left)), "{remarks:?}");
}

#[test]
fn full_peer_takes_whole_frames_and_all_of_them_in_the_end() {
    let (_dir, mut peer, mut device) = pair();
    let frame = |n: u32| [&n.to_be_bytes()[..], &[9; 96]].concat();
    let mut sent = 0;
    while device.send(&frame(sent)).unwrap() == Sent::Done {
        sent += 1;
    }
    assert!(sent > 100 && device.holds_back());
    assert!(!wakes(&mut device, Interest::RX, Duration::ZERO));
    for n in 0..sent {
        assert_eq!(read_frame(&mut peer), frame(n));
        flush(&mut device);
    }
    assert!(!device.holds_back());
    device.finish().unwrap();
}

/// What a reader like passt relies on: a read that is not cut by its own buffer brings whole frames.
#[test]
fn reader_never_meets_half_a_frame() {
    const FRAMES: u32 = 40_000;
    let (_dir, mut peer, mut device) = pair();
    let reader = std::thread::spawn(move || {
        // One read may take all there ever is, while it is being sent.
        let (mut buf, mut frames, mut reads) = (vec![0; 64 << 20], 0, 0);
        while frames < FRAMES {
            let n = peer.read(&mut buf).unwrap();
            let mut rest = &buf[..n];
            while !rest.is_empty() {
                let (length, behind) = rest.split_first_chunk().expect("a whole length");
                rest = &behind[u32::from_be_bytes(*length) as usize..];
                frames += 1;
            }
            reads += 1;
        }
        reads
    });
    let mut frame = [0; 1514];
    for n in 0..FRAMES {
        frame[14..18].copy_from_slice(&n.to_be_bytes());
        let length = 60 + (n as usize * 37) % 1454;
        while device.send(&frame[..length]).unwrap() == Sent::Again {
            wakes(&mut device, Interest::TX, Duration::from_millis(100));
        }
        if n % 256 == 0 {
            flush(&mut device);
        }
    }
    device.finish().unwrap();
    assert!(reader.join().unwrap() > 0);
}

#[test]
fn longest_frame_to_a_full_peer_is_finished_before_anything_else() {
    let (_dir, mut peer, mut device) = pair();
    let mut sent = 0;
    while device.send(&[7; MOST]).unwrap() == Sent::Done {
        sent += 1;
    }
    assert_eq!(device.send(&[8; 60]).unwrap(), Sent::Again);
    for _ in 0..sent {
        assert_eq!(read_frame(&mut peer), [7; MOST]);
        flush(&mut device);
    }
    assert!(!device.holds_back());
    assert_eq!(device.send(&[8; 60]).unwrap(), Sent::Done);
    flush(&mut device);
    assert_eq!(read_frame(&mut peer), [8; 60]);
}

#[test]
fn without_a_peer_frames_are_dropped_and_the_next_one_gets_none_of_them() {
    let (_dir, path, mut device) = server();
    assert_eq!(device.send(&[1; 60]).unwrap(), Sent::Down);
    for n in 2..5 {
        let mut peer = UnixStream::connect(&path).unwrap();
        assert!(wakes(&mut device, Interest::RX, LONG));
        flush(&mut device);
        assert_eq!(device.send(&[n; 60]).unwrap(), Sent::Done);
        flush(&mut device);
        assert_eq!(read_frame(&mut peer), [n; 60]);
        assert_eq!(device.send(&[99; 60]).unwrap(), Sent::Done); // under way when the peer goes
        drop(peer);
        assert!(wakes(&mut device, Interest::RX, LONG));
        assert_eq!(receive(&mut device), None);
        assert_eq!(device.link(), Link::Down);
    }
    assert!(device.remarks().iter().any(|remark| remark.contains("under way to them: 3")));
}

#[test]
fn second_client_waits_until_the_first_has_gone() {
    let (_dir, first, mut device) = pair();
    let path = device.path.clone();
    let mut second = UnixStream::connect(path).unwrap();
    second.set_read_timeout(Some(LONG)).unwrap();
    second.write_all(&framed(&[2; 60])).unwrap();
    assert!(!wakes(&mut device, Interest::RX, Duration::ZERO));
    assert_eq!(receive(&mut device), None);
    drop(first);
    assert_eq!(receive(&mut device), Some(vec![2; 60]));
    device.send(&[3; 60]).unwrap();
    flush(&mut device);
    assert_eq!(read_frame(&mut second), [3; 60]);
}

#[test]
fn last_words_of_a_peer_are_heard() {
    let (_dir, mut peer, mut device) = pair();
    peer.write_all(&[framed(&[1; 60]), framed(&[2; 60])].concat()).unwrap();
    drop(peer);
    assert_eq!(device.send(&[9; 60]).unwrap(), Sent::Done);
    flush(&mut device); // learns that it has gone
    assert!(device.peer.is_none());
    assert_eq!(receive(&mut device), Some(vec![1; 60]));
    assert_eq!(receive(&mut device), Some(vec![2; 60]));
    assert_eq!(receive(&mut device), None);
}

#[test]
fn all_that_a_peer_sent_before_it_went_is_heard() {
    let (_dir, mut peer, mut device) = pair();
    peer.set_nonblocking(true).unwrap();
    // More than one read takes.
    let (frame, mut sent) = (framed(&[1; MOST]), 0);
    while peer.write(&frame).is_ok_and(|n| n == frame.len()) {
        sent += 1;
    }
    assert!(sent > 2, "{sent}");
    let next = UnixStream::connect(&device.path).unwrap();
    (&next).write_all(&framed(&[2; 60])).unwrap();
    drop(peer);
    assert_eq!(device.send(&[9; 60]).unwrap(), Sent::Done);
    flush(&mut device); // learns that it has gone
    assert_eq!((device.link(), device.send(&[9; 60]).unwrap()), (Link::Down, Sent::Down));
    // While there is no room for packets, its end wakes nobody; then it does.
    assert!(!wakes(&mut device, Interest::empty(), Duration::ZERO));
    assert!(wakes(&mut device, Interest::RX, LONG));
    let mut heard = 0;
    while let Some(frame) = receive(&mut device) {
        heard += usize::from(frame == [1; MOST]);
        if frame == [2; 60] {
            break;
        }
    }
    assert_eq!(heard, sent);
    assert_eq!(device.link(), Link::Up);
}

#[test]
fn port_that_only_sends_has_a_next_peer_although_it_reads_nothing() {
    let (_dir, mut peer, mut device) = pair();
    let frames = [framed(&[]), framed(&[0; 5])].concat();
    peer.write_all(&frames.repeat(8000)).unwrap();
    let mut next = UnixStream::connect(&device.path).unwrap();
    next.set_read_timeout(Some(LONG)).unwrap();
    drop(peer);
    let begin = Instant::now();
    let hears = |next: &UnixStream| {
        poll(&mut [PollFd::new(next.as_fd(), PollFlags::POLLIN)], 0u8).unwrap() > 0
    };
    // What it sends before it learns that its peer has gone is lost.
    while !hears(&next) {
        device.send(&[7; 60]).unwrap();
        flush(&mut device);
        assert!(begin.elapsed() < LONG);
    }
    assert_eq!(read_frame(&mut next), [7; 60]);
}

#[test]
fn last_words_of_a_peer_are_heard_before_the_next_ones() {
    let (_dir, mut peer, mut device) = pair();
    let path = device.path.clone();
    // Frames that are left out come before them, and are looked at in bounded pieces.
    let long = vec![0; MOST + 1];
    let words = [framed(&[1; 60]), framed(&[]), framed(&long), framed(&[2; 60]), vec![0, 0]];
    peer.write_all(&words.concat()).unwrap();
    drop(peer);
    let mut next = UnixStream::connect(path).unwrap();
    next.write_all(&framed(&[3; 60])).unwrap();
    assert_eq!(device.send(&[9; 60]).unwrap(), Sent::Done);
    flush(&mut device); // learns that it has gone
    assert!(device.peer.is_none());
    // A sync that has no room for a frame.
    flush(&mut device);
    for n in 1..4 {
        assert_eq!(receive(&mut device), Some(vec![n; 60]));
    }
    assert!(device.remarks().iter().any(|remark| remark.contains("in the middle of a frame")));
}

#[test]
fn peer_that_stops_or_leaves_inside_a_frame_costs_that_frame_alone() {
    let (_dir, mut peer, mut device) = pair();
    let path = device.path.clone();
    let whole = framed(&[5; 60]);
    for cut in [1, 3, 4, 5, 63] {
        peer.write_all(&[&whole[..], &whole[..cut]].concat()).unwrap();
        assert_eq!(receive(&mut device), Some(vec![5; 60]));
        assert_eq!(receive(&mut device), None);
        assert!(
            !wakes(&mut device, Interest::RX, Duration::ZERO),
            "a peer that stops costs nothing"
        );
        peer = UnixStream::connect(&path).unwrap(); // the former one closes
        peer.write_all(&whole).unwrap();
        assert_eq!(receive(&mut device), Some(vec![5; 60]), "{cut}");
    }
    assert!(device.remarks()[0].contains("in the middle of a frame: 5"));
}

#[test]
fn peer_that_announces_four_gibibytes_is_cut_off_and_the_port_stays() {
    let (_dir, mut peer, mut device) = pair();
    let path = device.path.clone();
    peer.write_all(&[&framed(&[1; 60])[..], &[0xff; 4], &[0; 1000]].concat()).unwrap();
    assert_eq!(receive(&mut device), Some(vec![1; 60]));
    assert_eq!(receive(&mut device), None);
    assert_eq!(peer.read(&mut [0; 16]).unwrap_or(0), 0);
    assert!(device.remarks()[0].contains("a frame of 4294967295 bytes was announced: 1"));
    assert_eq!(device.left_out(), 1);
    let mut next = UnixStream::connect(&path).unwrap();
    next.write_all(&framed(&[2; 60])).unwrap();
    assert_eq!(receive(&mut device), Some(vec![2; 60]));
}

#[test]
fn flood_of_empty_frames_is_looked_at_in_bounded_pieces_and_counted() {
    let (_dir, mut peer, mut device) = pair();
    peer.set_nonblocking(true).unwrap();
    let mut zeros = 0;
    while let Ok(n) = peer.write(&[0; 1 << 16]) {
        zeros += n;
    }
    let mut buf = vec![0; 1 << 17];
    let mut calls = 0;
    while (device.left_out() as usize) < zeros / 4 {
        assert_eq!(device.receive(&mut buf).unwrap(), None);
        calls += 1;
        assert!(calls < 1000);
    }
    assert!(calls > 1, "{calls}");
    assert!(device.remarks()[0].contains("frames left out"));
}

#[test]
fn client_waits_for_its_server_and_finds_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let name = path.to_str().unwrap();
    let mut client = Stream::open("stream:c", &format!("{name},client")).unwrap();
    assert!(!path.exists());
    for n in 1..3 {
        let mut server = Stream::open("stream:s", &format!("{name},server")).unwrap();
        let begin = Instant::now();
        while client.peer.is_none() {
            assert!(begin.elapsed() < LONG);
            wakes(&mut client, Interest::RX, LONG);
            assert_eq!(receive(&mut client), None);
        }
        flush(&mut server);
        assert_eq!(client.send(&[n; 60]).unwrap(), Sent::Done);
        flush(&mut client);
        assert_eq!(receive(&mut server), Some(vec![n; 60]));
        drop(server);
        assert!(wakes(&mut client, Interest::RX, LONG));
        assert_eq!(receive(&mut client), None);
        assert!(client.peer.is_none());
    }
}

#[test]
fn side_is_taken_by_who_is_there_unless_it_is_named() {
    let (_dir, path, mut first) = server();
    let name = path.to_str().unwrap();
    let mut second = Stream::open("stream:s", name).unwrap();
    assert!(matches!(second.side, Side::Client));
    flush(&mut first);
    second.send(&[4; 60]).unwrap();
    flush(&mut second);
    assert_eq!(receive(&mut first), Some(vec![4; 60]));
    let error = Stream::open("stream:s", &format!("{name},server")).unwrap_err().to_string();
    assert!(error.contains("another program has that socket"), "{error}");
    assert!(path.exists());
    drop((first, second));
    assert!(!path.exists());
    let error = Stream::open("stream:s", "/nowhere/at/all").unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
}

#[test]
fn what_can_never_be_its_server_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    std::fs::write(&file, "kept").unwrap();
    for side in ["", ",server", ",client"] {
        let error = Stream::open("stream:f", &format!("{}{side}", file.display())).unwrap_err();
        assert!(error.to_string().contains("not a socket"), "{side}: {error}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
}

#[test]
fn word_behind_the_comma_is_a_side_and_no_part_of_a_path() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for word in ["sever", "server=on", "reconnect=1"] {
        let name = format!("stream:{},{word}", at("s"));
        let error = crate::Port::open(&name).unwrap_err();
        assert!(matches!(error, Error::Name(_)), "{error}");
        assert!(error.to_string().contains("`server` or `client`"), "{error}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    // A comma that belongs to the path.
    std::fs::create_dir(at("a,b")).unwrap();
    for (name, path) in [("a,b/s", "a,b/s"), ("a,b/s,t,server", "a,b/s,t")] {
        let device = Stream::open("stream:s", &at(name)).unwrap();
        assert!(dir.path().join(path).exists(), "{name}");
        assert!(device.about().unwrap().contains("server"), "{name}");
    }
}

/// Root's passt makes such a socket, and a bridge of another user may look for it for ever.
#[test]
fn client_says_why_the_server_that_is_there_is_none_for_it() {
    let test = "client_says_why_the_server_that_is_there_is_none_for_it";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(dir.path(), 0o755);
    let name = format!("{},client", path.display());
    let Some(mut device) = as_nobody(|| Stream::open("stream:s", &name).unwrap()) else {
        return skip(test, "this user cannot become another");
    };
    assert_eq!(device.remarks(), [""; 0]);
    let begin = Instant::now();
    let mut look = |until: fn(&Stream) -> bool| {
        while !until(&device) {
            assert!(begin.elapsed() < LONG);
            wakes(&mut device, Interest::RX, LONG);
            as_nobody(|| device.look().unwrap()).unwrap();
        }
        device.remarks()
    };
    let _server = UnixListener::bind(&path).unwrap();
    mode(&path, 0o755);
    let remarks = look(|device| !device.remarks().is_empty());
    assert!(remarks[0].contains("user 0's, with mode 755"), "{remarks:?}");
    mode(&path, 0o777);
    assert_eq!(look(|device| device.link() == Link::Up), [""; 0]);
}

/// passt (2023-03-09) takes padding for data, so a guest with an e1000, whose driver pads, could fetch nothing through it.
#[test]
fn padding_behind_an_ipv4_packet_is_left_out_and_nothing_else() {
    let (_dir, mut peer, mut device) = pair();
    let frame = |length: usize, kind: u16, first: u8, ip_length: u16| {
        let mut frame: Vec<u8> = (0..length).map(|i| i as u8).collect();
        frame[12..14].copy_from_slice(&kind.to_be_bytes());
        frame[14] = first;
        frame[16..18].copy_from_slice(&ip_length.to_be_bytes());
        frame
    };
    for (frame, length, what) in [
        (frame(60, 0x0800, 0x45, 40), 54, "a bare acknowledgement"),
        (frame(60, 0x0800, 0x46, 24), 38, "options"),
        (frame(60, 0x0800, 0x45, 46), 60, "no padding"),
        (frame(60, 0x0800, 0x45, 1500), 60, "a length that is a lie"),
        (frame(60, 0x0800, 0x46, 20), 60, "less than its header"),
        (frame(60, 0x0800, 0x44, 40), 60, "a header that is none"),
        (frame(60, 0x0800, 0x65, 40), 60, "another version"),
        (frame(60, 0x0806, 0x45, 40), 60, "ARP"),
        (frame(60, 0x86dd, 0x60, 0), 60, "IPv6"),
        (frame(61, 0x0800, 0x45, 40), 61, "no NIC pads to that"),
        (frame(42, 0x0800, 0x45, 20), 42, "shorter than on any wire"),
    ] {
        assert_eq!(device.send(&frame).unwrap(), Sent::Done);
        flush(&mut device);
        assert_eq!(read_frame(&mut peer), frame[..length], "{what}");
    }
}
