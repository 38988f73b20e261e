//! See `netmap::fuzz::headers`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: netmap_fuzz::private_root(),
    |data: &[u8]| netmap::fuzz::headers(data)
);
