//! `plan`: what would be programmed on a node, without touching it.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    net::IpAddr,
};

use anyhow::Context as _;

use crate::{
    config::{RuleArgs, Rules},
    model::{Node, ObjectRef, Problem},
    plan::{FrontendAddress, ServicePlan},
    planner::Planner,
    report::Report,
    text,
};

/// Flags of `plan`.
#[derive(Clone, Debug, clap::Args)]
pub struct PlanArgs {
    /// What the rules depend on.
    #[command(flatten)]
    pub rules: RuleArgs,

    /// Address of the node; may be repeated. Default: the addresses of its Node object.
    #[arg(
        long,
        env = "PROXY_NODE_ADDRESS",
        value_name = "IP",
        value_delimiter = ','
    )]
    pub node_address: Vec<IpAddr>,

    /// Output format.
    #[arg(short, long, env = "PROXY_OUTPUT", value_enum, default_value_t)]
    output: Output,
}

/// Form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Columns, for people.
    #[default]
    Table,
    /// JSON, for tools.
    Json,
}

/// Prints the plan.
pub fn run(args: PlanArgs) -> anyhow::Result<()> {
    let output = args.output;
    output.print(&args.report()?)
}

impl PlanArgs {
    /// Makes the plan.
    pub fn report(self) -> anyhow::Result<Report> {
        let Self {
            rules,
            node_address,
            output: _,
        } = self;
        report(rules.check()?, &node_address)
    }
}

impl Output {
    /// Writes a report to the standard output.
    pub fn print(self, report: &Report) -> anyhow::Result<()> {
        let text = match self {
            Self::Table => report.to_string(),
            Self::Json => text::plain_json(&report.to_json()?).into_owned() + "\n",
        };
        print_text(&text)
    }
}

/// Writes text to the standard output.
pub fn print_text(text: &str) -> anyhow::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("can't write to the standard output"),
    }
}

/// Plans what a source says now.
fn report(rules: Rules, given: &[IpAddr]) -> anyhow::Result<Report> {
    let update = rules.source.read()?;
    let node_name = rules.planner.node_name.clone();
    let mut planner = Planner::new(rules.planner);
    for event in update.events {
        // What it finds is asked for below, all of it.
        planner.apply(event);
    }
    let mut warnings = update.problems;
    let (addresses, primary) = addresses(given, planner.node());
    let node_port_addresses: Vec<IpAddr> = addresses
        .iter()
        .filter(|address| rules.node_port_addresses.selects(**address, &primary))
        .copied()
        .collect();
    let unknown = addresses.is_empty();
    planner.set_node_addresses(addresses);
    warnings.extend(planner.problems());
    let plans = planner.plan_all();
    if unknown && plans.values().any(has_node_port) {
        warnings.push(Problem {
            object: ObjectRef::plain("Node", &node_name),
            message: "no address of it is known, so node ports are not listed; add its Node object to the source or give --node-address".to_owned(),
        });
    }
    Ok(Report::new(
        node_name,
        &plans,
        &node_port_addresses,
        warnings,
    ))
}

/// The addresses of the node, those of its object if none are given; and the first of each family.
pub fn addresses(given: &[IpAddr], node: Option<&Node>) -> (BTreeSet<IpAddr>, Vec<IpAddr>) {
    let given: Vec<IpAddr> = given.iter().map(IpAddr::to_canonical).collect();
    let primary = node.map_or_else(
        || first_of_each_family(&given),
        |node| node.primary_addresses().collect(),
    );
    let listed = node.filter(|_| given.is_empty());
    let listed = listed.into_iter().flat_map(|node| &node.addresses);
    let addresses = given.iter().chain(listed).copied().collect();
    (addresses, primary)
}

fn first_of_each_family(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first = |v4| addresses.iter().find(|ip| ip.is_ipv4() == v4);
    first(true)
        .into_iter()
        .chain(first(false))
        .copied()
        .collect()
}

fn has_node_port(plan: &ServicePlan) -> bool {
    let mut addresses = plan.frontends.iter().map(|frontend| frontend.address);
    addresses.any(|address| matches!(address, FrontendAddress::Node(_)))
}
