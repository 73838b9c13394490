//! Paths of a static instance that templates leave alone

/// Patterns of paths, as an order names them
///
/// A pattern is a path below the folder of the instance, and protects what is below it, too. `*` stands for any characters of
/// a name, `?` for one, and `**` for any number of names. What is not there yet is not protected.
#[derive(Clone, Debug, Default)]
pub(super) struct Protected {
    patterns: Vec<Vec<String>>,
}

impl Protected {
    pub(super) fn new(paths: &[String]) -> Self {
        let names = |path: &String| -> Vec<String> {
            path.replace('\\', "/")
                .split('/')
                .map(str::trim)
                .filter(|name| !name.is_empty() && *name != ".")
                .map(str::to_owned)
                .collect()
        };
        let patterns = paths.iter().map(names).filter(|names| !names.is_empty());
        Self {
            patterns: patterns.collect(),
        }
    }

    /// Whether a path with `/` between its names is protected, if it is there
    pub(super) fn covers(&self, path: &str) -> bool {
        let names: Vec<&str> = path.split('/').collect();
        self.patterns.iter().any(|pattern| {
            // A folder that is protected protects what is in it.
            let (reached, any) = (names_reached(pattern, &names), pattern.len());
            reached.iter().skip(1).any(|row| row.get(any) == Some(&true))
        })
    }
}

/// `[names][patterns]`: whether that many names are matched by that many of the pattern's parts
fn names_reached(pattern: &[String], names: &[&str]) -> Vec<Vec<bool>> {
    let mut reached = vec![vec![false; pattern.len() + 1]; names.len() + 1];
    let at = |reached: &[Vec<bool>], row: usize, column: usize| {
        reached
            .get(row)
            .and_then(|row| row.get(column))
            .copied()
            .unwrap_or(false)
    };
    for row in 0..=names.len() {
        for column in 0..=pattern.len() {
            let is_reached = match (column.checked_sub(1), row.checked_sub(1)) {
                (None, None) => true,
                (None, Some(_)) => false,
                (Some(part), above) => match pattern.get(part).map(String::as_str) {
                    Some("**") => {
                        at(&reached, row, part) || above.is_some_and(|above| at(&reached, above, column))
                    }
                    Some(text) => above.is_some_and(|above| {
                        at(&reached, above, part) && names.get(above).is_some_and(|name| fits(text, name))
                    }),
                    None => false,
                },
            };
            if let Some(cell) = reached.get_mut(row).and_then(|row| row.get_mut(column)) {
                *cell = is_reached;
            }
        }
    }
    reached
}

/// Whether a name fits a pattern with `*` and `?`
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut in_name) = (0, 0);
    // Behind the last star, and where it stopped.
    let mut star: Option<(usize, usize)> = None;
    while let Some(character) = name.get(in_name) {
        match (pattern.get(at), star) {
            (Some('*'), _) => {
                at += 1;
                star = Some((at, in_name));
            }
            (Some(wanted), _) if *wanted == '?' || wanted == character => {
                at += 1;
                in_name += 1;
            }
            (_, Some((behind, stopped))) => {
                at = behind;
                in_name = stopped + 1;
                star = Some((behind, stopped + 1));
            }
            _ => return false,
        }
    }
    pattern
        .get(at..)
        .unwrap_or_default()
        .iter()
        .all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_protects_what_it_names_and_what_is_below() {
        for (pattern, path, is_covered) in [
            ("world", "world", true),
            ("world/", "world/level.dat", true),
            ("./world\\region", "world/region/r.0.mca", true),
            ("world", "world2/level.dat", false),
            ("world", "plugins/world", false),
            ("world*", "world_nether/level.dat", true),
            ("*.json", "ops.json", true),
            ("*.json", "plugins/x.json", false),
            ("**/*.json", "plugins/x.json", true),
            ("**/*.json", "ops.json", true),
            ("plugins/*/config.yml", "plugins/a/config.yml", true),
            ("plugins/*/config.yml", "plugins/a/b/config.yml", false),
            ("plugins/**/config.yml", "plugins/a/b/config.yml", true),
            ("plugins/**", "plugins/a", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("/", "anything", false),
            ("", "anything", false),
        ] {
            assert_eq!(
                Protected::new(&[pattern.to_owned()]).covers(path),
                is_covered,
                "{pattern} {path}"
            );
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = format!("{}x", "**/*a*a*a*a/".repeat(20));
        let path = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/".repeat(40);
        assert!(!Protected::new(&[pattern]).covers(&path));
    }
}
