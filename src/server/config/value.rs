//! The types settings have once they are read.
//!
//! A [`Secret`] never shows itself: not in `Debug`, not in `Display`, not in the effective settings. Nothing here
//! knows where a value came from.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// A secret text. Printing it in any way prints `(hidden)`; [`Secret::expose`] is the only way to the text.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Box<str>);

impl Secret {
    /// Takes `text` as a secret.
    pub(crate) fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself, for comparing and signing; never for printing.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// What is printed in the place of a secret.
pub(crate) const HIDDEN: &str = "(hidden)";

/// Where to listen, or whom to call: a TCP address or the path of a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum ListenAddress {
    /// An address and a port; port 0 lets the system choose one.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A network of addresses: `10.0.0.0/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    /// The address whose first bits count.
    pub(crate) address: IpAddr,
    /// How many of them count.
    pub(crate) prefix_bits: u8,
}

impl Network {
    /// Whether `address` is in it; an IPv4 address inside IPv6 is the IPv4 address.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let shift = |bits: u32| bits.saturating_sub(u32::from(self.prefix_bits));
        match (self.address.to_canonical(), address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(shift(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(shift(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

/// Declares an enum whose values are words in the settings.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// The words that are accepted.
            pub(crate) const WORDS: &'static [&'static str] = &[$($word),+];

            /// The value of `word`, if it is one.
            pub(crate) fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }
    };
}

choice! {
    /// When what was written to the cache is made durable.
    Durability {
        /// Every `flush_interval`.
        Interval = "interval",
        /// Before the write is acknowledged.
        Always = "always",
        /// When it happens.
        None = "none",
    }
}

choice! {
    /// The form of the log.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

choice! {
    /// Who may read content.
    ContentAuth {
        /// Everybody.
        Public = "public",
        /// Whoever has a valid user token.
        User = "user",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_the_addresses_that_begin_as_it_does() {
        let network = |address: &str, prefix_bits| Network { address: address.parse().unwrap(), prefix_bits };
        let holds = |network: Network, address: &str| network.contains(address.parse().unwrap());
        assert!(holds(network("10.0.0.0", 8), "10.255.0.1") && !holds(network("10.0.0.0", 8), "11.0.0.1"));
        assert!(holds(network("10.0.0.1", 32), "10.0.0.1") && !holds(network("10.0.0.1", 32), "10.0.0.2"));
        assert!(holds(network("0.0.0.0", 0), "255.1.1.1") && !holds(network("0.0.0.0", 0), "::1"));
        assert!(holds(network("fd00::", 8), "fdff::1") && holds(network("::", 0), "1::"));
        assert!(holds(network("10.0.0.0", 8), "::ffff:10.1.1.1"));
    }

    #[test]
    fn a_secret_never_prints_itself() {
        let secret = Secret::new("s3cr3t-words");
        assert!(!format!("{secret} {secret:?} {:?}", Some(&secret)).contains("s3cr3t"));
        assert_eq!(secret.expose(), "s3cr3t-words");
    }
}
