//! The sections about hosts: portals, CHAP, iSNS.

use std::net::SocketAddr;

use serde::Deserialize;
use toml::Spanned;
use twinlun_iscsi::chap::{Algorithm, AlgorithmSet};

use super::{ConfigError, Reader};

/// iSNS servers that one storage processor tells about itself.
const MAX_SERVERS: usize = 8;
/// Where iSNS servers listen (RFC 4171, 2.9).
pub const ISNS_PORT: u16 = 3205;

/// A portal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortalConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Target portal group tag.
    pub group: u16,
    /// Sends every normal login elsewhere.
    pub redirect: Option<RedirectConfig>,
    /// Seconds of silence after which a host is pinged, in place of the general limit; 0: never.
    pub ping_seconds: Option<u64>,
    /// Seconds a ping may go unanswered, in place of the general limit.
    pub ping_answer_seconds: Option<u64>,
}

impl PortalConfig {
    /// A portal with nothing special about it.
    pub fn new(listen: SocketAddr, group: u16) -> Self {
        Self { listen, group, redirect: None, ping_seconds: None, ping_answer_seconds: None }
    }
}

/// Where logins are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedirectConfig {
    /// The other portal.
    pub to: SocketAddr,
    /// For good, not for one login.
    pub permanent: bool,
}

/// How hosts prove who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChapConfig {
    /// Algorithms that are taken, strongest first.
    pub algorithms: Vec<Algorithm>,
}

impl ChapConfig {
    /// The algorithms as a set.
    pub fn set(&self) -> AlgorithmSet {
        self.algorithms.iter().copied().collect()
    }
}

impl Default for ChapConfig {
    fn default() -> Self {
        Self { algorithms: Algorithm::ALL.to_vec() }
    }
}

/// Servers that tell hosts where this target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsnsConfig {
    /// The servers.
    pub servers: Vec<SocketAddr>,
    /// Name under which the servers keep what belongs to this storage processor.
    pub entity: String,
    /// Port for the servers' inquiries and notifications on the portals' addresses; 0 takes a free one.
    pub port: u16,
    /// Seconds after which a server forgets a storage processor that it has not heard of.
    pub registration_seconds: u32,
    /// Seconds between the servers' inquiries; 0: none.
    pub inquiry_seconds: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PortalSection {
    listen: Spanned<SocketAddr>,
    #[serde(default = "default_group")]
    group: Spanned<u16>,
    redirect: Option<Spanned<SocketAddr>>,
    redirect_permanent: Option<Spanned<bool>>,
    ping_seconds: Option<u64>,
    ping_answer_seconds: Option<u64>,
}

fn default_group() -> Spanned<u16> {
    Spanned::new(0..0, 1)
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChapSection {
    algorithms: Option<Spanned<Vec<Spanned<String>>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IsnsSection {
    servers: Spanned<Vec<Spanned<SocketAddr>>>,
    entity: Option<Spanned<String>>,
    #[serde(default)]
    port: u16,
    #[serde(default = "default_registration")]
    registration_seconds: Spanned<u32>,
    #[serde(default = "default_inquiry")]
    inquiry_seconds: u32,
}

fn default_registration() -> Spanned<u32> {
    Spanned::new(0..0, 600)
}

fn default_inquiry() -> u32 {
    60
}

impl Reader<'_> {
    pub(super) fn portals(&self, sections: &[PortalSection]) -> Result<Vec<PortalConfig>, ConfigError> {
        if sections.is_empty() {
            let remedy = "add a [[portal]] section, such as listen = \"127.0.0.1:3260\"";
            return Err(self.error(None, "no portal is configured, so no host could reach the unit", remedy));
        }
        let mut portals: Vec<PortalConfig> = Vec::new();
        for section in sections {
            let portal = self.portal(section)?;
            let listen = portal.listen;
            if listen.port() != 0 && portals.iter().any(|other| other.listen == listen) {
                let what = format!("portal {listen} is named twice");
                let remedy = "give every portal an address of its own";
                return Err(self.error(Some(section.listen.span()), what, remedy));
            }
            portals.push(portal);
        }
        Ok(portals)
    }

    fn portal(&self, section: &PortalSection) -> Result<PortalConfig, ConfigError> {
        let listen = *section.listen.get_ref();
        let group = *section.group.get_ref();
        if group == 0 {
            let remedy = "number portal groups from 1";
            return Err(self.error(Some(section.group.span()), "portal group 0 does not exist", remedy));
        }
        if let (Some(permanent), None) = (&section.redirect_permanent, &section.redirect) {
            let remedy = "say where to with redirect = \"ADDRESS:PORT\", or remove redirect_permanent";
            return Err(self.error(Some(permanent.span()), "nothing is redirected here", remedy));
        }
        let permanent = section.redirect_permanent.as_ref().is_some_and(|p| *p.get_ref());
        let redirect = match &section.redirect {
            None => None,
            Some(to) => {
                let address = *to.get_ref();
                if address == listen || address.port() == 0 || address.ip().is_unspecified() {
                    let what = format!("logins cannot be redirected to {address}");
                    let remedy = "name the address and port of another portal";
                    return Err(self.error(Some(to.span()), what, remedy));
                }
                Some(RedirectConfig { to: address, permanent })
            }
        };
        Ok(PortalConfig {
            listen,
            group,
            redirect,
            ping_seconds: section.ping_seconds,
            ping_answer_seconds: section.ping_answer_seconds,
        })
    }

    pub(super) fn chap(&self, section: &ChapSection) -> Result<ChapConfig, ConfigError> {
        let Some(named) = &section.algorithms else { return Ok(ChapConfig::default()) };
        let remedy = "choose from \"sha3-256\", \"sha256\", \"sha1\" and \"md5\"";
        let mut wanted = Vec::new();
        for name in named.get_ref() {
            let found = Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name.get_ref());
            wanted.push(found.ok_or_else(|| {
                let what = format!("{:?} is no CHAP algorithm", name.get_ref());
                self.error(Some(name.span()), what, remedy)
            })?);
        }
        if wanted.is_empty() {
            return Err(self.error(Some(named.span()), "no CHAP algorithm is left", remedy));
        }
        // In order of strength and once each, however they are listed.
        let algorithms = Algorithm::ALL.into_iter().filter(|algorithm| wanted.contains(algorithm)).collect();
        Ok(ChapConfig { algorithms })
    }

    pub(super) fn isns(
        &self,
        unit: &str,
        sp: char,
        section: &IsnsSection,
    ) -> Result<IsnsConfig, ConfigError> {
        let listed = section.servers.get_ref();
        let remedy = "list 1 to 8 servers, such as servers = [\"10.0.0.5:3205\"], or remove the section";
        if listed.is_empty() || listed.len() > MAX_SERVERS {
            let what = format!("{} iSNS servers cannot be told", listed.len());
            return Err(self.error(Some(section.servers.span()), what, remedy));
        }
        let mut servers = Vec::new();
        for server in listed {
            let address = *server.get_ref();
            if servers.contains(&address) || address.port() == 0 || address.ip().is_unspecified() {
                let what = format!("{address} is no iSNS server, or is named twice");
                return Err(self.error(Some(server.span()), what, remedy));
            }
            servers.push(address);
        }
        let period = *section.registration_seconds.get_ref();
        if !(30..=86_400).contains(&period) {
            let what = format!("a registration cannot last {period} seconds");
            let remedy = "use 30 to 86400";
            return Err(self.error(Some(section.registration_seconds.span()), what, remedy));
        }
        let entity = match &section.entity {
            None => format!("{unit}-{sp}"),
            Some(entity) => {
                let text = entity.get_ref();
                if text.is_empty() || text.len() > 255 || text.chars().any(char::is_control) {
                    let remedy = "use 1 to 255 bytes of plain text";
                    return Err(self.error(Some(entity.span()), "this is no entity identifier", remedy));
                }
                text.clone()
            }
        };
        let (port, inquiry_seconds) = (section.port, section.inquiry_seconds);
        Ok(IsnsConfig { servers, entity, port, registration_seconds: period, inquiry_seconds })
    }
}
