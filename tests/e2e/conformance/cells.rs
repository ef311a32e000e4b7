//! The matrix: kinds of LU and ways to reach them.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use twinlun::stage::{StageArray, UnitConfig};

use super::verdicts::{Test, Verdicts, verdicts};
use crate::pair::{LU, Pair, bind, disk_size, two_portals};
use crate::runner::Failure;

const SIZE: u64 = 256 << 20;
const IN_STEP: Duration = Duration::from_secs(60);
/// As what the tool logs in, and as what it does where a test needs a second initiator.
const INITIATORS: [&str; 2] = ["iqn.2026-11.io.twinlun:first", "iqn.2026-11.io.twinlun:second"];
const SECRETS: [(&str, &str); 2] = [("host", "twelve-and-more"), ("unit", "another-secret")];

/// What the tool itself gets wrong over two paths.
const WRONG_OVER_TWO_PATHS: &[(&str, &str)] =
    &[("Sanitize.Reset", "Sanitize.Reservations, which runs before it, leaves a RESERVE on the other path")];

/// What it gets wrong besides where a physical block has several logical ones.
const WRONG_AT_LARGE_PHYSICAL_BLOCKS: &[(&str, &str)] = &[
    WRONG_OVER_TWO_PATHS[0],
    (
        "GetLBAStatus.UnmapSingle",
        "asks for the status of LBA n + 1 and expects a descriptor that begins at LBA n + 8",
    ),
];

/// One kind of LU, reached in one way.
pub(crate) struct Cell {
    /// Short name.
    pub(crate) name: &'static str,
    /// What the page says of it.
    pub(crate) title: &'static str,
    /// The order that binds the LU, beyond name and size.
    lu: fn() -> Value,
    /// Whether the LU is the primary image of a mirror.
    mirrored: bool,
    /// How the tool gets in.
    access: Access,
    /// Tests to run, as the tool names them.
    tests: &'static str,
    /// Failures whose cause lies in the tool, by the test's name or its beginning, with the reason.
    pub(crate) wrong: &'static [(&'static str, &'static str)],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Any host, two portals.
    Open,
    /// With header digests; the tool knows no data digests.
    HeaderDigest,
    /// CHAP in both directions, one portal.
    Chap,
}

/// Suites that write nothing, or that expect to be refused: the others demand success of their writes.
const READING: &str = "ALL.ReadOnly,ALL.Inquiry,ALL.Mandatory,ALL.ModeSense6,ALL.Prefetch10,ALL.Prefetch16,ALL.PrinReadKeys,\
    ALL.PrinServiceactionRange,ALL.Read6,ALL.Read10,ALL.Read12,ALL.Read16,ALL.ReadCapacity10,ALL.ReadCapacity16,\
    ALL.ReadDefectData10,ALL.ReadDefectData12,ALL.ReportSupportedOpcodes,ALL.TestUnitReady";

const PLAIN: Cell = Cell {
    name: "thin-512",
    title: "thin, blocks of 512 bytes",
    lu: || json!({"thin": true}),
    mirrored: false,
    access: Access::Open,
    tests: "ALL",
    wrong: WRONG_OVER_TWO_PATHS,
};

/// All cells. What a cell leaves unsaid is as in the first.
pub(crate) const CELLS: &[Cell] = &[
    PLAIN,
    Cell { name: "thick-512", title: "thick, blocks of 512 bytes", lu: || json!({"thin": false}), ..PLAIN },
    Cell {
        name: "thin-4096",
        title: "thin, blocks of 4096 bytes",
        lu: || json!({"thin": true, "block_size": 4096}),
        ..PLAIN
    },
    Cell {
        name: "thick-4096",
        title: "thick, blocks of 4096 bytes",
        lu: || json!({"thin": false, "block_size": 4096}),
        ..PLAIN
    },
    Cell { name: "mirrored-thin-512", title: "mirrored, thin, blocks of 512 bytes", mirrored: true, ..PLAIN },
    Cell {
        name: "mirrored-thick-4096",
        title: "mirrored, thick, blocks of 4096 bytes",
        lu: || json!({"thin": false, "block_size": 4096}),
        mirrored: true,
        ..PLAIN
    },
    Cell {
        name: "digests",
        title: "thin, blocks of 512 bytes, header digests",
        access: Access::HeaderDigest,
        ..PLAIN
    },
    Cell {
        name: "physical-4096",
        title: "thin, 8 blocks of 512 bytes in a physical block",
        lu: || json!({"thin": true, "physical_block_size": 4096}),
        wrong: WRONG_AT_LARGE_PHYSICAL_BLOCKS,
        ..PLAIN
    },
    Cell {
        name: "removable",
        title: "thin, blocks of 512 bytes, removable",
        lu: || json!({"thin": true, "removable": true}),
        ..PLAIN
    },
    Cell {
        name: "read-only",
        title: "thin, blocks of 512 bytes, read-only; the suites that only read",
        lu: || json!({"thin": true, "read_only": true}),
        tests: READING,
        wrong: &[],
        ..PLAIN
    },
    Cell {
        name: "chap",
        title: "thin, blocks of 512 bytes, CHAP both ways, one portal",
        access: Access::Chap,
        wrong: &[],
        ..PLAIN
    },
];

impl Cell {
    /// Builds the units, runs the tool and ends the units. A mirror must be in step afterwards, its images equal.
    pub(crate) async fn run(&self, folder: &Path) -> Result<Verdicts, Failure> {
        let mut found = if self.mirrored {
            let pair = Pair::build_with(folder, SIZE, two_portals(), (self.lu)()).await?;
            let found = self.tool(&pair.east).await?;
            pair.wait_in_step(IN_STEP).await?;
            pair.stop_and_compare().await?;
            found
        } else {
            let mut config = UnitConfig::new("solo", 2, disk_size(SIZE));
            config.portals = two_portals();
            let mut unit = StageArray::start(folder, config).await?;
            bind(&unit, SIZE, (self.lu)()).await?;
            let found = self.tool(&unit).await?;
            unit.stop().await?;
            found
        };
        for (name, test) in &mut found {
            let excused = self.wrong.iter().any(|(prefix, _)| name.starts_with(prefix));
            if excused && test.verdict == Test::Failed {
                test.verdict = Test::Wrong;
            }
        }
        Ok(found)
    }

    async fn tool(&self, unit: &StageArray) -> Result<Verdicts, Failure> {
        if self.access == Access::Chap {
            admit_by_chap(unit).await?;
        }
        let portals = if self.access == Access::Chap { 1 } else { 2 };
        let urls: Vec<_> = unit.urls(0).into_iter().take(portals).map(|url| self.access.apply(url)).collect();
        verdicts(self.tests, INITIATORS, &urls).await
    }
}

impl Access {
    fn apply(self, url: String) -> String {
        let [(user, secret), (unit_user, unit_secret)] = SECRETS;
        match self {
            Self::Open => url,
            Self::HeaderDigest => format!("{url}?header_digest=crc32c"),
            Self::Chap => {
                let url = url.replacen("iscsi://", &format!("iscsi://{user}%{secret}@"), 1);
                format!("{url}?target_user={unit_user}&target_password={unit_secret}")
            }
        }
    }
}

/// Nobody but the tool's two initiators gets in, and they only with CHAP in both directions.
async fn admit_by_chap(unit: &StageArray) -> Result<(), Failure> {
    let [(user, secret), (unit_user, unit_secret)] = SECRETS;
    let map = format!("/v1/lus/{LU}/map");
    unit.client().post(&format!("/v1/lus/{LU}/unmap"), json!({"host": "any"})).await?;
    for name in INITIATORS {
        let host = json!({
            "iqn": name,
            "chap": {"user": user, "secret": secret},
            "mutual": {"user": unit_user, "secret": unit_secret},
        });
        unit.client().post("/v1/hosts", host).await?;
        unit.client().post(&map, json!({"host": name, "lun": 0})).await?;
    }
    Ok(())
}
