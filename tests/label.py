"""A MONAI Label server on the loopback interface, with packed bundles in it, and a client of its REST interface."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SECONDS = 240  # to start, on a busy machine; then for an answer
VARIABLE = "SR_LABEL_PYTHON"
HOW = (
    f"MONAI Label is not here: make an environment for it (README, In MONAI Label) and set {VARIABLE} to its python, "
    "e.g. /path/label/bin/python"
)


def label_python() -> Path:
    """The interpreter that has MONAI Label, or skip."""
    name = os.environ.get(VARIABLE)
    if not name or not Path(name).is_file():
        pytest.skip(HOW)
    return Path(name)


class Label:
    """The REST interface of a running server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(self, path: str, form: dict[str, str] | None = None) -> bytes:
        content = None if form is None else urllib.parse.urlencode(form).encode()
        with self.opener.open(f"{self.url}/{path}", data=content, timeout=SECONDS) as answer:
            return bytes(answer.read())

    def models(self) -> list[str]:
        return sorted(json.loads(self.ask("info/"))["models"])

    def infer(self, model: str, image: str | Path, result: Path, **params: Any) -> Path:
        """Save what a model makes of an image of the studies, or at a path of the server, as ``result``."""
        params["result_extension"] = "".join(result.suffixes)
        query = urllib.parse.urlencode({"image": str(image), "output": "image"})
        result.write_bytes(self.ask(f"infer/{model}?{query}", {"params": json.dumps(params)}))
        return result


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def unpack_app(python: Path, folder: Path, zips: Sequence[Path]) -> Path:
    """MONAI Label's own app for bundles, with packed ones in its folder of models."""
    app = folder / "monaibundle"
    shutil.copytree(python.parent.parent / "monailabel" / "sample-apps" / "monaibundle", app)
    for path in zips:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(app / "model")
    return app


@contextmanager
def label_server(python: Path, app: Path, studies: str | Path, **settings: str) -> Iterator[Label]:
    """A server while this lasts; fails with its log where it does not start.

    Args:
        python: of :func:`label_python`.
        app: of :func:`unpack_app`.
        studies: a folder of images, or the address of a DICOMweb archive.
        settings: environment variables.
    """
    port, models = free_port(), ",".join(sorted(path.name for path in (app / "model").iterdir()))
    conf = {"models": models, "zoo_source": "local", "skip_trainers": "true", "sam2": "false"}
    words = [word for item in conf.items() for word in ("--conf", *item)]
    words += ["--app", str(app), "--studies", str(studies), "--host", "127.0.0.1", "--port", str(port)]
    places = os.pathsep.join([str(app / "bin"), str(python.parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": places, "PYTHONPATH": "", "HOME": str(app.parent), **settings}
    command = [str(python), "-m", "monailabel.main", "start_server", *words]
    with open(app.parent / "label.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=app.parent, env=environment)
    try:
        label = Label(f"http://127.0.0.1:{port}")
        _wait_for(label, process, app.parent / "label.log")
        yield label
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(label: Label, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            label.models()
            return
        except urllib.error.HTTPError as error:
            pytest.fail(f"MONAI Label answers {error.code}: {log.read_text(errors='replace')[-3000:]}")
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"MONAI Label does not answer: {log.read_text(errors='replace')[-3000:]}")
