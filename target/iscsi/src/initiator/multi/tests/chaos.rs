//! Whatever the wires do: every command completes exactly once, and its data is right.

use std::collections::BTreeMap;

use super::world::{Trouble, World, command, contents, offer};
use crate::initiator::Submitted;

/// Commands of one run.
const COMMANDS: u64 = 60;

fn run(seed: u64, level: u8, links: u16, trouble: Trouble) -> World {
    let mut world = World::new(seed, offer(level, links), |config| {
        config.timers.sequence = core::time::Duration::from_millis(300);
    });
    world.run(|world| world.host.open_links() == 1);
    for cid in 1..links {
        world.connect(cid);
    }
    world.run(|world| world.host.open_links() == usize::from(links));
    world.trouble = trouble;
    let mut due = BTreeMap::new();
    for id in 1..=COMMANDS {
        // Each place is written by one command and read by another that follows its end.
        let len = [0, 500, 3000, 9000][world.dice.below(4)];
        let write = world.dice.one_in(2);
        assert_eq!(world.host.submit(command(id, write, id % 256, len)), Submitted::Accepted);
        due.insert(id, (write, len));
    }
    world.run(|world| world.completed.len() as u64 == COMMANDS || world.over || world.host.is_over());
    assert!(!world.over, "the session lives: {}", world.describe());
    for done in std::mem::take(&mut world.completed) {
        let (write, len) = due.remove(&done.tag).expect("one end for each command");
        assert!(done.is_good(), "{done:?}");
        if !write {
            assert_eq!(done.data, contents(done.tag, len), "read {}", done.tag);
        }
    }
    assert!(due.is_empty());
    for id in 1..=COMMANDS {
        assert_eq!(world.store.executed.get(&id), Some(&1), "command {id}, once");
    }
    world
}

/// Seeds; more with CHAOS_SEEDS.
fn seeds() -> u64 {
    std::env::var("CHAOS_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(60)
}

#[test]
fn clean_wires() {
    for links in [1, 4] {
        for level in 0..=2 {
            run(1, level, links, Trouble::default());
        }
    }
}

#[test]
fn damaged_data_is_recovered_within_the_connection() {
    for seed in 0..seeds() {
        let world = run(seed, 1, 1 + (seed % 4) as u16, Trouble { corrupt: 7, ..Trouble::default() });
        assert_eq!(world.cuts, 0, "no connection was given up");
    }
}

#[test]
fn lost_pdus_are_recovered_within_the_connection() {
    for seed in 0..seeds() {
        let world = run(seed, 1, 1 + (seed % 4) as u16, Trouble { drop: 12, corrupt: 15, cut: 0 });
        assert_eq!(world.cuts, 0, "no connection was given up");
    }
}

#[test]
fn lost_connections_are_recovered_within_the_session() {
    for seed in 0..seeds() {
        run(seed, 2, 1 + (seed % 4) as u16, Trouble { cut: 60, ..Trouble::default() });
    }
}

#[test]
fn everything_at_once() {
    for seed in 0..seeds() {
        run(seed, 2, 1 + (seed % 4) as u16, Trouble { drop: 25, corrupt: 15, cut: 80 });
    }
}
