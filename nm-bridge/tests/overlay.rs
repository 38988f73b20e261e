//! `scripts/overlay-demo`: two machines, as namespaces with switches of their own, joined by VXLAN. Frames of every
//! length that fits pass, and nothing is left behind, whatever ends it.

use std::os::unix::fs::PermissionsExt;
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
    // Read from pipes to their end: what stays behind holds neither.
    let up = demo(&name, &["up"]).output().expect("it runs");
    assert!(up.status.success() && said(&up).contains("down removes them"), "{}", said(&up));
    let again = demo(&name, &["up"]).output().expect("it runs");
    assert!(said(&again).contains("is there already"), "{}", said(&again));
    assert!(demo(&name, &["down"]).status().expect("it runs").success());
    nothing_is_left(&name);
    assert!(demo(&name, &["down"]).status().expect("it runs").success(), "down twice");

    let mut running =
        demo(&name, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
    let second = Path::new("/run/netns").join(format!("{name}-2"));
    until("the second machine", || second.exists().then_some(()));
    // Somebody insists: what takes the machines down is not to be interrupted itself.
    let status = until("its end", || {
        let ended = running.try_wait().expect("our child");
        if ended.is_none() {
            kill(Pid::from_raw(running.id().cast_signed()), Signal::SIGTERM).expect("our child");
        }
        ended
    });
    assert_eq!(status.code(), Some(130));
    nothing_is_left(&name);
}

#[test]
fn wrong_usage_is_one_line_and_makes_nothing() {
    let name = name("c");
    for (args, why) in [
        (&["foo"][..], "what is 'foo'?"),
        (&["up", "down"], "what is 'down'?"),
        (&["--underlay-mtu"], "a number from 118 to 65535"),
        (&["--underlay-mtu", "117"], "a number from 118 to 65535"),
        (&["up", "--underlay-mtu", "70000"], "a number from 118 to 65535"),
    ] {
        let output = demo(&name, args).output().expect("it runs");
        let said = said(&output);
        assert!(output.status.code() == Some(2) && said.contains(why), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
    }
    assert!(!Path::new("/dev/shm").join(&name).exists());
}

#[test]
fn names_lead_nowhere_else_and_only_its_own_files_are_removed() {
    let name = name("e");
    let long = "x".repeat(65);
    for wrong in ["a/b", "..", "../shm/x", "-x", "a b", &long] {
        let output = demo(wrong, &["down"]).output().expect("it runs");
        assert!(output.status.code() == Some(2) && said(&output).contains("NM_OVERLAY"), "{wrong}");
    }
    // Somebody's switches.
    let root = Path::new("/dev/shm").join(&name);
    std::fs::create_dir_all(root.join("switches")).expect("made");
    let output = demo(&name, &["down"]).output().expect("it runs");
    assert!(output.status.success(), "{}", said(&output));
    assert!(root.join("switches").exists());
    std::fs::remove_dir_all(root).expect("it is there");
}

#[test]
fn bridge_that_fails_is_told_at_once_and_all_is_taken_down() {
    let test = "bridge_that_fails_is_told_at_once_and_all_is_taken_down";
    if let Some(reason) = unable() {
        return skip(test, &reason);
    }
    let name = name("d");
    let bin = tempfile::tempdir().expect("a directory");
    let bridge = bin.path().join("nm-bridge");
    std::fs::write(&bridge, "#!/bin/sh\necho no bridge today >&2\nexit 1\n").expect("written");
    std::fs::set_permissions(&bridge, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    for args in [&[][..], &["up"]] {
        let output = demo(&name, args).env("NM_BIN", bin.path()).output().expect("it runs");
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("no bridge today") && said.contains("has ended"), "{said}");
        nothing_is_left(&name);
    }
}
