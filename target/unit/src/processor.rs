//! The storage processor: puts array, mirrors, SCSI target device and iSCSI portals together.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{LocalBoxFuture, join};
use tokio::sync::Notify;
use twinlun_array::{Array, ArrayOptions, Lu, LuInfo, Vault};
use twinlun_block::{BlockError, BlockResult, MetaError, MetaStore};
use twinlun_io::Shard;
use twinlun_iscsi::names::IscsiName;
use twinlun_iscsi::target::{AsyncMessage, CloseReason};
use twinlun_mirror::link::{Limits as LinkLimits, LinkConfig, LinkKey, PeerConfig, Timing};
use twinlun_mirror::{LuHandle, LuSource, MirrorService, UnitIdentity};
use twinlun_scsi::{
    Io, LuDescription, LuId, LunMap, Moment, NexusId, Reply, Step, TargetDevice, TargetIdentity, TargetPort,
    Task,
};
use uuid::Uuid;

use crate::config::Config;
use crate::events::EventLog;
use crate::isns::Registrar;
use crate::portal::{self, Portal};
use crate::session::HostSession;
use crate::sessions::Sessions;
use crate::state::{StateError, UnitState};
use crate::volume::Volume;

/// A request of a command under way.
pub(crate) type Pending = Pin<Box<dyn Future<Output = BlockResult>>>;

/// What comes next for a command under way.
pub(crate) enum Next {
    /// A request was made and must be waited for.
    Submitted(Pending),
    /// It is over.
    Answer(Reply),
}

/// What hosts see as product name.
const PRODUCT: &str = "VIRTUAL-DISK";
/// Seconds that a host which is sent away should wait before it comes back.
pub(crate) const TIME2WAIT: u16 = 2;
/// How long hosts' connections may take to end at shutdown.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// One storage processor. Everything in it lives on one shard.
pub struct Processor {
    pub(crate) shard: Shard,
    pub(crate) config: Config,
    pub(crate) array: Array,
    pub(crate) vault: Vault,
    pub(crate) mirrors: MirrorService<Lu, Vault>,
    pub(crate) device: RefCell<TargetDevice>,
    pub(crate) state: RefCell<UnitState>,
    pub(crate) sessions: RefCell<Sessions>,
    pub(crate) events: EventLog,
    pub(crate) target_name: IscsiName,
    /// Where hosts are served.
    pub(crate) portals: RefCell<Vec<Rc<Portal>>>,
    /// Signalled when a portal begins or ends to serve.
    pub(crate) portals_changed: Notify,
    pub(crate) isns: Registrar,
    pub(crate) started: Duration,
    volumes: RefCell<BTreeMap<LuId, Rc<Volume>>>,
    ids: RefCell<BTreeMap<Uuid, LuId>>,
    ports: BTreeMap<u16, TargetPort>,
    released: RefCell<VecDeque<Task>>,
    releasing: Cell<bool>,
    stopping: Cell<bool>,
    /// Connections that have not logged in, and all connections.
    pub(crate) logins: Cell<usize>,
    pub(crate) connections: Cell<usize>,
}

/// Why a storage processor does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The array refuses.
    #[error(transparent)]
    Array(#[from] twinlun_array::ArrayError),
    /// The unit's own record cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The mirrors cannot be recovered.
    #[error("mirrors: {0}")]
    Mirrors(#[from] twinlun_mirror::MirrorError),
    /// A portal cannot be opened.
    #[error("portal {address}: {error}; choose an address of this machine that nobody listens on")]
    Portal {
        /// Its address.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// The link key is too short.
    #[error(transparent)]
    Key(#[from] twinlun_mirror::link::KeyTooShort),
}

/// The array's LUs as the mirrors find them.
struct ArrayLus(Array);

impl LuSource<Lu> for ArrayLus {
    fn by_uuid(&self, uuid: Uuid) -> Option<LuHandle<Lu>> {
        self.0.lu(uuid).map(|layer| LuHandle { uuid, name: layer.info().name, layer })
    }

    fn by_name(&self, name: &str) -> Option<LuHandle<Lu>> {
        self.0.lu_by_name(name).map(|layer| LuHandle { uuid: layer.uuid(), name: name.into(), layer })
    }
}

fn array_options(config: &Config) -> ArrayOptions {
    let limit = config.limits.disk_seconds;
    ArrayOptions {
        accept_half: config.accept_half,
        answer_limit: (limit > 0).then(|| Duration::from_secs(limit)),
        ..ArrayOptions::default()
    }
}

impl Processor {
    /// Opens the disks, recovers everything and serves hosts. `key` is the link key, needed when the configuration has a link.
    ///
    /// Boxed, like the other doors of this crate: whoever awaits a bare `async fn` compiles all that it awaits once more.
    pub fn start(
        shard: Shard,
        config: Config,
        key: Option<Vec<u8>>,
    ) -> LocalBoxFuture<'static, Result<Rc<Self>, StartError>> {
        Box::pin(Self::open(shard, config, key))
    }

    async fn open(shard: Shard, config: Config, key: Option<Vec<u8>>) -> Result<Rc<Self>, StartError> {
        let disks = config.disks.iter();
        let disks = disks
            .map(|disk| twinlun_array::DiskConfig { path: disk.path.clone(), size: disk.size })
            .collect();
        let array = Array::open_with(shard.clone(), &config.unit, disks, array_options(&config)).await?;
        let vault = array.vault();
        let state = UnitState::load(&vault)?;
        let unit = UnitIdentity { name: config.unit.clone(), uuid: array.unit_uuid() };
        let link = link_config(&config, key)?;
        let lus = Rc::new(ArrayLus(array.clone()));
        let mirrors = MirrorService::open(shard.clone(), unit, vault.clone(), lus, link).await?;
        let target_name: IscsiName = format!("iqn.2026-11.io.twinlun:{}", config.unit)
            .parse()
            .expect("the configuration allows only names that fit");
        let ports = ports(&config);
        let device = TargetDevice::new(TargetIdentity {
            vendor: "TWINLUN".into(),
            product: PRODUCT.into(),
            revision: env!("CARGO_PKG_VERSION").chars().take(4).collect(),
            iqn: target_name.to_string(),
            ports: ports.values().copied().collect(),
            port_group: if config.sp == 'a' { 1 } else { 2 },
        });
        let this = Rc::new(Self {
            started: shard.unix_time(),
            events: EventLog::new(shard.clone()),
            shard,
            config,
            array,
            vault,
            mirrors,
            device: RefCell::new(device),
            state: RefCell::new(state),
            sessions: RefCell::default(),
            target_name,
            portals: RefCell::default(),
            portals_changed: Notify::new(),
            isns: Registrar::default(),
            volumes: RefCell::default(),
            ids: RefCell::default(),
            ports,
            released: RefCell::default(),
            releasing: Cell::new(false),
            stopping: Cell::new(false),
            logins: Cell::new(0),
            connections: Cell::new(0),
        });
        for info in this.array.lus() {
            this.add_lu(&info);
        }
        this.refresh_access();
        crate::events::collect(&this);
        crate::space::watch(&this);
        this.resume_operations();
        portal::open_all(&this).await?;
        crate::isns::start(&this).await;
        Ok(this)
    }

    /// Stops serving, flushes, stores the logs. Nothing acknowledged is lost when it ends early, it only takes longer to start again.
    pub fn shutdown(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(self.close())
    }

    async fn close(&self) {
        self.stopping.set(true);
        let sessions = self.sessions.borrow().hosts();
        for session in &sessions {
            // RFC 7143, 11.9.1 event 3: hosts with another path take it at once.
            session.tell(AsyncMessage::SessionDrop { time2wait: TIME2WAIT });
            session.close(CloseReason::Local("shutting down"));
        }
        let ended = async {
            for session in &sessions {
                session.wait_over().await;
            }
        };
        let (ended, ()) = join(self.shard.timeout(CLOSE_LIMIT, ended), self.leave_isns()).await;
        if ended.is_err() {
            tracing::warn!("some hosts' commands are still under way; they get no answer");
        }
        self.mirrors.close().await;
        if let Err(error) = self.array.shutdown().await {
            tracing::error!(%error, "the array could not be shut down cleanly; it will be checked at the next start");
        }
    }

    /// Time since the process started.
    pub(crate) fn now(&self) -> Duration {
        self.shard.now().since_start()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Name of the storage unit.
    pub fn unit(&self) -> &str {
        &self.config.unit
    }

    /// iSCSI name of the target.
    pub fn target_name(&self) -> &str {
        self.target_name.as_str()
    }

    /// The mirrors as the mirror database has them on disk.
    pub fn recorded_mirrors(&self) -> Vec<twinlun_mirror::MirrorView> {
        self.mirrors.recorded()
    }

    /// The mirrors as they are.
    pub fn present_mirrors(&self) -> Vec<twinlun_mirror::MirrorView> {
        self.mirrors.list()
    }

    /// Where hosts are served.
    pub fn portals(&self) -> Vec<SocketAddr> {
        self.portals.borrow().iter().map(|portal| portal.address).collect()
    }

    pub(crate) fn port(&self, portal_group: u16) -> Option<TargetPort> {
        self.ports.get(&portal_group).copied()
    }

    pub(crate) fn volume(&self, lu: LuId) -> Option<Rc<Volume>> {
        self.volumes.borrow().get(&lu).cloned()
    }

    pub(crate) fn lu_id(&self, uuid: Uuid) -> Option<LuId> {
        self.ids.borrow().get(&uuid).copied()
    }

    /// Puts a bound LU behind the device server.
    pub(crate) fn add_lu(&self, info: &LuInfo) {
        let Some(lu) = self.array.lu(info.uuid) else { return };
        let id = LuId(self.ids.borrow().values().map(|id| id.0).max().map_or(1, |last| last + 1));
        let handle = LuHandle { uuid: info.uuid, name: info.name.clone(), layer: lu };
        let volume = Rc::new(Volume::new(info.uuid, self.mirrors.front(handle)));
        let options = self.state.borrow().lus.get(&info.uuid).copied();
        let description = LuDescription {
            naa: naa(info.uuid),
            serial: info.uuid.simple().to_string(),
            geometry: volume.geometry(),
            // A LU whose options are lost is treated as the safer kind.
            write_cache: options.is_some_and(|options| options.write_cache),
            thin: info.thin,
            traits: options.map(crate::state::LuOptions::traits).unwrap_or_default(),
            saved_state: self.vault.get(&lu_record(info.uuid)),
            takeover: false,
        };
        if !self.device.borrow_mut().add_lu(id, description) {
            tracing::error!(
                lu = info.name,
                "saved reservations and mode pages cannot be read; the LU starts without them"
            );
        }
        self.ids.borrow_mut().insert(info.uuid, id);
        self.volumes.borrow_mut().insert(id, volume);
    }

    /// Asks the device server for the next step of a command and submits it, to whichever LU it goes.
    pub(crate) fn step(&self, io: &mut Io, previous: Option<BlockResult>) -> Next {
        let mut previous = previous;
        loop {
            let step = self.device.borrow_mut().step(io, previous.take());
            match step {
                Step::Done(reply) => return Next::Answer(reply),
                Step::Submit(request) => match self.volume(io.lu()) {
                    Some(volume) => {
                        return Next::Submitted(Box::pin(async move { volume.execute(request).await }));
                    }
                    // The LU went away between two steps.
                    None => previous = Some(Err(BlockError::Aborted)),
                },
            }
        }
    }

    /// What a third-party copy needs to know.
    pub(crate) fn moment(&self) -> Moment {
        let mut random = [0; 32];
        self.shard.fill_random(&mut random);
        Moment { now: self.now(), random }
    }

    /// Takes a LU away from the device server; its running tasks have ended when this returns.
    pub(crate) async fn drop_lu(&self, uuid: Uuid) {
        let Some(id) = self.ids.borrow_mut().remove(&uuid) else { return };
        let aborts = self.device.borrow_mut().remove_lu(id);
        self.settle_aborts(aborts, Vec::new()).await;
        self.volumes.borrow_mut().remove(&id);
    }

    /// Tells the device server which LUs are served, as their mirrors, if any, want it.
    pub(crate) fn refresh_access(&self) {
        for (uuid, id) in &*self.ids.borrow() {
            let access = match self.mirrors.access(*uuid) {
                None | Some(twinlun_mirror::LuAccess::Served) => twinlun_scsi::LuAccess::Active,
                Some(twinlun_mirror::LuAccess::Secondary) => twinlun_scsi::LuAccess::Standby,
                Some(twinlun_mirror::LuAccess::Inactive) => twinlun_scsi::LuAccess::Unavailable,
                Some(twinlun_mirror::LuAccess::Attention) => twinlun_scsi::LuAccess::NotReady,
            };
            self.device.borrow_mut().set_access(*id, access);
        }
    }

    /// The LUNs of an initiator.
    pub(crate) fn lun_map(&self, initiator: &str) -> LunMap {
        let state = self.state.borrow();
        let luns = state.host(initiator).map(|host| &host.luns);
        luns.into_iter().flatten().filter_map(|(lun, uuid)| Some((*lun, self.lu_id(*uuid)?))).collect()
    }

    /// Gives every session the LUNs that the state now says. Tasks at LUs that a host lost have ended when this returns.
    pub(crate) async fn refresh_lun_maps(&self) {
        let nexuses: Vec<_> = self
            .sessions
            .borrow()
            .iter()
            .filter_map(|(_, session)| Some((session.nexus?, session.subject.initiator.clone())))
            .collect();
        for (nexus, initiator) in nexuses {
            let map = self.lun_map(initiator.as_str());
            let managed = self.device.borrow_mut().set_lun_map(nexus, map);
            self.settle_aborts(managed.abort, managed.release).await;
        }
    }

    /// Stores what the device server wants to outlive the process (reservations with APTPL, saved mode pages).
    pub(crate) async fn store_lu_record(&self, uuid: Uuid, record: Bytes) -> Result<(), MetaError> {
        let stored = self.vault.put(vec![(lu_record(uuid), Some(record))]).await;
        if let Err(error) = &stored {
            tracing::error!(%uuid, %error, "reservations cannot be stored");
        }
        stored
    }

    pub(crate) fn session_of(&self, nexus: NexusId) -> Option<Rc<HostSession>> {
        self.sessions.borrow().by_nexus(nexus).and_then(crate::sessions::Session::host)
    }

    /// Starts tasks that were held back. One after the other, however long the chain: a task that ends at once releases the next.
    pub(crate) fn release(&self, tasks: Vec<Task>) {
        if tasks.is_empty() {
            return;
        }
        self.released.borrow_mut().extend(tasks);
        if self.releasing.replace(true) {
            return;
        }
        loop {
            let Some(task) = self.released.borrow_mut().pop_front() else { break };
            if let Some(session) = self.session_of(task.nexus) {
                session.release(task);
            }
        }
        self.releasing.set(false);
    }
}

/// Vault record of a LU's device server state.
pub(crate) fn lu_record(uuid: Uuid) -> String {
    format!("scsi/{uuid}")
}

/// The NAA IEEE Registered Extended identifier of a LU (SPC-5, 7.7.3.6.5), made from its UUID once and for ever. The OUI has
/// the bit for locally administered ones, since the project has no registered one.
pub(crate) fn naa(uuid: Uuid) -> [u8; 16] {
    const OUI: [u8; 3] = [0x02, 0x54, 0x4C];
    let mut naa = *uuid.as_bytes();
    naa[0] = 0x60 | OUI[0] >> 4;
    naa[1] = OUI[0] << 4 | OUI[1] >> 4;
    naa[2] = OUI[1] << 4 | OUI[2] >> 4;
    naa[3] = OUI[2] << 4 | naa[3] & 0x0F;
    naa
}

fn ports(config: &Config) -> BTreeMap<u16, TargetPort> {
    let mut ports = BTreeMap::new();
    for portal in &config.portals {
        let next = ports.len() as u16 + 1;
        ports.entry(portal.group).or_insert(TargetPort { relative_id: next, portal_group_tag: portal.group });
    }
    ports
}

fn link_config(config: &Config, key: Option<Vec<u8>>) -> Result<Option<LinkConfig>, StartError> {
    let Some(link) = &config.link else { return Ok(None) };
    let peers = link.peers.iter();
    Ok(Some(LinkConfig {
        unit: config.unit.clone(),
        listen: link.listen,
        key: LinkKey::new(key.unwrap_or_default())?,
        peers: peers.map(|p| PeerConfig { unit: p.unit.clone(), addresses: p.addresses.clone() }).collect(),
        timing: Timing::default(),
        limits: LinkLimits::default(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lu_keeps_one_registered_extended_identifier() {
        let uuid = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        let naa = naa(uuid);
        assert_eq!(naa[..4], [0x60, 0x25, 0x44, 0xC7]);
        assert_eq!(naa[4..], uuid.as_bytes()[4..]);
    }
}
