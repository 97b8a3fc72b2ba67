"""Compounds from archives and SDF files, streamed: nothing is ever unpacked to disk.

A member that is no compound becomes a reason; an archive that cannot be trusted (cut short, or with names that point
outside its folder) is an error as a whole.
"""

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from ancdiff.dataset.xyz import Geometry, parse_sdf_record, parse_xyz, split_sdf
from ancdiff.errors import InputError

Stream = io.BufferedIOBase | io.RawIOBase

_OPENERS: dict[str, Callable[..., Stream]] = {".bz2": bz2.open, ".gz": gzip.open, ".xz": lzma.open}
_MAX_MEMBER_BYTES = 1_000_000  # the largest raw file of QM9 has 4 kB
_BROKEN = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)
_FIX = "copy or download it again, and compare its checksum with the published one"


def read_archive(path: Path) -> Iterator[tuple[str, Geometry | str]]:
    """Name and geometry of each compound of a tar archive of xyz files (``.tar``, ``.tar.bz2`` …) or an SDF file.

    In place of the geometry of a broken one stands the reason. Reads the disk as it goes.

    Raises:
        InputError: the file is missing, of another kind or cut short, or a member's name points outside its folder.
    """
    if not path.is_file():
        raise InputError("there is no such file", where=str(path), fix="check the path, or set download: true")
    inner = Path(path.stem).suffix if path.suffix in _OPENERS else path.suffix
    reader = {".tar": _read_tar, ".sdf": _read_sdf, ".tbz2": _read_tar, ".tgz": _read_tar}.get(inner)
    if reader is None:
        raise InputError(
            "this is neither an archive of xyz files nor SDF by its name",
            where=str(path),
            fix="hand in .tar, .tar.bz2, .tar.gz, .tar.xz, .sdf, .sdf.gz or the like",
        )
    try:
        with open(path, "rb") as raw, _decompressed(path, raw) as stream:
            yield from reader(stream, path)
    except _BROKEN as error:
        raise InputError(f"this file is damaged or cut short: {error}", where=str(path), fix=_FIX) from error


def _decompressed(path: Path, raw: Stream) -> Stream:
    suffix = {".tbz2": ".bz2", ".tgz": ".gz"}.get(path.suffix, path.suffix)
    return _OPENERS[suffix](raw, "rb") if suffix in _OPENERS else raw


def _read_tar(stream: Stream, path: Path) -> Iterator[tuple[str, Geometry | str]]:
    watched = _Tail(stream)
    with tarfile.open(fileobj=watched, mode="r|") as archive:
        for member in archive:
            _check_member(member, path)
            if not member.isfile() or PurePosixPath(member.name).suffix != ".xyz":
                continue  # folders, a readme
            content = archive.extractfile(member)
            text = content.read().decode("utf-8", errors="replace") if content else ""
            yield member.name, _geometry_or_reason(parse_xyz, text, member.name)
    while watched.read(1 << 20):
        pass
    # tarfile takes the end of the data for the end of the archive, so that a cut at a member's end goes unseen.
    if watched.tail.strip(b"\0") or watched.total < tarfile.BLOCKSIZE or watched.total % tarfile.BLOCKSIZE:
        raise InputError("this archive is cut short: it has no end mark", where=str(path), fix=_FIX)


def _check_member(member: tarfile.TarInfo, path: Path) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name:
        what = f"the member '{member.name}' points outside the archive's folder"
    elif not (member.isfile() or member.isdir()):
        what = f"the member '{member.name}' is a link or a device, not a file"
    elif member.size > _MAX_MEMBER_BYTES:
        what = f"the member '{member.name}' has {member.size:,} bytes, too many for one compound"
    else:
        return
    raise InputError(what, where=str(path), fix="do not trust this archive; take the original")


def _read_sdf(stream: Stream, path: Path) -> Iterator[tuple[str, Geometry | str]]:
    text = stream.read().decode("utf-8", errors="replace")
    for place, record in enumerate(split_sdf(text), start=1):
        name = f"{path.name} record {place}"
        yield name, _geometry_or_reason(parse_sdf_record, record, name)
    if text.strip() and not text.rstrip().endswith("$$$$"):
        raise InputError("this file is cut short: its last record has no $$$$", where=str(path), fix=_FIX)


def _geometry_or_reason(parse: Callable[..., Geometry], text: str, name: str) -> Geometry | str:
    try:
        return parse(text, where=name)
    except InputError as error:
        return error.what


class _Tail(io.RawIOBase):
    """A stream that remembers how much was read of it, and the last 512 bytes."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.tail, self.total = b"", 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.tail = (self.tail + data)[-tarfile.BLOCKSIZE :]
        self.total += len(data)
        return data
