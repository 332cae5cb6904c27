//! The record of what was done.

use std::fs;

use serde_json::Value;

use crate::harness::{EtcdServer, Hsm, run};

#[test]
fn records_are_printed_or_written_whole_or_in_part() {
    let hsm = Hsm::operational();
    let all = hsm.admin(&["audit", "export"]).ok();
    let first: Value = serde_json::from_str(all.lines().next().unwrap()).unwrap();
    assert!(first.is_object() && all.lines().count() > 2, "{all}");
    let file = hsm.at("audit.jsonl");
    let message = hsm.admin(&["audit", "export", "--from", "1", "--to", "2", "--file", &file, "--json"]).json();
    let part = fs::read_to_string(&file).unwrap();
    assert_eq!(message["bytes"], part.len());
    assert!(part.lines().count() < all.lines().count(), "{part}");
    assert!(all.contains(part.lines().next().unwrap()), "{part}");
    hsm.admin(&["audit", "export", "--file", &file]).fails(1);
    assert!(hsm.admin(&["audit", "key"]).ok().starts_with("-----BEGIN PUBLIC KEY-----"));
    hsm.operator(&["audit", "export"]).fails(6);
}

/// The lines of merged logs.
fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Exports the log of an HSM and its key.
fn exported(hsm: &Hsm) -> (String, String) {
    let (log, key) = (hsm.at("audit.jsonl"), hsm.at("audit-key.pem"));
    hsm.admin(&["audit", "export", "--file", &log]).ok();
    fs::write(&key, hsm.admin(&["audit", "key"]).ok()).unwrap();
    (log, key)
}

#[test]
fn the_logs_of_two_nodes_are_merged_in_the_order_of_their_store() {
    let etcd = EtcdServer::single();
    let nodes = Hsm::pair(&etcd);
    // By the clocks, everything at the second node is later than anything at the first.
    nodes[1].admin(&["config", "time", "set", "2040-01-01T00:00:00Z"]).ok();
    let names: Vec<String> = (0..10).map(|number| format!("n{number}")).collect();
    for (name, node) in names.iter().zip(nodes.iter().cycle()) {
        node.admin(&["namespace", "add", name]).ok();
        node.operator(&["namespace", "add", name]).fails(6);
    }
    let ((first, first_key), (second, second_key)) = (exported(&nodes[0]), exported(&nodes[1]));
    let keys = ["--key", &first_key, "--key", &second_key];
    let ran = run(&[&["audit", "merge", &second, &first], &keys[..]].concat(), &[], b"");
    assert_eq!(ran.code, 0, "{}", ran.err);
    let merged = lines(str::from_utf8(&ran.out).unwrap());
    let made: Vec<&Value> = merged
        .iter()
        .filter(|line| line["endpoint"] == "PUT /namespaces/{namespace}" && line["kind"] == "outcome")
        .collect();
    let by = |order: &[&Value]| order.iter().map(|line| line["target"].clone()).collect::<Vec<_>>();
    let truth: Vec<Value> = names.iter().map(|name| format!("/namespaces/{name}").into()).collect();
    assert_eq!(by(&made), truth);
    let mut by_time = made.clone();
    by_time.sort_by_key(|line| line["time"].as_str().unwrap().to_owned());
    assert_ne!(by(&by_time), truth, "the clocks would have told the same");
    let device = |hsm: &Hsm| hsm.admin(&["system", "info", "--json"]).json()["deviceId"].clone();
    for node in &nodes {
        let own: Vec<u64> = merged
            .iter()
            .filter(|line| line["device"] == device(node))
            .map(|line| line["sequence"].as_u64().unwrap())
            .collect();
        assert_eq!(own, (1..=own.len() as u64).collect::<Vec<_>>());
        assert!(own.len() > 20);
    }
    assert!(made.iter().zip(nodes.iter().cycle()).all(|(line, node)| line["device"] == device(node)));
    assert!(ran.err.contains("All others, such as refusals and intents, are placed by the clocks"), "{}", ran.err);
    assert!(!ran.err.contains("--key") && ran.err.contains("are in order and unaltered"), "{}", ran.err);

    // To a file, and with the keys of the logs.
    let target = nodes[0].at("merged.jsonl");
    let ran = run(&["audit", "merge", &first, &second, "--file", &target, "--json"], &[], b"");
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(lines(&fs::read_to_string(&target).unwrap()), merged);
    assert!(ran.err.contains("Give the keys of the devices with --key."), "{}", ran.err);
    let message = run(&["audit", "merge", &first, &second, "--key", &first_key], &[], b"").fails(15);
    assert!(message.contains(&second) && message.contains("another key"), "{message}");
}

#[test]
fn logs_that_do_not_belong_together_are_not_merged() {
    let (one, other) = (Hsm::operational(), Hsm::operational());
    let (first, _) = exported(&one);
    let (second, _) = exported(&other);
    let message = run(&["audit", "merge", &first, &second], &[], b"").fails(15);
    assert!(message.contains("both claim revision"), "{message}");
    let altered = fs::read_to_string(&second).unwrap().replace("127.0.0.1", "127.0.0.2");
    fs::write(&second, altered).unwrap();
    let message = run(&["audit", "merge", &second], &[], b"").fails(15);
    assert!(message.contains(&second) && message.contains("was altered"), "{message}");
    assert!(run(&["audit", "merge", &first, &first], &[], b"").fails(2).contains("give each record once"));
    run(&["audit", "merge", &one.at("nothing")], &[], b"").fails(1);
    run(&["audit", "merge", &first, "--key", &first], &[], b"").fails(2);
}
