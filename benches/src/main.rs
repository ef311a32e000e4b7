//! Benches of the whole product, and the figures it has to reach. `docs/benchmarks.md` says what is measured and why so.
//!
//! Each bench compares two sides in one run, in turns (A B A B), and quotes ratios of medians: absolute numbers of one machine
//! mean little on another, and little on the same one an hour later.

#![forbid(unsafe_code)]

mod echo;
mod link;
mod machine;
mod mirror;
mod report;
mod resync;
mod sample;
mod sessions;
mod target;
mod tgt;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use twinlun::stage::{StageArray, UnitConfig};

use machine::Cores;
use report::Report;

/// What a bench may fail with.
pub(crate) type Failure = Box<dyn std::error::Error>;

/// Measures the product.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    bench: Option<Bench>,
    #[command(flatten)]
    options: Options,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
enum Bench {
    /// One connection against tgt and against a bare echo; an idle session
    Target,
    /// What a mirror and its write intent log cost
    Mirror,
    /// Resynchronising the same changes in a small and a large LU
    Resync,
    /// Memory of a thousand idle sessions
    Sessions,
    /// Everything
    All,
    /// The other side of the echo; started by the bench itself
    #[command(hide = true)]
    Echo(echo::Exchange),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    /// Rounds of every comparison
    #[arg(long, global = true, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Length of one measurement in seconds
    #[arg(long, global = true, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Where sparse files are made; a temporary folder when not given
    #[arg(long, global = true)]
    folder: Option<PathBuf>,
}

impl Options {
    pub(crate) fn rounds(&self) -> u32 {
        self.rounds
    }

    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// A folder for this bench, gone with the value.
    pub(crate) fn folder(&self) -> std::io::Result<tempfile::TempDir> {
        let folder = self.folder.clone().unwrap_or_else(std::env::temp_dir);
        tempfile::Builder::new().prefix("twinlun-bench").tempdir_in(folder)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("twinlun-benches: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let bench = arguments.bench.unwrap_or(Bench::All);
    if let Bench::Echo(exchange) = bench {
        return Ok(echo::serve(exchange)?);
    }
    let cores = Cores::choose()?;
    // Every process that is started from here inherits it.
    machine::pin(cores.target)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let jobs = tokio::task::LocalSet::new();
    let mut report = Report::default();
    jobs.block_on(&runtime, async {
        let options = &arguments.options;
        let wanted = |one: Bench| bench == Bench::All || bench == one;
        if wanted(Bench::Target) {
            target::run(options, cores, &mut report).await?;
        }
        if wanted(Bench::Mirror) {
            mirror::run(options, cores, &mut report).await?;
        }
        if wanted(Bench::Resync) {
            resync::run(options, cores, &mut report).await?;
        }
        if wanted(Bench::Sessions) {
            sessions::run(options, cores, &mut report).await?;
        }
        Ok::<_, Failure>(())
    })?;
    if arguments.options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

/// A LU of a unit, shown to every host as `lun`.
pub(crate) async fn bind(
    unit: &StageArray,
    name: &str,
    size: u64,
    lun: u16,
) -> Result<(), twinlun_api::Problem> {
    let order = json!({"name": name, "size": size, "raid": "0"});
    unit.client().post("/v1/lus", order).await?;
    let map = json!({"host": "any", "lun": lun});
    unit.client().post(&format!("/v1/lus/{name}/map"), map).await.map(drop)
}

/// A unit with one disk of that path and size.
pub(crate) fn unit_with_disk(name: &str, path: &str, size: u64) -> UnitConfig {
    let mut config = UnitConfig::new(name, 0, 0);
    config.disks.push((path.into(), size));
    config
}

/// Joins two units: `near` reaches `far` at `through`, and `far` listens at `listen`.
pub(crate) fn join(near: &mut UnitConfig, far: &mut UnitConfig, through: SocketAddr, listen: SocketAddr) {
    near.peers.push((far.name.clone(), vec![through]));
    far.peers.push((near.name.clone(), Vec::new()));
    far.link = Some(listen);
}

/// A mirror `name` of one LU between two units, both images taken for equal.
pub(crate) async fn mirror_blank(near: &StageArray, name: &str, lu: &str, far: &str) -> Result<(), Failure> {
    near.client().post("/v1/mirrors", json!({"name": name, "lus": [lu]})).await?;
    let image = json!({"unit": far, "lus": [lu], "synchronized": true});
    near.client().post(&format!("/v1/mirrors/{name}/add-secondary"), image).await?;
    wait_in_step(near, name).await
}

/// The secondary image of a mirror as its primary sees it.
pub(crate) async fn secondary(near: &StageArray, mirror: &str) -> Result<Value, Failure> {
    let mirror = near.client().get(&format!("/v1/mirrors/{mirror}")).await?;
    let images = mirror["images"].as_array().cloned().unwrap_or_default();
    let found = images.into_iter().find(|image| image["designator"] == "secondary");
    found.ok_or_else(|| format!("the mirror has no secondary: {mirror}").into())
}

/// Waits until the secondary misses nothing.
pub(crate) async fn wait_in_step(near: &StageArray, mirror: &str) -> Result<(), Failure> {
    const LIMIT: Duration = Duration::from_secs(120);
    const POLL: Duration = Duration::from_millis(5);
    let in_step = async {
        loop {
            let image = secondary(near, mirror).await?;
            let state = &image["state"];
            let current = state == "SYNCHRONIZED" || state == "CONSISTENT";
            if current && image["fractured"] == false && image["dirty_bytes"] == 0 {
                return Ok::<_, Failure>(());
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, in_step).await.map_err(|_| "the mirror does not come in step")?
}
