//! Orders about hosts and their credentials, and the views of hosts and sessions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::json;
use twinlun_api as api;
use twinlun_api::Problem;
use twinlun_io::Stream;
use twinlun_iscsi::chap::MIN_SECRET;
use twinlun_iscsi::target::{CloseReason, SessionType};

use super::{host_name, not_found, plan, refused, usage, value};
use crate::admin::Answer;
use crate::processor::Processor;
use crate::sessions::Session;
use crate::state::{Credentials, Discovery, Host, UnitState};

/// Longest CHAP name and secret.
const MAX_CHAP: usize = 255;

impl Processor {
    pub(super) async fn add_host(&self, order: api::AddHost, dry_run: bool) -> Answer {
        let name = host_name(&order.iqn)?;
        if self.state.borrow().hosts.contains_key(&name) {
            return Err(refused(
                "E-HOST-EXISTS",
                format!("host {name} is known already"),
                "remove it first to change it",
            ));
        }
        check_secrets(&self.state.borrow(), order.chap.as_ref(), order.mutual.as_ref())?;
        let known: BTreeSet<u16> = self.config.portals.iter().map(|portal| portal.group).collect();
        let groups: BTreeSet<u16> = order.groups.into_iter().collect();
        if let Some(missing) = groups.difference(&known).next() {
            let detail = format!("no portal has the portal group tag {missing}");
            return Err(usage("E-PORTAL-GROUP", detail, "see twinlun portal list for the groups"));
        }
        if dry_run {
            return plan(format!("make host {name} known"));
        }
        let host = Host {
            chap: order.chap.map(credentials),
            mutual: order.mutual.map(credentials),
            luns: BTreeMap::new(),
            groups,
        };
        self.change_state(|state| {
            state.hosts.insert(name.clone(), host);
        })
        .await?;
        // A host that came in as "any" sees its own LUNs from now on: none yet.
        self.refresh_lun_maps().await;
        value(json!({ "iqn": name }))
    }

    pub(super) async fn remove_host(&self, iqn: &str, dry_run: bool) -> Answer {
        let name = host_name(iqn)?;
        if !self.state.borrow().hosts.contains_key(&name) {
            return Err(not_found("E-HOST", format!("there is no host {name}"), "see twinlun host list"));
        }
        if dry_run {
            return plan(format!("forget host {name} and end its sessions"));
        }
        self.change_state(|state| {
            state.hosts.remove(&name);
        })
        .await?;
        self.end_sessions_of(&name);
        self.refresh_lun_maps().await;
        value(json!({ "iqn": name }))
    }

    fn end_sessions_of(&self, initiator: &str) {
        let sessions = self.sessions.borrow();
        for (_, session) in sessions.iter().filter(|(_, s)| s.subject.initiator.as_str() == initiator) {
            if let Some(host) = session.host() {
                host.close(CloseReason::Local("the host was removed"));
            }
        }
    }

    pub(super) async fn set_discovery(&self, order: api::SetDiscovery, dry_run: bool) -> Answer {
        // What it has now is replaced and must not stand in its own way.
        let mut others = self.state.borrow().clone();
        others.discovery = Discovery::default();
        check_secrets(&others, order.chap.as_ref(), order.mutual.as_ref())?;
        if dry_run {
            let what = if order.chap.is_some() { "ask for CHAP at" } else { "ask for nothing of its own at" };
            return plan(format!("{what} discovery"));
        }
        let discovery =
            Discovery { chap: order.chap.map(credentials), mutual: order.mutual.map(credentials) };
        self.change_state(|state| state.discovery = discovery).await?;
        value(self.discovery_view())
    }

    pub(super) fn discovery_view(&self) -> api::DiscoveryView {
        let state = self.state.borrow();
        api::DiscoveryView { chap: chap_view(state.discovery.chap.as_ref(), state.discovery.mutual.as_ref()) }
    }

    pub(super) fn host_views(&self) -> Vec<api::HostView> {
        let state = self.state.borrow();
        let names: BTreeMap<_, _> = self.array.lus().into_iter().map(|info| (info.uuid, info.name)).collect();
        let sessions = self.sessions.borrow();
        let view = |(iqn, host): (&String, &Host)| api::HostView {
            iqn: iqn.clone(),
            chap: chap_view(host.chap.as_ref(), host.mutual.as_ref()),
            luns: host
                .luns
                .iter()
                .map(|(lun, lu)| api::MappingView {
                    lun: *lun,
                    lu: names.get(lu).cloned().unwrap_or_default(),
                })
                .collect(),
            groups: host.groups.iter().copied().collect(),
            sessions: sessions.iter().filter(|(_, s)| s.subject.initiator.as_str() == iqn).count(),
        };
        state.hosts.iter().map(view).collect()
    }

    pub(super) fn session_views(&self) -> Vec<api::SessionView> {
        let sessions = self.sessions.borrow();
        let views = sessions.iter().map(|(tsih, session)| api::SessionView {
            tsih: tsih.get(),
            initiator: session.subject.initiator.to_string(),
            alias: session.alias.as_deref().map(printable),
            chap_user: session.user.as_deref().map(printable),
            isid: format!("{:?}", session.subject.isid),
            address: addresses(session, Stream::peer_address),
            portal: addresses(session, Stream::local_address),
            kind: match session.subject.session_type {
                SessionType::Normal => "normal",
                SessionType::Discovery => "discovery",
            }
            .into(),
            commands: session.host().map_or(0, |host| host.outstanding()),
        });
        views.collect()
    }
}

/// The address of each of a session's connections; one that waits for them to come back has none.
fn addresses(session: &Session, address: impl Fn(&Stream) -> SocketAddr) -> String {
    let connections = session.host().map(|host| host.connections()).unwrap_or_default();
    let texts: Vec<_> = connections.iter().map(|c| address(c.stream()).to_string()).collect();
    texts.join(", ")
}

/// Text of the network as a terminal may show it.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn credentials(chap: api::ChapSecret) -> Credentials {
    Credentials { user: chap.user, secret: chap.secret }
}

fn chap_view(chap: Option<&Credentials>, mutual: Option<&Credentials>) -> api::ChapView {
    api::ChapView { user: chap.map(|c| c.user.clone()), mutual_user: mutual.map(|c| c.user.clone()) }
}

/// The rules for secrets (RFC 7143, 9.2.1): long enough, and none that proves a host ever proves the unit, whoever else has it.
fn check_secrets(
    state: &UnitState,
    chap: Option<&api::ChapSecret>,
    mutual: Option<&api::ChapSecret>,
) -> Result<(), Problem> {
    if mutual.is_some() && chap.is_none() {
        let detail = "mutual CHAP needs CHAP of the host as well";
        return Err(usage("E-CHAP", detail, "add --chap-user and --secret-file"));
    }
    for chap in [chap, mutual].into_iter().flatten() {
        check_secret(chap)?;
    }
    let secret = |credentials: &Option<Credentials>| credentials.as_ref().map(|c| c.secret.clone());
    let hosts = || state.hosts.values();
    let mut to_host: Vec<_> = hosts().filter_map(|host| secret(&host.mutual)).collect();
    let mut to_unit: Vec<_> = hosts().filter_map(|host| secret(&host.chap)).collect();
    to_host.extend(secret(&state.discovery.mutual));
    to_unit.extend(secret(&state.discovery.chap));
    if chap.is_some_and(|chap| to_unit.contains(&chap.secret)) {
        tracing::warn!("a CHAP secret is used by several hosts; whoever has it can pass for each of them");
    }
    to_host.extend(mutual.map(|mutual| mutual.secret.clone()));
    to_unit.extend(chap.map(|chap| chap.secret.clone()));
    if to_host.iter().any(|secret| to_unit.contains(secret)) {
        let detail =
            "one CHAP secret would prove a host to the unit and the unit to a host, which RFC 7143 forbids";
        return Err(usage("E-CHAP", detail, "give each direction a secret of its own"));
    }
    Ok(())
}

fn check_secret(chap: &api::ChapSecret) -> Result<(), Problem> {
    if chap.user.is_empty() || chap.user.len() > MAX_CHAP || chap.user.contains('\0') {
        return Err(usage(
            "E-CHAP",
            "a CHAP name has 1 to 255 bytes and no zero byte",
            "choose another name",
        ));
    }
    if chap.secret.len() < MIN_SECRET || chap.secret.len() > MAX_CHAP {
        let detail = format!("the CHAP secret of {} has {} bytes", chap.user, chap.secret.len());
        return Err(usage(
            "E-CHAP",
            detail,
            "use 12 to 16 bytes: Windows takes no more, RFC 7143 wants no less",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chap(secret: &str) -> api::ChapSecret {
        api::ChapSecret { user: "u".into(), secret: secret.into() }
    }

    fn state() -> UnitState {
        let mut state = UnitState::default();
        let host = Host {
            chap: Some(credentials(chap("secret of host a"))),
            mutual: Some(credentials(chap("secret of unit a"))),
            ..Host::default()
        };
        state.hosts.insert("iqn.2026-11.example:a".into(), host);
        state.discovery.chap = Some(credentials(chap("secret to discover")));
        state
    }

    #[test]
    fn a_secret_has_one_direction_in_the_whole_unit() {
        let check = |to_unit: &str, to_host: Option<&str>| {
            check_secrets(&state(), Some(&chap(to_unit)), to_host.map(chap).as_ref()).is_ok()
        };
        assert!(check("secret of host b", Some("secret of unit b")));
        assert!(
            check("secret of host b", Some("secret of unit a")),
            "the unit may prove itself alike to many"
        );
        assert!(check("secret of host a", None), "unwise, but not forbidden");
        assert!(!check("secret of host b", Some("secret of host b")), "one secret both ways");
        assert!(!check("secret of unit a", None), "it proves the unit to another host");
        assert!(!check("secret of host b", Some("secret of host a")), "it proves another host to the unit");
        assert!(!check("secret of host b", Some("secret to discover")));
    }

    #[test]
    fn secrets_are_long_enough_and_come_in_the_right_order() {
        let check = |to_unit: Option<&str>, to_host: Option<&str>| {
            check_secrets(&UnitState::default(), to_unit.map(chap).as_ref(), to_host.map(chap).as_ref())
                .is_ok()
        };
        assert!(check(None, None) && check(Some("twelve bytes"), None));
        assert!(!check(Some("eleven byte"), None) && !check(None, Some("secret of unit")));
        assert!(!check(Some("twelve bytes"), Some("too short")));
        assert!(!check(Some(&"x".repeat(256)), None));
    }

    #[test]
    fn an_alias_cannot_write_on_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb"), "a\u{fffd}[31mb");
    }
}
