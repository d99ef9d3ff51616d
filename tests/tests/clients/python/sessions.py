"""Sessions as a client sees them: registering, looking up, listing, removing, renewing, and their time."""

import os
import time
import unittest

from daemon import (
    SOCKET, Process, Stream, UnixConnection, eventually, get, listed, new_token, register, registration, request, run,
    send,
)

DAY_MS = 24 * 60 * 60 * 1000


class Registering(unittest.TestCase):
    def test_the_answer_has_every_field_of_the_page(self):
        process = Process(self)
        before = time.time() * 1000
        answer = register(registration(process.pid))
        self.assertEqual(answer.status, 200, answer)
        expected = {
            "ok", "registered_at", "expires_at", "renewed", "presence_accepted", "start_time", "identity", "sources",
        }
        self.assertEqual(expected - answer.body.keys(), set())
        self.assertIs(answer.body["ok"], True)
        self.assertIs(answer.body["renewed"], False)
        self.assertIs(answer.body["presence_accepted"], False)
        self.assertAlmostEqual(answer.body["registered_at"], before, delta=30_000)
        self.assertEqual(answer.body["expires_at"], answer.body["registered_at"] + DAY_MS)
        with open(f"/proc/{process.pid}/stat", encoding="utf-8") as record:
            start_time = int(record.read().rpartition(")")[2].split()[19])
        self.assertEqual(answer.body["start_time"], start_time)
        self.assertIn(answer.body["identity"], ["pidfd", "stat", "pidfd_inode", "start_time", "pid"])
        self.assertIn("sweep", answer.body["sources"])

    def test_me_is_the_session_without_its_secrets(self):
        process = Process(self)
        key, secret = "AB" * 32, "cd" * 64
        attestation = {"session_pubkey": "00", "parent_member_pubkey": "11", "signature": "22", "expires_at": 1}
        presence = {"session_pubkey": key, "session_secret_key": secret, "parent_attestation": attestation}
        body = registration(process.pid, cwd="/tmp", role="r", groups=["@a", "@b:lead"], presence=presence, later=1)
        body["token"] = body["token"].upper()
        self.assertIs(register(body).body["presence_accepted"], True)

        for token in (body["token"], body["token"].lower()):
            me = get("/v1/sessions/me", token)
            self.assertEqual(me.status, 200, me)
            session = me.body["session"]
            for field, value in (
                ("sessionId", body["session_id"]), ("mesh", "dev"), ("displayName", body["display_name"]),
                ("pid", process.pid), ("cwd", "/tmp"), ("role", "r"), ("groups", ["@a", "@b:lead"]),
                ("token_prefix", body["token"][:8].lower()), ("uid", os.getuid()),
            ):
                self.assertEqual(session[field], value, field)
            self.assertEqual(session["presence"]["sessionPubkey"], key.lower())
            self.assertEqual(session["presence"]["parentAttestation"]["expiresAt"], 1)
            self.assertNotIn(secret, str(me.body))
            self.assertNotIn(body["token"].lower(), str(me.body).lower())

    def test_presence_that_is_not_complete_is_ignored(self):
        process = Process(self)
        body = registration(process.pid, presence={"session_pubkey": "ab" * 32})
        self.assertIs(register(body).body["presence_accepted"], False)
        self.assertNotIn("presence", get("/v1/sessions/me", body["token"]).body["session"])

    def test_the_same_session_is_renewed_without_an_event(self):
        process = Process(self)
        body = registration(process.pid)
        with Stream("?session=" + body["session_id"]) as stream:
            self.assertIs(register(body).body["renewed"], False)
            first = get("/v1/sessions/me", body["token"]).body["session"]
            again = register({**body, "display_name": "other", "ttl": 60})
            self.assertIs(again.body["renewed"], True, again)
            me = get("/v1/sessions/me", body["token"]).body["session"]
            self.assertEqual(me["displayName"], "other")
            self.assertGreaterEqual(me["registeredAt"], first["registeredAt"])
            self.assertEqual(me["expiresAt"], again.body["registered_at"] + 60_000)

            self.assertEqual(request("DELETE", "/v1/sessions/me", token=body["token"]).status, 200)
            names = [stream.next().name for _ in range(2)]
            self.assertEqual(names, ["session_registered", "session_deregistered"])

    def test_a_session_id_has_one_session(self):
        process = Process(self)
        old = registration(process.pid)
        new = {**old, "token": new_token()}
        with Stream("?session=" + old["session_id"]) as stream:
            self.assertEqual(register(old).status, 200)
            self.assertEqual(register(new).status, 200)
            stream.next()
            replaced = stream.next()
            self.assertEqual((replaced.name, replaced.data["cause"]), ("session_deregistered", "replaced"))
            self.assertEqual(stream.next().name, "session_registered")
        gone = get("/v1/sessions/me", old["token"])
        self.assertEqual((gone.status, gone.body["code"]), (401, "session_gone"), gone)
        self.assertEqual(gone.body["cause"], "replaced")
        self.assertEqual(get("/v1/sessions/me", new["token"]).status, 200)
        self.assertEqual(listed().count(old["session_id"]), 1)


class Lists(unittest.TestCase):
    def test_lists_are_in_order_filtered_and_in_pages(self):
        process, other = Process(self), Process(self)
        mesh = "mesh-" + new_token()[:8]
        bodies = [registration(process.pid, mesh=mesh) for _ in range(5)]
        bodies.append(registration(other.pid, mesh=mesh))
        ids = [body["session_id"] for body in bodies]
        for body in bodies:
            self.assertEqual(register(body).status, 200)
        self.assertEqual([it for it in listed() if it in ids], ids)

        def of(query):
            return [session["sessionId"] for session in get("/v1/sessions?" + query).body["sessions"]]

        self.assertEqual(of(f"mesh={mesh}"), ids)
        self.assertEqual(of(f"pid={other.pid}"), ids[5:])
        self.assertEqual(of(f"mesh={mesh}&pid={process.pid}"), ids[:5])
        self.assertEqual(of("mesh=none-has-this"), [])

        pages, after = [], ""
        while True:
            page = get(f"/v1/sessions?mesh={mesh}&limit=4{after}").body
            pages.append([session["sessionId"] for session in page["sessions"]])
            if "next" not in page:
                break
            after = "&after=" + page["next"]
        self.assertEqual(pages, [ids[:4], ids[4:]])

        session = get(f"/v1/sessions?mesh={mesh}&verbose=1").body["sessions"][0]
        self.assertGreaterEqual(session["verifiedAt"], session["registeredAt"])


class Removing(unittest.TestCase):
    def test_each_way_of_removing_answers_once(self):
        process = Process(self)
        body = registration(process.pid, session_id="a/b c")
        token = body["token"]
        for target, header in (
            ("/v1/sessions/me", token),
            ("/v1/sessions/" + token.upper(), None),
            ("/v1/sessions/by-id/a%2Fb%20c", None),
        ):
            with self.subTest(target=target), Stream("?event=session_deregistered") as stream:
                self.assertEqual(register(body).status, 200)
                removed = request("DELETE", target, token=header)
                self.assertEqual(removed.status, 200, removed)
                self.assertIs(removed.body["ok"], True)
                self.assertEqual(removed.body["token_prefix"].lower(), token[:8])
                end = stream.end_of("a/b c").data
                self.assertEqual(
                    [end["cause"], end["source"], end["evidence"], end["exit"]], ["requested", None, None, None]
                )
                self.assertIn(request("DELETE", target, token=header).status, (401, 404))
                self.assertEqual(get("/v1/sessions/me", token).body["cause"], "requested")

    def test_an_unknown_token_in_the_path_has_the_answer_of_the_page(self):
        token = new_token()
        missing = request("DELETE", "/v1/sessions/" + token)
        self.assertEqual((missing.status, missing.body["code"]), (404, "unknown_session"))
        self.assertEqual((missing.body["ok"], missing.body["token_prefix"]), (False, token[:8]))


class Lifetimes(unittest.TestCase):
    def test_a_ttl_ends_a_session_of_a_live_process(self):
        process = Process(self)
        body = registration(process.pid, ttl=1)
        with Stream("?session=" + body["session_id"]) as stream:
            answer = register(body).body
            self.assertEqual(answer["expires_at"] - answer["registered_at"], 1000)
            eventually("the token is refused", lambda: get("/v1/sessions/me", body["token"]).status == 401)
            end = stream.end_of(body["session_id"]).data
            self.assertEqual((end["cause"], end["source"], end["exit"]), ("expired", None, None))
        gone = get("/v1/sessions/me", body["token"]).body
        self.assertEqual((gone["code"], gone["cause"]), ("session_gone", "expired"))
        self.assertIsNone(process.child.poll())

    def test_renewal_in_time_keeps_a_session_with_its_granted_ttl(self):
        process = Process(self)
        body = registration(process.pid, ttl=3)
        first = register(body).body
        del body["ttl"]
        while time.time() * 1000 < first["expires_at"] + 500:
            renewed = register(body).body
            self.assertIs(renewed["renewed"], True)
            self.assertEqual(renewed["expires_at"] - renewed["registered_at"], 3000)
            time.sleep(0.2)
        self.assertEqual(get("/v1/sessions/me", body["token"]).status, 200)

    def test_a_session_can_last_as_long_as_its_process(self):
        process = Process(self)
        body = registration(process.pid, ttl="process")
        self.assertIsNone(register(body).body["expires_at"])
        self.assertIsNone(get("/v1/sessions/me", body["token"]).body["session"]["expiresAt"])

    def test_a_token_file_is_removed_with_its_session(self):
        process = Process(self)
        body = registration(process.pid)
        # The daemon can only remove files that are near its socket.
        path = os.path.join(os.path.dirname(SOCKET), "session-token")
        with open(path, "w", encoding="ascii", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(body["token"])
        self.assertEqual(register({**body, "token_file": path}).status, 200)
        process.signal(9)
        eventually("the token file is gone", lambda: not os.path.exists(path))


class KeptConnections(unittest.TestCase):
    def test_one_connection_carries_many_requests(self):
        process = Process(self)
        connection = UnixConnection()
        self.addCleanup(connection.close)
        body = registration(process.pid)
        answer = send(connection, "POST", "/v1/sessions/register", body)
        used = connection.sock
        self.assertRegex(answer.headers["Keep-Alive"], r"^timeout=\d+$")
        for _ in range(50):
            self.assertEqual(send(connection, "GET", "/v1/sessions/me", token=body["token"]).status, 200)
            self.assertEqual(send(connection, "GET", "/v1/nothing").status, 404)
            self.assertEqual(send(connection, "POST", "/v1/sessions/register", {"token": 1}).status, 422)
            self.assertIs(connection.sock, used, "an error of the request keeps the connection")

    def test_a_client_that_closes_gets_no_promise(self):
        answer = request("GET", "/v1/version", headers={"Connection": "close"})
        self.assertIsNone(answer.headers["Keep-Alive"])

    def test_an_idle_connection_is_kept_longer_than_announced_and_then_closed(self):
        connection = UnixConnection()
        self.addCleanup(connection.close)
        seconds = int(send(connection, "GET", "/v1/version").headers["Keep-Alive"].partition("=")[2])
        start = time.monotonic()
        self.assertEqual(connection.sock.recv(1), b"")
        self.assertGreater(time.monotonic() - start, seconds)


if __name__ == "__main__":
    run()
