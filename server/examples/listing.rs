//! Prints the tables: `policy` for who may call what, `openapi` for the API document, `mechanisms` for what keys can
//! do. `cargo xtask policy`, `openapi` and `mechanisms` run it.

use casemate_api::mechanisms::{Mode, TABLE};
use casemate_api::{Role, State};
use casemate_core::identity::caller::CallerScope;
use casemate_server::http::access::{FailedState, Rule};
use casemate_server::http::endpoints;
use casemate_server::http::openapi;
use casemate_server::http::route::Routes;

#[expect(clippy::print_stdout, reason = "this is what it is for")]
fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("policy") => print!("{}", policy()),
        Some("openapi") => {
            println!(
                "{}",
                String::from_utf8_lossy(&openapi::document(&Routes::new(endpoints::table()), FailedState::default()))
            )
        }
        Some("mechanisms") => print!("{}", mechanisms()),
        other => println!("policy, openapi or mechanisms, not {other:?}"),
    }
}

/// One line per endpoint: who may call it in each state.
fn policy() -> String {
    let mut text = format!("{:<7}{:<42}", "method", "path");
    for state in State::ALL {
        text += &format!("{:<26}", format!("{state:?}"));
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    for row in endpoints::table() {
        let spec = &row.spec;
        let mut line = format!("{:<7}{:<42}", spec.method.as_str(), spec.path);
        for state in State::ALL {
            let rule = spec.access.iter().find(|(open, _)| *open == state).map(|(_, rule)| *rule);
            line += &format!("{:<26}", who(rule));
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn who(rule: Option<Rule>) -> String {
    match rule {
        None => "-".into(),
        Some(Rule::Public) => "anybody".into(),
        Some(Rule::PublicOrUnlockHolder) => "failed-state decides".into(),
        Some(Rule::PublicIfAloneOrUnlockHolder) => "failed-state decides, if the store is not shared".into(),
        Some(Rule::UnlockHolder) => "unlock passphrase".into(),
        Some(Rule::Allowed(action, scope)) => {
            let roles: Vec<_> =
                Role::ALL.iter().filter(|role| role.may(action)).map(|role| format!("{role:?}")).collect();
            let scope = if scope == CallerScope::Root { "R-" } else { "" };
            format!("{scope}{}", roles.join(","))
        }
    }
}

/// One line per (key type, mechanism).
fn mechanisms() -> String {
    let mut text = format!("{:<15}{:<29}{:<10}{:<11}{:<8}input\n", "key", "mechanism", "operation", "mode", "CKM");
    for row in TABLE {
        let (operation, mode) = match row.mode {
            Mode::Sign(mode) => ("sign", format!("{mode:?}")),
            Mode::Decrypt(mode) => ("decrypt", format!("{mode:?}")),
            Mode::Encrypt(mode) => ("encrypt", format!("{mode:?}")),
        };
        let ckm = row.ckm.map_or("-".to_owned(), |number| format!("{number:#x}"));
        text += &format!(
            "{:<15}{:<29}{operation:<10}{mode:<11}{ckm:<8}{:?}\n",
            row.key.as_str(),
            format!("{:?}", row.mechanism),
            row.input
        );
    }
    text
}
