//! No output that fails ends nm-bridge otherwise than it would have ended.

#[path = "../../lib/nm-cli/tests/outputs/mod.rs"]
mod outputs;

#[test]
fn outputs_that_fail_abort_nothing() {
    let root = tempfile::tempdir_in("/dev/shm").expect("a directory for the root");
    let bridge = |words: &str, code| {
        let words: Vec<&str> = words.split(' ').collect();
        outputs::never_abort(env!("CARGO_BIN_EXE_nm-bridge"), root.path(), &words, code);
    };
    bridge("-v -i valeA:x -i null: --duration 30ms", 0);
    bridge("-i valeA:x -i null: --duration 30ms --interval 10ms", 0);
    bridge("-i valeA:x -i null: --duration 30ms --interval 10ms --json", 0);
    bridge("-i valeA: -i null:", 2);
    bridge("--help", 0);
}
