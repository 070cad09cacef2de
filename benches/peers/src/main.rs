//! hifz's memory tier beside its peers, in interleaved rounds on one machine: `cargo run --release -- --help`.
//!
//! Every figure is a ratio to quick_cache in the same round, and the median over the rounds, because a shared machine
//! makes absolute figures mean little. What needs a process of its own (resident size) is run in children.

mod caches;
mod plot;
mod resident;
mod rows;

use std::fmt::Write as _;
use std::path::Path;

use rows::{Row, rows};

const HELP: &str = "\
usage: hifz-peers [--rounds N] [--row PART] [--cache NAME]... [--json FILE]
       hifz-peers plot FILE...     kept figures to the table and the plots of benches/
       hifz-peers report           everything: all rows, then plot, then resident and storm
       hifz-peers resident         bytes per entry and peak resident size, in children
       hifz-peers storm            1 M entries falling due in one second (hifz)
       hifz-peers child KIND CACHE (used by resident)";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let values = |flag: &str| -> Vec<String> {
        let pairs = arguments.iter().zip(arguments.iter().skip(1));
        pairs.filter(|(name, _)| *name == flag).map(|(_, value)| value.clone()).collect()
    };
    match arguments.first().map(String::as_str) {
        Some("--help") => return println!("{HELP}"),
        Some("plot") => return plot_files(&arguments[1..]),
        Some("report") => return everything(),
        Some("resident") => return resident::report(),
        Some("child") => return resident::child(&arguments[1], &arguments[2]),
        Some("storm") => return resident::storm(),
        _ => {}
    }
    let rounds = values("--rounds").first().map_or(7, |n| n.parse().expect("--rounds takes a number"));
    let part = values("--row").concat();
    let mut names: Vec<String> = values("--cache");
    if names.is_empty() {
        names = caches::NAMES.map(String::from).to_vec();
    }
    println!("load average at the start: {}", load_average());
    let mut json = String::from("[\n");
    println!("| row | threads | {} | hifz p99.9 / quick_cache |", names.join(" | "));
    println!("|---|---|{}---|", "---|".repeat(names.len()));
    for row in rows().into_iter().filter(|row| row.name.contains(&part)) {
        report(&row, &names, rounds, &mut json);
    }
    println!("load average at the end: {}", load_average());
    if let Some(path) = values("--json").first() {
        std::fs::write(path, json.trim_end_matches(",\n").to_owned() + "\n]\n")
            .expect("the file can be written");
    }
}

fn plot_files(paths: &[String]) {
    let read = |path: &String| std::fs::read_to_string(path).expect("a file of figures");
    plot::plot(
        &paths.iter().map(read).collect::<Vec<_>>(),
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")),
    );
}

/// What the report is made of, from nothing.
fn everything() {
    let own = std::env::current_exe().expect("a program knows itself");
    let kept = std::env::temp_dir().join(format!("hifz-peers-{}.json", std::process::id()));
    let kept = kept.to_str().expect("a plain path");
    for arguments in [&["--json", kept][..], &["plot", kept], &["resident"], &["storm"]] {
        let status = std::process::Command::new(&own).args(arguments).status().expect("a child runs");
        assert!(status.success(), "{arguments:?} failed");
    }
}

fn report(row: &Row, names: &[String], rounds: usize, json: &mut String) {
    let measured = row.measure(names, rounds);
    for (threads, rates) in &measured.rates {
        let tails = measured.tails.iter().find(|(n, _)| n == threads);
        let base = names.iter().position(|name| name == "quick_cache");
        let mut cells = String::new();
        for (at, name) in names.iter().enumerate() {
            let ratios: Vec<f64> = rates[at]
                .iter()
                .enumerate()
                .map(|(i, rate)| base.map_or(*rate, |b| rate / rates[b][i]))
                .collect();
            let (rate, ratio) = (median(&rates[at]), median(&ratios));
            write!(cells, " {:.2} M/s ({ratio:.2}) |", rate / 1e6).expect("memory");
            writeln!(
                json,
                r#"  {{"row":"{}","threads":{threads},"cache":"{name}","ops_per_s":{rate:.0},"ratio":{ratio:.3},"tail_ns":{:.0}}},"#,
                row.name,
                tails.map_or(0.0, |(_, tails)| median(&tails[at]))
            )
            .expect("memory");
        }
        let tail = tails.map(|(_, tails)| {
            let of = |name: &str| names.iter().position(|n| n == name).map(|at| median(&tails[at]));
            match (of("hifz"), of("quick_cache")) {
                (Some(ours), Some(theirs)) => format!("{ours:.0} / {theirs:.0} ns = {:.2}", ours / theirs),
                _ => String::new(),
            }
        });
        println!("| {} | {threads} |{cells} {} |", row.name, tail.unwrap_or_default());
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}
