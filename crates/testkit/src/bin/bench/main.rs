//! `make bench GROUP=main`: figures of a running node, as a table and as target/bench/GROUP.jsonl.
//!
//! One line a figure: name, unit, ours, peer, peer_value, ratio, target, at_least, met. A figure whose peer is absent is void: its
//! `met` is null. Without a group, every group runs.

mod api_group;
mod dynos_group;
mod main_group;
mod router_group;
mod wrk;

use serde::Serialize;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// One measured figure.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    pub name: String,
    pub unit: &'static str,
    pub ours: f64,
    /// What it is compared with, if with anything.
    pub peer: Option<&'static str>,
    pub peer_value: Option<f64>,
    /// Ours divided by the peer's.
    pub ratio: Option<f64>,
    /// Of ours, at most; of the ratio when there is a peer.
    pub target: Option<f64>,
    /// Whether more is better, and the target therefore the least.
    pub at_least: bool,
    pub met: Option<bool>,
}

impl Figure {
    /// A figure that is compared with nothing.
    pub fn new(name: impl Into<String>, unit: &'static str, ours: f64) -> Self {
        Self {
            name: name.into(),
            unit,
            ours,
            peer: None,
            peer_value: None,
            ratio: None,
            target: None,
            at_least: false,
            met: None,
        }
    }

    /// A figure beside a peer's.
    pub fn against(
        name: impl Into<String>,
        unit: &'static str,
        ours: f64,
        peer: &'static str,
        theirs: f64,
    ) -> Self {
        let ratio = (theirs > 0.0).then(|| ours / theirs);
        Self { peer: Some(peer), peer_value: Some(theirs), ratio, ..Self::new(name, unit, ours) }
    }

    /// The same, which should be at most `target`.
    pub fn at_most(self, target: f64) -> Self {
        Self { target: Some(target), met: Some(self.ours <= target), ..self }
    }

    /// The same, which should be at least `target`.
    pub fn at_least(self, target: f64) -> Self {
        Self { target: Some(target), at_least: true, met: Some(self.ours >= target), ..self }
    }

    /// The same, whose ratio should be at least `target`, if there is one.
    pub fn ratio_at_least(self, target: Option<f64>) -> Self {
        let met = self.ratio.zip(target).map(|(ratio, target)| ratio >= target);
        Self { target, at_least: true, met, ..self }
    }

    /// The same, whose ratio should be at most `target`, if there is one.
    pub fn ratio_at_most(self, target: Option<f64>) -> Self {
        let met = self.ratio.zip(target).map(|(ratio, target)| ratio <= target);
        Self { target, met, ..self }
    }

    /// The same, whose comparison means nothing.
    pub fn void(self) -> Self {
        Self { ratio: None, ..self }
    }
}

/// The middle one; of an even number the upper one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Measures every figure of a group.
type Group = fn() -> Vec<Figure>;

const GROUPS: [(&str, Group); 4] = [
    ("main", main_group::measure),
    ("router", router_group::measure),
    ("dynos", dynos_group::measure),
    ("api", api_group::measure),
];

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1);
    let groups: Vec<_> =
        GROUPS.iter().filter(|(name, _)| wanted.as_deref().is_none_or(|wanted| wanted == *name)).collect();
    let mut out = std::io::stdout().lock();
    if groups.is_empty() {
        let _ =
            writeln!(out, "there is no such group; there are: {}", GROUPS.map(|(name, _)| name).join(", "));
        return ExitCode::FAILURE;
    }
    for (name, measure) in groups {
        let figures = measure();
        let folder = target_folder().join("bench");
        let lines: Vec<String> =
            figures.iter().map(|figure| serde_json::to_string(figure).expect("plain fields")).collect();
        fs::create_dir_all(&folder).expect("target is writable");
        fs::write(folder.join(format!("{name}.jsonl")), lines.join("\n") + "\n").expect("target is writable");
        let _ = writeln!(out, "\n{name}\n{}", table(&figures));
    }
    ExitCode::SUCCESS
}

/// `target`, where this program was built.
pub fn target_folder() -> PathBuf {
    let program = std::env::current_exe().expect("this program's path");
    program.ancestors().nth(2).expect("target/release/bench").to_path_buf()
}

fn table(figures: &[Figure]) -> String {
    let mut text = format!(
        "{:<58} {:>10} {:<4} {:>10} {:<16} {:>6} {:>8}  {}\n",
        "figure", "ours", "unit", "theirs", "peer", "ratio", "target", "met"
    );
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(String::new, |value| format!("{value:.digits$}"))
    };
    for figure in figures {
        let target = figure.target.map_or_else(String::new, |target| {
            format!("{}{target}", if figure.at_least { ">= " } else { "<= " })
        });
        let met = match (figure.met, figure.peer, figure.ratio) {
            (Some(true), ..) => "yes",
            (Some(false), ..) => "NO",
            (None, Some(_), None) => "void",
            (None, ..) => "",
        };
        text.push_str(&format!(
            "{:<58} {:>10.3} {:<4} {:>10} {:<16} {:>6} {target:>8}  {met}\n",
            figure.name,
            figure.ours,
            figure.unit,
            number(figure.peer_value, 3),
            figure.peer.unwrap_or_default(),
            number(figure.ratio, 2),
        ));
    }
    text
}
