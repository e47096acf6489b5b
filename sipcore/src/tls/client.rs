//! The calling side of TLS.

use super::verify::{Belief, Names, Verifier};
use super::{Fingerprint, TlsError, files, provider};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::path::PathBuf;
use std::sync::Arc;
use std::{fmt, io};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Whom a client believes, and who it says it is.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Certificates of authorities, instead of those of the machine (PEM).
    pub ca: Option<PathBuf>,
    /// The one certificate that is believed, whatever it says.
    pub fingerprint: Option<Fingerprint>,
    /// Our own certificate and its key (PEM), for servers that ask for one.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// TLS to one domain.
#[derive(Clone)]
pub struct ClientTls {
    pub(crate) connector: TlsConnector,
    pub(crate) domain: ServerName<'static>,
    verifier: Arc<Verifier>,
}

impl ClientTls {
    /// For connections to `domain`, a host name or an address: the one of the URI, not what DNS made of it (RFC 5922 4).
    pub fn new(domain: &str, trust: &Trust) -> Result<ClientTls, TlsError> {
        ClientTls::with(domain, trust, Names::Domain)
    }

    /// For connections to a server of another protocol, by its host name or address (RFC 9525): a certificate for it may have a wildcard.
    pub fn to_host(host: &str, trust: &Trust) -> Result<ClientTls, TlsError> {
        ClientTls::with(host, trust, Names::Host)
    }

    /// The same, to another host.
    pub fn at(&self, host: &str) -> Result<ClientTls, TlsError> {
        Ok(ClientTls { domain: name(host)?, ..self.clone() })
    }

    fn with(domain: &str, trust: &Trust, names: Names) -> Result<ClientTls, TlsError> {
        let domain = name(domain)?;
        let belief = match (&trust.fingerprint, &trust.ca) {
            (Some(fingerprint), _) => Belief::Certificate(*fingerprint),
            (None, Some(path)) => Belief::Authorities(authorities(path.clone())?),
            (None, None) => Belief::Authorities(of_this_machine()?),
        };
        let verifier = Arc::new(Verifier::new(belief, names));
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Unusable(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone());
        let config = match &trust.certificate {
            Some((chain, key)) => config
                .with_client_auth_cert(files::certificates(chain)?, files::key(key)?)
                .map_err(|error| TlsError::Unusable(error.to_string()))?,
            None => config.with_no_client_auth(),
        };
        Ok(ClientTls { connector: TlsConnector::from(Arc::new(config)), domain, verifier })
    }

    /// These certificates, the first of which somebody has shown and has the key of, speak for the domain: what would be believed of a server of it is
    /// believed of whoever connects from there (RFC 5922 7.3, 7.4).
    pub(crate) fn believes(&self, shown: &[CertificateDer<'_>]) -> bool {
        let Some((first, between)) = shown.split_first() else { return false };
        self.verifier.verify_server_cert(first, between, &self.domain, &[], UnixTime::now()).is_ok()
    }

    /// The client's end of a connection that blocks.
    pub(crate) fn session(&self) -> Result<ClientConnection, rustls::Error> {
        ClientConnection::new(self.connector.config().clone(), self.domain.clone())
    }

    /// The handshake on a connection. An error says whom the server turned out to be, or what it did.
    pub(crate) async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.domain.clone(), stream).await
    }
}

fn name(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
        .map_err(|_| TlsError::Unusable(format!("{host} is neither a host name nor an address")))
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("domain", &self.domain).finish_non_exhaustive()
    }
}

pub(super) fn authorities(path: PathBuf) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in files::certificates(&path)? {
        roots.add(certificate).map_err(|error| TlsError::File { path: path.clone(), why: error.to_string() })?;
    }
    Ok(roots)
}

fn of_this_machine() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    // Some of a machine's certificates are always of no use; that none is has a meaning.
    let (good, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if good == 0 { Err(TlsError::NoAuthorities) } else { Ok(roots) }
}
