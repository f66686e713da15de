//! The files of a crate import each other without a cycle, so that each can be read, tested and moved with what is below it.
//! A module and its own descendants may know each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path},
};

use super::sources::{Sources, code};

/// Crates that are held to it.
const CRATES: [&str; 3] = ["proxy-agent", "proxy-lab", "xtask"];

/// The path of a module from its crate: empty for the root.
type Module = Vec<String>;

type Imports = BTreeMap<Module, BTreeSet<Module>>;

/// Every cycle among the files of a crate's library.
pub fn check(sources: &Sources) -> Vec<String> {
    CRATES
        .into_iter()
        .flat_map(|name| {
            let cycle = move |modules: Vec<Module>| {
                let names: Vec<String> = modules.iter().map(|module| module.join("::")).collect();
                format!("{name}/src: import cycle: {}", names.join(" → "))
            };
            cycles(&imports(sources, name)).into_iter().map(cycle)
        })
        .collect()
}

/// What each file of a crate imports of its other files.
fn imports(sources: &Sources, name: &str) -> Imports {
    let files: BTreeMap<Module, &str> = sources
        .rust()
        .filter_map(|(path, text)| Some((module(name, path)?, text)))
        .collect();
    let of = |module: &Module, text: &str| {
        paths(text)
            .into_iter()
            .filter_map(|path| resolve(&path, module, &files))
            .filter(|other| !other.starts_with(module) && !module.starts_with(other))
            .collect()
    };
    files
        .iter()
        .map(|(module, text)| (module.clone(), of(module, text)))
        .collect()
}

/// The module that a file of a crate's library is; none for tests and for binaries beside the main one.
fn module(name: &str, path: &Path) -> Option<Module> {
    let path = path.strip_prefix(name).ok()?.strip_prefix("src").ok()?;
    let path = path.with_extension("");
    let parts: Module = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(part) => Some(part.to_str()?.to_owned()),
            _ => None,
        })
        .collect();
    match parts.last()?.as_str() {
        "lib" | "main" if parts.len() == 1 => Some(Vec::new()),
        _ if parts.iter().any(|part| part == "bin" || part == "tests") => None,
        _ => Some(parts),
    }
}

/// All paths that begin with `crate`, `self` or `super`, and those of `use`, in a file without its tests.
fn paths(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines().map(code);
    let lines = lines.take_while(|line| line.trim() != "#[cfg(test)]");
    let text = lines.collect::<Vec<_>>().join(" ");
    let mut paths = Vec::new();
    for statement in text.split(';') {
        if let Some((_, tree)) = statement.rsplit_once("use ") {
            expand(tree, &[], &mut paths);
        }
    }
    for start in ["crate::", "super::"] {
        for (at, _) in text.match_indices(start) {
            let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            let rest = &text[at..];
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            paths.push(segments(&rest[..end]));
        }
    }
    paths
}

/// The paths of a `use` tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand(tree: &str, prefix: &[String], paths: &mut Vec<Vec<String>>) {
    let Some((start, rest)) = tree.split_once('{') else {
        let name = tree.split(" as ").next().unwrap_or_default();
        paths.push([prefix, &segments(name)].concat());
        return;
    };
    let prefix = [prefix, &segments(start)].concat();
    let mut depth = 0;
    let mut begin = 0;
    for (at, character) in rest.char_indices() {
        match character {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                if !rest[begin..at].trim().is_empty() {
                    expand(&rest[begin..at], &prefix, paths);
                }
                begin = at + 1;
                if character == '}' {
                    return;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
}

fn segments(path: &str) -> Vec<String> {
    let names = path.split("::").map(str::trim);
    names
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The file that a path leads to, as seen from a module.
fn resolve(path: &[String], from: &Module, files: &BTreeMap<Module, &str>) -> Option<Module> {
    let mut rest = path;
    let mut base = match rest.first()?.as_str() {
        "crate" => Module::new(),
        _ => from.clone(),
    };
    let mut is_ours = false;
    while let [first, after @ ..] = rest {
        match first.as_str() {
            "crate" | "self" => {}
            "super" => drop(base.pop()),
            _ => break,
        }
        is_ours = true;
        rest = after;
    }
    let child = [base.as_slice(), &rest[..rest.len().min(1)]].concat();
    if !is_ours && !files.contains_key(&child) {
        return None;
    }
    let full = [base.as_slice(), rest].concat();
    (0..=full.len())
        .rev()
        .map(|length| full[..length].to_vec())
        .find(|module| files.contains_key(module))
}

/// One cycle for each module that is first in one.
fn cycles(imports: &Imports) -> Vec<Vec<Module>> {
    let mut found: Vec<Vec<Module>> = Vec::new();
    for start in imports.keys() {
        if found.iter().any(|cycle| cycle.contains(start)) {
            continue;
        }
        if let Some(cycle) = path_back(imports, start) {
            found.push(cycle);
        }
    }
    found
}

/// The shortest way from a module over its imports to itself.
fn path_back(imports: &Imports, start: &Module) -> Option<Vec<Module>> {
    let mut came_from: BTreeMap<&Module, &Module> = BTreeMap::new();
    let mut queue = vec![start];
    let mut next = 0;
    while let Some(&module) = queue.get(next) {
        next += 1;
        for other in imports.get(module).into_iter().flatten() {
            if other == start {
                let mut way = vec![start.clone()];
                let mut at = module;
                while at != start {
                    way.insert(1, at.clone());
                    at = came_from.get(at)?;
                }
                way.push(start.clone());
                return Some(way);
            }
            if !came_from.contains_key(other) {
                came_from.insert(other, module);
                queue.push(other);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(files: &[(&str, &str)]) -> Vec<String> {
        check(&Sources::of(files))
    }

    #[test]
    fn a_cycle_over_three_files_is_found_once() {
        let found = findings(&[
            ("xtask/src/main.rs", "mod a; mod b; mod c;"),
            ("xtask/src/a.rs", "use crate::{b::B, other};"),
            ("xtask/src/b.rs", "fn f() { super::c::g() }"),
            ("xtask/src/c.rs", "use crate::a::{\n    A,\n    Z as Y,\n};"),
        ]);
        assert_eq!(found, ["xtask/src: import cycle: a → b → c → a"]);
    }

    #[test]
    fn descendants_tests_and_comments_do_not_count() {
        let found = findings(&[
            ("xtask/src/a.rs", "mod c;\nuse c::C;\nuse crate::b;"),
            ("xtask/src/a/c.rs", "use super::A;\nuse crate::a::B;"),
            (
                "xtask/src/b.rs",
                "// crate::a\nlet x = \"crate::a\";\n#[cfg(test)]\nmod tests { use crate::a; }",
            ),
            ("xtask/src/bin/x.rs", "use crate::b; use crate::a;"),
        ]);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn other_crates_are_no_files_of_this_one() {
        let found = findings(&[
            ("xtask/src/tokio.rs", "use crate::b;"),
            ("xtask/src/b.rs", "use std::fs; use tokio::net;"),
        ]);
        assert!(found.is_empty(), "{found:?}");
    }
}
