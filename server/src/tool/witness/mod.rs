//! `casemated witness init`: what a *witness* needs, an ordinary etcd without `casemated` that is the third vote of a cluster.
//!
//! It holds what the other members hold, sealed, and no key that opens it. Its TLS key is made here and stays here; the cluster CA
//! signs the request. Everything that goes into the files comes from the reply of an HSM, and is checked to be a plain name
//! or address first: a line of a unit must not become two.

mod files;

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use casemate_api::KeyType;
use casemate_api::body::cluster::ClusterMember;
use casemate_api::body::keys::DistinguishedName;
use casemate_api::limits::{ETCD_MEMBER_NAME_MAX_BYTES, WITNESS_INPUT_MAX_BYTES};
use casemate_core::backup::nethsm::write_private_pem;
use casemate_core::crypto::material::Material;
use casemate_core::crypto::mech::LoadedKey;
use casemate_core::crypto::x509;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::command::WitnessInit;
use crate::rng::SystemRng;

/// A witness that can be: itself and the others, all with names that can stand in a unit.
struct Witness {
    /// Of the member that it will be, in hexadecimal.
    id: String,
    name: String,
    urls: Vec<String>,
    /// `NAME=URL` of all members, itself among them.
    cluster: Vec<String>,
}

/// Writes the folder, and to `out` what is in it. `Err` is a sentence for the operator.
pub fn init(asked: &WitnessInit, out: &mut dyn Write) -> Result<(), String> {
    let witness = Witness::of(asked)?;
    let ca = asked.ca.as_deref().map(ca).transpose()?;
    let (key, request) = identity(&witness)?;
    let folder = new_folder(&asked.folder)?;
    write(&folder, files::KEY, &key)?;
    write(&folder, files::REQUEST, request.as_bytes())?;
    if let Some(ca) = &ca {
        write(&folder, files::CA, ca)?;
    }
    write(&folder, files::UNIT, files::unit(&witness, &folder).as_bytes())?;
    write(&folder, files::SYSCTL, files::SYSCTL_TEXT.as_bytes())?;
    write(&folder, files::NEXT_STEPS, files::next_steps(&witness, &folder, ca.is_some()).as_bytes())?;
    // If the output cannot be written, the exit code still tells the result.
    let _ = writeln!(
        out,
        "{} is ready. What to do now is in {}.",
        folder.display(),
        folder.join(files::NEXT_STEPS).display()
    );
    Ok(())
}

impl Witness {
    fn of(asked: &WitnessInit) -> Result<Self, String> {
        let WitnessInit { name, url, members: file, .. } = asked;
        let wrong = |why: String| format!("{}: {why}", file.display());
        let (new, others) = split(members(file)?).map_err(wrong)?;
        check(&new, &others).map_err(wrong)?;
        if !is_name(name) {
            return Err(format!(
                "--name {name}: a name is made of letters, digits, '.', '_' and '-', {ETCD_MEMBER_NAME_MAX_BYTES} at most"
            ));
        }
        if let Some(same) = others.iter().find(|member| member.name == *name) {
            return Err(format!("--name {name}: the member {} has this name already: choose another one", same.id));
        }
        same_urls(url, &new.urls)?;
        let named = |name: &str, urls: &[String]| urls.iter().map(|url| format!("{name}={url}")).collect::<Vec<_>>();
        let mut cluster: Vec<String> = others.iter().flat_map(|member| named(&member.name, &member.urls)).collect();
        cluster.extend(named(name, &new.urls));
        Ok(Self { id: new.id, name: name.clone(), urls: new.urls, cluster })
    }
}

/// The new member, which has no name yet, and the others.
fn split(members: Vec<ClusterMember>) -> Result<(ClusterMember, Vec<ClusterMember>), String> {
    let (new, others): (Vec<_>, Vec<_>) = members.into_iter().partition(|member| member.name.is_empty());
    let count = new.len();
    match <[ClusterMember; 1]>::try_from(new) {
        Ok(_) if others.is_empty() => {
            Err("the cluster has no other member: use the reply of POST /cluster/members".into())
        }
        Ok([new]) => Ok((new, others)),
        Err(_) if count == 0 => Err(
            "every member has a name, so none is new: use the reply of POST /cluster/members, before the witness is started"
                .into(),
        ),
        Err(_) => Err(format!(
            "{count} members have no name: start the others, or remove them, and add the witness after that"
        )),
    }
}

/// Whether all of it can stand in a unit.
fn check(new: &ClusterMember, others: &[ClusterMember]) -> Result<(), String> {
    if let Some(bad) = others.iter().find(|member| !is_name(&member.name)) {
        return Err(format!("{:?} is not the name of a member that etcd can be started with", bad.name));
    }
    if let Some(bad) = others.iter().chain([new]).flat_map(|member| &member.urls).find(|url| !is_url(url)) {
        return Err(format!("{bad:?} is not a URL of a member: it must be https://ADDRESS:PORT"));
    }
    if !new.id.is_empty() && new.id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(())
    } else {
        Err(format!("{:?} is not the id of a member", new.id))
    }
}

/// etcd wants exactly the URLs with which a member was added.
fn same_urls(asked: &[String], added: &[String]) -> Result<(), String> {
    if let Some(bad) = asked.iter().chain(added).find(|url| address(url).is_none()) {
        return Err(format!("--url {bad}: write https://IP:PORT, with an IP address, as etcd listens at nothing else"));
    }
    if let Some(other) = asked.iter().find(|url| !added.contains(url)) {
        let added = added.join(", ");
        return Err(format!(
            "--url {other}: the new member was added with {added}: give that, or add it anew with this URL"
        ));
    }
    match added.iter().find(|url| !asked.contains(url)) {
        Some(missing) => Err(format!("the new member was added with {missing}, too: give --url {missing} as well")),
        None => Ok(()),
    }
}

/// The members in a reply of `POST /cluster/members`, or in a list of members.
fn members(file: &Path) -> Result<Vec<ClusterMember>, String> {
    /// The joiner kit beside them is for nodes with keys.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Reply {
        Invitation { members: Vec<ClusterMember> },
        List(Vec<ClusterMember>),
    }
    match serde_json::from_slice(&read(file)?) {
        Ok(Reply::Invitation { members } | Reply::List(members)) => Ok(members),
        Err(_) => Err(format!("{}: this is not a reply of POST /cluster/members", file.display())),
    }
}

/// The certificates of the cluster CA.
fn ca(file: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let pem = read(file)?;
    let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    // The file is copied, and the key of the CA must not be.
    let secret = pem.windows(SECRET.len()).any(|part| part == SECRET);
    match found {
        Ok(found) if !found.is_empty() && !secret => Ok(pem),
        _ => Err(format!(
            "{}: this must hold the certificate of the cluster CA (PEM), and nothing secret",
            file.display()
        )),
    }
}

const SECRET: &[u8] = b"PRIVATE KEY";

/// A new P-256 key in PEM, and a request for a certificate of the names that peers check.
fn identity(witness: &Witness) -> Result<(Zeroizing<Vec<u8>>, String), String> {
    let addresses = witness.urls.iter().filter_map(|url| address(url));
    let subject = DistinguishedName {
        common_name: witness.name.clone(),
        subject_alt_names: Some(addresses.map(|address| format!("IP:{}", address.ip())).collect()),
        country_name: String::new(),
        locality_name: String::new(),
        state_or_province_name: String::new(),
        organization_name: String::new(),
        organizational_unit_name: String::new(),
        email_address: String::new(),
    };
    let made = || {
        let key = Material::generate(KeyType::EC_P256, 0, &SystemRng)?;
        let request = x509::csr_pem(&LoadedKey::load(&key)?, &subject)?;
        Ok::<_, casemate_core::Error>((write_private_pem(&x509::pkcs8_der(&key)?), request))
    };
    made().map_err(|error| format!("the TLS key of the witness cannot be made: {error}"))
}

/// Makes the folder, which may exist if nothing is in it. Returns its full path.
fn new_folder(folder: &Path) -> Result<PathBuf, String> {
    let failed = |why: io::Error| format!("--folder {}: {why}", folder.display());
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => {}
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {
            if fs::read_dir(folder).map_err(failed)?.next().is_some() {
                return Err(format!("--folder {}: it is not empty: name a new folder", folder.display()));
            }
            fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(failed)?;
        }
        Err(why) => return Err(failed(why)),
    }
    let full = folder.canonicalize().map_err(failed)?;
    // It stands in the unit.
    if full.to_str().is_some_and(|text| text.bytes().all(|byte| is_plain(byte) || byte == b'/')) {
        Ok(full)
    } else {
        Err(format!(
            "--folder {}: its full path must be made of letters, digits, '.', '_', '-' and '/'",
            folder.display()
        ))
    }
}

fn write(folder: &Path, name: &str, content: &[u8]) -> Result<(), String> {
    let path = folder.join(name);
    let written = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    written().map_err(|why: io::Error| format!("{}: {why}", path.display()))
}

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut content = Zeroizing::new(Vec::new());
    let done = File::open(file).and_then(|file| file.take(WITNESS_INPUT_MAX_BYTES + 1).read_to_end(&mut content));
    match done {
        Ok(_) if content.len() as u64 <= WITNESS_INPUT_MAX_BYTES => Ok(content),
        Ok(_) => Err(format!("{}: this is too large to be the right file", file.display())),
        Err(why) => Err(format!("{}: {why}", file.display())),
    }
}

/// The address that a URL of a witness names.
fn address(url: &str) -> Option<SocketAddr> {
    is_url(url).then(|| url.strip_prefix("https://")).flatten()?.parse().ok()
}

/// Whether this can only be `https://HOST:PORT`, and stand in a unit and between commas.
fn is_url(url: &str) -> bool {
    let Some(place) = url.strip_prefix("https://") else { return false };
    place.bytes().all(|byte| is_plain(byte) || b":[]".contains(&byte)) && casemate_etcd::Address::parse(place).is_ok()
}

/// Whether a member may have this name here; etcd itself takes nearly anything.
fn is_name(name: &str) -> bool {
    (1..=ETCD_MEMBER_NAME_MAX_BYTES).contains(&name.len()) && name.bytes().all(is_plain)
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-".contains(&byte)
}

#[cfg(test)]
mod tests;
