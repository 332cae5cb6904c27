"""Independent verification of signatures, by code that neither made them nor holds the key.

`cryptography` (its own OpenSSL) where it can; the `openssl` command where it cannot; and, for what neither offers,
arithmetic from the specification.
"""

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils

HASHES = ("MD5", "SHA1", "SHA224", "SHA256", "SHA384", "SHA512")
# Hash by length of the digest in the API, for `Prehashed`.
BY_SIZE = {32: hashes.SHA256(), 48: hashes.SHA384(), 64: hashes.SHA512()}


def public_key(pem: str):
    return serialization.load_pem_public_key(pem.encode())


def hash_named(name: str) -> hashes.HashAlgorithm:
    return getattr(hashes, name)()


def digest(name: str, message: bytes) -> bytes:
    return hashlib.new(name.lower(), message).digest()


def ecdsa(pem: str, signature: bytes, prehashed: bytes) -> None:
    public_key(pem).verify(signature, prehashed, ec.ECDSA(utils.Prehashed(BY_SIZE[len(prehashed)])))


def ecdsa_by_openssl(pem: str, signature: bytes, prehashed: bytes) -> None:
    """`openssl pkeyutl`: a second implementation for the rarer curves."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "key").write_text(pem)
        (folder / "signature").write_bytes(signature)
        (folder / "digest").write_bytes(prehashed)
        openssl(
            "pkeyutl", "-verify", "-pubin", "-inkey", folder / "key", "-sigfile", folder / "signature", "-in", folder / "digest"
        )


def pss(pem: str, name: str, signature: bytes, prehashed: bytes) -> None:
    hash_ = hash_named(name)
    scheme = padding.PSS(padding.MGF1(hash_), hash_.digest_size)
    public_key(pem).verify(signature, prehashed, scheme, utils.Prehashed(hash_))


def pkcs1_padded(pem: str, signature: bytes, message: bytes) -> None:
    """RFC 8017 §9.2 without DigestInfo: 00 01 FF … FF 00 and the unchanged message."""
    numbers = public_key(pem).public_numbers()
    size = (numbers.n.bit_length() + 7) // 8
    assert len(signature) == size
    opened = pow(int.from_bytes(signature, "big"), numbers.e, numbers.n).to_bytes(size, "big")
    assert opened == b"\x00\x01" + b"\xff" * (size - 3 - len(message)) + b"\x00" + message


def rsa_encrypt(pem: str, mode: str, message: bytes) -> bytes:
    """Encrypts for the decrypt mode of that name."""
    key = public_key(pem)
    if mode == "RAW":
        numbers = key.public_numbers()
        size = (numbers.n.bit_length() + 7) // 8
        return pow(int.from_bytes(message, "big"), numbers.e, numbers.n).to_bytes(size, "big")
    if mode == "PKCS1":
        return key.encrypt(message, padding.PKCS1v15())
    name = mode.removeprefix("OAEP_")
    if name == "MD5":
        return oaep_by_openssl(pem, "md5", message)
    hash_ = hash_named(name)
    return key.encrypt(message, padding.OAEP(padding.MGF1(hash_), hash_, None))


def oaep_by_openssl(pem: str, name: str, message: bytes) -> bytes:
    """`cryptography` refuses OAEP with MD5, the `openssl` command supports it."""
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "key"
        key.write_text(pem)
        options = ("rsa_padding_mode:oaep", f"rsa_oaep_md:{name}", f"rsa_mgf1_md:{name}")
        pkeyopts = [word for option in options for word in ("-pkeyopt", option)]
        return openssl("pkeyutl", "-encrypt", "-pubin", "-inkey", key, *pkeyopts, stdin=message)


def openssl(*args, stdin: bytes = b"") -> bytes:
    done = subprocess.run(["openssl", *map(str, args)], input=stdin, capture_output=True, timeout=30)
    assert done.returncode == 0, f"openssl {args[0]}: {(done.stdout + done.stderr).decode(errors='replace')}"
    return done.stdout


# BIP-340, "Verification", over secp256k1 (SEC 2 §2.4.1). Slow and simple: it only verifies.

P = 2**256 - 2**32 - 977
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
G = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)


def _add(a, b):
    if a is None or b is None:
        return a or b
    if a[0] == b[0] and (a[1] + b[1]) % P == 0:
        return None
    if a == b:
        slope = 3 * a[0] * a[0] * pow(2 * a[1], -1, P) % P
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, P) % P
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def _multiply(point, factor):
    result = None
    while factor:
        if factor & 1:
            result = _add(result, point)
        point = _add(point, point)
        factor >>= 1
    return result


def _tagged_hash(tag: str, message: bytes) -> bytes:
    prefix = hashlib.sha256(tag.encode()).digest()
    return hashlib.sha256(prefix + prefix + message).digest()


def bip340_holds(x_only: bytes, signature: bytes, message: bytes) -> bool:
    x, r, s = (int.from_bytes(part, "big") for part in (x_only, signature[:32], signature[32:]))
    square = (pow(x, 3, P) + 7) % P
    y = pow(square, (P + 1) // 4, P)
    if len(signature) != 64 or x >= P or r >= P or s >= N or y * y % P != square:
        return False
    even = (x, y if y % 2 == 0 else P - y)
    challenge = int.from_bytes(_tagged_hash("BIP0340/challenge", signature[:32] + x_only + message), "big") % N
    point = _add(_multiply(G, s), _multiply(even, N - challenge))
    return point is not None and point[1] % 2 == 0 and point[0] == r


def bip340(pem: str, signature: bytes, message: bytes) -> None:
    x_only = public_key(pem).public_numbers().x.to_bytes(32, "big")
    if not bip340_holds(x_only, signature, message):
        raise InvalidSignature("BIP-340")


def random_bytes(n: int) -> bytes:
    return os.urandom(n)
