//! What the command line means: NICs with their ports, addresses and steps of the ladder, checked
//! before anything is opened.

use std::process;

use e1000_device::{Config, TxMode};
use guest_workload::Plan as Work;
use netmap::PortName;
use nm_cli::exit::UsageError;
use nm_cli::mac::Mac;

use crate::cli::{self, Accel, Cli, Device, Netdev};
use crate::layout;
use crate::memory::Backing;
use crate::notify::Notify;

/// A NIC and where it leads.
#[derive(Clone, Debug)]
pub struct NicPlan {
    /// The port's name.
    pub port: String,
    /// The device.
    pub config: Config,
    /// Guest memory goes to the port by address.
    pub indirect: bool,
}

/// A machine.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// Its NICs, in the order of their slots.
    pub nics: Vec<NicPlan>,
    /// How I/O threads wait.
    pub notify: Notify,
    /// What memory is made of.
    pub backing: Backing,
    /// The guest's kernel command line.
    pub command_line: String,
    /// What the bench guest does, if it is the bench guest that runs.
    pub work: Option<Work>,
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
        if cli.accel == Accel::Thread && (cli.kernel.is_some() || cli.cmdline.is_some()) {
            let why = "--accel thread runs the bench guest only: it has no CPU for a kernel";
            return Err(UsageError::new(why).into());
        }
        if cli.netdev.len() > layout::NICS_MAX {
            let why = format!("a machine has at most {} NICs", layout::NICS_MAX);
            return Err(UsageError::new(why).into());
        }
        for Netdev { port, .. } in &cli.netdev {
            port.parse::<PortName>()
                .map_err(|e| UsageError::new(format!("the port {port}: {e}")))?;
        }
        let devices = pair(&cli.netdev, &cli.device)?;
        let work = work(cli)?;
        let nics = devices
            .into_iter()
            .zip(&cli.netdev)
            .enumerate()
            .map(|(index, (device, netdev))| {
                // Without a name, what tells machines apart is their ports.
                let seed = cli.name.as_ref().unwrap_or(&netdev.port);
                let config = config(cli, &device, seed, index, notify);
                NicPlan { port: netdev.port.clone(), config, indirect: cli.indirect.on() }
            })
            .collect();
        Ok(Plan {
            name,
            nics,
            notify,
            backing: backing(cli.ram),
            command_line: cli.kernel_command_line(),
            work,
        })
    }
}

/// Parsed here as the guest will parse it: what it would refuse is refused before it boots.
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
    let nics = || devices.iter().filter(|device| !device.exit_port);
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
        assert_eq!(plan.nics[1].port, "valeA:1");
    }

    #[test]
    fn ladder_steps_reach_the_device() {
        let plan = plan(
            "vmm --netdev null: --netdev null: --device csb=on --csb off --moderation off \
             --more off --indirect off --tx-mode inline --notify block,wake=first",
        )
        .expect("valid");
        let (first, second) = (&plan.nics[0].config, &plan.nics[1].config);
        assert!(first.csb && !second.csb);
        assert!(!first.moderation && !first.more && !plan.nics[0].indirect);
        assert_eq!(first.tx_mode, TxMode::Inline);
        assert_eq!(plan.notify.wake_percent, 0);
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
    fn nonsense_is_a_usage_error() {
        for line in [
            "vmm --device mac=02:00:00:00:00:01",
            "vmm --netdev null: --device netdev=n",
            "vmm --netdev port=valeA",
            "vmm --netdev what:ever",
            "vmm --netdev port=null:,id=n --device netdev=n --device netdev=n",
            "vmm --accel thread --kernel vmlinux",
            "vmm --notify often",
            "vmm --netdev a:1 --netdev a:2 --netdev a:3 --netdev a:4 --netdev a:5 --netdev a:6 \
             --netdev a:7 --netdev a:8 --netdev a:9",
        ] {
            let error = plan(line).expect_err(line);
            assert!(error.downcast_ref::<UsageError>().is_some(), "{line}: {error}");
        }
    }
}
