//! `attach` and `detach`: with the real bridge and a real tap where the machine has them, and with
//! made-up bridges for what goes wrong.

#![forbid(unsafe_code)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{complaint, in_own_root, json, skip, text, vale_ctl};
use netmap::Port;

/// A copy of vale-ctl beside a program of the test's own making called nm-bridge.
struct Beside {
    dir: tempfile::TempDir,
}

impl Beside {
    fn new(script: Option<&str>) -> Beside {
        let dir = tempfile::tempdir().expect("a directory");
        fs::copy(env!("CARGO_BIN_EXE_vale-ctl"), dir.path().join("vale-ctl")).expect("copied");
        if let Some(script) = script {
            let bridge = dir.path().join("nm-bridge");
            fs::write(&bridge, format!("#!/bin/sh\n{script}\n")).expect("written");
            fs::set_permissions(&bridge, fs::Permissions::from_mode(0o755)).expect("executable");
        }
        Beside { dir }
    }

    /// Exit code and stderr of an attach that uses it.
    fn attach(&self, extra: &[&str]) -> (i32, String) {
        let output = Command::new(self.dir.path().join("vale-ctl"))
            .args(["attach", "valeA:tap0"])
            .args(extra)
            .env("PATH", "/nonexistent:/bin:/usr/bin")
            .output()
            .expect("vale-ctl runs");
        (
            output.status.code().expect("a code"),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }
}

/// Logs of bridges in the root.
fn logs() -> Vec<PathBuf> {
    let root = netmap::control::root();
    let files = fs::read_dir(root).expect("the root").map(|entry| entry.expect("a file").path());
    files.filter(|file| file.extension().is_some_and(|ext| ext == "log")).collect()
}

#[test]
fn attach_reports_what_the_bridge_says() {
    in_own_root("attach_reports_what_the_bridge_says", || {
        let bridge = Beside::new(Some("echo 'nm-bridge: error: no tap today' >&2; exit 1"));
        let (code, said) = bridge.attach(&[]);
        assert_eq!(
            (code, said.as_str()),
            (1, "vale-ctl: error: attaching valeA:tap0: no tap today\n")
        );
        assert!(logs().is_empty(), "the log of a failed attach is left");

        let (code, said) = Beside::new(Some("exit 1")).attach(&[]);
        assert!(code == 1 && said.contains("said nothing"), "{said}");
    });
}

#[test]
fn attach_gives_up_on_a_bridge_that_never_comes_and_ends_it() {
    in_own_root("attach_gives_up_on_a_bridge_that_never_comes_and_ends_it", || {
        let bridge = Beside::new(Some("echo $$ > \"$NETMAP_ROOT/pid\"; exec sleep 1000"));
        let (code, said) = bridge.attach(&["--timeout", "1s"]);
        assert!(code == 1 && said.contains("not ready within 1s"), "{said}");
        let pid = fs::read_to_string(netmap::control::root().join("pid")).expect("it ran");
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "it still runs");
        assert!(logs().is_empty());
    });
}

#[test]
fn attach_without_a_bridge_program_says_what_to_install() {
    in_own_root("attach_without_a_bridge_program_says_what_to_install", || {
        if ["/bin/nm-bridge", "/usr/bin/nm-bridge"].iter().any(|file| Path::new(file).exists()) {
            skip("attach_without_a_bridge_program_says_what_to_install", "nm-bridge is installed");
            return;
        }
        let (code, said) = Beside::new(None).attach(&[]);
        assert!(code == 1 && said.contains("install"), "{said}");
    });
}

#[test]
fn attach_and_detach_refuse_what_is_not_theirs() {
    in_own_root("attach_and_detach_refuse_what_is_not_theirs", || {
        let _port = Port::open("valeA:x").expect("opened");
        let me = std::process::id().to_string();
        assert!(complaint(&["attach", "valeA:x"], 1).contains("busy"));
        assert!(complaint(&["attach", "valeA:x", "--may-exist"], 1).contains(&me));
        let refused = complaint(&["detach", "valeA:x"], 1);
        assert!(refused.contains(&me) && refused.contains("not by a bridge"), "{refused}");
        assert!(complaint(&["detach", "valeA:y"], 1).contains("There is no valeA:y"));
        vale_ctl(&["detach", "valeA:y", "--if-exists"]).assert().success();
        assert!(complaint(&["attach", "valeA"], 2).contains("interface"));
        let long = "valeA:a_name_that_is_too_long";
        assert!(complaint(&["attach", long], 2).contains("at most 15"));
    });
}

/// The real bridge, built as this test was.
fn build_bridge() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "-p", "nm-bridge"]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    assert!(cargo.status().expect("cargo runs").success(), "nm-bridge was not built");
    let bin = Path::new(env!("CARGO_BIN_EXE_vale-ctl")).with_file_name("nm-bridge");
    assert!(bin.is_file(), "{} is missing", bin.display());
}

/// A bridge that a failing test would leave running.
struct Attached<'a>(&'a str);

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        // Best effort: in the good case it is detached already.
        let _ = vale_ctl(&["detach", self.0, "--if-exists"]).ok();
    }
}

#[test]
fn attached_tap_is_bridged_until_detach() {
    const NAME: &str = "attached_tap_is_bridged_until_detach";
    in_own_root(NAME, || {
        let iface = format!("nmvc{}", std::process::id());
        if let Err(why) = Port::open(&format!("tap:{iface}")) {
            skip(NAME, &format!("no tap can be opened here ({why})"));
            return;
        }
        build_bridge();
        let name = format!("valeA:{iface}");
        let name = name.as_str();
        let _guard = Attached(name);

        let attached = &json(&["attach", name])[name];
        assert_eq!(attached["action"], "attached");
        let pid = attached["pid"].as_u64().expect("a process id");
        let users = &json(&["list", name])[name]["users"];
        assert_eq!(users[0]["pid"], pid);
        assert_eq!(users[0]["command"], "nm-bridge");
        let net = Path::new("/sys/class/net").join(&iface);
        assert!(net.exists(), "the interface is not there");
        assert_eq!(logs().len(), 1);

        assert!(complaint(&["-h", name], 1).contains("busy"));
        assert_eq!(json(&["attach", name, "--may-exist"])[name]["action"], "unchanged");
        assert_eq!(text(&["detach", name, "--dry-run"]), format!("would detach {name}\n"));

        vale_ctl(&["-p", name, "-C", "0,0"]).assert().success();
        let polling = json(&["list", name])[name]["users"][0]["pid"].clone();
        assert_ne!(polling, pid, "the bridge is a new one");
        let command = fs::read_to_string(format!("/proc/{polling}/cmdline")).expect("it runs");
        assert!(command.contains("--busy-poll\0--cpu\x000"), "{command:?}");

        vale_ctl(&["detach", name]).assert().success();
        assert_eq!(text(&["list"]), "", "the port is left");
        assert!(!net.exists(), "the interface is left");
        assert!(logs().is_empty(), "the log is left");
        assert!(complaint(&["-d", name], 1).contains("There is no"));
    });
}
