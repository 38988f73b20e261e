//! Other users: their root never looks empty, or as if all had been seen; their processes are nobody's
//! bridges.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{complaint, in_own_root, json, skip, vale_ctl};
use netmap::Port;

/// A user without rights, on every Linux.
const NOBODY: u32 = 65534;

/// Runs vale-ctl as `NOBODY`, from a copy that user may execute.
fn as_nobody(program: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let output =
        Command::new(program).args(args).uid(NOBODY).gid(NOBODY).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn root_of_another_user_does_not_look_empty() {
    const NAME: &str = "root_of_another_user_does_not_look_empty";
    if !nix::unistd::geteuid().is_root() {
        return skip(NAME, "becoming another user needs root");
    }
    in_own_root(NAME, || {
        let root = netmap::control::root();
        let bin = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(bin.path(), PermissionsExt::from_mode(0o755)).expect("its mode");
        let program = bin.path().join("vale-ctl");
        std::fs::copy(env!("CARGO_BIN_EXE_vale-ctl"), &program).expect("a copy");

        // As plain mkdir makes it: others may see that switches are there, no more.
        std::fs::set_permissions(&root, PermissionsExt::from_mode(0o755)).expect("its mode");
        let _ports =
            (Port::open("valeA:x").expect("a port"), Port::open("valeB:x").expect("a port"));
        let (code, out, err) = as_nobody(&program, &["list"]);
        assert_eq!((code, out.as_str()), (Some(3), ""), "{err}");
        assert!(err.contains("No permission to look at 2 switches in "), "{err}");
        let (code, out, _) = as_nobody(&program, &["list", "--json"]);
        assert_eq!((code, out.contains("vale")), (Some(3), false), "{out}");

        // As the default root is made.
        std::fs::set_permissions(&root, PermissionsExt::from_mode(0o700)).expect("its mode");
        let (code, out, err) = as_nobody(&program, &["list"]);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        assert!(err.contains("Permission denied"), "{err}");
    });
}

/// Has a bridge's command line and is none: tee, which takes the words for files and waits for input.
struct Mimic(Child);

impl Mimic {
    fn start(files: &Path, uid: u32) -> Mimic {
        let child = Command::new("tee")
            .arg0("nm-bridge")
            .args(["-i", "valeA:t0", "-i", "tap:t0", "--attached"])
            .arg(netmap::control::root())
            // Only the first `-i` is an option then.
            .env("POSIXLY_CORRECT", "1")
            .current_dir(files)
            .uid(uid)
            .gid(uid)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Mimic(child.expect("tee runs"))
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().expect("our child").is_none()
    }
}

impl Drop for Mimic {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn process_of_another_user_is_no_bridge_whatever_its_command_line() {
    const NAME: &str = "process_of_another_user_is_no_bridge_whatever_its_command_line";
    if !nix::unistd::geteuid().is_root() {
        return skip(NAME, "becoming another user needs root");
    }
    in_own_root(NAME, || {
        let files = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(files.path(), PermissionsExt::from_mode(0o777)).expect("mode");
        let mut stranger = Mimic::start(files.path(), NOBODY);
        let attach = ["attach", "--may-exist", "--dry-run", "valeA:t0"];
        assert_eq!(json(&attach)["valeA:t0"]["action"], "attached");
        assert!(complaint(&["detach", "valeA:t0"], 3).contains("There is no valeA:t0"));
        vale_ctl(&["detach", "--if-exists", "valeA:t0"]).assert().success();
        assert!(stranger.is_alive());

        // One of this user's counts, and is all that ends.
        let mut own = Mimic::start(files.path(), 0);
        assert_eq!(json(&attach)["valeA:t0"]["action"], "unchanged");
        vale_ctl(&["detach", "valeA:t0"]).assert().success();
        own.0.wait().expect("our child");
        assert!(stranger.is_alive());
    });
}
