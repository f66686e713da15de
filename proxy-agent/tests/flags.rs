//! `docs/flags.md` lists the flags of every command as clap knows them. With `UPDATE_FLAGS=1` the page is written anew.

use std::{env, fmt::Write as _, fs, path::Path};

use clap::{Arg, Command, CommandFactory as _};
use proxy_agent::cli::Cli;

const HEAD: &str = "\
# Flags

Written by `UPDATE_FLAGS=1 cargo test -p proxy-agent --test flags`; do not edit.

Every flag can be given by the environment variable named beside it. A flag on the command line overrides its variable, and both
override a field of `--config`.
";

#[test]
fn the_page_of_flags_is_true() {
    let page = page(&Cli::command());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/flags.md");
    if env::var_os("UPDATE_FLAGS").is_some() {
        fs::write(&path, &page).expect("docs/flags.md can be written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == page,
        "docs/flags.md differs from the flags: run `UPDATE_FLAGS=1 cargo test -p proxy-agent --test flags`"
    );
}

#[test]
fn every_flag_has_help_and_an_environment_variable() {
    for command in commands(&Cli::command()) {
        for flag in flags(&command).filter(|flag| !flag.is_positional()) {
            let name = format!("{} {}", command.get_name(), name(flag));
            assert!(!help(flag).is_empty(), "{name} has no help");
            let variable = flag.get_env().map(|env| env.display().to_string());
            let variable = variable.unwrap_or_default();
            assert!(variable.starts_with("PROXY_"), "{name} has no variable");
        }
    }
}

fn page(cli: &Command) -> String {
    let mut page = HEAD.to_owned();
    section(&mut page, "All commands", "", cli);
    for command in commands(cli).iter().skip(1) {
        let about = command.get_about().map(ToString::to_string);
        let title = format!("`{}`", command.get_name());
        section(&mut page, &title, &about.unwrap_or_default(), command);
    }
    page
}

fn section(page: &mut String, title: &str, about: &str, command: &Command) {
    let rows: Vec<String> = flags(command).map(row).collect();
    if rows.is_empty() {
        return;
    }
    let about = if about.is_empty() {
        String::new()
    } else {
        format!("{about}.\n\n")
    };
    let _ = write!(page, "\n## {title}\n\n{about}");
    page.push_str("| flag | variable | default | what it does |\n|---|---|---|---|\n");
    page.extend(rows);
}

/// The command itself, then its subcommands that users see.
fn commands(cli: &Command) -> Vec<Command> {
    let visible = cli
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    std::iter::once(cli).chain(visible).cloned().collect()
}

fn flags(command: &Command) -> impl Iterator<Item = &Arg> {
    command
        .get_arguments()
        .filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version"))
}

fn name(flag: &Arg) -> String {
    if flag.is_positional() {
        return format!("[{}]", flag.get_id().as_str().to_uppercase());
    }
    let short = flag.get_short().map(|short| format!("-{short}, "));
    let long = flag.get_long().unwrap_or_default();
    format!("{}--{long}", short.unwrap_or_default())
}

/// One row of a table: the flag with its value, its variable, its default, its help.
fn row(flag: &Arg) -> String {
    let takes_value = flag.get_num_args().is_none_or(|range| range.takes_values())
        && flag.get_action().takes_values();
    let names = flag.get_value_names().unwrap_or_default();
    let value = match names.first() {
        Some(value) if takes_value && flag.get_possible_values().is_empty() => format!(" {value}"),
        _ => String::new(),
    };
    let variable = flag.get_env().map(|env| format!("`{}`", env.display()));
    let default: Vec<String> = flag
        .get_default_values()
        .iter()
        .map(|value| value.display().to_string())
        .filter(|value| takes_value && !value.is_empty())
        .collect();
    let default = match default.as_slice() {
        [] => String::new(),
        values => format!("`{}`", values.join(",")),
    };
    let cells = [
        format!("`{}{value}`", name(flag)),
        variable.unwrap_or_default(),
        default,
        help(flag),
    ];
    format!(
        "| {} |\n",
        cells.map(|cell| cell.replace('|', "\\|")).join(" | ")
    )
}

/// The help of a flag, with its possible values.
fn help(flag: &Arg) -> String {
    let help = flag.get_long_help().or_else(|| flag.get_help());
    let mut text = help.map(ToString::to_string).unwrap_or_default();
    if !text.is_empty() && !text.ends_with('.') {
        text.push('.');
    }
    for value in flag.get_possible_values() {
        if let Some(help) = value.get_help() {
            let _ = write!(text, " `{}`: {help}.", value.get_name());
        }
    }
    text.replace('\n', " ")
}
