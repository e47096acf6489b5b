//! `[local]`: what of this machine, beside its network, a program reaches.

use crate::error::Wrong;

/// The name of an AF_UNIX socket (unix(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnixName<'n> {
    /// Where its file is, from the root, without symbolic links.
    Path(&'n [u8]),
    /// An abstract name, without the NUL before it.
    Abstract(&'n [u8]),
}

/// Which sockets of programs outside the run: a path from the root, or `@` and an abstract name. `*` stands for any
/// characters but `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnixPattern(String);

impl UnixPattern {
    pub fn parse(text: &str) -> Result<UnixPattern, Wrong> {
        let wrong = |what: String, help: String| Err(Wrong::new(what).help(help));
        match text.as_bytes().first() {
            None => return wrong("an empty pattern fits no socket".to_owned(), "leave it out".to_owned()),
            Some(b'/' | b'@') => {}
            Some(_) => {
                let help = format!("write \"/{text}\" for a path from the root, or \"@{text}\" for an abstract name");
                return wrong(format!("`{text}` is neither a path from the root nor an abstract name"), help);
            }
        }
        if text.len() == 1 || text.contains('\0') {
            let help = "for example: \"/run/user/*/bus\", or \"@/tmp/.X11-unix/X*\"".to_owned();
            return wrong(format!("`{}` is no name of a socket", text.escape_default()), help);
        }
        if let Some(path) = text.strip_prefix('/')
            && path.split('/').any(|part| matches!(part, "" | "." | ".."))
        {
            let help = "it is compared with the path that is left when symbolic links are followed".to_owned();
            return wrong(format!("`{text}` fits no path: there is no empty part, `.` or `..` in one"), help);
        }
        Ok(UnixPattern(text.to_owned()))
    }

    pub fn matches(&self, name: UnixName<'_>) -> bool {
        let (sigil, rest) = self.0.split_at(1);
        match (sigil, name) {
            ("/", UnixName::Path(path)) => fits(self.0.as_bytes(), path),
            ("@", UnixName::Abstract(name)) => fits(rest.as_bytes(), name),
            _ => false,
        }
    }

    /// Whether nothing is left for `later` after this pattern.
    pub fn covers(&self, later: &UnixPattern) -> bool {
        fits(self.0.as_bytes(), later.0.as_bytes())
    }

    pub fn text(&self) -> &str {
        &self.0
    }
}

/// Whether `pattern`, with its `*`, fits all of `text`. Takes at most the product of both lengths.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last `*` does not fit: behind it in the pattern, and one byte further in the text.
    let mut again = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            again = Some((p, t));
        } else if pattern.get(p) == Some(&text[t]) {
            (p, t) = (p + 1, t + 1);
        } else {
            match again {
                Some((behind, at)) if text[at] != b'/' => {
                    (p, t) = (behind, at + 1);
                    again = Some((behind, at + 1));
                }
                _ => return false,
            }
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

/// `unix` of `[local]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Unix {
    #[default]
    Deny,
    Allow,
    Only(Vec<UnixPattern>),
}

/// `[local]` of a file, with the words for the trace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Local {
    /// None: the file does not say.
    pub unix: Option<(Unix, String)>,
    /// None: the file does not say; else whether netlink is there.
    pub netlink: Option<(bool, String)>,
    /// Whether the file has the section.
    pub written: bool,
}

/// What becomes of a connect() or a message to an AF_UNIX socket that no program of the run made, or of a socket of AF_NETLINK.
/// `rule` is, in words for the trace, what decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalDecision {
    /// It happens.
    Allow {
        /// What decided.
        rule: String,
    },
    /// It fails with EACCES.
    Refuse {
        /// What decided.
        rule: String,
        /// What to write so that it would be allowed.
        advice: String,
    },
}

impl Local {
    /// Whether any socket of others is reached.
    pub fn reaches_out(&self) -> bool {
        matches!(&self.unix, Some((Unix::Allow | Unix::Only(_), _)))
    }

    pub fn unix(&self, name: UnixName<'_>, file: Option<&str>) -> LocalDecision {
        let (unix, rule) = match &self.unix {
            Some((unix, rule)) => (unix, rule.clone()),
            None => (&Unix::Deny, "default".to_owned()),
        };
        let allowed = match unix {
            Unix::Deny => false,
            Unix::Allow => true,
            Unix::Only(patterns) => patterns.iter().any(|pattern| pattern.matches(name)),
        };
        if allowed {
            return LocalDecision::Allow { rule };
        }
        let patterns = match unix {
            Unix::Only(patterns) => &patterns[..],
            _ => &[],
        };
        let listed = patterns.iter().map(|pattern| quoted(pattern.text())).chain([quoted(&written(name))]);
        let line = format!("unix = [{}]", listed.collect::<Vec<_>>().join(", "));
        let advice = self.advice(&line, self.unix.is_some().then_some(&rule), file);
        LocalDecision::Refuse { rule, advice }
    }

    pub fn netlink(&self, file: Option<&str>) -> LocalDecision {
        match &self.netlink {
            Some((false, rule)) => {
                let advice = self.advice("netlink = \"allow\"", Some(rule), file);
                LocalDecision::Refuse { rule: rule.clone(), advice }
            }
            Some((true, rule)) => LocalDecision::Allow { rule: rule.clone() },
            None => LocalDecision::Allow { rule: "default".to_owned() },
        }
    }

    /// Where `line` belongs: in the place of what `rule` names, else in the section.
    fn advice(&self, line: &str, rule: Option<&String>, file: Option<&str>) -> String {
        match (rule, file) {
            (Some(rule), _) => format!("to allow it, write in the place of {rule}:\n{line}"),
            (None, Some(file)) if self.written => format!("to allow it, add to [local] of {file}:\n{line}"),
            (None, Some(file)) => format!("to allow it, add to {file}:\n[local]\n{line}"),
            (None, None) => format!("to allow it, write a policy, and run with --policy FILE:\n[local]\n{line}"),
        }
    }
}

/// The pattern that fits this name: where it has bytes that no text has, one or more, `*`.
fn written(name: UnixName<'_>) -> String {
    let (sigil, bytes) = match name {
        UnixName::Path(path) => ("", path),
        UnixName::Abstract(name) => ("@", name),
    };
    let mut text = String::from(sigil);
    for c in String::from_utf8_lossy(bytes).chars() {
        match c {
            char::REPLACEMENT_CHARACTER | '\0' if text.ends_with('*') => {}
            char::REPLACEMENT_CHARACTER | '\0' => text.push('*'),
            c => text.push(c),
        }
    }
    text
}

/// As TOML writes a text.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
