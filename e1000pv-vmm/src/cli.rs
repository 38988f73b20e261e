//! The command line: one spelling with two dashes, and QEMU's with one, rewritten to it by [`argv`].
//!
//! This file uses nothing of the rest of the program, so that man page and completions can be made
//! from it alone.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};
use nm_cli::args::OutputArgs;
use nm_cli::cpulist::CpuList;
use nm_cli::duration;
use nm_cli::exit::{self, UsageError};
use nm_cli::units::Count;

// By path, for those who include this file by its own.
#[path = "cli/qemu.rs"]
mod qemu;
#[path = "cli/unsupported.rs"]
mod unsupported;
#[path = "cli/values.rs"]
mod values;

pub use qemu::argv;
pub use values::{Device, MemorySize, Netdev, SerialTo, Vcpus};

const COMMANDS: &str =
    "the commands of --ctl are: link down [NIC], link up [NIC], powerdown, reset, quit";

const EXAMPLES: &str = "\
Examples:
  e1000pv-vmm --netdev port=valeA:a --device mac=02:00:00:00:00:01 --guest rx
  e1000pv-vmm --netdev port=valeA:b --guest 'tx dst=02:00:00:00:00:01 count=1M'
  e1000pv-vmm --netdev valeA:l --netdev valeB:r --guest forward    a middlebox
  e1000pv-vmm --netdev valeA:x --kernel vmlinux --cmdline console=ttyS0
  e1000pv-vmm -netdev netmap,id=n,ifname=valeA:x -device e1000,netdev=n
  e1000pv-vmm --ctl vm1 link down   pulls its plugs
  e1000pv-vmm --stats vm1 --json | jq '.counters.nics[0].kicks'";

const KEYS: &str = "\
Keys, on the terminal of a machine with --kernel:
  Ctrl-a x ends the machine, Ctrl-a b is a break (SysRq to Linux), Ctrl-a h helps, Ctrl-a Ctrl-a
  is a Ctrl-a. All other keys are the guest's, Ctrl-C too. A pipe or file as stdin is the guest's.";

const ENDINGS: &str = "\
How a machine ends:
  0   the guest switches itself off (ACPI), halts, writes 0 to port 0xf4, or resets itself with
      --no-reboot; without, it begins anew, with an empty memory and its kernel loaded again (but
      a reset by the keyboard controller, Linux's reboot=k, always ends it, as in Firecracker).
      SIGINT, SIGTERM, SIGHUP, Ctrl-a x, --ctl NAME quit
  1   it writes another number to port 0xf4, or does what KVM cannot go on with; or what it prints
      cannot be written (a full disk)
  2   it writes 2: it does not understand its command line
  3   --timeout
  33  triple fault
  34  it panics, and says so by pvpanic (Linux: module pvpanic-mmio); else a panic is a reset, or
      a guest that runs on";

const QEMU: &str = "\
QEMU's spelling:
  -netdev, -device, -nic, -net, -kernel, -initrd, -append, -m, -smp, -name, -serial, -accel,
  -no-reboot and -action are understood with one dash as well; -nographic, -nodefaults, -enable-kvm,
  -display none, -monitor none, -vga none, -cpu host and -machine q35 or pc ask for what is so anyway
  and are ignored. Others, and other values of these, are refused, with what to do instead.";

/// What a machine is made of: nothing that asks about others takes these.
const MACHINE: [&str; 5] = ["netdev", "device", "kernel", "cmdline", "guest"];

/// Run a virtual machine with paravirtual e1000 NICs on netmap ports.
///
/// Without --kernel the machine boots the bench guest that this program carries, which does what
/// --guest says: `tx`, `rx`, `ping`, `echo` or `forward`, each with options, and prints its result
/// as one line of JSON. With --kernel it boots Linux, as a bzImage or vmlinux, or any PVH image.
///
/// The guest's serial port is stdout, line by line. With --json stdout carries one record at the end,
/// with the guest's result and the machine's counters in it, and other lines go to stderr. Exits,
/// kicks and interrupts are counted; --stats prints the counters of a running machine.
#[derive(Clone, Debug, Parser)]
#[command(name = "e1000pv-vmm", version, args_override_self = true, after_help = EXAMPLES,
          after_long_help = format!("{EXAMPLES}\n\n{KEYS}\n\n{QEMU}\n\n{ENDINGS}\n\n{}", exit::HELP))]
pub struct Cli {
    /// The machine's name, for --stats and for the default MAC addresses [default: vm-PID].
    #[arg(long, value_parser = name)]
    pub name: Option<String>,

    /// A port for a NIC, as port=valeA:x or QEMU's netmap,id=n,ifname=valeA:x. Once per NIC. A comma that belongs to the
    /// port's name is written twice, as in QEMU: port=valeA:x@conf:slots=512,,vnet-hdr=12.
    #[arg(long, value_name = "port=PORT[,id=ID]")]
    pub netdev: Vec<Netdev>,

    /// The NIC at a port: mac=, netdev= (an id; otherwise devices and ports pair up in order), and
    /// csb=, moderation= for this NIC alone. May be left out.
    #[arg(long, value_name = "mac=MAC[,netdev=ID]")]
    pub device: Vec<Device>,

    /// Memory, in MiB or with K, M, G, T (powers of 1024, as QEMU has them) [default: 64M; with
    /// --kernel 512M].
    #[arg(long, value_name = "SIZE")]
    pub mem: Option<MemorySize>,

    /// vCPUs: 1 to 4. The bench guest has one.
    #[arg(long, value_name = "N", default_value = "1")]
    pub vcpus: Vcpus,

    /// CPUs: the first for the vCPUs, one each, the next for the I/O threads.
    #[arg(long, value_name = "LIST")]
    pub cpu: Option<CpuList>,

    /// What executes the guest.
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,

    /// Where the guest's serial port leads: stdio, null or none, a file (NAME or file:NAME), or a socket:
    /// unix:PATH, or unix:PATH,server[,wait=off] for who connects there.
    #[arg(long, value_name = "WHERE", default_value = "stdio")]
    pub serial: SerialTo,

    /// End the machine after this time, as in 500ms, 10s or 5m, with exit code 3; a bare number is
    /// seconds.
    #[arg(long, value_name = "TIME", value_parser = duration::nonzero_seconds)]
    pub timeout: Option<Duration>,

    /// End when the guest reboots, instead of beginning anew.
    #[arg(long)]
    pub no_reboot: bool,

    /// Say on stderr what the machine is made of.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Print the counters of the running machine NAME, and end; exit code 3 if there is none.
    #[arg(long, value_name = "NAME", value_parser = name, conflicts_with_all = MACHINE)]
    pub stats: Option<String>,

    /// Print the running machines, and end.
    #[arg(long, conflicts_with = "stats", conflicts_with_all = MACHINE)]
    pub list: bool,

    /// Carry out a command at the running machine NAME, and end: `link down`, `link up`, each for all NICs or for one,
    /// by its number from 0; `powerdown` (presses the power button), `reset`, `quit`.
    #[arg(long, value_name = "NAME", value_parser = name, conflicts_with_all = MACHINE,
          conflicts_with_all = ["stats", "list"])]
    pub ctl: Option<String>,

    /// The command of --ctl.
    #[arg(value_name = "COMMAND", num_args = 1.., hide = true)]
    pub command: Vec<String>,

    /// Boot this kernel, a bzImage or a PVH ELF image, instead of the bench guest.
    #[arg(long, value_name = "FILE", help_heading = "Guest")]
    pub kernel: Option<PathBuf>,

    /// An initial RAM disk for --kernel.
    #[arg(long, value_name = "FILE", requires = "kernel", help_heading = "Guest")]
    pub initrd: Option<PathBuf>,

    /// The whole kernel command line, as it is.
    #[arg(
        long,
        visible_alias = "append",
        value_name = "STRING",
        conflicts_with = "guest",
        help_heading = "Guest"
    )]
    pub cmdline: Option<String>,

    /// What the bench guest does, as 'tx dst=02:00:00:00:00:01 size=60 duration=5s' [default: rx].
    #[arg(long, value_name = "STRING", help_heading = "Guest")]
    pub guest: Option<String>,

    /// How the bench guest's driver transmits.
    #[arg(long, value_enum, default_value_t = Driver::Csb, conflicts_with = "cmdline", help_heading = "Guest")]
    pub driver: Driver,

    /// Descriptors in each of its rings, and slots of the NIC's ports: 8 to 4096, a multiple of 8.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = ring, help_heading = "Guest")]
    pub ring: u32,

    /// How an idle bench guest sleeps.
    #[arg(long, value_enum, default_value_t = IdleBy::Call, help_heading = "Guest")]
    pub idle: IdleBy,

    /// Offer the guest the CSB, shared memory in place of register accesses.
    #[arg(long, value_enum, default_value_t = Switch::On, value_name = "ON|OFF", help_heading = "NIC")]
    pub csb: Switch,

    /// Keep interrupts apart as ITR and the delay registers say; off: each event raises one.
    #[arg(long, value_enum, default_value_t = Switch::On, value_name = "ON|OFF", help_heading = "NIC")]
    pub moderation: Switch,

    /// Keep interrupts at least this time apart (1ms, for one; at most 100ms), whatever the guest's driver asks for.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = pace, hide_default_value = true, help_heading = "NIC")]
    pub irq_pace: Duration,

    /// Send bursts to the port in one txsync; off: one a packet.
    #[arg(long, value_enum, default_value_t = Switch::On, value_name = "ON|OFF", help_heading = "NIC")]
    pub more: Switch,

    /// Hand guest memory to the port by address; off: copy it to the port's buffers first.
    #[arg(long, value_enum, default_value_t = Switch::On, value_name = "ON|OFF", help_heading = "NIC")]
    pub indirect: Switch,

    /// Take at most so many packets a second from each port (takes k, M); what comes faster is dropped by its
    /// senders, before the guest has spent anything on it. auto: a guest that has no time left gets the next
    /// packets when it has consumed the last, against receive livelock; one that is merely busy loses some of its
    /// rate by that, but none of TCP's.
    #[arg(long, value_name = "PPS|auto", value_parser = rx_limit, help_heading = "NIC")]
    pub rx_limit: Option<RxLimit>,

    /// Who transmits: a thread beside the vCPU, or the vCPU thread itself at its doorbell.
    #[arg(long, value_enum, default_value_t = TxMode::Thread, help_heading = "NIC")]
    pub tx_mode: TxMode,

    /// Slow transmission down by this busy time per packet, at most 1ms: an experiment with consumers
    /// of different speed.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = busy_time, hide_default_value = true, help_heading = "NIC")]
    pub tx_delay: Duration,

    /// How I/O threads wait, and when they wake the guest: words gather=TIME, spin=N, poll=TIME,
    /// block, busy, sleep=TIME, wake=PERCENT% or wake=first, timer=TIME, with commas [default:
    /// gather=8us,poll=100us,block,wake=75%,timer=50us].
    #[arg(long, value_name = "POLICY", help_heading = "NIC")]
    pub notify: Option<String>,

    /// Do without the seccomp filters, for debuggers and profilers.
    #[arg(long)]
    pub no_sandbox: bool,

    /// How INTx reaches the interrupt controllers.
    #[arg(long, value_enum, default_value_t = Irq::Line, hide = true)]
    pub irq: Irq,

    /// What guest memory is made of.
    #[arg(long, value_enum, default_value_t = Ram::Auto, hide = true)]
    pub ram: Ram,

    /// Where the kernel offers KVM.
    #[arg(long, value_name = "PATH", default_value = "/dev/kvm", hide = true)]
    pub kvm: PathBuf,

    /// How results are printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What executes the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// KVM if it can be had; else a thread, for the bench guest.
    Auto,
    /// KVM.
    Kvm,
    /// A thread of this process runs driver and workload against the same device; what are exits of
    /// a virtual machine cost a function call there.
    Thread,
}

/// How the bench guest's driver transmits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// A register write a packet or batch.
    Plain,
    /// No register write while an interrupt is on its way.
    Combine,
    /// Shared memory; register writes only to wake a sleeper.
    Csb,
}

/// How an idle guest sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IdleBy {
    /// By a call to this program: one exit for each sleep.
    Call,
    /// As on a PC: by hlt, woken by an interrupt.
    Halt,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// What is taken from a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxLimit {
    /// So many packets a second.
    Rate(u32),
    /// As many as leave the guest some time.
    Auto,
}

/// Who transmits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TxMode {
    /// A thread beside the vCPU.
    Thread,
    /// The vCPU thread.
    Inline,
}

/// How INTx is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Irq {
    /// KVM_IRQ_LINE.
    Line,
    /// irqfd with resamplefd.
    Irqfd,
}

/// What guest memory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ram {
    /// The first of the others that gives huge pages.
    Auto,
    /// A memfd on hugetlbfs.
    Hugetlb,
    /// A memfd.
    Memfd,
    /// Private memory.
    Anonymous,
}

impl Switch {
    /// As a truth value.
    pub fn on(self) -> bool {
        self == Switch::On
    }
}

fn up_to(most: Duration, text: &str) -> Result<Duration, String> {
    match duration::seconds(text).map_err(|error| error.to_string())? {
        time if time > most => Err(format!("at most {most:?}")),
        time => Ok(time),
    }
}

fn busy_time(text: &str) -> Result<Duration, String> {
    up_to(Duration::from_millis(1), text)
}

fn pace(text: &str) -> Result<Duration, String> {
    up_to(Duration::from_millis(100), text)
}

fn rx_limit(text: &str) -> Result<RxLimit, String> {
    if text == "auto" {
        return Ok(RxLimit::Auto);
    }
    match text.parse() {
        Ok(Count(n @ 1..=1_000_000_000)) => Ok(RxLimit::Rate(n as u32)),
        _ => Err("auto, or 1 to 1G packets a second".to_string()),
    }
}

fn name(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c);
    if text.is_empty() || text.len() > 64 || text.starts_with('.') || !text.chars().all(legal) {
        return Err("a name has 1 to 64 letters, digits, '-', '_' or '.'".to_string());
    }
    Ok(text.to_string())
}

fn ring(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(n) if (8..=4096).contains(&n) && n % 8 == 0 => Ok(n),
        _ => Err("a ring has 8 to 4096 descriptors, a multiple of 8".to_string()),
    }
}

/// A command of `--ctl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ctl {
    /// Takes the link of a NIC, or of all, down or lets it up.
    Link {
        /// Which one.
        nic: Option<u32>,
        /// Up.
        up: bool,
    },
    /// Presses the power button.
    Powerdown,
    /// Resets the machine.
    Reset,
    /// Ends it.
    Quit,
}

/// The words of a command.
///
/// # Errors
/// They are none.
pub fn command(words: &[String]) -> Result<Ctl, UsageError> {
    let wrong = || UsageError::new(COMMANDS);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (state, nic) = match words[..] {
        ["powerdown"] => return Ok(Ctl::Powerdown),
        ["reset"] => return Ok(Ctl::Reset),
        ["quit"] => return Ok(Ctl::Quit),
        ["link", state] => (state, None),
        ["link", state, nic] => (state, Some(nic.parse().map_err(|_| wrong())?)),
        _ => return Err(wrong()),
    };
    match state {
        "up" | "down" => Ok(Ctl::Link { nic, up: state == "up" }),
        _ => Err(wrong()),
    }
}

impl Cli {
    /// Parses a command line of either spelling.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
        let matches = Cli::command().try_get_matches_from(argv(args)?)?;
        let cli = Cli::from_arg_matches(&matches)?;
        // Nobody would read it.
        let is_given = matches.value_source("driver") == Some(ValueSource::CommandLine);
        if is_given && cli.kernel.is_some() && cli.guest.is_none() {
            return Err(clap::Error::raw(
                ErrorKind::ArgumentConflict,
                "--driver is for the bench guest, and --kernel boots another. Leave it out; or if the kernel is a bench \
                 guest, say what it does by --guest\n",
            ));
        }
        match cli.command.first() {
            Some(word) if cli.ctl.is_none() => Err(clap::Error::raw(
                ErrorKind::UnknownArgument,
                format!(
                    "{word:?} belongs to no option. If it is a disk, as for QEMU: there are no disks; an initial \
                     RAM disk is for --initrd\n"
                ),
            )),
            None if cli.ctl.is_some() => {
                Err(clap::Error::raw(ErrorKind::MissingRequiredArgument, format!("{COMMANDS}\n")))
            }
            _ => Ok(cli),
        }
    }

    /// Parses this process's command line; on error, or for `--help`, prints and exits.
    pub fn from_process() -> Cli {
        Cli::from_args(std::env::args_os()).unwrap_or_else(|why| exit::refuse(&why))
    }

    /// The guest's kernel command line: as given, or the bench guest's, which is its global options
    /// and then what it is to do.
    pub fn kernel_command_line(&self) -> String {
        match &self.cmdline {
            Some(line) => line.clone(),
            None if self.kernel.is_some() && self.guest.is_none() => String::new(),
            None => self.bench_work(),
        }
    }

    /// What the bench guest does and by which driver, without what is the machine's.
    pub fn bench_work(&self) -> String {
        let work = self.guest.as_deref().unwrap_or("rx");
        format!("driver={} ring={} {work}", value(self.driver), self.ring)
    }
}

/// A value's name as it is typed.
pub fn value(of: impl ValueEnum) -> String {
    of.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
}

/// For tests and examples: a command line as one string.
pub fn split(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(|word| OsStr::new(word).to_os_string()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::from_args(split(line))
    }

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn both_spellings_are_the_same_machine() {
        let ours = parse(
            "vmm --netdev port=valeA:x,id=n --device mac=02:00:00:00:00:01,netdev=n --mem 256M \
             --kernel k --cmdline quiet --name vm",
        )
        .expect("valid");
        let qemu = parse(
            "vmm -netdev netmap,id=n,ifname=valeA:x -device e1000,netdev=n,mac=02:00:00:00:00:01 \
             -m 256 -kernel k -append quiet -name vm -nographic -display none -M q35 -smp 1 \
             -no-reboot",
        )
        .expect("valid");
        assert_eq!(ours.netdev, qemu.netdev);
        assert_eq!(ours.device, qemu.device);
        assert_eq!(
            (ours.mem, &ours.kernel, &ours.cmdline),
            (qemu.mem, &qemu.kernel, &qemu.cmdline)
        );
        assert_eq!(ours.name, qemu.name);
    }

    #[test]
    fn kernel_command_line_is_the_options_and_then_the_work() {
        let cli = parse("vmm --driver plain --ring 256").expect("valid");
        assert_eq!(cli.kernel_command_line(), "driver=plain ring=256 rx");
        let cli = parse("vmm --cmdline console=ttyS0").expect("valid");
        assert_eq!(cli.kernel_command_line(), "console=ttyS0");
        let cli = parse("vmm --kernel vmlinux").expect("valid");
        assert_eq!(cli.kernel_command_line(), "");
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "vmm --ring 7",
            "vmm --ring 12",
            "vmm --ring 8192",
            "vmm --rx-limit 0",
            "vmm --rx-limit 2G",
            "vmm --rx-limit Auto",
            "vmm --rx-limit -1",
            "vmm --irq-pace 101ms",
            "vmm --name a/b",
            "vmm --name .hidden",
            "vmm --csb maybe",
            "vmm --initrd disk",
            "vmm --cmdline x --guest tx",
            "vmm --cmdline x --driver plain",
            "vmm --kernel k --driver plain",
            "vmm --stats x --netdev null:",
            "vmm --list --kernel k",
            "vmm --list --stats x",
            "vmm --timeout 0",
            "vmm --ctl x",
            "vmm --ctl x --netdev null: link down",
            "vmm --ctl x --list link down",
            "vmm link down",
            "vmm extra",
            "vmm -netdev",
        ] {
            assert!(parse(line).is_err(), "{line} was accepted");
        }
        let why = parse("vmm --ctl x").expect_err("no command").to_string();
        assert!(why.contains(COMMANDS), "{why}");
    }

    #[test]
    fn commands_are_read_and_others_refused() {
        let read = |line: &str| command(&line.split(' ').map(String::from).collect::<Vec<_>>());
        assert_eq!(read("link down").expect("known"), Ctl::Link { nic: None, up: false });
        assert_eq!(read("link up 3").expect("known"), Ctl::Link { nic: Some(3), up: true });
        assert_eq!(read("powerdown").expect("known"), Ctl::Powerdown);
        assert_eq!(
            [read("reset").expect("known"), read("quit").expect("known")],
            [Ctl::Reset, Ctl::Quit]
        );
        for line in
            ["link", "reset now", "link sideways", "link up nic0", "link up 1 2", "unlink up", ""]
        {
            assert!(read(line).is_err(), "{line}");
        }
        let cli = parse("vmm --ctl vm1 link down 0").expect("valid");
        assert_eq!(
            (cli.ctl.as_deref(), cli.command.join(" ")),
            (Some("vm1"), "link down 0".into())
        );
    }

    proptest! {
        #[test]
        fn parsers_never_panic(text in ".{0,40}") {
            let _ = (text.parse::<Netdev>(), text.parse::<Device>(), text.parse::<MemorySize>());
            let _ = Cli::from_args([OsString::from("vmm"), OsString::from(text)]);
        }
    }
}
