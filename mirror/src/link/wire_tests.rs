use super::*;
use proptest::prelude::*;

const TAG: u64 = 0x1234_5678_9abc_def0;

/// The bytes of some frames, as they leave.
fn encoded(frames: &[Frame]) -> Vec<u8> {
    let mut encoder = Encoder::new(TAG);
    let mut out = Vec::new();
    for frame in frames {
        let (header, payload) = encoder.encode(frame.request, frame.body.clone());
        out.extend_from_slice(&header);
        payload.segments().iter().for_each(|segment| out.extend_from_slice(segment));
    }
    out
}

/// Feeds bytes in pieces of the given sizes (the last size repeats) and gathers what comes out.
fn decoded(bytes: &[u8], pieces: &[usize], room: usize) -> Result<Vec<Frame>, WireError> {
    let mut decoder = Decoder::new(TAG, BytesMut::with_capacity(room));
    let mut frames = Vec::new();
    let mut sizes = pieces.iter().copied().chain(std::iter::repeat(*pieces.last().unwrap_or(&1)));
    let mut rest = bytes;
    loop {
        while let Some(frame) = decoder.next()? {
            frames.push(frame);
        }
        if rest.is_empty() {
            return Ok(frames);
        }
        let space = decoder.room();
        let take = sizes.next().unwrap_or(1).max(1).min(rest.len()).min(space.capacity() - space.len());
        assert!(take > 0, "a decoder that wants more has room for it");
        space.extend_from_slice(&rest[..take]);
        rest = &rest[take..];
    }
}

fn payload() -> impl Strategy<Value = Payload> {
    proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..4).prop_map(|parts| {
        let mut payload = Payload::new();
        parts.into_iter().for_each(|part| payload.push(part.into()));
        payload
    })
}

fn data_op() -> impl Strategy<Value = (DataOp, u64)> {
    prop_oneof![
        (payload(), any::<bool>()).prop_map(|(payload, stable)| {
            let len = payload.len() as u64;
            (DataOp::Write { payload, stable }, len)
        }),
        (payload(), any::<bool>()).prop_map(|(payload, stable)| {
            let len = payload.len() as u64;
            (DataOp::WriteAtomic { payload, stable }, len)
        }),
        (any::<bool>(), any::<bool>(), any::<u32>())
            .prop_map(|(may_unmap, stable, len)| (DataOp::WriteZeroes { may_unmap, stable }, len.into())),
        any::<u32>().prop_map(|len| (DataOp::Unmap, len.into())),
        (0..=MAX_DATA as u64).prop_map(|len| (DataOp::Read, len)),
        Just((DataOp::Flush, 0)),
    ]
}

fn status() -> impl Strategy<Value = DataStatus> {
    prop_oneof![
        Just(DataStatus::StaleEpoch),
        Just(DataStatus::NotAttached),
        any::<u64>().prop_map(|offset| DataStatus::Failed(BlockError::Medium { offset })),
        any::<u64>().prop_map(|offset| DataStatus::Failed(BlockError::Miscompare { offset })),
        Just(DataStatus::Failed(BlockError::NoSpace)),
        Just(DataStatus::Failed(BlockError::NotServed)),
        Just(DataStatus::Failed(BlockError::NotReady)),
        Just(DataStatus::Failed(BlockError::Aborted)),
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    let message = || proptest::collection::vec(any::<u8>(), 0..500).prop_map(Bytes::from);
    let data = (data_op(), any::<[u8; 16]>(), any::<(u16, u64, bool)>(), 0u64..1 << 62).prop_map(
        |((op, len), image, (lu, epoch, copy), offset)| {
            let range = ByteRange::new(if op == DataOp::Flush { 0 } else { offset }, len);
            FrameBody::Request(Request::Data(DataRequest { image, lu, epoch, range, copy, op }))
        },
    );
    let body = prop_oneof![
        Just(FrameBody::Heartbeat),
        (1u32.., 1u32..).prop_map(|(requests, bytes)| FrameBody::Open(Window { requests, bytes })),
        proptest::collection::vec(any::<u8>(), 0..MAX_GOODBYE)
            .prop_map(|text| FrameBody::Goodbye(text.into())),
        message().prop_map(|message| FrameBody::Request(Request::Control(message))),
        message().prop_map(|message| FrameBody::Response(Response::Control(message))),
        payload().prop_map(|data| FrameBody::Response(Response::Data(DataStatus::Done, data))),
        status().prop_map(|status| FrameBody::Response(Response::Data(status, Payload::new()))),
        data,
    ];
    (any::<u64>(), body).prop_map(|(request, body)| Frame { request, body })
}

/// Puts a correct checksum on a header that was tampered with.
fn reseal(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(&bytes[..84]);
    bytes[84..88].copy_from_slice(&crc.to_le_bytes());
}

proptest! {
    #[test]
    fn frames_come_out_as_they_went_in(frames in proptest::collection::vec(frame(), 0..8),
                                       pieces in proptest::collection::vec(1usize..400, 1..20), room in 0usize..300) {
        prop_assert_eq!(decoded(&encoded(&frames), &pieces, room).unwrap(), frames);
    }

    #[test]
    fn no_damaged_bit_goes_unseen(frame in frame(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = encoded(std::slice::from_ref(&frame));
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(decoded(&bytes, &[64], 0).is_err());
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = decoded(&bytes, &[97], 0);
    }

    /// Hostile but authentic: right magic, tag, sequence and checksums, and nonsense in every other field.
    #[test]
    fn any_authentic_header_is_survived(mut header in proptest::collection::vec(any::<u8>(), HEADER_LEN),
                                        kind in 0u8..9, code in 0u8..10, flags in 0u16..9, len in 0u32..200,
                                        calm in any::<bool>()) {
        header[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[8..16].copy_from_slice(&0u64.to_le_bytes());
        header[24..32].copy_from_slice(&TAG.to_le_bytes());
        if calm {
            header[4] = kind;
            header[5] = code;
            header[6..8].copy_from_slice(&flags.to_le_bytes());
            header[74..76].fill(0);
            header[76..80].copy_from_slice(&len.to_le_bytes());
            let crc = crc32c::crc32c(&vec![0; len as usize]);
            header[80..84].copy_from_slice(&crc.to_le_bytes());
        }
        reseal(&mut header);
        header.resize(HEADER_LEN + len as usize, 0);
        if let Ok(frames) = decoded(&header, &[97], 0) {
            for frame in frames {
                let sendable = match &frame.body {
                    FrameBody::Request(request) => request.is_sendable(),
                    _ => true,
                };
                prop_assert!(sendable, "a request that no sender may make came through: {:?}", frame);
            }
        }
    }
}

#[test]
fn lost_repeated_and_foreign_frames_are_told_apart() {
    let beat = Frame { request: 0, body: FrameBody::Heartbeat };
    let bytes = encoded(&[beat.clone(), beat.clone(), beat]);
    let skipped = [&bytes[..HEADER_LEN], &bytes[2 * HEADER_LEN..]].concat();
    assert_eq!(decoded(&skipped, &[1], 0), Err(WireError::Sequence { expected: 1, got: 2 }));
    let repeated = [&bytes[..HEADER_LEN], &bytes[..HEADER_LEN]].concat();
    assert_eq!(decoded(&repeated, &[1], 0), Err(WireError::Sequence { expected: 1, got: 0 }));
    let mut foreign = bytes[..HEADER_LEN].to_vec();
    foreign[24] ^= 1;
    reseal(&mut foreign);
    assert_eq!(decoded(&foreign, &[1], 0), Err(WireError::Tag));
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_anything_is_kept() {
    let mut bytes =
        encoded(&[Frame { request: 1, body: FrameBody::Request(Request::Control(Bytes::new())) }]);
    bytes[76..80].copy_from_slice(&(MAX_CONTROL as u32 + 1).to_le_bytes());
    reseal(&mut bytes);
    assert_eq!(decoded(&bytes, &[88], 0), Err(WireError::PayloadLength { len: MAX_CONTROL + 1 }));
}

#[test]
fn a_long_payload_is_cut_from_the_receive_buffers_without_copying() {
    let data = Bytes::from(vec![7; MAX_DATA]);
    let op = DataOp::Write { payload: data.clone().into(), stable: true };
    let range = ByteRange::new(4096, MAX_DATA as u64);
    let request = Request::Data(DataRequest { image: [1; 16], lu: 3, epoch: 9, range, copy: true, op });
    let frame = Frame { request: 5, body: FrameBody::Request(request) };
    let mut frames = decoded(&encoded(std::slice::from_ref(&frame)), &[1 << 20], 0).unwrap();
    assert_eq!(frames, [frame]);
    let FrameBody::Request(Request::Data(DataRequest { op: DataOp::Write { payload, .. }, .. })) =
        frames.remove(0).body
    else {
        panic!("a write went in");
    };
    assert!(payload.segments().len() <= MAX_DATA / BUFFER_LEN + 1, "{} segments", payload.segments().len());
}

#[test]
fn payloads_are_sent_from_where_they_lie() {
    let data = Bytes::from(vec![1; 8192]);
    let mut encoder = Encoder::new(TAG);
    let response = Response::Data(DataStatus::Done, data.clone().into());
    let (_, payload) = encoder.encode(1, FrameBody::Response(response));
    assert_eq!(payload.segments()[0].as_ptr(), data.as_ptr());
}
