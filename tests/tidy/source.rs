//! Files of the repository, and Rust source without its comments and strings.

use std::path::Path;

use crate::root;

/// A text file of the repository.
pub(crate) struct File {
    /// Path from the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// All text files but what is built or fetched, in order of path.
pub(crate) fn files() -> Vec<File> {
    let mut files = Vec::new();
    walk(&root(), "", &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(files.len() > 50, "the walk found the repository");
    files
}

/// All Rust source files.
pub(crate) fn rust_files() -> Vec<File> {
    files().into_iter().filter(|file| is_rust(&file.path)).collect()
}

/// Whether it is Rust source by its name.
pub(crate) fn is_rust(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "rs")
}

fn walk(folder: &Path, prefix: &str, files: &mut Vec<File>) {
    for entry in std::fs::read_dir(folder).expect("folders of the repository can be read") {
        let entry = entry.expect("folders of the repository can be read");
        let name = entry.file_name().into_string().expect("names are text");
        if prefix.is_empty() && (name == ".git" || name == "out") {
            continue;
        }
        let path = format!("{prefix}{name}");
        let kind = entry.file_type().expect("a file has a type");
        if kind.is_dir() {
            walk(&entry.path(), &format!("{path}/"), files);
        } else if kind.is_file() {
            // What is not text (images, captures) has no lines to check.
            if let Ok(text) = std::fs::read_to_string(entry.path()) {
                files.push(File { path, text });
            }
        }
    }
}

/// The source with comments and the contents of strings and character literals blanked out; lines stay where they are.
pub(crate) fn code(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skip(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// Where the comment or literal that starts here ends; `at` itself when none starts here.
fn skip(chars: &[char], at: usize) -> usize {
    let next = chars.get(at + 1).copied().unwrap_or(' ');
    match chars[at] {
        '/' if next == '/' => until(chars, at, |rest| rest[0] == '\n', 0),
        '/' if next == '*' => {
            let (mut depth, mut end) = (0, at);
            while end < chars.len() {
                match (chars[end], chars.get(end + 1)) {
                    ('/', Some('*')) => (depth, end) = (depth + 1, end + 2),
                    ('*', Some('/')) => (depth, end) = (depth - 1, end + 2),
                    _ => end += 1,
                }
                if depth == 0 {
                    break;
                }
            }
            end.min(chars.len())
        }
        '"' => quoted(chars, at + 1, '"'),
        'r' if (next == '"' || next == '#') && !follows_word(chars, at) => raw(chars, at),
        // A character literal, and not a lifetime.
        '\'' if next == '\\' || chars.get(at + 2) == Some(&'\'') => quoted(chars, at + 1, '\''),
        _ => at,
    }
}

fn follows_word(chars: &[char], at: usize) -> bool {
    // `br"…"` is a literal all the same; `for"` is no Rust.
    at > 0 && is_word(chars[at - 1]) && chars[at - 1] != 'b'
}

fn raw(chars: &[char], at: usize) -> usize {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    let open = at + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return at; // a raw identifier
    }
    let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    until(chars, open + 1, |rest| rest.starts_with(&close), close.len())
}

fn until(chars: &[char], from: usize, found: impl Fn(&[char]) -> bool, beyond: usize) -> usize {
    (from..chars.len()).find(|at| found(&chars[*at..])).map_or(chars.len(), |at| at + beyond)
}

fn quoted(chars: &[char], from: usize, quote: char) -> usize {
    let mut at = from;
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// Whether a character may stand in an identifier.
pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Lines (from 1) in which `word` stands as a whole word or path.
pub(crate) fn lines_with(code: &str, word: &str) -> Vec<usize> {
    let stands_alone = |line: &str, at: usize| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let goes_on = word.ends_with(is_word) && after.is_some_and(is_word);
        !(before.is_some_and(is_word) || goes_on)
    };
    let found = |line: &str| line.match_indices(word).any(|(at, _)| stands_alone(line, at));
    code.lines().enumerate().filter(|(_, line)| found(line)).map(|(number, _)| number + 1).collect()
}

/// The names that are taken from a module, with their lines: `a` and `b` of `use std::net::{a, b}`, `a` of `std::net::a`.
pub(crate) fn taken_from(code: &str, module: &str) -> Vec<(usize, String)> {
    let prefix = format!("{module}::");
    let mut names = Vec::new();
    for (at, _) in code.match_indices(&prefix) {
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + prefix.len()..];
        let list = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or(list),
            None => rest.split(|c| !is_word(c) && c != '*').next().unwrap_or(rest),
        };
        let words = list.split(|c| !is_word(c) && c != '*').filter(|word| !word.is_empty());
        names.extend(words.map(|word| (line, word.to_owned())));
    }
    names
}

#[test]
fn comments_and_literals_are_blanked() {
    let source = "a /* b /* c */ \n d */ e // f\n\"g \\\" h\" i r#\"j \" k\"# 'l' '\\'' &'m n b\"o\" br\"p\"";
    let words: Vec<String> = code(source).split_whitespace().map(str::to_owned).collect();
    assert_eq!(words, ["a", "e", "i", "&'m", "n", "b", "b"]);
    assert_eq!(code(source).matches('\n').count(), 2);
}

#[test]
fn names_are_found_in_lists_and_paths() {
    let source = "use std::net::{TcpStream,\n IpAddr as Ip};\nfn f(a: std::net::SocketAddr) {}";
    let names: Vec<_> =
        taken_from(source, "std::net").into_iter().map(|(line, name)| format!("{line} {name}")).collect();
    assert_eq!(names, ["1 TcpStream", "1 IpAddr", "1 as", "1 Ip", "3 SocketAddr"]);
    assert_eq!(lines_with("HashMapLike\nx HashMap y\nstd::fs::read\nunsafe_code", "HashMap"), [2]);
}
