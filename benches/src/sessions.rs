//! Memory of many idle sessions.

use std::net::SocketAddr;
use std::time::Duration;

use twinlun::initiator::Session;
use twinlun::stage::StageArray;
use twinlun_io::{EngineChoice, Shard, run_shard};
use twinlun_iscsi::initiator::{InitiatorConfig, SessionKind};
use twinlun_iscsi::names::Isid;
use twinlun_iscsi::pdu::Lun;

use crate::machine::{allow_files, on_core, resident};
use crate::report::{Bound, Report};
use crate::{Cores, Failure, Options, bind, unit_with_disk};

const SESSIONS: u16 = 1000;
const PATIENCE: Duration = Duration::from_secs(30);
const MIB: f64 = (1 << 20) as f64;

/// A session with the LUNs of a target.
pub(crate) async fn log_in(
    shard: &Shard,
    portal: SocketAddr,
    target: &str,
    number: u16,
) -> Result<Session, Failure> {
    let kind = SessionKind::Normal { target: target.parse()? };
    let name = "iqn.2026-11.io.twinlun:bench".parse()?;
    let config = InitiatorConfig::new(name, Isid::random([0, 0, 1], number), kind);
    Ok(Session::connect(shard, portal, config, PATIENCE).await?)
}

pub(crate) async fn run(options: &Options, cores: Cores, report: &mut Report) -> Result<(), Failure> {
    allow_files(u64::from(SESSIONS) * 2 + 256)?;
    let folder = options.folder()?;
    let mut unit = StageArray::start(folder.path(), unit_with_disk("solo", "disk.img", 256 << 20)).await?;
    bind(&unit, "store", 64 << 20, 0).await?;
    let pid = unit.pid().ok_or("the unit does not run")?;
    let (portal, target) = (unit.portal().parse()?, unit.target());
    let alone = resident(pid)?;
    let visit = async |shard: Shard| {
        let mut sessions = Vec::new();
        for number in 0..SESSIONS {
            let session = log_in(&shard, portal, &target, number).await?;
            // As every host does at first: the session has been used once and all its parts are there.
            session.ready(Lun::ZERO).await?;
            sessions.push(session);
        }
        let idle = resident(pid)?;
        for session in &sessions {
            if let Some(end) = session.ended() {
                return Err(end.into());
            }
        }
        Ok::<_, Failure>(idle)
    };
    let measured = on_core(cores.load, || {
        run_shard(EngineChoice::Auto, visit)?.map_err(|error| std::io::Error::other(error.to_string()))
    });
    let idle = measured??;
    report.note("memory of twinlund without sessions", alone as f64 / MIB, "MiB");
    let each = idle.saturating_sub(alone) as f64 / f64::from(SESSIONS) / 1024.0;
    report.note("memory per idle session", each, "KiB");
    let name = format!("memory of twinlund with {SESSIONS} idle sessions");
    report.judge(name, idle as f64 / 1e6, "MB", Bound::AtMost(50.0));
    Ok(unit.stop().await?)
}
