"""The cases of docs/contract.md and some more, over plain HTTPS: one row each, checked in order on one device.

A row is a name, the caller, the request, and the status. All rows that fail are reported together.
"""

import base64
import time

from device import ADMIN, AFTER_A_FAILED_LOGIN, UNLOCK

V1 = "/api/v1"
SECRET = "Some passphrase 1"
USER = {"realName": "x", "role": "Operator", "passphrase": "1234567890"}
P256 = {"type": "EC_P256", "mechanisms": ["ECDSA_Signature"]}
SCALAR = base64.b64encode(bytes(31) + b"\x05").decode()
IMPORT = P256 | {"private": {"data": SCALAR}}
RSA = {"type": "RSA", "mechanisms": ["RSA_Signature_PKCS1", "RSA_Signature_PSS_SHA256", "RSA_Signature_PSS_SHA512"], "length": 1024}
RSA["mechanisms"] += ["RSA_Decryption_RAW", "RSA_Decryption_PKCS1"]
AES = {"type": "Generic", "mechanisms": ["AES_Encryption_CBC", "AES_Decryption_CBC"], "length": 128}
GOOD = {"unlockPassphrase": UNLOCK, "adminPassphrase": ADMIN, "systemTime": "2026-01-01T00:00:00+00:00"}
TEXT, PEM, OCTETS = ("text/plain", "application/x-pem-file", "application/octet-stream")


def zeros(count):
    return base64.b64encode(bytes(count)).decode()


def sign(mode, message):
    return {"mode": mode, "message": message}


def check(device, rows, more_users=None):
    """Sends every row and fails with the list of those with another status."""
    passphrases = more_users or {}
    wrong = []
    for what, who, method, path, body, status, *headers in rows:
        head = dict(pair.split(": ", 1) for pair in headers)
        answered, _, text = device.request(method, V1 + path, body, who, head, passphrases.get(who))
        expected = status if isinstance(status, tuple) else (status,)
        if answered not in expected:
            wrong.append(f"{what}: {method} {path} as {who}: {answered}, expected {status}: {text[:120]!r}")
    assert not wrong, "\n" + "\n".join(wrong)


def test_unprovisioned(fresh):
    ten, nine = "0123456789", "012345678"
    check(
        fresh,
        [
            ("state before credentials", None, "GET", "/system/info", None, 412),
            ("ready means Operational", None, "GET", "/health/ready", None, 412),
            ("alive means not Operational", None, "GET", "/health/alive", None, 200),
            ("no reboot", None, "POST", "/system/reboot", None, 412),
            ("no factory reset", None, "POST", "/system/factory-reset", None, 412),
            ("no unlock", None, "POST", "/unlock", {"passphrase": ten}, 412),
            ("unknown path", None, "GET", "/nonexistent", None, 404),
            ("short passphrase", None, "POST", "/provision", GOOD | {"adminPassphrase": nine}, 400),
            ("time with an offset", None, "POST", "/provision", GOOD | {"systemTime": "2020-01-01T00:00:00+01:00"}, 400),
            ("unknown member", None, "POST", "/provision", GOOD | {"more": 1}, 400),
            ("missing member", None, "POST", "/provision", {"unlockPassphrase": ten}, 400),
            ("no body", None, "POST", "/provision", None, 400),
            ("any content type", None, "POST", "/provision", GOOD, 204, f"Content-Type: {TEXT}"),
            ("once only", None, "POST", "/provision", GOOD, 412),
        ],
    )
    assert fresh.state() == "Operational"


def test_locked(own):
    assert own.request("POST", f"{V1}/lock", None, "operator")[0] == 403
    assert own.request("POST", f"{V1}/lock", None, "admin")[0] == 204
    check(
        own,
        [
            ("ready means Operational", None, "GET", "/health/ready", None, 412),
            ("alive means not Operational", None, "GET", "/health/alive", None, 200),
            ("no reboot", None, "POST", "/system/reboot", None, 412),
            ("diagnosis is public", None, "GET", "/health/diagnose", None, 200),
            ("keys are out of reach", "admin", "GET", "/keys", None, 412),
            ("syntax comes before the limiter", None, "POST", "/unlock", b"{", 400),
            ("five characters", None, "POST", "/unlock", {"passphrase": "12345"}, 400),
            ("which counted", None, "POST", "/unlock", {"passphrase": UNLOCK}, 429),
        ],
    )
    time.sleep(AFTER_A_FAILED_LOGIN)
    check(
        own,
        [
            ("wrong", None, "POST", "/unlock", {"passphrase": "0123456789"}, 403),
            ("wrong again", None, "POST", "/unlock", {"passphrase": "0123456789"}, 429),
            ("right, too soon", None, "POST", "/unlock", {"passphrase": UNLOCK}, 429),
        ],
    )
    time.sleep(AFTER_A_FAILED_LOGIN)
    check(own, [("right", None, "POST", "/unlock", {"passphrase": UNLOCK}, 204)])
    check(own, [("no second time", None, "POST", "/unlock", {"passphrase": UNLOCK}, 412)])


def test_requests(own):
    check(
        own,
        [
            ("alive means not Operational", None, "GET", "/health/alive", None, 412),
            ("shutdown needs credentials", None, "POST", "/system/shutdown", None, 401),
            ("diagnosis needs credentials", None, "GET", "/health/diagnose", None, 401),
            ("method before credentials", None, "DELETE", "/keys", None, 405),
            ("OPTIONS", None, "OPTIONS", "/keys", None, 405),
            ("HEAD", None, "HEAD", "/keys", None, 405),
            ("literal before id", "admin", "GET", "/keys/generate", None, 405),
            ("unknown method", "admin", "PATCH", "/keys", None, 501),
            ("target too long", "admin", "GET", "/keys/" + "x" * 2000, None, 414),
            ("broken base64", None, "GET", "/keys", None, 401, "Authorization: Basic %%%"),
            ("does not count", None, "GET", "/keys", None, 401, "Authorization: Basic %%%"),
            ("another scheme", None, "GET", "/keys", None, 401, "Authorization: Bearer abc"),
            ("public is public", None, "GET", "/info", None, 200, "Authorization: Basic %%%"),
            ("credentials before role", None, "POST", "/lock", None, 401),
            ("role before existence", "metrics", "GET", "/keys/missing", None, 403),
            ("Accept before existence", "admin", "GET", "/keys/missing", None, 406, "Accept: text/html"),
            ("Accept of PEM", "admin", "GET", "/keys/missing/public.pem", None, 406, "Accept: application/json"),
            ("Accept of raw", "admin", "PUT", "/keys/missing/cert", b"x", 406, "Accept: application/json", f"Content-Type: {OCTETS}"),
            ("existence before JSON", "admin", "POST", "/keys/missing/move", b"{", 404),
            ("no body", "admin", "POST", "/keys/generate", None, 400, "Content-Type: application/json"),
            ("trailing garbage", "admin", "POST", "/keys/generate", b"{} x", 400),
            ("trailing slash", "admin", "GET", "/users/", None, 200),
            ("empty id", "admin", "GET", "/users//", None, 400),
            ("empty id inside", "admin", "GET", "/keys//public.pem", None, 400),
            ("encoded dash", "admin", "GET", "/keys/a%2Db", None, 404),
            ("encoded slash", "admin", "GET", "/keys/a%2Fb", None, 400),
        ],
    )


def test_users_and_namespaces(own):
    users = {"ns1~chief": SECRET, "ns1~op": SECRET, "ns9~lost": SECRET, "ns1~m": SECRET, "ns1~b": SECRET}
    relaxed = b'{realName:"x",role:"Operator",passphrase:"1234567890"}'
    admin, operator, wide = (USER | {"passphrase": SECRET} | more for more in ({"role": "Administrator"}, {}, {"role": "Backup"}))
    check(
        own,
        [
            ("text", "admin", "PUT", "/users/u", USER, 415, f"Content-Type: {TEXT}"),
            ("unknown member", "admin", "POST", "/users", USER | {"more": 1}, 400),
            ("relaxed JSON", "admin", "POST", "/users", relaxed, 201),
            ("201 bytes", "admin", "POST", "/users", USER | {"passphrase": "x" * 201}, 400),
            ("200 bytes", "admin", "POST", "/users", USER | {"passphrase": "x" * 200}, 201),
            ("created", "admin", "PUT", "/users/u", USER, 201),
            ("exists", "admin", "PUT", "/users/u", USER, 409),
            ("bad id", "admin", "PUT", "/users/_u", USER, 400),
            ("prepared", "admin", "PUT", "/users/ns1~chief", admin, 201),
            ("no powers yet", "ns1~chief", "GET", "/keys", None, 403),
            ("opened", "admin", "PUT", "/namespaces/ns1", None, 204),
            ("exists", "admin", "PUT", "/namespaces/ns1", None, 400),
            ("list only", "admin", "GET", "/namespaces/ns1", None, 405),
            ("missing", "admin", "DELETE", "/namespaces/missing", None, 404),
            ("closed to the root", "admin", "PUT", "/users/ns1~x", USER, 403),
            ("syntax before that", "admin", "PUT", "/users/ns1~x", b"{", 400),
            ("not yet there", "admin", "PUT", "/users/ns9~lost", USER | {"passphrase": SECRET}, 201),
            ("powerless, not unknown", "ns9~lost", "GET", "/keys", None, 403),
            ("root is closed too", "ns1~chief", "PUT", "/users/op", USER, 403),
            ("own namespace", "ns1~chief", "PUT", "/users/ns1~op", operator, 201),
            ("own namespace, any id", "ns1~chief", "POST", "/users/ns1~", USER, 201),
            ("own backup user", "ns1~chief", "PUT", "/users/ns1~b", wide, 201),
            ("own metrics user", "ns1~chief", "PUT", "/users/ns1~m", wide | {"role": "Metrics"}, 201),
            ("a namespace must be named so", "admin", "POST", "/users/ns1", USER, 400),
            ("and not empty", "admin", "POST", "/users/~", USER, 400),
            ("and not a user", "admin", "POST", "/users/~x", USER, 400),
            ("may look", "admin", "GET", "/users/ns1~op", None, 200),
            ("may not touch", "admin", "DELETE", "/users/ns1~op", None, 403),
            ("even what is not there", "admin", "DELETE", "/users/ns1~missing", None, 403),
            ("nor set a passphrase", "admin", "POST", "/users/ns1~op/passphrase", {"passphrase": SECRET}, 403),
            ("oneself", "admin", "DELETE", "/users/admin", None, 400),
            ("an operator deletes nobody", "operator", "DELETE", "/users/u", None, 403),
            ("nor looks", "operator", "GET", "/users/u", None, 403),
            ("but at itself", "operator", "GET", "/users/operator", None, 200),
            ("metrics has no self", "metrics", "GET", "/users/metrics", None, 403),
            ("nor a passphrase", "metrics", "POST", "/users/metrics/passphrase", {"passphrase": SECRET}, 403),
            ("existence before JSON", "admin", "POST", "/users/missing/passphrase", b"{", 404),
            ("tags are for operators", "admin", "GET", "/users/backup/tags", None, 404),
            ("really", "admin", "PUT", "/users/backup/tags/t", None, 400),
            ("tag", "admin", "PUT", "/users/operator/tags/t", None, 204),
            ("tag again", "admin", "PUT", "/users/operator/tags/t", None, 304),
            ("tag as text", "admin", "PUT", "/users/operator/tags/t2", b"x", 415, f"Content-Type: {TEXT}"),
            ("tag that is none", "admin", "DELETE", "/users/operator/tags/other", None, 404),
            ("users of the namespace", "ns1~chief", "GET", "/users", None, 200),
            ("not the namespaces", "ns1~chief", "GET", "/namespaces", None, 403),
            ("not the device", "ns1~chief", "GET", "/config/unattended-boot", None, 403),
            ("metrics", "admin", "GET", "/metrics", None, 403),
            ("metrics in a namespace", "ns1~m", "GET", "/metrics", None, 200),
            ("random", "admin", "POST", "/random", {"length": 8}, 403),
            ("random in a namespace", "ns1~op", "POST", "/random", {"length": 8}, 200),
            ("random, nothing", "operator", "POST", "/random", {"length": 0}, 400),
            ("random, too much", "operator", "POST", "/random", {"length": 1025}, 400),
            ("random, not whole", "operator", "POST", "/random", {"length": 1.0}, 400),
            ("deleted", "admin", "DELETE", "/namespaces/ns1", None, 204),
            ("powerless again", "ns1~chief", "GET", "/users", None, 403),
            ("root may clean up", "admin", "DELETE", "/users/ns1~op", None, 204),
        ],
        users,
    )
    reply = own.request("POST", f"{V1}/users/ns8~", USER, "admin")
    assert reply[0] == 201 and reply[1]["Location"].startswith("/api/v1/users/ns8~"), reply


def test_keys(own):
    json_ = "Content-Type: application/json"
    check(
        own,
        [
            ("namespace in a key", "admin", "GET", "/keys/ns1~k", None, 400),
            ("everything is no prefix", "admin", "GET", "/keys/*", None, 400),
            ("nothing matches", "admin", "GET", "/keys/nomatch*", None, 200),
            ("a prefix is for reading", "admin", "DELETE", "/keys/nomatch*", None, (400, 405)),
            ("text", "admin", "POST", "/keys", IMPORT, 415, f"Content-Type: {TEXT}"),
            ("created", "admin", "PUT", "/keys/k", IMPORT, 204),
            ("exists", "admin", "PUT", "/keys/k", IMPORT, 400),
            ("any id", "admin", "POST", "/keys", IMPORT, 201),
            ("mechanisms of another type", "admin", "PUT", "/keys/odd", IMPORT | {"mechanisms": ["EdDSA_Signature"]}, 204),
            ("are of no use", "operator", "POST", "/keys/odd/sign", sign("EdDSA", zeros(32)), 400),
            ("generated they are refused", "admin", "POST", "/keys/generate", RSA | {"mechanisms": ["EdDSA_Signature"]}, 400),
            ("no mechanism", "admin", "POST", "/keys/generate", P256 | {"mechanisms": []}, 400),
            ("1023 bits", "admin", "POST", "/keys/generate", RSA | {"length": 1023}, 400),
            ("no length", "admin", "POST", "/keys/generate", {"type": "RSA", "mechanisms": RSA["mechanisms"]}, 400),
            ("129 bits", "admin", "POST", "/keys/generate", AES | {"length": 129, "id": "odd-aes"}, 201),
            ("taken", "admin", "POST", "/keys/generate", P256 | {"id": "k"}, 400),
            ("33 bytes", "admin", "POST", "/keys/generate", P256 | {"label": "x" * 33}, 400),
            ("P-224", "admin", "POST", "/keys/generate", P256 | {"type": "EC_P224"}, 400),
            ("31 bytes", "admin", "PUT", "/keys/new", P256 | {"private": {"data": zeros(31)}}, 400),
            ("to itself", "admin", "POST", "/keys/k/move", {"newId": "k"}, 409),
            ("to nowhere", "admin", "POST", "/keys/k/move", {"newId": ""}, 400),
            ("label", "admin", "PUT", "/keys/k/label", {"label": "l"}, 204),
            ("same label", "admin", "PUT", "/keys/k/label", {"label": "l"}, 304),
            ("no label", "admin", "DELETE", "/keys/k/label", None, 204),
            ("still none", "admin", "DELETE", "/keys/k/label", None, 204),
            ("label of nothing", "admin", "PUT", "/keys/missing/label", {"label": "l"}, 404),
            ("bad label of nothing", "admin", "PUT", "/keys/missing/label", b"{", 400),
            ("labels are for administrators", "operator", "PUT", "/keys/k/label", {"label": "l"}, 403),
            ("certificate", "admin", "PUT", "/keys/k/cert", b"x", 201, f"Content-Type: {OCTETS}"),
            ("certificate again", "admin", "PUT", "/keys/k/cert", b"x", 409, f"Content-Type: {OCTETS}"),
            ("with a parameter", "admin", "PUT", "/keys/k/cert", b"x", 415, f"Content-Type: {OCTETS};x=y"),
            ("as JSON", "admin", "PUT", "/keys/k/cert", b"x", 415, json_),
            ("none stored", "admin", "GET", "/keys/odd/cert", None, 404),
            ("none to delete", "admin", "DELETE", "/keys/odd/cert", None, 404),
            ("request by an operator", "operator", "POST", "/keys/k/csr.pem", {"commonName": "x"}, 200),
            ("request without a name", "operator", "POST", "/keys/k/csr.pem", {"countryName": "DE"}, 400),
            ("public half of a secret", "admin", "GET", "/keys/odd-aes/public.pem", None, 400),
            ("tag", "admin", "PUT", "/keys/odd/restrictions/tags/t", None, 204),
            ("tag again", "admin", "PUT", "/keys/odd/restrictions/tags/t", None, 304),
            ("tag of nothing", "admin", "PUT", "/keys/missing/restrictions/tags/t", None, 404),
            ("tag lacking", "operator", "POST", "/keys/odd/sign", sign("EdDSA", zeros(32)), 403),
            ("unknown mode first", "operator", "POST", "/keys/odd/sign", sign("Sums", zeros(32)), 400),
            ("not the administrator", "admin", "POST", "/keys/k/sign", sign("ECDSA", zeros(32)), 403),
            ("not in its list", "operator", "POST", "/keys/k/sign", sign("BIP340", zeros(32)), 400),
            ("existence before JSON", "operator", "POST", "/keys/missing/sign", b"{", 404),
        ],
    )
    etag = own.request("GET", f"{V1}/keys/k", None, "admin")[1]["ETag"]
    check(own, [("unchanged", "admin", "GET", "/keys/k", None, 304, f"If-None-Match: {etag}")])


def test_using_keys(own):
    for name, key in {"rsa": RSA, "aes": AES, "p521": P256 | {"type": "EC_P521"}, "p256": P256}.items():
        status, headers, _ = own.request("POST", f"{V1}/keys/generate", key | {"id": name}, "admin")
        assert (status, headers["Location"]) == (201, f"{V1}/keys/{name}")
    two_lines = zeros(32)[:20] + "\n" + zeros(32)[20:]
    ones = base64.b64encode(b"\xff" * 128).decode()
    check(
        own,
        [
            ("66 bytes for P-521", "operator", "POST", "/keys/p521/sign", sign("ECDSA", zeros(66)), 400),
            ("64 bytes for P-521", "operator", "POST", "/keys/p521/sign", sign("ECDSA", zeros(64)), 200),
            ("31 bytes for SHA-256", "operator", "POST", "/keys/rsa/sign", sign("PSS_SHA256", zeros(31)), 400),
            ("1024 bits are too few", "operator", "POST", "/keys/rsa/sign", sign("PSS_SHA512", zeros(64)), 400),
            ("20 bytes as they are", "operator", "POST", "/keys/rsa/sign", sign("PKCS1", zeros(20)), 200),
            ("too many bytes", "operator", "POST", "/keys/rsa/sign", sign("PKCS1", zeros(118)), 400),
            ("line feeds", "operator", "POST", "/keys/p256/sign", sign("ECDSA", two_lines), 200),
            ("spaces", "operator", "POST", "/keys/p256/sign", sign("ECDSA", two_lines.replace("\n", " ")), 400),
            ("no iv to decrypt", "operator", "POST", "/keys/aes/decrypt", {"mode": "AES_CBC", "encrypted": zeros(16)}, 400),
            ("null is none", "operator", "POST", "/keys/aes/encrypt", {"mode": "AES_CBC", "message": zeros(16), "iv": None}, 200),
            ("15 bytes", "operator", "POST", "/keys/aes/encrypt", {"mode": "AES_CBC", "message": zeros(15)}, 400),
            ("short iv", "operator", "POST", "/keys/aes/encrypt", {"mode": "AES_CBC", "message": zeros(16), "iv": zeros(8)}, 400),
            ("zero", "operator", "POST", "/keys/rsa/decrypt", {"mode": "RAW", "encrypted": zeros(128)}, 400),
            ("above the modulus", "operator", "POST", "/keys/rsa/decrypt", {"mode": "RAW", "encrypted": ones}, 400),
            ("wrong length", "operator", "POST", "/keys/rsa/decrypt", {"mode": "PKCS1", "encrypted": zeros(127)}, 400),
        ],
    )


def test_configuration(own):
    passphrases = {"newPassphrase": "0123456789", "currentPassphrase": "wrong"}
    check(
        own,
        [
            ("wrong current", "admin", "PUT", "/config/unlock-passphrase", passphrases, 403),
            ("short new", "admin", "PUT", "/config/unlock-passphrase", passphrases | {"newPassphrase": "1"}, 400),
            ("write only", "admin", "GET", "/config/unlock-passphrase", None, 405),
            ("neither on nor off", "admin", "PUT", "/config/unattended-boot", {"status": "maybe"}, 400),
            ("off", "admin", "PUT", "/config/unattended-boot", {"status": "off"}, 204),
        ],
    )


def test_headers(own):
    """Headers that the vendor's SDK compares for equality, and headers that it reads."""
    status, headers, body = own.request("GET", f"{V1}/keys", None, "admin")
    assert (status, headers["Content-Type"], body) == (200, "application/json", b"[]")
    assert headers["Date"].endswith(" GMT")
    status, headers, _ = own.request("GET", f"{V1}/keys")
    assert (status, headers["WWW-Authenticate"]) == (401, 'Basic realm="NetHSM"')
    status, headers, _ = own.request("GET", f"{V1}/keys", None, "admin", passphrase="wrong passphrase")
    assert (status, headers["WWW-Authenticate"]) == (401, 'Basic realm="invalid authorization"')
    status, headers, body = own.request("GET", f"{V1}/keys", None, "admin")
    assert (status, body) == (429, b'{"message":"Too many requests"}')
    status, headers, body = own.request("DELETE", f"{V1}/keys")
    assert (status, body) == (405, b"") and set(headers["Allow"].split(",")) == {"GET", "POST"}
