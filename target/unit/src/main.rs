//! `twinlund`: one storage processor.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tokio::signal::unix::{Signal, SignalKind, signal};
use twinlun_io::{EngineChoice, Shard};
use twinlun_unit::Processor;
use twinlun_unit::admin::{AdminServer, Desk};
use twinlun_unit::config::{self, Config, EngineName};

/// A stop that takes longer than this has gone wrong; the logs make the next start safe all the same.
const STOP_LIMIT: Duration = Duration::from_millis(4500);

/// One storage processor of a Twinlun storage unit.
#[derive(Debug, Parser)]
#[command(name = "twinlund", version)]
struct Arguments {
    /// Configuration file
    #[arg(long, env = "TWINLUN_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration and stop
    #[arg(long)]
    check: bool,
    /// Start once with exactly half of the vault's copies, declaring the missing disks lost; what only they know is lost with them
    #[arg(long)]
    accept_half: bool,
    /// How the log is written to stderr; RUST_LOG sets what is in it
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log(arguments.log_format);
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("twinlund: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start_log(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log =
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(colours).with_env_filter(filter);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

type Failure = Box<dyn std::error::Error>;

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut config = config::load(&arguments.config)?;
    config.accept_half = arguments.accept_half;
    let key = config.link.as_ref().map(|link| config::load_key(&link.key_file)).transpose()?;
    if arguments.check {
        println!("{}: good", arguments.config.display());
        return Ok(());
    }
    make_state_dir(&config)?;
    let engine = match config.engine {
        EngineName::Auto => EngineChoice::Auto,
        EngineName::Uring => EngineChoice::Uring,
        EngineName::Portable => EngineChoice::Portable,
    };
    twinlun_io::run_shard(engine, |shard| {
        shard.busy_poll(config.busy_poll);
        serve(shard, config, key)
    })?
}

/// Disks, configuration and secrets are for the daemon's user alone.
fn make_state_dir(config: &Config) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    let folder = &config.state_dir;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| format!("state directory {} cannot be made: {error}", folder.display()).into())
}

async fn serve(shard: Shard, config: Config, key: Option<Vec<u8>>) -> Result<(), Failure> {
    // Signals count from the start on: one that comes during recovery must not kill a half-open array.
    let mut signals = Signals::new()?;
    let socket = config.admin_socket.clone();
    let processor = Processor::start(shard.clone(), config, key).await?;
    let (admin, desk) = AdminServer::start(&socket)
        .map_err(|error| format!("admin socket {} cannot be opened: {error}", socket.display()))?;
    shard.spawn(clerk(shard.clone(), processor.clone(), desk));
    // Absent outside systemd; nothing depends on it.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    for portal in processor.portals() {
        tracing::info!(unit = processor.unit(), target = processor.target_name(), %portal, "ready");
    }
    signals.wait().await;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping");
    admin.stop();
    if shard.timeout(STOP_LIMIT, processor.shutdown()).await.is_err() {
        tracing::error!("the stop took too long and was cut short; the next start recovers from the logs");
    }
    Ok(())
}

/// Takes orders from the desk; each is carried out beside the others.
async fn clerk(shard: Shard, processor: Rc<Processor>, mut desk: Desk) {
    while let Some(slip) = desk.recv().await {
        let processor = processor.clone();
        shard.spawn(async move {
            let answer = processor.obey(slip.order, slip.dry_run).await;
            // The asker may have gone away.
            let _ = slip.answer.send(answer);
        });
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        std::future::poll_fn(|cx| {
            if self.terminate.poll_recv(cx).is_ready() || self.interrupt.poll_recv(cx).is_ready() {
                return std::task::Poll::Ready(());
            }
            std::task::Poll::Pending
        })
        .await;
    }
}
