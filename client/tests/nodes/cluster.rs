//! The calls of `/cluster`: what is asked, and what becomes of each answer. Against a mock, because a test of a client need not
//! have a cluster.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use casemate_api::body::cluster::{ClusterMember, Join};
use casemate_api::{Passphrase, UserId};
use casemate_client::{Client, Error, Session, Settings, Trust};
use casemate_testkit::{BACKUP, MockServer, Reaction, reply, secret};

/// A mock that gives one answer to everything, and what it was asked: method, path and body.
struct Mock {
    server: MockServer,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Mock {
    fn answering(status: u16, body: &'static str) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&asked);
        let server = MockServer::start_reading(move |request, body_of_request| {
            let line = request.split(" HTTP/").next().unwrap().replacen("/api/v1", "", 1);
            told.lock().unwrap().push(format!("{line} {}", String::from_utf8_lossy(body_of_request)));
            match status {
                204 => Reaction::Send(b"HTTP/1.1 204 X\r\n\r\n".to_vec()),
                status => reply(status, body),
            }
        });
        Self { server, asked }
    }

    fn session(&self) -> Session {
        let settings = Settings { trust: Trust::Anyone, ..Settings::of([self.server.address.clone()]) };
        let passphrase = Passphrase::from_text("admin passphrase".into());
        Client::new(settings).unwrap().log_in(&UserId::parse("admin").unwrap(), passphrase)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

const URL: &str = "https://192.0.2.8:2380";

fn urls() -> Vec<String> {
    vec![URL.to_owned()]
}

#[test]
fn members_are_listed() {
    let mock = Mock::answering(
        200,
        r#"[{"id":"a1","name":"one","urls":["https://192.0.2.7:2380"],"learner":false},{"id":"b2","name":"","urls":[],"learner":true}]"#,
    );
    let one = ClusterMember {
        id: "a1".into(),
        name: "one".into(),
        urls: vec!["https://192.0.2.7:2380".into()],
        learner: false,
    };
    let two = ClusterMember { id: "b2".into(), name: String::new(), urls: Vec::new(), learner: true };
    assert_eq!(mock.session().cluster().members().unwrap(), [one, two]);
    assert_eq!(mock.asked(), ["GET /cluster/members "]);
}

#[test]
fn a_declaration_returns_what_the_new_member_needs() {
    let mock =
        Mock::answering(201, r#"{"members":[{"id":"b2","name":"","urls":[],"learner":true}],"joinerKit":"S0lU"}"#);
    let invitation = mock.session().cluster().add(urls()).unwrap();
    assert_eq!((invitation.members[0].id.as_str(), invitation.joiner_kit.expose()), ("b2", "S0lU"));
    mock.session().cluster().add_serving(urls()).unwrap();
    let body = format!(r#""urls":["{URL}"]"#);
    let expected =
        [format!("POST /cluster/members {{{body}}}"), format!("POST /cluster/members {{{body},\"serving\":true}}")];
    assert_eq!(mock.asked(), expected);
}

#[test]
fn changes_of_members_name_the_member_in_the_path() {
    let mock = Mock::answering(204, "");
    let session = mock.session();
    session.cluster().set_urls("b2", urls()).unwrap();
    session.cluster().promote("b2").unwrap();
    session.cluster().remove("b2").unwrap();
    // Whatever somebody calls a member, it is one segment of the path.
    session.cluster().remove("../keys/k").unwrap();
    session.cluster().dissolve().unwrap();
    let expected = [
        format!(r#"PUT /cluster/members/b2 {{"urls":["{URL}"]}}"#),
        "POST /cluster/members/b2/promote ".into(),
        "DELETE /cluster/members/b2 ".into(),
        "DELETE /cluster/members/..%2Fkeys%2Fk ".into(),
        "DELETE /cluster ".into(),
    ];
    assert_eq!(mock.asked(), expected);
}

#[test]
fn a_join_carries_the_invitation() {
    let mock = Mock::answering(204, "");
    let kit = serde_json::from_str(r#""S0lU""#).unwrap();
    let join = Join { members: Vec::new(), joiner_kit: kit, backup_passphrase: secret(BACKUP), system_time: None };
    mock.session().cluster().join(&join, Duration::from_secs(60)).unwrap();
    let body = format!(r#"{{"members":[],"joinerKit":"S0lU","backupPassphrase":"{BACKUP}"}}"#);
    assert_eq!(mock.asked(), [format!("POST /cluster/join {body}")]);
}

#[test]
fn refusals_are_told_apart() {
    let in_sync = r#"{"message":"can only promote a learner member which is in sync with leader"}"#;
    let promote = |status, body| Mock::answering(status, body).session().cluster().promote("b2").unwrap_err();
    assert!(matches!(promote(412, in_sync), Error::Refused { status: 412, .. }));
    assert!(matches!(promote(412, r#"{"message":"Service not available"}"#), Error::WrongState { .. }));
    assert!(matches!(promote(404, ""), Error::NotFound { .. }));
    let learners = Mock::answering(409, r#"{"message":"cluster has learners: b2"}"#);
    assert!(matches!(learners.session().cluster().add(urls()), Err(Error::Refused { status: 409, .. })));
    let wrong = Mock::answering(401, "");
    assert!(matches!(wrong.session().cluster().force_new(), Err(Error::Unauthenticated { .. })));
    assert_eq!(wrong.asked(), ["POST /cluster/force-new "]);
}

#[test]
fn a_change_whose_answer_is_lost_is_not_repeated() {
    let server = MockServer::start(|_| Reaction::SendAndClose(Vec::new()));
    let settings = Settings { trust: Trust::Anyone, ..Settings::of([server.address.clone()]) };
    let session = Client::new(settings).unwrap().log_in(&UserId::parse("admin").unwrap(), secret(BACKUP));
    assert!(matches!(session.cluster().add(urls()), Err(Error::Unknown { .. })));
    assert_eq!(server.requests(), 1);
}
