//! The error number of each refusal is the one that a program of netmap gets from the kernel.

mod common;

use common::{open, root, slots};
use netmap::control::{self, Switch};
use netmap::error::Errno;
use netmap::{Options, Port, PortName};

fn refused(name: &str) -> Errno {
    Port::open(name).map(drop).expect_err(name).errno()
}

fn name(text: &str) -> PortName {
    text.parse().expect("a good name")
}

#[test]
fn refused_open_has_the_error_number_of_netmap() {
    root();
    let _x = open("valeE:x", &slots(64));
    let _y = Port::open("valeE:y/x").unwrap();
    for (name, errno) in [
        ("valeE:x-1", Errno::EINVAL),
        ("valeE:x@conf:slots=128", Errno::EINVAL),
        ("valeE:x@7", Errno::EINVAL),
        ("valeE:z@conf:slots=5", Errno::EINVAL),
        ("valeE:z@conf:rings=99", Errno::EINVAL),
        ("valeE:y", Errno::EBUSY),
        ("valeE:x/x", Errno::EBUSY),
        ("valeE:x{", Errno::EINVAL),
        ("valeE:x{1^", Errno::EINVAL),
        ("netmap:eth0{1", Errno::EOPNOTSUPP),
        ("valeE:x/z", Errno::EINVAL),
        ("valeE:none/t", Errno::ENXIO),
        ("null:/t", Errno::EOPNOTSUPP),
        ("valeE:x@extmem:file=/f", Errno::EOPNOTSUPP),
        ("valeE:x^", Errno::EINVAL),
        ("valeE:sixteencharacter", Errno::EINVAL),
        ("valeE:", Errno::EINVAL),
        ("unknown:x", Errno::EINVAL),
        ("netmap:eth0", Errno::ENXIO),
        ("null:-1", Errno::EINVAL),
        ("null:@conf:rings=2", Errno::EINVAL),
        ("pcap:/nowhere/f/R", Errno::ENOENT),
    ] {
        assert_eq!(refused(name), errno, "{name}");
    }
    let mut null = Port::open("null:").unwrap();
    let e = null.allow_indirect_static(b"data").unwrap_err();
    assert_eq!(e.errno(), Errno::EOPNOTSUPP);
}

#[test]
fn refused_request_has_the_error_number_of_netmap() {
    root();
    let options = Options::default();
    let port = name("valeF:x");
    control::create_port(&port, &options).unwrap();
    let errno = |result: netmap::Result<()>| result.unwrap_err().errno();
    assert_eq!(errno(control::create_port(&port, &options)), Errno::EEXIST);
    assert_eq!(errno(control::create_port(&name("tap:t0"), &options)), Errno::EINVAL);
    assert_eq!(errno(control::delete_port(&name("valeF:none"))), Errno::ENXIO);
    assert_eq!(errno(control::set_mirror(&port, Some(&port))), Errno::EINVAL);
    assert_eq!(errno(control::set_mirror(&port, Some(&name("valeF:none")))), Errno::ENXIO);
    assert_eq!(errno(control::set_mirror(&port, Some(&name("valeG:x")))), Errno::EINVAL);
    assert_eq!(errno(Switch::open("valeF").unwrap().delete()), Errno::EBUSY);
    assert_eq!(errno(Switch::open("valeNone").map(drop)), Errno::ENXIO);
    let user = Port::open("valeF:x").unwrap();
    assert_eq!(errno(control::delete_port(&port)), Errno::EBUSY);
    drop(user);
    control::delete_port(&port).unwrap();
}

#[test]
fn full_switch_has_the_error_number_of_netmap() {
    root();
    let ports: Vec<Port> = (0..254).map(|i| open(&format!("valeL:p{i}"), &slots(64))).collect();
    assert_eq!(refused("valeL:one_more"), Errno::ENOMEM);
    drop(ports);
}
