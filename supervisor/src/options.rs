//! The socket options that the table answers: SO_ERROR and IPV6_V6ONLY.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::libc;
use sandbox::sock;

use crate::call::{Call, Target, errno};

/// getsockopt(2) of SO_ERROR and IPV6_V6ONLY.
pub fn get(mut call: Call) {
    let (number, level, name) = (call.int(0), call.int(1), call.int(2));
    call.note(|| format!("getsockopt({number}, {level}, {name})"));
    let result = (|| {
        let target = call.target(number)?;
        let value =
            if level == libc::SOL_SOCKET { error_of(&call, &target)? } else { i32::from(v6only(&call, &target)?) };
        write_int(&call, value)
    })();
    call.finish(result);
}

fn error_of(call: &Call, target: &Target) -> Result<i32, Errno> {
    let native = sock::so_error(target.as_fd()).map_err(errno)?;
    let own = call.supervisor.table.lock().get_mut(target.cookie).and_then(|s| s.error.take());
    Ok(own.map_or(native, |e| e as i32))
}

fn v6only(call: &Call, target: &Target) -> Result<bool, Errno> {
    call.supervisor.known(target)?;
    let table = call.supervisor.table.lock();
    match table.get(target.cookie) {
        Some(s) if s.v6 => Ok(s.v6only),
        // Level IPPROTO_IPV6 on another kind of socket.
        Some(_) => Err(Errno::ENOPROTOOPT),
        None => Err(Errno::EOPNOTSUPP),
    }
}

/// Writes an int result, truncated to the program's length as the kernel does.
fn write_int(call: &Call, value: i32) -> Result<i64, Errno> {
    let (pointer, length) = (call.argument(3), call.argument(4));
    let given = call.n.read_u32(length)? as i32;
    let given = usize::try_from(given).map_err(|_| Errno::EINVAL)?;
    let n = given.min(4);
    call.n.write(pointer, &value.to_ne_bytes()[..n])?;
    call.n.write(length, &(n as u32).to_ne_bytes())?;
    Ok(0)
}

/// setsockopt(2) of IPV6_V6ONLY: kept in the table, for the kernel's socket is always dual-stack.
pub fn set(mut call: Call) {
    let (number, level, name) = (call.int(0), call.int(1), call.int(2));
    call.note(|| format!("setsockopt({number}, {level}, {name})"));
    let result = (|| {
        let target = call.target(number)?;
        call.supervisor.known(&target)?;
        if (call.int(4)) < 4 {
            return Err(Errno::EINVAL);
        }
        let value = call.n.read_u32(call.argument(3))?;
        let mut table = call.supervisor.table.lock();
        match table.get_mut(target.cookie) {
            // Once bound it cannot change (inet6_csk, do_ipv6_setsockopt).
            Some(s) if s.v6 && s.bound.is_some() => Err(Errno::EINVAL),
            Some(s) if s.v6 => {
                s.v6only = value != 0;
                Ok(0)
            }
            Some(_) => Err(Errno::ENOPROTOOPT),
            None => Err(Errno::EOPNOTSUPP),
        }
    })();
    call.finish(result);
}
