//! Watches threads whose calls are held: one of them may have a signal to handle, stop with its process, or be killed, and the
//! kernel tells nobody. /proc is asked, by one thread for all, at a rate that is bounded whatever their number; who is
//! about to be signalled by another thread of the program is looked at soon ([`Watcher::hint`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::notify::Waiting;
use crate::signals::{Status, is_stop, prod};

/// Why a thread is to be held no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It has a signal to handle, or its process stops: its call is to be answered as one that a signal interrupts.
    Interrupted,
    /// It was killed: nobody waits for an answer.
    Gone,
}

/// Rounds come this far apart at first, and when nothing is new at growing distances up to the last one.
const FIRST_ROUND: Duration = Duration::from_millis(5);
const LAST_ROUND: Duration = Duration::from_millis(40);
/// Each look costs 10 to 20 us: this many a second are less than 1 % of a core.
const LOOKS_PER_SECOND: u32 = 250;
/// A signal for a process is seen this often by a thread before it is taken to be this one's: the thread that the kernel chose may be
/// on its way to it. It is awake then: who sleeps while a signal waits was not chosen.
const DOUBTS: u32 = 2;
/// Where the initial thread, the kernel's first choice, sleeps.
const DOUBTS_OF_OTHERS: u32 = 4;
/// Where another thread runs or waits for a processor, or the one that was told has not taken it yet. One that was chosen takes the
/// signal as soon as it has a processor.
const DOUBTS_OF_THE_BUSY: u32 = 20;
const AGAIN: Duration = Duration::from_millis(1);
/// After a hint: the signal is sent only after the hint was taken.
const HINTED: [Duration; 4] =
    [Duration::from_micros(200), Duration::from_millis(1), Duration::from_millis(4), Duration::from_millis(16)];
/// Without held threads for this long the watcher sleeps.
const REST: Duration = Duration::from_secs(1);

/// The watch over all held threads of one run.
#[derive(Clone)]
pub struct Watcher(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    /// By serial number.
    held: BTreeMap<u64, Entry>,
    by_thread: HashMap<u32, u64>,
    /// By the socket that the call is about (SO_COOKIE).
    by_socket: BTreeSet<(u64, u64)>,
    /// Sockets of calls that have ended, by serial number: whoever held them is on the way to give them up.
    leaving: HashMap<u64, u64>,
    /// Held threads of each process, once they have been looked at.
    processes: BTreeMap<u32, Process>,
    /// Held, but not looked at yet.
    fresh: Vec<(Instant, u64)>,
    /// To be looked at out of turn.
    soon: Vec<(Instant, u64)>,
    /// Threads, held or not, that were sent a signal to stop.
    stopping: Vec<(Instant, u32)>,
    serial: u64,
    /// Where the turn stands, among processes and among threads.
    turn: (u32, u64),
    asleep: bool,
    stirred: bool,
}

struct Entry {
    thread: u32,
    socket: u64,
    process: Option<u32>,
    waiting: Arc<Waiting>,
    tell: oneshot::Sender<Ended>,
    doubts: u32,
}

#[derive(Default)]
struct Process {
    /// Held threads.
    members: u32,
    /// Signals that were pending for the process at the last look.
    shared: u64,
    /// Its initial thread has ended, and maybe all others.
    headless: bool,
    /// Who was told last, as long as what it was told of is pending.
    told: Option<Told>,
    /// The held thread, not the initial one, that is looked at until it is sure whose the signals are. One stands for all: whichever
    /// is told takes them.
    doubting: Option<u64>,
}

/// A thread that was told to take signals for its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    thread: u32,
    signals: u64,
}

impl Process {
    /// These signals are pending for it. One that was taken and sent again is not to be known from one that was not taken.
    fn is_pending(&mut self, shared: u64) {
        let left = |told: Told| Told { signals: told.signals & shared, ..told };
        self.told = self.told.map(left).filter(|told| told.signals != 0);
    }
}

/// Other threads of a process that may take a signal for it.
#[derive(Default)]
struct Others {
    /// The kernel's first choice.
    initial: Option<Status>,
    /// Who was told last, and of what.
    told: Option<(Status, u64)>,
    /// Some of those that are not held run, or wait for a processor.
    are_busy: bool,
}

/// A held thread, until this is dropped.
pub struct Holding {
    shared: Arc<Shared>,
    id: u64,
    told: oneshot::Receiver<Ended>,
}

impl Holding {
    /// Waits for the end of the holding.
    pub async fn ended(&mut self) -> Ended {
        (&mut self.told).await.unwrap_or(Ended::Gone)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.remove(self.id);
        state.leaving.remove(&self.id);
    }
}

impl State {
    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.held.remove(&id)?;
        if self.by_thread.get(&entry.thread) == Some(&id) {
            self.by_thread.remove(&entry.thread);
        }
        self.by_socket.remove(&(entry.socket, id));
        if let Some(p) = entry.process
            && let Some(process) = self.processes.get_mut(&p)
        {
            process.members -= 1;
            let stood_for_all = process.doubting.take_if(|doubting| *doubting == id).is_some();
            if process.members == 0 {
                self.processes.remove(&p);
            } else if stood_for_all {
                // Another one does.
                let next = self.held.iter().find(|(_, e)| e.process == Some(p) && e.thread != p);
                self.soon.extend(next.map(|(id, _)| (Instant::now() + AGAIN, *id)));
            }
        }
        Some(entry)
    }

    fn end(&mut self, id: u64, how: Ended) {
        if let Some(entry) = self.remove(id)
            && entry.tell.send(how).is_ok()
        {
            self.leaving.insert(id, entry.socket);
        }
    }

    fn interrupt_all(&mut self, process: u32) {
        self.members_of(process).into_iter().for_each(|id| self.end(id, Ended::Interrupted));
    }

    fn members_of(&self, process: u32) -> Vec<u64> {
        self.held.iter().filter(|(_, e)| e.process == Some(process)).map(|(id, _)| *id).collect()
    }

    /// The next processes and, apart from them, threads to look at: so many of each.
    fn take_turns(&mut self, looks: usize) -> (Vec<u32>, Vec<u64>) {
        let (from, thread) = self.turn;
        let after = self.processes.range(from.saturating_add(1)..).chain(self.processes.range(..=from));
        let processes: Vec<u32> = after.take(looks.div_ceil(2)).map(|(p, _)| *p).collect();
        let left = looks.saturating_sub(processes.len()).max(1);
        // Of a process with one held thread, its initial one, the look at the process is enough.
        let wanted = |(_, e): &(&u64, &Entry)| e.process.is_some_and(|p| p != e.thread);
        let after = self.held.range(thread.saturating_add(1)..).chain(self.held.range(..=thread));
        let threads: Vec<u64> = after.filter(wanted).take(left).map(|(id, _)| *id).collect();
        self.turn = (processes.last().copied().unwrap_or(from), threads.last().copied().unwrap_or(thread));
        (processes, threads)
    }
}

impl Watcher {
    /// Starts the watcher's thread, which lives as long as this process.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start() -> io::Result<Watcher> {
        let shared = Arc::new(Shared { state: Mutex::default(), wake: Condvar::new() });
        let own = shared.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            let mut round = FIRST_ROUND;
            let mut last_held = Instant::now();
            loop {
                own.pass(&mut round, &mut last_held);
            }
        })?;
        Ok(Watcher(shared))
    }

    /// Watches a thread whose call, about the socket with this cookie, is held from now on.
    pub fn hold(&self, thread: u32, socket: u64, waiting: Waiting) -> Holding {
        let (tell, told) = oneshot::channel();
        let mut state = self.0.state.lock();
        state.serial += 1;
        let id = state.serial;
        let entry = Entry { thread, socket, process: None, waiting: Arc::new(waiting), tell, doubts: 0 };
        state.held.insert(id, entry);
        state.by_thread.insert(thread, id);
        state.by_socket.insert((socket, id));
        state.fresh.push((Instant::now() + FIRST_ROUND, id));
        state.stirred = true;
        if std::mem::take(&mut state.asleep) {
            self.0.wake.notify_one();
        }
        Holding { shared: self.0.clone(), id, told }
    }

    /// Ends what is held of threads that were killed in calls about this socket, for it seems to live as long as they do. True
    /// when it was so of all that are held; [`Watcher::is_left`] says when they are done.
    pub fn end_dead(&self, socket: u64) -> bool {
        let mut state = self.0.state.lock();
        let mut ended = state.leaving.values().any(|leaving| *leaving == socket);
        while let Some((_, id)) = state.by_socket.range((socket, 0)..=(socket, u64::MAX)).next().copied() {
            if state.held.get(&id).is_some_and(|e| e.waiting.is_waiting()) {
                return false;
            }
            state.end(id, Ended::Gone);
            ended = true;
        }
        ended
    }

    /// Whether nothing is held any more for calls about this socket that have ended.
    pub fn is_left(&self, socket: u64) -> bool {
        !self.0.state.lock().leaving.values().any(|leaving| *leaving == socket)
    }

    /// A thread of the program is about to send `signal` to this one.
    pub fn hint(&self, thread: u32, signal: i32) {
        let mut state = self.0.state.lock();
        let now = Instant::now();
        let stops = is_stop(signal) && !state.held.is_empty();
        if stops {
            state.stopping.extend(HINTED.iter().map(|after| (now + *after, thread)));
        }
        let held = state.by_thread.get(&thread).copied();
        if let Some(id) = held {
            state.soon.extend(HINTED.iter().map(|after| (now + *after, id)));
        }
        if stops || held.is_some() {
            self.0.wake.notify_one();
        }
    }
}

/// Takes out what is due.
fn due<T>(list: &mut Vec<(Instant, T)>, now: Instant) -> Vec<T> {
    list.extract_if(.., |(when, _)| *when <= now).map(|(_, what)| what).collect()
}

impl Shared {
    /// Waits for the time of the next looks, and looks.
    fn pass(&self, round: &mut Duration, last_held: &mut Instant) {
        let mut state = self.state.lock();
        let started = Instant::now();
        if !state.held.is_empty() {
            *last_held = started;
        } else if last_held.elapsed() > REST {
            state.fresh.clear();
            state.soon.clear();
            state.stopping.clear();
            state.asleep = true;
            while state.asleep {
                self.wake.wait(&mut state);
            }
            *last_held = Instant::now();
            return;
        }
        *round = if std::mem::take(&mut state.stirred) { FIRST_ROUND } else { (*round * 2).min(LAST_ROUND) };
        let end = started + *round;
        // Looks out of turn, until the round is over.
        loop {
            let now = Instant::now();
            let stopping = due(&mut state.stopping, now);
            let mut threads = due(&mut state.soon, now);
            threads.extend(due(&mut state.fresh, now));
            if threads.is_empty() && stopping.is_empty() {
                if now >= end {
                    break;
                }
                let next = state.soon.iter().chain(&state.fresh).map(|(when, _)| *when);
                let next = next.chain(state.stopping.iter().map(|(when, _)| *when)).min().unwrap_or(end);
                self.wake.wait_until(&mut state, next.min(end));
                continue;
            }
            drop(state);
            threads.sort_unstable();
            threads.dedup();
            threads.into_iter().for_each(|id| self.look(id));
            for status in stopping.into_iter().filter_map(Status::of).filter(Status::is_stopped) {
                self.state.lock().interrupt_all(status.process);
            }
            state = self.state.lock();
        }
        let looks = (u128::from(LOOKS_PER_SECOND) * round.as_micros() / 1_000_000).max(1) as usize;
        let (processes, threads) = state.take_turns(looks);
        drop(state);
        processes.into_iter().for_each(|p| self.look_at_process(p));
        threads.into_iter().for_each(|id| self.look(id));
    }

    /// Looks at one held thread.
    fn look(&self, id: u64) {
        let Some((thread, waiting)) = self.state.lock().held.get(&id).map(|e| (e.thread, e.waiting.clone())) else {
            return;
        };
        let status = Status::of(thread);
        // After the read: what it says is of the thread that waits, if that still does.
        if !waiting.is_waiting() {
            return self.state.lock().end(id, Ended::Gone);
        }
        // It waits, and there was no descriptor to read about it by (EMFILE): another time.
        let Some(status) = status else { return };
        // Whether the process stops is seen by the looks at the process.
        let alone = status.process == thread || status.shared_to_handle() == 0;
        let others = if alone { Others::default() } else { self.others(id, thread, &status) };
        self.judge(id, &status, &others);
    }

    /// What is to be known of the others of its process where a signal for that is not for a thread alone.
    fn others(&self, id: u64, thread: u32, status: &Status) -> Others {
        let (told, is_sure) = {
            let mut state = self.state.lock();
            let process = state.processes.get_mut(&status.process);
            let told = process.and_then(|process| {
                process.is_pending(status.shared);
                process.told.filter(|told| told.thread != thread)
            });
            (told, state.held.get(&id).is_some_and(|e| e.doubts + 1 >= DOUBTS))
        };
        let told = told.and_then(|told| Some((Status::of(told.thread)?, told.signals)));
        Others {
            initial: Status::of(status.process),
            told: told.filter(|(told, _)| told.process == status.process),
            are_busy: is_sure && self.are_busy(status),
        }
    }

    /// Whether threads of a process that are not held, and could take its signals, are awake.
    fn are_busy(&self, status: &Status) -> bool {
        let threads = threads_of(status.process);
        let free: Vec<u32> = {
            let state = self.state.lock();
            threads.into_iter().filter(|thread| !state.by_thread.contains_key(thread)).collect()
        };
        free.into_iter().filter_map(Status::of).any(|other| other.is_awake() && status.shared & !other.blocked != 0)
    }

    /// Decides about one held thread by what was read of it and of the others of its process.
    fn judge(&self, id: u64, status: &Status, others: &Others) {
        let mut state = self.state.lock();
        let Some(entry) = state.held.get_mut(&id) else { return };
        let (thread, waiting) = (entry.thread, entry.waiting.clone());
        if entry.process.is_none() {
            entry.process = Some(status.process);
            state.processes.entry(status.process).or_default().members += 1;
        }
        if status.own_to_handle() != 0 {
            return state.end(id, Ended::Interrupted);
        }
        let doubts = doubts(status, others);
        if thread != status.process
            && let Some(process) = state.processes.get_mut(&status.process)
        {
            match process.doubting {
                Some(another) if another != id => return,
                _ => process.doubting = doubts.map(|_| id),
            }
        }
        let Some(entry) = state.held.get_mut(&id) else { return };
        let Some(doubts) = doubts else {
            entry.doubts = 0;
            return;
        };
        if status.threads > 1 {
            entry.doubts += 1;
            if entry.doubts < doubts {
                return state.soon.push((Instant::now() + AGAIN, id));
            }
            // Where it cannot be made sure, the kernel's first choice is believed to have been told.
            let second_choice = others.initial.is_some_and(|initial| initial.may_take(status.shared_to_handle()));
            if !prod(thread, status, || waiting.is_waiting()) && second_choice {
                return;
            }
            // One thread is enough: the others are not told as long as this one may be on its way.
            if let Some(process) = state.processes.get_mut(&status.process) {
                process.told = Some(Told { thread, signals: status.shared_to_handle() });
                process.doubting = None;
            }
            for other in state.held.values_mut().filter(|e| e.process == Some(status.process)) {
                other.doubts = 0;
            }
        }
        state.end(id, Ended::Interrupted);
    }

    /// Looks at a process with held threads: by its initial thread, held or not.
    fn look_at_process(&self, process: u32) {
        let status = Status::of(process);
        let headless = status.is_none_or(|s| s.has_ended());
        let shared = status.map_or(0, |s| s.shared);
        let before = {
            let mut state = self.state.lock();
            let Some(known) = state.processes.get_mut(&process) else { return };
            known.is_pending(shared);
            (std::mem::replace(&mut known.shared, shared), std::mem::replace(&mut known.headless, headless))
        };
        if status.is_some_and(|s| s.is_stopped()) || (headless && has_stopped_thread(process)) {
            // The first thread that stops tells all others of its process to.
            return self.state.lock().interrupt_all(process);
        }
        let news = shared & !before.0 != 0 || (headless && !before.1) || status.is_none();
        let (leader, members) = {
            let state = self.state.lock();
            let leader = state.by_thread.get(&process).and_then(|id| Some((*id, state.held.get(id)?.waiting.clone())));
            (leader, if news { state.members_of(process) } else { Vec::new() })
        };
        match (status, &leader) {
            // The kernel's first choice.
            (Some(status), Some((id, waiting))) if waiting.is_waiting() => self.judge(*id, &status, &Others::default()),
            (_, Some((id, _))) => self.state.lock().end(*id, Ended::Gone),
            _ => {}
        }
        let leader = leader.map(|(id, _)| id);
        members.into_iter().filter(|id| Some(*id) != leader).for_each(|id| self.look(id));
    }
}

/// How often a held thread is to see the signals for its process before they are taken to be its own; None: they are not, as far as is known.
fn doubts(status: &Status, others: &Others) -> Option<u32> {
    // Whoever the kernel chose takes its signals when it has a processor, however late, and till then is awake, or in a call that no
    // signal ends.
    let takes = |other: &Status| other.is_awake() && other.may_take(status.shared);
    let initial = others.initial.filter(takes).map_or(0, |initial| !initial.blocked);
    let left = status.shared_to_handle() & !initial;
    if left == 0 {
        return None;
    }
    // What it was told of it may have taken, and this be the same signal, sent again.
    let told = others.told.filter(|(told, _)| takes(told)).map_or(0, |(told, signals)| signals & !told.blocked);
    let asleep = others.initial.is_some_and(|initial| initial.may_take(left & !told));
    Some(match others.are_busy || left & !told == 0 {
        true => DOUBTS_OF_THE_BUSY,
        false if asleep => DOUBTS_OF_OTHERS,
        false => DOUBTS,
    })
}

/// Some threads of a process: what is asked of them a few tell.
fn threads_of(process: u32) -> Vec<u32> {
    const FEW: usize = 64;
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
    threads.flatten().filter_map(|t| t.file_name().to_str().and_then(|n| n.parse().ok())).take(FEW).collect()
}

/// For a process whose initial thread has ended: has another one stopped?
fn has_stopped_thread(process: u32) -> bool {
    threads_of(process).into_iter().any(|id| Status::of(id).is_some_and(|s| s.is_stopped()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_a_signal_for_the_process_is() {
        let one =
            |state: u8, blocked: u64| Status { state, shared: 6, blocked, process: 7, threads: 3, own: 0, caught: 6 };
        let held = one(b'D', 0);
        let doubts = |initial, told: Option<Status>, are_busy| {
            doubts(&held, &Others { initial, told: told.map(|told| (told, 2)), are_busy })
        };
        assert_eq!(doubts(None, None, false), Some(DOUBTS));
        assert_eq!(doubts(None, None, true), Some(DOUBTS_OF_THE_BUSY));
        // The initial thread has it, and waits for a processor for as long as it has to.
        assert_eq!(doubts(Some(one(b'R', 0)), None, false), None);
        assert_eq!(doubts(Some(one(b'D', 0)), None, true), None);
        // It sleeps: it was not chosen.
        assert_eq!(doubts(Some(one(b'S', 0)), None, false), Some(DOUBTS_OF_OTHERS));
        // It ends, or blocks all or one of them.
        assert_eq!(doubts(Some(one(b'Z', 0)), None, false), Some(DOUBTS));
        assert_eq!(doubts(Some(one(b'R', 6)), None, false), Some(DOUBTS));
        assert_eq!(doubts(Some(one(b'R', 2)), None, false), Some(DOUBTS));
        // Who was told has what it was told of, for a while; the other one it has not.
        assert_eq!(doubts(Some(one(b'R', 2)), Some(one(b'R', 4)), false), Some(DOUBTS_OF_THE_BUSY));
        assert_eq!(doubts(Some(one(b'S', 6)), Some(one(b'R', 0)), false), Some(DOUBTS));
        assert_eq!(doubts(Some(one(b'R', 2)), Some(one(b'R', 2)), false), Some(DOUBTS));
        assert_eq!(doubts(None, Some(one(b'S', 0)), false), Some(DOUBTS));
    }

    #[test]
    fn who_was_told_has_what_it_was_told_of() {
        let told = Some(Told { thread: 9, signals: 6 });
        let mut process = Process { told, ..Process::default() };
        process.is_pending(0xff);
        assert_eq!(process.told, told);
        process.is_pending(4);
        process.is_pending(6);
        assert_eq!(process.told, Some(Told { thread: 9, signals: 4 }));
        process.is_pending(2);
        assert_eq!(process.told, None);
    }
}
