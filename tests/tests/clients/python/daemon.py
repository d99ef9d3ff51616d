"""A client of the daemon, written from docs/http-api.md with the standard library alone.

Each test file of this folder is run as `python3 FILE SOCKET [MORE]` and ends with `run()`.
"""

import http.client
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import unittest

# Long enough for a machine that is busy with other work.
TIMEOUT = 30

# The script takes its arguments off, so that unittest does not read them.
SOCKET = sys.argv[1] if len(sys.argv) > 1 else ""
MORE = sys.argv[2:]


def run():
    """Runs the tests of the script. The exit status says whether they passed."""
    unittest.main(argv=[sys.argv[0]], verbosity=2)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the daemon's Unix socket."""

    def __init__(self):
        super().__init__("localhost", timeout=TIMEOUT)

    def connect(self):
        self.sock = raw_connection()


def raw_connection():
    """A connected socket, for bytes that no HTTP library sends."""
    connected = socket.socket(socket.AF_UNIX)
    connected.settimeout(TIMEOUT)
    connected.connect(SOCKET)
    return connected


class Response:
    """A complete response: `status`, `headers` and `body`, which is decoded JSON."""

    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        text = response.read()
        is_json = "json" in (self.headers.get("Content-Type") or "")
        # A response to HEAD has the type of a body and no body.
        self.body = json.loads(text) if is_json and text else text

    def __repr__(self):
        return f"{self.status} {self.body}"


def send(connection, method, target, body=None, token=None, headers=None):
    """Sends a request on this connection, and returns the response."""
    headers = dict(headers or {})
    if token is not None:
        headers["Authorization"] = f"ClaudeMesh-Session {token}"
    if isinstance(body, (dict, list)):
        headers["Content-Type"] = "application/json"
        body = json.dumps(body)
    connection.request(method, target, body, headers)
    return Response(connection.getresponse())


def request(method, target, body=None, token=None, headers=None):
    """As `send`, on a connection of its own."""
    connection = UnixConnection()
    try:
        return send(connection, method, target, body, token, headers)
    finally:
        connection.close()


def get(target, token=None):
    return request("GET", target, token=token)


def raw(data):
    """Sends these bytes, and reads until the daemon closes the connection."""
    with raw_connection() as connected:
        connected.sendall(data)
        return read_all(connected)


def read_all(connected):
    """Reads until the daemon closes the connection."""
    received = b""
    while part := connected.recv(65536):
        received += part
    return received


def new_token():
    return secrets.token_hex(32)


def registration(pid, session_id=None, **more):
    """The body of a registration, with a token of its own."""
    session_id = session_id or "s-" + secrets.token_hex(4)
    fields = {
        "token": new_token(),
        "session_id": session_id,
        "mesh": "dev",
        "display_name": session_id,
        "pid": pid,
    }
    return {**fields, **more}


def register(body):
    return request("POST", "/v1/sessions/register", body)


def listed():
    """The ids of the listed sessions, in their order."""
    return [session["sessionId"] for session in get("/v1/sessions").body["sessions"]]


def eventually(what, holds):
    """Waits until `holds()` returns something true, and returns it."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        if found := holds():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {TIMEOUT} s: {what}")
        time.sleep(0.005)


class Process:
    """A process to register. It does nothing, and is killed at the end of the test."""

    def __init__(self, test, *command, user=None):
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
        self.child = subprocess.Popen(command or ("sleep", "1000"), user=user, **streams)
        self.pid = self.child.pid
        test.addCleanup(self.end)

    @classmethod
    def that_exits_with(cls, test, code):
        """A process that exits with this code when `let_go` is called."""
        return cls(test, "sh", "-c", f"read line; exit {code}")

    def let_go(self):
        self.child.stdin.close()

    def signal(self, number):
        os.kill(self.pid, number)

    def end(self):
        if not self.child.stdin.closed:
            self.child.stdin.close()
        self.child.kill()
        self.child.wait()


class Event:
    """One frame of a stream: `id` (None if it has none), `name`, and `data`, which is decoded."""

    def __init__(self, block):
        fields = {}
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            # A field may have several lines in general; this daemon sends one of each.
            fields[name] = value.removeprefix(" ")
        self.id = fields.get("id")
        self.name = fields.get("event", "message")
        self.data = json.loads(fields.get("data") or "null")

    @property
    def seq(self):
        return int(self.id.partition(".")[2])

    @property
    def session_id(self):
        """The id of the session that it is about; None if it is about none."""
        return (self.data or {}).get("session", {}).get("sessionId")

    def __repr__(self):
        return f"{self.id} {self.name} {self.data}"


class Stream:
    """A stream of server-sent events."""

    def __init__(self, query="", last_id=None, token=None):
        headers = {"Accept": "text/event-stream"}
        if last_id is not None:
            headers["Last-Event-ID"] = last_id
        if token is not None:
            headers["Authorization"] = f"ClaudeMesh-Session {token}"
        self.connection = UnixConnection()
        self.connection.request("GET", "/v1/events" + query, headers=headers)
        self.response = self.connection.getresponse()
        self.status = self.response.status
        self.last_id = last_id
        self.retry = None
        self.comments = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.response.close()
        self.connection.close()

    def next(self):
        """The next event, or None at the end of the stream."""
        while (block := self.block()) is not None:
            if block.startswith(":"):
                self.comments.append(block[1:].strip())
            elif block.startswith("retry:"):
                self.retry = int(block.removeprefix("retry:"))
            else:
                event = Event(block)
                self.last_id = event.id or self.last_id
                return event
        return None

    def block(self):
        """The lines up to an empty one, or None at the end of the stream."""
        lines = []
        while line := self.response.readline():
            if line == b"\n":
                return "\n".join(lines)
            lines.append(line.decode().removesuffix("\n"))
        return None

    def until(self, what, holds):
        """Reads until an event for which `holds(event)` is true, and returns that event."""
        while (event := self.next()) is not None:
            if holds(event):
                return event
        raise AssertionError(f"the stream ended before {what}")

    def end_of(self, session_id):
        """Reads until this session's end."""

        def is_its_end(event):
            return event.name == "session_deregistered" and event.session_id == session_id

        return self.until(f"the end of {session_id}", is_its_end)
