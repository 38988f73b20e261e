//! How a packet is cut into slots: by need, or as `--frags` and `--frag-size` say. Invariant: the slots
//! of a packet hold all its bytes, each but the last the same number.

use nm_cli::exit::UsageError;

/// How a packet is cut into slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Slots of each packet; `None` is as many as it needs.
    pub frags: Option<usize>,
    /// Bytes in a slot at most; `None` is what the buffer holds.
    pub size: Option<usize>,
}

impl Cut {
    /// Slots that a packet of `len` bytes takes, and bytes in each but the last, given what a buffer
    /// holds.
    pub fn slots(self, len: usize, capacity: usize) -> (usize, usize) {
        match self.frags {
            Some(frags) => {
                let share = len / frags;
                (frags, self.size.map_or(share, |size| size.min(share)))
            }
            None => {
                let size = self.size.unwrap_or(capacity).min(capacity);
                (len.div_ceil(size).max(1), size)
            }
        }
    }

    /// Fails if fragments do not fit buffers of `capacity` bytes.
    pub fn check(self, longest: usize, capacity: usize) -> anyhow::Result<()> {
        let (slots, size) = self.slots(longest, capacity);
        let last = longest - (slots - 1) * size;
        if size > capacity || last > capacity {
            let worst = size.max(last);
            return Err(UsageError::new(format!(
                "a fragment of {worst} bytes does not fit a buffer of {capacity}; use more --frags"
            ))
            .into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_gives_equal_shares_and_the_rest() {
        let cut = |frags, size| Cut { frags, size };
        assert_eq!(cut(None, None).slots(60, 2048), (1, 2048));
        assert_eq!(cut(None, None).slots(9000, 2048), (5, 2048));
        assert_eq!(cut(Some(3), None).slots(1000, 2048), (3, 333));
        assert_eq!(cut(Some(3), Some(100)).slots(1000, 2048), (3, 100));
        assert_eq!(cut(None, Some(100)).slots(1000, 2048), (10, 100));
        assert!(cut(Some(2), None).check(4096, 2048).is_ok());
        assert!(cut(Some(2), None).check(4098, 2048).is_err());
        assert!(cut(Some(2), Some(100)).check(4000, 2048).is_err());
    }
}
