//! Hosts as they behave: what Windows Server, VMware ESXi and Linux send, in their order, from our own initiator to real units.
//!
//! A mirrored LU behind two portals where it matters, so that every host has two paths.

mod esxi;
mod linux;
mod windows;

use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use serde_json::json;
use twinlun::initiator::{Session, SessionError};
use twinlun_block::Payload;
use twinlun_io::{EngineChoice, Shard, run_shard};
use twinlun_iscsi::initiator::{Completion, InitiatorConfig, SessionKind, Transfer};
use twinlun_iscsi::names::Isid;
use twinlun_iscsi::pdu::Lun;
use twinlun_tests::answer::outcome;

use crate::pair::{Pair, two_portals};
use crate::runner::{Case, Failure, Outcome};

/// Size of the LU of every persona.
pub(crate) const SIZE: u64 = 64 << 20;
const LIMIT: Duration = Duration::from_secs(180);
/// No host waits longer for a command.
const PATIENCE: Duration = Duration::from_secs(30);

/// The cases of this room.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = windows::cases();
    cases.extend(esxi::cases());
    cases.extend(linux::cases());
    cases
}

type Script = fn(Shard, PathBuf) -> Pin<Box<dyn Future<Output = Outcome>>>;

/// A case that runs on a shard of its own, as sessions need one.
fn case(name: &'static str, script: Script) -> Case {
    Case::new(name, LIMIT, move |folder| async move {
        let run = move || {
            let work = run_shard(EngineChoice::Portable, |shard| async move {
                let done = shard.timeout(LIMIT, script(shard.clone(), folder)).await;
                done.map_err(|_| "the script did not end".to_owned())?.map_err(|error| error.to_string())
            });
            work.map_err(|error| error.to_string())?
        };
        Ok(tokio::task::spawn_blocking(run).await??)
    })
}

/// A mirrored LU of 512-byte blocks behind two portals.
async fn mirrored(folder: &std::path::Path) -> Result<Pair, Failure> {
    Pair::build_with(folder, SIZE, two_portals(), json!({})).await
}

/// A path of a host to the LU: one session.
#[derive(Clone)]
struct Path {
    session: Session,
    lun: Lun,
}

impl Path {
    /// Logs in to a portal of the target. Paths of one host differ in their number.
    async fn open(
        shard: &Shard,
        portal: &str,
        target: &str,
        host: &str,
        number: u16,
    ) -> Result<Self, Failure> {
        let kind = SessionKind::Normal { target: target.parse()? };
        let config = InitiatorConfig::new(host.parse()?, Isid::random([0x50, 0x65, 0x72], number), kind);
        let session = Session::connect(shard, portal.parse()?, config, PATIENCE).await?;
        Ok(Self { session, lun: Lun::ZERO })
    }

    /// Paths of a host through every portal of the primary.
    async fn all(shard: &Shard, pair: &Pair, host: &str) -> Result<Vec<Self>, Failure> {
        let mut paths = Vec::new();
        for (number, portal) in pair.east.portals().iter().enumerate() {
            paths.push(Self::open(shard, portal, &pair.east.target(), host, number as u16).await?);
        }
        Ok(paths)
    }

    async fn send(&self, cdb: [u8; 16], transfer: Transfer) -> Result<Completion, SessionError> {
        self.session.execute(self.lun, cdb, transfer).await
    }

    /// A command that must end as expected, in the words of [`outcome`].
    async fn expect(
        &self,
        what: &str,
        expected: &str,
        cdb: [u8; 16],
        transfer: Transfer,
    ) -> Result<Completion, Failure> {
        let completion = self.send(cdb, transfer).await.map_err(|error| format!("{what}: {error}"))?;
        match outcome(&completion) {
            found if found == expected => Ok(completion),
            found => Err(format!("{what}: {found}, expected {expected}").into()),
        }
    }

    /// The data of a command that must end with GOOD.
    async fn ask(&self, what: &str, cdb: [u8; 16], len: u32) -> Result<Vec<u8>, Failure> {
        let transfer = if len == 0 { Transfer::None } else { Transfer::Read(len) };
        Ok(self.expect(what, "GOOD", cdb, transfer).await?.data.to_bytes().to_vec())
    }

    /// A command without data, or with data to the LU, that must end with GOOD.
    async fn tell(&self, what: &str, cdb: [u8; 16], data: &[u8]) -> Result<(), Failure> {
        self.expect(what, "GOOD", cdb, out(data)).await.map(drop)
    }

    /// The unit attention conditions that wait, taken one by one with TEST UNIT READY.
    async fn attentions(&self) -> Result<Vec<String>, Failure> {
        let mut found = Vec::new();
        for _ in 0..16 {
            match outcome(&self.send([0; 16], Transfer::None).await?) {
                word if word.starts_with("CHECK 6/") => found.push(word["CHECK 6/".len()..].to_owned()),
                _ => return Ok(found),
            }
        }
        Err("unit attention conditions without end".into())
    }
}

/// Data to the LU, if any.
fn out(data: &[u8]) -> Transfer {
    if data.is_empty() { Transfer::None } else { Transfer::Write(Payload::from(data.to_vec())) }
}

/// A CDB of that beginning, the rest zero.
fn cdb<const N: usize>(start: [u8; N]) -> [u8; 16] {
    let mut out = [0; 16];
    out[..N].copy_from_slice(&start);
    out
}

fn u16_at(data: &[u8], at: usize) -> Result<u16, Failure> {
    let bytes = data.get(at..).and_then(|rest| rest.first_chunk()).ok_or("an answer that is too short")?;
    Ok(u16::from_be_bytes(*bytes))
}

fn u32_at(data: &[u8], at: usize) -> Result<u32, Failure> {
    let bytes = data.get(at..).and_then(|rest| rest.first_chunk()).ok_or("an answer that is too short")?;
    Ok(u32::from_be_bytes(*bytes))
}

fn u64_at(data: &[u8], at: usize) -> Result<u64, Failure> {
    let bytes = data.get(at..).and_then(|rest| rest.first_chunk()).ok_or("an answer that is too short")?;
    Ok(u64::from_be_bytes(*bytes))
}

/// An error that says what was seen, unless the condition holds.
fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(what().into()) }
}

/// The NAA designator of the LU from the device identification page (SPC-5, 7.7.6).
fn naa(page: &[u8]) -> Result<[u8; 16], Failure> {
    let mut rest = page.get(4..).unwrap_or_default();
    while let [codes, kind, _, len, ..] = *rest {
        let designator = rest.get(4..4 + usize::from(len)).ok_or("a designator that is cut off")?;
        if codes & 0x0F == 1 && kind & 0x3F == 3 && designator.len() == 16 {
            return Ok(*designator.first_chunk().ok_or("a short designator")?);
        }
        rest = &rest[4 + usize::from(len)..];
    }
    Err(format!("no NAA designator in {page:02x?}").into())
}
