//! What QEMU has and this machine has not, and what to do instead: one line for each, because fingers know the names.

const NO_MONITOR: &str = "there is no monitor: see --ctl, --stats and --list";
const NO_SCREEN: &str = "there is no screen: the console is the serial port, console=ttyS0";
const NO_ACCEL: &str = "guests run on KVM; --accel thread is the bench guest's";
const NO_DISKS: &str =
    "there are no disks: a root file system is an initial RAM disk, --initrd FILE";
const NO_OTHER: &str = "the machine is a PC";

/// Options and why they are refused. Long names; one dash or two.
const OPTIONS: [(&[&str], &str); 21] = [
    (
        &[
            "drive", "hda", "hdb", "hdc", "hdd", "cdrom", "blockdev", "fda", "fdb", "sd",
            "mtdblock", "snapshot", "iscsi",
        ],
        NO_DISKS,
    ),
    (
        &["bios", "pflash", "boot", "option-rom"],
        "there is no firmware: --kernel FILE is started directly",
    ),
    (
        &["daemonize"],
        "it stays in the foreground: use & or nohup, with --serial file:NAME or unix:PATH,server",
    ),
    (&["pidfile"], "no file is written: --list tells the processes of all machines by their names"),
    (&["qmp", "qmp-pretty", "mon", "chardev", "monitor-hmp"], NO_MONITOR),
    (&["echr"], "the key before others is Ctrl-a; with --serial unix:PATH,server none is ours"),
    (
        &[
            "vnc",
            "spice",
            "sdl",
            "gtk",
            "curses",
            "full-screen",
            "portrait",
            "rotate",
            "k",
            "g",
            "alt-grab",
            "ctrl-grab",
            "no-quit",
        ],
        NO_SCREEN,
    ),
    (
        &[
            "usb",
            "usbdevice",
            "audio",
            "audiodev",
            "audio-help",
            "soundhw",
            "watchdog",
            "watchdog-action",
        ],
        "there is no such device: the machine has a serial port and e1000 NICs",
    ),
    (
        &["virtfs", "fsdev", "tpmdev"],
        "there are no shared directories: files come in the initial RAM disk, or by the network",
    ),
    (
        &["parallel", "debugcon", "virtioconsole"],
        "there is one serial port, --serial, and no other",
    ),
    (
        &[
            "S",
            "gdb",
            "s",
            "d",
            "D",
            "dfilter",
            "trace",
            "singlestep",
            "icount",
            "plugin",
            "preconfig",
            "enable-sync-profile",
            "perfmap",
            "jitdump",
        ],
        "there is no debugger's interface; -v, --stats and --json tell what the machine does",
    ),
    (
        &["loadvm", "incoming", "only-migratable", "dump-vmstate"],
        "a machine begins with its kernel, not with a saved state",
    ),
    (&["no-shutdown"], "a guest that switches itself off ends its machine"),
    (&["xen-attach", "xen-domid", "xen-domid-restrict"], "guests run on KVM, not under Xen"),
    (
        &["compat"],
        "what is out of date is refused or means what it meant; there is nothing to choose",
    ),
    (&["seed"], "there is no random number generator whose numbers could be repeated"),
    (
        &["async-teardown", "run-with"],
        "the process confines itself when the guest starts, and ends with it",
    ),
    (
        &["no-acpi", "acpitable", "smbios", "uuid", "rtc", "numa", "fw_cfg", "global", "set"],
        "the machine is what it is: tables, clocks and topology cannot be chosen",
    ),
    (
        &["object", "mem-path", "readconfig", "writeconfig", "add-fd", "L"],
        "there is nothing to configure by it; huge pages are used where there are some",
    ),
    (&["runas", "chroot"], "start it as the user that it is to be; it confines itself"),
    (&["dtb", "shim", "semihosting", "semihosting-config", "prom-env", "win2k-hack"], NO_OTHER),
];

/// Networks that `-netdev`, `-nic` and `-net` have there.
const NETWORKS: [(&[&str], &str); 5] = [
    (
        &["user", "passt"],
        "there is no network in this process: a tap, or passt behind a switch (nm-bridge)",
    ),
    (
        &["bridge"],
        "no interface is made for you: make a tap, add it to the bridge, and give port=tap:NAME",
    ),
    (
        &["stream", "dgram", "socket"],
        "sockets belong to a switch: nm-bridge joins stream:PATH or dgram:PATH to it",
    ),
    (
        &["vhost-user", "vhost-vdpa", "af-xdp", "l2tpv3"],
        "not to be had; a NIC can be port xdp:NAME of a switch",
    ),
    (&["hubport", "vde"], "a switch is valeA: and so on, whose ports need no other"),
];

fn find(table: &[(&[&str], &'static str)], name: &str) -> Option<&'static str> {
    table.iter().find(|(names, _)| names.contains(&name)).map(|(_, why)| *why)
}

/// Why there is no such option, if it is one of QEMU's.
pub fn option(name: &str) -> Option<&'static str> {
    find(&OPTIONS, name)
}

/// Why there is no such network, if it is one of QEMU's.
pub fn network(kind: &str) -> Option<&'static str> {
    find(&NETWORKS, kind)
}

/// Why guests do not run on that, if it is one of QEMU's.
pub fn accel(kind: &str) -> Option<&'static str> {
    ["tcg", "xen", "hax", "hvf", "nvmm", "whpx", "mshv", "qtest"]
        .contains(&kind)
        .then_some(NO_ACCEL)
}

/// Why there is no such device, if it is one that is often asked for.
pub fn device(kind: &str) -> Option<&'static str> {
    let is = |names: &[&str]| names.iter().any(|name| kind.starts_with(name));
    if is(&["virtio-rng"]) {
        return Some("guests have the processor's RDRAND for entropy");
    }
    if is(&["e1000", "igb", "virtio-net", "rtl8139", "vmxnet3", "pcnet", "ne2k"]) {
        return Some("the NICs here are Intel's 82540EM: write e1000");
    }
    let is_disk = is(&["virtio-blk", "virtio-scsi", "scsi-", "ide-", "nvme", "ahci", "floppy"]);
    is_disk.then_some(NO_DISKS)
}

/// Why an option that is ignored cannot be so with this value: it asks for more than what is the case anyway.
pub fn value(option: &str, value: &str) -> Option<String> {
    let named = |word: &str, why: &str| Some(format!("{word}: {why}"));
    let mut words = value.split(',');
    match option {
        "display" | "vga" if value != "none" => named(value, NO_SCREEN),
        "monitor" if !["none", "null", "/dev/null"].contains(&value) => named(value, NO_MONITOR),
        "machine" | "M" => words.find_map(|word| machine(word).and_then(|why| named(word, why))),
        "cpu" if !["host", "max"].contains(&value) => {
            named(value, "guests have the processor of the host: -cpu host")
        }
        "sandbox" if value.starts_with("off") => named(value, "write --no-sandbox"),
        "overcommit" => words.find(|word| !word.ends_with("=off")).and_then(|word| {
            named(
                word,
                "memory is there before the guest starts, but not locked, and an idle vCPU sleeps",
            )
        }),
        "msg" => words
            .find(|word| !word.ends_with("=off"))
            .and_then(|word| named(word, "messages are as they are")),
        _ => None,
    }
}

/// Why a word of `-machine` cannot be had. A property that is switched off is not there either, but for those
/// that are.
fn machine(word: &str) -> Option<&'static str> {
    let is_pc = |kind: &str| {
        ["pc", "q35"].contains(&kind)
            || kind.starts_with("pc-i440fx-")
            || kind.starts_with("pc-q35-")
    };
    match word.split_once('=') {
        None | Some(("type", _)) => (!is_pc(word.strip_prefix("type=").unwrap_or(word)))
            .then_some("the machine is a PC, q35 or pc"),
        Some(("accel", accel)) => {
            (!accel.split(':').any(|accel| accel == "kvm")).then_some(NO_ACCEL)
        }
        Some(("acpi" | "kernel-irqchip" | "kernel_irqchip" | "pit" | "pic", how)) => {
            (how == "off").then_some("it is always there")
        }
        Some((_, "off")) => None,
        Some(_) => Some("such properties cannot be chosen"),
    }
}
