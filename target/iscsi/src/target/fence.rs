//! Fences: answers that must stand in one order with answers on other connections (RFC 7143 sections 4.2.2.3, 11.6.1).
//!
//! With one connection its order is all there is. With several an answer behind a fence is sent when every response that was sent
//! before, on any connection, is acknowledged. Answers to functions always stand behind one. Where TaskReporting=ResponseFence was
//! negotiated, the responses of section 4.2.2.3.4 do as well, and later responses wait until the fenced one is acknowledged itself.

use super::CloseReason;
use super::event::{ScsiResponse, TaskManagementResponse};
use super::session::{ConnectionId, Session};
use super::task::{Order, Stage};
use crate::pdu::{ScsiStatus, Serial32, TaskTag};

/// Answers to functions that wait for acknowledgments at a time.
const FENCES_LIMIT: usize = 32;

/// Sense key UNIT ATTENTION.
const UNIT_ATTENTION: u8 = 6;

/// Status ACA ACTIVE.
const ACA_ACTIVE: u8 = 0x30;

/// An answer behind a fence.
#[derive(Debug)]
pub(super) struct Fence {
    answer: Fenced,
    state: State,
    /// Responses behind it, in order.
    held: Vec<(u32, ScsiResponse)>,
}

#[derive(Debug)]
enum Fenced {
    Function { on: ConnectionId, tag: TaskTag, response: TaskManagementResponse, information: [u8; 3] },
    Command { tag: u32, response: ScsiResponse },
}

#[derive(Debug)]
enum State {
    /// Others come first.
    InLine,
    /// The answer waits until these are acknowledged.
    Waiting(Vec<(ConnectionId, Serial32)>),
    /// It was sent, and is itself to be acknowledged: the StatSN behind it.
    Sent(ConnectionId, Serial32),
}

/// Sense key of fixed or descriptor sense data (SPC-5, 4.4).
fn sense_key(sense: &[u8]) -> Option<u8> {
    let at = match sense.first()? & 0x7f {
        0x70 | 0x71 => 2,
        0x72 | 0x73 => 1,
        _ => return None,
    };
    sense.get(at).map(|byte| byte & 0x0f)
}

/// Whether a response is one of section 4.2.2.3.4.
fn is_ordered(order: Order, response: &ScsiResponse) -> bool {
    order.preempts
        || response.status == ACA_ACTIVE
        || (order.naca && response.status == ScsiStatus::CHECK_CONDITION.0)
        || sense_key(&response.sense) == Some(UNIT_ATTENTION)
}

impl Session {
    fn is_spread(&self) -> bool {
        self.connections.open().nth(1).is_some()
    }

    /// Sends the answer to a function, behind a fence where there is more than one connection.
    pub(super) fn send_behind_fence(
        &mut self,
        on: ConnectionId,
        tag: TaskTag,
        response: TaskManagementResponse,
        information: [u8; 3],
    ) {
        if self.fences.is_empty() && !self.is_spread() {
            return self.send_task_response(on, tag, response, information);
        }
        if self.fences.len() >= FENCES_LIMIT {
            return self.fail(on, CloseReason::Limit("functions whose answers wait for acknowledgments"));
        }
        let answer = Fenced::Function { on, tag, response, information };
        self.fences.push_back(Fence { answer, state: State::InLine, held: Vec::new() });
        self.clear_fences();
    }

    /// With ResponseFence: whether a response stays here for now, behind a fence or because it needs one.
    pub(super) fn held_by_fence(&mut self, tag: u32, response: &ScsiResponse) -> bool {
        if let Some(fence) = self.fences.back_mut() {
            fence.held.push((tag, response.clone()));
            return true;
        }
        if !self.needs_fence(tag, response) {
            return false;
        }
        let answer = Fenced::Command { tag, response: response.clone() };
        self.fences.push_back(Fence { answer, state: State::InLine, held: Vec::new() });
        self.clear_fences();
        true
    }

    fn needs_fence(&self, tag: u32, response: &ScsiResponse) -> bool {
        self.is_spread() && self.tasks.get(tag).is_some_and(|task| is_ordered(task.order, response))
    }

    fn is_acknowledged(&self, on: ConnectionId, stat_sn: Serial32) -> bool {
        let connection = &self.connections[on];
        !connection.is_open() || stat_sn.is_at_or_before(connection.acked)
    }

    /// Sends the answers whose fence is clear, and what waits behind them.
    pub(super) fn clear_fences(&mut self) {
        while let Some(mut fence) = self.fences.pop_front() {
            fence.state = match fence.state {
                State::InLine => {
                    let unacknowledged = self.connections.open().filter(|(_, c)| c.has_unacknowledged());
                    let waits: Vec<_> = unacknowledged.map(|(id, c)| (id, c.stat_sn)).collect();
                    for (id, _) in &waits {
                        self.ask_for_word(*id);
                    }
                    State::Waiting(waits)
                }
                State::Waiting(mut waits) => {
                    waits.retain(|(id, stat_sn)| !self.is_acknowledged(*id, *stat_sn));
                    if waits.is_empty() {
                        self.send_fenced(&mut fence.answer)
                    } else {
                        fence.state = State::Waiting(waits);
                        return self.fences.push_front(fence);
                    }
                }
                State::Sent(on, stat_sn) if self.parameters.response_fence => {
                    if !self.is_acknowledged(on, stat_sn) {
                        fence.state = State::Sent(on, stat_sn);
                        return self.fences.push_front(fence);
                    }
                    self.release_behind(fence.held);
                    continue;
                }
                State::Sent(..) => continue,
            };
            self.fences.push_front(fence);
        }
    }

    fn send_fenced(&mut self, answer: &mut Fenced) -> State {
        let on = match answer {
            Fenced::Function { on, tag, response, information } => {
                if self.connections[*on].can_send() {
                    self.send_task_response(*on, *tag, *response, *information);
                }
                *on
            }
            Fenced::Command { tag, response } => {
                let on = self.tasks.get(*tag).map_or(ConnectionId(0), |task| task.connection);
                self.deliver_response(*tag, std::mem::take(response));
                on
            }
        };
        if self.parameters.response_fence {
            self.ask_for_word(on);
        }
        State::Sent(on, self.connections[on].stat_sn)
    }

    /// Sends responses that stood behind a fence, up to one that needs a fence of its own.
    fn release_behind(&mut self, held: Vec<(u32, ScsiResponse)>) {
        let mut held = held.into_iter();
        while let Some((tag, response)) = held.next() {
            if self.needs_fence(tag, &response) {
                let answer = Fenced::Command { tag, response };
                return self.fences.push_front(Fence { answer, state: State::InLine, held: held.collect() });
            }
            self.deliver_response(tag, response);
        }
    }

    /// Sends a response that nothing holds back any more.
    fn deliver_response(&mut self, tag: u32, response: ScsiResponse) {
        // It may have been ended while it waited.
        if self.tasks.get(tag).is_some_and(|task| matches!(task.stage, Stage::Delivered)) {
            self.end_task(tag, response);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn responses_that_stand_in_one_order_are_known() {
        let plain = Order::default();
        let naca = Order { naca: true, ..plain };
        let failed = |sense: &'static [u8]| ScsiResponse::check_condition(Bytes::from_static(sense));
        assert!(!is_ordered(plain, &ScsiResponse::good()) && !is_ordered(naca, &ScsiResponse::good()));
        assert!(is_ordered(plain, &failed(&[0x70, 0, 6])) && is_ordered(plain, &failed(&[0x72, 6, 0x29])));
        assert!(!is_ordered(plain, &failed(&[0x70, 0, 3])) && !is_ordered(plain, &failed(&[])));
        assert!(is_ordered(naca, &failed(&[0x70, 0, 3])), "it establishes an ACA condition");
        assert!(is_ordered(plain, &ScsiResponse::status(ACA_ACTIVE)));
        assert!(is_ordered(Order { preempts: true, ..plain }, &ScsiResponse::good()));
        assert_eq!(Order::of(&[0x5f, 0x05, 0, 0, 0, 0, 0, 0, 24, 0]), Order { preempts: true, naca: false });
        assert_eq!(Order::of(&[0x5f, 0x04, 0, 0, 0, 0, 0, 0, 24, 4]), Order { preempts: false, naca: true });
        assert_eq!(Order::of(&[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 4]), naca);
        assert_eq!(Order::of(&[0x12, 0, 0, 0, 36, 4]), naca);
        assert_eq!(Order::of(&[0x7f, 4]), naca);
        assert_eq!(Order::of(&[]), plain);
    }
}
