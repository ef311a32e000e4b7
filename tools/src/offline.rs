//! LUs of stopped units: dumps and comparisons.

use std::io::Write;

use twinlun_api::{Problem, ProblemKind};
use twinlun_block::ByteRange;
use twinlun_io::{EngineChoice, Shard, run_shard};
use twinlun_unit::config;
use twinlun_unit::offline::{OfflineError, OfflineLu, STEP, compare};

use crate::cli::{ConfiguredLu, OfflineCommand};

/// Differences that are named one by one.
const SHOWN: usize = 16;

/// Carries out `twinlun offline`.
pub(crate) fn run(command: &OfflineCommand) -> Result<(), Problem> {
    let done = run_shard(EngineChoice::Auto, |shard| async move {
        match command {
            OfflineCommand::Dump { config, lu } => {
                let lu = ConfiguredLu { config: config.clone(), lu: lu.clone() };
                dump(&shard, &lu).await
            }
            OfflineCommand::Compare { a, b } => match differences(&shard, a, b).await? {
                found if found.is_empty() => {
                    println!("equal");
                    Ok(())
                }
                found => {
                    for range in found.iter().take(SHOWN) {
                        println!("different at byte {}", range.offset());
                    }
                    let detail = format!("the LUs differ in {} pieces of {STEP} bytes", found.len());
                    Err(Problem::new(ProblemKind::Failed, "E-OFFLINE-DIFFERENT", detail, ""))
                }
            },
        }
    });
    done.map_err(|error| Problem::new(ProblemKind::Failed, "E-OFFLINE", error.to_string(), ""))?
}

/// Where two LUs of stopped units differ.
pub(crate) async fn differences(
    shard: &Shard,
    a: &ConfiguredLu,
    b: &ConfiguredLu,
) -> Result<Vec<ByteRange>, Problem> {
    let (a, b) = (open(shard, a).await?, open(shard, b).await?);
    let found = compare(&a, &b).await.map_err(problem)?;
    a.close().await.map_err(problem)?;
    b.close().await.map_err(problem)?;
    Ok(found)
}

async fn open(shard: &Shard, lu: &ConfiguredLu) -> Result<OfflineLu, Problem> {
    let config = config::load(&lu.config)
        .map_err(|error| Problem::new(ProblemKind::Usage, "E-OFFLINE-CONFIG", error.to_string(), ""))?;
    OfflineLu::open(shard, &config, &lu.lu).await.map_err(problem)
}

async fn dump(shard: &Shard, lu: &ConfiguredLu) -> Result<(), Problem> {
    let lu = open(shard, lu).await?;
    let mut out = std::io::stdout().lock();
    for range in ByteRange::new(0, lu.size()).split_at_multiples(STEP) {
        for segment in lu.read(range).await.map_err(problem)?.segments() {
            out.write_all(segment).map_err(|error| {
                Problem::new(ProblemKind::Failed, "E-OFFLINE-WRITE", error.to_string(), "")
            })?;
        }
    }
    lu.close().await.map_err(problem)
}

#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn problem(error: OfflineError) -> Problem {
    let kind = match error {
        OfflineError::NoSuchLu { .. } => ProblemKind::NotFound,
        _ => ProblemKind::Failed,
    };
    Problem::new(kind, "E-OFFLINE", error.to_string(), "stop the daemon of that unit first if it runs")
}
