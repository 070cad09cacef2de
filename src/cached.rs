//! A repository behind the cache: [`Cached`], behind the feature `typed`.
//!
//! Reads come from the cache, and from the repository on a miss, once however many ask. Writes go to the repository and
//! then take out exactly what depends on them, durably, before they return: from then on nobody reads the older state,
//! and no load that began earlier puts it back. It does not know what an item means, nor how the repository keeps it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec;
use crate::engine::{Cache, Owed, VALUE_MEDIA_TYPE};
use crate::entry::{Entry, Head};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, Namespace};
use crate::source::{Ask, Load, Loaded, Loading, Source};

/// Where items of one kind are kept: a table, a directory, another service.
///
/// An error means "unknown" and makes the cache serve what is stale, if the policy of the namespace allows it; what does
/// not exist is `Ok(None)`. Nothing here may block the executor, and every read must tolerate being dropped at any
/// await.
pub trait Repository: Send + Sync + 'static {
    /// Tells items apart. Its text is part of a key, so two ids are the same exactly if their texts are.
    type Id: fmt::Display + Clone + Send + Sync + 'static;
    /// What is kept.
    type Item: Serialize + DeserializeOwned + Send + Sync;
    /// What a list is chosen by: a filter, an order, a page. Its text is part of a key; `&'static str` where there is
    /// one list.
    type Filter: fmt::Display + Clone + Send + Sync + 'static;

    /// To be raised with each change of what an item looks like, so that what an earlier version of the program left on
    /// disk is loaded anew and not misread.
    const SHAPE: u32 = 0;

    /// The item `id` as it is now.
    fn find(&self, id: &Self::Id) -> impl Future<Output = Result<Option<Self::Item>>> + Send;

    /// The items that `filter` chooses, as they are now.
    fn list(&self, filter: &Self::Filter) -> impl Future<Output = Result<Vec<Self::Item>>> + Send;

    /// Makes `item` the item `id`, whether there was one or not.
    fn save(&self, id: &Self::Id, item: &Self::Item) -> impl Future<Output = Result<()>> + Send;

    /// Takes the item `id` out; whether there was one.
    fn remove(&self, id: &Self::Id) -> impl Future<Output = Result<bool>> + Send;
}

impl<R: Repository> Repository for Arc<R> {
    type Id = R::Id;
    type Item = R::Item;
    type Filter = R::Filter;

    const SHAPE: u32 = R::SHAPE;

    fn find(&self, id: &R::Id) -> impl Future<Output = Result<Option<R::Item>>> + Send {
        (**self).find(id)
    }

    fn list(&self, filter: &R::Filter) -> impl Future<Output = Result<Vec<R::Item>>> + Send {
        (**self).list(filter)
    }

    fn save(&self, id: &R::Id, item: &R::Item) -> impl Future<Output = Result<()>> + Send {
        (**self).save(id, item)
    }

    fn remove(&self, id: &R::Id) -> impl Future<Output = Result<bool>> + Send {
        (**self).remove(id)
    }
}

/// A [`Repository`] behind the cache; cheap to clone, every clone is the same.
///
/// An item stands under `namespace:id`, a list under `namespace.lists:filter`: two namespaces, each with the policy of
/// its own name. A write takes out the item and all lists, at a cost that does not depend on how many those are.
///
/// ```
/// # use std::collections::BTreeMap;
/// # use std::sync::Mutex;
/// use hifz::{Cache, Cached, Namespace, Repository, Result};
///
/// struct Names(Mutex<BTreeMap<u32, String>>);
///
/// impl Repository for Names {
///     type Id = u32;
///     type Item = String;
///     type Filter = &'static str;
///
///     async fn find(&self, id: &u32) -> Result<Option<String>> {
///         Ok(self.0.lock().unwrap().get(id).cloned())
///     }
///     async fn list(&self, _: &&'static str) -> Result<Vec<String>> {
///         Ok(self.0.lock().unwrap().values().cloned().collect())
///     }
///     async fn save(&self, id: &u32, name: &String) -> Result<()> {
///         self.0.lock().unwrap().insert(*id, name.clone());
///         Ok(())
///     }
///     async fn remove(&self, id: &u32) -> Result<bool> {
///         Ok(self.0.lock().unwrap().remove(id).is_some())
///     }
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let cache = Cache::builder().open()?;
/// let names = Cached::new(&cache, Namespace::parse("names")?, Names(Mutex::default()))?;
/// assert_eq!(names.get(&7).await?, None);
/// names.save(&7, &"Maryam".to_owned()).await?;
/// assert_eq!(names.get(&7).await?.as_deref(), Some("Maryam"));
/// assert_eq!(names.list(&"all").await?, ["Maryam"]);
/// # Ok::<(), hifz::Error>(()) }).unwrap();
/// ```
pub struct Cached<R> {
    cache: Cache,
    items: Namespace,
    lists: Namespace,
    /// What items and lists of this shape are marked with.
    media_type: Arc<str>,
    repository: Arc<R>,
}

impl<R: Repository> Cached<R> {
    /// Puts `cache` before `repository`; nothing else should use the keys of `namespace` and `namespace.lists`.
    ///
    /// # Errors
    /// [`ErrorKind::KeyInvalid`] when the name of the namespace is too long to carry another.
    pub fn new(cache: &Cache, namespace: Namespace, repository: R) -> Result<Self> {
        let lists = Namespace::parse(format!("{namespace}.lists"))?;
        let media_type = match R::SHAPE {
            0 => VALUE_MEDIA_TYPE.into(),
            shape => format!("{VALUE_MEDIA_TYPE}; shape={shape}").into(),
        };
        Ok(Self {
            cache: cache.clone(),
            items: namespace,
            lists,
            media_type,
            repository: Arc::new(repository),
        })
    }

    /// The repository itself, past the cache. What is changed there goes through [`Cached::change`].
    #[must_use]
    pub fn repository(&self) -> &R {
        &self.repository
    }

    /// The item `id`; `None` when there is none.
    ///
    /// # Errors
    /// What the repository reports when nothing may be served instead, and what [`Cache::get_or_load`] does;
    /// [`ErrorKind::KeyInvalid`] when the text of `id` cannot be part of a key.
    pub async fn get(&self, id: &R::Id) -> Result<Option<R::Item>> {
        self.read(self.key_of(id)?, Reading::Item(id.clone())).await
    }

    /// The items that `filter` chooses.
    ///
    /// # Errors
    /// As [`Cached::get`].
    pub async fn list(&self, filter: &R::Filter) -> Result<Vec<R::Item>> {
        let key = Key::parse(format!("{}:{filter}", self.lists))?;
        let listed: Option<Vec<R::Item>> = self.read(key, Reading::List(filter.clone())).await?;
        Ok(listed.unwrap_or_default())
    }

    /// Makes `item` the item `id`. From the return on, no read sees an older one, nor a list without it.
    ///
    /// # Errors
    /// As [`Cached::change`].
    pub async fn save(&self, id: &R::Id, item: &R::Item) -> Result<()> {
        self.change(std::slice::from_ref(id), self.repository.save(id, item)).await
    }

    /// Takes the item `id` out; whether there was one. From the return on, no read sees it.
    ///
    /// # Errors
    /// As [`Cached::change`].
    pub async fn remove(&self, id: &R::Id) -> Result<bool> {
        self.change(std::slice::from_ref(id), self.repository.remove(id)).await
    }

    /// Makes any other `change` in the repository, of the items `ids`: what depends on those is taken out once it has
    /// been made, and also when it failed, panicked or was given up half way, since it may have been made by then.
    ///
    /// ```no_run
    /// # use hifz::{Cached, Repository, Result};
    /// # async fn rename_all<R: Repository<Id = u32>>(names: Cached<R>, rename: impl Future<Output = Result<()>>) -> Result<()> {
    /// names.change(&[3, 4], rename).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// What `change` reports; else [`ErrorKind::DiskFailed`] when the change was made, but could not be made known to the
    /// disk durably. This process serves nothing older all the same.
    pub async fn change<T>(&self, ids: &[R::Id], change: impl Future<Output = Result<T>>) -> Result<T> {
        let keys = ids.iter().map(|id| self.key_of(id)).collect::<Result<Vec<_>>>()?;
        let owed = Owed::keys_and_namespace(&self.cache, keys, self.lists.clone());
        let changed = change.await;
        let settled = owed.settle().await;
        let changed = changed?;
        settled.map(|()| changed)
    }

    /// The key of the item `id`.
    ///
    /// # Errors
    /// [`ErrorKind::KeyInvalid`] when the text of `id` cannot be part of a key.
    pub fn key_of(&self, id: &R::Id) -> Result<Key> {
        Key::parse(format!("{}:{id}", self.items))
    }

    async fn read<T: DeserializeOwned>(&self, key: Key, reading: Reading<R>) -> Result<Option<T>> {
        let source = Reader {
            repository: self.repository.clone(),
            media_type: self.media_type.clone(),
            name: self.items.clone(),
            reading,
        };
        for _ in 0..READS_MAX {
            let answer = self.cache.get_or_load(key.as_key_ref(), &source).await?;
            let Some(entry) = answer.entry else { return Ok(None) };
            match self.value_of(&entry) {
                Ok(value) => return Ok(Some(value)),
                Err(error) => self.take_out(&entry, &error).await?,
            }
        }
        Err(Error::new(ErrorKind::DocumentInvalid, "something else writes values of another shape")
            .at(key.as_str()))
    }

    fn value_of<T: DeserializeOwned>(&self, entry: &Entry) -> Result<T> {
        let media_type = Head::decode(entry.head()).map_or("", |head| head.content_type);
        if media_type != &*self.media_type {
            let message = format!("it has media type {media_type:?}, {:?} is expected", self.media_type);
            return Err(Error::new(ErrorKind::DocumentInvalid, message));
        }
        codec::decode_serde(entry.body())
    }

    /// What an earlier version of the program left, or somebody else, is loaded anew.
    async fn take_out(&self, entry: &Entry, error: &Error) -> Result<()> {
        tracing::info!(key = %entry.key(), error = %error.chain(), "a value of another shape is loaded anew");
        Owed::keys(&self.cache, vec![entry.key().to_key()]).settle().await
    }
}

impl<R> Clone for Cached<R> {
    fn clone(&self) -> Self {
        Self {
            cache: self.cache.clone(),
            items: self.items.clone(),
            lists: self.lists.clone(),
            media_type: self.media_type.clone(),
            repository: self.repository.clone(),
        }
    }
}

impl<R> fmt::Debug for Cached<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached").field("items", &self.items).finish_non_exhaustive()
    }
}

/// What is read of a repository.
enum Reading<R: Repository> {
    Item(R::Id),
    List(R::Filter),
}

impl<R: Repository> Clone for Reading<R> {
    fn clone(&self) -> Self {
        match self {
            Self::Item(id) => Self::Item(id.clone()),
            Self::List(filter) => Self::List(filter.clone()),
        }
    }
}

/// One reading, as a source of the cache.
struct Reader<R: Repository> {
    repository: Arc<R>,
    media_type: Arc<str>,
    name: Namespace,
    reading: Reading<R>,
}

impl<R: Repository> Reader<R> {
    async fn load_value(&self) -> Result<Load> {
        let value = match &self.reading {
            Reading::Item(id) => match self.repository.find(id).await? {
                Some(item) => codec::encode_serde(&item)?,
                None => return Ok(Load::Absent),
            },
            Reading::List(filter) => codec::encode_serde(&self.repository.list(filter).await?)?,
        };
        Ok(Loaded::new(value).content_type(self.media_type.to_string()).into())
    }
}

impl<R: Repository> Source for Reader<R> {
    fn load<'l>(&'l self, _: Ask<'l>) -> Loading<'l> {
        Box::pin(self.load_value())
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }
}

impl<R: Repository> Clone for Reader<R> {
    fn clone(&self) -> Self {
        Self {
            repository: self.repository.clone(),
            media_type: self.media_type.clone(),
            name: self.name.clone(),
            reading: self.reading.clone(),
        }
    }
}

impl<R: Repository> fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("name", &self.name).finish_non_exhaustive()
    }
}

/// So often a value of another shape is taken out before it is given up.
const READS_MAX: usize = 3;
