//! Who may use the admin routes: whoever brings the admin token.

use axum::http::{HeaderMap, header};
use subtle::ConstantTimeEq;

use super::problem::Problem;

/// The admin token, compared in constant time and shown nowhere.
pub(in crate::server) struct AdminToken([u8; 32]);

impl AdminToken {
    /// Keeps a digest of `token`: comparing digests leaks neither its length nor its bytes.
    pub(in crate::server) fn new(token: &str) -> Self {
        Self(digest(token))
    }

    /// Lets a request with `headers` in, or says what it needs.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = given.and_then(bearer).ok_or_else(Problem::unauthorized)?;
        if bool::from(digest(token).ct_eq(&self.0)) { Ok(()) } else { Err(Problem::unauthorized()) }
    }
}

impl std::fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminToken(..)")
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn digest(token: &str) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_token_with_the_bearer_scheme_is_let_in() {
        let token = AdminToken::new("secret");
        let asks = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            token.admit(&headers).is_ok()
        };
        assert!(asks("Bearer secret") && asks("bearer secret"));
        for wrong in ["Bearer secre", "Bearer secret2", "Basic secret", "secret", "Bearer", "Bearer  "] {
            assert!(!asks(wrong), "{wrong}");
        }
        assert!(token.admit(&HeaderMap::new()).is_err());
    }
}
