//! Self-made certificates, and TLS 1.3 that trusts exactly one other (RFC 8122 section 6).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError as Bad, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme, version};
use sha2::{Digest, Sha256};

use super::window;
use crate::sdp::Fingerprint;

/// A connection without traffic is kept up: NAT mappings live half a minute at least (RFC 4787 has two minutes).
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// And is lost after this long without an answer.
const LOST_AFTER: Duration = Duration::from_secs(30);
/// Bytes that may be on their way in a connection: 200 ms at 2.5 Gbit/s, and half of that in one stream (`pressure`). For QUIC one stream may have
/// them all: who writes waits for the connection alone, and so for its turn. What a program does not read is not among them for long.
pub(super) const WINDOW: u32 = 64 << 20;
/// Streams at once that the other end may open.
pub(super) const STREAMS: u32 = 4096;
/// Datagrams that wait for the program, or for room on the path.
const DATAGRAMS: usize = 2 << 20;

/// What cannot be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no certificate can be made: {0}")]
pub struct CertificateError(String);

/// A key and its self-signed certificate; one for a run.
#[derive(Clone)]
pub struct Certificate {
    der: CertificateDer<'static>,
    key: Arc<PrivatePkcs8KeyDer<'static>>,
    /// Goes into session descriptions.
    pub fingerprint: Fingerprint,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificate").field(&self.fingerprint).finish()
    }
}

impl Certificate {
    /// A fresh one. It says nothing but its key.
    pub fn new() -> Result<Certificate, CertificateError> {
        let made = rcgen::generate_simple_self_signed(["sipbox".to_owned()]);
        let made = made.map_err(|e| CertificateError(e.to_string()))?;
        let der = made.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        Ok(Certificate { fingerprint: fingerprint(&der), der, key: Arc::new(key) })
    }

    /// As DTLS wants it.
    pub(super) fn for_dtls(&self) -> dimpl::DtlsCertificate {
        dimpl::DtlsCertificate { certificate: self.der.to_vec(), private_key: self.key.secret_pkcs8_der().to_vec() }
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }
}

fn fingerprint(der: &CertificateDer<'_>) -> Fingerprint {
    Fingerprint(Sha256::digest(der).into())
}

/// AES-128 first: it is the fastest where the processor has it.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    provider.cipher_suites = vec![
        ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
        ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(provider)
}

/// Trusts the one certificate with this fingerprint.
#[derive(Debug)]
struct Pinned {
    expected: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn check(&self, shown: &CertificateDer<'_>) -> Result<(), Error> {
        if fingerprint(shown) == self.expected {
            return Ok(());
        }
        Err(Error::InvalidCertificate(Bad::ApplicationVerificationFailure))
    }

    fn signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(shown).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(shown).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

/// So many packets are received before an acknowledgement is sent that carries nothing else, unless it is late or one of them was lost. A connection of a
/// program's that is opened, used and closed is some packets long, each of which carries one anyway.
const UNACKNOWLEDGED: u32 = 3;

/// What both ends agree on. The called end opens streams too, where both have called each other.
fn transport() -> Arc<quinn::TransportConfig> {
    let mut transport = quinn::TransportConfig::default();
    let mut acknowledge = quinn::AckFrequencyConfig::default();
    acknowledge.ack_eliciting_threshold(UNACKNOWLEDGED.into());
    transport
        .ack_frequency_config(Some(acknowledge))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(LOST_AFTER.try_into().ok())
        .stream_receive_window(WINDOW.into())
        .receive_window(WINDOW.into())
        .send_window(window::LEAST)
        .max_concurrent_bidi_streams(STREAMS.into())
        .max_concurrent_uni_streams(256u32.into())
        .datagram_receive_buffer_size(Some(DATAGRAMS))
        .datagram_send_buffer_size(DATAGRAMS);
    Arc::new(transport)
}

/// Shows this certificate, as a client, and trusts that one.
pub(super) fn as_client(own: &Certificate, peer: Fingerprint) -> Result<rustls::ClientConfig, String> {
    let provider = provider();
    let pinned = Arc::new(Pinned { expected: peer, provider: provider.clone() });
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(pinned)
        .with_client_auth_cert(vec![own.der.clone()], own.private_key())
        .map_err(|e| e.to_string())?;
    tls.resumption = Resumption::disabled();
    tls.enable_sni = false;
    Ok(tls)
}

/// The same as a server, which takes no client without a certificate.
pub(super) fn as_server(own: &Certificate, peer: Fingerprint) -> Result<rustls::ServerConfig, String> {
    let provider = provider();
    let pinned = Arc::new(Pinned { expected: peer, provider: provider.clone() });
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|e| e.to_string())?
        .with_client_cert_verifier(pinned)
        .with_single_cert(vec![own.der.clone()], own.private_key())
        .map_err(|e| e.to_string())?;
    tls.send_tls13_tickets = 0;
    Ok(tls)
}

/// The caller: it opens the QUIC connection, and then streams in it. `protocol`: the one on top of QUIC (ALPN).
pub(super) fn client(own: &Certificate, peer: Fingerprint, protocol: &[u8]) -> Result<quinn::ClientConfig, String> {
    let mut tls = as_client(own, peer)?;
    tls.alpn_protocols = vec![protocol.to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).map_err(|e| e.to_string())?));
    config.transport_config(transport());
    Ok(config)
}

/// The called end.
pub(super) fn server(own: &Certificate, peer: Fingerprint, protocol: &[u8]) -> Result<quinn::ServerConfig, String> {
    let mut tls = as_server(own, peer)?;
    tls.alpn_protocols = vec![protocol.to_vec()];
    let mut config =
        quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).map_err(|e| e.to_string())?));
    config.transport_config(transport());
    Ok(config)
}
