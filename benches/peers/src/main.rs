//! hifz's memory tier beside its peers, in interleaved rounds on one machine: `cargo run --release -- --help`.
//!
//! Every figure is a ratio to quick_cache in the same round, and the median over the rounds, because a shared machine
//! makes absolute figures mean little. What needs a process of its own (resident size) is run in children.

mod caches;
mod plot;
mod resident;
mod rows;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use rows::{Row, rows};

const HELP: &str = "\
usage: hifz-peers [--rounds N] [--row PART] [--cache NAME]... [--longer TIMES] [--json FILE]
       hifz-peers report [--rounds N]     all of the following; keeps the figures in benches/plots/memory.json
       hifz-peers resident [--json FILE]  bytes per entry and peak resident size, in children
       hifz-peers storm [--json FILE]     1 M entries falling due in one second (hifz)
       hifz-peers plot FILE...            kept figures to the table and the plots of benches/; of two the later counts
       hifz-peers child KIND CACHE        (used by resident)";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let values = |flag: &str| -> Vec<String> {
        let pairs = arguments.iter().zip(arguments.iter().skip(1));
        pairs.filter(|(name, _)| *name == flag).map(|(_, value)| value.clone()).collect()
    };
    let rounds = values("--rounds").first().map_or(7, |n| n.parse().expect("--rounds takes a number"));
    let kept = match arguments.first().map(String::as_str) {
        Some("--help") => return println!("{HELP}"),
        Some("plot") => return plot_files(&arguments[1..]),
        Some("report") => return everything(rounds),
        Some("child") => return resident::child(&arguments[1], &arguments[2]),
        Some("resident") => resident::report(),
        Some("storm") => resident::storm(),
        Some(other) if !other.starts_with("--") => panic!("no command is named {other:?}\n{HELP}"),
        _ => {
            let longer =
                values("--longer").first().map_or(1, |n| n.parse().expect("--longer takes a number"));
            compare((rounds, longer), &values("--row").concat(), &values("--cache"))
        }
    };
    if let Some(path) = values("--json").first() {
        std::fs::write(path, kept).expect("the file can be written");
    }
}

/// The rows whose name contains `part`, with `longer` times their operations; gives their figures to be kept.
fn compare((rounds, longer): (usize, usize), part: &str, names: &[String]) -> String {
    let all = caches::NAMES.map(String::from);
    let names = if names.is_empty() { &all } else { names };
    let (load, begun) = (load_average(), Instant::now());
    println!("load average at the start: {load}");
    let mut kept = String::new();
    println!("| row | threads | {} | hifz p99.9 / quick_cache |", names.join(" | "));
    println!("|---|---|{}---|", "---|".repeat(names.len()));
    for mut row in rows().into_iter().filter(|row| row.name.contains(part)) {
        row.ops *= longer;
        report(&row, names, rounds, &mut kept);
    }
    println!("load average at the end: {}, after {:?}", load_average(), begun.elapsed());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    // One-minute averages.
    let one = |load: &str| load.split(' ').next().unwrap_or("0").to_owned();
    let (before, after) = (one(&load), one(&load_average()));
    writeln!(
        kept,
        r#"{{"run":"rows","rounds":{rounds},"cores":{cores},"load_before":{before},"load_after":{after}}}"#
    )
    .expect("memory");
    kept
}

fn plot_files(paths: &[String]) {
    let read = |path: &String| std::fs::read_to_string(path).expect("a file of figures");
    plot::plot(&paths.iter().map(read).collect::<String>(), &benches());
}

/// What the report is made of, from nothing, each part in a process of its own.
fn everything(rounds: usize) {
    let own = std::env::current_exe().expect("a program knows itself");
    let folder = std::env::temp_dir().join(format!("hifz-peers-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    let mut kept = String::new();
    for part in ["--rows", "resident", "storm"] {
        let path = folder.join(part);
        let mut command = Command::new(&own);
        if part != "--rows" {
            command.arg(part);
        }
        let status = command.arg("--rounds").arg(rounds.to_string()).arg("--json").arg(&path).status();
        assert!(status.expect("a child runs").success(), "{part} failed");
        kept += &std::fs::read_to_string(&path).expect("the child kept its figures");
    }
    std::fs::remove_dir_all(&folder).expect("the folder can be removed");
    let plots = benches().join("plots");
    std::fs::create_dir_all(&plots).expect("the folder can be made");
    std::fs::write(plots.join("memory.json"), &kept).expect("the figures can be kept");
    plot::plot(&kept, &benches());
}

fn benches() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn report(row: &Row, names: &[String], rounds: usize, kept: &mut String) {
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
                kept,
                r#"{{"row":"{}","threads":{threads},"cache":"{name}","ops_per_s":{rate:.0},"ratio":{ratio:.3},"least":{:.3},"most":{:.3},"tail_ns":{:.0}}}"#,
                row.name,
                ratios.iter().copied().fold(f64::INFINITY, f64::min),
                ratios.iter().copied().fold(0.0, f64::max),
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
