//! The Linux guest as people use it: its SCSI tools against a LU, and two paths of which either may be cut, drained or redirected.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use twinlun::client::segment;
use twinlun::stage::{StageArray, UnitConfig};

use crate::guest::Guest;
use crate::pair::{LU, Pair, bind, disk_size};
use crate::process::run;
use crate::runner::Failure;

const SIZE: u64 = 256 << 20;
const BLOCK: u64 = 512;
/// The mirrored LU that is changed as a whole, and the one beside it.
const MEDIUM: u64 = 48 << 20;
const PLAIN: u64 = 16 << 20;
const SHORT: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(300);
/// Addresses of the guest's two paths; the first is the network's own.
const PORTALS: [[u8; 4]; 2] = [[10, 99, 0, 1], [10, 99, 1, 1]];

/// `lsblk`, udev, sg3_utils, digests of the kernel's initiator: what they say of the LU is asserted in the guest.
pub(crate) async fn tools(folder: &Path) -> Result<(), Failure> {
    let mut unit = unit(folder, &PORTALS[..1]).await?;
    let (naa, blocks) = (naa(&unit).await?, (SIZE / BLOCK).to_string());
    let files = [("naa", naa.as_str()), ("blocks", blocks.as_str())];
    let guest = Guest::boot(folder, include_str!("guest/tools.sh"), &files)?;
    guest.finish().await?;
    unit.stop().await?;
    Ok(())
}

/// A mirrored LU is sanitized, formatted or copied onto by Linux's own tools; both images hold the same afterwards.
pub(crate) async fn medium(order: &str, folder: &Path) -> Result<(), Failure> {
    let portal = SocketAddr::from((PORTALS[0], 3260));
    let pair = Pair::build(folder, MEDIUM, Some(portal)).await?;
    let client = pair.east.client();
    client.post("/v1/lus", json!({"name": "plain", "size": PLAIN, "raid": "1", "thin": true})).await?;
    client.post("/v1/lus/plain/map", json!({"host": "any", "lun": 1})).await?;
    let guest = Guest::boot(folder, include_str!("guest/medium.sh"), &[("order", order)])?;
    guest.finish().await?;
    pair.wait_in_step(SHORT).await?;
    pair.stop_and_compare().await
}

/// How a path gets lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Its address vanishes: as a pulled cable, and no connection is told.
    Cut,
    /// An administrator drains its portal, and hosts are asked to leave.
    Drained,
}

impl Loss {
    async fn take(self, unit: &StageArray, portal: [u8; 4]) -> Result<(), Failure> {
        match self {
            Self::Cut => address("del", portal).await,
            Self::Drained => {
                let place = format!("/v1/portals/{}", segment(&SocketAddr::from((portal, 3260)).to_string()));
                unit.client().post(&format!("{place}/drain"), json!({"seconds": DRAIN.as_secs()})).await?;
                // Long before its time is over: the host obeys.
                let state = |portals: &Value| portals[usize::from(portal == PORTALS[1])]["state"].clone();
                until(unit, "/v1/portals", "the host leaves by itself", |it| state(it) == "drained").await
            }
        }
    }

    async fn give_back(self, unit: &StageArray, portal: [u8; 4]) -> Result<(), Failure> {
        match self {
            Self::Cut => address("add", portal).await,
            Self::Drained => {
                let place = format!("/v1/portals/{}", segment(&SocketAddr::from((portal, 3260)).to_string()));
                unit.client().post(&format!("{place}/resume"), json!({})).await?;
                Ok(())
            }
        }
    }
}

/// Time that a drained portal gives its hosts.
const DRAIN: Duration = Duration::from_secs(240);

/// Waits until the list at `path` is as it should be.
async fn until(
    unit: &StageArray,
    path: &str,
    what: &str,
    reached: impl Fn(&Value) -> bool,
) -> Result<(), Failure> {
    let deadline = Instant::now() + DRAIN / 4;
    loop {
        let answer = unit.client().get(path).await?;
        if reached(&answer["items"]) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("not so: {what}; {answer}").into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The first portal sends logins to the second, and its session is ended: the kernel follows without an error.
async fn redirect(unit: &StageArray) -> Result<(), Failure> {
    let [from, to] = PORTALS.map(|portal| SocketAddr::from((portal, 3260)).to_string());
    let order = json!({"to": to, "permanent": false});
    unit.client().post(&format!("/v1/portals/{}/redirect", segment(&from)), order).await?;
    let sessions = unit.client().get("/v1/sessions").await?;
    let items = sessions["items"].as_array().ok_or("no list")?;
    let there = items.iter().find(|session| session["portal"] == from.as_str()).ok_or("no session there")?;
    unit.client().delete(&format!("/v1/sessions/{}", there["tsih"])).await?;
    let all_at = |items: &Value| {
        let at: Vec<_> = items.as_array().into_iter().flatten().map(|session| &session["portal"]).collect();
        at.len() == 2 && at.iter().all(|portal| **portal == to.as_str())
    };
    until(unit, "/v1/sessions", "both sessions come in by the second portal", all_at).await
}

/// Each path is lost and given back while the guest writes and verifies: multipath notices, goes on, and takes the path back.
pub(crate) async fn multipath(folder: &Path, loss: Loss) -> Result<(), Failure> {
    address("add", PORTALS[1]).await?;
    let mut unit = unit(folder, &PORTALS).await?;
    let naa = naa(&unit).await?;
    let mut guest = Guest::boot(
        folder,
        include_str!("guest/multipath.sh"),
        &[("naa", &naa), ("loss", &format!("{loss:?}"))],
    )?;
    for (name, portal) in [("second", PORTALS[1]), ("first", PORTALS[0])] {
        guest.await_mark(&format!("writing-{name}"), LIMIT).await?;
        loss.take(&unit, portal).await?;
        guest.await_mark(&format!("alone-{name}"), LIMIT).await?;
        loss.give_back(&unit, portal).await?;
        guest.await_mark(&format!("done-{name}"), LIMIT).await?;
        guest.mark("go")?;
    }
    if loss == Loss::Drained {
        guest.await_mark("writing-third", LIMIT).await?;
        redirect(&unit).await?;
        guest.mark("moved")?;
    }
    guest.finish().await?;
    unit.stop().await?;
    Ok(())
}

/// A unit with an unmirrored LU behind these portals.
async fn unit(folder: &Path, portals: &[[u8; 4]]) -> Result<StageArray, Failure> {
    let mut config = UnitConfig::new("solo", 2, disk_size(SIZE));
    config.portals = portals.iter().map(|address| SocketAddr::from((*address, 3260))).collect();
    let unit = StageArray::start(folder, config).await?;
    bind(&unit, SIZE, json!({})).await?;
    Ok(unit)
}

/// What hosts know the LU by.
async fn naa(unit: &StageArray) -> Result<String, Failure> {
    let lu = unit.client().get(&format!("/v1/lus/{LU}")).await?;
    Ok(lu["naa"].as_str().ok_or("a LU has an identifier")?.to_owned())
}

async fn address(order: &str, [a, b, c, d]: [u8; 4]) -> Result<(), Failure> {
    let address = format!("{a}.{b}.{c}.{d}/24");
    run("ip", ["addr", order, &address, "dev", "tap0"], SHORT).await?;
    Ok(())
}
