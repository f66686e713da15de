//! One kind of objects, listed and then watched for as long as it goes.
//!
//! A watch begins with the list (KEP-3157), where the server can; else there is a list from its cache first. A watch that
//! ends is resumed at the version that it had come to. What can't be resumed is listed anew, and [`Known`] finds the
//! difference: nothing is lost, and nothing is taken away in between.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use futures_util::{AsyncBufRead, AsyncBufReadExt as _};
use kube::{
    api::{ListParams, VersionMatch, WatchParams},
    core::Request,
};
use tokio::{
    sync::mpsc::Sender,
    time::{sleep, timeout},
};

use super::{
    connector::{Connection, Connector},
    contact::Contact,
    decode::{self, Line, Manifest},
    failure::{Failure, Remedy},
    known::{Known, nameless},
    merge::Part,
    pace::{Backoff, Pace},
};
use crate::telemetry::chain;

/// Objects of one part of a list that is read in parts.
const PAGE: u32 = 500;
/// The longest line of a watch, in bytes; in etcd an object has 1.5 MB at most.
const LONGEST_LINE: usize = 32 << 20;
/// A watch that ends sooner is no success.
const SHORT: Duration = Duration::from_secs(1);

/// Follows one kind.
pub(super) struct Watch<'a, T> {
    connector: &'a Connector,
    contact: &'a Contact,
    parts: Sender<Part>,
    /// Field selector.
    fields: Option<String>,
    known: Known<T>,
    position: Position,
    /// Whether the server begins a watch with the list.
    streams: bool,
    /// Whether it has answered since the last wait.
    answered: bool,
}

/// Where the story goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Position {
    /// With a list.
    List(Version),
    /// With what came after this version.
    After(String),
}

/// How new a list must be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Version {
    /// As the server has it at hand.
    Any,
    /// Not older than this: that would take back what is known.
    NotOlderThan(String),
    /// The newest there is.
    Newest,
}

impl<'a, T: Manifest> Watch<'a, T> {
    pub(super) fn new(
        connector: &'a Connector,
        contact: &'a Contact,
        parts: Sender<Part>,
        fields: Option<String>,
    ) -> Self {
        Self {
            connector,
            contact,
            parts,
            fields,
            known: Known::default(),
            position: Position::List(Version::Any),
            streams: true,
            answered: false,
        }
    }

    /// Follows until nobody listens.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(self.pace().retry);
        loop {
            let began = Instant::now();
            self.answered = false;
            let result = self.session().await;
            let lasted = began.elapsed() >= SHORT;
            if self.answered && lasted {
                backoff.reset();
            }
            match result {
                Ok(()) if lasted => continue,
                Ok(()) => {}
                Err(Failure::Closed) => return,
                Err(failure) => sleep(failure.retry_after()).await,
            }
            self.contact.wait(backoff.wait()).await;
        }
    }

    /// Lists once, without watching.
    pub(super) async fn once(mut self) -> Result<(), Failure> {
        let connection = self.connector.connection()?;
        self.list(&connection, Version::Newest).await
    }

    async fn session(&mut self) -> Result<(), Failure> {
        let connection = match self.connector.connection() {
            Ok(connection) => connection,
            Err(error) => {
                self.contact.fails(T::KIND, "", &chain(&error));
                return Err(error.into());
            }
        };
        let result = self.list_and_watch(&connection).await;
        if let Err(failure) = &result {
            self.learn(failure, &connection);
        }
        result
    }

    async fn list_and_watch(&mut self, connection: &Connection) -> Result<(), Failure> {
        match &self.position {
            Position::List(version) if !self.streams => {
                let version = version.clone();
                self.list(connection, version).await?;
            }
            Position::List(_) | Position::After(_) => {}
        }
        self.watch(connection).await
    }

    /// What a failure means for the next attempt.
    fn learn(&mut self, failure: &Failure, connection: &Connection) {
        let remedy = failure.remedy();
        match &self.position {
            Position::List(_) if self.streams && remedy == Remedy::AskOtherwise => {
                tracing::debug!(kind = T::KIND, reason = %failure, "the server does not begin watches with a list");
                self.streams = false;
                return;
            }
            Position::After(version) if remedy == Remedy::List => {
                tracing::debug!(kind = T::KIND, reason = %failure, "listing anew");
                self.position = Position::List(Version::NotOlderThan(version.clone()));
                return;
            }
            Position::List(_) | Position::After(_)
                if matches!(remedy, Remedy::List | Remedy::AskOtherwise) =>
            {
                self.position = Position::List(Version::Newest);
            }
            Position::List(_) | Position::After(_) => {}
        }
        if remedy == Remedy::Resume {
            tracing::debug!(
                kind = T::KIND,
                reason = chain(failure),
                "the watch is begun again"
            );
            return;
        }
        if remedy == Remedy::Reconnect {
            self.connector.renew(connection);
        }
        self.contact
            .fails(T::KIND, &connection.server, &chain(failure));
    }

    /// Reads a list by itself.
    async fn list(&mut self, connection: &Connection, version: Version) -> Result<(), Failure> {
        self.known.begin();
        let mut part = Part::default();
        let mut next = None;
        loop {
            let request = Request::new(T::PATH).list(&self.list_params(&version, next))?;
            let mut body = pin!(self.open(connection, request).await?);
            let mut bytes = Vec::new();
            loop {
                let chunk = read(&mut body, self.pace().listing).await?;
                if chunk.is_empty() {
                    break;
                }
                bytes.extend_from_slice(chunk);
                let length = chunk.len();
                body.as_mut().consume(length);
            }
            let page = decode::page::<T>(&bytes).map_err(Failure::Unreadable)?;
            for item in page.items {
                match item {
                    Ok(item) => self.known.listed(item),
                    Err(reason) => part.update.problems.push(nameless::<T>(&reason)),
                }
            }
            next = page.next;
            if next.is_none() {
                self.complete(page.version, &mut part);
                return self.send(part).await;
            }
        }
    }

    fn list_params(&self, version: &Version, next: Option<String>) -> ListParams {
        let (resource_version, version_match, limit) = match version {
            // From the server's memory, all in one, as it would be in any case.
            Version::Any => (Some("0".to_owned()), None, None),
            Version::NotOlderThan(version) => (
                Some(version.clone()),
                Some(VersionMatch::NotOlderThan),
                None,
            ),
            Version::Newest => (None, None, Some(PAGE)),
        };
        ListParams {
            label_selector: T::LABELS.map(str::to_owned),
            field_selector: self.fields.clone(),
            limit,
            continue_token: next,
            resource_version,
            version_match,
            ..ListParams::default()
        }
    }

    /// Watches until the watch ends in its time.
    async fn watch(&mut self, connection: &Connection) -> Result<(), Failure> {
        let (version, listing) = match &self.position {
            Position::List(_) => (String::new(), true),
            Position::After(version) => (version.clone(), false),
        };
        let params = WatchParams {
            label_selector: T::LABELS.map(str::to_owned),
            field_selector: self.fields.clone(),
            timeout: Some(self.pace().watch_seconds()),
            bookmarks: true,
            send_initial_events: listing,
        };
        let request = Request::new(T::PATH).watch(&params, &version)?;
        let mut body = pin!(self.open(connection, request).await?);
        self.known.begin();
        if !listing {
            self.contact.works(T::KIND);
        }
        let mut line = Vec::new();
        loop {
            let silence = match self.position {
                Position::List(_) => self.pace().listing,
                Position::After(_) => self.pace().silence,
            };
            let chunk = read(&mut body, silence).await?;
            if chunk.is_empty() {
                return match self.position {
                    Position::After(_) if line.is_empty() => Ok(()),
                    Position::List(_) | Position::After(_) => Err(Failure::Unfinished),
                };
            }
            self.answered = true;
            let mut part = Part::default();
            let taken = self.take_chunk(&mut line, chunk, &mut part);
            let length = chunk.len();
            body.as_mut().consume(length);
            // What was taken is known: it must be told, whatever comes next.
            if !part.is_empty() {
                self.send(part).await?;
            }
            taken?;
        }
    }

    /// Takes the lines that a chunk completes.
    fn take_chunk(
        &mut self,
        line: &mut Vec<u8>,
        chunk: &[u8],
        part: &mut Part,
    ) -> Result<(), Failure> {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                if !line.trim_ascii().is_empty() {
                    self.take_line(line, part)?;
                }
                line.clear();
            } else if line.len() > LONGEST_LINE {
                return Err(Failure::Unreadable(format!(
                    "a line of more than {LONGEST_LINE} bytes"
                )));
            }
        }
        Ok(())
    }

    fn take_line(&mut self, line: &[u8], part: &mut Part) -> Result<(), Failure> {
        let listing = matches!(self.position, Position::List(_));
        let version = match decode::line::<T>(line).map_err(Failure::Unreadable)? {
            Line::Changed(item) if listing => {
                self.known.listed(item);
                return Ok(());
            }
            Line::Removed(item) if listing => {
                self.known.unlisted(&item.name);
                return Ok(());
            }
            Line::Changed(item) => {
                let version = item.version.clone();
                self.known.changed(item, &mut part.update);
                version
            }
            Line::Removed(item) => {
                self.known.removed(&item.name, &mut part.update);
                item.version
            }
            Line::Bookmark { version, complete } => {
                if listing && complete {
                    self.complete(version, part);
                    return Ok(());
                }
                version
            }
            Line::Failed(status) => return Err(Failure::Ended(status)),
            Line::Nameless(reason) => {
                part.update.problems.push(nameless::<T>(&reason));
                return Ok(());
            }
        };
        if !listing && !version.is_empty() {
            self.position = Position::After(version);
        }
        Ok(())
    }

    /// A list is complete.
    fn complete(&mut self, version: String, part: &mut Part) {
        let update = self.known.complete();
        tracing::debug!(
            kind = T::KIND,
            objects = self.known.len(),
            events = update.events.len(),
            version,
            "listed"
        );
        part.update.events.extend(update.events);
        part.update.problems.extend(update.problems);
        part.listed = Some(T::KIND);
        self.answered = true;
        self.position = Position::After(version);
        self.contact.works(T::KIND);
    }

    async fn open(
        &self,
        connection: &Connection,
        request: http::Request<Vec<u8>>,
    ) -> Result<impl AsyncBufRead + use<T>, Failure> {
        let within = self.pace().answer;
        timeout(within, connection.client.request_stream(request))
            .await
            .map_err(|_| Failure::NoAnswer(within))?
            .map_err(Failure::Refused)
    }

    async fn send(&self, part: Part) -> Result<(), Failure> {
        self.parts.send(part).await.map_err(|_| Failure::Closed)
    }

    const fn pace(&self) -> &'a Pace {
        self.connector.pace()
    }
}

/// The next bytes; none at the end.
async fn read<R: AsyncBufRead + Unpin>(body: &mut R, within: Duration) -> Result<&[u8], Failure> {
    match timeout(within, body.fill_buf()).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Failure::Silent(within)),
    }
}
