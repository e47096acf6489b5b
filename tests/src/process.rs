//! Processes: started with a clean environment as the test user, output kept in files, every wait bounded.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::Namespace;
use crate::world::User;

/// How long a test waits for anything that should happen soon, on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `ready` gives a value; `None` when the time is up.
pub fn within<T>(limit: Duration, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(value) = ready() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Waits until `ready` gives a value; panics with `what` when [`PATIENCE`] is at its end.
pub fn until<T>(what: &str, ready: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, ready).unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain: {what}"))
}

/// The processes below `pid`, by the parent numbers of /proc.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // "PID (NAME) STATE PARENT ...", where NAME may hold anything.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        if let Some(parent) = parent {
            parents.push((child, parent));
        }
    }
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(child, _)| *child));
        at += 1;
    }
    found.remove(0);
    found
}

enum Input {
    Nothing,
    Pipe,
    Bytes(Vec<u8>),
}

/// A command that is about to be started.
pub struct Launch {
    dir: PathBuf,
    tag: String,
    argv: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    cwd: PathBuf,
    user: Option<User>,
    input: Input,
    namespace: Option<Namespace>,
}

impl Launch {
    pub(crate) fn new(dir: &Path, tag: String, program: OsString, user: Option<User>) -> Launch {
        Launch {
            dir: dir.to_path_buf(),
            tag,
            argv: vec![program],
            env: Vec::new(),
            cwd: dir.to_path_buf(),
            user,
            input: Input::Nothing,
            namespace: None,
        }
    }

    pub(crate) fn tag(mut self, tag: String) -> Launch {
        self.tag = tag;
        self
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Launch {
        self.argv.push(arg.as_ref().to_os_string());
        self
    }

    /// The whole command becomes the arguments of another: `PROGRAM WORD COMMAND...`.
    pub fn behind(mut self, program: impl AsRef<OsStr>, word: &str) -> Launch {
        self.argv.splice(..0, [program.as_ref().to_os_string(), word.into()]);
        self
    }

    /// More arguments.
    pub fn args<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, args: I) -> Launch {
        self.argv.extend(args.into_iter().map(|a| a.as_ref().to_os_string()));
        self
    }

    /// A variable of the environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Launch {
        self.env.push((name.as_ref().to_os_string(), value.as_ref().to_os_string()));
        self
    }

    /// Another working directory than the world's own.
    pub fn cwd(mut self, dir: impl AsRef<Path>) -> Launch {
        self.cwd = dir.as_ref().to_path_buf();
        self
    }

    /// What the program reads from its standard input (default: nothing).
    pub fn input(mut self, bytes: impl AsRef<[u8]>) -> Launch {
        self.input = Input::Bytes(bytes.as_ref().to_vec());
        self
    }

    /// The standard input stays open, for [`Process::say`].
    pub fn talk(mut self) -> Launch {
        self.input = Input::Pipe;
        self
    }

    /// It runs in this network namespace.
    pub fn inside(mut self, namespace: &Namespace) -> Launch {
        self.namespace = Some(namespace.clone());
        self
    }

    /// Starts it.
    pub fn start(self) -> Process {
        let shown = self.argv.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let stdout = self.dir.join(format!("{}.out", self.tag));
        let stderr = self.dir.join(format!("{}.err", self.tag));
        let create = |path: &Path| {
            File::create(path).unwrap_or_else(|e| panic!("the output file {} of `{shown}`: {e}", path.display()))
        };
        let mut command = Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).env_clear().envs(self.env).current_dir(&self.cwd).process_group(0);
        command.stdout(create(&stdout)).stderr(create(&stderr));
        let given = match self.input {
            Input::Nothing => {
                command.stdin(Stdio::null());
                None
            }
            Input::Pipe => {
                command.stdin(Stdio::piped());
                None
            }
            Input::Bytes(bytes) => {
                command.stdin(Stdio::piped());
                Some(bytes)
            }
        };
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        let started = Instant::now();
        let spawned = match &self.namespace {
            Some(namespace) => namespace.enter(|| command.spawn()),
            None => command.spawn(),
        };
        let mut child = spawned.unwrap_or_else(|e| panic!("starting `{shown}`: {e}"));
        let mut stdin = child.stdin.take();
        if let Some(bytes) = given
            && let Some(mut pipe) = stdin.take()
        {
            // A program may end without reading; a large input must not hold up the test.
            std::thread::spawn(move || pipe.write_all(&bytes));
        }
        Process { child, shown, stdout, stderr, stdin, started, status: None }
    }

    /// Starts it and waits for its end, at most [`PATIENCE`].
    pub fn finish(self) -> Done {
        self.start().wait()
    }

    /// Starts it and waits for its end without looking after it meanwhile: how long that took, for measurements.
    pub fn time(self) -> Duration {
        let mut process = self.start();
        let ended = process.child.wait();
        let took = process.started.elapsed();
        process.status = ended.ok();
        process.wait().success();
        took
    }

    /// Starts it and waits for its end, at most `limit`.
    pub fn finish_within(self, limit: Duration) -> Done {
        self.start().wait_within(limit)
    }
}

/// A running command; dropping it kills it with everything that it started.
pub struct Process {
    child: Child,
    shown: String,
    stdout: PathBuf,
    stderr: PathBuf,
    stdin: Option<ChildStdin>,
    started: Instant,
    status: Option<ExitStatus>,
}

impl Process {
    /// Its process id: the supervisor's, for `sipbox run`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Waits until a line of standard output contains `text`, and returns it.
    pub fn wait_for(&mut self, text: &str) -> String {
        self.wait_for_line(text, false)
    }

    /// Waits until a line of standard error contains `text`, and returns it.
    pub fn wait_for_err(&mut self, text: &str) -> String {
        self.wait_for_line(text, true)
    }

    /// The first complete line with `text`.
    fn wait_for_line(&mut self, text: &str, err: bool) -> String {
        let path = if err { self.stderr.clone() } else { self.stdout.clone() };
        let seen = within(PATIENCE, || {
            // The status first: what was written before the end is then seen.
            let ended = self.ended();
            let line =
                read(&path).split_inclusive('\n').find(|l| l.contains(text) && l.ends_with('\n')).map(str::to_owned);
            if line.is_some() || ended { Some(line) } else { None }
        });
        match seen {
            Some(Some(line)) => line.trim_end().to_owned(),
            Some(None) => panic!("`{}` ended ({:?}) without {text:?}\n{}", self.shown, self.status, self.output()),
            None => panic!("`{}` did not write {text:?} in {PATIENCE:?}\n{}", self.shown, self.output()),
        }
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().unwrap_or_else(|e| panic!("waiting for `{}`: {e}", self.shown));
        }
        self.status.is_some()
    }

    /// Writes to its standard input ([`Launch::talk`]).
    pub fn say(&mut self, text: &str) {
        self.tell(text).unwrap_or_else(|e| panic!("telling `{}`: {e}", self.shown));
    }

    /// The same of a process that may be dead (EPIPE).
    pub fn tell(&mut self, text: &str) -> std::io::Result<()> {
        let shown = &self.shown;
        let pipe = self.stdin.as_mut().unwrap_or_else(|| panic!("`{shown}` has no open standard input"));
        pipe.write_all(text.as_bytes())?;
        pipe.flush()
    }

    /// Ends its standard input.
    pub fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// Sends a signal to this process alone.
    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// The first process below this one that runs a program of this file name, once there is one.
    pub fn child_named(&self, name: &str) -> u32 {
        until(&format!("a process {name} below `{}`", self.shown), || {
            descendants(self.pid()).into_iter().find(|pid| {
                fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.file_name() == Some(OsStr::new(name)))
            })
        })
    }

    /// Waits for its end, at most [`PATIENCE`].
    pub fn wait(self) -> Done {
        self.wait_within(PATIENCE)
    }

    /// Waits for its end, at most `limit`.
    pub fn wait_within(mut self, limit: Duration) -> Done {
        if within(limit, || self.ended().then_some(())).is_none() {
            panic!("`{}` has not ended after {limit:?}\n{}", self.shown, self.output());
        }
        let status = self.status.unwrap_or_else(|| unreachable!("it has ended"));
        Done {
            status,
            stdout: self.stdout(),
            stderr: self.stderr(),
            shown: self.shown.clone(),
            took: self.started.elapsed(),
        }
    }

    /// Asks it to end (SIGTERM) and waits.
    pub fn stop(self) -> Done {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    fn output(&self) -> String {
        output(&self.stdout(), &self.stderr())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended() {
            return;
        }
        let below = descendants(self.pid());
        send(self.pid(), Signal::SIGKILL);
        for pid in below {
            send(pid, Signal::SIGKILL);
        }
        // It was killed: this does not wait long.
        let _ = self.child.wait();
    }
}

/// What a command has left behind.
pub struct Done {
    status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// From its start to the moment when its end was noticed.
    pub took: Duration,
    shown: String,
}

impl Done {
    /// The exit status as a shell has it: 128 + n for signal n.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// The signal that killed the process itself.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// It must have ended well.
    #[track_caller]
    pub fn success(self) -> Done {
        self.ended_with(0)
    }

    /// It must have ended with this status.
    #[track_caller]
    pub fn ended_with(self, code: i32) -> Done {
        assert!(
            self.code() == code,
            "`{}` ended with {}, wanted {code}\n{}",
            self.shown,
            self.code(),
            output(&self.stdout, &self.stderr)
        );
        self
    }

    /// Its standard output must contain this.
    #[track_caller]
    pub fn says(self, text: &str) -> Done {
        let all = output(&self.stdout, &self.stderr);
        assert!(self.stdout.contains(text), "`{}` did not print {text:?}\n{all}", self.shown);
        self
    }

    /// Its standard error must contain this.
    #[track_caller]
    pub fn complains(self, text: &str) -> Done {
        let all = output(&self.stdout, &self.stderr);
        assert!(self.stderr.contains(text), "`{}` did not write {text:?} to its standard error\n{all}", self.shown);
        self
    }

    /// Exactly one line of standard error must start with "sipbox:" and contain all of `words`.
    #[track_caller]
    pub fn explains(self, words: &[&str]) -> Done {
        let all = output(&self.stdout, &self.stderr);
        let lines: Vec<&str> = self.stderr.lines().filter(|l| l.starts_with("sipbox:")).collect();
        assert!(lines.len() == 1, "`{}`: wanted one line that starts with \"sipbox:\"\n{all}", self.shown);
        for word in words {
            assert!(lines[0].contains(word), "`{}`: the line of sipbox does not contain {word:?}\n{all}", self.shown);
        }
        self
    }
}

/// Sends a signal; that the process is gone already is no error.
pub(crate) fn send(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn output(stdout: &str, stderr: &str) -> String {
    format!("--- standard output\n{}--- standard error\n{}---", tail(stdout), tail(stderr))
}

/// The last lines of a long text, and of long lines their beginning.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let skipped = lines.len().saturating_sub(60);
    let mut out = String::new();
    if skipped > 0 {
        out.push_str(&format!("... {skipped} lines ...\n"));
    }
    for line in &lines[skipped..] {
        out.extend(line.chars().take(400));
        out.push('\n');
    }
    out
}
