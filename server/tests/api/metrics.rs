//! Metrics: NetHSM's JSON, and the Prometheus text, on the API and on a listener of its own.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use casemate_api::State;
use casemate_server::observe::listener::{self, Source};
use casemate_server::observe::metrics::{CODES, Metrics};
use casemate_server::process::{End, Stop};
use serde_json::Value;

use crate::rig::{Rig, sign_something};

/// Samples by name and labels. `tests/compat` checks the text with Prometheus' own Python parser.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    lines.map(sample).collect()
}

/// What Prometheus 3 sends.
const ACCEPT: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
    application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
    text/plain;version=0.0.4;q=0.3,*/*;q=0.2";

#[test]
fn prometheus_gets_the_metrics() {
    let rig = Rig::operational();
    if rig.store_is_real() {
        return;
    }
    rig.operator().post("/keys/k/sign", sign_something()).is(200);
    rig.operator().post("/keys/k/sign", sign_something()).is(200);
    rig.operator().get("/keys/none").is(404);
    rig.anonymous().get("/nowhere").is(404);
    rig.login("operator2", "a wrong passphrase").get("/keys").is(401);
    let reply = rig.user("metrics").header("accept", ACCEPT).get("/metrics/prometheus").is(200);
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(reply.header("cache-control"), Some("no-cache"));
    let text = String::from_utf8(reply.body.clone()).unwrap();
    let samples = samples(&text);
    for (name, value) in [
        ("casemate_http_requests_total{method=\"POST\",path=\"/keys/{key}/sign\",code=\"200\"}", 2.0),
        ("casemate_http_requests_total{method=\"GET\",path=\"/keys/{key}\",code=\"404\"}", 1.0),
        ("casemate_http_requests_total{method=\"GET\",path=\"/keys\",code=\"401\"}", 1.0),
        ("casemate_http_requests_total{method=\"other\",path=\"other\",code=\"404\"}", 1.0),
        ("casemate_http_request_duration_seconds_count{method=\"POST\",path=\"/keys/{key}/sign\"}", 2.0),
        ("casemate_key_operations_total{mechanism=\"EdDSA_Signature\"}", 2.0),
        ("casemate_key_operations_total{mechanism=\"ECDSA_Signature\"}", 0.0),
        ("casemate_logins_refused_total{reason=\"credentials\"}", 1.0),
        ("casemate_state{state=\"Operational\"}", 1.0),
        ("casemate_state{state=\"Locked\"}", 0.0),
        ("casemate_syslog_dropped_total", 0.0),
        ("casemate_cache_misses_total{table=\"keys\"}", 2.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name} in {text}");
    }
    assert!(samples["casemate_cache_hits_total{table=\"keys\"}"] >= 1.0);
    assert!(samples["process_resident_memory_bytes"] > 0.0);
}

#[test]
fn prometheus_is_for_metrics_users_while_operational() {
    let rig = Rig::operational();
    rig.anonymous().get("/metrics/prometheus").is(401);
    rig.admin().get("/metrics/prometheus").is(403);
    rig.user("ns1~metrics").get("/metrics/prometheus").is(200);
    rig.user("metrics").header("accept", "text/plain").get("/metrics/prometheus").is(200);
    rig.user("metrics").header("accept", "application/json").get("/metrics/prometheus").is(406);
    Rig::locked().user("metrics").get("/metrics/prometheus").is(412);
}

#[test]
fn json_has_the_names_of_the_contract() {
    let rig = Rig::operational();
    rig.operator().post("/keys/k/sign", sign_something()).is(200);
    let json = rig.user("metrics").get("/metrics").is(200).json();
    for name in [
        "uptime",
        "log warnings",
        "log errors",
        "sign",
        "http response 200",
        "http response total",
        "http response time",
    ] {
        assert!(json[name].is_string(), "{name} in {json}");
    }
}

#[test]
fn every_documented_status_is_counted_separately() {
    let document = Rig::unprovisioned().anonymous().send_to("GET", "/openapi.json", "").is(200).json();
    for operation in document["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values())
    {
        for status in operation["responses"].as_object().unwrap().keys() {
            assert!(CODES.contains(&status.parse().unwrap()), "{status}");
        }
    }
}

/// Every name of a metric in the text of a PromQL expression.
fn names_in(expression: &str) -> Vec<&str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("casemate_") || word.starts_with("process_")).collect()
}

fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| match value {
            Value::String(text) if name == "expr" || name == "query" => found.push(text.clone()),
            other => expressions(other, found),
        }),
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_metrics_that_exist() {
    let rig = Rig::operational();
    rig.operator().get("/keys").is(200);
    let text = rig.user("metrics").get("/metrics/prometheus").is(200);
    let text = String::from_utf8(text.body.clone()).unwrap();
    // The rig has stores without files.
    let known = |name: &str| {
        name == "casemate_store_size_bytes"
            || name == "process_open_fds"
            || text.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
    };
    let dashboard: Value = serde_json::from_str(include_str!("../../../docs/operate/grafana-dashboard.json")).unwrap();
    let mut asked = Vec::new();
    expressions(&dashboard, &mut asked);
    assert!(asked.len() >= 10, "{asked:?}");
    let guide = include_str!("../../../docs/operate/monitoring.md");
    asked.extend(guide.lines().filter(|line| line.trim_start().starts_with("expr: ")).map(str::to_owned));
    let names: Vec<&str> = asked.iter().flat_map(|expression| names_in(expression)).collect();
    assert!(!names.is_empty());
    for name in names {
        assert!(known(name), "{name}");
    }
    // Every family is documented.
    for family in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = family.split(' ').next().unwrap();
        assert!(guide.contains(&format!("`{name}`")), "{name} is missing in monitoring.md");
    }
}

/// A metrics listener beside the rig's server.
struct Scraped {
    address: std::net::SocketAddr,
    stop: Stop,
    thread: Option<std::thread::JoinHandle<()>>,
}

fn scraped(rig: &Rig) -> Scraped {
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = door.local_addr().unwrap();
    let metrics = Arc::new(Metrics::new(Duration::ZERO));
    let source = Source { hsm: rig.hsm.clone(), metrics, clock: rig.sim.clock.clone() };
    let stop = Stop::new();
    let thread = listener::start(door, Arc::new(source), &stop).unwrap();
    Scraped { address, stop, thread: Some(thread) }
}

impl Scraped {
    fn ask(&self, head: &str) -> String {
        let mut tcp = TcpStream::connect(self.address).unwrap();
        tcp.write_all(format!("{head} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).unwrap();
        let mut text = String::new();
        tcp.read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Scraped {
    fn drop(&mut self) {
        self.stop.request(End::Shutdown);
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn the_listener_answers_in_every_state_and_nothing_else() {
    for state in State::ALL {
        let rig = Rig::in_state(state);
        let scraped = scraped(&rig);
        let reply = scraped.ask("GET /metrics");
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
        assert!(reply.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{reply}");
        assert!(reply.contains(&format!("\ncasemate_state{{state=\"{state:?}\"}} 1\n")), "{reply}");
        for (head, status) in [("POST /metrics", "405"), ("GET /", "404"), ("GET /api/v1/metrics", "404")] {
            let reply = scraped.ask(head);
            assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{reply}");
        }
    }
}

#[test]
fn slow_clients_do_not_block_the_listener() {
    let rig = Rig::unprovisioned();
    let scraped = scraped(&rig);
    let idle = casemate_api::limits::METRICS_CONNECTIONS_MAX - 1;
    let _idle: Vec<_> = (0..idle).map(|_| TcpStream::connect(scraped.address).unwrap()).collect();
    assert!(scraped.ask("GET /metrics").starts_with("HTTP/1.1 200"));
}
