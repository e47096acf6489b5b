use super::*;

const TRIP: Duration = Duration::from_millis(10);

/// What one end says is heard by the other.
fn deliver(from: &Pressure, to: &Pressure, now: Instant) {
    // In pieces, as it may come.
    let mut heard = Bytes::new();
    for byte in from.words() {
        let mut all = BytesMut::from(&*heard);
        all.extend_from_slice(&[byte]);
        heard = all.freeze();
        to.hear(&mut heard, now, TRIP);
    }
    assert!(heard.is_empty());
}

fn room(brake: &Brake) -> usize {
    brake.of.as_ref().and_then(|(pressure, _, credit)| pressure.room(credit)).unwrap_or_default()
}

/// Writes all that it may, and that is kept by the other end. How much it was.
fn fill(brake: &Brake, backlog: &mut Backlog) -> usize {
    let mut all = 0;
    loop {
        let count = room(brake).min(TURN[1]);
        if count == 0 {
            return all;
        }
        brake.sent(count);
        assert!(backlog.has_room());
        backlog.push(&vec![7; count]);
        all += count;
    }
}

#[test]
fn a_program_that_does_not_read_stops_its_own_stream() {
    let (near, far, now) = (Pressure::new(), Pressure::new(), Instant::now());
    let [unread, read] =
        [0, 16384].map(|stream| (Brake::new(Some(&near), stream, true), Backlog::new(Some(&far), stream)));
    let (brake, mut backlog) = unread;
    let kept = fill(&brake, &mut backlog);
    assert!((FIRST as usize - PIECE as usize..=FIRST as usize).contains(&kept), "{kept}");
    // The other is written and read, more than any window.
    let (other, mut taken) = read;
    for _ in 0..10 {
        let count = fill(&other, &mut taken);
        assert!(count >= FIRST as usize / 2, "{count}");
        taken.taken(count);
        deliver(&far, &near, now);
        assert_eq!(room(&brake), 0);
    }
    // The program reads again.
    backlog.taken(kept);
    deliver(&far, &near, now);
    assert!(room(&brake) > kept / 2);
    drop((brake, backlog, other, taken));
    deliver(&far, &near, now);
    assert_eq!((far.kept(), near.outstanding.load(Ordering::Relaxed)), (0, 0));
    assert!(near.credits.lock().is_empty());
    // A word for a stream that has ended.
    far.want(4, 7);
    deliver(&far, &near, now);
}

/// As many streams as there can be, none of which is read: what is kept for them is bounded, and one that is read goes on.
#[test]
fn streams_that_nobody_reads_keep_a_bounded_memory_busy_and_stop_no_other() {
    let (near, far, now) = (Pressure::new(), Pressure::new(), Instant::now());
    let count = u64::from(tls::STREAMS);
    let mut unread: Vec<_> =
        (0..count).map(|n| (Brake::new(Some(&near), 4 * n, true), Backlog::new(Some(&far), 4 * n))).collect();
    for (brake, backlog) in &mut unread {
        let kept = fill(brake, backlog);
        assert!(kept as u64 >= LEAST - PIECE, "{kept}");
    }
    assert!(far.kept() <= far.most(), "{}", far.kept());
    assert!(far.kept() >= POOL, "{}", far.kept());
    let (brake, mut backlog) = (Brake::new(Some(&near), 4 * count, true), Backlog::new(Some(&far), 4 * count));
    for _ in 0..1000 {
        let count = fill(&brake, &mut backlog);
        assert!(count as u64 >= STEP, "{count}");
        backlog.taken(count);
        deliver(&far, &near, now);
    }
    // A writer that does not listen fills no memory either.
    while backlog.has_room() {
        backlog.push(&[0; 4096]);
    }
    assert!(far.kept() <= far.most() + 4096, "{}", far.kept());
    backlog.taken(backlog.data.len());
    assert!(backlog.has_room());
}

/// A window follows how fast the other end's program reads on a path: a megabyte in each of so many round trips.
#[test]
fn windows_grow_as_programs_read() {
    let grown = |trips: u32| {
        let (near, far, mut now) = (Pressure::new(), Pressure::new(), Instant::now());
        let (brake, mut backlog) = (Brake::new(Some(&near), 0, true), Backlog::new(Some(&far), 0));
        for _ in 0..100 {
            fill(&brake, &mut backlog);
            for _ in 0..trips {
                now += TRIP;
                // The queue is never empty.
                backlog.taken((1 << 20) / trips as usize);
                deliver(&far, &near, now);
                fill(&brake, &mut backlog);
            }
        }
        let state = brake.of.as_ref().unwrap().2.state.lock();
        state.window
    };
    assert_eq!(grown(20), FIRST, "a slow one has no more in the way than at first");
    let fast = grown(1);
    assert!((2 << 20..=8 << 20).contains(&fast), "{fast}");
}

/// What a writer has left behind counts until the program that does not read it is gone.
#[test]
fn what_is_left_behind_counts() {
    let (near, far, now) = (Pressure::new(), Pressure::new(), Instant::now());
    let (brake, mut backlog) = (Brake::new(Some(&near), 0, true), Backlog::new(Some(&far), 0));
    let kept = fill(&brake, &mut backlog) as u64;
    brake.finish();
    drop(brake);
    backlog.end();
    assert_eq!(near.outstanding.load(Ordering::Relaxed), kept);
    backlog.taken(kept as usize / 2);
    deliver(&far, &near, now);
    assert!(near.outstanding.load(Ordering::Relaxed) <= kept / 2 + STEP);
    drop(backlog);
    deliver(&far, &near, now);
    assert_eq!(near.outstanding.load(Ordering::Relaxed), 0);
    assert!(near.credits.lock().is_empty());
    // Of what is small nothing is said at all.
    let (brake, mut backlog) = (Brake::new(Some(&near), 4, true), Backlog::new(Some(&far), 4));
    brake.sent(100);
    backlog.push(&[0; 100]);
    backlog.taken(100);
    brake.finish();
    backlog.end();
    drop((brake, backlog));
    assert!(far.words().is_empty() && near.credits.lock().is_empty());
    assert_eq!(near.outstanding.load(Ordering::Relaxed), 0);
    // A word that is heard while its stream is forgotten takes nothing off a second time.
    let brake = Brake::new(Some(&near), 12, true);
    brake.sent(100_000);
    let credit = near.credits.lock().get(&12).cloned().unwrap();
    drop(brake);
    near.taken(12, &credit, ALL, now, TRIP);
    assert_eq!(near.outstanding.load(Ordering::Relaxed), 0);
    // A reset ends it, whatever is on its way.
    let (brake, mut backlog) = (Brake::new(Some(&near), 8, true), Backlog::new(Some(&far), 8));
    fill(&brake, &mut backlog);
    drop(brake);
    assert_eq!(near.outstanding.load(Ordering::Relaxed), 0);
    drop(backlog);
    deliver(&far, &near, now);
    assert_eq!((far.kept(), near.outstanding.load(Ordering::Relaxed)), (0, 0));
}

/// Before the other end has taken it a stream has little in the way, however many there are; and nothing is left of one that was refused.
#[test]
fn streams_that_are_not_taken_fill_no_window() {
    let (near, far, now) = (Pressure::new(), Pressure::new(), Instant::now());
    let count = u64::from(tls::STREAMS);
    let brakes: Vec<_> = (0..count).map(|n| Brake::new(Some(&near), 4 * n, false)).collect();
    let write = |brake: &Brake| {
        let room = room(brake);
        brake.sent(room);
        room as u64
    };
    let all: u64 = brakes.iter().map(write).sum();
    assert_eq!(all, UNTAKEN * count);
    assert!(all < u64::from(tls::WINDOW) - UNTAKEN * 1000, "{all}");
    assert_eq!(room(&brakes[0]), 0);
    // One that is taken now, by an end that reads on, has what all the others leave.
    brakes[0].begin();
    assert!(room(&brakes[0]) as u64 >= LEAST - UNTAKEN);
    // What was sent of the others is nobody's when they end, also behind their ends.
    brakes.iter().for_each(Brake::finish);
    drop(brakes);
    assert_eq!(near.outstanding.load(Ordering::Relaxed), UNTAKEN);
    let mut backlog = Backlog::new(Some(&far), 0);
    backlog.push(&[0; UNTAKEN as usize]);
    drop(backlog);
    deliver(&far, &near, now);
    assert_eq!(near.outstanding.load(Ordering::Relaxed), 0);
    assert!(near.credits.lock().is_empty());
    // The first windows are had by whom the other end takes.
    let brake = Brake::new(Some(&near), 0, false);
    assert_eq!(write(&brake), UNTAKEN);
    brake.begin();
    assert_eq!(write(&brake), FIRST - UNTAKEN);
}

/// Who waits for room until the stream is taken writes then.
#[tokio::test]
async fn a_stream_that_is_taken_goes_on() {
    let near = Pressure::new();
    let brake = Brake::new(Some(&near), 0, false);
    let most = brake.turn(true).await.most;
    assert_eq!(most as u64, UNTAKEN);
    brake.sent(most);
    let turn = async {
        let turn = brake.turn(true);
        tokio::time::timeout(Duration::ZERO, turn).await.map(|turn| turn.most)
    };
    assert!(turn.await.is_err());
    let (most, ()) = tokio::join!(brake.turn(true), async { brake.begin() });
    assert_eq!(most.most, TURN[1]);
}

/// Rooms that several have seen are not all used: the one that writes last sees what is left.
#[tokio::test]
async fn room_is_looked_at_when_it_is_ones_turn() {
    let near = Pressure::new();
    let all: Vec<_> = (0..100).map(|n| Brake::new(Some(&near), 4 * n, true)).collect();
    near.outstanding.store(POOL - (128 << 10), Ordering::Relaxed);
    let held = near.turns.acquire().await;
    let writes = async |brake: &Brake| {
        let turn = brake.turn(false).await;
        brake.sent(turn.most);
        drop(turn);
    };
    let mut writing: Vec<_> = all.iter().map(|brake| Box::pin(writes(brake))).collect();
    for one in &mut writing {
        assert!(tokio::time::timeout(Duration::ZERO, one).await.is_err());
    }
    drop(held);
    for one in writing {
        one.await;
    }
    let over = near.outstanding.load(Ordering::Relaxed).saturating_sub(POOL);
    assert!(over <= LEAST * 100, "{over}");
}

/// An end that keeps to no rule makes the other one remember no more for that, nor keep more than its streams may have.
#[test]
fn an_end_that_says_and_hears_nothing_costs_little() {
    let near = Pressure::new();
    let mut one = Backlog::new(Some(&near), 1);
    while one.has_room() {
        one.push(&[0; 4096]);
    }
    assert!(near.kept() <= POOL + LEAST + 4096, "{}", near.kept());
    drop(one);
    for n in 0..2 * ENDED as u64 {
        drop(Backlog::new(Some(&near), 4 * n));
        let brake = Brake::new(Some(&near), 4 * n, true);
        brake.sent(STEP as usize);
        brake.finish();
    }
    assert_eq!((near.untold.lock().len(), near.credits.lock().len()), (ENDED, ENDED));
    let ends = std::pin::pin!(near.deaf.notified()).poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    assert!(ends.is_ready());
}

/// Lies of the other end about what was taken change nothing but its own windows.
#[test]
fn more_than_was_sent_is_not_taken() {
    let near = Pressure::new();
    let brakes = [0, 4].map(|stream| Brake::new(Some(&near), stream, true));
    brakes[0].sent(100_000);
    brakes[1].sent(100_000);
    for taken in [7, ALL, 3, ALL - 1] {
        let mut words = BytesMut::new();
        open::put_varint(&mut words, 0);
        open::put_varint(&mut words, taken);
        near.hear(&mut words.freeze(), Instant::now(), TRIP);
    }
    assert_eq!(near.outstanding.load(Ordering::Relaxed), 100_000);
    brakes[0].sent(50_000);
    assert_eq!(near.outstanding.load(Ordering::Relaxed), 150_000);
}

#[tokio::test]
async fn turns_are_taken_in_order() {
    let pressure = Pressure::new();
    let first = pressure.turn(true).await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    // Those who write much come first, and again and again.
    for n in 0..1000 {
        let (pressure, tell) = (pressure.clone(), tell.clone());
        tokio::spawn(async move {
            let rounds = if n < 990 { 3 } else { 1 };
            for _ in 0..rounds {
                let turn = pressure.turn(n < 990).await;
                tell.send(n).unwrap();
                drop(turn);
            }
        });
        tokio::task::yield_now().await;
    }
    assert_eq!(first.most, TURN[1]);
    assert_eq!(pressure.waiting.load(Ordering::Relaxed), 990);
    drop((first, tell));
    let mut order = Vec::new();
    while let Some(n) = told.recv().await {
        order.push(n);
    }
    let (little, much): (Vec<usize>, Vec<usize>) = order.iter().partition(|n| **n >= 990);
    assert_eq!(little, (990..1000).collect::<Vec<_>>());
    assert!(order.iter().position(|n| *n == 999).unwrap() <= 12, "{order:?}");
    assert_eq!(pressure.waiting.load(Ordering::Relaxed), 0);
    // In rounds, each of which has all.
    for round in much.chunks(990) {
        assert_eq!(round, (0..990).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn data_channels_have_bounds_of_their_own() {
    drop(Brake::new(None, 1000, false).turn(true).await);
    let backlog = Backlog::new(None, 1000);
    assert!(backlog.patience().is_none() && !backlog.has_room());
}
