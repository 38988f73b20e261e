//! A root directory of its own for each fuzzing process.
//!
//! A fuzzer that finds something dies on the spot and cleans up nothing, so each start removes what
//! processes that are no more have left.

use std::path::{Path, PathBuf};

const PREFIX: &str = "netmap-fuzz-";

/// Points `NETMAP_ROOT` to an empty directory. Call before anything else.
pub fn private_root() {
    let shm = Path::new("/dev/shm");
    for entry in shm.read_dir().expect("/dev/shm is mounted").flatten() {
        let file_name = entry.file_name();
        let pid = file_name.to_str().and_then(|n| n.strip_prefix(PREFIX));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Somebody else's directory stays.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let root: PathBuf = shm.join(format!("{PREFIX}{}", std::process::id()));
    std::fs::create_dir_all(&root).expect("/dev/shm can be written");
    // SAFETY: libFuzzer's initialisation runs before any thread is started.
    unsafe { std::env::set_var("NETMAP_ROOT", &root) };
}
