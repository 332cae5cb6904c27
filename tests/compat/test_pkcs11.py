"""The PKCS#11 module with python-pkcs11, and the same program with SoftHSM2."""

import os
import subprocess
import sys
from pathlib import Path

from device import ADMIN, PASSPHRASES

PROGRAM = Path(__file__).with_name("pkcs11_program.py")
SOFTHSM = next(Path("/usr/lib").glob("**/libsofthsm2.so"), None)


def run(environment, *arguments):
    """Runs the program in a process of its own: a process initialises a module once."""
    command = [sys.executable, "-B", str(PROGRAM), *arguments]
    ran = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines() == ["rsa ok", "ec ok", "aes ok", "names ok"]


def test_a_program_of_python_uses_the_module(own, tmp_path):
    config = tmp_path / "pkcs11.toml"
    config.write_text(
        f"""
        [[slot]]
        label = "test"
        hosts = ["{own.host}"]
        insecure = true
        operator = {{ user = "operator" }}
        administrator = {{ user = "admin", passphrase = "{ADMIN}" }}
        """
    )
    module = os.environ.get("CASEMATE_PKCS11_MODULE")
    assert module, "run `cargo xtask compat`, or set CASEMATE_PKCS11_MODULE to the module"
    run({"CASEMATE_PKCS11_CONFIG": str(config)}, module, "test", PASSPHRASES["operator"])


def test_the_same_program_runs_with_softhsm(tmp_path):
    assert SOFTHSM, "SoftHSM2 is missing (Debian: softhsm2)"
    (tmp_path / "tokens").mkdir()
    config = tmp_path / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {tmp_path}/tokens\n")
    environment = {"SOFTHSM2_CONF": str(config)}
    command = ["softhsm2-util", "--init-token", "--free", "--label", "test", "--so-pin", "12345678", "--pin", "12345678"]
    subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True)
    run(environment, str(SOFTHSM), "test", "12345678")
