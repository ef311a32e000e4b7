//! Everything at once, from many seeds: L1, L2 (checked by [`Echo`]) and that the link comes back.

use super::*;

/// One run; gives the hash of all that happened.
fn run(seed: u64) -> u64 {
    let world = World::new(seed, WorldOptions::default());
    let done = world.run(async {
        let mut west = Unit::start(&world, WEST, config("west", &[("east", EAST)])).await;
        let mut east = Unit::start(&world, EAST, config("east", &[("west", WEST)])).await;
        let outcomes = Rc::new(Cell::new((0u64, 0u64, 0u64)));
        let mut hold = clients(&east, &outcomes);
        let mut rng = world.rng("faults");
        let link = world.link("east", "west");
        for _ in 0..60 {
            world.shard().sleep(Duration::from_millis(rng.range(1..=3000))).await;
            match rng.below(12) {
                0 => link.cut(),
                1 => link.cut_forward(),
                2 => link.cut_backward(),
                3 | 4 => link.heal(),
                5 => link.reset(),
                6 => link.corrupt_next(1),
                7 => link.clog(Duration::from_millis(rng.range(0..=2000))),
                8 => {
                    west.echo.gate.update(|open| *open = !*open);
                }
                9 => {
                    east.process.pause();
                    world.shard().sleep(Duration::from_millis(rng.range(1..=8000))).await;
                    east.process.resume();
                }
                10 => {
                    if rng.chance(1, 2) {
                        west.process.kill();
                    } else {
                        west.process.power_cut();
                    }
                    west = Unit::start(&world, WEST, config("west", &[("east", EAST)])).await;
                }
                _ => {
                    if rng.chance(1, 2) {
                        east.process.kill();
                    } else {
                        east.process.power_cut();
                    }
                    // What its dead life had asked has no outcome that anyone could see.
                    outcomes.set((0, 0, 0));
                    east = Unit::start(&world, EAST, config("east", &[("west", WEST)])).await;
                    hold = clients(&east, &outcomes);
                }
            }
        }
        // Left alone, the link comes back (I7), and nothing that was asked is still without an outcome (L1).
        link.heal();
        link.clog(Duration::ZERO);
        link.corrupt_next(0);
        west.echo.gate.set(true);
        let before = outcomes.get().1;
        let converged = async {
            while outcomes.get().1 < before + 50 {
                world.shard().sleep(Duration::from_millis(10)).await;
            }
        };
        let peer = east.peer("west");
        let healed = world.shard().timeout(LONG, converged).await;
        assert!(healed.is_ok(), "seed {seed}: {:?}", peer.status());
        drop(hold);
        until(&world, &peer, |status| status.reachability == Reachability::Idle).await;
        while west.echo.running.get() > 0 || !west.echo.open.borrow().is_empty() {
            world.shard().sleep(Duration::from_millis(10)).await;
        }
        let (asked, answered, lost) = outcomes.get();
        // Eight clients wait for a session that nobody holds any more; they have no request out.
        assert_eq!(asked, answered + lost, "seed {seed}");
    });
    done.unwrap_or_else(|stalled| panic!("{stalled}"));
    world.trace_hash()
}

/// Eight clients that ask for ever. Counts requests asked, answered and lost.
fn clients(east: &Unit, outcomes: &Rc<Cell<(u64, u64, u64)>>) -> Hold {
    let peer = east.peer("west");
    for client in 0..8u64 {
        let (peer, outcomes, shard) = (peer.clone(), Rc::clone(outcomes), east.process.shard());
        let count = move |change: fn(&mut (u64, u64, u64))| {
            let mut all = outcomes.get();
            change(&mut all);
            outcomes.set(all);
        };
        east.process.spawn(async move {
            for number in 0.. {
                let session = peer.wait_session().await;
                count(|all| all.0 += 1);
                let offset = (client << 40) + (number << 16);
                let request = match (number + client) % 4 {
                    0 => data(ByteRange::new(offset, 20_000), DataOp::Read),
                    1 => control("change the database"),
                    _ => write(offset, 512 << (number % 7)),
                };
                match ask(&session, request).await {
                    Ok(()) => count(|all| all.1 += 1),
                    Err(_) => count(|all| all.2 += 1),
                }
                shard.sleep(Duration::from_millis(20)).await;
            }
        });
    }
    peer.connect()
}

#[test]
fn whatever_fails_requests_end_and_the_link_returns() {
    for seed in 0..12 {
        run(seed);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(1000), run(1000));
}
