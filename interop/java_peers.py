"""The peers in Java (`interop/java`) as programs: orders in, news out, and the same conversations as the peers in Python have."""

import collections
import json
import os
import pathlib
import queue
import shutil
import subprocess
import threading

import grpc
from google.protobuf import json_format

import contract
from stream import DEADLINE, Conversation, StreamEnded

# Where `mvn process-classes` has put the classes and the class path.
BUILT = pathlib.Path(os.environ.get("PREXORCLOUD_JAVA_PEERS", contract.ROOT / "target" / "interop" / "java"))
PACKAGE = "me.prexorjustin.prexorcloud.interop"


def ended(news):
    return StreamEnded(grpc.StatusCode[news["code"]], news["details"])


def message_of(kind, body):
    return json_format.ParseDict(body, kind())


def body_of(message):
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


class Program:
    """A peer that runs; its news go to `hear(kind, body)` on a thread of its own."""

    def __init__(self, main, hear):
        java = shutil.which("java")
        assert java, "the peers in Java need a JDK 17"
        classpath = f"{BUILT / 'classes'}:{(BUILT / 'classpath').read_text().strip()}"
        # A small program that lives for a minute: starting counts, speed does not.
        options = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        self.process = subprocess.Popen(
            [java, *options, "-cp", classpath, f"{PACKAGE}.{main}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.hear = hear
        # What it complains of, for the message of a failing test.
        self.complaints = collections.deque(maxlen=40)
        self.lock = threading.Lock()
        self.complaining = threading.Thread(target=self._complain, daemon=True)
        self.complaining.start()
        threading.Thread(target=self._listen, daemon=True).start()

    def _complain(self):
        with self.process.stderr as lines:
            self.complaints.extend(line.rstrip() for line in lines)

    def _listen(self):
        with self.process.stdout as lines:
            for line in lines:
                [(kind, body)] = json.loads(line).items()
                self.hear(kind, body)
        self.complaining.join(DEADLINE)
        self.hear("gone", {"code": "UNAVAILABLE", "details": "the peer in Java ended: " + " | ".join(self.complaints)})

    def order(self, kind, body):
        with self.lock:
            self.process.stdin.write(json.dumps({kind: body}) + "\n")
            self.process.stdin.flush()

    def stop(self):
        """It ends when there are no more orders."""
        try:
            with self.lock:
                self.process.stdin.close()
            self.process.wait(timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()


class Daemon(Conversation):
    """A daemon's stream to a controller, after `enrol` and `connect`."""

    def __init__(self, answers_pings=False):
        super().__init__()
        self.answers_pings = answers_pings
        self.enrolled = queue.Queue()
        self.program = Program("DaemonPeer", self._hear)

    def _hear(self, kind, body):
        if kind == "enrolled":
            self.enrolled.put(body)
        elif kind == "received":
            message = message_of(contract.daemon.ControllerMessage, body)
            if self.answers_pings and message.WhichOneof("payload") == "ping":
                self.tell(pong=contract.daemon.Pong(sequence=message.ping.sequence))
            else:
                self.incoming.put(message)
        elif kind == "gone":
            self.enrolled.put(ended(body))
            self.incoming.put(ended(body))
        else:
            self.incoming.put(ended(body))

    def enrol(self, address, join_token, node_id):
        """Trades the token for a store and opens it; what the JDK found in there."""
        self.program.order("enrol", {"address": address, "join_token": join_token, "node_id": node_id})
        found = self.enrolled.get(timeout=2 * DEADLINE)
        if isinstance(found, Exception):
            raise found
        return found

    def connect(self):
        self.program.order("connect", {})

    def send(self, message):
        self.program.order("send", body_of(message))

    def finish(self):
        self.program.order("close", {})

    def tell(self, **payload):
        self.send(contract.daemon.DaemonMessage(**payload))

    def close(self):
        self.program.stop()


class Stream(Conversation):
    """A controller's end of one daemon's stream."""

    def __init__(self, program, number):
        super().__init__()
        self.program, self.number = program, number

    def send(self, message):
        self.program.order("send", {"stream": self.number, "message": body_of(message)})

    def finish(self):
        self.program.order("end", {"stream": self.number})

    def tell(self, **payload):
        self.send(contract.daemon.ControllerMessage(**payload))


class Controller:
    """BootstrapService and DaemonService on one port, with an authority that the JDK made."""

    def __init__(self, folder):
        self.exchanged = []
        self.subjects = []
        self.streams = queue.Queue()
        self.serving = queue.Queue()
        self.open = {}
        self.program = Program("ControllerPeer", self._hear)
        self.program.order("serve", {"folder": str(folder)})
        serving = self.serving.get(timeout=4 * DEADLINE)
        if isinstance(serving, Exception):
            raise serving
        self.port, self.join_token = serving["port"], serving["join_token"]

    def _hear(self, kind, body):
        if kind == "serving":
            self.serving.put(body)
        elif kind == "exchanged":
            self.exchanged.append((self.join_token, body["node_id"]))
        elif kind == "opened":
            self.subjects.append(body["subject"])
            stream = self.open[body["stream"]] = Stream(self.program, body["stream"])
            self.streams.put(stream)
        elif kind == "received":
            message = message_of(contract.daemon.DaemonMessage, body["message"])
            self.open[body["stream"]].incoming.put(message)
        elif kind == "ended":
            self.open[body["stream"]].incoming.put(ended(body))
        else:
            self.serving.put(ended(body))
            for stream in self.open.values():
                stream.incoming.put(ended(body))

    def token(self):
        return self.join_token

    def next_stream(self):
        return self.streams.get(timeout=DEADLINE)

    def stop(self):
        self.program.stop()
