//! Which logins replace which sessions, and what ends them all.

use twinlun_iscsi::pdu::{TaskFunction, TaskResponseCode};

use super::*;

impl Lab {
    /// Initiator and portal of each session.
    async fn sessions(&self) -> Vec<(String, String)> {
        let answer = self.obey(Order::ListSessions).await.expect("sessions");
        let text = |session: &Value, key: &str| session[key].as_str().unwrap_or_default().to_owned();
        let items = answer["items"].as_array().expect("a list");
        items.iter().map(|session| (text(session, "initiator"), text(session, "portal"))).collect()
    }

    /// As `log_in_as`, with the same ISID wherever it logs in.
    async fn with_one_isid(&self, host: &str, at: SocketAddr, target: Option<&str>) -> Host {
        let login = self.log_in_as(host, at, target, |config| config.isid = Isid([0x80, 7, 7, 7, 7, 7]));
        login.await.expect("logs in")
    }
}

/// Two portals of one group, and one of another.
fn three_portals() -> Config {
    let mut config = config();
    config.portals =
        [(3260, 1), (3261, 1), (3262, 2)].map(|(port, group)| PortalConfig::new(portal(port), group)).into();
    config
}

/// RFC 7143, 7.4.2.1: by initiator, ISID and the address that was connected to.
#[test]
fn discovery_sessions_without_a_target_are_told_apart_by_address() {
    with_unit(three_portals(), async |_, lab| {
        lab.add_host(HOST, None, &[]).await;
        let mut first = lab.with_one_isid(HOST, portal(3260), None).await;
        let _second = lab.with_one_isid(HOST, portal(3261), None).await;
        let _third = lab.with_one_isid(HOST, portal(3262), None).await;
        let mut normal = lab.with_one_isid(HOST, portal(3260), Some(TARGET)).await;
        lab.add_host(OTHER, None, &[]).await;
        let _other = lab.with_one_isid(OTHER, portal(3260), None).await;
        assert_eq!(lab.sessions().await.len(), 5, "none of them replaces another");
        let mut again = lab.with_one_isid(HOST, portal(3260), None).await;
        assert_eq!(first.next().await, Ok(None), "the same address: it is replaced");
        assert_eq!(lab.sessions().await.len(), 5);
        assert_eq!(again.initiator.send_targets(1, "All"), Submitted::Accepted);
        assert!(matches!(again.event().await, Ok(Event::Targets { .. })));
        normal.ready().await;
    });
}

/// RFC 7143, 6.3.5 and 7.15: the same initiator port, target and portal group, by whichever portal. Its nexus is lost.
#[test]
fn a_second_login_of_an_initiator_port_replaces_the_session() {
    with_unit(three_portals(), async |world, lab| {
        lab.add_host(HOST, None, &[]).await;
        let mut first = lab.with_one_isid(HOST, portal(3260), Some(TARGET)).await;
        while first.ready().await.is_some() {}
        let mut elsewhere = lab.with_one_isid(HOST, portal(3262), Some(TARGET)).await;
        while elsewhere.ready().await.is_some() {}
        // A reservation of the old nexus, and a command that the new session must not meet.
        let mut reserve = [0; 16];
        reserve[0] = 0x16;
        let reserve = Command::new(2, Lun::ZERO, reserve, Transfer::None);
        assert_eq!(first.initiator.submit(reserve), Submitted::Accepted);
        assert!(matches!(first.event().await, Ok(Event::Completed(done)) if done.is_good()));
        for disk in ["east/0", "east/1"] {
            world.disk(disk).stall(Duration::from_secs(3));
        }
        let write = Transfer::Write(vec![7; 512].into());
        let write = Command::new(3, Lun::ZERO, cdb::write_16(0, 1, true), write);
        assert_eq!(first.initiator.submit(write), Submitted::Accepted);
        first.send().await;
        let begun = world.now();
        lab.shard.sleep(Duration::from_millis(500)).await;
        let mut second = lab.with_one_isid(HOST, portal(3261), Some(TARGET)).await;
        assert!(world.now() - begun >= Duration::from_secs(3), "its command has ended before the login does");
        assert_eq!(first.next().await, Ok(None), "without a word");
        let (at, other) = (portal(3261).to_string(), portal(3262).to_string());
        let expected = [(HOST.into(), other), (HOST.into(), at)];
        assert_eq!(lab.sessions().await, expected, "that of another portal group lives");
        while second.ready().await.is_some() {}
        assert_eq!(elsewhere.ready().await, None, "the reservation went with its nexus");
    });
}

/// RFC 7143, 11.5.1: all sessions of everybody, discovery and logins among them.
#[test]
fn a_cold_reset_ends_all_connections_of_all_initiators() {
    with_unit(three_portals(), async |_, lab| {
        lab.add_host(HOST, None, &[]).await;
        lab.add_host(OTHER, None, &[]).await;
        let mut issuer = lab.log_in(HOST, portal(3260)).await.expect("logs in");
        let mut own = lab.log_in(HOST, portal(3262)).await.expect("logs in");
        let mut other = lab.log_in(OTHER, portal(3261)).await.expect("logs in");
        let mut discovery = lab.log_in_as(OTHER, portal(3261), None, |_| {}).await.expect("logs in");
        let silent = lab.hosts.shard().connect(portal(3260)).await.expect("the portal is open");
        issuer.ready().await;
        let reset = issuer.initiator.manage_lun(5, TaskFunction::TARGET_COLD_RESET, Lun::ZERO);
        assert_eq!(reset, Submitted::Accepted);
        let answer = issuer.event().await.expect("no violation");
        let complete = TaskResponseCode::COMPLETE;
        assert!(
            matches!(answer, Event::TaskManagement { response, .. } if response == complete),
            "{answer:?}"
        );
        for host in [&mut issuer, &mut own, &mut other, &mut discovery] {
            assert_eq!(host.next().await, Ok(None));
        }
        let mut bytes = bytes::BytesMut::with_capacity(64);
        assert!(matches!(silent.recv(&mut bytes).await, Ok(0) | Err(_)), "who has not logged in yet as well");
        assert_eq!(lab.sessions().await, []);
        let mut back = lab.log_in(OTHER, portal(3261)).await.expect("logs in again");
        assert!(matches!(back.ready().await, Some((6, 0x29, _))), "and hears of the reset");
    });
}
