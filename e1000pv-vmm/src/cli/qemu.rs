//! Rewrites QEMU's command-line syntax to ours: single dashes, other names, options that stand for several of ours, and
//! options that ask for what is the case anyway. What cannot be had is refused with the reason.

use std::ffi::OsString;

use clap::error::{Error, ErrorKind};

use super::unsupported;

/// QEMU's options that are ours: the name there, and here.
const SAME: [(&str, &str); 8] = [
    ("netdev", "--netdev"),
    ("device", "--device"),
    ("kernel", "--kernel"),
    ("initrd", "--initrd"),
    ("append", "--cmdline"),
    ("m", "--mem"),
    ("smp", "--vcpus"),
    ("serial", "--serial"),
];
/// Those without a value.
const SAME_WITHOUT_VALUE: [&str; 1] = ["no-reboot"];
/// QEMU's options that ask for what is the case anyway.
const IGNORED: [&str; 7] = [
    "nographic",
    "nodefaults",
    "no-user-config",
    "enable-kvm",
    "no-hpet",
    "no-fd-bootchk",
    "mem-prealloc",
];
/// The same, with a value, unless that asks for more (`unsupported::value`).
const IGNORED_WITH_VALUE: [&str; 9] =
    ["display", "monitor", "vga", "cpu", "machine", "M", "sandbox", "overcommit", "msg"];

/// Of the names above, those that mean something else here with two dashes.
const OURS: [&str; 1] = ["--cpu"];

/// Options of one letter without a value, which may stand together behind one dash, and the one that
/// takes the rest of its word.
const LETTERS: [char; 3] = ['v', 'q', 'N'];
const LETTER_WITH_VALUE: char = 'T';

/// Whether a word after a single dash does not consist of our short options. It is then an option of QEMU that
/// has no meaning here, or a typing error: `-hda` must not be taken for `-h`.
fn is_long(word: &str) -> bool {
    let Some(name) = word.strip_prefix('-').filter(|name| name.len() > 1) else { return false };
    let typed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !name.starts_with('-')
        && name.split('=').next().is_some_and(|name| name.chars().all(typed))
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && !name.trim_start_matches(LETTERS).starts_with(LETTER_WITH_VALUE)
        && !name.trim_start_matches(LETTERS).is_empty()
}

/// `-name [guest=]NAME[,...]`: what else QEMU has there concerns its own process.
fn name(value: &str) -> String {
    let first = value.split(',').next().unwrap_or(value);
    first.strip_prefix("guest=").unwrap_or(first).to_string()
}

/// `-action event=what`: what is so here, or our option for it.
fn action(value: &str) -> Result<Vec<OsString>, String> {
    let mut out = Vec::new();
    for word in value.split(',') {
        match word {
            "panic=exit-failure" | "reboot=reset" | "shutdown=poweroff" | "watchdog=reset" => {}
            "reboot=shutdown" => out.push("--no-reboot".into()),
            _ => {
                return Err(format!(
                    "{word}: a panic ends with exit code 34, and off is off; reboot=shutdown is --no-reboot"
                ));
            }
        }
    }
    Ok(out)
}

/// `-accel kvm`, or a list of what to try: KVM, if it is one of them. Ours are left as they are.
fn accel(value: &str) -> Result<String, String> {
    let (kinds, properties) = value.split_once(',').unwrap_or((value, ""));
    let mut kinds = kinds.split(':');
    if !properties.is_empty() {
        return Err(format!("{properties}: such properties cannot be chosen"));
    }
    if kinds.clone().any(|kind| kind == "kvm") {
        return Ok("kvm".to_string());
    }
    match kinds.find_map(unsupported::accel) {
        Some(why) => Err(format!("{value}: {why}")),
        None => Ok(value.to_string()),
    }
}

/// A NIC and its network, each in QEMU's words without the kind.
struct Pair {
    network: String,
    nic: Vec<String>,
}

impl Pair {
    /// `-nic tap,ifname=t0,model=e1000,mac=M`: what is the NIC's, and what is its network's.
    fn of(value: &str) -> Pair {
        let is_nics = |word: &&str| {
            ["model=", "mac=", "macaddr=", "addr="].iter().any(|key| word.starts_with(key))
        };
        let (nic, network): (Vec<&str>, Vec<&str>) = value.split(',').partition(is_nics);
        Pair { network: network.join(","), nic: nic.into_iter().map(String::from).collect() }
    }

    /// As our options, joined by an id.
    fn options(self, number: usize) -> Result<Vec<OsString>, String> {
        let kind = self.network.split(',').next().unwrap_or_default();
        if kind.is_empty() {
            return Err("to which network? Write tap,ifname=NAME or netmap,ifname=valeA:x".into());
        }
        if let Some(why) = unsupported::network(kind) {
            return Err(format!("{kind}: {why}"));
        }
        let given = self.network.split(',').find_map(|word| word.strip_prefix("id="));
        let id = given.map_or_else(|| format!("nic-{number}"), String::from);
        let mut device = format!("e1000,netdev={id}");
        for word in &self.nic {
            match word.split_once('=') {
                Some(("model", "e1000" | "e1000-82540em")) | Some(("addr", _)) => {}
                Some(("model", other)) => {
                    return Err(format!("model={other}: the NICs here are e1000, model=e1000"));
                }
                Some((_, mac)) => device.push_str(&format!(",mac={mac}")),
                None => {}
            }
        }
        let network = match given {
            Some(_) => self.network,
            None => format!("{},id={id}", self.network),
        };
        Ok(vec!["--netdev".into(), network.into(), "--device".into(), device.into()])
    }
}

/// `-net nic` and `-net tap`, which belong together.
#[derive(Default)]
struct Hub {
    nic: Option<Vec<String>>,
    network: Option<String>,
}

impl Hub {
    fn add(&mut self, value: &str) -> Result<(), String> {
        let (kind, rest) = value.split_once(',').unwrap_or((value, ""));
        let twice = match kind {
            "none" => false,
            "nic" => {
                let words = rest.split(',').filter(|word| !word.is_empty());
                self.nic.replace(words.map(String::from).collect()).is_some()
            }
            _ => self.network.replace(value.to_string()).is_some(),
        };
        match twice {
            true => {
                Err("there is no hub for several: give each NIC its network by -nic".to_string())
            }
            false => Ok(()),
        }
    }

    fn options(self) -> Result<Vec<OsString>, String> {
        match (self.nic, self.network) {
            (None, None) => Ok(Vec::new()),
            (Some(nic), Some(network)) => Pair { network, nic }.options(0),
            _ => Err("one `nic` and one network belong together; shorter: -nic".to_string()),
        }
    }
}

/// Rewrites QEMU's spelling to ours, up to `--`. Everything else stays as it is, but that a long
/// option may have one dash, so that one which is unknown is refused by its name.
///
/// # Errors
/// An option cannot be had here.
pub fn argv(args: impl IntoIterator<Item = OsString>) -> Result<Vec<OsString>, Error> {
    let mut out = Vec::new();
    let (mut hub, mut nics, mut serial) = (Hub::default(), 0, false);
    let mut args = args.into_iter();
    out.extend(args.next());
    while let Some(arg) = args.next() {
        let word = arg.to_str().unwrap_or("");
        if word == "--" {
            out.push(arg);
            break;
        }
        if OURS.contains(&word) {
            out.push(arg);
            continue;
        }
        let long = word.strip_prefix("--").filter(|name| name.len() > 1);
        let Some(option) = long.or_else(|| word.strip_prefix('-')).map(String::from) else {
            out.push(arg);
            continue;
        };
        let refused = |why: String| {
            Error::raw(ErrorKind::UnknownArgument, format!("-{option} is not understood: {why}\n"))
        };
        // What begins with a dash is the next option.
        let mut value = || {
            let is_value = |value: &OsString| !value.to_string_lossy().starts_with('-');
            args.next()
                .filter(is_value)
                .map(|value| value.to_string_lossy().into_owned())
                .ok_or_else(|| {
                    Error::raw(ErrorKind::InvalidValue, format!("-{option} needs a value\n"))
                })
        };
        if option == "accel" {
            out.extend(["--accel".into(), accel(&value()?).map_err(refused)?.into()]);
        } else if option == "serial" && long.is_none() && std::mem::replace(&mut serial, true) {
            return Err(refused("it was given before, and there is one serial port".to_string()));
        } else if let Some((_, ours)) = SAME.iter().find(|(theirs, _)| *theirs == option) {
            out.push(OsString::from(ours));
            out.extend(args.next());
        } else if SAME_WITHOUT_VALUE.contains(&option.as_str()) {
            out.push(format!("--{option}").into());
        } else if IGNORED_WITH_VALUE.contains(&option.as_str()) {
            if let Some(why) = unsupported::value(&option, &value()?) {
                return Err(refused(why));
            }
        } else if IGNORED.contains(&option.as_str()) {
        } else if let Some(why) = unsupported::option(&option) {
            return Err(refused(why.to_string()));
        } else {
            match option.as_str() {
                "name" if long.is_none() => {
                    out.push("--name".into());
                    out.push(name(&value()?).into());
                }
                "action" => out.extend(action(&value()?).map_err(refused)?),
                "nic" => {
                    let value = value()?;
                    if value != "none" {
                        nics += 1;
                        out.extend(Pair::of(&value).options(nics).map_err(refused)?);
                    }
                }
                "net" => hub.add(&value()?).map_err(refused)?,
                _ => out.push(if is_long(word) { format!("-{word}").into() } else { arg }),
            }
        }
    }
    let hub = hub.options().map_err(|why| {
        Error::raw(ErrorKind::UnknownArgument, format!("-net is not understood: {why}\n"))
    })?;
    let at = out.iter().position(|word| word == "--").unwrap_or(out.len());
    out.splice(at..at, hub);
    out.extend(args);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, MemorySize, split};
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::from_args(split(line))
    }

    #[test]
    fn argv_leaves_ours_and_what_follows_two_dashes_alone() {
        let same = split("vmm -v -T 1s --guest tx -- -netdev");
        assert_eq!(argv(same.clone()).expect("nothing to refuse"), same);
    }

    #[test]
    fn unknown_words_are_refused_by_their_names() {
        for word in ["-hda", "-vga2", "-Vx", "-qemu"] {
            let error = parse(&format!("vmm {word} disk")).expect_err(word);
            assert_eq!(error.kind(), clap::error::ErrorKind::UnknownArgument, "{word}");
            assert!(error.to_string().contains(word), "{error}");
        }
        for (line, verbose) in [("vmm -vvT5ms", 2), ("vmm -qNv -T=1s", 1), ("vmm -guest rx", 0)] {
            assert_eq!(parse(line).expect(line).verbose, verbose, "{line}");
        }
    }

    /// What a line becomes.
    fn becomes(line: &str) -> String {
        let words = argv(split(line)).unwrap_or_else(|why| panic!("{line}: {why}"));
        words.join(std::ffi::OsStr::new(" ")).into_string().expect("text")
    }

    #[test]
    fn nics_are_a_port_and_a_device() {
        for (line, ours) in [
            (
                "vmm -nic tap,model=e1000,ifname=t0,script=no -kernel k",
                "vmm --netdev tap,ifname=t0,script=no,id=nic-1 --device e1000,netdev=nic-1 --kernel k",
            ),
            (
                "vmm --nic netmap,id=n,ifname=valeA:x,mac=02:00:00:00:00:01",
                "vmm --netdev netmap,id=n,ifname=valeA:x --device e1000,netdev=n,mac=02:00:00:00:00:01",
            ),
            ("vmm -nic none -net none", "vmm"),
            (
                "vmm -net nic,macaddr=02:00:00:00:00:01 -net tap,ifname=t0 -- x",
                "vmm --netdev tap,ifname=t0,id=nic-0 --device e1000,netdev=nic-0,mac=02:00:00:00:00:01 -- x",
            ),
        ] {
            assert_eq!(becomes(line), ours);
            parse(ours.strip_suffix(" -- x").unwrap_or(ours)).expect(ours);
        }
    }

    #[test]
    fn what_qemu_has_in_other_words_is_rewritten() {
        for (line, ours) in [
            ("vmm -action panic=exit-failure,reboot=shutdown", "vmm --no-reboot"),
            ("vmm -cpu host --cpu 1", "vmm --cpu 1"),
            ("vmm -name guest=vm1,debug-threads=on", "vmm --name vm1"),
            (
                "vmm --append x --nographic -no-reboot -m size=1G",
                "vmm --cmdline x --no-reboot --mem size=1G",
            ),
        ] {
            assert_eq!(becomes(line), ours);
        }
        assert_eq!(parse("vmm -m size=1G").expect("a size").mem, Some(MemorySize(1 << 30)));
        assert!(
            parse("vmm -m 1G,slots=2,maxmem=2G").expect_err("none").to_string().contains("slots=")
        );
    }

    #[test]
    fn what_cannot_be_had_is_refused_with_the_reason() {
        for (line, part) in [
            ("vmm -drive file=x", "there are no disks"),
            ("vmm --drive file=x", "--initrd FILE"),
            ("vmm -daemonize", "foreground"),
            ("vmm -pidfile f", "--list"),
            ("vmm -S", "debugger"),
            ("vmm -nic user", "passt"),
            ("vmm -nic model=e1000", "to which network?"),
            ("vmm -nic tap", "tap,ifname=NAME"),
            ("vmm -device e1000e,netdev=n", "write e1000"),
            ("vmm -device virtio-blk-pci,drive=d", "--initrd FILE"),
            ("vmm disk.img", "there are no disks"),
            ("vmm -kernel k initrd", "\"initrd\""),
            ("vmm -nic tap,ifname=t,model=virtio", "model=e1000"),
            ("vmm -net nic -net user", "passt"),
            ("vmm -net tap,ifname=t", "belong together"),
            ("vmm -net nic -net nic", "-nic"),
            ("vmm -action panic=pause", "34"),
            ("vmm -serial pty", "pty"),
            ("vmm -serial null -serial stdio", "one serial port"),
            ("vmm -accel tcg", "tcg: guests run on KVM"),
            ("vmm -accel kvm -accel hvf", "hvf: guests run on KVM"),
            ("vmm -accel kvm,thread=multi", "thread=multi"),
            ("vmm -netdev passt,id=n", "passt behind a switch"),
            ("vmm -netdev tap,id=n,ifname=t,script=/etc/up", "no script is run"),
            ("vmm -device virtio-rng-pci", "RDRAND"),
            ("vmm -device pvpanic,ioport=0x606", "0x505"),
            ("vmm -serial tcp::4444,server", "unix:PATH"),
            ("vmm -netdev user,id=n", "write port=valeA:x"),
            ("vmm -device virtio-net-pci,netdev=n", "e1000"),
            ("vmm -monitor unix:m,server", "--ctl"),
            ("vmm -monitor stdio", "--ctl"),
            ("vmm -display gtk", "console=ttyS0"),
            ("vmm -vga std", "console=ttyS0"),
            ("vmm -curses", "console=ttyS0"),
            ("vmm -machine q35,accel=tcg", "accel=tcg: guests run on KVM"),
            ("vmm -M microvm", "q35"),
            ("vmm -M type=isapc", "q35"),
            ("vmm -M pc,acpi=off", "always there"),
            ("vmm -M pc,usb=on", "usb=on"),
            ("vmm -cpu Skylake-Server", "-cpu host"),
            ("vmm -cpu host,-svm", "-cpu host"),
            ("vmm -sandbox off", "--no-sandbox"),
            ("vmm -overcommit mem-lock=on", "not locked"),
            ("vmm -msg timestamp=on", "as they are"),
        ] {
            let error = parse(line).expect_err(line);
            let text = error.to_string();
            assert!(text.contains(part), "{line}: {text}");
            assert!(error.use_stderr() && error.exit_code() == 2, "{line}");
        }
    }

    #[test]
    fn an_option_without_its_value_is_named() {
        for option in ["nic", "net", "name", "action", "accel", "display", "machine", "cpu"] {
            for line in [format!("vmm -{option}"), format!("vmm -{option} -nographic")] {
                let error = parse(&line).expect_err(&line);
                assert!(error.to_string().contains(&format!("-{option} needs a value")), "{error}");
                assert_eq!(error.exit_code(), 2, "{line}");
            }
        }
    }

    #[test]
    fn what_is_so_anyway_may_be_asked_for() {
        for line in [
            "-monitor none -monitor null -monitor /dev/null -display none -vga none",
            "-M q35 -machine pc-i440fx-7.2,accel=kvm -machine type=pc,usb=off,acpi=on,accel=kvm:tcg",
            "-machine accel=kvm,vmport=off,kernel-irqchip=on -cpu host -cpu max",
            "-sandbox on,spawn=deny -overcommit mem-lock=off,cpu-pm=off -msg timestamp=off",
        ] {
            assert_eq!(becomes(&format!("vmm {line}")), "vmm", "{line}");
        }
        assert_eq!(becomes("vmm -accel kvm:tcg"), "vmm --accel kvm");
        let built_in = parse("vmm -device pvpanic -device isa-debug-exit").expect("both are there");
        assert!(built_in.device.iter().all(|device| device.built_in));
    }

    /// All that `qemu-system-x86_64 -h` of QEMU 7.2 lists, and what it has for other processors.
    const OF_QEMU_7_2: &str = "h help version machine M sandbox cpu accel smp numa add-fd set global boot m mem-path \
        mem-prealloc k audio audio-help audiodev device name uuid fda fdb hda hdb hdc hdd cdrom blockdev drive mtdblock \
        sd snapshot fsdev virtfs iscsi usb usbdevice display nographic portrait rotate vga full-screen g vnc \
        win2k-hack no-fd-bootchk no-acpi no-hpet acpitable smbios netdev nic net chardev tpmdev kernel append initrd dtb \
        compat fw_cfg serial parallel monitor qmp qmp-pretty mon debugcon pidfile singlestep preconfig S overcommit \
        gdb s d D dfilter seed L enable-kvm xen-domid xen-attach xen-domid-restrict no-reboot no-shutdown action \
        loadvm daemonize option-rom rtc icount watchdog-action echr incoming only-migratable nodefaults chroot runas \
        prom-env semihosting semihosting-config sandbox readconfig no-user-config trace plugin msg dump-vmstate \
        enable-sync-profile async-teardown object bios pflash spice";
    /// What later ones have added.
    const OF_LATER_QEMUS: &str = "run-with perfmap jitdump shim";

    #[test]
    fn each_option_of_qemu_is_taken_or_refused_with_a_reason() {
        for name in OF_QEMU_7_2.split_whitespace().chain(OF_LATER_QEMUS.split_whitespace()) {
            let Err(error) = parse(&format!("vmm -{name} x")) else { continue };
            let text = error.to_string();
            // Its value may be wrong, or not be one; clap's word for an option that it does not know is this.
            assert!(!text.contains("unexpected argument '-"), "{text}");
        }
    }

    #[test]
    fn processors_are_counted_and_their_topology_is_cores() {
        for (value, vcpus) in
            [("2", 2), ("cpus=4", 4), ("3,sockets=1,cores=3,threads=1", 3), ("2,maxcpus=2", 2)]
        {
            assert_eq!(parse(&format!("vmm -smp {value}")).expect(value).vcpus.0, vcpus);
        }
        for value in
            ["0", "5", "two", "2,sockets=2", "2,threads=2", "2,maxcpus=4", "cores=2", "2,cpus=3"]
        {
            let error = parse(&format!("vmm -smp {value}")).expect_err(value).to_string();
            assert!(error.contains("1 to 4 vCPUs"), "{value}: {error}");
        }
    }

    #[test]
    fn repeated_options_are_as_in_qemu() {
        let line = "vmm -m 64 -m 128 -kernel a -kernel b -append x -append y -name n -name m -nographic \
                    -nographic -netdev port=valeA:x -netdev port=valeA:y --json --json -v -vv";
        let cli = parse(line).expect("the last one counts");
        assert_eq!(cli.mem, Some(MemorySize(128 << 20)));
        assert_eq!(cli.kernel.expect("a kernel").to_str(), Some("b"));
        assert_eq!((cli.cmdline.as_deref(), cli.name.as_deref()), (Some("y"), Some("m")));
        assert_eq!((cli.netdev.len(), cli.verbose), (2, 3), "these add up");
    }
}
