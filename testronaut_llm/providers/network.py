"""How this machine reaches others: proxies and certificates of the environment, as settings for every HTTP client.

httpx reads the environment by itself, and raises a different raw exception for each value that it cannot use. Here it
is read once, and a value that cannot be used is one typed error that names its variable and never its value.
"""

from __future__ import annotations

import importlib
import importlib.util
import ipaddress
import os
import re
import ssl
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.request import getproxies

from testronaut_llm.errors import ConnectionFailedError, LLMError, Verdict
from testronaut_llm.providers.endpoint import fault_of, host_of, is_loopback, ollama_url

if TYPE_CHECKING:
    import httpx

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_FOR_LITELLM_ALONE = ("SSL_CERTIFICATE", "SSL_SECURITY_LEVEL")
"""Variables of LiteLLM's own HTTP clients, which are never used here."""
_READ_BY_HTTPX = re.compile(r"(?i:(http|https|all|no)_proxy)|SSL_CERT_FILE|SSL_CERT_DIR|SSLKEYLOGFILE")
_IMPORTING = threading.Lock()


class Proxy(NamedTuple):
    """A proxy, and the variable that names it. Its URL as text holds no user name and no password."""

    variable: str
    proxy: httpx.Proxy

    def __str__(self) -> str:
        return f"{self.proxy.url} ({self.variable})"


def client_settings(
    url: str | None, *, asynchronous: bool = False, redirects: bool = False, **transport: Any
) -> dict[str, Any]:
    """Returns the arguments of an `httpx.Client` (or `AsyncClient`) for one endpoint.

    The client reads nothing from the environment. Loopback is never reached through a proxy.

    Args:
        url: the endpoint; None where LiteLLM knows it.
        asynchronous: are they for an `AsyncClient`?
        redirects: are redirects followed, which may lead to any host?
        transport: further arguments of httpx's transports, such as `limits`.

    Raises:
        ConnectionFailedError: a variable holds what cannot be used; the message names it. Another try would fail the
            same way, so the next model is asked.
    """
    import httpx

    plain = url is not None and url.startswith("http:") and not redirects
    verify = _no_tls() if plain else _tls()
    settings = {"follow_redirects": redirects, "trust_env": False, "verify": verify, **transport}
    if url is None or redirects or not is_loopback(url):
        make = httpx.AsyncHTTPTransport if asynchronous else httpx.HTTPTransport
        settings["mounts"] = {
            pattern: one and make(proxy=one.proxy, verify=verify, trust_env=False, **transport)
            for pattern, one in _routes(url).items()
        }
    return settings


def proxy_for(url: str | None) -> Proxy | None:
    """The proxy that connections to this endpoint go through, as far as its scheme tells."""
    with suppress(LLMError):
        if url is None or not is_loopback(url):
            return _proxies(getproxies()).get("http" if url and url.startswith("http:") else "https")
    return None


def faults() -> list[str]:
    """What the environment holds that no HTTP client can use: a sentence each, empty on a sound machine."""
    found = []
    for look in (lambda: _proxies(getproxies()), _tls):
        try:
            look()
        except LLMError as error:
            found.append(str(error))
    return found


def imported(name: str) -> Any:
    """Imports a library that makes HTTP clients while it is imported, whatever the environment holds.

    Variables that would make the import raise are taken out of the environment until it has ended; other threads see
    that, too. Sound variables stay.
    """
    if name in sys.modules:
        return importlib.import_module(name)
    with _IMPORTING:
        hidden = {variable: os.environ.pop(variable) for variable in tuple(_spoiling(os.environ))}
        try:
            return importlib.import_module(name)
        finally:
            for variable, value in hidden.items():
                os.environ.setdefault(variable, value)


def _spoiling(environ: Mapping[str, str]) -> Iterator[str]:
    import httpx

    yield from (name for name in _FOR_LITELLM_ALONE if name in environ)
    if fault_of(ollama_url(environ.get("OLLAMA_HOST", ""))):
        yield "OLLAMA_HOST"
    try:
        httpx.Client().close()
    except Exception:  # noqa: BLE001 - InvalidURL, ValueError, ImportError, OSError, ...: each value has its own
        yield from filter(_READ_BY_HTTPX.fullmatch, environ)


def _routes(url: str | None) -> dict[str, Proxy | None]:
    """Returns URL patterns of httpx, each with its proxy or None for a direct connection."""
    found = getproxies()
    direct = set(re.split(r"[\s,]+", found.get("no", "")))
    proxies = {} if "*" in direct else _proxies(found)
    if not proxies:
        return {}
    routes: dict[str, Proxy | None] = {f"{scheme}://": proxy for scheme, proxy in proxies.items()}
    patterns = (_pattern(entry, host_of(url or "")) for entry in (*_LOOPBACK, *direct))
    return routes | dict.fromkeys(filter(_is_pattern, patterns))


def _proxies(found: Mapping[str, str]) -> dict[str, Proxy]:
    """The proxy of each scheme."""
    named = {scheme: next((name for name in (scheme, "all") if found.get(name)), None) for scheme in ("http", "https")}
    return {scheme: _proxy(name, found[name].strip()) for scheme, name in named.items() if name is not None}


def _proxy(name: str, value: str) -> Proxy:
    import httpx

    holders = (one for one in os.environ if one.lower() == f"{name}_proxy" and os.environ[one].strip() == value)
    variable = next(holders, "the proxy of the system's settings")
    scheme, mark, _ = value.partition("://")
    wanted = f"set {variable} to a URL such as http://host:8080, or unset it"
    try:
        proxy = httpx.Proxy(value if mark else f"http://{value}")
    except (httpx.InvalidURL, ValueError):
        known = not mark or scheme.lower() in ("http", "https", "socks5", "socks5h")
        shown = f" (its scheme is {scheme!r})" if not known and re.fullmatch(r"[A-Za-z0-9+.-]{1,12}", scheme) else ""
        raise _unusable(f"{variable} names no proxy that can be used{shown}", wanted) from None
    if not proxy.url.host:
        raise _unusable(f"{variable} names no proxy that can be used", wanted)
    if proxy.url.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        install = "pip install 'httpx[socks]'"
        raise _unusable(f"{variable} names a SOCKS proxy, and the package socksio is not installed", f"try: {install}")
    if proxy.url.scheme == "https":
        proxy.ssl_context = _tls()
    return Proxy(variable, proxy)


def _pattern(entry: str, host: str) -> str:
    """Returns the pattern of httpx for an entry of NO_PROXY; empty where it is a range without this host.

    `.corp` and `*.corp` are the hosts below corp, `corp` is that host, too; `[::1]`, `::1`, `fd00::/8` and `10.0.0.0/8`
    are addresses, `host:8080` and `[::1]:8080` one port.
    """
    if "://" in entry:
        return entry
    bare = re.sub(r"^\[(.*?)\](?!:\d+$)", r"\1", entry)
    try:
        network = ipaddress.ip_network(bare, strict=False)
    except ValueError:
        domain = entry.removeprefix("*")
        exact = domain == "localhost" or domain.startswith("[")
        return f"all://{'' if exact else '*'}{domain}" if domain else ""
    try:
        inside = ipaddress.ip_address(host) in network
    except ValueError:
        inside = False
    address = host if inside else str(network.network_address) if network.num_addresses == 1 else ""
    return f"all://[{address}]" if ":" in address else address and f"all://{address}"


def _is_pattern(pattern: str) -> bool:
    """True if httpx can read it. What it cannot read would match no host: curl, too, passes over such entries."""
    import httpx

    try:
        return bool(pattern and httpx.URL(pattern).host)
    except (httpx.InvalidURL, ValueError):
        return False


def _tls() -> ssl.SSLContext:
    file, folder, keys = (os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"))
    if folder and not file and not any(map(os.path.isdir, folder.split(os.pathsep))):
        raise _unusable("SSL_CERT_DIR is no folder", "set it to a folder of certificates, or unset it")
    try:
        return _trusting(file, folder, keys)
    except OSError as error:
        if keys and error.filename == keys:
            what, mend = "SSLKEYLOGFILE cannot be written", "set it to a file that can be, or unset it"
        else:
            variable = "SSL_CERT_FILE" if file else "SSL_CERT_DIR" if folder else "the package certifi"
            missing = "does not exist" if file and not Path(file).exists() else "holds no certificate that can be read"
            what, mend = f"{variable} {missing}", "set it to a file of certificates (PEM), or unset it"
        raise _unusable(what, mend) from None


@lru_cache(maxsize=4)
def _trusting(file: str | None, folder: str | None, keys: str | None) -> ssl.SSLContext:  # noqa: ARG001 - ssl reads it
    """What trusts servers, for all clients: reading the certificate store takes tens of milliseconds."""
    import httpx

    return httpx.create_ssl_context(trust_env=bool(file or folder))


@lru_cache(maxsize=1)
def _no_tls() -> ssl.SSLContext:
    """For plain http: it trusts nobody, so that TLS would fail rather than be trusted."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _unusable(what: str, mend: str) -> ConnectionFailedError:
    error = ConnectionFailedError(f"{what}; {mend}")
    error.verdict = Verdict.NEXT  # type: ignore[misc]  # nothing was sent, and another try would end the same way
    return error
