"""A registry behind a URL: any server that speaks the Hugging Face hub protocol.

Reading is plain HTTP::

    {base}/api/models/{repo}/revision/{revision}?blobs=true    what a reference means
    {base}/api/models/{repo}/refs, …/commits/{revision}        branches and tags, history
    {base}/{repo}/resolve/{commit}/{path}                      bytes, whole or in ranges

Many releases are asked for at once where the server can do that: :mod:`hubstate.endpoints.ahead`.

Publishing goes through huggingface_hub, in :mod:`hubstate.endpoints.uploading`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from urllib.parse import quote

from hubstate.blobs import FileInfo, Stream
from hubstate.digest import Digest
from hubstate.endpoints.ahead import ask_many
from hubstate.endpoints.answers import (
    Listing,
    Row,
    parse_history,
    parse_listing,
    parse_names,
    parse_refs,
)
from hubstate.endpoints.asking import ask, ask_pages, normal_url, with_query
from hubstate.endpoints.base import TIP, Changes, Commit, Refs, matching
from hubstate.endpoints.files import CheckedFile, HubFile
from hubstate.endpoints.searching import find_manifest, find_prefix
from hubstate.errors import (
    DigestMismatch,
    FileNotInRelease,
    HubstateError,
    RepositoryNotFound,
    RevisionNotFound,
)
from hubstate.reference import Reference, check_repo
from hubstate.transport import TRANSFER, Patience, Steady
from hubstate.values import replace

__all__ = ["HttpEndpoint"]

_WILD = frozenset("*?[")
_HELD = 32 << 20  # bytes of files that are kept, having come before anybody asked for them


class HttpEndpoint:
    """The registry behind a URL; nothing is asked of it before a method is called.

    The token of :func:`hubstate.settings.token` is shown to this host and to no other.

    Raises:
        InvalidSetting: the URL is none that requests can be sent to.

    >>> HttpEndpoint("https://Hub.Example:443/").name
    'https://hub.example'
    """

    def __init__(self, url: str, *, patience: Patience = TRANSFER) -> None:
        self._base = normal_url(url)
        self._patience = patience
        self._files: dict[tuple[str, str, str], HubFile] = {}
        self._oids: dict[tuple[str, str], str] = {}
        self._listed: set[str] = set()
        self._told: dict[Reference, Commit] = {}
        self._held: dict[tuple[str, str, str], bytes] = {}

    def __repr__(self) -> str:
        return f"HttpEndpoint({self._base!r})"

    @property
    def name(self) -> str:
        """The URL without a trailing slash."""
        return self._base

    @property
    def remote(self) -> bool:
        """True: every answer takes a network."""
        return True

    @property
    def scratch(self) -> None:
        """None: nothing that is here is on its disk."""

    # Reading

    def resolve(self, reference: Reference) -> Commit:
        """The commit that a reference means now.

        Servers tell parent, message and author in the history only: here they are None and
        empty. Files that are kept in git itself have no digest before they are read.

        Raises:
            RepositoryNotFound: there is none, or none that this token may see.
            RevisionNotFound: no such branch, tag or commit; or no commit among the last 500
                with the manifest that the reference names.
            Unreachable: no answer, or a refusal.
            Damaged: an answer that is not what the protocol says.
        """
        if reference.manifest:
            return self._find_manifest(reference, reference.manifest)
        if told := self._told.pop(reference, None):
            return told
        try:
            return self.listing(reference).commit
        except RevisionNotFound as error:
            if id := find_prefix(self, reference):
                return self.resolve(reference.at(id))
            raise RevisionNotFound(f"{error}{self._known(reference.repo)}") from error

    def _find_manifest(self, reference: Reference, wanted: Digest) -> Commit:
        if commit := find_manifest(self, reference, wanted):
            return commit
        raise RevisionNotFound(
            f"{reference} on {self._base}: no branch, no tag and none of the last commits of main "
            f"has that manifest{self._known(reference.repo)}"
        )

    def listing(self, reference: Reference) -> Listing:
        """The commit that a reference means now, with git's names of its files."""
        url = f"{self._api(reference.repo)}/revision/{quote(reference.revision, safe='')}"
        what = f"{reference} on {self._base}"
        missing = RepositoryNotFound if reference.revision == "main" else RevisionNotFound
        data = ask(f"{url}?blobs=true", what=what, missing=missing)
        listing = parse_listing(data, repo=reference.repo, what=what)
        if reference.commit not in (None, listing.commit.id):
            raise DigestMismatch(f"{what}: the server answers with commit {listing.commit.id}")
        self._note(listing)
        return listing

    def _note(self, listing: Listing) -> None:
        self._listed.add(listing.commit.id)
        for path, oid in listing.oids.items():
            self._oids[listing.commit.id, path] = oid

    def ask_ahead(self, references: Sequence[Reference]) -> int:
        """Have many references answered at once, if the server can do that; how many it answered.

        The answers are given by the next :meth:`resolve` of each; and of the small files that
        came along, by :meth:`read`.
        """
        asked, room = [one for one in references if not one.manifest], _HELD
        for reference, told in ask_many(self._base, asked):
            self._note(told.listing)
            commit = self._told[reference] = told.listing.commit
            for path, data in told.files.items():
                if (room := room - len(data)) >= 0:
                    self._held[commit.repo, commit.id, path] = data
        return len(self._told)

    def holds(self, commit: Commit, path: str) -> bool:
        """Whether the content of a file has come with an answer."""
        return (commit.repo, commit.id, path) in self._held

    @contextmanager
    def read(
        self, commit: Commit, path: str, *, start: int = 0, stop: int | None = None
    ) -> Iterator[Stream]:
        """The bytes of one file from ``start``, up to ``stop`` where it is given.

        An interrupted transfer goes on where it broke off. The size is held to what the server
        listed; the digest of a whole file that is kept in git is held to git's own SHA-1.

        Raises:
            FileNotInRelease: the commit has no such file.
            DigestMismatch: the server has a file of another size or content there.
            Unreachable: no answer, a refusal, or a part is wanted of a server that sends
                whole files only.
        """
        info = commit.files.get(path)
        if info is None:
            raise FileNotInRelease(f"{commit.repo}@{commit.id}: no file {path!r}")
        stop = info.size if stop is None else min(stop, info.size or stop)
        whole = start == 0 and stop == info.size
        held = self._held.get((commit.repo, commit.id, path)) if whole else None
        file = self._file(commit, path, info)
        oid = self._oid(commit, path) if whole and info.digest is None else None
        steady = Steady(
            lambda at: file.open(at, None if whole else stop),
            start=start,
            stop=stop,
            patience=self._patience,
        )
        try:
            if held is None and start != stop:
                steady.open()
            stream = steady if held is None else BytesIO(held)
            yield CheckedFile(stream, info, oid, what=file.what) if oid else stream
        finally:
            steady.close()

    def _oid(self, commit: Commit, path: str) -> str | None:
        """Git's name of a file; of a commit that the cache knew it has to be asked for."""
        if commit.id not in self._listed:
            self.listing(Reference(repo=commit.repo, revision=commit.id))
        return self._oids.get((commit.id, path))

    def _file(self, commit: Commit, path: str, info: FileInfo) -> HubFile:
        key = (commit.repo, commit.id, path)
        if key not in self._files:
            url = f"{self._base}/{commit.repo}/resolve/{commit.id}/{quote(path)}"
            what = f"{path} of {commit.repo}@{commit.id} from {self._base}"
            self._files[key] = HubFile(url, size=info.size, what=what)
        return self._files[key]

    def repositories(self, pattern: str = "*") -> Iterator[str]:
        """The repositories whose name matches, page by page as they are asked for.

        Raises:
            Unreachable: no answer, or a refusal.
        """
        org, slash, _ = pattern.partition("/")
        author = org if slash and not _WILD & set(org) else None
        words = "".join(" " if char in _WILD else char for char in pattern).split()
        search = max((w for w in words if w != f"{author}/"), key=len, default=None)
        url = with_query(f"{self._base}/api/models", author=author, search=search, limit="1000")
        pages = ask_pages(url, what=f"repositories on {self._base}")
        names = (name for page in pages for name in parse_names(page, what=f"{self._base}"))
        return matching(names, pattern)

    def refs(self, repo: str) -> Refs:
        """The branches and tags of a repository.

        Raises:
            RepositoryNotFound: there is none, or none that this token may see.
            Unreachable: no answer, or a refusal.
        """
        what = f"references of {repo} on {self._base}"
        return parse_refs(ask(f"{self._api(repo)}/refs", what=what), what=what)

    def history(self, reference: Reference) -> Iterator[Commit]:
        """A commit and those before it, the newest first; each takes one request when it comes.

        Raises:
            The same as :meth:`resolve`.
        """
        if reference.manifest or reference.prefix:
            reference = reference.at(self.resolve(reference).id)
        row: Row | None = None
        for older in self.rows(reference):
            if row:
                yield self._full(reference, row, older.id)
            row = older
        if row:
            yield self._full(reference, row, None)

    def _full(self, reference: Reference, row: Row, parent: str | None) -> Commit:
        commit = self.listing(reference.at(row.id)).commit
        return replace(commit, parent=parent, message=row.message, author=row.author, date=row.date)

    def rows(self, reference: Reference) -> Iterator[Row]:
        """A history without the files, page by page as it is asked for."""
        what = f"history of {reference} on {self._base}"
        url = f"{self._api(reference.repo)}/commits/{quote(reference.revision, safe='')}"
        for page in ask_pages(url, what=what):
            yield from parse_history(page, what=what)

    def _api(self, repo: str) -> str:
        return f"{self._base}/api/models/{check_repo(repo)}"

    def _known(self, repo: str) -> str:
        """What there is instead, for the message of an error."""
        with contextlib.suppress(HubstateError):
            refs = self.refs(repo)
            names = [*refs.branches, *refs.tags]
            return f"; it has {', '.join(names[:10])}{', …' if len(names) > 10 else ''}"
        return ""

    # Writing

    def commit(
        self,
        repo: str,
        changes: Changes,
        *,
        message: str,
        author: str,
        branch: str = "main",
        parent: str | None = TIP,
        tag: str | None = None,
    ) -> Commit:
        """Change files on a branch, in one commit; the repository is made where there is none.

        The author is whoever the token belongs to, not ``author``. A branch that is new begins
        at ``parent``, or where that is None at main, whose files are removed in the commit.

        Raises:
            Conflict: the branch was moved by somebody else, or the tag names another commit.
            InvalidReference: a name or a path that cannot be stored.
            Unreachable: no answer, or a refusal, such as a token that may not write.
        """
        from hubstate.endpoints.uploading import upload

        return upload(self, repo, changes, message=message, branch=branch, parent=parent, tag=tag)

    def tag(self, repo: str, tag: str, *, commit: str, author: str) -> None:
        """Name a commit for ever; nothing happens where the tag names it already.

        Raises:
            Conflict: the tag names another commit.
            RevisionNotFound: there is no such commit.
            Unreachable: no answer, or a refusal.
        """
        from hubstate.endpoints.uploading import set_tag

        set_tag(self, self.resolve(Reference(repo=repo, revision=commit)), tag)
