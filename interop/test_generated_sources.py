"""The .proto files as Java and Go programs take them: the official protoc puts the sources where the programs expect them."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

from google.protobuf import descriptor_pb2

import contract

# grpcio-tools has a compiler too, but one that writes Python only.
PROTOC = pathlib.Path(sys.executable).parent / "protoc"
GO_PACKAGE = "github.com/prexorcloud/prexorctl/proto/prexorcloud"
JAVA_PACKAGE = "me.prexorjustin.prexorcloud.protocol"


def protoc(*arguments):
    protos = sorted((contract.ROOT / "proto").rglob("*.proto"))
    subprocess.run([PROTOC, f"--proto_path={contract.ROOT / 'proto'}", *arguments, *protos], check=True)


class GeneratedSources(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="prexorcloud-interop-")
        self.addCleanup(scratch.cleanup)
        self.scratch = pathlib.Path(scratch.name)
        protoc(f"--descriptor_set_out={self.scratch / 'set'}", f"--java_out={self.scratch}")
        self.files = descriptor_pb2.FileDescriptorSet.FromString((self.scratch / "set").read_bytes()).file

    def test_every_file_says_where_its_sources_belong(self):
        self.assertEqual(len(self.files), len(list((contract.ROOT / "proto").rglob("*.proto"))))
        for file in self.files:
            with self.subTest(file.name):
                self.assertEqual(file.options.go_package, GO_PACKAGE)
                self.assertEqual(file.options.java_package, JAVA_PACKAGE)
                self.assertTrue(file.options.java_multiple_files)

    def test_java_gets_one_class_per_message_in_its_package(self):
        written = {path.relative_to(self.scratch) for path in self.scratch.rglob("*.java")}
        folder = pathlib.Path(*JAVA_PACKAGE.split("."))
        self.assertEqual({path.parent for path in written}, {folder})
        wanted = {folder / f"{kind.name}.java" for file in self.files for kind in [*file.message_type, *file.enum_type]}
        self.assertEqual(wanted - written, set())


if __name__ == "__main__":
    unittest.main()
