//! Hosts over all their lives: they are started, killed, started again, and prove who they are where the unit asks for it.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use twinlun_api as api;
use twinlun_io::sim::{Crash, Rng};
use twinlun_iscsi::chap::{Algorithm, Secret};
use twinlun_iscsi::initiator::{ChapLogin, MutualChap};

use crate::host;
use crate::plan::Proof;
use crate::stage::Stage;

const HOST_USER: &str = "hosts";
const HOST_SECRET: &str = "a secret of hosts";
const UNIT_USER: &str = "unit";
const UNIT_SECRET: &str = "a secret of units";

/// Starts host number `index`; the answer comes when it has stopped for good.
pub(crate) fn start(stage: &Rc<Stage>, index: usize) -> oneshot::Receiver<()> {
    let first = host::start(stage, index, 1);
    if !stage.plan.kills_hosts() {
        return first;
    }
    let (ended, end) = oneshot::channel();
    let this = stage.clone();
    stage.shard.spawn(async move {
        live(&this, index, first).await;
        let _ = ended.send(());
    });
    end
}

/// A host that was killed comes back under the same name, with the same ISID, and has forgotten what it had under way.
async fn live(stage: &Rc<Stage>, index: usize, mut life: oneshot::Receiver<()>) {
    let mut rng = stage.rng(&format!("lives of {}", host::name(index)));
    let mut number = 1;
    while life.await.is_err() {
        stage.oracle.borrow_mut().host_died(index);
        stage.shard.sleep(Duration::from_millis(rng.range(20..=6000))).await;
        if stage.closing.get() {
            return;
        }
        number += 1;
        stage.note(|| format!("{} starts, life {number}", host::name(index)));
        life = host::start(stage, index, number);
    }
}

/// Ends the present life of a host.
pub(crate) fn end(stage: &Stage, index: usize, how: Crash) {
    let process = stage.hosts.borrow().get(&index).cloned();
    let Some(process) = process.filter(twinlun_io::sim::Process::is_alive) else { return };
    match how {
        Crash::Kill => process.kill(),
        Crash::PowerCut => process.power_cut(),
    }
    stage.met(if how == Crash::Kill { "host.killed" } else { "host.power_cut" });
}

/// What the unit asks of every host, as the administrator gives it; `None` when it asks for nothing.
pub(crate) fn credentials(proof: Proof) -> Option<api::AddHost> {
    let of = |user: &str, secret: &str| api::ChapSecret { user: user.into(), secret: secret.into() };
    let mutual = (proof == Proof::Mutual).then(|| of(UNIT_USER, UNIT_SECRET));
    let chap = (proof != Proof::None).then(|| of(HOST_USER, HOST_SECRET))?;
    Some(api::AddHost { iqn: "any".into(), chap: Some(chap), mutual, groups: Vec::new() })
}

/// How a host proves itself.
pub(crate) fn login(proof: Proof, rng: &mut Rng) -> Option<ChapLogin> {
    if proof == Proof::None {
        return None;
    }
    let algorithm = rng.pick(&Algorithm::ALL).copied().expect("not empty");
    let mut random = [0; 33];
    rng.fill(&mut random);
    let secret = |text: &str| Secret::new(text.as_bytes().to_vec());
    let mutual = MutualChap { user: UNIT_USER.into(), secret: secret(UNIT_SECRET), random };
    Some(ChapLogin {
        user: HOST_USER.into(),
        secret: secret(HOST_SECRET),
        algorithms: vec![algorithm],
        mutual: (proof == Proof::Mutual).then_some(mutual),
    })
}

/// As a stranger would try it, who knows everything but the secret.
pub(crate) fn guess(proof: Proof, rng: &mut Rng) -> Option<ChapLogin> {
    let mut login = login(proof, rng)?;
    login.secret = Secret::new(format!("a guess, {:x}", rng.next_u64()).into_bytes());
    Some(login)
}
