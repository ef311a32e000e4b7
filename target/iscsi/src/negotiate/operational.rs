//! The target's answer to each operational key.

use super::{Key, KeySet, Parameters, Place};
use crate::target::{DigestPolicy, Policy, SessionType};
use crate::text::{self, Pair, TextBuilder, TextError};

const REJECT: &str = "Reject";
const IRRELEVANT: &str = "Irrelevant";
const NOT_UNDERSTOOD: &str = "NotUnderstood";

/// Bounds of MaxRecvDataSegmentLength, MaxBurstLength and FirstBurstLength.
const LENGTHS: core::ops::RangeInclusive<u64> = 512..=0x00ff_ffff;

/// Why a negotiation failed. In login it ends the login with "initiator error", in full feature phase it is answered by a Reject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NegotiationError {
    /// The text is malformed or too long.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A key was used twice.
    #[error("{0:?} was negotiated or declared twice")]
    Twice(Key),
    /// A key may not be used here, or not by an initiator.
    #[error("{0:?} is not allowed here")]
    NotAllowed(Key),
    /// `Reject`, `Irrelevant` or `NotUnderstood` was proposed.
    #[error("{0:?} was given a reserved constant")]
    Reserved(Key),
    /// A declared value is out of bounds, or nothing acceptable was offered.
    #[error("the value of {0:?} is not acceptable")]
    Unacceptable(Key),
    /// FirstBurstLength would exceed MaxBurstLength.
    #[error("FirstBurstLength would exceed MaxBurstLength")]
    Bursts,
}

/// An operational negotiation on the target's side.
#[derive(Clone, Debug)]
pub struct Negotiation {
    policy: Policy,
    session_type: SessionType,
    parameters: Parameters,
    seen: KeySet,
    /// The parameters of the session that this connection joins.
    session: Option<Parameters>,
}

impl Negotiation {
    /// Begins at login. `seen` holds what earlier stages used.
    pub fn login(policy: Policy, session_type: SessionType, seen: KeySet) -> Self {
        Self { policy, session_type, parameters: Parameters::default(), seen, session: None }
    }

    /// Begins at the login of a further connection of a session with these parameters: keys that only a leading login may negotiate are
    /// answered by what holds and change nothing.
    pub fn further_connection(policy: Policy, session: &Parameters, seen: KeySet) -> Self {
        let parameters = session.for_further_connection();
        Self { policy, session_type: SessionType::Normal, parameters, seen, session: Some(*session) }
    }

    /// Begins in full feature phase, upon what is in force.
    pub fn full_feature(policy: Policy, session_type: SessionType, parameters: Parameters) -> Self {
        Self { policy, session_type, parameters, seen: KeySet::default(), session: None }
    }

    /// What would be in force after this negotiation.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Declares the target's MaxRecvDataSegmentLength; once per login.
    pub fn declare(&mut self, answer: &mut TextBuilder) -> Result<(), NegotiationError> {
        if self.parameters.target_max_recv != self.policy.max_recv_data_segment {
            self.parameters.target_max_recv = self.policy.max_recv_data_segment;
            put(answer, Key::MaxRecvDataSegmentLength, self.policy.max_recv_data_segment)?;
        }
        Ok(())
    }

    /// From here on these keys count as used.
    pub(crate) fn close(&mut self, keys: &[Key]) {
        for key in keys {
            self.seen.insert(*key);
        }
    }

    /// Answers the operational keys of one exchange. Names, aliases and security keys are not this function's: it passes them over,
    /// having checked that they may be here and are new. Unknown keys are answered `NotUnderstood`.
    pub fn answer(
        &mut self,
        pairs: &[Pair<'_>],
        place: Place,
        answer: &mut TextBuilder,
    ) -> Result<(), NegotiationError> {
        let mut first_burst = None;
        for pair in pairs {
            let Some(key) = Key::parse(pair.key) else {
                answer.push(pair.key, NOT_UNDERSTOOD)?;
                continue;
            };
            admit(key, pair.value, place, &mut self.seen)?;
            if self.session_type == SessionType::Discovery && !key.matters_in_discovery() {
                put(answer, key, IRRELEVANT)?;
            } else if let Some(held) = self.session.as_ref().and_then(|session| in_force(key, session)) {
                put(answer, key, held.as_str())?;
            } else if key == Key::FirstBurstLength {
                first_burst = Some(pair.value);
            } else {
                self.answer_key(key, pair.value, answer)?;
            }
        }
        // FirstBurstLength is bounded by MaxBurstLength, which may have come after it.
        if let Some(value) = first_burst {
            let most = self.policy.first_burst.min(self.parameters.max_burst);
            match offered(value, LENGTHS) {
                Some(theirs) => {
                    self.parameters.first_burst = theirs.min(most);
                    put(answer, Key::FirstBurstLength, self.parameters.first_burst)?;
                }
                None => put(answer, Key::FirstBurstLength, REJECT)?,
            }
        }
        let both = self.seen.contains(Key::FirstBurstLength) && self.seen.contains(Key::MaxBurstLength);
        if both && self.parameters.first_burst > self.parameters.max_burst {
            return Err(NegotiationError::Bursts);
        }
        Ok(())
    }

    fn answer_key(
        &mut self,
        key: Key,
        value: &[u8],
        answer: &mut TextBuilder,
    ) -> Result<(), NegotiationError> {
        let (policy, now) = (self.policy, &mut self.parameters);
        match key {
            Key::HeaderDigest => {
                now.header_digest = digest(key, value, self.session_type, policy.header_digest, answer)?;
                Ok(())
            }
            Key::DataDigest => {
                now.data_digest = digest(key, value, self.session_type, policy.data_digest, answer)?;
                Ok(())
            }
            Key::InitialR2T => match text::boolean(value) {
                Ok(theirs) => {
                    now.initial_r2t = theirs || policy.initial_r2t;
                    put(answer, key, yes_no(now.initial_r2t))
                }
                Err(_) => put(answer, key, REJECT),
            },
            Key::ImmediateData => match text::boolean(value) {
                Ok(theirs) => {
                    now.immediate_data = theirs && policy.immediate_data;
                    put(answer, key, yes_no(now.immediate_data))
                }
                Err(_) => put(answer, key, REJECT),
            },
            // This is an "or", and the target wants order: the result is Yes whatever is offered.
            Key::DataPduInOrder => {
                let fine = text::boolean(value).is_ok();
                put(answer, key, if fine { "Yes" } else { REJECT })
            }
            // Order between sequences is not needed, and would allow one R2T at a time above error recovery level 0.
            Key::DataSequenceInOrder => match text::boolean(value) {
                Ok(theirs) => {
                    now.data_sequence_in_order = theirs || policy.error_recovery == 0;
                    put(answer, key, yes_no(now.data_sequence_in_order))
                }
                Err(_) => put(answer, key, REJECT),
            },
            Key::MaxRecvDataSegmentLength => {
                now.initiator_max_recv =
                    offered(value, LENGTHS).ok_or(NegotiationError::Unacceptable(key))?;
                Ok(())
            }
            Key::MaxConnections => {
                let most = policy.max_connections.into();
                let result = offered(value, 1..=65535).map(|theirs| theirs.min(most));
                now.max_connections = result.map_or(now.max_connections, |count| count as u16);
                put_number(answer, key, result)
            }
            Key::ErrorRecoveryLevel => {
                // There is nothing to recover in discovery (section 7.4.1).
                let discovery = self.session_type == SessionType::Discovery;
                let most = if discovery { 0 } else { policy.error_recovery.into() };
                let result = offered(value, 0..=2).map(|theirs| theirs.min(most));
                now.error_recovery = result.map_or(now.error_recovery, |level| level as u8);
                put_number(answer, key, result)
            }
            Key::MaxBurstLength => {
                let result = offered(value, LENGTHS).map(|theirs| theirs.min(policy.max_burst));
                now.max_burst = result.unwrap_or(now.max_burst);
                put_number(answer, key, result)
            }
            Key::DefaultTime2Wait => {
                let result = offered(value, 0..=3600).map(|theirs| theirs.max(policy.time2wait.into()));
                now.time2wait = result.map_or(now.time2wait, |seconds| seconds as u16);
                put_number(answer, key, result)
            }
            Key::DefaultTime2Retain => {
                let result = offered(value, 0..=3600).map(|theirs| theirs.min(policy.time2retain.into()));
                now.time2retain = result.map_or(now.time2retain, |seconds| seconds as u16);
                put_number(answer, key, result)
            }
            Key::MaxOutstandingR2T => {
                let result =
                    offered(value, 1..=65535).map(|theirs| theirs.min(policy.max_outstanding_r2t.into()));
                now.max_outstanding_r2t = result.map_or(now.max_outstanding_r2t, |count| count as u16);
                put_number(answer, key, result)
            }
            Key::ProtocolLevel => {
                let result = offered(value, 0..=31).map(|theirs| theirs.min(policy.protocol_level.into()));
                now.protocol_level = result.map_or(now.protocol_level, |level| level as u8);
                put_number(answer, key, result)
            }
            // FastAbort would bind third-party sessions to a message dance (section 4.2.3.4); it is not offered.
            Key::TaskReporting => {
                let choice = text::list(value).find(|item| matches!(*item, b"RFC3720" | b"ResponseFence"));
                now.response_fence = choice == Some(b"ResponseFence");
                put(answer, key, choice.unwrap_or(REJECT.as_bytes()))
            }
            // Obsolete (section 13.25): the marker keys may be answered Reject or No, and open-iscsi takes only No.
            Key::IfMarker | Key::OfMarker => put(answer, key, "No"),
            Key::IfMarkInt | Key::OfMarkInt => put(answer, key, REJECT),
            // Declared: no answer. The names are the login's business, FirstBurstLength the caller's.
            _ => Ok(()),
        }
    }

    /// Checks what only the end of the negotiation can show: a digest that is required was negotiated.
    pub fn finish(&self) -> Result<Parameters, NegotiationError> {
        let normal = self.session_type == SessionType::Normal;
        let missing = |policy, on: bool| normal && policy == DigestPolicy::Required && !on;
        if missing(self.policy.header_digest, self.parameters.header_digest) {
            return Err(NegotiationError::Unacceptable(Key::HeaderDigest));
        }
        if missing(self.policy.data_digest, self.parameters.data_digest) {
            return Err(NegotiationError::Unacceptable(Key::DataDigest));
        }
        Ok(match &self.session {
            None => self.parameters,
            // What is the session's stays the session's, whatever was offered.
            Some(session) => {
                let Parameters { header_digest, data_digest, initiator_max_recv, target_max_recv, .. } =
                    self.parameters;
                Parameters { header_digest, data_digest, initiator_max_recv, target_max_recv, ..*session }
            }
        })
    }
}

/// What a key that only the leading connection negotiates has come to in a session (section 13: "LO").
fn in_force(key: Key, session: &Parameters) -> Option<String> {
    Some(match key {
        Key::MaxConnections => session.max_connections.to_string(),
        Key::ErrorRecoveryLevel => session.error_recovery.to_string(),
        Key::InitialR2T => yes_no(session.initial_r2t).into(),
        Key::ImmediateData => yes_no(session.immediate_data).into(),
        Key::MaxBurstLength => session.max_burst.to_string(),
        Key::FirstBurstLength => session.first_burst.to_string(),
        Key::MaxOutstandingR2T => session.max_outstanding_r2t.to_string(),
        Key::DefaultTime2Wait => session.time2wait.to_string(),
        Key::DefaultTime2Retain => session.time2retain.to_string(),
        Key::DataPduInOrder => "Yes".into(),
        Key::DataSequenceInOrder => yes_no(session.data_sequence_in_order).into(),
        Key::ProtocolLevel => session.protocol_level.to_string(),
        Key::TaskReporting => if session.response_fence { "ResponseFence" } else { "RFC3720" }.into(),
        _ => return None,
    })
}

fn digest(
    key: Key,
    value: &[u8],
    session_type: SessionType,
    policy: DigestPolicy,
    answer: &mut TextBuilder,
) -> Result<bool, NegotiationError> {
    // Digests cover full feature phase only, and discovery gains nothing by them; some initiators cannot do them there.
    let policy = if session_type == SessionType::Discovery { DigestPolicy::Never } else { policy };
    let choice = text::list(value).find(|item| match *item {
        b"CRC32C" => policy != DigestPolicy::Never,
        b"None" => policy != DigestPolicy::Required,
        _ => false,
    });
    match choice {
        Some(choice) => put(answer, key, choice)?,
        None if policy == DigestPolicy::Required => return Err(NegotiationError::Unacceptable(key)),
        // The key stays at its default, None (section 6.2).
        None => put(answer, key, REJECT)?,
    }
    Ok(choice == Some(b"CRC32C"))
}

/// The checks that every known key passes: it may be here, it is new, its value is no reserved constant and not too long.
pub(crate) fn admit(key: Key, value: &[u8], place: Place, seen: &mut KeySet) -> Result<(), NegotiationError> {
    if !key.allowed(place) {
        return Err(NegotiationError::NotAllowed(key));
    }
    if !seen.insert(key) {
        return Err(NegotiationError::Twice(key));
    }
    if [REJECT, IRRELEVANT, NOT_UNDERSTOOD].iter().any(|constant| constant.as_bytes() == value) {
        return Err(NegotiationError::Reserved(key));
    }
    if value.len() > key.value_limit() {
        return Err(TextError::ValueTooLong.into());
    }
    Ok(())
}

/// The number offered, if it is one and within bounds.
fn offered(value: &[u8], bounds: core::ops::RangeInclusive<u64>) -> Option<u32> {
    text::number(value)
        .ok()
        .filter(|number| bounds.contains(number))
        .and_then(|number| u32::try_from(number).ok())
}

fn yes_no(value: bool) -> &'static str {
    if value { "Yes" } else { "No" }
}

trait Answer {
    fn put(self, key: Key, answer: &mut TextBuilder) -> Result<(), TextError>;
}

impl Answer for &str {
    fn put(self, key: Key, answer: &mut TextBuilder) -> Result<(), TextError> {
        answer.push(key.name(), self)
    }
}

impl Answer for &[u8] {
    fn put(self, key: Key, answer: &mut TextBuilder) -> Result<(), TextError> {
        answer.push(key.name(), self)
    }
}

impl Answer for u32 {
    fn put(self, key: Key, answer: &mut TextBuilder) -> Result<(), TextError> {
        answer.push(key.name(), self.to_string())
    }
}

fn put(answer: &mut TextBuilder, key: Key, value: impl Answer) -> Result<(), NegotiationError> {
    Ok(value.put(key, answer)?)
}

/// A value out of bounds is answered `Reject`, which leaves the key as it was (section 6.2.2).
fn put_number(answer: &mut TextBuilder, key: Key, value: Option<u32>) -> Result<(), NegotiationError> {
    match value {
        Some(number) => put(answer, key, number),
        None => put(answer, key, REJECT),
    }
}
