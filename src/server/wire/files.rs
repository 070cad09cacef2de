//! Large bodies that the kernel sends by itself.
//!
//! Writing a body copies it into the socket, into pages that are cold as soon as many connections are served: for large
//! bodies that is most of what an answer costs. So a large body that is asked for again stands a second time, in a memory
//! file, and `sendfile` hands the pages of that to the socket as they are. A file is sealed once it is written, never
//! written again, and belongs to one entry, which it holds, so that an address means one body.
//!
//! The files are few and small together, charged to the memory limit, and let go of when the cache no longer keeps their
//! entry or nobody asks for them. Without one (too many descriptors, another system) a body is written as all others.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit};
use tokio::net::TcpStream;

use crate::engine::{Cache, Charge};
use crate::entry::Entry;

/// The memory files of this process; cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::server) struct Files(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    cache: Cache,
    /// The most descriptors the files may take.
    files_max: usize,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    files: HashMap<Place, Kept>,
    /// The bytes of all of them.
    bytes: u64,
    /// Bodies that were asked for once, each where its address says, so that one asked for again is known.
    asked: [Place; ASKED_PLACES],
    /// How often it was looked what can go; the age of files is told by it.
    looks: u64,
}

/// The address of an entry and where in it the body begins.
type Place = (usize, usize);

#[derive(Debug)]
struct Kept {
    file: Arc<BodyFile>,
    /// Keeps the address from being another's.
    entry: Entry,
    /// The last look before it was asked for.
    asked_at: u64,
}

/// One body as a file.
#[derive(Debug)]
pub(super) struct BodyFile {
    file: File,
    /// As many bytes as it has.
    charge: Charge,
}

impl Files {
    pub(in crate::server) fn new(cache: &Cache) -> Self {
        // What the limit may be raised to: the server raises it as it begins to listen.
        let descriptors = getrlimit(Resource::Nofile).maximum.and_then(|most| usize::try_from(most).ok());
        let files_max = descriptors.map_or(FILES_MAX, |most| (most / DESCRIPTOR_PART).min(FILES_MAX));
        Self(Arc::new(Shared { cache: cache.clone(), files_max, table: Mutex::new(Table::new()) }))
    }

    /// The file of `body`, which lies in `entry`: from the second time on that a large one is asked for.
    pub(super) fn of(&self, entry: &Entry, body: &[u8]) -> Option<Arc<BodyFile>> {
        if body.len() < BODY_BYTES_MIN {
            return None;
        }
        let bytes = body.len() as u64;
        let room = Room { files: self.0.files_max, bytes: self.0.cache.memory_limit() / MEMORY_PART };
        if bytes > room.bytes / BODY_PART {
            return None;
        }
        let place = (entry.address(), body.as_ptr() as usize);
        let asked = self.0.table.lock().ask(place, bytes, room);
        // Bound to a name: files that give way are closed after the new one stands.
        let _gone = match asked {
            Asked::Stands(file) => return Some(file),
            Asked::Seldom => return None,
            Asked::Again(gone) => gone,
        };
        let file = Arc::new(BodyFile::write(body, self.0.cache.charge()).ok()?);
        let _twice = self.0.table.lock().keep(place, entry.clone(), file.clone());
        Some(file)
    }

    /// Looks again and again at what can go.
    pub(in crate::server) async fn keep_looking(self) {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            self.look();
        }
    }

    /// Lets go of files that nobody asks for, or whose entry the cache has lost.
    fn look(&self) {
        let (entries, looks) = self.0.table.lock().look();
        for (place, entry, asked_at) in entries {
            if looks - asked_at > IDLE_LOOKS || !self.0.cache.keeps(&entry) {
                let _kept = self.0.table.lock().remove(place);
            }
        }
    }
}

/// What the table answers to who asks for a file.
enum Asked {
    Stands(Arc<BodyFile>),
    /// For the first time in a while, or there is no room: not worth a file.
    Seldom,
    /// A file is to be made; those gave way to it.
    Again(Vec<Kept>),
}

/// The most that files may take.
#[derive(Clone, Copy)]
struct Room {
    files: usize,
    bytes: u64,
}

impl Table {
    fn new() -> Self {
        Self { files: HashMap::new(), bytes: 0, asked: [(0, 0); ASKED_PLACES], looks: 0 }
    }

    fn ask(&mut self, place: Place, bytes: u64, room: Room) -> Asked {
        if let Some(kept) = self.files.get_mut(&place) {
            kept.asked_at = self.looks;
            return Asked::Stands(kept.file.clone());
        }
        let asked = self.asked.get_mut(spread(place));
        let is_first = asked.is_none_or(|asked| std::mem::replace(asked, place) != place);
        if is_first {
            return Asked::Seldom;
        }
        let mut gone = Vec::new();
        while self.files.len() >= room.files || self.bytes + bytes > room.bytes {
            let Some(idle) = self.idle() else { return Asked::Seldom };
            gone.extend(self.remove(idle));
        }
        Asked::Again(gone)
    }

    /// The file not asked for the longest, if it was not lately: to make files in turn would cost more than it saves.
    fn idle(&self) -> Option<Place> {
        let (place, kept) = self.files.iter().min_by_key(|(_, kept)| kept.asked_at)?;
        (self.looks - kept.asked_at >= SPARED_LOOKS).then_some(*place)
    }

    /// Keeps `file`; returns another that was made at the same time.
    fn keep(&mut self, place: Place, entry: Entry, file: Arc<BodyFile>) -> Option<Kept> {
        let twice = self.remove(place);
        self.bytes += file.bytes();
        self.files.insert(place, Kept { file, entry, asked_at: self.looks });
        twice
    }

    fn remove(&mut self, place: Place) -> Option<Kept> {
        let kept = self.files.remove(&place)?;
        self.bytes -= kept.file.bytes();
        Some(kept)
    }

    /// Which entries stand in files, when each was asked for, and the number of this look.
    fn look(&mut self) -> (Vec<(Place, Entry, u64)>, u64) {
        self.looks += 1;
        let entries = self.files.iter().map(|(place, kept)| (*place, kept.entry.clone(), kept.asked_at));
        (entries.collect(), self.looks)
    }
}

impl BodyFile {
    pub(super) fn bytes(&self) -> u64 {
        self.charge.bytes()
    }

    #[cfg(target_os = "linux")]
    fn write(body: &[u8], mut charge: Charge) -> io::Result<Self> {
        use std::io::Write as _;

        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

        charge.set(body.len() as u64);
        let mut file =
            File::from(memfd_create("hifz-body", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
        file.write_all(body)?;
        fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self { file, charge })
    }

    #[cfg(not(target_os = "linux"))]
    fn write(_body: &[u8], _charge: Charge) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Writes what is left of `head`, or else hands the body from `sent` on to the socket; says how many bytes went.
    #[cfg(target_os = "linux")]
    pub(super) fn send(&self, socket: &TcpStream, head: &[u8], sent: u64) -> io::Result<usize> {
        use rustix::net::{SendFlags, send};

        if !head.is_empty() {
            // Both travel together: the kernel waits for the body.
            return Ok(send(socket, head, SendFlags::MORE | SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?);
        }
        let left = usize::try_from(self.bytes().saturating_sub(sent)).unwrap_or(usize::MAX);
        let mut from = sent;
        Ok(rustix::fs::sendfile(socket, &self.file, Some(&mut from), left.min(SEND_BYTES_MAX))?)
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn send(&self, _socket: &TcpStream, _head: &[u8], _sent: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Which of the places of bodies asked for once is that of `place`: large entries begin at the same place in their page,
/// so all bits have a say (Fibonacci hashing, Knuth, The Art of Computer Programming, volume 3, section 6.4).
fn spread(place: Place) -> usize {
    let mixed = (place.0 ^ place.1.rotate_left(32)) as u64;
    usize::try_from(mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32).unwrap_or_default() % ASKED_PLACES
}

/// From here on `sendfile` is cheaper than a copy however warm the pages are (`benches/README.md`).
const BODY_BYTES_MIN: usize = 24 << 10;

/// The most that is handed to the socket at once, so that one fast reader does not hold the others up.
const SEND_BYTES_MAX: usize = 1 << 20;

/// All files together may take one part in so many of the memory limit,
const MEMORY_PART: u64 = 16;

/// and one of them one part in so many of that.
const BODY_PART: u64 = 4;

/// The most files,
const FILES_MAX: usize = 128;

/// and at most one part in so many of the descriptors, which connections need more.
const DESCRIPTOR_PART: usize = 16;

/// How many bodies are remembered that were asked for once.
const ASKED_PLACES: usize = 64;

/// How often it is looked what can go.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A file that was asked for in the last second does not give way to another,
const SPARED_LOOKS: u64 = 20;

/// and one that nobody asks for goes after a minute.
const IDLE_LOOKS: u64 = 1200;

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> Cache {
        Cache::builder().memory(64 << 20).open().unwrap()
    }

    fn entry(cache: &Cache, key: &str, bytes: usize) -> Entry {
        cache.set(key, vec![7; bytes]).unwrap();
        cache.get(key).unwrap().unwrap()
    }

    fn stands(files: &Files, entry: &Entry) -> bool {
        files.of(entry, entry.body()).is_some()
    }

    /// What the files are charged, which is what the table takes them for.
    fn charged(files: &Files) -> u64 {
        let table = files.0.table.lock();
        let charged = table.files.values().map(|kept| kept.file.charge.bytes()).sum();
        assert_eq!(table.bytes, charged);
        charged
    }

    #[test]
    fn a_large_body_stands_in_a_file_from_the_second_time_on_and_a_small_one_never() {
        let cache = cache();
        let files = Files::new(&cache);
        let (large, small) = (entry(&cache, "a:1", BODY_BYTES_MIN), entry(&cache, "a:2", BODY_BYTES_MIN - 1));
        assert_eq!([stands(&files, &large), stands(&files, &small)], [false, false]);
        assert_eq!([stands(&files, &large), stands(&files, &small)], [true, false]);
        assert_eq!(charged(&files), BODY_BYTES_MIN as u64, "a file is charged");
        files.look();
        assert!(stands(&files, &large));
    }

    #[test]
    fn a_file_goes_with_its_entry_and_when_nobody_asks_for_it() {
        let cache = cache();
        let files = Files::new(&cache);
        let (deleted, idle) = (entry(&cache, "a:1", 30 << 10), entry(&cache, "a:2", 30 << 10));
        for entry in [&deleted, &deleted, &idle, &idle] {
            stands(&files, entry);
        }
        cache.delete("a:1").unwrap();
        files.look();
        assert_eq!(charged(&files), 30 << 10);
        (0..=IDLE_LOOKS).for_each(|_| files.look());
        assert_eq!(charged(&files), 0);
        assert!(files.0.table.lock().files.is_empty());
    }

    #[test]
    fn files_stay_within_their_part_of_the_memory_and_only_idle_ones_give_way() {
        let cache = cache();
        let files = Files::new(&cache);
        let entries: Vec<_> =
            (0..10).map(|number| entry(&cache, &format!("a:{number}"), 900 << 10)).collect();
        let asked_twice = entries.iter().filter(|entry| stands(&files, entry) | stands(&files, entry));
        assert_eq!(asked_twice.count(), 4, "4 MB of 64 hold four of 900 kB");
        (0..SPARED_LOOKS).for_each(|_| files.look());
        let last = entries.last().unwrap();
        stands(&files, last);
        assert!(stands(&files, last), "an idle one gave way");
        assert!(charged(&files) <= 4 << 20);
        let huge = entry(&cache, "a:huge", 2 << 20);
        assert_eq!([stands(&files, &huge), stands(&files, &huge)], [false, false]);
    }
}
