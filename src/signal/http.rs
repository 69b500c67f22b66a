//! HTTP/1.1: `POST /v1/pair`, and `GET /v1/ws`, which becomes a WebSocket.
//!
//! hyper reads the request and writes answers that are there at once. A connection that is to
//! wait, or to become a WebSocket, is taken out of hyper, so that it holds no buffers meanwhile.

use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::time::{timeout, timeout_at};
use zeroize::Zeroizing;

use crate::pairing::{ErrorCode, Join, ServerMessage, from_json};
use crate::proto::Mono;

use super::clock;
use super::join::{Guest, Visit, Way};
use super::refusal::Refusal;
use super::ws;

/// How long a request's header may take.
pub(super) const HEADER: Duration = Duration::from_secs(10);

/// How long a request's body may take.
pub(super) const BODY: Duration = Duration::from_secs(10);

/// How long a client may take to take an answer.
const WRITE: Duration = Duration::from_secs(10);

/// The longest body in bytes: a join with the longest key and all endpoints takes less.
pub(super) const MAX_BODY: usize = 8192;

/// hyper's smallest read buffer, which also bounds the header.
const BUFFER: usize = 8192;

type Answer = Response<Full<Bytes>>;

/// What becomes of a connection after its request.
enum After {
    WebSocket,
    Wait(Box<Guest>),
}

/// Where the handler of a request leaves what becomes of its connection.
#[derive(Default)]
struct Handover {
    after: Mutex<Option<After>>,
    waits: Notify,
}

impl Handover {
    fn put(&self, after: After) {
        *self.after.lock().unwrap_or_else(PoisonError::into_inner) = Some(after);
    }

    fn take(&self) -> Option<After> {
        self.after
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// Serves one request, which has to be there by `deadline`, and what it leads to.
pub(super) async fn serve<S>(stream: S, visit: Arc<Visit>, deadline: Mono)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handover = Arc::new(Handover::default());
    let service = {
        let (visit, handover) = (Arc::clone(&visit), Arc::clone(&handover));
        service_fn(
            move |request| -> Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>> {
                let (visit, handover) = (Arc::clone(&visit), Arc::clone(&handover));
                Box::pin(async move { Ok(answer(request, &visit, &handover).await) })
            },
        )
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let served = timeout_at(clock::instant(deadline), async {
        tokio::select! {
            served = poll_fn(|cx| connection.poll_without_shutdown(cx)) => served.is_ok(),
            () = handover.waits.notified() => true,
        }
    });
    // One that failed or dawdled is closed; it has only itself to tell.
    let Ok(true) = served.await else {
        return;
    };
    let parts = connection.into_parts();
    let stream = parts.io.into_inner();
    match handover.take() {
        None => close(stream).await,
        // In tasks of their own: this one is large, and they may last.
        Some(After::WebSocket) => {
            let socket = ws::serve(stream, &parts.read_buf, Arc::clone(&visit), deadline);
            visit.spawn(socket);
        }
        Some(After::Wait(guest)) => {
            visit.spawn(wait(stream, guest));
        }
    }
}

async fn answer(request: Request<Incoming>, visit: &Arc<Visit>, handover: &Handover) -> Answer {
    remember_host(request.headers(), visit);
    match (request.method(), request.uri().path()) {
        (&Method::OPTIONS, _) => preflight(),
        (&Method::POST, "/v1/pair") => pair(request, visit, handover).await,
        (&Method::GET, "/v1/ws") => match upgrade(request.headers()) {
            Ok(answer) => {
                handover.put(After::WebSocket);
                answer
            }
            Err(answer) => *answer,
        },
        (_, "/v1/pair") => not_allowed("POST"),
        (_, "/v1/ws") => not_allowed("GET"),
        _ => refuse(
            StatusCode::NOT_FOUND,
            Refusal::new(
                ErrorCode::BadRequest,
                "there is only POST /v1/pair and the WebSocket GET /v1/ws",
            ),
        ),
    }
}

/// Keeps the name by which the client called us, for URLs whose certificate has to match it.
fn remember_host(headers: &HeaderMap, visit: &Visit) {
    let named = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let Some(named) = named else { return };
    let name = named.rsplit_once(':').map_or(named, |(name, _)| name);
    let is_name = name.len() <= 253
        && name.contains(|c: char| c.is_ascii_alphabetic())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    if is_name {
        // A connection has one request, so that nothing was set before.
        let _ = visit.host.set(name.into());
    }
}

async fn pair(request: Request<Incoming>, visit: &Arc<Visit>, handover: &Handover) -> Answer {
    let body = match timeout(BODY, read(request.into_body())).await {
        Ok(Ok(body)) => body,
        Ok(Err(refusal)) => return refused(refusal),
        Err(_) => {
            return refuse(
                StatusCode::REQUEST_TIMEOUT,
                Refusal::new(ErrorCode::BadRequest, "the body took too long"),
            );
        }
    };
    let join: Join = match from_json(&body) {
        Ok(join) => join,
        Err(error) => {
            return refused(Refusal::new(ErrorCode::BadRequest, error.to_string()));
        }
    };
    if join.host {
        return refused(Refusal::new(
            ErrorCode::BadRequest,
            "a host needs the WebSocket, GET /v1/ws",
        ));
    }
    let mut guest = Guest::new(Arc::clone(visit), Way::OneAnswer);
    match guest.join(join) {
        Err(refusal) => refused(refusal),
        Ok(paired @ ServerMessage::Paired { .. }) => json(StatusCode::OK, &paired),
        Ok(_) => {
            handover.put(After::Wait(Box::new(guest)));
            handover.waits.notify_one();
            // The connection is taken away from here.
            pending().await
        }
    }
}

/// The whole body. It may hold an access key, so it is wiped.
async fn read(mut body: Incoming) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let mut whole = Zeroizing::new(Vec::with_capacity(MAX_BODY));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::new(ErrorCode::BadRequest, "the body is broken"))?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        if whole.len() + data.len() > MAX_BODY {
            return Err(Refusal::new(
                ErrorCode::TooLarge,
                format!("a body has at most {MAX_BODY} bytes"),
            ));
        }
        whole.extend_from_slice(data);
    }
    Ok(whole)
}

/// An initiator's long poll, outside hyper: either something comes for it, or it goes.
async fn wait<S>(mut stream: S, mut guest: Box<Guest>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut ignored = [0; 64];
    let mut patience = 64_u32;
    let message = loop {
        tokio::select! {
            message = guest.next() => break message,
            read = stream.read(&mut ignored) => {
                // What is sent behind a request means nothing here, and must not go on for ever.
                patience = patience.saturating_sub(1);
                if !matches!(read, Ok(1..)) || patience == 0 {
                    return;
                }
            }
        }
    };
    let message = message.unwrap_or_else(|| Refusal::from(ErrorCode::Internal).into_message());
    let whole = raw(&message);
    let written = timeout(WRITE, stream.write_all(&whole)).await;
    // Not before: a server that stops waits until it is gone.
    drop(guest);
    if let Ok(Ok(())) = written {
        close(stream).await;
    }
}

/// A whole answer, for a connection that hyper does not (any more) write to.
pub(super) fn raw(message: &ServerMessage) -> Vec<u8> {
    let status = match message {
        ServerMessage::Error { code, .. } => status_of(*code),
        _ => StatusCode::OK,
    };
    let body = to_json(message);
    let retry = match retry_after(message) {
        Some(seconds) => format!("retry-after: {seconds}\r\n"),
        None => String::new(),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\naccess-control-allow-origin: *\r\n\
         cache-control: no-store\r\nconnection: close\r\n{retry}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

/// Ends a connection in order: what is still on its way from the client is read for a moment, for
/// with unread bytes the kernel would reset the connection, and the answer be lost.
pub(super) async fn close<S>(mut stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    const MOMENT: Duration = Duration::from_secs(2);
    const BYTES: usize = 1 << 18;
    let _ = timeout(MOMENT, async {
        if stream.shutdown().await.is_err() {
            return;
        }
        let mut ignored = [0; 1024];
        let mut total = 0;
        while let Ok(read @ 1..) = stream.read(&mut ignored).await {
            total += read;
            if total > BYTES {
                return;
            }
        }
    })
    .await;
}

/// The answer that makes a WebSocket of the connection (RFC 6455 section 4.2).
fn upgrade(headers: &HeaderMap) -> Result<Answer, Box<Answer>> {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let has = |name, token: &str| {
        headers.get_all(name).iter().any(|value| {
            let value = value.to_str().unwrap_or_default();
            let mut tokens = value.split(',').map(str::trim);
            tokens.any(|known| known.eq_ignore_ascii_case(token))
        })
    };
    let bad = |message: &str| {
        let refusal = Refusal::new(ErrorCode::BadRequest, message);
        Err(Box::new(refused(refusal)))
    };
    if !has(header::UPGRADE, "websocket") || !has(header::CONNECTION, "upgrade") {
        return bad("this is for WebSockets: the headers Upgrade and Connection are missing");
    }
    if !has(header::SEC_WEBSOCKET_VERSION, "13") {
        let refusal = Refusal::new(ErrorCode::BadRequest, "only version 13 of WebSocket");
        let mut answer = refuse(StatusCode::UPGRADE_REQUIRED, refusal);
        let version = HeaderValue::from_static("13");
        answer
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_VERSION, version);
        return Err(Box::new(answer));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let key = key.filter(|key| STANDARD.decode(key).is_ok_and(|key| key.len() == 16));
    let Some(key) = key else {
        return bad("the header Sec-WebSocket-Key is missing or not 16 bytes of base64");
    };
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = answer.headers_mut();
    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    let accept = HeaderValue::from_str(&STANDARD.encode(digest)).expect("base64 is ASCII");
    fields.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    Ok(answer)
}

/// Browsers ask before they post JSON. Anybody's page may: there are no cookies to misuse.
fn preflight() -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let fields = answer.headers_mut();
    let fixed = HeaderValue::from_static;
    fields.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, fixed("*"));
    fields.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        fixed("GET, POST, OPTIONS"),
    );
    fields.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, fixed("content-type"));
    fields.insert(header::ACCESS_CONTROL_MAX_AGE, fixed("86400"));
    fields.insert(header::CONNECTION, fixed("close"));
    answer
}

fn not_allowed(allowed: &'static str) -> Answer {
    let mut answer = refuse(
        StatusCode::METHOD_NOT_ALLOWED,
        Refusal::new(ErrorCode::BadRequest, format!("use {allowed}")),
    );
    let allowed = HeaderValue::from_static(allowed);
    answer.headers_mut().insert(header::ALLOW, allowed);
    answer
}

/// The answer to a refusal, with the status of its code.
fn refused(refusal: Refusal) -> Answer {
    refuse(status_of(refusal.code), refusal)
}

fn refuse(status: StatusCode, refusal: Refusal) -> Answer {
    json(status, &refusal.into_message())
}

pub(super) const fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::NobodyWaits | ErrorCode::NoSession => StatusCode::NOT_FOUND,
        ErrorCode::TimedOut => StatusCode::REQUEST_TIMEOUT,
        ErrorCode::Busy => StatusCode::CONFLICT,
        ErrorCode::TooMany => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::BadRequest => StatusCode::BAD_REQUEST,
        ErrorCode::ProofRequired => StatusCode::UNAUTHORIZED,
        ErrorCode::ProofWrong => StatusCode::FORBIDDEN,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::GoingAway => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn json(status: StatusCode, message: &ServerMessage) -> Answer {
    let mut answer = Response::new(Full::from(to_json(message)));
    *answer.status_mut() = status;
    let fields = answer.headers_mut();
    let fixed = HeaderValue::from_static;
    if status == StatusCode::UNAUTHORIZED {
        // RFC 9110 section 15.5.2 wants a scheme; the nonce is in the body.
        fields.insert(header::WWW_AUTHENTICATE, fixed("turnserver-proof"));
    }
    fields.insert(header::CONTENT_TYPE, fixed("application/json"));
    fields.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, fixed("*"));
    // One request a connection: nobody holds one that does nothing.
    fields.insert(header::CONNECTION, fixed("close"));
    if let Some(seconds) = retry_after(message) {
        fields.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    // It may hold credentials.
    fields.insert(header::CACHE_CONTROL, fixed("no-store"));
    answer
}

/// What the header Retry-After says.
const fn retry_after(message: &ServerMessage) -> Option<u64> {
    match message {
        ServerMessage::Error { retry_after_s, .. } => *retry_after_s,
        _ => None,
    }
}

/// A message as it goes over the wire; over HTTP with a newline for people at terminals.
fn to_json(message: &ServerMessage) -> String {
    let mut text = serde_json::to_string(message).expect("messages have string keys");
    text.push('\n');
    text
}
