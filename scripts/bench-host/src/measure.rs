//! What is measured between two namespaces: a TCP stream, a flood of short datagrams, pings.

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::net::{ADDRESS, Namespace};

/// Payload of a datagram whose frame has 64 bytes with its CRC.
const PAYLOAD: usize = 18;
const PINGS: usize = 200;

/// The figures of one run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// TCP payload received.
    pub tcp_bps: f64,
    /// Datagrams received.
    pub udp_pps: f64,
    /// Median of the round trips.
    pub ping_ns: f64,
}

impl Figures {
    /// The median of each.
    pub fn median(runs: &[Figures]) -> Figures {
        let of = |figure: fn(&Figures) -> f64| median(runs.iter().map(figure).collect());
        Figures {
            tcp_bps: of(|f| f.tcp_bps),
            udp_pps: of(|f| f.udp_pps),
            ping_ns: of(|f| f.ping_ns),
        }
    }

    /// As an object.
    pub fn json(&self) -> Value {
        json!({ "tcp_bps": self.tcp_bps, "udp_pps": self.udp_pps, "ping_p50_ns": self.ping_ns })
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Measures between `a` and `b`, which have their addresses.
pub fn measure(a: &Namespace, b: &Namespace, ms: u64) -> Result<Figures> {
    let end = Instant::now() + Duration::from_secs(20);
    // ARP, and ports of bridges that come up.
    while a.output(&format!("ping -c 1 -W 1 {}", ADDRESS[1])).is_err() {
        ensure!(Instant::now() < end, "the namespaces do not reach each other");
    }
    Ok(Figures { ping_ns: ping(a)?, tcp_bps: tcp(a, b, ms)?, udp_pps: udp(a, b, ms)? })
}

fn ping(a: &Namespace) -> Result<f64> {
    let said = a.output(&format!("ping -c {PINGS} -i 0.004 {}", ADDRESS[1]))?;
    let times = said.lines().filter_map(|line| {
        let (_, rest) = line.split_once("time=")?;
        rest.split(' ').next()?.parse::<f64>().ok()
    });
    let times: Vec<f64> = times.collect();
    ensure!(times.len() > PINGS / 2, "few pings come back: {said}");
    Ok(median(times) * 1e6)
}

/// Ended when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn tcp(a: &Namespace, b: &Namespace, ms: u64) -> Result<f64> {
    let mut command = b.command("iperf3 -s -1 --forceflush");
    let mut server = Server(command.stdout(Stdio::piped()).spawn().context("starting iperf3")?);
    let stdout = server.0.stdout.take().expect("piped");
    let mut lines = BufReader::new(stdout).lines().map_while(std::io::Result::ok);
    ensure!(lines.any(|line| line.contains("listening")), "iperf3 -s does not listen");
    // It must not be stopped by a full pipe.
    std::thread::spawn(move || lines.for_each(drop));
    let seconds = (ms as f64 / 1000.0).ceil();
    let said = a.output(&format!("iperf3 -J -c {} -t {seconds} -O 1", ADDRESS[1]))?;
    let report: Value = serde_json::from_str(&said)?;
    let bps = report.pointer("/end/sum_received/bits_per_second").and_then(Value::as_f64);
    bps.with_context(|| format!("iperf3 reports no rate: {said}"))
}

/// Floods, and counts what a program receives.
fn udp(a: &Namespace, b: &Namespace, ms: u64) -> Result<f64> {
    let receiver = b.inside(|| Ok(UdpSocket::bind((ADDRESS[1], 9000))?))?;
    let sender = a.inside(|| Ok(UdpSocket::bind((ADDRESS[0], 0))?))?;
    sender.connect((ADDRESS[1], 9000))?;
    receiver.set_read_timeout(Some(Duration::from_millis(100)))?;
    let (stop, time) = (AtomicBool::new(false), Duration::from_millis(ms));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..64 {
                    // Refused while the other end is not there yet, or the queue is full.
                    let _ = sender.send(&[0x5a; PAYLOAD]);
                }
            }
        });
        // What the first packets meet is not what is measured.
        let count = |time: Duration| {
            let (start, mut received, mut buf) = (Instant::now(), 0_u64, [0; 64]);
            while start.elapsed() < time {
                for _ in 0..64 {
                    received += u64::from(receiver.recv(&mut buf).is_ok());
                }
            }
            received as f64 / start.elapsed().as_secs_f64()
        };
        count(Duration::from_millis(200));
        let rate = count(time);
        stop.store(true, Ordering::Relaxed);
        Ok(rate)
    })
}
