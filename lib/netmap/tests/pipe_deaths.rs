//! Pipes whose users are killed in the middle of whatever they do: senders, readers that exchange buffers, both.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::rng::Rng;
use common::{frame, in_own_root, number, read, send_for_ever, slots};
use netmap::{Interest, Options, Port, Wait};

const CHILD: &str = "NM_TEST_PIPE_CHILD";
const SLOTS: u32 = 128;
const DEADLINE: Duration = Duration::from_secs(20);

fn open(name: &str, extra_bufs: u32) -> Port {
    let options = Options { extra_bufs, ..slots(SLOTS) };
    Port::open_with(&name.parse().expect(name), &options).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// What the child is told, if this is one.
fn told() -> Option<String> {
    std::env::var(CHILD).ok()
}

/// Starts this test again as a child and waits until it is ready.
fn start(test: &str, tell: &str) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().expect("the test binary"))
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, tell)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child starts");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("ready") {
        line.clear();
        assert_ne!(out.read_line(&mut line).expect("text"), 0, "the child ended early");
    }
    (child, out)
}

fn kill(child: &mut Child) {
    assert!(child.try_wait().expect("a child").is_none(), "it ended by itself");
    child.kill().expect("killed");
    child.wait().expect("gone");
}

fn intact(packet: &[u8]) -> u32 {
    let number = number(packet);
    assert!(packet == frame(9, 1, number, packet.len()), "torn packet {number}");
    number
}

fn assert_nothing_is_left(root: &Path) {
    drop(Port::open("valeD:other").expect("opened")); // which clears away the dead
    let left = std::fs::read_dir(root.join("mem")).expect("the directory of regions").count();
    assert!(!root.join("valeD").exists() && left == 0, "{left} regions are left");
}

#[test]
fn next_user_of_a_dead_senders_end_sends_what_is_queued_and_nothing_is_lost_or_sent_twice() {
    const NAME: &str =
        "next_user_of_a_dead_senders_end_sends_what_is_queued_and_nothing_is_lost_or_sent_twice";
    if let Some(first) = told() {
        send_for_ever(open("valeD:x{1", 0), first.parse().expect("a number"));
    }
    in_own_root(NAME, |root| {
        let mut reader = open("valeD:x}1", 0);
        for round in 1..=60 {
            let (mut child, _out) = start(NAME, &(round << 24).to_string());
            let mut seen: Vec<u32> = Vec::new();
            // Long enough for some hundred syncs; where in one of them it dies is chance.
            let end = Instant::now() + Duration::from_micros(1500 + u64::from(round) * 37);
            while Instant::now() < end || seen.is_empty() {
                seen.extend(read(&mut reader, 0, usize::MAX).iter().map(|p| intact(p)));
            }
            kill(&mut child);
            let mut heir = open("valeD:x{1", 0);
            let start = Instant::now();
            while heir.tx(0).space() < SLOTS as usize - 1 {
                heir.txsync().expect("synced");
                seen.extend(read(&mut reader, 0, usize::MAX).iter().map(|p| intact(p)));
                assert!(start.elapsed() < DEADLINE, "{} slots are not sent", heir.tx(0).pending());
            }
            let all: Vec<u32> = (round << 24..).take(seen.len()).collect();
            assert_eq!(seen, all, "round {round}");
        }
        drop(reader);
        assert_nothing_is_left(root);
    });
}

/// The numbers that a child writes, taken while it lives: its pipe holds some ten thousand, and then it would read no
/// more packets. A line without its end was being written when it was killed.
fn numbers_of(mut out: BufReader<ChildStdout>) -> JoinHandle<Vec<u32>> {
    std::thread::spawn(move || {
        let (mut line, mut numbers) = (String::new(), Vec::new());
        while out.read_line(&mut line).expect("text") > 0 && line.ends_with('\n') {
            numbers.push(line.trim().parse().expect("a number"));
            line.clear();
        }
        numbers
    })
}

/// Most packets that a reader reads before it releases them.
const BATCH: usize = 40;

/// Up to where packets have been read by the last reader, who read `numbers` where another had read up to `start`.
///
/// It begins with those that the dead one had read, and told us, but not released. Some of these slots may have the buffers that
/// the dead one was about to release in place of the packets', with older packets in them.
fn read_after(start: u32, numbers: &[u32]) -> u32 {
    let again = numbers.iter().take(BATCH).take_while(|&&number| number < start).count();
    let new: Vec<u32> = (start..).take(numbers.len() - again).collect();
    assert_eq!(numbers[again..], new, "after {start}, and {again} again");
    start + new.len() as u32
}

/// Reads, says what it read, puts other buffers into some of the slots, and releases.
fn read_for_ever() -> ! {
    let (mut port, mut rng) = (open("valeD:x}1", 8), Rng::random());
    let mut pool = port.extra_buffers();
    let mut out = std::io::stdout();
    writeln!(out, "ready").expect("written");
    loop {
        port.wait(Interest::RX, Wait::default(), None).expect("waited");
        let mut rx = port.rx(0);
        let n = rx.available().min(1 + rng.below(BATCH as u64) as usize);
        let lines: String =
            rx.batch(n).map(|slot| format!("{}\n", intact(&slot.frame().to_vec()))).collect();
        out.write_all(lines.as_bytes()).expect("written");
        for i in 0..n {
            if rng.below(4) > 0 {
                continue;
            }
            let at = rng.below(pool.len() as u64) as usize;
            pool[at] = rx.slot(i).swap_buffer(pool[at]);
        }
        rx.advance(n);
        port.rxsync().expect("synced");
    }
}

#[test]
fn next_reader_goes_on_where_a_dead_one_was_and_no_buffer_is_in_two_slots() {
    const NAME: &str = "next_reader_goes_on_where_a_dead_one_was_and_no_buffer_is_in_two_slots";
    if told().is_some() {
        read_for_ever();
    }
    in_own_root(NAME, |root| {
        let mut sender = open("valeD:x{1", 0);
        let (mut next, mut read_up_to) = (0, 0);
        for round in 0..40 {
            let (mut child, out) = start(NAME, "read");
            let numbers = numbers_of(out);
            let end = Instant::now() + Duration::from_micros(1500 + round * 97);
            let before = next;
            while Instant::now() < end || next < before + SLOTS {
                while sender.tx(0).push(&frame(9, 1, next, 60)) {
                    next += 1;
                }
                let wait = sender.wait(Interest::SPACE, Wait::default(), Some(DEADLINE));
                assert_eq!(wait.expect("waited"), Interest::SPACE, "at {next}");
            }
            kill(&mut child);
            let numbers = numbers.join().expect("they were read");
            read_up_to = read_after(read_up_to, &numbers);
        }
        // What the last one has not released.
        let mut reader = open("valeD:x}1", 0);
        let start = Instant::now();
        let mut rest = Vec::new();
        while sender.tx(0).space() < SLOTS as usize - 1 {
            rest.extend(read(&mut reader, 0, usize::MAX).iter().map(|p| intact(p)));
            sender.txsync().expect("synced");
            assert!(start.elapsed() < DEADLINE, "it stands still");
        }
        assert_eq!(read_after(read_up_to, &rest), next);
        let tx = &mut sender.tx(0);
        let mut buffers: Vec<u32> = (0..tx.space()).map(|i| tx.slot(i).buf_idx()).collect();
        buffers.sort_unstable();
        assert!(buffers.windows(2).all(|w| w[0] != w[1]), "a buffer is in two slots");
        drop((reader, sender));
        assert_nothing_is_left(root);
    });
}

/// Sends and reads at one end, and exchanges buffers.
fn both_for_ever(end: &str) -> ! {
    let (mut port, mut rng) = (open(&format!("valeD:x{end}1"), 4), Rng::random());
    let mut pool = port.extra_buffers();
    let mut next = 0;
    println!("ready");
    loop {
        for _ in 0..rng.below(50) {
            next += u32::from(port.tx(0).push(&frame(9, 1, next, 60 + rng.below(3000) as usize)));
        }
        port.txsync().expect("synced");
        let _ = port.wait(Interest::RX, Wait::Block, Some(Duration::from_millis(1)));
        for packet in read(&mut port, 0, rng.below(40) as usize) {
            intact(&packet);
        }
        let mut tx = port.tx(0);
        if tx.space() > 0 {
            let at = rng.below(pool.len() as u64) as usize;
            pool[at] = tx.slot(0).swap_buffer(pool[at]);
        }
    }
}

#[test]
fn ends_that_are_killed_again_and_again_leave_whole_packets_and_no_memory() {
    const NAME: &str = "ends_that_are_killed_again_and_again_leave_whole_packets_and_no_memory";
    if let Some(end) = told() {
        both_for_ever(&end);
    }
    in_own_root(NAME, |root| {
        let mut rng = Rng::random();
        let mut ends = ["{", "}"].map(|end| (end, start(NAME, end)));
        for _ in 0..80 {
            let end = Instant::now() + Duration::from_micros(rng.below(8000));
            while Instant::now() < end {
                std::thread::yield_now();
            }
            // Now and then both at once: then all begins anew.
            let both = rng.below(5) == 0;
            let first = rng.below(2) as usize;
            for i in if both { 0..2 } else { first..first + 1 } {
                kill(&mut ends[i].1.0);
            }
            for i in if both { 0..2 } else { first..first + 1 } {
                ends[i].1 = start(NAME, ends[i].0);
            }
        }
        ends.iter_mut().for_each(|(_, (child, _))| kill(child));
        assert_nothing_is_left(root);
    });
}
