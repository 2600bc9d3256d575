"""How this machine reaches others: proxies and certificates of the environment, as settings for every HTTP client.

httpx reads the environment by itself, and raises another raw exception for each value that it cannot use. Here a
value that cannot be used is one typed error, which names the variable and never its value.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
import ssl
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.request import getproxies

from testronaut_llm.errors import ConnectionFailedError, LLMError, Verdict
from testronaut_llm.support.text import host_of, is_loopback

if TYPE_CHECKING:
    import httpx

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_OF_LITELLM = ("SSL_CERTIFICATE", "SSL_SECURITY_LEVEL")  # for clients of its own, which are never used here
_OF_HTTPX = re.compile(r"(?i:(http|https|all|no)_proxy)|SSL_CERT_FILE|SSL_CERT_DIR|SSLKEYLOGFILE")
_IMPORTING = threading.Lock()


class Proxy(NamedTuple):
    """A proxy, and the variable that names it. As text it holds no user name and no password."""

    variable: str
    proxy: httpx.Proxy

    def __str__(self) -> str:
        return f"{self.proxy.url} ({self.variable})"


def client_settings(
    url: str | None, *, asynchronous: bool = False, redirects: bool = False, limits: httpx.Limits | None = None
) -> dict[str, Any]:
    """Returns arguments of an `httpx.Client` (or `AsyncClient`) for one endpoint, which then reads no environment.

    Loopback is never reached through a proxy.

    Args:
        url: the endpoint; None where LiteLLM knows it.
        asynchronous: for an `AsyncClient`.
        redirects: whether redirects are followed, which may lead to any host.
        limits: how many connections there may be.

    Raises:
        ConnectionFailedError: a variable holds what cannot be used. Another try would fail in the same way, so the
            next model is asked.
    """
    import httpx

    plain = url is not None and url.startswith("http:") and not redirects
    common: dict[str, Any] = {"trust_env": False, "verify": _no_tls() if plain else _tls()}
    if limits is not None:
        common["limits"] = limits
    if url is not None and is_loopback(url) and not redirects:
        return {"follow_redirects": False, **common}
    make = httpx.AsyncHTTPTransport if asynchronous else httpx.HTTPTransport
    mounts = {pattern: one and make(proxy=one.proxy, **common) for pattern, one in _routes(url).items()}
    return {"follow_redirects": redirects, "mounts": mounts, **common}


def proxy_for(url: str | None) -> Proxy | None:
    """The proxy that connections to this endpoint go through, as far as its scheme tells."""
    with suppress(LLMError):
        if url is None or not is_loopback(url):
            return _proxies(getproxies()).get("http" if url and url.startswith("http:") else "https")
    return None


def faults() -> list[str]:
    """What the environment holds that no HTTP client can use: a sentence each."""
    found = []
    for look in (lambda: _proxies(getproxies()), _tls):
        try:
            look()
        except LLMError as error:
            found.append(str(error))
    return found


@contextmanager
def importable(name: str) -> Iterator[None]:
    """Lets a library be imported that makes HTTP clients while it is imported, whatever the environment holds.

    Variables that would make the import raise are out of the environment, for all threads, until it has ended.
    """
    if name in sys.modules:
        yield
        return
    with _IMPORTING:
        hidden = {variable: os.environ.pop(variable) for variable in tuple(_spoiling(os.environ))}
        try:
            yield
        finally:
            os.environ.update(hidden)


def _spoiling(environ: Mapping[str, str]) -> Iterator[str]:
    import httpx

    yield from (name for name in _OF_LITELLM if name in environ)
    try:
        httpx.Client().close()
    except Exception:  # noqa: BLE001 - InvalidURL, ValueError, ImportError, OSError, ...: each value has its own
        yield from filter(_OF_HTTPX.fullmatch, environ)


def _routes(url: str | None) -> dict[str, Proxy | None]:
    """URL patterns of httpx, each with its proxy or None for a direct connection."""
    found = getproxies()
    direct = re.split(r"[\s,]+", found.get("no", ""))
    proxies = {} if "*" in direct else _proxies(found)
    patterns = {_pattern(entry, host_of(url or "")): None for entry in (*_LOOPBACK, *direct)} if proxies else {}
    return {f"{scheme}://": one for scheme, one in proxies.items()} | dict(filter(_is_pattern, patterns.items()))


def _proxies(found: Mapping[str, str]) -> dict[str, Proxy]:
    """The proxy of each scheme."""
    named = {scheme: next((name for name in (scheme, "all") if found.get(name)), None) for scheme in ("http", "https")}
    return {scheme: _proxy(name, found[name].strip()) for scheme, name in named.items() if name is not None}


def _proxy(name: str, value: str) -> Proxy:
    import httpx

    holders = (one for one in os.environ if one.lower() == f"{name}_proxy" and os.environ[one].strip() == value)
    variable = next(holders, "the proxy of the system's settings")
    try:
        proxy = httpx.Proxy(value if "://" in value else f"http://{value}")
    except (httpx.InvalidURL, ValueError):
        proxy = None
    if proxy is None or not proxy.url.host:
        raise _unusable(f"{variable} names no proxy that can be used", "a URL such as http://host:8080")
    if proxy.url.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise _unusable(f"{variable} names a SOCKS proxy, which takes pip install 'httpx[socks]'", "another proxy")
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
    try:
        network = ipaddress.ip_network(re.sub(r"^\[(.*?)\](?!:\d+$)", r"\1", entry), strict=False)
    except ValueError:
        domain = entry.removeprefix("*")
        return f"all://{'' if domain == 'localhost' or domain.startswith('[') else '*'}{domain}" if domain else ""
    with suppress(ValueError):
        if ipaddress.ip_address(host) in network:
            network = ipaddress.ip_network(host)
    address = network.network_address
    return "" if network.num_addresses > 1 else f"all://[{address}]" if address.version == 6 else f"all://{address}"


def _is_pattern(item: tuple[str, None]) -> bool:
    """True if httpx can read it. What it cannot read matches no host; curl, too, passes over such entries."""
    import httpx

    with suppress(httpx.InvalidURL, ValueError):
        return bool(item[0] and httpx.URL(item[0]).host)
    return False


def _tls() -> ssl.SSLContext:
    file, folder, keys = (os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"))
    if folder and not file and not any(map(os.path.isdir, folder.split(os.pathsep))):
        raise _unusable("SSL_CERT_DIR is no folder", "a folder of certificates")
    try:
        return _trusting(file, folder, keys)
    except OSError as error:
        if keys and error.filename == keys:
            raise _unusable("SSLKEYLOGFILE cannot be written", "a file that can be") from None
        variable = "SSL_CERT_FILE" if file else "SSL_CERT_DIR" if folder else "the package certifi"
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise _unusable(f"{variable} cannot be read ({reason})", "a file of certificates (PEM)") from None


@lru_cache(maxsize=4)
def _trusting(file: str | None, folder: str | None, keys: str | None) -> ssl.SSLContext:  # noqa: ARG001 - ssl reads it
    """What trusts servers, for all clients: reading the certificate store takes tens of milliseconds."""
    import httpx

    return httpx.create_ssl_context(trust_env=bool(file or folder))


@lru_cache(maxsize=1)
def _no_tls() -> ssl.SSLContext:
    """For plain http: it trusts nobody, so that TLS would fail rather than be trusted."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _unusable(what: str, expected: str) -> ConnectionFailedError:
    error = ConnectionFailedError(f"{what}; set it to {expected}, or unset it")
    error.verdict = Verdict.NEXT  # type: ignore[misc]  # nothing was sent, and another try would end the same way
    return error
