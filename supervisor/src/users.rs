//! The users of a hub: a file with a line for each user and digest algorithm, `NAME:REALM:ALGORITHM:HASH`. No password is in it, but the hashes are as
//! good as one to whoever can read them (RFC 7616, section 5.4), so only its owner may.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use sipcore::hub::{Algorithm, Stored, Users, ha1};

use crate::cli::UserCommand;

/// The realm of hubs, for their digest challenges.
pub const REALM: &str = "sipbox";
/// What is kept for each user: the algorithms of a hub's challenges.
const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Md5];
/// The longest file that is read.
const MAX_SIZE: u64 = 64 * 1024 * 1024;

/// The users of one file, by name.
#[derive(Debug, Default)]
pub struct UsersFile {
    hashes: BTreeMap<String, Vec<(Algorithm, String)>>,
}

/// Where the users are when no flag says it: in the user's configuration (XDG base directories).
pub fn usual_place() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")))?;
    Some(config.join("sipbox/hub.users"))
}

impl UsersFile {
    /// Reads the file, which nobody else may be able to read.
    pub fn load(path: &Path) -> Result<UsersFile, String> {
        let shown = path.display();
        let failed = |e: std::io::Error| format!("the users file {shown} cannot be read: {e}");
        let m = std::fs::metadata(path).map_err(failed)?;
        if m.uid() != nix::unistd::getuid().as_raw() || m.mode() & 0o077 != 0 {
            return Err(format!(
                "the users file {shown} must belong to this user alone (mode {:o}, owner {}); chmod 600 it",
                m.mode() & 0o777,
                m.uid()
            ));
        }
        if m.len() > MAX_SIZE {
            return Err(format!("the users file {shown} is too long ({} bytes)", m.len()));
        }
        UsersFile::parse(&std::fs::read_to_string(path).map_err(failed)?)
            .map_err(|(line, why)| format!("the users file {shown}, line {line}: {why}"))
    }

    fn parse(text: &str) -> Result<UsersFile, (usize, &'static str)> {
        let mut users = UsersFile::default();
        for (index, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |why| (index + 1, why);
            let [name, realm, algorithm, hash] = <[&str; 4]>::try_from(line.split(':').collect::<Vec<_>>())
                .map_err(|_| wrong("it is not NAME:REALM:ALGORITHM:HASH"))?;
            if realm != REALM {
                return Err(wrong("the realm of a hub is `sipbox`"));
            }
            let algorithm = Algorithm::parse(algorithm).ok_or(wrong("the algorithm is not known (MD5, SHA-256)"))?;
            let length = if algorithm == Algorithm::Md5 { 32 } else { 64 };
            if hash.len() != length || !hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(wrong("the hash is not hexadecimal, or of another length"));
            }
            users.hashes.entry(name.to_owned()).or_default().push((algorithm, hash.to_owned()));
        }
        Ok(users)
    }

    /// Sets a user's password.
    fn set(&mut self, name: &str, password: &str) {
        let hashes = ALGORITHMS.map(|algorithm| (algorithm, ha1(algorithm, name, REALM, password)));
        self.hashes.insert(name.to_owned(), hashes.into());
    }

    /// As a hub wants them.
    pub fn users(&self) -> Users {
        self.hashes
            .iter()
            .fold(Users::new(REALM), |users, (name, hashes)| users.with(name.clone(), Stored::Hashes(hashes.clone())))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    fn text(&self) -> String {
        let lines = self.hashes.iter().flat_map(|(name, hashes)| {
            hashes.iter().map(move |(algorithm, hash)| format!("{name}:{REALM}:{algorithm}:{hash}\n"))
        });
        lines.collect()
    }
}

/// `sipbox hub user ...`
pub fn command(place: Option<PathBuf>, command: UserCommand) -> Result<(), String> {
    let place =
        place.or_else(usual_place).ok_or("there is no HOME to keep the users in; say where with --users FILE")?;
    match command {
        UserCommand::Add { name } => {
            if name.is_empty() || name.contains(':') || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
                return Err(format!("{name:?} cannot be the name of a user: it has a colon or white space in it"));
            }
            let password = password(&name)?;
            change(&place, |users| {
                users.set(&name, &password);
                Ok(())
            })
        }
        UserCommand::Remove { name } => change(&place, |users| {
            users.hashes.remove(&name).map(|_| ()).ok_or_else(|| format!("{name} is no user in {}", place.display()))
        }),
        UserCommand::List => {
            let users = UsersFile::load(&place)?;
            let mut out = std::io::stdout().lock();
            users.hashes.keys().try_for_each(|name| writeln!(out, "{name}")).map_err(|e| e.to_string())
        }
    }
}

/// Reads, changes and writes the file. The new file is the lock as well, as vipw(8) does it.
fn change(place: &Path, how: impl FnOnce(&mut UsersFile) -> Result<(), String>) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("the users file {} cannot be written: {e}", place.display());
    if let Some(directory) = place.parent().filter(|d| !d.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    }
    let mut fresh = place.as_os_str().to_owned();
    fresh.push(".new");
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&fresh).map_err(|e| {
        if e.kind() != std::io::ErrorKind::AlreadyExists {
            return failed(e);
        }
        format!("somebody else changes {} just now; if not, remove {}", place.display(), Path::new(&fresh).display())
    })?;
    let replace = || {
        let mut users = if place.exists() { UsersFile::load(place)? } else { UsersFile::default() };
        how(&mut users)?;
        file.write_all(users.text().as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        std::fs::rename(&fresh, place).map_err(failed)
    };
    // `how` is called once.
    let outcome = replace();
    if outcome.is_err() {
        let _ = std::fs::remove_file(&fresh);
    }
    outcome
}

/// The password: typed twice without being shown, or the first line of standard input.
fn password(name: &str) -> Result<String, String> {
    let stdin = std::io::stdin();
    let read = || {
        let mut line = String::new();
        stdin.read_line(&mut line).map_err(|e| format!("no password could be read: {e}"))?;
        Ok::<_, String>(line.trim_end_matches(['\r', '\n']).to_owned())
    };
    let password = if stdin.is_terminal() {
        let shown = tcgetattr(&stdin).map_err(|e| format!("the terminal cannot be used: {e}"))?;
        let mut hidden = shown.clone();
        hidden.local_flags.remove(LocalFlags::ECHO);
        let ask = |what: &str| {
            eprint!("{what}");
            let line = read();
            eprintln!();
            line
        };
        let _ = tcsetattr(&stdin, SetArg::TCSAFLUSH, &hidden);
        let typed = ask(&format!("Password of {name}: ")).and_then(|one| Ok((one, ask("Once more: ")?)));
        let _ = tcsetattr(&stdin, SetArg::TCSAFLUSH, &shown);
        let (one, other) = typed?;
        if one != other {
            return Err("the two passwords differ; nothing has changed".into());
        }
        one
    } else {
        read()?
    };
    if password.is_empty() { Err("an empty password is none; nothing has changed".into()) } else { Ok(password) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut users = UsersFile::default();
        users.set("alice", "secret");
        users.set("bob", "other");
        let text = users.text();
        assert_eq!(text.lines().count(), 4);
        assert!(text.starts_with("alice:sipbox:SHA-256:") && !text.contains("secret"));
        assert_eq!(UsersFile::parse(&text).unwrap().text(), text);
        assert_eq!(UsersFile::parse("# nobody\n\n").unwrap().len(), 0);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (wrong, word) in [
            ("alice", "NAME:REALM"),
            ("alice:elsewhere:MD5:0123", "realm"),
            ("alice:sipbox:ROT13:0123", "algorithm"),
            ("alice:sipbox:MD5:0123", "length"),
            ("alice:sipbox:MD5:0123456789ABCDEF0123456789abcdef", "hexadecimal"),
        ] {
            let (line, why) = UsersFile::parse(&format!("# a comment\n{wrong}\n")).unwrap_err();
            assert!(line == 2 && why.contains(word), "{wrong}: {line} {why}");
        }
    }
}
