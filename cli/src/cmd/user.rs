//! `user …`

use std::path::PathBuf;

use casemate_api::body::users::NewUser;
use casemate_api::{Role, Tag, UserId};
use clap::Subcommand;
use serde_json::json;

use super::args::{api_value, changed};
use crate::exit::Failure;
use crate::profile::Context;
use crate::prompt;

/// Manage users.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// List users
    List,
    /// Show a user
    Show {
        /// NAME or NAMESPACE~NAME
        #[arg(value_parser = UserId::parse)]
        id: UserId,
    },
    /// Add a user
    Add {
        /// NAME or NAMESPACE~NAME
        #[arg(value_parser = UserId::parse)]
        id: UserId,
        /// Administrator, Operator, Metrics or Backup
        #[arg(long, value_parser = api_value::<Role>)]
        role: Role,
        /// Any text
        #[arg(long, default_value = "")]
        real_name: String,
        /// File with the passphrase of the new user
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
    },
    /// Delete a user
    Delete {
        /// NAME or NAMESPACE~NAME
        #[arg(value_parser = UserId::parse)]
        id: UserId,
    },
    /// Set a user's passphrase
    Passphrase {
        /// NAME or NAMESPACE~NAME
        #[arg(value_parser = UserId::parse)]
        id: UserId,
        /// File with the new passphrase
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
    },
    /// Manage the tags of an Operator
    #[command(subcommand)]
    Tag(TagCommand),
}

/// Manage the tags of an Operator.
#[derive(Subcommand)]
pub(crate) enum TagCommand {
    /// List the tags
    List {
        /// NAME or NAMESPACE~NAME
        #[arg(value_parser = UserId::parse)]
        id: UserId,
    },
    /// Add a tag
    Add {
        /// NAME or NAMESPACE~NAME
        #[arg(value_parser = UserId::parse)]
        id: UserId,
        /// The tag
        #[arg(value_parser = Tag::parse)]
        tag: Tag,
    },
    /// Remove a tag
    Rm {
        /// NAME or NAMESPACE~NAME
        #[arg(value_parser = UserId::parse)]
        id: UserId,
        /// The tag
        #[arg(value_parser = Tag::parse)]
        tag: Tag,
    },
}

const NEW: &str = "--new-passphrase-file";

impl Command {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Command::List => {
                let users = context.session()?.users().list()?;
                context.out.list(&users, &["user"], users.iter().map(|item| vec![item.user.clone()]))
            }
            Command::Show { id } => {
                let session = context.session()?;
                let user = session.users().read(&id)?;
                let tags = if user.role == Role::Operator { session.users().tags(&id)? } else { Vec::new() };
                let value =
                    json!({ "user": id.to_string(), "realName": user.real_name, "role": user.role, "tags": tags });
                let mut members =
                    vec![("User", id.to_string()), ("Real name", user.real_name), ("Role", format!("{:?}", user.role))];
                if user.role == Role::Operator {
                    members.push(("Tags", tags.join(", ")));
                }
                context.out.record(&value, members)
            }
            Command::Add { id, role, real_name, new_passphrase_file } => {
                let session = context.session()?;
                let passphrase = prompt::new(&format!("Passphrase of {id}"), new_passphrase_file.as_deref(), NEW)?;
                session.users().create_as(&id, &NewUser { real_name, role, passphrase })?;
                context.out.line(&json!({ "id": id.to_string() }), &format!("The user {id} was added."))
            }
            Command::Delete { id } => {
                context.confirm(&format!("Deleting the user {id}"))?;
                context.session()?.users().delete(&id)?;
                context.out.done(&format!("The user {id} was deleted."))
            }
            Command::Passphrase { id, new_passphrase_file } => {
                let session = context.session()?;
                let passphrase = prompt::new(&format!("New passphrase of {id}"), new_passphrase_file.as_deref(), NEW)?;
                session.users().set_passphrase(&id, passphrase)?;
                context.out.done(&format!("The passphrase of {id} was changed."))
            }
            Command::Tag(command) => command.run(context),
        }
    }
}

impl TagCommand {
    fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            TagCommand::List { id } => {
                let tags = context.session()?.users().tags(&id)?;
                context.out.list(&tags, &["tag"], tags.iter().map(|tag| vec![tag.clone()]))
            }
            TagCommand::Add { id, tag } => {
                let now = context.session()?.users().add_tag(&id, &tag)?;
                changed(context, now, &format!("{id} has the tag {tag}."))
            }
            TagCommand::Rm { id, tag } => {
                context.session()?.users().remove_tag(&id, &tag)?;
                context.out.done(&format!("{id} has no tag {tag}."))
            }
        }
    }
}
