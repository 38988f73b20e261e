//! Short texts in shared words.

use crate::sync::core_atomic::{AtomicU64, Ordering};

/// Writes text into words, cut off where they end, padded with NUL.
pub fn store_text(words: &[AtomicU64], text: &str) {
    let mut bytes = text.bytes();
    for word in words {
        let w: [u8; 8] = std::array::from_fn(|_| bytes.next().unwrap_or(0));
        word.store(u64::from_le_bytes(w), Ordering::Relaxed);
    }
}

/// Reads text back; `None` if it is not UTF-8.
pub fn load_text(words: &[AtomicU64]) -> Option<String> {
    let bytes = words.iter().flat_map(|w| w.load(Ordering::Relaxed).to_le_bytes());
    String::from_utf8(bytes.take_while(|&b| b != 0).collect()).ok()
}
