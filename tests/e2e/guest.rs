//! A real Linux kernel as host: it logs in to the primary, makes a file system, copies a tree and verifies data while the link is cut,
//! the secondary is killed, or the primary is killed and started again under the host's own session recovery; with two paths it goes on while
//! either is cut, drained or redirected.
//!
//! The kernel is Debian's user-mode-linux, a process. Each case has a network namespace of its own, in which this program runs once more
//! ("inside") with both units and the guest.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use crate::pair::Pair;
use crate::persona::{self, Loss};
use crate::process::{find, is_root, missing, run};
use crate::runner::{Case, Failure, Outcome, Verdict};

const LIMIT: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_secs(20);
const LU_SIZE: u64 = 1 << 30;
const POLL: Duration = Duration::from_millis(100);
/// Word on the command line that says: this is the program inside the namespace.
pub(crate) const INSIDE: &str = "inside-namespace";

/// What happens to the mirror while the guest writes.
#[derive(Clone, Copy)]
enum Fault {
    LinkCut,
    SecondaryKilled,
    PrimaryKilled,
}

/// What a case does with its guest.
#[derive(Clone, Copy)]
enum Scene {
    /// A file system on a mirrored LU, while this happens to the mirror.
    FileSystem(Fault, &'static str),
    /// Linux's own tools ask a LU about itself.
    Tools,
    /// A command that changes a whole mirrored LU, or a copy onto it, by the tool that sends it.
    Medium(&'static str, &'static str),
    /// Two paths, each lost once, in this way.
    Multipath(Loss),
}

const CASES: [(&str, Scene); 10] = [
    ("guest_tools", Scene::Tools),
    ("guest_sanitize", Scene::Medium("sanitize", "sg_sanitize")),
    ("guest_format", Scene::Medium("format", "sg_format")),
    ("guest_xcopy", Scene::Medium("xcopy", "sg_xcopy")),
    ("guest_odx", Scene::Medium("odx", "sg_raw")),
    ("guest_multipath", Scene::Multipath(Loss::Cut)),
    ("guest_portal_drain", Scene::Multipath(Loss::Drained)),
    ("guest_ext4_link_cut", Scene::FileSystem(Fault::LinkCut, "ext4")),
    ("guest_xfs_secondary_killed", Scene::FileSystem(Fault::SecondaryKilled, "xfs")),
    ("guest_ext4_primary_killed", Scene::FileSystem(Fault::PrimaryKilled, "ext4")),
];

impl Scene {
    /// Programs it needs, which the guest finds in this machine's own root.
    fn programs(self) -> Vec<&'static str> {
        let programs: &[&str] = match self {
            Self::FileSystem(..) => &["fio", "mkfs.ext4", "mkfs.xfs", "lsscsi"],
            Self::Tools => &["lsblk", "lsscsi", "sg_inq", "sg_xcopy", "sg_get_lba_status", "scsi_mandat"],
            Self::Medium(_, tool) => return vec![tool],
            Self::Multipath(_) => &["fio", "multipathd", "multipath"],
        };
        programs.to_vec()
    }
}

/// The cases of this room.
pub(crate) fn cases() -> Vec<Case> {
    CASES
        .iter()
        .map(|(name, scene)| Case::new(*name, LIMIT, |folder| outside(name, *scene, folder)))
        .collect()
}

async fn outside(name: &'static str, scene: Scene, folder: PathBuf) -> Outcome {
    if !is_root() {
        return Ok(Verdict::Skipped("needs root for a network namespace".into()));
    }
    let mut programs = vec!["linux.uml", "cc", "ip", "iscsid", "iscsiadm"];
    programs.extend(scene.programs());
    if let Some(reason) = missing(&programs) {
        return Ok(Verdict::Skipped(reason));
    }
    let namespace = format!("twinlun-{}", std::process::id());
    if let Err(error) = run("ip", ["netns", "add", &namespace], SHORT).await {
        return Ok(Verdict::Skipped(format!("no network namespaces here: {error}")));
    }
    let verdict = in_namespace(&namespace, name, &folder).await;
    run("ip", ["netns", "del", &namespace], SHORT).await?;
    verdict
}

async fn in_namespace(namespace: &str, name: &str, folder: &Path) -> Outcome {
    let ip = |words: &'static str| {
        let words: Vec<_> = ["netns", "exec", namespace, "ip"]
            .into_iter()
            .chain(words.split(' '))
            .map(str::to_owned)
            .collect();
        async move { run("ip", words, SHORT).await }
    };
    ip("link set lo up").await?;
    if let Err(error) = ip("tuntap add dev tap0 mode tap").await {
        return Ok(Verdict::Skipped(format!("no tap devices here: {error}")));
    }
    ip("addr add 10.99.0.1/24 dev tap0").await?;
    ip("link set tap0 up").await?;
    let program = std::env::current_exe()?;
    let status = Command::new(find("ip").ok_or("ip is gone")?)
        .args(["netns", "exec", namespace])
        .arg(program)
        .args([INSIDE, name])
        .arg(folder)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await?;
    if status.success() { Ok(Verdict::Passed) } else { Err("see above".into()) }
}

/// The program inside the namespace.
pub(crate) fn inside(name: &str, folder: &Path) -> ExitCode {
    let work = async {
        let (_, scene) = CASES.iter().find(|(case, ..)| *case == name).ok_or("no such case")?;
        match scene {
            Scene::FileSystem(fault, filesystem) => file_system(*fault, filesystem, folder).await,
            Scene::Tools => persona::tools(folder).await,
            Scene::Medium(order, _) => persona::medium(order, folder).await,
            Scene::Multipath(loss) => persona::multipath(folder, *loss).await,
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime
        .map_err(Failure::from)
        .and_then(|runtime| tokio::task::LocalSet::new().block_on(&runtime, work));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("  {error}");
            ExitCode::FAILURE
        }
    }
}

async fn file_system(fault: Fault, filesystem: &str, folder: &Path) -> Result<(), Failure> {
    let mut pair = Pair::build(folder, LU_SIZE, Some(SocketAddr::from(([10, 99, 0, 1], 3260)))).await?;
    let mut guest = Guest::boot(folder, include_str!("guest/job.sh"), &[("filesystem", filesystem)])?;
    guest.await_mark("writing", LIMIT).await?;
    match fault {
        Fault::LinkCut => cut_link(&pair).await?,
        Fault::SecondaryKilled => kill_secondary(&mut pair).await?,
        Fault::PrimaryKilled => {
            tokio::time::sleep(Duration::from_secs(2)).await;
            pair.east.kill().await?;
            tokio::time::sleep(Duration::from_secs(3)).await;
            pair.east.run().await?;
        }
    }
    guest.await_mark("written", LIMIT).await?;
    pair.wait_in_step(Duration::from_secs(60)).await?;
    guest.mark("settled")?;
    guest.finish().await?;
    pair.wait_in_step(Duration::from_secs(60)).await?;
    pair.stop_and_compare().await
}

/// The link is cut and restored; what is copied is bounded by what was marked.
async fn cut_link(pair: &Pair) -> Result<(), Failure> {
    tokio::time::sleep(Duration::from_secs(1)).await;
    pair.cable.pull();
    pair.wait_for("fractured", Duration::from_secs(30), |image| image["fractured"] == true).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let missed = pair.secondary().await?["dirty_bytes"].as_u64().unwrap_or(0);
    pair.cable.plug();
    pair.wait_for("back", Duration::from_secs(60), |image| image["fractured"] == false).await?;
    println!("  the secondary missed {missed} bytes of a LUN of {LU_SIZE}");
    if missed == 0 || missed > LU_SIZE / 4 {
        return Err(format!("{missed} bytes marked is not in proportion to what the guest wrote").into());
    }
    Ok(())
}

async fn kill_secondary(pair: &mut Pair) -> Result<(), Failure> {
    tokio::time::sleep(Duration::from_secs(1)).await;
    pair.west.kill().await?;
    pair.wait_for("fractured", Duration::from_secs(30), |image| image["fractured"] == true).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    pair.west.run().await?;
    Ok(())
}

/// A kernel that runs as a group of processes.
pub(crate) struct Guest {
    child: Child,
    job: PathBuf,
    console: PathBuf,
}

impl Guest {
    /// Boots it with a job, a script for `sh`, that finds the files besides it in `/tmp/job`.
    pub(crate) fn boot(folder: &Path, script: &str, files: &[(&str, &str)]) -> Result<Self, Failure> {
        let job = folder.join("job");
        std::fs::create_dir(&job)?;
        // The guest's root is another user to the machine outside, as far as hostfs goes.
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
        std::fs::set_permissions(&job, std::fs::Permissions::from_mode(0o777))?;
        for (name, text) in
            [("job.sh", script), ("host.sh", include_str!("guest/host.sh"))].iter().chain(files)
        {
            std::fs::write(job.join(name), text)?;
        }
        let init = job.join("init.sh");
        std::fs::write(&init, include_str!("guest/init.sh"))?;
        std::fs::set_permissions(&init, std::fs::Permissions::from_mode(0o755))?;
        let shim = build_shim(folder)?;
        let console = folder.join("console.log");
        let log = std::fs::File::create(&console)?;
        let child = Command::new(find("linux.uml").ok_or("linux.uml is not installed")?)
            .args(["mem=768M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"])
            .args(["con=null", "con0=fd:0,fd:1", "vec0:transport=tap,ifname=tap0,depth=128,gro=1"])
            .arg(format!("uml_dir={}", folder.display()))
            .arg(format!("init={}", init.display()))
            .arg(format!("job={}", job.display()))
            .env("TMPDIR", folder)
            .env("LD_PRELOAD", shim)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self { child, job, console })
    }

    /// Tells the guest something.
    pub(crate) fn mark(&self, name: &str) -> std::io::Result<()> {
        std::fs::write(self.job.join(name), "")
    }

    /// Waits until the guest tells something.
    pub(crate) async fn await_mark(&mut self, name: &str, limit: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + limit;
        while !self.job.join(name).exists() {
            if self.child.try_wait()?.is_some() || Instant::now() > deadline {
                return Err(self.complaint(&format!("the guest did not get to {name:?}")));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Waits for the job's end; it must say that all went well.
    pub(crate) async fn finish(mut self) -> Result<(), Failure> {
        let ended = tokio::time::timeout(LIMIT, self.child.wait()).await;
        ended.map_err(|_| self.complaint("the guest did not end"))??;
        let console = std::fs::read_to_string(&self.console)?;
        if console.contains("JOB EXIT 0") { Ok(()) } else { Err(self.complaint("the guest's job failed")) }
    }

    fn complaint(&self, what: &str) -> Failure {
        let console = std::fs::read(&self.console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let lines: Vec<_> = console.lines().collect();
        let (before, end) = lines.split_at(lines.len().saturating_sub(30));
        let failed: Vec<_> = before.iter().filter(|line| line.contains("FAILED")).copied().collect();
        let said = [&failed, end].concat().join("\n    ");
        format!("{what}; its console says\n    {said}").into()
    }
}

/// What user-mode-linux needs on processors with large vector registers; `guest/xstate.c` says why. A linker for Rust is a compiler for C.
fn build_shim(folder: &Path) -> Result<PathBuf, Failure> {
    let (source, shim) = (folder.join("xstate.c"), folder.join("xstate.so"));
    std::fs::write(&source, include_str!("guest/xstate.c"))?;
    let built = std::process::Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .arg(&shim)
        .arg(&source)
        .output()?;
    if built.status.success() { Ok(shim) } else { Err(String::from_utf8_lossy(&built.stderr).into()) }
}

impl Drop for Guest {
    /// The kernel has helper processes that would keep the tap device busy.
    fn drop(&mut self) {
        let group = self.child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
        if let Some(group) = group {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}
