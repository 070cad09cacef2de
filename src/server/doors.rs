//! The doors of a process: which listeners there are, what is behind each, and what is said once they stand open.

use std::io::Write as _;

use tokio::task::JoinSet;

use crate::content::Store;
use crate::datadir::DataDir;
use crate::error::{ErrorKind, Result};

use super::config::{self, ListenAddress, Settings};
use super::http::{self, Hits, Site};
use super::listen::{Bound, Reception};

/// The listeners of this process, bound and not yet served.
pub(super) struct Doors {
    public: Vec<Bound>,
    /// Empty when the admin routes are on the public listeners.
    admin: Vec<Bound>,
    /// For the command line on this machine, which has no certificate to trust; only beside HTTPS.
    local: Option<Bound>,
}

impl Doors {
    /// Binds every listener that `settings` name.
    pub(super) async fn open(settings: &Settings, directory: &DataDir) -> Result<Self> {
        let mut doors = Self { public: Vec::new(), admin: Vec::new(), local: None };
        for address in &settings.listen {
            doors.public.push(Bound::bind(address).await?);
        }
        for address in &settings.admin_listen {
            doors.admin.push(Bound::bind(address).await?);
        }
        if settings.tls.cert.is_some() {
            let socket = directory.path().join("hifz.sock");
            doors.local = Some(Bound::bind(&ListenAddress::Unix(socket)).await?);
        }
        Ok(doors)
    }

    /// Where the command line finds the admin routes.
    pub(super) fn admin_address(&self) -> String {
        self.local
            .as_ref()
            .or(self.admin.first())
            .or(self.public.first())
            .map(Bound::address)
            .unwrap_or_default()
    }

    /// Serves `site` behind all of them, each until it is time to stop and what is under way is done.
    pub(super) fn serve(self, site: &Site, reception: &Reception) -> JoinSet<()> {
        let mut serving = JoinSet::new();
        let routes = if self.admin.is_empty() { http::everything(site) } else { http::public(site) };
        let hits = site.answers_plainly.then(|| Hits::new(site));
        for bound in self.public {
            serving.spawn(reception.clone().serve(bound, routes.clone(), hits.clone()));
        }
        for bound in self.admin {
            serving.spawn(reception.for_operators().serve(bound, http::admin(site), None));
        }
        if let Some(bound) = self.local {
            serving.spawn(reception.for_operators().serve(bound, http::everything(site), None));
        }
        serving
    }
}

/// The start summary, on standard output: the one thing a person sees before the log.
pub(super) fn announce(settings: &Settings, doors: &Doors, site: &Site, token_from: &str) -> Result<()> {
    let content = contents(&site.store)?;
    let addresses = |bound: &[Bound]| bound.iter().map(Bound::address).collect::<Vec<_>>().join(", ");
    let mut lines =
        vec![format!("hifz {} listens on {}", env!("CARGO_PKG_VERSION"), addresses(&doors.public))];
    if !doors.admin.is_empty() {
        lines.push(format!("  admin        {}", addresses(&doors.admin)));
    }
    let (memory, disk) = (config::show_size(settings.memory), config::show_size(settings.disk));
    lines.push(format!("  data         {}", settings.data_dir.display()));
    lines.push(format!("  limits       memory {memory}, disk {disk}"));
    lines.push(format!("  content      {content}"));
    lines.push(format!("  admin token  {token_from}\n"));
    let summary = lines.join("\n");
    let mut out = std::io::stdout().lock();
    // Nobody may be reading; that is no reason not to serve.
    out.write_all(summary.as_bytes()).and_then(|()| out.flush()).unwrap_or_default();
    Ok(())
}

/// How much content there is. What is damaged is refused when it is asked for, and does not keep the rest from being
/// served.
fn contents(store: &Store) -> Result<String> {
    let counts = match store.counts() {
        Ok(counts) => counts,
        Err(error) if error.kind() == ErrorKind::ContentDamaged => {
            tracing::error!(error = %error.chain(), "content is damaged: `hifz verify --repair` restores built-in text");
            return Ok(format!("damaged ({error}); `hifz verify --repair` restores built-in text"));
        }
        Err(error) => return Err(error),
    };
    Ok(format!(
        "{} surahs, {} ayahs, {} reciters, {} translations",
        counts.surahs, counts.ayahs, counts.reciters, counts.translations_available
    ))
}
