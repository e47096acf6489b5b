//! The cryptography of DTLS 1.2 (RFC 6347), by ring: the one provider of the whole tree.
//!
//! No DTLS 1.3: its record numbers want AES on one block, which ring does not offer, and ChaCha20 alone would be slow where the processor
//! has AES. Every WebRTC peer speaks 1.2 (RFC 8827 section 6.5).

use std::fmt;

use dimpl::crypto::{
    Aad, ActiveKeyExchange, Buf, Cipher, CryptoProvider, Dtls12CipherSuite, Dtls13CipherSuite, HashAlgorithm,
    HashContext, HashProvider, HmacProvider, KeyProvider, NamedGroup, Nonce, SecureRandom, SignatureAlgorithm,
    SignatureVerifier, SigningKey, SupportedDtls12CipherSuite, SupportedDtls13CipherSuite, SupportedKxGroup, TmpBuf,
    check_verify_scheme,
};
use dimpl::{CryptoError, CryptoOperation};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use ring::{aead, agreement, digest, hmac};
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use webpki::ring::{ECDSA_P256_SHA256, ECDSA_P256_SHA384, ECDSA_P384_SHA256, ECDSA_P384_SHA384};

static GROUPS: [&dyn SupportedKxGroup; 3] = [&X25519, &P256, &P384];
/// AES-128 first: it is the fastest where the processor has it.
static SUITES: [&dyn SupportedDtls12CipherSuite; 3] = [&AES_128, &AES_256, &CHACHA20];

/// dimpl takes no provider without one; nobody is offered it.
static DTLS13: [&dyn SupportedDtls13CipherSuite; 1] = [&CHACHA20];

/// For [`dimpl::Config`].
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: &GROUPS,
        signature_verification: &Verifier,
        key_provider: &Keys,
        secure_random: &Random,
        hash_provider: &Hashes,
        hmac_provider: &Hmac,
        cipher_suites: &SUITES,
        dtls13_cipher_suites: &DTLS13,
    }
}

fn failed(what: CryptoOperation) -> CryptoError {
    CryptoError::OperationFailed(what)
}

/// Debug of a value that holds a secret.
macro_rules! opaque {
    ($($name:ident),*) => {
        $(impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        })*
    };
}

opaque!(Sealing, Exchange, Hashing, Key);

/// A cipher suite: its code, its hash, its cipher, and how its nonces are made.
#[derive(Debug)]
struct Suite {
    code: Dtls12CipherSuite,
    hash: HashAlgorithm,
    cipher: &'static aead::Algorithm,
    fixed_iv: usize,
    explicit_nonce: usize,
}

/// GCM has half of its nonce in the record (RFC 5288 section 3).
const fn gcm(code: Dtls12CipherSuite, hash: HashAlgorithm, cipher: &'static aead::Algorithm) -> Suite {
    Suite { code, hash, cipher, fixed_iv: 4, explicit_nonce: 8 }
}

static AES_128: Suite =
    gcm(Dtls12CipherSuite::ECDHE_ECDSA_AES128_GCM_SHA256, HashAlgorithm::SHA256, &aead::AES_128_GCM);
static AES_256: Suite =
    gcm(Dtls12CipherSuite::ECDHE_ECDSA_AES256_GCM_SHA384, HashAlgorithm::SHA384, &aead::AES_256_GCM);
/// RFC 7905.
static CHACHA20: Suite = Suite {
    code: Dtls12CipherSuite::ECDHE_ECDSA_CHACHA20_POLY1305_SHA256,
    hash: HashAlgorithm::SHA256,
    cipher: &aead::CHACHA20_POLY1305,
    fixed_iv: 12,
    explicit_nonce: 0,
};

impl SupportedDtls12CipherSuite for Suite {
    fn suite(&self) -> Dtls12CipherSuite {
        self.code
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        self.hash
    }

    fn key_lengths(&self) -> (usize, usize, usize) {
        (0, self.cipher.key_len(), self.fixed_iv)
    }

    fn explicit_nonce_len(&self) -> usize {
        self.explicit_nonce
    }

    fn tag_len(&self) -> usize {
        self.cipher.tag_len()
    }

    fn create_cipher(&self, key: &[u8]) -> Result<Box<dyn Cipher>, CryptoError> {
        let key = aead::UnboundKey::new(self.cipher, key).map_err(|_| failed(CryptoOperation::CreateCipher))?;
        Ok(Box::new(Sealing(aead::LessSafeKey::new(key))))
    }
}

impl SupportedDtls13CipherSuite for Suite {
    fn suite(&self) -> Dtls13CipherSuite {
        Dtls13CipherSuite::CHACHA20_POLY1305_SHA256
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        self.hash
    }

    fn key_len(&self) -> usize {
        self.cipher.key_len()
    }

    fn iv_len(&self) -> usize {
        self.fixed_iv
    }

    fn tag_len(&self) -> usize {
        self.cipher.tag_len()
    }

    fn create_cipher(&self, key: &[u8]) -> Result<Box<dyn Cipher>, CryptoError> {
        SupportedDtls12CipherSuite::create_cipher(self, key)
    }

    /// The first five bytes, of which a record number has two at most (RFC 9147 section 4.2.3).
    fn encrypt_sn(&self, key: &[u8], sample: &[u8; 16]) -> [u8; 16] {
        let mut mask = [0; 16];
        let key = aead::quic::HeaderProtectionKey::new(&aead::quic::CHACHA20, key);
        if let Ok(made) = key.and_then(|key| key.new_mask(sample)) {
            mask[..made.len()].copy_from_slice(&made);
        }
        mask
    }
}

struct Sealing(aead::LessSafeKey);

fn nonce(nonce: &Nonce) -> Result<aead::Nonce, CryptoError> {
    aead::Nonce::try_assume_unique_for_key(nonce).map_err(|_| CryptoError::InvalidNonce)
}

impl Cipher for Sealing {
    fn encrypt(&mut self, plaintext: &mut Buf, aad: Aad, number: Nonce) -> Result<(), CryptoError> {
        let sealed = self.0.seal_in_place_append_tag(nonce(&number)?, aead::Aad::from(&aad[..]), plaintext);
        sealed.map_err(|_| failed(CryptoOperation::Encrypt))
    }

    fn decrypt(&mut self, ciphertext: &mut TmpBuf<'_>, aad: Aad, number: Nonce) -> Result<(), CryptoError> {
        let opened = self.0.open_in_place(nonce(&number)?, aead::Aad::from(&aad[..]), ciphertext.as_mut());
        let length = opened.map_err(|_| failed(CryptoOperation::Decrypt))?.len();
        ciphertext.truncate(length);
        Ok(())
    }
}

/// A group of ECDHE.
#[derive(Debug)]
struct Group(NamedGroup, &'static agreement::Algorithm);

static X25519: Group = Group(NamedGroup::X25519, &agreement::X25519);
static P256: Group = Group(NamedGroup::Secp256r1, &agreement::ECDH_P256);
static P384: Group = Group(NamedGroup::Secp384r1, &agreement::ECDH_P384);

impl SupportedKxGroup for Group {
    fn name(&self) -> NamedGroup {
        self.0
    }

    fn start_exchange(&self, mut public: Buf) -> Result<Box<dyn ActiveKeyExchange>, CryptoError> {
        let private = agreement::EphemeralPrivateKey::generate(self.1, &SystemRandom::new())
            .map_err(|_| failed(CryptoOperation::GenerateEphemeralKey))?;
        let computed = private.compute_public_key().map_err(|_| failed(CryptoOperation::ComputePublicKey))?;
        public.clear();
        public.extend_from_slice(computed.as_ref());
        Ok(Box::new(Exchange { group: self.0, private, public }))
    }
}

struct Exchange {
    group: NamedGroup,
    private: agreement::EphemeralPrivateKey,
    public: Buf,
}

impl ActiveKeyExchange for Exchange {
    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn complete(self: Box<Self>, peer: &[u8], out: &mut Buf) -> Result<(), CryptoError> {
        let peer = agreement::UnparsedPublicKey::new(self.private.algorithm(), peer);
        let agreed = agreement::agree_ephemeral(self.private, &peer, |secret| {
            out.clear();
            out.extend_from_slice(secret);
        });
        agreed.map_err(|_| CryptoError::InvalidPublicKey(self.group))
    }

    fn group(&self) -> NamedGroup {
        self.group
    }
}

#[derive(Debug)]
struct Random;

impl SecureRandom for Random {
    fn fill(&self, buf: &mut [u8]) -> Result<(), CryptoError> {
        SystemRandom::new().fill(buf).map_err(|_| failed(CryptoOperation::GenerateEphemeralKey))
    }
}

#[derive(Debug)]
struct Hashes;

struct Hashing(digest::Context);

impl HashProvider for Hashes {
    fn create_hash(&self, algorithm: HashAlgorithm) -> Box<dyn HashContext> {
        // The suites above name no third one.
        let algorithm = if algorithm == HashAlgorithm::SHA384 { &digest::SHA384 } else { &digest::SHA256 };
        Box::new(Hashing(digest::Context::new(algorithm)))
    }
}

impl HashContext for Hashing {
    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn clone_and_finalize(&self, out: &mut Buf) {
        out.clear();
        out.extend_from_slice(self.0.clone().finish().as_ref());
    }
}

#[derive(Debug)]
struct Hmac;

impl HmacProvider for Hmac {
    fn hmac(&self, hash: HashAlgorithm, key: &[u8], data: &[u8], out: &mut [u8]) -> Result<usize, CryptoError> {
        let algorithm = match hash {
            HashAlgorithm::SHA256 => hmac::HMAC_SHA256,
            HashAlgorithm::SHA384 => hmac::HMAC_SHA384,
            other => return Err(CryptoError::UnsupportedHmacHash(other)),
        };
        let tag = hmac::sign(&hmac::Key::new(algorithm, key), data);
        let length = tag.as_ref().len();
        out.get_mut(..length).ok_or(CryptoError::UnsupportedHmacHash(hash))?.copy_from_slice(tag.as_ref());
        Ok(length)
    }
}

#[derive(Debug)]
struct Keys;

/// The run's own key: P-256, as rcgen makes it.
struct Key(EcdsaKeyPair);

impl KeyProvider for Keys {
    fn load_private_key(&self, der: &[u8]) -> Result<Box<dyn SigningKey>, CryptoError> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der, &SystemRandom::new());
        Ok(Box::new(Key(key.map_err(|_| CryptoError::InvalidPrivateKey)?)))
    }
}

impl SigningKey for Key {
    fn sign(&mut self, data: &[u8], hash: HashAlgorithm, out: &mut Buf) -> Result<(), CryptoError> {
        if hash != HashAlgorithm::SHA256 {
            return Err(failed(CryptoOperation::Sign));
        }
        let signature = self.0.sign(&SystemRandom::new(), data).map_err(|_| failed(CryptoOperation::Sign))?;
        out.clear();
        out.extend_from_slice(signature.as_ref());
        Ok(())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        HashAlgorithm::SHA256
    }

    fn supported_hash_algorithms(&self) -> &[HashAlgorithm] {
        &[HashAlgorithm::SHA256]
    }
}

/// Whether a signature is of the key in a certificate. Whose certificate it is says the fingerprint, elsewhere.
#[derive(Debug)]
struct Verifier;

impl SignatureVerifier for Verifier {
    fn verify_signature(
        &self,
        certificate: &[u8],
        data: &[u8],
        signature: &[u8],
        hash: HashAlgorithm,
        algorithm: SignatureAlgorithm,
    ) -> Result<(), CryptoError> {
        if algorithm != SignatureAlgorithm::ECDSA {
            return Err(CryptoError::UnsupportedSignatureAlgorithm(algorithm));
        }
        let der = CertificateDer::from(certificate);
        let certificate = webpki::EndEntityCert::try_from(&der).map_err(|_| CryptoError::CertificateParseFailed)?;
        // TLS 1.2 does not tie the hash to the curve; the certificate says which curve it is.
        let curves: [(NamedGroup, &dyn SignatureVerificationAlgorithm); 2] = match hash {
            HashAlgorithm::SHA256 => {
                [(NamedGroup::Secp256r1, ECDSA_P256_SHA256), (NamedGroup::Secp384r1, ECDSA_P384_SHA256)]
            }
            HashAlgorithm::SHA384 => {
                [(NamedGroup::Secp256r1, ECDSA_P256_SHA384), (NamedGroup::Secp384r1, ECDSA_P384_SHA384)]
            }
            other => return Err(CryptoError::UnsupportedHmacHash(other)),
        };
        let fits = |(group, curve): &(NamedGroup, &dyn SignatureVerificationAlgorithm)| {
            check_verify_scheme(algorithm, hash, *group).is_ok()
                && certificate.verify_signature(*curve, data, signature).is_ok()
        };
        match curves.iter().any(fits) {
            true => Ok(()),
            false => Err(failed(CryptoOperation::VerifySignature)),
        }
    }
}
