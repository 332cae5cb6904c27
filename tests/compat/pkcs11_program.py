"""A program with python-pkcs11 as people write it: generates, uses, finds, renames and deletes keys.

Arguments: the module, the label of the token, the PIN. It needs nothing that only one module has, so that it runs with
SoftHSM2, too: a failure with both is not ours.
"""

import hashlib
import sys

import pkcs11
from pkcs11 import MGF, Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.util.ec import encode_named_curve_parameters


def rsa(session):
    public, private = session.generate_keypair(KeyType.RSA, 2048, store=True, id=b"\x01\xff", label="rsa")
    assert public.key_length == 2048 and private.id == b"\x01\xff"
    pss = (Mechanism.SHA256, MGF.SHA256, 32)
    for mechanism, param in [(Mechanism.SHA256_RSA_PKCS, None), (Mechanism.SHA256_RSA_PKCS_PSS, pss)]:
        signature = private.sign(b"data", mechanism=mechanism, mechanism_param=param)
        assert public.verify(b"data", signature, mechanism=mechanism, mechanism_param=param)
        assert not public.verify(b"date", signature, mechanism=mechanism, mechanism_param=param)
    oaep = {"mechanism": Mechanism.RSA_PKCS_OAEP, "mechanism_param": (Mechanism.SHA_1, MGF.SHA1, None)}
    assert private.decrypt(public.encrypt(b"secret", **oaep), **oaep) == b"secret"


def ec(session):
    curve = {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
    parameters = session.create_domain_parameters(KeyType.EC, curve, local=True)
    flags = MechanismFlag.SIGN | MechanismFlag.VERIFY
    public, private = parameters.generate_keypair(store=True, label="ec", capabilities=flags)
    digest = hashlib.sha256(b"data").digest()
    signature = private.sign(digest, mechanism=Mechanism.ECDSA)
    assert public.verify(digest, signature, mechanism=Mechanism.ECDSA)


def aes(session):
    iv = session.generate_random(128)
    for store in [True, False]:
        key = session.generate_key(KeyType.AES, 256, store=store, label="aes")
        assert key.key_length == 256
        for text in [b"", b"sixteen bytes...", b"x" * 20]:
            assert key.decrypt(key.encrypt(text, mechanism_param=iv), mechanism_param=iv) == text
        key.destroy()


def names(session):
    key = session.get_key(object_class=ObjectClass.PRIVATE_KEY, label="rsa")
    assert key[Attribute.SENSITIVE] and not key[Attribute.EXTRACTABLE]
    for half in [ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY]:
        session.get_key(object_class=half, id=b"\x01\xff")[Attribute.LABEL] = "renamed"
    assert session.get_key(object_class=ObjectClass.PUBLIC_KEY, label="renamed").id == b"\x01\xff"
    try:
        session.get_key(object_class=ObjectClass.PRIVATE_KEY, label="rsa")
        raise AssertionError("it has another name now")
    except pkcs11.exceptions.NoSuchKey:
        pass
    for one in list(session.get_objects()):
        one.destroy()
    assert not list(session.get_objects())


module, label, pin = sys.argv[1:]
token = pkcs11.lib(module).get_token(token_label=label)
try:
    token.open(user_pin="wrong " + pin)
    raise AssertionError("a wrong PIN was accepted")
except pkcs11.exceptions.PinIncorrect:
    pass
with token.open(rw=True, user_pin=pin) as opened:
    for part in [rsa, ec, aes, names]:
        part(opened)
        print(part.__name__, "ok")
