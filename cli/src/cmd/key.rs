//! `key …`

use std::path::PathBuf;

use casemate_api::body::keys::{GenerateKey, ImportArguments, ImportKey, Key, PrivateParts, Restrictions};
use casemate_api::{KeyId, KeyType, Mechanism, Tag};
use casemate_client::KeyFilter;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::args::{api_value, changed};
use super::bytes::read;
use super::csr::KeyCsr;
use super::pkcs12::Pkcs12;
use super::{cert, public};
use crate::exit::{Failure, local};
use crate::profile::Context;

/// Manage keys.
#[derive(Subcommand)]
#[command(after_help = "Certificates and requests for them: `casemate cert` and `casemate csr`.")]
pub(crate) enum Command {
    /// List keys
    List {
        /// Only ids with this prefix
        #[arg(long, value_parser = KeyId::parse)]
        prefix: Option<KeyId>,
        /// Only keys that this Operator may use
        #[arg(long)]
        usable: bool,
        /// Only keys with this label; if empty, only keys without a label
        #[arg(long)]
        label: Option<String>,
        /// Only keys whose labels begin like this (Casemate)
        #[arg(long, value_name = "TEXT", conflicts_with = "label")]
        label_prefix: Option<String>,
        /// Only the key with this uid (Casemate)
        #[arg(long)]
        uid: Option<String>,
        /// Show the details of each key
        #[arg(long, short)]
        long: bool,
    },
    /// Show a key
    Show {
        /// The key
        #[arg(value_parser = KeyId::parse)]
        id: KeyId,
    },
    /// Generate a key
    Generate(Generate),
    /// Import a private key
    Import(Import),
    /// Delete a key with its certificate
    Delete {
        /// The key
        #[arg(value_parser = KeyId::parse)]
        id: KeyId,
    },
    /// Give a key another id
    Rename {
        /// The key
        #[arg(value_parser = KeyId::parse)]
        id: KeyId,
        /// Its new id
        #[arg(value_parser = KeyId::parse)]
        new_id: KeyId,
    },
    /// Set the label of a key; an empty one removes it
    Label {
        /// The key
        #[arg(value_parser = KeyId::parse)]
        id: KeyId,
        /// At most 32 bytes
        label: String,
    },
    /// Manage the tags of a key: an Operator needs one of them
    #[command(subcommand)]
    Tag(TagCommand),
    /// Print the public key
    ExportPublic {
        /// The key
        #[arg(value_parser = KeyId::parse)]
        id: KeyId,
        /// The format
        #[arg(long, value_enum, default_value_t)]
        format: PublicFormat,
    },
    /// The same as `casemate csr --key`
    #[command(hide = true)]
    Csr(KeyCsr),
    /// The same as `casemate cert --key`
    #[command(subcommand, hide = true)]
    Cert(cert::KeyCommand),
}

/// Formats of a public key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PublicFormat {
    /// SubjectPublicKeyInfo
    #[default]
    Pem,
    /// JSON Web Key
    Jwk,
    /// A line of authorized_keys
    Openssh,
}

/// Arguments for every new key.
#[derive(Args)]
struct NewKey {
    /// Mechanism it may be used with, such as ECDSA_Signature; repeatable
    #[arg(long, short, required = true, value_delimiter = ',', value_parser = api_value::<Mechanism>)]
    mechanism: Vec<Mechanism>,
    /// Tag; an Operator needs one of the tags; repeatable
    #[arg(long, value_delimiter = ',')]
    tag: Vec<String>,
    /// At most 32 bytes
    #[arg(long, default_value = "")]
    label: String,
}

/// Arguments of `key generate`.
#[derive(Args)]
pub(crate) struct Generate {
    /// Its id; without it the HSM chooses one
    #[arg(value_parser = KeyId::parse)]
    id: Option<KeyId>,
    /// RSA, Curve25519, EC_P256, EC_P384, EC_P521, EC_P256K1, BrainpoolP256, -384, -512 or Generic
    #[arg(long = "type", short = 't', value_parser = api_value::<KeyType>)]
    key_type: KeyType,
    /// Length of RSA and Generic keys in bits
    #[arg(long, short)]
    length: Option<i64>,
    #[command(flatten)]
    new: NewKey,
}

/// Arguments of `key import`.
#[derive(Args)]
pub(crate) struct Import {
    /// Its id; without it the HSM chooses one
    #[arg(value_parser = KeyId::parse)]
    id: Option<KeyId>,
    /// Private key in PEM; - is standard input
    #[arg(long, value_name = "FILE", required_unless_present_any = ["parts", "pkcs12"], conflicts_with_all = ["parts", "key_type"])]
    pem: Option<PathBuf>,
    /// JSON with primeP, primeQ and publicExponent, or data, in base64; - is standard input
    #[arg(long, value_name = "FILE", requires = "key_type")]
    parts: Option<PathBuf>,
    /// Type of the key in --parts
    #[arg(long = "type", short = 't', value_parser = api_value::<KeyType>)]
    key_type: Option<KeyType>,
    #[command(flatten)]
    pkcs12: Pkcs12,
    #[command(flatten)]
    new: NewKey,
}

/// Manage the tags of a key.
#[derive(Subcommand)]
pub(crate) enum TagCommand {
    /// Add a tag
    Add {
        /// The key
        #[arg(value_parser = KeyId::parse)]
        id: KeyId,
        /// The tag
        #[arg(value_parser = Tag::parse)]
        tag: Tag,
    },
    /// Remove a tag
    Rm {
        /// The key
        #[arg(value_parser = KeyId::parse)]
        id: KeyId,
        /// The tag
        #[arg(value_parser = Tag::parse)]
        tag: Tag,
    },
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Command::List { prefix, usable, label, label_prefix, uid, long } => {
                list(context, &KeyFilter { prefix, usable, label, label_prefix, uid }, long)
            }
            Command::Show { id } => {
                let key = context.session()?.keys().read(&id)?;
                let members = vec![
                    ("Key", id.to_string()),
                    ("Type", key.key_type.as_str().into()),
                    ("Mechanisms", mechanisms(&key)),
                    ("Operations", key.operations.to_string()),
                    ("Tags", key.restrictions.tags.join(", ")),
                    ("Label", key.label.clone()),
                ];
                context.out.record(&with_id(id.as_str(), &key)?, members)
            }
            Command::Generate(arguments) => arguments.run(context),
            Command::Import(arguments) => arguments.run(context),
            Command::Delete { id } => {
                context.confirm(&format!("Deleting the key {id}"))?;
                context.session()?.keys().delete(&id)?;
                context.out.done(&format!("The key {id} was deleted."))
            }
            Command::Rename { id, new_id } => {
                let moved = context.session()?.keys().rename(&id, &new_id)?;
                context.out.line(&moved, &format!("The key {id} is now {}.", moved.id))
            }
            Command::Label { id, label } => {
                let now = context.session()?.keys().set_label(&id, &label)?;
                changed(context, now, &format!("The label of {id} was set."))
            }
            Command::Tag(TagCommand::Add { id, tag }) => {
                let now = context.session()?.keys().add_tag(&id, &tag)?;
                changed(context, now, &format!("{id} has the tag {tag}."))
            }
            Command::Tag(TagCommand::Rm { id, tag }) => {
                context.session()?.keys().remove_tag(&id, &tag)?;
                context.out.done(&format!("{id} has no tag {tag}."))
            }
            Command::ExportPublic { id, format } => export(context, &id, format),
            Command::Csr(arguments) => arguments.run(context),
            Command::Cert(command) => command.run(context),
        }
    }
}

fn list(context: &Context, filter: &KeyFilter, long: bool) -> Result<(), Failure> {
    let session = context.session()?;
    let items = session.keys().list(filter)?;
    if !long {
        return context.out.list(&items, &["key"], items.iter().map(|item| vec![item.id.clone()]));
    }
    let (mut values, mut rows) = (Vec::new(), Vec::new());
    for item in items {
        let id =
            KeyId::parse(&item.id).map_err(local(format_args!("The HSM listed the invalid key id {:?}", item.id)))?;
        let key = match session.keys().read(&id) {
            Ok(key) => key,
            // It was deleted after it was listed.
            Err(casemate_client::Error::NotFound { .. }) => continue,
            Err(why) => return Err(why.into()),
        };
        values.push(with_id(&item.id, &key)?);
        let tags = key.restrictions.tags.join(", ");
        let kind = key.key_type.as_str().to_owned();
        rows.push(vec![item.id, kind, mechanisms(&key), key.operations.to_string(), tags, key.label]);
    }
    context.out.list(&values, &["key", "type", "mechanisms", "operations", "tags", "label"], rows)
}

/// The key as the API shows it, with its id.
fn with_id(id: &str, key: &Key) -> Result<Value, Failure> {
    let mut value = serde_json::to_value(key).map_err(local("The key cannot be written as JSON"))?;
    if let Some(members) = value.as_object_mut() {
        members.insert("id".into(), id.into());
    }
    Ok(value)
}

fn mechanisms(key: &Key) -> String {
    key.mechanisms.iter().map(|mechanism| format!("{mechanism:?}")).collect::<Vec<_>>().join(", ")
}

impl Generate {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let key = GenerateKey {
            mechanisms: self.new.mechanism,
            key_type: self.key_type,
            length: self.length.unwrap_or(0),
            id: self.id.map(|id| id.to_string()).unwrap_or_default(),
            restrictions: Restrictions { tags: self.new.tag },
            label: self.new.label,
        };
        let made = context.session()?.keys().generate(&key)?;
        context.out.line(&made, &format!("The key {} was generated.", made.id))
    }
}

impl Import {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let session = context.session()?;
        let NewKey { mechanism: mechanisms, tag: tags, label } = self.new;
        let restrictions = Restrictions { tags };
        let mut certificate = None;
        let made = if let (Some(path), Some(key_type)) = (&self.parts, self.key_type) {
            // The error of serde_json may quote a part of the key: only the position is shown.
            let private: PrivateParts = serde_json::from_slice(&read(path)?).map_err(|why| {
                let (line, column) = (why.line(), why.column());
                Failure::Usage(format!("The key parts are not valid: see line {line} column {column}."))
            })?;
            let key = ImportKey { mechanisms, key_type, private, restrictions, label };
            match &self.id {
                Some(id) => session.keys().import_as(id, &key).map(|()| id.to_string())?,
                None => session.keys().import(&key)?.id,
            }
        } else {
            let pem = if let Some(path) = &self.pkcs12.pkcs12 {
                let content = self.pkcs12.open(path)?;
                certificate = content.certificate;
                content.key
            } else {
                let bytes = read(&self.pem.unwrap_or_else(|| "-".into()))?;
                let pem =
                    str::from_utf8(&bytes).map_err(|_| Failure::Usage("The key file is not valid PEM.".into()))?;
                Zeroizing::new(pem.to_owned())
            };
            let arguments = ImportArguments { mechanisms, restrictions, label };
            match &self.id {
                Some(id) => session.keys().import_pem_as(id, &arguments, &pem).map(|()| id.to_string())?,
                None => session.keys().import_pem(&arguments, &pem)?.id,
            }
        };
        if let Some(certificate) = certificate {
            let id =
                KeyId::parse(&made).map_err(local(format_args!("The HSM gave the key the invalid id {made:?}")))?;
            session.keys().set_certificate(&id, certificate.as_bytes()).map_err(|why| {
                Failure::Local(format!("The key {made} was imported, but its certificate was not stored. {why}"))
            })?;
        }
        context.out.line(&json!({ "id": made }), &format!("The key {made} was imported."))
    }
}

fn export(context: &Context, id: &KeyId, format: PublicFormat) -> Result<(), Failure> {
    let session = context.session()?;
    match format {
        PublicFormat::Pem => context.out.text("pem", &session.keys().public_pem(id)?),
        PublicFormat::Jwk => {
            let jwk = public::jwk(&session.keys().read(id)?)?;
            context.out.line(&jwk, &jwk.to_string())
        }
        PublicFormat::Openssh => {
            let line = public::openssh(id.as_str(), &session.keys().read(id)?)?;
            context.out.text("openssh", &line)
        }
    }
}
