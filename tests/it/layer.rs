//! The response-cache layer over a scripted service: what is kept, what is not, and that no request is worse off.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::{FutureExt as _, StreamExt as _};
use hifz::clock::{Clock, Timestamp};
use hifz::layer::{CacheBody, ResponseCache, Tags, sorted_target};
use hifz::{Cache, Namespace, Policy, Tag};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use tokio::sync::Semaphore;
use tower::util::BoxCloneSyncService;
use tower::{Layer as _, ServiceExt as _, service_fn};

type Body = UnsyncBoxBody<Bytes, io::Error>;
type Answer = Response<Body>;
type Cached = BoxCloneSyncService<Request<Full<Bytes>>, Response<CacheBody<Body>>, io::Error>;

type Script = dyn Fn(&Request<Full<Bytes>>, usize) -> io::Result<Answer> + Send + Sync;

/// Answers by its script, which is told the number of the call; held ones wait for leave.
struct Site {
    script: Box<Script>,
    calls: AtomicUsize,
    leave: Semaphore,
    begun: Semaphore,
}

impl Site {
    fn new(
        script: impl Fn(&Request<Full<Bytes>>, usize) -> io::Result<Answer> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (leave, begun) = (Semaphore::new(Semaphore::MAX_PERMITS), Semaphore::new(0));
        Arc::new(Self { script: Box::new(script), calls: AtomicUsize::new(0), leave, begun })
    }

    /// Always the same answer but for the number of the call in its body.
    fn counting(build: impl Fn() -> http::response::Builder + Send + Sync + 'static) -> Arc<Self> {
        Self::new(move |_, call| Ok(build().body(full(format!("call {call}"))).unwrap()))
    }

    fn held(self: &Arc<Self>) -> Arc<Self> {
        self.leave.forget_permits(Semaphore::MAX_PERMITS);
        self.clone()
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn begun(&self) {
        self.begun.acquire().await.unwrap().forget();
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> io::Result<Answer> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        // As a real one: what it answers is settled by what it found when it was asked.
        let answer = (self.script)(&request, call);
        self.begun.add_permits(1);
        if request.method() == Method::GET {
            self.leave.acquire().await.unwrap().forget();
            self.leave.add_permits(usize::from(self.leave.available_permits() > 1000));
        }
        answer
    }

    fn behind(self: &Arc<Self>, layer: &ResponseCache) -> Cached {
        let site = self.clone();
        Cached::new(layer.layer(service_fn(move |request| {
            let site = site.clone();
            async move { site.answer(request).await }
        })))
    }
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// A body of these frames, and then an error if there is one.
fn frames(frames: Vec<io::Result<Frame<Bytes>>>) -> Body {
    StreamBody::new(futures_lite::stream::iter(frames)).boxed_unsync()
}

fn get(uri: &str) -> http::request::Builder {
    Request::get(uri).header("host", "h")
}

fn bare(request: http::request::Builder) -> Request<Full<Bytes>> {
    request.body(Full::default()).unwrap()
}

/// What a client sees.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    status: u16,
    cache_status: String,
    headers: http::HeaderMap,
    body: Result<Bytes, String>,
}

impl Seen {
    fn text(&self) -> &str {
        std::str::from_utf8(self.body.as_ref().unwrap()).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

async fn seen(service: &Cached, request: Request<Full<Bytes>>) -> Seen {
    let (parts, body) = service.clone().oneshot(request).await.unwrap().into_parts();
    let cache_status =
        parts.headers.get("cache-status").map_or("", |value| value.to_str().unwrap()).to_owned();
    let body =
        body.collect().await.map(http_body_util::Collected::to_bytes).map_err(|error| error.to_string());
    Seen { status: parts.status.as_u16(), cache_status, headers: parts.headers, body }
}

fn cache() -> Cache {
    Cache::builder().memory(16 << 20).open().unwrap()
}

fn pages(cache: &Cache) -> ResponseCache {
    ResponseCache::new(cache, Namespace::parse("pages").unwrap())
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

const MISS: &str = "hifz; fwd=miss; stored";

/// Asks twice; the second answer.
async fn asked_twice(
    site: &Arc<Site>,
    layer: &ResponseCache,
    request: impl Fn() -> Request<Full<Bytes>>,
) -> Seen {
    let service = site.behind(layer);
    seen(&service, request()).await;
    seen(&service, request()).await
}

#[test]
fn a_response_is_made_once_and_then_served_whole_with_its_age() {
    run(async {
        let clock = Clock::manual(Timestamp::from_millis(1_000_000));
        let cache = Cache::builder().clock(clock.clone()).open().unwrap();
        let site = Site::counting(|| Response::builder().status(203).header("x-a", "1").header("x-a", "2"));
        let service = site.behind(&pages(&cache));
        let first = seen(&service, bare(get("/a?b=1"))).await;
        assert_eq!((first.cache_status.as_str(), first.header("age")), (MISS, None));
        clock.advance(Duration::from_secs(10));
        let second = seen(&service, bare(get("/a?b=1"))).await;
        assert_eq!(second.cache_status, "hifz; hit; ttl=3590");
        assert_eq!((second.status, second.text(), second.header("age")), (203, "call 1", Some("10")));
        assert_eq!(second.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert!(cache.exists("pages:h/a?b=1").unwrap());
        clock.advance(Duration::from_secs(3590));
        assert_eq!(seen(&service, bare(get("/a?b=1"))).await.text(), "call 2");
        assert_eq!(site.calls(), 2);
    });
}

#[test]
fn requests_that_must_not_be_shared_go_to_the_service_each() {
    run(async {
        for (name, value, detail) in [
            ("authorization", "Bearer x", "authorization"),
            ("cookie", "session=1", "cookie"),
            ("range", "bytes=0-1", "range"),
            ("if-range", "\"x\"", "range"),
            ("if-match", "\"x\"", "precondition"),
            ("cache-control", "no-store", "no-store"),
            ("cache-control", "no-cache", "no-cache"),
            ("cache-control", "max-age=0", "no-cache"),
            ("pragma", "no-cache", "no-cache"),
            ("upgrade", "websocket", "upgrade"),
        ] {
            let (cache, site) = (cache(), Site::counting(Response::builder));
            let layer = pages(&cache);
            let second = asked_twice(&site, &layer, || bare(get("/").header(name, value))).await;
            assert_eq!(second.cache_status, format!("hifz; fwd=bypass; detail={detail}"), "{name}");
            assert_eq!((second.text(), site.calls()), ("call 2", 2), "{name}");
            // And nothing of it was kept for others.
            assert_eq!(seen(&site.behind(&layer), bare(get("/"))).await.text(), "call 3", "{name}");
        }
        let (cache, site) = (cache(), Site::counting(Response::builder));
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
            let request = || bare(Request::builder().method(method.clone()).uri("/"));
            let second = asked_twice(&site, &pages(&cache), request).await;
            assert_eq!(second.cache_status, "hifz; fwd=bypass; detail=method");
        }
        let with_body = || get("/b").body(Full::from("body")).unwrap();
        assert_eq!(
            asked_twice(&site, &pages(&cache), with_body).await.cache_status,
            "hifz; fwd=bypass; detail=body"
        );
        assert_eq!(cache.stats().entries, 0);
    });
}

#[test]
fn responses_that_must_not_be_kept_are_made_anew_each_time() {
    run(async {
        for (name, value, detail) in [
            ("set-cookie", "a=b", "set-cookie"),
            ("cache-control", "private", "private"),
            ("cache-control", "private=\"x\", max-age=60", "private"),
            ("cache-control", "no-store", "no-store"),
            ("cache-control", "no-cache", "no-cache"),
            ("cache-control", "max-age=0", "expired"),
            ("cache-control", "max-age=60, s-maxage=0", "expired"),
            ("cache-control", "max-age=soon", "expired"),
            ("expires", "0", "expired"),
            ("expires", "Thu, 01 Jan 1970 00:00:00 GMT", "expired"),
            ("vary", "*", "vary"),
            ("vary", "Accept-Language", "vary"),
            ("content-range", "bytes 0-1/2", "range"),
            ("content-type", "Text/Event-Stream", "stream"),
            ("content-length", "3", "length"),
        ] {
            let (cache, site) = (cache(), Site::counting(move || Response::builder().header(name, value)));
            let second = asked_twice(&site, &pages(&cache), || bare(get("/"))).await;
            assert_eq!(second.cache_status, format!("hifz; fwd=bypass; detail={detail}"), "{name}: {value}");
            assert_eq!(
                (second.text(), site.calls(), cache.stats().entries),
                ("call 2", 2, 0),
                "{name}: {value}"
            );
        }
        for (status, is_kept) in [
            (200, true),
            (201, false),
            (202, false),
            (203, true),
            (204, true),
            (206, false),
            (300, true),
            (301, true),
            (302, false),
            (303, false),
            (304, false),
            (307, false),
            (308, true),
            (400, false),
            (401, false),
            (403, false),
            (404, true),
            (405, true),
            (410, true),
            (414, true),
            (429, false),
            (500, false),
            (501, true),
            (502, false),
            (503, false),
            (504, false),
        ] {
            let (cache, site) = (cache(), Site::counting(move || Response::builder().status(status)));
            let second = asked_twice(&site, &pages(&cache), || bare(get("/"))).await;
            assert_eq!((second.status, site.calls() == 1), (status, is_kept));
            let told =
                pages(&cache).statuses([StatusCode::FOUND, StatusCode::PARTIAL_CONTENT, StatusCode::OK]);
            let told_site = Site::counting(move || Response::builder().status(status));
            asked_twice(&told_site, &told, || bare(get("/told"))).await;
            assert_eq!(told_site.calls() == 1, status == 302 || status == 200, "{status}");
        }
    });
}

#[test]
fn what_the_layer_is_told_to_share_it_shares() {
    run(async {
        let (cache, site) = (cache(), Site::counting(Response::builder));
        let layer = pages(&cache).share_authorized().share_with_cookies();
        let request = || bare(get("/").header("authorization", "Bearer x").header("cookie", "a=b"));
        assert_eq!(asked_twice(&site, &layer, request).await.text(), "call 1");
    });
}

#[test]
fn a_response_lives_as_long_as_it_says_and_else_as_it_is_told() {
    run(async {
        let minute = Some(Duration::from_mins(1));
        for (headers, status, own, ttl) in [
            (&[][..], 200, None, 3600),
            (&[], 404, None, 30),
            (&[], 200, minute, 60),
            (&[], 404, minute, 60),
            (&[("cache-control", "max-age=7")], 404, minute, 7),
            (&[("cache-control", "max-age=7, s-maxage=9")], 200, minute, 9),
            (&[("cache-control", "max-age=7"), ("age", "3")], 200, None, 4),
            (
                &[("expires", "Sun, 06 Nov 1994 08:49:37 GMT"), ("date", "Sun, 06 Nov 1994 08:48:37 GMT")],
                200,
                None,
                60,
            ),
            (&[("expires", "Thu, 01 Jan 1970 00:17:00 GMT")], 200, None, 20),
        ] {
            let clock = Clock::manual(Timestamp::from_millis(1_000_000));
            let cache = Cache::builder().clock(clock.clone()).open().unwrap();
            let site = Site::counting(move || {
                let builder = Response::builder().status(status);
                headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value))
            });
            let layer = own.map_or(pages(&cache), |own| pages(&cache).ttl(own));
            let hit = asked_twice(&site, &layer, || bare(get("/"))).await;
            assert_eq!(hit.cache_status, format!("hifz; hit; ttl={ttl}"), "{headers:?} {status}");
            clock.advance(Duration::from_secs(ttl));
            assert_eq!(
                seen(&site.behind(&layer), bare(get("/"))).await.text(),
                "call 2",
                "{headers:?} {status}"
            );
        }
    });
}

#[test]
fn headers_that_responses_vary_on_are_told_apart_once_they_are_part_of_the_key() {
    run(async {
        let (cache, site) = (
            cache(),
            Site::new(|request, call| {
                let language =
                    request.headers().get("accept-language").map_or("", |value| value.to_str().unwrap());
                Ok(Response::builder()
                    .header("vary", "Accept-Language")
                    .body(full(format!("{language} {call}")))
                    .unwrap())
            }),
        );
        let layer = pages(&cache).vary_on(["accept-language"]).unwrap();
        let service = site.behind(&layer);
        let ask = async |language: Option<&str>| {
            let request = language.map_or(get("/"), |language| get("/").header("accept-language", language));
            seen(&service, bare(request)).await.text().to_owned()
        };
        for _ in 0..2 {
            assert_eq!(ask(Some("de")).await, "de 1");
            assert_eq!(ask(Some("en, de;q=0.5")).await, "en, de;q=0.5 2");
            assert_eq!(ask(None).await, " 3");
            assert_eq!(ask(Some("")).await, " 4");
            // Nothing in a value runs into the key of another.
            assert_eq!(ask(Some("de accept-language=en")).await, "de accept-language=en 5");
        }
        for secret in ["Authorization", "cookie", "proxy-authorization"] {
            assert!(pages(&cache).vary_on([secret]).unwrap_err().to_string().contains("secret"));
        }
        assert!(pages(&cache).vary_on(["no name"]).is_err());
        // A successful write takes out all of them.
        seen(&service, bare(Request::put("/").header("host", "h"))).await;
        assert_eq!(ask(Some("de")).await, "de 7");
        assert_eq!(ask(None).await, " 8");
    });
}

#[test]
fn a_key_function_decides_what_is_the_same_and_may_refuse() {
    run(async {
        let (cache, site) =
            (cache(), Site::counting(|| Response::builder().header("vary", "accept-language")));
        let layer = pages(&cache).key_by(|request| {
            let language =
                request.headers.get("accept-language").map_or("en", |value| value.to_str().unwrap());
            (request.uri.path() != "/private")
                .then(|| format!("{}:{}", language.get(..2).unwrap(), sorted_target(request).unwrap()))
        });
        let layer = layer.covered(["accept-language"]).unwrap();
        let service = site.behind(&layer);
        let ask = async |uri: &str, language: &str| {
            seen(&service, bare(get(uri).header("accept-language", language))).await.text().to_owned()
        };
        assert_eq!(ask("/?a=1&b=2", "de-DE").await, "call 1");
        assert_eq!(ask("/?b=2&a=1", "de-AT").await, "call 1");
        assert_eq!(ask("/?b=2&a=1", "en").await, "call 2");
        assert_eq!(ask("/private", "en").await, "call 3");
        assert_eq!(ask("/private", "en").await, "call 4");
        assert_eq!(ask(&format!("/{}", "x".repeat(2000)), "en").await, "call 5");
        assert_eq!(ask(&format!("/{}", "x".repeat(2000)), "en").await, "call 6");
        let (parts, _) = bare(get("/?b=2&a=1").header("accept-language", "de")).into_parts();
        let key = layer.key_of(&parts).unwrap();
        assert_eq!(key.as_str(), "pages:de:h/?a=1&b=2");
        assert!(cache.delete(&key).unwrap());
        assert_eq!(ask("/?a=1&b=2", "de").await, "call 7");
    });
}

#[test]
fn hosts_and_paths_cannot_be_made_to_share_a_key() {
    run(async {
        let (cache, site) = (cache(), Site::counting(Response::builder));
        let service = site.behind(&pages(&cache));
        let hosts = [("a", "/b/c"), ("a/b", "/c"), ("a%2Fb", "/c"), ("", "/c"), ("b", "/c")];
        for (at, (host, path)) in hosts.iter().enumerate() {
            let first = seen(&service, bare(Request::get(*path).header("host", *host))).await;
            assert_eq!(first.text(), format!("call {}", at + 1), "{host}{path}");
        }
        let two = || bare(get("/c").header("host", "b"));
        assert_eq!(
            asked_twice(&site, &pages(&cache), two).await.cache_status,
            "hifz; fwd=bypass; detail=key"
        );
    });
}

#[test]
fn head_is_answered_from_what_get_brings_and_conditions_from_what_is_kept() {
    run(async {
        let (cache, site) = (
            cache(),
            Site::counting(|| {
                Response::builder()
                    .header("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")
                    .header("content-type", "text/x")
            }),
        );
        let service = site.behind(&pages(&cache));
        let head = seen(&service, bare(Request::head("/").header("host", "h"))).await;
        assert_eq!(
            (head.cache_status.as_str(), head.header("content-length"), head.text()),
            (MISS, Some("6"), "")
        );
        let whole = seen(&service, bare(get("/"))).await;
        assert_eq!((whole.text(), site.calls()), ("call 1", 1));
        let etag = whole.header("etag").unwrap().to_owned();
        assert!(etag.starts_with("W/\""), "{etag}");
        for (name, value, status) in [
            ("if-none-match", etag.as_str(), 304),
            ("if-none-match", etag.trim_start_matches("W/"), 304),
            ("if-none-match", "\"x\", W/\"y\"", 200),
            ("if-none-match", "*", 304),
            ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT", 304),
            ("if-modified-since", "Sun, 06 Nov 1994 08:49:36 GMT", 200),
            ("if-modified-since", "rubbish", 200),
        ] {
            for method in [Method::GET, Method::HEAD] {
                let request =
                    Request::builder().method(method).uri("/").header("host", "h").header(name, value);
                let answer = seen(&service, bare(request)).await;
                assert_eq!(answer.status, status, "{name}: {value}");
                assert!(answer.cache_status.starts_with("hifz; hit; ttl="));
                assert_eq!(answer.header("etag"), Some(etag.as_str()));
                assert_eq!(answer.header("content-type"), (status == 200).then_some("text/x"));
            }
        }
        // A condition does not reach the service: what is kept is whole.
        let site = Site::new(|request, _| {
            assert!(!request.headers().contains_key("if-none-match"));
            Ok(Response::builder().header("etag", "\"own\"").body(full("own")).unwrap())
        });
        let service = site.behind(&pages(&cache));
        let first = seen(&service, bare(get("/own").header("if-none-match", "\"own\""))).await;
        assert_eq!((first.status, first.text()), (304, ""));
        assert_eq!(seen(&service, bare(get("/own"))).await.text(), "own");
        assert_eq!(site.calls(), 1);
    });
}

#[test]
fn what_a_client_wants_younger_or_longer_fresh_comes_from_the_service() {
    run(async {
        let clock = Clock::manual(Timestamp::from_millis(1_000_000));
        let cache = Cache::builder().clock(clock.clone()).open().unwrap();
        let site = Site::counting(|| Response::builder().header("cache-control", "max-age=60"));
        let service = site.behind(&pages(&cache));
        let ask = async |wish: &str| seen(&service, bare(get("/").header("cache-control", wish))).await;
        let missing = ask("only-if-cached").await;
        assert_eq!((missing.status, site.calls()), (504, 0));
        assert_eq!(ask("max-age=10").await.text(), "call 1");
        clock.advance(Duration::from_secs(20));
        assert_eq!(ask("only-if-cached").await.text(), "call 1");
        assert_eq!(ask("max-age=20").await.text(), "call 1");
        assert_eq!(ask("min-fresh=40").await.text(), "call 1");
        let younger = ask("max-age=19").await;
        assert_eq!(
            (younger.text(), younger.cache_status.as_str()),
            ("call 2", "hifz; fwd=bypass; detail=request")
        );
        assert_eq!(ask("min-fresh=41").await.text(), "call 3");
        assert_eq!(ask("only-if-cached, max-age=1").await.status, 504);
    });
}

#[test]
fn bodies_past_the_bound_stream_through_whole_and_are_not_kept() {
    run(async {
        for (sizes, is_kept) in
            [(&[10][..], true), (&[4, 3, 3], true), (&[], true), (&[11], false), (&[4, 4, 4, 100_000], false)]
        {
            let (cache, site) = (
                cache(),
                Site::new(move |_, _| {
                    let pieces =
                        sizes.iter().map(|size| Ok(Frame::data(Bytes::from(vec![b'x'; *size])))).collect();
                    Ok(Response::new(frames(pieces)))
                }),
            );
            let second = asked_twice(&site, &pages(&cache).body_max(10), || bare(get("/"))).await;
            assert_eq!(second.body.unwrap().len(), sizes.iter().sum::<usize>());
            assert_eq!(site.calls(), if is_kept { 1 } else { 2 }, "{sizes:?}");
        }
    });
}

#[test]
fn heads_pieces_and_tags_have_their_bounds_too() {
    run(async {
        let cache = cache();
        let pieces = |count: usize| frames((0..count).map(|_| Ok(Frame::data("x".into()))).collect());
        let tags =
            |count: usize| Tags((0..count).map(|tag| Tag::parse(format!("t{tag}")).unwrap()).collect());
        let site = Site::new(move |request, _| {
            let within = request.uri().query().is_none();
            let mut response = Response::new(full("x"));
            match request.uri().path() {
                "/head" => {
                    let value = "x".repeat(if within { 60_000 } else { 70_000 });
                    response.headers_mut().insert("x-long", value.parse().unwrap());
                }
                "/pieces" => response = Response::new(pieces(if within { 4096 } else { 4097 })),
                _ => drop(response.extensions_mut().insert(tags(if within { 64 } else { 65 }))),
            }
            Ok(response)
        });
        for (path, detail) in [("/head", "size"), ("/pieces", "size"), ("/tags", "tags")] {
            assert_eq!(
                asked_twice(&site, &pages(&cache), || bare(get(path))).await.cache_status.get(..9),
                Some("hifz; hit")
            );
            let beyond = format!("{path}?beyond");
            let second = asked_twice(&site, &pages(&cache), || bare(get(&beyond))).await;
            assert_eq!(second.cache_status, format!("hifz; fwd=bypass; detail={detail}"), "{path}");
        }
    });
}

#[test]
fn a_body_that_breaks_off_or_has_trailers_reaches_its_client_as_it_is_and_is_not_kept() {
    run(async {
        let (cache, site) = (
            cache(),
            Site::new(|_, _| {
                Ok(Response::new(frames(vec![
                    Ok(Frame::data("begun".into())),
                    Err(io::Error::other("broken")),
                ])))
            }),
        );
        let second = asked_twice(&site, &pages(&cache), || bare(get("/"))).await;
        assert_eq!(second.body, Err("broken".to_owned()));
        assert_eq!((second.cache_status.as_str(), site.calls()), ("hifz; fwd=bypass; detail=broken", 2));
        let site = Site::new(|_, _| {
            let trailers = http::HeaderMap::from_iter([(http::header::EXPIRES, "x".parse().unwrap())]);
            Ok(Response::new(frames(vec![Ok(Frame::data("body".into())), Ok(Frame::trailers(trailers))])))
        });
        let (_, body) = site.behind(&pages(&cache)).oneshot(bare(get("/t"))).await.unwrap().into_parts();
        let collected = body.collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap().len(), 1);
        assert_eq!((collected.to_bytes().as_ref(), cache.stats().entries), (b"body".as_slice(), 0));
    });
}

#[test]
fn fifty_callers_cost_one_call() {
    run(async {
        let (cache, site) = (cache(), Site::counting(Response::builder).held());
        let service = site.behind(&pages(&cache));
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let service = service.clone();
            callers.spawn(async move { seen(&service, bare(get("/"))).await });
        }
        site.begun().await;
        tokio::task::yield_now().await;
        site.leave.add_permits(1);
        let all = callers.join_all().await;
        assert!(all.iter().all(|seen| seen.text() == "call 1"));
        assert_eq!(all.iter().filter(|seen| seen.cache_status == MISS).count(), 1);
        assert_eq!(site.calls(), 1);
    });
}

#[test]
fn what_is_not_kept_does_not_queue() {
    run(async {
        let site = Site::counting(|| Response::builder().header("set-cookie", "a=b")).held();
        let service = site.behind(&pages(&cache()));
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let service = service.clone();
            callers.spawn(async move { seen(&service, bare(get("/"))).await });
        }
        // The first finds out; then all the others are at the service at the same time.
        site.begun().await;
        site.leave.add_permits(1);
        for _ in 1..10 {
            site.begun().await;
        }
        assert_eq!(site.calls(), 10);
        site.leave.add_permits(9);
        let mut bodies: Vec<_> = callers.join_all().await.iter().map(|seen| seen.text().to_owned()).collect();
        bodies.sort();
        bodies.dedup();
        assert_eq!(bodies.len(), 10);
    });
}

#[test]
fn a_caller_who_leaves_ends_nobody_elses_wait() {
    run(async {
        let (cache, site) = (cache(), Site::counting(Response::builder).held());
        let service = site.behind(&pages(&cache));
        let first = tokio::spawn(seen_owned(service.clone(), "/"));
        site.begun().await;
        let second = tokio::spawn(seen_owned(service.clone(), "/"));
        tokio::task::yield_now().await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        site.leave.add_permits(1);
        assert_eq!(second.await.unwrap().text(), "call 1");
        assert_eq!(seen(&service, bare(get("/"))).await.text(), "call 1");
    });
}

async fn seen_owned(service: Cached, uri: &'static str) -> Seen {
    seen(&service, bare(get(uri))).await
}

#[test]
fn a_service_that_hangs_holds_only_those_who_wait_for_it_and_is_called_once_by_each() {
    run(async {
        let policy = Policy::with_ttl(Duration::from_mins(1)).timeout(Duration::from_millis(20)).attempts(2);
        let policy = policy.backoff(Duration::from_millis(1));
        let namespace = Namespace::parse("pages").unwrap();
        let cache = Cache::builder().policy(&namespace, policy).open().unwrap();
        let site = Site::counting(Response::builder).held();
        let service = site.behind(&pages(&cache));
        let slow = tokio::spawn(seen_owned(service.clone(), "/"));
        site.begun().await;
        let left = tokio::spawn(seen_owned(service.clone(), "/left"));
        site.begun().await;
        left.abort();
        // The cache has given up both loads.
        let lone = Arc::new(AtomicU64::new(0));
        while cache.sources().iter().all(|source| source.failures < 4) {
            lone.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        site.leave.add_permits(1);
        let slow = slow.await.unwrap();
        assert_eq!((slow.text(), slow.cache_status.as_str()), ("call 1", "hifz; fwd=miss; detail=failed"));
        assert_eq!(site.calls(), 2);
    });
}

#[test]
fn a_body_that_takes_longer_than_the_cache_has_patience_goes_on_to_its_client() {
    run(async {
        let policy = Policy::with_ttl(Duration::from_mins(1)).timeout(Duration::from_millis(20)).attempts(1);
        let namespace = Namespace::parse("pages").unwrap();
        let cache = Cache::builder().policy(&namespace, policy).open().unwrap();
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<&'static str>();
        let receiver = std::sync::Mutex::new(Some(receiver));
        let site = Site::new(move |_, _| {
            let mut receiver = receiver.lock().unwrap().take().unwrap();
            let stream = futures_lite::stream::poll_fn(move |cx| receiver.poll_recv(cx));
            Ok(Response::new(
                StreamBody::new(stream.map(|text| Ok(Frame::data(Bytes::from(text))))).boxed_unsync(),
            ))
        });
        sender.send("begun, ").unwrap();
        let response = site.behind(&pages(&cache)).oneshot(bare(get("/"))).await.unwrap();
        sender.send("gone on, ").unwrap();
        sender.send("ended").unwrap();
        drop(sender);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!((body.as_ref(), site.calls()), (b"begun, gone on, ended".as_slice(), 1));
    });
}

#[test]
fn a_panic_and_an_error_of_the_service_reach_the_one_who_asked() {
    run(async {
        let (cache, site) = (
            cache(),
            Site::new(|request, _| match request.uri().path() {
                "/panics" => panic!("by script"),
                _ => Err(io::Error::other("by script")),
            }),
        );
        let service = site.behind(&pages(&cache));
        let panicked =
            AssertUnwindSafe(seen(&service, bare(get("/panics")))).catch_unwind().await.unwrap_err();
        assert_eq!(panicked.downcast_ref::<&str>(), Some(&"by script"));
        let error = service.clone().oneshot(bare(get("/fails"))).await.unwrap_err();
        assert_eq!((error.to_string().as_str(), site.calls()), ("by script", 2));
    });
}

#[test]
fn a_failing_cache_fails_no_request() {
    run(async {
        let (cache, site) = (cache(), Site::counting(Response::builder));
        let service = site.behind(&pages(&cache));
        seen(&service, bare(get("/"))).await;
        cache.close().unwrap();
        for call in 2..4 {
            assert_eq!(seen(&service, bare(get("/closed"))).await.text(), format!("call {call}"));
        }
        assert_eq!(seen(&service, bare(Request::post("/closed"))).await.text(), "call 4");
        // Something else under the layer's own key.
        let cache = self::cache();
        cache.set("pages:h/", "no response").unwrap();
        let answer = seen(&site.behind(&pages(&cache)), bare(get("/"))).await;
        assert_eq!(
            (answer.text(), answer.cache_status.as_str()),
            ("call 5", "hifz; fwd=bypass; detail=foreign")
        );
    });
}

#[test]
fn stale_responses_stand_in_within_the_windows_of_the_policy_and_say_so() {
    run(async {
        let clock = Clock::manual(Timestamp::from_millis(1_000_000));
        let policy = Policy::with_ttl(Duration::from_secs(10)).stale_if_error(Duration::from_secs(100));
        let namespace = Namespace::parse("pages").unwrap();
        let cache = Cache::builder().policy(&namespace, policy).clock(clock.clone()).open().unwrap();
        let site = Site::new(|request, call| match (request.uri().path(), call % 2) {
            (_, 1) => Ok(Response::new(full("good"))),
            ("/503", _) => Ok(Response::builder().status(503).body(full("down")).unwrap()),
            ("/404", _) => Ok(Response::builder()
                .status(404)
                .header("cache-control", "no-store")
                .body(full("gone"))
                .unwrap()),
            _ => Err(io::Error::other("down")),
        });
        let service = site.behind(&pages(&cache));
        for path in ["/503", "/error", "/404"] {
            assert_eq!(seen(&service, bare(get(path))).await.text(), "good", "{path}");
            clock.advance(Duration::from_secs(12));
            let stale = seen(&service, bare(get(path))).await;
            let expected = match path {
                "/404" => ("gone", "hifz; fwd=bypass; detail=no-store"),
                _ => ("good", "hifz; hit; ttl=-2; detail=fallback"),
            };
            assert_eq!((stale.text(), stale.cache_status.as_str()), expected, "{path}");
        }
        let strict = Site::new(|_, call| {
            let status = if call == 1 { 200 } else { 503 };
            Ok(Response::builder()
                .status(status)
                .header("cache-control", "max-age=5, must-revalidate")
                .body(full("x"))
                .unwrap())
        });
        let service = strict.behind(&pages(&cache));
        seen(&service, bare(get("/strict"))).await;
        clock.advance(Duration::from_secs(6));
        let strict = seen(&service, bare(get("/strict"))).await;
        assert_eq!((strict.status, strict.cache_status.as_str()), (503, "hifz; fwd=miss; detail=failed"));
    });
}

#[test]
fn a_write_takes_out_its_target_and_a_tag_what_bears_it() {
    run(async {
        let (cache, site) = (
            cache(),
            Site::new(|request, call| {
                let status = if request.headers().contains_key("x-refuse") { 403 } else { 200 };
                let mut response =
                    Response::builder().status(status).body(full(format!("call {call}"))).unwrap();
                response.extensions_mut().insert(Tags(vec![Tag::parse("authors").unwrap()]));
                Ok(response)
            }),
        );
        let service = site.behind(&pages(&cache));
        let ask = async |method: Method, uri: &str, refuse: bool| {
            let mut request = Request::builder().method(method).uri(uri).header("host", "h");
            if refuse {
                request = request.header("x-refuse", "1");
            }
            seen(&service, bare(request)).await.text().to_owned()
        };
        assert_eq!(ask(Method::GET, "/a", false).await, "call 1");
        assert_eq!(ask(Method::GET, "/b", false).await, "call 2");
        assert_eq!(ask(Method::PUT, "/a", true).await, "call 3");
        assert_eq!(ask(Method::GET, "/a", false).await, "call 1");
        assert_eq!(ask(Method::PUT, "/a", false).await, "call 4");
        assert_eq!(ask(Method::GET, "/a", false).await, "call 5");
        assert_eq!(ask(Method::GET, "/b", false).await, "call 2");
        assert_eq!(cache.invalidate_tag("authors").unwrap(), 2);
        assert_eq!(ask(Method::GET, "/b", false).await, "call 6");
    });
}

#[test]
fn a_response_that_a_write_overtook_is_not_kept() {
    run(async {
        let (cache, site) = (cache(), Site::counting(Response::builder).held());
        let service = site.behind(&pages(&cache));
        let old = tokio::spawn(seen_owned(service.clone(), "/"));
        site.begun().await;
        assert_eq!(seen(&service, bare(Request::put("/").header("host", "h"))).await.text(), "call 2");
        site.leave.add_permits(1);
        let old = old.await.unwrap();
        assert_eq!((old.text(), old.cache_status.as_str()), ("call 1", "hifz; fwd=bypass"));
        site.leave.add_permits(1);
        assert_eq!(seen(&service, bare(get("/"))).await.text(), "call 3");
    });
}

#[test]
fn no_reader_that_starts_after_a_write_sees_the_older_response_while_others_read() {
    run(async {
        let state = Arc::new(AtomicUsize::new(0));
        let (cache, site) = (cache(), {
            let state = state.clone();
            Site::new(move |request, _| {
                if request.method() == Method::PUT {
                    state.fetch_add(1, Ordering::SeqCst);
                }
                Ok(Response::new(full(state.load(Ordering::SeqCst).to_string())))
            })
        });
        let service = site.behind(&pages(&cache));
        let (acknowledged, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (service, acknowledged, is_over) = (service.clone(), acknowledged.clone(), is_over.clone());
            readers.spawn(async move {
                while is_over.load(Ordering::SeqCst) == 0 {
                    let least = acknowledged.load(Ordering::SeqCst);
                    let read = seen(&service, bare(get("/"))).await;
                    assert!(read.text().parse::<usize>().unwrap() >= least, "{read:?} after {least}");
                    tokio::task::yield_now().await;
                }
            });
        }
        for write in 1..=300 {
            seen(&service, bare(Request::put("/").header("host", "h"))).await;
            acknowledged.store(write, Ordering::SeqCst);
        }
        is_over.store(1, Ordering::SeqCst);
        readers.join_all().await;
        assert!(site.calls() > 300);
    });
}

/// Pseudo-random responses of all shapes; what the layer serves the second time is what the service said.
#[test]
fn a_kept_answer_is_the_services_own_byte_for_byte() {
    run(async {
        let clock = Clock::manual(Timestamp::from_millis(1_000_000));
        let cache = Cache::builder().clock(clock).open().unwrap();
        let site =
            Site::new(|request, _| Ok(shaped(request.uri().path().trim_matches('/').parse().unwrap())));
        let service = site.behind(&pages(&cache));
        for seed in 0..500_u64 {
            let uri = format!("/{seed}");
            let plain = shaped(seed);
            let (parts, body) = plain.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            for expected in ["hifz; fwd=miss; stored", "hifz; hit; ttl=3600"] {
                let mut answer = seen(&service, bare(get(&uri))).await;
                assert_eq!(answer.cache_status, expected);
                assert_eq!(answer.status, parts.status.as_u16(), "{seed}");
                assert_eq!(answer.body.as_ref(), Ok(&body), "{seed}");
                for added in ["cache-status", "age", "etag"] {
                    answer.headers.remove(added);
                }
                assert_eq!(answer.headers, parts.headers, "{seed}");
            }
        }
        assert_eq!(site.calls(), 500);
    });
}

fn shaped(seed: u64) -> Answer {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let statuses = [200, 203, 300, 301, 308];
    let mut builder = Response::builder().status(statuses[usize::try_from(next(5)).unwrap()]);
    for _ in 0..next(6) {
        let value: Vec<u8> = (0..next(40))
            .map(|_| [b'\t', b' ', b'a', b':', b'"', b',', 0x80, 0xFF][usize::try_from(next(8)).unwrap()])
            .collect();
        builder = builder.header(format!("x-{}", next(3)), http::HeaderValue::from_bytes(&value).unwrap());
    }
    let pieces = (0..next(5))
        .map(|_| {
            let size = next(3000);
            Ok(Frame::data((0..size).map(|_| u8::try_from(next(256)).unwrap()).collect::<Bytes>()))
        })
        .collect();
    builder.body(frames(pieces)).unwrap()
}

#[test]
fn a_body_says_how_long_it_is_and_when_it_ends() {
    run(async {
        let (cache, site) = (cache(), Site::counting(Response::builder));
        let service = site.behind(&pages(&cache));
        for _ in 0..2 {
            let mut body = service.clone().oneshot(bare(get("/"))).await.unwrap().into_body();
            assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(6), false));
            let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), "call 1");
            assert!(body.is_end_stream());
            let after = poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await;
            assert!(matches!(after, Poll::Ready(None)));
        }
    });
}
