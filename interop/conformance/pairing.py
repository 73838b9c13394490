"""What the pairings share: their life, their files, and things that happen at the same time"""

import concurrent.futures
import contextlib
import hashlib
import io
import zipfile

import contract
import processes

SHUTDOWN = {("controller", "shutdown_node"), ("daemon", "shutdown_node_ack")}
FILES = {"server.properties": "motd=conformance\n", "config/rules.yml": "pvp: false\n"}
EVENT = "me.prexorjustin.prexorcloud.api.event.events.InstanceStateChangedEvent"
# What a module for the Java daemon's own process declares.
MANIFEST = "manifestVersion: 1\nid: {id}\nversion: {version}\nhosts: [daemon]\nbackend:\n  daemon:\n    entrypoint: com.example.Module\n"


@contextlib.contextmanager
def meanwhile(work):
    """Does the work on another thread; gives what brings its result."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        yield lambda: done.result(timeout=processes.DEADLINE)


def push(controller, name, contents=FILES):
    """A template with these files in our controller; the hash that it gave them."""
    folder = controller.folder / f"push-{name}"
    for path, content in contents.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    if all(template["name"] != name for template in controller.get("/templates")):
        controller.ctl("template", "create", name)
    controller.ctl("template", "push", str(folder), "--name", name)
    return controller.get(f"/templates/{name}/versions")


def java_module(module_id, version="1.0.0"):
    """The jar of a module that runs inside a Java daemon only: its bytes, their digest and its manifest."""
    manifest = MANIFEST.format(id=module_id, version=version)
    jar = io.BytesIO()
    with zipfile.ZipFile(jar, "w") as archive:
        archive.writestr("META-INF/prexor/module.yaml", manifest)
    return jar.getvalue(), hashlib.sha256(jar.getvalue()).hexdigest(), manifest


def sample_module():
    """The module for our own host that the repository brings."""
    found = sorted((contract.ROOT / "crates" / "prexorcloud" / "assets").glob("*module*.jar"))
    assert found, "the repository brings no sample module"
    return found[0]


def kept(folder, digest):
    """The files below a folder with this SHA-256."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in files if hashlib.sha256(path.read_bytes()).hexdigest() == digest]


def equal(found, wanted, what="it"):
    assert found == wanted, f"{what} is {found!r}, not {wanted!r}"


class Pairing:
    """Gives a test case of `interop/` the life of a pairing."""

    LAST = SHUTDOWN

    def set_up(self):
        self.setUpClass()
        self.setUp()

    def tear_down(self):
        self.doCleanups()
        self.doClassCleanups()
