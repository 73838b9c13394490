//! Plants known mistakes one by one and sees whether a test notices
//!
//! The mistakes are those of the list in `xtask/mutants` ([`list`]): each is a change that a reviewer could miss, with the
//! tests that must fail when it is made. A run copies the sources ([`tree`]), lets the named tests pass once without any
//! mistake, and then judges mutant by mutant ([`trial`]). The checkout is never touched; what is built stays below
//! `target/mutants`, where the next mutant, and the next run, find most of it built already.

mod interrupt;
pub mod list;
pub mod tree;
pub mod trial;
pub mod workspace;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use list::Mutant;
use tree::Tree;
use trial::{Bench, Fate};
use workspace::{Tests, Workspace};

/// The list, from the root of the repository.
const LIST: &str = "xtask/mutants";

/// Which mutants, and how
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Only mutants with this in their name or the path of their file
    #[arg(long, value_name = "PATTERN")]
    pub only: Option<String>,
    /// Only mutants in files of this package; may be given several times
    #[arg(long = "package", value_name = "PACKAGE")]
    pub packages: Vec<String>,
    /// Only so many, drawn by lot
    #[arg(long, value_name = "COUNT")]
    pub sample: Option<usize>,
    /// The lot of `--sample`
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// The equivalent ones instead, to see that they do survive
    #[arg(long)]
    pub equivalent: bool,
    /// The seconds that tests get in any case before they count as hanging; slow ones get ten times what they take
    #[arg(long, value_name = "SECONDS", default_value_t = LEAST_TIME)]
    pub least_time: u64,
}

const LEAST_TIME: u64 = 20;

impl Default for Options {
    /// Every mutant that is not equivalent.
    fn default() -> Self {
        Self {
            only: None,
            packages: Vec::new(),
            sample: None,
            seed: 0,
            equivalent: false,
            least_time: LEAST_TIME,
        }
    }
}

/// What a run has found
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Tests failed, or never ended.
    pub killed: usize,
    /// How many of the killed were so by a time limit.
    pub hung: usize,
    /// No test noticed.
    pub survived: Vec<String>,
    /// Entries without a verdict.
    pub errors: Vec<String>,
    /// Equivalent ones: left out, or found to survive.
    pub equivalent: usize,
}

impl Summary {
    /// Whether every mutant is what the list says.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.survived.is_empty() && self.errors.is_empty()
    }
}

/// Every mutant of the list at `root`, one line each.
///
/// # Errors
/// If the list cannot be read.
pub fn listing(root: &Path, options: &Options) -> Result<String> {
    let workspace = Workspace::describe(root)?;
    let mutants = list::read(&root.join(LIST))?;
    let mut text = String::new();
    for index in chosen(&mutants, &workspace, options) {
        let mutant = &mutants[index];
        let tests: Vec<_> = mutant.tests.iter().map(ToString::to_string).collect();
        let expected = match &mutant.equivalent {
            Some(reason) => format!("equivalent: {reason}"),
            None => format!("killed by {}", tests.join(", ")),
        };
        text.push_str(&format!("{}  {}  {expected}\n", mutant.name, mutant.file));
    }
    Ok(text)
}

/// What is wrong with the list at `root` as sentences, and how many mutants it has.
///
/// # Errors
/// If the list cannot be read.
pub fn check(root: &Path) -> Result<(Vec<String>, usize)> {
    let mutants = list::read(&root.join(LIST))?;
    let faults = list::faults(&mutants, root, &Workspace::describe(root)?);
    let sentences = faults
        .into_iter()
        .map(|(index, fault)| format!("{}: {fault}", mutants[index].name))
        .collect();
    Ok((sentences, mutants.len()))
}

/// Plants the chosen mutants of the list at `root`, each for itself, and writes one line each and a summary.
///
/// # Errors
/// If the list cannot be read, nothing is chosen, another run is at work, or files or Cargo fail.
pub fn run(root: &Path, options: &Options, out: &mut dyn Write) -> Result<Summary> {
    let start = Instant::now();
    let workspace = Workspace::describe(root)?;
    let mutants = list::read(&root.join(LIST))?;
    let faults = list::faults(&mutants, root, &workspace);
    let mut summary = Summary::default();
    let mut order = Vec::new();
    for index in chosen(&mutants, &workspace, options) {
        let mutant = &mutants[index];
        if mutant.equivalent.is_some() != options.equivalent {
            summary.equivalent += usize::from(!options.equivalent);
        } else if let Some(fault) = faults.get(&index) {
            writeln!(out, "ERROR     {}  {fault}", mutant.name)?;
            summary.errors.push(mutant.name.clone());
        } else {
            order.push((mutant, tests_of(mutant, &workspace)?));
        }
    }
    if order.is_empty() && summary == Summary::default() {
        bail!("no mutant is chosen");
    }
    // What shares a package and a file stands together, so that little is built twice.
    order.sort_by(|(a, a_tests), (b, b_tests)| (a_tests, &a.file).cmp(&(b_tests, &b.file)));

    interrupt::watch();
    let target = workspace.target.join("mutants");
    std::fs::create_dir_all(&target).with_context(|| format!("cannot make {}", target.display()))?;
    let lock = File::create(target.join("lock"))?;
    lock.try_lock()
        .with_context(|| format!("another run builds in {}", target.display()))?;
    let tree = Tree::copy(root)?;
    let least = Duration::from_secs(options.least_time);
    let mut bench = Bench::new(tree.path(), &target, least);
    let unfit = calibrate(&mut bench, &order, out)?;
    let ready = start.elapsed();

    let mut tried = 0_u32;
    for (mutant, tests) in &order {
        if let Some(reason) = tests.iter().find_map(|tests| unfit.get(tests)) {
            writeln!(out, "ERROR     {}  {reason}", mutant.name)?;
            summary.errors.push(mutant.name.clone());
            continue;
        }
        let began = Instant::now();
        tree.plant(mutant)?;
        let verdict = bench.judge(tests)?;
        tree.restore()?;
        tried += 1;
        let line = summary.count(mutant, &verdict);
        writeln!(out, "{line}  {:.1} s", began.elapsed().as_secs_f64())?;
        out.flush()?;
    }
    let total = start.elapsed();
    writeln!(
        out,
        "mutants: {}; {:.0} s, of which {:.0} s without a mutant and {:.1} s for each",
        summary.counts(options.equivalent),
        total.as_secs_f64(),
        ready.as_secs_f64(),
        ((total - ready) / tried.max(1)).as_secs_f64()
    )?;
    Ok(summary)
}

/// The positions of the mutants that the options choose, equivalent ones included.
fn chosen(mutants: &[Mutant], workspace: &Workspace, options: &Options) -> Vec<usize> {
    let is_wanted = |mutant: &Mutant| {
        let pattern = options.only.as_deref().unwrap_or_default();
        let owner = workspace.owner(&mutant.file).unwrap_or_default();
        (mutant.name.contains(pattern) || mutant.file.contains(pattern))
            && (options.packages.is_empty() || options.packages.iter().any(|package| package == owner))
    };
    let wanted: Vec<_> = (0..mutants.len())
        .filter(|index| is_wanted(&mutants[*index]))
        .collect();
    match options.sample {
        Some(count) => {
            let can_run: Vec<_> = wanted
                .into_iter()
                .filter(|index| mutants[*index].equivalent.is_some() == options.equivalent)
                .collect();
            list::sample(mutants, &can_run, count, options.seed)
        }
        None => wanted,
    }
}

fn tests_of(mutant: &Mutant, workspace: &Workspace) -> Result<Vec<Tests>> {
    mutant
        .tests
        .iter()
        .map(|target| {
            workspace
                .resolve(&mutant.file, target)
                .map_err(anyhow::Error::msg)
        })
        .collect()
}

/// Runs every test that is named once without a mutant; those that are no use come back with the reason.
fn calibrate(
    bench: &mut Bench,
    order: &[(&Mutant, Vec<Tests>)],
    out: &mut dyn Write,
) -> Result<BTreeMap<Tests, String>> {
    let mut unfit = BTreeMap::new();
    let mut known: Vec<&Tests> = order.iter().flat_map(|(_, tests)| tests).collect();
    known.sort();
    known.dedup();
    for tests in known {
        match bench.calibrate(tests)? {
            Ok(elapsed) => writeln!(out, "unchanged {tests} passes in {:.1} s", elapsed.as_secs_f64())?,
            Err(reason) => {
                unfit.insert(tests.clone(), reason);
            }
        }
        out.flush()?;
    }
    Ok(unfit)
}

impl Summary {
    /// Counts a verdict in and gives the line that tells it.
    fn count(&mut self, mutant: &Mutant, verdict: &Fate) -> String {
        let name = &mutant.name;
        match (verdict, &mutant.equivalent) {
            (Fate::Uncompilable(reason), _) => {
                self.errors.push(name.clone());
                format!("ERROR     {name}  does not compile: {reason}")
            }
            (Fate::Survived, Some(_)) => {
                self.equivalent += 1;
                format!("survived  {name}  as an equivalent one must")
            }
            (Fate::Killed(by) | Fate::Hung(by), Some(_)) => {
                self.errors.push(name.clone());
                format!("ERROR     {name}  is said to be equivalent, but killed by {by}")
            }
            (Fate::Survived, None) => {
                self.survived.push(name.clone());
                format!("SURVIVED  {name}  in {}", mutant.file)
            }
            (Fate::Killed(by), None) => {
                self.killed += 1;
                format!("killed    {name}  by {by}")
            }
            (Fate::Hung(by), None) => {
                self.killed += 1;
                self.hung += 1;
                format!("killed    {name}  by {by}")
            }
        }
    }

    fn counts(&self, equivalent: bool) -> String {
        let hung = match self.hung {
            0 => String::new(),
            count => format!(" ({count} by a time limit)"),
        };
        format!(
            "{} killed{hung}, {} survived, {} errors, {} equivalent {}",
            self.killed,
            self.survived.len(),
            self.errors.len(),
            self.equivalent,
            if equivalent { "seen to survive" } else { "left out" }
        )
    }
}
