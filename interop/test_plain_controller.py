"""A controller that announces nothing, as the Java controller does, against our daemon."""

import json
import os
import signal
import subprocess
import unittest
import zipfile

import contract
import processes
from controller_peer import ControllerCase

daemon = contract.daemon

# It waits for its stop word, and says nothing.
SILENT = """
public class Silent {
    public static void main(String[] arguments) throws Exception {
        while (System.in.read() != '\\n') {}
    }
}
"""


class PlainController(ControllerCase):
    def ack(self, **fields):
        return super().ack(**{"capabilities": [], **fields})

    def again(self, **fields):
        """The daemon starts once more; its stream and its handshake, which is acknowledged."""
        self.program = self.started()
        stream = self.peer.next_stream()
        handshake = stream.expect("handshake")
        stream.tell(handshake_ack=self.ack(**fields))
        return stream, handshake

    def ends(self, told):
        over = [daemon.InstanceState.Value(name) for name in ("STOPPED", "CRASHED")]
        updates = [message.instance_status for message in told if message.WhichOneof("payload") == "instance_status"]
        return [update.instance_id for update in updates if update.state in over]

    def control(self):
        [folder] = [path for path in (self.folder / "data").rglob("instance.json")]
        return folder.parent

    def silent_jar(self):
        source = self.folder / "Silent.java"
        source.write_text(SILENT)
        subprocess.run(["javac", "-d", str(self.folder), str(source)], check=True, timeout=60)
        jar = self.folder / "silent.jar"
        with zipfile.ZipFile(jar, "w") as archive:
            archive.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\nMain-Class: Silent\n\n")
            archive.write(self.folder / "Silent.class", "Silent.class")
        return jar

    # Ghosts

    def test_what_stopped_on_a_live_stream_is_neither_listed_nor_told_again(self):
        stream, _ = self.admitted()
        self.running(stream, incarnation=0)
        stream.tell(stop_instance=daemon.StopInstance(instance_id="lobby-1"))
        stream.expect_each(
            ("stop_instance_ack", lambda ack: ack.accepted), ("instance_status", self.state("STOPPED"))
        )
        self.heard(stream, 1)
        stream.finish()
        again = self.peer.next_stream()
        self.assertEqual(list(again.expect("handshake").running_instances), [])
        again.tell(handshake_ack=self.ack())
        self.assertEqual(self.ends(self.heard(again, 1)), [])

    def test_what_ended_while_nobody_listened_is_told_and_never_listed(self):
        for word, name in (("stop", "STOPPED"), ("crash", "CRASHED")):
            with self.subTest(word):
                self.setUp()
                stream, _ = self.admitted()
                self.running(stream, incarnation=0)
                self.program.process.send_signal(signal.SIGKILL)
                self.program.process.wait()
                control = self.control()
                (control / "stdin").write_text(f"{word}\n")
                # Its space is reserved with blanks.
                processes.until(lambda: (control / "exit.json").read_text().strip(), "its end")
                json.loads((control / "exit.json").read_text())
                stream, handshake = self.again()
                self.assertEqual(list(handshake.running_instances), [])
                wanted = [("instance_status", self.state(name))]
                if name == "CRASHED":
                    wanted.append(("crash_report", lambda report: report.instance_id == "lobby-1"))
                stream.expect_each(*wanted)
                self.heard(stream, 1)
                stream.finish()
                last = self.peer.next_stream()
                self.assertEqual(list(last.expect("handshake").running_instances), [])
                self.program.stop()

    # Readiness is the controller's

    def test_a_silent_server_is_not_stopped_for_its_silence(self):
        stream, _ = self.admitted()
        jar = self.silent_jar()
        runtime = daemon.RuntimeArtifact(
            jar_file="silent.jar", download_url=jar.as_uri(), category=daemon.InstanceCategory.SERVER
        )
        start = self.start_message(
            incarnation=0,
            startup_timeout_seconds=1,
            jar_file="silent.jar",
            download_url=jar.as_uri(),
            composition_plan=daemon.CompositionPlan(plan_hash="p", runtime=runtime),
        )
        stream.tell(start_instance=start)
        self.addCleanup(self.end_instance, stream, start)
        stream.expect("instance_status", self.state("STARTING"))
        # Three times the time that was asked for.
        with self.assertRaises(AssertionError):
            stream.expect("instance_status", self.state("STOPPING"), deadline=3)
        stream.tell(stop_instance=daemon.StopInstance(instance_id="lobby-1"))
        stream.expect_each(
            ("stop_instance_ack", lambda ack: ack.accepted), ("instance_status", self.state("STOPPED"))
        )

    # Leaving

    def test_after_an_ordered_shutdown_nothing_is_listed_as_alive(self):
        stream, _ = self.admitted()
        self.running(stream, incarnation=0)
        stream.tell(shutdown_node=daemon.ShutdownNode(reason="maintenance"))
        stream.expect("instance_status", self.state("STOPPED"))
        self.assertEqual(self.program.wait(), 0)
        _, handshake = self.again()
        self.assertEqual(list(handshake.running_instances), [])

    # What it shows of a node

    def test_the_host_is_described_as_a_jvm_on_it_does(self):
        stream, handshake = self.admitted(heartbeat_interval_ms=1000)
        host = handshake.host_info
        shown = subprocess.run(
            ["java", "-XshowSettings:properties", "-version"], capture_output=True, text=True, check=True, timeout=60
        ).stderr
        lines = [line.partition(" = ") for line in shown.splitlines()]
        properties = {key.strip(): value.strip() for key, _, value in lines}
        self.assertEqual(
            (host.arch, host.java_runtime, host.java_vendor),
            (properties["os.arch"], properties["java.vm.name"], properties["java.vendor"]),
        )
        self.assertIn(host.java_gc, ("G1", "ZGC", "Shenandoah", "Parallel", "Serial"))
        status = stream.expect("node_status")
        page = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        self.assertLessEqual(status.total_memory_mb, page)
        self.assertTrue(0 <= status.used_memory_mb <= status.total_memory_mb)

    # What is not there yet

    def test_what_it_cannot_do_is_answered_once_and_no_instance_suffers(self):
        stream, _ = self.admitted()
        stream.expect("cache_status")
        stream.tell(request_cache_status=daemon.RequestCacheStatus())
        stream.expect("cache_status")
        refused = daemon.PreWarmEntry(
            platform="PAPER",
            platform_version="1",
            jar_file="a.jar",
            download_url="http://127.0.0.1:1/a.jar",
            sha256="a" * 64,
        )
        stream.tell(pre_warm_cache=daemon.PreWarmCache(entries=[refused]))
        report = stream.expect("error_report")
        self.assertEqual((report.error_code, report.context), ("PRE_WARM_FAILED", "a.jar"))
        stream.expect("cache_status")
        stream.tell(walk_instance_files=daemon.WalkInstanceFiles(request_id="w", instance_id="lobby-1"))
        self.assertTrue(stream.expect("instance_file_tree", lambda tree: tree.request_id == "w").error)
        stream.tell(read_instance_file=daemon.ReadInstanceFile(request_id="r", instance_id="lobby-1", path="a"))
        self.assertTrue(stream.expect("instance_file_content", lambda content: content.request_id == "r").error)
        stream.tell(module_install=daemon.ModuleInstall(module_id="m", version="1"))
        self.assertEqual(stream.expect("module_state_update").state, "FAILED")
        runtime = daemon.RuntimeArtifact(jar_file="a.jar", download_url="file:///a.jar")
        plan = daemon.CompositionPlan(
            plan_hash="p",
            runtime=runtime,
            templates=[daemon.TemplateRef(name="base", hash="h"), daemon.TemplateRef(name="lobby")],
        )
        stream.tell(start_instance=self.start_message(incarnation=0, composition_plan=plan))
        request = stream.expect("template_request")
        self.assertEqual((request.template_name, request.known_hash), ("base", ""))
        stream.tell(
            error_report=daemon.ErrorReport(
                error_code="TEMPLATE_NOT_FOUND", error_message="there is none", context="base"
            )
        )
        ack = stream.expect("start_instance_ack")
        self.assertFalse(ack.accepted)
        self.assertEqual(ack.failure_disposition, daemon.StartFailureDisposition.PERMANENT)
        self.assertIn("base", ack.error_message)
        kinds = {message.WhichOneof("payload") for message in self.heard(stream, 1)}
        self.assertNotIn("crash_report", kinds)


if __name__ == "__main__":
    unittest.main()
