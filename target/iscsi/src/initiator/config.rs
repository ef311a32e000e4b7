//! What a session is started with.

use std::rc::Rc;

use crate::chap::{Algorithm, Secret};
use crate::names::IscsiName;
use crate::negotiate::Parameters;
use crate::pdu::{Cid, Isid};

/// Discovery or normal session (RFC 7143, 13.21).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionKind {
    /// To ask for targets.
    Discovery,
    /// To use one.
    Normal {
        /// TargetName.
        target: IscsiName,
    },
}

/// How the target proves itself.
#[derive(Clone, Debug)]
pub struct MutualChap {
    /// CHAP name of the target.
    pub user: Rc<str>,
    /// Its secret.
    pub secret: Secret,
    /// Random bytes from the system's generator, new for every login: identifier and challenge are taken from them.
    pub random: [u8; 33],
}

/// How this initiator proves itself.
#[derive(Clone, Debug)]
pub struct ChapLogin {
    /// CHAP name.
    pub user: Rc<str>,
    /// The secret.
    pub secret: Secret,
    /// Algorithms, best first. At least one.
    pub algorithms: Vec<Algorithm>,
    /// Demands that the target proves itself too.
    pub mutual: Option<MutualChap>,
}

/// Everything that a session is started with.
#[derive(Clone, Debug)]
pub struct InitiatorConfig {
    /// InitiatorName.
    pub name: IscsiName,
    /// ISID; unlike those of this initiator's other sessions with the target.
    pub isid: Isid,
    /// CID.
    pub cid: Cid,
    /// Kind of session.
    pub session: SessionKind,
    /// CHAP, or no authentication.
    pub chap: Option<ChapLogin>,
    /// What is offered. A digest that is offered may be declined by the target; `initiator_max_recv` is declared.
    pub offer: Parameters,
    /// Most tasks at a time, waiting ones included; at most 65535.
    pub max_tasks: usize,
    /// Size of receive buffers in bytes.
    pub receive_chunk: usize,
}

impl InitiatorConfig {
    /// A session with usual parameters: no digests, 256 KiB segments and bursts, unsolicited data where the target takes it.
    pub fn new(name: IscsiName, isid: Isid, session: SessionKind) -> Self {
        let offer = Parameters {
            initial_r2t: false,
            initiator_max_recv: 256 << 10,
            max_burst: 1 << 20,
            first_burst: 256 << 10,
            ..Parameters::default()
        };
        Self {
            name,
            isid,
            cid: Cid(0),
            session,
            chap: None,
            offer,
            max_tasks: 1024,
            receive_chunk: 256 << 10,
        }
    }
}
