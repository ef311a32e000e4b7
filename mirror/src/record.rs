//! The mirror database (R-DB): one record per mirror, whole on every unit that takes part in it.
//! `docs/design/mirror-database.md` lists its keys.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use twinlun_block::{BlockSize, Geometry};
use uuid::Uuid;

use crate::decide::Generation;
use crate::state::{ImageState, MirrorState, Relation};
use crate::view::{ImageView, MirrorView};
use crate::{Attributes, ByWhom, ImageAttributes, WritePolicy};

/// Version of the record's shape.
pub(crate) const VERSION: u32 = 1;
/// Most LUs of a set, secondaries of a mirror and mirrors of a unit.
pub(crate) const MOST_LUS: usize = 64;
pub(crate) const MOST_SECONDARIES: usize = 8;
pub(crate) const MOST_MIRRORS: usize = 1024;
/// Generations remembered.
pub(crate) const MOST_ANCESTORS: usize = 32;

/// Key of the list of mirrors.
pub(crate) const INDEX_KEY: &str = "mirror/index";

/// Key of a mirror's record.
pub(crate) fn record_key(mirror: Uuid) -> String {
    format!("mirror/{mirror}/record")
}

/// Key of what only this unit needs of a mirror: what its secondary image holds.
pub(crate) fn local_key(mirror: Uuid) -> String {
    format!("mirror/{mirror}/local")
}

/// Name of the write intent log of a LU of the set.
pub(crate) fn intent_name(mirror: Uuid, lu: usize) -> String {
    format!("mirror/{mirror}/intent/{lu}")
}

/// Name of the fracture log of a secondary for a LU of the set.
pub(crate) fn fracture_name(mirror: Uuid, image: Uuid, lu: usize) -> String {
    format!("mirror/{mirror}/fracture/{image}/{lu}")
}

/// A LU of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LuRecord {
    pub(crate) uuid: Uuid,
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) block_size: u32,
}

impl LuRecord {
    pub(crate) fn new(uuid: Uuid, name: &str, geometry: Geometry) -> Self {
        Self { uuid, name: name.into(), size: geometry.size, block_size: geometry.block_size.bytes() }
    }

    /// In what it differs from `other`, in words; `None` when both fit each other (R-ARR-2).
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        if self.size != other.size {
            return Some(format!("{} and {} bytes", self.size, other.size));
        }
        (self.block_size != other.block_size)
            .then(|| format!("blocks of {} and {} bytes", self.block_size, other.block_size))
    }
}

/// The primary image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PrimaryRecord {
    pub(crate) unit: String,
    pub(crate) lus: Vec<LuRecord>,
}

/// Why writes are kept from an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fracture {
    /// By the administrator, who alone ends it.
    pub(crate) ordered: bool,
    pub(crate) reason: String,
    /// Wall clock, for people.
    pub(crate) since_unix: u64,
}

/// A secondary image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SecondaryRecord {
    /// Drawn when it is added: the logs of an image that was removed are never taken for those of a new one.
    pub(crate) id: Uuid,
    pub(crate) unit: String,
    pub(crate) lus: Vec<LuRecord>,
    pub(crate) relation: Relation,
    pub(crate) fracture: Option<Fracture>,
    /// Bytes that the present copy had to do at its start, for progress.
    pub(crate) copy_total: u64,
    pub(crate) attributes: ImageAttributes,
}

/// A unit whose image was removed while it could not be reached; it is told when it can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Departed {
    pub(crate) unit: String,
    pub(crate) image: Uuid,
}

/// A mirror.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MirrorRecord {
    pub(crate) version: u32,
    pub(crate) uuid: Uuid,
    pub(crate) name: String,
    /// Counts changes; never goes back (I9).
    pub(crate) configuration: u64,
    pub(crate) state: MirrorState,
    pub(crate) policy: WritePolicy,
    pub(crate) attributes: Attributes,
    pub(crate) generation: Generation,
    pub(crate) ancestors: Vec<Generation>,
    /// Counts starts of the primary; the high part of attachment epochs.
    pub(crate) incarnation: u64,
    pub(crate) primary: PrimaryRecord,
    pub(crate) secondaries: Vec<SecondaryRecord>,
    pub(crate) departed: Vec<Departed>,
}

/// Why a record is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("mirror record: {0}")]
pub(crate) struct RecordError(pub(crate) String);

impl MirrorRecord {
    pub(crate) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("a record has string keys only").into()
    }

    /// Reads a record from disk or from a peer, and checks it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let record: Self = serde_json::from_slice(bytes).map_err(|e| RecordError(e.to_string()))?;
        record.check()?;
        Ok(record)
    }

    /// Whether its parts fit each other.
    pub(crate) fn check(&self) -> Result<(), RecordError> {
        let fail = |why: &str| Err(RecordError(why.into()));
        if self.version != VERSION {
            return fail("unknown version");
        }
        if !is_name(&self.name) {
            return fail("bad name");
        }
        let lus = &self.primary.lus;
        if lus.is_empty() || lus.len() > MOST_LUS || self.secondaries.len() > MOST_SECONDARIES {
            return fail("too few or too many LUs or images");
        }
        if self.ancestors.len() > MOST_ANCESTORS || self.departed.len() > MOST_SECONDARIES * 4 {
            return fail("too long a history");
        }
        if lus.iter().any(|lu| BlockSize::from_bytes(lu.block_size).is_none() || lu.size == 0) {
            return fail("impossible LU");
        }
        for secondary in &self.secondaries {
            let fits = secondary.lus.len() == lus.len()
                && secondary.lus.iter().zip(lus).all(|(a, b)| a.difference(b).is_none());
            if !fits {
                return fail("images differ in shape");
            }
        }
        Ok(())
    }

    pub(crate) fn secondary(&self, unit: &str) -> Option<&SecondaryRecord> {
        self.secondaries.iter().find(|secondary| secondary.unit == unit)
    }

    pub(crate) fn by_id_mut(&mut self, id: Uuid) -> Option<&mut SecondaryRecord> {
        self.secondaries.iter_mut().find(|secondary| secondary.id == id)
    }
}

/// What a unit knows of its own secondary image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LocalRecord {
    /// Generation that the data follows; `None` before the first copy has begun.
    pub(crate) generation: Option<Generation>,
    /// Whether the data is a consistent point.
    pub(crate) consistent: bool,
    /// Highest attachment epoch; lower ones are refused for ever.
    pub(crate) epoch: u64,
}

impl LocalRecord {
    pub(crate) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("a record has string keys only").into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        serde_json::from_slice(bytes).map_err(|e| RecordError(e.to_string()))
    }
}

/// What the record alone tells for `mirror show`.
pub(crate) fn view(record: &MirrorRecord) -> MirrorView {
    let cookie = format!("{}:{}", record.generation.number, record.generation.id);
    let names = |lus: &[LuRecord]| lus.iter().map(|lu| lu.name.clone()).collect();
    let primary = ImageView {
        unit: record.primary.unit.clone(),
        designator: "primary".into(),
        state: ImageState::Synchronized.name().into(),
        reachable: true,
        fractured: false,
        fracture_reason: None,
        dirty_bytes: 0,
        progress: None,
        cookie: cookie.clone(),
        lus: names(&record.primary.lus),
        recovery_policy: ByWhom::Automatic.name().into(),
        synchronization_rate: ImageAttributes::default().rate_text(),
        error: None,
    };
    let secondaries = record.secondaries.iter().map(|secondary| ImageView {
        unit: secondary.unit.clone(),
        designator: "secondary".into(),
        state: secondary.relation.state(false).name().into(),
        reachable: false,
        fractured: secondary.fracture.is_some(),
        fracture_reason: secondary.fracture.as_ref().map(|fracture| fracture.reason.clone()),
        dirty_bytes: 0,
        progress: None,
        cookie: cookie.clone(),
        lus: names(&secondary.lus),
        recovery_policy: secondary.attributes.recovery_policy.name().into(),
        synchronization_rate: secondary.attributes.rate_text(),
        error: None,
    });
    MirrorView {
        name: record.name.clone(),
        uuid: record.uuid.to_string(),
        state: record.state.name().into(),
        policy: record.policy.name().into(),
        configuration: record.configuration,
        attributes: record.attributes.view(),
        images: std::iter::once(primary).chain(secondaries).collect(),
    }
}

/// Whether a mirror may have that name.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn sample() -> MirrorRecord {
        let lu = |n: u128| LuRecord {
            uuid: Uuid::from_u128(n),
            name: format!("lu{n}"),
            size: 1 << 30,
            block_size: 512,
        };
        MirrorRecord {
            version: VERSION,
            uuid: Uuid::from_u128(7),
            name: "payroll".into(),
            configuration: 3,
            state: MirrorState::Active,
            policy: WritePolicy::Sync,
            attributes: Attributes::default(),
            generation: Generation { number: 1, id: Uuid::from_u128(8) },
            ancestors: Vec::new(),
            incarnation: 2,
            primary: PrimaryRecord { unit: "east".into(), lus: vec![lu(1), lu(2)] },
            secondaries: vec![SecondaryRecord {
                id: Uuid::from_u128(9),
                unit: "west".into(),
                lus: vec![lu(3), lu(4)],
                relation: Relation::Copying { full: true },
                fracture: Some(Fracture { ordered: false, reason: "link lost".into(), since_unix: 5 }),
                copy_total: 77,
                attributes: ImageAttributes::default(),
            }],
            departed: Vec::new(),
        }
    }

    #[test]
    fn a_record_survives_the_trip_and_misfits_do_not() {
        let record = sample();
        assert_eq!(MirrorRecord::decode(&record.encode()), Ok(record.clone()));
        let mut wrong = record.clone();
        wrong.secondaries[0].lus[0].size += 512;
        assert!(MirrorRecord::decode(&wrong.encode()).is_err(), "sizes must match exactly");
        let mut wrong = record.clone();
        wrong.version = 2;
        assert!(MirrorRecord::decode(&wrong.encode()).is_err());
        let mut wrong = record;
        wrong.name = "../x".into();
        assert!(MirrorRecord::decode(&wrong.encode()).is_err());
    }

    proptest! {
        #[test]
        fn damaged_records_are_refused_without_panic(at in 0usize..800, byte in any::<u8>()) {
            let mut bytes = sample().encode().to_vec();
            let index = at % bytes.len();
            bytes[index] = byte;
            let _ = MirrorRecord::decode(&bytes);
            bytes.truncate(index);
            prop_assert!(MirrorRecord::decode(&bytes).is_err());
        }
    }
}
