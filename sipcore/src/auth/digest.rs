//! The digest itself, RFC 7616 section 3.4.

use std::fmt::{self, Write as _};

use md5::Md5;
use sha2::{Digest as _, Sha256, Sha512_256};

/// Hash of a challenge, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// `MD5`, also when the challenge names none.
    Md5,
    /// `SHA-256`
    Sha256,
    /// `SHA-512-256`
    Sha512_256,
}

impl Algorithm {
    /// As it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Md5 => "MD5",
            Algorithm::Sha256 => "SHA-256",
            Algorithm::Sha512_256 => "SHA-512-256",
        }
    }

    /// `None` for one that is not known here.
    pub fn parse(text: &str) -> Option<Algorithm> {
        [Algorithm::Md5, Algorithm::Sha256, Algorithm::Sha512_256]
            .into_iter()
            .find(|a| a.as_str().eq_ignore_ascii_case(text))
    }

    /// The hash of the parts joined by colons, in hexadecimal.
    pub(super) fn hash(self, parts: &[&[u8]]) -> String {
        let bytes = parts.join(&b':');
        match self {
            Algorithm::Md5 => hex(&Md5::digest(bytes)),
            Algorithm::Sha256 => hex(&Sha256::digest(bytes)),
            Algorithm::Sha512_256 => hex(&Sha512_256::digest(bytes)),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the digest protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qop {
    /// Method and URI.
    Auth,
    /// The body too.
    AuthInt,
}

impl Qop {
    /// As it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Qop::Auth => "auth",
            Qop::AuthInt => "auth-int",
        }
    }
}

/// The secret of a user.
#[derive(Clone, Copy)]
pub enum Secret<'a> {
    /// The password.
    Password(&'a str),
    /// What [`ha1`] made of it, for the algorithm, the name and the realm in question.
    Hash(&'a str),
}

/// The hash of user name, realm and password (H(A1), RFC 7616 section 3.4.2): enough to check an answer, and no password.
pub fn ha1(algorithm: Algorithm, username: &str, realm: &str, password: &str) -> String {
    algorithm.hash(&[username.as_bytes(), realm.as_bytes(), password.as_bytes()])
}

/// Everything that goes into the response to a challenge.
#[derive(Clone, Copy)]
pub struct Digest<'a> {
    /// The hash.
    pub algorithm: Algorithm,
    /// Who.
    pub username: &'a str,
    /// Where.
    pub realm: &'a str,
    /// What only the two sides know.
    pub secret: Secret<'a>,
    /// The server's nonce.
    pub nonce: &'a str,
    /// Method of the request.
    pub method: &'a str,
    /// The `uri` of the header, as it stands there.
    pub uri: &'a str,
    /// Protection with the client's nonce and the count of uses; `None` is the form of RFC 2069.
    pub qop: Option<(Qop, &'a str, u32)>,
    /// The body, for `auth-int`.
    pub body: &'a [u8],
}

impl Digest<'_> {
    /// `response`, in lower case hexadecimal.
    pub fn response(&self) -> String {
        let h = self.algorithm;
        let a1 = match self.secret {
            Secret::Password(password) => ha1(h, self.username, self.realm, password),
            Secret::Hash(a1) => a1.to_owned(),
        };
        let (method, uri) = (self.method.as_bytes(), self.uri.as_bytes());
        let a2 = match self.qop {
            Some((Qop::AuthInt, ..)) => h.hash(&[method, uri, h.hash(&[self.body]).as_bytes()]),
            _ => h.hash(&[method, uri]),
        };
        match self.qop {
            Some((qop, cnonce, nc)) => h.hash(&[
                a1.as_bytes(),
                self.nonce.as_bytes(),
                format!("{nc:08x}").as_bytes(),
                cnonce.as_bytes(),
                qop.as_str().as_bytes(),
                a2.as_bytes(),
            ]),
            None => h.hash(&[a1.as_bytes(), self.nonce.as_bytes(), a2.as_bytes()]),
        }
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        // Writing to a String does not fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// HMAC with SHA-256, RFC 2104, for keys of up to one block.
pub(crate) fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let mut pads = ([0x36u8; 64], [0x5cu8; 64]);
    for (i, k) in key.iter().enumerate() {
        if let (Some(inner), Some(outer)) = (pads.0.get_mut(i), pads.1.get_mut(i)) {
            *inner ^= k;
            *outer ^= k;
        }
    }
    let inner = Sha256::new().chain_update(pads.0).chain_update(message).finalize();
    Sha256::new().chain_update(pads.1).chain_update(inner).finalize().into()
}

/// Equality in a time that does not tell where the difference is.
pub(super) fn same_secret(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |d, (a, b)| d | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mufasa(algorithm: Algorithm) -> Digest<'static> {
        Digest {
            algorithm,
            username: "Mufasa",
            realm: "http-auth@example.org",
            secret: Secret::Password("Circle of Life"),
            nonce: "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
            method: "GET",
            uri: "/dir/index.html",
            qop: Some((Qop::Auth, "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", 1)),
            body: b"",
        }
    }

    #[test]
    fn rfc_7616_3_9_1() {
        assert_eq!(mufasa(Algorithm::Md5).response(), "8ca523f5e9506fed4657c9700eebdbec");
        assert_eq!(
            mufasa(Algorithm::Sha256).response(),
            "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"
        );
    }

    /// RFC 7616 section 3.9.2 with the response of erratum 4897, whose user name stands in the clear.
    #[test]
    fn sha_512_256() {
        let digest = Digest {
            algorithm: Algorithm::Sha512_256,
            username: "J\u{e4}s\u{f8}n Doe",
            realm: "api@example.org",
            secret: Secret::Password("Secret, or not?"),
            nonce: "5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK",
            method: "GET",
            uri: "/doe.json",
            qop: Some((Qop::Auth, "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v", 1)),
            body: b"",
        };
        assert_eq!(digest.response(), "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5");
    }

    #[test]
    fn rfc_2617_3_5_and_without_qop() {
        let digest = Digest {
            realm: "testrealm@host.com",
            secret: Secret::Password("Circle Of Life"),
            nonce: "dcd98b7102dd2f0e8b11d0f600bfb0c093",
            qop: Some((Qop::Auth, "0a4f113b", 1)),
            ..mufasa(Algorithm::Md5)
        };
        assert_eq!(digest.response(), "6629fae49393a05397450978507c4ef1");
        assert_eq!(Digest { qop: None, ..digest }.response(), "670fd8c2df070c60b045671b8b24ff02");
    }

    /// The body goes in (RFC 7616 section 3.4.3), as Python's hashlib computes it.
    #[test]
    fn auth_int() {
        let (_, cnonce, count) = mufasa(Algorithm::Md5).qop.unwrap();
        let whole = |h| Digest { qop: Some((Qop::AuthInt, cnonce, count)), body: b"v=0\r\n", ..mufasa(h) }.response();
        assert_eq!(whole(Algorithm::Md5), "d1b8e2ac3f6782372de4bf3d8735b406");
        assert_eq!(whole(Algorithm::Sha256), "385d2de062660ced11876f42d9497c69cacf5caaf3d951dd424aee9f7157d563");
    }

    /// RFC 4231 section 4.3, whose key is padded to one block by HMAC itself.
    #[test]
    fn hmac_of_rfc_4231() {
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        let mac = hmac(&key, b"what do ya want for nothing?");
        assert_eq!(hex(&mac), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
