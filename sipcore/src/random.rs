//! Unpredictable identifiers: branches, tags, Call-IDs.

use std::cell::RefCell;

const POOL: usize = 512;

struct Pool {
    bytes: [u8; POOL],
    used: usize,
}

thread_local! {
    static STORE: RefCell<Pool> = const { RefCell::new(Pool { bytes: [0; POOL], used: POOL }) };
}

#[cfg(test)]
thread_local! {
    static SEED: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
}

/// Makes what follows on this thread repeatable, for simulations.
#[cfg(test)]
pub(crate) fn seed(seed: u64) {
    SEED.set(Some(seed));
}

/// splitmix64
#[cfg(test)]
fn seeded() -> Option<u64> {
    let state = SEED.get()?.wrapping_add(0x9e37_79b9_7f4a_7c15);
    SEED.set(Some(state));
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Some(z ^ (z >> 31))
}

/// 64 bits from the kernel's random source, fetched in blocks.
pub(crate) fn number() -> u64 {
    #[cfg(test)]
    if let Some(number) = seeded() {
        return number;
    }
    STORE.with_borrow_mut(|store| {
        if store.used + 8 > POOL {
            // Without a random source nothing about a session could be kept unguessable.
            getrandom::fill(&mut store.bytes).expect("the kernel's random source answers");
            store.used = 0;
        }
        let mut word = [0; 8];
        word.copy_from_slice(&store.bytes[store.used..store.used + 8]);
        store.bytes[store.used..store.used + 8].fill(0);
        store.used += 8;
        u64::from_le_bytes(word)
    })
}

/// A key.
pub(crate) fn secret() -> [u8; 32] {
    let mut key = [0; 32];
    for chunk in key.chunks_exact_mut(8) {
        chunk.copy_from_slice(&number().to_le_bytes());
    }
    key
}

/// A tag (RFC 3261 19.3): 64 random bits.
pub(crate) fn tag() -> String {
    format!("{:016x}", number())
}

/// A Call-ID or other token: 128 random bits.
pub(crate) fn token() -> String {
    format!("{:016x}{:016x}", number(), number())
}

/// A fraction between 0 and 1, for jitter.
pub(crate) fn fraction() -> f64 {
    (number() >> 11) as f64 / (1u64 << 53) as f64
}
