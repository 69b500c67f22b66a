//! The operator's HTTP endpoint: `/metrics`, `/healthz`, `/readyz`. Off unless configured, and
//! never on a listener of the relay.

use std::net::TcpListener;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

/// Where the endpoint gets its answers.
pub struct Views {
    /// The Prometheus text of this moment.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// Whether new allocations are taken: false while draining.
    pub ready: Box<dyn Fn() -> bool + Send + Sync>,
}

/// Serves until the runtime that it was spawned on ends.
///
/// # Errors
/// When the socket can not be driven by the runtime.
pub async fn serve(listener: TcpListener, views: Arc<Views>) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    axum::serve(listener, router(views)).await
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
