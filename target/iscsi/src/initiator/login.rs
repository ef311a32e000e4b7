//! Login: from the first request to full feature phase (RFC 7143, 6.3).
//!
//! ```text
//! AuthMethod ──CHAP──▶ Challenge ──▶ Proof ─┐
//!     └────────None─────────────────────────┴──▶ Operational ──▶ full feature phase
//! ```

use std::rc::Rc;

use bytes::Bytes;
use subtle::ConstantTimeEq;

use super::{ChapLogin, InitiatorConfig, LoginError, SessionKind, negotiation};
use crate::chap::{Algorithm, ChapError, MIN_SECRET, Response};
use crate::deframer::LOGIN_DATA_LIMIT;
use crate::negotiate::Parameters;
use crate::pdu::{Cid, LoginRequest, LoginResponse, LoginStatus, Serial32, Stage, TaskTag, Tsih};
use crate::text::{self, BINARY_LIMIT, Pair, TextBuilder, TextCollector};

/// More answers than any honest exchange has.
const MAX_ROUNDS: u32 = 64;

/// What to do after an answer.
#[derive(Debug)]
pub(super) enum Step {
    /// Send this and wait.
    Send(LoginRequest),
    /// Full feature phase.
    Done { parameters: Parameters, tsih: Tsih },
}

#[derive(Debug)]
enum Awaiting {
    /// The target's choice of method.
    Method,
    /// Its choice of algorithm, and the challenge.
    Challenge,
    /// Its verdict, and its own response when one is due.
    Proof(Option<Response>),
    /// Answers to our offer.
    Operational,
    /// Nothing of this stage; only its end.
    Transit,
}

#[derive(Debug)]
pub(super) struct Login {
    config: Rc<InitiatorConfig>,
    cid: Cid,
    /// The session that a further connection joins.
    session: Option<Tsih>,
    awaiting: Awaiting,
    stage: Stage,
    /// Whether nothing of this side is left to be said in the stage.
    transit: bool,
    /// Whether the last request asked to leave the stage; only then may the target say yes.
    asked: bool,
    collected: TextCollector,
    parameters: Parameters,
    exp_stat_sn: Option<Serial32>,
    cmd_sn: Serial32,
    rounds: u32,
}

/// The tag of all requests of a login.
const LOGIN_TAG: TaskTag = TaskTag(0);

/// What RFC 7143 section 9.2.1 forbids is refused before the target hears anything that could be attacked.
fn check_secrets(chap: &ChapLogin) -> Result<(), ChapError> {
    let mutual = chap.mutual.as_ref().map(|mutual| &mutual.secret);
    if [Some(&chap.secret), mutual].into_iter().flatten().any(|secret| secret.len() < MIN_SECRET) {
        return Err(ChapError::ShortSecret);
    }
    if mutual.is_some_and(|mutual| mutual.same_as(&chap.secret)) {
        return Err(ChapError::SameSecret);
    }
    if chap.algorithms.is_empty() {
        return Err(ChapError::NoAlgorithm);
    }
    Ok(())
}

fn find<'a>(pairs: &[Pair<'a>], key: &str) -> Option<&'a [u8]> {
    pairs.iter().find(|pair| pair.key == key).map(|pair| pair.value)
}

impl Login {
    /// Begins a login.
    pub(super) fn start(
        config: Rc<InitiatorConfig>,
        cmd_sn: Serial32,
    ) -> Result<(Self, LoginRequest), LoginError> {
        let cid = config.cid;
        Self::begin(config, cid, None, cmd_sn)
    }

    /// Begins the login of a further connection of a session with these parameters.
    pub(super) fn join(
        config: Rc<InitiatorConfig>,
        cid: Cid,
        session: (Tsih, &Parameters),
        cmd_sn: Serial32,
    ) -> Result<(Self, LoginRequest), LoginError> {
        Self::begin(config, cid, Some(session), cmd_sn)
    }

    fn begin(
        config: Rc<InitiatorConfig>,
        cid: Cid,
        session: Option<(Tsih, &Parameters)>,
        cmd_sn: Serial32,
    ) -> Result<(Self, LoginRequest), LoginError> {
        if let Some(chap) = &config.chap {
            check_secrets(chap)?;
        }
        let base = session.map_or_else(Parameters::default, |(_, held)| held.for_further_connection());
        let mut login = Self {
            cid,
            session: session.map(|(tsih, _)| tsih),
            awaiting: Awaiting::Method,
            stage: Stage::SECURITY,
            transit: config.chap.is_none(),
            asked: false,
            collected: TextCollector::default(),
            parameters: Parameters { initiator_max_recv: config.offer.initiator_max_recv, ..base },
            exp_stat_sn: None,
            cmd_sn,
            rounds: 0,
            config,
        };
        let mut text = TextBuilder::new(LOGIN_DATA_LIMIT as usize);
        text.push("InitiatorName", login.config.name.as_str())?;
        match &login.config.session {
            SessionKind::Discovery => text.push("SessionType", "Discovery")?,
            SessionKind::Normal { target } => {
                text.push("SessionType", "Normal")?;
                text.push("TargetName", target.as_str())?;
            }
        }
        text.push("AuthMethod", login.methods())?;
        let request = login.request(text, login.transit);
        Ok((login, request))
    }

    /// Who demands that the target proves itself does not offer to go without.
    fn methods(&self) -> &'static str {
        match &self.config.chap {
            None => "None",
            Some(ChapLogin { mutual: None, .. }) => "CHAP,None",
            Some(_) => "CHAP",
        }
    }

    fn may_skip_authentication(&self) -> bool {
        self.config.chap.as_ref().is_none_or(|chap| chap.mutual.is_none())
    }

    fn request(&mut self, text: TextBuilder, transit: bool) -> LoginRequest {
        self.asked = transit;
        let next = if self.stage == Stage::SECURITY { Stage::OPERATIONAL } else { Stage::FULL_FEATURE };
        LoginRequest {
            transit,
            continues: false,
            current_stage: self.stage,
            next_stage: if transit { next } else { Stage::SECURITY },
            version_max: 0,
            version_min: 0,
            isid: self.config.isid,
            tsih: self.session.unwrap_or(Tsih(0)),
            task_tag: LOGIN_TAG,
            cid: self.cid,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn.unwrap_or_default(),
            text: Bytes::from(text.finish()),
        }
    }

    /// Takes an answer.
    pub(super) fn answer(&mut self, response: &LoginResponse) -> Result<Step, LoginError> {
        self.rounds += 1;
        if self.rounds > MAX_ROUNDS {
            return Err(LoginError::TooManyRounds);
        }
        self.check_status(response)?;
        let in_order = response.task_tag == LOGIN_TAG
            && response.isid == self.config.isid
            && response.current_stage == self.stage
            && self.exp_stat_sn.is_none_or(|due| due == response.stat_sn)
            && !(response.continues && response.transit)
            && (self.asked || !response.transit);
        if !in_order {
            return Err(LoginError::Sequence);
        }
        self.exp_stat_sn = Some(response.stat_sn.next());
        self.collected.push(&response.text)?;
        if response.continues {
            return Ok(Step::Send(self.request(TextBuilder::new(0), false)));
        }
        let text = self.collected.take();
        let pairs = text::pairs(&text)?;
        let mut answer = TextBuilder::new(LOGIN_DATA_LIMIT as usize);
        self.advance(&pairs, &mut answer)?;
        if response.transit {
            return self.leave_stage(response, answer);
        }
        Ok(Step::Send(self.request(answer, self.transit)))
    }

    fn check_status(&self, response: &LoginResponse) -> Result<(), LoginError> {
        if response.status.is_success() {
            return Ok(());
        }
        if matches!(response.status, LoginStatus::MOVED_TEMPORARILY | LoginStatus::MOVED_PERMANENTLY) {
            let pairs = text::pairs(&response.text)?;
            if let Some(address) = find(&pairs, "TargetAddress")
                && address.iter().all(u8::is_ascii_graphic)
            {
                return Err(LoginError::Redirected {
                    address: String::from_utf8_lossy(address).into_owned(),
                    permanently: response.status == LoginStatus::MOVED_PERMANENTLY,
                });
            }
        }
        Err(LoginError::Refused(response.status))
    }

    fn leave_stage(&mut self, response: &LoginResponse, mut answer: TextBuilder) -> Result<Step, LoginError> {
        // What is still awaited in the stage will not come any more.
        let complete = match self.awaiting {
            Awaiting::Transit | Awaiting::Operational => true,
            Awaiting::Method | Awaiting::Challenge | Awaiting::Proof(_) => false,
        };
        match (self.stage, response.next_stage) {
            (Stage::SECURITY, Stage::OPERATIONAL) if complete => {
                self.stage = Stage::OPERATIONAL;
                self.awaiting = Awaiting::Operational;
                self.transit = true;
                let further = self.session.is_some();
                negotiation::offer(&self.config.offer, &self.config.session, further, &mut answer)?;
                Ok(Step::Send(self.request(answer, self.transit)))
            }
            (Stage::OPERATIONAL, Stage::FULL_FEATURE)
                if complete
                    && response.tsih != Tsih(0)
                    && self.session.is_none_or(|tsih| tsih == response.tsih) =>
            {
                let mut parameters = self.parameters;
                parameters.first_burst = parameters.first_burst.min(parameters.max_burst);
                Ok(Step::Done { parameters, tsih: response.tsih })
            }
            _ => Err(LoginError::Sequence),
        }
    }

    /// StatSN that is due next, once login is done.
    pub(super) fn exp_stat_sn(&self) -> Serial32 {
        self.exp_stat_sn.unwrap_or_default()
    }

    fn advance(&mut self, pairs: &[Pair<'_>], answer: &mut TextBuilder) -> Result<(), LoginError> {
        self.awaiting = match std::mem::replace(&mut self.awaiting, Awaiting::Transit) {
            Awaiting::Method => self.method(pairs, answer)?,
            Awaiting::Challenge => self.challenge(pairs, answer)?,
            Awaiting::Proof(due) => self.proof(pairs, due)?,
            Awaiting::Operational => {
                for pair in pairs {
                    negotiation::accept(*pair, &self.config.offer, &mut self.parameters, answer)?;
                }
                Awaiting::Operational
            }
            Awaiting::Transit => Awaiting::Transit,
        };
        Ok(())
    }

    fn method(&mut self, pairs: &[Pair<'_>], answer: &mut TextBuilder) -> Result<Awaiting, LoginError> {
        match (find(pairs, "AuthMethod"), &self.config.chap) {
            (Some(b"CHAP"), Some(chap)) => {
                let numbers: Vec<String> = chap.algorithms.iter().map(|a| (*a as u8).to_string()).collect();
                answer.push("CHAP_A", numbers.join(","))?;
                Ok(Awaiting::Challenge)
            }
            // A target that asks nobody may say so by saying nothing.
            (Some(b"None") | None, _) if self.may_skip_authentication() => {
                self.transit = true;
                Ok(Awaiting::Transit)
            }
            _ => Err(LoginError::AuthMethod),
        }
    }

    fn challenge(&mut self, pairs: &[Pair<'_>], answer: &mut TextBuilder) -> Result<Awaiting, LoginError> {
        let chap = self.config.chap.as_ref().ok_or(LoginError::AuthMethod)?;
        let byte = |key| -> Result<u64, ChapError> {
            let value = find(pairs, key).ok_or(ChapError::Sequence)?;
            text::number(value).ok().filter(|number| *number < 256).ok_or(ChapError::Value)
        };
        let algorithm = Algorithm::from_number(byte("CHAP_A")?)
            .filter(|chosen| chap.algorithms.contains(chosen))
            .ok_or(ChapError::NoAlgorithm)?;
        let identifier = byte("CHAP_I")? as u8;
        let challenge = find(pairs, "CHAP_C").ok_or(ChapError::Sequence)?;
        let challenge = text::binary(challenge, BINARY_LIMIT).map_err(|_| ChapError::Value)?;
        answer.push("CHAP_N", chap.user.as_bytes())?;
        answer.push("CHAP_R", text::hex(&algorithm.respond(identifier, &chap.secret, &challenge)))?;
        let mut due = None;
        if let Some(mutual) = &chap.mutual {
            let [own_identifier, random @ ..] = &mutual.random;
            let own = &random[..algorithm.response_len()];
            if own == challenge.as_slice() {
                return Err(ChapError::Reflected.into());
            }
            answer.push("CHAP_I", own_identifier.to_string())?;
            answer.push("CHAP_C", text::hex(own))?;
            due = Some(algorithm.respond(*own_identifier, &mutual.secret, own));
        }
        self.transit = true;
        Ok(Awaiting::Proof(due))
    }

    fn proof(&self, pairs: &[Pair<'_>], due: Option<Response>) -> Result<Awaiting, LoginError> {
        let mutual = self.config.chap.as_ref().and_then(|chap| chap.mutual.as_ref());
        let (Some(mutual), Some(due)) = (mutual, due) else { return Ok(Awaiting::Transit) };
        let name = find(pairs, "CHAP_N").ok_or(ChapError::Sequence)?;
        let proof = find(pairs, "CHAP_R").ok_or(ChapError::Sequence)?;
        let proof = text::binary(proof, due.len()).map_err(|_| ChapError::Value)?;
        if name != mutual.user.as_bytes() {
            return Err(ChapError::Name.into());
        }
        if !bool::from(proof.ct_eq(&due)) {
            return Err(ChapError::Response.into());
        }
        Ok(Awaiting::Transit)
    }
}
