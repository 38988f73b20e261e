//! Commands among what is typed: QEMU's keys, which begin with Ctrl-a. All others are the guest's, Ctrl-C, Ctrl-Z and
//! Ctrl-\\ too.

/// Begins a command to this program.
const PREFIX: u8 = 0x01;

/// What the keys mean.
pub const HELP: &str = "\
Ctrl-a x  ends the machine
Ctrl-a b  is a break, which a Linux guest takes for the SysRq key
Ctrl-a h  prints this
Ctrl-a Ctrl-a  is a Ctrl-a for the guest, as all other keys are";

/// What was typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A byte for the guest.
    Byte(u8),
    /// A break for the guest.
    Break,
    /// Say what the keys mean: asked for, or because there is no such key.
    Help,
    /// End the machine.
    Quit,
}

/// Finds the commands.
#[derive(Debug, Default)]
pub struct Keys {
    prefixed: bool,
}

impl Keys {
    /// What the next byte is. `None`: it begins a command.
    pub fn next(&mut self, byte: u8) -> Option<Key> {
        if !self.prefixed && byte == PREFIX {
            self.prefixed = true;
            return None;
        }
        Some(match (std::mem::take(&mut self.prefixed), byte) {
            (false, byte) | (true, byte @ PREFIX) => Key::Byte(byte),
            (true, b'x') => Key::Quit,
            (true, b'b') => Key::Break,
            (true, _) => Key::Help,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_guests_but_for_those_behind_the_prefix() {
        let mut keys = Keys::default();
        let mut typed = |bytes: &[u8]| -> Vec<Key> {
            bytes.iter().filter_map(|byte| keys.next(*byte)).collect()
        };
        let bytes = |text: &[u8]| text.iter().map(|byte| Key::Byte(*byte)).collect::<Vec<_>>();
        assert_eq!(typed(b"ls\r\x03\x1a\x1c"), bytes(b"ls\r\x03\x1a\x1c"));
        assert_eq!(typed(b"a\x01\x01b"), bytes(b"a\x01b"));
        assert_eq!(typed(b"1\x01"), bytes(b"1"));
        assert_eq!(typed(b"x2"), [Key::Quit, Key::Byte(b'2')], "the prefix came before");
        assert_eq!(typed(b"\x01h\x01b\x01?\x01z"), [Key::Help, Key::Break, Key::Help, Key::Help]);
    }
}
