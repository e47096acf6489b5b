//! The called side of TLS.

use super::client::authorities;
use super::verify::Asking;
use super::{Fingerprint, TlsError, files, provider};
use parking_lot::Mutex;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// Who a server is. Clones share it, so that it can be another while connections come in.
#[derive(Clone)]
pub struct ServerTls {
    now: Arc<Mutex<Current>>,
}

/// What it is now.
#[derive(Clone)]
struct Current {
    usual: Arc<ServerConfig>,
    /// The same, and clients are asked who they are.
    asking: Arc<ServerConfig>,
    fingerprint: Fingerprint,
}

impl ServerTls {
    /// The certificate (with those between it and its authority) and the key of two PEM files. With `client_ca` only clients with a certificate
    /// of these authorities are taken.
    pub fn load(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> Result<ServerTls, TlsError> {
        let clients = client_ca.map(|path| authorities(path.to_owned())).transpose()?;
        ServerTls::of(files::certificates(certificate)?, files::key(key)?, clients)
    }

    /// A certificate made now.
    pub fn self_made(domains: &[String], addresses: &[IpAddr]) -> Result<ServerTls, TlsError> {
        let made = SelfMade::new(domains, addresses)?;
        let unusable = |error: pem::Error| TlsError::Unusable(error.to_string());
        let certificate = CertificateDer::from_pem_slice(made.certificate.as_bytes()).map_err(unusable)?;
        let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).map_err(unusable)?;
        ServerTls::of(vec![certificate], key, None)
    }

    fn of(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        clients: Option<RootCertStore>,
    ) -> Result<ServerTls, TlsError> {
        let fingerprint =
            chain.first().map(Fingerprint::of).ok_or_else(|| TlsError::Unusable("there is none".into()))?;
        let mandatory = match clients {
            Some(roots) => Some(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                    .build()
                    .map_err(|error| TlsError::Unusable(error.to_string()))?,
            ),
            None => None,
        };
        let usual = mandatory.clone().unwrap_or_else(|| Arc::new(NoClientAuth));
        let asking = mandatory.unwrap_or_else(|| Arc::new(Asking::new()));
        let config = |clients| -> Result<Arc<ServerConfig>, TlsError> {
            let config = ServerConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .map_err(|error| TlsError::Unusable(error.to_string()))?
                .with_client_cert_verifier(clients)
                .with_single_cert(chain.clone(), key.clone_key())
                .map_err(|error| TlsError::Unusable(format!("{error} (key)")))?;
            Ok(Arc::new(config))
        };
        let now = Current { usual: config(usual)?, asking: config(asking)?, fingerprint };
        Ok(ServerTls { now: Arc::new(Mutex::new(now)) })
    }

    /// From now on this server is `other`; connections that stand stay.
    pub fn replace(&self, other: &ServerTls) {
        let new = other.now.lock().clone();
        *self.now.lock() = new;
    }

    /// The SHA-256 of its certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        self.now.lock().fingerprint
    }

    /// Takes connections. `asks`: those who connect are asked for a certificate, and are taken without one, too.
    pub(crate) fn acceptor(&self, asks: bool) -> TlsAcceptor {
        let now = self.now.lock();
        TlsAcceptor::from(if asks { now.asking.clone() } else { now.usual.clone() })
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

/// A certificate that nobody vouches for, and its key, both as PEM: clients know it by its fingerprint, or take it for its own authority.
pub struct SelfMade {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl SelfMade {
    /// Makes one that names the domains and addresses.
    pub fn new(domains: &[String], addresses: &[IpAddr]) -> Result<SelfMade, TlsError> {
        let unusable = |error: rcgen::Error| TlsError::Unusable(error.to_string());
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "sipbox hub");
        for domain in domains {
            params.subject_alt_names.push(SanType::DnsName(domain.as_str().try_into().map_err(unusable)?));
        }
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        // Every name as a SIP URI too: where there is one no other name counts (RFC 5922 7.1).
        for name in domains.iter().cloned().chain(addresses.iter().map(uri_host)) {
            params.subject_alt_names.push(SanType::URI(format!("sip:{name}").try_into().map_err(unusable)?));
        }
        let key = KeyPair::generate().map_err(unusable)?;
        let certificate = params.self_signed(&key).map_err(unusable)?;
        Ok(SelfMade { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn uri_host(address: &IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}
