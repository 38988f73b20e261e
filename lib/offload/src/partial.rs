//! Checksums that a local stack left partial, in frames that come without a header which says so.
//!
//! AF_XDP on a veth hands out such frames. The field then equals the folded sum of the pseudo-header.
//! A complete frame whose field is that by chance has a checksum that computing it anew gives again:
//! what it covers but the field sums up to the negative of twice the field, so the new one is the same.

use inet_checksum::{finish, fold, nonzero, sum};

use crate::layers::{Layers, TCP, UDP, be16};

/// Fills the TCP or UDP checksum of a frame whose field holds the sum of its pseudo-header, which is
/// what a local stack leaves in it for a device to complete. Returns whether it did. All other frames
/// stay as they are, also malformed ones.
pub fn finish_partial(frame: &mut [u8]) -> bool {
    let Ok(Some(layers)) = Layers::of(frame) else { return false };
    if layers.fragment || !matches!(layers.protocol, TCP | UDP) {
        return false;
    }
    let Some(offset) = layers.checksum_offset() else { return false };
    let len = layers.transport_len();
    if len < offset + 2 {
        return false;
    }
    let field = layers.transport + offset;
    let pseudo = layers.pseudo(frame) + len as u64;
    if be16(frame, field) != fold(pseudo) {
        return false;
    }
    let mut check = finish(sum(&frame[layers.transport..layers.end]));
    if layers.protocol == UDP {
        check = nonzero(check);
    }
    frame[field..field + 2].copy_from_slice(&check.to_be_bytes());
    true
}
