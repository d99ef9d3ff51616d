//! What the exit probe writes: records of its ring and values of its map. They must have their exact
//! length, survive a round trip, and describe only the process that they are for.

use reaper_ebpf::{GroupDeath, WatchEntry};

use super::Choices;

/// Any bytes as a record and as a value, whole and in every window of the right length.
pub fn ring_record(bytes: &[u8]) {
    assert_eq!(
        GroupDeath::from_bytes(bytes).is_some(),
        bytes.len() == GroupDeath::SIZE
    );
    assert_eq!(
        WatchEntry::from_bytes(bytes).is_some(),
        bytes.len() == WatchEntry::SIZE
    );
    for window in bytes.windows(GroupDeath::SIZE) {
        let record = GroupDeath::from_bytes(window).expect("it has the length");
        assert_eq!(record.to_bytes(), *window);
    }
    for window in bytes.windows(WatchEntry::SIZE) {
        let entry = WatchEntry::from_bytes(window).expect("it has the length");
        assert_eq!(entry.to_bytes(), *window);
        a_mark_counts_for_one_process_only(&entry);
    }
    a_written_death_is_read(bytes);
}

fn a_mark_counts_for_one_process_only(entry: &WatchEntry) {
    let marked = u32::try_from(entry.mark & 0xffff_ffff).expect("the low half");
    for tgid in [marked, marked.wrapping_add(1), marked.swap_bytes(), 0] {
        let Some(death) = entry.death(tgid) else {
            let is_its_own = tgid == marked && entry.start_ticks == entry.marked_start_ticks;
            assert!(tgid == 0 || !is_its_own, "a death was missed: {entry:?}");
            continue;
        };
        assert_ne!(tgid, 0);
        assert_eq!((death.tgid, tgid), (tgid, marked));
        assert_eq!(death.start_ticks, entry.start_ticks);
        assert_eq!(death.start_ticks, entry.marked_start_ticks);
        assert_eq!(death.died_at_ns, entry.marked_at_ns);
        assert_eq!(WatchEntry::mark_of(tgid, death.exit_code), entry.mark);
    }
}

/// The probe marks a watched process; ring record and map value agree.
fn a_written_death_is_read(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let death = GroupDeath {
        tgid: choices.word().max(1),
        exit_code: choices.word().cast_signed(),
        start_ticks: choices.long(),
        died_at_ns: choices.long(),
    };
    assert_eq!(GroupDeath::from_bytes(&death.to_bytes()), Some(death));
    let watching = WatchEntry::watching(death.start_ticks);
    assert_eq!(watching.death(death.tgid), None);
    let marked = WatchEntry {
        mark: WatchEntry::mark_of(death.tgid, death.exit_code),
        marked_start_ticks: death.start_ticks,
        marked_at_ns: death.died_at_ns,
        ..watching
    };
    let read = WatchEntry::from_bytes(&marked.to_bytes()).expect("it has the length");
    assert_eq!(read.death(death.tgid), Some(death));
}
