//! A plan as text for people and as JSON for scripts, whose members do not change.

use serde_json::{Map, Value, json};

use super::plan::{Plan, Stuck};
use super::step::{Resource, Setting, Step, StepAction};

/// Whether resources that are not in the file are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extra {
    /// They are.
    Shown,
    /// They are not.
    Hidden,
}

/// A line for each step and each difference.
pub(crate) fn lines(plan: &Plan, extra: Extra) -> Vec<String> {
    let mut lines: Vec<_> = plan.steps.iter().map(line).collect();
    lines.extend(plan.stuck.iter().map(|stuck| format!("! {}: {}", stuck.resource.describe(), stuck.why)));
    if extra == Extra::Shown {
        lines.extend(plan.extra.iter().map(|resource| format!("  {}: not in the file", resource.describe())));
    }
    lines
}

/// One step as a line.
pub(crate) fn line(step: &Step) -> String {
    let mark = match step.action {
        StepAction::Create => '+',
        StepAction::Change => '~',
        StepAction::Delete => '-',
    };
    let described = step.resource.describe();
    match (&step.from, &step.to, step.note.as_str()) {
        (Value::Null, Value::Null, "") => format!("{mark} {described}"),
        (Value::Null, Value::Null, note) => format!("{mark} {described} ({note})"),
        (from, to, _) => format!("{mark} {described}: {from} becomes {to}"),
    }
}

/// How many steps of each kind there are.
pub(crate) fn sum(plan: &Plan) -> String {
    let count = |action| plan.steps.iter().filter(|step| step.action == action).count();
    let (create, change, delete) = (count(StepAction::Create), count(StepAction::Change), count(StepAction::Delete));
    let stuck = match plan.stuck.len() {
        0 => String::new(),
        stuck => format!(", {stuck} that cannot be changed"),
    };
    format!("{create} to create, {change} to change, {delete} to delete{stuck}.")
}

/// `{"steps":[…],"stuck":[…],"extra":[…]}`; `state` is the state of each step after it was carried out, if it was.
pub(crate) fn json(plan: &Plan, state: impl Fn(usize) -> Option<&'static str>) -> Value {
    let steps: Vec<_> = plan.steps.iter().enumerate().map(|(at, step)| step_json(step, state(at))).collect();
    let stuck: Vec<_> = plan.stuck.iter().map(stuck_json).collect();
    let extra: Vec<_> = plan.extra.iter().map(|resource| Value::Object(resource_json(resource))).collect();
    json!({ "steps": steps, "stuck": stuck, "extra": extra })
}

fn step_json(step: &Step, state: Option<&'static str>) -> Value {
    let mut members = Map::from_iter([("action".into(), json!(step.action))]);
    members.extend(resource_json(&step.resource));
    let note = if step.note.is_empty() { Value::Null } else { json!(step.note) };
    for (name, value) in [("from", &step.from), ("to", &step.to), ("note", &note), ("state", &json!(state))] {
        if !value.is_null() {
            members.insert(name.into(), value.clone());
        }
    }
    Value::Object(members)
}

fn stuck_json(stuck: &Stuck) -> Value {
    let mut members = resource_json(&stuck.resource);
    members.insert("why".into(), json!(stuck.why));
    Value::Object(members)
}

fn resource_json(resource: &Resource) -> Map<String, Value> {
    let (kind, id, namespace, tag) = match resource {
        Resource::Namespace(id) => ("namespace", id.to_string(), None, None),
        Resource::User(id) => ("user", id.to_string(), id.namespace.as_ref(), None),
        Resource::UserTag(id, tag) => ("user-tag", id.to_string(), id.namespace.as_ref(), Some(tag)),
        Resource::Key(namespace, id) => ("key", id.to_string(), namespace.as_ref(), None),
        Resource::KeyTag(namespace, id, tag) => ("key-tag", id.to_string(), namespace.as_ref(), Some(tag)),
        Resource::KeyLabel(namespace, id) => ("key-label", id.to_string(), namespace.as_ref(), None),
        Resource::KeyCertificate(namespace, id) => ("key-certificate", id.to_string(), namespace.as_ref(), None),
        Resource::Setting(setting) => ("config", Setting::name(*setting).into(), None, None),
    };
    let mut members = Map::from_iter([("kind".into(), json!(kind)), ("id".into(), json!(id))]);
    members.extend(namespace.map(|namespace| ("namespace".into(), json!(namespace.as_str()))));
    members.extend(tag.map(|tag| ("tag".into(), json!(tag))));
    members
}
