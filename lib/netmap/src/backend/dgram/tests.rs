//! The device against peers that are plain sockets of the standard library.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::backend::nobody::as_nobody;
use crate::backend::skip::skip;

/// Far beyond anything that works.
const LONG: Duration = Duration::from_secs(20);

struct Lab(TempDir);

impl Lab {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn open(&self, own: &str, peer: Option<&str>) -> Datagrams {
        let peer = peer.map_or(String::new(), |peer| format!(",{}", self.path(peer)));
        Datagrams::open("dgram:x", &(self.path(own) + &peer)).unwrap()
    }

    fn socket(&self, name: &str) -> UnixDatagram {
        let _ = std::fs::remove_file(self.path(name));
        let socket = UnixDatagram::bind(self.path(name)).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket
    }
}

fn receive(device: &mut Datagrams) -> Option<Vec<u8>> {
    let mut buf = vec![0; 1 << 17];
    let mut attempt = || {
        device.look().unwrap();
        device.receive(&mut buf).unwrap()
    };
    (0..3).find_map(|_| attempt()).map(|length| buf[..length].to_vec())
}

fn flush(device: &mut Datagrams) {
    device.look().unwrap();
    device.flush().unwrap();
}

fn wakes(device: &mut Datagrams, what: Interest, time: Duration) -> bool {
    device.arm(what);
    let mut waits = [PollFd::new(device.fd().unwrap(), device.events(what))];
    poll(&mut waits, u16::try_from(time.as_millis()).unwrap()).unwrap() > 0
}

fn take(socket: &UnixDatagram) -> Vec<u8> {
    let mut buf = vec![0; 1 << 17];
    let n = socket.recv(&mut buf).unwrap();
    buf[..n].to_vec()
}

#[test]
fn frames_of_all_lengths_go_both_ways_and_nothing_else_does() {
    let lab = Lab::new();
    let peer = lab.socket("p");
    let mut device = lab.open("d", Some("p"));
    for length in [14, 60, 1514, 65550, MOST] {
        let frame: Vec<u8> = (0..length).map(|i| (i * 7 + length) as u8).collect();
        assert_eq!(device.send(&frame).unwrap(), Sent::Done);
        flush(&mut device);
        assert_eq!(take(&peer), frame);
        peer.send_to(&frame, lab.path("d")).unwrap();
        assert_eq!(receive(&mut device), Some(frame));
    }
    for length in [0, 13, MOST + 1, 69632] {
        assert_eq!(device.send(&vec![0; length]).unwrap(), Sent::Refused);
        peer.send_to(&vec![0; length], lab.path("d")).unwrap();
    }
    peer.send_to(&[3; 60], lab.path("d")).unwrap();
    assert_eq!(receive(&mut device), Some(vec![3; 60]));
    assert_eq!(device.left_out(), 4);
    assert!(device.remarks()[0].contains("longer than 65600: 4"));
}

/// A namespace's queues may be longer than a call takes, and a peer may fill them again as quickly as they are emptied.
#[test]
fn call_ends_with_what_is_left_out_however_much_of_it_comes() {
    let test = "call_ends_with_what_is_left_out_however_much_of_it_comes";
    // The thread, and so the namespace, is this test's own.
    if let Err(why) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
        return skip(test, &format!("no network namespace can be made here: {why}"));
    }
    if let Err(why) = std::fs::write("/proc/sys/net/unix/max_dgram_qlen", "100") {
        return skip(test, &format!("queues of sockets cannot be made longer here: {why}"));
    }
    let lab = Lab::new();
    let peer = lab.socket("p");
    let mut device = lab.open("d", Some("p"));
    for _ in 0..4 * BATCH {
        peer.send_to(&[], lab.path("d")).unwrap();
    }
    peer.send_to(&[3; 60], lab.path("d")).unwrap();
    let mut buf = vec![0; 1 << 17];
    for calls in 1..=4 {
        assert_eq!(device.receive(&mut buf).unwrap(), None);
        assert_eq!(device.left_out(), (calls * BATCH) as u64);
        assert!(wakes(&mut device, Interest::RX, Duration::ZERO), "there is more");
    }
    assert_eq!(device.receive(&mut buf).unwrap(), Some(60));
}

#[test]
fn full_peer_is_waited_for_and_gets_all_in_order() {
    let lab = Lab::new();
    let peer = lab.socket("p");
    let mut device = lab.open("d", Some("p"));
    let reader =
        std::thread::spawn(move || (0..500u16).all(|n| take(&peer)[14..16] == n.to_be_bytes()));
    let mut frame = [0; 60];
    for n in 0..500u16 {
        frame[14..16].copy_from_slice(&n.to_be_bytes());
        while device.send(&frame).unwrap() == Sent::Again {
            wakes(&mut device, Interest::TX, Duration::from_millis(100));
        }
    }
    device.finish().unwrap();
    assert!(!device.holds_back());
    assert!(reader.join().unwrap());
}

#[test]
fn peer_that_was_told_is_awaited_lost_and_found_again() {
    let lab = Lab::new();
    let mut device = lab.open("d", Some("p"));
    assert_eq!(device.send(&[1; 60]).unwrap(), Sent::Down);
    for n in 2..4 {
        let peer = lab.socket("p");
        let begin = Instant::now();
        while device.peer.is_none() {
            assert!(begin.elapsed() < LONG);
            wakes(&mut device, Interest::RX, LONG);
            assert_eq!(receive(&mut device), None);
        }
        assert_eq!(device.send(&[n; 60]).unwrap(), Sent::Done);
        flush(&mut device);
        assert_eq!(take(&peer), [n; 60]);
        drop(peer);
        assert_eq!(device.send(&[9; 60]).unwrap(), Sent::Done);
        flush(&mut device);
        assert_eq!(device.link(), Link::Down);
    }
    assert!(device.remarks()[0].contains("with peers that left: 2"));
    // One that comes back before anything was sent is met without a loss.
    let _first = lab.socket("p");
    while device.peer.is_none() {
        wakes(&mut device, Interest::RX, LONG);
        assert_eq!(receive(&mut device), None);
    }
    let second = lab.socket("p");
    drop(_first);
    assert_eq!(device.send(&[5; 60]).unwrap(), Sent::Done);
    flush(&mut device);
    assert_eq!(take(&second), [5; 60]);
}

#[test]
fn peer_is_learnt_from_its_first_datagram_and_replaced_when_it_is_dead() {
    let lab = Lab::new();
    let mut device = lab.open("d", None);
    let (first, second) = (lab.socket("1"), lab.socket("2"));
    first.send_to(&[1; 60], lab.path("d")).unwrap();
    second.send_to(&[2; 60], lab.path("d")).unwrap();
    assert_eq!(receive(&mut device), Some(vec![1; 60]));
    assert_eq!(receive(&mut device), Some(vec![2; 60]));
    let learnt = device.peer.as_ref().unwrap().path.clone();
    let (peer, other) = if learnt.ends_with("1") { (first, second) } else { (second, first) };
    other.send_to(&[3; 60], lab.path("d")).unwrap();
    assert_eq!(receive(&mut device), Some(vec![3; 60]));
    assert_eq!(device.peer.as_ref().unwrap().path, learnt, "the first one lives");
    drop(peer);
    other.send_to(&[4; 60], lab.path("d")).unwrap();
    assert_eq!(receive(&mut device), Some(vec![4; 60]));
    device.send(&[5; 60]).unwrap();
    flush(&mut device);
    assert_eq!(take(&other), [5; 60]);
}

#[test]
fn two_ports_of_ours_talk_and_leave_no_file() {
    let lab = Lab::new();
    let (mut a, mut b) = (lab.open("a", None), lab.open("b", Some("a")));
    b.send(&[1; 60]).unwrap();
    flush(&mut b);
    assert_eq!(receive(&mut a), Some(vec![1; 60]));
    a.send(&[2; 60]).unwrap();
    flush(&mut a);
    assert_eq!(receive(&mut b), Some(vec![2; 60]));
    drop((a, b));
    assert_eq!(lab.0.path().read_dir().unwrap().count(), 0);
}

/// Sends frames of that length until no more go.
fn fill(device: &mut Datagrams, length: usize) -> usize {
    let sent = (0..10_000).take_while(|_| device.send(&vec![6; length]).unwrap() == Sent::Done);
    let sent = sent.count();
    flush(device);
    assert!(device.holds_back());
    sent
}

/// Such a peer costs nothing until it reads, and then gets all.
fn sleeps_and_goes_on(device: &mut Datagrams, peer: &UnixDatagram, sent: usize) {
    assert!(!wakes(device, Interest::RX, Duration::from_millis(20)), "spins for a full peer");
    let begin = Instant::now();
    device.finish().unwrap();
    assert!(device.holds_back() && begin.elapsed() < LONG);
    for n in 0..sent {
        take(peer);
        assert!(!device.holds_back() || n + 1 < sent, "{n} of {sent}");
        flush(device);
    }
    assert!(!device.holds_back());
}

#[test]
fn full_peer_costs_nothing_whatever_it_is_full_of() {
    let lab = Lab::new();
    let peer = lab.socket("p");
    let mut device = lab.open("d", Some("p"));
    // Long ones use up the memory of the sender's socket before the peer's queue is full.
    for length in [60, MOST, 9014] {
        let sent = fill(&mut device, length);
        sleeps_and_goes_on(&mut device, &peer, sent);
    }
    fill(&mut device, MOST);
    assert!(!wakes(&mut device, Interest::TX, Duration::ZERO));
    peer.set_nonblocking(true).unwrap();
    while peer.recv(&mut vec![0; MOST]).is_ok() {}
    assert!(wakes(&mut device, Interest::TX, LONG), "room is told of");
}

#[test]
fn full_peer_that_took_the_path_of_a_dead_one_costs_nothing() {
    let lab = Lab::new();
    let first = lab.socket("p");
    let mut device = lab.open("d", None);
    first.send_to(&[1; 60], lab.path("d")).unwrap();
    assert_eq!(receive(&mut device), Some(vec![1; 60]));
    let second = lab.socket("p");
    drop(first);
    let sent = fill(&mut device, 60);
    sleeps_and_goes_on(&mut device, &second, sent);
}

#[test]
fn peer_that_is_connected_is_a_peer() {
    let lab = Lab::new();
    let peer = lab.socket("p");
    let mut told = lab.open("d", Some("p"));
    peer.connect(lab.path("d")).unwrap();
    let mut learns = lab.open("e", None);
    let other = lab.socket("q");
    other.connect(lab.path("e")).unwrap();
    other.send(&[1; 60]).unwrap();
    assert_eq!(receive(&mut learns), Some(vec![1; 60]));
    // A restart of the first: it was connected to before it was found.
    drop(peer);
    assert_eq!(told.send(&[1; 60]).unwrap(), Sent::Done);
    flush(&mut told);
    assert_eq!(told.link(), Link::Down);
    let peer = lab.socket("p");
    peer.connect(lab.path("d")).unwrap();
    wakes(&mut told, Interest::RX, LONG);
    flush(&mut told);
    for (device, peer) in [(&mut told, &peer), (&mut learns, &other)] {
        assert_eq!(device.link(), Link::Up);
        let sent = fill(device, 60);
        sleeps_and_goes_on(device, peer, sent);
        peer.send(&[2; 60]).unwrap();
        assert_eq!(receive(device), Some(vec![2; 60]));
    }
    drop(other);
    assert_eq!(learns.send(&[3; 60]).unwrap(), Sent::Done);
    flush(&mut learns);
    assert_eq!(learns.link(), Link::Down);
}

#[test]
fn own_socket_is_no_peer_however_it_is_spelt() {
    let lab = Lab::new();
    std::os::unix::fs::symlink(lab.path("d"), lab.path("link")).unwrap();
    let (own, dotted) = (lab.path("d"), lab.0.path().join("./../").join(lab.0.path()).join("d"));
    for peer in [own.clone(), dotted.display().to_string(), lab.path("link")] {
        let error = Datagrams::open("dgram:x", &format!("{own},{peer}")).unwrap_err().to_string();
        assert!(error.contains("its own socket"), "{peer}: {error}");
        assert!(!Path::new(&own).exists());
    }
    let long = "e".repeat(120);
    let error = Datagrams::open("dgram:x", &format!("{own},/{long}")).unwrap_err().to_string();
    assert!(error.contains("address the peer") && error.contains(&long), "{error}");
    assert!(!Path::new(&own).exists());
}

#[test]
fn relative_path_is_the_peers_from_here_and_never_one_that_it_says() {
    const HERE: &str = "NM_TEST_RELATIVE_PEER";
    const NAME: &str =
        "backend::dgram::tests::relative_path_is_the_peers_from_here_and_never_one_that_it_says";
    // A working directory is a process's, so this is one of its own.
    if std::env::var_os(HERE).is_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args([NAME, "--exact"]).current_dir(&dir).env(HERE, "1");
        let output = again.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let other = UnixDatagram::bind("p").unwrap();
    let mut told = Datagrams::open("dgram:x", "d,p").unwrap();
    std::fs::create_dir("sub").unwrap();
    std::env::set_current_dir("sub").unwrap();
    // Its peer is where it was, and a namesake that has come here is not the one that sends.
    let _namesake = UnixDatagram::bind("p").unwrap();
    assert_eq!(told.send(&[1; 60]).unwrap(), Sent::Done);
    flush(&mut told);
    assert_eq!(take(&other), [1; 60]);
    let mut learns = Datagrams::open("dgram:y", "e").unwrap();
    other.send_to(&[2; 60], "e").unwrap();
    assert_eq!(receive(&mut learns), Some(vec![2; 60]));
    assert_eq!(learns.link(), Link::Down);
    let remarks = learns.remarks();
    assert!(
        remarks[0].contains("sent last: p,") && remarks[0].contains("dgram:e,PEER"),
        "{remarks:?}"
    );
    // One that can be answered is a peer, and nothing is amiss any more.
    let good = UnixDatagram::bind(std::path::absolute("g").unwrap()).unwrap();
    good.send_to(&[3; 60], "e").unwrap();
    assert_eq!(receive(&mut learns), Some(vec![3; 60]));
    assert_eq!(learns.link(), Link::Up);
    assert!(learns.remarks().is_empty());
}

#[test]
fn peer_that_can_never_be_one_is_refused_at_once() {
    let lab = Lab::new();
    std::fs::write(lab.path("file"), "").unwrap();
    let _stream = std::os::unix::net::UnixListener::bind(lab.path("stream")).unwrap();
    for (peer, why) in [("file", "not a socket"), ("stream", "Cannot connect to")] {
        let name = format!("{},{}", lab.path("own"), lab.path(peer));
        let error = Datagrams::open("dgram:x", &name).unwrap_err().to_string();
        assert!(error.contains(why), "{peer}: {error}");
        assert!(!Path::new(&lab.path("own")).exists(), "{peer}: the socket is left");
    }
    // Nobody, and one that has another peer, may be one yet.
    let connected = lab.socket("connected");
    let _other = lab.socket("other");
    connected.connect(lab.path("other")).unwrap();
    drop((lab.open("own", Some("nobody")), lab.open("own2", Some("connected"))));
}

/// A QEMU of another user makes such a socket: what it sends comes, and nothing can go.
#[test]
fn peer_that_may_not_be_sent_to_is_told_with_what_to_do() {
    let test = "peer_that_may_not_be_sent_to_is_told_with_what_to_do";
    let lab = Lab::new();
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(lab.0.path(), 0o1777);
    let peer = lab.socket("p");
    let (peer_path, path) = (lab.path("p"), lab.path("d"));
    mode(peer_path.as_ref(), 0o755);
    let Some(mut device) = as_nobody(|| Datagrams::open("dgram:x", &path).unwrap()) else {
        return skip(test, "this user cannot become another");
    };
    peer.send_to(&[1; 60], &path).unwrap();
    let device = &mut device;
    let came = as_nobody(|| receive(device)).unwrap();
    assert_eq!((came, device.link()), (Some(vec![1; 60]), Link::Down));
    let remarks = device.remarks();
    assert_eq!(remarks.len(), 1, "{remarks:?}");
    assert!(remarks[0].contains("user 0's, with mode 755"), "{remarks:?}");
    mode(peer_path.as_ref(), 0o777);
    peer.send_to(&[2; 60], &path).unwrap();
    let came = as_nobody(|| receive(device)).unwrap();
    assert_eq!((came, device.link()), (Some(vec![2; 60]), Link::Up));
    assert_eq!(device.remarks(), [""; 0]);
    // One that is told and comes later.
    drop(peer);
    let told = format!("{},{peer_path}", lab.path("e"));
    std::fs::remove_file(&peer_path).unwrap();
    let device = &mut as_nobody(|| Datagrams::open("dgram:y", &told).unwrap()).unwrap();
    let _peer = lab.socket("p");
    mode(peer_path.as_ref(), 0o755);
    let begin = Instant::now();
    while device.remarks().is_empty() {
        assert!(begin.elapsed() < LONG);
        wakes(device, Interest::RX, LONG);
        as_nobody(|| device.look().unwrap()).unwrap();
    }
    assert!(device.remarks()[0].contains("user 0's, with mode 755"));
}
