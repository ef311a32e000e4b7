//! A session of one connection, handshake included, as one value.

use core::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{
    AsyncMessage, CloseReason, ConnectionConfig, ConnectionId, Directory, Event, Handshake, ScsiResponse,
    Session, TaskManagementResponse, Tsih,
};
use crate::login::LoginStatus;
use crate::negotiate::Parameters;

/// For drivers that never serve a second connection: tests, fuzzing, small targets. It behaves as its parts do; a login that would
/// join a session cannot be admitted here.
#[derive(Debug)]
pub struct SingleConnection {
    state: State,
}

#[derive(Debug)]
enum State {
    Handshake(Box<Handshake>),
    Session(Box<(Session, ConnectionId)>),
}

impl SingleConnection {
    /// See [`Handshake::new`].
    pub fn new(config: ConnectionConfig, seed: [u8; 32], now: Duration) -> Self {
        Self { state: State::Handshake(Box::new(Handshake::new(config, seed, now))) }
    }

    /// The session, from admission on.
    pub fn session(&mut self) -> Option<(&mut Session, ConnectionId)> {
        match &mut self.state {
            State::Session(session) => Some((&mut session.0, session.1)),
            _ => None,
        }
    }

    /// See [`Session::buffer`].
    pub fn buffer(&mut self) -> &mut BytesMut {
        match &mut self.state {
            State::Handshake(handshake) => handshake.buffer(),
            State::Session(session) => session.0.buffer(session.1),
        }
    }

    /// See [`Session::received`].
    pub fn received(&mut self, now: Duration, directory: &dyn Directory) {
        match &mut self.state {
            State::Handshake(handshake) => handshake.received(now, directory),
            State::Session(session) => session.0.received(session.1, now, directory),
        }
    }

    /// See [`Session::wants_input`].
    pub fn wants_input(&self) -> bool {
        match &self.state {
            State::Handshake(handshake) => handshake.wants_input(),
            State::Session(session) => session.0.wants_input(session.1),
        }
    }

    /// See [`Session::poll_event`].
    pub fn poll_event(&mut self) -> Option<Event> {
        match &mut self.state {
            State::Handshake(handshake) => handshake.poll_event(),
            State::Session(session) => session.0.poll_event(),
        }
    }

    /// See [`Session::transmit`].
    pub fn transmit(&mut self, send: impl FnMut(Bytes)) {
        match &mut self.state {
            State::Handshake(handshake) => handshake.transmit(send),
            State::Session(session) => session.0.transmit(session.1, send),
        }
    }

    /// See [`Session::wants_transmit`].
    pub fn wants_transmit(&self) -> bool {
        match &self.state {
            State::Handshake(handshake) => handshake.wants_transmit(),
            State::Session(session) => session.0.wants_transmit(session.1),
        }
    }

    /// See [`Session::next_timeout`].
    pub fn next_timeout(&self) -> Option<Duration> {
        match &self.state {
            State::Handshake(handshake) => handshake.next_timeout(),
            State::Session(session) => session.0.next_timeout(),
        }
    }

    /// See [`Session::on_timeout`].
    pub fn on_timeout(&mut self, now: Duration) {
        match &mut self.state {
            State::Handshake(handshake) => handshake.on_timeout(now),
            State::Session(session) => session.0.on_timeout(now),
        }
    }

    /// See [`Session::is_closing`].
    pub fn is_closing(&self) -> bool {
        match &self.state {
            State::Handshake(handshake) => handshake.is_closing(),
            State::Session(session) => session.0.is_closing(session.1),
        }
    }

    /// Why it is closing.
    pub fn reason(&self) -> Option<CloseReason> {
        match &self.state {
            State::Handshake(handshake) => handshake.reason(),
            State::Session(session) => session.0.reason(session.1),
        }
    }

    /// What was negotiated, from full feature phase on.
    pub fn parameters(&self) -> Option<Parameters> {
        match &self.state {
            State::Session(session) => Some(session.0.parameters_of(session.1)),
            _ => None,
        }
    }

    /// See [`Session::outstanding`].
    pub fn outstanding(&self) -> usize {
        if let State::Session(session) = &self.state { session.0.outstanding() } else { 0 }
    }

    /// Closes from this side.
    pub fn close(&mut self, reason: CloseReason) {
        match &mut self.state {
            State::Handshake(handshake) => handshake.close(reason),
            State::Session(session) => session.0.close(reason),
        }
    }

    /// See [`Session::open`].
    pub fn admit(&mut self, tsih: Tsih, now: Duration, directory: &dyn Directory) {
        if let State::Handshake(handshake) = &mut self.state
            && let Some(session) =
                handshake.take().and_then(|ready| Session::open(ready, tsih, now, directory))
        {
            self.state = State::Session(Box::new(session));
        }
    }

    /// See [`Handshake::refuse`].
    pub fn refuse(&mut self, status: LoginStatus) {
        if let State::Handshake(handshake) = &mut self.state {
            handshake.refuse(status);
        }
    }

    /// See [`Session::respond`].
    pub fn respond(&mut self, tag: u32, response: ScsiResponse) {
        if let Some((session, _)) = self.session() {
            session.respond(tag, response);
        }
    }

    /// See [`Session::respond_target_failure`].
    pub fn respond_target_failure(&mut self, tag: u32) {
        if let Some((session, _)) = self.session() {
            session.respond_target_failure(tag);
        }
    }

    /// See [`Session::respond_task_management`].
    pub fn respond_task_management(
        &mut self,
        tag: u32,
        response: TaskManagementResponse,
        information: [u8; 3],
    ) {
        if let Some((session, _)) = self.session() {
            session.respond_task_management(tag, response, information);
        }
    }

    /// See [`Session::abandon`].
    pub fn abandon(&mut self, tag: u32) {
        if let Some((session, _)) = self.session() {
            session.abandon(tag);
        }
    }

    /// See [`Session::abort_undelivered`].
    pub fn abort_undelivered(&mut self, lun: Option<[u8; 8]>, status: Option<u8>) -> usize {
        self.session().map_or(0, |(session, _)| session.abort_undelivered(lun, status))
    }

    /// See [`Session::async_message`].
    pub fn async_message(&mut self, message: AsyncMessage) {
        if let Some((session, _)) = self.session() {
            session.async_message(message);
        }
    }
}
