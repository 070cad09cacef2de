//! The connections to one origin: kept open and used again, over TLS where its address says so.
//!
//! A connection that is idle for a while, or that a dropped request left in the middle, is closed. Redirects are not
//! followed, no proxy is asked, and certificates are checked against the authorities the system knows.

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
use tokio_rustls::rustls;

use crate::error::{Error, ErrorKind, Result};

/// A client of one origin.
#[derive(Debug)]
pub(super) struct Client {
    url: String,
    pool: Pool<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

impl Client {
    pub(super) fn new(url: &str) -> Result<Self> {
        let refused = |why: String| Error::new(ErrorKind::Settings, why).at("source.url");
        let parsed: Uri = url.parse().map_err(|_| refused(format!("{url:?} is not an address")))?;
        if parsed.host().is_none_or(str::is_empty) || parsed.query().is_some() {
            return Err(refused(format!("{url:?} must name a host and no query")));
        }
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT_TIME_MAX));
        http.set_nodelay(true);
        http.set_keepalive(Some(IDLE_MAX));
        let ring = rustls::crypto::ring::default_provider();
        let builder = HttpsConnectorBuilder::new();
        let connector = if parsed.scheme_str() == Some("https") {
            let builder = builder.with_provider_and_native_roots(ring).map_err(|error| {
                refused(format!("the system's certificate authorities cannot be read: {error}"))
            })?;
            builder.https_only().enable_http1().wrap_connector(http)
        } else {
            // Nothing is ever asked over TLS here, so nobody need be trusted.
            let nobody = rustls::ClientConfig::builder_with_provider(ring.into())
                .with_safe_default_protocol_versions()
                .map_err(|error| refused(format!("TLS cannot be set up: {error}")))?
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            builder.with_tls_config(nobody).https_or_http().enable_http1().wrap_connector(http)
        };
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .build(connector);
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

/// The longest time to reach the origin.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// A connection that is not used for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// So many connections are kept open between requests.
const IDLE_CONNECTIONS_MAX: usize = 16;

/// The most of a response head.
const HEAD_BYTES_MAX: usize = 64 << 10;
