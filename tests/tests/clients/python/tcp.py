"""The API over TCP: the server proves that it knows the bearer, and then the client presents it.

Run as `tcp.py SOCKET`, with a daemon that has `--tcp 127.0.0.1:0`.
"""

import hashlib
import hmac
import http.client
import os
import secrets
import stat
import unittest

from daemon import SOCKET, TIMEOUT, Process, get, new_token, registration, run, send

BEARER_FILE = os.path.join(os.path.dirname(SOCKET), "local-token")


def bearer():
    with open(BEARER_FILE, encoding="ascii") as file:
        return file.read().strip()


class OverTcp(unittest.TestCase):
    def setUp(self):
        self.address = get("/v1/health").body["tcp"]
        host, _, port = self.address.rpartition(":")
        self.connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT)
        self.addCleanup(self.connection.close)

    def ask(self, method, target, body=None, present=None, **headers):
        if present is not None:
            headers["Authorization"] = f"Bearer {present}"
        return send(self.connection, method, target, body, headers=headers)

    def check_refusal(self, answer, status, code, error):
        self.assertEqual((answer.status, answer.body["code"], answer.body["error"]), (status, code, error), answer)
        self.assertEqual(answer.headers["Content-Type"], "application/problem+json")

    def test_the_bearer_is_in_a_private_file(self):
        self.assertEqual(stat.S_IMODE(os.stat(BEARER_FILE).st_mode), 0o600)
        with open(BEARER_FILE, encoding="ascii") as file:
            self.assertRegex(file.read(), r"^[A-Za-z0-9_-]{43}\n$")

    def test_the_server_proves_itself_on_the_connection_that_is_used_then(self):
        nonce = secrets.token_hex(16)
        answer = self.ask("GET", f"/v1/proof?nonce={nonce}")
        self.assertEqual(answer.status, 200, answer)
        used = self.connection.sock
        text = f"reaperd-proof-v1\n{self.address}\n{nonce}"
        proof = hmac.new(bearer().encode(), text.encode(), hashlib.sha256).hexdigest()
        self.assertEqual(answer.body["proof"], proof)
        self.assertEqual(self.ask("GET", "/v1/sessions", present=bearer()).status, 200)
        self.assertIs(self.connection.sock, used)

    def test_another_nonce_has_another_proof(self):
        proofs = {self.ask("GET", f"/v1/proof?nonce={secrets.token_hex(16)}").body["proof"] for _ in range(3)}
        self.assertEqual(len(proofs), 3)
        for nonce in ("", "ab", "x" * 32, "a" * 129):
            self.assertEqual(self.ask("GET", f"/v1/proof?nonce={nonce}").status, 400, nonce)

    def test_without_the_bearer_nothing_is_served(self):
        process = Process(self)
        body = registration(process.pid)
        for target in ("/v1/version", "/v1/health", "/v1/sessions", "/v1/events", "/v1/nothing", "/metrics"):
            self.check_refusal(self.ask("GET", target), 401, "missing_bearer", "missing bearer token")
            wrong = self.ask("GET", target, present="x" * 43)
            self.check_refusal(wrong, 401, "invalid_bearer", "invalid bearer token")
        refused = self.ask("POST", "/v1/sessions/register", body)
        self.check_refusal(refused, 401, "missing_bearer", "missing bearer token")
        self.assertEqual(get("/v1/sessions/me", body["token"]).body["code"], "unknown_session")

    def test_host_and_origin_are_checked_before_the_bearer(self):
        for host in ("example.com", "localhost.example.com", "10.0.0.1"):
            self.check_refusal(self.ask("GET", "/v1/version", Host=host), 403, "forbidden_host", "forbidden host")
        origin = self.ask("GET", "/v1/version", present=bearer(), Origin="http://localhost")
        self.check_refusal(origin, 403, "forbidden_origin", "forbidden origin")
        self.check_refusal(
            self.ask("GET", "/v1/version?token=x", Host="example.com"), 400, "token_in_query",
            "token must be in Authorization header, not query string",
        )
        for host in ("localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:80"):
            self.assertEqual(self.ask("GET", "/v1/version", present=bearer(), Host=host).status, 200, host)

    def test_a_session_is_registered_here_and_looked_up_over_the_socket(self):
        process = Process(self)
        body = registration(process.pid)
        answer = self.ask("POST", "/v1/sessions/register", body, present=bearer())
        self.assertEqual(answer.status, 200, answer)
        self.assertEqual(get("/v1/sessions/me", body["token"]).body["session"]["pid"], process.pid)
        me = self.ask("GET", "/v1/sessions/me", present=bearer())
        self.assertEqual((me.status, me.body["error"]), (401, "no session token"))
        removed = self.ask("DELETE", "/v1/sessions/" + body["token"], present=bearer())
        self.assertEqual(removed.status, 200)
        self.assertEqual(self.ask("DELETE", "/v1/sessions/" + new_token(), present=bearer()).status, 404)


if __name__ == "__main__":
    run()
