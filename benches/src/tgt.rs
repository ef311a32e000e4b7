//! `tgtd` of the Debian package tgt, the user-space target that ours is compared with.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::Failure;

const TARGET: &str = "iqn.2026-11.io.twinlun:tgt";

/// A running `tgtd` with one LUN.
pub(crate) struct Tgt {
    child: Child,
    /// Number of its control socket, so that it meets no other `tgtd`.
    control: String,
    portal: SocketAddr,
}

impl Tgt {
    /// Serves a file as LUN 1. `None`: tgt is not installed.
    pub(crate) async fn start(backing: &Path) -> Result<Option<Self>, Failure> {
        let portal = twinlun::stage::free_port()?;
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
        let mut tgt = Self { child, control, portal };
        tgt.wait_ready().await?;
        tgt.order("new", &["--mode", "target", "--tid", "1", "--targetname", TARGET])?;
        let file = backing.to_string_lossy();
        tgt.order("new", &["--mode", "logicalunit", "--tid", "1", "--lun", "1", "--backing-store", &file])?;
        tgt.order("bind", &["--mode", "target", "--tid", "1", "--initiator-address", "ALL"])?;
        Ok(Some(tgt))
    }

    async fn wait_ready(&mut self) -> Result<(), Failure> {
        for _ in 0..200 {
            if self.order("show", &["--mode", "target"]).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("tgtd ended with {status}").into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
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

    pub(crate) fn url(&self) -> String {
        format!("iscsi://{}/{TARGET}/1", self.portal)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Tgt {
    fn drop(&mut self) {
        // It holds nothing that would be missed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
