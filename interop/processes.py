"""Starts the real binaries on free loopback ports and ends them again."""

import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = pathlib.Path(os.environ.get("PREXORCLOUD_BIN", ROOT / "target" / "debug" / "prexorcloud"))
DEADLINE = 20.0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(fact, what, deadline=DEADLINE):
    """Asks for a fact until it is there; an error names what was awaited and what was there instead."""
    end = time.monotonic() + deadline
    last = None
    while time.monotonic() < end:
        try:
            last = fact()
            if last:
                return last
        except (OSError, http.client.HTTPException) as error:
            last = error
        threading.Event().wait(0.02)
    raise AssertionError(f"{what} did not happen within {deadline} s; last seen: {last}")


class Program:
    """A running binary whose output is kept for the error message of a failing test."""

    def __init__(self, arguments, environment=None, by=()):
        """`by` is a command that becomes the program, whose command line it gets."""
        self.process = subprocess.Popen(
            [*by, str(BINARY), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "NO_COLOR": "1", **(environment or {})},
            text=True,
        )
        self.lines = []
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self):
        with self.process.stdout as output:
            for line in output:
                self.lines.append(line.rstrip())

    def output(self):
        return "\n".join(self.lines)

    def wait(self, deadline=DEADLINE):
        return self.process.wait(timeout=deadline)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Controller:
    """Our controller, with its HTTP interface."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.grpc_port, self.http_port = free_port(), free_port()
        self.data = self.folder / "controller"
        self.program = Program(
            ["controller", "--data-dir", str(self.data)],
            {
                "PREXORCLOUD_CONTROLLER_GRPC_LISTEN": f"127.0.0.1:{self.grpc_port}",
                "PREXORCLOUD_CONTROLLER_HTTP_LISTEN": f"127.0.0.1:{self.http_port}",
                "PREXORCLOUD_CONTROLLER_HEARTBEAT_INTERVAL_MS": "1000",
                # The modules of these tests are not signed.
                "PREXORCLOUD_CONTROLLER_MODULES_SIGNING_MODE": "optional",
            },
        )
        try:
            until(lambda: self.request("GET", "/system/ready")[0] == 200, "the controller getting ready")
        except AssertionError as error:
            self.program.stop()
            raise AssertionError(f"{error}\n{self.program.output()}") from None

    @property
    def address(self):
        return f"127.0.0.1:{self.grpc_port}"

    def admin_token(self):
        path = self.data / "admin.token"
        return path.read_text().strip() if path.exists() else ""

    def request(self, method, path, body=None):
        status, text = self.exchange(method, path, body)
        return status, json.loads(text) if text else None

    def exchange(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=10)
        headers = {"Authorization": f"Bearer {self.admin_token()}", "Content-Type": "application/json"}
        try:
            connection.request(method, f"/api/v1{path}", None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def get(self, path):
        status, body = self.request("GET", path)
        assert status == 200, f"GET {path}: {status} {body}"
        return body

    def text(self, path):
        status, text = self.exchange("GET", path)
        assert status == 200, f"GET {path}: {status} {text}"
        return text

    def post(self, path, body=None, expected=(200, 201, 202)):
        status, answer = self.request("POST", path, body)
        assert status in expected, f"POST {path}: {status} {answer}"
        return answer

    def ctl(self, *arguments):
        """What `prexorctl` prints as the administrator, who has the answer in JSON."""
        ran = subprocess.run(
            [str(BINARY), "ctl", "--token-file", str(self.data / "admin.token"), "-o", "json", *arguments],
            env={
                **os.environ,
                "HOME": str(self.folder),
                "PREXORCTL_CONTROLLER": f"http://127.0.0.1:{self.http_port}",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ran.returncode == 0, f"prexorctl {arguments}: {ran.stdout}{ran.stderr}"
        return json.loads(ran.stdout)

    def join_token(self, **fields):
        return self.post("/admin/tokens", fields)["token"]

    def stop(self):
        self.program.stop()
