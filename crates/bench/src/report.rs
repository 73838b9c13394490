//! The table, and the file with the same figures

use std::io::Write as _;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

/// One figure
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub group: &'static str,
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    /// The same of bare tonic, in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bare: Option<f64>,
    /// `value / bare`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aim: Option<Aim>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub met: Option<bool>,
}

/// What a figure should be
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Aim {
    ValueAtMost(f64),
    RatioAtLeast(f64),
}

impl Row {
    pub fn new(group: &'static str, name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            group,
            name: name.into(),
            value,
            unit,
            bare: None,
            ratio: None,
            aim: None,
            met: None,
        }
    }

    pub fn beside(mut self, bare: f64) -> Self {
        self.bare = Some(bare);
        self.ratio = Some(self.value / bare);
        self
    }

    pub fn aim(mut self, aim: Aim) -> Self {
        self.met = match aim {
            Aim::ValueAtMost(limit) => Some(self.value <= limit),
            Aim::RatioAtLeast(limit) => self.ratio.map(|ratio| ratio >= limit),
        };
        self.aim = Some(aim);
        self
    }
}

#[derive(Debug, Default, Serialize)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    pub fn add(&mut self, row: Row) {
        eprintln!("  {}: {} {} {}", row.group, row.name, number(row.value), row.unit);
        self.rows.push(row);
    }

    pub fn print(&self) {
        let header = [
            "group",
            "what",
            "figure",
            "unit",
            "bare tonic",
            "ratio",
            "aim",
            "",
        ]
        .map(str::to_owned);
        let lines: Vec<[String; 8]> = std::iter::once(header)
            .chain(self.rows.iter().map(cells))
            .collect();
        let mut widths = [0; 8];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = cell.chars().count().max(*width);
            }
        }
        println!();
        for (index, line) in lines.iter().enumerate() {
            let mut text = String::new();
            for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
                let padding = " ".repeat(width - cell.chars().count());
                // Figures to the right, words to the left.
                let parts = if matches!(column, 2 | 4 | 5) {
                    [&padding, cell.as_str()]
                } else {
                    [cell.as_str(), &padding]
                };
                text.push_str(parts[0]);
                text.push_str(parts[1]);
                text.push_str("  ");
            }
            println!("{}", text.trim_end());
            if index == 0 {
                println!(
                    "{}",
                    "-".repeat(widths.iter().sum::<usize>() + 2 * widths.len() - 2)
                );
            }
        }
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = std::fs::File::create(path)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        writeln!(file)?;
        Ok(())
    }
}

fn cells(row: &Row) -> [String; 8] {
    [
        row.group.to_owned(),
        row.name.clone(),
        number(row.value),
        row.unit.to_owned(),
        row.bare.map(number).unwrap_or_default(),
        row.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
        match row.aim {
            Some(Aim::ValueAtMost(limit)) => format!("<= {}", number(limit)),
            Some(Aim::RatioAtLeast(limit)) => format!("ratio >= {limit}"),
            None => String::new(),
        },
        match row.met {
            Some(true) => "met".to_owned(),
            Some(false) => "MISSED".to_owned(),
            None => String::new(),
        },
    ]
}

fn number(value: f64) -> String {
    match value.abs() {
        magnitude if magnitude >= 10_000_000.0 => format!("{:.2} M", value / 1e6),
        magnitude if magnitude >= 100_000.0 => format!("{:.0} k", value / 1e3),
        magnitude if magnitude >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.1}"),
    }
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
