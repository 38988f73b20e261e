//! The meaning of the command line: a machine, its NICs with their ports, addresses and steps of the ladder, and
//! the CPUs of its threads. Everything that the options leave open is decided here, before anything is opened.
//! No code after this one depends on the command line.

use std::path::PathBuf;
use std::process;
use std::time::Duration;

use e1000_device::{Config, TxMode};
use guest_workload::Plan as Work;
use netmap::PortName;
use nm_cli::args::OutputArgs;
use nm_cli::cpulist::CpuList;
use nm_cli::exit::UsageError;
use nm_cli::mac::Mac;

use crate::cli::{self, Cli, Device, MemorySize, Netdev, SerialTo};
use crate::guest::boot::{Image, Initrd};
use crate::guest::{KvmPlan, Threads, image};
use crate::host::memory::Backing;
use crate::machine::layout;
use crate::net::limiter::RxLimit;
use crate::net::nics::NicPlan;
use crate::net::notify::Notify;

/// A machine.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// What executes its guest.
    pub accel: Accel,
    /// Where the kernel offers KVM.
    pub kvm: PathBuf,
    /// Bytes of memory.
    pub mem_bytes: u64,
    /// What memory is made of.
    pub backing: Backing,
    /// Its NICs, in the order of their slots.
    pub nics: Vec<NicPlan>,
    /// How I/O threads wait.
    pub notify: Notify,
    /// The CPUs and the seccomp filters of its threads.
    pub threads: Threads,
    /// The guest, if a virtual machine executes it.
    pub guest: KvmPlan,
    /// What the bench guest does, if it is the bench guest that runs.
    pub work: Option<Work>,
    /// Where the serial port leads.
    pub serial: Serial,
    /// Result lines are kept for the record and not printed.
    pub keep_results: bool,
    /// The machine is ended after this time.
    pub timeout: Option<Duration>,
    /// A guest that resets its machine begins anew.
    pub reboots: bool,
    /// Print what the machine consists of.
    pub verbose: bool,
    /// How results are printed.
    pub output: OutputArgs,
}

/// What executes a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// KVM, or nothing.
    Kvm,
    /// KVM, or a thread in its place.
    KvmOrThread,
    /// A thread.
    Thread,
}

/// Where a serial port leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serial {
    /// stdin and stdout.
    Stdio,
    /// stdin and stderr: stdout carries records.
    Stderr,
    /// Nowhere.
    Null,
    /// A file.
    File(PathBuf),
    /// A unix socket: others connect to it, perhaps before the machine begins, or we to theirs.
    Unix {
        /// Where it is.
        path: PathBuf,
        /// Others connect.
        server: bool,
        /// The machine waits for the first of them.
        wait: bool,
    },
}

impl Plan {
    /// Reads the options.
    pub fn new(cli: &Cli) -> anyhow::Result<Plan> {
        let name = cli.name.clone().unwrap_or_else(|| format!("vm-{}", process::id()));
        let notify = match &cli.notify {
            None => Notify::default(),
            Some(text) => {
                text.parse().map_err(|e| UsageError::new(format!("--notify {text}: {e}")))?
            }
        };
        let bench = cli.kernel.is_none() && cli.cmdline.is_none();
        if cli.accel == cli::Accel::Thread && !bench {
            let why = "--accel thread runs the bench guest only: it has no CPU for a kernel";
            return Err(UsageError::new(why).into());
        }
        if cli.netdev.len() > layout::NICS_MAX {
            let why = format!("a machine has at most {} NICs", layout::NICS_MAX);
            return Err(UsageError::new(why).into());
        }
        let machine = cli.output.machine();
        let vcpus = cli.vcpus.0;
        if vcpus > 1 && cli.kernel.is_none() {
            let why = "the bench guest has one vCPU: --vcpus is for --kernel";
            return Err(UsageError::new(why).into());
        }
        let threads = Threads {
            vcpus: (0..vcpus).map(|index| cli.cpu.as_ref().map(|cpus| cpus.nth(index))).collect(),
            confined: !cli.no_sandbox,
        };
        let guest = KvmPlan {
            image: match &cli.kernel {
                Some(path) => Image::File(path.clone()),
                None => Image::Bytes(image::bytes(), "bench guest"),
            },
            initrd: cli.initrd.clone().map(Initrd),
            command_line: cli.kernel_command_line(),
            idle_call: cli.idle == cli::IdleBy::Call,
            irqfd: cli.irq == cli::Irq::Irqfd,
        };
        Ok(Plan {
            name,
            accel: match cli.accel {
                cli::Accel::Thread => Accel::Thread,
                // A thread can stand in for the bench guest only.
                cli::Accel::Auto if bench => Accel::KvmOrThread,
                cli::Accel::Auto | cli::Accel::Kvm => Accel::Kvm,
            },
            kvm: cli.kvm.clone(),
            mem_bytes: cli.mem.unwrap_or(default_memory(cli)).0,
            backing: backing(cli.ram),
            nics: nics(cli, notify)?,
            notify,
            threads,
            guest,
            work: work(cli)?,
            serial: match &cli.serial {
                SerialTo::Stdio if machine => Serial::Stderr,
                SerialTo::Stdio => Serial::Stdio,
                SerialTo::Null => Serial::Null,
                SerialTo::File(path) => Serial::File(path.clone()),
                SerialTo::Unix { path, server, wait } => {
                    Serial::Unix { path: path.clone(), server: *server, wait: *wait }
                }
            },
            keep_results: machine && cli.serial == SerialTo::Stdio,
            timeout: cli.timeout,
            reboots: !cli.no_reboot,
            verbose: cli.verbose > 0,
            output: cli.output.clone(),
        })
    }
}

fn nics(cli: &Cli, notify: Notify) -> anyhow::Result<Vec<NicPlan>> {
    let port = |netdev: &Netdev| {
        let name = &netdev.port;
        name.parse::<PortName>().map_err(|e| UsageError::new(format!("the port {name}: {e}")))
    };
    let ports = cli.netdev.iter().map(port).collect::<Result<Vec<_>, _>>()?;
    if let Some(port) = ports.iter().find(|port| port.socket().is_some() && !cli.no_sandbox) {
        // New peers need calls that the sandbox has not.
        return Err(UsageError::new(format!(
            "{port} needs sockets, which the sandbox forbids: join it to the switch by nm-bridge, or use --no-sandbox"
        ))
        .into());
    }
    let devices = pair(&cli.netdev, &cli.device)?;
    let all = devices.into_iter().zip(&cli.netdev).zip(ports).enumerate();
    let nic = |(index, ((device, netdev), port)): (usize, ((Device, &Netdev), PortName))| {
        // Without a name, what tells machines apart is their ports.
        let seed = cli.name.as_ref().unwrap_or(&netdev.port);
        NicPlan {
            port,
            config: config(cli, &device, seed, index, notify),
            indirect: cli.indirect.on(),
            rx_limit: cli.rx_limit.map(rx_limit),
            slots: cli.ring,
            cpu: cli.cpu.as_ref().map(|cpus| io_cpu(cpus, cli.vcpus.0, index)),
        }
    };
    Ok(all.map(nic).collect())
}

fn rx_limit(limit: cli::RxLimit) -> RxLimit {
    match limit {
        cli::RxLimit::Rate(per_second) => RxLimit::Rate(per_second),
        cli::RxLimit::Auto => RxLimit::Auto,
    }
}

/// The CPU of I/O thread `index`: those of the list behind the vCPUs', in turn; if there are none, all in turn.
fn io_cpu(cpus: &CpuList, vcpus: usize, index: usize) -> usize {
    let all = cpus.as_slice();
    let behind = all.get(vcpus..).filter(|behind| !behind.is_empty()).unwrap_or(all);
    behind[index % behind.len()]
}

/// The bench guest needs little, and all of it is made present; a distribution's kernel unpacks itself and its RAM disk.
fn default_memory(cli: &Cli) -> MemorySize {
    MemorySize(if cli.kernel.is_some() { 512 << 20 } else { 64 << 20 })
}

/// The guest's work, parsed here as the guest will parse it, so that errors are reported before it boots.
fn work(cli: &Cli) -> Result<Option<Work>, UsageError> {
    if cli.kernel.is_some() || cli.cmdline.is_some() {
        return Ok(None);
    }
    let text = cli.bench_work();
    let work = Work::parse(&text).map_err(|e| UsageError::new(format!("--guest: {e}")))?;
    let (present, wanted) = (cli.netdev.len(), work.function.nics());
    if present < wanted {
        let what = work.function.name();
        return Err(UsageError::new(format!(
            "--guest {what} needs {wanted} --netdev, there are {present}"
        )));
    }
    Ok(Some(work))
}

fn backing(ram: cli::Ram) -> Backing {
    match ram {
        cli::Ram::Auto => Backing::Auto,
        cli::Ram::Hugetlb => Backing::Hugetlb,
        cli::Ram::Memfd => Backing::Memfd,
        cli::Ram::Anonymous => Backing::Anonymous,
    }
}

fn config(cli: &Cli, device: &Device, seed: &str, index: usize, notify: Notify) -> Config {
    Config {
        mac: device.mac.map_or_else(|| default_mac(seed, index), |mac| mac.0),
        moderation: device.moderation.unwrap_or(cli.moderation.on()),
        pace_ns: cli.irq_pace.as_nanos().try_into().unwrap_or(u64::MAX),
        csb: device.csb.unwrap_or(cli.csb.on()),
        more: cli.more.on(),
        wake: notify.wake(),
        tx_mode: match cli.tx_mode {
            cli::TxMode::Thread => TxMode::Thread,
            cli::TxMode::Inline => TxMode::Inline,
        },
        tx_delay_ns: cli.tx_delay.as_nanos().try_into().unwrap_or(u64::MAX),
    }
}

/// The device of each port: the one that names its id, else the next that names none, else one with
/// defaults.
fn pair(netdevs: &[Netdev], devices: &[Device]) -> Result<Vec<Device>, UsageError> {
    let nics = || devices.iter().filter(|device| !device.built_in);
    for device in nics() {
        let Some(id) = &device.netdev else { continue };
        if !netdevs.iter().any(|netdev| netdev.id.as_ref() == Some(id)) {
            return Err(UsageError::new(format!("there is no --netdev with id={id}")));
        }
    }
    let mut unnamed = nics().filter(|device| device.netdev.is_none());
    let mut paired = Vec::new();
    for netdev in netdevs {
        let mut named =
            nics().filter(|device| device.netdev.is_some() && device.netdev == netdev.id);
        let device = match (named.next(), named.next()) {
            (Some(_), Some(_)) => {
                let id = netdev.id.as_deref().unwrap_or_default();
                return Err(UsageError::new(format!("two --device want netdev={id}")));
            }
            (Some(device), None) => device.clone(),
            (None, _) => unnamed.next().cloned().unwrap_or_default(),
        };
        paired.push(device);
    }
    match unnamed.next() {
        Some(_) => Err(UsageError::new("a --device has no --netdev; give each a port")),
        None => Ok(paired),
    }
}

/// An address from a name: locally administered, the same for the same name (FNV-1a, 64 bits folded
/// to 40), the last bits count a machine's NICs.
fn default_mac(seed: &str, index: usize) -> [u8; 6] {
    let hash = seed.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let folded = (hash ^ hash >> 40) & !0xf | index as u64 & 0xf;
    let mut mac = Mac::from_u64(folded & 0xff_ffff_ffff).0;
    mac[0] = 0x02;
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> anyhow::Result<Plan> {
        Plan::new(&Cli::from_args(cli::split(line)).expect("a command line"))
    }

    #[test]
    fn devices_pair_by_id_and_then_in_order() {
        let plan = plan(
            "vmm --netdev port=null:,id=a --netdev port=valeA:1 --netdev port=null:,id=c \
             --device mac=02:00:00:00:00:0c,netdev=c --device mac=02:00:00:00:00:0a",
        )
        .expect("valid");
        let macs: Vec<u8> = plan.nics.iter().map(|nic| nic.config.mac[5]).collect();
        assert_eq!((macs[0], macs[2]), (0x0a, 0x0c));
        assert_eq!(plan.nics[1].port.to_string(), "valeA:1");
    }

    #[test]
    fn ladder_steps_reach_the_device() {
        let plan = plan(
            "vmm --netdev null: --netdev null: --device csb=on --csb off --moderation off \
             --more off --indirect off --tx-mode inline --notify block,wake=first --rx-limit 1.5k --irq-pace 2ms",
        )
        .expect("valid");
        let (first, second) = (&plan.nics[0].config, &plan.nics[1].config);
        assert!(first.csb && !second.csb);
        assert!(!first.moderation && !first.more && !plan.nics[0].indirect);
        assert_eq!(first.tx_mode, TxMode::Inline);
        assert_eq!((first.pace_ns, second.pace_ns), (2_000_000, 2_000_000));
        assert_eq!(plan.notify.wake_percent, 0);
        assert_eq!(plan.nics[1].rx_limit, Some(RxLimit::Rate(1_500)));
    }

    #[test]
    fn default_addresses_differ_by_name_and_nic_and_are_stable() {
        let mac = |line: &str, nic: usize| plan(line).expect("valid").nics[nic].config.mac;
        let a = "vmm --name vm1 --netdev null: --netdev null:";
        let b = "vmm --name vm2 --netdev null:";
        assert_ne!(mac(a, 0), mac(a, 1));
        assert_ne!(mac(a, 0), mac(b, 0));
        assert_eq!(mac(a, 0), mac(a, 0));
        assert_eq!(mac(a, 0)[0], 2, "locally administered, one station");
        assert_ne!(mac("vmm --netdev valeA:x", 0), mac("vmm --netdev valeA:y", 0));
    }

    #[test]
    fn io_threads_take_the_cpus_behind_the_first() {
        let cpus: CpuList = "4,5,7".parse().expect("a list");
        assert_eq!([0, 1, 2].map(|index| io_cpu(&cpus, 1, index)), [5, 7, 5]);
        assert_eq!([0, 1].map(|index| io_cpu(&cpus, 2, index)), [7, 7]);
        assert_eq!([0, 3].map(|index| io_cpu(&cpus, 4, index)), [4, 4], "there are none behind");
        let one: CpuList = "3".parse().expect("a list");
        assert_eq!(io_cpu(&one, 1, 1), 3);
    }

    #[test]
    fn vcpus_take_the_first_cpus_and_memory_is_by_kernel() {
        let bench = plan("vmm --netdev null:").expect("valid");
        assert_eq!((bench.mem_bytes, bench.threads.vcpus.len()), (64 << 20, 1));
        let linux = plan("vmm --kernel k --vcpus 3 --cpu 4,5").expect("valid");
        assert_eq!(linux.threads.vcpus, [Some(4), Some(5), Some(4)]);
        assert_eq!(linux.mem_bytes, 512 << 20);
        let sizes = plan("vmm --kernel k --mem 6G -smp 2").expect("valid");
        assert_eq!((sizes.mem_bytes, sizes.threads.vcpus), (6 << 30, vec![None, None]));
    }

    #[test]
    fn nonsense_is_a_usage_error() {
        for line in [
            "vmm --device mac=02:00:00:00:00:01",
            "vmm --netdev null: --device netdev=n",
            "vmm --netdev port=valeA",
            "vmm --netdev what:ever",
            "vmm --netdev stream:/tmp/vm1",
            "vmm --netdev port=null:,id=n --device netdev=n --device netdev=n",
            "vmm --accel thread --kernel vmlinux",
            "vmm --vcpus 2",
            "vmm --notify often",
            "vmm --netdev a:1 --netdev a:2 --netdev a:3 --netdev a:4 --netdev a:5 --netdev a:6 \
             --netdev a:7 --netdev a:8 --netdev a:9",
        ] {
            let error = plan(line).expect_err(line);
            assert!(error.downcast_ref::<UsageError>().is_some(), "{line}: {error}");
        }
    }
}
