//! Attributes of mirrors and images (R-DB-3, R-DB-4): their names, bounds and defaults.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::MirrorError;

/// When the host is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WritePolicy {
    /// After every image in step has the write (S1, S2).
    Sync,
    /// After the primary image has it (R-AS-1).
    Async,
    /// Secondaries follow by consistency points (S3).
    Cyclic,
}

impl WritePolicy {
    /// As it is written in configuration and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Async => "async",
            Self::Cyclic => "cyclic",
        }
    }
}

/// Something that happens by itself or by the administrator's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ByWhom {
    /// By itself.
    Automatic,
    /// By the administrator's word.
    Manual,
}

impl ByWhom {
    /// As it is written in configuration and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Automatic => "automatic",
            Self::Manual => "manual",
        }
    }
}

/// Which mirror's copies go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Last.
    Low,
    /// In between.
    Medium,
    /// First.
    High,
}

impl Priority {
    const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// Mirror-wide attributes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attributes {
    /// Bytes of fracture bitmap per secondary and LU.
    pub fracture_log_size: u64,
    /// Bytes per fracture bit; 0 means the smallest that fits `fracture_log_size`.
    pub extent_size: u64,
    /// Most images that may be missing while the mirror stays ACTIVE; −1 off (R-MS-3).
    pub maximum_missing_images: i64,
    /// Images, the primary counted, that activation needs; −1 off (R-MS-3).
    pub minimum_images_required: i64,
    /// Whose copies go first.
    pub synchronization_priority: Priority,
    /// Blocks that an asynchronous mirror may lag behind.
    pub write_backlog_size: u64,
    /// What ends ATTENTION (R-MS-2).
    pub activation_policy: ByWhom,
    /// Milliseconds a write waits for a secondary before that is fractured (R-FL-5).
    pub write_timeout_ms: u64,
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            fracture_log_size: 2 << 20,
            extent_size: 0,
            maximum_missing_images: -1,
            minimum_images_required: -1,
            synchronization_priority: Priority::Medium,
            write_backlog_size: 65_536,
            activation_policy: ByWhom::Automatic,
            write_timeout_ms: 5_000,
        }
    }
}

impl Attributes {
    /// Sets attributes from text, all or none. `laid_out`: log space of a secondary is laid out by the present values.
    pub fn set(&mut self, changes: &BTreeMap<String, String>, laid_out: bool) -> Result<(), MirrorError> {
        let mut next = self.clone();
        for (name, value) in changes {
            if laid_out && matches!(name.as_str(), "fracture_log_size" | "extent_size") {
                return Err(MirrorError::FixedAttribute(name.clone()));
            }
            next.set_one(name, value)?;
        }
        *self = next;
        Ok(())
    }

    fn set_one(&mut self, name: &str, value: &str) -> Result<(), MirrorError> {
        match name {
            "fracture_log_size" => self.fracture_log_size = bytes(name, value, 4 << 10, 64 << 20)?,
            "extent_size" => {
                let size = if value == "auto" { 0 } else { bytes(name, value, 0, 1 << 30)? };
                if size != 0 && !(size.is_power_of_two() && size >= 4096) {
                    return Err(bad(name, value, "0 or a power of two of at least 4KiB"));
                }
                self.extent_size = size;
            }
            "maximum_missing_images" => self.maximum_missing_images = integer(name, value, -1, 64)?,
            "minimum_images_required" => self.minimum_images_required = integer(name, value, -1, 64)?,
            "synchronization_priority" => {
                self.synchronization_priority = match value {
                    "low" => Priority::Low,
                    "medium" => Priority::Medium,
                    "high" => Priority::High,
                    _ => return Err(bad(name, value, "low, medium or high")),
                }
            }
            "write_backlog_size" => {
                self.write_backlog_size = integer(name, value, 1, 1 << 32)?.unsigned_abs();
            }
            "activation_policy" => self.activation_policy = by_whom(name, value)?,
            "write_timeout" => {
                let seconds: f64 = value
                    .trim_end_matches('s')
                    .parse()
                    .map_err(|_| bad(name, value, "seconds, 0.1 to 300"))?;
                if !(0.1..=300.0).contains(&seconds) {
                    return Err(bad(name, value, "seconds, 0.1 to 300"));
                }
                self.write_timeout_ms = (seconds * 1000.0) as u64;
            }
            _ => return Err(MirrorError::NoSuchAttribute(name.into())),
        }
        Ok(())
    }

    /// How long a write waits for a secondary (R-FL-5).
    pub fn write_timeout(&self) -> Duration {
        Duration::from_millis(self.write_timeout_ms)
    }

    /// For `mirror show`.
    pub fn view(&self) -> BTreeMap<String, Value> {
        BTreeMap::from([
            ("fracture_log_size".into(), self.fracture_log_size.into()),
            ("extent_size".into(), self.extent_size.into()),
            ("maximum_missing_images".into(), self.maximum_missing_images.into()),
            ("minimum_images_required".into(), self.minimum_images_required.into()),
            ("synchronization_priority".into(), self.synchronization_priority.name().into()),
            ("write_backlog_size".into(), self.write_backlog_size.into()),
            ("activation_policy".into(), self.activation_policy.name().into()),
            ("write_timeout".into(), (self.write_timeout_ms as f64 / 1000.0).into()),
        ])
    }
}

/// Attributes of one secondary image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageAttributes {
    /// Bytes per second that copies may take; 0 is unlimited (R-SY-1).
    pub synchronization_rate: u64,
    /// Who starts a resynchronisation once the image is back (R-SY-4).
    pub recovery_policy: ByWhom,
}

impl Default for ImageAttributes {
    fn default() -> Self {
        Self { synchronization_rate: 0, recovery_policy: ByWhom::Automatic }
    }
}

impl ImageAttributes {
    /// Sets attributes from text, all or none.
    pub fn set(&mut self, changes: &BTreeMap<String, String>) -> Result<(), MirrorError> {
        let mut next = self.clone();
        for (name, value) in changes {
            match name.as_str() {
                "synchronization_rate" => {
                    next.synchronization_rate = match value.as_str() {
                        "unlimited" | "0" => 0,
                        "low" => 10 << 20,
                        "medium" => 50 << 20,
                        "high" => 200 << 20,
                        _ => bytes(name, value, 4 << 10, 1 << 40)?,
                    }
                }
                "recovery_policy" => next.recovery_policy = by_whom(name, value)?,
                _ => return Err(MirrorError::NoSuchAttribute(name.clone())),
            }
        }
        *self = next;
        Ok(())
    }

    /// The rate for `mirror show`.
    pub fn rate_text(&self) -> String {
        match self.synchronization_rate {
            0 => "unlimited".into(),
            rate => rate.to_string(),
        }
    }
}

fn bad(attribute: &str, value: &str, why: &str) -> MirrorError {
    MirrorError::BadValue { attribute: attribute.into(), value: value.into(), why: why.into() }
}

fn by_whom(name: &str, value: &str) -> Result<ByWhom, MirrorError> {
    match value {
        "automatic" => Ok(ByWhom::Automatic),
        "manual" => Ok(ByWhom::Manual),
        _ => Err(bad(name, value, "automatic or manual")),
    }
}

fn integer(name: &str, value: &str, low: i64, high: i64) -> Result<i64, MirrorError> {
    match value.parse::<i64>() {
        Ok(number) if (low..=high).contains(&number) => Ok(number),
        _ => Err(bad(name, value, &format!("a number from {low} to {high}"))),
    }
}

/// A size: a number with an optional unit, `KiB`, `MiB` or `GiB`, with or without `/s`.
fn bytes(name: &str, value: &str, low: u64, high: u64) -> Result<u64, MirrorError> {
    let text = value.trim_end_matches("/s");
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" | "K" => 10,
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        _ => return Err(bad(name, value, "a size such as 4MiB")),
    };
    match digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)) {
        Some(size) if (low..=high).contains(&size) => Ok(size),
        _ => Err(bad(name, value, &format!("a size from {low} to {high} bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.into(), value.into())])
    }

    #[test]
    fn values_are_checked_and_nothing_is_half_set() {
        let mut all = Attributes::default();
        all.set(&one("extent_size", "64KiB"), false).unwrap();
        assert_eq!(all.extent_size, 65_536);
        assert!(matches!(all.set(&one("extent_size", "64KiB"), true), Err(MirrorError::FixedAttribute(_))));
        for wrong in ["5000", "2KiB", "x", "", "99999999999999999999GiB"] {
            assert!(all.set(&one("extent_size", wrong), false).is_err(), "{wrong}");
        }
        let mut two = one("maximum_missing_images", "0");
        two.insert("nonsense".into(), "1".into());
        assert_eq!(all.set(&two, false), Err(MirrorError::NoSuchAttribute("nonsense".into())));
        assert_eq!(all.maximum_missing_images, -1, "the good half must not stick");
        all.set(&one("write_timeout", "2.5"), false).unwrap();
        assert_eq!(all.write_timeout(), Duration::from_millis(2500));
    }

    #[test]
    fn rates_are_words_or_sizes() {
        let mut image = ImageAttributes::default();
        image.set(&one("synchronization_rate", "8MiB/s")).unwrap();
        assert_eq!(image.rate_text(), "8388608");
        image.set(&one("synchronization_rate", "unlimited")).unwrap();
        assert_eq!(image.rate_text(), "unlimited");
        assert!(image.set(&one("recovery_policy", "sometimes")).is_err());
    }
}
