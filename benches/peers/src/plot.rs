//! From kept figures to the tables in `benches/README.md` and the plots beside it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::caches::NAMES;

/// What was kept: a line a figure, names and numbers without nesting.
struct Figures(Vec<BTreeMap<String, String>>);

impl Figures {
    fn parse(kept: &str) -> Self {
        let field = |pair: &str| {
            let (name, value) = pair.split_once(':')?;
            Some((name.trim_matches('"').to_owned(), value.trim_matches('"').to_owned()))
        };
        let line = |line: &str| line.trim_matches(['{', '}']).split(',').filter_map(field).collect();
        Self(kept.lines().filter(|text| text.starts_with('{')).map(line).collect())
    }

    /// The rows in the order in which they were measured.
    fn rows(&self) -> Vec<&str> {
        let mut rows: Vec<&str> = Vec::new();
        for row in self.0.iter().filter_map(|figure| figure.get("row")) {
            if !rows.contains(&row.as_str()) {
                rows.push(row);
            }
        }
        rows
    }

    /// A number of the last figure that has all of `with`.
    fn number(&self, with: &[(&str, &str)], name: &str) -> Option<f64> {
        let is_it = |figure: &&BTreeMap<String, String>| {
            with.iter().all(|(name, value)| figure.get(*name).is_some_and(|given| given == value))
        };
        self.0.iter().rfind(is_it)?.get(name)?.parse().ok()
    }

    fn of_row(&self, row: &str, threads: &str, cache: &str, name: &str) -> Option<f64> {
        self.number(&[("row", row), ("threads", threads), ("cache", cache)], name)
    }
}

/// Writes the plots and the tables.
pub fn plot(kept: &str, benches: &Path) {
    let figures = Figures::parse(kept);
    std::fs::create_dir_all(benches.join("plots")).expect("the folder can be made");
    for threads in ["1", "2"] {
        let path = benches.join(format!("plots/memory-{threads}.svg"));
        std::fs::write(path, draw(&figures, threads)).expect("the plot can be written");
    }
    let path = benches.join("README.md");
    let readme = std::fs::read_to_string(&path).expect("the README is there");
    let (before, rest) = readme.split_once(BEGIN).expect("the README has the mark where figures begin");
    let (_, after) = rest.split_once(END).expect("the README has the mark where figures end");
    let text = [rows(&figures), resident(&figures), storm(&figures)].concat();
    std::fs::write(path, format!("{before}{BEGIN}\n{text}{END}{after}")).expect("the README can be written");
}

fn rows(figures: &Figures) -> String {
    let mut text = String::new();
    let run = |name| figures.number(&[("run", "rows")], name).unwrap_or(f64::NAN);
    let _ = writeln!(
        text,
        "Rounds: {}, on {} cores; load average {} at the start and {} at the end (the bench itself makes up to 2).\n",
        run("rounds"),
        run("cores"),
        run("load_before"),
        run("load_after")
    );
    let _ = writeln!(text, "| row | threads | {} | p99.9 of a hit, hifz / quick_cache |", NAMES.join(" | "));
    let _ = writeln!(text, "|---|---|{}---|", "---|".repeat(NAMES.len()));
    for row in figures.rows() {
        for threads in ["1", "2"] {
            let _ = write!(text, "| {row} | {threads} |");
            for name in NAMES {
                let of = |what| figures.of_row(row, threads, name, what);
                let _ = match (of("ratio"), of("ops_per_s")) {
                    (Some(ratio), Some(rate)) => write!(text, " {ratio:.2} ({:.2} M/s) |", rate / 1e6),
                    _ => write!(text, " – |"),
                };
            }
            let tail = |name| figures.of_row(row, threads, name, "tail_ns").filter(|tail_ns| *tail_ns > 0.0);
            let _ = match (tail("hifz"), tail("quick_cache")) {
                (Some(ours), Some(theirs)) => writeln!(text, " {:.2} |", ours / theirs),
                _ => writeln!(text, " – |"),
            };
        }
    }
    text
}

fn resident(figures: &Figures) -> String {
    let mut text = String::from(
        "\nBytes per entry over key and value, a million small entries; and over five times a limit of 500 MB inserted by two \
         threads, the peak resident size over that of the empty process and the payload that can still be got, both as \
         shares of the limit. Uniform is 100 B to 100 kB, log-uniform; shifting is 100–400 B, then 20–100 kB, then \
         100–400 B.\n\n\
         | | bytes per entry | uniform: peak | live payload | shifting: peak | live payload |\n|---|---|---|---|---|---|\n",
    );
    for name in NAMES {
        let of = |kind, what| figures.number(&[("resident", kind), ("cache", name)], what);
        let cell = |number: Option<f64>, places| {
            number.map_or_else(|| "–".to_owned(), |number| format!("{number:.places$}"))
        };
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {} |",
            cell(of("overhead", "bytes"), 1),
            cell(of("uniform", "peak"), 2),
            cell(of("uniform", "live"), 2),
            cell(of("shifting", "peak"), 2),
            cell(of("shifting", "live"), 2)
        );
    }
    text
}

fn storm(figures: &Figures) -> String {
    let of = |what| figures.number(&[("storm", "hifz")], what);
    let (Some(reclaimed), Some(quiet), Some(storm)) = (of("reclaimed_ms"), of("p99_quiet_ns"), of("p99_ns"))
    else {
        return String::new();
    };
    format!(
        "\nA million entries falling due within one second: reclaimed {reclaimed:.0} ms after the last deadline; p99 of a \
         concurrent look-up {storm:.0} ns, {:.2} times the {quiet:.0} ns before it.\n",
        storm / quiet
    )
}

/// A group of bars for each row: the median ratio to quick_cache, and a line from the least to the most of the rounds.
fn draw(figures: &Figures, threads: &str) -> String {
    let rows = figures.rows();
    let group = BAR * NAMES.len() + GAP;
    let bottom = TOP + group * rows.len();
    let (width, height) = (LEFT + WIDTH + 50, bottom + 34);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"20\" font-size=\"14\">Operations a second, quick_cache = 1, {threads} thread{}</text>\n",
        if threads == "1" { "" } else { "s" }
    );
    for (at, (name, colour)) in NAMES.iter().zip(COLOURS).enumerate() {
        let x = 12 + at * 105;
        let _ = writeln!(svg, "<rect x=\"{x}\" y=\"32\" width=\"10\" height=\"10\" fill=\"{colour}\"/>");
        let _ = writeln!(svg, "<text x=\"{}\" y=\"41\">{name}</text>", x + 15);
    }
    let most = figures.0.iter().filter_map(|figure| figure.get("most")?.parse::<f64>().ok());
    let axis = (most.fold(1.0, f64::max) * 2.0).ceil() / 2.0;
    let x_of = |ratio: f64| LEFT as f64 + ratio / axis * WIDTH as f64;
    for half in 0..=(axis * 2.0) as u32 {
        let (ratio, x) = (f64::from(half) / 2.0, x_of(f64::from(half) / 2.0));
        let stroke = if half == 2 { "#222" } else { "#ddd" };
        let (from, to) = (TOP - 6, bottom);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{from}\" x2=\"{x:.1}\" y2=\"{to}\" stroke=\"{stroke}\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{ratio:.1}</text>",
            bottom + 15
        );
    }
    for (at, row) in rows.iter().enumerate() {
        let top = TOP + at * group;
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{row}</text>", LEFT - 8, top + 36);
        for (place, (name, colour)) in NAMES.iter().zip(COLOURS).enumerate() {
            let of = |what| figures.of_row(row, threads, name, what);
            let Some(ratio) = of("ratio") else { continue };
            let (least, most) = (of("least").unwrap_or(ratio), of("most").unwrap_or(ratio));
            let (y, middle) = (top + place * BAR, (top + place * BAR + BAR / 2 - 1) as f64);
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"/>\
                 <line x1=\"{:.1}\" y1=\"{middle}\" x2=\"{:.1}\" y2=\"{middle}\" stroke=\"#222\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{ratio:.2}</text>",
                x_of(ratio) - LEFT as f64,
                BAR - 2,
                x_of(least),
                x_of(most),
                x_of(most) + 4.0,
                y + 10
            );
        }
    }
    let _ = writeln!(
        svg,
        "<text x=\"12\" y=\"{}\">Bars are medians, lines reach from the least to the most of the rounds. \
         quick_cache is not LRU.</text>\n</svg>",
        bottom + 30
    );
    svg
}

const COLOURS: [&str; 5] = ["#0b6e4f", "#8d99ae", "#c97b84", "#d4a373", "#6d6875"];

/// In pixels: where bars begin, how long the axis is, how high a bar is, what lies between two rows.
const LEFT: usize = 140;
const WIDTH: usize = 520;
const TOP: usize = 62;
const BAR: usize = 13;
const GAP: usize = 14;

const BEGIN: &str = "<!-- figures: written by `hifz-peers plot` -->";
const END: &str = "<!-- end of figures -->";
