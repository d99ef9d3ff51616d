"""`GET /v1/openapi.json` is valid OpenAPI 3.1, and real responses and events have its form and no further fields.

Run as `openapi.py SOCKET`, with the packages of requirements.txt and with a daemon that has `--tcp` and
`--public-health`. `REAPERD` is the program.
"""

import copy
import http.client
import os
import secrets
import signal
import subprocess
import unittest

import daemon
import yaml
from daemon import (
    SOCKET, Process, Stream, eventually, get, new_token, register, registration, request, run, send,
)
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

DOCUMENT = get("/v1/openapi.json").body
# All objects are closed here: a field that is not documented is a fault of this version.
CLOSED = copy.deepcopy(DOCUMENT)


def close(node):
    """Lets no object have further fields than `properties` lists."""
    if isinstance(node, list):
        for item in node:
            close(item)
    if isinstance(node, dict):
        if node.get("type") == "object" and "properties" in node:
            node.setdefault("additionalProperties", False)
        for item in node.values():
            close(item)


close(CLOSED["components"]["schemas"])
close(CLOSED["paths"])
EVENTS = {
    branch["properties"]["event"]["const"]: branch["properties"]["data"]["contentSchema"]
    for branch in CLOSED["components"]["schemas"]["Event"]["oneOf"]
}
# The events that the tests have seen.
seen = set()


def tearDownModule():
    """Fails if an event is documented that no test has seen."""
    if missing := EVENTS.keys() - seen:
        raise AssertionError(f"documented, and not seen: {sorted(missing)}")


def faults(schema, value):
    """What is wrong with this value."""
    validator = Draft202012Validator({**schema, "components": CLOSED["components"]})
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def responses_of(method, path):
    """The documented responses by status, without references."""
    responses = CLOSED["paths"][path][method.lower()]["responses"]
    shared = CLOSED["components"]["responses"]
    return {
        int(status): shared[response["$ref"].rpartition("/")[2]] if "$ref" in response else response
        for status, response in responses.items()
    }


class Documented(unittest.TestCase):
    def check(self, answer, method, path, status=200, code=None):
        """Checks a response against what the document has for this operation."""
        self.assertEqual(answer.status, status, answer)
        response = responses_of(method, path)[status]
        media_type = answer.headers["Content-Type"].partition(";")[0]
        self.assertIn(media_type, response["content"])
        if isinstance(answer.body, (dict, list)):
            self.assertEqual(faults(response["content"][media_type]["schema"], answer.body), [], answer)
        for name, header in response.get("headers", {}).items():
            self.assertIn(name, answer.headers)
            self.assertTrue(header["required"])
        if code is not None:
            every = CLOSED["components"]["responses"].get(str(status), {"x-codes": []})
            self.assertIn(code, response["x-codes"] + every["x-codes"])
            self.assertEqual(answer.body["code"], code)
        return answer.body

    def check_event(self, event):
        self.assertIn(event.name, EVENTS)
        self.assertEqual(faults(EVENTS[event.name], event.data), [], event)
        seen.add(event.name)
        return event

    def check_registration(self, body):
        schema = {"$ref": "#/components/schemas/Registration"}
        self.assertEqual(faults(schema, body), [])
        return self.check(register(body), "POST", "/v1/sessions/register")


class TheDocument(Documented):
    def test_it_is_openapi_3_1(self):
        self.assertTrue(DOCUMENT["openapi"].startswith("3.1."))
        OpenAPIV31SpecValidator(DOCUMENT).validate()

    def test_tools_that_read_json_as_yaml_can_read_it(self):
        # YAML has no escapes in pairs, as JSON has for characters beyond U+FFFF.
        connection = daemon.UnixConnection()
        self.addCleanup(connection.close)
        connection.request("GET", "/v1/openapi.json")
        self.assertEqual(yaml.safe_load(connection.getresponse().read()), DOCUMENT)

    def test_each_operation_has_an_id_of_its_own(self):
        operations = [item for path in DOCUMENT["paths"].values() for item in path.values()]
        ids = {operation["operationId"] for operation in operations}
        self.assertEqual(len(ids), len(operations))

    def test_an_unknown_field_is_a_fault_in_these_tests(self):
        health = get("/v1/health").body
        schema = {"$ref": "#/components/schemas/Health"}
        self.assertEqual(faults(schema, health), [])
        self.assertEqual(len(faults(schema, {**health, "more": 1})), 1)
        del health["status"]
        self.assertEqual(len(faults(schema, health)), 1)


class Sessions(Documented):
    def test_a_session_with_every_field(self):
        process = Process(self)
        attestation = {
            "session_pubkey": "ab" * 32, "parent_member_pubkey": "cd" * 32, "expires_at": 1.5, "signature": "ef" * 64,
        }
        presence = {
            "session_pubkey": "ab" * 32, "session_secret_key": "cd" * 64, "parent_attestation": attestation,
        }
        body = registration(
            process.pid, cwd="/tmp", role="worker", groups=["a"], ttl=60, presence=presence, if_answered=True,
            token_file="/tmp/no-such-file",
        )
        registered = self.check_registration(body)
        self.assertTrue(registered["presence_accepted"])
        self.assertTrue(self.check_registration(body)["renewed"])
        self.check(get("/v1/sessions/me", body["token"]), "GET", "/v1/sessions/me")
        self.check(get("/v1/sessions?verbose=1"), "GET", "/v1/sessions")
        removed = request("DELETE", "/v1/sessions/me", token=body["token"])
        self.check(removed, "DELETE", "/v1/sessions/me")

    def test_a_session_with_few_fields_and_a_list_in_pages(self):
        process = Process(self)
        bodies = [registration(process.pid, ttl="process") for _ in range(3)]
        for body in bodies:
            self.check_registration(body)
        page = self.check(get("/v1/sessions?limit=2"), "GET", "/v1/sessions")
        self.assertIn("next", page)
        for target, path in (
            ("/v1/sessions/" + bodies[0]["token"], "/v1/sessions/{token}"),
            ("/v1/sessions/by-id/" + bodies[1]["session_id"], "/v1/sessions/by-id/{id}"),
        ):
            self.check(request("DELETE", target), "DELETE", path)


    def test_a_session_of_several_processes(self):
        one, other = Process(self), Process.that_exits_with(self, 3)
        body = registration(one.pid, pids=[one.pid, other.pid])
        self.check_registration(body)
        del body["pid"]
        self.check_registration(body)

        def members():
            return self.check(get("/v1/sessions/me", body["token"]), "GET", "/v1/sessions/me")["session"]["members"]

        self.assertEqual([member["ended"] for member in members()], [False, False])
        other.let_go()
        eventually("the end of one", lambda: members()[1]["ended"])
        self.assertEqual(request("DELETE", "/v1/sessions/me", token=body["token"]).status, 200)


class TheDaemon(Documented):
    def test_its_state(self):
        for path in ("/v1/limits", "/v1/sources", "/v1/health", "/v1/version", "/v1/openapi.json", "/metrics"):
            self.check(get(path), "GET", path)
        text = {"Accept": "text/plain"}
        for path, target in (("/metrics", "/metrics"), ("/problems/{code}", "/problems/not_now")):
            answer = request("GET", target, headers=text)
            self.check(answer, "GET", path)
            self.assertTrue(answer.headers["Content-Type"].startswith("text/plain"))

    def test_its_state_after_an_exit(self):
        process = Process.that_exits_with(self, 3)
        self.check_registration(registration(process.pid))
        process.let_go()
        eventually("the exit", lambda: (get("/v1/health").body["last_exit"] or {}).get("pid") == process.pid)
        self.check(get("/v1/health"), "GET", "/v1/health")

    def test_each_code_has_a_page(self):
        for path, item in DOCUMENT["paths"].items():
            for method in item:
                for response in responses_of(method, path).values():
                    for code in response.get("x-codes", []):
                        self.check(get("/problems/" + code), "GET", "/problems/{code}")

    def test_its_state_over_tcp(self):
        host, _, port = get("/v1/health").body["tcp"].rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=daemon.TIMEOUT)
        self.addCleanup(connection.close)
        public = self.check(send(connection, "GET", "/v1/health"), "GET", "/v1/health")
        self.assertNotIn("sources", public)
        self.check(send(connection, "GET", f"/v1/proof?nonce={secrets.token_hex(16)}"), "GET", "/v1/proof")
        self.check(send(connection, "GET", "/v1/proof"), "GET", "/v1/proof", 400, "invalid_query")
        self.check(send(connection, "GET", "/v1/limits"), "GET", "/v1/limits", 401, "missing_bearer")


class Errors(Documented):
    def test_errors_of_registrations(self):
        process, other = Process(self), Process(self)
        body = registration(process.pid)
        self.check_registration(body)
        path = "/v1/sessions/register"
        for bad, status, code in (
            ({**body, "pid": other.pid}, 409, "token_in_use"),
            ({**body, "mesh": None}, 422, "field_required"),
            ({**body, "role": 7}, 422, "invalid_field"),
            ({**body, "pid": 4_194_303}, 422, "process_gone"),
            ("[", 400, "invalid_json"),
            (" " * 65_537, 413, "payload_too_large"),
        ):
            self.check(register(bad), "POST", path, status, code)

    def test_errors_of_tokens(self):
        body = registration(Process(self).pid)
        self.check_registration(body)
        self.assertEqual(request("DELETE", "/v1/sessions/me", token=body["token"]).status, 200)
        me = "/v1/sessions/me"
        for token, code in (
            (None, "no_session_token"), ("x", "malformed_session_token"), (new_token(), "unknown_session"),
            (body["token"], "session_gone"),
        ):
            self.check(get(me, token), "GET", me, 401, code)
        path = "/v1/sessions/{token}"
        gone = request("DELETE", "/v1/sessions/" + new_token())
        self.check(gone, "DELETE", path, 404, "unknown_session")
        self.check(request("DELETE", "/v1/sessions/x"), "DELETE", path, 400, "invalid_token")

    def test_errors_of_every_route(self):
        for path, item in DOCUMENT["paths"].items():
            for method in item:
                if method != "head":
                    answer = request(method.upper(), path.translate({123: "", 125: ""}) + "?token=")
                    self.check(answer, method, path, 400, "token_in_query")

    def test_a_broker_is_not_here(self):
        self.check(get("/v1/peers"), "GET", "/v1/peers", 503, "no_broker")
        self.check(request("DELETE", "/v1/inbox/7"), "DELETE", "/v1/inbox/{id}", 503, "no_broker")


class Events(Documented):
    def end_of(self, stream, body):
        """Reads until the end of this session, and checks each event."""
        end = stream.until(
            "its end", lambda event: self.check_event(event).name == "session_deregistered"
            and event.session_id == body["session_id"],
        )
        return end.data

    def test_events_of_each_cause(self):
        process, exits, killed = Process(self), Process.that_exits_with(self, 3), Process(self)
        with Stream("?snapshot=1") as stream:
            removed, replaced, expired = (registration(process.pid) for _ in range(3))
            for body in (removed, replaced, {**expired, "ttl": 1}):
                self.check_registration(body)
            self.assertEqual(request("DELETE", "/v1/sessions/me", token=removed["token"]).status, 200)
            self.assertEqual(self.end_of(stream, removed)["cause"], "requested")
            self.check_registration({**replaced, "token": new_token()})
            self.assertEqual(self.end_of(stream, replaced)["cause"], "replaced")
            body = registration(exits.pid)
            self.check_registration(body)
            exits.let_go()
            self.assertEqual(self.end_of(stream, body)["cause"], "exited")
            body = registration(killed.pid)
            self.check_registration(body)
            killed.signal(signal.SIGKILL)
            self.assertEqual(self.end_of(stream, body)["exit"]["signal"], signal.SIGKILL)
            eventually("the ttl", lambda: get("/v1/sessions/me", expired["token"]).status == 401)
            self.assertEqual(self.end_of(stream, expired)["cause"], "expired")

    def test_a_gap_and_a_snapshot_after_another_run(self):
        body = registration(Process(self).pid)
        self.check_registration(body)
        with Stream(last_id="0000000000000000.1") as stream:
            names = [self.check_event(stream.next()).name for _ in range(2)]
        self.assertEqual(names, ["gap", "snapshot"])

    def test_the_end_of_the_session_of_a_stream(self):
        body = registration(Process(self).pid)
        self.check_registration(body)
        with Stream(token=body["token"]) as stream:
            self.assertEqual(request("DELETE", "/v1/sessions/me", token=body["token"]).status, 200)
            stream.until("the end", lambda event: self.check_event(event).name == "end")

    def test_the_head_of_a_stream(self):
        response = responses_of("get", "/v1/events")[200]
        with Stream() as stream:
            for name, header in response["headers"].items():
                self.assertEqual(stream.response.headers[name], header["schema"]["const"])
            self.assertEqual([stream.response.headers["Content-Type"]], list(response["content"]))

    def test_the_start_and_the_end_of_a_daemon(self):
        socket = os.path.join(os.environ["TEST_FOLDER"], "own", "reaperd.sock")
        command = [os.environ["REAPERD"], "daemon", "--socket", socket, "--no-config"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as own:
            self.addCleanup(own.kill)
            self.addCleanup(setattr, daemon, "SOCKET", SOCKET)
            daemon.SOCKET = socket
            eventually("it serves", lambda: os.path.exists(socket))
            with Stream("?since=0") as stream:
                own.terminate()
                stream.until("the end", lambda event: self.check_event(event).name == "shutdown")
            self.assertEqual(own.wait(), 0)


if __name__ == "__main__":
    run()
