//! iSNS: what a server, or whoever passes for one, sends to the storage processor.

use twinlun_iscsi::isns::{
    Attribute, AttributeWriter, Function, Message, MessageReader, Sender, Tag, attributes, notification,
    reply,
};

use crate::engine::{Probe, Target};
use crate::input::{Rng, Source};

pub(crate) fn targets() -> Vec<Target> {
    vec![Target { name: "isns", execs: 100_000, longest: 4096, work: (4096, 4), fresh, run }]
}

/// Bytes on the wire: messages of servers, cut and changed.
fn fresh(rng: &mut Rng) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..rng.len(4) {
        let functions = [0x0001, 0x0005, 0x0008, 0x000d, 0x8001, 0x8004, 0x8005, 0xffff];
        let mut payload = AttributeWriter::default();
        for _ in 0..rng.len(8) {
            let tags = [0, 1, 2, 4, 6, 16, 17, 20, 23, 32, 33, 35, 51];
            let tag = Tag(tags[rng.below(tags.len())]);
            let len = rng.len(20);
            payload = match rng.below(3) {
                0 => payload.number(tag, rng.next() as u32),
                1 => payload.text(tag, "iqn.2026-11.io.twinlun:east"),
                _ => payload.bytes(tag, &rng.bytes(len)),
            };
        }
        let message = Message {
            function: Function(functions[rng.below(functions.len())]),
            transaction: rng.next() as u16,
            replace: rng.below(2) == 0,
            payload: payload.finish(),
        };
        out.extend(message.encode(Sender::Server));
    }
    out
}

fn run(input: &[u8], probe: &mut Probe) {
    let mut source = Source::new(input);
    let first = source.byte();
    let bytes = if first & 1 == 0 { input } else { source.rest() };
    let mut reader = MessageReader::default();
    for piece in bytes.chunks(usize::from(first) + 1) {
        if let Err(error) = reader.push(piece) {
            probe.saw(format!("{error:?}"));
            return;
        }
        loop {
            match reader.next_message() {
                Ok(Some(message)) => understood(&message, probe),
                Ok(None) => break,
                Err(error) => {
                    probe.saw(std::mem::discriminant(&error));
                    return;
                }
            }
        }
    }
}

fn understood(message: &Message, probe: &mut Probe) {
    probe.work(1);
    probe.saw((message.function.0, message.payload.len() / 64));
    let mut again = MessageReader::default();
    again.push(&message.encode(Sender::Server)).expect("what was read is not too long");
    assert_eq!(
        again.next_message().as_ref(),
        Ok(&Some(message.clone())),
        "what is written is read as the same"
    );
    if let Ok(said) = notification(message) {
        probe.size("said", said.len());
    }
    if let Some(answer) = reply(message) {
        assert_eq!((answer.transaction, answer.function), (message.transaction, message.function.response()));
        let (_, rest) = answer.status().expect("an answer has a status");
        assert!(rest.len() <= message.payload.len() && attributes(rest).is_ok());
    }
    if let Ok(found) = attributes(&message.payload) {
        probe.work(found.len());
        let written = found
            .iter()
            .fold(AttributeWriter::default(), |out, Attribute { tag, value }| out.bytes(*tag, value));
        assert_eq!(written.finish(), message.payload);
        for attribute in found {
            probe.saw((attribute.tag.0.min(64), attribute.number().is_some(), attribute.text().is_some()));
            probe.saw(attribute.address().map(|address| address.is_ipv4()));
        }
    }
}
