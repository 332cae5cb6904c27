//! What is checked of every request before its contents: route, method, headers, size, JSON.

use std::collections::BTreeSet;

use casemate_server::http::endpoints::table;
use serde_json::json;

use crate::rig::{BASE, Rig, ed25519, passphrase_of, sign_something};

/// Case 30.
#[test]
fn unknown_paths_are_not_found_in_plain_text() {
    let rig = Rig::operational();
    for target in [
        "/api/v1/nonexistent",
        "/api/v1",
        "/api/v1/",
        "/api/v1//users",
        "/api/v1/keys/k/sign/more",
        "/api/v1/info/more",
        "/api/v2/info",
        "/API/v1/info",
        "/favicon.png",
    ] {
        let reply = rig.admin().send_to("GET", target, "").case(30, 404);
        assert_eq!((reply.text(), reply.header("content-type")), ("Not found", None), "{reply}");
    }
    // Also before the state or the method is checked.
    Rig::unprovisioned().anonymous().send("PATCH", "/nonexistent", "").is(404);
}

/// Case 144.
#[test]
fn one_trailing_slash_is_ignored_and_an_empty_segment_is_an_empty_id() {
    let rig = Rig::operational();
    rig.admin().get("/users/").case(144, 200);
    rig.admin().get("/users/operator/").is(200);
    rig.admin().get("/keys/k/").is(200);
    let empty = "ID cannot be shorter than 1 character.";
    rig.admin().get("/users//").case(144, 400).says(empty);
    rig.admin().get("/keys//").is(400).says(empty);
    rig.operator().post("/keys//sign", sign_something()).is(400).says(empty);
    rig.admin().post("/users//passphrase", json!({"passphrase": "0123456789"})).is(400).says(empty);
    rig.admin().get("/keys///").is(404);
}

#[test]
fn paths_are_decoded_as_far_as_they_need_no_encoding() {
    let rig = Rig::operational();
    rig.admin().get("/keys/%6B").is(200);
    rig.admin().get("/%6Beys/k").is(200);
    rig.admin().get("/users/ns1%7Eoperator").is(200);
    rig.admin().get("/keys/k%2A").is(200);
    let charset = "ID may only contain alphanumeric characters, underscores, dashes, and dots.";
    for path in ["/users/%C3%BC", "/keys/%20", "/keys/a%2Fb", "/keys/a%00", "/keys/%zz", "/keys/%"] {
        rig.admin().get(path).is(400).says(charset);
    }
}

/// Cases 26 to 29.
#[test]
fn methods_are_refused_before_credentials() {
    let rig = Rig::operational();
    let refused = |method: &str, path: &str, allow: &[&str]| {
        let reply = rig.anonymous().send(method, path, "").is(405).empty();
        let header = reply.header("allow").expect("an Allow header").to_owned();
        let (have, want): (BTreeSet<_>, BTreeSet<_>) = (header.split(',').collect(), allow.iter().copied().collect());
        assert_eq!(have, want, "{reply}");
        reply
    };
    refused("DELETE", "/keys", &["GET", "POST"]).case(26, 405);
    refused("OPTIONS", "/keys", &["GET", "POST"]).case(27, 405);
    // A literal segment takes precedence: this is not a key.
    refused("GET", "/keys/generate", &["POST"]).case(28, 405);
    refused("HEAD", "/keys", &["GET", "POST"]).case(29, 405);
    refused("GET", "/namespaces/ns1", &["PUT", "DELETE"]);
    refused("GET", "/config/unlock-passphrase", &["PUT"]);
    refused("TRACE", "/info", &["GET", "HEAD"]);
    for method in ["PATCH", "FOO", "get"] {
        rig.anonymous().send(method, "/keys", "").is(501).empty();
    }
    // The state comes before the method.
    let locked = Rig::locked();
    locked.anonymous().send("OPTIONS", "/keys", "").case(27, 412);
    locked.anonymous().send("FOO", "/keys", "").is(412);
}

#[test]
fn head_is_answered_where_the_contract_has_it() {
    let rig = Rig::operational();
    let allowed = ["/info", "/health/state", "/health/ready", "/health/diagnose", "/system/info", "/namespaces"];
    for path in allowed {
        let get = rig.admin().get(path).is(200);
        let head = rig.admin().send("HEAD", path, "").is(200);
        assert_eq!(head.header("content-type"), get.header("content-type"), "{head}");
        assert_eq!(head.header("etag"), get.header("etag"), "{head}");
    }
    rig.user("metrics").send("HEAD", "/metrics", "").is(200);
    rig.admin().send("HEAD", "/health/alive", "").is(412);
    for path in ["/keys", "/keys/k", "/users", "/users/operator", "/keys/k/public.pem", "/config/unattended-boot"] {
        rig.admin().send("HEAD", path, "").is(405);
    }
}

#[test]
fn long_targets_are_refused() {
    let rig = Rig::operational();
    let target = |length: usize| format!("{BASE}/keys?{}", "x".repeat(length - BASE.len() - "/keys?".len()));
    rig.admin().send_to("GET", &target(2000), "").is(200);
    rig.anonymous().send_to("GET", &target(2001), "").is(414).empty();
    // Before the method, after the state.
    rig.anonymous().send_to("DELETE", &target(2001), "").is(414);
    Rig::locked().anonymous().send_to("GET", &target(2001), "").is(412);
}

/// Cases 31, 33, 34.
#[test]
fn accept_is_compared_with_the_type_of_the_route() {
    let rig = Rig::operational();
    let accepting = |media: &str| rig.admin().header("accept", media);
    accepting("application/json").get("/keys/k/public.pem").case(31, 406).empty();
    accepting("application/x-pem-file").get("/keys/k/public.pem").is(200);
    let cert = |media: &str| accepting(media).content_type("application/octet-stream").put("/keys/k/cert", "x");
    cert("application/json").case(33, 406).empty();
    cert("application/octet-stream").is(409);
    accepting("application/json").delete("/keys/k/cert").is(406);
    accepting("text/html").get("/keys/missing").case(34, 406).empty();
    accepting("application/octet-stream, application/json").get("/keys").is(200);
    accepting("*/*").get("/keys").is(200);
    accepting("application/*;q=0.5").get("/keys").is(200);
    accepting("application").get("/keys").is(406);
    // Also where the reply has no body.
    accepting("text/plain").post("/keys/k/move", json!({})).is(406);
    rig.admin().header("accept-encoding", "gzip").get("/keys").is(200);
    rig.admin().header("accept-encoding", "identity;q=0").get("/keys").is(406);
    rig.admin().header("accept-encoding", "*;q=0").get("/keys").is(406);
    rig.admin().header("accept-charset", "nonsense").header("accept-language", "tlh").get("/keys").is(200);
    // The role comes first.
    rig.user("metrics").header("accept", "text/html").get("/keys").is(403);
}

/// Cases 35 to 39.
#[test]
fn the_type_of_a_body_is_checked_where_the_contract_checks_it() {
    let rig = Rig::operational();
    let admin = rig.admin();
    let user = json!({"realName": "", "role": "Operator", "passphrase": "0123456789"});
    admin.clone().untyped().put("/users/u", user.clone()).case(35, 415).empty();
    admin.clone().content_type("text/json").put("/users/u", user.clone()).is(415);
    admin.clone().content_type("Application/JSON; charset=utf-8").put("/users/u", user.clone()).is(201);
    admin.clone().untyped().post("/users", user.clone()).is(415);
    admin.clone().untyped().post("/keys/generate", json!({})).is(415);
    admin.clone().untyped().put("/config/unattended-boot", json!({"status": "off"})).is(415);
    admin.clone().untyped().put("/keys/k/label", json!({"label": "l"})).is(415);

    admin.clone().untyped().put("/namespaces/ns9", "").case(36, 204).empty();
    admin.clone().content_type("application/json").put("/namespaces/ns8", "").is(204);
    admin.clone().content_type("application/octet-stream").put("/namespaces/ns7", "anything").is(204);
    admin.clone().content_type("text/plain").put("/namespaces/ns6", "").is(415);
    let plain = admin.clone().content_type("text/plain");
    plain.put("/users/operator/tags/t", "").case(37, 415).empty();
    plain.put("/keys/k/restrictions/tags/t", "").is(415);

    let cert = |media: &str| admin.clone().content_type(media).put("/keys/k2/cert", "certificate");
    admin.put("/keys/k2", ed25519()).is(204);
    cert("application/octet-stream;x=y").case(38, 415).empty();
    cert("application/x-pem-file").is(415);
    admin.clone().untyped().put("/keys/k2/cert", "certificate").is(415);
    cert("application/octet-stream").is(201);

    plain.post("/keys", ed25519()).case(39, 415).empty();
    plain.put("/keys/k3", ed25519()).is(415);
    admin.clone().untyped().put("/keys/k3", ed25519()).is(415);
    // Early: before the id is checked, and after the role.
    plain.put("/keys/-k", ed25519()).is(415);
    rig.operator().content_type("text/plain").post("/keys", ed25519()).is(403);
    // Late: after the id.
    admin.clone().untyped().put("/users/-u", user).is(400);

    // Other POSTs accept any type.
    for media in ["text/plain", "nonsense", "multipart/form-data"] {
        rig.operator().content_type(media).post("/keys/k/sign", sign_something()).is(200);
        rig.operator().content_type(media).post("/random", json!({"length": 1})).is(200);
    }
    rig.operator().untyped().post("/keys/k/sign", sign_something()).is(200);
}

/// Cases 40, 41.
#[test]
fn large_bodies_are_refused_by_their_length_after_the_credentials() {
    let rig = Rig::operational();
    let path = format!("{BASE}/config/unattended-boot");
    let announce = |client: &crate::rig::Client<'_>, target: &str, length: &str| {
        let mut wire = rig.connect();
        let mut head = client.head("PUT", target, true);
        // A client that waits for `100 Continue` has sent nothing yet.
        head.extend_from_slice(format!("content-length: {length}\r\nexpect: 100-continue\r\n\r\n").as_bytes());
        wire.send(&head);
        wire.reply("PUT")
    };
    let over = (1 << 20) + 1;
    announce(&rig.admin(), &path, &over.to_string()).case(40, 413).empty();
    announce(&rig.anonymous(), &path, &over.to_string()).case(41, 401);
    announce(&rig.operator(), &path, &over.to_string()).is(403);
    let unreadable = announce(&rig.admin(), &path, "18446744073709551616");
    assert!([400, 413].contains(&unreadable.status), "{unreadable}");
}

/// A client that waits for `100 Continue` and is refused does not begin to send, and is told that the connection ends.
#[test]
fn a_refusal_instead_of_continue_says_that_the_connection_ends() {
    let rig = Rig::operational();
    let mut wire = rig.connect();
    let mut head = rig.anonymous().head("POST", &format!("{BASE}/keys/k/sign"), false);
    head.extend_from_slice(b"content-length: 10\r\nexpect: 100-continue\r\n\r\n");
    wire.send(&head);
    let reply = wire.reply("POST").is(401);
    assert_eq!(reply.header("connection"), Some("close"), "{reply}");
}

/// After a refusal before the body was read, the connection is in sync, or the client is told that it ends.
#[test]
fn a_refusal_before_the_body_keeps_the_connection_or_says_that_it_ends() {
    let rig = Rig::operational();
    rig.admin().get("/keys").is(200);
    let (path, missing) = (format!("{BASE}/keys/k/sign"), format!("{BASE}/keys"));
    for (length, kept) in [(10, true), (300 << 10, true), (1 << 20, true), (3 << 20, false)] {
        for (client, method, target, status) in [
            (rig.anonymous(), "POST", &path, 401),
            (rig.admin(), "POST", &path, 403),
            (rig.admin(), "DELETE", &missing, 405),
            (rig.operator().header("accept", "text/html"), "POST", &path, 406),
        ] {
            let mut wire = rig.connect();
            let mut head = client.head(method, target, false);
            head.extend_from_slice(format!("content-length: {length}\r\n\r\n").as_bytes());
            wire.send(&head);
            wire.send(&vec![b' '; length]);
            let reply = wire.reply(method).is(status);
            assert_eq!(reply.header("connection") == Some("close"), !kept, "{length}: {reply}");
            if kept {
                wire.send(&[rig.admin().head("GET", &format!("{BASE}/keys/k"), false), b"\r\n".to_vec()].concat());
                wire.reply("GET").is(200);
            }
        }
    }
}

#[test]
fn chunked_bodies_have_the_same_limit() {
    let rig = Rig::operational();
    let send = |path: &str, chunks: &[&[u8]]| {
        let mut wire = rig.connect();
        let mut request = rig.operator().head("POST", &format!("{BASE}{path}"), true);
        request.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
        for chunk in chunks {
            request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            request.extend_from_slice(chunk);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"0\r\n\r\n");
        wire.send(&request);
        wire.reply("POST")
    };
    send("/random", &[b"{\"len", b"gth\"", b":4}"]).is(200);
    let blank = vec![b' '; 1 << 20];
    send("/random", &[&blank[10..], b"{\"length\":4}"]).is(413).empty();
    // Endpoints with long messages accept more.
    send("/keys/k/sign", &[&blank, &blank, sign_something().to_string().as_bytes()]).is(200);
}

#[test]
fn a_body_of_exactly_the_limit_is_read() {
    let rig = Rig::operational();
    let body = r#"{"length":4}"#;
    let exactly = " ".repeat((1 << 20) - body.len()) + body;
    rig.operator().post("/random", exactly.as_str()).is(200);
    rig.operator().post("/random", format!(" {exactly}").as_str()).is(413);
}

#[test]
fn bodies_of_reading_requests_are_ignored() {
    let rig = Rig::operational();
    for method in ["GET", "DELETE"] {
        let mut request = rig.admin().head(method, &format!("{BASE}/keys/missing"), false);
        request.extend_from_slice(b"content-length: 5\r\n\r\nhello");
        let mut wire = rig.connect();
        wire.send(&request);
        wire.reply(method).is(404);
        // The connection is still in sync.
        wire.send(&[rig.admin().head("GET", &format!("{BASE}/keys/k"), false), b"\r\n".to_vec()].concat());
        wire.reply("GET").is(200);
    }
}

/// The relaxed syntax and the strict schema.
#[test]
fn json_is_parsed_leniently_and_validated_strictly() {
    let rig = Rig::operational();
    let random = |body: &str| rig.operator().post("/random", body);
    for good in [
        r#"{"length":4}"#,
        " \r\n\t{ \"length\" : 4 }\n",
        "{length:4}",
        "{/* how many */ \"length\": 4 // four\n}",
        r#"{"length":0,"length":4}"#,
        r#"{"\u006cength":4}"#,
    ] {
        let reply = random(good).is(200);
        assert_eq!(reply.json()["random"].as_str().unwrap().len(), 8, "four bytes: {reply}");
    }
    let syntax = "Invalid JSON: ";
    let schema = "Invalid data for JSON schema: ";
    for (bad, start) in [
        ("", "Invalid JSON: Blank input data."),
        ("  \n", "Invalid JSON: Blank input data."),
        ("{", syntax),
        ("{\"length\":4}}", syntax),
        ("{\"length\":4} more", syntax),
        ("{\"length\":4,}", syntax),
        ("{'length':4}", syntax),
        ("\u{1}", syntax),
        (r#"{"length":4,"more":1}"#, schema),
        ("{}", schema),
        ("[]", schema),
        ("4", schema),
        ("null", schema),
        (r#"{"length":"4"}"#, schema),
        (r#"{"length":null}"#, schema),
        (r#"{"length":4.0}"#, schema),
        (r#"{"length":true}"#, schema),
        (r#"{"Length":4}"#, schema),
        (r#"{"length":4,"length":0}"#, schema),
    ] {
        let reply = random(bad).is(400);
        assert!(reply.message().starts_with(start), "{start}: {reply}");
    }
    rig.operator().post("/random", b"{\"length\":4,\"\xff\":1}".to_vec()).is(400);
    // Words have only one spelling.
    let user = |role: &str| json!({"realName": "", "role": role, "passphrase": "0123456789"});
    rig.admin().put("/users/u", user("operator")).is(400);
    rig.admin().put("/users/u", user("Operator ")).is(400);
    rig.admin().put("/users/u", json!({"realName": null, "role": "Operator", "passphrase": "0123456789"})).is(400);
}

#[test]
fn error_bodies_do_not_repeat_what_was_sent() {
    let rig = Rig::operational();
    let secret = "hunter2-hunter2";
    for body in [
        json!({"realName": "", "role": secret, "passphrase": secret}),
        json!({"realName": "", "role": "Operator", "passphrase": [secret]}),
        json!({"realName": "", "role": "Operator", "passphrase": "0123456789", secret: 1}),
        json!(secret),
    ] {
        let reply = rig.admin().put("/users/u", body).is(400);
        assert!(!reply.text().contains("hunter2"), "{reply}");
    }
    let reply = rig.admin().put("/users/u", "{\"passphrase\":\"hunter2-hunter2\"").is(400);
    assert!(!reply.text().contains("hunter2"), "{reply}");
}

/// Case 145.
#[test]
fn conditions_are_evaluated_against_the_etag() {
    let rig = Rig::operational();
    let admin = || rig.admin();
    let etag_of = |path: &str| admin().get(path).is(200).header("etag").expect("an ETag").to_owned();
    for path in [
        "/info",
        "/system/info",
        "/users/operator",
        "/keys/k",
        "/keys/k/public.pem",
        "/keys/k/cert",
        "/config/unattended-boot",
    ] {
        let etag = etag_of(path);
        assert!(etag.len() > 2 && etag.starts_with('"') && etag.ends_with('"'), "{path}: {etag}");
        assert_eq!(etag_of(path), etag, "{path}");
        admin().header("if-none-match", &etag).get(path).case(145, 304).empty();
        admin().header("if-none-match", "*").get(path).is(304);
        admin().header("if-none-match", &format!("\"other\", {etag}")).get(path).is(304);
        admin().header("if-none-match", "\"other\"").get(path).is(200);
        admin().header("if-match", &etag).get(path).is(200);
        admin().header("if-match", "*").get(path).is(200);
        admin().header("if-match", "\"other\"").get(path).is(412).empty();
        admin().header("if-modified-since", "Sat, 01 Jan 2000 00:00:00 GMT").get(path).is(304);
        admin().header("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT").get(path).is(200);
        admin().header("if-modified-since", "yesterday").get(path).is(200);
    }
    for path in ["/keys", "/users", "/namespaces", "/users/operator/tags"] {
        assert_eq!(admin().get(path).is(200).header("etag"), None, "{path}");
        admin().header("if-match", "\"x\"").get(path).is(412);
    }
    admin().header("if-match", "*").get("/keys/missing").is(412);
    admin().header("if-match", "\"x\"").get("/keys/missing").is(412);
    admin().header("if-none-match", "*").get("/keys/missing").is(404);
}

#[test]
fn a_conditional_change_requires_the_version_the_client_has_seen() {
    let rig = Rig::operational();
    let admin = || rig.admin();
    admin().put("/keys/c", ed25519()).is(204);
    let etag = || admin().get("/keys/c").is(200).header("etag").unwrap().to_owned();
    let seen = etag();
    admin().put("/keys/c/label", json!({"label": "changed"})).is(204);
    assert_ne!(etag(), seen);
    admin().header("if-match", &seen).delete("/keys/c").is(412).empty();
    admin().header("if-none-match", "*").delete("/keys/c").is(412);
    admin().header("if-none-match", "*").put("/keys/c", ed25519()).is(412);
    admin().header("if-match", "*").put("/keys/new", ed25519()).is(412);
    admin().get("/keys/new").is(404);
    admin().header("if-none-match", "*").put("/keys/new", ed25519()).is(204);
    // A date is not a condition for a change.
    admin().header("if-modified-since", "Sat, 01 Jan 2000 00:00:00 GMT").delete("/keys/new").is(204);
    let seen = etag();
    admin().header("if-match", &seen).delete("/keys/c").is(204);
    admin().get("/keys/c").is(404);
}

/// Every reply of a routed request: types without parameters, what may be cached, what it varies by, and when.
#[test]
fn replies_carry_the_headers_of_the_contract() {
    const NEVER_CACHED: &[&str] = &[
        "GET /audit",
        "GET /health/alive",
        "GET /health/ready",
        "GET /health/state",
        "GET /health/diagnose",
        "GET /metrics",
        "GET /metrics/prometheus",
        "POST /cluster/force-new",
        "POST /cluster/join",
        "POST /cluster/members",
        "POST /cluster/members/{member}/promote",
        "PUT /cluster/members/{member}",
        "POST /provision",
        "POST /unlock",
        "POST /lock",
        "POST /random",
        "PUT /config/unlock-passphrase",
        "POST /config/tls/csr.pem",
        "POST /config/tls/generate",
        "GET /config/time",
        "PUT /config/time",
        "POST /users/{user}/passphrase",
        "GET /users/{user}/tags",
        "PUT /users/{user}/tags/{tag}",
        "DELETE /users/{user}/tags/{tag}",
        "POST /keys/generate",
        "POST /keys/{key}/csr.pem",
        "POST /keys/{key}/decrypt",
        "POST /keys/{key}/encrypt",
        "POST /keys/{key}/sign",
        "POST /keys/{key}/move",
        "PUT /keys/{key}/label",
        "DELETE /keys/{key}/label",
        "PUT /keys/{key}/restrictions/tags/{tag}",
        "DELETE /keys/{key}/restrictions/tags/{tag}",
        "POST /system/reboot",
        "POST /system/shutdown",
        "POST /system/factory-reset",
        "POST /system/update",
        "POST /system/backup",
        "POST /system/restore",
        "PUT /config/backup-passphrase",
        "POST /system/commit-update",
        "POST /system/cancel-update",
        "GET /namespaces/{namespace}/quota",
        "PUT /namespaces/{namespace}/quota",
        "GET /config/without-majority",
        "PUT /config/without-majority",
    ];
    let marked: Vec<_> = table()
        .iter()
        .filter(|row| row.spec.no_cache)
        .map(|row| format!("{} {}", row.spec.method, row.spec.path))
        .collect();
    let (marked, wanted): (BTreeSet<_>, BTreeSet<_>) =
        (marked.into_iter().collect(), NEVER_CACHED.iter().map(|row| (*row).to_owned()).collect());
    assert_eq!(marked, wanted);

    let rig = Rig::operational();
    let (json, pem, octets) = ("application/json", "application/x-pem-file", "application/octet-stream");
    let new_user = json!({"realName": "", "role": "Operator", "passphrase": passphrase_of("u")});
    for (reply, status, media, cached) in [
        (rig.anonymous().get("/health/state"), 200, json, false),
        (rig.admin().get("/keys/k"), 200, json, true),
        (rig.admin().get("/keys/k/public.pem"), 200, pem, true),
        (rig.admin().get("/keys/k/cert"), 200, octets, true),
        (rig.operator().post("/keys/k/sign", sign_something()), 200, json, false),
        (rig.operator().post("/keys/k/csr.pem", json!({"commonName": "c"})), 200, pem, false),
        (rig.admin().put("/keys/h", ed25519()), 204, json, true),
        (rig.admin().content_type(octets).put("/keys/h/cert", "c"), 201, octets, true),
        (rig.admin().content_type(octets).put("/keys/h/cert", "c"), 409, json, true),
        (rig.admin().put("/users/u", new_user), 201, json, true),
        (rig.admin().put("/users/u/tags/t", ""), 204, json, false),
        (rig.admin().put("/users/u/tags/t", ""), 304, json, false),
        (rig.admin().get("/keys/missing"), 404, json, true),
        (rig.admin().get("/keys/missing/public.pem"), 404, pem, true),
        (rig.admin().delete("/users/u/tags/absent"), 404, json, false),
    ] {
        assert_eq!(reply.status, status, "{reply}");
        assert_eq!(reply.header("content-type"), Some(media), "{reply}");
        assert_eq!(reply.header("cache-control"), (!cached).then_some("no-cache"), "{reply}");
        let vary = "Accept, Accept-Encoding, Accept-Charset, Accept-Language";
        assert_eq!(reply.header("vary"), Some(vary), "{reply}");
        assert_eq!(reply.header("date"), Some("Wed, 02 Jan 2030 03:04:05 GMT"), "{reply}");
        assert_eq!((reply.header("server"), reply.header("access-control-allow-origin")), (None, None), "{reply}");
    }
    // Refusals of the gate have no Content-Type.
    for (reply, status) in [
        (rig.anonymous().get("/keys"), 401),
        (rig.operator().get("/users"), 403),
        (rig.admin().delete("/keys"), 405),
        (rig.admin().header("accept", "text/html").get("/keys"), 406),
        (rig.admin().content_type("text/html").post("/keys", "x"), 415),
    ] {
        assert_eq!((reply.status, reply.header("content-type")), (status, None), "{reply}");
        assert!(reply.body.is_empty() && reply.header("date").is_some() && reply.header("vary").is_some(), "{reply}");
    }
}

#[test]
fn the_pages_beside_the_api_need_no_credentials() {
    let rig = Rig::unprovisioned();
    for target in ["/", "/index.html"] {
        let page = rig.anonymous().send_to("GET", target, "").is(200);
        assert!(page.header("content-type").unwrap().starts_with("text/html"), "{page}");
    }
    rig.anonymous().send_to("GET", "/livez", "").is(200);
    rig.anonymous().send_to("GET", "/readyz", "").is(503);
    Rig::operational().anonymous().send_to("GET", "/readyz", "").is(200);
}
