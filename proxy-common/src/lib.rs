#![doc = include_str!("../README.md")]
#![cfg_attr(not(any(test, feature = "host")), no_std)]
#![forbid(unsafe_code)]

pub mod abi;
pub mod addr;
pub mod affinity;
pub mod balance;
pub mod checksum;
pub mod crc32c;
pub mod datapath;
pub mod flow_timeout;
pub mod hash;
#[cfg(feature = "host")]
pub mod host;
pub mod load;
pub mod packet;
pub mod parse;
pub mod slow_start;
pub mod socket;
pub mod tables;
