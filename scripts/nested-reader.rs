//! Reads UDP datagrams at port 7000 and does some work on each: the program in the guest of scripts/nested whose
//! share of the processor a flood takes away. It says when it has read the first, by its own clock, and how many twice a
//! second from then on: who is starved speaks late. With the argument `tcp` it reads connections to port 7001, one after the
//! other, and counts bytes.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::time::{Duration, Instant};

/// Passes over each datagram, unless an argument says otherwise: about as much time as the kernel needs for it.
const PASSES: u32 = 200;

/// Says a count, twice a second.
struct Said {
    begin: Instant,
    last: Option<Instant>,
}

impl Said {
    fn new() -> Said {
        Said { begin: Instant::now(), last: None }
    }

    fn say(&mut self, count: u64) -> std::io::Result<()> {
        let now = Instant::now();
        if self.last.is_none_or(|last| now - last >= Duration::from_millis(500)) {
            self.last = Some(now);
            let line = format!("reader {} {count}\n", (now - self.begin).as_millis());
            std::io::stdout().write_all(line.as_bytes())?;
        }
        Ok(())
    }
}

fn main() -> std::io::Result<()> {
    let passes = match std::env::args().nth(1) {
        Some(word) if word == "tcp" => return read_streams(),
        Some(passes) => passes.parse().map_err(std::io::Error::other)?,
        None => PASSES,
    };
    let socket = UdpSocket::bind(("0.0.0.0", 7000))?;
    let mut said = Said::new();
    let mut buffer = [0; 2048];
    for count in 1_u64.. {
        let length = socket.recv(&mut buffer)?;
        for _ in 0..passes {
            let sum = buffer[..length]
                .iter()
                .fold(0_u32, |sum, &byte| sum.rotate_left(1) ^ u32::from(byte));
            black_box(sum);
        }
        said.say(count)?;
    }
    Ok(())
}

fn read_streams() -> std::io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", 7001))?;
    let mut said = Said::new();
    let mut buffer = [0; 65536];
    let mut bytes = 0;
    for stream in listener.incoming() {
        let mut stream = stream?;
        // A connection that is reset has ended, too.
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            bytes += length as u64;
            said.say(bytes)?;
        }
    }
    Ok(())
}
