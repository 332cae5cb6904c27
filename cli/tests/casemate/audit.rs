//! The record of what was done.

use std::fs;

use serde_json::Value;

use crate::harness::Hsm;

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
