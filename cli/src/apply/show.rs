//! A plan for people and for scripts. The members of the JSON stay.

use serde_json::{Map, Value, json};

use super::plan::{Plan, Stuck};
use super::step::{Act, Setting, Step, Thing};

/// Whether what is not in the file is told, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extra {
    /// It is.
    Told,
    /// It is not.
    Untold,
}

/// One line each.
pub(crate) fn lines(plan: &Plan, extra: Extra) -> Vec<String> {
    let mut lines: Vec<_> = plan.steps.iter().map(line).collect();
    lines.extend(plan.stuck.iter().map(|stuck| format!("! {}: {}", stuck.thing.called(), stuck.why)));
    if extra == Extra::Told {
        lines.extend(plan.extra.iter().map(|thing| format!("  {}: not in the file", thing.called())));
    }
    lines
}

/// One step as a line.
pub(crate) fn line(step: &Step) -> String {
    let mark = match step.act {
        Act::Create => '+',
        Act::Change => '~',
        Act::Delete => '-',
    };
    let called = step.thing.called();
    match (&step.from, &step.to, step.note.as_str()) {
        (Value::Null, Value::Null, "") => format!("{mark} {called}"),
        (Value::Null, Value::Null, note) => format!("{mark} {called} ({note})"),
        (from, to, _) => format!("{mark} {called}: {from} becomes {to}"),
    }
}

/// How much of what there is to do.
pub(crate) fn sum(plan: &Plan) -> String {
    let count = |act| plan.steps.iter().filter(|step| step.act == act).count();
    let (create, change, delete) = (count(Act::Create), count(Act::Change), count(Act::Delete));
    let stuck = match plan.stuck.len() {
        0 => String::new(),
        stuck => format!(", {stuck} that cannot be changed"),
    };
    format!("{create} to create, {change} to change, {delete} to delete{stuck}.")
}

/// `{"steps":[…],"stuck":[…],"extra":[…]}`; `state` adds how far each step came.
pub(crate) fn json(plan: &Plan, state: impl Fn(usize) -> Option<&'static str>) -> Value {
    let steps: Vec<_> = plan.steps.iter().enumerate().map(|(at, step)| step_json(step, state(at))).collect();
    let stuck: Vec<_> = plan.stuck.iter().map(stuck_json).collect();
    let extra: Vec<_> = plan.extra.iter().map(|thing| Value::Object(thing_json(thing))).collect();
    json!({ "steps": steps, "stuck": stuck, "extra": extra })
}

fn step_json(step: &Step, state: Option<&'static str>) -> Value {
    let mut members = Map::from_iter([("action".into(), json!(step.act))]);
    members.extend(thing_json(&step.thing));
    let note = if step.note.is_empty() { Value::Null } else { json!(step.note) };
    for (name, value) in [("from", &step.from), ("to", &step.to), ("note", &note), ("state", &json!(state))] {
        if !value.is_null() {
            members.insert(name.into(), value.clone());
        }
    }
    Value::Object(members)
}

fn stuck_json(stuck: &Stuck) -> Value {
    let mut members = thing_json(&stuck.thing);
    members.insert("why".into(), json!(stuck.why));
    Value::Object(members)
}

fn thing_json(thing: &Thing) -> Map<String, Value> {
    let (kind, id, namespace, tag) = match thing {
        Thing::Namespace(id) => ("namespace", id.to_string(), None, None),
        Thing::User(id) => ("user", id.to_string(), id.namespace.as_ref(), None),
        Thing::UserTag(id, tag) => ("user-tag", id.to_string(), id.namespace.as_ref(), Some(tag)),
        Thing::Key(place, id) => ("key", id.to_string(), place.as_ref(), None),
        Thing::KeyTag(place, id, tag) => ("key-tag", id.to_string(), place.as_ref(), Some(tag)),
        Thing::KeyLabel(place, id) => ("key-label", id.to_string(), place.as_ref(), None),
        Thing::KeyCertificate(place, id) => ("key-certificate", id.to_string(), place.as_ref(), None),
        Thing::Setting(setting) => ("config", Setting::name(*setting).into(), None, None),
    };
    let mut members = Map::from_iter([("kind".into(), json!(kind)), ("id".into(), json!(id))]);
    members.extend(namespace.map(|namespace| ("namespace".into(), json!(namespace.as_str()))));
    members.extend(tag.map(|tag| ("tag".into(), json!(tag))));
    members
}
