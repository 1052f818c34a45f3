//! A plain gateway: axum in front, reqwest behind, a token bucket per client address, a request id.
//!
//! It is written as one would write it, not tuned: bodies stream both ways, nothing is logged, the
//! hop-by-hop fields are the only ones it looks at.
//! Usage: axum-gateway PORT BACKEND_PORT

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{header, HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::Router;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;

const PREFIX: &str = "/api/v1/bench";
const QUOTA: f64 = 1_000_000_000.0;
const WINDOW_SECONDS: f64 = 60.0;
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

struct Bucket {
    tokens: f64,
    filled: Instant,
}

struct Gateway {
    client: reqwest::Client,
    backend: String,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

impl Gateway {
    /// Takes a token of this address and says how many are left, or None when there is none.
    fn take(&self, address: IpAddr) -> Option<u64> {
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap();
        let bucket = buckets.entry(address).or_insert(Bucket { tokens: QUOTA, filled: now });
        let earned = now.duration_since(bucket.filled).as_secs_f64() * QUOTA / WINDOW_SECONDS;
        bucket.tokens = (bucket.tokens + earned).min(QUOTA);
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            return None;
        }
        bucket.tokens -= 1.0;
        Some(bucket.tokens as u64)
    }
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    headers.remove("keep-alive");
}

fn add_limits(headers: &mut HeaderMap, remaining: u64, request_id: &HeaderValue) {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    headers.insert("x-request-id", request_id.clone());
    headers.insert("x-ratelimit-limit", HeaderValue::from(QUOTA as u64));
    headers.insert("x-ratelimit-remaining", HeaderValue::from(remaining));
    headers.insert("x-ratelimit-reset", HeaderValue::from(seconds + WINDOW_SECONDS as u64));
}

async fn proxy(
    State(gateway): State<Arc<Gateway>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let id = uuid::Uuid::new_v4().to_string();
    let Ok(request_id) = HeaderValue::from_str(&id) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let Some(remaining) = gateway.take(peer.ip()) else {
        return StatusCode::TOO_MANY_REQUESTS.into_response();
    };
    let (parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let Some(path) = target.strip_prefix(PREFIX) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let mut headers = parts.headers;
    drop_hop_by_hop(&mut headers);
    headers.remove(header::HOST);
    headers.insert("x-request-id", request_id.clone());
    if let Ok(address) = HeaderValue::from_str(&peer.ip().to_string()) {
        headers.insert("x-forwarded-for", address);
    }
    let has_body = headers.contains_key(header::CONTENT_LENGTH) || parts.method == "POST";
    let mut outgoing = gateway
        .client
        .request(parts.method, format!("{}{}", gateway.backend, path))
        .headers(headers);
    if has_body {
        outgoing = outgoing.body(reqwest::Body::wrap_stream(body.into_data_stream()));
    }
    match outgoing.send().await {
        Ok(answer) => {
            let status = answer.status();
            let mut headers = answer.headers().clone();
            drop_hop_by_hop(&mut headers);
            add_limits(&mut headers, remaining, &request_id);
            (status, headers, Body::from_stream(answer.bytes_stream())).into_response()
        }
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let client = reqwest::Client::builder()
        .pool_max_idle_per_host(100)
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true)
        .build()
        .expect("a client");
    let gateway = Arc::new(Gateway {
        client,
        backend: format!("http://127.0.0.1:{}", arguments[2]),
        buckets: Mutex::new(HashMap::new()),
    });
    let app = Router::new().fallback(any(proxy)).with_state(gateway);
    let listener = TcpListener::bind(format!("127.0.0.1:{}", arguments[1])).await.expect("a port");
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).await.expect("serving");
}
