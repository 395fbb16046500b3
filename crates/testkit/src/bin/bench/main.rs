//! `make bench GROUP=main`: figures of a running node, as a table and as target/bench/GROUP.jsonl.
//!
//! One line a figure: name, unit, ours, peer, peer_value, ratio, target, met. A figure whose peer is absent is void: its
//! `met` is null. Without a group, every group runs.

mod main_group;

use serde::Serialize;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// One measured figure.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    pub name: &'static str,
    pub unit: &'static str,
    pub ours: f64,
    /// What it is compared with, if with anything.
    pub peer: Option<&'static str>,
    pub peer_value: Option<f64>,
    /// Ours divided by the peer's.
    pub ratio: Option<f64>,
    /// At most this.
    pub target: Option<f64>,
    pub met: Option<bool>,
}

impl Figure {
    /// A figure that is compared with nothing.
    pub fn new(name: &'static str, unit: &'static str, ours: f64) -> Self {
        Self { name, unit, ours, peer: None, peer_value: None, ratio: None, target: None, met: None }
    }

    /// The same, which should be at most `target`.
    pub fn at_most(self, target: f64) -> Self {
        Self { target: Some(target), met: Some(self.ours <= target), ..self }
    }
}

/// Measures every figure of a group.
type Group = fn() -> Vec<Figure>;

const GROUPS: [(&str, Group); 1] = [("main", main_group::measure)];

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
    let mut text = format!("{:<58} {:>9} {:<6} {:>9}  {}\n", "figure", "ours", "unit", "at most", "met");
    for figure in figures {
        let target = figure.target.map_or_else(String::new, |target| target.to_string());
        let met = match figure.met {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        text.push_str(&format!(
            "{:<58} {:>9.3} {:<6} {:>9}  {met}\n",
            figure.name, figure.ours, figure.unit, target
        ));
    }
    text
}
