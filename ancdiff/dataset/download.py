"""Files from their original addresses: resumed where they were cut, checked, and whole or not there."""

import contextlib
import hashlib
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from ancdiff.errors import InputError

_CHUNK_BYTES = 1 << 18
_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class RemoteFile:
    """A published file: its address, size and checksum (``md5:…`` or ``sha256:…``)."""

    url: str
    size_bytes: int
    checksum: str


def download(file: RemoteFile, path: Path, *, attempts: int = 5, pause_seconds: float = 3.0) -> Path:
    """Fetch a file to ``path`` unless it is there already, and check it. Touches disk and network.

    What has come so far lies in ``.<name>.part`` beside it; a later call goes on from there (HTTP Range). Trouble on
    the way is tried again ``attempts`` times, with a pause that doubles.

    Raises:
        InputError: the server cannot be reached or refuses, or what came is not the published file.
    """
    if path.is_file():
        _check(file, path, fix="move this file away to have it downloaded again, or leave download off to use it")
        return path
    if urllib.parse.urlsplit(file.url).scheme not in ("http", "https"):
        raise InputError("only http and https addresses are fetched", where=file.url)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    for attempt in range(attempts):
        try:
            _fetch_rest(file, part, path.name)
            break
        except (urllib.error.URLError, HTTPException, OSError) as error:
            permanent = isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500 and error.code != 429
            if permanent or attempt == attempts - 1:
                raise InputError(
                    f"this address cannot be fetched: {error}",
                    where=file.url,
                    fix=f"try again later (it goes on where it stopped), or put the file at {path} yourself",
                ) from error
            time.sleep(pause_seconds * 2**attempt)
    try:
        _check(file, part, fix="try again; if it stays so, get the file in another way and give its path as source")
    except InputError:
        part.unlink()
        raise
    part.replace(path)
    return path


def _fetch_rest(file: RemoteFile, part: Path, name: str) -> None:
    """Append to ``part`` until it has the published size; starts anew where the server cannot resume."""
    have = part.stat().st_size if part.is_file() else 0
    if have > file.size_bytes:
        part.unlink()
        have = 0
    if have == file.size_bytes:
        return
    request = urllib.request.Request(file.url, headers={"Range": f"bytes={have}-"} if have else {})
    with contextlib.closing(urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)) as answer:
        resumed = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if have and not resumed:
            have = 0
        bar = tqdm(total=file.size_bytes, initial=have, desc=name, unit="B", unit_scale=True, mininterval=2.0)
        with bar, open(part, "ab" if have else "wb") as out:
            while chunk := answer.read(min(_CHUNK_BYTES, file.size_bytes + 1 - have)):
                out.write(chunk)
                have += len(chunk)
                bar.update(len(chunk))
                if have > file.size_bytes:
                    break  # another file than the published one: its check will say so
    if have < file.size_bytes:
        raise ConnectionError(f"the connection ended after {have:,} of {file.size_bytes:,} bytes")


def _check(file: RemoteFile, path: Path, *, fix: str) -> None:
    kind, _, wanted = file.checksum.partition(":")
    with open(path, "rb") as handle:
        digest = hashlib.file_digest(handle, kind).hexdigest()
    if digest != wanted.lower():
        size = path.stat().st_size
        raise InputError(
            f"this is not the published file: {kind} {digest}, {size:,} bytes; published are {wanted}, "
            f"{file.size_bytes:,} bytes",
            where=f"{path} ({file.url})",
            fix=fix,
        )
