//! Who a request comes from, for limits per client and for the audit log.
//!
//! Promises: a forwarding header is believed only as far as trusted proxies wrote it: from its right end, up to and with
//! the first address that is no trusted proxy. Whoever is no trusted proxy is its own address, whatever it claims. Where
//! `Forwarded` and `X-Forwarded-For` disagree, a client may have forged the one that the proxy does not know, and neither
//! is believed. An IPv6 client is its network of 64 bits, because it has all of its addresses.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::{Extensions, HeaderMap, header};

use crate::server::config::Network;
use crate::server::peer::Peer;

/// What a request is counted against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Visitor {
    /// An IPv4 address, or the first address of a 64-bit IPv6 network.
    Network(IpAddr),
    /// Whoever may open the socket file.
    Local,
}

impl Visitor {
    /// Who sent a request with these `headers` over the connection in `extensions`.
    pub(super) fn of(headers: &HeaderMap, extensions: &Extensions, proxies: &[Network]) -> Self {
        match extensions.get::<Peer>() {
            Some(Peer::Tcp(peer)) => Self::from(address(*peer, headers, proxies)),
            // Only the owner of the server, or root, can open the file: as good as a trusted proxy.
            Some(Peer::Unix) | None => claimed(headers, proxies).map_or(Self::Local, Self::from),
        }
    }
}

impl From<IpAddr> for Visitor {
    fn from(address: IpAddr) -> Self {
        Self::Network(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(address) => {
                let bits = address.to_bits() & (u128::MAX << 64);
                IpAddr::V6(Ipv6Addr::from_bits(bits))
            }
        })
    }
}

impl fmt::Display for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(IpAddr::V4(address)) => address.fmt(f),
            Self::Network(IpAddr::V6(address)) => write!(f, "{address}/64"),
            Self::Local => f.write_str("local"),
        }
    }
}

/// The address that stands behind `peer`.
fn address(peer: IpAddr, headers: &HeaderMap, proxies: &[Network]) -> IpAddr {
    if is_trusted(peer, proxies) { claimed(headers, proxies).unwrap_or(peer) } else { peer }
}

/// The address that trusted proxies say a request came from, where they agree on one.
fn claimed(headers: &HeaderMap, proxies: &[Network]) -> Option<IpAddr> {
    let listed = rightmost(x_forwarded_for(headers), proxies);
    let described = rightmost(forwarded(headers), proxies);
    match (listed, described) {
        (Some(one), Some(other)) => (one == other).then_some(one),
        (one, other) => one.or(other),
    }
}

/// The first of `hops`, last first, that is no trusted proxy; the furthest of them where all are, or where the next one
/// hides itself.
fn rightmost(hops: impl Iterator<Item = Option<IpAddr>>, proxies: &[Network]) -> Option<IpAddr> {
    let mut furthest = None;
    for hop in hops {
        let Some(address) = hop else { return furthest };
        furthest = Some(address);
        if !is_trusted(address, proxies) {
            return furthest;
        }
    }
    furthest
}

fn is_trusted(address: IpAddr, proxies: &[Network]) -> bool {
    proxies.iter().any(|network| network.contains(address))
}

/// The hops of `X-Forwarded-For`, last first; `None` for one that is no address.
fn x_forwarded_for(headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> {
    let lines = headers.get_all("x-forwarded-for").iter().rev();
    lines.flat_map(|line| line.to_str().unwrap_or("?").rsplit(',')).map(|hop| node(hop.trim()))
}

/// The hops of `Forwarded` (RFC 7239), last first; `None` for one that names no address.
fn forwarded(headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> {
    let lines = headers.get_all(header::FORWARDED).iter().rev();
    lines.flat_map(|line| {
        let elements = split(line.to_str().unwrap_or("?"), ',');
        elements.into_iter().rev().map(|element| {
            split(element, ';').into_iter().find_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                let value = value.trim().trim_matches('"');
                name.trim().eq_ignore_ascii_case("for").then(|| node(value))?
            })
        })
    })
}

/// The parts of `text` between `separator`s that are not within quotes.
fn split(text: &str, separator: char) -> Vec<&str> {
    let mut is_quoted = false;
    text.split(|char| {
        is_quoted ^= char == '"';
        char == separator && !is_quoted
    })
    .collect()
}

/// An address as proxies write it: alone, in brackets, or with a port.
fn node(text: &str) -> Option<IpAddr> {
    let plain = || text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    plain().or_else(with_port).or_else(in_brackets).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    fn network(address: &str, prefix_bits: u8) -> Network {
        Network { address: address.parse().unwrap(), prefix_bits }
    }

    fn seen(peer: &str, headers: &[(&'static str, &str)]) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        let mut extensions = Extensions::new();
        extensions.insert(Peer::of(SocketAddr::new(peer.parse().unwrap(), 1)));
        let proxies = [network("10.0.0.0", 8), network("fd00::", 8)];
        Visitor::of(&map, &extensions, &proxies).to_string()
    }

    #[test]
    fn only_what_trusted_proxies_wrote_is_believed() {
        let xff = "x-forwarded-for";
        for (peer, headers, client) in [
            ("192.0.2.1", vec![(xff, "198.51.100.7")], "192.0.2.1"),
            ("10.0.0.1", vec![(xff, "198.51.100.7")], "198.51.100.7"),
            ("10.0.0.1", vec![(xff, "1.1.1.1, 198.51.100.7, 10.2.3.4")], "198.51.100.7"),
            ("10.0.0.1", vec![(xff, "1.1.1.1"), (xff, "198.51.100.7:4711,10.2.3.4")], "198.51.100.7"),
            ("10.0.0.1", vec![(xff, "198.51.100.7, unknown")], "10.0.0.1"),
            ("10.0.0.1", vec![(xff, "198.51.100.7, _hidden, 10.9.9.9")], "10.9.9.9"),
            ("10.0.0.1", vec![], "10.0.0.1"),
            ("10.0.0.1", vec![(xff, "")], "10.0.0.1"),
            ("::ffff:10.0.0.1", vec![(xff, "::ffff:198.51.100.7")], "198.51.100.7"),
            ("fd00::1", vec![(xff, "2001:db8:1:2:3:4:5:6")], "2001:db8:1:2::/64"),
            ("2001:db8::1", vec![(xff, "198.51.100.7")], "2001:db8::/64"),
            ("10.0.0.1", vec![("forwarded", "for=198.51.100.7;proto=https")], "198.51.100.7"),
            (
                "10.0.0.1",
                vec![("forwarded", "for=1.1.1.1, For=\"[2001:db8::9]:80\";by=\"a,b\"")],
                "2001:db8::/64",
            ),
            ("10.0.0.1", vec![("forwarded", "for=\"1.1.1.1, for=2.2.2.2")], "10.0.0.1"),
            ("10.0.0.1", vec![("forwarded", "proto=https")], "10.0.0.1"),
            ("10.0.0.1", vec![(xff, "198.51.100.7"), ("forwarded", "for=198.51.100.7")], "198.51.100.7"),
            ("10.0.0.1", vec![(xff, "198.51.100.7"), ("forwarded", "for=1.1.1.1")], "10.0.0.1"),
        ] {
            assert_eq!(seen(peer, &headers), client, "{peer} {headers:?}");
        }
    }
}
