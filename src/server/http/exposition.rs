//! The text format of Prometheus and its successor `OpenMetrics`: families, samples, labels.
//!
//! Names are ours and valid; label values may be anything and are escaped.

use std::fmt::{Display, Write as _};

/// Which of the two formats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Format {
    Prometheus,
    OpenMetrics,
}

/// A text under construction.
#[derive(Debug)]
pub(super) struct Exposition {
    format: Format,
    text: String,
    /// The name of the samples of the family under way.
    name: &'static str,
}

/// What a histogram counted, in seconds.
#[derive(Debug)]
pub(super) struct Times {
    /// Upper bounds, and how many took no more.
    pub(super) buckets: Vec<(f64, u64)>,
    pub(super) sum: f64,
    pub(super) count: u64,
}

impl Format {
    pub(super) const fn media_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Exposition {
    pub(super) fn new(format: Format) -> Self {
        Self { format, text: String::new(), name: "" }
    }

    /// Begins a family of counters, whose name ends in `_total`.
    pub(super) fn counter(&mut self, name: &'static str, help: &str) -> &mut Self {
        let family = match self.format {
            Format::Prometheus => name,
            Format::OpenMetrics => name.strip_suffix("_total").unwrap_or(name),
        };
        self.family(name, family, "counter", help)
    }

    /// Begins a family of gauges.
    pub(super) fn gauge(&mut self, name: &'static str, help: &str) -> &mut Self {
        self.family(name, name, "gauge", help)
    }

    /// A whole family of one histogram.
    pub(super) fn histogram(&mut self, name: &'static str, help: &str, times: &Times) {
        self.family(name, name, "histogram", help);
        for (bound, below) in &times.buckets {
            self.line("_bucket", &[("le", &format!("{bound:?}"))], below);
        }
        self.line("_bucket", &[("le", "+Inf")], times.count);
        self.line("_sum", &[], times.sum);
        self.line("_count", &[], times.count);
    }

    /// A sample of the family under way.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.line("", labels, value);
        self
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn family(&mut self, name: &'static str, family: &str, kind: &str, help: &str) -> &mut Self {
        self.name = name;
        // Writing into a String cannot fail.
        write!(self.text, "# HELP {family} {help}\n# TYPE {family} {kind}\n").unwrap_or_default();
        self
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        for (at, (label, text)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            write!(self.text, "{before}{label}=\"{}\"", escaped(text)).unwrap_or_default();
        }
        let after = if labels.is_empty() { "" } else { "}" };
        writeln!(self.text, "{after} {value}").unwrap_or_default();
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_written_as_they_are_read() {
        let written = |format| {
            let mut text = Exposition::new(format);
            text.counter("a_total", "What.").sample(&[("n", "x\"\\\n"), ("m", "")], 3);
            text.gauge("b", "Else.").sample(&[], 0.5);
            text.histogram("c", "Time.", &Times { buckets: vec![(0.001, 1)], sum: 0.25, count: 2 });
            text.finish()
        };
        let prometheus = "# HELP a_total What.\n# TYPE a_total counter\na_total{n=\"x\\\"\\\\\\n\",m=\"\"} 3\n\
            # HELP b Else.\n# TYPE b gauge\nb 0.5\n\
            # HELP c Time.\n# TYPE c histogram\nc_bucket{le=\"0.001\"} 1\nc_bucket{le=\"+Inf\"} 2\nc_sum 0.25\nc_count 2\n";
        assert_eq!(written(Format::Prometheus), prometheus);
        let open = prometheus.replace("HELP a_total", "HELP a").replace("TYPE a_total", "TYPE a") + "# EOF\n";
        assert_eq!(written(Format::OpenMetrics), open);
    }
}
