//! The README's commands that need only Rust, typed as they stand there: `curl` lines by a client of our own, `cargo run
//! --release --` lines by the binary under test. The rest (npm) is a step of `.ci/run`.

use std::path::Path;
use std::process::Command;

use tempfile::tempdir;

use crate::common::{Reply, Server};

#[test]
fn the_tour_of_the_readme_works_as_written() {
    let directory = tempdir().unwrap();
    let data = directory.path().join("hifz-data");
    std::fs::create_dir(&data).unwrap();
    let server = Server::start(&data);
    let mut typed = 0;
    for line in commands().iter().take_while(|line| !line.starts_with("npm ")) {
        let words = words(line, directory.path());
        match words.first().map(String::as_str) {
            Some("curl") => {
                let reply = curl(&server, &words, directory.path());
                assert!((200..300).contains(&reply.status), "{line}: {}", reply.status);
            }
            Some("cargo") if words.len() > 4 => {
                assert_eq!(words[..4], ["cargo", "run", "--release", "--"]);
                let output = words.iter().position(|word| word == ">").map(|at| words[at + 1].clone());
                let words: Vec<_> = words.iter().take_while(|word| *word != ">").collect();
                let done = Command::new(env!("CARGO_BIN_EXE_hifz"))
                    .args(&words[4..])
                    .current_dir(&directory)
                    .output()
                    .unwrap();
                assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
                if let Some(file) = output {
                    std::fs::write(directory.path().join(file), &done.stdout).unwrap();
                }
            }
            // The two commands themselves: this is the second, and the first is the server started above.
            Some("cargo") => continue,
            other => panic!("the README says {other:?}, which this test cannot type"),
        }
        typed += 1;
    }
    assert!(typed >= 15, "only {typed} commands found");
}

/// Every line of every shell block.
fn commands() -> Vec<String> {
    let readme = include_str!("../../README.md");
    let blocks = readme.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.flat_map(str::lines).map(ToOwned::to_owned).collect()
}

/// A line as the shell would split it, with `$(cat FILE)` filled in.
fn words(line: &str, directory: &Path) -> Vec<String> {
    let mut line = line.to_owned();
    while let Some(start) = line.find("$(cat ") {
        let end = start + line[start..].find(')').unwrap();
        let file = line[start + "$(cat ".len()..end].to_owned();
        line.replace_range(start..=end, std::fs::read_to_string(directory.join(file)).unwrap().trim());
    }
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for char in line.chars() {
        match (char, quote) {
            (' ', None) => words.push(std::mem::take(&mut word)),
            ('"' | '\'', None) => quote = Some(char),
            (_, Some(open)) if open == char => quote = None,
            _ => word.push(char),
        }
    }
    words.push(word);
    words
}

/// What `curl` does with the options the README uses.
fn curl(server: &Server, words: &[String], directory: &Path) -> Reply {
    let (mut method, mut headers, mut body, mut output, mut url) =
        ("GET", Vec::new(), Vec::new(), None, None);
    let mut rest = words[1..].iter();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().unwrap().as_str();
        match word.as_str() {
            "-s" | "-si" => {}
            "-X" => method = value(),
            "-H" => headers.push(value().split_once(": ").unwrap()),
            "-o" => output = Some(value()),
            "-d" => body = value().as_bytes().to_vec(),
            "--data-binary" => {
                body = std::fs::read(directory.join(value().strip_prefix('@').unwrap())).unwrap();
            }
            word => url = Some(word),
        }
    }
    let path = url.unwrap().strip_prefix("localhost:8080").unwrap();
    let reply = server.send(method, path, &headers, &body);
    if let Some(output) = output {
        std::fs::write(directory.join(output), &reply.body).unwrap();
    }
    reply
}
