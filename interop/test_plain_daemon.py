"""A daemon that announces nothing, against our controller: what an operator meets who migrates host by host."""

import http.client
import json
import tempfile
import unittest

import grpc

import contract
import pki
import processes
from plain_daemon import PlainDaemon

daemon = contract.daemon
JAR = "https://jars.example/paper-1.21.4.jar"


class PlainDaemonCases(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="prexorcloud-plain-")
        cls.addClassCleanup(cls.folder.cleanup)
        cls.controller = processes.Controller(cls.folder.name)
        cls.addClassCleanup(cls.controller.stop)
        cls.authority = (cls.controller.data / "ca" / "ca.pem").read_bytes()
        cls.count = 0

    def channel(self, key=None, certificate=None):
        credentials = grpc.ssl_channel_credentials(self.authority, key, certificate)
        channel = grpc.secure_channel(self.controller.address, credentials, options=contract.OPTIONS)
        self.addCleanup(channel.close)
        return channel

    def plain(self, connect=True, **fields):
        """A fresh node with a daemon of this kind, and a group that is nobody else's."""
        type(self).count += 1
        node_id, self.group = f"plain-{self.count}", f"group{self.count}"
        stub = contract.bootstrap_grpc.BootstrapServiceStub(self.channel())
        token = self.controller.join_token(nodeId=node_id)
        request = contract.bootstrap.ExchangeJoinTokenRequest(join_token=token, node_id=node_id)
        reply = stub.ExchangeJoinToken(request, timeout=20)
        key, certificate, _ = pki.open_keystore(reply.pkcs12, reply.pkcs12_password)
        peer = PlainDaemon(node_id, self.channel(key, certificate), **fields)
        if connect:
            peer.connect()
            self.addCleanup(lambda: peer.disconnect())
            is_there = lambda: self.controller.get(f"/nodes/{node_id}")["status"] == "ONLINE"
            processes.until(is_there, f"{node_id} being there")
        return peer

    def order(self, peer, **fields):
        body = {"group": self.group, "node": peer.node_id, "jar": JAR, **fields}
        return self.controller.post("/instances", body)

    def refused(self, peer, **fields):
        body = {"group": self.group, "node": peer.node_id, "jar": JAR, **fields}
        status, text = self.controller.request("POST", "/instances", body)
        self.assertGreaterEqual(status, 400, text)
        answer = json.loads(text) if isinstance(text, str) else text
        return status, answer["error"]["message"]

    def launched(self, peer, **fields):
        record = self.order(peer, **fields)
        start = peer.take_start(record["id"])
        peer.launch(start)
        self.becomes(record["id"], "STARTING")
        return start

    def instance(self, instance_id):
        return self.controller.get(f"/instances/{instance_id}")

    def becomes(self, instance_id, state):
        what = f"{instance_id} becoming {state}"
        processes.until(lambda: self.instance(instance_id)["state"] == state, what, 40.0)
        return self.instance(instance_id)

    def knows_figures(self, peer, ports):
        node = lambda: self.controller.get(f"/nodes/{peer.node_id}")
        processes.until(lambda: node()["usedPorts"] == ports, "the figures")

    def command_is_next(self, peer, instance_id):
        """What the controller sent before a command that is ordered now."""
        self.controller.post(f"/instances/{instance_id}/command", {"command": "list"})
        return peer.kinds_before("send_command")

    def plugin(self, path, token, sequence):
        connection = http.client.HTTPConnection("127.0.0.1", self.controller.http_port, timeout=10)
        headers = {"Authorization": f"Bearer {token}"}
        if sequence is not None:
            headers["X-Prexor-Sequence"] = str(sequence)
        try:
            connection.request("POST", f"/api/plugin{path}", None, headers)
            response = connection.getresponse()
            text = response.read().decode()
            return response.status, json.loads(text)
        finally:
            connection.close()

    # Ended servers are not started again, running ones not overwritten

    def test_kill_9_leaves_its_servers_running_and_none_is_ordered_again(self):
        peer = self.plain()
        start = self.launched(peer)
        peer.kill()
        peer.connect()
        lost = self.becomes(start.instance_id, "CRASHED")
        self.assertTrue(lost["lastError"].startswith("lost:"), lost)
        self.assertIn("may still run", lost["lastError"])
        self.assertEqual(self.controller.get(f"/crashes?instance={start.instance_id}"), [])
        # Whatever is sent next, it is not a start of that one.
        other = self.order(peer)
        taken = peer.stream.expect("start_instance")
        self.assertEqual(taken.instance_id, other["id"])
        self.assertNotEqual(taken.port, start.port, "the port of the lost one is the last to be given away")

    def test_what_it_had_not_begun_is_ordered_again(self):
        peer = self.plain()
        record = self.order(peer)
        peer.take_start(record["id"])
        peer.kill()
        peer.connect()
        self.assertEqual(peer.take_start(record["id"]).port, record["port"])

    def test_what_counts_as_lost_and_is_listed_again_is_taken_back(self):
        peer = self.plain()
        start = self.launched(peer)
        listed = dict(peer.servers)
        peer.disconnect()
        peer.connect(listed=[])
        self.becomes(start.instance_id, "CRASHED")
        peer.disconnect()
        peer.servers = listed
        peer.connect()
        self.becomes(start.instance_id, "RUNNING")
        self.assertNotIn("stop_instance", self.command_is_next(peer, start.instance_id))

    # What still runs is not called CRASHED

    def test_a_stop_that_it_sits_on_stays_stopping_with_the_error_and_keeps_port_and_id(self):
        peer = self.plain()
        start = self.launched(peer, shutdownGraceSeconds=1)
        peer.figures()
        self.knows_figures(peer, [start.port])
        self.controller.post(f"/nodes/{peer.node_id}/drain?timeout=1")
        # It reports each stop, carries none out, and goes on counting the server.
        for force in (False, True, True):
            peer.take_stop(start.instance_id, force)
            peer.report(start.instance_id, "STOPPING", start.port)
            peer.figures()
        stuck = processes.until(
            lambda: (self.instance(start.instance_id)["lastError"] or "").count("still runs")
            and self.instance(start.instance_id),
            "the error",
            60.0,
        )
        self.assertEqual(stuck["state"], "STOPPING")
        self.assertEqual(self.controller.get(f"/nodes/{peer.node_id}")["status"], "DRAINING")
        status, _ = self.controller.request("DELETE", f"/instances/{start.instance_id}")
        self.assertEqual(status, 409)
        self.controller.post(f"/nodes/{peer.node_id}/undrain")
        self.assertEqual(self.refused(peer, port=start.port)[0], 409)
        self.assertEqual(self.refused(peer, id=start.instance_id)[0], 409)
        # It wakes up: the end is one, and the id is free at once.
        peer.end(start.instance_id)
        self.becomes(start.instance_id, "STOPPED")
        again = self.order(peer, id=start.instance_id, port=start.port)
        self.assertEqual(again["incarnation"], start.incarnation + 1)
        peer.launch(peer.take_start(start.instance_id))
        self.becomes(start.instance_id, "STARTING")

    def test_a_port_that_its_figures_name_is_given_to_nobody(self):
        peer = self.plain()
        peer.figures([30_000])
        self.knows_figures(peer, [30_000])
        status, message = self.refused(peer, port=30_000)
        self.assertEqual(status, 409, message)
        self.assertNotEqual(self.order(peer)["port"], 30_000)

    def test_a_stop_of_what_counts_as_lost_asks_the_daemon(self):
        peer = self.plain()
        start = self.launched(peer)
        peer.kill()
        peer.connect()
        self.becomes(start.instance_id, "CRASHED")
        answer = self.controller.post(f"/instances/{start.instance_id}/stop")
        self.assertEqual(answer["status"], "stopping")
        peer.take_stop(start.instance_id)
        peer.acknowledge_stop(start.instance_id)
        stopped = self.becomes(start.instance_id, "STOPPED")
        self.assertIn("may still run", stopped["lastError"])

    # Readiness

    def test_its_servers_say_themselves_that_they_are_ready(self):
        peer = self.plain()
        start = self.launched(peer)
        token = start.plugin_token
        self.assertEqual(self.plugin("/ready", token, None)[0], 400)
        self.assertEqual(self.plugin("/ready", "ptk_" + "0" * 64, 1)[0], 401)
        self.assertEqual(self.plugin("/ready", token, 1)[0], 200)
        self.becomes(start.instance_id, "RUNNING")
        self.assertEqual(self.plugin("/ready", token, 1)[0], 401, "the number was used")
        status, renewed = self.plugin("/auth/refresh", token, 2)
        self.assertEqual(status, 200)
        self.assertEqual(self.plugin("/ready", renewed["token"], 3)[0], 200)
        # Somebody else's credential says nothing about this one.
        other = self.launched(peer)
        self.assertEqual(self.plugin("/ready", other.plugin_token, 1)[0], 200)
        self.becomes(other.instance_id, "RUNNING")
        self.controller.post(f"/instances/{start.instance_id}/stop")
        peer.take_stop(start.instance_id)
        peer.end(start.instance_id)
        self.becomes(start.instance_id, "STOPPED")
        for dead in (token, renewed["token"]):
            self.assertEqual(self.plugin("/ready", dead, 10)[0], 401, "it is dead with the instance")
        self.assertEqual(self.instance(other.instance_id)["state"], "RUNNING")

    def test_its_console_shows_it_as_well(self):
        peer = self.plain()
        start = self.launched(peer)
        line = '[12:00:07] [Server thread/INFO]: Done (6.217s)! For help, type "help"'
        peer.stream.tell(console_output=daemon.ConsoleOutput(instance_id=start.instance_id, line=line))
        self.becomes(start.instance_id, "RUNNING")

    # Orders that it would refuse, or take wrongly

    def test_what_it_cannot_do_is_refused_at_the_order(self):
        peer = self.plain()
        status, message = self.refused(peer, jar="/srv/server.jar")
        self.assertEqual(status, 422)
        self.assertIn("http(s) addresses only", message)
        status, message = self.refused(peer, env={"JAVA_TOOL_OPTIONS": "-Xmx1g"})
        self.assertEqual(status, 422)
        self.assertIn("jvmArgs", message)

    def test_the_plan_selects_the_path_on_which_it_checks_its_download(self):
        peer = self.plain()
        record = self.order(peer, sha256="ab" * 32)
        runtime = peer.take_start(record["id"]).composition_plan.runtime
        self.assertTrue(runtime.platform and runtime.platform_version)
        self.assertEqual(runtime.download_url, JAR)
        peer.stream.tell(
            start_instance_ack=daemon.StartInstanceAck(
                instance_id=record["id"],
                accepted=False,
                error_code="RUNTIME_PROVISION_FAILED",
                error_message="Failed to provision runtime artifact",
                failure_disposition=daemon.StartFailureDisposition.Value("PERMANENT"),
            )
        )
        failed = self.becomes(record["id"], "CRASHED")
        self.assertIn(f"asked for {JAR}", failed["lastError"])

    def test_of_the_memory_that_it_offers_and_reports_the_smaller_counts(self):
        peer = self.plain(memory_mb=19_284)
        peer.figures([], total_memory_mb=24_105)
        self.knows_figures(peer, [])
        self.assertEqual(self.controller.get(f"/nodes/{peer.node_id}")["totalMemoryMb"], 19_284)

    # What it says wrongly

    def test_late_reports_are_not_answered_with_errors(self):
        peer = self.plain()
        start, other = self.launched(peer), self.launched(peer)
        self.controller.post(f"/instances/{start.instance_id}/stop")
        peer.take_stop(start.instance_id)
        peer.end(start.instance_id)
        self.becomes(start.instance_id, "STOPPED")
        for state in ("STOPPING", "STOPPED", "CRASHED"):
            peer.report(start.instance_id, state)
        peer.report("never-started", "STOPPED")
        self.assertNotIn("error_report", self.command_is_next(peer, other.instance_id))
        self.assertEqual(self.instance(start.instance_id)["state"], "STOPPED")

    def test_running_said_of_something_ended_is_stopped(self):
        peer = self.plain()
        start = self.launched(peer)
        self.controller.post(f"/instances/{start.instance_id}/stop")
        peer.take_stop(start.instance_id)
        peer.end(start.instance_id)
        self.becomes(start.instance_id, "STOPPED")
        peer.report(start.instance_id, "RUNNING", start.port)
        peer.take_stop(start.instance_id)
        self.assertEqual(self.instance(start.instance_id)["state"], "STOPPED")

    def test_a_list_with_somebody_elses_instances_and_doubles_harms_nobody(self):
        honest = self.plain()
        start = self.launched(honest)
        group = self.group
        liar = self.plain(connect=False)
        own = liar.listing(f"{self.group}-1", self.group, 31_000)
        liar.connect(listed=[liar.listing(start.instance_id, group, 31_001), own, own])
        self.addCleanup(lambda: liar.disconnect())
        # The copy is stopped where it is not wanted, and only there.
        liar.take_stop(start.instance_id)
        self.assertEqual(self.instance(start.instance_id)["node"], honest.node_id)
        self.assertEqual(self.instance(start.instance_id)["state"], "STARTING")
        self.assertNotIn("stop_instance", self.command_is_next(honest, start.instance_id))
        mine = self.controller.get(f"/instances?node={liar.node_id}")
        self.assertEqual([instance["id"] for instance in mine], [f"{self.group}-1"])

    # A host that goes for good

    def test_a_node_that_is_away_can_be_removed(self):
        peer = self.plain()
        start = self.launched(peer)
        peer.kill()
        offline = lambda: self.controller.get(f"/nodes/{peer.node_id}")["status"] == "OFFLINE"
        processes.until(offline, "the node going away")
        status, _ = self.controller.request("POST", f"/nodes/{peer.node_id}/remove")
        self.assertEqual(status, 409, "something may run there")
        self.assertEqual(self.controller.post(f"/nodes/{peer.node_id}/remove?force=true")["status"], "REMOVED")
        self.assertEqual(self.controller.request("GET", f"/nodes/{peer.node_id}")[0], 404)
        self.assertEqual(self.controller.request("GET", f"/instances/{start.instance_id}")[0], 404)


if __name__ == "__main__":
    unittest.main()
