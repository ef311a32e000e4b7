//! Framing: what the encoder sends comes out of the deframer, however the bytes are cut; nothing else does.

use proptest::prelude::*;

use super::*;
use crate::encoder::Encoder;
use crate::pdu::{Cdb, DataOut, Lun, Opcode, ScsiCommand, Serial32, TaskAttribute, TaskTag, TransferTag};

const BIG: FrameLimits =
    FrameLimits { max_data: 1 << 20, header_digest: false, data_digest: false, allow_ahs: true };
const BOTH: FrameLimits = FrameLimits { header_digest: true, data_digest: true, ..BIG };

fn data_out(len: usize) -> DataOut {
    DataOut {
        is_final: true,
        lun: Lun::ZERO,
        task_tag: TaskTag(len as u32),
        transfer_tag: TransferTag(7),
        exp_stat_sn: Serial32(1),
        data_sn: 0,
        buffer_offset: 0,
        data: (0..len).map(|index| (index % 251) as u8).collect::<Vec<_>>().into(),
    }
}

fn command(cdb_len: usize) -> ScsiCommand {
    ScsiCommand {
        immediate: false,
        is_final: true,
        read: false,
        write: false,
        attribute: TaskAttribute::SIMPLE,
        lun: Lun::ZERO,
        task_tag: TaskTag(9),
        expected_len: 0,
        cmd_sn: Serial32(1),
        exp_stat_sn: Serial32(1),
        cdb: Cdb::new(&vec![0x7f; cdb_len]).unwrap(),
        bidirectional_read_len: None,
        data: Payload::new(),
    }
}

fn wire(limits: FrameLimits, pdus: impl IntoIterator<Item = RawPdu>) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.set_digests(limits.header_digest, limits.data_digest);
    pdus.into_iter().for_each(|pdu| encoder.put(pdu));
    let len = encoder.len();
    let bytes = encoder.drain().collect::<Vec<_>>().concat();
    assert_eq!(bytes.len(), len);
    assert!(encoder.is_empty());
    bytes
}

fn deframer(chunk: usize, limits: FrameLimits) -> Deframer {
    let mut deframer = Deframer::new(chunk);
    deframer.set_limits(limits);
    deframer
}

/// Receives `wire` in pieces no longer than asked for and than there is room; all PDUs or the first fatal error.
fn receive(deframer: &mut Deframer, wire: &[u8], step: usize) -> Vec<Result<RawPdu, FrameError>> {
    let mut out = Vec::new();
    let mut rest = wire;
    while !rest.is_empty() {
        let buffer = deframer.buffer();
        let room = buffer.capacity() - buffer.len();
        assert!(room > 0, "there is always room");
        let (now, later) = rest.split_at(step.min(room).min(rest.len()));
        buffer.extend_from_slice(now);
        assert!(buffer.len() <= buffer.capacity());
        rest = later;
        loop {
            match deframer.next() {
                Ok(Some(pdu)) => out.push(Ok(pdu)),
                Ok(None) => break,
                Err(error) => {
                    out.push(Err(error));
                    if error.is_fatal() {
                        assert_eq!(deframer.next(), Err(error), "a dead deframer stays dead");
                        return out;
                    }
                }
            }
        }
    }
    out
}

/// The same PDU with its length fields set, as it is received.
fn expected(pdu: impl Into<RawPdu>) -> RawPdu {
    let mut raw = pdu.into();
    raw.bhs.set_lengths(raw.ahs.len(), DataSegmentLength::checked(raw.data.len()).unwrap());
    raw
}

#[test]
fn one_receive_yields_many_pdus_without_a_copy() {
    let mut deframer = deframer(1 << 16, BIG);
    let bytes = wire(BIG, (0..10).map(|_| data_out(4096).into()));
    deframer.buffer().extend_from_slice(&bytes);
    let place = deframer.buffer().as_ptr_range();
    for _ in 0..10 {
        let pdu = deframer.next().unwrap().unwrap();
        let [segment] = pdu.data.segments() else { panic!("one segment: {pdu:?}") };
        assert!(place.contains(&segment.as_ptr()), "the data stays where it was received");
    }
    assert_eq!(deframer.next(), Ok(None));
}

#[test]
fn long_data_over_a_chunks_end_is_not_copied() {
    let mut deframer = deframer(1 << 16, BIG);
    let bytes = wire(BIG, [data_out(200_000).into()]);
    let pdus = receive(&mut deframer, &bytes, usize::MAX);
    assert_eq!(pdus, [Ok(expected(data_out(200_000)))]);
    let segments = pdus[0].as_ref().unwrap().data.segments().len();
    assert!((4..=6).contains(&segments), "{segments} segments for 200 kB in chunks of 64 KiB");
}

#[test]
fn a_chunk_is_used_again_when_its_pdus_are_gone() {
    let mut deframer = deframer(1 << 16, BIG);
    let bytes = wire(BIG, [data_out(4096).into()]);
    let first = deframer.buffer().as_ptr();
    for _ in 0..100 {
        assert_eq!(receive(&mut deframer, &bytes, usize::MAX).len(), 1);
    }
    deframer.buffer();
    assert!(deframer.buffer.capacity() <= 1 << 16);
    let last = deframer.buffer().as_ptr();
    let distance = (last as usize).abs_diff(first as usize);
    assert!(distance <= 1 << 16, "still the first chunk");
}

#[test]
fn too_long_data_is_refused_by_its_header_alone() {
    for (limit, len) in [(FrameLimits::LOGIN, 8193), (FrameLimits { max_data: 512, ..BOTH }, 513)] {
        let mut deframer = deframer(1 << 16, limit);
        let mut bytes = wire(limit, [data_out(len).into()]);
        bytes.truncate(BHS_LEN + if limit.header_digest { DIGEST_LEN } else { 0 });
        let before = deframer.buffer().capacity();
        let refused = receive(&mut deframer, &bytes, usize::MAX);
        assert!(
            matches!(refused[..], [Err(FrameError::DataTooLong { len: l, .. })] if l == len),
            "{refused:?}"
        );
        assert!(deframer.buffer.capacity() <= before);
    }
    let mut exact = deframer(1 << 16, FrameLimits::LOGIN);
    let bytes = wire(BIG, [data_out(8192).into()]);
    assert_eq!(receive(&mut exact, &bytes, 100), [Ok(expected(data_out(8192)))]);
}

#[test]
fn no_ahs_during_login() {
    let bytes = wire(BIG, [command(32).into()]);
    let refused = receive(&mut deframer(1 << 16, FrameLimits::LOGIN), &bytes, usize::MAX);
    assert!(matches!(refused[..], [Err(FrameError::UnexpectedAhs { .. })]));
}

#[test]
fn limits_change_between_two_pdus_of_one_receive() {
    let mut bytes = wire(BIG, [command(16).into()]);
    bytes.extend(wire(BOTH, [data_out(9000).into()]));
    let mut deframer = deframer(1 << 16, FrameLimits::LOGIN);
    deframer.buffer().extend_from_slice(&bytes);
    assert_eq!(deframer.next(), Ok(Some(expected(command(16)))));
    deframer.set_limits(BOTH);
    assert_eq!(deframer.next(), Ok(Some(expected(data_out(9000)))));
}

#[test]
fn a_damaged_header_is_fatal_and_damaged_data_is_not() {
    let clean = wire(BOTH, [data_out(5).into(), command(20).into()]);
    let data_at = BHS_LEN + DIGEST_LEN;
    for bit in 0..clean.len() * 8 {
        let mut bytes = clean.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let got = receive(&mut deframer(1 << 16, BOTH), &bytes, usize::MAX);
        let at = bit / 8;
        let data_end = data_at + 8 + DIGEST_LEN;
        if at < data_at {
            // A flipped AHS length may also ask for more bytes than there are.
            assert!(matches!(got[..], [] | [Err(FrameError::HeaderDigest)]), "byte {at}: {got:?}");
        } else if at < data_end {
            assert!(
                matches!(got[0], Err(FrameError::DataDigest { bhs }) if bhs.opcode() == Opcode::DATA_OUT),
                "byte {at}"
            );
            assert_eq!(got[1], Ok(expected(command(20))), "the stream goes on");
        } else {
            assert_eq!(got[0], Ok(expected(data_out(5))));
            assert!(matches!(got[1..], [] | [Err(FrameError::HeaderDigest)]), "byte {at}: {got:?}");
        }
    }
}

#[test]
fn headers_of_a_batch_leave_as_one_segment() {
    let mut encoder = Encoder::new();
    for _ in 0..20 {
        encoder.put(command(16));
        encoder.put(data_out(100));
    }
    assert_eq!(encoder.drain().count(), 1, "headers and short data are neighbours");
    let long = data_out(4096);
    let place = long.data.segments()[0].as_ptr();
    encoder.put(command(16));
    encoder.put(long);
    encoder.put(command(16));
    let segments: Vec<_> = encoder.drain().collect();
    assert_eq!(segments.iter().map(Bytes::len).collect::<Vec<_>>(), [96, 4096, 48]);
    assert_eq!(segments[1].as_ptr(), place, "long data is handed on, not copied");
}

fn any_pdu() -> impl Strategy<Value = RawPdu> {
    prop_oneof![
        (16usize..=260).prop_map(|len| expected(command(len))),
        (0usize..300).prop_map(|len| expected(data_out(len))),
        (0usize..70_000).prop_map(|len| expected(data_out(len))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_yields_the_same_pdus(pdus in proptest::collection::vec(any_pdu(), 1..12),
                                    step in prop_oneof![1usize..200, 200usize..100_000],
                                    chunk in 0usize..100_000,
                                    header_digest: bool, data_digest: bool) {
        let limits = FrameLimits { header_digest, data_digest, ..BIG };
        let bytes = wire(limits, pdus.clone());
        let got: Result<Vec<_>, _> = receive(&mut deframer(chunk, limits), &bytes, step).into_iter().collect();
        prop_assert_eq!(got, Ok(pdus));
    }

    #[test]
    fn any_bytes_are_safe_and_bounded(bytes in proptest::collection::vec(any::<u8>(), 0..20_000),
                                      valid in proptest::collection::vec(any_pdu(), 0..3),
                                      flips in proptest::collection::vec((any::<proptest::sample::Index>(), 0u8..8), 0..4),
                                      step in 1usize..5000, max_data in 0u32..20_000,
                                      header_digest: bool, data_digest: bool, allow_ahs: bool) {
        let limits = FrameLimits { max_data, header_digest, data_digest, allow_ahs };
        let mut stream = wire(limits, valid);
        for (index, bit) in flips {
            if !stream.is_empty() {
                let at = index.index(stream.len());
                stream[at] ^= 1 << bit;
            }
        }
        stream.extend(bytes);
        let mut deframer = deframer(8192, limits);
        for pdu in receive(&mut deframer, &stream, step).into_iter().flatten() {
            prop_assert!(pdu.data.len() <= max_data as usize);
            prop_assert!(allow_ahs || pdu.ahs.is_empty());
            prop_assert_eq!(pdu.data.len(), pdu.bhs.data_len().get());
            let _ = crate::pdu::Request::parse(pdu.clone());
            let _ = crate::pdu::Response::parse(pdu);
        }
        prop_assert!(deframer.buffer.capacity() <= 8192 + BHS_LEN + crate::pdu::MAX_AHS_LEN + COPY_LIMIT + 16);
    }
}
