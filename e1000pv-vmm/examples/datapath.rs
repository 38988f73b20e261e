//! What a packet costs the device: the transmit engine to a port and the receive engine from one, in
//! one thread, without a guest. A stub writes descriptors, outside of the measured time.
//!
//! ```text
//! cargo run --release -p e1000pv-vmm --example datapath -- [PORT] [DESCRIPTORS] [BYTES]
//! ```
//! PORT is `sink` (no port at all), `null:`, or `vale` (a switch of two ports; the other one reads).
//! Nanoseconds per packet, the best of nine rounds of about 40 ms each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use e1000_device::csb::CsbPage;
use e1000_device::harness::{Counted, MockPort, monotonic_ns};
use e1000_device::{Board, Clock, Config, E1000, GuestMemory, GuestRam, InterruptLine, NetPort};
use e1000pv::bits::{Rctl, Tctl};
use e1000pv::csb::{self, Csb, Field};
use e1000pv::desc::{LegacyTx, RxDesc, TxCmd};
use e1000pv::regs;
use e1000pv_vmm::net::netdev::NetmapPort;
use netmap::{Options, Port};

const RAM_BYTES: u64 = 64 << 20;
const TX_RING: u64 = 0x10_0000;
const RX_RING: u64 = 0x20_0000;
const CSB_AT: u64 = 0x30_0000;
const TX_BUFFERS: u64 = 0x100_0000;
const RX_BUFFERS: u64 = 0x200_0000;
/// 2048 and a line: see the overview, decision 4.
const STRIDE: u64 = 2048 + 64;
const SAMPLES: usize = 9;
const SAMPLE: Duration = Duration::from_millis(40);
/// Destination and source of every packet.
const ADDRESSES: [u8; 12] = [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1];

#[derive(Debug)]
struct Nowhere;

impl InterruptLine for Nowhere {
    fn set_intx(&self, _: bool) {}
}

impl Clock for Nowhere {
    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }
}

impl Board for Nowhere {
    fn set_doorbell(&self, _: bool) {}
    fn wake_io(&self) {}
}

/// A device with its rings set up, as a driver would.
struct Bench<P> {
    nic: E1000<GuestRam, P>,
    ram: GuestRam,
    csb: CsbPage<GuestRam>,
    n: u32,
}

impl<P: NetPort> Bench<P> {
    fn new(ram: &GuestRam, port: P, config: Config, n: u32, bytes: u16) -> Self {
        let config = Config { moderation: false, ..config };
        let counters = Arc::new(Counted::default());
        let nic = E1000::new(config, ram.clone(), port, Arc::new(Nowhere), counters);
        for i in 0..u64::from(n) {
            let mut frame = vec![0; usize::from(bytes)];
            frame[..12].copy_from_slice(&ADDRESSES);
            assert!(ram.write(TX_BUFFERS + i * STRIDE, &frame));
            let desc = LegacyTx {
                buffer_addr: TX_BUFFERS + i * STRIDE,
                length: bytes,
                cmd: TxCmd::EOP | TxCmd::IFCS,
                ..LegacyTx::default()
            };
            assert!(ram.write(TX_RING + 16 * i, &desc.to_bytes()));
            let desc = RxDesc { buffer_addr: RX_BUFFERS + i * STRIDE, ..RxDesc::default() };
            assert!(ram.write(RX_RING + 16 * i, &desc.to_bytes()));
        }
        let csb = CsbPage::new(ram, CSB_AT).expect("a page of memory");
        csb::guest_init(&csb, 0);
        csb.store(Field::GuestCsbOn, 1);
        csb.store(Field::GuestNeedRxkick, 0);
        let write = |offset: u32, value: u32| {
            nic.mmio_write(u64::from(offset), &value.to_le_bytes());
        };
        for (offset, value) in [
            (regs::TDBAL, TX_RING as u32),
            (regs::TDLEN, 16 * n),
            (regs::RDBAL, RX_RING as u32),
            (regs::RDLEN, 16 * n),
            (regs::CSBAL, CSB_AT as u32),
            (regs::RCTL, (Rctl::EN | Rctl::UPE | Rctl::SECRC).bits()),
            (regs::TCTL, Tctl::EN.bits()),
        ] {
            write(offset, value);
        }
        Self { nic, ram: ram.clone(), csb, n }
    }

    /// Nanoseconds per packet: `step` does some work and says how many packets and how long.
    fn measure(&mut self, mut step: impl FnMut(&mut Self) -> (u32, Duration)) -> f64 {
        let mut best = f64::INFINITY;
        for _ in 0..SAMPLES {
            let (mut packets, mut time) = (0u64, Duration::ZERO);
            while time < SAMPLE {
                let (n, t) = step(self);
                (packets, time) = (packets + u64::from(n), time + t);
            }
            best = best.min(time.as_nanos() as f64 / packets as f64);
        }
        best
    }

    fn rounds(&self) -> (u32, Duration) {
        let start = Instant::now();
        let mut work = 0;
        loop {
            let next = self.nic.round(0);
            work += next.work;
            if next.work == 0 || !next.again {
                return (work, start.elapsed());
            }
        }
    }

    fn transmit(&mut self) -> (u32, Duration) {
        let tdt = (self.csb.load(Field::GuestTdt) + self.n / 2) % self.n;
        self.csb.store(Field::GuestTdt, tdt);
        let done = self.rounds();
        assert_eq!(self.csb.load(Field::HostTdh), tdt, "everything was sent");
        done
    }

    fn receive(&mut self) -> (u32, Duration) {
        let rdt = (self.csb.load(Field::HostRdh) + self.n - 1) % self.n;
        for i in 0..u64::from(self.n) {
            self.ram.store_u32(RX_RING + 16 * i + 12, 0);
        }
        self.csb.store(Field::GuestRdt, rdt);
        let done = self.rounds();
        assert!(done.0 > 0, "there was something to receive");
        done
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |i: usize, default: &str| args.get(i).cloned().unwrap_or_else(|| default.into());
    let (kind, n, bytes) = (arg(0, "sink"), arg(1, "1024"), arg(2, "60"));
    let n: u32 = n.parse().expect("a number of descriptors, a multiple of 8");
    let bytes: u16 = bytes.parse().expect("a number of bytes");
    let ram = GuestRam::anonymous(RAM_BYTES).expect("memory");
    let config = |more| Config { more, ..Config::default() };
    let slots = n.next_power_of_two().clamp(64, 4096) as usize;
    let mut frame = vec![0; usize::from(bytes)];
    frame[..12].copy_from_slice(&ADDRESSES);
    match kind.as_str() {
        "sink" => {
            let port = MockPort::new(slots, true).sink();
            let mut bench = Bench::new(&ram, port, config(true), n, bytes);
            println!("transmit, to a sink:    {:6.1} ns", bench.measure(Bench::transmit));
            let port = MockPort::new(slots, true).endless(&frame);
            let mut bench = Bench::new(&ram, port, config(true), n, bytes);
            println!("receive, from a source: {:6.1} ns", bench.measure(Bench::receive));
        }
        name => {
            let vale = name == "vale";
            let slots = slots as u32;
            let options =
                Options { tx_slots: Some(slots), rx_slots: Some(slots), ..Options::default() };
            let switch = format!("valeBench{}", std::process::id());
            let near = if vale { format!("{switch}:near") } else { name.to_string() };
            let near = near.parse().expect("a port's name");
            let mut far = vale.then(|| {
                Port::open_with(&format!("{switch}:far").parse().expect("a port's name"), &options)
                    .expect("a port")
            });
            for (what, indirect, more) in [
                ("copy", false, true),
                ("indirect", true, true),
                ("indirect, no more", true, false),
            ] {
                let port = NetmapPort::open(&near, &options, &ram, indirect).expect("a port");
                let mut bench = Bench::new(&ram, port, config(more), n, bytes);
                let cost = bench.measure(|bench| {
                    let done = bench.transmit();
                    if let Some(far) = &mut far {
                        far.rxsync().expect("a switch");
                        let mut ring = far.rx(0);
                        let got = ring.available();
                        assert_eq!(got as u32, done.0, "nothing is lost");
                        ring.advance(got);
                        far.rxsync().expect("a switch");
                    }
                    done
                });
                println!("transmit, {what}: {cost:6.1} ns");
                let Some(far) = &mut far else { continue };
                let cost = bench.measure(|bench| {
                    far.rxsync().expect("a switch");
                    let mut ring = far.tx(0);
                    let count = ring.space().min(n as usize / 2);
                    for i in 0..count {
                        let slot = ring.slot(i);
                        slot.frame().write(0, &frame);
                        slot.set(frame.len(), netmap::SlotFlags::empty());
                    }
                    ring.advance(count);
                    far.txsync().expect("a switch");
                    bench.receive()
                });
                println!("receive, {what}: {cost:6.1} ns");
            }
        }
    }
}
