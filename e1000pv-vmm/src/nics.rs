//! The NICs of a machine: device, port, board and I/O thread put together, and taken apart in order.
//!
//! Invariant: a port is closed after its I/O thread and the vCPU are done with it, also when setting
//! the machine up fails half-way.

use std::fmt;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow};
use e1000_device::{Board, E1000, GuestMemory, GuestRam, NetPort};
use kvm_ioctls::VmFd;
use netmap::{Options, PortName};
use nm_cli::cpulist::CpuList;
use vmm_sys_util::eventfd::EventFd;

use crate::board::{Doorbell, NicBoard};
use crate::bus::Registers;
use crate::counters::VmCounters;
use crate::guest::begin_thread;
use crate::intx::Intx;
use crate::iothread::{self, Wakers};
use crate::netdev::NetmapPort;
use crate::plan::{NicPlan, Plan};
use crate::report::thread_cpu_ns;
use crate::sandbox::{self, Role};

/// Smallest and largest ring of a netmap port.
const PORT_SLOTS: (u32, u32) = (64, 4096);

impl<M: GuestMemory, P: NetPort> Registers for E1000<M, P> {
    fn mmio_read(&self, offset: u64, data: &mut [u8]) {
        E1000::mmio_read(self, offset, data);
    }

    fn mmio_write(&self, offset: u64, data: &[u8]) {
        E1000::mmio_write(self, offset, data);
    }

    fn io_read(&self, offset: u64, data: &mut [u8]) {
        E1000::io_read(self, offset, data);
    }

    fn io_write(&self, offset: u64, data: &[u8]) {
        E1000::io_write(self, offset, data);
    }
}

/// A NIC that is not served yet.
#[derive(Debug)]
pub struct Nic {
    device: Arc<E1000<GuestRam, NetmapPort>>,
    /// What is around it; told where its BAR0 is.
    pub board: Arc<NicBoard>,
    kick: OwnedFd,
    wake: EventFd,
}

impl Nic {
    /// Its registers, for the bus.
    pub fn registers(&self) -> Arc<dyn Registers> {
        Arc::clone(&self.device) as Arc<dyn Registers>
    }
}

fn event() -> anyhow::Result<EventFd> {
    EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).context("creating an eventfd")
}

/// An eventfd as a descriptor to poll.
pub(crate) fn owned(event: EventFd) -> OwnedFd {
    // SAFETY: the descriptor is open, and `into_raw_fd` gave up its ownership.
    unsafe { OwnedFd::from_raw_fd(event.into_raw_fd()) }
}

/// Opens the port of a NIC, for it alone: two machines on one port would each get a part of its
/// packets. Its rings are as long as the guest's, where it is made by this.
fn open(nic: &NicPlan, slots: u32, ram: &GuestRam) -> anyhow::Result<NetmapPort> {
    let name: PortName = nic.port.parse().with_context(|| format!("the port {}", nic.port))?;
    let slots = Some(slots.clamp(PORT_SLOTS.0, PORT_SLOTS.1));
    let any = Options { exclusive: true, ..Options::default() };
    let wanted = Options { tx_slots: slots, rx_slots: slots, ..any.clone() };
    NetmapPort::open(&name, &wanted, ram, nic.indirect)
        // A port that is there, with other rings, serves as well.
        .or_else(|first| NetmapPort::open(&name, &any, ram, nic.indirect).map_err(|_| first))
        .with_context(|| format!("opening port {}", nic.port))
}

/// Makes the NICs of a machine. With `vm`, their doorbells are ioeventfds of it.
pub fn make(
    plan: &Plan,
    slots: u32,
    ram: &GuestRam,
    intx: &Arc<Intx>,
    counters: &VmCounters,
    vm: Option<&Arc<VmFd>>,
) -> anyhow::Result<Vec<Nic>> {
    let make = |(index, nic): (usize, &NicPlan)| -> anyhow::Result<Nic> {
        let port = open(nic, slots, ram)?;
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
        Ok(Nic { device: Arc::new(device), board, kick: owned(kick), wake })
    };
    plan.nics.iter().enumerate().map(make).collect()
}

/// The CPU of I/O thread `index`: those of the list behind the vCPU's, in turn.
pub fn io_cpu(cpus: &CpuList, index: usize) -> usize {
    match cpus.as_slice() {
        [only] => *only,
        all => all[1 + index % (all.len() - 1)],
    }
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
        plan: &Plan,
        cpus: Option<&CpuList>,
        confined: bool,
        ended: &EventFd,
    ) -> anyhow::Result<Service> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut service = Service { stop, served: Vec::new() };
        for (index, nic) in nics.into_iter().enumerate() {
            let filter = confined.then(|| sandbox::filter(Role::Io)).transpose()?;
            let cpu = cpus.map(|cpus| io_cpu(cpus, index));
            let wake = nic.wake.try_clone()?;
            let stop = Arc::clone(&service.stop);
            let (ended, notify) = (ended.try_clone()?, plan.notify);
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
                        let _ = ended.write(1); // it cannot be full: nobody writes it often
                    }
                    result
                })
                .context("starting an I/O thread")?;
            service.served.push(Served { thread, wake });
        }
        Ok(service)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_threads_take_the_cpus_behind_the_first() {
        let cpus: CpuList = "4,5,7".parse().expect("a list");
        assert_eq!([0, 1, 2].map(|index| io_cpu(&cpus, index)), [5, 7, 5]);
        let one: CpuList = "3".parse().expect("a list");
        assert_eq!(io_cpu(&one, 1), 3);
    }
}
