//! Network, logging, time and time servers: stored, returned by GET, and applied.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use casemate_api::body::config::LogLevel;
use serde_json::{Value, json};

use crate::rig::{BASE, Rig};

fn shown(rig: &Rig, path: &str) -> String {
    rig.admin().get(path).is(200).text().to_owned()
}

fn put(rig: &Rig, path: &str, body: Value, status: u16) {
    rig.admin().put(path, body).is(status);
}

const NETWORK: &str = "/config/network";

fn network(address: &str) -> Value {
    json!({"ipAddress": address, "netmask": "255.0.0.0", "gateway": "0.0.0.0"})
}

/// Whether the server answers at this address, at its usual port.
fn served_at(rig: &Rig, ip: IpAddr) -> bool {
    let (address, _) = rig.server();
    TcpStream::connect(SocketAddr::new(ip, address.port())).is_ok()
}

#[test]
fn the_network_is_shown_as_it_was_set() {
    let mut rig = Rig::operational();
    let default = r#"{"ipAddress":"192.168.1.1","netmask":"255.255.255.0","gateway":"0.0.0.0"}"#;
    assert_eq!(shown(&rig, NETWORK), default);
    rig.user("ns1~admin").get(NETWORK).case(75, 403).empty();
    let tag = rig.admin().get(NETWORK).header("etag").unwrap().to_owned();
    rig.admin().header("if-none-match", &tag).get(NETWORK).case(145, 304).empty();

    let v6 = json!({"ipAddress": "192.0.2.7", "netmask": "255.255.255.0", "gateway": "192.0.2.1",
        "ipv6": {"cidr": "::1/8", "gateway": "::1"}});
    let text = r#"{"ipAddress":"192.0.2.7","netmask":"255.255.255.0","gateway":"192.0.2.1","ipv6":{"cidr":"::1/8","gateway":"::1"}}"#;
    rig.admin().header("if-match", "\"other\"").put(NETWORK, v6.clone()).is(412);
    let reply = rig.admin().header("if-match", &tag).put(NETWORK, v6.clone()).is(204).empty();
    assert_eq!(reply.header("cache-control"), None);
    assert_eq!(shown(&rig, NETWORK), text);
    rig.reboot();
    rig.unlock().is(204);
    assert_eq!(shown(&rig, NETWORK), text);
    put(&rig, NETWORK, json!({"ipAddress": "192.0.2.7", "netmask": "255.255.0.0", "ipv6": null}), 204);
    let expected = r#"{"ipAddress":"192.0.2.7","netmask":"255.255.0.0","gateway":"0.0.0.0"}"#;
    assert_eq!(shown(&rig, NETWORK), expected, "case 130: a missing gateway is none");
    put(
        &rig,
        NETWORK,
        json!({"ipAddress": "192.0.2.7", "netmask": "255.255.0.0",
        "ipv6": {"cidr": "2001:db8::7/64", "gateway": null}}),
        204,
    );
    assert!(shown(&rig, NETWORK).ends_with(r#","ipv6":{"cidr":"2001:db8::7/64","gateway":null}}"#));
}

#[test]
fn a_network_that_makes_no_sense_is_refused() {
    let rig = Rig::operational();
    let says = |body: Value, why: &str| {
        rig.admin().put(NETWORK, body).is(400).says(&format!("Invalid data for JSON schema: {why}"));
    };
    let mut body = network("127.0.0.1");
    body["ipAddress"] = "127.0.0".into();
    says(body.clone(), "ipAddress: expected an IPv4 address, such as 192.168.1.1");
    body["ipAddress"] = "::1".into();
    says(body.clone(), "ipAddress: expected an IPv4 address, such as 192.168.1.1");
    body = network("127.0.0.1");
    body["netmask"] = "255.0.255.0".into();
    says(body.clone(), "netmask: expected a netmask of ones and then zeros, such as 255.255.255.0");
    body = network("127.0.0.1");
    body["ipv6"] = json!({"cidr": "::1/129", "gateway": null});
    let cidr = "an IPv6 address and the length of its prefix, such as 2001:db8::7/64";
    says(body.clone(), &format!("ipv6.cidr: expected {cidr}"));
    body["ipv6"] = json!({"cidr": "::1/8"});
    says(body.clone(), "ipv6: missing member `gateway`");
    says(json!({"ipAddress": "127.0.0.1"}), "body: missing member `netmask`");
    for bad in [json!({}), json!([]), json!({"ipAddress": null, "netmask": "255.0.0.0"})] {
        put(&rig, NETWORK, bad, 400);
    }
    body = network("127.0.0.1");
    body["gateway"] = Value::Null;
    put(&rig, NETWORK, body, 400);
    rig.admin().content_type("text/plain").put(NETWORK, network("127.0.0.1")).is(415);
    let long = format!("\"{}\"", "x".repeat(1 << 20));
    rig.admin().put(NETWORK, long.as_str()).case(40, 413).empty();
    rig.anonymous().put(NETWORK, long.as_str()).case(41, 401).empty();
}

#[test]
fn a_configured_address_is_served_until_another_one_is() {
    let mut rig = Rig::operational();
    // All of 127.0.0.0/8 are addresses of this machine.
    let [first, second] = [[127, 0, 0, 61], [127, 0, 0, 62]].map(|octets| IpAddr::from(Ipv4Addr::from(octets)));
    assert!(!served_at(&rig, first) && !served_at(&rig, second));
    put(&rig, NETWORK, network("127.0.0.61"), 204);
    assert!(served_at(&rig, first) && !served_at(&rig, second));

    // A connection through the removed listener is still served.
    let (address, client) = rig.server();
    let socket = TcpStream::connect(SocketAddr::new(first, address.port())).unwrap();
    let name = rustls::pki_types::ServerName::IpAddress(address.ip().into());
    let tls = rustls::ClientConnection::new(client.into(), name).unwrap();
    let mut stream = rustls::StreamOwned::new(tls, socket);
    let mut ask = || {
        use std::io::{Read, Write};
        write!(stream, "GET {BASE}/health/state HTTP/1.1\r\nhost: hsm\r\n\r\n").unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        let mut rest = vec![0; 4096];
        let _ = stream.read(&mut rest).unwrap();
        String::from_utf8(start.to_vec()).unwrap()
    };
    assert_eq!(ask(), "HTTP/1.1 200");
    put(&rig, NETWORK, network("127.0.0.62"), 204);
    assert!(!served_at(&rig, first) && served_at(&rig, second));
    assert_eq!(ask(), "HTTP/1.1 200");

    // Back and forth, without the address still being in use.
    for _ in 0..20 {
        put(&rig, NETWORK, network("127.0.0.61"), 204);
        put(&rig, NETWORK, network("127.0.0.62"), 204);
    }
    assert!(!served_at(&rig, first) && served_at(&rig, second));
    // The addresses in the settings stay, and are not bound twice.
    put(&rig, NETWORK, network("127.0.0.1"), 204);
    assert!(served_at(&rig, Ipv4Addr::LOCALHOST.into()) && !served_at(&rig, second));
    // An address of no machine (RFC 5737), the broadcast address, and a multicast address: stored, but not served.
    for elsewhere in ["192.0.2.1", "0.0.0.0", "224.0.0.1"] {
        put(&rig, NETWORK, network(elsewhere), 204);
        assert!(served_at(&rig, Ipv4Addr::LOCALHOST.into()) && !served_at(&rig, second));
        assert!(shown(&rig, NETWORK).contains(elsewhere));
    }
    put(&rig, NETWORK, network("127.0.0.62"), 204);
    rig.reboot();
    assert!(served_at(&rig, second), "from the boot on, even while Locked");
}

#[test]
fn an_ipv6_address_is_served_too() {
    let rig = Rig::operational();
    let local: IpAddr = "::1".parse().unwrap();
    if std::net::TcpListener::bind((local, 0)).is_err() {
        eprintln!("SKIPPED: this machine has no IPv6");
        return;
    }
    let mut body = network("192.0.2.1");
    body["ipv6"] = json!({"cidr": "::1/128", "gateway": null});
    put(&rig, NETWORK, body, 204);
    assert!(served_at(&rig, local));
    put(&rig, NETWORK, network("192.0.2.1"), 204);
    assert!(!served_at(&rig, local));
}

const LOGGING: &str = "/config/logging";

/// Case 131.
#[test]
fn logging_is_shown_applied_and_kept() {
    let mut rig = Rig::operational();
    assert_eq!(shown(&rig, LOGGING), r#"{"ipAddress":"0.0.0.0","port":514,"logLevel":"info"}"#);
    assert!(rig.sim.host.loggings().is_empty(), "the setting of the process holds until somebody configures it");
    let body = |address: &str, port: i64, level: &str| json!({"ipAddress": address, "port": port, "logLevel": level});
    for bad in [
        body("0.0.0.0", 514, "nonexisting"),
        body("0.0.0.0", 514, "quiet"),
        body("0.0.0.0", 514, "INFO"),
        body("0.0.0.0", 65536, "info"),
        body("0.0.0.0", -1, "info"),
        body("localhost", 514, "info"),
        json!({"ipAddress": "0.0.0.0", "port": 514}),
        json!({"ipAddress": "0.0.0.0", "port": "514", "logLevel": "info"}),
        json!({"ipAddress": "0.0.0.0", "port": 514, "logLevel": "info", "protocol": "tcp"}),
    ] {
        rig.admin().put(LOGGING, bad).case(131, 400);
    }
    assert!(rig.sim.host.loggings().is_empty());
    for (address, port, level) in
        [("192.0.2.9", 6514, "debug"), ("2001:db8::9", 65535, "info"), ("0.0.0.0", 0, "warning"), ("::", 1, "error")]
    {
        put(&rig, LOGGING, body(address, port, level), 204);
        assert_eq!(rig.admin().get(LOGGING).is(200).json(), body(address, port, level));
    }
    let levels: Vec<_> = rig.sim.host.loggings().iter().map(|logging| logging.log_level).collect();
    assert_eq!(levels, [LogLevel::Debug, LogLevel::Info, LogLevel::Warning, LogLevel::Error]);
    rig.reboot();
    assert_eq!(rig.sim.host.loggings().len(), 5, "applied again at boot, while still Locked");
    rig.admin().get(LOGGING).is(412);
    rig.unlock().is(204);
    assert_eq!(shown(&rig, LOGGING), r#"{"ipAddress":"::","port":1,"logLevel":"error"}"#);
}

const TIME: &str = "/config/time";

/// Case 132.
#[test]
fn the_time_is_set_and_kept() {
    let mut rig = Rig::operational();
    let reply = rig.admin().get(TIME).is(200);
    assert_eq!(reply.header("cache-control"), Some("no-cache"));
    assert!(reply.text().starts_with(r#"{"time":"2030-01-02T03:0"#) && reply.text().ends_with(r#"Z"}"#), "{reply}");
    assert_eq!(reply.text().len(), r#"{"time":"2030-01-02T03:04:05Z"}"#.len(), "no fraction");
    let put = |rig: &Rig, time: &str| rig.admin().put(TIME, json!({"time": time}));
    let offset = "Error while parsing timestamp. Offset must be 0.";
    put(&rig, "2031-01-01T00:00:00+02:00").case(132, 400).says(offset);
    for bad in ["", "now", "2031-01-01", "2031-01-01T00:00:00", "2031-02-30T00:00:00Z"] {
        put(&rig, bad).is(400);
    }
    rig.admin().put(TIME, json!({"time": 5})).is(400);
    rig.admin().put(TIME, json!({})).is(400);
    for good in ["2031-06-01T12:00:00Z", "2031-06-01T12:00:00.25+00:00", "2031-06-01T12:00:00-00:00"] {
        put(&rig, good).is(204).empty();
        assert_eq!(shown(&rig, TIME), r#"{"time":"2031-06-01T12:00:00Z"}"#);
    }
    rig.advance(std::time::Duration::from_secs(61));
    let reply = rig.admin().get(TIME).is(200);
    assert_eq!(reply.text(), r#"{"time":"2031-06-01T12:01:01Z"}"#);
    assert_eq!(reply.header("date"), Some("Sun, 01 Jun 2031 12:01:01 GMT"));
    rig.reboot();
    rig.unlock().is(204);
    assert!(shown(&rig, TIME).starts_with(r#"{"time":"2031-06-01T12:01:"#));
    // Back as well as forth.
    put(&rig, "2001-01-01T00:00:00Z").is(204);
    assert_eq!(shown(&rig, TIME), r#"{"time":"2001-01-01T00:00:00Z"}"#);
}

const NTP: &str = "/config/ntp";

#[test]
fn time_servers_are_stored() {
    let mut rig = Rig::operational();
    assert_eq!(shown(&rig, NTP), "{}");
    let both = json!({"ntpIP": "192.0.2.3", "ntsName": "nts.example.com"});
    put(&rig, NTP, both.clone(), 204);
    assert_eq!(shown(&rig, NTP), both.to_string());
    for bad in [
        json!({"ntpIP": "nts.example.com"}),
        json!({"ntpIP": ""}),
        json!({"ntsName": "two words"}),
        json!({"ntsName": ""}),
        json!({"ntsName": 5}),
        json!({"ntp": "192.0.2.3"}),
        json!("192.0.2.3"),
    ] {
        put(&rig, NTP, bad, 400);
    }
    assert_eq!(shown(&rig, NTP), both.to_string());
    rig.reboot();
    rig.unlock().is(204);
    assert_eq!(shown(&rig, NTP), both.to_string());
    put(&rig, NTP, json!({"ntpIP": "2001:db8::3", "ntsName": null}), 204);
    assert_eq!(shown(&rig, NTP), r#"{"ntpIP":"2001:db8::3"}"#);
    put(&rig, NTP, json!({}), 204);
    assert_eq!(shown(&rig, NTP), "{}");
}
