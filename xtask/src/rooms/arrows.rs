//! Which file of a crate uses what another file defines.
//!
//! Parses the source with `syn` and resolves names like the compiler, with one aim: an arrow ends where a thing is
//! *defined*. A `pub use` in between neither hides an arrow nor creates one. Unit tests (`#[cfg(test)]`) do not count.
//!
//! Limits: what requires type inference (which method a call means) is not seen, nor names composed by a macro. Paths
//! written out inside a macro call are seen.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItem, Item, TraitItem, UseTree, Visibility};

/// One use of something that another file defines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Arrow {
    /// The file with the use, relative to the crate's `src`.
    pub(crate) from: String,
    /// Line of the use, from 1.
    pub(crate) line: usize,
    /// The file with the definition.
    pub(crate) to: String,
    /// The path as written.
    pub(crate) path: String,
}

/// The files of a crate and the arrows between them.
pub(crate) struct Crate {
    /// Files relative to `src`, sorted.
    pub(crate) files: BTreeSet<String>,
    /// Arrows in the order of files and lines.
    pub(crate) arrows: Vec<Arrow>,
}

/// Reads a crate from its `lib.rs`. `read` returns the text of a file relative to `src`, or `None` if it does not
/// exist. Fails if a module has no file or a file is not Rust.
pub(crate) fn read_crate(read: &dyn Fn(&str) -> Option<String>) -> Result<Crate> {
    let mut tree = Tree { modules: Vec::new() };
    tree.enter_file(read, "lib.rs", "", None)?;
    let mut arrows: Vec<Arrow> = (0..tree.modules.len()).flat_map(|at| tree.arrows_of(at)).collect();
    arrows.sort();
    arrows.dedup();
    Ok(Crate { files: tree.modules.iter().map(|module| module.file.clone()).collect(), arrows })
}

/// The modules; the first is the crate's root. A module inside a file is a module of its own.
struct Tree {
    modules: Vec<Module>,
}

#[derive(Default)]
struct Module {
    file: String,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    items: BTreeSet<String>,
    imports: Vec<Import>,
    /// Paths in code, with their lines.
    paths: Vec<(Vec<String>, usize)>,
}

/// One leaf of a `use`.
struct Import {
    path: Vec<String>,
    /// The name it gets here; `None` for `*`.
    name: Option<String>,
    line: usize,
    reexport: bool,
}

/// What a path leads to: a module, or an item in one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Module(usize),
    In(usize),
}

/// Names that lead through more re-exports than this are circular.
const DEPTH_MAX: usize = 16;

impl Tree {
    fn enter_file(
        &mut self,
        read: &dyn Fn(&str) -> Option<String>,
        file: &str,
        folder: &str,
        parent: Option<usize>,
    ) -> Result<usize> {
        let source = read(file).with_context(|| format!("cannot read {file}"))?;
        let parsed = syn::parse_file(&source).with_context(|| format!("{file} is not Rust"))?;
        self.enter(read, file, folder, parent, parsed.items)
    }

    /// Adds a module with its `items`; the files of its children are in `folder`.
    fn enter(
        &mut self,
        read: &dyn Fn(&str) -> Option<String>,
        file: &str,
        folder: &str,
        parent: Option<usize>,
        items: Vec<Item>,
    ) -> Result<usize> {
        let mut module = Module { file: file.to_owned(), parent, ..Module::default() };
        for item in &items {
            module.items.extend(name_of(item));
            module.visit_item(item);
        }
        let at = self.modules.len();
        self.modules.push(module);
        for item in items {
            let Item::Mod(item) = item else { continue };
            let name = item.ident.to_string();
            if only_for_tests(&item.attrs) || name == "tests" {
                continue;
            }
            let inner = format!("{folder}{name}/");
            let child = match item.content {
                Some((_, items)) => self.enter(read, file, &inner, Some(at), items)?,
                None => {
                    let flat = format!("{folder}{name}.rs");
                    let child = if read(&flat).is_some() { flat } else { format!("{inner}mod.rs") };
                    self.enter_file(read, &child, &inner, Some(at))?
                }
            };
            if let Some(module) = self.modules.get_mut(at) {
                module.children.insert(name, child);
            }
        }
        Ok(at)
    }

    fn arrows_of(&self, at: usize) -> Vec<Arrow> {
        let Some(module) = self.modules.get(at) else { return Vec::new() };
        let mut arrows = Vec::new();
        let mut arrow = |path: &[String], line: usize, to: &Module| {
            if to.file != module.file {
                let (from, to) = (module.file.clone(), to.file.clone());
                arrows.push(Arrow { from, line, to, path: path.join("::") });
            }
        };
        for import in &module.imports {
            let target = self.resolve(at, &import.path, 0);
            let to = match target {
                Some(Target::In(to)) => to,
                // An imported module is used where something in it is named.
                Some(Target::Module(to)) if import.name.is_none() => to,
                _ => continue,
            };
            // A module that re-exports what its own children define names it, but does not use it.
            if !(import.reexport && self.is_inside(to, at))
                && let Some(to) = self.modules.get(to)
            {
                arrow(&import.path, import.line, to);
            }
        }
        for (path, line) in &module.paths {
            // A single name was imported, which is an arrow already, unless it is re-exported as well.
            let alone = path.len() == 1;
            if alone && !module.imports.iter().any(|import| import.reexport && import.name.as_ref() == path.first()) {
                continue;
            }
            if let Some(Target::In(to)) = self.resolve(at, path, 0)
                && let Some(to) = self.modules.get(to)
            {
                arrow(path, *line, to);
            }
        }
        arrows
    }

    fn is_inside(&self, mut module: usize, outer: usize) -> bool {
        while let Some(parent) = self.modules.get(module).and_then(|module| module.parent) {
            if parent == outer {
                return true;
            }
            module = parent;
        }
        false
    }

    /// Where `path`, as written in the module `at`, leads; `None` if that is outside the crate.
    fn resolve(&self, at: usize, path: &[String], depth: usize) -> Option<Target> {
        let mut rest = path.iter();
        let mut target = match rest.next()?.as_str() {
            "crate" => Target::Module(0),
            "self" => Target::Module(at),
            "super" => Target::Module(self.modules.get(at)?.parent?),
            name => self.lookup(at, name, rest.len() > 0, depth)?,
        };
        while let Target::Module(module) = target {
            let Some(name) = rest.next() else { break };
            target = match name.as_str() {
                "self" => target,
                "super" => Target::Module(self.modules.get(module)?.parent?),
                // If it is not found there, a macro there defines it, or it comes from another crate by re-export.
                name => self.lookup(module, name, rest.len() > 0, depth).unwrap_or(Target::In(module)),
            };
        }
        Some(target)
    }

    /// What `name` means in a module. A module and a function may share a name; the path tells which is meant, as only
    /// a module can be followed by more segments (`path_goes_on`).
    fn lookup(&self, at: usize, name: &str, path_goes_on: bool, depth: usize) -> Option<Target> {
        if depth > DEPTH_MAX {
            return None;
        }
        let module = self.modules.get(at)?;
        let mut found: Vec<Target> = Vec::new();
        found.extend(module.items.contains(name).then_some(Target::In(at)));
        found.extend(module.children.get(name).map(|child| Target::Module(*child)));
        let named = module.imports.iter().filter(|import| import.name.as_deref() == Some(name));
        found.extend(named.filter_map(|import| self.resolve(at, &import.path, depth + 1)));
        let wanted = |target: &&Target| matches!(target, Target::Module(_)) == path_goes_on;
        if let Some(target) = found.iter().find(wanted).or(found.first()) {
            return Some(*target);
        }
        module.imports.iter().filter(|import| import.name.is_none()).find_map(|glob| {
            match self.resolve(at, &glob.path, depth + 1)? {
                Target::Module(other) if other != at => self.lookup(other, name, path_goes_on, depth + 1),
                _ => None,
            }
        })
    }
}

/// Collects what a module imports and names, without entering other modules or tests.
impl<'ast> Visit<'ast> for Module {
    fn visit_item(&mut self, item: &'ast Item) {
        if !only_for_tests(attributes(item)) && !matches!(item, Item::Mod(_)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let attributes: &[Attribute] = match item {
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Fn(item) => &item.attrs,
            ImplItem::Type(item) => &item.attrs,
            ImplItem::Macro(item) => &item.attrs,
            _ => &[],
        };
        if !only_for_tests(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_trait_item(&mut self, item: &'ast TraitItem) {
        if !matches!(item, TraitItem::Fn(item) if only_for_tests(&item.attrs)) {
            visit::visit_trait_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if item.leading_colon.is_none() {
            let reexport = !matches!(item.vis, Visibility::Inherited);
            leaves(&item.tree, &mut Vec::new(), reexport, &mut self.imports);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if let (None, Some(first)) = (path.leading_colon, path.segments.first()) {
            let names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.paths.push((names, first.ident.span().start().line));
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        paths_in_tokens(call.tokens.clone(), &mut self.paths);
    }

    // Neither visibility nor derives are a use of another file.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}
    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}

fn leaves(tree: &UseTree, above: &mut Vec<String>, reexport: bool, found: &mut Vec<Import>) {
    let mut leaf = |last: Option<&syn::Ident>, name: Option<String>, line: usize| {
        let mut path = above.clone();
        // `use a::{self}` imports `a`.
        path.extend(last.filter(|last| *last != "self" || above.is_empty()).map(ToString::to_string));
        let name = name.map(|name| if name == "self" { path.last().cloned().unwrap_or(name) } else { name });
        found.push(Import { path, name, line, reexport });
    };
    match tree {
        UseTree::Path(path) => {
            above.push(path.ident.to_string());
            leaves(&path.tree, above, reexport, found);
            above.pop();
        }
        UseTree::Name(name) => leaf(Some(&name.ident), Some(name.ident.to_string()), name.ident.span().start().line),
        UseTree::Rename(name) => {
            leaf(Some(&name.ident), Some(name.rename.to_string()), name.ident.span().start().line);
        }
        UseTree::Glob(glob) => leaf(None, None, glob.star_token.spans[0].start().line),
        UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, above, reexport, found)),
    }
}

/// Paths of two names or more that are written out in the tokens of a macro call.
fn paths_in_tokens(tokens: TokenStream, found: &mut Vec<(Vec<String>, usize)>) {
    let mut path: Vec<String> = Vec::new();
    let mut line = 0;
    let mut colons = 0;
    let mut end = |path: &mut Vec<String>, line: usize| match path.len() {
        0 | 1 => path.clear(),
        _ => found.push((std::mem::take(path), line)),
    };
    let mut groups = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Ident(name) => {
                if colons != 2 {
                    end(&mut path, line);
                    line = name.span().start().line;
                }
                path.push(name.to_string());
                colons = 0;
            }
            TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
            other => {
                end(&mut path, line);
                colons = 0;
                if let TokenTree::Group(group) = other {
                    groups.push(group.stream());
                }
            }
        }
    }
    end(&mut path, line);
    for group in groups {
        paths_in_tokens(group, found);
    }
}

/// Whether an item is compiled for unit tests only: `test` must hold.
fn only_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().filter(|attribute| attribute.path().is_ident("cfg")).any(|attribute| {
        let Ok(condition) = attribute.parse_args::<TokenStream>() else { return false };
        let mut words = condition.into_iter();
        match words.next() {
            Some(TokenTree::Ident(word)) if word == "test" => true,
            Some(TokenTree::Ident(word)) if word == "all" => match words.next() {
                Some(TokenTree::Group(all)) => {
                    all.stream().into_iter().any(|word| matches!(word, TokenTree::Ident(word) if word == "test"))
                }
                _ => false,
            },
            _ => false,
        }
    })
}

/// The name that an item defines in its module.
fn name_of(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    (!only_for_tests(attributes(item))).then(|| name.to_string())
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The arrows of a crate as `from:line to`.
    fn arrows(files: &[(&str, &str)]) -> Vec<String> {
        let read = |name: &str| files.iter().find(|(file, _)| *file == name).map(|(_, source)| (*source).to_owned());
        let found = read_crate(&read).unwrap().arrows;
        found.iter().map(|arrow| format!("{}:{} {}", arrow.from, arrow.line, arrow.to)).collect()
    }

    #[test]
    fn an_arrow_ends_where_the_thing_is_defined() {
        let files = [
            ("lib.rs", "mod a; mod b; mod c; pub use c::deep::Thing;"),
            ("a.rs", "use crate::b::Thing;\nuse crate::Thing as Same;\nfn f() { super::b::other() }"),
            ("b.rs", "pub use crate::c::Thing;\npub fn other() {}"),
            ("c/mod.rs", "pub mod deep; pub use deep::*;"),
            ("c/deep.rs", "pub struct Thing;"),
        ];
        // The re-export in `b` is a use; those in `c` and the root re-export their own children.
        assert_eq!(arrows(&files), ["a.rs:1 c/deep.rs", "a.rs:2 c/deep.rs", "a.rs:3 b.rs", "b.rs:1 c/deep.rs"]);
    }

    #[test]
    fn paths_through_modules_groups_macros_and_functions_are_followed() {
        let files = [
            ("lib.rs", "mod a; mod b;"),
            (
                "a.rs",
                "use crate::b::{self, inner as other};\nfn f(x: b::T) {\n  vec![other::g(crate::b::h())];\n  use crate::b::U::*;\n}",
            ),
            ("b.rs", "pub struct T; pub enum U { A }\nmake!(fn h);\npub mod inner;"),
            ("b/inner.rs", "pub fn g() {}"),
        ];
        assert_eq!(arrows(&files), ["a.rs:2 b.rs", "a.rs:3 b.rs", "a.rs:3 b/inner.rs", "a.rs:4 b.rs"]);
    }

    #[test]
    fn a_parent_that_uses_what_it_hands_on_has_an_arrow() {
        let files =
            [("lib.rs", "mod a;"), ("a.rs", "mod b;\npub use b::T;\nfn f(t: T) {}"), ("a/b.rs", "pub struct T;")];
        assert_eq!(arrows(&files), ["a.rs:3 a/b.rs"]);
    }

    #[test]
    fn other_crates_visibility_attributes_and_tests_make_no_arrow() {
        let files = [
            ("lib.rs", "mod a; mod der; mod tests;"),
            (
                "a.rs",
                "use der::Any; use ::der::Other;\n#[serde(with = \"crate::der\")]\npub(in crate::der) struct S;\n\
                 #[cfg(test)] use crate::der::X;\n#[cfg(all(test, unix))] mod tests;\n\
                 impl S { #[cfg(test)] fn t() { crate::der::x() } }",
            ),
            ("der.rs", "pub struct Any;"),
            ("tests.rs", "use crate::a::S;"),
        ];
        assert!(arrows(&files).is_empty(), "{:?}", arrows(&files));
        let kept = [
            ("lib.rs", "mod a; #[cfg(any(test, feature = \"sim\"))] mod b;"),
            ("a.rs", "pub fn f() {}"),
            ("b.rs", "use crate::a::f;"),
        ];
        assert_eq!(arrows(&kept), ["b.rs:1 a.rs"]);
    }

    #[test]
    fn a_module_without_a_file_fails() {
        assert!(read_crate(&|name| (name == "lib.rs").then(|| "mod a;".to_owned())).is_err());
    }
}
