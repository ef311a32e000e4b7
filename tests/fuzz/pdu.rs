//! Framing and PDUs of both directions.

use bytes::Bytes;
use twinlun_block::Payload;
use twinlun_iscsi::pdu::{BHS_LEN, Bhs, RawPdu, Request, Response};
use twinlun_iscsi::{Deframer, Encoder, FrameError, FrameLimits};

use crate::engine::{Probe, Target};
use crate::input::{Rng, Source, pattern};

pub(crate) fn targets() -> Vec<Target> {
    vec![
        Target {
            name: "iscsi-pdu",
            execs: 60_000,
            longest: 4096,
            // The choices of one input may stand for eight PDUs of 2 KiB, received byte by byte, twice.
            work: (80_000, 4),
            fresh: |rng| {
                let len = rng.len(1500);
                rng.bytes(len)
            },
            run,
        },
        Target {
            name: "iscsi-stream",
            execs: 150_000,
            longest: 4096,
            work: (256, 4),
            fresh: |rng| stream(rng),
            run: |input, probe| {
                let (head, bytes) = input.split_at(input.len().min(8));
                check_stream(bytes, limits(&mut Source::new(head)), head, probe);
            },
        },
    ]
}

const OPCODES: [u8; 18] = [
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x31, 0x32,
    0x3f,
];

fn limits(source: &mut Source<'_>) -> FrameLimits {
    let flags = source.byte();
    FrameLimits {
        max_data: [8192, 512, 65_536, 0xff_ffff][usize::from(flags >> 6)],
        header_digest: flags & 1 != 0,
        data_digest: flags & 2 != 0,
        allow_ahs: flags & 4 == 0,
    }
}

/// Bytes of a few headers with lengths that fit, as raw material for mutations.
fn stream(rng: &mut Rng) -> Vec<u8> {
    let mut out = rng.bytes(8);
    out[0] &= 0xfc;
    for _ in 0..rng.len(6) {
        let len = rng.len(80);
        let mut header = if rng.below(2) == 0 { [0; BHS_LEN].to_vec() } else { rng.bytes(BHS_LEN) };
        header[0] = OPCODES[rng.below(OPCODES.len())] | if rng.below(4) == 0 { 0x40 } else { 0 };
        header[4] = 0;
        header[5..8].copy_from_slice(&[0, 0, len as u8]);
        out.extend(header);
        out.extend(rng.bytes(len.next_multiple_of(4)));
    }
    out
}

/// PDUs that are built field by field, sent with digests, damaged rarely.
fn run(input: &[u8], probe: &mut Probe) {
    let mut source = Source::new(input);
    let limits = limits(&mut source);
    let mut encoder = Encoder::new();
    encoder.set_digests(limits.header_digest, limits.data_digest);
    for _ in 0..source.below(8) + 1 {
        let mut header: [u8; BHS_LEN] = source.array();
        header[0] = source.pick(&OPCODES) | header[0] & 0x40;
        let words = if limits.allow_ahs && source.rarely(4) { source.below(20) } else { 0 };
        let mut ahs = source.take(words * 4).to_vec();
        ahs.resize(words * 4, 0);
        if words > 1 && !source.rarely(4) {
            // One segment that fills the space, of a type that exists.
            let len = (ahs.len() - 3 - source.below(3)) as u16;
            ahs[..2].copy_from_slice(&len.to_be_bytes());
            ahs[2] = 1 + (source.byte() & 1);
        }
        let len = source.number() as usize % 2048;
        encoder.put(RawPdu { bhs: Bhs(header), ahs: ahs.into(), data: pattern(len).into() });
    }
    let mut bytes: Vec<u8> = encoder.drain().flat_map(|piece| piece.to_vec()).collect();
    if source.rarely(4) {
        let at = source.u16() as usize % bytes.len();
        bytes[at] ^= 1 << source.below(8);
    }
    let cuts: [u8; 8] = source.array();
    check_stream(&bytes, limits, &cuts, probe);
}

/// One stream, whole and in pieces: the same PDUs and the same end; every PDU that is understood survives the way back.
fn check_stream(bytes: &[u8], limits: FrameLimits, cuts: &[u8], probe: &mut Probe) {
    let whole = deframe(bytes, limits, &[255], probe);
    let pieces = deframe(bytes, limits, cuts, probe);
    assert_eq!(whole, pieces, "pieces make no difference");
    assert!(whole.0.len() <= bytes.len() / BHS_LEN);
    for raw in whole.0 {
        probe.work(1);
        assert!(raw.data.len() <= limits.max_data as usize);
        match Request::parse(raw.clone()) {
            Ok(request) => {
                probe.saw(("request", raw.bhs.opcode().0, raw.bhs.is_final(), raw.data.is_empty()));
                let again = through_wire(request.clone().into());
                assert_eq!(Request::parse(again), Ok(request));
            }
            Err(error) => probe.saw(format!("{error:?}")),
        }
        match Response::parse(raw.clone()) {
            Ok(response) => {
                probe.saw(("response", raw.bhs.opcode().0, raw.bhs.is_final(), raw.data.is_empty()));
                let again = through_wire(response.clone().into());
                assert_eq!(Response::parse(again), Ok(response));
            }
            Err(error) => probe.saw(format!("{error:?}")),
        }
    }
}

fn deframe(
    bytes: &[u8],
    limits: FrameLimits,
    cuts: &[u8],
    probe: &mut Probe,
) -> (Vec<RawPdu>, Vec<FrameError>) {
    let mut deframer = Deframer::new(4096);
    deframer.set_limits(limits);
    let (mut found, mut errors, mut rest) = (Vec::new(), Vec::new(), bytes);
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let cut = cuts.next().map_or(256, |cut| usize::from(*cut) * 3 + 1);
        let buffer = deframer.buffer();
        let spare = buffer.capacity() - buffer.len();
        assert!(spare > 0 && buffer.capacity() <= 64 << 10, "room, and not too much: {}", buffer.capacity());
        let (piece, behind) = rest.split_at(cut.min(spare).min(rest.len()));
        buffer.extend_from_slice(piece);
        rest = behind;
        loop {
            probe.work(1);
            match deframer.next() {
                Ok(Some(raw)) => found.push(raw),
                Ok(None) => break,
                Err(error) => {
                    probe.saw(std::mem::discriminant(&error));
                    let fatal = error.is_fatal();
                    errors.push(error);
                    if fatal {
                        assert_eq!(deframer.next(), Err(error), "once dead, always dead");
                        return (found, errors);
                    }
                }
            }
        }
    }
    probe.size("pdus", found.len());
    (found, errors)
}

/// Encoded with digests and read back.
fn through_wire(pdu: RawPdu) -> RawPdu {
    let mut encoder = Encoder::new();
    encoder.set_digests(true, true);
    encoder.put(pdu);
    let mut deframer = Deframer::new(4096);
    deframer.set_limits(FrameLimits {
        max_data: 0xff_ffff,
        header_digest: true,
        data_digest: true,
        allow_ahs: true,
    });
    for piece in encoder.drain().collect::<Vec<Bytes>>() {
        deframer.buffer().extend_from_slice(&piece);
    }
    let raw = deframer.next().expect("what was encoded is whole").expect("and complete");
    RawPdu { data: Payload::from(raw.data.to_bytes()), ..raw }
}
