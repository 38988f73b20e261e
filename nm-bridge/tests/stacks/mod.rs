//! Stacks of two namespaces: their addresses on taps called t0, and streams between them that are hashed at both ends.

#![allow(dead_code, reason = "each test binary uses its part of this file")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::netns::Namespace;
use crate::skipping::skip;
use crate::support::until;

/// Addresses of the two, in both families.
pub const ADDRESSES: [[&str; 2]; 2] = [["10.78.0.1", "fd78::1"], ["10.78.0.2", "fd78::2"]];

/// Two namespaces, or the test is skipped.
pub fn namespaces(test: &str, roles: [&str; 2]) -> Option<[Namespace; 2]> {
    let [a, b] = roles.map(Namespace::new);
    let both = a.and_then(|a| b.map(|b| [a, b]));
    both.map_err(|why| skip(test, &why)).ok()
}

/// Gives the taps their addresses.
pub fn addresses(namespaces: &[Namespace; 2]) {
    for (namespace, [four, six]) in namespaces.iter().zip(ADDRESSES) {
        namespace.ip(&format!("addr add {four}/24 dev t0"));
        namespace.ip(&format!("addr add {six}/64 dev t0 nodad"));
    }
}

/// Streams of so many bytes from each to the other, over IPv4 and IPv6.
pub fn streams([a, b]: &[Namespace; 2], bytes: usize) {
    for address in ADDRESSES[1] {
        stream(a, b, address, bytes);
    }
    for address in ADDRESSES[0] {
        stream(b, a, address, bytes);
    }
}

/// FNV-1a, by words.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(seed, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Sends bytes from one namespace to the other; both ends must have seen the same.
pub fn stream(from: &Namespace, to: &Namespace, address: &str, bytes: usize) {
    let listener = to.inside(|| TcpListener::bind((address, 0)).expect("bound"));
    let port = listener.local_addr().expect("it has one").port();
    let data: Vec<u8> = (0..bytes as u64 / 8)
        .flat_map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect();
    let received = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("accepted");
            let mut got = Vec::new();
            stream.read_to_end(&mut got).expect("read");
            got
        });
        let mut stream =
            until("a connection", || from.inside(|| TcpStream::connect((address, port)).ok()));
        stream.write_all(&data).expect("written");
        drop(stream);
        receiver.join().expect("no panic")
    });
    assert_eq!(received.len(), data.len(), "to {address}");
    assert_eq!(hash(7, &received), hash(7, &data), "to {address}");
}
