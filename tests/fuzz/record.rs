//! Long runs on record: a run of ten million executions is interrupted and goes on as if it had not been.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::input::Rng;

/// Everything that decides how a run goes on.
#[derive(Clone)]
pub(crate) struct Record {
    pub(crate) target: String,
    pub(crate) seed: u64,
    pub(crate) executions: u64,
    pub(crate) seconds: f64,
    /// Most bytes by which memory in use had grown since the warm-up of a process.
    pub(crate) growth: u64,
    pub(crate) rng: Rng,
    /// Inputs that showed something new, oldest first.
    pub(crate) corpus: Vec<Vec<u8>>,
    /// Hashes of what was seen.
    pub(crate) outcomes: BTreeSet<u64>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    target: String,
    seed: u64,
    executions: u64,
    seconds: f64,
    growth: u64,
    position: u64,
    corpus: Vec<String>,
    outcomes: BTreeSet<u64>,
}

fn path(dir: &Path, target: &str) -> PathBuf {
    dir.join(format!("{target}.json"))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(crate) fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
    match digits {
        Some(digits) if digits.len() % 2 == 0 => {
            Ok(digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect())
        }
        _ => Err("the input is not hexadecimal".to_owned()),
    }
}

impl Record {
    pub(crate) fn new(target: &str, seed: u64, rng: Rng) -> Self {
        Self {
            target: target.to_owned(),
            seed,
            executions: 0,
            seconds: 0.0,
            growth: 0,
            rng,
            corpus: Vec::new(),
            outcomes: BTreeSet::new(),
        }
    }

    /// The run of a target in `dir`, if one was begun there.
    pub(crate) fn load(dir: &Path, target: &str) -> Result<Option<Self>, String> {
        let text = match std::fs::read(path(dir, target)) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let stored: Stored = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        Ok(Some(Self {
            target: stored.target,
            seed: stored.seed,
            executions: stored.executions,
            seconds: stored.seconds,
            growth: stored.growth,
            rng: Rng::at(stored.position),
            corpus: stored.corpus.iter().map(|input| unhex(input)).collect::<Result<_, _>>()?,
            outcomes: stored.outcomes,
        }))
    }

    /// Stores it; what was there before is replaced as a whole.
    pub(crate) fn save(&self, dir: &Path) -> Result<(), String> {
        let stored = Stored {
            target: self.target.clone(),
            seed: self.seed,
            executions: self.executions,
            seconds: self.seconds,
            growth: self.growth,
            position: self.rng.position(),
            corpus: self.corpus.iter().map(|input| hex(input)).collect(),
            outcomes: self.outcomes.clone(),
        };
        let text = serde_json::to_vec(&stored).map_err(|error| error.to_string())?;
        let (new, old) = (dir.join(format!("{}.new", self.target)), path(dir, &self.target));
        std::fs::create_dir_all(dir)
            .and_then(|()| std::fs::write(&new, text))
            .and_then(|()| std::fs::rename(&new, old))
            .map_err(|error| error.to_string())
    }

    /// A row of the table on record.
    pub(crate) fn row(&self) -> String {
        let Self { target, executions, seconds, outcomes, growth, .. } = self;
        let rate = *executions as f64 / seconds.max(1e-9);
        format!("| `{target}` | {executions} | {rate:.0} | {} | {} |", outcomes.len(), growth >> 20)
    }
}
