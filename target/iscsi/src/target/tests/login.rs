//! Login scenarios.

use core::time::Duration;

use super::harness::*;
use crate::chap::Algorithm;
use crate::login::LoginStatus;
use crate::negotiate::Parameters;
use crate::pdu::{
    self, LoginRequest, LoginResponse, NopOut, Response, Serial32, Stage, TaskTag, TransferTag,
};
use crate::target::{CloseReason, DigestPolicy, Event, SessionType, Tsih};
use crate::text;
use twinlun_block::Payload;

const SECURITY: Stage = Stage::SECURITY;
const OPERATIONAL: Stage = Stage::OPERATIONAL;
const FULL: Stage = Stage::FULL_FEATURE;

fn names() -> String {
    format!("InitiatorName={HOST} TargetName={TARGET}")
}

fn host() -> Host {
    Host::new(Fixture::default(), |_| {})
}

fn answer(host: &mut Host, request: LoginRequest) -> LoginResponse {
    host.send(request);
    match host.receive_one() {
        Response::Login(response) => response,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused(host: &mut Host, request: LoginRequest, status: LoginStatus) {
    let response = answer(host, request);
    assert_eq!(response.status, pdu::LoginStatus(status as u16));
    assert!(matches!(host.event(), Some(Event::Closed(CloseReason::LoginRefused(s))) if s == status));
    assert!(host.connection.is_closing());
}

/// A first request with this header, refused.
#[track_caller]
fn header_refused(change: impl FnOnce(&mut LoginRequest), status: LoginStatus) {
    let mut request = login(SECURITY, None, &names());
    change(&mut request);
    refused(&mut host(), request, status);
}

#[test]
fn one_request_is_enough() {
    let mut host = Host::new(Fixture { alias: Some("the east array"), ..Fixture::default() }, |_| {});
    host.send(login(OPERATIONAL, Some(FULL), &format!("{} MaxBurstLength=4096 InitiatorAlias=web", names())));
    let Some(Event::SessionReady(session)) = host.connection.poll_event() else { panic!("no session") };
    assert_eq!(session.subject.initiator, name(HOST));
    assert_eq!(session.subject.target, Some(name(TARGET)));
    assert_eq!((session.subject.isid, session.subject.portal_group, session.cid), (ISID, 1, 3));
    assert_eq!(session.parameters.max_burst, 4096);
    assert_eq!(session.initiator_alias.as_deref(), Some("web"));
    assert_eq!(session.authenticated_as, None);
    host.connection.admit(Tsih::new(77).unwrap(), host.now, &host.fixture);
    let Response::Login(response) = host.receive_one() else { panic!() };
    assert!(response.transit && response.status.is_success());
    assert_eq!(
        (response.current_stage, response.next_stage, response.tsih),
        (OPERATIONAL, FULL, pdu::Tsih(77))
    );
    assert_eq!(response.exp_cmd_sn, Serial32(FIRST_CMD_SN));
    let answers = words(&response.text);
    assert_eq!(
        answers,
        "TargetPortalGroupTag=1 MaxBurstLength=4096 MaxRecvDataSegmentLength=262144 TargetAlias=the east array"
    );
}

#[test]
fn both_stages_without_authentication() {
    let mut host = host();
    let first =
        answer(&mut host, login(SECURITY, Some(OPERATIONAL), &format!("{} AuthMethod=CHAP,None", names())));
    assert_eq!(words(&first.text), "TargetPortalGroupTag=1 AuthMethod=None");
    assert!(first.transit);
    assert_eq!((first.next_stage, first.tsih), (OPERATIONAL, pdu::Tsih(0)));
    let second = answer(&mut host, login(OPERATIONAL, None, "HeaderDigest=None"));
    assert_eq!(words(&second.text), "HeaderDigest=None MaxRecvDataSegmentLength=262144");
    assert!(!second.transit);
    host.send(login(OPERATIONAL, Some(FULL), ""));
    assert_eq!(host.admit().text.len(), 0);
}

#[test]
fn from_security_straight_to_full_feature() {
    let mut host = host();
    host.send(login(SECURITY, Some(FULL), &names()));
    let response = host.admit();
    assert_eq!((response.current_stage, response.next_stage), (SECURITY, FULL));
    // Nothing was declared, so the default of 8192 binds the initiator.
    assert_eq!(host.connection.parameters().unwrap().target_max_recv, 8192);
}

fn chap(host: &mut Host, algorithm: &str, mutual: &str) -> LoginResponse {
    let first = answer(host, login(SECURITY, Some(OPERATIONAL), &format!("{} AuthMethod=CHAP", names())));
    assert_eq!(words(&first.text), "TargetPortalGroupTag=1 AuthMethod=CHAP");
    assert!(!first.transit, "not before the proof");
    let second = answer(host, login(SECURITY, None, &format!("CHAP_A={algorithm}")));
    let pairs = text::pairs(&second.text).unwrap();
    let value = |key| pairs.iter().find(|pair| pair.key == key).expect("the key").value;
    let number = Algorithm::from_number(text::number(value("CHAP_A")).unwrap()).unwrap();
    let identifier = text::number(value("CHAP_I")).unwrap() as u8;
    let challenge = text::binary(value("CHAP_C"), 1024).unwrap();
    let secret = crate::chap::Secret::new(b"correct horse battery".to_vec());
    let response = text::hex(&number.respond(identifier, &secret, &challenge));
    answer(host, login(SECURITY, Some(OPERATIONAL), &format!("CHAP_N=host CHAP_R={response}{mutual}")))
}

#[test]
fn chap_one_way_and_mutual() {
    let mut host = Host::new(Fixture::with_chap(false), |_| {});
    let last = chap(&mut host, "7,5", "");
    assert!(last.transit && last.text.is_empty());
    host.send(login(OPERATIONAL, Some(FULL), ""));
    let Some(Event::SessionReady(session)) = host.event() else { panic!() };
    assert_eq!(session.authenticated_as.as_deref(), Some("host"));

    let mut host = Host::new(Fixture::with_chap(true), |_| {});
    let last = chap(&mut host, "5", " CHAP_I=200 CHAP_C=0x0102030405060708");
    assert!(last.transit);
    assert!(words(&last.text).starts_with("CHAP_N=array CHAP_R=0x"));
}

#[test]
fn chap_failures_are_one_status() {
    for fixture in [false, true] {
        let mut host = Host::new(Fixture::with_chap(fixture), |_| {});
        answer(&mut host, login(SECURITY, None, &format!("{} AuthMethod=CHAP", names())));
        answer(&mut host, login(SECURITY, None, "CHAP_A=5"));
        let wrong =
            login(SECURITY, Some(OPERATIONAL), "CHAP_N=host CHAP_R=0x00112233445566778899aabbccddeeff");
        refused(&mut host, wrong, LoginStatus::AuthenticationFailure);
    }
    // No common algorithm; a method that proves nothing; a proof out of turn; none at all.
    let refuse_after = |pairs: &str| {
        let mut host = Host::new(Fixture::with_chap(false), |_| {});
        answer(&mut host, login(SECURITY, None, &format!("{} AuthMethod=CHAP", names())));
        refused(&mut host, login(SECURITY, None, pairs), LoginStatus::AuthenticationFailure);
    };
    refuse_after("CHAP_A=1,2");
    refuse_after("CHAP_N=host CHAP_R=0x00");
    let refuse = |request| {
        refused(
            &mut Host::new(Fixture::with_chap(false), |_| {}),
            request,
            LoginStatus::AuthenticationFailure,
        );
    };
    refuse(login(SECURITY, None, &format!("{} AuthMethod=None", names())));
    refuse(login(SECURITY, None, &format!("{} AuthMethod=SRP,KRB5", names())));
    refuse(login(OPERATIONAL, Some(FULL), &names()));
    refused(
        &mut host(),
        login(SECURITY, None, &format!("{} AuthMethod=CHAP", names())),
        LoginStatus::AuthenticationFailure,
    );
}

#[test]
fn the_target_names_chap_when_the_initiator_does_not() {
    let mut host = Host::new(Fixture::with_chap(false), |_| {});
    let first = answer(&mut host, login(SECURITY, Some(OPERATIONAL), &names()));
    assert_eq!(words(&first.text), "TargetPortalGroupTag=1 AuthMethod=CHAP");
    assert!(!first.transit);
    let second = answer(&mut host, login(SECURITY, None, "AuthMethod=CHAP CHAP_A=7"));
    assert!(words(&second.text).starts_with("CHAP_A=7 CHAP_I="), "an answer is not answered");
    let mut host = Host::new(Fixture::with_chap(false), |_| {});
    answer(&mut host, login(SECURITY, Some(OPERATIONAL), &names()));
    refused(&mut host, login(SECURITY, Some(OPERATIONAL), ""), LoginStatus::AuthenticationFailure);
}

#[test]
fn headers_are_checked() {
    header_refused(|r| r.version_min = 1, LoginStatus::UnsupportedVersion);
    header_refused(|r| r.current_stage = FULL, LoginStatus::InitiatorError);
    header_refused(|r| r.current_stage = Stage(2), LoginStatus::InitiatorError);
    header_refused(|r| (r.transit, r.next_stage) = (true, SECURITY), LoginStatus::InitiatorError);
    header_refused(|r| (r.transit, r.next_stage) = (true, Stage(2)), LoginStatus::InitiatorError);
    header_refused(
        |r| (r.transit, r.continues, r.next_stage) = (true, true, FULL),
        LoginStatus::InitiatorError,
    );
    header_refused(|r| r.tsih = pdu::Tsih(5), LoginStatus::SessionDoesNotExist);
}

#[test]
fn a_further_connection_negotiates_for_itself_alone() {
    let session =
        Parameters { max_burst: 4096, first_burst: 2048, max_connections: 4, ..Parameters::default() };
    let mut host = Host::new(Fixture { sessions: vec![(5, session)], ..Fixture::default() }, |_| {});
    let text = format!(
        "{} MaxRecvDataSegmentLength=1024 HeaderDigest=CRC32C MaxBurstLength=512 MaxConnections=9",
        names()
    );
    let request = LoginRequest { tsih: pdu::Tsih(5), ..login(OPERATIONAL, Some(FULL), &text) };
    host.send(request);
    let Some(Event::SessionReady(ready)) = host.event() else { panic!("{:?}", host.receive()) };
    assert_eq!(ready.tsih, Tsih::new(5));
    let expected =
        Parameters { initiator_max_recv: 1024, target_max_recv: 262_144, header_digest: true, ..session };
    assert_eq!(ready.parameters, expected, "the session's part is what it was");
}

#[test]
fn a_higher_version_max_is_fine() {
    let mut host = host();
    let response = answer(&mut host, LoginRequest { version_max: 3, ..login(SECURITY, None, &names()) });
    assert_eq!((response.version_max, response.version_active), (0, 0));
    assert!(response.status.is_success());
}

#[test]
fn later_requests_repeat_the_first_ones_header() {
    for change in [
        (|r| r.isid = pdu::Isid([0; 6])) as fn(&mut LoginRequest),
        |r| r.tsih = pdu::Tsih(1),
        |r| r.cid = pdu::Cid(4),
        |r| r.version_max = 1,
        |r| r.current_stage = OPERATIONAL,
    ] {
        let mut host = host();
        answer(&mut host, login(SECURITY, None, &names()));
        let mut request = login(SECURITY, None, "");
        change(&mut request);
        refused(&mut host, request, LoginStatus::InitiatorError);
    }
}

#[test]
fn stages_do_not_go_back() {
    let mut host = host();
    answer(&mut host, login(SECURITY, Some(OPERATIONAL), &names()));
    refused(&mut host, login(SECURITY, None, ""), LoginStatus::InitiatorError);
}

#[test]
fn parameters_that_must_be_there() {
    let missing =
        |pairs: &str| refused(&mut host(), login(SECURITY, None, pairs), LoginStatus::MissingParameter);
    missing("");
    missing(&format!("TargetName={TARGET}"));
    missing(&format!("InitiatorName={HOST}"));
    let mut discovery = host();
    let response =
        answer(&mut discovery, login(SECURITY, None, &format!("InitiatorName={HOST} SessionType=Discovery")));
    assert!(response.status.is_success());
}

#[test]
fn names_and_types_are_checked() {
    let refuse = |pairs: String, status| refused(&mut host(), login(SECURITY, None, &pairs), status);
    refuse(format!("InitiatorName=../etc/passwd TargetName={TARGET}"), LoginStatus::InitiatorError);
    refuse(format!("InitiatorName={HOST} TargetName=disk"), LoginStatus::InitiatorError);
    refuse(format!("InitiatorName={HOST} TargetName=iqn.2026-11.io.twinlun:west"), LoginStatus::NotFound);
    refuse(
        format!("InitiatorName=iqn.2026-11.io.other TargetName={TARGET}"),
        LoginStatus::AuthorizationFailure,
    );
    refuse(format!("{} SessionType=Fast", names()), LoginStatus::SessionTypeNotSupported);
}

#[test]
fn a_key_twice_or_out_of_its_stage_ends_the_login() {
    let refuse =
        |stage, pairs: String| refused(&mut host(), login(stage, None, &pairs), LoginStatus::InitiatorError);
    refuse(SECURITY, format!("{} InitiatorName={HOST}", names()));
    refuse(SECURITY, format!("{} HeaderDigest=None", names()));
    refuse(SECURITY, format!("{} SendTargets=All", names()));
    refuse(OPERATIONAL, format!("{} AuthMethod=None", names()));
    refuse(OPERATIONAL, format!("{} MaxBurstLength=512 MaxBurstLength=512", names()));
    refuse(OPERATIONAL, format!("{} TargetPortalGroupTag=1", names()));
    for stage in [SECURITY, OPERATIONAL] {
        for again in
            [format!("InitiatorName={HOST}"), format!("TargetName={TARGET}"), "SessionType=Normal".into()]
        {
            let mut host = host();
            answer(&mut host, login(stage, None, &names()));
            refused(&mut host, login(stage, None, &again), LoginStatus::InitiatorError);
        }
    }
    // Also across stages.
    let mut host = host();
    answer(&mut host, login(SECURITY, Some(OPERATIONAL), &format!("{} InitiatorAlias=a", names())));
    refused(&mut host, login(OPERATIONAL, None, "InitiatorAlias=b"), LoginStatus::InitiatorError);
}

#[test]
fn text_may_come_in_pieces() {
    let mut host = host();
    let whole = format!("{} AuthMethod=None", names()).replace(' ', "\0") + "\0";
    let (left, right) = whole.as_bytes().split_at(40);
    let piece = |text: &[u8], continues| LoginRequest {
        continues,
        text: text.to_vec().into(),
        ..login(SECURITY, None, "")
    };
    let empty = answer(&mut host, piece(left, true));
    assert!(empty.text.is_empty() && !empty.transit && !empty.continues && empty.status.is_success());
    let response = answer(&mut host, piece(right, false));
    assert_eq!(words(&response.text), "TargetPortalGroupTag=1 AuthMethod=None");
}

/// Class A and CVE-2026-63887: a flood of continued text, of keys, or of requests ends the login, with bounded memory.
#[test]
fn bug_class_a_floods_end_the_login() {
    let mut flooded = host();
    let full = LoginRequest { continues: true, text: vec![b'a'; 8192].into(), ..login(SECURITY, None, "") };
    for _ in 0..8 {
        assert!(answer(&mut flooded, full.clone()).status.is_success());
    }
    refused(&mut flooded, full, LoginStatus::InitiatorError);

    let keys = "a=b ".repeat(2000);
    refused(&mut host(), login(SECURITY, None, &keys), LoginStatus::InitiatorError);

    let mut slow = host();
    let nothing = LoginRequest { continues: true, ..login(SECURITY, None, "") };
    for _ in 0..64 {
        assert!(answer(&mut slow, nothing.clone()).status.is_success());
    }
    refused(&mut slow, nothing, LoginStatus::InitiatorError);
}

/// CVE-2026-90011: text that fills its segment to the last byte without a terminator.
#[test]
fn bug_class_a_unterminated_text_is_refused() {
    let mut text = names().replace(' ', "\0").into_bytes();
    text.extend_from_slice(b"\0X-fill=");
    text.resize(8192, b'x');
    let request = LoginRequest { text: text.into(), ..login(SECURITY, None, "") };
    refused(&mut host(), request, LoginStatus::InitiatorError);
}

/// CVE-2018-14633 and CVE-2026-63886: overlong CHAP responses, in both encodings, and one that decodes to nothing.
#[test]
fn bug_class_b_overlong_chap_values_are_refused() {
    for value in [
        format!("0x{}", "0".repeat(4000)),
        format!("0b{}", "A".repeat(4000)),
        format!("0x{}", "0".repeat(34)),
        "0x".into(),
        "0b".into(),
        "0b====".into(),
        "5".into(),
    ] {
        let mut host = Host::new(Fixture::with_chap(false), |_| {});
        answer(&mut host, login(SECURITY, None, &format!("{} AuthMethod=CHAP", names())));
        answer(&mut host, login(SECURITY, None, "CHAP_A=5"));
        let request = login(SECURITY, None, &format!("CHAP_N=host CHAP_R={value}"));
        refused(&mut host, request, LoginStatus::AuthenticationFailure);
    }
}

/// CVE-2024-45751: challenges must differ between connections; they follow the seed and nothing else.
#[test]
fn bug_class_c_challenges_differ() {
    let challenge = |seed: u8| {
        let config = crate::target::ConnectionConfig::new("10.0.0.1:3260".parse().unwrap(), 1);
        let mut host = Host::new(Fixture::with_chap(false), |_| {});
        host.connection = crate::target::SingleConnection::new(config, [seed; 32], host.now);
        answer(&mut host, login(SECURITY, None, &format!("{} AuthMethod=CHAP", names())));
        answer(&mut host, login(SECURITY, None, "CHAP_A=7")).text
    };
    assert_ne!(challenge(1), challenge(2));
    assert_eq!(challenge(1), challenge(1));
}

/// A data segment longer than 8192 bytes before login is done is not even received.
#[test]
fn bug_class_d_a_long_segment_during_login_closes() {
    let mut host = host();
    let mut bytes = host.encode(login(SECURITY, None, ""));
    bytes[5..8].copy_from_slice(&[0xff, 0xff, 0xff]);
    host.send_bytes(&bytes);
    assert!(matches!(host.event(), Some(Event::Closed(CloseReason::Malformed(_)))));
    assert!(host.receive().is_empty());
}

/// LIO fec1b2f: data right behind the login. It waits until the session is admitted, then counts.
#[test]
fn bug_class_e_data_behind_the_login_waits() {
    let mut host = host();
    let mut bytes = host.encode(login(OPERATIONAL, Some(FULL), &names()));
    let ping = NopOut {
        immediate: true,
        lun: pdu::Lun::ZERO,
        task_tag: TaskTag(5),
        transfer_tag: TransferTag::RESERVED,
        cmd_sn: Serial32(FIRST_CMD_SN),
        exp_stat_sn: Serial32(0),
        data: Payload::new(),
    };
    bytes.extend(host.encode(ping));
    host.send_bytes(&bytes);
    assert!(matches!(host.event(), Some(Event::SessionReady(_))));
    assert!(!host.connection.wants_input());
    host.connection.admit(Tsih::new(1).unwrap(), host.now, &host.fixture);
    let all = host.receive();
    assert!(
        matches!(&all[..], [Response::Login(_), Response::NopIn(nop)] if nop.task_tag == TaskTag(5)),
        "{all:?}"
    );
    // And it is bounded.
    let mut host = self::host();
    host.send(login(OPERATIONAL, Some(FULL), &names()));
    host.send_bytes(&vec![0; 100 << 10]);
    let events = std::iter::from_fn(|| host.event()).collect::<Vec<_>>();
    assert!(matches!(events.last(), Some(Event::Closed(CloseReason::Limit(_)))), "{events:?}");
}

/// Any other request during login ends the connection; who has not begun to log in is told nothing.
#[test]
fn bug_class_e_other_requests_during_login_close() {
    let mut stranger = host();
    stranger.send(scsi(1, Serial32(0)));
    assert!(matches!(stranger.event(), Some(Event::Closed(CloseReason::Protocol(_)))));
    assert!(stranger.receive().is_empty());

    let mut begun = host();
    answer(&mut begun, login(SECURITY, None, &names()));
    begun.send(scsi(1, Serial32(0)));
    let Response::Login(response) = begun.receive_one() else { panic!() };
    assert_eq!(response.status, pdu::LoginStatus::INVALID_DURING_LOGIN);
    assert!(begun.connection.is_closing());
}

#[test]
fn a_redirected_login_names_the_address() {
    for (to, permanent, status) in [
        ("10.0.0.2:3260", false, pdu::LoginStatus::MOVED_TEMPORARILY),
        ("[fd00::2]:3261", true, pdu::LoginStatus::MOVED_PERMANENTLY),
    ] {
        let mut host = Host::new(Fixture { redirect: Some((to, permanent)), ..Fixture::default() }, |_| {});
        let response = answer(&mut host, login(SECURITY, None, &names()));
        assert_eq!(response.status, status);
        assert_eq!(words(&response.text), format!("TargetAddress={to}"), "without a portal group tag");
        assert!(host.connection.is_closing());
    }
}

/// The longest answer that keys can bring about fits into one response, so the target never needs the C bit (section 13.12).
#[test]
fn the_longest_login_answer_fits_into_one_response() {
    let unknown: Vec<_> = (0..62).map(|n| format!("{}{n:02}=x", "K".repeat(61))).collect();
    let alias = "a".repeat(255);
    let alias: &'static str = Box::leak(alias.into_boxed_str());
    let mut host = Host::new(Fixture { alias: Some(alias), ..Fixture::default() }, |_| {});
    let text = format!("{} {}", names(), unknown.join(" "));
    let response = answer(&mut host, login(OPERATIONAL, None, &text));
    assert!(response.status.is_success() && !response.continues);
    assert_eq!(words(&response.text).matches("NotUnderstood").count(), 62);
    assert!(response.text.len() > 4096 && response.text.len() < 8192, "{}", response.text.len());
}

#[test]
fn the_login_timer_runs_until_admission() {
    for finished in [false, true] {
        let mut host = host();
        if finished {
            host.send(login(OPERATIONAL, Some(FULL), &names()));
            assert!(matches!(host.event(), Some(Event::SessionReady(_))));
        }
        assert_eq!(host.connection.next_timeout(), Some(host.now + Duration::from_secs(15)));
        host.pass(Duration::from_millis(14_999));
        assert!(host.event().is_none());
        host.pass(Duration::from_millis(1));
        assert!(matches!(host.event(), Some(Event::Closed(CloseReason::LoginTimeout))));
        // An answer that comes too late changes nothing.
        host.connection.admit(Tsih::new(1).unwrap(), host.now, &host.fixture);
        assert!(host.receive().is_empty() && host.connection.is_closing());
    }
}

#[test]
fn the_storage_processor_may_refuse() {
    let mut host = host();
    host.send(login(OPERATIONAL, Some(FULL), &names()));
    assert!(matches!(host.event(), Some(Event::SessionReady(_))));
    host.connection.refuse(LoginStatus::OutOfResources);
    let Response::Login(response) = host.receive_one() else { panic!() };
    assert_eq!(response.status, pdu::LoginStatus::OUT_OF_RESOURCES);
    assert!(matches!(
        host.event(),
        Some(Event::Closed(CloseReason::LoginRefused(LoginStatus::OutOfResources)))
    ));
}

#[test]
fn digests_hold_from_the_first_pdu_of_full_feature_phase() {
    let mut host = Host::logged_in("HeaderDigest=CRC32C DataDigest=CRC32C", |_| {});
    let command = host.write(1, 512, &pattern(512), true);
    host.send(command);
    assert_eq!(host.command().data_out.to_bytes(), pattern(512));
    host.connection.respond(1, crate::target::ScsiResponse::written(512));
    assert!(matches!(host.receive_one(), Response::Scsi(_)));
}

#[test]
fn a_required_digest_is_required() {
    let required = |config: &mut crate::target::ConnectionConfig| {
        config.policy.header_digest = DigestPolicy::Required;
    };
    let mut plain = Host::new(Fixture::default(), required);
    refused(&mut plain, login(OPERATIONAL, Some(FULL), &names()), LoginStatus::InitiatorError);
    let mut none = Host::new(Fixture::default(), required);
    let request = login(OPERATIONAL, None, &format!("{} HeaderDigest=None", names()));
    refused(&mut none, request, LoginStatus::InitiatorError);
    let mut discovery = Host::new(Fixture::default(), required);
    discovery.log_in("", SessionType::Discovery);
}
