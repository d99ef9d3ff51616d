//! `docs/interface.txt`: everything public that has a name, one a line, so that a change of any of it is seen in
//! review. It is made from the program and from the pages that other tests compare with it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use reaperd::cli::exit_code::ExitCode;

use super::*;

/// Writes the list instead of comparing it.
const WRITE: &str = "REAPER_WRITE_INTERFACE";

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(name)
}

fn page(name: &str) -> String {
    fs::read_to_string(file(name)).unwrap()
}

/// The rows of the tables of a Markdown text, as cells.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
}

/// The names between backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// Adds a command with its flags, and the commands below it.
fn add_command(path: &[&str], list: &mut BTreeSet<String>) {
    let arguments = [path, &["--help"]].concat();
    let help = CommandOutput::of(&mut command(&arguments)).done();
    let name = path.join(" ");
    if !path.is_empty() {
        list.insert(format!("command {name}"));
    }
    for line in help.lines().map(str::trim_start) {
        if line.starts_with('-') {
            let flags = line.split([' ', ',', '=', '[', '<']);
            let flags = flags.take_while(|flag| flag.is_empty() || flag.starts_with('-'));
            for flag in flags.filter(|flag| flag.len() > 1 && *flag != "--") {
                list.insert(format!("flag {name} {flag}").replace("  ", " "));
            }
        }
    }
    let commands = help
        .split_once("\nCommands:\n")
        .map_or("", |(_, rest)| rest);
    for line in commands.lines().take_while(|line| !line.is_empty()) {
        let below = line.split_whitespace().next().unwrap();
        // A longer description goes on in a line of its own, which begins further right.
        if below != "help" && !line.starts_with("   ") {
            add_command(&[path, &[below]].concat(), list);
        }
    }
}

fn add_configuration(list: &mut BTreeSet<String>) {
    for (code, _) in ExitCode::ALL {
        list.insert(format!("exit code {}", code.number()));
    }
    let output = CommandOutput::of(&mut command(&["config", "show", "--no-config", "--json"]));
    for option in json(&output.done())["options"].as_array().unwrap() {
        let text = |field: &str| option[field].as_str().unwrap();
        let (key, variable, default) = (text("key"), text("variable"), text("default"));
        list.insert(
            format!("key {key} {variable} {default}")
                .trim_end()
                .to_owned(),
        );
    }
}

/// The fields of the commands' JSON are in tables below headings with the names of the commands.
fn add_commands_json(list: &mut BTreeSet<String>) {
    for section in page("commands.md").split("\n## ").skip(1) {
        let (commands, text) = section.split_once('\n').unwrap();
        for row in rows(text) {
            for (command, field) in commands
                .split(", ")
                .flat_map(|command| quoted(row[0]).map(move |field| (command, field)))
            {
                list.insert(format!("json {command}: {field}"));
            }
        }
    }
}

fn add_metrics(list: &mut BTreeSet<String>) {
    let text = page("metrics.md");
    let metrics = rows(&text).filter(|row| row.len() == 4);
    for row in metrics {
        let name = quoted(row[0]).next().unwrap();
        let labels: Vec<_> = quoted(row[2]).collect();
        let line = format!("metric {name} {} {}", row[1], labels.join(" "));
        list.insert(line.trim_end().to_owned());
    }
}

/// Routes, parameters, statuses, codes, fields and events.
fn add_http(list: &mut BTreeSet<String>) {
    let document = json(&page("openapi.json"));
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let route = format!("{} {path}", method.to_uppercase());
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let (name, place) = (&parameter["name"], &parameter["in"]);
                let (name, place) = (name.as_str().unwrap(), place.as_str().unwrap());
                list.insert(format!("route {route} {place} {name}"));
            }
            for status in operation["responses"].as_object().unwrap().keys() {
                list.insert(format!("route {route} {status}"));
            }
            list.insert(format!("route {route}"));
            add_codes(operation, list);
        }
    }
    let components = &document["components"];
    add_codes(&components["responses"], list);
    for (name, schema) in components["schemas"].as_object().unwrap() {
        add_fields(&format!("field {name}"), schema, list);
    }
    for branch in components["schemas"]["Event"]["oneOf"].as_array().unwrap() {
        let name = branch["properties"]["event"]["const"].as_str().unwrap();
        list.insert(format!("event {name}"));
    }
}

fn add_codes(node: &Value, list: &mut BTreeSet<String>) {
    let Some(node) = node.as_object() else {
        return;
    };
    for (key, value) in node {
        match value {
            Value::Array(codes) if key == "x-codes" => {
                let codes = codes.iter().map(|code| code.as_str().unwrap());
                list.extend(codes.map(|code| format!("error {code}")));
            }
            value => add_codes(value, list),
        }
    }
}

/// Adds the properties of a schema and of what is in it, each with its type.
fn add_fields(path: &str, schema: &Value, list: &mut BTreeSet<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        list.insert(format!("{path}: {}", kind_of(field)));
        add_fields(&path, field, list);
    }
    for key in ["oneOf", "anyOf"] {
        // A branch without a type only restricts fields that are listed already.
        let branches = schema[key].as_array().into_iter().flatten();
        for branch in branches.filter(|branch| branch["type"].is_string()) {
            add_fields(path, branch, list);
        }
    }
    if schema["items"].is_object() {
        add_fields(&format!("{path}[]"), &schema["items"], list);
    }
}

/// The type of a field, the name of its schema, or its only value.
fn kind_of(field: &Value) -> String {
    let texts = |kinds: &[Value]| {
        let kinds = kinds.iter().map(|kind| kind.as_str().unwrap());
        kinds.collect::<Vec<_>>().join(" or ")
    };
    match (&field["type"], &field["$ref"], &field["anyOf"]) {
        (Value::String(kind), ..) => kind.clone(),
        (Value::Array(kinds), ..) => texts(kinds),
        (_, Value::String(to), _) => to.rsplit('/').next().unwrap().to_owned(),
        (.., Value::Array(kinds)) => kinds.iter().map(kind_of).collect::<Vec<_>>().join(" or "),
        _ if field["const"].is_null() => "any".to_owned(),
        _ => field["const"].to_string(),
    }
}

#[test]
fn the_list_of_the_public_interface_is_complete() {
    let mut list = BTreeSet::new();
    add_command(&[], &mut list);
    add_configuration(&mut list);
    add_commands_json(&mut list);
    add_metrics(&mut list);
    add_http(&mut list);
    let lines: Vec<_> = list.iter().map(String::as_str).collect();
    let text = lines.join("\n") + "\n";
    if std::env::var_os(WRITE).is_some() {
        fs::write(file("interface.txt"), &text).unwrap();
    }
    let checked_in = page("interface.txt");
    let known: BTreeSet<_> = checked_in.lines().map(str::to_owned).collect();
    let gone: Vec<_> = known.difference(&list).collect();
    let new: Vec<_> = list.difference(&known).collect();
    assert!(
        gone.is_empty() && new.is_empty() && checked_in == text,
        "docs/interface.txt has lines that are not true any more: {gone:#?}\nand lacks: {new:#?}\nAfter an intended \
         change (docs/stability.md), write it with {WRITE}=1 and name the change in the changelog"
    );
}
