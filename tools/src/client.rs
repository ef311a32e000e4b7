//! Orders over the admin socket.

use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::Value;
use tokio::net::UnixStream;
use twinlun_api::{Problem, ProblemKind};

/// Answers larger than this are not ours.
const ANSWER_LIMIT: usize = 64 << 20;

/// A storage processor's admin socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    dry_run: bool,
}

impl Client {
    /// The socket at `path`, or `admin.sock` in that folder.
    pub fn new(path: &Path, dry_run: bool) -> Self {
        let socket = if path.is_dir() { path.join("admin.sock") } else { path.into() };
        Self { socket, dry_run }
    }

    /// Asks.
    pub async fn get(&self, path: &str) -> Result<Value, Problem> {
        self.exchange(Method::GET, path.into(), Bytes::new()).await
    }

    /// Orders a change.
    pub async fn post(&self, path: &str, body: impl Serialize) -> Result<Value, Problem> {
        let body = serde_json::to_vec(&body).map_err(|e| bad_answer(&e.to_string()))?;
        self.exchange(Method::POST, self.changing(path), body.into()).await
    }

    /// Orders a removal.
    pub async fn delete(&self, path: &str) -> Result<Value, Problem> {
        self.exchange(Method::DELETE, self.changing(path), Bytes::new()).await
    }

    fn changing(&self, path: &str) -> String {
        if self.dry_run { format!("{path}?dry_run=true") } else { path.into() }
    }

    async fn exchange(&self, method: Method, path: String, body: Bytes) -> Result<Value, Problem> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            Problem::new(
                ProblemKind::Unreachable,
                "E-CLIENT-CONNECT",
                format!("no storage processor answers on {}: {error}", self.socket.display()),
                "start twinlund, or name its admin socket: twinlun --unit PATH …",
            )
        })?;
        let lost = |error: hyper::Error| {
            let detail = format!("the storage processor went away: {error}");
            Problem::new(ProblemKind::Unreachable, "E-CLIENT-LOST", detail, "look at its log and try again")
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let driver = tokio::task::spawn_local(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "twinlun")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| bad_answer(&e.to_string()))?;
        let response = sender.send_request(request).await.map_err(lost)?;
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_LIMIT)
            .collect()
            .await
            .map_err(|e| bad_answer(&e.to_string()))?
            .to_bytes();
        driver.abort();
        let value: Value = serde_json::from_slice(&body).map_err(|e| bad_answer(&e.to_string()))?;
        if status.is_success() {
            return Ok(value);
        }
        Err(serde_json::from_value(value).unwrap_or_else(|_| bad_answer(&format!("HTTP status {status}"))))
    }
}

fn bad_answer(why: &str) -> Problem {
    Problem::new(
        ProblemKind::Failed,
        "E-CLIENT-ANSWER",
        format!("the answer cannot be understood: {why}"),
        "check that twinlun and twinlund are of the same version",
    )
}

/// Makes a name safe as one segment of a path.
pub fn segment(name: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_cannot_leave_their_segment() {
        assert_eq!(super::segment("iqn.2026-11.io:a"), "iqn.2026-11.io:a");
        assert_eq!(super::segment("../x y?"), "..%2Fx%20y%3F");
    }
}
