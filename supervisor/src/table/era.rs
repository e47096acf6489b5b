//! Whether a guess about a descriptor of the program still is a good one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// While an era goes on, each UDP socket of the program lives, who they hear is called as before, and no urgent data (MSG_OOB) can be waiting at a
/// TCP socket: the program has sent none, and no other program is at the end of a direct flow of its. Another number each time.
#[derive(Clone)]
pub struct Era(Arc<AtomicU64>);

/// No era: urgent data may be somewhere.
const NONE: u64 = 0;

impl Default for Era {
    fn default() -> Era {
        Era(Arc::new(AtomicU64::new(NONE + 1)))
    }
}

impl Era {
    /// What names the era of now.
    #[inline]
    pub fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Whether that era goes on.
    #[inline]
    pub fn goes_on(&self, era: u64) -> bool {
        era != NONE && era == self.now()
    }

    /// A UDP socket is gone, or who one hears is another.
    pub fn pass(&self) {
        let next = |era| (era != NONE).then_some(era + 1);
        // Where there is none, there will be none.
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
    }

    /// Urgent data may come: there is no era from now on.
    pub fn end(&self) {
        self.0.store(NONE, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_era_passes_with_a_socket_and_ends_with_urgent_data() {
        let era = Era::default();
        let first = era.now();
        assert!(era.goes_on(first));
        era.clone().pass();
        let second = era.now();
        assert!(era.goes_on(second) && !era.goes_on(first));
        era.clone().end();
        assert!(!era.goes_on(second) && !era.goes_on(era.now()));
        era.pass();
        assert!(!era.goes_on(era.now()));
    }
}
