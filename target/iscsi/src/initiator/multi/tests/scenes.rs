//! Scenes with a script: sessions of several connections, as RFC 7143 tells them.

use core::time::Duration;

use super::world::{Trouble, World, command, contents, offer};
use crate::initiator::Submitted;
use crate::initiator::multi::MultiEvent;
use crate::negotiate::Parameters;
use crate::pdu::{Cid, LogoutReason, LogoutResponseCode, Lun, TaskFunction, TaskResponseCode};
use crate::target::TaskManagementResponse;

fn world(level: u8, links: u16) -> World {
    let mut world = World::new(1, offer(level, links), |_| {});
    world.run(|world| world.host.open_links() == 1);
    for cid in 1..links {
        world.connect(cid);
    }
    world.run(|world| world.host.open_links() == usize::from(links));
    world.events.clear();
    world
}

fn submit(world: &mut World, ids: core::ops::Range<u64>) {
    for id in ids {
        assert_eq!(world.host.submit(command(id, id % 2 == 0, id, 3000)), Submitted::Accepted);
    }
}

fn executed_once(world: &World, ids: core::ops::Range<u64>) {
    for id in ids {
        assert_eq!(world.store.executed.get(&id), Some(&1), "command {id}");
    }
}

#[test]
fn a_session_has_as_many_connections_as_were_negotiated() {
    let mut world = world(0, 2);
    assert_eq!(world.session.as_ref().unwrap().open_connections(), 2);
    let third = world.connect(7);
    world.run(|world| {
        world.events.iter().any(|event| matches!(event, MultiEvent::LinkLost { id, .. } if *id == third))
            || world.host.open_links() == 3
    });
    assert_eq!(world.host.open_links(), 2, "the third is refused");
    assert!(!world.host.is_over() && !world.over, "and the session lives");
}

#[test]
fn commands_of_all_connections_are_one_stream() {
    let mut world = world(0, 4);
    submit(&mut world, 1..41);
    world.run(|world| world.completed.len() == 40);
    executed_once(&world, 1..41);
}

#[test]
fn a_connection_leaves_and_the_session_goes_on() {
    let mut world = world(0, 3);
    assert_eq!(world.host.logout(LogoutReason::CLOSE_CONNECTION, Cid(1)), Submitted::Accepted);
    world.run(|world| !world.events.is_empty());
    assert_eq!(world.events[0], MultiEvent::LoggedOut { response: LogoutResponseCode::CLOSED });
    submit(&mut world, 1..10);
    world.run(|world| world.completed.len() == 9);
    assert_eq!(world.session.as_ref().unwrap().open_connections(), 2);
    for cid in [0, 2] {
        assert_eq!(world.host.logout(LogoutReason::CLOSE_CONNECTION, Cid(cid)), Submitted::Accepted);
        world.run(|world| world.host.open_links() == usize::from(cid == 0));
        world.run(|world| world.host.outstanding() == 0);
    }
    world.run(|world| world.over);
}

#[test]
fn the_session_leaves_with_all_connections() {
    let mut world = world(1, 3);
    world.hold = true;
    submit(&mut world, 1..4);
    world.run(|world| world.work.len() == 3);
    assert_eq!(world.host.logout(LogoutReason::CLOSE_SESSION, Cid(0)), Submitted::Accepted);
    world.run(|world| world.over);
    assert!(world.work.is_empty(), "their tasks were ended");
}

/// Level 0: nothing outlives a connection.
#[test]
fn at_level_0_the_session_ends_with_a_connection() {
    let mut world = world(0, 2);
    let link = world.link_of(1).unwrap();
    world.cut(link, true);
    world.run(|world| world.over);
    assert!(world.host.is_over());
}

/// A command that was executed while its connection was gone, and one whose answer was lost: neither is executed again.
#[test]
fn tasks_go_on_over_another_connection() {
    let mut world = world(2, 1);
    world.hold = true;
    submit(&mut world, 1..5);
    world.run(|world| world.work.len() == 4);
    let link = world.link_of(0).unwrap();
    // What the target answers before it hears of the end is lost.
    world.cut(link, false);
    world.hold = false;
    world.run(|world| world.completed.len() == 4);
    executed_once(&world, 1..5);
    for done in &world.completed {
        assert!(done.is_good());
        if done.tag % 2 == 1 {
            assert_eq!(done.data, contents(done.tag, 3000));
        }
    }
}

/// Nobody comes back: the tasks are ended when Time2Wait and Time2Retain are over, and the session with them.
#[test]
fn tasks_are_not_kept_for_ever() {
    let mut world = world(2, 1);
    world.hold = true;
    submit(&mut world, 1..5);
    world.run(|world| world.work.len() == 4);
    let session = world.session.as_mut().unwrap();
    let before = session.next_timeout();
    let (lead, now) = (world.lead.unwrap(), world.now);
    session.release(lead, now);
    assert!(before.is_some() && !session.is_over());
    assert_eq!(session.outstanding(), 4, "they wait");
    let until = session.next_timeout().expect("a limit");
    assert_eq!(until, now + Duration::from_secs(20));
    session.on_timeout(until - Duration::from_millis(1));
    assert!(!session.is_over());
    session.on_timeout(until);
    assert!(session.is_over());
    assert_eq!(session.outstanding(), 0);
}

/// A function is answered when all that was answered before it has arrived, on every connection (section 11.6.1).
#[test]
fn a_function_is_answered_behind_the_fence() {
    let mut world = world(1, 3);
    world.hold = true;
    submit(&mut world, 1..7);
    world.run(|world| world.work.len() == 6);
    assert_eq!(world.host.manage_lun(100, TaskFunction::LOGICAL_UNIT_RESET, Lun::ZERO), Submitted::Accepted);
    world.run(|world| !world.functions.is_empty());
    // One command is answered just before the function, the others are aborted by it.
    let done = world.work.remove(0);
    let rest: Vec<u32> = world.work.drain(..).map(|command| command.tag).collect();
    let session = world.session.as_mut().unwrap();
    session.respond(done.tag, crate::target::ScsiResponse::written(3000));
    for tag in rest {
        session.abandon(tag);
    }
    let function = world.functions.remove(0);
    session.respond_task_management(function, TaskManagementResponse::Complete, [0; 3]);
    world.run(|world| world.events.iter().any(|event| matches!(event, MultiEvent::TaskManagement { .. })));
    assert_eq!(world.completed.len(), 1, "the answer came before the function's");
    assert_eq!(world.events.iter().filter(|e| matches!(e, MultiEvent::Aborted { .. })).count(), 5);
    let last = world.events.last();
    let response = Some(TaskResponseCode::COMPLETE);
    assert_eq!(last, Some(&MultiEvent::TaskManagement { tag: 100, response }));
    assert_eq!(world.host.outstanding(), 0);
}

/// TaskReporting=ResponseFence: a unit attention stands between what was answered before it and after it, on whatever connection
/// (section 4.2.2.3.3). The wires are of different length, so without fences the order is anybody's guess.
#[test]
fn a_unit_attention_stands_between_responses_of_all_connections() {
    for seed in 0..20 {
        let fenced = Parameters { response_fence: true, ..offer((seed % 3) as u8, 3) };
        let mut world = World::new(seed, fenced, |_| {});
        world.run(|world| world.host.open_links() == 1);
        for cid in 1..3 {
            world.connect(cid);
        }
        world.run(|world| world.host.open_links() == 3);
        assert!(world.host.parameters().response_fence);
        world.hold = true;
        submit(&mut world, 1..10);
        world.run(|world| world.work.len() == 9);
        let answers: Vec<(u32, u64)> = world
            .work
            .drain(..)
            .map(|c| (c.tag, u64::from_be_bytes(c.cdb[2..10].try_into().unwrap())))
            .collect();
        let session = world.session.as_mut().unwrap();
        for (at, (tag, _)) in answers.iter().enumerate() {
            let attention =
                crate::target::ScsiResponse::check_condition(bytes::Bytes::from_static(&[0x70, 0, 6]));
            // Two fences, one right behind the other.
            let fences = at == 3 || at == 4;
            session.respond(*tag, if fences { attention } else { crate::target::ScsiResponse::good() });
        }
        world.run(|world| world.completed.len() == 9);
        let place = |at: usize| world.completed.iter().position(|done| done.tag == answers[at].1).unwrap();
        for (before, after) in [(0, 3), (1, 3), (2, 3), (3, 4), (4, 5), (4, 6), (4, 7), (4, 8)] {
            assert!(place(before) < place(after), "seed {seed}: {before} before {after}");
        }
        assert_eq!(world.host.outstanding(), 0);
    }
}

/// The stall timer of the target brings back data that was lost with the end of its sequence.
#[test]
fn the_end_of_a_sequence_may_get_lost() {
    for seed in 0..20 {
        let mut world = World::new(seed, offer(1, 1), |config| {
            config.timers.sequence = Duration::from_millis(100);
        });
        world.run(|world| world.host.open_links() == 1);
        world.trouble = Trouble { drop: 5, ..Trouble::default() };
        assert_eq!(world.host.submit(command(2, true, 2, 20_000)), Submitted::Accepted);
        world.run(|world| world.completed.len() == 1);
        assert!(world.completed[0].is_good(), "{:?}", world.completed);
        executed_once(&world, 2..3);
    }
}
