//! Which request is whose, of either API.

use nix::errno::Errno;

use crate::abi::reqtype;
use crate::control::{hdr, info, register, vale};
use crate::kloop;
use crate::request::Request;
use crate::table::Ref;

/// Serves a request of either API.
pub fn serve(fd: i32, at: &Ref, request: &mut Request) -> Result<(), Errno> {
    match request.header.reqtype {
        reqtype::REGISTER => register::request(fd, at, request),
        _ if request.check_options(kloop::options(request.header.reqtype)).is_err() => {
            Err(Errno::EOPNOTSUPP)
        }
        reqtype::PORT_INFO_GET => info::port(request),
        reqtype::POOLS_INFO_GET => info::pools(fd, at, request),
        reqtype::VALE_ATTACH => vale::attach(request),
        reqtype::VALE_DETACH => vale::detach(request),
        reqtype::VALE_LIST => vale::list(request),
        reqtype::VALE_NEWIF => vale::newif(request),
        reqtype::VALE_DELIF => vale::delif(request),
        reqtype::VALE_POLLING_ENABLE | reqtype::VALE_POLLING_DISABLE => vale::polling(request),
        reqtype::PORT_HDR_SET => hdr::set(request),
        reqtype::PORT_HDR_GET => hdr::get(request),
        reqtype::CSB_ENABLE => kloop::enable(fd, at, request),
        reqtype::SYNC_KLOOP_START => kloop::start(fd, at, request),
        reqtype::SYNC_KLOOP_STOP => kloop::stop(at),
        _ => Err(Errno::EINVAL),
    }
}
