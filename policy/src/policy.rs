//! A policy as a value, and its decisions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use crate::destination::Proto;
use crate::error::Error;
use crate::file::{self, File};
use crate::flags::Flags;
use crate::flows::{Flows, Said};
use crate::ice::Ice;
use crate::local::{Local, LocalDecision, UnixName};
use crate::names::{NameAnswer, Names};
use crate::rule::{BindAction, BindDefault, BindRule, ConnectDefault, ConnectRule, Errno, Lead};
use crate::uri::PeerPattern;

/// `[app]`: what the policy is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct App {
    /// What people call the application.
    pub name: Option<String>,
    /// Path of its program; `*` stands for any text.
    pub program: Option<String>,
}

/// `[identity]`, `--as` and `--registrar`: who the application is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Address of record, a SIP URI. None: nobody in particular; the caller has a default.
    pub aor: Option<String>,
    /// URI of the server to register with. None: the hub of this user.
    pub registrar: Option<String>,
    /// Where the password is.
    pub credentials: Option<Credentials>,
    /// How long a registration is asked to last, in seconds. None: the engine's default.
    pub expires: Option<u32>,
    /// How a registrar is spoken to by TLS.
    pub tls: Tls,
}

/// `tls` of `[identity]`: whom to believe, and who the application is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of authorities (PEM), instead of those of the machine.
    pub ca: Option<PathBuf>,
    /// SHA-256 of the only certificate that is believed: 64 hexadecimal digits, with or without colons.
    pub fingerprint: Option<String>,
    /// The application's own certificate and its key (PEM), for servers that ask for one.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// Where a password is found; never the password itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// In the environment variable of this name.
    Env(String),
    /// In the file at this path.
    File(PathBuf),
}

/// `[limits]` of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sockets at once.
    pub sockets: u32,
    /// SIP sessions at once.
    pub sessions: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { sockets: 65536, sessions: 4096 }
    }
}

/// What becomes of a connect(), or of the first datagram to an address. `rule` is, in words for the trace, what decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectDecision {
    /// It leads to `uri`.
    Uri {
        /// A SIP URI.
        uri: String,
        /// What may carry the bytes.
        flows: Flows,
        /// What decided.
        rule: String,
    },
    /// It fails.
    Refuse {
        /// The error that the application gets.
        errno: Errno,
        /// What decided.
        rule: String,
        /// What to write so that it would be allowed: the exact lines or flag.
        advice: String,
    },
    /// It reaches the run's own listeners, without SIP.
    Local {
        /// What decided.
        rule: String,
    },
}

/// What becomes of a local endpoint. `rule` is, in words for the trace, what decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindDecision {
    /// Peers reach it and read of it in presence.
    Publish {
        /// The description; None: the rule gives none.
        text: Option<String>,
        /// What decided.
        rule: String,
    },
    /// Peers reach it.
    Accept {
        /// What decided.
        rule: String,
    },
    /// Only the run itself reaches it.
    Local {
        /// What decided.
        rule: String,
    },
    /// bind() fails with EACCES.
    Deny {
        /// What decided.
        rule: String,
        /// What to write so that it would be allowed.
        advice: String,
    },
}

/// Which socket calls of an application may happen, and where each leads. Immutable: a changed file is a new policy.
#[derive(Debug, Clone)]
pub struct Policy {
    file_name: Option<String>,
    app: App,
    identity: Identity,
    domain: String,
    connect_default: (ConnectDefault, String),
    bind_default: (BindDefault, String),
    /// `--publish`: the description of what no rule is about.
    publish: Option<String>,
    connects: Vec<ConnectRule>,
    binds: Vec<BindRule>,
    /// URIs of `[names]`, for advice.
    named: Vec<(String, String)>,
    names: Names,
    limits: Limits,
    local: Local,
    /// What `--flow` and `--cleartext` say, before any rule.
    flagged: Said,
    flows: Flows,
    ice: Ice,
}

impl Policy {
    /// The policy of a file. `name` is what errors and the trace call it, `text` what it holds.
    ///
    /// # Errors
    /// [`Error::File`] with the mistakes found, a hundred at most.
    pub fn parse(name: &str, text: &str) -> Result<Policy, Error> {
        Policy::parse_with_flags(name, text, &Flags::default())
    }

    /// The policy of a command line alone.
    ///
    /// # Errors
    /// [`Error::Flag`] for the first flag that cannot be used.
    pub fn from_flags(flags: &Flags) -> Result<Policy, Error> {
        Policy::build(None, file::absent(flags), flags)
    }

    /// The policy of a file under a command line: `--as`, `--registrar` and `--publish` replace what the file says by default,
    /// `--map` and then `--to` come before its rules.
    ///
    /// # Errors
    /// As [`Policy::parse`] and [`Policy::from_flags`].
    pub fn parse_with_flags(name: &str, text: &str, flags: &Flags) -> Result<Policy, Error> {
        Policy::build(Some(name), file::read(name, text, flags)?, flags)
    }

    fn build(file_name: Option<&str>, file: File, flags: &Flags) -> Result<Policy, Error> {
        let domain = file.domain;
        let flag_aor = flags.identity(&domain)?;
        let flagged = flags.flows()?;
        // A default that nobody wrote down; who gives the application a name wants it to be reached.
        let bind_default = match &flag_aor {
            Some(_) => (BindDefault::Accept, format!("--as {}", flags.as_uri.as_deref().unwrap_or_default())),
            None => (BindDefault::Local, "default".to_owned()),
        };
        let mut connects = flags.rules(&domain)?;
        let identity = Identity {
            aor: flag_aor.or(file.aor),
            registrar: flags.registrar()?.or(file.registrar),
            credentials: file.credentials,
            expires: file.expires,
            tls: file.tls,
        };
        let publish = flags.publish(identity.aor.is_some())?;
        connects.extend(file.connects);
        let named = file.names.iter().map(|(name, uri)| (name.clone(), Some(uri.clone())));
        let ruled = connects.iter().filter_map(|rule| Some((rule.to.virtual_name()?, rule.uri())));
        // A name that some rules refuse and others let through has the address of where it leads.
        let (leading, refused): (Vec<_>, Vec<_>) = ruled.partition(|(_, uri)| uri.is_some());
        let ruled = leading.into_iter().chain(refused).map(|(name, uri)| (name.to_owned(), uri.map(str::to_owned)));
        let all: Vec<_> = named.chain(ruled).collect();
        let elsewhere = connects.iter().filter(|rule| rule.to.host == crate::destination::Host::Any);
        let names = Names::new(file.space, &all, elsewhere.clone().find_map(ConnectRule::uri));
        Ok(Policy {
            file_name: file_name.map(str::to_owned),
            app: file.app,
            identity,
            domain,
            connect_default: file.connect_default.unwrap_or((ConnectDefault::Callers, "default".to_owned())),
            bind_default: match &publish {
                Some(_) => (BindDefault::Publish, "--publish".to_owned()),
                None => file.bind_default.unwrap_or(bind_default),
            },
            publish,
            connects,
            binds: file.binds,
            named: file.names,
            names,
            limits: file.limits,
            local: file.local,
            flows: flagged.clone().over(file.flows).or(&Flows::default()),
            flagged,
            ice: flags.ice(file.ice)?,
        })
    }

    /// What the policy is for.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Who the application is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where bare names are users: the argument for [`expand_uri`](crate::expand_uri).
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// How much the application may use.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What may carry the bytes between the application and its peers, where no rule says more: of sessions that peers begin.
    pub fn flows(&self) -> &Flows {
        &self.flows
    }

    /// The servers that help to find a path to peers.
    pub fn ice(&self) -> &Ice {
        &self.ice
    }

    /// What becomes of a connect() or a message to an AF_UNIX socket that no program of the run made.
    pub fn unix(&self, name: UnixName<'_>) -> LocalDecision {
        self.local.unix(name, self.file_name.as_deref())
    }

    /// Whether [`Policy::unix`] allows anything.
    pub fn reaches_local_sockets(&self) -> bool {
        self.local.reaches_out()
    }

    /// What becomes of a socket of AF_NETLINK.
    pub fn netlink(&self) -> LocalDecision {
        self.local.netlink(self.file_name.as_deref())
    }

    /// What becomes of a connect() to `dest`. The virtual address of a name stands for the name; 0.0.0.0 and :: are the
    /// loopback (ip(7)), and an IPv4-mapped address is the IPv4 address. Ask only for what is no listener of the run
    /// itself: `--to` takes loopback addresses too.
    pub fn connect(&self, proto: Proto, dest: SocketAddr) -> ConnectDecision {
        self.connect_to(proto, dest, None)
    }

    /// As [`Policy::connect`], when `caller`, a SIP URI, has called the application from the address of `dest`.
    pub fn connect_to(&self, proto: Proto, dest: SocketAddr, caller: Option<&str>) -> ConnectDecision {
        let address = plain(dest.ip());
        let name = self.names.name_of(address);
        let (default, words) = &self.connect_default;
        match self.met(proto, dest) {
            Some(ConnectRule { lead: Lead::Uri { uri, flows }, words, .. }) => {
                let flows = self.flagged.clone().over(flows.clone()).or(&self.flows);
                ConnectDecision::Uri { uri: uri.clone(), flows, rule: words.clone() }
            }
            Some(ConnectRule { lead: Lead::Refuse(errno), words, .. }) => {
                self.refuse(*errno, words, Some(words), proto, dest)
            }
            None if address.is_loopback()
                && matches!(default, ConnectDefault::AllowLocal | ConnectDefault::Callers) =>
            {
                ConnectDecision::Local { rule: words.clone() }
            }
            // The address of a name that leads to somebody else is not the caller's.
            None if let Some(uri) = caller.and_then(crate::aor_form)
                && *default == ConnectDefault::Callers
                && name
                    .is_none_or(|n| self.leads_to(n).is_some_and(|lead| crate::owner(lead) == crate::owner(&uri))) =>
            {
                ConnectDecision::Uri { uri, flows: self.flows.clone(), rule: format!("{words}: has called") }
            }
            None if *default == ConnectDefault::Refuse => self.refuse(Errno::Econnrefused, words, None, proto, dest),
            None => self.refuse(Errno::Eacces, words, None, proto, dest),
        }
    }

    /// The first rule that is about `dest`.
    fn met(&self, proto: Proto, dest: SocketAddr) -> Option<&ConnectRule> {
        let address = plain(dest.ip());
        let name = self.names.name_of(address);
        // The loopback is the program's own, whatever "any address" leads to; a rule that names it means it.
        let meant = |rule: &&ConnectRule| !(address.is_loopback() && rule.to.host == crate::destination::Host::Any);
        self.connects.iter().filter(meant).find(|rule| rule.matches(proto, address, name, dest.port()))
    }

    /// Whether the rule that decides about `dest`, port 53, means a name server of its own: it names the port, or a name that
    /// leads to a peer. Otherwise the run's resolver answers there, wherever the system has its name servers.
    pub fn means_a_name_server(&self, proto: Proto, dest: SocketAddr) -> bool {
        self.met(proto, dest).is_some_and(|rule| rule.to.is_particular())
    }

    fn refuse(
        &self,
        errno: Errno,
        rule: &str,
        before: Option<&str>,
        proto: Proto,
        dest: SocketAddr,
    ) -> ConnectDecision {
        let advice = self.connect_advice(proto, dest, before);
        ConnectDecision::Refuse { errno, rule: rule.to_owned(), advice }
    }

    /// The lines that would allow the call; `before` is the rule that they must precede.
    fn connect_advice(&self, proto: Proto, dest: SocketAddr, before: Option<&str>) -> String {
        let address = plain(dest.ip());
        let name = self.names.name_of(address);
        let to = match name {
            Some(name) => format!("{name}:{}", dest.port()),
            None => SocketAddr::new(address, dest.port()).to_string(),
        };
        let uri = name
            .and_then(|name| self.leads_to(name))
            .map_or_else(|| format!("sip:PEER@{}", self.domain), str::to_owned);
        match &self.file_name {
            Some(file) => {
                let place = before.map_or(format!("add to {file}"), |rule| format!("put before {rule}"));
                format!("to allow it, {place}:\n[[connect]]\nto = \"{to}\"\nproto = \"{proto}\"\nuri = \"{uri}\"")
            }
            None => format!("to allow it, add the flag:\n--map '{to}={uri}'"),
        }
    }

    /// Where `name` leads, by `[names]` or else by the first rule that is about it.
    fn leads_to(&self, name: &str) -> Option<&str> {
        let named = self.named.iter().find(|(named, _)| named == name).map(|(_, uri)| uri.as_str());
        let mut ruled = self.connects.iter().filter(|rule| rule.to.virtual_name() == Some(name));
        named.or_else(|| ruled.find_map(ConnectRule::uri))
    }

    /// What becomes of a local endpoint bound to `address` and `port`. Without a rule for the port, what is bound to the
    /// loopback stays local.
    pub fn bind(&self, proto: Proto, address: IpAddr, port: u16) -> BindDecision {
        let address = address.to_canonical();
        if let Some(rule) = self.bind_rule(proto, port) {
            let words = rule.words.clone();
            return match &rule.action {
                BindAction::Publish(text) => BindDecision::Publish { text: Some(text.clone()), rule: words },
                BindAction::Accept => BindDecision::Accept { rule: words },
                BindAction::Deny => self.deny(proto, port, words, true),
            };
        }
        let (default, words) = &self.bind_default;
        let rule = words.clone();
        match default {
            BindDefault::Deny => self.deny(proto, port, rule, false),
            BindDefault::Local => BindDecision::Local { rule },
            _ if address.is_loopback() => BindDecision::Local { rule: "bound to the loopback".to_owned() },
            BindDefault::Accept => BindDecision::Accept { rule },
            BindDefault::Publish => BindDecision::Publish { text: self.publish.clone(), rule },
        }
    }

    /// Whether there is any bind() that [`Policy::bind`] denies.
    pub fn may_deny_bind(&self) -> bool {
        matches!(self.bind_default.0, BindDefault::Deny)
            || self.binds.iter().any(|rule| matches!(rule.action, BindAction::Deny))
    }

    /// Whether there is any bind() that [`Policy::bind`] publishes.
    pub fn may_publish(&self) -> bool {
        matches!(self.bind_default.0, BindDefault::Publish)
            || self.binds.iter().any(|rule| matches!(rule.action, BindAction::Publish(_)))
    }

    /// Who may read of the local endpoint at `port`, which [`Policy::bind`] publishes: patterns such as `sip:*@example.org`, 64 at most, or
    /// `*`. None: anyone.
    pub fn visible_to(&self, proto: Proto, port: u16) -> Option<Vec<String>> {
        let patterns = self.bind_rule(proto, port)?.visible_to.as_ref()?;
        Some(patterns.iter().map(PeerPattern::to_string).collect())
    }

    fn bind_rule(&self, proto: Proto, port: u16) -> Option<&BindRule> {
        self.binds.iter().find(|rule| rule.matches(proto, port))
    }

    /// A denial always comes from a file: no flag says deny.
    fn deny(&self, proto: Proto, port: u16, rule: String, by_rule: bool) -> BindDecision {
        let file = self.file_name.as_deref().unwrap_or("the policy");
        let place = if by_rule { format!("put before {rule}") } else { format!("add to {file}") };
        // Port 0 asks the kernel for any port: only a rule for every port is about it.
        let port = if port == 0 { "\"*\"".to_owned() } else { port.to_string() };
        let advice = format!("to allow it, {place}:\n[[bind]]\nport = {port}\nproto = \"{proto}\"\naccept = true");
        BindDecision::Deny { rule, advice }
    }

    /// Whether the peer with the URI `peer_uri` may reach the local endpoint at `port`, which [`Policy::bind`] lets peers
    /// reach.
    pub fn accept_from(&self, proto: Proto, port: u16, peer_uri: &str) -> bool {
        match self.bind_rule(proto, port) {
            Some(BindRule { action: BindAction::Deny, .. }) => false,
            Some(BindRule { accept_from: Some(patterns), .. }) => {
                patterns.iter().any(|pattern| pattern.matches(peer_uri))
            }
            Some(_) => true,
            None => matches!(self.bind_default.0, BindDefault::Accept | BindDefault::Publish),
        }
    }

    /// What the application's resolver answers for `name`. With a rule for every host, every name has an address.
    pub fn resolve(&self, name: &str) -> NameAnswer {
        self.names.resolve(name)
    }

    /// The name that a virtual address stands for.
    pub fn name_of(&self, address: IpAddr) -> Option<&str> {
        self.names.name_of(plain(address))
    }

    /// The virtual addresses of whoever `uri` names, from the blocks of `[addresses]`.
    pub fn virtual_addresses(&self, uri: &str) -> (Ipv4Addr, Ipv6Addr) {
        self.names.addresses_of(uri)
    }
}

/// The address that Linux would go to: IPv4-mapped is IPv4, and the unspecified address is the loopback.
fn plain(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}
