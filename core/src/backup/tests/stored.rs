//! Stores as earlier versions wrote them: `testdata/formats/store-before-0.1.0.txt` holds both stores of the simulated
//! device 21 as they were on 26 November 2026, after a restore of a NetHSM's backup and the deletion of a namespace
//! that a crash interrupted, and what users saw of them.

use super::*;

const BEFORE_0_1_0: &str = include_str!("../../../testdata/formats/store-before-0.1.0.txt");

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// The device with the rows of the file, and the lines of [`described`].
fn before_0_1_0() -> (Sim, Vec<&'static str>) {
    let sim = device(21);
    let mut expected = Vec::new();
    for line in BEFORE_0_1_0.lines() {
        let (kind, rest) = line.split_once(' ').unwrap();
        let row = || rest.split_once(' ').map(|(path, value)| (Path(bytes(path).into()), bytes(value))).unwrap();
        match kind {
            "shared" => fill(&sim.store, &vec![row()]),
            "local" => fill(&sim.local, &vec![row()]),
            "expected" => expected.push(rest),
            other => panic!("{other}"),
        }
    }
    (sim, expected)
}

#[test]
fn a_store_written_before_0_1_0_is_taken_over_whole() {
    let (sim, expected) = before_0_1_0();
    let hsm = boot(&sim);
    unlock(&hsm, UNLOCK).unwrap();
    assert_eq!(described(&hsm), expected);
    let op = op(&hsm);
    let quota = block_on(op.namespaces().quota(&ns("quota"))).unwrap();
    assert_eq!((quota.0.keys, quota.1.keys), (Some(10), 1));
    // The backup passphrase, the cluster CA, and the numbers of the namespaces.
    assert!(!backup_of(&hsm).is_empty());
    assert_eq!(block_on(cluster_ca(&op.tables)).unwrap(), Some(vec![0x30, 1, 2]));
    let by = admin(&op);
    block_on(op.namespaces().create(&by, &ns("next"))).unwrap();
    assert_eq!(block_on(op.namespaces().get(&ns("next"))).unwrap().unwrap().record.number, 4);
    // Keys are found by their labels once they are indexed.
    let root = by.scope().unwrap();
    let search = Search::LabelBeginning("l".into());
    assert_eq!(block_on(op.keys().of(root).search(&search)).unwrap(), None);
    block_on(op.keys().index()).unwrap();
    index::tests::check(&op, &*sim.store);
    // The rest of namespace 2 is removed, and the digests of the NetHSM are hardened.
    let of_2 =
        || sim.store.raw_rows().iter().filter(|(path, _)| path.as_bytes().get(6..10) == Some(&[0, 0, 0, 2])).count();
    assert!(of_2() > 0);
    block_on(op.namespaces().sweep_deleted_namespaces()).unwrap();
    assert_eq!(of_2(), 0);
    assert!(described(&hsm).iter().any(|line| line.contains("HmacSha256")));
    block_on(op.users().harden_digests()).unwrap();
    assert!(!described(&hsm).iter().any(|line| line.contains("HmacSha256")));
    assert!(!sim.store.raw_rows().iter().any(|(path, _)| path.as_bytes().get(5) == Some(&6)), "the old table is empty");
}
