//! Tests of the slots: what is wiped, and when.

use super::*;

#[test]
fn slots_are_distinct_and_a_freed_one_is_wiped_and_used_again() {
    let arena = SecretArena::new();
    let mut slots: Vec<_> = (0..2 * SLOTS - 1).map(|_| arena.take()).collect();
    for (number, slot) in slots.iter_mut().enumerate() {
        assert_eq!(*slot.bytes(), [0; SLOT]);
        slot.bytes_mut()[..8].copy_from_slice(&number.to_le_bytes());
    }
    for (number, slot) in slots.iter().enumerate() {
        assert_eq!(slot.bytes()[..8], number.to_le_bytes());
    }
    let before = arena.state();
    assert_eq!(before.bytes, 2 * CHUNK);
    drop(slots);
    let slots: Vec<_> = (0..2 * SLOTS - 1).map(|_| arena.take()).collect();
    assert!(slots.iter().all(|slot| *slot.bytes() == [0; SLOT]));
    assert_eq!(arena.state(), before);
}

#[test]
fn a_slot_outlives_the_handle_of_its_arena() {
    let arena = SecretArena::new();
    let mut slot = arena.take();
    drop(arena);
    slot.bytes_mut().fill(7);
    assert_eq!(*slot.bytes(), [7; SLOT]);
}

#[test]
fn during_a_pause_no_slot_is_wiped_or_taken() {
    let arena = SecretArena::new();
    let mut slot = arena.take();
    slot.bytes_mut().fill(7);
    let (number, free) = (slot.slot(), arena.chunks().free.len());
    let at = arena.chunks().slots[number.unwrap_or(1) as usize];
    arena.pause();
    drop(slot);
    // SAFETY: mapped as long as the arena, and no slot refers to it.
    let found = unsafe { at.read() };
    assert_eq!(found, [7; SLOT], "the other process reads it");
    assert_eq!(arena.take().slot(), None, "ordinary memory");
    assert_eq!(arena.chunks().free.len(), free);
    arena.end_pause();
    // SAFETY: as above.
    let found = unsafe { at.read() };
    assert_eq!(found, [0; SLOT]);
    assert_eq!(arena.chunks().free.len(), free + 1);
}
