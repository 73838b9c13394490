"""A controller written from the .proto files alone brings templates to our daemon, as it should and as it should not."""

import os
import tarfile
import time
import unittest

import archives
import contract
from archives import entry, folder, link
from controller_peer import PERMANENT, TRANSIENT, StartCase

daemon = contract.daemon

# What an answer of the controller may take to become the answer of the daemon, on a machine that is busy.
AT_ONCE = 1.0

FILES = {"server.properties": "server-port=%PORT%\n", "config/rules.yml": "pvp: false # never\n"}


class Templates(StartCase):
    def refuse(self, code, name="base"):
        self.stream.tell(error_report=daemon.ErrorReport(error_code=code, error_message="not today", context=name))

    def fails(self, start, disposition, *words):
        return super().fails(start, "TEMPLATE_APPLY_FAILED", "TEMPLATE_APPLY", disposition, *words)

    def requests_until_now(self):
        self.sequence = getattr(self, "sequence", 0) + 1
        told = self.heard(self.stream, self.sequence)
        return [message.template_request for message in told if message.WhichOneof("payload") == "template_request"]

    def kept(self):
        # One is told by itself at the beginning.
        self.requests_until_now()
        self.stream.tell(request_cache_status=daemon.RequestCacheStatus())
        return {(kept.name, kept.hash) for kept in self.stream.expect("cache_status").templates}

    # As it should be

    def test_inline_data_becomes_files_and_is_asked_for_once(self):
        start = self.order(("base", "h1"))
        asked = self.request()
        self.assertEqual((asked.known_hash, asked.wanted_hash), ("", "h1"))
        self.send(archives.files(FILES))
        server = self.runs(start)
        self.assertEqual((server / "server.properties").read_text(), f"server-port={start.port}\n")
        self.assertEqual((server / "config" / "rules.yml").read_text(), FILES["config/rules.yml"])
        self.runs(self.order(("base", "h1")))
        self.assertEqual(self.requests_until_now(), [])
        self.assertEqual(self.kept(), {("base", "h1")})

    def test_what_is_up_to_date_is_the_copy_that_was_named(self):
        known = archives.java_hash(FILES)
        start = self.order(("base", known))
        self.request()
        self.send(archives.files(FILES), hash=known)
        self.runs(start)
        start = self.order(("base", "h2"))
        self.assertEqual(self.request().known_hash, known)
        self.stream.tell(template_up_to_date=daemon.TemplateUpToDate(template_name="base"))
        server = self.runs(start)
        self.assertEqual((server / "config" / "rules.yml").read_text(), FILES["config/rules.yml"])

    def test_an_empty_hash_is_an_empty_template_and_no_request(self):
        server = self.runs(self.order(("base", ""), ("base-paper", ""), ("lobby", "")))
        self.assertEqual(self.requests_until_now(), [])
        self.assertFalse((server / "server.properties").exists())

    def test_a_template_without_a_byte_brings_nothing(self):
        start = self.order(("base", "h1"))
        self.request()
        self.send(b"")
        self.runs(start)

    def test_templates_beside_a_plan_do_not_count_and_without_one_they_do(self):
        start = self.order(("base", "h1"), in_plan=False)
        self.request()
        self.send(archives.files(FILES))
        server = self.runs(start)
        self.assertTrue((server / "server.properties").exists())

    def test_later_templates_lie_over_earlier_ones_whichever_comes_first(self):
        start = self.order(("base", "h1"), ("own", "h1"))
        self.requests("base", "own")
        self.send(archives.files({"server.properties": "motd=own\n"}), name="own")
        self.send(archives.files({"server.properties": "# kept\nmotd=base\nmode=hard\n"}))
        server = self.runs(start)
        self.assertEqual((server / "server.properties").read_text(), "# kept\nmotd=own\nmode=hard\n")

    def test_ten_starts_at_once_ask_once(self):
        starts = [self.order(("base", "h1")) for _ in range(10)]
        self.request()
        self.assertEqual(self.requests_until_now(), [])
        self.send(archives.files(FILES))
        waiting = {start.instance_id: start for start in starts}
        while waiting:
            is_new = lambda update: update.instance_id in waiting and self.state("RUNNING")(update)
            start = waiting.pop(self.stream.expect("instance_status", is_new).instance_id)
            written = (self.instance(start) / "server.properties").read_text()
            self.assertEqual(written, f"server-port={start.port}\n")
        self.assertEqual(self.requests_until_now(), [])

    def test_a_stream_that_ends_takes_no_start_along(self):
        start = self.order(("base", "h1"))
        self.request()
        self.stream.finish()
        self.stream = self.peer.next_stream()
        self.stream.expect("handshake")
        self.stream.tell(handshake_ack=self.ack())
        self.request()
        self.send(archives.files(FILES))
        self.runs(start)

    # As it should not be

    def test_silence_fails_the_start_in_time(self):
        start = self.order(("base", "h1"))
        self.request()
        asked = time.monotonic()
        self.fails(start, TRANSIENT, "base", "did not answer within 2 s")
        self.assertGreaterEqual(time.monotonic() - asked, 1.5)

    def test_an_error_fails_the_start_at_once(self):
        for code, disposition in (
            ("TEMPLATE_NOT_FOUND", PERMANENT),
            ("TEMPLATE_TOO_LARGE", PERMANENT),
            ("TEMPLATE_UNAVAILABLE", TRANSIENT),
        ):
            with self.subTest(code):
                start = self.order(("base", "h1"))
                self.request()
                # One about something else is not the answer.
                self.refuse(code, name="another")
                self.assertEqual(self.requests_until_now(), [])
                refused = time.monotonic()
                self.refuse(code)
                self.fails(start, disposition, "base", code, "not today")
                self.assertLess(time.monotonic() - refused, AT_ONCE)

    def test_up_to_date_where_there_is_no_copy_fails_the_start_at_once(self):
        start = self.order(("base", "h1"))
        self.request()
        said = time.monotonic()
        self.stream.tell(template_up_to_date=daemon.TemplateUpToDate(template_name="base"))
        self.fails(start, TRANSIENT, "base", "has it already, and it has not")
        self.assertLess(time.monotonic() - said, AT_ONCE)

    def test_a_content_that_was_not_ordered_is_kept_under_its_own_hash(self):
        start = self.order(("base", "h1"))
        self.request()
        self.send(archives.files(FILES), hash="h9")
        self.runs(start)
        self.assertEqual(self.kept(), {("base", "h9")})
        # What was ordered is still not there.
        start = self.order(("base", "h1"))
        self.assertEqual(self.request().known_hash, "h9")
        self.send(archives.files({"server.properties": "motd=ordered\n"}))
        server = self.runs(start)
        self.assertEqual((server / "server.properties").read_text(), "motd=ordered\n")
        self.assertEqual(self.kept(), {("base", "h9"), ("base", "h1")})

    def test_another_templates_name_is_no_answer(self):
        start = self.order(("base", "h1"))
        self.request()
        self.send(archives.files(FILES), name="another")
        self.send(archives.files(FILES), name="../base")
        self.stream.tell(template_up_to_date=daemon.TemplateUpToDate(template_name="another"))
        self.fails(start, TRANSIENT, "base", "did not answer")
        self.assertEqual(self.kept(), set())
        start = self.order(("base", "h1"))
        self.request()
        self.send(archives.files({"another": ""}), name="another")
        self.send(archives.files(FILES))
        server = self.runs(start)
        self.assertFalse((server / "another").exists())

    def test_what_nobody_asked_for_is_not_kept(self):
        self.send(archives.files(FILES))
        self.assertEqual(self.kept(), set())

    def test_names_and_hashes_that_are_none_are_refused_and_not_asked_for(self):
        for template in (("../base", "h1"), ("", "h1"), ("base/..", "h1"), ("base", "h" * 129)):
            with self.subTest(template):
                start = self.order(template)
                ack = self.stream.expect("start_instance_ack", lambda ack: ack.instance_id == start.instance_id)
                self.assertEqual((ack.accepted, ack.failure_disposition), (False, PERMANENT), ack)
        self.assertEqual(self.requests_until_now(), [])

    def refused_archives(self):
        outside = self.folder / "outside"
        fine = entry("fine", "fine")
        yield "no archive", b"this is not an archive", "damaged"
        yield "cut off", archives.pack(entry("a", os.urandom(65536)))[:-30000], "damaged"
        yield "absolute path", archives.pack(fine, entry(str(outside), "out")), "absolute"
        yield "path that leads out", archives.pack(fine, entry("../../../../outside", "out")), '".."'
        yield "path with a detour", archives.pack(fine, entry("plugins/../../outside", "out")), '".."'
        yield "backslashes", archives.pack(fine, entry("..\\..\\outside", "out")), "backslash"
        yield "link to an absolute path", archives.pack(fine, link("out", str(outside))), "leads out"
        yield "link that leads out", archives.pack(fine, link("plugins/out", "../../outside")), "leads out"
        yield "link with a detour", archives.pack(folder("a"), link("out", "a/../../outside")), "detour"
        yield "file through a link", archives.pack(link("a", "b"), entry("a/file", "out")), "not a folder"
        yield "hard link", archives.pack(fine, entry("hard", kind=tarfile.LNKTYPE, target="fine")), "hard link"
        yield "FIFO", archives.pack(fine, entry("pipe", kind=tarfile.FIFOTYPE)), "FIFO"
        yield "device", archives.pack(fine, entry("null", kind=tarfile.CHRTYPE)), "device"
        yield "duplicate", archives.pack(fine, entry("fine", "again")), "twice"
        yield "names that differ in case", archives.pack(fine, entry("Fine", "again")), "case"
        yield "folders that differ in case", archives.pack(entry("a/b", ""), entry("A/c", "")), "case"
        yield "ratio", archives.pack(entry("zeros", bytes(80 << 20))), "each byte of the archive"
        yield "size of one", archives.claiming("huge", 3 << 30), "limit for one file"
        yield "depth", archives.pack(entry("/".join("d" * 65), "")), "names"
        yield "count", archives.pack(*(entry(f"f{number}") for number in range(50_001))), "50000"

    def test_an_archive_that_is_an_attack_is_refused_and_leaves_nothing(self):
        for number, (what, archive, word) in enumerate(self.refused_archives()):
            with self.subTest(what):
                start = self.order(("base", f"attack-{number}"))
                self.request()
                self.send(archive, hash=f"attack-{number}")
                self.fails(start, PERMANENT, "template base cannot be applied", word)
                self.assertFalse(self.instance(start).exists())
                found = [path for path in self.folder.rglob("*") if path.name == "outside"]
                self.assertEqual(found, [])
        self.assertIsNone(self.program.process.poll())

    def test_links_that_stay_inside_are_kept_as_they_are(self):
        start = self.order(("base", "h1"))
        self.request()
        self.send(archives.pack(entry("config/own.yml", "a: 1\n"), link("plugins/own.yml", "../config/own.yml")))
        server = self.runs(start)
        self.assertEqual(os.readlink(server / "plugins" / "own.yml"), "../config/own.yml")
        self.assertEqual((server / "plugins" / "own.yml").read_text(), "a: 1\n")


if __name__ == "__main__":
    unittest.main()
