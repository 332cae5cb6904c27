//! `config tls …`: the HSM's own certificate, its key, and the CA of its cluster.

use std::path::{Path, PathBuf};

use casemate_api::body::config::{GenerateTlsKey, TlsKeyType};
use casemate_client::{Fingerprint, Session, Trust};
use clap::{Args, Subcommand};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;

use crate::cmd::args::api_value;
use crate::cmd::bytes::read;
use crate::cmd::csr::{self, Subject};
use crate::exit::{Failure, local};
use crate::profile::Context;

/// Manage the certificate of an HSM.
#[derive(Subcommand)]
#[command(after_help = "The certificate and requests for it: `casemate cert --tls` and `casemate csr --tls`.")]
pub(crate) enum Command {
    /// The same as `casemate cert --tls`
    #[command(subcommand, hide = true)]
    Cert(CertCommand),
    /// Print the public key
    Public,
    /// The same as `casemate csr --tls`
    #[command(hide = true)]
    Csr(Subject),
    /// Generate a new key and a self-signed certificate
    Generate(Generate),
    /// Manage the CA that issues the certificates of all members of a cluster
    #[command(subcommand)]
    ClusterCa(CaCommand),
}

/// Show or replace the certificate of an HSM.
#[derive(Subcommand)]
pub(crate) enum CertCommand {
    /// Print it with its chain
    Get,
    /// Replace it
    Set {
        /// File with the certificate and its chain (PEM); - is standard input
        #[arg(default_value = "-")]
        file: PathBuf,
    },
}

/// Arguments of `config tls generate`.
#[derive(Args)]
pub(crate) struct Generate {
    /// RSA, Curve25519, EC_P256, EC_P384, EC_P521 or, if the HSM supports it, BrainpoolP256, -384, -512
    #[arg(long = "type", short = 't', value_parser = api_value::<TlsKeyType>)]
    key_type: TlsKeyType,
    /// Length of an RSA key in bits
    #[arg(long, short)]
    length: Option<i64>,
}

/// Manage the CA of a cluster.
#[derive(Subcommand)]
pub(crate) enum CaCommand {
    /// Print it
    Get,
    /// Set it; the HSM's certificate must already be issued by it
    Set {
        /// File with one certificate (PEM); - is standard input
        #[arg(default_value = "-")]
        file: PathBuf,
    },
    /// Remove it, if the HSM supports that
    Rm,
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Command::Cert(CertCommand::Get) => get(context),
            Command::Cert(CertCommand::Set { file }) => set(context, &file),
            Command::Public => context.out.text("pem", &context.session()?.config().tls_public_pem()?),
            Command::Csr(subject) => csr::of_tls(context, subject),
            Command::Generate(arguments) => arguments.run(context),
            Command::ClusterCa(command) => command.run(context),
        }
    }
}

/// Prints the HSM's certificate with its chain.
pub(crate) fn get(context: &Context) -> Result<(), Failure> {
    context.out.text("pem", &context.session()?.config().tls_certificate()?)
}

/// Replaces the HSM's certificate.
pub(crate) fn set(context: &Context, file: &Path) -> Result<(), Failure> {
    let session = context.session()?;
    let pem = pem(file)?;
    let shown = fingerprint(&pem)?;
    session.config().set_tls_certificate(&pem)?;
    now_shows(context, "The HSM has a new certificate.", Some(shown))
}

impl Generate {
    fn run(self, context: &Context) -> Result<(), Failure> {
        context.confirm("Replacing the HSM's TLS key and certificate, after which every pin has to be changed,")?;
        let session = context.session()?;
        session.config().tls_generate(&GenerateTlsKey { key_type: self.key_type, length: self.length })?;
        now_shows(context, "The HSM has a new TLS key and certificate.", new_fingerprint(context, &session))
    }
}

/// The fingerprint of the new certificate, if the HSM tells it through the open connection. The certificate of a new
/// connection is not used, because an attacker could have closed the old one.
fn new_fingerprint(context: &Context, session: &Session) -> Option<Fingerprint> {
    match context.client.trust() {
        Trust::Anyone => None,
        _ => fingerprint(&session.config().tls_certificate().ok()?).ok(),
    }
}

fn now_shows(context: &Context, what: &str, shown: Option<Fingerprint>) -> Result<(), Failure> {
    let how = match shown {
        Some(shown) => format!("--pin {shown}, or pin = [\"{shown}\"] in the profile."),
        None => "the next command shows the new fingerprint; ask the HSM's operator to confirm it.".into(),
    };
    let text = format!("{what} Pins have to be changed: {how}");
    context.out.line(&json!({ "fingerprint": shown.map(|shown| shown.to_string()) }), &text)
}

impl CaCommand {
    fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            CaCommand::Get => context.out.text("pem", &context.session()?.config().cluster_ca()?),
            CaCommand::Set { file } => {
                context.confirm("Binding the HSM to this CA and to its current TLS key until a factory reset")?;
                let session = context.session()?;
                session.config().set_cluster_ca(&pem(&file)?)?;
                context.out.done("The CA was set; from now on it must issue the certificate of the HSM.")
            }
            CaCommand::Rm => {
                context.confirm("Removing the CA of the cluster")?;
                context.session()?.config().delete_cluster_ca()?;
                context.out.done("The CA of the cluster was removed.")
            }
        }
    }
}

fn pem(file: &Path) -> Result<String, Failure> {
    let bytes = read(file)?;
    let text = str::from_utf8(&bytes).map_err(|_| Failure::Usage(format!("{} is not valid PEM.", file.display())))?;
    Ok(text.to_owned())
}

/// The fingerprint of the first certificate in PEM: the HSM's own.
pub(crate) fn fingerprint(pem: &str) -> Result<Fingerprint, Failure> {
    let first = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(local("The PEM contains no certificate"))?;
    Ok(Fingerprint::of(&first))
}
