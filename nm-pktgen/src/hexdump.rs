//! Packets in hexadecimal, in the layout of `hexdump -C`: offset, sixteen bytes, text.

use std::fmt::Write;

/// One packet with a line that says what it is.
pub fn dump(title: &str, packet: &[u8]) -> String {
    let mut text = format!("{title}, {} bytes\n", packet.len());
    for (row, bytes) in packet.chunks(16).enumerate() {
        let _ = write!(text, "{:08x}  ", row * 16);
        for column in 0..16 {
            match bytes.get(column) {
                Some(byte) => _ = write!(text, "{byte:02x} "),
                None => text.push_str("   "),
            }
            if column == 7 {
                text.push(' ');
            }
        }
        let shown = |&byte: &u8| {
            if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '.' }
        };
        let ascii: String = bytes.iter().map(shown).collect();
        let _ = writeln!(text, " |{ascii}|");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_aligned_and_unprintable_bytes_dotted() {
        let text = dump("rx", b"0123456789abcdef\x00A");
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(rows[0], "rx, 18 bytes");
        assert_eq!(
            rows[1],
            "00000000  30 31 32 33 34 35 36 37  38 39 61 62 63 64 65 66  |0123456789abcdef|"
        );
        assert!(rows[2].starts_with("00000010  00 41 ") && rows[2].ends_with("|.A|"));
        assert_eq!(rows[2].find('|'), rows[1].find('|'));
    }
}
