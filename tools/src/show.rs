//! Answers on the terminal.

use std::io::{IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;
use twinlun_api::ByteSize;

use crate::cli::{
    Command, DiskCommand, EventCommand, HostCommand, LuCommand, MirrorCommand, Output, PortalCommand,
    SessionCommand,
};

/// Prints an answer: data to stdout, nothing else.
pub(crate) fn print(output: Output, command: &Command, answer: &Value) {
    match output {
        Output::Json => emit(&format!("{answer:#}")),
        Output::Table => emit(&text(command, answer)),
    }
}

/// Writes one piece of data to stdout. A reader that has seen enough and gone away is no error.
pub(crate) fn emit(text: &str) {
    if let Err(error) = writeln!(std::io::stdout().lock(), "{text}")
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        eprintln!("twinlun: stdout cannot be written: {error}");
    }
}

fn text(command: &Command, answer: &Value) -> String {
    if let Some(plan) = answer["plan"].as_str() {
        return format!("would {plan}");
    }
    match command {
        Command::Status => status(answer),
        Command::Disk(DiskCommand::List) => {
            list(answer, &["slot", "path", "size", "state", "reason", "errors"])
        }
        Command::Lu(LuCommand::List) => {
            list(answer, &["name", "size", "block_size", "raid", "disks", "state", "access", "mirror"])
        }
        Command::Host(HostCommand::List) => hosts(answer),
        Command::Portal(PortalCommand::List) => {
            list(answer, &["address", "group", "state", "sessions", "redirect"])
        }
        Command::Session(SessionCommand::List) => {
            list(answer, &["tsih", "initiator", "alias", "isid", "address", "portal", "kind", "commands"])
        }
        Command::Event(EventCommand::List { .. }) => {
            answer["items"].as_array().into_iter().flatten().map(event).collect::<Vec<_>>().join("\n")
        }
        Command::Mirror(MirrorCommand::List) => {
            answer["items"].as_array().into_iter().flatten().map(mirror).collect::<Vec<_>>().join("\n\n")
        }
        Command::Mirror(MirrorCommand::Why { .. }) => answer["lines"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join("\n"),
        Command::Mirror(_) if answer["images"].is_array() => mirror(answer),
        _ => fields(answer),
    }
}

/// One event on one line.
pub(crate) fn event(item: &Value) -> String {
    format!(
        "{}  {} {}: {}",
        cell(&item["time"]),
        cell(&item["subject"]),
        cell(&item["name"]),
        cell(&item["what"])
    )
}

/// A mirror with its images.
pub(crate) fn mirror(view: &Value) -> String {
    let mut head = format!("{}  {}  {}", cell(&view["name"]), cell(&view["state"]), cell(&view["policy"]));
    let mut table = plain_table();
    table.set_header(["unit", "designator", "state", "reachable", "dirty", "progress", "note"]);
    for image in view["images"].as_array().into_iter().flatten() {
        let note = ["error", "fracture_reason"].iter().find_map(|key| image[*key].as_str()).unwrap_or("");
        let note = if image["fractured"] == true { format!("fractured: {note}") } else { note.to_owned() };
        table.add_row([
            cell(&image["unit"]),
            cell(&image["designator"]),
            cell(&image["state"]),
            cell(&image["reachable"]),
            size(&image["dirty_bytes"]),
            progress(&image["progress"]),
            note,
        ]);
    }
    head.push('\n');
    head + &table.to_string()
}

fn progress(progress: &Value) -> String {
    let (Some(copied), Some(total)) = (progress["copied_bytes"].as_u64(), progress["total_bytes"].as_u64())
    else {
        return String::new();
    };
    let percent = copied.saturating_mul(100).checked_div(total).unwrap_or(100);
    match progress["eta_seconds"].as_u64() {
        Some(eta) => format!("{percent}% of {}, {eta} s left", ByteSize(total)),
        None => format!("{percent}% of {}", ByteSize(total)),
    }
}

fn status(answer: &Value) -> String {
    let yes = |key: &str| if answer[key] == true { "yes" } else { "NO" };
    let mut lines = vec![
        format!("level    {}", cell(&answer["level"])),
        format!("safe     {}", yes("safe")),
        format!("current  {}", yes("current")),
    ];
    for running in answer["running"].as_array().into_iter().flatten() {
        lines.push(format!("running  {}", cell(running)));
    }
    for finding in answer["findings"].as_array().into_iter().flatten() {
        let level = cell(&finding["level"]);
        lines.push(format!("{level:9}{}: {}", cell(&finding["subject"]), cell(&finding["finding"])));
        if finding["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()) {
            lines.push(format!("         what to do: {}", cell(&finding["remedy"])));
        }
    }
    lines.join("\n")
}

fn hosts(answer: &Value) -> String {
    let mut table = plain_table();
    table.set_header(["iqn", "chap", "luns", "sessions"]);
    for host in answer["items"].as_array().into_iter().flatten() {
        let luns = host["luns"].as_array().into_iter().flatten();
        let luns: Vec<_> = luns.map(|m| format!("{}={}", cell(&m["lun"]), cell(&m["lu"]))).collect();
        table.add_row([
            cell(&host["iqn"]),
            cell(&host["chap"]["user"]),
            luns.join(" "),
            cell(&host["sessions"]),
        ]);
    }
    table.to_string()
}

fn list(answer: &Value, columns: &[&str]) -> String {
    let mut table = plain_table();
    table.set_header(columns.iter().map(|c| c.replace('_', " ")));
    for item in answer["items"].as_array().into_iter().flatten() {
        table.add_row(columns.iter().map(|c| if *c == "size" { size(&item[*c]) } else { cell(&item[*c]) }));
    }
    table.to_string()
}

fn fields(answer: &Value) -> String {
    let Some(object) = answer.as_object() else { return answer.to_string() };
    let shown = object.iter().filter(|(key, _)| *key != "schema_version");
    shown
        .map(|(key, value)| {
            let value = if key.ends_with("size") && key != "block_size" { size(value) } else { cell(value) };
            format!("{:16} {value}", key.replace('_', " "))
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn size(value: &Value) -> String {
    value.as_u64().map_or_else(|| cell(value), |bytes| ByteSize(bytes).to_string())
}

/// One value in a table. Control characters that came over the network must not reach the terminal.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(" "),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| format!("{key}={}", cell(value))).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    };
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if std::io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_mirror_shows_state_progress_and_reason() {
        let view = json!({"name": "m", "state": "ACTIVE", "policy": "sync", "images": [
            {"unit": "east", "designator": "primary", "state": "SYNCHRONIZED", "reachable": true, "dirty_bytes": 0},
            {"unit": "west", "designator": "secondary", "state": "SYNCHRONIZING", "reachable": true, "fractured": true,
             "fracture_reason": "link lost", "dirty_bytes": 65536,
             "progress": {"copied_bytes": 1, "total_bytes": 4, "eta_seconds": 3}}]});
        let text = mirror(&view);
        for word in ["ACTIVE", "SYNCHRONIZING", "64KiB", "25% of 4B, 3 s left", "fractured: link lost"] {
            assert!(text.contains(word), "{word} is missing in\n{text}");
        }
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert!(!cell(&json!("a\u{1b}[31mb\n")).contains(['\u{1b}', '\n']));
    }
}
