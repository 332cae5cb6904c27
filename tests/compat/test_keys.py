"""The life cycle of keys: generated and imported in every form, listed, labelled, moved, certified, deleted."""

import ipaddress
import os

import nethsm
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from nethsm import SignMode

import keytypes
import verify
from device import refused
from keytypes import DIGEST, LENGTHS, MECHANISMS, TYPES, b64, bytes_of


@pytest.fixture
def admin(shared):
    with shared.sdk("admin") as client:
        yield client


@pytest.fixture
def operator(shared):
    with shared.sdk("operator") as client:
        yield client


def add(admin, key_id, type_="EC_P256", **more):
    """A key generated outside, imported from its parts."""
    foreign = keytypes.make(type_)
    admin.add_key(key_id, keytypes.enum(type_), keytypes.mechanisms(type_), foreign.parts, **more)
    return foreign


def works(operator, key_id, type_, public_pem):
    """Checks that the key in the device belongs to `public_pem`."""
    if type_ in DIGEST:
        digest = os.urandom(DIGEST[type_])
        verify.ecdsa(public_pem, bytes_of(operator.sign(key_id, b64(digest), SignMode.ECDSA)), digest)
    elif type_ == "RSA":
        digest = os.urandom(32)
        verify.pss(public_pem, "SHA256", bytes_of(operator.sign(key_id, b64(digest), SignMode.PSS_SHA256)), digest)
    elif type_ == "Curve25519":
        signature = bytes_of(operator.sign(key_id, b64(b"hello"), SignMode.EDDSA))
        verify.public_key(public_pem).verify(signature, b"hello")


def same_key(one_pem, other_pem):
    return verify.public_key(one_pem).public_numbers() == verify.public_key(other_pem).public_numbers()


@pytest.mark.parametrize("type_", TYPES)
def test_generate(admin, type_):
    mechanisms = keytypes.mechanisms(type_)
    key_id = admin.generate_key(keytypes.enum(type_), mechanisms, LENGTHS[type_], f"g-{type_}", "a label")
    key = admin.get_key(key_id)
    assert (key.type, key.mechanisms, key.operations) == (keytypes.enum(type_), mechanisms, 0)
    assert (key.tags, key.label) == ([], "a label")
    if type_ == "Generic":
        assert key.public_key is None
        with refused():
            admin.get_key_public_key(key_id)
        return
    public = verify.public_key(admin.get_key_public_key(key_id))
    if type_ == "RSA":
        numbers = public.public_numbers()
        assert (public.key_size, numbers.e) == (2048, 65537)
        assert int.from_bytes(bytes_of(key.public_key.modulus), "big") == numbers.n
    elif type_ == "Curve25519":
        assert bytes_of(key.public_key.data) == public.public_bytes_raw()
    else:
        encoding, form = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        assert public.curve.name == keytypes.CURVES[type_].name
        assert bytes_of(key.public_key.data) == public.public_bytes(encoding, form)


@pytest.mark.parametrize("type_", TYPES)
def test_import_of_parts(admin, operator, type_):
    foreign = add(admin, f"parts-{type_}", type_, tags=[], label="imported")
    assert admin.get_key(f"parts-{type_}").label == "imported"
    if foreign.public_pem:
        assert admin.get_key_public_key(f"parts-{type_}") == foreign.public_pem
        works(operator, f"parts-{type_}", type_, foreign.public_pem)


@pytest.mark.parametrize("type_", [type_ for type_ in TYPES if type_ != "Generic"])
def test_import_of_pem_by_nitropy(shared, operator, tmp_path, type_):
    foreign = keytypes.make(type_)
    (tmp_path / "key.pem").write_text(foreign.pem)
    mechanisms = [word for name in MECHANISMS[type_] for word in ("--mechanism", name)]
    shared.nitropy("import-key", "--key-id", f"pem-{type_}", *mechanisms, str(tmp_path / "key.pem"), user="admin")
    assert operator.get_key_public_key(f"pem-{type_}") == foreign.public_pem
    works(operator, f"pem-{type_}", type_, foreign.public_pem)


@pytest.mark.parametrize("type_", ["RSA", *keytypes.CURVES])
def test_import_of_traditional_pem(admin, operator, type_):
    """`RSA PRIVATE KEY` (RFC 8017 A.1.2) and `EC PRIVATE KEY` (RFC 5915), which state their own key type."""
    made = rsa.generate_private_key(65537, 3072) if type_ == "RSA" else ec.generate_private_key(keytypes.CURVES[type_])
    pem = keytypes.private_pem(made, serialization.PrivateFormat.TraditionalOpenSSL)
    key_id = admin.add_key_pem(None, keytypes.mechanisms(type_), pem, tags=["t1", "t0"])
    key = admin.get_key(key_id)
    assert (key.type, sorted(key.tags)) == (keytypes.enum(type_), ["t0", "t1"])
    assert admin.get_key_public_key(key_id) == keytypes.public_pem(made)


def test_a_key_that_openssl_made_can_be_imported(admin, operator, tmp_path):
    """With an `EC PARAMETERS` block in front, as `openssl ecparam` writes it."""
    pem = verify.openssl("ecparam", "-name", "brainpoolP384r1", "-genkey").decode()
    admin.add_key_pem("by-openssl", keytypes.mechanisms("BrainpoolP384"), pem)
    (tmp_path / "key").write_text(pem)
    public = verify.openssl("pkey", "-in", tmp_path / "key", "-pubout").decode()
    assert same_key(admin.get_key_public_key("by-openssl"), public)
    works(operator, "by-openssl", "BrainpoolP384", public)


def test_bad_imports_are_refused(admin):
    def parts(data):
        return nethsm.GenericPrivateKey(b64(data))

    p256 = keytypes.enum("EC_P256")
    for scalar in (bytes(32), b"\xff" * 32, bytes(31), bytes(33)):
        with refused():
            admin.add_key("bad", p256, keytypes.mechanisms("EC_P256"), parts(scalar))
    with refused():
        admin.add_key("bad", keytypes.enum("Curve25519"), keytypes.mechanisms("Curve25519"), parts(bytes(31)))
    with refused():
        admin.add_key_pem("bad", keytypes.mechanisms("EC_P256"), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    two = keytypes.make("EC_P256").pem + keytypes.make("EC_P256").pem
    with refused():
        admin.add_key_pem("bad", keytypes.mechanisms("EC_P256"), two)
    composite = nethsm.RsaPrivateKey(*(keytypes.b64_number(n) for n in ((1 << 1023) + 1, (1 << 1023) + 3, 65537)))
    with refused():
        admin.add_key("bad", keytypes.enum("RSA"), keytypes.mechanisms("RSA"), composite)
    assert "bad" not in admin.list_keys()


def test_bad_generations_are_refused(shared, admin):
    for type_, mechanisms, length in (
        ("RSA", MECHANISMS["RSA"], 1023),
        ("RSA", MECHANISMS["RSA"], 8193),
        ("RSA", MECHANISMS["EC_P256"], 2048),
        ("EC_P256", [], 256),
        ("EC_P224", ["ECDSA_Signature"], 256),
        ("Generic", MECHANISMS["Generic"], 127),
    ):
        body = {"type": type_, "mechanisms": mechanisms, "length": length, "id": "never"}
        assert shared.request("POST", "/api/v1/keys/generate", body, "admin")[0] == 400, body
    p256 = (keytypes.enum("EC_P256"), keytypes.mechanisms("EC_P256"), 256)
    admin.generate_key(*p256, "taken")
    with refused("exists"):
        admin.generate_key(*p256, "taken")
    assert "never" not in admin.list_keys()


def test_nitropy_generates_and_shows(shared):
    args = ("--type", "ec_p384", "--mechanism", "ecdsa_signature", "--length", "256", "--key-id", "shown", "--label", "mine")
    assert "shown" in shared.nitropy("generate-key", *args, user="admin")
    assert "mine" in shared.nitropy("list-keys", "--prefix", "shown", user="admin")
    said = shared.nitropy("get-key", "shown", user="operator")
    assert "EC_P384" in said and "ECDSA_Signature" in said
    assert "BEGIN PUBLIC KEY" in shared.nitropy("get-key", "shown", "--public-key", user="operator")


def test_lists_are_sorted_and_filtered(own):
    with own.sdk("admin") as admin, own.sdk("operator") as operator:
        assert admin.list_keys() == []
        for key_id, tag, label in (("b", "t", None), ("a.1", None, "x"), ("A", None, None), ("a-1", "t", "x"), ("a_1", "u", None)):
            add(admin, key_id, tags=[tag] if tag else [], label=label)
        everything = ["A", "a-1", "a.1", "a_1", "b"]
        assert admin.list_keys() == operator.list_keys() == everything
        assert admin.list_keys(prefix="a") == ["a-1", "a.1", "a_1"]
        assert admin.list_keys(prefix="nothing") == []
        assert admin.list_keys(label="x") == ["a-1", "a.1"]
        assert admin.list_keys(prefix="a.", label="x") == ["a.1"]
        # The presence of `filter` counts, not its value; administrators see all.
        assert operator.list_keys(filter="false") == ["A", "a.1"]
        assert admin.list_keys(filter="true") == everything
        admin.add_operator_tag("operator", "t")
        assert operator.list_keys(filter="") == ["A", "a-1", "a.1", "b"]


def test_labels(admin):
    add(admin, "labelled")
    admin.set_key_label("labelled", "Schlüssel 1")
    admin.set_key_label("labelled", "Schlüssel 1")
    assert admin.get_key("labelled").label == "Schlüssel 1"
    for text in ("x" * 33, "ü" * 17):
        with refused():
            admin.set_key_label("labelled", text)
    admin.set_key_label("labelled", None)
    assert admin.get_key("labelled").label is None
    with refused("not found"):
        admin.set_key_label("nowhere", "x")


def test_nitropy_labels(shared, admin):
    add(admin, "by-nitropy")
    shared.nitropy("set-key-label", "by-nitropy", "named", user="admin")
    assert admin.get_key("by-nitropy").label == "named"
    shared.nitropy("delete-key-label", "by-nitropy", user="admin")
    assert admin.get_key("by-nitropy").label is None


def test_move_takes_everything_along(shared, admin, operator):
    foreign = add(admin, "here", label="l", tags=["t"])
    admin.delete_key_tag("here", "t")
    admin.set_key_certificate("here", b"certificate")
    works(operator, "here", "EC_P256", foreign.public_pem)
    shared.nitropy("move-key", "here", "there", user="admin")
    with refused("not found"):
        admin.get_key("here")
    moved = admin.get_key("there")
    assert (moved.label, moved.operations, admin.get_key_certificate("there")) == ("l", 1, b"certificate")
    works(operator, "there", "EC_P256", foreign.public_pem)
    add(admin, "occupied")
    for target in ("occupied", "there"):
        with refused("exists"):
            admin.move_key("there", target)
    with refused("not found"):
        admin.move_key("nowhere", "elsewhere")


def test_certificates_are_kept_as_they_are(admin):
    add(admin, "certified")
    with refused("not found"):
        admin.get_key_certificate("certified")
    content = bytes(range(256)) * 1000
    admin.set_key_certificate("certified", content)
    assert admin.get_key_certificate("certified") == content
    with refused("already"):
        admin.set_key_certificate("certified", b"another")
    admin.delete_key_certificate("certified")
    with refused():
        admin.delete_key_certificate("certified")
    admin.set_key_certificate("certified", b"another")
    admin.delete_key("certified")
    add(admin, "certified")
    with refused("not found"):
        admin.get_key_certificate("certified")


@pytest.mark.parametrize("type_", [type_ for type_ in TYPES if type_ != "Generic"])
def test_certificate_requests(admin, operator, type_):
    foreign = add(admin, f"csr-{type_}", type_)
    more = {"country": "DE", "organization": "Überall", "subject_alt_names": ["a.example", "IP:192.0.2.1", "IP:2001:db8::1"]}
    csr = x509.load_pem_x509_csr(operator.key_csr(f"csr-{type_}", common_name="device.example", **more).encode())
    assert csr.is_signature_valid
    assert csr.public_key() == verify.public_key(foreign.public_pem)
    subject = {attribute.oid: attribute.value for attribute in csr.subject}
    expected = {NameOID.COMMON_NAME: "device.example", NameOID.COUNTRY_NAME: "DE", NameOID.ORGANIZATION_NAME: "Überall"}
    assert subject == expected
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.example"]
    addresses = [ipaddress.ip_address(text) for text in ("192.0.2.1", "2001:db8::1")]
    assert names.get_values_for_type(x509.IPAddress) == addresses


def test_certificate_requests_name_their_common_name(admin):
    add(admin, "csr-plain")
    alone = x509.load_pem_x509_csr(admin.key_csr("csr-plain", common_name="one.example").encode())
    names = alone.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["one.example"]
    none = x509.load_pem_x509_csr(admin.key_csr("csr-plain", common_name="one.example", subject_alt_names=[]).encode())
    assert list(none.extensions) == []
    with refused():
        admin.key_csr("csr-plain", common_name="")


def test_deleted_keys_are_gone(shared, admin, operator):
    add(admin, "doomed")
    shared.nitropy("delete-key", "doomed", user="admin")
    with refused("not found"):
        admin.delete_key("doomed")
    with refused("not found"):
        operator.sign("doomed", b64(bytes(32)), SignMode.ECDSA)


def test_ids_obey_their_rule(shared):
    body = {"type": "EC_P256", "mechanisms": ["ECDSA_Signature"]}
    for bad in ("_a", "-a", ".a", "a+b", "ä", "x" * 129, "ns~k"):
        assert shared.request("POST", "/api/v1/keys/generate", body | {"id": bad}, "admin")[0] == 400, bad
    for good in ("x" * 128, "0", "A-_.z"):
        assert shared.request("POST", "/api/v1/keys/generate", body | {"id": good}, "admin")[0] == 201, good
