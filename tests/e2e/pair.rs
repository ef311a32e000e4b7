//! Two storage units with a mirrored LU and a cable between them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use twinlun::stage::{Cable, StageArray, UnitConfig, free_port};
use twinlun_io::{EngineChoice, run_shard};
use twinlun_unit::offline::{OfflineLu, compare};

use crate::runner::Failure;

const POLL: Duration = Duration::from_millis(50);
/// Name of the mirrored LU on both units.
pub(crate) const LU: &str = "db";
/// Name of the mirror.
pub(crate) const MIRROR: &str = "m";

/// A unit with one LU for any host, unmirrored.
pub(crate) async fn single(folder: &Path, size: u64, lu: Value) -> Result<StageArray, Failure> {
    let unit = StageArray::start(folder, UnitConfig::new("solo", 2, disk_size(size))).await?;
    bind(&unit, size, lu).await?;
    Ok(unit)
}

/// Binds [`LU`] on RAID 1, thin unless `lu` says otherwise, and maps it as LUN 0 for any host.
pub(crate) async fn bind(unit: &StageArray, size: u64, lu: Value) -> Result<(), Failure> {
    let mut order = json!({"name": LU, "size": size, "raid": "1", "thin": true});
    for (key, value) in lu.as_object().into_iter().flatten() {
        order[key] = value.clone();
    }
    unit.client().post("/v1/lus", order).await?;
    unit.client().post(&format!("/v1/lus/{LU}/map"), json!({"host": "any", "lun": 0})).await?;
    Ok(())
}

/// Two portals on free ports of loopback.
pub(crate) fn two_portals() -> Vec<SocketAddr> {
    vec![SocketAddr::from(([127, 0, 0, 1], 0)); 2]
}

/// Room for a LU, the vault and labels.
pub(crate) fn disk_size(lu: u64) -> u64 {
    (lu + lu / 16 + (128 << 20)).next_multiple_of(1 << 20)
}

/// A primary, a secondary, and what joins them.
pub(crate) struct Pair {
    folder: PathBuf,
    /// Holds the primary image.
    pub(crate) east: StageArray,
    /// Holds the secondary image.
    pub(crate) west: StageArray,
    /// Between them.
    pub(crate) cable: Cable,
}

impl Pair {
    /// Builds both units and waits until the images are in step. `portal` is where the primary serves hosts.
    pub(crate) async fn build(folder: &Path, size: u64, portal: Option<SocketAddr>) -> Result<Self, Failure> {
        Self::build_with(folder, size, portal.into_iter().collect(), json!({})).await
    }

    /// The same with several portals of the primary, or a free one for none, and with other LUs.
    pub(crate) async fn build_with(
        folder: &Path,
        size: u64,
        portals: Vec<SocketAddr>,
        lu: Value,
    ) -> Result<Self, Failure> {
        let west_link = free_port()?;
        let cable = Cable::lay(west_link).await?;
        let mut east = UnitConfig::new("east", 2, disk_size(size));
        if !portals.is_empty() {
            east.portals = portals;
        }
        east.peers.push(("west".into(), vec![cable.address()]));
        let mut west = UnitConfig::new("west", 2, disk_size(size));
        west.link = Some(west_link);
        west.peers.push(("east".into(), Vec::new()));
        let east = StageArray::start(folder, east).await?;
        let west = StageArray::start(folder, west).await?;
        for unit in [&east, &west] {
            bind(unit, size, lu.clone()).await?;
        }
        east.client().post("/v1/mirrors", json!({"name": MIRROR, "lus": [LU]})).await?;
        let image = json!({"unit": "west", "lus": [LU]});
        east.client().post(&format!("/v1/mirrors/{MIRROR}/add-secondary"), image).await?;
        let pair = Self { folder: folder.into(), east, west, cable };
        pair.wait_in_step(Duration::from_secs(120)).await?;
        Ok(pair)
    }

    /// The secondary image as the primary sees it.
    pub(crate) async fn secondary(&self) -> Result<Value, Failure> {
        let mirror = self.east.client().get(&format!("/v1/mirrors/{MIRROR}")).await?;
        let images = mirror["images"].as_array().cloned().unwrap_or_default();
        let found = images.into_iter().find(|image| image["designator"] == "secondary");
        found.ok_or_else(|| format!("the mirror has no secondary: {mirror}").into())
    }

    /// Waits for a state of the secondary.
    pub(crate) async fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        ready: impl Fn(&Value) -> bool,
    ) -> Result<Value, Failure> {
        let deadline = Instant::now() + limit;
        loop {
            let image = self.secondary().await?;
            if ready(&image) {
                return Ok(image);
            }
            if Instant::now() > deadline {
                return Err(
                    format!("the secondary is not {what} after {} s: {image}", limit.as_secs()).into()
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until the secondary misses nothing and no write is under way.
    pub(crate) async fn wait_in_step(&self, limit: Duration) -> Result<Value, Failure> {
        let synchronized = |image: &Value| {
            image["fractured"] == false && image["dirty_bytes"] == 0 && image["state"] == "SYNCHRONIZED"
        };
        self.wait_for("SYNCHRONIZED", limit, synchronized).await
    }

    /// Stops both units and compares the images by reading both arrays, without the mirror's bookkeeping.
    pub(crate) async fn stop_and_compare(mut self) -> Result<(), Failure> {
        self.east.stop().await?;
        self.west.stop().await?;
        let configs = [self.east.config_path(), self.west.config_path()];
        let compared = std::thread::spawn(move || {
            run_shard(EngineChoice::Auto, |shard| async move {
                let mut lus = Vec::new();
                for path in &configs {
                    let config = twinlun_unit::config::load(path).map_err(|e| e.to_string())?;
                    lus.push(OfflineLu::open(&shard, &config, LU).await.map_err(|e| e.to_string())?);
                }
                compare(&lus[0], &lus[1]).await.map_err(|e| e.to_string())
            })
        });
        let differences = compared.join().map_err(|_| "the comparison panicked")???;
        if differences.is_empty() {
            return Ok(());
        }
        Err(format!(
            "images differ in {} places, first {:?}; files in {}",
            differences.len(),
            differences[0],
            self.folder.display()
        )
        .into())
    }
}
