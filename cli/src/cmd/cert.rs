//! `cert`: certificates, stored with a key or used by the HSM itself. `key cert` and `config tls cert` are the same.

use std::path::{Path, PathBuf};

use casemate_api::KeyId;
use clap::Subcommand;

use super::bytes::{Format, read, show};
use super::config::tls;
use super::csr::Whose;
use crate::exit::Failure;
use crate::profile::Context;
use crate::render;

/// Manage certificates.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Print it
    Get {
        #[command(flatten)]
        whose: Whose,
    },
    /// Store it
    Set {
        #[command(flatten)]
        whose: Whose,
        /// File with it, for a key in any format, for the HSM in PEM with its chain; - is standard input
        #[arg(default_value = "-")]
        file: PathBuf,
    },
    /// Remove it from a key; the HSM itself always has one
    Rm {
        /// The key
        #[arg(long, short, value_parser = KeyId::parse)]
        key: KeyId,
    },
}

/// Manage the certificate stored with a key.
#[derive(Subcommand)]
pub(crate) enum KeyCommand {
    /// Print it
    Get {
        /// The key
        #[arg(value_parser = KeyId::parse)]
        id: KeyId,
    },
    /// Store it
    Set {
        /// The key
        #[arg(value_parser = KeyId::parse)]
        id: KeyId,
        /// File with it, in any format; - is standard input
        #[arg(default_value = "-")]
        file: PathBuf,
    },
    /// Remove it
    Rm {
        /// The key
        #[arg(value_parser = KeyId::parse)]
        id: KeyId,
    },
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Command::Get { whose: Whose { key: Some(id), .. } } => get(context, &id),
            Command::Get { .. } => tls::get(context),
            Command::Set { whose: Whose { key: Some(id), .. }, file } => set(context, &id, &file),
            Command::Set { file, .. } => tls::set(context, &file),
            Command::Rm { key } => rm(context, &key),
        }
    }
}

impl KeyCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            KeyCommand::Get { id } => get(context, &id),
            KeyCommand::Set { id, file } => set(context, &id, &file),
            KeyCommand::Rm { id } => rm(context, &id),
        }
    }
}

fn get(context: &Context, id: &KeyId) -> Result<(), Failure> {
    match context.session()?.keys().certificate(id)? {
        Some(bytes) if context.out.json => show(context, "certificate", &bytes, Format::Base64),
        Some(bytes) => render::raw(&bytes),
        None => Err(casemate_client::Error::NotFound {
            node: context.client.nodes().join(", "),
            message: format!("the key {id} has no certificate, or there is no such key"),
        }
        .into()),
    }
}

fn set(context: &Context, id: &KeyId, file: &Path) -> Result<(), Failure> {
    let session = context.session()?;
    session.keys().set_certificate(id, &read(file)?)?;
    context.out.done(&format!("The certificate of {id} was stored."))
}

fn rm(context: &Context, id: &KeyId) -> Result<(), Failure> {
    context.confirm(&format!("Removing the certificate of {id}"))?;
    context.session()?.keys().delete_certificate(id)?;
    context.out.done(&format!("The certificate of {id} was removed."))
}
