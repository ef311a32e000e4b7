//! Portals: drain and undo, redirection, portal groups, discovery, host maps.

use super::*;
use crate::config::RedirectConfig;

fn drain(seconds: u16) -> Order {
    Order::DrainPortal { address: portal(3260).to_string(), drain: api::DrainPortal { seconds } }
}

fn resume() -> Order {
    Order::ResumePortal { address: portal(3260).to_string() }
}

fn redirect(at: &str, to: Option<SocketAddr>, permanent: bool) -> Order {
    let redirect = api::RedirectPortal { to, permanent };
    Order::RedirectPortal { address: at.into(), redirect }
}

#[test]
fn a_drained_portal_sends_its_hosts_away_and_serves_them_again() {
    with_unit(config(), async |_, lab| {
        lab.add_host(HOST, None, &[]).await;
        lab.add_host(OTHER, None, &[]).await;
        let mut obeys = lab.log_in(HOST, portal(3260)).await.expect("logs in");
        let mut stays = lab.log_in(OTHER, portal(3260)).await.expect("logs in");
        let mut elsewhere = lab.log_in(HOST, portal(3261)).await.expect("logs in");
        let answer = lab.obey(drain(10)).await.expect("drains");
        assert_eq!(answer["sessions"], 2);
        for host in [&mut obeys, &mut stays] {
            let message = host.message().await;
            assert_eq!((message.event.0, message.parameter3), (1, 10), "please log out within 10 s");
        }
        assert_eq!(lab.portals().await[0]["state"], "draining");
        obeys.log_out().await;
        assert!(lab.hosts.shard().connect(portal(3260)).await.is_err(), "who comes now is refused at once");
        let found = lab.discover(HOST, portal(3261)).await;
        assert_eq!(found[0].addresses, ["10.0.0.1:3261,2"], "nobody is told of it");
        assert!(lab.obey(drain(10)).await.is_err(), "it is draining already");
        let message = stays.message().await;
        assert_eq!((message.event.0, message.parameter2), (2, 2), "the connection is dropped");
        assert_eq!(stays.next().await, Ok(None));
        lab.until_portal("drained").await;
        assert!(elsewhere.ready().await.is_none_or(|(key, ..)| key == 6), "other portals are not concerned");
        lab.obey(resume()).await.expect("serves again");
        let mut back = lab.log_in(HOST, portal(3260)).await.expect("logs in again");
        back.ready().await;
        assert!(lab.obey(resume()).await.is_err(), "it serves already");
    });
}

#[test]
fn a_drain_ends_early_when_all_have_left_and_can_be_undone_before() {
    with_unit(config(), async |world, lab| {
        lab.add_host(HOST, None, &[]).await;
        let mut host = lab.log_in(HOST, portal(3260)).await.expect("logs in");
        lab.obey(drain(3600)).await.expect("drains");
        host.message().await;
        host.log_out().await;
        lab.until_portal("drained").await;
        assert!(world.now().since_start() < LONG, "not after an hour");
        lab.obey(resume()).await.expect("serves again");
        // Undone in the middle: who stayed may stay.
        let mut host = lab.log_in(HOST, portal(3260)).await.expect("logs in");
        lab.obey(drain(5)).await.expect("drains");
        host.message().await;
        lab.obey(resume()).await.expect("serves again");
        lab.shard.sleep(Duration::from_secs(20)).await;
        assert_eq!(lab.portals().await[0]["state"], "serving");
        host.ready().await;
    });
}

#[test]
fn what_cannot_be_drained_is_refused() {
    with_unit(config(), async |_, lab| {
        let other =
            Order::DrainPortal { address: "10.9.9.9:1".into(), drain: api::DrainPortal { seconds: 1 } };
        for order in [other, drain(0), drain(3601), resume()] {
            assert!(lab.obey(order).await.is_err());
        }
        let plan = lab.processor.obey(drain(7), true).await.expect("a plan");
        assert!(plan["plan"].as_str().is_some_and(|plan| plan.contains("7 s")), "{plan}");
        assert_eq!(lab.portals().await[0]["state"], "serving", "a dry run changes nothing");
    });
}

#[test]
fn logins_are_sent_elsewhere_by_configuration_and_by_order() {
    let mut config = config();
    config.portals[0].redirect = Some(RedirectConfig { to: portal(3261), permanent: true });
    with_unit(config, async |_, lab| {
        lab.add_host(HOST, None, &[]).await;
        let at = async |port| refused(lab.log_in(HOST, portal(port)).await);
        let moved =
            |address: &str, permanently| LoginError::Redirected { address: address.into(), permanently };
        assert_eq!(at(3260).await, moved("10.0.0.1:3261", true));
        let far: SocketAddr = "[fd00::7]:3260".parse().expect("an address");
        lab.obey(redirect(&portal(3260).to_string(), Some(far), false)).await.expect("an order");
        assert_eq!(at(3260).await, moved("[fd00::7]:3260", false), "an order goes before the configuration");
        lab.log_in(HOST, portal(3261)).await.expect("this portal takes logins");
        lab.obey(redirect("all", Some(far), true)).await.expect("an order");
        assert_eq!(at(3261).await, moved("[fd00::7]:3260", true));
        assert_eq!(lab.discover(HOST, portal(3261)).await.len(), 1, "discovery is answered where it asks");
        for (at, to) in [("10.0.0.1:3261", portal(3261)), ("10.9.9.9:1", far), ("all", portal(0))] {
            assert!(lab.obey(redirect(at, Some(to), false)).await.is_err(), "{at} to {to}");
        }
        assert!(
            lab.obey(redirect("10.0.0.1:3261", Some(portal(3260)), false)).await.is_err(),
            "which sends away itself"
        );
        lab.obey(redirect("all", None, false)).await.expect("undone");
        lab.obey(redirect(&portal(3260).to_string(), None, false)).await.expect("undone");
        lab.log_in(HOST, portal(3261)).await.expect("logs in");
        assert_eq!(at(3260).await, moved("10.0.0.1:3261", true), "the configuration holds again");
    });
}

#[test]
fn a_host_comes_in_by_its_portal_groups_and_is_told_of_no_others() {
    with_unit(config(), async |_, lab| {
        lab.add_host(HOST, None, &[2]).await;
        let error = refused(lab.log_in(HOST, portal(3260)).await);
        assert_eq!(error, LoginError::Refused(LoginStatus::AUTHORIZATION_FAILURE));
        lab.log_in(HOST, portal(3261)).await.expect("logs in");
        let found = lab.discover(HOST, portal(3260)).await;
        assert_eq!(found[0].addresses, ["10.0.0.1:3261,2"]);
        assert!(lab.discover(OTHER, portal(3260)).await.is_empty(), "who may see nothing is told nothing");
        let unknown = api::AddHost { iqn: OTHER.into(), chap: None, mutual: None, groups: vec![3] };
        assert!(lab.obey(Order::AddHost(unknown)).await.is_err(), "no portal has this group");
    });
}

fn proving(user: &str, own: &str, mutual: Option<(&str, &str)>) -> ChapLogin {
    let secret = |text: &str| Secret::new(text.as_bytes().to_vec());
    let mutual =
        mutual.map(|(user, text)| MutualChap { user: user.into(), secret: secret(text), random: [5; 33] });
    ChapLogin { user: user.into(), secret: secret(own), algorithms: Algorithm::ALL.to_vec(), mutual }
}

#[test]
fn discovery_has_credentials_of_its_own() {
    with_unit(config(), async |_, lab| {
        lab.add_host(HOST, Some(chap("host", "secret of the host")), &[]).await;
        let discovers = async |host: &str, login: Option<ChapLogin>| {
            lab.log_in_as(host, portal(3260), None, |config| config.chap = login).await
        };
        let failed = LoginError::Refused(LoginStatus::AUTHENTICATION_FAILURE);
        let own = || Some(proving("host", "secret of the host", None));
        discovers(HOST, own()).await.expect("a host proves itself as for its normal sessions");
        assert_eq!(refused(discovers(HOST, None).await), failed);
        discovers(OTHER, None).await.expect("who sees nothing need not prove anything");
        let set = api::SetDiscovery {
            chap: Some(chap("finder", "secret to discover")),
            mutual: Some(chap("east", "secret of this unit")),
        };
        let view = lab.obey(Order::SetDiscovery(set)).await.expect("set");
        assert!(view["chap"]["user"] == "finder" && !view.to_string().contains("secret"), "{view}");
        assert_eq!(refused(discovers(HOST, own()).await), failed, "the host's own secret is not asked for");
        assert_eq!(refused(discovers(OTHER, None).await), failed, "everybody is asked");
        let both = ("east", "secret of this unit");
        discovers(HOST, Some(proving("finder", "secret to discover", Some(both))))
            .await
            .expect("both prove it");
        let normal = proving("host", "secret of the host", None);
        let login =
            lab.log_in_as(HOST, portal(3260), Some(TARGET), |config| config.chap = Some(normal)).await;
        login.expect("normal sessions keep their own");
        let bad = api::SetDiscovery { chap: Some(chap("finder", "short")), mutual: None };
        assert!(lab.obey(Order::SetDiscovery(bad)).await.is_err());
        let shared = api::SetDiscovery {
            chap: Some(chap("finder", "secret to discover")),
            mutual: Some(chap("east", "secret of the host")),
        };
        assert!(lab.obey(Order::SetDiscovery(shared)).await.is_err(), "a host's secret proves no unit");
        let none = api::SetDiscovery { chap: None, mutual: None };
        lab.obey(Order::SetDiscovery(none)).await.expect("cleared");
        discovers(HOST, own()).await.expect("as before");
    });
}

#[test]
fn only_the_allowed_algorithms_are_taken() {
    let mut config = config();
    config.chap.algorithms = vec![Algorithm::Sha3, Algorithm::Sha256];
    with_unit(config, async |_, lab| {
        lab.add_host(HOST, Some(chap("host", "secret of the host")), &[]).await;
        let with = async |algorithms: &[Algorithm]| {
            let mut login = proving("host", "secret of the host", None);
            login.algorithms = algorithms.to_vec();
            lab.log_in_as(HOST, portal(3260), Some(TARGET), |config| config.chap = Some(login)).await
        };
        let _host = with(&[Algorithm::Md5, Algorithm::Sha256]).await.expect("what is allowed is found");
        let weak = refused(with(&[Algorithm::Md5, Algorithm::Sha1]).await);
        assert_eq!(weak, LoginError::Refused(LoginStatus::AUTHENTICATION_FAILURE));
        let sessions = lab.obey(Order::ListSessions).await.expect("sessions");
        assert_eq!(sessions["items"][0]["chap_user"], "host", "{sessions}");
    });
}

/// SPC-5, 5.14 and R-HOST-4: a host hears of every change of what it sees, before its next command does anything.
#[test]
fn hosts_hear_of_changes_of_their_map() {
    const LUNS_CHANGED: Option<(u8, u8, u8)> = Some((6, 0x3f, 0x0e));
    with_unit(config(), async |_, lab| {
        lab.add_host(HOST, None, &[]).await;
        let mut host = lab.log_in(HOST, portal(3260)).await.expect("logs in");
        while host.ready().await.is_some() {}
        lab.obey(lu("log")).await.expect("a LU");
        assert_eq!(host.ready().await, None, "a LU that it does not see is none of its business");
        let map = |host: &str| Order::MapLu {
            name: "log".into(),
            map: api::MapLu { host: host.into(), lun: Some(1) },
        };
        lab.obey(map(HOST)).await.expect("mapped");
        assert_eq!(host.ready().await, LUNS_CHANGED);
        assert_eq!(host.ready().await, None);
        lab.obey(map("any")).await.expect("mapped");
        assert_eq!(host.ready().await, None, "what others see is none of its business");
        let unmap = api::UnmapLu { host: HOST.into() };
        lab.obey(Order::UnmapLu { name: "log".into(), unmap }).await.expect("unmapped");
        assert_eq!(host.ready().await, LUNS_CHANGED);
    });
}
