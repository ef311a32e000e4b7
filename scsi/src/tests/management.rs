//! Task sets and task management.

use super::*;

const WRITE: [u8; 10] = [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0];

struct Tasks {
    rig: Rig,
    a: NexusId,
    b: NexusId,
}

impl Tasks {
    fn new() -> Self {
        let mut rig = Rig::new();
        let (a, b) = (rig.open("a"), rig.open("b"));
        Self { rig, a, b }
    }

    /// Whether the task may run at once.
    #[track_caller]
    fn begin(&mut self, nexus: NexusId, tag: u32, attribute: TaskAttribute) -> bool {
        match self.rig.device.begin(nexus, lun(0), tag, attribute, &WRITE) {
            Admission::Run(_) => true,
            Admission::Hold(_) => false,
            Admission::Refuse(reply) => panic!("refused: {reply:?}"),
        }
    }

    fn task(nexus: NexusId, tag: u32) -> Task {
        Task { lu: Some(LU), nexus, tag }
    }

    fn end(&mut self, nexus: NexusId, tag: u32) -> Vec<u32> {
        let task = Self::task(nexus, tag);
        self.rig.device.end(task, Some(&Reply::good())).release.iter().map(|t| t.tag).collect()
    }

    fn manage(&mut self, nexus: NexusId, function: TaskManagement) -> Managed {
        self.rig.device.manage(nexus, lun(0), function)
    }

    fn attention(&mut self, nexus: NexusId) -> Option<(u8, u8)> {
        let data = self.rig.good(nexus, &[0x03, 0, 0, 0, 18, 0], vec![]);
        (data[2] == 6).then_some((data[12], data[13]))
    }
}

fn hits(managed: &Managed) -> Vec<(NexusId, u32, bool)> {
    managed.abort.iter().map(|a| (a.task.nexus, a.task.tag, a.running)).collect()
}

#[test]
fn order_is_kept_where_it_is_asked_for() {
    use TaskAttribute::{HeadOfQueue, Ordered, Simple};
    let mut t = Tasks::new();
    let a = t.a;
    assert!(t.begin(a, 1, Simple) && t.begin(a, 2, Simple));
    assert!(!t.begin(a, 3, Ordered), "waits for 1 and 2");
    assert!(!t.begin(a, 4, Simple), "waits for 3");
    assert!(t.begin(a, 5, HeadOfQueue), "waits for nobody");
    assert!(!t.begin(a, 6, Ordered));
    assert!(t.end(a, 2).is_empty());
    assert!(t.end(a, 1).is_empty(), "5 is still there");
    assert_eq!(t.end(a, 5), [3]);
    assert_eq!(t.end(a, 3), [4]);
    assert_eq!(t.end(a, 4), [6]);
    assert!(t.end(a, 6).is_empty());
    assert!(t.begin(a, 7, Ordered), "alone");
}

#[test]
fn aborting_one_task() {
    let mut t = Tasks::new();
    let (a, b) = (t.a, t.b);
    t.begin(a, 1, TaskAttribute::Simple);
    t.begin(b, 1, TaskAttribute::Simple);
    let managed = t.manage(a, TaskManagement::AbortTask { tag: 1 });
    assert_eq!((managed.response, hits(&managed)), (ManagementResponse::Complete, vec![(a, 1, true)]));
    assert_eq!(t.manage(a, TaskManagement::QueryTask { tag: 1 }).response, ManagementResponse::Succeeded);
    t.rig.device.end(Tasks::task(a, 1), None);
    let again = t.manage(a, TaskManagement::AbortTask { tag: 1 });
    assert_eq!(again.response, ManagementResponse::TaskDoesNotExist);
    assert_eq!(t.manage(a, TaskManagement::QueryTaskSet).response, ManagementResponse::Complete);
    assert_eq!(t.manage(b, TaskManagement::QueryTaskSet).response, ManagementResponse::Succeeded);
    let nowhere = t.rig.device.manage(a, lun(5), TaskManagement::AbortTaskSet);
    assert_eq!(nowhere.response, ManagementResponse::LunDoesNotExist);
}

#[test]
fn an_aborted_hold_lets_the_next_go() {
    let mut t = Tasks::new();
    let (a, b) = (t.a, t.b);
    t.begin(a, 1, TaskAttribute::Simple);
    assert!(!t.begin(b, 2, TaskAttribute::Ordered));
    assert!(!t.begin(a, 3, TaskAttribute::Simple));
    let managed = t.manage(b, TaskManagement::AbortTaskSet);
    assert_eq!(hits(&managed), [(b, 2, false)]);
    assert_eq!(managed.release, [Tasks::task(a, 3)]);
}

#[test]
fn clearing_a_task_set_tells_the_others() {
    let mut t = Tasks::new();
    let (a, b) = (t.a, t.b);
    t.begin(a, 1, TaskAttribute::Simple);
    t.begin(b, 2, TaskAttribute::Simple);
    let managed = t.manage(a, TaskManagement::ClearTaskSet);
    assert_eq!(hits(&managed), [(a, 1, true), (b, 2, true)]);
    assert!(managed.abort.iter().all(|abort| !abort.report), "TAS is off");
    assert_eq!((t.attention(a), t.attention(b)), (None, Some((0x2F, 0x00))));
}

#[test]
fn with_tas_the_others_get_a_status_instead() {
    let mut t = Tasks::new();
    let (a, b) = (t.a, t.b);
    let list = [0, 0, 0, 0, 0x0A, 0x0A, 0x02, 0x10, 0, 0x40, 0, 0, 0xFF, 0xFF, 0, 0];
    t.rig.good(a, &[0x15, 0x10, 0, 0, 16, 0], list.to_vec());
    assert_eq!(t.attention(b), Some((0x2A, 0x01)));
    t.begin(a, 1, TaskAttribute::Simple);
    t.begin(b, 2, TaskAttribute::Simple);
    let managed = t.manage(a, TaskManagement::ClearTaskSet);
    let reports: Vec<bool> = managed.abort.iter().map(|abort| abort.report).collect();
    assert_eq!(reports, [false, true]);
    assert_eq!(t.attention(b), None);
}

#[test]
fn resets_reach_everybody() {
    let resets = [
        (TaskManagement::LogicalUnitReset, (0x29, 0x03)),
        (TaskManagement::TargetWarmReset, (0x29, 0x02)),
        (TaskManagement::TargetColdReset, (0x29, 0x02)),
    ];
    for (function, told) in resets {
        let mut t = Tasks::new();
        let (a, b) = (t.a, t.b);
        t.rig.good(b, &[0x16, 0, 0, 0, 0, 0], vec![]);
        t.begin(a, 1, TaskAttribute::Simple);
        t.begin(b, 2, TaskAttribute::Ordered);
        let managed = t.manage(a, function);
        assert_eq!(hits(&managed), [(a, 1, true), (b, 2, false)]);
        assert_eq!((t.attention(a), t.attention(b)), (Some(told), Some(told)));
        t.rig.good(a, &[0x16, 0, 0, 0, 0, 0], vec![]);
    }
}

#[test]
fn a_nexus_reset_is_its_own_affair() {
    let mut t = Tasks::new();
    let (a, b) = (t.a, t.b);
    t.rig.good(a, &[0x16, 0, 0, 0, 0, 0], vec![]);
    t.begin(a, 1, TaskAttribute::Simple);
    t.begin(b, 2, TaskAttribute::Simple);
    assert_eq!(hits(&t.manage(a, TaskManagement::NexusReset)), [(a, 1, true)]);
    assert_eq!((t.attention(a), t.attention(b)), (Some((0x29, 0x07)), None));
    t.rig.good(b, &[0x16, 0, 0, 0, 0, 0], vec![]);
}

#[test]
fn a_target_reset_stays_within_what_the_initiator_sees() {
    let mut t = Tasks::new();
    let other = LuId(8);
    t.rig.device.add_lu(other, description(None));
    let c = t.rig.device.open_nexus(initiator("c"), port(1), [(0, other)].into_iter().collect());
    t.rig.device.execute(c, lun(0), Command::new(0, &[0; 16], Payload::new()));
    t.manage(t.a, TaskManagement::TargetWarmReset);
    assert_eq!(t.attention(c), None);
}

#[test]
fn closing_a_nexus_aborts_its_tasks() {
    let mut t = Tasks::new();
    let (a, b) = (t.a, t.b);
    t.begin(a, 1, TaskAttribute::Ordered);
    assert!(!t.begin(a, 2, TaskAttribute::Ordered));
    assert!(!t.begin(b, 3, TaskAttribute::Simple));
    let managed = t.rig.device.close_nexus(a);
    assert_eq!(hits(&managed), [(a, 1, true), (a, 2, false)]);
    assert_eq!(t.end(a, 1), [3]);
    let gone = t.rig.send(a, &[0; 6], vec![]);
    assert_eq!(gone.status, Status::TaskAborted);
}

#[test]
fn a_full_task_set_says_so() {
    let mut t = Tasks::new();
    let a = t.a;
    for tag in 0..MAX_TASKS as u32 {
        assert!(t.begin(a, tag, TaskAttribute::Simple));
    }
    let next = t.rig.device.begin(a, lun(0), u32::MAX, TaskAttribute::Simple, &WRITE);
    assert!(matches!(next, Admission::Refuse(reply) if reply.status == Status::TaskSetFull));
}

#[test]
fn auto_contingent_allegiance() {
    let mut t = Tasks::new();
    let (a, b) = (t.a, t.b);
    let naca = [0x28, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 1, 0x04];
    let begin = |t: &mut Tasks, nexus, tag, attribute, cdb: &[u8]| {
        t.rig.device.begin(nexus, lun(0), tag, attribute, cdb)
    };
    let refused = |admission| match admission {
        Admission::Refuse(reply) => reply.status,
        other => panic!("{other:?}"),
    };
    let no_cause = begin(&mut t, a, 1, TaskAttribute::Aca, &WRITE);
    assert_eq!(refused(no_cause), Status::CheckCondition);
    let failing = begin(&mut t, a, 2, TaskAttribute::Simple, &naca);
    assert!(matches!(failing, Admission::Run(_)));
    assert!(!t.begin(b, 3, TaskAttribute::Ordered));
    let reply = t.rig.send(a, &naca, vec![]);
    assert_eq!(reply.status, Status::CheckCondition);
    assert!(t.rig.device.end(Tasks::task(a, 2), Some(&reply)).release.is_empty(), "held tasks are blocked");
    assert_eq!(refused(begin(&mut t, a, 4, TaskAttribute::Simple, &WRITE)), Status::AcaActive);
    assert_eq!(refused(begin(&mut t, b, 4, TaskAttribute::Simple, &WRITE)), Status::Busy);
    assert_eq!(refused(begin(&mut t, b, 4, TaskAttribute::Simple, &naca)), Status::AcaActive);
    assert!(matches!(begin(&mut t, a, 5, TaskAttribute::Aca, &WRITE), Admission::Run(_)));
    assert_eq!(refused(begin(&mut t, a, 6, TaskAttribute::Aca, &WRITE)), Status::AcaActive);
    assert_eq!(t.manage(b, TaskManagement::ClearAca).response, ManagementResponse::Rejected);
    assert!(t.end(a, 5).is_empty());
    let managed = t.manage(a, TaskManagement::ClearAca);
    assert_eq!(managed.release, [Tasks::task(b, 3)]);
}

mod random {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every task that was admitted runs once or is aborted while held, whatever the order of events.
        #[test]
        fn nobody_is_forgotten(steps in proptest::collection::vec((0u8..6, 0u8..3, any::<u16>()), 1..120)) {
            let mut t = Tasks::new();
            let nexuses = [t.a, t.b];
            let (mut running, mut held) = (Vec::<Task>::new(), Vec::<Task>::new());
            for (tag, (what, attribute, pick)) in steps.into_iter().enumerate() {
                let nexus = nexuses[usize::from(pick) % 2];
                let mut release = Vec::new();
                match what {
                    0..=2 => {
                        let attribute = [TaskAttribute::Simple, TaskAttribute::Ordered, TaskAttribute::HeadOfQueue]
                            [usize::from(attribute)];
                        match t.rig.device.begin(nexus, lun(0), tag as u32, attribute, &WRITE) {
                            Admission::Run(task) => running.push(task),
                            Admission::Hold(task) => held.push(task),
                            Admission::Refuse(_) => prop_assert!(false),
                        }
                    }
                    3..=4 if !running.is_empty() => {
                        let task = running.swap_remove(usize::from(pick) % running.len());
                        release = t.rig.device.end(task, Some(&Reply::good())).release;
                    }
                    _ => {
                        let managed = t.manage(nexus, TaskManagement::AbortTaskSet);
                        for abort in managed.abort {
                            let list = if abort.running { &running } else { &held };
                            prop_assert!(list.contains(&abort.task));
                            if !abort.running { held.retain(|task| *task != abort.task); }
                        }
                        release = managed.release;
                    }
                }
                for task in release {
                    prop_assert!(held.contains(&task), "released once, and only if held");
                    held.retain(|other| *other != task);
                    running.push(task);
                }
                prop_assert!(held.is_empty() || !running.is_empty(), "somebody runs, or the held would wait for ever");
            }
        }
    }
}
