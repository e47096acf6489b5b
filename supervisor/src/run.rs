//! `sipbox run`: from the command line to the exit status of the program.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use parking_lot::Mutex;
use policy::{Flags, Policy};
use sandbox::child::StartError;
use sandbox::filter::Scope;
use sandbox::keeper::Keeper;
use sandbox::netns::Networks;
use sandbox::notify::Listener;
use sandbox::processes::Change;
use sandbox::watch::Watcher;
use sandbox::watchdog;
use sipcore::agent::Proto;

use crate::deaths::Deaths;
use crate::flow::Settings;
use crate::guard::{self, Guards};
use crate::homes::Homes;
use crate::identity::{self, Identity, PASSWORD_VARIABLE, TURN_PASSWORD_VARIABLE, password};
use crate::interfaces::Interfaces;
use crate::netlink::Netlink;
use crate::nobody::Nobody;
use crate::own::Network;
use crate::published::{self, Published};
use crate::sessions::Sessions;
use crate::stub::Stub;
use crate::supervisor::{Options, Supervisor, Unsent};
use crate::table::Table;
use crate::unix::Unix;
use crate::{cli, dns, hub, inherited, ladder, status, stub};

/// Exit statuses, as shells and env(1) have them.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;
const FAILED: i32 = 125;
const BAD_POLICY: i32 = 2;

/// How long the end of a run waits for the answers to its last messages.
const FAREWELL: Duration = Duration::from_millis(500);
/// Threads that receive notifications. One: what it begins is done before the next call of the program is seen, which accept() relies on when it
/// enters a socket that the program has already, and recvfrom() when it looks whether there was urgent data.
const NOTIFICATION_THREADS: usize = 1;

/// Runs the program and returns the exit status.
pub fn run(arguments: cli::Run) -> i32 {
    let status = try_run(arguments).unwrap_or_else(|(status, words)| {
        crate::say::say!("{words}");
        status
    });
    crate::say::finish();
    status
}

type Failed = (i32, String);

fn try_run(arguments: cli::Run) -> Result<i32, Failed> {
    let policy = load_policy(&arguments).map_err(|e| (BAD_POLICY, e))?;
    let identity = identity(&policy, &arguments).map_err(|e| (BAD_POLICY, e))?;
    let mut command = arguments.command.into_iter();
    let program =
        command.next().ok_or((BAD_POLICY, "no program given: sipbox run [FLAGS] -- PROGRAM [ARGS]".to_owned()))?;

    let flows = flows(&policy, &identity).map_err(|e| (BAD_POLICY, e))?;
    let internal = |e: &dyn std::fmt::Display| (FAILED, e.to_string());
    let scope = match arguments.isolation {
        cli::Isolation::Netns => Scope::Own {
            bind: policy.may_deny_bind() || policy.may_publish(),
            netlink: matches!(policy.netlink(), policy::LocalDecision::Refuse { .. }),
        },
        // A relay costs more than a trapped call, and in a user namespace the files of others are nobody's: direct flows suit most.
        cli::Isolation::Auto | cli::Isolation::Seccomp => Scope::Here,
    };
    let filter = sandbox::filter::Filter::build(scope).map_err(|e| internal(&e))?;
    let mut handed = sandbox::inherited::take_sockets().map_err(|e| internal(&e))?;
    let numbers: Vec<_> = handed.iter().map(|h| h.number).collect();
    let kept = sandbox::child::keep_back(&numbers).map_err(|e| internal(&e))?;
    if !kept.is_empty() {
        crate::say::say!(
            "descriptors that were open are not passed on to the program, since they lead past its sandbox: {}",
            kept.join(", ")
        );
    }
    // The forks come before the first thread.
    let networks = match scope {
        Scope::Here => None,
        Scope::Own { .. } => {
            let (v4, v6) = policy.virtual_addresses(&identity.aor);
            Some(Networks::make(v4, v6).map_err(|e| {
                (FAILED, format!("--isolation netns: {e}; `sipbox doctor` says what is missing, --isolation seccomp works without"))
            })?)
        }
    };
    if let Some(networks) = &networks {
        handed.iter_mut().try_for_each(|socket| socket.move_into(networks)).map_err(|e| internal(&e))?;
    }
    let entrance = networks.as_ref().map(Networks::entrance);
    let arguments_of_it = command.collect();
    let (secrets, reaches) = (secrets(&policy), policy.reaches_local_sockets());
    let prepared = sandbox::child::prepare(program.clone(), arguments_of_it, &secrets, &filter, entrance, reaches)
        .map_err(|e| internal(&e))?;
    sandbox::child::shield().map_err(|e| internal(&e))?;
    let _keeper = match scope {
        // Sockets in a network of their own reach nobody when the supervisor is gone.
        Scope::Own { .. } => None,
        Scope::Here => match Keeper::start(guard::outlives) {
            Ok(keeper) => Some(keeper),
            Err(error) => {
                crate::say::say!(
                    "no process can be started that keeps the run's ports should sipbox be killed: {error}; the run goes on without \
                     (see the limit of processes, `ulimit -u`)"
                );
                None
            }
        },
    };
    let signals = signals().map_err(|e| internal(&e))?;
    crate::say::begin();
    // Sockets, encryption and packets of a flow in one thread: handing each other every packet costs two more than they gain.
    watchdog::start().map_err(|e| internal(&e))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("sipbox")
        // One for work that blocks is there from the start, and stays: later there may be no more threads for the user.
        .thread_keep_alive(Duration::from_secs(u64::from(u32::MAX)))
        .on_thread_start(watchdog::enlist)
        .on_thread_park(|| watchdog::within_step(false))
        .on_thread_unpark(|| watchdog::within_step(true))
        .enable_all()
        .build()
        .map_err(|e| internal(&e))?;
    runtime.spawn_blocking(|| ());
    let network = networks.map(|n| Arc::new(Network::new(n)));
    let options = Options { trace: arguments.trace };
    let shown = program_name(&program);
    let run = Run::start(policy, identity, flows, options, network.clone(), &runtime).map_err(|e| (FAILED, e))?;
    for socket in handed {
        let adopted = socket.let_go().map_err(|e| internal(&e))?;
        let address = adopted.address;
        match inherited::adopt(&run.supervisor, adopted) {
            // The policy's word has been said.
            Ok(()) | Err(nix::errno::Errno::EACCES) => {}
            Err(e) => {
                return Err((FAILED, format!("the socket on {address} that was handed in cannot be taken over: {e}")));
            }
        }
    }
    if run.supervisor.sessions.may_be_called() {
        let _inside = runtime.enter();
        crate::flow::begin_to_gather(&run.supervisor);
    }
    // Who has a name can be called from the first moment on, and hears of a wrong password before anything else.
    runtime.block_on(run.supervisor.sessions.ensure_registered());
    let door = {
        let _inside = runtime.enter();
        status::Door::open(&run.supervisor, shown)
    };
    let _door = door.inspect_err(|why| tracing::warn!(why, "`sipbox status` does not see this run")).ok();
    receive(&prepared.listener(), &run.supervisor).map_err(|e| internal(&e))?;
    let main = match prepared.start() {
        Ok(main) => main,
        Err(e) => {
            // Nobody is to be called where nothing runs.
            runtime.block_on(run.supervisor.sessions.shutdown(FAREWELL));
            return Err(start_failed(&program, e));
        }
    };
    let broker = network.as_ref().map(|n| n.broker());
    let status = wait(main, broker, &signals);
    runtime.block_on(last_words(&run.supervisor));
    runtime.block_on(run.supervisor.sessions.shutdown(FAREWELL));
    runtime.shutdown_background();
    if let Some(network) = &run.supervisor.network {
        network.close();
    }
    Ok(status)
}

/// How long what the program sent last may wait for the sessions that are to carry it.
const LAST_WORDS: Duration = Duration::from_secs(5);
const LAST_LOOK: Duration = Duration::from_millis(1);

/// The program has ended: what it sent is delivered before the run does.
async fn last_words(supervisor: &Supervisor) {
    let end = Instant::now() + LAST_WORDS;
    if let Some(network) = &supervisor.network {
        network.sweep();
    }
    supervisor.stub.drain();
    let busy = || supervisor.unsent.is_held() || supervisor.network.as_ref().is_some_and(|n| n.is_busy());
    while busy() && Instant::now() < end {
        tokio::time::sleep(LAST_LOOK).await;
    }
}

/// What the program is called.
fn program_name(program: &OsString) -> String {
    let name = Path::new(program).file_name().unwrap_or(program);
    name.to_string_lossy().into_owned()
}

fn start_failed(program: &OsString, e: StartError) -> Failed {
    let name = Path::new(program).display();
    match e {
        StartError::Exec { source } => match source.raw_os_error() {
            Some(nix::libc::ENOENT) => {
                (NOT_FOUND, format!("{name}: not found (looked for it on PATH, or at that path)"))
            }
            Some(nix::libc::EACCES) => (NOT_EXECUTABLE, format!("{name}: not executable: {source}")),
            Some(nix::libc::ENOEXEC) => (NOT_EXECUTABLE, format!("{name}: not a program of this machine: {source}")),
            _ => (NOT_EXECUTABLE, format!("{name}: cannot be started: {source}")),
        },
        other => (FAILED, other.to_string()),
    }
}

/// Variables with passwords in them: sipbox's own, not the program's.
fn secrets(policy: &Policy) -> Vec<String> {
    let named = [&policy.identity().credentials, &policy.ice().credentials];
    let named = named.into_iter().flatten().filter_map(|credentials| match credentials {
        policy::Credentials::Env(name) => Some(name.clone()),
        policy::Credentials::File(_) => None,
    });
    named.chain([PASSWORD_VARIABLE.to_owned(), TURN_PASSWORD_VARIABLE.to_owned()]).collect()
}

fn load_policy(arguments: &cli::Run) -> Result<Policy, String> {
    let flags = Flags {
        as_uri: arguments.as_uri.clone(),
        to: arguments.to.clone(),
        maps: arguments.map.clone(),
        registrar: arguments.home.registrar.clone(),
        publish: arguments.publish.clone(),
        flow: arguments.flow.clone(),
        cleartext: arguments.cleartext,
        stun: arguments.stun.clone(),
        turn: arguments.turn.clone(),
    };
    cli::policy(arguments.policy.as_deref(), &flags)
}

/// Who the run is: what the policy says, or a name of its own that nobody can call.
fn identity(policy: &Policy, arguments: &cli::Run) -> Result<Identity, String> {
    let tap = arguments.ladder.then(ladder::tap);
    Identity::new(policy, &arguments.home, tap, || {
        let program = arguments.command.first().map(PathBuf::from).unwrap_or_default();
        let name = program.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        format!("{}-{}", identity::plain(&name), std::process::id())
    })
}

/// What the policy says about flows, and the password of the TURN servers.
fn flows(policy: &Policy, identity: &Identity) -> Result<Settings, String> {
    let ice = policy.ice().clone();
    let password = password("[ice]", &ice.credentials, TURN_PASSWORD_VARIABLE)?;
    Settings::new(policy.flows().clone(), ice, password, identity.around())
}

/// What lives as long as the run does.
struct Run {
    supervisor: Arc<Supervisor>,
}

impl Run {
    fn start(
        policy: Policy,
        identity: Identity,
        flows: Settings,
        options: Options,
        network: Option<Arc<Network>>,
        runtime: &tokio::runtime::Runtime,
    ) -> Result<Run, String> {
        let homes = Homes::claim()?;
        let physical = homes.first();
        let _inside = runtime.enter();
        let guards = Guards::of(physical);
        let dns = || {
            let sockets = dns::Sockets::bind(physical)?;
            let port = sockets.address().port();
            Ok(((sockets, guards.hold(Proto::Tcp, port)?), port))
        };
        let ((dns, by_tcp), by_udp) =
            guards.place(Proto::Udp, dns).map_err(|e| format!("the resolver cannot be started: {e}"))?;
        let stub = Stub::new(physical, &guards).map_err(|e| format!("no UDP socket on {physical}: {e}"))?;
        let lot = || {
            let lot = sandbox::park::Lot::new(physical).map_err(std::io::Error::other)?;
            let port = lot.addr().port();
            Ok((lot, port))
        };
        let (lot, of_lot) = guards.place(Proto::Tcp, lot).map_err(|e| e.to_string())?;
        let (own_v4, own_v6) = policy.virtual_addresses(&identity.aor);
        let limit = policy.limits().sessions as usize;
        let table = Table::default();
        let supervisor = Arc::new(Supervisor {
            options,
            era: table.era(),
            table: Mutex::new(table),
            sessions: Sessions::new(identity, flows, IpAddr::V4(physical), limit),
            published: Published::new(policy.may_publish()),
            physical,
            homes,
            own_v4,
            own_v6,
            resolver: match dns.address() {
                SocketAddr::V4(a) => a,
                SocketAddr::V6(_) => return Err("the resolver has no IPv4 address".to_owned()),
            },
            runtime: runtime.handle().clone(),
            nobody: Nobody::new(physical, &guards).map_err(|e| format!("no port on {physical}: {e}"))?,
            guards,
            lot,
            _guarded: [of_lot, by_tcp, by_udp],
            stub,
            former: Mutex::default(),
            callers: Mutex::default(),
            unsent: Unsent::default(),
            unix: Unix::default(),
            netlink: Netlink::new(Interfaces::new(own_v4, own_v6)),
            corks: AtomicBool::default(),
            ports_come_late: AtomicBool::default(),
            accepting: Mutex::default(),
            watcher: Watcher::start().map_err(|e| format!("no thread can be started: {e}"))?,
            deaths: Deaths::default(),
            network,
            policy,
        });
        supervisor.sessions.serve(&supervisor);
        published::serve(&supervisor);
        stub::serve(&supervisor);
        dns.serve(&supervisor);
        supervisor
            .deaths
            .serve(&supervisor)
            .map_err(|e| format!("sock_diag cannot be used: {e}; see `sipbox doctor`"))?;
        Ok(Run { supervisor })
    }
}

/// Starts the threads that answer trapped calls.
fn receive(listener: &Listener, supervisor: &Arc<Supervisor>) -> std::io::Result<()> {
    // Both live as long as this process does: no call has to count who uses them.
    let listener: &'static Listener = Box::leak(Box::new(listener.clone()));
    let supervisor: &'static Arc<Supervisor> = Box::leak(Box::new(supervisor.clone()));
    for i in 0..NOTIFICATION_THREADS {
        std::thread::Builder::new().name(format!("notify-{i}")).spawn(move || {
            watchdog::enlist();
            loop {
                watchdog::within_step(false);
                match listener.receive() {
                    Ok(Some(notification)) => {
                        watchdog::within_step(true);
                        // A defect in one handler must not end the others: the call is then answered by its drop.
                        let handled = std::panic::AssertUnwindSafe(|| supervisor.handle(notification));
                        if std::panic::catch_unwind(handled).is_err() {
                            tracing::error!("a socket call was lost to a defect of sipbox; please report it");
                        }
                    }
                    Ok(None) => return,
                    Err(error) => {
                        tracing::error!(%error, "notifications cannot be received any more");
                        return;
                    }
                }
            }
        })?;
    }
    Ok(())
}

/// Signals for the supervisor come out of a descriptor; blocked in all threads, and only after the fork.
fn signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    for s in FORWARDED.into_iter().chain([Signal::SIGCHLD]) {
        set.add(s);
    }
    set.thread_block()?;
    // What it writes into a file beyond the limit of its user (RLIMIT_FSIZE) is lost, and no more.
    // And it goes on when the program is stopped by its terminal, until it stops itself (see `reap_now`).
    let mut unheard = SigSet::empty();
    for s in [Signal::SIGXFSZ, Signal::SIGTTIN, Signal::SIGTTOU] {
        unheard.add(s);
    }
    unheard.thread_block()?;
    SignalFd::with_flags(&set, nix::sys::signalfd::SfdFlags::SFD_CLOEXEC)
}

/// Signals that somebody sends to `sipbox` and means for the program.
const FORWARDED: [Signal; 10] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGALRM,
    Signal::SIGTSTP,
    Signal::SIGCONT,
];

/// Of those, the ones that end what the program left behind.
const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// What there is of the program.
enum Left {
    Nothing,
    Something,
    /// That cannot be found out: the program may have taken all descriptors of this process, with which its processes are counted. They come
    /// back when it is gone.
    Unknown,
}

/// Waits for the program and all that it left behind; returns the program's status.
fn wait(main: Pid, broker: Option<u32>, signals: &SignalFd) -> i32 {
    /// Who is left of the program is asked again so much later.
    const LATER: u16 = 50;
    /// A program that ends so soon after it was told to, ends by that.
    const AT_ONCE: Duration = Duration::from_secs(5);
    let mut status = None;
    // What the program was told to end with, and when, before it did.
    let mut told: Option<(Signal, Instant)> = None;
    loop {
        let patience = match (reap(main, broker, &mut status), status) {
            (Left::Nothing, Some(status)) => return status,
            (Left::Unknown, _) => PollTimeout::from(LATER),
            _ => PollTimeout::NONE,
        };
        if let (Some((signal, when)), Some(status)) = (told, status) {
            told = None;
            // Some go on, and end of themselves later; after SIGHUP many do.
            let at_once = signal != Signal::SIGHUP && when.elapsed() < AT_ONCE;
            if at_once || status == 128 + signal as i32 {
                end_what_is_left(signal, broker);
            }
        }
        let mut asked = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if !poll(&mut asked, patience).is_ok_and(|ready| ready > 0) {
            continue;
        }
        let Ok(Some(info)) = signals.read_signal() else { continue };
        let Ok(signal) = Signal::try_from(info.ssi_signo as i32) else { continue };
        // It may have come after the program's end, of which the kernel tells later.
        if let (Left::Nothing, Some(status)) = (reap(main, broker, &mut status), status) {
            return status;
        }
        // What the terminal sends goes to the whole process group: the program has it already.
        let from_kernel = info.ssi_code > 0;
        if status.is_none() {
            if signal != Signal::SIGCHLD && !from_kernel {
                let _ = kill(main, signal);
                let is_word = ENDING.contains(&signal) && (signal != Signal::SIGHUP || told.is_none());
                told = if is_word { Some((signal, Instant::now())) } else { told };
            }
        } else if ENDING.contains(&signal) {
            end_what_is_left(signal, broker);
        }
    }
}

/// Tells what the program left behind: daemons, most of them, which have left the terminal; nothing but this run ends with them.
fn end_what_is_left(signal: Signal, broker: Option<u32>) {
    for left in sandbox::processes::descendants().into_iter().filter(|p| !is_own(*p, broker)) {
        let _ = kill(Pid::from_raw(left.cast_signed()), signal);
    }
}

/// Whether a child is not the program's: the user's hub that it started, and the broker.
fn is_own(process: u32, broker: Option<u32>) -> bool {
    [hub::started(), broker].contains(&Some(process))
}

/// Whether a program that stopped is a job of a shell that did: by the terminal, or in its foreground. Another one is continued by whoever
/// stopped it, maybe a process of its own, which needs the supervisor for that.
fn is_job(stopped_by: i32) -> bool {
    let foreground = std::fs::File::open("/dev/tty").and_then(|tty| Ok(nix::unistd::tcgetpgrp(tty)?));
    stopped_by != Signal::SIGSTOP as i32 || foreground.is_ok_and(|group| group == nix::unistd::getpgrp())
}

/// Reaps what has ended; says what is left.
fn reap(main: Pid, broker: Option<u32>, status: &mut Option<i32>) -> Left {
    match reap_now(main, status) {
        Ok(children) if status.is_some() && children.iter().all(|p| is_own(*p, broker)) => Left::Nothing,
        Ok(_) => Left::Something,
        Err(error) => {
            tracing::debug!(%error, "who is left of the program is asked again");
            Left::Unknown
        }
    }
}

/// Reaps what has ended. The children that are left.
fn reap_now(main: Pid, status: &mut Option<i32>) -> std::io::Result<Vec<u32>> {
    loop {
        match sandbox::processes::wait_for_any() {
            Ok(Some((pid, change))) if pid == main.as_raw() => match change {
                Change::Exited(code) => *status = Some(code),
                Change::Killed(signal) => *status = Some(128 + signal),
                // The shell that waits for `sipbox` must see the job stop; SIGCONT for the group wakes both.
                Change::Stopped(signal) if is_job(signal) => {
                    let _ = kill(Pid::this(), Signal::SIGSTOP);
                }
                Change::Stopped(_) | Change::Other => {}
            },
            Ok(None) => return if status.is_some() { sandbox::processes::children() } else { Ok(Vec::new()) },
            Err(Errno::EINTR) | Ok(Some(_)) => {}
            // There are none.
            Err(_) => return Ok(Vec::new()),
        }
    }
}
