"""Servers as registries: what is read, what is published, and what each refusal becomes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from hubs import Fault, Hub, free_port, serving, serving_registry
from hypothesis import given, settings
from hypothesis import strategies as st

from hubstate.blobs import FileInfo
from hubstate.digest import Digest
from hubstate.endpoints import Stream, open_endpoint
from hubstate.endpoints.answers import parse_history, parse_listing, parse_names, parse_refs
from hubstate.endpoints.http import HttpEndpoint
from hubstate.errors import (
    Conflict,
    Damaged,
    DigestMismatch,
    FileNotInRelease,
    HubstateError,
    InvalidReference,
    InvalidSetting,
    RepositoryNotFound,
    RevisionNotFound,
    Unreachable,
)
from hubstate.fetching import fetch
from hubstate.hub import open_release, publish_files
from hubstate.reference import Reference
from hubstate.transport import Patience

# huggingface_hub's own way of sending LFS content.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

HASTE = Patience(attempts=4, base=0.001, longest=0.01)
MAIN = Reference.parse("org/name")
FILES = {"hello.txt": b"hello", "model.safetensors": bytes(range(256)) * 5000, "empty": b""}


@pytest.fixture
def hub() -> Iterator[Hub]:
    served = Hub(dict(FILES))
    with serving(served):
        yield served


@pytest.fixture
def endpoint(hub: Hub) -> HttpEndpoint:
    return HttpEndpoint(hub.base, patience=HASTE)


def drain(stream: Stream) -> bytes:
    parts, block = [], memoryview(bytearray(10_000))
    while count := stream.readinto(block) or 0:
        parts.append(bytes(block[:count]))
    return b"".join(parts)


def read(endpoint: HttpEndpoint, path: str, start: int = 0, stop: int | None = None) -> bytes:
    with endpoint.read(endpoint.resolve(MAIN), path, start=start, stop=stop) as stream:
        return drain(stream)


# Names


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://Hub.Example/", "https://hub.example"),
        ("https://hub.example:443", "https://hub.example"),
        ("http://hub.example:80/a/", "http://hub.example/a"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_a_server_has_one_name_however_its_url_is_spelled(url: str, name: str) -> None:
    endpoint = open_endpoint(url)
    assert (endpoint.name, endpoint.remote) == (name, True)


@pytest.mark.parametrize("url", ["http://host:port", "https://h/?q=1", "https://h/#x", "http://"])
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(InvalidSetting, match="registry"):
        open_endpoint(url)


def test_a_token_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidSetting, match="HUBSTATE_TOKEN") as caught:
        HttpEndpoint("https://user:secret@hub.example")
    assert "secret" not in str(caught.value)


# Reading


def test_a_reference_means_a_commit_with_sizes_and_the_digests_that_are_stated(
    endpoint: HttpEndpoint,
) -> None:
    commit = endpoint.resolve(MAIN)
    weights = FILES["model.safetensors"]
    assert commit.id == Hub.COMMIT
    assert commit.files == {
        "hello.txt": FileInfo(size=5),
        "model.safetensors": FileInfo(size=len(weights), digest=Digest.of(weights)),
        "empty": FileInfo(size=0),
    }


@pytest.mark.parametrize(("start", "stop"), [(0, None), (0, 10), (7, 999_999), (1_000_000, None)])
def test_a_range_is_the_same_bytes_as_in_the_file(
    endpoint: HttpEndpoint, start: int, stop: int | None
) -> None:
    assert (
        read(endpoint, "model.safetensors", start, stop) == FILES["model.safetensors"][start:stop]
    )


def test_a_range_beyond_the_end_ends_with_the_file(endpoint: HttpEndpoint) -> None:
    assert read(endpoint, "hello.txt", 2, 1 << 20) == b"llo"


def test_an_empty_file_is_read(endpoint: HttpEndpoint) -> None:
    assert read(endpoint, "empty") == b""


def test_a_transfer_goes_on_where_it_broke_off(hub: Hub, endpoint: HttpEndpoint) -> None:
    hub.faults = [Fault(cut=1000), Fault(status=503), Fault(cut=0), Fault(cut=200_000)]
    assert read(endpoint, "model.safetensors") == FILES["model.safetensors"]
    assert hub.sent("model.safetensors") == len(FILES["model.safetensors"])


def test_a_server_that_asks_for_time_is_given_it(hub: Hub, endpoint: HttpEndpoint) -> None:
    hub.faults = [Fault(status=429, retry_after="0"), Fault(status=503, retry_after="soon")]
    assert read(endpoint, "hello.txt") == b"hello"
    assert len([seen for seen in hub.seen if seen.path.endswith("hello.txt")]) == 3


def test_a_connection_that_is_always_reset_gets_there(hub: Hub, endpoint: HttpEndpoint) -> None:
    hub.faults = [Fault(cut=100_000, reset=True)] * 1000
    found = fetch("org/name", files=["model.safetensors"], registry=endpoint)
    assert found.paths["model.safetensors"].read_bytes() == FILES["model.safetensors"]
    assert 0 < len(hub.faults) < 1000


def test_the_wait_that_a_server_asks_for_is_kept_within_bounds(hub: Hub) -> None:
    hub.faults = [Fault(status=503, retry_after="60")]
    start = time.monotonic()
    assert read(HttpEndpoint(hub.base, patience=HASTE), "hello.txt") == b"hello"
    assert 20 * HASTE.longest <= time.monotonic() - start < 10


def test_a_server_that_stays_broken_is_unreachable(hub: Hub, endpoint: HttpEndpoint) -> None:
    hub.faults = [Fault(cut=0)] * 10
    with pytest.raises(Unreachable, match=r"hello\.txt of org/name@c+ .*\(tried 4 times\)"):
        read(endpoint, "hello.txt")
    assert len(hub.faults) == 6


def test_a_server_that_does_not_answer_is_unreachable_and_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Unreachable, match=f"{url} does not answer: .*refused"):
        HttpEndpoint(url).resolve(MAIN)


def test_a_server_that_hangs_up_in_a_handshake_is_asked_again() -> None:
    """As one does that restarts behind whatever has its certificate."""
    asked: list[bytes] = []

    def hang_up() -> None:
        for _ in range(3):
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(1 << 16))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=hang_up, daemon=True).start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(Unreachable, match=r"EOF .*tried 3 times"):
            HttpEndpoint(url).resolve(MAIN)
        assert len(asked) == 3


def test_small_files_are_held_to_the_name_that_git_gives_them(
    hub: Hub, endpoint: HttpEndpoint
) -> None:
    hub.faults = [Fault(flip=1)]
    with pytest.raises(DigestMismatch, match=r"hello\.txt .* expected git blob"):
        read(endpoint, "hello.txt")


def test_small_files_of_a_commit_that_the_cache_knows_are_held_to_that_name_too(hub: Hub) -> None:
    open_release("org/name", registry=hub.base)
    hub.corrupt = {"hello.txt": 1}
    with pytest.raises(DigestMismatch, match=r"hello\.txt .* expected git blob"):
        open_release(f"org/name@{hub.COMMIT}", registry=hub.base).path("hello.txt")


def test_a_server_without_ranges_says_so_where_a_part_is_wanted(
    hub: Hub, endpoint: HttpEndpoint
) -> None:
    hub.ranges = False
    assert read(endpoint, "model.safetensors") == FILES["model.safetensors"]
    assert read(endpoint, "model.safetensors", 0, 10) == FILES["model.safetensors"][:10]
    with pytest.raises(Unreachable, match="does not serve ranges"):
        read(endpoint, "model.safetensors", 10, 20)


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"Content-Range": "bytes 11-19/1280000"}, "asked for bytes 10–20, found bytes 11-19"),
        ({"Content-Range": "bytes 10-19/99"}, "expected 1280000 bytes, the server has 99"),
        ({"Content-Range": "lines 1-2"}, "expected a Content-Range"),
        ({"Content-Encoding": "gzip"}, "found them gzip"),
    ],
)
def test_an_answer_to_another_question_is_refused(
    hub: Hub, endpoint: HttpEndpoint, headers: dict[str, str], error: str
) -> None:
    hub.faults = [Fault(headers=headers)]
    with pytest.raises(HubstateError, match=error):
        read(endpoint, "model.safetensors", 10, 20)


def test_a_file_of_another_size_is_refused(hub: Hub, endpoint: HttpEndpoint) -> None:
    commit = endpoint.resolve(MAIN)
    hub.files["hello.txt"] = b"hello, world"
    with (
        pytest.raises(DigestMismatch, match="expected 5 bytes, the server has 12"),
        endpoint.read(commit, "hello.txt"),
    ):
        pass


def test_a_file_that_has_become_too_short_for_a_range_is_refused(
    hub: Hub, endpoint: HttpEndpoint
) -> None:
    commit = endpoint.resolve(MAIN)
    hub.files["model.safetensors"] = b"short"
    with (
        pytest.raises(DigestMismatch, match="expected 1280000 bytes, found 5"),
        endpoint.read(commit, "model.safetensors", start=1000, stop=2000),
    ):
        pass


def test_a_file_that_is_replaced_while_it_is_read_is_refused(
    hub: Hub, endpoint: HttpEndpoint
) -> None:
    commit = endpoint.resolve(MAIN)
    with endpoint.read(commit, "model.safetensors", start=0, stop=10) as stream:
        drain(stream)
    hub.etag["model.safetensors"] = '"another"'
    with (
        pytest.raises(DigestMismatch, match="replaced while it was read"),
        endpoint.read(commit, "model.safetensors", start=10, stop=20),
    ):
        pass


def test_a_file_that_is_not_listed_is_not_asked_for(hub: Hub, endpoint: HttpEndpoint) -> None:
    with pytest.raises(FileNotInRelease, match="nothing"):
        read(endpoint, "nothing")
    assert len(hub.seen) == 1


# The token


def test_the_token_is_not_shown_to_where_content_is_redirected(
    hub: Hub, endpoint: HttpEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUBSTATE_TOKEN", "secret")
    hub.token = "secret"
    storage = Hub(dict(FILES))
    with serving(storage) as hub.elsewhere:
        assert read(endpoint, "model.safetensors", 5, 9) == FILES["model.safetensors"][5:9]
        assert read(endpoint, "model.safetensors", 9, 20) == FILES["model.safetensors"][9:20]
    assert {seen.authorization for seen in hub.seen} == {"Bearer secret"}
    assert {seen.authorization for seen in storage.seen} == {None}
    assert len([seen for seen in hub.seen if "resolve" in seen.path]) == 1, "the place is kept"


def test_the_token_is_not_shown_to_where_a_list_goes_on(
    hub: Hub, endpoint: HttpEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUBSTATE_TOKEN", "secret")
    with serving(other := Hub({})) as base:
        hub.following = f"{base}/api/models"
        assert list(endpoint.repositories("org/*")) == ["org/name"] * 2
    assert {seen.authorization for seen in hub.seen} == {"Bearer secret"}
    assert [seen.authorization for seen in other.seen] == [None]


def test_the_token_is_not_shown_to_a_host_that_is_spelled_like_the_registry(
    hub: Hub, endpoint: HttpEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some take ``//a\\@b`` for a, as browsers do, and others for b."""
    monkeypatch.setenv("HUBSTATE_TOKEN", "secret")
    storage, thief = Hub(dict(FILES)), Hub(dict(FILES))
    with serving(storage) as hub.elsewhere, serving(thief) as base:
        storage.elsewhere = f"{base}\\@{hub.base.removeprefix('http://')}"
        with pytest.raises(Unreachable, match=r"leads to .* a host has no backslash"):
            read(endpoint, "hello.txt")
    assert thief.seen == []


def test_a_place_that_is_no_longer_good_is_asked_for_again(
    hub: Hub, endpoint: HttpEndpoint
) -> None:
    storage = Hub(dict(FILES))
    with serving(storage) as hub.elsewhere:
        storage.faults = [Fault(), Fault(status=403)]
        assert read(endpoint, "model.safetensors", 5, 9) == FILES["model.safetensors"][5:9]
        assert read(endpoint, "model.safetensors", 9, 20) == FILES["model.safetensors"][9:20]
    assert len([seen for seen in hub.seen if "resolve" in seen.path]) == 2


def test_a_place_that_is_gone_is_asked_for_again(hub: Hub, endpoint: HttpEndpoint) -> None:
    """A storage of several servers, of which one ends in the middle of a file."""
    weights = FILES["model.safetensors"]
    with serving(first := Hub(dict(FILES))) as hub.elsewhere:
        first.faults = [Fault(cut=100_000)]
        with endpoint.read(endpoint.resolve(MAIN), "model.safetensors") as stream:
            start = memoryview(bytearray(10_000))
            count = stream.readinto(start) or 0
            with serving(Hub(dict(FILES))) as hub.elsewhere:
                first.faults = [Fault(status=503)] * 9
                assert bytes(start[:count]) + drain(stream) == weights


def test_a_netrc_has_no_say(hub: Hub, endpoint: HttpEndpoint, tmp_path: Path) -> None:
    home = Path(os.environ["HOME"])
    home.mkdir(exist_ok=True)
    (home / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    read(endpoint, "hello.txt")
    assert {seen.authorization for seen in hub.seen} == {None}


def test_a_redirect_in_a_circle_ends(hub: Hub, endpoint: HttpEndpoint) -> None:
    hub.elsewhere = hub.base
    with pytest.raises(Unreachable, match="redirects more than"):
        read(endpoint, "hello.txt")


@pytest.mark.parametrize("place", ["http://[::1", "http://a:99999", "file:///etc"])
def test_a_redirect_to_what_is_no_address_is_refused(
    hub: Hub, endpoint: HttpEndpoint, place: str
) -> None:
    hub.elsewhere = place
    with pytest.raises(Unreachable, match=r"hello\.txt of .* (leads|redirects) to"):
        read(endpoint, "hello.txt")


def test_what_is_hidden_without_a_token_is_not_found_and_says_why(
    hub: Hub, endpoint: HttpEndpoint
) -> None:
    hub.token = "secret"
    with pytest.raises(RepositoryNotFound, match="no token was sent"):
        endpoint.resolve(MAIN)


# What there is


def test_what_is_missing_is_told_apart(endpoint: HttpEndpoint) -> None:
    with pytest.raises(RepositoryNotFound, match="org/other"):
        endpoint.resolve(Reference.parse("org/other"))
    with pytest.raises(RevisionNotFound, match=r"v2 .* it has main, v1"):
        endpoint.resolve(MAIN.at("v2"))


def test_a_release_is_found_by_the_digest_of_its_manifest(hub: Hub, endpoint: HttpEndpoint) -> None:
    manifest = hub.files["hubstate.json"] = b"{}"
    commit = endpoint.resolve(MAIN.at(f"sha256:{hashlib.sha256(manifest).hexdigest()}"))
    assert (commit.id, commit.manifest) == (Hub.COMMIT, Digest.of(manifest))
    with pytest.raises(RevisionNotFound, match="has that manifest"):
        endpoint.resolve(MAIN.at("sha256:" + "0" * 64))


def test_a_commit_is_found_by_its_first_digits(endpoint: HttpEndpoint) -> None:
    assert endpoint.resolve(MAIN.at("c" * 9)).id == Hub.COMMIT


def test_prefixes_that_fit_several_commits_are_refused(hub: Hub, endpoint: HttpEndpoint) -> None:
    hub.commits = [Hub.COMMIT, "c" * 20 + "d" * 20]
    with pytest.raises(RevisionNotFound, match="may be any of"):
        endpoint.resolve(MAIN.at("c" * 9))


def test_repositories_are_those_that_match(endpoint: HttpEndpoint) -> None:
    assert list(endpoint.repositories("org/*")) == ["org/name"]


def test_a_server_that_answers_with_another_commit_is_not_believed(
    hub: Hub, endpoint: HttpEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert endpoint.resolve(MAIN.at(Hub.COMMIT)).id == Hub.COMMIT
    monkeypatch.setattr(hub, "info", lambda: {"sha": "d" * 40, "siblings": []})
    with pytest.raises(DigestMismatch, match="answers with commit dddd"):
        endpoint.resolve(MAIN.at(Hub.COMMIT))


@pytest.mark.parametrize(
    "path", ["../up", "/root", "a//b", "a\\b", ".git/config", "a/../b", "\ud800"]
)
def test_a_path_that_climbs_or_cannot_be_written_is_refused(path: str) -> None:
    data = json.dumps({"sha": "c" * 40, "siblings": [{"rfilename": path}]}).encode()
    with pytest.raises(Damaged, match="info"):
        parse_listing(data, repo="org/name", what="info")


def test_what_cannot_be_written_of_an_author_is_replaced() -> None:
    data = json.dumps({"sha": "c" * 40, "siblings": [], "author": "Ad\ud800a"}).encode()
    assert parse_listing(data, repo="org/name", what="info").commit.author == "Ad?a"


@settings(max_examples=60)
@given(
    data=st.binary(max_size=60) | st.from_regex(r'[\[{]("[a-z]+"[:,])*[0-9]*[\]}]').map(str.encode)
)
def test_any_other_answer_is_damaged(data: bytes) -> None:
    for parse in (parse_history, parse_names, parse_refs):
        try:
            parse(data, what="answer")
        except Damaged as error:
            assert "answer" in str(error)
    with pytest.raises(Damaged):
        parse_listing(data, repo="org/name", what="answer")


# Publishing, to the registry as it is served


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    with serving_registry(tmp_path_factory.mktemp("registry")) as served:
        yield served


@pytest.fixture
def real(registry: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> HttpEndpoint:
    monkeypatch.setenv("HUBSTATE_REGISTRY", registry[0])
    monkeypatch.setenv("HUBSTATE_TOKEN", registry[1])
    return HttpEndpoint(registry[0], patience=HASTE)


def repo(request: pytest.FixtureRequest) -> str:
    return f"admin/{re.sub('[^a-z0-9]+', '-', request.node.name).strip('-')}"


@pytest.mark.parametrize("path", ["xet", "lfs"])
def test_what_is_published_is_fetched_byte_for_byte(
    real: HttpEndpoint,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", path == "lfs")
    weights = tmp_path / "w"
    weights.write_bytes(os.urandom(300_000))
    files: dict[str, Path | bytes] = {
        "a.txt": b"hello",
        "sub/empty": b"",
        "model.safetensors": weights,
    }
    commit = publish_files(repo(request), files, message="First\n\nIn detail", tag="v1")
    assert commit.files["model.safetensors"].digest == Digest.of(weights.read_bytes())
    release = fetch(f"{repo(request)}@v1", files=[*files])
    assert release.commit.id == commit.id
    assert release.read("a.txt") == b"hello"
    assert release.read("model.safetensors") == weights.read_bytes()
    first = next(real.history(release.reference))
    assert (first.message, first.author) == ("First\n\nIn detail", "admin")


def test_publishing_the_same_again_changes_nothing(
    real: HttpEndpoint, request: pytest.FixtureRequest
) -> None:
    files: dict[str, Path | bytes] = {"a.txt": b"hello", "model.safetensors": os.urandom(1000)}
    first = publish_files(repo(request), files, message="First")
    again = publish_files(repo(request), files, message="Again", tag="v1")
    assert again.id == first.id
    assert real.refs(repo(request)).tags == {"v1": first.id}
    assert again.files["a.txt"].digest == Digest.of(b"hello")


def test_a_release_has_the_files_that_were_given_and_no_others(
    real: HttpEndpoint, request: pytest.FixtureRequest
) -> None:
    publish_files(repo(request), {"a": b"1", "b": b"2"}, message="First")
    commit = publish_files(repo(request), {"b": b"2", "c": b"3"}, message="Second")
    assert set(commit.files) - {".gitattributes"} == {"b", "c"}


def test_whoever_comes_second_gets_a_conflict_that_says_who_was_first(
    real: HttpEndpoint, request: pytest.FixtureRequest
) -> None:
    first = publish_files(repo(request), {"a": b"1"}, message="First")
    publish_files(repo(request), {"a": b"2"}, message="Between")
    with pytest.raises(Conflict, match=f"expected at {first.id}.*by admin.*'Between'"):
        publish_files(repo(request), {"a": b"3"}, message="Late", parent=first.id)
    with pytest.raises(Conflict, match="expected at no commit yet"):
        publish_files(repo(request), {"a": b"3"}, message="Late", parent=None)
    assert fetch(repo(request)).read("a") == b"2"


def test_of_many_at_once_each_is_published_or_refused_and_none_is_lost(
    real: HttpEndpoint, request: pytest.FixtureRequest
) -> None:
    name, done, refused = repo(request), [], []
    real.commit(name, {"start": b""}, message="Start", author="")

    def publish(number: int) -> None:
        try:
            done.append(real.commit(name, {f"{number}": b"x"}, message=f"{number}", author=""))
        except Conflict:
            refused.append(number)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) + len(refused) == 4
    assert done
    tip = real.resolve(Reference(repo=name))
    assert {file for file in tip.files if file.isdigit()} == {c.message for c in done}


def test_a_tag_does_not_move(real: HttpEndpoint, request: pytest.FixtureRequest) -> None:
    first = publish_files(repo(request), {"a": b"1"}, message="First", tag="v1")
    with pytest.raises(Conflict, match=f"'v1' names commit {first.id}"):
        publish_files(repo(request), {"a": b"2"}, message="Second", tag="v1")
    assert fetch(repo(request)).commit.id == first.id, "nothing was published"
    real.tag(repo(request), "v1", commit=first.id, author="")
    real.tag(repo(request), "v2", commit=first.id, author="")
    assert set(real.refs(repo(request)).tags) == {"v1", "v2"}


def test_a_branch_that_is_new_has_what_was_given(
    real: HttpEndpoint, request: pytest.FixtureRequest
) -> None:
    publish_files(repo(request), {"a": b"1"}, message="First")
    publish_files(repo(request), {"b": b"2"}, message="Aside", branch="dev/x")
    assert set(real.resolve(Reference.parse(f"{repo(request)}@dev/x")).files) >= {"b"}
    assert "a" not in real.resolve(Reference.parse(f"{repo(request)}@dev/x")).files
    assert "a" in real.resolve(Reference.parse(repo(request))).files
    with pytest.raises(Conflict, match="is a branch"):
        publish_files(repo(request), {"a": b"2"}, message="Second", tag="dev/x")


@pytest.mark.parametrize("path", ["../up", "a//b", ".git/x"])
def test_a_path_that_climbs_is_not_published(real: HttpEndpoint, path: str) -> None:
    with pytest.raises(InvalidReference):
        publish_files("admin/paths", {path: b""}, message="First")
    with pytest.raises(RepositoryNotFound):
        real.resolve(Reference.parse("admin/paths"))


@pytest.mark.parametrize("token", ["", "wrong"])
def test_a_token_that_may_not_write_is_told_so(
    real: HttpEndpoint, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("HUBSTATE_TOKEN", token)
    with pytest.raises(Unreachable, match="access is refused") as caught:
        real.commit("admin/forbidden", {"a": b"1"}, message="First", author="")
    assert not token or token not in str(caught.value)


def test_a_release_that_was_fetched_by_its_manifest_is_found_again_without_the_server(
    real: HttpEndpoint, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hubstate.manifest import Manifest, dump

    manifest = dump(Manifest(license="MIT"))
    name = repo(request)
    publish_files(name, {"hubstate.json": manifest, "a": b"1"}, message="First")
    pinned = open_release(name).pinned
    assert pinned.revision == f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    monkeypatch.setenv("HUBSTATE_OFFLINE", "1")
    assert open_release(pinned).pinned == pinned


def test_a_model_is_published_to_a_server_and_a_part_of_it_loaded_from_there(
    real: HttpEndpoint, request: pytest.FixtureRequest
) -> None:
    import torch
    from torch import nn

    import hubstate

    model, name = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2000)), repo(request)
    hubstate.publish(model, name, license="mit", weights_only=True)
    backbone = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 10))
    report = hubstate.load_pretrained(backbone, name, filter=hubstate.only("0"))
    assert set(report.loaded) == {"0.weight", "0.bias"}
    assert torch.equal(backbone.state_dict()["0.weight"], model.state_dict()["0.weight"])
    cache = Path(os.environ["HUBSTATE_CACHE"])
    on_disk = sum(file.stat().st_blocks * 512 for file in cache.rglob("*") if file.is_file())
    assert on_disk < 4 * 64 * 2000, "the head was not fetched"
    whole = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2000))
    hubstate.load_pretrained(whole, name)
    assert all(map(torch.equal, whole.parameters(), model.parameters()))
