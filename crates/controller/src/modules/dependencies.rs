//! What modules need of each other

use std::collections::BTreeMap;

use prexorcloud_content::module::Manifest;

/// The requirements of `manifest` that none of `all` fulfils, as text
pub(super) fn unmet(manifest: &Manifest, all: &BTreeMap<String, Manifest>) -> Vec<String> {
    let is_met = |required: &prexorcloud_content::module::Required| {
        all.values()
            .flat_map(|other| &other.provides)
            .any(|provided| provided.id == required.id && required.versions.contains(&provided.version))
    };
    let unmet = manifest.requires.iter().filter(|required| !is_met(required));
    unmet
        .map(|required| format!("{} {}", required.id, required.versions))
        .collect()
}

/// Modules that need each other in a circle, beginning and ending with the same one; `None` if there is no circle
pub(super) fn cycle(all: &BTreeMap<String, Manifest>) -> Option<Vec<String>> {
    let needs = |id: &str| -> Vec<&str> {
        let required = all.get(id).into_iter().flat_map(|manifest| &manifest.requires);
        required
            .flat_map(|required| {
                let providers = all
                    .iter()
                    .filter(|(_, other)| other.provides.iter().any(|p| p.id == required.id));
                providers.map(|(id, _)| id.as_str())
            })
            .collect()
    };
    let mut done: Vec<&str> = Vec::new();
    for start in all.keys() {
        // Each step of the path, with what is still to be looked at behind it.
        let mut path = vec![(start.as_str(), needs(start))];
        while let Some((id, rest)) = path.last_mut() {
            let id = *id;
            match rest.pop() {
                None => {
                    done.push(id);
                    path.pop();
                }
                Some(next) => {
                    if let Some(at) = path.iter().position(|(known, _)| *known == next) {
                        let circle = path.iter().skip(at).map(|(id, _)| (*id).to_owned());
                        return Some(circle.chain([next.to_owned()]).collect());
                    }
                    if !done.contains(&next) {
                        path.push((next, needs(next)));
                    }
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn set(modules: &[(&str, &str, &str)]) -> BTreeMap<String, Manifest> {
        let read = |(id, provides, requires): &(&str, &str, &str)| {
            let mut text = format!("id: {id}\nversion: 1.0.0\nbackend: {{entrypoint: a.B}}\ncapabilities:\n");
            for (list, names, with) in [
                ("provides", provides, "version: 1.2.0"),
                ("requires", requires, "versionRange: ^1.0"),
            ] {
                text += &format!("  {list}:\n");
                for name in names.split_ascii_whitespace() {
                    text += &format!("    - {{id: {name}, {with}}}\n");
                }
            }
            ((*id).to_owned(), Manifest::parse(&text).unwrap())
        };
        modules.iter().map(read).collect()
    }

    #[test]
    fn circles_are_found_and_diamonds_are_none() {
        let diamond = [
            ("a", "", "b c"),
            ("b", "b", "d"),
            ("c", "c", "d"),
            ("d", "d", "missing"),
        ];
        assert_eq!(cycle(&set(&diamond)), None);
        assert_eq!(
            cycle(&set(&[("a", "a", "a")])),
            Some(vec!["a".into(), "a".into()])
        );
        let circle = cycle(&set(&[("a", "", "b"), ("b", "b", "c"), ("c", "c", "b")])).unwrap();
        assert_eq!(circle.first(), circle.last());
        assert_eq!(circle.len(), 3);
    }

    #[test]
    fn what_nobody_provides_is_told() {
        let all = set(&[("a", "", "b d"), ("b", "b", "")]);
        assert_eq!(unmet(&all["a"], &all), ["d ^1.0"]);
    }
}
