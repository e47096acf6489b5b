//! The part of a policy that stands on the command line.

use crate::destination::Destination;
use crate::error::{Error, Wrong};
use crate::flows::{self, Said};
use crate::ice::{self, Ice};
use crate::rule::{ConnectRule, Lead, description};
use crate::uri;

/// What the command line says; each as the user typed it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--as URI-or-name`: who the application is. What it binds is then reachable, unless a file says otherwise.
    pub as_uri: Option<String>,
    /// `--to URI-or-name`: where every address leads.
    pub to: Option<String>,
    /// `--map HOST:PORT=URI-or-name`, in the order of the command line; they come before `--to`.
    pub maps: Vec<String>,
    /// `--registrar URI`: the server to register with.
    pub registrar: Option<String>,
    /// `--publish TEXT`: what peers read of the sockets that no `[[bind]]` is about.
    pub publish: Option<String>,
    /// `--flow auto|direct|quic|tls`: what carries the bytes, whatever a file says.
    pub flow: Option<String>,
    /// `--cleartext`: also in the clear between machines.
    pub cleartext: bool,
    /// `--stun HOST:PORT`, each: they replace those of a file.
    pub stun: Vec<String>,
    /// `--turn USER@HOST:PORT`, each: they replace those of a file.
    pub turn: Vec<String>,
}

const AS_EXAMPLE: &str = "--as alice or --as sip:alice@example.org";
const TO_EXAMPLE: &str = "--to echo or --to sip:alice@example.org";
const MAP_EXAMPLE: &str = "--map game.example:30000=sip:alice@example.org";
const FLOW_EXAMPLE: &str = "--flow quic";
const STUN_EXAMPLE: &str = "--stun stun.example.org:3478";
const TURN_EXAMPLE: &str = "--turn alice@relay.example.org:3478";
const PUBLISH_EXAMPLE: &str = "--as bob --publish \"Bob's world\"";
const REGISTRAR_EXAMPLE: &str = "--registrar sip:sip.example.org";

fn flag_error(flag: &'static str, given: &str, wrong: Wrong, example: &str) -> Error {
    let wrong_words = match wrong.help {
        Some(help) => format!("{}; {help}", wrong.what),
        None => wrong.what,
    };
    Error::Flag { flag, given: given.to_owned(), wrong: wrong_words, example: example.to_owned() }
}

impl Flags {
    /// The address of record of `--as`, where bare names are users at `domain`.
    pub(crate) fn identity(&self, domain: &str) -> Result<Option<String>, Error> {
        let Some(given) = &self.as_uri else { return Ok(None) };
        let uri = uri::address_of_record(given, domain);
        uri.map(Some).map_err(|wrong| flag_error("--as", given, wrong, AS_EXAMPLE))
    }

    pub(crate) fn registrar(&self) -> Result<Option<String>, Error> {
        let Some(given) = &self.registrar else { return Ok(None) };
        uri::server(given).map(Some).map_err(|wrong| flag_error("--registrar", given, wrong, REGISTRAR_EXAMPLE))
    }

    /// The description of `--publish`; `named`: the application is somebody.
    pub(crate) fn publish(&self, named: bool) -> Result<Option<String>, Error> {
        let Some(given) = &self.publish else { return Ok(None) };
        let text = description(given).and_then(|text| match named {
            true => Ok(text),
            false => Err(Wrong::new("nobody can be told of a program without a name").help("add --as NAME")),
        });
        text.map(Some).map_err(|wrong| flag_error("--publish", given, wrong, PUBLISH_EXAMPLE))
    }

    pub(crate) fn flows(&self) -> Result<Said, Error> {
        let flow = self
            .flow
            .as_ref()
            .map(|given| flows::flow(given).map_err(|wrong| flag_error("--flow", given, wrong, FLOW_EXAMPLE)));
        Ok(Said::of(flow.transpose()?, self.cleartext))
    }

    /// The servers of the file, those of the command line in their place.
    pub(crate) fn ice(&self, file: Ice) -> Result<Ice, Error> {
        let mut ice = file;
        for (flag, given, parse, into, example) in [
            ("--stun", &self.stun, ice::stun as fn(&str) -> _, &mut ice.stun, STUN_EXAMPLE),
            ("--turn", &self.turn, ice::turn, &mut ice.turn, TURN_EXAMPLE),
        ] {
            if given.is_empty() {
                continue;
            }
            into.clear();
            for one in given {
                if into.len() == ice::MOST_SERVERS {
                    let wrong = Wrong::new(format!("{} servers are enough", ice::MOST_SERVERS));
                    return Err(flag_error(flag, one, wrong.help("leave some out"), example));
                }
                into.push(parse(one).map_err(|wrong| flag_error(flag, one, wrong, example))?);
            }
        }
        Ok(ice)
    }

    /// The rules of `--map` and `--to`, in the order in which they are tried.
    pub(crate) fn rules(&self, domain: &str) -> Result<Vec<ConnectRule>, Error> {
        let mut rules: Vec<ConnectRule> = Vec::new();
        for given in &self.maps {
            let rule = map_rule(given, domain).map_err(|wrong| flag_error("--map", given, wrong, MAP_EXAMPLE))?;
            if let Some(earlier) = rules.iter().find(|earlier| earlier.covers(&rule)) {
                let wrong = Wrong::new(format!("it is never met: {} comes first and covers it", earlier.words));
                return Err(flag_error(
                    "--map",
                    given,
                    wrong.help("put this one before it, or leave it out"),
                    MAP_EXAMPLE,
                ));
            }
            rules.push(rule);
        }
        if let Some(given) = &self.to {
            let uri = uri::expand(given, domain).map_err(|wrong| flag_error("--to", given, wrong, TO_EXAMPLE))?;
            let lead = Lead::Uri { uri, flows: Said::default() };
            rules.push(ConnectRule { to: Destination::ANY, proto: None, lead, words: format!("--to {given}") });
        }
        Ok(rules)
    }
}

/// HOST:PORT=URI. Neither a host nor a port holds `=`, so the first one ends them; a URI may hold more.
fn map_rule(given: &str, domain: &str) -> Result<ConnectRule, Wrong> {
    let Some((to, target)) = given.split_once('=') else {
        let help = format!("write {given}=URI");
        return Err(Wrong::new("there is no `=` between the address and the URI").help(help));
    };
    let to = Destination::parse(to)?;
    let uri = uri::expand(target, domain)?;
    Ok(ConnectRule {
        to,
        proto: None,
        lead: Lead::Uri { uri, flows: Said::default() },
        words: format!("--map {given}"),
    })
}
