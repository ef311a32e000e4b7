//! Who may log in, with what proof, and what they find (R-HOST-4).

use std::net::SocketAddr;
use std::rc::Rc;

use twinlun_iscsi::chap::Secret;
use twinlun_iscsi::login::LoginStatus;
use twinlun_iscsi::names::IscsiName;
use twinlun_iscsi::target::{
    Access, Authentication, ChapCredentials, Directory, LoginSubject, SessionType, TargetRecord,
};

use crate::processor::Processor;
use crate::state::{Credentials, Host};

/// The directory as one connection sees it.
pub(crate) struct DirectoryView<'a> {
    pub(crate) processor: &'a Rc<Processor>,
    /// This end of the connection.
    pub(crate) local: SocketAddr,
}

impl Directory for DirectoryView<'_> {
    fn access(&self, subject: &LoginSubject) -> Result<Access, LoginStatus> {
        if self.processor.is_stopping() {
            return Err(LoginStatus::ServiceUnavailable);
        }
        if let Some(target) = &subject.target
            && *target != self.processor.target_name
        {
            return Err(LoginStatus::NotFound);
        }
        let state = self.processor.state.borrow();
        let Some(host) = state.host(subject.initiator.as_str()) else {
            return match subject.session_type {
                // Whoever may see nothing may still ask, and is told nothing.
                SessionType::Discovery => Ok(Access::open()),
                SessionType::Normal => Err(LoginStatus::AuthorizationFailure),
            };
        };
        Ok(Access { authentication: authentication(host), alias: None, redirect: None })
    }

    fn has_session(&self, subject: &LoginSubject, tsih: u16) -> bool {
        self.processor.sessions.borrow().has(subject, tsih)
    }

    fn targets(&self, initiator: &IscsiName) -> Vec<TargetRecord> {
        if self.processor.state.borrow().host(initiator.as_str()).is_none() {
            return Vec::new();
        }
        let portals = self.processor.portals.borrow();
        let portals =
            portals.iter().filter_map(|(listen, group)| Some((self.reachable(*listen)?, *group))).collect();
        vec![TargetRecord { name: self.processor.target_name.clone(), portals }]
    }
}

impl DirectoryView<'_> {
    /// A portal on every address is named by the one that this host has used already.
    fn reachable(&self, listen: SocketAddr) -> Option<SocketAddr> {
        if !listen.ip().is_unspecified() {
            return Some(listen);
        }
        (listen.is_ipv4() == self.local.is_ipv4()).then(|| SocketAddr::new(self.local.ip(), listen.port()))
    }
}

fn authentication(host: &Host) -> Authentication {
    let Some(chap) = &host.chap else { return Authentication::None };
    let (user, secret) = credentials(chap);
    Authentication::Chap(ChapCredentials { user, secret, mutual: host.mutual.as_ref().map(credentials) })
}

fn credentials(credentials: &Credentials) -> (Rc<str>, Secret) {
    (credentials.user.as_str().into(), Secret::new(credentials.secret.clone().into_bytes()))
}
