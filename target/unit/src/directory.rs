//! Who may log in, with what proof, and what they find (R-HOST-4).

use std::net::SocketAddr;
use std::rc::Rc;

use twinlun_iscsi::chap::Secret;
use twinlun_iscsi::login::LoginStatus;
use twinlun_iscsi::names::IscsiName;
use twinlun_iscsi::negotiate::Parameters;
use twinlun_iscsi::target::{
    Access, Authentication, ChapCredentials, Directory, LoginSubject, Redirect, SessionType, TargetRecord,
    Tsih,
};

use crate::portal::{Portal, Service};
use crate::processor::Processor;
use crate::state::{ALL, Credentials, UnitState};

/// The directory as one connection sees it.
pub(crate) struct DirectoryView<'a> {
    pub(crate) processor: &'a Rc<Processor>,
    /// This end of the connection.
    pub(crate) local: SocketAddr,
}

impl Directory for DirectoryView<'_> {
    fn access(&self, subject: &LoginSubject) -> Result<Access, LoginStatus> {
        let portal = self.processor.portal_at(self.local);
        let serving = portal.as_ref().is_some_and(|portal| portal.service() == Service::Serving);
        if self.processor.is_stopping() || !serving {
            return Err(LoginStatus::ServiceUnavailable);
        }
        if let Some(target) = &subject.target
            && *target != self.processor.target_name
        {
            return Err(LoginStatus::NotFound);
        }
        let state = self.processor.state.borrow();
        let host = state.host(subject.initiator.as_str());
        if subject.session_type == SessionType::Discovery {
            // Credentials for discovery are asked of everybody. Without them a known host proves itself as it does for a normal
            // session; whoever may see nothing may still ask, and is told nothing.
            let (chap, mutual) = match (&state.discovery.chap, host) {
                (Some(chap), _) => (Some(chap), state.discovery.mutual.as_ref()),
                (None, Some(host)) => (host.chap.as_ref(), host.mutual.as_ref()),
                (None, None) => (None, None),
            };
            return Ok(Access { authentication: self.proof(chap, mutual), ..Access::open() });
        }
        let host = host.ok_or(LoginStatus::AuthorizationFailure)?;
        if !host.may_use(subject.portal_group) {
            return Err(LoginStatus::AuthorizationFailure);
        }
        let redirect = portal.and_then(|portal| redirect(&state, &portal));
        let authentication = self.proof(host.chap.as_ref(), host.mutual.as_ref());
        Ok(Access { authentication, alias: None, redirect })
    }

    fn session(&self, subject: &LoginSubject, tsih: Tsih) -> Option<Parameters> {
        self.processor.sessions.borrow().parameters(subject, tsih)
    }

    fn targets(&self, initiator: &IscsiName) -> Vec<TargetRecord> {
        let state = self.processor.state.borrow();
        let Some(host) = state.host(initiator.as_str()) else { return Vec::new() };
        let portals = self.processor.portals.borrow();
        let portals: Vec<_> = portals
            .iter()
            .filter(|portal| portal.service() == Service::Serving && host.may_use(portal.config.group))
            .filter_map(|portal| Some((self.reachable(portal)?, portal.config.group)))
            .collect();
        // A target without a portal would be taken to be where the question was asked (RFC 7143 appendix C).
        if portals.is_empty() {
            return Vec::new();
        }
        vec![TargetRecord { name: self.processor.target_name.clone(), portals }]
    }
}

impl DirectoryView<'_> {
    /// A portal on every address is named by the one that this host has used already.
    fn reachable(&self, portal: &Portal) -> Option<SocketAddr> {
        let listen = portal.address;
        if !listen.ip().is_unspecified() {
            return Some(listen);
        }
        (listen.is_ipv4() == self.local.is_ipv4()).then(|| SocketAddr::new(self.local.ip(), listen.port()))
    }

    fn proof(&self, chap: Option<&Credentials>, mutual: Option<&Credentials>) -> Authentication {
        let Some(chap) = chap else { return Authentication::None };
        let (user, secret) = credentials(chap);
        let algorithms = self.processor.config.chap.set();
        Authentication::Chap(ChapCredentials { user, secret, mutual: mutual.map(credentials), algorithms })
    }
}

/// Where normal logins at a portal are sent: an order for the portal before one for all, and both before the configuration.
pub(crate) fn redirect(state: &UnitState, portal: &Portal) -> Option<Redirect> {
    let ordered = state.redirects.get(&portal.address.to_string()).or_else(|| state.redirects.get(ALL));
    let (to, permanent) = match ordered {
        Some(order) => (order.to, order.permanent),
        None => portal.config.redirect.map(|redirect| (redirect.to, redirect.permanent))?,
    };
    // An order for all portals does not send away from the portal that it names.
    (to != portal.address).then_some(Redirect { to, permanent })
}

fn credentials(credentials: &Credentials) -> (Rc<str>, Secret) {
    (credentials.user.as_str().into(), Secret::new(credentials.secret.clone().into_bytes()))
}
