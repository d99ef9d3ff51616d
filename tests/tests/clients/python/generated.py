"""Requests that schemathesis generates from the document of the daemon, over TCP and over the Unix socket.

Run as `generated.py SOCKET`, with the packages of requirements.txt and with a daemon that has `--tcp`.
`SECONDS` limits each of the two runs, and `SEED` makes them repeatable. schemathesis.toml and
exceptions.py have what does not apply.
"""

import json
import os
import select
import socket
import subprocess
import sys
import threading
import unittest

from daemon import SOCKET, Process, get, register, registration, run

SECONDS = int(os.environ["SECONDS"])
FOLDER = os.environ["TEST_FOLDER"]
PROGRAM = os.path.join(os.path.dirname(sys.executable), "schemathesis")
CONFIG = os.path.join(os.path.dirname(__file__), "schemathesis.toml")
EXCEPTIONS = os.path.join(os.path.dirname(__file__), "exceptions.py")
BEARER_FILE = os.path.join(os.path.dirname(SOCKET), "local-token")


class Proxy:
    """Passes connections over TCP on to the Unix socket, because schemathesis cannot connect to one."""

    def __init__(self, test):
        self.listener = socket.create_server(("127.0.0.1", 0))
        test.addCleanup(self.listener.close)
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.pass_on, args=(client,), daemon=True).start()

    @staticmethod
    def pass_on(client):
        """Copies what both sides send, until one of them closes its connection."""
        with client, socket.socket(socket.AF_UNIX) as upstream:
            upstream.connect(SOCKET)
            other = {client: upstream, upstream: client}
            try:
                while True:
                    for side in select.select(list(other), [], [])[0]:
                        part = side.recv(65536)
                        if not part:
                            return
                        other[side].sendall(part)
            except OSError:
                return


class Generated(unittest.TestCase):
    def setUp(self):
        self.process = Process(self)

    def document(self):
        """The daemon's own, except that a registration is of a process that lives."""
        document = get("/v1/openapi.json").body
        fields = document["components"]["schemas"]["Registration"]["properties"]
        fields["pid"] = {"enum": [self.process.pid, None]}
        fields["pids"]["items"] = {"enum": [self.process.pid]}
        path = os.path.join(FOLDER, "openapi.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(document, file)
        return path

    def check(self, address, *more):
        command = [
            PROGRAM, "--config-file", CONFIG, "run", self.document(), "--url", f"http://{address}",
            "--max-time", str(SECONDS), "--continue-on-failure", "--request-timeout", "15", *more,
        ]
        if seed := os.environ.get("SEED"):
            command += ["--seed", seed]
        # It takes somewhat longer than it is told to, and keeps a folder of what it has found.
        limit = 2 * SECONDS + 60
        ended = subprocess.run(
            command, cwd=FOLDER, env={**os.environ, "SCHEMATHESIS_HOOKS": EXCEPTIONS}, timeout=limit,
            capture_output=True, text=True, check=False,
        )
        print(ended.stdout)
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)
        self.assertEqual(get("/v1/health").status, 200, "the daemon serves")

    def test_requests_over_the_socket(self):
        # A session to list, to listen to, and to remove.
        self.assertEqual(register(registration(self.process.pid)).status, 200)
        # A valid body takes the place of the daemon.
        self.check(Proxy(self).address, "--exclude-path", "/v1/daemon/replace")

    def test_requests_over_tcp(self):
        with open(BEARER_FILE, encoding="ascii") as file:
            bearer = file.read().strip()
        more = ("--phases", "coverage,fuzzing", "--header", f"Authorization: Bearer {bearer}")
        self.check(get("/v1/health").body["tcp"], *more)


if __name__ == "__main__":
    run()
