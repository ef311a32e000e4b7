//! libiscsi's tools and QEMU's block layer as hosts.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::pair::{Pair, single};
use crate::process::{missing, output, run, tool};
use crate::runner::{Case, Failure, Outcome, Verdict};

const SIZE: u64 = 256 << 20;
const LIMIT: Duration = Duration::from_secs(180);
const SHORT: Duration = Duration::from_secs(30);

/// The cases of this room.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("libiscsi_tools", LIMIT, libiscsi_tools),
        Case::new("qemu_tools_on_a_mirrored_lun", LIMIT, qemu_tools),
        Case::new("chap_keeps_strangers_out", LIMIT, chap),
        Case::new("secondary_refuses_hosts", LIMIT, secondary_refuses),
    ]
}

async fn libiscsi_tools(folder: PathBuf) -> Outcome {
    if let Some(reason) = missing(&["iscsi-ls", "iscsi-inq", "iscsi-readcapacity16", "iscsi-perf"]) {
        return Ok(Verdict::Skipped(reason));
    }
    let mut unit = single(&folder, SIZE, json!({})).await?;
    let listed = run("iscsi-ls", ["-s", &format!("iscsi://{}", unit.portal())], SHORT).await?;
    for word in [unit.target().as_str(), "Lun:0", "DIRECT_ACCESS"] {
        check(listed.contains(word), &format!("iscsi-ls does not show {word}: {listed}"))?;
    }
    let inquiry = run("iscsi-inq", [unit.url(0)], SHORT).await?;
    check(inquiry.contains("TWINLUN"), &format!("iscsi-inq: {inquiry}"))?;
    let pages = run("iscsi-inq", ["-e", "1", "-c", "131", &unit.url(0)], SHORT).await?;
    check(pages.contains("NAA"), &format!("VPD page 83h: {pages}"))?;
    let capacity = run("iscsi-readcapacity16", [unit.url(0)], SHORT).await?;
    check(capacity.contains("524287") || capacity.contains("268435456"), &format!("capacity: {capacity}"))?;
    run("iscsi-perf", ["-m", "32", "-b", "8", "-t", "2", "-r", &unit.url(0)], SHORT).await?;
    unit.stop().await?;
    Ok(Verdict::Passed)
}

async fn qemu_tools(folder: PathBuf) -> Outcome {
    if let Some(reason) = missing(&["qemu-img", "qemu-io"]) {
        return Ok(Verdict::Skipped(reason));
    }
    let help = run("qemu-img", ["--help"], SHORT).await?;
    let formats =
        help.lines().skip_while(|line| !line.starts_with("Supported image formats")).collect::<String>();
    if !formats.contains("iscsi") {
        return Ok(Verdict::Skipped("QEMU has no iSCSI driver here (package qemu-block-extra)".into()));
    }
    let pair = Pair::build(&folder, SIZE, None).await?;
    let url = pair.east.url(0);
    let source = folder.join("source.img");
    write_source(&source)?;
    let source = source.to_string_lossy().into_owned();
    run("qemu-img", ["convert", "-n", "-f", "raw", "-O", "raw", &source, &url], LIMIT).await?;
    run("qemu-img", ["compare", "-f", "raw", "-F", "raw", &source, &url], LIMIT).await?;
    let orders = [
        "write -P 0x5a 1M 3M",
        "read -P 0x5a 1M 3M",
        "write -z 8M 1M",
        "read -P 0 8M 1M",
        "discard 16M 4M",
        "flush",
    ];
    let mut arguments = vec!["-f".to_owned(), "raw".to_owned()];
    arguments.extend(orders.iter().flat_map(|order| ["-c".to_owned(), (*order).to_owned()]));
    arguments.push(url);
    let text = run("qemu-io", arguments, LIMIT).await?;
    check(!text.contains("failed") && !text.contains("Pattern verification"), &format!("qemu-io: {text}"))?;
    pair.wait_in_step(SHORT).await?;
    pair.stop_and_compare().await?;
    Ok(Verdict::Passed)
}

/// As large as the LU; every block different, with holes.
fn write_source(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path)?;
    file.set_len(SIZE)?;
    let mut block = vec![0u8; 1 << 16];
    for index in (0..SIZE >> 16).filter(|index| index % 3 != 0) {
        for (at, word) in block.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&(index << 32 | at as u64).to_le_bytes());
        }
        file.write_all_at(&block, index << 16)?;
    }
    Ok(())
}

async fn chap(folder: PathBuf) -> Outcome {
    if let Some(reason) = missing(&["iscsi-inq"]) {
        return Ok(Verdict::Skipped(reason));
    }
    let mut unit = single(&folder, SIZE, json!({})).await?;
    let name = "iqn.2026-11.io.twinlun:host";
    let order = json!({"iqn": name, "chap": {"user": "host", "secret": "twelve-and-more"}});
    unit.client().post("/v1/hosts", order).await?;
    unit.client().post("/v1/lus/db/map", json!({"host": name, "lun": 3})).await?;
    let (portal, target) = (unit.portal().to_owned(), unit.target());
    let with = |credentials: &str| format!("iscsi://{credentials}{portal}/{target}/3");
    let ask = |url: String| async move { run("iscsi-inq", ["-i", name, &url], SHORT).await };
    check(ask(with("host%twelve-and-more@")).await.is_ok(), "the right secret is refused")?;
    check(ask(with("host%twelve-and-less@")).await.is_err(), "a wrong secret is accepted")?;
    check(ask(with("")).await.is_err(), "no secret is accepted")?;
    unit.client().post("/v1/lus/db/unmap", json!({"host": "any"})).await?;
    let stranger = run("iscsi-inq", ["-i", "iqn.2026-11.io.twinlun:stranger", &unit.url(0)], SHORT).await;
    check(stranger.is_err(), "a host that nobody made known is let in")?;
    unit.stop().await?;
    Ok(Verdict::Passed)
}

/// R-HOST-3: a secondary image is there, says that it is not usable, and never gives or takes data.
async fn secondary_refuses(folder: PathBuf) -> Outcome {
    if let Some(reason) = missing(&["iscsi-inq", "iscsi-perf"]) {
        return Ok(Verdict::Skipped(reason));
    }
    let pair = Pair::build(&folder, SIZE, None).await?;
    // libiscsi asks whether the unit is ready before anything else: NOT READY, LOGICAL UNIT NOT ACCESSIBLE, TARGET PORT IN STANDBY STATE.
    let inquiry = output("iscsi-inq", [pair.west.url(0)], SHORT).await?;
    let refusal =
        String::from_utf8_lossy(&inquiry.stderr).into_owned() + &String::from_utf8_lossy(&inquiry.stdout);
    check(
        refusal.contains("NOT READY") && refusal.contains("0x040b"),
        &format!("no proper refusal: {refusal}"),
    )?;
    let perf = |url: String| async move {
        output("iscsi-perf", ["-m", "8", "-b", "8", "-t", "1", "-r", &url], SHORT).await
    };
    let primary = perf(pair.east.url(0)).await?;
    check(primary.status.success(), "the primary gives no data")?;
    let secondary = perf(pair.west.url(0)).await?;
    check(!secondary.status.success(), "the secondary gave data to a host")?;
    let written = load_writes(&pair.west.url(0)).await?;
    check(
        written.contains("sense key 0x2") && written.contains("0x04/0x0b"),
        &format!("the secondary took a write: {written}"),
    )?;
    pair.stop_and_compare().await?;
    Ok(Verdict::Passed)
}

/// What our own load generator says when it writes to a LU that does not take writes.
async fn load_writes(url: &str) -> Result<String, Failure> {
    let tool = tool()?;
    let arguments = ["load", url, "--read", "0", "--time", "1s", "--warm-up", "0s"];
    let output = tokio::process::Command::new(tool)
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .output()
        .await?;
    check(!output.status.success(), "writing to the secondary succeeded")?;
    Ok(String::from_utf8_lossy(&output.stderr).to_lowercase())
}

fn check(good: bool, complaint: &str) -> Result<(), String> {
    if good { Ok(()) } else { Err(complaint.to_owned()) }
}
