//! The load generator: connections that keep a number of commands under way, and what it measures.
//!
//! One receive yields many completions, each is followed by the next command, and all of them leave in one vectored send;
//! so the generator costs little more than a microsecond per command and measures the target rather than itself.

mod args;
mod lane;
mod report;
mod url;
mod verify;
mod workload;

pub use args::{LoadArgs, Order};
pub use report::{Latency, Report};
pub use url::{IscsiUrl, UrlError};
pub use verify::Mismatch;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use twinlun_io::{EngineChoice, Shard, run_shard};
use twinlun_iscsi::chap::{Algorithm, Secret};
use twinlun_iscsi::initiator::{ChapLogin, Command, InitiatorConfig, SessionKind, Transfer, cdb};
use twinlun_iscsi::names::{Isid, NameError};

use crate::initiator::{Pump, SessionError, expect_good};
use lane::Lane;
use report::Tally;
use workload::{Plan, Timeline};

/// How long answers are waited for awake: longer than a target needs for a whole queue of mirrored writes, or the target would pay for waking
/// the load with each batch of answers.
const BUSY_POLL: Duration = Duration::from_millis(1);
/// Time limit of connecting and logging in, and of the silence after the end of the run.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The arguments contradict each other or the LU.
    #[error("{0}")]
    Arguments(String),
    /// The name of the initiator or the target.
    #[error("iSCSI name: {0}")]
    Name(#[from] NameError),
    /// A file or the platform.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        error: io::Error,
    },
    /// A session could not be started or ended.
    #[error("connection {connection}: {error}")]
    Session {
        /// Which, from 0.
        connection: u32,
        /// Why.
        error: SessionError,
    },
    /// Commands were not answered in time.
    #[error("the target stopped answering")]
    Stalled,
    /// What was read is not what was written.
    #[error("connection {connection}: {mismatch}")]
    Mismatch {
        /// Which, from 0.
        connection: u32,
        /// Where and what.
        mismatch: Mismatch,
    },
}

/// Runs the load on a shard of its own.
pub fn measure(args: &LoadArgs) -> Result<Report, LoadError> {
    let address = resolve(&args.url)?;
    let secret = args.chap_secret_file.as_ref().map(|path| {
        let read = std::fs::read(path);
        read.map_err(|error| LoadError::Io { what: path.display().to_string(), error })
    });
    let chap = args.chap_user.as_deref().zip(secret.transpose()?).map(|(user, mut secret)| {
        while secret.last() == Some(&b'\n') {
            secret.pop();
        }
        let algorithms = Algorithm::ALL.to_vec();
        ChapLogin { user: user.into(), secret: Secret::new(secret), algorithms, mutual: None }
    });
    let args = args.clone();
    run_shard(EngineChoice::Auto, async move |shard| load(&shard, address, chap, &args).await)
        .map_err(|error| LoadError::Io { what: "starting a shard".into(), error })?
}

fn resolve(url: &IscsiUrl) -> Result<SocketAddr, LoadError> {
    let found = (url.host.as_str(), url.port).to_socket_addrs();
    let what = || format!("address of {}", url.host);
    let mut found = found.map_err(|error| LoadError::Io { what: what(), error })?;
    found.next().ok_or_else(|| LoadError::Io { what: what(), error: io::ErrorKind::NotFound.into() })
}

/// Runs the load on this shard.
pub async fn load(
    shard: &Shard,
    portal: SocketAddr,
    chap: Option<ChapLogin>,
    args: &LoadArgs,
) -> Result<Report, LoadError> {
    // The load must not pay for its own sleep: the latencies are to be the target's.
    shard.busy_poll(BUSY_POLL);
    let mut random = [0; 16];
    shard.fill_random(&mut random);
    let [a, b, c, rest @ ..] = random;
    let seed = args.seed.unwrap_or(u64::from_be_bytes(*rest.first_chunk().expect("13 bytes are left")));
    let mut pumps = Vec::new();
    for connection in 0..args.connections {
        let failed = |error| LoadError::Session { connection, error };
        let session = SessionKind::Normal { target: args.url.target.parse()? };
        let isid = Isid::random([a, b, c], connection as u16);
        let mut config = InitiatorConfig::new(args.initiator.parse()?, isid, session);
        config.chap.clone_from(&chap);
        config.offer.header_digest = args.header_digest;
        config.offer.data_digest = args.data_digest;
        config.max_tasks = args.depth as usize;
        let pump = Pump::connect(shard, portal, config, PATIENCE).await.map_err(failed)?;
        pumps.push(pump);
    }
    let mut capacity = None;
    for (connection, pump) in (0..).zip(&mut pumps) {
        let failed = |error| LoadError::Session { connection, error };
        capacity = Some(
            shard
                .timeout(PATIENCE, prepare(pump, args))
                .await
                .map_err(|_| LoadError::Stalled)?
                .map_err(failed)?,
        );
    }
    let (blocks, block) = capacity.ok_or_else(|| LoadError::Arguments("no connections".into()))?;
    let plan = Rc::new(Plan::new(args, blocks, block, seed)?);
    let timeline = Timeline::starting(shard.now(), args.warm_up.0, args.time.0);
    let cpu = report::cpu_time();
    let mut ends = Vec::new();
    for (connection, pump) in (0..).zip(pumps) {
        let lane = Lane::new(connection, pump, plan.clone(), timeline);
        let (end, ended) = oneshot::channel();
        let job_shard = shard.clone();
        shard.spawn(async move {
            let _ = end.send(lane.run(&job_shard).await);
        });
        ends.push(ended);
    }
    let mut tally = Tally::new();
    // A recheck reads all that was written, which may take as long as the run.
    let limit = (args.warm_up.0 + args.time.0) * if args.verify { 4 } else { 1 } + PATIENCE;
    let all = async {
        for ended in ends {
            let lane = ended.await.map_err(|_| LoadError::Stalled)??;
            tally.add(&lane);
        }
        Ok::<_, LoadError>(())
    };
    shard.timeout(limit, all).await.map_err(|_| LoadError::Stalled)??;
    let cpu = report::cpu_time().saturating_sub(cpu);
    Ok(tally.report(args, seed, timeline.measured(), timeline.total(), cpu))
}

/// Takes unit attention conditions off the LU and asks for its size.
async fn prepare(pump: &mut Pump, args: &LoadArgs) -> Result<(u64, u32), SessionError> {
    let lun = args.url.lun;
    for _ in 0..16 {
        let done = pump.execute(Command::new(0, lun, cdb::test_unit_ready(), Transfer::None)).await?;
        match expect_good(done) {
            Err(SessionError::Scsi { key: 6, .. }) => {}
            other => {
                other?;
                break;
            }
        }
    }
    let transfer = Transfer::Read(cdb::READ_CAPACITY_16_LEN);
    let answer = expect_good(pump.execute(Command::new(0, lun, cdb::read_capacity_16(), transfer)).await?)?;
    cdb::parse_read_capacity_16(&answer.data.to_bytes()).ok_or(SessionError::Malformed("READ CAPACITY (16)"))
}
