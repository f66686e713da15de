//! One kind of objects, listed and then watched for as long as it goes.
//!
//! A watch begins with the list (KEP-3157), where the server can; else there is a list from its cache first. A watch that
//! ends is resumed at the version that it had come to. What can't be resumed is listed anew, and [`Known`] finds the
//! difference: nothing is lost, and nothing is taken away in between.

use std::{pin::pin, time::Duration};

use futures_util::{AsyncBufRead, AsyncBufReadExt as _};
use kube::{api::WatchParams, core::Request};
use tokio::{
    sync::mpsc::Sender,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    answer,
    body::{Body, LARGEST_LIST, LARGEST_OBJECT, MOST_OBJECTS, at_most},
    connector::{Connection, Connector},
    contact::Contact,
    decode::{self, Line, Manifest},
    failure::{Failure, Remedy},
    known::{Known, nameless},
    merge::Part,
    pace::{Backoff, Pace},
    position::{Position, Version},
};

/// A watch that ends sooner is no success.
const SHORT: Duration = Duration::from_secs(1);
/// After so many streamed lists that failed, the next list is a plain one.
const STREAMED_LISTS: u32 = 3;

/// Follows one kind.
pub(super) struct Watch<'a, T> {
    connector: &'a Connector,
    contact: &'a Contact,
    parts: Sender<Part>,
    /// Field selector.
    fields: Option<String>,
    known: Known<T>,
    position: Position,
    /// Streamed lists that failed since the last complete list; `None`: the server does not begin watches with a list.
    failed_streams: Option<u32>,
    /// Whether a bookmark has come since the last silence. Until then watches are brief: the server ends them in their
    /// time, which is a word too.
    sends_bookmarks: bool,
    /// Whether it has answered since the last wait.
    answered: bool,
    /// Whether the last watch ended because nothing was heard: then one that is open proves nothing.
    was_silent: bool,
    /// When it last said something.
    heard: Instant,
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
            failed_streams: Some(0),
            sends_bookmarks: false,
            answered: false,
            was_silent: false,
            heard: Instant::now(),
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
                let failure = error.into();
                self.contact.fails(T::KIND, "", &failure);
                return Err(failure);
            }
        };
        let result = self.list_and_watch(&connection).await;
        match &result {
            Ok(()) => self.contact.ended(T::KIND),
            Err(failure) => self.learn(failure, &connection),
        }
        result
    }

    async fn list_and_watch(&mut self, connection: &Connection) -> Result<(), Failure> {
        match &self.position {
            Position::List(version) if !self.is_streaming() => {
                let version = version.clone();
                self.list(connection, version).await?;
            }
            Position::List(_) | Position::After(_) => {}
        }
        self.watch(connection).await
    }

    /// Whether a list is asked for by a watch.
    const fn is_streaming(&self) -> bool {
        matches!(self.failed_streams, Some(failed) if failed < STREAMED_LISTS)
    }

    /// What a failure means for the next attempt.
    fn learn(&mut self, failure: &Failure, connection: &Connection) {
        let remedy = failure.remedy();
        let streamed = matches!(self.position, Position::List(_)) && self.is_streaming();
        if streamed && remedy == Remedy::AskOtherwise {
            tracing::debug!(kind = T::KIND, reason = %failure, "the server does not begin watches with a list");
            self.failed_streams = None;
            return;
        }
        if streamed && failure.is_of_streaming() {
            self.failed_streams = self.failed_streams.map(|failed| failed + 1);
        }
        if matches!(failure, Failure::Silent(_) | Failure::Quiet(_)) {
            self.was_silent = true;
            self.sends_bookmarks = false;
        }
        self.contact.fails(T::KIND, &connection.server, failure);
        match (&self.position, remedy) {
            (_, Remedy::Reconnect) => self.connector.renew(connection),
            (Position::After(version), Remedy::List) => {
                self.position = Position::List(Version::NotOlderThan(version.clone()));
            }
            (_, Remedy::List | Remedy::AskOtherwise) => {
                self.position = Position::List(Version::Newest);
            }
            (_, Remedy::Repeat | Remedy::Resume) => {}
        }
    }

    /// Reads a list by itself.
    async fn list(&mut self, connection: &Connection, version: Version) -> Result<(), Failure> {
        self.known.begin();
        let mut part = Part::default();
        let (mut next, mut size) = (None, 0);
        loop {
            let request = Request::new(T::PATH).list(&version.params(
                T::LABELS,
                self.fields.as_deref(),
                next,
            ))?;
            let mut answer = pin!(self.open(connection, request).await?);
            let mut body = Body::default();
            let mut deadline = Instant::now() + self.pace().listing;
            loop {
                let chunk = read(&mut answer, deadline).await?;
                let chunk = chunk
                    .filter(|_| Instant::now() < deadline)
                    .ok_or_else(|| Failure::Silent(self.connector.pace().listing))?;
                if chunk.is_empty() {
                    break;
                }
                size += chunk.len();
                at_most(LARGEST_LIST, size, "bytes in a list")?;
                let count = self.known.listed_count();
                body.take(chunk, |object| {
                    match decode::item::<T>(&String::from_utf8_lossy(object)) {
                        Ok(item) => self.known.listed(item),
                        Err(reason) => part.update.problems.push(nameless::<T>(&reason)),
                    }
                })?;
                if self.known.listed_count() > count {
                    self.contact.heard(T::KIND);
                    deadline = Instant::now() + self.pace().listing;
                }
                at_most(MOST_OBJECTS, self.known.listed_count(), "objects in a list")?;
                let length = chunk.len();
                answer.as_mut().consume(length);
            }
            let page = decode::page(body.frame()).map_err(Failure::Unreadable)?;
            next = page.next;
            if next.is_none() {
                self.complete(page.version, &mut part);
                return self.send(part).await;
            }
        }
    }

    /// Watches until the watch ends in its time.
    async fn watch(&mut self, connection: &Connection) -> Result<(), Failure> {
        let (version, listing) = match &self.position {
            Position::List(_) => (String::new(), true),
            Position::After(version) => (version.clone(), false),
        };
        // A list may take longer than a brief watch.
        let brief = !listing && !self.sends_bookmarks;
        let params = WatchParams {
            label_selector: T::LABELS.map(str::to_owned),
            field_selector: self.fields.clone(),
            timeout: Some(self.pace().watch_seconds(brief)),
            bookmarks: true,
            send_initial_events: listing,
        };
        let request = Request::new(T::PATH).watch(&params, &version)?;
        let mut body = pin!(self.open(connection, request).await?);
        self.known.begin();
        if !listing {
            self.answered = true;
            self.contact.opened(T::KIND);
        }
        let calm = Instant::now() + self.pace().calm;
        let mut is_calm = false;
        let mut line = Vec::new();
        let mut size = 0;
        self.heard = Instant::now();
        loop {
            let silence = match self.position {
                Position::List(_) => self.pace().listing,
                Position::After(_) => self.pace().silence,
            };
            let deadline = self.heard + silence;
            let first = if is_calm {
                deadline
            } else {
                deadline.min(calm)
            };
            let chunk = read(&mut body, first).await?;
            // Bytes alone, like blank lines, are no word.
            if Instant::now() >= deadline {
                return Err(match self.position {
                    Position::After(_) if !self.was_silent => Failure::Quiet(silence),
                    Position::List(_) | Position::After(_) => Failure::Silent(silence),
                });
            }
            let Some(chunk) = chunk else {
                is_calm = true;
                if matches!(self.position, Position::After(_)) && !self.was_silent {
                    self.contact.goes_on(T::KIND);
                }
                continue;
            };
            if chunk.is_empty() {
                return match self.position {
                    Position::After(_) if line.is_empty() && Instant::now() < calm => {
                        Err(Failure::ClosedEarly)
                    }
                    Position::After(_) if line.is_empty() => {
                        self.is_alive();
                        Ok(())
                    }
                    Position::List(_) | Position::After(_) => Err(Failure::Unfinished),
                };
            }
            self.answered = true;
            let mut part = Part::default();
            let taken = self.take_chunk(&mut line, chunk, &mut part);
            if matches!(self.position, Position::List(_)) {
                size += chunk.len();
            }
            let length = chunk.len();
            body.as_mut().consume(length);
            // What was taken is known: it must be told, whatever comes next.
            if !part.is_empty() {
                self.send(part).await?;
                // That this took long is not the server's silence.
                self.heard = Instant::now();
            }
            taken?;
            at_most(LARGEST_LIST, size, "bytes in a list")?;
            let count = self.known.len().max(self.known.listed_count());
            at_most(MOST_OBJECTS, count, "objects")?;
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
            }
            at_most(LARGEST_OBJECT, line.len(), "bytes in a line")?;
        }
        Ok(())
    }

    fn take_line(&mut self, line: &[u8], part: &mut Part) -> Result<(), Failure> {
        let listing = matches!(self.position, Position::List(_));
        let line = decode::line::<T>(line).map_err(Failure::Unreadable)?;
        if !matches!(line, Line::Failed(_)) {
            self.heard = Instant::now();
            if listing {
                self.contact.heard(T::KIND);
            } else {
                self.is_alive();
            }
        }
        let version = match line {
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
                self.sends_bookmarks |= !listing;
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

    /// A watch brought a word, or the server ended it in its time.
    fn is_alive(&mut self) {
        self.was_silent = false;
        self.contact.heard(T::KIND);
        self.contact.goes_on(T::KIND);
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
        self.was_silent = false;
        self.failed_streams = self.failed_streams.map(|_| 0);
        self.position = Position::After(version);
        self.contact.listed(T::KIND);
    }

    async fn open(
        &self,
        connection: &Connection,
        request: http::Request<Vec<u8>>,
    ) -> Result<impl AsyncBufRead + use<T>, Failure> {
        let within = self.pace().answer;
        timeout(within, answer::stream(&connection.client, request))
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

/// The next bytes, none at the end; `None`: there are none before the deadline.
async fn read<R: AsyncBufRead + Unpin>(
    body: &mut R,
    deadline: Instant,
) -> Result<Option<&[u8]>, Failure> {
    match timeout_at(deadline, body.fill_buf()).await {
        Ok(result) => Ok(Some(result?)),
        Err(_) => Ok(None),
    }
}
