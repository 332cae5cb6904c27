//! `doctor`: checks everything between this command and the keys, in order, and tells what to do about each finding.
//!
//! It changes nothing and asks nothing. What could not be checked is `skip`, never `ok`.

mod agreement;
mod certificate;
mod node;
mod report;
mod store;

use serde_json::json;

use report::{Check, CheckResult, Report};

use crate::exit::Failure;
use crate::profile::Context;

/// Checks every node, then what they should have in common.
pub(crate) fn run(context: &Context) -> Result<(), Failure> {
    let mut report = Report { node: None, checks: Vec::new(), code: None };
    let session = match context.session_without_asking() {
        Ok(session) => session,
        Err(why) => {
            report.failure("passphrase", &why);
            None
        }
    };
    let mut nodes = Vec::new();
    for (at, name) in context.client.nodes().iter().enumerate() {
        report.node = Some(name.clone());
        if let Some(found) = node::check(context, session.as_ref(), at, &mut report)? {
            nodes.push(found);
        }
    }
    report.node = None;
    if context.client.nodes().len() > 1 {
        agreement::check(&nodes, &mut report);
    }

    let code = report.code;
    let worst = match code {
        Some(_) => CheckResult::Fail,
        None if report.checks.iter().any(|check| check.result == CheckResult::Warn) => CheckResult::Warn,
        None => CheckResult::Ok,
    };
    let exit = code.map_or(0, |(exit, _)| exit);
    let value = json!({ "result": worst, "exit": exit, "version": env!("CARGO_PKG_VERSION"), "checks": report.checks });
    context.out.lines(&value, report.checks.iter().map(Check::line))?;
    let failed = report.checks.iter().filter(|check| check.result == CheckResult::Fail).count();
    match code {
        Some(code) => Err(Failure::ChecksFailed { failed, checks: report.checks.len(), code }),
        None => Ok(()),
    }
}
