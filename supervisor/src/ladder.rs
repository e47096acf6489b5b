//! The SIP ladder: each message as one line on stderr.

use std::sync::Arc;
use std::time::Instant;

use sipcore::agent::{Direction, Tap};

/// What comes from the network may be long, and may hold the terminal's control characters.
fn shown(line: &str) -> String {
    const LONGEST: usize = 160;
    let visible = |c: char| if c.is_control() { '.' } else { c };
    let mut text: String = line.chars().take(LONGEST).map(visible).collect();
    if line.chars().nth(LONGEST).is_some() {
        text.push_str("...");
    }
    text
}

/// A tap that prints.
pub fn tap() -> Tap {
    let start = Instant::now();
    Arc::new(move |e| {
        let arrow = match e.direction {
            Direction::Sent => "-->",
            Direction::Received => "<--",
        };
        crate::say::trace(&format!(
            "{:9.3} ms  {} {arrow} {}  {}  [{} {}]",
            start.elapsed().as_secs_f64() * 1e3,
            e.local,
            e.remote,
            shown(&e.start_line),
            shown(&e.call_id),
            shown(&e.cseq),
        ));
    })
}
