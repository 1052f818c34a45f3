//! Event streams in axum: a tokio broadcast channel per client id, `Sse` over its receivers.
//!
//! Written as one would write it, and let off with less: no replay, no limit, nothing is logged. The
//! event comes ready-made and is framed once for all its subscribers.
//! Usage: axum-streams PORT

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, Sse};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::Router;
use futures_util::stream::{self, Stream, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::broadcast::{self, error::RecvError};

const RETAINED: usize = 100;

struct Channel {
    number: u64,
    sender: broadcast::Sender<Event>,
}

#[derive(Default)]
struct Hub {
    channels: Mutex<HashMap<String, Channel>>,
}

impl Hub {
    fn with<T>(&self, client_id: String, act: impl FnOnce(&mut Channel) -> T) -> T {
        let mut channels = self.channels.lock().unwrap();
        act(channels.entry(client_id).or_insert_with(|| Channel {
            number: 0,
            sender: broadcast::channel(RETAINED).0,
        }))
    }
}

async fn subscribe(
    State(hub): State<Arc<Hub>>,
    Path(client_id): Path<String>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let receiver = hub.with(client_id, |channel| channel.sender.subscribe());
    let first = Event::default().event("connection.established").data("{}");
    let live = stream::unfold(receiver, |mut receiver| async move {
        loop {
            match receiver.recv().await {
                Ok(event) => return Some((Ok(event), receiver)),
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return None,
            }
        }
    });
    Sse::new(stream::once(async { Ok(first) }).chain(live))
}

async fn publish(
    State(hub): State<Arc<Hub>>,
    Path(client_id): Path<String>,
    headers: HeaderMap,
    data: String,
) -> (StatusCode, String) {
    let Some(kind) = headers.get("x-eventsource-event").and_then(|value| value.to_str().ok()) else {
        return (StatusCode::BAD_REQUEST, String::new());
    };
    let subscribers = hub.with(client_id, |channel| {
        channel.number += 1;
        let event = Event::default().id(channel.number.to_string()).event(kind).data(data);
        channel.sender.send(event).unwrap_or(0)
    });
    (StatusCode::ACCEPTED, format!("{{\"subscribers\":{subscribers}}}"))
}

#[tokio::main]
async fn main() {
    let port = std::env::args().nth(1).expect("a port");
    let app = Router::new()
        .route("/subscribe/{client_id}", get(subscribe))
        .route("/publish/{client_id}", post(publish))
        .with_state(Arc::new(Hub::default()));
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await.expect("listening");
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, app).await.expect("serving");
}
