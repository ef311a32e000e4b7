//! What `twinlun load` is told.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use twinlun_api::ByteSize;

use super::IscsiUrl;

/// Where the next command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Anywhere in the range.
    Random,
    /// Behind the last one; each connection in its own part of the range.
    Sequential,
}

/// A time as people write it: `500ms`, `10s`, `2m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// A text that is not a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a time is a number with ms, s, m or h behind it, such as 10s")]
pub struct SpanError;

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let number: u64 = number.parse().map_err(|_| SpanError)?;
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(SpanError),
        };
        number.checked_mul(milliseconds).map(Duration::from_millis).map(Self).ok_or(SpanError)
    }
}

/// Arguments of `twinlun load`.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// The LU.
    #[arg(help = "The LU: iscsi://host[:port]/target[/lun]")]
    pub url: IscsiUrl,
    /// Sessions at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub connections: u32,
    /// Commands under way on each of them
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub depth: u32,
    /// Bytes per command
    #[arg(long, default_value = "4KiB", value_name = "SIZE")]
    pub block_size: ByteSize,
    /// Percentage of reads; the rest are writes, which destroy what the LU holds
    #[arg(long, default_value_t = 100, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub read: u8,
    /// Where commands go
    #[arg(long, value_enum, default_value = "random")]
    pub order: Order,
    /// First byte of the range that is used
    #[arg(long, default_value = "0B", value_name = "SIZE")]
    pub offset: ByteSize,
    /// Length of the range; to the end of the LU when not given
    #[arg(long, value_name = "SIZE")]
    pub size: Option<ByteSize>,
    /// How long to measure
    #[arg(long, default_value = "10s", value_name = "TIME")]
    pub time: Span,
    /// How long to run before measuring
    #[arg(long, default_value = "1s", value_name = "TIME")]
    pub warm_up: Span,
    /// Write a pattern, check it on every read, and read all that was written again at the end
    #[arg(long)]
    pub verify: bool,
    /// Writes reach stable storage before they are answered
    #[arg(long)]
    pub fua: bool,
    /// Start of the pseudo-random sequence; drawn when not given
    #[arg(long)]
    pub seed: Option<u64>,
    /// Offer header digests
    #[arg(long)]
    pub header_digest: bool,
    /// Offer data digests
    #[arg(long)]
    pub data_digest: bool,
    /// Name of this initiator
    #[arg(long, default_value = "iqn.2026-11.io.twinlun:load", value_name = "IQN")]
    pub initiator: String,
    /// CHAP user
    #[arg(long, requires = "chap_secret_file")]
    pub chap_user: Option<String>,
    /// File with the CHAP secret
    #[arg(long, value_name = "FILE", requires = "chap_user")]
    pub chap_secret_file: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        assert_eq!("500ms".parse(), Ok(Span(Duration::from_millis(500))));
        assert_eq!("2m".parse(), Ok(Span(Duration::from_secs(120))));
        for bad in
            ["", "10", "s", "1.5s", "-1s", "1 s", "1d", "99999999999999999999s", "18446744073709551615h"]
        {
            assert_eq!(bad.parse::<Span>(), Err(SpanError), "{bad}");
        }
    }
}
