//! What a seed decides before anything happens: the stage, the load, and which kinds of faults take part.

use std::time::Duration;

use twinlun_api::RaidLevel;
use twinlun_io::sim::Rng;

use crate::faults::Fault;

/// How hosts prove themselves, and whether the unit does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    None,
    OneWay,
    Mutual,
}

/// A LU of the set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LuPlan {
    pub(crate) size: u64,
    pub(crate) block_size: u32,
    /// UNMAP gives space back.
    pub(crate) thin: bool,
}

/// A storage unit.
#[derive(Clone, Debug)]
pub(crate) struct UnitPlan {
    pub(crate) raid: RaidLevel,
    pub(crate) disks: usize,
    /// The one disk that may fail; the others carry the last good copy.
    pub(crate) weak_disk: Option<usize>,
}

/// Everything that is decided beforehand.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// The first holds the primary.
    pub(crate) units: Vec<UnitPlan>,
    pub(crate) lus: Vec<LuPlan>,
    pub(crate) write_cache: bool,
    pub(crate) hosts: usize,
    /// Commands that a host has under way.
    pub(crate) depth: usize,
    /// Header and data digests: without them no bit may flip between hosts and units.
    pub(crate) digests: bool,
    /// Faults begin while the first copy runs.
    pub(crate) early: bool,
    /// The administrator vouches for the secondaries instead of copying.
    pub(crate) vouched: bool,
    pub(crate) extent_size: &'static str,
    pub(crate) write_timeout: &'static str,
    pub(crate) rate: &'static str,
    pub(crate) manual_recovery: bool,
    pub(crate) proof: Proof,
    /// No image may be missing: the mirror falls to ATTENTION (R-MS-3).
    pub(crate) strict: bool,
    /// ATTENTION ends by an administrator's word only (R-MS-2).
    pub(crate) manual_activation: bool,
    /// Faults on.
    pub(crate) trouble: Duration,
    /// Mean time between two faults.
    pub(crate) calm: Duration,
    pub(crate) faults: Vec<Fault>,
    /// Moments at which all power is cut in a copy of the world.
    pub(crate) forks: Vec<Duration>,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed).fork("plan");
        let units = if rng.chance(1, 5) { 3 } else { 2 };
        let units = (0..units).map(|_| unit(&mut rng)).collect::<Vec<_>>();
        let write_cache = rng.chance(1, 2);
        let digests = rng.chance(1, 3);
        let lus = (0..1 + rng.index(3)).map(|_| lu(&mut rng)).collect();
        let trouble = Duration::from_secs(rng.range(5..=40));
        let calm = Duration::from_millis(rng.range(200..=4000));
        let mut faults: Vec<_> =
            Fault::ALL.iter().copied().filter(|fault| fault.is_possible(&units, digests)).collect();
        // A few kinds at a time meet deeper than all at once.
        let keep = if rng.chance(1, 4) { faults.len() } else { 1 + rng.index(6) };
        rng.shuffle(&mut faults);
        faults.truncate(keep);
        let last = trouble.as_millis() as u64;
        // What was thought of later draws from a stream of its own, so that older seeds stay what they were.
        let mut later = Rng::new(seed).fork("plan of hosts");
        let proof = match later.below(8) {
            0 => Proof::Mutual,
            1 => Proof::OneWay,
            _ => Proof::None,
        };
        let strict = later.chance(1, 6);
        let manual_activation = strict && later.chance(1, 2);
        if later.chance(1, 4) {
            faults.extend(match later.below(3) {
                0 => &[Fault::KillHost][..],
                1 => &[Fault::PowerHost],
                _ => &[Fault::KillHost, Fault::PowerHost],
            });
        }
        if manual_activation {
            faults.push(Fault::Activate);
        }
        let forks = (0..rng.index(3)).map(|_| Duration::from_millis(rng.range(500..=last))).collect();
        Self {
            seed,
            lus,
            write_cache,
            hosts: 1 + rng.index(3),
            depth: 1 + rng.index(6),
            digests,
            early: rng.chance(1, 4),
            vouched: rng.chance(1, 6),
            extent_size: rng.pick(&["4KiB", "16KiB", "64KiB", "256KiB", "auto"]).expect("not empty"),
            write_timeout: rng.pick(&["0.5", "2", "5", "20"]).expect("not empty"),
            rate: rng.pick(&["unlimited", "unlimited", "256KiB/s", "2MiB/s"]).expect("not empty"),
            manual_recovery: rng.chance(1, 6),
            proof,
            strict,
            manual_activation,
            trouble,
            calm,
            faults,
            forks,
            units,
        }
    }

    /// Whether hosts die and come back.
    pub(crate) fn kills_hosts(&self) -> bool {
        self.faults.iter().any(|fault| matches!(fault, Fault::KillHost | Fault::PowerHost))
    }

    /// Whether a command to the primary may end with an error of the medium.
    pub(crate) fn weak_primary(&self) -> bool {
        self.units[0].weak_disk.is_some() && self.faults.iter().any(|fault| fault.is_of_disks())
    }
}

fn unit(rng: &mut Rng) -> UnitPlan {
    let raid = if rng.chance(1, 3) { RaidLevel::Raid0 } else { RaidLevel::Raid1 };
    let disks = 2 + rng.index(2);
    let weak_disk = (raid == RaidLevel::Raid1).then(|| rng.index(disks));
    UnitPlan { raid, disks, weak_disk }
}

fn lu(rng: &mut Rng) -> LuPlan {
    let block_size = if rng.chance(1, 2) { 512 } else { 4096 };
    // Small ones make hosts and copies meet; now and then a large one makes logs and windows matter.
    let mib = match rng.below(12) {
        0 => rng.range(8..=24),
        1 | 2 => rng.range(3..=8),
        _ => rng.range(1..=2),
    };
    LuPlan { size: mib << 20, block_size, thin: rng.chance(1, 2) }
}
