//! Files that were altered, cut, or assembled from others.

use super::*;

#[test]
fn an_altered_byte_anywhere_changes_nothing() {
    let (sim, hsm) = world();
    let file = backup_of(&hsm);
    let (shared, local) = (sim.store.raw_rows(), sim.local.raw_rows());
    let near_an_end = |at: usize| at < 330 || at + 200 > file.len();
    for at in (0..file.len()).filter(|at| near_an_end(*at) || at % 509 == 0) {
        let mut altered = file.clone();
        altered[at] ^= 1;
        let result = restore_as(&hsm, &altered, None, None);
        assert!(matches!(result, Err(Error::Invalid { .. })), "byte {at}: {result:?}");
        assert!(sim.store.raw_rows() == shared, "byte {at}");
    }
    // The note of the step was written and removed.
    assert_eq!(sim.local.raw_rows(), local);
    restore_as(&hsm, &file, None, None).unwrap();
}

/// Cuts the file into its frames: the part before the entries, the entries, and the end.
fn frames(file: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut parser = Parser::default();
    parser.feed(file);
    parser.finish();
    let (mut head, mut entries) = (Vec::new(), Vec::new());
    while let Some(frame) = parser.frame().unwrap() {
        match frame {
            Frame::Start { version, salt } => push_start(&mut head, version, &salt).unwrap(),
            Frame::Field(_, sealed) => push_framed(&mut head, &sealed).unwrap(),
            Frame::Entry(sealed) => entries.push(sealed),
            Frame::End => {}
        }
    }
    (head, entries)
}

fn joined(head: &[u8], entries: &[Vec<u8>]) -> Vec<u8> {
    let mut file = head.to_vec();
    entries.iter().for_each(|entry| push_framed(&mut file, entry).unwrap());
    push_end(&mut file);
    file
}

#[test]
fn a_file_that_breaks_off_changes_nothing() {
    let (sim, hsm) = world();
    let file = backup_of(&hsm);
    let shared = sim.store.raw_rows();
    let (head, entries) = frames(&file);
    assert_eq!(joined(&head, &entries), file);
    let mut borders = vec![head.len()];
    borders.extend(entries.iter().scan(head.len(), |at, entry| {
        *at += 3 + entry.len();
        Some(*at)
    }));
    for border in borders {
        let truncated = "The backup file was truncated. Nothing was restored.";
        assert_eq!(refusal(restore_as(&hsm, &file[..border], None, None)), truncated, "{border}");
        assert_eq!(refusal(restore_as(&hsm, &file[..border + 2], None, None)), "Unexpected end of data", "{border}");
    }
    assert_eq!(refusal(restore_as(&hsm, &[], None, None)), "Backup data cannot be empty.");
    assert_eq!(refusal(restore_as(&hsm, b"PK\x03\x04", None, None)), "Not a NetHSM backup file");
    assert_eq!(
        refusal(restore_as(&hsm, &file, Some("not the passphrase"), None)),
        "Could not decrypt backup-version, authentication failed. Is the passphrase correct?"
    );
    assert!(sim.store.raw_rows() == shared);
}

#[test]
fn entries_cannot_be_removed_exchanged_or_taken_from_another_backup() {
    let (sim, hsm) = world();
    let old = backup_of(&hsm);
    put_key(&op(&hsm), 0, "later", some_key(KeyType::EC_P256, ""), 0);
    let file = backup_of(&hsm);
    let shared = sim.store.raw_rows();
    let (head, entries) = frames(&file);
    let (old_head, old_entries) = frames(&old);
    let changed = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut entries = entries.clone();
        change(&mut entries);
        joined(&head, &entries)
    };
    let last = entries.len() - 1;
    for (what, file) in [
        ("one removed", changed(&|entries| drop(entries.remove(5)))),
        ("no manifest", changed(&|entries| drop(entries.pop()))),
        ("two exchanged", changed(&|entries| entries.swap(3, 4))),
        ("one twice", changed(&|entries| entries.insert(4, entries[4].clone()))),
        ("another manifest", changed(&|entries| entries[last] = old_entries.last().unwrap().clone())),
        ("one behind the manifest", changed(&|entries| entries.push(entries[3].clone()))),
        ("older entries", joined(&head, &old_entries)),
        ("newer entries", joined(&old_head, &entries)),
        ("none", joined(&head, &[])),
    ] {
        let why = refusal(restore_as(&hsm, &file, None, None));
        // Under another head the device's own entries already do not open.
        let known = why.starts_with("Entries of the backup file were removed")
            || why.ends_with("does not open. Nothing was restored.");
        assert!(known, "{what}: {why}");
        assert!(sim.store.raw_rows() == shared, "{what}");
    }
}

#[test]
fn staged_entries_cannot_be_exchanged_in_the_store() {
    let (_, source) = world();
    let file = backup_of(&source);
    let sim = device(11);
    let hsm = boot(&sim);
    restore(&hsm, &file).unwrap();
    let rows = sim.store.raw_rows();
    let find =
        |name: &str| rows.iter().find(|(path, _)| String::from_utf8_lossy(path.as_bytes()).contains(name)).unwrap();
    let (one, two) = (find("/key/EC_P256\0"), find("/key/EC_P384\0"));
    sim.store.tamper(one.0.clone(), two.1.clone());
    assert!(matches!(unlock(&hsm, UNLOCK), Err(Error::Internal(_))));
    assert_eq!(hsm.state(), State::Locked);
    sim.store.tamper(one.0.clone(), one.1.clone());
    unlock(&hsm, UNLOCK).unwrap();
}

#[test]
fn equal_content_is_sealed_alike_and_different_content_under_different_nonces() {
    let (_, hsm) = world();
    let file = backup_of(&hsm);
    let (_, entries) = frames(&file);
    let mut nonces: Vec<&[u8]> = entries.iter().map(|entry| &entry[..12]).collect();
    let count = nonces.len();
    nonces.sort();
    nonces.dedup();
    assert_eq!(nonces.len(), count);
    let (_, again) = frames(&backup_of(&hsm));
    let same = entries.iter().filter(|entry| again.contains(entry)).count();
    // All except the device's configuration, whose key is fresh each time, and the manifest.
    assert!(count - same < 10 && same < count, "{same} of {count}");
}

/// What the documentation promises about an attacker who has only a file and its backup passphrase.
#[test]
fn the_backup_passphrase_alone_opens_names_and_the_device_and_nothing_else() {
    let (_, hsm) = world();
    let file = backup_of(&hsm);
    let mut reader = Reader::default();
    reader.feed(&file);
    reader.finish();
    let (_, salt) = reader.start().unwrap().unwrap();
    let key = kdf::backup_key(BACKUP.as_bytes(), &salt);
    let backup_key = *key.expose();
    reader.unlock(key);
    let (mut config, mut open, mut shut) = (None, Vec::new(), Vec::new());
    while let Some(item) = reader.item().unwrap() {
        match item {
            Item::Head(head) => config = head.config_key,
            Item::Entry(entry) => {
                let keys = [config.as_ref().unwrap().expose(), &backup_key];
                let opens = keys.iter().any(|key| seal::open(key, entry.path.as_bytes(), &entry.value).is_ok());
                if opens { &mut open } else { &mut shut }.push(entry.path);
            }
            Item::End => break,
        }
    }
    assert!(open.iter().any(|path| path.ends_with("/config/private-key")), "{open:?}");
    assert!(open.iter().all(|path| path.starts_with("/local/")), "{open:?}");
    // Sealed, but their names are not.
    for known in ["/authentication/operator", "/key/RSA", "/key/.ns1/", "/namespace/ns1", "/config/backup-key"] {
        assert!(shut.iter().any(|path| path.starts_with(known)), "{known}: {shut:?}");
    }
}
