//! Which module may import which: the layers of the controller, the guest agent and the command
//! line, from bottom to top, written down once.
//!
//! A module imports modules of lower layers only. Modules of one layer do not know each other. So
//! there are no cycles, a module can be read and tested with what is below it, and what a module
//! needs from above is passed in.
//!
//! The test reads the sources: each path that begins with `crate`, `super` or `self`, in a `use` or
//! elsewhere. Tests may import what they like.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Modules of one layer.
type Layer = &'static [&'static str];

/// A folder of modules and its layers, from bottom to top. The file that declares the modules
/// (`lib.rs`, `main.rs`, `mod.rs`) is above all of them.
struct Folder {
    /// The crate's folder in the repository.
    package: &'static str,
    /// The folder below the crate's `src`; empty for `src` itself.
    path: &'static str,
    layers: &'static [Layer],
    /// Names that the declaring file defines itself and that every module may use.
    shared: &'static [&'static str],
}

const FOLDERS: &[Folder] = &[
    Folder {
        package: "controller",
        path: "",
        layers: &[
            &[
                "hex",
                "hop_by_hop",
                "locks",
                "process_log",
                "process_metrics",
                "repoll",
                "sqlite",
            ],
            &["connections", "data_dir", "function", "limits"],
            &["backup", "function_url", "instance", "logs", "metrics"],
            &["pool", "registry", "web_pages"],
            &["settings"],
            &["auth", "deploy", "events"],
            &["api", "revival"],
            &["assembly"],
            &["serve"],
        ],
        shared: &["VERSION"],
    },
    Folder {
        package: "controller",
        path: "api",
        layers: &[
            &["http"],
            &["packages"],
            &["app"],
            &["target"],
            &["access", "change"],
            &["concurrency", "events", "layers", "traffic"],
            &["functions", "invocation", "policies"],
            &["function_urls", "hearth", "qualifiers"],
            &["operations"],
            &["router"],
        ],
        shared: &[],
    },
    Folder {
        package: "controller",
        path: "api/access",
        layers: &[&["action", "authenticate"], &["authorize"]],
        shared: &[],
    },
    Folder {
        package: "controller",
        path: "api/function_urls",
        layers: &[
            &["config", "refused_result", "response"],
            &["url_stream"],
            &["function_url_layer"],
        ],
        shared: &[],
    },
    Folder {
        package: "controller",
        path: "api/functions",
        layers: &[
            &[
                "configuration",
                "fields",
                "fixed_settings",
                "logging_config",
            ],
            &["tags", "validate"],
            &["crud"],
        ],
        shared: &[],
    },
    Folder {
        package: "controller",
        path: "api/http",
        layers: &[
            &["error", "peer", "request_id", "response", "trace", "unread"],
            &[
                "body",
                "page_check",
                "parameters",
                "unserved",
                "violations",
                "wire",
            ],
            &["page"],
        ],
        shared: &[],
    },
    Folder {
        package: "controller",
        path: "api/invocation",
        layers: &[
            &["event_stream", "tenant"],
            &["request"],
            &["invoke", "invoke_async", "invoke_stream"],
        ],
        shared: &[],
    },
    Folder {
        package: "controller",
        path: "pool",
        layers: &[
            &["answer", "concurrency", "readiness", "timeouts"],
            &["parts", "shells", "warm_up"],
            &["job"],
            &["entry", "output"],
            &["reservations"],
            &["state"],
            &["admission", "eviction", "dispatch"],
            &["conversation", "provision", "queued", "shares", "streaming"],
            &["lifecycle"],
            &["idle", "initialize", "ping", "shut_down", "starting"],
            &["assembly"],
        ],
        shared: &[],
    },
    Folder {
        package: "guest-agent",
        path: "",
        layers: &[
            &[
                "bootstrap",
                "cgroup",
                "clock",
                "cpu_time",
                "entropy",
                "exit",
                "generators",
                "lifecycle",
                "machine",
                "mailbox",
                "memory",
                "outbox",
                "output",
                "page_cache",
                "power",
                "scheduling",
                "vsock",
            ],
            &["code", "host_link", "spawn"],
            &["environment"],
            &["telemetry"],
            &["extensions"],
            &["runtime_api"],
            &["agent"],
        ],
        shared: &[],
    },
    Folder {
        package: "cli",
        path: "",
        layers: &[
            &["event", "function_name", "output", "variable"],
            &["args", "client", "progress", "signals"],
            &["project"],
            &["package"],
            &["check", "deployment"],
            &["init_log"],
            &["dev"],
            &["failure"],
            &["commands", "doctor"],
        ],
        shared: &[],
    },
];

#[test]
fn a_module_imports_only_modules_of_lower_layers() {
    let mut found = Vec::new();
    for package in packages() {
        let sources = Sources::read(package);
        for folder in FOLDERS.iter().filter(|folder| folder.package == package) {
            found.extend(folder.unlisted(&sources));
            for file in &sources.files {
                found.extend(folder.arrows_up(file));
            }
        }
    }
    assert!(
        found.is_empty(),
        "not as the layers of controller/tests/layers.rs have it:\n\n{}\n",
        found.join("\n")
    );
}

#[test]
fn layers_know_up_from_down() {
    let folder = Folder {
        package: "x",
        path: "",
        layers: &[&["low", "beside"], &["middle"], &["high"]],
        shared: &["VERSION"],
    };
    for (module, source, imported) in [
        ("middle", "use crate::low::A;", None),
        ("middle", "use crate::{VERSION, low};", None),
        ("middle", "use self::part::A;", None),
        ("middle::part", "use super::other;", None),
        ("", "use crate::high;", None),
        ("middle", "use crate::high::A;", Some("high")),
        ("low", "use crate::beside::A;", Some("beside")),
        ("middle::part", "use super::super::high;", Some("high")),
        ("middle::part", "fn f() { crate::high::g() }", Some("high")),
        ("middle", "use crate::{low, high::{A, B}};", Some("high")),
        (
            "middle",
            "use super::{\n low,\n high as h,\n};",
            Some("high"),
        ),
        ("middle", "use crate::StartError;", Some("StartError")),
    ] {
        let file = Source::parse(PathBuf::from("x.rs"), split(module), source);
        let arrows = folder.arrows_up(&file);
        match imported {
            None => assert!(arrows.is_empty(), "{source}: {arrows:?}"),
            Some(name) => {
                assert_eq!(arrows.len(), 1, "{source}: {arrows:?}");
                assert!(arrows[0].contains(&format!("`{name}`")), "{arrows:?}");
            }
        }
    }
    let file = Source::parse(PathBuf::from("a.rs"), split("low"), "\n\nuse crate::high;");
    assert!(folder.arrows_up(&file)[0].starts_with("a.rs:3: "));
}

#[test]
fn comments_texts_and_tests_import_nothing() {
    for source in [
        "// use crate::high;",
        "/* /* use crate::high; */ crate::high */",
        "const A: &str = \"crate::high \\\" crate::high\";",
        "const A: &[u8] = br#\"\" crate::high\"#;",
        "#[cfg(test)]\nmod tests { use crate::high; fn f() { if a { } } }",
        "#[cfg(test)]\n#[path = \"a.rs\"]\nuse crate::high;",
        "enum A { B, #[cfg(test)] C(crate::high::A), D }",
    ] {
        let file = Source::parse(PathBuf::from("a.rs"), split("low"), source);
        assert!(file.paths.is_empty(), "{source}: {:?}", file.paths);
    }
    for (source, paths) in [
        ("fn f<'a>(a: &'a str) { let b = '\"'; crate::b(); }", 1),
        ("const A: char = '\\''; use crate::b;", 1),
        ("#[cfg(test)] mod t { }\nuse crate::b;", 1),
        ("pub(crate) fn f() { self.g(); Self::h() }", 0),
    ] {
        let file = Source::parse(PathBuf::from("a.rs"), split("low"), source);
        assert_eq!(file.paths.len(), paths, "{source}: {:?}", file.paths);
    }
    let file = Source::parse(
        PathBuf::from("a.rs"),
        split("low"),
        "#[cfg(test)]\nmod double;",
    );
    assert_eq!(file.test_modules, [split("low::double")]);
}

fn packages() -> Vec<&'static str> {
    let mut packages: Vec<&str> = FOLDERS.iter().map(|folder| folder.package).collect();
    packages.dedup();
    packages
}

fn split(module: &str) -> Vec<String> {
    let parts = module.split("::").filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}

impl Folder {
    fn module(&self) -> Vec<String> {
        let parts = self.path.split('/').filter(|part| !part.is_empty());
        parts.map(str::to_owned).collect()
    }

    fn layer_of(&self, name: &str) -> Option<usize> {
        self.layers.iter().position(|layer| layer.contains(&name))
    }

    /// Modules without a layer, and layers' modules that are not there.
    fn unlisted(&self, sources: &Sources) -> Vec<String> {
        let own = self.module();
        let there: HashSet<&str> = sources
            .files
            .iter()
            .filter_map(|file| file.module.strip_prefix(own.as_slice())?.first())
            .map(String::as_str)
            .collect();
        let listed: HashSet<&str> = self.layers.concat().into_iter().collect();
        let place = format!("{}/src/{}", self.package, self.path);
        let without = there.difference(&listed).map(|name| {
            format!("{place}: module `{name}` has no layer. Add it above all that it imports")
        });
        let gone = listed
            .difference(&there)
            .map(|name| format!("{place}: there is no module `{name}`. Remove it from the layers"));
        without.chain(gone).collect()
    }

    /// What a file of this folder imports from its own layer or from a higher one.
    fn arrows_up(&self, file: &Source) -> Vec<String> {
        let own = self.module();
        let Some([from, ..]) = file.module.strip_prefix(own.as_slice()) else {
            return Vec::new();
        };
        let Some(layer) = self.layer_of(from) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for (line, path) in &file.paths {
            let Some(rest) = path.strip_prefix(own.as_slice()) else {
                continue;
            };
            let to = rest.first().map_or("*", String::as_str);
            if to == from || self.shared.contains(&to) {
                continue;
            }
            let mut text = format!("{}:{line}: ", file.file.display());
            let written = match self.layer_of(to) {
                Some(lower) if lower < layer => continue,
                Some(same) if same == layer => write!(
                    text,
                    "`{from}` imports `{to}`, which is on the same layer. Put `{to}` on a lower \
                     layer if it does not import `{from}`; else move what both need below them"
                ),
                Some(_) => write!(
                    text,
                    "`{from}` imports `{to}`, which is above it. Have what `{from}` needs passed \
                     in, or move it to a lower module"
                ),
                None => write!(
                    text,
                    "`{from}` imports `{to}` from the file that declares `{from}`, which is above \
                     it. Import `{to}` from the module that defines it"
                ),
            };
            written.expect("a String takes everything");
            found.push(text);
        }
        found.dedup();
        found
    }
}

/// The sources of a crate, without its tests.
struct Sources {
    files: Vec<Source>,
}

impl Sources {
    fn read(package: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let src = root.join(package).join("src");
        let mut files = Vec::new();
        let mut folders = vec![src.clone()];
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(&folder).expect("a folder of sources can be listed");
            for entry in entries {
                let path = entry.expect("a folder of sources can be listed").path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|end| end == "rs") {
                    let module = module_of(path.strip_prefix(&src).expect("it is below src"));
                    let text = std::fs::read_to_string(&path).expect("a source can be read");
                    let shown = path
                        .strip_prefix(&root)
                        .expect("it is below the root")
                        .into();
                    files.push(Source::parse(shown, module, &text));
                }
            }
        }
        let tests: Vec<Vec<String>> = files
            .iter()
            .flat_map(|file| file.test_modules.clone())
            .collect();
        files.retain(|file| {
            let of_test = |part: &String| part == "tests" || part.ends_with("_tests");
            !file.module.iter().any(of_test)
                && !tests.iter().any(|test| file.module.starts_with(test))
        });
        files.sort_by(|a, b| a.file.cmp(&b.file));
        Self { files }
    }
}

/// The module that a file below `src` is.
fn module_of(file: &Path) -> Vec<String> {
    let mut module: Vec<String> = file
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    let last = module.last().map(String::as_str);
    if last == Some("mod") || (module.len() == 1 && matches!(last, Some("lib" | "main"))) {
        module.pop();
    }
    module
}

/// One file.
struct Source {
    file: PathBuf,
    module: Vec<String>,
    /// What it imports, from the crate's root on, with the line.
    paths: Vec<(usize, Vec<String>)>,
    /// Modules that it declares for tests alone.
    test_modules: Vec<Vec<String>>,
}

impl Source {
    fn parse(file: PathBuf, module: Vec<String>, text: &str) -> Self {
        let tokens = tokens(text);
        let mut source = Self {
            file,
            module,
            paths: Vec::new(),
            test_modules: Vec::new(),
        };
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            if is_cfg_test(&tokens[at..]) {
                at = source.skip_test(&tokens, at + CFG_TEST.len());
                continue;
            }
            let begins = matches!(token.text.as_str(), "crate" | "super" | "self")
                && tokens.get(at + 1).is_some_and(|next| next.text == "::");
            if begins {
                at = source.take_path(&tokens, at, &[]);
            } else {
                at += 1;
            }
        }
        source
    }

    /// Goes past what an attribute for tests belongs to: up to the end of its block, or to its
    /// semicolon or comma.
    fn skip_test(&mut self, tokens: &[Token], mut at: usize) -> usize {
        let mut depth = 0_usize;
        while let Some(token) = tokens.get(at) {
            let next = tokens.get(at + 1);
            if depth == 0
                && token.text == "mod"
                && let Some(name) = next
                && tokens.get(at + 2).is_some_and(|end| end.text == ";")
            {
                let mut module = self.module.clone();
                module.push(name.text.clone());
                self.test_modules.push(module);
            }
            at += 1;
            match token.text.as_str() {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" if depth == 0 => return at - 1,
                ")" | "]" => depth -= 1,
                "}" => {
                    depth -= 1;
                    if depth == 0 {
                        return at;
                    }
                }
                ";" | "," if depth == 0 => return at,
                _ => {}
            }
        }
        at
    }

    /// Takes a path, or a tree of them in braces, that begins at a token. Returns what follows it.
    fn take_path(&mut self, tokens: &[Token], mut at: usize, before: &[String]) -> usize {
        let line = tokens[at].line;
        let mut path = before.to_vec();
        while let Some(token) = tokens.get(at) {
            match token.text.as_str() {
                "{" => {
                    at += 1;
                    while tokens.get(at).is_some_and(|token| token.text != "}") {
                        at = self.take_path(tokens, at, &path);
                        while tokens
                            .get(at)
                            .is_some_and(|token| !matches!(token.text.as_str(), "," | "}"))
                        {
                            at += 1;
                        }
                        if tokens.get(at).is_some_and(|token| token.text == ",") {
                            at += 1;
                        }
                    }
                    return at + 1;
                }
                "crate" => path.clear(),
                "self" if path.is_empty() && before.is_empty() => path = self.module.clone(),
                "self" => {}
                "super" => {
                    if path.is_empty() && before.is_empty() {
                        path = self.module.clone();
                    }
                    path.pop();
                }
                name => path.push(name.to_owned()),
            }
            at += 1;
            match tokens.get(at) {
                Some(token) if token.text == "::" => at += 1,
                _ => break,
            }
        }
        self.paths.push((line, path));
        at
    }
}

const CFG_TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];

fn is_cfg_test(tokens: &[Token]) -> bool {
    let begin = tokens.iter().take(CFG_TEST.len());
    begin.map(|token| token.text.as_str()).eq(CFG_TEST)
}

/// A word, `::` or another character.
struct Token {
    line: usize,
    text: String,
}

/// The tokens of a source, without comments and literals.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let peek = |at: usize| chars.get(at).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut at = 0;
    while at < chars.len() {
        let begin = at;
        match (chars[at], peek(at + 1)) {
            ('/', '/') => {
                while at < chars.len() && chars[at] != '\n' {
                    at += 1;
                }
            }
            ('/', '*') => {
                let mut depth = 0;
                loop {
                    match (peek(at), peek(at + 1)) {
                        ('/', '*') => depth += 1,
                        ('*', '/') => depth -= 1,
                        _ => {
                            at += 1;
                            continue;
                        }
                    }
                    at += 2;
                    if depth == 0 || at >= chars.len() {
                        break;
                    }
                }
            }
            ('"', _) => at = after_quoted(&chars, at, '"'),
            // A lifetime has no second quote.
            ('\'', '\\') => at = after_quoted(&chars, at, '\''),
            ('\'', _) if peek(at + 2) == '\'' => at += 3,
            (':', ':') => {
                at += 2;
                let text = "::".to_owned();
                tokens.push(Token { line, text });
            }
            (c, _) if is_word(c) => {
                while is_word(peek(at)) {
                    at += 1;
                }
                let word: String = chars[begin..at].iter().collect();
                let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
                if matches!(word.as_str(), "r" | "br" | "cr") && peek(at + hashes) == '"' {
                    at = after_raw(&chars, at + hashes + 1, hashes);
                } else {
                    tokens.push(Token { line, text: word });
                }
            }
            (c, _) => {
                at += 1;
                if !c.is_whitespace() {
                    let text = c.to_string();
                    tokens.push(Token { line, text });
                }
            }
        }
        line += chars[begin..at.min(chars.len())]
            .iter()
            .filter(|c| **c == '\n')
            .count();
    }
    tokens
}

/// Where a literal with escapes ends that begins with a quote.
fn after_quoted(chars: &[char], begin: usize, quote: char) -> usize {
    let mut at = begin + 1;
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// Where a raw literal ends whose text begins here.
fn after_raw(chars: &[char], begin: usize, hashes: usize) -> usize {
    let mut at = begin;
    while at < chars.len() {
        let closes = chars[at] == '"'
            && chars[at + 1..]
                .iter()
                .take_while(|c| **c == '#')
                .take(hashes)
                .count()
                == hashes;
        at += 1;
        if closes {
            return at + hashes;
        }
    }
    at
}
