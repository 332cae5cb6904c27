"""Tests of `verify.py`: its own verification code must accept published vectors and nothing else."""

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

import verify


def test_bip340_accepts_the_published_vectors_and_refuses_a_changed_one():
    # bip-0340/test-vectors.csv, rows 0 and 1.
    vectors = [
        (
            "F9308A019258C31049344F85F89D5229B531C845836F99B08601F113BCE036F9",
            "00" * 32,
            "E907831F80848D1069A5371B402410364BDF1C5F8307B0084C55F1CE2DCA8215"
            "25F66A4A85EA8B71E482A74F382D2CE5EBEEE8FDB2172F477DF4900D310536C0",
        ),
        (
            "DFF1D77F2A671C5F36183726DB2341BE58FEAE1DA2DECED843240F7B502BA659",
            "243F6A8885A308D313198A2E03707344A4093822299F31D0082EFA98EC4E6C89",
            "6896BD60EEAE296DB48A229FF71DFE071BDE413E6D43F917DC8DCF8C78DE3341"
            "8906D11AC976ABCCB20B091292BFF4EA897EFCB639EA871CFA95F6DE339E4B0A",
        ),
    ]
    for key, message, signature in (map(bytes.fromhex, vector) for vector in vectors):
        assert verify.bip340_holds(key, signature, message)
        assert not verify.bip340_holds(key, signature, message[:-1] + bytes([message[-1] ^ 1]))
        assert not verify.bip340_holds(key, signature[:-1] + bytes([signature[-1] ^ 1]), message)


def test_oaep_by_openssl_is_oaep():
    key = rsa.generate_private_key(65537, 2048)
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    pem = key.public_key().public_bytes(encoding, form).decode()
    hash_ = verify.hash_named("SHA256")
    scheme = verify.padding.OAEP(verify.padding.MGF1(hash_), hash_, None)
    assert key.decrypt(verify.oaep_by_openssl(pem, "sha256", b"hello"), scheme) == b"hello"
