//! The service that answers from the cache, and where it may not, from the service behind it.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Method, Request, Response, request};
use http_body::Body;
use tower_service::Service;
use tracing::Instrument as _;

use crate::engine::{Answer, Cache, Outcome, Owed};
use crate::entry::Entry;
use crate::error::Error;
use crate::key::Key;
use crate::pattern::Pattern;

use super::answer::{self, Asked};
use super::body::CacheBody;
use super::call::{Answering, Call, Given};
use super::directives::Directives;
use super::rules::{Plan, Reason, Rules};

/// A service behind a [`ResponseCache`](super::ResponseCache).
#[derive(Debug, Clone)]
pub struct CachedService<S> {
    cache: Cache,
    rules: Arc<Rules>,
    inner: S,
}

impl<S> CachedService<S> {
    pub(super) fn new(cache: Cache, rules: Arc<Rules>, inner: S) -> Self {
        Self { cache, rules, inner }
    }
}

impl<S, Q, B> Service<Request<Q>> for CachedService<S>
where
    S: Service<Request<Q>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    Q: Body + Send + 'static,
    B: Body + Send + 'static,
    B::Error: Send,
{
    type Response = Response<CacheBody<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // A hit does not need the service; a call waits until it is ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let (cache, rules, inner) = (self.cache.clone(), self.rules.clone(), self.inner.clone());
        let (mut parts, body) = request.into_parts();
        match rules.plan(&parts, !body.is_end_stream()) {
            Plan::Pass(reason) => {
                let owed = owed_after(&cache, &rules, &parts);
                let answering = call(inner, Request::from_parts(parts, body));
                Box::pin(pass(answering, reason, owed))
            }
            Plan::Ask(key, directives) => {
                let asked = Asked::taken_from(&mut parts);
                let answering = call(inner, Request::from_parts(parts, body));
                let call = Arc::new(Call::new(cache.clone(), rules, answering));
                Box::pin(async move {
                    let whole = Asking { cache, key, directives, call }.whole().await?;
                    Ok(asked.out_of(whole))
                })
            }
        }
    }
}

/// The service's answer, once it is ready.
fn call<S, Q, B>(mut inner: S, request: Request<Q>) -> Answering<B, S::Error>
where
    S: Service<Request<Q>, Response = Response<B>> + Send + 'static,
    S::Future: Send,
    Q: Send + 'static,
{
    let answering = async move {
        poll_fn(|cx| inner.poll_ready(cx)).await?;
        inner.call(request).await
    };
    // It may go on beside its caller, but still belongs to its span.
    Box::pin(answering.in_current_span())
}

/// What a request with a method that may change its target takes out of the cache (RFC 9111 §4.4).
fn owed_after(cache: &Cache, rules: &Rules, request: &request::Parts) -> Option<Owed> {
    if request.method.is_safe() || request.method == Method::CONNECT {
        return None;
    }
    if rules.vary_on.is_empty() {
        return Some(Owed::keys(cache, vec![rules.key_of(request)?]));
    }
    let variants = format!("{} ", rules.base_of(request)?);
    Some(Owed::pattern(cache, Pattern::prefix(&variants).ok()?))
}

async fn pass<B: Body, E>(answering: Answering<B, E>, reason: Reason, owed: Option<Owed>) -> Given<B, E> {
    let mut response = answering.await?.map(CacheBody::passed);
    let is_done = response.status().is_success() || response.status().is_redirection();
    match owed {
        // The change is made; what is kept of it goes before anyone hears of that.
        Some(owed) if is_done => {
            if let Err(error) = owed.settle().await {
                tracing::error!(error = %error.chain(), "what a request changed could not be taken out durably");
            }
        }
        Some(owed) => owed.forgive(),
        None => {}
    }
    answer::passed(response.headers_mut(), "bypass", Some(reason));
    Ok(response)
}

/// One request that the cache may answer.
struct Asking<B: Body, E> {
    cache: Cache,
    key: Key,
    directives: Directives,
    call: Arc<Call<B, E>>,
}

impl<B, E> Asking<B, E>
where
    B: Body + Send + 'static,
    B::Error: Send,
    E: Send + 'static,
{
    /// The one function that decides where a response comes from.
    async fn whole(self) -> Given<B, E> {
        if self.directives.only_if_cached {
            return Ok(self.only_if_cached().await);
        }
        match self.cache.get_or_load(self.key.as_key_ref(), &self.call).await {
            Ok(Answer { outcome: outcome @ (Outcome::Miss | Outcome::Bypass), entry, .. }) => {
                self.loaded(entry, outcome).await
            }
            Ok(Answer { outcome, entry: Some(entry), .. }) => self.kept(&entry, outcome).await,
            Ok(_) => self.passed("bypass", Some("absent")).await,
            Err(error) => self.failed(&error).await,
        }
    }

    async fn kept(&self, entry: &Entry, outcome: Outcome) -> Given<B, E> {
        let now = self.cache.now();
        if !answer::suits(entry, &self.directives, now) {
            return self.passed("bypass", Some("request")).await;
        }
        match answer::kept(entry, outcome, now) {
            Some(response) => Ok(response),
            None => self.passed("bypass", Some("foreign")).await,
        }
    }

    /// What this caller's own call brought.
    async fn loaded(&self, entry: Option<Entry>, outcome: Outcome) -> Given<B, E> {
        let Some((response, reason)) = self.call.answered() else {
            return match entry {
                Some(entry) => self.kept(&entry, Outcome::Joined).await,
                None => self.passed("bypass", None).await,
            };
        };
        let mut response = response?;
        let forward = if outcome == Outcome::Miss { "miss; stored" } else { "bypass" };
        answer::passed(response.headers_mut(), forward, reason);
        Ok(response)
    }

    async fn failed(&self, error: &Error) -> Given<B, E> {
        tracing::debug!(key = %self.key, error = %error.chain(), "a response did not come through the cache");
        self.passed("miss", Some("failed")).await
    }

    /// The service's answer, past the cache.
    async fn passed(&self, forward: &str, reason: Option<Reason>) -> Given<B, E> {
        let mut response = self.call.finish().await?;
        answer::passed(response.headers_mut(), forward, reason);
        Ok(response)
    }

    async fn only_if_cached(&self) -> Response<CacheBody<B>> {
        let found = self.cache.get_async(self.key.as_key_ref()).await;
        let now = self.cache.now();
        let entry = found.ok().flatten().filter(|entry| answer::suits(entry, &self.directives, now));
        entry
            .and_then(|entry| answer::kept(&entry, Outcome::Hit, now))
            .unwrap_or_else(answer::gateway_timeout)
    }
}
