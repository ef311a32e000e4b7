//! The SecurityNegotiation stage (RFC 7143 section 12).

use std::rc::Rc;

use crate::chap::{Exchange, Seed};
use crate::login::LoginStatus;
use crate::negotiate::{Key, KeySet, NegotiationError, Place, admit};
use crate::target::{Authentication, ChapCredentials};
use crate::text::{self, Pair, TextBuilder};

/// How far the proof has come.
#[derive(Debug)]
pub(super) enum Security {
    /// Nothing to prove.
    Open,
    /// A proof is due, no method was chosen yet. `proposed`: the target has named CHAP itself.
    Due { credentials: ChapCredentials, random: Seed, proposed: bool },
    /// CHAP is on its way, or done.
    Chap(Box<Exchange>),
}

impl Security {
    pub(super) fn new(authentication: Authentication, random: Seed) -> Self {
        match authentication {
            Authentication::None => Self::Open,
            Authentication::Chap(credentials) => Self::Due { credentials, random, proposed: false },
        }
    }

    /// Whether the stage may be left.
    pub(super) fn is_satisfied(&self) -> bool {
        match self {
            Self::Open => true,
            Self::Due { .. } => false,
            Self::Chap(exchange) => exchange.is_done(),
        }
    }

    /// The proven name.
    pub(super) fn user(&self) -> Option<Rc<str>> {
        match self {
            Self::Chap(exchange) if exchange.is_done() => Some(exchange.user()),
            _ => None,
        }
    }

    /// Takes the keys of one request of this stage. `wants_on`: the T bit.
    pub(super) fn answer(
        &mut self,
        pairs: &[Pair<'_>],
        seen: &mut KeySet,
        wants_on: bool,
        answer: &mut TextBuilder,
    ) -> Result<(), LoginStatus> {
        let mut offered = None;
        for pair in pairs {
            match Key::parse(pair.key) {
                None => answer.push(pair.key, "NotUnderstood").map_err(|_| LoginStatus::InitiatorError)?,
                Some(key) => {
                    admit(key, pair.value, Place::Security, seen).map_err(status)?;
                    if key == Key::AuthMethod {
                        offered = Some(pair.value);
                    }
                }
            }
        }
        if let Some(methods) = offered {
            self.choose(methods, answer)?;
        }
        match self {
            Self::Chap(exchange) => {
                exchange.advance(pairs.iter().copied(), answer).map_err(|error| {
                    tracing::debug!(%error, "CHAP failed");
                    LoginStatus::AuthenticationFailure
                })?;
            }
            Self::Open | Self::Due { .. } if pairs.iter().any(|pair| pair.key.starts_with("CHAP_")) => {
                return Err(LoginStatus::AuthenticationFailure);
            }
            // The initiator would go on without a proof: the target names the method (section 6.3.2), once.
            Self::Due { proposed, .. } if wants_on => {
                if std::mem::replace(proposed, true) {
                    return Err(LoginStatus::AuthenticationFailure);
                }
                answer.push(Key::AuthMethod.name(), "CHAP").map_err(|_| LoginStatus::InitiatorError)?;
            }
            Self::Open | Self::Due { .. } => {}
        }
        Ok(())
    }

    /// Takes the first method of the list that serves; an answer to the target's own proposal is not answered again.
    fn choose(&mut self, methods: &[u8], answer: &mut TextBuilder) -> Result<(), LoginStatus> {
        let wanted: &[u8] = if matches!(self, Self::Open) { b"None" } else { b"CHAP" };
        if !text::list(methods).any(|method| method == wanted) {
            return Err(LoginStatus::AuthenticationFailure);
        }
        let mut echo = true;
        *self = match std::mem::replace(self, Self::Open) {
            Self::Due { credentials, random, proposed } => {
                echo = !proposed;
                Self::Chap(Box::new(Exchange::new(credentials, random.0)))
            }
            other => other,
        };
        if echo {
            answer.push(Key::AuthMethod.name(), wanted).map_err(|_| LoginStatus::InitiatorError)?;
        }
        Ok(())
    }
}

/// Every failure of a negotiation is the initiator's error in login (section 7.12).
pub(super) fn status(error: NegotiationError) -> LoginStatus {
    tracing::debug!(%error, "login negotiation failed");
    LoginStatus::InitiatorError
}
