//! The operator's HTTP endpoint: `/metrics`, `/healthz`, `/readyz`. Off unless configured, and
//! never on a listener of the relay.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Where the endpoint gets its answers.
pub struct Views {
    /// The Prometheus text of this moment.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// Whether new allocations are taken: false while draining.
    pub ready: Box<dyn Fn() -> bool + Send + Sync>,
}

/// Connections served at a time; more wait in the kernel's backlog.
const CONNECTIONS: usize = 64;

/// How long a request's header may take.
const HEADER: Duration = Duration::from_secs(5);

/// How long a connection may take in all, so that nobody holds one of the places for long.
const WHOLE: Duration = Duration::from_secs(10);

/// How long accepting rests after an error, which is a want of descriptors or memory.
const REST: Duration = Duration::from_millis(100);

/// Serves until the runtime that it was spawned on ends: one request a connection.
///
/// # Errors
/// When the socket can not be driven by the runtime.
pub async fn serve(listener: TcpListener, views: Arc<Views>) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let service = TowerToHyperService::new(router(views));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return Ok(());
        };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(REST).await;
            continue;
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service.clone());
        tokio::spawn(async move {
            // A client that fails or dawdles has only itself to tell.
            let _ = timeout(WHOLE, connection).await;
            drop(place);
        });
    }
}

fn router(views: Arc<Views>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(views)
}

async fn metrics(State(views): State<Arc<Views>>) -> impl IntoResponse {
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        (views.metrics)(),
    )
}

async fn ready(State(views): State<Arc<Views>>) -> impl IntoResponse {
    if (views.ready)() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    }
}
