"""The OpenAPI document of the server, and requests generated from it."""

import json
import os
import os
import subprocess
import sys
from pathlib import Path

import pytest

from device import PASSPHRASES
from keytypes import LENGTHS, MECHANISMS, enum, mechanisms

# They leave the state that the run needs.
NOT_CALLED = "/(system/(reboot|shutdown|factory-reset)|lock|provision|unlock)$"
# A fixed seed makes runs repeatable; `SEED=… cargo xtask compat -k openapi` tries another.
SEED = os.environ.get("SEED", "1")
CONFIG = Path(__file__).with_name("schemathesis.toml")


def document(device):
    status, headers, body = device.request("GET", "/openapi.json")
    assert status == 200 and headers["Content-Type"] == "application/json"
    return json.loads(body)


def test_the_document_describes_the_api(fresh):
    """Before there are users."""
    api = document(fresh)
    assert api["openapi"].startswith("3.")
    paths = "\n".join(api["paths"])
    for part in ("/provision", "/unlock", "/users", "/namespaces", "/keys/generate", "/sign", "/health/state", "/metrics"):
        assert part in paths, part
    for operations in api["paths"].values():
        for method, operation in operations.items():
            if method in ("get", "put", "post", "delete"):
                assert operation["x-annotation-state"] and operation["x-annotation-role"]


def throw(device, *options, cases):
    """Runs schemathesis; a server error fails the test."""
    command = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(CONFIG), "run"]
    command += [f"https://{device.host}/openapi.json", "--tls-verify", "false", "--seed", SEED, "--max-examples", str(cases)]
    command += ["--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing", "--no-shrink"]
    command += ["--exclude-path-regex", NOT_CALLED, "--request-timeout", "20", "--suppress-health-check", "all", *options]
    hooks = {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(Path(__file__).parent)}
    environment = os.environ | hooks
    done = subprocess.run(command, cwd=device.folder, env=environment, capture_output=True, text=True, timeout=300)
    (device.folder / "schemathesis.txt").write_text(done.stdout)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_no_server_error_before_provisioning(fresh):
    throw(fresh, cases=3)
    assert fresh.state() == "Unprovisioned"


# Few endpoints are reachable without credentials, so fewer cases suffice.
@pytest.mark.parametrize("user, cases", [(None, 3), ("admin", 25), ("operator", 15)])
def test_no_server_error_when_operational(own, user, cases):
    with own.sdk("admin") as admin:
        for type_ in MECHANISMS:
            admin.generate_key(enum(type_), mechanisms(type_), LENGTHS[type_], type_)
    _, _, before = own.request("GET", "/api/v1/health/state")
    options = ["--auth", f"{user}:{PASSPHRASES[user]}"] if user else []
    throw(own, *options, cases=cases)
    assert own.request("GET", "/api/v1/health/state")[2] == before
