//! Handles that change hands: passed in messages, inherited, kept across exec, shared by fork;
//! and the deaths of those who have them.

mod common;

use std::io::{BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{frame, in_own_root, numbers, ports_of, send, send_for_ever, slots};
use netmap::control::{Switch, SwitchOptions};
use netmap::{Capabilities, Interest, Port};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::unistd::ForkResult;

const ROLE: &str = "NM_TEST_HANDLES_ROLE";

/// A copy of the descriptor that names a handle.
fn copy(port: &Port) -> OwnedFd {
    port.fd().try_clone_to_owned().expect("a descriptor is left")
}

/// The descriptor that a child of these tests inherits.
const INHERITED: i32 = 100;

/// Starts this test again as `role` with a copy of `fd`, which it inherits across exec.
fn child(test: &str, role: &str, fd: BorrowedFd<'_>) -> Child {
    // SAFETY: the number is used for nothing else in this process.
    let there = unsafe { nix::unistd::dup2_raw(fd, INHERITED) }.expect("duplicated");
    fcntl(&there, FcntlArg::F_SETFD(FdFlag::empty())).expect("a flag");
    Command::new(std::env::current_exe().expect("the test binary"))
        .args([test, "--exact", "--nocapture"])
        .env(ROLE, role)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child starts")
    // The copy of this process is closed here.
}

fn inherited() -> OwnedFd {
    // SAFETY: the parent put it there, and nobody else takes it.
    unsafe { OwnedFd::from_raw_fd(INHERITED) }
}

fn await_line(child: &mut Child, word: &str) {
    let out = child.stdout.take().expect("piped");
    let mut lines = BufReader::new(out).lines();
    assert!(lines.any(|line| line.expect("text").contains(word)), "the child ended early");
}

fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

#[test]
fn handle_passed_in_a_message_lives_in_flight_and_after_its_first_owner() {
    in_own_root("handle_passed_in_a_message_lives_in_flight_and_after_its_first_owner", |_| {
        let mut receiver = Port::open("valeA:r").expect("opened");
        let mut sender = Port::open("valeA:s").expect("opened");
        send(&mut sender, 1);
        let (to, from) = UnixStream::pair().expect("a pair");
        let fds = [sender.fd().as_raw_fd()];
        let message = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(b"h")], &message, MsgFlags::empty(), None)
            .expect("sent");
        drop(sender); // the only descriptor is in flight
        drop(Port::open("valeA:other").expect("opened")); // which clears away the dead
        assert_eq!(ports_of("valeA"), ["r", "s"]);

        let mut space = nix::cmsg_space!([i32; 1]);
        let (mut byte, flags) = ([0], MsgFlags::MSG_CMSG_CLOEXEC);
        let mut into = [IoSliceMut::new(&mut byte)];
        let got = recvmsg::<()>(from.as_raw_fd(), &mut into, Some(&mut space), flags).unwrap();
        let Some(ControlMessageOwned::ScmRights(fds)) = got.cmsgs().unwrap().next() else {
            panic!("no descriptor came");
        };
        // SAFETY: the kernel just made it for this process.
        let fd = unsafe { OwnedFd::from_raw_fd(fds[0]) };
        let mut again = Port::from_fd(fd).expect("it names the handle");
        assert_eq!(again.name().to_string(), "valeA:s");
        send(&mut again, 2);
        assert_eq!(numbers(&mut receiver), [1, 2]);
        drop(again);
        assert_eq!(ports_of("valeA"), ["r"]);
    });
}

#[test]
fn handle_survives_exec_of_another_program_and_ends_with_it() {
    const NAME: &str = "handle_survives_exec_of_another_program_and_ends_with_it";
    if role().is_some() {
        let mut port = Port::from_fd(inherited()).expect("it names the handle");
        send(&mut port, 7);
        println!("sent");
        let _ = std::io::stdin().read(&mut [0]); // until the parent says so
        std::process::exit(0);
    }
    in_own_root(NAME, |_| {
        let mut receiver = Port::open("valeA:r").expect("opened");
        let sender = Port::open("valeA:s").expect("opened");
        let mut child = child(NAME, "heir", sender.fd());
        await_line(&mut child, "sent");
        drop(sender);
        assert_eq!(numbers(&mut receiver), [7]);
        assert_eq!(ports_of("valeA"), ["r", "s"], "the child has the handle");
        child.kill().expect("killed");
        child.wait().expect("gone");
        assert_eq!(ports_of("valeA"), ["r"], "nobody has it any more");
    });
}

#[test]
fn port_given_up_for_its_descriptor_is_there_until_that_is_closed() {
    in_own_root("port_given_up_for_its_descriptor_is_there_until_that_is_closed", |_| {
        let mut port = Port::open("valeA:x").expect("opened");
        assert!(port.tx(0).push(&frame(9, 1, 5, 60)));
        let fd = port.into_fd().expect("a handle");
        assert_eq!(ports_of("valeA"), ["x"]);
        let mut receiver = Port::open("valeA:r").expect("opened");
        // Only a copy names the handle, not whatever else leads to the same pipe.
        let path = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        let other = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let e = Port::from_fd(other.into()).unwrap_err().to_string();
        assert!(e.contains("not that of a handle"), "{e}");
        let e = Port::from_fd(std::fs::File::open("/dev/null").unwrap().into()).unwrap_err();
        assert!(e.to_string().contains("not that of a handle"), "{e}");
        let mut port = Port::from_fd(fd).expect("it names the handle");
        port.txsync().expect("synced");
        assert_eq!(numbers(&mut receiver), [5], "what was queued is still queued");
        drop((port, receiver));
        assert_eq!(ports_of("valeA"), Vec::<String>::new());
        let null = Port::open("null:").unwrap();
        assert!(!null.can(Capabilities::PASSABLE));
        let e = null.into_fd().unwrap_err().to_string();
        assert!(e.contains("stay in the process"), "{e}");
    });
}

#[test]
fn descriptor_of_a_port_that_is_gone_names_nothing() {
    in_own_root("descriptor_of_a_port_that_is_gone_names_nothing", |root| {
        let fd = Port::open("valeA:x").expect("opened").into_fd().expect("a handle");
        std::fs::remove_dir_all(root.join("valeA")).expect("removed by hand");
        let e = Port::from_fd(fd).unwrap_err().to_string();
        assert!(e.contains("not that of a handle"), "{e}");
    });
}

/// Reads until the ring `heir` has sent all that is queued on it.
fn drain(heir: &mut Port, receiver: &mut Port, seen: &mut Vec<u32>) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        heir.txsync().expect("synced");
        seen.extend(numbers(receiver));
        if heir.tx(0).pending() == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "{} slots are not sent", heir.tx(0).pending());
    }
}

#[test]
fn clients_of_one_handle_are_killed_and_the_handle_goes_on() {
    const NAME: &str = "clients_of_one_handle_are_killed_and_the_handle_goes_on";
    if let Some(from) = role() {
        send_for_ever(Port::from_fd(inherited()).expect("a handle"), from.parse().unwrap());
    }
    in_own_root(NAME, |_| {
        let lossless = SwitchOptions { backpressure: true, ..SwitchOptions::default() };
        Switch::create("valeA", &lossless).expect("made");
        let open = |name: &str| Port::open_with(&name.parse().unwrap(), &slots(256)).expect(name);
        let (mut receiver, mut server) = (open("valeA:r"), open("valeA:s"));
        for round in 1..=40u32 {
            let first = round << 24;
            let mut client = child(NAME, &first.to_string(), server.fd());
            await_line(&mut client, "ready");
            let before = server.counters().tx_drop_dead;
            let mut seen = Vec::new();
            let end = Instant::now() + Duration::from_micros(1000 + u64::from(round) * 41);
            while Instant::now() < end || seen.is_empty() {
                seen.extend(numbers(&mut receiver));
            }
            client.kill().expect("killed");
            client.wait().expect("gone");
            // The registration lives on, and the locks of the dead client are no obstacle.
            drain(&mut server, &mut receiver, &mut seen);
            assert!(seen.windows(2).all(|w| w[0] < w[1]), "round {round}: twice or out of order");
            let lost = server.counters().tx_drop_dead - before;
            let missing = u64::from(seen[seen.len() - 1] - first) + 1 - seen.len() as u64;
            assert!(missing <= lost && lost < 256, "round {round}: {missing} of {lost} lost");
        }
        assert_eq!(ports_of("valeA"), ["r", "s"]);
    });
}

/// Forks, and lets `body` run in the child until it is killed. The child says that it is there.
fn fork(body: impl FnOnce(&mut dyn FnMut())) -> nix::unistd::Pid {
    let (mut told, tell) = std::io::pipe().expect("a pipe");
    // SAFETY: the only other thread of this process waits for this one, and holds no lock.
    match unsafe { nix::unistd::fork() }.expect("forked") {
        ForkResult::Child => {
            body(&mut || (&tell).write_all(b"!").expect("written"));
            loop {
                std::thread::park(); // until it is killed
            }
        }
        ForkResult::Parent { child } => {
            drop(tell);
            told.read_exact(&mut [0]).expect("the child got as far as that");
            child
        }
    }
}

fn kill(child: nix::unistd::Pid) {
    nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).expect("killed");
    nix::sys::wait::waitpid(child, None).expect("gone");
}

#[test]
fn forked_child_uses_its_parents_handle_and_ends_it_for_nobody() {
    in_own_root("forked_child_uses_its_parents_handle_and_ends_it_for_nobody", |_| {
        let mut receiver = Port::open("valeA:r").expect("opened");
        let mut sender = Port::open("valeA:s").expect("opened");
        send(&mut sender, 1);
        let child = fork(|ready| {
            send(&mut sender, 2);
            ready();
        });
        send(&mut sender, 3);
        assert_eq!(numbers(&mut receiver), [1, 2, 3]);
        kill(child);
        drop(Port::open("valeA:other").expect("opened"));
        assert_eq!(ports_of("valeA"), ["r", "s"], "the parent has it still");
        send(&mut sender, 4);
        // A child that drops what it inherited ends it for itself.
        let child = fork(|ready| {
            drop(std::mem::replace(&mut sender, Port::open("null:").expect("opened")));
            ready();
        });
        send(&mut sender, 5);
        assert_eq!(numbers(&mut receiver), [4, 5]);
        drop(sender);
        assert_eq!(ports_of("valeA"), ["r"], "and keeps nothing of it");
        kill(child);
    });
}

/// Where the participants are in a switch's file: 32 bytes each, generation and pid first.
const PARTICIPANTS: u64 = 86016;

/// Identity of the participant of that process.
fn identity(switch: &std::fs::File, pid: u32) -> u64 {
    for index in 0..2048 {
        let mut entry = [0; 12];
        switch.read_exact_at(&mut entry, PARTICIPANTS + 32 * index).expect("read");
        let generation = u64::from_le_bytes(entry[..8].try_into().expect("eight"));
        if generation != 0 && entry[8..] == pid.to_le_bytes() {
            return generation << 16 | (index + 1);
        }
    }
    panic!("process {pid} is no participant");
}

#[test]
fn killed_parent_is_replaced_although_its_child_has_all_its_descriptors() {
    const NAME: &str = "killed_parent_is_replaced_although_its_child_has_all_its_descriptors";
    if let Some(role) = role() {
        let mut port = Port::from_fd(inherited()).expect("a handle");
        send(&mut port, 1);
        if role == "many" {
            // More files than the handler of the fork knows.
            let many = (0..80).map(|i| Port::open(&format!("valeM{i}:x")).expect("opened"));
            std::mem::forget(many.collect::<Vec<_>>());
        }
        let idle = fork(|ready| {
            if role == "many" {
                // Looks after the dead, its living parent not among them.
                drop(Port::open("valeM79:y").expect("opened"));
                drop(Port::open("valeA:y").expect("opened"));
            }
            ready(); // and never uses what it inherited
        });
        println!("child {idle}");
        let _ = std::io::stdin().read(&mut [0]);
        unreachable!("it is killed before");
    }
    in_own_root(NAME, |root| {
        let open = |name: &str| Port::open_with(&name.parse().unwrap(), &slots(256)).expect(name);
        let (mut receiver, mut server) = (open("valeA:r"), open("valeA:s"));
        let switch = std::fs::File::open(root.join("valeA/switch")).expect("there");
        let rw = |name: &str| std::fs::File::options().write(true).open(root.join(name)).unwrap();
        for role in ["idle", "many"] {
            let mut parent = child(NAME, role, server.fd());
            let mut lines = BufReader::new(parent.stdout.take().expect("piped")).lines();
            let idle = lines.find_map(|line| {
                let line = line.expect("text");
                line.split_once("child ").map(|(_, pid)| pid.trim().parse::<i32>().unwrap())
            });
            assert_eq!(numbers(&mut receiver), [1]);
            // As if it were in the middle of a sync: of the ring that it sends on, and of the one it sends to.
            let id = identity(&switch, parent.id()).to_le_bytes();
            rw("valeA/port.r").write_all_at(&id, 4096).expect("written");
            rw("valeA/port.s").write_all_at(&id, 4096 + 16 * 1024).expect("written");
            send(&mut server, 2);
            assert_eq!(numbers(&mut receiver), [], "{role}: the parent lives");
            parent.kill().expect("killed");
            parent.wait().expect("gone");
            server.txsync().expect("synced");
            assert_eq!(numbers(&mut receiver), [2], "{role}: nobody alive has its locks");
            // SAFETY: an ordinary signal to a process that this test started.
            unsafe { libc::kill(idle.expect("it said so"), libc::SIGKILL) };
        }
    });
}

#[test]
fn children_forked_by_a_program_with_threads_find_no_lock_taken() {
    in_own_root("children_forked_by_a_program_with_threads_find_no_lock_taken", |_| {
        let mut sender = Port::open("valeA:s").expect("opened");
        let mut receiver = Port::open("valeA:r").expect("opened");
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Opens, closes, rings: whatever takes a lock of the process.
            let busy = scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = receiver.arm(Interest::RX).expect("armed");
                    send(&mut sender, 1);
                    receiver.disarm();
                    let _ = numbers(&mut receiver);
                    drop(Port::open("valeA:z").expect("opened"));
                }
            });
            let mut children = Vec::new();
            for _ in 0..40 {
                // SAFETY: the child uses the library, whose locks are free in it, and ends.
                match unsafe { nix::unistd::fork() }.expect("forked") {
                    ForkResult::Child => {
                        let name = format!("valeA:c{}", std::process::id() % 1000);
                        let mut port = Port::open(&name).expect("opened");
                        send(&mut port, 1);
                        drop(port);
                        // SAFETY: nothing is to be done at its exit.
                        unsafe { libc::_exit(0) };
                    }
                    ForkResult::Parent { child } => children.push(child),
                }
            }
            let deadline = Instant::now() + Duration::from_secs(60);
            for child in children {
                use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
                loop {
                    match waitpid(child, Some(WaitPidFlag::WNOHANG)).expect("a child") {
                        WaitStatus::StillAlive => {
                            assert!(Instant::now() < deadline, "a child waits for ever");
                            std::thread::yield_now();
                        }
                        status => break assert_eq!(status, WaitStatus::Exited(child, 0)),
                    }
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            busy.join().expect("a thread");
        });
        assert_eq!(ports_of("valeA"), ["r", "s"]);
    });
}

#[test]
fn bell_that_a_peer_shut_makes_no_handle_immortal() {
    use std::os::unix::fs::PermissionsExt;
    in_own_root("bell_that_a_peer_shut_makes_no_handle_immortal", |root| {
        let _kept = Port::open("valeA:k").expect("opened");
        let victim = fork(|ready| {
            std::mem::forget(Port::open("valeA:x").expect("opened"));
            ready();
        });
        let bell = root.join("valeA/bell.1");
        std::fs::set_permissions(bell, PermissionsExt::from_mode(0o000)).expect("ours");
        kill(victim);
        drop(Port::open("valeA:other").expect("opened"));
        assert_eq!(ports_of("valeA"), ["k"]);
    });
}

#[test]
fn all_handles_that_sleep_at_a_ring_are_woken() {
    in_own_root("all_handles_that_sleep_at_a_ring_are_woken", |_| {
        let mut sender = Port::open("valeA:s").expect("opened");
        let mut sleepers: Vec<Port> =
            (0..5).map(|_| Port::open("valeA:r").expect("opened")).collect();
        for round in 0..20 {
            for port in &mut sleepers {
                assert!(port.arm(Interest::RX).expect("armed").is_empty());
            }
            // One of them wakes by itself, which must not cost the others their ring.
            sleepers[round % 5].disarm();
            send(&mut sender, round as u32);
            let mut polled: Vec<_> = sleepers
                .iter()
                .map(|port| nix::poll::PollFd::new(port.fd(), port.events(Interest::RX)))
                .collect();
            nix::poll::poll(&mut polled, 10_000u16).expect("polled");
            let rung: Vec<bool> = polled.iter().map(|p| p.any().unwrap_or(false)).collect();
            for (i, rung) in rung.into_iter().enumerate() {
                assert_eq!(rung, i != round % 5, "handle {i} in round {round}");
            }
            sleepers.iter_mut().for_each(Port::disarm);
            assert_eq!(numbers(&mut sleepers[0]), [round as u32]);
        }
    });
}

#[test]
fn handles_that_wait_for_space_are_both_woken() {
    const NAME: &str = "handles_that_wait_for_space_are_both_woken";
    in_own_root(NAME, |_| {
        let lossless = SwitchOptions { backpressure: true, ..SwitchOptions::default() };
        Switch::create("valeA", &lossless).expect("made");
        let open = |name: &str| Port::open_with(&name.parse().unwrap(), &slots(64)).expect(name);
        let (mut receiver, mut one, mut other) =
            (open("valeA:r"), open("valeA:s"), open("valeA:s"));
        while one.tx(0).push(&frame(9, 1, 0, 60)) {}
        one.txsync().expect("synced");
        while one.tx(0).push(&frame(9, 1, 0, 60)) {}
        for port in [&mut one, &mut other] {
            assert!(port.arm(Interest::TX).expect("armed").is_empty());
        }
        assert_eq!(numbers(&mut receiver).len(), 63);
        receiver.rxsync().expect("synced");
        for port in [&one, &other] {
            let mut fds = [nix::poll::PollFd::new(port.fd(), port.events(Interest::TX))];
            assert_eq!(nix::poll::poll(&mut fds, 10_000u16), Ok(1));
        }
    });
}

#[test]
fn descriptor_that_was_told_to_wait_does_not_make_the_library_wait() {
    in_own_root("descriptor_that_was_told_to_wait_does_not_make_the_library_wait", |_| {
        let mut port = Port::open("valeA:x").expect("opened");
        fcntl(port.fd(), FcntlArg::F_SETFL(OFlag::empty())).expect("a flag");
        for _ in 0..3 {
            assert!(port.arm(Interest::RX).expect("armed").is_empty());
            port.disarm();
        }
    });
}

#[test]
fn process_without_a_descriptor_left_still_sends_and_rings() {
    const PORTS: usize = 60;
    in_own_root("process_without_a_descriptor_left_still_sends_and_rings", |_| {
        let open = |name: &str| Port::open_with(&name.parse().unwrap(), &slots(64)).expect(name);
        let mut sender = open("valeA:s");
        // Their descriptors are of this process, too, but all are open before none is left.
        let mut receivers: Vec<Port> = (0..PORTS).map(|i| open(&format!("valeA:p{i}"))).collect();
        for port in &mut receivers {
            assert!(port.arm(Interest::RX).expect("armed").is_empty());
        }
        let mut all = Vec::new();
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 256, 256)
            .expect("lowered");
        while let Ok(file) = std::fs::File::open("/dev/null") {
            all.push(file);
        }
        assert!(Port::open("valeA:none").is_err(), "what stays open needs a descriptor of its own");
        for number in 0..3 {
            assert!(sender.tx(0).push(&frame(0xff, 1, number, 60)));
            sender.txsync().expect("synced");
            for (i, port) in receivers.iter_mut().enumerate() {
                let mut fds = [nix::poll::PollFd::new(port.fd(), port.events(Interest::RX))];
                assert_eq!(nix::poll::poll(&mut fds, 10_000u16), Ok(1), "port {i} is deaf");
                port.disarm();
                assert_eq!(numbers(port), [number], "port {i}");
                assert!(port.arm(Interest::RX).expect("armed").is_empty());
            }
        }
        assert_eq!(sender.counters().tx_drops(), 0);
    });
}

#[test]
fn copies_of_a_descriptor_are_one_handle() {
    in_own_root("copies_of_a_descriptor_are_one_handle", |_| {
        let port = Port::open("valeA:x").expect("opened");
        let fd = copy(&port);
        let again = Port::from_fd(fd.as_fd().try_clone_to_owned().unwrap()).expect("a handle");
        let users = || Switch::open("valeA").unwrap().info().unwrap().ports[0].users.len();
        assert_eq!(users(), 1);
        drop(port);
        assert_eq!(users(), 1);
        drop(again);
        assert_eq!(users(), 1);
        drop(fd);
        assert_eq!(ports_of("valeA"), Vec::<String>::new());
    });
}
