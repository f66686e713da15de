//! One client for all, made anew when it no longer serves.

use std::cell::RefCell;

use kube::Client;

use super::{
    access::{Access, AccessError},
    pace::Pace,
};
use crate::telemetry::chain;

/// Hands out clients.
#[derive(Debug)]
pub(super) struct Connector {
    access: Access,
    pace: Pace,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    attempt: usize,
}

/// A client, and what it talks to.
#[derive(Clone)]
pub(super) struct Connection {
    /// The client.
    pub client: Client,
    /// The address.
    pub server: String,
    attempt: usize,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("a client of {server} can't be made")]
    Client {
        server: String,
        #[source]
        source: Box<kube::Error>,
    },
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

impl Connector {
    pub(super) fn new(access: Access, pace: Pace) -> Self {
        Self {
            access,
            pace,
            state: RefCell::default(),
        }
    }

    /// How long things may take.
    pub(super) const fn pace(&self) -> &Pace {
        &self.pace
    }

    /// The client. It is made within a runtime.
    pub(super) fn connection(&self) -> Result<Connection, ConnectError> {
        let mut state = self.state.borrow_mut();
        if let Some(connection) = &state.connection {
            return Ok(connection.clone());
        }
        let attempt = state.attempt;
        let made = self.connect(attempt);
        match &made {
            Ok(connection) => state.connection = Some(connection.clone()),
            Err(error) => {
                tracing::debug!(error = chain(error), "no client");
                state.attempt += 1;
            }
        }
        made
    }

    /// The connection did not serve: files are read again and the next address is tried. Does nothing if that was done already.
    pub(super) fn renew(&self, failed: &Connection) {
        let mut state = self.state.borrow_mut();
        if state.attempt == failed.attempt {
            state.connection = None;
            state.attempt += 1;
        }
    }

    fn connect(&self, attempt: usize) -> Result<Connection, ConnectError> {
        let config = self.access.config(attempt, &self.pace)?;
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config).map_err(|source| ConnectError::Client {
            server: server.clone(),
            source: source.into(),
        })?;
        Ok(Connection {
            client,
            server,
            attempt,
        })
    }
}
