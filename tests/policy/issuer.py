"""An issuer of keys on a real socket, which answers as a test says."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import AllowedPrivateKeys, ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tests.connection import eventually
from tests.policy.keys import NOW

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def jwk(key: AllowedPrivateKeys, kid: str | None = None, **members: object) -> dict[str, Any]:
    """The public half as a JSON Web Key; a member given as ... is left out."""
    public: Any = key.public_key()
    if isinstance(public, RSAPublicKey):
        made = RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(public, EllipticCurvePublicKey):
        made = ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        made = OKPAlgorithm.to_jwk(public, as_dict=True)
    made.pop("key_ops", None)
    given = made | ({} if kid is None else {"kid": kid}) | members
    return {name: value for name, value in given.items() if value is not ...}


def jwk_set(*keys: dict[str, Any]) -> bytes:
    """A set of keys as an issuer sends it."""
    return json.dumps({"keys": keys}).encode()


def issued(key: AllowedPrivateKeys, alg: str, kid: str | None = None, **claims: object) -> bytes:
    """A token for alice that ends an hour after NOW, signed with an issuer's key."""
    header = {} if kid is None else {"kid": kid}
    return jwt.encode({"sub": "alice", "exp": NOW + 3600} | claims, key, alg, header).encode()


@dataclass(slots=True)
class Issuer:
    """Answers with `keys` under `headers`, or as `answer` does."""

    keys: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    answer: Answer | None = None
    url: str = ""
    seen: list[dict[str, str]] = field(default_factory=list)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request."""
        self.seen.append({name.lower(): value for name, value in request.headers.items()})
        if self.answer is not None:
            return await self.answer(request)
        return web.Response(body=self.keys, headers=self.headers)

    async def asked(self, count: int) -> None:
        """Returns once it was asked `count` times."""
        await eventually(lambda: len(self.seen) >= count, f"{count} requests")


@asynccontextmanager
async def issuer(*keys: dict[str, Any], tls: ssl.SSLContext | None = None) -> AsyncIterator[Issuer]:
    """An issuer on 127.0.0.1, at any free port."""
    started = Issuer(jwk_set(*keys))
    runner = web.ServerRunner(
        web.Server(started.handle, handler_cancellation=True), shutdown_timeout=0.1
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        host, port = runner.addresses[0][:2]
        started.url = f"{'http' if tls is None else 'https'}://{host}:{port}/keys?secret=s3cret"
        yield started
    finally:
        await runner.cleanup()
