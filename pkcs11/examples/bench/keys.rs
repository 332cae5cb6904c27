//! Searches in a token with many keys, of which some have the labels `label 0`, `label 1` and so on.

use std::time::{Duration, Instant};

use casemate_api::KeyId;
use casemate_client::{KeyFilter, Session as Server};
use cryptoki::object::{Attribute, ObjectClass};
use cryptoki::session::Session;

pub(crate) fn measure(address: &str, pin: &str, finds: usize) {
    let server = crate::client(address, pin);
    let begun = Instant::now();
    let ids: Vec<_> = server.keys().list(&KeyFilter::default()).unwrap().into_iter().map(|item| item.id).collect();
    let listed = begun.elapsed();
    let sample: Vec<KeyId> =
        ids.iter().step_by(ids.len() / finds).take(finds).map(|id| KeyId::parse(id).unwrap()).collect();
    let module = crate::module();
    let (_, session) = crate::logged_in(&module, pin);
    one(&session, Attribute::Label(b"to connect".to_vec()));
    let empty = crate::rss_kib();

    let by_id = |key: &KeyId| timed(|| found(one(&session, Attribute::Id(key.as_str().into()))));
    let read = |key: &KeyId| timed(|| drop(server.keys().read(key).unwrap()));
    let (times, alone) = beside(&sample, by_id, read);
    print("a key by `CKA_ID`, beside `GET /keys/{key}` by the client", times, alone);

    let labels: Vec<String> = (0..finds).map(|number| format!("label {number}")).collect();
    let by_label = |label: &String| timed(|| found(one(&session, Attribute::Label(label.as_bytes().to_vec()))));
    let asked = |label: &String| timed(|| has_label(&server, label));
    let (times, alone) = beside(&labels, by_label, asked);
    print("a key by `CKA_LABEL`, beside `GET /keys?label=` and reading that key", times, alone);

    let all = |session: &Session| {
        let begun = Instant::now();
        let handles = session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)]).unwrap();
        (handles.len(), begun.elapsed())
    };
    let (count, first) = all(&session);
    assert!(count >= ids.len(), "{count} of {} keys were found", ids.len());
    println!(
        "| all {count} private keys, first search; the client lists their ids alone in {listed:.1?} | {first:.1?} |"
    );
    let used = crate::rss_kib();
    println!("| the same again | {:.1?} |", all(&session).1);
    let per_key = used.saturating_sub(empty) * 1024 / count as u64;
    println!(
        "| memory of the process (RSS): before, with all keys | {:.1} MiB, {:.1} MiB: {per_key} bytes a key |",
        empty as f64 / 1024.0,
        used as f64 / 1024.0
    );
}

/// How many private keys have this attribute.
fn one(session: &Session, attribute: Attribute) -> usize {
    session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY), attribute]).unwrap().len()
}

fn found(count: usize) {
    assert_eq!(count, 1, "not found, or more than one");
}

fn has_label(server: &Server, label: &str) {
    let filter = KeyFilter { label: Some(label.to_owned()), ..KeyFilter::default() };
    let items = server.keys().list(&filter).unwrap();
    found(items.len());
    for item in items {
        server.keys().read(&KeyId::parse(&item.id).unwrap()).unwrap();
    }
}

fn timed(run: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    run();
    begun.elapsed()
}

/// The times of both, which take turns; the client goes first, so that the server has read the key when the module asks.
fn beside<T>(
    items: &[T],
    module: impl Fn(&T) -> Duration,
    client: impl Fn(&T) -> Duration,
) -> (Vec<Duration>, Vec<Duration>) {
    items.iter().map(|item| (client(item), module(item))).map(|(client, module)| (module, client)).unzip()
}

fn print(what: &str, module: Vec<Duration>, client: Vec<Duration>) {
    let (module, most) = crate::median(module);
    let (client, _) = crate::median(client);
    let beyond = module.saturating_sub(client);
    println!("| {what} | {module:.2?} (nine of ten within {most:.2?}); {client:.2?}: {beyond:.2?} beyond it |");
}
