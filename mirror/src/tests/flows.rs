//! One scenario each, told from the outside.

use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, select};
use twinlun_block::{BlockError, BlockRequest, ByteRange, Payload};

use super::lab::{LUS, Lab, NAME, SIZE, Unit};
use crate::{ErrorKind, LuAccess, MirrorError, Rehearsal};

const K: u64 = 1024;

fn attributes(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

#[test]
fn a_new_secondary_is_copied_and_then_follows() {
    Lab::run(1, |lab| async move {
        lab.write(0, 0, 64 * K, 1).await.unwrap();
        lab.write(1, SIZE - 4 * K, 4 * K, 2).await.unwrap();
        lab.add_secondary(false).await;
        lab.reach("SYNCHRONIZED").await;
        lab.assert_equal();
        lab.write(1, 8 * K, 4 * K, 3).await.unwrap();
        lab.assert_equal();
        assert_eq!(lab.image_state(), "CONSISTENT", "not flushed yet");
        lab.reach("SYNCHRONIZED").await;
        assert_eq!(lab.west.record().unwrap().name, NAME);
        let lu = lab.west.lu_uuid(0);
        assert_eq!(lab.west.service().access(lu), Some(LuAccess::Secondary));
        let read = BlockRequest::Read { range: ByteRange::new(0, 512) };
        assert_eq!(lab.west.request(0, read).await, Some(Err(BlockError::NotServed)), "R-HOST-3");
    });
}

#[test]
fn a_cut_link_costs_only_the_changed_regions() {
    Lab::run(2, |lab| async move {
        lab.add_secondary(false).await;
        lab.reach("SYNCHRONIZED").await;
        lab.world.link("east", "west").cut();
        lab.write(0, 100 * K, 4 * K, 7).await.unwrap();
        lab.write(1, 200 * K, 8 * K, 8).await.unwrap();
        let view = lab.view();
        assert_eq!(view.state, "ACTIVE", "hosts see no error (R-FL-5)");
        assert!(view.images[1].fractured && view.images[1].fracture_reason.is_some());
        assert_eq!(view.images[1].dirty_bytes, 12 * K);
        assert_eq!(view.images[1].state, "CONSISTENT", "R-IS-4");
        let before: u64 = lab.west.media.iter().map(|medium| medium.written.get()).sum();
        lab.sleep(10_000).await;
        lab.world.link("east", "west").heal();
        lab.reach("SYNCHRONIZED").await;
        lab.assert_equal();
        let copied = lab.west.media.iter().map(|medium| medium.written.get()).sum::<u64>() - before;
        assert!(copied <= 12 * K, "{copied} bytes were copied (R-FL-3)");
    });
}

#[test]
fn what_was_flushed_on_both_sides_is_not_copied_again() {
    Lab::run(21, |lab| async move {
        lab.add_secondary(false).await;
        lab.reach("SYNCHRONIZED").await;
        lab.write(0, 0, 1024 * K, 1).await.unwrap();
        lab.write(1, 0, 512 * K, 2).await.unwrap();
        let flush = |lu| lab.east.request(lu, BlockRequest::Flush);
        flush(0).await.unwrap().unwrap();
        let range = ByteRange::new(2048 * K, 256 * K);
        let data = Payload::from(vec![3; 256 << 10]);
        lab.east.request(0, BlockRequest::Write { range, data, fua: true }).await.unwrap().unwrap();
        lab.write(0, 3000 * K, 4 * K, 4).await.unwrap();
        lab.west.kill();
        lab.write(0, 100 * K, 4 * K, 7).await.unwrap();
        let dirty = lab.view().images[1].dirty_bytes;
        assert_eq!(dirty, (512 + 4 + 4) * K, "what no flush covered and what was written since");
        lab.west.start(&lab.world).await;
        lab.reach("SYNCHRONIZED").await;
        lab.assert_equal();
    });
}

#[test]
fn a_flush_settles_nothing_that_is_still_under_way() {
    Lab::run(22, |lab| async move {
        lab.add_secondary(false).await;
        lab.reach("SYNCHRONIZED").await;
        // The secondary's disk takes its time: the flush overtakes the write.
        lab.west.media[0].pace.set(20);
        let mut write = pin!(lab.write(0, 0, 256 * K, 1));
        let mut flush = pin!(async {
            lab.sleep(20).await;
            lab.east.request(0, BlockRequest::Flush).await
        });
        let flushed = match select(&mut write, &mut flush).await {
            Either::Left(_) => panic!("the write was to be slower"),
            Either::Right((flushed, _)) => flushed,
        };
        flushed.unwrap().unwrap();
        lab.west.power_cut(&mut lab.world.rng("cut"));
        write.await.unwrap();
        assert_eq!(lab.view().images[1].dirty_bytes, 256 * K);
        lab.west.start(&lab.world).await;
        lab.reach("SYNCHRONIZED").await;
        lab.assert_equal();
    });
}

#[test]
fn clearing_much_at_once_is_not_held_against_the_secondary() {
    Lab::run(23, |lab| async move {
        lab.add_secondary(false).await;
        let short = attributes(&[("write_timeout", "0.5")]);
        lab.order(|service| async move { service.set(NAME, None, &short).await }).await.unwrap();
        lab.reach("SYNCHRONIZED").await;
        // It needs a second for all of it, and a quarter of one for each part that it is asked for.
        lab.west.media[0].pace.set(2);
        let whole = ByteRange::new(0, SIZE);
        lab.east.request(0, BlockRequest::Unmap { range: whole }).await.unwrap().unwrap();
        let zeroes = BlockRequest::WriteZeroes { range: whole, fua: true, may_unmap: false };
        lab.east.request(0, zeroes).await.unwrap().unwrap();
        assert!(!lab.view().images[1].fractured);
        // One that does not answer at all is given up in time all the same (R-FL-5).
        lab.west.media[0].frozen.set(true);
        let before = lab.world.shard().now();
        lab.east.request(0, BlockRequest::Unmap { range: whole }).await.unwrap().unwrap();
        assert!(lab.world.shard().now().saturating_since(before) < Duration::from_secs(2));
        assert!(lab.view().images[1].fractured);
        lab.west.media[0].frozen.set(false);
        lab.reach("SYNCHRONIZED").await;
        lab.assert_equal();
    });
}

#[test]
fn a_region_already_marked_costs_no_log_write() {
    Lab::run(3, |lab| async move {
        lab.add_secondary(false).await;
        lab.reach("SYNCHRONIZED").await;
        lab.write(0, 0, 4 * K, 1).await.unwrap();
        let before = lab.east.vault.page_writes.get();
        for index in 1..50 {
            lab.write(0, index * 4 * K, 4 * K, 1).await.unwrap();
        }
        assert_eq!(lab.east.vault.page_writes.get(), before, "R-WIL-2");
    });
}

#[test]
fn after_a_crash_of_the_primary_only_the_logged_regions_are_copied() {
    Lab::run(4, |lab| async move {
        lab.add_secondary(false).await;
        lab.reach("SYNCHRONIZED").await;
        lab.write(0, 3 << 20, 4 * K, 9).await.unwrap();
        lab.east.kill();
        let before: u64 = lab.west.media.iter().map(|medium| medium.written.get()).sum();
        lab.east.start(&lab.world).await;
        lab.reach("SYNCHRONIZED").await;
        lab.assert_equal();
        let copied = lab.west.media.iter().map(|medium| medium.written.get()).sum::<u64>() - before;
        assert!(
            copied > 0 && copied <= 1 << 20,
            "one region of the intent log is due, {copied} bytes were copied"
        );
    });
}

#[test]
fn a_clean_stop_leaves_nothing_to_copy() {
    Lab::run(5, |lab| async move {
        lab.add_secondary(false).await;
        lab.reach("SYNCHRONIZED").await;
        lab.write(0, 0, 4 * K, 9).await.unwrap();
        lab.order(|service| async move { service.close().await }).await;
        lab.east.kill();
        let before: u64 = lab.west.media.iter().map(|medium| medium.written.get()).sum();
        lab.east.start(&lab.world).await;
        lab.reach("SYNCHRONIZED").await;
        let after = lab.west.media.iter().map(|medium| medium.written.get()).sum::<u64>();
        assert_eq!(after, before, "R-SP-6");
    });
}

#[test]
fn a_copy_goes_on_where_it_was() {
    Lab::run(6, |lab| async move {
        for lu in 0..LUS {
            lab.write(lu, 0, SIZE, 5).await.unwrap();
        }
        lab.add_secondary(false).await;
        let slow = attributes(&[("synchronization_rate", "1MiB")]);
        lab.order(|service| async move { service.set(NAME, Some("west"), &slow).await }).await.unwrap();
        lab.sleep(5_000).await;
        lab.world.link("east", "west").cut();
        lab.sleep(8_000).await;
        let left = lab.view().images[1].dirty_bytes;
        assert!(left < 2 * SIZE - (2 << 20), "something was copied, {left} bytes are left");
        assert_eq!(lab.image_state(), "SYNCHRONIZING");
        lab.east.kill();
        let before: u64 = lab.west.media.iter().map(|medium| medium.written.get()).sum();
        lab.east.start(&lab.world).await;
        lab.world.link("east", "west").heal();
        let progress = lab.view().images[1].progress.clone().expect("an interrupted copy");
        assert!(progress.total_bytes >= 2 * SIZE && progress.copied_bytes > 0);
        lab.reach("SYNCHRONIZED").await;
        lab.assert_equal();
        let copied = lab.west.media.iter().map(|medium| medium.written.get()).sum::<u64>() - before;
        assert!(copied <= left + (2 << 20), "{copied} bytes copied, {left} were left (R-FL-4)");
    });
}

#[test]
fn the_administrators_fracture_lasts_until_restored() {
    Lab::run(7, |lab| async move {
        lab.add_secondary(false).await;
        lab.reach("SYNCHRONIZED").await;
        lab.order(|service| async move { service.fracture(NAME, "west").await }).await.unwrap();
        lab.write(0, 0, 4 * K, 1).await.unwrap();
        lab.sleep(20_000).await;
        assert!(lab.view().images[1].fractured);
        let again = lab.order(|service| async move { service.sync(NAME, "west").await }).await;
        assert!(matches!(again, Err(MirrorError::Fractured(_))));
        lab.east.kill();
        lab.east.start(&lab.world).await;
        lab.sleep(5_000).await;
        assert!(lab.view().images[1].fractured, "it outlives the process");
        lab.order(|service| async move { service.restore(NAME, "west").await }).await.unwrap();
        lab.reach("SYNCHRONIZED").await;
        lab.assert_equal();
    });
}

#[test]
fn a_manual_recovery_policy_waits_for_the_word() {
    Lab::run(8, |lab| async move {
        lab.add_secondary(false).await;
        lab.reach("SYNCHRONIZED").await;
        let manual = attributes(&[("recovery_policy", "manual")]);
        lab.order(|service| async move { service.set(NAME, Some("west"), &manual).await }).await.unwrap();
        lab.west.kill();
        lab.write(0, 0, 4 * K, 1).await.unwrap();
        lab.west.start(&lab.world).await;
        lab.sleep(20_000).await;
        assert!(lab.view().images[1].fractured);
        lab.order(|service| async move { service.sync(NAME, "west").await }).await.unwrap();
        lab.reach("SYNCHRONIZED").await;
        lab.assert_equal();
    });
}

#[test]
fn a_mirror_that_may_miss_none_stops_with_its_secondary() {
    Lab::run(9, |lab| async move {
        lab.add_secondary(false).await;
        lab.reach("SYNCHRONIZED").await;
        let strict = attributes(&[("maximum_missing_images", "0")]);
        lab.order(|service| async move { service.set(NAME, None, &strict).await }).await.unwrap();
        assert_eq!(lab.view().state, "ACTIVE");
        lab.west.kill();
        assert_eq!(lab.write(0, 0, 4 * K, 1).await, Err(BlockError::NotReady), "R-MS-3");
        assert_eq!(lab.view().state, "ATTENTION");
        assert_eq!(lab.east.service().access(lab.east.lu_uuid(0)), Some(LuAccess::Attention));
        lab.west.start(&lab.world).await;
        lab.reach("SYNCHRONIZED").await;
        assert_eq!(lab.view().state, "ACTIVE", "the activation policy is automatic (R-MS-2)");
        lab.write(0, 0, 4 * K, 2).await.unwrap();
        lab.assert_equal();
    });
}

#[test]
fn a_silent_secondary_delays_a_write_for_a_bounded_time_only() {
    Lab::run(10, |lab| async move {
        lab.add_secondary(false).await;
        lab.reach("SYNCHRONIZED").await;
        lab.west.media[0].frozen.set(true);
        let start = lab.world.now();
        lab.write(0, 0, 4 * K, 1).await.unwrap();
        let waited = lab.world.now() - start;
        assert!(waited.as_millis() < 6_000, "R-FL-5: {waited:?}");
        lab.west.media[0].frozen.set(false);
        lab.reach("SYNCHRONIZED").await;
        lab.assert_equal();
    });
}

#[test]
fn what_the_primary_cannot_write_is_the_same_on_both_afterwards() {
    Lab::run(11, |lab| async move {
        lab.add_secondary(false).await;
        lab.reach("SYNCHRONIZED").await;
        lab.east.media[0].fail_writes.set(true);
        assert!(matches!(lab.write(0, 0, 4 * K, 1).await, Err(BlockError::Medium { .. })));
        lab.east.media[0].fail_writes.set(false);
        lab.reach("SYNCHRONIZED").await;
        lab.assert_equal();
    });
}

#[test]
fn a_vault_that_cannot_store_lets_no_write_through() {
    Lab::run(12, |lab| async move {
        lab.add_secondary(false).await;
        lab.reach("SYNCHRONIZED").await;
        lab.east.vault.broken.set(true);
        assert_eq!(lab.write(0, 0, 4 * K, 1).await, Err(BlockError::NotReady));
        assert!(lab.east.media[0].view().iter().all(|b| *b == 0), "no image was touched (R-WIL-2)");
        lab.east.vault.broken.set(false);
        lab.write(0, 0, 4 * K, 1).await.unwrap();
        lab.reach("SYNCHRONIZED").await;
        lab.assert_equal();
    });
}

#[test]
fn compare_and_write_unmap_and_zeroes_are_mirrored() {
    Lab::run(13, |lab| async move {
        lab.add_secondary(false).await;
        lab.reach("SYNCHRONIZED").await;
        lab.write(0, 0, 64 * K, 1).await.unwrap();
        let swap = |from: u8, to: u8| BlockRequest::CompareAndWrite {
            range: ByteRange::new(512, 512),
            compare: Payload::from(vec![from; 512]),
            data: Payload::from(vec![to; 512]),
            fua: true,
        };
        assert_eq!(lab.east.request(0, swap(1, 2)).await, Some(Ok(Payload::new())));
        let wrong = lab.east.request(0, swap(1, 3)).await;
        assert_eq!(wrong, Some(Err(BlockError::Miscompare { offset: 0 })));
        let unmap = BlockRequest::Unmap { range: ByteRange::new(8 * K, 4 * K) };
        lab.east.request(0, unmap).await.unwrap().unwrap();
        let zero = BlockRequest::WriteZeroes { range: ByteRange::new(0, 512), fua: false, may_unmap: false };
        lab.east.request(0, zero).await.unwrap().unwrap();
        lab.assert_equal();
        assert_eq!(lab.west.media[0].view()[512..1024], [2; 512]);
        assert_eq!(lab.west.media[0].view()[8 * 1024], 0);
    });
}

#[test]
fn an_acknowledged_flush_survives_power_cuts_everywhere() {
    Lab::run(14, |lab| async move {
        let mut rng = lab.world.rng("test");
        lab.add_secondary(false).await;
        lab.reach("SYNCHRONIZED").await;
        lab.write(0, 0, 64 * K, 4).await.unwrap();
        lab.east.request(0, BlockRequest::Flush).await.unwrap().unwrap();
        lab.east.power_cut(&mut rng);
        lab.west.power_cut(&mut rng);
        for unit in [&lab.east, &lab.west] {
            assert!(unit.media[0].view()[..64 * 1024].iter().all(|byte| *byte == 4), "{} (I1)", unit.name);
        }
    });
}

#[test]
fn orders_are_refused_with_a_reason() {
    Lab::run(15, |lab| async move {
        let refused = |error: MirrorError, kind: ErrorKind| {
            assert_eq!(error.kind(), kind, "{error}");
            assert!(!error.remedy().is_empty());
        };
        let lus = |names: &[&str]| names.iter().map(|name| (*name).to_string()).collect::<Vec<_>>();
        let add = |unit: &'static str, names: Vec<String>| {
            let lab = lab.clone();
            async move {
                lab.order(
                    move |service| async move { service.add_secondary(NAME, unit, &names, false).await },
                )
                .await
                .unwrap_err()
            }
        };
        refused(add("west", lus(&["lu0"])).await, ErrorKind::Conflict);
        refused(add("west", lus(&["lu0", "lu0"])).await, ErrorKind::Usage);
        refused(add("west", lus(&["lu0", "none"])).await, ErrorKind::NotFound);
        refused(add("south", lus(&["lu0", "lu1"])).await, ErrorKind::NotFound);
        refused(add("north", lus(&["lu0", "lu1"])).await, ErrorKind::Unreachable);
        lab.add_secondary(false).await;
        refused(add("west", lus(&["lu0", "lu1"])).await, ErrorKind::Conflict);
        let destroy =
            || async { lab.order(|service| async move { service.destroy(NAME, false).await }).await };
        refused(destroy().await.unwrap_err(), ErrorKind::Unsafe);
        let promote = lab.order(|service| async move { service.promote(NAME, false).await }).await;
        refused(promote.unwrap_err(), ErrorKind::Conflict);
        let here = lab.west.service();
        let there =
            super::lab::run_in(&lab.west.process(), async move { here.fracture(NAME, "west").await }).await;
        refused(there.unwrap().unwrap_err(), ErrorKind::Conflict);
        let gone = lab.order(|service| async move { service.activate("other").await }).await;
        refused(gone.unwrap_err(), ErrorKind::NotFound);
    });
}

#[test]
fn a_rehearsal_says_what_the_order_would_and_changes_nothing() {
    Lab::run(24, |lab| async move {
        lab.add_secondary(false).await;
        lab.reach("SYNCHRONIZED").await;
        let before = lab.view();
        let service = lab.east.service();
        let kind = |order: Rehearsal<'_>| service.rehearse(NAME, &order).map_err(|error| error.kind());
        let two = ["lu0".to_owned(), "lu1".to_owned()];
        let (good, bad) = (attributes(&[("write_timeout", "3")]), attributes(&[("write_timeout", "soon")]));
        assert_eq!(kind(Rehearsal::AddSecondary { unit: "north", lus: &two }), Ok(()));
        assert_eq!(kind(Rehearsal::AddSecondary { unit: "west", lus: &two }), Err(ErrorKind::Conflict));
        assert_eq!(kind(Rehearsal::AddSecondary { unit: "north", lus: &two[..1] }), Err(ErrorKind::Conflict));
        assert_eq!(kind(Rehearsal::RemoveSecondary { unit: "west", force: false }), Ok(()));
        assert_eq!(kind(Rehearsal::RemoveSecondary { unit: "north", force: true }), Err(ErrorKind::NotFound));
        assert_eq!(kind(Rehearsal::Sync { unit: "west" }), Ok(()));
        assert_eq!(kind(Rehearsal::Sync { unit: "north" }), Err(ErrorKind::NotFound));
        assert_eq!(kind(Rehearsal::Fracture { unit: "west" }), Ok(()));
        assert_eq!(kind(Rehearsal::Restore { unit: "west" }), Err(ErrorKind::Conflict));
        assert_eq!(kind(Rehearsal::Promote), Err(ErrorKind::Conflict));
        assert_eq!(kind(Rehearsal::Destroy), Err(ErrorKind::Unsafe));
        assert_eq!(kind(Rehearsal::Set { unit: None, attributes: &good }), Ok(()));
        assert_eq!(kind(Rehearsal::Set { unit: None, attributes: &bad }), Err(ErrorKind::Usage));
        assert_eq!(kind(Rehearsal::Set { unit: Some("west"), attributes: &bad }), Err(ErrorKind::Usage));
        assert_eq!(lab.view(), before);
        lab.west.kill();
        lab.sleep(8_000).await;
        assert_eq!(kind(Rehearsal::Sync { unit: "west" }), Err(ErrorKind::Unreachable));
    });
}

#[test]
fn nothing_of_a_dead_unit_stays_in_memory() {
    Lab::run(25, |lab| async move {
        lab.add_secondary(false).await;
        lab.reach("SYNCHRONIZED").await;
        let weak = |unit: &Unit| Rc::downgrade(&unit.service().inner);
        let (east, west) = (weak(&lab.east), weak(&lab.west));
        let lus = [&lab.east, &lab.west].map(|unit| Rc::downgrade(&unit.media[0]));
        let counts = || lus.each_ref().map(std::rc::Weak::strong_count);
        assert!(counts().into_iter().all(|count| count > 1), "the layers of living units hold their media");
        // Killed in the middle of a write, with everything that a unit has under way.
        lab.west.media[0].frozen.set(true);
        let mut write = pin!(lab.east.request(0, BlockRequest::Unmap { range: ByteRange::new(0, SIZE) }));
        let mut later = pin!(lab.sleep(300));
        select(&mut write, &mut later).await;
        lab.east.kill();
        lab.west.kill();
        assert_eq!(write.await, None);
        assert!(east.upgrade().is_none() && west.upgrade().is_none());
        assert_eq!(counts(), [1, 1]);
    });
}

#[test]
fn a_mirror_ends_and_leaves_ordinary_lus() {
    Lab::run(16, |lab| async move {
        lab.add_secondary(false).await;
        lab.reach("SYNCHRONIZED").await;
        lab.write(0, 0, 4 * K, 1).await.unwrap();
        lab.order(|service| async move { service.deactivate(NAME, false).await }).await.unwrap();
        assert_eq!(lab.write(0, 0, 4 * K, 2).await, Err(BlockError::NotServed));
        lab.order(|service| async move { service.remove_secondary(NAME, "west", false).await })
            .await
            .unwrap();
        assert!(lab.west.record().is_none(), "its unit forgot the mirror");
        assert_eq!(lab.west.service().access(lab.west.lu_uuid(0)), None);
        lab.order(|service| async move { service.destroy(NAME, false).await }).await.unwrap();
        assert!(lab.east.record().is_none());
        assert_eq!(lab.east.service().access(lab.east.lu_uuid(0)), None);
        assert_eq!(lab.west.media[0].view()[..4096], [1; 4096], "data stays (R-AD-3)");
        lab.create(BTreeMap::new()).await;
        lab.write(0, 0, 4 * K, 3).await.unwrap();
    });
}

#[test]
fn a_secondary_removed_while_away_is_told_later() {
    Lab::run(17, |lab| async move {
        lab.add_secondary(false).await;
        lab.reach("SYNCHRONIZED").await;
        lab.west.kill();
        lab.sleep(10_000).await;
        let refused =
            lab.order(|service| async move { service.remove_secondary(NAME, "west", false).await }).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unreachable);
        lab.order(|service| async move { service.remove_secondary(NAME, "west", true).await }).await.unwrap();
        lab.west.start(&lab.world).await;
        lab.sleep(20_000).await;
        assert!(lab.west.record().is_none());
    });
}

#[test]
fn a_vouched_secondary_is_not_copied_and_follows() {
    Lab::run(18, |lab| async move {
        lab.sleep(10_000).await;
        lab.add_secondary(true).await;
        lab.reach("SYNCHRONIZED").await;
        assert_eq!(lab.west.media[0].written.get(), 0);
        lab.write(1, 0, 4 * K, 2).await.unwrap();
        lab.assert_equal();
    });
}

#[test]
fn both_units_show_the_mirror() {
    Lab::run(19, |lab| async move {
        lab.add_secondary(false).await;
        lab.reach("SYNCHRONIZED").await;
        let service = lab.west.service();
        let shown = super::lab::run_in(&lab.west.process(), async move { service.show(NAME).await }).await;
        let shown = shown.unwrap().unwrap();
        assert_eq!(shown.images[1].state, "SYNCHRONIZED", "the primary was asked");
        assert_eq!(shown.images[0].lus, ["lu0", "lu1"]);
        lab.east.kill();
        let service = lab.west.service();
        let shown = super::lab::run_in(&lab.west.process(), async move { service.show(NAME).await }).await;
        assert!(shown.unwrap().unwrap().images[0].error.is_some(), "what cannot be asked carries an error");
    });
}

#[test]
fn two_secondaries_may_be_in_different_states() {
    Lab::run(20, |lab| async move {
        lab.north.start(&lab.world).await;
        lab.add_secondary(false).await;
        lab.add_secondary_on("north", false).await;
        lab.reach("SYNCHRONIZED").await;
        lab.world.link("east", "north").cut();
        lab.write(0, 0, 8 * K, 1).await.unwrap();
        let images = lab.view().images;
        assert!(!images[1].fractured && images[2].fractured, "R-IS-3");
        lab.assert_equal();
        lab.world.link("east", "west").cut();
        lab.write(1, 64 * K, 8 * K, 2).await.unwrap();
        assert_eq!(lab.view().images[1].dirty_bytes, 8 * K + 8 * K, "with what it had not flushed");
        assert_eq!(lab.view().images[2].dirty_bytes, 16 * K);
        lab.world.link("east", "west").heal();
        lab.world.link("east", "north").heal();
        lab.sleep(60_000).await;
        let states: Vec<_> = lab.view().images.into_iter().map(|image| image.state).collect();
        assert_eq!(states, ["SYNCHRONIZED"; 3]);
        lab.assert_equal();
        for lu in 0..LUS {
            assert!(lab.north.media[lu].view() == lab.east.media[lu].view());
        }
        let known = lab.north.record().unwrap();
        assert_eq!(known.secondaries.len(), 2, "every member has the whole database (R-DB-1)");
        assert_eq!(known.configuration, lab.east.record().unwrap().configuration);
    });
}

#[test]
fn a_set_stops_as_one() {
    Lab::run(21, |lab| async move {
        lab.add_secondary(false).await;
        lab.reach("SYNCHRONIZED").await;
        lab.west.media[0].fail_writes.set(true);
        lab.write(0, 0, 4 * K, 1).await.unwrap();
        // Depends on the write before, and goes to a LU whose image works.
        lab.write(1, 0, 4 * K, 2).await.unwrap();
        assert_eq!(lab.west.media[1].view()[..4096], [0; 4096], "B-2");
        lab.west.media[0].fail_writes.set(false);
        lab.reach("SYNCHRONIZED").await;
        lab.assert_equal();
    });
}

#[test]
fn a_member_with_a_newer_configuration_is_left_alone() {
    Lab::run(22, |lab| async move {
        lab.add_secondary(false).await;
        lab.reach("SYNCHRONIZED").await;
        let past = lab.east.vault.snapshot();
        let more = attributes(&[("minimum_images_required", "1")]);
        for _ in 0..5 {
            let more = more.clone();
            lab.order(|service| async move { service.set(NAME, None, &more).await }).await.unwrap();
        }
        lab.east.kill();
        lab.east.vault.restore(past);
        lab.east.start(&lab.world).await;
        lab.write(0, 0, 4 * K, 1).await.unwrap();
        lab.sleep(20_000).await;
        let image = lab.view().images[1].clone();
        assert!(image.fractured, "a vault from the past must not overwrite (I9)");
        let why = lab.order(|service| async move { service.why(NAME).await }).await.unwrap();
        assert!(why.iter().any(|line| line.contains("newer configuration")), "{why:?}");
        assert_eq!(lab.west.media[0].view()[..4096], [0; 4096]);
    });
}
