"""Ends of registered processes: what the event and `me` say about cause and exit."""

import os
import signal
import subprocess
import unittest

from daemon import Process, Stream, UnixConnection, get, listed, register, registration, run, send

# These see the wait status. The others may see the end of a process that they know nothing more about.
SEE_THE_STATUS = ("netlink", "ebpf")
EVIDENCE = ("pidfd", "stat", "start_time", "group_dead")


class Deaths(unittest.TestCase):
    def check_end(self, stream, body, expected):
        """Reads this session's end, and compares it with `me`. `expected` are the parts of `exit`."""
        event = stream.end_of(body["session_id"])
        end = event.data
        self.assertEqual(end["cause"], "exited", event)
        self.assertIn(end["source"], ("netlink", "ebpf", "pidfd", "sweep", "register"))
        self.assertIn(end["evidence"], EVIDENCE)
        if end["source"] in SEE_THE_STATUS:
            self.assertIsNotNone(end["exit"], event)
            self.assertIsInstance(end["detection_us"], int)
        if end["exit"] is not None:
            status = dict(end["exit"])
            self.assertTrue(status.pop("from"), event)
            self.assertEqual(status, expected, event)

        gone = get("/v1/sessions/me", body["token"])
        self.assertEqual((gone.status, gone.body["code"]), (401, "session_gone"))
        for field in ("cause", "source", "evidence", "exit"):
            self.assertEqual(gone.body[field], end[field], field)
        self.assertEqual(gone.body["error"], "no session token")
        self.assertNotIn(body["session_id"], listed())

    def test_an_exit_has_its_code(self):
        for code in (0, 3, 255):
            with self.subTest(code=code), Stream() as stream:
                process = Process.that_exits_with(self, code)
                body = registration(process.pid)
                self.assertEqual(register(body).status, 200)
                process.let_go()
                self.check_end(stream, body, {"code": code})

    def test_a_signal_has_its_number(self):
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1):
            with self.subTest(signal=number), Stream() as stream:
                process = Process(self)
                body = registration(process.pid)
                self.assertEqual(register(body).status, 200)
                process.signal(number)
                self.check_end(stream, body, {"signal": int(number), "core": False})

    def test_a_process_that_has_not_been_waited_for_is_gone(self):
        with Stream() as stream:
            child = subprocess.Popen(["sleep", "1000"])
            self.addCleanup(child.wait)
            body = registration(child.pid)
            self.assertEqual(register(body).status, 200)
            child.send_signal(signal.SIGKILL)
            self.check_end(stream, body, {"signal": 9, "core": False})
            with open(f"/proc/{child.pid}/stat", encoding="utf-8") as record:
                self.assertEqual(record.read().rpartition(")")[2].split()[0], "Z", "still a zombie")

    def test_all_sessions_of_a_process_end_with_it(self):
        with Stream() as stream:
            process = Process(self)
            bodies = [registration(process.pid) for _ in range(100)]
            connection = UnixConnection()
            self.addCleanup(connection.close)
            for body in bodies:
                self.assertEqual(send(connection, "POST", "/v1/sessions/register", body).status, 200)
            process.signal(signal.SIGKILL)
            wanted = {body["session_id"] for body in bodies}
            ended = []
            while len(ended) < len(wanted):
                event = stream.until("all ends", lambda event: event.name == "session_deregistered")
                ended.append(event.session_id)
        self.assertEqual(set(ended), wanted)

    def test_a_live_process_keeps_its_session_whatever_it_does(self):
        """A stop, children that end, and another program in the same process."""
        script = "for i in 1 2 3 4 5; do true | cat; done; read line; exec sleep 1000"
        process = Process(self, "sh", "-c", script)
        body = registration(process.pid)
        with Stream("?session=" + body["session_id"]) as stream:
            self.assertEqual(register(body).status, 200)
            process.signal(signal.SIGSTOP)
            self.assertEqual(get("/v1/sessions/me", body["token"]).status, 200)
            process.signal(signal.SIGCONT)
            process.let_go()
            # The end of another process, which comes after that of the children, shows that time has passed.
            with Stream() as others:
                other = Process(self)
                other_body = registration(other.pid)
                register(other_body)
                other.signal(signal.SIGKILL)
                others.end_of(other_body["session_id"])
            self.assertEqual(get("/v1/sessions/me", body["token"]).status, 200)
            self.assertEqual(stream.next().name, "session_registered")
            process.signal(signal.SIGTERM)
            self.assertEqual(stream.next().data["cause"], "exited")

    def test_a_process_that_has_ended_is_not_registered(self):
        ended = subprocess.Popen(["true"])
        ended.wait()
        body = registration(ended.pid)
        answer = register(body)
        self.assertEqual((answer.status, answer.body["code"], answer.body["field"]), (422, "process_gone", "pid"))
        self.assertEqual(get("/v1/sessions/me", body["token"]).body["code"], "unknown_session")

    def test_a_registration_that_races_with_the_end_has_one_of_two_outcomes(self):
        """It is refused, or there is a session that ends. None stays."""
        with Stream("?event=session_deregistered") as stream:
            expected, refused = set(), 0
            for _ in range(60):
                child = subprocess.Popen(["sleep", "1000"])
                body = registration(child.pid)
                child.kill()
                answer = register(body)
                child.wait()
                if answer.status == 200:
                    expected.add(body["session_id"])
                else:
                    self.assertEqual(answer.body["code"], "process_gone", answer)
                    refused += 1
            missing = set(expected)
            while missing:
                missing.discard(stream.next().session_id)
            print(f"{len(expected)} registered, {refused} refused", flush=True)
            self.assertFalse(expected & set(listed()))

    def test_a_process_can_register_itself(self):
        """As a program does that registers at its start and never removes its session."""
        with Stream() as stream:
            pid = os.fork()
            if pid == 0:
                answer = register(registration(os.getpid(), session_id="itself"))
                os._exit(7 if answer.status == 200 else 1)
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 7)
            end = stream.end_of("itself").data
            self.assertEqual((end["cause"], end["session"]["pid"]), ("exited", pid))
            if end["exit"] is not None:
                self.assertEqual(end["exit"]["code"], 7)


if __name__ == "__main__":
    run()
