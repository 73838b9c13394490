"""A controller written from the .proto files alone, against our daemon."""

import shutil
import stat
import unittest

import grpc

import contract
import pki
import processes
from controller_peer import ControllerCase, Peer

daemon = contract.daemon


class ControllerPeer(ControllerCase):
    # Enrolment

    def test_the_daemon_enrols_once_and_keeps_its_secrets_to_itself(self):
        stream, handshake = self.admitted()
        self.assertEqual(self.peer.exchanged, [(self.token(), "python-node")])
        self.assertEqual((handshake.node_id, handshake.protocol_version), ("python-node", 1))
        self.assertTrue(handshake.version and handshake.host_info.os_name)
        self.assertNotIn(Peer.TOKEN, self.config.read_text())
        self.assertNotIn(Peer.TOKEN, self.program.output())
        secret = [path for path in (self.folder / "data").rglob("*") if path.suffix == ".p12" or "password" in path.name]
        self.assertTrue(secret)
        for path in secret:
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600, path)
            self.assertEqual(stat.S_IMODE(path.parent.stat().st_mode), 0o700, path.parent)
        stream.finish()
        again = self.peer.next_stream()
        again.expect("handshake")
        self.assertEqual(len(self.peer.exchanged), 1)

    def test_a_wrong_pin_ends_before_the_token_is_sent(self):
        program = self.launch(token=f"{Peer.TOKEN}.{pki.Authority().pin()}")
        self.assertNotEqual(program.wait(), 0)
        self.assertEqual(self.peer.exchanged, [])
        self.assertNotIn(Peer.TOKEN, program.output())

    def test_a_token_without_pin_needs_the_operators_word(self):
        program = self.launch(token=Peer.TOKEN)
        self.assertNotEqual(program.wait(), 0)
        self.assertEqual(self.peer.exchanged, [])
        self.assertIn("trust", program.output())

    def test_a_refused_token_is_final(self):
        self.peer.refuse_with = grpc.StatusCode.FAILED_PRECONDITION
        program = self.launch()
        self.assertNotEqual(program.wait(), 0)

    # The session

    def test_pings_are_answered(self):
        stream, _ = self.admitted()
        for sequence in (1, 2, 1_000_000_007):
            stream.tell(ping=daemon.Ping(sequence=sequence))
            self.assertEqual(stream.expect("pong").sequence, sequence)

    def test_status_comes_by_itself(self):
        stream, _ = self.admitted(heartbeat_interval_ms=1000)
        status = stream.expect("node_status")
        self.assertTrue(0.0 <= status.cpu_usage <= 1.0 and status.total_memory_mb > 0)
        self.assertLessEqual(status.used_memory_mb, status.total_memory_mb)

    def test_unknown_variants_and_empty_envelopes_are_ignored(self):
        stream, _ = self.admitted()
        stream.send(contract.unknown_variant(999))
        stream.send(b"")
        stream.tell(ping=daemon.Ping(sequence=5))
        self.assertEqual(stream.expect("pong").sequence, 5)

    def test_an_incompatible_controller_is_left_with_a_word_to_the_operator(self):
        self.launch()
        stream = self.peer.next_stream()
        stream.expect("handshake")
        stream.tell(handshake_ack=self.ack(protocol_version=7, protocol_compatible=False))
        stream.expect_end()
        processes.until(lambda: "upgrade required" in self.program.output(), "the word to the operator")

    def test_commands_before_the_acknowledgement_are_held(self):
        self.launch()
        stream = self.peer.next_stream()
        stream.expect("handshake")
        stream.tell(ping=daemon.Ping(sequence=3))
        stream.tell(stop_instance=daemon.StopInstance(instance_id="ghost", force=True))
        stream.tell(handshake_ack=self.ack())
        self.assertEqual(stream.expect("pong").sequence, 3)
        self.assertTrue(stream.expect("stop_instance_ack").accepted)

    def test_a_stale_epoch_is_refused(self):
        stream, _ = self.admitted(epoch=7)
        stream.send(daemon.ControllerMessage(stop_instance=daemon.StopInstance(instance_id="a"), epoch=6))
        self.assertEqual(stream.expect("error_report").error_code, "STALE_EPOCH")
        stream.send(daemon.ControllerMessage(ping=daemon.Ping(sequence=1), epoch=7))
        self.assertEqual(stream.expect("pong").sequence, 1)

    def test_a_real_server_runs_answers_and_stops(self):
        self.assertIsNotNone(shutil.which("java"), "this test needs a JRE")
        stream, _ = self.admitted()
        start = self.start_message()
        stream.tell(start_instance=start)
        stream.expect("instance_status", self.state("PREPARING"))
        ack = stream.expect("start_instance_ack")
        self.assertTrue(ack.accepted, ack)
        self.assertEqual((ack.plan_hash, ack.incarnation), ("plan-1", 1))
        stream.expect("instance_status", self.state("RUNNING"))
        self.addCleanup(self.end_instance, stream, start)
        stream.tell(send_command=daemon.SendCommand(instance_id="lobby-1", command="say hello from python"))
        line = stream.expect("console_output", lambda output: "hello from python" in output.line)
        self.assertGreater(line.sequence, 1)
        stream.tell(stop_instance=daemon.StopInstance(instance_id="lobby-1", incarnation=1))
        stream.expect_each(
            ("stop_instance_ack", lambda ack: ack.accepted), ("instance_status", self.state("STOPPED"))
        )

    def test_a_crash_is_reported_until_it_is_acknowledged(self):
        stream, _ = self.admitted()
        self.running(stream)
        stream.tell(send_command=daemon.SendCommand(instance_id="lobby-1", command="crash"))
        report = stream.expect("crash_report")
        self.assertEqual((report.exit_code, report.group, report.incarnation), (1, "lobby", 1))
        self.assertTrue(report.report_id)
        self.assertTrue(any("Exception" in line for line in report.log_tail), report.log_tail)
        stream.finish()
        again = self.peer.next_stream()
        again.expect("handshake")
        again.tell(handshake_ack=self.ack())
        self.assertEqual(again.expect("crash_report").report_id, report.report_id)
        again.tell(crash_report_ack=daemon.CrashReportAck(report_id=report.report_id))
        again.finish()
        last = self.peer.next_stream()
        last.expect("handshake")
        last.tell(handshake_ack=self.ack())
        last.tell(ping=daemon.Ping(sequence=1))
        passed = []
        last.expect("pong", lambda pong: passed.append(pong) or True)
        with self.assertRaises(AssertionError):
            last.expect("crash_report", deadline=1)

    def test_a_repeated_start_is_answered_with_what_is_true(self):
        stream, _ = self.admitted()
        start = self.running(stream)
        stream.tell(start_instance=start)
        ack = stream.expect("start_instance_ack", lambda ack: not ack.accepted)
        self.assertEqual(ack.error_code, "INSTANCE_ALREADY_RUNNING")
        stream.expect("instance_status", self.state("RUNNING"))

    def test_a_start_that_cannot_work_says_why(self):
        stream, _ = self.admitted()
        missing = "file:///nowhere/missing.jar"
        runtime = daemon.RuntimeArtifact(jar_file="missing.jar", download_url=missing)
        plan = daemon.CompositionPlan(plan_hash="p", runtime=runtime)
        stream.tell(
            start_instance=self.start_message(jar_file="missing.jar", download_url=missing, composition_plan=plan)
        )
        ack = stream.expect("start_instance_ack")
        self.assertFalse(ack.accepted)
        self.assertEqual(ack.failure_disposition, daemon.StartFailureDisposition.PERMANENT)
        self.assertIn("missing.jar", ack.error_message)

    def test_running_instances_are_listed_after_a_reconnect(self):
        stream, _ = self.admitted()
        self.running(stream)
        stream.finish()
        again = self.peer.next_stream()
        listed = again.expect("handshake").running_instances
        running = daemon.InstanceState.Value("RUNNING")
        self.assertEqual([(one.instance_id, one.state, one.incarnation) for one in listed], [("lobby-1", running, 1)])
        again.tell(handshake_ack=self.ack())
        again.tell(stop_instance=daemon.StopInstance(instance_id="lobby-1", force=True))
        again.expect_each(
            ("stop_instance_ack", lambda ack: ack.accepted), ("instance_status", self.state("STOPPED"))
        )

    def test_a_shutdown_is_acknowledged_and_carried_out(self):
        stream, _ = self.admitted()
        self.running(stream)
        stream.tell(shutdown_node=daemon.ShutdownNode(reason="maintenance"))
        ack = stream.expect("shutdown_node_ack")
        self.assertEqual(ack.running_instances, 1)
        stream.expect("instance_status", self.state("STOPPED"))
        self.assertEqual(self.program.wait(), 0)


if __name__ == "__main__":
    unittest.main()
