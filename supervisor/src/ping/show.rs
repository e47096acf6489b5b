//! What a ping prints.

use std::time::Duration;

use sipcore::agent::Capabilities;
use sipcore::flow::{Candidate, Link, Path};
use sipcore::message::Uri;

use crate::json::{quoted, text};
use crate::say;

/// How it ended.
pub enum Outcome {
    /// The round trips were made, or lost.
    Done,
    /// The peer was reached, and more is not to be had of it.
    Reached(String),
    /// There is no session, but the peer says what it is.
    Known {
        why: String,
        known: Box<Capabilities>,
    },
    Failed(String),
}

impl Outcome {
    /// The same, with what else was the matter: that may be why it got nothing.
    pub fn with_reason(self, trouble: Option<String>) -> Outcome {
        match (self, trouble) {
            (Outcome::Failed(why), Some(also)) => Outcome::Failed(format!("{why}; {also}")),
            (Outcome::Known { why, known }, Some(also)) => Outcome::Known { why: format!("{why}; {also}"), known },
            (outcome, _) => outcome,
        }
    }
}

/// What has been shown.
pub struct Shown {
    json: bool,
    target: String,
    answered: Option<String>,
    path: Option<Path>,
    candidates: [Vec<Candidate>; 2],
    pairs: (usize, usize),
    setup: Option<Duration>,
    rounds: Vec<Duration>,
    lost: usize,
}

impl Shown {
    pub fn new(target: &Uri, json: bool) -> Shown {
        Shown {
            json,
            target: target.to_string(),
            answered: None,
            path: None,
            candidates: Default::default(),
            pairs: (0, 0),
            setup: None,
            rounds: Vec::new(),
            lost: 0,
        }
    }

    fn line(&self, text: &str) {
        if !self.json {
            println!("{text}");
        }
    }

    pub fn answered(&mut self, by: &Uri) {
        self.answered = Some(by.to_string());
        self.line(&format!("{} answers as {by}", self.target));
    }

    pub fn connected(&mut self, link: &Link, took: Duration) {
        let tried = link.road().tried();
        self.path = link.road().path();
        self.candidates = [tried.local, tried.remote];
        self.pairs = (tried.checked, tried.pairs);
        self.setup = Some(took);
        for (who, all) in ["this end", "the peer"].into_iter().zip(&self.candidates) {
            let all: Vec<String> = all.iter().map(|c| format!("{} {}", c.kind, c.address)).collect();
            self.line(&format!("  {who:<9} {}", all.join(", ")));
        }
        self.line(&format!("  checked   {} of {} pairs", self.pairs.0, self.pairs.1));
        if let Some(path) = &self.path {
            self.line(&format!("  path      {}", spoken(path)));
        }
        self.line(&format!("  flow      quic, encrypted end to end; set up in {}", millis(took)));
    }

    pub fn round(&mut self, number: u32, round: Option<Duration>, link: &Link) {
        match round {
            Some(round) => {
                self.rounds.push(round);
                self.line(&format!("{number}: {}", millis(round)));
            }
            None => {
                self.lost += 1;
                self.line(&format!("{number}: no answer"));
            }
        }
        let path = link.road().path();
        if path != self.path {
            self.path = path;
            if let Some(path) = &path {
                self.line(&format!("  path      {}", spoken(path)));
            }
        }
    }

    /// The end: the exit status.
    pub fn end(mut self, outcome: Outcome) -> i32 {
        self.rounds.sort_unstable();
        let status = match &outcome {
            Outcome::Done => i32::from(self.rounds.is_empty()),
            Outcome::Reached(_) => 0,
            Outcome::Known { .. } | Outcome::Failed(_) => 1,
        };
        if self.json {
            println!("{}", self.json(&outcome));
            return status;
        }
        match &outcome {
            Outcome::Done => {
                if let Some([least, median, most]) = self.summary() {
                    let (made, all) = (self.rounds.len(), self.rounds.len() + self.lost);
                    let (least, median, most) = (millis(least), millis(median), millis(most));
                    println!("{made} of {all} round trips: min {least}, median {median}, max {most}");
                }
            }
            Outcome::Reached(words) => println!("{words}"),
            Outcome::Known { why, known } => {
                say::line(why);
                let software = known.software.as_deref().unwrap_or("something that does not say what it is");
                say::line(&format!(
                    "{} is there all the same: {software}, it answers OPTIONS in {}, takes {} and reads {}",
                    self.target,
                    millis(known.round_trip),
                    known.methods.join(", "),
                    if known.accepts.is_empty() { "application/sdp".to_owned() } else { known.accepts.join(", ") }
                ));
            }
            Outcome::Failed(why) => say::line(why),
        }
        status
    }

    /// Least, median, most.
    fn summary(&self) -> Option<[Duration; 3]> {
        let middle = self.rounds.len() / 2;
        Some([*self.rounds.first()?, *self.rounds.get(middle)?, *self.rounds.last()?])
    }

    fn json(&self, outcome: &Outcome) -> String {
        let number = |d: Duration| format!("{:.3}", d.as_secs_f64() * 1000.0);
        let maybe = |d: Option<Duration>| d.map_or_else(|| "null".to_owned(), number);
        let candidates = |all: &[Candidate]| {
            let all: Vec<String> = all
                .iter()
                .map(|c| format!("{{\"kind\":\"{}\",\"address\":{}}}", c.kind, quoted(&c.address.to_string())))
                .collect();
            format!("[{}]", all.join(","))
        };
        let rounds: Vec<String> = self.rounds.iter().copied().map(number).collect();
        let [least, median, most] = self.summary().map_or([None; 3], |all| all.map(Some));
        let (error, software) = match outcome {
            Outcome::Done => (None, None),
            Outcome::Known { why, known } => (Some(why.as_str()), known.software.as_deref()),
            Outcome::Reached(why) | Outcome::Failed(why) => (Some(why.as_str()), None),
        };
        let path = self.path.as_ref();
        format!(
            "{{\"uri\":{},\"answered_by\":{},\"path\":{},\"local\":{},\"remote\":{},\"flow\":{},\"setup_ms\":{},\
             \"candidates\":{{\"local\":{},\"remote\":{}}},\"pairs_checked\":{},\"pairs\":{},\"rtt_ms\":[{}],\"min_ms\":{},\
             \"median_ms\":{},\"max_ms\":{},\"lost\":{},\"software\":{},\"error\":{}}}",
            quoted(&self.target),
            text(self.answered.as_deref()),
            text(path.map(|p| p.word())),
            text(path.map(|p| p.local.to_string()).as_deref()),
            text(path.map(|p| p.remote.to_string()).as_deref()),
            text(path.map(|_| "quic")),
            maybe(self.setup),
            candidates(&self.candidates[0]),
            candidates(&self.candidates[1]),
            self.pairs.0,
            self.pairs.1,
            rounds.join(","),
            maybe(least),
            maybe(median),
            maybe(most),
            self.lost,
            text(software),
            text(error)
        )
    }
}

fn spoken(path: &Path) -> String {
    format!("{}: {} {} to {} {}", path.word(), path.local_kind, path.local, path.remote_kind, path.remote)
}

fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}
