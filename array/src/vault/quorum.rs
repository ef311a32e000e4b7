//! Which image is the newest that may have been acknowledged (docs/design/vault.md, "The majority rule"). Pure.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::image::ImageId;
use crate::planted::{Bug, planted};

/// What the newest intact image of one disk says about the vault itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) id: ImageId,
    /// Disks that kept a copy when it was written.
    pub(crate) voters: BTreeSet<Uuid>,
    /// What the newest image of these disks may have been just before.
    pub(crate) accepts: BTreeSet<ImageId>,
}

/// Why no image can be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoChoice {
    /// No disk has an intact image.
    Nothing,
    /// The best image is backed by too few of its voters.
    NoQuorum { present: usize, voters: usize, missing: BTreeSet<Uuid> },
    /// Two groups of voters, with no disk in common, each hold a history of their own.
    Split { first: BTreeSet<Uuid>, second: BTreeSet<Uuid> },
}

/// Voters whose newest image is this one or one that it directly follows: they were all current when it was written.
pub(crate) fn supporters(image: &Seen, newest: &BTreeMap<Uuid, Seen>) -> BTreeSet<Uuid> {
    image
        .voters
        .iter()
        .filter(|disk| {
            newest.get(disk).is_some_and(|seen| seen.id == image.id || image.accepts.contains(&seen.id))
        })
        .copied()
        .collect()
}

/// Chooses the disk to read from: the holder of the newest image that more than half of its voters support.
///
/// Voters in `lost` were declared lost by the administrator; when nobody else is missing, or `accept_half` is set and
/// exactly half is there, less will do.
pub(crate) fn choose(
    newest: &BTreeMap<Uuid, Seen>,
    lost: &BTreeSet<Uuid>,
    accept_half: bool,
) -> Result<Uuid, NoChoice> {
    let mut candidates: Vec<(&Uuid, &Seen)> = newest.iter().collect();
    candidates.sort_by_key(|(_, seen)| std::cmp::Reverse(seen.id));
    let strict = |seen: &Seen| {
        let support = supporters(seen, newest).len() * 2;
        support > seen.voters.len() || (planted(Bug::HalfIsQuorum) && support == seen.voters.len())
    };
    let relaxed = |seen: &Seen| {
        let support = supporters(seen, newest);
        let excused = seen.voters.iter().all(|disk| support.contains(disk) || lost.contains(disk));
        !support.is_empty() && (excused || (accept_half && support.len() * 2 == seen.voters.len()))
    };
    let supported: Vec<_> = candidates.iter().filter(|(_, seen)| strict(seen)).collect();
    if let Some((holder, best)) = supported.first() {
        // Voters leave one by one, and a disk that left is no voter of what follows; so of two supported images without
        // a common voter neither can follow the other.
        if let Some((_, other)) = supported.iter().find(|(_, seen)| seen.voters.is_disjoint(&best.voters)) {
            return Err(NoChoice::Split { first: best.voters.clone(), second: other.voters.clone() });
        }
        return Ok(**holder);
    }
    let Some((holder, best)) = candidates.first() else { return Err(NoChoice::Nothing) };
    if relaxed(best) {
        return Ok(**holder);
    }
    let support = supporters(best, newest);
    Err(NoChoice::NoQuorum {
        present: support.len(),
        voters: best.voters.len(),
        missing: best.voters.difference(&support).copied().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    fn set(disks: &[u128]) -> BTreeSet<Uuid> {
        disks.iter().map(|n| disk(*n)).collect()
    }

    fn id(sequence: u64) -> ImageId {
        ImageId { sequence, nonce: 0 }
    }

    fn seen(sequence: u64, voters: &[u128]) -> Seen {
        Seen { id: id(sequence), voters: set(voters), accepts: BTreeSet::from([id(sequence - 1)]) }
    }

    fn pick(disks: &[(u128, Seen)]) -> Result<u128, NoChoice> {
        let newest = disks.iter().map(|(n, seen)| (disk(*n), seen.clone())).collect();
        choose(&newest, &BTreeSet::new(), false).map(|chosen| chosen.as_u128())
    }

    #[test]
    fn a_minority_may_be_gone() {
        assert_eq!(pick(&[(1, seen(5, &[1, 2, 3])), (2, seen(5, &[1, 2, 3]))]), Ok(1));
        assert!(matches!(
            pick(&[(1, seen(5, &[1, 2, 3]))]),
            Err(NoChoice::NoQuorum { present: 1, voters: 3, .. })
        ));
        assert!(matches!(pick(&[]), Err(NoChoice::Nothing)));
    }

    #[test]
    fn a_torn_put_leaves_the_old_or_the_new_image() {
        // The new one reached disk 1 only, in a unit of two.
        assert_eq!(pick(&[(1, seen(6, &[1, 2])), (2, seen(5, &[1, 2]))]), Ok(1));
    }

    #[test]
    fn a_stale_disk_never_wins() {
        // Disk 2 failed; disk 1 went on alone and is away now.
        assert!(matches!(pick(&[(2, seen(5, &[1, 2]))]), Err(NoChoice::NoQuorum { .. })));
        // Both are there: disk 1 tells.
        assert_eq!(pick(&[(1, seen(9, &[1])), (2, seen(5, &[1, 2]))]), Ok(1));
        // An old copy of disk 3 beside one current disk does not make a majority of the old state.
        assert!(matches!(
            pick(&[(2, seen(9, &[1, 2])), (3, seen(5, &[1, 2, 3]))]),
            Err(NoChoice::NoQuorum { .. })
        ));
    }

    #[test]
    fn an_abandoned_newer_image_loses_to_the_history_that_went_on() {
        // A run wrote 6 and 7 to disk 1 only and died; the next one saw disks 2, 3 and 4 and went on from 5.
        let abandoned = Seen { accepts: BTreeSet::from([id(5)]), ..seen(99, &[1, 2, 3, 4]) };
        let alive = seen(8, &[2, 3, 4]);
        assert_eq!(pick(&[(1, abandoned), (2, alive.clone()), (3, alive.clone()), (4, alive)]), Ok(2));
    }

    #[test]
    fn the_administrator_may_declare_disks_lost() {
        let newest: BTreeMap<_, _> = [(disk(1), seen(5, &[1, 2]))].into();
        assert!(choose(&newest, &BTreeSet::new(), false).is_err());
        assert_eq!(choose(&newest, &set(&[2]), false), Ok(disk(1)));
        assert_eq!(choose(&newest, &BTreeSet::new(), true), Ok(disk(1)));
    }

    #[test]
    fn two_histories_are_told_apart() {
        assert!(matches!(pick(&[(1, seen(9, &[1])), (2, seen(8, &[2]))]), Err(NoChoice::Split { .. })));
    }

    /// Every way a run of puts, failures and crashes can go in a small unit: what was acknowledged is found again.
    #[test]
    fn acknowledged_images_are_found_again_exhaustively() {
        // Three disks. Each step picks the subset that takes the write; a put counts when at least half of the voters
        // took it, which then are the voters (a disk that fails a put is out).
        for first in 1u32..8 {
            for second in 1u32..8 {
                for present in 1u32..8 {
                    check(&[first, second], present);
                }
            }
        }
    }

    fn check(puts: &[u32], present: u32) {
        let all = 3u32;
        let mut voters: Vec<u128> = (1..=u128::from(all)).collect();
        let mut held: BTreeMap<u128, Seen> = voters.iter().map(|n| (*n, seen(1, &voters))).collect();
        let mut acknowledged = 1;
        let mut sequence = 1;
        for mask in puts {
            let took: Vec<u128> = voters.iter().copied().filter(|n| mask & (1 << (n - 1)) != 0).collect();
            sequence += 1;
            let attempt = Seen {
                accepts: held.values().filter(|s| s.id.sequence == sequence - 1).map(|s| s.id).collect(),
                ..seen(sequence, &voters)
            };
            for n in &took {
                held.insert(*n, attempt.clone());
            }
            if took.len() < voters.len() {
                if took.len() * 2 < voters.len() {
                    break;
                }
                sequence += 1;
                voters = took;
                let retry = Seen { accepts: BTreeSet::from([id(sequence - 1)]), ..seen(sequence, &voters) };
                for n in &voters {
                    held.insert(*n, retry.clone());
                }
            }
            acknowledged = sequence;
        }
        let newest: BTreeMap<_, _> = held
            .into_iter()
            .filter(|(n, _)| present & (1 << (n - 1)) != 0)
            .map(|(n, s)| (disk(n), s))
            .collect();
        if let Ok(chosen) = choose(&newest, &BTreeSet::new(), false) {
            assert!(newest[&chosen].id.sequence >= acknowledged, "puts {puts:?}, present {present:b}");
        }
    }
}
