//! Tests of the device server as a whole, over a LU in memory.

mod attentions;
mod buffers;
mod copies;
mod copy_lists;
mod format;
mod fuzz;
mod management;
mod media;
mod medium_state;
mod parameters;
mod queue;
mod reservations;
mod sanitize;
mod services;
mod table;
mod tokens;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use twinlun_block::{
    Allocation, BlockError, BlockRequest, BlockResult, BlockSize, Geometry, Payload, UnmapSupport, compare,
};

use crate::*;

pub(crate) const LU: LuId = LuId(7);
pub(crate) const BLOCKS: u64 = 4096;
pub(crate) const BS: usize = 512;

/// A target device with one LU in memory.
pub(crate) struct Rig {
    pub(crate) device: TargetDevice,
    pub(crate) disk: Vec<u8>,
    /// What other LUs hold, and their block size.
    pub(crate) others: BTreeMap<LuId, (Vec<u8>, usize)>,
    /// The clock of third-party copies.
    pub(crate) now: Duration,
    /// The tag of the next command.
    pub(crate) tag: u32,
    /// What was last stored for the LU.
    pub(crate) record: Option<Bytes>,
    /// Tasks that the last command wanted aborted.
    pub(crate) aborts: Vec<Abort>,
    /// The next requests fail like this.
    pub(crate) fail: Option<BlockError>,
    pub(crate) requests: Vec<BlockRequest>,
    /// What GET LBA STATUS is told; everything is mapped without.
    pub(crate) allocation: Option<Vec<Allocation>>,
}

pub(crate) fn port(relative_id: u16) -> TargetPort {
    TargetPort { relative_id, portal_group_tag: relative_id }
}

pub(crate) fn initiator(name: &str) -> InitiatorPort {
    InitiatorPort { name: format!("iqn.2026-11.io.host:{name}"), isid: [0x40, 0, 0, 0, 0, 1] }
}

pub(crate) fn identity() -> TargetIdentity {
    TargetIdentity {
        vendor: "TWINLUN".into(),
        product: "array".into(),
        revision: "1".into(),
        iqn: "iqn.2026-11.io.twinlun:east".into(),
        ports: vec![port(1), port(2)],
        port_group: 1,
    }
}

pub(crate) fn geometry() -> Geometry {
    Geometry {
        size: BLOCKS * BS as u64,
        block_size: BlockSize::B512,
        optimal_io: 65536,
        unmap: UnmapSupport { granularity: 65536 },
    }
}

pub(crate) fn description(saved_state: Option<Bytes>) -> LuDescription {
    LuDescription {
        naa: [0x60, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        serial: "0123456789abcdef".into(),
        geometry: geometry(),
        write_cache: true,
        thin: true,
        traits: LuTraits::default(),
        saved_state,
        takeover: false,
    }
}

pub(crate) fn lun(number: u16) -> [u8; 8] {
    lun::encode(number)
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(description(None))
    }

    pub(crate) fn with(description: LuDescription) -> Self {
        let mut device = TargetDevice::new(identity());
        device.add_lu(LU, description);
        Self {
            device,
            disk: vec![0; BLOCKS as usize * BS],
            others: BTreeMap::new(),
            now: Duration::from_secs(1),
            tag: 0,
            record: None,
            aborts: Vec::new(),
            fail: None,
            requests: Vec::new(),
            allocation: None,
        }
    }

    /// Opens a nexus and takes its POWER ON.
    pub(crate) fn open(&mut self, name: &str) -> NexusId {
        self.open_at(name, 1)
    }

    pub(crate) fn open_at(&mut self, name: &str, port_id: u16) -> NexusId {
        let map = [(0, LU)].into_iter().collect();
        let nexus = self.device.open_nexus(initiator(name), port(port_id), map);
        self.sense(nexus, &[0; 6], SenseKey::UnitAttention, Asc(0x29, 0x00));
        nexus
    }

    /// The same at a LU that is being sanitized, or could not be.
    pub(crate) fn open_refused(&mut self, name: &str) -> NexusId {
        let nexus = self.open(name);
        self.sense(nexus, &[0; 6], SenseKey::NotReady, Asc::SANITIZE_IN_PROGRESS);
        nexus
    }

    pub(crate) fn send(&mut self, nexus: NexusId, cdb: &[u8], data: impl Into<Payload>) -> Reply {
        self.send_to(nexus, lun(0), cdb, data.into())
    }

    pub(crate) fn send_to(&mut self, nexus: NexusId, lun: [u8; 8], cdb: &[u8], data: Payload) -> Reply {
        let mut whole = [0; 16];
        whole[..cdb.len()].copy_from_slice(cdb);
        let (tag, moment) = (self.tag, Some(self.moment()));
        let outcome = self.device.execute(nexus, lun, Command { cdb: &whole, data_out: data, tag, moment });
        match outcome {
            Outcome::Done(reply) => reply,
            Outcome::Io(io) => self.drive(io),
            Outcome::Settle(settle) => {
                self.record = settle.record;
                self.aborts = settle.abort;
                if settle.operation_left {
                    self.device.operation_left(LU);
                }
                match settle.operation {
                    Some(OperationStart { waits: true }) => {
                        self.operate();
                        Reply { data_out_len: settle.then.data_out_len, ..self.device.operation_reply(LU) }
                    }
                    _ => settle.then,
                }
            }
            Outcome::LbaStatus(asked) => {
                let found = self
                    .allocation
                    .clone()
                    .unwrap_or(vec![Allocation { range: asked.range(), mapped: true }]);
                asked.finish(self.fail.map_or(Ok(found), Err))
            }
        }
    }

    /// Runs an operation to its end, or to its failure.
    pub(crate) fn operate(&mut self) {
        for _ in 0..10_000 {
            match self.device.operation_step(LU) {
                OperationStep::Idle => return,
                OperationStep::Submit(request) => {
                    self.requests.push(request.clone());
                    let result = self.serve(LU, request.clone()).map(drop);
                    if !self.device.operation_done(LU, &request, result) {
                        return;
                    }
                }
                OperationStep::Store(record) => {
                    self.record = Some(record);
                    self.device.operation_end(LU);
                    if self.device.operating().is_empty() {
                        return;
                    }
                }
            }
        }
        panic!("an operation never ends");
    }

    /// What a third-party copy is told: a clock, and randomness that differs each time.
    pub(crate) fn moment(&mut self) -> Moment {
        self.tag += 1;
        let mut random = [0xA5; 32];
        random[..4].copy_from_slice(&self.tag.to_be_bytes());
        Moment { now: self.now, random }
    }

    pub(crate) fn drive(&mut self, mut io: Io) -> Reply {
        let mut previous = None;
        for _ in 0..100_000 {
            match self.device.step(&mut io, previous.take()) {
                Step::Done(reply) => return reply,
                Step::Submit(request) => {
                    self.requests.push(request.clone());
                    previous = Some(self.serve(io.lu(), request));
                }
            }
        }
        panic!("a command never ends");
    }

    pub(crate) fn serve(&mut self, lu: LuId, request: BlockRequest) -> BlockResult {
        if let Some(error) = self.fail {
            return Err(error);
        }
        let at = request.range().map_or(0..0, |r| r.offset() as usize..r.end() as usize);
        let (disk, size) = match self.others.get_mut(&lu) {
            Some((disk, size)) => (disk, *size),
            None => (&mut self.disk, BS),
        };
        assert!(at.end <= disk.len(), "requests lie within the LU");
        assert!(at.start.is_multiple_of(size) && at.end.is_multiple_of(size), "requests are aligned");
        let area = &mut disk[at];
        match request {
            BlockRequest::Read { .. } => return Ok(area.to_vec().into()),
            BlockRequest::Write { data, .. } | BlockRequest::WriteAtomic { data, .. } => {
                data.copy_to_slice(area);
            }
            BlockRequest::Flush => {}
            BlockRequest::Unmap { .. } | BlockRequest::WriteZeroes { .. } => area.fill(0),
            BlockRequest::CompareAndWrite { compare: expected, data, .. } => {
                compare(&area.to_vec().into(), &expected)?;
                data.copy_to_slice(area);
            }
        }
        Ok(Payload::new())
    }

    /// GOOD, and its data.
    #[track_caller]
    pub(crate) fn good(&mut self, nexus: NexusId, cdb: &[u8], data: impl Into<Payload>) -> Bytes {
        let reply = self.send(nexus, cdb, data);
        assert_eq!(reply.status, Status::Good, "{cdb:02x?}: {:?}", reply.sense);
        reply.data.to_bytes()
    }

    /// CHECK CONDITION with that key and code.
    #[track_caller]
    pub(crate) fn sense(&mut self, nexus: NexusId, cdb: &[u8], key: SenseKey, asc: Asc) -> SenseBytes {
        self.sense_with(nexus, cdb, Payload::new(), key, asc)
    }

    #[track_caller]
    pub(crate) fn sense_with(
        &mut self,
        nexus: NexusId,
        cdb: &[u8],
        data: impl Into<Payload>,
        key: SenseKey,
        asc: Asc,
    ) -> SenseBytes {
        let reply = self.send(nexus, cdb, data);
        expect_sense(&reply, cdb, key, asc)
    }

    #[track_caller]
    pub(crate) fn illegal(&mut self, nexus: NexusId, cdb: &[u8], asc: Asc) -> SenseBytes {
        self.sense(nexus, cdb, SenseKey::IllegalRequest, asc)
    }

    #[track_caller]
    pub(crate) fn conflict(&mut self, nexus: NexusId, cdb: &[u8], data: impl Into<Payload>) {
        let reply = self.send(nexus, cdb, data);
        assert_eq!(reply.status, Status::ReservationConflict, "{cdb:02x?}: {:?}", reply.sense);
    }
}

#[track_caller]
pub(crate) fn expect_sense(reply: &Reply, cdb: &[u8], key: SenseKey, asc: Asc) -> SenseBytes {
    assert_eq!(reply.status, Status::CheckCondition, "{cdb:02x?}");
    let sense = reply.sense.expect("CHECK CONDITION has sense data");
    assert_eq!((sense[2], sense[12], sense[13]), (key as u8, asc.0, asc.1), "{cdb:02x?}");
    sense
}

/// READ or WRITE (10), (16).
pub(crate) fn ten(opcode: u8, flags: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let mut cdb = [0; 10];
    (cdb[0], cdb[1]) = (opcode, flags);
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

pub(crate) fn sixteen(opcode: u8, flags: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (opcode, flags);
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

pub(crate) fn filled(byte: u8, blocks: usize) -> Payload {
    vec![byte; blocks * BS].into()
}
