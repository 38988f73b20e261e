//! C programs and the project's own tools on one switch.

#![forbid(unsafe_code)]

mod common;
#[path = "../../netmap/tests/veth/mod.rs"]
mod veth;

use std::process::Command;

use common::{Root, Running, built, client, has_cc, here, skip, skipping as skip};
use nix::sys::signal::Signal;
use serde_json::Value;
use veth::Pair;

/// A root with a switch whose senders wait, so that nothing is lost.
fn lossless_root() -> Root {
    let root = Root::new();
    for switch in ["valeA", "valeB"] {
        for words in [["create", switch].as_slice(), &["backpressure", switch, "on"]] {
            Running::start(root.tool("vale-ctl").args(words)).success();
        }
    }
    root
}

/// The generator, or sink, in C.
fn generator(root: &Root, args: &str) -> Command {
    let mut command = root.preloaded(client("generator"));
    command.args(args.split(' '));
    command
}

fn pktgen(root: &Root, args: &str) -> Command {
    let mut command = root.tool("nm-pktgen");
    command.args(args.split(' '));
    command
}

/// Waits until the port is there.
fn await_port(root: &Root, port: &str) {
    let end = std::time::Instant::now() + common::TIMEOUT;
    while !root.tool("vale-ctl").args(["list", port]).output().expect("vale-ctl").status.success() {
        assert!(std::time::Instant::now() < end, "{port} did not appear");
        std::thread::sleep(std::time::Duration::from_millis(5)); // a look costs a process
    }
}

/// The last object of what was printed.
fn json(text: &str) -> Value {
    let line = text.lines().last().expect("a line");
    serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {text}"))
}

fn skipped(name: &str) -> bool {
    if !has_cc() {
        skip(name, "there is no C compiler (cc)");
    }
    !has_cc()
}

#[test]
fn c_generator_reaches_nm_pktgen_packet_for_packet() {
    if skipped("c_generator_reaches_nm_pktgen_packet_for_packet") {
        return;
    }
    for (how, size) in [("", 60), (" -s", 60), (" -s", 1514), ("", 1514)] {
        let root = lossless_root();
        let sink = Running::start(&mut pktgen(&root, "-i valeA:r -f rx -n 50000 -t 100s --json"));
        await_port(&root, "valeA:r");
        let sent =
            Running::start(&mut generator(&root, &format!("tx valeA:t -n 50000 -l {size}{how}")))
                .success();
        let got = json(&sink.success());
        assert_eq!(json(&sent)["packets"], 50000, "{how}");
        assert_eq!(got["rx_packets"], 50000, "{how} {got}");
        assert_eq!(got["rx_bytes"], 50000 * size, "{how} {got}");
    }
}

#[test]
fn what_a_sync_left_behind_backpressure_goes_while_its_program_waits_for_packets() {
    if skipped("what_a_sync_left_behind_backpressure_goes_while_its_program_waits_for_packets") {
        return;
    }
    for generation in ["new", "old"] {
        let root = lossless_root();
        Running::start(&mut root.client("wait", "left_behind", generation)).success();
    }
}

#[test]
fn nm_pktgen_reaches_a_c_sink_packet_for_packet() {
    if skipped("nm_pktgen_reaches_a_c_sink_packet_for_packet") {
        return;
    }
    for how in ["", " -s"] {
        for by in ["", " --no-indirect"] {
            let root = lossless_root();
            let sink = Running::start(&mut generator(&root, &format!("rx valeA:r -n 50000{how}")));
            await_port(&root, "valeA:r");
            Running::start(&mut pktgen(&root, &format!("-i valeA:t -f tx -n 50000{by}"))).success();
            let got = json(&sink.success());
            assert_eq!(got["packets"], 50000, "{how}{by} {got}");
            assert_eq!(got["bytes"], 50000 * 60, "{how}{by} {got}");
        }
    }
}

#[test]
fn threads_with_a_descriptor_and_a_ring_each_lose_nothing() {
    if skipped("threads_with_a_descriptor_and_a_ring_each_lose_nothing") {
        return;
    }
    let root = lossless_root();
    let sink = Running::start(&mut pktgen(&root, "-i valeA:r -f rx -n 80000 -t 100s --json"));
    await_port(&root, "valeA:r");
    let sent = Running::start(&mut generator(&root, "tx valeA:t -p 4 -n 20000")).success();
    assert_eq!(json(&sent)["packets"], 80000);
    assert_eq!(json(&sink.success())["rx_packets"], 80000);
}

#[test]
fn c_bridge_between_nm_pktgens_keeps_order_and_loses_nothing() {
    if skipped("c_bridge_between_nm_pktgens_keeps_order_and_loses_nothing") {
        return;
    }
    for generation in ["new", "old"] {
        for shared in [false, true] {
            let root = lossless_root();
            let mut command = root.client("programs", "bridge", generation);
            command.args(["valeA:bridge", "valeB:bridge"]);
            if shared {
                command.arg("shared");
            }
            let mut bridge = Running::start(&mut command);
            assert_eq!(bridge.first_line(), "ready");
            let sink = Running::start(&mut pktgen(
                &root,
                "-i valeB:r -f rxseq -n 30000 -t 100s --fail-on-loss --json",
            ));
            await_port(&root, "valeB:r");
            Running::start(&mut pktgen(&root, "-i valeA:t -f txseq -n 30000")).success();
            let got = json(&sink.success());
            assert_eq!(got["rx_packets"], 30000, "{generation} {shared} {got}");
            bridge.signal(Signal::SIGTERM);
            bridge.success();
        }
    }
}

#[test]
fn our_own_tools_work_under_the_library_as_without() {
    let root = Root::new();
    let pong = Running::start(
        root.preloaded(built().join("nm-pktgen")).args(["-i", "valeA:p", "-f", "pong"]),
    );
    await_port(&root, "valeA:p");
    let ping = root
        .preloaded(built().join("nm-pktgen"))
        .args(["-i", "valeA:q", "-f", "ping", "-n", "500", "--json"])
        .output()
        .expect("nm-pktgen");
    assert!(ping.status.success(), "{}", String::from_utf8_lossy(&ping.stderr));
    pong.signal(Signal::SIGINT);
    pong.success();
}

#[test]
fn killed_c_programs_leave_the_switch_to_others() {
    if skipped("killed_c_programs_leave_the_switch_to_others") {
        return;
    }
    let root = lossless_root();
    for _ in 0..5 {
        let sender = Running::start(&mut generator(&root, "tx valeA:t -s"));
        let sink = Running::start(&mut generator(&root, "rx valeA:r -s"));
        await_port(&root, "valeA:t");
        await_port(&root, "valeA:r");
        sink.signal(Signal::SIGKILL);
        sink.end();
        sender.signal(Signal::SIGKILL);
        sender.end();
    }
    let list = Running::start(root.tool("vale-ctl").args(["list", "--json"])).success();
    assert!(!list.contains("valeA:t") && !list.contains("valeA:r"), "{list}");
    let sink = Running::start(&mut pktgen(&root, "-i valeA:r -f rx -n 1000 -t 100s --json"));
    await_port(&root, "valeA:r");
    Running::start(&mut generator(&root, "tx valeA:t -n 1000")).success();
    assert_eq!(json(&sink.success())["rx_packets"], 1000);
}

#[test]
fn ports_of_taps_are_attached_and_detached() {
    const NAME: &str = "ports_of_taps_are_attached_and_detached";
    if skipped(NAME) {
        return;
    }
    let id = Command::new("id").arg("-u").output().expect("id");
    if id.stdout != b"0\n" || !std::path::Path::new("/dev/net/tun").exists() {
        return skip(NAME, "it needs root and /dev/net/tun");
    }
    if !Command::new("unshare")
        .args(["--net", "true"])
        .output()
        .is_ok_and(|out| out.status.success())
    {
        return skip(NAME, "it needs a network namespace");
    }
    for generation in ["new", "old"] {
        let root = Root::new();
        let mut command = root.plain("unshare");
        command.args(["--net", "env"]).arg(format!("LD_PRELOAD={}", common::shim().display()));
        command.arg(client("control")).args(["tap", generation]);
        Running::start(&mut command).success();
    }
}

#[test]
fn a_nic_is_attached_alone_and_with_its_host() {
    const NAME: &str = "a_nic_is_attached_alone_and_with_its_host";
    if skipped(NAME) {
        return;
    }
    let Some(pair) = Pair::new(NAME, 1) else { return };
    for generation in ["new", "old"] {
        let root = Root::new();
        let mut command = root.client("control", "nic", generation);
        pair.within(1, || Running::start(&mut command)).success();
    }
}

#[test]
fn nm_run_finds_the_library_and_keeps_what_was_preloaded() {
    const NAME: &str = "nm_run_finds_the_library_and_keeps_what_was_preloaded";
    if skipped(NAME) {
        return;
    }
    let root = Root::new();
    let nm_run = here().join("../../scripts/nm-run");
    let mut command = root.plain(&nm_run);
    command.env("CARGO_TARGET_DIR", built().parent().expect("target"));
    command.arg(client("control")).args(["modes", "new"]);
    Running::start(&mut command).success();

    let library = common::shim();
    let mut command = root.plain(&nm_run);
    command.env("NM_PRELOAD", &library).env("LD_PRELOAD", "/lib/x86_64-linux-gnu/libdl.so.2");
    command.args(["sh", "-c", "echo \"$LD_PRELOAD\""]);
    let said = Running::start(&mut command).success();
    assert!(said.starts_with(&*library.to_string_lossy()), "{said}");
    assert!(said.contains("libdl.so.2"), "{said}");
    // Runtimes of sanitizers are first, or they end the program. (The loader says on stderr that there is none.)
    let mut command = root.plain(&nm_run);
    command.env("NM_PRELOAD", &library).env("LD_PRELOAD", "/no/libasan.so.8:libdl.so.2");
    command.args(["sh", "-c", "echo \"$LD_PRELOAD\""]);
    let said = Running::start(&mut command).success();
    assert_eq!(said.trim(), format!("/no/libasan.so.8 {} libdl.so.2", library.display()));

    let out = Running::start(root.plain(&nm_run).arg("--help")).success();
    assert!(out.starts_with("Usage: nm-run"), "{out}");
    for (arguments, code, word) in [
        (vec![], 2, "Usage"),
        (vec!["--wrong"], 2, "--wrong"),
        (vec!["no-such-program-here"], 127, "no-such-program-here"),
    ] {
        let mut command = root.plain(&nm_run);
        command.env("NM_PRELOAD", &library).args(&arguments);
        let out = Running::start(&mut command).end();
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{arguments:?} {said}");
        assert!(out.stdout.is_empty() && said.contains(word), "{arguments:?} {said}");
    }
    let mut command = root.plain(&nm_run);
    command.env("NM_PRELOAD", "/nonexistent/library.so").arg("true");
    let out = Running::start(&mut command).end();
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("/nonexistent/library.so"));
}
