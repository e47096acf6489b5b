#![forbid(unsafe_code)]
//! CPython's own suites of its network modules, natively and under sipbox with a policy that leaves the program its private
//! loopback only: test by test the same result.
//!
//! tests/programs/cpython_suite.py runs one module and says how each test ended; both runs go on at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::{Done, Launch, World};

/// How long one module may take, on a machine that is busy with the other modules.
const LIMIT: Duration = Duration::from_secs(400);

/// Families that sipbox refuses on purpose, since nothing of them can ride on SIP or stay on a private loopback, by parts of the
/// names of their test classes: on a kernel that has them, these tests run natively and are skipped under sipbox.
const REFUSED: [&str; 10] = [
    "Bluetooth",
    "CANTest.",
    "ISOTPTest.",
    "J1939Test.",
    "LinuxKernelCryptoAPI.",
    "QIPCRTRTest.",
    "RDSTest.",
    "SCTPStream",
    "TIPC",
    "VSOCK",
];

/// How the tests of one run ended, by their ids.
struct Outcomes {
    by_id: BTreeMap<String, Outcome>,
}

/// A test that did not run.
const ABSENT: &str = "absent";

struct Outcome {
    word: String,
    /// A traceback, or why it was skipped.
    detail: String,
}

impl Outcomes {
    fn of(done: &Done, shown: &str) -> Outcomes {
        let mut by_id: BTreeMap<String, Outcome> = BTreeMap::new();
        let mut last = String::new();
        let mut whole = false;
        for line in done.stdout.lines() {
            if let Some(detail) = line.strip_prefix('\t') {
                if let Some(o) = by_id.get_mut(&last) {
                    o.detail.push_str("\n    ");
                    o.detail.push_str(detail);
                }
                continue;
            }
            whole |= line == "done";
            let mut words = line.splitn(3, ' ');
            if let (Some(word), Some(Ok(_)), Some(id)) =
                (words.next(), words.next().map(str::parse::<f64>), words.next())
            {
                last = id.to_owned();
                by_id.insert(last.clone(), Outcome { word: word.to_owned(), detail: String::new() });
            }
        }
        assert!(whole, "{shown}: the suite did not come to its end\n{}\n{}", done.stdout, done.stderr);
        Outcomes { by_id }
    }

    fn word(&self, id: &str) -> &str {
        self.by_id.get(id).map_or(ABSENT, |o| &o.word)
    }

    fn shown(&self, id: &str) -> String {
        self.by_id.get(id).map_or_else(|| ABSENT.to_owned(), |o| format!("{}{}", o.word, o.detail))
    }

    fn failed(&self) -> Vec<&str> {
        let failed = |o: &Outcome| matches!(o.word.as_str(), "fail" | "error");
        self.by_id.iter().filter(|(_, o)| failed(o)).map(|(id, _)| id.as_str()).collect()
    }

    fn count(&self, word: &str) -> usize {
        self.by_id.values().filter(|o| o.word == word).count()
    }
}

/// One module of the package `test`, to be run natively and under sipbox.
struct Suite<'a> {
    module: &'a str,
    world: World,
    script: PathBuf,
    policy: PathBuf,
}

/// How the same tests ended natively and under sipbox.
struct Pair {
    native: Outcomes,
    boxed: Outcomes,
    summary: String,
    stderr: String,
}

impl Suite<'_> {
    fn new(module: &str) -> Suite<'_> {
        let world = World::new(&format!("py-{}", module.trim_start_matches("test_")));
        let script = world.program("cpython_suite.py");
        let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/loopback.toml");
        let text = std::fs::read(&policy).unwrap_or_else(|e| panic!("{}: {e}", policy.display()));
        let policy = world.write("loopback.toml", text);
        Suite { module, script, policy, world }
    }

    /// Both runs at the same time; `arguments` go to cpython_suite.py.
    fn run(&self, arguments: &[&str]) -> Pair {
        let start = |launch: Launch, name: &str| {
            let dir = self.world.make_dir(name, 0o755);
            launch.arg(&self.script).arg(self.module).args(arguments).cwd(&dir).env("TMPDIR", &dir).start()
        };
        let natively = || start(self.world.native("/usr/bin/python3"), "n");
        let native = natively();
        let policy = self.policy.to_string_lossy();
        let boxed = start(self.world.run(&["--policy", &policy], "/usr/bin/python3"), "b");
        let (mut native, boxed) = (native.wait_within(LIMIT), boxed.wait_within(LIMIT));
        // Natively a test hangs when another process of this machine takes the port that it has just found to be free.
        if !native.stdout.lines().any(|line| line == "done") {
            println!("{}: natively it did not come to its end, and is run again", self.module);
            native = natively().wait_within(LIMIT);
        }
        let seconds = [&native, &boxed].map(|done| done.took.as_secs_f64());
        Pair {
            native: Outcomes::of(&native, "native"),
            boxed: Outcomes::of(&boxed, "under sipbox"),
            summary: format!("native {:.1} s, sipbox {:.1} s", seconds[0], seconds[1]),
            stderr: boxed.stderr,
        }
    }
}

impl Pair {
    /// The ids of the tests that did not end alike.
    fn differing(&self) -> Vec<&str> {
        let ids: BTreeSet<&String> = self.native.by_id.keys().chain(self.boxed.by_id.keys()).collect();
        let alike = |id: &str| {
            let (native, boxed) = (self.native.word(id), self.boxed.word(id));
            native == boxed || boxed == "skip" && is_refused(id)
        };
        ids.into_iter().map(String::as_str).filter(|id| !alike(id)).collect()
    }

    fn shown(&self, id: &str) -> String {
        format!("{id}\n  native: {}\n  sipbox: {}", self.native.shown(id), self.boxed.shown(id))
    }
}

/// Tests with time limits of half a second fail now and then on a busy machine, natively as well. So what differed is run
/// this often again by itself, and must never differ then.
const AGAIN: usize = 3;

/// Runs `test.MODULE` both ways; `arguments` go to cpython_suite.py.
fn same(module: &str, arguments: &[&str]) {
    let suite = Suite::new(module);
    let whole = suite.run(arguments);
    let differing = whole.differing();
    println!(
        "{module}: {} tests, natively {} ok, {} skipped, failed: {:?}; {} differ under sipbox; {}",
        whole.native.by_id.len(),
        whole.native.count("ok"),
        whole.native.count("skip"),
        whole.native.failed(),
        differing.len(),
        whole.summary
    );
    assert!(whole.native.count("ok") > 0, "{module}: no test ran natively");
    let mut still = Vec::new();
    if !differing.is_empty() {
        let resources = arguments.iter().filter(|a| a.starts_with('+'));
        let only: Vec<&str> = resources.chain(&differing).copied().collect();
        let mut only_natively = BTreeMap::new();
        for _ in 0..AGAIN {
            let again = suite.run(&only);
            let differs = |id: &&str| again.differing().contains(id) || again.boxed.word(id) == ABSENT;
            for id in differing.iter().copied().filter(differs) {
                if again.boxed.word(id) != "ok" {
                    still.push(again.shown(id));
                    continue;
                }
                // What fails natively now and then (a port that somebody else took) is a difference when it always does.
                let times = only_natively.entry(id).or_insert(0);
                *times += 1;
                if *times == AGAIN {
                    still.push(again.shown(id));
                }
            }
        }
        for id in &differing {
            println!("differed at first: {}", whole.shown(id));
        }
    }
    assert!(still.is_empty(), "{module}: not as natively\n{}\n{}", still.join("\n"), whole.stderr);
}

fn is_refused(id: &str) -> bool {
    id.starts_with("test.test_socket.") && REFUSED.iter().any(|part| id.contains(part))
}

/// The modules of test_asyncio that do most with sockets; a run of its own, since test_asyncio is as long as all others.
const ASYNCIO_SOCKETS: [&str; 4] =
    ["*.test_events.*", "*.test_sendfile.*", "*.test_sock_lowlevel.*", "*.test_asyncio.test_ssl.*"];

#[test]
fn asyncio_sockets() {
    same("test_asyncio", &ASYNCIO_SOCKETS);
}

#[test]
fn asyncio() {
    let others = ASYNCIO_SOCKETS.map(|pattern| format!("-{pattern}"));
    let mut arguments: Vec<&str> = others.iter().map(String::as_str).collect();
    // Thousands of objects are made and collected there, and not a socket.
    arguments.push("-*_del_collect");
    same("test_asyncio", &arguments);
}

#[test]
fn ftplib() {
    same("test_ftplib", &[]);
}

#[test]
fn httplib() {
    same("test_httplib", &[]);
}

#[test]
fn http_cookiejar() {
    same("test_http_cookiejar", &[]);
}

#[test]
fn multiprocessing_spawn() {
    // Connections, listeners and managers; the rest is semaphores, pipes and processes.
    let network = ["*Connection*", "*Listener*", "*Manager*", "*OtherTest.*", "*TestPoll*", "*TestWait.*"];
    // Managers again, with long waits that only their semaphores see.
    let waits = ["-*TestBarrier.*", "-*TestCondition.*"];
    same("test_multiprocessing_spawn", &[&network[..], &waits].concat());
}

#[test]
fn selectors() {
    same("test_selectors", &[]);
}

#[test]
fn smtplib() {
    same("test_smtplib", &[]);
}

#[test]
fn socket() {
    same("test_socket", &[]);
}

#[test]
fn socketserver() {
    // The resource is loopback here: the module runs nothing without it.
    same("test_socketserver", &["+network"]);
}

#[test]
fn ssl() {
    same("test_ssl", &[]);
}

#[test]
fn xmlrpc() {
    same("test_xmlrpc", &[]);
}
