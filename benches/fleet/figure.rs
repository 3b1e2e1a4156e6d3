//! Figures and the table they make.

use std::fmt::Write as _;

/// What a figure must reach.
pub enum Bar {
    /// At least so much of the baseline.
    RatioAtLeast(f64),
    /// At most so many times the baseline.
    RatioAtMost(f64),
    /// At most this, in the subject's unit.
    AtMost(f64),
    /// It is shown beside others and has no bar.
    None,
}

struct Row {
    name: String,
    subject: f64,
    baseline: Option<f64>,
    unit: &'static str,
    bar: Bar,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        self.baseline.map(|baseline| self.subject / baseline)
    }

    /// Whether the bar is reached; `None` when there is none.
    fn holds(&self) -> Option<bool> {
        match self.bar {
            Bar::RatioAtLeast(bar) => Some(self.ratio().is_some_and(|ratio| ratio >= bar)),
            Bar::RatioAtMost(bar) => Some(self.ratio().is_some_and(|ratio| ratio <= bar)),
            Bar::AtMost(bar) => Some(self.subject <= bar),
            Bar::None => None,
        }
    }

    fn print(&self) {
        let Self { name, unit, .. } = self;
        let baseline = self.baseline.map_or("-".to_owned(), |baseline| format!("{} {unit}", short(baseline)));
        let ratio = self.ratio().map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        let bar = match self.bar {
            Bar::RatioAtLeast(bar) => format!(">= {bar:.2}"),
            Bar::RatioAtMost(bar) => format!("<= {bar:.2}"),
            Bar::AtMost(bar) => format!("<= {} {unit}", short(bar)),
            Bar::None => "-".to_owned(),
        };
        let verdict = match self.holds() {
            Some(true) => "ok",
            Some(false) => "MISSED",
            None => "",
        };
        let subject = format!("{} {unit}", short(self.subject));
        println!("{name:<44}{subject:>16}{baseline:>16}{ratio:>8}{bar:>14}  {verdict}");
    }
}

/// Three digits that matter.
fn short(value: f64) -> String {
    match value.abs() {
        1_000.0.. => format!("{value:.0}"),
        100.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Every figure of a run, printed as it comes and once more together.
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    pub fn new() -> Self {
        println!("machine: {} cores, load average {}", cores(), load());
        Self { rows: Vec::new() }
    }

    /// Begins a group of figures.
    pub fn about(&self, what: &str) {
        println!("\n-- {what} (load average {})", load());
    }

    /// Adds a figure beside its baseline.
    pub fn beside(&mut self, name: impl Into<String>, unit: &'static str, subject: f64, baseline: f64, bar: Bar) {
        self.add(Row { name: name.into(), subject, baseline: Some(baseline), unit, bar });
    }

    /// Adds a figure that stands alone.
    pub fn alone(&mut self, name: impl Into<String>, unit: &'static str, subject: f64, bar: Bar) {
        self.add(Row { name: name.into(), subject, baseline: None, unit, bar });
    }

    fn add(&mut self, row: Row) {
        row.print();
        self.rows.push(row);
    }

    /// Prints the whole table and says how many bars were missed.
    pub fn print(&self) -> usize {
        let mut head = String::new();
        let _ = write!(head, "{:<44}{:>16}{:>16}{:>8}{:>14}", "name", "subject", "baseline", "ratio", "bar");
        println!("\n{head}");
        self.rows.iter().for_each(Row::print);
        let missed = self.rows.iter().filter(|row| row.holds() == Some(false)).count();
        println!("\n{} figures, {missed} missed; load average {}", self.rows.len(), load());
        missed
    }
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn load() -> String {
    let read = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    read.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// The middle of what several rounds gave.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    quantile(&mut values.into_iter().collect::<Vec<_>>(), 0.5)
}

/// The value below which that part of the values lies.
pub fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64 * part) as usize).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(f64::NAN)
}

/// A number of the environment, for longer or shorter runs.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}
