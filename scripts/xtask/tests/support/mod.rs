//! What the tests share: the tools, built as the tests were; a root of their own; looking for programs
//! that a machine may lack.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

#[path = "../../../../lib/nm-cli/tests/build/mod.rs"]
mod build;
#[path = "../../../../lib/nm-cli/tests/skip/mod.rs"]
mod skipping;
#[allow(unused_imports, reason = "not every test binary skips")]
pub use skipping::skip;

/// The repository.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().and_then(Path::parent).expect("scripts/xtask").to_owned()
}

/// The directory of the tools, which are built first.
pub fn tools() -> &'static Path {
    static TOOLS: OnceLock<PathBuf> = OnceLock::new();
    TOOLS.get_or_init(|| {
        build::programs(&xtask::TOOLS);
        let dir = Path::new(env!("CARGO_BIN_EXE_xtask")).parent().expect("a directory");
        for tool in xtask::TOOLS {
            assert!(dir.join(tool).is_file(), "{tool} is not in {}", dir.display());
        }
        dir.to_owned()
    })
}

/// A root of the test's own, and programs that find the tools and it.
pub struct Root(tempfile::TempDir);

impl Root {
    pub fn new() -> Root {
        Root(tempfile::tempdir_in("/dev/shm").expect("a directory in /dev/shm"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A program with the tools in front of its path.
    pub fn command(&self, program: &str) -> Command {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs = std::iter::once(tools().to_owned()).chain(std::env::split_paths(&path));
        let mut command = Command::new(program);
        command
            .env("PATH", std::env::join_paths(dirs).expect("a path"))
            .env("NETMAP_ROOT", self.path())
            .current_dir(self.path())
            .stdin(std::process::Stdio::null());
        command
    }

    /// What a program that succeeds prints.
    pub fn text(&self, program: &str, args: &[&str]) -> String {
        text(program, self.command(program).args(args).output())
    }
}

/// What a program that succeeded has printed.
pub fn text(what: &str, output: std::io::Result<Output>) -> String {
    let output = output.unwrap_or_else(|why| panic!("{what}: {why}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Whether a program is installed.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
