//! `scripts/overlay-demo`: two machines, as namespaces with switches of their own, joined by VXLAN. Frames of every
//! length that fits pass, and nothing is left behind, whatever ends it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[path = "../../lib/nm-cli/tests/skip/mod.rs"]
mod skipping;
mod support;
use skipping::skip;
use support::until;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/overlay-demo");

/// The directory of the tools.
fn tools() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_nm-bridge")).parent().expect("it is in a directory").into()
}

/// Why it cannot run here; found out once for all tests.
fn unable() -> Option<String> {
    static WHY: OnceLock<Option<String>> = OnceLock::new();
    WHY.get_or_init(look).clone()
}

fn look() -> Option<String> {
    if !nix::unistd::Uid::effective().is_root() {
        return Some("network namespaces need root".into());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun".into());
    }
    for tool in ["nm-pktgen", "vale-ctl"] {
        if !tools().join(tool).exists() {
            return Some(format!("{tool} was not built"));
        }
    }
    let probe = format!("nmox{}", std::process::id());
    let run =
        |args: &[&str]| Command::new("ip").args(args).output().is_ok_and(|o| o.status.success());
    if !run(&["netns", "add", &probe]) {
        return Some("no network namespaces can be made here".into());
    }
    let vxlan =
        ["link", "add", "vx", "type", "vxlan", "id", "1", "dstport", "4789", "local", "127.0.0.1"];
    let has_vxlan = run(&[&["-n", &probe], &vxlan[..]].concat());
    let has_bridge = run(&["-n", &probe, "link", "add", "br0", "type", "bridge"]);
    run(&["netns", "del", &probe]);
    (!has_vxlan || !has_bridge).then(|| "the kernel has no VXLAN devices or no bridges".into())
}

fn demo(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(SCRIPT);
    command.args(args).env("NM_OVERLAY", name).env("NM_BIN", tools()).stdin(Stdio::null());
    command
}

fn name(of: &str) -> String {
    format!("nmo{of}{}", std::process::id())
}

fn nothing_is_left(name: &str) {
    let listed = Command::new("ip").args(["netns", "list"]).output().expect("ip runs");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(!listed.contains(name), "{listed}");
    assert!(!Path::new("/dev/shm").join(name).exists());
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

#[test]
fn two_machines_exchange_frames_of_every_length_that_fits() {
    let test = "two_machines_exchange_frames_of_every_length_that_fits";
    if let Some(reason) = unable() {
        return skip(test, &reason);
    }
    let name = name("a");
    for (args, longest) in [(&[][..], "1464 bytes"), (&["--underlay-mtu", "1550"], "1514 bytes")] {
        let output = demo(&name, args).output().expect("it runs");
        let said = said(&output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains(longest) && said.contains("received"), "{said}");
        assert_eq!(said.matches("(0.0 % loss)").count(), 2, "{said}");
        nothing_is_left(&name);
    }
}

#[test]
fn overlay_is_taken_down_when_asked_and_when_interrupted() {
    let test = "overlay_is_taken_down_when_asked_and_when_interrupted";
    if let Some(reason) = unable() {
        return skip(test, &reason);
    }
    let name = name("b");
    let up = demo(&name, &["up"]).stdout(Stdio::null()).status().expect("it runs");
    assert!(up.success());
    let again = demo(&name, &["up"]).output().expect("it runs");
    assert!(said(&again).contains("is there already"), "{}", said(&again));
    assert!(demo(&name, &["down"]).status().expect("it runs").success());
    nothing_is_left(&name);
    assert!(demo(&name, &["down"]).status().expect("it runs").success(), "down twice");

    let mut running =
        demo(&name, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
    let second = Path::new("/run/netns").join(format!("{name}-2"));
    until("the second machine", || second.exists().then_some(()));
    kill(Pid::from_raw(running.id().cast_signed()), Signal::SIGTERM).expect("our child");
    assert!(!running.wait().expect("our child").success());
    nothing_is_left(&name);
}
