//! Operational keys: what is offered, and what the answers mean (RFC 7143, 13).

use super::{LoginError, SessionKind};
use crate::negotiate::Parameters;
use crate::text::{self, Pair, TextBuilder};

fn yes_no(value: bool) -> &'static str {
    if value { "Yes" } else { "No" }
}

fn digests(offered: bool) -> &'static str {
    if offered { "CRC32C,None" } else { "None" }
}

/// Writes the offer of the operational stage. The login of a `further` connection negotiates only what is the connection's own.
pub(super) fn offer(
    offer: &Parameters,
    kind: &SessionKind,
    further: bool,
    out: &mut TextBuilder,
) -> Result<(), LoginError> {
    out.push("HeaderDigest", digests(offer.header_digest))?;
    out.push("DataDigest", digests(offer.data_digest))?;
    out.push("MaxRecvDataSegmentLength", offer.initiator_max_recv.to_string())?;
    if further {
        return Ok(());
    }
    out.push("DefaultTime2Wait", offer.time2wait.to_string())?;
    out.push("DefaultTime2Retain", offer.time2retain.to_string())?;
    out.push("ErrorRecoveryLevel", offer.error_recovery.to_string())?;
    // The rest is irrelevant where no command can be sent.
    if matches!(kind, SessionKind::Normal { .. }) {
        out.push("InitialR2T", yes_no(offer.initial_r2t))?;
        out.push("ImmediateData", yes_no(offer.immediate_data))?;
        out.push("MaxBurstLength", offer.max_burst.to_string())?;
        out.push("FirstBurstLength", offer.first_burst.min(offer.max_burst).to_string())?;
        out.push("MaxOutstandingR2T", offer.max_outstanding_r2t.to_string())?;
        out.push("MaxConnections", offer.max_connections.to_string())?;
        out.push("DataPDUInOrder", "Yes")?;
        out.push("DataSequenceInOrder", yes_no(offer.data_sequence_in_order))?;
        if offer.response_fence {
            out.push("TaskReporting", "ResponseFence,RFC3720")?;
        }
    }
    Ok(())
}

/// Takes one pair of the target into the parameters that will hold. A key that the target brings up itself and that we do
/// not know is answered as RFC 7143, 6.2 wants it.
pub(super) fn accept(
    pair: Pair<'_>,
    offer: &Parameters,
    result: &mut Parameters,
    answer: &mut TextBuilder,
) -> Result<(), LoginError> {
    let value = pair.value;
    // A key that the target does not take keeps its default, the most careful value there is.
    if matches!(value, b"Irrelevant" | b"NotUnderstood") {
        return Ok(());
    }
    let number = |key, low: u32, high: u32| match text::number(value) {
        Ok(number) if (u64::from(low)..=u64::from(high)).contains(&number) => Ok(number as u32),
        _ => Err(LoginError::Negotiation { key }),
    };
    let boolean = |key, allowed: fn(bool, bool) -> bool, offered| match text::boolean(value) {
        Ok(chosen) if allowed(offered, chosen) => Ok(chosen),
        _ => Err(LoginError::Negotiation { key }),
    };
    let digest = |key, offered| match value {
        b"CRC32C" if offered => Ok(true),
        b"None" => Ok(false),
        _ => Err(LoginError::Negotiation { key }),
    };
    // What an AND or an OR of the offer with anything can be.
    let and = |offered: bool, chosen: bool| offered || !chosen;
    let or = |offered: bool, chosen: bool| !offered || chosen;
    match pair.key {
        "HeaderDigest" => result.header_digest = digest("HeaderDigest", offer.header_digest)?,
        "DataDigest" => result.data_digest = digest("DataDigest", offer.data_digest)?,
        "InitialR2T" => result.initial_r2t = boolean("InitialR2T", or, offer.initial_r2t)?,
        "ImmediateData" => result.immediate_data = boolean("ImmediateData", and, offer.immediate_data)?,
        "MaxRecvDataSegmentLength" => {
            result.target_max_recv = number("MaxRecvDataSegmentLength", 512, (1 << 24) - 1)?;
        }
        "MaxBurstLength" => result.max_burst = number("MaxBurstLength", 512, offer.max_burst)?,
        "FirstBurstLength" => result.first_burst = number("FirstBurstLength", 512, offer.first_burst)?,
        "MaxOutstandingR2T" => {
            let high = u32::from(offer.max_outstanding_r2t);
            result.max_outstanding_r2t = number("MaxOutstandingR2T", 1, high)? as u16;
        }
        "DefaultTime2Wait" => {
            result.time2wait = number("DefaultTime2Wait", u32::from(offer.time2wait), 3600)? as u16;
        }
        "DefaultTime2Retain" => {
            result.time2retain = number("DefaultTime2Retain", 0, u32::from(offer.time2retain))? as u16;
        }
        "ErrorRecoveryLevel" => {
            result.error_recovery = number("ErrorRecoveryLevel", 0, u32::from(offer.error_recovery))? as u8;
        }
        "MaxConnections" => {
            let high = u32::from(offer.max_connections);
            result.max_connections = number("MaxConnections", 1, high)? as u16;
        }
        "DataPDUInOrder" => drop(boolean("DataPDUInOrder", or, true)?),
        "DataSequenceInOrder" => {
            result.data_sequence_in_order = boolean("DataSequenceInOrder", or, offer.data_sequence_in_order)?;
        }
        "TaskReporting" => match value {
            b"ResponseFence" if offer.response_fence => result.response_fence = true,
            b"RFC3720" | b"Reject" => {}
            _ => return Err(LoginError::Negotiation { key: "TaskReporting" }),
        },
        // Declarations that ask for no answer.
        "TargetAlias" | "TargetPortalGroupTag" | "TargetAddress" | "TargetName" => {}
        other => answer.push(other, "NotUnderstood")?,
    }
    Ok(())
}
