"""A daemon written from the .proto files alone, against our controller."""

import threading
import unittest

import grpc

import contract
import pki
import processes
from daemon_peer import CAPABILITIES, HOST, DaemonCase, handshake
from stream import DaemonSide

daemon = contract.daemon
Code = grpc.StatusCode


class DaemonPeer(DaemonCase):
    # Enrolment

    def test_enrolment_gives_a_keystore_that_opens_and_the_pinned_authority(self):
        node_id = self.node_id()
        token = self.controller.join_token(nodeId=node_id)
        reply = self.exchange(token, node_id)
        _, certificate, authority = pki.open_keystore(reply.pkcs12, reply.pkcs12_password)
        self.assertEqual(token.split(".")[1], pki.pin(authority))
        self.assertEqual(reply.ca_certificate_pem.strip(), pki.pem(authority).strip())
        self.assertIn(b"BEGIN CERTIFICATE", certificate)

    def test_a_token_works_once(self):
        node_id = self.node_id()
        token = self.controller.join_token()
        self.exchange(token, node_id)
        with self.assertRaises(grpc.RpcError) as refusal:
            self.exchange(token, node_id)
        self.assertEqual(refusal.exception.code(), Code.FAILED_PRECONDITION)

    def test_tokens_that_do_not_fit_are_refused_with_their_status(self):
        bound = self.controller.join_token(nodeId="somebody-else")
        cases = [
            ("pxr_" + "a" * 32, "python-x", Code.NOT_FOUND),
            (bound, "python-x", Code.PERMISSION_DENIED),
            ("", "python-x", Code.INVALID_ARGUMENT),
            (bound, "", Code.INVALID_ARGUMENT),
            (bound, "../x", Code.INVALID_ARGUMENT),
            (bound, "x" * 65, Code.INVALID_ARGUMENT),
            (bound, "a,CN=controller", Code.INVALID_ARGUMENT),
        ]
        for token, node_id, code in cases:
            with self.subTest(node_id=node_id, code=code), self.assertRaises(grpc.RpcError) as refusal:
                self.exchange(token, node_id)
            self.assertEqual(refusal.exception.code(), code)

    def test_a_delayed_handshake_of_an_older_stream_stops_nothing(self):
        counted = lambda ordinal: {"boot_id": "python-boot", "stream_ordinal": ordinal}
        # By the daemon's own count where it counts, else by the order in which the controller accepted the streams.
        cases = [("counted", counted(1), counted(2)), ("plain", {}, {})]
        for name, of_older, of_newer in cases:
            with self.subTest(name):
                node_id, channel = self.enrolled()
                older = DaemonSide(channel)
                self.addCleanup(older.close)
                older.await_acceptance()
                newer = DaemonSide(channel)
                self.addCleanup(newer.close)
                capabilities = CAPABILITIES if of_newer else []
                newer.tell(handshake=handshake(node_id, host_info=HOST, capabilities=capabilities, **of_newer))
                newer.expect("handshake_ack")
                start, _ = self.started(node_id, newer, f"late-{name}", incarnation=bool(of_newer))
                older.tell(handshake=handshake(node_id, capabilities=capabilities, **of_older))
                end = older.expect_end()
                self.assertEqual(end.code, Code.ABORTED, end)
                # A command is sent after whatever the other stream has caused.
                self.controller.post(f"/instances/{start.instance_id}/command", {"command": "say hi"})
                kinds = []
                while not kinds or kinds[-1] != "send_command":
                    kinds.append(newer.incoming.get(timeout=15).WhichOneof("payload"))
                self.assertNotIn("stop_instance", kinds)
                self.assertEqual(self.instance(start.instance_id)["state"], "RUNNING")
                self.assertEqual(self.node(node_id)["status"], "ONLINE")

    def test_a_later_stream_that_came_first_through_the_network_gives_way_to_nobody(self):
        node_id, channel = self.enrolled()
        counted = lambda ordinal: {"boot_id": "python-boot", "stream_ordinal": ordinal}
        later = DaemonSide(channel)
        self.addCleanup(later.close)
        later.await_acceptance()
        earlier = DaemonSide(channel)
        self.addCleanup(earlier.close)
        earlier.tell(handshake=handshake(node_id, host_info=HOST, **counted(1)))
        earlier.expect("handshake_ack")
        later.tell(handshake=handshake(node_id, host_info=HOST, **counted(2)))
        later.expect("handshake_ack")
        end = earlier.expect_end()
        self.assertEqual(end.code, Code.ABORTED, end)
        self.assertEqual(self.node(node_id)["status"], "ONLINE")

    def test_a_node_certificate_is_no_admin(self):
        _, channel = self.enrolled()
        stub = contract.admin_grpc.AdminServiceStub(channel)
        with self.assertRaises(grpc.RpcError) as refusal:
            stub.CreateJoinToken(contract.admin.CreateJoinTokenRequest(), timeout=10)
        self.assertIn(refusal.exception.code(), (Code.PERMISSION_DENIED, Code.UNAUTHENTICATED))

    def test_an_admin_token_administers_join_tokens(self):
        stub = contract.admin_grpc.AdminServiceStub(self.channel())
        bearer = [("authorization", f"Bearer {self.controller.admin_token()}")]
        created = stub.CreateJoinToken(
            contract.admin.CreateJoinTokenRequest(node_id="n", ttl_seconds=60), timeout=10, metadata=bearer
        )
        listed = stub.ListJoinTokens(contract.admin.ListJoinTokensRequest(), timeout=10, metadata=bearer)
        self.assertIn(created.token_id, [token.token_id for token in listed.tokens])
        stub.RevokeJoinToken(
            contract.admin.RevokeJoinTokenRequest(token_id=created.token_id), timeout=10, metadata=bearer
        )
        with self.assertRaises(grpc.RpcError) as refusal:
            self.exchange(created.join_token, "n")
        self.assertEqual(refusal.exception.code(), Code.FAILED_PRECONDITION)

    # Who may connect

    def test_without_a_certificate_the_stream_is_unauthenticated(self):
        self.refused(Code.UNAUTHENTICATED, daemon.DaemonMessage(handshake=handshake("x")), channel=self.channel())

    def test_a_strangers_certificate_does_not_get_through_tls(self):
        stranger_key, stranger = pki.Authority().client("python-1")
        channel = self.channel(pki.key_pem(stranger_key), pki.pem(stranger))
        self.refused(Code.UNAVAILABLE, daemon.DaemonMessage(handshake=handshake("python-1")), channel=channel)

    def test_a_node_may_not_claim_to_be_another(self):
        claim = daemon.DaemonMessage(handshake=handshake("somebody-else"))
        self.refused(Code.PERMISSION_DENIED, claim)

    # The handshake

    def test_the_acknowledgement_comes_first_and_a_ping_follows(self):
        _, stream, ack = self.connected()
        self.assertTrue(ack.protocol_compatible)
        self.assertEqual((ack.protocol_version, ack.heartbeat_interval_ms), (1, 1000))
        self.assertTrue(ack.session_id)
        stream.tell(pong=daemon.Pong(sequence=stream.expect("ping").sequence))
        self.assertGreater(stream.expect("ping").sequence, 0)

    def test_anything_but_a_handshake_first_is_refused(self):
        self.refused(Code.FAILED_PRECONDITION, daemon.DaemonMessage(pong=daemon.Pong(sequence=1)))
        self.refused(Code.FAILED_PRECONDITION, daemon.DaemonMessage())
        self.refused(Code.FAILED_PRECONDITION, contract.unknown_variant(999))

    def test_a_second_handshake_is_refused(self):
        twice = [lambda node_id: daemon.DaemonMessage(handshake=handshake(node_id))] * 2
        self.refused(Code.FAILED_PRECONDITION, *twice)

    def test_incompatible_versions_are_told_both_versions(self):
        for version in (0, -1, 7):
            with self.subTest(version=version):
                stream, end = self.refused_with_ack(version)
                self.assertFalse(stream.protocol_compatible)
                self.assertIn("upgrade required", end.details)

    def refused_with_ack(self, version):
        node_id, channel = self.enrolled()
        stream = DaemonSide(channel)
        self.addCleanup(stream.close)
        message = handshake(node_id)
        message.protocol_version = version
        if version > 1:
            message.min_protocol_version = version
        stream.tell(handshake=message)
        ack = stream.expect("handshake_ack")
        end = stream.expect_end()
        self.assertEqual(end.code, Code.FAILED_PRECONDITION)
        return ack, end

    def test_fields_that_break_the_rules_are_named(self):
        cases = {
            "version": lambda node_id: daemon.Handshake(node_id=node_id, version="", protocol_version=1),
            "advertise_address": lambda node_id: handshake(node_id, advertise_address="x" * 256),
            "labels": lambda node_id: handshake(node_id, labels={"k" * 65: "v"}),
        }
        for field, broken in cases.items():
            with self.subTest(field=field):
                _, end = self.refused(
                    Code.INVALID_ARGUMENT, lambda node_id, broken=broken: daemon.DaemonMessage(handshake=broken(node_id))
                )
                self.assertIn(field, end.details)

    # What flows afterwards

    def test_an_unknown_variant_is_ignored(self):
        node_id, stream, _ = self.connected()
        stream.send(contract.unknown_variant(999))
        stream.tell(node_status=daemon.NodeStatus(cpu_usage=0.25, total_memory_mb=1000, used_memory_mb=10))
        processes.until(lambda: self.node(node_id)["totalMemoryMb"] == 1000, "the status after the unknown variant")

    def test_an_unanswered_node_is_unreachable_and_recovers(self):
        node_id, stream, _ = self.connected()
        first = stream.expect("ping")
        processes.until(lambda: self.node(node_id)["status"] == "UNREACHABLE", "the node becoming unreachable")
        last = stream.expect("ping", lambda ping: ping.sequence > first.sequence)
        stream.tell(pong=daemon.Pong(sequence=last.sequence))
        processes.until(lambda: self.node(node_id)["status"] == "ONLINE", "the node coming back")

    def test_an_invalid_message_is_answered_and_the_stream_goes_on(self):
        _, stream, _ = self.connected()
        stream.tell(console_output=daemon.ConsoleOutput(instance_id="../x", line="?"))
        report = stream.expect("error_report")
        self.assertEqual(report.error_code, "INVALID_MESSAGE")
        stream.tell(pong=daemon.Pong(sequence=10_000))
        self.assertEqual(stream.expect("error_report").error_code, "UNSOLICITED_PONG")

    def test_an_instance_lives_is_talked_to_and_stops(self):
        node_id, stream, _ = self.connected()
        start, tag = self.started(node_id, stream, "lobby")
        self.assertGreater(start.incarnation, 0)
        line = daemon.ConsoleOutput(instance_id=start.instance_id, line="hello from python", timestamp_ms=1, **tag)
        stream.tell(console_output=line)
        self.controller.post(f"/instances/{start.instance_id}/command", {"command": "say hi"})
        command = stream.expect("send_command")
        self.assertEqual((command.command, command.incarnation), ("say hi", start.incarnation))
        self.controller.post(f"/instances/{start.instance_id}/stop")
        stop = stream.expect("stop_instance")
        self.assertFalse(stop.force)
        stream.tell(stop_instance_ack=daemon.StopInstanceAck(instance_id=start.instance_id, accepted=True, **tag))
        stopped = daemon.InstanceState.Value("STOPPED")
        stream.tell(
            instance_status=daemon.InstanceStatusUpdate(instance_id=start.instance_id, state=stopped, **tag)
        )
        self.becomes(start.instance_id, "STOPPED")

    def test_a_crash_is_stored_once_and_acknowledged(self):
        node_id, stream, _ = self.connected(capabilities=["incarnations/1", "crash-ack/1"])
        start, tag = self.started(node_id, stream, "arena")
        report = daemon.CrashReport(
            instance_id=start.instance_id,
            group="arena",
            exit_code=137,
            log_tail=["java.lang.OutOfMemoryError"],
            uptime_ms=5,
            report_id="python-report-1",
            **tag,
        )
        for _ in range(2):
            stream.tell(crash_report=report)
            self.assertEqual(stream.expect("crash_report_ack").report_id, "python-report-1")
        self.becomes(start.instance_id, "CRASHED")
        crashes = self.controller.get(f"/crashes?instance={start.instance_id}")
        self.assertEqual([(crash["exitCode"], crash["classification"]) for crash in crashes], [(137, "OOM")])

    def test_a_java_daemon_without_incarnations_is_served(self):
        node_id, stream, _ = self.connected()
        start, _ = self.started(node_id, stream, "java", incarnation=False)
        stream.tell(
            crash_report=daemon.CrashReport(instance_id=start.instance_id, group="java", exit_code=1, log_tail=["x"])
        )
        self.becomes(start.instance_id, "CRASHED")
        processes.until(
            lambda: len(self.controller.get(f"/crashes?instance={start.instance_id}")) == 1, "the crash being stored"
        )

    def test_a_shutdown_is_acknowledged(self):
        node_id, stream, _ = self.connected()
        answer = {}
        order = threading.Thread(
            target=lambda: answer.update(self.controller.post(f"/nodes/{node_id}/shutdown?reason=maintenance"))
        )
        order.start()
        self.assertTrue(stream.expect("shutdown_node").reason)
        stream.tell(shutdown_node_ack=daemon.ShutdownNodeAck(running_instances=0, estimated_drain_seconds=0))
        order.join(timeout=15)
        self.assertTrue(answer.get("acknowledged"), answer)


if __name__ == "__main__":
    unittest.main()
