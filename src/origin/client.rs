//! The connections to one origin: kept open and used again, over TLS where its address says so.
//!
//! A connection that is idle for a while, or that a dropped request left in the middle, is closed. Redirects are not
//! followed and no proxy is asked. Certificates are checked against the authorities in a file where one is named, else
//! against those the system knows (or `SSL_CERT_FILE` and `SSL_CERT_DIR` name).

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, HeaderValue, IF_NONE_MATCH, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::error::{Error, ErrorKind, Result};

/// A client of one origin.
#[derive(Debug)]
pub(super) struct Client {
    url: String,
    pool: Pool<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

impl Client {
    pub(super) fn new(url: &str, authorities: Option<&Path>) -> Result<Self> {
        let refused = |why: String| refused("source.url", why);
        let parsed: Uri = url.parse().map_err(|_| refused(format!("{url:?} is not an address")))?;
        if parsed.host().is_none_or(str::is_empty) || parsed.query().is_some() {
            return Err(refused(format!("{url:?} must name a host and no query")));
        }
        let is_secure = parsed.scheme_str() == Some("https");
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT_TIME_MAX));
        http.set_nodelay(true);
        http.set_keepalive(Some(IDLE_MAX));
        let trusted = match authorities {
            Some(file) => read_authorities(file)?,
            None if is_secure => system_authorities()?,
            // Nothing is ever asked over TLS here, so nobody need be trusted.
            None => RootCertStore::empty(),
        };
        let tls = ClientConfig::builder_with_provider(default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| refused(format!("TLS cannot be set up: {error}")))?
            .with_root_certificates(trusted)
            .with_no_client_auth();
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls);
        let builder = if is_secure { builder.https_only() } else { builder.https_or_http() };
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .build(builder.enable_http1().wrap_connector(http));
        Ok(Self { url: url.to_owned(), pool })
    }

    /// The head of the answer to `GET path`, where `validator` names what is held already.
    pub(super) async fn get(&self, path: &str, validator: Option<&str>) -> Result<Response<Incoming>> {
        let mut request = Request::get(format!("{}{path}", self.url))
            .header(ACCEPT, "application/json")
            .header(ACCEPT_ENCODING, "identity")
            .header(USER_AGENT, concat!("hifz/", env!("CARGO_PKG_VERSION")));
        if let Some(validator) = validator.and_then(|validator| HeaderValue::from_str(validator).ok()) {
            request = request.header(IF_NONE_MATCH, validator);
        }
        let request = request.body(Empty::new()).map_err(|error| {
            Error::new(ErrorKind::SourceRefused, "the origin cannot be asked for this").because(error)
        })?;
        self.pool.request(request).await.map_err(|error| {
            let what =
                if error.is_connect() { "the origin cannot be reached" } else { "the origin broke off" };
            Error::new(ErrorKind::SourceUnavailable, what).because(error)
        })
    }
}

/// The authorities in `file`, and no other.
fn read_authorities(file: &Path) -> Result<RootCertStore> {
    let shown = file.display();
    let refused = |why: String| refused("source.ca", why);
    let certificates: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| refused(format!("{shown} cannot be read as certificates in PEM: {error}")))?;
    let mut trusted = RootCertStore::empty();
    for certificate in certificates {
        trusted
            .add(certificate)
            .map_err(|error| refused(format!("{shown} holds a certificate that is none: {error}")))?;
    }
    if trusted.is_empty() {
        return Err(refused(format!("{shown} holds no certificate; PEM is accepted")));
    }
    Ok(trusted)
}

/// The authorities that the system trusts, or that the usual variables name.
fn system_authorities() -> Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut trusted = RootCertStore::empty();
    let (added, _) = trusted.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(trusted);
    }
    let why: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
    let why = if why.is_empty() { "there are none".to_owned() } else { why.join("; ") };
    Err(refused(
        "source.url",
        format!(
            "no certificate authority is known that https could be checked against ({why}); install the system's, or \
             name a file of them in source.ca or SSL_CERT_FILE"
        ),
    ))
}

fn refused(setting: &str, why: String) -> Error {
    Error::new(ErrorKind::Settings, why).at(setting)
}

/// The longest time to reach the origin.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// A connection that is not used for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// So many connections are kept open between requests.
const IDLE_CONNECTIONS_MAX: usize = 16;

/// The most of a response head.
const HEAD_BYTES_MAX: usize = 64 << 10;
