//! Bad input is reported with the name of the object or file, and affects nothing else: served traffic
//! stays served, and later changes are read (ADR 13, 14).

mod hostile;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use proxy_lab::objects::{Endpoint, Service, Slice};
use proxy_lab::{
    Agent, AgentOptions, Family, Folder, Lab, PodSpec, Protocol, Result, TcpRequest, address,
    eventually, skipped,
};
use serde_json::{Value, json};

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
const METRICS: u16 = 10_249;
/// From a change of the folder to the message, or to the traffic that follows it.
const FOLLOWED: Duration = Duration::from_secs(5);

/// worker-1 with an agent that serves the Service `good`.
struct Setup {
    lab: Lab,
    source: Folder,
    agent: Agent,
    /// Number of the next Service that shows that the agent still reads changes.
    shown: std::cell::Cell<u16>,
}

impl Setup {
    fn new(label: &str) -> Result<Option<Self>> {
        Self::beside(label, |_| Ok(()))
    }

    /// With something in the folder before the agent starts.
    fn beside(label: &str, put: impl FnOnce(&Folder) -> Result<()>) -> Result<Option<Self>> {
        if skipped() {
            return Ok(None);
        }
        let lab = Lab::builder(label)
            .node("worker-1")
            .pods("worker-1", ["client", "server", "other"])
            .pod(PodSpec::new("packets", "worker-1").not_covered_by_sockets())
            .up()?;
        for pod in ["server", "other"] {
            lab.pod(pod).serve(TARGET_PORT)?;
        }
        let source = lab.source()?;
        let good = Service::new("good")
            .cluster_ips(address::cluster_ip(1))
            .both(PORT);
        for family in Family::ALL {
            source.put(good.slice_of(family, TARGET_PORT, [lab.pod("server")]))?;
        }
        source.put(good)?;
        put(&source)?;
        let agent = lab
            .node("worker-1")
            .spawn_agent(&AgentOptions::files(source.path()))?;
        Ok(Some(Self {
            lab,
            source,
            agent,
            shown: 100.into(),
        }))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.agent.log()).expect("there is a log")
    }

    /// Waits for a line of the log that has all these words.
    fn told(&self, words: &[&str]) -> Result<()> {
        let told = || {
            self.log()
                .lines()
                .any(|line| words.iter().all(|word| line.contains(word)))
        };
        let result = eventually(&format!("the log tells of {words:?}"), FOLLOWED, || {
            Ok(told())
        });
        if result.is_err() {
            eprintln!("the log:\n{}", self.log());
        }
        result.map(drop)
    }

    /// Problems that were counted, by kind.
    fn counted(&self, kind: &str) -> Result<Option<f64>> {
        let at = ([127, 0, 0, 1], METRICS).into();
        let metrics = self.lab.node("worker-1").http(at, "/metrics")?;
        let metrics = metrics.expect("the agent answers");
        let sample = metrics.sample(&format!("proxy_problems_total{{kind=\"{kind}\"}}"));
        Ok(sample)
    }

    fn answers(&self, client: &str, to: SocketAddr) -> Result<Option<String>> {
        let request = TcpRequest::to(to).timeout(Duration::from_millis(500));
        let exchanges = self.lab.pod(client).tcp_all(request)?;
        Ok(exchanges[0].server().map(str::to_owned))
    }

    /// The Service `good` is served, by sockets and by packets, over both families.
    fn serves(&self, when: &str) -> Result<()> {
        for family in Family::ALL {
            for client in ["client", "packets"] {
                let answer = self.answers(client, cluster_ip(1, family))?;
                assert_eq!(
                    answer.as_deref(),
                    Some("server"),
                    "{when}: {client}, {family}"
                );
            }
        }
        Ok(())
    }

    /// A Service that is new is served soon.
    fn goes_on(&self, after: &str) -> Result<()> {
        let number = self.shown.get();
        self.shown.set(number + 1);
        let service = Service::new(&format!("next-{number}"))
            .cluster_ips(address::cluster_ip(number))
            .both(PORT);
        self.source
            .put(service.slice_of(Family::V4, TARGET_PORT, [self.lab.pod("other")]))?;
        self.source.put(service)?;
        self.comes_to(after, cluster_ip(number, Family::V4), Some("other"))?;
        self.serves(after)
    }

    /// Waits until this server answers at an address, or none.
    fn comes_to(&self, when: &str, to: SocketAddr, server: Option<&str>) -> Result<()> {
        let what = format!("{when}: {server:?} answers at {to}");
        eventually(&what, FOLLOWED, || {
            Ok(self.answers("client", to)?.as_deref() == server)
        })?;
        Ok(())
    }
}

fn cluster_ip(number: u16, family: Family) -> SocketAddr {
    (address::cluster_ip(number).of(family), PORT).into()
}

fn yaml(object: impl Into<Value>) -> String {
    format!("{:#}\n", object.into())
}

#[test]
fn files_that_cannot_be_read_are_told_and_passed_over() -> Result<()> {
    let Some(setup) = Setup::new("badfile")? else {
        return Ok(());
    };
    let write = |file: &str, text: &str| setup.source.write(file, text);

    write(
        "broken.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: [unclosed\n",
    )?;
    setup.told(&["WARN", "broken.yaml", "document 1"])?;
    setup.goes_on("broken YAML")?;

    write("tabs.yaml", "kind: Service\n\tmetadata: {}\n")?;
    setup.told(&["WARN", "tabs.yaml"])?;

    write(
        "wrong-type.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: http}\n",
    )?;
    setup.told(&["WARN", "wrong-type.yaml"])?;

    write(
        "nameless.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {}\n",
    )?;
    setup.told(&["WARN", "nameless.yaml", "metadata.name"])?;

    write("broken.json", "{\"kind\": \"Service\", ")?;
    setup.told(&["WARN", "broken.json"])?;

    std::fs::write(setup.source.path().join("binary.yaml"), [0xff, 0xfe, 0, 1])
        .expect("can be written");
    setup.told(&["WARN", "binary.yaml"])?;
    setup.goes_on("files of all sorts")?;

    // The documents around a broken one count.
    let service = Service::new("around")
        .cluster_ips(address::cluster_ip(2))
        .both(PORT);
    let slice = service.slice_of(Family::V4, TARGET_PORT, [setup.lab.pod("other")]);
    let text = [yaml(service), "kind: {]\n".to_owned(), yaml(slice)].join("---\n");
    write("around.yaml", &text)?;
    setup.told(&["WARN", "around.yaml", "document 2"])?;
    setup.comes_to("around", cluster_ip(2, Family::V4), Some("other"))?;

    // A file that becomes unreadable leaves in force what it gave.
    write("around.yaml", &text[..text.len() / 3])?;
    setup.told(&["WARN", "around.yaml", "document 1", "stay"])?;
    let still = setup.answers("client", cluster_ip(2, Family::V4))?;
    assert_eq!(
        still.as_deref(),
        Some("other"),
        "half of a file took a Service away"
    );

    // Deleting a file deletes its objects. These files had none.
    for file in ["around.yaml", "broken.yaml", "tabs.yaml", "binary.yaml"] {
        setup.source.remove_file(file)?;
    }
    setup.comes_to("removed", cluster_ip(2, Family::V4), None)?;
    setup.goes_on("files that are gone")
}

#[test]
fn objects_that_are_wrong_in_part_are_told_and_their_rest_counts() -> Result<()> {
    let Some(setup) = Setup::new("badpart")? else {
        return Ok(());
    };
    let raw = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec});
    let slices = |name: &str| {
        let service = Service::new(name).both(PORT);
        service.slice_of(Family::V4, TARGET_PORT, [setup.lab.pod("other")])
    };
    let tcp = |port: i64| json!({"name": "tcp", "protocol": "TCP", "port": port});

    // An address of two is none.
    let address = address::cluster_ip(10).v4.to_string();
    setup.source.put(slices("half-ip"))?;
    setup.source.put(raw(
        "half-ip",
        json!({"clusterIP": address, "clusterIPs": [address, "fd00::zz"], "ports": [tcp(80)],
               "externalIPs": ["198.51.100.999", "198.51.100.10"]}),
    ))?;
    setup.told(&["WARN", "Service default/half-ip", "fd00::zz"])?;
    setup.told(&["WARN", "Service default/half-ip", "198.51.100.999"])?;
    setup.comes_to(
        "the right ClusterIP",
        cluster_ip(10, Family::V4),
        Some("other"),
    )?;
    let external = (address::external_ip(10).v4, PORT).into();
    setup.comes_to("the right external IP", external, Some("other"))?;

    // A port of two is none.
    let address = address::cluster_ip(11).v4.to_string();
    setup.source.put(slices("half-port"))?;
    setup.source.put(raw(
        "half-port",
        json!({"clusterIP": address, "clusterIPs": [address],
               "ports": [{"name": "bad", "protocol": "TCP", "port": 70_000}, tcp(80),
                         {"name": "odd", "protocol": "QUIC", "port": 443}]}),
    ))?;
    setup.told(&["WARN", "Service default/half-port", "70000"])?;
    setup.told(&["WARN", "Service default/half-port", "QUIC"])?;
    setup.comes_to("the right port", cluster_ip(11, Family::V4), Some("other"))?;

    // An endpoint and a port of two are none.
    let service = Service::new("half-slice")
        .cluster_ips(address::cluster_ip(12))
        .both(PORT);
    let mut slice = Value::from(slices("half-slice"));
    let endpoints = slice["endpoints"].as_array_mut().expect("an array");
    endpoints.push(json!({"addresses": ["10.244.1.999"]}));
    endpoints.push(json!({"addresses": []}));
    let ports = slice["ports"].as_array_mut().expect("an array");
    ports.push(json!({"name": "bad", "protocol": "TCP", "port": 99_999}));
    setup.source.put(slice)?;
    setup.source.put(service)?;
    setup.told(&[
        "WARN",
        "EndpointSlice default/half-slice-v4",
        "10.244.1.999",
    ])?;
    setup.told(&["WARN", "EndpointSlice default/half-slice-v4", "99999"])?;
    setup.comes_to(
        "the right endpoint",
        cluster_ip(12, Family::V4),
        Some("other"),
    )?;
    setup.goes_on("objects that are wrong in part")
}

#[test]
fn a_slice_without_its_service_is_told_and_waits_for_it() -> Result<()> {
    let Some(setup) = Setup::new("badslice")? else {
        return Ok(());
    };
    let service = Service::new("late")
        .cluster_ips(address::cluster_ip(20))
        .both(PORT);
    setup
        .source
        .put(service.slice_of(Family::V4, TARGET_PORT, [setup.lab.pod("other")]))?;
    setup.told(&["WARN", "EndpointSlice default/late-v4", "default/late"])?;
    setup.goes_on("a slice without its Service")?;
    setup.source.put(service.clone())?;
    setup.comes_to(
        "its Service came",
        cluster_ip(20, Family::V4),
        Some("other"),
    )?;
    setup.source.remove(service)?;
    setup.comes_to("its Service went", cluster_ip(20, Family::V4), None)?;

    let unlabelled = Slice::new("default", "nobody", Family::V4)
        .port("tcp", Protocol::Tcp, TARGET_PORT)
        .endpoint(Endpoint::at(setup.lab.pod("other").ip(Family::V4)));
    let mut unlabelled = Value::from(unlabelled);
    unlabelled["metadata"]["labels"] = json!({});
    setup.source.put(unlabelled)?;
    setup.told(&[
        "WARN",
        "EndpointSlice default/nobody-v4",
        "kubernetes.io/service-name",
    ])?;
    setup.goes_on("a slice of no Service")
}

#[test]
fn an_external_ip_that_two_claim_is_the_older_ones_until_that_goes() -> Result<()> {
    let Some(setup) = Setup::new("badtwice")? else {
        return Ok(());
    };
    let shared = address::external_ip(30);
    let to = (shared.v4, PORT).into();
    let claim = |name: &str, number, created, pod: &str| -> Result<Service> {
        let service = Service::new(name)
            .cluster_ips(address::cluster_ip(number))
            .both(PORT)
            .external_ip(shared.v4)
            .created(created);
        setup
            .source
            .put(service.slice_of(Family::V4, TARGET_PORT, [setup.lab.pod(pod)]))?;
        setup.source.put(service.clone())?;
        Ok(service)
    };
    let older = claim("zz-older", 30, "2026-01-01T00:00:00Z", "server")?;
    setup.comes_to("the first", to, Some("server"))?;
    claim("aa-younger", 31, "2026-02-01T00:00:00Z", "other")?;
    setup.told(&[
        "WARN",
        "Service default/aa-younger",
        "198.51.100.30",
        "default/zz-older",
    ])?;
    setup.goes_on("an external IP that two claim")?;
    assert_eq!(
        setup.answers("client", to)?.as_deref(),
        Some("server"),
        "the younger took it"
    );
    // The loser's other addresses are its own.
    setup.comes_to(
        "the loser's ClusterIP",
        cluster_ip(31, Family::V4),
        Some("other"),
    )?;
    setup.source.remove(older)?;
    setup.comes_to("the younger takes over", to, Some("other"))?;
    setup.goes_on("one that was let go")
}

#[test]
fn a_folder_that_vanishes_leaves_everything_in_force_until_it_is_back() -> Result<()> {
    let Some(setup) = Setup::new("badfold")? else {
        return Ok(());
    };
    let folder = setup.source.path().to_owned();
    let away = folder.with_file_name("away");
    let rename = |from: &Path, to: &Path| std::fs::rename(from, to).expect("can be renamed");
    for round in 1..=2 {
        rename(&folder, &away);
        setup.told(&[
            "WARN",
            folder.to_str().expect("a plain path"),
            "can't be read",
        ])?;
        std::thread::sleep(Duration::from_secs(1));
        setup.serves("the folder is gone")?;
        if round == 2 {
            // A new folder of the same name, which is filled bit by bit.
            std::fs::create_dir(&folder).expect("can be created");
            std::thread::sleep(Duration::from_millis(50));
            for entry in std::fs::read_dir(&away).expect("is there").flatten() {
                let target = folder.join(entry.file_name());
                std::fs::copy(entry.path(), target).expect("can be copied");
                setup.serves("the folder is being filled")?;
            }
            std::fs::remove_dir_all(&away).expect("can be removed");
        } else {
            rename(&away, &folder);
        }
        setup.serves("the folder is back")?;
        setup.goes_on("the folder is back")?;
    }
    Ok(())
}
