//! The portable disk engine: a few threads that do what io_uring would.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use super::op::{Op, OpResult};

/// Threads of a shard's pool: as many operations are at the disks at once.
const THREADS: usize = 8;

struct Job {
    op: Op,
    done: oneshot::Sender<(Op, OpResult)>,
}

#[derive(Default)]
struct Queue {
    jobs: Mutex<(VecDeque<Job>, bool)>,
    added: Condvar,
}

impl Queue {
    fn push(&self, job: Job) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).0.push_back(job);
        self.added.notify_one();
    }
}

/// Ends its threads when it is dropped; what was queued is done first.
pub(crate) struct Pool {
    queue: Arc<Queue>,
}

impl Pool {
    pub(crate) fn new() -> std::io::Result<Self> {
        let queue = Arc::new(Queue::default());
        for number in 0..THREADS {
            let queue = queue.clone();
            thread::Builder::new().name(format!("disk-{number}")).spawn(move || work(&queue))?;
        }
        Ok(Self { queue })
    }

    pub(crate) async fn submit(&self, op: Op) -> (Op, OpResult) {
        let (done, answer) = oneshot::channel();
        self.queue.push(Job { op, done });
        answer.await.expect("a thread of the pool answers every job")
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.queue.jobs.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.queue.added.notify_all();
    }
}

fn work(queue: &Queue) {
    loop {
        let mut jobs = queue.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let Job { mut op, done } = loop {
            if let Some(job) = jobs.0.pop_front() {
                break job;
            }
            if jobs.1 {
                return;
            }
            jobs = queue.added.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        };
        drop(jobs);
        let result = op.run();
        op.note(result);
        // Nobody waits any more: the job that asked was dropped with its process' end.
        let _ = done.send((op, result));
    }
}
