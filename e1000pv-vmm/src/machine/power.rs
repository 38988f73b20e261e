//! Power: what a guest writes to switch itself off, to begin anew, or to tell that it has panicked, and the power
//! button (ACPI 6.5, 4.8.3: the fixed registers of a machine that is always in ACPI mode; QEMU's pvpanic).
//!
//! ```text
//!   0x600  PM1_STS   bit 8: the power button; a written 1 clears
//!   0x602  PM1_EN    bit 8: it interrupts, by the SCI
//!   0x604  PM1_CNT   bit 13 with type S5: off
//!   0xcf9  bit 2: reset    0x64 := 0xfe: reset, which ends    0x505  bit 0: the guest has panicked
//! ```
//!
//! Invariant: the SCI is asserted if and only if a status bit is set that is enabled.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::machine::exit::End;
use crate::machine::intx::Inject;
use crate::machine::layout;

/// PM1_STS, PM1_EN: the power button.
const BUTTON: u16 = 1 << 8;
/// PM1_EN: what a guest may enable. Of these only the button ever happens here.
const ENABLES: u16 = 1 << 0 | 1 << 5 | BUTTON | 1 << 9 | 1 << 10;
/// PM1_CNT: events come as the SCI; nothing else can be had.
const SCI_EN: u16 = 1 << 0;
/// PM1_CNT: what is kept, BM_RLD and SLP_TYP.
const KEPT: u16 = 1 << 1 | 7 << 10;
/// PM1_CNT: the sleep type.
const SLP_TYP: u32 = 10;
/// PM1_CNT: sleep now. It reads as 0.
const SLP_EN: u16 = 1 << 13;
/// The reset register: the processor, and all else with it.
const RESET: u8 = 1 << 2;
/// The 8042's command that pulls the reset line.
const PULSE_RESET: u8 = 0xfe;
/// pvpanic: the guest has panicked.
const PANICKED: u8 = 1 << 0;
/// pvpanic: a kernel that writes a crash dump takes over.
const CRASH_LOADED: u8 = 1 << 1;

#[derive(Debug, Default)]
struct Pm1 {
    status: u16,
    enable: u16,
    control: u16,
    /// The SCI as it is.
    sci: bool,
}

/// The registers, the button, and the interrupt.
pub struct Power {
    pm1: Mutex<Pm1>,
    inject: Box<dyn Inject>,
}

impl fmt::Debug for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Power").field("pm1", &*self.lock()).finish_non_exhaustive()
    }
}

/// Where in the PM1 blocks, which follow each other, an access of this length is.
fn pm1_offset(port: u16, len: usize) -> Option<usize> {
    let offset = usize::from(port.checked_sub(layout::PM1_EVENT.start)?);
    let blocks = usize::from(layout::PM1_CONTROL.end - layout::PM1_EVENT.start);
    (offset + len <= blocks).then_some(offset)
}

impl Power {
    /// A machine that is switched on.
    pub fn new(inject: Box<dyn Inject>) -> Power {
        Power { pm1: Mutex::default(), inject }
    }

    fn lock(&self) -> MutexGuard<'_, Pm1> {
        self.pm1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn agree(&self, pm1: &mut Pm1) {
        let sci = pm1.status & pm1.enable != 0;
        if sci != pm1.sci {
            pm1.sci = sci;
            self.inject.set(layout::SCI, sci);
        }
    }

    /// A read. False: nothing is there.
    pub fn read(&self, port: u16, data: &mut [u8]) -> bool {
        if let Some(offset) = pm1_offset(port, data.len()) {
            let pm1 = self.lock();
            let words = [pm1.status, pm1.enable, pm1.control | SCI_EN].map(u16::to_le_bytes);
            data.copy_from_slice(&words.as_flattened()[offset..offset + data.len()]);
        } else if port == layout::PVPANIC && data.len() == 1 {
            data[0] = PANICKED | CRASH_LOADED;
        } else if port == layout::KEYBOARD_COMMAND {
            data.fill(0); // its input buffer is empty: a command may be written
        } else {
            return false;
        }
        true
    }

    /// A write. `None`: nothing is there. Some end the guest.
    pub fn write(&self, port: u16, data: &[u8]) -> Option<Option<End>> {
        if let Some(offset) = pm1_offset(port, data.len()) {
            return Some(self.write_pm1(offset, data));
        }
        match (port, data) {
            (layout::PVPANIC, [events]) => Some((events & PANICKED != 0).then_some(End::Panic)),
            (layout::KEYBOARD_COMMAND, [PULSE_RESET]) => Some(Some(End::KeyboardReset)),
            (layout::RESET_CONTROL, [value]) if value & RESET != 0 => Some(Some(End::Reset)),
            _ => None,
        }
    }

    fn write_pm1(&self, offset: usize, data: &[u8]) -> Option<End> {
        let mut pm1 = self.lock();
        // As many bits of each word as are written.
        let (mut words, mut masks) = ([[0u8; 2]; 3], [[0u8; 2]; 3]);
        words.as_flattened_mut()[offset..offset + data.len()].copy_from_slice(data);
        masks.as_flattened_mut()[offset..offset + data.len()].fill(0xff);
        let [status, enable, control] = words.map(u16::from_le_bytes);
        let [_, enables, controls] = masks.map(u16::from_le_bytes);
        pm1.status &= !status;
        pm1.enable = (pm1.enable & !enables | enable) & ENABLES;
        pm1.control = (pm1.control & !controls | control) & KEPT;
        self.agree(&mut pm1);
        let off =
            control & SLP_EN != 0 && pm1.control >> SLP_TYP & 7 == u16::from(layout::SLEEP_TYPE_S5);
        off.then_some(End::Poweroff)
    }

    /// Somebody presses the power button. False: the guest does not listen to it.
    pub fn press_button(&self) -> bool {
        let mut pm1 = self.lock();
        pm1.status |= BUTTON;
        self.agree(&mut pm1);
        pm1.enable & BUTTON != 0
    }

    /// As after power-on.
    pub fn reset(&self) {
        let mut pm1 = self.lock();
        (pm1.status, pm1.enable, pm1.control) = (0, 0, 0);
        self.agree(&mut pm1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    type Seen = Arc<Mutex<Vec<(u8, bool)>>>;

    #[derive(Debug, Default)]
    struct Log(Seen);

    impl Inject for Log {
        fn set(&self, line: u8, asserted: bool) {
            self.0.lock().expect("log").push((line, asserted));
        }
        fn again(&self, _: u8) {}
    }

    fn power() -> (Power, Seen) {
        let log = Log::default();
        let seen = Arc::clone(&log.0);
        (Power::new(Box::new(log)), seen)
    }

    fn word(power: &Power, port: u16) -> u16 {
        let mut data = [0; 2];
        assert!(power.read(port, &mut data));
        u16::from_le_bytes(data)
    }

    #[test]
    fn off_is_sleep_enable_with_the_type_of_s5_whatever_the_width() {
        let (power, _) = power();
        assert_eq!(word(&power, 0x604), 1, "events are SCIs");
        assert_eq!(power.write(0x604, &[0x00, 5 << 2]), Some(None), "the type alone");
        assert_eq!(word(&power, 0x604), 5 << 10 | 1);
        assert_eq!(power.write(0x604, &[0x00, 1 << 5 | 1 << 2]), Some(None), "S1");
        assert_eq!(power.write(0x604, &[0x01, 1 << 5 | 5 << 2]), Some(Some(End::Poweroff)));
        assert_eq!(power.write(0x605, &[1 << 5 | 5 << 2]), Some(Some(End::Poweroff)));
        assert_eq!(power.write(0x602, &[0, 0, 0, 1 << 5 | 5 << 2]), Some(Some(End::Poweroff)));
        for (port, len) in [(0x604, 4), (0x606, 1), (0x5ff, 1), (0x603, 4)] {
            assert_eq!(power.write(port, &vec![0xff; len]), None, "{port:#x}: beyond");
            assert!(!power.read(port, &mut vec![0; len]));
        }
    }

    #[test]
    fn button_interrupts_a_guest_that_listens() {
        let (power, log) = power();
        assert!(!power.press_button());
        assert_eq!((word(&power, 0x600), log.lock().expect("log").len()), (1 << 8, 0));
        assert_eq!(power.write(0x602, &[0, 1]), Some(None));
        assert_eq!(power.write(0x600, &[0xff, 0]), Some(None), "other bits");
        assert_eq!(*log.lock().expect("log"), [(9, true)]);
        assert_eq!(power.write(0x600, &[0, 1]), Some(None));
        assert_eq!(*log.lock().expect("log"), [(9, true), (9, false)]);
        assert!(power.press_button());
        power.reset();
        assert_eq!([0x600, 0x602, 0x604].map(|port| word(&power, port)), [0, 0, 1]);
        assert_eq!(log.lock().expect("log").last(), Some(&(9, false)));
    }

    #[test]
    fn resets_and_panics_are_told_from_what_is_none() {
        let (power, _) = power();
        assert_eq!(
            power.write(layout::RESET_CONTROL, &[layout::RESET_VALUE]),
            Some(Some(End::Reset))
        );
        assert_eq!(power.write(layout::RESET_CONTROL, &[2]), None);
        let ends = Some(Some(End::KeyboardReset));
        assert_eq!(power.write(layout::KEYBOARD_COMMAND, &[0xfe]), ends);
        assert_eq!(power.write(layout::KEYBOARD_COMMAND, &[0x20]), None);
        assert_eq!(power.write(layout::PVPANIC, &[2]), Some(None), "kdump goes on");
        assert_eq!(power.write(layout::PVPANIC, &[1]), Some(Some(End::Panic)));
        let mut events = [0];
        assert!(power.read(layout::PVPANIC, &mut events));
        assert_eq!(events, [3]);
    }
}
