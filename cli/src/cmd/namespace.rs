//! `namespace …`

use casemate_api::NamespaceId;
use casemate_api::body::users::NewNamespaceQuota;
use clap::Subcommand;
use serde_json::json;

use super::args::namespace;
use crate::exit::Failure;
use crate::profile::Context;

/// Manage namespaces.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// List namespaces
    List,
    /// Add a namespace, whose users and keys only its own Administrators can manage
    Add {
        /// The namespace
        #[arg(value_parser = namespace)]
        id: NamespaceId,
    },
    /// Show or set the quota of a namespace; limits that are not given are removed
    Quota {
        /// The namespace
        #[arg(value_parser = namespace)]
        id: NamespaceId,
        /// Largest number of keys
        #[arg(long, value_name = "N")]
        keys: Option<u64>,
        /// Largest size of keys and certificates in bytes, as they are stored
        #[arg(long, value_name = "N")]
        bytes: Option<u64>,
        /// Remove the quota
        #[arg(long, conflicts_with_all = ["keys", "bytes"])]
        none: bool,
    },
    /// Delete a namespace with all its keys
    Delete {
        /// The namespace
        #[arg(value_parser = namespace)]
        id: NamespaceId,
    },
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Command::List => {
                let all = context.session()?.namespaces().list()?;
                context.out.list(&all, &["namespace"], all.iter().map(|item| vec![item.id.clone()]))
            }
            Command::Add { id } => {
                context.session()?.namespaces().create(&id)?;
                context.out.line(&json!({ "id": id.as_str() }), &format!("The namespace {id} was added."))
            }
            Command::Quota { id, keys: None, bytes: None, none: false } => {
                let quota = context.session()?.namespaces().quota(&id)?;
                let row = |what: &str, used: u64, max: Option<u64>| {
                    vec![
                        what.to_owned(),
                        used.to_string(),
                        max.map_or_else(|| "none".to_owned(), |max| max.to_string()),
                    ]
                };
                let rows = [row("keys", quota.keys, quota.max_keys), row("bytes", quota.bytes, quota.max_bytes)];
                context.out.list(&quota, &["of", "used", "quota"], rows)
            }
            Command::Quota { id, keys, bytes, none } => {
                let quota = NewNamespaceQuota { max_keys: keys, max_bytes: bytes };
                context.session()?.namespaces().set_quota(&id, quota)?;
                let what = if none { "removed" } else { "set" };
                context.out.done(&format!("The quota of the namespace {id} was {what}."))
            }
            Command::Delete { id } => {
                context.confirm(&format!("Deleting the namespace {id} with all its keys"))?;
                context.session()?.namespaces().delete(&id)?;
                context.out.done(&format!("The namespace {id} was deleted with all its keys."))
            }
        }
    }
}
