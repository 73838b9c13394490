"""Our daemon, and a controller that somebody else wrote"""

import functools
import hashlib
import http.server
import itertools
import json
import os
import pathlib
import signal
import threading
import urllib.request
import zipfile

import archives
import contract
import java_peers
import processes
from conformance import pending
from conformance.pairing import FILES, Pairing, equal, java_module, kept, sample_module
from controller_peer import CAPABILITIES, DEMO_JAR, ControllerCase

daemon = contract.daemon
STATE = daemon.InstanceState.Value
# Pings that a row sends have lower numbers than those that come by themselves.
FIRST_OF_MANY = 1000


class Jars(http.server.BaseHTTPRequestHandler):
    """Serves the demo server's jar, and nothing else, as a vendor would."""

    def do_GET(self):  # the name is the library's
        found = self.path == "/demo-server.jar"
        self.send_response(200 if found else 404)
        body = DEMO_JAR.read_bytes() if found else b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class ForeignController(Pairing, ControllerCase):
    """What our daemon makes of an order is looked at on its disk and among its processes; what it sends, in what arrives."""

    capabilities = ()
    settings = """
[runtime]
allow_standin = true
"""

    def setUp(self):
        super().setUp()
        self.data = self.folder / "data"
        self.count = 0
        self.stream, self.shaken = self.admitted()
        self.addCleanup(self.end_all)
        self.is_over = threading.Event()
        self.addCleanup(self.is_over.set)
        threading.Thread(target=self.keep_pinging, daemon=True).start()

    def ack(self, **fields):
        return super().ack(**{"capabilities": list(self.capabilities), "heartbeat_interval_ms": 1000, **fields})

    # What the rows share

    def keep_pinging(self):
        """A controller that is silent for three intervals is left."""
        for sequence in itertools.count(FIRST_OF_MANY):
            if self.is_over.wait(1.0):
                return
            self.stream.tell(ping=daemon.Ping(sequence=sequence))

    def pong(self):
        """The next answer to a row's own ping: `keep_pinging` is answered meanwhile."""
        return self.stream.expect("pong", lambda pong: pong.sequence < FIRST_OF_MANY)

    def end_all(self):
        """Servers outlive their daemon: where no stream could end them, nothing else would."""
        instances = self.data / "instances"
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if (process / "cwd").readlink().is_relative_to(instances):
                    os.kill(int(process.name), signal.SIGKILL)
            except OSError:
                continue

    def names(self):
        """A Java controller knows no incarnations."""
        self.count += 1
        incarnation = self.count if "incarnations/1" in self.capabilities else 0
        return {"instance_id": f"lobby-{self.count}", "incarnation": incarnation}

    def of(self, start):
        return lambda message: message.instance_id == start.instance_id

    def becomes(self, start, *states):
        for name in states:
            wanted = lambda update: update.instance_id == start.instance_id and update.state == STATE(name)
            self.stream.expect("instance_status", wanted)

    def folder_of(self, start):
        return self.data / "instances" / start.group / start.instance_id

    def server(self, **fields):
        """The demo server, RUNNING."""
        return self.running(self.stream, **{**self.names(), **fields})

    def planned(self, *templates, **fields):
        """A start of the built-in server with these templates, each a name and a hash."""
        runtime = daemon.RuntimeArtifact(jar_file="server.standin", category=daemon.InstanceCategory.SERVER)
        plan = daemon.CompositionPlan(
            plan_hash="plan-of-templates",
            runtime=runtime,
            templates=[daemon.TemplateRef(name=name, hash=hash) for name, hash in templates],
        )
        names = {**self.names(), "jar_file": "server.standin", "download_url": "", "composition_plan": plan}
        start = self.start_message(**{**names, **fields})
        self.stream.tell(start_instance=start)
        self.addCleanup(lambda: self.end_instance(self.stream, start))
        return start

    def asked_for(self, name):
        return self.stream.expect("template_request", lambda request: request.template_name == name)

    def send_template(self, name, hash):
        data = daemon.TemplateData(template_name=name, hash=hash, tar_gz=archives.files(FILES))
        self.stream.tell(template_data=data)

    def files_of(self, start):
        self.becomes(start, "RUNNING")
        found = {name: (self.folder_of(start) / name).read_text() for name in FILES}
        equal(found, FILES, "what the folder of the instance has")

    def cached(self):
        self.stream.tell(request_cache_status=daemon.RequestCacheStatus())
        return self.stream.expect("cache_status")

    def mark(self):
        """A server with a file in its folder; the start and the request about it."""
        start = self.server()
        (self.folder_of(start) / "notes").mkdir()
        (self.folder_of(start) / "notes" / "mark.txt").write_text("0123456789")
        return start, {"request_id": f"request-{start.instance_id}", "group": start.group, "instance_id": start.instance_id}

    def warmed(self):
        """Tells the daemon to fetch two jars, of which one is there; the entries."""
        jars = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Jars)
        threading.Thread(target=jars.serve_forever, daemon=True).start()
        self.addCleanup(jars.server_close)
        self.addCleanup(jars.shutdown)
        address = f"http://127.0.0.1:{jars.server_port}"
        digest = hashlib.sha256(DEMO_JAR.read_bytes()).hexdigest()
        entries = [
            daemon.PreWarmEntry(
                platform="paper", platform_version="1.21", jar_file=file, download_url=f"{address}/{file}", sha256=sha256
            )
            for file, sha256 in (("demo-server.jar", digest), ("missing.jar", 64 * "0"))
        ]
        self.stream.tell(pre_warm_cache=daemon.PreWarmCache(entries=entries))
        return entries

    def health(self):
        """What the daemon answers to a probe."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/ready", timeout=10) as answer:
            return json.load(answer)

    # From our daemon

    def daemon_handshake(self):
        shaken = self.shaken
        equal((shaken.node_id, shaken.protocol_version), ("python-node", 1), "the handshake")
        assert shaken.version and shaken.total_memory_mb > 0 and shaken.available_cpus > 0, shaken
        assert shaken.host_info.os_name and shaken.host_info.java_version, shaken.host_info
        return "prexorcloud daemon, a join token", f"{shaken.node_id} {shaken.version} after {len(self.peer.exchanged)} enrolment"

    def daemon_node_status(self):
        start = self.server()
        status = self.stream.expect("node_status", lambda status: start.port in status.used_ports)
        assert 0 <= status.cpu_usage <= 1 and 0 <= status.used_memory_mb <= status.total_memory_mb, status
        return "a server that runs", f"{status.instance_count} servers, its port among the used ones"

    def daemon_instance_status(self):
        start = self.server()
        self.stream.tell(stop_instance=daemon.StopInstance(instance_id=start.instance_id))
        self.becomes(start, "STOPPING", "STOPPED")
        return "a server is started and stopped", "PREPARING, STARTING, RUNNING, STOPPING, STOPPED"

    def daemon_console_output(self):
        start = self.server()
        self.stream.tell(send_command=daemon.SendCommand(instance_id=start.instance_id, command="say conformance"))
        line = self.stream.expect("console_output", lambda output: "conformance" in output.line)
        equal(line.instance_id, start.instance_id, "the instance")
        assert line.timestamp_ms > 0, line
        return "the server prints a line", line.line

    def daemon_crash_report(self):
        start = self.server()
        self.stream.tell(send_command=daemon.SendCommand(instance_id=start.instance_id, command="crash"))
        self.becomes(start, "CRASHED")
        report = self.stream.expect("crash_report", self.of(start))
        equal((report.exit_code, report.group), (1, start.group), "the report")
        assert any("Exception" in line for line in report.log_tail), report.log_tail
        if report.report_id:
            self.stream.tell(crash_report_ack=daemon.CrashReportAck(report_id=report.report_id))
        return "the server throws and exits with 1", f"exit code 1, {len(report.log_tail)} lines of console"

    def daemon_pong(self):
        self.stream.tell(ping=daemon.Ping(sequence=41))
        equal(self.pong().sequence, 41, "the number")
        return "Ping 41", "41"

    def daemon_template_request(self):
        start = self.planned(("requested", "h1"))
        request = self.asked_for("requested")
        equal(request.known_hash, "", "the hash that it knows")
        self.send_template("requested", "h1")
        self.files_of(start)
        return "a start with a template that it lacks", "requested, of which it knows none"

    def daemon_cache_status(self):
        start = self.planned(("counted", "h1"))
        self.asked_for("counted")
        self.send_template("counted", "h1")
        self.becomes(start, "RUNNING")
        status = self.cached()
        assert ("counted", "h1") in {(entry.name, entry.hash) for entry in status.templates}, status
        assert status.total_size_bytes > 0, status
        return "a template that was brought", f"counted among {len(status.templates)} templates, {status.total_size_bytes} bytes"

    def daemon_error_report(self):
        fenced = daemon.ControllerMessage(ping=daemon.Ping(sequence=42), epoch=5)
        self.stream.send(fenced)
        equal(self.pong().sequence, 42, "the number")
        self.stream.send(daemon.ControllerMessage(stop_instance=daemon.StopInstance(instance_id="ghost"), epoch=4))
        report = self.stream.expect("error_report")
        equal(report.error_code, "STALE_EPOCH", "the code")
        return "an order of epoch 4 after one of epoch 5", f"STALE_EPOCH: {report.error_message}"

    @functools.cache
    def shut_down(self):
        start = self.server()
        processes_of = processes.until(lambda: self.process_of(start), "the server's process")
        self.stream.tell(shutdown_node=daemon.ShutdownNode(reason="conformance"))
        ack = self.stream.expect("shutdown_node_ack")
        self.becomes(start, "STOPPED")
        equal(self.program.wait(), 0, "the exit code of the daemon")
        equal(self.process_of(start), [], "processes of the server")
        return ack, processes_of

    def process_of(self, start):
        """Processes whose working directory is the instance's."""
        found = []
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if (process / "cwd").readlink() == self.folder_of(start):
                    found.append(int(process.name))
            except OSError:
                continue
        return found

    def daemon_shutdown_node_ack(self):
        ack, _ = self.shut_down()
        assert ack.running_instances >= 1 and ack.estimated_drain_seconds >= 1, ack
        return "ShutdownNode while servers run", f"{ack.running_instances} running, {ack.estimated_drain_seconds} s"

    def daemon_start_instance_ack(self):
        start = self.server()
        self.stream.tell(start_instance=start)
        again = self.stream.expect("start_instance_ack", lambda ack: self.of(start)(ack) and not ack.accepted)
        equal(again.error_code, "INSTANCE_ALREADY_RUNNING", "the code for a second start")
        runtime = daemon.RuntimeArtifact(jar_file="no.jar", download_url="file:///nowhere/no.jar")
        plan = daemon.CompositionPlan(plan_hash="plan-of-nothing", runtime=runtime)
        broken = self.start_message(**self.names(), jar_file="no.jar", download_url="", composition_plan=plan)
        self.stream.tell(start_instance=broken)
        ack = self.stream.expect("start_instance_ack", self.of(broken))
        equal((ack.accepted, ack.plan_hash, ack.failure_disposition), (False, "plan-of-nothing", 1), "the answer")
        return "the same start twice; one without its jar", f"INSTANCE_ALREADY_RUNNING; {ack.error_code}, PERMANENT"

    def daemon_stop_instance_ack(self):
        start = self.server()
        for instance in (start.instance_id, "ghost"):
            self.stream.tell(stop_instance=daemon.StopInstance(instance_id=instance, force=True))
            ack = self.stream.expect("stop_instance_ack", lambda ack: ack.instance_id == instance)
            assert ack.accepted, ack
        return "stops of a server and of none", "both accepted"

    def daemon_daemon_log_record(self):
        # It says so in its log, as nobody asked for such a template.
        self.stream.tell(template_up_to_date=daemon.TemplateUpToDate(template_name="nobody-asked"))
        told = lambda record: "nobody-asked" in f"{record.message} {record.mdc}"
        record = self.stream.expect("daemon_log_record", told, deadline=5)
        equal(record.level, "WARN", "the level")
        assert record.timestamp_ms > 0 and record.logger, record
        return "a warning in its log", f"WARN {record.logger}: {record.message}"

    def install(self, module_id, **fields):
        jar, digest, manifest = java_module(module_id)
        values = {"version": "1.0.0", "sha256": digest, "jar_bytes": jar, "manifest_yaml": manifest, **fields}
        self.stream.tell(module_install=daemon.ModuleInstall(module_id=module_id, **values))
        return digest

    def module_state(self, module_id, deadline=10):
        return self.stream.expect("module_state_update", lambda update: update.module_id == module_id, deadline)

    def daemon_module_state_update(self):
        self.install("damaged", sha256="0" * 64)
        damaged = self.module_state("damaged")
        equal(damaged.state, "FAILED", "the state")
        assert "sha256" in damaged.last_error.lower().replace("-", ""), damaged.last_error
        return "a jar with another digest", f"FAILED: {damaged.last_error}"

    def subscribed(self):
        """The module that the repository brings, installed; the subscription that comes of it."""
        # Of one that an earlier row has installed nothing new would be told.
        self.stream.tell(module_uninstall=daemon.ModuleUninstall(module_id="sample"))
        gone = lambda update: (update.module_id, update.state) == ("sample", "UNLOADED")
        self.stream.expect("module_state_update", gone)
        jar = sample_module().read_bytes()
        with zipfile.ZipFile(sample_module()) as archive:
            manifest = archive.read("META-INF/prexor/module.yaml").decode()
        self.install("sample", jar_bytes=jar, sha256=hashlib.sha256(jar).hexdigest(), manifest_yaml=manifest)
        return self.stream.expect("event_subscribe").event_types

    def daemon_event_subscribe(self):
        types = self.subscribed()
        assert types, "no types"
        return "a module that listens", ", ".join(types)

    def daemon_event_unsubscribe(self):
        types = self.subscribed()
        self.stream.tell(module_uninstall=daemon.ModuleUninstall(module_id="sample"))
        equal(set(self.stream.expect("event_unsubscribe").event_types), set(types), "the types")
        return "the last module that listens leaves", ", ".join(types)

    def daemon_instance_file_tree(self):
        _, request = self.mark()
        self.stream.tell(walk_instance_files=daemon.WalkInstanceFiles(**request))
        tree = self.stream.expect("instance_file_tree", lambda tree: tree.request_id == request["request_id"])
        sizes = {entry.path: entry.size_bytes for entry in tree.entries}
        equal(sizes.get("notes/mark.txt"), 10, "the size of the file")
        return "a folder with notes/mark.txt", f"{len(sizes)} entries, notes/mark.txt with 10 bytes"

    def daemon_instance_file_content(self):
        _, request = self.mark()
        self.stream.tell(read_instance_file=daemon.ReadInstanceFile(path="notes/mark.txt", **request))
        answer = self.stream.expect("instance_file_content", lambda one: one.request_id == request["request_id"])
        equal((answer.content, answer.total_size_bytes, answer.error), (b"0123456789", 10, ""), "the answer")
        return "a file of 10 bytes", "the same 10 bytes"

    # From the controller

    def controller_handshake_ack(self):
        health = self.health()
        equal((health["status"], health["connected"]), ("READY", True), "the health of the daemon")
        second = self.stream.expect("node_status")
        assert second, "no status"
        return "accepted, a status each second", "/ready: READY; a status comes in time"

    def controller_start_instance(self):
        start = self.server(env={"CONFORMANCE": "yes"}, memory_mb=96)
        [process, *_] = processes.until(lambda: self.process_of(start), "the server's process")
        arguments = pathlib.Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        environment = pathlib.Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        for wanted, among in ((b"-Xmx96m", arguments), (str(start.port).encode(), arguments), (b"CONFORMANCE=yes", environment)):
            assert wanted in among, (wanted, among)
        return "the demo server, 96 MiB, a port, CONFORMANCE=yes", f"process {process} with -Xmx96m, its port and variable"

    def controller_stop_instance(self):
        start = self.server()
        processes.until(lambda: self.process_of(start), "the server's process")
        self.stream.tell(stop_instance=daemon.StopInstance(instance_id=start.instance_id))
        self.becomes(start, "STOPPED")
        processes.until(lambda: not self.process_of(start), "the end of the process")
        return "a graceful stop", "STOPPED, no process is left"

    def controller_send_command(self):
        start = self.server()
        self.stream.tell(send_command=daemon.SendCommand(instance_id=start.instance_id, command="list"))
        line = self.stream.expect("console_output", lambda output: "of a max of" in output.line)
        return "list", line.line

    def controller_ping(self):
        for sequence in (51, 52):
            self.stream.tell(ping=daemon.Ping(sequence=sequence))
            equal(self.pong().sequence, sequence, "the number")
        return "51, 52", "a Pong for each"

    def controller_template_data(self):
        start = self.planned(("data", "h1"))
        self.asked_for("data")
        self.send_template("data", "h1")
        self.files_of(start)
        return f"an archive of {', '.join(FILES)}", "both in the folder of the instance"

    def controller_template_up_to_date(self):
        known = archives.java_hash(FILES)
        first = self.planned(("current", known))
        self.asked_for("current")
        self.send_template("current", known)
        self.files_of(first)
        second = self.planned(("current", "h2"))
        equal(self.asked_for("current").known_hash, known, "the hash that it knows")
        self.stream.tell(template_up_to_date=daemon.TemplateUpToDate(template_name="current"))
        self.files_of(second)
        return "current is what the daemon knows", "the start goes on with the files of the copy"

    def controller_shutdown_node(self):
        _, ended = self.shut_down()
        return "maintenance while a server runs", f"process {ended[0]} is gone, the daemon exits with 0"

    def controller_pre_warm_cache(self):
        there, missing = self.warmed()
        report = self.stream.expect("error_report", lambda report: report.error_code == "PRE_WARM_FAILED")
        equal(report.context, missing.jar_file, "what could not be had")
        # What it keeps is told by itself at the end.
        status = self.stream.expect("cache_status")
        equal([jar.jar_file for jar in status.jars], [there.jar_file], "the jars in the cache")
        return "demo-server.jar, and one that is not there", f"one is in the cache; PRE_WARM_FAILED {report.context}"

    def controller_request_cache_status(self):
        status = self.cached()
        return "the question", f"{len(status.templates)} templates, {len(status.jars)} jars"

    def controller_error_report(self):
        start = self.planned(("refused", "h1"))
        self.asked_for("refused")
        said = daemon.ErrorReport(error_code="TEMPLATE_NOT_FOUND", error_message="not here", context="refused")
        self.stream.tell(error_report=said)
        ack = self.stream.expect("start_instance_ack", self.of(start))
        equal((ack.accepted, ack.error_code), (False, "TEMPLATE_APPLY_FAILED"), "the answer to the start")
        assert "not here" in ack.error_message, ack.error_message
        return "TEMPLATE_NOT_FOUND about a template", f"the start fails at once: {ack.error_message}"

    def controller_module_install(self):
        digest = self.install("java-only")
        update = self.module_state("java-only")
        equal(update.state, "FAILED", "the state of a module for the Java daemon's process")
        assert kept(self.data, digest), "the jar is not kept"
        assert "java" in update.last_error.lower(), update.last_error
        return "a module for the Java daemon's process", f"its jar is kept; FAILED: {update.last_error}"

    def controller_module_uninstall(self):
        digest = self.install("leaving")
        self.module_state("leaving")
        assert kept(self.data, digest), "the jar is not kept"
        self.stream.tell(module_uninstall=daemon.ModuleUninstall(module_id="leaving"))
        equal(self.module_state("leaving").state, "UNLOADED", "the state")
        equal(kept(self.data, digest), [], "what is left of the jar")
        return "leaving, which is kept", "UNLOADED, and its jar is gone"

    def controller_module_event(self):
        event_type = self.subscribed()[0]
        payload = json.dumps({"instanceId": "conformance-event"}).encode()
        self.stream.tell(module_event=daemon.ModuleEvent(event_type=event_type, payload_json=payload))
        told = lambda: any(b"conformance-event" in path.read_bytes() for path in self.data.rglob("*") if path.is_file())
        processes.until(told, "the event in what the module prints")
        return f"an event {event_type}", "the module prints it"

    def controller_walk_instance_files(self):
        start, request = self.mark()
        walk = lambda **fields: self.stream.tell(walk_instance_files=daemon.WalkInstanceFiles(**{**request, **fields}))
        answer = lambda id: self.stream.expect("instance_file_tree", lambda tree: tree.request_id == id)
        walk(request_id="one-entry", max_entries=1)
        tree = answer("one-entry")
        equal((len(tree.entries), tree.truncated), (1, True), "a walk of one entry")
        walk(request_id="nowhere", instance_id="ghost")
        equal(answer("nowhere").error, "INSTANCE_NOT_FOUND", "the error about none")
        return "one entry; an instance that is not there", "one, truncated; INSTANCE_NOT_FOUND"

    def controller_read_instance_file(self):
        start, request = self.mark()
        read = lambda **fields: self.stream.tell(read_instance_file=daemon.ReadInstanceFile(**{**request, **fields}))
        answer = lambda id: self.stream.expect("instance_file_content", lambda one: one.request_id == id)
        read(request_id="tail", path="notes/mark.txt", max_bytes=4, tail=True)
        end = answer("tail")
        equal((end.content, end.total_size_bytes, end.truncated), (b"6789", 10, True), "the end of the file")
        read(request_id="out", path="../../../daemon.toml")
        equal(answer("out").error, "PATH_OUTSIDE_INSTANCE", "the error about a way out")
        return "the last 4 bytes; a way out", "6789; PATH_OUTSIDE_INSTANCE"


class PythonController(ForeignController):
    """grpcio; announces what the peer in Python knows."""

    NAME = pending.PYTHON_CONTROLLER
    capabilities = CAPABILITIES


class JavaController(ForeignController):
    """grpc-java on Netty with certificates of the JDK and the keepalive of the Java controller; announces nothing."""

    NAME = pending.JAVA_CONTROLLER

    def made_peer(self):
        return java_peers.Controller(self.folder / "java")
