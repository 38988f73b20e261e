//! sigaction and signal, of SIGBUS; and jumps out of handlers.

use libc::{SIG_ERR, SIGBUS, c_int, c_void, sighandler_t};
use nix::errno::Errno;

use super::call;
use crate::{faults, jumps, next};

/// sigaction(2) of SIGBUS. Pointers that lead nowhere end the program, as in the C library.
///
/// # Safety
/// As of sigaction(2).
unsafe fn action(new: *const libc::sigaction, old: *mut libc::sigaction) -> c_int {
    // SAFETY: null, or an action.
    let new = unsafe { new.as_ref() };
    call(|| {
        let before = faults::set(new)?;
        if !old.is_null() {
            // SAFETY: room for an action.
            unsafe { old.write(before) };
        }
        Ok(0)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn sigaction(
    signal: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    if signal == SIGBUS {
        // SAFETY: the program's call.
        return unsafe { action(new, old) };
    }
    // SAFETY: the program's call.
    unsafe { next::sigaction(signal, new, old) }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn __sigaction(
    signal: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    // SAFETY: the program's call.
    unsafe { sigaction(signal, new, old) }
}

/// signal(2) of SIGBUS with these flags, the signal itself held back meanwhile or not.
fn set(handler: sighandler_t, flags: c_int, held: bool) -> sighandler_t {
    if handler == SIG_ERR {
        Errno::EINVAL.set();
        return SIG_ERR;
    }
    let mut before = SIG_ERR;
    call(|| {
        // SAFETY: zeros are an action.
        let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
        (new.sa_sigaction, new.sa_flags) = (handler, flags);
        if held {
            // SAFETY: the mask is ours.
            unsafe { libc::sigaddset(&raw mut new.sa_mask, SIGBUS) };
        }
        before = faults::set(Some(&new))?.sa_sigaction;
        Ok(0)
    });
    before
}

/// Declares functions like signal(2): BSD's, which stay, and System V's, which go with the first signal.
macro_rules! signals {
    ($($name:ident($flags:expr, $held:expr);)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C-unwind" fn $name(signal: c_int, handler: sighandler_t) -> sighandler_t {
                if signal == SIGBUS {
                    return set(handler, $flags, $held);
                }
                // SAFETY: the program's call.
                unsafe { next::$name(signal, handler) }
            }
        )*
    };
}

signals! {
    signal(libc::SA_RESTART, true);
    bsd_signal(libc::SA_RESTART, true);
    ssignal(libc::SA_RESTART, true);
    sysv_signal(libc::SA_RESETHAND | libc::SA_NODEFER, false);
    __sysv_signal(libc::SA_RESETHAND | libc::SA_NODEFER, false);
}

/// Declares functions like longjmp(3). Nothing on the stack here is to be dropped.
macro_rules! longjmps {
    ($($name:ident;)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C-unwind" fn $name(place: *mut c_void, value: c_int) -> ! {
                jumps::note();
                // SAFETY: the program's call.
                unsafe { next::$name(place, value) };
                std::process::abort() // not reached: it does not return
            }
        )*
    };
}

longjmps! {
    longjmp;
    _longjmp;
    siglongjmp;
    __longjmp_chk;
}
