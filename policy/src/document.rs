//! Walking a TOML document without losing a place: every value is taken with its span, every mistake is kept,
//! and a key that nothing asked for is a mistake too.

use std::cell::RefCell;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{Error, Mistake, Wrong, line_of};

type Value<'i> = Spanned<DeValue<'i>>;

/// More are not kept: each holds its line, and nobody mends a hundred at once.
const MOST_MISTAKES: usize = 100;

/// The text of a policy file and the mistakes found in it so far.
pub(crate) struct Source<'t> {
    pub file: &'t str,
    pub text: &'t str,
    mistakes: RefCell<Vec<(usize, Mistake)>>,
}

impl<'t> Source<'t> {
    pub fn new(file: &'t str, text: &'t str) -> Self {
        Source { file, text, mistakes: RefCell::default() }
    }

    /// The document, or the first mistake of its syntax: later ones are mostly echoes of it.
    pub fn parse(&self) -> Result<Spanned<DeTable<'t>>, Error> {
        DeTable::parse(self.text).map_err(|error| {
            let end = self.text.len();
            let wrong = Wrong::new(error.message());
            let mistake = Mistake::at(self.file, self.text, error.span().unwrap_or(end..end), wrong);
            Error::File { mistakes: vec![mistake] }
        })
    }

    pub fn mistake(&self, span: Range<usize>, wrong: Wrong) {
        let start = span.start;
        let mut mistakes = self.mistakes.borrow_mut();
        if mistakes.len() == MOST_MISTAKES {
            return;
        }
        mistakes.push((start, Mistake::at(self.file, self.text, span, wrong)));
    }

    /// `policy.toml:12`, as rules are named in the trace.
    pub fn place(&self, span: &Range<usize>) -> String {
        format!("{}:{}", self.file, line_of(self.text, span.start))
    }

    /// Fails with the mistakes of the file, first to last.
    pub fn finish(self) -> Result<(), Error> {
        let mut mistakes = self.mistakes.into_inner();
        if mistakes.is_empty() {
            return Ok(());
        }
        mistakes.sort_by_key(|(offset, _)| *offset);
        Err(Error::File { mistakes: mistakes.into_iter().map(|(_, mistake)| mistake).collect() })
    }

    /// `parsed`, or None after keeping what is wrong with the value at `span`.
    pub fn check<T>(&self, span: &Range<usize>, parsed: Result<T, Wrong>) -> Option<T> {
        parsed.map_err(|wrong| self.mistake(span.clone(), wrong)).ok()
    }

    fn wrong_type(&self, what: &str, value: &Value<'_>, wanted: &str, help: Option<String>) {
        let message = format!("{what} must be {wanted}, not {}", type_words(value.get_ref()));
        self.mistake(value.span(), Wrong { what: message, help });
    }
}

/// A value and where it stands.
pub(crate) struct Located<T> {
    pub value: T,
    pub span: Range<usize>,
}

/// A table of the file. What is asked for by name becomes the list of known keys.
pub(crate) struct Section<'d, 'i> {
    pub source: &'d Source<'i>,
    /// How the file writes it: `[default]`, `[[connect]]`.
    title: &'static str,
    table: &'d DeTable<'i>,
    /// Where its header stands.
    pub span: Range<usize>,
    known: Vec<&'static str>,
}

impl<'d, 'i> Section<'d, 'i> {
    pub fn root(source: &'d Source<'i>, table: &'d Spanned<DeTable<'i>>) -> Self {
        Section { source, title: "the policy", table: table.get_ref(), span: table.span(), known: Vec::new() }
    }

    fn inner(&self, title: &'static str, table: &'d DeTable<'i>, span: Range<usize>) -> Self {
        Section { source: self.source, title, table, span, known: Vec::new() }
    }

    fn get(&mut self, key: &'static str) -> Option<&'d Value<'i>> {
        self.known.push(key);
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    /// Where the key `key` stands, else where the section begins.
    pub fn key_span(&self, key: &str) -> Range<usize> {
        self.table.iter().find(|(name, _)| name.get_ref() == key).map_or(self.span.clone(), |(name, _)| name.span())
    }

    pub fn has(&self, key: &str) -> bool {
        self.table.iter().any(|(name, _)| name.get_ref() == key)
    }

    /// Whether `key` is there, or another key that most likely means it: then that one is the mistake to report.
    pub fn means(&self, key: &str) -> bool {
        let unknown = |name: &str| !self.known.contains(&name) && nearest(name, [key].into_iter()).is_some();
        self.table.iter().any(|(name, _)| name.get_ref() == key || unknown(name.get_ref()))
    }

    fn what(&self, key: &str) -> String {
        if self.title == "the policy" { format!("`{key}`") } else { format!("`{key}` of {}", self.title) }
    }

    pub fn mistake(&self, span: &Range<usize>, wrong: Wrong) {
        self.source.mistake(span.clone(), wrong);
    }

    /// The text of `key`; `example` is a right one, shown when it is no text.
    pub fn text(&mut self, key: &'static str, example: &str) -> Option<Located<String>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(Located { value: text.to_string(), span: value.span() }),
            _ => {
                let help = format!("for example: {key} = {example}");
                self.source.wrong_type(&self.what(key), value, "a text in quotes", Some(help));
                None
            }
        }
    }

    /// The text of `key`, which must not be blank.
    pub fn filled_text(&mut self, key: &'static str, example: &str) -> Option<Located<String>> {
        let text = self.text(key, example)?;
        if text.value.trim().is_empty() {
            let wrong = Wrong::new(format!("{} is empty", self.what(key)));
            self.mistake(&text.span, wrong.help(format!("for example: {key} = {example}")));
            return None;
        }
        Some(text)
    }

    /// The text of `key`, read by `parse`.
    pub fn parsed<T>(
        &mut self,
        key: &'static str,
        example: &str,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<Located<T>> {
        let text = self.text(key, example)?;
        let value = self.source.check(&text.span, parse(&text.value))?;
        Some(Located { value, span: text.span })
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<Located<T>> {
        let example = format!("\"{}\"", words.first().map_or("", |(word, _)| word));
        self.parsed(key, &example, |text| choose(key, text, words))
    }

    /// Whether `key` is there with a text, not another type.
    pub fn is_text(&self, key: &str) -> bool {
        let found = self.table.iter().find(|(name, _)| name.get_ref() == key);
        found.is_some_and(|(_, value)| matches!(value.get_ref(), DeValue::String(_)))
    }

    pub fn boolean(&mut self, key: &'static str) -> Option<Located<bool>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Boolean(set) => Some(Located { value: *set, span: value.span() }),
            _ => {
                self.source.wrong_type(&self.what(key), value, "true or false", None);
                None
            }
        }
    }

    /// A whole number from `low` to `high`; `unit` is its unit in words.
    pub fn number(&mut self, key: &'static str, low: u32, high: u32, unit: &str) -> Option<Located<u32>> {
        let value = self.get(key)?;
        let DeValue::Integer(number) = value.get_ref() else {
            self.source.wrong_type(&self.what(key), value, &format!("a whole number of {unit}"), None);
            return None;
        };
        match i64::from_str_radix(number.as_str(), number.radix()).ok().and_then(|n| u32::try_from(n).ok()) {
            Some(n) if (low..=high).contains(&n) => Some(Located { value: n, span: value.span() }),
            _ => {
                let what = format!("{} must be from {low} to {high} {unit}, not {number}", self.what(key));
                self.mistake(&value.span(), Wrong::new(what));
                None
            }
        }
    }

    /// A whole number or a text, both as text: ports.
    pub fn number_or_text(&mut self, key: &'static str) -> Option<Located<String>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Integer(number) => Some(Located { value: number.to_string(), span: value.span() }),
            DeValue::String(text) => Some(Located { value: text.to_string(), span: value.span() }),
            _ => {
                let wanted = "a number, a range in quotes or \"*\"";
                self.source.wrong_type(&self.what(key), value, wanted, None);
                None
            }
        }
    }

    /// A list of texts, with the span of the list.
    pub fn texts(&mut self, key: &'static str, example: &str) -> Option<Located<Vec<Located<String>>>> {
        let value = self.get(key)?;
        let help = format!("for example: {key} = {example}");
        let DeValue::Array(items) = value.get_ref() else {
            self.source.wrong_type(&self.what(key), value, "a list of texts", Some(help));
            return None;
        };
        let mut texts = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::String(text) => texts.push(Located { value: text.to_string(), span: item.span() }),
                _ => {
                    let what = format!("what {} lists", self.what(key));
                    self.source.wrong_type(&what, item, "a text in quotes", Some(help.clone()));
                }
            }
        }
        Some(Located { value: texts, span: value.span() })
    }

    /// The table `key`, titled `title`.
    pub fn section(&mut self, key: &'static str, title: &'static str) -> Option<Section<'d, 'i>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(self.inner(title, table, value.span())),
            _ => {
                // A text where the credentials belong is most likely the password itself.
                let help = match key {
                    "credentials" => "a password is never written in a policy: \
                        credentials = { env = \"SIP_PASSWORD\" } or { file = \"/path\" }"
                        .to_owned(),
                    _ => format!("write {title}"),
                };
                self.source.wrong_type(&self.what(key), value, "a table", Some(help));
                None
            }
        }
    }

    /// The tables of the list `key`, in the order of the file.
    pub fn sections(&mut self, key: &'static str, title: &'static str) -> Vec<Section<'d, 'i>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            let help = format!("write {title}, in two brackets: there may be several");
            self.source.wrong_type(&self.what(key), value, "a list of tables", Some(help));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::Table(table) => sections.push(self.inner(title, table, item.span())),
                _ => self.source.wrong_type(&self.what(key), item, "a table", Some(format!("write {title}"))),
            }
        }
        sections
    }

    /// Every pair whose key was not asked for by name, in the order of the file; the values must be texts.
    pub fn others(self, hint: &str) -> Vec<(Located<String>, Located<String>)> {
        let mut pairs = Vec::new();
        for (key, value) in self.table.iter().filter(|(key, _)| !self.known.contains(&key.get_ref().as_ref())) {
            match value.get_ref() {
                DeValue::String(text) => pairs.push((
                    Located { value: key.get_ref().to_string(), span: key.span() },
                    Located { value: text.to_string(), span: value.span() },
                )),
                _ => {
                    self.source.wrong_type(&self.what(key.get_ref()), value, "a text in quotes", Some(hint.to_owned()))
                }
            }
        }
        pairs.sort_by_key(|(key, _)| key.span.start);
        pairs
    }

    /// Makes a mistake of every key that was not asked for.
    pub fn finish(self) {
        for (key, _) in self.table.iter().filter(|(key, _)| !self.known.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref().as_ref();
            let help = match nearest(name, self.known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the keys of {} are: {}", self.title, self.known.join(", ")),
            };
            let what = format!("unknown key `{name}` in {}", self.title);
            self.source.mistake(key.span(), Wrong::new(what).help(help));
        }
    }
}

/// The value of the word `text`, else which words there are.
pub(crate) fn choose<T: Copy>(key: &str, text: &str, words: &[(&str, T)]) -> Result<T, Wrong> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let listed = words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    let help = match nearest(text, words.iter().map(|(word, _)| *word)) {
        Some(near) => format!("did you mean \"{near}\"? {key} is one of: {listed}"),
        None => format!("{key} is one of: {listed}"),
    };
    Err(Wrong::new(format!("{key} = \"{text}\" is not known")).help(help))
}

/// The word that `given` most likely misspells.
fn nearest<'w>(given: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let given = given.to_lowercase();
    words
        .map(|word| (strsim::damerau_levenshtein(&given, &word.to_lowercase()), word))
        .filter(|(distance, word)| *distance <= (word.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

fn type_words(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
