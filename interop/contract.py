"""The contract as an outsider sees it: compiled from the .proto files with the official tools, nothing else."""

import importlib
import pathlib
import sys
import tempfile

import grpc
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "me.prexorjustin.prexorcloud.protocol"

_generated = tempfile.TemporaryDirectory(prefix="prexorcloud-interop-")


def _compile():
    protos = sorted((ROOT / "proto").rglob("*.proto"))
    arguments = [
        "protoc",
        f"--proto_path={ROOT / 'proto'}",
        f"--python_out={_generated.name}",
        f"--grpc_python_out={_generated.name}",
        *map(str, protos),
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("the .proto files do not compile with protoc")
    sys.path.insert(0, _generated.name)


_compile()
daemon = importlib.import_module("prexorcloud.daemon_service_pb2")
bootstrap = importlib.import_module("prexorcloud.bootstrap_service_pb2")
bootstrap_grpc = importlib.import_module("prexorcloud.bootstrap_service_pb2_grpc")
admin = importlib.import_module("prexorcloud.admin_service_pb2")
admin_grpc = importlib.import_module("prexorcloud.admin_service_pb2_grpc")

CONNECT = f"/{PACKAGE}.DaemonService/Connect"
MAX_MESSAGE = 100 * 1024 * 1024
OPTIONS = [("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE)]


def encode(message):
    """Messages are sent as they are; bytes are sent raw, which is how a peer of the future looks."""
    return message if isinstance(message, bytes) else message.SerializeToString()


def unknown_variant(number, inner=b"\x0a\x02hi"):
    """An envelope whose only field is a length-delimited variant that no present build knows."""
    tag = (number << 3) | 2
    out = bytearray()
    while tag >= 0x80:
        out.append(tag & 0x7F | 0x80)
        tag >>= 7
    out.append(tag)
    out.append(len(inner))
    return bytes(out) + inner


def connect_handler(behaviour):
    """A generic handler that serves Connect with `behaviour(request_iterator, context)`."""
    rpc = grpc.stream_stream_rpc_method_handler(
        behaviour, request_deserializer=daemon.DaemonMessage.FromString, response_serializer=encode
    )
    return grpc.method_handlers_generic_handler(f"{PACKAGE}.DaemonService", {"Connect": rpc})
