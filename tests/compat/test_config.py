"""Configuration of the device: TLS with OpenSSL and curl, the rest with the SDK and nitropy."""

import datetime
import json
import subprocess

import nethsm
import pytest

import verify
from device import PASSPHRASES, refused

TLS_TYPES = [("RSA", 2048), ("Curve25519", None), ("EC_P256", None), ("EC_P384", None), ("EC_P521", None)]
SUBJECT = {"commonName": "hsm.example", "subjectAltNames": ["hsm.example", "IP:127.0.0.1"]}


def call(device, method, path, body=None, headers=None, expected=200):
    status, reply_headers, content = device.request(method, f"/api/v1/config{path}", body, "admin", headers)
    assert status == expected, (method, path, content)
    return reply_headers, content


def install(device, pem: bytes):
    headers, _ = call(device, "PUT", "/tls/cert.pem", pem, {"Content-Type": "application/x-pem-file"}, 201)
    assert headers["Location"] == "/api/v1/config/tls/cert.pem"


def curl(device, ca):
    """Requests the state, trusting only `ca`."""
    command = ["curl", "--silent", "--show-error", "--cacert", ca, f"https://{device.host}/api/v1/health/state"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A certificate authority made by OpenSSL, with an intermediate."""
    folder = tmp_path_factory.mktemp("ca")
    for name in ("root", "middle"):
        verify.openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", folder / f"{name}.key")
    verify.openssl(
        "req", "-x509", "-new", "-key", folder / "root.key", "-subj", "/CN=Root", "-days", "3650", "-out", folder / "root.pem"
    )
    verify.openssl("req", "-new", "-key", folder / "middle.key", "-subj", "/CN=Middle", "-out", folder / "middle.csr")
    (folder / "ca.ext").write_text("basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n")
    (folder / "leaf.ext").write_text("subjectAltName=DNS:hsm.example,IP:127.0.0.1\n")
    sign(folder, "root", "middle", "ca.ext")
    return folder


def sign(folder, issuer, name, extensions):
    verify.openssl(
        "x509", "-req", "-in", folder / f"{name}.csr", "-CA", folder / f"{issuer}.pem", "-CAkey", folder / f"{issuer}.key",
        "-set_serial", "7", "-days", "365", "-extfile", folder / extensions, "-out", folder / f"{name}.pem",
    )


@pytest.mark.parametrize("type_, length", TLS_TYPES)
def test_a_key_of_every_type_gets_a_certificate(shared, authority, type_, length):
    call(shared, "POST", "/tls/generate", {"type": type_} | ({"length": length} if length else {}), expected=204)
    _, own = call(shared, "GET", "/tls/cert.pem")
    (authority / "own.pem").write_bytes(own)
    done = curl(shared, authority / "own.pem")
    assert done.returncode == 0 and json.loads(done.stdout) == {"state": "Operational"}, done

    # The HSM checks validity by its own clock, and the certificate signed below is valid from this second on.
    soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=1)
    call(shared, "PUT", "/time", {"time": soon.isoformat()}, expected=204)
    _, request = call(shared, "POST", "/tls/csr.pem", SUBJECT)
    (authority / "leaf.csr").write_bytes(request)
    said = subprocess.run(
        ["openssl", "req", "-verify", "-noout", "-in", authority / "leaf.csr"], capture_output=True, text=True, timeout=30
    )
    assert said.returncode == 0 and "OK" in said.stderr + said.stdout, said
    sign(authority, "middle", "leaf", "leaf.ext")
    install(shared, (authority / "leaf.pem").read_bytes() + (authority / "middle.pem").read_bytes())
    done = curl(shared, authority / "root.pem")
    assert done.returncode == 0 and json.loads(done.stdout) == {"state": "Operational"}, done
    assert curl(shared, authority / "own.pem").returncode != 0, "the certificate before is gone"


@pytest.mark.parametrize("type_", ["BrainpoolP256", "BrainpoolP384", "BrainpoolP512", "EC_P256K1", "Generic"])
def test_keys_that_cannot_be_served_are_refused(shared, type_):
    before = call(shared, "GET", "/tls/cert.pem")[1]
    call(shared, "POST", "/tls/generate", {"type": type_}, expected=400)
    assert call(shared, "GET", "/tls/cert.pem")[1] == before


def test_the_sdk_configures_the_rest(own):
    with own.sdk("admin") as admin:
        admin.set_logging_config("192.0.2.9", 514, nethsm.LogLevel.WARNING)
        logging = admin.get_config_logging()
        assert (logging.ip_address, logging.port, logging.log_level) == ("192.0.2.9", 514, nethsm.LogLevel.WARNING)
        admin.set_network_config("127.0.0.81", "255.0.0.0", "0.0.0.0")
        assert admin.get_config_network().ip_address == "127.0.0.81"
        admin.set_ntp_config("192.0.2.3", "nts.example.com")
        ntp = admin.get_config_ntp()
        assert (ntp.ntp_ip, ntp.nts_name) == ("192.0.2.3", "nts.example.com")
        time = datetime.datetime(2031, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
        admin.set_time(time)
        assert str(admin.get_config_time()).startswith("2031-01-02")
        with refused():
            admin.set_network_config("127.0.0.81", "255.0.255.0", "0.0.0.0")
    assert own.request("GET", "/api/v1/config/network", user="operator")[0] == 403
