//! `cluster witness`: declares a voting member without an HSM, which is an etcd of the same version, and writes its
//! configuration to a file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use casemate_api::body::cluster::ClusterMember;
use casemate_api::limits::{ETCD_ELECTION_MS, ETCD_HEARTBEAT_MS};
use clap::Args;
use serde_json::{Value, json};

use super::args::url;
use super::declare::{Destination, check_new, new_member_id, not_saved};
use super::members::at_member;
use crate::exit::{Failure, local};
use crate::profile::Context;
use crate::progress::notice;
use crate::render::warning;

/// Arguments of `cluster witness`.
#[derive(Args)]
#[command(
    after_help = "Paths are those on the machine of the witness. The certificate is issued by the CA of the cluster, \
                        with the IP address of the witness as subject alternative name."
)]
pub(crate) struct Witness {
    /// The name of the witness, which no other member may have
    #[arg(value_parser = name)]
    name: String,
    /// Address at which the members will reach it, such as https://IP:2380; repeatable
    #[arg(required = true, value_name = "URL", value_parser = address)]
    urls: Vec<String>,
    /// File for the configuration of its etcd; - is standard output
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Overwrite an existing file
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
    /// Certificate of the cluster's CA
    #[arg(long, value_name = "PATH", default_value = "/etc/etcd/cluster-ca.crt")]
    ca: String,
}

impl Witness {
    /// Declares it and writes its configuration.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let session = at_member(context)?;
        let members = session.cluster().members()?;
        check_new(&members, &self.urls)?;
        if members.iter().any(|member| name_of(member) == self.name) {
            return Err(Failure::Usage(format!("Another member is called {}: choose another name.", self.name)));
        }
        let destination = Destination::open(&self.to, self.force)?;
        // The joiner kit contains keys of the cluster and is for HSMs only, so it is not saved.
        let invitation = session.cluster().add(self.urls.clone())?;
        let id = new_member_id(context, &invitation, &self.urls)?;
        let json = serde_json::to_vec_pretty(&self.configuration(&id, &invitation.members));
        let json = json.map_err(local("The configuration cannot be written as JSON"));
        json.and_then(|json| destination.write(&json)).map_err(|why| not_saved(Some(&id), why))?;
        warning("A witness stores all data of the cluster, encrypted, and can read the names of all keys and users.");
        self.next(context, &id)
    }

    /// The configuration of etcd, which is YAML; JSON is YAML as well.
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
            // Only its own machine has to reach a witness as a client.
            "listen-client-urls": local,
            "advertise-client-urls": local,
            // As in an HSM: a member with a smaller quota would stop the whole cluster when it is full.
            "max-txn-ops": 512,
            "quota-backend-bytes": 5_694_816_256_u64,
            "heartbeat-interval": ETCD_HEARTBEAT_MS,
            "election-timeout": ETCD_ELECTION_MS,
            // Longer than a backup may last (`BACKUP_MAX_MS`): a witness that leads compacts for all, and Casemate does it itself sooner.
            "auto-compaction-retention": "2h",
            "peer-transport-security": {
                "cert-file": self.certificate,
                "key-file": self.key,
                "client-cert-auth": true,
                "trusted-ca-file": self.ca,
                // A member may connect from another address than the one it is reached at.
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
                "1. {}, {}: a certificate issued by the cluster's CA for {}, and its key.",
                self.certificate,
                self.key,
                addresses.join(" and ")
            ),
            format!("2. {}: the certificate of this CA.", self.ca),
            format!("3. etcd --config-file {file}"),
            format!("Then here: casemate cluster promote {id}"),
        ];
        if standard_output {
            lines.iter().for_each(|line| notice(context, line));
            return Ok(());
        }
        context.out.lines(&json!({ "id": id, "file": self.to }), lines)
    }
}

/// The name of a member in the list. etcd identifies members by their addresses, so the id serves for one that has no
/// name yet, or one that cannot be part of the list.
fn name_of(member: &ClusterMember) -> &str {
    if is_name(&member.name) { &member.name } else { &member.id }
}

/// Parses a name, which becomes part of a list `name=url,…`.
fn name(text: &str) -> Result<String, String> {
    if is_name(text) {
        Ok(text.into())
    } else {
        Err("the name of a witness may contain only letters, digits, and - _ .".into())
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Parses an address of a witness: etcd listens there, so it has to be an IP address.
fn address(text: &str) -> Result<String, String> {
    let text = url(text)?;
    if socket(&text).is_some() { Ok(text) } else { Err("the address of a witness is https://IP:PORT".into()) }
}

fn socket(url: &str) -> Option<SocketAddr> {
    url.strip_prefix("https://")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_listens_at_an_ip_address() {
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
