//! What an administrator's order is refused with: the reason, and what to do about it (R-AD-2).

use serde::{Deserialize, Serialize};
use twinlun_block::MetaError;

/// Why an order was not carried out. Nothing has been changed unless a variant says so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum MirrorError {
    /// There is no mirror of that name here.
    #[error("there is no mirror \"{0}\" on this unit")]
    NoSuchMirror(String),
    /// A LU of the set is missing on the unit named.
    #[error("unit \"{unit}\" has no LU \"{lu}\"")]
    NoSuchLu {
        /// Storage unit.
        unit: String,
        /// Name of the LU.
        lu: String,
    },
    /// The mirror has no secondary on that unit.
    #[error("mirror \"{mirror}\" has no secondary image on unit \"{unit}\"")]
    NoSuchSecondary {
        /// Mirror.
        mirror: String,
        /// Storage unit.
        unit: String,
    },
    /// The link configuration names no such unit.
    #[error("unit \"{0}\" is not a peer of this unit's link")]
    NoSuchUnit(String),
    /// A mirror of that name exists.
    #[error("a mirror \"{0}\" exists already")]
    NameTaken(String),
    /// A LU is named twice in one set.
    #[error("LU \"{0}\" is named twice")]
    LuTwice(String),
    /// A LU belongs to a mirror.
    #[error("LU \"{lu}\" on unit \"{unit}\" is in mirror \"{mirror}\" already")]
    LuInMirror {
        /// Storage unit.
        unit: String,
        /// Name of the LU.
        lu: String,
        /// The mirror that has it.
        mirror: String,
    },
    /// Corresponding LUs differ in size or block size (R-ARR-2).
    #[error("LU \"{primary}\" and LU \"{secondary}\" differ: {difference}")]
    LusDiffer {
        /// LU of the primary image.
        primary: String,
        /// LU of the secondary image.
        secondary: String,
        /// In what.
        difference: String,
    },
    /// The images have different numbers of LUs.
    #[error("the primary image has {primary} LUs, the secondary would have {secondary}")]
    CountsDiffer {
        /// LUs of the primary image.
        primary: usize,
        /// LUs given.
        secondary: usize,
    },
    /// The unit has an image of this mirror.
    #[error("unit \"{unit}\" has an image of mirror \"{mirror}\" already")]
    AlreadyInMirror {
        /// Mirror.
        mirror: String,
        /// Storage unit.
        unit: String,
    },
    /// A mirror cannot be destroyed while it has secondaries.
    #[error("mirror \"{0}\" has secondary images")]
    HasSecondaries(String),
    /// A mirror cannot be destroyed while hosts may use it.
    #[error("mirror \"{0}\" is not INACTIVE")]
    NotInactive(String),
    /// The order needs an active mirror (R-SY-5).
    #[error("mirror \"{0}\" is INACTIVE")]
    Inactive(String),
    /// Too few images for activation; the mirror is in ATTENTION now (R-MS-2).
    #[error("mirror \"{mirror}\" is in ATTENTION: {why}")]
    ConditionsNotMet {
        /// Mirror.
        mirror: String,
        /// Which condition fails.
        why: String,
    },
    /// This unit has a secondary image only; the order belongs to the primary's unit (R-AD-4).
    #[error("this unit has a secondary image of mirror \"{mirror}\"; its primary is on unit \"{primary}\"")]
    NotPrimary {
        /// Mirror.
        mirror: String,
        /// Unit to ask.
        primary: String,
    },
    /// The image was fractured by the administrator and must be restored first.
    #[error("the image on unit \"{0}\" is fractured by order")]
    Fractured(String),
    /// The image is not fractured.
    #[error("the image on unit \"{0}\" is not fractured")]
    NotFractured(String),
    /// The unit of the image cannot be reached.
    #[error("unit \"{unit}\" cannot be reached: {why}")]
    Unreachable {
        /// Storage unit.
        unit: String,
        /// What the link says.
        why: String,
    },
    /// The images must not be brought together (B-1, B-6); both keep what they have.
    #[error("the image on unit \"{unit}\" may not be resynchronised: {why}")]
    Diverged {
        /// Storage unit.
        unit: String,
        /// What was found.
        why: String,
    },
    /// No attribute has that name.
    #[error("there is no attribute \"{0}\"")]
    NoSuchAttribute(String),
    /// An attribute cannot have that value.
    #[error("attribute {attribute} cannot be \"{value}\": {why}")]
    BadValue {
        /// Attribute.
        attribute: String,
        /// Value given.
        value: String,
        /// What it may be.
        why: String,
    },
    /// The attribute is fixed once a secondary's log space is laid out.
    #[error("attribute {0} is fixed while the mirror has secondary images")]
    FixedAttribute(String),
    /// A name or number out of bounds.
    #[error("{0}")]
    Invalid(String),
    /// This version does not do it.
    #[error("{0} is not available in this version")]
    NotAvailable(String),
    /// The metadata could not be stored; what was ordered may come into force at the next start.
    #[error("the mirror database cannot be stored: {0}")]
    Storage(String),
    /// The service stops.
    #[error("the storage processor is stopping")]
    Stopping,
}

/// What kind of refusal it is: decides exit codes and HTTP statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Something named does not exist.
    NotFound,
    /// The order itself is malformed.
    Usage,
    /// The state of things forbids it now.
    Conflict,
    /// It would risk data.
    Unsafe,
    /// Another unit does not answer.
    Unreachable,
    /// It was tried and went wrong.
    Failed,
}

impl MirrorError {
    /// Kind of refusal.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchMirror(_)
            | Self::NoSuchLu { .. }
            | Self::NoSuchSecondary { .. }
            | Self::NoSuchUnit(_) => ErrorKind::NotFound,
            Self::LuTwice(_) | Self::NoSuchAttribute(_) | Self::BadValue { .. } | Self::Invalid(_) => {
                ErrorKind::Usage
            }
            Self::Diverged { .. } | Self::HasSecondaries(_) | Self::NotInactive(_) => ErrorKind::Unsafe,
            Self::Unreachable { .. } => ErrorKind::Unreachable,
            Self::Storage(_) | Self::Stopping => ErrorKind::Failed,
            Self::NameTaken(_)
            | Self::LuInMirror { .. }
            | Self::LusDiffer { .. }
            | Self::CountsDiffer { .. }
            | Self::AlreadyInMirror { .. }
            | Self::Inactive(_)
            | Self::ConditionsNotMet { .. }
            | Self::NotPrimary { .. }
            | Self::Fractured(_)
            | Self::NotFractured(_)
            | Self::FixedAttribute(_)
            | Self::NotAvailable(_) => ErrorKind::Conflict,
        }
    }

    /// What the administrator can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::NoSuchMirror(_) => "list the mirrors with `mirror list`".into(),
            Self::NoSuchLu { unit, .. } => format!("list its LUs with `lu list` on unit \"{unit}\""),
            Self::NoSuchSecondary { mirror, .. } => format!("see its images with `mirror show {mirror}`"),
            Self::NoSuchUnit(_) => "add a [[link.peer]] section for it to the configuration".into(),
            Self::NameTaken(_) => "choose another name".into(),
            Self::LuTwice(_) => "name each LU once".into(),
            Self::LuInMirror { mirror, .. } => format!("choose another LU, or destroy mirror \"{mirror}\" first"),
            Self::LusDiffer { .. } => "create a LU of exactly the same size and block size".into(),
            Self::CountsDiffer { .. } => "name one LU for each LU of the primary image, in its order".into(),
            Self::AlreadyInMirror { .. } => "remove that image first".into(),
            Self::HasSecondaries(mirror) => format!("remove them with `mirror remove-secondary {mirror}`"),
            Self::NotInactive(mirror) => format!("stop its use with `mirror deactivate {mirror}`"),
            Self::Inactive(mirror) => format!("activate it with `mirror activate {mirror}`"),
            Self::ConditionsNotMet { .. } => {
                "bring the missing units back, or lower minimum_images_required or raise maximum_missing_images".into()
            }
            Self::NotPrimary { primary, .. } => format!("send the order to unit \"{primary}\""),
            Self::Fractured(unit) => format!("restore it with `mirror restore --unit {unit}`"),
            Self::NotFractured(_) => "nothing is to be done".into(),
            Self::Unreachable { .. } => "check the unit and the network between both, or use --force where offered".into(),
            Self::Diverged { .. } => "compare both with `mirror why`, then remove the image whose data may be given up".into(),
            Self::NoSuchAttribute(_) => "`mirror show` lists the attributes".into(),
            Self::BadValue { .. } | Self::Invalid(_) => "correct the order".into(),
            Self::FixedAttribute(_) => "remove the secondary images first, or leave it".into(),
            Self::NotAvailable(_) => "see the release notes".into(),
            Self::Storage(_) => "check the disks of the unit with `disk list`".into(),
            Self::Stopping => "send the order again once it runs".into(),
        }
    }
}

impl From<MetaError> for MirrorError {
    fn from(error: MetaError) -> Self {
        Self::Storage(error.to_string())
    }
}
