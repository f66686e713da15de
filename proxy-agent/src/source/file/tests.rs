//! What a folder says, as its files come, change, break and go.

mod malformed;

use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{Receiver, error::TryRecvError};

use super::*;
use crate::source::pulse::Pulse;

fn pulse() -> Arc<Pulse> {
    Arc::new(Pulse::new(&[KIND]))
}
use crate::model::Change;

/// A folder of its own, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("file-source-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.0.join(name)).unwrap();
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}\n"
    )
}

/// Events in short: `+web 10.96.0.1`, `-web`, `synced`.
fn short(update: &Update) -> Vec<String> {
    update
        .events
        .iter()
        .map(|event| match event {
            Event::Service(Change::Upsert(service)) => {
                assert_eq!(service.name.namespace, "default");
                format!("+{} {}", service.name.name, service.cluster_ips[0])
            }
            Event::Service(Change::Delete(name)) => format!("-{}", name.name),
            Event::Slice(Change::Upsert(slice)) => format!("+{}", slice.name),
            Event::Slice(Change::Delete(name)) => format!("-{name}"),
            Event::Node(Change::Upsert(node)) => format!("+{}", node.name),
            Event::Node(Change::Delete(name)) => format!("-{name}"),
            Event::Synced => "synced".to_owned(),
        })
        .collect()
}

fn messages(update: &Update) -> Vec<String> {
    update.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn several_documents_and_lists_are_read_and_other_kinds_passed_over() {
    let dir = Dir::new();
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {clusterIP: 10.96.0.2}}\n- {apiVersion: v1, kind: Secret, metadata: {name: s}}\n";
    let typed = "{\"apiVersion\": \"discovery.k8s.io/v1\", \"kind\": \"EndpointSliceList\", \"items\": [{\"metadata\": {\"name\": \"s\", \"namespace\": \"n\", \"labels\": {\"kubernetes.io/service-name\": \"a\"}}, \"addressType\": \"IPv4\", \"endpoints\": []}]}";
    dir.write(
        "a.yaml",
        &format!(
            "# first\n---\n{}---\n# nothing\n--- # second\n{list}",
            service("a", "10.96.0.1")
        ),
    );
    dir.write("b.json", typed);
    dir.write(
        "c.yml",
        "apiVersion: v1\nkind: Node\nmetadata: {name: w1}\n...\n---\n",
    );
    dir.write(".hidden.yaml", &service("hidden", "10.96.0.9"));
    dir.write("notes.txt", "kind: of\n");
    let update = Folder::new(&dir.0).read(&Look::Everywhere);
    assert_eq!(messages(&update), [""; 0]);
    assert_eq!(
        short(&update),
        ["+w1", "+a 10.96.0.1", "+b 10.96.0.2", "+n/s", "synced"]
    );
}

#[test]
fn only_objects_that_changed_are_named_again() {
    let dir = Dir::new();
    let both = |ip| service("a", "10.96.0.1") + "---\n" + &service("b", ip);
    dir.write("a.yaml", &both("10.96.0.2"));
    let mut folder = Folder::new(&dir.0);
    folder.read(&Look::Everywhere);
    assert!(folder.read(&Look::Everywhere).is_empty());
    dir.write("a.yaml", &both("10.96.0.3"));
    assert_eq!(short(&folder.read(&Look::Everywhere)), ["+b 10.96.0.3"]);
    dir.write("a.yaml", &service("b", "10.96.0.3"));
    assert_eq!(short(&folder.read(&Look::Everywhere)), ["-a"]);
    dir.remove("a.yaml");
    assert_eq!(
        short(&folder.read(&Look::At(["a.yaml".to_owned()].into()))),
        ["-b"]
    );
}

#[test]
fn malformed_yaml_is_told_with_its_line_and_the_rest_goes_on() {
    let dir = Dir::new();
    let broken = "apiVersion: v1\nkind: Service\nmetadata: {name: b\n";
    dir.write(
        "a.yaml",
        &format!(
            "{}---\n{broken}---\n{}",
            service("a", "10.96.0.1"),
            service("c", "10.96.0.3")
        ),
    );
    let update = Folder::new(&dir.0).read(&Look::Everywhere);
    assert_eq!(short(&update), ["+a 10.96.0.1", "+c 10.96.0.3", "synced"]);
    assert_eq!(
        messages(&update),
        ["file a.yaml: document 2: unclosed bracket '{' at line 8, column 11; it is passed over"]
    );
}

#[test]
fn a_document_that_breaks_leaves_what_its_file_gave() {
    let dir = Dir::new();
    let mut folder = Folder::new(&dir.0);
    dir.write(
        "a.yaml",
        &(service("a", "10.96.0.1") + "---\n" + &service("b", "10.96.0.2")),
    );
    folder.read(&Look::Everywhere);
    dir.write(
        "a.yaml",
        &(service("a", "10.96.0.7") + "---\nkind: [Service\n"),
    );
    let update = folder.read(&Look::Everywhere);
    assert_eq!(short(&update), ["+a 10.96.0.7"]);
    assert_eq!(update.problems.len(), 1);
    assert!(messages(&update)[0].ends_with("what it gave before stays"));
    dir.write("a.yaml", &service("a", "10.96.0.7"));
    assert_eq!(short(&folder.read(&Look::Everywhere)), ["-b"]);
}

#[test]
fn what_is_no_object_is_told() {
    let cases = [
        (
            "- a\n- b\n",
            "document 1: the object: expected an object, found a list",
        ),
        (
            "apiVersion: v1\n",
            "document 1: it has no kind, so it is no Kubernetes object",
        ),
        (
            "apiVersion: v1\nkind: Service\n",
            "document 1: Service without metadata.name",
        ),
        (
            "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: s}\n",
            "document 1: EndpointSlice of apiVersion \"discovery.k8s.io/v1beta1\" is not known",
        ),
        (
            "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Service}]\n",
            "document 1, items[0]: Service without metadata.name",
        ),
    ];
    for (text, expected) in cases {
        let dir = Dir::new();
        dir.write("x.yaml", text);
        let update = Folder::new(&dir.0).read(&Look::Everywhere);
        let expected = format!("file x.yaml: {expected}; it is passed over");
        assert_eq!(messages(&update), [expected]);
        assert_eq!(short(&update), ["synced"]);
    }
}

#[test]
fn of_two_files_the_last_by_name_counts() {
    let dir = Dir::new();
    let mut folder = Folder::new(&dir.0);
    dir.write("a.yaml", &service("a", "10.96.0.1"));
    dir.write("b.yaml", &service("a", "10.96.0.2"));
    let update = folder.read(&Look::Everywhere);
    assert_eq!(short(&update), ["+a 10.96.0.2", "synced"]);
    assert_eq!(
        messages(&update),
        ["Service default/a: is given by several files (a.yaml, b.yaml); the last counts"]
    );
    dir.remove("b.yaml");
    assert_eq!(short(&folder.read(&Look::Everywhere)), ["+a 10.96.0.1"]);
}

#[test]
fn an_object_that_moves_between_files_is_never_gone() {
    let dir = Dir::new();
    let mut folder = Folder::new(&dir.0);
    dir.write("a.yaml", &service("a", "10.96.0.1"));
    folder.read(&Look::Everywhere);
    dir.remove("a.yaml");
    dir.write("b.yaml", &service("a", "10.96.0.1"));
    assert_eq!(short(&folder.read(&Look::Everywhere)), [""; 0]);
}

#[test]
fn a_folder_that_vanishes_leaves_the_last_state_until_it_is_back() {
    let dir = Dir::new();
    let mut folder = Folder::new(&dir.0);
    dir.write("a.yaml", &service("a", "10.96.0.1"));
    folder.read(&Look::Everywhere);
    fs::remove_dir_all(&dir.0).unwrap();
    for look in [Look::At(["a.yaml".to_owned()].into()), Look::Everywhere] {
        let update = folder.read(&look);
        assert_eq!(short(&update), [""; 0]);
        assert!(folder.failure().is_some());
        let told: Vec<_> = messages(&update);
        if look == Look::Everywhere {
            assert_eq!(told, [""; 0], "told twice");
        } else {
            assert!(told[0].contains("what it said last stays in force until it is back"));
        }
    }
    fs::create_dir(&dir.0).unwrap();
    dir.write("b.yaml", &service("b", "10.96.0.2"));
    let update = folder.read(&Look::Everywhere);
    assert_eq!(short(&update), ["-a", "+b 10.96.0.2"]);
    assert!(messages(&update)[0].ends_with("is readable again"));
}

#[test]
fn a_folder_that_never_was_there_is_not_synced() {
    let dir = Dir::new();
    fs::remove_dir_all(&dir.0).unwrap();
    let mut folder = Folder::new(&dir.0);
    let update = folder.read(&Look::Everywhere);
    assert_eq!(short(&update), [""; 0]);
    assert!(messages(&update)[0].ends_with("waiting for it"));
    fs::create_dir(&dir.0).unwrap();
    assert_eq!(short(&folder.read(&Look::Everywhere)), ["synced"]);
}

/// Waits until the given events have come, in any number of updates; returns the problems.
#[track_caller]
fn expect(updates: &mut Receiver<Update>, expected: &[&str]) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let (mut events, mut problems) = (Vec::new(), Vec::new());
    while Instant::now() < deadline {
        match updates.try_recv() {
            Ok(update) => {
                events.extend(short(&update));
                problems.extend(messages(&update));
            }
            Err(TryRecvError::Empty) => std::thread::sleep(Duration::from_millis(5)),
            Err(TryRecvError::Disconnected) => break,
        }
        if events == expected && (!expected.is_empty() || !problems.is_empty()) {
            return problems;
        }
    }
    panic!("got {events:?} with {problems:?}, expected {expected:?}");
}

#[test]
fn a_folder_is_followed_live() {
    let dir = Dir::new();
    dir.write("a.yaml", &service("a", "10.96.0.1"));
    let mut updates = follow(dir.0.clone(), pulse()).unwrap();
    expect(&mut updates, &["+a 10.96.0.1", "synced"]);

    dir.write("a.yaml", &service("a", "10.96.0.2"));
    expect(&mut updates, &["+a 10.96.0.2"]);

    dir.write("a.yaml.tmp", &service("a", "10.96.0.3"));
    fs::rename(dir.0.join("a.yaml.tmp"), dir.0.join("a.yaml")).unwrap();
    expect(&mut updates, &["+a 10.96.0.3"]);

    dir.write("a.yaml", "kind: [");
    assert_eq!(expect(&mut updates, &[]).len(), 1);

    dir.write("b.yaml", &service("b", "10.96.0.4"));
    dir.remove("a.yaml");
    expect(&mut updates, &["-a", "+b 10.96.0.4"]);

    fs::remove_dir_all(&dir.0).unwrap();
    assert!(expect(&mut updates, &[])[0].contains("stays in force"));
    fs::create_dir(&dir.0).unwrap();
    dir.write("c.yaml", &service("c", "10.96.0.5"));
    expect(&mut updates, &["-b", "+c 10.96.0.5"]);
    dir.write("c.yaml", &service("c", "10.96.0.6"));
    expect(&mut updates, &["+c 10.96.0.6"]);
}

#[test]
fn a_folder_that_is_filled_bit_by_bit_after_it_vanished_never_looks_empty() {
    let dir = Dir::new();
    let names = ["a", "b", "c", "d", "e", "f"];
    let fill = |pause| {
        for (number, name) in names.iter().enumerate() {
            std::thread::sleep(pause);
            let text = service(name, &format!("10.96.0.{number}"));
            dir.write(&format!("{name}.yaml"), &text);
        }
    };
    fill(Duration::ZERO);
    let mut updates = follow(dir.0.clone(), pulse()).unwrap();
    let all = names
        .iter()
        .enumerate()
        .map(|(number, name)| format!("+{name} 10.96.0.{number}"))
        .chain(["synced".to_owned()])
        .collect::<Vec<_>>();
    expect(
        &mut updates,
        &all.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    // Some pass may fall on any moment of the filling.
    for _ in 0..3 {
        fs::remove_dir_all(&dir.0).unwrap();
        assert!(expect(&mut updates, &[])[0].contains("stays in force"));
        fs::create_dir(&dir.0).unwrap();
        fill(Duration::from_millis(50));
        assert_eq!(
            expect(&mut updates, &[]),
            [format!("folder {}: is readable again", dir.0.display())],
            "nothing was taken away, nothing is new"
        );
    }
}

#[test]
fn files_behind_links_are_followed_as_a_config_map_swaps_them() {
    let dir = Dir::new();
    for (version, ip) in [("..1", "10.96.0.1"), ("..2", "10.96.0.2")] {
        fs::create_dir(dir.0.join(version)).unwrap();
        dir.write(&format!("{version}/a.yaml"), &service("a", ip));
    }
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, dir.0.join(name)).unwrap();
    link("..1", "..data");
    link("..data/a.yaml", "a.yaml");
    let mut updates = follow(dir.0.clone(), pulse()).unwrap();
    expect(&mut updates, &["+a 10.96.0.1", "synced"]);
    link("..2", "..new");
    fs::rename(dir.0.join("..new"), dir.0.join("..data")).unwrap();
    expect(&mut updates, &["+a 10.96.0.2"]);
}
