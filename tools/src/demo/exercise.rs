//! The exercise: write, cut the link, write more, restore, compare.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use twinlun::initiator::{Session, SessionError};
use twinlun::load::IscsiUrl;
use twinlun_api::{ByteSize, Problem, ProblemKind};
use twinlun_io::{EngineChoice, Shard, run_shard};
use twinlun_iscsi::initiator::{InitiatorConfig, SessionKind};
use twinlun_iscsi::names::Isid;

use super::{LU, MIRROR, Stage, failed};
use crate::cli::{ConfiguredLu, DemoArgs};
use crate::follow::{Bar, in_step};
use crate::offline;

const POLL: Duration = Duration::from_millis(50);
/// Writes of the exercise: at most this many bytes, spread over the LU.
const CHANGES: u64 = 64 << 20;
const WRITE: u64 = 64 << 10;
/// Logical block size of the demonstration's LU.
const SECTOR: u64 = 512;
/// How long the host waits for its login.
const PATIENCE: Duration = Duration::from_secs(10);

/// Carries the exercise out against running arrays.
pub(crate) async fn run(stage: &Stage, args: &DemoArgs) -> Result<(), Problem> {
    println!("1. the first copy");
    wait_in_step(stage).await?;
    println!("2. writing through iSCSI while both images are in step");
    write(stage, args, 1).await?;
    println!("3. pulling the cable, and writing more");
    stage.cable.pull();
    let written = write(stage, args, 2).await?;
    let image = wait_for(stage, |image| image["fractured"] == true).await?;
    let missed = image["dirty_bytes"].as_u64().unwrap_or(0);
    println!(
        "   the secondary is fractured ({}); it misses {} of {} written",
        image["fracture_reason"].as_str().unwrap_or("no reason given"),
        ByteSize(missed),
        ByteSize(written)
    );
    println!("4. plugging it in again: only what was missed is copied");
    stage.cable.plug();
    let copied = wait_in_step(stage).await?;
    println!("   copied {}", ByteSize(copied));
    Ok(())
}

/// Compares both images on the disks of the stopped arrays.
pub(crate) async fn compare(folder: &Path) -> Result<(), Problem> {
    println!("5. comparing both images on the disks, byte by byte");
    let lu = |unit: &str| ConfiguredLu { config: folder.join(format!("{unit}.toml")), lu: LU.into() };
    let (east, west) = (lu("east"), lu("west"));
    // A shard has a runtime of its own, so it gets a thread of its own.
    let compared = std::thread::spawn(move || {
        run_shard(EngineChoice::Auto, |shard| async move { offline::differences(&shard, &east, &west).await })
    });
    let found = compared.join().map_err(|_| failed("the comparison ended early"))?.map_err(failed)??;
    if found.is_empty() {
        println!("   equal");
        return Ok(());
    }
    let detail = format!("the images differ in {} places, first at byte {}", found.len(), found[0].offset());
    Err(Problem::new(
        ProblemKind::Failed,
        "E-DEMO-DIFFERENT",
        detail,
        "please report this with the logs of both arrays",
    ))
}

/// Writes blocks all over the LU, others in every `round`, and flushes; answers with the bytes written.
async fn write(stage: &Stage, args: &DemoArgs, round: u64) -> Result<u64, Problem> {
    let url: IscsiUrl = stage.address().parse().map_err(failed)?;
    let count = (CHANGES.min(args.size.0 / 4) / WRITE).max(1);
    let stride = args.size.0 / count;
    let written = tokio::task::spawn_blocking(move || {
        run_shard(EngineChoice::Auto, async move |shard| scatter(&shard, &url, round, count, stride).await)
    });
    written.await.map_err(failed)?.map_err(failed)?.map_err(failed)?;
    Ok(count * WRITE)
}

async fn scatter(
    shard: &Shard,
    url: &IscsiUrl,
    round: u64,
    count: u64,
    stride: u64,
) -> Result<(), SessionError> {
    let name = "iqn.2026-11.io.twinlun:demo-host".parse().expect("a constant name that is right");
    let target = url.target.parse().expect("checked when the address was read");
    let config = InitiatorConfig::new(
        name,
        Isid::random([0xd, 0xe, 0x30], round as u16),
        SessionKind::Normal { target },
    );
    let address = format!("{}:{}", url.host, url.port).parse().map_err(|_| SessionError::Closed)?;
    let session = Session::connect(shard, address, config, PATIENCE).await?;
    session.ready(url.lun).await?;
    for index in 0..count {
        let offset = index * stride + (round * WRITE) % stride;
        let offset = offset - offset % WRITE;
        let block: Vec<u8> = (0..WRITE).map(|at| (at ^ index ^ round << 4) as u8).collect();
        let blocks = (WRITE / SECTOR) as u32;
        session.write(url.lun, offset / SECTOR, blocks, block.into(), false).await?;
    }
    session.flush(url.lun).await?;
    session.logout().await
}

/// Waits until the secondary holds everything; answers with the bytes that the last copy moved.
async fn wait_in_step(stage: &Stage) -> Result<u64, Problem> {
    let bar = Bar::new();
    let mut copied = 0;
    loop {
        let image = secondary(stage).await?;
        copied = image["progress"]["copied_bytes"].as_u64().unwrap_or(copied);
        bar.show(&image);
        if in_step(&image) {
            bar.finish();
            return Ok(copied);
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn wait_for(stage: &Stage, ready: impl Fn(&Value) -> bool) -> Result<Value, Problem> {
    loop {
        let image = secondary(stage).await?;
        if ready(&image) {
            return Ok(image);
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn secondary(stage: &Stage) -> Result<Value, Problem> {
    let mirror = stage.show().await?;
    let images = mirror["images"].as_array().into_iter().flatten();
    let found = images.into_iter().find(|image| image["designator"] == "secondary").cloned();
    found.ok_or_else(|| failed(format!("mirror {MIRROR} has lost its secondary")))
}
