//! The findings of the doctor. The members of their JSON do not change.

use serde::Serialize;
use serde_json::Value;

use crate::exit::Failure;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum CheckResult {
    /// In order.
    Ok,
    /// Working, but needs attention.
    Warn,
    /// Not working.
    Fail,
    /// Not checked; `seen` tells why.
    Skip,
}

/// One finding.
#[derive(Serialize)]
pub(super) struct Check {
    /// The node; `None`: all of them.
    pub(super) node: Option<String>,
    pub(super) check: &'static str,
    pub(super) result: CheckResult,
    /// A short sentence without a full stop.
    pub(super) seen: String,
    /// What to do.
    pub(super) next: Option<String>,
    /// What was seen, for scripts.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub(super) data: Value,
}

impl Check {
    pub(super) fn line(&self) -> String {
        let result = match self.result {
            CheckResult::Ok => "ok",
            CheckResult::Warn => "warn",
            CheckResult::Fail => "fail",
            CheckResult::Skip => "skip",
        };
        let node = self.node.as_deref().map(|node| format!("{node} ")).unwrap_or_default();
        let next = self.next.as_deref().map(|next| format!(" {next}")).unwrap_or_default();
        format!("{result:<4}  {node}{}: {}.{next}", self.check, self.seen.trim_end_matches('.'))
    }
}

/// All findings so far.
pub(super) struct Report {
    /// The node that is being checked.
    pub(super) node: Option<String>,
    pub(super) checks: Vec<Check>,
    /// Exit code of the first failure.
    pub(super) code: Option<(u8, &'static str)>,
}

impl Report {
    fn add(
        &mut self,
        check: &'static str,
        result: CheckResult,
        seen: impl Into<String>,
        next: Option<String>,
        data: Value,
    ) {
        self.checks.push(Check { node: self.node.clone(), check, result, seen: seen.into(), next, data });
    }

    pub(super) fn ok(&mut self, check: &'static str, seen: impl Into<String>, data: Value) {
        self.add(check, CheckResult::Ok, seen, None, data);
    }

    pub(super) fn warn(&mut self, check: &'static str, seen: impl Into<String>, next: impl Into<String>, data: Value) {
        self.add(check, CheckResult::Warn, seen, Some(next.into()), data);
    }

    pub(super) fn skip(&mut self, check: &'static str, seen: impl Into<String>) {
        self.add(check, CheckResult::Skip, seen, None, Value::Null);
    }

    pub(super) fn fail(
        &mut self,
        check: &'static str,
        code: (u8, &'static str),
        seen: impl Into<String>,
        next: impl Into<String>,
        data: Value,
    ) {
        self.code.get_or_insert(code);
        self.add(check, CheckResult::Fail, seen, Some(next.into()), data);
    }

    /// A failure, which tells itself what to do.
    pub(super) fn failure(&mut self, check: &'static str, failure: &Failure) {
        self.code.get_or_insert(failure.code());
        self.add(check, CheckResult::Fail, failure.to_string(), None, Value::Null);
    }
}
