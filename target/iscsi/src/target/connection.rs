//! One connection of a target.

use core::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{AsyncMessage, ConnectionConfig, Directory, Event, ScsiResponse, TaskManagementResponse, Tsih};
use crate::login::LoginStatus;
use crate::negotiate::Parameters;

/// A target's end of an iSCSI connection: bytes in, events out, answers in, bytes out. See [the module](super).
pub struct Connection {
    buffer: BytesMut,
    _config: ConnectionConfig,
}

impl Connection {
    /// A connection that was just accepted. `seed` comes from the system's generator, anew for every connection: CHAP challenges are
    /// derived from it. `now` is the time since the process started, as in all other calls.
    pub fn new(config: ConnectionConfig, seed: [u8; 32], now: Duration) -> Self {
        let (_, _) = (seed, now);
        Self { buffer: BytesMut::new(), _config: config }
    }

    /// Where to receive into; it has room. Append only. Call [`Connection::received`] after bytes were added.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Acts on what is in the buffer.
    pub fn received(&mut self, now: Duration, directory: &dyn Directory) {
        let (_, _) = (now, directory);
    }

    /// The next thing to act on.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// Hands everything that is to be sent to `send`, in order.
    pub fn transmit(&mut self, send: impl FnMut(Bytes)) {
        let _ = send;
    }

    /// When [`Connection::on_timeout`] must be called next. Ask after every other call.
    pub fn next_timeout(&self) -> Option<Duration> {
        None
    }

    /// Acts on time limits that have passed.
    pub fn on_timeout(&mut self, now: Duration) {
        let _ = now;
    }

    /// Whether nothing more is received or executed: send what is left, then close the stream.
    pub fn is_closing(&self) -> bool {
        false
    }

    /// Answers [`Event::SessionReady`]: the session exists under this handle. Commands may follow at once: what came behind the
    /// login is acted on here.
    pub fn admit(&mut self, tsih: Tsih, now: Duration, directory: &dyn Directory) {
        let (_, _, _) = (tsih, now, directory);
    }

    /// Answers [`Event::SessionReady`]: no session.
    pub fn refuse(&mut self, status: LoginStatus) {
        let _ = status;
    }

    /// Answers [`Event::Command`]. A tag that is not outstanding is ignored (the connection may have closed meanwhile).
    pub fn respond(&mut self, tag: u32, response: ScsiResponse) {
        let (_, _) = (tag, response);
    }

    /// Answers [`Event::Command`] with the service response "target failure" (RFC 7143 section 11.4.3).
    pub fn respond_target_failure(&mut self, tag: u32) {
        let _ = tag;
    }

    /// Ends a delivered task that gets no response: it was aborted by a task management function.
    pub fn abandon(&mut self, tag: u32) {
        let _ = tag;
    }

    /// Answers [`Event::TaskManagement`]. Nothing may be sent for an aborted task after this.
    pub fn respond_task_management(
        &mut self,
        tag: u32,
        response: TaskManagementResponse,
        information: [u8; 3],
    ) {
        let (_, _, _) = (tag, response, information);
    }

    /// Discards the commands that wait for data, of one logical unit or of all, because another session's function (CLEAR TASK SET,
    /// LOGICAL UNIT RESET, target reset) covers them. With a `status` (TASK ABORTED when TAS is set) they are answered by it.
    /// Returns how many there were.
    pub fn abort_undelivered(&mut self, lun: Option<[u8; 8]>, status: Option<u8>) -> usize {
        let (_, _) = (lun, status);
        0
    }

    /// Answers [`Event::Logout`]: all delivered tasks have ended and will touch nothing any more.
    pub fn finish_logout(&mut self) {}

    /// Sends an asynchronous message. Ignored outside of a normal session's full feature phase.
    pub fn async_message(&mut self, message: AsyncMessage) {
        let _ = message;
    }

    /// Closes from this side: the next event is `Closed(Local)`.
    pub fn close(&mut self) {}

    /// What was negotiated, from full feature phase on.
    pub fn parameters(&self) -> Option<&Parameters> {
        None
    }

    /// Delivered or collecting commands that have no answer yet.
    pub fn outstanding(&self) -> usize {
        0
    }
}
