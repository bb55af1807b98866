"""A real nginx on a free port, with the `location` blocks of the documentation."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.waiting import wait_for

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
GUIDE = Path(__file__).parents[2] / "docs" / "reverse-proxy.md"
_MAIN = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port}; {locations} }}
}}
"""


def recipe(upstream: int, prefix: str) -> str:
    """Return the documented `location` block for a gateway on port ``upstream`` under the path ``prefix``."""
    block = re.search(r"```nginx\n(.*?)```", GUIDE.read_text(), re.S)
    assert block
    return block[1].replace("/cams/", prefix).replace("127.0.0.1:8080", f"127.0.0.1:{upstream}")


@contextmanager
def nginx(folder: Path, locations: str) -> Iterator[str]:
    """Run nginx and yield its address."""
    assert NGINX
    folder.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    file = folder / "nginx.conf"
    file.write_text(_MAIN.format(folder=folder, port=port, locations=locations))
    process = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(file)])

    def answers() -> bool:
        assert process.poll() is None, (folder / "error.log").read_text()
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(answers, what="nginx")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
