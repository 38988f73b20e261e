//! Machines on KVM, with kernels of a few instructions: boot, serial port, exit codes, PCI, crashes,
//! signals. Code in kernel mode costs a microsecond an instruction on software KVM, so none is long.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use e1000pv::bits::{Ctrl, Rctl, Tctl};
use e1000pv::desc::{ContextTx, DataTx, TxCmd};
use e1000pv::regs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod support;
use support::{Asm, bzimage, kvm, output, record, root, skip, stderr, stdout, vmm};

/// Far beyond anything that works.
const TIMEOUT: &str = "20s";

macro_rules! need_kvm {
    ($name:literal) => {
        if !kvm($name) {
            return;
        }
    };
}

/// A machine that runs until it is told to end. Killed when dropped.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Running {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(command.spawn().expect("e1000pv-vmm starts"))
    }

    /// Waits for a line that the guest prints.
    fn line(&mut self) -> String {
        let mut line = String::new();
        let stdout = self.0.stdout.as_mut().expect("piped");
        BufReader::with_capacity(1, stdout).read_line(&mut line).expect("text");
        line
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).expect("our child");
    }

    /// Exit code, and what is left of stdout and stderr.
    fn end(mut self) -> (Option<i32>, String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        self.0.stdout.take().expect("piped").read_to_string(&mut out).expect("text");
        self.0.stderr.take().expect("piped").read_to_string(&mut err).expect("text");
        (self.0.wait().expect("our child").code(), out, err)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn guest_boots_prints_its_command_line_and_exits_well() {
    need_kvm!("guest_boots_prints_its_command_line_and_exits_well");
    let root = root();
    let kernel =
        Asm::new().check_start_info().print_command_line().print("\nend\n").exit(0).kernel();
    let path = kernel.path().to_str().expect("text");
    let got = output(vmm(
        root.path(),
        &["--kernel", path, "--cmdline", "hello, guest", "--timeout", TIMEOUT],
    ));
    assert_eq!(got.status.code(), Some(0), "{}", stderr(&got));
    assert_eq!(stdout(&got), "hello, guest\nend\n");
}

#[test]
fn bzimage_is_entered_in_long_mode_with_its_command_line() {
    need_kvm!("bzimage_is_entered_in_long_mode_with_its_command_line");
    let root = root();
    let kernel = bzimage(Asm::new().print_zero_page_command_line().code());
    let path = kernel.path().to_str().expect("text");
    let line = "x".repeat(100);
    let run = |line: &str| {
        output(vmm(root.path(), &["--kernel", path, "--cmdline", line, "--timeout", TIMEOUT]))
    };
    let got = run(&line);
    assert_eq!(got.status.code(), Some(0), "{}", stderr(&got));
    assert_eq!(stdout(&got), line);
    let got = run(&"x".repeat(2048));
    assert_eq!(got.status.code(), Some(1));
    assert!(stderr(&got).contains("takes 2047: shorten --cmdline"), "{}", stderr(&got));
}

#[test]
fn machine_with_vcpus_that_nobody_started_ends() {
    need_kvm!("machine_with_vcpus_that_nobody_started_ends");
    let root = root();
    let kernel = Asm::new().exit(0).kernel();
    let path = kernel.path().to_str().expect("text");
    let args = ["--kernel", path, "-smp", "4", "--timeout", TIMEOUT, "--json"];
    let got = output(vmm(root.path(), &args));
    assert_eq!(got.status.code(), Some(0), "{}", stderr(&got));
    assert_eq!(record(&got)["counters"]["pio_exits"], 1);
    let kernel = Asm::new().print("up\n").halt().kernel();
    let path = kernel.path().to_str().expect("text");
    let mut machine = Running::start(vmm(root.path(), &["--kernel", path, "--vcpus", "4"]));
    assert_eq!(machine.line(), "up\n");
    machine.signal(Signal::SIGTERM);
    let (code, _, err) = machine.end();
    assert_eq!(code, Some(0), "{err}");
}

/// The last of four tells: each that is started counts itself, and waits.
#[test]
fn vcpus_are_started_by_the_first_and_run_at_once() {
    need_kvm!("vcpus_are_started_by_the_first_and_run_at_once");
    const COUNT: u32 = 0x3000;
    let root = root();
    let kernel =
        Asm::new().store(COUNT, 0).start_others(COUNT).wait_load(COUNT, 3).exit(0).kernel();
    let path = kernel.path().to_str().expect("text");
    let args = ["--kernel", path, "--vcpus", "4", "--timeout", TIMEOUT];
    let got = output(vmm(root.path(), &args));
    assert_eq!(got.status.code(), Some(0), "{}", stderr(&got));
}

/// From low memory by one NIC to the other's buffer above 4 GiB, and from there back.
#[test]
fn frames_go_through_buffers_above_four_gigabytes() {
    const NAME: &str = "frames_go_through_buffers_above_four_gigabytes";
    need_kvm!("frames_go_through_buffers_above_four_gigabytes");
    let memory = std::fs::read_to_string("/proc/meminfo").expect("Linux");
    let available = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = available.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
    if kib.is_none_or(|kib| kib < 5 << 20) {
        skip(NAME, "it takes 3 GiB of memory, and this machine has not 5 available");
        return;
    }
    const TX: [u32; 2] = [0x20_0000, 0x20_1000];
    const RX: [u32; 2] = [0x20_2000, 0x20_3000];
    const FRAME: u32 = 0x30_0000;
    const BACK: u32 = 0x30_1000;
    let words: Vec<u32> = [u32::MAX, 0x0002_ffff].into_iter().chain(0x1000..0x100d).collect();
    let bar0 = e1000pv_vmm::machine::layout::bar0;
    let high = |nic: usize| (u32::from(nic == 1), if nic == 1 { 0 } else { BACK });
    let mut guest = Asm::new();
    for (i, word) in words.iter().enumerate() {
        guest = guest.store(FRAME + 4 * i as u32, *word);
    }
    for nic in [0, 1] {
        let (above, at) = high(nic);
        guest = guest.store(RX[nic], at).store(RX[nic] + 4, above);
        // To be sent: the frame by the first, what came to the second by the second.
        let from = if nic == 0 { FRAME } else { 0 };
        let command = 60 | u32::from((TxCmd::EOP | TxCmd::IFCS | TxCmd::RS).bits()) << 24;
        guest = guest.store(TX[nic], from).store(TX[nic] + 4, u32::from(nic == 1));
        guest = guest.store(TX[nic] + 8, command);
        for (register, value) in [
            (regs::RDBAL, RX[nic]),
            (regs::RDLEN, 128),
            (regs::RDT, 1),
            (regs::RCTL, (Rctl::EN | Rctl::UPE | Rctl::MPE | Rctl::BAM).bits()),
            (regs::TDBAL, TX[nic]),
            (regs::TDLEN, 128),
            (regs::TCTL, Tctl::EN.bits()),
        ] {
            guest = guest.store(bar0(nic) + register, value);
        }
    }
    guest = guest
        .store(bar0(0) + regs::TDT, 1)
        .wait_load(bar0(1) + regs::RDH, 1)
        .store(bar0(1) + regs::TDT, 1)
        .wait_load(bar0(0) + regs::RDH, 1);
    for (i, word) in words.iter().enumerate() {
        guest = guest.check_load(BACK + 4 * i as u32, *word);
    }
    let kernel = guest.exit(0).kernel();
    let path = kernel.path().to_str().expect("text");
    for indirect in ["on", "off"] {
        let root = root();
        let machine = ["--kernel", path, "--mem", "3074M", "--json", "--timeout", TIMEOUT];
        let nics = ["--netdev", "valeT:a", "--netdev", "valeT:b", "--indirect", indirect];
        let got = output(vmm(root.path(), &[&machine[..], &nics].concat()));
        assert_eq!(got.status.code(), Some(0), "{indirect}: {}", stderr(&got));
        for nic in record(&got)["counters"]["nics"].as_array().expect("two") {
            let one = (&nic["tx_packets"], &nic["rx_packets"]);
            assert_eq!((one, &nic["tx_bad"]), ((&1.into(), &1.into()), &0.into()), "{nic}");
        }
    }
}

#[test]
fn status_of_the_guest_is_the_exit_code() {
    need_kvm!("status_of_the_guest_is_the_exit_code");
    for (status, code) in [(0, 0), (1, 1), (2, 2), (3, 1), (77, 1)] {
        let root = root();
        let kernel = Asm::new().exit(status).kernel();
        let path = kernel.path().to_str().expect("text");
        let got = output(vmm(root.path(), &["--kernel", path, "--timeout", TIMEOUT]));
        assert_eq!(got.status.code(), Some(code), "{status}: {}", stderr(&got));
    }
}

/// Headers of one byte, one byte of payload in each segment, and a VLAN tag to put behind byte 12.
#[test]
fn guest_that_sends_segments_of_two_bytes_leaves_its_monitor_alive() {
    need_kvm!("guest_that_sends_segments_of_two_bytes_leaves_its_monitor_alive");
    const RING: u32 = 0x20_0000;
    let context =
        ContextTx { tucmd: TxCmd::DEXT | TxCmd::TSE, hdrlen: 1, mss: 1, ..ContextTx::default() };
    let data = DataTx {
        buffer_addr: 0x30_0000,
        dtalen: 60,
        dcmd: TxCmd::DEXT | TxCmd::TSE | TxCmd::VLE | TxCmd::EOP | TxCmd::RS,
        ..DataTx::default()
    };
    let descriptors = [context.to_bytes(), data.to_bytes()].concat();
    let mut guest = Asm::new();
    for (at, word) in (RING..).step_by(4).zip(descriptors.chunks(4)) {
        guest = guest.store(at, u32::from_le_bytes(word.try_into().expect("four bytes")));
    }
    let bar0 = e1000pv_vmm::machine::layout::bar0(0);
    for (register, value) in [
        (regs::CTRL, Ctrl::VME.bits()),
        (regs::TDBAL, RING),
        (regs::TDLEN, 128),
        (regs::TCTL, Tctl::EN.bits()),
        (regs::TDT, 2),
    ] {
        guest = guest.store(bar0 + register, value);
    }
    let kernel = guest.wait_load(bar0 + regs::TDH, 2).exit(0).kernel();
    let path = kernel.path().to_str().expect("text");
    for more in [&[][..], &["--tx-mode", "inline"], &["--csb", "off"], &["--indirect", "off"]] {
        let root = root();
        let machine = ["--kernel", path, "--netdev", "port=null:", "--json", "--timeout", TIMEOUT];
        let got = output(vmm(root.path(), &[&machine, more].concat()));
        assert_eq!(got.status.code(), Some(0), "{more:?}: {}", stderr(&got));
        let nic = &record(&got)["counters"]["nics"][0];
        assert_eq!((&nic["tx_bad"], &nic["tx_packets"]), (&1.into(), &0.into()), "{more:?}");
    }
}

#[test]
fn record_has_the_guests_result_and_exact_counters() {
    need_kvm!("record_has_the_guests_result_and_exact_counters");
    let root = root();
    let kernel = Asm::new()
        .print("talk\n")
        .print("{\"packets\":5}\n")
        .store(0xd000_0000, 1) // nobody is there
        .check_load(0xd000_0000, u32::MAX)
        .check_in32(0x999, u32::MAX)
        .exit(0)
        .kernel();
    let path = kernel.path().to_str().expect("text");
    let got = output(vmm(root.path(), &["--kernel", path, "--json", "--timeout", TIMEOUT]));
    assert_eq!(got.status.code(), Some(0), "{}", stderr(&got));
    assert!(stderr(&got).contains("talk\n"), "{}", stderr(&got));
    assert_eq!(stdout(&got).lines().count(), 1, "{}", stdout(&got));
    let end = record(&got);
    assert_eq!(
        (&end["type"], &end["end"], &end["accel"]),
        (&"end".into(), &"status".into(), &"kvm".into())
    );
    assert_eq!(end["guest"]["packets"], 5);
    let counters = &end["counters"];
    assert_eq!(counters["mmio_exits"], 2, "{counters}");
    assert_eq!(counters["unclaimed"], 3, "{counters}");
    // 19 bytes, one read, one exit.
    assert_eq!(counters["pio_exits"], 21, "{counters}");
}

#[test]
fn pci_has_a_bridge_and_the_nic_with_its_registers_behind_bar0() {
    need_kvm!("pci_has_a_bridge_and_the_nic_with_its_registers_behind_bar0");
    let root = root();
    let config = |slot: u32, register: u32| 0x8000_0000 | slot << 11 | register;
    let kernel = Asm::new()
        .out32(0xcf8, config(0, 0))
        .check_in32(0xcfc, 0x1237_8086)
        .out32(0xcf8, config(1, 0))
        .check_in32(0xcfc, u32::MAX)
        .out32(0xcf8, config(3, 0))
        .check_in32(0xcfc, 0x100e_8086)
        .out32(0xcf8, config(3, 0x2c))
        .check_in32(0xcfc, 0x1101_8086)
        .out32(0xcf8, config(3, 0x10))
        .check_in32(0xcfc, 0xe000_0000)
        // RAL0 holds the address; it moves with the BAR.
        .check_load(0xe000_5400, 0x0000_0002)
        .out32(0xcfc, 0xf000_0000)
        .check_load(0xf000_5400, 0x0000_0002)
        .check_load(0xe000_5400, u32::MAX)
        .exit(0)
        .kernel();
    let path = kernel.path().to_str().expect("text");
    let got = output(vmm(
        root.path(),
        &[
            "--kernel",
            path,
            "--netdev",
            "port=valeT:x",
            "--device",
            "mac=02:00:00:00:12:34",
            "--timeout",
            TIMEOUT,
            "--json",
        ],
    ));
    assert_eq!(got.status.code(), Some(0), "{}", stderr(&got));
    let nic = &record(&got)["counters"]["nics"][0];
    assert_eq!(nic["register_accesses"], 2, "{nic}");
}

#[test]
fn crash_is_an_error_that_says_where() {
    need_kvm!("crash_is_an_error_that_says_where");
    let root = root();
    let kernel = Asm::new().print("about to\n").fault().kernel();
    let path = kernel.path().to_str().expect("text");
    let got = output(vmm(root.path(), &["--kernel", path, "--timeout", TIMEOUT]));
    assert_eq!(got.status.code(), Some(33), "{}", stderr(&got));
    assert_eq!(stdout(&got), "about to\n");
    let text = stderr(&got);
    assert!(text.contains("the guest crashed: triple fault at 0x100"), "{text}");
}

#[test]
fn timeout_ends_a_guest_that_does_not() {
    need_kvm!("timeout_ends_a_guest_that_does_not");
    for guest in [Asm::new().forever(), Asm::new().halt()] {
        let root = root();
        let kernel = guest.kernel();
        let path = kernel.path().to_str().expect("text");
        let got = output(vmm(root.path(), &["--kernel", path, "--timeout", "50ms", "--json"]));
        assert_eq!(got.status.code(), Some(3), "{}", stderr(&got));
        assert_eq!(record(&got)["end"], "timeout");
    }
}

#[test]
fn sigterm_ends_spinning_and_sleeping_guests_with_a_record_and_frees_the_port() {
    need_kvm!("sigterm_ends_spinning_and_sleeping_guests_with_a_record_and_frees_the_port");
    // The idle call with a block at 2 MiB, zeroed: nothing seen, no limit.
    let asleep = || Asm::new().print("up\n").out32(e1000pv::idle::PORT, 0x20_0000).forever();
    for guest in [Asm::new().print("up\n").forever(), Asm::new().print("up\n").idle(), asleep()] {
        let root = root();
        let kernel = guest.kernel();
        let path = kernel.path().to_str().expect("text");
        let serial = root.path().join("serial");
        let serial = serial.to_str().expect("text");
        let mut machine = Running::start(vmm(
            root.path(),
            &[
                "--kernel",
                path,
                "--netdev",
                "port=valeT:x",
                "--json",
                "--interval",
                "1h",
                "--serial",
                serial,
                "--name",
                "victim",
            ],
        ));
        assert!(machine.line().contains("\"start\""));
        // What the guest prints is the only sign that it runs.
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while !std::fs::read_to_string(serial).is_ok_and(|text| text.contains("up")) {
            assert!(std::time::Instant::now() < end, "the guest does not print");
            std::thread::sleep(Duration::from_millis(1));
        }
        let stats = output(vmm(root.path(), &["--stats", "victim", "--json"]));
        assert_eq!(stats.status.code(), Some(0), "{}", stderr(&stats));
        assert!(record(&stats)["counters"]["pio_exits"].as_u64() >= Some(3));
        machine.signal(Signal::SIGTERM);
        let (code, out, err) = machine.end();
        assert_eq!(code, Some(0), "{err}");
        let end: serde_json::Value =
            serde_json::from_str(out.lines().last().expect("a record")).unwrap();
        assert_eq!((&end["type"], &end["end"]), (&"end".into(), &"stopped".into()));
        // The switch went with its last port, and the name is free.
        assert!(!root.path().join("valeT").exists(), "the port was not closed");
        let stats = output(vmm(root.path(), &["--stats", "victim"]));
        assert_eq!(stats.status.code(), Some(3));
    }
}

#[test]
fn name_is_taken_while_its_machine_runs_and_free_after_sigkill() {
    need_kvm!("name_is_taken_while_its_machine_runs_and_free_after_sigkill");
    let root = root();
    let kernel = Asm::new().print("up\n").idle().kernel();
    let path = kernel.path().to_str().expect("text");
    let args = ["--kernel", path, "--name", "one"];
    let mut first = Running::start(vmm(root.path(), &args));
    assert_eq!(first.line(), "up\n");
    let second = output(vmm(root.path(), &args));
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("a machine named one runs already"), "{}", stderr(&second));
    first.signal(Signal::SIGKILL);
    let (code, ..) = first.end();
    assert_eq!(code, None, "killed");
    let kernel = Asm::new().exit(0).kernel();
    let path = kernel.path().to_str().expect("text");
    let third =
        output(vmm(root.path(), &["--kernel", path, "--name", "one", "--timeout", TIMEOUT]));
    assert_eq!(third.status.code(), Some(0), "{}", stderr(&third));
}

#[test]
fn usr1_prints_totals_and_the_guest_goes_on() {
    need_kvm!("usr1_prints_totals_and_the_guest_goes_on");
    let root = root();
    let kernel = Asm::new().forever().kernel();
    let path = kernel.path().to_str().expect("text");
    let mut machine =
        Running::start(vmm(root.path(), &["--kernel", path, "--json", "--interval", "1h"]));
    assert!(machine.line().contains("\"start\""));
    machine.signal(Signal::SIGUSR1);
    assert!(machine.line().contains("\"type\":\"totals\""));
    machine.signal(Signal::SIGINT);
    let (code, ..) = machine.end();
    assert_eq!(code, Some(0));
}

#[test]
fn reader_that_leaves_ends_the_machine_well() {
    need_kvm!("reader_that_leaves_ends_the_machine_well");
    let root = root();
    // Prints without end: the jump back is over the 5 + 4 + 5 + 5 + 8 bytes of `print("abc")`.
    let kernel = Asm::new().print("ab\n").jump_back(27).kernel();
    let path = kernel.path().to_str().expect("text");
    let mut machine = Running::start(vmm(root.path(), &["--kernel", path]));
    assert_eq!(machine.line(), "ab\n");
    drop(machine.0.stdout.take());
    assert_eq!(machine.0.wait().expect("our child").code(), Some(0));
}
