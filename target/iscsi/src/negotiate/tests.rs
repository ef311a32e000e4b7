use super::*;
use crate::target::{DigestPolicy, Policy, SessionType};
use crate::text::{self, TextBuilder};

fn exchange(negotiation: &mut Negotiation, request: &str) -> Result<String, NegotiationError> {
    let text = request.split(' ').map(|pair| format!("{pair}\0")).collect::<String>();
    let mut answer = TextBuilder::new(8192);
    negotiation.answer(&text::pairs(text.as_bytes())?, Place::Operational, &mut answer)?;
    Ok(String::from_utf8(answer.finish()).unwrap().trim_end_matches('\0').replace('\0', " "))
}

fn normal(policy: Policy) -> Negotiation {
    Negotiation::login(policy, SessionType::Normal, KeySet::default())
}

fn answer(request: &str) -> String {
    exchange(&mut normal(Policy::default()), request).unwrap()
}

/// Every key: what is offered, what is answered under the default policy.
#[test]
fn every_key_is_answered_by_its_rule() {
    for (offer, expected) in [
        // Lists: the first supported of the initiator's order.
        ("HeaderDigest=CRC32C,None", "HeaderDigest=CRC32C"),
        ("HeaderDigest=None,CRC32C", "HeaderDigest=None"),
        ("HeaderDigest=Y-org.example.crc,CRC32C", "HeaderDigest=CRC32C"),
        ("HeaderDigest=Y-org.example.crc", "HeaderDigest=Reject"),
        ("DataDigest=None", "DataDigest=None"),
        ("DataDigest=CRC32C", "DataDigest=CRC32C"),
        ("TaskReporting=RFC3720", "TaskReporting=RFC3720"),
        ("TaskReporting=FastAbort,ResponseFence,RFC3720", "TaskReporting=ResponseFence"),
        ("TaskReporting=FastAbort", "TaskReporting=Reject"),
        // Minimum.
        ("MaxConnections=9", "MaxConnections=8"),
        ("MaxConnections=1", "MaxConnections=1"),
        ("MaxConnections=0", "MaxConnections=Reject"),
        ("MaxConnections=65536", "MaxConnections=Reject"),
        ("MaxBurstLength=16776192", "MaxBurstLength=1048576"),
        ("MaxBurstLength=4096", "MaxBurstLength=4096"),
        ("MaxBurstLength=0x1000", "MaxBurstLength=4096"),
        ("MaxBurstLength=511", "MaxBurstLength=Reject"),
        ("MaxBurstLength=16777216", "MaxBurstLength=Reject"),
        ("MaxBurstLength=many", "MaxBurstLength=Reject"),
        ("FirstBurstLength=262144", "FirstBurstLength=65536"),
        ("FirstBurstLength=512", "FirstBurstLength=512"),
        ("FirstBurstLength=1", "FirstBurstLength=Reject"),
        ("MaxOutstandingR2T=65535", "MaxOutstandingR2T=8"),
        ("MaxOutstandingR2T=1", "MaxOutstandingR2T=1"),
        ("MaxOutstandingR2T=0", "MaxOutstandingR2T=Reject"),
        ("DefaultTime2Retain=60", "DefaultTime2Retain=20"),
        ("DefaultTime2Retain=3601", "DefaultTime2Retain=Reject"),
        ("ErrorRecoveryLevel=2", "ErrorRecoveryLevel=2"),
        ("ErrorRecoveryLevel=1", "ErrorRecoveryLevel=1"),
        ("ErrorRecoveryLevel=3", "ErrorRecoveryLevel=Reject"),
        ("iSCSIProtocolLevel=1", "iSCSIProtocolLevel=1"),
        ("iSCSIProtocolLevel=31", "iSCSIProtocolLevel=2"),
        ("iSCSIProtocolLevel=32", "iSCSIProtocolLevel=Reject"),
        // Maximum.
        ("DefaultTime2Wait=0", "DefaultTime2Wait=2"),
        ("DefaultTime2Wait=3600", "DefaultTime2Wait=3600"),
        ("DefaultTime2Wait=-1", "DefaultTime2Wait=Reject"),
        // Or.
        ("InitialR2T=No", "InitialR2T=No"),
        ("InitialR2T=Yes", "InitialR2T=Yes"),
        ("InitialR2T=yes", "InitialR2T=Reject"),
        ("DataPDUInOrder=No", "DataPDUInOrder=Yes"),
        ("DataPDUInOrder=Yes", "DataPDUInOrder=Yes"),
        ("DataSequenceInOrder=No", "DataSequenceInOrder=No"),
        ("DataSequenceInOrder=Yes", "DataSequenceInOrder=Yes"),
        ("DataSequenceInOrder=2", "DataSequenceInOrder=Reject"),
        // And.
        ("ImmediateData=Yes", "ImmediateData=Yes"),
        ("ImmediateData=No", "ImmediateData=No"),
        ("ImmediateData=", "ImmediateData=Reject"),
        // Declared: no answer.
        ("MaxRecvDataSegmentLength=65536", ""),
        ("InitiatorAlias=host", ""),
        ("X#NodeArchitecture=Linux/6.1", ""),
        // Obsolete.
        ("IFMarker=No", "IFMarker=No"),
        ("OFMarker=Yes", "OFMarker=No"),
        ("IFMarkInt=2048~8192", "IFMarkInt=Reject"),
        ("OFMarkInt=2048", "OFMarkInt=Reject"),
        // Unknown.
        ("X-com.example.fast=Yes", "X-com.example.fast=NotUnderstood"),
        ("RDMAExtensions=Yes", "RDMAExtensions=NotUnderstood"),
        ("a=b", "a=NotUnderstood"),
    ] {
        assert_eq!(answer(offer), expected, "{offer}");
    }
}

#[test]
fn the_policy_decides_where_it_may() {
    let policy = Policy { initial_r2t: true, immediate_data: false, ..Policy::default() };
    let mut negotiation = normal(policy);
    assert_eq!(
        exchange(&mut negotiation, "InitialR2T=No ImmediateData=Yes").unwrap(),
        "InitialR2T=Yes ImmediateData=No"
    );
    assert!(negotiation.parameters().initial_r2t && !negotiation.parameters().immediate_data);
    let never = Policy { data_digest: DigestPolicy::Never, ..Policy::default() };
    assert_eq!(exchange(&mut normal(never), "DataDigest=CRC32C,None").unwrap(), "DataDigest=None");
    let required = Policy { data_digest: DigestPolicy::Required, ..Policy::default() };
    assert_eq!(exchange(&mut normal(required), "DataDigest=None,CRC32C").unwrap(), "DataDigest=CRC32C");
    assert_eq!(
        exchange(&mut normal(required), "DataDigest=None"),
        Err(NegotiationError::Unacceptable(Key::DataDigest))
    );
    assert_eq!(normal(required).finish(), Err(NegotiationError::Unacceptable(Key::DataDigest)));
}

#[test]
fn discovery_makes_keys_irrelevant_and_has_no_digests() {
    let discovery = || Negotiation::login(Policy::default(), SessionType::Discovery, KeySet::default());
    for key in [
        "MaxConnections=1",
        "InitialR2T=No",
        "ImmediateData=Yes",
        "MaxBurstLength=4096",
        "FirstBurstLength=4096",
        "MaxOutstandingR2T=1",
        "DataPDUInOrder=Yes",
        "DataSequenceInOrder=Yes",
        "TaskReporting=RFC3720",
        "iSCSIProtocolLevel=2",
    ] {
        let name = key.split('=').next().unwrap();
        assert_eq!(exchange(&mut discovery(), key).unwrap(), format!("{name}=Irrelevant"));
    }
    assert_eq!(exchange(&mut discovery(), "HeaderDigest=CRC32C,None").unwrap(), "HeaderDigest=None");
    assert_eq!(exchange(&mut discovery(), "HeaderDigest=CRC32C").unwrap(), "HeaderDigest=Reject");
    assert_eq!(exchange(&mut discovery(), "ErrorRecoveryLevel=2").unwrap(), "ErrorRecoveryLevel=0");
}

#[test]
fn a_key_is_negotiated_once() {
    let mut negotiation = normal(Policy::default());
    exchange(&mut negotiation, "MaxBurstLength=4096").unwrap();
    assert_eq!(
        exchange(&mut negotiation, "MaxBurstLength=8192"),
        Err(NegotiationError::Twice(Key::MaxBurstLength))
    );
    assert_eq!(
        exchange(&mut normal(Policy::default()), "InitialR2T=No InitialR2T=No"),
        Err(NegotiationError::Twice(Key::InitialR2T))
    );
}

#[test]
fn first_burst_never_exceeds_max_burst() {
    assert_eq!(
        answer("FirstBurstLength=65536 MaxBurstLength=4096"),
        "MaxBurstLength=4096 FirstBurstLength=4096"
    );
    let mut negotiation = normal(Policy::default());
    exchange(&mut negotiation, "FirstBurstLength=65536").unwrap();
    assert_eq!(exchange(&mut negotiation, "MaxBurstLength=4096"), Err(NegotiationError::Bursts));
}

#[test]
fn reserved_constants_are_not_proposals() {
    for constant in ["Reject", "Irrelevant", "NotUnderstood"] {
        assert_eq!(
            exchange(&mut normal(Policy::default()), &format!("MaxBurstLength={constant}")),
            Err(NegotiationError::Reserved(Key::MaxBurstLength))
        );
    }
}

#[test]
fn a_declared_length_out_of_bounds_fails() {
    for value in ["511", "16777216", "0", "-1", "x"] {
        assert_eq!(
            exchange(&mut normal(Policy::default()), &format!("MaxRecvDataSegmentLength={value}")),
            Err(NegotiationError::Unacceptable(Key::MaxRecvDataSegmentLength)),
            "{value}"
        );
    }
}

#[test]
fn keys_stay_in_their_place() {
    let try_at = |place, request: &[u8]| {
        normal(Policy::default()).answer(&text::pairs(request).unwrap(), place, &mut TextBuilder::new(8192))
    };
    let denied = |key| Err(NegotiationError::NotAllowed(key));
    assert_eq!(try_at(Place::Security, b"MaxBurstLength=4096\0"), denied(Key::MaxBurstLength));
    assert_eq!(try_at(Place::Operational, b"AuthMethod=CHAP\0"), denied(Key::AuthMethod));
    assert_eq!(try_at(Place::Operational, b"SendTargets=All\0"), denied(Key::SendTargets));
    assert_eq!(try_at(Place::Operational, b"TargetPortalGroupTag=1\0"), denied(Key::TargetPortalGroupTag));
    assert_eq!(try_at(Place::FullFeature, b"MaxBurstLength=4096\0"), denied(Key::MaxBurstLength));
    assert_eq!(try_at(Place::FullFeature, b"MaxRecvDataSegmentLength=4096\0"), Ok(()));
    assert_eq!(try_at(Place::FullFeature, b"InitiatorName=iqn.2001-01.a\0"), denied(Key::InitiatorName));
}

/// CVE-2013-2850 and CVE-2026-63887: answers to unknown keys must not outgrow their buffer.
#[test]
fn bug_class_a_not_understood_answers_are_bounded() {
    let flood = b"a=b\0".repeat(2048);
    assert_eq!(text::pairs(&flood), Err(text::TextError::TooManyKeys));
    let key = "K".repeat(63);
    let text = format!("{key}=x\0").repeat(64);
    let mut small = TextBuilder::new(1024);
    let result = normal(Policy::default()).answer(
        &text::pairs(text.as_bytes()).unwrap(),
        Place::Operational,
        &mut small,
    );
    assert_eq!(result, Err(NegotiationError::Text(text::TextError::TooLong)));
    assert!(small.finish().len() <= 1024);
}
