"""Every mode of every key type, used through the SDK and verified by an independent implementation."""

import base64
import hashlib
import json
import os

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from nethsm import DecryptMode, EncryptMode, SignMode

import keytypes
import verify
from device import refused
from keytypes import DIGEST, LENGTHS, RSA_DECRYPT, RSA_SIGN, b64, bytes_of

# DER of DigestInfo{SHA-256} in front of the digest (RFC 8017 §9.2 note 1): the caller supplies it.
SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")


@pytest.fixture(scope="module")
def keys(shared):
    """A generated key `gen-<type>` of every type, its public PEM by type."""
    pems = {}
    with shared.sdk("admin") as admin:
        for type_, mechanisms in keytypes.MECHANISMS.items():
            key_id = f"gen-{type_}"
            made = admin.generate_key(keytypes.enum(type_), keytypes.mechanisms(type_), LENGTHS[type_], key_id)
            assert made == key_id
            pems[type_] = admin.get_key_public_key(key_id) if type_ != "Generic" else None
    return pems


@pytest.fixture
def operator(shared, keys):
    with shared.sdk("operator") as client:
        yield client


def sign(operator, type_, mode, data):
    return bytes_of(operator.sign(f"gen-{type_}", b64(data), SignMode.from_string(mode)))


def sign_nothing(shared, type_, mode):
    """The empty message, which the SDK refuses to send."""
    body = {"mode": mode, "message": ""}
    status, _, reply = shared.request("POST", f"/api/v1/keys/gen-{type_}/sign", body, "operator")
    assert status == 200, reply
    return base64.b64decode(json.loads(reply)["signature"])


@pytest.mark.parametrize("type_", DIGEST)
def test_ecdsa(operator, keys, type_):
    digest = os.urandom(DIGEST[type_])
    signature = sign(operator, type_, "ECDSA", digest)
    verify.ecdsa(keys[type_], signature, digest)
    verify.ecdsa_by_openssl(keys[type_], signature, digest)
    with pytest.raises(InvalidSignature):
        verify.ecdsa(keys[type_], signature, digest[:-1] + bytes([digest[-1] ^ 1]))
    for wrong in (DIGEST[type_] - 1, DIGEST[type_] + 1, 20):
        with refused():
            sign(operator, type_, "ECDSA", os.urandom(wrong))


def test_eddsa_takes_messages_of_any_length(shared, operator, keys):
    verify.public_key(keys["Curve25519"]).verify(sign_nothing(shared, "Curve25519", "EdDSA"), b"")
    for size in (1, 32, 100_000):
        message = os.urandom(size)
        signature = sign(operator, "Curve25519", "EdDSA", message)
        verify.public_key(keys["Curve25519"]).verify(signature, message)
        assert signature == sign(operator, "Curve25519", "EdDSA", message), "RFC 8032 is deterministic"


def test_bip340(shared, operator, keys):
    verify.bip340(keys["EC_P256K1"], sign_nothing(shared, "EC_P256K1", "BIP340"), b"")
    for size in (32, 1, 100):
        message = os.urandom(size)
        verify.bip340(keys["EC_P256K1"], sign(operator, "EC_P256K1", "BIP340", message), message)


@pytest.mark.parametrize("mode", [mode for mode in RSA_SIGN if mode != "PKCS1"])
def test_rsa_pss(operator, keys, mode):
    name = mode.removeprefix("PSS_")
    digest = verify.digest(name, b"hello")
    verify.pss(keys["RSA"], name, sign(operator, "RSA", mode, digest), digest)
    with refused():
        sign(operator, "RSA", mode, digest[:-1])


def test_rsa_pkcs1_signs_what_it_is_given(shared, operator, keys):
    verify.pkcs1_padded(keys["RSA"], sign_nothing(shared, "RSA", "PKCS1"), b"")
    for message in (b"20 bytes, no DigestI", os.urandom(256 - 11)):
        verify.pkcs1_padded(keys["RSA"], sign(operator, "RSA", "PKCS1", message), message)
    signature = sign(operator, "RSA", "PKCS1", SHA256_INFO + hashlib.sha256(b"hello").digest())
    verify.public_key(keys["RSA"]).verify(signature, b"hello", padding.PKCS1v15(), verify.hash_named("SHA256"))
    with refused():
        sign(operator, "RSA", "PKCS1", os.urandom(256 - 10))


@pytest.mark.parametrize("mode", RSA_DECRYPT)
def test_rsa_decrypt(operator, keys, mode):
    message = b"attack at dawn"
    encrypted = verify.rsa_encrypt(keys["RSA"], mode, message)
    opened = bytes_of(operator.decrypt("gen-RSA", b64(encrypted), DecryptMode.from_string(mode)))
    assert opened == (message.rjust(256, b"\0") if mode == "RAW" else message)
    if mode != "RAW":
        with refused():
            operator.decrypt("gen-RSA", b64(encrypted[:-1] + bytes([encrypted[-1] ^ 1])), DecryptMode.from_string(mode))
        with refused():
            operator.decrypt("gen-RSA", b64(encrypted[1:]), DecryptMode.from_string(mode))


@pytest.mark.parametrize("bits", [128, 192, 256])
def test_aes_cbc(shared, operator, bits):
    """Imported, so that the key is known here and another AES implementation can check both directions."""
    secret = os.urandom(bits // 8)
    key_id = f"aes-{bits}"
    with shared.sdk("admin") as admin:
        private = keytypes.nethsm.GenericPrivateKey(b64(secret))
        admin.add_key(key_id, keytypes.enum("Generic"), keytypes.mechanisms("Generic"), private)
    message, iv = os.urandom(48), os.urandom(16)
    given = operator.encrypt(key_id, b64(message), EncryptMode.AES_CBC, b64(iv))
    chosen = operator.encrypt(key_id, b64(message), EncryptMode.AES_CBC)
    assert bytes_of(given.iv) == iv and bytes_of(chosen.iv) != iv
    for result in (given, chosen):
        cipher = Cipher(algorithms.AES(secret), modes.CBC(bytes_of(result.iv))).decryptor()
        assert cipher.update(bytes_of(result.encrypted)) + cipher.finalize() == message
        opened = operator.decrypt(key_id, result.encrypted, DecryptMode.AES_CBC, result.iv)
        assert bytes_of(opened) == message, "no padding is added or removed"
    with refused():
        operator.encrypt(key_id, b64(message[:15]), EncryptMode.AES_CBC)
    with refused():
        operator.decrypt(key_id, given.encrypted, DecryptMode.AES_CBC)


def test_a_generated_generic_key_encrypts_and_decrypts(operator, keys):
    message = os.urandom(32)
    result = operator.encrypt("gen-Generic", b64(message), EncryptMode.AES_CBC)
    assert bytes_of(operator.decrypt("gen-Generic", result.encrypted, DecryptMode.AES_CBC, result.iv)) == message


def test_pkcs11_finds_the_words_it_looks_for(shared, keys):
    """The vendor's PKCS#11 module recognises a wrong length by this text."""
    body = {"mode": "AES_CBC", "message": "AAAA"}
    status, headers, reply = shared.request("POST", "/api/v1/keys/gen-Generic/encrypt", body, "operator")
    assert (status, headers["Content-Type"]) == (400, "application/json")
    assert b"argument length" in reply


def test_use_is_counted_and_only_success_counts(shared, operator, keys):
    with shared.sdk("admin") as admin:
        admin.generate_key(keytypes.enum("EC_P256"), keytypes.mechanisms("EC_P256"), 256, "counted")
        for _ in range(3):
            operator.sign("counted", b64(bytes(32)), SignMode.ECDSA)
        with refused():
            operator.sign("counted", b64(bytes(31)), SignMode.ECDSA)
        assert admin.get_key("counted").operations == 3


def test_a_key_does_only_what_its_mechanisms_say(shared, operator, keys):
    with shared.sdk("admin") as admin:
        only = [keytypes.KeyMechanism.RSA_SIGNATURE_PSS_SHA256]
        admin.generate_key(keytypes.enum("RSA"), only, 2048, "narrow")
    digest = bytes(32)
    verify_pem = operator.get_key_public_key("narrow")
    verify.pss(verify_pem, "SHA256", bytes_of(operator.sign("narrow", b64(digest), SignMode.PSS_SHA256)), digest)
    with refused():
        operator.sign("narrow", b64(digest), SignMode.PKCS1)
    with refused():
        operator.decrypt("narrow", b64(bytes(255) + b"\x05"), DecryptMode.RAW)


def test_nitropy_signs_decrypts_and_encrypts(shared, keys):
    """The command line, once for each operation; the modes are tested through the SDK above."""
    digest = hashlib.sha256(b"hello").digest()
    args = ("--key-id", "gen-EC_P256", "--data", b64(digest).data, "--mode", "ecdsa")
    said = shared.nitropy("sign", *args, user="operator").splitlines()[-1]
    verify.ecdsa(keys["EC_P256"], bytes_of(keytypes.nethsm.Base64(said)), digest)

    encrypted = verify.rsa_encrypt(keys["RSA"], "OAEP_SHA256", b"attack at dawn")
    args = ("--key-id", "gen-RSA", "--data", b64(encrypted).data, "--mode", "oaep_sha256")
    said = shared.nitropy("decrypt", *args, user="operator").splitlines()[-1]
    assert bytes_of(keytypes.nethsm.Base64(said)) == b"attack at dawn"

    args = ("--key-id", "gen-Generic", "--data", b64(bytes(16)).data, "--mode", "aes_cbc")
    assert "Encrypted" in shared.nitropy("encrypt", *args, user="operator")


def test_random(shared):
    with shared.sdk("operator") as operator:
        drawn = {bytes_of(operator.get_random_data(n)) for n in (1, 32, 32, 1024)}
        assert sorted(map(len, drawn)) == [1, 32, 32, 1024]
    for n in (0, 1025):
        assert shared.request("POST", "/api/v1/random", {"length": n}, "operator")[0] == 400
    assert len(shared.nitropy("random", "24", user="operator").split()[-1]) == 32
