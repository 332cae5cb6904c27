"""One `casemated` process on a port of its own, and the clients that talk to it.

The tests know the server only from outside: they start the binary, speak HTTPS through released clients, and read its
exit code. Nothing here imports or links code of the project.
"""

import base64
import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nethsm

BINARY = os.environ.get("CASEMATED", "")
UNLOCK = "UnlockPassphrase 1"
ADMIN = "AdminPassphrase 1"
PASSPHRASES = {
    "admin": ADMIN,
    "operator": "OperatorPassphrase 1",
    "metrics": "MetricsPassphrase 1",
    "backup": "BackupPassphrase 1",
}
# A failed login blocks the same user and address for this long; a little more than the second the API promises.
AFTER_A_FAILED_LOGIN = 1.2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Device:
    """A `casemated` with its data folder. Starting it again in the same folder is a power cycle."""

    def __init__(self, folder: Path, settings: list[str] | None = None):
        assert BINARY, "run `cargo xtask compat`, or set CASEMATED to the server's binary"
        self.folder = folder
        self.settings = settings or []
        self.log = folder / "log.txt"
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    # Process

    def start(self) -> None:
        assert self.process is None
        command = [BINARY, "--listen", self.host, "--data-dir", str(self.folder / "data"), *self.settings]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.wait_until(lambda: self.state() is not None, "an answer")

    def stop(self) -> int:
        """Stops it like a service manager, and returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.exit_code()

    def power_cut(self) -> None:
        """Kills it like a power failure: it cannot write anything."""
        self.process.kill()
        self.exit_code()

    def exit_code(self, seconds: float = 15) -> int:
        code = self.process.wait(timeout=seconds)
        self.process = None
        return code

    @contextlib.contextmanager
    def rebooting(self, state: str):
        """The block reboots the device; after it the device is available again, in `state`.

        A connection that was open before tells that the old instance is gone.
        """
        with socket.create_connection(("127.0.0.1", self.port)) as witness:
            yield
            witness.settimeout(20)
            with contextlib.suppress(ConnectionResetError):
                assert witness.recv(1) == b"", "the server spoke first"
        self.wait_until(lambda: self.state() == state, f"{state} after a reboot")

    def destroy(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def wait_until(self, condition, what: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            code = self.process.poll()
            assert code is None, f"casemated ended with {code} while we waited for {what}\n{self.log_tail()}"
            assert time.monotonic() < deadline, f"no {what} after {seconds} s\n{self.log_tail()}"
            time.sleep(0.05)

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    # Plain HTTPS

    def request(self, method: str, path: str, body=None, user: str | None = None, headers=None, passphrase=None):
        """Status, headers and body of one request. `path` is absolute."""
        context = ssl._create_unverified_context()
        request = urllib.request.Request(f"https://{self.host}{path}", method=method, headers=dict(headers or {}))
        if user is not None:
            credentials = f"{user}:{passphrase or PASSPHRASES[user]}".encode()
            request.add_header("Authorization", "Basic " + base64.b64encode(credentials).decode())
        if body is not None:
            request.data = body if isinstance(body, bytes) else json.dumps(body).encode()
            if not request.has_header("Content-type"):
                request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, context=context, timeout=30) as reply:
                return reply.status, reply.headers, reply.read()
        except urllib.error.HTTPError as reply:
            return reply.code, reply.headers, reply.read()

    def state(self) -> str | None:
        """The state, as spelled in the API, or None while the server does not answer."""
        try:
            status, _, body = self.request("GET", "/api/v1/health/state")
        except OSError:
            return None
        return json.loads(body)["state"] if status == 200 else None

    # Clients

    @contextlib.contextmanager
    def sdk(self, user: str | None = None, passphrase: str | None = None):
        """The Python SDK, logged in as `user`."""
        auth = nethsm.Authentication(user, passphrase or PASSPHRASES[user]) if user else None
        with nethsm.connect(self.host, auth, verify_tls=False) as client:
            yield client

    def nitropy(self, *args: str, user: str | None = None, passphrase: str | None = None, stdin: str = "", ok=True) -> str:
        """Runs `nitropy nethsm …` and returns its standard output; fails the test if it fails, unless `ok` is false."""
        command = [str(Path(sys.executable).parent / "nitropy"), "nethsm", "--no-verify-tls", *args]
        # nitropy writes a log file into the folder for temporary files.
        environment = dict(os.environ, ALLOW_ROOT="1", NETHSM_HOST=self.host, TMPDIR=str(self.folder))
        if user:
            environment |= {"NETHSM_USERNAME": user, "NETHSM_PASSWORD": passphrase or PASSPHRASES[user]}
        done = subprocess.run(command, env=environment, input=stdin, capture_output=True, text=True, timeout=120)
        said = done.stdout + done.stderr
        assert (done.returncode == 0) is ok, f"nitropy {' '.join(args)} ended with {done.returncode}:\n{said}"
        return done.stdout

    # Common set-up

    def provision(self) -> None:
        with self.sdk() as anyone:
            anyone.provision(UNLOCK, ADMIN)

    def add_users(self) -> None:
        """One user of each role, named after it."""
        with self.sdk("admin") as admin:
            for name in ("operator", "metrics", "backup"):
                admin.add_user(name.title(), nethsm.Role.from_string(name.title()), PASSPHRASES[name], name)


@contextlib.contextmanager
def device(folder: Path):
    """A running device in an empty folder; its log is shown when the test fails."""
    one = Device(folder)
    try:
        one.start()
        yield one
    finally:
        one.destroy()


@contextlib.contextmanager
def refused(fragment: str = ""):
    """The block must end in an error of the SDK whose text has `fragment`."""
    try:
        yield
    except nethsm.NetHSMError as error:
        assert fragment.lower() in str(error).lower(), f"{fragment!r} is not in {error}"
        return
    raise AssertionError("this should have been refused")
