//! Kubernetes objects → [`model`](crate::model). Total: a part that is wrong is left out and reported, the rest
//! of the object goes on.

mod address;
mod annotations;
mod endpoint_slice;
mod node;
mod service;
pub mod slow_start;

pub use address::{parse_ip, parse_range};
pub use endpoint_slice::{WEIGHT_ANNOTATION, endpoint_slice};
pub use node::node;
pub use service::{ALGORITHM_ANNOTATION, SLOW_START_ANNOTATION, service};

use crate::{
    model::{ObjectRef, Problem},
    text,
};

/// The outcome of a conversion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted<T> {
    /// What is left.
    pub value: T,
    /// What was left out.
    pub problems: Vec<Problem>,
}

/// Problems of one object that are told one by one.
const TOLD: usize = 20;

/// Collects the problems of one object.
struct Reporter {
    object: ObjectRef,
    problems: Vec<Problem>,
    more: usize,
}

impl Reporter {
    fn new(object: ObjectRef) -> Self {
        Self {
            object,
            problems: Vec::new(),
            more: 0,
        }
    }

    /// Tells a problem. What is quoted of the object may be of any length and hold anything.
    fn report(&mut self, message: impl AsRef<str>) {
        if self.problems.len() == TOLD {
            self.more += 1;
        } else {
            let message = text::plain(message.as_ref(), text::SENTENCE);
            self.add(message.into_owned());
        }
    }

    fn add(&mut self, message: String) {
        let object = self.object.clone();
        self.problems.push(Problem { object, message });
    }

    fn finish<T>(mut self, value: T) -> Converted<T> {
        if self.more > 0 {
            self.add(format!(
                "{} more faults of this object are not told one by one",
                self.more
            ));
        }
        Converted {
            value,
            problems: self.problems,
        }
    }
}

/// A port number, or `None` where it is not one.
fn port_number(n: i32) -> Option<u16> {
    u16::try_from(n).ok().filter(|n| *n != 0)
}

#[cfg(test)]
mod tests;
