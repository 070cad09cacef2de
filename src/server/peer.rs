//! Who is at the other end of a connection, as the socket knows it; what a header claims is not looked at here.

use std::net::{IpAddr, SocketAddr};

/// The other end of a connection; every request that came over it carries this as an extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// Somebody with an address.
    Tcp(IpAddr),
    /// Somebody who may open the socket file: the owner of the server or root.
    Unix,
}

impl Peer {
    /// The peer of a TCP connection; an IPv4 address that arrives inside IPv6 is the IPv4 address.
    pub(super) fn of(address: SocketAddr) -> Self {
        Self::Tcp(address.ip().to_canonical())
    }
}
