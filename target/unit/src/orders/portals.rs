//! Orders about portals: drain them, serve again, send logins elsewhere (RFC 7143, 11.9 and 11.13.5).

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use twinlun_api as api;
use twinlun_api::Problem;
use twinlun_iscsi::target::AsyncMessage;

use super::{failed, not_found, plan, refused, usage, value};
use crate::admin::Answer;
use crate::directory::redirect;
use crate::portal::{Portal, Service};
use crate::processor::{Processor, TIME2WAIT};
use crate::state::{ALL, RedirectOrder};

/// Longest time that a drain gives.
const MAX_SECONDS: u16 = 3600;

impl Processor {
    pub(crate) fn portal_views(&self) -> Vec<api::PortalView> {
        let state = self.state.borrow();
        let view = |portal: &Rc<Portal>| {
            let redirect = redirect(&state, portal);
            api::PortalView {
                address: portal.address.to_string(),
                group: portal.config.group,
                state: portal.service().name().into(),
                sessions: portal.sessions(),
                redirect: redirect.map(|redirect| redirect.to.to_string()),
                redirect_permanent: redirect.is_some_and(|redirect| redirect.permanent),
            }
        };
        self.portals.borrow().iter().map(view).collect()
    }

    fn portal_named(&self, address: &str) -> Result<Rc<Portal>, Problem> {
        let wanted: Option<SocketAddr> = address.parse().ok();
        let found = self.portals.borrow().iter().find(|portal| Some(portal.address) == wanted).cloned();
        found.ok_or_else(|| {
            let detail = format!("there is no portal {address:?}");
            not_found("E-PORTAL", detail, "see twinlun portal list for the addresses")
        })
    }

    fn set_service(&self, portal: &Portal, service: Service) {
        portal.set_service(service);
        self.portals_changed.notify_waiters();
        tracing::info!(portal = %portal.address, state = service.name(), "portal");
        self.events.note("portal", &portal.address.to_string(), service.name());
    }

    pub(super) fn drain_portal(
        self: &Rc<Self>,
        address: &str,
        order: &api::DrainPortal,
        dry_run: bool,
    ) -> Answer {
        let portal = self.portal_named(address)?;
        if !(1..=MAX_SECONDS).contains(&order.seconds) {
            let detail = format!("hosts cannot have {} seconds to leave", order.seconds);
            return Err(usage("E-PORTAL-SECONDS", detail, "give them 1 to 3600"));
        }
        if portal.service() != Service::Serving {
            let detail = format!("portal {address} is {} already", portal.service().name());
            return Err(refused(
                "E-PORTAL-STATE",
                detail,
                "see twinlun portal list; twinlun portal resume undoes it",
            ));
        }
        let sessions = portal.sessions();
        if dry_run {
            let seconds = order.seconds;
            return plan(format!(
                "let nobody in at portal {address}, ask {sessions} sessions to log out, and drop what is left after {seconds} s"
            ));
        }
        self.set_service(&portal, Service::Draining);
        let (this, seconds) = (self.clone(), order.seconds);
        self.shard.spawn(async move { this.drain(&portal, seconds).await });
        value(json!({ "address": address, "state": Service::Draining.name(), "sessions": sessions }))
    }

    /// Asks every host of the portal to log out, waits, and drops who stays. Ends early when the portal serves again.
    async fn drain(&self, portal: &Portal, seconds: u16) {
        let epoch = portal.epoch();
        let undone = |portal: &Portal| portal.epoch() != epoch;
        for connection in portal.connections() {
            connection.tell(AsyncMessage::LogoutRequest { within: seconds });
        }
        let left = portal.until(|portal| undone(portal) || portal.connections().is_empty());
        if self.shard.timeout(Duration::from_secs(seconds.into()), left).await.is_err() {
            for connection in portal.connections() {
                // Whoever did not obey is told before the stream closes (RFC 7143, 11.9.1 event 1).
                connection.drop_announced(TIME2WAIT);
            }
            portal.until(|portal| undone(portal) || portal.connections().is_empty()).await;
        }
        if !undone(portal) {
            self.set_service(portal, Service::Drained);
        }
    }

    pub(super) async fn resume_portal(self: &Rc<Self>, address: &str, dry_run: bool) -> Answer {
        let portal = self.portal_named(address)?;
        if portal.service() == Service::Serving {
            let detail = format!("portal {address} serves hosts already");
            return Err(refused("E-PORTAL-STATE", detail, "see twinlun portal list"));
        }
        if dry_run {
            return plan(format!("serve hosts at portal {address} again"));
        }
        let listener = self.shard.listen(portal.address).await.map_err(|error| {
            let detail = format!("portal {address} cannot be opened: {error}");
            failed("E-PORTAL-LISTEN", detail, "see who else listens there, then try again")
        })?;
        // Another order may have been quicker.
        if portal.service() != Service::Serving {
            self.set_service(&portal, Service::Serving);
            self.accept(listener, portal);
        }
        value(json!({ "address": address, "state": Service::Serving.name() }))
    }

    pub(super) async fn redirect_portal(
        &self,
        address: &str,
        order: &api::RedirectPortal,
        dry_run: bool,
    ) -> Answer {
        let key =
            if address == ALL { ALL.to_owned() } else { self.portal_named(address)?.address.to_string() };
        if let Some(to) = order.to {
            self.check_redirect(&key, to)?;
        }
        if dry_run {
            return plan(match order.to {
                Some(to) => format!("send logins at portal {address} to {to}"),
                None => format!("send logins at portal {address} nowhere else by order"),
            });
        }
        let changed = order.to.map(|to| RedirectOrder { to, permanent: order.permanent });
        self.change_state(|state| match changed {
            Some(order) => drop(state.redirects.insert(key, order)),
            None => drop(state.redirects.remove(&key)),
        })
        .await?;
        let what = order.to.map_or_else(|| "logins stay".into(), |to| format!("logins are sent to {to}"));
        self.events.note("portal", address, &what);
        value(json!({ "address": address, "redirect": order.to.map(|to| to.to_string()) }))
    }

    /// Whoever is sent away must arrive: not at no address, not where it came from, not where it is sent away again.
    fn check_redirect(&self, key: &str, to: SocketAddr) -> Result<(), Problem> {
        if to.port() == 0 || to.ip().is_unspecified() || to.to_string() == key {
            let detail = format!("logins at {key} cannot be sent to {to}");
            return Err(usage("E-PORTAL-REDIRECT", detail, "name the address and port of another portal"));
        }
        let state = self.state.borrow();
        let portals = self.portals.borrow();
        if let Some(own) = portals.iter().find(|portal| portal.address == to) {
            let onward = redirect(&state, own).filter(|_| key != ALL);
            if own.service() != Service::Serving || onward.is_some() {
                let detail = format!("portal {to} does not take logins itself");
                return Err(refused("E-PORTAL-REDIRECT", detail, "see twinlun portal list"));
            }
        }
        Ok(())
    }
}
