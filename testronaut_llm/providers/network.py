"""Proxies and certificates of the environment, as settings for all HTTP clients of the package.

httpx would read the environment itself, with a different exception for each invalid value. Here it is always one
typed error, which names the variable but never its value.
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
_READ_BY_LITELLM = ("SSL_CERTIFICATE", "SSL_SECURITY_LEVEL")  # for clients of its own, which are not used here
_READ_BY_HTTPX = re.compile(r"(?i:(http|https|all|no)_proxy)|SSL_CERT_FILE|SSL_CERT_DIR|SSLKEYLOGFILE")
_IMPORTING = threading.Lock()


class Proxy(NamedTuple):
    """A proxy and the variable that names it. As text it holds no user name and no password."""

    variable: str
    proxy: httpx.Proxy

    def __str__(self) -> str:
        return f"{self.proxy.url} ({self.variable})"


def client_settings(
    url: str | None, *, asynchronous: bool = False, redirects: bool = False, limits: httpx.Limits | None = None
) -> dict[str, Any]:
    """Returns arguments of an `httpx.Client` for one endpoint (None: LiteLLM knows it), which reads no environment.

    Loopback is never reached through a proxy. With `redirects`, redirects are followed, to any host.
    Raises ConnectionFailedError: a variable has an unusable value, so the next model is asked.
    """
    import httpx

    plain = url is not None and url.startswith("http:") and not redirects
    common: dict[str, Any] = {"trust_env": False, "verify": _no_tls() if plain else _tls()}
    if limits is not None:
        common["limits"] = limits
    if url is not None and is_loopback(url) and not redirects:
        return {"follow_redirects": False, **common}
    transport = httpx.AsyncHTTPTransport if asynchronous else httpx.HTTPTransport
    mounts = {pattern: one and transport(proxy=one.proxy, **common) for pattern, one in _routes(url).items()}
    return {"follow_redirects": redirects, "mounts": mounts, **common}


def proxy_for(url: str | None) -> Proxy | None:
    """Returns the proxy of connections to this endpoint, chosen by its scheme."""
    with suppress(LLMError):
        if url is None or not is_loopback(url):
            return _proxies(getproxies()).get("http" if url and url.startswith("http:") else "https")
    return None


def problems() -> list[str]:
    """Returns a sentence for each variable with a value that no HTTP client can use."""
    found = []
    for look in (lambda: _proxies(getproxies()), _tls):
        try:
            look()
        except LLMError as error:
            found.append(str(error))
    return found


@contextmanager
def importable(name: str) -> Iterator[None]:
    """Hides variables that break the import of a library with HTTP clients; for all threads, until it ends."""
    if name in sys.modules:
        yield
        return
    import httpx

    with _IMPORTING:
        hidden = {variable: os.environ.pop(variable) for variable in _READ_BY_LITELLM if variable in os.environ}
        try:
            httpx.Client().close()
        except Exception:  # noqa: BLE001 - InvalidURL, ValueError, ImportError, OSError, ...: each value has its own
            hidden |= {
                variable: os.environ.pop(variable) for variable in filter(_READ_BY_HTTPX.fullmatch, [*os.environ])
            }
        try:
            yield
        finally:
            os.environ.update(hidden)


def _routes(url: str | None) -> dict[str, Proxy | None]:
    """Returns URL patterns of httpx, each with its proxy or None for a direct connection."""
    import httpx

    found = getproxies()
    direct = re.split(r"[\s,]+", found.get("no", ""))
    proxies = {} if "*" in direct else _proxies(found)
    routes: dict[str, Proxy | None] = {f"{scheme}://": proxy for scheme, proxy in proxies.items()}
    for entry in (*_LOOPBACK, *direct) if proxies else ():
        pattern = _pattern(entry, host_of(url or ""))
        with suppress(httpx.InvalidURL, ValueError):  # an entry that is not a host matches none, as with curl
            if httpx.URL(pattern).host:
                routes[pattern] = None
    return routes


def _proxies(found: Mapping[str, str]) -> dict[str, Proxy]:
    """Returns the proxy of each scheme, by the proxies that `getproxies` found."""
    import httpx

    proxies = {}
    for scheme in ("http", "https"):
        name = next((name for name in (scheme, "all") if found.get(name)), None)
        if name is None:
            continue
        value = found[name].strip()
        holders = (one for one in os.environ if one.lower() == f"{name}_proxy" and os.environ[one].strip() == value)
        variable = next(holders, "the proxy of the system's settings")
        try:
            proxy = httpx.Proxy(value if "://" in value else f"http://{value}")
        except (httpx.InvalidURL, ValueError):
            proxy = None
        if proxy is None or not proxy.url.host:
            raise _unusable(f"{variable} names a proxy that cannot be used", "a URL such as http://host:8080")
        if proxy.url.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
            raise _unusable(f"{variable} names a SOCKS proxy, which takes pip install 'httpx[socks]'", "another proxy")
        if proxy.url.scheme == "https":
            proxy.ssl_context = _tls()
        proxies[scheme] = Proxy(variable, proxy)
    return proxies


def _pattern(entry: str, host: str) -> str:
    """Returns the pattern of httpx for an entry of NO_PROXY; empty for a range without this host.

    `.corp` and `*.corp` are the hosts below corp, `corp` also that host. `[::1]`, `::1`, `fd00::/8` and `10.0.0.0/8`
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


def _tls() -> ssl.SSLContext:
    file, folder, keys = (os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"))
    if folder and not file and not any(map(os.path.isdir, folder.split(os.pathsep))):
        raise _unusable("SSL_CERT_DIR is not a folder", "a folder of certificates")
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
    """Returns the context that all clients share: reading the certificate store takes tens of milliseconds."""
    import httpx

    return httpx.create_ssl_context(trust_env=bool(file or folder))


@lru_cache(maxsize=1)
def _no_tls() -> ssl.SSLContext:
    """Returns a context for plain http that trusts no certificate, so that TLS would fail."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _unusable(what: str, expected: str) -> ConnectionFailedError:
    error = ConnectionFailedError(f"{what}; set it to {expected}, or unset it")
    error.verdict = Verdict.NEXT  # type: ignore[misc]  # nothing was sent, and another try would fail too
    return error
