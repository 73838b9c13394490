"""What the Java daemon's own tests pin of preparation, row by row, seen by a controller written from the .proto files alone.

Each test is named after its row in docs/java-parity.md, which says where this daemon does better on purpose."""

import hashlib
import http.server
import json
import os
import threading
import unittest

import archives
import contract
import processes
from archives import entry
from controller_peer import PERMANENT, TRANSIENT, StartCase

daemon = contract.daemon


class WebServer:
    """Answers any path with what it was given, and counts."""

    def __init__(self, body):
        served = self.served = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):  # the name is the library's
                served.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Rows(StartCase):
    def web(self, body=b"not what was ordered"):
        server = WebServer(body)
        self.addCleanup(server.stop)
        return server

    def with_runtime(self, url, sha256):
        runtime = daemon.RuntimeArtifact(jar_file="server.jar", download_url=url, sha256=sha256)
        return self.order(plan={"runtime": runtime}, jar_file="server.jar", download_url=url)

    def with_files(self, contents, **fields):
        """A running server whose template has these files."""
        archive = contents if isinstance(contents, bytes) else archives.files(contents)
        hash = hashlib.sha256(archive).hexdigest()
        start = self.order(("base", hash), **fields)
        self.request()
        self.send(archive, hash=hash)
        return self.runs(start), start

    def patched(self, file, content, *patches):
        """The content of a file after these patches, each a key, a value and an operation."""
        patches = [
            daemon.ConfigPatch(file=file, key=key, value=value, op=daemon.ConfigPatchOp.Value(f"CONFIG_PATCH_OP_{op}"))
            for key, value, op in patches
        ]
        server, _ = self.with_files({file: content}, plan={"config_patches": patches})
        return (server / file).read_text()

    # Start failures

    def test_start_failures_without_a_plan_the_older_fields_count(self):
        start = self.order(in_plan=False)
        ack = self.stream.expect("start_instance_ack", lambda ack: ack.instance_id == start.instance_id)
        self.assertEqual((ack.accepted, ack.plan_hash), (True, ""))

    def test_start_failures_a_duplicate_in_flight_is_already_starting(self):
        start = self.order(("base", "h1"))
        self.request()
        again = daemon.StartInstance()
        again.CopyFrom(start)
        again.composition_plan.plan_hash = "plan-again"
        self.stream.tell(start_instance=again)
        ack = self.stream.expect("start_instance_ack")
        self.assertEqual((ack.accepted, ack.error_code), (False, "INSTANCE_ALREADY_STARTING"))
        self.assertEqual((ack.failure_disposition, ack.retry_after_seconds), (PERMANENT, 0))
        self.assertEqual(ack.plan_hash, "plan-again")
        # It goes on undisturbed.
        self.send(archives.files({"eula.txt": "eula=true\n"}))
        self.runs(start)

    def test_start_failures_a_wrong_runtime_digest_is_permanent_and_no_jar_is_left(self):
        web = self.web()
        start = self.with_runtime(f"{web.url}/server.jar", "0" * 64)
        ack = self.fails(start, "RUNTIME_PROVISION_FAILED", "RUNTIME_PROVISION", PERMANENT, "sha256", "0" * 64)
        self.assertEqual(ack.retry_after_seconds, 0)
        self.assertEqual(web.served, ["/server.jar"], "what is wrong is not tried again")
        self.assertEqual([path for path in self.folder.rglob("*.jar")], [])

    def test_start_failures_a_refused_connection_is_transient(self):
        url = f"http://127.0.0.1:{processes.free_port()}/server.jar"
        self.fails(self.with_runtime(url, "0" * 64), "RUNTIME_PROVISION_FAILED", "RUNTIME_PROVISION", TRANSIENT)

    def test_start_failures_a_wrong_extension_digest_is_permanent_and_the_file_is_absent(self):
        web = self.web()
        extension = daemon.ExtensionArtifact(
            file_name="plugin.jar", install_path="plugins", download_url=f"{web.url}/plugin.jar", sha256="0" * 64
        )
        start = self.order(plan={"extensions": [extension]})
        self.fails(start, "EXTENSION_PROVISION_FAILED", "EXTENSION_PROVISION", PERMANENT, "plugin.jar")
        self.assertEqual([path for path in self.folder.rglob("plugin.jar")], [])

    # Env

    def test_env_token_and_reservations(self):
        start = self.start_message(
            plugin_token="ptk_secret",
            env={"OWN": "1", "CLOUD_PLUGIN_TOKEN": "somebody else's"},
            isolation=daemon.RuntimeIsolation(cpu_reservation=0.25, disk_reservation_mb=4096),
        )
        self.stream.tell(start_instance=start)
        self.addCleanup(self.end_instance, self.stream, start)
        self.stream.expect("instance_status", self.state("RUNNING"))
        [environment] = [
            dict(variable.split("=", 1) for variable in text.split("\0") if variable)
            for text in self.environments_in(self.instance(start))
        ]
        self.assertEqual(environment["CLOUD_PLUGIN_TOKEN"], "ptk_secret")
        self.assertEqual(environment["CLOUD_CPU_RESERVATION"], "0.25")
        self.assertEqual(environment["CLOUD_DISK_RESERVATION_MB"], "4096")
        self.assertEqual(environment["OWN"], "1")

    def environments_in(self, folder):
        """The environments of the JVMs that work in a folder."""
        for process in os.scandir("/proc"):
            try:
                if process.name.isdigit() and os.readlink(f"{process.path}/cwd") == str(folder):
                    with open(f"{process.path}/cmdline") as arguments:
                        if "-jar" in arguments.read():
                            with open(f"{process.path}/environ") as environment:
                                yield environment.read()
            except OSError:
                # It ended meanwhile, or is none of ours.
                continue

    # Variables

    def test_variables_an_operators_port_loses_to_the_built_in_one(self):
        server, start = self.with_files(
            {"server.properties": "p=%PORT%\nm=%MOTD%\n"}, resolved_variables={"PORT": "1", "MOTD": "hello"}
        )
        self.assertEqual((server / "server.properties").read_text(), f"p={start.port}\nm=hello\n")

    def test_variables_unknown_placeholders_are_untouched(self):
        server, _ = self.with_files({"a.yml": "a: '%UNKNOWN%'\nb: 100%\n"})
        self.assertEqual((server / "a.yml").read_text(), "a: '%UNKNOWN%'\nb: 100%\n")

    def test_variables_exactly_eight_extensions_and_no_binary(self):
        texts = ["properties", "yml", "yaml", "toml", "json", "cfg", "conf", "txt"]
        others = ["ini", "list", "sh", "jar", "xml", "md"]
        content = 'group = "%GROUP%"\n'
        files = {f"a.{suffix}": content for suffix in (*texts, *others)}
        # What has the name of a text and is none is left alone: a whole start does not end for it.
        binary = b"\xff\xfe%GROUP%\x00"
        packed = [*(entry(name, text) for name, text in files.items()), entry("binary.txt", binary)]
        server, _ = self.with_files(archives.pack(*packed))
        for suffix in texts:
            self.assertEqual((server / f"a.{suffix}").read_text(), 'group = "lobby"\n', suffix)
        for suffix in others:
            self.assertEqual((server / f"a.{suffix}").read_text(), content, suffix)
        self.assertEqual((server / "binary.txt").read_bytes(), binary)

    # Patcher

    def test_patcher_set_rewrites_and_appends_properties(self):
        before = "# kept\nmotd=old\n"
        after = self.patched("server.properties", before, ("motd", "new", "SET"), ("added", "1", "SET"))
        self.assertEqual(after, "# kept\nmotd=new\nadded=1\n")

    def test_patcher_replace_never_creates(self):
        before = "motd=old\n"
        after = self.patched("server.properties", before, ("motd", "new", "REPLACE"), ("added", "1", "REPLACE"))
        self.assertEqual(after, "motd=new\n")

    def test_patcher_toml_numbers_are_unquoted_and_strings_quoted(self):
        before = 'show-max-players = 500 # many\nmotd = "old"\n'
        after = self.patched("velocity.toml", before, ("show-max-players", "20", "SET"), ("motd", "new", "SET"))
        self.assertEqual(after, 'show-max-players = 20 # many\nmotd = "new"\n')

    def test_patcher_remote_address_is_patched_without_touching_bedrock(self):
        before = "bedrock:\n  address: 0.0.0.0\n  port: 19132\nremote:\n  address: auto # the proxy\n  port: 25565\n"
        after = self.patched("config.yml", before, ("remote.address", "127.0.0.1", "SET"), ("remote.port", "25577", "SET"))
        self.assertEqual(after.splitlines()[:3], before.splitlines()[:3])
        address, port = after.splitlines()[4:]
        self.assertRegex(address, r'^  address: ["\']?127\.0\.0\.1["\']? # the proxy$')
        self.assertEqual(port, "  port: 25577")

    def test_patcher_an_absent_nested_path_is_not_appended_by_replace(self):
        before = "settings:\n  bungeecord: false\n"
        after = self.patched("spigot.yml", before, ("settings.missing.deeper", "1", "REPLACE"), ("other", "1", "REPLACE"))
        self.assertEqual(after, before)

    def test_patcher_forwarding_secret_is_trimmed_and_without_one_the_patch_is_skipped(self):
        patch = daemon.ConfigPatch(
            file="config/paper-global.yml", key="proxies.velocity.secret", value="%FORWARDING_SECRET%",
            op=daemon.CONFIG_PATCH_OP_REPLACE,
        )  # fmt: skip
        global_yml = "proxies:\n  velocity:\n    secret: ''\n"
        for secret, after in (({"forwarding.secret": " hunter2 \n"}, "hunter2"), ({}, "''")):
            files = {"config/paper-global.yml": global_yml, **secret}
            server, _ = self.with_files(files, plan={"config_patches": [patch]})
            written = (server / "config" / "paper-global.yml").read_text()
            self.assertIn(written.splitlines()[2].removeprefix("    secret: "), (after, f'"{after}"', f"'{after}'"))

    def test_patcher_a_file_that_leads_out_is_refused(self):
        patch = daemon.ConfigPatch(file="../evil.properties", key="a", value="1")
        start = self.order(plan={"config_patches": [patch]})
        self.fails(start, "CONFIG_PATCH_FAILED", "CONFIG_PATCH", PERMANENT, "../evil.properties")
        self.assertEqual([path for path in self.folder.rglob("evil.properties")], [])

    def test_patcher_a_file_that_is_missing_is_skipped(self):
        patch = daemon.ConfigPatch(file="config/paper-global.yml", key="a.b", value="1", op=daemon.CONFIG_PATCH_OP_REPLACE)
        self.runs(self.order(plan={"config_patches": [patch]}))

    # Merger

    def merged(self, file, base, overlay):
        """What two templates make of a file together."""
        base, overlay = (archives.pack(entry(file, content)) for content in (base, overlay))
        hashes = [hashlib.sha256(archive).hexdigest() for archive in (base, overlay)]
        start = self.order(("base", hashes[0]), ("own", hashes[1]))
        self.requests("base", "own")
        self.send(base, hash=hashes[0])
        self.send(overlay, name="own", hash=hashes[1])
        return (self.runs(start) / file).read_bytes()

    def test_merger_a_nested_override_keeps_siblings(self):
        merged = self.merged("a.yml", "s:\n  a: 1 # one\n  b: 2\nt: 3\n", "s:\n  b: 9\n")
        self.assertEqual(merged.decode(), "s:\n  a: 1 # one\n  b: 9\nt: 3\n")

    def test_merger_arrays_are_replaced(self):
        merged = self.merged("a.json", '{"list": [1, 2], "kept": true}\n', '{"list": [3]}\n')
        self.assertEqual(json.loads(merged), {"list": [3], "kept": True})

    def test_merger_line_files_get_what_they_lack_in_order(self):
        merged = self.merged("a.txt", "one\ntwo\n", "two\nthree\none\nfour\n")
        self.assertEqual(merged.decode(), "one\ntwo\nthree\nfour\n")

    def test_merger_jar_dat_and_png_are_not_merged(self):
        for suffix in ("jar", "dat", "png"):
            self.assertEqual(self.merged(f"a.{suffix}", "one\n", "two\n"), b"two\n")

    # Unpacker

    def test_unpacker_a_path_that_leads_out_is_refused(self):
        start = self.order(("base", "h1"))
        self.request()
        self.send(archives.pack(entry("../escape.txt", "out")))
        self.fails(start, "TEMPLATE_APPLY_FAILED", "TEMPLATE_APPLY", PERMANENT, "escape.txt")
        self.assertEqual([path for path in self.folder.rglob("escape.txt")], [])

    def test_unpacker_protected_covers_what_is_below_and_is_written_if_absent(self):
        own = self.folder / "data" / "instances" / "lobby" / "lobby-1"
        (own / "protected" / "nested").mkdir(parents=True)
        (own / "protected" / "nested" / "data.txt").write_text("mine")
        (own / "open.txt").write_text("mine")
        files = {"protected/nested/data.txt": "theirs", "protected/new.txt": "theirs", "open.txt": "theirs"}
        server, _ = self.with_files(files, static_instance=True, protected_paths=["protected"])
        self.assertEqual((server / "protected" / "nested" / "data.txt").read_text(), "mine")
        self.assertEqual((server / "protected" / "new.txt").read_text(), "theirs")
        self.assertIn("theirs", (server / "open.txt").read_text())


if __name__ == "__main__":
    unittest.main()
