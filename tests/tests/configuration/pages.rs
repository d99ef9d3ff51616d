//! The table in `docs/configuration.md`, and the file that `config default` prints.

use super::*;

#[test]
fn the_page_has_the_table_of_options() {
    let output = run(&["config", "show", "--no-config", "--json"], &[]);
    let shown: Value = serde_json::from_str(out(&output)).unwrap();
    let options = shown["options"].as_array().unwrap();
    let rows = options.iter().map(|option| {
        let text = |field: &str| option[field].as_str().unwrap();
        let default = match text("default") {
            "" => "not set".to_owned(),
            default => format!("`{default}`"),
        };
        let change = if option["reload"] == true {
            "reload"
        } else {
            "restart"
        };
        let (key, variable) = (text("key"), text("variable"));
        let (help, expects) = (text("help"), text("expects"));
        format!("| `{key}` | `{variable}` | {default} | {change} | {help} ({expects}) |\n")
    });
    let table: String = rows.collect();
    let page = page("docs/configuration.md");
    assert!(
        page.contains(&table),
        "docs/configuration.md must have this table:\n{table}"
    );
}

#[test]
fn the_default_file_is_the_default() {
    let text = run(&["config", "default"], &[]);
    let file = ConfigFile::with(out(&text));
    let of_file = run(&["config", "show", "--config", file.path()], &[]);
    let of_none = run(&["config", "show", "--no-config"], &[]);
    assert!(of_file.status.success(), "{of_file:?}");
    assert_eq!(out(&of_file), out(&of_none));
    // The same with every key in force.
    let keys = out(&text).lines().filter(|line| !line.starts_with("# "));
    let keys: Vec<_> = keys.map(|line| line.trim_start_matches('#')).collect();
    file.write(&keys.join("\n"));
    let of_keys = run(&["config", "show", "--config", file.path()], &[]);
    assert_eq!(out(&of_keys), out(&of_none));
}

#[test]
fn the_page_has_every_exit_code_and_signal() {
    let page = page("docs/configuration.md");
    for (code, _) in reaperd::cli::exit_code::ExitCode::ALL {
        let row = format!("| {} |", code.number());
        assert!(page.contains(&row), "exit code {}", code.number());
    }
    for signal in [
        "SIGHUP", "SIGTERM", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2",
    ] {
        assert!(page.contains(&format!("| `{signal}`")), "{signal}");
    }
}
