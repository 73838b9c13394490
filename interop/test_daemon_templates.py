"""A daemon written from the .proto files alone, which announces nothing, asks our controller for templates."""

import gzip
import hashlib
import io
import os
import pathlib
import tarfile
import time
import unittest

import archives
import contract
import processes
from daemon_peer import HOST, DaemonCase, handshake
from stream import DaemonSide

daemon = contract.daemon

# What the answer to a request may take that needs nothing but a look into a table, on a machine that is busy.
AT_ONCE = 1.0

FILES = {"server.properties": "motd=hello\n", "config/rules.yml": "pvp: false\n", "config-old/rules.yml": "pvp: true\n"}
MIB = 1 << 20


class Deaf(DaemonSide):
    """Hears nothing: what is sent to it stays where it is."""

    def _read(self):
        pass


class Templates(DaemonCase):
    answers_pings = True

    def push(self, name, contents):
        """A template with these files; what the daemon is told to call it."""
        folder = self.controller.folder / f"push-{name}"
        for path, content in contents.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        if all(template["name"] != name for template in self.controller.get("/templates")):
            self.controller.ctl("template", "create", name)
        return self.controller.ctl("template", "push", str(folder), "--name", name)

    def told(self, node_id, stream, *names):
        """The templates of a start that this node is told to make."""
        order = {"group": f"group-{node_id}", "node": node_id, "jar": "https://jars.example/s.jar", "templates": list(names)}
        record = self.controller.post("/instances", order)
        start = stream.expect("start_instance", lambda start: start.instance_id == record["id"])
        return {template.name: template.hash for template in start.composition_plan.templates}

    def ask(self, stream, name, known="", **fields):
        request = daemon.TemplateRequest(template_name=name, known_hash=known, **fields)
        stream.tell(template_request=request)

    def data(self, stream, name):
        return stream.expect("template_data", lambda data: data.template_name == name, deadline=60)

    def error(self, stream, name, code):
        report = stream.expect("error_report", lambda report: report.context == name)
        self.assertEqual(report.error_code, code, report)
        self.assertTrue(report.error_message)
        return report

    def memory(self):
        """Resident bytes of the controller."""
        pages = (pathlib.Path("/proc") / str(self.controller.program.process.pid) / "statm").read_text()
        return int(pages.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    # Answers

    def test_a_template_comes_inline_under_the_digest_of_its_archive(self):
        self.push("inline", FILES)
        node_id, stream, ack = self.connected()
        told = self.told(node_id, stream, "inline")
        self.ask(stream, "inline")
        data = self.data(stream, "inline")
        self.assertFalse(data.HasField("artifact"))
        self.assertEqual(data.hash, told["inline"])
        self.assertEqual(data.hash, hashlib.sha256(data.tar_gz).hexdigest())
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data.tar_gz))) as archive:
            names = archive.getnames()
            found = {path: archive.extractfile(path).read().decode() for path in FILES}
        self.assertEqual(found, FILES)
        self.assertEqual(names, sorted(names))

    def test_up_to_date_is_said_of_our_hash_and_of_javas(self):
        self.push("known", FILES)
        node_id, stream, _ = self.connected()
        told = self.told(node_id, stream, "known")
        for known in (told["known"], archives.java_hash(FILES)):
            with self.subTest(known):
                self.ask(stream, "known", known)
                stream.expect("template_up_to_date", lambda answer: answer.template_name == "known")
        for other in ("h1", archives.java_hash({"server.properties": "motd=other\n"})):
            with self.subTest(other):
                self.ask(stream, "known", other)
                self.assertEqual(self.data(stream, "known").hash, told["known"])

    def test_the_version_that_was_told_comes_also_when_another_one_counts(self):
        self.push("moving", FILES)
        node_id, stream, _ = self.connected()
        first = self.told(node_id, stream, "moving")["moving"]
        self.push("moving", {"server.properties": "motd=changed\n"})
        second = self.told(node_id, stream, "moving")["moving"]
        self.assertNotEqual(first, second)
        for wanted, hash in ((first, first), (second, second), ("", second)):
            self.ask(stream, "moving", wanted_hash=wanted)
            self.assertEqual(self.data(stream, "moving").hash, hash)
        # One that has the older one is up to date only where that was wanted.
        self.ask(stream, "moving", first, wanted_hash=first)
        stream.expect("template_up_to_date")
        self.ask(stream, "moving", first)
        self.assertEqual(self.data(stream, "moving").hash, second)

    # Refusals

    def test_what_there_is_not_is_said_at_once(self):
        self.push("there", FILES)
        node_id, stream, _ = self.connected()
        self.told(node_id, stream, "there")
        # Of another node's templates it is not even told that they are there.
        self.push("secret", FILES)
        other_id, other, _ = self.connected()
        secret = self.told(other_id, other, "secret")["secret"]
        for name, wanted in (("nowhere", ""), ("there", "0" * 64), ("secret", ""), ("secret", secret)):
            with self.subTest(name):
                asked = time.monotonic()
                self.ask(stream, name, wanted_hash=wanted)
                self.error(stream, name, "TEMPLATE_NOT_FOUND")
                self.assertLess(time.monotonic() - asked, AT_ONCE)

    def test_what_is_no_name_is_answered_too(self):
        _, stream, _ = self.connected()
        for name, known in (("../ca", ""), ("", ""), ("a/b", ""), ("there", "h" * 129)):
            with self.subTest(name):
                self.ask(stream, name, known)
                stream.expect("error_report")

    def test_what_does_not_fit_into_a_message_is_said_at_once(self):
        self.push("large", {"world": os.urandom(101 * MIB)})
        node_id, stream, _ = self.connected()
        hash = self.told(node_id, stream, "large")["large"]
        asked = time.monotonic()
        self.ask(stream, "large")
        report = self.error(stream, "large", "TEMPLATE_TOO_LARGE")
        self.assertLess(time.monotonic() - asked, AT_ONCE)
        self.assertIn("bytes", report.error_message)
        # Whoever has it needs no message.
        self.ask(stream, "large", hash)
        stream.expect("template_up_to_date")

    # A daemon that costs much

    def test_a_flood_of_requests_is_bounded_and_the_stream_goes_on(self):
        self.push("flooded", {"file": os.urandom(MIB)})
        node_id, stream, _ = self.connected()
        self.told(node_id, stream, "flooded")
        other_id, other, _ = self.connected()
        self.told(other_id, other, "flooded")
        before = self.memory()
        for _ in range(150):
            self.ask(stream, "flooded")
        self.ask(other, "flooded")
        self.data(other, "flooded")
        self.data(stream, "flooded")
        self.assertLess(self.memory() - before, 300 * MIB)
        self.assertEqual(self.node(node_id)["status"], "ONLINE")
        # When it has stopped it is served as before.
        until = time.monotonic() + 30
        while time.monotonic() < until:
            self.ask(stream, "flooded", "h1", wanted_hash="0" * 64)
            report = stream.expect("error_report", lambda report: report.context == "flooded")
            if report.error_code == "TEMPLATE_NOT_FOUND":
                return
        self.fail("the controller does not come back to a node that has stopped")

    def test_daemons_that_never_read_cost_a_bounded_amount_and_hold_up_nobody(self):
        self.push("heavy", {"world": os.urandom(60 * MIB)})
        before = self.memory()
        for _ in range(2):
            node_id, channel = self.enrolled()
            deaf = Deaf(channel)
            self.addCleanup(deaf.close)
            deaf.tell(handshake=handshake(node_id, host_info=HOST))
            processes.until(lambda: self.node(node_id)["status"] != "OFFLINE", "the node being there")
            record = {"group": f"deaf-{node_id}", "node": node_id, "jar": "https://jars.example/s.jar", "templates": ["heavy"]}
            self.controller.post("/instances", record)
            for _ in range(16):
                self.ask(deaf, "heavy")
        node_id, stream, _ = self.connected()
        told = self.told(node_id, stream, "heavy")
        for _ in range(3):
            self.ask(stream, "heavy")
            self.assertEqual(self.data(stream, "heavy").hash, told["heavy"])
        # Of the 32 archives that were asked for two are in memory for each of the streams, one that waits and one on its way
        # out; the others are on disk.
        self.assertLess(self.memory() - before, 640 * MIB)
        self.assertEqual(self.node(node_id)["status"], "ONLINE")


if __name__ == "__main__":
    unittest.main()
