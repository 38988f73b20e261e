//! See `netmap::fuzz::pcap`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| netmap::fuzz::pcap(data));
