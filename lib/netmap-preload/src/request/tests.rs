use super::*;

use proptest::prelude::*;

fn header(reqtype: u16, body: u64, options: u64) -> Header {
    Header { version: 14, reqtype, reserved: 0, name: [0; 64], options, body }
}

fn read(header: &mut Header) -> Result<Request, Errno> {
    Request::read((&raw mut *header) as u64)
}

fn with_options(options: &mut [OptionHeader]) -> (Result<usize, Errno>, Vec<u32>) {
    let base = options.as_mut_ptr();
    for i in 1..options.len() {
        options[i - 1].next = base.wrapping_add(i) as u64;
    }
    let mut body = abi::Register::default();
    let mut header = header(kind::REGISTER, (&raw mut body) as u64, base as u64);
    let read = read(&mut header).map(|request| {
        request.tell();
        request.options.len()
    });
    let status = |option: &OptionHeader| std::hint::black_box(option).status;
    (read, options.iter().map(status).collect())
}

#[test]
fn versions_reserved_fields_and_bodies_are_judged_as_netmap_does() {
    let mut body = abi::Register::default();
    let body = (&raw mut body) as u64;
    assert_eq!(Request::read(0).err(), Some(Errno::EINVAL));
    assert_eq!(Request::read(8).err(), Some(Errno::EFAULT));
    for (version, good) in [(11, false), (13, false), (14, true), (15, true), (16, false)] {
        let mut header = Header { version, ..header(kind::REGISTER, body, 0) };
        assert_eq!(read(&mut header).is_ok(), good, "{version}");
    }
    let refused = |mut header: Header| read(&mut header).err();
    let reserved = Header { reserved: 1, ..header(kind::REGISTER, body, 0) };
    assert_eq!(refused(reserved), Some(Errno::EINVAL));
    assert_eq!(refused(header(kind::REGISTER, 0, 0)), Some(Errno::EINVAL));
    assert_eq!(refused(header(kind::VALE_DELIF, body, 0)), Some(Errno::EINVAL));
    for unknown in [0, 16, u16::MAX] {
        assert_eq!(refused(header(unknown, body, 0)), Some(Errno::EINVAL));
    }
}

#[test]
fn unknown_options_are_told_so_and_known_ones_twice_are_refused() {
    let of = |reqtype| OptionHeader { reqtype, ..OptionHeader::default() };
    let unsupported = Errno::EOPNOTSUPP as i32 as u32;
    assert_eq!(with_options(&mut [of(9), of(9)]), (Ok(2), vec![unsupported; 2]));
    let (read, status) = with_options(&mut [of(option::CSB), of(option::CSB)]);
    assert_eq!((read, status[1]), (Err(Errno::EINVAL), Errno::EINVAL as i32 as u32));
    assert_eq!(with_options(&mut [of(0)]).0, Err(Errno::EINVAL));
}

#[test]
fn lists_that_are_too_long_or_have_no_end_are_emsgsize() {
    let of = OptionHeader { reqtype: 99, ..OptionHeader::default() };
    let most = (abi::REQUEST_MOST - size_of::<abi::Register>()) / (24 + abi::OPTION_EXTRA);
    assert_eq!(with_options(&mut vec![of; most]).0, Ok(most));
    assert_eq!(with_options(&mut vec![of; most + 1]).0, Err(Errno::EMSGSIZE));
    let mut looped = of;
    looped.next = (&raw mut looped) as u64;
    let mut body = abi::Register::default();
    let mut header = header(kind::REGISTER, (&raw mut body) as u64, (&raw mut looped) as u64);
    assert_eq!(read(&mut header).err(), Some(Errno::EMSGSIZE));
    let events = OptionHeader { reqtype: option::SYNC_KLOOP_EVENTFDS, size: u64::MAX, ..of };
    assert_eq!(with_options(&mut [events]).0, Err(Errno::EMSGSIZE));
}

proptest! {
    /// Requests of any bytes, with pointers into memory of any bytes and into nowhere.
    #[test]
    fn any_bytes_are_a_request_or_an_error(
        mut memory in proptest::collection::vec(any::<u64>(), 64..256),
        pointers in proptest::collection::vec((0usize..64, 0usize..256), 0..32),
        version in 13u16..17,
        reqtype in 0u16..18,
    ) {
        let base = memory.as_mut_ptr();
        for (at, to) in pointers {
            memory[at] = base.wrapping_add(to % 256) as u64;
        }
        memory[0] = u64::from(version) | u64::from(reqtype) << 16;
        if let Ok(request) = Request::read(base as u64) {
            prop_assert!(request.options.len() <= abi::REQUEST_MOST / 24);
            prop_assert!(request.name().len() < 64);
            let _ = request.body::<abi::Register>();
        }
    }
}
