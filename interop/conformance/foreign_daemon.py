"""A daemon that somebody else wrote, and our controller"""

import functools
import gzip
import io
import json
import tarfile

import archives
import contract
import java_peers
import processes
from conformance import pending
from conformance.pairing import EVENT, FILES, Pairing, equal, java_module, meanwhile, push
from daemon_peer import CAPABILITIES, HOST, DaemonCase

daemon = contract.daemon
STATE = daemon.InstanceState.Value


class ForeignDaemon(Pairing, DaemonCase):
    """What our controller makes of a daemon is looked at where operators look; what it sends, in what arrives."""

    capabilities = ()
    answers_pings = True

    def setUp(self):
        self.group_count = 0
        self.me, self.stream, self.acknowledged = self.connected(
            capabilities=list(self.capabilities), total_memory_mb=65536, available_cpus=4, labels={"zone": "a"}
        )

    # What the rows share

    def mine(self):
        return self.controller.get(f"/nodes/{self.me}")

    def tag(self, start):
        """A Java daemon knows no incarnations."""
        return {"incarnation": start.incarnation} if "incarnations/1" in self.capabilities else {}

    def order(self, **fields):
        """An instance that an operator orders on this node; its record and the StartInstance that comes of it."""
        self.group_count += 1
        body = {"group": f"group-{self.group_count}", "node": self.me, "jar": "https://jars.example/server.jar"}
        record = self.controller.post("/instances", {**body, **fields})
        return record, self.stream.expect("start_instance", lambda start: start.instance_id == record["id"])

    def report(self, start, *states):
        for state in states:
            update = daemon.InstanceStatusUpdate(
                instance_id=start.instance_id, state=STATE(state), port=start.port, **self.tag(start)
            )
            self.stream.tell(instance_status=update)

    def running(self):
        _, start = self.order()
        self.report(start, "PREPARING", "STARTING", "RUNNING")
        ack = daemon.StartInstanceAck(instance_id=start.instance_id, accepted=True, **self.tag(start))
        self.stream.tell(start_instance_ack=ack)
        self.becomes(start.instance_id, "RUNNING")
        return start

    def asked_for_files(self, path, kind):
        """What an operator asks about files, the request that arrives, and a way to the operator's answer."""
        start = self.running()
        with meanwhile(lambda: self.controller.get(f"/instances/{start.instance_id}/{path}")) as answer:
            request = self.stream.expect(kind)
            equal((request.group, request.instance_id), (start.group, start.instance_id), "the instance asked about")
            yield request
            yield answer()

    # From the daemon

    def daemon_handshake(self):
        node = self.mine()
        equal((node["status"], node["version"], node["labels"]), ("ONLINE", "python-1.0", {"zone": "a"}), "the node")
        equal((node["hostInfo"]["osName"], node["hostInfo"]["arch"]), (HOST.os_name, HOST.arch), "its host")
        return f"{self.me}, 4 CPUs, label zone=a", f"GET /nodes/{self.me}: ONLINE, zone=a, its host"

    def daemon_node_status(self):
        status = daemon.NodeStatus(
            cpu_usage=0.25, total_memory_mb=65536, used_memory_mb=777, free_disk_mb=5, total_disk_mb=9, used_ports=[25999]
        )
        self.stream.tell(node_status=status)
        wanted = (25.0, 777, 5, 9, [25999])
        names = ("cpuUsage", "usedMemoryMb", "freeDiskMb", "totalDiskMb", "usedPorts")
        processes.until(lambda: tuple(map(self.mine().get, names)) == wanted, "the figures")
        return "25 % CPU, 777 MiB used, port 25999", "the node shows all of them"

    def daemon_instance_status(self):
        _, start = self.order()
        for state in ("PREPARING", "STARTING", "RUNNING"):
            self.report(start, state)
            self.becomes(start.instance_id, state)
        return "PREPARING, STARTING, RUNNING", "the instance is each of them in turn"

    def daemon_console_output(self):
        start = self.running()
        line = f"hello from {self.NAME}"
        self.stream.tell(console_output=daemon.ConsoleOutput(instance_id=start.instance_id, line=line, **self.tag(start)))
        console = lambda: self.controller.text(f"/instances/{start.instance_id}/console?follow=false")
        processes.until(lambda: line in console(), "the line in the console")
        return f"the line {line!r}", "the console of the instance has it"

    def daemon_crash_report(self):
        start = self.running()
        self.report(start, "CRASHED")
        tail = ["java.lang.OutOfMemoryError: Java heap space"]
        extra = {"report_id": "conformance-crash", **self.tag(start)} if "crash-ack/1" in self.capabilities else {}
        report = daemon.CrashReport(
            instance_id=start.instance_id, group=start.group, exit_code=137, log_tail=tail, uptime_ms=5, **extra
        )
        self.stream.tell(crash_report=report)
        crashes = lambda: self.controller.get(f"/crashes?instance={start.instance_id}")
        [crash] = processes.until(crashes, "the crash being kept")
        equal((crash["exitCode"], crash["classification"]), (137, "OOM"), "the crash")
        return "exit code 137, OutOfMemoryError", "GET /crashes: 137, OOM"

    def daemon_pong(self):
        self.stream.answers_pings = False
        try:
            processes.until(lambda: self.mine()["status"] == "UNREACHABLE", "the node becoming unreachable")
            for _ in range(3):
                ping = self.stream.expect("ping")
            self.stream.tell(pong=daemon.Pong(sequence=ping.sequence))
            processes.until(lambda: self.mine()["status"] == "ONLINE", "the node coming back")
        finally:
            self.stream.answers_pings = True
        return "none for three pings, then one", "UNREACHABLE, then ONLINE"

    def daemon_template_request(self):
        push(self.controller, "asked")
        self.order(templates=["asked"])
        self.stream.tell(template_request=daemon.TemplateRequest(template_name="asked"))
        data = self.stream.expect("template_data", lambda data: data.template_name == "asked")
        return "asked", f"TemplateData of {len(data.tar_gz)} bytes"

    def daemon_cache_status(self):
        self.controller.post(f"/nodes/{self.me}/cache/refresh")
        self.stream.expect("request_cache_status")
        template = daemon.TemplateCacheEntry(name="kept", hash="h1", size_bytes=42, last_used_ms=1)
        jar = daemon.JarCacheEntry(platform="paper", version="1.21", jar_file="paper.jar", size_bytes=8)
        status = daemon.CacheStatus(templates=[template], jars=[jar], total_size_bytes=50)
        self.stream.tell(cache_status=status)
        cache = lambda: self.controller.get(f"/nodes/{self.me}/cache")
        shown = processes.until(lambda: cache()["totalSizeBytes"] == 50 and cache(), "the cache")
        equal((shown["templates"][0]["name"], shown["jars"][0]["jarFile"]), ("kept", "paper.jar"), "the cache")
        return "template kept, paper.jar, 50 bytes", f"GET /nodes/{self.me}/cache shows them"

    def daemon_error_report(self):
        start = self.running()
        said = f"a damaged record, says {self.NAME}"
        report = daemon.ErrorReport(error_code="RECORDS_DAMAGED", error_message=said, context=start.instance_id)
        self.stream.tell(error_report=report)
        noted = lambda: said in (self.instance(start.instance_id)["lastError"] or "")
        processes.until(noted, "the note beside the instance")
        return "RECORDS_DAMAGED about an instance", "lastError of the instance says it"

    @functools.cache
    def shut_down(self):
        order = lambda: self.controller.post(f"/nodes/{self.me}/shutdown?reason=maintenance")
        with meanwhile(order) as answer:
            shutdown = self.stream.expect("shutdown_node")
            equal(shutdown.reason, "maintenance", "the reason")
            self.stream.tell(shutdown_node_ack=daemon.ShutdownNodeAck(running_instances=3, estimated_drain_seconds=7))
            return answer()

    def daemon_shutdown_node_ack(self):
        answer = self.shut_down()
        assert answer["acknowledged"], answer
        return "3 running, 7 s", f"the operator's answer: {json.dumps(answer)}"

    def daemon_start_instance_ack(self):
        _, start = self.order()
        ack = daemon.StartInstanceAck(
            instance_id=start.instance_id,
            error_code="RUNTIME_PROVISION_FAILED",
            error_message=f"no such jar, says {self.NAME}",
            failure_disposition=daemon.StartFailureDisposition.PERMANENT,
            stage=daemon.StartPreparationStage.RUNTIME_PROVISION,
            **self.tag(start),
        )
        self.stream.tell(start_instance_ack=ack)
        self.becomes(start.instance_id, "CRASHED")
        error = self.instance(start.instance_id)["lastError"]
        assert ack.error_message in error, error
        return "RUNTIME_PROVISION_FAILED, PERMANENT", f"CRASHED, lastError: {error}"

    def daemon_stop_instance_ack(self):
        start = self.running()
        self.controller.post(f"/instances/{start.instance_id}/stop")
        is_it = lambda stop: stop.instance_id == start.instance_id
        self.stream.expect("stop_instance", is_it)
        refusal = daemon.StopInstanceAck(instance_id=start.instance_id, error_message="busy", **self.tag(start))
        self.stream.tell(stop_instance_ack=refusal)
        self.stream.expect("stop_instance", is_it, deadline=30)
        self.stream.tell(
            stop_instance_ack=daemon.StopInstanceAck(instance_id=start.instance_id, accepted=True, **self.tag(start))
        )
        self.report(start, "STOPPED")
        self.becomes(start.instance_id, "STOPPED")
        return "refused, then accepted", "the stop is sent once more, then STOPPED"

    def daemon_daemon_log_record(self):
        said = f"logged by {self.NAME}"
        record = daemon.DaemonLogRecord(timestamp_ms=1, level="WARN", logger="a.b.C", thread="main", message=said)
        record.mdc["trace_id"] = "1234"
        self.stream.tell(daemon_log_record=record)
        records = lambda: self.controller.get(f"/nodes/{self.me}/logs")["records"]
        [kept] = processes.until(lambda: [one for one in records() if one["message"] == said], "the record", 5)
        equal((kept["level"], kept["logger"], kept["mdc"]), ("WARN", "a.b.C", {"trace_id": "1234"}), "the record")
        return "WARN a.b.C with its mdc", f"GET /nodes/{self.me}/logs has it"

    def installed(self, module_id):
        """A module that an operator installs; its ModuleInstall."""
        jar, digest, _ = java_module(module_id)
        file = self.controller.folder / f"{module_id}.jar"
        file.write_bytes(jar)
        self.controller.ctl("module", "install", str(file))
        install = self.stream.expect("module_install", lambda install: install.module_id == module_id)
        return jar, digest, install

    def daemon_module_state_update(self):
        self.installed("stateful")
        for state, error in (("FAILED", f"no room, says {self.NAME}"), ("ACTIVE", "")):
            update = daemon.ModuleStateUpdate(module_id="stateful", state=state, last_error=error, updated_at_ms=1)
            self.stream.tell(module_state_update=update)
            states = lambda: json.dumps(self.controller.ctl("module", "states"))
            shown = lambda: all(word in states() for word in ("stateful", self.me, state, error))
            processes.until(shown, f"the state {state}")
        return "FAILED, then ACTIVE", "`prexorctl module states` shows each"

    def change(self):
        """Something happens; the id of the instance that it happens to."""
        _, start = self.order()
        # The order may be told before it arrives, and would be passed over then; this is told behind it.
        self.report(start, "PREPARING")
        return start.instance_id

    def subscribed(self):
        self.stream.tell(event_subscribe=daemon.EventSubscribe(event_types=[EVENT]))
        # What is answered later has been heard later: nothing that happened before a subscription is told.
        self.stream.tell(template_request=daemon.TemplateRequest(template_name="behind-it"))
        self.stream.expect("error_report", lambda report: report.context == "behind-it")
        instance = self.change()
        told = lambda event: event.event_type == EVENT and json.loads(event.payload_json)["instanceId"] == instance
        return instance, self.stream.expect("module_event", told, deadline=5)

    def daemon_event_subscribe(self):
        self.stream.tell(event_subscribe=daemon.EventSubscribe(event_types=["no.such.Event"]))
        report = self.stream.expect("error_report", deadline=5)
        equal(report.error_code, "EVENT_TYPE_UNKNOWN", "the answer to an unknown type")
        self.subscribed()
        return "InstanceStateChangedEvent, and an unknown type", "the next change arrives; EVENT_TYPE_UNKNOWN"

    def daemon_event_unsubscribe(self):
        self.subscribed()
        self.stream.tell(event_unsubscribe=daemon.EventUnsubscribe(event_types=[EVENT]))
        # What is answered later has been heard later.
        self.stream.tell(template_request=daemon.TemplateRequest(template_name="nowhere"))
        self.stream.expect("error_report", lambda report: report.context == "nowhere")
        self.change()
        self.stream.tell(template_request=daemon.TemplateRequest(template_name="nowhere-else"))
        heard = []
        where = lambda report: report.context == "nowhere-else"
        while not (heard and heard[-1].WhichOneof("payload") == "error_report" and where(heard[-1].error_report)):
            heard.append(self.stream.incoming.get(timeout=15))
        events = [message for message in heard if message.WhichOneof("payload") == "module_event"]
        equal(events, [], "what arrives afterwards")
        return "InstanceStateChangedEvent again", "the next change does not arrive"

    def daemon_instance_file_tree(self):
        talk = self.asked_for_files("files", "walk_instance_files")
        request = next(talk)
        entry = daemon.FileEntry(path="logs/latest.log", size_bytes=5, modified_at_ms=1_700_000_000_000)
        self.stream.tell(instance_file_tree=daemon.InstanceFileTree(request_id=request.request_id, entries=[entry]))
        shown = next(talk)
        equal([(one["path"], one["sizeBytes"]) for one in shown["entries"]], [("logs/latest.log", 5)], "the answer")
        return "logs/latest.log, 5 bytes", "GET /instances/ID/files shows it"

    def daemon_instance_file_content(self):
        talk = self.asked_for_files("files/content?path=logs/latest.log", "read_instance_file")
        request = next(talk)
        content = daemon.InstanceFileContent(request_id=request.request_id, content=b"hello", total_size_bytes=5)
        self.stream.tell(instance_file_content=content)
        shown = next(talk)
        equal((shown["content"], shown["totalSizeBytes"]), ("hello", 5), "the answer")
        return "the bytes of hello", "GET /instances/ID/files/content: hello"

    # From our controller

    def controller_handshake_ack(self):
        ack = self.acknowledged
        equal((ack.protocol_version, ack.protocol_compatible), (1, True), "the version")
        equal((ack.heartbeat_interval_ms, ack.controller_api_port), (1000, self.controller.http_port), "the settings")
        equal(ack.session_id, self.mine()["sessionId"], "the session")
        return "a handshake", f"session {ack.session_id[:8]}, protocol 1, pings each second, API port"

    def controller_start_instance(self):
        record, start = self.order(memoryMb=768, port=25_777, jvmArgs=["-Da=b"], env={"KEY": "value"})
        told = (start.group, start.port, start.memory_mb, list(start.jvm_args), start.env["KEY"])
        equal(told, (record["group"], 25_777, 768, ["-Da=b"], "value"), "the start")
        runtime = start.composition_plan.runtime
        equal((runtime.download_url, runtime.jar_file), ("https://jars.example/server.jar", "server.jar"), "the runtime")
        assert start.composition_plan.plan_hash and start.plugin_token.startswith("ptk_")
        return "POST /instances: a jar, 768 MiB, port 25777", "all of it, a plan and a plugin token"

    def controller_stop_instance(self):
        start = self.running()
        for query, force in (("", False), ("?force=true", True)):
            self.controller.post(f"/instances/{start.instance_id}/stop{query}")
            wanted = lambda stop: (stop.instance_id, stop.force) == (start.instance_id, force)
            self.stream.expect("stop_instance", wanted)
        self.report(start, "STOPPED")
        self.becomes(start.instance_id, "STOPPED")
        return "POST /instances/ID/stop, then with force", "a graceful stop, then a forced one"

    def controller_send_command(self):
        start = self.running()
        self.controller.post(f"/instances/{start.instance_id}/command", {"command": "say hi"})
        command = self.stream.expect("send_command", lambda command: command.instance_id == start.instance_id)
        equal(command.command, "say hi", "the line")
        return "POST /instances/ID/command: say hi", "say hi for that instance"

    def controller_ping(self):
        self.stream.answers_pings = False
        try:
            first = self.stream.expect("ping")
            self.stream.tell(pong=daemon.Pong(sequence=first.sequence))
            second = self.stream.expect("ping", lambda ping: ping.sequence > first.sequence)
            self.stream.tell(pong=daemon.Pong(sequence=second.sequence))
        finally:
            self.stream.answers_pings = True
        return "two seconds", f"sequences {first.sequence} and {second.sequence}"

    def controller_template_data(self):
        push(self.controller, "brought")
        self.order(templates=["brought"])
        self.stream.tell(template_request=daemon.TemplateRequest(template_name="brought"))
        data = self.stream.expect("template_data", lambda data: data.template_name == "brought")
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data.tar_gz))) as archive:
            found = {path: archive.extractfile(path).read().decode() for path in FILES}
        equal(found, FILES, "what is inside")
        return f"prexorctl template push: {', '.join(FILES)}", "the same files, inline"

    def controller_template_up_to_date(self):
        push(self.controller, "current")
        self.order(templates=["current"])
        known = archives.java_hash(FILES)
        self.stream.tell(template_request=daemon.TemplateRequest(template_name="current", known_hash=known))
        answer = self.stream.expect("template_up_to_date")
        equal(answer.template_name, "current", "the template")
        return "a request that knows the Java hash of these files", "current is up to date"

    def controller_shutdown_node(self):
        self.shut_down()
        return "POST /nodes/ID/shutdown?reason=maintenance", "maintenance"

    def controller_pre_warm_cache(self):
        jar = {"jar": "https://jars.example/paper-1.21.jar", "platform": "PAPER", "platformVersion": "1.21"}
        name = f"warm-{self.me}"
        self.controller.post("/groups", {"name": name, **jar})
        self.controller.post(f"/nodes/{self.me}/cache/warm", {"groups": [name]})
        [entry] = self.stream.expect("pre_warm_cache").entries
        told = (entry.platform.upper(), entry.platform_version, entry.download_url)
        equal(told, ("PAPER", "1.21", jar["jar"]), "the entry")
        assert entry.jar_file, entry
        return "POST /nodes/ID/cache/warm for a group", f"{entry.platform} 1.21 from its URL"

    def controller_request_cache_status(self):
        self.controller.post(f"/nodes/{self.me}/cache/refresh")
        self.stream.expect("request_cache_status")
        self.stream.tell(cache_status=daemon.CacheStatus())
        return "POST /nodes/ID/cache/refresh", "the question"

    def controller_error_report(self):
        self.stream.tell(template_request=daemon.TemplateRequest(template_name="missing"))
        missing = self.stream.expect("error_report", lambda report: report.context == "missing")
        equal(missing.error_code, "TEMPLATE_NOT_FOUND", "the code")
        return "a request for a template that is not there", f"TEMPLATE_NOT_FOUND: {missing.error_message}"

    def controller_module_install(self):
        jar, digest, install = self.installed("fresh")
        equal((install.sha256.lower(), install.version), (digest, "1.0.0"), "the module")
        assert install.jar_bytes == jar and "id: fresh" in install.manifest_yaml, "the jar and its manifest"
        return "prexorctl module install fresh.jar", "the jar, its digest and its manifest"

    def controller_module_uninstall(self):
        self.installed("leaving")
        self.controller.ctl("module", "uninstall", "leaving", "--yes")
        uninstall = self.stream.expect("module_uninstall")
        equal(uninstall.module_id, "leaving", "the module")
        return "prexorctl module uninstall leaving", "leaving"

    def controller_module_event(self):
        instance, event = self.subscribed()
        told = json.loads(event.payload_json)
        equal(list(told), ["instanceId", "group", "nodeId", "oldState", "newState"], "the fields")
        equal((told["instanceId"], told["nodeId"]), (instance, self.me), "what it is about")
        return "an instance that is ordered", f"{told['oldState']} to {told['newState']}, fields as in Java"

    def controller_walk_instance_files(self):
        talk = self.asked_for_files("files?maxEntries=7&maxDepth=3&summarizeThreshold=9", "walk_instance_files")
        request = next(talk)
        equal((request.max_entries, request.max_depth, request.summarize_threshold), (7, 3, 9), "the limits")
        self.stream.tell(instance_file_tree=daemon.InstanceFileTree(request_id=request.request_id))
        next(talk)
        return "GET /instances/ID/files?maxEntries=7", "the instance, a request id, 7 entries"

    def controller_read_instance_file(self):
        talk = self.asked_for_files("files/content?path=a/b.txt&maxBytes=11&tail=true", "read_instance_file")
        request = next(talk)
        equal((request.path, request.max_bytes, request.tail), ("a/b.txt", 11, True), "the request")
        self.stream.tell(instance_file_content=daemon.InstanceFileContent(request_id=request.request_id))
        next(talk)
        return "GET /instances/ID/files/content?path=a/b.txt", "the path, 11 bytes of its end"


class PythonDaemon(ForeignDaemon):
    """grpcio; announces what the peer in Python knows."""

    NAME = pending.PYTHON_DAEMON
    capabilities = CAPABILITIES


class JavaDaemon(ForeignDaemon):
    """grpc-java on Netty with the keepalive of the Java daemon; announces nothing."""

    NAME = pending.JAVA_DAEMON

    def opened(self):
        node_id = self.node_id()
        stream = java_peers.Daemon(self.answers_pings)
        self.addCleanup(stream.close)
        found = stream.enrol(self.controller.address, self.controller.join_token(nodeId=node_id), node_id)
        equal(found["subject"], f"CN={node_id}", "the certificate in the keystore")
        stream.connect()
        return node_id, stream
