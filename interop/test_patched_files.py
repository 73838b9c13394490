"""A daemon patches configuration files, and parsers of another language read what it wrote.

The files and the table of patches are those of the daemon's own test, which compares every line (`config_patch/tests/field.rs`).
"""

import gzip
import io
import json
import tarfile
import tomllib
import unittest

import javaproperties
import ruamel.yaml
import yaml

import contract
import processes
from controller_peer import ControllerCase

daemon = contract.daemon
TESTS = processes.ROOT / "crates/daemon/src/preparation/config_patch/tests"
ROWS = json.loads((TESTS / "patches.json").read_text(encoding="utf-8"))


def text(content):
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def ruamel_yaml(content):
    return ruamel.yaml.YAML(typ="safe", pure=True).load(text(content))


def properties(content):
    """As `java.util.Properties` reads bytes, and as servers do that try UTF-8 first."""
    as_latin = javaproperties.load(io.BytesIO(content))
    return [as_latin, javaproperties.loads(text(content))]


READERS = {
    ".properties": properties,
    ".yml": lambda content: [yaml.safe_load(text(content)), ruamel_yaml(content)],
    ".toml": lambda content: [tomllib.loads(text(content))],
    ".json": lambda content: [json.loads(text(content))],
}


def names(row):
    return f"{row['file']} {row['op']} {row['key']} = {row['value']!r}"


def value_at(tree, path):
    for step in path:
        tree = tree[step]
    return tree


class PatchedFiles(ControllerCase):
    def archive(self):
        """A folder for each row with the row's file in it."""
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w") as archive:
            for number, row in enumerate(ROWS):
                path = TESTS / "files" / row["file"]
                if path.exists():
                    archive.add(path, f"row-{number}/{row['file']}")
        return gzip.compress(plain.getvalue())

    def order(self, numbers, **fields):
        start = self.start_message(**fields)
        start.composition_plan.templates.add(name="field", hash="field-1")
        for number in numbers:
            row = ROWS[number]
            start.composition_plan.config_patches.add(
                file=f"row-{number}/{row['file']}",
                key=row["key"],
                value=row["value"],
                op=f"CONFIG_PATCH_OP_{row['op']}",
            )
        return start

    def test_other_parsers_read_the_value_and_its_type(self):
        stream, _ = self.admitted()
        applied = [number for number, row in enumerate(ROWS) if "refused" not in row]
        start = self.order(applied)
        stream.tell(start_instance=start)
        asked = stream.expect("template_request")
        stream.tell(
            template_data=daemon.TemplateData(
                template_name=asked.template_name, hash="field-1", tar_gz=self.archive()
            )
        )
        stream.expect("instance_status", self.state("STARTING"))
        self.addCleanup(self.end_instance, stream, start)
        [folder] = [path.parent for path in (self.folder / "data").rglob("row-0")]
        read = 0
        for number in applied:
            row = ROWS[number]
            path = folder / f"row-{number}" / row["file"]
            former = TESTS / "files" / row["file"]
            with self.subTest(names(row)):
                if row.get("skipped"):
                    self.assertEqual(path.exists(), former.exists())
                    if former.exists():
                        self.assertEqual(path.read_bytes(), former.read_bytes())
                    continue
                self.assertEqual(text(path.read_bytes()).splitlines(), self.lines(former, row))
                for tree in READERS[path.suffix](path.read_bytes()):
                    found = value_at(tree, row["at"])
                    self.assertEqual((type(found), found), (type(row["reads"]), row["reads"]))
                    read += 1
        self.assertGreater(read, 150)

    def lines(self, former, row):
        """The lines of a file with those of the row in the place of its own."""
        lines = text(former.read_bytes()).splitlines()
        was, at = row.get("was", []), row["line"] - 1
        self.assertEqual(lines[at : at + len(was)], was)
        return lines[:at] + row.get("is", []) + lines[at + len(was) :]

    def test_what_cannot_be_done_exactly_is_permanent(self):
        stream, _ = self.admitted()
        refused = [number for number, row in enumerate(ROWS) if "refused" in row]
        archive = self.archive()
        for number in refused:
            row = ROWS[number]
            instance = f"lobby-{number}"
            stream.tell(start_instance=self.order([number], instance_id=instance))
            if number == refused[0]:
                stream.expect("template_request")
                stream.tell(
                    template_data=daemon.TemplateData(template_name="field", hash="field-1", tar_gz=archive)
                )
            ack = stream.expect("start_instance_ack", lambda ack: ack.instance_id == instance)
            with self.subTest(names(row)):
                self.assertFalse(ack.accepted)
                self.assertEqual(ack.error_code, "CONFIG_PATCH_FAILED")
                self.assertEqual(ack.failure_disposition, daemon.PERMANENT)
                self.assertIn(row["refused"], ack.error_message)


if __name__ == "__main__":
    unittest.main()
