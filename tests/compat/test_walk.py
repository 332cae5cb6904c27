"""One tour of an administrator's work with the released `nitropy`: every subcommand that it has for one device."""

import base64
import datetime
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import pkcs12

from device import ADMIN, AFTER_A_FAILED_LOGIN, PASSPHRASES, UNLOCK, Device
from image import Vendor

# They take a cluster: `server/tests/network/tour.rs` runs them. Without one, NetHSM refuses these as well.
OF_CLUSTERS = {
    "add-cluster-member",
    "join-cluster",
    "promote-cluster-member",
    "remove-cluster-member",
    "set-cluster-member-urls",
}
BACKUP = "BackupFilePassphrase 1"


class Walker:
    """Runs subcommands as a user, and records which."""

    def __init__(self, device: Device):
        self.device = device
        self.walked = set()

    def __call__(self, *args: str, user: str | None = "admin", **more) -> str:
        self.walked.add(args[0])
        return self.device.nitropy(*args, user=user, **more)


def every_subcommand() -> set[str]:
    command = [str(Path(sys.executable).parent / "nitropy"), "nethsm", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env={"ALLOW_ROOT": "1"}).stdout
    return set(re.findall(r"^  ([a-z][a-z0-9-]+)", said.split("Commands:")[1], re.MULTILINE))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def vendor(tmp_path):
    return Vendor(tmp_path)


@pytest.fixture
def walk(tmp_path, vendor):
    device = Device(tmp_path, vendor.settings())
    device.start()
    yield Walker(device)
    device.destroy()


def test_every_subcommand_of_nitropy(walk, vendor, tmp_path):
    device = walk.device
    begin(walk)
    people(walk)
    keys(walk, tmp_path)
    use_of_keys(walk)
    configuration(walk, tmp_path)
    backups(walk, tmp_path)
    updates(walk, vendor)
    endings(walk)
    missing = every_subcommand() - walk.walked - OF_CLUSTERS
    assert not missing, f"the tour does not visit {sorted(missing)}"
    assert device.log_tail(), "the log says something"


def begin(walk):
    device = walk.device
    assert "Unprovisioned" in walk("state", user=None)
    said = walk("test", "-a", ADMIN, "-o", PASSPHRASES["operator"], "-u", UNLOCK, "-k", "2", "-r", "2048",
                "--skip-factory-reset", user=None)
    assert "Generated 2 RSA2048 keys" in said and "Generated 2048 bytes" in said
    with device.rebooting("Unprovisioned"):
        walk("factory-reset", stdin="y\n")
    walk("provision", "-u", UNLOCK, "-a", ADMIN, user=None)
    assert "Casemate" in walk("info", user=None)
    assert "Operational" in walk("state", user=None)
    assert "Software version" in walk("system-info")
    walk("lock")
    assert "Locked" in walk("state", user=None)
    walk("unlock", user=None, stdin=UNLOCK + "\n")
    walk("get-cluster-diagnostics")
    assert "casemate" in walk("list-cluster-members")
    walk("force-new-cluster", ok=False)


def people(walk):
    for role in ("operator", "metrics", "backup"):
        walk("add-user", "-n", role.title(), "-r", role.title(), "-u", role, "-p", PASSPHRASES[role])
    walk("add-user", "-n", "Temp", "-r", "Operator", "-u", "temp", "-p", "a temporary passphrase")
    users = walk("list-users")
    assert "operator" in users and "temp" in users
    assert "Operator" in walk("get-user", "operator")
    walk("set-passphrase", "-u", "operator", "-p", "Changed passphrase 1")
    walk("random", "16", user="operator", passphrase="Changed passphrase 1")
    walk("set-passphrase", "-u", "operator", "-p", PASSPHRASES["operator"])
    walk("delete-user", "temp")
    assert "temp" not in walk("list-users")
    walk("add-operator-tag", "operator", "berlin")
    assert "berlin" in walk("list-operator-tags", "operator")
    walk("add-operator-tag", "operator", "bonn")
    walk("delete-operator-tag", "operator", "bonn")
    assert "bonn" not in walk("list-operator-tags", "operator")
    walk("add-user", "-n", "Chief", "-r", "Administrator", "-u", "chief", "-N", "ns1", "-p", "Chief passphrase 1")
    walk("add-namespace", "ns1")
    assert "ns1" in walk("list-namespaces")
    walk("generate-key", "-t", "EC_P256", "-l", "256", "-m", "ECDSA_Signature", "-k", "inside", user="ns1~chief",
         passphrase="Chief passphrase 1")
    walk("add-namespace", "ns2")
    walk("delete-namespace", "ns2")
    assert "ns2" not in walk("list-namespaces")


def keys(walk, tmp_path):
    walk("generate-key", "-t", "RSA", "-l", "2048", "-m", "RSA_Signature_PSS_SHA256", "-m", "RSA_Decryption_PKCS1", "-k", "rsa")
    walk("generate-key", "-t", "Generic", "-l", "256", "-m", "AES_Encryption_CBC", "-m", "AES_Decryption_CBC", "-k", "aes")
    private = ec.generate_private_key(ec.SECP256R1())
    scalar = private.private_numbers().private_value.to_bytes(32, "big")
    walk("add-key", "-t", "EC_P256", "-m", "ECDSA_Signature", "-d", b64(scalar), "-k", "added")
    pem = tmp_path / "key.pem"
    pem.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                          serialization.NoEncryption()))
    walk("import-key", "-m", "ECDSA_Signature", "-k", "imported", str(pem))
    archive = tmp_path / "archive.p12"
    archive.write_bytes(pkcs12.serialize_key_and_certificates(
        b"name", private, self_signed(private), None, serialization.BestAvailableEncryption(b"archive")))
    walk("import-pkcs12", "-m", "ECDSA_Signature", "-k", "archived", "-p", "archive", str(archive))
    listed = walk("list-keys")
    assert all(name in listed for name in ("rsa", "aes", "added", "imported", "archived"))
    assert "PUBLIC KEY" in walk("get-key", "rsa", "--public-key")
    assert "RSA" in walk("get-key", "rsa")
    walk("set-key-label", "rsa", "our label")
    assert "our label" in walk("get-key", "rsa")
    walk("delete-key-label", "rsa")
    walk("add-key-tag", "added", "berlin")
    assert "berlin" in walk("get-key", "added")
    walk("delete-key-tag", "added", "berlin")
    walk("move-key", "added", "moved")
    assert "moved" in walk("list-keys")
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(self_signed(private).public_bytes(serialization.Encoding.PEM))
    walk("set-certificate", "--key-id", "moved", str(certificate))
    assert certificate.read_text().strip() in walk("get-certificate", "--key-id", "moved")
    walk("delete-certificate", "-k", "moved")
    walk("get-certificate", "--key-id", "moved", ok=False)
    request = pem_of(walk("csr", *subject("key.example", "--key-id", "moved")), "CERTIFICATE REQUEST")
    assert x509.load_pem_x509_csr(request).is_signature_valid
    walk("delete-key", "archived")
    assert "archived" not in walk("list-keys")


def use_of_keys(walk):
    digest = hashes.Hash(hashes.SHA256())
    digest.update(b"message")
    digest = digest.finalize()
    public = serialization.load_pem_public_key(pem_of(walk("get-key", "rsa", "--public-key"), "PUBLIC KEY"))
    assert isinstance(public, rsa.RSAPublicKey)
    signature = base64.b64decode(last_line(walk("sign", "-k", "rsa", "-d", b64(digest), "-m", "PSS_SHA256", user="operator")))
    public.verify(signature, b"message", padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    secret = b64(public.encrypt(b"secret", padding.PKCS1v15()))
    assert b64(b"secret") in walk("decrypt", "-k", "rsa", "-d", secret, "-m", "PKCS1", user="operator")
    iv = b64(bytes(16))
    encrypted = walk("encrypt", "-k", "aes", "-d", b64(b"0123456789abcdef"), "-m", "AES_CBC", "-iv", iv, user="operator")
    found = re.search(r"[A-Za-z0-9+/]{22}==", encrypted)
    assert found, encrypted
    assert b64(b"0123456789abcdef") in walk("decrypt", "-k", "aes", "-d", found[0], "-m", "AES_CBC", "-iv", iv, user="operator")
    metrics = walk("metrics", user="metrics")
    assert "uptime" in metrics and "http response 200" in metrics


def configuration(walk, tmp_path):
    walk("set-logging-config", "-a", "127.0.0.1", "-p", "5514", "-l", "debug")
    walk("set-network-config", "-a", "127.0.0.1", "-n", "255.0.0.0", "-g", "0.0.0.0", "--ipv6-cidr", "::1/8",
         "--ipv6-gateway", "::1")
    walk("set-ntp-config", "-a", "192.0.2.123")
    walk("set-unattended-boot", "on")
    walk("set-unattended-boot", "off")
    everything = walk("get-config")
    for word in ("5514", "debug", "255.0.0.0", "192.0.2.123", "BEGIN CERTIFICATE", "BEGIN PUBLIC KEY"):
        assert word.lower() in everything.lower(), word
    walk("set-time", "2031-02-03T04:05:06+0000")
    assert "2031-02-03" in walk("get-config", "--time")
    walk("set-time")
    assert str(datetime.datetime.now(datetime.timezone.utc).year) in walk("get-config", "--time")

    # A certificate by an authority of our own, then a key of another type.
    authority = ec.generate_private_key(ec.SECP256R1())
    request = pem_of(walk("csr", *subject("localhost", "--api", "--san", "localhost", "--san", "IP:127.0.0.1")), "CERTIFICATE REQUEST")
    issued = sign_request(x509.load_pem_x509_csr(request), authority)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(issued.public_bytes(serialization.Encoding.PEM))
    walk("set-certificate", "--api", str(chain))
    assert chain.read_text().strip() in walk("get-certificate", "--api")
    anchor = tmp_path / "ca.pem"
    anchor.write_bytes(self_signed(authority, "authority").public_bytes(serialization.Encoding.PEM))
    url = f"https://{walk.device.host}/api/v1/info"
    subprocess.run(["curl", "--silent", "--fail", "--cacert", str(anchor), url], check=True, capture_output=True)
    walk("set-cluster-ca-certificate", str(anchor))
    assert "BEGIN CERTIFICATE" in walk("get-cluster-ca-certificate")
    # With a cluster CA, a self-signed certificate is refused.
    walk("generate-tls-key", "-t", "EC_P384", ok=False)

    walk("set-unlock-passphrase", "-n", "Next unlock passphrase", "-p", UNLOCK, "-f")
    walk("set-unlock-passphrase", "-n", UNLOCK, "-p", "Next unlock passphrase", "-f")


def backups(walk, tmp_path):
    device = walk.device
    walk("backup", str(tmp_path / "none.bin"), user="backup", ok=False)
    walk("set-backup-passphrase", "-n", BACKUP, "-f", stdin="\n")
    file = tmp_path / "backup.bin"
    walk("backup", str(file), user="backup")
    assert "BEGIN" not in file.read_bytes().decode(errors="replace")
    walk("validate-backup", str(file), user=None)
    walk("validate-backup", "-p", BACKUP, str(file), user=None)
    exported = json.loads(walk("export-backup", "-p", BACKUP, str(file), user=None))
    assert "/key/rsa" in exported and "/key/.ns1/inside" in exported and "/authentication/ns1~chief" in exported
    # The restore removes what was created after the backup, and brings back what was deleted.
    walk("generate-key", "-t", "EC_P256", "-l", "256", "-m", "ECDSA_Signature", "-k", "later")
    walk("delete-key", "rsa")
    walk("restore", "-p", BACKUP, str(file))
    assert "Operational" in walk("state", user=None)
    listed = walk("list-keys")
    assert "rsa" in listed and "later" not in listed
    walk("sign", "-k", "rsa", "-d", b64(bytes(32)), "-m", "PSS_SHA256", user="operator")
    # On a new device.
    with device.rebooting("Unprovisioned"):
        walk("factory-reset", stdin="y\n")
    walk("restore", "-p", "not the passphrase", "-f", str(file), user=None, ok=False)
    assert "Unprovisioned" in walk("state", user=None)
    walk("restore", "-p", BACKUP, str(file), user=None)
    assert "Locked" in walk("state", user=None)
    walk("unlock", UNLOCK, user=None)
    time.sleep(AFTER_A_FAILED_LOGIN)
    assert "rsa" in walk("list-keys")
    assert "inside" in walk("list-keys", user="ns1~chief", passphrase="Chief passphrase 1")


def updates(walk, vendor):
    walk("commit-update", ok=False)
    image = str(vendor.image("1.0", b"a new casemated"))
    assert "what is new" in walk("update", image).lower()
    walk("cancel-update")
    walk("update", image)
    with walk.device.rebooting("Locked"):
        walk("commit-update")
    assert vendor.installed() == "1.0"
    walk("unlock", UNLOCK, user=None)


def endings(walk):
    with walk.device.rebooting("Locked"):
        walk("reboot", stdin="y\n")
    walk("unlock", UNLOCK, user=None)
    walk("shutdown", stdin="y\n")
    assert walk.device.exit_code() == 0


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1].strip()


def pem_of(text: str, label: str) -> bytes:
    found = re.search(f"-----BEGIN {label}-----.*?-----END {label}-----", text, re.DOTALL)
    assert found, text
    return found[0].encode() + b"\n"


def subject(common_name: str, *more: str) -> list[str]:
    return ["--country", "DE", "--state-or-province", "Berlin", "--locality", "Berlin", "--organization", "Org",
            "--organizational-unit", "Unit", "--common-name", common_name, "--email-address", "a@example.com", *more]


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def issued(subject_name: x509.Name, public, issuer: x509.Name):
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(subject_name).issuer_name(issuer).public_key(public)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=30))


def self_signed(private, text: str = "authority"):
    builder = issued(name(text), private.public_key(), name(text))
    return builder.add_extension(x509.BasicConstraints(True, None), critical=True).sign(private, hashes.SHA256())


def sign_request(request, authority):
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    builder = issued(request.subject, request.public_key(), name("authority"))
    return builder.add_extension(names, critical=False).sign(authority, hashes.SHA256())
