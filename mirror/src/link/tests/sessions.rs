//! What a session promises.

use super::*;

#[test]
fn requests_are_answered_in_both_directions_at_once() {
    with_pair(1, async |world, east, west| {
        let (to_west, to_east) = (east.peer("west"), west.peer("east"));
        let _holds = (to_west.connect(), to_east.connect());
        let (there, back) = (session(world, &to_west).await, session(world, &to_east).await);
        assert_ne!(there.id(), back.id());
        for session in [there, back] {
            ask(&session, control("hello")).await.expect("answered");
            ask(&session, write(8192, 4096)).await.expect("answered");
            ask(&session, write(0, MAX_DATA as u64)).await.expect("answered");
            ask(&session, data(ByteRange::new(512, MAX_DATA as u64), DataOp::Read)).await.expect("answered");
            ask(&session, data(ByteRange::default(), DataOp::Flush)).await.expect("answered");
            let whole = ByteRange::new(0, 1 << 50);
            let zero = DataOp::WriteZeroes { may_unmap: true, stable: false };
            ask(&session, data(whole, zero)).await.expect("answered");
            ask(&session, data(whole, DataOp::Unmap)).await.expect("answered");
        }
        let status = to_west.status();
        assert_eq!(status.reachability, Reachability::Reachable);
        assert!(status.session.is_some() && status.serving.is_some() && status.session != status.serving);
    });
}

#[test]
fn both_ends_name_a_session_alike() {
    with_pair(2, async |world, east, west| {
        let peer = east.peer("west");
        let _hold = peer.connect();
        let session = session(world, &peer).await;
        assert_eq!(west.echo.open.borrow().values().copied().collect::<Vec<_>>(), [session.id()]);
        assert_eq!(west.peer("east").status().serving, Some(session.id()));
    });
}

#[test]
fn a_connection_is_kept_only_while_it_is_held() {
    with_pair(3, async |world, east, west| {
        let peer = east.peer("west");
        world.shard().sleep(LONG).await;
        assert_eq!(peer.status().reachability, Reachability::Idle);
        assert_eq!(west.echo.opened.get(), 0);
        let (first, second) = (peer.connect(), peer.connect());
        let session = session(world, &peer).await;
        drop(first);
        world.shard().sleep(LONG).await;
        assert!(session.is_alive(), "still held");
        drop(second);
        assert_eq!(&*session.closed().await, "no longer needed");
        until(world, &peer, |status| status.reachability == Reachability::Idle).await;
        west.echo.closed.wait_for(|closed| *closed == 1).await;
        let _again = peer.connect();
        super::session(world, &peer).await;
    });
}

#[test]
fn the_window_bounds_what_runs_and_starves_nobody() {
    let mut west = config("west", &[("east", EAST)]);
    west.limits.requests_in_flight = 4;
    west.limits.bytes_in_flight = MAX_DATA as u32;
    with_units(4, config("east", &[("west", WEST)]), west, async |world, east, west| {
        let peer = east.peer("west");
        let _hold = peer.connect();
        let session = session(world, &peer).await;
        west.echo.gate.set(false);
        let done = Rc::new(Cell::new(0));
        for number in 0..40u64 {
            let (session, done) = (session.clone(), Rc::clone(&done));
            east.process.spawn(async move {
                // Every tenth fills the whole window.
                let len = if number % 10 == 0 { MAX_DATA as u64 } else { 4096 };
                ask(&session, write(number << 23, len)).await.expect("answered");
                done.set(done.get() + 1);
            });
        }
        world.shard().sleep(LONG).await;
        let running = west.echo.running.get();
        assert!((1..=4).contains(&running) && done.get() == 0, "{running} run, {} are done", done.get());
        west.echo.gate.set(true);
        while done.get() < 40 {
            world.shard().sleep(Duration::from_millis(1)).await;
        }
        assert!(west.echo.most.get() <= 4, "{} ran at a time", west.echo.most.get());
        assert!(west.echo.most.get() > 1, "requests run concurrently");
    });
}

#[test]
fn a_dead_link_costs_no_more_than_the_configured_time() {
    for (seed, cut) in ["both", "there", "back"].into_iter().enumerate() {
        with_pair(seed as u64, async |world, east, west| {
            let peer = east.peer("west");
            let _hold = peer.connect();
            let session = session(world, &peer).await;
            west.echo.gate.set(false);
            let link = world.link("east", "west");
            link.set_after_cut([1, 0, 0]);
            match cut {
                "both" => link.cut(),
                "there" => link.cut_forward(),
                _ => link.cut_backward(),
            }
            let began = world.now();
            // L1, R-FL-5
            let lost = ask(&session, control("anyone?")).await.expect_err("nobody hears it");
            let timing = Timing::default();
            // Where only the way there is cut, the peer sees silence and closes the connection; that takes no longer.
            assert!(world.now() - began <= timing.dead_after + timing.heartbeat, "{:?}", world.now() - began);
            assert!(!session.is_alive() && peer.session().is_none());
            assert!(ask(&session, control("still?")).await.is_err(), "a dead session is never revived");
            let status = unreachable(world, &peer).await;
            assert!(status.reason.is_some(), "{lost}");
            west.echo.gate.set(true);
            link.heal();
            let next = super::session(world, &peer).await;
            assert_ne!(next.id(), session.id());
            ask(&next, write(0, 65536)).await.expect("answered");
            assert_eq!(peer.status().reason, None);
        });
    }
}

#[test]
fn a_new_session_waits_for_the_old_ones_requests() {
    with_pair(6, async |world, east, west| {
        let peer = east.peer("west");
        let _hold = peer.connect();
        let first = session(world, &peer).await;
        west.echo.gate.set(false);
        let (asking, shard) = (first.clone(), east.process.shard());
        let lost = Rc::new(Cell::new(false));
        let outcome = Rc::clone(&lost);
        shard.spawn(async move { outcome.set(ask(&asking, write(0, 4096)).await.is_err()) });
        west.echo.wait_running(&world.shard(), 1).await;
        world.link("east", "west").reset();
        first.closed().await;
        // The disk under the old write hangs for two minutes: the peer lives, but takes nothing (L2).
        world.shard().sleep(LONG).await;
        assert!(lost.get(), "the request was lost at once, not kept");
        assert_eq!((west.echo.opened.get(), west.echo.closed.get()), (1, 0));
        assert!(peer.session().is_none());
        west.echo.gate.set(true);
        let second = session(world, &peer).await;
        assert_eq!((west.echo.opened.get(), west.echo.closed.get()), (2, 1));
        ask(&second, write(0, 4096)).await.expect("answered");
    });
}

#[test]
fn a_unit_that_comes_back_supersedes_its_own_ghost() {
    with_pair(7, async |world, east, west| {
        let peer = east.peer("west");
        let _hold = peer.connect();
        session(world, &peer).await;
        east.process.power_cut();
        // Back before the ghost was silent for long enough to be dead.
        let east = Unit::start(world, EAST, config("east", &[("west", WEST)])).await;
        let peer = east.peer("west");
        let _hold = peer.connect();
        let began = world.now();
        let session = session(world, &peer).await;
        assert!(world.now() - began < Timing::default().dead_after);
        ask(&session, control("it is me")).await.expect("answered");
        assert_eq!((west.echo.opened.get(), west.echo.closed.get()), (2, 1));
    });
}

#[test]
fn of_many_newcomers_only_the_last_waits() {
    with_pair(8, async |world, east, west| {
        let peer = east.peer("west");
        let mut hold = Some(peer.connect());
        let first = session(world, &peer).await;
        west.echo.gate.set(false);
        let asking = first.clone();
        east.process.spawn(async move { drop(ask(&asking, write(0, 512)).await) });
        west.echo.wait_running(&world.shard(), 1).await;
        for _ in 0..20 {
            drop(hold.take());
            until(world, &peer, |status| status.reachability == Reachability::Idle).await;
            hold = Some(peer.connect());
            world.shard().sleep(Duration::from_millis(500)).await;
        }
        // Accepting, dialling, the one that is served and the one that waits.
        assert!(west.process.jobs() <= 5, "{} jobs", west.process.jobs());
        west.echo.gate.set(true);
        let last = session(world, &peer).await;
        ask(&last, control("the last")).await.expect("answered");
        assert_eq!((west.echo.opened.get(), west.echo.closed.get()), (2, 1));
    });
}

#[test]
fn stopping_waits_for_requests_and_tells_the_peer() {
    with_pair(9, async |world, east, west| {
        let peer = east.peer("west");
        let _hold = peer.connect();
        let session = session(world, &peer).await;
        west.echo.gate.set(false);
        let asking = session.clone();
        east.process.spawn(async move { drop(ask(&asking, write(0, 512)).await) });
        west.echo.wait_running(&world.shard(), 1).await;
        let stopped = Rc::new(Cell::new(false));
        let (link, done) = (west.link.clone(), Rc::clone(&stopped));
        west.process.spawn(async move {
            link.stop().await;
            done.set(true);
        });
        assert_eq!(&*session.closed().await, "peer ended the session: the unit stops");
        world.shard().sleep(LONG).await;
        assert!(!stopped.get(), "a request still runs");
        west.echo.gate.set(true);
        west.echo.closed.wait_for(|closed| *closed == 1).await;
        world.shard().sleep(Duration::from_secs(1)).await;
        assert!(stopped.get());
        assert_eq!(west.process.jobs(), 0);
        east.link.stop().await;
        assert_eq!(east.process.jobs(), 0);
    });
}

#[test]
fn a_caller_that_cannot_wait_ends_the_session() {
    with_pair(10, async |world, east, west| {
        let peer = east.peer("west");
        let _hold = peer.connect();
        let session = session(world, &peer).await;
        west.echo.gate.set(false);
        let asking = session.clone();
        let request = async { asking.request(control("slow")).await };
        let impatient = async {
            west.echo.wait_running(&world.shard(), 1).await;
            session.abort("a request took too long");
        };
        let (outcome, ()) = futures_util::future::join(request, impatient).await;
        assert_eq!(outcome, Err(LinkLost { reason: Rc::from("a request took too long") }));
        west.echo.gate.set(true);
        super::session(world, &peer).await;
        assert_eq!(west.echo.closed.get(), 1);
    });
}

#[test]
fn a_process_that_stood_still_reads_before_it_judges_silence() {
    with_pair(11, async |world, east, west| {
        let peer = east.peer("west");
        let _hold = peer.connect();
        let session = session(world, &peer).await;
        east.process.pause();
        world.shard().sleep(Duration::from_millis(2900)).await;
        east.process.resume();
        ask(&session, control("good morning")).await.expect("the session lived on");
        // Both stood still for long: nobody was silent by choice, and nobody has heard anything for too long.
        east.process.pause();
        west.process.pause();
        world.shard().sleep(LONG).await;
        east.process.resume();
        west.process.resume();
        let next = super::session(world, &peer).await;
        let mut alive = next;
        while ask(&alive, control("again")).await.is_err() {
            alive = super::session(world, &peer).await;
        }
    });
}

#[test]
fn addresses_are_tried_in_turn() {
    let mut east = config("east", &[("west", WEST)]);
    east.peers[0].addresses.insert(0, SocketAddr::new(IpAddr::from(WEST), 9));
    with_units(12, east, config("west", &[("east", EAST)]), async |world, east, _west| {
        let peer = east.peer("west");
        let _hold = peer.connect();
        session(world, &peer).await;
        assert_eq!(peer.status().failed_attempts, 0);
    });
}

#[test]
fn an_unreachable_peer_says_why_and_since_when() {
    with_pair(13, async |world, east, west| {
        west.process.kill();
        let peer = east.peer("west");
        let _hold = peer.connect();
        let status = unreachable(world, &peer).await;
        let reason = status.reason.expect("a reason");
        assert!(reason.starts_with("10.0.0.2:7400: cannot connect"), "{reason}");
        let later = until(world, &peer, |status| status.failed_attempts > 10).await;
        assert_eq!(later.since, status.since);
    });
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let refused = |change: fn(&mut LinkConfig)| {
        let mut config = config("east", &[("west", WEST)]);
        change(&mut config);
        config.check().expect_err("wrong")
    };
    assert!(refused(|config| config.peers[0].unit = "east".to_owned()).contains("named twice"));
    assert!(refused(|config| config.unit = "no spaces".to_owned()).contains("not a unit's name"));
    assert!(refused(|config| config.timing.dead_after = Duration::from_secs(1)).contains("heartbeats"));
    assert!(refused(|config| config.limits.bytes_in_flight = 4096).contains("room"));
    assert_eq!(LinkKey::new(vec![1; 15]).err(), Some(KeyTooShort { len: 15 }));
    assert_eq!(format!("{:?}", key()), "LinkKey(…)");
}
