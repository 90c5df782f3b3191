"""Xet with the unmodified stock client against a real server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from xet_serving import Serving, serving

BLOCKS = 24
UPLOAD = """
api.create_repo(sys.argv[2], private="private" in sys.argv, exist_ok=True)
api.upload_file(path_or_fileobj=sys.argv[1], path_in_repo="model.safetensors", repo_id=sys.argv[2])
"""
DIGEST = """
path = hub.hf_hub_download(sys.argv[1], sys.argv[2] if sys.argv[2:] else "model.safetensors")
print(json.dumps(hashlib.sha256(Path(path).read_bytes()).hexdigest()))
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path, "ada", "eve") as running:
        yield running


def make_blocks(seed: int = 1, *, changed: int = 0) -> bytes:
    """24 blocks of 400 kB of floats, the last few of which may differ."""
    rng = np.random.default_rng(seed)
    blocks = [rng.normal(size=100_000).astype("<f4").tobytes() for _ in range(BLOCKS)]
    other = np.random.default_rng(seed + 1000)
    for at in range(BLOCKS - changed, BLOCKS):
        blocks[at] = other.normal(size=100_000).astype("<f4").tobytes()
    return b"".join(blocks)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_an_upload_is_downloaded_equal_by_every_path(server: Serving, tmp_path: Path) -> None:
    content = make_blocks()
    file = tmp_path / "weights"
    file.write_bytes(content)
    server.run(UPLOAD, file, "ada/base")
    assert server.counts.sent > len(content) * 0.8
    assert server.counts.requests["ada/base.git/info"] == 0  # not by LFS
    assert server.run(DIGEST, "ada/base") == sha256(content)
    assert server.counts.requests["xet/v1/reconstructions"] == 0  # the second version is served
    assert server.counts.requests["xet/v2/reconstructions"] > 0
    server.counts.requests.clear()
    plain = {"HF_HUB_DISABLE_XET": "1"}
    assert server.run(DIGEST, "ada/base", user="nobody", **plain) == sha256(content)
    assert not [kind for kind in server.counts.requests if kind.startswith("xet/")]
    older = {"HF_XET_CLIENT_RECONSTRUCTION_API_VERSION": "1"}
    assert server.run(DIGEST, "ada/base", user="nobody", **older) == sha256(content)
    assert server.counts.requests["xet/v1/reconstructions"] > 0


def test_what_is_stored_already_is_not_sent_again(server: Serving, tmp_path: Path) -> None:
    """Each upload comes from a client that has cached nothing."""
    base, tuned = make_blocks(), make_blocks(changed=2)
    for name, content in (("base", base), ("same", base), ("tuned", tuned)):
        (tmp_path / name).write_bytes(content)
    server.run(UPLOAD, tmp_path / "base", "ada/base")
    first = server.counts.sent
    server.run(UPLOAD, tmp_path / "same", "ada/copy")
    assert server.counts.sent - first == 0
    server.run(UPLOAD, tmp_path / "tuned", "ada/tuned")
    assert 0 < server.counts.sent - first <= 0.12 * len(tuned)
    for repo, content in (("ada/copy", base), ("ada/tuned", tuned)):
        assert server.run(DIGEST, repo) == sha256(content)


def test_a_folder_comes_in_one_commit_and_reads_back(server: Serving, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "part").mkdir(parents=True)
    files = {
        "README.md": b"# small",
        "part/one.safetensors": make_blocks(2)[:3_000_000],
        "part/two.safetensors": make_blocks(2)[:3_000_000],
        "zeros.bin": bytes(2_000_000),
        "tiny.safetensors": b"x",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    upload = """
    api.create_repo("ada/folder")
    api.upload_folder(folder_path=sys.argv[1], repo_id="ada/folder")
    print(len(api.list_repo_commits("ada/folder")))
    """
    assert server.run(upload, folder) == 2
    assert 0 < server.counts.sent < 6_000_000  # of 8 MB: zeros compress
    download = """
    path = Path(hub.snapshot_download("ada/folder"))
    names = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()]
    print(json.dumps({n: hashlib.sha256((path / n).read_bytes()).hexdigest() for n in names}))
    """
    assert server.run(download) == {name: sha256(content) for name, content in files.items()}


def test_lfs_and_xet_read_each_other(server: Serving, tmp_path: Path) -> None:
    content = make_blocks(3)[:4_000_000]
    file = tmp_path / "weights"
    file.write_bytes(content)
    server.run(UPLOAD, file, "ada/lfs", HF_HUB_DISABLE_XET="1")
    assert server.counts.sent == 0
    assert server.run(DIGEST, "ada/lfs") == sha256(content)
    server.run(UPLOAD, file, "ada/xet")  # the same bytes, once more, the other way
    for repo, variables in (("ada/lfs", {}), ("ada/xet", {"HF_HUB_DISABLE_XET": "1"})):
        assert server.run(DIGEST, repo, **variables) == sha256(content)
    ranged = """
    with hub.HfFileSystem().open("ada/xet/model.safetensors") as file:
        file.seek(1_234_567)
        print(json.dumps(hashlib.sha256(file.read(700_000)).hexdigest()))
    """
    assert server.run(ranged) == sha256(content[1_234_567:1_934_567])


def test_a_branch_with_a_slash_takes_uploads(server: Serving, tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(make_blocks(7)[:500_000])
    upload = """
    api.create_repo("ada/branches")
    api.create_branch("ada/branches", branch="dev/x")
    to = dict(path_in_repo="model.bin", repo_id="ada/branches", revision="dev/x")
    api.upload_file(path_or_fileobj=sys.argv[1], **to)
    path = hub.hf_hub_download("ada/branches", "model.bin", revision="dev/x")
    print(json.dumps(hashlib.sha256(Path(path).read_bytes()).hexdigest()))
    """
    assert server.run(upload, file) == sha256(file.read_bytes())
    assert server.counts.sent > 0


def test_a_repository_made_anew_takes_what_the_client_remembers(
    server: Serving, tmp_path: Path
) -> None:
    file = tmp_path / "weights"
    file.write_bytes(make_blocks(4)[:2_000_000])
    server.run(UPLOAD, file, "ada/model", home="same")
    sent = server.counts.sent
    server.run("api.delete_repo('ada/model')", home="same")
    server.run(UPLOAD, file, "ada/model", home="same")
    assert server.counts.sent == sent
    assert server.run(DIGEST, "ada/model") == sha256(file.read_bytes())


def test_private_bytes_are_deduplicated_for_their_readers_alone(
    server: Serving, tmp_path: Path
) -> None:
    file = tmp_path / "weights"
    file.write_bytes(make_blocks(5)[:3_000_000])
    server.run(UPLOAD, file, "ada/secret", "private")
    first = server.counts.sent
    server.run(UPLOAD, file, "eve/own", user="eve")
    assert server.counts.sent == 2 * first
    server.run(UPLOAD, file, "ada/again", "private")
    assert server.counts.sent == 2 * first
    refused = """
    try: hub.hf_hub_download("ada/secret", "model.safetensors")
    except hub.errors.RepositoryNotFoundError: print(404)
    """
    assert server.run(refused, user="eve") == 404


def test_a_cache_that_names_anothers_bytes_is_told_to_go(server: Serving, tmp_path: Path) -> None:
    """Two users share a cache folder: the client builds on bytes that the second may not use."""
    file = tmp_path / "weights"
    file.write_bytes(make_blocks(6)[:1_000_000])
    server.run(UPLOAD, file, "ada/secret", "private", home="shared")
    attempt = """
    api.create_repo("eve/own", exist_ok=True)
    try: api.upload_file(path_or_fileobj=sys.argv[1], path_in_repo="m.bin", repo_id="eve/own")
    except Exception as error: print(json.dumps(str(error)))
    """
    told = server.run(attempt, file, user="eve", home="shared")
    assert "is not stored here, or not for this token" in told
    assert "HF_XET_CACHE" in told
    assert server.run(attempt, file, user="eve") is None  # with a cache of her own it succeeds
