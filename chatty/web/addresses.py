"""Whose request it is, where proxies stand in between.

The socket's peer is the client, unless it is one of the proxies that the settings name. Only then `X-Forwarded-For` is looked at,
from its end: each proxy appended whom it saw, so every entry up to the first that is not a trusted proxy's was written by one
that is trusted; what stands before it is whatever the client wrote. Anything that is no address ends the walk: the request then
counts for the last one that was sure.

The id of a request, in `X-Request-Id`, is a proxy's to give too: it stands in the audit log for ever, so no stranger chooses it.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

forwarded_count_max = 32

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def client_address(peer: str, forwarded: Sequence[str], *, proxies: Sequence[Network]) -> str:
    """peer: of the socket. forwarded: the values of all X-Forwarded-For headers, in order. Empty for a peer without address."""
    found = _parse(peer)
    if found is None or not proxies:
        return str(found) if found is not None else peer
    hops = ",".join(forwarded).rsplit(",", forwarded_count_max) if forwarded else []
    while hops and any(found in network for network in proxies):
        before = _parse(hops.pop().strip())
        if before is None:
            break
        found = before
    return str(found)


def is_proxy(peer: str, *, proxies: Sequence[Network]) -> bool:
    """peer: of the socket."""
    found = _parse(peer)
    return found is not None and any(found in network for network in proxies)


def _parse(text: str) -> Address | None:
    """An IPv4 address in IPv6 clothes is the IPv4 address."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or (None if address.scope_id else address)
    return address
