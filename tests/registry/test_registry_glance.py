"""The quick way to the database answers as the long way does, and is never behind."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from registry_serving import Serving

from hubstate_registry.names import RepoId
from hubstate_registry.storage import Storage, accounts, repositories
from hubstate_registry.storage.glance import Beyond, Glance

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_a_look_at_what_has_changed_does_not_hide_that_it_has(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    before = storage.glance.version()
    with storage.database.write() as connection:
        repositories.create(connection, RepoId(namespace="ada", name="model"))
    assert storage.glance.look(RepoId(namespace="ada", name="model"), branch="main").repository
    assert storage.glance.version() != before
    storage.close()


def test_a_glance_answers_as_the_database_does(
    served: Serving, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model", "secret", "old"):
        api.create_repo(f"ada/{name}", private=name == "secret")
        for path in ("a.txt", "sub/w.bin"):
            file = f"{name} {path}".encode()
            api.upload_file(path_or_fileobj=file, path_in_repo=path, repo_id=f"ada/{name}")
    api.create_branch("ada/model", branch="dev/x")
    api.create_tag("ada/model", tag="v1")
    api.move_repo("ada/old", "ada/new")
    commit = api.model_info("ada/model").sha

    def ask_all() -> list[tuple[int, bytes, dict[str, str]]]:
        with served.storage.database.write() as connection:  # nothing is known any more
            accounts.add_namespace(connection, f"n{time.monotonic_ns()}")
        return [ask(name, rest, user) for name in names for rest in rests for user in users]

    def ask(name: str, rest: str, user: str | None) -> tuple[int, bytes, dict[str, str]]:
        form = {"paths": ["a.txt", "sub", "none"]} if "paths-info" in rest else None
        method = "POST" if form else "HEAD" if "resolve" in rest else "GET"
        place = f"/{name}{rest}" if "resolve" in rest else f"/api/models/{name}{rest}"
        answer = served.request(method, place, user=user, data=form)
        own = {k: v for k, v in answer.headers.items() if k not in ("date", "x-request-id")}
        return answer.status_code, answer.content, own

    names = ("ada/model", "ADA/Model", "ada/secret", "ada/old", "ada/none")
    revisions = ("main", "dev%2Fx", "v1", commit, "none")
    kinds = ("/revision/{}", "/tree/{}", "/tree/{}/sub", "/paths-info/{}", "/resolve/{}/sub/w.bin")
    rests = ["", "?blobs=true", *(kind.format(r) for kind in kinds for r in revisions)]
    users = ("ada", "bob", None)
    quick = ask_all()

    def nothing(*_: object) -> None:
        raise Beyond

    monkeypatch.setattr(Glance, "_row", nothing)
    assert quick == ask_all()
    assert {status for status, _, _ in quick} == {200, 307, 404}
