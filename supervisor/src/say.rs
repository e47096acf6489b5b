//! Lines for the user. The program shares standard error and may have closed it, or made it non-blocking: a line that cannot be
//! written is lost, and nothing else. While a run goes on, a thread of its own writes them: a terminal that is stopped (Ctrl-S) or a reader that
//! does not read holds up neither the supervisor nor the program.

use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::stat::{SFlag, fstat};
use parking_lot::{Condvar, Mutex};

/// So many lines wait for their reader. Further ones are counted, and those of a trace wait.
const LINES: usize = 4096;
/// Who says something waits so long until it is written: it comes before what the program says next.
const PATIENCE: Duration = Duration::from_millis(20);
/// And the end of the run so long.
const FAREWELL: Duration = Duration::from_millis(500);

static VOICE: OnceLock<Voice> = OnceLock::new();

#[derive(Default)]
struct Voice {
    queue: Mutex<Queue>,
    /// There is something to be written.
    more: Condvar,
    /// Something has been written.
    done: Condvar,
}

#[derive(Default)]
struct Queue {
    texts: VecDeque<String>,
    /// How many have come, and how many have gone.
    said: u64,
    written: u64,
    lost: u64,
    /// The reader let somebody wait in vain: nobody waits until it has caught up.
    stuck: bool,
}

impl Voice {
    /// Waits until there is room.
    fn wait(&self) {
        let mut queue = self.queue.lock();
        while queue.texts.len() >= LINES {
            self.done.wait(&mut queue);
        }
    }

    /// `whole`: it is not lost, whoever reads.
    fn say(&self, text: String, whole: bool) {
        let mut queue = self.queue.lock();
        if !whole && queue.texts.len() >= LINES {
            queue.lost += 1;
            return;
        }
        queue.texts.push_back(text);
        queue.said += 1;
        let number = queue.said;
        self.more.notify_one();
        let end = Instant::now() + PATIENCE;
        while !queue.stuck && queue.written < number {
            if self.done.wait_until(&mut queue, end).timed_out() {
                queue.stuck |= queue.written < number;
            }
        }
    }

    /// Writes what is said, for good.
    fn write(&self, mut out: impl Write) {
        let mut queue = self.queue.lock();
        loop {
            let Some(mut text) = queue.texts.pop_front() else {
                queue.stuck = false;
                self.more.wait(&mut queue);
                continue;
            };
            let lost = std::mem::take(&mut queue.lost);
            if lost > 0 {
                text.push_str(&format!("sipbox: {lost} messages are lost here: nobody read them\n"));
            }
            parking_lot::MutexGuard::unlocked(&mut queue, || drop(out.write_all(text.as_bytes())));
            queue.written += 1;
            self.done.notify_all();
        }
    }

    /// Waits until all is written, or `end`.
    fn finish(&self, end: Instant) {
        let mut queue = self.queue.lock();
        while queue.written < queue.said && !self.done.wait_until(&mut queue, end).timed_out() {}
    }
}

/// From here on nobody waits for who reads standard error. After the last fork: a child has no such thread.
pub fn begin() {
    // A file takes what is written.
    let is_file = fstat(std::io::stderr().as_fd())
        .is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFREG);
    if is_file || VOICE.get().is_some() {
        return;
    }
    let started = std::thread::Builder::new().name("say".to_owned()).spawn(|| {
        VOICE.wait().write(Stderr);
    });
    if started.is_ok() {
        let _ = VOICE.set(Voice::default());
    }
}

/// The run ends: what was said is written, if somebody reads it.
pub fn finish() {
    if let Some(voice) = VOICE.get() {
        voice.finish(Instant::now() + FAREWELL);
    }
}

/// Standard error without the lock of the standard library: a panic is told, too, while the thread waits.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        Ok(nix::unistd::write(std::io::stderr(), text)?)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn put_whole(text: String, whole: bool) {
    match VOICE.get() {
        Some(voice) => voice.say(text, whole),
        None => drop(std::io::stderr().write_all(text.as_bytes())),
    }
}

/// Writes a text to standard error, in one piece.
pub fn put(text: String) {
    put_whole(text, false);
}

/// Writes one line to standard error, in one piece.
pub fn line(text: &str) {
    write("sipbox", text, false);
}

/// The same, of a trace, which is whole: who writes more of it than is read waits, as with strace(1).
pub fn trace(text: &str) {
    if let Some(voice) = VOICE.get() {
        voice.wait();
    }
    write("sipbox", text, true);
}

/// The same from `sipbox hub`.
pub fn hub(text: &str) {
    write("sipbox hub", text, false);
}

fn write(who: &str, text: &str, whole: bool) {
    crate::progress::aside(|| put_whole(format!("{who}: {text}\n"), whole));
}

/// Where events go.
pub struct Events;

impl Write for Events {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        put(String::from_utf8_lossy(text).into_owned());
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// `say!("...", ...)`: a line for the user, see [`line`].
macro_rules! say {
    ($($word:tt)*) => { $crate::say::line(&format!($($word)*)) };
}
pub(crate) use say;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn a_reader_that_does_not_read_holds_up_nobody() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let voice: &'static Voice = Box::leak(Box::default());
        std::thread::spawn(move || voice.write(writer));
        let began = Instant::now();
        let line = "x".repeat(99) + "\n";
        let all = 2 * LINES;
        (0..all).for_each(|_| voice.say(line.clone(), false));
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let (lost, stuck) = {
            let queue = voice.queue.lock();
            (usize::try_from(queue.lost).unwrap(), queue.stuck)
        };
        assert!(lost > 0 && stuck, "{lost}");
        let mut read = String::new();
        let mut room = [0; 65536];
        while !read.contains("lost here") || read.matches('x').count() < 99 * (all - lost) {
            let n = reader.read(&mut room).unwrap();
            read.push_str(std::str::from_utf8(&room[..n]).unwrap());
        }
        assert!(read.contains(&format!("{lost} messages are lost here")), "{lost}");
        voice.finish(Instant::now() + Duration::from_secs(5));
        // Who speaks then waits again until it is written.
        voice.say("now\n".to_owned(), false);
        let queue = voice.queue.lock();
        assert_eq!((queue.written, queue.stuck), (queue.said, false));
    }
}
