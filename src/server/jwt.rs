//! User tokens: JSON Web Tokens in compact form (RFC 7515, RFC 7519), verified and signed.
//!
//! Promises: a key is used with the one algorithm it was made for, whatever a token claims; `none`, encrypted tokens and
//! extensions that a token calls critical are refused; a token without `exp` and `sub` is none; nothing is read from a
//! token before its signature holds, but which key to try. Work and memory are bounded by the length of a token and the
//! number of keys. Knows neither where keys come from nor what a user may do.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize};

use crate::clock::Timestamp;
use crate::content::keys::UserId;

/// Checks user tokens against its keys.
pub(super) struct Verifier {
    keys: Vec<VerifyingKey>,
    audience: Option<String>,
    issuer: Option<String>,
    /// How far clocks may be apart.
    leeway: Duration,
}

/// A key with the algorithm it is for, and the name a key set gave it.
pub(super) struct VerifyingKey {
    pub(super) id: Option<String>,
    pub(super) material: Material,
}

/// What signatures are checked with.
pub(super) enum Material {
    /// A shared secret.
    Hs256(hmac::Key),
    /// An RSA public key of 2048 to 8192 bits, with PKCS #1 padding.
    Rs256(RsaPublicKeyComponents<Vec<u8>>),
    /// A public key on P-256.
    Es256(UnparsedPublicKey<Vec<u8>>),
}

/// Why a token is not accepted. Never carries what the token said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is not three parts of base64url with JSON in the first two.
    Form,
    /// It names an algorithm that is not accepted, `none` included.
    Algorithm,
    /// It calls an extension critical.
    Critical,
    /// No key here is for it.
    Key,
    /// The signature does not hold.
    Signature,
    /// The claims cannot be read, or `sub` is no user id, or `exp` is missing.
    Claims,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    TooEarly,
    /// It is for somebody else.
    Audience,
    /// It is from somebody else.
    Issuer,
}

impl Refusal {
    /// One sentence for whoever brought the token.
    pub(super) fn sentence(self) -> &'static str {
        match self {
            Self::Form => "the token is not a signed JSON Web Token in compact form",
            Self::Algorithm => "the token names an algorithm that is not accepted here",
            Self::Critical => "the token calls an extension critical that is not known here",
            Self::Key => "no key here is for this token",
            Self::Signature => "the signature of the token does not hold",
            Self::Claims => "the token needs the claims sub (1 to 256 bytes of text) and exp",
            Self::Expired => "the token has expired",
            Self::TooEarly => "the token is not valid yet",
            Self::Audience => "the token is not for this service (aud; see the setting jwt_audience)",
            Self::Issuer => "the token is not from the issuer that is trusted here (iss)",
        }
    }

    /// Whether it may be somebody's guess: a token that was signed with our key is none, however old it is.
    pub(super) fn is_guess(self) -> bool {
        matches!(self, Self::Form | Self::Algorithm | Self::Critical | Self::Key | Self::Signature)
    }
}

impl Verifier {
    /// Accepts what one of `keys` signed, up to `leeway` after its end.
    pub(super) fn new(keys: Vec<VerifyingKey>, leeway: Duration) -> Self {
        Self { keys, audience: None, issuer: None, leeway }
    }

    /// The same, for tokens that name this audience and this issuer, where they are given.
    pub(super) fn expecting(self, audience: Option<String>, issuer: Option<String>) -> Self {
        Self { audience, issuer, ..self }
    }

    /// The user that `token` stands for at `now`.
    pub(super) fn verify(&self, token: &str, now: Timestamp) -> Result<UserId, Refusal> {
        let parts = Parts::of(token)?;
        let header: Header = parts.header.json().ok_or(Refusal::Form)?;
        if header.crit.is_there {
            return Err(Refusal::Critical);
        }
        let algorithm = Algorithm::named(&header.alg).ok_or(Refusal::Algorithm)?;
        let signature = parts.signature.bytes().ok_or(Refusal::Form)?;
        let mut fitting =
            self.keys.iter().filter(|key| key.fits(algorithm, header.kid.as_deref())).peekable();
        fitting.peek().ok_or(Refusal::Key)?;
        if !fitting.any(|key| key.material.holds(parts.signed, &signature)) {
            return Err(Refusal::Signature);
        }
        let claims: Claims = parts.claims.json().ok_or(Refusal::Claims)?;
        self.check(&claims, now)?;
        UserId::parse(&claims.sub).map_err(|_| Refusal::Claims)
    }

    fn check(&self, claims: &Claims, now: Timestamp) -> Result<(), Refusal> {
        let (now, leeway) = (Duration::from_millis(now.as_millis()).as_secs_f64(), self.leeway.as_secs_f64());
        if now >= claims.exp + leeway {
            return Err(Refusal::Expired);
        }
        if claims.nbf.is_some_and(|from| now + leeway < from) {
            return Err(Refusal::TooEarly);
        }
        // A token that names audiences is only for those: RFC 7519 §4.1.3, also where none is configured.
        let is_for_us = match (&claims.aud, &self.audience) {
            (None, None) => true,
            (Some(named), Some(own)) => named.has(own),
            (None, Some(_)) | (Some(_), None) => false,
        };
        if !is_for_us {
            return Err(Refusal::Audience);
        }
        if self.issuer.is_some() && claims.iss != self.issuer {
            return Err(Refusal::Issuer);
        }
        Ok(())
    }
}

impl VerifyingKey {
    /// A key without a name, for HS256.
    pub(super) fn secret(secret: &[u8]) -> Self {
        Self { id: None, material: Material::Hs256(hmac::Key::new(hmac::HMAC_SHA256, secret)) }
    }

    /// Whether a token that names `algorithm` and the key `id` is to be checked with this one. A key without a name may
    /// be meant by any.
    fn fits(&self, algorithm: Algorithm, id: Option<&str>) -> bool {
        let is_meant = match (&self.id, id) {
            (Some(own), Some(named)) => own == named,
            _ => true,
        };
        is_meant && algorithm == self.material.algorithm()
    }
}

impl Material {
    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Hs256(_) => Algorithm::Hs256,
            Self::Rs256(_) => Algorithm::Rs256,
            Self::Es256(_) => Algorithm::Es256,
        }
    }

    /// Whether `signature` is this key's for `message`.
    fn holds(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Hs256(key) => hmac::verify(key, message, signature).is_ok(),
            Self::Rs256(key) => {
                key.verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
            Self::Es256(key) => key.verify(message, signature).is_ok(),
        }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

/// What a token that is signed here says.
#[derive(Debug, Serialize)]
pub(super) struct Signed<'s> {
    /// The user.
    pub(super) sub: &'s str,
    /// From when on, in seconds since the epoch.
    pub(super) iat: u64,
    /// Until when.
    pub(super) exp: u64,
    /// For whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) aud: Option<&'s str>,
    /// From whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) iss: Option<&'s str>,
}

/// A token with `claims`, signed with `secret` by HS256.
pub(super) fn sign(secret: &[u8], claims: &Signed<'_>) -> crate::Result<String> {
    let claims = serde_json::to_vec(claims).map_err(|error| {
        crate::Error::new(crate::ErrorKind::KeyInvalid, "the claims cannot be written").because(error)
    })?;
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// The bytes of base64url without padding; one spelling for the same bytes.
pub(super) fn base64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Hs256,
    Rs256,
    Es256,
}

impl Algorithm {
    fn named(name: &str) -> Option<Self> {
        match name {
            "HS256" => Some(Self::Hs256),
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            _ => None,
        }
    }
}

/// A token, cut at its dots.
struct Parts<'t> {
    header: Part<'t>,
    claims: Part<'t>,
    signature: Part<'t>,
    /// What the signature is of.
    signed: &'t [u8],
}

impl<'t> Parts<'t> {
    fn of(token: &'t str) -> Result<Self, Refusal> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::Form);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Refusal::Form)?;
        let (header, claims) = signed.split_once('.').ok_or(Refusal::Form)?;
        // A further dot, as encrypted tokens have them, is no letter of base64url and fails there.
        Ok(Self {
            header: Part(header),
            claims: Part(claims),
            signature: Part(signature),
            signed: signed.as_bytes(),
        })
    }
}

struct Part<'t>(&'t str);

impl Part<'_> {
    fn bytes(&self) -> Option<Vec<u8>> {
        base64url(self.0)
    }

    fn json<T: for<'d> Deserialize<'d>>(&self) -> Option<T> {
        serde_json::from_slice(&self.bytes()?).ok()
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    #[serde(default)]
    crit: Presence,
}

/// Whether a field stands there, whatever is in it.
#[derive(Default)]
struct Presence {
    is_there: bool,
}

impl<'de> Deserialize<'de> for Presence {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer)?;
        Ok(Self { is_there: true })
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    nbf: Option<f64>,
    aud: Option<Audience>,
    iss: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn has(&self, name: &str) -> bool {
        match self {
            Self::One(own) => own == name,
            Self::Many(all) => all.iter().any(|own| own == name),
        }
    }
}

/// Hands any bytes over as a token, as the parts of a rightly signed one, and as a key set; see [`crate::fuzzing`].
#[cfg(feature = "fuzzing")]
pub(crate) fn drive(bytes: &[u8]) {
    let secret = [7; 32];
    let verifier = Verifier::new(vec![VerifyingKey::secret(&secret)], Duration::ZERO);
    let now = Timestamp::from_millis(1_000);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    assert!(verifier.verify(text, now).is_err(), "nobody guesses a signature");
    let (header, claims) = text.split_once('\n').unwrap_or((HEADER, text));
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), message.as_bytes());
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
    if let Ok(user) = verifier.verify(&token, now) {
        assert!(header.contains("HS256") && claims.contains("exp"), "a token without an end is none");
        assert!(UserId::parse(user.as_str()).is_ok());
    }
    drop(super::jwks::parse(text));
}

/// What every token that is signed here begins with.
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

/// The longest token that is looked at; identity providers stay well below.
const TOKEN_BYTES_MAX: usize = 8 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::SystemRandom;
    use ring::signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    };
    use serde_json::{Value, json};

    const NOW: Timestamp = Timestamp::from_millis(1_000_000_000);
    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn verifier() -> Verifier {
        Verifier::new(vec![VerifyingKey::secret(SECRET)], Duration::from_secs(5))
    }

    fn message(header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}", part(header), part(claims))
    }

    fn hs256(header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn claims(change: impl FnOnce(&mut Value)) -> Value {
        let mut claims = json!({"sub": "amina", "exp": 1_000_060});
        change(&mut claims);
        claims
    }

    fn refusal(token: &str) -> Option<Refusal> {
        verifier().verify(token, NOW).err()
    }

    #[test]
    fn a_token_that_was_signed_here_is_its_users() {
        let signed = Signed { sub: "amina", iat: 1_000_000, exp: 1_000_001, aud: None, iss: None };
        let token = sign(SECRET, &signed).unwrap();
        assert_eq!(verifier().verify(&token, NOW).unwrap().as_str(), "amina");
    }

    #[test]
    fn only_the_algorithm_of_the_key_is_accepted_whatever_the_token_claims() {
        let plain = claims(|_| ());
        for alg in ["none", "None", "hs256", "HS384", "HS512", "", "PS256"] {
            assert_eq!(refusal(&hs256(&json!({"alg": alg}), &plain)), Some(Refusal::Algorithm), "{alg}");
        }
        for alg in ["RS256", "ES256"] {
            assert_eq!(refusal(&hs256(&json!({"alg": alg}), &plain)), Some(Refusal::Key), "{alg}");
        }
        assert_eq!(
            refusal(&format!("{}.", message(&json!({"alg": "none"}), &plain))),
            Some(Refusal::Algorithm)
        );
        assert_eq!(
            refusal(&format!("{}.", message(&json!({"alg": "HS256"}), &plain))),
            Some(Refusal::Signature)
        );
    }

    #[test]
    fn a_public_key_is_no_shared_secret() {
        let pair = pair();
        let point = pair.public_key().as_ref().to_vec();
        let keys = vec![VerifyingKey { id: None, material: es256(&point) }];
        let verifier = Verifier::new(keys, Duration::ZERO);
        let message = message(&json!({"alg": "HS256"}), &claims(|_| ()));
        let forged = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &point), message.as_bytes());
        let forged = format!("{message}.{}", URL_SAFE_NO_PAD.encode(forged));
        assert_eq!(verifier.verify(&forged, NOW).err(), Some(Refusal::Key));
    }

    #[test]
    fn an_ecdsa_token_holds_with_its_key_and_name_alone() {
        let (pair, other) = (pair(), pair());
        let key = |id: &str, pair: &EcdsaKeyPair| VerifyingKey {
            id: Some(id.into()),
            material: es256(pair.public_key().as_ref()),
        };
        let verifier = Verifier::new(vec![key("a", &pair), key("b", &other)], Duration::ZERO);
        let signed = |kid: Option<&str>| {
            let header = kid.map_or(json!({"alg": "ES256"}), |kid| json!({"alg": "ES256", "kid": kid}));
            let message = message(&header, &claims(|_| ()));
            let signature = pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
        };
        assert!(verifier.verify(&signed(Some("a")), NOW).is_ok());
        assert!(verifier.verify(&signed(None), NOW).is_ok());
        assert_eq!(verifier.verify(&signed(Some("b")), NOW).err(), Some(Refusal::Signature));
        assert_eq!(verifier.verify(&signed(Some("c")), NOW).err(), Some(Refusal::Key));
    }

    #[test]
    fn time_audience_issuer_and_subject_are_checked() {
        let header = json!({"alg": "HS256"});
        let of = |change: &dyn Fn(&mut Value)| refusal(&hs256(&header, &claims(|claims| change(claims))));
        assert_eq!(of(&|_| ()), None);
        assert_eq!(of(&|c| c["exp"] = json!(999_996)), None, "within the leeway");
        assert_eq!(of(&|c| c["exp"] = json!(999_995)), Some(Refusal::Expired));
        assert_eq!(of(&|c| c["exp"] = json!(1_000_000.5)), None, "a fraction is a date too");
        assert_eq!(of(&|c| c["nbf"] = json!(1_000_005)), None);
        assert_eq!(of(&|c| c["nbf"] = json!(1_000_006)), Some(Refusal::TooEarly));
        assert_eq!(of(&|c| c["aud"] = json!("other")), Some(Refusal::Audience));
        for broken in [json!(null), json!(7), json!(""), json!("a\u{7}"), json!("x".repeat(257))] {
            assert_eq!(of(&|c| c["sub"] = broken.clone()), Some(Refusal::Claims), "{broken}");
        }
        assert_eq!(of(&|c| c["exp"] = json!("soon")), Some(Refusal::Claims));
        assert_eq!(of(&|c| c["exp"] = json!(null)), Some(Refusal::Claims));

        let verifier = verifier().expecting(Some("hifz".into()), Some("https://issuer".into()));
        let of = |aud: Value, iss: Value| {
            let claims = claims(|claims| (claims["aud"], claims["iss"]) = (aud, iss));
            verifier.verify(&hs256(&header, &claims), NOW).err()
        };
        let issuer = json!("https://issuer");
        assert_eq!(of(json!("hifz"), issuer.clone()), None);
        assert_eq!(of(json!(["a", "hifz"]), issuer.clone()), None);
        assert_eq!(of(json!(["a"]), issuer.clone()), Some(Refusal::Audience));
        assert_eq!(of(json!(null), issuer), Some(Refusal::Audience));
        assert_eq!(of(json!("hifz"), json!("https://other")), Some(Refusal::Issuer));
        assert_eq!(of(json!("hifz"), json!(null)), Some(Refusal::Issuer));
    }

    #[test]
    fn a_token_that_is_changed_in_any_place_is_refused() {
        let token = hs256(&json!({"alg": "HS256"}), &claims(|_| ()));
        assert_eq!(refusal(&token), None);
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(refusal(&String::from_utf8(changed).unwrap()).is_some(), "changed at {at}");
            assert!(refusal(&token[..at]).is_some(), "cut at {at}");
        }
        for broken in [format!("{token}="), format!("{token}.x"), format!(".{token}"), format!("{token} ")] {
            assert!(refusal(&broken).is_some(), "{broken}");
        }
    }

    #[test]
    fn what_a_token_calls_critical_is_refused_and_what_it_repeats_too() {
        let plain = claims(|_| ());
        for crit in [json!(["b64"]), json!([]), json!(null)] {
            let header = json!({"alg": "HS256", "crit": crit});
            assert_eq!(refusal(&hs256(&header, &plain)), Some(Refusal::Critical));
        }
        let twice = r#"{"alg":"HS256","alg":"none"}"#;
        let message =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(twice), URL_SAFE_NO_PAD.encode(plain.to_string()));
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message.as_bytes());
        let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
        assert_eq!(refusal(&token), Some(Refusal::Form));
    }

    fn pair() -> EcdsaKeyPair {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap()
    }

    fn es256(point: &[u8]) -> Material {
        Material::Es256(UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point.to_vec()))
    }
}
