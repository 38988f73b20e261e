//! What a machine may ask of the kernel once it runs: a seccomp filter per thread, and no new
//! privileges.
//!
//! | thread | may |
//! |---|---|
//! | vCPU | run and reset its vCPU, set interrupt lines, move doorbells; write the console |
//! | I/O | what a netmap port does: files below the switch's root and their mappings, locks, bells |
//! | main | the same, its terminal, and resetting the machine |
//! | all | memory that is not executable, locks, clocks, eventfds, their own end; stdin's terminal as it was |
//!
//! No thread may start a program or a thread, open a socket, load code, trace or signal another process (it may
//! abort its own, as a panic does), or change its credentials. The console's descriptors and the port's are open by then. What is not allowed
//! kills the process with SIGSYS: a guest that has got hold of it has nothing else to try.
//!
//! Invariant: filters are for the running machine; all that is set up (threads among it) comes before,
//! and a thread enters its filter itself, first thing.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// What a thread does, and hence may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs the guest.
    Vcpu,
    /// Runs the guest and, at its doorbell, the port.
    InlineVcpu,
    /// Serves NICs, or is the guest where there is no KVM.
    Io,
    /// Waits for signals and reports.
    Main,
}

/// Of every thread: memory, locks, clocks, waiting, ending.
const ALL: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendto,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Of those that work with ports: peers come and go, and with them files below the root.
const PORT: &[i64] = &[
    libc::SYS_access,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
    libc::SYS_faccessat,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_ftruncate,
    libc::SYS_getcwd, // a panic's backtrace
    libc::SYS_getdents64,
    libc::SYS_geteuid,
    libc::SYS_lseek,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_mknod,
    libc::SYS_mknodat,
    libc::SYS_newfstatat,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_recvfrom, // what becomes of a tap
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_statx,
    libc::SYS_timerfd_settime,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
];

/// Of the main thread besides: ending the vCPU's wait, signals read from a socket pair; whose the terminal is; who
/// connects to the serial port's socket, which is the only one that listens.
const MAIN: &[i64] = &[libc::SYS_tgkill, libc::SYS_getpgrp, libc::SYS_getpgid, libc::SYS_accept4];

/// KVM's requests while a machine runs (linux/kvm.h): KVM_RUN, KVM_GET_REGS, KVM_GET_SREGS, KVM_GET_MP_STATE; and to
/// reset the vCPU: KVM_SET_REGS, _SET_SREGS, _GET_MSRS, _SET_MSRS, _SET_FPU, _SET_LAPIC, _SET_MP_STATE,
/// _SET_VCPU_EVENTS, _SET_DEBUGREGS, _SET_XCRS.
const RUN_REQUESTS: &[u32] = &[
    0xae80,
    0x8090_ae81,
    0x8138_ae83,
    0x8004_ae98,
    0x4090_ae82,
    0x4138_ae84,
    0xc008_ae88,
    0x4008_ae89,
    0x41a0_ae8d,
    0x4400_ae8f,
    0x4004_ae99,
    0x4040_aea0,
    0x4080_aea2,
    0x4188_aea7,
];
/// Of the main thread, to reset the machine: KVM_SET_IRQCHIP, KVM_SET_PIT2.
const RESET_REQUESTS: &[u32] = &[0x8208_ae63, 0x4070_aea0];
/// KVM_IRQ_LINE and KVM_IOEVENTFD: devices, in whichever thread they run.
const DEVICE_REQUESTS: &[u32] = &[0x4008_ae61, 0x4040_ae79];
/// TUNGETDEVNETNS and TUNGETIFF: a tap that is moved to another namespace is followed.
const PORT_REQUESTS: &[u32] = &[0x54e3, 0x8004_54d2];
/// TIOCGPGRP: whether the terminal is in the hands of this job.
const TERMINAL_REQUESTS: &[u32] = &[libc::TIOCGPGRP as u32];
/// TCGETS and TCSETS, and glibc's newer names: of stdin alone, the mode is put back at the end, and by any thread that
/// crashes.
const MODE_REQUESTS: &[u32] = &[libc::TCGETS as u32, libc::TCSETS as u32, 0x802c_542a, 0x402c_542b];

/// A compiled filter.
#[derive(Clone, Debug)]
pub struct Filter(Arc<BpfProgram>);

/// `argument` of a call is `value`, below `mask`.
fn condition(argument: u8, mask: u64, value: u64) -> anyhow::Result<SeccompCondition> {
    let op = SeccompCmpOp::MaskedEq(mask);
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)?)
}

/// A rule of one condition.
fn masked(argument: u8, mask: u64, value: u64) -> anyhow::Result<SeccompRule> {
    Ok(SeccompRule::new(vec![condition(argument, mask, value)?])?)
}

/// `tgkill` of this process by SIGABRT: how `abort` ends.
fn abort() -> anyhow::Result<SeccompRule> {
    let all = u64::from(u32::MAX);
    let process = condition(0, all, u64::from(std::process::id()))?;
    let signal = condition(2, all, libc::SIGABRT as u64)?;
    Ok(SeccompRule::new(vec![process, signal])?)
}

/// Builds the filter of a role; in the thread that makes threads, which may still allocate and fail.
pub fn filter(role: Role) -> anyhow::Result<Filter> {
    let build = || -> anyhow::Result<Filter> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        let (calls, requests): (&[&[i64]], &[&[u32]]) = match role {
            Role::Vcpu => (&[ALL], &[RUN_REQUESTS, DEVICE_REQUESTS]),
            Role::InlineVcpu => (&[ALL, PORT], &[RUN_REQUESTS, DEVICE_REQUESTS, PORT_REQUESTS]),
            Role::Io => (&[ALL, PORT], &[DEVICE_REQUESTS, PORT_REQUESTS]),
            Role::Main => (
                &[ALL, PORT, MAIN],
                &[DEVICE_REQUESTS, PORT_REQUESTS, TERMINAL_REQUESTS, RESET_REQUESTS],
            ),
        };
        for call in calls.iter().copied().flatten() {
            rules.insert(*call, vec![]);
        }
        let mut ioctls = Vec::new();
        for request in requests.iter().copied().flatten() {
            ioctls.push(masked(1, u64::from(u32::MAX), u64::from(*request))?);
        }
        for request in MODE_REQUESTS {
            let all = u64::from(u32::MAX);
            let stdin = condition(0, all, libc::STDIN_FILENO as u64)?;
            let request = condition(1, all, u64::from(*request))?;
            ioctls.push(SeccompRule::new(vec![stdin, request])?);
        }
        rules.insert(libc::SYS_ioctl, ioctls);
        // What a debug build of std asks before it closes a descriptor.
        let ask = masked(1, u64::from(u32::MAX), libc::F_GETFD as u64)?;
        rules.entry(libc::SYS_fcntl).or_insert_with(|| vec![ask]);
        let abort = abort()?;
        rules.entry(libc::SYS_tgkill).or_insert_with(|| vec![abort]);
        if !matches!(role, Role::Vcpu) {
            // What the kernel counted of a NIC's packets, and whether it has taken the NIC from a socket.
            let mut asks = Vec::new();
            for (level, option) in
                [(libc::SOL_XDP, libc::XDP_STATISTICS), (libc::SOL_SOCKET, libc::SO_ERROR)]
            {
                let all = u64::from(u32::MAX);
                let level = condition(1, all, level as u64)?;
                let option = condition(2, all, option as u64)?;
                asks.push(SeccompRule::new(vec![level, option])?);
            }
            rules.insert(libc::SYS_getsockopt, asks);
        }
        for call in [libc::SYS_mmap, libc::SYS_mprotect] {
            rules.insert(call, vec![masked(2, libc::PROT_EXEC as u64, 0)?]);
        }
        let filter = SeccompFilter::new(
            rules,
            SeccompAction::KillProcess,
            SeccompAction::Allow,
            TargetArch::x86_64,
        )?;
        Ok(Filter(Arc::new(filter.try_into()?)))
    };
    build().context("building the seccomp filter")
}

impl Filter {
    /// Confines the calling thread, for good.
    pub fn enter(&self) -> anyhow::Result<()> {
        // Sets no_new_privs as well.
        seccompiler::apply_filter(&self.0).context("entering the sandbox")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use e1000_device::harness::Counted;
    use e1000_device::{Board, Clock, Config, E1000, GuestRam, InterruptLine};
    use e1000pv::bits::Ctrl;
    use e1000pv::regs;
    use netmap::control::{Switch, SwitchOptions};
    use netmap::{Interest, Options, Port};

    use super::*;
    use crate::host::clock::monotonic_ns;
    use crate::net::netdev::NetmapPort;

    /// Names the forbidden call, in the process that makes it.
    const INSIDE: &str = "E1000PV_SANDBOX_TEST";

    const ROLES: [Role; 4] = [Role::Vcpu, Role::InlineVcpu, Role::Io, Role::Main];

    /// What no thread may do.
    fn forbidden(what: &str) {
        match what {
            "socket" => drop(std::net::UdpSocket::bind("127.0.0.1:0")),
            "program" => drop(Command::new("/bin/true").status()),
            "thread" => drop(std::thread::Builder::new().spawn(|| {})),
            "code" => {
                let prot =
                    nix::sys::mman::ProtFlags::PROT_READ | nix::sys::mman::ProtFlags::PROT_EXEC;
                let flags = nix::sys::mman::MapFlags::MAP_PRIVATE;
                let page = std::num::NonZeroUsize::new(4096).expect("not zero");
                // SAFETY: a new anonymous mapping, of which nobody makes a reference.
                let _ = unsafe { nix::sys::mman::mmap_anonymous(None, page, prot, flags) };
            }
            "kill" => drop(nix::sys::signal::kill(nix::unistd::Pid::from_raw(1), None)),
            "file" => drop(std::fs::File::open("/etc/passwd")),
            "abort" => std::process::abort(),
            "nothing" => {}
            other => panic!("{other}"),
        }
    }

    #[derive(Debug)]
    struct Nothing;

    impl InterruptLine for Nothing {
        fn set_intx(&self, _: bool) {}
    }

    impl Clock for Nothing {
        fn now_ns(&self) -> u64 {
            monotonic_ns()
        }
    }

    impl Board for Nothing {
        fn set_doorbell(&self, _: bool) {}
        fn wake_io(&self) {}
    }

    /// A NIC on a switch with backpressure, full of packets of a sender that waits for space.
    fn besieged() -> (E1000<GuestRam, NetmapPort>, Port) {
        let options = SwitchOptions { backpressure: true, ..SwitchOptions::default() };
        Switch::create("valeT", &options).expect("a switch");
        let ram = GuestRam::anonymous(1 << 16).expect("memory");
        let slots = Options { rx_slots: Some(64), ..Options::default() };
        let name = "valeT:nic".parse().expect("a name");
        let port = NetmapPort::open(&name, &slots, &ram, true).expect("a port");
        let counters = Arc::new(Counted::default());
        let nic = E1000::new(Config::default(), ram, port, Arc::new(Nothing), counters);
        let mut sender = Port::open("valeT:sender").expect("a port");
        for _ in 0..100 {
            assert!(sender.tx(0).push(&[0xff; 60]));
        }
        sender.txsync().expect("a switch");
        sender.arm(Interest::TX).expect("a switch");
        assert!(sender.tx(0).pending() > 0, "the sender waits");
        (nic, sender)
    }

    /// What a driver does when it sets a ring up, and when it resets the device.
    fn set_up(nic: &E1000<GuestRam, NetmapPort>) {
        let write = |offset: u32, value: u32| {
            nic.mmio_write(offset.into(), &value.to_le_bytes());
        };
        for _ in 0..2 {
            write(regs::RDLEN, 128);
            write(regs::RDH, 0);
            write(regs::CTRL, Ctrl::RST.bits());
        }
    }

    /// Runs this test again, in a process that enters `role` and does `what` there.
    fn status(role: usize, what: &str) -> std::process::ExitStatus {
        let root = tempfile::tempdir_in("/dev/shm").expect("a directory for the root");
        Command::new(std::env::current_exe().expect("this test"))
            .args(["host::sandbox::tests::inside", "--exact", "--nocapture", "--include-ignored"])
            .env(INSIDE, format!("{role} {what}"))
            .env("NETMAP_ROOT", root.path())
            .stdout(std::process::Stdio::null())
            .status()
            .expect("this test runs again")
    }

    #[test]
    #[ignore = "run by the others, in a process of its own"]
    fn inside() {
        let Ok(what) = std::env::var(INSIDE) else { return };
        let (role, what) = what.split_once(' ').expect("two words");
        let role = ROLES[role.parse::<usize>().expect("a number")];
        if what == "set-up" {
            let (nic, sender) = besieged();
            filter(role).expect("a filter").enter().expect("seccomp works here");
            set_up(&nic);
            // Not dropped, because a vCPU thread may not close ports.
            std::mem::forget((nic, sender));
            std::process::exit(0);
        }
        filter(role).expect("a filter").enter().expect("seccomp works here");
        forbidden(what);
        // Ends the process without the test harness, which would clean up by forbidden calls.
        std::process::exit(0);
    }

    #[test]
    fn forbidden_calls_kill_whatever_the_role() {
        for (role, name) in ROLES.iter().enumerate() {
            for what in ["socket", "program", "thread", "code", "kill"] {
                let status = status(role, what);
                assert_eq!(status.signal(), Some(libc::SIGSYS), "{name:?} {what}");
            }
        }
    }

    #[test]
    fn vcpu_opens_no_file_and_others_do() {
        for (role, name) in ROLES.iter().enumerate() {
            let signal = status(role, "file").signal();
            let wanted = (*name == Role::Vcpu).then_some(libc::SIGSYS);
            assert_eq!(signal, wanted, "{name:?}");
        }
    }

    #[test]
    fn abort_is_an_abort_in_every_role() {
        for (role, name) in ROLES.iter().enumerate() {
            assert_eq!(status(role, "abort").signal(), Some(libc::SIGABRT), "{name:?}");
        }
    }

    #[test]
    fn guest_sets_its_rings_up_while_senders_wait_for_space() {
        for (role, name) in ROLES.iter().enumerate() {
            assert!(status(role, "set-up").success(), "{name:?}");
        }
    }

    #[test]
    fn innocent_process_survives_in_every_role() {
        for (role, name) in ROLES.iter().enumerate() {
            assert!(status(role, "nothing").success(), "{name:?}");
        }
    }
}
