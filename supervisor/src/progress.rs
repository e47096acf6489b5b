//! What a connect() waits for: one line on standard error, written over and taken away again. Only where that is a terminal, and only when the
//! wait is long enough to be wondered at.

use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::time::Duration;

use nix::unistd::{getpgrp, tcgetpgrp};
use parking_lot::Mutex;

/// Nothing is said of what is over within this time.
const DELAY: Duration = Duration::from_millis(400);
/// Columns of the line: what is longer would wrap, and could not be taken away.
const COLUMNS: usize = 79;

/// The waits under way, the latest last.
static WAITS: Mutex<Waits> = Mutex::new(Waits { all: Vec::new(), last: 0, shown: false });

struct Waits {
    all: Vec<Wait>,
    last: u64,
    /// A line stands on the terminal.
    shown: bool,
}

struct Wait {
    number: u64,
    subject: String,
    words: String,
    /// It has lasted long enough.
    is_long: bool,
}

impl Waits {
    fn draw(&mut self) {
        let line =
            self.all.iter().rev().find(|wait| wait.is_long).map(|wait| format!("{}: {}", wait.subject, wait.words));
        match line {
            Some(line) if is_ours() => {
                let line: String = line.chars().filter(|c| !c.is_control()).take(COLUMNS - 8).collect();
                crate::say::put(format!("\r\x1b[Ksipbox: {line}"));
                self.shown = true;
            }
            _ => self.erase(),
        }
    }

    fn erase(&mut self) {
        if std::mem::take(&mut self.shown) {
            crate::say::put("\r\x1b[K".to_owned());
        }
    }
}

fn is_terminal() -> bool {
    static IS: OnceLock<bool> = OnceLock::new();
    *IS.get_or_init(|| std::io::stderr().is_terminal())
}

/// In the background the terminal is somebody else's.
fn is_ours() -> bool {
    tcgetpgrp(std::io::stderr()).is_ok_and(|group| group == getpgrp())
}

/// A wait; over when it is dropped.
pub struct Waiting(Option<u64>);

impl Waiting {
    /// Begins one about `subject`. To be called in a tokio runtime.
    pub fn begin(subject: &str, words: &str) -> Waiting {
        if !is_terminal() {
            return Waiting(None);
        }
        let number = {
            let mut waits = WAITS.lock();
            waits.last += 1;
            let number = waits.last;
            let (subject, words) = (subject.to_owned(), words.to_owned());
            waits.all.push(Wait { number, subject, words, is_long: false });
            number
        };
        tokio::spawn(async move {
            tokio::time::sleep(DELAY).await;
            let mut waits = WAITS.lock();
            if let Some(wait) = waits.all.iter_mut().find(|wait| wait.number == number) {
                wait.is_long = true;
                waits.draw();
            }
        });
        Waiting(Some(number))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(number) = self.0 else { return };
        let mut waits = WAITS.lock();
        waits.all.retain(|wait| wait.number != number);
        waits.draw();
    }
}

/// How far the waits about `subject` are.
pub fn now(subject: &str, words: &str) {
    if !is_terminal() {
        return;
    }
    let mut waits = WAITS.lock();
    let mut any = false;
    for wait in waits.all.iter_mut().filter(|wait| wait.subject == subject && wait.words != words) {
        words.clone_into(&mut wait.words);
        any |= wait.is_long;
    }
    if any {
        waits.draw();
    }
}

/// Writes something else to standard error, where the line is out of its way.
pub fn aside(write: impl FnOnce()) {
    if !is_terminal() {
        return write();
    }
    let mut waits = WAITS.lock();
    waits.erase();
    write();
    waits.draw();
}
