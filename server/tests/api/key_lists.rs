//! Lists of keys with details, and lists in pages.

use casemate_api::KeyType;
use casemate_api::mechanisms::TABLE;
use casemate_core::runtime::stall::begun;
use serde_json::{Value, json};

use crate::keys::generic;
use crate::rig::{Client, Rig, ed25519, sign_something};
use crate::wire::Reply;

/// Creates a key of each type, one of them with a label, tags and a certificate.
fn with_all_types(rig: &Rig) {
    for key_type in KeyType::ALL {
        let mechanisms: Vec<_> = TABLE.iter().filter(|row| row.key == key_type).map(|row| row.mechanism).collect();
        let id = key_type.as_str().replace('_', "-");
        let length = if key_type == KeyType::RSA { 1024 } else { 256 };
        let body = json!({"mechanisms": mechanisms, "type": key_type, "length": length, "id": id});
        rig.admin().post("/keys/generate", body).is(201);
    }
    let admin = rig.admin();
    admin.put("/keys/RSA/label", json!({"label": "eine \"Äußerung\""})).is(204);
    admin.put("/keys/RSA/restrictions/tags/t", "").is(204);
    admin.put("/keys/RSA/restrictions/tags/u", "").is(204);
    admin.content_type("application/octet-stream").put("/keys/RSA/cert", "a certificate").is(201);
}

/// What the list with details must show of a key, from what is shown of it alone.
fn alone(client: &Client<'_>, id: &str) -> Value {
    let mut key = client.get(&format!("/keys/{id}")).is(200).json();
    let members = key.as_object_mut().unwrap();
    members.remove("operations").unwrap();
    members.insert("id".into(), id.into());
    let certificate = client.clone().header("accept", "application/octet-stream").get(&format!("/keys/{id}/cert"));
    members.insert("certificate".into(), (certificate.status == 200).into());
    key
}

fn ids(reply: &Reply) -> Vec<String> {
    reply.json().as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
}

fn tag(reply: &Reply) -> String {
    reply.header("etag").unwrap().to_owned()
}

/// Where the next page is, behind the path.
fn next(reply: &Reply) -> Option<String> {
    let link = reply.header("link")?;
    Some(link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned())
}

/// The pages from `path` on, as the references lead to them.
fn pages(client: &Client<'_>, resource: &str, query: &str) -> Vec<Vec<String>> {
    let (mut pages, mut query) = (Vec::new(), query.to_owned());
    loop {
        let reply = client.get(&format!("{resource}{query}")).is(200);
        pages.push(ids(&reply));
        let Some(next) = next(&reply) else { return pages };
        query = next;
        assert!(pages.len() < 100, "{query}");
    }
}

#[test]
fn details_show_of_each_key_what_get_shows_of_it_to_the_same_caller() {
    let mut rig = Rig::operational();
    with_all_types(&rig);
    rig.operator().post("/keys/k/sign", sign_something()).is(200);
    let check = |user: &str, rig: &Rig| {
        let client = rig.user(user);
        let list = client.get("/keys?details").is(200);
        assert_eq!((list.header("etag"), list.header("link")), (None, None));
        assert_eq!(ids(&list), ids(&client.get("/keys").is(200)));
        let all: Vec<_> = ids(&list).iter().map(|id| alone(&client, id)).collect();
        assert_eq!(list.json(), Value::Array(all), "{user}");
        let page = client.get("/keys?details&limit=1000").is(200);
        assert_eq!((page.text(), page.header("link")), (list.text(), None));
        list.json()
    };
    let seen = check("admin", &rig);
    assert_eq!(seen.as_array().unwrap().len(), KeyType::ALL.len() + 1);
    assert_eq!(check("operator", &rig), seen);
    let [rsa] = &seen.as_array().unwrap().iter().filter(|key| key["id"] == "RSA").collect::<Vec<_>>()[..] else {
        panic!("{seen}")
    };
    assert_eq!(rsa["restrictions"], json!({"tags": ["t", "u"]}));
    assert_eq!((&rsa["label"], &rsa["certificate"]), (&json!("eine \"Äußerung\""), &json!(true)));
    // The keys of a namespace are those of its users alone.
    rig.user("ns1~admin").put("/keys/inside", ed25519()).is(204);
    let inside = check("ns1~operator", &rig);
    assert_eq!(ids(&rig.user("ns1~operator").get("/keys?details").is(200)), ["inside", "k"]);
    assert!(seen.as_array().unwrap().iter().all(|key| key["uid"] != inside[1]["uid"]), "{inside}");
    assert_eq!(check("admin", &rig), seen);
    for user in ["metrics", "backup"] {
        rig.user(user).get("/keys?details").is(403);
    }
    rig.anonymous().get("/keys?details").is(401);
    // And the same if no key is in a cache.
    rig.reboot();
    rig.unlock().is(204);
    assert_eq!(rig.admin().get("/keys?details").is(200).json(), seen);
    assert_eq!(check("operator", &rig), seen);
}

#[test]
fn the_uid_of_a_key_stays_when_it_is_renamed_and_is_not_given_again() {
    let rig = Rig::operational();
    let uid = |id: &str| rig.admin().get(&format!("/keys/{id}")).is(200).json()["uid"].as_str().unwrap().to_owned();
    let first = uid("k");
    assert_eq!(first.len(), 32);
    assert!(first.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase()), "{first}");
    rig.admin().post("/keys/k/move", json!({"newId": "l"})).is(200);
    rig.admin().put("/keys/l/label", json!({"label": "new"})).is(204);
    assert_eq!(uid("l"), first);
    rig.admin().put("/keys/k", ed25519()).is(204);
    assert_ne!(uid("k"), first);
    rig.admin().delete("/keys/l").is(204);
    rig.admin().put("/keys/l", ed25519()).is(204);
    assert_ne!(uid("l"), first);
}

#[test]
fn pages_together_are_the_list() {
    let rig = Rig::operational();
    let admin = rig.admin();
    for n in 0..70 {
        let mut key = ed25519();
        key["label"] = if n % 10 == 3 { "third".into() } else { format!("number {n}").into() };
        key["restrictions"] = if n < 35 { json!({"tags": ["secret"]}) } else { json!({}) };
        admin.put(&format!("/keys/p{n:02}"), key).is(204);
    }
    let all = ids(&admin.get("/keys").is(200));
    assert_eq!(all.len(), 71);
    for details in ["", "&details"] {
        for limit in [1, 2, 31, 32, 33, 64, 70, 71, 1000] {
            let pages = pages(&admin, "/keys", &format!("?limit={limit}{details}"));
            let wanted: Vec<_> = all.chunks(limit).map(<[_]>::to_vec).collect();
            assert_eq!(pages, wanted, "{limit}{details}");
        }
        let list = |user: &str, path: &str| pages(&rig.user(user), path, &format!("?limit=3&{details}"));
        assert_eq!(list("admin", "/keys/p0*").concat(), all[1..11]);
        let thirds: Vec<_> = (0..7).map(|n| format!("p{n}3")).collect();
        assert_eq!(pages(&admin, "/keys", &format!("?limit=3&label=third{details}")).concat(), thirds);
        let usable = pages(&rig.operator(), "/keys", &format!("?filter&limit=9{details}"));
        assert_eq!(usable.concat(), [&all[..1], &all[36..]].concat());
        assert!(usable.iter().all(|page| page.len() <= 9));
        let both = pages(&rig.operator(), "/keys", &format!("?filter=x{details}&limit=2&label=third"));
        assert_eq!(both.concat(), ["p43", "p53", "p63"]);
        // Without a limit, and after ids that are not there.
        let after = |path: &str| ids(&admin.get(&format!("{path}{details}")).is(200));
        assert_eq!(after("/keys?after=p67"), ["p68", "p69"]);
        assert_eq!(after("/keys?after=p67x"), ["p68", "p69"]);
        assert_eq!(after("/keys?after=%700&label=third"), thirds);
        assert_eq!(after("/keys?after=zzz"), Vec::<String>::new());
        assert_eq!(after("/keys/p6*?after=p67"), ["p68", "p69"]);
        assert_eq!(after("/keys/p0*?after=k"), all[1..11], "an id before all with the prefix");
        assert_eq!(after("/keys/p0*?after=p1"), Vec::<String>::new(), "an id behind all with the prefix");
    }
}

#[test]
fn what_cannot_be_a_page_is_refused() {
    let rig = Rig::operational();
    for limit in ["", "0", "1001", "-1", "%2B1", "+1", "1.5", "ten", "18446744073709551617"] {
        for path in ["/keys?", "/keys?details&", "/keys/k*?"] {
            let reply = rig.admin().get(&format!("{path}limit={limit}"));
            reply.is(400).says("limit must be a number of keys from 1 to 1000.");
        }
    }
    for after in ["", "-", "%ff", "a/b", "ns1~k"] {
        let reply = rig.admin().get(&format!("/keys?after={after}")).is(400);
        assert!(reply.message().starts_with("after must be the id of a key: "), "{reply}");
    }
}

#[test]
fn the_etag_of_a_page_is_another_when_something_of_the_page_is() {
    let rig = Rig::operational();
    let admin = rig.admin();
    for id in ["a", "b", "c"] {
        admin.put(&format!("/keys/{id}"), ed25519()).is(204);
    }
    let octets = || admin.clone().content_type("application/octet-stream");
    let read = |query: &str| rig.operator().get(&format!("/keys?limit=3{query}")).is(200);
    let both = || (tag(&read("")), tag(&read("&details")));
    let unchanged = |tag: &str, query: &str| {
        let reply = rig.operator().header("if-none-match", tag).get(&format!("/keys?limit=3{query}"));
        reply.status == 304
    };
    let mut before = both();
    assert_ne!(before.0, before.1);
    assert_eq!(before, both());
    for (tag, query) in [(&before.0, ""), (&before.1, "&details")] {
        let reply = rig.operator().header("if-none-match", tag).get(&format!("/keys?limit=3{query}")).is(304);
        assert_eq!((reply.header("etag"), reply.body.len()), (None, 0));
        rig.operator().header("if-match", tag).get(&format!("/keys?limit=3{query}")).is(200);
        rig.operator().header("if-match", "\"x\"").get(&format!("/keys?limit=3{query}")).is(412);
    }
    // Uses are no details.
    rig.operator().post("/keys/k/sign", sign_something()).is(200);
    assert!(unchanged(&before.1, "&details"));

    let mut changes = |what: &str, ids: bool, details: bool| {
        let after = both();
        assert_eq!((before.0 != after.0, before.1 != after.1), (ids, details), "{what}");
        assert_eq!((unchanged(&before.0, ""), unchanged(&before.1, "&details")), (!ids, !details), "{what}");
        before = after;
    };
    admin.put("/keys/a/label", json!({"label": "l"})).is(204);
    changes("label", false, true);
    admin.put("/keys/a/restrictions/tags/t", "").is(204);
    changes("tag", false, true);
    octets().put("/keys/b/cert", "certificate").is(201);
    changes("certificate", false, true);
    octets().delete("/keys/b/cert").is(204);
    changes("no certificate", false, true);
    admin.post("/keys/b/move", json!({"newId": "b2"})).is(200);
    changes("rename", true, true);
    admin.delete("/keys/c").is(204);
    admin.put("/keys/c", generic(&[], b"other")).is(204);
    changes("another key of the same id", false, true);
    admin.put("/keys/x", ed25519()).is(204);
    changes("a key of the next page, which there was already", false, false);
    admin.delete("/keys/x").is(204);
    admin.delete("/keys/k").is(204);
    changes("no next page any more", true, true);
    admin.put("/keys/y", ed25519()).is(204);
    changes("a next page", true, true);
}

#[test]
fn no_public_key_is_derived_on_a_serving_thread() {
    let rig = Rig::operational();
    with_all_types(&rig);
    let before = begun().get("deriving public keys").copied().unwrap_or_default();
    rig.admin().get("/keys?details").is(200);
    rig.admin().get("/keys?details&limit=5").is(200);
    let after = begun()["deriving public keys"];
    assert!(after.elsewhere > before.elsewhere);
    assert_eq!(after.serving, 0);
}

/// A page that has nothing ends where the HSM has looked far enough, which is elsewhere when there are more keys.
#[test]
fn a_page_is_another_when_the_next_one_begins_elsewhere() {
    let rig = Rig::operational();
    let admin = rig.admin();
    admin.delete("/keys/k").is(204);
    let create = |ids: std::ops::Range<u32>, letter: &str| {
        for n in ids {
            let mut key = generic(&[], b"key");
            key["label"] = "unwanted".into();
            admin.put(&format!("/keys/{letter}{n:04}"), key).is(204);
        }
    };
    create(0..1_100, "m");
    // Keys without a label are looked for among all.
    let first = "/keys?limit=10&label=";
    let page = admin.get(first).is(200);
    let next = next(&page).unwrap();
    let known =
        [(first.to_owned(), tag(&page)), (format!("/keys{next}"), tag(&admin.get(&format!("/keys{next}")).is(200)))];
    create(0..200, "a");
    admin.delete("/keys/m0900/label").is(204);
    let replies = known.map(|(path, tag)| admin.clone().header("if-none-match", &tag).get(&path));
    assert!(replies.iter().any(|reply| reply.status == 200), "m0900 is on neither page, and one begins elsewhere");
    let unchanged = admin.clone().header("if-none-match", &tag(&admin.get(first))).get(first).is(304);
    assert!(unchanged.header("link").is_some(), "{unchanged}");
    assert_eq!(pages(&admin, "/keys", "?limit=10&label=").concat(), ["m0900"]);
}

#[test]
fn keys_are_found_by_label_by_its_beginning_and_by_uid() {
    let rig = Rig::operational();
    let admin = rig.admin();
    admin.delete("/keys/k").is(204);
    let labels =
        [("a", "web"), ("b", "web*"), ("c", "web server"), ("d", "Web"), ("e", "wéb"), ("f", ""), ("g", "web server")];
    for (id, label) in labels {
        let mut key = generic(&[], b"key");
        key["label"] = label.into();
        key["restrictions"] = json!({"tags": ["t"]});
        admin.put(&format!("/keys/{id}"), key).is(204);
    }
    admin.put("/users/operator/tags/t", "").is(204);
    let found = |client: &Client<'_>, query: &str| ids(&client.get(&format!("/keys{query}")).is(200)).concat();
    for (query, expected) in [
        ("?label=web", "a"),
        ("?label=web*", "abcg"),
        // As it is written by clients that know no beginnings.
        ("?label=web%2A", "b"),
        ("?label=web%2A*", "b"),
        ("?label=w*", "abceg"),
        ("?label=w%C3%A9*", "e"),
        ("?label=web+server", "cg"),
        ("?label=web%20s*", "cg"),
        ("?label=nobody", ""),
        ("?label=nobody*", ""),
        ("?label=", "f"),
        ("?label=*", "abcdefg"),
        ("/c*?label=web*", "c"),
        ("?label=web*&after=b", "cg"),
        ("?label=web*&filter=true", "abcg"),
        ("?label=web*&details", "abcg"),
    ] {
        assert_eq!(found(&admin, query), expected, "{query}");
        assert_eq!(found(&rig.operator(), query), expected, "{query}, for an Operator");
    }
    admin.get("/keys?label=%C3*").is(400);
    admin.delete("/users/operator/tags/t").is(204);
    assert_eq!(found(&rig.operator(), "?label=web*&filter=true"), "", "filters hold for what a search finds, too");
    assert_eq!(pages(&admin, "/keys", "?limit=3&label=web*"), [vec!["a", "b", "c"], vec!["g"]]);

    let uid = |id: &str| admin.get(&format!("/keys/{id}")).is(200).json()["uid"].as_str().unwrap().to_owned();
    let (a, c) = (uid("a"), uid("c"));
    assert_eq!(found(&admin, &format!("?uid={a}")), "a");
    assert_eq!(found(&admin, &format!("?uid={}", a.to_uppercase())), "a");
    assert_eq!(found(&admin, &format!("?details&uid={c}&label=web*")), "c");
    assert_eq!(found(&admin, &format!("?uid={c}&label=web")), "");
    assert_eq!(found(&admin, &format!("?uid={}", "0".repeat(32))), "");
    for wrong in ["", "0", "zz", &a[1..], &format!("{a}0"), &"é".repeat(16)] {
        let refused = admin.get(&format!("/keys?uid={wrong}")).is(400).json();
        assert_eq!(refused["message"], "uid must be 32 hexadecimal digits.", "{wrong}");
    }
    // They follow every change.
    admin.post("/keys/a/move", json!({"newId": "z"})).is(200);
    admin.put("/keys/c/label", json!({"label": "mail"})).is(204);
    admin.delete("/keys/g").is(204);
    assert_eq!(found(&admin, &format!("?uid={a}")), "z");
    assert_eq!(found(&admin, "?label=web*"), "bz");
    assert_eq!(found(&admin, "?label=mail"), "c");
    // Another namespace sees nothing of them.
    let other = rig.user("ns1~admin");
    assert_eq!(found(&other, &format!("?uid={a}")), "");
    assert_eq!(found(&other, "?label=web*"), "");
}

/// Whoever names the uid never meets another key that has got the id.
#[test]
fn a_request_for_the_key_of_a_uid_does_not_touch_another_key() {
    let rig = Rig::operational();
    let (admin, operator) = (rig.admin(), rig.operator());
    let uid = || admin.get("/keys/k").is(200).json()["uid"].as_str().unwrap().to_owned();
    let first = uid();
    operator.post(&format!("/keys/k/sign?uid={first}"), sign_something()).is(200);
    admin.get(&format!("/keys/k?uid={first}")).is(200);
    admin.delete("/keys/k").is(204);
    admin.put("/keys/k", ed25519()).is(204);
    admin.clone().content_type("application/octet-stream").put("/keys/k/cert", "a certificate").is(201);
    admin.put("/keys/k/label", json!({"label": "l"})).is(204);
    let second = uid();
    assert_ne!(first, second);
    let before = admin.get("/keys/k").is(200).body;

    operator.post(&format!("/keys/k/sign?uid={first}"), sign_something()).is(404);
    operator.get(&format!("/keys/k?uid={first}")).is(404);
    admin.post(&format!("/keys/k/csr.pem?uid={first}"), json!({"commonName": "k"})).is(404);
    admin.post(&format!("/keys/k/move?uid={first}"), json!({"newId": "m"})).is(404);
    admin.delete(&format!("/keys/k/label?uid={first}")).is(404);
    admin.clone().content_type("application/octet-stream").delete(&format!("/keys/k/cert?uid={first}")).is(404);
    admin.delete(&format!("/keys/k?uid={first}")).is(404);
    assert_eq!(admin.get("/keys/k").is(200).body, before);
    admin.delete("/keys/k?uid=1").is(400);

    operator.post(&format!("/keys/k/sign?uid={second}"), sign_something()).is(200);
    admin.clone().content_type("application/octet-stream").delete(&format!("/keys/k/cert?uid={second}")).is(204);
    admin.post(&format!("/keys/k/move?uid={second}"), json!({"newId": "m"})).is(200);
    admin.delete(&format!("/keys/m?uid={second}")).is(204);
}

/// More keys than a search looks at.
#[test]
fn a_label_that_very_many_keys_have_finds_them_all() {
    let rig = Rig::operational();
    let admin = rig.admin();
    for n in 0..1_050 {
        let mut key = generic(&[], b"key");
        key["label"] = if n == 700 { "web 2" } else { "web 1" }.into();
        admin.put(&format!("/keys/k{n:04}"), key).is(204);
    }
    for (query, expected) in [("?label=web+1", 1_049), ("?label=web*", 1_050), ("?label=web+2", 1)] {
        assert_eq!(ids(&admin.get(&format!("/keys{query}")).is(200)).len(), expected, "{query}");
    }
    assert_eq!(pages(&admin, "/keys", "?limit=1000&label=web+1").concat().len(), 1_049);
}

#[test]
fn the_reference_to_the_next_page_has_the_query_however_it_was_written() {
    let rig = Rig::operational();
    for id in ["a", "b"] {
        let mut key = ed25519();
        key["label"] = "café".into();
        rig.admin().put(&format!("/keys/{id}"), key).is(204);
    }
    for label in ["café", "caf%C3%A9"] {
        let found = pages(&rig.admin(), "/keys", &format!("?limit=1&label={label}"));
        assert_eq!(found.concat(), ["a", "b"], "{label}");
        // A reference is ASCII (RFC 3986 §2): clients take anything else for no header, or read it as Latin-1.
        let page = rig.admin().get(&format!("/keys?limit=1&label={label}")).is(200);
        assert_eq!(next(&page).as_deref(), Some("?after=a&limit=1&label=caf%C3%A9"));
    }
}
