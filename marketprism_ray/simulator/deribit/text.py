"""How Deribit writes: numbers as their own text, JSON-RPC around them."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from marketprism_ray.simulator.market import plain

TOO_MANY = 10028


class RpcError(Exception):
    """An error answer."""

    def __init__(self, code: int, message: str, detail: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.detail = detail

    @property
    def content(self) -> dict[str, Any]:
        """What stands under ``error``."""
        more = {} if self.detail is None else {"data": self.detail}
        return {"code": self.code, "message": str(self), **more}


class Raw:
    """A number whose text is written as it is."""

    def __init__(self, text: str) -> None:
        self.text = text


def json_text(value: Any) -> str:
    """Write JSON; `Raw` texts go in as they are."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(str(k))}:{json_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(json_text(v) for v in value) + "]"
    return json.dumps(value)


def exponent(value: Decimal) -> Raw:
    """Write a small number as the venue does: ``8.12e-5``."""
    return Raw(f"{value.normalize():e}")


def raw_or_null(value: Decimal | str | None) -> Raw | None:
    """Write a number, or null for None."""
    if value is None:
        return None
    return Raw(value if isinstance(value, str) else plain(value))


def rpc(identity: Any, begin: int, end: int, **content: Any) -> str:
    """Write an answer; ``begin`` and ``end`` are when the request came and was done, µs."""
    named = {} if identity is None else {"id": identity}
    return json_text(
        {"jsonrpc": "2.0", **named, **content, "usIn": begin, "usOut": end, "usDiff": end - begin, "testnet": False}
    )


def push(key: str, data: str) -> str:
    """Write a notification of a channel."""
    return f'{{"jsonrpc":"2.0","method":"subscription","params":{{"channel":"{key}","data":{data}}}}}'


def number(text: str) -> str:
    """Write an amount: large round ones as the venue does now and then, ``2.2e3``."""
    if text.endswith("000") and "." not in text:
        digits = text.rstrip("0")
        return f"{digits[0]}.{digits[1:] or '0'}e{len(text) - 1}"
    return text
