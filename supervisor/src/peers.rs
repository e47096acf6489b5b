//! `sipbox peers`: who publishes what, once or as it changes.

mod show;
mod view;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use clap::Args;
use policy::Flags;
use sipcore::agent::{Agent, Event, PresenceError, SubscriptionId, Transport};
use sipcore::message::Uri;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::entry::{Entry, Next, check_password};
use crate::identity::{Identity, plain};
use crate::{cli, hub, ladder, say};
use view::{Change, View};

/// How long the answers to a question are waited for.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the end waits for the answers to its last messages.
const FAREWELL: Duration = Duration::from_secs(1);
/// Subscriptions of a watch are refreshed often: that is how a registrar that has restarted and forgotten them is noticed.
const EXPIRES: Duration = Duration::from_secs(30);
const FAILED: i32 = 1;
const BAD_FLAGS: i32 = 2;

/// Arguments of `sipbox peers`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sipbox peers                                  who has published something at this user's own hub (sipbox run --publish)
  sipbox peers --watch                          the same, and a line for each that comes (+), changes (~) or goes (-)
  sipbox peers --registrar sip:sip.example.org --as sip:alice@example.org bob carol
A program runs with what is found: sipbox run --to 'URI' -- PROGRAM

Exit status: 0, also when nobody is there; 1 when somebody cannot be asked about, 2 bad flags.")]
pub struct Arguments {
    /// Whom to look for: names at the hub or registrar, sip: URIs, or lists of people [default: everybody at the hub]
    #[arg(value_name = "NAME|URI")]
    pub whom: Vec<String>,
    /// Go on, and print a line for each change, until SIGINT or SIGTERM
    #[arg(long)]
    pub watch: bool,
    /// Print JSON: one array, with --watch one object a line
    #[arg(long)]
    pub json: bool,
    /// Who asks: programs may be shown to some only [default: the name of this user]
    #[arg(long = "as", value_name = "NAME|URI")]
    pub as_uri: Option<String>,
    #[command(flatten)]
    pub home: cli::Home,
    /// A policy, whose [identity] is used
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Print a line for each SIP message
    #[arg(long)]
    pub ladder: bool,
}

/// Runs the command and returns the exit status.
pub fn run(arguments: Arguments) -> i32 {
    let (identity, domain, whom) = match prepare(&arguments) {
        Ok(prepared) => prepared,
        Err(why) => {
            say::line(&why);
            return BAD_FLAGS;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            say::line(&e.to_string());
            return FAILED;
        }
    };
    let (watch, json) = (arguments.watch, arguments.json);
    let status = runtime.block_on(async {
        match Looking::begin(identity, domain, whom, watch, json).await {
            Ok(mut looking) => looking.run().await,
            Err(why) => {
                say::line(&why);
                FAILED
            }
        }
    });
    runtime.shutdown_background();
    status
}

/// Who asks, the domain of bare names, and about whom.
fn prepare(arguments: &Arguments) -> Result<(Identity, String, Vec<Uri>), String> {
    let flags =
        Flags { as_uri: arguments.as_uri.clone(), registrar: arguments.home.registrar.clone(), ..Flags::default() };
    let policy = cli::policy(arguments.policy.as_deref(), &flags)?;
    let tap = arguments.ladder.then(ladder::tap);
    let identity = Identity::new(&policy, &arguments.home, tap, user)?;
    let identity =
        Identity { expires: Some(identity.expires.map_or(EXPIRES, |expires| expires.min(EXPIRES))), ..identity };
    let named = arguments.whom.iter().map(|name| {
        let uri = policy::expand_uri(name, policy.domain()).map_err(|e| e.to_string())?;
        Uri::from_str(&uri).map_err(|e| format!("{name}: {e}"))
    });
    let mut whom: Vec<Uri> = named.collect::<Result<_, String>>()?;
    whom.dedup();
    if whom.is_empty() {
        let domain = format!("sip:{}", policy.domain());
        whom.push(Uri::from_str(&domain).map_err(|e| format!("{domain}: {e}"))?);
    }
    Ok((identity, policy.domain().to_owned(), whom))
}

/// The name of this user.
fn user() -> String {
    let uid = nix::unistd::getuid();
    let name = nix::unistd::User::from_uid(uid).ok().flatten().map(|user| plain(&user.name)).unwrap_or_default();
    if name.is_empty() { format!("user-{uid}") } else { name }
}

/// One that is asked about.
struct Asked {
    uri: Uri,
    /// A notification has come.
    known: bool,
    /// The agent was registered when it asked.
    inside: bool,
}

/// One run of the command.
struct Looking {
    agent: Agent,
    events: tokio::sync::mpsc::UnboundedReceiver<Event>,
    aor: String,
    /// At this user's own hub.
    own_hub: bool,
    entry: Entry,
    domain: String,
    watch: bool,
    json: bool,
    /// Those of whom more may come.
    asked: BTreeMap<SubscriptionId, Asked>,
    view: View,
    failed: bool,
}

impl Looking {
    async fn begin(
        identity: Identity,
        domain: String,
        whom: Vec<Uri>,
        watch: bool,
        json: bool,
    ) -> Result<Looking, String> {
        // On a connection the end of the hub is noticed at once.
        let (agent, events) = identity.start_agent(IpAddr::V4(Ipv4Addr::LOCALHOST), Transport::Tcp).await?;
        let entry = match Entry::new(&identity, &agent).await {
            Ok(entry) => entry,
            Err(why) => {
                agent.shutdown(FAREWELL).await;
                return Err(why);
            }
        };
        let ask = |uri| (agent.subscribe(&uri, !watch), Asked { uri, known: false, inside: false });
        let asked = whom.into_iter().map(ask);
        Ok(Looking {
            asked: asked.collect(),
            agent,
            events,
            own_hub: identity.registrar.is_none(),
            entry,
            aor: identity.aor,
            domain,
            watch,
            json,
            view: View::default(),
            failed: false,
        })
    }

    async fn run(&mut self) -> i32 {
        let outcome = self.follow().await;
        for id in self.asked.keys() {
            self.agent.unsubscribe(*id);
        }
        if let Ok(()) = outcome
            && !self.watch
        {
            // Whoever does not want to read it all is not told that he does not.
            let _ = self.print_all();
        }
        self.agent.shutdown(FAREWELL).await;
        match outcome {
            Err(why) => {
                say::line(&why);
                FAILED
            }
            Ok(()) => i32::from(self.failed),
        }
    }

    /// Until all has been told, until a signal, or until nobody reads any more.
    async fn follow(&mut self) -> Result<(), String> {
        let mut interrupted = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
        let mut terminated = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
        let end = Instant::now() + PATIENCE;
        while !self.asked.is_empty() {
            let event = tokio::select! {
                event = self.events.recv() => event.ok_or("the agent has ended")?,
                _ = interrupted.recv() => return Ok(()),
                _ = terminated.recv() => return Ok(()),
                () = tokio::time::sleep_until(end), if !self.watch => {
                    let missing: Vec<&str> = self.asked.values().map(|asked| asked.uri.as_str()).collect();
                    let seconds = PATIENCE.as_secs();
                    self.failed = true;
                    say::say!("nothing was heard of {} within {seconds} s", missing.join(", "));
                    return Ok(());
                }
            };
            let printed = match event {
                Event::Presence { id, update } => {
                    if let Some(asked) = self.asked.get_mut(&id) {
                        asked.known = true;
                    }
                    let changes = self.view.update(id, update);
                    if self.watch { self.print(&changes) } else { Ok(()) }
                }
                Event::SubscriptionLost { id, error, over } => self.lost(id, &error, over).await,
                // Who calls this name does not mean the one who asks under it.
                Event::Incoming(call) => {
                    call.reject(480, "Temporarily Unavailable");
                    Ok(())
                }
                _ => Ok(()),
            };
            // Nobody reads any more.
            if printed.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A subscription does not stand: it has told all, it is tried again, or nothing comes of it. The error is that of standard output.
    async fn lost(&mut self, id: SubscriptionId, error: &PresenceError, over: bool) -> std::io::Result<()> {
        let Some(asked) = self.asked.get(&id) else { return Ok(()) };
        let told =
            !self.watch && matches!(error, PresenceError::Ended { reason } if asked.known || reason == "timeout");
        if told {
            self.asked.remove(&id);
            return Ok(());
        }
        let words = format!("{}: {error}", self.whose(&asked.uri));
        if self.watch && !over {
            say::say!("{words}; it is tried again");
            self.entry.look_again(&self.agent);
            if self.own_hub {
                // The hub of this user is gone: the next one is at the same address.
                tokio::spawn(async {
                    if let Err(error) = hub::ensure().await {
                        tracing::warn!(%error, "the hub did not start");
                    }
                });
            }
            return Ok(());
        }
        let trouble = match error {
            PresenceError::Rejected { status: 403, .. } if !asked.inside => match self.entry.refused(&self.agent).await
            {
                Next::Again => {
                    let again = Asked { uri: asked.uri.clone(), known: false, inside: self.entry.is_inside() };
                    self.asked.remove(&id);
                    self.asked.insert(self.agent.subscribe(&again.uri, !self.watch), again);
                    return Ok(());
                }
                Next::Stands => None,
                Next::Barred(why) => Some(why),
            },
            // The same is the matter with both.
            PresenceError::NoCredentials { .. } | PresenceError::BadCredentials { .. } => None,
            _ => self.entry.trouble(),
        };
        let advice = self.advice(&asked.uri, error);
        match trouble {
            Some(why) => say::say!("{words}; {advice}; {why}"),
            None => say::say!("{words}; {advice}"),
        }
        self.failed = true;
        if let Some(asked) = self.asked.remove(&id)
            && !over
        {
            self.agent.unsubscribe(id);
            tracing::debug!(uri = %asked.uri, "given up");
        }
        let changes = if self.watch { self.view.forget(id) } else { Vec::new() };
        self.print(&changes)
    }

    fn whose(&self, uri: &Uri) -> String {
        match uri.user() {
            Some(_) => format!("the presence of {uri} is not known"),
            None => format!("who is at {} is not known", uri.host()),
        }
    }

    /// What the user can do.
    fn advice(&self, uri: &Uri, error: &PresenceError) -> String {
        match error {
            PresenceError::Rejected { status: 404 | 416 | 421 | 484, .. } if uri.user().is_none() => {
                "it has no list of everybody: say whom to look for (sipbox peers NAME ...)".to_owned()
            }
            PresenceError::Rejected { status: 404 | 604, .. } => "check the name".to_owned(),
            PresenceError::Rejected { status: 403 | 603, .. } | PresenceError::Ended { .. } => {
                format!("it is not shown to {} (--as)", self.aor)
            }
            PresenceError::Rejected { status: 405 | 489 | 501, .. } => "the server does no presence".to_owned(),
            PresenceError::NoCredentials { .. } => {
                format!("put the password of {} in {}", self.aor, crate::identity::PASSWORD_VARIABLE)
            }
            PresenceError::BadCredentials { .. } => check_password(&self.aor),
            _ => "check that the hub or registrar runs at that address (--registrar)".to_owned(),
        }
    }

    fn print(&self, changes: &[Change]) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        for change in changes {
            match self.json {
                true => writeln!(out, "{}", show::json_line(change, &self.domain))?,
                false => writeln!(out, "{}", show::line(change, &self.domain))?,
            }
        }
        out.flush()
    }

    fn print_all(&self) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.json {
            return writeln!(out, "{}", show::json(self.view.peers(), &self.domain));
        }
        if self.view.peers().next().is_none() {
            if !self.failed {
                say::line("nobody has published anything; `sipbox run --as NAME --publish TEXT -- PROGRAM` does");
            }
            return Ok(());
        }
        out.write_all(show::table(self.view.peers(), &self.domain, SystemTime::now()).as_bytes())
    }
}
