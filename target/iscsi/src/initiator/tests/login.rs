//! Logins.

use super::*;

#[test]
fn login_without_authentication() {
    let mut target = Target::new(config());
    let first = target.login();
    assert!(
        first.transit && first.current_stage == Stage::SECURITY && first.next_stage == Stage::OPERATIONAL
    );
    assert_eq!(
        first.text,
        "InitiatorName=iqn.2026-11.io.twinlun:host\0SessionType=Normal\0\
         TargetName=iqn.2026-11.io.twinlun:east\0AuthMethod=None\0"
    );
    target.answer(true, Stage::SECURITY, "AuthMethod=None\0TargetPortalGroupTag=1\0").unwrap();
    let second = target.login();
    assert_eq!(second.exp_stat_sn, Serial32(0xffff_ffff));
    assert!(second.transit && second.next_stage == Stage::FULL_FEATURE);
    assert!(
        text::pairs(&second.text)
            .unwrap()
            .iter()
            .any(|p| p.key == "FirstBurstLength" && p.value == b"262144")
    );
    let busy = Command::new(1, LUN, cdb::test_unit_ready(), Transfer::None);
    assert_eq!(target.initiator.submit(busy.clone()), Submitted::NotReady);
    let answers = "InitialR2T=Yes\0ImmediateData=No\0MaxBurstLength=65536\0FirstBurstLength=131072\0\
                   MaxRecvDataSegmentLength=4096\0X-com.example.key=1\0MaxOutstandingR2T=1\0";
    target.answer(false, Stage::OPERATIONAL, answers).unwrap();
    let third = target.login();
    assert_eq!(third.text, "X-com.example.key=NotUnderstood\0");
    target.answer(true, Stage::OPERATIONAL, "").unwrap();
    assert_eq!(target.event(), Event::LoggedIn);
    assert_eq!(target.initiator.tsih(), Tsih(77));
    let parameters = target.initiator.parameters();
    assert!(parameters.initial_r2t && !parameters.immediate_data);
    assert_eq!(
        (parameters.max_burst, parameters.first_burst),
        (65536, 65536),
        "a first burst is within a burst"
    );
    assert_eq!((parameters.target_max_recv, parameters.initiator_max_recv), (4096, 256 << 10));
    assert_eq!(target.initiator.submit(busy), Submitted::Accepted);
    let command = target.command();
    assert_eq!((command.cmd_sn, command.exp_stat_sn), (Serial32(1), Serial32(1)), "StatSN has wrapped");
}

#[test]
fn login_text_over_several_answers() {
    let mut target = Target::new(config());
    target.login();
    target.answer(true, Stage::SECURITY, "").unwrap();
    target.login();
    let part = target.login_response(false, Stage::OPERATIONAL, "MaxBurst");
    target.send(LoginResponse { continues: true, ..part }).unwrap();
    let empty = target.login();
    assert!(empty.text.is_empty() && !empty.transit && !empty.continues);
    target.answer(true, Stage::OPERATIONAL, "Length=4096\0").unwrap_err();
    let mut target = Target::new(config());
    target.login();
    target.answer(true, Stage::SECURITY, "").unwrap();
    target.login();
    let part = target.login_response(false, Stage::OPERATIONAL, "MaxBurst");
    target.send(LoginResponse { continues: true, ..part }).unwrap();
    target.login();
    target.answer(false, Stage::OPERATIONAL, "Length=4096\0").unwrap();
    assert!(target.login().transit);
    target.answer(true, Stage::OPERATIONAL, "").unwrap();
    assert_eq!(target.initiator.parameters().max_burst, 4096);
}

#[test]
fn an_endless_login_is_given_up() {
    let mut target = Target::new(config());
    target.login();
    target.answer(true, Stage::SECURITY, "").unwrap();
    let ended = (0..100).find_map(|_| target.answer(false, Stage::OPERATIONAL, "").err());
    assert_eq!(ended, Some(LoginError::TooManyRounds.into()));
}

#[test]
fn answers_beyond_the_offer_are_refused() {
    for (key, answer) in [
        ("InitialR2T", "InitialR2T=Maybe\0"),
        ("ImmediateData", "ImmediateData=\0"),
        ("MaxBurstLength", "MaxBurstLength=16777215\0"),
        ("MaxBurstLength", "MaxBurstLength=1\0"),
        ("FirstBurstLength", "FirstBurstLength=99999999999999999999\0"),
        ("MaxRecvDataSegmentLength", "MaxRecvDataSegmentLength=511\0"),
        ("MaxRecvDataSegmentLength", "MaxRecvDataSegmentLength=16777216\0"),
        ("HeaderDigest", "HeaderDigest=CRC32C\0"),
        ("DataDigest", "DataDigest=Reject\0"),
        ("MaxOutstandingR2T", "MaxOutstandingR2T=0\0"),
        ("MaxConnections", "MaxConnections=2\0"),
        ("ErrorRecoveryLevel", "ErrorRecoveryLevel=1\0"),
        ("DataPDUInOrder", "DataPDUInOrder=No\0"),
    ] {
        let mut target = Target::new(config());
        target.login();
        target.answer(true, Stage::SECURITY, "").unwrap();
        assert_eq!(
            target.answer(true, Stage::OPERATIONAL, answer),
            Err(LoginError::Negotiation { key }.into())
        );
        assert_eq!(target.initiator.phase(), Phase::Closed);
        assert!(target.initiator.received().is_err(), "the failure stays");
    }
}

#[test]
fn a_refused_or_redirected_login() {
    let mut target = Target::new(config());
    let refusal =
        LoginResponse { status: LoginStatus::NOT_FOUND, ..target.login_response(false, Stage::SECURITY, "") };
    assert_eq!(target.send(refusal), Err(LoginError::Refused(LoginStatus::NOT_FOUND).into()));
    let mut target = Target::new(config());
    let moved = LoginResponse {
        status: LoginStatus::MOVED_TEMPORARILY,
        ..target.login_response(false, Stage::SECURITY, "TargetAddress=[::1]:3260,1\0")
    };
    let address = "[::1]:3260,1".to_owned();
    assert_eq!(target.send(moved), Err(LoginError::Redirected { address, permanently: false }.into()));
}

#[test]
fn login_answers_out_of_order() {
    let wrong: [fn(&mut LoginResponse); 6] = [
        |response| response.task_tag = TaskTag(1),
        |response| response.isid = Isid::default(),
        |response| response.current_stage = Stage::OPERATIONAL,
        |response| response.next_stage = Stage::FULL_FEATURE,
        |response| response.next_stage = Stage::SECURITY,
        |response| response.continues = true,
    ];
    for (index, change) in wrong.into_iter().enumerate() {
        let mut target = Target::new(config());
        let mut response = target.login_response(true, Stage::SECURITY, "AuthMethod=None\0");
        change(&mut response);
        assert_eq!(target.send(response), Err(LoginError::Sequence.into()), "case {index}");
    }
}

fn chap(mutual: bool) -> InitiatorConfig {
    let mutual = mutual.then(|| MutualChap {
        user: "array".into(),
        secret: Secret::new(b"secret of target".to_vec()),
        random: [9; 33],
    });
    let secret = Secret::new(b"secret of host".to_vec());
    let algorithms = vec![Algorithm::Sha256, Algorithm::Md5];
    InitiatorConfig { chap: Some(ChapLogin { user: "host".into(), secret, algorithms, mutual }), ..config() }
}

fn value(request: &LoginRequest, key: &str) -> String {
    let pairs = text::pairs(&request.text).unwrap();
    let pair = pairs.iter().find(|pair| pair.key == key).unwrap_or_else(|| panic!("no {key}"));
    String::from_utf8(pair.value.to_vec()).unwrap()
}

/// Up to the initiator's own response.
fn chap_exchange(target: &mut Target, algorithm: Algorithm) -> LoginRequest {
    let first = target.login();
    assert!(!first.transit, "the stage cannot be left before the exchange");
    target.answer(false, Stage::SECURITY, "AuthMethod=CHAP\0").unwrap();
    assert_eq!(target.login().text, "CHAP_A=7,5\0");
    let challenge = format!("CHAP_A={}\0CHAP_I=33\0CHAP_C=0x0102030405\0", algorithm as u8);
    target.answer(false, Stage::SECURITY, &challenge).unwrap();
    let proof = target.login();
    assert!(proof.transit);
    let expected = algorithm.respond(33, &Secret::new(b"secret of host".to_vec()), &[1, 2, 3, 4, 5]);
    assert_eq!((value(&proof, "CHAP_N"), value(&proof, "CHAP_R")), ("host".to_owned(), text::hex(&expected)));
    proof
}

#[test]
fn chap_one_way() {
    let mut target = Target::new(chap(false));
    chap_exchange(&mut target, Algorithm::Md5);
    target.answer(true, Stage::SECURITY, "").unwrap();
    assert_eq!(target.login().current_stage, Stage::OPERATIONAL);
    // A target may also ask for nothing.
    let mut target = Target::new(chap(false));
    assert_eq!(value(&target.login(), "AuthMethod"), "CHAP,None");
    target.answer(false, Stage::SECURITY, "AuthMethod=None\0").unwrap();
    assert!(target.login().transit);
}

#[test]
fn weak_secrets_are_not_used() {
    let start = |change: fn(&mut ChapLogin)| {
        let mut config = chap(true);
        config.chap.as_mut().map(change);
        Initiator::new(config).map(|_| ())
    };
    let refused = |error: ChapError| Err(InitiatorError::from(LoginError::from(error)));
    assert_eq!(start(|_| {}), Ok(()));
    assert_eq!(start(|chap| chap.secret = Secret::new(vec![7; 11])), refused(ChapError::ShortSecret));
    let short = |chap: &mut ChapLogin| chap.mutual.as_mut().unwrap().secret = Secret::new(vec![7; 11]);
    assert_eq!(start(short), refused(ChapError::ShortSecret));
    let same = |chap: &mut ChapLogin| chap.mutual.as_mut().unwrap().secret = chap.secret.clone();
    assert_eq!(start(same), refused(ChapError::SameSecret));
    assert_eq!(start(|chap| chap.algorithms.clear()), refused(ChapError::NoAlgorithm));
}

#[test]
fn chap_mutual() {
    let secret = Secret::new(b"secret of target".to_vec());
    let prove = |request: &LoginRequest| {
        let challenge = text::binary(value(request, "CHAP_C").as_bytes(), 64).unwrap();
        assert_eq!(challenge.len(), 32);
        text::hex(&Algorithm::Sha256.respond(value(request, "CHAP_I").parse().unwrap(), &secret, &challenge))
    };
    let mut target = Target::new(chap(true));
    let proof = prove(&chap_exchange(&mut target, Algorithm::Sha256));
    target.answer(true, Stage::SECURITY, &format!("CHAP_N=array\0CHAP_R={proof}\0")).unwrap();
    assert_eq!(target.login().current_stage, Stage::OPERATIONAL);

    let answer = |text: &dyn Fn(String) -> String| {
        let mut target = Target::new(chap(true));
        let proof = prove(&chap_exchange(&mut target, Algorithm::Sha256));
        target.answer(true, Stage::SECURITY, &text(proof)).unwrap_err()
    };
    let refused = |error: ChapError| InitiatorError::from(LoginError::from(error));
    assert_eq!(answer(&|_| String::new()), refused(ChapError::Sequence), "no proof at all");
    assert_eq!(answer(&|proof| format!("CHAP_N=evil\0CHAP_R={proof}\0")), refused(ChapError::Name));
    assert_eq!(
        answer(&|_| format!("CHAP_N=array\0CHAP_R=0x{}\0", "00".repeat(32))),
        refused(ChapError::Response)
    );
    assert_eq!(
        answer(&|_| format!("CHAP_N=array\0CHAP_R=0x{}\0", "00".repeat(33))),
        refused(ChapError::Value)
    );
    // Who demands a proof does not go without.
    let mut target = Target::new(chap(true));
    target.login();
    assert_eq!(
        target.answer(false, Stage::SECURITY, "AuthMethod=None\0"),
        Err(LoginError::AuthMethod.into())
    );
    // The strongest first, but only what the offer had.
    let mut target = Target::new(chap(false));
    target.answer(false, Stage::SECURITY, "AuthMethod=CHAP\0").unwrap();
    let other = target.answer(false, Stage::SECURITY, "CHAP_A=6\0CHAP_I=1\0CHAP_C=0x01\0");
    assert_eq!(other, Err(refused(ChapError::NoAlgorithm)));
    // Our own challenge sent back.
    let mut target = Target::new(chap(true));
    target.answer(false, Stage::SECURITY, "AuthMethod=CHAP\0").unwrap();
    let reflected = format!("CHAP_A=7\0CHAP_I=1\0CHAP_C=0x{}\0", "09".repeat(32));
    assert_eq!(target.answer(false, Stage::SECURITY, &reflected), Err(refused(ChapError::Reflected)));
}
