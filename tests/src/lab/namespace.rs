//! Network namespaces without names: one lives as long as something holds it open, so a test that is killed leaves none behind.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace. It is gone with its last clone and the last process in it.
#[derive(Clone)]
pub struct Namespace {
    name: String,
    /// Closed on exec: what runs in other namespaces does not keep this one.
    file: Arc<File>,
}

impl Namespace {
    /// A new one, with its loopback up. The name is for messages only. Needs CAP_SYS_ADMIN.
    pub fn new(name: &str) -> Namespace {
        // Of the thread alone (network_namespaces(7)), which is at its end.
        let made = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                File::open("/proc/thread-self/ns/net")
            });
            thread.join().unwrap_or_else(|_| unreachable!("it does not panic"))
        });
        let file = made.unwrap_or_else(|e| panic!("a network namespace for {name}: {e}"));
        let namespace = Namespace { name: name.to_owned(), file: Arc::new(file) };
        // Addresses are usable at once: nobody else has them (RFC 4862 5.4).
        namespace.sysctl("net/ipv6/conf/default/accept_dad", "0");
        namespace.sysctl("net/ipv6/conf/default/dad_transmits", "0");
        namespace.ip("link set lo up");
        namespace
    }

    /// What it was named.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does something in it, in a thread of its own: sockets opened and processes started there are in it.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let joined = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&*self.file, CloneFlags::CLONE_NEWNET).unwrap_or_else(|e| panic!("entering {}: {e}", self.name));
                work()
            });
            thread.join()
        });
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A path that leads to it, for processes of this machine, while this value is there.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Commands of ip(8), one a line, carried out in it.
    pub fn ip(&self, commands: &str) {
        self.feed("ip", &["-batch", "-"], commands);
    }

    /// A ruleset of nft(8), added to what is there.
    pub fn nft(&self, rules: &str) {
        self.feed("nft", &["-f", "-"], rules);
    }

    /// What nft(8) prints.
    pub fn nft_list(&self) -> String {
        self.feed("nft", &["list", "ruleset"], "")
    }

    /// Sets a kernel parameter of it, such as `net/ipv4/ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) {
        // The directory shows the namespace of the thread that opens it.
        let written = self.enter(|| fs::write(format!("/proc/sys/{key}"), value));
        written.unwrap_or_else(|e| panic!("{key} = {value} in {}: {e}", self.name));
    }

    fn feed(&self, program: &str, args: &[&str], input: &str) -> String {
        let run = || {
            let mut child = Command::new(program)
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            if let Some(mut pipe) = child.stdin.take() {
                pipe.write_all(input.as_bytes())?;
            }
            child.wait_with_output()
        };
        let output = self.enter(run).unwrap_or_else(|e| panic!("{program}: {e}; tests/install.sh installs it"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} in {} failed: {said}\n{input}", self.name);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
