//! From an API write to traffic: an `EndpointSlice` that names one pod names another, and a client asks until that one
//! answers.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use proxy_lab::{
    ControlPlane, KubeProxy, KubeProxyMode, Lab, LabError, Memory, Result, TcpRequest,
};

use crate::cluster::{self, NODE, SERVERS};
use crate::figures::{Times, cpu_time, megabytes, milliseconds};

/// Services that are changed, in turns.
const CHANGED: usize = 16;
/// When a change that has not arrived is given up.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between changes: kube-proxy writes its rules once a second at most, which is not to be measured.
const KUBE_PROXYS_PAUSE: Duration = Duration::from_millis(1100);
const OUR_PAUSE: Duration = Duration::from_millis(50);

/// Prints a table for each number of Services.
pub fn run(changes: usize, services: &[usize]) -> Result<()> {
    for &count in services {
        let lab = cluster::lab("latency")?;
        let control_plane = cluster::control_plane(&lab)?;
        let others = count.saturating_sub(CHANGED);
        let took = cluster::create(control_plane, &lab, "other", others, &SERVERS[..3])?;
        cluster::create(control_plane, &lab, "changed", CHANGED, &SERVERS[..1])?;
        eprintln!("{count} Services were written in {took:?}");
        let targets = (0..CHANGED).map(|number| cluster::address(control_plane, "changed", number));
        let mut bench = Bench {
            lab: &lab,
            control_plane,
            targets: targets.collect::<Result<_>>()?,
            serving: [0; CHANGED],
        };
        println!(
            "\n{count} Services, {changes} changes; times in ms from the moment the write is sent\n"
        );
        println!(
            "| proxy | start s | write p50 | traffic p50 | p99 | max | CPU ms a change | RSS MB | of it its own |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
        bench.ours(changes)?;
        bench.kube_proxys(changes, KubeProxyMode::Iptables)?;
        bench.kube_proxys(changes, KubeProxyMode::Nftables)?;
    }
    Ok(())
}

struct Bench<'a> {
    lab: &'a Lab,
    control_plane: &'a ControlPlane,
    targets: Vec<SocketAddr>,
    /// Which server each changed Service has.
    serving: [usize; CHANGED],
}

/// What was measured of one proxy.
struct Row {
    start: Duration,
    writes: Times,
    traffic: Times,
    cpu: Duration,
    memory: Option<Memory>,
}

impl Bench<'_> {
    fn ours(&mut self, changes: usize) -> Result<()> {
        let (agent, start) = cluster::agent(self.lab, self.control_plane)?;
        let before = cpu_time(agent.pid());
        let (writes, traffic) = self.changes(changes, OUR_PAUSE)?;
        let cpu = cpu_time(agent.pid()).saturating_sub(before);
        let memory = Memory::of(agent.pid());
        print(
            "kube-proxy-ebpf",
            changes,
            &Row {
                start,
                writes,
                traffic,
                cpu,
                memory,
            },
        );
        let node = self.lab.node(NODE);
        agent.terminate()?;
        let pins = node.bpffs().display().to_string();
        proxy_lab::agent_command(node, ["cleanup", "--bpffs", &pins]).map(drop)
    }

    fn kube_proxys(&mut self, changes: usize, mode: KubeProxyMode) -> Result<()> {
        let start = Instant::now();
        let proxy = KubeProxy::start(self.control_plane, self.lab.node(NODE), mode)?;
        let start = start.elapsed();
        let before = proxy.cpu_time().unwrap_or_default();
        let (writes, traffic) = self.changes(changes, KUBE_PROXYS_PAUSE)?;
        let cpu = proxy.cpu_time().unwrap_or_default().saturating_sub(before);
        let memory = proxy.memory();
        let name = format!("kube-proxy, {}", mode.name());
        print(
            &name,
            changes,
            &Row {
                start,
                writes,
                traffic,
                cpu,
                memory,
            },
        );
        proxy.stop()
    }

    /// Changes Services in turns; how long each write took, and until the client met the new server.
    fn changes(&mut self, count: usize, pause: Duration) -> Result<(Times, Times)> {
        let (mut writes, mut traffic) = (Vec::new(), Vec::new());
        // The first change of each kind does one-time work and is not counted.
        for change in 0..count + CHANGED {
            thread::sleep(pause);
            let number = change % CHANGED;
            let (write, arrived) = self.change(number)?;
            if change >= CHANGED {
                writes.push(write);
                traffic.push(arrived);
            }
        }
        Ok((Times::new(writes), Times::new(traffic)))
    }

    fn change(&mut self, number: usize) -> Result<(Duration, Duration)> {
        let next = (self.serving[number] + 1) % SERVERS.len();
        let slice = cluster::slice(self.lab, "changed", number, &[SERVERS[next]]);
        let client = self.lab.pod("client");
        let request = TcpRequest::to(self.targets[number]).timeout(Duration::from_secs(2));
        let start = Instant::now();
        let write = thread::scope(|scope| {
            let writing = scope.spawn(|| {
                self.control_plane.api().put(slice)?;
                Ok(start.elapsed())
            });
            loop {
                let answers = client.tcp_all(request.clone())?;
                let arrived = start.elapsed();
                if answers
                    .iter()
                    .any(|answer| answer.server() == Some(SERVERS[next]))
                {
                    let write = writing
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                    return write.map(|write| (write, arrived));
                }
                if arrived > PATIENCE {
                    return Err(LabError::NotInTime {
                        what: format!("a change of Service {number} in traffic"),
                        within: PATIENCE,
                    });
                }
            }
        })?;
        self.serving[number] = next;
        Ok(write)
    }
}

fn print(name: &str, changes: usize, row: &Row) {
    let all = changes + CHANGED;
    let [resident, own] = row.memory.map_or([f64::NAN; 2], |memory| {
        [memory.resident, memory.anonymous].map(megabytes)
    });
    println!(
        "| {name} | {:.1} | {} | {} | {} | {} | {:.1} | {resident:.0} | {own:.0} |",
        row.start.as_secs_f64(),
        milliseconds(row.writes.percentile(50)),
        milliseconds(row.traffic.percentile(50)),
        milliseconds(row.traffic.percentile(99)),
        milliseconds(row.traffic.most()),
        row.cpu.as_secs_f64() * 1000.0 / f64::from(u32::try_from(all).unwrap_or(u32::MAX)),
    );
}
