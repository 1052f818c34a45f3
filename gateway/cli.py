"""The command line: `gateway [server]`, `gateway check`, `gateway routes`, `gateway token`.

The exit codes are in `exits`. What runs a server is in `serve`, several of them in `workers`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway import __version__
from gateway.exits import EXIT_CANNOT_START, EXIT_DONE, EXIT_STOPPED_AT_ONCE, EXIT_WRONG
from gateway.settings import ServiceSettings, Settings, SettingsError, environment, load

TOKEN_SECONDS = 3600

_USAGE = """\
gateway [server] [--demo] [--config FILE]
       gateway check [--config FILE]
       gateway routes [--config FILE] [METHOD PATH]
       gateway token --sub SUBJECT [options; gateway token --help]"""
_COMMANDS = """\
commands:
  server   run the gateway (the default); --demo adds a small demo service when none is configured
  check    read the settings and say what would run
  routes   which paths lead where, or where METHOD PATH would lead
  token    print a token for SUBJECT, signed with JWT_SECRET

Settings come from the environment and from the file that GATEWAY_CONFIG or --config names."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Wrong usage leaves by SystemExit(2)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in _GLOBAL_OPTIONS):
        arguments.insert(0, "server")
    if arguments[0] == "token":
        options = _token_parser().parse_args(arguments[1:])
    else:
        options = _parser().parse_args(arguments)
    if options.command == "routes" and len(options.request) not in (0, 2):
        _parser().error("routes takes METHOD and PATH, or neither")
    try:
        return _COMMAND[options.command](options)
    except SettingsError as error:
        print(f"gateway: {error}", file=sys.stderr)  # noqa: T201 - the command's answer
        return EXIT_WRONG if options.command == "check" else EXIT_CANNOT_START
    except KeyboardInterrupt:
        return EXIT_STOPPED_AT_ONCE


_GLOBAL_OPTIONS = ("-h", "--help", "--version")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gateway",
        usage=_USAGE,
        epilog=_COMMANDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gateway {__version__}")
    parser.add_argument("command", choices=sorted(_COMMAND), help=argparse.SUPPRESS)
    parser.add_argument("request", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--demo", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--config", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    return parser


def _token_parser() -> argparse.ArgumentParser:
    # Not read from the package of tokens: help needs none of its libraries.
    parser = argparse.ArgumentParser(
        prog="gateway token",
        description="Print a JSON Web Token (HS256) signed with JWT_SECRET, for development.",
        allow_abbrev=False,
    )
    parser.set_defaults(command="token")
    parser.add_argument("--sub", required=True, metavar="SUBJECT", help="who it is for")
    parser.add_argument("--tenant", help="the subject's tenant")
    parser.add_argument("--tier", choices=("anonymous", "free", "pro", "enterprise"))
    parser.add_argument(
        "--scope", nargs="+", action="extend", default=[], help="such as events:read events:write"
    )
    parser.add_argument(
        "--client-id", nargs="+", action="extend", default=[], help="whose events it also reads"
    )
    parser.add_argument(
        "--expires-in",
        type=_whole_seconds,
        default=TOKEN_SECONDS,
        metavar="SECONDS",
        help=f"how long it is good (default {TOKEN_SECONDS})",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="the settings file")
    return parser


def _whole_seconds(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 11 and int(text) > 0):
        raise argparse.ArgumentTypeError("expected whole seconds, more than 0")
    return int(text)


def _server(options: argparse.Namespace) -> int:
    """Run until a signal ends it."""
    # Imported here: `check` and `--help` need none of the server's libraries.
    from gateway.serve import StartError, raise_open_files, run

    environ = environment()
    settings = load(environ, options.config)
    raise_open_files()
    if settings.workers > 1 and settings.worker == 0:
        from gateway.workers import run_workers

        _tokens(settings)  # a bad key is said here once, not by each of them
        return run_workers(settings, _arguments_again(options), environ)
    try:
        return run(settings, lambda: load(environ, options.config), demo=options.demo)
    except StartError as error:
        print(f"gateway: {error}", file=sys.stderr)  # noqa: T201 - the command's answer
        return EXIT_CANNOT_START


def _arguments_again(options: argparse.Namespace) -> list[str]:
    arguments = ["server"]
    if options.demo:
        arguments.append("--demo")
    if options.config is not None:
        arguments += ["--config", str(options.config)]
    return arguments


def _check(options: argparse.Namespace) -> int:
    """Say what would run; SettingsError when it could not."""
    settings = load(environment(), options.config)
    if settings.tls_cert is not None or settings.upstream_ca is not None:
        from gateway.serve import StartError, check_tls

        try:
            check_tls(settings)
        except StartError as error:
            raise SettingsError(str(error)) from None
    _say(*_summary(settings))
    return EXIT_DONE


def _summary(settings: Settings) -> list[str]:
    scheme = "http" if settings.tls_cert is None else "https"
    limit = settings.rate_limit
    said = f"{limit.quota} in {limit.window_seconds} s" if limit else "off"
    signed, doubts = _tokens(settings)
    return [
        f"listen      {scheme}://{_authority(settings.host, settings.port)}",
        f"workers     {settings.workers}",
        f"rate limit  {said}, per client address",
        f"tokens      {signed}",
        *(f"service     {_service_line(service)}" for service in settings.services),
        *([] if settings.services else ["service     none"]),
        *(f"warning     {warning}" for warning in (*settings.warnings, *doubts)),
    ]


def _tokens(settings: Settings) -> tuple[str, list[str]]:
    """How tokens are signed, and what is doubtful about that; SettingsError for a bad key."""
    if settings.jwt_secret is None and settings.jwt_public_key is None:
        from gateway.policy.keyless import Keyless

        keyless = Keyless(settings.host, allow_anonymous=settings.allow_anonymous)
        return "none", [keyless.warning()]
    from gateway.policy.auth import Authenticator

    authenticator = Authenticator(settings)
    return ", ".join(authenticator.algorithms), authenticator.warnings()


def _service_line(service: ServiceSettings) -> str:
    names = ", ".join(service.aliases)
    hidden = "" if service.exposed else " (not under /api/v1/)"
    return f"{names}{hidden}: {', '.join(str(endpoint) for endpoint in service.endpoints)}"


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _routes(options: argparse.Namespace) -> int:
    """The paths that lead somewhere, or where one request would lead."""
    from gateway.control.app import PATHS
    from gateway.routing.table import BadTarget, RouteTable, split_target

    settings = load(environment(), options.config)
    if not options.request:
        _say(*(f"GET  {path}  the gateway" for path in PATHS))
        _say(*(_route_line(service) for service in settings.services if service.exposed))
        return 0
    method, target = options.request
    exposed = {
        a: service for service in settings.services if service.exposed for a in service.aliases
    }
    try:
        path, query = split_target(target.encode())
    except BadTarget as error:
        _say(f"{method} {target}: 400, {error}")
        return 0
    service, route, rest = RouteTable(exposed, PATHS).match(path) or (None, "", b"")
    if service is not None:
        forwarded = (rest + query).decode()
        _say(
            f"route     {route}",
            f"service   {service.name}",
            *(f"endpoint  {endpoint}{forwarded}" for endpoint in service.endpoints),
        )
    elif route:
        _say(f"{method} {target}: the gateway itself")
    else:
        _say(f"{method} {target}: 404, no service and no path of the gateway")
    return 0


def _token(options: argparse.Namespace) -> int:
    """Print a token that this gateway takes; SettingsError when there is no secret to sign with."""
    from gateway.errors import Rejection
    from gateway.policy.auth import Authenticator, Credentials
    from gateway.policy.signatures import Signatures

    settings = load(environment(), options.config)
    if settings.jwt_secret is None:
        raise SettingsError("settings: JWT_SECRET is not set, expected the secret to sign with")
    now = int(time.time())
    claims = {
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "sub": options.sub,
        "tenant": options.tenant,
        "tier": options.tier,
        "scope": " ".join(options.scope) or None,
        "client_ids": options.client_id or None,
        "iat": now,
        "exp": now + options.expires_in,
    }
    given = {name: value for name, value in claims.items() if value is not None}
    try:
        token = Signatures(settings.jwt_secret).sign(given)
    except TypeError:  # bytes of the command line that are no UTF-8
        raise SettingsError("the token can't be made, expected text in UTF-8") from None
    field = Credentials(authorization=(b"Bearer " + token.encode("ascii"),))
    found = Authenticator(settings).identify(field, now)
    if isinstance(found, Rejection):
        raise SettingsError(f"{found.message}, expected values that a token may hold")
    _say(token)
    return EXIT_DONE


def _route_line(service: ServiceSettings) -> str:
    paths = ", ".join(f"/api/v1/{alias}/…" for alias in service.aliases)
    return f"ANY  {paths}  {', '.join(str(endpoint) for endpoint in service.endpoints)}"


def _say(*lines: str) -> None:
    for line in lines:
        print(line)  # noqa: T201 - the command's answer


_COMMAND: dict[str, Callable[[argparse.Namespace], int]] = {
    "server": _server,
    "check": _check,
    "routes": _routes,
    "token": _token,
}
