//! Content codings: their names, and which of them a client takes (RFC 9110 §12.5.3).
//!
//! Pure functions of the `Accept-Encoding` header. The largest weight wins; among equals zstd, br, gzip, then the plain
//! form. What a client does not name it does not get, but for the plain form, which it refuses only by saying so.

/// The form in which a body is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Zstd,
    Brotli,
    Gzip,
    /// As it is.
    Identity,
}

impl Coding {
    /// Every coding, the one to prefer first.
    pub(super) const ALL: [Self; 4] = [Self::Zstd, Self::Brotli, Self::Gzip, Self::Identity];

    /// As `Content-Encoding` names it; nothing for the plain form.
    pub(super) const fn name(self) -> Option<&'static str> {
        match self {
            Self::Zstd => Some("zstd"),
            Self::Brotli => Some("br"),
            Self::Gzip => Some("gzip"),
            Self::Identity => None,
        }
    }

    fn from_name(name: &[u8]) -> Option<Self> {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        let found = Self::ALL.into_iter().find(|coding| is(coding.name().unwrap_or("identity")));
        found.or_else(|| is("x-gzip").then_some(Self::Gzip))
    }
}

/// How much a client wants each coding, in thousandths, in the order of [`Coding::ALL`]; 0 for not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accepted([u16; 4]);

impl Accepted {
    /// What a client without the header takes: the plain form is what it surely understands.
    pub(super) const PLAIN: Self = Self([0, 0, 0, WEIGHT_MAX]);

    /// Reads the value of an `Accept-Encoding` header; members that break the grammar are passed over.
    pub(super) fn parse(value: &[u8]) -> Self {
        let mut own: [Option<u16>; 4] = [None; 4];
        let mut others = None;
        for member in value.split(|byte| *byte == b',') {
            let mut parameters = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let name = parameters.next().unwrap_or_default();
            let Some(weight) = weight(parameters) else { continue };
            if name == b"*" {
                others = Some(weight);
            } else if let Some(coding) = Coding::from_name(name) {
                own[coding as usize] = Some(weight);
            }
        }
        let mut weights = own.map(|weight| weight.or(others).unwrap_or(0));
        if let [.., None] = own {
            // Not named, the plain form is the last resort, unless everything else is refused.
            weights[Coding::Identity as usize] = if others == Some(0) { 0 } else { LAST_RESORT };
        }
        Self(weights)
    }

    /// Whether the client takes `coding` at all.
    pub(super) fn takes(self, coding: Coding) -> bool {
        self.0[coding as usize] > 0
    }

    /// The one to send of those that are `available`; `None` when the client takes none of them.
    pub(super) fn choose(self, available: impl Fn(Coding) -> bool) -> Option<Coding> {
        let takes = |coding: &Coding| available(*coding) && self.takes(*coding);
        // Of equals the last: hence from the least preferred on.
        Coding::ALL.into_iter().rev().filter(takes).max_by_key(|coding| self.0[*coding as usize])
    }
}

/// The weight among a member's parameters, one without; `None` when it is not a weight.
fn weight<'p>(parameters: impl Iterator<Item = &'p [u8]>) -> Option<u16> {
    let mut weight = WEIGHT_MAX;
    for parameter in parameters {
        let Some((b'q' | b'Q', rest)) = parameter.split_first() else { continue };
        weight = thousandths(rest.trim_ascii_start().strip_prefix(b"=")?.trim_ascii())?;
    }
    Some(weight)
}

/// `0`, `1`, or either with up to three digits after a point.
fn thousandths(text: &[u8]) -> Option<u16> {
    let (whole, fraction) = match text {
        [whole @ (b'0' | b'1')] => (whole, [].as_slice()),
        [whole @ (b'0' | b'1'), b'.', fraction @ ..] if fraction.len() <= 3 => (whole, fraction),
        _ => return None,
    };
    let mut sum = u16::from(whole - b'0');
    for at in 0..3 {
        let digit = fraction.get(at).copied().unwrap_or(b'0');
        sum = sum * 10 + u16::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    (sum <= WEIGHT_MAX).then_some(sum)
}

const WEIGHT_MAX: u16 = 1000;

/// Below every weight that can be written, and above none.
const LAST_RESORT: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(value: &str, available: &[Coding]) -> Option<Coding> {
        Accepted::parse(value.as_bytes()).choose(|coding| available.contains(&coding))
    }

    #[test]
    fn the_largest_weight_wins_and_the_house_decides_among_equals() {
        use Coding::{Brotli, Gzip, Identity, Zstd};
        for (value, coding) in [
            ("gzip, deflate, br, zstd", Some(Zstd)),
            ("gzip, br", Some(Brotli)),
            ("gzip;q=1.0, br;q=0.5", Some(Gzip)),
            ("gzip;q=0.001, identity;q=0.5", Some(Identity)),
            ("GZIP", Some(Gzip)),
            ("x-gzip", Some(Gzip)),
            ("", Some(Identity)),
            ("deflate", Some(Identity)),
            ("*", Some(Zstd)),
            ("*;q=0.5, gzip", Some(Gzip)),
            ("zstd;q=0, *", Some(Brotli)),
            ("gzip;q=0, identity", Some(Identity)),
            ("identity;q=0", None),
            ("*;q=0", None),
            ("*;q=0, gzip", Some(Gzip)),
            ("identity;q=0, gzip;q=0.1", Some(Gzip)),
            ("identity;q=0.000, *;q=0", None),
            ("gzip ; q = 0.3 , br;q=0.2", Some(Gzip)),
            ("gzip;q=2, br;q=0.1", Some(Brotli)),
            ("gzip;q=x", Some(Identity)),
            ("gzip;q=0.0001, br", Some(Brotli)),
            (",,;;,gzip;level=9", Some(Gzip)),
        ] {
            assert_eq!(chosen(value, &Coding::ALL), coding, "{value}");
        }
    }

    #[test]
    fn what_is_not_available_is_not_chosen() {
        assert_eq!(chosen("gzip, br", &[Coding::Identity]), Some(Coding::Identity));
        assert_eq!(chosen("gzip, identity;q=0", &[Coding::Identity]), None);
        assert_eq!(chosen("br", &[Coding::Gzip]), None);
        assert!(Accepted::PLAIN.choose(|_| true) == Some(Coding::Identity));
    }
}
