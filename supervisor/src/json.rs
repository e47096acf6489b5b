//! JSON (RFC 8259), as commands print it with --json.

/// A text in quotes.
pub fn quoted(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}

/// A text in quotes, or null.
pub fn text(value: Option<&str>) -> String {
    value.map_or_else(|| "null".to_owned(), quoted)
}
