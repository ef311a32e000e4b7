//! Errors as people and scripts meet them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of refusal it is: decides the HTTP status and the exit code of `twinlun`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// It was tried and failed. Exit 1.
    Failed,
    /// The order itself makes no sense. Exit 2.
    Usage,
    /// What it names does not exist. Exit 3.
    NotFound,
    /// Refused as unsafe or in conflict with the state. Exit 4.
    Refused,
    /// The daemon cannot be reached. Exit 5. Made by the client only.
    Unreachable,
    /// The time limit of `--wait` passed. Exit 6. Made by the client only.
    TimedOut,
}

impl ProblemKind {
    /// Exit code of the command line.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Refused => 4,
            Self::Unreachable => 5,
            Self::TimedOut => 6,
        }
    }

    /// HTTP status of the answer.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Failed => 500,
            Self::Usage => 400,
            Self::NotFound => 404,
            Self::Refused => 409,
            Self::Unreachable => 502,
            Self::TimedOut => 504,
        }
    }
}

/// One refusal: what, why, and what to do about it. Served as `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Kind of refusal.
    pub kind: ProblemKind,
    /// Stable code, such as `E-LU-EXISTS`.
    pub code: String,
    /// What was refused and why, with the failing value.
    pub detail: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

impl Problem {
    /// A problem of that kind.
    pub fn new(kind: ProblemKind, code: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { kind, code: code.into(), detail: detail.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.detail, self.code)?;
        if !self.remedy.is_empty() {
            write!(f, "\n  what to do: {}", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}
