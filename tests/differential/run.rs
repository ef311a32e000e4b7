//! Running sequences against both targets, side by side.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use twinlun_io::Shard;

use crate::Failure;
use crate::compare::{Aspect, Difference, differences, first_difference};
use crate::generate::{Sequence, Taste, sequence};
use crate::rules::{Peer, Rule};
use crate::side::{Address, Seen, Side, Traces};
use crate::step::{Odd, Step};

/// A pair of LUs, one of each target, on which sequences run one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane {
    pub(crate) number: u16,
    pub(crate) lun: u16,
    pub(crate) block: u32,
}

/// Lanes run at the same time. A seed always runs on the same lane, since block sizes differ.
pub(crate) const LANES: [Lane; 4] = [
    Lane { number: 0, lun: 1, block: 512 },
    Lane { number: 1, lun: 2, block: 512 },
    Lane { number: 2, lun: 3, block: 512 },
    Lane { number: 3, lun: 4, block: 4096 },
];

/// How often a peer may drop its sessions in one reset.
const RESET_ATTEMPTS: u32 = 3;

/// The lane of a seed.
pub(crate) fn lane_of(seed: u64) -> Lane {
    LANES[(seed % LANES.len() as u64) as usize]
}

/// A difference that no rule explains, with what led to it.
#[derive(Clone, Debug)]
pub(crate) struct Unknown {
    pub(crate) difference: Difference,
    pub(crate) sequence: Sequence,
}

/// What all lanes found.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) sequences: Cell<u64>,
    pub(crate) commands: Cell<u64>,
    pub(crate) equal: Cell<u64>,
    /// Sequences that a known difference of state ended early.
    pub(crate) cut: Cell<u64>,
    /// How often the peer dropped its sessions between two sequences.
    pub(crate) dropped: Cell<u64>,
    pub(crate) known: RefCell<BTreeMap<&'static str, u64>>,
    pub(crate) unknown: RefCell<Vec<Unknown>>,
    /// Unknown differences in all, and how often each came.
    pub(crate) kinds: RefCell<BTreeMap<Difference, u64>>,
    /// The first seed that showed each.
    pub(crate) seeds: RefCell<BTreeMap<Difference, u64>>,
    /// Outcomes of our side, by command.
    pub(crate) outcomes: RefCell<BTreeMap<(String, String), u64>>,
}

fn add(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

/// What one sequence came to.
pub(crate) enum End {
    /// No unknown difference.
    Explained,
    /// The first difference that no rule explains.
    Unknown(Difference),
}

/// Both targets on one lane.
pub(crate) struct Pair {
    ours: Side,
    theirs: Side,
    peer: Peer,
    block: u32,
    /// Unknown differences are counted, and the sequence goes on.
    survey: bool,
    /// Of the sequence that runs.
    seed: u64,
    /// What the last sequence may have left.
    left: Traces,
}

impl Pair {
    pub(crate) async fn open(
        shard: &Shard,
        ours: &Address,
        theirs: &Address,
        peer: Peer,
        lane: Lane,
        survey: bool,
    ) -> Result<Self, Failure> {
        let open = async |address| Side::open(shard, address, lane.number, lane.lun, lane.block).await;
        let (ours, theirs) = (open(ours).await?, open(theirs).await?);
        Ok(Self { ours, theirs, peer, block: lane.block, survey, seed: 0, left: Traces::ALL })
    }

    /// Runs steps on both, from the state in which every sequence begins.
    pub(crate) async fn run(&mut self, steps: &[Step], findings: &Findings) -> Result<End, Failure> {
        self.ours.reset(self.left).await.map_err(|error| format!("reset of ours: {error}"))?;
        self.reset_theirs(findings).await?;
        self.left = Traces::of(steps, self.block);
        for step in steps {
            let (ours, theirs) = (self.ours.take(step).await, self.theirs.take(step).await);
            add(&findings.commands);
            *findings.outcomes.borrow_mut().entry((step.name(), ours.outcome.clone())).or_default() += 1;
            let found = differences(step, (&ours, self.ours.generation), (&theirs, self.theirs.generation));
            if found.is_empty() {
                add(&findings.equal);
            }
            for difference in &found {
                match self.explain(difference) {
                    Some(rule) => *findings.known.borrow_mut().entry(rule.id).or_default() += 1,
                    None if self.survey => {
                        *findings.kinds.borrow_mut().entry(difference.clone()).or_default() += 1;
                        findings.seeds.borrow_mut().entry(difference.clone()).or_insert(self.seed);
                    }
                    None => return self.stop(End::Unknown(difference.clone())).await,
                }
            }
            if ours.lost || theirs.lost || apart(step, &found) || unmapped_in_part(step, &[&ours, &theirs]) {
                add(&findings.cut);
                return self.stop(End::Explained).await;
            }
        }
        self.compare_content(findings).await
    }

    /// The peer may drop its sessions while it is brought back to the beginning; ours may not.
    async fn reset_theirs(&mut self, findings: &Findings) -> Result<(), Failure> {
        for _ in 0..RESET_ATTEMPTS {
            match self.theirs.reset(self.left).await {
                Ok(()) => return Ok(()),
                Err(_) if self.theirs.is_lost() => {
                    add(&findings.dropped);
                    self.left = Traces::ALL;
                    self.theirs.log_in().await?;
                }
                Err(error) => return Err(format!("reset of {}: {error}", self.peer.name()).into()),
            }
        }
        Err(format!("{} drops its sessions whenever it is reset", self.peer.name()).into())
    }

    fn explain(&self, difference: &Difference) -> Option<&'static Rule> {
        self.peer.rules().iter().find(|rule| rule.explains(difference))
    }

    /// Ends a sequence after which both sides may be in any state.
    async fn stop(&mut self, end: End) -> Result<End, Failure> {
        self.left = Traces::ALL;
        for side in [&mut self.ours, &mut self.theirs] {
            if side.is_lost() {
                side.log_in().await?;
            }
        }
        Ok(end)
    }

    async fn compare_content(&mut self, findings: &Findings) -> Result<End, Failure> {
        let everywhere = self.left.everywhere;
        let ours = self.ours.content(everywhere).await;
        let theirs = self.theirs.content(everywhere).await;
        let found = match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => first_difference(&ours, &theirs),
            (Err(ours), Err(theirs)) if ours.to_string() == theirs.to_string() => None,
            (ours, theirs) => {
                let word = |side: Result<_, Failure>| side.map_or_else(|e| e.to_string(), |_| "GOOD".into());
                Some((word(ours), word(theirs)))
            }
        };
        let Some((ours, theirs)) = found else { return Ok(End::Explained) };
        let (command, odd) = ("end of sequence".to_owned(), String::new());
        let difference = Difference { command, odd, aspect: Aspect::Content, ours, theirs };
        match self.explain(&difference) {
            Some(rule) => {
                *findings.known.borrow_mut().entry(rule.id).or_default() += 1;
                self.stop(End::Explained).await
            }
            None => self.stop(End::Unknown(difference)).await,
        }
    }
}

/// An UNMAP that is refused for one of its ranges may have unmapped those before it, or not: SBC-4 does not say.
fn unmapped_in_part(step: &Step, seen: &[&Seen]) -> bool {
    let refused = |seen: &&Seen| seen.outcome.starts_with("CHECK");
    matches!(step, Step::Scsi(scsi) if scsi.cdb[0] == 0x42) && seen.iter().any(refused)
}

/// Whether the sides are now in different states, so that what follows would say nothing new.
fn apart(step: &Step, found: &[Difference]) -> bool {
    found.iter().any(|difference| match difference.aspect {
        Aspect::Outcome => {
            step.changes_state() && (difference.ours == "GOOD") != (difference.theirs == "GOOD")
        }
        // Of a transfer that does not fit, one side may have done more than the other.
        Aspect::Residual => {
            step.changes_state() && step.odd() != Odd::No && difference.ours.starts_with("GOOD")
        }
        // One side may have a condition left.
        Aspect::Attention => {
            difference.ours.split(' ').count() != difference.theirs.split(' ').count()
                || difference.ours.is_empty() != difference.theirs.is_empty()
        }
        _ => false,
    })
}

/// Runs the seeds of one lane until all are done or too many unknown differences were found.
pub(crate) async fn lane(
    mut pair: Pair,
    lane: Lane,
    seeds: std::ops::Range<u64>,
    taste: Taste,
    most: usize,
    findings: Rc<Findings>,
) -> Result<(), Failure> {
    for seed in seeds.filter(|seed| lane_of(*seed).number == lane.number) {
        let sequence = sequence(seed, lane.block, taste);
        pair.seed = seed;
        let end =
            pair.run(&sequence.steps, &findings).await.map_err(|error| format!("seed {seed}: {error}"))?;
        add(&findings.sequences);
        if let End::Unknown(difference) = end {
            let times = {
                let mut kinds = findings.kinds.borrow_mut();
                let times = kinds.entry(difference.clone()).or_default();
                *times += 1;
                *times
            };
            findings.seeds.borrow_mut().entry(difference.clone()).or_insert(seed);
            if times == 1 {
                findings.unknown.borrow_mut().push(Unknown { difference, sequence });
            }
        }
        if findings.unknown.borrow().len() >= most {
            break;
        }
    }
    Ok(())
}
