"""Event streams: their form, resuming, gaps, snapshots and filters, as docs/http-api.md describes them."""

import re
import unittest

from daemon import (
    Process, Stream, UnixConnection, eventually, get, listed, new_token, raw_connection, register, registration,
    request, run, send,
)

# How many events the daemon keeps.
KEPT = 4096
ID = re.compile(r"^([0-9a-f]{16})\.([1-9][0-9]*)$")


def make_events(test, count, ids=("s",)):
    """Makes so many events, by registering and removing these sessions, on one connection."""
    process = Process(test)
    connection = UnixConnection()
    bodies = [registration(process.pid, session_id=session_id) for session_id in ids]
    for at in range(count // 2):
        body = bodies[at % len(bodies)]
        test.assertEqual(send(connection, "POST", "/v1/sessions/register", body).status, 200)
        test.assertEqual(send(connection, "DELETE", "/v1/sessions/me", token=body["token"]).status, 200)
    connection.close()


def latest_event():
    """The number of the last event so far."""
    with Stream("?snapshot=1") as stream:
        return stream.next().seq


class QuietDaemon(unittest.TestCase):
    """Each test begins when the events of the one before, and of the start, have been made."""

    def setUp(self):
        eventually("no session is left", lambda: not listed())
        states = lambda: {source["state"] for source in get("/v1/sources").body["sources"]}
        eventually("all sources have started", lambda: "starting" not in states())


class Form(QuietDaemon):
    def test_a_stream_begins_as_the_page_says(self):
        with raw_connection() as connected:
            connected.sendall(b"GET /v1/events?snapshot=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = b""
            while b"\ndata: " not in received:
                received += connected.recv(65536)
        head, _, body = received.decode().partition("\r\n\r\n")
        fields = {line.partition(": ")[0].lower(): line.partition(": ")[2] for line in head.split("\r\n")[1:]}
        self.assertTrue(fields["content-type"].startswith("text/event-stream"), head)
        # The stream ends with its connection, so that clients see the end of a killed daemon too.
        self.assertNotIn("content-length", fields)
        self.assertNotIn("transfer-encoding", fields)
        self.assertTrue(body.startswith(": connected\n\nretry: 1000\n\nid: "), body)

    def test_events_are_numbered_and_complete(self):
        process = Process(self)
        body = registration(process.pid)
        with Stream("?session=" + body["session_id"]) as stream:
            self.assertEqual(stream.response.headers["Content-Type"].partition(";")[0], "text/event-stream")
            answer = register(body).body
            request("DELETE", "/v1/sessions/me", token=body["token"])
            registered, ended = stream.next(), stream.next()
        self.assertEqual((stream.retry, stream.comments), (1000, ["connected"]))
        self.assertEqual((registered.name, ended.name), ("session_registered", "session_deregistered"))
        for event in (registered, ended):
            self.assertRegex(event.id, ID)
            self.assertEqual(event.data["seq"], event.seq)
            self.assertRegex(event.data["ts"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
            self.assertEqual(event.session_id, body["session_id"])
            self.assertNotIn(body["token"], str(event.data))
        self.assertGreater(ended.seq, registered.seq)
        self.assertEqual(registered.data["session"]["registeredAt"], answer["registered_at"])
        fields = {"ts", "seq", "session", "cause", "source", "evidence", "exit", "detection_us"}
        self.assertEqual(fields - ended.data.keys(), set())


class Resuming(QuietDaemon):
    def test_a_stream_that_is_cut_again_and_again_has_no_hole_and_no_duplicate(self):
        with Stream() as start:
            make_events(self, 2)
            first = start.next()
        make_events(self, 60, ids=("a", "b", "c"))
        end = latest_event()
        self.assertGreaterEqual(end, first.seq + 61)
        seen, length = [first], 0
        while seen[-1].seq < end:
            # One more than in the last stream each time, then a cut.
            length += 1
            with Stream(last_id=seen[-1].id) as stream:
                seen += [stream.next() for _ in range(min(length, end - seen[-1].seq))]
        self.assertEqual([event.seq for event in seen], list(range(first.seq, end + 1)))
        self.assertEqual({event.id.partition(".")[0] for event in seen}, {first.id.partition(".")[0]})

    def test_a_filter_hides_events_but_not_their_numbers(self):
        with Stream() as start:
            make_events(self, 2)
            before = start.next()
        make_events(self, 40, ids=("wanted", "unwanted"))
        end = latest_event()
        for query, wanted in (
            ("?session=wanted", lambda event: event.session_id == "wanted"),
            ("?event=session_deregistered", lambda event: event.name == "session_deregistered"),
            ("?event=session_registered,session_deregistered", lambda event: event.session_id is not None),
        ):
            with self.subTest(query=query), Stream(last_id=before.id) as everything:
                expected = self.up_to(everything, end, wanted)
                with Stream(query, last_id=before.id) as filtered:
                    got = [filtered.next().id for _ in expected]
                self.assertEqual(got, [event.id for event in expected])

    @staticmethod
    def up_to(stream, seq, wanted):
        """The wanted events up to the one with this number."""
        events = []
        while not events or events[-1].seq < seq:
            events.append(stream.next())
        return [event for event in events if wanted(event)]


class Gaps(QuietDaemon):
    def snapshot_of(self, stream):
        """The snapshot that follows at once, and the ids of its sessions."""
        snapshot = stream.next()
        self.assertEqual(snapshot.name, "snapshot")
        self.assertRegex(snapshot.id, ID)
        return snapshot, [session["sessionId"] for session in snapshot.data["sessions"]]

    def test_an_id_of_another_run_gets_a_gap_and_a_snapshot(self):
        process = Process(self)
        live = registration(process.pid)
        register(live)
        for last_id in ("0123456789abcdef.7", "nonsense", "7", "0123456789abcdef.", "x" * 1000):
            with self.subTest(last_id=last_id), Stream(last_id=last_id) as stream:
                gap = stream.next()
                self.assertEqual((gap.name, gap.id, gap.data), ("gap", None, {"reason": "epoch"}))
                snapshot, ids = self.snapshot_of(stream)
                self.assertIn(live["session_id"], ids)
                later = registration(process.pid)
                register(later)
                event = stream.until("the new session", lambda event: event.session_id == later["session_id"])
                self.assertGreater(event.seq, snapshot.seq)

    def test_more_events_than_are_kept_are_a_gap(self):
        process = Process(self)
        live = registration(process.pid)
        lagging = Stream()
        self.addCleanup(lagging.close)
        register(live)
        first = lagging.until("its session", lambda event: event.session_id == live["session_id"])

        # Enough to fill the buffers of the stream that is not read, too.
        count = 2 * KEPT
        make_events(self, count)
        latest = latest_event()
        self.assertGreaterEqual(latest, first.seq + count)

        with self.subTest("a stream that resumes too late"), Stream(last_id=first.id) as stream:
            gap = stream.next()
            self.assertEqual((gap.name, gap.id), ("gap", None))
            self.assertEqual(gap.data["missed_from"], first.seq + 1)
            self.assertGreaterEqual(gap.data["missed_to"], gap.data["missed_from"])
            snapshot, ids = self.snapshot_of(stream)
            self.assertGreaterEqual(snapshot.seq, latest)
            self.assertIn(live["session_id"], ids)

        with self.subTest("a stream that resumes in time"):
            # Some of those that are kept are about sources, from the start of the daemon.
            seq = latest - KEPT + 100
            with Stream(last_id=f"{first.id.partition('.')[0]}.{seq}") as stream:
                self.assertEqual(stream.next().seq, seq + 1)

        with self.subTest("a stream that was not read"):
            self.check_numbers(lagging, first.seq, latest)

    def check_numbers(self, stream, last, end):
        """Each number after `last` up to `end` is that of an event or inside a gap."""
        missed = 0
        while last < end:
            event = stream.next()
            if event.name == "gap":
                self.assertEqual(event.data["missed_from"], last + 1)
                missed += event.data["missed_to"] - last
                last = event.data["missed_to"]
                self.assertEqual(event.seq, last)
            else:
                self.assertEqual(event.seq, last + 1)
                last = event.seq
        self.assertGreater(missed, 0, "this stream has read everything")


class OneSession(QuietDaemon):
    def test_a_stream_of_a_token_has_its_session_only_and_ends_with_it(self):
        process, other = Process(self), Process(self)
        body, unrelated = registration(process.pid), registration(other.pid)
        register(body)
        with Stream(token=body["token"]) as stream:
            self.assertEqual(stream.status, 200)
            register(unrelated)
            register({**body, "session_id": body["session_id"]})
            process.signal(9)
            end = stream.next()
            self.assertEqual((end.name, end.session_id), ("session_deregistered", body["session_id"]))
            last = stream.next()
            self.assertEqual((last.name, last.id), ("end", None))
            self.assertIsNone(stream.next(), "the stream ends")

    def test_a_token_without_a_session_gets_no_stream(self):
        for token, code in ((new_token(), "unknown_session"), ("short", "malformed_session_token")):
            answer = get("/v1/events", token)
            self.assertEqual((answer.status, answer.body["code"]), (401, code))

    def test_an_unknown_event_name_is_refused(self):
        answer = get("/v1/events?event=session_registered,nonsense")
        self.assertEqual((answer.status, answer.body["code"], answer.body["field"]), (400, "invalid_query", "event"))

    def test_a_snapshot_has_the_filters_of_its_stream(self):
        process = Process(self)
        wanted, unwanted = registration(process.pid), registration(process.pid)
        register(wanted)
        register(unwanted)
        with Stream(f"?snapshot=1&session={wanted['session_id']}&event=session_deregistered") as stream:
            snapshot = stream.next()
            self.assertEqual([it["sessionId"] for it in snapshot.data["sessions"]], [wanted["session_id"]])
            process.signal(9)
            self.assertEqual(stream.next().session_id, wanted["session_id"])


if __name__ == "__main__":
    run()
