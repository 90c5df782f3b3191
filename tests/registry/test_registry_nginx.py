"""nginx in front, configured with the very block of docs/guides/registry-behind-nginx.md."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from test_registry_cli import free_port, process

GUIDE = Path(__file__).parents[2] / "docs/guides/registry-behind-nginx.md"
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
UPLOAD = """
import sys, huggingface_hub as hub
api = hub.HfApi()
api.create_repo(sys.argv[1], private="private" in sys.argv)
api.upload_file(path_or_fileobj=sys.argv[2], path_in_repo="w.bin", repo_id=sys.argv[1])
print(hub.hf_hub_download(sys.argv[1], "w.bin"))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
    pytest.mark.skipif(sys.platform != "linux", reason="calls from 127.0.0.2"),
]


@dataclass
class Site:
    """nginx with a registry behind it."""

    url: str
    direct: str
    folder: Path
    token: str
    certificate: Path

    def get(self, path: str, *, token: bool = False, **options: Any) -> requests.Response:
        """One plain request through nginx."""
        headers = {"Accept-Encoding": "identity", **options.pop("headers", {})}
        if token:
            headers["Authorization"] = f"Bearer {self.token}"
        address = path if path.startswith("http") else self.url + path
        with requests.Session() as session:
            session.verify, session.trust_env = str(self.certificate), False
            return session.get(address, headers=headers, timeout=30, **options)

    def upload(self, home: Path, *arguments: object, xet: bool) -> Path:
        """Upload and download with the stock client; where the download is."""
        home.mkdir()
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "HF_HOME": str(home / "hf"),
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "SSL_CERT_FILE": str(self.certificate),
            "HF_HUB_DISABLE_XET": "0" if xet else "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        done = subprocess.run(
            [sys.executable, "-c", UPLOAD, *map(str, arguments)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return Path(done.stdout.splitlines()[-1])

    def log(self) -> list[dict[str, Any]]:
        """The registry's lines about requests."""
        lines = [json.loads(line) for line in (self.folder.parent / "log").read_text().splitlines()]
        return [line for line in lines if line["event"] == "request"]

    def line(self, id: str) -> dict[str, Any]:
        """The line about one request; it is written once the answer is on its way."""
        for _ in range(100):
            if found := [line for line in self.log() if line["request_id"] == id]:
                return found[0]
            time.sleep(0.05)
        raise AssertionError(f"no line about {id}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("site")
    port = free_port()
    options = ("--base-url", f"https://127.0.0.1:{port}", "--behind-proxy", "127.0.0.1")
    with process(root / "models", *options, "--accel-prefix", "/protected") as (running, direct):
        assert running.stdout is not None
        token = running.stdout.readline().rpartition(" ")[2].strip()
        certificate = make_certificate(root)
        made = Site(f"https://127.0.0.1:{port}", direct, root / "models", token, certificate)
        with nginx(root, made):
            yield made


def make_certificate(root: Path) -> Path:
    """A certificate for 127.0.0.1, and its key beside it."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext"]
    command += ["subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
    places = ["-keyout", str(root / "models.key"), "-out", str(root / "models.pem")]
    subprocess.run([*command, *places], check=True, capture_output=True)
    return root / "models.pem"


def documented(root: Path, site: Site) -> str:
    """The guide's server block, in which only addresses and places are others."""
    found = re.search(r"```nginx\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found is not None
    text = found[1]
    for old, new in {
        "listen 443 ssl": f"listen {site.url.rpartition(':')[2]} ssl",
        "models.example.org": "127.0.0.1",
        "/etc/ssl/": f"{root}/",
        "127.0.0.1:8080": site.direct.removeprefix("http://"),
        "/srv/models/": f"{site.folder}/",
    }.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextmanager
def nginx(root: Path, site: Site) -> Iterator[None]:
    """nginx with the documented block, everything of its own below ``root``."""
    assert NGINX is not None
    names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{name}_temp_path {root}/{name};" for name in names)
    (root / "nginx.conf").write_text(
        ("user root root;\n" if os.geteuid() == 0 else "")
        + f"daemon off; pid {root}/pid; error_log {root}/error.log; worker_rlimit_nofile 8192;\n"
        + "events { worker_connections 4096; }\n"
        + f"http {{ access_log off; sendfile on; {temporary}\n{documented(root, site)}\n}}\n"
    )
    command = [NGINX, "-p", str(root), "-c", str(root / "nginx.conf"), "-e", str(root / "early")]
    running = subprocess.Popen(command)
    try:
        for _ in range(200):
            try:
                assert site.get("/readyz").status_code == 200
                break
            except requests.ConnectionError:
                assert running.poll() is None, (root / "error.log").read_text()
                time.sleep(0.05)
        yield
    finally:
        running.terminate()
        running.wait()


@pytest.mark.parametrize("xet", [False, True], ids=["lfs", "xet"])
def test_the_stock_client_publishes_and_fetches_through_nginx(
    site: Site, tmp_path: Path, xet: bool
) -> None:
    """12 MB: nginx alone would refuse a body of over one."""
    content = os.urandom(12_000_000)
    (tmp_path / "w").write_bytes(content)
    place = site.upload(tmp_path / "home", f"admin/xet-{xet}", tmp_path / "w", xet=xet)
    assert place.read_bytes() == content
    assert site.get(f"/admin/xet-{xet}/resolve/main/w.bin").content == content
    routes = {line["route"] for line in site.log() if f"xet-{xet}" in line["path"]}
    assert any("xet-write-token" in route for route in routes) == xet


def test_what_came_by_xet_is_sent_by_nginx_from_the_second_plain_read(
    site: Site, tmp_path: Path
) -> None:
    content = os.urandom(2_000_000)
    (tmp_path / "w").write_bytes(content)
    site.upload(tmp_path / "home", "admin/copied", tmp_path / "w", xet=True)
    for number in range(100):
        id = f"plain-{number}"
        answer = site.get("/admin/copied/resolve/main/w.bin", headers={"X-Request-Id": id})
        assert answer.content == content
        if site.line(id)["sent"] == 0:
            break
        time.sleep(0.1)
    assert number >= 1 and site.line(id)["sent"] == 0


def test_bytes_come_from_nginx_and_headers_from_the_registry(site: Site, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "w").write_bytes(content)
    site.upload(tmp_path / "home", "admin/accel", tmp_path / "w", xet=False)
    answer = site.get("/admin/accel/resolve/main/w.bin", headers={"X-Request-Id": "whole-1"})
    assert answer.content == content
    part = site.get("/admin/accel/resolve/main/w.bin", headers={"Range": "bytes=1000-1999"})
    assert (part.status_code, part.content) == (206, content[1000:2000])
    for got in (answer, part):
        assert got.headers["ETag"].strip('"') == hashlib.sha256(content).hexdigest()
        assert re.fullmatch("[0-9a-f]{40}", got.headers["X-Repo-Commit"])
        assert "X-Accel-Redirect" not in got.headers
        assert got.headers["X-Content-Type-Options"] == "nosniff"
    line = site.line("whole-1")
    assert (line["status"], line["sent"]) == (200, 0)


def test_a_private_file_is_refused_and_the_internal_place_too(site: Site, tmp_path: Path) -> None:
    content = os.urandom(200_000)
    (tmp_path / "w").write_bytes(content)
    home = tmp_path / "home"
    site.upload(home, "admin/secret", tmp_path / "w", "private", xet=False)
    refused = site.get("/admin/secret/resolve/main/w.bin")
    assert (refused.status_code, refused.headers["X-Error-Code"]) == (404, "RepoNotFound")
    assert site.get("/admin/secret/resolve/main/w.bin", token=True).content == content
    name = hashlib.sha256(content).hexdigest()
    assert (site.folder / f"blobs/sha256/{name[:2]}/{name}").exists()
    for inner in (f"blobs/sha256/{name[:2]}/{name}", "secret.key", "registry.sqlite3"):
        for token in (False, True):
            answer = site.get(f"/protected/{inner}", token=token)
            assert answer.status_code == 404
            assert content not in answer.content


def test_addresses_and_callers_are_those_outside(site: Site) -> None:
    """Another address of this machine calls; the registry is told who, and believes nginx alone."""
    with requests.Session() as session:
        session.verify, session.trust_env = str(site.certificate), False
        session.mount("https://", _From("127.0.0.2"))
        bearer = {"Authorization": f"Bearer {site.token}"}
        body = {"name": "outside", "type": "model"}
        made = session.post(f"{site.url}/api/repos/create", json=body, headers=bearer, timeout=9)
        batch = {"operation": "upload", "objects": [{"oid": "ab" * 32, "size": 9}]}
        address = f"{site.url}/admin/outside.git/info/lfs/objects/batch"
        told = session.post(address, json=batch, headers=bearer, timeout=9).json()
        forged = {"X-Forwarded-For": "9.9.9.9", "X-Request-Id": "forged-1"}
        session.get(f"{site.url}/healthz", headers=forged, timeout=9)
    assert made.json()["url"] == f"{site.url}/admin/outside"
    assert told["objects"][0]["actions"]["upload"]["href"].startswith(f"{site.url}/api/")
    clients = {line["client"] for line in site.log() if "outside" in line["path"]}
    assert clients == {"127.0.0.2"}
    line = site.line("forged-1")
    assert line["client"] == "127.0.0.2"


def test_one_address_cannot_hold_all_connections(site: Site, tmp_path: Path) -> None:
    """Readers who take nothing, as many as one address may be, and one more."""
    (tmp_path / "w").write_bytes(os.urandom(12_000_000))
    site.upload(tmp_path / "home", "admin/held", tmp_path / "w", xet=False)
    path = "/admin/held/resolve/main/w.bin"
    with ExitStack() as held:
        for _ in range(256):
            held.enter_context(hold(site, path))
        refused = site.get(path, stream=True)
        assert refused.status_code == 429
        with requests.Session() as session:
            session.verify, session.trust_env = str(site.certificate), False
            session.mount("https://", _From("127.0.0.2"))
            assert session.get(site.url + path, timeout=30).status_code == 200
    for _ in range(100):
        if (status := site.get("/healthz").status_code) == 200:
            break
        time.sleep(0.05)
    assert status == 200


@contextmanager
def hold(site: Site, path: str) -> Iterator[None]:
    """A request whose answer has begun, and is not read."""
    host, port = site.url.removeprefix("https://").split(":")
    context = ssl.create_default_context(cafile=str(site.certificate))
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect((host, int(port)))
        with context.wrap_socket(plain, server_hostname=host) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert b" 200 " in connection.recv(64)
            yield


class _From(HTTPAdapter):
    """Calls from a chosen address."""

    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, source_address=(self.address, 0), **options)
