"""A DICOM archive: a real Orthanc that listens on the loopback interface alone, and a client of its REST interface."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SECONDS = 20  # to start
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class Archive:
    """Orthanc's REST interface."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(self, path: str, content: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"{self.url}/{path}", data=content)
        with self.opener.open(request, timeout=SECONDS) as answer:
            return bytes(answer.read())

    def read(self, path: str) -> Any:
        return json.loads(self.ask(path))


@contextmanager
def orthanc_server(folder: Path, plugins: Sequence[Path] = ()) -> Iterator[Archive]:
    """An archive in ``folder`` while this lasts; skips where the program, or a plugin, is not installed."""
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    if program is None:
        pytest.skip("the DICOM archive is not here: install Orthanc (package orthanc)")
    if not all(plugin.exists() for plugin in plugins):
        pytest.skip("the DICOM archive has no DICOMweb: install its plugin (package orthanc-dicomweb)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "StorageDirectory": str(folder / "storage"), "IndexDirectory": str(folder / "storage"), "HttpPort": port,
        "RemoteAccessAllowed": False, "HttpBindAddresses": ["127.0.0.1"], "AuthenticationEnabled": False,
        "DicomServerEnabled": False, "Plugins": [str(plugin) for plugin in plugins],
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with open(folder / "orthanc.log", "wb") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log, cwd=folder)
    try:
        archive = Archive(f"http://127.0.0.1:{port}")
        _wait_for(archive, process, folder / "orthanc.log")
        yield archive
    finally:
        process.kill()  # nothing in its storage is worth the seconds of an orderly end
        process.wait()


def _wait_for(archive: Archive, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            archive.read("system")
            return
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"Orthanc does not answer: {log.read_text(errors='replace')[-2000:]}")
