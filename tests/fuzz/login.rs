//! Text, names, negotiation and CHAP.

use twinlun_iscsi::chap::{Algorithm, AlgorithmSet, Exchange, Secret};
use twinlun_iscsi::names::IscsiName;
use twinlun_iscsi::negotiate::{KeySet, Negotiation, Parameters, Place};
use twinlun_iscsi::target::{ChapCredentials, DigestPolicy, Policy, SessionType};
use twinlun_iscsi::text::{self, BINARY_LIMIT, KEYS_LIMIT, Pair, TextBuilder};

use crate::engine::{Probe, Target};
use crate::input::{Rng, Source};

pub(crate) fn targets() -> Vec<Target> {
    let target = |name, execs, fresh, run| Target { name, execs, longest: 4096, work: (512, 4), fresh, run };
    vec![
        target("iscsi-text", 150_000, text_bytes, text_run),
        target("iscsi-negotiation", 150_000, choices, negotiation),
        target("iscsi-chap", 150_000, choices, chap),
    ]
}

fn choices(rng: &mut Rng) -> Vec<u8> {
    let len = rng.len(300);
    rng.bytes(len)
}

/// Keys and values that initiators send, and some that they should not.
pub(crate) const KEYS: [&str; 38] = [
    "HeaderDigest",
    "DataDigest",
    "InitialR2T",
    "ImmediateData",
    "MaxRecvDataSegmentLength",
    "MaxBurstLength",
    "FirstBurstLength",
    "DefaultTime2Wait",
    "DefaultTime2Retain",
    "MaxOutstandingR2T",
    "DataPDUInOrder",
    "DataSequenceInOrder",
    "ErrorRecoveryLevel",
    "MaxConnections",
    "SessionType",
    "TaskReporting",
    "iSCSIProtocolLevel",
    "IFMarker",
    "OFMarker",
    "IFMarkInt",
    "OFMarkInt",
    "X#NodeArchitecture",
    "AuthMethod",
    "InitiatorName",
    "TargetName",
    "InitiatorAlias",
    "TargetAlias",
    "TargetAddress",
    "TargetPortalGroupTag",
    "SendTargets",
    "CHAP_A",
    "CHAP_N",
    "CHAP_R",
    "CHAP_I",
    "CHAP_C",
    "X-io.twinlun.Unknown",
    "Zz",
    "",
];

pub(crate) const VALUES: [&str; 34] = [
    "Yes",
    "No",
    "None",
    "CRC32C",
    "CRC32C,None",
    "None,CRC32C",
    "0",
    "1",
    "2",
    "512",
    "8192",
    "65536",
    "262144",
    "16777215",
    "16777216",
    "4294967296",
    "18446744073709551616",
    "0x200",
    "0b",
    "0x",
    "Normal",
    "Discovery",
    "CHAP",
    "CHAP,None",
    "All",
    "Reject",
    "Irrelevant",
    "NotUnderstood",
    "RFC3720",
    "iqn.2026-11.io.twinlun:east",
    "iqn.1993-08.org.debian:01:host",
    "2048~8192",
    "",
    "-1",
];

fn text_bytes(rng: &mut Rng) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..rng.len(12) {
        out.extend(KEYS[rng.below(KEYS.len())].as_bytes());
        out.push(b'=');
        if rng.below(4) == 0 {
            let len = rng.len(40);
            let bytes = rng.bytes(len);
            out.extend(text::hex(&bytes).as_bytes());
        } else {
            out.extend(VALUES[rng.below(VALUES.len())].as_bytes());
        }
        out.push(0);
    }
    out
}

fn text_run(input: &[u8], probe: &mut Probe) {
    match text::pairs(input) {
        Ok(pairs) => {
            assert!(pairs.len() <= KEYS_LIMIT);
            probe.size("pairs", pairs.len());
            let mut again = TextBuilder::new(input.len());
            for pair in &pairs {
                probe.work(1);
                again.push(pair.key, pair.value).expect("a text is never longer than what it was read from");
                value(pair.value, probe);
            }
            let again = again.finish();
            assert_eq!(text::pairs(&again).as_ref(), Ok(&pairs));
        }
        Err(error) => {
            probe.saw(std::mem::discriminant(&error));
            value(input, probe);
        }
    }
}

/// A value under every reading.
fn value(value: &[u8], probe: &mut Probe) {
    for limit in [0, 1, 16, 20, 32, BINARY_LIMIT] {
        match text::binary(value, limit) {
            Ok(bytes) => {
                assert!(
                    bytes.len() <= limit && bytes.capacity() <= limit + 4,
                    "{} for {limit}",
                    bytes.capacity()
                );
                assert_eq!(
                    text::binary(text::hex(&bytes).as_bytes(), limit),
                    if bytes.is_empty() { Err(text::TextError::Value) } else { Ok(bytes.clone()) }
                );
                probe.saw(("binary", limit, bytes.len()));
            }
            Err(error) => probe.saw((limit, std::mem::discriminant(&error))),
        }
    }
    if let Ok(number) = text::number(value) {
        assert_eq!(text::number(number.to_string().as_bytes()), Ok(number));
        probe.size("number", number as usize);
    }
    if let Ok(name) = IscsiName::parse(value) {
        assert_eq!(
            IscsiName::parse(name.as_str().as_bytes()).as_ref(),
            Ok(&name),
            "a name is its own normal form"
        );
        assert!(name.as_str().chars().all(|c| !c.is_control() && c != '/'));
        probe.size("name", name.as_str().len());
    }
    probe.work(text::list(value).count() / 64);
    probe.saw(text::boolean(value).is_ok());
}

fn negotiation(input: &[u8], probe: &mut Probe) {
    let mut source = Source::new(input);
    let digest = [DigestPolicy::Either, DigestPolicy::Required, DigestPolicy::Never];
    let policy = Policy {
        header_digest: source.pick(&digest),
        data_digest: source.pick(&digest),
        initial_r2t: source.flag(),
        immediate_data: source.flag(),
        max_recv_data_segment: source.pick(&[262_144, 512, 0xff_ffff]),
        max_burst: source.pick(&[1 << 20, 512, 0xff_ffff]),
        first_burst: 512,
        ..Policy::default()
    };
    let session = if source.rarely(5) { SessionType::Discovery } else { SessionType::Normal };
    let (mut negotiation, place) = if source.rarely(4) {
        (Negotiation::full_feature(policy, session, Parameters::default()), Place::FullFeature)
    } else {
        (Negotiation::login(policy, session, KeySet::default()), Place::Operational)
    };
    for _ in 0..source.below(4) + 1 {
        let before = *negotiation.parameters();
        let limit = source.pick(&[8192, 64, 600]);
        let mut request = TextBuilder::new(8192);
        for _ in 0..source.below(24) {
            let key = source.pick(&KEYS);
            let number = source.number().to_string();
            let value = if source.rarely(3) { number.as_str() } else { source.pick(&VALUES) };
            if !key.is_empty() {
                request.push(key, value).expect("there is room");
            }
        }
        let request = request.finish();
        let pairs = text::pairs(&request).expect("well-formed");
        let mut answer = TextBuilder::new(limit);
        let result = negotiation.answer(&pairs, place, &mut answer);
        let answer = answer.finish();
        assert!(answer.len() <= limit);
        let answered = text::pairs(&answer).expect("an answer is text");
        probe.work(pairs.len());
        for Pair { key, value } in &answered {
            assert!(pairs.iter().any(|pair| pair.key == *key), "{key} was not asked");
            probe.saw((key, value.first()));
        }
        match result {
            Ok(()) => bounds(negotiation.parameters(), &policy),
            Err(error) => {
                probe.saw(format!("{error:?}"));
                return;
            }
        }
        if place == Place::FullFeature {
            let now = negotiation.parameters();
            assert_eq!((now.header_digest, now.max_burst), (before.header_digest, before.max_burst));
        }
    }
    if let Ok(parameters) = negotiation.finish() {
        probe.saw((parameters.header_digest, parameters.data_digest, parameters.immediate_data));
        if session == SessionType::Normal && policy.header_digest == DigestPolicy::Required {
            assert!(parameters.header_digest);
        }
    }
}

/// Whatever an initiator says, the outcome lies within RFC 7143 section 13 and within what the target would choose.
fn bounds(parameters: &Parameters, policy: &Policy) {
    assert!((512..=0xff_ffff).contains(&parameters.initiator_max_recv));
    assert!((512..=0xff_ffff).contains(&parameters.max_burst));
    assert!((512..=0xff_ffff).contains(&parameters.first_burst));
    assert!(parameters.max_outstanding_r2t >= 1);
    assert!(parameters.header_digest <= (policy.header_digest != DigestPolicy::Never));
    assert!(parameters.data_digest <= (policy.data_digest != DigestPolicy::Never));
    assert!(parameters.max_connections >= 1 && parameters.max_connections <= policy.max_connections.max(1));
    assert!(parameters.error_recovery <= policy.error_recovery);
    assert!(parameters.time2wait <= 3600 && parameters.time2retain <= 3600);
}

/// Nobody is let in who has not sent the right answer to the challenge that is out.
fn chap(input: &[u8], probe: &mut Probe) {
    let mut source = Source::new(input);
    let secret = Secret::new(b"correct horse battery".to_vec());
    let same = source.rarely(6);
    let other = if same { secret.clone() } else { Secret::new(b"another staple 12".to_vec()) };
    let mutual = source.flag().then(|| ("array".into(), other));
    let all = Algorithm::ALL.into_iter();
    let algorithms: AlgorithmSet = all.filter(|_| !source.rarely(4)).collect();
    let (user, proven) = ("host".into(), secret.clone());
    let credentials = ChapCredentials { user, secret: proven, mutual: mutual.clone(), algorithms };
    let mut exchange = Exchange::new(credentials, source.array());
    let mut challenge: Option<(Algorithm, u8, Vec<u8>)> = None;
    for _ in 0..source.below(6) + 1 {
        let mut request = TextBuilder::new(8192);
        let mut right = false;
        let mut put = |key: &str, value: &str| request.push(key, value).expect("there is room");
        match &challenge {
            None => {
                let offer = source.pick(&["5", "7,5", "8", "6,0x7", "9", "", "5,5,5,5", "256"]);
                put("CHAP_A", offer);
            }
            Some((algorithm, identifier, theirs)) => {
                right = !source.rarely(3);
                let mut proof = algorithm.respond(*identifier, &secret, theirs).to_vec();
                if !right {
                    proof[0] ^= 1 << source.below(8);
                    proof.truncate(proof.len() - source.below(2) * source.below(16));
                    proof.resize(proof.len() + source.below(3), 0);
                }
                let name = if source.rarely(6) { "hosT" } else { "host" };
                right &= name == "host";
                put("CHAP_N", name);
                put("CHAP_R", &text::hex(&proof));
                if source.flag() {
                    put("CHAP_I", source.pick(&["1", "255", "256", "0xff", "x"]));
                    let reverse = match source.below(5) {
                        0 => theirs.clone(),
                        _ => source.take(16).to_vec(),
                    };
                    put("CHAP_C", &text::hex(&reverse));
                    assert_ne!(Some(&reverse), None);
                }
            }
        }
        if source.rarely(6) {
            let key = source.pick(&["CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R", "CHAP_X"]);
            put(key, source.pick(&VALUES));
        }
        let request = request.finish();
        let was_done = exchange.is_done();
        let mut answer = TextBuilder::new(8192);
        let result = exchange.advance(text::pairs(&request).expect("well-formed"), &mut answer);
        probe.work(1);
        probe.saw(format!("{result:?} {}", exchange.is_done()));
        if exchange.is_done() && !was_done {
            assert!(right, "let in without the right answer");
        }
        if result.is_err() {
            assert!(!exchange.is_done() || was_done, "a failed exchange proves nothing");
            return;
        }
        let answer = answer.finish();
        let pairs = text::pairs(&answer).expect("an answer is text");
        let find = |key: &str| pairs.iter().find(|pair| pair.key == key).map(|pair| pair.value);
        if let (Some(a), Some(i), Some(c)) = (find("CHAP_A"), find("CHAP_I"), find("CHAP_C")) {
            let algorithm = text::number(a).ok().and_then(Algorithm::from_number).expect("a known algorithm");
            assert!(algorithms.contains(algorithm), "only what is wanted");
            let identifier = text::number(i).expect("a number") as u8;
            challenge = Some((algorithm, identifier, text::binary(c, BINARY_LIMIT).expect("a challenge")));
        } else if find("CHAP_R").is_some() {
            assert!(
                exchange.is_done() && mutual.is_some() && !same,
                "proves itself only to the proven, by its own secret"
            );
        }
    }
}
