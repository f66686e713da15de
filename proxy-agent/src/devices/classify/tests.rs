//! The rule on the shapes of networks that are met.

use super::*;
