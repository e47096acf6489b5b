//! Lines for the user. The program shares standard error and may have closed it, or made it non-blocking: a line that cannot be
//! written is lost, and nothing else.

use std::io::Write;

/// Writes one line to standard error, in one piece.
pub fn line(text: &str) {
    write("sipbox", text);
}

/// The same from `sipbox hub`.
pub fn hub(text: &str) {
    write("sipbox hub", text);
}

fn write(who: &str, text: &str) {
    crate::progress::aside(|| drop(std::io::stderr().write_all(format!("{who}: {text}\n").as_bytes())));
}

/// `say!("...", ...)`: a line for the user, see [`line`].
macro_rules! say {
    ($($word:tt)*) => { $crate::say::line(&format!($($word)*)) };
}
pub(crate) use say;
