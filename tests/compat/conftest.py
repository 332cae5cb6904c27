"""Fixtures: devices in the initial states of tests."""

import pytest

from device import Device, device


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Prints the server's log after a failed test."""
    report = yield
    if report.failed:
        # Two fixtures may be the same device.
        for one in {value for value in item.funcargs.values() if isinstance(value, Device)}:
            report.sections.append(("casemated", one.log_tail()))
    return report


@pytest.fixture
def fresh(tmp_path):
    """Unprovisioned, for this test alone."""
    with device(tmp_path) as one:
        yield one


@pytest.fixture
def own(fresh):
    """Operational with a user of every role, for this test alone."""
    fresh.provision()
    fresh.add_users()
    yield fresh


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Operational with a user of every role, shared by the tests of a module, which use different key names."""
    with device(tmp_path_factory.mktemp("device")) as one:
        one.provision()
        one.add_users()
        yield one
