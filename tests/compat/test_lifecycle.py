"""Provisioning, locking, restarting, unattended boot, shutdown, factory reset: what survives and what must not."""

import os
import stat
import subprocess
import time

import keytypes
import verify
from device import ADMIN, AFTER_A_FAILED_LOGIN, BINARY, UNLOCK, free_port, refused
from keytypes import b64, bytes_of
from nethsm import SignMode, State, UnattendedBootStatus

OTHER = "Another passphrase 1"


def add_keys(device):
    """A key of every type, with a tag, a label and a certificate on one: all of it must survive a restart. Returns the public PEMs by type."""
    pems = {}
    with device.sdk("admin") as admin:
        for type_ in keytypes.TYPES:
            admin.generate_key(keytypes.enum(type_), keytypes.mechanisms(type_), keytypes.LENGTHS[type_], type_)
            pems[type_] = admin.get_key_public_key(type_) if type_ != "Generic" else None
        admin.set_key_certificate("RSA", b"certificate")
        admin.set_key_label("RSA", "label")
        admin.add_key_tag("Generic", "nobody")
        admin.add_user("", keytypes.nethsm.Role.ADMINISTRATOR, OTHER, "chief", "ns1")
        admin.add_namespace("ns1")
    with device.sdk("ns1~chief", OTHER) as chief:
        chief.generate_key(keytypes.enum("EC_P256"), keytypes.mechanisms("EC_P256"), 256, "inside")
    return pems


def everything_is_there(device, pems):
    with device.sdk("admin") as admin, device.sdk("operator") as operator, device.sdk("ns1~chief", OTHER) as chief:
        assert admin.list_keys() == sorted(keytypes.TYPES)
        assert admin.list_users() == ["admin", "backup", "metrics", "ns1~chief", "operator"]
        assert chief.list_keys() == ["inside"]
        for type_, pem in pems.items():
            if type_ in keytypes.DIGEST:
                digest = os.urandom(keytypes.DIGEST[type_])
                verify.ecdsa(pem, bytes_of(operator.sign(type_, b64(digest), SignMode.ECDSA)), digest)
        signature = bytes_of(operator.sign("RSA", b64(bytes(32)), SignMode.PSS_SHA256))
        verify.pss(pems["RSA"], "SHA256", signature, bytes(32))
        signature = bytes_of(operator.sign("Curve25519", b64(b"x"), SignMode.EDDSA))
        verify.public_key(pems["Curve25519"]).verify(signature, b"x")
        assert (admin.get_key("RSA").label, admin.get_key_certificate("RSA")) == ("label", b"certificate")
        assert admin.get_key("Generic").tags == ["nobody"]


def test_nitropy_provisions_locks_and_unlocks(fresh):
    assert "Unprovisioned" in fresh.nitropy("state")
    fresh.nitropy("provision", "-u", UNLOCK, "-a", ADMIN)
    assert "Operational" in fresh.nitropy("state")
    fresh.nitropy("provision", "-u", UNLOCK, "-a", ADMIN, ok=False)
    fresh.nitropy("lock", user="admin")
    assert "Locked" in fresh.nitropy("state")
    fresh.nitropy("unlock", "not the passphrase", ok=False)
    time.sleep(AFTER_A_FAILED_LOGIN)
    fresh.nitropy("unlock", stdin=UNLOCK + "\n")
    assert "Operational" in fresh.nitropy("state")


def test_an_unprovisioned_device_serves_nothing_else(fresh):
    with fresh.sdk("admin") as admin, refused("precondition"):
        admin.list_users()
    assert fresh.request("GET", "/readyz")[0] == 503
    assert fresh.request("GET", "/api/v1/health/alive")[0] == 200


def test_a_locked_device_serves_nothing_else(own):
    with own.sdk("admin") as admin:
        admin.lock()
        with refused("precondition"):
            admin.list_keys()
    assert own.state() == "Locked"
    assert own.request("GET", "/livez")[0] == 200
    assert own.request("GET", "/readyz")[0] == 503
    with own.sdk() as anyone:
        with refused():
            anyone.unlock("wrong passphrase")
        with refused("too many requests"):
            anyone.unlock(UNLOCK)
        time.sleep(AFTER_A_FAILED_LOGIN)
        anyone.unlock(UNLOCK)
        assert anyone.get_state() == State.OPERATIONAL


def test_a_restart_keeps_everything_and_asks_for_the_passphrase(own):
    pems = add_keys(own)
    everything_is_there(own, pems)
    assert own.stop() == 0
    own.start()
    assert own.state() == "Locked"
    with own.sdk() as anyone:
        anyone.unlock(UNLOCK)
    everything_is_there(own, pems)


def test_a_power_cut_loses_nothing_that_was_answered(own):
    pems = add_keys(own)
    own.power_cut()
    own.start()
    with own.sdk() as anyone:
        anyone.unlock(UNLOCK)
    everything_is_there(own, pems)


def test_unattended_boot_comes_back_by_itself(own):
    pems = add_keys(own)
    own.nitropy("set-unattended-boot", "on", user="admin")
    assert "on" in own.nitropy("get-config", "--unattended-boot", user="admin")
    with own.rebooting("Operational"):
        own.nitropy("reboot", "--force", user="admin")
    everything_is_there(own, pems)
    with own.sdk("admin") as admin:
        admin.lock()
        assert own.state() == "Locked", "unattended boot is about booting"
        with own.sdk() as anyone:
            anyone.unlock(UNLOCK)
        admin.set_unattended_boot(UnattendedBootStatus.OFF)
        assert admin.get_config_unattended_boot() == "off"
        with own.rebooting("Locked"):
            admin.reboot()


def test_the_unlock_passphrase_changes(own):
    own.nitropy("set-unlock-passphrase", "-n", OTHER, "-p", UNLOCK, "-f", user="admin")
    with own.sdk("admin") as admin, own.sdk() as anyone:
        with refused("access denied"):
            admin.set_unlock_passphrase(OTHER, UNLOCK)
        admin.lock()
        with refused():
            anyone.unlock(UNLOCK)
        time.sleep(AFTER_A_FAILED_LOGIN)
        anyone.unlock(OTHER)
    assert own.stop() == 0
    own.start()
    with own.sdk() as anyone:
        anyone.unlock(OTHER)
    assert own.state() == "Operational"


def test_shutdown_ends_the_process_with_success(own):
    with own.sdk("operator") as operator, refused():
        operator.shutdown()
    own.nitropy("shutdown", "--force", user="admin")
    assert own.exit_code() == 0


def test_a_locked_device_can_be_shut_down_by_anyone(own):
    with own.sdk("admin") as admin:
        admin.lock()
    own.nitropy("shutdown", "--force")
    assert own.exit_code() == 0


def test_factory_reset_forgets_everything(own):
    add_keys(own)
    with own.rebooting("Unprovisioned"):
        own.nitropy("factory-reset", "--force", user="admin")
    with own.sdk("admin") as admin, refused("precondition"):
        admin.list_users()
    with own.sdk() as anyone:
        anyone.provision(OTHER, OTHER)
    with own.sdk("admin") as admin, refused("unauthorized"):
        admin.list_users()
    time.sleep(AFTER_A_FAILED_LOGIN)
    with own.sdk("admin", OTHER) as admin:
        assert (admin.list_users(), admin.list_keys(), admin.list_namespaces()) == (["admin"], [], [])
    own.nitropy("lock", user="admin", passphrase=OTHER)
    with own.sdk() as anyone, refused():
        anyone.unlock(UNLOCK)


def test_the_vendors_own_test_passes(fresh):
    """`nitropy nethsm test` provisions, creates keys, reads random bytes and resets."""
    said = fresh.nitropy("test", "--key-generations", "5")
    assert "Generated 5 RSA2048 keys" in said and "Generated 1024 bytes" in said
    fresh.wait_until(lambda: fresh.state() == "Unprovisioned", "factory reset")


def test_what_is_on_disk_is_private_and_sealed(own):
    """Only the owner reads the data folder, and neither it nor the log contains imported key bytes or passphrases."""
    secret = os.urandom(32)
    with own.sdk("admin") as admin:
        private = keytypes.nethsm.GenericPrivateKey(b64(secret))
        admin.add_key("known", keytypes.enum("Generic"), keytypes.mechanisms("Generic"), private)
    with own.sdk("operator") as operator:
        operator.encrypt("known", b64(bytes(16)), keytypes.nethsm.EncryptMode.AES_CBC)
    assert own.stop() == 0
    data = own.folder / "data"
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    files = [path for path in data.rglob("*") if path.is_file()]
    assert files
    needles = [secret, secret.hex().encode(), b64(secret).data.encode(), UNLOCK.encode(), ADMIN.encode()]
    for path in [*files, own.log]:
        assert path == own.log or stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        content = path.read_bytes()
        for needle in needles:
            assert needle not in content, path


def test_two_servers_cannot_share_a_data_folder(own):
    """The second one reports it and exits; the first one continues."""
    command = [BINARY, "--listen", f"127.0.0.1:{free_port()}", "--data-dir", str(own.folder / "data")]
    second = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert second.returncode not in (0, None) and (second.stderr + second.stdout).strip()
    assert own.state() == "Operational"


def test_a_taken_port_is_one_clear_sentence(own, tmp_path):
    command = [BINARY, "--listen", own.host, "--data-dir", str(tmp_path / "other")]
    second = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert second.returncode not in (0, None) and own.host in second.stderr + second.stdout
