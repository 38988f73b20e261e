//! Tells that a test could not be done here. Included by the tests of each crate.

use std::fs::File;
use std::io::Write;

/// Says so on stderr, past the harness, which swallows what a passing test prints, and to the file that
/// `scripts/test` shows again at its end.
#[allow(dead_code, reason = "not every test binary skips")]
pub fn skip(test: &str, reason: &str) {
    let line = format!("SKIPPED {test}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).expect("stderr");
    if let Some(log) = std::env::var_os("NM_SKIP_LOG") {
        let log = File::options().append(true).create(true).open(log);
        log.and_then(|mut log| log.write_all(line.as_bytes())).expect("the log of skipped tests");
    }
}
