//! The link's frames and handshake, the mirror database, and the pages of both logs. Their decoders are private to the crate; it has
//! an entry for each that takes bytes.

use twinlun_mirror::fuzz;
use twinlun_mirror::link::fuzz as link;

use crate::engine::{Probe, Target};
use crate::input::{Rng, Source};

pub(crate) fn targets() -> Vec<Target> {
    let choices = |rng: &mut Rng| {
        let len = rng.len(400);
        rng.bytes(len)
    };
    let target = |name, execs, fresh, run| Target { name, execs, longest: 6000, work: (512, 4), fresh, run };
    vec![
        target("link-wire", 60_000, frames, wire),
        target("link-handshake", 20_000, choices, handshake),
        target("mirror-record", 30_000, records, record),
        target("mirror-page", 30_000, choices, page),
    ]
}

/// Headers whose kind, code, flags and lengths fit, and payloads.
fn frames(rng: &mut Rng) -> Vec<u8> {
    let mut out = rng.bytes(5);
    out[0] &= 0x7f;
    for _ in 0..rng.len(6) {
        let mut header = [0; 88];
        let kind = 1 + rng.below(7) as u8;
        let code = match kind {
            6 => 1 + rng.below(5) as u8,
            7 => rng.below(9) as u8,
            _ => 0,
        };
        let has_payload = matches!((kind, code), (3..=5, _) | (6, 1) | (7, 0));
        let len = if has_payload { rng.len(200) } else { 0 };
        (header[4], header[5]) = (kind, code);
        header[16] = rng.next() as u8;
        if kind == 6 && code == 1 {
            header[6] = rng.next() as u8 & 5;
        }
        if matches!(kind, 2 | 6) {
            header[40..48].copy_from_slice(&(1 + rng.next() % 65_536).to_le_bytes());
            let length = if has_payload {
                len as u64
            } else if code == 5 {
                0
            } else {
                1 + rng.next() % 65_536
            };
            header[48..56].copy_from_slice(&length.to_le_bytes());
        }
        if kind == 6 {
            header[56..72].copy_from_slice(&rng.bytes(16));
            header[72] = rng.next() as u8;
        }
        header[76..80].copy_from_slice(&(len as u32).to_le_bytes());
        out.extend(header);
        out.extend(rng.bytes(len));
    }
    out
}

fn wire(input: &[u8], probe: &mut Probe) {
    let (head, rest) = input.split_at(input.len().min(5));
    let mut bytes = rest.to_vec();
    // Unsealed bytes hardly ever get past the first checksum.
    if head.first().is_none_or(|choice| choice & 0x80 == 0) {
        link::seal(&mut bytes);
    }
    let stream = link::wire(&bytes, head.get(1..).unwrap_or_default());
    probe.work(stream.frames);
    probe.size("frames", stream.frames);
    let error = stream.error.map(|error| error.chars().filter(|c| !c.is_ascii_digit()).collect::<String>());
    probe.saw((stream.last, error));
}

fn handshake(input: &[u8], probe: &mut Probe) {
    let mut source = Source::new(input);
    let sealed = source.flag();
    let changes: Vec<_> =
        (0..source.below(4)).map(|_| (source.byte(), source.byte(), source.byte())).collect();
    probe.saw(format!("{:?}", link::handshake(&changes, sealed)));
}

fn records(rng: &mut Rng) -> Vec<u8> {
    let mut all = fuzz::samples();
    let which = rng.below(all.len());
    all.swap_remove(which)
}

fn record(input: &[u8], probe: &mut Probe) {
    probe.saw(fuzz::record(input));
}

fn page(input: &[u8], probe: &mut Probe) {
    let mut source = Source::new(input);
    let size = source.number().saturating_mul(1 << 20).saturating_add(source.number());
    let (shift, number) = (20 + source.below(12) as u32, source.number() as u32);
    let genuine: Vec<_> = (0..source.below(5)).map(|_| (source.number(), source.number())).collect();
    let at = source.u16() as usize;
    let outcome = fuzz::page(size, shift, number, &genuine, at, source.rest());
    probe.saw(outcome);
}
