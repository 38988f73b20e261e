//! No output that fails ends nm-pktgen otherwise than it would have ended.

#[path = "../../lib/nm-cli/tests/outputs/mod.rs"]
mod outputs;

#[test]
fn outputs_that_fail_abort_nothing() {
    let root = tempfile::tempdir_in("/dev/shm").expect("a directory for the root");
    let pktgen = |words: &str, code| {
        let words: Vec<&str> = words.split(' ').collect();
        outputs::never_abort(env!("CARGO_BIN_EXE_nm-pktgen"), root.path(), &words, code);
    };
    pktgen("-i null: -f tx -n 10 -v -v", 0);
    pktgen("-i null: -f tx -R 1k -t 30ms --interval 10ms", 0);
    pktgen("-i null: -f tx -n 10 --json", 0);
    pktgen("-i null: -f nonsense", 2);
    pktgen("--help", 0);
}
