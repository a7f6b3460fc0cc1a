//! Imports between the files of one crate, and groups of files that import each other.
//!
//! Read from the text: `use` declarations and paths that begin with `crate` or `super`. A name that a `mod.rs` exports again
//! leads to the file that defines the name.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::Source;

/// Path of a module in its crate, such as `["jobs", "driver"]`.
type ModulePath = Vec<String>;

/// The modules of one crate with their imports, each a path in the crate.
struct CrateModules {
    imports: BTreeMap<ModulePath, BTreeSet<ModulePath>>,
    exports: BTreeMap<ModulePath, BTreeSet<ModulePath>>,
}

/// Finds groups of files that import each other, directly or through others.
pub fn circles(sources: &[Source]) -> Vec<String> {
    let crates: BTreeSet<&String> = sources.iter().filter_map(|source| source.krate.as_ref()).collect();
    let mut found = Vec::new();
    for krate in crates {
        let of_crate = sources.iter().filter(|source| source.krate.as_ref() == Some(krate));
        let modules = CrateModules::read(of_crate);
        let edges: BTreeMap<&ModulePath, BTreeSet<ModulePath>> = modules
            .imports
            .keys()
            .map(|module| (module, modules.imported_by(module)))
            .collect();
        let reachable = |from: &ModulePath| {
            let mut seen = BTreeSet::new();
            let mut next = vec![from];
            while let Some(module) = next.pop() {
                for imported in edges.get(module).into_iter().flatten() {
                    if seen.insert(imported.clone()) {
                        next.push(imported);
                    }
                }
            }
            seen
        };
        let reach: BTreeMap<&ModulePath, BTreeSet<ModulePath>> = modules
            .imports
            .keys()
            .map(|module| (module, reachable(module)))
            .collect();
        let mut groups = BTreeSet::new();
        for (module, reached) in &reach {
            if reached.contains(*module) {
                let members = reached
                    .iter()
                    .filter(|other| reach.get(other).is_some_and(|back| back.contains(*module)));
                groups.insert(members.map(|member| member.join("/")).collect::<Vec<_>>());
            }
        }
        found.extend(groups.into_iter().map(|group| format!("{krate}: {}", group.join(", "))));
    }
    found
}

impl CrateModules {
    fn read<'s>(sources: impl Iterator<Item = &'s Source>) -> Self {
        let (mut imports, mut exports) = (BTreeMap::new(), BTreeMap::new());
        let files: Vec<(ModulePath, bool, String)> = sources
            .map(|source| {
                let path: Vec<String> = source
                    .path
                    .iter()
                    .map(|part| part.to_string_lossy().into_owned())
                    .collect();
                let start = path.iter().position(|part| part == "src").map_or(0, |src| src + 1);
                let mut module: ModulePath = path[start..].to_vec();
                let stem = module.pop().unwrap_or_default().trim_end_matches(".rs").to_owned();
                let is_folder = matches!(stem.as_str(), "mod" | "lib" | "main");
                if !is_folder {
                    module.push(stem);
                }
                (module, is_folder, source.code.join("\n"))
            })
            .collect();
        for (module, is_folder, code) in &files {
            let (used, exported) = paths(code);
            let absolute = |path: &ModulePath| absolute(module, path);
            let exported: BTreeSet<ModulePath> = exported.iter().filter_map(absolute).collect();
            let mut used: BTreeSet<ModulePath> = used.iter().filter_map(absolute).collect();
            if !is_folder {
                used.extend(exported.iter().cloned());
            }
            imports.entry(module.clone()).or_insert_with(BTreeSet::new).extend(used);
            exports
                .entry(module.clone())
                .or_insert_with(BTreeSet::new)
                .extend(exported);
        }
        Self { imports, exports }
    }

    /// Returns the other modules that define the names that a module imports. The root of the crate counts as none.
    fn imported_by(&self, module: &ModulePath) -> BTreeSet<ModulePath> {
        let imports = self.imports.get(module).into_iter().flatten();
        let defining = imports.map(|path| self.defining(path, 0));
        defining
            .filter(|defining| defining != module && !defining.is_empty())
            .collect()
    }

    fn defining(&self, path: &ModulePath, depth: usize) -> ModulePath {
        let length = (0..=path.len())
            .rev()
            .find(|length| self.imports.contains_key(&path[..*length]));
        let length = length.unwrap_or(0);
        let module = path[..length].to_vec();
        let Some(name) = path.get(length).filter(|_| depth < 5) else {
            return module;
        };
        let exports = self.exports.get(&module).into_iter().flatten();
        let mut source = exports.filter(|export| export.last() == Some(name) && *export != path);
        source.next().map_or(module, |export| self.defining(export, depth + 1))
    }
}

/// Returns the imported and the exported paths of a file, as written.
fn paths(code: &str) -> (Vec<ModulePath>, Vec<ModulePath>) {
    let (mut used, mut exported) = (Vec::new(), Vec::new());
    let mut rest = String::new();
    for statement in code.split_inclusive(';') {
        let declaration = statement.rfind("use ").filter(|start| {
            let before = statement[..*start].trim_end();
            before.is_empty()
                || before.ends_with([';', '}', '{', ')'])
                || before.ends_with("pub")
                || before.ends_with(']')
        });
        let Some(start) = declaration else {
            rest.push_str(statement);
            continue;
        };
        rest.push_str(&statement[..start]);
        let is_export =
            statement[..start].trim_end().ends_with("pub") || statement[..start].trim_end().ends_with("(crate)");
        let tree = statement[start + 4..].trim_end_matches(';');
        expand(tree, &[], if is_export { &mut exported } else { &mut used });
    }
    for (start, _) in rest.match_indices("crate::").chain(rest.match_indices("super::")) {
        let is_begin = rest[..start]
            .chars()
            .next_back()
            .is_none_or(|before| !before.is_alphanumeric() && before != '_' && before != '$' && before != ':');
        if is_begin {
            let is_part = |character: char| character.is_alphanumeric() || character == '_' || character == ':';
            let end = rest[start..]
                .find(|character| !is_part(character))
                .unwrap_or(rest.len() - start);
            used.push(
                rest[start..start + end]
                    .split("::")
                    .filter(|part| !part.is_empty())
                    .map(str::to_owned)
                    .collect(),
            );
        }
    }
    (used, exported)
}

/// Expands the tree of a `use` declaration.
fn expand(tree: &str, prefix: &[String], found: &mut Vec<ModulePath>) {
    let tree = tree.split(" as ").next().unwrap_or_default().trim();
    let parts = |text: &str| -> Vec<String> {
        text.split("::")
            .map(|part| part.trim().to_owned())
            .filter(|part| !part.is_empty())
            .collect()
    };
    let Some((first, inner)) = tree.split_once('{') else {
        found.push([prefix, &parts(tree)].concat());
        return;
    };
    let prefix = [prefix, &parts(first)].concat();
    let inner = inner.trim_end().strip_suffix('}').unwrap_or(inner);
    let (mut depth, mut start) = (0, 0);
    for (at, character) in inner.char_indices().chain([(inner.len(), ',')]) {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inner[start..at].trim().is_empty() {
                    expand(&inner[start..at], &prefix, found);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// Turns a path of a module into one from the root of the crate; `None` for a path into another crate.
fn absolute(module: &ModulePath, path: &ModulePath) -> Option<ModulePath> {
    let supers = path.iter().take_while(|part| *part == "super").count();
    match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some([module, &path[1..]].concat()),
        "super" => Some([&module[..module.len().saturating_sub(supers)], &path[supers..]].concat()),
        _ => None,
    }
}
