//! OpenDNSSEC's tool for its repositories of keys.

use casemate_testkit::{OPERATOR, admin};

use crate::harness::{Passphrases, Rig, module};
use crate::{printed, shell};

#[test]
fn opendnssec_generates_tests_and_removes_keys() {
    let rig = Rig::new(Passphrases::Administrator);
    let config = format!(
        "<?xml version=\"1.0\"?>\n<Configuration>\n<RepositoryList>\n<Repository name=\"hsm\">\n<Module>{}</Module>\n\
         <TokenLabel>test</TokenLabel>\n<PIN>{OPERATOR}</PIN>\n</Repository>\n</RepositoryList>\n<Common>\n\
         <PolicyFile>kasp.xml</PolicyFile>\n<ZoneListFile>zonelist.xml</ZoneListFile>\n</Common>\n<Enforcer>\n\
         <Datastore><SQLite>kasp.db</SQLite></Datastore>\n</Enforcer>\n<Signer/>\n</Configuration>\n",
        module().display()
    );
    rig.folder.file("conf.xml", config);
    let generate = |kind: &str| {
        let generated = printed(&shell(&rig, &format!("ods-hsmutil -c conf.xml generate hsm {kind}")));
        generated.trim().rsplit(' ').next().unwrap().to_owned()
    };
    let (rsa, p256, p384) = (generate("rsa 2048"), generate("ecdsa 256"), generate("ecdsa 384"));
    let listed = printed(&shell(&rig, "ods-hsmutil -c conf.xml list hsm"));
    // The key that was there is on Ed25519.
    assert!(listed.contains("4 keys found."), "{listed}");
    for (id, kind) in [(&rsa, "RSA/2048"), (&p256, "ECDSA/256"), (&p384, "ECDSA/384")] {
        assert!(listed.lines().any(|line| line.contains(id) && line.contains(kind)), "{listed}");
    }
    for (id, algorithm) in [(&rsa, 8), (&p256, 13), (&p384, 14)] {
        let record =
            printed(&shell(&rig, &format!("ods-hsmutil -c conf.xml dnskey {id} example.test 257 {algorithm}")));
        assert!(record.contains(&format!("DNSKEY\t257 3 {algorithm} ")), "{record}");
    }
    shell(&rig, "ods-hsmspeed -c conf.xml -r hsm -i 10 -s 2048 -t 4");

    // Its exit status is the number of key types that a repository does not have, such as DSA.
    let tested = printed(&shell(&rig, "ods-hsmutil -c conf.xml test hsm 2>/dev/null || test $? -lt 100"));
    for step in ["RSA/SHA1", "RSA/SHA256", "RSA/SHA512"] {
        assert_eq!(tested.matches(&format!("Signing ({step}) with key... OK")).count(), 4, "{tested}");
    }
    for step in ["ED25519 key... OK", "Signing with key... OK", "1024 bytes of random data... OK"] {
        assert!(tested.contains(step), "{tested}");
    }
    for id in [rsa, p256, p384] {
        shell(&rig, &format!("ods-hsmutil -f -c conf.xml remove {id}"));
        assert!(!ids(&rig).contains(&id), "{id}");
    }
}

/// The keys of the server.
fn ids(rig: &Rig) -> Vec<String> {
    let keys = admin(&rig.hsm.as_ref().unwrap().client()).keys().list(&Default::default()).unwrap();
    keys.into_iter().map(|key| key.id).collect()
}
