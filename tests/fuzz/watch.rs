//! Names the input that never ends: a decoder that loops shows no panic.

use std::sync::{Arc, Mutex};
use std::time::Duration;

/// An input may take this long before the process gives up. Nothing passes or fails by it otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Current {
    target: &'static str,
    number: u64,
    input: Vec<u8>,
}

/// What is being run at the moment.
#[derive(Clone, Default)]
pub(crate) struct Watch(Arc<Mutex<Current>>);

impl Watch {
    pub(crate) fn start() -> Self {
        let watch = Self::default();
        let current = Arc::clone(&watch.0);
        let (ready, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            // The allocator gives a thread an arena of its own with its first allocation; that is no target's doing.
            let _ = ready.send(Box::new(0u8));
            let mut seen = 0;
            loop {
                std::thread::sleep(PATIENCE);
                let Ok(current) = current.lock() else { return };
                if current.number == seen && seen > 0 {
                    println!("{}: an input does not end", current.target);
                    println!("  replay: {}", super::engine::replay(current.target, &current.input));
                    std::process::exit(1);
                }
                seen = current.number;
            }
        });
        let _ = wait.recv();
        watch
    }

    /// The next input begins.
    pub(crate) fn begin(&self, target: &'static str, input: &[u8]) {
        let Ok(mut current) = self.0.lock() else { return };
        current.target = target;
        current.number += 1;
        current.input.clear();
        current.input.extend_from_slice(input);
    }
}
