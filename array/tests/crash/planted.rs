//! Planted bugs: each is found by a scenario of the crash tests, or the crash tests do not see.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use twinlun_array::{Bug, plant};

use crate::{disks, lives, metadata, rebuild};

thread_local! {
    /// Whether this thread's panics are what is looked for.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Keeps panics that are looked for out of the output.
fn keep_quiet() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !EXPECTED.get() {
                usual(info);
            }
        }));
    });
    EXPECTED.set(true);
}

/// The first seed of a scenario that shows the bug, and how.
fn find(bug: Bug, scenario: fn(u64), seeds: u64) -> Option<(u64, String)> {
    keep_quiet();
    plant(Some(bug));
    let found = (0..seeds).find_map(|seed| {
        let failure = catch_unwind(AssertUnwindSafe(|| scenario(seed))).err()?;
        let what = failure.downcast_ref::<String>().cloned();
        let what = what.or_else(|| failure.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Some((seed, what.unwrap_or_default().chars().take(120).collect()))
    });
    plant(None);
    EXPECTED.set(false);
    found
}

/// A test for each bug: its name, the scenario that shows it, and seeds within which that must do so.
macro_rules! found {
    ($($test:ident: $bug:ident by $scenario:expr, within $seeds:literal;)*) => {
        const LOOKED_FOR: &[Bug] = &[$(Bug::$bug),*];
        $(
            #[test]
            fn $test() {
                match find(Bug::$bug, $scenario, $seeds) {
                    Some((seed, what)) => println!("{:?}: seed {seed}: {what}", Bug::$bug),
                    None => panic!("{:?} is not found within {} seeds", Bug::$bug, $seeds),
                }
            }
        )*
    };
}

found! {
    data_before_intent_is_found: DataBeforeIntent by rebuild::rebuild_loop, within 40;
    clearing_intent_without_a_flush_is_found: ClearIntentWithoutFlush by lives::mirrored, within 8;
    ignoring_intent_at_the_start_is_found: IgnoreIntentAtStart by lives::mirrored, within 8;
    writing_without_a_turn_is_found: WriteWithoutTurn by lives::overlapping, within 6;
    a_late_discard_is_found: DiscardLate by lives::overlapping, within 6;
    a_flush_that_skips_a_rebuilding_disk_is_found: FlushSkipsRebuilding by rebuild::quiet_regions, within 60;
    progress_stored_from_memory_is_found: StoreProgressFromMemory by rebuild::two_rebuilds, within 40;
    a_checkpoint_without_a_flush_is_found: CheckpointWithoutFlush by rebuild::rebuild_loop, within 40;
    a_rebuild_that_skips_busy_pieces_is_found: RebuildSkipsBusy by rebuild::rebuild_loop, within 40;
    reading_from_a_rebuilding_disk_is_found: ReadFromRebuilding by rebuild::rebuild_loop, within 40;
    a_loss_that_is_not_recorded_is_found: LossNotRecorded by disks::loss_and_power_cut, within 8;
    a_stale_disk_that_is_believed_is_found: StaleDiskBelieved by disks::come_and_go, within 40;
    half_a_quorum_is_found: HalfIsQuorum by disks::come_and_go, within 40;
    an_image_overwritten_in_place_is_found: ImageInPlace by metadata::one_disk, within 8;
    a_page_overwritten_in_place_is_found: PageInPlace by metadata::one_disk, within 8;
    a_torn_page_that_is_accepted_is_found: TornPageAccepted by metadata::one_disk, within 8;
    a_torn_label_that_is_accepted_is_found: TornLabelAccepted by disks::damaged_label, within 24;
    believing_the_page_cache_is_found: BelieveTheCache by lives::flush_after_kill, within 16;
}

#[test]
fn every_bug_is_looked_for() {
    let missing: Vec<_> = Bug::ALL.iter().filter(|bug| !LOOKED_FOR.contains(bug)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
