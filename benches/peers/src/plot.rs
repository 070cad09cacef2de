//! From kept figures to a table in `benches/README.md` and two plots beside it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::caches::NAMES;

/// One line of what `--json` keeps.
struct Figure {
    row: String,
    threads: u32,
    cache: String,
    rate: f64,
    ratio: f64,
    /// p99.9 of a look-up in ns; 0 where it was not taken.
    tail_ns: f64,
}

/// Reads kept figures and writes the plots and the table.
pub fn plot(kept: &[String], benches: &Path) {
    let figures: Vec<Figure> = kept.iter().flat_map(|text| text.lines().filter_map(parse)).collect();
    let mut rows: Vec<&str> = Vec::new();
    for figure in &figures {
        if !rows.contains(&figure.row.as_str()) {
            rows.push(&figure.row);
        }
    }
    for threads in [1, 2] {
        let drawn = draw(&figures, &rows, threads);
        let path = benches.join(format!("plots/memory-{threads}.svg"));
        std::fs::create_dir_all(benches.join("plots")).expect("the folder can be made");
        std::fs::write(path, drawn).expect("the plot can be written");
    }
    let path = benches.join("README.md");
    let readme = std::fs::read_to_string(&path).expect("the README is there");
    let (before, rest) = readme.split_once(BEGIN).expect("the README has the mark where figures begin");
    let (_, after) = rest.split_once(END).expect("the README has the mark where figures end");
    let table = table(&figures, &rows);
    std::fs::write(path, format!("{before}{BEGIN}\n{table}{END}{after}")).expect("the README can be written");
}

fn parse(line: &str) -> Option<Figure> {
    let text = |name: &str| {
        let rest = line.split_once(&format!("\"{name}\":"))?.1;
        Some(rest.split([',', '}']).next()?.trim_matches('"').to_owned())
    };
    let number = |name: &str| text(name)?.parse::<f64>().ok();
    Some(Figure {
        row: text("row")?,
        threads: number("threads")? as u32,
        cache: text("cache")?,
        rate: number("ops_per_s")?,
        ratio: number("ratio")?,
        tail_ns: number("tail_ns").unwrap_or(0.0),
    })
}

fn table(figures: &[Figure], rows: &[&str]) -> String {
    let by_place: BTreeMap<_, _> = figures
        .iter()
        .map(|figure| ((figure.row.as_str(), figure.threads, figure.cache.as_str()), figure))
        .collect();
    let mut text = String::from("| row | threads |");
    NAMES.iter().for_each(|name| write!(text, " {name} |").expect("memory"));
    text.push_str(" p99.9 of a hit, hifz / quick_cache |\n|---|---|---|---|---|---|---|---|\n");
    for row in rows {
        for threads in [1, 2] {
            write!(text, "| {row} | {threads} |").expect("memory");
            for name in NAMES {
                match by_place.get(&(*row, threads, name)) {
                    Some(figure) => write!(text, " {:.2} ({:.2} M/s) |", figure.ratio, figure.rate / 1e6),
                    None => write!(text, " – |"),
                }
                .expect("memory");
            }
            let tail = |name: &str| by_place.get(&(*row, threads, name)).map_or(0.0, |figure| figure.tail_ns);
            let (ours, theirs) = (tail("hifz"), tail("quick_cache"));
            let cell = if theirs > 0.0 { format!("{:.2}", ours / theirs) } else { "–".to_owned() };
            writeln!(text, " {cell} |").expect("memory");
        }
    }
    text
}

/// Bars of the ratio to quick_cache, a group for each row.
fn draw(figures: &[Figure], rows: &[&str], threads: u32) -> String {
    let colours = ["#0b6e4f", "#8d99ae", "#c97b84", "#d4a373", "#6d6875"];
    let (left, bar, gap) = (150, 13, 16);
    let group = bar * NAMES.len() + gap;
    let (width, height) = (780, 70 + group * rows.len());
    let scale = 360.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{left}\" y=\"18\" font-size=\"13\">operations a second beside quick_cache, {threads} thread(s), \
         medians</text>\n"
    );
    for (at, (name, colour)) in NAMES.iter().zip(colours).enumerate() {
        let x = left + at * 110;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"28\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\
            <text x=\"{}\" y=\"37\">{name}</text>",
            x + 14
        );
    }
    let one = left as f64 + scale;
    let _ = writeln!(
        svg,
        "<line x1=\"{one}\" y1=\"46\" x2=\"{one}\" y2=\"{}\" stroke=\"#444\" \
        stroke-dasharray=\"3 3\"/>",
        height - 10
    );
    for (at, row) in rows.iter().enumerate() {
        let top = 54 + at * group;
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{row}</text>", left - 8, top + 36);
        for (place, (name, colour)) in NAMES.iter().zip(colours).enumerate() {
            let found = figures.iter().find(|f| f.row == *row && f.threads == threads && f.cache == *name);
            let Some(figure) = found else { continue };
            let length = (figure.ratio.min(1.6) * scale).max(1.0);
            let y = top + place * bar;
            let _ = writeln!(
                svg,
                "<rect x=\"{left}\" y=\"{y}\" width=\"{length:.0}\" height=\"{}\" \
                fill=\"{colour}\"/><text x=\"{:.0}\" y=\"{}\">{:.2}</text>",
                bar - 2,
                left as f64 + length + 4.0,
                y + 10,
                figure.ratio
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

const BEGIN: &str = "<!-- figures: written by `hifz-peers plot` -->";
const END: &str = "<!-- end of figures -->";
