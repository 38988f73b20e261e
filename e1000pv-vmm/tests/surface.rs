//! What is seen of the tool without a machine that runs: help, errors, exit codes.

mod support;
use support::{output, root, stderr, stdout, vmm};

/// Exit code and stderr.
fn fails(args: &[&str]) -> (Option<i32>, String) {
    let root = root();
    let got = output(vmm(root.path(), args));
    assert_eq!(stdout(&got), "", "{args:?}: errors are talk");
    (got.status.code(), stderr(&got))
}

#[test]
fn help_is_as_recorded() {
    let root = root();
    let got = output(vmm(root.path(), &["-h"]));
    assert_eq!(got.status.code(), Some(0));
    snapbox::assert_data_eq!(stdout(&got), snapbox::file!["help.txt"]);
}

#[test]
fn long_help_tells_exit_status_and_qemus_spelling() {
    let root = root();
    let help = stdout(&output(vmm(root.path(), &["--help"])));
    for part in ["Exit status:", "QEMU's spelling:", "-nographic", "--stats", "Examples:"] {
        assert!(help.contains(part), "{part} is not in\n{help}");
    }
    assert!(!help.contains("--irq "), "hidden options stay hidden");
}

#[test]
fn wrong_usage_is_2_and_says_what_to_do() {
    for (args, part) in [
        (&["--netdev", "speed=1"][..], "write port=valeA:x"),
        (&["--device", "mac=02:00:00:00:00:01"], "give each a port"),
        (&["--guest", "tx"], "needs 1 --netdev"),
        (&["--netdev", "null:", "--guest", "fly"], "--guest"),
        (&["--netdev", "null:", "--guest", "forward"], "needs 2 --netdev, there are 1"),
        (&["--netdev", "null:", "--notify", "never"], "--notify never"),
        (&["--mem", "1"], "8M to 1024G"),
        (&["--vcpus", "5"], "1 to 4 vCPUs"),
        (&["--vcpus", "2"], "the bench guest has one vCPU"),
        (&["--accel", "thread", "--kernel", "k"], "no CPU for a kernel"),
        (&["-netdev", "user,id=n"], "write port=valeA:x"),
        (&["--netdev", "port=valeA"], "a port are missing"),
        (&["-hda", "disk"], "there are no disks"),
        (&["-qemu", "disk"], "unexpected argument '--qemu'"),
    ] {
        let (code, text) = fails(args);
        assert_eq!(code, Some(2), "{args:?}: {text}");
        assert!(text.contains(part), "{args:?}: {text}");
    }
}

#[test]
fn kvm_that_is_missing_or_none_is_one_clear_line() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let file = file.path().to_str().expect("text");
    for (path, part) in [("/nonexistent/kvm", "there is no /nonexistent/kvm"), (file, "is not KVM")]
    {
        let (code, text) = fails(&["--accel", "kvm", "--kvm", path, "--netdev", "null:"]);
        assert_eq!(code, Some(1), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn auto_without_kvm_runs_in_a_thread_and_says_so() {
    let root = root();
    let args = [
        "--kvm",
        "/nonexistent/kvm",
        "--netdev",
        "null:",
        "--guest",
        "tx count=1000",
        "--json",
        "--timeout",
        "20s",
    ];
    let got = output(vmm(root.path(), &args));
    assert_eq!(got.status.code(), Some(0), "{}", stderr(&got));
    let talk = stderr(&got);
    assert!(talk.contains("there is no"), "{talk}");
    assert!(talk.contains("cost a function call"), "{talk}");
    let record = support::record(&got);
    assert_eq!(record["accel"], "thread");
    assert_eq!(record["guest"]["packets"], 1000);
    assert_eq!(record["counters"]["nics"][0]["tx_packets"], 1000);
}

#[test]
fn kernel_needs_kvm_and_auto_does_not_pretend() {
    let (code, text) = fails(&["--kvm", "/nonexistent/kvm", "--kernel", "/nonexistent/vmlinux"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("there is no /nonexistent/kvm"), "{text}");
}

#[test]
fn stats_of_nobody_is_3() {
    let (code, text) = fails(&["--stats", "nobody"]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("no machine named nobody runs"), "{text}");
}

#[test]
fn stats_does_not_believe_a_link_to_something_else() {
    let root = root();
    let dir = root.path().join("vm");
    std::fs::create_dir(&dir).expect("a directory");
    for target in ["/etc/passwd", "/dev/zero", "/proc/self/mem", "nowhere", "."] {
        std::os::unix::fs::symlink(target, dir.join("x")).expect("a link");
        let got = output(vmm(root.path(), &["--stats", "x"]));
        assert_eq!(got.status.code(), Some(3), "{target}: {}", stderr(&got));
        std::fs::remove_file(dir.join("x")).expect("our link");
    }
}

#[test]
fn port_serves_one_nic() {
    let root = root();
    let twice = ["--netdev", "port=valeA:x", "--netdev", "port=valeA:x", "--accel", "thread"];
    let got = output(vmm(root.path(), &twice));
    assert_eq!(got.status.code(), Some(1), "{}", stderr(&got));
    assert!(stderr(&got).contains("it is in use"), "{}", stderr(&got));
}

#[test]
fn human_run_prints_the_result_on_stdout_and_talk_on_stderr() {
    let root = root();
    let args = [
        "--accel",
        "thread",
        "--netdev",
        "null:",
        "--guest",
        "tx count=100",
        "--name",
        "talker",
        "--timeout",
        "20s",
    ];
    let got = output(vmm(root.path(), &args));
    assert_eq!(got.status.code(), Some(0), "{}", stderr(&got));
    let text = stdout(&got);
    let result: serde_json::Value = serde_json::from_str(&text).expect("one line of JSON");
    assert_eq!((text.lines().count(), &result["packets"]), (1, &100.into()));
    assert!(stderr(&got).contains("talker: "), "{}", stderr(&got));
}
