"""The list of models: search, filters, order, pages."""

from __future__ import annotations

import json
from collections.abc import Mapping

import sqlalchemy as sa
from starlette.responses import Response

from hubstate_registry.context import Call
from hubstate_registry.dispatch import Rule
from hubstate_registry.errors import BadRequest
from hubstate_registry.names import encodes
from hubstate_registry.routes import render
from hubstate_registry.routes.repos import expanded
from hubstate_registry.storage.repositories import from_row
from hubstate_registry.storage.schema import references, repositories, repository_tags

__all__ = ["RULES"]

_PAGE, _MOST = 200, 1000
_ORDERS = {"lastModified": repositories.c.modified, "createdAt": repositories.c.created}
_NEUTRAL = ("downloads", "likes", "trendingScore", "downloadsAllTime")  # not counted here: all 0


def models(call: Call) -> Response:
    """The repositories that the caller may know of, newest change first unless told."""
    key = ("models", call.principal.token, call.scope["query_string"], call.base)
    return call.again(key, lambda: _models(call))


def _models(call: Call) -> Response:
    query = call.query
    size = _size(query.get("limit"))
    column = _order(query.get("sort"))
    statement = _select(call).order_by(column.desc(), repositories.c.id.desc())
    if query.get("cursor"):
        statement = statement.where(_after(column, query["cursor"]))
    with call.read() as connection:
        rows = connection.execute(statement.limit(size + 1)).all()
    headers: Mapping[str, str] = {}
    if len(rows) > size:
        last = rows[size - 1]
        headers = render.link(call, json.dumps([getattr(last, column.name), last.id]))
    return render.answer([_item(call, row) for row in rows[:size]], headers=headers)


def _item(call: Call, row: sa.Row[tuple[object, ...]]) -> dict[str, object]:
    query, repository = call.query, from_row(row)
    item = render.model(repository, sha=row.commit)
    wanted = query.getlist("expand")
    if render.flag(query.get("full")) or render.flag(query.get("cardData")) or "cardData" in wanted:
        item["cardData"] = dict(repository.card) or None
    return expanded(item, wanted)


def _select(call: Call) -> sa.Select[tuple[object, ...]]:
    query = call.query
    main = (
        sa.select(references.c.commit)
        .where(references.c.repository == repositories.c.id)
        .where(references.c.kind == "branch", references.c.name == "main")
        .scalar_subquery()
    )
    statement: sa.Select[tuple[object, ...]] = sa.select(repositories, main.label("commit"))
    readable = call.principal.readable
    if readable is not None:
        mine = repositories.c.namespace.in_(sorted(readable))
        known = call.registry.settings.anonymous or call.principal.user is not None
        statement = statement.where(mine | ~repositories.c.private if known else mine)
    if author := query.get("author"):
        statement = statement.where(repositories.c.namespace == _text(author))
    for word in (query.get("search") or "").lower().split()[:8]:
        statement = statement.where(repositories.c.key.contains(_text(word), autoescape=True))
    if gated := query.get("gated"):
        open_ = repositories.c.gated == ""
        statement = statement.where(~open_ if render.flag(gated) else open_)
    for tag in _tags(call):
        tagged = sa.select(repository_tags.c.repository).where(repository_tags.c.tag == _text(tag))
        statement = statement.where(repositories.c.id.in_(tagged))
    return statement


def _tags(call: Call) -> list[str]:
    query = call.query
    given = [part for text in query.getlist("filter") for part in text.split(",") if part]
    given += [query[name] for name in ("pipeline_tag", "library") if query.get(name)]
    if len(given) > 20:
        raise BadRequest("at most 20 filters")
    return given


def _text(text: str) -> str:
    if not encodes(text) or "\0" in text:
        raise BadRequest("the query is not text")
    return text


def _size(text: str | None) -> int:
    if text is None:
        return _PAGE
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise BadRequest("limit is a number")
    return max(1, min(int(text), _MOST))


def _order(text: str | None) -> sa.ColumnElement[float]:
    name = (text or "lastModified").removeprefix("-")
    if name in _NEUTRAL:
        return repositories.c.modified
    if name not in _ORDERS:
        raise BadRequest(f"sort is one of {', '.join([*_ORDERS, *_NEUTRAL])}")
    return _ORDERS[name]


def _after(column: sa.ColumnElement[float], mark: str) -> sa.ColumnElement[bool]:
    try:
        value, number = json.loads(render.read_cursor(mark))
        value, number = float(value), int(number)
        if not abs(number) < 2**63:
            raise ValueError
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise BadRequest("the cursor is not one of this registry's") from error
    return (column < value) | ((column == value) & (repositories.c.id < number))


RULES = [Rule(method="GET", pattern="/api/models", handler=models, kept=True)]
