//! `csr`: certificate signing requests, of a key or of the HSM's own TLS key. `key csr` and `config tls csr` are the
//! same.

use casemate_api::KeyId;
use casemate_api::body::keys::DistinguishedName;
use clap::Args;

use crate::exit::Failure;
use crate::profile::Context;

/// Arguments of `csr`.
#[derive(Args)]
pub(crate) struct Csr {
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    subject: Subject,
}

/// A key, or the HSM itself.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Whose {
    /// The key
    #[arg(long, short, value_parser = KeyId::parse)]
    pub(crate) key: Option<KeyId>,
    /// The HSM's own TLS key
    #[arg(long)]
    pub(crate) tls: bool,
}

/// Arguments of `key csr`.
#[derive(Args)]
pub(crate) struct KeyCsr {
    /// The key
    #[arg(value_parser = KeyId::parse)]
    id: KeyId,
    #[command(flatten)]
    subject: Subject,
}

/// The subject of a certificate.
#[derive(Args)]
pub(crate) struct Subject {
    /// CN
    #[arg(long)]
    common_name: String,
    /// C
    #[arg(long, default_value = "")]
    country: String,
    /// ST
    #[arg(long, default_value = "")]
    state_or_province: String,
    /// L
    #[arg(long, default_value = "")]
    locality: String,
    /// O
    #[arg(long, default_value = "")]
    organization: String,
    /// OU
    #[arg(long, default_value = "")]
    organizational_unit: String,
    /// emailAddress
    #[arg(long, default_value = "")]
    email: String,
    /// Subject alternative name, a DNS name or IP:ADDRESS; repeatable; by default the common name
    #[arg(long)]
    san: Vec<String>,
}

impl Csr {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self.whose.key {
            Some(id) => of_key(context, &id, self.subject),
            None => of_tls(context, self.subject),
        }
    }
}

impl KeyCsr {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        of_key(context, &self.id, self.subject)
    }
}

fn of_key(context: &Context, id: &KeyId, subject: Subject) -> Result<(), Failure> {
    context.out.text("csr", &context.session()?.keys().csr(id, &subject.into())?)
}

/// The request for the HSM's own certificate.
pub(crate) fn of_tls(context: &Context, subject: Subject) -> Result<(), Failure> {
    context.out.text("csr", &context.session()?.config().tls_csr(&subject.into())?)
}

impl From<Subject> for DistinguishedName {
    fn from(subject: Subject) -> Self {
        DistinguishedName {
            common_name: subject.common_name,
            country_name: subject.country,
            locality_name: subject.locality,
            state_or_province_name: subject.state_or_province,
            organization_name: subject.organization,
            organizational_unit_name: subject.organizational_unit,
            email_address: subject.email,
            subject_alt_names: if subject.san.is_empty() { None } else { Some(subject.san) },
        }
    }
}
