//! Settings of the process: few, from four places, and wrong ones are refused with one sentence.
//!
//! A flag beats an environment variable, that beats the settings file, that beats the default. Everything else an HSM has
//! to be told is configured through its API and kept in its store.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Parser;
use serde::Deserialize;
use toml::Spanned;
use tracing::level_filters::LevelFilter;

/// What `casemated` was told.
#[derive(Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where HTTPS is served; at least one.
    pub listen: Vec<SocketAddr>,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// The least important log lines that are written.
    pub log: LevelFilter,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Nothing is wrong: this is the text of `--help` or `--version`, for standard output and exit code 0.
    #[error("{0}")]
    Asked(String),
    /// One sentence for standard error and exit code 2.
    #[error("{0}")]
    Wrong(String),
}

impl Settings {
    /// Reads the command line (the program's name first), the environment and the settings file.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, SettingsError> {
        Self::resolve(args, |name| std::env::var_os(name))
    }

    fn resolve(
        args: impl IntoIterator<Item = OsString>,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, SettingsError> {
        let flags = Flags::try_parse_from(args).map_err(from_clap)?;
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
        Ok(Self {
            listen: addresses(&listen)?,
            data_dir: data_dir.map_or_else(|| Ok(DATA_DIR_DEFAULT.into()), |given| folder(&given))?,
            log: log.map_or(Ok(LevelFilter::INFO), |given| level(&given))?,
        })
    }
}

/// Casemate, the network HSM: keeps keys, never lets them out, and signs, decrypts and encrypts for those who may.
#[derive(Parser)]
#[command(name = "casemated", version, after_help = AFTER_HELP)]
struct Flags {
    /// Where to serve HTTPS; may be given more than once; [::] takes IPv4, too [env: CASEMATE_LISTEN, separated by commas] [default: 127.0.0.1:8443]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<String>,
    /// Where everything is kept; made if there is none [env: CASEMATE_DATA_DIR] [default: ./casemate-data]
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<String>,
    /// Settings file [env: CASEMATE_CONFIG] [default: none]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// error, warn, info, debug or trace [env: CASEMATE_LOG] [default: info]
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
}

const AFTER_HELP: &str = "\
Example:
  casemated --listen 192.0.2.7:8443 --listen [2001:db8::7]:8443 --data-dir /var/lib/casemate --log warn

A flag beats its environment variable, which beats the settings file. The same settings as a file (TOML):
  listen = [\"192.0.2.7:8443\", \"[2001:db8::7]:8443\"]
  data-dir = \"/var/lib/casemate\"
  log = \"warn\"";

const LISTEN_DEFAULT: &str = "127.0.0.1:8443";
const DATA_DIR_DEFAULT: &str = "./casemate-data";

/// The settings file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileText {
    listen: Option<Vec<Spanned<String>>>,
    data_dir: Option<Spanned<String>>,
    log: Option<Spanned<String>>,
}

/// The settings file with each value's place.
#[derive(Default)]
struct File {
    listen: Option<Vec<Given>>,
    data_dir: Option<Given>,
    log: Option<Given>,
}

/// A value and who gave it, for the sentence if it is wrong.
struct Given {
    text: String,
    origin: String,
}

fn read_file(path: &Path) -> Result<File, SettingsError> {
    let name = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| wrong(format!("the settings file {name} cannot be read: {error}")))?;
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

fn level(given: &Given) -> Result<LevelFilter, SettingsError> {
    Ok(match given.text.as_str() {
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        other => {
            return Err(wrong(format!("{}: `{other}` is none of error, warn, info, debug, trace", given.origin)));
        }
    })
}

fn from_clap(error: clap::Error) -> SettingsError {
    if error.use_stderr() {
        // Its first line says what is wrong; the rest repeats the usage.
        let text = error.to_string();
        let sentence = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        return wrong(format!("{sentence}; --help lists what there is"));
    }
    SettingsError::Asked(error.to_string())
}

fn wrong(sentence: String) -> SettingsError {
    SettingsError::Wrong(sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str], environment: &[(&str, &str)]) -> Result<Settings, String> {
        let args = std::iter::once("casemated").chain(args.iter().copied()).map(OsString::from);
        let find = |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        Settings::resolve(args, find).map_err(|error| error.to_string())
    }

    /// A settings file that is gone after the test.
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
    fn without_a_word_the_defaults_hold() {
        let expected = Settings {
            listen: listen(&["127.0.0.1:8443"]),
            data_dir: "./casemate-data".into(),
            log: LevelFilter::INFO,
        };
        assert_eq!(read(&[], &[]), Ok(expected));
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
            (&[], &[("CASEMATE_LOG", "loud")], "CASEMATE_LOG: `loud` is none of error, warn, info, debug, trace"),
            (&["--data-dir", ""], &[], "--data-dir: a folder is needed, such as /var/lib/casemate"),
            (&["--port"], &[], "unexpected argument '--port' found; --help lists what there is"),
            (
                &["--config", "/no/such/file"],
                &[],
                "the settings file /no/such/file cannot be read: No such file or directory (os error 2)",
            ),
        ] {
            assert_eq!(read(args, environment), Err(sentence.into()));
        }
    }

    #[test]
    fn wrong_files_are_told_by_line() {
        for (name, text, rest) in [
            (
                "key",
                "log = 'info'\nport = 1\n",
                "line 2: unknown field `port`, expected one of `listen`, `data-dir`, `log`",
            ),
            ("type", "\n\nlog = 1\n", "line 3: invalid type: integer `1`, expected a string"),
            ("level", "\nlog = 'loud'", "line 2, log: `loud` is none of error, warn, info, debug, trace"),
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
    fn help_and_version_are_no_errors() {
        let asked = |flag: &str| match Settings::resolve(["casemated", flag].map(OsString::from), |_| None) {
            Err(SettingsError::Asked(text)) => text,
            other => panic!("{other:?}"),
        };
        let help = asked("--help");
        for word in
            ["CASEMATE_LISTEN", "CASEMATE_DATA_DIR", "CASEMATE_CONFIG", "CASEMATE_LOG", "default: 127.0.0.1:8443"]
        {
            assert!(help.contains(word), "{word} in {help}");
        }
        assert_eq!(asked("--version").trim(), concat!("casemated ", env!("CARGO_PKG_VERSION")));
    }
}
