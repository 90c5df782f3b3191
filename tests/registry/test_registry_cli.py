"""Our command line, for operators, and the stock mixin against a served folder."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner, Result
from huggingface_hub import HfApi
from registry_serving import Serving, serving

from hubstate_registry.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def registry(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(
    folder: Path, *options: str, python: str = sys.executable
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``hubstate-registry serve`` as a process of its own, once it answers."""
    port = free_port()
    scheme = "https" if "--tls-cert" in options else "http"
    url = f"{scheme}://127.0.0.1:{port}"
    command = [python, "-m", "hubstate_registry", "serve", str(folder)]
    with (folder.parent / "log").open("a") as log:
        running = subprocess.Popen(
            [*command, "--port", str(port), *options],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={"PATH": os.environ["PATH"]},
        )
    trusting = ssl._create_unverified_context() if scheme == "https" else None
    try:
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{url}/readyz", context=trusting, timeout=5):
                    break
            except OSError:
                assert running.poll() is None, (folder.parent / "log").read_text()
                time.sleep(0.05)
        yield running, url
    finally:
        running.kill()
        assert running.stdout is not None
        running.stdout.close()
        running.wait()


def test_the_first_start_prints_a_token_once_and_a_stop_is_graceful(tmp_path: Path) -> None:
    folder = tmp_path / "registry"
    with process(folder) as (running, url):
        assert running.stdout is not None
        token = running.stdout.readline().rpartition(" ")[2].strip()
        assert HfApi(endpoint=url, token=token).whoami()["name"] == "admin"
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=20) == 0
    with process(folder) as (running, url):
        running.send_signal(signal.SIGTERM)
        assert running.communicate(timeout=20)[0] == ""
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    told = [line for line in lines if line["event"] == "request"]
    assert {"request_id", "route", "status", "ms", "user", "path"} <= set(told[0])
    assert "admin" in {line["user"] for line in told}
    modes = {p.name: p.stat().st_mode & 0o777 for p in folder.iterdir() if p.is_file()}
    assert modes == {"secret.key": 0o600, "registry.sqlite3": 0o600}
    assert token not in (tmp_path / "log").read_text()


def test_a_certificate_makes_it_https(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", str(key)),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-out", str(cert)),
        ],
        capture_output=True,
    )
    assert made.returncode == 0
    options = ["--tls-cert", str(cert), "--tls-key", str(key), "--quiet"]
    with process(tmp_path / "registry", *options) as (_, url):
        trusting = ssl.create_default_context(cafile=str(cert))
        with urllib.request.urlopen(f"{url}/healthz", context=trusting, timeout=5) as answer:
            assert answer.read() == b"ok\n"


SCRIPT = """
import torch
from huggingface_hub import PyTorchModelHubMixin, get_safetensors_metadata

class Net(torch.nn.Module, PyTorchModelHubMixin):
    def __init__(self, width: int = 4):
        super().__init__()
        self.fc = torch.nn.Linear(width, 2)

net = Net(width=6)
net.push_to_hub("ada/net")
back = Net.from_pretrained("ada/net")
assert torch.equal(net.fc.weight, back.fc.weight)
meta = get_safetensors_metadata("ada/net")
assert meta.parameter_count == {"F32": 14}, meta
print("fine")
"""


def test_the_mixin_and_safetensors_metadata_need_nothing_but_the_endpoint(
    served: Serving, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    assert "fine" in served.run(home, sys.executable, "-W", "ignore", "-c", SCRIPT)


def test_users_organisations_and_tokens_are_managed_beside_the_server(
    served: Serving, tmp_path: Path
) -> None:
    folder = served.folder
    assert registry("user", "add", folder, "eve").exit_code == 0
    again = registry("user", "add", folder, "EVE")
    assert again.exit_code == 1 and "already" in again.output
    assert registry("org", "add", folder, "lab").exit_code == 0
    assert registry("org", "member", folder, "lab", "eve", "write").exit_code == 0
    made = registry("token", "create", folder, "eve", "--scope", "lab=write", "--expires", "1h")
    api = HfApi(endpoint=served.url, token=made.output.strip())
    assert api.whoami()["orgs"][0]["name"] == "lab"
    api.create_repo("lab/model")
    listed = registry("token", "list", folder, "eve").output.split("\t")
    assert listed[1] == "eve" and listed[4].startswith("until 20")
    assert registry("token", "revoke", folder, listed[0]).exit_code == 0
    with pytest.raises(Exception, match="Invalid user token"):
        api.whoami()
    assert "lab=write" in registry("user", "list", folder).output
    assert registry("user", "disable", folder, "nobody").exit_code == 1
    assert registry("token", "create", folder, "eve", "--scope", "lab").exit_code == 2
    assert registry("user", "list", tmp_path / "nothing").exit_code == 1


def test_a_folder_that_cannot_be_a_registry_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "registry.sqlite3").write_text("no database at all" * 100)
    for folder, told in (("file/sub", "Not a directory"), ("other", "not a database")):
        done = registry("import-folder", tmp_path / folder, shelf(tmp_path / "shelf"))
        assert (done.exit_code, told in done.output) == (1, True), done.output
        assert done.output.startswith("Error: ") and done.output.count("\n") == 1


def shelf(folder: Path) -> Path:
    """An empty folder registry."""
    folder.mkdir(exist_ok=True)
    (folder / "hubstate-registry.json").write_text('{"schema": 1}')
    return folder


def test_the_log_tells_who_moved_which_reference(served: Serving, api: HfApi) -> None:
    api.create_repo("ada/model")
    commit = api.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id="ada/model")
    api.create_tag("ada/model", tag="v1")
    api.delete_tag("ada/model", tag="v1")
    lines = registry("log", served.folder, "--repo", "ada/model").output.splitlines()
    told = [json.loads(line) for line in lines]
    assert [(t["action"], t["reference"], t["actor"]) for t in told] == [
        ("delete", "refs/tags/v1", "ada"),
        ("create", "refs/tags/v1", "ada"),
        ("commit", "refs/heads/main", "ada"),
        ("create", "refs/heads/main", "ada"),
        ("create repository", "", "ada"),
    ]
    assert told[2]["new"] == commit.oid and told[2]["old"] == told[3]["new"]
    assert all(t["request"] and t["token"] for t in told)


def test_metrics_health_and_request_ids(served: Serving) -> None:
    assert served.request("GET", "/healthz", user=None).text == "ok\n"
    assert served.request("GET", "/readyz", user=None).json()["ready"] is True
    answer = served.request("GET", "/api/models", headers={"X-Request-Id": "mine-1"})
    assert answer.headers["X-Request-Id"] == "mine-1"
    odd = served.request("GET", "/api/models", headers={"X-Request-Id": "no way"})
    assert len(odd.headers["X-Request-Id"]) == 32
    assert served.request("GET", "/metrics", user=None).status_code == 401
    assert served.request("GET", "/metrics").status_code == 403
    text = served.request("GET", "/metrics", user="root").text
    wanted = 'requests_total{method="GET",route="/api/models",status="200"} 2.0'
    assert wanted in text


@pytest.mark.skipif(sys.platform != "linux", reason="calls from 127.0.0.2")
def test_behind_a_proxy_addresses_are_the_proxys_and_callers_its_callers(tmp_path: Path) -> None:
    base = "https://models.example.org"
    options = ("--base-url", base, "--behind-proxy", "127.0.0.1")
    with process(tmp_path / "registry", *options) as (running, url):
        assert running.stdout is not None
        bearer = {"Authorization": f"Bearer {running.stdout.readline().rpartition(' ')[2].strip()}"}
        body = {"name": "net"}
        made = requests.post(f"{url}/api/repos/create", json=body, headers=bearer, timeout=9)
        batch = {"operation": "upload", "objects": [{"oid": "ab" * 32, "size": 9}]}
        address = f"{url}/admin/net.git/info/lfs/objects/batch"
        told = requests.post(address, json=batch, headers=bearer, timeout=9).json()["objects"][0]
        address = f"{url}/api/models/admin/net/xet-write-token/main"
        token = requests.get(address, headers=bearer, timeout=9).json()
        for source, id in (("127.0.0.1", "proxy"), ("127.0.0.2", "stranger")):
            sent = {"X-Forwarded-For": "198.51.100.7", "X-Request-Id": id, "Host": "elsewhere"}
            with socket.create_connection(
                ("127.0.0.1", int(url.rpartition(":")[2])), source_address=(source, 0)
            ) as raw:
                head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
                raw.sendall(f"GET /healthz HTTP/1.1\r\nConnection: close\r\n{head}\r\n".encode())
                while raw.recv(4096):
                    pass
        running.send_signal(signal.SIGTERM)
        running.wait(timeout=20)
    assert made.json()["url"] == f"{base}/admin/net"
    assert told["actions"]["upload"]["href"].startswith(f"{base}/api/lfs-object/")
    assert token["casUrl"] == f"{base}/xet"
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    clients = {line["request_id"]: line["client"] for line in lines if "request_id" in line}
    assert clients["proxy"] == "198.51.100.7"
    assert clients["stranger"] == "127.0.0.2", "it is not the proxy, and is not believed"


def test_nginx_is_told_where_the_bytes_are(tmp_path: Path) -> None:
    with serving(tmp_path / "registry", accel_prefix="/protected/", public_metrics=True) as served:
        served.api().create_repo("ada/model")
        served.api().upload_file(path_or_fileobj=b"{}", path_in_repo="a.json", repo_id="ada/model")
        answer = served.request("GET", "/ada/model/resolve/main/a.json")
        inner = answer.headers["X-Accel-Redirect"]
        assert (answer.content, inner[:24]) == (b"", "/protected/blobs/sha256/")
        assert (served.folder / inner.removeprefix("/protected/")).read_bytes() == b"{}"
        assert (
            "X-Accel-Redirect"
            not in served.request("HEAD", "/ada/model/resolve/main/a.json").headers
        )
        assert served.request("GET", "/metrics", user=None).status_code == 200
