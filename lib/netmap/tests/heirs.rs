//! One TX ring, two handles in two processes: one is killed in the middle of whatever it does, the
//! other goes on with the ring. Nothing is sent twice or out of order, and what is lost is counted and no
//! more than a batch.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{frame, in_own_root, number, read, send_for_ever, slots};
use netmap::Port;
use netmap::control::{Switch, SwitchOptions};

const CHILD: &str = "NM_TEST_HEIR_FROM";
const ROUNDS: u32 = 60;
const SLOTS: u32 = 256;

#[test]
fn heirs_of_a_killed_sender_send_nothing_twice_and_lose_one_batch() {
    if let Some(from) = std::env::var_os(CHILD) {
        send_for_ever(
            Port::open("valeH:t").expect("opened"),
            from.to_str().and_then(|n| n.parse().ok()).expect("a number"),
        );
    }
    const NAME: &str = "heirs_of_a_killed_sender_send_nothing_twice_and_lose_one_batch";
    in_own_root(NAME, |_| {
        let lossless = SwitchOptions { backpressure: true, ..SwitchOptions::default() };
        Switch::create("valeH", &lossless).expect("made");
        let open = |name: &str| Port::open_with(&name.parse().unwrap(), &slots(SLOTS)).expect(name);
        let (mut receiver, mut heir) = (open("valeH:r"), open("valeH:t"));
        let mut lost_in_all = 0;
        for round in 1..=ROUNDS {
            let first = round << 24;
            let mut child = Command::new(std::env::current_exe().expect("the test binary"))
                .args([NAME, "--exact", "--nocapture"])
                .env(CHILD, first.to_string())
                .stdout(Stdio::piped())
                .spawn()
                .expect("a sender starts");
            let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
            assert!(lines.any(|line| line.expect("text").contains("ready")));
            let before = heir.counters().tx_drop_dead;
            let mut seen: Vec<u32> = Vec::new();
            // Long enough for some hundred syncs; where in one of them it dies is chance.
            let end = Instant::now() + Duration::from_micros(1500 + u64::from(round) * 37);
            while Instant::now() < end || seen.is_empty() {
                seen.extend(read(&mut receiver, 0, usize::MAX).iter().map(|p| number(p)));
            }
            child.kill().expect("killed");
            child.wait().expect("gone");
            // The heir sends what is queued, while the receiver makes room.
            let deadline = Instant::now() + Duration::from_secs(20);
            loop {
                heir.txsync().expect("synced");
                seen.extend(read(&mut receiver, 0, usize::MAX).iter().map(|p| number(p)));
                let left = heir.tx(0).pending();
                if left == 0 && heir.tx(0).space() == SLOTS as usize - 1 {
                    break;
                }
                assert!(Instant::now() < deadline, "round {round}: {left} slots are not sent");
            }
            assert!(seen.windows(2).all(|w| w[0] < w[1]), "round {round}: twice or out of order");
            assert!(seen[0] >= first, "round {round}: a packet of an earlier round");
            let lost = heir.counters().tx_drop_dead - before;
            let missing = u64::from(seen[seen.len() - 1] - first) + 1 - seen.len() as u64;
            // What was claimed may have been published in part.
            assert!(missing <= lost, "round {round}: {missing} missing, {lost} counted");
            assert!(lost < SLOTS.into(), "round {round}: {lost} lost");
            lost_in_all += lost;
        }
        println!("{ROUNDS} senders killed, {lost_in_all} slots lost");
    });
}

#[test]
fn second_handle_on_a_ring_that_nobody_else_syncs_goes_on_where_the_first_was() {
    in_own_root(
        "second_handle_on_a_ring_that_nobody_else_syncs_goes_on_where_the_first_was",
        |_| {
            let mut receiver = Port::open("valeH:r").expect("opened");
            let (mut one, mut other) =
                (Port::open("valeH:t").expect("opened"), Port::open("valeH:t").expect("opened"));
            for number in 0..100 {
                let port = if number % 2 == 0 { &mut one } else { &mut other };
                assert!(port.tx(0).push(&frame(9, 1, number, 60)));
                if number % 3 == 0 {
                    port.txsync().expect("synced");
                }
            }
            other.txsync().expect("synced");
            let seen: Vec<u32> = read(&mut receiver, 0, 200).iter().map(|p| number(p)).collect();
            assert_eq!(seen, (0..100).collect::<Vec<u32>>());
            assert_eq!(one.counters().tx_packets, 100);
        },
    );
}

#[test]
fn forked_child_opens_ports_of_its_own_that_nobody_takes_for_dead() {
    const NAME: &str = "forked_child_opens_ports_of_its_own_that_nobody_takes_for_dead";
    in_own_root(NAME, |_| {
        let _parents = Port::open("valeF:a").expect("opened");
        let (mut told, tell) = std::io::pipe().expect("a pipe");
        // SAFETY: the only other thread of this process waits for this one, and holds no lock.
        let child = match unsafe { nix::unistd::fork() }.expect("forked") {
            nix::unistd::ForkResult::Child => {
                let port = Port::open("valeF:b").expect("opened");
                (&tell).write_all(b"!").expect("written");
                loop {
                    std::hint::black_box(&port);
                    std::thread::park();
                }
            }
            nix::unistd::ForkResult::Parent { child } => child,
        };
        drop(tell);
        told.read_exact(&mut [0]).expect("the child has opened its port");
        drop(Port::open("valeF:c").expect("opened")); // which clears away the dead
        let names = || {
            let info = Switch::open("valeF").expect("there").info().expect("read");
            info.ports.into_iter().map(|port| port.name).collect::<Vec<_>>()
        };
        let while_both_live = names();
        nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).expect("killed");
        nix::sys::wait::waitpid(child, None).expect("gone");
        assert_eq!(while_both_live, ["a", "b"]);
        assert_eq!(names(), ["a"]);
    });
}
