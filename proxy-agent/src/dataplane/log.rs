//! What the datapath says of single packets and sockets (`--datapath-log`). The programs write to a ring buffer of their own
//! (aya-log); a thread reads it and writes the agent's log. What is not asked for is no part of the programs: the verifier
//! removes it.

use std::{io, net::SocketAddr, thread, time::Duration};

use aya::{Ebpf, EbpfLoader};
use aya_log::{EbpfLogger, Level};
use proxy_common::abi::{counter::Counter, protocol};

/// The ring buffer and the level, as `aya-log-ebpf` calls them.
const BUFFER: &str = "AYA_LOGS";
const LEVEL: &str = "AYA_LOG_LEVEL";
/// How often the ring buffer is read. It holds some hundred messages, which limits a flood of them: what finds no room is left
/// out, and counted as always.
const PAUSE: Duration = Duration::from_millis(50);

/// Of what the datapath tells (`--datapath-log`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum DatapathLog {
    /// Nothing.
    #[default]
    Off,
    /// Dropped packets and refused sockets, with the reason.
    Drops,
    /// Like `drops`, plus new flows and connected sockets, with the backend.
    Flows,
}

/// The level of a [`DatapathLog`], as the loader wants it: for as long as it loads.
static LEVELS: [u8; 3] = [0, Level::Info as u8, Level::Debug as u8];

/// Why there is nothing to read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The ring buffer.
    #[error("could not open the datapath's log")]
    Buffer(#[from] aya_log::Error),
    /// The thread.
    #[error("could not start the thread that reads the datapath's log")]
    Thread(#[source] io::Error),
}

impl DatapathLog {
    /// Tells the programs, before they are loaded.
    pub fn prepare(self, loader: &mut EbpfLoader<'_>) {
        loader.override_global(LEVEL, &LEVELS[self as usize], true);
        if self == Self::Off {
            // The map belongs to the object; it is made as small as can be: a page.
            loader.map_max_entries(BUFFER, 1);
        }
    }

    /// Starts to read what the loaded programs say, for as long as this process lives.
    pub fn follow(self, ebpf: &mut Ebpf) -> Result<(), LogError> {
        if self == Self::Off {
            return Ok(());
        }
        let mut messages = EbpfLogger::init_with_logger(ebpf, Translate)?;
        thread::Builder::new()
            .name("datapath-log".to_owned())
            .spawn(move || {
                loop {
                    messages.flush();
                    thread::sleep(PAUSE);
                }
            })
            .map_err(LogError::Thread)?;
        Ok(())
    }
}

/// Gives messages names.
struct Translate;

impl log::Log for Translate {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let text = record.args().to_string();
        if let Some(message) = Message::parse(&text) {
            message.tell();
        } else {
            tracing::warn!(
                text,
                "the datapath says what this agent does not understand"
            );
        }
    }

    fn flush(&self) {}
}

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Message {
    counter: Counter,
    protocol: u8,
    /// A socket may have none yet.
    source: Option<SocketAddr>,
    destination: SocketAddr,
    backend: Option<SocketAddr>,
}

impl Message {
    /// From numbers and addresses with blanks between, as `proxy-ebpf/src/log.rs` writes them.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let counter = Counter::from_u32(words.next()?.parse().ok()?)?;
        let protocol = words.next()?.parse().ok()?;
        let mut places = Vec::with_capacity(3);
        while let Some(address) = words.next() {
            let address: std::net::IpAddr = address.parse().ok()?;
            let port = words.next()?.parse().ok()?;
            places.push(SocketAddr::new(address.to_canonical(), port));
        }
        let (source, destination, backend) = match (counter, &*places) {
            (Counter::SocketTranslated, &[destination, backend]) => {
                (None, destination, Some(backend))
            }
            (_, &[destination]) => (None, destination, None),
            (_, &[source, destination]) => (Some(source), destination, None),
            (_, &[source, destination, backend]) => (Some(source), destination, Some(backend)),
            _ => return None,
        };
        Some(Self {
            counter,
            protocol,
            source,
            destination,
            backend,
        })
    }

    fn tell(&self) {
        let text = |place: Option<SocketAddr>| place.map(tracing::field::display);
        tracing::info!(
            reason = self.counter.label(),
            protocol = protocol_name(self.protocol),
            source = text(self.source),
            destination = %self.destination,
            backend = text(self.backend),
            "{}",
            self.counter.sentence()
        );
    }
}

fn protocol_name(number: u8) -> String {
    match number {
        protocol::TCP => "TCP".to_owned(),
        protocol::UDP => "UDP".to_owned(),
        protocol::SCTP => "SCTP".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> SocketAddr {
        text.parse().expect("an address and a port")
    }

    #[test]
    fn p6_messages_of_the_datapath_are_read_and_others_are_not() {
        let drop = Counter::DropNoRoute;
        let read = |text: String| Message::parse(&text);
        assert_eq!(
            read(format!("{} 6 ::ffff:10.0.0.1 1024 fd00::1 80", drop as u32)),
            Some(Message {
                counter: drop,
                protocol: 6,
                source: Some(place("10.0.0.1:1024")),
                destination: place("[fd00::1]:80"),
                backend: None,
            })
        );
        let connected = Counter::SocketTranslated;
        assert_eq!(
            read(format!("{} 17 fd00::1 53 fd00::2 5353", connected as u32)),
            Some(Message {
                counter: connected,
                protocol: 17,
                source: None,
                destination: place("[fd00::1]:53"),
                backend: Some(place("[fd00::2]:5353")),
            })
        );
        for wrong in [
            String::new(),
            "4294967295 6 ::1 80".to_owned(),
            format!("{} 6", drop as u32),
            format!("{} 6 ::1", drop as u32),
            format!("{} 6 ::1 80000", drop as u32),
            format!("{} six ::1 80", drop as u32),
        ] {
            assert_eq!(Message::parse(&wrong), None, "{wrong}");
        }
    }
}
