//! The yardstick: two threads, one ring, copy and publish, no switch.
//!
//! Same buffers (stride, number), same slots (16 bytes), same batches and the same copy loop as a
//! VALE port, but nothing of what a switch does: no lookup, no learning, no checks, no lock, no
//! counters, no notification. What it moves is what the memory system allows.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use netmap::copy::{self, Isa};

/// Stride of netmap buffers here (`nr_buf_size`).
const STRIDE: usize = 2048 + 64;

#[repr(align(128))]
#[derive(Debug, Default)]
struct Line(AtomicU32);

/// Buffers and slots of one ring, shared by two threads.
struct Ring {
    slots: Vec<(AtomicU64, AtomicU64)>,
    buffers: *mut u8,
}
// SAFETY: slots are atomics; buffers are written by one thread and read by the other, ordered by
// `tail` and `head`, through assembly only.
unsafe impl Sync for Ring {}

fn buffers(n: usize) -> *mut u8 {
    let layout = std::alloc::Layout::from_size_align(n * STRIDE, 4096).expect("a valid layout");
    // SAFETY: the size is not zero.
    unsafe { std::alloc::alloc_zeroed(layout) } // kept to the end of the process
}

fn produce<I: Isa>(
    ring: &Ring,
    len: usize,
    burst: usize,
    head: &Line,
    tail: &Line,
    stop: &AtomicBool,
) {
    let n = ring.slots.len();
    let src = buffers(n);
    // SAFETY: n * STRIDE bytes were allocated.
    unsafe { src.write_bytes(0x5a, n * STRIDE) };
    let mut t = 0usize;
    while !stop.load(Ordering::Relaxed) {
        let h = head.0.load(Ordering::Acquire) as usize;
        let space = (h + n - t - 1) % n;
        let count = space.min(burst);
        if count == 0 {
            std::hint::spin_loop();
            continue;
        }
        for _ in 0..count {
            let idx = ring.slots[t].0.load(Ordering::Relaxed) as u32 as usize;
            let ahead = ring.slots[(t + 8) % n].0.load(Ordering::Relaxed) as u32 as usize;
            copy::prefetch_write(ring.buffers.wrapping_add(ahead * STRIDE));
            let to = ring.buffers.wrapping_add(idx * STRIDE);
            let from = src.wrapping_add(t * STRIDE);
            // SAFETY: both are whole buffers; the instructions were detected.
            unsafe { I::lines(to, from, len.div_ceil(64)) };
            ring.slots[t].0.store(idx as u64 | (len as u64) << 32, Ordering::Relaxed);
            t += 1;
            if t == n {
                t = 0;
            }
        }
        tail.0.store(t as u32, Ordering::Release);
    }
}

/// Packets per second of `len` bytes through a ring of `n` slots.
pub fn run(n: usize, len: usize, burst: usize, time: Duration) -> f64 {
    let ring = Ring {
        slots: (0..n).map(|i| (AtomicU64::new(i as u64), AtomicU64::new(0))).collect(),
        buffers: buffers(n),
    };
    let (head, tail, stop) = (Line::default(), Line::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            crate::pin(0);
            match copy::detect() {
                copy::Kind::Avx512 => {
                    produce::<copy::Avx512>(&ring, len, burst, &head, &tail, &stop);
                }
                copy::Kind::Avx => produce::<copy::Avx>(&ring, len, burst, &head, &tail, &stop),
                copy::Kind::Sse2 => produce::<copy::Sse2>(&ring, len, burst, &head, &tail, &stop),
            }
        });
        crate::pin(1);
        let (mut h, mut packets, mut sum) = (0usize, 0u64, 0u64);
        let start = Instant::now();
        while start.elapsed() < time {
            let t = tail.0.load(Ordering::Acquire) as usize;
            if t == h {
                std::hint::spin_loop();
                continue;
            }
            while h != t {
                let word = ring.slots[h].0.load(Ordering::Relaxed);
                let ahead = ring.slots[(h + 8) % n].0.load(Ordering::Relaxed) as u32 as usize;
                copy::prefetch_read(ring.buffers.wrapping_add(ahead * STRIDE));
                let data = ring.buffers.wrapping_add(word as u32 as usize * STRIDE);
                for at in (0..(word >> 32) as u16 as usize).step_by(64) {
                    let word = data.wrapping_add(at).cast::<u64>();
                    // SAFETY: within the buffer; volatile, so that it is not left out.
                    sum = sum.wrapping_add(unsafe { word.read_volatile() });
                }
                packets += 1;
                h += 1;
                if h == n {
                    h = 0;
                }
            }
            head.0.store(h as u32, Ordering::Release);
        }
        let seconds = start.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        std::hint::black_box(sum);
        packets as f64 / seconds
    })
}
