//! What the files of a witness say.

use std::path::Path;

use casemate_api::limits::{ETCD_ELECTION_MS, ETCD_HEARTBEAT_MS};

use super::Witness;

pub(super) const KEY: &str = "witness.key";
pub(super) const REQUEST: &str = "witness.csr";
/// Of the certificate that the CA makes of the request.
const CERTIFICATE: &str = "witness.pem";
pub(super) const CA: &str = "cluster-ca.pem";
pub(super) const UNIT: &str = "casemate-witness.service";
pub(super) const SYSCTL: &str = "90-casemate-witness.conf";
pub(super) const NEXT_STEPS: &str = "NEXT-STEPS.txt";

/// A unit of systemd. The key reaches the user that it makes as a credential, in memory.
pub(super) fn unit(witness: &Witness, folder: &Path) -> String {
    let Witness { name, urls, cluster, .. } = witness;
    let (folder, urls, cluster) = (folder.display(), urls.join(","), cluster.join(","));
    format!(
        "# A witness: an etcd that votes in the cluster and has no key of the HSM. Written by casemated witness init.
[Unit]
Description=Witness of a Casemate cluster (etcd)
Wants=network-online.target
After=network-online.target

[Service]
DynamicUser=true
StateDirectory=casemate-witness
StateDirectoryMode=0700
UMask=0077
LoadCredential={KEY}:{folder}/{KEY}
LoadCredential={CERTIFICATE}:{folder}/{CERTIFICATE}
LoadCredential={CA}:{folder}/{CA}
ExecStart={PROGRAM} \\
  --name={name} \\
  --data-dir=%S/casemate-witness \\
  --initial-cluster-state=existing \\
  --initial-cluster={cluster} \\
  --initial-advertise-peer-urls={urls} \\
  --listen-peer-urls={urls} \\
  --peer-cert-file=%d/{CERTIFICATE} \\
  --peer-key-file=%d/{KEY} \\
  --peer-trusted-ca-file=%d/{CA} \\
  --peer-client-cert-auth \\
  --listen-client-urls=https://127.0.0.1:2379 \\
  --advertise-client-urls= \\
  --cert-file=%d/{CERTIFICATE} \\
  --key-file=%d/{KEY} \\
  --trusted-ca-file=%d/{CA} \\
  --client-cert-auth \\
  --quota-backend-bytes={QUOTA_BYTES} \\
  --heartbeat-interval={ETCD_HEARTBEAT_MS} \\
  --election-timeout={ETCD_ELECTION_MS}
Restart=on-failure
RestartSec=5
LimitNOFILE=16384
LimitCORE=0

NoNewPrivileges=true
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=true
PrivateTmp=true
PrivateDevices=true
ProtectClock=true
ProtectControlGroups=true
ProtectHostname=true
ProtectKernelLogs=true
ProtectKernelModules=true
ProtectKernelTunables=true
ProtectProc=invisible
ProcSubset=pid
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=true
RestrictRealtime=true
RestrictSUIDSGID=true
LockPersonality=true
MemoryDenyWriteExecute=true
RemoveIPC=true
SystemCallArchitectures=native
SystemCallFilter=@system-service

[Install]
WantedBy=multi-user.target
"
    )
}

const PROGRAM: &str = "/usr/local/bin/etcd";
/// The largest that etcd supports, so that the witness never is the member whose database is full first.
const QUOTA_BYTES: u64 = 8 << 30;

/// For `/etc/sysctl.d`. A minus sign lets kernels be that do not have the setting.
pub(super) const SYSCTL_TEXT: &str =
    "# A network that drops packets without a word is noticed by TCP only after minutes, and a member of etcd on such a
# connection neither votes nor fails until then. These hold for all connections of this machine.
net.ipv4.tcp_retries2 = 5
-net.ipv4.tcp_rto_max_ms = 1000
";

pub(super) fn next_steps(witness: &Witness, folder: &Path, has_ca: bool) -> String {
    let Witness { id, name, urls, .. } = witness;
    let (folder, urls) = (folder.display(), urls.join(", "));
    let ca = if has_ca {
        String::new()
    } else {
        format!(
            "   Also put the certificate of the cluster CA there as {CA}: GET /api/v1/config/tls/cluster-ca.pem at an HSM.\n"
        )
    };
    format!(
        "The witness {name} of the cluster, member {id} at {urls}

It completes the majority. It stores what the HSMs store, sealed, and has no key that opens it; but it sees the names of users
and keys, and whoever rules it can delete data and put old data back. Keep it as safe as your HSMs, and apart from them.

1. Sign the request {REQUEST} with the cluster CA, for servers and for clients, and put the certificate into
   {folder} as {CERTIFICATE}. With OpenSSL 3, on the machine that has the CA's key:

     printf 'extendedKeyUsage=serverAuth,clientAuth\\n' > usage.txt
     openssl x509 -req -in {REQUEST} -copy_extensions copy -extfile usage.txt -days 365 \\
       -CA {CA} -CAkey cluster-ca.key -out {CERTIFICATE}

{ca}   The key {KEY} stays here.

2. Install etcd as {PROGRAM}: 3.6.13 or later, with the minor version of the other members.

3. As root:

     install -m 0644 {folder}/{SYSCTL} /etc/sysctl.d/ && sysctl --system
     install -m 0644 {folder}/{UNIT} /etc/systemd/system/ && systemctl daemon-reload
     systemctl enable --now casemate-witness
     journalctl -u casemate-witness

   The members must reach each other at the addresses in --initial-cluster, in both directions.

4. It is a learner now, which does not vote. Make it vote, as an Administrator at any HSM of the cluster:

     POST /api/v1/cluster/members/{id}/promote

   412 means that it has not caught up yet: repeat it after some seconds.

A new certificate takes effect with `systemctl restart casemate-witness`. To take the witness away:
DELETE /api/v1/cluster/members/{id} at an HSM, then systemctl disable --now casemate-witness, and remove
/var/lib/private/casemate-witness and this folder. A witness that was removed cannot come back: add a new one.
"
    )
}
