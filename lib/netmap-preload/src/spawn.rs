//! `vale-ctl`, for what needs a process that goes on running: the bridge of an attached interface.
//!
//! ```text
//!   the program ---- clone ----> a child that calls the kernel only ---- fork, execve ----> vale-ctl
//!                (no exit signal)          waits for it
//! ```
//!
//! Invariant: the program has no child of it that its wait(2) could find, gets no SIGCHLD, and nothing of what it has
//! open is in the new process. (A child without an exit signal is found by `__WALL` only. execve(2) would give it one,
//! hence the one in between.)

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

const PROGRAM: &str = "vale-ctl";

/// Runs `vale-ctl` with these words and a name, and waits for its end, which comes when what it started is ready.
///
/// # Errors
/// `ENXIO`: it is not there, or it failed.
pub fn vale_ctl(what: &[&str], name: &str) -> Result<(), Errno> {
    let program = find().ok_or(Errno::ENXIO)?;
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::EINVAL);
    let mut words = vec![text(program.as_os_str().as_bytes())?];
    for word in what.iter().chain([&name]) {
        words.push(text(word.as_bytes())?);
    }
    let environment: Vec<CString> = std::env::vars_os()
        .filter(|(name, _)| name != "LD_PRELOAD")
        .filter_map(|(name, value)| {
            let mut pair = name.into_vec();
            pair.push(b'=');
            pair.extend_from_slice(value.as_bytes());
            CString::new(pair).ok()
        })
        .collect();
    if run(&words, &environment)? == 0 { Ok(()) } else { Err(Errno::ENXIO) }
}

/// Beside this library, as `cargo build` puts it; otherwise in PATH.
fn find() -> Option<PathBuf> {
    let beside = beside().map(|dir| dir.join(PROGRAM));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|dir| dir.join(PROGRAM));
    beside.into_iter().chain(in_path).find(|file: &PathBuf| file.is_file())
}

fn beside() -> Option<PathBuf> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    let here = beside as *const () as *const libc::c_void;
    // SAFETY: valid for writing; the address is in this library.
    if unsafe { libc::dladdr(here, info.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: dladdr has written it.
    let name = unsafe { info.assume_init() }.dli_fname;
    if name.is_null() {
        return None;
    }
    // SAFETY: a string that lives as long as the library is loaded.
    let name = unsafe { CStr::from_ptr(name) };
    Some(Path::new(OsStr::from_bytes(name.to_bytes())).parent()?.to_owned())
}

/// Runs a program with nothing open but /dev/null; its exit code.
fn run(words: &[CString], environment: &[CString]) -> Result<i32, Errno> {
    let pointers = |texts: &[CString]| {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    let (argv, envp) = (pointers(words), pointers(environment));
    // SAFETY: as fork(2), without an exit signal; the child calls the kernel only.
    let pid = unsafe { libc::syscall(libc::SYS_clone, 0usize, 0usize, 0usize, 0usize, 0usize) };
    if pid == 0 {
        become_program(&argv, &envp);
    }
    let pid = Errno::result(pid)? as i32;
    let mut status = 0;
    loop {
        // SAFETY: the status is ours.
        match Errno::result(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) }) {
            Ok(_) if libc::WIFEXITED(status) => return Ok(libc::WEXITSTATUS(status)),
            Ok(_) => return Ok(-1),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// In the child: system calls, nothing else, as other threads may have held any lock.
fn become_program(argv: &[*const libc::c_char], envp: &[*const libc::c_char]) -> ! {
    // SAFETY: each call takes numbers, or pointers to what lives on.
    let call = |number, a: usize, b: usize, c: usize, d: usize| unsafe {
        libc::syscall(number, a, b, c, d)
    };
    let (none, all) = (0u64, u64::MAX);
    let (none, all) = ((&raw const none) as usize, (&raw const all) as usize);
    // The program's handlers are not for here; nor is what it ignores: who ignores SIGCHLD waits in vain.
    call(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK as usize, all, 0, 8);
    let default = [0u64; 4];
    for signal in 1..=64 {
        call(libc::SYS_rt_sigaction, signal, (&raw const default) as usize, 0, 8);
    }
    let child = call(libc::SYS_clone, libc::SIGCHLD as usize, 0, 0, 0);
    if child != 0 {
        let mut status = 0i32;
        let waited = call(libc::SYS_wait4, child as usize, (&raw mut status) as usize, 0, 0);
        let ended = child > 0 && waited == child && libc::WIFEXITED(status);
        let code = if ended { libc::WEXITSTATUS(status) } else { 127 };
        call(libc::SYS_exit_group, code as usize, 0, 0, 0);
    }
    call(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK as usize, none, 0, 8);
    call(libc::SYS_setpgid, 0, 0, 0, 0);
    call(libc::SYS_close_range, 0, u32::MAX as usize, 0, 0);
    for _ in 0..3 {
        let null = c"/dev/null".as_ptr() as usize;
        call(libc::SYS_openat, libc::AT_FDCWD as usize, null, libc::O_RDWR as usize, 0);
    }
    call(libc::SYS_execve, argv[0] as usize, argv.as_ptr() as usize, envp.as_ptr() as usize, 0);
    call(libc::SYS_exit_group, 127, 0, 0, 0);
    unreachable!("the process has ended")
}
