//! The processes of a measurement: this program started again as a sender, a receiver, an echo or
//! a port that only sits there. Each says `ready`, waits for a line on stdin, works for a time and
//! prints one JSON object.

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use anyhow::Result;
use netmap::{Interest, Options, Port, SlotFlags, TxRing, Wait};
use serde_json::{Value, json};

/// How the processes of one measurement are set up.
#[derive(Clone, Debug, clap::Args)]
pub struct Role {
    /// Port to open
    pub port: String,
    /// CPU to run on
    pub cpu: usize,
    /// Bytes per packet
    #[arg(long, default_value_t = 60)]
    pub len: usize,
    /// Packets per txsync
    #[arg(long, default_value_t = 512)]
    pub burst: usize,
    /// Slots per ring
    #[arg(long)]
    pub slots: Option<u32>,
    /// Milliseconds to work
    #[arg(long, default_value_t = 1000)]
    pub ms: u64,
    /// Last bytes of the destination addresses; `ff` floods
    #[arg(long, default_value_t = 0xff)]
    pub dst: u8,
    /// Number of source and destination addresses to go through
    #[arg(long, default_value_t = 1)]
    pub macs: u32,
    /// Write the destination to each packet, also if it is always the same
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set)]
    pub rewrite: bool,
    /// Send one packet in memory of the sender's own, by reference, as nm-pktgen does with equal packets
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set)]
    pub reference: bool,
    /// Write each packet anew, all of it, into the buffer of its slot
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set)]
    pub anew: bool,
    /// Exchange the buffers of the slots that are next with those that were sent last
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set)]
    pub exchange: bool,
    /// Slots of the transmit ring, if it has another number of them
    #[arg(long)]
    pub tx_slots: Option<u32>,
    /// Own number: last byte of the source address
    #[arg(long, default_value_t = 1)]
    pub me: u8,
    /// How to wait
    #[arg(long, default_value = "busy")]
    pub wait: Wait,
}

/// The address number `i` of station `station`; station 255 is everybody.
fn mac(station: u8, i: u32) -> [u8; 6] {
    if station == 0xff {
        return [0xff; 6];
    }
    let i = i.to_be_bytes();
    [2, station, i[0], i[1], i[2], i[3]]
}

impl Role {
    fn open(&self) -> Result<Port> {
        crate::pin(self.cpu);
        let options = Options {
            tx_slots: self.tx_slots.or(self.slots),
            rx_slots: self.slots,
            ..Options::default()
        };
        Ok(Port::open_with(&self.port.parse()?, &options)?)
    }

    /// The packet that a TX buffer holds.
    fn packet(&self) -> Vec<u8> {
        let mut packet = vec![0u8; self.len];
        packet[..6].copy_from_slice(&mac(self.dst, 0));
        packet[6..12].copy_from_slice(&mac(self.me, 0));
        packet[12..14].copy_from_slice(&[8, 0]);
        packet
    }

    /// Announces own addresses, so that the switch knows where they are.
    fn announce(&self, port: &mut Port, addresses: u32) -> Result<()> {
        let mut packet = vec![0u8; 60];
        packet[..6].fill(0xff);
        packet[12..14].copy_from_slice(&[0x88, 0xb5]);
        for i in 0..addresses {
            packet[6..12].copy_from_slice(&mac(self.me, i));
            while !port.tx(0).push(&packet) {
                port.txsync()?;
            }
        }
        port.txsync()?;
        Ok(())
    }

    /// Sends as fast as it can.
    pub fn send(&self) -> Result<Value> {
        let mut port = self.open()?;
        self.announce(&mut port, 1)?;
        ready()?;
        let before = port.counters();
        let n = port.tx(0).num_slots() as u32;
        let packet: &'static [u8] = self.packet().leak();
        if self.reference {
            port.allow_indirect_static(packet)?;
        }
        // As pkt-gen does: each buffer is filled once and keeps its contents.
        let mut filled = vec![false; n as usize];
        let mut unfilled = n;
        let rounds = self.macs.div_ceil(n);
        let mut round = 0;
        let start = Instant::now();
        let time = Duration::from_millis(self.ms);
        while start.elapsed() < time {
            for _ in 0..16 {
                let mut ring = port.tx(0);
                let count = ring.space().min(self.burst);
                if self.exchange {
                    exchange(&mut ring, count);
                }
                // Two loops: the question, asked for each packet, costs the other one a twentieth.
                for i in 0..if self.reference { count } else { 0 } {
                    let slot = ring.slot(i);
                    slot.set_indirect(packet.as_ptr(), self.len, SlotFlags::empty());
                }
                for i in 0..if self.reference { 0 } else { count } {
                    let slot = ring.slot(i);
                    if self.anew {
                        slot.frame().write(0, packet);
                    } else if unfilled > 0 && !std::mem::replace(&mut filled[slot.index()], true) {
                        slot.frame().write(0, packet);
                        unfilled -= 1;
                    }
                    if self.macs > 1 || self.rewrite {
                        // The cost of writing an address is the same for any number of them.
                        let number = (slot.index() as u32 + round * n) % self.macs;
                        let m = mac(self.dst, number);
                        let word =
                            u64::from_le_bytes([m[0], m[1], m[2], m[3], m[4], m[5], 2, self.me]);
                        slot.frame().put_u64(0, word);
                        if slot.index() as u32 == n - 1 {
                            round = (round + 1) % rounds;
                        }
                    }
                    slot.set(self.len, SlotFlags::empty());
                }
                ring.advance(count);
                port.txsync()?;
                if count == 0 {
                    // Only with backpressure: the destination is full.
                    port.wait(Interest::TX, self.wait, Some(Duration::from_millis(10)))?;
                }
            }
        }
        let c = port.counters().since(&before);
        Ok(json!({"packets": c.tx_packets, "drops": c.tx_drops(), "rung": c.doorbells_rung,
                  "suppressed": c.doorbells_suppressed, "seconds": start.elapsed().as_secs_f64()}))
    }

    /// Reads every packet.
    pub fn receive(&self) -> Result<Value> {
        let mut port = self.open()?;
        self.announce(&mut port, self.macs)?;
        ready()?;
        let (mut packets, mut bytes, mut sum, mut batches) = (0u64, 0u64, 0u64, 0u64);
        let time = Duration::from_millis(self.ms);
        // What was there before the start does not count.
        port.rxsync()?;
        let start = Instant::now();
        while start.elapsed() < time {
            let ready = port.wait(Interest::RX, self.wait, Some(Duration::from_millis(10)))?;
            if ready.is_empty() {
                continue;
            }
            let mut ring = port.rx(0);
            let n = ring.available();
            for slot in ring.batch(n) {
                sum = sum.wrapping_add(slot.frame().touch());
                bytes += slot.len() as u64;
            }
            ring.advance(n);
            packets += n as u64;
            batches += 1;
        }
        std::hint::black_box(sum);
        let seconds = start.elapsed().as_secs_f64();
        Ok(json!({"packets": packets, "bytes": bytes, "batches": batches, "seconds": seconds,
                  "pps": packets as f64 / seconds, "wakeups": port.counters().wakeups}))
    }

    /// Sends every packet back.
    pub fn echo(&self) -> Result<Value> {
        let mut port = self.open()?;
        self.announce(&mut port, 1)?;
        ready()?;
        let start = Instant::now();
        let mut packet = vec![0u8; self.len];
        while start.elapsed() < Duration::from_millis(self.ms) {
            if port.wait(Interest::RX, self.wait, Some(Duration::from_millis(10)))?.is_empty() {
                continue;
            }
            loop {
                let mut ring = port.rx(0);
                if ring.available() == 0 {
                    break;
                }
                ring.slot(0).frame().copy_to(&mut packet);
                ring.advance(1);
                let (to, from) = packet.split_at_mut(6);
                to.swap_with_slice(&mut from[..6]);
                port.tx(0).push(&packet);
                port.txsync()?;
            }
        }
        Ok(json!({}))
    }

    /// Measures round trips to an echo.
    pub fn ping(&self) -> Result<Value> {
        let mut port = self.open()?;
        self.announce(&mut port, 1)?;
        ready()?;
        let mut packet = vec![0u8; self.len];
        packet[..6].copy_from_slice(&mac(self.dst, 0));
        packet[6..12].copy_from_slice(&mac(self.me, 0));
        let mut histogram = hdrhistogram::Histogram::<u64>::new(3)?;
        let mut lost = 0u64;
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(self.ms) {
            let sent = Instant::now();
            port.tx(0).push(&packet);
            port.txsync()?;
            if port.wait(Interest::RX, self.wait, Some(Duration::from_millis(100)))?.is_empty() {
                lost += 1;
                continue;
            }
            let mut ring = port.rx(0);
            let n = ring.available();
            ring.advance(n);
            histogram.record(sent.elapsed().as_nanos() as u64)?;
        }
        Ok(json!({"round_trips": histogram.len(), "lost": lost,
                  "p50_ns": histogram.value_at_quantile(0.5),
                  "p99_ns": histogram.value_at_quantile(0.99)}))
    }

    /// Holds ports open until stdin ends.
    pub fn idle(&self, ports: usize) -> Result<Value> {
        let options = Options { tx_slots: Some(64), rx_slots: Some(64), ..Options::default() };
        let held = (0..ports)
            .map(|i| Ok(Port::open_with(&format!("{}{i}", self.port).parse()?, &options)?))
            .collect::<Result<Vec<_>>>()?;
        ready()?;
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        Ok(json!({"held": held.len()}))
    }
}

/// Gives the next `count` slots the buffers that were sent last, in their order: all free slots are the program's.
fn exchange(ring: &mut TxRing<'_>, count: usize) {
    let space = ring.space();
    for i in 0..count.min(space / 2) {
        let (cold, warm) = (ring.slot(i), ring.slot(space - count + i));
        let buf_idx = cold.swap_buffer(warm.buf_idx());
        warm.swap_buffer(buf_idx);
    }
}

/// Tells the parent that everything is set up, and waits for its word.
fn ready() -> Result<()> {
    println!("ready");
    std::io::stdout().flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(())
}
