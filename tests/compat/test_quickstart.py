"""The quick start, with nothing but curl and OpenSSL: provision, operator, key, signature, verification."""

import base64
import hashlib
import json
import subprocess

import pytest

import verify
from device import PASSPHRASES


def curl(device, method, path, body=None, user=None, *options):
    command = ["curl", "--silent", "--show-error", "--insecure", "--fail-with-body", "--request", method]
    if user:
        command += ["--user", user]
    if body is not None:
        command += ["--header", "Content-Type: application/json", "--data", json.dumps(body)]
    done = subprocess.run([*command, *options, f"https://{device.host}/api/v1{path}"], capture_output=True, timeout=30)
    assert done.returncode == 0, f"{method} {path}: {(done.stdout + done.stderr).decode()}"
    return done.stdout


def test_quick_start(fresh, tmp_path):
    assert json.loads(curl(fresh, "GET", "/health/state")) == {"state": "Unprovisioned"}
    passphrases = {"unlockPassphrase": "correct horse", "adminPassphrase": "battery staple"}
    curl(fresh, "POST", "/provision", passphrases | {"systemTime": "2026-01-01T00:00:00Z"})
    assert json.loads(curl(fresh, "GET", "/health/state")) == {"state": "Operational"}

    admin, operator = "admin:battery staple", "signer:troubadour 3"
    curl(fresh, "PUT", "/users/signer", {"realName": "", "role": "Operator", "passphrase": "troubadour 3"}, admin)
    key = {"id": "first", "type": "EC_P256", "mechanisms": ["ECDSA_Signature"]}
    assert json.loads(curl(fresh, "POST", "/keys/generate", key, admin)) == {"id": "first"}

    message = b"hello, world"
    digest = base64.b64encode(hashlib.sha256(message).digest()).decode()
    reply = json.loads(curl(fresh, "POST", "/keys/first/sign", {"mode": "ECDSA", "message": digest}, operator))
    files = {
        "key": curl(fresh, "GET", "/keys/first/public.pem", None, operator),
        "signature": base64.b64decode(reply["signature"]),
        "message": message,
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    said = verify.openssl(
        "dgst", "-sha256", "-verify", tmp_path / "key", "-signature", tmp_path / "signature", tmp_path / "message"
    )
    assert said.strip() == b"Verified OK"


def test_http2_and_http1_both_work(own):
    for option in ("--http1.1", "--http2"):
        assert json.loads(curl(own, "GET", "/info", None, None, option))["product"]


def test_probes_need_no_credentials(own):
    assert own.request("GET", "/livez")[0] == 200
    assert own.request("GET", "/readyz")[0] == 200
    assert own.request("GET", "/api/v1/health/ready")[0] == 200
    assert own.request("GET", "/api/v1/health/alive")[0] == 412


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_a_body_that_is_too_large_is_refused_for_who_sends_it_then_for_its_size(own, tmp_path, version):
    """Answered from the head of the request: the client gets the reason, although it was still sending."""
    (tmp_path / "body").write_bytes(b" " * ((1 << 20) + 1))
    for user, expected in ((None, "401"), (f"admin:{PASSPHRASES['admin']}", "413")):
        command = ["curl", "--silent", "--insecure", version, "--header", "Content-Type: application/json", "--header", "Expect:"]
        command += ["--data-binary", f"@{tmp_path}/body", "--write-out", "%{http_code}", *(["--user", user] if user else [])]
        done = subprocess.run([*command, f"https://{own.host}/api/v1/keys/generate"], capture_output=True, text=True, timeout=30)
        assert done.stdout == expected, f"curl ended with {done.returncode}"
