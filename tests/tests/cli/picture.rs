//! docs/picture.svg, which README.md shows: what a terminal showed in a run.

use std::path::Path;
use std::{env, fs};

use reaper_tests::daemon::private_folder;
use reaper_tests::expect::skip;

use super::readme::{bash, workspace};

/// The commands of the picture, each with what is waited for behind it.
const PICTURE: [(&str, &str); 5] = [
    (
        "reaperd watch --filter event=session_registered,session_deregistered &",
        "grep -q listening out",
    ),
    (
        "reaperd run --session-id s-1 --name api -- sleep 300 &",
        "grep -q 'registered.*s-1' out",
    ),
    (
        "reaperd run --session-id s-2 --name job -- sh -c 'exit 7'",
        "grep -q 'removed.*s-2' out",
    ),
    ("reaperd ls --format table", "true"),
    ("kill -9 $!", "grep -q 'removed.*s-1' out"),
];

/// What a terminal shows of these commands.
fn session(folder: &Path) -> String {
    let start =
        "reaperd daemon 2>log & until_true 'reaperd status >status'\nexec 3>&1 >out 2>/dev/null\n";
    let steps = PICTURE.map(|(command, shown)| {
        let line = command.replace('\'', r"'\''");
        format!("echo '$ {line}'\n{command}\nuntil_true {shown:?} || echo FAILED\n")
    });
    bash(&format!("{start}{}cat out >&3", steps.concat()), folder)
}

/// A picture of these lines, as text.
fn svg(text: &str) -> String {
    const WIDTH: usize = 860;
    const LINE: usize = 20;
    let drawn = |(at, line): (usize, &str)| {
        let is_command = line.starts_with("$ ");
        let color = if is_command { "#ffffff" } else { "#aaccaa" };
        let line = line.replace('&', "&amp;").replace('<', "&lt;");
        let (y, line) = (LINE * (at + 2), expanded(&line));
        format!("<text x=\"16\" y=\"{y}\" fill=\"{color}\">{line}</text>\n")
    };
    let lines: String = text.lines().enumerate().map(drawn).collect();
    let height = LINE * (text.lines().count() + 2);
    format!(
        "<!-- Made from a run: REAPER_WRITE_PICTURE=1 cargo test --release --test cli picture -->\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"monospace\" font-size=\"13\" xml:space=\"preserve\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#20242b\"/>\n{lines}</svg>\n"
    )
}

/// The line with blanks in place of its tabs.
fn expanded(line: &str) -> String {
    line.split_inclusive('\t')
        .fold(String::new(), |done, part| {
            let text = done + part.trim_end_matches('\t');
            let width = if part.ends_with('\t') {
                text.len() / 8 * 8 + 8
            } else {
                0
            };
            format!("{text:width$}")
        })
}

/// What depends on the sources that work here.
const OF_SOURCES: [&str; 8] = [
    "via", "netlink", "ebpf", "pidfd", "sweep", "stat", "ms", "µs",
];

/// The text without what differs from run to run: words with numbers, and the blanks that align them.
fn shape(text: &str) -> String {
    let is_same =
        |word: &&str| !OF_SOURCES.contains(word) && !word.chars().any(|it| it.is_ascii_digit());
    let words = |line: &str| {
        let line = line.replace("</text>", " </text>");
        let words = line.split_whitespace().filter(is_same);
        words.collect::<Vec<_>>().join(" ")
    };
    text.lines().map(|line| words(line) + "\n").collect()
}

#[test]
fn the_picture_is_that_of_a_run() {
    let folder = private_folder();
    let drawn = svg(&session(folder.path()));
    let path = workspace().join("docs/picture.svg");
    if env::var_os("REAPER_WRITE_PICTURE").is_some() {
        fs::write(&path, &drawn).unwrap();
        return skip("docs/picture.svg is written");
    }
    let kept = fs::read_to_string(&path).unwrap();
    assert_eq!(
        shape(&kept),
        shape(&drawn),
        "it is renewed by the command in its first line"
    );
}
