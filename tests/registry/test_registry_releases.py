"""Many references in one question: each is answered as if it were asked alone."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from huggingface_hub import CommitOperationAdd, HfApi
from registry_serving import Serving, serving

from hubstate import warm

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
PLACE = "/api/hubstate/releases"


def put(api: HfApi, repo: str, files: Mapping[str, bytes], **options: Any) -> None:
    api.create_repo(repo, exist_ok=True, **options)
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    api.create_commit(repo, operations, commit_message="m")


def ask(
    served: Serving, repos: Sequence[str], *, inline: int = 0, user: str | None = "ada"
) -> list[dict[str, Any]]:
    rows = [dict(zip(("repo", "revision"), repo.split("@"), strict=True)) for repo in repos]
    body = {"releases": rows, "inline": inline}
    answer = served.request("POST", PLACE, user=user, json=body)
    assert answer.status_code == 200, answer.text
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert len(lines) == len(repos)
    return lines


def test_each_is_answered_as_if_it_were_asked_alone(served: Serving, api: HfApi) -> None:
    put(api, "ada/one", {"a.txt": "é".encode(), "sub/b.txt": b"b"})
    put(api, "ada/two", {"c.txt": b"c"})
    api.create_branch("ada/two", branch="dev/x")
    commit = api.model_info("ada/one").sha
    names = ["ada/two@dev/x", "ada/one@main", f"ada/one@{commit}", "ADA/One@main"]
    for _ in range(2):  # found out, and remembered
        lines = ask(served, names)
        for name, line in zip(names, lines, strict=True):
            repo, _, revision = name.partition("@")
            path = f"/api/models/{repo}/revision/{revision.replace('/', '%2F')}?blobs=true"
            assert line == {"info": served.request("GET", path).json(), "files": {}}


def test_small_texts_come_along_and_nothing_else(served: Serving, api: HfApi) -> None:
    files = {"a.txt": "é".encode(), "long.txt": b"x" * 101, "odd.dat": b"\xff\xfe", "w.bin": b"w"}
    put(api, "ada/one", files)
    (line,) = ask(served, ["ada/one@main"], inline=100)
    assert line["files"] == {"a.txt": "é"}
    stated = {row["rfilename"]: row.get("sha256") for row in line["info"]["siblings"]}
    assert all(stated[name] for name in ("a.txt", "long.txt", "odd.dat"))


def test_a_warm_up_takes_one_question_and_a_request_for_each_large_file(
    served: Serving, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        put(api, f"ada/{name}", {"README.md": name.encode(), "w.bin": name.encode() * 1000})
    monkeypatch.setenv("HUBSTATE_REGISTRY", served.url)
    monkeypatch.setenv("HUBSTATE_TOKEN", served.tokens["ada"])
    seen: list[str] = []
    note = served.application.registry.metrics.note
    monkeypatch.setattr(
        served.application.registry.metrics,
        "note",
        lambda route, *rest, **more: (seen.append(route), note(route, *rest, **more)),
    )
    proofs = warm.warm(warm.named(["ada/one", "ada/two"]))
    assert all(proof.complete for proof in proofs)
    end = time.monotonic() + 2  # a request is noted when its answer was sent
    while len(asked := [r for r in seen if "/commit/" not in r]) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    assert sorted(asked) == [PLACE, *["/{repo}/resolve/{revision}/{path}"] * 2]


def test_what_no_single_request_would_tell_is_not_told(served: Serving, api: HfApi) -> None:
    put(api, "ada/open", {"a.txt": b"a"})
    put(api, "ada/hidden", {"a.txt": b"a"}, private=True)
    put(api, "ada/gated", {"a.txt": b"a"})
    api.update_repo_settings("ada/gated", gated="auto")
    api.move_repo("ada/open", "ada/moved")
    refused = {"status": 404, "code": "RepoNotFound"}
    names = ["ada/hidden@main", "ada/absent@main", "ada/gated@main", "ada/moved@main"]
    for user in ("bob", None):
        hidden, absent, gated, moved = ask(served, names, inline=9, user=user)
        assert hidden == absent == refused
        assert (gated["info"]["gated"], gated["files"]) == ("auto", {})
        assert moved["files"] == {"a.txt": "a"}
    assert all(line["files"] == {"a.txt": "a"} for line in ask(served, names[2:], inline=9))
    odd = ask(served, ["ada/open@main", "ada/moved@never", "../x@main", "ada/moved@\0"])
    assert odd == [
        {"status": 307},
        {"status": 404, "code": "RevisionNotFound"},
        {"status": 400},
        {"status": 400},
    ]


def test_a_token_that_means_nothing_is_refused(served: Serving) -> None:
    wrong = {"Authorization": "Bearer wrong"}
    answer = served.request("POST", PLACE, user=None, headers=wrong, json={"releases": []})
    assert answer.status_code == 401


def test_a_registry_that_knows_nobody_without_a_token_tells_them_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, anonymous=False) as served:
        put(served.api(), "ada/one", {"a.txt": b"a"})
        told = ask(served, ["ada/one@main", "ada/absent@main"], inline=9, user=None)
        assert told == [{"status": 404, "code": "RepoNotFound"}] * 2


@pytest.mark.parametrize("user", ["bob", None])
def test_a_private_one_takes_the_database_as_long_as_an_absent_one(
    served: Serving, api: HfApi, user: str | None
) -> None:
    put(api, "ada/hidden", {"a.txt": b"a"}, private=True)
    statements: list[str] = []

    def note(_1: object, _2: object, statement: str, *_: object) -> None:
        statements.append(statement)

    def asked(repo: str) -> list[str]:
        statements.clear()
        ask(served, [f"{repo}@main"], user=user)
        return [s for s in statements if s.startswith("SELECT")]

    served.request("GET", "/api/whoami-v2", user=user)
    sa.event.listen(served.storage.database.engine, "before_cursor_execute", note)
    assert asked("ada/hidden") == asked("ada/absent") != []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"{}", 400),
        (b'{"releases": {}}', 400),
        (b'{"releases": [1]}', 400),
        (b'{"releases": [{"repo": "a/b"}]}', 400),
        (b'{"releases": [{"repo": "a/b", "revision": 1}]}', 400),
        (b'{"releases": [{"repo": "a/\\ud800", "revision": "main"}]}', 400),
        (b'{"releases": [], "inline": -1}', 400),
        (b'{"releases": [], "inline": true}', 400),
        (b'{"releases": [], "inline": 1.5}', 400),
        (json.dumps({"releases": [{"repo": "a/b", "revision": "main"}] * 101}).encode(), 413),
        (b'{"releases": []}', 200),
    ],
)
def test_bodies_that_mean_nothing_are_refused(served: Serving, body: bytes, status: int) -> None:
    assert served.request("POST", PLACE, data=body).status_code == status


def test_each_counts_as_a_request(tmp_path: Path) -> None:
    with serving(tmp_path, requests_per_minute=20) as served:
        body = {"releases": [{"repo": "a/b", "revision": "main"}] * 12}
        codes = [served.request("POST", PLACE, json=body).status_code for _ in range(3)]
        assert codes == [200, 429, 429]
        late = served.request("POST", PLACE, json=body)
        assert 1 <= int(late.headers["Retry-After"]) <= 60
        body = {"releases": [{"repo": "a/b", "revision": "main"}] * 100}
        assert served.request("POST", PLACE, json=body, user="bob").status_code == 200


def test_an_answer_has_at_most_so_much_of_files(served: Serving, api: HfApi) -> None:
    put(api, "ada/one", {f"{at}.txt": bytes([97 + at]) * (1 << 20) for at in range(5)})
    lines = ask(served, ["ada/one@main"] * 4, inline=1 << 30)
    assert [len(line["files"]) for line in lines] == [5, 5, 5, 1]
