//! What QEMU has and this machine has not, and what to do instead: one line for each, because fingers know the names.

/// Options and why they are refused. Long names; one dash or two.
const OPTIONS: [(&[&str], &str); 16] = [
    (
        &[
            "drive", "hda", "hdb", "hdc", "hdd", "cdrom", "blockdev", "fda", "fdb", "sd",
            "mtdblock", "snapshot",
        ],
        "there are no disks: a root file system is an initial RAM disk, --initrd FILE",
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
    (
        &["qmp", "qmp-pretty", "mon", "chardev", "monitor-hmp"],
        "there is no monitor: see --ctl, --stats and --list",
    ),
    (
        &["vnc", "spice", "sdl", "gtk", "full-screen", "k", "g", "rotate"],
        "there is no screen: the console is the serial port, console=ttyS0",
    ),
    (
        &["usb", "usbdevice", "audio", "audiodev", "audio-help", "soundhw", "watchdog"],
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
        &["S", "gdb", "s", "d", "D", "trace", "singlestep", "icount", "plugin", "preconfig"],
        "there is no debugger's interface; -v, --stats and --json tell what the machine does",
    ),
    (
        &["loadvm", "incoming", "only-migratable"],
        "a machine begins with its kernel, not with a saved state",
    ),
    (&["no-shutdown"], "a guest that switches itself off ends its machine"),
    (
        &["no-acpi", "acpitable", "smbios", "uuid", "rtc", "numa", "fw_cfg", "global", "set"],
        "the machine is what it is: tables, clocks and topology cannot be chosen",
    ),
    (
        &["object", "mem-path", "readconfig", "writeconfig", "add-fd", "L"],
        "there is nothing to configure by it; huge pages are used where there are some",
    ),
    (&["runas", "chroot"], "start it as the user that it is to be; it confines itself"),
    (&["dtb", "shim", "semihosting", "win2k-hack"], "the machine is a PC"),
];

/// Networks that `-netdev`, `-nic` and `-net` have there.
const NETWORKS: [(&[&str], &str); 5] = [
    (&["user"], "there is no network in this process: a tap, or passt behind a switch (nm-bridge)"),
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
