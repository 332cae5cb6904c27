//! The TLS key and certificates of the server, changed while it serves, and the cluster CA.

use std::net::{IpAddr, Ipv4Addr};

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{HasPublic, PKey, PKeyRef, Private};
use openssl::rsa::Rsa;
use openssl::stack::Stack;
use openssl::x509::extension::{BasicConstraints, KeyUsage};
use openssl::x509::{X509, X509Extension, X509NameBuilder, X509NameRef, X509Req};
use serde_json::{Value, json};

use crate::rig::{BASE, Client, Rig};
use crate::wire::{Reply, Wire, trusting};

const CERT: &str = "/config/tls/cert.pem";
const CLUSTER_CA: &str = "/config/tls/cluster-ca.pem";
const PEM: &str = "application/x-pem-file";

/// A certificate authority that uses another library.
struct Ca {
    key: PKey<Private>,
    certificate: X509,
}

/// Contents of a certificate besides name and key.
struct Terms<'a> {
    authority: bool,
    usage: bool,
    until: &'a str,
    extensions: Option<Stack<X509Extension>>,
}

const SERVER: Terms<'_> = Terms { authority: false, usage: false, until: "20400101000000Z", extensions: None };
const AUTHORITY: Terms<'_> = Terms { authority: true, usage: true, ..SERVER };

fn ec(curve: Nid) -> PKey<Private> {
    let group = EcGroup::from_curve_name(curve).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn sign(
    subject: &X509NameRef,
    public: &PKeyRef<impl HasPublic>,
    by: (&X509NameRef, &PKey<Private>),
    terms: Terms<'_>,
) -> X509 {
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let serial = BigNum::from_slice(&openssl::sha::sha1(&public.public_key_to_der().unwrap())[..8]).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(subject).unwrap();
    builder.set_issuer_name(by.0).unwrap();
    builder.set_not_before(&Asn1Time::from_str("20200101000000Z").unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_str(terms.until).unwrap()).unwrap();
    builder.set_pubkey(public).unwrap();
    if terms.authority {
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    }
    if terms.usage {
        builder.append_extension(KeyUsage::new().critical().key_cert_sign().build().unwrap()).unwrap();
    }
    for extension in terms.extensions.iter().flatten() {
        builder.append_extension2(extension).unwrap();
    }
    let hash = match by.1.id() {
        openssl::pkey::Id::ED25519 => MessageDigest::null(),
        _ => MessageDigest::sha256(),
    };
    builder.sign(by.1, hash).unwrap();
    builder.build()
}

impl Ca {
    fn new(name: &str, key: PKey<Private>) -> Self {
        Self::with(name, key, AUTHORITY)
    }

    fn with(name: &str, key: PKey<Private>, terms: Terms<'_>) -> Self {
        let name = named(name);
        let certificate = sign(&name, &key, (&name, &key), terms);
        Self { key, certificate }
    }

    /// An authority below this one.
    fn under(&self, name: &str, key: PKey<Private>) -> Self {
        let certificate = sign(&named(name), &key, (self.certificate.subject_name(), &self.key), AUTHORITY);
        Self { key, certificate }
    }

    /// A certificate for this request, with the requested extensions.
    fn issue(&self, request: &str) -> String {
        self.issue_until(request, SERVER.until)
    }

    fn issue_until(&self, request: &str, until: &str) -> String {
        let request = X509Req::from_pem(request.as_bytes()).unwrap();
        let public = request.public_key().unwrap();
        assert!(request.verify(&public).unwrap(), "the request is signed with its own key");
        let terms = Terms { until, extensions: Some(request.extensions().unwrap()), ..SERVER };
        let certificate = sign(request.subject_name(), &public, (self.certificate.subject_name(), &self.key), terms);
        pem(&certificate)
    }

    fn pem(&self) -> String {
        pem(&self.certificate)
    }
}

fn named(name: &str) -> openssl::x509::X509Name {
    let mut builder = X509NameBuilder::new().unwrap();
    builder.append_entry_by_text("CN", name).unwrap();
    builder.build()
}

fn pem(certificate: &X509) -> String {
    String::from_utf8(certificate.to_pem().unwrap()).unwrap()
}

fn csr(rig: &Rig) -> String {
    let subject = json!({"commonName": "hsm.example", "subjectAltNames": ["IP:127.0.0.1", "hsm.example"]});
    rig.admin().post("/config/tls/csr.pem", subject).is(200).text().to_owned()
}

fn put(rig: &Rig, path: &str, pem: &str) -> Reply {
    rig.admin().content_type(PEM).put(path, pem.as_bytes().to_vec())
}

fn generate(client: &Client<'_>, body: Value) -> Reply {
    client.post("/config/tls/generate", body)
}

/// A new connection of a client that trusts this certificate; `None` if it does not trust the server.
fn connect(rig: &Rig, root: &X509) -> Option<Wire> {
    let (address, _) = rig.server();
    let config = trusting(root.to_der().unwrap());
    Wire::try_connect(config, IpAddr::from(Ipv4Addr::LOCALHOST), address).ok()
}

/// Requests the state through this connection.
fn asks(wire: &mut Wire) -> u16 {
    wire.send(format!("GET {BASE}/health/state HTTP/1.1\r\nhost: hsm\r\n\r\n").as_bytes());
    wire.reply("GET").status
}

#[test]
fn the_public_key_is_that_of_the_certificate() {
    let rig = Rig::operational();
    let reply = rig.admin().get("/config/tls/public.pem").is(200);
    assert_eq!(reply.header("content-type"), Some(PEM));
    assert_eq!(reply.header("cache-control"), None);
    let public = PKey::public_key_from_pem(&reply.body).unwrap();
    let chain = rig.admin().get(CERT).is(200);
    assert_eq!(chain.header("content-type"), Some(PEM));
    let certificate = X509::from_pem(&chain.body).unwrap();
    assert!(certificate.public_key().unwrap().public_eq(&public));
    assert!(certificate.verify(&public).unwrap());
    let name = certificate.subject_name().entries().next().unwrap().data().to_string().unwrap();
    assert_eq!(name, "keyfender");
    rig.admin().send("HEAD", "/config/tls/public.pem", "").is(200).empty();
    rig.admin().send("HEAD", CERT, "").is(405);
    for path in ["/config/tls/public.pem", CERT] {
        let tag = rig.admin().get(path).header("etag").unwrap().to_owned();
        rig.admin().header("if-none-match", &tag).get(path).is(304).empty();
        rig.admin().header("accept", "application/json").get(path).is(406).empty();
        rig.admin().header("accept", "application/*").get(path).is(200);
    }
}

#[test]
fn a_new_key_is_served_at_once_and_connections_go_on() {
    let rig = Rig::operational();
    let authority = Ca::new("Test CA", ec(Nid::X9_62_PRIME256V1));
    let mut before = rig.connect();
    assert_eq!(asks(&mut before), 200);
    let types = [
        json!({"type": "RSA", "length": 2048}),
        json!({"type": "Curve25519"}),
        json!({"type": "EC_P256", "length": 1}),
        json!({"type": "EC_P384"}),
        json!({"type": "EC_P521", "length": null}),
    ];
    let mut last = rig.admin().get("/config/tls/public.pem").is(200).body;
    for key_type in types {
        let reply = generate(&rig.admin(), key_type.clone()).is(204).empty();
        assert_eq!(reply.header("cache-control"), Some("no-cache"));
        let public = rig.admin().get("/config/tls/public.pem").is(200).body;
        assert_ne!(public, last, "{key_type}");
        // Self-signed, and already in use.
        let own = X509::from_pem(&rig.admin().get(CERT).is(200).body).unwrap();
        assert_eq!(own.subject_alt_names().unwrap().iter().filter(|name| name.ipaddress().is_some()).count(), 2);
        assert_eq!(own.not_after().to_string(), "Dec 31 23:59:59 9999 GMT");
        assert_eq!(asks(&mut connect(&rig, &own).unwrap()), 200);
        assert!(connect(&rig, &authority.certificate).is_none());

        let leaf = authority.issue(&csr(&rig));
        let reply = put(&rig, CERT, &leaf).case(126, 201).empty();
        assert_eq!(reply.header("location"), Some("/api/v1/config/tls/cert.pem"));
        assert_eq!(reply.header("content-type"), Some(PEM));
        assert_eq!(rig.admin().get(CERT).is(200).text(), leaf);
        assert_eq!(rig.admin().get("/config/tls/public.pem").is(200).body, public);
        assert_eq!(asks(&mut connect(&rig, &authority.certificate).unwrap()), 200);
        assert_eq!(asks(&mut before), 200, "who was connected stays so");
        last = public;
    }
}

#[test]
fn the_key_and_the_chain_survive_a_reboot() {
    let mut rig = Rig::operational();
    let root = Ca::new("Root", ec(Nid::SECP384R1));
    let middle = root.under("Middle", PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap());
    generate(&rig.admin(), json!({"type": "EC_P384"})).is(204);
    let chain = [middle.issue(&csr(&rig)), middle.pem(), root.pem()].concat();
    put(&rig, CERT, &chain).is(201);
    assert_eq!(rig.admin().get(CERT).text(), chain);
    rig.reboot();
    assert_eq!(asks(&mut connect(&rig, &root.certificate).unwrap()), 200);
}

#[test]
fn a_request_has_the_subject_it_was_asked_for() {
    let rig = Rig::operational();
    let reply = rig.admin().post("/config/tls/csr.pem", json!({"commonName": "", "organizationName": "O"})).is(200);
    assert_eq!((reply.header("content-type"), reply.header("cache-control")), (Some(PEM), Some("no-cache")));
    let request = X509Req::from_pem(&reply.body).unwrap();
    assert!(request.verify(&request.public_key().unwrap()).unwrap());
    assert_eq!(request.subject_name().entries().count(), 1, "an empty common name is left out");
    rig.admin().untyped().post("/config/tls/csr.pem", json!({"commonName": "x"})).is(200);
    rig.admin().post("/config/tls/csr.pem", json!({})).is(400);
    rig.admin().header("accept", "application/json").post("/config/tls/csr.pem", json!({"commonName": "x"})).is(406);
}

/// Cases 128 and the rules of generation.
#[test]
fn keys_that_cannot_be_served_are_refused_and_change_nothing() {
    let rig = Rig::operational();
    let before = rig.admin().get(CERT).body;
    let out_of_bounds = "Length must be between 1024 and 8192.";
    for length in [json!(null), json!(1023), json!(8193), json!(0), json!(-2048)] {
        generate(&rig.admin(), json!({"type": "RSA", "length": length})).is(400).says(out_of_bounds);
    }
    generate(&rig.admin(), json!({"type": "RSA"})).is(400).says(out_of_bounds);
    for unknown in ["Generic", "EC_P256K1", "EC_P224", "rsa", ""] {
        generate(&rig.admin(), json!({"type": unknown})).case(128, 400);
    }
    generate(&rig.admin(), json!({"type": "RSA", "length": 2048.0})).is(400);
    generate(&rig.admin(), json!({"type": "EC_P256", "more": 1})).is(400);
    generate(&rig.admin(), json!({})).is(400);
    let unfit = "TLS cannot be served with this key or certificate: the key must be RSA of 2048 to 8192 bits, EC_P256, \
                 EC_P384, EC_P521 or Curve25519, the certificate of X.509 version 3.";
    for weak in [
        json!({"type": "RSA", "length": 1024}),
        json!({"type": "BrainpoolP256"}),
        json!({"type": "BrainpoolP384"}),
        json!({"type": "BrainpoolP512"}),
    ] {
        generate(&rig.admin(), weak).is(400).says(unfit);
    }
    assert_eq!(rig.admin().get(CERT).body, before);
    assert_eq!(asks(&mut rig.connect()), 200);
    generate(&rig.admin().untyped(), json!({"type": "EC_P256"})).is(204);
}

/// Case 127.
#[test]
fn an_invalid_or_foreign_certificate_is_refused() {
    let rig = Rig::operational();
    let before = rig.admin().get(CERT).body;
    let authority = Ca::new("Test CA", ec(Nid::X9_62_PRIME256V1));
    let request = csr(&rig);
    let leaf = authority.issue(&request);
    for garbage in ["", "garbage", &request, "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"] {
        let reply = put(&rig, CERT, garbage).case(127, 400);
        assert!(["No certificate", "Certificate 1 cannot be read."].contains(&&*reply.message()), "{reply}");
    }
    put(&rig, CERT, &leaf.replace("-----END CERTIFICATE-----", "")).is(400).says("The PEM text is damaged.");
    let mismatch = "public key in certificate does not match private key.";
    put(&rig, CERT, &authority.pem()).case(127, 400).says(mismatch);
    put(&rig, CERT, &[authority.pem(), leaf.clone()].concat()).case(127, 400).says(mismatch);
    put(&rig, CERT, &leaf.repeat(11)).is(400).says("The chain is too long, max 10 certificates and 49152 bytes.");

    rig.admin().put(CERT, leaf.as_str()).is(415).empty();
    rig.admin().untyped().put(CERT, leaf.as_bytes().to_vec()).is(415);
    rig.admin().content_type("application/octet-stream").put(CERT, leaf.as_str()).is(415);
    rig.admin().content_type(PEM).header("accept", "application/json").put(CERT, leaf.as_str()).is(406);
    rig.admin().content_type(PEM).put(CERT, vec![b'-'; (1 << 20) + 1]).is(413);
    rig.user("ns1~admin").content_type(PEM).put(CERT, leaf.as_str()).is(403);
    rig.operator().content_type(PEM).put(CERT, leaf.as_str()).is(403);
    assert_eq!(rig.admin().get(CERT).body, before, "nothing of it was taken");
    rig.admin().content_type("Application/X-Pem-File; charset=utf-8").put(CERT, leaf.as_str()).is(201);
}

#[test]
fn a_chain_must_lead_from_the_first_to_the_last() {
    let rig = Rig::operational();
    let root = Ca::new("Root", ec(Nid::SECP521R1));
    let upper = root.under("Upper", PKey::generate_ed25519().unwrap());
    let lower = upper.under("Lower", ec(Nid::SECP384R1));
    let other = Ca::new("Lower", ec(Nid::SECP384R1));
    let request = csr(&rig);
    let leaf = lower.issue(&request);
    let chain = |certificates: &[&Ca]| {
        let rest: String = certificates.iter().map(|ca| ca.pem()).collect();
        put(&rig, CERT, &format!("{leaf}{rest}"))
    };
    for good in [&[&lower][..], &[&lower, &upper], &[&lower, &upper, &root]] {
        chain(good).is(201);
    }
    for bad in [&[&upper][..], &[&root], &[&upper, &lower], &[&lower, &root], &[&other], &[&other, &lower, &upper]] {
        let why = chain(bad).is(400).message();
        assert!(why.starts_with("The certificates do not lead") || why.starts_with("Each certificate"), "{why}");
    }
    // At the time of the HSM, which is 2030.
    let expired = format!("{}{}", lower.issue_until(&request, "20290101000000Z"), lower.pem());
    let why = put(&rig, CERT, &expired).is(400).message();
    let start = "The certificates do not lead from the first to the last: at the HSM's time, 2030-01-02T03:04:";
    assert!(why.starts_with(start) && why.ends_with("Z, a certificate has expired."), "{why}");
    rig.admin().put("/config/time", json!({"time": "2028-01-01T00:00:00Z"})).is(204);
    put(&rig, CERT, &expired).is(201);
    // A single certificate is not checked against others.
    rig.admin().put("/config/time", json!({"time": "2035-01-01T00:00:00Z"})).is(204);
    put(&rig, CERT, &lower.issue_until(&request, "20290101000000Z")).is(201);
}

#[test]
fn authorities_on_brainpool_curves_are_verified() {
    let rig = Rig::operational();
    let request = csr(&rig);
    for curve in [Nid::BRAINPOOL_P256R1, Nid::BRAINPOOL_P384R1, Nid::BRAINPOOL_P512R1] {
        let authority = Ca::new("Brainpool", ec(curve));
        put(&rig, CERT, &[authority.issue(&request), authority.pem()].concat()).is(201);
        let namesake = Ca::new("Brainpool", ec(curve));
        put(&rig, CERT, &[authority.issue(&request), namesake.pem()].concat()).is(400);
    }
}

#[test]
fn a_certificate_that_cannot_be_stored_is_not_served() {
    let rig = Rig::operational();
    let before = rig.admin().get(CERT).body;
    let authority = Ca::new("Test CA", ec(Nid::X9_62_PRIME256V1));
    let leaf = authority.issue(&csr(&rig));
    rig.sim.local.fail(true);
    put(&rig, CERT, &leaf).is(503);
    rig.sim.local.fail(false);
    assert!(connect(&rig, &authority.certificate).is_none());
    assert_eq!(asks(&mut connect(&rig, &X509::from_pem(&before).unwrap()).unwrap()), 200);
    // If an answer is lost, the stored certificate is determined and served.
    rig.sim.local.lose_answers(2);
    match put(&rig, CERT, &leaf).status {
        201 => assert!(connect(&rig, &authority.certificate).is_some()),
        503 => assert!(connect(&rig, &authority.certificate).is_none()),
        other => panic!("{other}"),
    }
}

/// Case 129 and the rules of the cluster CA.
#[test]
fn the_cluster_ca_signs_every_certificate_from_then_on() {
    let mut rig = Rig::operational();
    let absent = rig.admin().get(CLUSTER_CA).case(129, 404);
    assert_eq!(absent.message(), "cluster CA is absent unless configured");
    let [ours, theirs] = ["Ours", "Theirs"].map(|name| Ca::new(name, ec(Nid::SECP384R1)));
    put(&rig, CLUSTER_CA, "garbage").is(400).says("No certificate");
    put(&rig, CLUSTER_CA, &[ours.pem(), theirs.pem()].concat()).is(400).says("Multiple certificates");
    let no_authority = "The certificate is not that of an authority (basic constraints, key usage).";
    let plain = Ca::with("Plain", ec(Nid::SECP384R1), SERVER);
    put(&rig, CLUSTER_CA, &plain.pem()).is(400).says(no_authority);
    let not_signed = "The TLS certificate is not signed by this CA. Install one that is first.";
    put(&rig, CLUSTER_CA, &ours.pem()).is(412).says(not_signed);
    rig.admin().put(CLUSTER_CA, ours.pem().as_str()).is(415);
    rig.admin().get(CLUSTER_CA).is(404);

    let middle = ours.under("Middle", ec(Nid::X9_62_PRIME256V1));
    let request = csr(&rig);
    put(&rig, CERT, &[middle.issue(&request), middle.pem()].concat()).is(201);
    put(&rig, CLUSTER_CA, &theirs.pem()).is(412);
    let reply = put(&rig, CLUSTER_CA, &ours.pem()).is(201).empty();
    assert_eq!(reply.header("location"), Some("/api/v1/config/tls/cluster-ca.pem"));
    let stored = rig.admin().get(CLUSTER_CA).is(200);
    assert_eq!((stored.text(), stored.header("content-type")), (&*ours.pem(), Some(PEM)));
    put(&rig, CLUSTER_CA, &ours.pem()).is(201);

    generate(&rig.admin(), json!({"type": "EC_P256"})).is(412).says("cannot generate cert if cluster CA has been set");
    put(&rig, CERT, &theirs.issue(&request)).is(412).says("The certificate is not signed by the cluster CA.");
    put(&rig, CERT, &middle.issue(&request)).is(412);
    put(&rig, CERT, &ours.issue(&request)).is(201);

    rig.reboot();
    let mut wire = connect(&rig, &ours.certificate).unwrap();
    assert_eq!(asks(&mut wire), 200);
    let passphrase = casemate_api::Passphrase::from_text(crate::rig::UNLOCK.to_owned());
    pollster::block_on(rig.hsm.unlock(Ipv4Addr::LOCALHOST.into(), &passphrase)).unwrap();
    let op = rig.hsm.operational().unwrap();
    assert_eq!(pollster::block_on(op.config().cluster_ca_pem()).unwrap(), ours.pem());
}
