"""Logging and metrics: a real rsyslog receives the log lines, Prometheus' own parser reads the metrics."""

import contextlib
import datetime
import ipaddress
import json
import shutil
import subprocess
import time
import urllib.request

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from prometheus_client.parser import text_string_to_metric_families

from device import device, free_port

RSYSLOGD = shutil.which("rsyslogd") or "/usr/sbin/rsyslogd"

CONFIG = """
global(workDirectory="{folder}" defaultNetstreamDriverCAFile="{folder}/cert.pem"
       defaultNetstreamDriverCertFile="{folder}/cert.pem" defaultNetstreamDriverKeyFile="{folder}/key.pem")
module(load="imudp")
module(load="imtcp")
template(name="parts" type="string"
         string="%pri%|%hostname%|%syslogtag%|%app-name%|%procid%|%msgid%|%structured-data%|%timereported:::date-rfc3339%|%msg%\\n")
ruleset(name="udp") {{ action(type="omfile" file="{folder}/udp.log" template="parts") }}
ruleset(name="tcp") {{ action(type="omfile" file="{folder}/tcp.log" template="parts") }}
ruleset(name="tls") {{ action(type="omfile" file="{folder}/tls.log" template="parts") }}
input(type="imudp" address="127.0.0.1" port="{udp}" ruleset="udp")
input(type="imtcp" address="127.0.0.1" port="{tcp}" ruleset="tcp")
input(type="imtcp" address="127.0.0.1" port="{tls}" ruleset="tls"
      StreamDriver.Name="gtls" StreamDriver.Mode="1" StreamDriver.AuthMode="anon")
"""


class Rsyslog:
    """An rsyslogd on ports of its own that writes the parsed messages to files."""

    def __init__(self, folder):
        self.folder = folder
        self.udp, self.tcp, self.tls = free_port(), free_port(), free_port()
        self.process = None
        self.certificate = folder / "cert.pem"
        make_identity(folder)
        (folder / "rsyslog.conf").write_text(CONFIG.format(folder=folder, udp=self.udp, tcp=self.tcp, tls=self.tls))

    def start(self):
        command = [RSYSLOGD, "-n", "-f", self.folder / "rsyslog.conf", "-i", self.folder / "pid"]
        output = (self.folder / "rsyslog.out").open("ab")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=20)

    def lines(self, way):
        """The messages received that way, as lists of their parts."""
        file = self.folder / f"{way}.log"
        text = file.read_text() if file.exists() else ""
        return [line.split("|", 8) for line in text.splitlines()]

    def line(self, way, text, seconds=20):
        """The first line whose message contains `text`; waits for it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for parts in self.lines(way):
                if text in parts[-1]:
                    return parts
            time.sleep(0.1)
        said = (self.folder / "rsyslog.out").read_text()
        raise AssertionError(f"{text!r} did not come by {way}; there is {self.lines(way)}; rsyslogd said {said!r}")


def make_identity(folder):
    """A key, and a self-signed certificate for this machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rsyslog")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (folder / "key.pem").write_bytes(pem)


@pytest.fixture
def rsyslog(tmp_path):
    folder = tmp_path / "rsyslog"
    folder.mkdir()
    one = Rsyslog(folder)
    one.start()
    yield one
    with contextlib.suppress(ProcessLookupError):
        one.process.kill()
        one.process.wait()


@pytest.fixture
def logged(rsyslog, tmp_path, monkeypatch):
    """A device that sends its log lines to rsyslog over TCP and TLS."""
    monkeypatch.setenv("CASEMATE_SYSLOG", f"tcp://127.0.0.1:{rsyslog.tcp},tls://localhost:{rsyslog.tls}")
    monkeypatch.setenv("CASEMATE_SYSLOG_CA", str(rsyslog.certificate))
    folder = tmp_path / "device"
    folder.mkdir()
    with device(folder) as one:
        one.provision()
        yield one


def add_key(one, name):
    body = {"mechanisms": ["EdDSA_Signature"], "type": "Curve25519", "id": name, "label": "a label"}
    status, _, _ = one.request("POST", "/api/v1/keys/generate", body, user="admin")
    assert status == 201


@pytest.mark.parametrize("way", ["tcp", "tls"])
def test_rsyslog_understands_rfc5424(rsyslog, logged, way):
    add_key(logged, "seen")
    pri, host, _, app, process, source, data, reported, message = rsyslog.line(way, "created (seen)")
    assert (pri, app, source, message) == ("30", "casemated", "hsm.key", "created (seen)")
    assert process == str(logged.process.pid)
    assert host and data.startswith('[meta sequenceId="')
    age = datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.fromisoformat(reported)
    assert abs(age) < datetime.timedelta(minutes=1)
    # No line is missing, and none was received twice.
    numbers = [int(parts[6].split('"')[1]) for parts in rsyslog.lines(way)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_restarted_rsyslog_gets_the_lines_that_follow(rsyslog, logged):
    add_key(logged, "before")
    for way in ("tcp", "tls"):
        rsyslog.line(way, "created (before)")
    rsyslog.stop()
    add_key(logged, "meanwhile")
    rsyslog.start()
    add_key(logged, "after")
    for way in ("tcp", "tls"):
        rsyslog.line(way, "created (meanwhile)", seconds=40)
        rsyslog.line(way, "created (after)")


def test_rsyslog_understands_what_logging_is_configured_for(rsyslog, own):
    logging = {"ipAddress": "127.0.0.1", "port": rsyslog.udp, "logLevel": "info"}
    status, _, _ = own.request("PUT", "/api/v1/config/logging", logging, user="admin")
    if status == 404:
        pytest.skip("there is no /config/logging yet")
    assert status == 204
    add_key(own, "seen")
    pri, host, tag, _, _, _, _, _, message = rsyslog.line("udp", "created (seen)")
    assert (pri, host, tag) == ("30", "keyfender", "hsm.key")
    assert message.strip().startswith("[") and message.endswith("] created (seen)")


def families(text):
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_prometheus_reads_everything(own):
    add_key(own, "counted")
    sign = {"mode": "EdDSA", "message": "c29tZXRoaW5n"}
    assert own.request("POST", "/api/v1/keys/counted/sign", sign, user="operator")[0] == 200
    status, headers, body = own.request("GET", "/api/v1/metrics/prometheus", user="metrics")
    assert status == 200 and headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = families(body.decode())
    signed = [s.value for s in found["casemate_key_operations"].samples if s.labels["mechanism"] == "EdDSA_Signature"]
    assert signed == [1]
    store = {s.labels["store"]: s.value for s in found["casemate_store_size_bytes"].samples}
    assert store["shared"] > 0 and store["local"] > 0
    for name, family in found.items():
        assert family.documentation and family.type in ("counter", "gauge", "histogram"), name
        assert family.samples, name
    # Buckets are cumulative, and the last one holds all observations.
    for name in ("casemate_http_request_duration_seconds", "casemate_store_commit_duration_seconds"):
        assert found[name].type == "histogram"
        by_labels = {}
        for sample in found[name].samples:
            labels = tuple(sorted((key, value) for key, value in sample.labels.items() if key != "le"))
            by_labels.setdefault(labels, []).append(sample)
        for samples in by_labels.values():
            buckets = [s.value for s in samples if s.name.endswith("_bucket")]
            counts = [s.value for s in samples if s.name.endswith("_count")]
            assert buckets == sorted(buckets) and buckets[-1:] == counts


def test_the_listener_tells_the_state_before_anybody_can_log_in(tmp_path, monkeypatch):
    port = free_port()
    monkeypatch.setenv("CASEMATE_METRICS_LISTEN", f"127.0.0.1:{port}")

    def states():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
            found = families(reply.read().decode())
        return {s.labels["state"] for s in found["casemate_state"].samples if s.value == 1}

    with device(tmp_path) as one:
        assert states() == {"Unprovisioned"}
        one.provision()
        assert states() == {"Operational"}
        assert one.request("POST", "/api/v1/lock", user="admin")[0] == 204
        assert states() == {"Locked"}


def test_json_log_lines_are_json(tmp_path, monkeypatch):
    monkeypatch.setenv("CASEMATE_LOG_FORMAT", "json")
    with device(tmp_path) as one:
        one.provision()
        add_key(one, "seen")
        text = one.log.read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    created = [line for line in lines if line["message"] == "created (seen)"]
    assert [line["source"] for line in created] == ["hsm.key"]
    for line in lines:
        datetime.datetime.fromisoformat(line["time"])
        assert line["level"] in ("error", "warn", "info")
