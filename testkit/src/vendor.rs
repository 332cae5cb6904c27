//! A vendor of updates: its key and its signed images, made by OpenSSL's command line.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::folder::Folder;

/// A vendor of updates, whose files are in the folder of an HSM.
pub struct Vendor;

impl Vendor {
    /// Creates the key of the vendor in `folder`, and the program that installs images: it writes their version to
    /// `installed`. Returns the arguments of a `casemated` that takes such updates.
    pub fn settings(folder: &Folder) -> Vec<String> {
        let (private, public) = (folder.at("vendor.key"), folder.at("vendor.pem"));
        openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", &private]);
        openssl(&["pkey", "-in", &private, "-pubout", "-out", &public]);
        let install = folder.file("install", format!("#!/bin/sh\necho \"$2\" > {}\n", folder.at("installed")));
        for (file, mode) in [(&public, 0o644), (&install, 0o755)] {
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
        }
        ["--update-key", &public, "--update-command", &install].map(str::to_owned).to_vec()
    }

    /// Creates the signed image `name` in `folder`, in NetHSM's format, and returns its path.
    pub fn image(folder: &Folder, name: &str, version: &str, notes: &str) -> String {
        let content = vec![7; 100_000];
        let blocks = content.len().div_ceil(512);
        let mut signed = [field(notes.as_bytes()), field(version.as_bytes())].concat();
        signed.extend(u32::try_from(blocks).unwrap().to_be_bytes());
        let length = signed.len() + blocks * 512;
        signed.extend(content);
        signed.resize(length, 0);
        let (content, signature) = (folder.file("signed", &signed), folder.at("signature"));
        openssl(&["dgst", "-sha256", "-sign", &folder.at("vendor.key"), "-out", &signature, &content]);
        let image = [b"_NETHSM_UPDATE_\0".to_vec(), field(&fs::read(signature).unwrap()), signed].concat();
        folder.file(name, image)
    }
}

fn field(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[1..], bytes].concat()
}

fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
