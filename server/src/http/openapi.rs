//! The OpenAPI document, generated from the endpoint table so that nothing is stated twice.

use casemate_api::body::ErrorBody;
use casemate_api::limits::LIST_PAGE_ROWS;
use casemate_api::{Role, State};
use casemate_core::identity::caller::CallerScope;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::access::{FailedState, Rule};
use super::decode::Types;
use super::endpoint::Spec;
use super::route::{BASE, Routes};

/// Creates the JSON Schema of one type, whose definitions are added to the generator.
pub type SchemaOf = fn(&mut SchemaGenerator) -> schemars::Schema;

/// The document (OpenAPI 3.1.0) as JSON. It describes this server, including its setting `failed`.
pub fn document(routes: &Routes, failed: FailedState) -> Vec<u8> {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = SchemaGenerator::new(settings);
    let error = generator.subschema_for::<ErrorBody<'_>>();
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in routes.endpoints() {
        let spec = &endpoint.spec;
        let path = paths.entry(spec.path).or_insert_with(|| json!({}));
        if let Value::Object(methods) = path {
            methods.insert(spec.method.as_str().to_lowercase(), operation(spec, failed, &mut generator, &error));
        }
    }
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Casemate",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "REST API v1 of the Casemate network HSM, compatible with that of NetHSM.",
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": BASE}],
        "paths": paths,
        "components": {
            "securitySchemes": {"basic": {"type": "http", "scheme": "basic"}},
            "schemas": generator.take_definitions(true),
        },
    });
    serde_json::to_vec(&document).unwrap_or_default()
}

fn operation(spec: &Spec, failed: FailedState, generator: &mut SchemaGenerator, error: &schemars::Schema) -> Value {
    let states: Vec<State> = spec.access.iter().map(|(state, _)| *state).collect();
    let holding = || spec.access.iter().map(|(_, rule)| rule.under(failed, true));
    let rules = || holding().filter_map(|rule| if let Rule::Allowed(a, w) = rule { Some((a, w)) } else { None });
    let open = holding().any(|rule| rule == Rule::Public);
    let mut roles: Vec<String> = Role::ALL
        .iter()
        .filter(|role| rules().any(|(action, _)| role.may(action)))
        .map(|role| format!("{role:?}"))
        .collect();
    if open {
        roles.push("Public".into());
    }
    let unlock_holder = holding().any(|rule| rule == Rule::UnlockHolder);
    if unlock_holder {
        roles.push("FailedUnlock".into());
    }
    let mut namespaces = vec!["Root"];
    if open || rules().any(|(_, scope)| scope == CallerScope::Anywhere) {
        namespaces.push("Namespaced");
    }
    let mut operation = json!({
        "operationId": operation_id(spec),
        "parameters": parameters(spec),
        "responses": responses(spec, generator, error),
        "x-annotation-state": states,
        "x-annotation-role": roles,
        "x-annotation-caller-namespace": namespaces,
    });
    let Value::Object(members) = &mut operation else { return operation };
    if unlock_holder || rules().next().is_some() {
        let anonymous = if open { vec![json!({})] } else { Vec::new() };
        let mut security = vec![json!({"basic": []})];
        security.extend(anonymous);
        members.insert("security".into(), security.into());
    }
    if let Some(body) = request_body(spec, generator) {
        members.insert("requestBody".into(), body);
    }
    operation
}

/// Method and path as one word: `PUT_users_UserID_tags_Tag` without the punctuation.
fn operation_id(spec: &Spec) -> String {
    let path: String = spec.path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("{}{path}", spec.method)
}

fn parameters(spec: &Spec) -> Vec<Value> {
    let id = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$";
    let user = "^([A-Za-z0-9][A-Za-z0-9_.-]{0,127}~)?[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$";
    let uid = "^[0-9a-fA-F]{32}$";
    let in_path = |name: &&str| {
        let name = name.trim_matches(['{', '}']);
        let pattern = if name == "user" { user } else { id };
        json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "pattern": pattern}})
    };
    let mut parameters: Vec<_> = spec.ids.iter().map(in_path).collect();
    if spec.path == "/keys" && spec.method == hyper::Method::GET {
        parameters.push(json!({"name": "filter", "in": "query", "schema": {"type": "string"},
            "description": "If present, an Operator's list has only the keys that the Operator may use."}));
        parameters.push(json!({"name": "label", "in": "query", "schema": {"type": "string", "maxLength": 32},
            "description": "Only keys with exactly this label. Casemate only: with * behind it, keys whose labels begin like this."}));
        parameters.push(json!({"name": "uid", "in": "query", "schema": {"type": "string", "pattern": uid},
            "description": "Only the key with this uid. Casemate only."}));
        parameters.push(json!({"name": "details", "in": "query", "schema": {"type": "string"},
            "description": "If present, the list has the details of the keys. Casemate only."}));
        parameters.push(json!({"name": "after", "in": "query", "schema": {"type": "string", "pattern": id},
            "description": "Only keys whose ids are behind this one. Casemate only."}));
        let number = json!({"type": "integer", "minimum": 1, "maximum": LIST_PAGE_ROWS});
        parameters.push(json!({"name": "limit", "in": "query", "schema": number,
            "description": "One page of at most so many keys, with an ETag. If there are more, Link refers to the next page, also \
                after a page of fewer keys. Casemate only."}));
    }
    if spec.path.starts_with("/keys/{key}") && !spec.path.contains("/restrictions") && spec.method != hyper::Method::PUT
    {
        parameters.push(json!({"name": "uid", "in": "query", "schema": {"type": "string", "pattern": uid},
            "description": "Only if the key has this uid, else as if it were not there. Casemate only."}));
    }
    if spec.path == "/audit" {
        for (name, description) in [
            ("from", "Number of the first record; default: the oldest."),
            ("to", "Number of the last record; default: the newest."),
        ] {
            let number = json!({"type": "integer", "minimum": 1});
            parameters.push(json!({"name": name, "in": "query", "schema": number, "description": description}));
        }
    }
    parameters
}

fn request_body(spec: &Spec, generator: &mut SchemaGenerator) -> Option<Value> {
    if spec.body.types == Types::Octets || (spec.body.streamed() && spec.body.types == Types::Any) {
        let content = json!({"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}});
        return Some(json!({"required": true, "content": content}));
    }
    if spec.body.types == Types::Pem {
        let content = json!({"application/x-pem-file": {"schema": {"type": "string"}}});
        return Some(json!({"required": true, "content": content}));
    }
    let schema = (spec.request?)(generator);
    let mut content = json!({"application/json": {"schema": schema}});
    if spec.body.types == Types::JsonOrMultipart {
        let arguments = generator.subschema_for::<casemate_api::body::keys::ImportArguments>();
        let key_file = json!({"type": "string", "description": "One private key as PEM"});
        let parts = json!({"type": "object", "required": ["arguments", "key_file"],
            "properties": {"arguments": arguments, "key_file": key_file}});
        if let Value::Object(types) = &mut content {
            types.insert("multipart/form-data".into(), json!({"schema": parts}));
        }
    }
    Some(json!({"required": true, "content": content}))
}

fn responses(spec: &Spec, generator: &mut SchemaGenerator, error: &schemars::Schema) -> Value {
    let (status, schema) = spec.success;
    let mut success = json!({"description": "Done."});
    let content = match schema {
        Some(schema) => Some(json!({"application/json": {"schema": schema(generator)}})),
        None if status == 200 && spec.media != super::endpoint::Media::Json => {
            Some(json!({spec.media.as_str(): {"schema": {"type": "string"}}}))
        }
        None => None,
    };
    if let (Some(content), Value::Object(members)) = (content, &mut success) {
        members.insert("content".into(), content);
    }
    let mut responses = json!({status.to_string(): success});
    let refusals: &[(&str, &str, bool)] = &[
        ("304", "Nothing to change, or the client already has this version.", false),
        ("400", "The request is malformed or cannot be carried out.", true),
        ("401", "Credentials are missing or wrong.", false),
        ("403", "The caller may not do this.", true),
        ("404", "There is no such object.", true),
        ("406", "The client does not accept the type of the reply.", false),
        ("408", "The body came too slowly.", true),
        ("409", "The id already exists.", true),
        ("412", "Not available in this state, or a condition failed.", true),
        ("413", "The body is too large.", false),
        ("415", "The Content-Type of the body is not accepted.", false),
        ("429", "Too many failed attempts.", true),
        ("503", "The HSM is busy, or its store is.", true),
        ("507", "The disk or the namespace's quota has no room left.", true),
    ];
    if let Value::Object(members) = &mut responses {
        for (status, description, json_body) in refusals {
            let mut refusal = json!({"description": description});
            if let (true, Value::Object(refusal)) = (json_body, &mut refusal) {
                refusal.insert("content".into(), json!({"application/json": {"schema": error}}));
            }
            members.entry(*status).or_insert(refusal);
        }
    }
    responses
}
