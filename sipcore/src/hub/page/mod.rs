//! The hub's own web page: `/` for people, `/metrics` for Prometheus. It shows, and changes nothing.

mod html;
mod metrics;

use super::home::HomeProxy;
use super::watch::Ladders;
use crate::transport::Core;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Connections that are open at once; one more is closed.
const MAX_CONNECTIONS: usize = 32;
/// How long a request may take to come, and an answer to be taken.
const LIMIT: Duration = Duration::from_secs(10);
/// The longest head of a request.
const MAX_HEAD: usize = 16 * 1024;

/// A page that is served. Dropping it ends it.
pub(super) struct Page {
    pub addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Page {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is shown.
struct Shown {
    hub: Weak<Core<HomeProxy>>,
    ladders: Ladders,
    since: Instant,
}

impl Page {
    /// Serves the page on `addr`; port 0 takes a free one.
    pub async fn serve(addr: SocketAddr, hub: &Arc<Core<HomeProxy>>, ladders: Ladders) -> io::Result<Page> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let shown = Arc::new(Shown { hub: Arc::downgrade(hub), ladders, since: Instant::now() });
        let task = tokio::spawn(run(listener, shown));
        Ok(Page { addr, task })
    }
}

async fn run(listener: TcpListener, shown: Arc<Shown>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if let Ok(place) = room.clone().try_acquire_owned() {
            let shown = shown.clone();
            tokio::spawn(async move {
                // Nobody is told when a reader goes away.
                let _ = tokio::time::timeout(2 * LIMIT, exchange(stream, shown)).await;
                drop(place);
            });
        }
    }
}

/// After an answer the rest of what a client sends is read for this long and so far, for the answer to arrive: the kernel resets a
/// connection that is closed with bytes unread, and what was under way is lost (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 4 << 20;

async fn exchange(stream: TcpStream, shown: Arc<Shown>) -> io::Result<()> {
    let stream = stream.into_std()?;
    let rest = stream.try_clone()?;
    // What went wrong has been answered.
    let _ = answer_one(TcpStream::from_std(stream)?, shown).await;
    rest.shutdown(std::net::Shutdown::Write)?;
    let mut rest = TcpStream::from_std(rest)?;
    let drained = async {
        let (mut buffer, mut left) = (vec![0; MAX_HEAD], LINGER_BYTES);
        while left > 0 {
            match rest.read(&mut buffer).await {
                Ok(n @ 1..) => left = left.saturating_sub(n),
                _ => break,
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, drained).await;
    Ok(())
}

async fn answer_one(stream: TcpStream, shown: Arc<Shown>) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let answer = answer(&shown, &request);
        async move { Ok::<_, Infallible>(answer) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(LIMIT)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn answer<B>(shown: &Shown, request: &Request<B>) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
    let Some(hub) = shown.hub.upgrade() else { return plain(StatusCode::SERVICE_UNAVAILABLE, "the hub has ended\n") };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "this page is only to be read\n");
    }
    if !is_for_us(request) {
        return plain(StatusCode::MISDIRECTED_REQUEST, "ask for this page by its address\n");
    }
    match request.uri().path() {
        "/" => respond(StatusCode::OK, "text/html; charset=utf-8", html::page(&hub, &shown.ladders, shown.since)),
        "/metrics" => respond(StatusCode::OK, TEXT, metrics::text(&hub, shown.since)),
        _ => plain(StatusCode::NOT_FOUND, "there are / and /metrics\n"),
    }
}

/// A name in Host is one that somebody's DNS made lead here: a page of theirs would read ours (DNS rebinding).
fn is_for_us<B>(request: &Request<B>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

fn plain(status: StatusCode, words: &str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", words.to_owned())
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // No script runs on this page, and no other page shows it.
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; form-action 'none'",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
