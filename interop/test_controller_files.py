"""A controller written from the .proto files alone looks into the folders of instances through our daemon."""

import os
import socket
import sys
import unittest

import contract
import processes
from controller_peer import ControllerCase

daemon = contract.daemon

# Becomes a program that may read only what its owner may, also as root: without two capabilities, which nobody else has.
BOUND_BY_PERMISSIONS = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Files(ControllerCase):
    """The instance need not run: its folder is all that counts."""

    def setUp(self):
        super().setUp()
        self.root = self.folder / "data" / "instances" / "lobby" / "lobby-1"
        self.root.mkdir(parents=True)
        self.secret = self.folder / "secret"
        self.secret.write_text("outside")
        self.stream, _ = self.admitted()
        self.count = 0

    def started(self):
        by = [sys.executable, "-c", BOUND_BY_PERMISSIONS]
        program = processes.Program(["daemon", "--config", str(self.config)], by=by)
        self.addCleanup(program.stop)
        return program

    def write(self, path, content=b""):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def request(self, **fields):
        self.count += 1
        return {"request_id": f"request-{self.count}", "group": "lobby", "instance_id": "lobby-1", **fields}

    def walk(self, **fields):
        asked = self.request(**fields)
        self.stream.tell(walk_instance_files=daemon.WalkInstanceFiles(**asked))
        return self.stream.expect("instance_file_tree", lambda tree: tree.request_id == asked["request_id"])

    def read(self, path, **fields):
        asked = self.request(path=path, **fields)
        self.stream.tell(read_instance_file=daemon.ReadInstanceFile(**asked))
        return self.stream.expect("instance_file_content", lambda content: content.request_id == asked["request_id"])

    def paths(self, **fields):
        return [entry.path for entry in self.walk(**fields).entries]

    def refused(self, answer, error):
        self.assertEqual(answer.error, error)
        if isinstance(answer, daemon.InstanceFileTree):
            self.assertEqual((list(answer.entries), answer.truncated), ([], False))
        else:
            self.assertEqual((answer.content, answer.total_size_bytes, answer.truncated), (b"", 0, False))

    def reads(self, path, content, **fields):
        answer = self.read(path, **fields)
        self.assertEqual((answer.error, answer.content), ("", content.encode()))
        return answer

    # The row "Walk" of what the Java daemon's own tests pin

    def test_walk_a_group_that_leads_out_is_an_invalid_request(self):
        self.refused(self.walk(group="../escape"), "INVALID_REQUEST")

    def test_walk_a_missing_instance_is_not_found(self):
        self.refused(self.walk(instance_id="lobby-2"), "INSTANCE_NOT_FOUND")
        self.refused(self.walk(group="arena"), "INSTANCE_NOT_FOUND")

    def test_walk_fifty_files_with_max_entries_10_are_exactly_10_and_truncated(self):
        for number in range(50):
            self.write(f"file-{number:02}")
        tree = self.walk(max_entries=10)
        self.assertEqual([entry.path for entry in tree.entries], [f"file-{number:02}" for number in range(10)])
        self.assertTrue(tree.truncated)

    def test_walk_twelve_files_with_threshold_5_are_one_summary(self):
        for number in range(12):
            self.write(f"world/region/r.{number}.mca", bytes(100))
        tree = self.walk(summarize_threshold=5)
        self.assertEqual([entry.path for entry in tree.entries], ["world", "world/region", "world/region"])
        summary = tree.entries[-1]
        self.assertTrue(summary.summary and summary.is_dir and summary.path.endswith("region"))
        self.assertEqual((summary.child_count, summary.size_bytes >= 1200), (12, True))
        self.assertEqual([entry.summary for entry in tree.entries], [False, False, True])
        self.assertFalse(tree.truncated)

    def test_walk_a_symlink_is_no_folder(self):
        self.write("world/level.dat", "12345")
        (self.root / "again").symlink_to("world")
        entries = {entry.path: entry for entry in self.walk().entries}
        self.assertEqual((entries["again"].is_dir, entries["again"].size_bytes), (False, 0))
        self.assertNotIn("again/level.dat", entries)

    # Walk: the rest of section 11

    def test_walk_error_tags(self):
        for fields in ({"group": ""}, {"group": "a/b"}, {"instance_id": ""}, {"instance_id": ".."}):
            with self.subTest(fields):
                self.refused(self.walk(**fields), "INVALID_REQUEST")
        # Something else in the place of the folder.
        group = self.root.parent
        (group / "linked").symlink_to(self.root)
        (group / "out").symlink_to("/etc")
        (group / "file").write_text("")
        for instance in ("linked", "out", "file"):
            with self.subTest(instance):
                self.refused(self.walk(instance_id=instance), "INSTANCE_NOT_FOUND")
                self.refused(self.read("passwd", instance_id=instance), "INSTANCE_NOT_FOUND")
        (group.parent / "linked-group").symlink_to(group)
        self.refused(self.walk(group="linked-group"), "INSTANCE_NOT_FOUND")

    def test_walk_a_folder_that_cannot_be_read_says_so_and_one_inside_is_a_name(self):
        self.write("closed/file")
        (self.root / "closed").chmod(0)
        self.addCleanup((self.root / "closed").chmod, 0o700)
        self.write("open")
        tree = self.walk()
        self.assertEqual(([entry.path for entry in tree.entries], tree.error), (["closed", "open"], ""))
        self.root.chmod(0o300)
        self.addCleanup(self.root.chmod, 0o700)
        # Opening a folder is what is refused, so nobody can know whether it is there.
        self.assertIn(self.walk().error, ("DIR_UNREADABLE", "INSTANCE_NOT_FOUND"))

    def test_walk_what_stands_in_an_entry(self):
        file = self.write("a/file", "12345")
        os.utime(file, (1_700_000_000, 1_700_000_000.25))
        os.mkfifo(self.root / "pipe")
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(str(self.root / "socket"))
        entries = {entry.path: entry for entry in self.walk().entries}
        self.assertEqual(list(entries), ["a", "a/file", "pipe", "socket"])
        self.assertEqual((entries["a"].is_dir, entries["a"].size_bytes), (True, 0))
        self.assertEqual((entries["a/file"].size_bytes, entries["a/file"].modified_at_ms), (5, 1_700_000_000_250))
        for other in ("pipe", "socket"):
            self.assertEqual((entries[other].is_dir, entries[other].size_bytes), (False, 0))

    def test_walk_caps_that_are_not_given(self):
        self.write("/".join(f"d{number}" for number in range(1, 31)) + "/file")
        for folder in range(11):
            for number in range(500):
                self.write(f"e{folder:02}/{number:03}")
        for number in range(501):
            self.write(f"a/{number:03}")
        for none_given in ({}, {"max_entries": 0, "max_depth": 0, "summarize_threshold": 0}, {"max_entries": -1}):
            with self.subTest(none_given):
                tree = self.walk(**none_given)
                paths = [entry.path for entry in tree.entries]
                self.assertEqual((len(paths), tree.truncated), (5000, True))
                self.assertEqual(paths[:2], ["a", "a"], "501 are summed up, 500 listed")
                self.assertTrue(tree.entries[1].summary)
                self.assertEqual(max(path.count("/") + 1 for path in paths if path.startswith("d")), 24)
                self.assertIn("e00/499", paths)

    def test_walk_caps_that_are_given(self):
        self.write("a/b/c/file")
        for depth, paths in ((1, ["a"]), (2, ["a", "a/b"]), (3, ["a", "a/b", "a/b/c"])):
            tree = self.walk(max_depth=depth)
            self.assertEqual(([entry.path for entry in tree.entries], tree.truncated), (paths, True))
        self.assertFalse(self.walk(max_depth=4).truncated)
        for number in range(5):
            self.write(f"many/{number}", "1234")
        self.assertEqual(self.paths(summarize_threshold=5)[-1], "many/4")
        self.assertEqual(self.paths(summarize_threshold=4)[-2:], ["many", "many"])
        for number in range(600):
            self.write(f"more/{number:03}")
        self.assertEqual(self.paths(summarize_threshold=600)[-1], "more/599")
        # The instance's own folder is called by a dot.
        for number in range(3):
            self.write(f"file-{number}")
        [root] = self.walk(summarize_threshold=2).entries
        self.assertEqual((root.path, root.summary, root.child_count), (".", True, 6))

    def test_walk_links_at_any_depth_lead_nowhere(self):
        self.write("a/b/c/file")
        (self.root / "a/b/c/out").symlink_to("/etc")
        (self.root / "a/up").symlink_to("../..")
        (self.root / "a/round").symlink_to(".")
        tree = self.walk()
        paths = [entry.path for entry in tree.entries]
        self.assertEqual(paths, ["a", "a/b", "a/b/c", "a/b/c/file", "a/b/c/out", "a/round", "a/up"])
        self.assertFalse(any(entry.is_dir for entry in tree.entries if entry.path in paths[4:]))

    # Read: section 11

    def test_read_error_tags(self):
        self.write("logs/latest.log", "hello")
        self.write("closed", "closed").chmod(0)
        (self.root / "link").symlink_to("logs/latest.log")
        os.mkfifo(self.root / "pipe")
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(str(self.root / "socket"))
        for path, error in (
            ("", "INVALID_REQUEST"),
            ("  ", "INVALID_REQUEST"),
            ("logs\0", "INVALID_REQUEST"),
            ("..", "PATH_OUTSIDE_INSTANCE"),
            ("../../../secret", "PATH_OUTSIDE_INSTANCE"),
            ("logs/../../lobby-1/logs/latest.log", "PATH_OUTSIDE_INSTANCE"),
            ("..\\..\\..\\secret", "PATH_OUTSIDE_INSTANCE"),
            (str(self.secret), "PATH_OUTSIDE_INSTANCE"),
            ("missing", "FILE_NOT_FOUND"),
            ("logs/latest.log/deeper", "FILE_NOT_FOUND"),
            ("n" * 300, "FILE_NOT_FOUND"),
            ("deep/" * 2000 + "file", "FILE_NOT_FOUND"),
            (".", "NOT_REGULAR_FILE"),
            ("logs", "NOT_REGULAR_FILE"),
            ("link", "NOT_REGULAR_FILE"),
            ("pipe", "NOT_REGULAR_FILE"),
            ("socket", "NOT_REGULAR_FILE"),
            ("closed", "FILE_UNREADABLE"),
        ):
            with self.subTest(path[:40]):
                self.refused(self.read(path), error)
        for fields in ({"group": "../escape"}, {"instance_id": "../lobby-1"}):
            self.refused(self.read("logs/latest.log", **fields), "INVALID_REQUEST")
        self.refused(self.read("logs/latest.log", instance_id="lobby-2"), "INSTANCE_NOT_FOUND")
        # All of these and the daemon still serves.
        self.reads("logs/latest.log", "hello")

    def test_read_paths_are_meant_from_the_instance(self):
        self.write("logs/latest.log", "hello")
        self.write("größe.txt", "groß")
        for path in ("logs\\latest.log", "./logs//latest.log", "logs/./latest.log", "world/../logs/latest.log"):
            with self.subTest(path):
                self.reads(path, "hello")
        self.reads("größe.txt", "groß")

    def test_read_caps_and_either_end(self):
        content = "".join(f"{number:09}\n" for number in range(150_000))
        self.write("long", content)
        for fields, wanted in (
            ({}, content[:65_536]),
            ({"max_bytes": -5}, content[:65_536]),
            ({"max_bytes": 10}, content[:10]),
            ({"max_bytes": 10, "tail": True}, content[-10:]),
            ({"max_bytes": 2**31 - 1}, content[: 2**20]),
            ({"max_bytes": 2**31 - 1, "tail": True}, content[-(2**20) :]),
        ):
            with self.subTest(fields):
                answer = self.reads("long", wanted, **fields)
                self.assertEqual((answer.total_size_bytes, answer.truncated), (1_500_000, True))
        self.write("short", "12345")
        for tail in (False, True):
            answer = self.reads("short", "12345", max_bytes=5, tail=tail)
            self.assertEqual((answer.total_size_bytes, answer.truncated), (5, False))
        self.write("empty")
        self.assertEqual(self.reads("empty", "").total_size_bytes, 0)

    def test_read_links_at_any_depth_lead_nowhere_outside(self):
        self.write("a/b/c/file", "within")
        self.write("real/file", "within")
        links = {
            "up": "..",
            "a/up": "../..",
            "a/b/c/root": "/",
            "a/b/c/etc": "/etc",
            "chain": "a/up",
            "process": "/proc/self",
            "round": "round",
            "a/b/in": "../../real",
            "absolute": str(self.root / "real"),
        }
        for name, target in links.items():
            (self.root / name).symlink_to(target)
        for path in (
            "up/lobby-1/real/file",
            "a/up/secret",
            "a/b/c/root/etc/passwd",
            "a/b/c/etc/passwd",
            "chain/lobby-1/real/file",
            "process/environ",
            # Where it leads is inside; that it is an absolute way there cannot be told from any other.
            "absolute/file",
        ):
            with self.subTest(path):
                self.refused(self.read(path), "PATH_OUTSIDE_INSTANCE")
        for name in ("up", "a/b/c/etc", "round", "absolute"):
            self.refused(self.read(name), "NOT_REGULAR_FILE")
        # One that stays inside is followed where it is not the end.
        self.reads("a/b/in/file", "within")

    # Many at once

    def test_every_request_is_answered_by_its_id_however_many_come(self):
        for number in range(400):
            self.write(f"f/{number:03}", "x")
        asked = [self.request() for _ in range(200)]
        for request in asked:
            self.stream.tell(walk_instance_files=daemon.WalkInstanceFiles(**request))
        waiting, served = {request["request_id"] for request in asked}, 0
        while waiting:
            tree = self.stream.expect("instance_file_tree")
            waiting.remove(tree.request_id)
            self.assertIn(tree.error, ("", "DAEMON_NOT_READY"))
            served += tree.error == ""
            self.assertEqual(len(tree.entries), 401 if tree.error == "" else 0)
        self.assertGreaterEqual(served, 4)


if __name__ == "__main__":
    unittest.main()
