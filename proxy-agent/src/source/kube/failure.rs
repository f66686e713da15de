//! Why a list or a watch ended before its time, and what to do about it.

use std::time::Duration;

use kube::core::Status;

use super::{body::TooLarge, connector::ConnectError};
use crate::source::pulse::Restart;

const UNAUTHORIZED: u16 = 401;
const BAD_REQUEST: u16 = 400;
const FORBIDDEN: u16 = 403;
/// Something of that name is there already.
pub(super) const CONFLICT: u16 = 409;
const GONE: u16 = 410;
const UNPROCESSABLE: u16 = 422;
const TOO_MANY_REQUESTS: u16 = 429;
const INTERNAL_ERROR: u16 = 500;
const GATEWAY_TIMEOUT: u16 = 504;

/// A list or watch that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// There is no client.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A selector is wrong.
    #[error("the request can't be made")]
    Request(#[from] kube::core::request::Error),
    /// The server refused, or was not reached.
    #[error(transparent)]
    Refused(kube::Error),
    /// It does not begin to answer.
    #[error("no answer within {0:?}")]
    NoAnswer(Duration),
    /// The answer was cut.
    #[error("the answer broke off")]
    Broken(#[from] std::io::Error),
    /// The answer ended before it was complete.
    #[error("the answer ended too soon")]
    Unfinished,
    /// The server ended the watch long before its time.
    #[error("the server closed the watch soon after it began")]
    ClosedEarly,
    /// The answer is larger than any that could be of use.
    #[error("the answer is too large")]
    TooLarge(#[from] TooLarge),
    /// The answer stopped.
    #[error("nothing was heard for {0:?}")]
    Silent(Duration),
    /// A watch was silent for the first time. The server may have had nothing to say: only the next watch shows whether
    /// it is there.
    #[error("nothing was heard for {0:?}, for the first time")]
    Quiet(Duration),
    /// It is no answer of an API server.
    #[error("the answer can't be read: {0}")]
    Unreadable(String),
    /// The server ended the watch by an event.
    #[error("the server ended the watch: {0}")]
    Ended(Box<Status>),
    /// The reader of the updates is gone.
    #[error("nobody listens")]
    Closed,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// The same again, over a connection that is made anew.
    Reconnect,
    /// The same again.
    Repeat,
    /// The watch again, from where it was.
    Resume,
    /// List: the version that was come to is of no use any more.
    List,
    /// The server does not know the request in this form.
    AskOtherwise,
}

/// How much a failure says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// The server is not reached, or refuses: it is well again when it takes a request.
    Request,
    /// Its answers are of no use: it is well again when a watch goes on.
    Answer,
    /// It happens to healthy servers too, as long as it does not happen again and again.
    NowAndThen,
}

/// After a list that was too large, which costs the network much.
const AFTER_TOO_LARGE: Duration = Duration::from_mins(1);

impl Failure {
    /// The reason, for the metrics.
    pub(super) fn restart(&self) -> Restart {
        match self {
            Self::Refused(kube::Error::Api(status)) | Self::Ended(status) => match status.code {
                UNAUTHORIZED | FORBIDDEN => Restart::Forbidden,
                GONE => Restart::Gone,
                TOO_MANY_REQUESTS | INTERNAL_ERROR.. => Restart::Unavailable,
                _ => Restart::Refused,
            },
            Self::Connect(_) | Self::Request(_) | Self::Refused(_) => Restart::Refused,
            Self::NoAnswer(_) | Self::Silent(_) | Self::Quiet(_) => Restart::Timeout,
            Self::Broken(_) | Self::Unfinished | Self::ClosedEarly | Self::Closed => {
                Restart::Closed
            }
            Self::Unreadable(_) => Restart::Garbage,
            Self::TooLarge(_) => Restart::TooLarge,
        }
    }

    /// How much it says.
    pub(super) fn severity(&self) -> Severity {
        match self {
            Self::Unreadable(_) | Self::Silent(_) | Self::TooLarge(_) => Severity::Answer,
            Self::Broken(_)
            | Self::Unfinished
            | Self::ClosedEarly
            | Self::Ended(_)
            | Self::Quiet(_) => Severity::NowAndThen,
            Self::Refused(kube::Error::Api(status)) if status.code == GONE => Severity::NowAndThen,
            Self::Connect(_)
            | Self::Request(_)
            | Self::Refused(_)
            | Self::NoAnswer(_)
            | Self::Closed => Severity::Request,
        }
    }

    /// What to do about it.
    pub(super) fn remedy(&self) -> Remedy {
        match self {
            Self::Refused(kube::Error::Api(status)) => match status.code {
                BAD_REQUEST | UNPROCESSABLE => Remedy::AskOtherwise,
                GONE => Remedy::List,
                UNAUTHORIZED => Remedy::Reconnect,
                // Its data is older than what was asked for.
                GATEWAY_TIMEOUT if is_too_large(status) => Remedy::List,
                _ => Remedy::Repeat,
            },
            Self::Refused(_) | Self::NoAnswer(_) | Self::Connect(_) => Remedy::Reconnect,
            Self::Broken(_)
            | Self::Unfinished
            | Self::Silent(_)
            | Self::Quiet(_)
            | Self::ClosedEarly => Remedy::Resume,
            Self::Ended(_) | Self::Unreadable(_) | Self::TooLarge(_) => Remedy::List,
            Self::Request(_) | Self::Closed => Remedy::Repeat,
        }
    }

    /// Whether a list may fail in this way because the server, or a proxy in between, can't stream it.
    pub(super) const fn is_of_streaming(&self) -> bool {
        !matches!(
            self,
            Self::Connect(_) | Self::Request(_) | Self::Refused(_) | Self::Closed
        )
    }

    /// How long the server asks to be left alone.
    pub(super) fn retry_after(&self) -> Duration {
        let details = match self {
            Self::TooLarge(_) => return AFTER_TOO_LARGE,
            Self::Refused(kube::Error::Api(status)) => status.details.as_ref(),
            _ => None,
        };
        let seconds = details.map_or(0, |details| details.retry_after_seconds);
        Duration::from_secs(seconds.into()).min(Duration::from_mins(1))
    }
}

fn is_too_large(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes
        .into_iter()
        .any(|cause| cause.reason == "ResourceVersionTooLarge")
}
