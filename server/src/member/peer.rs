//! TLS between members: files that are nowhere but in memory.
//!
//! etcd reads its certificate and key from files, at each handshake. They are memory files here (`memfd_create`), which it
//! inherits as its standard input and output, so they have no name, and nobody else can open them.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use casemate_core::crypto::secret::SecretBytes;
use rustix::fs::{MemfdFlags, Mode, fchmod, memfd_create};
use zeroize::Zeroizing;

/// As whom a member appears to its peers.
pub struct Identity {
    /// The chain of certificates in PEM, its own first. They must be good for servers and for clients, and name its addresses.
    pub chain: Vec<u8>,
    /// The private key in PEM.
    pub key: SecretBytes,
}

/// TLS with peers, both sides authenticated.
pub struct PeerTls {
    /// As whom the member appears.
    pub identity: Identity,
    /// The certificates of the cluster CA in PEM: whom the member trusts.
    pub ca: Vec<u8>,
}

impl PeerTls {
    /// How etcd is told of the files.
    pub(super) const FLAGS: [&str; 4] = [
        "--peer-cert-file=/proc/self/fd/0",
        "--peer-key-file=/proc/self/fd/0",
        "--peer-trusted-ca-file=/proc/self/fd/1",
        "--peer-client-cert-auth",
    ];

    /// The same for clients of other machines, whom the member knows by the same CA.
    pub(super) const CLIENT_FLAGS: [&str; 4] = [
        "--cert-file=/proc/self/fd/0",
        "--key-file=/proc/self/fd/0",
        "--trusted-ca-file=/proc/self/fd/1",
        "--client-cert-auth",
    ];
}

/// The memory files of a member.
pub(super) struct PeerFiles {
    /// Chain and key, one after the other: etcd looks in each of its files for what it needs.
    identity: File,
    ca: File,
}

impl PeerFiles {
    pub(super) fn new(tls: &PeerTls) -> io::Result<Self> {
        let files = Self { identity: memory_file("peer-identity")?, ca: memory_file("cluster-ca")? };
        files.ca.write_all_at(&tls.ca, 0)?;
        files.replace(&tls.identity)?;
        Ok(files)
    }

    /// From the next handshake on another identity is shown.
    ///
    /// A handshake at this very moment may read the beginning of the new file and the end of the old one. That ends in one of
    /// three ways, none of which shows what nobody should see: it cannot be parsed, or the key is not that of the certificate,
    /// and etcd refuses the handshake, which the peer repeats; or only certificates above the first are old.
    pub(super) fn replace(&self, identity: &Identity) -> io::Result<()> {
        overwrite(&self.identity, &[&identity.chain, b"\n", identity.key.expose()])
    }

    /// From the next start on another CA is trusted.
    pub(super) fn replace_ca(&self, ca: &[u8]) -> io::Result<()> {
        overwrite(&self.ca, &[ca])
    }

    /// Standard input and output of etcd.
    pub(super) fn stdio(&self) -> io::Result<[Stdio; 2]> {
        Ok([read_only(&self.identity)?, read_only(&self.ca)?])
    }
}

impl Drop for PeerFiles {
    fn drop(&mut self) {
        let bytes = self.identity.metadata().map_or(0, |about| about.len());
        // The memory is given back as it is.
        let _ = self.identity.write_all_at(&vec![0; usize::try_from(bytes).unwrap_or(0)], 0);
    }
}

/// Writes `parts` over all of what was there. The file is never cut.
fn overwrite(file: &File, parts: &[&[u8]]) -> io::Result<()> {
    let before = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    let mut whole = Zeroizing::new(Vec::with_capacity(bytes.max(before)));
    parts.iter().for_each(|part| whole.extend_from_slice(part));
    whole.resize(bytes.max(before), b'\n');
    file.write_all_at(&whole, 0)
}

fn memory_file(name: &str) -> io::Result<File> {
    let file = memfd_create(name, MemfdFlags::CLOEXEC)?;
    fchmod(&file, Mode::RUSR)?;
    Ok(file.into())
}

/// Opened anew, so that whoever inherits it cannot write, and has a position of its own.
fn read_only(file: &File) -> io::Result<Stdio> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).map(Stdio::from)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn content(file: &File) -> String {
        fs::read_to_string(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
    }

    #[test]
    fn a_shorter_identity_leaves_nothing_of_the_longer_one() {
        let identity =
            |chain: &str, key: &str| Identity { chain: chain.into(), key: SecretBytes::from_slice(key.as_bytes()) };
        let files = PeerFiles::new(&PeerTls { identity: identity("chain one", "key one"), ca: b"ca".into() }).unwrap();
        assert_eq!((content(&files.identity).as_str(), content(&files.ca).as_str()), ("chain one\nkey one", "ca"));
        files.replace(&identity("c2", "k2")).unwrap();
        assert_eq!(content(&files.identity), format!("c2\nk2{}", "\n".repeat(12)));
        files.replace(&identity("chain three", "key three")).unwrap();
        assert_eq!(content(&files.identity), "chain three\nkey three");
        let other = files.identity.try_clone().unwrap();
        drop(files);
        assert!(content(&other).bytes().all(|byte| byte == 0));
    }
}
