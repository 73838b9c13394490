"""A daemon written from the .proto files alone, and what its tests against our controller share."""

import tempfile
import unittest

import grpc

import contract
import pki
import processes
from stream import DaemonSide

daemon = contract.daemon
CAPABILITIES = ["incarnations/1", "preparing-reported/1", "crash-ack/1", "readiness/1"]
HOST = daemon.HostInfo(os_name="Linux", arch="amd64", java_version="17")


def handshake(node_id, **fields):
    return daemon.Handshake(node_id=node_id, version="python-1.0", protocol_version=1, **fields)


class DaemonCase(unittest.TestCase):
    # Whether pings are answered by themselves, or belong to the tests.
    answers_pings = False

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="prexorcloud-interop-")
        cls.addClassCleanup(cls.folder.cleanup)
        cls.controller = processes.Controller(cls.folder.name)
        cls.addClassCleanup(cls.controller.stop)
        cls.authority = (cls.controller.data / "ca" / "ca.pem").read_bytes()
        cls.node_count = 0

    def channel(self, key=None, certificate=None, authority=None):
        credentials = grpc.ssl_channel_credentials(authority or self.authority, key, certificate)
        channel = grpc.secure_channel(self.controller.address, credentials, options=contract.OPTIONS)
        self.addCleanup(channel.close)
        return channel

    def exchange(self, token, node_id):
        stub = contract.bootstrap_grpc.BootstrapServiceStub(self.channel())
        request = contract.bootstrap.ExchangeJoinTokenRequest(join_token=token, node_id=node_id)
        return stub.ExchangeJoinToken(request, timeout=20)

    def node_id(self):
        type(self).node_count += 1
        return f"python-{self.node_count}"

    def enrolled(self):
        """A fresh node: its name, and a channel with its certificate."""
        node_id = self.node_id()
        reply = self.exchange(self.controller.join_token(nodeId=node_id), node_id)
        key, certificate, _ = pki.open_keystore(reply.pkcs12, reply.pkcs12_password)
        return node_id, self.channel(key, certificate)

    def opened(self):
        """A fresh node: its name, and a stream on which nothing has been said."""
        node_id, channel = self.enrolled()
        stream = DaemonSide(channel, self.answers_pings)
        self.addCleanup(stream.close)
        return node_id, stream

    def connected(self, **fields):
        node_id, stream = self.opened()
        stream.tell(handshake=handshake(node_id, host_info=HOST, **fields))
        ack = stream.expect("handshake_ack")
        # The acknowledgement leaves first, and orders are taken a moment later.
        processes.until(lambda: (self.node(node_id) or {}).get("status") == "ONLINE", "the node being there")
        return node_id, stream, ack

    def node(self, node_id):
        return next((node for node in self.controller.get("/nodes") if node["id"] == node_id), None)

    def instance(self, instance_id):
        return self.controller.get(f"/instances/{instance_id}")

    def started(self, node_id, stream, group, **report):
        """An instance that the controller believes to be running here."""
        record = self.controller.post("/instances", {"group": group, "node": node_id, "jar": "https://jars.example/server.jar"})
        start = stream.expect("start_instance", lambda start: start.instance_id == record["id"])
        tag = {"incarnation": start.incarnation} if report.get("incarnation", True) else {}
        for state in ("PREPARING", "STARTING", "RUNNING"):
            value = daemon.InstanceState.Value(state)
            update = daemon.InstanceStatusUpdate(instance_id=start.instance_id, state=value, port=start.port, **tag)
            stream.tell(instance_status=update)
        ack = daemon.StartInstanceAck(instance_id=start.instance_id, accepted=True, **tag)
        stream.tell(start_instance_ack=ack)
        self.becomes(start.instance_id, "RUNNING")
        return start, tag

    def becomes(self, instance_id, state):
        processes.until(lambda: self.instance(instance_id)["state"] == state, f"{instance_id} becoming {state}")

    def refused(self, code, *messages, channel=None, node_id=None):
        if channel is None:
            node_id, channel = self.enrolled()
        stream = DaemonSide(channel)
        self.addCleanup(stream.close)
        for message in messages:
            stream.send(message(node_id) if callable(message) else message)
        end = stream.expect_end()
        self.assertEqual(end.code, code, end)
        return stream, end
