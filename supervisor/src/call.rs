//! One trapped call on its way through the handlers: its trace line, its socket, and waiting on its behalf.

use std::fmt::Write as _;
use std::future::Future;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use sandbox::facts::Facts;
use sandbox::memory::Memory;
use sandbox::notify::Notification;
use sandbox::watch::{Ended, Holding};

use crate::supervisor::Supervisor;
use crate::table::Cookie;

/// A trapped call, and what the trace says of it.
pub struct Call {
    pub n: Notification,
    /// Alive as long as this process is: to count its users costs each call two locked instructions.
    pub supervisor: &'static Arc<Supervisor>,
    /// Bytes, or messages, that are done already: what an interrupted call returns if it is not 0.
    pub partial: i64,
    /// A connect() that is a part of this call must not wait (MSG_DONTWAIT), whatever the mode of the socket.
    pub dont_wait: bool,
    /// What comes after that connect().
    then: Option<Box<dyn FnOnce(Call) + Send + Sync>>,
    trace: Option<Box<Trace>>,
}

struct Trace {
    started: Instant,
    text: String,
    rule: String,
}

/// A socket of the program for the length of one call. It is dropped before the call is answered (but see accept(2)): once the program goes on
/// it may close its own, and what close() does (FIN, the port free again) must not wait for a duplicate here.
pub struct Target {
    pub fd: OwnedFd,
    pub cookie: Cookie,
}

impl AsFd for Target {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Target {
    /// The socket behind a descriptor: ENOTSOCK as the kernel says it.
    pub fn of(fd: OwnedFd) -> Result<Target, Errno> {
        let cookie = sandbox::sock::socket_cookie(fd.as_fd()).map_err(errno)?;
        Ok(Target { fd, cookie })
    }

    /// Closes this duplicate of a call that is answered at once.
    pub fn close(self) {
        sandbox::direct::close(self.fd);
    }

    /// Closes this duplicate after a call that was held. It may be the last by then, and close(2) then waits for what is to be sent
    /// (SO_LINGER): not here.
    pub fn let_go(self, runtime: &tokio::runtime::Handle) {
        let linger = nix::sys::socket::getsockopt(&self.fd, nix::sys::socket::sockopt::Linger);
        if linger.is_ok_and(|l| l.l_onoff != 0 && l.l_linger > 0) {
            runtime.spawn_blocking(|| drop(self));
        }
    }

    /// What the socket was made as.
    pub fn facts(&self) -> Result<Facts, Errno> {
        sandbox::facts::facts(self.fd.as_fd(), self.cookie).map_err(errno)
    }

    /// Whether it is of this family (AF_UNIX, ...).
    pub fn is_of(&self, family: i32) -> bool {
        self.facts().is_ok_and(|facts| facts.domain == family)
    }
}

/// How waiting on behalf of a thread ended.
pub enum Held<T> {
    Done(T),
    /// A signal is to be handled: answer [`Call::interrupted`].
    Interrupted,
    /// The thread was killed: nobody waits for an answer.
    Gone,
}

impl Call {
    pub fn new(n: Notification, supervisor: &'static Arc<Supervisor>) -> Call {
        let trace = supervisor
            .options
            .trace
            .then(|| Box::new(Trace { started: Instant::now(), text: String::new(), rule: String::new() }));
        Call { n, supervisor, partial: 0, dont_wait: false, then: None, trace }
    }

    pub fn argument(&self, i: usize) -> u64 {
        self.n.arguments[i]
    }

    /// An int argument: the kernel ignores the upper half of the register.
    pub fn int(&self, i: usize) -> i32 {
        self.n.arguments[i] as i32
    }

    /// Adds to the trace line: the call with its arguments.
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(t) = &mut self.trace {
            t.text = text();
        }
    }

    /// Adds to the trace line: what decided.
    pub fn rule(&mut self, text: impl FnOnce() -> String) {
        if let Some(t) = &mut self.trace {
            t.rule = text();
        }
    }

    /// Adds how the flow goes to what decided.
    pub fn flow(&mut self, text: impl FnOnce() -> String) {
        if let Some(t) = &mut self.trace {
            t.rule.push_str(", ");
            t.rule.push_str(&text());
        }
    }

    /// The socket behind descriptor `number`: EBADF or ENOTSOCK as the kernel says it.
    pub fn target(&self, number: i32) -> Result<Target, Errno> {
        Target::of(self.n.descriptor(number)?)
    }

    /// Reads from the program's memory, then fetches the socket; see [`Notification::descriptor_after`].
    pub fn target_after<T>(&self, number: i32, read: impl FnOnce(&Memory) -> T) -> Result<(Target, T), Errno> {
        let (fd, read) = self.n.descriptor_after(number, read)?;
        Ok((Target::of(fd)?, read))
    }

    /// What is to be done instead of answering, when the next stage of this call has succeeded.
    pub fn then(&mut self, next: impl FnOnce(Call) + Send + Sync + 'static) {
        self.then = Some(Box::new(next));
    }

    /// Answers the call, or goes on with its next stage.
    pub fn finish(mut self, result: Result<i64, Errno>) {
        if let (Ok(_), Some(next)) = (result, self.then.take()) {
            return next(self);
        }
        self.print(|| match result {
            Ok(v) => v.to_string(),
            Err(e) => format!("-1 {e:?}"),
        });
        self.n.reply.result(result);
    }

    /// Answers the call as one that a signal interrupts. With a time limit of the socket's (SO_RCVTIMEO, SO_SNDTIMEO) it is not
    /// started again, whatever the handler (signal(7)).
    pub fn interrupted(self, limit: Option<Duration>) {
        if limit.is_some() {
            return self.finish(Err(Errno::EINTR));
        }
        self.print(|| "interrupted".to_owned());
        self.n.reply.interrupted();
    }

    /// A call that is trapped to be seen: the kernel makes it.
    pub fn proceed(self) {
        self.print(|| "made by the kernel".to_owned());
        self.n.reply.proceed();
    }

    /// Answers with a new descriptor for `fd`, which `done` has back: the program has its own and runs, or there can be none, and it has not been
    /// told yet.
    pub fn install(self, fd: OwnedFd, close_on_exec: bool, done: impl FnOnce(OwnedFd, Result<(), Errno>)) {
        self.print(|| "a new socket".to_owned());
        match self.n.reply.install(fd.as_fd(), close_on_exec) {
            Ok(()) => done(fd, Ok(())),
            Err((reply, e)) => {
                done(fd, Err(e));
                reply.error(e);
            }
        }
    }

    /// Waits for `operation`, about the socket with this cookie, while the thread waits, and for its signals.
    pub async fn hold<T>(&self, socket: Cookie, operation: impl Future<Output = T>) -> Held<T> {
        self.watch(socket).hold(operation).await
    }

    /// As [`Call::hold`], for operations that change the call itself, and for those that are another task's: the thread is looked
    /// after from here on.
    pub fn watch(&self, socket: Cookie) -> Watch {
        Watch { holding: self.supervisor.watcher.hold(self.n.thread, socket, self.n.reply.watch()) }
    }

    /// The thread was killed: no answer is owed.
    pub fn abandon(self) {
        self.finish(Err(Errno::EINTR));
    }

    #[inline]
    fn print(&self, result: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            self.print_line(trace, &result());
        }
    }

    #[cold]
    fn print_line(&self, trace: &Trace, result: &str) {
        let mut line = String::with_capacity(120);
        let name = if trace.text.is_empty() { format!("syscall {}", self.n.call) } else { trace.text.clone() };
        let _ = write!(line, "[{}] {name} = {result}", self.n.thread);
        let _ = write!(line, " <{:.3} ms>", trace.started.elapsed().as_secs_f64() * 1e3);
        if !trace.rule.is_empty() {
            let _ = write!(line, " by {}", trace.rule);
        }
        crate::say::trace(&line);
    }
}

/// Looks after a held thread.
pub struct Watch {
    holding: Holding,
}

impl Watch {
    /// See [`Call::hold`].
    pub async fn hold<T>(self, operation: impl Future<Output = T>) -> Held<T> {
        tokio::pin!(operation);
        let mut holding = self.holding;
        tokio::select! {
            biased;
            done = &mut operation => Held::Done(done),
            ended = holding.ended() => match ended {
                Ended::Interrupted => Held::Interrupted,
                Ended::Gone => Held::Gone,
            },
        }
    }
}

/// The errno of an error of the standard library.
pub fn errno(e: std::io::Error) -> Errno {
    Errno::from_raw(e.raw_os_error().unwrap_or(nix::libc::EIO))
}
