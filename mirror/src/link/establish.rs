//! The handshake over a stream.

use std::io;

use bytes::BytesMut;
use twinlun_block::Payload;
use twinlun_io::{Shard, Stream, TimedOut};

use super::connection::End;
use super::handshake::{Dialling, Established, HandshakeError, Identity, Listening, MESSAGE_LEN, Message};
use super::peer::Peer;

/// Why a connection came to nothing before it was a session.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("connecting took too long")]
    ConnectTimeout,
    #[error("connection failed in the handshake: {0}")]
    Io(#[from] io::Error),
    #[error("connection closed in the handshake")]
    Closed,
    #[error("handshake took too long")]
    Timeout(#[from] TimedOut),
    #[error("{0}")]
    NotOpened(End),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

/// An authenticated stream.
pub(super) struct Fresh {
    pub(super) keys: Established,
    /// What came together with the last message: the first frames.
    pub(super) early: BytesMut,
}

/// Receives the messages of a handshake; holds little until the other end has proven who it is.
struct Inbox {
    buffer: BytesMut,
}

impl Inbox {
    fn new() -> Self {
        Self { buffer: BytesMut::with_capacity(2 * MESSAGE_LEN) }
    }

    async fn message(&mut self, stream: &Stream) -> Result<Message, Failure> {
        while self.buffer.len() < MESSAGE_LEN {
            self.buffer.reserve(MESSAGE_LEN);
            if stream.recv(&mut self.buffer).await? == 0 {
                return Err(Failure::Closed);
            }
        }
        let message = self.buffer.split_to(MESSAGE_LEN);
        Ok(message[..].try_into().expect("split at this length"))
    }
}

async fn send(stream: &Stream, message: &Message) -> Result<(), Failure> {
    Ok(stream.send_all(&Payload::from(message.to_vec())).await?)
}

fn nonce(shard: &Shard) -> [u8; 32] {
    let mut nonce = [0; 32];
    shard.fill_random(&mut nonce);
    nonce
}

/// The dialling end's part.
pub(super) async fn dial(
    shard: &Shard,
    stream: &Stream,
    identity: &Identity,
    peer: &Peer,
) -> Result<Fresh, Failure> {
    let mut inbox = Inbox::new();
    let (dialling, hello) = Dialling::start(identity, peer.unit(), nonce(shard));
    send(stream, &hello).await?;
    let (proven, proof) = dialling.on_hello(&inbox.message(stream).await?)?;
    send(stream, &proof).await?;
    let keys = proven.on_proof(&inbox.message(stream).await?)?;
    Ok(Fresh { keys, early: inbox.buffer })
}

/// The listening end's part; also says which peer it is.
pub(super) async fn listen(
    shard: &Shard,
    stream: &Stream,
    identity: &Identity,
    known: impl Fn(&str) -> Option<Peer>,
) -> Result<(Peer, Fresh), Failure> {
    let result = answer(shard, stream, identity, known).await;
    if let Err(Failure::Handshake(error)) = &result
        && let Some(refusal) = error.refusal()
    {
        // It is a courtesy; who does not take it does without.
        let _ = send(stream, &refusal).await;
    }
    result
}

async fn answer(
    shard: &Shard,
    stream: &Stream,
    identity: &Identity,
    known: impl Fn(&str) -> Option<Peer>,
) -> Result<(Peer, Fresh), Failure> {
    let mut inbox = Inbox::new();
    let message = inbox.message(stream).await?;
    let name_of = |name: &str| known(name).map(|peer| peer.unit().clone());
    let (listening, hello) = Listening::on_hello(identity, &message, nonce(shard), name_of)?;
    let peer = known(&listening.peer).ok_or(HandshakeError::Malformed)?;
    send(stream, &hello).await?;
    let (keys, proof) = listening.on_proof(&inbox.message(stream).await?)?;
    send(stream, &proof).await?;
    Ok((peer, Fresh { keys, early: inbox.buffer }))
}
