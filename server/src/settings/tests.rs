//! What is read from flags, environment and file, and what is refused.

use super::*;

fn read(args: &[&str], environment: &[(&str, &str)]) -> Result<Settings, String> {
    let args = std::iter::once("casemated").chain(args.iter().copied()).map(OsString::from);
    let find = |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
    let flags = Flags::try_parse_from(args).map_err(from_clap).map_err(|error| error.to_string())?;
    Settings::resolve(flags, find).map_err(|error| error.to_string())
}

/// A settings file that is removed after the test.
struct TestFile(PathBuf);

impl TestFile {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("casemate-{}-{name}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn listen(list: &[&str]) -> Vec<SocketAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn without_settings_the_defaults_apply() {
    let expected = Settings {
        listen: listen(&["127.0.0.1:8443"]),
        data_dir: "./casemate-data".into(),
        log: LevelFilter::INFO,
        log_format: LogFormat::Text,
        journal_stream: None,
        syslog: Vec::new(),
        syslog_ca: None,
        metrics_listen: None,
        failed_state: FailedState::Closed,
        update: None,
        etcd: None,
        peers: Peers { program: None, listen: listen(&["127.0.0.1:2380"]), urls: Vec::new(), clients: Vec::new() },
    };
    assert_eq!(read(&[], &[]), Ok(expected));
}

#[test]
fn a_failed_hsm_is_open_only_if_the_setting_is_exactly_open() {
    let file = TestFile::new("failed", "failed-state = 'open'\n");
    let read = |args: &[&str]| read(args, &[("CASEMATE_CONFIG", file.path())]).map(|settings| settings.failed_state);
    assert_eq!(read(&[]), Ok(FailedState::Open));
    assert_eq!(read(&["--failed-state", "closed"]), Ok(FailedState::Closed));
    let refused = read(&["--failed-state", "Open"]).unwrap_err();
    assert_eq!(refused, "--failed-state: `Open` is not one of closed, open");
}

#[test]
fn a_flag_beats_the_environment_beats_the_file() {
    let file = TestFile::new("order", "listen = ['1.1.1.1:1', '[::1]:1']\ndata-dir = 'file'\nlog = 'error'\n");
    let config = ("CASEMATE_CONFIG", file.path());
    let from_file = read(&[], &[config]).unwrap();
    assert_eq!(from_file.listen, listen(&["1.1.1.1:1", "[::1]:1"]));
    assert_eq!((from_file.data_dir, from_file.log), ("file".into(), LevelFilter::ERROR));

    let environment = [
        config,
        ("CASEMATE_LISTEN", "2.2.2.2:2, [::2]:2"),
        ("CASEMATE_DATA_DIR", "environment"),
        ("CASEMATE_LOG", "warn"),
    ];
    let from_environment = read(&[], &environment).unwrap();
    assert_eq!(from_environment.listen, listen(&["2.2.2.2:2", "[::2]:2"]));
    assert_eq!((from_environment.data_dir, from_environment.log), ("environment".into(), LevelFilter::WARN));

    let flags = ["--listen", "3.3.3.3:3", "--listen=[::3]:3", "--data-dir", "flag", "--log", "trace"];
    let from_flags = read(&flags, &environment).unwrap();
    assert_eq!(from_flags.listen, listen(&["3.3.3.3:3", "[::3]:3"]));
    assert_eq!((from_flags.data_dir, from_flags.log), ("flag".into(), LevelFilter::TRACE));
}

#[test]
fn the_settings_of_etcd_follow_the_same_order() {
    let text = "store = 'etcd'\netcd-endpoints = ['file:1']\netcd-ca = 'ca'\netcd-cert = 'c'\netcd-key = 'k'\netcd-prefix = '/file/'\n";
    let file = TestFile::new("etcd", text);
    let config = ("CASEMATE_CONFIG", file.path());
    let from_file = read(&[], &[config]).unwrap().etcd.unwrap();
    assert_eq!(from_file.endpoints, [Address::parse("file:1").unwrap()]);
    assert_eq!(from_file.ca, Some("ca".into()));
    assert_eq!(from_file.identity, Some(("c".into(), "k".into())));
    assert_eq!(from_file.prefix, "/file/");
    let environment = [config, ("CASEMATE_ETCD_ENDPOINTS", "a:1, [::1]:2"), ("CASEMATE_ETCD_PREFIX", "/environment/")];
    let from_environment = read(&[], &environment).unwrap().etcd.unwrap();
    assert_eq!(from_environment.endpoints.len(), 2);
    assert_eq!(from_environment.prefix, "/environment/");
    let flags = ["--etcd-endpoints=b:1", "--etcd-prefix=/flag/", "--etcd-ca=flag"];
    let from_flags = read(&flags, &environment).unwrap().etcd.unwrap();
    assert_eq!((from_flags.endpoints.len(), from_flags.prefix.as_str()), (1, "/flag/"));
    assert_eq!(from_flags.ca, Some("flag".into()));
    let plain = read(&["--store=etcd", "--etcd-endpoints=127.0.0.1:2379"], &[]).unwrap().etcd.unwrap();
    assert_eq!((plain.ca, plain.identity, plain.prefix.as_str()), (None, None, "/casemate/"));
}

#[test]
fn nodes_without_a_vote_are_served_only_where_the_settings_say_so_and_an_etcd_runs() {
    let file = TestFile::new("clients", "client-listen = ['1.1.1.1:1', '[::1]:1']\n");
    let config = ("CASEMATE_CONFIG", file.path());
    let clients =
        |args: &[&str], environment: &[(&str, &str)]| read(args, environment).map(|settings| settings.peers.clients);
    assert_eq!(clients(&[], &[config]), Ok(listen(&["1.1.1.1:1", "[::1]:1"])));
    let environment = [config, ("CASEMATE_CLIENT_LISTEN", "2.2.2.2:2, [::2]:2")];
    assert_eq!(clients(&[], &environment), Ok(listen(&["2.2.2.2:2", "[::2]:2"])));
    assert_eq!(clients(&["--client-listen=3.3.3.3:3"], &environment), Ok(listen(&["3.3.3.3:3"])));
    let refused = clients(&["--client-listen=x"], &[]).unwrap_err();
    assert_eq!(refused, "--client-listen: `x` is not an address and port, such as 127.0.0.1:8443 or [::]:8443");
    let refused = clients(&["--store=etcd", "--etcd-endpoints=b:1", "--client-listen=3.3.3.3:3"], &[]).unwrap_err();
    assert_eq!(refused, "--client-listen: a node with store = etcd runs no etcd that could listen there");
}

#[test]
fn logging_and_metrics_settings_follow_the_same_order() {
    let text = "log-format = 'json'\nsyslog = ['tcp://file:1']\nsyslog-ca = 'file'\nmetrics-listen = '1.1.1.1:1'\n";
    let file = TestFile::new("observe", text);
    let told = |settings: Settings| {
        let servers: Vec<String> = settings.syslog.iter().map(ToString::to_string).collect();
        let ca = settings.syslog_ca.and_then(|path| path.into_os_string().into_string().ok()).unwrap_or_default();
        let listen = settings.metrics_listen.map_or_else(String::new, |address| address.to_string());
        (settings.log_format, servers.join(","), ca, listen)
    };
    let is = |format, servers: &str, ca: &str, listen: &str| (format, servers.into(), ca.into(), listen.into());
    let config = ("CASEMATE_CONFIG", file.path());
    let from_file = told(read(&[], &[config]).unwrap());
    assert_eq!(from_file, is(LogFormat::Json, "tcp://file:1", "file", "1.1.1.1:1"));
    let environment = [
        config,
        ("CASEMATE_LOG_FORMAT", "text"),
        ("CASEMATE_SYSLOG", "tcp://[::1]:2, tls://environment:2"),
        ("CASEMATE_SYSLOG_CA", "environment"),
        ("CASEMATE_METRICS_LISTEN", "2.2.2.2:2"),
        ("JOURNAL_STREAM", "8:1"),
    ];
    let from_environment = read(&[], &environment).unwrap();
    assert_eq!(from_environment.journal_stream.as_deref(), Some("8:1"));
    let expected = is(LogFormat::Text, "tcp://[::1]:2,tls://environment:2", "environment", "2.2.2.2:2");
    assert_eq!(told(from_environment), expected);
    let flags = [
        "--log-format=json",
        "--syslog=tls://a:3",
        "--syslog=tcp://b:3",
        "--syslog-ca=flag",
        "--metrics-listen=3.3.3.3:3",
    ];
    let from_flags = told(read(&flags, &environment).unwrap());
    assert_eq!(from_flags, is(LogFormat::Json, "tls://a:3,tcp://b:3", "flag", "3.3.3.3:3"));
}

#[test]
fn wrong_settings_are_one_sentence() {
    for (args, environment, sentence) in [
        (
            &["--listen", "8443"][..],
            &[][..],
            "--listen: `8443` is not an address and port, such as 127.0.0.1:8443 or [::]:8443",
        ),
        (
            &[],
            &[("CASEMATE_LISTEN", "1.1.1.1:1,")],
            "CASEMATE_LISTEN: `` is not an address and port, such as 127.0.0.1:8443 or [::]:8443",
        ),
        (&[], &[("CASEMATE_LOG", "loud")], "CASEMATE_LOG: `loud` is not one of error, warn, info, debug, trace"),
        (&["--log-format", "xml"], &[], "--log-format: `xml` is not one of text, json"),
        (
            &[],
            &[("CASEMATE_SYSLOG", "udp://a:1")],
            "CASEMATE_SYSLOG: `udp://a:1` is not a syslog server, such as tcp://192.0.2.7:601 or tls://logs.example.org:6514",
        ),
        (&["--syslog-ca", ""], &[], "--syslog-ca: a file is needed"),
        (
            &["--metrics-listen", "9464"],
            &[],
            "--metrics-listen: `9464` is not an address and port, such as 127.0.0.1:8443 or [::]:8443",
        ),
        (&["--update-key", "/key.pem"], &[], "--update-key: update-command must be set as well"),
        (
            &["--update-key", "/key.pem"],
            &[("CASEMATE_UPDATE_COMMAND", "install")],
            "CASEMATE_UPDATE_COMMAND: `install` is not an absolute path of a program",
        ),
        (&["--store", "redb"], &[], "--store: `redb` is not one of embedded, etcd"),
        (&["--store=etcd"], &[], "--store: etcd-endpoints must be set as well, such as 192.0.2.7:2379"),
        (&["--etcd-prefix=/x/"], &[], "--etcd-prefix: store must be etcd as well"),
        (
            &["--store=embedded"],
            &[("CASEMATE_ETCD_ENDPOINTS", "a:1")],
            "CASEMATE_ETCD_ENDPOINTS: store must be etcd as well",
        ),
        (
            &["--store=etcd", "--etcd-endpoints=a"],
            &[],
            "--etcd-endpoints: a is not an address of etcd: write host:port, or [address]:port for IPv6",
        ),
        (&["--store=etcd", "--etcd-endpoints=a:1", "--etcd-key=k"], &[], "--etcd-key: etcd-cert must be set as well"),
        (
            &["--store=etcd", "--etcd-endpoints=a:1", "--etcd-prefix="],
            &[],
            "--etcd-prefix: a text of 1 to 128 bytes is needed",
        ),
        (&["--data-dir", ""], &[], "--data-dir: a folder is needed, such as /var/lib/casemate"),
        (&["--port"], &[], "unexpected argument '--port' found; run `casemated --help`"),
        (
            &["--config", "/no/such/file"],
            &[],
            "cannot read the settings file /no/such/file: No such file or directory (os error 2)",
        ),
    ] {
        assert_eq!(read(args, environment), Err(sentence.into()));
    }
}

#[test]
fn errors_in_the_file_name_their_line() {
    for (name, text, rest) in [
        (
            "key",
            "log = 'info'\nport = 1\n",
            "line 2: unknown field `port`, expected one of `listen`, `data-dir`, `log`, `log-format`, `syslog`, `syslog-ca`, `metrics-listen`, `failed-state`, `update-key`, `update-command`, `store`, `etcd-endpoints`, `etcd-ca`, `etcd-cert`, `etcd-key`, `etcd-prefix`, `etcd-program`, `peer-listen`, `peer-urls`, `client-listen`",
        ),
        ("type", "\n\nlog = 1\n", "line 3: invalid type: integer `1`, expected a string"),
        ("level", "\nlog = 'loud'", "line 2, log: `loud` is not one of error, warn, info, debug, trace"),
        ("none", "listen = []", "listen: at least one address is needed, such as 127.0.0.1:8443"),
        (
            "address",
            "listen = [\n '1.1.1.1:1',\n 'x' ]",
            "line 3, listen: `x` is not an address and port, such as 127.0.0.1:8443 or [::]:8443",
        ),
    ] {
        let file = TestFile::new(name, text);
        let error = read(&["--config", file.path()], &[]).unwrap_err();
        assert!(error.ends_with(rest) && !error.contains('\n'), "{error}");
        assert!(name == "none" || error.starts_with(file.path()), "{error}");
    }
    let file = TestFile::new("syntax", "log =\n");
    let error = read(&["--config", file.path()], &[]).unwrap_err();
    assert!(error.starts_with(&format!("{}, line 1: ", file.path())), "{error}");
}

#[test]
fn help_and_version_are_not_errors() {
    let asked = |flag: &str| match Settings::read(["casemated", flag].map(OsString::from)) {
        Err(SettingsError::Asked(text)) => text,
        _ => panic!("{flag}"),
    };
    let help = asked("--help");
    for word in [
        "CASEMATE_LISTEN",
        "CASEMATE_DATA_DIR",
        "CASEMATE_CONFIG",
        "CASEMATE_LOG",
        "CASEMATE_SYSLOG_CA",
        "CASEMATE_METRICS_LISTEN",
        "default: 127.0.0.1:8443",
    ] {
        assert!(help.contains(word), "{word} in {help}");
    }
    assert_eq!(asked("--version").trim(), concat!("casemated ", env!("CARGO_PKG_VERSION")));
}
