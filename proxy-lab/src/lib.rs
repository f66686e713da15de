#![doc = include_str!("../README.md")]

pub mod address;
mod agent;
mod bpffs;
mod cgroup;
mod command;
mod error;
mod folder;
mod host;
mod host_binary;
pub mod inside;
mod lab;
mod naming;
pub mod netns;
mod node;
pub mod objects;
pub mod protocol;
mod spec;
pub mod sweep;
mod wiring;

pub use address::Family;
pub use agent::{Agent, AgentOptions, agent_binary, agent_command};
pub use error::{LabError, Result};
pub use folder::Folder;
pub use host::{Hold, Host, Probe, Server, UdpSocket};
pub use lab::{Lab, Pod, skip_reason};
pub use naming::Owner;
pub use node::Node;
pub use protocol::{Exchange, ProbeRequest, Protocol, TcpRequest, UdpRequest};
pub use spec::{Cni, LabBuilder, NodeSpec, PodSpec, RpFilter};
