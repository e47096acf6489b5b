#![forbid(unsafe_code)]
//! The conformance table: every case of tests/conformance natively and under `sipbox run`, compared line by line. What
//! differs must be on the list of explained differences, and tests/CONFORMANCE.md must say what this test finds: with
//! SIPBOX_UPDATE=1 it is written.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use tests::World;

/// A difference that is inherent.
struct Explained {
    /// GROUP.CASE.
    case: &'static str,
    /// The kinds that differ, in the table's order; empty: all that the case has.
    kinds: &'static [&'static str],
    why: &'static str,
}

const OVERLAP: &str = "UDP sockets of one port whose addresses overlap share a port of the kernel's, which alone can hand each what its own peer \
                       sends: the last of the others hears the rest.";

const EXPLAINED: &[Explained] = &[
    Explained {
        case: "bind.multicast_and_broadcast",
        kinds: &[],
        why: "No socket of a run is at a group's or a broadcast address, where it would hear nothing; joining a group is \
              refused as well.",
    },
    Explained {
        case: "option.membership",
        kinds: &[],
        why: "Groups are refused: nothing of the network's multicast reaches a run.",
    },
    Explained {
        case: "option.named",
        kinds: &[],
        why: "The filter refuses the options that would move a socket off its address by their number, whatever the socket.",
    },
    Explained { case: "overlap.datagrams_of_wildcard_and_address", kinds: &["udp4", "udp-mapped"], why: OVERLAP },
    Explained { case: "overlap.datagrams_of_address_and_wildcard", kinds: &[], why: OVERLAP },
    Explained { case: "overlap.in_the_way_of_one", kinds: &["udp4", "udp-mapped"], why: OVERLAP },
    Explained {
        case: "send.largest",
        kinds: &["udp6"],
        why: "An IPv6 datagram travels as an IPv4 one, which has room for 65507 bytes.",
    },
    Explained {
        case: "stream.out_of_band_where_there_is_none",
        kinds: &["udp6"],
        why: "An IPv6 datagram travels as an IPv4 one, for which the kernel refuses MSG_OOB; send(2) without an address is \
              the kernel's own.",
    },
    Explained {
        case: "processes.says_that_it_is_undumpable",
        kinds: &[],
        why: "The supervisor reads the program's memory: a program that hides it is told yes, and is not hidden.",
    },
    Explained {
        case: "processes.strict_mode",
        kinds: &[],
        why: "The kernel has no way from filters to the strict mode of 2005.",
    },
    Explained {
        case: "processes.own_listener_of_notifications",
        kinds: &[],
        why: "The kernel allows one listener for the filters of a process, and that is the supervisor's.",
    },
    Explained {
        case: "processes.new_user_namespace",
        kinds: &[],
        why: "In a user namespace of its own a program could have all capabilities: the filter refuses it.",
    },
    Explained {
        case: "bind.low_port",
        kinds: &[],
        why: "Ports are virtual: one below 1024 needs no privilege, since none is taken from the system.",
    },
];

/// The columns of the table.
const KINDS: [&str; 9] =
    ["tcp4", "tcp6", "tcp-mapped", "udp4", "udp6", "udp-mapped", "unix-stream", "unix-dgram", "unix-seqpacket"];

/// A case for one kind and mode: what it printed natively and under sipbox.
struct Outcome {
    group: String,
    case: String,
    kind: String,
    mode: String,
    native: Vec<String>,
    boxed: Vec<String>,
}

impl Outcome {
    fn differs(&self) -> bool {
        self.native != self.boxed
    }

    /// The lines that differ: what the two have in common at the beginning and at the end is left out.
    fn difference(&self) -> String {
        let (n, b) = (&self.native, &self.boxed);
        let front = n.iter().zip(b).take_while(|(x, y)| x == y).count();
        let (n, b) = (&n[front..], &b[front..]);
        let back = n.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
        let mut out = String::new();
        let mut pairs = (0..n.len().max(b.len()) - back).map(|i| {
            let inside = |lines: &'_ [String]| lines[..lines.len() - back].get(i).cloned();
            (inside(n), inside(b))
        });
        let _ = pairs.try_for_each(|(one, other)| {
            if one == other {
                return writeln!(out, "       | {}", one.unwrap_or_default());
            }
            if let Some(line) = one {
                writeln!(out, "native | {line}")?;
            }
            if let Some(line) = other {
                writeln!(out, "sipbox | {line}")?;
            }
            Ok(())
        });
        out
    }
}

/// The output of the program by case, kind and mode.
fn parse(text: &str) -> BTreeMap<(String, String, String, String), Vec<String>> {
    let mut all = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("== ") {
            let mut words = title.splitn(3, ' ');
            let mut word = || words.next().unwrap_or_default().to_owned();
            let (name, kind, mode) = (word(), word(), word());
            let (group, case) = name.split_once('.').unwrap_or_default();
            let key = (group.to_owned(), case.to_owned(), kind, mode);
            current = Some(key.clone());
            let before = all.insert(key, Vec::new());
            assert!(before.is_none(), "{title} ran twice");
        } else if let Some(lines) = current.as_ref().and_then(|key| all.get_mut(key)) {
            lines.push(in_any_checkout(line));
        }
    }
    all
}

/// A failed check names its place by the whole path of the source: only the file's name is the same everywhere.
fn in_any_checkout(line: &str) -> String {
    let place = line.strip_prefix("FAIL: ").and_then(|rest| rest.split_once(": "));
    match place {
        Some((place, what)) if place.contains('/') => {
            let file = place.rsplit('/').next().unwrap_or(place);
            let file = file.split(':').next().unwrap_or(file);
            format!("FAIL: {file}: {what}")
        }
        _ => line.to_owned(),
    }
}

fn run_all(world: &World) -> Vec<Outcome> {
    /// One group, with its longest cases.
    const LIMIT: Duration = Duration::from_secs(120);
    const POISONED: &str = "the other worker did not panic, or the scope ends with its panic";
    let groups = world.native("conformance").arg("--groups").finish().success().stdout;
    let groups: Vec<&str> = groups.lines().collect();
    let next = Mutex::new(groups.iter());
    let found = Mutex::new(Vec::new());
    let work = || {
        loop {
            let Some(group) = next.lock().expect(POISONED).next() else { return };
            let native = world.native("conformance").arg(group).finish_within(LIMIT).success();
            let boxed = world.run(&[], "conformance").arg(group).finish_within(LIMIT).success();
            let mut boxed = parse(&boxed.stdout);
            for (key, native) in parse(&native.stdout) {
                let boxed = boxed.remove(&key).unwrap_or_default();
                let (group, case, kind, mode) = key;
                found.lock().expect(POISONED).push(Outcome { group, case, kind, mode, native, boxed });
            }
            assert!(boxed.is_empty(), "{group}: only sipbox ran {:?}", boxed.keys());
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let mut found = found.into_inner().expect(POISONED);
    let place = |o: &Outcome| groups.iter().position(|g| *g == o.group);
    found.sort_by(|a, b| {
        let key = |o: &Outcome| (place(o), o.case.clone(), KINDS.iter().position(|k| *k == o.kind), o.mode.clone());
        key(a).cmp(&key(b))
    });
    found
}

/// The explanation of a difference, if it has one.
fn explanation(outcome: &Outcome) -> Option<&'static Explained> {
    let name = format!("{}.{}", outcome.group, outcome.case);
    let means = |e: &Explained| e.case == name && (e.kinds.is_empty() || e.kinds.contains(&outcome.kind.as_str()));
    EXPLAINED.iter().find(|e| means(e))
}

fn document(outcomes: &[Outcome]) -> String {
    let mut out = String::from(
        "# Conformance\n\n\
         What the cases of `tests/conformance` see natively, as an ordinary user, and under `sipbox run` with nothing \
         but the program's own loopback. Written and checked by `tests/tests/conformance.rs`; to write it anew: \
         `SIPBOX_UPDATE=1 cargo nextest run --cargo-profile tests -p tests --test conformance`.\n\n",
    );
    let different = outcomes.iter().filter(|o| o.differs()).count();
    let mut cases: Vec<_> = outcomes.iter().map(|o| (&o.group, &o.case)).collect();
    cases.dedup();
    let _ = writeln!(
        out,
        "{} cases, {} with their kinds and modes; {} are the same, {different} differ and are explained below.\n",
        cases.len(),
        outcomes.len(),
        outcomes.len() - different
    );
    let _ = writeln!(out, "| group | cases | {} |", KINDS.join(" | "));
    let _ = writeln!(out, "| --- | --- |{}", " --- |".repeat(KINDS.len()));
    let mut groups: Vec<&str> = outcomes.iter().map(|o| o.group.as_str()).collect();
    groups.dedup();
    for group in groups {
        let _ = write!(out, "| {group} | {} |", cases.iter().filter(|(g, _)| *g == group).count());
        for kind in KINDS {
            let of: Vec<_> = outcomes.iter().filter(|o| o.group == group && o.kind == kind).collect();
            let different = of.iter().filter(|o| o.differs()).count();
            let _ = match (of.len(), different) {
                (0, _) => write!(out, " |"),
                (n, 0) => write!(out, " {n} |"),
                (n, d) => write!(out, " {} + {d} explained |", n - d),
            };
        }
        out.push('\n');
    }
    out.push_str("\n## Differences\n");
    for e in EXPLAINED {
        // Kinds and modes that differ in the same way are told together.
        let mut told: Vec<(String, Vec<String>)> = Vec::new();
        for o in outcomes.iter().filter(|o| o.differs() && explanation(o).is_some_and(|x| std::ptr::eq(x, e))) {
            let who = format!("{} {}", o.kind, o.mode).trim_end().to_owned();
            let text = o.difference();
            match told.iter_mut().find(|(t, _)| *t == text) {
                Some((_, all)) => all.push(who),
                None => told.push((text, vec![who])),
            }
        }
        let _ = writeln!(out, "\n### {}\n\n{}", e.case, e.why);
        for (text, who) in told {
            let _ = writeln!(out, "\n{}:\n\n```\n{text}```", who.join(", "));
        }
    }
    out.push_str("\nWith `--isolation netns` there is no other difference.\n");
    out
}

#[test]
fn conformance() {
    let world = World::new("conformance");
    let outcomes = run_all(&world);
    let mut wrong = String::new();
    for o in &outcomes {
        if o.differs() && explanation(o).is_none() {
            let _ = writeln!(wrong, "{}.{} {} {}\n{}", o.group, o.case, o.kind, o.mode, o.difference());
        }
    }
    let stale: Vec<_> = EXPLAINED
        .iter()
        .filter(|e| {
            let differ = |kind: &str| {
                outcomes.iter().any(|o| {
                    o.differs()
                        && explanation(o).is_some_and(|x| std::ptr::eq(x, *e))
                        && (kind.is_empty() || o.kind == kind)
                })
            };
            if e.kinds.is_empty() { !differ("") } else { !e.kinds.iter().all(|k| differ(k)) }
        })
        .map(|e| e.case)
        .collect();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("CONFORMANCE.md");
    let found = document(&outcomes);
    assert!(wrong.is_empty(), "not as Linux does it, and not explained (- of {} runs):\n{wrong}", outcomes.len());
    // Another isolation may have fewer differences; the file tells of the default one.
    if std::env::var_os("SIPBOX_TEST_ISOLATION").is_some() {
        return;
    }
    assert!(stale.is_empty(), "explained, but there is no such difference (any more): {stale:?}");
    if std::env::var_os("SIPBOX_UPDATE").is_some() {
        std::fs::write(&file, &found).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(committed == found, "tests/CONFORMANCE.md is not what this test found: run it with SIPBOX_UPDATE=1");
}
