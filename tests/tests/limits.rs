#![forbid(unsafe_code)]
//! Programs at the limits of what there is: processes, descriptors, room in a listener's queue.

use std::os::unix::fs::chown;
use std::time::Duration;

use tests::World;

/// Starts processes until the user may have no more, and makes calls for which the supervisor takes threads of its own.
const NO_MORE_PROCESSES: &str = r#"
import errno, os, signal, socket, sys

def tried(what, call):
    try:
        call()
        print(what, "done", flush=True)
    except OSError as e:
        print(what, errno.errorcode[e.errno], flush=True)

def by_path(at):
    with socket.socket(socket.AF_UNIX) as l, socket.socket(socket.AF_UNIX) as c:
        l.bind(at)
        l.listen()
        c.connect(at)

def by_port():
    with socket.socket() as l, socket.socket() as c:
        l.bind(("127.0.0.1", 0))
        l.listen()
        c.connect(l.getsockname())

def outside():
    with socket.socket() as c:
        c.connect(("198.18.0.9", 7000))

children = []
try:
    while True:
        child = os.fork()
        if not child:
            signal.pause()
        children.append(child)
except BlockingIOError:
    print("no more", flush=True)
for n in range(5):
    tried("by path", lambda: by_path(f"{sys.argv[1]}/full-{n}"))
    tried("by port", by_port)
    tried("outside", outside)
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
tried("afterwards by path", lambda: by_path(f"{sys.argv[1]}/afterwards"))
tried("afterwards by port", by_port)
"#;

#[test]
fn no_more_processes() {
    let Some(world) = World::as_root("limit-processes") else {
        eprintln!("skipped: needs root, to run as a user whose processes are nobody else's");
        return;
    };
    let user = 50_000 + std::process::id() % 10_000;
    let place = world.make_dir("place", 0o700);
    chown(&place, Some(user), Some(user)).unwrap();
    let limited =
        format!("#!/bin/sh\nexec setpriv --reuid={user} --regid={user} --clear-groups prlimit --nproc=64 \"$@\"\n");
    let limited = world.write_mode("limited", limited, 0o755);
    let sipbox = world.run(&["--as", "x"], "python3").behind(limited, "--");
    let sipbox = sipbox.env("XDG_RUNTIME_DIR", &place).env("HOME", &place).cwd(&place);
    let done = sipbox.args(["-c", NO_MORE_PROCESSES]).arg(&place).finish().success();
    let done = done.says("no more").says("afterwards by path done").says("afterwards by port done");
    for word in ["panicked", "defect"] {
        assert!(!done.stderr.contains(word), "{}", done.stderr);
    }
    // Natively there is nothing to start for these calls; here what cannot be started is said as for a process.
    for what in ["by path", "by port"] {
        let said: Vec<&str> = done.stdout.lines().filter_map(|l| l.strip_prefix(what)).collect();
        assert_eq!(said.len(), 5, "{}", done.stdout);
        assert!(said.iter().all(|l| matches!(*l, " done" | " EAGAIN")), "{}", done.stdout);
    }
}

/// Threads wait in connect() for a full listener; before that and meanwhile others connect to one that is not full: how long that takes, in
/// ms.
const A_QUEUE_THAT_IS_FULL: &str = r#"
import os, platform, socket, sys, threading, time

def listener(at, backlog):
    s = socket.socket(socket.AF_UNIX)
    s.bind(at)
    s.listen(backlog)
    return s

def median():
    took = []
    for n in range(11):
        with socket.socket(socket.AF_UNIX) as s:
            started = time.monotonic()
            s.connect(idle)
            took.append((time.monotonic() - started) * 1000)
    return int(sorted(took)[5])

full, idle = f"{sys.argv[1]}/full", f"{sys.argv[1]}/idle"
kept = [listener(full, 0), listener(idle, 100)]
alone = median()
for n in range(1 + int(sys.argv[2])):
    s = socket.socket(socket.AF_UNIX)
    kept.append(s)
    if n == 0:
        s.connect(full)
    else:
        threading.Thread(target=lambda s=s: s.connect(full), daemon=True).start()
# Till all of them are in connect(2).
connect = {"x86_64": "42 ", "aarch64": "203 "}[platform.machine()]
def waiting():
    calls = [open(f"/proc/self/task/{t}/syscall").read() for t in os.listdir("/proc/self/task")]
    return sum(c.startswith(connect) for c in calls)
while waiting() < int(sys.argv[2]):
    time.sleep(0.2)
print("took", median(), "and alone", alone, flush=True)
os._exit(0)
"#;

#[test]
fn who_waits_for_a_full_listener_waits_alone() {
    let world = World::new("limit-queue");
    let place = world.make_dir("place", 0o755);
    let run = world.run(&[], "python3").args(["-c", A_QUEUE_THAT_IS_FULL]).arg(&place).arg("600");
    let done = run.finish_within(Duration::from_secs(120)).success();
    let took = done.stdout.lines().find_map(|l| l.strip_prefix("took ")?.split_once(" and alone "));
    let (took, alone) =
        took.map(|(took, alone)| (took.parse::<u32>().unwrap(), alone.parse::<u32>().unwrap())).unwrap();
    // One timer tick (1 to 10 ms) for each of them would be thousands of what it takes alone, however busy the machine is.
    assert!(took < 500 * alone.max(2), "{}", done.stdout);
    assert_eq!(done.stderr, "");
}

/// The main program ends while calls that are held have all the supervisor's descriptors: who is left is still counted.
#[test]
fn a_run_goes_on_without_descriptors() {
    const LEAVES_A_CHILD: &str = r#"
import os, socket, threading, time
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
def waits():
    while True:
        try: listener.accept()
        except OSError as e:
            if e.errno == 22: return
            time.sleep(0.02)
if os.fork():
    time.sleep(1)
    os._exit(7)
threads = [threading.Thread(target=waits) for _ in range(300)]
for t in threads: t.start()
time.sleep(3)
listener.shutdown(socket.SHUT_RDWR)
for t in threads: t.join()
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.1", 0))
print("the child ends", s.getsockname()[1] != 0, flush=True)
os._exit(0)
"#;
    let world = World::new("limit-descriptors");
    let limited = world.write_mode("limited", "#!/bin/sh\nexec prlimit --nofile=200:200 \"$@\"\n", 0o755);
    let run = world.run(&[], "python3").behind(limited, "--");
    let done = run.args(["-c", LEAVES_A_CHILD]).finish();
    done.ended_with(7).says("the child ends True");
}

/// What sipbox says is lost when its file is full; the program goes on.
#[test]
fn a_file_for_messages_that_is_full() {
    const GOES_ON: &str = r#"
import os, socket, sys
try:
    while True: os.write(2, b"full " * 100)
except OSError as e: print("full:", e.errno, flush=True)
for host in range(20):
    try: socket.socket().connect((f"192.0.2.{host}", 80))
    except OSError as e: errno = e.errno
print("goes on", errno, flush=True)
"#;
    let world = World::new("limit-file");
    let said = world.path("said");
    let script = format!("#!/bin/sh\nexec prlimit --fsize=65536 \"$@\" 2>{}\n", said.display());
    let limited = world.write_mode("limited", script, 0o755);
    let done = world.run(&[], "python3").behind(limited, "--").args(["-c", GOES_ON]).finish();
    done.success().says("full: 27").says("goes on 13");
    assert_eq!(std::fs::metadata(said).unwrap().len(), 65536);
}

/// A terminal that is stopped (Ctrl-S) holds up who writes there, and nobody else.
#[test]
fn a_terminal_that_is_stopped() {
    const STOPPED: &str = r#"#!/usr/bin/python3
import os, pty, subprocess, sys, termios, threading
master, slave = pty.openpty()
termios.tcflow(slave, termios.TCOOFF)
run = subprocess.Popen(sys.argv[2:], stderr=slave, stdout=subprocess.PIPE)
line = run.stdout.readline()
print("first:", line, flush=True)
termios.tcflow(slave, termios.TCOON)
said = b""
while b"192.0.2.19" not in said: said += os.read(master, 4096)
print("all is said", said.count(b"refuses it"), flush=True)
sys.exit(run.wait())
"#;
    const GOES_ON: &str = r#"
import socket, sys
for host in range(20):
    try: socket.socket().connect((f"192.0.2.{host}", 80))
    except OSError as e: errno = e.errno
print("goes on", errno, flush=True)
sys.stdin.read()
"#;
    let world = World::new("limit-terminal");
    let stopped = world.write_mode("stopped", STOPPED, 0o755);
    let mut run = world.run(&[], "python3").behind(stopped, "--").args(["-c", GOES_ON]).start();
    run.wait_for("all is said 20");
    run.hang_up();
    run.wait().success().says("first: b'goes on 13");
}

/// A signal for which there is no name ends a program as any other.
#[test]
fn a_program_that_a_real_time_signal_ends() {
    let world = World::new("limit-signals");
    world.run(&[], "sh").args(["-c", "kill -35 $$"]).finish_within(Duration::from_secs(20)).ended_with(128 + 35);
}
