//! What the storage processor knows and a login asks: targets, hosts, secrets.

use std::net::SocketAddr;
use std::rc::Rc;

use crate::chap::{AlgorithmSet, Secret};
use crate::login::LoginStatus;
use crate::names::{IscsiName, Isid};
use crate::negotiate::Parameters;
use crate::target::Tsih;

/// Normal or discovery (RFC 7143 section 13.21).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionType {
    /// SCSI commands.
    Normal,
    /// SendTargets and nothing else.
    Discovery,
}

/// Who wants what, from the first Login Request. Nothing of it is proven yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginSubject {
    /// The initiator's name.
    pub initiator: IscsiName,
    /// Which of the initiator's sessions.
    pub isid: Isid,
    /// The target; `None` in an unnamed discovery session only.
    pub target: Option<IscsiName>,
    /// What kind of session.
    pub session_type: SessionType,
    /// The portal group that the connection came in by.
    pub portal_group: u16,
}

/// The answers that a login needs. They are given at once, from the configuration in force.
pub trait Directory {
    /// Whether the login may go on, and what proof it takes. An error ends the login with that status: `NotFound`,
    /// `AuthorizationFailure`, `TargetRemoved`, `ServiceUnavailable`, `OutOfResources`, `SessionTypeNotSupported`.
    fn access(&self, subject: &LoginSubject) -> Result<Access, LoginStatus>;

    /// What was negotiated for the session with that handle, if the login may join it: it is a normal session of the same initiator
    /// name, ISID, target and portal group (RFC 7143 section 6.3.1).
    fn session(&self, subject: &LoginSubject, tsih: Tsih) -> Option<Parameters>;

    /// The targets that the initiator may use, with their portals, for SendTargets (RFC 7143 appendix C). `initiator` has passed
    /// the proof that [`Directory::access`] asked for.
    fn targets(&self, initiator: &IscsiName) -> Vec<TargetRecord>;
}

/// A login that may go on.
#[derive(Clone, Debug)]
pub struct Access {
    /// The proof it takes.
    pub authentication: Authentication,
    /// TargetAlias to declare; normal sessions only.
    pub alias: Option<Rc<str>>,
    /// Tells the initiator to go elsewhere instead.
    pub redirect: Option<Redirect>,
}

/// Where an initiator is sent (RFC 7143 sections 11.13.5 and 13.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The portal to use instead.
    pub to: SocketAddr,
    /// For good (status 0102), or for this login (0101).
    pub permanent: bool,
}

impl Access {
    /// Access with nothing to prove.
    pub fn open() -> Self {
        Self { authentication: Authentication::None, alias: None, redirect: None }
    }

    /// Access for those who know the secret.
    pub fn chap(credentials: ChapCredentials) -> Self {
        Self { authentication: Authentication::Chap(credentials), alias: None, redirect: None }
    }
}

/// How an initiator proves who it is.
#[derive(Clone, Debug)]
pub enum Authentication {
    /// Not at all. CHAP is then not offered: nobody has a secret to check.
    None,
    /// By CHAP (RFC 7143 section 12.1.3); `AuthMethod=None` is refused.
    Chap(ChapCredentials),
}

/// Both sides of a CHAP exchange.
#[derive(Clone, Debug)]
pub struct ChapCredentials {
    /// CHAP_N that the initiator must send.
    pub user: Rc<str>,
    /// The initiator's secret.
    pub secret: Secret,
    /// CHAP_N and secret by which the target proves itself when asked. Without it such a request fails.
    pub mutual: Option<(Rc<str>, Secret)>,
    /// Algorithms that are taken; the initiator's order decides among them.
    pub algorithms: AlgorithmSet,
}

/// One target in a SendTargets response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRecord {
    /// The target.
    pub name: IscsiName,
    /// Its portals with their portal group tags.
    pub portals: Vec<(SocketAddr, u16)>,
}
