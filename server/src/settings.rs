//! Settings of the process: few, from four sources. A wrong setting is refused with one sentence.
//!
//! A flag takes precedence over an environment variable, that over the settings file, and that over the default. All
//! other configuration is done through the API and kept in the store.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use casemate_etcd::Address;
use clap::Parser;
use serde::Deserialize;
use toml::Spanned;
use tracing::level_filters::LevelFilter;

use crate::command::Tool;
use crate::http::access::FailedState;

use crate::observe::lines::LogFormat;
use crate::observe::syslog;

/// The settings of `casemated`.
#[derive(Debug, PartialEq, Eq)]
pub struct Settings {
    /// Addresses for HTTPS; at least one.
    pub listen: Vec<SocketAddr>,
    /// The data folder.
    pub data_dir: PathBuf,
    /// The log level.
    pub log: LevelFilter,
    /// The format of log lines on standard error.
    pub log_format: LogFormat,
    /// systemd's name of the journal's stream, from the environment (`JOURNAL_STREAM`); not a setting of ours.
    pub journal_stream: Option<String>,
    /// Syslog servers over TCP or TLS.
    pub syslog: Vec<syslog::Server>,
    /// CA certificates that verify syslog servers over TLS; `None`: those of this machine.
    pub syslog_ca: Option<PathBuf>,
    /// Address for metrics over plain HTTP and without credentials.
    pub metrics_listen: Option<SocketAddr>,
    /// Who may reboot and factory-reset a Failed HSM.
    pub failed_state: FailedState,
    /// Software updates; `None`: not available.
    pub update: Option<Update>,
    /// The shared store in an etcd of others; `None`: it is a file in the data folder, or an etcd that this node runs.
    pub etcd: Option<Etcd>,
    /// How this node can be a member of a cluster.
    pub peers: Peers,
}

/// Settings of a node's own etcd. It runs only in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peers {
    /// The etcd program; `None`: the one on PATH.
    pub program: Option<PathBuf>,
    /// Where it listens for other members.
    pub listen: Vec<SocketAddr>,
    /// The URLs at which other members reach it; empty: where it listens.
    pub urls: Vec<String>,
    /// Where it listens for nodes without a vote; empty: for none.
    pub clients: Vec<SocketAddr>,
}

/// Settings of a shared store in etcd.
#[derive(Debug, PartialEq, Eq)]
pub struct Etcd {
    /// Client ports of its members.
    pub endpoints: Vec<Address>,
    /// PEM file of the CA that has issued the certificates of etcd. `None`: plain HTTP, for this machine only.
    pub ca: Option<PathBuf>,
    /// PEM files of the certificate chain and private key that this node shows to etcd.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// With what all keys of this cluster begin.
    pub prefix: String,
}

/// What `casemated` was asked to do.
pub enum Command {
    /// Serve, with these settings.
    Serve(Box<Settings>),
    /// Run a tool on a file.
    Tool(Tool),
}

/// Settings of software updates.
#[derive(Debug, PartialEq, Eq)]
pub struct Update {
    /// PEM file of the public key that verifies images.
    pub key: PathBuf,
    /// Program that installs an image.
    pub command: PathBuf,
}

/// Why no settings were returned.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Not an error: the text of `--help` or `--version`, for standard output and exit code 0.
    #[error("{0}")]
    Asked(String),
    /// One sentence for standard error and exit code 2.
    #[error("{0}")]
    Wrong(String),
}

impl Settings {
    /// Reads the command line (program name first), the environment and the settings file. [`SettingsError::Wrong`]
    /// names the source of the wrong value.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Command, SettingsError> {
        let mut flags = Flags::try_parse_from(args).map_err(from_clap)?;
        match flags.tool.take() {
            Some(tool) => Ok(Command::Tool(tool)),
            None => {
                Self::resolve(flags, |name| std::env::var_os(name)).map(|settings| Command::Serve(Box::new(settings)))
            }
        }
    }

    fn resolve(flags: Flags, environment: impl Fn(&str) -> Option<OsString>) -> Result<Self, SettingsError> {
        let environment = |name: &'static str| match environment(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(Given { text, origin: name.into() })),
            Some(Err(_)) => Err(wrong(format!("{name}: the value is not UTF-8"))),
        };
        let config = match flags.config {
            Some(path) => Some(path),
            None => environment("CASEMATE_CONFIG")?.map(|given| given.text.into()),
        };
        let file = config.as_deref().map(read_file).transpose()?.unwrap_or_default();

        let flag = |text, name: &str| Given { text, origin: name.into() };
        let listen = if !flags.listen.is_empty() {
            flags.listen.into_iter().map(|text| flag(text, "--listen")).collect()
        } else if let Some(list) = environment("CASEMATE_LISTEN")? {
            list.text.split(',').map(|text| flag(text.trim().to_owned(), &list.origin)).collect()
        } else {
            file.listen.unwrap_or_else(|| vec![flag(LISTEN_DEFAULT.into(), "default")])
        };
        let data_dir = match flags.data_dir {
            Some(text) => Some(flag(text, "--data-dir")),
            None => environment("CASEMATE_DATA_DIR")?.or(file.data_dir),
        };
        let log = match flags.log {
            Some(text) => Some(flag(text, "--log")),
            None => environment("CASEMATE_LOG")?.or(file.log),
        };
        let log_format = match flags.log_format {
            Some(text) => Some(flag(text, "--log-format")),
            None => environment("CASEMATE_LOG_FORMAT")?.or(file.log_format),
        };
        let syslog = if !flags.syslog.is_empty() {
            flags.syslog.into_iter().map(|text| flag(text, "--syslog")).collect()
        } else if let Some(list) = environment("CASEMATE_SYSLOG")? {
            list.text.split(',').map(|text| flag(text.trim().to_owned(), &list.origin)).collect()
        } else {
            file.syslog.unwrap_or_default()
        };
        let syslog_ca = match flags.syslog_ca {
            Some(text) => Some(flag(text, "--syslog-ca")),
            None => environment("CASEMATE_SYSLOG_CA")?.or(file.syslog_ca),
        };
        let metrics_listen = match flags.metrics_listen {
            Some(text) => Some(flag(text, "--metrics-listen")),
            None => environment("CASEMATE_METRICS_LISTEN")?.or(file.metrics_listen),
        };
        let failed_state = match flags.failed_state {
            Some(text) => Some(flag(text, "--failed-state")),
            None => environment("CASEMATE_FAILED_STATE")?.or(file.failed_state),
        };
        let update_key = match flags.update_key {
            Some(text) => Some(flag(text, "--update-key")),
            None => environment("CASEMATE_UPDATE_KEY")?.or(file.update_key),
        };
        let update_command = match flags.update_command {
            Some(text) => Some(flag(text, "--update-command")),
            None => environment("CASEMATE_UPDATE_COMMAND")?.or(file.update_command),
        };
        let mut etcd = EtcdGiven {
            store: match flags.store {
                Some(text) => Some(flag(text, "--store")),
                None => environment("CASEMATE_STORE")?.or(file.store),
            },
            endpoints: if !flags.etcd_endpoints.is_empty() {
                flags.etcd_endpoints.into_iter().map(|text| flag(text, "--etcd-endpoints")).collect()
            } else if let Some(list) = environment("CASEMATE_ETCD_ENDPOINTS")? {
                list.text.split(',').map(|text| flag(text.trim().to_owned(), &list.origin)).collect()
            } else {
                file.etcd_endpoints.unwrap_or_default()
            },
            ca: file.etcd_ca,
            cert: file.etcd_cert,
            key: file.etcd_key,
            prefix: file.etcd_prefix,
        };
        for (given, text, name, variable) in [
            (&mut etcd.ca, flags.etcd_ca, "--etcd-ca", "CASEMATE_ETCD_CA"),
            (&mut etcd.cert, flags.etcd_cert, "--etcd-cert", "CASEMATE_ETCD_CERT"),
            (&mut etcd.key, flags.etcd_key, "--etcd-key", "CASEMATE_ETCD_KEY"),
            (&mut etcd.prefix, flags.etcd_prefix, "--etcd-prefix", "CASEMATE_ETCD_PREFIX"),
        ] {
            if let Some(found) = text.map_or_else(|| environment(variable), |text| Ok(Some(flag(text, name))))? {
                *given = Some(found);
            }
        }
        let program = match flags.etcd_program {
            Some(text) => Some(flag(text, "--etcd-program")),
            None => environment("CASEMATE_ETCD_PROGRAM")?.or(file.etcd_program),
        };
        let list = |flags: Vec<String>, name: &str, variable, file: Option<Vec<Given>>| {
            if !flags.is_empty() {
                return Ok(flags.into_iter().map(|text| flag(text, name)).collect());
            }
            let given = environment(variable)?;
            let several = |list: Given| {
                list.text.split(',').map(|text| flag(text.trim().to_owned(), &list.origin)).collect::<Vec<_>>()
            };
            Ok::<Vec<Given>, SettingsError>(given.map(several).or(file).unwrap_or_default())
        };
        let peer_listen = list(flags.peer_listen, "--peer-listen", "CASEMATE_PEER_LISTEN", file.peer_listen)?;
        let peer_urls = list(flags.peer_urls, "--peer-urls", "CASEMATE_PEER_URLS", file.peer_urls)?;
        let clients = list(flags.client_listen, "--client-listen", "CASEMATE_CLIENT_LISTEN", file.client_listen)?;
        let listen = addresses(&listen)?;
        let etcd = self::etcd(etcd)?;
        if let (Some(_), Some(Given { origin, .. })) = (&etcd, clients.first()) {
            return Err(wrong(format!("{origin}: a node with store = etcd runs no etcd that could listen there")));
        }
        Ok(Self {
            peers: peers(program, &peer_listen, &peer_urls, &clients, &listen)?,
            listen,
            data_dir: data_dir.map_or_else(|| Ok(DATA_DIR_DEFAULT.into()), |given| folder(&given))?,
            log: log.map_or(Ok(LevelFilter::INFO), |given| level(&given))?,
            log_format: log_format.map_or(Ok(LogFormat::Text), |given| self::log_format(&given))?,
            journal_stream: environment("JOURNAL_STREAM")?.map(|given| given.text),
            syslog: syslog.iter().map(syslog_server).collect::<Result<_, _>>()?,
            syslog_ca: syslog_ca.as_ref().map(file_name).transpose()?,
            metrics_listen: metrics_listen.as_ref().map(address).transpose()?,
            failed_state: failed_state.map_or(Ok(FailedState::default()), |given| self::failed_state(&given))?,
            update: update(update_key, update_command)?,
            etcd,
        })
    }
}

/// Casemate, the network HSM: stores keys, never releases them, and signs, decrypts and encrypts for authorised users.
#[derive(Parser)]
#[command(name = "casemated", version, after_help = AFTER_HELP, args_conflicts_with_subcommands = true)]
struct Flags {
    #[command(subcommand)]
    tool: Option<Tool>,
    /// Where to serve HTTPS; may be given more than once; [::] accepts IPv4, too [env: CASEMATE_LISTEN, separated by commas] [default: 127.0.0.1:8443]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<String>,
    /// Data folder; created if it does not exist [env: CASEMATE_DATA_DIR] [default: ./casemate-data]
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<String>,
    /// Settings file [env: CASEMATE_CONFIG] [default: none]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Log level: error, warn, info, debug or trace [env: CASEMATE_LOG] [default: info]
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
    /// Format of log lines: text or json [env: CASEMATE_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORM")]
    log_format: Option<String>,
    /// Syslog server to send log lines to, tcp://HOST:PORT or tls://HOST:PORT; may be given more than once [env: CASEMATE_SYSLOG, separated by commas] [default: none]
    #[arg(long, value_name = "URL")]
    syslog: Vec<String>,
    /// CA certificates (PEM) that verify syslog servers over TLS [env: CASEMATE_SYSLOG_CA] [default: those of this machine]
    #[arg(long, value_name = "FILE")]
    syslog_ca: Option<String>,
    /// Where to serve /metrics over plain HTTP, without credentials [env: CASEMATE_METRICS_LISTEN] [default: none]
    #[arg(long, value_name = "ADDR:PORT")]
    metrics_listen: Option<String>,
    /// Who may reboot and factory-reset a Failed HSM: closed (holders of the unlock passphrase) or open (anyone) [env: CASEMATE_FAILED_STATE] [default: closed]
    #[arg(long, value_name = "WHO")]
    failed_state: Option<String>,
    /// Where users and keys are stored: embedded (a file in the data folder) or etcd (shared with other nodes) [env: CASEMATE_STORE] [default: embedded]
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
    /// Client port of a member of etcd; may be given more than once [env: CASEMATE_ETCD_ENDPOINTS, separated by commas] [default: none]
    #[arg(long, value_name = "HOST:PORT")]
    etcd_endpoints: Vec<String>,
    /// CA certificates (PEM) that verify etcd [env: CASEMATE_ETCD_CA] [default: none, plain HTTP to this machine only]
    #[arg(long, value_name = "FILE")]
    etcd_ca: Option<String>,
    /// Certificate chain (PEM) to show to etcd [env: CASEMATE_ETCD_CERT] [default: none]
    #[arg(long, value_name = "FILE")]
    etcd_cert: Option<String>,
    /// Private key (PEM) of that certificate [env: CASEMATE_ETCD_KEY] [default: none]
    #[arg(long, value_name = "FILE")]
    etcd_key: Option<String>,
    /// The etcd program that this node runs when it is in a cluster [env: CASEMATE_ETCD_PROGRAM] [default: etcd on PATH]
    #[arg(long, value_name = "FILE")]
    etcd_program: Option<String>,
    /// Where this node listens for other members of a cluster; may be given more than once [env: CASEMATE_PEER_LISTEN, separated by commas] [default: the addresses of --listen, port 2380]
    #[arg(long, value_name = "ADDR:PORT")]
    peer_listen: Vec<String>,
    /// URL at which other members reach this node, https://IP:PORT; may be given more than once [env: CASEMATE_PEER_URLS, separated by commas] [default: those of --peer-listen]
    #[arg(long, value_name = "URL")]
    peer_urls: Vec<String>,
    /// Where the etcd of this node, when it is in a cluster, listens for nodes without a vote; may be given more than once [env: CASEMATE_CLIENT_LISTEN, separated by commas] [default: none]
    #[arg(long, value_name = "ADDR:PORT")]
    client_listen: Vec<String>,
    /// With what all keys in etcd begin; each cluster has its own [env: CASEMATE_ETCD_PREFIX] [default: /casemate/]
    #[arg(long, value_name = "TEXT")]
    etcd_prefix: Option<String>,
    /// PEM file of the RSA public key that verifies updates [env: CASEMATE_UPDATE_KEY] [default: none, no updates]
    #[arg(long, value_name = "FILE")]
    update_key: Option<String>,
    /// Program that installs a verified update, called with image file and version [env: CASEMATE_UPDATE_COMMAND] [default: none, no updates]
    #[arg(long, value_name = "PROGRAM")]
    update_command: Option<String>,
}

const AFTER_HELP: &str = "\
Example:
  casemated --listen 192.0.2.7:8443 --listen [2001:db8::7]:8443 --data-dir /var/lib/casemate --log warn

A flag takes precedence over its environment variable, and that over the settings file. The same settings as a file (TOML):
  listen = [\"192.0.2.7:8443\", \"[2001:db8::7]:8443\"]
  data-dir = \"/var/lib/casemate\"
  log = \"warn\"
  log-format = \"json\"
  syslog = [\"tls://logs.example.org:6514\"]
  syslog-ca = \"/etc/casemate/syslog-ca.pem\"
  metrics-listen = \"127.0.0.1:9464\"
  failed-state = \"closed\"
  update-key = \"/etc/casemate/vendor.pem\"
  update-command = \"/usr/local/sbin/install-casemate\"
  store = \"etcd\"
  etcd-endpoints = [\"etcd1.example.org:2379\", \"etcd2.example.org:2379\"]
  etcd-ca = \"/etc/casemate/etcd-ca.pem\"
  etcd-cert = \"/etc/casemate/etcd-client.pem\"
  etcd-key = \"/etc/casemate/etcd-client.key\"
  etcd-prefix = \"/casemate/\"
  etcd-program = \"/usr/local/bin/etcd\"
  peer-listen = [\"192.0.2.7:2380\"]
  peer-urls = [\"https://192.0.2.7:2380\"]
  client-listen = [\"192.0.2.7:2379\"]";

const LISTEN_DEFAULT: &str = "127.0.0.1:8443";
const DATA_DIR_DEFAULT: &str = "./casemate-data";
/// With what all keys begin in an etcd that a node runs, and in one that the settings name, unless they say otherwise: so that nodes
/// without a vote find the rows of the members.
pub const ETCD_PREFIX: &str = "/casemate/";
const ETCD_PREFIX_MAX_BYTES: usize = 128;

/// The settings file as deserialised.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileText {
    listen: Option<Vec<Spanned<String>>>,
    data_dir: Option<Spanned<String>>,
    log: Option<Spanned<String>>,
    log_format: Option<Spanned<String>>,
    syslog: Option<Vec<Spanned<String>>>,
    syslog_ca: Option<Spanned<String>>,
    metrics_listen: Option<Spanned<String>>,
    failed_state: Option<Spanned<String>>,
    update_key: Option<Spanned<String>>,
    update_command: Option<Spanned<String>>,
    store: Option<Spanned<String>>,
    etcd_endpoints: Option<Vec<Spanned<String>>>,
    etcd_ca: Option<Spanned<String>>,
    etcd_cert: Option<Spanned<String>>,
    etcd_key: Option<Spanned<String>>,
    etcd_prefix: Option<Spanned<String>>,
    etcd_program: Option<Spanned<String>>,
    peer_listen: Option<Vec<Spanned<String>>>,
    peer_urls: Option<Vec<Spanned<String>>>,
    client_listen: Option<Vec<Spanned<String>>>,
}

/// The settings file, each value with its line.
#[derive(Default)]
struct File {
    listen: Option<Vec<Given>>,
    data_dir: Option<Given>,
    log: Option<Given>,
    log_format: Option<Given>,
    syslog: Option<Vec<Given>>,
    syslog_ca: Option<Given>,
    metrics_listen: Option<Given>,
    failed_state: Option<Given>,
    update_key: Option<Given>,
    update_command: Option<Given>,
    store: Option<Given>,
    etcd_endpoints: Option<Vec<Given>>,
    etcd_ca: Option<Given>,
    etcd_cert: Option<Given>,
    etcd_key: Option<Given>,
    etcd_prefix: Option<Given>,
    etcd_program: Option<Given>,
    peer_listen: Option<Vec<Given>>,
    peer_urls: Option<Vec<Given>>,
    client_listen: Option<Vec<Given>>,
}

/// The settings of the shared store, each with its source.
struct EtcdGiven {
    store: Option<Given>,
    endpoints: Vec<Given>,
    ca: Option<Given>,
    cert: Option<Given>,
    key: Option<Given>,
    prefix: Option<Given>,
}

/// A value and its source, which is named if the value is wrong.
struct Given {
    text: String,
    origin: String,
}

fn read_file(path: &Path) -> Result<File, SettingsError> {
    let name = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| wrong(format!("cannot read the settings file {name}: {error}")))?;
    let line = |at: usize| text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
    let parsed: FileText = toml::from_str(&text).map_err(|error| {
        let place = error.span().map_or_else(String::new, |span| format!(", line {}", line(span.start)));
        wrong(format!("{name}{place}: {}", error.message().lines().collect::<Vec<_>>().join(", ")))
    })?;
    let given = |key: &str, value: Spanned<String>| {
        let origin = format!("{name}, line {}, {key}", line(value.span().start));
        Given { text: value.into_inner(), origin }
    };
    Ok(File {
        listen: parsed.listen.map(|list| list.into_iter().map(|value| given("listen", value)).collect()),
        data_dir: parsed.data_dir.map(|value| given("data-dir", value)),
        log: parsed.log.map(|value| given("log", value)),
        log_format: parsed.log_format.map(|value| given("log-format", value)),
        syslog: parsed.syslog.map(|list| list.into_iter().map(|value| given("syslog", value)).collect()),
        syslog_ca: parsed.syslog_ca.map(|value| given("syslog-ca", value)),
        metrics_listen: parsed.metrics_listen.map(|value| given("metrics-listen", value)),
        failed_state: parsed.failed_state.map(|value| given("failed-state", value)),
        update_key: parsed.update_key.map(|value| given("update-key", value)),
        update_command: parsed.update_command.map(|value| given("update-command", value)),
        store: parsed.store.map(|value| given("store", value)),
        etcd_endpoints: parsed
            .etcd_endpoints
            .map(|list| list.into_iter().map(|value| given("etcd-endpoints", value)).collect()),
        etcd_ca: parsed.etcd_ca.map(|value| given("etcd-ca", value)),
        etcd_cert: parsed.etcd_cert.map(|value| given("etcd-cert", value)),
        etcd_key: parsed.etcd_key.map(|value| given("etcd-key", value)),
        etcd_prefix: parsed.etcd_prefix.map(|value| given("etcd-prefix", value)),
        etcd_program: parsed.etcd_program.map(|value| given("etcd-program", value)),
        peer_listen: parsed.peer_listen.map(|list| list.into_iter().map(|value| given("peer-listen", value)).collect()),
        peer_urls: parsed.peer_urls.map(|list| list.into_iter().map(|value| given("peer-urls", value)).collect()),
        client_listen: parsed
            .client_listen
            .map(|list| list.into_iter().map(|value| given("client-listen", value)).collect()),
    })
}

fn addresses(list: &[Given]) -> Result<Vec<SocketAddr>, SettingsError> {
    if list.is_empty() {
        return Err(wrong("listen: at least one address is needed, such as 127.0.0.1:8443".into()));
    }
    list.iter().map(address).collect()
}

fn address(given: &Given) -> Result<SocketAddr, SettingsError> {
    given.text.parse().map_err(|_| {
        let Given { text, origin } = given;
        wrong(format!("{origin}: `{text}` is not an address and port, such as 127.0.0.1:8443 or [::]:8443"))
    })
}

fn folder(given: &Given) -> Result<PathBuf, SettingsError> {
    if given.text.is_empty() {
        return Err(wrong(format!("{}: a folder is needed, such as /var/lib/casemate", given.origin)));
    }
    Ok(PathBuf::from(&given.text))
}

fn log_format(given: &Given) -> Result<LogFormat, SettingsError> {
    match given.text.as_str() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        other => Err(wrong(format!("{}: `{other}` is not one of text, json", given.origin))),
    }
}

fn failed_state(given: &Given) -> Result<FailedState, SettingsError> {
    match given.text.as_str() {
        "closed" => Ok(FailedState::Closed),
        "open" => Ok(FailedState::Open),
        other => Err(wrong(format!("{}: `{other}` is not one of closed, open", given.origin))),
    }
}

fn syslog_server(given: &Given) -> Result<syslog::Server, SettingsError> {
    let Given { text, origin } = given;
    syslog::Server::parse(text).ok_or_else(|| {
        wrong(format!(
            "{origin}: `{text}` is not a syslog server, such as tcp://192.0.2.7:601 or tls://logs.example.org:6514"
        ))
    })
}

fn file_name(given: &Given) -> Result<PathBuf, SettingsError> {
    if given.text.is_empty() {
        return Err(wrong(format!("{}: a file is needed", given.origin)));
    }
    Ok(PathBuf::from(&given.text))
}

fn update(key: Option<Given>, command: Option<Given>) -> Result<Option<Update>, SettingsError> {
    let path = |given: Given, what: &str| match Path::new(&given.text).is_absolute() {
        true => Ok(PathBuf::from(given.text)),
        false => Err(wrong(format!("{}: `{}` is not an absolute path of {what}", given.origin, given.text))),
    };
    match (key, command) {
        (None, None) => Ok(None),
        (Some(key), Some(command)) => {
            Ok(Some(Update { key: path(key, "a PEM file")?, command: path(command, "a program")? }))
        }
        (Some(given), None) => Err(wrong(format!("{}: update-command must be set as well", given.origin))),
        (None, Some(given)) => Err(wrong(format!("{}: update-key must be set as well", given.origin))),
    }
}

fn peers(
    program: Option<Given>,
    listen: &[Given],
    urls: &[Given],
    clients: &[Given],
    serving: &[SocketAddr],
) -> Result<Peers, SettingsError> {
    let program = program.map(|Given { text, origin }| match Path::new(&text).is_absolute() {
        true => Ok(PathBuf::from(text)),
        false => Err(wrong(format!("{origin}: `{text}` is not an absolute path of an etcd program"))),
    });
    let url = |Given { text, origin }: &Given| match casemate_core::config::peers::host_of(text) {
        Some(_) => Ok(text.clone()),
        None => Err(wrong(format!("{origin}: `{text}` is not a URL such as https://192.0.2.7:{PEER_PORT}"))),
    };
    let mut listen = listen.iter().map(address).collect::<Result<Vec<_>, _>>()?;
    if listen.is_empty() {
        listen = serving.iter().map(|address| SocketAddr::new(address.ip(), PEER_PORT)).collect();
        listen.dedup();
    }
    Ok(Peers {
        program: program.transpose()?,
        listen,
        urls: urls.iter().map(url).collect::<Result<_, _>>()?,
        clients: clients.iter().map(address).collect::<Result<_, _>>()?,
    })
}

/// The port at which NetHSM's nodes listen for each other.
const PEER_PORT: u16 = 2380;

fn etcd(given: EtcdGiven) -> Result<Option<Etcd>, SettingsError> {
    let EtcdGiven { store, endpoints, ca, cert, key, prefix } = given;
    match &store {
        Some(Given { text, .. }) if text == "etcd" => {}
        Some(Given { text, origin }) if text != "embedded" => {
            return Err(wrong(format!("{origin}: `{text}` is not one of embedded, etcd")));
        }
        // A node that used a file although it was meant to use etcd would be an HSM of its own.
        _ => {
            let unused = endpoints.first().or(ca.as_ref()).or(cert.as_ref()).or(key.as_ref()).or(prefix.as_ref());
            return match unused {
                Some(given) => Err(wrong(format!("{}: store must be etcd as well", given.origin))),
                None => Ok(None),
            };
        }
    }
    let origin = store.map(|given| given.origin).unwrap_or_default();
    if endpoints.is_empty() {
        return Err(wrong(format!("{origin}: etcd-endpoints must be set as well, such as 192.0.2.7:2379")));
    }
    let address = |given: &Given| Address::parse(&given.text).map_err(|why| wrong(format!("{}: {why}", given.origin)));
    let identity = match (cert, key) {
        (None, None) => None,
        (Some(cert), Some(key)) => Some((file_name(&cert)?, file_name(&key)?)),
        (Some(given), None) => return Err(wrong(format!("{}: etcd-key must be set as well", given.origin))),
        (None, Some(given)) => return Err(wrong(format!("{}: etcd-cert must be set as well", given.origin))),
    };
    let prefix = match prefix {
        None => ETCD_PREFIX.to_owned(),
        Some(Given { text, .. }) if (1..=ETCD_PREFIX_MAX_BYTES).contains(&text.len()) => text,
        Some(Given { origin, .. }) => {
            return Err(wrong(format!("{origin}: a text of 1 to {ETCD_PREFIX_MAX_BYTES} bytes is needed")));
        }
    };
    Ok(Some(Etcd {
        endpoints: endpoints.iter().map(address).collect::<Result<_, _>>()?,
        ca: ca.as_ref().map(file_name).transpose()?,
        identity,
        prefix,
    }))
}

fn level(given: &Given) -> Result<LevelFilter, SettingsError> {
    Ok(match given.text.as_str() {
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        other => {
            return Err(wrong(format!("{}: `{other}` is not one of error, warn, info, debug, trace", given.origin)));
        }
    })
}

fn from_clap(error: clap::Error) -> SettingsError {
    if error.use_stderr() {
        // The first line says what is wrong; the rest repeats the usage.
        let text = error.to_string();
        let sentence = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        return wrong(format!("{sentence}; run `casemated --help`"));
    }
    SettingsError::Asked(error.to_string())
}

fn wrong(sentence: String) -> SettingsError {
    SettingsError::Wrong(sentence)
}

#[cfg(test)]
mod tests;
