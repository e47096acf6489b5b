//! Whether two ends are on one machine, without telling anybody which.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use super::SdpError;

/// Bytes of the number that is used once.
const NONCE: usize = 16;

/// `NONCE:HASH`, both hexadecimal: the hash is SHA-256 of the nonce and of what only this machine's processes know. Who is on
/// the same machine can tell, who is not learns nothing, and two of them from one machine are not alike.
#[derive(Clone, PartialEq, Eq)]
pub struct Machine {
    nonce: [u8; NONCE],
    hash: [u8; 32],
}

impl Machine {
    /// A fresh one, of the machine where `secret` is known.
    pub fn new(secret: &[u8]) -> Machine {
        let mut nonce = [0; NONCE];
        for part in nonce.chunks_mut(8) {
            part.copy_from_slice(&crate::random::number().to_be_bytes()[..part.len()]);
        }
        Machine { hash: hash(&nonce, secret), nonce }
    }

    /// Whether it was made where `secret` is known.
    pub fn is_of(&self, secret: &[u8]) -> bool {
        self.hash == hash(&self.nonce, secret)
    }
}

fn hash(nonce: &[u8], secret: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(nonce).chain_update(secret).finalize().into()
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.nonce.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(":")?;
        self.hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Machine {
    type Err = SdpError;

    fn from_str(text: &str) -> Result<Self, SdpError> {
        const WRONG: SdpError = SdpError::Sipbox("machine is NONCE:HASH");
        let (nonce, hash) = text.split_once(':').ok_or(WRONG)?;
        let mut machine = Machine { nonce: [0; NONCE], hash: [0; 32] };
        for (text, out) in [(nonce, &mut machine.nonce[..]), (hash, &mut machine.hash[..])] {
            if !text.is_ascii() || text.len() != out.len() * 2 {
                return Err(WRONG);
            }
            for (i, byte) in out.iter_mut().enumerate() {
                *byte = u8::from_str_radix(&text[i * 2..i * 2 + 2], 16).map_err(|_| WRONG)?;
            }
        }
        Ok(machine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_by_those_who_are_there() {
        let machine = Machine::new(b"here");
        let read: Machine = machine.to_string().parse().unwrap();
        assert_eq!(read, machine);
        assert!(read.is_of(b"here") && !read.is_of(b"there"));
        assert_ne!(Machine::new(b"here"), machine);
        for bad in ["", ":", "00:00", "zz", &machine.to_string()[1..]] {
            assert!(bad.parse::<Machine>().is_err(), "{bad}");
        }
    }
}
