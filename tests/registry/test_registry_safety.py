"""Hostile and broken requests: a clear 4xx each, and nothing changed."""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from huggingface_hub import HfApi
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from registry_serving import Serving, serving

from hubstate_registry.cards import InvalidCard, parse_card
from hubstate_registry.errors import BadRequest
from hubstate_registry.gitignore import Ignore
from hubstate_registry.names import parse_branch, parse_path, parse_repo
from hubstate_registry.patience import PatientProtocol
from hubstate_registry.storage.trees import Tree, small_entry

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
HEADER = '{"key":"header","value":{"summary":"s"}}\n'


def file_line(path: object, content: object = "YQ==", encoding: object = "base64") -> str:
    value = {"path": path, "content": content, "encoding": encoding}
    return json.dumps({"key": "file", "value": value}) + "\n"


TRICKS: list[object] = [
    *("../x", "a/../../x", "/x", "a//b", ".", "a/.", "", "a\\b", "a\0b", "a\nb", ".git/config"),
    *("a/.GIT/x", "x" * 300, "a/" * 600 + "a", "a/" * 64 + "a", "\ud800", 7, None, ["a"]),
]
OID = '{"key":"lfsFile","value":{"path":"a","oid":"%s","size":%s}}'
MALFORMED = [
    *("", "{}", "[]", "not json", HEADER + "{", HEADER + HEADER, file_line("a.txt") + HEADER),
    *(HEADER + '{"key":"what","value":{}}', HEADER + '{"key":"file"}'),
    *(HEADER + file_line("a.txt", "!!"), HEADER + file_line("a.txt", encoding="gzip")),
    *(HEADER + file_line("a.txt", 7), HEADER + "[" * 100_000, HEADER + "\xff\xfe"),
    *('{"key":"header","value":{"summary":7}}', '{"key":"header","value":{"summary":"\\ud800"}}'),
    *(HEADER + OID % ("../../etc/passwd", "1"), HEADER + OID % ("0" * 64, '"1"')),
    *(HEADER + file_line("a") + file_line("a/b"), HEADER + '{"key":"deletedFile","value":{}}'),
]


def test_paths_that_climb_or_trick_are_refused(served: Serving, api: HfApi) -> None:
    api.create_repo("ada/model")
    for path in TRICKS:
        body = HEADER + file_line(path)
        answer = served.request("POST", "/api/models/ada/model/commit/main", data=body)
        assert answer.status_code == 400, path
    assert api.list_repo_files("ada/model") == []


def test_malformed_commits_are_refused_whole(served: Serving, api: HfApi) -> None:
    api.create_repo("ada/model")
    before = api.model_info("ada/model").sha
    for body in MALFORMED:
        answer = served.request(
            "POST", "/api/models/ada/model/commit/main", data=body.encode("latin-1")
        )
        assert answer.status_code == 400, (body[:200], answer.text)
    assert api.model_info("ada/model").sha == before
    assert not list(served.storage.files.uploads.iterdir())


def test_bodies_over_a_limit_are_refused(tmp_path: Path) -> None:
    small = {"json_bytes": 1000, "commit_bytes": 200_000, "inline_bytes": 1000, "files": 3}
    with serving(tmp_path, **small, object_bytes=5000, commit_operations=5) as served:
        served.api().create_repo("ada/model")
        commit = "/api/models/ada/model/commit/main"
        many = "".join(file_line(f"{i}.txt") for i in range(4))
        tries = [
            ("/api/repos/create", json.dumps({"name": "x" * 1000})),
            (commit, HEADER + file_line("a.txt", "YWFh" * 500)),
            (commit, HEADER + " " * 100_000),
            (commit, HEADER + " " * 300_000),
            (commit, HEADER + many),
            (commit, HEADER + many + many),
            ("/api/models/ada/model/preupload/main", '{"files":[{"path":"a","size":6000}]}'),
        ]
        for path, body in tries:
            answer = served.request("POST", path, data=body)
            assert answer.status_code == 413, (path, len(body), answer.text)
        assert served.api().list_repo_files("ada/model") == []


def test_a_caller_without_a_token_sends_less(tmp_path: Path) -> None:
    with serving(tmp_path, anonymous_bytes=1000) as served:
        served.api().create_repo("ada/model")
        path, form = "/api/models/ada/model/paths-info/main", {"paths": "x" * 1000}
        assert served.request("POST", path, data=form, user=None).status_code == 413
        assert served.request("POST", path, data={"paths": "x"}, user=None).status_code == 200
        assert served.request("POST", path, data=form).status_code == 200


def raw(served: Serving, data: bytes, *, patience: float = 10) -> bytes:
    """What comes back for raw bytes."""
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=patience) as connection:
        answer = b""
        with suppress(ConnectionError):  # closed before all of it was sent, or read
            connection.sendall(data)
            while b"\r\n\r\n" not in answer and (chunk := connection.recv(65536)):
                answer += chunk
        return answer


def test_header_bombs_are_refused(served: Serving) -> None:
    many = b"".join(b"X-%d: %s\r\n" % (i, b"a" * 1000) for i in range(200))
    answer = raw(served, b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + many + b"\r\n")
    assert answer == b"" or b" 4" in answer.split(b"\r\n")[0]
    assert served.request("GET", "/healthz", user=None).status_code == 200


CREATE = b"POST /api/repos/create HTTP/1.1\r\nHost: x\r\n"
CHUNKED = CREATE + b"Transfer-Encoding: chunked\r\n"
BROKEN = [
    CREATE + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1",
    CREATE + b"Content-Length: 2\r\nContent-Length: 4\r\n\r\n{}{}",
    CREATE + b"Content-Length: -1\r\n\r\n",
    CREATE + b"Content-Length: 99999999999999999999\r\n\r\n",
    CHUNKED + b"\r\nZZ\r\n",
    CHUNKED + b"\r\n1;" + b"a" * 70_000 + b"\r\n{\r\n0\r\n\r\n",
    CHUNKED + b"\r\n2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    b"GET /healthz HTTP/1.1\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /api/mo\0dels HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /api/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
    b"GET http://elsewhere/api/models HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT a:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
]


def test_requests_that_break_http_are_refused(served: Serving) -> None:
    for data in BROKEN:
        answer = raw(served, data)
        refused = answer.startswith(b"HTTP/1.1 4")
        assert refused or (answer == b"" and len(data) > 60_000), (data[:80], answer[:80])
    assert served.request("GET", "/healthz", user=None).status_code == 200


def test_a_body_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    with serving(tmp_path, read_seconds=0.2) as served:
        token = served.tokens["ada"].encode()
        head = b"POST /api/repos/create HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token
        answer = raw(served, head + b"\r\nContent-Length: 10\r\n\r\n{")
        assert answer.startswith(b"HTTP/1.1 408")


def drip(served: Serving, body: bytes, *, pause: float) -> bytes:
    """What comes back for a body that arrives byte by byte."""
    token = served.tokens["ada"].encode()
    head = b"POST /api/repos/create HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head + b"\r\nContent-Length: %d\r\n\r\n" % len(body))
        with suppress(BrokenPipeError, ConnectionResetError):
            for byte in body:
                connection.sendall(bytes([byte]))
                time.sleep(pause)
        return connection.recv(65536)


def test_a_body_that_drips_is_given_up_and_one_that_is_only_slow_is_read(tmp_path: Path) -> None:
    body = b'{"name": "slow"}'
    with serving(tmp_path, pace_seconds=0.1, pace_bytes=400) as served:
        answer = drip(served, body, pause=0.02)
        assert answer.startswith(b"HTTP/1.1 408"), answer
        assert b"at least 400 are waited for" in answer
    with serving(tmp_path, pace_seconds=0.1, pace_bytes=5) as served:
        assert drip(served, body, pause=0.02).startswith(b"HTTP/1.1 200")


def test_a_head_that_does_not_come_is_given_up(
    served: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PatientProtocol, "SECONDS", 0.3)
    started = time.monotonic()
    assert raw(served, b"GET /healthz HTTP/1.1\r\nHost: ") == b""
    assert raw(served, b"") == b""
    assert time.monotonic() - started < 5


def test_compressed_bodies_are_refused(served: Serving) -> None:
    answer = served.request(
        "POST", "/api/repos/create", data=b"x", headers={"Content-Encoding": "gzip"}
    )
    assert answer.status_code == 400


def test_too_many_requests_are_told_when_to_come_back(tmp_path: Path) -> None:
    with serving(tmp_path, requests_per_minute=5, failures_per_minute=2) as served:
        codes = [served.request("GET", "/api/models").status_code for _ in range(7)]
        assert codes == [200] * 5 + [429] * 2
        late = served.request("GET", "/api/models")
        assert 1 <= int(late.headers["Retry-After"]) <= 60
        assert served.request("GET", "/api/models", user="bob").status_code == 200
        wrong = {"Authorization": "Bearer wrong"}
        guesses = [
            served.request("GET", "/api/models", user=None, headers=wrong).status_code
            for _ in range(4)
        ]
        assert guesses == [401, 401, 429, 429]
        assert served.request("GET", "/healthz", user=None).status_code == 200


def test_what_is_not_served_says_so(served: Serving, api: HfApi) -> None:
    api.create_repo("ada/model")
    for path in ("/api/datasets/ada/x", "/", "/api/spaces", "/ada/model", "/favicon.ico"):
        answer = served.request("GET", path)
        assert (answer.status_code, answer.headers["X-Error-Code"]) == (404, "NotSupported")
    wrong = served.request("DELETE", "/api/whoami-v2")
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "GET")
    made = served.request("POST", "/api/repos/create", json={"name": "x", "type": "dataset"})
    assert made.status_code == 400 and "models only" in made.text
    pull = served.request("POST", "/api/models/ada/model/commit/main?create_pr=1", data=HEADER)
    assert pull.status_code == 400 and "pull requests" in pull.text


def test_files_cannot_run_as_pages_of_the_registry(served: Serving, api: HfApi) -> None:
    api.create_repo("ada/model")
    page = b"<script>alert(1)</script>"
    api.upload_file(path_or_fileobj=page, path_in_repo="x.html", repo_id="ada/model")
    answer = served.request("GET", "/ada/model/resolve/main/x.html")
    assert answer.content == page
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]


def test_ranges_are_answered_as_the_rfc_says(served: Serving, api: HfApi) -> None:
    api.create_repo("ada/model")
    data = bytes(range(256)) * 40
    api.upload_file(path_or_fileobj=data, path_in_repo="w.bin", repo_id="ada/model")

    def ask(text: str, **headers: str) -> tuple[int, bytes]:
        answer = served.request(
            "GET", "/ada/model/resolve/main/w.bin", headers={"Range": text, **headers}
        )
        return answer.status_code, answer.content

    assert ask("bytes=0-0") == (206, data[:1])
    assert ask("bytes=100-199") == (206, data[100:200])
    assert ask("bytes=10000-") == (206, data[10000:])
    assert ask("bytes=-5") == (206, data[-5:])
    assert ask("bytes=10239-99999") == (206, data[-1:])
    assert ask("bytes=10240-")[0] == 416
    assert ask("bytes=0-1", **{"If-Range": '"other"'}) == (200, data)
    head = served.request("HEAD", "/ada/model/resolve/main/w.bin")
    assert (head.headers["Content-Length"], head.headers["X-Linked-Size"]) == ("10240", "10240")
    same = served.request(
        "GET", "/ada/model/resolve/main/w.bin", headers={"If-None-Match": head.headers["ETag"]}
    )
    assert (same.status_code, same.content) == (304, b"")


WORDS = st.sampled_from(
    [
        "api",
        "models",
        "repos",
        "create",
        "ada",
        "model",
        "resolve",
        "main",
        "tree",
        "commits",
        "w.bin",
        "..",
        "%2e%2e",
        "%00",
        "%ff",
        "%2F",
        "revision",
        "refs",
        "branch",
        "tag",
        "x y",
        "preupload",
        "commit",
        "paths-info",
        "settings",
        "lfs-object",
        "a" * 300,
        "%E2%82%AC",
        "model.git",
        "info",
        "lfs",
        "objects",
        "batch",
        "verify",
        "lfs-part",
        "lfs-complete",
        "",
    ]
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.sampled_from(["ada/model", "main", "public", "model", "a/../b", "0" * 64, "upload"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "name",
                    "organization",
                    "type",
                    "visibility",
                    "private",
                    "files",
                    "path",
                    "size",
                    "key",
                    "value",
                    "summary",
                    "oid",
                    "objects",
                    "operation",
                    "transfers",
                    "tag",
                    "fromRepo",
                    "toRepo",
                    "gated",
                    "content",
                    "startingPoint",
                    "gitIgnore",
                    "parts",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)
ROUTES = st.sampled_from(
    [
        ("POST", "/api/repos/create"),
        ("DELETE", "/api/repos/delete"),
        ("POST", "/api/repos/move"),
        ("PUT", "/api/models/ada/model/settings"),
        ("POST", "/api/models/ada/model/preupload/main"),
        ("POST", "/api/models/ada/model/commit/main"),
        ("POST", "/api/models/ada/model/branch/x"),
        ("POST", "/api/models/ada/model/tag/main"),
        ("POST", "/api/models/ada/model/paths-info/main"),
        ("POST", "/api/models/ada/model/duplicate"),
        ("POST", "/ada/model.git/info/lfs/objects/batch"),
        ("POST", "/ada/model.git/info/lfs/objects/verify"),
        ("POST", "/api/validate-yaml"),
    ]
)
FUZZ = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FUZZ
@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"]),
    words=st.lists(WORDS, max_size=8),
    query=st.dictionaries(
        st.sampled_from(["cursor", "limit", "sort", "search", "filter", "expand", "signature"]),
        st.text(max_size=20) | st.sampled_from(["W10=", "WzEsMV0=", "-1", "1e9", "lastModified"]),
        max_size=3,
    ),
)
def test_no_address_makes_an_error_of_the_server(
    served: Serving, method: str, words: list[str], query: dict[str, str]
) -> None:
    path = "/" + "/".join(word if "%" in word else quote(word) for word in words)
    text = "&".join(f"{k}={quote(v, errors='replace')}" for k, v in query.items())
    answer = raw_request(served, method, f"{path}?{text}")
    assert 200 <= answer < 500


def raw_request(served: Serving, method: str, target: str) -> int:
    """Sent as it is: an HTTP library would tidy the path up."""
    token = served.tokens["ada"]
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    answer = raw(served, head.encode() + b"Content-Length: 0\r\nConnection: close\r\n\r\n")
    return int(answer.split(b" ", 2)[1])


@FUZZ
@given(route=ROUTES, body=JSON, lines=st.lists(JSON, max_size=3))
def test_no_json_makes_an_error_of_the_server(
    served: Serving, route: tuple[str, str], body: object, lines: list[object]
) -> None:
    method, path = route
    served.request("POST", "/api/repos/create", json={"name": "model"})
    text = json.dumps(body)
    if path.endswith("commit/main"):
        text = HEADER + "\n".join(map(json.dumps, [body, *lines]))
    answer = served.request(method, path, data=text)
    assert answer.status_code < 500, (route, text, answer.text)


@given(st.text(max_size=30))
def test_names_are_read_or_refused(text: str) -> None:
    for parse in (parse_repo, parse_path, parse_branch):
        try:
            assert str(parse(text)) == text
        except BadRequest:
            continue


@given(st.text(max_size=200))
def test_cards_are_read_or_refused(text: str) -> None:
    with suppress(InvalidCard):
        json.dumps(parse_card(f"---\n{text}\n---\n"), allow_nan=False)


PATHS = st.lists(st.sampled_from(["a", "b", "a-", "a0", "a!", "\u00e4"]), min_size=1, max_size=4)


@given(st.sets(PATHS.map("/".join), max_size=12), PATHS.map("/".join))
def test_what_is_below_a_folder_is_what_begins_with_it(paths: set[str], folder: str) -> None:
    tree = Tree(small_entry(path, b"") for path in paths)
    below = {path for path in paths if path.startswith(f"{folder}/")}
    assert {entry.path for entry in tree.under(folder)} == below
    assert [entry.path for entry in tree.under("")] == sorted(paths)


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1]\nb: [*x, *x]",
        "!!python/object/apply:os.system [ls]",
        "- a",
        "[" * 100,
        "a: " + "x" * 70_000,
        "? {a: b}\n: c",
        "a: 2024-99-99",
        "a: 0x" + "f" * 60_000,
        "? 0x" + "f" * 60_000,
    ],
)
def test_cards_that_are_bombs_or_no_mappings_are_refused(text: str) -> None:
    with pytest.raises(InvalidCard):
        parse_card(f"---\n{text}\n---\n")


def test_a_gitignore_takes_no_time_even_when_it_tries() -> None:
    started = time.perf_counter()
    Ignore("**/" * 30 + "*a*b*c*d*e*f\n" + "*" * 400).matches("a/" * 100 + "x" * 100)
    assert time.perf_counter() - started < 1
    many = Ignore("*a*b\n" * 1000)
    with pytest.raises(BadRequest, match="too long"):
        for _ in range(100):
            many.matches("a/" * 63 + "x")
    assert time.perf_counter() - started < 10


def test_a_usual_gitignore_is_read_for_as_many_files_as_a_client_sends() -> None:
    rules = Ignore("\n".join(f"*.{number:x}" for number in range(100)))
    assert not any(rules.matches(f"some/folder/{number}.bin") for number in range(256))
