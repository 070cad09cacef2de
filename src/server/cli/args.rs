//! The shape of the command line; its flags come from the table of settings.
//!
//! Every command takes every setting, but help shows them only where they matter. Knows not what commands do.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use clap_complete::Shell;

use crate::server::config::{Flags, Row, SECTIONS, Section, Status, flag_of};
use crate::server::warm::KINDS;

/// The command line as clap understands it.
pub(crate) fn command() -> Command {
    let root = Command::new("hifz")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A cache engine with its own persistent store, and the content server built on it")
        .after_help("Without a command, hifz serves. Exit codes: 0 done, 1 failed or not found, 2 refused.")
        .subcommand_value_name("COMMAND")
        .disable_help_subcommand(true)
        .arg(config_flag())
        .arg(json_flag());
    let root = with_settings(root, Show::All)
        .subcommand(with_settings(
            Command::new("serve").about("Serve until told to stop (also: hifz without a command)"),
            Show::All,
        ))
        .subcommand(with_settings(
            Command::new("config").about("Show the settings as they hold, and where each came from"),
            Show::All,
        ))
        .subcommand(with_settings(import(), Show::Place))
        .subcommand(with_settings(export(), Show::Place))
        .subcommand(with_settings(
            Command::new("health").about("Ask the running server how it is"),
            Show::Place,
        ))
        .subcommand(with_settings(stats(), Show::Place))
        .subcommand(with_settings(token(), Show::Place))
        .subcommand(with_settings(warm(), Show::Place))
        .subcommand(with_settings(verify(), Show::Place))
        .subcommand(completions())
        .subcommand(Command::new("man").about("Write the manual page: hifz man | man -l -"));
    super::cache::commands()
        .into_iter()
        .fold(root, |root, command| root.subcommand(with_settings(command, Show::Place)))
}

/// The settings given as flags, before and after the command; the latter are stronger and come last.
pub(crate) fn flags(matches: &ArgMatches) -> Flags {
    let mut flags = Flags::new();
    collect(matches, &mut flags);
    if let Some((_, inner)) = matches.subcommand() {
        collect(inner, &mut flags);
    }
    flags
}

/// `--config`, wherever it stands.
pub(crate) fn config_file(matches: &ArgMatches) -> Option<&PathBuf> {
    let inner = matches.subcommand().and_then(|(_, inner)| inner.get_one::<PathBuf>(CONFIG));
    inner.or_else(|| matches.get_one::<PathBuf>(CONFIG))
}

/// Whether `--json` stands anywhere.
pub(crate) fn wants_json(matches: &ArgMatches) -> bool {
    matches.get_flag(JSON) || matches.subcommand().is_some_and(|(_, inner)| inner.get_flag(JSON))
}

fn import() -> Command {
    Command::new("import")
        .about("Load content from a quran-json npm tarball, its unpacked folder, or hifz's own export")
        .arg(
            Arg::new(PATH)
                .value_name("PATH")
                .help("Archive (.tgz) or folder")
                .required(true)
                .num_args(1..)
                .value_parser(value_parser!(PathBuf)),
        )
}

fn export() -> Command {
    Command::new("export")
        .about("Write a backup of all content; import reads it back")
        .arg(
            Arg::new(PATH)
                .value_name("PATH")
                .help("File to write (replaced as a whole if it exists); - for standard output")
                .required(true)
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            Arg::new(BOOKMARKS)
                .long(BOOKMARKS)
                .help("With the bookmarks of all users; importing it replaces the bookmarks of all users")
                .action(ArgAction::SetTrue),
        )
}

fn stats() -> Command {
    let watch = Arg::new(WATCH).long(WATCH).help("Look again every two seconds").action(ArgAction::SetTrue);
    Command::new("stats").about("Show the running server's figures").arg(watch)
}

fn completions() -> Command {
    let shell = Arg::new(SHELL).value_name("SHELL").required(true).value_parser(value_parser!(Shell));
    Command::new("completions")
        .about("Write a script that completes hifz's commands and flags in a shell")
        .arg(shell)
}

fn token() -> Command {
    Command::new("token")
        .about("Sign a token with which a user reads and writes bookmarks")
        .arg(Arg::new(USER).value_name("USER").help("The user's id (sub)").required(true))
        .arg(Arg::new(TTL).long(TTL).value_name("DURATION").help("How long it is valid").default_value("1h"))
}

fn warm() -> Command {
    Command::new("warm").about("Have the server load what will be asked for").arg(
        Arg::new(ONLY)
            .long(ONLY)
            .value_name("TYPES")
            .help("Only these types of content, separated by commas [default: all]")
            .value_delimiter(',')
            .value_parser(KINDS.to_vec()),
    )
}

fn verify() -> Command {
    Command::new("verify")
        .about("Check every record and document; without a running server, every page as well")
        .after_help("Exit codes: 0 all is sound or mended, 1 something is damaged, 2 refused.")
        .arg(
            Arg::new(REPAIR)
                .long(REPAIR)
                .action(ArgAction::SetTrue)
                .help("Put built-in text in the place of damaged documents"),
        )
}

/// How many settings help shows.
#[derive(Clone, Copy, PartialEq)]
enum Show {
    All,
    Place,
}

fn with_settings(mut command: Command, show: Show) -> Command {
    for section in SECTIONS {
        for row in section.rows {
            let is_shown = show == Show::All || PLACE.contains(&row.key);
            command = command.args(args_of(section, row, is_shown));
        }
    }
    command
}

fn args_of(section: &Section, row: &Row, is_shown: bool) -> Vec<Arg> {
    let note = match row.status {
        Status::Now => "",
        Status::Later => "; no effect in this version",
        Status::Refused => "; not available in this version",
    };
    let help = format!("{} [default: {}]{note}", row.help, row.default);
    let arg = named(row.key).help_heading(section.title);
    if !row.has_file() {
        let action = if row.kind.is_list() { ArgAction::Append } else { ArgAction::Set };
        // A negative number is refused by the settings, with what is accepted, and not taken for a flag here.
        let arg = arg.allow_hyphen_values(row.kind.is_number());
        return vec![arg.action(action).value_name(row.kind.placeholder()).help(help).hide(!is_shown)];
    }
    // A secret given as a flag is taken here only to be refused with the reason and the right way.
    let secret = arg.num_args(0..=1).default_missing_value("").action(ArgAction::Append).hide(true);
    let file = named(&row.file_key())
        .value_name("PATH")
        .help(format!("File that holds the secret named by {}{note}", row.key))
        .help_heading(section.title)
        .hide(!is_shown);
    vec![secret, file]
}

/// A flag for `key`, with dashes; spelled exactly as the key it is understood too.
fn named(key: &str) -> Arg {
    let flag = flag_of(key);
    let spelled = key.replace('.', "-");
    let arg = Arg::new(key.to_owned()).long(flag.clone());
    if spelled == flag { arg } else { arg.alias(spelled) }
}

fn collect(matches: &ArgMatches, flags: &mut Flags) {
    for section in SECTIONS {
        for row in section.rows {
            let file = row.has_file().then(|| row.file_key());
            for key in [Some(row.key.to_owned()), file].into_iter().flatten() {
                if let Some(values) = matches.get_many::<String>(&key) {
                    flags.push((key, values.cloned().collect()));
                }
            }
        }
    }
}

fn config_flag() -> Arg {
    Arg::new(CONFIG)
        .long(CONFIG)
        .value_name("FILE")
        .help("Settings file (TOML) [default: ./hifz.toml if it is there]")
        .value_parser(value_parser!(PathBuf))
        .global(true)
}

fn json_flag() -> Arg {
    Arg::new(JSON).long(JSON).help("Answer and fail in JSON").action(ArgAction::SetTrue).global(true)
}

/// The settings that every command's help shows.
const PLACE: &[&str] = &["data_dir", "admin_token"];

const CONFIG: &str = "config";

/// `--json`.
pub(crate) const JSON: &str = "json";

/// `--watch`.
pub(crate) const WATCH: &str = "watch";

/// The argument that names a shell.
pub(crate) const SHELL: &str = "shell";

/// The argument that names a file or folder.
pub(crate) const PATH: &str = "path";

/// Whether the bookmarks of users are meant too.
pub(crate) const BOOKMARKS: &str = "bookmarks";

/// The argument that names a user.
pub(crate) const USER: &str = "user";

/// How long something lasts.
pub(crate) const TTL: &str = "ttl";
/// The argument that names types of content.
pub(crate) const ONLY: &str = "only";

/// The flag of `verify` that mends.
pub(crate) const REPAIR: &str = "repair";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_free_of_contradictions() {
        command().debug_assert();
    }

    #[test]
    fn flags_after_the_command_come_last_and_both_spellings_count() {
        let line = ["hifz", "--memory", "1MB", "serve", "--memory", "2MB", "--flush_interval", "3s"];
        let flags = flags(&command().try_get_matches_from(line).unwrap());
        let given: Vec<_> = flags.iter().map(|(key, values)| (key.as_str(), values[0].as_str())).collect();
        assert_eq!(given, [("memory", "1MB"), ("memory", "2MB"), ("flush_interval", "3s")]);
    }
}
