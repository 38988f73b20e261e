//! Reads UDP datagrams at port 7000 and does some work on each: the program in the guest of scripts/nested whose
//! share of the processor a flood takes away. It says when it has read the first, by its own clock, and how many twice a
//! second from then on: who is starved speaks late.

use std::hint::black_box;
use std::io::Write;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// Passes over each datagram, unless an argument says otherwise: about as much time as the kernel needs for it.
const PASSES: u32 = 200;

fn main() -> std::io::Result<()> {
    let passes = match std::env::args().nth(1) {
        Some(passes) => passes.parse().map_err(std::io::Error::other)?,
        None => PASSES,
    };
    let socket = UdpSocket::bind(("0.0.0.0", 7000))?;
    let begin = Instant::now();
    let mut said = None::<Instant>;
    let mut buffer = [0; 2048];
    for count in 1_u64.. {
        let length = socket.recv(&mut buffer)?;
        for _ in 0..passes {
            let sum = buffer[..length]
                .iter()
                .fold(0_u32, |sum, &byte| sum.rotate_left(1) ^ u32::from(byte));
            black_box(sum);
        }
        let now = Instant::now();
        if said.is_none_or(|said| now - said >= Duration::from_millis(500)) {
            said = Some(now);
            let line = format!("reader {} {count}\n", (now - begin).as_millis());
            std::io::stdout().write_all(line.as_bytes())?;
        }
    }
    Ok(())
}
