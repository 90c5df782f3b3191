"""Who the caller is, and whether a model card reads well."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response

from hubstate_registry.cards import InvalidCard, parse_card
from hubstate_registry.context import Call
from hubstate_registry.dispatch import Rule
from hubstate_registry.names import parse_text

__all__ = ["RULES"]


def whoami(call: Call) -> Response:
    """The user, their organisations and what this token may do."""
    call.need_user()
    principal = call.principal
    orgs = [
        {
            "type": "org",
            "name": name,
            "fullname": name,
            "roleInOrg": str(role),
            "isEnterprise": False,
        }
        for name, role in sorted(principal.memberships.items())
    ]
    token = {"displayName": principal.token_name, "role": str(principal.best)}
    return JSONResponse(
        {
            "type": "user",
            "id": principal.user,
            "name": principal.user,
            "fullname": principal.user,
            "isPro": False,
            "canPay": False,
            "orgs": orgs,
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


def validate_yaml(call: Call) -> Response:
    """Whether the front-matter of a README can be read."""
    content = parse_text(call.fields().get("content"), what="content", limit=4 << 20)
    try:
        parse_card(content)
    except InvalidCard as error:
        problem = {"message": str(error)}
        return JSONResponse({"errors": [problem], "warnings": []}, status_code=400)
    return JSONResponse({"errors": [], "warnings": []})


RULES = [
    Rule(method="GET", pattern="/api/whoami-v2", handler=whoami, kept=True),
    Rule(method="POST", pattern="/api/validate-yaml", handler=validate_yaml, body="json"),
]
