"""What the unmodified stock client does against the registry, a real server on loopback."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from registry_serving import Serving, serving

from hubstate_registry.names import parse_repo
from hubstate_registry.storage import commits, repositories
from hubstate_registry.storage.references import Actor

# The stock client's own: it sends a file in a way that its HTTP library has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
README = b"---\nlicense: mit\ntags: [vision, small]\nlibrary_name: hubstate\n---\n# Model\n"


def weights(size: int, *, seed: int = 1) -> bytes:
    return hashlib.shake_128(bytes([seed])).digest(size)


def test_whoami_names_the_user_and_the_token(api: HfApi) -> None:
    me = api.whoami()
    assert me["name"] == "ada"
    assert me["auth"]["accessToken"] == {"displayName": "token", "role": "admin"}


def test_a_repository_is_made_moved_hidden_and_deleted(served: Serving, api: HfApi) -> None:
    url = api.create_repo("ada/one", private=True)
    assert (url.repo_id, url.endpoint) == ("ada/one", served.url)
    assert api.create_repo("one", exist_ok=True).repo_id == "ada/one"
    with pytest.raises(HfHubHTTPError, match="already created"):
        api.create_repo("ada/one")
    assert api.model_info("ada/one").private
    api.update_repo_settings("ada/one", private=False, gated="auto")
    info = served.api("bob").model_info("ada/one")
    assert (info.private, info.gated) == (False, "auto")
    api.move_repo("ada/one", "ada/two")
    assert api.model_info("ada/one").id == "ada/two"
    api.delete_repo("ada/two")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("ada/two")
    assert not api.repo_exists("ada/one")
    api.delete_repo("ada/two", missing_ok=True)


def test_an_old_id_goes_on_working_until_it_is_taken(api: HfApi, tmp_path: Path) -> None:
    api.create_repo("ada/before")
    api.move_repo("ada/before", "ada/after")
    for path, data in (("a.txt", b"small"), ("w.bin", weights(2 << 20))):
        api.upload_file(path_or_fileobj=data, path_in_repo=path, repo_id="ada/before")
        got = api.hf_hub_download("ada/before", path, local_dir=tmp_path)
        assert Path(got).read_bytes() == data
    api.create_tag("ada/before", tag="v1")
    api.update_repo_settings("ada/before", private=True)
    assert api.list_repo_files("ada/after", revision="v1") == ["a.txt", "w.bin"]
    assert api.model_info("ada/after").private
    api.create_repo("ada/before")
    assert api.list_repo_files("ada/before") == []


def test_files_come_back_as_they_were_sent(api: HfApi, tmp_path: Path) -> None:
    api.create_repo("ada/model")
    content = {"README.md": README, "model.safetensors": weights(3 << 20), "a/b/c.json": b"{}"}
    for path, data in content.items():
        api.upload_file(path_or_fileobj=data, path_in_repo=path, repo_id="ada/model")
    folder = Path(api.snapshot_download("ada/model", cache_dir=tmp_path / "cache"))
    assert {p: (folder / p).read_bytes() for p in content} == content
    one = api.hf_hub_download("ada/model", "a/b/c.json", local_dir=tmp_path / "local")
    assert Path(one).read_bytes() == b"{}"


def test_a_folder_is_one_commit_and_the_same_again_is_none(api: HfApi, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "README.md").write_bytes(README)
    (folder / "sub" / "model.safetensors").write_bytes(weights(70_000))
    (folder / ".gitignore").write_text("*.log\n")
    (folder / "x.log").write_text("not this")
    api.create_repo("ada/model")
    first = api.upload_folder(folder_path=folder, repo_id="ada/model", commit_message="All")
    assert api.list_repo_files("ada/model") == [
        ".gitignore",
        "README.md",
        "sub/model.safetensors",
    ]
    again = api.upload_folder(folder_path=folder, repo_id="ada/model")
    assert again.oid == first.oid
    assert [c.title for c in api.list_repo_commits("ada/model")] == ["All", "initial commit"]


def test_one_commit_adds_copies_and_deletes(api: HfApi) -> None:
    api.create_repo("ada/model")
    data = weights(50_000)
    api.create_commit(
        "ada/model",
        [
            CommitOperationAdd("a.bin", data),
            CommitOperationAdd("b.txt", b"text"),
            CommitOperationAdd("old/x.txt", b"x"),
            CommitOperationAdd("empty.bin", b""),
        ],
        commit_message="Add",
        commit_description="Long words",
    )
    info = api.create_commit(
        "ada/model",
        [
            CommitOperationCopy("a.bin", "copy.bin"),
            CommitOperationCopy("b.txt", "copy.txt"),
            CommitOperationDelete("old/"),
            CommitOperationDelete("b.txt"),
        ],
        commit_message="Change",
    )
    assert info.oid == api.model_info("ada/model").sha
    assert sorted(api.list_repo_files("ada/model")) == [
        "a.bin",
        "copy.bin",
        "copy.txt",
        "empty.bin",
    ]
    (copy,) = api.get_paths_info("ada/model", ["copy.bin"])
    assert (copy.lfs.sha256, copy.size) == (hashlib.sha256(data).hexdigest(), 50_000)
    with pytest.raises(EntryNotFoundError, match="doesn't exist"):
        api.delete_file("no.txt", "ada/model")
    api.delete_files("ada/model", ["*.bin"])
    assert api.list_repo_files("ada/model") == ["copy.txt"]


def test_a_stale_parent_is_refused_and_changes_nothing(api: HfApi) -> None:
    api.create_repo("ada/model")
    old = api.model_info("ada/model").sha
    new = api.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id="ada/model")
    with pytest.raises(HfHubHTTPError) as refused:
        api.upload_file(
            path_or_fileobj=b"2", path_in_repo="a.txt", repo_id="ada/model", parent_commit=old
        )
    assert refused.value.response.status_code == 412
    assert api.model_info("ada/model").sha == new.oid
    api.upload_file(
        path_or_fileobj=b"2", path_in_repo="a.txt", repo_id="ada/model", parent_commit=new.oid
    )


def test_branches_and_tags_are_made_read_and_removed(api: HfApi) -> None:
    api.create_repo("ada/model")
    api.create_branch("ada/model", branch="dev/x")
    commit = api.upload_file(
        path_or_fileobj=b"1", path_in_repo="a.txt", repo_id="ada/model", revision="dev/x"
    )
    api.create_tag("ada/model", tag="v1.0", revision="dev/x", tag_message="First")
    refs = api.list_repo_refs("ada/model", include_pull_requests=True)
    assert [b.name for b in refs.branches] == ["main", "dev/x"]
    assert [(t.name, t.ref, t.target_commit) for t in refs.tags] == [
        ("v1.0", "refs/tags/v1.0", commit.oid)
    ]
    assert api.list_repo_files("ada/model", revision="v1.0") == ["a.txt"]
    assert api.list_repo_files("ada/model", revision=commit.oid[:7]) == ["a.txt"]
    assert api.list_repo_files("ada/model") == []
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag("ada/model", tag="v1.0")
    api.create_branch("ada/model", branch="dev/x", exist_ok=True)
    api.delete_branch("ada/model", branch="dev/x")
    api.delete_tag("ada/model", tag="v1.0")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("ada/model", revision="dev/x")
    with pytest.raises(HfHubHTTPError, match="403"):
        api.delete_branch("ada/model", branch="main")
    assert not api.revision_exists("ada/model", "v1.0")


def test_the_tree_shows_folders_sizes_and_last_commits(api: HfApi) -> None:
    api.create_repo("ada/model")
    api.create_commit(
        "ada/model",
        [CommitOperationAdd("a/b/c.txt", b"c"), CommitOperationAdd("a/w.bin", b"w" * 10)],
        commit_message="One",
    )
    api.upload_file(
        path_or_fileobj=b"d", path_in_repo="a/d.txt", repo_id="ada/model", commit_message="Two"
    )
    flat = list(api.list_repo_tree("ada/model", "a", expand=True))
    assert [(e.path, e.last_commit.title) for e in flat] == [
        ("a/b", "One"),
        ("a/d.txt", "Two"),
        ("a/w.bin", "One"),
    ]
    everything = list(api.list_repo_tree("ada/model", recursive=True))
    assert [e.path for e in everything] == ["a", "a/b", "a/b/c.txt", "a/d.txt", "a/w.bin"]
    found = api.get_paths_info("ada/model", ["a", "a/w.bin", "missing"], expand=True)
    assert [e.path for e in found] == ["a", "a/w.bin"]
    assert found[0].last_commit.title == "Two"
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree("ada/model", "nowhere"))


def test_model_info_tells_files_sizes_and_the_card(api: HfApi) -> None:
    api.create_repo("ada/model")
    api.upload_file(path_or_fileobj=README, path_in_repo="README.md", repo_id="ada/model")
    api.upload_file(path_or_fileobj=b"w" * 10, path_in_repo="w.bin", repo_id="ada/model")
    info = api.model_info("ada/model", files_metadata=True)
    readme, w = info.siblings
    assert (readme.rfilename, readme.size, readme.lfs) == ("README.md", len(README), None)
    assert w.lfs.sha256 == hashlib.sha256(b"w" * 10).hexdigest()
    assert info.card_data.license == "mit"
    assert info.tags == ["hubstate", "vision", "small", "license:mit"]
    assert (info.library_name, info.author) == ("hubstate", "ada")
    only = api.model_info("ada/model", expand=["lastModified"])
    assert only.last_modified is not None and only.siblings is None


def test_models_are_searched_filtered_sorted_and_paged(served: Serving, api: HfApi) -> None:
    for name in ("alpha", "beta", "gamma"):
        api.create_repo(f"ada/{name}")
    served.api("bob").create_repo("bob/beta-two")
    served.api("bob").create_repo("bob/secret", private=True)
    api.upload_file(path_or_fileobj=README, path_in_repo="README.md", repo_id="ada/alpha")

    def ids(**query: object) -> list[str]:
        return [model.id for model in api.list_models(**query)]

    assert ids()[0] == "ada/alpha" and "bob/secret" not in ids()
    assert "bob/secret" in [m.id for m in served.api("bob").list_models()]
    assert "bob/secret" in [m.id for m in served.api("root").list_models()]
    assert ids(search="BETA", sort="created_at") == ["bob/beta-two", "ada/beta"]
    assert sorted(ids(author="ada")) == ["ada/alpha", "ada/beta", "ada/gamma"]
    assert ids(filter=["vision", "license:mit"]) == ["ada/alpha"]
    assert ids(filter=["vision", "license:gpl"]) == []
    assert ids(sort="downloads", limit=2) == ids()[:2]
    (full,) = api.list_models(search="alpha", cardData=True)
    assert full.card_data.license == "mit"
    page = served.request("GET", "/api/models?limit=2")
    following = served.request("GET", page.links["next"]["url"])
    assert [m["id"] for m in page.json() + following.json()] == ids()
    assert "next" not in following.links


def test_a_long_list_of_models_comes_in_pages(served: Serving, api: HfApi) -> None:
    names = [f"ada/m{number:03}" for number in range(450)]
    with served.storage.database.write() as connection:
        for name in names:
            made = repositories.create(connection, parse_repo(name), private=name[-1] == "7")
            commits.start(connection, made, actor=Actor(user="ada", token="", request=""))
    assert sorted(model.id for model in api.list_models(author="ada")) == names
    assert len(list(served.api("bob").list_models(search="M", sort="created_at"))) == 405
    assert len(list(api.list_models(limit=250))) == 250


def test_long_histories_and_trees_come_in_pages(api: HfApi) -> None:
    api.create_repo("ada/model")
    files = [CommitOperationAdd(f"f{i:04}.txt", b"same") for i in range(1050)]
    api.create_commit("ada/model", files, commit_message="Many")
    for i in range(55):
        api.create_branch("ada/model", branch=f"b{i}")
        api.upload_file(path_or_fileobj=f"{i}".encode(), path_in_repo="n.txt", repo_id="ada/model")
    assert len(api.list_repo_commits("ada/model")) == 57
    assert len(api.list_repo_files("ada/model")) == 1051


def test_the_file_system_reads_ranges_and_writes(served: Serving, api: HfApi) -> None:
    api.create_repo("ada/model")
    data = weights(200_000)
    fs = HfFileSystem(endpoint=served.url, token=served.tokens["ada"], skip_instance_cache=True)
    with fs.open("ada/model/w.bin", "wb") as file:
        file.write(data)
    with fs.open("ada/model/w.bin", "rb", block_size=1 << 12) as file:
        file.seek(100_000)
        assert file.read(5000) == data[100_000:105_000]
    assert fs.cat_file("ada/model/w.bin", start=10, end=20) == data[10:20]
    assert fs.ls("ada/model", detail=False) == ["ada/model/w.bin"]
    assert fs.info("ada/model/w.bin")["size"] == 200_000
    fs.cp_file("ada/model/w.bin", "ada/model/sub/copy.bin")
    fs.pipe_file("ada/model/sub/a.txt", b"a")
    fs.mv("ada/model/sub/a.txt", "ada/model/b.txt")
    found = ["ada/model/b.txt", "ada/model/sub/copy.bin", "ada/model/w.bin"]
    assert fs.find("ada/model", refresh=True) == found
    fs.rm("ada/model/w.bin")
    assert not fs.exists("ada/model/w.bin")


def test_large_files_go_in_parts(tmp_path: Path, served: Serving) -> None:
    with serving(tmp_path / "parts", multipart_bytes=100_000, part_bytes=64_000) as small:
        api = small.api()
        api.create_repo("ada/model")
        data = weights(300_001)
        api.upload_file(path_or_fileobj=data, path_in_repo="w.bin", repo_id="ada/model")
        path = api.hf_hub_download("ada/model", "w.bin", local_dir=tmp_path / "local")
        assert Path(path).read_bytes() == data
        assert not list((tmp_path / "parts" / "uploads").iterdir())


def test_a_repository_is_duplicated_with_all_it_has(api: HfApi) -> None:
    api.create_repo("ada/model")
    commit = api.upload_file(path_or_fileobj=b"w", path_in_repo="w.bin", repo_id="ada/model")
    api.create_tag("ada/model", tag="v1")
    assert api.duplicate_repo("ada/model", "ada/twin").repo_id == "ada/twin"
    api.delete_repo("ada/model")
    assert api.model_info("ada/twin", revision="v1").sha == commit.oid


def test_a_card_that_is_no_yaml_is_refused_before_the_upload(api: HfApi) -> None:
    api.create_repo("ada/model")
    with pytest.raises(ValueError, match="Invalid metadata"):
        api.upload_file(
            path_or_fileobj=b"---\na: [\n---\n", path_in_repo="README.md", repo_id="ada/model"
        )


def test_auth_check_and_missing_names_raise_what_they_should(served: Serving, api: HfApi) -> None:
    api.create_repo("ada/model", private=True)
    api.auth_check("ada/model", write=True)
    with pytest.raises(RepositoryNotFoundError):
        served.api("bob").auth_check("ada/model")
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download("ada/model", "x", revision="nope")
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("ada/model", "x")
    assert not api.file_exists("ada/model", "x")
