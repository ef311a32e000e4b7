//! Bug classes of storage targets that only the whole storage processor shows (docs/design/bug-classes.md).

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use twinlun_block::Payload;
use twinlun_io::Shard;
use twinlun_io::sim::{World, WorldOptions};
use twinlun_iscsi::Encoder;
use twinlun_iscsi::names::Isid;
use twinlun_iscsi::pdu::{Cid, LoginRequest, Serial32, Stage, TaskTag, Tsih};
use twinlun_unit::Processor;
use twinlun_unit::admin::AdminServer;
use twinlun_unit::config::{self, Config};

const UNIT: [u8; 4] = [10, 0, 0, 1];
/// Logins at the same time, and connections in all.
const LOGINS: usize = 16;
const CONNECTIONS: usize = 24;

fn config() -> Config {
    let text = format!(
        "[unit]\nname = \"east\"\nstate_dir = \"east\"\n[[disk]]\npath = \"disk0\"\nsize = \"32MiB\"\n\
         [[portal]]\nlisten = \"10.0.0.1:3260\"\n[limits]\nlogins = {LOGINS}\nconnections = {CONNECTIONS}\n"
    );
    config::parse("east.toml".as_ref(), &text).expect("a good configuration")
}

/// A discovery login, which needs no host to be known.
fn login() -> Payload {
    let text = b"InitiatorName=iqn.1993-08.org.debian:01:host\0SessionType=Discovery\0";
    let mut encoder = Encoder::new();
    encoder.put(LoginRequest {
        transit: true,
        continues: false,
        current_stage: Stage::OPERATIONAL,
        next_stage: Stage::FULL_FEATURE,
        version_max: 0,
        version_min: 0,
        isid: Isid([0x80, 1, 2, 3, 4, 5]),
        tsih: Tsih(0),
        task_tag: TaskTag(1),
        cid: Cid(0),
        cmd_sn: Serial32(0),
        exp_stat_sn: Serial32(0),
        text: text.to_vec().into(),
    });
    let mut bytes = Payload::new();
    encoder.drain().for_each(|piece| bytes.push(piece));
    bytes
}

/// Whether somebody who comes now is answered with a Login Response of success.
async fn can_log_in(shard: &Shard) -> bool {
    let Ok(stream) = shard.connect(SocketAddr::from((UNIT, 3260))).await else { return false };
    if stream.send_all(&login()).await.is_err() {
        return false;
    }
    let mut answer = BytesMut::with_capacity(4096);
    while answer.len() < 48 {
        match shard.timeout(Duration::from_secs(5), stream.recv(&mut answer)).await {
            Ok(Ok(1..)) => {}
            _ => return false,
        }
    }
    // Opcode, and status class and detail.
    (answer[0], answer[36], answer[37]) == (0x23, 0, 0)
}

/// Connections that say nothing, or one byte now and then, are cut at the login timer, at most so many are kept meanwhile, and then
/// everybody is served again.
#[test]
fn bug_class_k_silent_strangers_are_bounded_and_cut_at_the_login_timer() {
    let world = World::new(1, WorldOptions::default());
    let unit = world.process("east", UNIT.into());
    let shard = unit.shard();
    unit.spawn(async move {
        let processor = Processor::start(shard, config(), None).await.expect("starts");
        std::future::pending::<()>().await;
        drop(processor);
    });
    world.run_for(Duration::from_secs(2)).expect("the world goes on");
    let strangers = world.process("strangers", [10, 0, 0, 9].into());
    let (open, cut) = (Rc::new(Cell::new(0usize)), Rc::new(RefCell::new(Vec::new())));
    for number in 0..60 {
        let (shard, open, cut) = (strangers.shard(), open.clone(), cut.clone());
        strangers.spawn(async move {
            let Ok(stream) = shard.connect(SocketAddr::from((UNIT, 3260))).await else { return };
            let began = shard.now();
            open.set(open.get() + 1);
            let mut nothing = BytesMut::with_capacity(64);
            loop {
                match shard.timeout(Duration::from_secs(1), stream.recv(&mut nothing)).await {
                    // A byte of a header, slowly: that is no login.
                    Err(_) if number % 2 == 0 => drop(stream.send_all(&Payload::from(vec![0x43])).await),
                    Err(_) => {}
                    Ok(_) => break,
                }
            }
            open.set(open.get() - 1);
            cut.borrow_mut().push(shard.now() - began);
        });
    }
    world.run_for(Duration::from_secs(5)).expect("the world goes on");
    assert!((1..=LOGINS).contains(&open.get()), "{} strangers hold a place", open.get());
    world.run_for(Duration::from_secs(12)).expect("the world goes on");
    assert_eq!(open.get(), 0, "the login timer has run");
    assert!(cut.borrow().iter().all(|time| *time < Duration::from_secs(17)), "{:?}", cut.borrow());
    let host = world.process("host", [10, 0, 0, 5].into());
    let (served, shard) = (Rc::new(Cell::new(false)), host.shard());
    let told = served.clone();
    host.spawn(async move { told.set(can_log_in(&shard).await) });
    world.run_for(Duration::from_secs(10)).expect("the world goes on");
    assert!(served.get(), "whoever comes afterwards is served");
}

/// Whoever may use the admin socket may do everything, so nobody but its owner and group may.
#[test]
fn bug_class_j_the_admin_socket_is_for_owner_and_group() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("admin.sock");
    let (server, _desk) = AdminServer::start(&socket).expect("starts");
    let mode = std::fs::metadata(&socket).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    server.stop();
    assert!(!socket.exists(), "it is taken away at the end");
}
