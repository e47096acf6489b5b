//! `sipbox ping`: whether a peer's run is reached, by which path, and how long a round trip takes.

mod answer;
mod show;

pub use answer::{answer, is_ping};

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use policy::Flags;
use sipcore::agent::{Agent, CallError, End, Label, Offer, Proto, Transport};
use sipcore::flow::{Certificate, Echo, Gathered, Link, LinkConfig, LinkError, Role};
use sipcore::message::Uri;

use crate::entry::{Entry, Next};
use crate::flow::{self, Settings};
use crate::identity::{self, Identity};
use crate::{cli, ladder, say};
use show::{Outcome, Shown};

/// Between two round trips.
const PERIOD: Duration = Duration::from_secs(1);
/// How long one may take.
const ROUND_WITHIN: Duration = Duration::from_secs(5);
/// How long a peer may ring, and OPTIONS may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
const FAREWELL: Duration = Duration::from_secs(1);
const FAILED: i32 = 1;
const BAD_FLAGS: i32 = 2;

/// Arguments of `sipbox ping`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sipbox ping echo                              the run of `echo` at this user's own hub
  sipbox ping -c 3 --registrar sip:sip.example.org --as sip:alice@example.org --stun stun.example.org sip:bob@example.org

Exit status: 0 a round trip was made, 1 none was, 2 bad flags.")]
pub struct Arguments {
    /// Whom: a name at the hub, or a sip: URI
    #[arg(value_name = "NAME|URI")]
    pub uri: String,
    /// Round trips
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// Print JSON: one object
    #[arg(long)]
    pub json: bool,
    /// Who asks: peers may answer some only [default: nobody in particular]
    #[arg(long = "as", value_name = "NAME|URI")]
    pub as_uri: Option<String>,
    #[command(flatten)]
    pub home: cli::Home,
    /// A STUN server, as for `sipbox run`; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    pub stun: Vec<String>,
    /// A TURN server, as for `sipbox run`; may be repeated. The password is read from SIPBOX_TURN_PASSWORD
    #[arg(long, value_name = "USER@HOST:PORT")]
    pub turn: Vec<String>,
    /// A policy, whose [identity] and [ice] are used
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Print a line for each SIP message
    #[arg(long)]
    pub ladder: bool,
}

/// What a ping needs.
struct Ping {
    identity: Identity,
    settings: Settings,
    target: Uri,
    count: u32,
}

/// Why there is no connection.
enum Failed {
    /// The peer, or a server on the way, takes no session.
    Refused(CallError),
    Otherwise(String),
}

/// Runs the command and returns the exit status.
pub fn run(arguments: Arguments) -> i32 {
    let json = arguments.json;
    let ping = match prepare(arguments) {
        Ok(ping) => ping,
        Err(why) => {
            say::line(&why);
            return BAD_FLAGS;
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            say::line(&e.to_string());
            return FAILED;
        }
    };
    let mut shown = Shown::new(&ping.target, json);
    let outcome = runtime.block_on(ping.go(&mut shown));
    runtime.shutdown_background();
    shown.end(outcome)
}

fn prepare(arguments: Arguments) -> Result<Ping, String> {
    let flags = Flags {
        as_uri: arguments.as_uri,
        registrar: arguments.home.registrar.clone(),
        stun: arguments.stun,
        turn: arguments.turn,
        ..Flags::default()
    };
    let policy = cli::policy(arguments.policy.as_deref(), &flags)?;
    let tap = arguments.ladder.then(ladder::tap);
    let identity = Identity::new(&policy, &arguments.home, tap, || format!("ping-{}", std::process::id()))?;
    let password = identity::password("[ice]", &policy.ice().credentials, identity::TURN_PASSWORD_VARIABLE)?;
    let settings = Settings::new(policy.flows().clone(), policy.ice().clone(), password, identity.around())?;
    let uri = policy::expand_uri(&arguments.uri, policy.domain()).map_err(|e| e.to_string())?;
    let target = Uri::from_str(&uri).map_err(|e| format!("{}: {e}", arguments.uri))?;
    Ok(Ping { identity, settings, target, count: arguments.count })
}

impl Ping {
    async fn go(self, shown: &mut Shown) -> Outcome {
        // Nobody listens for calls: who calls this name does not mean the one who asks under it, and is told that he is not there.
        let (agent, _) = match self.identity.start_agent(Ipv4Addr::LOCALHOST.into(), Transport::Udp).await {
            Ok(started) => started,
            Err(why) => return Outcome::Failed(why),
        };
        let outcome = match Entry::new(&self.identity, &agent).await {
            Ok(entry) => self.exchange(&agent, entry, shown).await,
            Err(why) => Outcome::Failed(why),
        };
        agent.shutdown(FAREWELL).await;
        outcome
    }

    async fn exchange(&self, agent: &Agent, mut entry: Entry, shown: &mut Shown) -> Outcome {
        let mut started = Instant::now();
        let mut connected = self.connect(agent, shown).await;
        let mut trouble = entry.trouble();
        if let Err(Failed::Refused(CallError::Rejected { status: 403, .. })) = &connected {
            match entry.refused(agent).await {
                Next::Again => {
                    started = Instant::now();
                    connected = self.connect(agent, shown).await;
                }
                Next::Stands => {}
                Next::Barred(why) => trouble = Some(why),
            }
        }
        let link = match connected {
            Ok(link) => link,
            Err(Failed::Refused(error)) => return self.refused(agent, &error).await.with_reason(trouble),
            Err(Failed::Otherwise(why)) => return Outcome::Failed(why).with_reason(trouble),
        };
        shown.connected(&link, started.elapsed());
        match link.echo().await {
            Ok(echo) => self.rounds(&link, echo, shown).await,
            // An older sipbox, which knows no echo.
            Err(why) => Outcome::Reached(format!(
                "the peer's run does not answer pings ({why}); its connection stands, with a round trip of {}",
                link.rtt().map_or_else(|| "-".to_owned(), |rtt| format!("{:.1} ms", rtt.as_secs_f64() * 1000.0))
            )),
        }
    }

    /// INVITE, ICE, QUIC.
    async fn connect(&self, agent: &Agent, shown: &mut Shown) -> Result<Link, Failed> {
        let failed = Failed::Otherwise;
        let certificate = Certificate::new().map_err(|e| failed(e.to_string()))?;
        // A peer on this machine has no other address, perhaps.
        let near = agent.local_addr().is_some_and(|address| address.ip().is_loopback());
        let offered = agent.ice_servers();
        let servers = self.settings.servers(if near { None } else { Some(&offered) }).await;
        let also = if near { vec![Ipv4Addr::LOCALHOST.into()] } else { Vec::new() };
        let config = LinkConfig { certificate: Arc::new(certificate), servers, also };
        let gathered = Gathered::start(config).await.map_err(|e| failed(e.to_string()))?;
        self.settings.say_unreached(gathered.unreached_relays());
        let offer = Offer {
            label: Label { proto: Proto::Tcp, port: 0 },
            virtual_source: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            flows: vec![End::Quic(gathered.description().clone())],
        };
        let invited = tokio::time::timeout(ANSWER_WITHIN, agent.invite(&self.target, offer)).await;
        let session = match invited {
            Ok(Ok(session)) => session,
            Ok(Err(error)) => return Err(Failed::Refused(error)),
            Err(_) => {
                return Err(failed(format!("{} did not answer within {} s", self.target, ANSWER_WITHIN.as_secs())));
            }
        };
        shown.answered(&session.remote_aor);
        let End::Quic(remote) = session.end else {
            return Err(failed("the peer took what was not offered".to_owned()));
        };
        let link = gathered.connect(&remote, Role::Offerer).await;
        link.map_err(|why| {
            agent.bye(session.id);
            let advice = match &why {
                LinkError::OtherVersion => flow::advice(&why, session.software.as_deref()),
                _ => "; `sipbox netcheck` says what is between".to_owned(),
            };
            failed(format!("{} answers, but {why}{advice}", self.target))
        })
    }

    /// The peer takes no session: what it says of itself.
    async fn refused(&self, agent: &Agent, error: &CallError) -> Outcome {
        let asked = tokio::time::timeout(ANSWER_WITHIN, agent.options(&self.target)).await;
        match asked {
            Ok(Ok(known)) => Outcome::Known { why: error.to_string(), known: Box::new(known) },
            _ => Outcome::Failed(error.to_string()),
        }
    }

    async fn rounds(&self, link: &Link, mut echo: Echo, shown: &mut Shown) -> Outcome {
        for number in 1..=self.count {
            let next = tokio::time::Instant::now() + PERIOD;
            match echo.round(ROUND_WITHIN).await {
                Ok(round) => shown.round(number, round, link),
                Err(why) => return Outcome::Failed(why.to_string()),
            }
            if number < self.count {
                tokio::time::sleep_until(next).await;
            }
        }
        Outcome::Done
    }
}
