//! The commands that work on the cache itself: `get`, `set`, `delete`, `exists`, `keys`, `explain`, `invalidate`, `clear`.
//!
//! They talk to the running server; when none runs, they open the cache in the data directory under its lock, do their
//! work and close it again, so that nothing is lost. Keys and selectors are checked before either is asked.

use std::cell::RefCell;
use std::io::{self, Read as _, Write as _};

use bytes::Bytes;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::output::{Failure, say, say_json, say_whom};
use super::target::{Target, run};
use crate::content::keys;
use crate::engine::{Cache, Filter, ListCursor, Selector, SetOptions};
use crate::error::{Error, ErrorKind};
use crate::key::{Key, Namespace, Tag};
use crate::pattern::Pattern;
use crate::server::client::{Client, Send, path_segment, query_value};
use crate::server::config::{Settings, parse_duration};
use crate::server::http::{plain_body, refuse_long, shown};

/// The commands, as clap understands them.
pub(super) fn commands() -> [Command; 8] {
    [
        Command::new("get").about("Write the value under a key to standard output, byte for byte").arg(key()),
        Command::new("set")
            .about("Put a value under a key")
            .arg(key())
            .arg(
                Arg::new(VALUE)
                    .value_name("VALUE")
                    .help("The value; - or nothing: read it from standard input")
                    .allow_hyphen_values(true),
            )
            .arg(option(TTL, "DURATION", "How long it is fresh [default: as its namespace says]"))
            .arg(option(TAGS, "A,B", "Tags it can be invalidated by").value_delimiter(','))
            .arg(option(CONTENT_TYPE, "TYPE", "Its media type [default: application/octet-stream]")),
        Command::new("delete").about("Delete what stands under a key, durably").arg(key()),
        Command::new("exists")
            .about("Say whether something stands under a key (exit code 0 or 1)")
            .arg(key()),
        Command::new("keys")
            .about("List the keys that stand, in memory or on disk")
            .arg(option(NAMESPACE, "NAME", "Only those of this namespace"))
            .arg(option(PREFIX, "TEXT", "Only those that begin with this"))
            .arg(option(PATTERN, "GLOB", "Only those that this pattern covers")),
        Command::new("explain").about("Say everything about one key").arg(key()),
        invalidate(),
        Command::new("clear")
            .about("Forget the whole cache, or one namespace; content is untouched")
            .arg(option(NAMESPACE, "NAME", "Only this namespace")),
    ]
}

fn invalidate() -> Command {
    let several = |name: &'static str, value: &'static str, help: &'static str| {
        option(name, value, help).num_args(1..).action(ArgAction::Append)
    };
    Command::new("invalidate")
        .about("Make the cache forget, durably")
        .arg(several(KEY, "KEY", "These keys"))
        .arg(option(NAMESPACE, "NAME", "Everything in this namespace"))
        .arg(option(PATTERN, "GLOB", "Every key that this pattern covers: * ? [a-z] [^a] \\"))
        .arg(option(PREFIX, "TEXT", "Every key that begins with this"))
        .arg(several(TAG, "TAG", "Everything with one of these tags"))
        .group(ArgGroup::new("selector").args([KEY, NAMESPACE, PATTERN, PREFIX, TAG]).required(true))
        .arg(
            Arg::new(DRY_RUN)
                .long("dry-run")
                .help("Only say how many entries that would be")
                .action(ArgAction::SetTrue),
        )
}

/// Runs one of [`commands`]; `None` when `name` is none of them.
pub(super) fn act(
    name: &str,
    matches: &ArgMatches,
    settings: &Settings,
    is_json: bool,
) -> Option<Result<(), Failure>> {
    let command = Given { matches, settings, is_json, via: RefCell::default() };
    Some(match name {
        "get" => command.get(),
        "set" => command.set(),
        "delete" => command.delete(),
        "exists" => command.exists(),
        "keys" => command.keys(),
        "explain" => command.explain(),
        "invalidate" => command.invalidate(),
        "clear" => command.clear(),
        _ => return None,
    })
}

/// A command as it was given.
struct Given<'g> {
    matches: &'g ArgMatches,
    settings: &'g Settings,
    is_json: bool,
    /// Whom it talks to, once that is known.
    via: RefCell<String>,
}

impl Given<'_> {
    fn get(&self) -> Result<(), Failure> {
        let key = self.key()?;
        if keys::is_private(key.as_key_ref()) {
            let message = format!("{:?} belongs to a user, who alone may read it", key.as_str());
            return Err(Failure::Refused(message));
        }
        match self.way()? {
            Way::Server(client) if self.is_json => {
                let answer = ask(
                    &client,
                    Method::POST,
                    "/admin/v1/entries/get",
                    Some(&json!({"keys": [key.as_str()]})),
                )?;
                match &answer["entries"][key.as_str()] {
                    Value::Null => Err(missing(&key).into()),
                    entry => self.say_json(with_key(&key, entry.clone())),
                }
            }
            Way::Server(client) => run(async {
                let path = format!("/admin/v1/entries/{}", path_segment(key.as_str()));
                let mut answer = client.send(Method::GET, &path, Send::Nothing, None).await?;
                let mut out = io::stdout().lock();
                while let Some(piece) = answer.next().await? {
                    if !written(out.write_all(&piece))? {
                        return Ok(());
                    }
                }
                written(out.flush()).map(|_| ())
            })
            .map_err(Failure::from),
            Way::Directory(cache) => cache.close_after(|cache| {
                let entry = cache.get(&key)?.ok_or_else(|| missing(&key))?;
                if self.is_json {
                    let shown = shown(&entry, cache.now())?;
                    return self.say_json(with_key(&key, shown));
                }
                let plain = plain_body(&entry)?;
                let mut out = io::stdout().lock();
                written(out.write_all(&plain).and_then(|()| out.flush()))?;
                Ok(())
            }),
        }
    }

    fn set(&self) -> Result<(), Failure> {
        let key = self.key()?;
        if keys::is_reserved(key.as_key_ref()) {
            let message = format!(
                "the key {:?} belongs to built-in content; use import, or its own route",
                key.as_str()
            );
            return Err(Failure::Refused(message));
        }
        refuse_long(key.as_key_ref(), self.settings.limits.key)
            .map_err(|error| Failure::Refused(error.message().to_owned()))?;
        let (options, query) = self.options()?;
        let value = self.value()?;
        let bytes = value.len();
        match self.way()? {
            Way::Server(client) => {
                let path = format!("/admin/v1/entries/{}{query}", path_segment(key.as_str()));
                let content_type = self.text(CONTENT_TYPE).unwrap_or("application/octet-stream").to_owned();
                run(client.send(Method::PUT, &path, Send::Value(value, content_type), None))?;
            }
            Way::Directory(cache) => {
                cache.close_after(|cache| Ok(cache.set_with(&key, &value, &options)?))?;
            }
        }
        self.tell(&format!("set {key}, {bytes} bytes"), json!({"key": key.as_str(), "bytes": bytes}))
    }

    fn delete(&self) -> Result<(), Failure> {
        let key = self.key()?;
        let deleted = match self.way()? {
            Way::Server(client) => {
                let path = format!("/admin/v1/entries/{}", path_segment(key.as_str()));
                let answer =
                    run(client.send(Method::DELETE, &path, Send::Nothing, Some(StatusCode::NOT_FOUND)))?;
                answer.status() != StatusCode::NOT_FOUND
            }
            Way::Directory(cache) => cache.close_after(|cache| Ok(cache.delete(&key)?))?,
        };
        self.tell(
            &if deleted { format!("deleted {key}") } else { format!("nothing stood under {key}") },
            json!({"key": key.as_str(), "deleted": deleted}),
        )?;
        if deleted { Ok(()) } else { Err(Failure::Bad) }
    }

    fn exists(&self) -> Result<(), Failure> {
        let key = self.key()?;
        let exists = match self.way()? {
            Way::Server(client) => {
                let body = json!({"keys": [key.as_str()]});
                let answer = ask(&client, Method::POST, "/admin/v1/entries/exists", Some(&body))?;
                answer["exists"][key.as_str()] == json!(true)
            }
            Way::Directory(cache) => cache.close_after(|cache| Ok(cache.exists(&key)?))?,
        };
        self.tell(if exists { "yes" } else { "no" }, json!({"key": key.as_str(), "exists": exists}))?;
        if exists { Ok(()) } else { Err(Failure::Bad) }
    }

    fn keys(&self) -> Result<(), Failure> {
        let mut filter = Filter::new();
        if let Some(name) = self.text(NAMESPACE) {
            filter = filter.namespace(checked("--namespace", name, Namespace::parse(name))?.as_str());
        }
        if let Some(prefix) = self.text(PREFIX) {
            filter = filter.prefix(prefix);
        }
        if let Some(pattern) = self.text(PATTERN) {
            filter = filter.pattern(checked("--pattern", pattern, Pattern::parse(pattern))?);
        }
        let mut all = Vec::new();
        let mut show = |keys: Vec<String>| {
            if self.is_json {
                all.extend(keys);
                return Ok(());
            }
            keys.iter().try_for_each(|key| say(key))
        };
        match self.way()? {
            Way::Server(client) => self.keys_of_server(&client, &mut show)?,
            Way::Directory(cache) => cache.close_after(|cache| {
                let mut next = Some(ListCursor::default());
                while let Some(from) = next {
                    let page = cache.list(&filter, from, PAGE_KEYS)?;
                    show(page.entries.into_iter().map(|listed| listed.key.to_string()).collect())?;
                    next = page.next;
                }
                Ok(())
            })?,
        }
        if self.is_json { self.say_json(json!({"keys": all})) } else { Ok(()) }
    }

    fn keys_of_server(
        &self,
        client: &Client,
        show: &mut dyn FnMut(Vec<String>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let filters = [NAMESPACE, PREFIX, PATTERN].into_iter().filter_map(|name| {
            let text = self.text(name)?;
            Some(format!("&{name}={}", query_value(text)))
        });
        let query = format!("?limit={PAGE_KEYS}{}", filters.collect::<String>());
        let mut cursor = String::new();
        loop {
            let answer = ask(client, Method::GET, &format!("/admin/v1/entries{query}{cursor}"), None)?;
            let entries = answer["entries"].as_array().map(Vec::as_slice).unwrap_or_default();
            show(entries.iter().filter_map(|entry| entry["key"].as_str().map(ToOwned::to_owned)).collect())?;
            match answer["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(()),
            }
        }
    }

    fn explain(&self) -> Result<(), Failure> {
        let key = self.key()?;
        let explained = match self.way()? {
            Way::Server(client) => {
                ask(&client, Method::GET, &format!("/admin/v1/explain/{}", path_segment(key.as_str())), None)?
            }
            Way::Directory(cache) => {
                cache.close_after(|cache| Ok(crate::server::http::explained(&cache.explain(&key)?)))?
            }
        };
        if self.is_json { self.say_json(explained) } else { say(readable(&explained).trim_end()) }
    }

    fn invalidate(&self) -> Result<(), Failure> {
        let dry_run = self.matches.get_flag(DRY_RUN);
        let (selector, body) = self.selector()?;
        let count = match self.way()? {
            Way::Server(client) => {
                let answer = match &selector {
                    Selector::Namespace(name) => {
                        let query = if dry_run { "?dry_run=true" } else { "" };
                        let name = path_segment(name.as_str());
                        let path = format!("/admin/v1/namespaces/{name}/invalidate{query}");
                        ask(&client, Method::POST, &path, None)?
                    }
                    _ => ask(&client, Method::POST, "/admin/v1/invalidate", Some(&body))?,
                };
                answer["invalidated"].as_u64().unwrap_or(0)
            }
            Way::Directory(cache) => cache.close_after(|cache| {
                Ok(if dry_run { cache.would_invalidate(&selector)? } else { cache.invalidate(&selector)? })
            })?,
        };
        let verb = if dry_run { "would invalidate" } else { "invalidated" };
        self.tell(
            &format!("{verb} {count} entries of {selector}"),
            json!({"invalidated": count, "dry_run": dry_run}),
        )
    }

    fn clear(&self) -> Result<(), Failure> {
        let namespace = self.text(NAMESPACE).map(|name| checked("--namespace", name, Namespace::parse(name)));
        let selector = namespace.transpose()?.map_or(Selector::All, Selector::Namespace);
        let count = match self.way()? {
            Way::Server(client) => {
                let path = match &selector {
                    Selector::Namespace(name) => {
                        format!("/admin/v1/namespaces/{}/invalidate", path_segment(name.as_str()))
                    }
                    _ => "/admin/v1/clear".to_owned(),
                };
                ask(&client, Method::POST, &path, None)?["invalidated"].as_u64().unwrap_or(0)
            }
            Way::Directory(cache) => cache.close_after(|cache| Ok(cache.invalidate(&selector)?))?,
        };
        self.tell(&format!("forgot {count} entries"), json!({"invalidated": count}))
    }

    fn tell(&self, text: &str, object: Value) -> Result<(), Failure> {
        if self.is_json { self.say_json(object) } else { say(text) }
    }

    fn say_json(&self, mut object: Value) -> Result<(), Failure> {
        object["via"] = json!(*self.via.borrow());
        say_json(&object)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.matches.get_one::<String>(name).map(String::as_str)
    }

    fn texts(&self, name: &str) -> Vec<&str> {
        self.matches.get_many::<String>(name).into_iter().flatten().map(String::as_str).collect()
    }

    fn key(&self) -> Result<Key, Failure> {
        let text = self.text(KEY).unwrap_or_default();
        checked("KEY", text, Key::parse(text))
    }

    /// What is asked for beside the value, for the cache and as the query of an address.
    fn options(&self) -> Result<(SetOptions, String), Failure> {
        let (mut options, mut query) = (SetOptions::new(), Vec::new());
        if let Some(ttl) = self.text(TTL) {
            let parsed =
                parse_duration(ttl).map_err(|why| Failure::Refused(format!("--ttl {ttl:?} {why}")))?;
            if parsed.is_zero() {
                return Err(Failure::Refused(format!("--ttl {ttl:?} is no time at all")));
            }
            options = options.ttl(parsed);
            query.push(format!("ttl={}", query_value(ttl)));
        }
        let tags = self.texts(TAGS);
        for tag in &tags {
            checked("--tags", tag, Tag::parse(*tag))?;
        }
        if !tags.is_empty() {
            query.push(format!("tags={}", query_value(&tags.join(","))));
            options = options.tags(tags);
        }
        if let Some(content_type) = self.text(CONTENT_TYPE) {
            options = options.content_type(content_type);
        }
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        Ok((options, query))
    }

    fn value(&self) -> Result<Bytes, Failure> {
        match self.text(VALUE) {
            Some(text) if text != "-" => Ok(Bytes::copy_from_slice(text.as_bytes())),
            _ => {
                let (mut value, most) = (Vec::new(), self.settings.limits.value);
                let read = io::stdin().lock().take(most.saturating_add(1)).read_to_end(&mut value);
                read.map_err(|error| {
                    Error::new(ErrorKind::DiskFailed, "standard input cannot be read").because(error)
                })?;
                if value.len() as u64 > most {
                    let message = format!("the value is larger than limits.value, {most} bytes");
                    return Err(Error::new(ErrorKind::ValueTooLarge, message).into());
                }
                Ok(value.into())
            }
        }
    }

    /// What is to be invalidated, for the cache and as the body of a request.
    fn selector(&self) -> Result<(Selector, Value), Failure> {
        let dry_run = self.matches.get_flag(DRY_RUN);
        if let Some(name) = self.text(NAMESPACE) {
            let namespace = checked("--namespace", name, Namespace::parse(name))?;
            return Ok((Selector::Namespace(namespace), Value::Null));
        }
        if let Some(glob) = self.text(PATTERN) {
            let pattern = checked("--pattern", glob, Pattern::parse(glob))?;
            return Ok((Selector::Pattern(pattern), json!({"pattern": glob, "dry_run": dry_run})));
        }
        if let Some(prefix) = self.text(PREFIX) {
            let selector = checked("--prefix", prefix, Selector::prefix(prefix))?;
            return Ok((selector, json!({"prefix": prefix, "dry_run": dry_run})));
        }
        let (keys, tags) = (self.texts(KEY), self.texts(TAG));
        if tags.is_empty() {
            let parsed = keys.iter().map(|key| checked("--key", key, Key::parse(*key)));
            return Ok((
                Selector::Keys(parsed.collect::<Result<_, _>>()?),
                json!({"keys": keys, "dry_run": dry_run}),
            ));
        }
        let parsed = tags.iter().map(|tag| checked("--tag", tag, Tag::parse(*tag)));
        Ok((Selector::Tags(parsed.collect::<Result<_, _>>()?), json!({"tags": tags, "dry_run": dry_run})))
    }

    /// Whom to talk to, which is said.
    fn way(&self) -> Result<Way, Failure> {
        let directory = &self.settings.data_dir;
        if !directory.is_dir() {
            // A slip in its name must not make one.
            let message =
                format!("there is no data directory {}, so no server runs on it", directory.display());
            return Err(Error::new(ErrorKind::NotFound, message).into());
        }
        let target = Target::find(self.settings, super::PATIENCE)?;
        say_whom(&target.to_string(), self.is_json);
        self.via.replace(target.to_string());
        match target {
            Target::Server { client, .. } => Ok(Way::Server(client)),
            Target::Directory { dir, clock } => {
                Ok(Way::Directory(Opened(crate::server::open_cache(self.settings, &dir, clock)?)))
            }
        }
    }
}

/// Whom a command talks to.
enum Way {
    Server(Client),
    Directory(Opened),
}

/// The cache of a directory, opened for one command.
struct Opened(Cache);

impl Opened {
    /// Closes it after `work`, so that what was done is on disk; the first failure counts.
    fn close_after<T>(self, work: impl FnOnce(&Cache) -> Result<T, Failure>) -> Result<T, Failure> {
        let done = work(&self.0);
        let closed = self.0.close();
        let done = done?;
        closed?;
        Ok(done)
    }
}

fn ask(client: &Client, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
    let body = body
        .map_or(Send::Nothing, |body| Send::Value(body.to_string().into(), "application/json".to_owned()));
    Ok(run(async { client.send(method, path, body, None).await?.json().await })?)
}

fn checked<T>(what: &str, text: &str, parsed: Result<T, Error>) -> Result<T, Failure> {
    parsed.map_err(|error| Failure::Refused(format!("{what} {text:?}: {}", error.message())))
}

fn missing(key: &Key) -> Error {
    Error::new(ErrorKind::NotFound, format!("nothing fresh stands under {:?}", key.as_str()))
}

fn with_key(key: &Key, mut entry: Value) -> Value {
    entry["key"] = json!(key.as_str());
    entry
}

/// Whether the reader still reads; a reader that goes away ends the command quietly.
fn written(result: io::Result<()>) -> Result<bool, Error> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => {
            Err(Error::new(ErrorKind::DiskFailed, "cannot write to standard output").because(error))
        }
    }
}

/// A JSON object as lines for people: a name and a value each, what is inside an object one step further in.
fn readable(object: &Value) -> String {
    let text = lines(object, 0).join("\n");
    // What stands in the cache comes from anywhere; a terminal must not take it for commands.
    text.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}

fn lines(object: &Value, depth: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        let shown = match value {
            Value::Object(_) => String::new(),
            Value::Array(list) => list.iter().map(word).collect::<Vec<_>>().join(", "),
            value => word(value),
        };
        lines.push(format!("{:1$}{name}: {shown}", "", depth * 2).trim_end().to_owned());
        lines.extend(self::lines(value, depth + 1));
    }
    lines
}

fn word(value: &Value) -> String {
    match value {
        Value::String(own) => own.clone(),
        Value::Null => "none".to_owned(),
        other => other.to_string(),
    }
}

fn key() -> Arg {
    Arg::new(KEY).value_name("KEY").help("The key, written namespace:rest").required(true)
}

fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

const KEY: &str = "key";
const VALUE: &str = "value";
const TTL: &str = "ttl";
const TAGS: &str = "tags";
const TAG: &str = "tag";
const CONTENT_TYPE: &str = "content-type";
const NAMESPACE: &str = "namespace";
const PREFIX: &str = "prefix";
const PATTERN: &str = "pattern";
const DRY_RUN: &str = "dry-run";

/// Keys of one page of a listing.
const PAGE_KEYS: usize = 1000;
