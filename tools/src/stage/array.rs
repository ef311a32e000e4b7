//! One storage unit: a `twinlund` of its own with file disks.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::process::{Child, Command};
use twinlun_api::Problem;

use super::failed;
use crate::client::Client;

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// What a unit of the stage looks like.
#[derive(Clone, Debug)]
pub struct UnitConfig {
    /// Name of the unit.
    pub name: String,
    /// Disks: path and size.
    pub disks: Vec<(String, u64)>,
    /// Portals.
    pub portals: Vec<SocketAddr>,
    /// Where its link listens.
    pub link: Option<SocketAddr>,
    /// Other units: name and addresses.
    pub peers: Vec<(String, Vec<SocketAddr>)>,
    /// More sections of the configuration, as they are.
    pub extra: String,
}

impl UnitConfig {
    /// A unit with that many file disks of `size` bytes and one portal on a free port of loopback.
    pub fn new(name: &str, disks: usize, size: u64) -> Self {
        Self {
            name: name.into(),
            disks: (0..disks).map(|n| (format!("disk{n}.img"), size)).collect(),
            portals: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            link: None,
            peers: Vec::new(),
            extra: String::new(),
        }
    }

    /// The configuration file of this unit in `folder`.
    pub fn path(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.toml", self.name))
    }

    /// Its text. The link key is `link.key` in the folder of the configuration.
    pub fn text(&self) -> String {
        let mut text = format!("[unit]\nname = \"{0}\"\nstate_dir = \"{0}\"\n", self.name);
        for (path, size) in &self.disks {
            let _ = write!(text, "\n[[disk]]\npath = \"{path}\"\nsize = {size}\n");
        }
        for portal in &self.portals {
            let _ = write!(text, "\n[[portal]]\nlisten = \"{portal}\"\n");
        }
        text.push_str("\n[link]\nkey_file = \"../link.key\"\n");
        if let Some(link) = self.link {
            let _ = writeln!(text, "listen = \"{link}\"");
        }
        for (unit, addresses) in &self.peers {
            let addresses: Vec<_> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
            let _ =
                write!(text, "\n[[link.peer]]\nunit = \"{unit}\"\naddresses = [{}]\n", addresses.join(", "));
        }
        let _ = write!(text, "\n{}", self.extra);
        text
    }
}

/// A running storage unit and its files.
pub struct StageArray {
    config: UnitConfig,
    folder: PathBuf,
    child: Option<Child>,
    client: Client,
    portals: Vec<String>,
}

impl StageArray {
    /// Writes the configuration into `folder`, starts the unit with it, and waits until it is ready.
    pub async fn start(folder: &Path, config: UnitConfig) -> Result<Self, Problem> {
        std::fs::write(folder.join("link.key"), "a key for a stage, known to everybody").map_err(failed)?;
        std::fs::write(config.path(folder), config.text()).map_err(failed)?;
        let client = Client::new(&folder.join(&config.name).join("admin.sock"), false);
        let mut array = Self { config, folder: folder.into(), child: None, client, portals: Vec::new() };
        array.run().await?;
        Ok(array)
    }

    /// Starts the process; it must not be running.
    pub async fn run(&mut self) -> Result<(), Problem> {
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).map_err(failed)?;
        let child = Command::new(daemon())
            .arg("--config")
            .arg(self.config.path(&self.folder))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                failed(format!("twinlund cannot be started ({}): {error}", daemon().display()))
            })?;
        self.child = Some(child);
        self.wait_ready().await
    }

    async fn wait_ready(&mut self) -> Result<(), Problem> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            match self.client.get("/v1/unit").await {
                Ok(unit) => {
                    let portals = unit["portals"].as_array().into_iter().flatten();
                    self.portals = portals.filter_map(|p| p["address"].as_str().map(Into::into)).collect();
                    // A free port that was taken once is kept, so that hosts find a restarted unit again.
                    for (configured, taken) in self.config.portals.iter_mut().zip(&self.portals) {
                        *configured = taken.parse().unwrap_or(*configured);
                    }
                    return std::fs::write(self.config.path(&self.folder), self.config.text())
                        .map_err(failed);
                }
                Err(problem) => {
                    let ended =
                        self.child.as_mut().and_then(|child| child.try_wait().transpose()).transpose();
                    if let Some(status) = ended.map_err(failed)? {
                        let log = std::fs::read_to_string(self.log_path()).unwrap_or_default();
                        return Err(failed(format!("unit {} ended with {status}:\n{log}", self.config.name)));
                    }
                    if Instant::now() > deadline {
                        return Err(problem);
                    }
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Its administration.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Where it serves hosts: address and port.
    pub fn portal(&self) -> &str {
        self.portals.first().map_or("", String::as_str)
    }

    /// All places where it serves hosts.
    pub fn portals(&self) -> &[String] {
        &self.portals
    }

    /// Its LUN as libiscsi and QEMU write it.
    pub fn url(&self, lun: u16) -> String {
        format!("iscsi://{}/{}/{lun}", self.portal(), self.target())
    }

    /// The same by each of its portals.
    pub fn urls(&self, lun: u16) -> Vec<String> {
        let target = self.target();
        self.portals.iter().map(|portal| format!("iscsi://{portal}/{target}/{lun}")).collect()
    }

    /// Its iSCSI name.
    pub fn target(&self) -> String {
        format!("iqn.2026-11.io.twinlun:{}", self.config.name)
    }

    /// Its state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.join(&self.config.name)
    }

    /// Its configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.config.path(&self.folder)
    }

    /// Where its log goes.
    pub fn log_path(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.config.name))
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Asks it to stop and waits for it: exit status 0 or an error.
    pub async fn stop(&mut self) -> Result<(), Problem> {
        let status = self.end(Signal::TERM).await?;
        if status.success() {
            Ok(())
        } else {
            Err(failed(format!("unit {} ended with {status}", self.config.name)))
        }
    }

    /// Kills it as a crash would.
    pub async fn kill(&mut self) -> Result<(), Problem> {
        let status = self.end(Signal::KILL).await?;
        if status.signal() == Some(Signal::KILL.as_raw()) {
            return Ok(());
        }
        Err(failed(format!("unit {} had ended with {status} before it was killed", self.config.name)))
    }

    async fn end(&mut self, signal: Signal) -> Result<std::process::ExitStatus, Problem> {
        let gone = || failed(format!("unit {} does not run", self.config.name));
        let mut child = self.child.take().ok_or_else(gone)?;
        let pid =
            child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())).ok_or_else(gone)?;
        rustix::process::kill_process(pid, signal).map_err(failed)?;
        tokio::time::timeout(STOP_LIMIT, child.wait())
            .await
            .map_err(|_| failed(format!("unit {} does not stop", self.config.name)))?
            .map_err(failed)
    }
}

/// `twinlund` beside this program or, for test programs, one folder up; else wherever the path has it.
fn daemon() -> PathBuf {
    let folders = std::env::current_exe()
        .ok()
        .map(|exe| exe.ancestors().skip(1).take(2).map(Path::to_path_buf).collect());
    let folders: Vec<PathBuf> = folders.unwrap_or_default();
    folders
        .into_iter()
        .map(|folder| folder.join("twinlund"))
        .find(|path| path.exists())
        .unwrap_or_else(|| "twinlund".into())
}
