//! GRUUs (RFC 5627): URIs that lead to one instance of an address of record. The public one names the instance; the temporary ones hide who
//! it is, and are made and read without any memory: a sealed handle (RFC 5627 appendix A).

use crate::auth::hmac;
use crate::message::Uri;
use crate::random;

/// What the user part of a temporary GRUU begins with.
const PREFIX: &str = "tgruu.";
/// Bytes of the number that is used once, of the handle, and of the seal.
const PART: usize = 8;

/// Makes temporary GRUUs and reads them.
pub(super) struct Mint {
    key: [u8; 32],
}

impl Mint {
    pub fn new(key: [u8; 32]) -> Self {
        Mint { key }
    }

    /// The user part of a new temporary GRUU: no two look alike.
    pub fn make(&self, handle: u64) -> String {
        let nonce = random::number().to_be_bytes();
        let hidden = (handle ^ self.pad(&nonce)).to_be_bytes();
        let hex = |bytes: [u8; PART]| bytes.map(|byte| format!("{byte:02x}")).concat();
        format!("{PREFIX}{}{}{}", hex(nonce), hex(hidden), hex(self.seal(&nonce, &hidden)))
    }

    /// The handle in a user part that was made here.
    pub fn read(&self, user: &str) -> Option<u64> {
        let parts = user.strip_prefix(PREFIX)?.as_bytes();
        let [nonce, hidden, seal]: [[u8; PART]; 3] = [0, 1, 2].map(|part| number(parts, part)).map(u64::to_be_bytes);
        let right = parts.len() == 3 * 2 * PART && seal == self.seal(&nonce, &hidden);
        right.then(|| u64::from_be_bytes(hidden) ^ self.pad(&nonce))
    }

    fn pad(&self, nonce: &[u8; PART]) -> u64 {
        u64::from_be_bytes(self.derive(&[b"pad", nonce.as_slice()]))
    }

    fn seal(&self, nonce: &[u8; PART], hidden: &[u8; PART]) -> [u8; PART] {
        self.derive(&[b"seal", nonce.as_slice(), hidden])
    }

    fn derive(&self, what: &[&[u8]]) -> [u8; PART] {
        let mac = hmac(&self.key, &what.concat());
        std::array::from_fn(|i| mac.get(i).copied().unwrap_or_default())
    }
}

/// One hexadecimal number of the three; 0 where there is none, which no seal fits.
fn number(parts: &[u8], index: usize) -> u64 {
    let digits =
        parts.get(index * 2 * PART..(index + 1) * 2 * PART).and_then(|digits| std::str::from_utf8(digits).ok());
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default()
}

/// The public GRUU of an instance, which is `<URN>` as `+sip.instance` has it (RFC 5627 5.1).
pub(super) fn public(record: &Uri, instance: &str) -> Option<Uri> {
    record.aor().with_param("gr", Some(urn(instance)?)).ok()
}

/// The instance that a public GRUU names.
pub(super) fn instance_of(gruu: &Uri) -> Option<String> {
    gruu.param("gr").filter(|urn| !urn.is_empty()).map(|urn| format!("<{urn}>"))
}

fn urn(instance: &str) -> Option<&str> {
    instance.strip_prefix('<')?.strip_suffix('>')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_gruu_hides_its_handle() {
        let mint = Mint::new([7; 32]);
        let (one, other) = (mint.make(42), mint.make(42));
        assert_ne!(one, other);
        assert_eq!((mint.read(&one), mint.read(&other)), (Some(42), Some(42)));
        assert_eq!(Mint::new([8; 32]).read(&one), None);
        for at in PREFIX.len()..one.len() {
            let mut forged = one.clone().into_bytes();
            forged[at] = if forged[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(mint.read(std::str::from_utf8(&forged).unwrap()), None);
        }
        for wrong in ["bob", "tgruu.", "tgruu.00", &one[..one.len() - 1], &format!("{one}0")] {
            assert_eq!(mint.read(wrong), None);
        }
    }

    #[test]
    fn a_public_gruu_names_its_instance() {
        let record: Uri = "sip:bob@sipbox.invalid;transport=tcp".parse().unwrap();
        let gruu = public(&record, "<urn:uuid:1>").unwrap();
        assert_eq!(gruu.as_str(), "sip:bob@sipbox.invalid;gr=urn:uuid:1");
        assert_eq!(instance_of(&gruu).as_deref(), Some("<urn:uuid:1>"));
        assert_eq!(public(&record, "no URN"), None);
    }
}
