//! The SCSI device server: CDBs, parameter lists, reservations, task management, and the state that it stores.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use twinlun_block::{
    Allocation, BlockError, BlockRequest, BlockSize, ByteRange, Geometry, Payload, UnmapSupport,
};
use twinlun_scsi::{
    Abort, Admission, Command, InitiatorPort, Io, LuAccess, LuDescription, LuId, LuTraits, LunMap, Moment,
    NexusId, Outcome, Reply, Status, Step, TargetDevice, TargetIdentity, TargetPort, Task, TaskAttribute,
    TaskManagement, UnitAttention, describe, lun, needs_moment,
};

use crate::engine::{Probe, Target};
use crate::input::{Source, pattern};
use crate::scsi_disk::Disk;
use crate::scsi_lists::{extended_copy, token_list};

const BLOCKS: u64 = 512;
const LUS: u32 = 2;
/// Steps after which a long command is aborted here, as a host may do.
const STEPS: usize = 300;

pub(crate) fn targets() -> Vec<Target> {
    vec![
        Target {
            name: "scsi",
            execs: 60_000,
            longest: 3000,
            work: (4096, 400),
            fresh: |rng| {
                let len = rng.len(1200);
                rng.bytes(len)
            },
            run: |input, probe| machine(input, false, probe),
        },
        Target {
            name: "raw-scsi",
            execs: 60_000,
            longest: 3000,
            work: (4096, 400),
            fresh: |rng| {
                let len = rng.len(600);
                rng.bytes(len)
            },
            run: |input, probe| machine(input, true, probe),
        },
        Target {
            name: "scsi-saved",
            execs: 150_000,
            longest: 2000,
            work: (4096, 16),
            fresh: |rng| {
                let len = rng.len(400);
                rng.bytes(len)
            },
            run: saved,
        },
    ]
}

fn identity() -> TargetIdentity {
    TargetIdentity {
        vendor: "TWINLUN".into(),
        product: "array".into(),
        revision: "1".into(),
        iqn: "iqn.2026-11.io.twinlun:east".into(),
        ports: vec![port(1), port(2)],
        port_group: 1,
    }
}

fn port(relative_id: u16) -> TargetPort {
    TargetPort { relative_id, portal_group_tag: relative_id }
}

fn initiator(number: usize) -> InitiatorPort {
    InitiatorPort { name: format!("iqn.2026-11.io.host:{number}"), isid: [0x40, 0, 0, 0, 0, 1] }
}

fn description(thin: bool, block_size: BlockSize, saved_state: Option<Bytes>) -> LuDescription {
    LuDescription {
        naa: [0x60, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        serial: "0123456789abcdef".into(),
        geometry: Geometry {
            size: BLOCKS * u64::from(block_size.bytes()),
            block_size,
            optimal_io: 65_536,
            unmap: UnmapSupport { granularity: 4096 },
        },
        write_cache: true,
        thin,
        traits: LuTraits::default(),
        saved_state,
        takeover: false,
    }
}

/// CDB usage data of every command, as the device itself reports it (SPC-5, 6.29).
fn table() -> &'static [Vec<u8>] {
    static TABLE: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut device = TargetDevice::new(identity());
        device.add_lu(LuId(0), description(true, BlockSize::B512, None));
        let nexus = device.open_nexus(initiator(0), port(1), [(0, LuId(0))].into_iter().collect());
        let mut ask = |option: u8, opcode: u8, action: u16| {
            let [high, low] = action.to_be_bytes();
            let cdb = [0xA3, 0x0C, option, opcode, high, low, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
            for _ in 0..3 {
                // Unit attentions come first.
                let command = Command::new(0, &cdb, Payload::new());
                if let Outcome::Done(Reply { status: Status::Good, data, .. }) =
                    device.execute(nexus, [0; 8], command)
                {
                    return data.to_bytes();
                }
            }
            panic!("REPORT SUPPORTED OPERATION CODES is supported");
        };
        let all = ask(0, 0, 0);
        let rows = all[4..].chunks(8).map(|row| {
            let (opcode, action, has_action) =
                (row[0], u16::from_be_bytes([row[2], row[3]]), row[5] & 1 != 0);
            let one = ask(if has_action { 2 } else { 1 }, opcode, action);
            let mut usage = one[4..].to_vec();
            usage[0] = opcode;
            // The low bits of byte 1 name the service action: the marker in byte 16 says so.
            usage.resize(16, 0);
            usage.push(u8::from(has_action));
            usage.push(action as u8);
            usage
        });
        rows.collect()
    })
}

struct Rig<'p> {
    device: TargetDevice,
    disks: Vec<Disk>,
    nexuses: Vec<(NexusId, usize)>,
    tasks: Vec<(Task, [u8; 8], [u8; 16], Payload)>,
    next_tag: u32,
    /// CDBs and parameter lists are bytes of the input as they stand.
    raw: bool,
    /// The last answer to MODE SENSE, to be sent back with changes.
    pages: Vec<u8>,
    probe: &'p mut Probe,
}

fn machine(input: &[u8], raw: bool, probe: &mut Probe) {
    let mut source = Source::new(input);
    let block_size = if source.rarely(4) { BlockSize::B4096 } else { BlockSize::B512 };
    let mut rig = Rig {
        device: TargetDevice::new(identity()),
        disks: Vec::new(),
        nexuses: Vec::new(),
        tasks: Vec::new(),
        next_tag: 0,
        raw,
        pages: Vec::new(),
        probe,
    };
    for lu in 0..LUS {
        let block_size = if source.rarely(8) { BlockSize::B4096 } else { block_size };
        let mut lu_description = description(!source.rarely(4), block_size, None);
        lu_description.naa[15] = lu as u8;
        rig.device.add_lu(LuId(lu), lu_description);
        rig.disks.push(Disk::new(BLOCKS, block_size));
    }
    for number in 0..3 {
        rig.open(number);
    }
    while !source.is_empty() {
        match source.below(24) {
            0 if source.rarely(2) => rig.manage(&mut source),
            1 if source.rarely(2) => rig.change(&mut source),
            _ => rig.command(&mut source),
        }
    }
    for lu in 0..LUS {
        let record = rig.device.saved_state(LuId(lu)).expect("the LU is there");
        let mut other = TargetDevice::new(identity());
        assert!(
            other.add_lu(LuId(lu), description(true, rig.disks[lu as usize].block_size(), Some(record))),
            "what is saved can be read"
        );
    }
}

impl Rig<'_> {
    fn open(&mut self, number: usize) {
        let map: LunMap = (0..LUS).map(|lu| (lu as u16, LuId(lu))).collect();
        let nexus = self.device.open_nexus(initiator(number), port(1 + (number % 2) as u16), map);
        self.nexuses.push((nexus, number));
        // POWER ON would stop the first command of each.
        for lu in 0..LUS {
            let _ =
                self.device.execute(nexus, lun::encode(lu as u16), Command::new(0, &[0; 16], Payload::new()));
        }
    }

    fn lun(source: &mut Source<'_>) -> [u8; 8] {
        if source.rarely(16) { source.array() } else { lun::encode(u16::from(source.rarely(4))) }
    }

    fn command(&mut self, source: &mut Source<'_>) {
        let (nexus, number) = self.nexuses[source.below(self.nexuses.len())];
        let lun = Self::lun(source);
        let (cdb, data) = self.cdb(source);
        let attribute = if source.rarely(8) {
            source.pick(&[TaskAttribute::Ordered, TaskAttribute::HeadOfQueue, TaskAttribute::Aca])
        } else {
            TaskAttribute::Simple
        };
        self.next_tag += 1;
        match self.device.begin(nexus, lun, self.next_tag, attribute, &cdb) {
            Admission::Run(task) => {
                let leave = source.rarely(10);
                self.execute(nexus, number, lun, &cdb, data, task, leave, source);
            }
            Admission::Hold(task) => self.tasks.push((task, lun, cdb, data)),
            Admission::Refuse(reply) => self.check(&reply, &cdb),
        }
        assert!(self.tasks.len() < 4096);
    }

    /// A CDB of the table with bits that may be set, and a parameter list that may go with it; sometimes anything.
    fn cdb(&mut self, source: &mut Source<'_>) -> ([u8; 16], Payload) {
        let mut cdb: [u8; 16] = [0; 16];
        if self.raw {
            let len = source.number() as usize % 700;
            return (source.array(), source.take(len).to_vec().into());
        }
        if source.rarely(40) {
            return (source.array(), source.take(64).to_vec().into());
        }
        if source.rarely(3) {
            return self.list(source);
        }
        let row = &table()[source.below(table().len())];
        let noise = source.array::<16>();
        for at in 0..16 {
            cdb[at] = noise[at] & row[at];
        }
        cdb[0] = row[0];
        if row[16] == 1 {
            cdb[1] = cdb[1] & 0xE0 | row[17];
        }
        if !source.rarely(8) {
            // Ranges that exist and short lists.
            let high: &[usize] = match cdb[0] >> 5 {
                1 | 2 => &[2, 3, 7],
                4 => &[2, 3, 4, 5, 6, 7, 8, 10, 11, 12],
                5 => &[2, 3, 6, 7, 8],
                _ => &[],
            };
            for at in high {
                if cdb[0] != 0xA3 {
                    cdb[*at] = 0;
                }
            }
        }
        if source.rarely(30) {
            cdb[source.below(16)] ^= 1 << source.below(8);
        }
        let unit = self.disks[0].size;
        let blocks = match cdb[0] >> 5 {
            1 | 2 => usize::from(cdb[8]),
            4 if cdb[0] == 0x89 => usize::from(cdb[13]) * 2,
            4 => usize::from(cdb[13]),
            5 => usize::from(cdb[9]),
            _ => usize::from(cdb[4]),
        };
        let len = match source.below(6) {
            0 => source.number() as usize % 6000,
            1 => unit,
            _ => (blocks * unit).min(64 << 10),
        };
        let out = describe(&cdb).is_some_and(|info| info.data == twinlun_scsi::Data::Out);
        (cdb, if out { pattern(len).into() } else { Payload::new() })
    }

    /// Commands whose parameter list is where lengths lie.
    fn list(&mut self, source: &mut Source<'_>) -> ([u8; 16], Payload) {
        let mut cdb = [0; 16];
        let mut list = match source.below(8) {
            0..=2 => {
                cdb[0] = 0x5F;
                cdb[1] = source.below(8) as u8;
                cdb[2] = 1 + source.below(8) as u8;
                let mut list = vec![0; 24];
                list[7] = source.byte() & 3;
                list[15] = source.byte() & 3;
                list[20] = source.pick(&[0, 0, 1, 4, 8, 12]);
                if cdb[1] == 7 {
                    list[17] = source.byte() & 3;
                    list[19] = 1 + (source.byte() & 1);
                }
                if cdb[1] == 7 || list[20] & 8 != 0 {
                    let id = format!("iqn.2026-11.io.host:{},i,0x400000000001\0", source.below(4));
                    let len = id.len().next_multiple_of(4);
                    let mut transport = vec![0x45, 0, 0, len as u8];
                    transport.extend(id.into_bytes());
                    transport.resize(4 + len, 0);
                    let at = if cdb[1] == 7 { 20 } else { 24 };
                    list.resize(24, 0);
                    if at == 24 {
                        list.extend((transport.len() as u32).to_be_bytes());
                    } else {
                        list[20..24].copy_from_slice(&(transport.len() as u32).to_be_bytes());
                    }
                    list.extend(transport);
                }
                list
            }
            3 => {
                cdb[0] = source.pick(&[0x15, 0x55]);
                cdb[1] = 0x10 | source.byte() & 1;
                self.pages.clone()
            }
            4 => {
                cdb[0] = 0x42;
                let mut list = vec![0; 8];
                for _ in 0..source.below(5) {
                    let first = source.number();
                    list.extend(if first < 600 { first } else { first % 4096 }.to_be_bytes());
                    list.extend((source.number() as u32 % 4096).to_be_bytes());
                    list.extend([0; 4]);
                }
                let len = list.len() as u16;
                list[..2].copy_from_slice(&(len - 2).to_be_bytes());
                list[2..4].copy_from_slice(&(len - 8).to_be_bytes());
                list
            }
            5 => {
                cdb[..6].copy_from_slice(&[0x1A, 0, 0x3F, 0xFF, 0xFF, 0]);
                Vec::new()
            }
            6 => {
                cdb[0] = 0x83;
                extended_copy(source)
            }
            _ => {
                cdb[0] = 0x83;
                cdb[1] = 0x10 + source.byte() % 2;
                cdb[9] = source.byte() % 4;
                token_list(source, cdb[1] == 0x11)
            }
        };
        if !list.is_empty() && source.rarely(3) {
            let at = source.below(list.len());
            list[at] = source.byte();
        }
        let claimed = if source.rarely(8) { source.number() as u16 } else { list.len() as u16 };
        match cdb[0] {
            0x15 => cdb[4] = claimed as u8,
            0x1A => {}
            0x83 => cdb[12..14].copy_from_slice(&claimed.to_be_bytes()),
            _ => cdb[7..9].copy_from_slice(&claimed.to_be_bytes()),
        }
        if source.rarely(8) {
            list.truncate(source.below(list.len() + 1));
        }
        (cdb, list.into())
    }

    #[allow(clippy::too_many_arguments, reason = "a command and where it comes from")]
    fn execute(
        &mut self,
        nexus: NexusId,
        number: usize,
        lun: [u8; 8],
        cdb: &[u8; 16],
        data: Payload,
        task: Task,
        leave: bool,
        source: &mut Source<'_>,
    ) {
        let fenced = task.lu.is_some_and(|lu| self.fenced(lu, number, cdb));
        let standby = task.lu.is_none();
        // Tokens that are told apart by no more than their number are easier to hit.
        let moment = needs_moment(cdb)
            .then(|| Moment { now: Duration::from_secs(self.next_tag.into()), random: [7; 32] });
        let outcome =
            self.device.execute(nexus, lun, Command { moment, ..Command::new(task.tag, cdb, data) });
        self.probe.work(1);
        let reply = match outcome {
            Outcome::Done(reply) => reply,
            Outcome::Io(io) => {
                assert!(!fenced, "a reservation of another nexus lets {cdb:02x?} through");
                assert!(!standby);
                if leave {
                    // It stays in the task set until task management finds it.
                    return;
                }
                match self.drive(io, nexus) {
                    Some(reply) => reply,
                    None => {
                        self.release(task, None, source);
                        return;
                    }
                }
            }
            Outcome::LbaStatus(asked) => {
                assert!(!fenced && !standby);
                let half = asked.range().len() / 2;
                let front = Allocation { range: ByteRange::new(asked.range().offset(), half), mapped: false };
                asked.finish(Ok(vec![front]))
            }
            Outcome::Settle(settle) => {
                if let Some(record) = &settle.record {
                    self.probe.size("record", record.len());
                }
                for abort in &settle.abort {
                    self.device.end(abort.task, None);
                }
                self.run_released(settle.release, source);
                if source.rarely(10) { settle.otherwise } else { settle.then }
            }
        };
        self.check(&reply, cdb);
        if cdb[0] == 0x1A && reply.status == Status::Good {
            self.pages = reply.data.to_bytes().to_vec();
            if let Some(first) = self.pages.first_mut() {
                *first = 0;
            }
        }
        self.release(task, Some(&reply), source);
    }

    fn release(&mut self, task: Task, reply: Option<&Reply>, source: &mut Source<'_>) {
        let ended = self.device.end(task, reply);
        self.settle(ended.abort, ended.release, source);
    }

    fn run_released(&mut self, released: Vec<Task>, source: &mut Source<'_>) {
        for task in released {
            let Some(at) = self.tasks.iter().position(|held| held.0 == task) else {
                panic!("a task is released that is not held: {task:?}")
            };
            let (_, lun, cdb, data) = self.tasks.remove(at);
            let number =
                self.nexuses.iter().find(|nexus| nexus.0 == task.nexus).map_or(usize::MAX, |nexus| nexus.1);
            self.execute(task.nexus, number, lun, &cdb, data, task, false, source);
        }
    }

    /// Whether a persistent reservation of another nexus keeps the command from the medium, by what the administrator is shown.
    fn fenced(&self, lu: LuId, number: usize, cdb: &[u8]) -> bool {
        let (Some(status), Some(info)) = (self.device.reservations(lu), describe(cdb)) else { return false };
        let Some(kind) = status.kind else { return false };
        let here = initiator(number);
        let target = 1 + (number % 2) as u16;
        let registered = status.registrations.iter().any(|(who, port, _)| *who == here && *port == target);
        let holder = status.holder.as_ref() == Some(&here);
        let allowed = if kind.contains("Registrants") { registered || holder } else { holder };
        !allowed && (info.writes || kind.starts_with("Exclusive"))
    }

    fn drive(&mut self, mut io: Io, nexus: NexusId) -> Option<Reply> {
        let mut previous = None;
        let number = self.nexuses.iter().find(|known| known.0 == nexus).map_or(usize::MAX, |known| known.1);
        for _ in 0..STEPS {
            self.probe.work(1);
            match self.device.step(&mut io, previous.take()) {
                Step::Done(reply) => return Some(reply),
                Step::Submit(request) => {
                    // A copy reaches a LU by way of another one: what fences a READ or a WRITE there fences the copy.
                    let opcode = if request.is_write() { 0x8A } else { 0x88 };
                    if !matches!(request, BlockRequest::Flush) {
                        let cdb = [opcode, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                        assert!(!self.fenced(io.lu(), number, &cdb), "a copy passes a reservation");
                    }
                    previous = Some(self.disks[io.lu().0 as usize].serve(request));
                }
            }
        }
        self.probe.saw("aborted");
        None
    }

    /// An answer that a host can read: sense data where there must be some, and no more data than asked for.
    fn check(&mut self, reply: &Reply, cdb: &[u8; 16]) {
        assert_eq!(reply.sense.is_some(), reply.status == Status::CheckCondition, "{cdb:02x?}");
        self.probe.saw((cdb[0], cdb[1] & 0x1F, reply.status as u8));
        if let Some(sense) = reply.sense {
            let (key, asc, ascq) = match sense[0] & 0x7F {
                0x70 => {
                    assert_eq!(usize::from(sense[7]) + 8, sense.len());
                    assert!(
                        sense.len() == 18 || sense[2] & 0x0F == 0x0A,
                        "only COPY ABORTED forwards sense data"
                    );
                    (sense[2] & 0x0F, sense[12], sense[13])
                }
                0x72 => {
                    assert_eq!(usize::from(sense[7]) + 8, sense.len());
                    (sense[1], sense[2], sense[3])
                }
                other => panic!("response code {other:02x}"),
            };
            assert!(key != 0 && key <= 0x0E, "{cdb:02x?}: sense key {key}");
            assert!(reply.data.is_empty());
            self.probe.saw((cdb[0], key, asc, ascq));
        }
        if let Some(most) = allocation(cdb) {
            assert!(
                reply.data.len() <= most,
                "{cdb:02x?}: {} bytes where {most} are allowed",
                reply.data.len()
            );
        }
    }

    fn manage(&mut self, source: &mut Source<'_>) {
        let (nexus, _) = self.nexuses[source.below(self.nexuses.len())];
        let tag = self.next_tag.wrapping_sub(source.below(4) as u32);
        let function = match source.below(11) {
            0 => TaskManagement::AbortTask { tag },
            1 => TaskManagement::AbortTaskSet,
            2 => TaskManagement::ClearTaskSet,
            3 => TaskManagement::ClearAca,
            4 | 5 => TaskManagement::LogicalUnitReset,
            6 => TaskManagement::TargetWarmReset,
            7 => TaskManagement::NexusReset,
            8 => TaskManagement::QueryTask { tag },
            9 => TaskManagement::QueryTaskSet,
            _ => TaskManagement::QueryAsynchronousEvent,
        };
        let managed = self.device.manage(nexus, Self::lun(source), function);
        self.probe.saw(format!("{:?} {function:?}", managed.response).split(' ').take(2).collect::<String>());
        self.settle(managed.abort, managed.release, source);
    }

    fn settle(&mut self, aborts: Vec<Abort>, release: Vec<Task>, source: &mut Source<'_>) {
        for abort in aborts {
            self.probe.work(1);
            if abort.running {
                let ended = self.device.end(abort.task, None);
                self.run_released(ended.release, source);
            } else {
                self.tasks.retain(|held| held.0 != abort.task);
            }
        }
        self.run_released(release, source);
    }

    /// What an administrator, a failover or the medium does.
    fn change(&mut self, source: &mut Source<'_>) {
        let lu = LuId(source.below(LUS as usize) as u32);
        match source.below(6) {
            0 => {
                let access = [
                    LuAccess::Active,
                    LuAccess::Active,
                    LuAccess::NonOptimized,
                    LuAccess::Standby,
                    LuAccess::Unavailable,
                    LuAccess::NotReady,
                ];
                self.device.set_access(lu, source.pick(&access));
            }
            1 => self.device.raise(lu, source.pick(&UnitAttention::ALL)),
            2 => {
                let errors = [
                    None,
                    None,
                    Some(BlockError::Medium { offset: source.number() }),
                    Some(BlockError::NoSpace),
                    Some(BlockError::NotServed),
                    Some(BlockError::Aborted),
                ];
                self.disks[lu.0 as usize].fail = source.pick(&errors);
            }
            3 => {
                let at = source.below(self.nexuses.len());
                let (nexus, number) = self.nexuses[at];
                let managed = self.device.close_nexus(nexus);
                self.settle(managed.abort, managed.release, source);
                self.nexuses.remove(at);
                self.open(number);
            }
            4 => {
                let (nexus, _) = self.nexuses[source.below(self.nexuses.len())];
                let shift = u16::from(source.byte() & 1);
                let map = (0..LUS).map(|lu| (lu as u16 + shift * 255, LuId(lu))).collect();
                let managed = self.device.set_lun_map(nexus, map);
                self.settle(managed.abort, managed.release, source);
            }
            _ => {
                // Over to another SP and back: what was stored is all that it knows.
                let record = self.device.saved_state(lu);
                for abort in self.device.remove_lu(lu) {
                    self.tasks.retain(|held| held.0 != abort.task);
                }
                let size = self.disks[lu.0 as usize].block_size();
                assert!(self.device.add_lu(lu, description(true, size, record)), "what is saved can be read");
            }
        }
    }
}

/// The allocation length of commands that have one.
fn allocation(cdb: &[u8; 16]) -> Option<usize> {
    let two = |at: usize| usize::from(u16::from_be_bytes([cdb[at], cdb[at + 1]]));
    let four = |at: usize| u32::from_be_bytes([cdb[at], cdb[at + 1], cdb[at + 2], cdb[at + 3]]) as usize;
    match cdb[0] {
        0x03 | 0x1A => Some(usize::from(cdb[4])),
        0x12 => Some(two(3)),
        0x37 | 0x4D | 0x5A | 0x5E => Some(two(7)),
        0x9E => Some(four(10)),
        0xA0 | 0xA3 | 0xB7 => Some(four(6)),
        _ => None,
    }
}

/// A stored record that may be anything: read or refused, and what was read is stored again as the same.
fn saved(input: &[u8], probe: &mut Probe) {
    let mut source = Source::new(input);
    let mut record = if source.rarely(2) { genuine(&mut source) } else { source.take(40).to_vec() };
    for _ in 0..source.below(6) {
        if !record.is_empty() {
            let at = source.below(record.len());
            record[at] = source.byte();
        }
    }
    if source.rarely(6) {
        record.truncate(source.below(record.len() + 1));
    }
    record.extend(source.rest());
    let mut device = TargetDevice::new(identity());
    let readable = device.add_lu(LuId(0), description(true, BlockSize::B512, Some(record.into())));
    let first = device.saved_state(LuId(0)).expect("the LU is there");
    probe.saw((readable, first.len() / 8));
    probe.work(first.len() / 32);
    let mut other = TargetDevice::new(identity());
    assert!(
        other.add_lu(LuId(0), description(true, BlockSize::B512, Some(first.clone()))),
        "what is saved can be read"
    );
    assert_eq!(other.saved_state(LuId(0)).as_ref(), Some(&first));
    let status = other.reservations(LuId(0)).expect("the LU is there");
    assert!(status.holder.is_none() || status.kind.is_some());
}

/// A record that a device has stored: some registrations that persist, and perhaps a reservation.
fn genuine(source: &mut Source<'_>) -> Vec<u8> {
    let mut device = TargetDevice::new(identity());
    device.add_lu(LuId(0), description(true, BlockSize::B512, None));
    for number in 0..1 + source.below(3) {
        let map = [(0, LuId(0))].into_iter().collect();
        let nexus = device.open_nexus(initiator(number), port(1), map);
        let mut list = vec![0; 24];
        (list[15], list[20]) = (1 + source.byte() % 4, 1);
        for (action, kind) in [(0, 0), (0, 0), (1, source.pick(&[1, 3, 5, 6, 7, 8]))] {
            let mut cdb = [0; 16];
            (cdb[0], cdb[1], cdb[2], cdb[8]) = (0x5F, action, kind, 24);
            let mut data = list.clone();
            if action == 1 {
                data.swap(7, 15);
            }
            let _ = device.execute(nexus, [0; 8], Command::new(0, &cdb, data.into()));
        }
    }
    device.saved_state(LuId(0)).expect("the LU is there").to_vec()
}
