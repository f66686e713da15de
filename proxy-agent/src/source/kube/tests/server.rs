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
    body::Body,
    extract::{Request, State},
    http::{Response, StatusCode},
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

type Asked = HashMap<String, mpsc::UnboundedSender<Exchange>>;

/// A server on the loopback.
pub struct Server {
    pub address: SocketAddr,
    asked: HashMap<String, mpsc::UnboundedReceiver<Exchange>>,
    task: JoinHandle<()>,
}

/// A request that waits for its answer.
pub struct Exchange {
    pub query: BTreeMap<String, String>,
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
        let (mut senders, mut asked) = (Asked::new(), HashMap::new());
        for path in [SERVICES, SLICES, NODES] {
            let (sender, receiver) = mpsc::unbounded_channel();
            senders.insert(path.to_owned(), sender);
            asked.insert(path.to_owned(), receiver);
        }
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::new(Mutex::new(senders)));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            asked,
            task,
        }
    }

    /// The next request for a path.
    pub async fn request(&mut self, path: &str) -> Exchange {
        let asked = self.asked.get_mut(path).unwrap();
        timeout(PATIENCE, asked.recv())
            .await
            .unwrap_or_else(|_| panic!("nobody asks for {path}"))
            .unwrap()
    }

    /// Answers a path with an empty list and silence, from now on.
    pub fn nothing_at(&mut self, path: &str) {
        let mut asked = self.asked.remove(path).unwrap();
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

async fn answer(State(asked): State<Arc<Mutex<Asked>>>, request: Request) -> Response<Body> {
    let (reply, answered) = oneshot::channel();
    let exchange = Exchange {
        query: parameters(request.uri().query().unwrap_or_default()),
        reply,
    };
    let sender = asked.lock().unwrap().get(request.uri().path()).cloned();
    if let Some(sender) = sender {
        let _ = sender.send(exchange);
    }
    answered.await.unwrap_or_else(|_| {
        Response::builder()
            .status(StatusCode::NOT_FOUND)
            .body(Body::empty())
            .unwrap()
    })
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
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let body = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
        let _ = self.reply.send(Response::new(Body::from_stream(body)));
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
    pub fn end(self) {}

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
