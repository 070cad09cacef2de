//! A repository behind the cache: reads come from memory, writes take out exactly what depends on them.
//!
//! `cargo run --example repository`

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hifz::{Cache, Cached, Namespace, Policy, Repository, Result};
use serde::{Deserialize, Serialize};

/// What the shop sells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Book {
    pub(crate) title: String,
    pub(crate) shelf: String,
    pub(crate) copies: u32,
}

/// Stands for a database: counts how often it is asked.
#[derive(Debug, Default)]
pub(crate) struct Books {
    rows: Mutex<BTreeMap<u32, Book>>,
    pub(crate) asked: AtomicU64,
}

impl Books {
    fn rows(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, Book>> {
        self.rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A change of more than one row, which the cache does not know by itself.
    async fn move_all(&self, from: &str, to: &str) -> Result<()> {
        tokio::task::yield_now().await;
        for book in self.rows().values_mut().filter(|book| book.shelf == from) {
            to.clone_into(&mut book.shelf);
        }
        Ok(())
    }
}

impl Repository for Books {
    type Id = u32;
    type Item = Book;
    /// The shelf.
    type Filter = String;

    async fn find(&self, id: &u32) -> Result<Option<Book>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(self.rows().get(id).cloned())
    }

    async fn list(&self, on: &String) -> Result<Vec<Book>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(self.rows().values().filter(|book| book.shelf == *on).cloned().collect())
    }

    async fn save(&self, id: &u32, book: &Book) -> Result<()> {
        self.rows().insert(*id, book.clone());
        Ok(())
    }

    async fn remove(&self, id: &u32) -> Result<bool> {
        Ok(self.rows().remove(id).is_some())
    }
}

/// How often the repository was asked for four hundred reads with three changes among them.
pub(crate) async fn tour() -> Result<u64> {
    let namespace = Namespace::parse("books")?;
    let policy = Policy::with_ttl(Duration::from_mins(10)).stale_if_error(Duration::from_hours(1));
    let cache = Cache::builder().memory(16 << 20).policy(&namespace, policy).open()?;
    let books = Cached::new(&cache, namespace, Books::default())?;

    let book = Book { title: "The Muqaddimah".into(), shelf: "history".into(), copies: 3 };
    books.save(&1, &book).await?;
    for _ in 0..100 {
        assert_eq!(books.get(&1).await?, Some(book.clone()));
        assert_eq!(books.list(&"history".to_owned()).await?, std::slice::from_ref(&book));
    }

    // A write is seen by the next read, of the item and of every list.
    let sold = Book { copies: 2, ..book };
    books.save(&1, &sold).await?;
    assert_eq!(books.get(&1).await?, Some(sold.clone()));
    assert_eq!(books.list(&"history".to_owned()).await?, [sold]);

    // Any other change names what it touches.
    books.change(&[1], books.repository().move_all("history", "classics")).await?;
    for _ in 0..100 {
        assert_eq!(books.list(&"history".to_owned()).await?, []);
        assert_eq!(books.get(&1).await?.map(|book| book.shelf).as_deref(), Some("classics"));
    }
    let asked = books.repository().asked.load(Ordering::Relaxed);
    cache.close()?;
    Ok(asked)
}

#[tokio::main]
async fn main() -> Result<()> {
    let asked = tour().await?;
    #[expect(clippy::print_stdout, reason = "an example shows what it does")]
    {
        println!("402 reads, 3 writes: the repository was asked {asked} times");
    }
    Ok(())
}
