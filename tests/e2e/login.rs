//! Logging in and being found: libiscsi's suites for CHAP, SendTargets and NOP, and Debian's iSNS server.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::process::{Child, Command};
use twinlun::stage::{StageArray, UnitConfig, free_port};

use crate::process::{find, missing, output, run};
use crate::runner::{Case, Failure, Outcome, Verdict};

const LIMIT: Duration = Duration::from_secs(180);
const SHORT: Duration = Duration::from_secs(30);
const DISK: u64 = 256 << 20;
/// The names that libiscsi's tool logs in by.
const TOOL: &str = "iqn.2007-10.com.github:sahlberg:libiscsi:iscsi-test";
const SECRET: &str = "a secret of 23 octets..";

/// The cases of this room.
pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new("conformance_login", LIMIT, conformance), Case::new("isns_open_isns", LIMIT, open_isns)]
}

/// The suites that want CHAP. Their tests of names want a CHAP name that looks like a binary value of one kind or the other.
async fn conformance(folder: PathBuf) -> Outcome {
    if let Some(reason) = missing(&["iscsi-test-cu"]) {
        return Ok(Verdict::Skipped(reason));
    }
    let list = run("iscsi-test-cu", ["-l"], SHORT).await?;
    let suites = ["iSCSICHAP", "iSCSISendTargets", "iSCSINop"];
    // Not SendTargets.Invalid: it wants a Reject for an unknown key. RFC 7143, 6.2 wants NotUnderstood, at which the tool drops its own
    // session and waits for ever.
    let family = |suite: &str| match suite {
        "iSCSISendTargets" => "iSCSI.iSCSISendTargets.Simple".to_owned(),
        suite => format!("iSCSI.{suite}.*"),
    };
    if let Some(suite) = suites.iter().find(|suite| !list.contains(&format!("iSCSI.{suite}"))) {
        return Ok(Verdict::Skipped(format!("this iscsi-test-cu has no suite {suite}; libiscsi 1.20 has")));
    }
    let mut unit = StageArray::start(&folder, UnitConfig::new("solo", 2, DISK)).await?;
    unit.client().post("/v1/lus", json!({"name": "db", "size": 64 << 20, "raid": "1", "thin": true})).await?;
    for user in ["0xdeadbeef", "0bAQID"] {
        for host in [TOOL.to_owned(), format!("{TOOL}-2")] {
            let chap = json!({"user": user, "secret": SECRET.replace(' ', "-")});
            unit.client().post("/v1/hosts", json!({"iqn": host, "chap": chap})).await?;
            unit.client().post("/v1/lus/db/map", json!({"host": host, "lun": 0})).await?;
        }
        let address = unit.url(0).replacen("iscsi://", "", 1);
        let url = format!("iscsi://{user}%{}@{address}", SECRET.replace(' ', "-"));
        for suite in suites {
            let done = output("iscsi-test-cu", ["-d", "-n", "-V", "-t", &family(suite), &url], SHORT).await?;
            let text = String::from_utf8_lossy(&done.stdout).into_owned();
            let row = text.lines().find(|line| line.trim_start().starts_with("tests "));
            let numbers = row.map(|row| row.split_whitespace().filter_map(|word| word.parse().ok()));
            // Total, ran, passed, failed.
            match numbers.map(Iterator::collect::<Vec<usize>>).as_deref() {
                Some([_, ran, passed, 0, ..]) if *ran > 0 && ran == passed => {}
                _ => return Err(format!("{suite} as {user}: {text}").into()),
            }
        }
        for host in [TOOL.to_owned(), format!("{TOOL}-2")] {
            unit.client().delete(&format!("/v1/hosts/{host}")).await?;
        }
    }
    unit.stop().await?;
    Ok(Verdict::Passed)
}

/// Starts Debian's server on loopback without keys; it keeps its files in `folder`.
fn start_isnsd(folder: &Path, address: &str) -> Result<(Child, PathBuf), Failure> {
    let config = folder.join("isnsd.conf");
    let path = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "SourceName = iqn.2026-11.example:isns\nDatabase = {}\nBindAddress = {address}\nServerAddress = {address}\nSecurity = 0\n\
         DefaultDiscoveryDomain = 1\nPIDFile = {}\nControlSocket = {}\nRegistrationPeriod = 1m\n",
        path("db"),
        path("pid"),
        path("control"),
    );
    std::fs::write(&config, text)?;
    let program = find("isnsd").ok_or("isnsd is not installed")?;
    let log = std::fs::File::create(folder.join("isnsd.log"))?;
    let child = Command::new(program)
        .args(["-f", "-d", "all", "-c"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()?;
    Ok((child, config))
}

async fn open_isns(folder: PathBuf) -> Outcome {
    if let Some(reason) = missing(&["isnsd", "isnsadm"]) {
        return Ok(Verdict::Skipped(reason));
    }
    let server = free_port()?.to_string();
    let (mut isnsd, isns_config) = start_isnsd(&folder, &server)?;
    let mut config = UnitConfig::new("solo", 2, DISK);
    config.extra = format!("[isns]\nservers = [\"{server}\"]\n");
    let mut unit = StageArray::start(&folder, config).await?;
    let deadline = Instant::now() + SHORT;
    loop {
        let view = unit.client().get("/v1/unit").await?;
        if view["isns"][0]["state"] == "registered" {
            break;
        }
        if Instant::now() > deadline {
            return Err(format!("not registered: {}", view["isns"]).into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let isns_config = isns_config.display().to_string();
    let list = async |what: &str| {
        run("isnsadm", ["--config", isns_config.as_str(), "--local", "--list", what], SHORT).await
    };
    let (nodes, portals) = (list("nodes").await?, list("portals").await?);
    let port = unit.portal().rsplit(':').next().unwrap_or_default().to_owned();
    for (text, word) in [(&nodes, unit.target()), (&nodes, "Target".into()), (&portals, port)] {
        if !text.contains(&word) {
            return Err(format!("isnsd does not know {word}:\n{nodes}\n{portals}").into());
        }
    }
    let target = unit.target();
    unit.stop().await?;
    let after = list("nodes").await?;
    if after.contains(&target) {
        return Err(format!("isnsd still knows the target after a clean stop:\n{after}").into());
    }
    isnsd.start_kill()?;
    isnsd.wait().await?;
    Ok(Verdict::Passed)
}
