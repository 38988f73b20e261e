//! Builds what tests run beside their own package. Included by the tests of each crate.

use std::process::Command;

/// Builds programs and libraries, by their packages, as the test itself was built.
///
/// Where all of the workspace was built with its tests, as `scripts/test` does it, they are there, and `NM_BUILT` says
/// so: built by themselves, with fewer features of what they depend on, they would cost minutes.
pub fn programs(packages: &[&str]) {
    if std::env::var_os("NM_BUILT").is_some() {
        return;
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    for package in packages {
        cargo.args(["-p", package]);
    }
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    assert!(cargo.status().expect("cargo").success(), "{packages:?} were not built");
}
