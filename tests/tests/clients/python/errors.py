"""Every error of docs/http-api.md that a client can cause: its status, code, field, and the form of its body.

Run as `errors.py SOCKET PAGE`, with a daemon that has `--strict-replace` and, as root, `--allow-uid 2001,2002`.
"""

import json
import os
import re
import socket
import threading
import unittest

from daemon import (
    MORE, SOCKET, TIMEOUT, Process, get, new_token, raw, read_all, register, registration, request, run,
)

IS_ROOT = os.getuid() == 0
# Users that the daemon serves. They need no accounts.
ALICE, BOB = 2001, 2002
# Codes that these tests do not cause, and why.
ELSEWHERE = {
    "forbidden_host": "tcp.py",
    "missing_bearer": "tcp.py",
    "invalid_bearer": "tcp.py",
    "user_not_allowed": "the access list of the socket keeps them out",
    "not_yourself": "needs --register-policy self",
    "process_hidden": "needs a /proc that hides processes",
    "foreign_pid_namespace": "needs a pid namespace",
    "replace_in_progress": "needs two successors at the same time",
    "refused": "this version has a code for every reason",
    "too_many_sessions": "limits.py has the limits of a user",
    "too_many_sessions_of_user": "limits.py",
    "too_many_bytes": "limits.py has the limits of a user",
    "too_many_bytes_of_user": "limits.py",
    "too_many_streams": "limits.py",
    "too_many_requests": "limits.py has too_many_connections, which comes first",
    "too_many_connections": "limits.py",
    "not_now": "needs a daemon without descriptors",
    "kernel_thread": "needs a system whose kernel threads are visible",
}
OF_USERS = {
    "not_your_process", "other_user", "needs_token", "replace_not_allowed", "ambiguous_session",
}
seen = set()


def tearDownModule():
    """Fails if the page has a code that no test has seen."""
    with open(MORE[0], encoding="utf-8") as page:
        rows = re.findall(r"^\| (4\d\d|5\d\d) \| ([^|]*) \|", page.read(), re.MULTILINE)
    documented = {code for _, codes in rows for code in re.findall(r"`([a-z_]+)`", codes)} - {"field", "pid", "uid"}
    documented -= {"session_id", "mesh", "display_name", "token"} | ELSEWHERE.keys()
    if not IS_ROOT:
        print(f"skipped: not root: {sorted(OF_USERS)}")
        documented -= OF_USERS
    if missing := documented - seen:
        raise AssertionError(f"documented, and not seen: {sorted(missing)}")


def response_in(data):
    """Status, content type and body of the only response in these bytes."""
    head, _, body = data.decode().partition("\r\n\r\n")
    content_type = re.search(r"(?i)^content-type: (.*)$", head, re.MULTILINE)[1].strip()
    return int(head.split(" ")[1]), content_type, json.loads(body)


def raw_answer(data):
    """The response to these bytes, after which the daemon closes the connection."""
    return response_in(raw(data))


def as_user(uid, act):
    """Runs `act` in a process of this user, which returns (status, content type, body)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            result = parts_of(act())
        except BaseException as error:  # pylint: disable=broad-except
            result = (0, "", repr(error))
        os.write(writer, json.dumps(result).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        result = json.loads(pipe.read())
    os.waitpid(child, 0)
    return tuple(result)


def parts_of(answer):
    return answer.status, answer.headers["Content-Type"], answer.body


class Errors(unittest.TestCase):
    def check(self, answer, status, code, field=None):
        """Checks status, code and the form of the body."""
        got, content_type, body = answer if isinstance(answer, tuple) else parts_of(answer)
        with self.subTest(code=code, field=field):
            self.assertEqual((got, body["code"], body.get("field")), (status, code, field), body)
            self.assertEqual(content_type, "application/problem+json")
            self.assertEqual(body["status"], status)
            self.assertEqual(body["type"], f"/problems/{code}")
            for name in ("title", "detail", "error"):
                self.assertIsInstance(body[name], str)
                self.assertTrue(body[name], name)
            seen.add(code)
        return body

    def test_malformed_heads(self):
        for head, code in (
            ("GET /v1/version HTTP/1.1\nHost: l\n\n", "bare_line_feed"),
            ("GET /v1/version HTTP/1.1\r\nHost: l\r\nX: a\r\n b\r\n\r\n", "folded_line"),
            ("GET  /v1/version HTTP/1.1\r\nHost: l\r\n\r\n", "bad_request_line"),
            ("GET /v1/version HTTP/1.1\r\nHost: l\r\nX : a\r\n\r\n", "bad_field_name"),
            ("GET /v1/version HTTP/1.1\r\nHost: l\r\nX: \x01\r\n\r\n", "bad_field_value"),
            ("GET /v1/version HTTP/1.1\r\nHost: l\r\nContent-Length: +1\r\n\r\n", "bad_content_length"),
            ("GET / HTTP/1.1\r\nHost: l\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\n", "two_content_lengths"),
            (
                "GET / HTTP/1.1\r\nHost: l\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                "both_length_fields",
            ),
            ("GET / HTTP/1.1\r\nHost: l\r\nTransfer-Encoding: gzip\r\n\r\n", "bad_transfer_encoding"),
            ("GET / HTTP/1.1\r\n\r\n", "bad_host_field"),
        ):
            self.check(raw_answer(head.encode("latin-1")), 400, code)
        long = "a" * 20_000
        self.check(raw_answer(f"GET / HTTP/1.1\r\nHost: l\r\nX: {long}\r\n\r\n".encode()), 431, "head_too_large")
        many = "".join(f"X{at}: a\r\n" for at in range(64))
        self.check(raw_answer(f"GET / HTTP/1.1\r\nHost: l\r\n{many}\r\n".encode()), 431, "head_too_large")

    def test_requests_that_no_route_takes(self):
        self.check(get("/v1/version?token="), 400, "token_in_query")
        for origin in ("null", "http://localhost"):
            self.check(request("GET", "/v1/version", headers={"Origin": origin}), 403, "forbidden_origin")
        two = "Authorization: ClaudeMesh-Session a\r\n" * 2
        answer = raw_answer(f"GET /v1/version HTTP/1.1\r\nHost: l\r\nConnection: close\r\n{two}\r\n".encode())
        self.check(answer, 400, "two_authorizations")
        for method, target in (
            ("GET", "/"), ("GET", "//"), ("GET", "/v1/version/"), ("POST", "/v1/version"), ("OPTIONS", "/v1/sessions"),
            ("GET", "/v1/memory/%zz"),
        ):
            self.check(request(method, target), 404, "not_found")
        self.assertEqual(request("HEAD", "/v1/version").status, 404)
        for query, field in (("pid=x", "pid"), ("limit=0", "limit"), ("uid=x", "uid")):
            self.check(get("/v1/sessions?" + query), 400, "invalid_query", field)

    def test_bodies(self):
        target = "/v1/sessions/register"
        for body, status, code, field in (
            (None, 400, "missing_body", None), ("", 400, "missing_body", None), ("null", 400, "missing_body", None),
            ("{", 400, "invalid_json", None), (b"\xff", 400, "invalid_json", None),
            ("[]", 422, "invalid_token", "token"), ("7", 422, "invalid_token", "token"),
        ):
            self.check(request("POST", target, body), status, code, field)
        self.check(request("POST", target, " " * 65_537), 413, "payload_too_large")
        chunked = "Host: l\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\n[]\r\n0\r\n\r\n"
        self.check(raw_answer(f"POST {target} HTTP/1.1\r\n{chunked}".encode()), 400, "broken_body")

    def test_a_body_that_does_not_come(self):
        start = b"POST /v1/sessions/register HTTP/1.1\r\nHost: l\r\nContent-Length: 9\r\n\r\n"
        self.check(raw_answer(start), 408, "body_timeout")

    def test_fields(self):
        good = registration(Process(self).pid)
        for changes, code, field in (
            ({"token": None}, "invalid_token", "token"),
            ({"token": "x" * 64}, "invalid_token", "token"),
            ({"token": "ab" * 31}, "invalid_token", "token"),
            ({"session_id": None}, "field_required", "session_id"),
            ({"mesh": ""}, "field_required", "mesh"),
            ({"display_name": None}, "field_required", "display_name"),
            ({"pid": None}, "field_required", "pid"),
            ({"session_id": "x" * 129}, "invalid_field", "session_id"),
            ({"mesh": "a\nb"}, "invalid_field", "mesh"),
            ({"display_name": "a\u202eb"}, "invalid_field", "display_name"),
            ({"display_name": 7}, "invalid_field", "display_name"),
            ({"cwd": "x" * 4097}, "invalid_field", "cwd"),
            ({"role": "\u200b"}, "invalid_field", "role"),
            ({"groups": ["x"] * 65}, "invalid_field", "groups"),
            ({"token_file": "relative"}, "invalid_field", "token_file"),
            ({"ttl": 0}, "invalid_field", "ttl"),
            ({"ttl": "never"}, "invalid_field", "ttl"),
            ({"if_answered": "yes"}, "invalid_field", "if_answered"),
            ({"pid": 0}, "invalid_pid", "pid"),
            ({"pid": -5}, "invalid_pid", "pid"),
            ({"pid": 1.5}, "invalid_pid", "pid"),
            ({"pid": 4_194_305}, "invalid_pid", "pid"),
            ({"pid": 4_194_303}, "process_gone", "pid"),
            ({"pid": get("/v1/health").body["pid"]}, "own_pid", "pid"),
        ):
            self.check(register({**good, **changes}), 422, code, field)
        text = json.dumps(good)
        self.check(register(text[:-1] + ', "mesh": "twice"}'), 422, "duplicate_field", "mesh")
        self.assertEqual(get("/v1/sessions/me", good["token"]).body["code"], "unknown_session", "nothing was stored")

    def test_a_thread_is_no_process(self):
        done, started = threading.Event(), threading.Event()
        thread = threading.Thread(target=lambda: (started.set(), done.wait()))
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(done.set)
        started.wait()
        body = self.check(register(registration(thread.native_id)), 422, "thread_id", "pid")
        self.assertIn(str(os.getpid()), body["detail"], "the text names the process")

    def test_tokens(self):
        process, other = Process(self), Process(self)
        self.check(get("/v1/sessions/me"), 401, "no_session_token")
        for target in ("/v1/sessions/me", "/v1/events", "/v1/peers"):
            self.check(get(target, "x"), 401, "malformed_session_token")
            self.check(get(target, new_token()), 401, "unknown_session")
        for token in ("me2", "ab" * 31):
            self.check(request("DELETE", "/v1/sessions/" + token), 400, "invalid_token")
        self.check(request("DELETE", "/v1/sessions/" + new_token()), 404, "unknown_session")
        self.check(request("DELETE", "/v1/sessions/by-id/none"), 404, "unknown_session")
        self.check(request("DELETE", "/v1/sessions/by-id/%zz"), 400, "invalid_query", "session_id")

        body = registration(process.pid)
        self.assertEqual(register(body).status, 200)
        self.check(register({**body, "pid": other.pid}), 409, "token_in_use")
        self.check(register({**body, "token": new_token()}), 409, "needs_old_token")
        self.assertEqual(request("DELETE", "/v1/sessions/me", token=body["token"]).status, 200)
        gone = self.check(get("/v1/sessions/me", body["token"]), 401, "session_gone")
        self.assertEqual((gone["cause"], gone["error"]), ("requested", "no session token"))

    def test_a_broker_is_not_here(self):
        self.check(get("/v1/peers"), 503, "no_broker")

    def test_a_connection_of_a_process_that_has_ended(self):
        body = json.dumps(registration(Process(self).pid)).encode()
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(TIMEOUT)
        self.addCleanup(connected.close)
        if (child := os.fork()) == 0:
            # The connection stays with the parent.
            connected.connect(SOCKET)
            os._exit(0)
        os.waitpid(child, 0)
        head = f"POST /v1/sessions/register HTTP/1.1\r\nHost: l\r\nContent-Length: {len(body)}\r\n"
        connected.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
        self.check(response_in(read_all(connected)), 403, "peer_gone")

    def test_a_replacement_that_reads_another_format(self):
        answer = request("POST", "/v1/daemon/replace", {"format": 999, "tableFormat": 999})
        self.check(answer, 409, "other_format")
        self.assertEqual(get("/v1/version").status, 200)

    @unittest.skipUnless(IS_ROOT, "not root")
    def test_other_users(self):
        process = Process(self)
        own = registration(process.pid)
        self.check(as_user(ALICE, lambda: register(own)), 403, "not_your_process", "pid")
        self.check(as_user(ALICE, lambda: get("/v1/sessions?uid=0")), 403, "other_user", "uid")
        replace = {"format": 1, "tableFormat": 1}
        self.check(as_user(ALICE, lambda: request("POST", "/v1/daemon/replace", replace)), 403, "replace_not_allowed")

        shared = "shared-" + new_token()[:8]
        for user in (ALICE, BOB):
            pid = Process(self, user=user).pid
            status, _, body = as_user(user, lambda: register(registration(pid, session_id=shared)))
            self.assertEqual(status, 200, body)
        by_id = "/v1/sessions/by-id/" + shared
        self.check(as_user(ALICE, lambda: request("DELETE", by_id)), 403, "needs_token")
        self.check(request("DELETE", by_id), 409, "ambiguous_session")
        self.assertEqual(request("DELETE", f"{by_id}?uid={ALICE}").status, 200)


if __name__ == "__main__":
    run()
