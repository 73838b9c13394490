"""Archives of templates as any tar library makes them, fit and unfit."""

import gzip
import hashlib
import io
import tarfile


def entry(name, content=b"", kind=tarfile.REGTYPE, target="", mode=0o644):
    """One entry: its header, and its bytes."""
    content = content.encode() if isinstance(content, str) else content
    header = tarfile.TarInfo(name)
    header.type, header.linkname, header.mode, header.size = kind, target, mode, len(content)
    return header, content


def folder(name):
    return entry(name, kind=tarfile.DIRTYPE, mode=0o755)


def link(name, target):
    return entry(name, kind=tarfile.SYMTYPE, target=target)


def pack(*entries):
    """A gzip tar of these, in this order and exactly as they are."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1, mtime=0) as stream:
        with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            for header, content in entries:
                archive.addfile(header, io.BytesIO(content))
    return packed.getvalue()


def files(contents):
    return pack(*(entry(name, content) for name, content in contents.items()))


def claiming(name, size):
    """An archive whose only entry says that it has so many bytes, and has none of them."""
    header = tarfile.TarInfo(name)
    header.size = size
    return gzip.compress(header.tobuf(tarfile.GNU_FORMAT))


def java_hash(contents):
    """What a Java controller calls these files: SHA-256 over path and bytes of each, sorted by path."""
    digest = hashlib.sha256()
    for name in sorted(contents, key=lambda name: name.encode("utf-16-be")):
        digest.update(name.encode())
        digest.update(contents[name].encode())
    return digest.hexdigest()
