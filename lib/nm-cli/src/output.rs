//! Files that a tool writes what it has to say to.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, anyhow};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// Creates (or empties) a file. A FIFO must have its reader already: open(2) would wait for one, and is not interrupted by
/// signals. Writing waits as ever.
///
/// # Errors
/// As open(2), with the path; nobody reads from the FIFO.
pub fn create(path: &Path) -> anyhow::Result<File> {
    let open = || -> anyhow::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        let file = options.custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
        let file = file.map_err(|why| match why.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENXIO) => anyhow!("nobody reads from it: start its reader first"),
            _ => why.into(),
        })?;
        let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
        fcntl(&file, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
        Ok(file)
    };
    open().with_context(|| format!("creating {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn fifo_without_a_reader_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("fifo");
        mkfifo(&path, Mode::S_IRWXU).expect("a directory");
        let why = format!("{:#}", create(&path).expect_err("refused"));
        assert!(why.contains("creating ") && why.contains("start its reader first"), "{why}");
        let mut options = File::options();
        let reader = options.read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path);
        let mut reader = reader.expect("it waits for no writer");
        let mut file = create(&path).expect("somebody reads");
        let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL).expect("a file"));
        assert!(!flags.contains(OFlag::O_NONBLOCK), "writing waits");
        file.write_all(b"said").expect("room");
        drop(file);
        let mut said = String::new();
        reader.read_to_string(&mut said).expect("text");
        assert_eq!(said, "said");
    }

    #[test]
    fn file_that_is_there_is_emptied() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, "old and long").expect("room");
        create(&path).and_then(|mut file| Ok(file.write_all(b"new")?)).expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("text"), "new");
        let why = format!("{:#}", create(&dir.path().join("no/file")).expect_err("refused"));
        assert!(why.contains("no/file"), "{why}");
    }
}
