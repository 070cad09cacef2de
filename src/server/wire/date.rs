//! The `Date` of answers that hyper does not write: rendered once a second and thread.

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use crate::clock::wall_secs;

/// The present as HTTP writes it.
pub(super) fn now() -> String {
    with(ToOwned::to_owned)
}

/// Shows the present as HTTP writes it.
pub(super) fn with<T>(show: impl FnOnce(&str) -> T) -> T {
    thread_local!(static LAST: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) });
    LAST.with_borrow_mut(|(at, text)| {
        let now = wall_secs();
        if *at != now {
            *text = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(now));
            *at = now;
        }
        show(text)
    })
}
