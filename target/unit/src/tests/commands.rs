//! SCSI rules that reach over several sessions and the array: QErr, operations on the whole medium, unit attentions of orders.

use twinlun_iscsi::initiator::Completion;
use twinlun_iscsi::pdu::ScsiStatus;

use super::*;

const BLOCKS: u32 = (8 << 20) / 512;

/// A CDB of up to 16 bytes.
fn cdb(bytes: &[u8]) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[..bytes.len()].copy_from_slice(bytes);
    cdb
}

impl Host {
    fn submit(&mut self, tag: u64, cdb: [u8; 16], transfer: Transfer) {
        let command = Command::new(tag, Lun::ZERO, cdb, transfer);
        assert_eq!(self.initiator.submit(command), Submitted::Accepted);
    }

    async fn completion(&mut self) -> Completion {
        match self.event().await.expect("no violation") {
            Event::Completed(completion) => completion,
            other => panic!("{other:?}"),
        }
    }

    async fn good(&mut self, bytes: &[u8], transfer: Transfer) -> Vec<u8> {
        self.submit(50, cdb(bytes), transfer);
        let completion = self.completion().await;
        assert!(completion.is_good(), "{bytes:02x?}: {completion:?}");
        completion.data.to_bytes().to_vec()
    }

    /// All unit attentions that wait.
    async fn attentions(&mut self) -> Vec<(u8, u8)> {
        let mut told = Vec::new();
        while let Some((key, asc, ascq)) = self.ready().await {
            assert_eq!(key, 6, "{asc:02x}/{ascq:02x}");
            told.push((asc, ascq));
        }
        told
    }
}

/// MODE SELECT (6) of the control page.
fn control(qerr: u8, tas: bool) -> (Vec<u8>, Transfer) {
    let tas = if tas { 0x40 } else { 0 };
    let list = vec![0, 0, 0, 0, 0x0A, 0x0A, 0x02, 0x10 | qerr << 1, 0, tas, 0, 0, 0xFF, 0xFF, 0, 0];
    (vec![0x15, 0x10, 0, 0, 16, 0], Transfer::Write(list.into()))
}

async fn two_hosts(lab: &Lab) -> (Host, Host) {
    lab.add_host(HOST, None, &[]).await;
    lab.add_host(OTHER, None, &[]).await;
    let mut hosts = Vec::new();
    for name in [HOST, OTHER] {
        let mut host = lab.log_in(name, portal(3260)).await.expect("logs in");
        host.attentions().await;
        hosts.push(host);
    }
    let other = hosts.pop().expect("two");
    (hosts.pop().expect("two"), other)
}

#[test]
fn qerr_ends_the_writes_of_others_before_the_failed_command_is_answered() {
    for tas in [false, true] {
        with_unit(config(), async |_, lab| {
            let (mut fails, mut writes) = two_hosts(lab).await;
            let (select, list) = control(1, tas);
            fails.good(&select, list).await;
            assert_eq!(writes.attentions().await, [(0x2A, 0x01)]);
            // Writes of the whole LU, one after the other below SCSI: most of them are under way for long.
            for tag in 1..=4 {
                let same = cdb::write_same_16(0, BLOCKS, false, false);
                writes.submit(tag, same, Transfer::Write(vec![tag as u8; 512].into()));
            }
            writes.send().await;
            lab.shard.sleep(Duration::from_millis(2)).await;
            fails.submit(9, cdb::read_16(u64::MAX, 1, false), Transfer::Read(512));
            let failed = fails.completion().await;
            assert_eq!((failed.sense[2], failed.sense[12]), (5, 0x21));
            // What is written now stays, whatever was under way.
            fails.submit(10, cdb::write_16(0, 1, false), Transfer::Write(vec![0xEE; 512].into()));
            assert!(fails.completion().await.is_good());
            lab.shard.sleep(Duration::from_secs(5)).await;
            fails.submit(11, cdb::read_16(0, 1, false), Transfer::Read(512));
            assert_eq!(fails.completion().await.data.to_bytes(), vec![0xEE; 512]);
            if tas {
                for _ in 1..=4 {
                    assert_eq!(writes.completion().await.status, ScsiStatus(0x40), "TASK ABORTED");
                }
                assert_eq!(writes.attentions().await, []);
            } else {
                // No status for the aborted; the next command tells.
                assert_eq!(writes.attentions().await, [(0x2F, 0x00)]);
            }
        });
    }
}

#[test]
fn formatting_clears_the_lu_and_lets_hosts_watch() {
    with_unit(config(), async |_, lab| {
        let (mut a, mut b) = two_hosts(lab).await;
        a.submit(1, cdb::write_16(7, 1, false), Transfer::Write(vec![0xEE; 512].into()));
        assert!(a.completion().await.is_good());
        // FMTDATA, and IMMED in the parameter list.
        a.good(&[0x04, 0x10, 0, 0, 0, 0], Transfer::Write(vec![0, 0x02, 0, 0].into())).await;
        assert_eq!(b.ready().await, Some((2, 0x04, 0x04)), "FORMAT IN PROGRESS");
        while b.ready().await.is_some() {
            lab.shard.sleep(Duration::from_millis(10)).await;
        }
        b.submit(2, cdb::read_16(7, 1, false), Transfer::Read(512));
        assert_eq!(b.completion().await.data.to_bytes(), vec![0; 512]);
        // Without IMMED the answer is the end.
        a.good(&[0x04, 0, 0, 0, 0, 0], Transfer::None).await;
        assert_eq!(b.ready().await, None);
    });
}

#[test]
fn hosts_hear_of_every_change_of_their_map() {
    with_unit(config(), async |_, lab| {
        let (mut a, mut b) = two_hosts(lab).await;
        lab.obey(lu("more")).await.expect("a LU");
        let map = |host: &str, lun: u16| api::MapLu { host: host.into(), lun: Some(lun) };
        let order = Order::MapLu { name: "more".into(), map: map(HOST, 1) };
        lab.obey(order).await.expect("mapped");
        assert_eq!(a.attentions().await, [(0x3F, 0x0E)]);
        assert_eq!(b.attentions().await, [], "its map is as it was");
        let luns = a.good(&[0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], Transfer::Read(256)).await;
        assert_eq!(luns[..4], [0, 0, 0, 16]);
        let order = Order::UnmapLu { name: "more".into(), unmap: api::UnmapLu { host: HOST.into() } };
        lab.obey(order).await.expect("unmapped");
        assert_eq!(a.attentions().await, [(0x3F, 0x0E)]);
    });
}
