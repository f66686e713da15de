//! The one element of `SETTINGS`: what all programs are told.

use std::{fs::File, io, io::Read as _, str::FromStr};

use proxy_common::{
    abi::{
        Pinned,
        settings::{MAX_SNAT_RANGES, PortRange, Settings, settings_flags},
    },
    hash,
};

use super::{
    open::{MapError, open},
    pin::PinFolder,
    sys::{map::Update, process},
};

/// Whose sockets are translated when they connect (`--socket-lb`). The node's own always are: no packet hook sees what
/// they send before it is routed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SocketLb {
    /// Sockets of the node and of pods.
    #[default]
    All,
    /// Like `all`, but pods' UDP is translated per packet.
    Tcp,
    /// Only the node's own sockets; pods' traffic is translated per packet.
    Host,
    /// The same as `host`.
    Off,
}

impl SocketLb {
    const fn flags(self) -> u32 {
        match self {
            Self::All => settings_flags::SOCKETS_PODS_TCP | settings_flags::SOCKETS_PODS_UDP,
            Self::Tcp => settings_flags::SOCKETS_PODS_TCP,
            Self::Host | Self::Off => 0,
        }
    }
}

/// Ports that sources are translated to (`--snat-ports`): `FIRST-LAST`, separated by commas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnatPorts([PortRange; MAX_SNAT_RANGES]);

/// Ranges of ports that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnatPortsError {
    /// Not `FIRST-LAST`.
    #[error("{0:?} is not a range of ports FIRST-LAST")]
    Form(String),
    /// Too many.
    #[error("there may be {MAX_SNAT_RANGES} ranges of ports at most")]
    TooMany,
    /// None.
    #[error("there must be a range of ports")]
    None,
    /// Two share a port.
    #[error("ranges {0} and {1} share ports")]
    Overlap(String, String),
}

impl FromStr for SnatPorts {
    type Err = SnatPortsError;

    fn from_str(text: &str) -> Result<Self, SnatPortsError> {
        let mut ranges = [PortRange::default(); MAX_SNAT_RANGES];
        let mut seen: Vec<(&str, PortRange)> = Vec::new();
        for word in text
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
        {
            let range = parse_range(word).ok_or_else(|| SnatPortsError::Form(word.to_owned()))?;
            if let Some((other, _)) = seen.iter().find(|(_, other)| overlap(*other, range)) {
                return Err(SnatPortsError::Overlap(
                    (*other).to_owned(),
                    word.to_owned(),
                ));
            }
            *ranges.get_mut(seen.len()).ok_or(SnatPortsError::TooMany)? = range;
            seen.push((word, range));
        }
        if seen.is_empty() {
            return Err(SnatPortsError::None);
        }
        Ok(Self(ranges))
    }
}

/// `FIRST-LAST`, both between 1 and 65535.
pub fn parse_range(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once('-')?;
    let range = PortRange {
        first: first.trim().parse().ok()?,
        last: last.trim().parse().ok()?,
    };
    (range.first > 0 && range.first <= range.last).then_some(range)
}

const fn overlap(a: PortRange, b: PortRange) -> bool {
    a.first <= b.last && b.first <= a.last
}

impl SnatPorts {
    /// The range that shares ports with `other`, if one does.
    pub fn overlapping(&self, other: PortRange) -> Option<PortRange> {
        self.used().find(|range| overlap(*range, other))
    }

    /// The last range: that of hairpin flows ([`Settings::hairpin_ports`]).
    fn hairpin(&self) -> PortRange {
        self.used().last().unwrap_or_default()
    }

    /// The widest range that is not that of hairpin flows, if there is one: for ports that netfilter chooses. It does not know
    /// of hairpin flows, and what a pod sends to their ports of this node is taken for their replies.
    pub fn masquerade(&self) -> Option<PortRange> {
        let hairpin = self.hairpin();
        self.used()
            .filter(|range| *range != hairpin)
            .max_by_key(|range| range.size())
    }

    fn used(&self) -> impl Iterator<Item = PortRange> {
        self.0.into_iter().filter(|range| range.last != 0)
    }
}

/// A bit of the packet mark, by which rules of netfilter know packets (`--fwmark-bit`, `--masquerade-bit`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkBit(u8);

impl MarkBit {
    /// A bit, 0 to 31, other than the two that rules of Kubernetes act upon.
    pub fn from_bit(bit: u8) -> Result<Self, MarkBitError> {
        match bit {
            14 | 15 => Err(MarkBitError::Kubernetes(bit)),
            0..32 => Ok(Self(bit)),
            _ => Err(MarkBitError::Range(bit)),
        }
    }

    /// The mark, and its mask.
    pub const fn value(self) -> u32 {
        1 << self.0
    }
}

impl FromStr for MarkBit {
    type Err = MarkBitError;

    fn from_str(text: &str) -> Result<Self, MarkBitError> {
        let bit = text.trim().parse();
        Self::from_bit(bit.map_err(|_| MarkBitError::Form(text.to_owned()))?)
    }
}

/// A bit of the packet mark that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MarkBitError {
    /// No number.
    #[error("{0:?} is not the number of a bit, 0 to 31")]
    Form(String),
    /// No bit of 32.
    #[error("a packet mark has the bits 0 to 31, not {0}")]
    Range(u8),
    /// 0x4000 is masqueraded, 0x8000 dropped, by rules that the kubelet and kube-proxy may have left.
    #[error("bit {0} of the packet mark is Kubernetes' own: rules masquerade or drop what has it")]
    Kubernetes(u8),
}

/// Why the settings could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The map.
    #[error(transparent)]
    Open(#[from] MapError),
    /// Reading or writing its element.
    #[error("could not {action} the map SETTINGS")]
    Map {
        /// What was tried.
        action: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No random numbers.
    #[error("could not read random numbers from /dev/urandom")]
    Random(#[source] io::Error),
}

/// What the command line says of them.
#[derive(Clone, Debug)]
pub struct SettingsConfig {
    /// Whose sockets are translated.
    pub socket_lb: SocketLb,
    /// Whether TCP connections to deleted backends end.
    pub end_tcp: bool,
    /// Ports that sources are translated to.
    pub snat_ports: SnatPorts,
    /// What translated packets are marked with.
    pub forward_mark: MarkBit,
    /// What those are marked with besides that are to be masqueraded; `None`: none are.
    pub masquerade_mark: Option<MarkBit>,
    /// What the hash of Maglev is seeded with, the same on all nodes.
    pub maglev_seed: String,
}

/// Writes the settings. The secret of an earlier run is kept, so that unconfirmed flows keep their backends.
pub fn write(pins: &PinFolder, config: &SettingsConfig, hz: u32) -> Result<(), SettingsError> {
    let map = open(pins, Pinned::SETTINGS)?;
    let failed = |action| move |source| SettingsError::Map { action, source };
    let before = map.lookup(&0).map_err(failed("read"))?.unwrap_or_default();
    let host_netns_cookie = process::netns_cookie().unwrap_or_else(|error| {
        tracing::warn!(
            %error,
            "the kernel does not name network namespaces (Linux 5.14): the node's own sockets are treated as pods'"
        );
        0
    });
    let settings = Settings {
        host_netns_cookie,
        hash_key: if before.hash_key == [0; 2] {
            random()?
        } else {
            before.hash_key
        },
        hz,
        flags: config.socket_lb.flags()
            | if config.end_tcp {
                settings_flags::END_TCP
            } else {
                0
            },
        snat_ports: config.snat_ports.0,
        hairpin_ports: config.snat_ports.hairpin(),
        mark: config.forward_mark.value(),
        maglev_seed: seed(&config.maglev_seed),
        masquerade_mark: config.masquerade_mark.map_or(0, MarkBit::value),
    };
    map.update(&0, &settings, Update::Any)
        .map_err(failed("write"))
}

/// A number that follows from a text, the same on every node.
fn seed(text: &str) -> u32 {
    let words = text.as_bytes().chunks(4).map(|chunk| {
        let bytes = chunk.iter().enumerate();
        bytes.fold(0, |word, (i, byte)| word | u32::from(*byte) << (8 * i))
    });
    hash::finish(words.fold(text.len() as u32, hash::mix))
}

fn random() -> Result<[u32; 2], SettingsError> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(SettingsError::Random)?;
    let number = u64::from_ne_bytes(bytes);
    Ok([number as u32, (number >> 32) as u32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_of_the_mark_is_one_that_kubernetes_leaves_alone() {
        assert_eq!("6".parse().map(MarkBit::value), Ok(0x40));
        assert_eq!("31".parse().map(MarkBit::value), Ok(0x8000_0000));
        for (text, error) in [
            ("0x40", MarkBitError::Form("0x40".into())),
            ("32", MarkBitError::Range(32)),
            ("14", MarkBitError::Kubernetes(14)),
            ("15", MarkBitError::Kubernetes(15)),
        ] {
            assert_eq!(text.parse::<MarkBit>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn l1_a_seed_follows_from_its_text() {
        // Nodes that run different versions must agree.
        assert_eq!(seed("blue"), 405_048_348);
        assert_ne!(seed("blue"), seed("green"));
        assert_ne!(seed(""), seed("\0"));
    }

    #[test]
    fn a2_masqueraded_ports_are_not_those_of_hairpin_flows() {
        for (text, masquerade, hairpin) in [
            ("1024-29999,61000-65535", Some("1024-29999"), "61000-65535"),
            (
                "50000-50009,61000-62000",
                Some("50000-50009"),
                "61000-62000",
            ),
            ("1-5,10-19,20-29,40-90", Some("20-29"), "40-90"),
            ("1024-29999", None, "1024-29999"),
        ] {
            let ports: SnatPorts = text.parse().unwrap();
            assert_eq!(
                ports.masquerade(),
                masquerade.and_then(parse_range),
                "{text}"
            );
            assert_eq!(Some(ports.hairpin()), parse_range(hairpin), "{text}");
        }
    }

    #[test]
    fn ranges_are_read_and_checked() {
        let ports: SnatPorts = "1024-29999, 61000-65535".parse().unwrap();
        assert_eq!(ports.used().count(), 2);
        assert_eq!(
            ports.overlapping(PortRange {
                first: 30000,
                last: 32767
            }),
            None
        );
        assert!(
            ports
                .overlapping(PortRange {
                    first: 29999,
                    last: 32767
                })
                .is_some()
        );
        for (text, error) in [
            ("", SnatPortsError::None),
            ("7", SnatPortsError::Form("7".into())),
            ("9-7", SnatPortsError::Form("9-7".into())),
            ("0-7", SnatPortsError::Form("0-7".into())),
            (
                "1-5,4-9",
                SnatPortsError::Overlap("1-5".into(), "4-9".into()),
            ),
            ("1-2,3-4,5-6,7-8,9-10", SnatPortsError::TooMany),
        ] {
            assert_eq!(text.parse::<SnatPorts>(), Err(error), "{text:?}");
        }
    }
}
