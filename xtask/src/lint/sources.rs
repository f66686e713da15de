//! The files that are the project's: what git tracks, or would track.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::process::read;

/// The text files, by path from the root. Files that are not UTF-8 are left out.
pub struct Sources {
    files: BTreeMap<PathBuf, String>,
}

impl Sources {
    pub fn read(root: &Path) -> Result<Self> {
        let listed = read(
            Command::new("git")
                .args([
                    "ls-files",
                    "-z",
                    "--cached",
                    "--others",
                    "--exclude-standard",
                ])
                .current_dir(root),
        )
        .context("the list of the project's files comes from git")?;
        let files = listed
            .split_terminator('\0')
            .filter_map(|path| {
                Some((
                    PathBuf::from(path),
                    fs::read_to_string(root.join(path)).ok()?,
                ))
            })
            .collect();
        Ok(Self { files })
    }

    #[cfg(test)]
    pub fn of(files: &[(&str, &str)]) -> Self {
        let files = files
            .iter()
            .map(|(path, text)| (PathBuf::from(path), (*text).to_owned()));
        Self {
            files: files.collect(),
        }
    }

    pub fn len(&self) -> usize {
        self.files.len()
    }

    pub fn get(&self, path: &Path) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    pub fn all(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.files
            .iter()
            .map(|(path, text)| (path.as_path(), text.as_str()))
    }

    pub fn rust(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.all()
            .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "rs"))
    }
}

/// A line of Rust without its comment and without what its string literals hold.
///
/// Enough for looking up words: literals over several lines and raw strings with quotes are not understood.
pub fn code(line: &str) -> String {
    let mut code = String::with_capacity(line.len());
    let mut in_string = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if in_string => {
                characters.next();
            }
            // `'"'` is a character.
            '\'' if !in_string && characters.peek() == Some(&'"') => {
                characters.next();
            }
            '"' => {
                in_string = !in_string;
                code.push('"');
            }
            _ if in_string => {}
            '/' if characters.peek() == Some(&'/') => break,
            _ => code.push(character),
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code() {
        assert_eq!(code(r#"let a = "x // \" y"; // z"#), r#"let a = ""; "#);
        assert_eq!(code(r#"'"' => f("b") // c"#), r#"' => f("") "#);
    }
}
