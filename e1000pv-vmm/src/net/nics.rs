//! The NICs of a machine: device, port, board and I/O thread put together, and taken apart in order.
//!
//! Invariant: a port is closed only after its I/O thread and the vCPUs no longer use it, also if setting up the
//! machine fails.

use std::fmt;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow};
use e1000_device::{Board, Config, E1000, GuestRam};
use kvm_ioctls::VmFd;
use netmap::{Options, PortName};
use vmm_sys_util::eventfd::EventFd;

use crate::host::event::{event, owned};
use crate::host::load::Load;
use crate::host::sandbox::{self, Role};
use crate::host::thread::{begin_thread, thread_cpu_ns};
use crate::machine::intx::Intx;
use crate::machine::pci::Endpoint;
use crate::machine::pci::config::May;
use crate::machine::registers::Registers;
use crate::net::board::{Doorbell, NicBoard};
use crate::net::iothread::{self, Wakers};
use crate::net::limiter::{Limiter, RxLimit};
use crate::net::netdev::NetmapPort;
use crate::net::notify::Notify;
use crate::stats::counters::VmCounters;

/// Slots that a ring of a netmap port can have.
const PORT_SLOTS: RangeInclusive<u32> = 64..=4096;

/// A NIC and the port behind it.
#[derive(Clone, Debug)]
pub struct NicPlan {
    /// The port.
    pub port: PortName,
    /// The device.
    pub config: Config,
    /// Guest memory goes to the port by address.
    pub indirect: bool,
    /// What it takes from its port at most.
    pub rx_limit: Option<RxLimit>,
    /// Descriptors of the guest's rings, as far as is known: as long are those of the port.
    pub slots: u32,
    /// The CPU that its I/O thread is bound to, if any.
    pub cpu: Option<usize>,
}

/// A NIC that is not served yet.
#[derive(Debug)]
pub struct Nic {
    device: Arc<E1000<GuestRam, NetmapPort>>,
    board: Arc<NicBoard>,
    kick: OwnedFd,
    wake: EventFd,
    cpu: Option<usize>,
}

impl Nic {
    /// Its registers, for the bus.
    pub fn registers(&self) -> Arc<dyn Registers> {
        Arc::clone(&self.device) as Arc<dyn Registers>
    }

    /// What is behind its configuration space.
    pub fn endpoint(&self) -> Arc<dyn Endpoint> {
        Arc::new(Function { device: Arc::clone(&self.device), board: Arc::clone(&self.board) })
    }
}

/// A NIC on the PCI bus.
#[derive(Debug)]
struct Function {
    device: Arc<E1000<GuestRam, NetmapPort>>,
    board: Arc<NicBoard>,
}

impl Endpoint for Function {
    fn moved(&self, memory: Option<u32>) {
        self.board.moved(memory);
    }

    fn may(&self, may: May) {
        self.device.set_bus_master(may.master);
        self.device.set_intx_disabled(!may.interrupt);
    }

    fn is_interrupting(&self) -> bool {
        self.device.is_interrupting()
    }

    fn reset(&self) {
        self.device.reset();
    }
}

/// Opens the port of a NIC exclusively, because two machines on one port would each get a part of its packets. If
/// that creates the port, its rings are as long as the guest's.
fn open(nic: &NicPlan, ram: &GuestRam, load: &Arc<Load>) -> anyhow::Result<NetmapPort> {
    let name = &nic.port;
    let slots = Some(nic.slots.clamp(*PORT_SLOTS.start(), *PORT_SLOTS.end()));
    let any = Options { exclusive: true, ..Options::default() };
    let wanted = Options { tx_slots: slots, rx_slots: slots, ..any.clone() };
    NetmapPort::open(name, &wanted, ram, nic.indirect)
        // An existing port with rings of other sizes can be used, too.
        .or_else(|first| NetmapPort::open(name, &any, ram, nic.indirect).map_err(|_| first))
        .map(|port| port.with_limit(nic.rx_limit.map(|limit| Limiter::new(limit, load))))
        .with_context(|| format!("opening port {name}"))
}

/// Makes the NICs of a machine whose vCPUs' load is `load`. With `vm`, their doorbells are ioeventfds of it.
pub fn make(
    plans: &[NicPlan],
    ram: &GuestRam,
    intx: &Arc<Intx>,
    counters: &VmCounters,
    load: &Arc<Load>,
    vm: Option<&Arc<VmFd>>,
) -> anyhow::Result<Vec<Nic>> {
    let make = |(index, nic): (usize, &NicPlan)| -> anyhow::Result<Nic> {
        let port = open(nic, ram, load)?;
        let (kick, wake) = (event()?, event()?);
        let doorbell = match vm {
            Some(vm) => Some(Doorbell::new(Arc::clone(vm), kick.try_clone()?)),
            None => None,
        };
        let board = NicBoard::new(index, Arc::clone(intx), wake.try_clone()?, doorbell);
        let board = Arc::new(board);
        let around = Arc::clone(&board) as Arc<dyn Board>;
        let device = E1000::new(
            nic.config.clone(),
            ram.clone(),
            port,
            around,
            Arc::new(counters.nic(index)),
        );
        Ok(Nic { device: Arc::new(device), board, kick: owned(kick), wake, cpu: nic.cpu })
    };
    plans.iter().enumerate().map(make).collect()
}

/// An I/O thread.
struct Served {
    thread: JoinHandle<anyhow::Result<u64>>,
    wake: EventFd,
}

/// NICs that are served, each by a thread.
pub struct Service {
    stop: Arc<AtomicBool>,
    served: Vec<Served>,
    devices: Vec<Arc<E1000<GuestRam, NetmapPort>>>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("threads", &self.served.len()).finish_non_exhaustive()
    }
}

impl Service {
    /// Starts to serve. `ended` is signalled if a thread fails.
    pub fn start(
        nics: Vec<Nic>,
        notify: Notify,
        confined: bool,
        ended: &EventFd,
    ) -> anyhow::Result<Service> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut service = Service { stop, served: Vec::new(), devices: Vec::new() };
        for (index, nic) in nics.into_iter().enumerate() {
            let filter = confined.then(|| sandbox::filter(Role::Io)).transpose()?;
            let wake = nic.wake.try_clone()?;
            service.devices.push(Arc::clone(&nic.device));
            let stop = Arc::clone(&service.stop);
            let (ended, cpu) = (ended.try_clone()?, nic.cpu);
            let serve = move || -> anyhow::Result<u64> {
                begin_thread(cpu, filter.as_ref())?;
                let Nic { device, kick, wake, .. } = nic;
                let wake = owned(wake);
                let wakers = Wakers { kick: kick.as_fd(), wake: wake.as_fd(), stop: &stop };
                iothread::run(&device, wakers, &notify).context("waiting for work")?;
                Ok(thread_cpu_ns())
            };
            let thread = thread::Builder::new()
                .name(format!("nic{index}"))
                .spawn(move || {
                    let result = serve();
                    if result.is_err() {
                        let _ = ended.write(1); // it cannot overflow, since it is written only here
                    }
                    result
                })
                .context("starting an I/O thread")?;
            service.served.push(Served { thread, wake });
        }
        Ok(service)
    }

    /// The operator takes the link of a NIC, or of all, down or lets it up. False: there is no such NIC.
    pub fn set_link(&self, nic: Option<u32>, up: bool) -> bool {
        let devices = match nic {
            None => &self.devices[..],
            Some(nic) => match self.devices.get(nic as usize) {
                Some(device) => std::slice::from_ref(device),
                None => return false,
            },
        };
        devices.iter().for_each(|device| device.hold_link_down(!up));
        true
    }

    fn end(&mut self) -> Vec<anyhow::Result<u64>> {
        self.stop.store(true, Ordering::Release);
        for served in &self.served {
            let _ = served.wake.write(1); // fails only if it is full, and then it wakes
        }
        self.served
            .drain(..)
            .map(|served| {
                let gone = |_| Err(anyhow!("an I/O thread panicked"));
                served.thread.join().unwrap_or_else(gone)
            })
            .collect()
    }

    /// Ends the threads; returns their CPU time. When the devices go as well, the ports are closed.
    pub fn finish(mut self) -> anyhow::Result<Vec<u64>> {
        self.end().into_iter().collect()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.end();
    }
}
