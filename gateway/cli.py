"""The command line: `gateway [server]`, `gateway worker`, `gateway check`, `gateway routes`,
`gateway token`, `gateway key new`.

What is said of routes is in `cli_routes`, keys in `cli_keys`. The exit codes are in `exits`. What
runs a server is in `serve`, several of them in `workers`, a worker of jobs in `serve_worker`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway import __version__, cli_keys
from gateway.exits import EXIT_CANNOT_START, EXIT_DONE, EXIT_STOPPED_AT_ONCE, EXIT_WRONG
from gateway.listener_url import listener_url
from gateway.settings import ServiceSettings, Settings, SettingsError, environment, file_of, load
from gateway.settings_jobs import EMBEDDED
from gateway.settings_limits import AbuseSettings

TOKEN_SECONDS = 3600

_USAGE = """\
gateway [server] [--demo] [--config FILE]
       gateway worker [--task-queue NAME ...] [--config FILE]
       gateway check [--config FILE]
       gateway routes [--config FILE] [METHOD PATH] [--header NAME:VALUE ...]
       gateway token --sub SUBJECT [options; gateway token --help]
       gateway key new [options; gateway key new --help]"""
_COMMANDS = """\
commands:
  server   run the gateway (the default); --demo adds a small demo service when none is configured
  worker   do the jobs of a gateway, from Temporal's queues: all that the settings name, or NAMEs
  check    read the settings and say what would run
  routes   which paths lead where, or where METHOD PATH would lead and what it would meet, whoever
           asks: credentials in --header are not looked at
  token    print a token for SUBJECT, signed with JWT_SECRET
  key      make an API key: it is printed once, its hash goes to the file API_KEYS

Settings come from the environment and from the file that GATEWAY_CONFIG or --config names."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Wrong usage leaves by SystemExit(2)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in _GLOBAL_OPTIONS):
        arguments.insert(0, "server")
    if arguments[0] == "token":
        options = _token_parser().parse_args(arguments[1:])
    elif arguments[0] == "key":
        options = cli_keys.parser().parse_args(arguments[1:])
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
    parser.add_argument("--task-queue", action="append", default=[], help=argparse.SUPPRESS)
    parser.add_argument(
        "--header", type=_field, action="append", default=[], help=argparse.SUPPRESS
    )
    return parser


def _field(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError("expected NAME:VALUE")
    return name.strip(), value.strip()


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
        "--scope",
        nargs="+",
        action="extend",
        default=[],
        help="such as events:read events:write; also with commas between",
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


def _worker(options: argparse.Namespace) -> int:
    """Do jobs until a signal ends it."""
    from gateway.jobs.needs import needed

    settings = load(environment(), options.config)
    needed(settings)
    from gateway.serve_worker import run

    return run(settings, options.task_queue)


def _arguments_again(options: argparse.Namespace) -> list[str]:
    arguments = ["server"]
    if options.demo:
        arguments.append("--demo")
    if options.config is not None:
        arguments += ["--config", str(options.config)]
    return arguments


def _check(options: argparse.Namespace) -> int:
    """Say what would run; SettingsError when it could not."""
    environ = environment()
    settings = load(environ, options.config)
    if settings.trace_sample > 0:
        from gateway.observe.trace import exporter_class

        exporter_class(settings.trace_sample)
    if settings.tls_cert is not None or settings.upstream_ca is not None:
        from gateway.serve import StartError, check_tls

        try:
            check_tls(settings)
        except StartError as error:
            raise SettingsError(str(error)) from None
    _say(f"file        {file_of(environ, options.config) or 'none'}", *_summary(settings))
    return EXIT_DONE


def _summary(settings: Settings) -> list[str]:
    from gateway.cli_routes import check_lines

    limit = settings.rate_limit
    said = f"{limit.quota} in {limit.window_seconds} s" if limit else "off"
    signed, doubts = _tokens(settings)
    tiers = ", ".join(tier.name for tier in settings.tiers)
    return [
        f"listen      {listener_url(settings, settings.host, settings.port)}",
        f"workers     {settings.workers}",
        f"rate limit  {said}, per caller{f', besides tiers {tiers}' if tiers else ''}",
        f"abuse       {_abuse(settings.abuse)}",
        f"tokens      {signed}",
        f"auth        {settings.auth_default}, where a service or a row says nothing else",
        f"cors        {', '.join(settings.cors_origins) or 'off'}",
        f"redis       {'none' if settings.redis_url is None else f'set, {settings.backplane}'}",
        f"database    {_database(settings)}",
        f"requests    {_kept(settings)}",
        f"jobs        {_jobs(settings)}",
        *(f"service     {_service_line(service)}" for service in settings.services),
        *([] if settings.services else ["service     none"]),
        *check_lines(settings),
        *(f"warning     {warning}" for warning in (*settings.warnings, *doubts)),
    ]


def _abuse(abuse: AbuseSettings | None) -> str:
    if abuse is None:
        return "off"
    figures = (
        f"{count} {what}"
        for count, what in (
            (abuse.bad_credentials, "bad credentials"),
            (abuse.refusals, "refusals"),
        )
        if count
    )
    return (
        f"{' or '.join(figures) or 'nothing'} in {abuse.window_seconds:g} s shut an address out "
        f"for {abuse.close_seconds:g} s to {abuse.close_max_seconds:g} s"
    )


def _database(settings: Settings) -> str:
    """Its kind alone: an address may hold a password."""
    if settings.database_url is None:
        return f"SQLite in {settings.state_dir}"
    return "SQLite" if settings.database_url.startswith("sqlite") else "PostgreSQL"


def _kept(settings: Settings) -> str:
    if settings.request_log == "off":
        return "not kept"
    return f"a row of each in the database, for {settings.request_log_days} days"


def _jobs(settings: Settings) -> str:
    """Where they are kept, and what else they need."""
    from gateway.jobs.needs import missing_for_jobs, queues_of

    missing = missing_for_jobs(settings)
    if missing is not None:
        return f"off: {missing} is not set"
    queues = queues_of(settings)
    said = (
        f"namespace {settings.temporal_namespace}, "
        f"{'queue' if len(queues) == 1 else 'queues'} {', '.join(queues)}"
    )
    if settings.temporal_address == EMBEDDED:
        return f"embedded: the gateway runs Temporal and its worker; {said}"
    return f"at Temporal {settings.temporal_address}, {said}; needs a worker (gateway worker)"


def _tokens(settings: Settings) -> tuple[str, list[str]]:
    """How callers are known, and what is doubtful about that; SettingsError for a bad key."""
    signed = settings.jwt_secret or settings.jwt_public_key or settings.jwks_url
    if not signed and not settings.api_keys.exists():
        from gateway.policy.keyless import Keyless

        keyless = Keyless(settings.host, allow_anonymous=settings.allow_anonymous)
        return "none", [keyless.warning()]
    from gateway.policy.api_keys import ApiKeys
    from gateway.policy.auth import Authenticator
    from gateway.policy.jwks import Jwks

    keys = ApiKeys.read(settings.api_keys)
    jwks = None if settings.jwks_url is None else Jwks(settings.jwks_url)
    authenticator = Authenticator(settings, keys=keys, jwks=jwks)
    known = list(authenticator.algorithms)
    if jwks is not None:
        known.append("the keys of JWKS_URL")
    if keys:
        known.append(f"{len(keys)} API keys")
    return ", ".join(known) or "none", authenticator.warnings()


def _service_line(service: ServiceSettings) -> str:
    names = ", ".join(service.aliases)
    notes = [] if service.exposed else ["not under /api/v1/"]
    if service.durable:
        notes.append("requests may become jobs")
    noted = f" ({', '.join(notes)})" if notes else ""
    return f"{names}{noted}: {', '.join(str(endpoint) for endpoint in service.endpoints)}"


def _routes(options: argparse.Namespace) -> int:
    """The paths that lead somewhere, or what one request would meet."""
    from gateway.cli_routes import request_lines, table_lines

    settings = load(environment(), options.config)
    if options.request:
        method, target = options.request
        _say(*request_lines(settings, method, target, options.header))
    else:
        _say(*table_lines(settings))
    return EXIT_DONE


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
        "scope": " ".join(cli_keys.scopes_of(options.scope)) or None,
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


def _say(*lines: str) -> None:
    for line in lines:
        print(line)  # noqa: T201 - the command's answer


_COMMAND: dict[str, Callable[[argparse.Namespace], int]] = {
    "server": _server,
    "worker": _worker,
    "check": _check,
    "routes": _routes,
    "token": _token,
    "key": cli_keys.run,
}
