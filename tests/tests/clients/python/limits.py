"""Limits: each is a 429 that says when to try again, `/v1/limits` shows it, and it goes with its cause.

The daemon of this script has small limits, and this user is its only one.
"""

import os
import unittest

from daemon import (
    Process, Stream, UnixConnection, eventually, get, raw_connection, register, registration, request, run,
)

RESOURCES = {"bytes", "connections", "requests", "sessions", "streams"}


def limits():
    return get("/v1/limits").body["limits"]


class Limits(unittest.TestCase):
    def setUp(self):
        # Those of the test before, whose connections have just been closed.
        eventually("nothing is used", lambda: limits()["connections"]["used"] == 1)

    def check_refusal(self, answer, code):
        self.assertEqual((answer.status, answer.body["code"]), (429, code), answer)
        self.assertEqual(answer.headers["Retry-After"], "5")
        self.assertEqual(answer.headers["Content-Type"], "application/problem+json")
        for field in ("type", "title", "detail", "error"):
            self.assertTrue(answer.body[field], field)
        self.assertEqual(answer.body["status"], 429)

    def test_the_limits_are_shown(self):
        def only_this_connection():
            answer = get("/v1/limits")
            return answer.body["limits"]["connections"]["used"] == 1 and answer

        answer = eventually("the former connection is closed", only_this_connection)
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.body["uid"], os.getuid())
        self.assertEqual(RESOURCES - answer.body["limits"].keys(), set())
        for name in RESOURCES:
            limit = answer.body["limits"][name]
            self.assertLessEqual(limit["used"], limit["limit"], name)
            self.assertLessEqual(limit["limit"], limit["total"], name)
        # This request.
        self.assertEqual(answer.body["limits"]["requests"]["used"], 1)
        memory = dict(answer.body["memory"])
        self.assertEqual(memory.pop("total"), sum(memory.values()))
        self.assertEqual("users" in answer.body, os.getuid() == 0)

    def test_sessions(self):
        process = Process(self)
        limit = limits()["sessions"]["limit"]
        bodies = [registration(process.pid) for _ in range(limit)]
        for at, body in enumerate(bodies):
            self.assertEqual(register(body).status, 200)
            self.assertEqual(limits()["sessions"]["used"], at + 1)
        more = registration(process.pid)
        self.check_refusal(register(more), "too_many_sessions_of_user")
        self.assertEqual(get("/v1/sessions/me", more["token"]).body["code"], "unknown_session")

        self.assertIs(register(bodies[0]).body["renewed"], True)
        self.assertEqual(register({**more, "session_id": bodies[0]["session_id"]}).status, 200, "it replaces one")
        self.assertEqual(request("DELETE", "/v1/sessions/me", token=bodies[1]["token"]).status, 200)
        self.assertEqual(register(registration(process.pid)).status, 200, "there is a place again")
        process.signal(9)
        eventually("all ended with their process", lambda: limits()["sessions"]["used"] == 0)
        self.assertEqual(limits()["bytes"]["used"], 0)

    def test_bytes(self):
        process = Process(self)
        long = "x" * 4000
        accepted = 0
        while (answer := register(registration(process.pid, cwd=long))).status == 200:
            accepted += 1
            self.assertGreaterEqual(limits()["bytes"]["used"], accepted * len(long))
        self.check_refusal(answer, "too_many_bytes_of_user")
        self.assertGreater(accepted, 0)
        self.assertLess(accepted, limits()["sessions"]["limit"])
        process.signal(9)
        eventually("all ended with their process", lambda: limits()["bytes"]["used"] == 0)

    def test_streams(self):
        streams = [Stream() for _ in range(limits()["streams"]["limit"])]
        self.assertEqual({stream.status for stream in streams}, {200})
        self.check_refusal(get("/v1/events"), "too_many_streams")
        self.assertEqual(get("/v1/version").status, 200, "requests are still served")
        streams.pop().close()
        eventually("there is a place again", lambda: limits()["streams"]["used"] == len(streams))
        with Stream() as stream:
            self.assertEqual(stream.status, 200)
        for stream in streams:
            stream.close()

    def test_connections(self):
        """Each connection is within a request, so that none of them is idle and can be closed instead."""
        head = b"POST /v1/sessions/register HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
        limit = limits()["connections"]["limit"]
        held = []
        for at in range(limit):
            connected = raw_connection()
            self.addCleanup(connected.close)
            connected.sendall(head)
            held.append(connected)
            if at < limit - 1:
                eventually("the request has started", lambda: limits()["requests"]["used"] == len(held) + 1)
        refused = get("/v1/version")
        self.check_refusal(refused, "too_many_connections")
        self.assertEqual(refused.headers["Connection"], "close")
        for connected in held:
            connected.close()
        eventually("there is a place again", lambda: get("/v1/version").status == 200)

    def test_an_idle_connection_gives_way_to_a_new_one(self):
        idle = [UnixConnection() for _ in range(limits()["connections"]["limit"] * 2)]
        for connection in idle:
            self.addCleanup(connection.close)
            connection.request("GET", "/v1/version")
            self.assertEqual(connection.getresponse().read()[:1], b"{")
        self.assertEqual(get("/v1/version").status, 200)
        # The first one was closed; the client notices that and connects again.
        self.assertEqual(idle[0].sock.recv(1), b"")


if __name__ == "__main__":
    run()
