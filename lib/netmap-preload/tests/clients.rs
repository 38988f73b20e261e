//! C programs against the library, each case in both generations of the interface, each a process with a
//! root of its own. The cases are in `tests/c`.

#![forbid(unsafe_code)]

mod common;

/// A test for each case; those with one generation say so.
macro_rules! cases {
    ($($program:ident { $($case:ident $([$only:literal])? $(($($name:literal = $value:literal)+))?),* $(,)? })*) => {
        $(mod $program {
            $(
                #[test]
                fn $case() {
                    let generations: &[&str] = cases!(@generations $($only)?);
                    for generation in generations {
                        super::common::run_client(stringify!($program), stringify!($case), generation, &|command| {
                            let _ = &command;
                            $($(command.env($name, $value);)+)?
                        });
                    }
                }
            )*
        })*
    };
    (@generations) => { &["new", "old"] };
    (@generations $only:literal) => { &[$only] };
}

cases! {
    control {
        modes, global_memory, ringid_bits ["old"], info, list, persistent, header_length, pools ["new"], options ["new"],
        offsets ["new"], exclusive,
    }
    errors { table }
    data {
        sync_only, fragments, indirect, timestamps, liberties, locked, mappings, nonsense, ring_each,
        syncs_at_once, directions,
    }
    wait {
        side_effects, readiness, no_tx_poll, do_rx_poll, poll_sleeps, timeouts, selects, mixed, epoll_level,
        epoll_edge, epoll_mixed, epoll_forked, signals, refused, blocking_flag, two_waiters,
    }
    process {
        copies, forks, forks_of_threads, execs, vforks, close_on_exec, descriptor_server, stranger, killed,
    }
    life {
        sweep, sweep_all, descriptor_two, close_in_handler, many_threads, start_and_exit ("CLIENT_EARLY" = "1"),
        no_descriptors, own_faults,
    }
    memory {
        extra_buffers, memory_ids, zero_copy_bridge, pipes, pipe_waits, pipe_buffers, spread_over_pipes,
        monitors, zero_copy_monitors, accounting,
    }
    calls {
        errno_kept, any_descriptors_ioctls, other_names, nowhere ["new"], refused_ranges, select_of_the_dead ["new"],
        many_descriptors, mapped_over ["new"], moved,
    }
    behind {
        numbers_used_again, raw_sweep, raw_sweep_of_high_numbers, sweeps_in_handlers, cancelled, jumps, jumps_anywhere,
    }
    nested { depths, mixed ["new"], changes ["new"], known_later, kept }
    csb {
        kernel_loop ["new"], registered ["new"], starts_and_stops ["new"], interrupted ["new"], eventfds ["new"],
        wrong_eventfds ["new"], own_memory ["new"],
    }
    programs { qemu ["old"], qemu_virtio ["old"], pcap ["old"], helpers ["old"], balancer }
}
