//! The requests of a session: who waits for room in the receiver's window, and who for an answer. Values; no flow is in here.

use std::collections::VecDeque;
use std::task::{Context, Waker};

use super::message::Response;
use super::session::Expected;
use super::wire::{Window, WireError};

/// What is left of the receiver's window, and who waits for some of it, first come first served (L3).
pub(super) struct Line {
    requests: u32,
    bytes: u32,
    next: u64,
    waiting: VecDeque<Place>,
}

struct Place {
    number: u64,
    cost: u32,
    waker: Waker,
}

impl Line {
    pub(super) fn new(window: Window) -> Self {
        Self { requests: window.requests, bytes: window.bytes, next: 0, waiting: VecDeque::new() }
    }

    fn has_room(&self, cost: u32) -> bool {
        self.requests > 0 && self.bytes >= cost
    }

    fn take(&mut self, cost: u32) {
        self.requests -= 1;
        self.bytes -= cost;
    }

    /// Takes room at once, or a place in the line.
    pub(super) fn enter(&mut self, cost: u32, cx: &Context<'_>) -> Result<(), u64> {
        if self.waiting.is_empty() && self.has_room(cost) {
            self.take(cost);
            return Ok(());
        }
        let number = self.next;
        self.next += 1;
        self.waiting.push_back(Place { number, cost, waker: cx.waker().clone() });
        Err(number)
    }

    /// Whether the place has come to the front and found room; then it has left the line.
    pub(super) fn advance(&mut self, number: u64, cx: &Context<'_>) -> bool {
        match self.waiting.front() {
            Some(front) if front.number == number && self.has_room(front.cost) => {
                let cost = front.cost;
                self.take(cost);
                self.waiting.pop_front();
                self.wake_front();
                true
            }
            _ => {
                if let Some(place) = self.waiting.iter_mut().find(|place| place.number == number) {
                    place.waker.clone_from(cx.waker());
                }
                false
            }
        }
    }

    /// Gives up a place.
    pub(super) fn leave(&mut self, number: u64) {
        self.waiting.retain(|place| place.number != number);
        self.wake_front();
    }

    /// A request is answered.
    pub(super) fn give_back(&mut self, cost: u32) {
        self.requests += 1;
        self.bytes += cost;
        self.wake_front();
    }

    pub(super) fn wake_all(&self) {
        self.waiting.iter().for_each(|place| place.waker.wake_by_ref());
    }

    fn wake_front(&self) {
        if let Some(front) = self.waiting.front().filter(|front| self.has_room(front.cost)) {
            front.waker.wake_by_ref();
        }
    }
}

/// Requests on their way. Their numbers are places in a table with a count above, so that finding one takes no search and no
/// number comes twice.
#[derive(Default)]
pub(super) struct Asking {
    slots: Vec<Slot>,
    /// Slots that are free.
    free: Vec<u32>,
    count: u32,
}

struct Slot {
    id: u64,
    cost: u32,
    expected: Expected,
    state: SlotState,
}

enum SlotState {
    Free,
    /// With whoever is to be woken.
    Waiting(Option<Waker>),
    /// Nobody wants the answer any more.
    Forsaken,
    Answered(Response),
}

impl Asking {
    /// A request goes on its way; gives its number.
    pub(super) fn begin(&mut self, expected: Expected, cost: u32) -> u64 {
        self.count = self.count.wrapping_add(1).max(1);
        let index = self.free.pop().unwrap_or(self.slots.len() as u32);
        let id = u64::from(self.count) << 32 | u64::from(index);
        let slot = Slot { id, cost, expected, state: SlotState::Waiting(None) };
        match self.slots.get_mut(index as usize) {
            Some(free) => *free = slot,
            None => self.slots.push(slot),
        }
        id
    }

    fn slot(&mut self, id: u64) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(id as u32 as usize)?;
        (slot.id == id && !matches!(slot.state, SlotState::Free)).then_some(slot)
    }

    fn release(&mut self, id: u64) -> SlotState {
        let index = id as u32;
        self.free.push(index);
        std::mem::replace(&mut self.slots[index as usize].state, SlotState::Free)
    }

    /// Puts an answer down for whoever waits for it; gives what the request has cost.
    pub(super) fn answer(&mut self, id: u64, response: Response) -> Result<u32, WireError> {
        let slot = self.slot(id).ok_or(WireError::UnknownRequest(id))?;
        if !slot.expected.matches(&response) {
            return Err(WireError::WrongAnswer(id));
        }
        let cost = slot.cost;
        match &mut slot.state {
            SlotState::Waiting(waker) => {
                let waker = waker.take();
                slot.state = SlotState::Answered(response);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            SlotState::Forsaken => drop(self.release(id)),
            SlotState::Free | SlotState::Answered(_) => return Err(WireError::UnknownRequest(id)),
        }
        Ok(cost)
    }

    /// The answer, if it is there; else whoever polls is woken when it is.
    pub(super) fn take(&mut self, id: u64, cx: &Context<'_>) -> Option<Response> {
        let slot = self.slot(id)?;
        if let SlotState::Waiting(waker) = &mut slot.state {
            match waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
            return None;
        }
        match self.release(id) {
            SlotState::Answered(response) => Some(response),
            SlotState::Free | SlotState::Waiting(_) | SlotState::Forsaken => None,
        }
    }

    /// Nobody waits for the answer any more.
    pub(super) fn forsake(&mut self, id: u64) {
        let Some(slot) = self.slot(id) else { return };
        match slot.state {
            SlotState::Answered(_) => drop(self.release(id)),
            _ => slot.state = SlotState::Forsaken,
        }
    }

    pub(super) fn wake_all(&mut self) {
        for slot in &mut self.slots {
            if let SlotState::Waiting(waker) = &mut slot.state
                && let Some(waker) = waker.take()
            {
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::DataStatus;
    use super::*;
    use twinlun_block::Payload;

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn done() -> Response {
        Response::Data(DataStatus::Done, Payload::new())
    }

    #[test]
    fn room_is_given_in_the_order_of_arrival() {
        let mut line = Line::new(Window { requests: 2, bytes: 100 });
        assert_eq!(line.enter(80, &cx()), Ok(()));
        let large = line.enter(90, &cx()).unwrap_err();
        let small = line.enter(1, &cx()).unwrap_err();
        assert!(!line.advance(small, &cx()), "a small one does not overtake a large one");
        line.give_back(80);
        assert!(!line.advance(small, &cx()));
        assert!(line.advance(large, &cx()));
        assert!(line.advance(small, &cx()));
        assert!(line.enter(0, &cx()).is_err(), "two requests are on their way");
    }

    #[test]
    fn who_leaves_the_line_lets_the_next_go() {
        let mut line = Line::new(Window { requests: 1, bytes: 10 });
        assert_eq!(line.enter(10, &cx()), Ok(()));
        let first = line.enter(10, &cx()).unwrap_err();
        let second = line.enter(10, &cx()).unwrap_err();
        line.leave(first);
        line.give_back(10);
        assert!(line.advance(second, &cx()));
    }

    #[test]
    fn an_answer_is_taken_once_and_its_number_does_not_come_again() {
        let mut asking = Asking::default();
        let id = asking.begin(Expected::Data(0), 7);
        assert!(asking.take(id, &cx()).is_none());
        assert_eq!(asking.answer(id, done()), Ok(7));
        assert_eq!(asking.answer(id, done()), Err(WireError::UnknownRequest(id)), "answered twice");
        assert_eq!(asking.take(id, &cx()), Some(done()));
        assert_eq!(asking.answer(id, done()), Err(WireError::UnknownRequest(id)));
        let next = asking.begin(Expected::Control, 0);
        assert_ne!(next, id);
        assert_eq!(asking.slots.len(), 1, "the slot is used again");
        assert_eq!(asking.answer(next, done()), Err(WireError::WrongAnswer(next)));
    }

    #[test]
    fn an_answer_that_nobody_waits_for_still_gives_its_room_back() {
        let mut asking = Asking::default();
        let id = asking.begin(Expected::Data(0), 7);
        asking.forsake(id);
        assert_eq!(asking.answer(id, done()), Ok(7));
        assert_eq!(asking.answer(id, done()), Err(WireError::UnknownRequest(id)));
        let id = asking.begin(Expected::Data(0), 7);
        assert_eq!(asking.answer(id, done()), Ok(7));
        asking.forsake(id);
        assert_eq!(asking.free.len(), 1);
    }
}
