//! Third-party copies over iSCSI against real daemons: EXTENDED COPY and ROD tokens onto a mirrored LU, until both images hold the same.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::oneshot;
use twinlun::initiator::{Session, SessionError, expect_good};
use twinlun_block::Payload;
use twinlun_io::{EngineChoice, Shard, run_shard};
use twinlun_iscsi::initiator::{Command, Completion, InitiatorConfig, SessionKind, Transfer};
use twinlun_iscsi::pdu::{Isid, Lun};

use crate::pair::{LU, Pair};
use crate::runner::{Case, Failure, Outcome, Verdict};

const SIZE: u64 = 96 << 20;
/// Size of the LU that is copied from, without a mirror and with blocks of another size.
const PLAIN: u64 = 32 << 20;
const LIMIT: Duration = Duration::from_secs(180);
const PATIENCE: Duration = Duration::from_secs(20);
const BLOCK: u32 = 512;
const LARGE: u32 = 4096;

/// The cases of this room.
pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new("copies_reach_the_mirror", LIMIT, copies)]
}

async fn copies(folder: PathBuf) -> Outcome {
    let pair = Pair::build(&folder, SIZE, None).await?;
    let order = json!({"name": "plain", "size": PLAIN, "raid": "1", "thin": true, "block_size": LARGE});
    let client = pair.east.client();
    let plain = client.post("/v1/lus", order).await?;
    client.post("/v1/lus/plain/map", json!({"host": "any", "lun": 1})).await?;
    let mirrored = client.get(&format!("/v1/lus/{LU}")).await?;
    let names = [naa(&mirrored["naa"])?, naa(&plain["naa"])?];
    let (portal, target) = (pair.east.portal().parse()?, pair.east.target());
    let host = std::thread::spawn(move || {
        run_shard(EngineChoice::Auto, |shard| async move {
            let session = SessionKind::Normal { target: target.parse().map_err(|e| format!("{e}"))? };
            let name = "iqn.2026-11.io.host:copies".parse().map_err(|e| format!("{e}"))?;
            let config = InitiatorConfig::new(name, Isid::random([1, 2, 3], 4), session);
            let session =
                Session::connect(&shard, portal, config, PATIENCE).await.map_err(|e| e.to_string())?;
            let host = Rc::new(Host { session });
            host.copy(&shard, names).await
        })
    });
    let told = tokio::task::spawn_blocking(move || host.join()).await?;
    told.map_err(|_| "the host panicked")?.map_err(|e| e.to_string())?.map_err(Failure::from)?;
    pair.wait_in_step(PATIENCE).await?;
    pair.stop_and_compare().await?;
    Ok(Verdict::Passed)
}

/// The sixteen bytes of an NAA that is written as hexadecimal digits.
fn naa(text: &serde_json::Value) -> Result<Vec<u8>, Failure> {
    let text = text.as_str().ok_or("the LU has no NAA")?;
    let bytes = (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16));
    Ok(bytes.collect::<Result<_, _>>()?)
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at >> 9) as u8 ^ (at % 251) as u8 ^ seed).collect()
}

struct Host {
    session: Session,
}

const MIRRORED: Lun = Lun::ZERO;

fn plain() -> Lun {
    Lun::from_number(1).unwrap_or(Lun::ZERO)
}

/// THIRD-PARTY COPY OUT with a list identifier, and its parameter list.
fn out(action: u8, list: u8, parameters: &[u8]) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[9]) = (0x83, action, list);
    cdb[10..14].copy_from_slice(&(parameters.len() as u32).to_be_bytes());
    cdb
}

/// A token list: header, one range, and the lengths that say so.
fn with_range(mut header: Vec<u8>, lba: u64, blocks: u32) -> Vec<u8> {
    let at = header.len();
    header.extend(lba.to_be_bytes());
    header.extend(blocks.to_be_bytes());
    header.extend([0; 4]);
    header[at - 2..at].copy_from_slice(&16u16.to_be_bytes());
    let all = header.len() as u16 - 2;
    header[..2].copy_from_slice(&all.to_be_bytes());
    header
}

fn using(token: &[u8], lba: u64, blocks: u32) -> Vec<u8> {
    let mut header = vec![0; 536];
    header[16..528].copy_from_slice(token);
    with_range(header, lba, blocks)
}

impl Host {
    async fn send(&self, lun: Lun, cdb: [u8; 16], parameters: Vec<u8>) -> Result<Completion, SessionError> {
        expect_good(self.session.execute(lun, cdb, Transfer::Write(parameters.into())).await?)
    }

    /// RECEIVE ROD TOKEN INFORMATION.
    async fn information(&self, lun: Lun, list: u8) -> Result<Vec<u8>, SessionError> {
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[5], cdb[12]) = (0x84, 0x07, list, 0x10);
        let told = expect_good(self.session.execute(lun, cdb, Transfer::Read(0x1000)).await?)?;
        Ok(told.data.to_bytes().to_vec())
    }

    async fn check(&self, lba: u64, expected: &[u8], what: &str) -> Result<(), String> {
        for (index, part) in expected.chunks(1 << 20).enumerate() {
            let at = lba + (index << 20) as u64 / u64::from(BLOCK);
            let blocks = part.len() as u32 / BLOCK;
            let read = self.session.read(MIRRORED, at, blocks, BLOCK).await.map_err(|e| e.to_string())?;
            if read.to_bytes() != part {
                return Err(format!("{what}: other data at block {at}"));
            }
        }
        Ok(())
    }

    async fn fill(&self, lun: Lun, data: &[u8], block: u32) -> Result<(), SessionError> {
        for (index, part) in data.chunks(1 << 20).enumerate() {
            let at = (index << 20) as u64 / u64::from(block);
            self.session
                .write(lun, at, part.len() as u32 / block, Payload::from(part.to_vec()), false)
                .await?;
        }
        Ok(())
    }

    async fn token(&self, blocks: u32) -> Result<Vec<u8>, SessionError> {
        let list = with_range(vec![0; 16], 0, blocks);
        self.send(plain(), out(0x10, 1, &list), list).await?;
        let told = self.information(plain(), 1).await?;
        told.get(38..550).map(<[u8]>::to_vec).ok_or(SessionError::Malformed("RECEIVE ROD TOKEN INFORMATION"))
    }

    async fn copy(self: &Rc<Self>, shard: &Shard, names: [Vec<u8>; 2]) -> Result<(), String> {
        let wrong = |error: SessionError| error.to_string();
        self.session.ready(MIRRORED).await.map_err(wrong)?;
        self.session.ready(plain()).await.map_err(wrong)?;
        let data = pattern(1, 16 << 20);
        self.fill(plain(), &data, LARGE).await.map_err(wrong)?;

        // EXTENDED COPY of 8 MiB from blocks of 4096 to blocks of 512 bytes.
        let mut list = vec![0; 16];
        for name in names {
            list.extend([0xE4, 0, 0, 0, 1, 3, 0, 16]);
            list.extend(name);
            list.extend([0; 8]);
        }
        (list[0], list[3], list[11]) = (5, 64, 28);
        list.extend([0x02, 0, 0, 24, 0, 1, 0, 0, 0, 0, 0x08, 0x00]);
        list.extend(0u64.to_be_bytes());
        list.extend(1000u64.to_be_bytes());
        self.send(MIRRORED, out(0x00, 0, &list), list.clone()).await.map_err(wrong)?;
        self.check(1000, &data[..8 << 20], "EXTENDED COPY").await?;

        // WRITE USING TOKEN of 16 MiB.
        let token = self.token(4096).await.map_err(wrong)?;
        let list = using(&token, 65_536, 32_768);
        self.send(MIRRORED, out(0x11, 2, &list), list.clone()).await.map_err(wrong)?;
        self.check(65_536, &data, "WRITE USING TOKEN").await?;
        let told = self.information(MIRRORED, 2).await.map_err(wrong)?;
        if told[5] != 1 || told[16..24] != 32_768u64.to_be_bytes() {
            return Err(format!("16 MiB are not what is told: {told:02x?}"));
        }
        self.abort_in_the_middle(shard, &token).await?;

        // A token of data that has changed since gives nothing.
        self.session.write(plain(), 9, 1, vec![9; LARGE as usize].into(), false).await.map_err(wrong)?;
        match self.send(MIRRORED, out(0x11, 4, &list), list).await {
            Err(SessionError::Scsi { key: 5, asc: 0x23, ascq: 0x06, .. }) => {}
            other => return Err(format!("a revoked token: {other:?}")),
        }
        self.session.flush(MIRRORED).await.map_err(wrong)
    }

    /// After the answer to ABORT TASK a copy writes nothing any more: what is written then stays.
    async fn abort_in_the_middle(self: &Rc<Self>, shard: &Shard, token: &[u8]) -> Result<(), String> {
        let zeros = vec![0; 16 << 20];
        self.fill(MIRRORED, &zeros, BLOCK).await.map_err(|e| e.to_string())?;
        let list = using(token, 0, 32_768);
        let tag = self.session.new_tag();
        let cdb = out(0x11, 3, &list);
        let command = Command::new(tag, MIRRORED, cdb, Transfer::Write(list.into()));
        let (tell, told) = oneshot::channel();
        let host = self.clone();
        shard.spawn(async move {
            let _ = tell.send(host.session.execute_as(command).await);
        });
        // The copy is under way when the copy manager says so.
        let mut status = [0; 16];
        (status[0], status[1], status[5], status[13]) = (0x84, 0x05, 3, 0x40);
        for _ in 0..10_000 {
            let answer = self.session.execute(MIRRORED, status, Transfer::Read(0x40)).await;
            if expect_good(answer.map_err(|e| e.to_string())?).is_ok() {
                break;
            }
        }
        self.session.abort(tag).await.map_err(|e| e.to_string())?;
        let after = pattern(7, 16 << 20);
        self.fill(MIRRORED, &after, BLOCK).await.map_err(|e| e.to_string())?;
        let outcome = told.await.map_err(|e| e.to_string())?;
        self.check(0, &after, "after ABORT TASK").await?;
        match outcome {
            // It may have been faster than the abort.
            Err(SessionError::Aborted) | Ok(_) => Ok(()),
            Err(other) => Err(format!("an aborted copy: {other}")),
        }
    }
}
