//! Who a run is, where it registers, and the agent that does so.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use policy::Policy;
use sipcore::agent::{Agent, AgentConfig, Credentials, Event, Registrar, Tap, Transport};
use sipcore::message::Uri;
use sipcore::tls::Trust;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::{cli, hub, registrar};

/// Where the password comes from when the policy does not say.
pub const PASSWORD_VARIABLE: &str = "SIPBOX_PASSWORD";
/// The same for TURN servers.
pub const TURN_PASSWORD_VARIABLE: &str = "SIPBOX_TURN_PASSWORD";
/// Registrations at the embedded hub are refreshed often: a killed run is gone from it soon.
const EXPIRES: Duration = Duration::from_secs(60);

/// Who somebody is, and where he registers.
pub struct Identity {
    /// Address of record.
    pub aor: String,
    /// True when the user gave it: only then is a run reachable.
    pub given: bool,
    /// None: the embedded hub.
    pub registrar: Option<registrar::Home>,
    pub credentials: Option<Credentials>,
    pub expires: Option<Duration>,
    pub tap: Option<Tap>,
    /// Whom servers have to be vouched for by.
    pub trust: Trust,
    /// The name server to ask.
    pub dns: Option<SocketAddr>,
}

/// Where the STUN and TURN servers of somebody are, who names none.
#[derive(Clone, Debug, Default)]
pub struct Around {
    /// Domains that may name some, best first.
    pub domains: Vec<String>,
    /// Who he is there.
    pub user: String,
    /// Whom their certificates have to come from.
    pub trust: Trust,
    /// The name server to ask, instead of this machine's.
    pub dns: Option<SocketAddr>,
}

impl Identity {
    /// Who the policy says; nobody in particular is called what `unnamed` says.
    pub fn new(
        policy: &Policy,
        home: &cli::Home,
        tap: Option<Tap>,
        unnamed: impl FnOnce() -> String,
    ) -> Result<Identity, String> {
        let wanted = policy.identity();
        let trust = trust(&wanted.tls, home)?;
        let registrar =
            wanted.registrar.as_deref().map(|uri| registrar::Home::new(uri, &trust, home.dns)).transpose()?;
        let given = wanted.aor.is_some();
        let aor = wanted.aor.clone().unwrap_or_else(|| format!("sip:{}@{}", unnamed(), policy.domain()));
        let user = user_of(&aor).to_owned();
        let password = password("[identity]", &wanted.credentials, PASSWORD_VARIABLE)?;
        Ok(Identity {
            aor,
            given,
            registrar,
            credentials: password.map(|password| Credentials { username: user, password }),
            expires: wanted.expires.map(|s| Duration::from_secs(s.into())),
            tap,
            trust,
            dns: home.dns,
        })
    }

    /// Where the servers are that help to find paths.
    pub fn around(&self) -> Around {
        let domains = self.registrar.as_ref().map(|home| home.domains(&self.aor)).unwrap_or_default();
        // A fingerprint is that of the registrar's certificate.
        let trust = Trust { ca: self.trust.ca.clone(), ..Trust::default() };
        Around { domains, user: user_of(&self.aor).to_owned(), trust, dns: self.dns }
    }

    /// An agent, which has not registered yet. Its SIP sockets are on `near` when the registrar is on this machine; the user's own hub is
    /// spoken to by `transport`, and started if there is none.
    pub async fn start_agent(
        &self,
        near: IpAddr,
        transport: Transport,
    ) -> Result<(Agent, UnboundedReceiver<Event>), String> {
        let mut others = Vec::new();
        let mut locate = None;
        let mut tls = None;
        let (registrar, credentials) = match &self.registrar {
            Some(home) => {
                let found = home.locate().await?;
                locate = found.locate;
                others = found.others;
                tls = home.tls.clone();
                (found.first, self.credentials.clone())
            }
            None => {
                let own = hub::ensure().await?;
                let registrar = Registrar { transport, ..own.registrar };
                (registrar, Some(Credentials::new(user_of(&self.aor), own.secret)))
            }
        };
        let aor = Uri::from_str(&self.aor).map_err(|e| format!("identity {}: {e}", self.aor))?;
        let config = AgentConfig {
            aor,
            local_ip: local_ip(near, &registrar.addr)?,
            registrar,
            credentials,
            instance: instance(),
            expires: self.expires.unwrap_or(EXPIRES),
            tap: self.tap.clone(),
            others,
            locate,
            tls,
        };
        Agent::start(config).await.map_err(|e| e.to_string())
    }
}

/// What of a text can stand in the user part of a URI as it is.
pub fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')).collect()
}

/// The user of a SIP URI.
pub fn user_of(uri: &str) -> &str {
    uri.split_once(':').and_then(|(_, rest)| rest.split_once('@')).map_or(uri, |(user, _)| user)
}

/// Whom a registrar's certificate has to come from: what the flags say, else the policy.
fn trust(wanted: &policy::Tls, home: &cli::Home) -> Result<Trust, String> {
    let fingerprint = home.tls_fingerprint.as_ref().or(wanted.fingerprint.as_ref());
    let fingerprint = fingerprint.filter(|_| home.tls_fingerprint.is_some() || home.tls_ca.is_none());
    Ok(Trust {
        fingerprint: fingerprint
            .map(|text| text.parse().map_err(|e| format!("--tls-fingerprint {text}: {e}")))
            .transpose()?,
        ca: home.tls_ca.clone().or_else(|| wanted.ca.clone()),
        certificate: wanted.certificate.clone(),
    })
}

/// The password that a section of the policy names, else that of the variable `usual`.
pub fn password(section: &str, named: &Option<policy::Credentials>, usual: &str) -> Result<Option<String>, String> {
    match named {
        Some(policy::Credentials::Env(name)) => {
            let found = std::env::var(name);
            found.map(Some).map_err(|_| format!("{section} credentials name the variable {name}, which is not set"))
        }
        Some(policy::Credentials::File(path)) => secret(path).map(Some),
        None => Ok(std::env::var(usual).ok()),
    }
}

/// A password file: only its owner may read it.
fn secret(path: &Path) -> Result<String, String> {
    use std::os::unix::fs::MetadataExt;
    let shown = path.display();
    let m = std::fs::metadata(path).map_err(|e| format!("the password file {shown} cannot be read: {e}"))?;
    if m.mode() & 0o077 != 0 {
        return Err(format!(
            "the password file {shown} can be read by others (mode {:o}); chmod 600 it",
            m.mode() & 0o777
        ));
    }
    let text = std::fs::read_to_string(path).map_err(|e| format!("the password file {shown} cannot be read: {e}"))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// The local address towards the registrar: the run's own on this machine, else what the routing table says.
fn local_ip(physical: IpAddr, registrar: &SocketAddr) -> Result<IpAddr, String> {
    match registrar.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => Ok(physical),
        _ => {
            let any: SocketAddr = if registrar.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
            let probe = std::net::UdpSocket::bind(any).and_then(|s| {
                s.connect(registrar)?;
                s.local_addr()
            });
            probe.map(|a| a.ip()).map_err(|e| format!("there is no route to the registrar {registrar}: {e}"))
        }
    }
}

/// A fresh +sip.instance (RFC 5626, section 4.1): a random UUID as a URN (RFC 9562, section 5.4).
fn instance() -> String {
    let mut b = [0u8; 16];
    if getrandom::fill(&mut b).is_err() {
        b[..4].copy_from_slice(&std::process::id().to_be_bytes());
    }
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let hex: String = b.iter().map(|x| format!("{x:02x}")).collect();
    format!("urn:uuid:{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
