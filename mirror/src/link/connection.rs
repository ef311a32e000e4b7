//! A connection after its handshake: receiving, sending, heartbeats. Both ends of a session drive one.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use twinlun_io::{Instant, Outbox, Shard, Stream};

use super::config::Timing;
use super::handshake::Established;
use super::message::MAX_DATA;
use super::wire::{Decoder, Encoder, Frame, FrameBody, WireError};

/// Receives in a row before others on the shard have their turn.
const ROUNDS: usize = 8;

/// A peer that does not take its answers is not asked for more requests once this much waits for it (L3). One that
/// keeps to its window never sees this.
const BACKLOG: usize = 2 * MAX_DATA;

/// Frames that are announced before the first of them is carried out: as long as it takes to fetch from memory what they concern.
const AHEAD: usize = 4;

/// Takes frames that were received.
pub(super) trait Receiver {
    /// A hint: this frame comes in a moment.
    fn announce(&mut self, frame: &Frame) {
        let _ = frame;
    }

    /// A frame, in the order of their sending.
    fn frame(&mut self, cx: &mut Context<'_>, frame: Frame) -> Result<(), WireError>;
}

impl<F: FnMut(&mut Context<'_>, Frame) -> Result<(), WireError>> Receiver for F {
    fn frame(&mut self, cx: &mut Context<'_>, frame: Frame) -> Result<(), WireError> {
        self(cx, frame)
    }
}

/// Why a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// The peer sent something that it may not.
    Wire(WireError),
    /// The peer closed the connection.
    Closed,
    Io(io::Error),
    /// Nothing was heard for this long (L5).
    Silent(Duration),
    /// The peer said goodbye.
    Goodbye(String),
    /// Ended on this side.
    Here(Rc<str>),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wire(error) => write!(f, "protocol error: {error}"),
            Self::Closed => f.write_str("connection closed by the peer"),
            Self::Io(error) => write!(f, "connection failed: {error}"),
            Self::Silent(time) => write!(f, "nothing heard for {:.1} s", time.as_secs_f64()),
            Self::Goodbye(reason) => write!(f, "peer ended the session: {reason}"),
            Self::Here(reason) => f.write_str(reason),
        }
    }
}

impl From<WireError> for End {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

/// The sending half, shared with whoever has something to send.
pub(super) struct Transmit {
    encoder: RefCell<Encoder>,
    outbox: RefCell<Outbox>,
    /// Wakes the job that drives the connection.
    driver: RefCell<Option<Waker>>,
}

impl Transmit {
    fn new(tag: u64) -> Self {
        Self {
            encoder: RefCell::new(Encoder::new(tag)),
            outbox: RefCell::default(),
            driver: RefCell::new(None),
        }
    }

    /// Queues a frame; it leaves with whatever else is queued by the time the driver runs.
    pub(super) fn push(&self, request: u64, body: FrameBody) {
        {
            let mut encoder = self.encoder.borrow_mut();
            let payload = encoder.append(request, body);
            // Headers without payload, such as those of answers to writes, leave in one piece.
            if !payload.is_empty() {
                let mut outbox = self.outbox.borrow_mut();
                outbox.push_bytes(encoder.take_headers());
                outbox.push(&payload);
            }
        }
        let driver = self.driver.borrow_mut().take();
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    fn poll_send(&self, cx: &mut Context<'_>, stream: &Stream) -> Poll<io::Result<()>> {
        let mut outbox = self.outbox.borrow_mut();
        let mut encoder = self.encoder.borrow_mut();
        if encoder.waiting() > 0 {
            outbox.push_bytes(encoder.take_headers());
        }
        outbox.poll_send(cx, stream)
    }

    fn backlog(&self) -> usize {
        self.outbox.borrow().len() + self.encoder.borrow().waiting()
    }
}

/// One end of an authenticated connection.
pub(super) struct Connection {
    shard: Shard,
    stream: Stream,
    timing: Timing,
    decoder: Decoder,
    /// Frames that were announced and not handed on.
    ahead: VecDeque<Frame>,
    /// Whether bytes from the handshake's last receive still have to be looked at.
    early: bool,
    pub(super) transmit: Rc<Transmit>,
    heard: Instant,
    heartbeat: Instant,
    timer: Pin<Box<dyn Future<Output = ()>>>,
}

impl Connection {
    pub(super) fn new(
        shard: &Shard,
        stream: Stream,
        timing: Timing,
        keys: &Established,
        early: BytesMut,
    ) -> Self {
        let now = shard.now();
        Self {
            shard: shard.clone(),
            stream,
            timing,
            early: !early.is_empty(),
            decoder: Decoder::new(keys.receive_tag, early),
            ahead: VecDeque::with_capacity(AHEAD + 1),
            transmit: Rc::new(Transmit::new(keys.send_tag)),
            heard: now,
            heartbeat: now,
            timer: Box::pin(std::future::ready(())),
        }
    }

    /// Drives the connection: receives and hands on every frame but heartbeats, lets `work` answer, then sends all
    /// that there is in one batch. Ready only when the session has ended; may be polled anew by another `work`.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        receiver: &mut dyn Receiver,
        work: &mut dyn FnMut(&mut Context<'_>),
    ) -> Poll<End> {
        // What is queued from here on is sent below and needs to wake nobody.
        self.transmit.driver.borrow_mut().take();
        if let Err(end) = self.receive(cx, receiver) {
            return Poll::Ready(end);
        }
        work(cx);
        if let Err(end) = self.tick(cx) {
            return Poll::Ready(end);
        }
        *self.transmit.driver.borrow_mut() = Some(cx.waker().clone());
        match self.transmit.poll_send(cx, &self.stream) {
            Poll::Ready(Err(error)) => Poll::Ready(End::Io(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    fn receive(&mut self, cx: &mut Context<'_>, receiver: &mut dyn Receiver) -> Result<(), End> {
        if std::mem::take(&mut self.early) {
            self.frames(cx, receiver)?;
        }
        for _ in 0..ROUNDS {
            if self.transmit.backlog() > BACKLOG {
                return Ok(()); // sending wakes us
            }
            match self.stream.poll_recv(cx, self.decoder.room()) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(End::Closed),
                Poll::Ready(Ok(_)) => {
                    self.heard = self.shard.now();
                    self.frames(cx, receiver)?;
                }
                Poll::Ready(Err(error)) => return Err(End::Io(error)),
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn frames(&mut self, cx: &mut Context<'_>, receiver: &mut dyn Receiver) -> Result<(), End> {
        let ended = loop {
            match self.decoder.next() {
                Ok(Some(frame)) => {
                    receiver.announce(&frame);
                    self.ahead.push_back(frame);
                    if self.ahead.len() > AHEAD {
                        self.hand_on(cx, receiver)?;
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        while !self.ahead.is_empty() {
            self.hand_on(cx, receiver)?;
        }
        Ok(ended?)
    }

    fn hand_on(&mut self, cx: &mut Context<'_>, receiver: &mut dyn Receiver) -> Result<(), End> {
        let Some(frame) = self.ahead.pop_front() else { return Ok(()) };
        match frame.body {
            FrameBody::Heartbeat => Ok(()),
            FrameBody::Goodbye(reason) => {
                Err(End::Goodbye(String::from_utf8_lossy(&reason).escape_debug().to_string()))
            }
            _ => Ok(receiver.frame(cx, frame)?),
        }
    }

    /// Sends a heartbeat when one is due, and ends the session when the peer was silent too long (L5).
    fn tick(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = self.shard.now();
            let silent = now.saturating_since(self.heard);
            if silent >= self.timing.dead_after {
                return Err(End::Silent(silent));
            }
            if now >= self.heartbeat {
                self.transmit.push(0, FrameBody::Heartbeat);
                self.heartbeat = now + self.timing.heartbeat;
            }
            let next = self.heartbeat.min(self.heard + self.timing.dead_after);
            let shard = self.shard.clone();
            self.timer = Box::pin(async move { shard.sleep_until(next).await });
        }
        Ok(())
    }

    /// Closes the connection; tells the peer why, when the socket takes it.
    pub(super) async fn close(&mut self, end: &End) {
        if matches!(end, End::Wire(_) | End::Silent(_) | End::Here(_)) {
            self.transmit.push(0, FrameBody::Goodbye(Bytes::from(end.to_string())));
            let transmit = &self.transmit;
            let stream = &self.stream;
            std::future::poll_fn(|cx| {
                let _ = transmit.poll_send(cx, stream);
                Poll::Ready(())
            })
            .await;
        }
        self.stream.shutdown();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.stream.shutdown();
    }
}
