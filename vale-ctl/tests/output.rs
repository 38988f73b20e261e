//! No output that fails ends vale-ctl otherwise than it would have ended.

#[path = "../../lib/nm-cli/tests/outputs/mod.rs"]
mod outputs;

#[test]
fn outputs_that_fail_abort_nothing() {
    let root = tempfile::tempdir_in("/dev/shm").expect("a directory for the root");
    let vale_ctl = |words: &str, code| {
        let words: Vec<&str> = words.split(' ').collect();
        outputs::never_abort(env!("CARGO_BIN_EXE_vale-ctl"), root.path(), &words, code);
    };
    vale_ctl("list", 0);
    vale_ctl("show valeX", 3);
    vale_ctl("create -v --may-exist valeA:x", 0);
    vale_ctl("create valeA:x", 1);
    vale_ctl("show valeA:x --json", 0);
    vale_ctl("fdb flush valeA -v", 0);
    vale_ctl("stats", 0);
    vale_ctl("top -n 2 --interval 1ms", 0);
    vale_ctl("--help", 0);
}
