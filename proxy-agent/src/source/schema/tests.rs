//! Objects with something else in each of their places, read as Go would.

use serde_json::json;

use super::*;
use crate::source::object::{ENDPOINT_SLICE, NODE, SERVICE};

/// Objects in which each field that is used says something.
fn objects() -> [(&'static Shape, Value); 3] {
    let metadata = json!({
        "name": "x", "namespace": "default", "resourceVersion": "5",
        "labels": {"a": "b"}, "annotations": {"c": "d"},
        "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-01T00:00:00.5Z",
    });
    let service = json!({
        "metadata": metadata,
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
            "externalIPs": ["198.51.100.1"], "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Cluster",
            "healthCheckNodePort": 32000, "loadBalancerSourceRanges": ["192.0.2.0/24"],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}, {"name": "dns", "port": 53}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1", "ipMode": "VIP"}]}},
    });
    let slice = json!({
        "metadata": metadata, "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["10.244.0.1"], "conditions": {"ready": true, "serving": true, "terminating": false},
             "hints": {"forNodes": [{"name": "n"}], "forZones": [{"name": "z"}]}, "nodeName": "n", "zone": "z"},
            {"addresses": ["10.244.0.2"]},
        ],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    });
    let node = json!({
        "metadata": metadata, "spec": {"taints": [{"key": "t"}]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
    });
    [(&SERVICE, service), (&ENDPOINT_SLICE, slice), (&NODE, node)]
}

/// Pointers to all places of a value but its root.
fn places(value: &Value, at: &str, all: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), value))
            .collect(),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .map(|(n, value)| (n.to_string(), value))
            .collect(),
        _ => return,
    };
    for (step, child) in children {
        let place = format!("{at}/{step}");
        places(child, &place, all);
        all.push(place);
    }
}

/// `/spec/ports/0/port` as it is told: `spec.ports[0].port`.
fn told(pointer: &str) -> String {
    pointer
        .split('/')
        .skip(1)
        .fold(String::new(), |told, step| match step.parse::<usize>() {
            Ok(index) => format!("{told}[{index}]"),
            Err(_) if told.is_empty() => step.to_owned(),
            Err(_) => format!("{told}.{step}"),
        })
}

fn read_json(shape: &'static Shape, text: &str) -> Read {
    let mut from = serde_json::Deserializer::from_str(text);
    read(shape, Scalars::Quoted, &mut from).unwrap()
}

fn read_yaml(shape: &'static Shape, text: &str) -> Read {
    serde_saphyr::with_deserializer_from_str(text, |from| read(shape, Scalars::Plain, from))
        .unwrap()
}

/// What Go would have for a `null` at a place: nothing in a field, the zero value in a list or a map.
fn without(object: &Value, pointer: &str) -> Value {
    let (parent, step) = pointer.rsplit_once('/').unwrap();
    let mut object = object.clone();
    match object.pointer_mut(parent).unwrap() {
        Value::Array(list) => {
            let element = &mut list[step.parse::<usize>().unwrap()];
            *element = if element.is_string() {
                json!("")
            } else {
                json!({})
            };
        }
        Value::Object(texts) if parent.ends_with("/labels") || parent.ends_with("/annotations") => {
            texts[step] = json!("");
        }
        Value::Object(fields) => {
            fields.remove(step);
        }
        other => panic!("{other}"),
    }
    object
}

#[test]
fn null_anywhere_is_what_go_makes_of_it() {
    for (shape, object) in objects() {
        let mut all = Vec::new();
        places(&object, "", &mut all);
        for place in all {
            let mut changed = object.clone();
            *changed.pointer_mut(&place).unwrap() = Value::Null;
            let text = changed.to_string();
            for read in [read_json(shape, &text), read_yaml(shape, &text)] {
                assert_eq!((read.wrong, read.left_out), (None, vec![]), "{place}");
                assert_eq!(read.value, without(&object, &place), "{place}");
            }
        }
    }
}

#[test]
fn fields_that_are_not_used_may_be_anything() {
    let deep = "[".repeat(5_000) + &"]".repeat(5_000);
    for (shape, object) in objects() {
        let mut all = vec![String::new()];
        places(&object, "", &mut all);
        // In labels and annotations every field is used.
        let in_texts = |place: &String| {
            ["/labels", "/annotations"]
                .iter()
                .any(|end| place.ends_with(end))
        };
        for place in all.iter().filter(|place| !in_texts(place)) {
            let mut changed = object.clone();
            let Some(Value::Object(fields)) = changed.pointer_mut(place) else {
                continue;
            };
            fields.insert("somethingNew".to_owned(), json!("@"));
            for other in [
                "null",
                "7",
                "1e999",
                "\"\\ud800\"",
                "[{}, null]",
                "{\"a\": [1.5]}",
                &deep,
            ] {
                let text = changed.to_string().replace("\"@\"", other);
                let read = read_json(shape, &text);
                assert_eq!(
                    (read.wrong, read.left_out),
                    (None, vec![]),
                    "{place}: {other:.20}"
                );
                assert_eq!(read.value, object, "{place}");
            }
        }
    }
}

#[test]
fn a_wrong_type_anywhere_is_told_by_its_place_and_costs_its_part_alone() {
    let parts = [
        "/spec/ports/",
        "/status/loadBalancer/ingress/",
        "/endpoints/",
        "/ports/",
        "/spec/taints/",
        "/status/addresses/",
    ];
    for (shape, object) in objects() {
        let mut all = Vec::new();
        places(&object, "", &mut all);
        for place in all {
            for other in [
                json!("text"),
                json!(7),
                json!(80.0),
                json!(4_294_967_296_i64),
                json!(true),
                json!([7]),
                json!({"a": 7}),
            ] {
                let mut changed = object.clone();
                let before = std::mem::replace(changed.pointer_mut(&place).unwrap(), other.clone());
                let text = changed.to_string();
                let read = read_json(shape, &text);
                let faults: Vec<&String> = read.left_out.iter().chain(&read.wrong).collect();
                let is_time = place.ends_with("Timestamp");
                let fits = match (&before, &other) {
                    (Value::String(_), Value::String(_)) => !is_time,
                    (Value::Number(_), Value::Number(number)) => number.as_i64() == Some(7),
                    (Value::Bool(_), Value::Bool(_)) => true,
                    // What is wrong is the element then; of an object, its fields: none of these is used but in maps of strings.
                    (Value::Object(_), Value::Object(_)) => {
                        !(place.ends_with("/labels") || place.ends_with("/annotations"))
                    }
                    _ => false,
                };
                if fits {
                    assert_eq!(faults, [""; 0], "{place}: {other}");
                    continue;
                }
                assert_eq!(faults.len(), 1, "{place}: {other}");
                assert!(
                    faults[0].starts_with(&told(&place)),
                    "{place}: {other}: {faults:?}"
                );
                // A list in the place of a list of parts has one part, which is wrong.
                if other.is_array() && parts.contains(&&*format!("{place}/")) {
                    assert_eq!(read.wrong, None, "{place}: {other}");
                    continue;
                }
                let part = parts.iter().find(|part| place.starts_with(**part));
                assert_eq!(read.wrong.is_some(), part.is_none(), "{place}: {other}");
                if let Some(part) = part {
                    // All is there but that part.
                    let index: usize = place[part.len()..]
                        .split('/')
                        .next()
                        .unwrap()
                        .parse()
                        .unwrap();
                    let mut expected = object.clone();
                    let list = expected.pointer_mut(part.trim_end_matches('/')).unwrap();
                    list.as_array_mut().unwrap().remove(index);
                    assert_eq!(read.value, expected, "{place}: {other}");
                }
                // Whatever is wrong, the object's name is known unless that is wrong itself.
                if !place.starts_with("/metadata") || place.contains("/metadata/labels") {
                    assert_eq!(read.value["metadata"]["name"], "x", "{place}");
                }
            }
        }
    }
}

#[test]
fn of_a_field_that_is_there_twice_the_last_counts_and_case_matters() {
    let text = r#"{"metadata": {"name": "a", "name": "b", "Name": "c", "NAME": 7}, "Spec": 7}"#;
    let read = read_json(&SERVICE, text);
    assert_eq!(
        (read.wrong, read.value),
        (None, json!({"metadata": {"name": "b"}}))
    );
}

#[test]
fn in_yaml_a_number_without_quotes_may_be_a_string() {
    let text = "metadata: {name: 7, annotations: {weight: 050, flag: y, share: 10.10}}\nspec: {ports: [{port: 80}]}\n";
    let Read { value, wrong, .. } = read_yaml(&SERVICE, text);
    assert_eq!(wrong, None);
    let metadata =
        json!({"name": "7", "annotations": {"weight": "050", "flag": "y", "share": "10.10"}});
    assert_eq!(
        value,
        json!({"metadata": metadata, "spec": {"ports": [{"port": 80}]}})
    );
    let read = read_yaml(&SERVICE, "spec: {ports: [{port: '80'}, {port: 81}]}\n");
    assert_eq!(
        read.left_out,
        [
            "spec.ports[0].port: expected a 32-bit integer, found a string; spec.ports[0] is left out"
        ]
    );
}
