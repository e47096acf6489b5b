//! `flow`, `flows` and `cleartext` of `[default]` and `[[connect]]`, `--flow` and `--cleartext`: what may carry the bytes between two programs.

use crate::document::{Located, Section, choose};
use crate::error::Wrong;

/// What carries the bytes of an encrypted flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encrypted {
    /// QUIC on a pair of addresses that ICE found: between two sipboxes, through NATs.
    Quic,
    /// Data channels on such a pair (RFC 8831): with any standard peer.
    DataChannel,
    /// TLS over TCP (RFC 8122), where the ends reach each other: streams only.
    Tls,
}

/// Which flows there may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flows {
    /// In the clear where both ends are on this machine; comes before all others.
    pub local: bool,
    /// Encrypted ones, best first.
    pub encrypted: Vec<Encrypted>,
    /// In the clear between machines too; comes after all others.
    pub cleartext: bool,
}

impl Default for Flows {
    fn default() -> Self {
        Flows { local: true, ..Flows::of(&[Encrypted::Quic, Encrypted::DataChannel, Encrypted::Tls]) }
    }
}

impl Flows {
    fn of(encrypted: &[Encrypted]) -> Flows {
        Flows { local: false, encrypted: encrypted.to_vec(), cleartext: false }
    }

    /// Whether this one may be.
    pub fn has(&self, encrypted: Encrypted) -> bool {
        self.encrypted.contains(&encrypted)
    }

    /// As a user writes them: `"direct", "quic"`.
    pub fn words(&self) -> String {
        let encrypted = WORDS.iter().filter_map(|(word, kind)| Some((*word, (*kind)?)));
        let place = |kind| self.encrypted.iter().position(|own| *own == kind);
        let mut named: Vec<_> = encrypted.filter_map(|(word, kind)| Some((place(kind)?, word))).collect();
        named.sort();
        let direct = self.local.then_some("direct");
        let words = direct.into_iter().chain(named.into_iter().map(|(_, word)| word));
        words.map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
    }

    fn or_cleartext(self, cleartext: Option<bool>) -> Flows {
        match cleartext {
            Some(true) => Flows { local: true, cleartext: true, ..self },
            Some(false) => Flows { cleartext: false, ..self },
            None => self,
        }
    }
}

/// Words of `flows`; None: in the clear on this machine.
const WORDS: [(&str, Option<Encrypted>); 4] = [
    ("direct", None),
    ("quic", Some(Encrypted::Quic)),
    ("datachannel", Some(Encrypted::DataChannel)),
    ("tls", Some(Encrypted::Tls)),
];

/// The word of `flow` and `--flow`.
pub(crate) fn flow(text: &str) -> Result<Flows, Wrong> {
    if text == "auto" {
        return Ok(Flows::default());
    }
    let words: Vec<_> = [("auto", None)].into_iter().chain(WORDS).collect();
    Ok(match choose("flow", text, &words)? {
        None => Flows { local: true, ..Flows::of(&[]) },
        Some(encrypted) => Flows::of(&[encrypted]),
    })
}

/// What a section says about flows, as far as it does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Said {
    flows: Option<Flows>,
    cleartext: Option<bool>,
}

impl Said {
    /// What a command line says.
    pub fn of(flows: Option<Flows>, cleartext: bool) -> Said {
        Said { flows, cleartext: cleartext.then_some(true) }
    }

    /// What `flows` and `cleartext` say and, in `[default]`, `flow`.
    pub fn read(section: &mut Section<'_, '_>, with_flow: bool) -> Said {
        let one = if with_flow { section.parsed("flow", "\"quic\"", flow) } else { None };
        let several = section.texts("flows", "[\"quic\", \"tls\"]");
        let cleartext = section.boolean("cleartext").map(|cleartext| cleartext.value);
        if let (Some(_), Some(several)) = (&one, &several) {
            let wrong = Wrong::new("flow and flows say the same thing in two ways");
            section.mistake(&several.span, wrong.help("keep one of them"));
        }
        let several = several.map(|several| list(section, &several, cleartext == Some(true)));
        Said { flows: one.map(|one| one.value).or(several), cleartext }
    }

    /// What is said here, where nothing is said what `before` says.
    pub fn or(self, before: &Flows) -> Flows {
        match self.flows {
            // Who lists flows lists all of them.
            Some(flows) => flows.or_cleartext(self.cleartext),
            None => before.clone().or_cleartext(self.cleartext),
        }
    }

    /// What is said here, and for the rest `before`. Who names flows here has said all of it: nothing of `before` makes them weaker.
    pub fn over(self, before: Said) -> Said {
        match self.flows {
            Some(_) => self,
            None => Said { flows: before.flows, cleartext: self.cleartext.or(before.cleartext) },
        }
    }
}

fn list(section: &Section<'_, '_>, several: &Located<Vec<Located<String>>>, cleartext: bool) -> Flows {
    let mut flows = Flows::of(&[]);
    for (place, one) in several.value.iter().enumerate() {
        match section.source.check(&one.span, choose("flows", &one.value, &WORDS)) {
            Some(None) if place > 0 => {
                let wrong = Wrong::new(
                    "\"direct\" comes first: it is for peers on this machine, and needs no encryption there",
                );
                section.mistake(&one.span, wrong.help("to allow cleartext between machines, write cleartext = true"));
            }
            Some(None) => flows.local = true,
            Some(Some(kind)) if flows.has(kind) => {
                section.mistake(&one.span, Wrong::new("it is there twice").help("keep one of them"));
            }
            Some(Some(kind)) => flows.encrypted.push(kind),
            None => {}
        }
    }
    if several.value.is_empty() && !cleartext {
        let wrong = Wrong::new("without any flow nothing can be connected");
        section.mistake(&several.span, wrong.help("name one, or write cleartext = true, or leave flows out"));
    }
    flows
}
