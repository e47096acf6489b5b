//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use policy::{Flags, Policy};
use sipcore::turn::Network;

/// Lets an unmodified program's sockets be SIP sessions.
#[derive(Debug, Parser)]
#[command(name = "sipbox", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "Examples:
  sipbox run --as echo -- ./server 7000            make what it listens on reachable as `echo`
  sipbox run --to echo -- ./client 198.18.0.9 7000 whatever it connects to is `echo`
  sipbox run --map web.test:80=web -- curl http://web.test/
  sipbox doctor                                    what this kernel has";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a program with its sockets as SIP sessions
    Run(Run),
    /// Run a hub (registrar and proxy) in the foreground
    Hub(HubArguments),
    /// Print which programs can be reached: names, descriptions, and the URIs that lead to them
    Peers(crate::peers::Arguments),
    /// Find out whether a peer's run is reached, by which path, and how long a round trip takes
    Ping(crate::ping::Arguments),
    /// Print what this user's runs are doing: programs, sockets, sessions, paths
    Status(crate::status::Arguments),
    /// Try what sipbox needs of this kernel, and print the table
    Doctor,
    /// Find out what stands between this host and the public network, and which path to expect
    Netcheck(Netcheck),
}

/// Arguments of `sipbox netcheck`.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 a path was found, 1 none was found, 2 bad flags.")]
pub struct Netcheck {
    /// A STUN server to ask; one with two addresses (RFC 5780) tells how NATs behave. May be repeated
    #[arg(long, value_name = "HOST[:PORT]")]
    pub stun: Vec<String>,
    /// A TURN server to ask for a relay, by UDP and by TCP, or with turns: by TLS; its password is read from SIPBOX_TURN_PASSWORD. May be
    /// repeated
    #[arg(long, value_name = "USER@HOST[:PORT]")]
    pub turn: Vec<String>,
    /// Who asks: his user is the one at the TURN servers of the registrar's domain
    #[arg(long = "as", value_name = "NAME|URI")]
    pub as_uri: Option<String>,
    #[command(flatten)]
    pub home: Home,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `sipbox run`.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: the program's (128+n on signal n); 2 bad policy or flags, 126 not executable, \
                        127 not found, 125 sipbox itself failed.")]
pub struct Run {
    /// Who the program is: a name at the hub, or a sip: URI. What it binds is then reachable
    #[arg(long = "as", value_name = "NAME|URI")]
    pub as_uri: Option<String>,
    /// Where every address leads
    #[arg(long, value_name = "NAME|URI")]
    pub to: Option<String>,
    /// Where one name or address leads; may be repeated
    #[arg(long, value_name = "HOST:PORT=URI")]
    pub map: Vec<String>,
    /// What peers read of what it binds, by `sipbox peers`. Without it the program can be called, and is shown to nobody
    #[arg(long, value_name = "TEXT")]
    pub publish: Option<String>,
    #[command(flatten)]
    pub home: Home,
    /// What carries the bytes: auto (directly on this machine, else encrypted), direct (only on this machine), or always encrypted:
    /// quic, datachannel (as WebRTC does it) or tls (only where the ends reach each other by TCP)
    #[arg(long, value_name = "auto|direct|quic|datachannel|tls")]
    pub flow: Option<String>,
    /// Also talk in the clear with peers on other machines, where they take nothing better
    #[arg(long)]
    pub cleartext: bool,
    /// A STUN server, which tells this end's address as seen from outside; may be repeated. Without --stun and --turn: those that the registrar
    /// tells of, or that DNS names for its domain (_stun._udp, _turn._udp, _turn._tcp, _turns._tcp)
    #[arg(long, value_name = "HOST[:PORT]")]
    pub stun: Vec<String>,
    /// A TURN server, which relays where there is no other way: USER@HOST[:PORT][?transport=tcp], by TLS turns:USER@HOST[:PORT]; may be repeated.
    /// The password is read from SIPBOX_TURN_PASSWORD or as the policy says
    #[arg(long, value_name = "USER@HOST[:PORT]")]
    pub turn: Vec<String>,
    /// The policy of the program, a TOML file
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Where the program's sockets are: `netns` gives it a network of its own, where that is allowed (`sipbox doctor`): fewer calls are
    /// trapped, and what passes the filter finds no way out; data goes through a relay. `auto` is seccomp, where data flows directly
    #[arg(long, value_enum, default_value_t = Isolation::Auto, value_name = "HOW")]
    pub isolation: Isolation,
    /// Print a line for each trapped call: call, arguments, result, time, rule
    #[arg(long)]
    pub trace: bool,
    /// Print a line for each SIP message
    #[arg(long)]
    pub ladder: bool,
    /// The program and its arguments
    #[arg(required = true, last = true, value_name = "PROGRAM")]
    pub command: Vec<OsString>,
}

/// Where to register, and whom to believe there.
#[derive(Debug, Args)]
pub struct Home {
    /// The registrar, instead of this user's own hub: sip:HOST[:PORT][;transport=tcp|tls] or sips:HOST. The password is
    /// read from SIPBOX_PASSWORD or as the policy says
    #[arg(long, value_name = "URI")]
    pub registrar: Option<String>,
    /// Authorities that may vouch for the certificates of registrar and TURN servers (PEM), instead of those of this machine
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The SHA-256 of the only certificate that is taken from a registrar
    #[arg(long, value_name = "HEX", conflicts_with = "tls_ca")]
    pub tls_fingerprint: Option<String>,
    /// The DNS server that knows where the registrar and its STUN and TURN servers are, instead of this machine's
    #[arg(long, value_name = "IP:PORT")]
    pub dns: Option<SocketAddr>,
}

/// How a program is kept apart from the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Isolation {
    /// What suits most: seccomp
    Auto,
    /// Every socket call with an address is answered by the supervisor
    Seccomp,
    /// A network namespace of its own besides
    Netns,
}

/// Arguments of `sipbox hub`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct HubArguments {
    #[command(subcommand)]
    pub command: Option<HubCommand>,
    /// Address to listen on, UDP and TCP; may be repeated. Without users only addresses of this machine's loopback are taken
    #[arg(long, value_name = "IP:PORT", required_unless_present_any = ["auto", "listen_tls", "listen_ws", "listen_wss"])]
    pub listen: Vec<SocketAddr>,
    /// Address to take connections by TLS on; may be repeated
    #[arg(long, value_name = "IP:PORT")]
    pub listen_tls: Vec<SocketAddr>,
    /// Address to take WebSocket connections on (RFC 7118); may be repeated
    #[arg(long, value_name = "IP:PORT")]
    pub listen_ws: Vec<SocketAddr>,
    /// The same, by TLS; may be repeated
    #[arg(long, value_name = "IP:PORT")]
    pub listen_wss: Vec<SocketAddr>,
    /// The hub's certificate (PEM) [default: ~/.config/sipbox/hub.crt, made if there is none]. SIGHUP reads it again
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_certificate: Option<PathBuf>,
    /// Its private key (PEM, mode 0600)
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,
    /// By TLS, take only clients with a certificate of these authorities (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// A web site whose pages may connect by WebSocket, as `https://example.org`; may be repeated
    #[arg(long, value_name = "ORIGIN")]
    pub origin: Vec<String>,
    /// A domain that the hub is responsible for, beside its own addresses; may be repeated [default: sipbox.invalid]
    #[arg(long, value_name = "NAME")]
    pub domain: Vec<String>,
    /// Another domain that the hub's users may call and watch somebody in: DNS says where it is (RFC 3263). May be repeated; requests for all
    /// others are refused. With --listen-tls it is spoken to by TLS, too, and its users are let in who come with its certificate
    #[arg(long, value_name = "DOMAIN")]
    pub foreign: Vec<String>,
    /// The authorities (PEM) whose certificates tell that somebody is such a domain [default: those of this machine]
    #[arg(long, value_name = "FILE", requires = "foreign")]
    pub foreign_ca: Option<PathBuf>,
    /// The DNS server that knows where these are, instead of this machine's
    #[arg(long, value_name = "IP:PORT", requires = "foreign")]
    pub dns: Option<SocketAddr>,
    /// Who may register and call; see `sipbox hub user` [default: ~/.config/sipbox/hub.users, if it is there]. SIGHUP reads it again
    #[arg(long, value_name = "FILE")]
    pub users: Option<PathBuf>,
    /// Ask for passwords by MD5 alone: older agents (baresip 1.0, sipsak) give up when SHA-256 is offered beside it
    #[arg(long)]
    pub digest_md5: bool,
    /// A list of users, which `sipbox peers NAME` shows like one of them; may be repeated
    #[arg(long, value_name = "NAME=USER,..", value_parser = group)]
    pub group: Vec<(String, Vec<String>)>,
    /// Where the registrations are kept, so that they outlive the hub, however it ends
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Requests that one address may send in a second; 0: any number
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub rate: u32,
    /// Address to show what the hub is doing on, as a web page and as numbers for Prometheus (/metrics), to whoever can
    /// connect there
    #[arg(long, value_name = "IP:PORT")]
    pub page: Option<SocketAddr>,
    /// Also be a STUN and TURN server on this address, UDP and TCP, and tell it to those who register; may be repeated. With two addresses of a
    /// family it also tells how NATs behave (RFC 5780)
    #[arg(long, value_name = "IP:PORT")]
    pub turn: Vec<SocketAddr>,
    /// Ports of the relays
    #[arg(long, value_name = "FIRST-LAST", default_value = "49152-65535", value_parser = ports, requires = "turn")]
    pub turn_ports: RangeInclusive<u16>,
    /// Networks that may be relayed to although they are loopback, private or the like; may be repeated
    #[arg(long, value_name = "NETWORK", requires = "turn")]
    pub turn_allow: Vec<Network>,
    /// Print a line for each SIP message
    #[arg(long)]
    pub ladder: bool,
    /// The user's own hub, as `sipbox run` starts it
    #[arg(long, hide = true, conflicts_with = "listen")]
    pub auto: bool,
}

/// `FIRST-LAST`
fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(first..=last),
        _ => Err("write FIRST-LAST, such as 50000-50999".to_owned()),
    }
}

/// `NAME=USER,..`
fn group(text: &str) -> Result<(String, Vec<String>), String> {
    let (name, members) = text.split_once('=').ok_or("write NAME=USER,USER, such as friends=alice,bob")?;
    let members: Vec<&str> = members.split(',').collect();
    let strange =
        |name: &str| name.is_empty() || name.chars().any(|c| c.is_whitespace() || matches!(c, '@' | ':' | ';' | '='));
    match [name].iter().chain(&members).find(|name| strange(name)) {
        Some(wrong) => Err(format!("{wrong:?} is not the name of a user or a list")),
        None => Ok((name.to_owned(), members.into_iter().map(str::to_owned).collect())),
    }
}

/// What else than serving a hub can do.
#[derive(Debug, Subcommand)]
pub enum HubCommand {
    /// Who may register and call at a hub
    User {
        /// The file they are kept in [default: ~/.config/sipbox/hub.users]
        #[arg(long, value_name = "FILE", global = true)]
        users: Option<PathBuf>,
        #[command(subcommand)]
        command: UserCommand,
    },
}

/// What can be done with users.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Add a user or set the password, which is asked for, or read from standard input
    Add {
        /// The name: the part of the address of record before the @
        name: String,
    },
    /// Remove a user
    Remove {
        /// The name
        name: String,
    },
    /// Print the names
    List,
}

/// The policy of a file under a command line, or that of the command line alone.
pub fn policy(file: Option<&Path>, flags: &Flags) -> Result<Policy, String> {
    match file {
        Some(file) => {
            let name = file.display().to_string();
            let text = std::fs::read_to_string(file).map_err(|e| format!("the policy {name} cannot be read: {e}"))?;
            Policy::parse_with_flags(&name, &text, flags).map_err(|e| e.to_string())
        }
        None => Policy::from_flags(flags).map_err(|e| e.to_string()),
    }
}
