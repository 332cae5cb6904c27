"""Every key type with its mechanisms, and keys of each type generated here, for import."""

import base64
import os
from dataclasses import dataclass

import nethsm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from nethsm import KeyMechanism, KeyType

RSA_DECRYPT = ("RAW", "PKCS1", "OAEP_MD5", "OAEP_SHA1", "OAEP_SHA224", "OAEP_SHA256", "OAEP_SHA384", "OAEP_SHA512")
RSA_SIGN = ("PKCS1", "PSS_MD5", "PSS_SHA1", "PSS_SHA224", "PSS_SHA256", "PSS_SHA384", "PSS_SHA512")

# Mechanisms in the order of replies.
MECHANISMS = {
    "RSA": [f"RSA_Decryption_{mode}" for mode in RSA_DECRYPT] + [f"RSA_Signature_{mode}" for mode in RSA_SIGN],
    "Curve25519": ["EdDSA_Signature"],
    "EC_P256": ["ECDSA_Signature"],
    "EC_P384": ["ECDSA_Signature"],
    "EC_P521": ["ECDSA_Signature"],
    "EC_P256K1": ["ECDSA_Signature", "BIP340_Signature"],
    "BrainpoolP256": ["ECDSA_Signature"],
    "BrainpoolP384": ["ECDSA_Signature"],
    "BrainpoolP512": ["ECDSA_Signature"],
    "Generic": ["AES_Encryption_CBC", "AES_Decryption_CBC"],
}
TYPES = list(MECHANISMS)
CURVES = {
    "EC_P256": ec.SECP256R1(),
    "EC_P384": ec.SECP384R1(),
    "EC_P521": ec.SECP521R1(),
    "EC_P256K1": ec.SECP256K1(),
    "BrainpoolP256": ec.BrainpoolP256R1(),
    "BrainpoolP384": ec.BrainpoolP384R1(),
    "BrainpoolP512": ec.BrainpoolP512R1(),
}
# Length of the digest that ECDSA signs, in bytes.
DIGEST = {
    "EC_P256": 32,
    "EC_P256K1": 32,
    "BrainpoolP256": 32,
    "EC_P384": 48,
    "BrainpoolP384": 48,
    "EC_P521": 64,
    "BrainpoolP512": 64,
}
# Bits to generate. Other types have a fixed length, but the SDK refuses to send less than 128.
LENGTHS = dict.fromkeys(TYPES, 256) | {"RSA": 2048}


def mechanisms(type_: str) -> list[KeyMechanism]:
    return [KeyMechanism.from_string(name) for name in MECHANISMS[type_]]


def b64(data: bytes) -> nethsm.Base64:
    return nethsm.Base64.encode(data)


def b64_number(number: int, size: int | None = None) -> nethsm.Base64:
    return b64(number.to_bytes(size or (number.bit_length() + 7) // 8, "big"))


@dataclass
class Foreign:
    """A key generated outside: its parts for the JSON import, its PEM, and its public key."""

    parts: nethsm.PrivateKey
    pem: str | None
    public_pem: str | None
    secret: bytes = b""


def make(type_: str) -> Foreign:
    if type_ == "Generic":
        secret = os.urandom(32)
        return Foreign(nethsm.GenericPrivateKey(b64(secret)), None, None, secret)
    if type_ == "RSA":
        key = rsa.generate_private_key(65537, 2048)
        numbers = key.private_numbers()
        parts = nethsm.RsaPrivateKey(b64_number(numbers.p), b64_number(numbers.q), b64_number(65537))
    elif type_ == "Curve25519":
        key = ed25519.Ed25519PrivateKey.generate()
        parts = nethsm.GenericPrivateKey(b64(key.private_bytes_raw()))
    else:
        curve = CURVES[type_]
        key = ec.generate_private_key(curve)
        scalar = key.private_numbers().private_value
        parts = nethsm.GenericPrivateKey(b64_number(scalar, (curve.key_size + 7) // 8))
    return Foreign(parts, private_pem(key), public_pem(key))


def private_pem(key, form=serialization.PrivateFormat.PKCS8) -> str:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def public_pem(key) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def bytes_of(value: nethsm.Base64) -> bytes:
    return base64.b64decode(value.data)


def enum(name: str) -> KeyType:
    return KeyType.from_string(name)
