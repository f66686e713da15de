//! Clients that hold connections open without use.

use std::{
    io::BufRead as _,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use socket2::{Domain, Socket, Type};

use super::*;

/// Longer than the timeout of the kubelet's probes.
const IN_TIME: Duration = Duration::from_secs(5);
/// Of the server that is flooded. Few, so that a flood reaches them at once.
const DESCRIPTORS: usize = 256;
const SERVER: &str = "serve::tests::flood::a_server_for_a_flood";

#[test]
#[ignore = "the other tests of this file start it, as a process of its own"]
fn a_server_for_a_flood() {
    let fixture = Fixture::start();
    let check = free_port();
    fixture.set("web", Some((check.port(), 1)));
    eventually("the health check is served", || ask(check, "/").is_ok());
    println!(
        "ports {} {} {}",
        fixture.at.port(),
        fixture.metrics_at.port(),
        check.port()
    );
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// That server, with few descriptors.
struct Server {
    process: Child,
    /// Health, metrics, a health check of a Service.
    ports: [SocketAddr; 3],
}

impl Server {
    fn start() -> Self {
        let script =
            format!("ulimit -n {DESCRIPTORS}; exec \"$0\" --ignored --exact {SERVER} --nocapture");
        let mut process = Command::new("sh")
            .args(["-c", &script])
            .arg(std::env::current_exe().unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = io::BufReader::new(process.stdout.take().unwrap()).lines();
        let ports = lines.find_map(|line| Some(line.unwrap().split_once("ports ")?.1.to_owned()));
        let ports: Vec<_> = ports
            .expect("it serves")
            .split_whitespace()
            .map(|port| (Ipv4Addr::LOCALHOST, port.parse().unwrap()).into())
            .collect();
        // The rest is the test harness's.
        thread::spawn(move || lines.count());
        Self {
            process,
            ports: ports.try_into().unwrap(),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.process.id()).into()
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(self.file("fd")).unwrap().count()
    }

    /// In KiB.
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(self.file("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let words = line.unwrap().split_whitespace().next();
        words.unwrap().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
    }
}

/// An endless request from a loopback address. Sends as much as the server reads.
fn half_a_request(from: u8, to: SocketAddr, size: usize) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, from], 0)).into())?;
    socket.connect_timeout(&to.into(), IN_TIME)?;
    socket.set_nonblocking(true)?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nX: ")?;
    // What is not taken is of no interest.
    stream.write_all(&vec![b'x'; size]).ok();
    Ok(stream)
}

fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 512]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

/// Ends a flood, also when the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Holds half-sent requests, and opens a new one for each that is closed.
fn flood(from: u8, server: &Server, over: &AtomicBool) {
    const HELD: usize = 300;
    const AT_ONCE: usize = 30;
    let mut held: Vec<TcpStream> = Vec::new();
    let mut ports = server.ports.into_iter().cycle();
    while !over.load(Ordering::Relaxed) {
        held.retain_mut(|stream| !is_closed(stream));
        let missing = (HELD - held.len()).min(AT_ONCE);
        let to = ports.by_ref().take(missing);
        held.extend(to.filter_map(|to| half_a_request(from, to, 1 << 20).ok()));
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn half_sent_requests_keep_nobody_out_and_cost_a_bounded_amount() {
    let server = Server::start();
    let resident = server.resident();
    let (server, over) = (&server, &AtomicBool::new(false));
    thread::scope(|scope| {
        let _end = End(over);
        // From two addresses and to all ports; each is opened again when it is closed.
        for from in [1, 2] {
            scope.spawn(move || flood(from, server, over));
        }
        thread::sleep(Duration::from_secs(1));
        let [health, metrics, check] = server.ports;
        for _ in 0..10 {
            for (at, path) in [(health, "/livez"), (metrics, "/metrics"), (check, "/")] {
                let began = Instant::now();
                let answer = ask(at, path);
                let status = answer.map(|answer| answer.status);
                assert_eq!(status.ok(), Some(200), "{path} after {:?}", began.elapsed());
                assert!(began.elapsed() < IN_TIME, "{path}: {:?}", began.elapsed());
            }
            assert!(server.descriptors() < DESCRIPTORS / 2, "half is left");
        }
    });
    let grown = server.resident().saturating_sub(resident);
    assert!(grown < 16 * 1024, "{grown} KiB more than before");
}

#[test]
fn a_request_must_be_complete_within_seconds() {
    let fixture = Fixture::start();
    let began = Instant::now();
    let mut stream = half_a_request(1, fixture.at, 10).unwrap();
    let mut idle = TcpStream::connect(fixture.at).unwrap();
    idle.set_nonblocking(true).unwrap();
    while !is_closed(&mut stream) || !is_closed(&mut idle) {
        // A client that keeps sending byte by byte gains no time.
        stream.write_all(b"x").ok();
        assert!(began.elapsed() < Duration::from_secs(25), "they are kept");
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn what_is_no_request_is_not_collected() {
    let fixture = Fixture::start();
    for head in [
        format!("GET /livez HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)),
        format!("GET /livez HTTP/1.1\r\n{}\r\n", "X: x\r\n".repeat(1000)),
        format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20)),
    ] {
        let mut stream = TcpStream::connect(fixture.at).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream.write_all(head.as_bytes()).ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// Far more than the sockets' buffers hold; the sender goes when the server lets go of it.
struct Long {
    text: Vec<u8>,
    _held: std::sync::mpsc::Sender<()>,
}

impl AsRef<[u8]> for Long {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

#[test]
fn who_does_not_read_the_answer_is_not_waited_for() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let at = listener.local_addr().unwrap();
    let (begun, has_begun) = std::sync::mpsc::channel();
    let (held, is_held) = std::sync::mpsc::channel();
    let held = Arc::new(std::sync::Mutex::new(Some(held)));
    let router = Router::new().fallback(async move || {
        let long = Long {
            text: vec![b'x'; 64 << 20],
            _held: held.lock().unwrap().take().unwrap(),
        };
        begun.send(()).unwrap();
        axum::body::Body::from(axum::body::Bytes::from_owner(long))
    });
    let limits = Limits {
        longest: Duration::from_millis(300),
        ..Limits::of(1024)
    };
    let counter = Metrics::new().unwrap().own.connections_given_way;
    let clients = Clients::new(limits, counter);
    thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            http::serve(listener, router, clients).await;
        });
    });
    let mut stream = TcpStream::connect(at).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    has_begun.recv_timeout(Duration::from_secs(20)).unwrap();
    let end = is_held.recv_timeout(Duration::from_secs(20));
    assert_eq!(end, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
}
