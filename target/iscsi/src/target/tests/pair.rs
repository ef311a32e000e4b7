//! Both halves of this crate against each other, with the stream cut at random.

use std::collections::{BTreeMap, VecDeque};

use core::time::Duration;
use proptest::prelude::*;

use super::harness::{Fixture, HOST, ISID, TARGET, name, pattern};
use crate::chap::{Algorithm, Secret};
use crate::initiator::{
    ChapLogin, Command, Event as HostEvent, Initiator, InitiatorConfig, MutualChap, Phase, SessionKind,
    Submitted, Transfer,
};
use crate::negotiate::Parameters;
use crate::pdu::{Cdb, LogoutReason, Lun, Residual, TaskAttribute, TaskFunction};
use crate::target::{
    ConnectionConfig, DigestPolicy, Event, ScsiCommand, ScsiResponse, SingleConnection,
    TaskManagementResponse, Tsih,
};

const NOW: Duration = Duration::from_secs(7);

#[derive(Clone, Debug)]
struct Setup {
    digests: (bool, bool),
    initial_r2t: bool,
    immediate_data: bool,
    host_max_recv: u32,
    target_max_recv: u32,
    max_burst: u32,
    first_burst: u32,
    outstanding_r2t: u16,
    depth: u32,
    chap: Option<(Algorithm, bool)>,
}

fn setup() -> impl Strategy<Value = Setup> {
    let length = || prop_oneof![Just(512u32), 512u32..5000, Just(65_536)];
    let algorithm = proptest::sample::select(&Algorithm::ALL[..]);
    (
        any::<(bool, bool)>(),
        any::<(bool, bool)>(),
        (length(), length(), length(), length()),
        (1u16..5, 1u32..9),
        proptest::option::of((algorithm, any::<bool>())),
    )
        .prop_map(|(digests, (initial_r2t, immediate_data), lengths, (outstanding_r2t, depth), chap)| {
            Setup {
                digests,
                initial_r2t,
                immediate_data,
                host_max_recv: lengths.0,
                target_max_recv: lengths.1,
                max_burst: lengths.2,
                first_burst: lengths.3.min(lengths.2),
                outstanding_r2t,
                depth,
                chap,
            }
        })
}

/// A request of the host: bytes, whether it writes, its attribute.
type Work = (usize, bool, TaskAttribute);

struct Pair {
    initiator: Initiator,
    target: SingleConnection,
    fixture: Fixture,
    to_target: VecDeque<u8>,
    to_host: VecDeque<u8>,
}

impl Pair {
    fn new(setup: &Setup) -> Self {
        let session = SessionKind::Normal { target: name(TARGET) };
        let mut host = InitiatorConfig::new(name(HOST), ISID, session);
        host.receive_chunk = 8192;
        host.offer = Parameters {
            header_digest: setup.digests.0,
            data_digest: setup.digests.1,
            initial_r2t: setup.initial_r2t,
            immediate_data: setup.immediate_data,
            initiator_max_recv: setup.host_max_recv,
            max_burst: setup.max_burst,
            first_burst: setup.first_burst,
            max_outstanding_r2t: setup.outstanding_r2t,
            ..host.offer
        };
        host.chap = setup.chap.map(|(algorithm, mutual)| ChapLogin {
            user: "host".into(),
            secret: Secret::new(b"correct horse battery".to_vec()),
            algorithms: vec![algorithm],
            mutual: mutual.then(|| MutualChap {
                user: "array".into(),
                secret: Secret::new(b"another staple 12".to_vec()),
                random: [9; 33],
            }),
        });
        let mut config = ConnectionConfig::new("10.0.0.1:3260".parse().unwrap(), 1);
        config.limits.queue_depth = setup.depth;
        config.limits.solicited = 1 << 20;
        config.limits.max_write = 1 << 20;
        config.policy.max_recv_data_segment = setup.target_max_recv;
        (config.policy.header_digest, config.policy.data_digest) =
            (DigestPolicy::Either, DigestPolicy::Either);
        Self {
            initiator: Initiator::new(host).expect("a small request"),
            target: SingleConnection::new(config, [3; 32], NOW),
            fixture: setup.chap.map_or_else(Fixture::default, |(_, mutual)| Fixture::with_chap(mutual)),
            to_target: VecDeque::new(),
            to_host: VecDeque::new(),
        }
    }

    /// Moves up to `cut` bytes each way. `false` when both sides are quiet.
    fn step(&mut self, cut: usize) -> bool {
        for bytes in self.initiator.transmit() {
            self.to_target.extend(&bytes);
        }
        self.target.transmit(|bytes| self.to_host.extend(&bytes));
        let mut moved = 0;
        if self.target.wants_input() {
            let piece = self.to_target.drain(..cut.min(self.to_target.len())).collect::<Vec<_>>();
            moved += piece.len();
            for chunk in piece.chunks(4096) {
                self.target.buffer().extend_from_slice(chunk);
                self.target.received(NOW, &self.fixture);
            }
        }
        let piece = self.to_host.drain(..cut.min(self.to_host.len())).collect::<Vec<_>>();
        moved += piece.len();
        for chunk in piece.chunks(1024) {
            self.initiator.buffer().extend_from_slice(chunk);
            self.initiator.received().expect("a correct target");
        }
        moved > 0
    }

    fn admit(&mut self) {
        self.target.admit(Tsih::new(5).unwrap(), NOW, &self.fixture);
    }
}

/// The device: a write's CDB says how many bytes of the pattern must come, a read's how many go.
fn execute(command: &ScsiCommand) -> ScsiResponse {
    let len = u32::from_be_bytes(command.cdb[2..6].try_into().unwrap()) as usize;
    if command.cdb[0] == 0x8a {
        assert_eq!(command.data_out.to_bytes(), pattern(len));
        ScsiResponse::written(len as u64)
    } else {
        ScsiResponse::data(pattern(len).into())
    }
}

fn request(tag: u64, (len, write, attribute): Work) -> Command {
    let mut cdb = [0; 16];
    cdb[0] = if write { 0x8a } else { 0x88 };
    cdb[2..6].copy_from_slice(&(len as u32).to_be_bytes());
    let transfer = match (len, write) {
        (0, _) => Transfer::None,
        (_, true) => Transfer::Write(pattern(len).into()),
        (_, false) => Transfer::Read(len as u32),
    };
    Command { attribute, ..Command::new(tag, Lun::ZERO, Cdb::from(cdb), transfer) }
}

fn work() -> impl Strategy<Value = Work> {
    let attribute = prop_oneof![8 => Just(TaskAttribute::SIMPLE), 1 => Just(TaskAttribute::ORDERED)];
    (prop_oneof![Just(0usize), 1usize..2000, 2000usize..100_000], any::<bool>(), attribute)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn both_halves_understand_each_other(
        setup in setup(),
        works in proptest::collection::vec(work(), 1..20),
        cuts in proptest::collection::vec(1usize..9000, 1..20),
        picks in proptest::collection::vec(any::<u8>(), 1..20),
        reset_after in proptest::option::of(0usize..60),
    ) {
        let mut pair = Pair::new(&setup);
        let (mut cuts, mut picks) = (cuts.iter().cycle(), picks.iter().cycle());
        let mut delivered: Vec<ScsiCommand> = Vec::new();
        let mut functions = Vec::new();
        let mut ends: BTreeMap<u64, &str> = BTreeMap::new();
        let (mut managed, mut steps, mut logged_out, mut closed) = (false, 0, false, false);
        loop {
            steps += 1;
            prop_assert!(steps < 1_000_000, "no progress");
            let mut busy = pair.step(*cuts.next().unwrap());
            while let Some(event) = pair.target.poll_event() {
                busy = true;
                match event {
                    Event::SessionReady(_) => pair.admit(),
                    Event::Command(command) => delivered.push(command),
                    Event::TaskManagement(management) => {
                        // What was delivered before it, and nothing that comes later.
                        for command in delivered.drain(..) {
                            pair.target.abandon(command.tag);
                        }
                        functions.push(management);
                    }
                    Event::Terminate(tasks) => panic!("{tasks:?} are under way at logout"),
                    Event::Closed(reason) => {
                        prop_assert!(logged_out, "{reason}");
                        closed = true;
                    }
                }
            }
            if let Some(function) = functions.pop() {
                busy = true;
                let complete = TaskManagementResponse::Complete;
                pair.target.respond_task_management(function.tag, complete, [0; 3]);
            } else if !delivered.is_empty() {
                busy = true;
                let command = delivered.swap_remove(usize::from(*picks.next().unwrap()) % delivered.len());
                pair.target.respond(command.tag, execute(&command));
            }
            while let Some(event) = pair.initiator.poll_event() {
                busy = true;
                match event {
                    HostEvent::LoggedIn => {
                        for (tag, work) in works.iter().enumerate() {
                            prop_assert_eq!(pair.initiator.submit(request(tag as u64, *work)), Submitted::Accepted);
                        }
                    }
                    HostEvent::Completed(done) => {
                        prop_assert!(done.is_good(), "{:?}", done);
                        let (len, write, _) = works[done.tag as usize];
                        prop_assert_eq!(done.residual, Residual::None);
                        if !write {
                            prop_assert_eq!(done.data.to_bytes(), pattern(len));
                        }
                        prop_assert!(ends.insert(done.tag, "completed").is_none(), "one end each");
                    }
                    HostEvent::Aborted { tag } => {
                        prop_assert!(managed && ends.insert(tag, "aborted").is_none(), "one end each");
                    }
                    HostEvent::TaskManagement { tag, .. } => prop_assert_eq!(tag, 1000),
                    HostEvent::LoggedOut { .. } => logged_out = true,
                    other => panic!("{other:?}"),
                }
            }
            if reset_after == Some(ends.len()) && ends.len() < works.len() && pair.initiator.phase() == Phase::FullFeature && !managed {
                managed = true;
                busy = true;
                let reset = TaskFunction::LOGICAL_UNIT_RESET;
                prop_assert_eq!(pair.initiator.manage_lun(1000, reset, Lun::ZERO), Submitted::Accepted);
            }
            if !busy && ends.len() == works.len() && pair.initiator.outstanding() == 0 && !logged_out {
                prop_assert_eq!(pair.initiator.logout(2000, LogoutReason::CLOSE_SESSION), Submitted::Accepted);
                logged_out = true;
                continue;
            }
            if !busy {
                break;
            }
        }
        prop_assert!(closed, "{} of {} ended, {:?}", ends.len(), works.len(), pair.target);
        prop_assert_eq!(ends.len(), works.len());
    }
}
