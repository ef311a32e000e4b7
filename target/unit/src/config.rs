//! The configuration of one storage processor: a TOML file that says where things are. Everything else is state.
//!
//! Unknown keys, wrong types and impossible values are refused with file, line, column and remedy.

mod hosts;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use toml::Spanned;
use twinlun_api::ByteSize;

pub use hosts::{ChapConfig, ISNS_PORT, IsnsConfig, PortalConfig, RedirectConfig};
use hosts::{ChapSection, IsnsSection, PortalSection};

/// Smallest disk that can hold a vault and some data.
pub const MIN_DISK_SIZE: u64 = 16 << 20;
/// Nobody gains by a longer look for work than this.
pub const MAX_BUSY_POLL_US: u64 = 10_000;
/// A link key below this can be guessed.
pub const MIN_KEY_BYTES: usize = 16;

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the storage unit.
    pub unit: String,
    /// Storage processor, `a` or `b`.
    pub sp: char,
    /// Where relative paths start.
    pub state_dir: PathBuf,
    /// Disks in order.
    pub disks: Vec<DiskConfig>,
    /// Portals in order.
    pub portals: Vec<PortalConfig>,
    /// How hosts prove who they are.
    pub chap: ChapConfig,
    /// iSNS servers to register with, if any.
    pub isns: Option<IsnsConfig>,
    /// Link to other units, if any.
    pub link: Option<LinkConfig>,
    /// Admin socket.
    pub admin_socket: PathBuf,
    /// Disk engine.
    pub engine: EngineName,
    /// How long a busy shard looks for more work before its thread sleeps.
    pub busy_poll: Duration,
    /// Timers and caps.
    pub limits: Limits,
    /// Start with exactly half of the vault's copies; the administrator's word for one start, never part of the file.
    pub accept_half: bool,
}

/// Which disk engine is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineName {
    /// io_uring where the kernel allows it.
    #[default]
    Auto,
    /// io_uring or refuse to start.
    Uring,
    /// Threads.
    Portable,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// File, block device, `ram:NAME` or `null:NAME`.
    pub path: PathBuf,
    /// Size of the file to create.
    pub size: Option<u64>,
}

/// The link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// Where other units reach this one.
    pub listen: Option<SocketAddr>,
    /// File with the key that both ends have.
    pub key_file: PathBuf,
    /// Other units.
    pub peers: Vec<PeerConfig>,
}

/// Another unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its name.
    pub unit: String,
    /// Where it listens; empty for a unit that only ever dials this one.
    pub addresses: Vec<SocketAddr>,
}

/// Timers and caps.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections that have not logged in yet.
    pub logins: usize,
    /// Seconds a login may take.
    pub login_seconds: u64,
    /// Seconds of silence after which a host is pinged; 0: never.
    pub ping_seconds: u64,
    /// Seconds a ping may go unanswered before the connection is closed.
    pub ping_answer_seconds: u64,
    /// Bytes that SANITIZE, or a FORMAT UNIT with a pattern, writes to a LU in a second; 0: as many as it can.
    pub sanitize_rate: u64,
    /// Connections that a session may have, from 1 (MaxConnections).
    #[serde(deserialize_with = "session_connections")]
    pub session_connections: u16,
    /// Highest ErrorRecoveryLevel that hosts are offered, 0 to 2.
    #[serde(deserialize_with = "error_recovery_level")]
    pub error_recovery_level: u8,
    /// Seconds for which a lost connection's commands wait for the host to come back, 0 to 3600 (DefaultTime2Retain).
    #[serde(deserialize_with = "retain_seconds")]
    pub retain_seconds: u16,
    /// Seconds a disk may leave a request unanswered before LUs go on without it, those that can; 0: for ever.
    pub disk_seconds: u64,
}

fn session_connections<'de, D: Deserializer<'de>>(from: D) -> Result<u16, D::Error> {
    match u16::deserialize(from)? {
        0 => Err(D::Error::custom("session_connections is 1 at least")),
        count => Ok(count),
    }
}

fn error_recovery_level<'de, D: Deserializer<'de>>(from: D) -> Result<u8, D::Error> {
    match u8::deserialize(from)? {
        level @ 0..=2 => Ok(level),
        _ => Err(D::Error::custom("error_recovery_level is 0, 1 or 2")),
    }
}

fn retain_seconds<'de, D: Deserializer<'de>>(from: D) -> Result<u16, D::Error> {
    match u16::deserialize(from)? {
        seconds @ 0..=3600 => Ok(seconds),
        _ => Err(D::Error::custom("retain_seconds is 3600 at most")),
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            logins: 256,
            login_seconds: 15,
            ping_seconds: 30,
            ping_answer_seconds: 30,
            sanitize_rate: 48 << 20,
            session_connections: 8,
            error_recovery_level: 2,
            retain_seconds: 20,
            // Below the 30 s that Linux gives a command, so that hosts see a slow answer and no error.
            disk_seconds: 20,
        }
    }
}

/// Why a configuration cannot be used; shows as `file:line:column: what` and a remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// Line and column, from 1; absent when the file as a whole is meant.
    pub at: Option<(usize, usize)>,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some((line, column)) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.what)?;
        if !self.remedy.is_empty() {
            write!(f, "\n  what to do: {}", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    unit: UnitSection,
    #[serde(default)]
    disk: Vec<DiskSection>,
    #[serde(default)]
    portal: Vec<PortalSection>,
    #[serde(default)]
    chap: ChapSection,
    isns: Option<IsnsSection>,
    link: Option<LinkSection>,
    #[serde(default)]
    admin: AdminSection,
    #[serde(default)]
    limits: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UnitSection {
    name: Spanned<String>,
    #[serde(default = "default_sp")]
    sp: Spanned<String>,
    state_dir: PathBuf,
    #[serde(default)]
    engine: EngineName,
    #[serde(default = "default_busy_poll")]
    busy_poll_us: Spanned<u64>,
}

fn default_busy_poll() -> Spanned<u64> {
    Spanned::new(0..0, 50)
}

fn default_sp() -> Spanned<String> {
    Spanned::new(0..0, "a".into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DiskSection {
    path: Spanned<PathBuf>,
    size: Option<Spanned<ByteSize>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkSection {
    listen: Option<SocketAddr>,
    key_file: PathBuf,
    #[serde(default)]
    peer: Vec<PeerSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerSection {
    unit: Spanned<String>,
    #[serde(default)]
    addresses: Vec<SocketAddr>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct AdminSection {
    socket: Option<PathBuf>,
}

/// Reads and checks the file at `path`.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
        path: path.into(),
        at: None,
        what: format!("cannot be read: {error}"),
        remedy: "name a readable configuration file with --config or TWINLUN_CONFIG".into(),
    })?;
    parse(path, &text)
}

/// Checks the text of a configuration; `path` is only named in errors.
pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    let reader = Reader { path, text };
    let file: File = toml::from_str(text).map_err(|error| {
        let what = error.message().to_owned();
        let remedy = if what.contains("unknown field") {
            "remove the key or mend its spelling; unknown keys are refused so that a typing error cannot go unnoticed"
        } else {
            "see docs/configuration.md for every key and its type"
        };
        reader.error(error.span(), what, remedy)
    })?;
    reader.check(file)
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn error(
        &self,
        span: Option<std::ops::Range<usize>>,
        what: impl Into<String>,
        remedy: &str,
    ) -> ConfigError {
        let at = span.map(|span| {
            let before = &self.text[..span.start.min(self.text.len())];
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
            (line, column)
        });
        ConfigError { path: self.path.into(), at, what: what.into(), remedy: remedy.into() }
    }

    fn busy_poll(&self, micros: &Spanned<u64>) -> Result<Duration, ConfigError> {
        if *micros.get_ref() > MAX_BUSY_POLL_US {
            let what = format!("busy_poll_us = {} would keep a processor busy for nothing", micros.get_ref());
            let remedy = format!("at most {MAX_BUSY_POLL_US}; 0 lets the thread sleep at once");
            return Err(self.error(Some(micros.span()), what, &remedy));
        }
        Ok(Duration::from_micros(*micros.get_ref()))
    }

    fn check(&self, file: File) -> Result<Config, ConfigError> {
        let unit = self.name(&file.unit.name)?;
        let sp = match file.unit.sp.get_ref().as_str() {
            "a" => 'a',
            "b" => 'b',
            other => {
                let what = format!("storage processor {other:?} does not exist");
                return Err(self.error(Some(file.unit.sp.span()), what, "write sp = \"a\" or sp = \"b\""));
            }
        };
        // Relative paths start at the configuration file, so that it means the same wherever the daemon is started.
        let base = self.path.parent().unwrap_or(Path::new(""));
        let state_dir = base.join(&file.unit.state_dir);
        let disks = self.disks(&state_dir, &file.disk)?;
        let portals = self.portals(&file.portal)?;
        let chap = self.chap(&file.chap)?;
        let isns = file.isns.map(|isns| self.isns(&unit, sp, &isns)).transpose()?;
        let link = file.link.map(|link| self.link(&state_dir, &unit, link)).transpose()?;
        let admin_socket = state_dir.join(file.admin.socket.unwrap_or_else(|| "admin.sock".into()));
        Ok(Config {
            unit,
            sp,
            state_dir,
            disks,
            portals,
            chap,
            isns,
            link,
            admin_socket,
            engine: file.unit.engine,
            busy_poll: self.busy_poll(&file.unit.busy_poll_us)?,
            limits: file.limits,
            accept_half: false,
        })
    }

    /// Unit names become part of the iSCSI name, so they keep to its alphabet (RFC 7143, 4.2.7.2; RFC 3722).
    fn name(&self, name: &Spanned<String>) -> Result<String, ConfigError> {
        let text = name.get_ref();
        let good = !text.is_empty()
            && text.len() <= 63
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
            && text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if good {
            return Ok(text.clone());
        }
        Err(self.error(
            Some(name.span()),
            format!("unit name {text:?} cannot be part of an iSCSI name"),
            "use up to 63 lower-case letters, digits, '-' and '.', beginning with a letter or digit",
        ))
    }

    fn disks(&self, state_dir: &Path, sections: &[DiskSection]) -> Result<Vec<DiskConfig>, ConfigError> {
        if sections.is_empty() {
            return Err(self.error(
                None,
                "no disk is configured",
                "add a [[disk]] section with path and size",
            ));
        }
        let mut disks: Vec<DiskConfig> = Vec::new();
        for section in sections {
            let given = section.path.get_ref();
            let text = given.to_string_lossy();
            let path = if text.starts_with("ram:") || text.starts_with("null:") {
                given.clone()
            } else {
                state_dir.join(given)
            };
            if disks.iter().any(|other| other.path == path) {
                let what = format!("disk {} is named twice", path.display());
                return Err(self.error(Some(section.path.span()), what, "give every disk a path of its own"));
            }
            if let Some(size) = &section.size
                && (size.get_ref().0 < MIN_DISK_SIZE || !size.get_ref().0.is_multiple_of(4096))
            {
                let what = format!("a disk of {} cannot be used", size.get_ref());
                let remedy = "give it at least 16MiB, in multiples of 4096 bytes";
                return Err(self.error(Some(size.span()), what, remedy));
            }
            disks.push(DiskConfig { path, size: section.size.as_ref().map(|size| size.get_ref().0) });
        }
        Ok(disks)
    }

    fn link(&self, state_dir: &Path, unit: &str, section: LinkSection) -> Result<LinkConfig, ConfigError> {
        let mut peers: Vec<PeerConfig> = Vec::new();
        for peer in &section.peer {
            let name = self.name(&peer.unit)?;
            if name == unit {
                let remedy = "list only other units; two units need two names";
                return Err(self.error(
                    Some(peer.unit.span()),
                    format!("unit {name:?} is this unit"),
                    remedy,
                ));
            }
            if peers.iter().any(|other| other.unit == name) {
                let remedy = "put all its addresses into one [[link.peer]]";
                return Err(self.error(
                    Some(peer.unit.span()),
                    format!("unit {name:?} is named twice"),
                    remedy,
                ));
            }
            peers.push(PeerConfig { unit: name, addresses: peer.addresses.clone() });
        }
        Ok(LinkConfig { listen: section.listen, key_file: plain(&state_dir.join(section.key_file)), peers })
    }
}

/// Takes `folder/..` out of a path, so that it can be followed before the state directory is made.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        let after_name = matches!(out.components().next_back(), Some(std::path::Component::Normal(_)));
        if part == std::path::Component::ParentDir && after_name {
            out.pop();
        } else {
            out.push(part);
        }
    }
    out
}

/// Reads the link key: the file's bytes without trailing line ends.
pub fn load_key(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let error =
        |what: String, remedy: &str| ConfigError { path: path.into(), at: None, what, remedy: remedy.into() };
    let make = "write at least 16 random bytes to it, the same on every unit: head -c 32 /dev/urandom | base64 > FILE";
    let mut key =
        std::fs::read(path).map_err(|e| error(format!("the link key cannot be read: {e}"), make))?;
    while key.last().is_some_and(|b| *b == b'\n' || *b == b'\r') {
        key.pop();
    }
    if key.len() < MIN_KEY_BYTES {
        return Err(error(format!("the link key has {} bytes, {MIN_KEY_BYTES} are needed", key.len()), make));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use twinlun_iscsi::chap::Algorithm;

    use super::*;

    const GOOD: &str = r#"
[unit]
name = "east"
sp = "a"
state_dir = "state"

[[disk]]
path = "disk0.img"
size = "1GiB"

[[disk]]
path = "ram:fast"
size = "64MiB"

[[portal]]
listen = "127.0.0.1:3260"

[[portal]]
listen = "[::1]:3260"
group = 2

[link]
listen = "127.0.0.1:7400"
key_file = "link.key"
[[link.peer]]
unit = "west"
addresses = ["127.0.0.1:7401"]

[admin]
socket = "admin.sock"

[[portal]]
listen = "127.0.0.1:3261"
redirect = "127.0.0.1:3260"
redirect_permanent = true
ping_seconds = 0

[chap]
algorithms = ["sha256", "sha3-256"]

[isns]
servers = ["127.0.0.1:3205"]
registration_seconds = 60
"#;

    fn parse_text(text: &str) -> Result<Config, ConfigError> {
        parse(Path::new("/etc/twinlun/east.toml"), text)
    }

    #[test]
    fn the_documented_example_is_read() {
        let config = parse_text(GOOD).expect("the example is good");
        assert_eq!(config.unit, "east");
        assert_eq!(config.disks[0].path, Path::new("/etc/twinlun/state/disk0.img"));
        assert_eq!(config.disks[0].size, Some(1 << 30));
        assert_eq!(config.disks[1].path, Path::new("ram:fast"));
        assert_eq!(config.portals[1].group, 2);
        assert_eq!(config.admin_socket, Path::new("/etc/twinlun/state/admin.sock"));
        let redirect = RedirectConfig { to: "127.0.0.1:3260".parse().expect("an address"), permanent: true };
        assert_eq!(config.portals[2].redirect, Some(redirect));
        assert_eq!((config.portals[2].ping_seconds, config.portals[0].ping_seconds), (Some(0), None));
        assert_eq!(config.chap.algorithms, [Algorithm::Sha3, Algorithm::Sha256], "the strongest first");
        let isns = config.isns.expect("there is an iSNS server");
        assert_eq!(
            (isns.entity.as_str(), isns.registration_seconds, isns.inquiry_seconds),
            ("east-a", 60, 60)
        );
        let link = config.link.expect("there is a link");
        assert_eq!(link.peers[0].unit, "west");
    }

    #[test]
    fn mistakes_are_named_with_line_and_column() {
        for (from, to, at, word) in [
            ("sp = \"a\"", "sp = \"c\"", Some((4, 6)), "storage processor"),
            ("sp = \"a\"", "spp = \"a\"", Some((4, 1)), "unknown field"),
            ("name = \"east\"", "name = \"Ost!\"", Some((3, 8)), "iSCSI name"),
            ("size = \"1GiB\"", "size = \"1GB8\"", Some((9, 8)), "size"),
            ("size = \"1GiB\"", "size = \"1MiB\"", Some((9, 8)), "cannot be used"),
            ("path = \"ram:fast\"", "path = \"disk0.img\"", Some((12, 8)), "twice"),
            ("127.0.0.1:3260", "localhost", Some((16, 10)), "socket address"),
            ("group = 2", "group = 0", Some((20, 9)), "portal group 0"),
            ("unit = \"west\"", "unit = \"east\"", Some((26, 8)), "this unit"),
            ("state_dir = \"state\"", "", Some((2, 1)), "state_dir"),
            ("redirect = \"127.0.0.1:3260\"", "redirect = \"127.0.0.1:3261\"", Some((34, 12)), "redirected"),
            ("redirect = \"127.0.0.1:3260\"\n", "", Some((34, 22)), "nothing is redirected"),
            ("\"sha256\"", "\"sha512\"", Some((39, 15)), "no CHAP algorithm"),
            ("[\"sha256\", \"sha3-256\"]", "[]", Some((39, 14)), "no CHAP algorithm is left"),
            ("\"127.0.0.1:3205\"", "\"127.0.0.1:0\"", Some((42, 12)), "no iSNS server"),
            ("[\"127.0.0.1:3205\"]", "[]", Some((42, 11)), "0 iSNS servers"),
            ("registration_seconds = 60", "registration_seconds = 1", Some((43, 24)), "cannot last"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD, "{from} is not in the example");
            let error = parse_text(&text).expect_err(to);
            assert_eq!(error.at, at, "{to}: {error}");
            assert!(error.to_string().contains(word), "{to}: {error}");
            assert!(!error.remedy.is_empty(), "{to}");
        }
    }

    #[test]
    fn a_key_beside_the_state_directory_is_found_before_that_is_made() {
        assert_eq!(plain(Path::new("/etc/state/../link.key")), Path::new("/etc/link.key"));
        assert_eq!(plain(Path::new("../../a/./b")), Path::new("../../a/b"));
    }

    #[test]
    fn a_unit_without_disks_or_portals_is_refused() {
        let head = "[unit]\nname = \"east\"\nstate_dir = \".\"\n";
        assert!(parse_text(head).expect_err("no disk").what.contains("disk"));
        let disk = format!("{head}[[disk]]\npath = \"d\"\nsize = \"1GiB\"\n");
        assert!(parse_text(&disk).expect_err("no portal").what.contains("portal"));
    }
}
