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

use crate::model::{ObjectRef, Problem};

/// The outcome of a conversion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted<T> {
    /// What is left.
    pub value: T,
    /// What was left out.
    pub problems: Vec<Problem>,
}

/// Collects the problems of one object.
struct Reporter {
    object: ObjectRef,
    problems: Vec<Problem>,
}

impl Reporter {
    fn new(object: ObjectRef) -> Self {
        Self {
            object,
            problems: Vec::new(),
        }
    }

    fn report(&mut self, message: impl Into<String>) {
        self.problems.push(Problem {
            object: self.object.clone(),
            message: message.into(),
        });
    }

    fn finish<T>(self, value: T) -> Converted<T> {
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
