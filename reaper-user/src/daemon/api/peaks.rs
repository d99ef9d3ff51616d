//! When memory goes back to the system: after a peak of connections or of sessions.

/// Peaks below these take a few megabytes, which the allocator may keep.
const CONNECTIONS_MIN: usize = 16;
const SESSIONS_MIN: usize = 1_024;

/// The highest numbers since memory was last given back.
#[derive(Default)]
pub(super) struct Peaks {
    connections: usize,
    sessions: usize,
}

impl Peaks {
    /// Takes a new number of connections, which may be a peak that is over before the next check.
    pub(super) fn connected(&mut self, connections: usize) {
        self.connections = self.connections.max(connections);
    }

    /// Takes the current numbers. Returns whether one is half of its peak or less; the peaks then begin
    /// anew.
    pub(super) fn is_over(&mut self, connections: usize, sessions: usize) -> bool {
        let fell = |peak: usize, now: usize, min: usize| peak >= min && now <= peak / 2;
        let over = fell(self.connections, connections, CONNECTIONS_MIN)
            || fell(self.sessions, sessions, SESSIONS_MIN);
        if over {
            *self = Self::default();
        }
        self.connections = self.connections.max(connections);
        self.sessions = self.sessions.max(sessions);
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_over_once_it_has_halved() {
        let mut peaks = Peaks::default();
        let numbers = [15, 0, 40, 21, 20, 20, 9, 40, 0, 0];
        let over = numbers.map(|connections| peaks.is_over(connections, 0));
        let expected = [
            false, false, false, false, true, false, true, false, true, false,
        ];
        assert_eq!(over, expected);
        assert!(!peaks.is_over(0, SESSIONS_MIN) && peaks.is_over(0, 1));
        peaks.connected(CONNECTIONS_MIN);
        assert!(peaks.is_over(0, 0), "a peak between two checks");
    }
}
