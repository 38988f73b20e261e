//! What another user's root looks like: never empty, never as if all had been seen.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use common::{in_own_root, skip};
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
