//! `tgtd` of the Debian package tgt, as a process of this user.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use twinlun::stage::free_port;
use twinlun_io::Shard;

use crate::Failure;
use crate::generate::{LU_SIZE, Taste};
use crate::run::Lane;
use crate::side::Address;
use crate::step::{Data, ScsiStep};

const TARGET: &str = "iqn.2026-11.io.twinlun:tgt";
const SHORT: Duration = Duration::from_millis(50);

/// MODE SENSE for less than its header: `tgtd` writes the device-specific parameter into a buffer that is not there.
fn deadly(scsi: &ScsiStep) -> bool {
    matches!(scsi.cdb[0], 0x1A | 0x5A) && !matches!(scsi.data, Data::In(4..))
}

/// What `tgtd` is asked. It has no COMPARE AND WRITE; a few are sent all the same.
pub(crate) const TASTE: Taste = Taste {
    compare_and_write: 4,
    compare_blocks: 4,
    no_data: false,
    mode_bits: &[(0x08, 2, 0x04), (0x0A, 4, 0x08)],
    reserves_compatibly: false,
    keeps_all_registrants: true,
    own_key_unregisters: false,
    reset_restores: false,
    deadly,
};

/// A running `tgtd` with a LU for every lane.
pub(crate) struct Tgt {
    child: Child,
    /// Number of its control socket, so that it meets no other `tgtd`.
    control: String,
    folder: PathBuf,
    pub(crate) address: Address,
}

impl Tgt {
    /// `None`: tgt is not installed.
    pub(crate) async fn start(shard: &Shard, folder: &Path, lanes: &[Lane]) -> Result<Option<Self>, Failure> {
        let portal = free_port()?;
        // It takes numbers of 15 bits.
        let control = (portal.port() % (1 << 15)).to_string();
        let child = Command::new("tgtd")
            .args(["-f", "-C", &control, "--iscsi", &format!("portal={portal}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = match child {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            child => child?,
        };
        let address = Address { portal, target: TARGET.into() };
        let mut tgt = Self { child, control, folder: folder.into(), address };
        tgt.wait_ready(shard).await?;
        tgt.order("new", &["--mode", "target", "--tid", "1", "--targetname", TARGET])?;
        for lane in lanes {
            tgt.add(lane)?;
        }
        tgt.order("bind", &["--mode", "target", "--tid", "1", "--initiator-address", "ALL"])?;
        Ok(Some(tgt))
    }

    fn add(&self, lane: &Lane) -> Result<(), Failure> {
        let path = self.folder.join(format!("tgt-{}.img", lane.lun));
        std::fs::File::create(&path)?.set_len(LU_SIZE)?;
        let (lun, block) = (lane.lun.to_string(), lane.block.to_string());
        let place = ["--mode", "logicalunit", "--tid", "1", "--lun", &lun];
        let file = path.to_string_lossy();
        self.order("new", &[&place[..], &["--blocksize", &block, "--backing-store", &file]].concat())?;
        self.order("update", &[&place[..], &["--params", "thin_provisioning=1"]].concat())
    }

    async fn wait_ready(&mut self, shard: &Shard) -> Result<(), Failure> {
        for _ in 0..200 {
            if self.order("show", &["--mode", "target"]).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("tgtd ended with {status}").into());
            }
            shard.sleep(SHORT).await;
        }
        Err("tgtd does not answer".into())
    }

    fn order(&self, operation: &str, rest: &[&str]) -> Result<(), Failure> {
        let done = Command::new("tgtadm")
            .args(["-C", &self.control, "--lld", "iscsi", "--op", operation])
            .args(rest)
            .stdin(Stdio::null())
            .output()?;
        let problem = String::from_utf8_lossy(&done.stderr);
        if done.status.success() { Ok(()) } else { Err(format!("tgtadm {operation}: {problem}").into()) }
    }
}

impl Drop for Tgt {
    fn drop(&mut self) {
        // It holds nothing that would be missed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
