//! How often one client may ask: reads and writes a second, failed logins a minute.
//!
//! Promises: a client may spend one period's worth at once and then goes on evenly; what is refused says when to come
//! back; the table of clients is bounded, and when it is full those with the least debt are forgotten first, so that a
//! flood of addresses buys nobody more than a fresh address would. Whoever brings a right token is never refused for the
//! failed logins of others at the same address: only failures are counted, and only failures are refused.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::Next;
use axum::response::IntoResponse as _;
use parking_lot::Mutex;

use crate::clock::monotonic_now;
use crate::server::config::{Limits, Network};

use super::Site;
use super::problem::Problem;
use super::remote::Visitor;

/// The limits of a process, and what each client has used of them.
#[derive(Debug)]
pub(in crate::server) struct Rates {
    reads: Option<Buckets>,
    writes: Option<Buckets>,
    failed_logins: Option<Buckets>,
    proxies: Vec<Network>,
    began: Instant,
}

impl Rates {
    /// As `limits` say; 0 is no limit.
    pub(in crate::server) fn new(limits: &Limits) -> Self {
        let buckets = |rate: u64, period| (rate > 0).then(|| Buckets::new(rate, period));
        Self {
            reads: buckets(limits.rate_reads, SECOND),
            writes: buckets(limits.rate_writes, SECOND),
            failed_logins: buckets(limits.rate_failed_logins, MINUTE),
            proxies: limits.trusted_proxies.clone(),
            began: monotonic_now(),
        }
    }

    /// Whether requests are to be counted at all.
    pub(super) fn counts_requests(&self) -> bool {
        self.reads.is_some() || self.writes.is_some()
    }

    /// Who sent a request.
    pub(super) fn visitor(&self, headers: &HeaderMap, extensions: &Extensions) -> Visitor {
        Visitor::of(headers, extensions, &self.proxies)
    }

    /// Counts a request.
    fn request(&self, request: &Request) -> Result<(), Problem> {
        let (buckets, what) = match *request.method() {
            Method::GET | Method::HEAD => (&self.reads, "reads"),
            // A browser asks before it asks; only the second counts.
            Method::OPTIONS => return Ok(()),
            _ => (&self.writes, "writes"),
        };
        let Some(buckets) = buckets else { return Ok(()) };
        let visitor = self.visitor(request.headers(), request.extensions());
        buckets.take(visitor, self.began.elapsed()).map_err(|wait| {
            let detail = format!("too many {what}: this client may send {} a second", buckets.rate);
            too_many("RATE_LIMITED", detail, wait)
        })
    }

    /// Counts a failed login of whoever sent a request with these `headers`.
    pub(super) fn failed_login(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<(), Problem> {
        let Some(buckets) = &self.failed_logins else { return Ok(()) };
        buckets.take(self.visitor(headers, extensions), self.began.elapsed()).map_err(|wait| {
            let detail =
                "too many requests with a wrong token from this address; a right one is let in at once";
            too_many("TOO_MANY_FAILED_LOGINS", detail, wait)
        })
    }
}

/// Refuses what is too often.
pub(super) async fn limit(State(site): State<Site>, request: Request, next: Next) -> Response<Body> {
    match site.rates.request(&request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn too_many(code: &'static str, detail: impl Into<String>, wait: Duration) -> Problem {
    let secs = wait.as_millis().div_ceil(1000).max(1);
    let wait = HeaderValue::from(u64::try_from(secs).unwrap_or(u64::MAX));
    Problem::new(StatusCode::TOO_MANY_REQUESTS, code, detail).with(header::RETRY_AFTER, wait)
}

/// One limit for many clients: for each, the time until which what it sent so far is paid for at an even pace.
#[derive(Debug)]
struct Buckets {
    rate: u64,
    /// What one request costs.
    step: Duration,
    /// How far ahead of the present a client may be and still ask.
    ahead_max: Duration,
    /// By client, guarded each by its lock; held for one look and one change.
    shards: [Mutex<HashMap<Visitor, Duration>>; SHARDS],
}

impl Buckets {
    fn new(rate: u64, period: Duration) -> Self {
        let step = Duration::from_nanos(u64::try_from(period.as_nanos()).unwrap_or(u64::MAX) / rate);
        let shards = std::array::from_fn(|_| Mutex::new(HashMap::new()));
        Self { rate, step, ahead_max: period.saturating_sub(step), shards }
    }

    /// Takes one from `visitor` at `now`, or says how long to wait.
    fn take(&self, visitor: Visitor, now: Duration) -> Result<(), Duration> {
        let mut paid_until = self.shard(visitor).lock();
        let paid = paid_until.get(&visitor).copied().unwrap_or(now).max(now);
        let ahead = paid.saturating_sub(now);
        if ahead > self.ahead_max {
            return Err(ahead.saturating_sub(self.ahead_max));
        }
        if paid_until.len() >= SHARD_VISITORS_MAX && !paid_until.contains_key(&visitor) {
            make_room(&mut paid_until, now);
        }
        paid_until.insert(visitor, paid.saturating_add(self.step));
        Ok(())
    }

    fn shard(&self, visitor: Visitor) -> &Mutex<HashMap<Visitor, Duration>> {
        let hash = match visitor {
            Visitor::Network(std::net::IpAddr::V4(address)) => xxhash_rust::xxh3::xxh3_64(&address.octets()),
            Visitor::Network(std::net::IpAddr::V6(address)) => xxhash_rust::xxh3::xxh3_64(&address.octets()),
            Visitor::Local => 0,
        };
        &self.shards[usize::from(hash.to_le_bytes()[0]) % SHARDS]
    }
}

/// Forgets who owes nothing; else who owes least.
fn make_room(paid_until: &mut HashMap<Visitor, Duration>, now: Duration) {
    paid_until.retain(|_, paid| *paid > now);
    if paid_until.len() < SHARD_VISITORS_MAX {
        return;
    }
    let least = paid_until.iter().min_by_key(|(_, paid)| **paid).map(|(visitor, _)| *visitor);
    if let Some(visitor) = least {
        paid_until.remove(&visitor);
    }
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

const SHARDS: usize = 16;

/// Of each limit at most 65 536 clients are known, in about 5 MB.
const SHARD_VISITORS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn visitor(number: u32) -> Visitor {
        Visitor::from(IpAddr::V4(Ipv4Addr::from_bits(number)))
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_period_s_worth_may_come_at_once_and_then_goes_on_evenly() {
        let buckets = Buckets::new(5, SECOND);
        let one = visitor(1);
        for _ in 0..5 {
            assert_eq!(buckets.take(one, ms(0)), Ok(()));
        }
        assert_eq!(buckets.take(one, ms(0)), Err(ms(200)));
        assert_eq!(buckets.take(visitor(2), ms(0)), Ok(()), "another client is another matter");
        assert_eq!(buckets.take(one, ms(199)), Err(ms(1)));
        assert_eq!(buckets.take(one, ms(200)), Ok(()));
        assert_eq!(buckets.take(one, ms(200)), Err(ms(200)));
        for _ in 0..5 {
            assert_eq!(buckets.take(one, ms(60_000)), Ok(()));
        }
        assert!(buckets.take(one, ms(60_000)).is_err(), "what was not used is not saved up");
    }

    #[test]
    fn a_limit_of_one_and_the_largest_limit_work() {
        let buckets = Buckets::new(1, SECOND);
        assert_eq!(buckets.take(visitor(1), ms(0)), Ok(()));
        assert_eq!(buckets.take(visitor(1), ms(0)), Err(SECOND));
        let buckets = Buckets::new(u64::MAX, SECOND);
        assert!((0..1000).all(|_| buckets.take(visitor(1), ms(0)).is_ok()));
    }

    #[test]
    fn a_flood_of_addresses_is_bounded_and_frees_nobody_who_owes_most() {
        let buckets = Buckets::new(5, SECOND);
        let greedy = visitor(u32::MAX);
        while buckets.take(greedy, ms(0)).is_ok() {}
        for number in 0..200_000 {
            buckets.take(visitor(number), ms(0)).unwrap();
        }
        let known: usize = buckets.shards.iter().map(|shard| shard.lock().len()).sum();
        assert!(known <= SHARDS * SHARD_VISITORS_MAX);
        assert!(buckets.take(greedy, ms(0)).is_err());
    }
}
