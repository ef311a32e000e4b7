//! Machines that boot from a mirrored LUN: QEMU's own iSCSI disk under SeaBIOS, and iPXE's initiator in a network card's ROM.
//!
//! The boot block proves that it runs: it reads and writes other blocks through the firmware and ends the machine with a status of its own.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use crate::pair::Pair;
use crate::process::{missing, output, run};
use crate::runner::{Case, Failure, Outcome, Verdict};

const SIZE: u64 = 32 << 20;
const LIMIT: Duration = Duration::from_secs(240);
const SHORT: Duration = Duration::from_secs(30);
/// A machine without hardware virtualisation takes its time.
const BOOT: Duration = Duration::from_secs(120);
const BLOCK: usize = 512;
/// QEMU's exit port makes 2 n + 1 of the 0x10 that the boot block writes.
const ENDED_WELL: i32 = 0x21;
const MACHINE: &str = "qemu-system-x86_64";
const MESSAGE: &str = "this stands in block 1 of the LUN\r\n";

/// The cases of this room.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("boot_from_qemus_iscsi_disk", LIMIT, |folder| boot(folder, Way::Qemu)),
        Case::new("boot_over_the_network_with_ipxe", LIMIT, |folder| boot(folder, Way::Ipxe)),
    ]
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Qemu,
    Ipxe,
}

async fn boot(folder: PathBuf, way: Way) -> Outcome {
    if let Some(reason) = missing(&[MACHINE, "qemu-img", "qemu-io", "cc"]) {
        return Ok(Verdict::Skipped(reason));
    }
    if cfg!(not(target_arch = "x86_64")) {
        return Ok(Verdict::Skipped("the boot block is assembled for x86-64".into()));
    }
    if let Some(reason) = lacks(way).await? {
        return Ok(Verdict::Skipped(reason));
    }
    let pair = Pair::build(&folder, SIZE, None).await?;
    let url = pair.east.url(0);
    prepare(&folder, &url).await?;
    let arguments = match way {
        Way::Qemu => {
            vec!["-nic".into(), "none".into(), "-drive".into(), format!("file={url},format=raw,if=virtio")]
        }
        Way::Ipxe => network_card(&folder, pair.east.portal(), &pair.east.target())?,
    };
    let ended = machine(&arguments).await?;
    let said = String::from_utf8_lossy(&ended.stdout);
    if ended.status.code() != Some(ENDED_WELL)
        || !said.contains("boot sector runs")
        || !said.contains(MESSAGE)
    {
        let errors = String::from_utf8_lossy(&ended.stderr);
        return Err(format!("the machine ended with {}: {said} {errors}", ended.status).into());
    }
    // What the boot block has written is on the LUN, and on both units.
    let blocks = read_back(&folder, &url).await?;
    if blocks[BLOCK..2 * BLOCK] != blocks[2 * BLOCK..3 * BLOCK]
        || !blocks[BLOCK..].starts_with(MESSAGE.as_bytes())
    {
        return Err("block 2 is not what the boot block has written".into());
    }
    pair.wait_in_step(SHORT).await?;
    pair.stop_and_compare().await?;
    Ok(Verdict::Passed)
}

/// What QEMU lacks here for this way, if anything.
async fn lacks(way: Way) -> Result<Option<String>, Failure> {
    let formats = run("qemu-img", ["--help"], SHORT).await?;
    if !formats
        .lines()
        .skip_while(|line| !line.starts_with("Supported image formats"))
        .any(|line| line.contains("iscsi"))
    {
        return Ok(Some("QEMU has no iSCSI driver here (package qemu-block-extra)".into()));
    }
    let rom = ["/usr/lib/ipxe/qemu", "/usr/share/qemu", "/usr/share/ipxe/qemu"]
        .iter()
        .any(|folder| Path::new(folder).join("pxe-virtio.rom").is_file());
    if way == Way::Ipxe && !rom {
        return Ok(Some("no iPXE for QEMU's network cards (package ipxe-qemu)".into()));
    }
    Ok(None)
}

/// Puts the boot block into block 0 and the message into block 1.
async fn prepare(folder: &Path, url: &str) -> Result<(), Failure> {
    let (source, image) = (folder.join("boot.S"), folder.join("boot.bin"));
    std::fs::write(&source, include_str!("boot/boot.S"))?;
    let layout = "-Wl,-Ttext=0x7c00,--oformat=binary,--build-id=none";
    let files = ["-o".as_ref(), image.as_os_str(), source.as_os_str()];
    let options = ["-nostdlib", "-static", "-no-pie", layout].map(std::ffi::OsStr::new);
    run("cc", options.into_iter().chain(files), SHORT).await?;
    let mut blocks = std::fs::read(&image)?;
    if blocks.len() != BLOCK {
        return Err(format!("the boot block came out at {} bytes", blocks.len()).into());
    }
    blocks.extend_from_slice(MESSAGE.as_bytes());
    blocks.resize(2 * BLOCK, 0);
    std::fs::write(&image, &blocks)?;
    let order = format!("write -s {} 0 {}", image.display(), blocks.len());
    run("qemu-io", ["-f", "raw", "-c", &order, "-c", "flush", url], SHORT).await?;
    Ok(())
}

/// A network card whose ROM gets an address and a script from QEMU's network, and boots what the script names. Addresses of that network
/// lead to this machine's loopback.
fn network_card(folder: &Path, portal: &str, target: &str) -> Result<Vec<String>, Failure> {
    let (_, port) = portal.rsplit_once(':').ok_or("a portal has a port")?;
    let served = folder.join("tftp");
    std::fs::create_dir(&served)?;
    let script = format!(
        "#!ipxe\nset initiator-iqn iqn.2026-11.io.twinlun:ipxe\nsanboot iscsi:10.0.2.2::{port}:0:{target}\n"
    );
    std::fs::write(served.join("boot.ipxe"), script)?;
    let network = format!("user,id=net,tftp={},bootfile=boot.ipxe", served.display());
    let words = ["-boot", "n", "-netdev", &network, "-device", "virtio-net-pci,netdev=net"];
    Ok(words.map(str::to_owned).to_vec())
}

/// Runs a machine until it ends itself. Its serial line is our standard output.
async fn machine(arguments: &[String]) -> Result<Output, Failure> {
    let fixed =
        ["-machine", "pc,accel=tcg", "-m", "64", "-display", "none", "-no-reboot", "-monitor", "none"];
    let ports = ["-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"];
    let all = fixed.into_iter().chain(ports).chain(arguments.iter().map(String::as_str));
    output(MACHINE, all, BOOT).await
}

/// The first three blocks, by way of iSCSI.
async fn read_back(folder: &Path, url: &str) -> Result<Vec<u8>, Failure> {
    let copy = folder.join("blocks.img");
    let arguments = ["dd", "-f", "raw", "-O", "raw", "bs=512", "count=3"].map(str::to_owned);
    let files = [format!("if={url}"), format!("of={}", copy.display())];
    run("qemu-img", arguments.into_iter().chain(files), SHORT).await?;
    let blocks = std::fs::read(copy)?;
    if blocks.len() == 3 * BLOCK { Ok(blocks) } else { Err("three blocks were asked for".into()) }
}
