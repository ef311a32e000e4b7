//! The initiator and the load generator against the real protocol engine of the target: simulated, and once for figures.

mod ram;

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use ram::{BLOCK, Ram, TARGET};
use twinlun::initiator::{Session, SessionError, discover};
use twinlun::load::{LoadArgs, LoadError, Report, load};
use twinlun_block::Payload;
use twinlun_io::Shard;
use twinlun_io::sim::{World, WorldOptions};
use twinlun_iscsi::initiator::{InitiatorConfig, SessionKind, Transfer, cdb};
use twinlun_iscsi::pdu::{Isid, Lun, ScsiStatus};

const LIMIT: Duration = Duration::from_secs(10);

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    load: LoadArgs,
}

fn args(words: &str) -> LoadArgs {
    let url = format!("iscsi://10.0.0.2/{TARGET}/0");
    Line::parse_from(["load", &url].into_iter().chain(words.split_whitespace())).load
}

/// Runs `main` on the host of a world that has a RAM target in it.
fn simulated<F: Future + 'static>(
    seed: u64,
    lose_every: u64,
    main: impl FnOnce(Shard, SocketAddr) -> F,
) -> F::Output
where
    F::Output: 'static,
{
    let world = World::new(seed, WorldOptions::default());
    let array = world.process("array", [10, 0, 0, 2].into());
    let address = SocketAddr::from(([10, 0, 0, 2], 3260));
    let shard = array.shard();
    array.spawn(async move {
        let listener = shard.listen(address).await.expect("a free port");
        Ram::new(4 << 20, address, lose_every).serve(shard.clone(), listener).await;
    });
    let host = world.process("host", [10, 0, 0, 1].into());
    let main = main(host.shard(), address);
    let shard = world.shard();
    world
        .run(async move {
            shard.sleep(Duration::from_millis(10)).await;
            main.await
        })
        .expect("the world comes to an end")
}

fn config() -> InitiatorConfig {
    let session = SessionKind::Normal { target: TARGET.parse().unwrap() };
    InitiatorConfig::new("iqn.2026-11.io.twinlun:host".parse().unwrap(), Isid::random([7; 3], 0), session)
}

#[test]
fn a_session_reads_what_it_wrote() {
    for seed in 0..20 {
        simulated(seed, 0, async |shard, address| {
            let session = Session::connect(&shard, address, config(), LIMIT).await.unwrap();
            session.ready(Lun::ZERO).await.unwrap();
            assert_eq!(session.capacity(Lun::ZERO).await.unwrap(), ((4 << 20) / BLOCK as u64, BLOCK as u32));
            // Long enough for immediate, unsolicited and solicited data and for several Data-In.
            let data: Payload = (0..2_000 * BLOCK).map(|i| (i % 241) as u8).collect::<Vec<_>>().into();
            session.write(Lun::ZERO, 5, 2000, data.clone(), false).await.unwrap();
            assert_eq!(session.read(Lun::ZERO, 5, 2000, BLOCK as u32).await.unwrap(), data);
            session.flush(Lun::ZERO).await.unwrap();
            assert_eq!(session.ping(vec![1, 2, 3].into()).await.unwrap(), vec![1, 2, 3].into());
            let beyond = session.read(Lun::ZERO, 1 << 40, 1, BLOCK as u32).await.unwrap_err();
            let status = ScsiStatus::CHECK_CONDITION;
            assert_eq!(beyond, SessionError::Scsi { status, key: 5, asc: 0x21, ascq: 0 });
            let wrong = session.execute(Lun::ZERO, cdb::report_luns(16), Transfer::Read(16)).await.unwrap();
            assert_eq!((wrong.status, wrong.data.len()), (status, 0));
            session.logout().await.unwrap();
            assert_eq!(session.ping(Payload::new()).await.unwrap_err(), SessionError::LoggedOut);
        });
    }
}

#[test]
fn discovery_finds_the_target() {
    simulated(1, 0, async |shard, address| {
        let config = InitiatorConfig { session: SessionKind::Discovery, ..config() };
        let targets = discover(&shard, address, config, LIMIT).await.unwrap();
        assert_eq!(targets.len(), 1);
        assert_eq!(
            (targets[0].name.as_str(), &targets[0].addresses[..]),
            (TARGET, &["10.0.0.2:3260,1".to_owned()][..])
        );
    });
}

#[test]
fn a_wrong_target_is_refused() {
    simulated(1, 0, async |shard, address| {
        let session = SessionKind::Normal { target: "iqn.2026-11.io.twinlun:other".parse().unwrap() };
        let refused = Session::connect(&shard, address, InitiatorConfig { session, ..config() }, LIMIT).await;
        let error = refused.err().expect("there is no such target").to_string();
        assert!(error.contains("NOT_FOUND"), "{error}");
    });
}

fn simulated_load(seed: u64, lose_every: u64, words: &str) -> Result<Report, LoadError> {
    let args = args(words);
    simulated(seed, lose_every, async move |shard, address| load(&shard, address, None, &args).await)
}

#[test]
fn verified_load_finds_nothing_wrong_with_an_honest_target() {
    for (seed, words) in [
        (1, "--connections 3 --depth 8 --read 50"),
        (2, "--connections 2 --depth 4 --read 30 --order sequential --block-size 512B"),
        (3, "--depth 16 --read 0 --block-size 64KiB --data-digest --header-digest"),
    ] {
        let report = simulated_load(seed, 0, &format!("--verify --time 300ms --warm-up 0s {words}")).unwrap();
        assert!(report.errors == 0 && report.writes > 20, "{report:?}");
        assert!(report.verified.unwrap() > 20, "{report:?}");
    }
}

#[test]
fn verified_load_finds_lost_writes() {
    for seed in 0..5 {
        let words = "--verify --time 300ms --warm-up 0s --depth 8 --read 50 --size 1MiB";
        let found = simulated_load(seed, 10, words).unwrap_err();
        assert!(matches!(found, LoadError::Mismatch { .. }), "{found}");
    }
}

#[test]
fn the_range_is_respected() {
    let outside = simulated_load(1, 0, "--offset 4MiB --size 4KiB --time 1s").unwrap_err();
    assert!(matches!(outside, LoadError::Arguments(_)), "{outside}");
    let odd = simulated_load(1, 0, "--block-size 1000B --time 1s").unwrap_err();
    assert!(matches!(odd, LoadError::Arguments(_)), "{odd}");
    simulated_load(1, 0, "--offset 4092KiB --size 4KiB --time 100ms --warm-up 0s").unwrap();
}
