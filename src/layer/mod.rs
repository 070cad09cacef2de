//! A response cache for any [`tower`](https://docs.rs/tower) service: [`ResponseCache`], behind the feature `tower`.
//!
//! A request that the layer answers from the cache never reaches the service; of many that ask for the same at once one
//! does. It follows RFC 9111 as a cache in front of its own service: only `GET` and `HEAD`, only responses that say
//! nothing against it, each with its own lifetime or the one that the [`Policy`](crate::Policy) of the namespace gives
//! it, stale windows included. It needs no web server and knows none.
//!
//! What it promises: a response is served whole and byte for byte or not at all; what may not be shared is not; and
//! nothing that goes wrong in the cache, from a closed one to a full disk, fails, repeats or shortens a request.

mod answer;
mod body;
mod call;
mod directives;
mod message;
mod rules;
mod service;
mod target;

use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderName};
use http::{StatusCode, request};
use tower_layer::Layer;

use crate::engine::Cache;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, Namespace, Tag};

pub use body::CacheBody;
pub use service::CachedService;
pub use target::{sorted_target, target};

use rules::Rules;

/// Keeps the responses of a service; see the [module](self).
///
/// What is never kept: responses to other methods than `GET` and `HEAD`; responses with `Set-Cookie`, with
/// `Cache-Control: private`, `no-store` or `no-cache`, with a `Vary` that the key does not tell apart (see
/// [`ResponseCache::vary_on`]), with a status that is not in [`ResponseCache::statuses`], with trailers, or whose body
/// is larger than [`ResponseCache::body_max`]; and, unless it is told otherwise, responses to requests with
/// `Authorization` or `Cookie`. Requests with `Range`, `Cache-Control: no-store` or `no-cache`, or a body go to the
/// service as they are.
///
/// How long: `s-maxage`, `max-age` or `Expires` of the response; else [`ResponseCache::ttl`]; else the `negative_ttl`
/// of the namespace for statuses from 400 on; else its `ttl`. Its stale windows hold too, unless the response forbids
/// them (`must-revalidate`) or has its own; a service that fails or answers 500, 502, 503 or 504 is stood in for within
/// `stale_if_error`. A successful request by another method takes what is kept of the same target out first.
///
/// Under which key: `namespace:host/path?query`, see [`target`] and [`ResponseCache::key_by`]. Two services never share
/// a namespace: under a nested router the path is often not the whole path.
///
/// Every answer says in `Cache-Status` what was done and, if it was not kept, why. `HEAD` is answered from the response
/// to `GET`, and conditions (`If-None-Match`, `If-Modified-Since`) from what is kept; a response without an `ETag`
/// gets a weak one.
///
/// Whoever leaves does not end the call that others wait for: it goes on, beside its caller, for as long as the policy's
/// `timeout` and `attempts` allow, and its response is kept. What takes longer reaches its caller all the same, but is not
/// kept: give the namespace a [`Policy::timeout`](crate::Policy::timeout) above what the slowest response may take. At most
/// [`CacheBuilder::loads_max`](crate::CacheBuilder::loads_max) calls of different keys are under way through one cache.
/// Readiness of the service is waited for only where it is called.
///
/// ```
/// use hifz::layer::ResponseCache;
/// use hifz::{Cache, Namespace};
/// use http::{Request, Response};
/// use tower::{Layer as _, ServiceExt as _, service_fn};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let cache = Cache::builder().open()?;
/// let slow = service_fn(|_: Request<String>| async { Ok::<_, std::io::Error>(Response::new("made with effort".to_owned())) });
/// let service = ResponseCache::new(&cache, Namespace::parse("pages")?).layer(slow);
///
/// let ask = || service.clone().oneshot(Request::get("/report").body(String::new()).unwrap());
/// assert_eq!(ask().await.unwrap().headers()["cache-status"], "hifz; fwd=miss; stored");
/// let again = ask().await.unwrap();
/// assert!(again.headers()["cache-status"].to_str()?.starts_with("hifz; hit; ttl="));
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct ResponseCache {
    cache: Cache,
    rules: Rules,
}

impl ResponseCache {
    /// Keeps responses in `cache` under keys of `namespace`, which nothing else should use.
    pub fn new(cache: &Cache, namespace: Namespace) -> Self {
        Self { cache: cache.clone(), rules: Rules::new(namespace) }
    }

    /// How long a response is fresh that says nothing of it. Default: as the namespace's policy says.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.rules.ttl = Some(ttl);
        self
    }

    /// What a key is made of beside its namespace; a request for which `key` has nothing goes to the service. What the
    /// answer depends on must be in it, and what two requests share is one answer. Default: [`target`].
    pub fn key_by(mut self, key: impl Fn(&request::Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        self.rules.key = Arc::new(key);
        self
    }

    /// Makes the values of these request headers part of the key, exactly as they were sent, so that responses that
    /// `Vary` on them are kept, one for each. Default: none; a response that varies is not kept.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] for what is no header name, and for `Authorization` and `Cookie`: keys are to be seen,
    /// those are not.
    pub fn vary_on<'n>(mut self, names: impl IntoIterator<Item = &'n str>) -> Result<Self> {
        for name in names {
            let name = header_name(name)?;
            if SECRET.contains(&name) {
                let message = "the values of this header are secret and cannot be part of a key";
                return Err(Error::new(ErrorKind::Settings, message).at(name.as_str()));
            }
            if !self.rules.vary_on.contains(&name) {
                self.rules.vary_on.push(name);
            }
        }
        Ok(self)
    }

    /// Says that the function given to [`ResponseCache::key_by`] has regard to these request headers, so that responses
    /// that `Vary` on them are kept: for keys coarser than the header, such as the one language of a long list.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] for what is no header name.
    pub fn covered<'n>(mut self, names: impl IntoIterator<Item = &'n str>) -> Result<Self> {
        for name in names {
            self.rules.covered.push(header_name(name)?);
        }
        Ok(self)
    }

    /// Responses with other statuses are not kept. 206, 304 and what is below 200 never are. Default: those that RFC
    /// 9110 lets a cache keep untold: 200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501.
    pub fn statuses(mut self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        self.rules.statuses = statuses.into_iter().collect();
        self
    }

    /// The largest body that is kept; larger ones go through as they come. Default: 1 MiB.
    pub fn body_max(mut self, bytes: usize) -> Self {
        self.rules.body_bytes_max = bytes;
        self
    }

    /// Keeps responses to requests with `Authorization` too, and gives them to everyone who asks for the same. Only for
    /// services whose answers do not depend on who asks; whoever is let in is not checked here.
    pub fn share_authorized(mut self) -> Self {
        self.rules.shares_authorized = true;
        self
    }

    /// Keeps responses to requests with `Cookie` too, and gives them to everyone who asks for the same. Only for
    /// services whose answers do not depend on cookies, or whose key function has regard to them.
    pub fn share_with_cookies(mut self) -> Self {
        self.rules.shares_with_cookies = true;
        self
    }

    /// The key of the response to such a request, to invalidate it by; `None` if it has none.
    #[must_use]
    pub fn key_of(&self, request: &request::Parts) -> Option<Key> {
        self.rules.key_of(request)
    }
}

impl<S> Layer<S> for ResponseCache {
    type Service = CachedService<S>;

    fn layer(&self, service: S) -> CachedService<S> {
        CachedService::new(self.cache.clone(), Arc::new(self.rules.clone()), service)
    }
}

/// The tags a response is kept with; a service puts them among the extensions of its response, and whoever changes what
/// it was made of calls [`Cache::invalidate_tag`].
///
/// ```
/// use hifz::Tag;
/// use hifz::layer::Tags;
///
/// let mut response = http::Response::new("a list of authors");
/// response.extensions_mut().insert(Tags(vec![Tag::parse("authors")?]));
/// # Ok::<(), hifz::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tags(pub Vec<Tag>);

fn header_name(name: &str) -> Result<HeaderName> {
    HeaderName::try_from(name).map_err(|error| {
        let message = format!("{name:?} is not the name of a header");
        Error::new(ErrorKind::Settings, message).because(error)
    })
}

const SECRET: [HeaderName; 3] = [header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION];
