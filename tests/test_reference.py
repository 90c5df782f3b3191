"""References: what can be read, and what is refused with the rules."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubstate.digest import Digest
from hubstate.errors import InvalidReference
from hubstate.reference import Reference, quote_name, unquote_name

WORD = string.ascii_letters + string.digits + "_"
segments = st.text(WORD + ".-", min_size=1, max_size=20).filter(
    lambda s: (
        (s[0] in WORD and s[-1] in WORD and s != "_" and ".." not in s and "--" not in s)
        and not s.lower().endswith(".git")
    )
)
repos = st.one_of(segments, st.tuples(segments, segments).map("/".join))
branches = st.lists(segments, min_size=1, max_size=3).map("/".join)
commits = st.text("0123456789abcdef", min_size=40, max_size=40)
digests = st.binary(max_size=4).map(lambda data: str(Digest.of(data)))
valid_revisions = st.one_of(branches, commits, digests).filter(lambda r: r[-5:] != ".lock")


@given(repos, valid_revisions)
def test_a_reference_survives_its_own_text(repo: str, revision: str) -> None:
    try:
        reference = Reference(repo=repo, revision=revision)
    except InvalidReference:
        assert ".lock" in revision or len(quote_name(revision)) > 240
        return
    assert Reference.parse(str(reference)) == reference


@given(st.one_of(st.text(), st.from_regex(r"[a-z./]{0,8}@?[a-z@:/.~^-]{0,12}", fullmatch=True)))
def test_garbage_is_refused_by_one_error_only(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidReference:
        return
    assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    "repo",
    [
        "",
        "/",
        "org/",
        "/name",
        "a/b/c",
        "..",
        "../x",
        "org/..",
        "org/a..b",
        "org/a--b",
        ".hidden/x",
        "org/.x",
        "org/x.",
        "-x/y",
        "org/x-",
        "_/x",
        "_",
        "org/x.git",
        "org/ü",
        "org/a b",
        "org/a\n",
        "org\\name",
        "org/%2e%2e",
        "https://host/org/name",
        "x" * 97,
    ],
)
def test_a_repository_that_breaks_the_rules_is_refused_with_the_rules(repo: str) -> None:
    with pytest.raises(InvalidReference, match="a repository is 'name' or 'org/name'"):
        Reference(repo=repo)


@pytest.mark.parametrize(
    "revision",
    [
        "",
        "@",
        "a b",
        "a..b",
        "a//b",
        "/a",
        "a/",
        ".a",
        "a/.b",
        "a.",
        "a.lock",
        "a.lock/b",
        "-a",
        "a~1",
        "a^",
        "a:b",
        "a?",
        "a*",
        "a[",
        "a\\b",
        "a@{1}",
        "é",
        "a\x7f",
        "a\n",
        "sha256:abc",
        "sha256:" + "A" * 64,
        "sha1:" + "a" * 40,
        "x" * 241,
        "X" * 81,
    ],
)
def test_a_revision_that_breaks_the_rules_is_refused_with_the_rules(revision: str) -> None:
    with pytest.raises(InvalidReference, match="a revision is a branch, a tag, a commit"):
        Reference(repo="org/name", revision=revision)


def test_without_a_revision_main_is_meant() -> None:
    assert Reference.parse("org/name") == Reference(repo="org/name", revision="main")
    assert Reference.parse("gpt2").repo == "gpt2"


def test_an_empty_revision_is_not_main() -> None:
    with pytest.raises(InvalidReference):
        Reference.parse("org/name@")


def test_what_is_not_text_is_refused() -> None:
    with pytest.raises(InvalidReference, match="not NoneType"):
        Reference.parse(None)  # type: ignore[arg-type]


def test_a_reference_tells_whether_it_can_ever_mean_something_else() -> None:
    commit = "0123456789" * 4
    digest = Digest.of(b"")
    assert Reference.parse(f"org/name@{commit}").commit == commit
    assert Reference.parse(f"org/name@{digest}").manifest == digest
    assert Reference.parse(f"org/name@{commit}").pinned
    assert Reference.parse(f"org/name@{digest}").pinned
    for revision in ("main", commit[:39], commit[:7], "v1"):
        assert not Reference(repo="org/name", revision=revision).pinned
    assert Reference.parse("org/name@0123456").prefix == "0123456"
    assert Reference.parse("org/name@012345").prefix is None


def test_a_long_wrong_reference_is_shown_in_part() -> None:
    with pytest.raises(InvalidReference) as caught:
        Reference.parse("x" * 100_000)
    assert len(str(caught.value)) < 1000


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_quoted_names_come_back_and_have_no_capitals_and_no_slash(name: str) -> None:
    quoted = quote_name(name)
    assert unquote_name(quoted) == name
    assert quoted == quoted.lower()
    assert "/" not in quoted


def test_names_that_differ_in_case_are_quoted_apart() -> None:
    assert quote_name("Main").lower() != quote_name("main").lower()
