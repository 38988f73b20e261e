//! What a reader did to records besides passing them on: which it left out, shortened or converted. All
//! tools report this in the same words.

use std::path::Path;

/// Numbers of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Left out: they hold no byte.
    pub empty: u64,
    /// Left out: longer than a frame can be.
    pub oversized: u64,
    /// Left out: their content cannot be represented as Ethernet frames.
    pub unconvertible: u64,
    /// Handed on as the capture cut them.
    pub cut: u64,
    /// Handed on without the frame check sequence that they had.
    pub fcs: u64,
    /// Handed on with an Ethernet header made up for them.
    pub converted: u64,
    /// Records whose fraction of a second amounts to a second or more.
    pub fractions: u64,
}

impl Notes {
    /// Records that were not handed on.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.empty + self.oversized + self.unconvertible
    }

    /// One sentence for each counter that is not zero, about the records of `path`.
    #[must_use]
    pub fn sentences(&self, path: &Path) -> Vec<String> {
        let kinds = [
            (self.empty, "left out: no bytes in it", "left out: no bytes in them"),
            (
                self.oversized,
                "left out: longer than 65535 bytes",
                "left out: longer than 65535 bytes",
            ),
            (self.unconvertible, "left out: no IP, no Ethernet", "left out: no IP, no Ethernet"),
            (
                self.cut,
                "cut short by the capture and handed on as it is",
                "cut short by the capture and handed on as they are",
            ),
            (
                self.fcs,
                "handed on without its frame check sequence",
                "handed on without their frame check sequences",
            ),
            (self.converted, "given an Ethernet header", "given Ethernet headers"),
            (
                self.fractions,
                "stamped with a fraction of a second that exceeds a second",
                "stamped with fractions of a second that exceed a second",
            ),
        ];
        let path = path.display();
        let there = kinds.into_iter().filter(|(count, ..)| *count > 0);
        there
            .map(|(count, one, many)| match count {
                1 => format!("1 packet of {path} is {one}"),
                _ => format!("{count} packets of {path} are {many}"),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_packet_is_not_one_packets() {
        let notes = Notes { empty: 1, cut: 2, ..Notes::default() };
        assert_eq!(
            notes.sentences(Path::new("f")),
            [
                "1 packet of f is left out: no bytes in it",
                "2 packets of f are cut short by the capture and handed on as they are"
            ]
        );
        assert_eq!(notes.left_out(), 1);
    }
}
