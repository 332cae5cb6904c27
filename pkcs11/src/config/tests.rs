use std::collections::HashMap;
use std::time::Duration;

use casemate_client::Trust;

use super::*;

const PIN: &str = "31:92:8E:A4:5E:16:5C:A7:33:44:E8:E9:8E:64:C4:AE:7B:2A:57:E5:77:43:49:F3:69:C9:8F:C4:2F:3A:3B:6E";

/// A folder with files, and an environment that finds them.
struct World {
    folder: tempfile::TempDir,
    variables: HashMap<&'static str, OsString>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let variables = HashMap::from([("XDG_CONFIG_HOME", folder.path().into())]);
        Self { folder, variables }
    }

    fn set(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.variables.insert(name, value.into());
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(self, name: &str, text: &str) -> Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn load(&self) -> Result<Configuration, ConfigError> {
        load_in(&Environment(&|name| self.variables.get(name).cloned()))
    }

    /// The sentence about what is wrong, with FILE for the file.
    fn sentence(&self, file: &str) -> String {
        self.load().unwrap_err().to_string().replace(self.path(file).to_str().unwrap(), "FILE")
    }
}

fn nethsm(text: &str) -> World {
    World::new().file("nitrokey/p11nethsm.conf", text)
}

fn own(text: &str) -> World {
    World::new().file("casemate/pkcs11.toml", text)
}

fn passphrase(login: Option<&Login>) -> Option<String> {
    login.unwrap().passphrase().unwrap().map(|text| String::from_utf8(text.expose().to_vec()).unwrap())
}

/// A file with every key that NetHSM's module documents.
const EVERY_NETHSM_KEY: &str = r#"
enable_set_attribute_value: false
log_file: /tmp/p11nethsm.log
log_level: Debug
syslog_socket: /var/run/syslog
syslog_udp: {to_addr: "127.0.0.1:514", from_addr: "127.0.0.1:5140"}
syslog_tcp: "127.0.0.1:601"
syslog_facility: user
syslog_hostname: localhost
syslog_process: nethsm-pkcs11
syslog_pid: 0
slots:
  - label: LocalHSM
    description: two nodes
    operator:
      username: "ns~operator"
      password: "env:LOCALHSMPASS"
    administrator:
      username: admin
      password: Administrator
    instances:
      - url: "https://one.example:8443/api/v1"
        sha256_fingerprints:
          - "PIN"
        max_idle_connections: 10
      - url: "https://[2001:db8::1]/api/v1/"
        sha256_fingerprints: ["PIN", "PIN"]
    certificate_format: DER
    retries:
      count: 3
      delay_seconds: 2
    tcp_keepalive:
      time_seconds: 600
      interval_seconds: 60
      retries: 3
    connections_max_idle_duration: 1800
    timeout_seconds: 10
"#;

#[test]
fn every_key_of_nethsms_file_is_read() {
    let world = nethsm(&EVERY_NETHSM_KEY.replace("PIN", PIN)).set("LOCALHSMPASS", "from the environment");
    let configuration = world.load().unwrap();
    assert_eq!(configuration.files, [world.path("nitrokey/p11nethsm.conf")]);
    let [slot] = configuration.slots.as_slice() else { panic!("{configuration:?}") };
    assert_eq!((slot.label.as_str(), slot.description.as_str()), ("LocalHSM", "two nodes"));
    assert_eq!(slot.client.nodes(), ["one.example:8443", "[2001:db8::1]:443"]);
    assert_eq!(slot.certificate_format, CertificateFormat::Der);
    assert_eq!(slot.operator.as_ref().unwrap().user.to_string(), "ns~operator");
    assert_eq!(passphrase(slot.operator.as_ref()).unwrap(), "from the environment");
    assert_eq!(passphrase(slot.administrator.as_ref()).unwrap(), "Administrator");
}

#[test]
fn retries_timeouts_and_trust_of_nethsms_file_become_settings_of_the_client() {
    let slot = p11nethsm::settings_of_slot;
    let settings = slot(
        "{label: a, instances: [{url: 'https://h/api/v1', danger_insecure_cert: true}], retries: {count: 3, delay_seconds: 2}, timeout_seconds: 3}",
    );
    assert_eq!((settings.rounds, settings.pause), (4, Duration::from_secs(2)));
    assert_eq!((settings.request, settings.connect), (Duration::from_secs(3), Duration::from_secs(3)));
    assert!(matches!(settings.trust, Trust::Anyone));
    let settings = slot("{label: a, instances: [{url: 'https://h/api/v1'}]}");
    assert_eq!((settings.rounds, settings.pause), (1, Duration::ZERO));
    assert!(matches!(settings.trust, Trust::System));
    let pinned = format!("{{label: a, instances: [{{url: 'https://h', sha256_fingerprints: ['{PIN}']}}]}}");
    assert!(matches!(slot(&pinned).trust, Trust::Pinned(pins) if pins.len() == 1 && pins[0].to_string() == PIN));
}

#[test]
fn the_files_of_nethsms_module_in_several_folders_count_together() {
    let slot = |label: &str| {
        format!("slots: [{{label: {label}, instances: [{{url: 'https://h/api/v1', danger_insecure_cert: true}}]}}]")
    };
    let world = World::new().file("a.conf", &slot("a")).file("b.conf", &slot("b"));
    let files: Vec<_> = ["a.conf", "b.conf"]
        .map(|name| (world.path(name), Zeroizing::new(fs::read_to_string(world.path(name)).unwrap())))
        .into();
    let configuration = p11nethsm::load(&files, &Environment(&|_| None)).unwrap();
    let labels: Vec<_> = configuration.slots.iter().map(|slot| slot.label.as_str()).collect();
    assert_eq!(labels, ["a", "b"]);
    let named = world.set("P11NETHSM_CONFIG_FILE", files[1].0.as_os_str());
    assert_eq!(named.load().unwrap().slots[0].label, "b");
}

#[test]
fn a_mistake_in_nethsms_file_is_told_in_a_sentence() {
    let slot = |rest: &str| format!("slots:\n  - label: a\n    {rest}\n");
    let url = |url: &str| slot(&format!("instances: [{{url: '{url}'}}]"));
    let cases = [
        (
            slot("instances: [{url: 'https://h/api/v1'}]\n    tcp_keep: 1"),
            "FILE line 4: unknown field `tcp_keep`, expected one of",
        ),
        (slot("description: x"), "FILE line 3: missing field `instances`."),
        (slot("instances: []"), "FILE, slot \"a\": there are no instances: give the url of one at least."),
        (
            url("http://h/api/v1"),
            "FILE, slot \"a\": the url \"http://h/api/v1\" is not of the form https://HOST:PORT/api/v1.",
        ),
        (
            url("https://h/api/v2"),
            "FILE, slot \"a\": the url \"https://h/api/v2\" is not of the form https://HOST:PORT/api/v1.",
        ),
        (url("https://h:99999/api/v1"), "FILE, slot \"a\": "),
        (
            slot("instances: [{url: 'https://h', sha256_fingerprints: ['AA:BB']}]"),
            "FILE, slot \"a\": the fingerprint \"AA:BB\" is not valid: a SHA-256 fingerprint has 64 hex digits, with or without colons between the bytes.",
        ),
        (
            slot("instances: [{url: 'https://h', danger_insecure_cert: true}, {url: 'https://i'}]"),
            "FILE, slot \"a\": its instances are trusted in different ways",
        ),
        (
            slot(
                "instances: [{url: 'https://h', danger_insecure_cert: true}]\n    operator: {username: o, password: 'env:NOT_SET'}",
            ),
            "FILE, slot \"a\": the passphrase is in the environment variable NOT_SET, which is not set or not valid UTF-8.",
        ),
        (
            slot("instances: [{url: 'https://h', danger_insecure_cert: true}]\n    operator: {username: '_o'}"),
            "FILE, slot \"a\": the user \"_o\" is not a valid user name: ID cannot start with underscore, dash, or dot.",
        ),
        (
            slot("instances: [{url: 'https://h'}]\n    timeout_seconds: 0"),
            "FILE, slot \"a\": timeout_seconds is 0: give 1 at least.",
        ),
        (slot("instances: [{url: 'https://h'}]\n    timeout_seconds: soon"), "FILE line 4: "),
        (
            slot("instances: [{url: 'https://h'}]\n    certificate_format: P12"),
            "FILE line 4: unknown variant `P12`, expected",
        ),
        ("slots: [".to_owned(), "FILE line "),
    ];
    for (text, expected) in cases {
        let sentence = nethsm(&text).sentence("nitrokey/p11nethsm.conf");
        assert!(sentence.starts_with(expected), "{text}\n{sentence}");
        assert!(sentence.ends_with('.') && !sentence.contains('\n'), "{sentence}");
    }
    let absent = World::new().set("P11NETHSM_CONFIG_FILE", "/nowhere/p11nethsm.conf");
    assert_eq!(
        absent.sentence("x"),
        "The configuration file /nowhere/p11nethsm.conf cannot be read (No such file or directory (os error 2)): check P11NETHSM_CONFIG_FILE."
    );
}

#[test]
fn no_sentence_and_no_debug_print_quotes_a_passphrase() {
    let nethsm_slot = |users: &str| {
        format!("slots:\n  - label: a\n    instances: [{{url: 'https://h', danger_insecure_cert: true}}]\n    {users}")
    };
    for users in [
        "operator: 'hunter2secret'",
        "operator: {username: o, password: [hunter2secret]}",
        "operator: {username: o, password: {x: hunter2secret}}",
        "timeout_seconds: hunter2secret",
        "operator: {username: o, password: hunter2secret",
        "operator: {username: o, password: 'hunter2secret",
    ] {
        let sentence = nethsm(&nethsm_slot(users)).sentence("nitrokey/p11nethsm.conf");
        assert!(!sentence.contains("hunter2secret"), "{sentence}");
    }
    for users in [
        "operator = 'hunter2secret'",
        "operator = { user = 'o', passphrase = ['hunter2secret'] }",
        "operator = { user = 'o', passphrase = hunter2secret }",
        "operator = { user = 'o', passphrase = 'hunter2secret",
    ] {
        let text = format!("[[slot]]\nlabel = 'a'\nhosts = ['h']\ninsecure = true\n{users}\n");
        let sentence = own(&text).sentence("casemate/pkcs11.toml");
        assert!(!sentence.contains("hunter2secret"), "{sentence}");
    }
    let good = nethsm(&nethsm_slot("operator: {username: o, password: hunter2secret}"));
    assert!(!format!("{:?}", good.load().unwrap()).contains("hunter2"));
}

#[test]
fn a_passphrase_of_digits_is_a_passphrase() {
    let text = "slots:\n  - label: a\n    instances: [{url: 'https://h', danger_insecure_cert: true}]\n    operator: {username: o, password: 1234567890}";
    let slots = nethsm(text).load().unwrap().slots;
    assert_eq!(passphrase(slots[0].operator.as_ref()).unwrap(), "1234567890");
}

#[test]
fn every_key_of_our_own_file_is_read() {
    let text = format!(
        r#"
        [[slot]]
        label = "signing"
        description = "two nodes"
        hosts = ["one.example:8443", "two.example"]
        pin = ["{PIN}"]
        operator = {{ user = "ns~operator" }}
        administrator = {{ user = "ns~admin", passphrase-env = "ADMIN" }}
        certificate-format = "DER"
        retries = 2
        retry-delay-seconds = 1
        timeout-seconds = 4
        deadline-seconds = 9

        [[slot]]
        label = "insecure"
        hosts = ["h"]
        insecure = true
        operator = {{ user = "o", passphrase = "in the file" }}
        administrator = {{ user = "a", passphrase-command = "echo printed; echo" }}
        "#
    );
    let world = own(&text).set("ADMIN", "from the environment");
    let slots = world.load().unwrap().slots;
    assert_eq!((slots[0].label.as_str(), slots[0].description.as_str()), ("signing", "two nodes"));
    assert_eq!(slots[0].client.nodes(), ["one.example:8443", "two.example:443"]);
    assert_eq!(slots[0].certificate_format, CertificateFormat::Der);
    assert!(!slots[0].operator.as_ref().unwrap().has_passphrase());
    assert_eq!(passphrase(slots[0].operator.as_ref()), None);
    assert_eq!(passphrase(slots[0].administrator.as_ref()).unwrap(), "from the environment");
    assert_eq!(passphrase(slots[1].operator.as_ref()).unwrap(), "in the file");
    assert_eq!(passphrase(slots[1].administrator.as_ref()).unwrap(), "printed\n");
}

#[test]
fn a_slot_may_be_a_profile_of_casemate() {
    let profiles = "[profile.default]\nhosts = ['h:1', 'h:2']\nuser = 'admin'\npassphrase-file = 'PASS'\n[profile.op]\nhosts = ['i']\nuser = 'operator'\n";
    let world = World::new().file("pass", "from a file\n");
    let profiles = profiles.replace("PASS", world.path("pass").to_str().unwrap());
    let world = world.file("casemate/config.toml", &profiles);

    let slots = world.load().unwrap().slots;
    let labels: Vec<_> = slots.iter().map(|slot| slot.label.as_str()).collect();
    assert_eq!(labels, ["default", "op"], "without a file of our own, each profile is a slot");
    assert_eq!(slots[0].client.nodes(), ["h:1", "h:2"]);
    assert_eq!(passphrase(slots[0].operator.as_ref()).unwrap(), "from a file");
    assert_eq!(slots[0].administrator.as_ref().unwrap().user.to_string(), "admin");

    let world = world.set("CASEMATE_PROFILE", "op");
    assert_eq!(world.load().unwrap().slots.len(), 1);
    let world = world.set("CASEMATE_PROFILE", "other");
    assert_eq!(world.sentence("casemate/config.toml"), "FILE has no profile \"other\": check CASEMATE_PROFILE.");

    let world = world.file(
        "casemate/pkcs11.toml",
        "[[slot]]\nlabel = 'a'\nprofile = 'default'\noperator = { profile = 'op' }\nadministrator = { profile = 'default' }\n[[slot]]\nlabel = 'b'\nprofile = 'op'\n",
    );
    let slots = world.load().unwrap().slots;
    assert_eq!(slots[0].client.nodes(), ["h:1", "h:2"]);
    assert_eq!(slots[0].operator.as_ref().unwrap().user.to_string(), "operator");
    assert_eq!(passphrase(slots[0].administrator.as_ref()).unwrap(), "from a file");
    assert_eq!(slots[1].operator.as_ref().unwrap().user.to_string(), "operator");
    assert_eq!(slots[1].client.nodes(), ["i:443"]);
}

#[test]
fn a_mistake_in_our_own_file_is_told_in_a_sentence() {
    let slot = |rest: &str| format!("[[slot]]\nlabel = 'a'\n{rest}\n");
    let cases = [
        (slot("host = ['h']"), "FILE line 3: unknown field `host`, expected one of"),
        ("[[slot]]\nhosts = ['h']".to_owned(), "FILE line 1: missing field `label`."),
        (slot(""), "FILE, slot \"a\": there are no hosts: give one at least."),
        (slot("hosts = ['http://h']"), "FILE, slot \"a\": "),
        (slot("hosts = ['h']\npin = ['AB']"), "FILE, slot \"a\": the fingerprint \"AB\" is not valid: "),
        (
            slot("hosts = ['h']\ninsecure = true\nca-file = '/x'"),
            "FILE, slot \"a\": of ca-file, pin and insecure only one can be given.",
        ),
        (slot("hosts = ['h']\nca-file = '/nowhere/ca.pem'"), "FILE, slot \"a\": "),
        (slot("profile = 'x'"), "FILE, slot \"a\": there is no profile \"x\" in this file, and no file of profiles."),
        (
            slot("hosts = ['h']\ninsecure = true\noperator = {}"),
            "FILE, slot \"a\": a user has neither user nor profile: give one.",
        ),
        (
            slot(
                "hosts = ['h']\ninsecure = true\noperator = { user = 'o', passphrase-file = '/x', passphrase-command = 'x' }",
            ),
            "FILE, slot \"a\": the passphrase of a user is given twice: keep one.",
        ),
        (
            slot("hosts = ['h']\ninsecure = true\noperator = { user = 'o', passphrase-env = 'NOT_SET' }"),
            "FILE, slot \"a\": the passphrase is in the environment variable NOT_SET, which is not set or not valid UTF-8.",
        ),
        (slot("hosts = ['h']\ntimeout-seconds = 0"), "FILE, slot \"a\": timeout-seconds is 0: give 1 at least."),
        (slot("hosts = 1"), "FILE line 3: here belongs a sequence."),
        ("[[slot".to_owned(), "FILE line 1: "),
    ];
    for (text, expected) in cases {
        let sentence = own(&text).sentence("casemate/pkcs11.toml");
        assert!(sentence.starts_with(expected), "{text}\n{sentence}");
        assert!(sentence.ends_with('.') && !sentence.ends_with("..") && !sentence.contains('\n'), "{sentence}");
    }
}

#[test]
fn passphrases_that_cannot_be_had_are_told_in_a_sentence() {
    let text = "[[slot]]\nlabel = 'a'\nhosts = ['h']\ninsecure = true\noperator = { user = 'o', passphrase-file = '/nowhere/pass' }\nadministrator = { user = 'a', passphrase-command = 'exit 3' }";
    let slots = own(text).load().unwrap().slots;
    let sentence = |login: &Option<Login>| login.as_ref().unwrap().passphrase().err().unwrap().to_string();
    assert_eq!(
        sentence(&slots[0].operator),
        "The passphrase file /nowhere/pass cannot be read: No such file or directory (os error 2)."
    );
    assert_eq!(
        sentence(&slots[0].administrator),
        "The passphrase command of a failed (exit status: 3). Run it in a shell to see why."
    );
}

#[test]
fn the_first_configuration_counts_and_none_is_no_mistake() {
    let slot = |label: &str| format!("[[slot]]\nlabel = '{label}'\nhosts = ['h']\ninsecure = true\n");
    let yaml = "slots: [{label: nethsm, instances: [{url: 'https://h', danger_insecure_cert: true}]}]";
    let world = World::new();
    assert!(world.load().unwrap().slots.is_empty());
    let first = |world: &World| world.load().unwrap().slots[0].label.clone();
    let world = world.file("casemate/config.toml", "[profile.cli]\nhosts = ['h']\n");
    assert_eq!(first(&world), "cli");
    let world = world.file("nitrokey/p11nethsm.conf", yaml);
    assert_eq!(first(&world), "nethsm");
    let world = world.file("casemate/pkcs11.toml", &slot("own"));
    assert_eq!(first(&world), "own");
    let path = world.path("nitrokey/p11nethsm.conf");
    let world = world.set("P11NETHSM_CONFIG_FILE", path);
    assert_eq!(first(&world), "nethsm");
    let world = world.file("x.toml", &slot("named"));
    let path = world.path("x.toml");
    let world = world.set("CASEMATE_PKCS11_CONFIG", path);
    assert_eq!(first(&world), "named");
    let world = world.set("CASEMATE_PKCS11_CONFIG", "/nowhere/x.toml");
    assert_eq!(
        world.sentence("x"),
        "The configuration file /nowhere/x.toml cannot be read (No such file or directory (os error 2)): check CASEMATE_PKCS11_CONFIG."
    );
}

proptest::proptest! {
    /// Of any text, and of a good one with a piece replaced, comes a configuration or one sentence.
    #[test]
    fn whatever_a_file_has_is_read_or_refused_in_one_sentence(
        at in proptest::prelude::any::<proptest::sample::Index>(),
        length in 0_usize..12,
        piece in "[ -~\\n\\t]{0,12}|\\PC{0,8}",
        alone in proptest::prelude::any::<bool>(),
    ) {
        let environment = Environment(&|_| None);
        let toml = "[[slot]]\nlabel = 'a'\nhosts = ['h:1']\ninsecure = true\nretries = 2\noperator = { user = 'o', passphrase = 'p' }\n[profile.x]\nhosts = ['h']\n";
        let yaml = "slots:\n  - label: a\n    operator: {username: o, password: p}\n    retries: {count: 1, delay_seconds: 2}\n    instances:\n      - url: https://h:1/api/v1\n        danger_insecure_cert: true\n";
        let changed = |text: &str| {
            let characters: Vec<char> = text.chars().collect();
            let start = at.index(characters.len());
            let (before, after) = characters.split_at(start);
            let after = &after[length.min(after.len())..];
            if alone { piece.clone() } else { before.iter().chain(&piece.chars().collect::<Vec<_>>()).chain(after).collect() }
        };
        let path = PathBuf::from("FILE");
        let read = [
            toml::load(&path, &changed(toml), &environment),
            p11nethsm::load(&[(path.clone(), Zeroizing::new(changed(yaml)))], &environment),
        ];
        for why in read.into_iter().filter_map(Result::err) {
            let sentence = why.to_string();
            proptest::prop_assert!(sentence.starts_with("FILE") && sentence.ends_with('.'), "{}", sentence);
            proptest::prop_assert!(!sentence.contains('\n'), "{}", sentence);
        }
    }
}

#[test]
fn a_folder_of_the_user_that_may_not_be_read_counts_as_none() {
    assert!(is_absent(io::ErrorKind::PermissionDenied, Owner::User));
    assert!(!is_absent(io::ErrorKind::PermissionDenied, Owner::System));
    assert!(!is_absent(io::ErrorKind::InvalidData, Owner::User));
}

#[test]
fn a_password_in_a_url_is_not_told() {
    for url in
        ["https://user:Sekret@h:1/wrong", "https://user:Sekret@h:1/api/v1", "user:Sekret@h", "https://a:Sekret@b@"]
    {
        let sentence = nethsm(&format!("slots: [{{label: a, instances: [{{url: '{url}'}}]}}]")).load().unwrap_err();
        assert!(!sentence.to_string().contains("Sekret"), "{sentence}");
        let sentence = own(&format!("[[slot]]\nlabel = 'a'\nhosts = ['{url}']")).load().unwrap_err();
        assert!(!sentence.to_string().contains("Sekret"), "{sentence}");
    }
}

#[test]
fn a_file_with_a_passphrase_that_others_may_read_is_told() {
    let slot = "[[slot]]\nlabel = 'a'\nhosts = ['h']\ninsecure = true\n";
    let told = |user: &str, mode: u32| {
        let world = own(&format!("{slot}operator = {{ user = 'op', {user} }}")).set("VARIABLE", "x");
        let file = world.path("casemate/pkcs11.toml");
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
        !warnings(&world.load().unwrap()).is_empty()
    };
    assert!(told("passphrase = 'x'", 0o644));
    assert!(told("passphrase = 'x'", 0o620));
    assert!(!told("passphrase = 'x'", 0o640));
    assert!(told("passphrase-command = 'x'", 0o664));
    assert!(!told("passphrase-command = 'x'", 0o644));
    assert!(!told("passphrase-file = 'x'", 0o666));
    assert!(!told("passphrase-env = 'VARIABLE'", 0o666));
}
