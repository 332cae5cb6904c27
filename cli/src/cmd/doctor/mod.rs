//! `doctor`: everything between this command and the keys is looked at, in order, and each finding says what to do.
//!
//! It changes nothing and asks nothing. What could not be looked at is `skip`, never `ok`.

mod agreement;
mod certificate;
mod node;

use serde::Serialize;
use serde_json::{Value, json};

use crate::exit::Failure;
use crate::profile::Context;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    /// As it should be.
    Ok,
    /// It works, but somebody should look at it.
    Warn,
    /// It does not work.
    Fail,
    /// Not looked at; `seen` says why.
    Skip,
}

/// One finding. The members of the JSON stay.
#[derive(Serialize)]
struct Check {
    /// At which node; none: about all of them.
    node: Option<String>,
    check: &'static str,
    result: Outcome,
    /// A short sentence without a full stop.
    seen: String,
    /// What to do.
    next: Option<String>,
    /// What was seen, for scripts.
    #[serde(skip_serializing_if = "Value::is_null")]
    data: Value,
}

impl Check {
    fn line(&self) -> String {
        let result = match self.result {
            Outcome::Ok => "ok",
            Outcome::Warn => "warn",
            Outcome::Fail => "fail",
            Outcome::Skip => "skip",
        };
        let node = self.node.as_deref().map(|node| format!("{node} ")).unwrap_or_default();
        let next = self.next.as_deref().map(|next| format!(" {next}")).unwrap_or_default();
        format!("{result:<4}  {node}{}: {}.{next}", self.check, self.seen.trim_end_matches('.'))
    }
}

/// All findings so far.
struct Report {
    /// At which node is looked now.
    node: Option<String>,
    checks: Vec<Check>,
    /// Exit code of the first failure.
    code: Option<(u8, &'static str)>,
}

impl Report {
    fn add(
        &mut self,
        check: &'static str,
        result: Outcome,
        seen: impl Into<String>,
        next: Option<String>,
        data: Value,
    ) {
        self.checks.push(Check { node: self.node.clone(), check, result, seen: seen.into(), next, data });
    }

    fn ok(&mut self, check: &'static str, seen: impl Into<String>, data: Value) {
        self.add(check, Outcome::Ok, seen, None, data);
    }

    fn warn(&mut self, check: &'static str, seen: impl Into<String>, next: impl Into<String>, data: Value) {
        self.add(check, Outcome::Warn, seen, Some(next.into()), data);
    }

    fn skip(&mut self, check: &'static str, seen: impl Into<String>) {
        self.add(check, Outcome::Skip, seen, None, Value::Null);
    }

    fn fail(
        &mut self,
        check: &'static str,
        code: (u8, &'static str),
        seen: impl Into<String>,
        next: impl Into<String>,
        data: Value,
    ) {
        self.code.get_or_insert(code);
        self.add(check, Outcome::Fail, seen, Some(next.into()), data);
    }

    /// A failure that says itself what to do.
    fn failure(&mut self, check: &'static str, failure: &Failure) {
        self.code.get_or_insert(failure.code());
        self.add(check, Outcome::Fail, failure.to_string(), None, Value::Null);
    }
}

/// Looks at every node, then at what they should have in common.
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
        if let Some(found) = node::look(context, session.as_ref(), at, &mut report)? {
            nodes.push(found);
        }
    }
    report.node = None;
    if context.client.nodes().len() > 1 {
        agreement::look(&nodes, &mut report);
    }

    let code = report.code;
    let worst = match code {
        Some(_) => Outcome::Fail,
        None if report.checks.iter().any(|check| check.result == Outcome::Warn) => Outcome::Warn,
        None => Outcome::Ok,
    };
    let exit = code.map_or(0, |(exit, _)| exit);
    let value = json!({ "result": worst, "exit": exit, "version": env!("CARGO_PKG_VERSION"), "checks": report.checks });
    context.out.lines(&value, report.checks.iter().map(Check::line))?;
    let failed = report.checks.iter().filter(|check| check.result == Outcome::Fail).count();
    match code {
        Some(code) => Err(Failure::Unwell { failed, checks: report.checks.len(), code }),
        None => Ok(()),
    }
}
