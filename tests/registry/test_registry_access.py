"""Who may do what, and that nobody learns of what they may not read."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from registry_serving import Serving, serving

from hubstate_registry.auth import Principal, Role
from hubstate_registry.memory import Memory
from hubstate_registry.routes import RULES
from hubstate_registry.storage import Storage, accounts
from hubstate_registry.xet.routes import XetExtension

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
COMMIT = '{"key":"header","value":{"summary":"s"}}\n'
BATCH = {"operation": "upload", "transfers": ["basic"], "objects": []}
LEND = {"target": {"type": "model", "name": "bob/x"}, "files": []}
REQUESTS = [
    ("GET", "/api/models/{id}", {}),
    ("GET", "/api/models/{id}/revision/main", {}),
    ("GET", "/api/models/{id}/tree/main", {}),
    ("GET", "/api/models/{id}/refs", {}),
    ("GET", "/api/models/{id}/commits/main", {}),
    ("GET", "/api/models/{id}/auth-check", {}),
    ("GET", "/api/models/{id}/auth-check/write", {}),
    ("GET", "/api/models/{id}/xet-read-token/main", {}),
    ("GET", "/api/models/{id}/xet-write-token/main", {}),
    ("POST", "/api/models/{id}/lfs-files/duplicate", {"json": LEND}),
    ("POST", "/api/models/{id}/paths-info/main", {"data": {"paths": "w.txt"}}),
    ("POST", "/api/models/{id}/preupload/main", {"json": {"files": []}}),
    ("POST", "/api/models/{id}/commit/main", {"data": COMMIT}),
    ("POST", "/api/models/{id}/branch/x", {"json": {}}),
    ("POST", "/api/models/{id}/tag/main", {"json": {"tag": "x"}}),
    ("DELETE", "/api/models/{id}/branch/x", {}),
    ("DELETE", "/api/models/{id}/tag/x", {}),
    ("PUT", "/api/models/{id}/settings", {"json": {"visibility": "public"}}),
    ("POST", "/api/models/{id}/duplicate", {"json": {"repository": "bob/x"}}),
    ("POST", "/{id}.git/info/lfs/objects/batch", {"json": BATCH}),
    ("POST", "/{id}.git/info/lfs/objects/verify", {"json": {"oid": "0" * 64, "size": 1}}),
    ("HEAD", "/{id}/resolve/main/w.txt", {}),
    ("GET", "/{id}/resolve/main/w.txt", {}),
    ("GET", "/{id}/resolve/0000000000000000000000000000000000000000/w.txt", {}),
    ("GET", "/{id}/resolve/main/w.txt", {"headers": {"Range": "bytes=0-0"}}),
    ("DELETE", "/api/repos/delete", {"json": {"organization": "ada", "name": "{name}"}}),
    ("POST", "/api/repos/move", {"json": {"fromRepo": "{id}", "toRepo": "bob/x"}}),
]


def filled(value: object, name: str) -> object:
    text = json.dumps(value).replace("{id}", f"ada/{name}").replace("{name}", name)
    return json.loads(text)


def seen(served: Serving, name: str, user: str | None) -> list[object]:
    """Every answer about a repository, without what differs between any two requests."""
    answers: list[object] = []
    for method, path, options in REQUESTS:
        options = filled(options, name)
        assert isinstance(options, dict)
        answer = served.request(method, path.format(id=f"ada/{name}"), user=user, **options)
        headers = {k.lower(): v for k, v in answer.headers.items()}
        kept = {k: v for k, v in headers.items() if k not in ("date", "x-request-id")}
        whole = json.dumps([method, path, answer.status_code, kept, answer.text])
        answers.append(json.loads(whole.replace(name, "NAME")))
    return answers


def test_every_route_of_a_repository_is_among_the_requests() -> None:
    asked = {(method.replace("HEAD", "GET"), path.format(id="a/b")) for method, path, _ in REQUESTS}
    patterns = {(r.method, r.pattern) for r in RULES if "{repo}" in r.pattern}
    for method, pattern in patterns:
        regex = re.sub(r"/?\\{path\\}", ".*", re.escape(pattern)).replace(r"\{repo\}", "a/b")
        regex = re.sub(r"\\{\w+\\}", "[^/]+", regex)
        assert any(m == method and re.fullmatch(regex, p) for m, p in asked), (method, pattern)


@pytest.mark.parametrize("user", ["bob", None])
def test_a_private_repository_answers_exactly_like_an_absent_one(
    tmp_path: Path, user: str | None
) -> None:
    with serving(tmp_path / "registry", extensions=[XetExtension]) as served:
        compare(served, user)


def compare(served: Serving, user: str | None) -> None:
    api = served.api()
    api.create_repo("ada/hidden", private=True)
    api.upload_file(path_or_fileobj=b"w", path_in_repo="w.txt", repo_id="ada/hidden")
    hidden, absent = seen(served, "hidden", user), seen(served, "absent", user)
    assert hidden == absent
    assert {answer[2] for answer in hidden} <= {401, 403, 404}
    assert sum(answer[3].get("x-error-code") == "RepoNotFound" for answer in hidden) >= 19


@pytest.mark.parametrize("user", ["bob", None])
def test_a_private_repository_takes_the_database_as_long_as_an_absent_one(
    served: Serving, api: HfApi, user: str | None
) -> None:
    api.create_repo("ada/hidden", private=True)
    api.upload_file(path_or_fileobj=b"w", path_in_repo="w.txt", repo_id="ada/hidden")
    statements: list[str] = []

    def note(_1: object, _2: object, statement: str, *_: object) -> None:
        statements.append(statement)

    def asked(name: str) -> list[list[str]]:
        found = []
        for method, path, options in REQUESTS:
            statements.clear()
            options = filled(options, name)
            assert isinstance(options, dict)
            served.request(method, path.format(id=f"ada/{name}"), user=user, **options)
            found.append([s for s in statements if s.startswith("SELECT")])
        return found

    sa.event.listen(served.storage.database.engine, "before_cursor_execute", note)
    for name in ("one", "two"):
        assert served.request("GET", "/api/models/ada/hidden").status_code == 200  # it is known
        api.create_repo(f"ada/{name}")  # and of all else is now known nothing
        served.request("GET", "/api/whoami-v2", user=user)  # but who asks
        first, again = (asked("hidden") for _ in range(2))
        assert (first, again) == tuple(asked("absent") for _ in range(2))
        assert any(first)


def test_what_one_caller_calls_the_server_is_told_to_no_other(tmp_path: Path) -> None:
    """Clients send their token to the address of the next page."""
    with serving(tmp_path / "registry", extensions=[XetExtension]) as served:
        api = served.api()
        for name in ("ada/model", "ada/other"):
            api.create_repo(name)
        files = [CommitOperationAdd(f"{number}.txt", b"same") for number in range(1001)]
        api.create_commit("ada/model", files, commit_message="m")
        batch = {**BATCH, "objects": [{"oid": hashlib.sha256(b"w").hexdigest(), "size": 1}]}
        told = served.request("POST", "/ada/other.git/info/lfs/objects/batch", json=batch).json()
        href = told["objects"][0]["actions"]["upload"]["href"]
        assert served.request("PUT", href, user=None, data=b"w").status_code == 200
        file = {"path": "w.bin", "oid": hashlib.sha256(b"w").hexdigest()}
        body = COMMIT + json.dumps({"key": "lfsFile", "value": file})
        served.request("POST", "/api/models/ada/other/commit/main", data=body)
        with served.storage.database.write() as connection:
            connection.exec_driver_sql(f"UPDATE blobs SET xet = '{'a' * 64}' WHERE size = 1")
        for path in (
            "/api/models?limit=1",
            "/api/models/ada/model/tree/main",
            "/ada/other/resolve/main/w.bin",
        ):
            for host in ("evil.example", None, "evil.example", None):
                headers = {} if host is None else {"Host": host}
                link = served.request("HEAD", path, user="bob", headers=headers).headers["Link"]
                assert ("evil.example" in link) == (host is not None), (path, link)


def test_a_moved_private_repository_redirects_only_those_who_may_read_it(
    served: Serving, api: HfApi
) -> None:
    api.create_repo("ada/before", private=True)
    api.move_repo("ada/before", "ada/after")
    mine = served.request("GET", "/api/models/ada/before/tree/main?recursive=true")
    assert (mine.status_code, mine.headers["Location"]) == (
        307,
        "/api/models/ada/after/tree/main?recursive=true",
    )
    assert served.request("GET", "/api/models/ada/before", user="bob").status_code == 404
    assert served.request("GET", "/api/models/ada/before", user=None).status_code == 404


def test_a_hash_is_no_key_to_private_bytes(served: Serving, api: HfApi) -> None:
    secret = b"private bytes" * 1000
    oid = hashlib.sha256(secret).hexdigest()
    api.create_repo("ada/hidden", private=True)
    api.upload_file(path_or_fileobj=secret, path_in_repo="w.bin", repo_id="ada/hidden")
    served.api("bob").create_repo("bob/thief")
    batch = {**BATCH, "objects": [{"oid": oid, "size": len(secret)}]}
    answer = served.request("POST", "/bob/thief.git/info/lfs/objects/batch", user="bob", json=batch)
    assert "upload" in answer.json()["objects"][0]["actions"]  # as if nobody had it
    line = {"key": "lfsFile", "value": {"path": "w.bin", "algo": "sha256", "oid": oid}}
    body = COMMIT + json.dumps(line)
    stolen = served.request("POST", "/api/models/bob/thief/commit/main", user="bob", data=body)
    assert stolen.status_code == 400
    assert served.api("bob").list_repo_files("bob/thief") == []
    # Whoever has the bytes may send them, and then both repositories hold them.
    served.api("bob").upload_file(path_or_fileobj=secret, path_in_repo="w.bin", repo_id="bob/thief")
    assert served.api("bob").file_exists("bob/thief", "w.bin")


def test_bytes_that_one_may_read_need_not_be_sent_again(served: Serving, api: HfApi) -> None:
    data = b"public bytes" * 1000
    oid = hashlib.sha256(data).hexdigest()
    api.create_repo("ada/open")
    api.upload_file(path_or_fileobj=data, path_in_repo="w.bin", repo_id="ada/open")
    served.api("bob").create_repo("bob/copy")
    batch = {**BATCH, "objects": [{"oid": oid, "size": len(data)}]}
    answer = served.request("POST", "/bob/copy.git/info/lfs/objects/batch", user="bob", json=batch)
    assert "actions" not in answer.json()["objects"][0]


def scoped(served: Serving, user: str, *, seconds: float | None = None, **scopes: Role) -> HfApi:
    named = {name.replace("everywhere", "*"): role for name, role in scopes.items()}
    with served.storage.database.write() as connection:
        secret = accounts.create_token(connection, user, scopes=named, seconds=seconds)
    return HfApi(endpoint=served.url, token=secret)


def test_a_token_does_no_more_than_its_scopes(served: Serving, api: HfApi) -> None:
    with served.storage.database.write() as connection:
        accounts.add_namespace(connection, "lab", kind="organisation")
        accounts.set_member(connection, "ada", organisation="lab", role=Role.WRITE)
    api.create_repo("lab/model", private=True)
    api.create_repo("ada/model", private=True)
    reader = scoped(served, "ada", everywhere=Role.READ)
    assert reader.model_info("lab/model").private
    with pytest.raises(HfHubHTTPError, match="no write access"):
        reader.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id="ada/model")
    narrow = scoped(served, "ada", lab=Role.ADMIN)
    narrow.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id="lab/model")
    assert [m.id for m in narrow.list_models()] == ["lab/model"]
    with pytest.raises(RepositoryNotFoundError):
        narrow.model_info("ada/model")
    with pytest.raises(HfHubHTTPError, match="no admin access"):
        narrow.delete_repo("lab/model")  # the token might, but its user is a writer there
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_repo("bob/model")
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_repo("nobody/model")


def test_expired_revoked_and_disabled_tokens_are_refused(served: Serving) -> None:
    assert scoped(served, "bob", everywhere=Role.READ).whoami()["name"] == "bob"
    for broken in ("expired", "revoked", "disabled"):
        client = scoped(
            served, "bob", seconds=-1 if broken == "expired" else None, everywhere=Role.READ
        )
        with served.storage.database.write() as connection:
            if broken == "revoked":
                newest = accounts.list_tokens(connection, "bob")[-1]
                accounts.revoke_token(connection, newest.id)
            if broken == "disabled":
                accounts.disable_user(connection, "bob")
        with pytest.raises(HfHubHTTPError) as refused:
            client.whoami()
        assert refused.value.response.status_code == 401
    assert served.request("GET", "/api/models", user="bob").status_code == 401


def test_no_secret_is_stored(served: Serving) -> None:
    served.storage.close()
    everything = b"".join(p.read_bytes() for p in served.folder.glob("registry.sqlite3*"))
    assert all(token.encode() not in everything for token in served.tokens.values())


def test_the_files_of_a_gated_repository_are_for_members(served: Serving, api: HfApi) -> None:
    api.create_repo("ada/model")
    api.upload_file(path_or_fileobj=b"w", path_in_repo="w.bin", repo_id="ada/model")
    api.update_repo_settings("ada/model", gated="manual")
    bob = served.api("bob")
    assert bob.model_info("ada/model").gated == "manual"
    with pytest.raises(GatedRepoError):
        bob.auth_check("ada/model")
    assert served.request("GET", "/ada/model/resolve/main/w.bin", user="bob").status_code == 403
    assert served.request("GET", "/ada/model/resolve/main/w.bin").content == b"w"


def test_a_closed_registry_shows_nothing_to_strangers(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with serving(tmp_path_factory.mktemp("closed"), anonymous=False) as closed:
        closed.api().create_repo("ada/open")
        assert closed.request("GET", "/api/models/ada/open", user=None).status_code == 404
        assert closed.request("GET", "/api/models", user=None).json() == []
        assert closed.request("GET", "/api/models/ada/open", user="bob").status_code == 200


def test_a_commit_cannot_name_bytes_of_another_size(served: Serving, api: HfApi) -> None:
    api.create_repo("ada/model")
    api.create_commit("ada/model", [CommitOperationAdd("w.bin", b"w")], commit_message="w")
    oid = hashlib.sha256(b"w").hexdigest()
    line = {"key": "lfsFile", "value": {"path": "x.bin", "algo": "sha256", "oid": oid, "size": 2}}
    body = COMMIT + json.dumps(line)
    answer = served.request("POST", "/api/models/ada/model/commit/main", data=body)
    assert answer.status_code == 422


def test_no_kept_answer_outlives_a_change(served: Serving, api: HfApi) -> None:
    api.create_repo("ada/model")
    for number in range(5):
        commit = api.upload_file(
            path_or_fileobj=f"{number}".encode(), path_in_repo="a.txt", repo_id="ada/model"
        )
        for _ in range(2):
            assert served.request("GET", "/api/models/ada/model").json()["sha"] == commit.oid
            answer = served.request("GET", "/ada/model/resolve/main/a.txt", user="bob")
            assert answer.text == f"{number}"
    api.update_repo_settings("ada/model", private=True)
    for path in ("/ada/model/resolve/main/a.txt", "/api/models/ada/model"):
        assert served.request("GET", path, user="bob").status_code == 404
        assert served.request("GET", path, user=None).status_code == 404
        assert served.request("GET", path).status_code == 200


def test_what_was_found_out_before_a_change_is_not_kept_after_it(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    memory = Memory(storage.glance)
    memory.refresh()
    before = memory.principals
    before.keep(b"Bearer secret", Principal(user="ada"))
    assert memory.principals.find(b"Bearer secret") == Principal(user="ada")
    with storage.database.write() as connection:
        accounts.add_namespace(connection, "ada")
    memory.refresh()
    before.keep(b"Bearer secret", Principal(user="ada"))
    assert memory.principals.find(b"Bearer secret") is None
    memory.principals.keep(b"Bearer secret", Principal(user="ada", expires=1.0))
    assert memory.principals.find(b"Bearer secret") is None
    storage.close()


def test_large_files_are_lent_to_those_who_may_read_them(served: Serving, api: HfApi) -> None:
    data = b"lent bytes" * 1000
    oid = hashlib.sha256(data).hexdigest()
    api.create_repo("ada/source", private=True)
    api.create_repo("ada/target")
    served.api("bob").create_repo("bob/target")
    api.upload_file(path_or_fileobj=data, path_in_repo="w.bin", repo_id="ada/source")

    def lend(user: str, target: str, digest: str) -> tuple[int, object]:
        body = {"target": {"type": "model", "name": target}, "files": [{"sha256": digest}]}
        answer = served.request(
            "POST", "/api/models/ada/source/lfs-files/duplicate", user=user, json=body
        )
        return answer.status_code, answer.json().get("failed")

    assert lend("bob", "bob/target", oid)[0] == 404
    assert lend("ada", "bob/target", oid)[0] == 403
    assert lend("ada", "ada/target", oid) == (200, [])
    status, failed = lend("ada", "ada/target", "0" * 64)
    assert status == 200 and failed
    line = {"key": "lfsFile", "value": {"path": "w.bin", "algo": "sha256", "oid": oid}}
    served.request("POST", "/api/models/ada/target/commit/main", data=COMMIT + json.dumps(line))
    assert served.request("GET", "/ada/target/resolve/main/w.bin", user="bob").content == data
