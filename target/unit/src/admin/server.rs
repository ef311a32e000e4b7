//! The HTTP server on the admin socket: routes to orders.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path as FilePath, PathBuf};
use std::thread;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{Response, StatusCode, header};
use axum::routing::{delete, get, post};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use twinlun_api::{Problem, ProblemKind, SCHEMA_VERSION};

use super::order::{Answer, MirrorOrder, Order};

/// Orders that may wait for the shard; more are answered "busy".
const DESK_DEPTH: usize = 64;

/// An order on its way to the shard.
pub struct Slip {
    /// What is asked.
    pub order: Order,
    /// Say what would be done instead of doing it.
    pub dry_run: bool,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Answer>,
}

/// Where the shard takes orders from.
pub type Desk = mpsc::Receiver<Slip>;

/// The running server. Dropping it removes the socket and ends the thread.
pub struct AdminServer {
    socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl AdminServer {
    /// Listens on `socket` (mode 0660) and serves it on a thread of its own.
    pub fn start(socket: &FilePath) -> io::Result<(Self, Desk)> {
        refuse_live_socket(socket)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _guard = runtime.enter();
            UnixListener::bind(socket)?
        };
        fs::set_permissions(socket, fs::Permissions::from_mode(0o660))?;
        let (orders, desk) = mpsc::channel(DESK_DEPTH);
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("admin".into()).spawn(move || {
            runtime.block_on(async move {
                let serve = axum::serve(listener, router(orders)).with_graceful_shutdown(async {
                    let _ = stopped.await;
                });
                if let Err(error) = serve.await {
                    tracing::error!(%error, "the admin server ended");
                }
            });
        })?;
        Ok((Self { socket: socket.into(), stop: Some(stop), thread: Some(thread) }, desk))
    }

    /// Stops serving and removes the socket. Running requests get a moment to end, not more.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
            let _ = fs::remove_file(&self.socket);
        }
        // A follower of events may keep its connection open for ever; the thread ends with the process.
        drop(self.thread.take());
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.end();
    }
}

/// A socket file left by a dead daemon is removed; one that answers belongs to a living one.
fn refuse_live_socket(socket: &FilePath) -> io::Result<()> {
    if !socket.exists() {
        return Ok(());
    }
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another twinlund answers on this admin socket",
        ));
    }
    fs::remove_file(socket)
}

#[derive(Clone)]
struct Orders(mpsc::Sender<Slip>);

#[derive(Deserialize)]
struct DryRun {
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Force {
    force: bool,
}

fn router(orders: mpsc::Sender<Slip>) -> Router {
    Router::new()
        .route("/v1/unit", get(|s| ask(s, Order::ShowUnit)))
        .route("/v1/status", get(|s| ask(s, Order::Status)))
        .route("/v1/disks", get(|s| ask(s, Order::ListDisks)).post(|s, q, b| tell(s, q, b, Order::AddDisk)))
        .route(
            "/v1/disks/{slot}/fail",
            post(|s, Path(slot): Path<String>, q| change(s, q, Order::FailDisk { slot })),
        )
        .route(
            "/v1/disks/{slot}/replace",
            post(|s, Path(slot): Path<String>, q, b| tell(s, q, b, |with| Order::ReplaceDisk { slot, with })),
        )
        .route("/v1/lus", get(|s| ask(s, Order::ListLus)).post(|s, q, b| tell(s, q, b, Order::CreateLu)))
        .route(
            "/v1/lus/{name}",
            get(|s, Path(name): Path<String>| ask(s, Order::ShowLu { name }))
                .delete(|s, Path(name): Path<String>, q| change(s, q, Order::DeleteLu { name })),
        )
        .route(
            "/v1/lus/{name}/map",
            post(|s, Path(name): Path<String>, q, b| tell(s, q, b, |map| Order::MapLu { name, map })),
        )
        .route(
            "/v1/lus/{name}/unmap",
            post(|s, Path(name): Path<String>, q, b| tell(s, q, b, |unmap| Order::UnmapLu { name, unmap })),
        )
        .route("/v1/hosts", get(|s| ask(s, Order::ListHosts)).post(|s, q, b| tell(s, q, b, Order::AddHost)))
        .route(
            "/v1/hosts/{iqn}",
            delete(|s, Path(iqn): Path<String>, q| change(s, q, Order::RemoveHost { iqn })),
        )
        .route(
            "/v1/discovery",
            get(|s| ask(s, Order::ShowDiscovery)).post(|s, q, b| tell(s, q, b, Order::SetDiscovery)),
        )
        .route("/v1/portals", get(|s| ask(s, Order::ListPortals)))
        .route(
            "/v1/portals/{address}/drain",
            post(|s, Path(address): Path<String>, q, b| {
                tell(s, q, b, |drain| Order::DrainPortal { address, drain })
            }),
        )
        .route(
            "/v1/portals/{address}/resume",
            post(|s, Path(address): Path<String>, q| change(s, q, Order::ResumePortal { address })),
        )
        .route(
            "/v1/portals/{address}/redirect",
            post(|s, Path(address): Path<String>, q, b| {
                tell(s, q, b, |redirect| Order::RedirectPortal { address, redirect })
            }),
        )
        .route("/v1/sessions", get(|s| ask(s, Order::ListSessions)))
        .route(
            "/v1/sessions/{tsih}",
            delete(|s, Path(tsih): Path<u16>, q| change(s, q, Order::DropSession { tsih })),
        )
        .route(
            "/v1/mirrors",
            get(|s| ask(s, Order::ListMirrors)).post(|s, q, b| tell(s, q, b, Order::CreateMirror)),
        )
        .route("/v1/mirrors/{name}", get(|s, Path(name): Path<String>| ask(s, Order::ShowMirror { name })))
        .route("/v1/mirrors/{name}/why", get(|s, Path(name): Path<String>| ask(s, Order::WhyMirror { name })))
        .route("/v1/mirrors/{name}/{verb}", post(mirror_order))
        .route(
            "/v1/events",
            get(|s, Query(After { after, wait }): Query<After>| ask(s, Order::Events { after, wait })),
        )
        .fallback(|| async {
            respond(Err(Problem::new(
                ProblemKind::NotFound,
                "E-API-ROUTE",
                "there is no such resource",
                "see docs/design/admin-api.md",
            )))
        })
        .with_state(Orders(orders))
}

async fn mirror_order(
    state: State<Orders>,
    Path((name, verb)): Path<(String, String)>,
    query: Query<DryRun>,
    body: Bytes,
) -> Response<Body> {
    let order = match verb.as_str() {
        "add-secondary" => read(&body).map(MirrorOrder::AddSecondary),
        "remove-secondary" => read(&body).map(MirrorOrder::RemoveSecondary),
        "sync" => read(&body).map(MirrorOrder::Sync),
        "fracture" => read(&body).map(MirrorOrder::Fracture),
        "restore" => read(&body).map(MirrorOrder::Restore),
        "promote" => read_force(&body).map(|force| MirrorOrder::Promote { force }),
        "activate" => Ok(MirrorOrder::Activate),
        "deactivate" => read_force(&body).map(|force| MirrorOrder::Deactivate { force }),
        "destroy" => Ok(MirrorOrder::Destroy),
        "set" => read(&body).map(MirrorOrder::Set),
        other => {
            let detail = format!("a mirror has no order {other:?}");
            Err(Problem::new(ProblemKind::NotFound, "E-API-ROUTE", detail, "see docs/design/admin-api.md"))
        }
    };
    match order {
        Ok(order) => respond(carry_out(&state.0, Order::Mirror { name, order }, query.dry_run).await),
        Err(problem) => respond(Err(problem)),
    }
}

async fn ask(state: State<Orders>, order: Order) -> Response<Body> {
    respond(carry_out(&state.0, order, false).await)
}

async fn change(state: State<Orders>, query: Query<DryRun>, order: Order) -> Response<Body> {
    respond(carry_out(&state.0, order, query.dry_run).await)
}

async fn tell<T: DeserializeOwned>(
    state: State<Orders>,
    query: Query<DryRun>,
    body: Bytes,
    order: impl FnOnce(T) -> Order,
) -> Response<Body> {
    match read(&body) {
        Ok(value) => respond(carry_out(&state.0, order(value), query.dry_run).await),
        Err(problem) => respond(Err(problem)),
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let detail = format!("the request's body cannot be used: {error}");
        Problem::new(ProblemKind::Usage, "E-API-BODY", detail, "see docs/design/admin-api.md for the fields")
    })
}

fn read_force(body: &[u8]) -> Result<bool, Problem> {
    if body.is_empty() { Ok(false) } else { read::<Force>(body).map(|f| f.force) }
}

async fn carry_out(orders: &Orders, order: Order, dry_run: bool) -> Answer {
    let stopping = || {
        Problem::new(
            ProblemKind::Failed,
            "E-UNIT-STOPPING",
            "the storage processor is stopping",
            "start it again",
        )
    };
    let (answer, answered) = oneshot::channel();
    match orders.0.try_send(Slip { order, dry_run, answer }) {
        Ok(()) => answered.await.unwrap_or_else(|_| Err(stopping())),
        Err(mpsc::error::TrySendError::Full(_)) => Err(Problem::new(
            ProblemKind::Failed,
            "E-UNIT-BUSY",
            format!("{DESK_DEPTH} orders are waiting already"),
            "try again when they are done",
        )),
        Err(mpsc::error::TrySendError::Closed(_)) => Err(stopping()),
    }
}

fn respond(answer: Answer) -> Response<Body> {
    let (status, kind, mut value) = match answer {
        Ok(value) => (StatusCode::OK, "application/json", value),
        Err(problem) => (
            StatusCode::from_u16(problem.kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            "application/problem+json",
            serde_json::to_value(problem).unwrap_or_default(),
        ),
    };
    if let Some(fields) = value.as_object_mut() {
        fields.insert("schema_version".into(), SCHEMA_VERSION.into());
    }
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn exchange(socket: &FilePath, request: &str) -> String {
        let mut stream = std::os::unix::net::UnixStream::connect(socket).expect("the server listens");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }

    #[test]
    fn orders_reach_the_desk_and_problems_come_back_typed() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("admin.sock");
        let (server, mut desk) = AdminServer::start(&socket).expect("starts");
        let clerk = thread::spawn(move || {
            let mut seen = Vec::new();
            while let Some(slip) = desk.blocking_recv() {
                seen.push((format!("{:?}", slip.order), slip.dry_run));
                let answer = match slip.order {
                    Order::ShowLu { name } => Err(Problem::new(ProblemKind::NotFound, "E-LU", name, "")),
                    _ => Ok(serde_json::json!({"name": "east"})),
                };
                let _ = slip.answer.send(answer);
            }
            seen
        });
        let get = |path: &str| {
            exchange(&socket, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
        };
        let unit = get("/v1/unit");
        assert!(unit.starts_with("HTTP/1.1 200") && unit.contains("\"schema_version\":1"), "{unit}");
        let missing = get("/v1/lus/db");
        assert!(missing.starts_with("HTTP/1.1 404") && missing.contains("E-LU"), "{missing}");
        assert!(get("/v1/nothing").starts_with("HTTP/1.1 404"));
        let body = "{\"force\": 1}";
        let post = format!(
            "POST /v1/mirrors/m/deactivate HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        assert!(exchange(&socket, &post).starts_with("HTTP/1.1 400"), "a wrong body is the asker's mistake");
        let dry = "POST /v1/mirrors/m/destroy?dry_run=true HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        assert!(exchange(&socket, dry).starts_with("HTTP/1.1 200"));
        assert!(AdminServer::start(&socket).is_err(), "a second server on a live socket is refused");
        server.stop();
        let seen = clerk.join().expect("the clerk ends when the server does");
        assert_eq!(seen.len(), 3, "{seen:?}");
        assert!(seen[2].0.contains("Destroy") && seen[2].1);
    }
}
