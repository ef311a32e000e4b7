//! `twinlun demo`: the main job with nothing to configure. Two arrays on loopback, a mirrored LU, its address printed; with
//! `--exercise` the link is cut and restored under writes, and both images are compared on the disks themselves.

mod exercise;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use twinlun::stage::{Cable, StageArray, UnitConfig, free_port};
use twinlun_api::{Problem, ProblemKind};

use crate::cli::DemoArgs;
use crate::show;

const MIRROR: &str = "demo";
const LU: &str = "db";
const REFRESH: Duration = Duration::from_millis(500);

/// Carries out `twinlun demo`.
pub(crate) async fn run(args: &DemoArgs) -> Result<(), Problem> {
    let folder = Folder::new(args.folder.as_deref())?;
    let stage = Stage::build(folder.path(), args).await?;
    println!("mirrored LU: {}", stage.address());
    let done = if args.exercise { exercise::run(&stage, args).await } else { stage.watch().await };
    let stopped = stage.stop().await;
    done?;
    stopped?;
    if args.exercise { exercise::compare(folder.path()).await } else { Ok(()) }
}

/// Both arrays, the cable between them, and the mirror.
struct Stage {
    east: StageArray,
    west: StageArray,
    cable: Cable,
}

impl Stage {
    async fn build(folder: &Path, args: &DemoArgs) -> Result<Self, Problem> {
        let west_link = free_port()?;
        let cable = Cable::lay(west_link).await.map_err(failed)?;
        let disk = disk_size(args.size.0);
        let mut east = UnitConfig::new("east", 2, disk);
        east.peers.push(("west".into(), vec![cable.address()]));
        let mut west = UnitConfig::new("west", 2, disk);
        west.link = Some(west_link);
        west.peers.push(("east".into(), Vec::new()));
        let east = StageArray::start(folder, east).await?;
        let west = StageArray::start(folder, west).await?;
        for array in [&east, &west] {
            let lu = json!({"name": LU, "size": args.size.0, "raid": "1"});
            array.client().post("/v1/lus", lu).await?;
        }
        east.client().post(&format!("/v1/lus/{LU}/map"), json!({"host": "any", "lun": 0})).await?;
        east.client().post("/v1/mirrors", json!({"name": MIRROR, "lus": [LU]})).await?;
        let image = json!({"unit": "west", "lus": [LU]});
        east.client().post(&format!("/v1/mirrors/{MIRROR}/add-secondary"), image).await?;
        Ok(Self { east, west, cable })
    }

    fn address(&self) -> String {
        self.east.url(0)
    }

    /// Shows the mirror whenever it changes, until interrupted.
    async fn watch(&self) -> Result<(), Problem> {
        println!(
            "end with Ctrl-C; administer with: twinlun --unit {} mirror show {MIRROR}",
            self.east.state_dir().display()
        );
        let mut shown = String::new();
        let mut interrupt =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()).map_err(failed)?;
        loop {
            let view = show::mirror(&self.show().await?);
            if view != shown {
                println!("\n{view}");
                shown = view;
            }
            if tokio::time::timeout(REFRESH, interrupt.recv()).await.is_ok() {
                return Ok(());
            }
        }
    }

    async fn show(&self) -> Result<serde_json::Value, Problem> {
        self.east.client().get(&format!("/v1/mirrors/{MIRROR}")).await
    }

    async fn stop(mut self) -> Result<(), Problem> {
        let (east, west) = (self.east.stop().await, self.west.stop().await);
        east.and(west)
    }
}

/// RAID 1 over two disks, with room for the vault.
fn disk_size(lu: u64) -> u64 {
    (lu + lu / 16 + (128 << 20)).next_multiple_of(1 << 20)
}

/// Where the disks are: the given folder stays, a temporary one goes.
enum Folder {
    Given(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    fn new(given: Option<&Path>) -> Result<Self, Problem> {
        match given {
            Some(path) => {
                std::fs::create_dir_all(path).map_err(failed)?;
                Ok(Self::Given(path.into()))
            }
            None => tempfile::Builder::new()
                .prefix("twinlun-demo-")
                .tempdir()
                .map(Self::Temporary)
                .map_err(failed),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }
}

fn failed(error: impl std::fmt::Display) -> Problem {
    Problem::new(ProblemKind::Failed, "E-DEMO", error.to_string(), "")
}
