//! What the control mode page says of the task set: QErr, TST and TAS, each with and without an auto contingent allegiance (SPC-5, 7.5.10;
//! SAM-5, 5.9).

use super::*;

const WRITE: [u8; 10] = [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0];
/// Names a block that is not there.
const WRONG: [u8; 10] = [0x28, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 1, 0];
const NACA: u8 = 0x04;
/// QERR as the page has it, in bits 1 and 2 of byte 3.
const GO_ON: u8 = 0 << 1;
const ABORT_ALL: u8 = 1 << 1;
const ABORT_OWN: u8 = 3 << 1;
/// TST 001b and TAS.
const SEPARATE: u8 = 0x20;
const TAS: u8 = 0x40;

struct Queue {
    rig: Rig,
    a: NexusId,
    b: NexusId,
}

/// MODE SELECT (6) of the control page, with SP.
fn select(tst: u8, qerr: u8, tas: u8) -> ([u8; 6], Vec<u8>) {
    let list = vec![0, 0, 0, 0, 0x0A, 0x0A, tst | 0x02, 0x10 | qerr, 0, tas, 0, 0, 0xFF, 0xFF, 0, 0];
    ([0x15, 0x11, 0, 0, 16, 0], list)
}

impl Queue {
    fn new(tst: u8, qerr: u8, tas: u8) -> Self {
        let mut rig = Rig::new();
        let (a, b) = (rig.open("a"), rig.open("b"));
        let (cdb, list) = select(tst, qerr, tas);
        let changes = (tst, qerr, tas) != (0, 0, 0);
        rig.good(a, &cdb, list);
        if changes {
            rig.sense(b, &[0; 6], SenseKey::UnitAttention, Asc(0x2A, 0x01));
        }
        Self { rig, a, b }
    }

    fn admit(&mut self, nexus: NexusId, tag: u32, attribute: TaskAttribute, cdb: &[u8]) -> Admission {
        self.rig.device.begin(nexus, lun(0), tag, attribute, cdb)
    }

    /// Whether the task may run at once.
    #[track_caller]
    fn begin(&mut self, nexus: NexusId, tag: u32, attribute: TaskAttribute) -> bool {
        match self.admit(nexus, tag, attribute, &WRITE) {
            Admission::Run(_) => true,
            Admission::Hold(_) => false,
            Admission::Refuse(reply) => panic!("refused: {reply:?}"),
        }
    }

    #[track_caller]
    fn refused(&mut self, nexus: NexusId, attribute: TaskAttribute, cdb: &[u8]) -> Status {
        match self.admit(nexus, 99, attribute, cdb) {
            Admission::Refuse(reply) => reply.status,
            other => panic!("{other:?}"),
        }
    }

    /// A command of `nexus` ends with CHECK CONDITION.
    fn fail(&mut self, nexus: NexusId, tag: u32, control: u8) -> Ended {
        self.fail_as(nexus, tag, control, TaskAttribute::Simple)
    }

    #[track_caller]
    fn fail_as(&mut self, nexus: NexusId, tag: u32, control: u8, attribute: TaskAttribute) -> Ended {
        let mut cdb = WRONG;
        cdb[9] = control;
        assert!(matches!(self.admit(nexus, tag, attribute, &cdb), Admission::Run(_)));
        let reply = self.rig.send(nexus, &cdb, vec![]);
        assert_eq!(reply.status, Status::CheckCondition);
        self.rig.device.end(task(nexus, tag), Some(&reply))
    }

    fn end(&mut self, nexus: NexusId, tag: u32) -> Vec<u32> {
        let ended = self.rig.device.end(task(nexus, tag), Some(&Reply::good()));
        assert_eq!(ended.abort, []);
        ended.release.iter().map(|t| t.tag).collect()
    }

    fn manage(&mut self, nexus: NexusId, function: TaskManagement) -> Managed {
        self.rig.device.manage(nexus, lun(0), function)
    }

    fn attention(&mut self, nexus: NexusId) -> Option<(u8, u8)> {
        let data = self.rig.good(nexus, &[0x03, 0, 0, 0, 18, 0], vec![]);
        (data[2] == 6).then_some((data[12], data[13]))
    }
}

fn task(nexus: NexusId, tag: u32) -> Task {
    Task { lu: Some(LU), nexus, tag }
}

/// Nexus, tag, whether it runs, whether it is told TASK ABORTED.
fn hits(aborts: &[Abort]) -> Vec<(NexusId, u32, bool, bool)> {
    aborts.iter().map(|a| (a.task.nexus, a.task.tag, a.running, a.report)).collect()
}

#[test]
fn qerr_0_harms_nobody() {
    let mut q = Queue::new(0, GO_ON, 0);
    let (a, b) = (q.a, q.b);
    q.begin(a, 1, TaskAttribute::Simple);
    q.begin(b, 2, TaskAttribute::Simple);
    assert_eq!(q.fail(a, 3, 0), Ended::default());
    assert_eq!((q.attention(a), q.attention(b)), (None, None));
}

#[test]
fn qerr_1_aborts_the_task_set() {
    for (tas, told) in [(0, Some((0x2F, 0x00))), (TAS, None)] {
        let mut q = Queue::new(0, ABORT_ALL, tas);
        let (a, b) = (q.a, q.b);
        q.begin(a, 1, TaskAttribute::Simple);
        q.begin(b, 2, TaskAttribute::Simple);
        // The failing task; then one that waits for all of them.
        assert!(matches!(q.admit(a, 4, TaskAttribute::Simple, &WRONG), Admission::Run(_)));
        assert!(!q.begin(b, 3, TaskAttribute::Ordered));
        let reply = q.rig.send(a, &WRONG, vec![]);
        let ended = q.rig.device.end(task(a, 4), Some(&reply));
        let report = tas != 0;
        assert_eq!(
            hits(&ended.abort),
            [(a, 1, true, false), (b, 2, true, report), (b, 3, false, report)],
            "the own tasks of the failed nexus get no status (SAM-5, 5.3.3)"
        );
        assert_eq!(ended.release, [], "an aborted task is not released");
        assert_eq!((q.attention(a), q.attention(b)), (None, told), "a status or a unit attention, not both");
        assert!(q.end(a, 1).is_empty() && q.end(b, 2).is_empty());
        assert!(q.begin(a, 5, TaskAttribute::Ordered), "nothing is left");
    }
}

#[test]
fn qerr_3_aborts_only_what_the_failed_nexus_sent() {
    let mut q = Queue::new(0, ABORT_OWN, 0);
    let (a, b) = (q.a, q.b);
    q.begin(a, 1, TaskAttribute::Simple);
    q.begin(b, 2, TaskAttribute::Simple);
    assert_eq!(hits(&q.fail(a, 3, 0).abort), [(a, 1, true, false)]);
    assert_eq!((q.attention(a), q.attention(b)), (None, None));
}

#[test]
fn an_answer_other_than_check_condition_aborts_nothing() {
    let mut q = Queue::new(0, ABORT_ALL, 0);
    let (a, b) = (q.a, q.b);
    for (tag, status) in [(10, Status::Good), (11, Status::ReservationConflict), (12, Status::Busy)] {
        q.begin(b, 1, TaskAttribute::Simple);
        q.begin(a, tag, TaskAttribute::Simple);
        let ended = q.rig.device.end(task(a, tag), Some(&Reply::with_status(status)));
        assert_eq!(ended, Ended::default(), "{status:?}");
        q.end(b, 1);
    }
    q.begin(b, 1, TaskAttribute::Simple);
    q.begin(a, 13, TaskAttribute::Simple);
    assert_eq!(q.rig.device.end(task(a, 13), None), Ended::default(), "an aborted task");
}

#[test]
fn a_reserved_qerr_is_refused_and_pointed_at() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let (cdb, list) = select(0, 2 << 1, 0);
    let sense = rig.sense_with(a, &cdb, list, SenseKey::IllegalRequest, Asc::INVALID_FIELD_IN_PARAMETER_LIST);
    assert_eq!(sense[15..18], [0x80, 0, 4 + 3]);
    let (cdb, list) = select(0x40, 0, 0);
    let sense = rig.sense_with(a, &cdb, list, SenseKey::IllegalRequest, Asc::INVALID_FIELD_IN_PARAMETER_LIST);
    assert_eq!(sense[15..18], [0x80, 0, 4 + 2], "TST 010b");
    let changeable = rig.good(a, &[0x1A, 0x08, 0x4A, 0, 255, 0], vec![]);
    assert_eq!(changeable[6..10], [0x24, 0x06, 0x08, 0x40], "TST and D_SENSE, QERR, SWP, TAS");
}

#[test]
fn saved_task_set_rules_outlive_the_process_and_a_reset() {
    let mut q = Queue::new(SEPARATE, ABORT_OWN, TAS);
    let saved = q.rig.record.take();
    let mut again = Queue { rig: Rig::with(description(saved)), a: q.a, b: q.b };
    (again.a, again.b) = (again.rig.open("a"), again.rig.open("b"));
    let (a, b) = (again.a, again.b);
    let page = again.rig.good(a, &[0x1A, 0x08, 0x0A, 0, 255, 0], vec![]);
    assert_eq!((page[6] & 0xE0, page[7] & 0x06, page[9]), (SEPARATE, ABORT_OWN, TAS));
    again.manage(a, TaskManagement::LogicalUnitReset);
    assert_eq!((again.attention(a), again.attention(b)), (Some((0x29, 0x03)), Some((0x29, 0x03))));
    again.begin(a, 1, TaskAttribute::Simple);
    assert!(again.begin(b, 2, TaskAttribute::Ordered), "in a task set of its own");
    assert_eq!(hits(&again.fail(a, 3, 0).abort), [(a, 1, true, false)]);
}

#[test]
fn without_saving_a_reset_brings_the_defaults_back() {
    let mut q = Queue::new(0, 0, 0);
    let (a, b) = (q.a, q.b);
    let (mut cdb, list) = select(SEPARATE, ABORT_ALL, 0);
    cdb[1] = 0x10;
    q.rig.good(a, &cdb, list);
    q.manage(a, TaskManagement::LogicalUnitReset);
    while q.attention(a).is_some() || q.attention(b).is_some() {}
    q.begin(b, 1, TaskAttribute::Simple);
    assert!(!q.begin(a, 2, TaskAttribute::Ordered), "one task set for all again");
    q.manage(a, TaskManagement::AbortTaskSet);
    assert_eq!(q.fail(a, 3, 0).abort, []);
}

#[test]
fn with_sets_of_their_own_nexuses_do_not_wait_for_each_other() {
    let mut q = Queue::new(SEPARATE, GO_ON, 0);
    let (a, b) = (q.a, q.b);
    assert!(q.begin(a, 1, TaskAttribute::Simple));
    assert!(!q.begin(a, 2, TaskAttribute::Ordered), "waits for its own");
    assert!(!q.begin(a, 3, TaskAttribute::Simple));
    assert!(q.begin(b, 4, TaskAttribute::Ordered) && !q.begin(b, 5, TaskAttribute::Simple));
    assert_eq!(q.end(b, 4), [5]);
    assert_eq!(q.end(a, 1), [2]);
    assert_eq!(q.end(a, 2), [3]);
}

#[test]
fn with_sets_of_their_own_qerr_1_reaches_no_other_nexus() {
    let mut q = Queue::new(SEPARATE, ABORT_ALL, 0);
    let (a, b) = (q.a, q.b);
    q.begin(a, 1, TaskAttribute::Simple);
    q.begin(b, 2, TaskAttribute::Simple);
    assert_eq!(hits(&q.fail(a, 3, 0).abort), [(a, 1, true, false)]);
    let cleared = q.manage(a, TaskManagement::ClearTaskSet);
    assert_eq!(hits(&cleared.abort), [(a, 1, true, false)], "CLEAR TASK SET clears the own one");
    assert_eq!(q.attention(b), None);
    let reset = q.manage(a, TaskManagement::LogicalUnitReset);
    assert_eq!(reset.abort.len(), 2, "a reset reaches all");
}

#[test]
fn with_sets_of_their_own_each_nexus_has_its_own_allegiance() {
    let mut q = Queue::new(SEPARATE, GO_ON, 0);
    let (a, b) = (q.a, q.b);
    q.fail(a, 1, NACA);
    assert_eq!(q.refused(a, TaskAttribute::Simple, &WRITE), Status::AcaActive);
    assert!(q.begin(b, 2, TaskAttribute::Simple), "not governed by it");
    assert_eq!(q.refused(b, TaskAttribute::Aca, &WRITE), Status::CheckCondition, "there is none of b");
    assert_eq!(q.manage(b, TaskManagement::ClearAca).response, ManagementResponse::Complete, "none to clear");
    q.fail(b, 3, NACA);
    assert_eq!(q.refused(b, TaskAttribute::Simple, &WRITE), Status::AcaActive);
    assert_eq!(q.manage(a, TaskManagement::ClearAca).response, ManagementResponse::Complete);
    assert!(q.begin(a, 4, TaskAttribute::Simple));
    assert_eq!(q.refused(b, TaskAttribute::Simple, &WRITE), Status::AcaActive);
    let rig = &mut q.rig;
    rig.device.close_nexus(b);
    let again = rig.open("b");
    assert!(q.begin(again, 5, TaskAttribute::Simple), "an allegiance goes with its nexus");
}

#[test]
fn a_new_rule_holds_for_tasks_that_wait() {
    let mut q = Queue::new(0, GO_ON, 0);
    let (a, b) = (q.a, q.b);
    assert!(q.begin(a, 1, TaskAttribute::Simple));
    assert!(!q.begin(b, 2, TaskAttribute::Ordered));
    let (cdb, list) = select(SEPARATE, GO_ON, 0);
    assert!(matches!(q.admit(a, 3, TaskAttribute::HeadOfQueue, &cdb), Admission::Run(_)));
    q.rig.good(a, &cdb, list);
    assert_eq!(q.end(a, 3), [2], "nothing of b's own set is before it");
}

#[test]
fn qerr_and_an_allegiance_at_once() {
    let mut q = Queue::new(0, ABORT_ALL, 0);
    let (a, b) = (q.a, q.b);
    q.begin(b, 1, TaskAttribute::Simple);
    let ended = q.fail(a, 2, NACA);
    assert_eq!((hits(&ended.abort), ended.release), (vec![(b, 1, true, false)], vec![]));
    assert_eq!(q.refused(b, TaskAttribute::Simple, &WRITE), Status::Busy);
    assert_eq!(q.manage(a, TaskManagement::ClearAca).response, ManagementResponse::Complete);
    assert!(q.begin(b, 3, TaskAttribute::Simple));
}

#[test]
fn a_failed_aca_task_ends_the_allegiance_or_renews_it() {
    let mut q = Queue::new(0, GO_ON, 0);
    let (a, b) = (q.a, q.b);
    q.begin(b, 1, TaskAttribute::Simple);
    assert!(!q.begin(b, 2, TaskAttribute::Ordered));
    // It is ordered after all others, or it would have to wait for them.
    q.fail_as(a, 3, NACA, TaskAttribute::HeadOfQueue);
    assert!(q.end(b, 1).is_empty(), "held tasks are blocked");
    assert_eq!(q.fail_as(a, 4, NACA, TaskAttribute::Aca), Ended::default());
    assert_eq!(q.refused(a, TaskAttribute::Simple, &WRITE), Status::AcaActive, "with NACA: another one");
    let ended = q.fail_as(a, 5, 0, TaskAttribute::Aca);
    assert_eq!(ended.release, [task(b, 2)], "without NACA: it is over (SAM-5, 5.9.5)");
    assert!(!q.begin(a, 6, TaskAttribute::Simple), "after the ordered one, as ever");
}

#[test]
fn what_ends_an_allegiance() {
    type End = fn(&mut Queue);
    let ways: [(&str, End); 5] = [
        ("CLEAR ACA", |q| drop(q.manage(q.a, TaskManagement::ClearAca))),
        ("LOGICAL UNIT RESET", |q| drop(q.manage(q.b, TaskManagement::LogicalUnitReset))),
        ("target reset", |q| drop(q.manage(q.b, TaskManagement::TargetWarmReset))),
        ("nexus reset", |q| drop(q.manage(q.a, TaskManagement::NexusReset))),
        ("nexus loss", |q| drop(q.rig.device.close_nexus(q.a))),
    ];
    for (name, end) in ways {
        let mut q = Queue::new(0, GO_ON, 0);
        q.fail(q.a, 1, NACA);
        assert_eq!(q.refused(q.b, TaskAttribute::Simple, &WRITE), Status::Busy, "{name}");
        end(&mut q);
        assert!(q.begin(q.b, 2, TaskAttribute::Simple), "{name}");
    }
    // These do not.
    let mut q = Queue::new(0, GO_ON, 0);
    q.fail(q.a, 1, NACA);
    let preempt = [0x5F, 0x05, 0, 0, 0, 0, 0, 0, 24, 0];
    assert!(
        matches!(q.admit(q.b, 7, TaskAttribute::Simple, &preempt), Admission::Run(_)),
        "PREEMPT AND ABORT enters"
    );
    assert_eq!(q.manage(q.b, TaskManagement::ClearAca).response, ManagementResponse::Rejected);
    q.manage(q.a, TaskManagement::AbortTaskSet);
    q.manage(q.a, TaskManagement::ClearTaskSet);
    assert_eq!(q.refused(q.b, TaskAttribute::Simple, &WRITE), Status::Busy);
}

mod random {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the rules and the order of events: a task runs once or is aborted while it is held, and when all have ended and no allegiance is
        /// left nobody waits.
        #[test]
        fn nobody_is_forgotten(
            separate: bool, qerr in 0usize..3,
            steps in proptest::collection::vec((0u8..8, 0u8..4, any::<u16>(), any::<bool>()), 1..120),
        ) {
            let tst = if separate { SEPARATE } else { 0 };
            let mut q = Queue::new(tst, [GO_ON, ABORT_ALL, ABORT_OWN][qerr], 0);
            let nexuses = [q.a, q.b];
            let (mut running, mut held) = (Vec::<Task>::new(), Vec::<Task>::new());
            let failed = Reply::check(&Sense::illegal(Asc::INVALID_OPCODE), false);
            for (tag, (what, attribute, pick, naca)) in steps.into_iter().enumerate() {
                let nexus = nexuses[usize::from(pick) % 2];
                let mut ended = Ended::default();
                match what {
                    0..=3 => {
                        let attribute = [TaskAttribute::Simple, TaskAttribute::Ordered, TaskAttribute::HeadOfQueue, TaskAttribute::Aca]
                            [usize::from(attribute)];
                        let mut cdb = WRITE;
                        cdb[9] = if naca { NACA } else { 0 };
                        match q.admit(nexus, tag as u32, attribute, &cdb) {
                            Admission::Run(task) => running.push(task),
                            Admission::Hold(task) => held.push(task),
                            Admission::Refuse(_) => {}
                        }
                    }
                    4..=6 if !running.is_empty() => {
                        let task = running.swap_remove(usize::from(pick) % running.len());
                        let reply = if what == 6 { failed.clone() } else { Reply::good() };
                        ended = q.rig.device.end(task, Some(&reply));
                    }
                    _ => {
                        let managed = q.manage(nexus, TaskManagement::ClearAca);
                        ended = Ended { abort: managed.abort, release: managed.release };
                    }
                }
                settle(ended, &mut running, &mut held)?;
            }
            for nexus in nexuses {
                let managed = q.manage(nexus, TaskManagement::ClearAca);
                settle(Ended { abort: managed.abort, release: managed.release }, &mut running, &mut held)?;
            }
            while let Some(task) = running.pop() {
                let ended = q.rig.device.end(task, Some(&Reply::good()));
                settle(ended, &mut running, &mut held)?;
            }
            prop_assert!(held.is_empty(), "held for ever: {:?}", held);
        }
    }

    fn settle(ended: Ended, running: &mut Vec<Task>, held: &mut Vec<Task>) -> Result<(), TestCaseError> {
        for abort in ended.abort {
            let list = if abort.running { &*running } else { &*held };
            prop_assert!(list.contains(&abort.task), "{:?}", abort);
            held.retain(|task| *task != abort.task);
        }
        for task in ended.release {
            prop_assert!(held.contains(&task), "released once, and only if held");
            held.retain(|other| *other != task);
            running.push(task);
        }
        Ok(())
    }
}
