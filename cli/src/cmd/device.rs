//! `state`, `info`, `unlock`, `lock`, `random`, `metrics`.

use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use casemate_api::limits::RANDOM_MAX_BYTES;
use casemate_client::Error;
use clap::Args;
use serde_json::json;
use zeroize::Zeroizing;

use super::bytes::{Format, show};
use crate::exit::{Failure, local};
use crate::profile::Context;
use crate::prompt;

/// Shows the state of every node. If a node does not answer, the command fails after it has shown the others.
pub(crate) fn state(context: &Context) -> Result<(), Failure> {
    let (mut values, mut rows, mut failed) = (Vec::new(), Vec::new(), None);
    for (at, node) in context.client.nodes().iter().enumerate() {
        match context.client.anonymous().at(at)?.health().state() {
            Ok(state) => {
                values.push(json!({ "node": node, "state": state }));
                rows.push(vec![node.clone(), format!("{state:?}")]);
            }
            Err(why) => {
                values.push(json!({ "node": node, "error": why.to_string() }));
                rows.push(vec![node.clone(), "no answer".into()]);
                failed.get_or_insert(why);
            }
        }
    }
    if failed.is_none() || rows.len() > 1 {
        context.out.list(&values, &["node", "state"], rows)?;
    }
    failed.map_or(Ok(()), |why| Err(why.into()))
}

/// Shows vendor and product.
pub(crate) fn info(context: &Context) -> Result<(), Failure> {
    let info = context.client.anonymous().info()?;
    let members = vec![("Vendor", info.vendor.to_string()), ("Product", info.product.to_string())];
    context.out.record(&info, members)
}

/// Arguments of `unlock`.
#[derive(Args)]
pub(crate) struct Unlock {
    /// File with the unlock passphrase
    #[arg(long, value_name = "FILE")]
    unlock_passphrase_file: Option<PathBuf>,
}

impl Unlock {
    /// From Locked to Operational.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let file = self.unlock_passphrase_file.as_deref();
        let passphrase = prompt::current("Unlock passphrase", file, "--unlock-passphrase-file")?;
        context.client.anonymous().unlock(passphrase).map_err(|why| match why {
            Error::Forbidden { node, .. } => Failure::Forbidden(format!(
                "{node} was not unlocked: the unlock passphrase is wrong. Check it and try again."
            )),
            why => why.into(),
        })?;
        context.out.done("The HSM is Operational.")
    }
}

/// From Operational to Locked.
pub(crate) fn lock(context: &Context) -> Result<(), Failure> {
    context.session()?.lock()?;
    context.out.done("The HSM is Locked; unlock it with `casemate unlock`.")
}

/// Arguments of `random`.
#[derive(Args)]
pub(crate) struct Random {
    /// How many bytes, 1 to 1024
    #[arg(value_parser = clap::value_parser!(u16).range(1..=RANDOM_MAX_BYTES as i64))]
    bytes: u16,
    /// How to print them
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Random {
    /// Prints random bytes of the HSM.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let random = context.session()?.random(usize::from(self.bytes))?.random;
        let bytes = BASE64_STANDARD.decode(random.as_bytes()).map_err(local("The HSM's answer is not valid base64"))?;
        show(context, "random", &Zeroizing::new(bytes), self.format)
    }
}

/// Shows name and value of every metric.
pub(crate) fn metrics(context: &Context) -> Result<(), Failure> {
    let metrics = context.session()?.metrics()?;
    let rows = metrics.iter().map(|(name, value)| vec![name.clone(), value.clone()]);
    context.out.list(&metrics, &["metric", "value"], rows)
}
