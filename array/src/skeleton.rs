//! Signatures for the rooms above, bodies follow.
#![allow(missing_docs, clippy::unimplemented, clippy::needless_pass_by_value)]
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use twinlun_block::{BlockLayer, BlockRequest, BlockResult, Geometry, MetaError, MetaLog, MetaStore};
use twinlun_io::Shard;
use uuid::Uuid;

use crate::*;

#[derive(Clone)]
pub struct Array(Rc<()>);
#[derive(Clone)]
pub struct Lu(Rc<()>);
#[derive(Clone)]
pub struct Vault(Rc<()>);
#[derive(Clone)]
pub struct VaultLog(Rc<()>);
/// Bounded queue of events, one consumer.
#[derive(Clone)]
pub struct Events(Rc<()>);

impl Array {
    pub async fn open(_shard: Shard, _unit: &str, _disks: Vec<DiskConfig>) -> Result<Self, ArrayError> {
        unimplemented!()
    }
    pub async fn open_with(
        _shard: Shard,
        _unit: &str,
        _disks: Vec<DiskConfig>,
        _options: ArrayOptions,
    ) -> Result<Self, ArrayError> {
        unimplemented!()
    }
    pub fn unit_uuid(&self) -> Uuid {
        unimplemented!()
    }
    pub fn vault(&self) -> Vault {
        Vault(self.0.clone())
    }
    pub fn disks(&self) -> Vec<DiskStatus> {
        unimplemented!()
    }
    pub async fn add_disk(&self, _config: DiskConfig, _spare: bool) -> Result<u32, ArrayError> {
        unimplemented!()
    }
    pub async fn fail_disk(&self, _slot: u32) -> Result<(), ArrayError> {
        unimplemented!()
    }
    pub async fn replace_disk(&self, _slot: u32, _path: PathBuf, _size: Option<u64>) -> Result<(), ArrayError> {
        unimplemented!()
    }
    pub async fn create_lu(&self, _spec: LuSpec) -> Result<LuInfo, ArrayError> {
        unimplemented!()
    }
    pub async fn delete_lu(&self, _uuid: Uuid) -> Result<(), ArrayError> {
        unimplemented!()
    }
    pub fn lus(&self) -> Vec<LuInfo> {
        unimplemented!()
    }
    pub fn lu(&self, _uuid: Uuid) -> Option<Lu> {
        Some(Lu(self.0.clone()))
    }
    pub fn lu_by_name(&self, _name: &str) -> Option<Lu> {
        unimplemented!()
    }
    pub fn events(&self) -> Events {
        Events(self.0.clone())
    }
    pub fn rebuild_progress(&self) -> Vec<RebuildProgress> {
        unimplemented!()
    }
    pub async fn shutdown(&self) -> Result<(), ArrayError> {
        unimplemented!()
    }
}
impl Events {
    /// The next event, waiting for it.
    pub async fn next(&self) -> ArrayEvent {
        unimplemented!()
    }
    /// What has happened since the last call.
    pub fn drain(&self) -> Vec<ArrayEvent> {
        unimplemented!()
    }
}
impl Lu {
    pub fn uuid(&self) -> Uuid {
        unimplemented!()
    }
    pub fn info(&self) -> LuInfo {
        unimplemented!()
    }
}
impl BlockLayer for Lu {
    fn geometry(&self) -> Geometry {
        unimplemented!()
    }
    async fn execute(&self, _request: BlockRequest) -> BlockResult {
        unimplemented!()
    }
}
impl MetaStore for Vault {
    type Log = VaultLog;
    fn get(&self, _key: &str) -> Option<Bytes> {
        unimplemented!()
    }
    async fn put(&self, _changes: Vec<(String, Option<Bytes>)>) -> Result<(), MetaError> {
        unimplemented!()
    }
    async fn open_log(&self, _name: &str, _pages: u32) -> Result<VaultLog, MetaError> {
        Ok(VaultLog(self.0.clone()))
    }
    async fn remove_log(&self, _name: &str) -> Result<(), MetaError> {
        unimplemented!()
    }
}
impl MetaLog for VaultLog {
    fn pages(&self) -> u32 {
        unimplemented!()
    }
    async fn read(&self, _page: u32) -> Result<Bytes, MetaError> {
        unimplemented!()
    }
    async fn write(&self, _pages: Vec<(u32, Bytes)>) -> Result<(), MetaError> {
        unimplemented!()
    }
}
