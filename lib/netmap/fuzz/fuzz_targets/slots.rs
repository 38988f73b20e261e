//! See `netmap::fuzz::slots`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: netmap_fuzz::private_root(),
    |data: &[u8]| netmap::fuzz::slots(data)
);
