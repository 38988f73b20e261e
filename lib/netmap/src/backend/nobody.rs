//! What other users meet: for tests, most of which run as root, whom no permission stops.

use nix::unistd::{Uid, geteuid, setfsuid};

/// Does something as nobody. `None`: this user may not become another.
pub fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    let nobody = Uid::from_raw(65534);
    if !geteuid().is_root() {
        return None;
    }
    let thread = || {
        // It is this thread's alone, and takes the capabilities away that pass permissions of files.
        setfsuid(nobody);
        (setfsuid(nobody) == nobody).then(work)
    };
    std::thread::scope(|scope| scope.spawn(thread).join().unwrap())
}
