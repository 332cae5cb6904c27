//! `namespace …`

use casemate_api::NamespaceId;
use clap::Subcommand;
use serde_json::json;

use super::namespace;
use crate::exit::Failure;
use crate::profile::Context;

/// Manage namespaces.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// List namespaces
    List,
    /// Add a namespace: from then on only its own Administrators manage what is in it
    Add {
        /// The namespace
        #[arg(value_parser = namespace)]
        id: NamespaceId,
    },
    /// Delete a namespace with all its keys
    Delete {
        /// The namespace
        #[arg(value_parser = namespace)]
        id: NamespaceId,
    },
}

impl Command {
    /// Does it.
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
            Command::Delete { id } => {
                context.confirm(&format!("Deleting the namespace {id} with all its keys"))?;
                context.session()?.namespaces().delete(&id)?;
                context.out.done(&format!("The namespace {id} was deleted with all its keys."))
            }
        }
    }
}
