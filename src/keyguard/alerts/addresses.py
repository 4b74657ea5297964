"""The addresses that a webhook may not be sent to: those inside of one's own network, in whatever form they come.

A person who may name a URL could otherwise have the server ask its own neighbours, or the metadata service of a cloud.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052, section 2.1: the IPv4 address is the last four bytes
_REFUSED = [
    ip_network(text)
    for text in (
        "192.0.0.0/24",  # of protocols, and of a cloud's metadata
        "192.88.99.0/24",  # relays of 6to4
        "168.63.129.16/32",  # the host of a virtual machine on Azure, though it looks like a public address
        "::/96",  # IPv4 in IPv6, as it was once
        "64:ff9b:1::/48",  # NAT64 of a network's own (RFC 8215)
        "2001::/32",  # Teredo: there is an IPv4 address in it, of a host behind a router
        "2002::/16",  # 6to4: the same
        "3fff::/20",  # of documents (RFC 9637), which older Pythons do not know
        "5f00::/16",  # of segments of routes within a network (RFC 9602): the same
        "fec0::/10",  # local to a site, as it was once
    )
]


def why_inside(text: str) -> str:
    """Say why an address is not one of the public network; empty if it is one."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return "is no address"
    if isinstance(address, IPv6Address):
        within: IPv4Address | None = address.ipv4_mapped
        if within is None and address in _NAT64:
            within = IPv4Address(int(address) & 0xFFFFFFFF)
        if within is not None:
            return why_inside(str(within))
        if "%" in text:
            return "belongs to a link"
    if address.is_loopback:
        return "is this machine's own"
    if address.is_link_local:
        return "belongs to a link, as services with the secrets of machines do"
    if address.is_multicast or address.is_unspecified or address.is_reserved:
        return "is no address of one host"
    if not address.is_global or any(address in network for network in _REFUSED):
        return "is not one of the public network"
    return ""


def is_loopback(text: str) -> bool:
    """Tell whether an address is this machine's own."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
