//! Objects and files that are wrong, at the start and live: each is told, and the healthy Service beside is as it was.

use std::{fmt::Write as _, os::unix::fs::symlink};

use nix::{sys::stat::Mode, unistd::mkfifo};

use super::*;
use crate::source::malformed::{Beside, cases, healthy};

const EVERYWHERE: Look = Look::Everywhere;

/// A folder with the healthy objects, and what a planner makes of them.
fn beside() -> (Dir, Folder, Beside) {
    let dir = Dir::new();
    let texts: Vec<String> = healthy().iter().map(ToString::to_string).collect();
    dir.write("good.json", &texts.join("\n"));
    let mut folder = Folder::new(&dir.0);
    let update = folder.read(&EVERYWHERE);
    assert_eq!(messages(&update), [""; 0]);
    (dir, folder, Beside::new(update.events))
}

/// Puts something wrong into a folder, which the folder's reader meets now, and another one at its start.
#[track_caller]
fn is_told(put: impl Fn(&Dir), words: &[&str]) {
    let (dir, mut live, mut beside) = beside();
    put(&dir);
    let update = live.read(&EVERYWHERE);
    let start = Folder::new(&dir.0).read(&EVERYWHERE);
    for update in [&update, &start] {
        let told = messages(update);
        let is_told = |line: &String| words.iter().all(|word| line.contains(word));
        assert!(told.iter().any(is_told), "{words:?} are not in {told:?}");
    }
    beside.stays(update.events, words[0]);
    beside.stays(start.events, words[0]);
    // It is told once, not with every look.
    assert_eq!(messages(&live.read(&EVERYWHERE)), [""; 0]);
}

#[test]
fn every_malformed_object_is_told_and_harms_no_other() {
    for case in cases() {
        let object = if case.kind == "Node" {
            "Node here".to_owned()
        } else {
            format!("{} default/{}", case.kind, case.name)
        };
        let text = case.object.to_string();
        is_told(|dir| dir.write("bad.json", &text), &[&object, case.told]);
        // YAML is a superset of JSON.
        is_told(|dir| dir.write("bad.yaml", &text), &[&object, case.told]);
    }
}

#[test]
fn every_document_that_is_no_object_is_told_and_harms_no_other() {
    for (text, told) in [
        ("", None),
        ("# nothing\n---\n---\n", None),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n",
            None,
        ),
        (
            "apiVersion: example.org/v1\nkind: Ingress\nspec: [[[]]]\n",
            None,
        ),
        ("just text\n", Some("document 1")),
        ("42\n", Some("document 1")),
        ("null\n", Some("document 1")),
        ("kind: Service\n\tmetadata: {}\n", Some("document 1")),
        ("kind: [Service\n", Some("document 1")),
        ("kind: &a [*a]\n", Some("document 1")),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {}\n",
            Some("Service without metadata.name"),
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: ''}\n",
            Some("Service without metadata.name"),
        ),
        (
            "apiVersion: v2\nkind: Service\nmetadata: {name: x}\n",
            Some("of apiVersion \"v2\" is not known"),
        ),
        (
            "apiVersion: v1\nmetadata: {name: x}\n",
            Some("it has no kind"),
        ),
        ("apiVersion: v1\nkind: 7\nmetadata: {name: x}\n", None),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: [x]}\n",
            Some("metadata.name: expected a string, found a list"),
        ),
        ("apiVersion: v1\nkind: List\nitems: [7]\n", Some("items[0]")),
        ("apiVersion: v1\nkind: List\nitems: x\n", Some("document 1")),
        ("kind: Service\u{0}\n", Some("document 1")),
    ] {
        let put = |dir: &Dir| dir.write("bad.yaml", text);
        if let Some(told) = told {
            is_told(put, &["file bad.yaml", told]);
            continue;
        }
        let (dir, mut folder, mut beside) = beside();
        put(&dir);
        let update = folder.read(&EVERYWHERE);
        assert_eq!(messages(&update), [""; 0], "{text:?}");
        beside.stays(update.events, text);
    }
}

#[test]
fn a_document_that_is_nested_without_end_is_told() {
    for (name, text) in [
        ("flow.yaml", "[".repeat(200_000)),
        (
            "block.yaml",
            format!("kind: Service\nspec:\n  {}x", "- ".repeat(50_000)),
        ),
        (
            "maps.yaml",
            format!(
                "kind: x\na: {}1{}",
                "{a: ".repeat(50_000),
                "}".repeat(50_000)
            ),
        ),
        ("deep.json", "[".repeat(200_000)),
        (
            "object.json",
            format!("{{\"kind\": {}", "{\"a\":".repeat(100_000)),
        ),
    ] {
        is_told(
            |dir| dir.write(name, &text),
            &[&format!("file {name}"), "document 1"],
        );
    }
}

/// Nine levels of nine: ten thousand million elements, in half a kilobyte.
#[test]
fn a_document_that_grows_without_end_is_told() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let below = vec![format!("*a{}", level - 1); 9].join(", ");
        writeln!(text, "a{level}: &a{level} [{below}]").unwrap();
    }
    text += "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {externalIPs: *a9}\n";
    is_told(
        |dir| dir.write("bomb.yaml", &text),
        &["file bomb.yaml", "document 1"],
    );
}

#[test]
fn a_file_that_cannot_be_read_is_told() {
    let bytes = |dir: &Dir, bytes: &[u8]| fs::write(dir.0.join("bad.yaml"), bytes).unwrap();
    is_told(
        |dir| bytes(dir, &[0xff, 0xfe, 0, 1]),
        &["file bad.yaml", "not UTF-8"],
    );
    is_told(|dir| bytes(dir, &[0; 4096]), &["file bad.yaml"]);
    let link = |dir: &Dir, to: &str| symlink(to, dir.0.join("bad.yaml")).unwrap();
    is_told(
        |dir| link(dir, "bad.yaml"),
        &["file bad.yaml", "can't be read"],
    );
    is_told(
        |dir| {
            link(dir, "other.yaml");
            symlink("bad.yaml", dir.0.join("other.yaml")).unwrap();
        },
        &["file other.yaml", "can't be read"],
    );
    // A terabyte of zeros, which takes no room on the disk.
    let huge = |dir: &Dir| {
        let file = fs::File::create(dir.0.join("huge.yaml")).unwrap();
        file.set_len(1 << 40).unwrap();
    };
    is_told(huge, &["file huge.yaml", "larger than"]);
}

/// None of these is a file that keeps data; reading them may never end.
#[test]
fn what_is_no_file_is_told_and_nobody_waits_for_it() {
    let link = |to: &'static str| move |dir: &Dir| symlink(to, dir.0.join("bad.yaml")).unwrap();
    let fifo = |dir: &Dir, name: &str| mkfifo(&dir.0.join(name), Mode::S_IRWXU).unwrap();
    let told = |words: &'static str| ["file bad.yaml", "can't be read", words];
    is_told(
        |dir| fs::create_dir(dir.0.join("bad.yaml")).unwrap(),
        &told("a folder"),
    );
    is_told(|dir| fifo(dir, "bad.yaml"), &told("a pipe"));
    is_told(
        |dir| {
            fifo(dir, "pipe");
            link("pipe")(dir);
        },
        &told("a pipe"),
    );
    is_told(link("/dev/zero"), &told("a device"));
    is_told(link("/proc/self/status"), &told("of the kernel's"));
    is_told(link("nowhere"), &told("No such file"));
}

/// As a folder, a pipe, or a link to what is not there for a moment.
#[test]
fn what_takes_the_place_of_a_file_takes_nothing_away() {
    let dir = Dir::new();
    let path = dir.0.join("a.yaml");
    dir.write("a.yaml", &service("a", "10.96.0.1"));
    let mut folder = Folder::new(&dir.0);
    assert_eq!(short(&folder.read(&EVERYWHERE)), ["+a 10.96.0.1", "synced"]);
    dir.remove("a.yaml");
    symlink("nowhere", &path).unwrap();
    let update = folder.read(&EVERYWHERE);
    assert!(update.events.is_empty(), "{update:?}");
    assert!(messages(&update)[0].contains("what it gave before stays"));
    dir.remove("a.yaml");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    assert!(folder.read(&EVERYWHERE).events.is_empty());
    dir.remove("a.yaml");
    assert_eq!(short(&folder.read(&EVERYWHERE)), ["-a"]);
}

/// The first of them one by one, and the lines are those of the file.
#[test]
fn many_broken_documents_are_summed_up_in_linear_time() {
    const BROKEN: usize = 40_000;
    let text = |count: usize| {
        "---\nkind: Service\nspec: {\n".repeat(count) + "---\n" + &service("a", "10.96.0.1")
    };
    let took = |count| {
        let dir = Dir::new();
        dir.write("a.yaml", &text(count));
        let started = Instant::now();
        let update = Folder::new(&dir.0).read(&EVERYWHERE);
        (started.elapsed(), update)
    };
    let (_, update) = took(BROKEN);
    assert_eq!(short(&update), ["+a 10.96.0.1", "synced"]);
    let told = messages(&update);
    assert_eq!(told.len(), 6, "{told:?}");
    assert!(
        told[4].contains("document 5: ") && told[4].contains("line 15"),
        "{told:?}"
    );
    assert_eq!(
        told[5],
        "file a.yaml: 39995 more documents or items can't be read; it is passed over"
    );
    // Sixteen times as many take sixteen times as long, and not 256 times; the shortest of three, as the machine is busy.
    let shortest = |count| (0..3).map(|_| took(count).0).min().unwrap();
    let (few, many) = (shortest(BROKEN / 16), shortest(BROKEN));
    assert!(many < few * 64, "{few:?}, {many:?}");
}

#[test]
fn the_same_faults_are_not_told_again_when_the_file_is_written_again() {
    let dir = Dir::new();
    let broken = "kind: [\n---\n".repeat(50);
    let write = |ip| {
        let wrong = service("w", "10.96.0.2").replace("port: 80", "port: 0");
        dir.write(
            "a.yaml",
            &format!("{broken}{}---\n{wrong}", service("a", ip)),
        );
    };
    write("10.96.0.1");
    let mut folder = Folder::new(&dir.0);
    assert_eq!(messages(&folder.read(&EVERYWHERE)).len(), 7);
    // From now on there is something that stays.
    write("10.96.0.3");
    assert_eq!(messages(&folder.read(&EVERYWHERE)).len(), 6);
    write("10.96.0.4");
    let update = folder.read(&EVERYWHERE);
    assert_eq!(short(&update), ["+a 10.96.0.4"]);
    assert_eq!(messages(&update), [""; 0]);
}

#[test]
fn problems_of_many_objects_of_a_file_are_summed_up() {
    let dir = Dir::new();
    let text: Vec<_> = (0..1000)
        .map(|n| service(&format!("s{n}"), "10.96.0.300"))
        .collect();
    dir.write("a.yaml", &text.join("---\n"));
    let told = messages(&Folder::new(&dir.0).read(&EVERYWHERE));
    assert_eq!(told.len(), TOLD + 1);
    assert_eq!(
        told[TOLD],
        "file a.yaml: 900 more problems of its objects are not told one by one"
    );
}

#[test]
fn a_folder_of_too_many_files_keeps_those_that_it_has() {
    let dir = Dir::new();
    let mut folder = Folder {
        most_files: 2,
        ..Folder::new(&dir.0)
    };
    dir.write("b.yaml", &service("b", "10.96.0.1"));
    dir.write("c.yaml", &service("c", "10.96.0.2"));
    assert_eq!(messages(&folder.read(&EVERYWHERE)), [""; 0]);
    dir.write("a.yaml", &service("a", "10.96.0.3"));
    for round in 0..2 {
        let update = folder.read(&EVERYWHERE);
        assert!(update.events.is_empty());
        assert_eq!(messages(&update).len(), 1 - round, "{update:?}");
    }
    dir.remove("c.yaml");
    assert_eq!(short(&folder.read(&EVERYWHERE)), ["-c"]);
    assert_eq!(short(&folder.read(&EVERYWHERE)), ["+a 10.96.0.3"]);
}

/// A long text, and many aliases of it: more memory than any node has.
#[test]
fn a_long_text_that_aliases_repeat_is_told() {
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: x}}\nspec:\n  externalName: &a {}\n  externalIPs: [{}]\n",
        "x".repeat(1 << 20),
        vec!["*a"; 90].join(",")
    );
    is_told(
        |dir| dir.write("bomb.yaml", &text),
        &["file bomb.yaml", "document 1", "scalar"],
    );
}

#[test]
fn a_file_that_is_mended_is_told_no_more() {
    let (dir, mut folder, mut beside) = beside();
    for round in 0..2 {
        symlink("bad.yaml", dir.0.join("bad.yaml")).unwrap();
        assert_eq!(
            messages(&folder.read(&EVERYWHERE)).len(),
            1,
            "round {round}"
        );
        dir.remove("bad.yaml");
        assert!(folder.read(&EVERYWHERE).is_empty());
        dir.write("bad.yaml", &service("mended", "10.96.7.1"));
        let update = folder.read(&EVERYWHERE);
        assert_eq!(short(&update), ["+mended 10.96.7.1"]);
        dir.remove("bad.yaml");
        beside.stays(folder.read(&EVERYWHERE).events, "a file that is mended");
    }
}

/// A `null` anywhere is the same as nothing: a field that is not even used hid the whole object once.
#[test]
fn null_is_the_same_as_nothing() {
    let (dir, mut folder, _) = beside();
    let text = r#"{"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "null", "namespace": "default", "labels": null, "creationTimestamp": null, "managedFields": null},
        "spec": {"clusterIP": "10.96.8.1", "externalIPs": null, "ports": [{"name": null, "port": 80, "nodePort": null, "targetPort": null}], "sessionAffinityConfig": null},
        "status": {"loadBalancer": null, "conditions": [{"type": "X", "status": "True", "reason": "r", "message": "m", "lastTransitionTime": null}]}}"#;
    for name in ["null.json", "null.yaml"] {
        dir.write(name, text);
        let update = folder.read(&EVERYWHERE);
        assert_eq!(messages(&update), [""; 0]);
        assert_eq!(short(&update), ["+null 10.96.8.1"]);
        dir.remove(name);
        folder.read(&EVERYWHERE);
    }
}

/// What can't be used of an object leaves in force what the object said, and all other objects of the file are read.
#[test]
fn an_object_of_the_wrong_shape_is_told_by_name_and_keeps_what_it_said() {
    let (dir, mut folder, _) = beside();
    let two = |ports: &str, other: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{clusterIP: 10.96.8.1, ports: {ports}}}\n---\n{}",
            service("b", other)
        )
    };
    dir.write("two.yaml", &two("[{port: 80}]", "10.96.8.2"));
    assert_eq!(
        short(&folder.read(&EVERYWHERE)),
        ["+a 10.96.8.1", "+b 10.96.8.2"]
    );
    dir.write("two.yaml", &two("http", "10.96.8.30"));
    let update = folder.read(&EVERYWHERE);
    assert_eq!(short(&update), ["+b 10.96.8.30"]);
    assert_eq!(
        messages(&update),
        [
            "Service default/a: can't be read (spec.ports: expected a list, found a string; file two.yaml, document 1); what it said before stays"
        ]
    );
}
