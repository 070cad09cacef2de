//! Key sets (RFC 7517): the file with the public keys of an identity provider, as keys of known algorithms.
//!
//! Takes RSA keys of 2048 to 8192 bits for RS256 and P-256 keys for ES256; others are left out and named, because
//! providers publish keys for many purposes; a set without a single usable key is refused. Never fetches anything.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use ring::signature::{ECDSA_P256_SHA256_FIXED, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};

use super::jwt::{Material, VerifyingKey, base64url};

/// The usable keys of the set in `file`.
pub(super) fn read(file: &Path) -> Result<Vec<VerifyingKey>> {
    let place = || format!("jwks_file {}", file.display());
    let mut text = String::new();
    let read = File::open(file).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    read.map_err(|error| refused(format!("cannot be read: {error}")).at(place()))?;
    parse(&text).map_err(|error| error.at(place()))
}

/// The usable keys of a set.
pub(super) fn parse(text: &str) -> Result<Vec<VerifyingKey>> {
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(refused(format!("has more than {FILE_BYTES_MAX} bytes")));
    }
    let set: Set = serde_json::from_str(text)
        .map_err(|error| refused(format!("is not a key set, {{\"keys\":[…]}}: {error}")))?;
    if set.keys.len() > KEYS_MAX {
        return Err(refused(format!("has {} keys, the most is {KEYS_MAX}", set.keys.len())));
    }
    let mut usable = Vec::new();
    let mut left_out = Vec::new();
    for (at, key) in set.keys.into_iter().enumerate() {
        let id = key.kid.clone();
        match key.material() {
            Ok(material) => usable.push(VerifyingKey { id, material }),
            Err(why) => left_out.push(format!("keys[{at}] {why}")),
        }
    }
    if usable.is_empty() {
        let why = if left_out.is_empty() { "it has none".to_owned() } else { left_out.join("; ") };
        return Err(refused(format!("has no key for RS256 or ES256: {why}")));
    }
    for key in &left_out {
        tracing::info!(%key, "a key of jwks_file is not used");
    }
    Ok(usable)
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Jwk {
    fn material(self) -> Result<Material, &'static str> {
        let is_for_signatures = self.r#use.as_deref().is_none_or(|purpose| purpose == "sig")
            && self.key_ops.as_ref().is_none_or(|all| all.iter().any(|one| one == "verify"));
        if !is_for_signatures {
            return Err("is not for checking signatures");
        }
        match (self.kty.as_str(), self.alg.as_deref()) {
            ("RSA", None | Some("RS256")) => self.rsa(),
            ("EC", None | Some("ES256")) => self.p256(),
            _ => Err("is of another type or algorithm"),
        }
    }

    fn rsa(&self) -> Result<Material, &'static str> {
        let (n, e) = (number(self.n.as_deref())?, number(self.e.as_deref())?);
        let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
        if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
            return Err("has a modulus outside of 2048 to 8192 bits");
        }
        if e.len() > EXPONENT_BYTES_MAX || e.last().is_none_or(|last| last % 2 == 0) || e == [1] {
            return Err("has an exponent that is not accepted");
        }
        Ok(Material::Rs256(RsaPublicKeyComponents { n, e }))
    }

    fn p256(&self) -> Result<Material, &'static str> {
        if self.crv.as_deref() != Some("P-256") {
            return Err("is not on the curve P-256");
        }
        let (x, y) = (coordinate(self.x.as_deref())?, coordinate(self.y.as_deref())?);
        let point = [&[UNCOMPRESSED], x.as_slice(), y.as_slice()].concat();
        Ok(Material::Es256(UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)))
    }
}

/// The bytes of a number without leading zeros.
fn number(text: Option<&str>) -> Result<Vec<u8>, &'static str> {
    let bytes = text.and_then(base64url).ok_or("has no readable modulus or exponent")?;
    Ok(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
}

fn coordinate(text: Option<&str>) -> Result<Vec<u8>, &'static str> {
    text.and_then(base64url)
        .filter(|bytes| bytes.len() == COORDINATE_BYTES)
        .ok_or("has no coordinates of 32 bytes")
}

fn refused(why: String) -> Error {
    Error::new(ErrorKind::Settings, why)
}

/// The largest key set that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The most keys of a set; each may be tried for a token that names none.
const KEYS_MAX: usize = 64;

const RSA_BITS_MIN: usize = 2048;
const RSA_BITS_MAX: usize = 8192;

/// What ring takes: exponents up to 33 bits.
const EXPONENT_BYTES_MAX: usize = 5;

const COORDINATE_BYTES: usize = 32;

/// What stands before the coordinates of a point that is written in full.
const UNCOMPRESSED: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    fn set(keys: &Value) -> Result<Vec<VerifyingKey>> {
        parse(&json!({"keys": keys}).to_string())
    }

    #[test]
    fn keys_for_other_purposes_are_left_out_and_usable_ones_keep_their_names() {
        let bytes = |count: usize| URL_SAFE_NO_PAD.encode(vec![0x81; count]);
        let keys = json!([
            {"kty": "RSA", "kid": "a", "use": "sig", "n": bytes(256), "e": "AQAB"},
            {"kty": "RSA", "kid": "enc", "use": "enc", "n": bytes(256), "e": "AQAB"},
            {"kty": "RSA", "kid": "short", "n": bytes(128), "e": "AQAB"},
            {"kty": "oct", "kid": "secret", "k": bytes(32)},
            {"kty": "EC", "kid": "b", "crv": "P-256", "x": bytes(32), "y": bytes(32), "alg": "ES256"},
            {"kty": "EC", "kid": "other", "crv": "P-384", "x": bytes(48), "y": bytes(48)},
            {"kty": "RSA", "kid": "padding", "alg": "PS256", "n": bytes(256), "e": "AQAB"},
        ]);
        let names: Vec<_> = set(&keys).unwrap().into_iter().map(|key| key.id.unwrap()).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn a_set_without_a_usable_key_is_refused_with_the_reason_of_each() {
        let error = set(&json!([{"kty": "oct", "k": "AAAA"}])).err().unwrap();
        assert!(error.message().contains("keys[0] is of another type"), "{error}");
        for text in ["", "{}", "[]", "{\"keys\":{}}", "{\"keys\":[]}", "{\"keys\":[{}]}"] {
            assert_eq!(parse(text).err().unwrap().kind(), ErrorKind::Settings, "{text}");
        }
    }
}
