"""Downloads against a server of our own on 127.0.0.1, which cuts, refuses ranges, and sends the wrong file."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ancdiff.dataset.download import RemoteFile, download
from ancdiff.errors import InputError

CONTENT = bytes(range(256)) * 4096  # 1 MiB


class Server(ThreadingHTTPServer):
    """Sends CONTENT; ``cut_at`` closes each answer after so many bytes, ``failures`` answers 503 so many times."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.cut_at, self.ranges, self.failures = CONTENT, 0, True, 0
        self.asked: list[str | None] = []

    @property
    def file(self) -> RemoteFile:
        md5 = hashlib.md5(CONTENT).hexdigest()
        return RemoteFile(f"http://127.0.0.1:{self.server_address[1]}/file", len(CONTENT), f"md5:{md5}")


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        if self.path != "/file":
            return self.send_error(404)
        if self.server.failures:
            self.server.failures -= 1
            return self.send_error(503)
        start = int(asked[6:-1]) if asked and self.server.ranges else 0
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header(
                "Content-Range", f"bytes {start}-{len(self.server.content) - 1}/{len(self.server.content)}"
            )
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cut_at or None])
        return None

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_file_is_fetched_once_and_whole(server: Server, tmp_path: Path) -> None:
    path = download(server.file, tmp_path / "deep" / "file.bin", pause_seconds=0.0)
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]
    download(server.file, path)
    assert server.asked == [None]  # what is there and right is not asked for again


def test_a_cut_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.cut_at = 400_000
    path = tmp_path / "file.bin"
    with pytest.raises(InputError, match="ended after 400,000 of 1,048,576 bytes"):
        download(server.file, path, attempts=1)
    assert not path.exists()
    assert (tmp_path / ".file.bin.part").stat().st_size == 400_000
    assert download(server.file, path, pause_seconds=0.0).read_bytes() == CONTENT  # two more cuts, two more tries
    assert server.asked == [None, "bytes=400000-", "bytes=800000-"]


def test_a_server_that_cannot_resume_starts_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".file.bin.part").write_bytes(CONTENT[:1000])
    server.ranges = False
    assert download(server.file, tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_busy_server_is_asked_again_a_missing_file_is_not(server: Server, tmp_path: Path) -> None:
    server.failures = 2
    assert download(server.file, tmp_path / "file.bin", pause_seconds=0.0).read_bytes() == CONTENT
    assert len(server.asked) == 3
    gone = RemoteFile(server.file.url + "/gone", 10, "md5:0")
    with pytest.raises(InputError, match="404"):
        download(gone, tmp_path / "gone.bin", pause_seconds=0.0)
    assert len(server.asked) == 4


@pytest.mark.parametrize("wrong", [CONTENT[:-1] + b"x", CONTENT + b"more"])
def test_another_file_than_the_published_one_is_refused_and_not_kept(
    server: Server, tmp_path: Path, wrong: bytes
) -> None:
    server.content = wrong
    with pytest.raises(InputError, match="not the published file"):
        download(server.file, tmp_path / "file.bin", pause_seconds=0.0)
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_is_damaged_is_found_at_the_end_and_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".file.bin.part").write_bytes(b"?" * 1000)
    with pytest.raises(InputError, match="not the published file"):
        download(server.file, tmp_path / "file.bin")
    assert download(server.file, tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_local_file_with_another_checksum_is_not_overwritten(server: Server, tmp_path: Path) -> None:
    mine = tmp_path / "file.bin"
    mine.write_bytes(b"mine")
    with pytest.raises(InputError, match="not the published file"):
        download(server.file, mine)
    assert mine.read_bytes() == b"mine"
    assert server.asked == []


def test_sha256_and_other_schemes(server: Server, tmp_path: Path) -> None:
    sha = RemoteFile(server.file.url, len(CONTENT), f"sha256:{hashlib.sha256(CONTENT).hexdigest()}")
    assert download(sha, tmp_path / "file.bin").read_bytes() == CONTENT
    with pytest.raises(InputError, match="only http"):
        download(RemoteFile("file:///etc/passwd", 1, "md5:0"), tmp_path / "other")
