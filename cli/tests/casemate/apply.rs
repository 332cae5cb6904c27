//! `apply` and `diff`, from the file of `docs/apply.md` to an HSM that is killed on the way.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use casemate_api::{Passphrase, UserId};
use casemate_client::{Client, Settings, Trust};
use serde_json::{Value, json};

use crate::harness::{ADMIN, Hsm, Ran, run};
use crate::lossy_proxy::{Lose, LossyProxy};
use crate::pty::Person;

const CI_ADMIN: &str = "passphrase of ci~admin";
const RUNNER: &str = "passphrase of ci~runner";
const BACKUP_USER: &str = "passphrase of backup";
const BACKUP: &str = "passphrase of backups";
const SECRETS: [&str; 5] = [ADMIN, CI_ADMIN, RUNNER, BACKUP_USER, BACKUP];

/// An HSM, and beside it what the example of the document names.
struct Example {
    hsm: Hsm,
    file: String,
}

impl Example {
    fn new() -> Self {
        let hsm = Hsm::operational();
        fs::create_dir(hsm.folder.path("secrets")).unwrap();
        hsm.folder.file("secrets/ci-admin", format!("{CI_ADMIN}\n"));
        let pass =
            hsm.folder.file("pass", format!("#!/bin/sh\n[ \"$*\" = \"show hsm/ci-runner\" ] && echo '{RUNNER}'\n"));
        fs::set_permissions(pass, fs::Permissions::from_mode(0o700)).unwrap();
        hsm.folder.file("web.pem", "any bytes");
        let client = Client::new(Settings { trust: Trust::Anyone, ..Settings::of([&hsm.address]) }).unwrap();
        let admin = client.log_in(&UserId::parse("admin").unwrap(), Passphrase::from_text(ADMIN.into()));
        // Line ends and text around the certificate do not make another one of it.
        let own = admin.config().tls_certificate().unwrap().replace('\n', "\r\n");
        hsm.folder.file("hsm.pem", format!("The certificate of the HSM\n{own}"));
        let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/apply.md")).unwrap();
        let (_, rest) = document.split_once("```toml\n").unwrap();
        let (example, _) = rest.split_once("```").unwrap();
        let file = hsm.folder.file("set-up.toml", example);
        Self { hsm, file }
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        at(&self.hsm.address, &self.hsm.folder.path(""), arguments)
    }

    fn apply(&self, options: &[&str]) -> Ran {
        self.run(&[&["apply", &self.file], options].concat())
    }

    fn diff(&self, options: &[&str]) -> Ran {
        self.run(&[&["diff", &self.file], options].concat())
    }

    /// Exchanges a part of the file.
    fn edit(&self, from: &str, to: &str) {
        let text = fs::read_to_string(&self.file).unwrap();
        assert!(text.contains(from), "{from}");
        fs::write(&self.file, text.replacen(from, to, 1)).unwrap();
    }

    fn ci(&self, arguments: &[&str]) -> Ran {
        self.hsm.with(("ci~admin", CI_ADMIN), arguments, b"")
    }
}

fn at(address: &str, folder: &Path, arguments: &[&str]) -> Ran {
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let environment = [
        ("CASEMATE_PASSPHRASE", ADMIN),
        ("HSM_BACKUP_USER", BACKUP_USER),
        ("HSM_BACKUP_PASSPHRASE", BACKUP),
        ("PATH", path.as_str()),
    ];
    let ran = run(&[&["--host", address, "--insecure", "--user", "admin"], arguments].concat(), &environment, b"");
    for secret in SECRETS {
        assert!(!String::from_utf8_lossy(&ran.out).contains(secret) && !ran.err.contains(secret), "{ran:?}");
    }
    ran
}

/// Standard output and standard error, after this exit code.
#[track_caller]
fn ends(ran: Ran, code: i32) -> (String, String) {
    assert_eq!(ran.code, code, "{ran:?}");
    (String::from_utf8(ran.out).unwrap(), ran.err)
}

fn openssl(arguments: &[&str]) {
    let message = Command::new("openssl").args(arguments).output().unwrap();
    assert!(message.status.success(), "{}", String::from_utf8_lossy(&message.stderr));
}

#[test]
fn the_example_of_the_document_makes_everything_and_then_there_is_nothing_to_do() {
    let example = Example::new();
    let (plan, message) = ends(example.diff(&[]), 14);
    assert!(message.contains("differs from") && message.contains("in 11 points"), "{message}");
    assert!(plan.contains("+ user ci~runner (Operator)\n") && plan.contains("+ key web (RSA 2048)\n"), "{plan}");
    assert!(!plan.contains("op:") && ends(example.diff(&["--all"]), 14).0.contains("  user op: not in the file\n"));
    assert!(example.apply(&[]).err.contains("--yes"), "without a terminal nothing is done");
    example.apply(&["--json"]).fails(2);
    assert_eq!(example.hsm.admin(&["namespace", "list", "--json"]).json(), json!([]));

    let printed = example.apply(&["--yes", "--set-backup-passphrase"]).ok();
    let order = ["+ user ci~admin", "+ namespace ci", "+ user ci~runner", "+ tag release of user ci~runner", "+ key"];
    let places: Vec<_> = order.iter().map(|line| printed.find(line).expect(line)).collect();
    assert!(places.is_sorted() && printed.ends_with("12 of 12 done.\n"), "{printed}");
    assert_eq!(example.apply(&["--yes"]).ok(), "Nothing to do.\n");
    assert_eq!(example.diff(&[]).ok(), "Nothing differs.\n");

    let key = example.ci(&["key", "show", "release", "--json"]).json();
    assert_eq!((&key["label"], &key["restrictions"]), (&json!("Signs releases"), &json!({ "tags": ["release"] })));
    assert_eq!(example.hsm.admin(&["key", "cert", "get", "web"]).ok(), "any bytes");
    let message = example.hsm.folder.file("message", "m");
    let sign = ["sign", "release", &message, "-m", "ECDSA"];
    example.hsm.with(("ci~runner", RUNNER), &sign, b"").ok();
    // The Backup Passphrase is left alone once there is one.
    let again = example.apply(&["--yes", "--set-backup-passphrase"]).ok();
    assert!(again.contains("backup-passphrase (unless one is set)"), "{again}");

    // The same in YAML.
    let yaml = example.hsm.folder.file(
        "set-up.yaml",
        "namespaces: [ci]\n\
         users:\n  - {name: ci~admin, role: Administrator, passphrase-file: secrets/ci-admin}\n\
         keys:\n  - id: release\n    namespace: ci\n    type: EC_P256\n    mechanisms: [ECDSA_Signature]\n    \
         tags: [release]\n    label: Signs releases\n\
         config:\n  unattended-boot: off\n  logging: {ip-address: 192.0.2.5, port: 514, log-level: warning}\n",
    );
    assert_eq!(example.run(&["diff", &yaml]).ok(), "Nothing differs.\n");
}

#[test]
fn drift_is_shown_and_repaired() {
    let example = Example::new();
    example.apply(&["--yes"]).ok();
    example.ci(&["key", "label", "release", "Mine"]).ok();
    example.ci(&["user", "tag", "rm", "ci~runner", "release"]).ok();
    example.ci(&["key", "tag", "rm", "release", "release"]).ok();
    example.hsm.admin(&["user", "delete", "backup", "--yes"]).ok();
    example.hsm.admin(&["key", "cert", "rm", "web", "--yes"]).ok();
    example.edit("192.0.2.5", "192.0.2.9");
    let (drift, _) = ends(example.diff(&[]), 14);
    assert_eq!(
        drift,
        "+ user backup (Backup)\n\
         + tag release of user ci~runner\n\
         + tag release of key release in ci\n\
         ~ label of key release in ci: \"Mine\" becomes \"Signs releases\"\n\
         + certificate of key web\n\
         ~ logging: {\"ipAddress\":\"192.0.2.5\",\"logLevel\":\"warning\",\"port\":514} becomes \
         {\"ipAddress\":\"192.0.2.9\",\"logLevel\":\"warning\",\"port\":514}\n\
         4 to create, 2 to change, 0 to delete.\n"
    );
    example.hsm.folder.file("web.pem", "other bytes");
    let value: Value = serde_json::from_str(&ends(example.diff(&["--json"]), 14).0).unwrap();
    assert_eq!(value["steps"].as_array().unwrap().len(), 6);
    let label = json!({ "action": "change", "kind": "key-label", "id": "release", "namespace": "ci",
        "from": "Mine", "to": "Signs releases" });
    assert_eq!((&value["steps"][3], &value["stuck"]), (&label, &json!([])));
    let done = example.apply(&["--json", "--yes"]).json();
    assert!(done["steps"].as_array().unwrap().iter().all(|step| step["state"] == "done"), "{done}");
    assert_eq!(example.diff(&[]).ok(), "Nothing differs.\n");
    assert_eq!(example.hsm.admin(&["key", "cert", "get", "web"]).ok(), "other bytes");
    // The HSM's own certificate is exchanged for one that a CA made of its request.
    let csr =
        example.hsm.folder.file("csr.pem", example.hsm.admin(&["config", "tls", "csr", "--common-name", "hsm"]).ok());
    let [ca, ca_key, hsm] = ["ca.pem", "ca.key", "hsm.pem"].map(|name| example.hsm.at(name));
    openssl(&["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=CA", "-keyout", &ca_key, "-out", &ca]);
    openssl(&[
        "x509",
        "-req",
        "-in",
        &csr,
        "-CA",
        &ca,
        "-CAkey",
        &ca_key,
        "-CAcreateserial",
        "-copy_extensions",
        "copyall",
        "-out",
        &hsm,
    ]);
    assert!(example.apply(&["--yes"]).ok().starts_with("~ tls-certificate\n0 to create, 1 to change"));
    assert_eq!(example.diff(&[]).ok(), "Nothing differs.\n");
    // One certificate of a key is exchanged for another.
    example.hsm.folder.file("web.pem", "newer bytes");
    assert!(example.apply(&["--yes"]).ok().contains("~ certificate of key web\n"));
    assert_eq!(example.hsm.admin(&["key", "cert", "get", "web"]).ok(), "newer bytes");
}

#[test]
fn what_cannot_be_changed_is_listed_and_kept() {
    let example = Example::new();
    example.apply(&["--yes"]).ok();
    let before = example.hsm.admin(&["key", "show", "web", "--json"]).json();
    example.edit("length = 2048", "length = 3072");
    example.edit(", \"RSA_Signature_PSS_SHA256\"", "");
    example.edit("Build machines", "Builders");
    example.edit("Signs releases", "Signs");
    let (message, why) = ends(example.apply(&["--yes"]), 14);
    assert!(message.contains("! key web: its length is 2048, but 3072 in the file: delete the key"), "{message}");
    assert!(
        message.contains("! key web: its list of mechanisms is RSA_Signature_PKCS1 RSA_Signature_PSS_SHA256,"),
        "{message}"
    );
    assert!(
        message.contains("! user ci~runner: its real name is \"Build machines\", but \"Builders\" in the file"),
        "{message}"
    );
    assert!(message.contains("1 of 1 done.") && why.contains("3 points"), "{message}{why}");
    assert_eq!(example.hsm.admin(&["key", "show", "web", "--json"]).json(), before);
    let (left, _) = ends(example.apply(&[]), 14);
    assert!(left.contains("3 that cannot be changed"), "nothing is asked where nothing can be done: {left}");

    // Nobody of the file can work in a namespace that others made.
    example.hsm.admin(&["namespace", "add", "theirs"]).ok();
    example.edit("[\"ci\"]", "[\"ci\", \"theirs\"]");
    example.edit(
        "[[users]]",
        "[[users]]\nname = \"theirs~a\"\nrole = \"Administrator\"\npassphrase-env = \"X\"\n\n[[users]]",
    );
    let (left, _) = ends(example.diff(&[]), 14);
    assert!(
        left.contains("! namespace theirs: none of its Administrators") && !left.contains("user theirs~a"),
        "{left}"
    );
}

#[test]
fn what_is_not_in_the_file_is_deleted_only_on_request() {
    let example = Example::new();
    example.apply(&["--yes"]).ok();
    example.hsm.admin(&["key", "generate", "old", "-t", "EC_P256", "-m", "ECDSA_Signature"]).ok();
    example.ci(&["user", "tag", "add", "ci~runner", "more"]).ok();
    example.ci(&["user", "add", "ci~old", "--role", "Metrics", "--new-passphrase-file", &example.hsm.at("op")]).ok();
    assert_eq!(example.apply(&["--yes"]).ok(), "Nothing to do.\n");
    let (all, _) = ends(example.diff(&["--all"]), 0);
    for line in ["user op", "user admin", "user ci~old", "tag more of user ci~runner", "key old"] {
        assert!(all.contains(&format!("  {line}: not in the file\n")), "{line}: {all}");
    }
    let (diff, _) = ends(example.diff(&["--prune"]), 14);
    assert_eq!(
        diff,
        "- tag more of user ci~runner\n- user op\n- user ci~old\n0 to create, 0 to change, 3 to delete.\n"
    );
    example.apply(&["--prune", "--yes"]).ok();
    assert_eq!(example.diff(&["--prune"]).ok(), "Nothing differs.\n");
    assert_eq!(example.hsm.admin(&["key", "list", "--json"]).json(), json!([{ "id": "old" }, { "id": "web" }]));
    example.apply(&["--prune-keys", "--yes"]).ok();
    assert_eq!(example.hsm.admin(&["key", "list", "--json"]).json(), json!([{ "id": "web" }]));

    // Users of a deleted namespace come back with it, as the plan tells; with --prune those not in the file are deleted
    // before.
    example
        .ci(&["user", "add", "ci~old", "--role", "Administrator", "--new-passphrase-file", &example.hsm.at("op")])
        .ok();
    example.hsm.admin(&["namespace", "delete", "ci", "--yes"]).ok();
    let (left, _) = ends(example.apply(&["--yes"]), 14);
    assert!(left.starts_with("! namespace ci: users of") && left.contains("roles: ci~old;"), "{left}");
    assert_eq!(example.hsm.admin(&["namespace", "list", "--json"]).json(), json!([]));
    // The passphrase of who works there is tried out before anything is changed.
    example.edit("passphrase-file = \"secrets/ci-admin\"", "passphrase-env = \"HSM_BACKUP_USER\"");
    assert!(ends(example.apply(&["--yes", "--prune"]), 5).1.contains("As ci~admin: "));
    assert_eq!(example.hsm.admin(&["namespace", "list", "--json"]).json(), json!([]));
    example.edit("passphrase-env = \"HSM_BACKUP_USER\"", "passphrase-file = \"secrets/ci-admin\"");
    let gone = example.apply(&["--yes", "--prune"]).ok();
    assert!(gone.starts_with("- user ci~old (of an earlier namespace)\n+ namespace ci (its users"), "{gone}");
    example.hsm.admin(&["namespace", "delete", "ci", "--yes"]).ok();
    let (plan, _) = ends(example.diff(&[]), 14);
    assert!(plan.contains("+ namespace ci (its users come back: ci~admin, ci~runner)\n"), "{plan}");
    example.apply(&["--yes"]).ok();
    assert_eq!(example.diff(&[]).ok(), "Nothing differs.\n");
}

#[test]
fn a_file_without_users_or_keys_deletes_none() {
    let hsm = Hsm::operational();
    hsm.admin(&["key", "generate", "k", "-t", "EC_P256", "-m", "ECDSA_Signature"]).ok();
    for (option, kind) in [("--prune", "users"), ("--prune-keys", "keys")] {
        let message = hsm.admin(&["apply", "-", "--format", "toml", "--yes", option]).fails(2);
        assert!(
            message.contains(&format!("{option} deletes {kind}")) && message.contains("is it complete?"),
            "{message}"
        );
    }
    assert_eq!(hsm.admin(&["user", "list", "--json"]).json(), json!([{ "user": "admin" }, { "user": "op" }]));
    assert_eq!(hsm.admin(&["key", "list", "--json"]).json(), json!([{ "id": "k" }]));
}

#[test]
fn the_last_tag_of_a_key_goes_after_a_second_question() {
    let hsm = Hsm::operational();
    hsm.admin(&["key", "generate", "k", "-t", "EC_P256", "-m", "ECDSA_Signature", "--tag", "t"]).ok();
    let text = "users = [{ name = \"admin\", role = \"Administrator\" }, { name = \"op\", role = \"Operator\" }]\n\
        [[keys]]\nid = \"k\"\ntype = \"EC_P256\"\nmechanisms = [\"ECDSA_Signature\"]\n";
    let file = hsm.folder.file("keys.toml", text);
    assert_eq!(hsm.admin(&["apply", &file, "--prune", "--yes"]).ok(), "Nothing to do.\n", "the file speaks of no tags");
    hsm.folder.file("keys.toml", format!("{text}tags = []\n"));
    let answers = |second: &str| {
        let arguments = ["--host", &hsm.address, "--insecure", "--user", "admin", "apply", &file, "--prune"];
        let mut person = Person::runs(&arguments, &[("CASEMATE_PASSPHRASE", ADMIN)]);
        person.sees("Continue? [y/N] ");
        person.types("y");
        person.sees("Allowing every Operator to use 1 key cannot be undone. Continue? [y/N] ");
        person.types(second);
        person.ends()
    };
    let tags = || hsm.admin(&["key", "show", "k", "--json"]).json()["restrictions"]["tags"].clone();
    let (code, plan, rest) = answers("n");
    assert_eq!((code, tags()), (13, json!(["t"])), "{rest}");
    assert!(plan.starts_with("- tag t of key k (then every Operator may use the key)\n"), "{plan}");
    let (code, _, rest) = answers("y");
    assert_eq!(code, 0, "{rest}");
    assert!(tags().as_array().is_none_or(Vec::is_empty));
}

#[test]
fn after_a_power_cut_it_goes_on_where_it_was() {
    let mut hsm = Hsm::operational();
    let keys = 40;
    let mut text = String::from("[config]\nunattended-boot = \"off\"\n");
    for key in 0..keys {
        text += &format!(
            "[[keys]]\nid = \"k{key:02}\"\ntype = \"RSA\"\nlength = 2048\nmechanisms = [\"RSA_Signature_PKCS1\"]\n"
        );
    }
    let file = hsm.folder.file("many.toml", text);
    let there = |hsm: &Hsm| hsm.admin(&["key", "list", "--json"]).json().as_array().unwrap().len();
    let applying = {
        let (address, folder, file) = (hsm.address.clone(), hsm.folder.path(""), file.clone());
        std::thread::spawn(move || at(&address, &folder, &["apply", &file, "--yes"]))
    };
    while there(&hsm) < 3 {
        assert!(!applying.is_finished(), "{:?}", applying.join());
    }
    hsm.kill();
    let (message, why) = {
        let ran = applying.join().unwrap();
        assert!([3, 11].contains(&ran.code), "{ran:?}");
        (String::from_utf8(ran.out).unwrap(), ran.err)
    };
    assert!(message.contains("Not done, as far as known:\n+ key k") && message.contains(" of 40 done.\n"), "{message}");
    assert!(why.contains("Stopped at the key k") && why.contains("run the command again to continue"), "{why}");
    hsm.restart();
    hsm.nobody(&["unlock", "--unlock-passphrase-file", &hsm.at("unlock")]).ok();
    let before = there(&hsm);
    assert!((3..keys).contains(&before), "{before}");
    let first = hsm.admin(&["key", "export-public", "k00"]);
    let (rest, _) = ends(at(&hsm.address, &hsm.folder.path(""), &["apply", &file, "--yes"]), 0);
    assert!(rest.contains(&format!("{} of {} done.\n", keys - before, keys - before)), "{rest}");
    assert_eq!(there(&hsm), keys);
    if first.code == 0 {
        assert_eq!(hsm.admin(&["key", "export-public", "k00"]).ok().as_bytes(), first.out, "none was generated again");
    }
    assert_eq!(at(&hsm.address, &hsm.folder.path(""), &["apply", &file, "--yes"]).ok(), "Nothing to do.\n");
}

#[test]
fn a_step_whose_answer_is_lost_is_checked_and_not_repeated() {
    goes_through(Lose::Answer);
    prunes_through(Lose::Answer);
}

#[test]
fn a_step_that_was_not_carried_out_is_tried_once_more() {
    goes_through(Lose::Request);
    prunes_through(Lose::Request);
}

/// Makes a key while the line loses the request for it, or the answer.
fn goes_through(what: Lose) {
    let hsm = Hsm::operational();
    let key = "[[keys]]\nid = \"k\"\ntype = \"EC_P256\"\nmechanisms = [\"ECDSA_Signature\"]\n";
    applies_through(&hsm, what, key, &[]);
    assert_eq!(hsm.admin(&["key", "list", "--json"]).json(), json!([{ "id": "k" }]));
}

/// Deletes a user and then a key likewise.
fn prunes_through(what: Lose) {
    let hsm = Hsm::operational();
    applies_through(&hsm, what, "[[users]]\nname = \"admin\"\nrole = \"Administrator\"\n", &["--prune"]);
    assert_eq!(hsm.admin(&["user", "list", "--json"]).json(), json!([{ "user": "admin" }]));
    for key in ["k", "l"] {
        hsm.admin(&["key", "generate", key, "-t", "EC_P256", "-m", "ECDSA_Signature"]).ok();
    }
    let key = "[[keys]]\nid = \"k\"\ntype = \"EC_P256\"\nmechanisms = [\"ECDSA_Signature\"]\n";
    applies_through(&hsm, what, key, &["--prune-keys"]);
    assert_eq!(hsm.admin(&["key", "list", "--json"]).json(), json!([{ "id": "k" }]));
}

/// Applies a file that has one step to do over a line that loses something of it.
fn applies_through(hsm: &Hsm, what: Lose, text: &str, options: &[&str]) {
    let lossy = LossyProxy::in_front_of(&hsm.address, what);
    let file = hsm.folder.file("one.toml", text);
    let before =
        |arguments: &[&str]| at(&lossy.address, &hsm.folder.path(""), &[arguments, &[file.as_str()], options].concat());
    // As many records as it takes to look; the next is the step's.
    ends(before(&["diff"]), 14);
    lossy.lose_after(lossy.records());
    let (message, _) = ends(before(&["--yes", "apply"]), 0);
    assert!(message.ends_with("1 of 1 done.\n"), "{message}");
    assert!(lossy.has_lost(), "something was lost");
    assert_eq!(before(&["--yes", "apply"]).ok(), "Nothing to do.\n");
}

#[test]
fn what_is_wrong_in_a_file_is_one_sentence_with_its_place() {
    let hsm = Hsm::start();
    let user = "[[users]]\nname = \"u\"\nrole = \"Operator\"\n";
    let key = "[[keys]]\nid = \"k\"\ntype = \"EC_P256\"\nmechanisms = [\"ECDSA_Signature\"]\n";
    let mistakes = [
        ("a.toml", "\n\nusres = []".into(), "a.toml line 3: unknown field `usres`"),
        ("b.toml", format!("{user}tag = []"), "b.toml line 4: unknown field `tag`"),
        (
            "c.toml",
            format!("{user}passphrase = \"{CI_ADMIN}\""),
            "c.toml line 4: a passphrase must not be in this file",
        ),
        ("d.toml", format!("[config]\nbackup-passphrase = \"{BACKUP}\""), "d.toml line 2: a passphrase must not be"),
        (
            "e.toml",
            format!("{key}private = {{ data = \"x\" }}"),
            "e.toml line 5: a private key must not be in this file",
        ),
        (
            "f.toml",
            "[[users]]\nname = \"u u\"\nrole = \"Operator\"".into(),
            "f.toml line 2: \"u u\" is not a valid user name",
        ),
        ("g.toml", "[[users]]\nname = \"u\"\nrole = \"Boss\"".into(), "g.toml line 3: unknown variant `Boss`"),
        (
            "h.toml",
            format!("{user}passphrase-file = \"a\"\npassphrase-env = \"b\""),
            "several sources of one passphrase",
        ),
        ("i.toml", format!("{user}{user}"), "The user u is listed twice"),
        ("j.toml", format!("{key}{key}"), "The key k is listed twice"),
        ("k.toml", "namespaces = [\"n\"]".into(), "The namespace n needs an Administrator"),
        ("l.toml", "[[users]]\nname = \"n~u\"\nrole = \"Operator\"".into(), "add n to namespaces"),
        ("m.toml", format!("{key}namespace = \"n\""), "The namespace of the key k in n is not listed"),
        ("n.toml", "[[users]]\nname = \"u\"\nrole = \"Backup\"\ntags = [\"t\"]".into(), "only Operators can have tags"),
        ("o.toml", format!("{key}length = 256"), "but all EC_P256 keys have the same"),
        (
            "p.toml",
            key.replace("EC_P256", "RSA").replace("ECDSA", "EdDSA"),
            "cannot have the mechanism EdDSA_Signature",
        ),
        (
            "q.toml",
            key.replace("EC_P256", "Generic").replace("ECDSA_Signature", "AES_Encryption_CBC"),
            "128 to 8192 bits",
        ),
        ("r.toml", format!("{key}label = \"{}\"", "x".repeat(33)), "at most 32 bytes are allowed"),
        ("s.toml", format!("{key}certificate-file = \"none.pem\""), "none.pem cannot be read"),
        (
            "t.toml",
            "[config.network]\nip-address = \"10.0.0.1\"\nnetmask = \"255.0.255.0\"".into(),
            "t.toml line 3: 255.0.255.0 is not a netmask",
        ),
        ("u.toml", "[config]\ntime = 1".into(), "u.toml line 2: unknown field `time`"),
        ("v.toml", "keys = [".into(), "v.toml line 1: "),
        (
            "w.toml",
            "[[keys]]\nid = \"k\"\ntype = \"EC_P256\"\nmechanisms = []".into(),
            "The key k needs at least one mechanism",
        ),
        (
            "a.yaml",
            "users:\n  - name: u\n    role: Operator\n    tag: []\n".into(),
            "a.yaml line 4: unknown field `tag`",
        ),
        (
            "b.yaml",
            format!("users:\n  - name: u\n    role: Operator\n    passphrase: {CI_ADMIN}\n"),
            "b.yaml line 4: a passphrase must not",
        ),
        ("c.yml", "users:\n - name: u\n   name: v\n".into(), "c.yml line 3: duplicate"),
        ("d.yaml", "users: [\n".into(), "d.yaml line "),
        ("set-up", String::new(), "give --format"),
    ];
    for (name, text, sentence) in mistakes {
        let file = hsm.folder.file(name, text);
        let message = at(&hsm.address, &hsm.folder.path(""), &["apply", &file, "--yes"]);
        assert!([1, 2].contains(&message.code) && message.out.is_empty(), "{message:?}");
        assert!(message.err.contains(sentence) && message.err.lines().count() == 1, "{name}: {}", message.err);
    }
    let missing: PathBuf = hsm.folder.path("missing.toml");
    let message = at(&hsm.address, &hsm.folder.path(""), &["diff", missing.to_str().unwrap()]).fails(1);
    assert!(message.contains("missing.toml cannot be read"), "{message}");
}

#[test]
fn a_missing_passphrase_is_noticed_before_anything_is_changed() {
    let hsm = Hsm::operational();
    let text = "[[users]]\nname = \"a\"\nrole = \"Metrics\"\npassphrase-file = \"op\"\n\
                [[users]]\nname = \"b\"\nrole = \"Metrics\"\n";
    for (end, sentence) in [
        ("", "The passphrase of b is needed, but the file does not tell where it is"),
        ("passphrase-env = \"NOT_SET\"", "The passphrase of b: The environment variable NOT_SET is not set."),
        ("passphrase-file = \"nowhere\"", "nowhere cannot be read"),
        ("passphrase-command = \"printf short\"", "The passphrase of b: a passphrase must have 10 to 200 bytes"),
    ] {
        let file = hsm.folder.file("users.toml", format!("{text}{end}\n"));
        let ran = at(&hsm.address, &hsm.folder.path(""), &["apply", &file, "--yes"]);
        assert!([1, 2].contains(&ran.code) && ran.err.contains(sentence), "{ran:?}");
        assert_eq!(hsm.admin(&["user", "list", "--json"]).json(), json!([{ "user": "admin" }, { "user": "op" }]));
    }
    // The same file from standard input; who cannot log in is named.
    let (arguments, text) = (
        ["apply", "-", "--format", "yaml", "--yes"],
        "namespaces: [n]\nusers:\n  - name: n~a\n    \
        role: Administrator\n    passphrase-command: echo wrong passphrase\n",
    );
    let stdin = |text: &str| hsm.with(("admin", ADMIN), &arguments, text.as_bytes());
    assert!(stdin(text).ok().contains("2 of 2 done."));
    let message = stdin(&text.replace("wrong", "another")).fails(5);
    assert!(message.contains("As n~a: "), "{message}");

    // A command that makes up another passphrase each time is asked once in a run.
    let once = "namespaces = [\"m\"]\n[[users]]\nname = \"m~a\"\nrole = \"Administrator\"\n\
        passphrase-command = \"echo passphrase >> asked; tr -dc a-z < asked\"\n\
        [[users]]\nname = \"m~b\"\nrole = \"Metrics\"\npassphrase-env = \"HSM_BACKUP_USER\"\n";
    let once = once.replace("asked", &hsm.at("asked"));
    let file = hsm.folder.file("once.toml", once);
    assert!(at(&hsm.address, &hsm.folder.path(""), &["apply", &file, "--yes"]).ok().contains("3 of 3 done."));
}
