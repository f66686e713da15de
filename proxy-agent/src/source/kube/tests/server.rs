//! An API server whose every answer is the test's.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::Response,
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{sleep, timeout},
};

/// The end of every wait.
pub const PATIENCE: Duration = Duration::from_secs(20);

type Channel = (
    mpsc::UnboundedSender<Exchange>,
    Option<mpsc::UnboundedReceiver<Exchange>>,
);

/// Requests that wait, by path.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<HashMap<String, Channel>>>);

/// A server on the loopback.
pub struct Server {
    pub address: SocketAddr,
    asked: Asked,
    task: JoinHandle<()>,
}

/// A request that waits for its answer.
pub struct Exchange {
    pub query: BTreeMap<String, String>,
    pub token: Option<String>,
    pub body: Value,
    reply: oneshot::Sender<Response<Body>>,
}

/// An answer that goes on.
pub struct Stream(mpsc::UnboundedSender<io::Result<Vec<u8>>>);

impl Server {
    pub async fn start() -> Self {
        Self::at(([127, 0, 0, 1], 0).into()).await
    }

    pub async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Asked::default();
        let router = Router::new().fallback(answer).with_state(asked.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            asked,
            task,
        }
    }

    /// The next request for a path.
    pub async fn request(&mut self, path: &str) -> Exchange {
        let mut asked = self.asked.take(path);
        let exchange = timeout(PATIENCE, asked.recv())
            .await
            .unwrap_or_else(|_| panic!("nobody asks for {path}"))
            .unwrap();
        self.asked.put_back(path, asked);
        exchange
    }

    /// Answers a path with an empty list and silence, from now on.
    pub fn nothing_at(&mut self, path: &str) {
        let mut asked = self.asked.take(path);
        tokio::spawn(async move {
            let mut streams = Vec::new();
            while let Some(exchange) = asked.recv().await {
                let stream = exchange.stream();
                stream.listed("1");
                streams.push(stream);
            }
        });
    }

    /// The process is gone: its port refuses, its connections end.
    pub async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

pub const SERVICES: &str = "/api/v1/services";
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub const NODES: &str = "/api/v1/nodes";

impl Asked {
    fn with<T>(&self, path: &str, act: impl FnOnce(&mut Channel) -> T) -> T {
        act(self
            .0
            .lock()
            .unwrap()
            .entry(path.to_owned())
            .or_insert_with(|| {
                let (sender, receiver) = mpsc::unbounded_channel();
                (sender, Some(receiver))
            }))
    }

    fn take(&self, path: &str) -> mpsc::UnboundedReceiver<Exchange> {
        self.with(path, |channel| channel.1.take()).unwrap()
    }

    fn put_back(&self, path: &str, receiver: mpsc::UnboundedReceiver<Exchange>) {
        self.with(path, |channel| channel.1 = Some(receiver));
    }
}

async fn answer(State(asked): State<Asked>, request: Request) -> Response<Body> {
    let (reply, answered) = oneshot::channel();
    let (head, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let exchange = Exchange {
        query: parameters(head.uri.query().unwrap_or_default()),
        token: head
            .headers
            .get("authorization")
            .map(|value| value.to_str().unwrap().to_owned()),
        body: serde_json::from_slice(&body).unwrap_or_default(),
        reply,
    };
    asked.with(head.uri.path(), |channel| {
        let _ = channel.0.send(exchange);
    });
    answered
        .await
        .unwrap_or_else(|_| Response::new(Body::empty()))
}

/// The parameters of a query; of escapes, those that selectors need.
fn parameters(query: &str) -> BTreeMap<String, String> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| {
            let value = [("%3D", "="), ("%2C", ","), ("%21", "!"), ("%2F", "/")]
                .iter()
                .fold(value.to_owned(), |value, (from, to)| {
                    value.replace(from, to)
                });
            (name.to_owned(), value)
        })
        .collect()
}

impl Exchange {
    pub fn asks(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    /// The version from which a watch is to go on.
    pub fn is_watch_after(&self, version: &str) -> bool {
        self.asks("watch") == Some("true")
            && self.asks("resourceVersion") == Some(version)
            && self.asks("sendInitialEvents").is_none()
            && self.asks("allowWatchBookmarks") == Some("true")
    }

    /// A watch that is to begin with the list.
    pub fn is_listing_watch(&self) -> bool {
        self.asks("watch") == Some("true") && self.asks("sendInitialEvents") == Some("true")
    }

    pub fn json(self, code: u16, body: &Value) {
        let response = Response::builder()
            .status(code)
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        let _ = self.reply.send(response);
    }

    /// Refuses, as the API server does.
    pub fn refuse(self, code: u16, reason: &str) {
        self.json(code, &status(code, reason));
    }

    pub fn list(self, version: &str, next: Option<&str>, items: &[Value]) {
        self.json(
            200,
            &json!({
                "kind": "List",
                "metadata": {"resourceVersion": version, "continue": next},
                "items": items,
            }),
        );
    }

    pub fn stream(self) -> Stream {
        self.answer_by_stream(200)
    }

    /// Answers with a code and a body that goes on.
    pub fn answer_by_stream(self, code: u16) -> Stream {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let body = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
        let response = Response::builder().status(code);
        let response = response.body(Body::from_stream(body)).unwrap();
        let _ = self.reply.send(response);
        Stream(sender)
    }
}

impl Stream {
    pub fn raw(&self, text: &str) {
        let _ = self.0.send(Ok(text.as_bytes().to_vec()));
    }

    pub fn event(&self, kind: &str, object: &Value) {
        self.raw(&format!("{}\n", json!({"type": kind, "object": object})));
    }

    pub fn added(&self, object: &Value) {
        self.event("ADDED", object);
    }

    pub fn bookmark(&self, version: &str) {
        self.event(
            "BOOKMARK",
            &json!({"metadata": {"resourceVersion": version}}),
        );
    }

    /// The list that the watch began with is complete.
    pub fn listed(&self, version: &str) {
        let annotations = json!({"k8s.io/initial-events-end": "true"});
        self.event(
            "BOOKMARK",
            &json!({"metadata": {"resourceVersion": version, "annotations": annotations}}),
        );
    }

    /// Ends in order.
    pub fn end(self) {
        drop(self);
    }

    /// Ends in the middle; what was said before has been sent.
    pub async fn cut(self) {
        sleep(Duration::from_millis(200)).await;
        let _ = self.0.send(Err(io::Error::other("cut")));
    }
}

pub fn status(code: u16, reason: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("{reason} it is"), "reason": reason, "code": code,
    })
}

pub fn service(name: &str, ip: &str, version: &str) -> Value {
    json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {
            "name": name, "namespace": "default", "resourceVersion": version,
            "uid": "8f0c0b0e-0000-0000-0000-000000000000",
            "creationTimestamp": "2026-11-21T10:00:00Z",
            "managedFields": [{"manager": "x", "operation": "Update", "fieldsV1": {"f:spec": {}}}],
        },
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80}]},
        "status": {"loadBalancer": {}},
    })
}

pub fn slice(name: &str, of: &str, address: &str, version: &str) -> Value {
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            "name": name, "namespace": "default", "resourceVersion": version,
            "labels": {"kubernetes.io/service-name": of},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    })
}

pub fn node(name: &str, address: &str, version: &str) -> Value {
    json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {"name": name, "resourceVersion": version},
        "status": {
            "addresses": [{"type": "InternalIP", "address": address}],
            "images": [{"names": ["a", "b"], "sizeBytes": 1}],
        },
    })
}
