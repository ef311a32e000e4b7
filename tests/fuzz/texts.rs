//! What people and programs write: the configuration file, orders to the admin socket, sizes.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use twinlun_api as api;
use twinlun_unit::config;

use crate::engine::{Probe, Target};
use crate::input::{Rng, Source};

pub(crate) fn targets() -> Vec<Target> {
    let target = |name, execs, fresh, run| Target { name, execs, longest: 4096, work: (4096, 4), fresh, run };
    vec![
        target("config-toml", 60_000, toml_text, toml_run),
        target("admin-json", 60_000, json_text, json_run),
        target("sizes", 200_000, size_text, size_run),
    ]
}

const TOML: [&str; 31] = [
    "[unit]\n",
    "name = \"east\"\n",
    "sp = \"a\"\n",
    "state_dir = \"state\"\n",
    "engine = \"portable\"\n",
    "[[disk]]\n",
    "path = \"ram:0\"\n",
    "path = \"disk0.img\"\n",
    "size = \"1GiB\"\n",
    "size = 16777216\n",
    "[[portal]]\n",
    "listen = \"127.0.0.1:3260\"\n",
    "listen = \"[::1]:0\"\n",
    "group = 1\n",
    "group = 0\n",
    "group = 65536\n",
    "[link]\n",
    "key_file = \"key\"\n",
    "[[link.peer]]\n",
    "unit = \"west\"\n",
    "addresses = [\"10.0.0.2:3261\"]\n",
    "addresses = []\n",
    "[admin]\n",
    "socket = \"admin.sock\"\n",
    "[limits]\n",
    "connections = 0\n",
    "ping_seconds = 18446744073709551615\n",
    "login_seconds = -1\n",
    "logins = 9223372036854775807\n",
    "unknown = true\n",
    "# å\n",
];

fn toml_text(rng: &mut Rng) -> Vec<u8> {
    let mut text = String::from("[unit]\nname = \"east\"\nstate_dir = \"state\"\n");
    if rng.below(4) > 0 {
        text.push_str(
            "[[disk]]\npath = \"ram:0\"\nsize = \"1GiB\"\n[[portal]]\nlisten = \"127.0.0.1:3260\"\n",
        );
    }
    for _ in 0..rng.len(12) {
        text.push_str(TOML[rng.below(TOML.len())]);
    }
    text.into_bytes()
}

fn toml_run(input: &[u8], probe: &mut Probe) {
    let text = String::from_utf8_lossy(input);
    match config::parse(Path::new("twinlun.toml"), &text) {
        Ok(config) => {
            probe.saw(("config", config.disks.len(), config.portals.len(), config.link.is_some()));
            probe.work(config.disks.len() + config.portals.len());
            assert!(
                config.disks.iter().all(|disk| disk.size.is_none_or(|size| size >= config::MIN_DISK_SIZE))
            );
            assert!(config.unit.len() <= 63 && !config.unit.contains(['/', '\\', '\0']));
        }
        Err(error) => {
            let (line, column) = error.at.unwrap_or((1, 1));
            assert!(line >= 1 && column >= 1 && line <= text.matches('\n').count() + 1);
            assert!(!error.to_string().is_empty());
            let kind: String = error.what.chars().filter(char::is_ascii_lowercase).take(24).collect();
            probe.saw(kind);
        }
    }
}

const JSON: [&str; 24] = [
    r#"{"name":"lu0","size":"1GiB","raid":"1"}"#,
    r#"{"name":"lu0","size":1073741824,"raid":"10","disks":["0","1"],"block_size":4096,"thin":true}"#,
    r#"{"iqn":"iqn.1993-08.org.debian:01:host","chap":{"user":"host","secret":"correct horse battery"}}"#,
    r#"{"host":"any","lun":3}"#,
    r#"{"host":"any"}"#,
    r#"{"name":"m","lus":["lu0"],"policy":"sync","attributes":{"synchronization-rate":"high"}}"#,
    r#"{"unit":"west","lus":["lu0"],"synchronized":true}"#,
    r#"{"unit":"west","force":true}"#,
    r#"{"unit":"west"}"#,
    r#"{"path":"disk9.img","size":"10GiB"}"#,
    r#"{"slot":"0","path":"disk9.img"}"#,
    r#"{"attributes":{"a":"b"}}"#,
    "18446744073709551616",
    "-1",
    "1e400",
    "null",
    "[]",
    "{}",
    "[[[[[[[[[[[[[[[[[[[[",
    "\"\\ud800\"",
    "{\"name\":",
    "true",
    "\"\\u0000\"",
    "0.1",
];

fn json_text(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = vec![rng.next() as u8];
    bytes.extend_from_slice(JSON[rng.below(JSON.len())].as_bytes());
    if rng.below(3) == 0 {
        let piece = JSON[rng.below(JSON.len())].as_bytes();
        let at = 1 + rng.below(bytes.len());
        let at = at.min(bytes.len());
        bytes.splice(at..at, piece.iter().copied());
    }
    bytes
}

fn json_run(input: &[u8], probe: &mut Probe) {
    let mut source = Source::new(input);
    let first = source.byte();
    let body = source.rest();
    // All shapes, the first byte says which comes first, so that the corpus has inputs for each.
    for offset in 0..10 {
        match (first.wrapping_add(offset)) % 10 {
            0 => order::<api::CreateLu>("lu", body, probe),
            1 => order::<api::AddHost>("host", body, probe),
            2 => order::<api::MapLu>("map", body, probe),
            3 => order::<api::UnmapLu>("unmap", body, probe),
            4 => order::<api::CreateMirror>("mirror", body, probe),
            5 => order::<api::AddSecondary>("add", body, probe),
            6 => order::<api::RemoveSecondary>("remove", body, probe),
            7 => order::<api::ImageOrder>("image", body, probe),
            8 => order::<api::SetAttributes>("attributes", body, probe),
            _ => {
                order::<api::AddDisk>("disk", body, probe);
                order::<api::ReplaceDisk>("replace", body, probe);
            }
        }
    }
}

/// What was understood is written and understood again as the same.
fn order<T: Serialize + DeserializeOwned>(what: &str, body: &[u8], probe: &mut Probe) {
    match serde_json::from_slice::<T>(body) {
        Ok(order) => {
            let first = serde_json::to_string(&order).expect("orders can be written");
            let again: T = serde_json::from_str(&first).expect("what was written can be read");
            assert_eq!(serde_json::to_string(&again).expect("orders can be written"), first);
            probe.saw((what, first.len() / 16));
        }
        Err(error) => {
            let kind: String = error.to_string().chars().filter(char::is_ascii_lowercase).take(20).collect();
            probe.saw((what, kind));
        }
    }
    probe.work(1);
}

fn size_text(rng: &mut Rng) -> Vec<u8> {
    let unit = ["", "B", "s", "KiB", "MiB", "g", "TiB", "P", " GiB ", "é", "ıB"][rng.below(11)];
    let shift = rng.below(64);
    format!("{}{unit}", rng.next() >> shift).into_bytes()
}

fn size_run(input: &[u8], probe: &mut Probe) {
    let text = String::from_utf8_lossy(input);
    if let Ok(size) = text.parse::<api::ByteSize>() {
        probe.size("size", size.0 as usize);
        let shown = size.to_string();
        if !shown.contains('.') {
            assert_eq!(shown.parse(), Ok(size), "{shown}");
        }
    } else {
        probe.saw(text.trim_start().bytes().next().map(|byte| byte.is_ascii_digit()));
    }
    probe.saw(text.parse::<api::RaidLevel>().is_ok());
}
