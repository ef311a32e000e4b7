//! Verbs that go on: waiting for a copy, watching a mirror, following events.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use twinlun::client::{Client, segment};
use twinlun_api::{Problem, ProblemKind};

use crate::cli::{Cli, ImageArgs, Output, WaitArgs};
use crate::show;

const POLL: Duration = Duration::from_millis(250);
/// Without a terminal a line now and then is enough.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Waits until the secondary is in step again, with a bar on a terminal.
pub(crate) async fn wait(
    cli: &Cli,
    client: &Client,
    image: &ImageArgs,
    wait: &WaitArgs,
) -> Result<(), Problem> {
    if !wait.wait || cli.dry_run {
        return Ok(());
    }
    let deadline = Instant::now() + Duration::from_secs(wait.timeout);
    let bar = Bar::new();
    loop {
        let view = client.get(&format!("/v1/mirrors/{}", segment(&image.name))).await?;
        let found = view["images"].as_array().into_iter().flatten().find(|i| i["unit"] == image.on.as_str());
        let Some(found) = found else {
            let detail = format!("mirror {} has no image on {}", image.name, image.on);
            return Err(Problem::new(
                ProblemKind::NotFound,
                "E-MIRROR-IMAGE",
                detail,
                "see twinlun mirror show",
            ));
        };
        bar.show(found);
        if in_step(found) {
            bar.finish();
            return Ok(());
        }
        if Instant::now() >= deadline {
            let detail =
                format!("the image on {} is still {} after {} s", image.on, found["state"], wait.timeout);
            let remedy = format!("the copy goes on; ask twinlun mirror why {}", image.name);
            return Err(Problem::new(ProblemKind::TimedOut, "E-CLIENT-WAIT", detail, remedy));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Whether an image holds everything acknowledged.
pub(crate) fn in_step(image: &Value) -> bool {
    image["fractured"] == false
        && image["dirty_bytes"] == 0
        && matches!(image["state"].as_str(), Some("SYNCHRONIZED" | "CONSISTENT"))
}

/// A bar on a terminal, a line every few seconds elsewhere.
pub(crate) struct Bar {
    bar: Option<ProgressBar>,
    last: std::cell::Cell<Option<Instant>>,
}

impl Bar {
    /// A bar that shows nothing yet.
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {msg}")
                .expect("the template is constant and right");
            ProgressBar::new(0).with_style(style)
        });
        Self { bar, last: std::cell::Cell::new(None) }
    }

    /// Shows the state of an image.
    pub(crate) fn show(&self, image: &Value) {
        let state = image["state"].as_str().unwrap_or("?");
        let copied = image["progress"]["copied_bytes"].as_u64().unwrap_or(0);
        let total = image["progress"]["total_bytes"].as_u64().unwrap_or(0);
        let eta =
            image["progress"]["eta_seconds"].as_u64().map_or_else(String::new, |s| format!(", {s} s left"));
        match &self.bar {
            Some(bar) => {
                bar.set_length(total);
                bar.set_position(copied);
                bar.set_message(format!("{state}{eta}"));
            }
            None if self.last.get().is_none_or(|last| last.elapsed() >= PLAIN_INTERVAL) => {
                self.last.set(Some(Instant::now()));
                eprintln!("{state}: {copied} of {total} bytes copied{eta}");
            }
            None => {}
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Shows a mirror again whenever it changes, until interrupted.
pub(crate) async fn watch_mirror(cli: &Cli, client: &Client, name: &str) -> Result<(), Problem> {
    let mut shown = Value::Null;
    loop {
        let view = client.get(&format!("/v1/mirrors/{}", segment(name))).await?;
        if view != shown {
            match cli.output {
                Output::Json => show::emit(&view.to_string()),
                Output::Table => show::emit(&(show::mirror(&view) + "\n")),
            }
            shown = view;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Prints events as they come, until interrupted.
pub(crate) async fn events(cli: &Cli, client: &Client) -> Result<(), Problem> {
    let mut after = 0;
    loop {
        let answer = client.get(&format!("/v1/events?after={after}&wait={}", after > 0)).await?;
        for item in answer["items"].as_array().into_iter().flatten() {
            after = after.max(item["sequence"].as_u64().unwrap_or(0));
            match cli.output {
                Output::Json => show::emit(&item.to_string()),
                Output::Table => show::emit(&show::event(item)),
            }
        }
        if after == 0 {
            tokio::time::sleep(POLL).await;
        }
    }
}
