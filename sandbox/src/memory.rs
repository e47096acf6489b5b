//! Memory of the program: read once into owned values, written only while the caller waits.

use std::cell::Cell;
use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;

use crate::notify::{Notification, Reply};
use crate::sock::canonical;

mod room;

pub use room::{AddressOut, AddressRoom};

/// A socket address as the program passed it, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// AF_INET or AF_INET6.
    Inet(SocketAddr),
    /// AF_UNIX: the bytes after the family, as given (a path with or without its NUL, an abstract name, or none).
    Unix(Vec<u8>),
    /// AF_UNSPEC; what follows as AF_INET would have it, if there is enough of it.
    Unspecified(Option<SocketAddrV4>),
    /// Another family, or one of the above with too few bytes for it.
    Other {
        /// sa_family.
        family: u16,
        /// The length given.
        length: usize,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet(a) => write!(f, "{a}"),
            Address::Unix(name) if name.first() == Some(&0) => {
                write!(f, "unix:@{}", String::from_utf8_lossy(&name[1..]).escape_default())
            }
            Address::Unix(name) => {
                let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
                write!(f, "unix:{}", String::from_utf8_lossy(&name[..end]).escape_default())
            }
            Address::Unspecified(_) => f.write_str("AF_UNSPEC"),
            Address::Other { family, length } => write!(f, "family {family}, {length} bytes"),
        }
    }
}

/// sizeof(struct sockaddr_storage): the kernel's bound for any address (move_addr_to_kernel).
pub const STORAGE: usize = 128;
/// sizeof(struct sockaddr_in).
const SOCKADDR_IN: usize = 16;
/// sizeof(struct sockaddr_in6).
pub(crate) const SOCKADDR_IN6: usize = 28;
/// The shortest AF_INET6 address that Linux takes (SIN6_LEN_RFC2133).
const SOCKADDR_IN6_OLD: usize = 24;
/// UIO_MAXIOV.
const IOV_MAX: usize = 1024;
/// What one emulated call carries at most, in bytes: more is a partial send or receive, which streams allow.
pub const CHUNK: usize = 1 << 20;

impl Address {
    /// Decodes what the program passed as a struct sockaddr.
    pub fn parse(bytes: &[u8]) -> Address {
        let Some((family, rest)) = bytes.split_first_chunk::<2>() else {
            return Address::Other { family: 0, length: bytes.len() };
        };
        if let Some(address) = inet(bytes) {
            return Address::Inet(address);
        }
        let family = u16::from_ne_bytes(*family);
        match i32::from(family) {
            libc::AF_UNSPEC => Address::Unspecified(bytes.first_chunk().map(sockaddr_in)),
            libc::AF_UNIX => Address::Unix(rest.to_vec()),
            _ => Address::Other { family, length: bytes.len() },
        }
    }
}

/// The address in a struct sockaddr_in, whatever its family.
fn sockaddr_in(bytes: &[u8; SOCKADDR_IN]) -> SocketAddrV4 {
    let [_, _, p, q, a, b, c, d, ..] = *bytes;
    SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([p, q]))
}

/// Decodes a struct sockaddr of AF_INET or AF_INET6. None for any other, and for one with too few bytes.
#[inline]
pub fn inet(bytes: &[u8]) -> Option<SocketAddr> {
    match i32::from(u16::from_ne_bytes(*bytes.first_chunk()?)) {
        libc::AF_INET => Some(SocketAddr::V4(sockaddr_in(bytes.first_chunk()?))),
        libc::AF_INET6 => {
            let [_, _, p, q, flow @ ..] = *bytes.first_chunk::<8>()?;
            let ip = Ipv6Addr::from(*bytes.get(8..)?.first_chunk::<16>()?);
            let scope =
                bytes.get(SOCKADDR_IN6_OLD..).and_then(|s| s.first_chunk()).map_or(0, |s| u32::from_ne_bytes(*s));
            let (port, flow) = (u16::from_be_bytes([p, q]), u32::from_be_bytes(flow));
            Some(SocketAddr::V6(SocketAddrV6::new(ip, port, flow, scope)))
        }
        _ => None,
    }
}

/// The IPv4 address of a struct sockaddr of AF_INET, or of AF_INET6 where it is a v4-mapped one.
pub(crate) fn inet_v4(bytes: &[u8]) -> Option<SocketAddrV4> {
    if i32::from(u16::from_ne_bytes(*bytes.first_chunk()?)) == libc::AF_INET {
        return bytes.first_chunk().map(sockaddr_in);
    }
    match canonical(inet(bytes)?) {
        SocketAddr::V4(address) => Some(address),
        SocketAddr::V6(_) => None,
    }
}

/// A struct sockaddr_in or sockaddr_in6: derefs to its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sockaddr {
    bytes: [u8; SOCKADDR_IN6],
    length: usize,
}

impl std::ops::Deref for Sockaddr {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl std::ops::DerefMut for Sockaddr {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

/// The struct sockaddr_in or sockaddr_in6 of an address, as the kernel writes it.
#[inline]
pub fn sockaddr_bytes(address: &SocketAddr) -> Sockaddr {
    let mut bytes = [0; SOCKADDR_IN6];
    bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
    let (family, length) = match address {
        SocketAddr::V4(a) => {
            bytes[4..8].copy_from_slice(&a.ip().octets());
            (libc::AF_INET, SOCKADDR_IN)
        }
        SocketAddr::V6(a) => {
            bytes[4..8].copy_from_slice(&a.flowinfo().to_be_bytes());
            bytes[8..24].copy_from_slice(&a.ip().octets());
            bytes[24..28].copy_from_slice(&a.scope_id().to_ne_bytes());
            (libc::AF_INET6, SOCKADDR_IN6)
        }
    };
    bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
    Sockaddr { bytes, length }
}

/// One struct iovec of the program.
#[derive(Debug, Clone, Copy)]
pub struct ForeignSlice {
    /// Address.
    pub base: u64,
    /// Bytes.
    pub length: usize,
}

/// struct msghdr of the program, read once. Lengths are as given, checked.
#[derive(Debug, Clone)]
pub struct MessageHeader {
    /// Where the struct is, for the fields that the kernel writes back.
    pub at: u64,
    /// msg_name.
    pub name: u64,
    /// msg_namelen.
    pub name_length: u32,
    /// The iovecs.
    pub slices: Vec<ForeignSlice>,
    /// msg_control.
    pub control: u64,
    /// msg_controllen.
    pub control_length: usize,
    /// msg_flags.
    pub flags: i32,
}

impl MessageHeader {
    /// Bytes in all slices, saturating.
    pub fn capacity(&self) -> usize {
        self.slices.iter().fold(0usize, |n, s| n.saturating_add(s.length))
    }
}

/// sizeof(struct msghdr) and the offsets in it on a 64-bit machine (struct user_msghdr of the kernel).
const MSGHDR: usize = 56;
const OFFSET_NAMELEN: u64 = 8;
const OFFSET_CONTROLLEN: u64 = 40;
const OFFSET_FLAGS: u64 = 48;
/// sizeof(struct mmsghdr); its msg_len comes after the msghdr.
pub const MMSGHDR: u64 = 64;

/// sizeof(struct iovec).
const IOVEC: usize = 16;
/// As many iovecs have most messages at most.
const FEW: usize = 8;
/// A msghdr and its iovecs that lie within so many bytes are read as one piece, with what is between them: each piece costs as much as
/// another system call.
const NEAR: usize = 512;

/// Where the vector of a thread's last message was: a guess where that of its next one is.
#[derive(Debug, Clone, Copy)]
struct Vector {
    thread: i32,
    header: u64,
    base: u64,
    /// In bytes.
    length: usize,
}

thread_local! {
    static LAST_VECTOR: Cell<Vector> = const { Cell::new(Vector { thread: 0, header: 0, base: 0, length: 0 }) };
}

/// The memory of a thread that may have died meanwhile: what is read here counts only when its caller is known to wait still.
pub struct Memory(Pid);

impl Memory {
    /// Fills `buffer`. EFAULT for a bad pointer.
    #[inline]
    pub fn read_into(&self, address: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.read_both((address, buffer), (0, &mut []))
    }

    /// Fills two buffers from two places in one system call.
    #[inline]
    pub fn read_both(&self, one: (u64, &mut [u8]), two: (u64, &mut [u8])) -> Result<(), Errno> {
        let total = one.1.len() + two.1.len();
        if total == 0 {
            return Ok(());
        }
        let count = if two.1.is_empty() { 1 } else { 2 };
        let remote = [&one, &two].map(|(at, bytes)| RemoteIoVec { base: *at as usize, len: bytes.len() });
        let mut local = [IoSliceMut::new(one.1), IoSliceMut::new(two.1)];
        let n = process_vm_readv(self.0, &mut local[..count], &remote[..count])?;
        if n == total { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// As [`Memory::read_both`]; may fail also where something between two near places cannot be read.
    fn read_near(&self, one: (u64, &mut [u8]), two: (u64, &mut [u8])) -> Result<(), Errno> {
        let end = |(at, bytes): &(u64, &mut [u8])| at.saturating_add(bytes.len() as u64);
        let (start, end) = (one.0.min(two.0), end(&one).max(end(&two)));
        let mut room = [0; NEAR];
        let span = usize::try_from(end - start).ok().and_then(|length| room.get_mut(..length));
        let Some(span) = span.filter(|_| !two.1.is_empty()) else { return self.read_both(one, two) };
        self.read_into(start, span)?;
        for (at, bytes) in [one, two] {
            let offset = (at - start) as usize;
            bytes.copy_from_slice(&span[offset..offset + bytes.len()]);
        }
        Ok(())
    }

    /// Reads a native u32 (also int and socklen_t).
    pub fn read_u32(&self, address: u64) -> Result<u32, Errno> {
        let mut word = [0; 4];
        self.read_into(address, &mut word)?;
        Ok(u32::from_ne_bytes(word))
    }

    /// A struct sockaddr argument, and data, in one system call; returns the bytes of the address. EINVAL for a bad length.
    pub fn name_and_data<'a>(
        &self,
        (pointer, length): (u64, u64),
        name: &'a mut [u8; STORAGE],
        data: (u64, &mut [u8]),
    ) -> Result<&'a [u8], Errno> {
        let name = &mut name[..address_length(length)?];
        self.read_both((pointer, name), data)?;
        Ok(name)
    }

    /// A struct sockaddr argument: EINVAL for a bad length, EFAULT for a bad pointer.
    pub fn address(&self, pointer: u64, length: u64) -> Result<Address, Errno> {
        let mut bytes = [0u8; STORAGE];
        let bytes = &mut bytes[..address_length(length)?];
        self.read_into(pointer, bytes)?;
        Ok(Address::parse(bytes))
    }

    /// Reads a struct msghdr and its iovecs: in one system call where the thread asks with the same msghdr as before, most often with the
    /// same vector, which is looked at where it was.
    pub fn message_header(&self, at: u64) -> Result<MessageHeader, Errno> {
        let (mut raw, mut few) = ([0u8; MSGHDR], [0u8; IOVEC * FEW]);
        let guess = LAST_VECTOR.get();
        let mut guessed = 0;
        if (guess.thread, guess.header) == (self.0.as_raw(), at)
            && self.read_near((at, &mut raw), (guess.base, &mut few[..guess.length])).is_ok()
        {
            guessed = guess.length;
        } else {
            self.read_into(at, &mut raw)?;
        }
        let word = |o: usize| {
            let mut w = [0u8; 8];
            w.copy_from_slice(&raw[o..o + 8]);
            u64::from_ne_bytes(w)
        };
        let name_length = word(8) as u32;
        if (name_length as i32) < 0 {
            return Err(Errno::EINVAL);
        }
        let count = usize::try_from(word(24)).map_err(|_| Errno::EMSGSIZE)?;
        if count > IOV_MAX {
            return Err(Errno::EMSGSIZE);
        }
        let (base, length) = (word(16), count * IOVEC);
        let mut many;
        let table = match few.get_mut(..length) {
            Some(few) => few,
            None => {
                many = vec![0; length];
                &mut many[..]
            }
        };
        // Either all of it has come with the header, from this place, or it is read now.
        if (guessed, guess.base) != (length, base) {
            self.read_into(base, table)?;
        }
        if length <= IOVEC * FEW {
            LAST_VECTOR.set(Vector { thread: self.0.as_raw(), header: at, base, length });
        }
        let mut slices = Vec::with_capacity(count);
        let mut total = 0i64;
        for entry in table.chunks_exact(IOVEC) {
            let (mut base, mut length) = ([0u8; 8], [0u8; 8]);
            base.copy_from_slice(&entry[..8]);
            length.copy_from_slice(&entry[8..]);
            let length = i64::from_ne_bytes(length);
            if length < 0 {
                return Err(Errno::EINVAL);
            }
            total = total.saturating_add(length);
            slices.push(ForeignSlice { base: u64::from_ne_bytes(base), length: length as usize });
        }
        Ok(MessageHeader {
            at,
            name: word(0),
            name_length: name_length.min(STORAGE as u32),
            slices,
            control: word(32),
            control_length: usize::try_from(word(40)).map_err(|_| Errno::ENOBUFS)?,
            flags: word(48) as i32,
        })
    }
}

/// Where `bytes` are to be written.
fn remote(at: u64, bytes: &[u8]) -> RemoteIoVec {
    RemoteIoVec { base: at as usize, len: bytes.len() }
}

/// A socklen_t argument that says how long an address is (move_addr_to_kernel). EINVAL when it is longer than any address.
fn address_length(register: u64) -> Result<usize, Errno> {
    usize::try_from(register as u32 as i32).ok().filter(|n| *n <= STORAGE).ok_or(Errno::EINVAL)
}

impl Notification {
    #[inline]
    fn pid(&self) -> Pid {
        Pid::from_raw(self.thread as i32)
    }

    /// Reads `length` bytes once. EFAULT for a bad pointer; ESRCH when the caller is gone.
    pub fn read(&self, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
        let mut buffer = vec![0; length];
        self.read_into(address, &mut buffer)?;
        Ok(buffer)
    }

    /// The bytes of a path before its NUL, read page by page.
    ///
    /// # Errors
    /// EFAULT for a bad pointer; ENAMETOOLONG without a NUL in PATH_MAX bytes; ESRCH when the caller is gone.
    pub fn text(&self, address: u64) -> Result<Vec<u8>, Errno> {
        const PAGE: u64 = 4096;
        let most = libc::PATH_MAX as usize;
        let mut text = Vec::new();
        while text.len() < most {
            let at = address.saturating_add(text.len() as u64);
            let piece = self.read(at, ((PAGE - at % PAGE) as usize).min(most - text.len()))?;
            if let Some(end) = piece.iter().position(|b| *b == 0) {
                text.extend_from_slice(&piece[..end]);
                return Ok(text);
            }
            text.extend(piece);
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// Fills `buffer` from the program's memory; see [`Notification::read`].
    pub fn read_into(&self, address: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.confirmed(|memory| memory.read_into(address, buffer))
    }

    /// Reads, and makes sure that it was the caller's memory: the thread may have died and its id may be another's, so what
    /// was read counts only if the caller still waits.
    fn confirmed<T>(&self, read: impl FnOnce(&Memory) -> Result<T, Errno>) -> Result<T, Errno> {
        let read = read(&Memory(self.pid()))?;
        if self.reply.is_waiting() { Ok(read) } else { Err(Errno::ESRCH) }
    }

    /// Reads from the caller's memory, then fetches its descriptor `number`, which is also the proof that the memory was
    /// the caller's: one system call less than reading after it. What fails in the descriptor comes first, as in the kernel.
    pub fn descriptor_after<T>(
        &self,
        number: i32,
        read: impl FnOnce(&Memory) -> T,
    ) -> Result<(std::os::fd::OwnedFd, T), Errno> {
        let read = read(&Memory(self.pid()));
        self.descriptor(number).map(|fd| (fd, read))
    }

    /// Reads a native u32 (also int and socklen_t).
    pub fn read_u32(&self, address: u64) -> Result<u32, Errno> {
        self.confirmed(|memory| memory.read_u32(address))
    }

    /// Writes bytes into the caller's memory while it waits.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        write_to(self.thread, &self.reply, address, bytes)
    }

    /// A struct sockaddr argument: EINVAL for a bad length, EFAULT for a bad pointer.
    pub fn address(&self, pointer: u64, length: u64) -> Result<Address, Errno> {
        self.confirmed(|memory| memory.address(pointer, length))
    }

    /// Writes `bytes` as an address result: truncated to the program's length, the true length stored
    /// (move_addr_to_user). A null address pointer asks for nothing.
    pub fn write_address(&self, out: AddressOut, bytes: &[u8]) -> Result<(), Errno> {
        if out.address == 0 {
            return Ok(());
        }
        // The check that the caller still waits comes with the write.
        let mut room = AddressRoom::new(out);
        room.read(&Memory(self.pid()))?;
        self.write_name(&mut room, bytes)
    }

    /// As [`Notification::write_address`], for a length that was read already, and for the calls that are about nothing but
    /// the address: a null pointer is EFAULT there unless the length is 0.
    #[inline]
    pub fn write_name(&self, room: &mut AddressRoom, bytes: &[u8]) -> Result<(), Errno> {
        let pieces = room.filled(bytes)?;
        self.write_pieces(pieces)
    }

    /// Writes a received message and its source in one system call; see [`Notification::write_name`].
    #[inline]
    pub fn write_message(&self, at: u64, data: &[u8], room: &mut AddressRoom, name: &[u8]) -> Result<(), Errno> {
        if room.meets(at, data.len()) {
            // The kernel looks at the room after it has copied the data.
            self.write(at, data)?;
            return self.write_address(room.place(), name);
        }
        match room.filled(name) {
            Ok([name, length]) => self.write_pieces([(at, data), name, length]),
            // The kernel has copied the data by then.
            Err(e) => self.write(at, data).and(Err(e)),
        }
    }

    /// A few writes in one system call, and no memory asked for. EFAULT when not all could be written.
    fn write_pieces<const N: usize>(&self, pieces: [(u64, &[u8]); N]) -> Result<(), Errno> {
        self.write_vectors(&pieces.map(|(_, bytes)| IoSlice::new(bytes)), &pieces.map(|(at, bytes)| remote(at, bytes)))
    }

    /// As [`Notification::write_pieces`], for a number of pieces that the program chose, at most [`IOV_MAX`].
    fn write_many(&self, pieces: &[(u64, &[u8])]) -> Result<(), Errno> {
        let remote: Vec<_> = pieces.iter().map(|(at, bytes)| remote(*at, bytes)).collect();
        let local: Vec<_> = pieces.iter().map(|(_, bytes)| IoSlice::new(bytes)).collect();
        self.write_vectors(&local, &remote)
    }

    #[inline]
    fn write_vectors(&self, local: &[IoSlice<'_>], remote: &[RemoteIoVec]) -> Result<(), Errno> {
        let total: usize = local.iter().map(|bytes| bytes.len()).sum();
        if total == 0 {
            return Ok(());
        }
        if !self.reply.was_waiting() {
            return Err(Errno::ESRCH);
        }
        let n = process_vm_writev(self.pid(), local, remote)?;
        if n == total { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Reads a struct msghdr and its iovecs.
    pub fn message_header(&self, at: u64) -> Result<MessageHeader, Errno> {
        self.confirmed(|memory| memory.message_header(at))
    }

    /// The data of a message, at most `limit` bytes of it.
    pub fn gather(&self, slices: &[ForeignSlice], limit: usize) -> Result<Vec<u8>, Errno> {
        let mut wanted = 0;
        let mut remote = Vec::with_capacity(slices.len());
        for s in slices {
            let n = s.length.min(limit - wanted);
            if n > 0 {
                remote.push(RemoteIoVec { base: s.base as usize, len: n });
                wanted += n;
            }
        }
        let mut data = vec![0; wanted];
        if wanted > 0 {
            let n = process_vm_readv(self.pid(), &mut [IoSliceMut::new(&mut data)], &remote)?;
            if n != wanted {
                return Err(Errno::EFAULT);
            }
            if !self.reply.is_waiting() {
                return Err(Errno::ESRCH);
            }
        }
        Ok(data)
    }

    /// Whether the first `count` bytes of the slices can be written: what is read off a stream cannot be given back. One byte of
    /// each page is written as it is. EFAULT when they cannot.
    pub fn can_take(&self, slices: &[ForeignSlice], count: usize) -> Result<(), Errno> {
        let places = first_of_pages(slices, count);
        for some in places.chunks(IOV_MAX) {
            let remote: Vec<_> = some.iter().map(|base| RemoteIoVec { base: *base as usize, len: 1 }).collect();
            let mut bytes = vec![0; some.len()];
            let n = process_vm_readv(self.pid(), &mut [IoSliceMut::new(&mut bytes)], &remote)?;
            if n != bytes.len() {
                return Err(Errno::EFAULT);
            }
            self.write_vectors(&[IoSlice::new(&bytes)], &remote)?;
        }
        Ok(())
    }

    /// Spreads received data over the program's slices.
    pub fn scatter(&self, slices: &[ForeignSlice], data: &[u8]) -> Result<(), Errno> {
        if data.is_empty() {
            return Ok(());
        }
        if !self.reply.was_waiting() {
            return Err(Errno::ESRCH);
        }
        let remote: Vec<_> = slices.iter().map(|s| RemoteIoVec { base: s.base as usize, len: s.length }).collect();
        let n = process_vm_writev(self.pid(), &[IoSlice::new(data)], &remote)?;
        if n == data.len() { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Writes a received message, with the slices that take its data: the data, and what recvmsg(2) changes in a msghdr: the
    /// name, its length, control data, its length, flags. All in one system call; the last two only where they are others than before.
    /// Control data that cannot be written is left out, as the kernel does (put_cmsg).
    pub fn finish_message(
        &self,
        header: &MessageHeader,
        data: (&[ForeignSlice], &[u8]),
        name: &[u8],
        control: &[u8],
        flags: i32,
    ) -> Result<(), Errno> {
        match self.write_result(header, data, name, control, flags) {
            Err(Errno::EFAULT) if !control.is_empty() && self.write(header.control, control).is_err() => {
                self.write_result(header, data, name, &[], flags)
            }
            result => result,
        }
    }

    fn write_result(
        &self,
        header: &MessageHeader,
        (slices, data): (&[ForeignSlice], &[u8]),
        name: &[u8],
        control: &[u8],
        flags: i32,
    ) -> Result<(), Errno> {
        let name_length = (name.len() as u32).to_ne_bytes();
        let named: [(u64, &[u8]); 2] = match header.name {
            0 => [(0, &[]); 2],
            at => {
                let name = &name[..name.len().min(header.name_length as usize)];
                [(at, name), (header.at + OFFSET_NAMELEN, &name_length)]
            }
        };
        // msg_flags comes right after msg_controllen.
        let mut end = [0; (OFFSET_FLAGS - OFFSET_CONTROLLEN) as usize + 4];
        let (length, after) = end.split_at_mut((OFFSET_FLAGS - OFFSET_CONTROLLEN) as usize);
        length.copy_from_slice(&(control.len() as u64).to_ne_bytes());
        after.copy_from_slice(&flags.to_ne_bytes());
        let [name, name_length] = named;
        // One of its fields is written in any case: a header that cannot be is EFAULT.
        let as_before = (header.control_length, header.flags) == (control.len(), flags);
        let end = if as_before && header.name != 0 { &[] } else { &end[..] };
        let [control, end] = [(header.control, control), (header.at + OFFSET_CONTROLLEN, end)];
        if let [slice, ..] = slices
            && slice.length >= data.len()
        {
            return self.write_pieces([(slice.base, data), name, name_length, control, end]);
        }
        let mut pieces = Vec::with_capacity(slices.len().min(IOV_MAX) + 4);
        let mut rest = data;
        for slice in slices {
            if rest.is_empty() {
                break;
            }
            let (piece, behind) = rest.split_at(slice.length.min(rest.len()));
            pieces.push((slice.base, piece));
            rest = behind;
        }
        pieces.extend([name, name_length, control, end]);
        pieces.chunks(IOV_MAX).try_for_each(|some| self.write_many(some))
    }
}

/// The first byte in each page of what `count` bytes fill of the slices.
fn first_of_pages(slices: &[ForeignSlice], count: usize) -> Vec<u64> {
    /// Pages are this large or larger.
    const PAGE: u64 = 4096;
    let mut places = Vec::new();
    let mut left = count;
    for slice in slices {
        let length = slice.length.min(left);
        left -= length;
        let end = slice.base.saturating_add(length as u64);
        let mut at = slice.base;
        while at < end {
            places.push(at);
            at = (at | (PAGE - 1)).saturating_add(1);
        }
    }
    places
}

/// Writes bytes into the memory of `thread` while the call behind `reply` waits.
pub fn write_to(thread: u32, reply: &Reply, address: u64, bytes: &[u8]) -> Result<(), Errno> {
    if bytes.is_empty() {
        return Ok(());
    }
    if !reply.was_waiting() {
        return Err(Errno::ESRCH);
    }
    let remote = [RemoteIoVec { base: address as usize, len: bytes.len() }];
    let n = process_vm_writev(Pid::from_raw(thread as i32), &[IoSlice::new(bytes)], &remote)?;
    if n == bytes.len() { Ok(()) } else { Err(Errno::EFAULT) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_of_a_buffer_is_looked_at_once() {
        let slice = |base, length| ForeignSlice { base, length };
        assert_eq!(first_of_pages(&[slice(100, 10)], 10), [100]);
        assert_eq!(first_of_pages(&[slice(4000, 5000)], 9000), [4000, 4096, 8192]);
        assert_eq!(first_of_pages(&[slice(4000, 5000)], 96), [4000]);
        assert_eq!(first_of_pages(&[slice(4000, 5000)], 97), [4000, 4096]);
        assert_eq!(first_of_pages(&[slice(8, 2), slice(0, 0), slice(8192, 4096)], 3), [8, 8192]);
        assert_eq!(first_of_pages(&[slice(u64::MAX - 10, 100)], 100), [u64::MAX - 10]);
        assert!(first_of_pages(&[slice(8, 2)], 0).is_empty());
    }

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in ["198.18.0.9:7000", "[2001:2::7]:53", "[::ffff:127.64.0.1]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(Address::parse(&sockaddr_bytes(&address)), Address::Inet(address));
        }
    }

    /// This process's own memory.
    fn own() -> Memory {
        Memory(Pid::this())
    }

    #[test]
    fn an_address_and_its_data_are_read_together_or_not_at_all() {
        let (name, text) = ([2u8, 0, 0, 80, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], *b"hello");
        let (mut storage, mut data) = ([0; STORAGE], [0; 5]);
        let at = |p: &[u8]| p.as_ptr() as u64;
        let read = own().name_and_data((at(&name), 16), &mut storage, (at(&text), &mut data)).unwrap();
        assert_eq!(Address::parse(read), Address::Inet("127.0.0.1:80".parse().unwrap()));
        assert_eq!(data, text);
        let mut again = |length, data_at| {
            own().name_and_data((at(&name), length), &mut [0; STORAGE], (data_at, &mut data)).map(<[u8]>::len)
        };
        assert_eq!(again(16, 0), Err(Errno::EFAULT));
        assert_eq!(again(129, at(&text)), Err(Errno::EINVAL));
        assert_eq!(again(u64::from(u32::MAX), at(&text)), Err(Errno::EINVAL));
        // An int: the upper half of the register means nothing.
        assert_eq!(again(1 << 32 | 16, at(&text)), Ok(16));
        // Nothing to read is nothing bad, wherever it is.
        assert_eq!(own().name_and_data((0, 0), &mut [0; STORAGE], (0, &mut [])), Ok(&[][..]));
    }

    #[test]
    fn what_lies_near_is_read_as_one_piece() {
        let text: Vec<u8> = (0..2000).map(|i| (i % 251) as u8).collect();
        let base = text.as_ptr() as u64;
        for (one, two) in [(0, 100), (700, 60), (60, 60), (0, 56), (0, 500), (0, 1900), (1900, 3)] {
            let (mut a, mut b) = ([0; 56], [0; 16]);
            own().read_near((base + one, &mut a), (base + two, &mut b)).unwrap();
            assert_eq!(a, text[one as usize..][..56], "{one} {two}");
            assert_eq!(b, text[two as usize..][..16], "{one} {two}");
        }
        let mut a = [0; 56];
        assert_eq!(own().read_near((base, &mut a), (0, &mut [])), Ok(()));
        assert_eq!(own().read_near((0, &mut a), (100, &mut [0; 16])), Err(Errno::EFAULT));
        assert_eq!(own().read_near((u64::MAX - 8, &mut a), (u64::MAX - 90, &mut [0; 16])), Err(Errno::EFAULT));
    }

    #[test]
    fn short_and_foreign_addresses_are_named() {
        assert_eq!(Address::parse(&[]), Address::Other { family: 0, length: 0 });
        assert_eq!(Address::parse(&[0, 0]), Address::Unspecified(None));
        assert_eq!(Address::parse(&[2, 0, 1]), Address::Other { family: 2, length: 3 });
        assert_eq!(Address::parse(&[10, 0, 0, 0, 0, 0, 0, 0]), Address::Other { family: 10, length: 8 });
        assert_eq!(Address::parse(&[1, 0, b'/', b'x']), Address::Unix(b"/x".to_vec()));
        assert_eq!(Address::parse(&[16, 0, 0, 0]), Address::Other { family: 16, length: 4 });
    }
}
