//! Everything that passes the interfaces of a namespace, kept.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::Namespace;

/// A capture under way.
pub struct Capture {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Vec<u8>>>,
}

impl Capture {
    /// Begins. Needs CAP_NET_RAW.
    pub fn start(namespace: &Namespace) -> Capture {
        let open = || {
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
                .unwrap_or_else(|e| panic!("a packet socket: {e}"))
        };
        let socket: OwnedFd = namespace.enter(open);
        // A burst must not be lost while the machine is busy, and the end must be seen.
        let set = setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20))
            .and_then(|()| setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50)));
        set.unwrap_or_else(|e| panic!("options of a packet socket: {e}"));
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        let thread = std::thread::spawn(move || {
            let (mut packets, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
            loop {
                match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    Ok(length) => packets.push(buffer[..length].to_vec()),
                    Err(Errno::EAGAIN) if end.load(Ordering::Relaxed) => return packets,
                    Err(Errno::EAGAIN | Errno::EINTR) => {}
                    Err(e) => panic!("capturing: {e}"),
                }
            }
        });
        Capture { ended, thread }
    }

    /// Ends when nothing comes any more, and gives the packets.
    pub fn stop(self) -> Vec<Vec<u8>> {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| panic!("the capture ended early"))
    }
}

/// How many packets hold this.
pub fn holding(packets: &[Vec<u8>], needle: &[u8]) -> usize {
    packets.iter().filter(|packet| packet.windows(needle.len()).any(|window| window == needle)).count()
}
