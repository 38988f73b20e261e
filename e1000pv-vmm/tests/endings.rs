//! How machines end and begin anew, with guests of a few instructions: off, halt, reset, panic, triple fault, and
//! commands from outside.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use e1000pv::regs;
use e1000pv_vmm::machine::layout;

mod support;
use support::{Asm, BASE, kvm, output, record, root, stderr, vmm};

/// Far beyond anything that works.
const TIMEOUT: &str = "30s";

macro_rules! need_kvm {
    ($name:literal) => {
        if !kvm($name) {
            return;
        }
    };
}

/// Sleep enable with the type of S5.
const S5: u16 = 1 << 13 | (layout::SLEEP_TYPE_S5 as u16) << 10;

fn run(root: &Path, guest: Asm, more: &[&str]) -> Output {
    let kernel = guest.kernel();
    let path = kernel.path().to_str().expect("text");
    let args = ["--kernel", path, "--netdev", "null:", "--json", "--timeout", TIMEOUT];
    output(vmm(root, &[&args, more].concat()))
}

/// Runs the guest to its end, whose exit code and name these are to be.
fn ends(guest: Asm, more: &[&str], code: i32, name: &str) {
    let root = root();
    let got = run(root.path(), guest, more);
    assert_eq!(got.status.code(), Some(code), "{name}: {}", stderr(&got));
    assert_eq!(record(&got)["end"], name);
}

#[test]
fn guest_that_switches_itself_off_ends_its_machine() {
    need_kvm!("guest_that_switches_itself_off_ends_its_machine");
    // The type alone, as Linux writes it first.
    let guest = Asm::new().out16(layout::PM1_CONTROL.start, S5 & !(1 << 13));
    ends(guest.out16(layout::PM1_CONTROL.start, S5).forever(), &[], 0, "poweroff");
}

#[test]
fn guest_that_halts_for_good_ends_its_machine_also_with_vcpus_that_never_ran() {
    need_kvm!("guest_that_halts_for_good_ends_its_machine_also_with_vcpus_that_never_ran");
    ends(Asm::new().halt(), &[], 0, "halt");
    ends(Asm::new().halt(), &["--vcpus", "3", "--no-reboot"], 0, "halt");
}

#[test]
fn guest_that_idles_or_spins_has_not_halted() {
    need_kvm!("guest_that_idles_or_spins_has_not_halted");
    for guest in [Asm::new().idle(), Asm::new().cli().forever()] {
        ends(guest, &["--timeout", "3s"], 3, "timeout");
    }
}

#[test]
fn panic_and_triple_fault_have_exit_codes_of_their_own() {
    need_kvm!("panic_and_triple_fault_have_exit_codes_of_their_own");
    // Bit 1: a kernel that writes a dump goes on.
    let panics = Asm::new().out8(layout::PVPANIC, 2).out8(layout::PVPANIC, 1).forever();
    ends(panics, &[], 34, "panic");
    ends(Asm::new().fault(), &[], 33, "triple-fault");
}

#[test]
fn reset_ends_a_machine_that_is_not_to_begin_anew() {
    need_kvm!("reset_ends_a_machine_that_is_not_to_begin_anew");
    let resets = |port, value| Asm::new().out8(port, value).forever();
    for flag in ["--no-reboot", "-no-reboot"] {
        ends(resets(layout::RESET_CONTROL, layout::RESET_VALUE), &[flag], 0, "reset");
    }
    // By a keyboard controller of which ACPI says that it is not there: an end, as in other small monitors.
    ends(resets(layout::KEYBOARD_COMMAND, 0xfe), &[], 0, "reset");
}

/// A machine whose guest waits for keys. Killed when dropped.
struct Running {
    child: Child,
    keys: Option<ChildStdin>,
    screen: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Running {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("e1000pv-vmm starts");
        let screen = BufReader::new(child.stdout.take().expect("piped"));
        Running { keys: child.stdin.take(), screen, child }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.screen.read_line(&mut line).expect("text");
        line
    }

    fn types(&mut self, keys: &[u8]) {
        self.keys.as_mut().expect("piped").write_all(keys).expect("it reads");
    }

    /// Exit code, what is left of stdout, and stderr.
    fn end(mut self) -> (Option<i32>, String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        self.screen.read_to_string(&mut out).expect("text");
        self.child.stderr.take().expect("piped").read_to_string(&mut err).expect("text");
        (self.child.wait().expect("our child").code(), out, err)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fails unless memory, its image, and a NIC with its BAR are as at the first time; then spoils them, says
/// "boot", and waits for a key: `q` ends it.
fn spoiler() -> Asm {
    let (bar0, moved) = (layout::bar0(0), layout::bar0(0) + 0x100_0000);
    let bar = 0x8000_0000 | u32::from(layout::slot(0)) << 11 | 0x10;
    Asm::new()
        .word(0x1234_5678) // at BASE + 1
        .check_start_info()
        .check_load(BASE + 1, 0x1234_5678)
        .check_load(0x20_0000, 0)
        .out32(layout::PCI_ADDRESS, bar)
        .check_in32(layout::PCI_DATA.start, bar0)
        .check_load(bar0 + regs::RDBAL, 0)
        .check_in16(layout::PM1_EVENT.start + 2, 0)
        .store(BASE + 1, 0)
        .store(0x20_0000, 1)
        .store(bar0 + regs::RDBAL, 0x1000)
        .out32(layout::PCI_DATA.start, moved)
        .check_load(moved + regs::RDBAL, 0x1000)
        .out16(layout::PM1_EVENT.start + 2, 1 << 8)
        .print("boot\n")
        .key()
        .unless_key(b'q')
        .exit(0)
}

#[test]
fn machine_begins_anew_after_each_reset_of_its_guest() {
    need_kvm!("machine_begins_anew_after_each_reset_of_its_guest");
    let root = root();
    let kernel = spoiler().out8(layout::RESET_CONTROL, layout::RESET_VALUE).forever().kernel();
    let path = kernel.path().to_str().expect("text");
    let args = ["--kernel", path, "--netdev", "valeA:x", "--vcpus", "2", "--timeout", TIMEOUT];
    let mut machine = Running::start(vmm(root.path(), &args));
    for _ in 0..3 {
        assert_eq!(machine.line(), "boot\n");
        machine.types(b"r");
    }
    assert_eq!(machine.line(), "boot\n");
    machine.types(b"q");
    let (code, out, err) = machine.end();
    assert_eq!((code, out.as_str()), (Some(0), ""), "{err}");
    assert_eq!(err.matches("begins anew").count(), 3, "{err}");
}

#[test]
fn machine_is_reset_from_outside_whatever_its_guest_does() {
    need_kvm!("machine_is_reset_from_outside_whatever_its_guest_does");
    let sleeps = || Asm::new().out32(e1000pv::idle::PORT, 0x30_0000).forever();
    for (what, then) in [
        ("spins", Asm::new().forever()),
        ("idles", Asm::new().idle()),
        ("sleeps in the idle call", sleeps()),
    ] {
        let root = root();
        let kernel = spoiler().then(then).kernel();
        let path = kernel.path().to_str().expect("text");
        let args = ["--kernel", path, "--netdev", "null:", "--name", "vm", "--timeout", TIMEOUT];
        let mut machine = Running::start(vmm(root.path(), &args));
        assert_eq!(machine.line(), "boot\n", "{what}");
        machine.types(b"x");
        let reset = output(vmm(root.path(), &["--ctl", "vm", "reset"]));
        assert_eq!(reset.status.code(), Some(0), "{what}: {}", stderr(&reset));
        assert_eq!(machine.line(), "boot\n", "{what}");
        let quit = output(vmm(root.path(), &["--ctl", "vm", "quit"]));
        assert_eq!(quit.status.code(), Some(0), "{what}: {}", stderr(&quit));
        let (code, _, err) = machine.end();
        assert_eq!(code, Some(0), "{what}: {err}");
    }
}

#[test]
fn vcpus_are_started_again_after_each_reset() {
    need_kvm!("vcpus_are_started_again_after_each_reset");
    const COUNT: u32 = 0x3000;
    let root = root();
    let guest = Asm::new().check_load(COUNT, 0).start_others(COUNT).wait_load(COUNT, 3);
    let guest = guest.print("boot\n").key().unless_key(b'q').exit(0);
    let kernel = guest.out8(layout::RESET_CONTROL, layout::RESET_VALUE).forever().kernel();
    let path = kernel.path().to_str().expect("text");
    let args = ["--kernel", path, "--vcpus", "4", "--timeout", TIMEOUT];
    let mut machine = Running::start(vmm(root.path(), &args));
    for key in [b"r", b"r", b"q"] {
        assert_eq!(machine.line(), "boot\n");
        machine.types(key);
    }
    let (code, _, err) = machine.end();
    assert_eq!(code, Some(0), "{err}");
}

#[test]
fn kernel_that_is_gone_is_an_error_of_the_reboot() {
    need_kvm!("kernel_that_is_gone_is_an_error_of_the_reboot");
    let root = root();
    let kernel = spoiler().out8(layout::RESET_CONTROL, 6).forever().kernel();
    let path = kernel.path().to_str().expect("text").to_owned();
    let args = ["--kernel", &path, "--netdev", "null:", "--timeout", TIMEOUT];
    let mut machine = Running::start(vmm(root.path(), &args));
    assert_eq!(machine.line(), "boot\n");
    drop(kernel);
    machine.types(b"r");
    let (code, _, err) = machine.end();
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("is the kernel's file still there?"), "{err}");
}

#[test]
fn power_button_is_pressed_from_outside() {
    need_kvm!("power_button_is_pressed_from_outside");
    let root = root();
    // Waits for the button, and obeys.
    let obeys = Asm::new()
        .out16(layout::PM1_EVENT.start + 2, 1 << 8)
        .print("listens\n")
        .wait_in16(layout::PM1_EVENT.start, 1 << 8)
        .out16(layout::PM1_CONTROL.start, S5)
        .forever();
    let deaf = Asm::new().print("listens\n").idle();
    for (guest, pressed) in [(obeys, 0), (deaf, 3)] {
        let kernel = guest.kernel();
        let path = kernel.path().to_str().expect("text");
        let args = ["--kernel", path, "--netdev", "null:", "--name", "vm", "--timeout", TIMEOUT];
        let mut machine = Running::start(vmm(root.path(), &args));
        assert_eq!(machine.line(), "listens\n");
        let ctl = output(vmm(root.path(), &["--ctl", "vm", "powerdown"]));
        assert_eq!(ctl.status.code(), Some(pressed), "{}", stderr(&ctl));
        if pressed != 0 {
            assert!(stderr(&ctl).contains("does not listen"), "{}", stderr(&ctl));
            output(vmm(root.path(), &["--ctl", "vm", "quit"]));
        }
        let (code, _, err) = machine.end();
        assert_eq!(code, Some(0), "{err}");
        assert_eq!(err.contains("switched itself off"), pressed == 0, "{err}");
    }
}
