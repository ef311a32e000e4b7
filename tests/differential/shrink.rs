//! Makes a failing sequence as short as it gets.

use twinlun_iscsi::pdu::TaskAttribute;

use crate::Failure;
use crate::compare::Difference;
use crate::run::{End, Findings, Pair};
use crate::step::Step;

/// Runs that a shrink may take.
const MOST: usize = 400;

/// The shortest steps found that still lead to a difference of the same kind.
pub(crate) async fn shrink(
    pair: &mut Pair,
    mut steps: Vec<Step>,
    wanted: &Difference,
) -> Result<Vec<Step>, Failure> {
    let mut runs = 0;
    let mut piece = steps.len().div_ceil(2);
    while piece > 0 {
        let mut at = 0;
        while at < steps.len() && runs < MOST {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + piece).min(steps.len()));
            runs += 1;
            if shows(pair, &fewer, wanted).await? {
                steps = fewer;
            } else {
                at += piece;
            }
        }
        piece = if piece == 1 { 0 } else { piece.div_ceil(2) };
    }
    for at in 0..steps.len() {
        for simpler in simpler(&steps[at]) {
            let mut changed = steps.clone();
            changed[at] = simpler;
            if runs < MOST && shows(pair, &changed, wanted).await? {
                steps = changed;
            }
            runs += 1;
        }
    }
    Ok(steps)
}

/// The same step with less to it.
fn simpler(step: &Step) -> Vec<Step> {
    let Step::Scsi(scsi) = step else { return Vec::new() };
    let mut all = Vec::new();
    if scsi.attribute != TaskAttribute::SIMPLE {
        let mut plain = scsi.clone();
        plain.attribute = TaskAttribute::SIMPLE;
        all.push(Step::Scsi(plain));
    }
    if scsi.nexus != 0 {
        let mut first = scsi.clone();
        first.nexus = 0;
        all.push(Step::Scsi(first));
    }
    all
}

/// Whether steps lead to a difference of that kind. Where in the data it shows does not matter.
async fn shows(pair: &mut Pair, steps: &[Step], wanted: &Difference) -> Result<bool, Failure> {
    match pair.run(steps, &Findings::default()).await? {
        End::Unknown(found) => {
            Ok(found.command == wanted.command && found.aspect == wanted.aspect && found.odd == wanted.odd)
        }
        End::Explained => Ok(false),
    }
}
