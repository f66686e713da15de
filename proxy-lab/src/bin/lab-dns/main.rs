//! A DNS server for a cluster whose objects are files in a folder: `lab-dns --objects DIR --domain
//! cluster.local`. It listens on port 53 of every address of its network namespace, over UDP and TCP, and
//! follows changes of the folder.

mod zone;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_server::ServerFuture;
use hickory_server::authority::MessageResponseBuilder;
use hickory_server::proto::op::{Header, MessageType, OpCode, ResponseCode};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use proxy_lab::Folder;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

use zone::{Answer, Zone};

const USAGE: &str = "usage: lab-dns --objects DIR --domain DOMAIN";
const PORT: u16 = 53;
/// Idle timeout of a TCP connection.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("lab-dns: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [objects, folder, domain, name] = words.as_slice() else {
        return Err(USAGE.to_owned());
    };
    if objects != "--objects" || domain != "--domain" {
        return Err(USAGE.to_owned());
    }
    let records = Records {
        folder: folder.into(),
        domain: name.to_owned(),
        read: Mutex::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("starting the runtime: {error}"))?;
    runtime.block_on(async {
        let mut server = ServerFuture::new(records);
        listen(&mut server).map_err(|error| format!("listening on port {PORT}: {error}"))?;
        println!("listening on port {PORT}");
        let ended = server.block_until_done().await;
        ended.map_err(|error| format!("serving: {error}"))
    })
}

/// UDP and TCP over both families.
fn listen(server: &mut ServerFuture<Records>) -> io::Result<()> {
    let any = [
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)),
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)),
    ];
    for address in any {
        server.register_socket(UdpSocket::from_std(bound(address, Type::DGRAM)?.into())?);
        let listening = bound(address, Type::STREAM)?;
        listening.listen(128)?;
        server.register_listener(TcpListener::from_std(listening.into())?, PATIENCE);
    }
    Ok(())
}

fn bound(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let protocol = if kind == Type::DGRAM {
        Protocol::UDP
    } else {
        Protocol::TCP
    };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The zone of a folder, read again when a file of it is new.
struct Records {
    folder: PathBuf,
    domain: String,
    read: Mutex<Option<(Vec<Version>, Zone)>>,
}

/// A file's name and when it was written.
type Version = (PathBuf, Option<SystemTime>);

impl Records {
    fn answer(&self, request: &Request) -> Result<Answer, ResponseCode> {
        let asked = request.request_info().map_err(|_| ResponseCode::FormErr)?;
        if request.message_type() != MessageType::Query || request.op_code() != OpCode::Query {
            return Err(ResponseCode::NotImp);
        }
        let versions = self.versions().map_err(|_| ResponseCode::ServFail)?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.as_ref().is_none_or(|(known, _)| *known != versions) {
            let objects = Folder::at(&self.folder).objects();
            let zone = objects
                .ok()
                .and_then(|objects| Zone::new(&self.domain, &objects));
            // What cannot be read now may be half-way written by hand: the last zone stays.
            if let Some(zone) = zone {
                *read = Some((versions, zone));
            }
        }
        let (_, zone) = read.as_ref().ok_or(ResponseCode::ServFail)?;
        Ok(zone.answer(asked.query.name(), asked.query.query_type()))
    }

    fn versions(&self) -> io::Result<Vec<Version>> {
        let entries = std::fs::read_dir(&self.folder)?;
        let mut versions = entries
            .map(|entry| {
                let entry = entry?;
                let written = entry.metadata().and_then(|metadata| metadata.modified());
                Ok((entry.path(), written.ok()))
            })
            .collect::<io::Result<Vec<_>>>()?;
        versions.sort();
        Ok(versions)
    }
}

#[async_trait::async_trait]
impl RequestHandler for Records {
    async fn handle_request<R: ResponseHandler>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let mut header = Header::response_from_request(request.header());
        let answer = self.answer(request).unwrap_or_else(|code| Answer {
            code,
            records: Vec::new(),
            soa: None,
        });
        header.set_authoritative(answer.code != ResponseCode::Refused);
        header.set_response_code(answer.code);
        let message = MessageResponseBuilder::from_message_request(request).build(
            header,
            &answer.records,
            None,
            &answer.soa,
            None,
        );
        // The client may have closed the connection.
        response
            .send_response(message)
            .await
            .unwrap_or_else(|_| header.into())
    }
}
