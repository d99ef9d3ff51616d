"""A program with a session, with Python's standard library alone: `python3 session.py`.

It makes sure that a daemon runs, registers itself, looks its session up, and follows the events of all
sessions of its user, also when the daemon restarts. SIGTERM ends it. Its session ends with it in any case.
"""

import http.client
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import time

SOCKET = os.environ.get("REAPERD_SOCKET") or os.environ["XDG_RUNTIME_DIR"] + "/reaperd/reaperd.sock"
TOKEN = secrets.token_hex(32)
AS_SESSION = {"Authorization": "ClaudeMesh-Session " + TOKEN}
SESSION = {
    "token": TOKEN,
    "session_id": f"python-{os.getpid()}",
    "mesh": "examples",
    "display_name": "an example in Python",
    "pid": os.getpid(),
    "ttl": "process",
}


class Connection(http.client.HTTPConnection):
    """HTTP over the daemon's socket."""

    def __init__(self):
        super().__init__("localhost")

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(SOCKET)
        # Any user can listen at a path that it can write to: check before the token is sent.
        credentials = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", credentials)
        if uid not in (0, os.getuid()):
            sys.exit(f"the program that listens on {SOCKET} belongs to user {uid}")


def call(method, path, headers=None, body=None):
    """Sends a request, and returns the body of the response."""
    connection = Connection()
    try:
        connection.request(method, path, body and json.dumps(body), headers or {})
        response = connection.getresponse()
        answer = json.load(response)
    finally:
        connection.close()
    if response.status != 200:
        raise RuntimeError(f"{path}: {answer['code']}: {answer['detail']}")
    return answer


def answers():
    try:
        return bool(call("GET", "/v1/version"))
    except (OSError, http.client.HTTPException, RuntimeError):
        return False


def ensure_daemon():
    """Starts a daemon unless one answers. Of several that are started at the same time one stays."""
    if answers():
        return
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen(["reaperd", "daemon"], start_new_session=True, **quiet)
    for _ in range(100):
        if answers():
            return
        time.sleep(0.1)
    sys.exit(f"no daemon answers on {SOCKET}: see reaperd doctor")


def register():
    call("POST", "/v1/sessions/register", body=SESSION)
    me = call("GET", "/v1/sessions/me", AS_SESSION)["session"]
    print(f"registered: {me['sessionId']}, pid {me['pid']}", flush=True)


def frames(response):
    """Yields the fields of each frame, to the end of the stream."""
    fields = {}
    for line in response:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        elif "event" in fields:
            yield fields
            fields = {}
        else:
            # A comment, or the time to wait before a new stream: a second.
            fields = {}


def follow(last_id):
    """Reads a stream of events to its end, and returns the id of the last event."""
    # The snapshot is sent if there is no position yet.
    position = {"Last-Event-ID": last_id} if last_id else {}
    connection = Connection()
    try:
        connection.request("GET", "/v1/events?snapshot=1", headers=position)
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"events: status {response.status}")
        print("following again" if last_id else "following", flush=True)
        for fields in frames(response):
            handle(fields["event"], json.loads(fields["data"]))
            last_id = fields.get("id", last_id)
    except (OSError, http.client.HTTPException) as error:
        print(f"cut off: {error}", flush=True)
    finally:
        connection.close()
    return last_id


def handle(event, data):
    session_id = data.get("session", {}).get("sessionId")
    if event == "session_registered":
        print(f"began: {session_id}", flush=True)
    elif event == "session_deregistered":
        print(f"ended: {session_id}, {data['cause']}", flush=True)
    elif event == "gap":
        print("gap: events are missing, a snapshot follows", flush=True)
    elif event == "snapshot":
        print(f"live: {len(data['sessions'])}", flush=True)
        # A daemon that was started anew has no sessions.
        if not any(it["sessionId"] == SESSION["session_id"] for it in data["sessions"]):
            register()


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    last_id = None
    try:
        while True:
            ensure_daemon()
            # A stream that ends, or that is cut off, is opened again behind the last event.
            last_id = follow(last_id)
            time.sleep(1)
    finally:
        if answers():
            call("DELETE", "/v1/sessions/me", AS_SESSION)


if __name__ == "__main__":
    main()
