//! The bindings on disk, so that the next hub has them however this one ends. One line is all that an address of record is bound to, and the last
//! line about it counts. A line is appended with one write(2), which outlives a killed process; a line that was cut off is not read. No database
//! would do less: there is nothing to search, nothing to roll back, and no message waits for a disk.

use super::location::{Binding, Contact, address_of};
use crate::message::Uri;
use crate::random;
use crate::transport::{Flow, Transport};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use tracing::error;

/// What the first line begins with; the key follows.
const HEADER: &str = "sipbox-hub-state-1";
/// Fields of one binding.
const FIELDS: usize = 10;
/// The file is written anew when it has this many lines more than twice the addresses of record.
const SLACK: usize = 1024;

/// What a journal held when it was opened.
pub(super) struct Kept {
    /// The secret of routes and temporary GRUUs.
    pub key: [u8; 32],
    pub bindings: Vec<(String, Vec<Binding>)>,
}

/// An open file.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    key: [u8; 32],
    /// One moment on both clocks.
    base: (Instant, SystemTime),
    lines: usize,
    broken: bool,
}

impl Journal {
    /// Opens or makes the file, which belongs to this hub alone from now on.
    pub fn open(path: &Path, now: Instant, wall: SystemTime) -> io::Result<(Self, Kept)> {
        let mut file = private().create(true).append(true).open(path)?;
        lock(&file)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        let key = match lines.next().map(|line| line.strip_prefix(HEADER).and_then(|key| unhex(key.trim()))) {
            Some(Some(key)) => key,
            Some(None) => return Err(io::Error::new(ErrorKind::InvalidData, "it is not the state of a hub")),
            None => random::secret(),
        };
        let mut journal = Journal { path: path.to_owned(), file, key, base: (now, wall), lines: 0, broken: false };
        let mut known = HashMap::new();
        for line in lines {
            if let Some((record, bindings)) = journal.read(line, now) {
                known.insert(record, bindings);
            }
        }
        let bindings: Vec<(String, Vec<Binding>)> =
            known.into_iter().filter(|(_, bindings)| !bindings.is_empty()).collect();
        journal.rewrite(bindings.iter().map(|(record, bindings)| (record.as_str(), bindings.as_slice())))?;
        Ok((journal, Kept { key, bindings }))
    }

    /// Notes all that an address of record is bound to now.
    pub fn save(&mut self, record: &str, bindings: &[Binding]) {
        let line = self.line(record, bindings);
        let outcome = self.file.write_all(line.as_bytes());
        self.lines += 1;
        self.told(outcome);
    }

    /// Most of the file is history.
    pub fn is_long(&self, records: usize) -> bool {
        self.lines > 2 * records + SLACK
    }

    /// Writes the file anew with just this.
    pub fn compact<'a>(&mut self, all: impl Iterator<Item = (&'a str, &'a [Binding])>) {
        let outcome = self.rewrite(all);
        self.told(outcome);
    }

    fn told(&mut self, outcome: io::Result<()>) {
        match outcome {
            Ok(()) => self.broken = false,
            Err(why) if !std::mem::replace(&mut self.broken, true) => {
                error!(path = %self.path.display(), %why, "bindings cannot be kept; the hub goes on without");
            }
            Err(_) => {}
        }
    }

    fn rewrite<'a>(&mut self, all: impl Iterator<Item = (&'a str, &'a [Binding])>) -> io::Result<()> {
        // Until it succeeds there is no point in trying again with every line.
        self.lines = 0;
        let mut text = format!("{HEADER} {}\n", self.key.map(|byte| format!("{byte:02x}")).concat());
        for (record, bindings) in all {
            text.push_str(&self.line(record, bindings));
            self.lines += 1;
        }
        let fresh = self.path.with_extension("new");
        let mut file = private().create(true).append(true).open(&fresh)?;
        lock(&file)?;
        file.set_len(0)?;
        file.write_all(text.as_bytes())?;
        std::fs::rename(&fresh, &self.path)?;
        self.file = file;
        Ok(())
    }

    fn line(&self, record: &str, bindings: &[Binding]) -> String {
        let mut line = escape(record);
        for Binding { contact, expires_at, handle, call_id, cseq, .. } in bindings {
            let expires = self.base.1 + expires_at.saturating_duration_since(self.base.0);
            let expires = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            let path: Vec<String> = contact.path.iter().map(|proxy| escape(proxy)).collect();
            let Flow { transport, local, remote } = contact.flow;
            // Writing to a String does not fail.
            let _ = write!(
                line,
                "\t{}\t{expires}\t{}\t{cseq}\t{transport} {local} {remote}\t{}\t{}\t{}\t{}\t{}",
                handle.map(|handle| format!("{handle:x}")).unwrap_or_default(),
                escape(call_id),
                contact.q,
                contact.reg_id.unwrap_or_default(),
                path.join(" "),
                contact.instance.as_deref().map(escape).unwrap_or_default(),
                escape(contact.uri.as_str()),
            );
        }
        line.push('\n');
        line
    }

    /// One line; bindings that have expired or cannot be read are left out.
    fn read(&self, line: &str, now: Instant) -> Option<(String, Vec<Binding>)> {
        let mut fields = line.split('\t');
        let record = unescape(fields.next()?)?;
        let fields: Vec<&str> = fields.collect();
        let bindings = fields.chunks_exact(FIELDS).filter_map(|fields| self.binding(fields));
        Some((record, bindings.filter(|binding| binding.expires_at > now).collect()))
    }

    fn binding(&self, fields: &[&str]) -> Option<Binding> {
        let [handle, expires, call_id, cseq, flow, q, reg_id, path, instance, uri] = fields else { return None };
        let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(expires.parse().ok()?);
        let uri: Uri = unescape(uri)?.parse().ok()?;
        let path: Option<Box<[Box<str>]>> =
            path.split(' ').filter(|proxy| !proxy.is_empty()).map(|proxy| unescape(proxy).map(Into::into)).collect();
        let path = path?;
        let mut words = flow.split(' ');
        let transport = Transport::named(words.next()?)?;
        let (local, remote) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        // No connection outlives its process.
        let remote = match transport {
            Transport::Tcp if path.is_empty() => address_of(&uri).unwrap_or(remote),
            _ => remote,
        };
        let contact = Contact {
            uri,
            instance: Some(unescape(instance)?.into_boxed_str()).filter(|instance| !instance.is_empty()),
            reg_id: reg_id.parse().ok().filter(|id| *id > 0),
            path,
            flow: Flow { transport, local, remote },
            q: q.parse().ok()?,
        };
        Some(Binding {
            id: 0,
            contact,
            expires_at: self.base.0 + expires.duration_since(self.base.1).unwrap_or_default(),
            handle: u64::from_str_radix(handle, 16).ok(),
            call_id: unescape(call_id)?.into(),
            cseq: cseq.parse().ok()?,
        })
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).mode(0o600);
    options
}

fn lock(file: &File) -> io::Result<()> {
    file.try_lock().map_err(|error| match error {
        std::fs::TryLockError::WouldBlock => io::Error::new(ErrorKind::ResourceBusy, "another hub uses it"),
        std::fs::TryLockError::Error(error) => error,
    })
}

/// Text without white space and control characters.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '%' | '\0'..=' ' | '\x7f' => {
                // Writing to a String does not fail.
                let _ = write!(out, "%{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out
}

fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut out = parts.next()?.to_owned();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        out.push(char::from(u8::from_str_radix(code, 16).ok()?));
        out.push_str(rest);
    }
    Some(out)
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    if text.len() != 2 * key.len() {
        return None;
    }
    for (i, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("sipbox-journal-{name}-{}", std::process::id()));
            let _ = std::fs::remove_file(&path);
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn binding(uri: &str, expires_at: Instant) -> Binding {
        let flow = Flow { transport: Transport::Udp, local: 0, remote: "[::1]:5062".parse().unwrap() };
        let contact = Contact {
            uri: uri.parse().unwrap(),
            instance: Some("<urn:uuid:1> 100%".into()),
            reg_id: Some(2),
            path: vec!["<sip:a;lr>".into(), "<sip:b;lr>".into()].into(),
            flow,
            q: 500,
        };
        Binding { id: 0, contact, expires_at, handle: Some(0xfeed), call_id: "a@b".into(), cseq: 7 }
    }

    #[test]
    fn what_was_saved_last_is_there_again() {
        let scratch = Scratch::new("again");
        let (now, wall) = (Instant::now(), SystemTime::now());
        let hour = now + Duration::from_secs(3600);
        let (mut journal, kept) = Journal::open(&scratch.0, now, wall).unwrap();
        assert!(kept.bindings.is_empty());
        assert!(Journal::open(&scratch.0, now, wall).is_err(), "it has one owner");
        journal.save("a\tb c@d", &[binding("sip:x@y", hour)]);
        journal.save("old@d", &[binding("sip:x@y", now + Duration::from_secs(10))]);
        journal.save("gone@d", &[binding("sip:x@y", hour)]);
        journal.save("gone@d", &[]);
        // The process was killed in the middle of a line.
        journal.file.write_all(b"torn@d\t1\t2").unwrap();
        drop(journal);
        let later = Duration::from_secs(60);
        let (_journal, again) = Journal::open(&scratch.0, now + later, wall + later).unwrap();
        assert_eq!(again.key, kept.key);
        let [(record, bindings)] = again.bindings.as_slice() else {
            panic!("one record, not {}", again.bindings.len())
        };
        assert_eq!((record.as_str(), bindings.len()), ("a\tb c@d", 1));
        let (found, saved) = (&bindings[0], binding("sip:x@y", hour));
        assert_eq!(format!("{:?}", found.contact), format!("{:?}", saved.contact));
        assert_eq!((found.handle, &found.call_id, found.cseq), (saved.handle, &saved.call_id, saved.cseq));
        let left = found.expires_at - (now + later);
        assert!(left <= Duration::from_secs(3540) && left > Duration::from_secs(3530), "{left:?}");
    }

    #[test]
    fn history_is_cut_and_other_files_are_left_alone() {
        let scratch = Scratch::new("long");
        let (now, wall) = (Instant::now(), SystemTime::now());
        let (mut journal, _) = Journal::open(&scratch.0, now, wall).unwrap();
        let bound = [binding("sip:x@y", now + Duration::from_secs(3600))];
        while !journal.is_long(1) {
            journal.save("a@d", &bound);
        }
        let before = std::fs::metadata(&scratch.0).unwrap().len();
        journal.compact([("a@d", bound.as_slice())].into_iter());
        assert!(std::fs::metadata(&scratch.0).unwrap().len() * 100 < before);
        journal.save("b@d", &bound);
        drop(journal);
        assert_eq!(Journal::open(&scratch.0, now, wall).unwrap().1.bindings.len(), 2);
        std::fs::write(&scratch.0, "dear diary\n").unwrap();
        assert!(Journal::open(&scratch.0, now, wall).is_err());
        assert_eq!(std::fs::read_to_string(&scratch.0).unwrap(), "dear diary\n");
    }
}
