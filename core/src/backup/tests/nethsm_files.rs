//! Files in the form that a NetHSM writes, and what a NetHSM needs in the files of Casemate.

use super::*;

/// Builds a file in the form that a NetHSM writes.
pub(super) fn nethsm(version: Version, tweak: impl Fn(&mut Vec<(String, Vec<u8>)>, &DomainKey)) -> Vec<u8> {
    let domain = DomainKey::new([0x42; 32]);
    let (unlock_salt, backup_salt, config_key) = ([1; 16], [2; 16], [3; 32]);
    let unlock = kdf::unlock_key(UNLOCK.as_bytes(), &unlock_salt);
    // The same in every file of one device.
    let locked = seal::seal_at(unlock.expose(), [5; 12], b"passphrase", domain.expose());
    let key = kdf::backup_key(BACKUP.as_bytes(), &backup_salt);
    let mut entries: Vec<(String, Vec<u8>)> = vec![(nethsm::INITIALIZED.into(), vec![])];
    let stored = |store: NethsmStore, path: &str, value: &[u8]| {
        let sealed = seal::seal(store.key(&domain).expose(), path.as_bytes(), value, &TestRng);
        (path.to_owned(), sealed)
    };
    for store in [NethsmStore::Users, NethsmStore::Keys, NethsmStore::Namespaces] {
        entries.push(stored(store, &store.version_path(), b"0"));
    }
    for (path, role) in
        [("admin", "Administrator"), ("operator", "Operator"), (".ns1/op", "Operator"), ("ns1~two", "Operator")]
    {
        let salt = [0xa0 + path.len() as u8; 16];
        let digest = kdf::user_digest_v0(format!("passphrase of {path}").as_bytes(), &salt);
        let digest = Digest { scheme: Scheme::HmacSha256, salt, hash: digest };
        let role = Role::ALL.into_iter().find(|known| format!("{known:?}") == role).unwrap();
        let user = UserRecord { real_name: path.into(), role, digest, tags: Default::default() };
        entries.push(stored(NethsmStore::Users, &nethsm::user_path(path), &nethsm::write_user(&user)));
    }
    let json = |id: &str, key_type| {
        let key = some_key(key_type, "");
        let json = nethsm::write_key(&key, Some(&[0xff, 0, b'"', b'\\']), 7).unwrap().to_vec();
        stored(NethsmStore::Keys, id, &json)
    };
    entries.extend([json("/key/rsa", KeyType::RSA), json("/key/.ns1/ed", KeyType::Curve25519)]);
    entries.push(stored(NethsmStore::Namespaces, "/namespace/ns1", b"\"ns1\""));
    let tls = identity();
    let device: [(DeviceItem, Vec<u8>); 6] = [
        (DeviceItem::UnlockSalt, unlock_salt.to_vec()),
        (DeviceItem::Certificate, nethsm::write_chain(&tls.chain)),
        (DeviceItem::PrivateKey, nethsm::write_private_pem(&tls.private_key).to_vec()),
        (DeviceItem::TimeOffset, b"-86400".to_vec()),
        (DeviceItem::UnattendedBoot, b"0".to_vec()),
        (DeviceItem::Attended, vec![9; 88]),
    ];
    for (item, value) in device {
        let path = item.path("0000000000");
        match version {
            Version::V0 => entries.push((path.replace("/local/0000000000", ""), value)),
            Version::V1 if item == DeviceItem::Attended => entries.push((path, value)),
            Version::V1 => {
                let sealed = seal::seal(&config_key, path.as_bytes(), &value, &TestRng);
                entries.push((path, sealed));
                // Another member of the cluster, whose entries this device ignores.
                entries.push((item.path("1111111111"), vec![1; 40]));
            }
        }
    }
    match version {
        Version::V0 => {
            entries.push((nethsm::BACKUP_KEY.into(), key.expose().to_vec()));
            entries.push((nethsm::BACKUP_SALT.into(), backup_salt.to_vec()));
            entries.push((nethsm::CONFIG_VERSION.into(), b"0".to_vec()));
        }
        Version::V1 => {
            entries.push(stored(NethsmStore::Config, nethsm::BACKUP_KEY, key.expose()));
            entries.push(stored(NethsmStore::Config, nethsm::BACKUP_SALT, &backup_salt));
            entries.push((nethsm::CONFIG_VERSION.into(), b"1".to_vec()));
        }
    }
    entries.sort();
    tweak(&mut entries, &domain);

    let mut file = Vec::new();
    push_start(&mut file, version, &backup_salt).unwrap();
    let sealed = |label: &str, plain: &[u8]| seal::seal(key.expose(), label.as_bytes(), plain, &TestRng);
    let mut fields = vec![(Field::Version, vec![version.byte()]), (Field::DomainKey, locked)];
    if version == Version::V1 {
        fields.extend([(Field::DeviceId, b"0000000000".to_vec()), (Field::ConfigKey, config_key.to_vec())]);
    }
    for (field, plain) in fields {
        push_framed(&mut file, &sealed(field.label(), &plain)).unwrap();
    }
    for (path, value) in entries {
        let mut plain = Vec::new();
        push_framed(&mut plain, path.as_bytes()).unwrap();
        plain.extend(value);
        push_framed(&mut file, &sealed("backup", &plain)).unwrap();
    }
    if version == Version::V1 {
        push_end(&mut file);
    }
    file
}

fn logs_in(hsm: &Hsm, name: &str, passphrase: &str) -> bool {
    use crate::identity::caller::Evidence;
    let address = "10.0.0.1".parse().unwrap();
    block_on(op(hsm).authenticate(Evidence::Basic { name, passphrase: passphrase.as_bytes(), address })).is_ok()
}

#[test]
fn files_of_a_nethsm_are_restored_with_its_users_and_their_passphrases() {
    for version in [Version::V0, Version::V1] {
        let file = nethsm(version, |_, _| {});
        let sim = device(4);
        let hsm = boot(&sim);
        let clock = hsm.now().as_second();
        restore(&hsm, &file).unwrap();
        assert_eq!((hsm.state(), hsm.now().as_second()), (State::Locked, clock - 86400));
        unlock(&hsm, UNLOCK).unwrap();
        let lines = described(&hsm);
        let begins = |text: &str| lines.iter().filter(|line| line.starts_with(text)).count();
        assert_eq!((begins("ns1~op "), begins("ns1~two "), begins("/rsa "), begins("ns1/ed ")), (1, 1, 1, 1));
        assert!(lines.iter().all(|line| !line.contains("Scrypt")));
        assert_eq!(lines.iter().filter(|line| line.contains(" 7 Some([255, 0, 34, 92]) ")).count(), 2);
        assert!(logs_in(&hsm, "admin", "passphrase of admin") && logs_in(&hsm, "ns1~two", "passphrase of ns1~two"));
        // Their digests are hardened, and the passphrases stay the same.
        block_on(op(&hsm).users().harden_digests()).unwrap();
        assert!(described(&hsm).iter().all(|line| !line.contains("HmacSha256")));
        assert!(logs_in(&hsm, "operator", "passphrase of operator") && !logs_in(&hsm, "operator", "other"));
        // A backup made here now is restored without a passphrase, with the hardened digests.
        let expected = described(&hsm);
        let again = backup_of(&hsm);
        restore_as(&hsm, &again, None, None).unwrap();
        assert_eq!(described(&hsm), expected);
        // The NetHSM's own file as well, which has the same Domain Key.
        restore_as(&hsm, &file, None, None).unwrap();
        assert_eq!(hsm.state(), State::Operational);
        assert_eq!(described(&hsm), lines);
    }
}

#[test]
fn unreadable_entries_are_left_out_of_a_full_restore_and_fail_a_partial_one() {
    let bad = |entries: &mut Vec<(String, Vec<u8>)>, domain: &DomainKey| {
        let stored = |path: &str, value: &[u8]| {
            let sealed = seal::seal(NethsmStore::Keys.key(domain).expose(), path.as_bytes(), value, &TestRng);
            (path.to_owned(), sealed)
        };
        entries.push(stored("/key/odd", b"{\"mechanisms\":[],\"priv\":{\"PEM\":\"x\"},\"shape\":1}"));
        entries.push(stored("/key/.nowhere/k", b"{}"));
        entries.push(("/key/unsealed".into(), b"{}".to_vec()));
        entries.push(("/key/a/b".into(), b"{}".to_vec()));
        entries.push(("/new/thing".into(), b"{}".to_vec()));
    };
    let (good, file) = (nethsm(Version::V1, |_, _| {}), nethsm(Version::V1, bad));
    let (one, two) = (boot(&device(5)), boot(&device(6)));
    restore(&one, &good).unwrap();
    restore(&two, &file).unwrap();
    unlock(&one, UNLOCK).unwrap();
    unlock(&two, UNLOCK).unwrap();
    let names = |hsm| described(hsm).iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&one), names(&two));
    let before = described(&one);
    let why = refusal(restore(&one, &file));
    assert!(why.starts_with("The entry /key/.nowhere/k of the backup cannot be read"), "{why}");
    assert_eq!(described(&one), before);
}

#[test]
fn a_file_that_lacks_what_every_backup_has_changes_nothing() {
    let path = |item: DeviceItem| item.path("0000000000");
    let tls_of_another = nethsm::write_chain(&identity().chain);
    let certificate = path(DeviceItem::Certificate);
    let config_key = [3; 32];
    let other = seal::seal(&config_key, certificate.as_bytes(), &tls_of_another, &TestRng);
    for (named, value, part) in [
        (path(DeviceItem::UnlockSalt), None, "lacks entries"),
        (path(DeviceItem::PrivateKey), None, "no TLS key"),
        (certificate.clone(), None, "no TLS key"),
        (certificate, Some(other), "do not belong together"),
        (nethsm::CONFIG_VERSION.to_owned(), None, "lacks entries"),
        (nethsm::CONFIG_VERSION.to_owned(), Some(b"2".to_vec()), "unknown version"),
        (path(DeviceItem::UnlockSalt), Some(vec![0; 44]), "does not open"),
    ] {
        let file = nethsm(Version::V1, |entries, _| {
            entries.retain(|(path, _)| *path != named);
            entries.extend(value.clone().map(|value| (named.clone(), value)));
        });
        let sim = device(7);
        let hsm = boot(&sim);
        let (shared, local) = (sim.store.raw_rows(), sim.local.raw_rows());
        let why = refusal(restore(&hsm, &file));
        assert!(why.contains(part), "{named}: {why}");
        assert_eq!((hsm.state(), sim.store.raw_rows(), sim.local.raw_rows()), (State::Unprovisioned, shared, local));
    }
}

#[test]
fn our_files_have_what_a_nethsm_needs_to_boot() {
    let (_, hsm) = world();
    let file = backup_of(&hsm);
    let domain = DomainKey::new(*op(&hsm).domain().expose());
    let mut reader = Reader::default();
    reader.feed(&file);
    reader.finish();
    let (_, salt) = reader.start().unwrap().unwrap();
    reader.unlock(kdf::backup_key(BACKUP.as_bytes(), &salt));
    let Some(Item::Head(head)) = reader.item().unwrap() else { panic!() };
    let config = head.config_key.as_ref().unwrap();
    let mut found = std::collections::BTreeMap::new();
    while let Some(item) = reader.item().unwrap() {
        if let Item::Entry(entry) = item {
            found.insert(entry.path, entry.value);
        }
    }
    assert!(reader.at_end() && head.ours && head.device_id == hsm.device_id());
    assert_eq!((found["/config/version"].as_slice(), found["/.initialized"].as_slice()), (&b"1"[..], &b""[..]));
    for store in [NethsmStore::Users, NethsmStore::Keys, NethsmStore::Namespaces] {
        let path = store.version_path();
        assert_eq!(*nethsm::open(&store.key(&domain), &path, &found[&path]).unwrap(), *b"0");
    }
    for path in [nethsm::BACKUP_KEY, nethsm::BACKUP_SALT] {
        nethsm::open(&NethsmStore::Config.key(&domain), path, &found[path]).unwrap();
    }
    let item = |item: DeviceItem| {
        let path = item.path(&head.device_id);
        seal::open(config.expose(), path.as_bytes(), &found[&path]).unwrap()
    };
    let unlock = kdf::unlock_key(UNLOCK.as_bytes(), item(DeviceItem::UnlockSalt).as_slice().try_into().unwrap());
    assert_eq!(*seal::open(unlock.expose(), b"passphrase", &head.locked_domain_key).unwrap(), *domain.expose());
    assert!(item(DeviceItem::PrivateKey).starts_with(b"-----BEGIN PRIVATE KEY-----\n"));
    assert_eq!(nethsm::read_chain(&item(DeviceItem::Certificate)).unwrap().len(), 1);
    assert_eq!(*item(DeviceItem::UnattendedBoot), *b"1");
    assert!(nethsm::read_seconds(&item(DeviceItem::TimeOffset)).unwrap() > 0);
    assert_eq!(found[&DeviceItem::Attended.path(&head.device_id)].len(), 88);
    assert!(found.contains_key("/authentication/ns1~operator") && found.contains_key("/key/.ns1/k69"));
    assert!(found.contains_key("/namespace/ns2") && !found.contains_key("/namespace/gone"));
}

/// Files made by real NetHSM software, in the folder that `NETHSM_BACKUPS` names.
#[test]
#[allow(clippy::print_stderr, clippy::disallowed_methods, reason = "a skip must be seen; this is a test")]
fn backups_of_a_real_nethsm_are_restored() {
    let Some(folder) = std::env::var_os("NETHSM_BACKUPS") else {
        eprintln!("SKIPPED: NETHSM_BACKUPS names no folder with nethsm-backup-v0.bin and nethsm-backup-v1.bin");
        return;
    };
    for name in ["nethsm-backup-v0.bin", "nethsm-backup-v1.bin"] {
        let file = std::fs::read(std::path::Path::new(&folder).join(name)).unwrap();
        let hsm = boot(&device(13));
        assert!(
            refusal(restore_as(&hsm, &file, Some("wrong passphrase"), None)).contains("Is the passphrase correct?")
        );
        restore_as(&hsm, &file, Some("backupbackup"), None).unwrap();
        assert_eq!(hsm.state(), State::Locked);
        unlock(&hsm, "unlockunlock").unwrap();
        let lines = described(&hsm);
        for begin in ["admin ", "backup ", "operator ", "/mykey "] {
            assert!(lines.iter().any(|line| line.starts_with(begin)), "{name}: {begin}");
        }
        assert_eq!(lines.len(), 4);
        // Again while it serves, because its Domain Key is the same.
        restore_as(&hsm, &file, None, None).unwrap();
        assert_eq!((hsm.state(), described(&hsm)), (State::Operational, lines.clone()));
        let again = backup_of(&hsm);
        restore_as(&hsm, &again, None, None).unwrap();
        assert_eq!(described(&hsm), lines);
    }
}

/// A file without an Administrator can be opened and read, but nobody could manage the restored HSM.
#[test]
fn a_backup_that_would_lock_everybody_out_is_undone_at_unlock() {
    let nobody = |entries: &mut Vec<(String, Vec<u8>)>, _: &DomainKey| {
        entries.retain(|(path, _)| path != "/authentication/admin");
    };
    let file = nethsm(Version::V1, nobody);
    let why = "The backup has no Administrator, so nobody could manage the HSM. Nothing was restored.";

    let fresh = boot(&device(7));
    restore(&fresh, &file).unwrap();
    assert_eq!(fresh.state(), State::Locked);
    assert_eq!(refusal(unlock(&fresh, UNLOCK)), why);
    assert_eq!(fresh.state(), State::Unprovisioned);
    restore(&fresh, &nethsm(Version::V1, |_, _| {})).unwrap();
    unlock(&fresh, UNLOCK).unwrap();
    let before = described(&fresh);
    // The same Domain Key: refused at once.
    assert_eq!(refusal(restore(&fresh, &file)), why);
    assert_eq!(described(&fresh), before);

    // Another Domain Key: the one before comes back with its data and its passphrase.
    let (sim, own) = world();
    let before = described(&own);
    restore(&own, &file).unwrap();
    assert_eq!(own.state(), State::Locked);
    assert_eq!(refusal(unlock(&own, UNLOCK)), why);
    drop(own);
    let own = boot(&sim);
    assert_eq!(own.state(), State::Operational, "its unattended boot is back, too");
    assert_eq!(described(&own), before);
}

/// Restoring a file whose unlock passphrase nobody knows does not lock its user out.
#[test]
fn the_former_unlock_passphrase_undoes_a_restore_until_the_new_one_was_used() {
    let (sim, own) = world();
    let before = described(&own);
    let other = boot(&device(31));
    block_on(other.provision(secret("a passphrase that is lost"), secret("the admin passphrase"), TIME)).unwrap();
    let by = admin(&op(&other));
    block_on(op(&other).backups().change_passphrase(&by, &secret(BACKUP), &secret(""))).unwrap();
    let file = backup_of(&other);

    restore(&own, &file).unwrap();
    assert_eq!(own.state(), State::Locked);
    // Also after a restart, and as often as it is tried.
    let own = boot(&sim);
    assert!(matches!(unlock(&own, "neither of the two"), Err(Error::Forbidden(_))));
    sim.clock.advance(std::time::Duration::from_secs(2));
    unlock(&own, UNLOCK).unwrap();
    assert_eq!(described(&own), before);
    assert_eq!(block_on(Procedure::stored(&own.device().store)).unwrap(), None);
    assert!(block_on(op(&own).unattended_boot()).unwrap(), "its unattended boot is back, too");
    assert_eq!(generations(&sim), [1], "what was staged is gone");

    restore(&own, &file).unwrap();
    unlock(&own, "a passphrase that is lost").unwrap();
    let by = admin(&op(&own));
    block_on(own.lock(op(&own), &by)).unwrap();
    assert!(matches!(unlock(&own, UNLOCK), Err(Error::Forbidden(_))), "from then on there is no way back");
}

/// Undoing a restore also undoes its time.
#[test]
fn an_undone_restore_gives_the_clock_back_too() {
    const LATER: &str = "2041-02-03T04:05:06Z";
    let year = |hsm: &Hsm| hsm.now().to_string()[..4].to_owned();
    let nobody = |entries: &mut Vec<(String, Vec<u8>)>, _: &DomainKey| {
        entries.retain(|(path, _)| path != "/authentication/admin");
    };
    let file = nethsm(Version::V1, nobody);

    let (sim, own) = world();
    let before = year(&own);
    assert_ne!(before, "2041");
    restore_as(&own, &file, Some(BACKUP), Some(LATER)).unwrap();
    assert_eq!(year(&own), "2041");
    unlock(&own, UNLOCK).unwrap_err();
    assert_eq!(year(&own), before, "undone because of its file");
    assert_eq!(year(&boot(&sim)), before);

    let other = boot(&device(32));
    block_on(other.provision(secret("a passphrase that is lost"), secret("the admin passphrase"), TIME)).unwrap();
    let by = admin(&op(&other));
    block_on(op(&other).backups().change_passphrase(&by, &secret(BACKUP), &secret(""))).unwrap();
    let own = boot(&sim);
    restore_as(&own, &backup_of(&other), Some(BACKUP), Some(LATER)).unwrap();
    unlock(&own, UNLOCK).unwrap();
    assert_eq!(year(&own), before, "undone by the former unlock passphrase");
    assert_eq!(year(&boot(&sim)), before);

    let fresh = boot(&device(33));
    let before = year(&fresh);
    restore_as(&fresh, &file, Some(BACKUP), Some(LATER)).unwrap();
    unlock(&fresh, UNLOCK).unwrap_err();
    assert_eq!((fresh.state(), year(&fresh)), (State::Unprovisioned, before));
}

/// V0 has no end mark: a file cut off between two entries is detected by the missing last entry that every file has.
#[test]
fn a_v0_file_that_breaks_off_between_entries_is_refused() {
    let cut = |entries: &mut Vec<(String, Vec<u8>)>, _: &DomainKey| {
        entries.retain(|(path, _)| path != "/namespace/.version");
    };
    let hsm = boot(&device(8));
    assert_eq!(
        refusal(restore(&hsm, &nethsm(Version::V0, cut))),
        "The backup file was truncated. Nothing was restored."
    );
    assert_eq!(hsm.state(), State::Unprovisioned);
}

/// Another implementation reads the V0 files of these tests to the same entries, which shows that they are V0.
#[test]
fn another_reader_finds_the_same_entries_in_a_v0_file() {
    let file = nethsm(Version::V0, |_, _| {});
    let theirs = nethsm_backup::Backup::parse(file.as_slice()).unwrap();
    let theirs = theirs.decrypt(BACKUP.as_bytes()).unwrap();
    assert_eq!(theirs.version().unwrap(), [0]);
    let mut entries: Vec<(String, Vec<u8>)> = theirs.items_iter().map(Result::unwrap).collect();

    let mut reader = Reader::default();
    reader.feed(&file);
    reader.finish();
    let (_, salt) = reader.start().unwrap().unwrap();
    reader.unlock(kdf::backup_key(BACKUP.as_bytes(), &salt));
    let mut ours = Vec::new();
    while let Some(item) = reader.item().unwrap() {
        match item {
            Item::Head(head) => assert_eq!(head.locked_domain_key, theirs.domain_key().unwrap()),
            Item::Entry(entry) => ours.push((entry.path, entry.value.to_vec())),
            Item::End => {}
        }
    }
    entries.sort();
    ours.sort();
    assert!(entries.len() > 12, "{}", entries.len());
    assert_eq!(ours, entries);
}
