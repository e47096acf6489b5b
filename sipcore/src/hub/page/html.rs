//! The page for people. Everything on it that came from outside goes through [`Text`].

use crate::hub::home::HomeProxy;
use crate::hub::watch::{Ladders, Session};
use crate::transport::{Core, Direction};
use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Lines of each table; more are counted.
const MAX_LINES: usize = 500;

const HEAD: &str = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta http-equiv=\"refresh\" content=\"5\">\n\
<title>sipbox hub</title>\n<style>\n\
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em; color: #222; background: #fff }\n\
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin-top: 2em }\n\
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .25em .8em .25em 0; border-bottom: 1px solid #ddd; overflow-wrap: anywhere }\n\
th { font-weight: 600; color: #555 } code, pre { font: 13px/1.45 ui-monospace, monospace } pre { overflow-x: auto; background: #f6f6f4; padding: .8em }\n\
.none { color: #777 } summary { cursor: pointer; overflow-wrap: anywhere }\n\
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } pre { background: #222 } th, td { border-color: #444 } th { color: #aaa } }\n\
</style>\n</head>\n<body>\n";

/// Text from outside, as HTML shows it.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c if c.is_control() => f.write_char('\u{fffd}')?,
                // What turns the direction of writing could make one name look like another.
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => f.write_char('\u{fffd}')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

struct Line {
    record: String,
    contact: String,
    way: String,
    left: Duration,
}

pub(super) fn page(hub: &Arc<Core<HomeProxy>>, ladders: &Ladders, since: Instant) -> String {
    let counters = hub.counters();
    let (now, activity, mut lines, count, sessions) = hub.with(|home, now| {
        let bindings = home.location.all().flat_map(|(record, bindings)| bindings.iter().map(move |one| (record, one)));
        let line = |(record, binding): (&str, &crate::hub::location::Binding)| Line {
            record: record.to_owned(),
            contact: binding.contact.uri.to_string(),
            way: format!("{} {}", binding.contact.flow.transport, binding.contact.flow.remote),
            left: binding.expires_at.saturating_duration_since(now),
        };
        let lines: Vec<Line> = bindings.take(MAX_LINES).map(line).collect();
        (now, home.activity(), lines, home.sessions.len(now), home.sessions.latest(MAX_LINES))
    });
    lines.sort_by(|one, other| (&one.record, &one.contact).cmp(&(&other.record, &other.contact)));
    let mut out = String::from(HEAD);
    // Writing to a String does not fail.
    let _ = write!(
        out,
        "<h1>sipbox hub</h1>\n<p>{} programs registered, {count} sessions, {} connections; up {}. \
         {} messages received, {} sent, {} unreadable. <a href=\"/metrics\">Metrics</a></p>\n",
        activity.bindings,
        counters.connections,
        Span(since.elapsed()),
        counters.received,
        counters.sent,
        counters.garbage,
    );
    programs(&mut out, &lines, activity.bindings);
    live(&mut out, now, &sessions, count);
    last(&mut out, ladders);
    out.push_str("</body>\n</html>\n");
    out
}

fn programs(out: &mut String, lines: &[Line], count: usize) {
    out.push_str("<h2>Registered programs</h2>\n");
    if lines.is_empty() {
        return out.push_str("<p class=\"none\">Nobody is registered.</p>\n");
    }
    out.push_str("<table>\n<tr><th>Address of record<th>Contact<th>Reached by<th>For another</tr>\n");
    for Line { record, contact, way, left } in lines {
        let _ = writeln!(
            out,
            "<tr><td>sip:{}<td><code>{}</code><td>{}<td>{}</tr>",
            Text(record),
            Text(contact),
            Text(way),
            Span(*left)
        );
    }
    out.push_str("</table>\n");
    more(out, count, lines.len());
}

fn live(out: &mut String, now: Instant, sessions: &[Session], count: usize) {
    out.push_str("<h2>Live sessions</h2>\n");
    if sessions.is_empty() {
        return out.push_str("<p class=\"none\">No session stands.</p>\n");
    }
    out.push_str("<table>\n<tr><th>From<th>To<th>Since</tr>\n");
    for Session { from, to, since, .. } in sessions {
        let age = Span(now.saturating_duration_since(*since));
        let _ = writeln!(out, "<tr><td>{}<td>{}<td>{age}</tr>", Text(from), Text(to));
    }
    out.push_str("</table>\n");
    more(out, count, sessions.len());
}

fn more(out: &mut String, count: usize, shown: usize) {
    if count > shown {
        let _ = writeln!(out, "<p class=\"none\">and {} more.</p>", count - shown);
    }
}

/// The messages of the last calls, as the hub saw them.
fn last(out: &mut String, ladders: &Ladders) {
    out.push_str("<h2>Last calls</h2>\n");
    let calls = ladders.all();
    if calls.is_empty() {
        out.push_str("<p class=\"none\">Nobody has called yet.</p>\n");
    }
    for (n, (call_id, rungs)) in calls.iter().enumerate() {
        let open = if n == 0 { " open" } else { "" };
        let _ = write!(out, "<details{open}><summary>{}</summary>\n<pre>", Text(call_id));
        let start = rungs.first().map(|rung| rung.at);
        for rung in rungs {
            let arrow = if rung.direction == Direction::Received { "--&gt; hub" } else { "&lt;-- hub" };
            let after = start.map_or(0.0, |start| rung.at.saturating_duration_since(start).as_secs_f64() * 1e3);
            let remote = rung.remote.to_string();
            let _ = writeln!(
                out,
                "{after:10.3} ms  {:<4} {remote:>22} {arrow}  {}",
                rung.transport.as_via(),
                Text(&rung.line)
            );
        }
        out.push_str("</pre></details>\n");
    }
}

/// A time in words: the two largest units.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..60 => write!(f, "{seconds} s"),
            60..3600 => write!(f, "{} min {} s", seconds / 60, seconds % 60),
            3600..86_400 => write!(f, "{} h {} min", seconds / 3600, seconds / 60 % 60),
            _ => write!(f, "{} d {} h", seconds / 86_400, seconds / 3600 % 24),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_is_markup() {
        let shown = Text("<img src=x onerror=\"a('&')\">\u{1b}[31m\u{202e}").to_string();
        assert_eq!(shown, "&lt;img src=x onerror=&quot;a(&#39;&amp;&#39;)&quot;&gt;\u{fffd}[31m\u{fffd}");
        assert_eq!(
            [59, 61, 7300, 90_000].map(|n| Span(Duration::from_secs(n)).to_string()),
            ["59 s", "1 min 1 s", "2 h 1 min", "1 d 1 h"]
        );
    }
}
