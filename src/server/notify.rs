//! What is told to systemd: ready, reloading, stopping, still alive (`sd_notify`, one datagram each).
//!
//! Promises: without `NOTIFY_SOCKET` nothing happens; a supervisor that does not listen holds nothing up. The watchdog is
//! told that the process lives only as long as it does: the runtime that answers requests runs this task, the memory
//! tier lets itself be looked at, and the sweeper is at work. A slow disk is no reason to be killed: hits go on.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use crate::engine::Cache;

/// The supervisor, if there is one.
#[derive(Debug, Clone)]
pub(super) struct Supervisor {
    address: Option<SocketAddr>,
    /// How often it wants to hear that the process lives.
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// The one that the environment names.
    pub(super) fn of_environment() -> Self {
        let address = std::env::var_os("NOTIFY_SOCKET").and_then(|name| address(name.as_bytes()));
        let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
        let is_for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog =
            number("WATCHDOG_USEC").filter(|usec| is_for_us && *usec > 0).map(Duration::from_micros);
        Self { address, watchdog }
    }

    /// The doors are open.
    pub(super) fn ready(&self) {
        self.tell("READY=1\n");
    }

    /// The settings are being read again.
    pub(super) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}\n", now.tv_sec * 1_000_000 + now.tv_nsec / 1000));
    }

    /// It is being stopped.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\n");
    }

    /// Tells that the process lives, for as long as it does; ends at once where nobody wants to hear it.
    pub(super) async fn keep_alive(self, cache: Cache) {
        // A key that nobody has: its shard is looked at, the disk is not.
        let look = move || cache.peek("hifz:liveness").is_ok() && cache.is_sweeping();
        self.tell_while(Arc::new(look)).await;
    }

    /// Tells that the process lives as often as `look` comes back with a yes in time.
    async fn tell_while(self, look: Arc<dyn Fn() -> bool + Send + Sync>) {
        let (Some(_), Some(patience)) = (&self.address, self.watchdog) else { return };
        let mut looking = None;
        loop {
            // One that hangs is waited for on, so that they do not pile up.
            let mut looked = looking.take().unwrap_or_else(|| {
                let look = look.clone();
                tokio::task::spawn_blocking(move || look())
            });
            match tokio::time::timeout(patience / 4, &mut looked).await {
                Ok(Ok(true)) => self.tell("WATCHDOG=1\n"),
                Ok(_) => tracing::error!("a part that answers has ended; the watchdog is not told of life"),
                Err(_) => {
                    tracing::error!(
                        "the cache does not answer; the watchdog is not told that the process lives"
                    );
                    looking = Some(looked);
                }
            }
            tokio::time::sleep(patience / 3).await;
        }
    }

    fn tell(&self, state: &str) {
        let Some(address) = &self.address else { return };
        let told = UnixDatagram::unbound().and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.send_to_addr(state.as_bytes(), address)
        });
        if let Err(error) = told {
            tracing::warn!(%error, "the supervisor cannot be told how the process is");
        }
    }
}

/// A path, or with `@` before it a name that no file stands for.
fn address(name: &[u8]) -> Option<SocketAddr> {
    match name.split_first()? {
        (b'@', name) => SocketAddr::from_abstract_name(name).ok(),
        (b'/', _) => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name)).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_supervisor_hears_every_state_by_path_and_by_name() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let supervisor = Supervisor { address: address(path.as_os_str().as_bytes()), watchdog: None };
        supervisor.ready();
        supervisor.reloading();
        supervisor.stopping();
        let heard: Vec<String> = (0..3)
            .map(|_| {
                let mut bytes = [0; 200];
                let length = socket.recv(&mut bytes).unwrap();
                String::from_utf8_lossy(&bytes[..length]).into_owned()
            })
            .collect();
        assert_eq!((heard[0].as_str(), heard[2].as_str()), ("READY=1\n", "STOPPING=1\n"));
        assert!(heard[1].starts_with("RELOADING=1\nMONOTONIC_USEC=") && heard[1].trim().len() > 30);
        assert!(address(b"@hifz").is_some() && address(b"relative").is_none() && address(b"").is_none());
        Supervisor { address: None, watchdog: None }.ready();
    }

    #[test]
    fn the_watchdog_hears_nothing_while_the_cache_hangs_and_hears_again_when_it_does_not() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let patience = Duration::from_millis(80);
        let supervisor =
            Supervisor { address: address(path.as_os_str().as_bytes()), watchdog: Some(patience) };
        let hangs = Arc::new(parking_lot::Mutex::new(()));
        let looks = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let look = {
            let (hangs, looks) = (hangs.clone(), looks.clone());
            move || {
                looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                drop(hangs.lock());
                true
            }
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let mut bytes = [0; 200];
        let held = hangs.lock();
        let telling = runtime.spawn(supervisor.tell_while(Arc::new(look)));
        while looks.load(std::sync::atomic::Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        socket.set_read_timeout(Some(patience * 6)).unwrap();
        assert!(socket.recv(&mut bytes).is_err(), "nothing is told while the look hangs");
        assert_eq!(looks.load(std::sync::atomic::Ordering::Relaxed), 1, "one that hangs is enough");
        drop(held);
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let length = socket.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"WATCHDOG=1\n");
        telling.abort();
    }
}
