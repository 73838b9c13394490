"""Our daemon and our controller: orders go in where operators give them, and what came of them is looked at where they look, on the
disk of the node and among its processes"""

import functools
import hashlib
import json
import os
import pathlib
import signal
import tempfile
import unittest
import urllib.request

import archives
import contract
import processes
from conformance import pending
from conformance.pairing import EVENT, FILES, Pairing, equal, java_module, kept, push, sample_module

DEMO_JAR = processes.ROOT / "crates" / "prexorcloud" / "assets" / "demo-server.jar"
NODE = "own-node"


class Own(Pairing, unittest.TestCase):
    """Both are the real programs."""

    NAME = pending.OWN

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="prexorcloud-interop-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.data = self.folder / "daemon"
        self.controller = processes.Controller(self.folder)
        self.addCleanup(self.controller.stop)
        self.health_port = processes.free_port()
        self.count = 0
        self.bring_copy("moved")
        config = self.folder / "daemon.toml"
        config.write_text(
            f"""
node_id = "{NODE}"
data_dir = "{self.data}"

[controller]
endpoints = ["{self.controller.address}"]

[enrolment]
join_token = "{self.controller.join_token(nodeId=NODE)}"

[health]
listen = "127.0.0.1:{self.health_port}"

[runtime]
allow_standin = true

[labels]
zone = "a"
"""
        )
        config.chmod(0o600)
        self.program = processes.Program(["daemon", "--config", str(config)])
        self.addCleanup(self.program.stop)
        self.addCleanup(self.end_all)
        processes.until(lambda: self.mine().get("status") == "ONLINE", "the node being there")

    # What the rows share

    def end_all(self):
        """Servers outlive their daemon."""
        self.freeze(signal.SIGCONT)
        for process in self.processes_in(self.data / "instances"):
            os.kill(process, signal.SIGKILL)

    def processes_in(self, folder):
        found = []
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if (process / "cwd").readlink().is_relative_to(folder):
                    found.append(int(process.name))
            except OSError:
                continue
        return found

    def bring_copy(self, name):
        """A template in the cache of the node as a Java controller would have named it, before the daemon starts."""
        [version] = push(self.controller, name)
        path = f"/api/v1/templates/{name}/versions/{version['hash']}/archive"
        request = urllib.request.Request(f"http://127.0.0.1:{self.controller.http_port}{path}")
        request.add_header("Authorization", f"Bearer {self.controller.admin_token()}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            archive = answer.read()
        known = archives.java_hash(FILES)
        cache = self.data / "cache" / "templates"
        cache.mkdir(parents=True, mode=0o700)
        file = cache / hashlib.sha256(f"{name}\0{known}".encode()).hexdigest()
        record = {"name": name, "hash": known, "sha256": hashlib.sha256(archive).hexdigest(), "bytes": len(archive)}
        file.with_suffix(".tar.gz").write_bytes(archive)
        file.with_suffix(".json").write_text(json.dumps(record))

    def mine(self):
        status, node = self.controller.request("GET", f"/nodes/{NODE}")
        return node if status == 200 else {}

    def instance(self, record):
        return self.controller.get(f"/instances/{record['id']}")

    def becomes(self, record, state):
        processes.until(lambda: self.instance(record)["state"] == state, f"{record['id']} becoming {state}")
        return self.instance(record)

    def order(self, jar=None, **fields):
        self.count += 1
        body = {"group": f"own-{self.count}", "node": NODE, "jar": jar or str(DEMO_JAR), "memoryMb": 64}
        return self.controller.post("/instances", {**body, **fields})

    def server(self, **fields):
        """The demo server, RUNNING."""
        return self.becomes(self.order(**fields), "RUNNING")

    def of_templates(self, *names):
        """The built-in server with these templates, RUNNING."""
        return self.server(jar=self.standin(), templates=list(names))

    def standin(self):
        jar = self.folder / "server.standin"
        jar.write_bytes(b"")
        return str(jar)

    def folder_of(self, record):
        return self.data / "instances" / record["group"] / record["id"]

    def processes_of(self, record):
        return self.processes_in(self.folder_of(record))

    def files_of(self, record):
        found = {name: (self.folder_of(record) / name).read_text() for name in FILES}
        equal(found, FILES, "what the folder of the instance has")

    def types(self, record, command):
        return self.controller.post(f"/instances/{record['id']}/command", {"command": command})

    def prints(self, record, text):
        console = lambda: self.controller.text(f"/instances/{record['id']}/console?follow=false")
        processes.until(lambda: text in console(), f"{text!r} in the console")

    def freeze(self, with_signal):
        if self.program.process.poll() is None:
            self.program.process.send_signal(with_signal)

    @functools.cache
    def silence(self):
        """The daemon is stopped for a while, and goes on."""
        self.freeze(signal.SIGSTOP)
        try:
            processes.until(lambda: self.mine()["status"] == "UNREACHABLE", "the node becoming unreachable")
        finally:
            self.freeze(signal.SIGCONT)
        processes.until(lambda: self.mine()["status"] == "ONLINE", "the node coming back")

    @functools.cache
    def warmed_in_vain(self):
        """A node is told to fetch a template that the controller loses before the daemon gets to ask; what came of it."""
        [version] = push(self.controller, "gone")
        self.freeze(signal.SIGSTOP)
        try:
            self.controller.post(f"/nodes/{NODE}/cache/warm", {"templates": ["gone"]})
            status, answer = self.controller.request("DELETE", "/templates/gone")
            assert status < 300, answer
            for blob in (self.controller.folder / "controller/content/blobs").rglob(version["archive"]):
                blob.unlink()
        finally:
            self.freeze(signal.SIGCONT)
        warming = lambda: self.cache()["warming"]
        processes.until(lambda: warming()["state"] == "FAILED", "the end of the warming")
        [failure] = warming()["failures"]
        return failure

    def cache(self):
        return self.controller.get(f"/nodes/{NODE}/cache")

    @functools.cache
    def shut_down(self):
        record = self.server()
        process = processes.until(lambda: self.processes_of(record), "the server's process")[0]
        answer = self.controller.post(f"/nodes/{NODE}/shutdown?reason=conformance")
        equal(self.program.wait(), 0, "the exit code of the daemon")
        equal(self.processes_of(record), [], "processes of the server")
        return answer, process

    def marked(self):
        record = self.server()
        (self.folder_of(record) / "mark.txt").write_text("0123456789")
        return record

    # From our daemon

    def daemon_handshake(self):
        node = self.mine()
        equal((node["labels"], node["connected"], node["contract"]), ({"zone": "a"}, True, "SAME"), "the node")
        assert node["hostInfo"]["javaVersion"] and node["version"], node
        return "prexorcloud daemon with label zone=a", f"GET /nodes/{NODE}: ONLINE, zone=a, {node['hostInfo']['osName']}"

    def daemon_node_status(self):
        record = self.server()
        processes.until(lambda: record["port"] in self.mine()["usedPorts"], "its port among the used ones")
        node = self.mine()
        assert node["totalDiskMb"] > 0 and node["totalMemoryMb"] > 0, node
        return "a server that runs", f"the node shows port {record['port']} used, {node['freeDiskMb']} MiB of disk free"

    def daemon_instance_status(self):
        record = self.server()
        self.controller.post(f"/instances/{record['id']}/stop")
        self.becomes(record, "STOPPED")
        return "a server starts and stops", "RUNNING, then STOPPED"

    def daemon_console_output(self):
        record = self.server()
        self.types(record, "say conformance")
        self.prints(record, "[Server] conformance")
        return "the server prints a line", "the console of the instance has it"

    def daemon_crash_report(self):
        record = self.server()
        self.types(record, "crash")
        crashes = lambda: self.controller.get(f"/crashes?instance={record['id']}")
        [crash] = processes.until(crashes, "the crash being kept")
        equal(crash["exitCode"], 1, "the exit code")
        return "the server throws and exits with 1", f"GET /crashes: {crash['exitCode']}, {crash['classification']}"

    def daemon_pong(self):
        self.silence()
        return "the daemon goes on after SIGSTOP", "the node is ONLINE again"

    def daemon_template_request(self):
        push(self.controller, "asked")
        self.files_of(self.of_templates("asked"))
        return "a start with a template that the node lacks", "its files are in the folder"

    def daemon_cache_status(self):
        push(self.controller, "counted")
        self.of_templates("counted")
        number = self.controller.post(f"/nodes/{NODE}/cache/refresh")["number"]
        processes.until(lambda: self.cache()["number"] > number, "the answer")
        assert "counted" in [entry["name"] for entry in self.cache()["templates"]], self.cache()
        return "a template that was fetched", f"GET /nodes/{NODE}/cache lists it"

    def daemon_error_report(self):
        failure = self.warmed_in_vain()
        equal((failure["code"], failure["what"]), ("PRE_WARM_FAILED", "gone"), "the failure")
        return "a template that cannot be fetched beforehand", f"GET /nodes/{NODE}/cache: {failure['code']}"

    def daemon_shutdown_node_ack(self):
        answer, _ = self.shut_down()
        assert answer["acknowledged"] and answer["runningInstances"] >= 1, answer
        return "a shutdown while servers run", f"the operator's answer: {answer['runningInstances']} running"

    def daemon_start_instance_ack(self):
        record = self.order(jar=str(self.folder / "missing.jar"))
        error = self.becomes(record, "CRASHED")["lastError"]
        assert "missing.jar" in error, error
        return "a jar that is not on the node", f"CRASHED, lastError: {error}"

    def daemon_stop_instance_ack(self):
        record = self.server()
        self.controller.post(f"/instances/{record['id']}/stop?force=true")
        stopped = self.becomes(record, "STOPPED")
        equal(stopped["lastError"], None, "the error")
        return "a forced stop", "STOPPED at once, and not asked for again"

    def daemon_daemon_log_record(self):
        self.order(jar=str(self.folder / "not-there.jar"))
        records = lambda: self.controller.get(f"/nodes/{NODE}/logs?level=DEBUG")["records"]
        told = lambda: [record for record in records() if record["logger"].startswith("prexorcloud_daemon")]
        record = processes.until(told, "a record of the daemon", 5)[0]
        return "what the daemon logs about a start", f"GET /nodes/{NODE}/logs: {record['level']} {record['message']}"

    def installed(self, module_id):
        """A module for a Java daemon's process, brought to every node."""
        jar, digest, _ = java_module(module_id)
        file = self.folder / f"{module_id}.jar"
        file.write_bytes(jar)
        self.controller.ctl("module", "install", str(file))
        processes.until(lambda: kept(self.data, digest), "the jar on the node")
        return digest

    def daemon_module_state_update(self):
        self.installed("stateful")
        states = lambda: json.dumps(self.controller.ctl("module", "states"))
        processes.until(lambda: all(word in states() for word in ("stateful", NODE, "FAILED")), "the state")
        return "a module that this daemon cannot host", "`prexorctl module states` shows FAILED"

    def daemon_event_subscribe(self):
        self.sample()
        record = self.order()
        self.module_prints(record["id"])
        return "a module that listens", "it prints the next change"

    def sample(self):
        self.controller.ctl("module", "install", str(sample_module()))
        states = lambda: json.dumps(self.controller.ctl("module", "states"))
        processes.until(lambda: "ACTIVE" in states(), "the module being active")

    def module_prints(self, text):
        modules = lambda: [path for path in self.data.rglob("*") if path.is_file() and "module" in str(path)]
        told = lambda: any(text.encode() in path.read_bytes() for path in modules())
        processes.until(told, "what the module prints")

    def daemon_event_unsubscribe(self):
        self.sample()
        first = self.order()
        self.module_prints(first["id"])
        equal(self.mine()["eventTypes"], [EVENT], "what the node wants to hear of")
        self.controller.ctl("module", "uninstall", "sample", "--yes")
        processes.until(lambda: not self.mine()["eventTypes"], "the end of the subscription")
        return "the module that listens leaves", "the controller forwards nothing to the node"

    def daemon_instance_file_tree(self):
        record = self.marked()
        entries = self.controller.get(f"/instances/{record['id']}/files")["entries"]
        sizes = {entry["path"]: entry["sizeBytes"] for entry in entries}
        equal(sizes.get("mark.txt"), 10, "the size of the file")
        return "a folder with mark.txt", f"GET /instances/ID/files: {len(sizes)} entries, mark.txt with 10 bytes"

    def daemon_instance_file_content(self):
        record = self.marked()
        found = self.controller.get(f"/instances/{record['id']}/files/content?path=mark.txt")
        equal((found["content"], found["totalSizeBytes"]), ("0123456789", 10), "the content")
        return "a file of 10 bytes", "GET /instances/ID/files/content: the same"

    # From our controller

    def controller_handshake_ack(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/ready", timeout=10) as answer:
            health = json.load(answer)
        equal((health["status"], health["connected"]), ("READY", True), "the health of the daemon")
        record = self.server()
        wanted = f"CLOUD_CONTROLLER_PORT={self.controller.http_port}".encode()
        [process, *_] = processes.until(lambda: self.processes_of(record), "the server's process")
        assert wanted in pathlib.Path(f"/proc/{process}/environ").read_bytes(), "the port of the API"
        return "the node is accepted", "/ready: READY; servers are told the port of the API"

    def controller_start_instance(self):
        record = self.server(env={"CONFORMANCE": "yes"}, memoryMb=96)
        [process, *_] = processes.until(lambda: self.processes_of(record), "the server's process")
        arguments = pathlib.Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        environment = pathlib.Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        wanted = ((b"-Xmx96m", arguments), (str(record["port"]).encode(), arguments), (b"CONFORMANCE=yes", environment))
        for text, among in wanted:
            assert text in among, (text, among)
        return "POST /instances: the demo server, 96 MiB", f"process {process} with -Xmx96m, its port and variable"

    def controller_stop_instance(self):
        record = self.server()
        processes.until(lambda: self.processes_of(record), "the server's process")
        self.controller.post(f"/instances/{record['id']}/stop")
        self.becomes(record, "STOPPED")
        processes.until(lambda: not self.processes_of(record), "the end of the process")
        return "POST /instances/ID/stop", "STOPPED, no process is left"

    def controller_send_command(self):
        record = self.server()
        answer = self.types(record, "list")
        assert answer["confirmed"], answer
        self.prints(record, "of a max of")
        return "POST /instances/ID/command: list", "confirmed; the server answers on its console"

    def controller_ping(self):
        self.silence()
        return "pings to a daemon that is stopped", "UNREACHABLE after three"

    def controller_template_data(self):
        push(self.controller, "brought")
        self.files_of(self.of_templates("brought"))
        fetched = [line for line in self.controller.program.lines if "template" in line and "brought" in line]
        assert fetched, "the controller says nothing of it"
        return f"prexorctl template push: {', '.join(FILES)}", "both in the folder of the instance, fetched once"

    def controller_template_up_to_date(self):
        self.files_of(self.of_templates("moved"))
        sent = [line for line in self.controller.program.lines if "may fetch a template" in line and "moved" in line]
        equal(sent, [], "what the controller says of sending it")
        return "a copy that is known by its Java hash", "its files are in the folder, and nothing was sent"

    def controller_shutdown_node(self):
        _, process = self.shut_down()
        return "POST /nodes/ID/shutdown", f"process {process} is gone, the daemon exits with 0"

    def controller_pre_warm_cache(self):
        push(self.controller, "early")
        self.controller.post(f"/nodes/{NODE}/cache/warm", {"templates": ["early"]})
        processes.until(lambda: self.cache()["warming"]["state"] == "WARMED", "the end of the warming")
        [entry] = [entry for entry in self.cache()["templates"] if entry["name"] == "early"]
        assert kept(self.data / "cache", entry["hash"]), "the archive is not on the node"
        return "POST /nodes/ID/cache/warm: early", "WARMED; the archive is in the cache of the node"

    def controller_request_cache_status(self):
        number = self.controller.post(f"/nodes/{NODE}/cache/refresh")["number"]
        processes.until(lambda: self.cache()["number"] > number, "the answer")
        return "POST /nodes/ID/cache/refresh", f"a status with a higher number than {number}"

    def controller_error_report(self):
        failure = self.warmed_in_vain()
        assert "TEMPLATE_NOT_FOUND" in failure["message"], failure
        return "a request for a template that is gone", f"the daemon gives up at once: {failure['message']}"

    def controller_module_install(self):
        self.installed("fresh")
        return "prexorctl module install", "the jar is on the node"

    def controller_module_uninstall(self):
        digest = self.installed("leaving")
        self.controller.ctl("module", "uninstall", "leaving", "--yes")
        processes.until(lambda: not kept(self.data, digest), "the end of the jar")
        return "prexorctl module uninstall", "the jar is gone from the node"

    def controller_module_event(self):
        self.sample()
        record = self.order()
        self.module_prints(record["id"])
        return "an instance that is ordered", "the module prints the event about it"

    def controller_walk_instance_files(self):
        record = self.marked()
        found = self.controller.get(f"/instances/{record['id']}/files?maxEntries=1")
        equal((len(found["entries"]), found["truncated"]), (1, True), "a walk of one entry")
        return "GET /instances/ID/files?maxEntries=1", "one entry, truncated"

    def controller_read_instance_file(self):
        record = self.marked()
        path = f"/instances/{record['id']}/files/content"
        end = self.controller.get(f"{path}?path=mark.txt&maxBytes=4&tail=true")
        equal((end["content"], end["truncated"]), ("6789", True), "the end of the file")
        status, answer = self.controller.request("GET", f"{path}?path=../../../daemon.toml")
        equal((status, answer["error"]["code"]), (400, "PATH_OUTSIDE_INSTANCE"), "a way out")
        return "the last 4 bytes; a way out", "6789; PATH_OUTSIDE_INSTANCE"
