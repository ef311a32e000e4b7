//! One of the two targets: its sessions, and what it answers to a step.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use twinlun::initiator::{Session, SessionError};
use twinlun_block::Payload;
use twinlun_io::Shard;
use twinlun_iscsi::initiator::{Command, Completion, InitiatorConfig, SessionKind, Transfer, cdb};
use twinlun_iscsi::names::Isid;
use twinlun_iscsi::pdu::{Lun, Residual, TaskAttribute, TaskFunction};
use twinlun_tests::answer::{information, outcome};

use crate::Failure;
use crate::generate::{HOT, LU_SIZE, NEXUSES, first_content};
use crate::parameters::page_len;
use crate::step::{Data, Page, ScsiStep, Step};

const PATIENCE: Duration = Duration::from_secs(20);
/// Unit attention conditions that one command may meet before that is a target that never stops.
const MAX_ATTENTIONS: usize = 12;

/// Where a target is.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    pub(crate) portal: SocketAddr,
    pub(crate) target: String,
}

/// What a target did about a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Unit attention conditions reported before the answer, as `asc/ascq`.
    pub(crate) attentions: Vec<String>,
    /// How it ended; see [`outcome`].
    pub(crate) outcome: String,
    /// First byte of the sense data without its top bit: which format.
    pub(crate) sense_format: Option<u8>,
    /// The INFORMATION field, when it is valid.
    pub(crate) information: Option<u64>,
    pub(crate) residual: Residual,
    pub(crate) data: Vec<u8>,
    /// The session is gone.
    pub(crate) lost: bool,
}

/// A LU of a target as the hosts of a sequence use it.
pub(crate) struct Side {
    shard: Shard,
    address: Address,
    lun: Lun,
    lane: u16,
    pub(crate) block: u32,
    sessions: Vec<Session>,
    /// PRGENERATION when the sequence began.
    pub(crate) generation: u32,
    /// Mode pages as they are before anybody changes them.
    pages: BTreeMap<u8, Vec<u8>>,
}

/// Pages that sequences change, as they are in every sequence's beginning: code, byte, bit, value.
const DEFAULTS: [(u8, usize, u8, bool); 2] = [(0x08, 2, 0x04, true), (0x0A, 4, 0x08, false)];

impl Side {
    pub(crate) async fn open(
        shard: &Shard,
        address: &Address,
        lane: u16,
        lun: u16,
        block: u32,
    ) -> Result<Self, Failure> {
        let lun = Lun::from_number(lun).ok_or("a LUN")?;
        let (shard, address) = (shard.clone(), address.clone());
        let mut side = Self {
            shard,
            address,
            lun,
            lane,
            block,
            sessions: Vec::new(),
            generation: 0,
            pages: BTreeMap::new(),
        };
        side.log_in().await?;
        side.read_pages().await?;
        Ok(side)
    }

    /// New sessions for all hosts; the old ones, if any, go.
    pub(crate) async fn log_in(&mut self) -> Result<(), Failure> {
        self.sessions.clear();
        for host in 0..NEXUSES {
            let kind = SessionKind::Normal { target: self.address.target.parse()? };
            let name = host_name(host).parse()?;
            let isid = Isid::random([0x44, 0x69, 0x66], self.lane);
            let mut config = InitiatorConfig::new(name, isid, kind);
            config.max_tasks = 4;
            config.receive_chunk = 64 << 10;
            let session = Session::connect(&self.shard, self.address.portal, config, PATIENCE).await?;
            self.sessions.push(session);
        }
        Ok(())
    }

    /// Whether a session has ended.
    pub(crate) fn is_lost(&self) -> bool {
        self.sessions.iter().any(|session| session.ended().is_some())
    }

    /// Takes a step to its end: unit attentions are noted, and the command is sent again.
    pub(crate) async fn take(&self, step: &Step) -> Seen {
        match step {
            Step::Manage { nexus, function } => {
                let work = self.sessions[*nexus].manage(*function, self.lun);
                match self.shard.timeout(PATIENCE, work).await {
                    Ok(Ok(response)) => Seen::plain(
                        response
                            .name()
                            .map_or_else(|| format!("response {}", response.0), str::to_ascii_uppercase),
                    ),
                    Ok(Err(error)) => Seen::lost(&error),
                    Err(_) => Seen::lost(&SessionError::TimedOut),
                }
            }
            Step::Scsi(scsi) => {
                let mut attentions = Vec::new();
                loop {
                    let seen = self.once(scsi).await;
                    match seen.outcome.strip_prefix("CHECK 6/") {
                        Some(condition) if attentions.len() < MAX_ATTENTIONS => {
                            attentions.push(condition.to_owned());
                        }
                        _ => return Seen { attentions, ..seen },
                    }
                }
            }
        }
    }

    async fn once(&self, scsi: &ScsiStep) -> Seen {
        let session = &self.sessions[scsi.nexus];
        let transfer = match &scsi.data {
            Data::None => Transfer::None,
            Data::In(len) => Transfer::Read(*len),
            Data::Out(bytes) => Transfer::Write(Payload::from(bytes.clone())),
            Data::Page(page) => Transfer::Write(Payload::from(self.page(page))),
        };
        let mut command = Command::new(session.new_tag(), self.lun, scsi.cdb, transfer);
        command.attribute = scsi.attribute;
        match self.shard.timeout(PATIENCE, session.execute_as(command)).await {
            Ok(Ok(completion)) => Seen::completed(&completion),
            Ok(Err(SessionError::Rejected(reason))) => Seen::plain(format!("REJECTED {reason:?}")),
            Ok(Err(SessionError::Aborted)) => Seen::plain("ABORTED".into()),
            Ok(Err(error)) => Seen::lost(&error),
            Err(_) => Seen::lost(&SessionError::TimedOut),
        }
    }

    /// A command whose answer does not matter, or only that it is GOOD.
    async fn order(&self, nexus: usize, cdb: [u8; 16], data: Data) -> Seen {
        let attribute = TaskAttribute::SIMPLE;
        let odd = crate::step::Odd::No;
        self.take(&Step::Scsi(ScsiStep { nexus, cdb, data, attribute, odd })).await
    }

    async fn must(&self, what: &str, nexus: usize, cdb: [u8; 16], data: Data) -> Result<Seen, Failure> {
        let seen = self.order(nexus, cdb, data).await;
        if seen.outcome == "GOOD" { Ok(seen) } else { Err(format!("{what}: {}", seen.outcome).into()) }
    }

    /// The state in which every sequence begins: nobody reserves, modes are the defaults, the content is known, no unit attention waits.
    pub(crate) async fn reset(&mut self, after: Traces) -> Result<(), Failure> {
        if after.reset {
            let reset = Step::Manage { nexus: 0, function: TaskFunction::LOGICAL_UNIT_RESET };
            self.take(&reset).await;
        }
        if after.reservations {
            for nexus in 0..NEXUSES {
                let mut release = [0; 16];
                release[0] = 0x17;
                self.order(nexus, release, Data::None).await;
            }
            let list = |key, action_key| {
                Data::Out(cdb::persistent_reserve_out_parameters(key, action_key, false).to_vec())
            };
            self.must("register", 0, cdb::persistent_reserve_out(6, 0, 24), list(0, 1)).await?;
            self.must("clear", 0, cdb::persistent_reserve_out(3, 0, 24), list(1, 0)).await?;
        }
        if after.modes {
            self.default_modes().await;
        }
        for nexus in 0..NEXUSES {
            let mut ready = Seen::plain(String::new());
            for _ in 0..3 {
                ready = self.order(nexus, cdb::test_unit_ready(), Data::None).await;
                if ready.outcome == "GOOD" {
                    break;
                }
            }
            if ready.outcome != "GOOD" {
                return Err(format!("not ready: {}", ready.outcome).into());
            }
        }
        let keys = self.must("read keys", 0, cdb::persistent_reserve_in(0, 64), Data::In(64)).await?;
        match keys.data.as_slice() {
            [a, b, c, d, 0, 0, 0, 0, ..] => self.generation = u32::from_be_bytes([*a, *b, *c, *d]),
            other => return Err(format!("reservations are left: {other:02x?}").into()),
        }
        self.fill(after.everywhere).await
    }

    /// Reads the pages that sequences change; a target without one gets it as ours has it.
    async fn read_pages(&mut self) -> Result<(), Failure> {
        for code in [0x08, 0x0A] {
            let mut sense = [0; 16];
            (sense[0], sense[1], sense[2], sense[4]) = (0x1A, 0x08, code, 64);
            let seen = self.must("read mode page", 0, sense, Data::In(64)).await?;
            let len = page_len(code);
            let page = seen.data.get(4..4 + len).ok_or("a mode page that is too short")?;
            self.pages.insert(code, page.to_vec());
        }
        Ok(())
    }

    /// The parameter list of a MODE SELECT.
    fn page(&self, page: &Page) -> Vec<u8> {
        let mut list = vec![0; page.header];
        list.extend(&self.pages[&page.code]);
        // PS is reserved in MODE SELECT.
        list[page.header] &= 0x7F;
        let byte = &mut list[page.header + page.byte];
        *byte = *byte & !page.mask | if page.set { page.mask } else { 0 };
        list
    }

    /// Write cache on, no write protection; everything else as the target has it.
    async fn default_modes(&self) {
        for (code, byte, mask, set) in DEFAULTS {
            let page = Page { header: 4, code, byte, mask, set };
            let mut select = [0; 16];
            (select[0], select[1], select[4]) = (0x15, 0x10, 4 + page_len(code) as u8);
            // A target whose pages cannot be changed has them as they were.
            self.order(0, select, Data::Page(page)).await;
        }
    }

    async fn fill(&self, everywhere: bool) -> Result<(), Failure> {
        let blocks = LU_SIZE / u64::from(self.block);
        let ends = first_content(self.block);
        let hot = ends.len();
        if everywhere {
            let mut all = vec![0; LU_SIZE as usize];
            all[..hot].copy_from_slice(&ends);
            all[LU_SIZE as usize - hot..].copy_from_slice(&ends);
            // In pieces that every target takes.
            let piece = LU_SIZE as usize / 4;
            for (number, part) in all.chunks(piece).enumerate() {
                let lba = number as u64 * (blocks / 4);
                let write = cdb::write_16(lba, blocks as u32 / 4, false);
                self.must("fill", 0, write, Data::Out(part.to_vec())).await?;
            }
            return Ok(());
        }
        for lba in [0, blocks - HOT] {
            let write = cdb::write_16(lba, HOT as u32, false);
            self.must("fill", 0, write, Data::Out(ends.clone())).await?;
        }
        Ok(())
    }

    /// The content: all of it, or the ends where nearly everything happens.
    pub(crate) async fn content(&self, everywhere: bool) -> Result<Vec<u8>, Failure> {
        let blocks = LU_SIZE / u64::from(self.block);
        let (places, count) = if everywhere {
            ((0..4).map(|n| n * (blocks / 4)).collect(), blocks / 4)
        } else {
            (vec![0, blocks - HOT], HOT)
        };
        let mut all = Vec::new();
        for lba in places {
            let expects = Data::In(count as u32 * self.block);
            // A reservation may keep one host out.
            let mut seen = self.order(0, cdb::read_16(lba, count as u32, false), expects.clone()).await;
            if seen.outcome == "RESERVATION CONFLICT" {
                seen = self.order(1, cdb::read_16(lba, count as u32, false), expects).await;
            }
            if seen.outcome != "GOOD" {
                return Err(format!("read back: {}", seen.outcome).into());
            }
            all.extend(seen.data);
        }
        Ok(all)
    }
}

/// Name of a host.
pub(crate) fn host_name(host: usize) -> String {
    format!("iqn.2026-11.io.twinlun:host-{}", char::from(b'a' + host as u8))
}

/// What a sequence may have left behind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traces {
    pub(crate) reset: bool,
    pub(crate) reservations: bool,
    pub(crate) modes: bool,
    /// Blocks beside the hot ends.
    pub(crate) everywhere: bool,
}

impl Traces {
    /// Everything, for a LU of which nothing is known.
    pub(crate) const ALL: Self = Self { reset: true, reservations: true, modes: true, everywhere: true };

    /// Of steps for LUs with this block size.
    pub(crate) fn of(steps: &[Step], block: u32) -> Self {
        let mut traces = Self::default();
        for step in steps {
            let Step::Scsi(scsi) = step else { continue };
            match scsi.cdb[0] {
                0x15 | 0x55 => traces.modes = true,
                0x16 | 0x17 | 0x56 | 0x57 | 0x5F => traces.reservations = true,
                0x0A | 0x2A | 0x2E | 0x41 | 0x42 | 0x89 | 0x8A | 0x8B | 0x8E | 0x93 | 0xAA | 0xAE => {
                    traces.everywhere |= !crate::project::is_hot(scsi, block);
                }
                _ => {}
            }
        }
        traces
    }
}

impl Seen {
    fn plain(outcome: String) -> Self {
        Self {
            attentions: Vec::new(),
            outcome,
            sense_format: None,
            information: None,
            residual: Residual::None,
            data: Vec::new(),
            lost: false,
        }
    }

    fn lost(error: &SessionError) -> Self {
        Self { lost: true, ..Self::plain(format!("SESSION LOST: {error}")) }
    }

    fn completed(completion: &Completion) -> Self {
        Self {
            sense_format: completion.sense.first().map(|byte| byte & 0x7F),
            information: information(&completion.sense),
            residual: completion.residual,
            data: completion.data.to_bytes().to_vec(),
            ..Self::plain(outcome(completion))
        }
    }
}
