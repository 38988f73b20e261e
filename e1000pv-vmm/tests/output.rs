//! No output that fails ends e1000pv-vmm otherwise than it would have ended.

#[path = "../../lib/nm-cli/tests/outputs/mod.rs"]
mod outputs;

#[test]
fn outputs_that_fail_abort_nothing() {
    let root = tempfile::tempdir_in("/dev/shm").expect("a directory for the root");
    let vmm = |words: &[&str], code| {
        outputs::never_abort(env!("CARGO_BIN_EXE_e1000pv-vmm"), root.path(), words, code);
    };
    let thread = ["--accel", "thread", "--netdev", "port=null:", "--guest", "tx count=10", "-v"];
    vmm(&thread, 0);
    vmm(&[&thread[..], &["--json"]].concat(), 0);
    vmm(&["--stats", "nobody"], 3);
    vmm(&["--help"], 0);
}

#[test]
fn result_of_a_guest_that_cannot_be_written_is_a_failure() {
    let root = tempfile::tempdir_in("/dev/shm").expect("a directory for the root");
    let run = |more: &[&str]| {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("a device");
        let args = ["--accel", "thread", "--netdev", "port=null:", "--guest", "tx count=10"];
        let ended = std::process::Command::new(env!("CARGO_BIN_EXE_e1000pv-vmm"))
            .args(args)
            .args(more)
            .env("NETMAP_ROOT", root.path())
            .stdout(full)
            .output()
            .expect("e1000pv-vmm starts");
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    let (code, said) = run(&[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the guest's output is lost") && said.contains("is lost\n"), "{said}");
    let (code, said) = run(&["--serial", "none"]);
    assert_eq!(code, Some(0), "{said}");
}

/// Port and machine have files of their own, so the limit is met before the guest's output meets it.
#[test]
fn limit_on_the_size_of_files_is_reported() {
    let root = tempfile::tempdir_in("/dev/shm").expect("a directory for the root");
    let ended = std::process::Command::new("sh")
        .args(["-c", "ulimit -f 1; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_e1000pv-vmm")])
        .args(["--accel", "thread", "--netdev", "port=null:", "--guest", "tx count=10"])
        .env("NETMAP_ROOT", root.path())
        .output()
        .expect("sh");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{}: {said}", ended.status);
    assert!(said.contains("File too large"), "{said}");
}
