//! No file names a place on the machine it was written on.

use std::{env, path::Path};

use super::sources::Sources;

/// Every line that contains the path of this checkout, or of a home folder.
pub fn check(sources: &Sources, root: &Path) -> Vec<String> {
    let mut places = vec![
        concat!("/ho", "me/").to_owned(),
        concat!("/ro", "ot/").to_owned(),
    ];
    let home = env::home_dir().map(|home| home.join(""));
    let known = [Some(root.to_path_buf()), home].into_iter().flatten();
    // `/` and the like would be everywhere.
    places.extend(
        known
            .filter_map(|place| place.to_str().map(str::to_owned))
            .filter(|place| place.len() > 4),
    );
    find(sources, &places)
}

fn find(sources: &Sources, places: &[String]) -> Vec<String> {
    sources
        .all()
        .flat_map(|(path, text)| {
            text.lines().enumerate().filter_map(move |(number, line)| {
                let place = places.iter().find(|place| line.contains(place.as_str()))?;
                Some(format!(
                    "{}:{}: names a place of one machine, {place}",
                    path.display(),
                    number + 1
                ))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_in_every_kind_of_file() {
        let sources = Sources::of(&[("README.md", "one\nsee /a/b/c\n"), ("x.rs", "a/b")]);
        let findings = find(&sources, &["/a/b".to_owned()]);
        assert_eq!(
            findings,
            ["README.md:2: names a place of one machine, /a/b"]
        );
    }
}
