//! LIO, the target of the Linux kernel, in a guest: Debian's user-mode-linux, a process. It needs a network namespace of its own, in
//! which this program runs once more with our unit and the guest.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use twinlun_io::Shard;

use crate::Failure;
use crate::generate::{LU_SIZE, NEXUSES, Taste};
use crate::run::LANES;
use crate::side::{Address, host_name};

const TARGET: &str = "iqn.2026-11.io.twinlun:lio";
const BOOT_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);
const TAP: &str = "10.99.0.1/24";

/// What LIO is asked: COMPARE AND WRITE of one block; its mode pages cannot be changed.
pub(crate) const TASTE: Taste = Taste {
    compare_and_write: 100,
    compare_blocks: 1,
    no_data: false,
    mode_bits: &[(0x08, 2, 0x04)],
    reserves_compatibly: true,
    keeps_all_registrants: false,
    own_key_unregisters: true,
    reset_restores: true,
    deadly: |_| false,
};

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

fn ip(words: &str) -> Result<(), Failure> {
    let done = Command::new(find("ip").ok_or("ip is not installed")?).args(words.split(' ')).output()?;
    let problem = String::from_utf8_lossy(&done.stderr);
    if done.status.success() { Ok(()) } else { Err(format!("ip {words}: {problem}").into()) }
}

/// Runs this program again in a network namespace with a tap device, with the same arguments. `Err` with the reason: it cannot run here.
pub(crate) fn enter() -> Result<bool, Failure> {
    for program in ["linux.uml", "cc", "ip"] {
        find(program).ok_or_else(|| format!("not installed: {program}"))?;
    }
    let namespace = format!("twinlun-differential-{}", std::process::id());
    ip(&format!("netns add {namespace}")).map_err(|error| format!("no network namespaces here: {error}"))?;
    let done = within(&namespace);
    ip(&format!("netns del {namespace}"))?;
    done
}

fn within(namespace: &str) -> Result<bool, Failure> {
    let inside = format!("netns exec {namespace} ip");
    ip(&format!("{inside} link set lo up"))?;
    ip(&format!("{inside} tuntap add dev tap0 mode tap"))?;
    ip(&format!("{inside} addr add {TAP} dev tap0"))?;
    ip(&format!("{inside} link set tap0 up"))?;
    let status = Command::new(find("ip").ok_or("ip is gone")?)
        .args(["netns", "exec", namespace])
        .arg(std::env::current_exe()?)
        .args(std::env::args().skip(1))
        .arg("--inside")
        .stdin(Stdio::null())
        .status()?;
    Ok(status.success())
}

/// A guest that serves LUs.
pub(crate) struct Lio {
    child: Child,
    job: PathBuf,
    console: PathBuf,
    pub(crate) address: Address,
}

impl Lio {
    pub(crate) async fn start(shard: &Shard, folder: &Path) -> Result<Self, Failure> {
        let job = folder.join("job");
        std::fs::create_dir(&job)?;
        // The guest's root is another user to the machine outside, as far as hostfs goes.
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
        std::fs::set_permissions(&job, std::fs::Permissions::from_mode(0o777))?;
        let luns = LANES.map(|lane| format!("{} {LU_SIZE} {}\n", lane.lun, lane.block)).concat();
        let hosts: String = (0..NEXUSES).map(|host| host_name(host) + "\n").collect();
        for (name, text) in [
            ("luns", luns.as_str()),
            ("hosts", &hosts),
            ("target", TARGET),
            ("job.sh", include_str!("lio/job.sh")),
            ("init.sh", include_str!("../e2e/guest/init.sh")),
        ] {
            std::fs::write(job.join(name), text)?;
        }
        let init = job.join("init.sh");
        std::fs::set_permissions(&init, std::fs::Permissions::from_mode(0o755))?;
        let console = folder.join("console.log");
        let log = std::fs::File::create(&console)?;
        let child = Command::new(find("linux.uml").ok_or("linux.uml is not installed")?)
            .args(["mem=384M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"])
            .args(["con=null", "con0=fd:0,fd:1", "vec0:transport=tap,ifname=tap0,depth=128,gro=1"])
            .arg(format!("uml_dir={}", folder.display()))
            .arg(format!("init={}", init.display()))
            .arg(format!("job={}", job.display()))
            .env("TMPDIR", folder)
            .env("LD_PRELOAD", build_shim(folder)?)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let address = Address { portal: ([10, 99, 0, 2], 3260).into(), target: TARGET.into() };
        let mut guest = Self { child, job, console, address };
        guest.await_ready(shard).await?;
        Ok(guest)
    }

    async fn await_ready(&mut self, shard: &Shard) -> Result<(), Failure> {
        let deadline = std::time::Instant::now() + BOOT_LIMIT;
        while !self.job.join("ready").exists() {
            if self.child.try_wait()?.is_some() || std::time::Instant::now() > deadline {
                let console = std::fs::read(&self.console).unwrap_or_default();
                let console = String::from_utf8_lossy(&console);
                let lines: Vec<_> = console.lines().collect();
                let end = lines[lines.len().saturating_sub(30)..].join("\n    ");
                return Err(format!("the guest serves nothing; its console ends with\n    {end}").into());
            }
            shard.sleep(POLL).await;
        }
        Ok(())
    }
}

/// What user-mode-linux needs on processors with large vector registers; the source says why.
fn build_shim(folder: &Path) -> Result<PathBuf, Failure> {
    let (source, shim) = (folder.join("xstate.c"), folder.join("xstate.so"));
    std::fs::write(&source, include_str!("../e2e/guest/xstate.c"))?;
    let mut compiler = Command::new("cc");
    let built = compiler.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&shim).arg(&source).output()?;
    if built.status.success() { Ok(shim) } else { Err(String::from_utf8_lossy(&built.stderr).into()) }
}

impl Drop for Lio {
    /// The kernel has helper processes that would keep the tap device busy.
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_raw(self.child.id().cast_signed());
        if let Some(group) = group {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        // It holds nothing that would be missed.
        let _ = self.child.wait();
    }
}
