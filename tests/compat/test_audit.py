"""The audit log, verified by the script in its documentation."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from device import UNLOCK

DOCUMENT = Path(__file__).parents[2] / "docs/operate/audit.md"


@pytest.fixture
def verifier(tmp_path):
    """The documented script, run on an export and a key: its exit code and output."""
    (script,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (tmp_path / "verify.py").write_text(script)

    def run(export: bytes, key: bytes):
        (tmp_path / "audit.jsonl").write_bytes(export)
        (tmp_path / "key.pem").write_bytes(key)
        command = [sys.executable, "verify.py", "audit.jsonl", "key.pem"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    return run


def fetch(device, path: str) -> bytes:
    status, _, body = device.request("GET", f"/api/v1{path}", user="admin")
    assert status == 200, body
    return body


def unlock(device) -> None:
    assert device.request("POST", "/api/v1/unlock", {"passphrase": UNLOCK})[0] == 204


def test_the_documented_verifier_agrees_with_the_device(own, verifier):
    for number in range(5):
        status, _, _ = own.request("PUT", f"/api/v1/namespaces/audited{number}", user="admin")
        assert status == 204
    assert own.request("GET", "/api/v1/audit", user="operator")[0] == 403
    export, key = fetch(own, "/audit"), fetch(own, "/audit/key.pem")
    code, said = verifier(export, key)
    assert code == 0, said
    lines = export.splitlines(keepends=True)
    assert f"records 1 to {len(lines) - 2} are good" in said

    records = [json.loads(line) for line in lines]
    created = [record for record in records if record.get("target") == "/namespaces/audited0"]
    assert [record["kind"] for record in created] == ["intent", "outcome"]
    assert {record["user"] for record in created} == {"admin"}
    assert created[1]["of"] == created[0]["sequence"]
    assert any(record.get("reason") == "forbidden" and record.get("user") == "operator" for record in records)

    altered = export.replace(b"audited3", b"audited4")
    removed = b"".join(lines[:3] + lines[4:])
    swapped = b"".join(lines[:3] + [lines[4], lines[3]] + lines[5:])
    cut = b"".join(lines[:-1])
    for bad in (altered, removed, swapped, cut):
        code, said = verifier(bad, key)
        assert code != 0, said

    middle = fetch(own, "/audit?from=3&to=6")
    code, said = verifier(middle, key)
    assert code == 0 and "records 3 to 6 are good" in said, said


def test_the_chain_goes_on_behind_a_restart_and_a_power_cut(own, verifier):
    key = fetch(own, "/audit/key.pem")
    own.stop()
    own.start()
    unlock(own)
    own.power_cut()
    own.start()
    unlock(own)
    export = fetch(own, "/audit")
    code, said = verifier(export, key)
    assert code == 0, said
    kinds = [json.loads(line).get("kind") for line in export.splitlines()]
    assert kinds.count("boot") == 3 and kinds.count("stop") == 1
    assert kinds[kinds.index("stop") + 1] == "boot"
