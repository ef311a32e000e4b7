//! Who is logged in. One session per initiator port, target and portal group: a second login ends the first (RFC 7143, 6.3.5).
//! Discovery sessions that name no target have neither: one per initiator port and address (7.4.2.1).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};

use twinlun_iscsi::names::{IscsiName, Isid};
use twinlun_iscsi::negotiate::Parameters;
use twinlun_iscsi::target::{LoginSubject, SessionType, Tsih};
use twinlun_scsi::NexusId;

use crate::session::HostSession;

/// What makes two logins the same session.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionKey {
    initiator: IscsiName,
    isid: Isid,
    place: Place,
}

/// What the initiator port has its session with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// A target, by a portal group.
    Target(IscsiName, u16),
    /// No target, by an address.
    Address(SocketAddr),
}

impl SessionKey {
    /// `local` is the address that the host has connected to.
    pub(crate) fn of(subject: &LoginSubject, local: SocketAddr) -> Self {
        let place = match &subject.target {
            Some(target) => Place::Target(target.clone(), subject.portal_group),
            None => Place::Address(local),
        };
        Self { initiator: subject.initiator.clone(), isid: subject.isid, place }
    }
}

/// One session.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) key: SessionKey,
    pub(crate) subject: LoginSubject,
    /// None for discovery.
    pub(crate) nexus: Option<NexusId>,
    /// InitiatorAlias, as the initiator sent it.
    pub(crate) alias: Option<Rc<str>>,
    /// CHAP name that it has proven.
    pub(crate) user: Option<Rc<str>>,
    /// Weak, because sessions own the storage processor that owns this table.
    pub(crate) host: Weak<HostSession>,
}

impl Session {
    /// The session itself; there is one until it is taken out of the table, but for the moment of its end.
    pub(crate) fn host(&self) -> Option<Rc<HostSession>> {
        self.host.upgrade()
    }
}

/// All sessions of the storage processor.
#[derive(Default)]
pub(crate) struct Sessions {
    by_handle: BTreeMap<Tsih, Session>,
    by_key: BTreeMap<SessionKey, Tsih>,
    by_nexus: BTreeMap<NexusId, Tsih>,
    last: u16,
}

impl Sessions {
    /// The session that a login with this key would replace.
    pub(crate) fn twin(&self, key: &SessionKey) -> Option<&Session> {
        self.by_key.get(key).and_then(|tsih| self.by_handle.get(tsih))
    }

    /// A handle that no session has; `None` when all are taken.
    pub(crate) fn free_handle(&mut self) -> Option<Tsih> {
        for _ in 0..=u16::MAX {
            self.last = self.last.wrapping_add(1);
            if let Some(tsih) = Tsih::new(self.last)
                && !self.by_handle.contains_key(&tsih)
            {
                return Some(tsih);
            }
        }
        None
    }

    pub(crate) fn insert(&mut self, tsih: Tsih, session: Session) {
        self.by_key.insert(session.key.clone(), tsih);
        if let Some(nexus) = session.nexus {
            self.by_nexus.insert(nexus, tsih);
        }
        self.by_handle.insert(tsih, session);
    }

    pub(crate) fn remove(&mut self, tsih: Tsih) {
        let Some(session) = self.by_handle.remove(&tsih) else { return };
        if self.by_key.get(&session.key) == Some(&tsih) {
            self.by_key.remove(&session.key);
        }
        if let Some(nexus) = session.nexus {
            self.by_nexus.remove(&nexus);
        }
    }

    pub(crate) fn get(&self, tsih: Tsih) -> Option<&Session> {
        self.by_handle.get(&tsih)
    }

    pub(crate) fn by_nexus(&self, nexus: NexusId) -> Option<&Session> {
        self.by_nexus.get(&nexus).and_then(|tsih| self.by_handle.get(tsih))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Tsih, &Session)> {
        self.by_handle.iter().map(|(tsih, session)| (*tsih, session))
    }

    /// All sessions that live.
    pub(crate) fn hosts(&self) -> Vec<Rc<HostSession>> {
        self.by_handle.values().filter_map(Session::host).collect()
    }

    /// The session with that handle, if such a login may join it: same initiator port, target and portal group.
    pub(crate) fn joinable(&self, subject: &LoginSubject, tsih: Tsih) -> Option<Rc<HostSession>> {
        let normal = |subject: &LoginSubject| subject.session_type == SessionType::Normal;
        let session = self.by_handle.get(&tsih)?;
        // The address plays no part: normal sessions name a target.
        let same = normal(subject)
            && normal(&session.subject)
            && (&subject.initiator, subject.isid) == (&session.subject.initiator, session.subject.isid)
            && (&subject.target, subject.portal_group)
                == (&session.subject.target, session.subject.portal_group);
        session.host().filter(|host| same && !host.core().borrow().is_over())
    }

    /// What was negotiated for a session that a login may join.
    pub(crate) fn parameters(&self, subject: &LoginSubject, tsih: Tsih) -> Option<Parameters> {
        self.joinable(subject, tsih).map(|host| *host.core().borrow().parameters())
    }
}
