//! The handshake: versions, names, mutual proof of the shared key. Pure; every message is [`MESSAGE_LEN`] bytes.
//!
//! ```text
//! dialling                                listening
//!    ── hello (versions, name, nonce) ──────▶
//!    ◀── hello ──────────────────────── or refusal
//!    ── proof: HMAC(key, "dial", both hellos) ─▶
//!    ◀── proof: HMAC(key, "listen", both hellos) or refusal
//! ```
//!
//! The two proofs have different labels and the hellos carry their role, so nothing a party sent can be used against
//! it; the hellos carry fresh nonces, so nothing said before is of use again.

use std::rc::Rc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::config::LinkKey;

/// Bytes of each message of the handshake, in all versions of the protocol.
pub(super) const MESSAGE_LEN: usize = 128;

/// The versions this software speaks.
pub(super) const VERSIONS: (u16, u16) = (1, 1);

/// Longest name of a unit.
pub(super) const MAX_NAME: usize = 64;

const HELLO: [u8; 8] = *b"TwLhello";
const PROOF: [u8; 8] = *b"TwLproof";
const REFUSAL: [u8; 8] = *b"TwLrefus";

pub(super) type Message = [u8; MESSAGE_LEN];

/// Who opened the TCP connection, and so who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Dial,
    Listen,
}

/// What both ends know once they trust each other.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Established {
    /// Number of the session, the same at both ends.
    pub(super) session: u64,
    /// Stands in every header that this end sends.
    pub(super) send_tag: u64,
    /// Stands in every header that this end receives.
    pub(super) receive_tag: u64,
    /// Version of the protocol.
    pub(super) version: u16,
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("not a twinlun link, or damaged")]
    Malformed,
    #[error("speaks protocol versions {lowest} to {highest}, this unit {} to {}", VERSIONS.0, VERSIONS.1)]
    Version { lowest: u16, highest: u16 },
    #[error("unit {0:?} is not configured as a peer")]
    UnknownUnit(String),
    #[error("answers as unit {0:?}")]
    OtherUnit(String),
    #[error("its key is not ours")]
    WrongKey,
    #[error("refused by the peer: {0}")]
    Refused(&'static str),
}

impl HandshakeError {
    /// What the other end is told: enough for its administrator to see which end to mend.
    pub(super) fn refusal(&self) -> Option<Message> {
        let code = match self {
            Self::Version { .. } => 1u16,
            Self::UnknownUnit(_) => 2,
            Self::WrongKey => 3,
            Self::Malformed | Self::OtherUnit(_) | Self::Refused(_) => return None,
        };
        let mut message = [0; MESSAGE_LEN];
        message[..8].copy_from_slice(&REFUSAL);
        message[8..10].copy_from_slice(&code.to_le_bytes());
        Some(sealed(message))
    }
}

/// Whether a name may be a unit's.
pub(super) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// What an end brings along.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) unit: Rc<str>,
    pub(super) key: LinkKey,
}

/// The dialling end, its hello sent.
pub(super) struct Dialling {
    identity: Identity,
    expected: Rc<str>,
    hello: Message,
}

/// The dialling end, its proof sent.
pub(super) struct DialProven {
    keys: Keys,
}

/// The listening end after its hello.
pub(super) struct Listening {
    keys: Keys,
    /// The unit that the other end says it is.
    pub(super) peer: Rc<str>,
}

impl Dialling {
    /// Starts with the hello to send.
    pub(super) fn start(identity: &Identity, expected: &Rc<str>, nonce: [u8; 32]) -> (Self, Message) {
        let hello = hello(Role::Dial, &identity.unit, nonce);
        (Self { identity: identity.clone(), expected: Rc::clone(expected), hello }, hello)
    }

    /// Takes the other end's hello; gives the proof to send.
    pub(super) fn on_hello(self, message: &Message) -> Result<(DialProven, Message), HandshakeError> {
        let theirs = Hello::parse(message, Role::Listen)?;
        if theirs.name != &*self.expected {
            return Err(HandshakeError::OtherUnit(theirs.name.to_owned()));
        }
        let keys = Keys::new(&self.identity.key, &self.hello, message, theirs.version);
        let proof = keys.proof(Role::Dial);
        Ok((DialProven { keys }, proof))
    }
}

impl DialProven {
    /// Takes the other end's proof.
    pub(super) fn on_proof(&self, message: &Message) -> Result<Established, HandshakeError> {
        self.keys.check(Role::Listen, message)?;
        Ok(self.keys.established(Role::Dial))
    }
}

impl Listening {
    /// Takes the other end's hello; gives ours to send. `known` says which of our peers has that name.
    pub(super) fn on_hello(
        identity: &Identity,
        message: &Message,
        nonce: [u8; 32],
        known: impl FnOnce(&str) -> Option<Rc<str>>,
    ) -> Result<(Self, Message), HandshakeError> {
        let theirs = Hello::parse(message, Role::Dial)?;
        let Some(peer) = known(theirs.name) else {
            return Err(HandshakeError::UnknownUnit(theirs.name.to_owned()));
        };
        let ours = hello(Role::Listen, &identity.unit, nonce);
        let keys = Keys::new(&identity.key, message, &ours, theirs.version);
        Ok((Self { keys, peer }, ours))
    }

    /// Takes the other end's proof; gives ours to send.
    pub(super) fn on_proof(&self, message: &Message) -> Result<(Established, Message), HandshakeError> {
        self.keys.check(Role::Dial, message)?;
        Ok((self.keys.established(Role::Listen), self.keys.proof(Role::Listen)))
    }
}

/// A hello of the other end, checked.
struct Hello<'a> {
    name: &'a str,
    /// The highest version that both speak.
    version: u16,
}

/// ```text
/// 0 "TwLhello"  8 lowest version  10 highest version  12 role  13 name length  14 zero
/// 16 nonce (32 bytes)  48 name (64 bytes, zero padded)  112 zero  124 CRC32C over bytes 0–123
/// ```
fn hello(role: Role, name: &str, nonce: [u8; 32]) -> Message {
    debug_assert!(is_name(name), "checked when the link starts");
    let mut message = [0; MESSAGE_LEN];
    message[..8].copy_from_slice(&HELLO);
    message[8..10].copy_from_slice(&VERSIONS.0.to_le_bytes());
    message[10..12].copy_from_slice(&VERSIONS.1.to_le_bytes());
    message[12] = role_code(role);
    message[13] = name.len() as u8; // at most MAX_NAME
    message[16..48].copy_from_slice(&nonce);
    message[48..48 + name.len()].copy_from_slice(name.as_bytes());
    sealed(message)
}

fn role_code(role: Role) -> u8 {
    match role {
        Role::Dial => 1,
        Role::Listen => 2,
    }
}

impl<'a> Hello<'a> {
    fn parse(message: &'a Message, role: Role) -> Result<Self, HandshakeError> {
        expect(message, &HELLO)?;
        let version = |at: usize| u16::from_le_bytes([message[at], message[at + 1]]);
        let (lowest, highest) = (version(8), version(10));
        // Versions come first: a later one may use what is zero or forbidden in this one.
        let common = highest.min(VERSIONS.1);
        if lowest > highest || common < lowest.max(VERSIONS.0) {
            return Err(HandshakeError::Version { lowest, highest });
        }
        if message[12] != role_code(role) {
            return Err(HandshakeError::Malformed);
        }
        let len = usize::from(message[13]);
        let name = message[48..112].get(..len).and_then(|name| std::str::from_utf8(name).ok());
        let name = name.filter(|name| is_name(name)).ok_or(HandshakeError::Malformed)?;
        Ok(Self { name, version: common })
    }
}

/// Puts the checksum at the end.
fn sealed(mut message: Message) -> Message {
    let crc = crc32c::crc32c(&message[..124]);
    message[124..].copy_from_slice(&crc.to_le_bytes());
    message
}

/// Checks the checksum and that it is this kind of message; a refusal in its place is an error of its own.
fn expect(message: &Message, magic: &[u8; 8]) -> Result<(), HandshakeError> {
    if sealed(*message) != *message {
        return Err(HandshakeError::Malformed);
    }
    if message[..8] == REFUSAL {
        return Err(HandshakeError::Refused(match u16::from_le_bytes([message[8], message[9]]) {
            1 => "no common protocol version",
            2 => "this unit is not configured there as a peer",
            3 => "the keys differ",
            _ => "no reason that this version knows",
        }));
    }
    if message[..8] == *magic { Ok(()) } else { Err(HandshakeError::Malformed) }
}

/// The shared key bound to both hellos.
struct Keys {
    key: LinkKey,
    transcript: [u8; 2 * MESSAGE_LEN],
    version: u16,
}

impl Keys {
    fn new(key: &LinkKey, dial: &Message, listen: &Message, version: u16) -> Self {
        let mut transcript = [0; 2 * MESSAGE_LEN];
        transcript[..MESSAGE_LEN].copy_from_slice(dial);
        transcript[MESSAGE_LEN..].copy_from_slice(listen);
        Self { key: key.clone(), transcript, version }
    }

    fn derive(key: &[u8], label: &str, data: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length");
        // The label's length goes first, so that no label and data look like another label and other data.
        mac.update(&(label.len() as u64).to_le_bytes());
        mac.update(label.as_bytes());
        mac.update(data);
        Zeroizing::new(mac.finalize().into_bytes().into())
    }

    fn code(&self, role: Role) -> Zeroizing<[u8; 32]> {
        let label = match role {
            Role::Dial => "twinlun link: proof of the dialling end",
            Role::Listen => "twinlun link: proof of the listening end",
        };
        Self::derive(self.key.bytes(), label, &self.transcript)
    }

    /// ```text
    /// 0 "TwLproof"  8 HMAC-SHA256 (32 bytes)  40 zero  124 CRC32C over bytes 0–123
    /// ```
    fn proof(&self, role: Role) -> Message {
        let mut message = [0; MESSAGE_LEN];
        message[..8].copy_from_slice(&PROOF);
        message[8..40].copy_from_slice(&*self.code(role));
        sealed(message)
    }

    fn check(&self, role: Role, message: &Message) -> Result<(), HandshakeError> {
        expect(message, &PROOF)?;
        let good: bool = message[8..40].ct_eq(&*self.code(role)).into();
        if good { Ok(()) } else { Err(HandshakeError::WrongKey) }
    }

    fn established(&self, role: Role) -> Established {
        let session_key = Self::derive(self.key.bytes(), "twinlun link: session key", &self.transcript);
        let number = |label: &str| {
            let derived = Self::derive(&*session_key, label, &[]);
            u64::from_le_bytes(derived[..8].try_into().expect("eight of 32 bytes"))
        };
        let (dial, listen) = (number("tag of the dialling end"), number("tag of the listening end"));
        let (send_tag, receive_tag) = match role {
            Role::Dial => (dial, listen),
            Role::Listen => (listen, dial),
        };
        Established { session: number("session number"), send_tag, receive_tag, version: self.version }
    }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
