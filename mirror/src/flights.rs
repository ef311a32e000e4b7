//! Writes under way, by generation: how the settling job knows that all writes before a point are over.

use std::cell::Cell;
use std::rc::Rc;

use crate::signal::Signal;

/// Two generations of writes. At any time new ones enter one of them, while the other runs out.
#[derive(Default)]
pub(crate) struct Flights {
    now: Cell<usize>,
    under_way: [Cell<u64>; 2],
    signal: Signal,
}

/// A write, or a copy, under way. It ends when dropped.
pub(crate) struct Flight {
    flights: Rc<Flights>,
    generation: usize,
}

impl Flights {
    pub(crate) fn enter(self: &Rc<Self>) -> Flight {
        let generation = self.now.get();
        let count = &self.under_way[generation];
        count.set(count.get() + 1);
        Flight { flights: self.clone(), generation }
    }

    /// Starts the next generation and waits until the former one is over. One caller at a time.
    pub(crate) async fn turn_over(&self) -> usize {
        let former = self.now.get();
        debug_assert_eq!(self.under_way[1 - former].get(), 0, "two jobs turn generations over");
        self.now.set(1 - former);
        self.signal.until(|| (self.under_way[former].get() == 0).then_some(())).await;
        former
    }

    /// Waits until nothing is under way.
    pub(crate) async fn drained(&self) {
        self.signal.until(|| self.is_empty().then_some(())).await;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.under_way.iter().all(|count| count.get() == 0)
    }
}

impl Flight {
    /// Generation of the write.
    pub(crate) fn generation(&self) -> usize {
        self.generation
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let count = &self.flights.under_way[self.generation];
        count.set(count.get() - 1);
        if count.get() == 0 {
            self.flights.signal.raise();
        }
    }
}
