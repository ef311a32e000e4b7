//! The target's login machine.

use std::rc::Rc;

use super::LoginStatus;
use super::security::{Security, status};
use crate::chap::Seed;
use crate::names::IscsiName;
use crate::negotiate::{Key, KeySet, Negotiation, Parameters, Place};
use crate::pdu::{LoginRequest, Stage};
use crate::target::{Directory, LoginSubject, Policy, SessionRequest, SessionType, Tsih};
use crate::text::{self, Pair, TextBuilder, TextCollector};

/// Requests that one login may take. The standard wants six exchanges to be possible (section 6.2).
const REQUESTS_LIMIT: u32 = 64;

/// Longest answer: the initiator takes 8192 bytes during login (section 13.12).
const ANSWER_LIMIT: usize = 8192;

/// One login.
#[derive(Debug)]
pub(crate) struct Login {
    portal_group: u16,
    policy: Policy,
    random: Seed,
    requests: u32,
    text: TextCollector,
    /// The first request's header: what later ones must repeat.
    first: Option<First>,
    begun: Option<Begun>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct First {
    request: Repeated,
    stage: Stage,
}

/// What all requests of a login have in common (section 11.12). Task tag and CmdSN should be the same too, but nothing depends on it
/// and not all initiators comply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Repeated {
    isid: crate::pdu::Isid,
    tsih: crate::pdu::Tsih,
    cid: crate::pdu::Cid,
    versions: (u8, u8),
}

/// From the first whole text on.
#[derive(Debug)]
struct Begun {
    subject: LoginSubject,
    /// The session that this connection is to join, and what holds there.
    joins: Option<(Tsih, Parameters)>,
    alias: Option<Rc<str>>,
    initiator_alias: Option<Rc<str>>,
    seen: KeySet,
    security: Security,
    negotiation: Option<Negotiation>,
}

/// What to send as a Login Response with status 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) transit: bool,
    pub(crate) current: Stage,
    pub(crate) next: Stage,
    pub(crate) text: Vec<u8>,
}

/// What a request led to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Answer and wait for the next request.
    Answer(Reply),
    /// All is checked: when the session is admitted, send this.
    Ready(Box<SessionRequest>, Reply),
    /// Answer with this status and text, then close.
    Refuse(LoginStatus, Vec<u8>),
}

impl From<LoginStatus> for Outcome {
    fn from(status: LoginStatus) -> Self {
        Self::Refuse(status, Vec::new())
    }
}

impl Login {
    pub(crate) fn new(portal_group: u16, policy: Policy, random: [u8; 32]) -> Self {
        Self {
            portal_group,
            policy,
            random: Seed(random),
            requests: 0,
            text: TextCollector::default(),
            first: None,
            begun: None,
        }
    }

    /// Takes one request.
    pub(crate) fn request(&mut self, request: &LoginRequest, directory: &dyn Directory) -> Outcome {
        match self.try_request(request, directory) {
            Ok(outcome) | Err(outcome) => outcome,
        }
    }

    fn try_request(&mut self, request: &LoginRequest, directory: &dyn Directory) -> Result<Outcome, Outcome> {
        let stage = self.check_header(request)?;
        self.text.push(&request.text).map_err(|_| LoginStatus::InitiatorError)?;
        if request.continues {
            // An empty answer asks for the rest (section 6.2).
            return Ok(Outcome::Answer(Reply {
                transit: false,
                current: stage,
                next: stage,
                text: Vec::new(),
            }));
        }
        let text = self.text.take();
        let pairs = text::pairs(&text).map_err(|_| LoginStatus::InitiatorError)?;
        let mut answer = TextBuilder::new(ANSWER_LIMIT);
        if self.begun.is_none() {
            let begun = self.begin(request, stage, &pairs, directory)?;
            self.begun = Some(begun);
            answer
                .push(Key::TargetPortalGroupTag.name(), self.portal_group.to_string())
                .map_err(|_| LoginStatus::InitiatorError)?;
        }
        let begun = self.begun.as_mut().ok_or(LoginStatus::TargetError)?;
        let may_go = if stage == Stage::SECURITY {
            begun.security.answer(&pairs, &mut begun.seen, request.transit, &mut answer)?;
            begun.security.is_satisfied()
        } else {
            begun.operational(self.policy, &pairs, &mut answer)?;
            true
        };
        begun.note_alias(&pairs);
        for key in [Key::InitiatorName, Key::TargetName, Key::SessionType] {
            // The first request was the place for them.
            begun.seen.insert(key);
        }
        let transit = request.transit && may_go;
        let next = if transit { request.next_stage } else { stage };
        if let (true, Some(first)) = (transit, self.first.as_mut()) {
            first.stage = next;
        }
        let reply = Reply { transit, current: stage, next, text: answer.finish() };
        if next != Stage::FULL_FEATURE {
            return Ok(Outcome::Answer(reply));
        }
        let session = begun.finish(self.policy, request.cid.0)?;
        Ok(Outcome::Ready(Box::new(session), reply))
    }

    /// The rules of the header; the stage that the request belongs to.
    fn check_header(&mut self, request: &LoginRequest) -> Result<Stage, Outcome> {
        self.requests += 1;
        if self.requests > REQUESTS_LIMIT {
            return Err(LoginStatus::InitiatorError.into());
        }
        let repeated = Repeated {
            isid: request.isid,
            tsih: request.tsih,
            cid: request.cid,
            versions: (request.version_max, request.version_min),
        };
        let stage = request.current_stage;
        match self.first {
            None => {
                if request.version_min > 0 {
                    return Err(LoginStatus::UnsupportedVersion.into());
                }
                if stage != Stage::SECURITY && stage != Stage::OPERATIONAL {
                    return Err(LoginStatus::InitiatorError.into());
                }
                self.first = Some(First { request: repeated, stage });
            }
            Some(first) => {
                if first.request != repeated || first.stage != stage {
                    return Err(LoginStatus::InitiatorError.into());
                }
            }
        }
        let next = request.next_stage;
        let forward = next == Stage::FULL_FEATURE || (stage == Stage::SECURITY && next == Stage::OPERATIONAL);
        if request.transit && (request.continues || !forward) {
            return Err(LoginStatus::InitiatorError.into());
        }
        Ok(stage)
    }

    /// Who wants what, and whether they may.
    fn begin(
        &self,
        request: &LoginRequest,
        stage: Stage,
        pairs: &[Pair<'_>],
        directory: &dyn Directory,
    ) -> Result<Begun, Outcome> {
        let value = |key: Key| pairs.iter().find(|pair| pair.key == key.name()).map(|pair| pair.value);
        let name = |key: Key| match value(key).map(IscsiName::parse).transpose() {
            Ok(name) => Ok(name),
            Err(_) => Err(LoginStatus::InitiatorError),
        };
        let initiator = name(Key::InitiatorName)?.ok_or(LoginStatus::MissingParameter)?;
        let session_type = match value(Key::SessionType) {
            None | Some(b"Normal") => SessionType::Normal,
            Some(b"Discovery") => SessionType::Discovery,
            Some(_) => return Err(LoginStatus::SessionTypeNotSupported.into()),
        };
        let target = name(Key::TargetName)?;
        if target.is_none() && session_type == SessionType::Normal {
            return Err(LoginStatus::MissingParameter.into());
        }
        let subject = LoginSubject {
            initiator,
            isid: request.isid,
            target,
            session_type,
            portal_group: self.portal_group,
        };
        let joins = match Tsih::new(request.tsih.0) {
            None => None,
            Some(tsih) => {
                let parameters = directory.session(&subject, tsih);
                Some((tsih, parameters.ok_or(LoginStatus::SessionDoesNotExist)?))
            }
        };
        let access = directory.access(&subject)?;
        if let Some(elsewhere) = access.redirect {
            let mut text = TextBuilder::new(ANSWER_LIMIT);
            // Without the portal group tag (section 13.8).
            let written = text.push(Key::TargetAddress.name(), text::address(elsewhere.to));
            written.map_err(|_| LoginStatus::TargetError)?;
            let status = match elsewhere.permanent {
                true => LoginStatus::MovedPermanently,
                false => LoginStatus::MovedTemporarily,
            };
            return Err(Outcome::Refuse(status, text.finish()));
        }
        let security = Security::new(access.authentication, self.random);
        if stage != Stage::SECURITY && !security.is_satisfied() {
            return Err(LoginStatus::AuthenticationFailure.into());
        }
        let alias = access.alias.filter(|_| session_type == SessionType::Normal);
        Ok(Begun {
            subject,
            joins,
            alias,
            initiator_alias: None,
            seen: KeySet::default(),
            security,
            negotiation: None,
        })
    }
}

impl Begun {
    fn negotiation(&mut self, policy: Policy) -> &mut Negotiation {
        let (session_type, seen, joins) = (self.subject.session_type, self.seen, self.joins);
        self.negotiation.get_or_insert_with(|| match joins {
            None => Negotiation::login(policy, session_type, seen),
            Some((_, session)) => Negotiation::further_connection(policy, &session, seen),
        })
    }

    fn operational(
        &mut self,
        policy: Policy,
        pairs: &[Pair<'_>],
        answer: &mut TextBuilder,
    ) -> Result<(), LoginStatus> {
        let alias = self.alias.take();
        let first_request = !self.seen.contains(Key::InitiatorName);
        let negotiation = self.negotiation(policy);
        negotiation.answer(pairs, Place::Operational, answer).map_err(status)?;
        negotiation.declare(answer).map_err(status)?;
        if first_request {
            negotiation.close(&[Key::InitiatorName, Key::TargetName, Key::SessionType]);
        }
        if let Some(alias) = alias {
            answer.push(Key::TargetAlias.name(), alias.as_bytes()).map_err(|_| LoginStatus::TargetError)?;
        }
        Ok(())
    }

    fn note_alias(&mut self, pairs: &[Pair<'_>]) {
        if let Some(pair) = pairs.iter().find(|pair| pair.key == Key::InitiatorAlias.name()) {
            self.initiator_alias = Some(String::from_utf8_lossy(pair.value).into());
        }
    }

    fn finish(&mut self, policy: Policy, cid: u16) -> Result<SessionRequest, LoginStatus> {
        let parameters = self.negotiation(policy).finish().map_err(status)?;
        Ok(SessionRequest {
            subject: self.subject.clone(),
            cid,
            tsih: self.joins.map(|(tsih, _)| tsih),
            authenticated_as: self.security.user(),
            parameters,
            initiator_alias: self.initiator_alias.take(),
        })
    }
}
