//! Why a frame cannot be completed.

use core::fmt;

/// Why a frame cannot be completed. Such a frame is to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The frame has no whole Ethernet header.
    Short,
    /// `hdr_len` ends within the Ethernet header or beyond the frame.
    HeaderLength,
    /// A type of segmentation that does not exist, or the ECN bit with what is not TCP.
    GsoType,
    /// A segment length that no segment can have.
    GsoSize,
    /// More segments than a datagram with USO may have (128).
    Segments,
    /// The checksum's place is outside of what it can cover, or is not the field of that protocol.
    ChecksumPlace,
    /// USO or UFO whose checksum is said to be complete.
    ChecksumMissing,
    /// More than seven VLAN tags, or one that the frame's end cuts.
    Tags,
    /// An IP header that is cut, of the wrong version, or shorter than such a header can be.
    Ip,
    /// A length of IP or UDP that contradicts the frame.
    Length,
    /// A fragment: its checksum is the whole datagram's, and it is no packet to be split.
    Fragment,
    /// The packet is not of the protocol that its type of segmentation is for.
    Protocol,
    /// A TCP or UDP header that is cut, or shorter than such a header can be.
    Transport,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "frame without a whole Ethernet header",
            Self::HeaderLength => "header length outside of the frame",
            Self::GsoType => "unknown type of segmentation",
            Self::GsoSize => "impossible segment length",
            Self::Segments => "too many segments",
            Self::ChecksumPlace => "checksum in an impossible place",
            Self::ChecksumMissing => "UDP segmentation without a checksum to complete",
            Self::Tags => "too many VLAN tags, or one that is cut",
            Self::Ip => "malformed IP header",
            Self::Length => "IP or UDP length that contradicts the frame",
            Self::Fragment => "checksum or segmentation in a fragment",
            Self::Protocol => "segmentation of another protocol's packet",
            Self::Transport => "malformed TCP or UDP header",
        })
    }
}

impl core::error::Error for Fault {}
