//! Entries for fuzzing: this module's decoders behind plain bytes. They panic when a property does not hold.

use std::rc::Rc;

use bytes::BytesMut;

use super::config::LinkKey;
use super::handshake::{Dialling, Identity, Listening, MESSAGE_LEN, Message};
use super::message::{DataOp, MAX_CONTROL, MAX_DATA, Request, Response};
use super::wire::{Decoder, Encoder, Frame, FrameBody, HEADER_LEN, Window, WireError};
use twinlun_block::ByteRange;

const TAG: u64 = 0x1234_5678_9abc_def0;
const MAGIC: &[u8; 4] = b"TwLf";

/// What a stream of bytes was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Frames that were believed.
    pub frames: usize,
    /// Kind of the last of them, for telling outcomes apart.
    pub last: String,
    /// Why the rest was not.
    pub error: Option<String>,
}

/// Makes right what no peer that has the key gets wrong: magic, number, tag and both checksums of every header that its predecessor's
/// length leads to. Everything else stays as it is.
pub fn seal(bytes: &mut [u8]) {
    let (mut at, mut sequence) = (0, 0u64);
    while let Some(header) = bytes.get(at..at + HEADER_LEN) {
        let len = u32::from_le_bytes([header[76], header[77], header[78], header[79]]) as usize;
        let payload_at = at + HEADER_LEN;
        let end = payload_at.saturating_add(len).min(bytes.len());
        let sum = crc32c::crc32c(&bytes[payload_at..end]);
        let header = &mut bytes[at..payload_at];
        header[..4].copy_from_slice(MAGIC);
        header[8..16].copy_from_slice(&sequence.to_le_bytes());
        header[24..32].copy_from_slice(&TAG.to_le_bytes());
        header[80..84].copy_from_slice(&sum.to_le_bytes());
        let sum = crc32c::crc32c(&header[..84]);
        header[84..].copy_from_slice(&sum.to_le_bytes());
        (at, sequence) = (end, sequence + 1);
    }
}

/// Decodes a stream in pieces of these sizes: as many frames as when it comes whole, none beyond its limits, and each survives the way
/// back.
pub fn wire(bytes: &[u8], cuts: &[u8]) -> Stream {
    let (whole, error) = decode(bytes, &[]);
    assert_eq!(decode(bytes, cuts), (whole.clone(), error), "pieces make no difference");
    let mut encoder = Encoder::new(TAG);
    let mut again = Vec::new();
    for frame in &whole {
        check(frame);
        let (header, payload) = encoder.encode(frame.request, frame.body.clone());
        again.extend_from_slice(&header);
        payload.segments().iter().for_each(|segment| again.extend_from_slice(segment));
    }
    assert_eq!(decode(&again, &[]), (whole.clone(), None), "frames survive the way back");
    let last = whole.last().map_or_else(String::new, |frame| {
        format!("{:?}", frame.body).chars().filter(char::is_ascii_alphabetic).take(24).collect()
    });
    Stream { frames: whole.len(), last, error: error.map(|error| format!("{error:?}")) }
}

fn decode(bytes: &[u8], cuts: &[u8]) -> (Vec<Frame>, Option<WireError>) {
    let mut decoder = Decoder::new(TAG, BytesMut::new());
    let (mut frames, mut rest, mut cuts) = (Vec::new(), bytes, cuts.iter().cycle());
    loop {
        match decoder.next() {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) if rest.is_empty() => return (frames, None),
            Ok(None) => {
                let room = decoder.room();
                let spare = room.capacity() - room.len();
                assert!(
                    spare > 0 && room.capacity() <= 1 << 20,
                    "room, and not too much: {}",
                    room.capacity()
                );
                let cut = cuts.next().map_or(usize::MAX, |cut| usize::from(*cut) + 1);
                let (piece, behind) = rest.split_at(cut.min(spare).min(rest.len()));
                room.extend_from_slice(piece);
                rest = behind;
            }
            Err(error) => return (frames, Some(error)),
        }
    }
}

/// What the layers above rely on.
fn check(frame: &Frame) {
    match &frame.body {
        FrameBody::Request(Request::Data(data)) => {
            if let DataOp::Write { payload, .. } | DataOp::WriteAtomic { payload, .. } = &data.op {
                assert!(payload.len() as u64 == data.range.len() && payload.len() <= MAX_DATA);
            }
            assert!(ByteRange::checked(data.range.offset(), data.range.len()).is_some());
            assert!(!matches!(data.op, DataOp::Read) || data.range.len() <= MAX_DATA as u64);
        }
        FrameBody::Request(Request::Control(message)) | FrameBody::Response(Response::Control(message)) => {
            assert!(message.len() <= MAX_CONTROL);
        }
        FrameBody::Response(Response::Data(_, payload)) => assert!(payload.len() <= MAX_DATA),
        FrameBody::Open(Window { requests, bytes }) => assert!(*requests > 0 && *bytes > 0),
        FrameBody::Heartbeat | FrameBody::Goodbye(_) => {}
    }
}

/// What became of a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// How far each end came: messages that it believed.
    pub dialling: u8,
    /// The same of the listening end.
    pub listening: u8,
    /// The first refusal.
    pub error: Option<String>,
}

/// A handshake of two honest ends over a wire that changes bytes: `changes` are the message (0 to 3), the place and what is flipped
/// there; with `sealed` the message's checksum is made right again. Neither end trusts a conversation that the other did not have.
pub fn handshake(changes: &[(u8, u8, u8)], sealed: bool) -> Handshake {
    let key = LinkKey::new(b"a key for tests only".to_vec()).expect("long enough");
    let identity = |unit: &str| Identity { unit: Rc::from(unit), key: key.clone() };
    let mut changed = false;
    let mut pass = |number: u8, message: Message| {
        let mut out = message;
        for (_, at, flip) in changes.iter().filter(|change| change.0 % 4 == number) {
            out[usize::from(*at) % MESSAGE_LEN] ^= flip;
        }
        if sealed && out != message {
            let sum = crc32c::crc32c(&out[..124]);
            out[124..].copy_from_slice(&sum.to_le_bytes());
        }
        // Bytes 40 to 123 of a proof are reserved, so that nothing but the checksum guards them.
        let checked = if sealed && number >= 2 { 40 } else { MESSAGE_LEN };
        changed |= out[..checked] != message[..checked];
        out
    };
    let mut result = Handshake { dialling: 0, listening: 0, error: None };
    let outcome = (|| {
        let (dialling, hello) = Dialling::start(&identity("east"), &Rc::from("west"), [1; 32]);
        let known = |name: &str| (name == "east").then(|| Rc::from("east"));
        let (listening, hello) = Listening::on_hello(&identity("west"), &pass(0, hello), [2; 32], known)?;
        result.listening = 1;
        let (proven, proof) = dialling.on_hello(&pass(1, hello))?;
        result.dialling = 1;
        let (theirs, proof) = listening.on_proof(&pass(2, proof))?;
        result.listening = 2;
        let ours = proven.on_proof(&pass(3, proof))?;
        result.dialling = 2;
        assert!(ours.session == theirs.session && ours.version == theirs.version);
        assert!(ours.send_tag == theirs.receive_tag && ours.receive_tag == theirs.send_tag);
        Ok::<_, super::handshake::HandshakeError>(())
    })();
    if changed {
        assert!(result.dialling < 2, "a changed conversation is not trusted");
    } else {
        assert!(result.dialling == 2, "an unchanged one is");
    }
    result.error = outcome.err().map(|error| format!("{error:?}"));
    result
}
