//! `cluster witness`: a voting member without an HSM is an etcd of the same version. It is declared as any other, and its
//! configuration is written to a file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use casemate_api::body::cluster::ClusterMember;
use clap::Args;
use serde_json::{Value, json};

use super::args::url;
use super::declare::{Place, lost, newcomer};
use crate::exit::{Failure, local};
use crate::profile::Context;
use crate::progress::say;
use crate::render::warning;

/// Arguments of `cluster witness`.
#[derive(Args)]
#[command(after_help = "Files are named as they are on the machine of the witness. The certificate is one of the \
                        cluster's authority, with the IP address of the witness as subject alternative name.")]
pub(crate) struct Witness {
    /// How the witness shall be called, unlike every other member
    #[arg(value_parser = name)]
    name: String,
    /// Where the members will reach it, as https://IP:2380; repeatable
    #[arg(required = true, value_name = "URL", value_parser = address)]
    urls: Vec<String>,
    /// File for the configuration of its etcd; - is standard output
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Replace the file if there is one
    #[arg(long)]
    force: bool,
    /// Folder of its data
    #[arg(long, value_name = "PATH", default_value = "/var/lib/etcd/witness")]
    data_dir: String,
    /// Its certificate
    #[arg(long, value_name = "PATH", default_value = "/etc/etcd/witness.crt")]
    certificate: String,
    /// The key of its certificate
    #[arg(long, value_name = "PATH", default_value = "/etc/etcd/witness.key")]
    key: String,
    /// Certificate of the cluster's authority
    #[arg(long, value_name = "PATH", default_value = "/etc/etcd/cluster-ca.crt")]
    ca: String,
}

impl Witness {
    /// Declares it and writes its configuration.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let session = context.session()?;
        if session.cluster().members()?.iter().any(|member| name_of(member) == self.name) {
            return Err(Failure::Usage(format!("Another member is called {}: take another name.", self.name)));
        }
        let place = Place::open(&self.to, self.force)?;
        // The joiner kit, which holds keys of the cluster, is for HSMs: it ends here.
        let invitation = session.cluster().add(self.urls.clone())?;
        let id = newcomer(context, &invitation, &self.urls)?;
        let json = serde_json::to_vec_pretty(&self.configuration(&id, &invitation.members));
        let json = json.map_err(local("It is no JSON"));
        json.and_then(|json| place.write(&json)).map_err(|why| lost(Some(&id), why))?;
        warning("A witness stores all data of the cluster, encrypted, and sees the names of all keys and users.");
        self.next(context, &id)
    }

    /// What etcd reads: it wants YAML, which every JSON is.
    fn configuration(&self, id: &str, members: &[ClusterMember]) -> Value {
        let entries = members.iter().flat_map(|member| {
            let name = if member.id.eq_ignore_ascii_case(id) { &self.name } else { name_of(member) };
            member.urls.iter().map(move |url| format!("{name}={url}"))
        });
        let (own, local) = (self.urls.join(","), "http://127.0.0.1:2379");
        json!({
            "name": self.name,
            "data-dir": self.data_dir,
            "initial-cluster": entries.collect::<Vec<_>>().join(","),
            "initial-cluster-state": "existing",
            "initial-advertise-peer-urls": own,
            "listen-peer-urls": own,
            // Nobody but its own machine asks a witness.
            "listen-client-urls": local,
            "advertise-client-urls": local,
            // As an HSM has them: whose quota is smaller stops the whole cluster when it is full.
            "max-txn-ops": 512,
            "quota-backend-bytes": 5_694_816_256_u64,
            "auto-compaction-retention": "1h",
            "peer-transport-security": {
                "cert-file": self.certificate,
                "key-file": self.key,
                "client-cert-auth": true,
                "trusted-ca-file": self.ca,
                // A member may come from another address than the one it is reached at.
                "skip-client-san-verification": true,
            },
        })
    }

    fn next(&self, context: &Context, id: &str) -> Result<(), Failure> {
        let standard_output = self.to == Path::new("-");
        let file = if standard_output { "FILE".into() } else { self.to.display().to_string() };
        let addresses: Vec<_> = self.urls.iter().filter_map(|url| socket(url)).map(|at| at.ip().to_string()).collect();
        let lines = [
            format!("The member {id} is declared. On the machine of {}, with etcd 3.6:", self.name),
            format!(
                "1. {}, {}: a certificate of the cluster's authority for {}, and its key.",
                self.certificate,
                self.key,
                addresses.join(" and ")
            ),
            format!("2. {}: the certificate of this authority.", self.ca),
            format!("3. etcd --config-file {file}"),
            format!("Then here: casemate cluster promote {id}"),
        ];
        if standard_output {
            lines.iter().for_each(|line| say(context, line));
            return Ok(());
        }
        context.out.lines(&json!({ "id": id, "file": self.to }), lines)
    }
}

/// What etcd calls a member here. It knows members by their addresses, so the id does for one that has not started, or whose
/// name would not fit into a list.
fn name_of(member: &ClusterMember) -> &str {
    if is_name(&member.name) { &member.name } else { &member.id }
}

/// A name as an argument: it becomes part of a list of `name=url,…`.
fn name(text: &str) -> Result<String, String> {
    if is_name(text) { Ok(text.into()) } else { Err("a name of a witness has letters, digits, and - _ . only".into()) }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// An address of a witness as an argument: etcd listens there, which wants numbers.
fn address(text: &str) -> Result<String, String> {
    let text = url(text)?;
    if socket(&text).is_some() { Ok(text) } else { Err("an address of a witness is https://IP:PORT".into()) }
}

fn socket(url: &str) -> Option<SocketAddr> {
    url.strip_prefix("https://")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_listens_at_numbers() {
        for good in ["https://192.0.2.8:2380", "https://[2001:db8::8]:2380"] {
            assert_eq!(address(good).as_deref(), Ok(good));
        }
        for bad in
            ["https://witness.example:2380", "https://192.0.2.8", "https://192.0.2.8:2380/", "http://192.0.2.8:1"]
        {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
