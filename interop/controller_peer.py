"""A controller written from the .proto files alone, and what its tests against our daemon share."""

import concurrent.futures
import pathlib
import queue
import tempfile
import time
import unittest

import grpc

import contract
import pki
import processes
from stream import DEADLINE, ControllerSide

daemon = contract.daemon
DEMO_JAR = processes.ROOT / "crates" / "prexorcloud" / "assets" / "demo-server.jar"
PERMANENT = daemon.StartFailureDisposition.PERMANENT
TRANSIENT = daemon.StartFailureDisposition.TRANSIENT
CAPABILITIES = ["incarnations/1", "preparing-reported/1", "crash-ack/1", "console-sequence/1"]


class Peer(contract.bootstrap_grpc.BootstrapServiceServicer):
    """BootstrapService and DaemonService on one port, as a controller has them."""

    TOKEN = "pxr_" + "k" * 32

    def __init__(self):
        self.authority = pki.Authority()
        self.exchanged = []
        self.streams = queue.Queue()
        self.refuse_with = None
        key, certificate = self.authority.server()
        chain = pki.pem(certificate) + pki.pem(self.authority.certificate)
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(16), options=contract.OPTIONS)
        self.server.add_generic_rpc_handlers((contract.connect_handler(self._connect),))
        contract.bootstrap_grpc.add_BootstrapServiceServicer_to_server(self, self.server)
        credentials = grpc.ssl_server_credentials([(pki.key_pem(key), chain)])
        self.port = self.server.add_secure_port("127.0.0.1:0", credentials)
        self.server.start()

    def ExchangeJoinToken(self, request, context):  # the name is the contract's
        if self.refuse_with is not None:
            context.abort(self.refuse_with, "refused by the test")
        self.exchanged.append((request.join_token, request.node_id))
        password = "interop0PASSWORD1interop2PASSWORD"
        return contract.bootstrap.ExchangeJoinTokenResponse(
            pkcs12=self.authority.keystore(request.node_id, password),
            pkcs12_password=password,
            ca_certificate_pem=pki.pem(self.authority.certificate),
        )

    def _connect(self, request_iterator, context):
        side = ControllerSide()
        self.streams.put(side)
        yield from side.serve(request_iterator, context)

    def token(self):
        return f"{self.TOKEN}.{self.authority.pin()}"

    def next_stream(self):
        return self.streams.get(timeout=DEADLINE)

    def stop(self):
        self.server.stop(grace=0).wait()


class ControllerCase(unittest.TestCase):
    # More of the daemon's configuration.
    settings = ""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="prexorcloud-interop-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.peer = self.made_peer()
        self.addCleanup(self.peer.stop)
        self.program = None

    def made_peer(self):
        return Peer()

    def token(self):
        return self.peer.token()

    def launch(self, token=None):
        config = self.folder / "daemon.toml"
        self.health_port = processes.free_port()
        config.write_text(
            f"""
node_id = "python-node"
data_dir = "{self.folder / 'data'}"

[controller]
endpoints = ["127.0.0.1:{self.peer.port}"]

[enrolment]
join_token = "{token or self.token()}"

[health]
listen = "127.0.0.1:{self.health_port}"

[reconnect]
initial_delay_ms = 50
max_delay_ms = 200
{self.settings}"""
        )
        config.chmod(0o600)
        self.config = config
        self.program = self.started()
        return self.program

    def started(self):
        program = processes.Program(["daemon", "--config", str(self.config)])
        self.addCleanup(program.stop)
        return program

    def ack(self, **fields):
        values = {
            "session_id": "python-session",
            "heartbeat_interval_ms": 30_000,
            "protocol_version": 1,
            "protocol_compatible": True,
            "capabilities": CAPABILITIES,
            **fields,
        }
        return daemon.HandshakeAck(**values)

    def admitted(self, **fields):
        self.launch()
        stream = self.peer.next_stream()
        handshake = stream.expect("handshake")
        stream.tell(handshake_ack=self.ack(**fields))
        return stream, handshake

    def start_message(self, instance_id="lobby-1", incarnation=1, **fields):
        runtime = daemon.RuntimeArtifact(
            jar_file="demo-server.jar", download_url=DEMO_JAR.as_uri(), category=daemon.InstanceCategory.SERVER
        )
        values = {
            "instance_id": instance_id,
            "group": "lobby",
            "port": processes.free_port(),
            "memory_mb": 64,
            "jar_file": "demo-server.jar",
            "download_url": DEMO_JAR.as_uri(),
            "shutdown_grace_seconds": 10,
            "composition_plan": daemon.CompositionPlan(plan_hash="plan-1", runtime=runtime),
            "incarnation": incarnation,
            **fields,
        }
        return daemon.StartInstance(**values)

    def state(self, name):
        value = daemon.InstanceState.Value(name)
        return lambda update: update.state == value

    def running(self, stream, **fields):
        start = self.start_message(**fields)
        stream.tell(start_instance=start)
        for name in ("PREPARING", "STARTING"):
            stream.expect("instance_status", self.state(name))
        stream.expect("instance_status", self.state("RUNNING"))
        self.addCleanup(self.end_instance, stream, start)
        return start

    def heard(self, stream, sequence):
        """What the daemon has told until it answers a ping."""
        told = []
        stream.tell(ping=daemon.Ping(sequence=sequence))
        until = time.monotonic() + DEADLINE
        while True:
            message = stream.incoming.get(timeout=max(0.0, until - time.monotonic()))
            if isinstance(message, Exception):
                raise message
            if message.WhichOneof("payload") == "pong" and message.pong.sequence == sequence:
                return told
            told.append(message)

    def end_instance(self, stream, start):
        """Instances outlive their daemon; a failing test must not leave one behind."""
        if self.program.process.poll() is None:
            stream.tell(stop_instance=daemon.StopInstance(instance_id=start.instance_id, force=True))
            try:
                stream.expect("stop_instance_ack", deadline=5)
            except Exception:
                pass


class StartCase(ControllerCase):
    """Starts of the built-in server, each with an id of its own, and what becomes of them."""

    settings = """
[runtime]
allow_standin = true
template_timeout_seconds = 2
"""

    def setUp(self):
        super().setUp()
        self.count = 0
        self.stream, _ = self.admitted()

    def order(self, *templates, in_plan=True, plan=None, **fields):
        """Orders a start with these templates, each a name and a hash, and with more of a plan and of the message."""
        self.count += 1
        templates = [daemon.TemplateRef(name=name, hash=hash) for name, hash in templates]
        runtime = daemon.RuntimeArtifact(jar_file="server.standin", category=daemon.InstanceCategory.SERVER)
        plan = {"plan_hash": f"plan-{self.count}", "runtime": runtime, "templates": templates, **(plan or {})}
        start = self.start_message(
            **{
                "instance_id": f"lobby-{self.count}",
                "incarnation": self.count,
                "jar_file": "server.standin",
                "download_url": "",
                "composition_plan": daemon.CompositionPlan(**plan) if in_plan else None,
                "templates": [] if in_plan else templates,
                **fields,
            }
        )
        self.stream.tell(start_instance=start)
        self.addCleanup(lambda: self.end_instance(self.stream, start))
        return start

    def request(self, name="base"):
        return self.stream.expect("template_request", lambda request: request.template_name == name)

    def requests(self, *names):
        """One request for each, in whatever order they come."""
        self.stream.expect_each(
            *(("template_request", lambda request, name=name: request.template_name == name) for name in names)
        )

    def send(self, archive, name="base", hash="h1"):
        self.stream.tell(template_data=daemon.TemplateData(template_name=name, hash=hash, tar_gz=archive))

    def instance(self, start):
        return self.folder / "data" / "instances" / start.group / start.instance_id

    def runs(self, start):
        """Its folder, when it is RUNNING."""
        fits = lambda update: update.instance_id == start.instance_id and self.state("RUNNING")(update)
        self.stream.expect("instance_status", fits)
        return self.instance(start)

    def fails(self, start, code, stage, disposition, *words):
        """The start is refused, with the plan that was followed, and nothing of it is left."""
        of_start = lambda ack: ack.instance_id == start.instance_id
        # Fifty thousand files are written before the next one is one too many.
        ack = self.stream.expect("start_instance_ack", of_start, deadline=60)
        self.assertFalse(ack.accepted, ack)
        self.assertEqual((ack.error_code, ack.failure_disposition), (code, disposition), ack)
        self.assertEqual(ack.stage, daemon.StartPreparationStage.Value(stage), ack)
        self.assertEqual(ack.plan_hash, start.composition_plan.plan_hash)
        self.assertEqual(ack.retry_after_seconds > 0, disposition == TRANSIENT, ack)
        for word in words:
            self.assertIn(word, ack.error_message)
        processes.until(lambda: not self.left(), "the end of what was half-prepared")
        return ack

    def left(self):
        """Folders that were staged, beside those of instances."""
        group = self.folder / "data" / "instances" / "lobby"
        return [path.name for path in group.iterdir() if path.name.startswith(".")] if group.exists() else []
