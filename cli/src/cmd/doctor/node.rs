//! Checks of one node, from its name to the login.

use std::time::Duration;

use casemate_api::State;
use casemate_client::{Cause, Error, Inspection, Session, TlsInfo, Trust};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::certificate;
use super::report::Report;
use super::store;
use crate::exit::Failure;
use crate::profile::Context;

/// A node that accepted the login.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) session: Session,
    /// Version of its software, if this user may see it.
    pub(super) version: Option<String>,
}

/// Checks node number `at`, as far as that makes sense.
pub(super) fn check(
    context: &Context,
    session: Option<&Session>,
    at: usize,
    report: &mut Report,
) -> Result<Option<Node>, Failure> {
    if !connection(context.client.trust(), context.client.inspect(at)?, report) {
        return Ok(None);
    }
    let anonymous = context.client.anonymous().at(at)?;
    match anonymous.info() {
        Ok(info) => {
            let data = json!({ "vendor": info.vendor, "product": info.product });
            report.ok("api", format!("{} of {} answers", info.product, info.vendor), data);
        }
        Err(why) => {
            report.failure("api", &why.into());
            return Ok(None);
        }
    }
    let state = match anonymous.health().state() {
        Ok(state) => state,
        Err(why) => {
            report.failure("state", &why.into());
            return Ok(None);
        }
    };
    check_state(state, report);
    let session = session.map(|session| session.at(at)).transpose()?;
    let node = match (session, state) {
        (Some(session), State::Operational) => login(context, session, report),
        (Some(_), _) => {
            report.skip("login", "only an Operational HSM accepts logins");
            None
        }
        (None, _) if context.user.is_some() => {
            report.skip("login", "no passphrase is configured, and the doctor does not ask for one");
            None
        }
        (None, _) => {
            report.skip("login", "no user is given");
            None
        }
    };
    store::check(&anonymous, node.as_ref().map(|node| &node.session), state, report);
    clock(&anonymous, node.as_ref().map(|node| &node.session), report);
    Ok(node)
}

/// Checks name, connection, TLS and certificate. Returns whether a request can be sent.
fn connection(trust: &Trust, inspection: Inspection, report: &mut Report) -> bool {
    match inspection.addresses {
        Ok(addresses) => {
            let addresses: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
            report.ok("address", addresses.join(", "), json!({ "addresses": addresses }));
        }
        Err(why) => {
            let next = "Check the spelling of the name, and the name resolution of this machine.";
            report.fail("address", UNREACHABLE, why.to_string(), next, Value::Null);
        }
    }
    match inspection.connection {
        None => {}
        Some(Ok((address, took))) => {
            let data = json!({ "address": address.to_string(), "ms": ms(took) });
            report.ok("connection", format!("{address} answers within {} ms", ms(took)), data);
        }
        Some(Err(why)) => {
            let next = match why {
                Cause::TimedOut => "Check the network and the firewalls on the way, and that the HSM is on.",
                _ => "Check the port, and that the HSM runs.",
            };
            report.fail("connection", UNREACHABLE, why.to_string(), next, Value::Null);
        }
    }
    match inspection.tls {
        None => false,
        Some(Ok(shown)) => tls(trust, &shown, report),
        Some(Err(why)) => {
            let next = "Check that this is the port on which the HSM serves HTTPS.";
            report.fail("tls", UNREACHABLE, why.to_string(), next, Value::Null);
            false
        }
    }
}

fn tls(trust: &Trust, shown: &TlsInfo, report: &mut Report) -> bool {
    let version = shown.version.replace("TLSv", "TLS ").replace('_', ".");
    let data = json!({ "version": version, "ms": ms(shown.took) });
    report.ok("tls", format!("{version}, handshake within {} ms", ms(shown.took)), data);
    // A pin is the identity, so names and dates of the certificate do not matter.
    let counts = matches!(trust, Trust::System | Trust::CaFile(_));
    facts(counts, shown, report);
    let pin = format!(
        "If the HSM's operator confirms the fingerprint, use --pin {}, or save it with `casemate profile add`.",
        shown.fingerprint
    );
    match (&shown.trusted, trust) {
        (Ok(()), Trust::Pinned(_)) => report.ok("trust", "its fingerprint is pinned", json!({ "by": "pin" })),
        (Ok(()), Trust::CaFile(file)) => {
            report.ok("trust", format!("it was issued under {}", file.display()), json!({ "by": "ca-file" }));
        }
        (Ok(()), Trust::System) => {
            report.ok("trust", "it was issued under a root certificate of this machine", json!({ "by": "system" }));
        }
        (Ok(()), Trust::Anyone) => {
            let seen = "any certificate is trusted (--insecure), so whoever intercepts the connection can read passphrases and keys";
            report.warn("trust", seen, pin, json!({ "by": "nothing" }));
        }
        (Err(why @ Cause::Expired { .. }), _) => {
            let next = format!("Renew it (`casemate config tls`). {pin}");
            report.fail("trust", UNTRUSTED, why.to_string(), next, Value::Null);
        }
        (Err(why), _) => report.fail("trust", UNTRUSTED, why.to_string(), pin, Value::Null),
    }
    shown.trusted.is_ok()
}

/// Checks the content of the certificate. `counts`: whether its names and dates matter for the trust.
fn facts(counts: bool, shown: &TlsInfo, report: &mut Report) {
    let Some(facts) = shown.chain.first().and_then(|leaf| certificate::read(leaf)) else {
        let data = json!({ "fingerprint": shown.fingerprint.to_string() });
        report.warn("certificate", "it cannot be read", "Generate a new one (`casemate config tls generate`).", data);
        return;
    };
    let left_days = facts.days_left;
    let until = facts.not_after.split('T').next().unwrap_or_default();
    let issuer = if facts.self_issued { "self-signed".into() } else { format!("issued by {}", facts.issuer) };
    let names = if facts.names.is_empty() { facts.subject.clone() } else { facts.names.join(", ") };
    let data = json!({
        "fingerprint": shown.fingerprint.to_string(),
        "subject": facts.subject,
        "issuer": facts.issuer,
        "names": facts.names,
        "namesHost": shown.names_host,
        "notBefore": facts.not_before,
        "notAfter": facts.not_after,
        "daysLeft": left_days,
    });
    let seen = format!("for {names}, {issuer}, until {until}, SHA-256 {}", shown.fingerprint);
    if left_days < 0 {
        let next = if counts {
            "Renew it (`casemate config tls`)."
        } else {
            "The pin is still valid, but other clients may refuse the certificate."
        };
        report.warn("certificate", format!("expired, {seen}"), next, data);
    } else if counts && !shown.names_host {
        let next = "Use a name that is in it, issue one for this name, or pin it.";
        report.warn("certificate", format!("not for this host, {seen}"), next, data);
    } else if counts && left_days < SOON_DAYS {
        let next = format!("It expires in {left_days} days: renew it (`casemate config tls`).");
        report.warn("certificate", seen, next, data);
    } else {
        report.ok("certificate", seen, data);
    }
}

fn check_state(state: State, report: &mut Report) {
    let data = json!({ "state": state });
    let next = match state {
        State::Operational => return report.ok("state", "Operational", data),
        State::Unprovisioned => "Set it up with `casemate provision`.",
        State::Locked => "Unlock it with `casemate unlock`.",
        State::Failed => {
            "It cannot reach its store: check the log of the HSM and, in a cluster, the other members. It continues by \
             itself when the store is back."
        }
    };
    report.fail("state", WRONG_STATE, format!("{state:?}, so keys cannot be used"), next, data);
}

/// Checks the login, and the version of the software.
fn login(context: &Context, session: Session, report: &mut Report) -> Option<Node> {
    let user = context.user.as_ref()?;
    match session.users().read(user) {
        Ok(found) => {
            let role = format!("{:?}", found.role);
            report.ok("login", format!("as {user}, {role}"), json!({ "user": user.to_string(), "role": role }));
        }
        // Some roles may not even read their own user, but the login succeeded.
        Err(Error::Forbidden { .. }) => report.ok("login", format!("as {user}"), json!({ "user": user.to_string() })),
        Err(why) => {
            report.failure("login", &why.into());
            return None;
        }
    }
    let version = match session.system().info() {
        Ok(info) => {
            let data = json!({ "softwareVersion": info.software_version, "softwareBuild": info.software_build });
            let own = env!("CARGO_PKG_VERSION");
            report.ok("version", format!("{}, this is casemate {own}", info.software_version), data);
            Some(format!("{} ({})", info.software_version, info.software_build))
        }
        Err(Error::Forbidden { .. }) => {
            report.skip("version", "only an Administrator outside of namespaces may read it");
            None
        }
        Err(why) => {
            report.failure("version", &why.into());
            None
        }
    };
    Some(Node { name: report.node.clone().unwrap_or_default(), session, version })
}

/// Compares the clock of the HSM with that of this machine, which is read before and after.
fn clock(anonymous: &Session, session: Option<&Session>, report: &mut Report) {
    let before = Timestamp::now();
    let time = anonymous.health().date().map(|date| {
        // Fractions of a second are cut off, half a second on average.
        date.and_then(|date| jiff::fmt::rfc2822::parse(&date).ok())
            .map(|date| date.timestamp() + SignedDuration::from_millis(500))
    });
    let (before, time) = match (time, session) {
        (Ok(None), Some(session)) => (
            Timestamp::now(),
            match session.config().time() {
                Ok(time) => Ok(time.parse::<Timestamp>().ok()),
                Err(Error::Forbidden { .. }) => Ok(None),
                Err(why) => Err(why),
            },
        ),
        (time, _) => (before, time),
    };
    let after = Timestamp::now();
    let there = match time {
        Ok(Some(there)) => there,
        Ok(None) => return report.skip("clock", "the HSM tells its time only to an Administrator"),
        Err(why) => return report.failure("clock", &why.into()),
    };
    let here = before + after.duration_since(before) / 2;
    let ahead = there.duration_since(here);
    let data = json!({ "aheadMs": ahead.as_millis() as i64 });
    let seconds = ahead.as_secs_f64();
    if ahead.abs() <= FAR {
        return report.ok("clock", format!("{seconds:+.1} s compared to this machine"), data);
    }
    let next = "Check which of the two is wrong, and set it (`casemate config time set`): the log uses these times.";
    report.warn("clock", format!("{seconds:+.1} s compared to this machine"), next, data);
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A certificate that expires within so many days is a warning.
const SOON_DAYS: i64 = 30;
/// A larger difference between the clocks is a warning.
const FAR: SignedDuration = SignedDuration::from_secs(5);

const UNREACHABLE: (u8, &str) = (3, "unreachable");
const UNTRUSTED: (u8, &str) = (4, "untrusted");
pub(super) const WRONG_STATE: (u8, &str) = (8, "wrong-state");
