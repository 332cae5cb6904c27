//! The rooms of the core: `core/src/<room>/`, and which room may use which.
//!
//! An arrow goes from the file that uses a thing to the file that defines it, also through re-exports ([`arrows`]). Arrows
//! between rooms follow the table; there is no circle between rooms, and none between the files of a room unless the table
//! names the arrow that closes it. `cargo xtask tidy --rooms` prints all arrows and all circles.

mod arrows;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::Result;

use crate::metadata;
use arrows::{Arrow, Crate};

/// A room and what it may use.
struct Room {
    /// Its folder in `core/src`, or its file without `.rs`.
    name: &'static str,
    /// The other rooms it may use.
    may_use: &'static [&'static str],
    /// Arrows between two files of this room, relative to `core/src`, that may close a circle.
    circles: &'static [(&'static str, &'static str)],
}

/// What may use what. `lib.rs` may use everything and is used by nothing.
const ROOMS: &[Room] = &[
    Room { name: "error", may_use: &[], circles: &[] },
    Room { name: "runtime", may_use: &["error"], circles: &[] },
    Room { name: "store", may_use: &["error", "runtime"], circles: &[] },
    Room { name: "crypto", may_use: &["error", "runtime"], circles: &[] },
    Room { name: "rows", may_use: &["crypto", "error", "runtime", "store"], circles: &[] },
    Room { name: "platform", may_use: &["crypto", "rows", "runtime", "store"], circles: &[] },
    Room { name: "device", may_use: &["crypto", "error", "platform", "rows", "runtime", "store"], circles: &[] },
    Room {
        name: "identity",
        may_use: &["crypto", "device", "error", "platform", "rows", "runtime", "store"],
        circles: &[],
    },
    Room {
        name: "keys",
        may_use: &["crypto", "device", "error", "identity", "rows", "runtime", "store"],
        circles: &[],
    },
    Room {
        name: "audit",
        may_use: &["crypto", "device", "error", "rows", "runtime", "store"],
        circles: &[("audit/chain.rs", "audit/mod.rs")],
    },
    Room {
        name: "config",
        may_use: &["crypto", "device", "error", "identity", "platform", "rows", "runtime", "store"],
        circles: &[],
    },
    Room {
        name: "backup",
        may_use: &["config", "crypto", "device", "error", "identity", "keys", "platform", "rows", "runtime", "store"],
        circles: &[],
    },
    Room {
        name: "hsm",
        may_use: &[
            "audit", "backup", "config", "crypto", "device", "error", "identity", "keys", "platform", "rows",
            "runtime", "store",
        ],
        circles: &[],
    },
    Room { name: "sim", may_use: &["crypto", "error", "platform", "rows", "runtime", "store"], circles: &[] },
];

/// Modules of `core/src/lib.rs` that are in no room yet and are not checked. This list may only shrink.
const LOOSE: &[&str] = &[];

/// The folder of the rooms.
const SOURCE: &str = "core/src";

/// The root of the crate, which is not a room.
const ROOT: &str = "lib";

/// Violations of the table in `core/src`, one sentence each.
pub(crate) fn broken() -> Result<Vec<String>> {
    Ok(judge(&core()?, ROOMS, LOOSE))
}

/// Prints the arrows between rooms, those between the files of each room, and every circle of either.
pub(crate) fn print() -> Result<()> {
    let core = core()?;
    println!("Arrows between rooms, with the number of places");
    print_graph(&by_ends(core.arrows.iter(), |file| room_of(file).to_owned()));
    for room in core.files.iter().map(|file| room_of(file)).collect::<BTreeSet<_>>() {
        let inside = by_ends(core.arrows.iter().filter(|arrow| is_within(arrow, room)), str::to_owned);
        if !inside.is_empty() {
            println!("\nArrows between the files of {room}");
            print_graph(&inside);
        }
    }
    Ok(())
}

fn print_graph(graph: &Graph<'_>) {
    for node in graph.keys().map(|(from, _)| from).collect::<BTreeSet<_>>() {
        let ends = graph.iter().filter(|((from, to), _)| from == node && to != node);
        let ends: Vec<String> = ends.map(|((_, to), arrows)| format!("{to} {}", arrows.len())).collect();
        if !ends.is_empty() {
            println!("  {node} -> {}", ends.join(", "));
        }
    }
    print_circles(graph);
}

/// The circles of a graph, and every arrow that is part of one.
fn print_circles(graph: &Graph<'_>) {
    for circle in circles(graph) {
        println!("  circle: {}", circle.iter().copied().collect::<Vec<_>>().join(", "));
        for ((from, to), arrows) in graph {
            if from != to && circle.contains(from.as_str()) && circle.contains(to.as_str()) {
                println!("    {from} -> {to}");
                for arrow in arrows {
                    println!("      {SOURCE}/{}:{}: {}", arrow.from, arrow.line, arrow.path);
                }
            }
        }
    }
}

fn core() -> Result<Crate> {
    let source = metadata::root().join(SOURCE);
    arrows::read_crate(&|file| fs::read_to_string(source.join(file)).ok())
}

fn judge(found: &Crate, rooms: &[Room], loose: &[&str]) -> Vec<String> {
    let mut broken = Vec::new();
    let there: BTreeSet<&str> = found.files.iter().map(|file| room_of(file)).filter(|room| *room != ROOT).collect();
    let room = |name: &str| rooms.iter().find(|room| room.name == name);
    for name in &there {
        if room(name).is_some() == loose.contains(name) {
            broken.push(format!("{SOURCE}/{name} must be in one list of xtask/src/rooms.rs, with what it may use"));
        }
    }
    for name in rooms.iter().map(|room| &room.name).chain(loose).filter(|name| !there.contains(*name)) {
        broken.push(format!("{SOURCE}/{name} is in a list of xtask/src/rooms.rs but does not exist"));
    }

    let strict: Vec<&Arrow> = found
        .arrows
        .iter()
        .filter(|arrow| room(room_of(&arrow.from)).is_some() && !loose.contains(&room_of(&arrow.to)))
        .collect();
    for ((from, to), arrows) in by_ends(strict.iter().copied(), str::to_owned) {
        let (from, to) = (room_of(&from), room_of(&to));
        if from != to && !room(from).is_some_and(|room| room.may_use.contains(&to)) {
            broken.push(format!("{}: {from} may not use {to}", places(&arrows)));
        }
    }
    let between = by_ends(strict.iter().copied(), |file| room_of(file).to_owned());
    broken.extend(circles(&between).iter().map(|circle| format!("circle between rooms: {}", walk(&between, circle))));

    for room in rooms {
        let inside = strict.iter().copied().filter(|arrow| is_within(arrow, room.name));
        let mut inside = by_ends(inside, str::to_owned);
        for (from, to) in room.circles {
            if inside.remove(&((*from).to_owned(), (*to).to_owned())).is_none() {
                broken.push(format!("xtask/src/rooms.rs allows an arrow that does not exist: {from} -> {to}"));
            }
        }
        let files = circles(&inside);
        broken.extend(files.iter().map(|circle| format!("circle in {}: {}", room.name, walk(&inside, circle))));
    }
    broken
}

/// `keys/mod.rs` and `keys.rs` are in the room `keys`.
fn room_of(file: &str) -> &str {
    file.split('/').next().map_or(file, |first| first.strip_suffix(".rs").unwrap_or(first))
}

fn is_within(arrow: &Arrow, room: &str) -> bool {
    room_of(&arrow.from) == room && room_of(&arrow.to) == room
}

/// Arrows by their ends.
type Graph<'a> = BTreeMap<(String, String), Vec<&'a Arrow>>;

fn by_ends<'a>(arrows: impl Iterator<Item = &'a Arrow>, node: impl Fn(&str) -> String) -> Graph<'a> {
    let mut graph = Graph::new();
    for arrow in arrows {
        graph.entry((node(&arrow.from), node(&arrow.to))).or_default().push(arrow);
    }
    graph
}

/// Sets of nodes that reach each other, in order. Graphs are small: reachability is computed from every node.
fn circles<'a>(graph: &'a Graph<'_>) -> BTreeSet<BTreeSet<&'a str>> {
    let reach: BTreeMap<&str, BTreeSet<&str>> =
        graph.keys().map(|(from, _)| (from.as_str(), reachable(graph, from))).collect();
    let reaches = |from: &str, to: &str| reach.get(from).is_some_and(|reach| reach.contains(to));
    reach
        .iter()
        .filter(|(node, reach)| reach.contains(*node))
        .map(|(node, reach)| reach.iter().copied().filter(|other| reaches(other, node)).collect())
        .collect()
}

fn reachable<'a>(graph: &'a Graph<'_>, from: &'a str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut next = vec![from];
    while let Some(node) = next.pop() {
        let ends = graph.keys().filter(|(from, to)| from == node && from != to);
        next.extend(ends.map(|(_, to)| to.as_str()).filter(|to| found.insert(*to)));
    }
    found
}

/// One shortest path around `circle`, with the position of every arrow.
fn walk(graph: &Graph<'_>, circle: &BTreeSet<&str>) -> String {
    let Some(start) = circle.first().copied() else { return String::new() };
    let mut ways: Vec<Vec<&str>> = vec![vec![start]];
    let mut seen = BTreeSet::new();
    // Breadth first. Every node of a circle leads back to the first, so this ends.
    let way = 'found: loop {
        let mut longer = Vec::new();
        for way in &ways {
            let Some(last) = way.last() else { continue };
            for (_, to) in graph.keys().filter(|(from, to)| from == last && from != to) {
                if to == start {
                    break 'found way.clone();
                }
                if circle.contains(to.as_str()) && seen.insert(to) {
                    longer.push(way.iter().copied().chain([to.as_str()]).collect());
                }
            }
        }
        if longer.is_empty() {
            return String::new();
        }
        ways = longer;
    };
    let ends = way.iter().copied().skip(1).chain([start]);
    let steps = way.iter().zip(ends).map(|(from, to)| {
        let arrows = graph.get(&((*from).to_owned(), to.to_owned())).map(Vec::as_slice).unwrap_or_default();
        format!("{from} -> {to} ({})", places(arrows))
    });
    let others = circle.len() - way.len();
    let rest = if others > 0 { format!(", and {others} more in the same circle") } else { String::new() };
    format!("{}{rest}", steps.collect::<Vec<_>>().join(", "))
}

/// The first of some arrows, and how many more there are.
fn places(arrows: &[&Arrow]) -> String {
    let Some(first) = arrows.first() else { return String::new() };
    let rest = if arrows.len() > 1 { format!(", {} more", arrows.len() - 1) } else { String::new() };
    format!("{SOURCE}/{}:{}: {}{rest}", first.from, first.line, first.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Crate {
        let read = |name: &str| files.iter().find(|(file, _)| *file == name).map(|(_, source)| (*source).to_owned());
        arrows::read_crate(&read).unwrap()
    }

    const fn room(name: &'static str, may_use: &'static [&'static str]) -> Room {
        Room { name, may_use, circles: &[] }
    }

    #[test]
    fn an_arrow_against_the_table_is_found_with_its_place() {
        let files = read(&[("lib.rs", "mod a; mod b;"), ("a/mod.rs", "pub struct A;"), ("b.rs", "\nuse crate::a::A;")]);
        let rooms = [room("a", &[]), room("b", &[])];
        assert_eq!(judge(&files, &rooms, &[]), ["core/src/b.rs:2: crate::a::A: b may not use a"]);
        assert!(judge(&files, &[room("a", &[]), room("b", &["a"])], &[]).is_empty());
        assert!(judge(&files, &[room("b", &[])], &["a"]).is_empty());
    }

    #[test]
    fn a_circle_through_a_re_export_is_found() {
        // Nothing in `a` names `c`, and nothing in `b` does either but its re-export.
        let files = read(&[
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a/mod.rs", "use crate::b::C;\npub struct A;"),
            ("b/mod.rs", "pub use crate::c::C;"),
            ("c/mod.rs", "use crate::a::A;\npub struct C;"),
        ]);
        let rooms = [room("a", &["b", "c"]), room("b", &["c"]), room("c", &["a"])];
        let broken = judge(&files, &rooms, &[]);
        assert_eq!(
            broken,
            [
                "circle between rooms: a -> c (core/src/a/mod.rs:1: crate::b::C), c -> a (core/src/c/mod.rs:1: crate::a::A)"
            ]
        );
    }

    #[test]
    fn a_circle_between_files_is_found_unless_the_table_names_it() {
        let files = read(&[
            ("lib.rs", "mod a;"),
            ("a/mod.rs", "mod x; mod y; mod z;\npub use x::X;"),
            ("a/x.rs", "use super::y::Y;\npub struct X;"),
            ("a/y.rs", "use super::z::Z;\npub struct Y;"),
            ("a/z.rs", "use super::X;\npub struct Z;"),
        ]);
        let broken = judge(&files, &[room("a", &[])], &[]);
        assert_eq!(broken.len(), 1, "{broken:?}");
        assert!(broken[0].starts_with("circle in a: a/x.rs -> a/y.rs (core/src/a/x.rs:1: "), "{broken:?}");
        assert!(broken[0].contains("a/z.rs -> a/x.rs (core/src/a/z.rs:1: super::X)"), "{broken:?}");
        let allowed = Room { name: "a", may_use: &[], circles: &[("a/z.rs", "a/x.rs")] };
        assert!(judge(&files, &[allowed], &[]).is_empty());
        let needless = Room { name: "a", may_use: &[], circles: &[("a/z.rs", "a/x.rs"), ("a/x.rs", "a/z.rs")] };
        assert_eq!(judge(&files, &[needless], &[]).len(), 1);
    }

    #[test]
    fn a_room_is_in_one_list() {
        let files = read(&[("lib.rs", "mod a; pub use a::A;"), ("a.rs", "pub struct A;")]);
        assert!(judge(&files, &[room("a", &[])], &[]).is_empty());
        assert!(judge(&files, &[], &["a"]).is_empty());
        for (rooms, loose) in [(&[][..], &[][..]), (&[room("a", &[])], &["a"]), (&[], &["a", "b"])] {
            assert_eq!(judge(&files, rooms, loose).len(), 1);
        }
    }
}
