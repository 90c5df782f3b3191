"""Many releases in one question: what is saved, and that nothing is believed for it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hubs import Hub, serving
from hypothesis import given
from hypothesis import strategies as st

from hubstate import warm
from hubstate.blobs import FileInfo
from hubstate.cache import Cache
from hubstate.digest import Digest
from hubstate.endpoints import http
from hubstate.endpoints.answers import Told, parse_told
from hubstate.endpoints.http import HttpEndpoint
from hubstate.errors import Damaged, DigestMismatch
from hubstate.hub import publish_files
from hubstate.lock import LockFile, Pin
from hubstate.reference import Reference
from hubstate.warm import Proof

pytestmark = pytest.mark.usefixtures("project")

FILES = {
    "README.md": b"# A model\n",
    "extra.json": b'{"a": 1}',
    "model.safetensors": bytes(range(256)) * 5000,
}
NAMES = ["org/name", "org/name@v1"]


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A server that answers for many at once, which is the configured registry."""
    served = Hub(dict(FILES))
    served.ahead = served.tell
    with serving(served) as url:
        os.environ["HUBSTATE_REGISTRY"] = url
        yield served


def filled(*names: str) -> list[Proof]:
    return warm.warm(warm.named(names or NAMES))


def asked(hub: Hub) -> list[str]:
    return sorted(seen.path.rpartition("/")[2] for seen in hub.seen)


def test_many_releases_take_one_question_and_a_request_for_each_large_file(hub: Hub) -> None:
    proofs = filled(*NAMES, f"org/name@{Hub.COMMIT}")
    assert all(proof.complete for proof in proofs)
    assert (hub.posts, asked(hub)) == (1, ["model.safetensors"])
    states = {file.name: file.state for file in proofs[0].files}
    assert states["model.safetensors"] == "fetched"
    for name, data in FILES.items():
        path = Cache().find(Digest.of(data)).path
        assert path and path.read_bytes() == data, name


def test_no_server_is_asked_for_what_a_folder_has(hub: Hub, tmp_path: Path) -> None:
    folder = str(tmp_path / "folder")
    commits = [
        publish_files("org/name", FILES, message=tag, tag=tag, registry=folder)
        for tag in ("v1", "v2")
    ]
    pins = {
        name: Pin(
            reference=Reference.parse(name),
            commit=commit.id,
            files=commit.files,
            registry=os.environ["HUBSTATE_REGISTRY"],
        )
        for name, commit in zip(("org/name@v1", "org/name@v2"), commits, strict=True)
    }
    os.environ["HUBSTATE_REGISTRY"] = folder
    assert all(proof.complete for proof in warm.warm(warm.locked(LockFile(releases=pins))))
    assert (hub.posts, hub.seen) == (0, [])


def test_one_release_is_not_asked_for_in_that_way(hub: Hub) -> None:
    assert all(proof.complete for proof in filled("org/name"))
    assert (hub.posts, asked(hub)) == (0, ["README.md", "extra.json", "main", "model.safetensors"])


def test_no_more_than_a_hundred_are_asked_for_at_once(hub: Hub) -> None:
    places = [Reference.parse(f"org/name@r{number}") for number in range(101)]
    endpoint = HttpEndpoint(hub.base)
    assert (endpoint.ask_ahead(places), hub.posts) == (101, 2)
    assert {endpoint.resolve(place).id for place in places} == {Hub.COMMIT}
    assert asked(hub) == []


def test_so_much_is_kept_and_the_rest_is_read_when_it_is_wanted(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_HELD", len(FILES["README.md"]))
    assert all(proof.complete for proof in filled())
    assert (hub.posts, set(asked(hub))) == (1, {"extra.json", "model.safetensors"})


def test_what_is_known_for_ever_is_not_asked_for(hub: Hub) -> None:
    filled()
    hub.posts, places = 0, [Reference.parse(f"org/name@{Hub.COMMIT}"), Reference.parse("org/name")]
    files = {name: FileInfo(size=len(data), digest=Digest.of(data)) for name, data in FILES.items()}
    wanted = [
        warm.Wanted(reference=place, pin=Pin(reference=place, commit=Hub.COMMIT, files=files))
        for place in places
    ]
    assert all(proof.complete for proof in warm.warm(wanted))
    os.environ["HUBSTATE_OFFLINE"] = "1"
    assert all(proof.complete for proof in filled())
    assert hub.posts == 0


@pytest.mark.parametrize("status", [404, 405, 501, 401, 500, 503])
def test_a_server_that_lacks_it_is_asked_once(hub: Hub, status: int) -> None:
    hub.ahead = status
    assert all(proof.complete for proof in filled())
    assert hub.posts == 1
    assert asked(hub) == ["README.md", "extra.json", "main", "model.safetensors", "v1"]


def nonsense(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def changed(answer: bytes) -> bytes:
        lines = [json.loads(line) for line in answer.splitlines()]
        for line in lines:
            change(line)
        return b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    return changed


NONSENSE = {
    "nothing": lambda answer: b"",
    "a page": lambda answer: b"<html>\n<body>Log in</body>\n",
    "no objects": lambda answer: b"1\n[]\n",
    "empty objects": lambda answer: b"{}\n{}\n",
    "cut off": lambda answer: answer[: len(answer) // 3],
    "refused": lambda answer: b'{"status": 500}\n' * 2,
    "no text": nonsense(lambda line: line.update(files={"README.md": 1})),
    "no files": nonsense(lambda line: line.update(files=[])),
    "no such file": nonsense(lambda line: line["files"].update(never="x")),
    "half a letter": nonsense(lambda line: line["files"].update({"README.md": "\ud800"})),
    "no commit": nonsense(lambda line: line["info"].update(sha="main")),
    "a path that climbs": nonsense(lambda line: line["info"]["siblings"][0].update(rfilename="..")),
}


@pytest.mark.parametrize("change", NONSENSE.values(), ids=NONSENSE)
def test_after_nonsense_each_is_asked_for_by_itself(
    hub: Hub, change: Callable[[bytes], bytes]
) -> None:
    hub.ahead = lambda rows: change(hub.tell(rows))
    assert all(proof.complete for proof in filled())
    assert hub.posts == 1
    assert {"main", "v1"} <= set(asked(hub))


def test_another_commit_than_was_asked_for_is_not_believed(hub: Hub) -> None:
    other = nonsense(lambda line: line["info"].update(sha="d" * 40))
    hub.ahead = lambda rows: other(hub.tell(rows))
    (pinned, _) = filled(f"org/name@{Hub.COMMIT}", "org/name")
    assert pinned.release and pinned.release.commit.id == Hub.COMMIT


@pytest.mark.parametrize("stated", [True, False], ids=["sha256", "git's own digest"])
@pytest.mark.parametrize("text", ["# B model\n", "#", "# A model\n\n"])
def test_content_that_is_not_what_was_listed_is_damage(hub: Hub, stated: bool, text: str) -> None:
    def lie(line: dict[str, Any]) -> None:
        for row in line["info"]["siblings"]:
            if stated:
                row["sha256"] = Digest.of(FILES[row["rfilename"]]).hex
        line["files"]["README.md"] = text

    hub.ahead = lambda rows: nonsense(lie)(hub.tell(rows))
    first, _ = filled()
    states = {file.name: file.state for file in first.files}
    assert (states["README.md"], states["extra.json"]) == ("missing", "fetched")
    assert isinstance(first.error, DigestMismatch)
    assert Cache().find(Digest.of(text.encode())).path is None
    assert all(proof.complete for proof in filled("org/name"))


def test_other_files_than_the_lock_file_pins_are_damage(hub: Hub) -> None:
    other = nonsense(lambda line: line["info"]["siblings"][0].update(size=1))
    hub.ahead = lambda rows: other(hub.tell(rows))
    files = {name: FileInfo(size=len(data), digest=Digest.of(data)) for name, data in FILES.items()}
    one = warm.Wanted(
        reference=Reference.parse("org/name"),
        pin=Pin(reference=Reference.parse("org/name"), commit=Hub.COMMIT, files=files),
    )
    proofs = warm.warm([one, replace(one, pin=None, reference=Reference.parse("org/name@v1"))])
    assert isinstance(proofs[0].error, DigestMismatch)
    assert "not what the lock file says" in str(proofs[0].error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["info", "files", "status", "sha", "siblings", "rfilename", "size"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40))
def test_any_line_is_an_answer_a_refusal_or_damage(line: bytes) -> None:
    try:
        told = parse_told(line, repo="org/name", what="line")
    except Damaged as error:
        assert str(error).startswith("line: expected a commit with files, found")
    else:
        assert told is None or isinstance(told, Told)
