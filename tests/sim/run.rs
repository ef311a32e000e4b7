//! One seed from beginning to end.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use twinlun_io::sim::{World, WorldOptions};

use crate::oracle::View;
use crate::plan::Plan;
use crate::stage::Stage;
use crate::verify::Fork;
use crate::{faults, host, lives, verify};

/// What became of a seed.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The first broken promise.
    pub(crate) violation: Option<String>,
    /// What happened last, when one was broken.
    pub(crate) log: Vec<String>,
    /// How often each kind of fault met something.
    pub(crate) counters: BTreeMap<&'static str, u64>,
    /// Over everything that happened in the world.
    pub(crate) hash: u64,
    /// Writes that hosts began.
    pub(crate) writes: u64,
    /// Virtual time.
    pub(crate) virtual_time: Duration,
}

thread_local! {
    /// Where the last panic of this thread was.
    pub(crate) static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs a seed. With `loud` everything that happens is printed.
pub(crate) fn run(plan: Plan, loud: bool) -> Outcome {
    let options = WorldOptions {
        time_limit: Duration::from_secs(3000),
        step_limit: 40_000_000,
        ..WorldOptions::default()
    };
    let world = World::new(plan.seed, options);
    let stage = Stage::new(plan, world.handle(), loud);
    let result = catch_unwind(AssertUnwindSafe(|| {
        let forks = match world.run(play(&stage)) {
            Ok(forks) => forks?,
            Err(stalled) => return Err(format!("the world stands still: {stalled}")),
        };
        stage.violation().map_or(Ok(()), Err)?;
        let overtaken = stage.overtaken.take();
        overtaken.iter().try_for_each(|fork| verify::check_secondaries(&stage.plan, fork))?;
        forks.iter().try_for_each(|fork| {
            verify::check_secondaries(&stage.plan, fork)?;
            verify::check_order(&stage.plan, fork)?;
            verify::check_recovery(&stage.plan, fork, loud)
        })
    }));
    let violation = match result {
        Ok(result) => stage.violation().or(result.err()),
        Err(panic) => Some(format!("panic: {}", panic_text(panic.as_ref()))),
    };
    Outcome {
        log: if violation.is_some() { stage.last_lines() } else { Vec::new() },
        violation,
        counters: world.counters().into_iter().chain(stage.all_met()).collect(),
        hash: world.trace_hash(),
        writes: stage.oracle.borrow().writes(),
        virtual_time: world.now().since_start(),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = PANIC.take() {
        return text;
    }
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

async fn play(stage: &Rc<Stage>) -> Result<Vec<Fork>, String> {
    stage.set_up().await?;
    for index in 0..stage.units.len() {
        stage.shard.spawn(stage.clone().supervise(index));
    }
    stage.shard.spawn(verify::watch(stage.clone()));
    if !stage.plan.early {
        verify::converge(stage).await?;
    }
    stage.note(|| "trouble begins".into());
    let hosts: Vec<_> = (0..stage.plan.hosts).map(|index| lives::start(stage, index)).collect();
    let forks = Rc::new(RefCell::new(Vec::new()));
    for at in stage.plan.forks.clone() {
        let (stage, forks) = (stage.clone(), forks.clone());
        let shard = stage.shard.clone();
        shard.spawn(async move {
            stage.shard.sleep(at).await;
            stage.met("fork");
            let fork = verify::fork(&stage);
            forks.borrow_mut().push(fork);
        });
    }
    faults::break_things(stage.clone()).await;
    stage.violation().map_or(Ok(()), Err)?;
    settle(stage).await?;
    for host in hosts {
        let _ = stage
            .shard
            .timeout(Duration::from_secs(120), host)
            .await
            .map_err(|_| "a host does not come to an end (I8)")?;
    }
    finish(stage).await?;
    Ok(forks.take())
}

/// Outages end; hosts go on for a while, then stop.
async fn settle(stage: &Rc<Stage>) -> Result<(), String> {
    // Outages that were ordered for later would start again what is healed now.
    stage.note(|| "everything is healed".into());
    faults::heal(stage);
    stage.resting.set(true);
    stage.shard.sleep(Duration::from_secs(40)).await;
    faults::heal(stage);
    stage.healed.set(true);
    stage.resting.set(false);
    stage.shard.sleep(Duration::from_secs(3)).await;
    stage.closing.set(true);
    Ok(())
}

async fn finish(stage: &Rc<Stage>) -> Result<(), String> {
    verify::repair_arrays(stage).await?;
    verify::converge(stage).await?;
    stage.note(|| "in step".into());
    host::read_everything(stage).await?;
    stage.violation().map_or(Ok(()), Err)?;
    verify::compare_images(stage, View::Live).await
}
