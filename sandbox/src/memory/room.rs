//! Where the program wants an address written: a struct sockaddr and its socklen_t, as recvfrom(2), accept(2) and getsockname(2) take them.

use nix::errno::Errno;

use super::{Memory, STORAGE};

/// Where the program wants an address written: a pointer and a pointer to its socklen_t. Either may be null.
#[derive(Debug, Clone, Copy)]
pub struct AddressOut {
    /// struct sockaddr *.
    pub address: u64,
    /// socklen_t *.
    pub length: u64,
}

/// sizeof(socklen_t).
const LENGTH: usize = 4;

/// The program's room for an address, of which its socklen_t was read, once.
///
/// Where that lies right behind the room (programs keep both in one struct) they are read, and written, as one piece: each piece costs as
/// much as another system call. What the name does not fill of the room is then written as it was: it is not to be used where data was
/// written there in between ([`AddressRoom::meets`]). What another thread of the program writes to that room during the call is lost, as a
/// name that is longer would overwrite it.
pub struct AddressRoom {
    out: AddressOut,
    /// What the socklen_t says.
    given: u32,
    /// The socklen_t lies right behind the room, and `bytes` are both.
    is_one: bool,
    bytes: [u8; STORAGE + LENGTH],
}

impl AddressRoom {
    /// The room at `out`, to be read.
    #[inline]
    pub fn new(out: AddressOut) -> AddressRoom {
        AddressRoom { out, given: 0, is_one: false, bytes: [0; STORAGE + LENGTH] }
    }

    /// Reads how large it is.
    ///
    /// # Errors
    /// EFAULT for a bad pointer.
    #[inline]
    pub fn read(&mut self, memory: &Memory) -> Result<(), Errno> {
        let AddressOut { address, length } = self.out;
        let size = usize::try_from(length.wrapping_sub(address)).unwrap_or(usize::MAX);
        if (1..=STORAGE).contains(&size) && address != 0 {
            let both = &mut self.bytes[..size + LENGTH];
            if memory.read_into(address, both).is_ok()
                && let Some(given) = both.last_chunk()
            {
                self.given = u32::from_ne_bytes(*given);
                self.is_one = self.given as usize == size;
                return Ok(());
            }
        }
        self.given = memory.read_u32(length)?;
        Ok(())
    }

    /// Whether data of this length at `at` lies in the room or on its length.
    #[inline]
    pub(super) fn meets(&self, at: u64, length: usize) -> bool {
        let AddressOut { address, length: at_length } = self.out;
        // No name is longer.
        let room = (self.given as usize).min(STORAGE);
        let end = at.saturating_add(length as u64);
        let meets = |base: u64, size: usize| at < base.saturating_add(size as u64) && base < end;
        length > 0 && (meets(address, room) || meets(at_length, LENGTH))
    }

    /// Where it is, to be read again.
    pub(super) fn place(&self) -> AddressOut {
        self.out
    }

    /// What move_addr_to_user writes: the name, cut to the room, and the true length where that is another. EINVAL for a negative length.
    #[inline]
    pub(super) fn filled<'a>(&'a mut self, name: &'a [u8]) -> Result<[(u64, &'a [u8]); 2], Errno> {
        let given = usize::try_from(self.given as i32).map_err(|_| Errno::EINVAL)?;
        let AddressOut { address, length } = self.out;
        let cut = &name[..given.min(name.len())];
        if given == name.len() {
            return Ok([(address, cut), (length, &[])]);
        }
        let true_length = (name.len() as u32).to_ne_bytes();
        if self.is_one {
            self.bytes[..cut.len()].copy_from_slice(cut);
            self.bytes[given..given + LENGTH].copy_from_slice(&true_length);
            return Ok([(address, &self.bytes[..given + LENGTH]), (0, &[])]);
        }
        self.bytes[..LENGTH].copy_from_slice(&true_length);
        Ok([(address, cut), (length, &self.bytes[..LENGTH])])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Memory {
        Memory(nix::unistd::Pid::this())
    }

    /// The pieces for a name of 16 bytes, where the socklen_t at `memory[at..]` is `given`, and the room is at the beginning.
    fn pieces(memory: &mut [u8], at: usize, given: i32) -> Result<Vec<(usize, Vec<u8>)>, Errno> {
        memory[at..at + LENGTH].copy_from_slice(&given.to_ne_bytes());
        let base = memory.as_ptr() as u64;
        let mut room = AddressRoom::new(AddressOut { address: base, length: base + at as u64 });
        room.read(&own())?;
        let pieces = room.filled(&[7; 16])?;
        let written = pieces.into_iter().filter(|(_, bytes)| !bytes.is_empty());
        Ok(written.map(|(at, bytes)| ((at - base) as usize, bytes.to_vec())).collect())
    }

    #[test]
    fn a_name_is_cut_to_the_programs_length() {
        let mut memory = [9; 400];
        let (name, length) = (vec![7; 16], 16u32.to_ne_bytes().to_vec());
        let mut far = |given| pieces(&mut memory, 200, given);
        assert_eq!(far(16), Ok(vec![(0, name.clone())]));
        assert_eq!(far(5), Ok(vec![(0, vec![7; 5]), (200, length.clone())]));
        assert_eq!(far(128), Ok(vec![(0, name.clone()), (200, length.clone())]));
        assert_eq!(far(1000), Ok(vec![(0, name), (200, length.clone())]));
        assert_eq!(far(0), Ok(vec![(200, length)]));
        assert_eq!(far(-1), Err(Errno::EINVAL));
    }

    #[test]
    fn a_length_behind_the_room_is_one_piece_with_it() {
        let mut memory = [9; 400];
        let length = 16u32.to_ne_bytes();
        let whole = |name: usize, room: usize| vec![(0, [&vec![7; name][..], &vec![9; room - name], &length].concat())];
        assert_eq!(pieces(&mut memory, 128, 128), Ok(whole(16, 128)));
        memory.fill(9);
        assert_eq!(pieces(&mut memory, 28, 28), Ok(whole(16, 28)));
        memory.fill(9);
        assert_eq!(pieces(&mut memory, 4, 4), Ok(whole(4, 4)));
        memory.fill(9);
        // Exactly as long: nothing but the name.
        assert_eq!(pieces(&mut memory, 16, 16), Ok(vec![(0, vec![7; 16])]));
        // Something else of the program's is between them, or the room is said to be larger than it can be.
        for given in [124, 120, 132] {
            memory.fill(9);
            assert_eq!(pieces(&mut memory, 128, given), Ok(vec![(0, vec![7; 16]), (128, length.to_vec())]), "{given}");
        }
    }

    #[test]
    fn data_in_the_room_is_noticed() {
        let meets = |given, behind: u64, from: i64, length| {
            let out = AddressOut { address: 1000, length: 1000 + behind };
            AddressRoom { given, ..AddressRoom::new(out) }.meets(1000u64.wrapping_add_signed(from), length)
        };
        // As one piece with its length.
        for (from, length, expected) in [
            (-10, 10, false),
            (-10, 11, true),
            (16, 4, true),
            (16, 0, false),
            (127, 1, true),
            (131, 1, true),
            (132, 9, false),
            (-10, 1000, true),
        ] {
            assert_eq!(meets(128, 128, from, length), expected, "{length} bytes at {from}");
        }
        // The length is elsewhere.
        assert!(!meets(16, 200, 16, 184) && meets(16, 200, 16, 185) && meets(16, 200, 203, 1));
        assert!(!meets(u32::MAX, 500, 128, 9) && meets(u32::MAX, 500, 127, 1));
        let at_the_end = AddressRoom { given: 16, ..AddressRoom::new(AddressOut { address: u64::MAX - 4, length: 0 }) };
        assert!(at_the_end.meets(u64::MAX - 8, usize::MAX) && !at_the_end.meets(100, 100));
    }

    #[test]
    fn bad_pointers() {
        let read = |address, length| AddressRoom::new(AddressOut { address, length }).read(&own());
        let word = 16u32;
        let at = &raw const word as u64;
        assert_eq!(read(0, 0), Err(Errno::EFAULT));
        assert_eq!(read(0, 100), Err(Errno::EFAULT));
        assert_eq!(read(at, 0), Err(Errno::EFAULT));
        assert_eq!(read(u64::MAX - 8, 8), Err(Errno::EFAULT));
        // The room is not looked at where only the length can be read.
        assert_eq!(read(0, at), Ok(()));
        assert_eq!(read(at, at), Ok(()));
    }
}
