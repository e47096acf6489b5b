//! Whether a server is the domain that we wanted to talk to (RFC 5922 7).

use super::{Fingerprint, provider};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;
use webpki::EndEntityCert;

/// Whom to believe.
#[derive(Debug)]
pub(super) enum Belief {
    /// Certificates that these vouch for and that name the domain.
    Authorities(RootCertStore),
    /// This certificate, whatever it says.
    Certificate(Fingerprint),
}

/// What a certificate has to name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// The SIP domain (RFC 5922 7.1).
    Domain,
    /// The host, as servers of other protocols are named (RFC 9525).
    Host,
}

#[derive(Debug)]
pub(super) struct Verifier {
    pub belief: Belief,
    names: Names,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    pub fn new(belief: Belief, names: Names) -> Self {
        Verifier { belief, names, provider: provider() }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.belief {
            Belief::Certificate(wanted) if Fingerprint::of(end_entity) == *wanted => {}
            Belief::Certificate(_) => return Err(CertificateError::ApplicationVerificationFailure.into()),
            Belief::Authorities(roots) => {
                let algorithms = self.provider.signature_verification_algorithms.all;
                let parsed = ParsedCertificate::try_from(end_entity)?;
                verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
                let certificate = EndEntityCert::try_from(end_entity).map_err(|_| CertificateError::BadEncoding)?;
                let speaks = match self.names {
                    Names::Domain => names(&certificate, server_name),
                    Names::Host => certificate.verify_is_valid_for_subject_name(server_name).is_ok(),
                };
                if !speaks {
                    return Err(CertificateError::NotValidForName.into());
                }
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Asks those who connect for a certificate, takes what they show, and whoever shows none: whether it says anything is decided afterwards, by the
/// domain that it would be for.
#[derive(Debug)]
pub(super) struct Asking(Arc<CryptoProvider>);

impl Asking {
    pub fn new() -> Self {
        Asking(provider())
    }
}

impl ClientCertVerifier for Asking {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The certificate speaks for the domain: one of its SIP URIs names it, or, when it has none, one of its DNS names does, in full: a wildcard
/// stands for no SIP domain (RFC 5922 7.1, 7.2). An address has to be named as such.
fn names(certificate: &EndEntityCert<'_>, wanted: &ServerName<'_>) -> bool {
    let domain = wanted.to_str();
    let mut uris = certificate.valid_uri_names().filter_map(sip_domain).peekable();
    if uris.peek().is_some() {
        return uris.any(|host| same_host(host, &domain));
    }
    match wanted {
        ServerName::IpAddress(_) => certificate.verify_is_valid_for_subject_name(wanted).is_ok(),
        _ => certificate.valid_dns_names().any(|name| same_host(name, &domain)),
    }
}

/// The domain that a SIP URI identifies; one with a user is about somebody, not about a domain (RFC 5922 7.1).
fn sip_domain(uri: &str) -> Option<&str> {
    let (scheme, rest) = uri.split_once(':')?;
    let host = rest.split([';', '?']).next()?;
    (scheme.eq_ignore_ascii_case("sip") && !rest.contains('@')).then(|| host.trim_matches(['[', ']']))
}

fn same_host(one: &str, other: &str) -> bool {
    one.trim_end_matches('.').eq_ignore_ascii_case(other.trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};

    struct Authority(CertifiedIssuer<'static, KeyPair>);

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
        }

        fn certificate(&self, names: &[&str]) -> CertificateDer<'static> {
            let mut params = CertificateParams::default();
            params.subject_alt_names = names
                .iter()
                .map(|name| match name.parse() {
                    Ok(address) => SanType::IpAddress(address),
                    Err(_) if name.contains(':') => SanType::URI((*name).try_into().unwrap()),
                    Err(_) => SanType::DnsName((*name).try_into().unwrap()),
                })
                .collect();
            params.signed_by(&KeyPair::generate().unwrap(), &self.0).unwrap().der().clone()
        }

        fn roots(&self) -> RootCertStore {
            let mut roots = RootCertStore::empty();
            roots.add(self.0.der().clone()).unwrap();
            roots
        }
    }

    fn check(belief: Belief, certificate: &CertificateDer<'_>, domain: &str) -> Result<(), Error> {
        check_names(belief, certificate, domain, Names::Domain)
    }

    fn check_names(belief: Belief, certificate: &CertificateDer<'_>, domain: &str, names: Names) -> Result<(), Error> {
        let name = ServerName::try_from(domain.to_owned()).unwrap();
        let outcome = Verifier::new(belief, names).verify_server_cert(certificate, &[], &name, &[], UnixTime::now());
        outcome.map(|_| ())
    }

    /// The rules of RFC 5922 7.1 and 7.2, and its examples.
    #[test]
    fn a_certificate_speaks_for_the_domain_that_it_names() {
        let authority = Authority::new();
        let good = |names: &[&str], domain: &str| {
            check(Belief::Authorities(authority.roots()), &authority.certificate(names), domain).is_ok()
        };
        assert!(good(&["sip:example.com"], "example.com"));
        assert!(good(&["SIP:Example.COM"], "example.com"));
        assert!(good(&["example.com"], "example.com"));
        assert!(good(&["http://example.com", "example.com"], "example.com"), "only SIP URIs count");
        assert!(!good(&["sip:other.example", "example.com"], "example.com"), "with a SIP URI no DNS name counts");
        assert!(!good(&["sip:alice@example.com"], "example.org"));
        assert!(good(&["sip:alice@example.com", "example.com"], "example.com"), "a user is no domain");
        assert!(!good(&["*.example.com"], "sip.example.com"), "wildcards");
        assert!(!good(&["sip:example.com"], "sip.example.com"));
        assert!(!good(&["sip.example.com"], "example.com"));
        assert!(good(&["127.0.0.1"], "127.0.0.1") && good(&["sip:127.0.0.1"], "127.0.0.1"));
        assert!(!good(&["127.0.0.2"], "127.0.0.1") && !good(&["localhost"], "127.0.0.1"));
    }

    #[test]
    fn a_host_is_named_by_its_dns_name_or_address() {
        let authority = Authority::new();
        let good = |names: &[&str], host: &str| {
            let certificate = authority.certificate(names);
            check_names(Belief::Authorities(authority.roots()), &certificate, host, Names::Host).is_ok()
        };
        assert!(good(&["sip:other.example", "turn.example.com"], "turn.example.com"));
        assert!(good(&["*.example.com"], "turn.example.com") && good(&["127.0.0.1"], "127.0.0.1"));
        assert!(!good(&["sip:turn.example.com"], "turn.example.com"), "a SIP URI names no host");
        assert!(!good(&["turn.example.com"], "turn.example.org") && !good(&["127.0.0.1"], "127.0.0.2"));
    }

    #[test]
    fn only_whom_we_believe_may_say_so() {
        let (authority, other) = (Authority::new(), Authority::new());
        let certificate = authority.certificate(&["sip:example.com"]);
        assert!(check(Belief::Authorities(other.roots()), &certificate, "example.com").is_err());
        let pinned = || Belief::Certificate(Fingerprint::of(&certificate));
        assert!(check(pinned(), &certificate, "whatever.example").is_ok());
        assert!(check(pinned(), &authority.certificate(&["sip:example.com"]), "example.com").is_err());
    }
}
