//! What the units of a mirror say to each other in control messages: JSON, checked like all foreign input.
//! `docs/design/mirror.md` tells the conversation.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::decide::{Generation, SecondarySide};
use crate::link::{Request, Response, Session};
use crate::record::{LuRecord, MirrorRecord};
use crate::{MirrorError, MirrorView};

/// A control message from the unit of a primary (or, for `Show`, from any unit).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ask {
    /// Become a secondary: the LUs of that name, in order. Asked again, it changes nothing.
    Join { record: MirrorRecord, image: Uuid, lus: Vec<String> },
    /// A session begins: end what earlier epochs left, remember this one, say what you hold.
    Attach { record: MirrorRecord, image: Uuid, epoch: u64 },
    /// Copying is about to overwrite: your data is no consistent point from now on.
    BeginCopy { mirror: Uuid, epoch: u64, generation: Generation },
    /// All is copied and flushed: your data is a consistent point of that generation.
    CaughtUp { mirror: Uuid, epoch: u64, generation: Generation },
    /// The configuration has changed.
    Configure { record: MirrorRecord },
    /// The image is removed; its LUs are free.
    Leave { mirror: Uuid, image: Uuid },
    /// What do you know of the mirror?
    Show { mirror: Uuid },
}

/// The answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// Done.
    Done,
    /// To `Join`: the LUs found.
    Joined { lus: Vec<LuRecord> },
    /// To `Attach`.
    Attached(SecondarySide),
    /// To `Show`.
    View(MirrorView),
    /// Not done.
    Refused(MirrorError),
}

impl Answer {
    pub(crate) fn encode(&self) -> Response {
        Response::Control(serde_json::to_vec(self).expect("answers have string keys only").into())
    }
}

impl Ask {
    /// Reads a message of a peer; the records in it are checked.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let ask: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if let Self::Join { record, .. } | Self::Attach { record, .. } | Self::Configure { record } = &ask {
            record.check().map_err(|e| e.to_string())?;
        }
        Ok(ask)
    }

    /// Asks a peer. `unit` is for the error.
    pub(crate) async fn send(&self, session: &Session, unit: &str) -> Result<Answer, MirrorError> {
        let lost = |why: String| MirrorError::Unreachable { unit: unit.into(), why };
        let message = Bytes::from(serde_json::to_vec(self).expect("messages have string keys only"));
        match session.request(Request::Control(message)).await {
            Ok(Response::Control(answer)) => match serde_json::from_slice(&answer) {
                Ok(Answer::Refused(error)) => Err(error),
                Ok(answer) => Ok(answer),
                Err(error) => Err(lost(format!("its answer makes no sense: {error}"))),
            },
            Ok(Response::Data(..)) => Err(lost("its answer makes no sense".into())),
            Err(error) => Err(lost(error.to_string())),
        }
    }
}
