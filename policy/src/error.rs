//! What can be wrong with a policy, in words that say where and what to write instead.

use std::fmt;

/// Why a policy could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file has mistakes; those that were found, in the order of the file.
    #[error("{}", .mistakes.iter().map(Mistake::to_string).collect::<Vec<_>>().join("\n"))]
    File {
        /// Never empty.
        mistakes: Vec<Mistake>,
    },
    /// A flag of the command line cannot be used.
    #[error("{flag} {given}: {wrong}\n  for example: {example}")]
    Flag {
        /// The flag, with its dashes.
        flag: &'static str,
        /// What followed it.
        given: String,
        /// What is wrong with that.
        wrong: String,
        /// A right use of the flag.
        example: String,
    },
    /// A text is neither a SIP URI nor a bare name.
    #[error("\"{given}\" is no SIP address: {wrong}")]
    Uri {
        /// The text.
        given: String,
        /// What is wrong with it.
        wrong: String,
    },
}

/// One mistake in a policy file. Displayed as `file:line:column: what`, the line, a caret line and a help line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The name of the file, as it was given.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// How many characters of the line are meant, at least 1.
    pub width: usize,
    /// The line of the file; values of keys that hold secrets are masked.
    pub source: String,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        // A tab stays a tab, so that the caret stands where the terminal put the character.
        let blanks: String =
            self.source.chars().take(self.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        writeln!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.what)?;
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{number} | {}", self.source)?;
        write!(f, "{gutter} | {blanks}{}", "^".repeat(self.width))?;
        if let Some(help) = &self.help {
            let mut lines = help.lines();
            write!(f, "\n{gutter} = {}", lines.next().unwrap_or_default())?;
            for line in lines {
                write!(f, "\n{gutter}   {line}")?;
            }
        }
        Ok(())
    }
}

impl Mistake {
    /// The mistake at the bytes `span` of `text`; any span is accepted.
    pub(crate) fn at(file: &str, text: &str, span: std::ops::Range<usize>, wrong: Wrong) -> Mistake {
        let start = floor_boundary(text, span.start);
        let end = floor_boundary(text, span.end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let line = text[line_start..line_end].trim_end_matches('\r');
        let width = text[start..end.min(line_end)].trim_end_matches('\r').chars().count().max(1);
        Mistake {
            file: file.to_owned(),
            line: line_of(text, start),
            column: text[line_start..start].chars().count() + 1,
            width,
            source: masked(line),
            what: wrong.what,
            help: wrong.help,
        }
    }
}

/// The line that holds byte `offset`, from 1.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|b| **b == b'\n').count() + 1
}

fn floor_boundary(text: &str, offset: usize) -> usize {
    let mut at = offset.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Hides what follows a key that may hold a secret: an error message ends up in logs and bug reports.
fn masked(line: &str) -> String {
    let Some((key, value)) = line.split_once('=') else { return line.to_owned() };
    let lower = line.to_ascii_lowercase();
    let secret = ["password", "passwd", "secret"].iter().any(|word| lower.contains(word))
        || key.to_ascii_lowercase().contains("credential");
    if !secret {
        return line.to_owned();
    }
    let hidden: String = value.chars().map(|c| if c.is_whitespace() { c } else { '*' }).collect();
    format!("{key}={hidden}")
}

/// What is wrong with a value, before it is known where the value stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub what: String,
    pub help: Option<String>,
}

impl Wrong {
    pub fn new(what: impl Into<String>) -> Wrong {
        Wrong { what: what.into(), help: None }
    }

    pub fn help(self, help: impl Into<String>) -> Wrong {
        Wrong { help: Some(help.into()), ..self }
    }
}
