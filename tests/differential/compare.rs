//! Where two targets differ about a step.

use std::fmt;

use crate::parameters::page_len;
use crate::project::{Content, content, fields, parameter_residual};
use crate::side::Seen;
use crate::step::{Data, ScsiStep, Step};
use twinlun_iscsi::pdu::Residual;

/// What of an answer differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Aspect {
    /// Status, sense key, additional sense code and qualifier.
    Outcome,
    /// Unit attention conditions before the answer.
    Attention,
    /// Fixed or descriptor sense data.
    SenseFormat,
    /// INFORMATION field where both have one.
    Information,
    Residual,
    /// Data, or a field of it.
    Data,
    /// The LU's content at the end of a sequence.
    Content,
}

/// One difference. Both sides in words that rules compare.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Difference {
    pub(crate) command: String,
    pub(crate) odd: String,
    pub(crate) aspect: Aspect,
    pub(crate) ours: String,
    pub(crate) theirs: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, odd, aspect, ours, theirs } = self;
        write!(f, "{command} ({odd}), {aspect:?}: ours {ours}, theirs {theirs}")
    }
}

/// All differences of one step. The generations are those at the beginning of the sequence.
pub(crate) fn differences(step: &Step, ours: (&Seen, u32), theirs: (&Seen, u32)) -> Vec<Difference> {
    let ((ours, our_generation), (theirs, their_generation)) = (ours, theirs);
    let mut found = Vec::new();
    let mut put = |aspect, ours: String, theirs: String| {
        if ours != theirs {
            let (command, odd) = (step.name(), step.odd().to_string());
            found.push(Difference { command, odd, aspect, ours, theirs });
        }
    };
    put(Aspect::Attention, ours.attentions.join(" "), theirs.attentions.join(" "));
    put(Aspect::Outcome, ours.outcome.clone(), theirs.outcome.clone());
    if ours.outcome != theirs.outcome {
        return found;
    }
    if let (Some(ours), Some(theirs)) = (ours.sense_format, theirs.sense_format) {
        put(Aspect::SenseFormat, format!("{ours:02x}"), format!("{theirs:02x}"));
    }
    if let (Some(ours), Some(theirs)) = (ours.information, theirs.information) {
        put(Aspect::Information, ours.to_string(), theirs.to_string());
    }
    let Step::Scsi(scsi) = step else { return found };
    let outcome = ours.outcome.as_str();
    let good = outcome == "GOOD";
    match content(&scsi.cdb) {
        Content::Parameters if good => {
            put(Aspect::Residual, parameter_residual(scsi, ours), parameter_residual(scsi, theirs));
            let theirs = fields(&scsi.cdb, theirs, their_generation);
            for (name, ours) in fields(&scsi.cdb, ours, our_generation) {
                if let Some((_, theirs)) = theirs.iter().find(|(other, _)| *other == name) {
                    put(Aspect::Data, format!("{name} {ours}"), format!("{name} {theirs}"));
                }
            }
        }
        _ => {
            put(Aspect::Residual, residual(scsi, ours), residual(scsi, theirs));
            if let Some((ours, theirs)) = first_difference(&ours.data, &theirs.data) {
                let after = if good { String::new() } else { format!("{outcome}: ") };
                put(Aspect::Data, format!("{after}{ours}"), format!("{after}{theirs}"));
            }
        }
    }
    found
}

/// Residual, with the outcome before it: who does nothing may count differently from who does all.
fn residual(scsi: &ScsiStep, seen: &Seen) -> String {
    let expected = match &scsi.data {
        Data::None => 0,
        Data::In(len) => *len as usize,
        Data::Out(bytes) => bytes.len(),
        Data::Page(page) => page.header + page_len(page.code),
    };
    let count = match seen.residual {
        Residual::None => "none".into(),
        Residual::Underflow(count) if count as usize == expected => "underflow of all".into(),
        Residual::Underflow(count) => format!("underflow {count}"),
        Residual::Overflow(count) => format!("overflow {count}"),
    };
    format!("{}: {count}", seen.outcome)
}

/// The first place where two contents differ, in words.
pub(crate) fn first_difference(ours: &[u8], theirs: &[u8]) -> Option<(String, String)> {
    if ours.len() != theirs.len() {
        return Some((format!("{} bytes", ours.len()), format!("{} bytes", theirs.len())));
    }
    let at = ours.iter().zip(theirs).position(|(a, b)| a != b)?;
    Some((format!("byte {at} is {:02x}", ours[at]), format!("byte {at} is {:02x}", theirs[at])))
}
