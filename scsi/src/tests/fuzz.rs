//! Hostile CDBs and parameter lists: nothing panics, and whatever is answered is well formed.

use proptest::prelude::*;

use super::*;
use crate::commands::TABLE;

/// Sense data that a host can read.
fn check(reply: &Reply, cdb: &[u8]) -> Result<(), TestCaseError> {
    prop_assert_eq!(reply.sense.is_some(), reply.status == Status::CheckCondition, "{:02x?}", cdb);
    if let Some(sense) = reply.sense {
        match sense[0] & 0x7F {
            0x70 => {
                prop_assert_eq!(usize::from(sense[7]) + 8, sense.len());
                prop_assert!(sense.len() == 18 || sense[2] == SenseKey::CopyAborted as u8);
                prop_assert!(sense[2] != 0);
            }
            0x72 => prop_assert_eq!(usize::from(sense[7]) + 8, sense.len()),
            other => prop_assert!(false, "response code {:02x}", other),
        }
        prop_assert!(reply.data.is_empty());
    }
    Ok(())
}

/// Mostly CDBs of the table with bits that may be set; sometimes anything.
fn cdb() -> impl Strategy<Value = [u8; 16]> {
    (any::<[u8; 16]>(), 0..TABLE.len(), 0u8..20, any::<bool>()).prop_map(|(noise, index, wild, small)| {
        if wild == 0 {
            return noise;
        }
        let row = &TABLE[index];
        let mut cdb = [0; 16];
        for (at, usage) in row.usage.iter().enumerate() {
            cdb[at] = noise[at] & usage;
        }
        (cdb[0], cdb[1]) = (row.opcode, cdb[1] | row.action.unwrap_or(0));
        if small && row.usage.len() > 6 {
            // Ranges that exist, and short lists.
            let end = if row.usage.len() == 16 { 8 } else { 4 };
            cdb[2..2 + end.min(3)].fill(0);
            if row.usage.len() == 16 {
                cdb[2..8].fill(0);
                cdb[10..13].fill(0);
            } else {
                cdb[2..4].fill(0);
                cdb[7] = 0;
            }
        }
        cdb
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nothing_panics_and_everything_is_answered(
        commands in proptest::collection::vec(
            (cdb(), proptest::collection::vec(any::<u8>(), 0..80), 0usize..6, any::<bool>()), 1..40),
        fail in proptest::option::of(0usize..5),
    ) {
        let mut rig = Rig::new();
        let nexuses = [rig.open("a"), rig.open("b")];
        rig.fail = fail.map(|index| [
            BlockError::Medium { offset: u64::MAX }, BlockError::NoSpace, BlockError::NotServed,
            BlockError::NotReady, BlockError::Aborted][index]);
        for (cdb, noise, blocks, second) in commands {
            let mut data = noise;
            if blocks > 0 {
                data.resize(blocks * BS, 0);
            }
            let nexus = nexuses[usize::from(second)];
            let admission = rig.device.begin(nexus, lun(0), 1, TaskAttribute::Simple, &cdb);
            let Admission::Run(task) = admission else {
                let Admission::Refuse(reply) = admission else { panic!("simple tasks alone are never held") };
                check(&reply, &cdb)?;
                // An ACA that a NACA bit set off.
                rig.device.manage(nexus, lun(0), TaskManagement::LogicalUnitReset);
                continue;
            };
            rig.requests.clear();
            let reply = rig.send(nexus, &cdb, data);
            check(&reply, &cdb)?;
            rig.device.end(task, Some(&reply));
        }
    }

    /// Parameter lists are where lengths lie: reservations, mode pages, unmap.
    #[test]
    fn parameter_lists_lie(
        lists in proptest::collection::vec((0usize..12, any::<u16>(), proptest::collection::vec(any::<u8>(), 0..120)), 1..30),
    ) {
        let mut rig = Rig::new();
        let a = rig.open("a");
        for (which, claimed, mut list) in lists {
            let claimed = if claimed & 1 == 0 { list.len() as u16 } else { claimed >> 8 };
            let [high, low] = claimed.to_be_bytes();
            let cdb: Vec<u8> = match which {
                0..=7 => {
                    // Keys that are right make it past the first checks.
                    for byte in list.iter_mut().take(15) { *byte = 0; }
                    vec![0x5F, which as u8, 1 + low % 8, 0, 0, 0, 0, high, low, 0]
                }
                8 => vec![0x15, 0x11, 0, 0, low, 0],
                9 => vec![0x55, 0x11, 0, 0, 0, 0, 0, high, low, 0],
                _ => vec![0x42, 0, 0, 0, 0, 0, 0, high, low, 0],
            };
            let reply = rig.send(a, &cdb, list);
            check(&reply, &cdb)?;
            let record = rig.device.saved_state(LU).expect("the LU is there");
            prop_assert!(saved::parse(&record).is_some(), "the state stays one that can be stored");
        }
    }

    #[test]
    fn any_lun_is_answered(lun: [u8; 8], cdb in cdb()) {
        let mut rig = Rig::new();
        let a = rig.open("a");
        let reply = rig.send_to(a, lun, &cdb, Payload::new());
        check(&reply, &cdb)?;
        rig.device.manage(a, lun, TaskManagement::AbortTaskSet);
    }
}
