//! What a lab shall look like.

/// How a node connects its pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cni {
    /// A veth for each pod with a host route, as the ptp plugin and kindnet do.
    #[default]
    Ptp,
    /// The same, and the veth has the gateway's address with the prefix of all the node's pods.
    PtpSubnet,
    /// A veth for each pod with a host route and no address; the pods' gateway is 169.254.1.1, for which the node
    /// answers by proxy ARP, and the veth's link-local address, as with Calico.
    Calico,
    /// The bridge `cni0`, as the bridge plugin and flannel do.
    Bridge {
        /// Hairpin mode of the ports: a frame may leave by the port that it came in by.
        hairpin: bool,
        /// Bridged packets pass netfilter (`net.bridge.bridge-nf-call-iptables` and `…-ip6tables`).
        nf_call_iptables: bool,
    },
}

impl Cni {
    /// A bridge as kubeadm wants it: hairpin mode, and bridged packets pass netfilter.
    pub const BRIDGE: Self = Self::Bridge {
        hairpin: true,
        nf_call_iptables: true,
    };
}

/// How packets get to other nodes' pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlay {
    /// None: by routes through the LAN.
    #[default]
    Direct,
    /// The device `flannel.1` of each node, as flannel makes it (here for both families at once).
    Vxlan,
    /// A device without Ethernet headers, as wireguard, ipip and gre have: a tun device, behind which `lab-host` sends
    /// packets on in UDP.
    Tun,
}

impl Overlay {
    /// Its device on each node.
    pub fn device(self) -> Option<&'static str> {
        match self {
            Self::Direct => None,
            Self::Vxlan => Some("flannel.1"),
            Self::Tun => Some("tun0"),
        }
    }

    /// The MTU of that device, and of pods.
    pub fn mtu(self) -> Option<u32> {
        match self {
            Self::Direct => None,
            Self::Vxlan => Some(1450),
            Self::Tun => Some(1420),
        }
    }
}

/// Reverse path filter of a node (RFC 3704), on all its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RpFilter {
    /// 0.
    Off,
    /// 1: packets must come in where answers would go out.
    #[default]
    Strict,
    /// 2: the source must be reachable somehow.
    Loose,
}

impl RpFilter {
    pub(crate) fn value(self) -> &'static str {
        match self {
            Self::Off => "0",
            Self::Strict => "1",
            Self::Loose => "2",
        }
    }
}

/// A node.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    pub(crate) name: String,
    pub(crate) cni: Cni,
    pub(crate) rp_filter: RpFilter,
}

impl NodeSpec {
    /// A node with ptp pods and a strict reverse path filter.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            cni: Cni::default(),
            rp_filter: RpFilter::default(),
        }
    }

    /// How it connects its pods.
    #[must_use]
    pub fn cni(self, cni: Cni) -> Self {
        Self { cni, ..self }
    }

    /// Its reverse path filter.
    #[must_use]
    pub fn rp_filter(self, rp_filter: RpFilter) -> Self {
        Self { rp_filter, ..self }
    }
}

impl From<&str> for NodeSpec {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

/// A pod.
#[derive(Debug, Clone)]
pub struct PodSpec {
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) covered: bool,
}

impl PodSpec {
    /// A pod on a node.
    pub fn new(name: impl Into<String>, node: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            node: node.into(),
            covered: true,
        }
    }

    /// Its sockets are outside of the node's cgroup, as those of a Kata or gVisor pod: only packet hooks see it.
    #[must_use]
    pub fn not_covered_by_sockets(self) -> Self {
        Self {
            covered: false,
            ..self
        }
    }
}

/// A lab to be. Finish with [`LabBuilder::up`].
#[derive(Debug, Clone)]
pub struct LabBuilder {
    pub(crate) label: String,
    pub(crate) control_plane: NodeSpec,
    pub(crate) workers: Vec<NodeSpec>,
    pub(crate) overlay: Overlay,
    pub(crate) pods: Vec<PodSpec>,
    pub(crate) xdp: bool,
}

impl LabBuilder {
    pub(crate) fn new(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            control_plane: NodeSpec::new("control-plane"),
            workers: Vec::new(),
            overlay: Overlay::default(),
            xdp: crate::wiring::xdp::from_environment().is_some(),
            pods: Vec::new(),
        }
    }

    /// Adds a worker. Workers count from 1 in the order of their adding.
    #[must_use]
    pub fn node(mut self, node: impl Into<NodeSpec>) -> Self {
        self.workers.push(node.into());
        self
    }

    /// Replaces the control-plane node (default: `control-plane`, like any other node, without pods).
    #[must_use]
    pub fn control_plane(mut self, node: impl Into<NodeSpec>) -> Self {
        self.control_plane = node.into();
        self
    }

    /// With a LAN on which XDP in drivers works as on hardware: hosts sum up what they send (`tx off`), and the switch takes
    /// what programs send out.
    #[must_use]
    pub fn fit_for_xdp(self) -> Self {
        Self { xdp: true, ..self }
    }

    /// How packets get to other nodes' pods.
    #[must_use]
    pub fn overlay(self, overlay: Overlay) -> Self {
        Self { overlay, ..self }
    }

    /// Adds a pod.
    #[must_use]
    pub fn pod(mut self, pod: PodSpec) -> Self {
        self.pods.push(pod);
        self
    }

    /// Adds pods to a node.
    #[must_use]
    pub fn pods<const N: usize>(mut self, node: &str, names: [&str; N]) -> Self {
        self.pods
            .extend(names.into_iter().map(|name| PodSpec::new(name, node)));
        self
    }
}
