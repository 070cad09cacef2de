//! A repository behind the cache: what is read once, what a write takes out, and who wins a race.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hifz::clock::{Clock, Timestamp};
use hifz::{Cache, Cached, DataDir, Error, ErrorKind, Namespace, Policy, Repository, Result};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Rows in memory that count how they are asked, fail when told to, and hold a reader when told to.
#[derive(Debug, Default)]
struct Rows<const SHAPE: u32 = 0> {
    by_id: Mutex<BTreeMap<String, u64>>,
    finds: AtomicUsize,
    lists: AtomicUsize,
    is_down: AtomicBool,
    holds: AtomicBool,
    begun: Notify,
    go: Notify,
}

impl<const SHAPE: u32> Rows<SHAPE> {
    fn refuse_if_down(&self) -> Result<()> {
        if self.is_down.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::SourceUnavailable, "the rows are down"));
        }
        Ok(())
    }

    async fn wait_if_held(&self) {
        if self.holds.swap(false, Ordering::SeqCst) {
            self.begun.notify_one();
            self.go.notified().await;
        }
    }
}

impl<const SHAPE: u32> Repository for Rows<SHAPE> {
    type Id = String;
    type Item = u64;
    type Filter = &'static str;
    const SHAPE: u32 = SHAPE;

    async fn find(&self, id: &String) -> Result<Option<u64>> {
        self.finds.fetch_add(1, Ordering::SeqCst);
        let row = self.by_id.lock().get(id).copied();
        self.wait_if_held().await;
        self.refuse_if_down()?;
        Ok(row)
    }

    async fn list(&self, prefix: &&'static str) -> Result<Vec<u64>> {
        self.lists.fetch_add(1, Ordering::SeqCst);
        let rows =
            self.by_id.lock().iter().filter(|(id, _)| id.starts_with(prefix)).map(|(_, row)| *row).collect();
        self.wait_if_held().await;
        self.refuse_if_down()?;
        Ok(rows)
    }

    async fn save(&self, id: &String, row: &u64) -> Result<()> {
        self.refuse_if_down()?;
        self.by_id.lock().insert(id.clone(), *row);
        self.wait_if_held().await;
        Ok(())
    }

    async fn remove(&self, id: &String) -> Result<bool> {
        self.refuse_if_down()?;
        Ok(self.by_id.lock().remove(id).is_some())
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn rows() -> (Cache, Arc<Rows>, Cached<Arc<Rows>>) {
    let (cache, rows) = (Cache::builder().memory(16 << 20).open().unwrap(), Arc::default());
    let cached = Cached::new(&cache, Namespace::parse("rows").unwrap(), Arc::clone(&rows)).unwrap();
    (cache, rows, cached)
}

fn id(text: &str) -> String {
    text.to_owned()
}

#[test]
fn items_and_lists_are_read_once_and_absence_is_remembered() {
    run(async {
        let (_, rows, cached) = rows();
        cached.save(&id("a1"), &1).await.unwrap();
        for _ in 0..3 {
            assert_eq!(cached.get(&id("a1")).await.unwrap(), Some(1));
            assert_eq!(cached.get(&id("none")).await.unwrap(), None);
            assert_eq!(cached.list(&"a").await.unwrap(), [1]);
            assert!(cached.list(&"b").await.unwrap().is_empty());
        }
        assert_eq!((rows.finds.load(Ordering::SeqCst), rows.lists.load(Ordering::SeqCst)), (2, 2));
    });
}

#[test]
fn a_write_takes_out_its_item_and_the_lists_and_nothing_else() {
    run(async {
        let (cache, rows, cached) = rows();
        for (name, row) in [("a1", 1), ("a2", 2)] {
            cached.save(&id(name), &row).await.unwrap();
            assert_eq!(cached.get(&id(name)).await.unwrap(), Some(row));
        }
        cache.set("rows2:x", "of another").unwrap();
        assert_eq!(cached.list(&"a").await.unwrap(), [1, 2]);
        assert_eq!(cached.get(&id("a3")).await.unwrap(), None);
        let finds = rows.finds.load(Ordering::SeqCst);
        cached.save(&id("a3"), &3).await.unwrap();
        cached.save(&id("a1"), &10).await.unwrap();
        assert_eq!(cached.get(&id("a2")).await.unwrap(), Some(2));
        assert_eq!(rows.finds.load(Ordering::SeqCst), finds, "what was not written is still held");
        assert_eq!(cached.get(&id("a3")).await.unwrap(), Some(3), "absence was forgotten");
        assert_eq!(cached.get(&id("a1")).await.unwrap(), Some(10));
        assert_eq!(cached.list(&"a").await.unwrap(), [10, 2, 3]);
        assert!(cached.remove(&id("a1")).await.unwrap());
        assert!(!cached.remove(&id("a1")).await.unwrap());
        assert_eq!(cached.get(&id("a1")).await.unwrap(), None);
        assert_eq!(cached.list(&"a").await.unwrap(), [2, 3]);
        assert!(cache.exists("rows2:x").unwrap());
    });
}

#[test]
fn a_load_that_began_before_a_write_never_puts_the_old_value_back() {
    run(async {
        let (_, rows, cached) = rows();
        cached.save(&id("a1"), &1).await.unwrap();
        for reads_list in [false, true] {
            cached.change(&[id("a1")], async { Ok(()) }).await.unwrap();
            rows.holds.store(true, Ordering::SeqCst);
            let reader = tokio::spawn({
                let cached = cached.clone();
                async move {
                    if reads_list {
                        cached.list(&"a").await.unwrap()
                    } else {
                        Vec::from_iter(cached.get(&id("a1")).await.unwrap())
                    }
                }
            });
            // It has read the old row, and is on its way back with it.
            rows.begun.notified().await;
            let old = *rows.by_id.lock().get("a1").unwrap();
            cached.save(&id("a1"), &(old + 1)).await.unwrap();
            rows.go.notify_one();
            assert_eq!(reader.await.unwrap(), [old]);
            assert_eq!(cached.get(&id("a1")).await.unwrap(), Some(old + 1));
            assert_eq!(cached.list(&"a").await.unwrap(), [old + 1]);
        }
    });
}

#[test]
fn no_reader_that_starts_after_a_write_sees_the_older_row_while_others_read() {
    run(async {
        let (_, _, cached) = rows();
        cached.save(&id("a"), &0).await.unwrap();
        let (acknowledged, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (cached, acknowledged, is_over) = (cached.clone(), acknowledged.clone(), is_over.clone());
            readers.spawn(async move {
                while !is_over.load(Ordering::SeqCst) {
                    let least = acknowledged.load(Ordering::SeqCst) as u64;
                    let row = cached.get(&id("a")).await.unwrap().unwrap();
                    assert!(row >= least, "{row} after {least}");
                    let least = acknowledged.load(Ordering::SeqCst) as u64;
                    let listed = cached.list(&"a").await.unwrap();
                    assert!(listed[0] >= least, "{listed:?} after {least}");
                    tokio::task::yield_now().await;
                }
            });
        }
        for row in 1..=300 {
            cached.save(&id("a"), &row).await.unwrap();
            acknowledged.store(usize::try_from(row).unwrap(), Ordering::SeqCst);
        }
        is_over.store(true, Ordering::SeqCst);
        readers.join_all().await;
    });
}

#[test]
fn a_write_that_is_given_up_half_way_leaves_nothing_old_behind() {
    run(async {
        let (_, rows, cached) = rows();
        cached.save(&id("a"), &1).await.unwrap();
        assert_eq!(cached.get(&id("a")).await.unwrap(), Some(1));
        rows.holds.store(true, Ordering::SeqCst);
        let writer = tokio::spawn({
            let cached = cached.clone();
            async move { cached.save(&id("a"), &2).await }
        });
        // The row is written, the answer still on its way.
        rows.begun.notified().await;
        writer.abort();
        assert!(writer.await.unwrap_err().is_cancelled());
        while cached.get(&id("a")).await.unwrap() != Some(2) {
            tokio::task::yield_now().await;
        }
        // A write that failed may have been made all the same.
        assert_eq!(cached.get(&id("a")).await.unwrap(), Some(2));
        let ids = [id("a")];
        let failed = cached.change(&ids, async {
            rows.by_id.lock().insert(id("a"), 3);
            Err::<(), _>(Error::new(ErrorKind::SourceTimedOut, "no answer"))
        });
        assert_eq!(failed.await.unwrap_err().kind(), ErrorKind::SourceTimedOut);
        assert_eq!(cached.get(&id("a")).await.unwrap(), Some(3));
    });
}

#[test]
fn a_repository_that_is_down_is_stood_in_for_within_the_window_and_else_reported() {
    run(async {
        let clock = Clock::manual(Timestamp::from_millis(1_000_000));
        let namespace = Namespace::parse("rows").unwrap();
        let policy =
            Policy::with_ttl(Duration::from_secs(10)).stale_if_error(Duration::from_secs(100)).attempts(1);
        let cache = Cache::builder().policy(&namespace, policy).clock(clock.clone()).open().unwrap();
        let rows: Arc<Rows> = Arc::default();
        let cached = Cached::new(&cache, namespace, rows.clone()).unwrap();
        cached.save(&id("a"), &1).await.unwrap();
        assert_eq!(cached.get(&id("a")).await.unwrap(), Some(1));
        rows.is_down.store(true, Ordering::SeqCst);
        clock.advance(Duration::from_secs(50));
        assert_eq!(cached.get(&id("a")).await.unwrap(), Some(1));
        assert_eq!(cached.save(&id("b"), &1).await.unwrap_err().kind(), ErrorKind::SourceUnavailable);
        clock.advance(Duration::from_secs(100));
        assert_eq!(cached.get(&id("a")).await.unwrap_err().kind(), ErrorKind::SourceUnavailable);
    });
}

#[test]
fn what_an_older_shape_or_a_stranger_left_is_loaded_anew() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let open = || Cache::builder().data_dir(DataDir::open(directory.path()).unwrap()).open().unwrap();
        let (cache, old) = (open(), Arc::<Rows<0>>::default());
        let cached = Cached::new(&cache, Namespace::parse("rows").unwrap(), old).unwrap();
        cached.save(&id("a"), &1).await.unwrap();
        assert_eq!(cached.get(&id("a")).await.unwrap(), Some(1));
        assert_eq!(cache.get_value::<u64>("rows:a").unwrap(), Some(1));
        cache.set("rows:b", "no row").unwrap();
        cache.close().unwrap();
        drop((cached, cache));
        let (cache, new) = (open(), Arc::<Rows<1>>::default());
        new.by_id.lock().extend([(id("a"), 2), (id("b"), 3)]);
        let cached = Cached::new(&cache, Namespace::parse("rows").unwrap(), new).unwrap();
        assert_eq!(cached.get(&id("a")).await.unwrap(), Some(2));
        assert_eq!(cached.get(&id("b")).await.unwrap(), Some(3));
        assert_eq!(cached.get(&id("no\nkey")).await.unwrap_err().kind(), ErrorKind::KeyInvalid);
        assert_eq!(cached.save(&id("no\nkey"), &1).await.unwrap_err().kind(), ErrorKind::KeyInvalid);
    });
}
