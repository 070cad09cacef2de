//! HTTPS: the certificate and key in force, and their exchange while running.
//!
//! A pair that cannot be read, or whose halves do not belong together, is refused and changes nothing: at the start that
//! ends it, at a reload the old pair stays.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};

use crate::error::{Error, ErrorKind, Result};

use super::config;

/// What new connections are secured with; a clone is the same.
#[derive(Clone)]
pub(super) struct Tls(Arc<RwLock<Arc<ServerConfig>>>);

impl Tls {
    /// The pair that `settings` name; `None` when they name none.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] with the setting and its file.
    pub(super) fn open(settings: &config::Tls) -> Result<Option<Self>> {
        Ok(read(settings)?.map(|config| Self(Arc::new(RwLock::new(config)))))
    }

    /// Reads the pair anew; connections from now on get it, those that stand keep theirs.
    ///
    /// # Errors
    /// As [`Tls::open`]; the old pair stays in force then.
    pub(super) fn reload(&self, settings: &config::Tls) -> Result<()> {
        if let Some(config) = read(settings)? {
            *self.0.write() = config;
        }
        Ok(())
    }

    /// For the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.read().clone())
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(..)")
    }
}

fn read(settings: &config::Tls) -> Result<Option<Arc<ServerConfig>>> {
    let (cert, key) = match (&settings.cert, &settings.key) {
        (None, None) => return Ok(None),
        (Some(cert), Some(key)) => (cert, key),
        (Some(_), None) => return Err(refused("tls.key", "is missing beside tls.cert; both turn on HTTPS")),
        (None, Some(_)) => return Err(refused("tls.cert", "is missing beside tls.key; both turn on HTTPS")),
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable("tls.cert", cert, "certificate", &error))?;
    if chain.is_empty() {
        return Err(unreadable("tls.cert", cert, "certificate", &pem::Error::NoItemsFound));
    }
    let key_der = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| unreadable("tls.key", key, "private key", &error))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| refused("tls", "cannot be set up").because(error))?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key_der).map_err(|error| {
        let (cert, key) = (cert.display(), key.display());
        refused("tls.key", format!("{key} does not belong to the certificate in {cert}")).because(error)
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config)))
}

fn unreadable(setting: &str, file: &Path, what: &str, error: &pem::Error) -> Error {
    let why = match error {
        pem::Error::Io(error) => format!("cannot be read: {error}"),
        pem::Error::NoItemsFound => format!("holds no {what}; PEM is accepted"),
        _ => format!("holds no {what} in PEM: {error}"),
    };
    refused(setting, format!("{} {why}", file.display()))
}

fn refused(setting: &str, why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Settings, why).at(setting)
}
