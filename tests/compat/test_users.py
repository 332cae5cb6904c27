"""Users, roles, namespaces and tags: who may do what, tested with clients."""

import time

import nethsm
import pytest
from nethsm import Role, SignMode

import keytypes
from device import AFTER_A_FAILED_LOGIN, PASSPHRASES, refused
from keytypes import b64

SECRET = "Some passphrase 1"


def generate(client, key_id):
    return client.generate_key(keytypes.enum("EC_P256"), keytypes.mechanisms("EC_P256"), 256, key_id)


def sign(client, key_id):
    return client.sign(key_id, b64(bytes(32)), SignMode.ECDSA)


def test_users_of_every_role_are_added_listed_and_deleted(own):
    with own.sdk("admin") as admin:
        assert admin.list_users() == ["admin", "backup", "metrics", "operator"]
        assert admin.get_user("admin") == nethsm.User("admin", "admin", Role.ADMINISTRATOR)
        own.nitropy("add-user", "-n", "Second", "-r", "administrator", "-p", SECRET, "-u", "second", user="admin")
        assert admin.get_user("second") == nethsm.User("second", "Second", Role.ADMINISTRATOR)
        anonymous = admin.add_user("", Role.OPERATOR, SECRET)
        assert len(anonymous) == 20 and anonymous in admin.list_users()
        with refused("exists"):
            admin.add_user("Again", Role.OPERATOR, SECRET, "second")
        for length in (9, 201):
            body = {"realName": "", "role": "Operator", "passphrase": "x" * length}
            assert own.request("PUT", "/api/v1/users/third", body, "admin")[0] == 400
        with refused():
            admin.delete_user("admin")
        own.nitropy("delete-user", "second", user="admin")
        with refused("not found"):
            admin.delete_user("second")
    with own.sdk("second", SECRET) as second, refused("unauthorized"):
        second.list_users()
    assert "operator" in own.nitropy("list-users", user="admin")


def test_roles_are_no_hierarchy(own):
    """Each role does its own job and none of the others'."""
    with own.sdk("admin") as admin:
        generate(admin, "k")
    jobs = {
        "admin": lambda client: client.list_users(),
        "operator": lambda client: sign(client, "k"),
        "metrics": lambda client: client.get_metrics(),
    }
    for job, work in jobs.items():
        for user in PASSPHRASES:
            with own.sdk(user) as client:
                if user == job:
                    work(client)
                else:
                    with refused("access denied"):
                        work(client)


def test_metrics_and_system_info(own):
    with own.sdk("metrics") as metrics:
        before = dict(metrics.get_metrics())
        for name in ("uptime", "log warnings", "log errors", "http response total", "http response 200", "http response time"):
            assert name in before, sorted(before)
        assert all(isinstance(value, str) for value in before.values())
        after = dict(metrics.get_metrics())
    assert int(after["http response total"]) > int(before["http response total"])
    assert "uptime" in own.nitropy("metrics", user="metrics")
    with own.sdk("admin") as admin:
        info = admin.get_system_info()
        assert info.software_version and info.build_tag
        made_by = admin.get_info()
    assert made_by.vendor and made_by.product
    assert info.software_version in own.nitropy("system-info", user="admin")
    assert made_by.product in own.nitropy("info")


def test_passphrases_change(own):
    with own.sdk("operator") as operator:
        operator.set_passphrase("operator", SECRET)
        with refused("unauthorized"):
            operator.get_user("operator")
    time.sleep(AFTER_A_FAILED_LOGIN)
    with own.sdk("operator", SECRET) as operator:
        assert operator.get_user("operator").role == Role.OPERATOR
        with refused("access denied"):
            operator.set_passphrase("metrics", SECRET)
    own.nitropy("set-passphrase", "-u", "operator", "-p", PASSPHRASES["operator"], user="admin")
    with own.sdk("operator") as operator:
        operator.get_user("operator")


def test_failed_logins_are_slowed_down(own):
    with own.sdk("operator", "wrong passphrase") as wrong, own.sdk("operator") as right, own.sdk("admin") as other:
        with refused("unauthorized"):
            wrong.list_keys()
        with refused("too many requests"):
            right.list_keys()
        other.list_keys()
        time.sleep(AFTER_A_FAILED_LOGIN)
        right.list_keys()


def test_tags_restrict_keys(own):
    with own.sdk("admin") as admin, own.sdk("operator") as operator:
        generate(admin, "k")
        sign(operator, "k")
        own.nitropy("add-key-tag", "k", "berlin", user="admin")
        with refused("access denied"):
            sign(operator, "k")
        assert admin.get_key("k").tags == ["berlin"]
        own.nitropy("add-operator-tag", "operator", "berlin", user="admin")
        admin.add_operator_tag("operator", "berlin")
        assert list(admin.list_operator_tags("operator")) == ["berlin"]
        assert "berlin" in own.nitropy("list-operator-tags", "operator", user="admin")
        sign(operator, "k")
        admin.delete_operator_tag("operator", "berlin")
        with refused("access denied"):
            sign(operator, "k")
        admin.delete_key_tag("k", "berlin")
        sign(operator, "k")
        for gone in (lambda: admin.delete_key_tag("k", "berlin"), lambda: admin.delete_operator_tag("operator", "berlin")):
            with refused():
                gone()
        with refused():
            admin.add_operator_tag("metrics", "berlin")


def test_the_life_of_a_namespace(own):
    """Prepared by the administrator of the device, then inaccessible to them, deleted, and created again."""
    with own.sdk("admin") as root, own.sdk("ns1~chief", SECRET) as chief, own.sdk("ns1~op", SECRET) as op:
        root.add_user("Chief", Role.ADMINISTRATOR, SECRET, "chief", "ns1")
        with refused("access denied"):
            chief.list_users()
        own.nitropy("add-namespace", "ns1", user="admin")
        root.add_namespace("ns11")
        assert root.list_namespaces() == ["ns1", "ns11"]
        with refused("exists"):
            root.add_namespace("ns1")

        chief.add_user("Op", Role.OPERATOR, SECRET, "op", "ns1")
        made = chief.add_user("", Role.OPERATOR, SECRET)
        assert made.startswith("ns1~")
        assert chief.list_users() == sorted([made, "ns1~chief", "ns1~op"])
        assert set(chief.list_users()) < set(root.list_users())

        # The administrator of the device may read, but not change; those of the namespace see nothing outside it.
        assert root.get_user("ns1~op").role == Role.OPERATOR
        for forbidden in (
            lambda: root.add_user("", Role.OPERATOR, SECRET, "spy", "ns1"),
            lambda: root.delete_user("ns1~op"),
            lambda: root.set_passphrase("ns1~op", SECRET),
            lambda: root.add_operator_tag("ns1~op", "t"),
            lambda: chief.get_user("operator"),
            lambda: chief.add_user("", Role.OPERATOR, SECRET, "spy", "ns11"),
            lambda: chief.list_namespaces(),
            lambda: chief.lock(),
            lambda: chief.get_system_info(),
        ):
            with refused("access denied"):
                forbidden()

        # Keys of the same name inside and outside the namespace are different keys.
        generate(root, "k")
        generate(chief, "k")
        generate(chief, "inside")
        assert root.get_key_public_key("k") != chief.get_key_public_key("k")
        assert (root.list_keys(), chief.list_keys(), op.list_keys()) == (["k"], ["inside", "k"], ["inside", "k"])
        sign(op, "inside")
        with own.sdk("operator") as outsider, refused("not found"):
            sign(outsider, "inside")
        op.get_random_data(8)

        # Deleting removes the keys and all rights; the users remain until there is a namespace of that name again.
        root.delete_namespace("ns1")
        with refused("access denied"):
            chief.list_keys()
        assert root.list_namespaces() == ["ns11"]
        assert "ns1~op" in root.list_users()
        root.delete_user("ns1~op")
        root.add_namespace("ns1")
        assert chief.list_keys() == [], "a re-created namespace starts empty"
        assert chief.list_users() == sorted([made, "ns1~chief"])
        assert root.list_keys() == ["k"]


def test_metrics_of_a_namespace_and_its_limits(own):
    own.nitropy(
        "add-user", "-n", "", "-r", "metrics", "-p", SECRET, "-u", "m", "-N", "ns1", "--create-namespace", user="admin"
    )
    with own.sdk("ns1~m", SECRET) as metrics:
        assert metrics.get_metrics()
        with refused("access denied"):
            metrics.get_user("ns1~m")


@pytest.mark.parametrize("bad", ["_a", "a+b", "x" * 129, "ns1~_a", "~a"])
def test_user_ids_obey_their_rule(shared, bad):
    body = {"realName": "", "role": "Operator", "passphrase": SECRET}
    assert shared.request("PUT", f"/api/v1/users/{bad}", body, "admin")[0] == 400
