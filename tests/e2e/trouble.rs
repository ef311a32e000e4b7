//! Trouble that an operator meets: wrong configurations, disks that are not what they should be, two daemons, crashes under load.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use twinlun::stage::{StageArray, UnitConfig};
use twinlun_api::ProblemKind;

use crate::pair::{LU, Pair, single};
use crate::process::{output, tool};
use crate::runner::{Case, Failure, Outcome, Verdict};

const SIZE: u64 = 64 << 20;
const DISK: u64 = 256 << 20;
const LIMIT: Duration = Duration::from_secs(120);
const SHORT: Duration = Duration::from_secs(20);

/// The cases of this room.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("wrong_configuration_is_named", LIMIT, wrong_configuration),
        Case::new("second_daemon_is_refused", LIMIT, second_daemon),
        Case::new("foreign_disk_is_refused_and_untouched", LIMIT, foreign_disk),
        Case::new("failed_disk_is_replaced_and_rebuilt", LIMIT, replaced_disk),
        Case::new("state_survives_a_restart", LIMIT, restart),
        Case::new("orders_that_make_no_sense_are_refused", LIMIT, refusals),
        Case::new("killed_pair_recovers", LIMIT, killed_pair),
    ]
}

/// Starts a unit that must not start; answers with what it said.
async fn refusal(folder: &Path, config: UnitConfig) -> Result<String, Failure> {
    match StageArray::start(folder, config).await {
        Ok(_) => Err("the unit started".into()),
        Err(problem) => Ok(problem.detail),
    }
}

fn expect(text: &str, words: &[&str]) -> Result<(), Failure> {
    match words.iter().find(|word| !text.contains(*word)) {
        Some(word) => Err(format!("{word:?} is missing in: {text}").into()),
        None => Ok(()),
    }
}

async fn wrong_configuration(folder: PathBuf) -> Outcome {
    let mut config = UnitConfig::new("solo", 1, DISK);
    config.disks[0].1 = 4096;
    expect(&refusal(&folder, config).await?, &["solo.toml:7:8", "4KiB", "what to do"])?;
    Ok(Verdict::Passed)
}

async fn second_daemon(folder: PathBuf) -> Outcome {
    let mut first = StageArray::start(&folder, UnitConfig::new("solo", 2, DISK)).await?;
    // Another configuration that reaches the same disks.
    let mut config = UnitConfig::new("twin", 0, DISK);
    config.disks = (0..2).map(|n| (format!("../solo/disk{n}.img"), DISK)).collect();
    expect(&refusal(&folder, config).await?, &["disk0.img", "in use by another process"])?;
    first.stop().await?;
    Ok(Verdict::Passed)
}

async fn foreign_disk(folder: PathBuf) -> Outcome {
    std::fs::create_dir(folder.join("solo"))?;
    let disk = folder.join("solo/disk0.img");
    let mut bytes = vec![0u8; DISK as usize];
    bytes[1024 + 56..1024 + 58].copy_from_slice(&[0x53, 0xef]); // the magic number of ext4's superblock
    std::fs::write(&disk, &bytes)?;
    expect(&refusal(&folder, UnitConfig::new("solo", 1, DISK)).await?, &["disk0.img", "not blank"])?;
    if std::fs::read(&disk)? != bytes {
        return Err("the refused disk was written to".into());
    }
    Ok(Verdict::Passed)
}

async fn replaced_disk(folder: PathBuf) -> Outcome {
    let mut unit = single(&folder, SIZE, json!({})).await?;
    let client = unit.client().clone();
    client.post("/v1/disks/0/fail", json!({})).await?;
    let lu = client.get(&format!("/v1/lus/{LU}")).await?;
    expect(&lu.to_string(), &["degraded"])?;
    let status = client.get("/v1/status").await?;
    expect(&status.to_string(), &["\"safe\":false", "replace"])?;
    client.post("/v1/disks/0/replace", json!({"path": "new.img", "size": DISK})).await?;
    let deadline = std::time::Instant::now() + SHORT;
    while client.get(&format!("/v1/lus/{LU}")).await?["state"] != "optimal" {
        if std::time::Instant::now() > deadline {
            return Err(format!("not rebuilt: {}", client.get("/v1/status").await?).into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    unit.stop().await?;
    Ok(Verdict::Passed)
}

async fn restart(folder: PathBuf) -> Outcome {
    let mut unit = single(&folder, SIZE, json!({})).await?;
    let before = [unit.client().get("/v1/lus").await?, unit.client().get("/v1/hosts").await?];
    unit.stop().await?;
    unit.run().await?;
    let after = [unit.client().get("/v1/lus").await?, unit.client().get("/v1/hosts").await?];
    unit.kill().await?;
    unit.run().await?;
    let after_crash = [unit.client().get("/v1/lus").await?, unit.client().get("/v1/hosts").await?];
    unit.stop().await?;
    if before != after || before != after_crash {
        return Err(format!("before {before:?}, after {after:?}, after a crash {after_crash:?}").into());
    }
    Ok(Verdict::Passed)
}

async fn refusals(folder: PathBuf) -> Outcome {
    let mut unit = single(&folder, SIZE, json!({})).await?;
    let client = unit.client().clone();
    let lu = |name: &str, size: u64, raid: &str| json!({"name": name, "size": size, "raid": raid});
    for (path, body, kind) in [
        ("/v1/lus", lu(LU, SIZE, "1"), ProblemKind::Refused),
        ("/v1/lus", lu("huge", 1 << 50, "1"), ProblemKind::Refused),
        ("/v1/lus", lu("odd", 1000, "1"), ProblemKind::Usage),
        ("/v1/lus", lu("x", SIZE, "7"), ProblemKind::Usage),
        ("/v1/lus/none/map", json!({"host": "any"}), ProblemKind::NotFound),
        ("/v1/lus/db/map", json!({"host": "any"}), ProblemKind::Refused),
        ("/v1/lus/db/map", json!({"host": "not an iqn"}), ProblemKind::Usage),
        ("/v1/lus/db/map", json!({"host": "iqn.2026-11.io.x:unknown"}), ProblemKind::NotFound),
        (
            "/v1/hosts",
            json!({"iqn": "iqn.2026-11.io.x:h", "chap": {"user": "h", "secret": "short"}}),
            ProblemKind::Usage,
        ),
        ("/v1/mirrors", json!({"name": "m", "lus": ["none"]}), ProblemKind::NotFound),
        ("/v1/disks/9/fail", json!({}), ProblemKind::NotFound),
    ] {
        match client.post(path, &body).await {
            Err(problem) if problem.kind == kind && !problem.detail.is_empty() => {}
            other => return Err(format!("POST {path} {body}: {other:?}, expected {kind:?}").into()),
        }
    }
    match client.delete("/v1/lus/db").await {
        Err(problem) if problem.kind == ProblemKind::Refused => {}
        other => return Err(format!("a mapped LU was deleted: {other:?}").into()),
    }
    unit.stop().await?;
    Ok(Verdict::Passed)
}

/// Both units are killed under load, again and again; each time they come back, get in step by themselves, and are equal at the end.
async fn killed_pair(folder: PathBuf) -> Outcome {
    let mut pair = Pair::build(&folder, SIZE, None).await?;
    let tool = tool()?.to_string_lossy().into_owned();
    for round in 0..4 {
        let url = pair.east.url(0);
        let tool = tool.clone();
        let load = tokio::task::spawn_local(async move {
            let arguments = [
                "load",
                &url,
                "--read",
                "0",
                "--depth",
                "16",
                "--block-size",
                "8KiB",
                "--time",
                "2s",
                "--warm-up",
                "0s",
            ];
            output(&tool, arguments, SHORT).await.map_err(|error| error.to_string())
        });
        tokio::time::sleep(Duration::from_millis(700)).await;
        if round % 2 == 0 {
            pair.east.kill().await?;
        }
        if round > 0 {
            pair.west.kill().await?;
            pair.west.run().await?;
        }
        if round % 2 == 0 {
            pair.east.run().await?;
        }
        let load = load.await??;
        let text = String::from_utf8_lossy(&load.stderr).into_owned();
        // Only a dead primary may end a host's load; a dead secondary must not be noticed.
        if round % 2 != 0 && !load.status.success() {
            return Err(format!("the host saw an error when the secondary died: {text}").into());
        }
        pair.wait_in_step(SHORT).await?;
    }
    pair.stop_and_compare().await?;
    Ok(Verdict::Passed)
}
